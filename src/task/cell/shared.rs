//! A task as its [`TaskFuture`](crate::TaskFuture) sees it.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use super::{Callback, Input, Outcome, Stage, TaskCell, Watcher};
use crate::{
    engine::{Heed, Job, PATIENCE, aside, purge},
    error::TaskError,
    shim::{hint, thread},
    task::work::Work,
    unwind,
};

/// What a [`TaskFuture`](crate::TaskFuture) does with its task, whatever the task's arguments are.
pub(crate) trait Shared<R>: Job {
    fn running(&self) -> bool;
    fn cancelled(&self) -> bool;
    /// Cancels the task if it is pending; says whether it is cancelled now.
    fn cancel(self: Arc<Self>) -> bool;
    /// Cancels the task, or has it ended or asked to end; says whether.
    fn kill(self: Arc<Self>) -> bool;
    /// The same without waiting for the worker: where that is between two tasks it is left to another thread.
    fn kill_unwaited(self: Arc<Self>);
    /// Has the task killed when it has run for so long.
    fn limit(self: Arc<Self>, limit: Duration);
    /// Blocks until the result is there, or until the deadline, and takes it.
    fn take(&self, deadline: Option<Instant>) -> Result<R, TaskError>;
    /// Blocks until the result is there, or until the deadline; says whether it is there.
    fn wait(&self, deadline: Option<Instant>) -> bool;
    /// Whether there is a result rather than an error, once it is decided.
    fn succeeded(&self) -> Option<bool>;
    /// Whether the result is there; else remembers, under this key, to wake the caller.
    fn poll_done(&self, key: &mut Option<u64>, context: &mut Context<'_>) -> Poll<()>;
    /// Who waited under this key does not any more.
    fn forget(&self, key: u64);
    /// Takes the result if it is there, else remembers to wake the caller.
    fn poll_take(&self, context: &mut Context<'_>) -> Poll<Result<R, TaskError>>;
    /// How large the encoded arguments or, once it is there, the encoded result is, in bytes.
    fn encoded_len(&self) -> Option<usize>;
    /// Has the one watcher told; `false` if the outcome is decided already.
    fn watch(&self, watcher: Arc<dyn Watcher>, number: usize) -> bool;
    /// Keeps the callback, or gives it back if the outcome is decided.
    fn add_callback(&self, callback: Callback<R>) -> Option<Callback<R>>;
}

/// How often whoever must not wait tries to kill a task.
const TRIES: usize = 8;

impl<W: Work> TaskCell<W> {
    /// What [`Shared::kill`] says; `None` while the task's worker is about to get it, to give it back or to have done
    /// it. Whoever has waited long enough insists.
    fn try_kill(self: &Arc<Self>, insists: bool) -> Option<bool> {
        if Arc::clone(self).cancel() {
            return Some(true);
        }
        let mut running = false;
        let runner = self.order(|orders, begun| {
            orders.stop = begun;
            running = begun;
        });
        let job = Arc::clone(self) as Arc<dyn Job>;
        match runner.map(|runner| runner.heed(&job, insists)) {
            Some(Heed::Heeded) => return Some(true),
            Some(Heed::TooLate) => return Some(false),
            None if running => return Some(true),
            None | Some(Heed::NotNow) => {}
        }
        if let Stage::Settled { outcome, .. } = &self.state.lock().stage {
            return Some(matches!(
                outcome,
                Outcome::Error(
                    TaskError::Cancelled | TaskError::Killed(_) | TaskError::Terminated(_)
                )
            ));
        }
        let taken = self.state.lock().taken();
        if let Some(posting) = taken {
            posting.notice();
        }
        None
    }
}

impl<W: Work> Shared<W::Output> for TaskCell<W> {
    fn running(&self) -> bool {
        let state = self.state.lock();
        matches!(state.stage, Stage::Running(_)) || state.taken().is_some()
    }

    fn cancelled(&self) -> bool {
        matches!(
            self.state.lock().stage,
            Stage::Settled {
                outcome: Outcome::Error(TaskError::Cancelled),
                ..
            }
        )
    }

    fn cancel(self: Arc<Self>) -> bool {
        let mut state = self.state.lock();
        if state.withdraw() {
            let cancelled = Stage::Settled {
                outcome: Outcome::Error(TaskError::Cancelled),
                published: false,
            };
            let pending = std::mem::replace(&mut state.stage, cancelled);
            drop(state);
            // First of all: what is discarded may be waiting for that room.
            purge::was_cancelled();
            unwind::discard(pending);
            Arc::clone(&self).publish();
            return true;
        }
        drop(state);
        self.cancelled()
    }

    fn kill(self: Arc<Self>) -> bool {
        let since = Instant::now();
        loop {
            if let Some(killed) = self.try_kill(since.elapsed() > PATIENCE) {
                return killed;
            }
            hint::spin_loop();
            thread::yield_now();
        }
    }

    fn kill_unwaited(self: Arc<Self>) {
        for _ in 0..TRIES {
            if self.try_kill(false).is_some() {
                return;
            }
            hint::spin_loop();
        }
        aside::leave(Box::new(move || {
            self.kill();
        }));
    }

    fn limit(self: Arc<Self>, limit: Duration) {
        let runner = self.order(|orders, begun| {
            if begun {
                orders.begin(Some(limit));
            } else {
                orders.shorten(limit);
            }
        });
        if let Some(runner) = runner {
            // One that does not have it yet looks for orders when it gets it.
            let _ = runner.heed(&(self as Arc<dyn Job>), false);
        }
    }

    fn succeeded(&self) -> Option<bool> {
        match &self.state.lock().stage {
            Stage::Settled { outcome, .. } => Some(!matches!(outcome, Outcome::Error(_))),
            _ => None,
        }
    }

    fn wait(&self, deadline: Option<Instant>) -> bool {
        self.settled_by(deadline).is_some()
    }

    fn take(&self, deadline: Option<Instant>) -> Result<W::Output, TaskError> {
        match self.settled_by(deadline) {
            Some(state) => self.take_settled(state),
            None => Err(TaskError::Timeout),
        }
    }

    fn poll_done(&self, key: &mut Option<u64>, context: &mut Context<'_>) -> Poll<()> {
        let waker = context.waker().clone();
        let mut state = self.state.lock();
        let (poll, old) = match state.is_settled() {
            true => (Poll::Ready(()), Some(waker)),
            false => (Poll::Pending, state.waiting().onlookers.keep(key, waker)),
        };
        drop(state);
        drop(old);
        poll
    }

    fn forget(&self, key: u64) {
        let waker = match &mut self.state.lock().waiting {
            Some(waiting) => waiting.onlookers.forget(key),
            None => None,
        };
        drop(waker);
    }

    fn poll_take(&self, context: &mut Context<'_>) -> Poll<Result<W::Output, TaskError>> {
        self.poll_settled(context)
            .map(|state| self.take_settled(state))
    }

    fn encoded_len(&self) -> Option<usize> {
        match &self.state.lock().stage {
            Stage::Pending(Input::Request(request)) => Some(request.len()),
            Stage::Settled {
                outcome: Outcome::Encoded(payload),
                ..
            } => Some(payload.len()),
            _ => None,
        }
    }

    fn watch(&self, watcher: Arc<dyn Watcher>, number: usize) -> bool {
        let mut state = self.state.lock();
        if state.is_settled() {
            return false;
        }
        state.waiting().watcher = Some((watcher, number));
        true
    }

    fn add_callback(&self, callback: Callback<W::Output>) -> Option<Callback<W::Output>> {
        let mut state = self.state.lock();
        if state.is_settled() {
            return Some(callback);
        }
        state.waiting().callbacks.push(callback);
        None
    }
}
