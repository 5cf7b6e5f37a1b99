//! The result of a task, to come.

use std::{
    fmt,
    panic::{RefUnwindSafe, UnwindSafe},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use futures::future::FusedFuture;

use super::KillOnDrop;
use crate::{
    coop, deadline,
    engine::{Job, Scheduler, room::Admission},
    error::TaskError,
    task::{
        cell::{Shared, TaskCell, Watcher},
        work::Work,
    },
    trace, unwind,
};

/// The result of a task that was submitted.
///
/// It is a [`Future`] on any runtime, and [`result`](TaskFuture::result) waits for it without one.
/// The result is handed out once, to the first `.await`, `result` or callback that takes it. Whoever comes later
/// gets [`TaskError::Taken`]. An error is handed out to everybody.
///
/// Dropping the future leaves the task alone. [`cancel`](TaskFuture::cancel) is how to stop a task that has
/// not begun, [`kill`](TaskFuture::kill) how to stop any, and [`kill_on_drop`](TaskFuture::kill_on_drop) makes a future
/// whose task ends with it.
///
/// Python's `concurrent.futures.Future`.
///
/// # Cancel safety
///
/// A future that is dropped or left before it is ready takes nothing: with
/// `tokio::time::timeout(limit, &mut future)` the result can still be had afterwards.
///
/// # Examples
///
/// ```
/// use freethreading::{Backend, TaskError, WorkerPoolExecutor, task};
///
/// fn divide(a: u32, b: u32) -> u32 {
///     a / b
/// }
///
/// # fn main() -> Result<(), freethreading::Error> {
/// let executor = WorkerPoolExecutor::builder().backend(Backend::Threading).build()?;
/// let three = executor.submit(task!(divide(6, 2)));
/// let failed = executor.submit(task!(divide(6, 0)));
/// assert_eq!(three.result()?, 3);
/// assert!(matches!(failed.result(), Err(TaskError::Panicked(_))));
/// # futures::executor::block_on(async {
/// // In async code:
/// let three = executor.submit(task!(divide(6, 2))).await?;
/// # assert_eq!(three, 3);
/// # Ok(())
/// # })
/// # }
/// ```
///
/// Many can be had as they are done, which is Python's `as_completed`, with what the crate `futures` has for that:
///
/// ```
/// use freethreading::{WorkerPoolExecutor, task};
/// use futures::{
///     executor::{block_on, block_on_stream},
///     future::join_all,
///     stream::FuturesUnordered,
/// };
///
/// fn square(x: u32) -> u32 {
///     x * x
/// }
///
/// # fn main() -> Result<(), freethreading::Error> {
/// # freethreading::init();
/// let executor = WorkerPoolExecutor::new(2)?;
/// let squares: FuturesUnordered<_> = (0..4).map(|x| executor.submit(task!(square(x)))).collect();
/// let mut sum = 0;
/// for square in block_on_stream(squares) {
///     sum += square?;
/// }
/// assert_eq!(sum, 14);
///
/// // All of them, in order: Python's `wait`.
/// let squares = join_all((0..4).map(|x| executor.submit(task!(square(x)))));
/// assert_eq!(block_on(squares), [Ok(0), Ok(1), Ok(4), Ok(9)]);
/// # Ok(())
/// # }
/// ```
#[must_use = "the task runs all the same, but its errors go unseen"]
pub struct TaskFuture<R> {
    shared: Arc<dyn Shared<R>>,
    /// It was polled to its end.
    ended: bool,
}

// No panic leaves a task half changed: user code runs outside of its lock.
impl<R> UnwindSafe for TaskFuture<R> {}
impl<R> RefUnwindSafe for TaskFuture<R> {}

impl<R> TaskFuture<R> {
    pub(crate) fn new(shared: Arc<dyn Shared<R>>) -> Self {
        TaskFuture {
            shared,
            ended: false,
        }
    }

    /// Submits the work, which is encoded first if that is needed.
    pub(crate) fn submit<W: Work<Output = R>>(
        work: W,
        scheduler: &Arc<Scheduler>,
        admission: Option<&Admission<'_>>,
    ) -> Self
    where
        R: Send + 'static,
    {
        let cell = TaskCell::of(trace::traced(work), scheduler.carriage());
        if !cell.is_settled() {
            scheduler.submit(Arc::clone(&cell) as Arc<dyn Job>, admission);
        }
        TaskFuture::new(cell)
    }

    /// Waits for the result and takes it.
    ///
    /// # Blocking
    ///
    /// Until the task is done. It works on any thread, but stalls an async runtime: `.await` the
    /// future there.
    ///
    /// # Errors
    ///
    /// The [`TaskError`] says why there is no result, and [`TaskError::effect`] whether the task ran.
    pub fn result(&self) -> Result<R, TaskError> {
        self.shared.take(None)
    }

    /// Waits for the result for so long at most, and takes it.
    ///
    /// # Blocking
    ///
    /// Until the task is done or the time is up; a time of zero only looks.
    ///
    /// # Errors
    ///
    /// Those of [`result`](TaskFuture::result), and [`TaskError::Timeout`] if the time is up; the task goes on.
    pub fn result_timeout(&self, timeout: Duration) -> Result<R, TaskError> {
        self.shared.take(deadline::after(timeout))
    }

    pub(crate) fn result_until(&self, deadline: Option<Instant>) -> Result<R, TaskError> {
        self.shared.take(deadline)
    }

    /// Blocks until the task is over, or until the deadline; says whether it is.
    pub(crate) fn wait_until(&self, deadline: Option<Instant>) -> bool {
        self.shared.wait(deadline)
    }

    /// Takes the result if it is there, else remembers to wake the caller.
    pub(crate) fn poll_result(&self, context: &mut Context<'_>) -> Poll<Result<R, TaskError>> {
        self.shared.poll_take(context)
    }

    /// Whether the task is over; else the caller, known by the key, is woken when it is.
    pub(crate) fn poll_done(&self, key: &mut Option<u64>, context: &mut Context<'_>) -> Poll<()> {
        self.shared.poll_done(key, context)
    }

    /// Who waited under this key does not any more.
    pub(crate) fn forget(&self, key: u64) {
        self.shared.forget(key);
    }

    /// Whether there is a result rather than an error, once it is decided.
    pub(crate) fn succeeded(&self) -> Option<bool> {
        self.shared.succeeded()
    }

    /// How large the encoded arguments or, once it is there, the encoded result is, in bytes.
    pub(crate) fn encoded_len(&self) -> Option<usize> {
        self.shared.encoded_len()
    }

    /// Has the watcher told when the task is over; `false` if it is already.
    pub(crate) fn watch(&self, watcher: Arc<dyn Watcher>, number: usize) -> bool {
        self.shared.watch(watcher, number)
    }

    /// Cancels the task if it has not begun; says whether it is cancelled.
    ///
    /// A task that a worker process has taken has begun. Callbacks are called before this returns.
    pub fn cancel(&self) -> bool {
        Arc::clone(&self.shared).cancel()
    }

    /// Ends the task, whether it has begun or not; says whether it is cancelled or being ended.
    ///
    /// A task that has not begun is [cancelled](TaskFuture::cancel). The worker process of a task that runs
    /// is killed, and the future's error is [`TaskError::Killed`] as soon as the process is gone. Other tasks and
    /// workers are not touched, and another process takes its place when there is need for it. A thread cannot be
    /// killed: [`cancelled()`](crate::cancelled()) is true for its task from now on, and the future
    /// gives what the task returns.
    ///
    /// Of a task that is over it is `false`, unless that was cancelled, killed or terminated with its workers.
    ///
    /// # Blocking
    ///
    /// Not until the task has ended. The call waits only while a worker process is between two tasks, so that nobody
    /// knows yet which of them to end: some microseconds, or where the process was stopped just then, a second.
    ///
    /// # Examples
    ///
    /// ```
    /// use freethreading::{Backend, TaskError, WorkerPoolExecutor};
    ///
    /// fn endless() {
    ///     loop {}
    /// }
    ///
    /// # fn main() -> Result<(), freethreading::Error> {
    /// # freethreading::init();
    /// let executor =
    ///     WorkerPoolExecutor::builder().backend(Backend::Multiprocessing).max_workers(1).build()?;
    /// let future = executor.submit(endless);
    /// assert!(future.kill());
    /// assert!(matches!(future.result(), Err(TaskError::Killed(_) | TaskError::Cancelled)));
    /// assert_eq!(executor.submit(|| 2 + 2).result()?, 4);
    /// # Ok(())
    /// # }
    /// ```
    pub fn kill(&self) -> bool {
        Arc::clone(&self.shared).kill()
    }

    /// Has the task ended, as by [`kill`](TaskFuture::kill), when it has run for so long. On processes the error is
    /// [`TaskError::TimeLimit`] then.
    ///
    /// The time counts from the moment when a worker begins with the task, or from now if one has begun. Of several
    /// limits, [`task_timeout`](crate::Builder::task_timeout) included, the shortest counts. To stop waiting
    /// and leave the task alone, use [`result_timeout`](TaskFuture::result_timeout).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use freethreading::{Backend, TaskError, WorkerPoolExecutor};
    ///
    /// fn endless() {
    ///     loop {}
    /// }
    ///
    /// # fn main() -> Result<(), freethreading::Error> {
    /// # freethreading::init();
    /// let executor =
    ///     WorkerPoolExecutor::builder().backend(Backend::Multiprocessing).max_workers(1).build()?;
    /// let future = executor.submit(endless).kill_after(Duration::from_millis(10));
    /// assert!(matches!(future.result(), Err(TaskError::TimeLimit(_))));
    /// # Ok(())
    /// # }
    /// ```
    pub fn kill_after(self, limit: Duration) -> Self {
        Arc::clone(&self.shared).limit(limit);
        self
    }

    /// A future of the same result that kills the task, as by [`kill`](TaskFuture::kill), when it is dropped before it
    /// is ready: the task ends with the `timeout`, the `select!` or the request that waits for it.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use freethreading::{Backend, WorkerPoolExecutor};
    /// use tokio::time::timeout;
    ///
    /// fn endless() {
    ///     loop {}
    /// }
    ///
    /// # fn main() -> Result<(), freethreading::Error> {
    /// # freethreading::init();
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let executor =
    ///     WorkerPoolExecutor::builder().backend(Backend::Multiprocessing).max_workers(1).build()?;
    /// let future = executor.submit(endless).kill_on_drop();
    /// assert!(timeout(Duration::from_millis(10), future).await.is_err());
    /// // The one worker is free again.
    /// assert_eq!(executor.submit(|| 2 + 2).await?, 4);
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    pub fn kill_on_drop(self) -> KillOnDrop<R> {
        KillOnDrop::new(self)
    }

    /// Has the task killed, without waiting for its worker.
    pub(super) fn kill_unwaited(&self) {
        Arc::clone(&self.shared).kill_unwaited();
    }

    /// Another future of the task. It counts as awaited to its end if this one was.
    pub(super) fn another(&self) -> Self {
        TaskFuture {
            shared: Arc::clone(&self.shared),
            ended: self.ended,
        }
    }

    /// Whether the task was cancelled.
    pub fn cancelled(&self) -> bool {
        self.shared.cancelled()
    }

    /// Whether a worker has the task: it has begun with it, or is about to.
    pub fn running(&self) -> bool {
        self.shared.running()
    }

    /// Whether the task is over: it has a result or an error, or was cancelled.
    pub fn done(&self) -> bool {
        self.shared.is_settled()
    }

    /// Has the callback called with this future, once it is done.
    ///
    /// Callbacks are called once each, in the order in which they were added: right here if the future is done, else
    /// on the worker thread or by whoever cancels the task. For worker processes there are threads for such calls, so
    /// that one that takes long does not hold up the others. A [shutdown](crate::WorkerPoolExecutor::shutdown) and the
    /// end of the program wait for callbacks; so a callback that waits for its own executor may wait for itself. A
    /// panic in a callback is reported and ends there.
    ///
    /// # Examples
    ///
    /// ```
    /// # use freethreading::{Backend, WorkerPoolExecutor};
    /// # fn main() -> Result<(), freethreading::Error> {
    /// # let executor = WorkerPoolExecutor::builder().backend(Backend::Threading).build()?;
    /// let (sender, receiver) = std::sync::mpsc::channel();
    /// executor.submit(|| 6 * 7).add_done_callback(move |future| {
    ///     let _ = sender.send(future.result());
    /// });
    /// assert_eq!(receiver.recv().unwrap()?, 42);
    /// # Ok(())
    /// # }
    /// ```
    pub fn add_done_callback(&self, callback: impl FnOnce(&TaskFuture<R>) + Send + 'static) {
        if let Some(callback) = self.shared.add_callback(Box::new(callback)) {
            unwind::contain(|| callback(self));
        }
    }
}

impl<R> Future for TaskFuture<R> {
    type Output = Result<R, TaskError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        ready!(coop::poll_begin(context));
        let result = ready!(self.poll_result(context));
        self.ended = true;
        Poll::Ready(result)
    }
}

/// It is terminated once it was awaited to its end; a result that was taken otherwise is an error, which it has
/// to give yet.
impl<R> FusedFuture for TaskFuture<R> {
    fn is_terminated(&self) -> bool {
        self.ended
    }
}

impl<R> fmt::Debug for TaskFuture<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.cancelled() {
            "cancelled"
        } else if self.done() {
            "finished"
        } else if self.running() {
            "running"
        } else {
            "pending"
        };
        f.debug_struct("TaskFuture")
            .field("task", &self.shared.name())
            .field("state", &format_args!("{state}"))
            .finish()
    }
}
