use loom::{sync::Arc, thread};

use crate::{
    arena::models::{Protected, elsewhere, leak, model},
    sync::RLock,
};

#[test]
fn loom_rlock_belongs_to_one() {
    model(4, || {
        let lock = RLock::new();
        let value = Protected::new();
        let twice = {
            let (lock, value) = (lock.clone(), Arc::clone(&value));
            move || {
                lock.acquire();
                lock.acquire();
                value.add();
                lock.release().unwrap();
                assert!(lock.is_owned());
                value.add();
                lock.release().unwrap();
                assert!(!lock.is_owned());
            }
        };
        let other = elsewhere(twice.clone());
        twice();
        other.join().unwrap();
        assert_eq!(value.get(), 4);
    });
}

/// A guard that is dropped elsewhere is the last one or not, by whether its owner has acquired again.
#[test]
fn loom_rlock_guard_is_dropped_elsewhere_while_its_owner_acquires() {
    model(3, || {
        let lock = leak(RLock::new());
        let value = Protected::new();
        let guard = lock.lock();
        value.add();
        let dropping = thread::spawn(move || drop(guard));
        let other = {
            let value = Arc::clone(&value);
            elsewhere(move || {
                if let Some(_guard) = lock.try_lock() {
                    value.add();
                }
            })
        };
        let again = lock.lock();
        value.add();
        drop(again);
        dropping.join().unwrap();
        other.join().unwrap();
        assert!(lock.try_acquire());
        assert_eq!(lock.recursion_count(), 1);
    });
}

#[test]
fn loom_rlock_whose_guard_was_dropped_elsewhere_shows_what_was_done_before() {
    model(3, || {
        let lock = leak(RLock::new());
        let value = Protected::new();
        let guards = [lock.lock(), lock.lock()];
        let [mine, sent] = guards;
        let dropping = {
            let value = Arc::clone(&value);
            thread::spawn(move || {
                value.add();
                drop(sent);
            })
        };
        let other = {
            let value = Arc::clone(&value);
            elsewhere(move || {
                if let Some(_guard) = lock.try_lock() {
                    value.add();
                }
            })
        };
        drop(mine);
        dropping.join().unwrap();
        other.join().unwrap();
        assert!(lock.try_acquire());
    });
}
