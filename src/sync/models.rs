//! The state machines in every order that the memory model allows: `cargo test --lib loom_` in a build
//! with `--cfg freethreading_loom`.

use std::{
    future::poll_fn,
    pin::pin,
    task::{Context, Poll, Waker},
};

use loom::{cell::UnsafeCell, future::block_on, model::Builder, sync::Arc, thread};

use super::{Condition, Event, Lock, Semaphore};
use crate::arena::{arena, me};

fn model(code: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    // Two switches where none is needed find nearly all there is to find; three take hours.
    builder.preemption_bound = Some(2);
    builder.check(code);
}

/// Something that only one may use at a time; the checker sees it if two do.
struct Protected(UnsafeCell<u32>);

impl Protected {
    fn new() -> Arc<Self> {
        Arc::new(Protected(UnsafeCell::new(0)))
    }

    fn add(&self) {
        // SAFETY: that nobody else is here is what the model checks, and loom panics if it is not so.
        #[allow(unsafe_code)]
        self.0.with_mut(|value| unsafe { *value += 1 });
    }

    fn get(&self) -> u32 {
        // SAFETY: as above.
        #[allow(unsafe_code)]
        self.0.with(|value| unsafe { *value })
    }
}

/// Polls a future once and drops it.
fn poll_and_drop(future: impl Future<Output = ()>) -> bool {
    let mut future = pin!(future);
    future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
        .is_ready()
}

#[test]
fn loom_lock_excludes_and_nobody_sleeps_on() {
    model(|| {
        let lock = Lock::new();
        let value = Protected::new();
        let other = {
            let (lock, value) = (lock.clone(), Arc::clone(&value));
            thread::spawn(move || {
                lock.acquire();
                value.add();
                lock.release().unwrap();
            })
        };
        block_on(lock.acquire_async());
        value.add();
        lock.release().unwrap();
        other.join().unwrap();
        assert!(lock.try_acquire());
        assert_eq!(value.get(), 2);
    });
}

#[test]
fn loom_lock_passes_on_what_a_dropped_waiter_was_told() {
    model(|| {
        let lock = Lock::new();
        lock.acquire();
        let fickle = {
            let lock = lock.clone();
            thread::spawn(move || {
                if poll_and_drop(lock.acquire_async()) {
                    lock.release().unwrap();
                }
            })
        };
        let steady = {
            let lock = lock.clone();
            thread::spawn(move || {
                block_on(lock.acquire_async());
                lock.release().unwrap();
            })
        };
        lock.release().unwrap();
        fickle.join().unwrap();
        steady.join().unwrap();
        assert!(!lock.locked());
    });
}

#[test]
fn loom_semaphore_loses_no_permit() {
    model(|| {
        let semaphore = Semaphore::new(0);
        let taker = {
            let semaphore = semaphore.clone();
            thread::spawn(move || semaphore.acquire())
        };
        let fickle = {
            let semaphore = semaphore.clone();
            thread::spawn(move || poll_and_drop(semaphore.acquire_async()))
        };
        semaphore.release_many(2).unwrap();
        taker.join().unwrap();
        let taken = fickle.join().unwrap();
        assert_eq!(semaphore.try_acquire(), !taken);
    });
}

#[test]
fn loom_event_wakes_who_waits_however_short_it_is_set() {
    model(|| {
        let event = Event::new();
        let value = Protected::new();
        let waiting = {
            let (event, value) = (event.clone(), Arc::clone(&value));
            thread::spawn(move || {
                event.wait();
                // What was done before the event was set is seen.
                assert_eq!(value.get(), 1);
            })
        };
        value.add();
        event.set();
        waiting.join().unwrap();
    });
}

#[test]
fn loom_event_reaches_a_task_before_it_is_cleared() {
    model(|| {
        let event = Event::new();
        let mut wait = Box::pin(event.wait_async());
        assert!(!poll_once(&mut wait));
        let setter = {
            let event = event.clone();
            thread::spawn(move || {
                event.set();
                event.clear();
            })
        };
        block_on(wait);
        setter.join().unwrap();
    });
}

fn poll_once(future: &mut (impl Future<Output = ()> + Unpin)) -> bool {
    let polled =
        poll_fn(|context| Poll::Ready(std::pin::Pin::new(&mut *future).poll(context).is_ready()));
    block_on(polled)
}

#[test]
fn loom_condition_hears_every_change() {
    model(|| {
        let lock = Lock::new();
        let condition = Condition::with_lock(&lock);
        let value = Protected::new();
        let notifier = {
            let (condition, value) = (condition.clone(), Arc::clone(&value));
            thread::spawn(move || {
                let guard = condition.lock();
                value.add();
                guard.notify(1).unwrap();
            })
        };
        let mut guard = condition.lock();
        guard.wait_for(|| value.get() == 1).unwrap();
        drop(guard);
        notifier.join().unwrap();
        assert!(!lock.locked());
    });
}

#[test]
fn loom_condition_passes_on_what_a_dropped_waiter_was_told() {
    model(|| {
        let condition = Condition::with_lock(&Lock::new());
        condition.acquire();
        let mut fickle = Box::pin(condition.wait_async());
        assert!(
            fickle
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_pending()
        );
        condition.acquire();
        let mut steady = Box::pin(condition.wait_async());
        assert!(
            steady
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_pending()
        );
        let notifier = {
            let condition = condition.clone();
            thread::spawn(move || {
                let guard = condition.lock();
                guard.notify(1).unwrap();
            })
        };
        drop(fickle);
        block_on(steady).unwrap();
        condition.release().unwrap();
        notifier.join().unwrap();
    });
}

#[test]
fn loom_pool_gives_nothing_to_two() {
    model(|| {
        let claim = || {
            let (index, slot) = arena().slots.claim(me(), 1).unwrap();
            // A unit that is claimed has no past.
            assert_eq!(slot.words[0].load(crate::shim::Ordering::Relaxed), 0);
            slot.words[0].store(u64::from(index), crate::shim::Ordering::Relaxed);
            (index, slot)
        };
        let other = thread::spawn(move || {
            let (index, slot) = claim();
            arena().slots.free(index, slot);
            claim().0
        });
        let mine = claim().0;
        assert_ne!(mine, other.join().unwrap());
    });
}
