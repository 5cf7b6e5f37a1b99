//! What the tests share. Not every test crate uses all of it.
#![allow(dead_code, unused_imports, unused_macros)]

pub mod examples;
pub mod ways;

use std::{
    fs,
    sync::{
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use freethreading::{Error, Portable, TaskError, TaskFuture, WorkerDied};

/// Runs a body that could hang. If it takes longer than a minute the whole test program is ended,
/// since a hanging test cannot be.
pub fn watched<T>(body: impl FnOnce() -> T) -> T {
    let (done, is_done) = mpsc::channel::<()>();
    let name = thread::current().name().unwrap_or("?").to_owned();
    let watchdog = thread::spawn(move || {
        let limit = Duration::from_secs(60);
        if is_done.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!("watchdog: test '{name}' hangs");
            std::process::abort();
        }
    });
    let _release = ReleaseOnFailure;
    let result = body();
    drop(done);
    watchdog.join().expect("the watchdog does not panic");
    result
}

/// A test that failed may leave tasks behind that wait for ever. The program is then not to wait for
/// them at its end.
struct ReleaseOnFailure;

impl Drop for ReleaseOnFailure {
    fn drop(&mut self) {
        extern "C" fn end() {
            // SAFETY: the call takes no pointers.
            unsafe { libc::_exit(101) };
        }
        if thread::panicking() {
            // SAFETY: the function unwinds in no case. It is called before what was registered before.
            unsafe { libc::atexit(end) };
        }
    }
}

/// Whether workers are processes, where nobody says.
pub fn on_processes() -> bool {
    freethreading::get_backend().unwrap() == freethreading::Backend::Multiprocessing
}

/// An executor of so many worker processes.
pub fn processes(max_workers: usize) -> freethreading::WorkerPoolExecutor {
    freethreading::WorkerPoolExecutor::builder()
        .max_workers(max_workers)
        .backend(freethreading::Backend::Multiprocessing)
        .build()
        .unwrap()
}

/// Tells the workers of one executor or pool from those of all others.
pub fn unique_prefix() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("unique-{}-", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The idents of the workers that run whose names begin so.
pub fn workers_of(prefix: &str) -> Vec<u64> {
    let workers = freethreading::active_children().into_iter();
    let ours = workers.filter(|worker| worker.name().starts_with(prefix));
    ours.map(|worker| worker.ident().unwrap()).collect()
}

/// Kills worker processes whose names begin so, until it is over. So many tasks complete in between: a worker now and
/// then has to be of some use, or all are given up.
pub fn kill_at_random(prefix: &str, completed: &AtomicUsize, between: usize, over: &AtomicBool) {
    let mut random = Random::new();
    while !over.load(Ordering::SeqCst) {
        let before = completed.load(Ordering::SeqCst);
        while completed.load(Ordering::SeqCst) < before + between && !over.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        let pids = workers_of(prefix);
        if !pids.is_empty() {
            kill_child(pids[random.below(pids.len())] as u32);
        }
    }
}

/// How a task's worker died.
#[track_caller]
pub fn death<R>(result: Result<R, impl Into<Error>>) -> WorkerDied {
    match result.map_err(Into::into) {
        Ok(_) => panic!("the worker did not die"),
        Err(Error::Task(TaskError::WorkerDied(died))) => died,
        Err(error) => panic!("{error}"),
    }
}

/// Has the task's result told, whoever has its future.
pub fn told<R: Portable>(future: &TaskFuture<R>) -> mpsc::Receiver<Result<R, TaskError>> {
    let (sender, receiver) = mpsc::channel();
    future.add_done_callback(move |future| {
        let _ = sender.send(future.result());
    });
    receiver
}

/// Whoever starts the tests may ignore interrupts, as a shell does for what runs in the background, and then so do
/// the programs that are started here.
pub fn heed_interrupts() {
    // SAFETY: the default action runs no code of this program's.
    unsafe { libc::signal(libc::SIGINT, libc::SIG_DFL) };
}

/// Waits until the condition holds, for what no handle tells: files, processes, other programs. The
/// watchdog ends a wait in vain.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        thread::sleep(Duration::from_millis(1));
        assert!(start.elapsed() < Duration::from_secs(50), "never: {what}");
    }
}

/// How long a wait that is timed below may take; ten times as long is too long even on a busy machine.
const LIMIT: Duration = Duration::from_millis(200);

/// What takes too long, on a machine that stood still meanwhile, does not do so so many times in a row.
pub const ATTEMPTS: usize = 5;

/// Has somebody wait in vain for a while, which must take that long, and no longer.
#[track_caller]
pub fn takes_its_time<T>(mut wait: impl FnMut(Duration) -> T) -> T {
    let mut elapsed = [Duration::ZERO; ATTEMPTS];
    for elapsed in &mut elapsed {
        let start = Instant::now();
        let outcome = wait(LIMIT);
        *elapsed = start.elapsed();
        assert!(LIMIT <= *elapsed, "{elapsed:?}");
        if *elapsed < 10 * LIMIT {
            return outcome;
        }
    }
    panic!("too long: {elapsed:?}");
}

/// The threads of this process.
pub fn threads() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}

/// The open descriptors of this process, without the one that counts them.
pub fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count() - 1
}

/// The processes whose parent this one is, zombies included.
pub fn children() -> Vec<u32> {
    children_of(std::process::id())
}

/// Kills the process if it is a child of ours, as it was when it was listed.
pub fn kill_child(pid: u32) {
    if children().contains(&pid) {
        // SAFETY: the call takes no pointers. A child that has just gone is no error here.
        unsafe { libc::kill(pid as libc::pid_t, libc::SIGKILL) };
    }
}

/// The processes whose parent is the given one, zombies included.
pub fn children_of(parent: u32) -> Vec<u32> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        // pid (name) state ppid …, where the name may hold anything.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        let fields = stat.rsplit(')').next().unwrap_or_default();
        if fields.split_whitespace().nth(1) == Some(parent.to_string().as_str()) {
            children.push(pid);
        }
    }
    children
}

/// Whether the process exists; a zombie does.
pub fn exists(pid: u32) -> bool {
    fs::exists(format!("/proc/{pid}")).unwrap()
}

/// Sends a signal to a process that this test started.
pub fn signal(pid: u32, signal: i32) {
    // SAFETY: the call takes no pointers.
    assert_eq!(unsafe { libc::kill(pid as libc::pid_t, signal) }, 0);
}

/// Stops a process that this test started, all of which waits or is about to, and waits until it has stopped: until
/// then it may still do something.
pub fn stop(pid: u32) {
    eventually("the process is stopped as it waits", || {
        signal(pid, libc::SIGSTOP);
        eventually("the process is stopped", || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            stat.rsplit(')').next().unwrap().starts_with(" T")
        });
        // Outside of a system call it may have the mutex of a primitive, for which all others would wait.
        let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let waits = threads.flatten().all(|thread| {
            let call = fs::read_to_string(thread.path().join("syscall"));
            !call.is_ok_and(|call| call.starts_with("-1"))
        });
        if !waits {
            signal(pid, libc::SIGCONT);
        }
        waits
    });
}

/// Whether the process runs: it exists, and is no zombie that waits for its parent.
pub fn runs(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    let fields = stat.rsplit(')').next().unwrap_or_default();
    !matches!(fields.split_whitespace().next(), Some("Z" | "X") | None)
}

/// A directory that goes with the test, for the files through which a test and its workers, be they
/// threads or processes, tell each other things.
pub struct Scratch(std::path::PathBuf);

impl Scratch {
    pub fn new() -> Scratch {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("scratch-{}-{number}", std::process::id());
        let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        // One that a killed test left behind, whose process had the same number.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    /// A sign with this name.
    pub fn sign(&self, name: &str) -> Sign {
        Sign(self.0.join(name))
    }

    pub fn path(&self) -> &std::path::Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Something that one worker tells and others wait for: a file that appears, complete.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Sign(std::path::PathBuf);

impl Sign {
    pub fn at(path: std::path::PathBuf) -> Sign {
        Sign(path)
    }

    pub fn path(&self) -> &std::path::Path {
        &self.0
    }

    /// Gives the sign, with a text.
    pub fn tell(&self, text: impl std::fmt::Display) {
        let draft = self.0.with_extension("draft");
        fs::write(&draft, text.to_string()).unwrap();
        fs::rename(draft, &self.0).unwrap();
    }

    pub fn give(&self) {
        self.tell("");
    }

    /// Waits for the sign; gives its text.
    pub fn hear(&self) -> String {
        eventually(&format!("{}", self.0.display()), || self.is_given());
        fs::read_to_string(&self.0).unwrap()
    }

    pub fn wait(&self) {
        self.hear();
    }

    pub fn is_given(&self) -> bool {
        self.0.exists()
    }

    /// Adds a line, for what several workers tell.
    pub fn note(&self, line: impl std::fmt::Display) {
        use std::io::Write;
        let mut file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.0)
            .unwrap();
        // One call, so that lines of several workers do not mix.
        file.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// The lines so far.
    pub fn notes(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.0).unwrap_or_default();
        text.lines().map(String::from).collect()
    }
}

/// A test's end of a [`Gate`]. The gate goes with it, and a gate that is gone stops nobody.
pub struct GateKeeper(Scratch);

impl Drop for GateKeeper {
    fn drop(&mut self) {
        // At once, while tasks may still be coming; a directory that is being emptied is not gone.
        let gone = self.0.path().with_extension("gone");
        let _ = fs::rename(self.0.path(), &gone);
        let _ = fs::remove_dir_all(gone);
    }
}

/// Where tasks wait, on whatever kind of worker, until the test lets them through.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Gate(std::path::PathBuf);

impl GateKeeper {
    pub fn new() -> GateKeeper {
        GateKeeper(Scratch::new())
    }

    pub fn gate(&self) -> Gate {
        Gate(self.0.path().into())
    }

    /// How many have come to the gate so far.
    pub fn arrived(&self) -> usize {
        let names = fs::read_dir(self.0.path()).unwrap().flatten();
        names.filter(|entry| entry.file_name() != "open").count()
    }

    /// Waits until so many have come.
    pub fn wait_for(&self, arrivals: usize) {
        eventually("arrivals at the gate", || self.arrived() >= arrivals);
    }

    pub fn open(&self) {
        fs::write(self.0.path().join("open"), "").unwrap();
    }
}

impl Gate {
    /// Says that the task has come, and waits until the gate is open.
    pub fn pass(&self) {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}", std::process::id());
        // The directory may be gone.
        let _ = fs::write(self.0.join(name), "");
        eventually("the gate is open", || {
            !self.0.exists() || self.0.join("open").exists()
        });
    }
}

/// Waits at the gate if there is one.
pub fn number_at((n, gate): (u64, Option<Gate>)) -> u64 {
    if let Some(gate) = gate {
        gate.pass();
    }
    n
}

pub fn square(x: u64) -> u64 {
    x * x
}

pub fn squares(range: std::ops::Range<u64>) -> Vec<u64> {
    range.map(square).collect()
}

/// Whether all bytes are this one; quickly, also without optimization.
pub fn is_all(bytes: &[u8], byte: u8) -> bool {
    bytes == vec![byte; bytes.len()]
}

/// A waker that counts.
#[derive(Default)]
pub struct Wakes(std::sync::atomic::AtomicUsize);

impl Wakes {
    pub fn new() -> std::sync::Arc<Wakes> {
        Default::default()
    }

    pub fn count(&self) -> usize {
        self.0.load(std::sync::atomic::Ordering::SeqCst)
    }
}

impl std::task::Wake for Wakes {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }
}

/// A waker that is of no help.
pub struct Panicking;

impl std::task::Wake for Panicking {
    fn wake(self: std::sync::Arc<Self>) {
        panic!("a waker");
    }
}

/// A waker that does something as it is woken, and as it is dropped.
pub struct Meddling<F: Fn()>(F, AtomicUsize);

impl<F: Fn()> Meddling<F> {
    pub fn new(action: F) -> std::sync::Arc<Self> {
        std::sync::Arc::new(Meddling(action, AtomicUsize::new(0)))
    }

    /// How often it has done it.
    pub fn count(&self) -> usize {
        self.1.load(Ordering::SeqCst)
    }

    fn meddle(&self) {
        (self.0)();
        self.1.fetch_add(1, Ordering::SeqCst);
    }
}

impl<F: Fn() + Send + Sync + 'static> std::task::Wake for Meddling<F> {
    fn wake(self: std::sync::Arc<Self>) {
        self.meddle();
    }
}

impl<F: Fn()> Drop for Meddling<F> {
    fn drop(&mut self) {
        self.meddle();
    }
}

/// A waker of which there is only one.
pub fn unclonable() -> &'static std::task::Waker {
    fn clone(_: *const ()) -> std::task::RawWaker {
        panic!("another waker");
    }
    static FUNCTIONS: std::task::RawWakerVTable =
        std::task::RawWakerVTable::new(clone, |_| (), |_| (), |_| ());
    static WAKER: std::sync::LazyLock<std::task::Waker> = std::sync::LazyLock::new(|| {
        // SAFETY: the functions use no data and may be called at any time, on any thread.
        unsafe { std::task::Waker::new(std::ptr::null(), &FUNCTIONS) }
    });
    &WAKER
}

/// A waker that does something as it is cloned; to drop the clone is a panic.
pub fn fragile(on_clone: impl Fn() + Send + Sync + 'static) -> std::task::Waker {
    use std::task::{RawWaker, RawWakerVTable, Waker};

    type OnClone = Box<dyn Fn() + Send + Sync>;

    fn clone(on_clone: *const ()) -> RawWaker {
        // SAFETY: it is what was leaked below.
        unsafe { (*on_clone.cast::<OnClone>())() };
        RawWaker::new(on_clone, &OF_CLONE)
    }
    fn panic(_: *const ()) {
        panic!("a waker is dropped");
    }
    static OF_CLONE: RawWakerVTable = RawWakerVTable::new(clone, |_| (), |_| (), panic);
    static FUNCTIONS: RawWakerVTable = RawWakerVTable::new(clone, |_| (), |_| (), |_| ());
    let on_clone: OnClone = Box::new(on_clone);
    let on_clone: &'static OnClone = Box::leak(Box::new(on_clone));
    // SAFETY: what the functions use is there for good, and may be used at any time, on any thread.
    unsafe { Waker::new(std::ptr::from_ref(on_clone).cast(), &FUNCTIONS) }
}

/// A small generator of numbers (xorshift), seeded anew in each run, for tests that do things at
/// random.
pub struct Random(u64);

impl Random {
    pub fn new() -> Random {
        use std::hash::{BuildHasher, Hasher, RandomState};
        Random(RandomState::new().build_hasher().finish() | 1)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}
