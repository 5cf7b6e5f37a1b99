//! The settings of a crew of workers, for whatever is built on one.

use std::{
    ffi::{OsStr, OsString},
    fmt,
    marker::PhantomData,
    num::NonZero,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::available_parallelism,
    time::Duration,
};

use crate::{
    backend::{Backend, get_backend},
    engine::{
        self, Scheduler,
        processes::{Options, launcher::Launcher},
        scheduler::{Crew, Hiring, Plan},
    },
    error::{Error, TaskError},
    executor::WorkerPoolExecutor,
    task::{IntoTask, encoded::EncodedTask},
};

/// Builds a [`WorkerPoolExecutor`].
pub type WorkerPoolExecutorBuilder = Builder<WorkerPoolExecutor>;

/// What a [`Builder`] can build.
pub(crate) trait Built: Sized {
    /// What the workers' names have between the kind of worker and the number.
    const NAME: &'static str;

    /// When workers are started.
    const HIRING: Hiring;

    /// Numbers those that are built, for the names of their workers.
    fn counter() -> &'static AtomicU64;

    /// How many workers it has where nobody says, on a system with so many CPUs.
    fn default_workers(backend: Backend, cpus: usize) -> usize;

    fn of(scheduler: Arc<Scheduler>, backend: Backend, max_workers: usize) -> Self;
}

/// Builds a [`WorkerPoolExecutor`] or a [`WorkerPool`](crate::WorkerPool), with settings.
///
/// It is made by [`WorkerPoolExecutor::builder`] and [`WorkerPool::builder`](crate::WorkerPool::builder). A clone has
/// the same settings. What cannot work is an error of [`build`](Builder::build), not of the setting.
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
#[must_use = "a builder does nothing until `build` is called"]
pub struct Builder<T> {
    max_workers: Option<usize>,
    backend: Option<Backend>,
    name_prefix: Option<String>,
    initializer: Option<Result<EncodedTask, TaskError>>,
    stack_size: Option<usize>,
    processes: Options,
    max_pending: Option<usize>,
    task_timeout: Option<Duration>,
    max_tasks_per_child: Option<u64>,
    idle_timeout: Option<Duration>,
    builds: PhantomData<fn() -> T>,
}

impl<T> Builder<T> {
    pub(crate) fn new() -> Self {
        Builder {
            max_workers: None,
            backend: None,
            name_prefix: None,
            initializer: None,
            stack_size: None,
            processes: Options::default(),
            max_pending: None,
            task_timeout: None,
            max_tasks_per_child: None,
            idle_timeout: None,
            builds: PhantomData,
        }
    }

    /// The number of workers, at least 1. An executor has so many at most, a pool always has so many.
    ///
    /// By default it is the number of CPUs that this process may use; for an executor on threads, as in
    /// Python, 4 more, but at most 32.
    pub fn max_workers(mut self, max_workers: usize) -> Self {
        self.max_workers = Some(max_workers);
        self
    }

    /// The kind of the workers, by default [`get_backend`]'s.
    pub fn backend(mut self, backend: Backend) -> Self {
        self.backend = Some(backend);
        self
    }

    /// What the workers' names begin with; `_` and a number follow. By default it is unique, such as
    /// `ThreadPoolExecutor-0`.
    ///
    /// Python's `thread_name_prefix`.
    pub fn name_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.name_prefix = Some(prefix.into());
        self
    }

    /// A task that every worker runs before its first one, also a worker that replaces another. What it returns is
    /// dropped, also an `Err`; it fails if it panics.
    ///
    /// On threads it runs once for each of them, in one process: what can be set up only once, such as a logger, may be
    /// there already.
    ///
    /// Its arguments are encoded once, now. When it fails, its worker ends and another is tried;
    /// after three failures in a row the workers are given up: all tasks, present and future, fail
    /// with [`TaskError::Broken`]. Where worker processes die of it, or before they were of any use, it takes three
    /// deaths in a row for each worker that there was at a time.
    ///
    /// Python's `initializer` and `initargs`.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::OnceLock;
    ///
    /// use freethreading::{Backend, WorkerPoolExecutor, task};
    ///
    /// static PATTERN: OnceLock<String> = OnceLock::new();
    ///
    /// fn set_up(pattern: String) {
    ///     let _ = PATTERN.set(pattern); // Threads share it: the first one has set it.
    /// }
    ///
    /// fn count(text: String) -> usize {
    ///     text.matches(PATTERN.get().unwrap()).count()
    /// }
    ///
    /// # fn main() -> Result<(), freethreading::Error> {
    /// # freethreading::init();
    /// let executor = WorkerPoolExecutor::builder()
    ///     .backend(Backend::Multiprocessing)
    ///     .initializer(task!(set_up("an".to_string())))
    ///     .build()?;
    /// assert_eq!(executor.submit(task!(count("banana".to_string()))).result()?, 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn initializer<M>(mut self, task: impl IntoTask<M>) -> Self {
        self.initializer = Some(EncodedTask::of(task).map_err(TaskError::Encode));
        self
    }

    /// The size of the stack of each worker thread, in bytes; by default it is std's: 2 MiB, or what `RUST_MIN_STACK`
    /// says.
    ///
    /// It is for tasks that recurse deeply. What a stack has never needed takes no memory. A task that needs more than
    /// there is ends the program. A size that the system refuses is an error of the task for which the worker was
    /// started, [`TaskError::Start`], or of a pool's `build`, [`Error::Start`].
    ///
    /// It has no effect on worker processes. They run tasks on their main thread, whose stack the system limits:
    /// `ulimit -s`, mostly 8 MiB. A task that needs more ends its worker process, and costs itself only:
    /// [`TaskError::WorkerDied`].
    ///
    /// # Examples
    ///
    /// ```
    /// use freethreading::{Backend, WorkerPoolExecutor, task};
    ///
    /// fn depth(n: u64) -> u64 {
    ///     if n == 0 { 0 } else { 1 + depth(n - 1) }
    /// }
    ///
    /// # fn main() -> Result<(), freethreading::Error> {
    /// let executor = WorkerPoolExecutor::builder()
    ///     .backend(Backend::Threading)
    ///     .stack_size(256 << 20)
    ///     .build()?;
    /// assert_eq!(executor.submit(task!(depth(200_000))).result()?, 200_000);
    /// # Ok(())
    /// # }
    /// ```
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.stack_size = Some(bytes);
        self
    }

    /// The largest frame, in bytes, that may go to a worker process or come back: the encoded
    /// arguments or result of one task, or of one chunk, and some 40 bytes. 1 GiB by default, at least 1 KiB.
    ///
    /// What is larger is an error of its task, [`TaskError::TooLarge`], also where it would travel in shared memory.
    /// Threads know no limit.
    pub fn max_frame_len(mut self, bytes: usize) -> Self {
        self.processes.max_frame_len = bytes;
        self
    }

    /// How worker processes are started, if not by running this executable again. It has no effect on threads.
    pub fn launcher(mut self, launcher: Launcher) -> Self {
        self.processes.launcher = Some(launcher);
        self
    }

    /// How many tasks a worker runs, at least 1; any number by default. Then it ends, and another one replaces it
    /// when there is need for it.
    ///
    /// It is for tasks that leave something behind: memory, files, state.
    ///
    /// Python's `max_tasks_per_child` and `maxtasksperchild`.
    ///
    /// # Examples
    ///
    /// ```
    /// use freethreading::{Backend, WorkerPoolExecutor, get_ident};
    ///
    /// # fn main() -> Result<(), freethreading::Error> {
    /// let executor = WorkerPoolExecutor::builder()
    ///     .backend(Backend::Threading)
    ///     .max_workers(1)
    ///     .max_tasks_per_child(1)
    ///     .build()?;
    /// let (one, two) = (executor.submit(get_ident), executor.submit(get_ident));
    /// assert_ne!(one.result()?, two.result()?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn max_tasks_per_child(mut self, tasks: u64) -> Self {
        self.max_tasks_per_child = Some(tasks);
        self
    }

    /// How many bytes of memory each worker process may have of its own; for worker processes only.
    ///
    /// An allocation beyond that fails. That ends the process, and costs the task at hand:
    /// [`TaskError::WorkerDied`]. What counts is what the system calls data (`RLIMIT_DATA`): the heap, the
    /// stacks of its threads in full, and what the program itself needs, some MiB. Shared memory, as that of the
    /// primitives, does not count.
    ///
    /// # Examples
    ///
    /// ```
    /// use freethreading::{Backend, TaskError, WorkerPoolExecutor};
    ///
    /// fn greedy() -> usize {
    ///     vec![1u8; 1 << 30].len()
    /// }
    ///
    /// # fn main() -> Result<(), freethreading::Error> {
    /// # freethreading::init();
    /// let executor = WorkerPoolExecutor::builder()
    ///     .backend(Backend::Multiprocessing)
    ///     .memory_limit(256 << 20)
    ///     .build()?;
    /// assert!(matches!(executor.submit(greedy).result(), Err(TaskError::WorkerDied(_))));
    /// assert_eq!(executor.submit(|| 2 + 2).result()?, 4); // on another worker
    /// # Ok(())
    /// # }
    /// ```
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.processes.memory_limit = Some(bytes);
        self
    }

    /// A variable for the environment of the worker processes, in addition to those of this process; for worker
    /// processes only. Call it once for each variable.
    ///
    /// # Examples
    ///
    /// ```
    /// # use freethreading::{Backend, WorkerPoolExecutor};
    /// # fn main() -> Result<(), freethreading::Error> {
    /// # freethreading::init();
    /// let executor = WorkerPoolExecutor::builder()
    ///     .backend(Backend::Multiprocessing)
    ///     .env("LEVEL", "debug")
    ///     .build()?;
    /// assert_eq!(executor.submit(|| std::env::var("LEVEL").unwrap()).result()?, "debug");
    /// # Ok(())
    /// # }
    /// ```
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        let variable = (key.as_ref().into(), value.as_ref().into());
        self.processes.surroundings.env.push(variable);
        self
    }

    /// The directory that worker processes start in, instead of this process's; for worker processes
    /// only.
    ///
    /// If it does not exist when a worker is started, that is an error of the task for which it was started,
    /// [`TaskError::Start`], or of a pool's `build`, [`Error::Start`].
    pub fn current_dir(mut self, directory: impl AsRef<Path>) -> Self {
        self.processes.surroundings.current_dir = Some(directory.as_ref().into());
        self
    }

    /// How long a task may run, as if each were given
    /// [`kill_after`](crate::TaskFuture::kill_after); for ever by default, and not 0.
    ///
    /// A chunk of a map is one task, and has that time as a whole.
    pub fn task_timeout(mut self, limit: Duration) -> Self {
        self.task_timeout = Some(limit);
        self
    }

    /// How many tasks may wait for a worker, at least 1; any number by default.
    ///
    /// Tasks that free or new workers are about to take do not count. Where so many wait, an executor's
    /// [`submit`](WorkerPoolExecutor::submit) and a pool's
    /// [`apply_async`](crate::WorkerPool::apply_async) block; [`submit_async`](WorkerPoolExecutor::submit_async)
    /// and [`apply_queued`](crate::WorkerPool::apply_queued) wait in async code, and
    /// [`try_submit`](WorkerPoolExecutor::try_submit) and
    /// [`try_apply_async`](crate::WorkerPool::try_apply_async) give the task back. The maps of a pool, and those with
    /// a [`buffersize`](crate::Mapping::buffersize), do not heed the limit: they submit a few chunks at a time.
    pub fn max_pending(mut self, max_pending: usize) -> Self {
        self.max_pending = Some(max_pending);
        self
    }
}

impl Builder<WorkerPoolExecutor> {
    /// How long a worker waits for a task before it ends; for ever by default. A pool has no such setting.
    ///
    /// Another worker is started when there is need for it. A task that comes just as a worker ends is not lost.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = Some(timeout);
        self
    }
}

#[expect(private_bounds, reason = "the trait is sealed")]
impl<T: Built> Builder<T> {
    /// Builds it. An executor starts its workers as they are needed, a pool all of them now.
    ///
    /// # Blocking
    ///
    /// For a pool, as long as the system takes to create the threads or the processes: some 20 µs or
    /// half a millisecond each.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] for a setting that cannot work: 0 for any of the numbers, or `memory_limit`, `env` or
    /// `current_dir` where the workers are threads; the text says which.
    /// [`Error::InvalidBackend`] if the environment names no backend, and the builder was not told one.
    /// [`Error::NotInitialized`] for process workers in a program that has not called
    /// [`init`](crate::init()). [`Error::Unsupported`] for process workers in an exit hook of a worker process.
    /// [`Error::Task`] if the initializer's arguments could not be encoded.
    /// [`Error::Start`] if the system refuses a worker of a pool; those that were started are gone then.
    pub fn build(self) -> Result<T, Error> {
        let backend = match self.backend {
            Some(backend) => backend,
            None => get_backend()?,
        };
        let max_workers = self.max_workers.unwrap_or_else(|| {
            let cpus = available_parallelism().map_or(1, NonZero::get);
            T::default_workers(backend, cpus)
        });
        self.check(backend, max_workers)?;
        let initializer = self.initializer.transpose()?;
        let engine = engine::engine(backend, self.stack_size, self.processes)?;
        let prefix = self.name_prefix.unwrap_or_else(|| {
            let kind = match backend {
                Backend::Threading => "Thread",
                Backend::Multiprocessing => "Process",
            };
            // Relaxed: only distinctness counts.
            let number = T::counter().fetch_add(1, Ordering::Relaxed);
            format!("{kind}{}-{number}", T::NAME)
        });
        let crew = Crew::Many {
            max: max_workers,
            prefix,
            backend,
            hiring: T::HIRING,
        };
        let scheduler = Scheduler::new(
            engine,
            Plan {
                crew,
                initializer,
                max_pending: self.max_pending,
                task_timeout: self.task_timeout,
                max_tasks: self.max_tasks_per_child,
                idle_timeout: self.idle_timeout,
            },
        );
        if T::HIRING == Hiring::AtOnce {
            scheduler.start_all()?;
        }
        Ok(T::of(scheduler, backend, max_workers))
    }
}

impl<T> Builder<T> {
    /// Whether the settings can work.
    fn check(&self, backend: Backend, max_workers: usize) -> Result<(), Error> {
        /// Headers need this much.
        const MIN_FRAME_LEN: usize = 1024;

        let Options {
            max_frame_len,
            memory_limit,
            surroundings,
            ..
        } = &self.processes;
        let invalid = |why: &str| Err(Error::InvalidArgument(why.into()));
        if max_workers == 0 {
            return invalid("at least one worker is needed: max_workers is 0");
        }
        if *max_frame_len < MIN_FRAME_LEN {
            return invalid(&format!(
                "frames of {max_frame_len} bytes are too small for anything: max_frame_len must be at least {MIN_FRAME_LEN}",
            ));
        }
        if self.max_pending == Some(0) {
            return invalid("no task could ever wait for a worker: max_pending is 0");
        }
        if self.task_timeout == Some(Duration::ZERO) {
            return invalid("no task could run: task_timeout is 0");
        }
        if self.max_tasks_per_child == Some(0) {
            return invalid("no task could run: max_tasks_per_child is 0");
        }
        if self.stack_size == Some(0) {
            return invalid("no worker could run: stack_size is 0");
        }
        if *memory_limit == Some(0) {
            return invalid("no worker could run: memory_limit is 0");
        }
        let is_name = |key: &OsString| {
            let key = key.as_encoded_bytes();
            !key.is_empty() && !key.contains(&b'=') && !key.contains(&0)
        };
        let has_nul = |value: &OsStr| value.as_encoded_bytes().contains(&0);
        let mut env = surroundings.env.iter();
        if let Some((key, _)) = env.find(|(key, value)| !is_name(key) || has_nul(value)) {
            return invalid(&format!(
                "the environment cannot hold {key:?} and what env gives for it"
            ));
        }
        let current_dir = surroundings.current_dir.as_deref();
        if current_dir.is_some_and(|dir| has_nul(dir.as_os_str())) {
            return invalid("current_dir holds a zero byte, as no path does");
        }
        let for_processes = [
            ("memory_limit", memory_limit.is_some()),
            ("env", !surroundings.env.is_empty()),
            ("current_dir", current_dir.is_some()),
        ];
        match for_processes.iter().find(|(_, is_set)| *is_set) {
            Some((setting, _)) if backend == Backend::Threading => invalid(&format!(
                "threads share all that with the program: {setting} is for worker processes only"
            )),
            _ => Ok(()),
        }
    }
}

impl<T> Clone for Builder<T> {
    fn clone(&self) -> Self {
        Builder {
            max_workers: self.max_workers,
            backend: self.backend,
            name_prefix: self.name_prefix.clone(),
            initializer: self.initializer.clone(),
            stack_size: self.stack_size,
            processes: self.processes.clone(),
            max_pending: self.max_pending,
            task_timeout: self.task_timeout,
            max_tasks_per_child: self.max_tasks_per_child,
            idle_timeout: self.idle_timeout,
            builds: PhantomData,
        }
    }
}

impl<T> fmt::Debug for Builder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("max_workers", &self.max_workers)
            .field("backend", &self.backend)
            .field("name_prefix", &self.name_prefix)
            .field("initializer", &self.initializer.is_some())
            .field("stack_size", &self.stack_size)
            .field("processes", &self.processes)
            .field("max_pending", &self.max_pending)
            .field("task_timeout", &self.task_timeout)
            .field("max_tasks_per_child", &self.max_tasks_per_child)
            .field("idle_timeout", &self.idle_timeout)
            .finish()
    }
}
