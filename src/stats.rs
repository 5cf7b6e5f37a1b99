//! What there is to see of an executor or a pool at work.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use rustix::time::{ClockId, Timespec, clock_gettime};

/// What an executor or a pool and its workers are doing, at one moment; see
/// [`WorkerPoolExecutor::stats`](crate::WorkerPoolExecutor::stats) and
/// [`WorkerPool::stats`](crate::WorkerPool::stats).
///
/// What counts as a task of a map is a chunk, which is one item where no chunksize was given. Without one a pool's
/// [`map`](crate::WorkerPool::map) makes chunks of as many items as it sees fit, and on threads all that a worker does
/// for it is one task. Such a task has failed if the function panicked with one of its items; the items behind that
/// one are left out.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// How many tasks wait for a worker.
    pub queued: usize,
    /// How many tasks the workers are running.
    pub running: usize,
    /// How many tasks have given a result, since the beginning.
    pub completed: u64,
    /// How many tasks have begun and given an error instead, or panicked in a map. Tasks that were cancelled before
    /// are not counted.
    pub failed: u64,
    /// How many workers were started in the place of one that had ended.
    pub restarted: u64,
    /// The workers that there are now.
    pub workers: Vec<WorkerStats>,
}

/// What one worker is doing. What counts as a task of a map is said at [`Stats`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WorkerStats {
    /// Its name.
    pub name: String,
    /// Its [`ident`](crate::Worker::ident): for a process, the process id.
    pub ident: Option<u64>,
    /// Its [`rank`](crate::Worker::rank).
    pub rank: Option<usize>,
    /// The path of the function that it is running, if it is running a task.
    pub task: Option<&'static str>,
    /// For how long it has been running that task; exact to some milliseconds.
    pub running_for: Option<Duration>,
    /// How many of its tasks have given a result.
    pub completed: u64,
    /// How many of its tasks have given an error.
    pub failed: u64,
}

/// Counts a worker's tasks. One at a time ends, so nobody else writes.
#[derive(Default)]
pub(crate) struct Tally {
    completed: AtomicU64,
    failed: AtomicU64,
}

impl Tally {
    #[inline]
    pub(crate) fn count(&self, failed: bool) {
        let count = match failed {
            true => &self.failed,
            false => &self.completed,
        };
        // Relaxed: the result is published afterwards, and with it the count.
        count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    pub(crate) fn completed(&self) -> u64 {
        self.completed.load(Ordering::Relaxed)
    }

    pub(crate) fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }
}

/// A moment, told by a clock that costs next to nothing and ticks every few milliseconds.
#[derive(Clone, Copy)]
pub(crate) struct Moment(Timespec);

impl Moment {
    #[inline]
    pub(crate) fn now() -> Self {
        Moment(clock_gettime(ClockId::MonotonicCoarse))
    }

    pub(crate) fn elapsed(self) -> Duration {
        let passed = Moment::now().0 - self.0;
        passed.try_into().unwrap_or_default()
    }
}
