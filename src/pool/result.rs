//! The result of a call of a pool, to come.

use std::{
    fmt,
    panic::{RefUnwindSafe, UnwindSafe},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use futures::future::FusedFuture;

use super::promise::{Hook, Promise};
use crate::{coop, deadline, error::TaskError, executor::TaskFuture};

/// The result of [`apply_async`](crate::WorkerPool::apply_async),
/// [`map_async`](crate::WorkerPool::map_async) or [`starmap_async`](crate::WorkerPool::starmap_async).
///
/// It is a [`Future`] on any runtime, and [`get`](AsyncResult::get) waits for it without one. The result
/// is handed out once; whoever comes later gets [`TaskError::Taken`]. An error is handed out to everybody. Dropping an
/// `AsyncResult` leaves the work alone.
///
/// Python's `multiprocessing.pool.AsyncResult`.
///
/// # Cancel safety
///
/// Dropping the future of a wait, or leaving `&mut result` half-way, takes nothing.
///
/// # Examples
///
/// ```
/// use freethreading::{Backend, WorkerPool, task};
///
/// # fn main() -> Result<(), freethreading::Error> {
/// let pool = WorkerPool::builder().max_workers(2).backend(Backend::Threading).build()?;
/// let result = pool.apply_async(task!(i32::pow(2, 10)))?;
/// result.wait(); // The result stays there.
/// assert!(result.ready());
/// assert_eq!(result.get()?, 1024); // or `result.await?` in async code
/// # Ok(())
/// # }
/// ```
#[must_use = "the work is done all the same, but its errors go unseen"]
pub struct AsyncResult<R> {
    source: Source<R>,
    /// It was polled to its end.
    ended: bool,
}

enum Source<R> {
    Task(TaskFuture<R>),
    Promise(Arc<Promise<R>>),
}

// No panic leaves a result half made: user code runs outside of its lock.
impl<R> UnwindSafe for AsyncResult<R> {}
impl<R> RefUnwindSafe for AsyncResult<R> {}

impl<R> AsyncResult<R> {
    pub(super) fn of_task(task: TaskFuture<R>) -> Self {
        AsyncResult {
            source: Source::Task(task),
            ended: false,
        }
    }

    pub(super) fn of_promise(promise: Arc<Promise<R>>) -> Self {
        AsyncResult {
            source: Source::Promise(promise),
            ended: false,
        }
    }

    /// Waits for the result and takes it.
    ///
    /// # Blocking
    ///
    /// Until the result is there. It works on any thread, but stalls an async runtime: `.await` the
    /// value itself there.
    ///
    /// # Errors
    ///
    /// The [`TaskError`] says why there is no result; of several tasks it is the first error.
    pub fn get(&self) -> Result<R, TaskError> {
        self.get_until(None)
    }

    /// Waits for the result for so long at most, and takes it.
    ///
    /// # Blocking
    ///
    /// Until the result is there or the time is up; a time of zero only looks.
    ///
    /// # Errors
    ///
    /// Those of [`get`](AsyncResult::get), and [`TaskError::Timeout`] if the time is up: the work goes on, and the
    /// result can be had later.
    pub fn get_timeout(&self, timeout: Duration) -> Result<R, TaskError> {
        self.get_until(deadline::after(timeout))
    }

    fn get_until(&self, deadline: Option<Instant>) -> Result<R, TaskError> {
        match &self.source {
            Source::Task(task) => task.result_until(deadline),
            Source::Promise(promise) => promise.take(deadline),
        }
    }

    /// Waits until the result is there, and leaves it there.
    ///
    /// # Blocking
    ///
    /// Until the result is there; [`wait_async`](AsyncResult::wait_async) is the async twin.
    pub fn wait(&self) {
        self.wait_until(None);
    }

    /// Waits for so long at most; says whether the result is there.
    ///
    /// # Blocking
    ///
    /// Until the result is there or the time is up.
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        self.wait_until(deadline::after(timeout))
    }

    fn wait_until(&self, deadline: Option<Instant>) -> bool {
        match &self.source {
            Source::Task(task) => task.wait_until(deadline),
            Source::Promise(promise) => promise.wait(deadline),
        }
    }

    /// The async twin of [`wait`](AsyncResult::wait).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn wait_async(&self) {
        Onlooker {
            source: &self.source,
            key: None,
        }
        .await;
    }

    /// Whether the result is there.
    pub fn ready(&self) -> bool {
        match &self.source {
            Source::Task(task) => task.done(),
            Source::Promise(promise) => promise.is_ready(),
        }
    }

    /// Whether there is a value rather than an error; `None` as long as neither is there.
    ///
    /// (A value that came from another process and cannot be decoded counts as one, until it is taken.)
    pub fn successful(&self) -> Option<bool> {
        match &self.source {
            Source::Task(task) => task.succeeded(),
            Source::Promise(promise) => promise.is_ok(),
        }
    }

    /// Has the function called with the value, if there is one.
    ///
    /// It is called once, and before anybody gets the result: right here if the result is there, else on the worker
    /// thread or, for worker processes, on a thread made for such calls. It may use the pool. But the pool's
    /// [`join`](crate::WorkerPool::join) waits for callbacks, so one that waits for the pool may wait for itself. A
    /// panic in a callback is reported and ends there.
    ///
    /// # Examples
    ///
    /// ```
    /// # use freethreading::{Backend, WorkerPool};
    /// # fn main() -> Result<(), freethreading::Error> {
    /// # let pool = WorkerPool::builder().max_workers(2).backend(Backend::Threading).build()?;
    /// let result = pool
    ///     .map_async(|n: u32| n * n, 0..3)?
    ///     .callback(|squares| println!("{squares:?}"))
    ///     .error_callback(|error| eprintln!("{error}"));
    /// assert_eq!(result.get()?, [0, 1, 4]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn callback(self, callback: impl FnOnce(&R) + Send + 'static) -> Self
    where
        R: Send + 'static,
    {
        self.hook(Box::new(|outcome| {
            if let Ok(value) = outcome {
                callback(value);
            }
        }))
    }

    /// Has the function called with the error, if there is one; see
    /// [`callback`](AsyncResult::callback). If the value was taken before, the error is [`TaskError::Taken`].
    pub fn error_callback(self, callback: impl FnOnce(&TaskError) + Send + 'static) -> Self
    where
        R: Send + 'static,
    {
        self.hook(Box::new(|outcome| {
            if let Err(error) = outcome {
                callback(error);
            }
        }))
    }

    fn hook(self, hook: Hook<R>) -> Self
    where
        R: Send + 'static,
    {
        let promise = match self.source {
            Source::Promise(promise) => {
                promise.hook(hook);
                promise
            }
            Source::Task(task) => {
                let promise = Promise::new();
                promise.hook(hook);
                let keeper = Arc::clone(&promise);
                task.add_done_callback(move |task| keeper.complete(task.result()));
                promise
            }
        };
        AsyncResult::of_promise(promise)
    }
}

impl<R> Future for AsyncResult<R> {
    type Output = Result<R, TaskError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        ready!(coop::poll_begin(context));
        let result = ready!(match &self.source {
            Source::Task(task) => task.poll_result(context),
            Source::Promise(promise) => promise.poll_take(context),
        });
        self.ended = true;
        Poll::Ready(result)
    }
}

/// It is terminated once it was awaited to its end.
impl<R> FusedFuture for AsyncResult<R> {
    fn is_terminated(&self) -> bool {
        self.ended
    }
}

/// Waits for a result and leaves it there; there may be several.
struct Onlooker<'a, R> {
    source: &'a Source<R>,
    /// What it is known by, once it was polled.
    key: Option<u64>,
}

impl<R> Future for Onlooker<'_, R> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        match self.source {
            Source::Task(task) => task.poll_done(&mut self.key, context),
            Source::Promise(promise) => promise.poll_ready(&mut self.key, context),
        }
    }
}

impl<R> Drop for Onlooker<'_, R> {
    fn drop(&mut self) {
        match (self.key, self.source) {
            (Some(key), Source::Task(task)) => task.forget(key),
            (Some(key), Source::Promise(promise)) => promise.forget(key),
            (None, _) => {}
        }
    }
}

impl<R> fmt::Debug for AsyncResult<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncResult")
            .field("ready", &self.ready())
            .finish()
    }
}
