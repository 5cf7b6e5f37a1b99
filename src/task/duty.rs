//! The task that a thread is at, and whether that is to end.

use std::{
    cell::{Cell, RefCell},
    sync::Arc,
};

use crate::arena;

/// A worker thread that knows what it runs.
pub(crate) trait Duty {
    /// Whether that is to end.
    fn is_cancelled(&self) -> bool;
}

thread_local! {
    /// Whether this thread, a worker's, runs a task.
    static IN_TASK: Cell<bool> = const { Cell::new(false) };
    /// The worker, if that is the thread and not the process.
    static DUTY: RefCell<Option<Arc<dyn Duty>>> = const { RefCell::new(None) };
}

/// Whether the task that calls this is to end: it was killed, its time is over, its workers were terminated, or a
/// shutdown does not wait any longer.
///
/// A long task should look now and then, and return early; what it returns is its result. Nothing else can stop a
/// task on a thread. A worker process is killed when its task is to end, but a
/// [`shutdown_timeout`](crate::WorkerPoolExecutor::shutdown_timeout) asks its task first. Outside of tasks, and on
/// threads that a task has started, it is `false`.
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
    if !IN_TASK.get() {
        return false;
    }
    // The value is gone while the thread ends.
    let duty = DUTY.try_with(|duty| duty.borrow().clone());
    match duty {
        Ok(Some(duty)) => duty.is_cancelled(),
        Ok(None) => arena::process::is_asked(),
        Err(_) => false,
    }
}

/// The calling thread is this worker.
pub(crate) fn set(duty: Arc<dyn Duty>) {
    DUTY.set(Some(duty));
}

/// Runs a task of the calling thread's worker; it does not unwind.
pub(crate) fn run<T>(task: impl FnOnce() -> T) -> T {
    IN_TASK.set(true);
    let result = task();
    IN_TASK.set(false);
    result
}
