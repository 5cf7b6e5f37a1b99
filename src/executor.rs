//! Many tasks on a crew of workers: the face of a [`Scheduler`].
//!
//! [`future`] is a task's result to come, [`kill_on_drop`] one whose task ends with it, [`map`] one function over many
//! items.

mod future;
mod kill_on_drop;
mod map;

use std::{
    fmt,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

pub use future::TaskFuture;
pub use kill_on_drop::KillOnDrop;
pub use map::{Buffered, Map, MapStream, Mapping};

use crate::{
    backend::Backend,
    builder::{Builder, Built},
    deadline,
    engine::{
        Scheduler, reactor,
        room::Admission,
        scheduler::{Hiring, Queued},
    },
    error::{Error, Full},
    fork,
    stats::Stats,
    task::{IntoTask, Portable, work::Work},
};

/// Runs tasks on up to a number of workers, which are started as they are needed, and reused.
///
/// Dropping an executor neither blocks nor cancels: what was submitted is completed, then the
/// workers end. [`shutdown`](WorkerPoolExecutor::shutdown) is how to wait for that. The end of the program waits
/// for what was submitted.
///
/// A worker process that dies costs the task that it was running, and is replaced. What worker processes
/// write to their standard error is passed on to this process's own, and the last lines are in the error
/// of a task whose worker died: [`WorkerDied::stderr`](crate::WorkerDied::stderr).
///
/// Python's `ThreadPoolExecutor` and `ProcessPoolExecutor`.
///
/// # Examples
///
/// ```
/// use freethreading::{Backend, WorkerPoolExecutor, task};
///
/// fn square(x: u64) -> u64 {
///     x * x
/// }
///
/// # fn main() -> Result<(), freethreading::Error> {
/// let executor = WorkerPoolExecutor::builder().max_workers(2).backend(Backend::Threading).build()?;
/// let nine = executor.submit(task!(square(3)));
/// let squares: Vec<u64> = executor.map(square, 0..5).collect::<Result<_, _>>()?;
/// assert_eq!(nine.result()?, 9);
/// assert_eq!(squares, [0, 1, 4, 9, 16]);
/// # Ok(())
/// # }
/// ```
pub struct WorkerPoolExecutor {
    scheduler: Arc<Scheduler>,
    backend: Backend,
    max_workers: usize,
}

impl WorkerPoolExecutor {
    /// An executor of up to so many workers, on the default backend.
    ///
    /// # Errors
    ///
    /// Those of [`WorkerPoolExecutorBuilder::build`](crate::WorkerPoolExecutorBuilder::build).
    pub fn new(max_workers: usize) -> Result<Self, Error> {
        Self::builder().max_workers(max_workers).build()
    }

    /// A builder, for all that [`new`](WorkerPoolExecutor::new) leaves at its default.
    pub fn builder() -> Builder<Self> {
        Builder::new()
    }

    /// The kind of its workers.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// How many workers it has at most.
    pub fn max_workers(&self) -> usize {
        self.max_workers
    }

    /// What it and its workers are doing at this moment.
    ///
    /// # Examples
    ///
    /// ```
    /// # use freethreading::{Backend, Error, WorkerPoolExecutor};
    /// # fn main() -> Result<(), Error> {
    /// let executor = WorkerPoolExecutor::builder().backend(Backend::Threading).build()?;
    /// executor.submit(|| ()).result()?;
    /// let stats = executor.stats();
    /// assert_eq!((stats.queued, stats.completed, stats.failed), (0, 1, 0));
    /// # Ok(())
    /// # }
    /// ```
    pub fn stats(&self) -> Stats {
        self.scheduler.stats()
    }

    /// Submits a task; the future gives its result, to `.await` or with
    /// [`result`](TaskFuture::result).
    ///
    /// Whatever goes wrong is the future's error, so that there is one place to look: a submission
    /// after the shutdown, or one that waits for room meanwhile ([`TaskError::Shutdown`](crate::TaskError::Shutdown)),
    /// arguments that cannot be encoded, a worker that cannot be started.
    ///
    /// A task may submit to the executor that runs it. If it also waits for the result, there must be
    /// another worker to run it: where all workers wait so, they wait for ever.
    ///
    /// # Blocking
    ///
    /// The call does not wait for a worker. For processes it encodes the arguments, and may start a process, which
    /// takes half a millisecond.
    ///
    /// Where [`max_pending`](crate::Builder::max_pending) is set, it waits as long as so many tasks do; use
    /// [`submit_async`](WorkerPoolExecutor::submit_async) in async code. A task that submits to the executor that
    /// runs it may then wait for itself; let it use [`try_submit`](WorkerPoolExecutor::try_submit).
    ///
    /// # Examples
    ///
    /// ```
    /// use freethreading::{Backend, WorkerPoolExecutor, task};
    ///
    /// fn square(x: u64) -> u64 {
    ///     x * x
    /// }
    ///
    /// # fn main() -> Result<(), freethreading::Error> {
    /// let executor = WorkerPoolExecutor::builder().backend(Backend::Threading).build()?;
    /// let four = executor.submit(|| 2 + 2); // a function of no arguments, or a closure without captures
    /// let nine = executor.submit(task!(square(3))); // a call
    /// let (times, word) = (2usize, "ab".to_string());
    /// let words = executor.submit(task!(|times, word| word.repeat(times))); // a closure with captures
    /// // All three are on their way. In async code `.await` them.
    /// assert_eq!(four.result()? + nine.result()?, 13);
    /// assert_eq!(words.result()?, "abab");
    /// # Ok(())
    /// # }
    /// ```
    pub fn submit<M, T: IntoTask<M>>(&self, task: T) -> TaskFuture<T::Output> {
        self.submit_work(task.into_task())
    }

    /// Submits a task unless as many wait as [`max_pending`](crate::Builder::max_pending) allows; never
    /// waits. Without such a limit it is the same as [`submit`](WorkerPoolExecutor::submit).
    ///
    /// # Errors
    ///
    /// [`Full`], which gives the task back. All else that goes wrong is the error of the future, as with
    /// [`submit`](WorkerPoolExecutor::submit).
    ///
    /// # Examples
    ///
    /// ```
    /// # use freethreading::{Backend, Error, WorkerPoolExecutor};
    /// # fn main() -> Result<(), Error> {
    /// let executor = WorkerPoolExecutor::builder()
    ///     .backend(Backend::Threading)
    ///     .max_pending(10)
    ///     .build()?;
    /// match executor.try_submit(|| 6 * 7) {
    ///     Ok(future) => assert_eq!(future.result()?, 42),
    ///     Err(full) => println!("busy, later: {:?}", full.into_inner()()),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_submit<M, T: IntoTask<M>>(&self, task: T) -> Result<TaskFuture<T::Output>, Full<T>> {
        match self.scheduler.admit_now() {
            Some(admission) => Ok(self.submit_admitted(task.into_task(), admission)),
            None => Err(Full(task)),
        }
    }

    /// Submits a task; the async twin of [`submit`](WorkerPoolExecutor::submit). It waits as long as so many tasks
    /// wait for a worker as [`max_pending`](crate::Builder::max_pending) allows. Those who wait are served in the
    /// order in which they came.
    ///
    /// Its output is the task's future. What goes wrong is that future's error.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future before it is ready submits nothing, and loses the place in line.
    ///
    /// # Examples
    ///
    /// ```
    /// # use freethreading::{Backend, Error, WorkerPoolExecutor};
    /// # fn main() -> Result<(), Error> {
    /// # futures::executor::block_on(async {
    /// let executor = WorkerPoolExecutor::builder()
    ///     .backend(Backend::Threading)
    ///     .max_pending(10)
    ///     .build()?;
    /// let future = executor.submit_async(|| 6 * 7).await; // submitted
    /// assert_eq!(future.await?, 42);
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    #[expect(
        clippy::async_yields_async,
        reason = "one wait for room, another for the result"
    )]
    pub fn submit_async<M, T: IntoTask<M>>(
        &self,
        task: T,
    ) -> impl Future<Output = TaskFuture<T::Output>> + Send {
        let task = task.into_task();
        async move {
            let admission = self.scheduler.admit();
            admission.wait_async().await;
            self.submit_admitted(task, admission)
        }
    }

    fn submit_work<W: Work>(&self, work: W) -> TaskFuture<W::Output> {
        let admission = self.scheduler.admit();
        admission.wait();
        self.submit_admitted(work, admission)
    }

    fn submit_admitted<W: Work>(&self, work: W, admission: Admission<'_>) -> TaskFuture<W::Output> {
        TaskFuture::submit(work, &self.scheduler, Some(&admission))
    }

    /// Calls the function with each item on the workers, and gives the results in the order of the
    /// items.
    ///
    /// The results come as an iterator, or with [`Map::into_stream`] as a stream. It ends after the first error;
    /// tasks that have not begun by then are cancelled. They are also cancelled when the iterator is dropped, unless
    /// it was never used: then all of them run.
    ///
    /// Each item is a task of its own. Small ones go faster many at a time: see
    /// [`chunksize`](WorkerPoolExecutor::chunksize). For several inputs zip them. An input that is endless needs
    /// [`buffersize`](Mapping::buffersize).
    ///
    /// A range of whole numbers is not collected: each number is made where it is needed. A `Vec` is worked
    /// off where it is.
    ///
    /// Python's `Executor.map()`.
    ///
    /// # Blocking
    ///
    /// The call reads all items and submits them before it returns; with
    /// [`max_pending`](crate::Builder::max_pending) it waits for room meanwhile. The iterator blocks until the next
    /// result is there; the stream does not.
    ///
    /// # Panics
    ///
    /// If the input does; the executor goes on.
    ///
    /// # Examples
    ///
    /// ```
    /// # use freethreading::{Backend, WorkerPoolExecutor};
    /// # fn main() -> Result<(), freethreading::Error> {
    /// let executor = WorkerPoolExecutor::builder().backend(Backend::Threading).build()?;
    /// for square in executor.map(|x: u64| x * x, 0..5) {
    ///     println!("{}", square?);
    /// }
    /// // Two inputs, and all results at once.
    /// let sums = executor.map(|(a, b): (u32, u32)| a + b, (0..3).zip(10..)).into_vec()?;
    /// assert_eq!(sums, [10, 12, 14]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn map<F, I, R>(&self, function: F, items: I) -> Map<R>
    where
        F: Fn(I::Item) -> R + Send + Sync + 'static,
        I: IntoIterator,
        I::Item: Portable,
        R: Portable,
    {
        Mapping::new(self).map(function, items)
    }

    /// Settings for a [`map`](Mapping::map) that gives the workers so many items at a time, at least 1. A chunk of
    /// 0 is an error, which the iterator gives: [`TaskError::InvalidArgument`](crate::TaskError::InvalidArgument).
    ///
    /// A chunk travels as one task and runs on one worker. When one of its items fails, those behind it in the chunk are
    /// not run. A map goes on behind that only if it has a [`buffersize`](Mapping::buffersize); then one `Err` stands for
    /// them all, as in a pool's [`imap`](crate::Chunks::imap).
    ///
    /// # Examples
    ///
    /// ```
    /// # use freethreading::{Backend, WorkerPoolExecutor};
    /// # fn main() -> Result<(), freethreading::Error> {
    /// let executor = WorkerPoolExecutor::builder().backend(Backend::Threading).build()?;
    /// let lengths = executor.chunksize(1000).map(|n: u32| n.to_string().len(), 0..10_000);
    /// assert_eq!(lengths.into_vec()?.into_iter().max(), Some(4));
    /// # Ok(())
    /// # }
    /// ```
    pub fn chunksize(&self, chunksize: usize) -> Mapping<'_> {
        Mapping::new(self).chunksize(chunksize)
    }

    /// Settings for a [`map`](Mapping::map) that must give all results within this time, counted from the call of
    /// `map`.
    pub fn timeout(&self, timeout: Duration) -> Mapping<'_> {
        Mapping::new(self).timeout(timeout)
    }

    /// Accepts no more tasks. It may be called again.
    ///
    /// What was submitted is completed. With `cancel_futures`, tasks that have not begun are cancelled instead,
    /// except that a worker that was just started still gets the task that it was started for. With `wait` the call
    /// returns when all that is done, callbacks included, and the workers have ended.
    ///
    /// Called by one of the executor's own tasks or callbacks it does not wait, since that would be to wait for
    /// itself.
    ///
    /// Python's `Executor.shutdown()`.
    ///
    /// # Blocking
    ///
    /// With `wait`, until the workers have ended; use
    /// [`shutdown_async`](WorkerPoolExecutor::shutdown_async) in async code.
    ///
    /// # Examples
    ///
    /// ```
    /// # use freethreading::{Backend, TaskError, WorkerPoolExecutor};
    /// # fn main() -> Result<(), freethreading::Error> {
    /// let executor = WorkerPoolExecutor::builder().backend(Backend::Threading).build()?;
    /// let before = executor.submit(|| 2 + 2);
    /// executor.shutdown(true, false);
    /// assert!(before.done());
    /// let after = executor.submit(|| 2 + 2);
    /// assert_eq!(after.result(), Err(TaskError::Shutdown));
    /// # Ok(())
    /// # }
    /// ```
    pub fn shutdown(&self, wait: bool, cancel_futures: bool) {
        self.scheduler.close(Queued::cancelled_if(cancel_futures));
        if wait && !self.scheduler.is_current() {
            self.scheduler.finished.wait(None);
            self.scheduler.reap();
        }
    }

    /// How long a [`shutdown_timeout`](WorkerPoolExecutor::shutdown_timeout) waits for tasks that it has
    /// [asked](crate::cancelled()) to end.
    pub const GRACE: Duration = Duration::from_millis(200);

    /// Accepts no more tasks, and waits for so long at most until what was submitted is completed; says
    /// whether it is.
    ///
    /// When the time is up, tasks that have not begun are cancelled, and those that run are asked to end:
    /// [`cancelled()`](crate::cancelled()) is true for them. What is left after another
    /// [`GRACE`](WorkerPoolExecutor::GRACE) is given up, as by [`kill_workers`](WorkerPoolExecutor::kill_workers).
    /// So all futures are done when the call returns, and no worker process is left; a thread may still be at its
    /// task.
    ///
    /// Called by one of the executor's own tasks or callbacks it does not wait, and gives `false`.
    ///
    /// # Blocking
    ///
    /// For the timeout, the grace, and as long as it takes to kill processes; use
    /// [`shutdown_timeout_async`](WorkerPoolExecutor::shutdown_timeout_async) in async code.
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
    /// let executor = WorkerPoolExecutor::builder().backend(Backend::Multiprocessing).build()?;
    /// let future = executor.submit(endless);
    /// assert!(!executor.shutdown_timeout(Duration::from_millis(10)));
    /// assert!(future.result().is_err());
    /// # Ok(())
    /// # }
    /// ```
    pub fn shutdown_timeout(&self, timeout: Duration) -> bool {
        self.scheduler.close(Queued::Runs);
        if self.scheduler.is_current() {
            return false;
        }
        let finished = |wait: Duration| {
            let deadline = deadline::after(wait);
            self.scheduler.finished.wait(deadline).is_some()
        };
        let in_time = finished(timeout);
        if !in_time {
            self.scheduler.close(Queued::IsAllCancelled);
            self.scheduler.ask();
            if !finished(Self::GRACE) {
                self.scheduler.terminate();
                if self.backend == Backend::Threading {
                    // A thread goes on for as long as it likes.
                    return false;
                }
                // Nor can callbacks be given up.
                self.scheduler.vacated.wait(None);
            }
        }
        self.scheduler.reap();
        in_time
    }

    /// The async twin of [`shutdown_timeout`](WorkerPoolExecutor::shutdown_timeout).
    ///
    /// # Cancel safety
    ///
    /// The executor is shut down by the first poll; dropping the future afterwards gives up the wait, and
    /// nothing is asked or killed any more.
    pub async fn shutdown_timeout_async(&self, timeout: Duration) -> bool {
        self.scheduler.close(Queued::Runs);
        if self.scheduler.is_current() {
            return false;
        }
        if self.finished_within(timeout).await {
            return true;
        }
        self.scheduler.close(Queued::IsAllCancelled);
        self.scheduler.ask();
        if !self.finished_within(Self::GRACE).await {
            self.scheduler.terminate();
            if self.backend == Backend::Multiprocessing {
                self.scheduler.vacated.wait_async().await;
            }
        }
        false
    }

    async fn finished_within(&self, time: Duration) -> bool {
        let finished = self.scheduler.finished.wait_async();
        let Some(deadline) = deadline::after(time) else {
            finished.await;
            return true;
        };
        tokio::select! {
            biased;
            () = finished => true,
            () = reactor::sleep_until(deadline) => false,
        }
    }

    /// Accepts no more tasks, and ends the workers at once: every task without a result fails with
    /// [`TaskError::Terminated`](crate::TaskError::Terminated).
    ///
    /// Worker processes are killed. A thread cannot be killed: it goes on with its task, for which
    /// [`cancelled()`](crate::cancelled()) is true, but the task's future is done at once. The call does not
    /// wait for the workers' end; [`shutdown`](WorkerPoolExecutor::shutdown) does.
    ///
    /// Python's `ProcessPoolExecutor.kill_workers()`.
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
    /// let executor = WorkerPoolExecutor::builder().backend(Backend::Multiprocessing).build()?;
    /// let future = executor.submit(endless);
    /// executor.kill_workers();
    /// assert!(matches!(future.result(), Err(TaskError::Terminated(_))));
    /// # Ok(())
    /// # }
    /// ```
    pub fn kill_workers(&self) {
        self.scheduler.terminate();
    }

    /// The async twin of [`shutdown(true, cancel_futures)`](WorkerPoolExecutor::shutdown).
    ///
    /// # Cancel safety
    ///
    /// The executor is shut down by the first poll; dropping the future afterwards only gives up the
    /// wait.
    pub async fn shutdown_async(&self, cancel_futures: bool) {
        self.scheduler.close(Queued::cancelled_if(cancel_futures));
        if !self.scheduler.is_current() {
            self.scheduler.finished.wait_async().await;
        }
    }
}

impl Built for WorkerPoolExecutor {
    const NAME: &'static str = "PoolExecutor";
    const HIRING: Hiring = Hiring::OnDemand;

    fn counter() -> &'static AtomicU64 {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        &NEXT
    }

    fn default_workers(backend: Backend, cpus: usize) -> usize {
        match backend {
            Backend::Threading => (cpus + 4).min(32),
            Backend::Multiprocessing => cpus,
        }
    }

    fn of(scheduler: Arc<Scheduler>, backend: Backend, max_workers: usize) -> Self {
        WorkerPoolExecutor {
            scheduler,
            backend,
            max_workers,
        }
    }
}

impl Drop for WorkerPoolExecutor {
    fn drop(&mut self) {
        // The workers of another process are none of this one's business.
        if !fork::is_forked() {
            self.scheduler.close(Queued::Runs);
        }
    }
}

impl fmt::Debug for WorkerPoolExecutor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerPoolExecutor")
            .field("backend", &self.backend)
            .field("max_workers", &self.max_workers)
            .finish_non_exhaustive()
    }
}
