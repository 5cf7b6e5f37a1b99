//! The task that a thread is at, and whether that is to end.

use std::{
    cell::{Cell, RefCell},
    sync::Arc,
};

use crate::arena;

/// Who knows of a worker thread's task.
pub(crate) trait Duty {
    /// Whether there is a task, and it is to end.
    fn is_cancelled(&self) -> bool;
}

thread_local! {
    static DUTY: RefCell<Option<Arc<dyn Duty>>> = const { RefCell::new(None) };
    /// Whether it is a task of this process as a worker.
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
    // The value is gone while the thread ends.
    let duty = DUTY.try_with(|duty| duty.borrow().clone());
    matches!(duty, Ok(Some(duty)) if duty.is_cancelled())
}

/// The calling thread works for this worker from now on.
pub(crate) fn set(duty: Arc<dyn Duty>) {
    DUTY.set(Some(duty));
}

/// Runs a task of this process as a worker.
pub(crate) fn of_process<T>(task: impl FnOnce() -> T) -> T {
    OF_PROCESS.set(true);
    let result = task();
    OF_PROCESS.set(false);
    result
}
