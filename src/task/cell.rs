//! A task on its way, and the place of its result: the one allocation that a task costs.
//!
//! ```text
//! Pending ──► Running ──► settled ──► published
//!    └───────(cancelled)──────▲
//! ```
//!
//! *Settled* means that the outcome is decided, and there for who looks; *published* that those who
//! wait are told. The lock is held for moves only: the task, encoders, destructors, wakers and
//! callbacks run outside of it.

mod job;
mod shared;
mod taking;
mod waiting;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::work::Work;
use crate::{
    engine::{Carriage, Orders, Payload, Posting, Request, Runner, Settled},
    error::TaskError,
    shim::SpinLock,
    unwind,
};
pub(crate) use shared::Shared;
use waiting::Waiting;
pub(crate) use waiting::{Callback, Watcher};

/// Kept small, since a million of them may wait.
pub(crate) struct TaskCell<W: Work> {
    name: fn() -> &'static str,
    state: SpinLock<State<W>>,
}

struct State<W: Work> {
    stage: Stage<W>,
    /// Only there once somebody waits.
    waiting: Option<Box<Waiting<W::Output>>>,
}

enum Stage<W: Work> {
    Pending(Input<W>),
    /// With the worker, if that can be made to end the task.
    Running(Option<Arc<dyn Runner>>),
    Settled {
        outcome: Outcome<W::Output>,
        published: bool,
    },
}

enum Input<W> {
    Work(W),
    Request(Box<Request>),
}

enum Outcome<R> {
    Value(R),
    /// Decoded by whoever takes it, not by the thread that reads it from a pipe.
    Encoded(Box<Payload>),
    Error(TaskError),
    Taken,
}

impl<W: Work> State<W> {
    fn is_settled(&self) -> bool {
        matches!(self.stage, Stage::Settled { .. })
    }

    /// Where the pending task is posted.
    fn posting(&self) -> Option<&Posting> {
        match &self.stage {
            Stage::Pending(Input::Request(request)) => request.posting.as_ref(),
            _ => None,
        }
    }

    /// The same, if a worker has taken it from there, and nobody has noticed yet.
    fn taken(&self) -> Option<Posting> {
        self.posting().filter(|posting| posting.is_taken()).cloned()
    }

    /// Whether the task is pending, and not with a worker from now on either.
    fn withdraw(&self) -> bool {
        let is_pending = matches!(self.stage, Stage::Pending(_));
        is_pending && self.posting().is_none_or(Posting::withdraw)
    }

    fn is_published(&self) -> bool {
        matches!(
            self.stage,
            Stage::Settled {
                published: true,
                ..
            }
        )
    }

    fn waiting(&mut self) -> &mut Waiting<W::Output> {
        self.waiting.get_or_insert_default()
    }
}

impl<W: Work> TaskCell<W> {
    /// A task to be run by another process if there is something to carry it there, else by a thread of this one.
    pub(crate) fn of(work: W, carriage: Option<Carriage>) -> Arc<Self> {
        match carriage {
            None => Self::new(work),
            Some(carriage) => Self::encoded(work, carriage),
        }
    }

    /// A task to be run by a thread of this process.
    pub(crate) fn new(work: W) -> Arc<Self> {
        Self::with_stage(work.name(), Stage::Pending(Input::Work(work)))
    }

    /// The place of a result that no worker gives.
    pub(crate) fn without_work(name: fn() -> &'static str) -> Arc<Self> {
        Self::with_stage(name, Stage::Running(None))
    }

    /// A task to be run by another process: encoded right here, once. If that fails it is settled.
    fn encoded(work: W, carriage: Carriage) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        // Relaxed: only distinctness counts.
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = work.name();
        let stage = match work.request(id, carriage) {
            Ok(request) => Stage::Pending(Input::Request(Box::new(request))),
            Err(error) => Stage::Settled {
                outcome: Outcome::Error(error),
                published: true,
            },
        };
        // The arguments have gone where they had to go.
        unwind::discard(work);
        Self::with_stage(name, stage)
    }

    fn with_stage(name: fn() -> &'static str, stage: Stage<W>) -> Arc<Self> {
        Arc::new(TaskCell {
            name,
            state: SpinLock::new(State {
                stage,
                waiting: None,
            }),
        })
    }

    /// Moves a pending task to running, on a worker and for so long at most.
    fn begin(&self, runner: Option<Arc<dyn Runner>>, limit: Option<Duration>) -> Option<Input<W>> {
        let mut state = self.state.lock();
        if !matches!(state.stage, Stage::Pending(_)) {
            return None;
        }
        if limit.is_some() || state.waiting.is_some() {
            state.waiting().orders.begin(limit);
        }
        match std::mem::replace(&mut state.stage, Stage::Running(runner)) {
            Stage::Pending(input) => Some(input),
            _ => unreachable!("the stage was just looked at"),
        }
    }

    /// Changes the orders of a task that is not over; gives the worker that is to heed them.
    fn order(&self, change: impl FnOnce(&mut Orders, bool)) -> Option<Arc<dyn Runner>> {
        let mut state = self.state.lock();
        let runner = match &state.stage {
            Stage::Pending(_) => None,
            Stage::Running(runner) => Some(runner.clone()),
            Stage::Settled { .. } => return None,
        };
        change(&mut state.waiting().orders, runner.is_some());
        runner.flatten()
    }

    /// Decides the outcome, which was found here, unless it is decided.
    pub(crate) fn decide(&self, outcome: Result<W::Output, TaskError>) -> Settled {
        self.settle_with(match outcome {
            Ok(value) => Outcome::Value(value),
            Err(TaskError::Taken) => Outcome::Taken,
            Err(error) => Outcome::Error(error),
        })
    }

    fn settle_with(&self, outcome: Outcome<W::Output>) -> Settled {
        let failed = match &outcome {
            Outcome::Value(value) => W::has_failed(value),
            Outcome::Encoded(payload) => W::has_failed_elsewhere(payload),
            Outcome::Error(_) => true,
            Outcome::Taken => false,
        };
        let mut state = self.state.lock();
        let waiting = state.waiting.as_ref();
        let calls_back = waiting.is_some_and(|waiting| waiting.calls_back());
        if state.is_settled() {
            drop(state);
            unwind::discard(outcome);
            return Settled {
                calls_back,
                failed: true,
            };
        }
        let settled = Stage::Settled {
            outcome,
            published: false,
        };
        let before = std::mem::replace(&mut state.stage, settled);
        drop(state);
        // Arguments of a task that will not run.
        unwind::discard(before);
        Settled { calls_back, failed }
    }
}

#[cfg(all(test, not(freethreading_loom)))]
mod tests {
    use super::*;
    use crate::{Task, arena::passage::Reach, engine::Job, executor::TaskFuture, task::IntoTask};

    #[test]
    fn a_task_costs_little_memory() {
        // With the two counts of the `Arc` it is 72 bytes.
        assert_eq!(size_of::<TaskError>(), 24);
        assert_eq!(size_of::<TaskCell<Task<(), ()>>>(), 56);
    }

    #[test]
    fn a_task_that_its_worker_gives_back_runs_later_unless_it_was_killed() {
        let carriage = Carriage {
            max_frame_len: 1024,
            reach: Reach::Tree,
        };
        for killed in [false, true] {
            let cell = TaskCell::of((|| ()).into_task(), Some(carriage));
            let future = TaskFuture::new(Arc::clone(&cell) as _);
            let Some(Input::Request(request)) = cell.begin(None, None) else {
                panic!("it is not pending");
            };
            assert!(!killed || future.kill());
            let settled = cell.put_back(*request);
            assert_eq!(settled.is_some(), killed);
            assert!(!future.running());
            assert_eq!(future.cancelled(), killed);
        }
    }
}

#[cfg(all(test, freethreading_loom))]
mod models;
