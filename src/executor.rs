//! Many tasks on a crew of workers.

mod future;
mod map;

use std::{
    fmt,
    num::NonZero,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::available_parallelism,
    time::Duration,
};

pub use future::TaskFuture;
pub use map::{Map, MapStream, Mapping};

use crate::{
    backend::{Backend, get_backend},
    engine::{
        self, Job, Scheduler,
        processes::{DEFAULT_MAX_FRAME_LEN, launcher::Launcher},
        scheduler::{Crew, Plan},
    },
    error::{Error, TaskError},
    task::{
        IntoTask, Portable,
        cell::{Shared, TaskCell, Work},
        encoded::EncodedTask,
    },
};

/// Runs tasks on up to a number of workers, which are started as they are needed, and reused.
///
/// Dropping an executor neither blocks nor cancels: what was submitted is completed, then the
/// workers end. [`shutdown`](WorkerPoolExecutor::shutdown) is how to wait for that. When the program
/// ends it waits for what was submitted.
///
/// A worker process that dies costs the task that it was running, and is replaced.
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
    pub fn builder() -> Builder {
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

    /// Submits a task; the future gives its result, to `.await` or with
    /// [`result`](TaskFuture::result).
    ///
    /// The call never waits for a worker. For processes it encodes the arguments, and may start a
    /// process, which takes half a millisecond.
    ///
    /// Whatever goes wrong is the future's error, so that there is one place to look: a submission
    /// after the shutdown ([`TaskError::Shutdown`]), arguments that cannot be encoded, a worker that
    /// cannot be started.
    ///
    /// A task may submit to the executor that runs it. If it also waits for the result there must be
    /// another worker to run it.
    pub fn submit<M, T: IntoTask<M>>(&self, task: T) -> TaskFuture<T::Output> {
        self.submit_work(task.into_task())
    }

    fn submit_work<W: Work>(&self, work: W) -> TaskFuture<W::Output> {
        let cell = match self.scheduler.carriage() {
            None => TaskCell::new(work),
            Some(carriage) => TaskCell::encoded(work, carriage),
        };
        if !cell.done() {
            self.scheduler.submit(Arc::clone(&cell) as Arc<dyn Job>);
        }
        TaskFuture::new(cell)
    }

    /// Calls the function with each item on the workers, and gives the results in the order of the
    /// items.
    ///
    /// All items are read, and submitted one by one, before the call returns; an endless input never
    /// does. The results come as an iterator, or with [`Map::into_stream`] as a stream. It ends after
    /// the first error; what has not begun then is cancelled. So it is when an iterator is dropped
    /// that was used; one that was never used lets the tasks run.
    ///
    /// For several inputs zip them: `executor.map(|(a, b)| a + b, xs.zip(ys))`. Small tasks go
    /// faster many at a time: see [`chunksize`](WorkerPoolExecutor::chunksize).
    ///
    /// Python's `Executor.map()`.
    ///
    /// # Panics
    ///
    /// If the input does; the executor goes on.
    pub fn map<F, I, R>(&self, function: F, items: I) -> Map<R>
    where
        F: Fn(I::Item) -> R + Send + Sync + 'static,
        I: IntoIterator,
        I::Item: Portable,
        R: Portable,
    {
        Mapping::new(self).map(function, items)
    }

    /// For [`map`](WorkerPoolExecutor::map)s that give the workers so many items at a time.
    ///
    /// A chunk travels as one task and runs on one worker. 0 is an error, which the iterator gives.
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

    /// For [`map`](WorkerPoolExecutor::map)s that must give all results within this time, counted
    /// from the call.
    pub fn timeout(&self, timeout: Duration) -> Mapping<'_> {
        Mapping::new(self).timeout(timeout)
    }

    /// Accepts no more tasks; may be called again.
    ///
    /// What was submitted is completed, or, with `cancel_futures`, cancelled if it has not begun. With
    /// `wait` the call returns when all that is done and the workers have ended.
    ///
    /// Called by one of the executor's own tasks it does not wait, since the task would wait for itself.
    ///
    /// Python's `Executor.shutdown()`.
    ///
    /// # Blocking
    ///
    /// With `wait`, until the workers have ended; use
    /// [`shutdown_async`](WorkerPoolExecutor::shutdown_async) in async code.
    pub fn shutdown(&self, wait: bool, cancel_futures: bool) {
        self.scheduler.close(cancel_futures);
        if wait && !self.scheduler.is_current() {
            self.scheduler.finished.wait(None);
            self.scheduler.reap();
        }
    }

    /// Like `shutdown(true, cancel_futures)`, from async code.
    ///
    /// # Cancel safety
    ///
    /// The executor is shut down by the first poll; dropping the future afterwards only gives up the
    /// wait.
    pub async fn shutdown_async(&self, cancel_futures: bool) {
        self.scheduler.close(cancel_futures);
        if !self.scheduler.is_current() {
            self.scheduler.finished.wait_async().await;
        }
    }
}

impl Drop for WorkerPoolExecutor {
    fn drop(&mut self) {
        self.scheduler.close(false);
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

/// Builds a [`WorkerPoolExecutor`].
///
/// # Examples
///
/// ```
/// use freethreading::{Backend, WorkerPoolExecutor, current_worker, task};
///
/// # fn main() -> Result<(), freethreading::Error> {
/// let executor = WorkerPoolExecutor::builder()
///     .max_workers(4)
///     .name_prefix("render")
///     .initializer(task!(|| println!("{} is ready", current_worker().name())))
///     .backend(Backend::Threading)
///     .build()?;
/// assert_eq!(executor.submit(|| current_worker().name()).result()?, "render_0");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct Builder {
    max_workers: Option<usize>,
    backend: Option<Backend>,
    name_prefix: Option<String>,
    initializer: Option<Result<EncodedTask, TaskError>>,
    max_frame_len: usize,
    launcher: Option<Launcher>,
}

impl Builder {
    fn new() -> Self {
        Builder {
            max_workers: None,
            backend: None,
            name_prefix: None,
            initializer: None,
            max_frame_len: DEFAULT_MAX_FRAME_LEN,
            launcher: None,
        }
    }

    /// The largest number of workers at a time, at least 1.
    ///
    /// By default, as in Python: for threads the number of CPUs that this process may use plus 4, but
    /// at most 32; for processes that number of CPUs.
    pub fn max_workers(mut self, max_workers: usize) -> Self {
        self.max_workers = Some(max_workers);
        self
    }

    /// The kind of the workers, by default [`get_backend`]'s.
    pub fn backend(mut self, backend: Backend) -> Self {
        self.backend = Some(backend);
        self
    }

    /// What the workers' names begin with; a number follows.
    pub fn name_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.name_prefix = Some(prefix.into());
        self
    }

    /// A task that every worker runs before its first one, also a worker that replaces another.
    ///
    /// Its arguments are encoded once, now. When it fails, its worker ends and another is tried;
    /// after three failures in a row the executor is broken: all its tasks, present and future, fail
    /// with [`TaskError::Broken`].
    pub fn initializer<M>(mut self, task: impl IntoTask<M>) -> Self {
        self.initializer = Some(EncodedTask::of(task).map_err(TaskError::Encode));
        self
    }

    /// The largest frame, in bytes, that may go to a worker process or come back: the encoded
    /// arguments or result of one task, or of one chunk, and some 40 bytes. 1 GiB by default.
    ///
    /// What is larger is an error of its task, [`TaskError::TooLarge`]. Threads know no limit.
    pub fn max_frame_len(mut self, bytes: usize) -> Self {
        self.max_frame_len = bytes;
        self
    }

    /// How worker processes are started, if not by running this executable again.
    pub fn launcher(mut self, launcher: Launcher) -> Self {
        self.launcher = Some(launcher);
        self
    }

    /// Makes the executor; no worker is started yet.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] for no workers at all, or for frames too small to carry anything.
    /// [`Error::InvalidBackend`] if the environment asks for one that does not exist.
    /// [`Error::NotInitialized`] for process workers in a program that has not called
    /// [`init`](crate::init()). [`Error::Task`] if the initializer's arguments could not be encoded.
    pub fn build(self) -> Result<WorkerPoolExecutor, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        /// Headers need this much.
        const MIN_FRAME_LEN: usize = 1024;

        let backend = match self.backend {
            Some(backend) => backend,
            None => get_backend()?,
        };
        let max_workers = self.max_workers.unwrap_or_else(|| default_workers(backend));
        if max_workers == 0 {
            return Err(Error::InvalidArgument(
                "an executor needs at least one worker: max_workers is 0".into(),
            ));
        }
        if self.max_frame_len < MIN_FRAME_LEN {
            return Err(Error::InvalidArgument(format!(
                "frames of {} bytes are too small for anything: max_frame_len must be at least {MIN_FRAME_LEN}",
                self.max_frame_len
            )));
        }
        let initializer = self.initializer.transpose()?;
        let engine = engine::engine(backend, self.launcher, self.max_frame_len)?;
        let prefix = self.name_prefix.unwrap_or_else(|| {
            let kind = match backend {
                Backend::Threading => "Thread",
                Backend::Multiprocessing => "Process",
            };
            // Relaxed: only distinctness counts.
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            format!("{kind}PoolExecutor-{number}")
        });
        let crew = Crew::Many {
            max: max_workers,
            prefix,
            backend,
        };
        Ok(WorkerPoolExecutor {
            scheduler: Scheduler::new(engine, Plan { crew, initializer }),
            backend,
            max_workers,
        })
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerPoolExecutorBuilder")
            .field("max_workers", &self.max_workers)
            .field("backend", &self.backend)
            .field("name_prefix", &self.name_prefix)
            .field("initializer", &self.initializer.is_some())
            .field("max_frame_len", &self.max_frame_len)
            .field("launcher", &self.launcher)
            .finish()
    }
}

fn default_workers(backend: Backend) -> usize {
    let cpus = available_parallelism().map_or(1, NonZero::get);
    match backend {
        Backend::Threading => (cpus + 4).min(32),
        Backend::Multiprocessing => cpus,
    }
}
