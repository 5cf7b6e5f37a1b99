//! Waiting for a task's outcome, blocking or polled, and taking it.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use super::{Outcome, Stage, State, TaskCell};
use crate::{
    deadline,
    engine::{Patience, Runner},
    error::TaskError,
    look::{Looker, give_way_and, look_and_give_way},
    shim::{SpinLockGuard, park},
    task::work::Work,
};

impl<W: Work> TaskCell<W> {
    /// The state once the outcome is decided; blocks until then, or until the deadline.
    pub(super) fn settled_by(
        &self,
        deadline: Option<Instant>,
    ) -> Option<SpinLockGuard<'_, State<W>>> {
        let is_published = || self.state.lock().is_published().then_some(());
        let (mut noticed, mut looked, mut first) = (false, !W::MAY_BE_SHORT, true);
        loop {
            let mut state = self.state.lock();
            // Those who look again and again wait to be told, like those who sleep: the worker is to
            // be free again by then.
            if state.is_published() || (state.is_settled() && first) {
                return Some(state);
            }
            first = false;
            let left = deadline::left(deadline);
            if left == Some(Duration::ZERO) {
                if let Some(waiting) = &mut state.waiting {
                    waiting.threads.remove_current();
                }
                return state.is_settled().then_some(state);
            }
            if !noticed && let Some(posting) = state.taken() {
                drop(state);
                posting.notice();
                noticed = true;
                continue;
            }
            if let Stage::Running(Some(runner)) = &state.stage {
                let runner = Arc::clone(runner);
                drop(state);
                let is_over = || !self.is_with(&runner);
                if Arc::clone(&runner).attend(Patience::Until(deadline), &is_over) {
                    continue;
                }
                state = self.state.lock();
                if state.is_published() {
                    return Some(state);
                }
            }
            if !looked {
                drop(state);
                give_way_and(deadline, &is_published as &dyn Fn() -> _);
                looked = true;
                continue;
            }
            state.waiting().threads.add_current();
            drop(state);
            park(left);
        }
    }

    /// The state if the outcome is decided, else remembers to wake the caller.
    pub(super) fn poll_settled(
        &self,
        context: &mut Context<'_>,
    ) -> Poll<SpinLockGuard<'_, State<W>>> {
        // Wakers are cloned and dropped outside of the lock: they may do anything.
        let mut waker = None;
        let (mut noticed, mut attended, mut looked) = (false, false, !W::MAY_BE_SHORT);
        loop {
            let mut state = self.state.lock();
            if state.is_settled() {
                return Poll::Ready(state);
            }
            if !noticed && let Some(posting) = state.taken() {
                drop(state);
                posting.notice();
                noticed = true;
                continue;
            }
            if let Stage::Running(Some(runner)) = &state.stage
                && !std::mem::replace(&mut attended, true)
            {
                let runner = Arc::clone(runner);
                drop(state);
                let is_over = || !self.is_with(&runner);
                Arc::clone(&runner).attend(Patience::Moment, &is_over);
                continue;
            }
            if !looked {
                drop(state);
                self.look();
                looked = true;
                continue;
            }
            let Some(waker) = waker.take() else {
                drop(state);
                waker = Some(context.waker().clone());
                continue;
            };
            let old = state.waiting().waker.replace(waker);
            drop(state);
            drop(old);
            return Poll::Pending;
        }
    }

    /// A thread may be through with it sooner than a runtime's can go to sleep and be woken.
    fn look(&self) {
        look_and_give_way(Looker::Result, Looker::ResultYielding, &|| {
            self.state.lock().is_published()
        });
    }

    /// Whether the worker has the task, and not another one, or none any more.
    fn is_with(&self, runner: &Arc<dyn Runner>) -> bool {
        match &self.state.lock().stage {
            Stage::Running(Some(other)) => Arc::ptr_eq(other, runner),
            _ => false,
        }
    }

    pub(super) fn take_settled(
        &self,
        mut state: SpinLockGuard<'_, State<W>>,
    ) -> Result<W::Output, TaskError> {
        let Stage::Settled { outcome, .. } = &mut state.stage else {
            unreachable!("only a settled task has a result");
        };
        if let Outcome::Error(error) = outcome {
            return Err(error.clone());
        }
        let outcome = std::mem::replace(outcome, Outcome::Taken);
        drop(state);
        match outcome {
            Outcome::Value(value) => Ok(value),
            Outcome::Encoded(payload) => payload.open(W::decode).inspect_err(|error| {
                if let Stage::Settled { outcome, .. } = &mut self.state.lock().stage {
                    *outcome = Outcome::Error(error.clone());
                }
            }),
            Outcome::Taken => Err(TaskError::Taken),
            Outcome::Error(_) => unreachable!("errors stay, for every taker"),
        }
    }
}
