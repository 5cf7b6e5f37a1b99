//! What is left to do when a worker process is gone.

use std::{collections::VecDeque, os::fd::AsFd, process::ExitStatus, sync::Arc, time::Duration};

use rustix::io::ioctl_fionread;
use tokio::net::unix::pipe;

use super::{
    ENDING_TIME, Link, SETTLING_TIME,
    state::{Current, Sentence},
};
use crate::{
    arena::{arena, process::Place},
    engine::{Job, processes::tidy, scheduler::Setback},
    error::{Death, Effect, Killed, TaskError, WorkerDied},
};

impl Link {
    /// The process is gone: settles what is left of it.
    pub(super) fn bury(self: &Arc<Self>, death: Death, setback: Option<Setback>) {
        self.leave_board();
        let (held, input) = {
            let mut state = self.state.lock();
            state.death = Some(death.clone());
            let held = std::mem::take(&mut state.held).into_iter();
            // Whoever is sending a job at this moment will find out.
            let (sending, held): (VecDeque<_>, VecDeque<_>) =
                held.partition(|current| current.sending);
            state.held = sending;
            (held, state.input.take())
        };
        if let Some(lanes) = &self.lanes {
            // Nobody waits there any more.
            lanes.replies().close();
        }
        self.scheduler.retire(self.id);
        let unread = input.map_or(0, |input| unread(&input));
        let mut charged = !self.state.lock().held.is_empty();
        // The last one first: those that it has not come to go back to where they were.
        for current in held.into_iter().rev() {
            charged |= self.abandon(current, unread, death.clone());
        }
        let (useful, greeted, failure, on_purpose) = {
            let state = self.state.lock();
            let settled = state
                .ready_since
                .is_some_and(|since| since.elapsed() >= SETTLING_TIME);
            (
                charged || state.completed > 0 || state.closed || settled,
                state.ready_since.is_some(),
                state.failure.clone(),
                state.sentence.is_some(),
            )
        };
        let setback = setback.or_else(|| {
            let died = || self.died(death.clone(), None, Effect::DidNotRun);
            match death {
                _ if useful => None,
                // Ctrl-C reaches a process that has not come to ignore it yet.
                Death::Signaled(libc::SIGINT) if !greeted => Some(Setback::Interruption(died())),
                _ => Some(Setback::Death(died())),
            }
        });
        let verdict = match (&setback, failure, death) {
            (Some(setback), ..) => Err(setback.cause().clone()),
            (None, Some(error), _) => Err(error),
            (None, None, Death::Exited(0)) => Ok(()),
            (None, None, death) => Err(self.died(death, None, Effect::Ran)),
        };
        self.record.end(verdict, on_purpose);
        self.scheduler.ended(self.id, setback);
    }

    /// Settles a job whose process is gone, or gives it to another worker if it has not begun; says
    /// whether it was settled.
    pub(super) fn abandon(&self, current: Current, unread: u64, death: Death) -> bool {
        let Current {
            job,
            request,
            entry,
            posted,
            piped,
            ..
        } = current;
        let unclaimed = match (&self.lanes, entry, posted) {
            (_, _, Some(number)) => !self.scheduler.bury(number),
            (Some(lanes), Some(entry), _) => !lanes.requests().has_taken(entry.number),
            _ => false,
        };
        let untouched = unclaimed || piped.is_some_and(|written| unread == written as u64);
        let effect = match untouched {
            true => Effect::DidNotRun,
            false => Effect::MayHaveRun,
        };
        if let Some(error) = self.sentenced(job.name(), effect) {
            self.end_job(job, error);
            return true;
        }
        let solo = self.scheduler.is_solo();
        if untouched && !solo {
            self.scheduler.give_back(job, request);
            return false;
        }
        let error = self.died(death, Some(job.name()), effect);
        if solo {
            self.state.lock().failure = Some(error.clone());
        }
        self.end_job(job, error);
        true
    }

    fn end_job(&self, job: Arc<dyn Job>, error: TaskError) {
        let settled = job.settle(Err(error));
        self.tally.count(settled.failed);
        self.scheduler.publish(job, settled);
    }

    /// What the job at hand is told if the process was killed on purpose.
    pub(super) fn sentenced(&self, task: &'static str, effect: Effect) -> Option<TaskError> {
        let killed = |limit| Killed::new(self.record.name(), self.pid, task, effect, limit);
        Some(match self.state.lock().sentence.as_ref()? {
            Sentence::Terminated => TaskError::Terminated(effect),
            Sentence::Killed => TaskError::Killed(killed(None)),
            Sentence::TimeLimit(limit) => TaskError::TimeLimit(killed(Some(*limit))),
        })
    }

    pub(super) fn died(
        &self,
        death: Death,
        task: Option<&'static str>,
        effect: Effect,
    ) -> TaskError {
        let (name, stderr) = (self.record.name(), self.errors.last_lines());
        TaskError::WorkerDied(WorkerDied::new(name, self.pid, death, task, effect, stderr))
    }
}

/// Buries the process of a link whose task is dropped, which only a mistake of ours could cause.
pub(super) struct Burial {
    pub(super) link: Arc<Link>,
    pub(super) done: bool,
}

impl Drop for Burial {
    fn drop(&mut self) {
        if !self.done {
            let death = Death::Protocol("the thread that served it failed".into());
            self.link.bury(death, None);
        }
    }
}

/// Puts in order what the process, which is gone, had in its hands, and what those had that it has
/// started itself.
pub(super) async fn bury_in_arena(place: Place) {
    const PAUSE: Duration = Duration::from_millis(1);
    // They end by themselves as well; but who waits for what they hold shall not wait for that.
    for _ in 0..ENDING_TIME.as_millis() {
        if place.end_orphans() {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    drop(place);
    // What it had freed and nobody has used since is left to this process.
    if arena().extents.are_in_use() {
        tidy::later();
    }
}

/// How many bytes the process has not read.
pub(super) fn unread(input: &pipe::Sender) -> u64 {
    ioctl_fionread(input.as_fd()).unwrap_or(0)
}

pub(super) fn death_of(status: ExitStatus) -> Death {
    use std::os::unix::process::ExitStatusExt;

    match (status.code(), status.signal()) {
        (Some(code), _) => Death::Exited(code),
        (None, Some(signal)) => Death::Signaled(signal),
        (None, None) => Death::Protocol(format!("an end that is none: {status}")),
    }
}
