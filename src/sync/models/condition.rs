use std::sync::atomic::Ordering::Relaxed;

use loom::{future::block_on, sync::Arc, thread};

use super::{NO_TIME, poll};
use crate::{
    arena::models::{Protected, elsewhere, leak, model},
    shim::AtomicBool,
    sync::{Condition, Lock},
};

fn with_lock() -> Condition {
    Condition::with_lock(&Lock::new())
}

/// Nobody is in either line, as far as is counted, and the lock is free.
fn assert_at_rest(condition: &Condition) {
    let look = format!("{condition:?}");
    assert_eq!(look.matches("waiters: 0").count(), 2, "{look}");
    assert!(look.contains("locked: false"), "{look}");
}

fn hears_every_change(new: fn() -> Condition) {
    model(4, move || {
        let condition = new();
        let value = Protected::new();
        let notifier = {
            let (condition, value) = (condition.clone(), Arc::clone(&value));
            elsewhere(move || {
                let guard = condition.lock();
                value.add();
                guard.notify(1).unwrap();
            })
        };
        let mut guard = condition.lock();
        guard.wait_for(|| value.get() == 1).unwrap();
        drop(guard);
        notifier.join().unwrap();
        assert_at_rest(&condition);
    });
}

#[test]
fn loom_condition_hears_every_change() {
    hears_every_change(with_lock);
}

#[test]
fn loom_condition_with_its_own_lock_hears_every_change() {
    hears_every_change(Condition::new);
}

#[test]
fn loom_condition_knows_who_has_its_lock() {
    model(3, || {
        let lock = Lock::new();
        let condition = Condition::with_lock(&lock);
        let other = {
            let (lock, condition) = (lock.clone(), condition.clone());
            elsewhere(move || {
                lock.acquire();
                condition.notify(1).unwrap();
                lock.release().unwrap();
            })
        };
        assert!(condition.notify(1).is_err());
        lock.acquire();
        condition.notify(1).unwrap();
        condition.release().unwrap();
        // Whoever has it, it is somebody else.
        assert!(condition.notify(1).is_err());
        other.join().unwrap();
        assert!(!lock.locked());
    });
}

/// A thread and a task go on one after the other, each with the lock.
#[test]
fn loom_condition_notifies_all() {
    model(1, || {
        let condition = Condition::new();
        let value = Protected::new();
        let thread = {
            let (condition, value) = (condition.clone(), Arc::clone(&value));
            thread::spawn(move || {
                let mut guard = condition.lock();
                guard.wait_for(|| value.get() > 0).unwrap();
                value.add();
            })
        };
        let task = {
            let (condition, value) = (condition.clone(), Arc::clone(&value));
            thread::spawn(move || {
                block_on(async {
                    let mut guard = condition.lock_async().await;
                    while value.get() == 0 {
                        guard.wait_async().await.unwrap();
                    }
                    value.add();
                })
            })
        };
        {
            let guard = condition.lock();
            value.add();
            guard.notify_all().unwrap();
        }
        thread.join().unwrap();
        task.join().unwrap();
        assert_eq!(value.get(), 3);
        assert_at_rest(&condition);
    });
}

fn passes_on_what_a_dropped_waiter_was_told(new: fn() -> Condition) {
    model(4, move || {
        let condition = new();
        condition.acquire();
        let mut fickle = Box::pin(condition.wait_async());
        assert!(poll(fickle.as_mut()).is_pending());
        condition.acquire();
        let mut steady = Box::pin(condition.wait_async());
        assert!(poll(steady.as_mut()).is_pending());
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
fn loom_condition_passes_on_what_a_dropped_waiter_was_told() {
    passes_on_what_a_dropped_waiter_was_told(with_lock);
}

#[test]
fn loom_condition_with_its_own_lock_passes_on_what_a_dropped_waiter_was_told() {
    passes_on_what_a_dropped_waiter_was_told(Condition::new);
}

fn holds_the_lock_when_the_time_is_up(new: fn() -> Condition) {
    model(3, move || {
        let condition = new();
        let value = Protected::new();
        let notifier = {
            let (condition, value) = (condition.clone(), Arc::clone(&value));
            elsewhere(move || {
                let guard = condition.lock();
                value.add();
                guard.notify(1).unwrap();
            })
        };
        let mut guard = condition.lock();
        if guard.wait_timeout(NO_TIME).unwrap() {
            assert_eq!(value.get(), 1);
        }
        value.add();
        drop(guard);
        notifier.join().unwrap();
        assert_eq!(value.get(), 2);
        assert_at_rest(&condition);
    });
}

#[test]
fn loom_condition_holds_the_lock_when_the_time_is_up() {
    holds_the_lock_when_the_time_is_up(with_lock);
}

#[test]
fn loom_condition_holds_its_own_lock_when_the_time_is_up() {
    holds_the_lock_when_the_time_is_up(Condition::new);
}

/// The lock of a condition may be released by anybody, also while a notification is under way.
#[test]
fn loom_condition_wakes_though_the_lock_was_released_meanwhile() {
    model(None, || {
        let lock = Lock::new();
        let condition = Condition::with_lock(&lock);
        lock.acquire();
        let mut wait = Box::pin(condition.wait_async());
        assert!(poll(wait.as_mut()).is_pending());
        lock.acquire();
        let releaser = {
            let lock = lock.clone();
            thread::spawn(move || lock.release().unwrap())
        };
        let notified = condition.notify(1).is_ok();
        releaser.join().unwrap();
        if notified {
            block_on(wait).unwrap();
            assert!(lock.locked());
        }
    });
}

/// A guard that is dropped elsewhere while its owner waits, or about then, is one less to take back.
#[test]
fn loom_condition_gives_back_what_guards_are_left() {
    model(3, || {
        let condition = leak(Condition::new());
        let value = Protected::new();
        let mut guard = condition.lock();
        let sent = condition.lock();
        let dropping = thread::spawn(move || drop(sent));
        let other = {
            let value = Arc::clone(&value);
            elsewhere(move || {
                if let Some(_guard) = condition.try_lock() {
                    value.add();
                }
            })
        };
        guard.wait_timeout(NO_TIME).unwrap();
        value.add();
        guard.notify(1).unwrap();
        drop(guard);
        dropping.join().unwrap();
        other.join().unwrap();
        elsewhere(|| assert!(condition.try_acquire()))
            .join()
            .unwrap();
    });
}

/// The only one is dropped.
#[test]
fn loom_condition_gives_back_nothing_if_no_guard_is_left() {
    model(3, || {
        let condition = leak(Condition::new());
        let value = Protected::new();
        let sent = condition.lock();
        let dropping = thread::spawn(move || drop(sent));
        let other = {
            let value = Arc::clone(&value);
            elsewhere(move || {
                if let Some(_guard) = condition.try_lock() {
                    value.add();
                }
            })
        };
        // It may have been dropped before.
        let _ = condition.wait_timeout(NO_TIME);
        dropping.join().unwrap();
        assert!(condition.notify(1).is_err());
        other.join().unwrap();
        elsewhere(|| assert!(condition.try_acquire()))
            .join()
            .unwrap();
    });
}

/// A guard waits on another thread, and gives up what its owner acquires meanwhile, or not.
#[test]
fn loom_condition_whose_guard_waits_elsewhere_while_its_owner_acquires_is_free_in_the_end() {
    model(3, || {
        let condition = leak(Condition::new());
        let mut guard = condition.lock();
        let waiting = thread::spawn(move || {
            guard.wait_timeout(NO_TIME).unwrap();
            guard.release().unwrap();
        });
        drop(condition.lock());
        waiting.join().unwrap();
        elsewhere(|| assert!(condition.try_acquire()))
            .join()
            .unwrap();
    });
}

/// The owner waits once another guard was dropped elsewhere.
#[test]
fn loom_condition_whose_guard_was_dropped_elsewhere_shows_what_was_done_before() {
    model(3, || {
        let condition = leak(Condition::new());
        let value = Protected::new();
        let mut guard = condition.lock();
        let sent = condition.lock();
        let is_dropped = leak(AtomicBool::new(false));
        let dropping = {
            let value = Arc::clone(&value);
            thread::spawn(move || {
                value.add();
                drop(sent);
                is_dropped.store(true, Relaxed);
            })
        };
        let other = {
            let value = Arc::clone(&value);
            elsewhere(move || {
                if let Some(_guard) = condition.try_lock() {
                    value.add();
                }
            })
        };
        if is_dropped.load(Relaxed) {
            guard.wait_timeout(NO_TIME).unwrap();
        }
        dropping.join().unwrap();
        other.join().unwrap();
    });
}
