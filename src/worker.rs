//! A worker of one's own, and what there is to know about all workers.

pub(crate) mod record;

use std::{
    fmt,
    hash::{Hash, Hasher},
    panic::{RefUnwindSafe, UnwindSafe},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};

use crate::{
    backend::{Backend, get_backend},
    deadline,
    engine::{
        self, Carriage, Job, Scheduler,
        processes::Options,
        scheduler::{Crew, Plan, Queued},
    },
    error::Error,
    task::{IntoTask, cell::TaskCell, work::Discarding},
};
use record::{Record, Role};

pub(crate) use record::process_worker_name;

/// A thread or a process that runs one task.
///
/// A `Worker` is a handle. Clones are handles to the same worker, and so is what [`current_worker`],
/// [`active_children`] and [`enumerate`] give. Dropping a handle neither waits for the worker nor ends it.
///
/// When the program ends it waits for the workers that are running, unless they are daemons.
///
/// Python's `threading.Thread` and `multiprocessing.Process`.
///
/// # Examples
///
/// ```
/// use freethreading::{Backend, Worker, current_worker, task};
///
/// fn greet(whom: String) {
///     println!("Hello {whom}, from {}!", current_worker().name());
/// }
///
/// # fn main() -> Result<(), freethreading::Error> {
/// let worker = Worker::new(task!(greet("you".to_string())))
///     .with_name("MyWorker")
///     .backend(Backend::Threading);
/// worker.start()?;
/// worker.join()?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a worker does nothing before it is started"]
#[derive(Clone)]
pub struct Worker {
    record: Arc<Record>,
    body: Arc<Mutex<Body>>,
}

// No panic leaves a worker half started: what encodes the arguments cannot unwind.
impl UnwindSafe for Worker {}
impl RefUnwindSafe for Worker {}

/// What a worker is to do.
enum Body {
    /// Not started; makes the job, encoded if it is to be carried to a process.
    New(Box<dyn FnOnce(Option<Carriage>) -> Arc<dyn Job> + Send>),
    /// Its job is being made, by code of a user: nothing is locked meanwhile.
    Making,
    /// It could not be started: the system refused, and may be asked again, or the arguments cannot be encoded.
    Refused(Arc<dyn Job>),
    /// Started, and to be reaped at its end.
    Started(Arc<Scheduler>),
    /// Started by somebody else.
    Foreign,
}

impl Worker {
    /// A worker that is to run the task; nothing runs before [`start`](Worker::start).
    ///
    /// What the task returns is dropped, an `Err` as well; use an executor where the result counts.
    pub fn new<M>(task: impl IntoTask<M>) -> Worker {
        let task = Discarding(task.into_task());
        let make = move |carriage| TaskCell::of(task, carriage) as Arc<dyn Job>;
        Worker {
            record: Record::new(Role::Solo, false),
            body: Arc::new(Mutex::new(Body::New(Box::new(make)))),
        }
    }

    fn of_record(record: Arc<Record>) -> Worker {
        Worker {
            record,
            body: Arc::new(Mutex::new(Body::Foreign)),
        }
    }

    /// Gives the worker a name; an empty one means the default, which is unique.
    pub fn with_name(self, name: impl Into<String>) -> Worker {
        self.record.set_name(name.into());
        self
    }

    /// Says whether the program may end while the worker runs; it has no effect once the worker was started.
    pub fn with_daemon(self, daemon: bool) -> Worker {
        let _ = self.set_daemon(daemon);
        self
    }

    /// Chooses the backend, by default [`get_backend`]'s. The first choice stays: later calls have no effect.
    pub fn backend(self, backend: Backend) -> Worker {
        self.record.set_backend(backend);
        self
    }

    /// The worker's name.
    pub fn name(&self) -> String {
        self.record.name()
    }

    /// Renames the worker. A process that runs already still knows itself by its old name.
    pub fn set_name(&self, name: impl Into<String>) {
        self.record.set_name(name.into());
    }

    /// Whether the program may end while the worker runs.
    pub fn daemon(&self) -> bool {
        self.record.daemon()
    }

    /// Says whether the program may end while the worker runs.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyStarted`] once the worker was started.
    pub fn set_daemon(&self, daemon: bool) -> Result<(), Error> {
        match &*self.body.lock() {
            Body::New(_) | Body::Refused(_) => {
                self.record.set_daemon(daemon);
                Ok(())
            }
            Body::Making | Body::Started(_) | Body::Foreign => Err(Error::AlreadyStarted),
        }
    }

    /// A positive number, different from those of all other workers that this process knows: the process id of
    /// a process worker, a number above all process ids for a thread. `None` before the start.
    ///
    /// Python's `Thread.ident` and `Process.ident`.
    pub fn ident(&self) -> Option<u64> {
        self.record.ident()
    }

    /// The worker's number within its executor or pool: from 0 to the number of workers less 1. `None` for other
    /// workers.
    ///
    /// It is the lowest number that was free when the worker was started. So a worker that replaces another takes
    /// over its number, which can choose a device, a core or a scratch file.
    ///
    /// # Examples
    ///
    /// ```
    /// use freethreading::{Backend, WorkerPoolExecutor, current_worker};
    ///
    /// # fn main() -> Result<(), freethreading::Error> {
    /// let executor = WorkerPoolExecutor::builder().backend(Backend::Threading).build()?;
    /// assert_eq!(executor.submit(|| current_worker().rank()).result()?, Some(0));
    /// assert_eq!(current_worker().rank(), None);
    /// # Ok(())
    /// # }
    /// ```
    pub fn rank(&self) -> Option<usize> {
        self.record.rank()
    }

    /// Starts the worker.
    ///
    /// # Blocking
    ///
    /// For as long as the system takes to create the thread (some 20 µs) or the process (half a millisecond).
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyStarted`] if it was started before. [`Error::InvalidBackend`] if the environment names no
    /// backend, and the worker was not told one. [`Error::NotInitialized`] for a process worker in a program that
    /// has not called [`init`](crate::init()). [`Error::Unsupported`] for one in an exit hook of a worker process.
    /// [`Error::Task`] if the task cannot be sent to a process: an argument cannot be encoded or is too large, or the
    /// function is in a shared library; also if the program is ending and does not wait for the caller.
    /// [`Error::Start`] if the system refuses; the call may be repeated then.
    pub fn start(&self) -> Result<(), Error> {
        let mut body = self.body.lock();
        if !matches!(*body, Body::New(_) | Body::Refused(_)) {
            return Err(Error::AlreadyStarted);
        }
        let backend = match self.record.backend() {
            Some(backend) => backend,
            None => get_backend()?,
        };
        let engine = engine::engine(backend, None, Options::default())?;
        self.record.set_backend(backend);
        let plan = Plan {
            crew: Crew::Solo(Arc::clone(&self.record)),
            initializer: None,
            max_pending: None,
            task_timeout: None,
            max_tasks: None,
            idle_timeout: None,
        };
        let scheduler = Scheduler::new(engine, plan);
        let job = match std::mem::replace(&mut *body, Body::Making) {
            Body::New(make) => MutexGuard::unlocked(&mut body, || make(scheduler.carriage())),
            Body::Refused(job) => job,
            _ => unreachable!("that was looked at before"),
        };
        if let Some(error) = job.error() {
            scheduler.close(Queued::IsAllCancelled);
            *body = Body::Refused(job);
            return Err(error.into());
        }
        match scheduler.run_solo(Arc::clone(&job)) {
            Ok(()) => {
                *body = Body::Started(scheduler);
                Ok(())
            }
            Err(error) => {
                *body = Body::Refused(job);
                Err(error.into())
            }
        }
    }

    /// Whether the worker was started and has not ended; always `true` of the main worker.
    pub fn is_alive(&self) -> bool {
        self.record.is_alive()
    }

    /// Waits for the worker's end, and says whether all went well. It may be called again.
    ///
    /// # Blocking
    ///
    /// Until the worker has ended. It works on any thread, but stalls an async runtime; use
    /// [`join_async`](Worker::join_async) there.
    ///
    /// # Errors
    ///
    /// [`Error::NotStarted`] before the start. [`Error::JoinSelf`] if the worker itself calls, or if it is the main
    /// worker or stands for a thread that this crate did not start. [`Error::Task`] if the task panicked, or if its
    /// process was killed, crashed or exited.
    pub fn join(&self) -> Result<(), Error> {
        self.join_until(None)
    }

    /// Like [`join`](Worker::join), for so long at most.
    ///
    /// # Blocking
    ///
    /// Until the worker has ended, or the time is up.
    ///
    /// # Errors
    ///
    /// Those of [`join`](Worker::join), and [`Error::Timeout`] if the time is up; the worker goes on.
    pub fn join_timeout(&self, timeout: Duration) -> Result<(), Error> {
        self.join_until(deadline::after(timeout))
    }

    fn join_until(&self, deadline: Option<Instant>) -> Result<(), Error> {
        self.check_joinable()?;
        let scheduler = match &*self.body.lock() {
            Body::Started(scheduler) => Some(Arc::clone(scheduler)),
            _ => None,
        };
        // The end of a thread says all: one wait instead of two.
        if let (Some(scheduler), None) = (&scheduler, deadline) {
            scheduler.reap();
        }
        let ended = self.record.ended.wait(deadline).ok_or(Error::Timeout)?;
        if let Some(scheduler) = scheduler {
            scheduler.reap();
        }
        ended.clone().map_err(Error::from)
    }

    /// The async twin of [`join`](Worker::join).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect on the worker, which can be joined again.
    ///
    /// # Errors
    ///
    /// Those of [`join`](Worker::join).
    pub async fn join_async(&self) -> Result<(), Error> {
        self.check_joinable()?;
        self.record
            .ended
            .wait_async()
            .await
            .clone()
            .map_err(Error::from)
    }

    fn was_started(&self) -> bool {
        matches!(*self.body.lock(), Body::Started(_) | Body::Foreign)
    }

    fn check_joinable(&self) -> Result<(), Error> {
        if matches!(self.record.role(), Role::Main | Role::Foreign)
            || self.record.id() == record::current().id()
        {
            Err(Error::JoinSelf)
        } else if !self.was_started() {
            Err(Error::NotStarted)
        } else {
            Ok(())
        }
    }

    /// Kills a process worker, whatever it is doing; its task may have run in part.
    ///
    /// A worker that has ended stays as it is. The call does not wait until the process is gone;
    /// [`join`](Worker::join) does.
    ///
    /// Python's `Process.kill()`.
    ///
    /// # Errors
    ///
    /// [`Error::NotStarted`] before the start. [`Error::Unsupported`] for a thread that runs, since threads cannot be
    /// killed, and for the main worker.
    ///
    /// # Examples
    ///
    /// ```
    /// use freethreading::{Backend, Error, TaskError, Worker};
    ///
    /// fn endless() {
    ///     loop {}
    /// }
    ///
    /// # fn main() -> Result<(), Error> {
    /// # freethreading::init();
    /// let worker = Worker::new(endless).backend(Backend::Multiprocessing);
    /// worker.start()?;
    /// worker.terminate()?;
    /// assert!(matches!(worker.join(), Err(Error::Task(TaskError::WorkerDied(_)))));
    /// # Ok(())
    /// # }
    /// ```
    pub fn terminate(&self) -> Result<(), Error> {
        if !self.was_started() {
            return Err(Error::NotStarted);
        }
        match self.record.kill() {
            true => Ok(()),
            false => Err(Error::Unsupported(format!(
                "'{}' is not a process worker, and nothing else can be killed",
                self.name()
            ))),
        }
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match (self.record.ended.get(), self.record.ident()) {
            (Some(_), _) => "ended",
            (None, Some(_)) => "running",
            (None, None) => "not started",
        };
        f.debug_struct("Worker")
            .field("name", &self.name())
            .field("ident", &self.ident())
            .field("daemon", &self.daemon())
            .field("state", &format_args!("{state}"))
            .finish()
    }
}

impl PartialEq for Worker {
    /// Whether both are handles to the same worker.
    fn eq(&self, other: &Worker) -> bool {
        self.record.id() == other.record.id()
    }
}

impl Eq for Worker {}

impl Hash for Worker {
    /// Handles to the same worker have the same hash.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.record.id().hash(state);
    }
}

/// The worker that the caller runs in.
///
/// In a task that is the worker that runs it. On the program's main thread it is the main worker, whose name is
/// `MainThread` or `MainProcess`, after the backend. On another thread that this crate did not start it is, where
/// threads are the backend, a worker that stands for that thread, and where processes are, the main worker.
///
/// Python's `current_thread()` and `current_process()`.
pub fn current_worker() -> Worker {
    Worker::of_record(record::current())
}

/// The number of the worker that the caller runs in: its [`ident`](Worker::ident).
///
/// Python's `get_ident()`.
pub fn get_ident() -> u64 {
    record::current()
        .ident()
        .expect("a worker that runs has one")
}

/// All workers of this process that run, without the caller's own.
///
/// These are the [`Worker`]s and the workers of executors and pools that this process has started, threads and
/// processes alike. Helper threads are not workers. A worker that has ended is not listed, whether it was joined or
/// not. Where the caller is not the main worker, the main worker is one of them.
///
/// Python's `active_children()`.
pub fn active_children() -> Vec<Worker> {
    let current = current_worker();
    let mut workers = enumerate();
    workers.retain(|worker| *worker != current);
    workers
}

/// How many workers [`enumerate`] gives: one more than [`active_children`].
///
/// Python's `active_count()`.
pub fn active_count() -> usize {
    enumerate().len()
}

/// All workers of this process that run: the main one, those that it started, and the caller's own.
///
/// Python's `enumerate()`.
pub fn enumerate() -> Vec<Worker> {
    let mut records = vec![record::main_record()];
    records.extend(record::registered());
    let current = record::current();
    if records.iter().all(|record| record.id() != current.id()) {
        records.push(current);
    }
    records.into_iter().map(Worker::of_record).collect()
}
