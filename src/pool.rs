//! A pool of workers, for one function over many items.
//!
//! - [`chunks`] is what all maps go through,
//! - [`spread`] is a map on threads without a chunksize: the workers claim items from ranges, and steal ranges,
//! - [`gather`] is every other map that gives all results at once: chunks, each of which is a task,
//! - [`imap`] gives the results as they come,
//! - [`promise`] is a result to come of several tasks, [`result`] its face.

mod chunks;
mod gather;
pub(crate) mod imap;
mod promise;
mod result;
mod spread;

use std::{
    fmt,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use futures::Stream;

pub use chunks::Chunks;
pub use imap::{Imap, ImapStream};
pub use result::AsyncResult;

use crate::{
    backend::Backend,
    builder::{Builder, Built},
    deadline,
    engine::{
        Scheduler,
        room::Admission,
        scheduler::{Hiring, Queued},
    },
    error::{Error, Full, TaskError},
    executor::TaskFuture,
    fork,
    stats::Stats,
    task::{Callable, IntoTask, Portable},
};

/// A fixed number of workers, all of which are started at once.
///
/// Dropping a pool [terminates](WorkerPool::terminate) it, and so does the end of the program. To have
/// everything done, [`close`](WorkerPool::close) it and [`join`](WorkerPool::join) it, or wait for the
/// results. A worker process that dies costs the task that it was running, and is replaced.
///
/// Once a pool was closed or terminated, each method that takes work gives [`Error::NotRunning`]; once it is broken,
/// [`Error::Task`] with [`TaskError::Broken`].
///
/// Python's `multiprocessing.Pool`, and its `ThreadPool`.
///
/// # Examples
///
/// ```
/// use freethreading::{Backend, WorkerPool, task};
///
/// fn square(x: u64) -> u64 {
///     x * x
/// }
///
/// # fn main() -> Result<(), freethreading::Error> {
/// let pool = WorkerPool::builder().max_workers(2).backend(Backend::Threading).build()?;
/// assert_eq!(pool.apply(task!(square(3)))?, 9);
/// assert_eq!(pool.map(square, 0..5)?, [0, 1, 4, 9, 16]);
/// assert_eq!(pool.starmap(u64::pow, [(2, 3), (3, 2)])?, [8, 9]);
/// for square in pool.imap(square, 0..)?.take(3) {
///     println!("{}", square?);
/// }
/// pool.close();
/// pool.join()?;
/// # Ok(())
/// # }
/// ```
pub struct WorkerPool {
    scheduler: Arc<Scheduler>,
    backend: Backend,
    workers: usize,
}

/// Builds a [`WorkerPool`].
pub type WorkerPoolBuilder = Builder<WorkerPool>;

impl Built for WorkerPool {
    const NAME: &'static str = "Pool";

    const HIRING: Hiring = Hiring::AtOnce;

    fn counter() -> &'static AtomicU64 {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        &NEXT
    }

    fn default_workers(_backend: Backend, cpus: usize) -> usize {
        cpus
    }

    fn of(scheduler: Arc<Scheduler>, backend: Backend, max_workers: usize) -> Self {
        WorkerPool {
            scheduler,
            backend,
            workers: max_workers,
        }
    }
}

impl WorkerPool {
    /// A pool of so many workers, on the default backend.
    ///
    /// # Errors
    ///
    /// Those of [`Builder::build`].
    pub fn new(workers: usize) -> Result<Self, Error> {
        Self::builder().max_workers(workers).build()
    }

    /// A builder, for all that [`new`](WorkerPool::new) leaves at its default.
    pub fn builder() -> Builder<Self> {
        Builder::new()
    }

    /// The kind of its workers.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// How many workers it has.
    pub fn workers(&self) -> usize {
        self.workers
    }

    fn check(&self) -> Result<(), Error> {
        self.scheduler.check().map_err(refused)
    }

    /// Runs a task on a worker, and gives its result.
    ///
    /// Python's `Pool.apply()`.
    ///
    /// # Blocking
    ///
    /// Until the task is done; `.await` the result of [`apply_async`](WorkerPool::apply_async) in async code.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`] if the pool was closed or terminated. [`Error::Task`] if the task gave no result.
    pub fn apply<M, T: IntoTask<M>>(&self, task: T) -> Result<T::Output, Error> {
        Ok(self.apply_async(task)?.get()?)
    }

    /// What it and its workers are doing at this moment, as with
    /// [`WorkerPoolExecutor::stats`](crate::WorkerPoolExecutor::stats).
    pub fn stats(&self) -> Stats {
        self.scheduler.stats()
    }

    /// Has a task run on a worker, without waiting for the result.
    ///
    /// Python's `Pool.apply_async()`. It is not an async method: what it gives can be awaited.
    ///
    /// # Blocking
    ///
    /// Where [`max_pending`](Builder::max_pending) is set, as long as so many tasks wait; use
    /// [`apply_queued`](WorkerPool::apply_queued) in async code.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`] if the pool was closed or terminated, also while the call waits.
    ///
    /// # Examples
    ///
    /// ```
    /// # use freethreading::{Backend, Error, WorkerPool, task};
    /// # fn main() -> Result<(), Error> {
    /// let pool = WorkerPool::builder().max_workers(2).backend(Backend::Threading).build()?;
    /// let result = pool
    ///     .apply_async(task!(u64::pow(2, 10)))?
    ///     .callback(|power| println!("it is {power}"))
    ///     .error_callback(|error| eprintln!("{error}"));
    /// assert_eq!(result.get()?, 1024); // or `result.await?`
    /// # Ok(())
    /// # }
    /// ```
    pub fn apply_async<M, T: IntoTask<M>>(&self, task: T) -> Result<AsyncResult<T::Output>, Error> {
        self.check()?;
        let admission = self.scheduler.admit();
        admission.wait();
        self.check()?;
        Ok(self.apply_admitted(task, admission))
    }

    /// Has a task run on a worker, unless as many wait as [`max_pending`](Builder::max_pending) allows;
    /// never waits. The inner error, [`Full`], gives the task back.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`] if the pool was closed or terminated.
    ///
    /// # Examples
    ///
    /// ```
    /// # use freethreading::{Backend, Error, WorkerPool};
    /// # fn main() -> Result<(), Error> {
    /// let builder = WorkerPool::builder().max_workers(1).max_pending(10);
    /// let pool = builder.backend(Backend::Threading).build()?;
    /// match pool.try_apply_async(|| 6 * 7)? {
    ///     Ok(result) => assert_eq!(result.get()?, 42),
    ///     Err(full) => println!("busy, later: {:?}", full.into_inner()()),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_apply_async<M, T: IntoTask<M>>(
        &self,
        task: T,
    ) -> Result<Result<AsyncResult<T::Output>, Full<T>>, Error> {
        self.check()?;
        Ok(match self.scheduler.admit_now() {
            Some(admission) => Ok(self.apply_admitted(task, admission)),
            None => Err(Full(task)),
        })
    }

    /// The async twin of [`apply_async`](WorkerPool::apply_async): its future is ready as soon as there is room for
    /// the task in the queue, which [`max_pending`](Builder::max_pending) limits. Its output is the result to come.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future before it is ready submits nothing, and loses the place in line.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`] if the pool was closed or terminated, also while the future waits.
    pub fn apply_queued<M, T: IntoTask<M>>(
        &self,
        task: T,
    ) -> impl Future<Output = Result<AsyncResult<T::Output>, Error>> + Send {
        let task = task.into_task();
        async move {
            self.check()?;
            let admission = self.scheduler.admit();
            admission.wait_async().await;
            self.check()?;
            Ok(self.apply_admitted(task, admission))
        }
    }

    fn apply_admitted<M, T: IntoTask<M>>(
        &self,
        task: T,
        admission: Admission<'_>,
    ) -> AsyncResult<T::Output> {
        let future = TaskFuture::submit(task.into_task(), &self.scheduler, Some(&admission));
        AsyncResult::of(future)
    }

    /// Calls the function with each item on the workers, and gives all results in the order of the
    /// items.
    ///
    /// How many items a worker gets at a time follows from how long they take. A thread claims about a microsecond of
    /// work at a time, and when its own share is done it takes from what is left to others: so only a few items wait
    /// behind a slow one. For processes, chunks grow to some milliseconds of work.
    /// [`chunksize`](WorkerPool::chunksize) is how to choose it.
    ///
    /// Python's `Pool.map()`.
    ///
    /// # Blocking
    ///
    /// Until all results are there, or one error; `.await` the result of [`map_async`](WorkerPool::map_async) in async
    /// code.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`] if the pool was closed or terminated. [`Error::Task`] with the first error of an item;
    /// what has not begun by then is left out, items on threads, and otherwise chunks of them.
    ///
    /// # Panics
    ///
    /// If the input does; the pool goes on.
    pub fn map<F, I, R>(&self, function: F, items: I) -> Result<Vec<R>, Error>
    where
        F: Fn(I::Item) -> R + Send + Sync + 'static,
        I: IntoIterator,
        I::Item: Portable,
        R: Portable,
    {
        self.chunks().map(function, items)
    }

    /// Like [`map`](WorkerPool::map), without waiting for the results.
    ///
    /// # Blocking
    ///
    /// While the input is read to its end.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`] if the pool was closed or terminated.
    ///
    /// # Panics
    ///
    /// If the input does; the pool goes on.
    pub fn map_async<F, I, R>(&self, function: F, items: I) -> Result<AsyncResult<Vec<R>>, Error>
    where
        F: Fn(I::Item) -> R + Send + Sync + 'static,
        I: IntoIterator,
        I::Item: Portable,
        R: Portable,
    {
        self.chunks().map_async(function, items)
    }

    /// Like [`map`](WorkerPool::map), for a function of several arguments: the items are tuples of them.
    ///
    /// Python's `Pool.starmap()`.
    ///
    /// # Blocking
    ///
    /// As [`map`](WorkerPool::map).
    ///
    /// # Errors
    ///
    /// Those of [`map`](WorkerPool::map).
    ///
    /// # Panics
    ///
    /// If the input does; the pool goes on.
    ///
    /// # Examples
    ///
    /// ```
    /// # use freethreading::{Backend, Error, WorkerPool};
    /// # fn main() -> Result<(), Error> {
    /// let pool = WorkerPool::builder().max_workers(2).backend(Backend::Threading).build()?;
    /// let areas = pool.starmap(|width: u32, height: u32| width * height, [(2, 3), (4, 5)])?;
    /// assert_eq!(areas, [6, 20]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn starmap<F, I, R>(&self, function: F, items: I) -> Result<Vec<R>, Error>
    where
        F: Callable<I::Item, Output = R>,
        I: IntoIterator,
        I::Item: Portable,
        R: Portable,
    {
        self.chunks().starmap(function, items)
    }

    /// Like [`starmap`](WorkerPool::starmap), without waiting for the results.
    ///
    /// # Blocking
    ///
    /// While the input is read to its end.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`] if the pool was closed or terminated.
    ///
    /// # Panics
    ///
    /// If the input does; the pool goes on.
    pub fn starmap_async<F, I, R>(
        &self,
        function: F,
        items: I,
    ) -> Result<AsyncResult<Vec<R>>, Error>
    where
        F: Callable<I::Item, Output = R>,
        I: IntoIterator,
        I::Item: Portable,
        R: Portable,
    {
        self.chunks().starmap_async(function, items)
    }

    /// Calls the function with each item on the workers, and gives the results one by one, in the order
    /// of the items.
    ///
    /// The items are read a few ahead of the results, so the input may be endless. They go to the workers
    /// one by one; small ones go faster many at a time: see [`chunksize`](WorkerPool::chunksize). An item that fails,
    /// or an input that panics, is an `Err` among the results. When the pool is closed meanwhile, no more items are
    /// read, and the last result is [`TaskError::Shutdown`].
    ///
    /// Python's `Pool.imap()`.
    ///
    /// # Blocking
    ///
    /// The call reads the first items, and does not wait for results. The iterator blocks until the next result is
    /// there; [`Imap::into_stream`] does not.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`] if the pool was closed or terminated.
    pub fn imap<F, I, R>(&self, function: F, items: I) -> Result<Imap<I::IntoIter, R>, Error>
    where
        F: Fn(I::Item) -> R + Send + Sync + 'static,
        I: IntoIterator,
        I::Item: Portable,
        R: Portable,
    {
        self.chunks().imap(function, items)
    }

    /// Like [`imap`](WorkerPool::imap), but the results come as soon as they are there, in any order.
    ///
    /// Python's `Pool.imap_unordered()`.
    ///
    /// # Blocking
    ///
    /// As [`imap`](WorkerPool::imap).
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`] if the pool was closed or terminated.
    pub fn imap_unordered<F, I, R>(
        &self,
        function: F,
        items: I,
    ) -> Result<Imap<I::IntoIter, R>, Error>
    where
        F: Fn(I::Item) -> R + Send + Sync + 'static,
        I: IntoIterator,
        I::Item: Portable,
        R: Portable,
    {
        self.chunks().imap_unordered(function, items)
    }

    /// Like [`imap`](WorkerPool::imap) for the items of a stream; the results are a stream as well. The input is
    /// polled where the results are.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`] if the pool was closed or terminated.
    ///
    /// # Examples
    ///
    /// ```
    /// use futures::{StreamExt, TryStreamExt, stream};
    /// # use freethreading::{Backend, Error, WorkerPool};
    ///
    /// # fn main() -> Result<(), Error> {
    /// # futures::executor::block_on(async {
    /// let pool = WorkerPool::builder().max_workers(2).backend(Backend::Threading).build()?;
    /// let numbers = stream::iter(0..).take(4);
    /// let squares = pool.imap_stream(|n: u32| n * n, numbers)?;
    /// assert_eq!(squares.try_collect::<Vec<_>>().await?, [0, 1, 4, 9]);
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    pub fn imap_stream<F, S, R>(&self, function: F, items: S) -> Result<ImapStream<S, R>, Error>
    where
        F: Fn(S::Item) -> R + Send + Sync + 'static,
        S: Stream,
        S::Item: Portable,
        R: Portable,
    {
        self.chunks().imap_stream(function, items)
    }

    /// Like [`imap_unordered`](WorkerPool::imap_unordered) for the items of a stream; the results are a
    /// stream as well. The input is polled where the results are.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`] if the pool was closed or terminated.
    pub fn imap_unordered_stream<F, S, R>(
        &self,
        function: F,
        items: S,
    ) -> Result<ImapStream<S, R>, Error>
    where
        F: Fn(S::Item) -> R + Send + Sync + 'static,
        S: Stream,
        S::Item: Portable,
        R: Portable,
    {
        self.chunks().imap_unordered_stream(function, items)
    }

    fn chunks(&self) -> Chunks<'_> {
        Chunks {
            pool: self,
            size: None,
        }
    }

    /// The pool's maps, with a choice of how many items a worker gets at a time, at least 1; 0 is an
    /// [`Error::InvalidArgument`] of the map.
    ///
    /// A chunk is one task for one worker. When one of its items fails, those behind it in the chunk are not run: the
    /// results of an [`imap`](Chunks::imap) have one `Err` for them all then, or for the whole chunk where its worker
    /// process died, so they cannot be told to belong to their items by counting.
    ///
    /// Python's `chunksize`.
    ///
    /// # Examples
    ///
    /// ```
    /// # use freethreading::{Backend, WorkerPool};
    /// # fn main() -> Result<(), freethreading::Error> {
    /// let pool = WorkerPool::builder().max_workers(2).backend(Backend::Threading).build()?;
    /// let lengths = pool.chunksize(1000).imap(|n: u32| n.to_string().len(), 0..10_000)?;
    /// assert_eq!(lengths.flatten().max(), Some(4));
    /// # Ok(())
    /// # }
    /// ```
    pub fn chunksize(&self, chunksize: usize) -> Chunks<'_> {
        Chunks {
            pool: self,
            size: Some(chunksize),
        }
    }

    /// Takes no more work. What was accepted is done, then the workers end. It may be called again, and does not
    /// wait; [`join`](WorkerPool::join) does.
    ///
    /// Python's `Pool.close()`.
    pub fn close(&self) {
        self.scheduler.close(Queued::Runs);
    }

    /// Takes no more work, and ends the workers at once: every result that is not there yet is
    /// [`TaskError::Terminated`].
    ///
    /// Worker processes are killed. A thread cannot be killed: it goes on with its task, for which
    /// [`cancelled()`](crate::cancelled()) is true, and the task's result is dropped. The call does not wait;
    /// [`join`](WorkerPool::join) does.
    ///
    /// Python's `Pool.terminate()`.
    pub fn terminate(&self) {
        self.scheduler.terminate();
    }

    /// Waits until the workers have ended, after [`close`](WorkerPool::close) or
    /// [`terminate`](WorkerPool::terminate); it may be called again.
    ///
    /// # Blocking
    ///
    /// Until they have ended, and callbacks were called; use [`join_async`](WorkerPool::join_async) in async code.
    ///
    /// # Errors
    ///
    /// [`Error::StillRunning`] if the pool was neither closed nor terminated. [`Error::JoinSelf`] in one
    /// of its own workers or callbacks.
    pub fn join(&self) -> Result<(), Error> {
        self.join_until(None)
    }

    /// Like [`join`](WorkerPool::join), for so long at most.
    ///
    /// # Blocking
    ///
    /// Until the workers have ended or the time is up.
    ///
    /// # Errors
    ///
    /// Those of [`join`](WorkerPool::join), and [`Error::Timeout`] if the time is up.
    pub fn join_timeout(&self, timeout: Duration) -> Result<(), Error> {
        self.join_until(deadline::after(timeout))
    }

    fn join_until(&self, deadline: Option<Instant>) -> Result<(), Error> {
        self.check_joinable()?;
        let finished = self.scheduler.finished.wait(deadline);
        finished.ok_or(Error::Timeout)?;
        self.scheduler.reap();
        Ok(())
    }

    /// The async twin of [`join`](WorkerPool::join).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect on the pool.
    ///
    /// # Errors
    ///
    /// Those of [`join`](WorkerPool::join).
    pub async fn join_async(&self) -> Result<(), Error> {
        self.check_joinable()?;
        self.scheduler.finished.wait_async().await;
        Ok(())
    }

    fn check_joinable(&self) -> Result<(), Error> {
        if self.scheduler.is_current() {
            Err(Error::JoinSelf)
        } else if self.scheduler.is_open() {
            Err(Error::StillRunning)
        } else {
            Ok(())
        }
    }
}

/// Why a pool takes no work.
fn refused(error: TaskError) -> Error {
    match error {
        TaskError::Shutdown => Error::NotRunning,
        error => error.into(),
    }
}

impl Drop for WorkerPool {
    fn drop(&mut self) {
        // The workers of another process are none of this one's business.
        if !fork::is_forked() {
            self.scheduler.terminate();
        }
    }
}

impl fmt::Debug for WorkerPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerPool")
            .field("backend", &self.backend)
            .field("workers", &self.workers)
            .field("running", &self.scheduler.is_open())
            .finish_non_exhaustive()
    }
}
