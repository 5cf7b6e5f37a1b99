//! The result of a call of a pool, to come.

use std::{
    collections::VecDeque,
    fmt,
    panic::{RefUnwindSafe, UnwindSafe},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::future::FusedFuture;

use super::promise::Promise;
use crate::{coop, deadline, error::TaskError, executor::TaskFuture, shim::Mutex, unwind};

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
    future: TaskFuture<R>,
    /// Those that are called before that is ready.
    hooks: Option<Arc<Hooks<R>>>,
}

/// Is shown the outcome before it is handed out.
type Hook<R> = Box<dyn FnOnce(&Result<R, TaskError>) + Send>;

/// The hooks that were not called yet, or `None` after the last one.
struct Hooks<R>(Mutex<Option<VecDeque<Hook<R>>>>);

impl<R> Hooks<R> {
    fn of(hook: Hook<R>) -> Arc<Self> {
        Arc::new(Hooks(Mutex::new(Some([hook].into()))))
    }

    /// Gives the hook back if it comes after the last one.
    fn add(&self, hook: Hook<R>) -> Option<Hook<R>> {
        match &mut *self.0.lock() {
            Some(hooks) => hooks.push_back(hook),
            None => return Some(hook),
        }
        None
    }

    fn next(&self) -> Option<Hook<R>> {
        let mut hooks = self.0.lock();
        let next = hooks.as_mut()?.pop_front();
        if next.is_none() {
            *hooks = None;
        }
        next
    }
}

// No panic leaves a result half made: user code runs outside of its lock.
impl<R> UnwindSafe for AsyncResult<R> {}
impl<R> RefUnwindSafe for AsyncResult<R> {}

impl<R> AsyncResult<R> {
    pub(super) fn of(future: TaskFuture<R>) -> Self {
        AsyncResult {
            future,
            hooks: None,
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
        self.future.result()
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
        self.future.result_timeout(timeout)
    }

    /// Waits until the result is there, and leaves it there.
    ///
    /// # Blocking
    ///
    /// Until the result is there; [`wait_async`](AsyncResult::wait_async) is the async twin.
    pub fn wait(&self) {
        self.future.wait_until(None);
    }

    /// Waits for so long at most; says whether the result is there.
    ///
    /// # Blocking
    ///
    /// Until the result is there or the time is up.
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        self.future.wait_until(deadline::after(timeout))
    }

    /// The async twin of [`wait`](AsyncResult::wait).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn wait_async(&self) {
        Onlooker {
            task: &self.future,
            key: None,
        }
        .await;
    }

    /// Whether the result is there.
    pub fn ready(&self) -> bool {
        self.future.done()
    }

    /// Whether there is a value rather than an error; `None` as long as neither is there.
    ///
    /// (A value that came from another process and cannot be decoded counts as one, until it is taken.)
    pub fn successful(&self) -> Option<bool> {
        self.future.succeeded()
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

    /// The result once the hook was shown it.
    fn hook(self, hook: Hook<R>) -> Self
    where
        R: Send + 'static,
    {
        let late = match &self.hooks {
            Some(hooks) => hooks.add(hook),
            None => Some(hook),
        };
        let Some(hook) = late else {
            return self;
        };
        let (promise, hooks) = (Promise::new(), Hooks::of(hook));
        let shown = AsyncResult {
            future: promise.future(),
            hooks: Some(Arc::clone(&hooks)),
        };
        self.future.add_done_callback(move |future| {
            let outcome = future.result();
            while let Some(hook) = hooks.next() {
                unwind::contain(|| hook(&outcome));
            }
            promise.complete(outcome);
        });
        shown
    }
}

impl<R> Future for AsyncResult<R> {
    type Output = Result<R, TaskError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.future).poll(context)
    }
}

/// It is terminated once it was awaited to its end.
impl<R> FusedFuture for AsyncResult<R> {
    fn is_terminated(&self) -> bool {
        self.future.is_terminated()
    }
}

/// Waits for a result and leaves it there; there may be several.
struct Onlooker<'a, R> {
    task: &'a TaskFuture<R>,
    /// What it is known by, once it was polled.
    key: Option<u64>,
}

impl<R> Future for Onlooker<'_, R> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        ready!(coop::poll_begin(context));
        self.task.poll_done(&mut self.key, context)
    }
}

impl<R> Drop for Onlooker<'_, R> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.task.forget(key);
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
