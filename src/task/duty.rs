//! The task that a thread is at, and whether that is to end.

use std::{
    cell::{Cell, RefCell},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{arena, engine::Job};

thread_local! {
    /// What this worker thread runs.
    static JOB: RefCell<Option<Arc<dyn Job>>> = const { RefCell::new(None) };
    /// Whether all that it runs is to end.
    static ASKED: RefCell<Option<Arc<AtomicBool>>> = const { RefCell::new(None) };
    /// Whether it runs a task of this process as a worker.
    static OF_PROCESS: Cell<bool> = const { Cell::new(false) };
}

/// Whether the task that calls this is to end: it was killed, its time is over, or its executor does
/// not wait any longer.
///
/// A long task that looks now and then, and returns early, can be stopped on threads too, where nothing
/// else can stop it; what it returns is its result. A worker process is killed when its task is to end,
/// but at a [`shutdown_timeout`](crate::WorkerPoolExecutor::shutdown_timeout) its task is asked before.
/// In what a task starts itself, on other threads, and outside of tasks it is `false`.
///
/// # Examples
///
/// ```
/// use freethreading::{Backend, WorkerPoolExecutor, cancelled};
///
/// /// How far it came.
/// fn count() -> u64 {
///     (0..).find(|_| cancelled()).unwrap()
/// }
///
/// # fn main() -> Result<(), freethreading::Error> {
/// let executor = WorkerPoolExecutor::builder().backend(Backend::Threading).build()?;
/// let future = executor.submit(count);
/// while !future.running() {
///     std::thread::yield_now();
/// }
/// assert!(future.kill());
/// println!("it came to {}", future.result()?);
/// assert!(!cancelled());
/// # Ok(())
/// # }
/// ```
pub fn cancelled() -> bool {
    if OF_PROCESS.get() {
        return arena::process::is_asked();
    }
    // The values are gone while the thread ends.
    let looked = JOB.try_with(|job| {
        let job = job.borrow();
        job.as_ref()
            .is_some_and(|job| is_asked() || job.orders().are_to_stop())
    });
    looked.unwrap_or(false)
}

fn is_asked() -> bool {
    ASKED.with_borrow(|asked| {
        // Relaxed: nothing is published with it.
        asked
            .as_ref()
            .is_some_and(|asked| asked.load(Ordering::Relaxed))
    })
}

/// Where the calling thread, a worker's, is asked to end what it runs.
pub(crate) fn heed(asked: Arc<AtomicBool>) {
    ASKED.set(Some(asked));
}

/// Runs a job on the calling thread, a worker's, and gives it back.
pub(crate) fn run<T>(job: Arc<dyn Job>, task: impl FnOnce(&dyn Job) -> T) -> (T, Arc<dyn Job>) {
    JOB.set(Some(job));
    let result = JOB.with_borrow(|job| task(&**job.as_ref().expect("it is there")));
    (result, JOB.take().expect("it is still there"))
}

/// Runs a task of this process as a worker.
pub(crate) fn of_process<T>(task: impl FnOnce() -> T) -> T {
    OF_PROCESS.set(true);
    let result = task();
    OF_PROCESS.set(false);
    result
}
