//! The result of a task that ends when nobody waits for it any more.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use futures::future::FusedFuture;

use super::TaskFuture;
use crate::{error::TaskError, fork};

/// The result of a task that is killed when this future is dropped before it is ready; made by
/// [`TaskFuture::kill_on_drop`].
///
/// It gives what the [`TaskFuture`] gives. Dropping it kills the task as [`TaskFuture::kill`] does: one that has not
/// begun never runs, the worker process of one that runs is killed, and on a thread
/// [`cancelled()`](crate::cancelled()) is true for it from then on. Once the future was ready, or if the task is over,
/// dropping it does nothing. The time limit of [`kill_after`](TaskFuture::kill_after) is set before, with
/// `submit(…).kill_after(limit).kill_on_drop()`.
///
/// # Blocking
///
/// Dropping it does not block. Where a worker process is between two tasks, so that nobody knows yet which of them to
/// end, the task is killed a little later, by another thread. A task that never runs has its arguments and callbacks
/// done with right here, as by [`cancel`](TaskFuture::cancel).
///
/// # Cancel safety
///
/// None, on purpose: a future that is dropped before it is ready ends its task. Polled by reference, as by
/// `tokio::time::timeout(limit, &mut future)`, it can be left and awaited again.
///
/// # Examples
///
/// ```
/// use freethreading::{Backend, WorkerPoolExecutor, cancelled};
///
/// fn run_until_cancelled() {
///     while !cancelled() {
///         std::thread::yield_now();
///     }
/// }
///
/// # fn main() -> Result<(), freethreading::Error> {
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let executor = WorkerPoolExecutor::builder().backend(Backend::Threading).max_workers(1).build()?;
/// let client_is_gone = async { /* … */ };
/// tokio::select! {
///     result = executor.submit(run_until_cancelled).kill_on_drop() => result?,
///     () = client_is_gone => {}
/// }
/// // The one worker is free again.
/// assert_eq!(executor.submit(|| 6 * 7).await?, 42);
/// # Ok(())
/// # })
/// # }
/// ```
#[must_use = "dropping it kills the task"]
pub struct KillOnDrop<R> {
    future: TaskFuture<R>,
    /// Somebody else has the future of the task now.
    detached: bool,
}

impl<R> KillOnDrop<R> {
    pub(super) fn new(future: TaskFuture<R>) -> Self {
        KillOnDrop {
            future,
            detached: false,
        }
    }

    /// Gives the future back whose task goes on when it is dropped.
    pub fn detach(mut self) -> TaskFuture<R> {
        self.detached = true;
        self.future.another()
    }
}

/// For all else that can be done with a task: to ask for its state, to end it, or to have a callback called.
impl<R> AsRef<TaskFuture<R>> for KillOnDrop<R> {
    fn as_ref(&self) -> &TaskFuture<R> {
        &self.future
    }
}

impl<R> Future for KillOnDrop<R> {
    type Output = Result<R, TaskError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.future).poll(context)
    }
}

/// It is terminated once it was awaited to its end, as [`TaskFuture`] is.
impl<R> FusedFuture for KillOnDrop<R> {
    fn is_terminated(&self) -> bool {
        self.future.is_terminated()
    }
}

impl<R> Drop for KillOnDrop<R> {
    fn drop(&mut self) {
        // The tasks of another process are none of this one's business.
        if !self.detached && !self.is_terminated() && !fork::is_forked() {
            self.future.kill_unwaited();
        }
    }
}

impl<R> fmt::Debug for KillOnDrop<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KillOnDrop").field(&self.future).finish()
    }
}
