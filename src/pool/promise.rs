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
    deadline,
    engine::aside,
    error::TaskError,
    shim::{Mutex, MutexGuard, park},
    unwind,
    wakers::{Parked, Wakers},
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
    threads: Parked,
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

impl<T> Promise<T> {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Promise {
            state: Mutex::new(State {
                stage: Stage::Pending,
                hooks: Vec::new(),
                threads: Parked::default(),
                waker: None,
                onlookers: Wakers::default(),
            }),
        })
    }

    /// Keeps the promise; the first outcome stays.
    pub(super) fn complete(self: &Arc<Self>, outcome: Outcome<T>)
    where
        T: Send + 'static,
    {
        self.complete_and_release(outcome, ());
    }

    /// Keeps the promise, and drops what was held until then: hooks do not find it any more, and others
    /// find the promise kept once it is gone.
    pub(super) fn complete_and_release<H>(self: &Arc<Self>, outcome: Outcome<T>, held: H)
    where
        T: Send + 'static,
    {
        let mut state = self.state.lock();
        if !matches!(state.stage, Stage::Pending) {
            drop(state);
            drop(held);
            return unwind::discard(outcome);
        }
        if state.hooks.is_empty() {
            return self.publish(state, outcome);
        }
        state.stage = Stage::Delivering;
        drop(state);
        drop(held);
        let promise = Arc::clone(self);
        aside::off_the_reactor(move || promise.deliver(outcome));
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
        state.stage = match outcome {
            // Hooks that came late were shown that.
            Err(TaskError::Taken) => Stage::Taken,
            outcome => Stage::Ready(outcome),
        };
        let threads = mem::take(&mut state.threads);
        let waker = state.waker.take();
        let onlookers = mem::take(&mut state.onlookers);
        drop(state);
        threads.unpark();
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
            let left = deadline::left(deadline);
            if left == Some(Duration::ZERO) {
                return None;
            }
            state.threads.add_current();
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

#[cfg(all(test, not(freethreading_loom)))]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// Calls a function when it is dropped.
    struct OnDrop<F: FnMut()>(F);

    impl<F: FnMut()> Drop for OnDrop<F> {
        fn drop(&mut self) {
            (self.0)();
        }
    }

    #[test]
    fn a_promise_is_kept_before_what_is_held_is_dropped() {
        let promise = Promise::new();
        let kept = AtomicBool::new(false);
        let held = OnDrop(|| kept.store(promise.is_ready(), Ordering::SeqCst));
        promise.complete_and_release(Ok(1), held);
        assert!(kept.into_inner());
    }

    #[test]
    fn hooks_do_not_find_what_was_held() {
        let promise = Promise::new();
        let dropped = Arc::new(AtomicBool::new(false));
        let (drops, saw) = (Arc::clone(&dropped), Arc::new(AtomicBool::new(false)));
        let seen = Arc::clone(&saw);
        promise.hook(Box::new(move |_| {
            seen.store(dropped.load(Ordering::SeqCst), Ordering::SeqCst);
        }));
        let held = OnDrop(move || drops.store(true, Ordering::SeqCst));
        promise.complete_and_release(Ok(1), held);
        assert!(saw.load(Ordering::SeqCst));
    }
}

#[cfg(all(test, freethreading_loom))]
mod models {
    use std::future::poll_fn;

    use loom::{
        future::block_on,
        sync::atomic::{AtomicUsize, Ordering::SeqCst},
        thread::spawn,
    };

    use super::*;

    /// A promise that another thread keeps, or two do.
    fn kept_by(keepers: u32) -> (Arc<Promise<u32>>, Vec<loom::thread::JoinHandle<()>>) {
        let promise = Promise::new();
        let keep = |number| {
            let promise = Arc::clone(&promise);
            spawn(move || promise.complete(Ok(number)))
        };
        let keepers = (0..keepers).map(keep).collect();
        (promise, keepers)
    }

    fn join(keepers: Vec<loom::thread::JoinHandle<()>>) {
        for keeper in keepers {
            keeper.join().unwrap();
        }
    }

    #[test]
    fn loom_a_blocked_taker_gets_the_outcome() {
        loom::model(|| {
            let (promise, keepers) = kept_by(1);
            assert_eq!(promise.take(None).unwrap(), 0);
            assert!(matches!(promise.take(None), Err(TaskError::Taken)));
            join(keepers);
        });
    }

    #[test]
    fn loom_an_awaiting_taker_gets_the_outcome() {
        loom::model(|| {
            let (promise, keepers) = kept_by(1);
            let take = poll_fn(|context| promise.poll_take(context));
            assert_eq!(block_on(take).unwrap(), 0);
            join(keepers);
        });
    }

    #[test]
    fn loom_of_two_takers_one_gets_the_outcome_and_an_onlooker_sees_it() {
        loom::model(|| {
            let (promise, keepers) = kept_by(1);
            let other = {
                let promise = Arc::clone(&promise);
                spawn(move || promise.take(None).is_ok())
            };
            let mut key = None;
            block_on(poll_fn(|context| promise.poll_ready(&mut key, context)));
            assert_ne!(promise.take(None).is_ok(), other.join().unwrap());
            join(keepers);
        });
    }

    #[test]
    fn loom_an_onlooker_that_leaves_takes_nothing_along() {
        loom::model(|| {
            let (promise, keepers) = kept_by(1);
            let mut key = None;
            let waker = std::task::Waker::noop();
            let _ = promise.poll_ready(&mut key, &mut Context::from_waker(waker));
            key.map(|key| promise.forget(key));
            let mut key = None;
            block_on(poll_fn(|context| promise.poll_ready(&mut key, context)));
            assert_eq!(promise.take(None).unwrap(), 0);
            join(keepers);
        });
    }

    #[test]
    fn loom_a_hook_added_meanwhile_is_called_once_and_first() {
        loom::model(|| {
            let (promise, keepers) = kept_by(1);
            let calls = Arc::new(AtomicUsize::new(0));
            let called = Arc::clone(&calls);
            promise.hook(Box::new(move |outcome| {
                assert_eq!(*outcome.as_ref().unwrap(), 0);
                called.fetch_add(1, SeqCst);
            }));
            assert_eq!(promise.take(None).unwrap(), 0);
            assert_eq!(calls.load(SeqCst), 1);
            join(keepers);
            assert_eq!(calls.load(SeqCst), 1);
        });
    }

    #[test]
    fn loom_the_first_outcome_stays_and_is_shown_once() {
        loom::model(|| {
            let (promise, keepers) = kept_by(2);
            let shown = Arc::new(AtomicUsize::new(0));
            let seen = Arc::clone(&shown);
            promise.hook(Box::new(move |outcome| {
                seen.fetch_add(10 + *outcome.as_ref().unwrap() as usize, SeqCst);
            }));
            let taken = promise.take(None).unwrap() as usize;
            assert_eq!(shown.load(SeqCst), 10 + taken);
            join(keepers);
            assert_eq!(shown.load(SeqCst), 10 + taken);
        });
    }
}
