//! The workers of a scheduler: when one is started, and what becomes of the others when one ends.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use super::{Scheduler, State, state::Rank};
use crate::{
    backend::Backend,
    engine::{Job, Runner},
    error::{Broken, Death, TaskError},
    task::encoded::EncodedTask,
    worker::record::{Record, Role},
};

/// How many workers in a row may end before they were of any use, until the executor gives up.
const SETBACKS: u32 = 3;

/// How many workers in a row may be interrupted before they say hello: a terminal's Ctrl-C reaches all of
/// them, and whoever keeps his finger on it interrupts their successors, too.
const INTERRUPTIONS: u32 = 1000;

/// What the scheduler's workers are to be.
pub(crate) struct Plan {
    pub(crate) crew: Crew,
    pub(crate) initializer: Option<EncodedTask>,
    /// How many jobs may wait for a worker.
    pub(crate) max_pending: Option<usize>,
    /// How long a job may take.
    pub(crate) task_timeout: Option<Duration>,
    /// How many jobs a worker runs before it is replaced.
    pub(crate) max_tasks: Option<u64>,
    /// How long a worker waits for a job before it ends.
    pub(crate) idle_timeout: Option<Duration>,
}

pub(crate) enum Crew {
    /// As many as needed, up to `max`; named with a prefix and a number.
    Many {
        max: usize,
        prefix: String,
        backend: Backend,
        hiring: Hiring,
    },
    /// One, which runs one job and is not replaced.
    Solo(Arc<Record>),
}

/// When the workers of a crew are started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hiring {
    /// When there is something to do: an executor's, whose tasks the program's end waits for.
    OnDemand,
    /// All at once, and again as soon as one has ended: a pool's, which goes with the program.
    AtOnce,
}

/// Why a worker ended before it was of any use.
pub(crate) enum Setback {
    Initializer(TaskError),
    Death(TaskError),
    /// By Ctrl-C, which was not meant for it.
    Interruption(TaskError),
}

impl Setback {
    pub(in crate::engine) fn cause(&self) -> &TaskError {
        match self {
            Setback::Initializer(cause) | Setback::Death(cause) | Setback::Interruption(cause) => {
                cause
            }
        }
    }
}

impl State {
    /// Takes the lowest number that no worker has.
    fn promote(&mut self) -> usize {
        let free = self.ranks.iter().position(|rank| !rank.is_taken);
        let rank = free.unwrap_or_else(|| {
            self.ranks.push(Rank::default());
            self.ranks.len() - 1
        });
        self.ranks[rank].is_taken = true;
        rank
    }

    fn rank(&mut self, rank: Option<usize>) -> Option<&mut Rank> {
        self.ranks.get_mut(rank?)
    }

    /// A worker is gone: another may have its number.
    fn dismiss(&mut self, rank: Option<usize>) {
        if let Some(rank) = self.rank(rank) {
            rank.is_taken = false;
        }
    }
}

impl Scheduler {
    /// Starts a worker, which is counted already.
    fn hire(self: &Arc<Self>) -> Result<(), TaskError> {
        let record = self.recruit();
        self.engine.start(self, &record).inspect_err(|_| {
            self.state.lock().dismiss(record.rank());
        })
    }

    /// The identity of the worker that is started next.
    fn recruit(&self) -> Arc<Record> {
        match &self.plan.crew {
            Crew::Solo(record) => Arc::clone(record),
            Crew::Many {
                prefix,
                backend,
                hiring,
                ..
            } => {
                let (number, rank) = {
                    let mut state = self.state.lock();
                    state.named += 1;
                    (state.named - 1, state.promote())
                };
                // A pool's workers go with the program.
                let record = Record::new(Role::Crew(self.id), *hiring == Hiring::AtOnce);
                record.set_rank(rank);
                record.set_backend(*backend);
                record.set_name(format!("{prefix}_{number}"));
                record
            }
        }
    }

    pub(super) fn max(&self) -> usize {
        match &self.plan.crew {
            Crew::Many { max, .. } => *max,
            Crew::Solo(_) => 1,
        }
    }

    /// Whether it has all its workers at all times.
    fn hires_at_once(&self) -> bool {
        match self.plan.crew {
            Crew::Many { hiring, .. } => hiring == Hiring::AtOnce,
            Crew::Solo(_) => false,
        }
    }

    /// How many setbacks in a row there may be, where so many workers were there at a time: all of them may die at once,
    /// for one reason.
    fn patience(setback: &Setback, peak: usize) -> u32 {
        match setback {
            Setback::Interruption(_) => INTERRUPTIONS,
            Setback::Initializer(TaskError::WorkerDied(died))
            | Setback::Death(TaskError::WorkerDied(died))
                if *died.death() != Death::Silent =>
            {
                SETBACKS.saturating_mul(peak.try_into().unwrap_or(u32::MAX))
            }
            Setback::Initializer(_) | Setback::Death(_) => SETBACKS,
        }
    }

    /// Starts all workers, or leaves none. One that was closed meanwhile, since the program ends, needs none.
    ///
    /// # Blocking
    ///
    /// Until they are created; where one is refused, until the others are gone.
    pub(crate) fn start_all(self: &Arc<Self>) -> Result<(), TaskError> {
        for _ in 0..self.max() {
            {
                let mut state = self.state.lock();
                if state.closed {
                    break;
                }
                state.live += 1;
            }
            if let Err(error) = self.hire() {
                self.state.lock().live -= 1;
                self.terminate();
                self.finished.wait(None);
                self.reap();
                return Err(error);
            }
        }
        Ok(())
    }

    /// Starts the one worker of a `Worker` with its one job. If it cannot be started, nothing has
    /// happened.
    pub(crate) fn run_solo(self: &Arc<Self>, job: Arc<dyn Job>) -> Result<(), TaskError> {
        {
            let mut state = self.state.lock();
            if state.closed {
                // The program ends, and does not look after it.
                return Err(TaskError::Shutdown);
            }
            state.queue.push_back(job);
            state.live = 1;
            state.closed = true;
        }
        self.hire().inspect_err(|_| {
            let mut state = self.state.lock();
            state.queue.clear();
            state.live = 0;
            self.unlock_and_finish(state);
        })
    }

    /// Starts one worker, which is counted already.
    pub(super) fn start(self: &Arc<Self>) {
        let Err(error) = self.hire() else {
            return;
        };
        let mut state = self.state.lock();
        state.live -= 1;
        state.shut();
        // Other workers will get to what is queued.
        let stranded = match state.live {
            0 => state.take_all(),
            _ => VecDeque::new(),
        };
        self.fail_all(state, stranded, error, Vec::new);
    }

    /// A worker was started: from now on it can be killed.
    pub(crate) fn enlist(&self, runner: Arc<dyn Runner>) {
        let terminated = {
            let mut state = self.state.lock();
            if let Some(rank) = state.rank(runner.rank()) {
                rank.starts += 1;
            }
            state.crew.push(Arc::clone(&runner));
            state.fresh.push(runner.id());
            state.terminated
        };
        if terminated {
            let at_hand = runner.terminate();
            debug_assert!(at_hand.is_empty(), "it has just been started");
        }
    }

    /// A worker that was enlisted could not be started after all.
    pub(crate) fn delist(&self, runner: &dyn Runner) {
        let mut state = self.state.lock();
        if let Some(rank) = state.rank(runner.rank()) {
            rank.starts -= 1;
        }
        state.crew.retain(|other| other.id() != runner.id());
        state.asked(runner.id());
    }

    /// A worker is not to be given jobs any more. If it was not idle (`false`), whoever has taken it
    /// from the list is about to give it one, or to stop it.
    pub(crate) fn retire(&self, id: u64) -> bool {
        let mut state = self.state.lock();
        let before = state.idle.len();
        state.idle.retain(|other| other.id() != id);
        before != state.idle.len()
    }

    /// A worker has ended.
    pub(crate) fn ended(self: &Arc<Self>, id: u64, setback: Option<Setback>) {
        let mut state = self.state.lock();
        let ended = state.crew.iter().find(|other| other.id() == id).cloned();
        if let Some(ended) = ended {
            let stats = ended.stats();
            state.past.0 += stats.completed;
            state.past.1 += stats.failed;
            state.dismiss(ended.rank());
        }
        state.crew.retain(|other| other.id() != id);
        state.idle.retain(|other| other.id() != id);
        state.doomed.retain(|&other| other != id);
        state.peak = state.peak.max(state.live);
        state.live -= 1;
        state.shut();
        state.asked(id);
        let mut failed = VecDeque::new();
        if let Some(setback) = setback {
            let count = match setback {
                Setback::Interruption(_) => &mut state.interruptions,
                Setback::Initializer(_) | Setback::Death(_) => &mut state.setbacks,
            };
            *count += 1;
            let count = *count;
            let verdict = if self.is_solo() {
                Some(setback.cause().clone())
            } else if count >= Self::patience(&setback, state.peak) {
                let initializer = matches!(setback, Setback::Initializer(_));
                let broken = Broken::new(initializer, count, setback.cause().clone());
                Some(TaskError::Broken(broken))
            } else {
                None
            };
            if let Some(error) = verdict {
                failed = state.take_all();
                state.broken = Some(error);
            }
        }
        state.post();
        let wanted = state.has_jobs() || (self.hires_at_once() && !state.is_over());
        if state.broken.is_none() && !state.terminated && wanted && state.live < self.max() {
            state.live += 1;
            self.unlock_and_call(state);
            return self.start();
        }
        match state.broken.clone() {
            Some(error) => self.fail_all(state, failed, error, Vec::new),
            None => self.unlock_and_finish(state),
        }
    }
}
