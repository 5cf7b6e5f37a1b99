//! The end of the program: what is to be completed is waited for, the rest is stopped.
//!
//! To be completed are the tasks and the workers that there are when the end begins, and what these themselves begin
//! until they are done. What other threads begin is refused from then on: they go on until the process is gone, and
//! with work of theirs that had to be waited for it might never be. It makes no difference whether they use an
//! executor that they had before or make one for it.
#![allow(unsafe_code)]

use std::{
    collections::BTreeMap,
    io::{self, Write},
    sync::{
        Arc, Once, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use rustix::thread::{Pid, gettid};

use crate::{
    engine::{Scheduler, reactor, scheduler::Queued},
    error::Error,
    fork, unwind,
    worker::record::{self, Role},
};

/// All schedulers that have not finished.
static WATCHED: Mutex<BTreeMap<u64, Weak<Scheduler>>> = Mutex::new(BTreeMap::new());

/// The thread that ends the program, once it does. Changes with the lock of [`WATCHED`] held.
static ENDS: OnceLock<Pid> = OnceLock::new();

/// Whether this process is itself a worker.
static IS_WORKER: AtomicBool = AtomicBool::new(false);

/// Whether there was a worker that is a thread.
static HAD_THREADS: AtomicBool = AtomicBool::new(false);

/// The program's end looks after this scheduler; `false` if it has begun and would not: the scheduler is to do nothing.
#[must_use]
pub(crate) fn watch(id: u64, scheduler: &Arc<Scheduler>) -> bool {
    register();
    fork::watch();
    // Relaxed: who has started a worker returns from `main` afterwards.
    HAD_THREADS.fetch_or(scheduler.carriage().is_none(), Ordering::Relaxed);
    let mut watched = WATCHED.lock();
    let is_in_time = match ENDS.get() {
        None => true,
        // This thread has exit hooks to run, and comes to their end.
        Some(_) if is_end_here() => !is_worker(),
        Some(_) => MutexGuard::unlocked(&mut watched, || {
            // Who is being completed is so until this returns.
            look(|all| is_being_completed(scheduler.maker, all))
        }),
    };
    if is_in_time {
        watched.insert(id, Arc::downgrade(scheduler));
    }
    is_in_time
}

/// This process is a worker. At its exit it also does what the program has registered before `init`, but not before
/// what is registered here.
pub(crate) fn begin_worker() {
    // Relaxed: the process has just begun.
    IS_WORKER.store(true, Ordering::Relaxed);
    register();
}

fn is_worker() -> bool {
    IS_WORKER.load(Ordering::Relaxed)
}

/// An error in the exit hooks of a worker process: a worker process that one of them starts would come to the same
/// hook, and so on without end.
pub(crate) fn check() -> Result<(), Error> {
    match is_worker() && is_end_here() {
        false => Ok(()),
        true => Err(Error::Unsupported(
            "a worker process that is ending starts no worker processes; an exit hook that does must be registered \
             behind `freethreading::init();`, which is where only the program itself comes"
                .into(),
        )),
    }
}

/// Whether the calling thread is the one that ends the program, and does so.
fn is_end_here() -> bool {
    ENDS.get().is_some_and(|ends| *ends == gettid())
}

fn register() {
    static REGISTER: Once = Once::new();
    REGISTER.call_once(|| {
        // SAFETY: the function has the required signature and does not unwind. It is part of this
        // image, which is not unloaded: threads that run its code are never all gone.
        unsafe { libc::atexit(at_exit) };
    });
}

/// The scheduler has finished.
pub(crate) fn unwatch(id: u64) {
    WATCHED.lock().remove(&id);
}

extern "C" fn at_exit() {
    // The workers are those of another process.
    if !fork::is_forked() {
        unwind::contain(end_workers);
    }
}

fn end_workers() {
    {
        let _watched = WATCHED.lock();
        let _ = ENDS.set(gettid());
    }
    if reactor::is_served_here() {
        // A waker ends the program. Only this thread can tell that workers have ended, so they end with the program.
        return;
    }
    // A thread that ends the program from within a task would wait for itself.
    let (_, role) = record::current_role();
    if matches!(role, Role::Main | Role::Foreign) {
        wait_for_workers();
        if HAD_THREADS.load(Ordering::Relaxed) {
            flush_stdout();
        }
    }
    // Threads end with the program. Processes would, too, but nobody would wait for them.
    let killed = watched(|scheduler| scheduler.carriage().is_some());
    for scheduler in &killed {
        scheduler.close(Queued::IsAllCancelled);
        scheduler.kill();
    }
    for scheduler in killed {
        // Their callbacks are not waited for.
        scheduler.vacated.wait(None);
    }
}

/// Waits for what is to be completed. What workers have made for themselves is open as long as they may need it.
fn wait_for_workers() {
    loop {
        let waited_for = look(|all| {
            let is_next = |scheduler: &&Arc<Scheduler>| {
                scheduler.outlasts_main() && !is_being_completed(scheduler.maker, all)
            };
            // There is one if there is any to wait for: the oldest, since its maker's would be older still.
            all.iter().filter(is_next).cloned().collect::<Vec<_>>()
        });
        if waited_for.is_empty() {
            break;
        }
        for scheduler in &waited_for {
            scheduler.close(Queued::Runs);
        }
        for scheduler in waited_for {
            scheduler.released.wait(None);
        }
    }
}

/// Whether this is a worker that the program's end waits for, or one of a pool or a daemon that such a worker has made,
/// and may wait for itself.
fn is_being_completed(worker: Option<(u64, Role)>, all: &[Arc<Scheduler>]) -> bool {
    worker.is_some_and(|worker| {
        let mut employers = all.iter().filter(|scheduler| scheduler.employs(worker));
        employers
            .any(|employer| employer.outlasts_main() || is_being_completed(employer.maker, all))
    })
}

/// Writes out what threads have printed. std does that when `main` has returned, unless one of them is printing just
/// then.
fn flush_stdout() {
    /// How long to wait for it: a thread that ends with the program may have locked it, and keep it.
    const PATIENCE: Duration = Duration::from_millis(200);

    let (sender, is_flushed) = mpsc::channel();
    let flush = move || {
        let _ = io::stdout().flush();
        let _ = sender.send(());
    };
    if thread::Builder::new().spawn(flush).is_ok() {
        let _ = is_flushed.recv_timeout(PATIENCE);
    }
}

/// The schedulers that have not finished and for which `which` holds.
pub(crate) fn watched(which: impl Fn(&Scheduler) -> bool) -> Vec<Arc<Scheduler>> {
    let all: Vec<_> = WATCHED.lock().values().filter_map(Weak::upgrade).collect();
    all.into_iter()
        .filter(|scheduler| which(scheduler))
        .collect()
}

/// Looks at all that have not finished, while none is made: a worker whose scheduler has finished by now has made no
/// others but these.
fn look<T>(at: impl FnOnce(&[Arc<Scheduler>]) -> T) -> T {
    let watched = WATCHED.lock();
    let all: Vec<_> = watched.values().filter_map(Weak::upgrade).collect();
    let seen = at(&all);
    // First: to drop the last of a scheduler is to drop what is a user's.
    drop(watched);
    seen
}
