//! What a link knows of its process and of the jobs that this has.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::net::unix::pipe;

use super::Ending;
use crate::{
    arena::{
        lane::{Writer, Written},
        process::Place,
    },
    engine::{Heed, Job, Request},
    error::{Death, TaskError},
    stats::Moment,
};

#[derive(Default)]
pub(super) struct State {
    /// The way to the process; gone once there is nothing more to say, or nobody to hear it.
    pub(super) input: Option<Arc<pipe::Sender>>,
    /// The way for what is small, where the process shares memory.
    pub(super) lane: Option<Writer>,
    /// The jobs that the process has, in the order in which it came to them. Where there are several, it is at the last
    /// one. It has done the others, but nobody has taken its replies yet; or it is just about to reply to the last but
    /// one.
    pub(super) held: VecDeque<Current>,
    /// When the link's task looks next whether a job has taken too long, whatever else it waits for.
    pub(super) alarm: Option<Instant>,
    /// How many jobs the process has completed.
    pub(super) completed: u64,
    /// Since when it has been ready for jobs.
    pub(super) ready_since: Option<Instant>,
    /// Since when it has had nothing to do.
    pub(super) idle_since: Option<Instant>,
    /// Whether the process was told that there are no more jobs.
    pub(super) closed: bool,
    /// Whether it is to be killed.
    pub(super) kill: bool,
    /// Why it is killed, if its job is to be told that.
    pub(super) sentence: Option<Sentence>,
    /// Its place in the table of those that share the memory, if it is given that.
    pub(super) place: Option<Place>,
    /// Whether it has said that it shares the memory.
    pub(super) shares: bool,
    /// Why the one job of a `Worker` failed, if that is known.
    pub(super) failure: Option<TaskError>,
    /// It is about to end, or to be ended: no more jobs.
    pub(super) leaving: bool,
    /// Why it is not served any more, if whoever took its replies has found that it did what it must not do.
    pub(super) ending: Option<Ending>,
    /// The process is gone, and this is how it went.
    pub(super) death: Option<Death>,
}

/// Why a process is killed on purpose.
pub(super) enum Sentence {
    /// All workers are.
    Terminated,
    /// Its task is to end.
    Killed,
    /// Its task has exceeded this limit.
    TimeLimit(Duration),
}

/// The job that the process has, or is being given.
pub(super) struct Current {
    pub(super) job: Arc<dyn Job>,
    pub(super) since: Moment,
    /// When the process is killed for it.
    pub(super) deadline: Option<Instant>,
    pub(super) request: Request,
    /// Its frame in the lane, if that is in use; it may only say that the request is in the pipe.
    pub(super) entry: Option<Written>,
    /// Its number on the board, if the process has it from there.
    pub(super) posted: Option<u64>,
    /// How much of the request is in the pipe, if it goes that way.
    pub(super) piped: Option<usize>,
    /// Somebody is writing to the pipe right now, and will look at the state afterwards.
    pub(super) sending: bool,
}

impl Current {
    pub(super) fn is(&self, job: &Arc<dyn Job>) -> bool {
        std::ptr::addr_eq(Arc::as_ptr(&self.job), Arc::as_ptr(job))
    }

    /// What is left to be written to the pipe, if nobody is doing that.
    pub(super) fn unwritten(&self) -> Option<(u64, Bytes)> {
        let written = self.piped.filter(|_| !self.sending)?;
        let is_left = written < self.request.frame.len();
        is_left.then(|| (self.request.id, self.request.frame.slice(written..)))
    }
}

impl State {
    /// Sets the alarm for the first job at hand that may take too long, and says when that is.
    ///
    /// One that is set for an earlier time stays: where all jobs have the same limit it is early enough for the next
    /// ones, too, so that the link's task need not be woken for each of them.
    pub(super) fn set_alarm(&mut self) -> Option<Instant> {
        let alarm = self.alarm.filter(|&at| at > Instant::now());
        let deadlines = self.held.iter().filter_map(|current| current.deadline);
        self.alarm = deadlines.chain(alarm).min();
        self.alarm
    }

    /// Whether there is this deadline, and no alarm until then.
    pub(super) fn needs_alarm(&self, deadline: Option<Instant>) -> bool {
        deadline.is_some_and(|deadline| self.alarm.is_none_or(|alarm| deadline < alarm))
    }

    /// The job whose request has this number.
    pub(super) fn held(&mut self, id: u64) -> Option<&mut Current> {
        self.held
            .iter_mut()
            .find(|current| current.request.id == id)
    }

    /// Takes out the first job of which this holds.
    pub(super) fn take_if(&mut self, is_it: impl Fn(&Current) -> bool) -> Option<Current> {
        let position = self.held.iter().position(is_it)?;
        self.held.remove(position)
    }

    /// Whether the process can be killed for the sake of this job. While it may still have to reply to the one before it
    /// cannot, unless the caller insists: then that reply is lost.
    pub(super) fn may_end_for(&self, job: &Arc<dyn Job>, insists: bool) -> Heed {
        match self.held.iter().position(|current| current.is(job)) {
            None => Heed::NotNow,
            Some(at) if at + 1 < self.held.len() => Heed::TooLate,
            Some(at) if at > 0 && !insists => Heed::NotNow,
            Some(_) => Heed::Heeded,
        }
    }

    /// The process is to be killed, for this reason; the first reason stays, unless all workers are killed.
    pub(super) fn condemn(&mut self, sentence: Sentence) {
        self.kill = true;
        if self.sentence.is_none() || matches!(sentence, Sentence::Terminated) {
            self.sentence = Some(sentence);
        }
    }
}
