use std::pin::pin;

use loom::{future::block_on, sync::Arc, thread};

use super::{NO_TIME, poll, poll_and_drop};
use crate::{
    arena::models::{Protected, elsewhere, model},
    sync::Lock,
};

#[test]
fn loom_lock_excludes_and_nobody_sleeps_on() {
    model(None, || {
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
fn loom_lock_excludes_three() {
    model(2, || {
        let lock = Lock::new();
        let value = Protected::new();
        let add = {
            let (lock, value) = (lock.clone(), Arc::clone(&value));
            move || {
                lock.acquire();
                value.add();
                lock.release().unwrap();
            }
        };
        let others = [thread::spawn(add.clone()), elsewhere(add.clone())];
        add();
        for other in others {
            other.join().unwrap();
        }
        assert!(!lock.locked());
        assert_eq!(value.get(), 3);
    });
}

#[test]
fn loom_lock_is_released_by_anybody() {
    model(None, || {
        let lock = Lock::new();
        let value = Protected::new();
        lock.acquire();
        value.add();
        let other = {
            let (lock, value) = (lock.clone(), Arc::clone(&value));
            elsewhere(move || {
                value.add();
                lock.release().unwrap();
            })
        };
        lock.acquire();
        value.add();
        lock.release().unwrap();
        other.join().unwrap();
        assert_eq!(value.get(), 3);
    });
}

/// Whoever was woken in vain is handed the lock, and uses it before the other can again.
#[test]
fn loom_lock_is_handed_to_a_starved_waiter() {
    model(4, || {
        let lock = Lock::new();
        let value = Protected::new();
        lock.acquire();
        let starved = {
            let (lock, value) = (lock.clone(), Arc::clone(&value));
            elsewhere(move || {
                lock.acquire();
                value.add();
                lock.release().unwrap();
            })
        };
        for _ in 0..3 {
            value.add();
            lock.release().unwrap();
            lock.acquire();
        }
        value.add();
        lock.release().unwrap();
        starved.join().unwrap();
        assert!(!lock.locked());
        assert_eq!(value.get(), 5);
    });
}

/// The same for a task, which may be dropped at any time: when it has come, when it was told, when it
/// was woken in vain, when it was handed the lock.
#[test]
fn loom_lock_passes_on_what_a_dropped_task_was_told_or_handed() {
    model(4, || {
        let lock = Lock::new();
        let value = Protected::new();
        lock.acquire();
        let fickle = {
            let (lock, value) = (lock.clone(), Arc::clone(&value));
            elsewhere(move || {
                let mut future = pin!(lock.acquire_async());
                for _ in 0..3 {
                    if poll(future.as_mut()).is_ready() {
                        value.add();
                        lock.release().unwrap();
                        break;
                    }
                }
            })
        };
        for _ in 0..2 {
            value.add();
            lock.release().unwrap();
            lock.acquire();
        }
        value.add();
        lock.release().unwrap();
        fickle.join().unwrap();
        assert!(lock.try_acquire());
        value.get();
    });
}

#[test]
fn loom_lock_passes_on_what_a_dropped_waiter_was_told() {
    model(2, || {
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
fn loom_lock_passes_on_what_came_as_the_time_was_up() {
    model(2, || {
        let lock = Lock::new();
        let value = Protected::new();
        lock.acquire();
        let hasty = {
            let lock = lock.clone();
            thread::spawn(move || {
                if lock.acquire_timeout(NO_TIME) {
                    lock.release().unwrap();
                }
            })
        };
        let steady = {
            let (lock, value) = (lock.clone(), Arc::clone(&value));
            thread::spawn(move || {
                lock.acquire();
                value.add();
                lock.release().unwrap();
            })
        };
        value.add();
        lock.release().unwrap();
        hasty.join().unwrap();
        steady.join().unwrap();
        assert!(!lock.locked());
    });
}
