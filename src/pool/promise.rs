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
    time::{Duration, Instant},
};

use crate::{
    engine::processes::reactor,
    error::TaskError,
    shim::{Mutex, MutexGuard, Thread, park, thread},
    unwind,
    wakers::Wakers,
};

pub(super) struct Promise<T> {
    state: Mutex<State<T>>,
}

pub(super) type Outcome<T> = Result<T, TaskError>;

/// Is shown the outcome before it is handed out.
pub(super) type Hook<T> = Box<dyn FnOnce(&Outcome<T>) + Send>;

struct State<T> {
    stage: Stage<T>,
    hooks: Vec<Hook<T>>,
    /// Those that are blocked.
    threads: Vec<Thread>,
    /// Of the task that awaits the outcome.
    waker: Option<Waker>,
    /// Of tasks that only want to know that it is there.
    onlookers: Wakers,
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
                threads: Vec::new(),
                waker: None,
                onlookers: Wakers::default(),
            }),
        })
    }

    /// Keeps the promise; the first outcome stays.
    pub(super) fn complete(self: &Arc<Self>, outcome: Outcome<T>) {
        self.complete_and_release(outcome, ());
    }

    /// Keeps the promise, and drops what was held until then: hooks do not find it any more, and others
    /// find the promise kept once it is gone.
    pub(super) fn complete_and_release<H>(self: &Arc<Self>, outcome: Outcome<T>, held: H) {
        let mut state = self.state.lock();
        if !matches!(state.stage, Stage::Pending) {
            drop(state);
            drop(held);
            return unwind::contain(|| drop(outcome));
        }
        if state.hooks.is_empty() {
            return self.publish(state, outcome);
        }
        state.stage = Stage::Delivering;
        drop(state);
        drop(held);
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
        let threads = mem::take(&mut state.threads);
        let waker = state.waker.take();
        let onlookers = mem::take(&mut state.onlookers);
        drop(state);
        for thread in threads {
            thread.unpark();
        }
        if let Some(waker) = waker {
            unwind::contain(|| waker.wake());
        }
        onlookers.wake();
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
        loop {
            let mut state = self.state.lock();
            if state.is_ready() {
                return Some(state);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return None;
            }
            let this = thread::current();
            // It may be there from the last time, if something else has woken the thread.
            if state.threads.iter().all(|other| other.id() != this.id()) {
                state.threads.push(this);
            }
            drop(state);
            park(left);
        }
    }

    /// Takes it if it is ready, else remembers to wake the caller, of whom there is one.
    pub(super) fn poll_take(&self, context: &mut Context<'_>) -> Poll<Outcome<T>> {
        // Wakers are cloned and dropped outside of the lock: they may do anything.
        let waker = context.waker().clone();
        let mut state = self.state.lock();
        let (poll, old) = match state.is_ready() {
            true => (Poll::Ready(state.take()), Some(waker)),
            false => (Poll::Pending, state.waker.replace(waker)),
        };
        drop(state);
        drop(old);
        poll
    }

    /// Whether it is ready; else remembers, under this key, to wake the caller.
    pub(super) fn poll_ready(&self, key: &mut Option<u64>, context: &mut Context<'_>) -> Poll<()> {
        let waker = context.waker().clone();
        let mut state = self.state.lock();
        let (poll, old) = match state.is_ready() {
            true => (Poll::Ready(()), Some(waker)),
            false => (Poll::Pending, state.onlookers.keep(key, waker)),
        };
        drop(state);
        drop(old);
        poll
    }

    /// Who waited under this key does not any more.
    pub(super) fn forget(&self, key: u64) {
        let waker = self.state.lock().onlookers.forget(key);
        drop(waker);
    }
}
