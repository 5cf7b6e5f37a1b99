//! A result to come that is put together from the results of several tasks, or shown to callbacks before
//! anybody else gets it.
//!
//! ```text
//! Pending ──► Delivering ──► Ready ──► Taken
//! ```
//!
//! Callbacks, wakers and destructors run outside of the lock.

use std::{
    mem,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Instant,
};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::{engine::processes::reactor, error::TaskError, unwind};

pub(super) struct Promise<T> {
    state: Mutex<State<T>>,
    ready: Condvar,
}

pub(super) type Outcome<T> = Result<T, TaskError>;

/// Is shown the outcome before it is handed out.
pub(super) type Hook<T> = Box<dyn FnOnce(&Outcome<T>) + Send>;

struct State<T> {
    stage: Stage<T>,
    hooks: Vec<Hook<T>>,
    waker: Option<Waker>,
}

enum Stage<T> {
    Pending,
    /// The hooks are being called.
    Delivering,
    Ready(Outcome<T>),
    Taken,
}

impl<T> State<T> {
    fn is_ready(&self) -> bool {
        matches!(self.stage, Stage::Ready(_) | Stage::Taken)
    }

    /// Errors stay, for every taker.
    fn take(&mut self) -> Outcome<T> {
        match mem::replace(&mut self.stage, Stage::Taken) {
            Stage::Ready(Err(error)) => {
                self.stage = Stage::Ready(Err(error.clone()));
                Err(error)
            }
            Stage::Ready(value) => value,
            _ => Err(TaskError::Taken),
        }
    }
}

impl<T: Send + 'static> Promise<T> {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Promise {
            state: Mutex::new(State {
                stage: Stage::Pending,
                hooks: Vec::new(),
                waker: None,
            }),
            ready: Condvar::new(),
        })
    }

    /// Keeps the promise; the first outcome stays.
    pub(super) fn complete(self: &Arc<Self>, outcome: Outcome<T>) {
        let mut state = self.state.lock();
        if !matches!(state.stage, Stage::Pending) {
            drop(state);
            return unwind::contain(|| drop(outcome));
        }
        if state.hooks.is_empty() {
            return self.publish(state, outcome);
        }
        state.stage = Stage::Delivering;
        drop(state);
        let promise = Arc::clone(self);
        reactor::off_the_reactor(move || promise.deliver(outcome));
    }

    /// Has the hook called with the outcome, before anybody gets that.
    pub(super) fn hook(&self, hook: Hook<T>) {
        let mut state = self.state.lock();
        state.hooks.push(hook);
        let outcome = match &state.stage {
            Stage::Pending | Stage::Delivering => return,
            Stage::Ready(_) | Stage::Taken => state.take(),
        };
        state.stage = Stage::Delivering;
        drop(state);
        self.deliver(outcome);
    }

    /// Calls the hooks, and then lets everybody have the outcome.
    fn deliver(&self, outcome: Outcome<T>) {
        loop {
            let mut state = self.state.lock();
            let hooks = mem::take(&mut state.hooks);
            if hooks.is_empty() {
                return self.publish(state, outcome);
            }
            drop(state);
            for hook in hooks {
                unwind::contain(|| hook(&outcome));
            }
        }
    }

    fn publish(&self, mut state: MutexGuard<'_, State<T>>, outcome: Outcome<T>) {
        state.stage = Stage::Ready(outcome);
        let waker = state.waker.take();
        drop(state);
        self.ready.notify_all();
        if let Some(waker) = waker {
            unwind::contain(|| waker.wake());
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.state.lock().is_ready()
    }

    pub(super) fn is_ok(&self) -> Option<bool> {
        match &self.state.lock().stage {
            Stage::Pending | Stage::Delivering => None,
            Stage::Ready(outcome) => Some(outcome.is_ok()),
            Stage::Taken => Some(true),
        }
    }

    /// Blocks until it is ready, or until the deadline; says whether it is.
    pub(super) fn wait(&self, deadline: Option<Instant>) -> bool {
        self.ready_by(deadline).is_some()
    }

    /// Blocks until it is ready, or until the deadline, and takes it.
    pub(super) fn take(&self, deadline: Option<Instant>) -> Outcome<T> {
        match self.ready_by(deadline) {
            Some(mut state) => state.take(),
            None => Err(TaskError::Timeout),
        }
    }

    fn ready_by(&self, deadline: Option<Instant>) -> Option<MutexGuard<'_, State<T>>> {
        let mut state = self.state.lock();
        while !state.is_ready() {
            match deadline {
                None => self.ready.wait(&mut state),
                Some(deadline) => {
                    let timed_out = self.ready.wait_until(&mut state, deadline).timed_out();
                    if timed_out && !state.is_ready() {
                        return None;
                    }
                }
            }
        }
        Some(state)
    }

    pub(super) fn poll_ready(&self, context: &mut Context<'_>) -> Poll<()> {
        // Wakers are cloned and dropped outside of the lock: they may do anything.
        let waker = context.waker().clone();
        let mut state = self.state.lock();
        let old = match state.is_ready() {
            true => Some(waker),
            false => state.waker.replace(waker),
        };
        let ready = state.is_ready();
        drop(state);
        drop(old);
        match ready {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}
