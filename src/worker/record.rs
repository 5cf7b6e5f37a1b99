//! What is known of a worker, and which workers there are.

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::BTreeMap,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

use crate::{
    backend::Backend,
    engine::Runner,
    error::TaskError,
    latch::Latch,
    stats::{Moment, Tally, WorkerStats},
    trace,
};

/// Idents of thread workers start above every process id, so that no two workers share one.
const FIRST_THREAD_IDENT: u64 = 1 << 32;

/// One worker: its name and its state, as every handle to it sees them.
pub(crate) struct Record {
    id: u64,
    role: Role,
    backend: OnceLock<Backend>,
    /// Empty where nobody gave a name.
    name: Mutex<String>,
    daemon: AtomicBool,
    ident: OnceLock<u64>,
    /// Its number within its crew.
    rank: OnceLock<usize>,
    /// The thread or process, once it was started.
    runner: OnceLock<Weak<dyn Runner>>,
    /// It has ended, and is not to be listed any more; changes under the registry's lock.
    unlisted: AtomicBool,
    /// The worker's end, and for a process how it came.
    pub(crate) ended: Latch<Result<(), TaskError>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The thread or process that was there before any worker.
    Main,
    /// A thread that this crate did not start.
    Foreign,
    /// A [`Worker`](crate::Worker).
    Solo,
    /// A worker of the executor with this number.
    Crew(u64),
}

/// Increasing numbers, each handed out once.
fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    // Relaxed: only distinctness counts, nothing is published with the number.
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Record {
    /// A worker that has no name of its own and no backend yet.
    pub(crate) fn new(role: Role, daemon: bool) -> Arc<Record> {
        Arc::new(Record {
            id: next_id(),
            role,
            backend: OnceLock::new(),
            name: Mutex::new(String::new()),
            daemon: AtomicBool::new(daemon),
            ident: OnceLock::new(),
            rank: OnceLock::new(),
            runner: OnceLock::new(),
            unlisted: AtomicBool::new(false),
            ended: Latch::new(),
        })
    }

    /// The worker that this process itself is.
    pub(crate) fn of_process(name: String, daemon: bool) -> Arc<Record> {
        let record = Record::new(Role::Main, daemon);
        record.set_name(name);
        let _ = record.ident.set(u64::from(std::process::id()));
        record
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// What the worker is, with what it has done and is doing.
    pub(crate) fn stats(
        &self,
        tally: &Tally,
        task: Option<&'static str>,
        since: Option<Moment>,
    ) -> WorkerStats {
        WorkerStats {
            name: self.name(),
            ident: self.ident(),
            rank: self.rank(),
            running_for: since.filter(|_| task.is_some()).map(Moment::elapsed),
            task,
            completed: tally.completed(),
            failed: tally.failed(),
        }
    }

    pub(crate) fn role(&self) -> Role {
        self.role
    }

    /// The backend that was chosen for the worker, if any was.
    pub(crate) fn backend(&self) -> Option<Backend> {
        self.backend.get().copied()
    }

    /// Chooses the backend, unless that was done before.
    pub(crate) fn set_backend(&self, backend: Backend) {
        let _ = self.backend.set(backend);
    }

    pub(crate) fn name(&self) -> String {
        let name = self.name.lock().clone();
        if !name.is_empty() {
            return name;
        }
        let backend = self.backend().unwrap_or_else(Backend::of_thread);
        match (self.role, backend) {
            (Role::Main, Backend::Threading) => "MainThread".into(),
            (Role::Main, Backend::Multiprocessing) => "MainProcess".into(),
            (Role::Foreign, _) => format!("Dummy-{}", self.id),
            (_, Backend::Threading) => format!("Thread-{}", self.id),
            (_, Backend::Multiprocessing) => match PROCESS_WORKER.get() {
                // Unique in the whole tree of processes.
                Some(parent) => format!("{}:{}", parent.name(), self.id),
                None => format!("Process-{}", self.id),
            },
        }
    }

    /// Names the worker; an empty name means its default one.
    pub(crate) fn set_name(&self, name: String) {
        *self.name.lock() = name;
    }

    // The flag is read on its own and orders nothing else: Relaxed.
    pub(crate) fn daemon(&self) -> bool {
        self.daemon.load(Ordering::Relaxed)
    }

    pub(crate) fn set_daemon(&self, daemon: bool) {
        self.daemon.store(daemon, Ordering::Relaxed);
    }

    pub(crate) fn rank(&self) -> Option<usize> {
        self.rank.get().copied()
    }

    pub(crate) fn set_rank(&self, rank: usize) {
        let _ = self.rank.set(rank);
    }

    pub(crate) fn ident(&self) -> Option<u64> {
        self.ident.get().copied()
    }

    /// The worker runs (`pid` is that of a process worker): list it, unless it has ended already.
    ///
    /// Both a thread and who has started it say so, since neither can wait for the other.
    pub(crate) fn begin(self: &Arc<Self>, pid: Option<u32>, runner: Arc<dyn Runner>) {
        let _ = self.runner.set(Arc::downgrade(&runner));
        let ident = pid.map_or(FIRST_THREAD_IDENT + self.id, u64::from);
        if self.ident.set(ident).is_ok() {
            trace::worker_started(&self.name(), pid);
        }
        let mut registry = REGISTRY.lock();
        if !self.unlisted.load(Ordering::Relaxed) {
            registry.insert(self.id, Arc::clone(self));
        }
    }

    /// The worker is gone, killed `on_purpose` or not: stop listing it, then let go those who wait for that.
    pub(crate) fn end(&self, how: Result<(), TaskError>, on_purpose: bool) {
        {
            let mut registry = REGISTRY.lock();
            // Relaxed: the lock orders it.
            self.unlisted.store(true, Ordering::Relaxed);
            registry.remove(&self.id);
        }
        trace::worker_ended(&self.name(), &how, on_purpose);
        self.ended.set(how);
    }

    /// Ends the worker at once; `false` if this kind of worker cannot be.
    pub(crate) fn kill(&self) -> bool {
        match self.runner.get().map(Weak::upgrade) {
            Some(Some(runner)) => runner.kill(),
            // It has ended, or it is about to, so that nothing holds it any more.
            Some(None) => true,
            None => false,
        }
    }

    pub(crate) fn is_alive(&self) -> bool {
        match self.role {
            Role::Main | Role::Foreign => true,
            Role::Solo | Role::Crew(_) => self.ident.get().is_some() && self.ended.get().is_none(),
        }
    }
}

/// The workers of this process that run now, in the order of their start.
static REGISTRY: Mutex<BTreeMap<u64, Arc<Record>>> = Mutex::new(BTreeMap::new());

/// What a process worker is, in that process.
static PROCESS_WORKER: OnceLock<Arc<Record>> = OnceLock::new();

thread_local! {
    static CURRENT: RefCell<Option<Arc<Record>>> = const { RefCell::new(None) };
    /// What is needed of it at the end of the program, when thread-locals with a destructor are gone.
    static CURRENT_ROLE: Cell<Option<(u64, Role)>> = const { Cell::new(None) };
    static FOREIGN: OnceCell<Arc<Record>> = const { OnceCell::new() };
}

/// The workers of this process other than the main one.
pub(crate) fn registered() -> Vec<Arc<Record>> {
    REGISTRY.lock().values().cloned().collect()
}

/// The calling thread is this worker, from now on.
pub(crate) fn set_current(record: Arc<Record>) {
    CURRENT_ROLE.set(Some((record.id, record.role)));
    CURRENT.set(Some(record));
}

/// Until it is dropped, the calling thread is one of the workers of the executor with this number, as far as it must
/// not wait for itself.
pub(crate) struct OnBehalfOf {
    before: Option<(u64, Role)>,
}

impl OnBehalfOf {
    pub(crate) fn crew(number: u64) -> Self {
        OnBehalfOf {
            before: CURRENT_ROLE.replace(Some((0, Role::Crew(number)))),
        }
    }
}

impl Drop for OnBehalfOf {
    fn drop(&mut self) {
        CURRENT_ROLE.set(self.before);
    }
}

/// This process is this worker.
pub(crate) fn set_process_worker(record: Arc<Record>) {
    set_current(Arc::clone(&record));
    let _ = PROCESS_WORKER.set(record);
}

/// The name of the process worker that this process is, if it is one and not just starting.
pub(crate) fn process_worker_name() -> Option<String> {
    PROCESS_WORKER.get().map(|record| record.name())
}

/// The worker that was there before any other: this process itself.
pub(crate) fn main_record() -> Arc<Record> {
    static MAIN: OnceLock<Arc<Record>> = OnceLock::new();
    let main = PROCESS_WORKER
        .get()
        .unwrap_or_else(|| MAIN.get_or_init(|| Record::of_process(String::new(), false)));
    Arc::clone(main)
}

/// The id and the role of the worker that the calling thread is, or on whose behalf it calls; `None` for a thread that
/// is none.
pub(crate) fn worker_here() -> Option<(u64, Role)> {
    CURRENT_ROLE.get()
}

/// The id and the role of the worker that the caller runs in, at any time.
pub(crate) fn current_role() -> (u64, Role) {
    worker_here().unwrap_or_else(|| {
        let current = current();
        (current.id, current.role)
    })
}

/// The worker that the caller runs in.
pub(crate) fn current() -> Arc<Record> {
    // Thread-locals are gone while a thread, or the program, ends.
    if let Ok(Some(record)) = CURRENT.try_with(|current| current.borrow().clone()) {
        return record;
    }
    let is_main = rustix::thread::gettid() == rustix::process::getpid();
    if is_main || Backend::of_thread() == Backend::Multiprocessing {
        return main_record();
    }
    FOREIGN
        .try_with(|foreign| Arc::clone(foreign.get_or_init(foreign_record)))
        .unwrap_or_else(|_| foreign_record())
}

/// A record for a thread that this crate did not start; it is listed nowhere.
fn foreign_record() -> Arc<Record> {
    let record = Record::new(Role::Foreign, true);
    record.set_name(std::thread::current().name().unwrap_or_default().into());
    let _ = record.ident.set(FIRST_THREAD_IDENT + record.id);
    record
}
