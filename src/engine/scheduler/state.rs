//! What a scheduler knows of its jobs and workers, under one lock.

use std::{collections::VecDeque, sync::Arc};

use super::After;
use crate::{
    engine::{Job, Runner, inbox::Inbox, posts::Posts, room::Room},
    error::TaskError,
};

/// A number that one worker has at a time.
#[derive(Default)]
pub(super) struct Rank {
    pub(super) is_taken: bool,
    /// How many workers were started that had it.
    pub(super) starts: u64,
}

#[derive(Default)]
pub(in crate::engine) struct State {
    pub(in crate::engine) queue: VecDeque<Arc<dyn Job>>,
    /// What was submitted while all workers were busy, and comes after the queue.
    pub(in crate::engine) inbox: Arc<Inbox<Arc<dyn Job>>>,
    /// How many tasks of this program had been cancelled when the queue was last searched for them.
    pub(in crate::engine) cancelled: u64,
    /// The room in the queue, if it is limited.
    pub(in crate::engine) room: Option<Room>,
    /// What the workers take by themselves, once there is a board.
    pub(in crate::engine) posts: Option<Posts>,
    /// There is to be no board, or no memory for it.
    pub(in crate::engine) has_no_board: bool,
    /// Workers that are ended for the sake of a job, and must not come to another.
    pub(in crate::engine) doomed: Vec<u64>,
    /// Workers that wait to be given a job; the one that worked last is at the end.
    pub(in crate::engine) idle: Vec<Arc<dyn Runner>>,
    /// All workers that were started and have not ended.
    pub(in crate::engine) crew: Vec<Arc<dyn Runner>>,
    /// Those of them that have not asked for a job yet.
    pub(super) fresh: Vec<u64>,
    /// How many workers were started and have not ended, or are being started.
    pub(super) live: usize,
    /// Jobs that were taken for an idle worker and have not reached it yet, and whatever else has to be done before
    /// the end.
    pub(super) handed: usize,
    /// How many jobs are settled whose callbacks are still to be called, or are being called.
    pub(super) calling: usize,
    /// How many workers were ever named.
    pub(super) named: usize,
    /// How many tasks of workers that have ended gave a result, and how many an error.
    pub(super) past: (u64, u64),
    /// How many [`Hold`](super::Hold)s there are.
    pub(super) holds: usize,
    /// The numbers below `max` that workers have or had.
    pub(super) ranks: Vec<Rank>,
    pub(super) closed: bool,
    /// Closed, and what has not begun is cancelled.
    pub(in crate::engine) cancelling: bool,
    /// Closed, and no worker is to finish what it has, or to begin.
    pub(in crate::engine) terminated: bool,
    pub(in crate::engine) broken: Option<TaskError>,
    pub(super) setbacks: u32,
    pub(super) interruptions: u32,
    /// The largest number of workers at a death, since a worker was last of use.
    pub(super) peak: usize,
}

impl State {
    /// Whether jobs are refused from now on.
    pub(in crate::engine) fn takes_none(&self) -> bool {
        self.closed || self.broken.is_some()
    }

    /// How many workers are on their way to their first job.
    pub(super) fn coming(&self) -> usize {
        self.live.saturating_sub(self.crew.len()) + self.fresh.len()
    }

    /// How many workers took the place of one that had ended.
    pub(super) fn restarted(&self) -> u64 {
        let restarts = |rank: &Rank| rank.starts.saturating_sub(1);
        self.ranks.iter().map(restarts).sum()
    }

    /// A worker asks for its first job, or never will.
    pub(super) fn asked(&mut self, id: u64) {
        self.fresh.retain(|&fresh| fresh != id);
    }

    /// A worker was of use.
    pub(in crate::engine) fn came_after(&mut self, after: After) {
        if after != After::Nothing {
            self.setbacks = 0;
            self.interruptions = 0;
            self.peak = 0;
        }
    }

    /// Shuts the inbox: what is submitted from now on has to come to the scheduler.
    pub(super) fn shut(&mut self) {
        self.inbox.shut(&mut self.queue);
    }

    /// Whether no job will come any more.
    pub(super) fn is_over(&self) -> bool {
        self.closed && self.holds == 0
    }

    /// The idle workers, if they are to end.
    pub(super) fn dismissed(&mut self) -> Vec<Arc<dyn Runner>> {
        match self.is_over() {
            true => std::mem::take(&mut self.idle),
            false => Vec::new(),
        }
    }
}
