//! What runs tasks. A [`Scheduler`] holds the queue and the workers of one executor (or of one
//! `Worker`); an [`Engine`] makes the workers; a [`Runner`] is one of them, a thread or a process.
//!
//! - [`scheduler`] hands out the jobs, [`inbox`] takes them in while all threads are busy, [`room`] limits how many
//!   wait, [`posts`] are those that worker processes may take by themselves, [`purge`] takes out those that were
//!   cancelled,
//! - [`threads`] are workers that are threads, each with a [`tray`] for its next job,
//! - [`processes`] are workers that are processes,
//! - [`reactor`] is the thread that serves those and keeps the time, [`aside`] what must not be done on it.

pub(crate) mod aside;
mod inbox;
mod posts;
pub(crate) mod processes;
pub(crate) mod purge;
pub(crate) mod reactor;
pub(crate) mod room;
pub(crate) mod scheduler;
pub(crate) mod threads;
mod tray;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{
    arena::{
        extent::Extent,
        passage::{Luggage, Reach},
    },
    backend::Backend,
    codec::{self, Encoded},
    deadline,
    error::{Error, TaskError},
    stats::WorkerStats,
    worker::record::Record,
};
use processes::Processes;
use threads::Threads;

pub(crate) use posts::Posting;
pub(crate) use scheduler::Scheduler;

/// A task on its way to a worker, and the place of its result.
///
/// A job is settled exactly once; then it is published exactly once, by whoever settled it. Between
/// the two its worker can make itself available, so that who sees the result finds a free worker.
pub(crate) trait Job: Send + Sync {
    /// The path of the task's function, for messages.
    fn name(&self) -> &'static str;

    /// Runs the task on this thread, for so long at most, unless it was cancelled: `None` then, else
    /// what [`settle`] says.
    ///
    /// [`settle`]: Job::settle
    fn call(&self, limit: Option<Duration>) -> Option<Settled>;

    /// Takes the task's encoded request for a worker process, which has so long for it at most, unless
    /// the task was cancelled.
    fn take_request(&self, runner: Arc<dyn Runner>, limit: Option<Duration>) -> Option<Request>;

    /// The worker did not get to see the request: the task is pending again, unless it was killed
    /// meanwhile; then it is settled, and to be published.
    fn put_back(&self, request: Request) -> Option<Settled>;

    /// Has the request of a pending task posted, which gives the place if it has fit.
    fn post(&self, post: &mut dyn FnMut(&Request) -> Option<Posting>) -> Post;

    /// The request is not posted any more, and no worker has taken it.
    fn unpost(&self);

    /// What the worker is to know while it has the task.
    fn orders(&self) -> Orders;

    /// Whether the outcome is decided.
    fn is_settled(&self) -> bool;

    /// Why there is no result, if that is decided.
    fn error(&self) -> Option<TaskError>;

    /// Decides the outcome; the first one stays.
    fn settle(&self, outcome: Result<Payload, TaskError>) -> Settled;

    /// Makes the outcome visible, wakes those who wait for it and calls the callbacks.
    fn publish(self: Arc<Self>);
}

/// What became of a job that was to be posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Post {
    Posted,
    /// It has to be given to a worker.
    Unfit,
    /// It is not pending any more.
    Over,
}

/// When a task that runs is to end.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Orders {
    /// Now.
    pub(crate) stop: bool,
    /// When it has run for so long.
    pub(crate) limit: Option<Duration>,
    /// Then; known once it runs.
    pub(crate) deadline: Option<Instant>,
}

impl Orders {
    /// It may run for so long at most.
    pub(crate) fn shorten(&mut self, limit: Duration) {
        self.limit = Some(self.limit.map_or(limit, |other| other.min(limit)));
    }

    /// It runs from now on, or ran before and gets another limit now.
    pub(crate) fn begin(&mut self, limit: Option<Duration>) {
        if let Some(limit) = limit {
            self.shorten(limit);
        }
        let deadline = self.limit.and_then(deadline::after);
        self.deadline = match (self.deadline, deadline) {
            (Some(old), Some(new)) => Some(old.min(new)),
            (old, new) => old.or(new),
        };
    }

    /// Whether it is to end now.
    pub(crate) fn are_to_stop(&self) -> bool {
        self.stop
            || self
                .deadline
                .is_some_and(|deadline| Instant::now() >= deadline)
    }
}

/// What came of settling a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) struct Settled {
    /// Whether publishing the job will call callbacks, which take as long as they like.
    pub(crate) calls_back: bool,
    pub(crate) failed: bool,
}

/// A frame that asks a worker process to run a task.
pub(crate) struct Request {
    pub(crate) id: u64,
    pub(crate) frame: Bytes,
    /// The arguments, if they are not in the frame: the worker takes them when it has read that.
    pub(crate) extent: Option<Extent>,
    /// Keeps the primitives that the frame names, until the worker has answered.
    pub(crate) luggage: Luggage,
    /// Where it is posted, if it is.
    pub(crate) posting: Option<Posting>,
}

impl Request {
    /// How many bytes it has, the arguments included.
    pub(crate) fn len(&self) -> usize {
        self.frame.len() + self.extent.as_ref().map_or(0, Extent::len)
    }
}

/// What a request can carry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Carriage {
    /// The largest frame, in bytes.
    pub(crate) max_frame_len: usize,
    /// Whether the worker shares the memory of this process.
    pub(crate) reach: Reach,
}

/// An encoded result.
pub(crate) struct Payload {
    pub(crate) body: Body,
    /// Keeps the primitives that the result names, until it is decoded.
    pub(crate) _luggage: Luggage,
}

/// What is encoded.
pub(crate) enum Body {
    Bytes(Bytes),
    Extent(Extent),
}

impl Payload {
    pub(crate) fn len(&self) -> usize {
        match &self.body {
            Body::Bytes(bytes) => bytes.len(),
            Body::Extent(extent) => extent.len(),
        }
    }

    /// Whether what is encoded is a tuple that begins with `Some`.
    pub(crate) fn begins_with_some(&self) -> bool {
        match &self.body {
            Body::Bytes(bytes) => codec::begins_with_some(&mut &bytes[..]),
            Body::Extent(extent) => codec::begins_with_some(&mut extent.reader()),
        }
    }

    /// Gives the encoding to something that decodes it.
    pub(crate) fn open<T>(self, decode: impl FnOnce(Encoded<'_>) -> T) -> T {
        match self.body {
            Body::Bytes(bytes) => decode(Encoded::Bytes(&bytes)),
            Body::Extent(extent) => decode(Encoded::Extent(extent)),
        }
    }
}

/// A job that is settled, and is to be published.
pub(crate) type SettledJob = (Arc<dyn Job>, Settled);

/// Decides that a job has failed.
pub(crate) fn settle(job: Arc<dyn Job>, error: TaskError) -> SettledJob {
    let settled = job.settle(Err(error));
    (job, settled)
}

/// The engine of a backend, with the stacks that its threads get or the options of its processes.
pub(crate) fn engine(
    backend: Backend,
    stack_size: Option<usize>,
    options: processes::Options,
) -> Result<Box<dyn Engine>, Error> {
    Ok(match backend {
        Backend::Threading => Box::new(Threads::new(stack_size)),
        Backend::Multiprocessing => Box::new(Processes::new(options)?),
    })
}

/// Makes workers of one kind.
pub(crate) trait Engine: Send + Sync {
    /// Starts the worker, which will ask the scheduler for jobs.
    fn start(&self, scheduler: &Arc<Scheduler>, record: &Arc<Record>) -> Result<(), TaskError>;

    /// For worker processes, what a request can carry; `None` where jobs need no encoding.
    fn carriage(&self) -> Option<Carriage>;

    /// Blocks until the threads that were started have ended, and nothing is left of them.
    fn reap(&self) {}
}

/// Whoever wants a worker ended for a job waits so long until it has replied to the one before.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// What a worker makes of new orders for a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Heed {
    Heeded,
    /// It does not have the job, yet or any more, or cannot tell it from another.
    NotNow,
    /// It has done the job, and is about to say so.
    TooLate,
}

/// How long somebody waits for a job.
#[derive(Clone, Copy)]
pub(crate) enum Patience {
    /// Some microseconds, and only if that has been of use.
    Moment,
    /// Until then, if there is an end.
    Until(Option<Instant>),
}

/// One worker of a scheduler, a thread or a process.
pub(crate) trait Runner: Send + Sync {
    /// Distinguishes the worker from the others of its scheduler.
    fn id(&self) -> u64;

    /// Its number within its crew.
    fn rank(&self) -> Option<usize>;

    /// Gives a job to the worker, which is idle.
    fn give(self: Arc<Self>, job: Arc<dyn Job>);

    /// As whom it takes jobs from the board, if it does.
    fn takes_as(&self) -> Option<u16> {
        None
    }

    /// It has taken the job with this number from the board, maybe after another that it has. The scheduler is
    /// locked.
    fn has_taken(self: Arc<Self>, _job: Arc<dyn Job>, _number: u64) {}

    /// Tells the worker, which is idle, that there will be no more jobs.
    fn stop(&self);

    /// Ends the worker at once, whatever it does; `false` if this kind of worker cannot be.
    fn kill(&self) -> bool;

    /// Looks at the orders of a job again, if it is the one at hand. Whoever has waited long enough insists.
    fn heed(&self, job: &Arc<dyn Job>, insists: bool) -> Heed;

    /// Blocks, and does what is to be done for the worker meanwhile, until a job of it is over, as `is_over`
    /// says, or patience is at its end. `false` if that is not for the caller to do: then it has to wait
    /// otherwise.
    fn attend(self: Arc<Self>, _patience: Patience, _is_over: &dyn Fn() -> bool) -> bool {
        false
    }

    /// From now on `cancelled()` is true in its tasks.
    fn ask(&self);

    /// What it is and what it does.
    fn stats(&self) -> WorkerStats;

    /// Takes no more jobs; those at hand fail with [`TaskError::Terminated`], and are given to be published. A
    /// process is killed; a thread goes on with what it does, but nobody waits for the result any more.
    fn terminate(&self) -> Vec<SettledJob>;
}

/// A number that no other runner of this process has.
fn runner_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    // Relaxed: only distinctness counts.
    NEXT.fetch_add(1, Ordering::Relaxed)
}
