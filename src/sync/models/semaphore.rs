use std::pin::pin;

use loom::{future::block_on, sync::Arc, thread};

use super::{NO_TIME, poll, poll_and_drop};
use crate::{
    arena::models::{Protected, elsewhere, model},
    sync::{BoundedSemaphore, Semaphore},
};

#[test]
fn loom_semaphore_loses_no_permit() {
    model(2, || {
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
fn loom_semaphore_permits_reach_threads_and_tasks() {
    model(2, || {
        let semaphore = Semaphore::new(0);
        let value = Protected::new();
        let thread = {
            let (semaphore, value) = (semaphore.clone(), Arc::clone(&value));
            elsewhere(move || {
                semaphore.acquire();
                // What was done before the permits came is seen.
                value.get();
            })
        };
        let task = {
            let (semaphore, value) = (semaphore.clone(), Arc::clone(&value));
            thread::spawn(move || {
                block_on(semaphore.acquire_async());
                value.get();
            })
        };
        value.add();
        semaphore.release_many(2).unwrap();
        thread.join().unwrap();
        task.join().unwrap();
        assert!(!semaphore.try_acquire());
    });
}

#[test]
fn loom_semaphore_hands_a_permit_to_a_starved_waiter() {
    model(4, || {
        let semaphore = Semaphore::new(1);
        let value = Protected::new();
        semaphore.acquire();
        let starved = {
            let (semaphore, value) = (semaphore.clone(), Arc::clone(&value));
            elsewhere(move || {
                semaphore.acquire();
                value.add();
                semaphore.release().unwrap();
            })
        };
        for _ in 0..2 {
            value.add();
            semaphore.release().unwrap();
            semaphore.acquire();
        }
        value.add();
        semaphore.release().unwrap();
        starved.join().unwrap();
        assert!(semaphore.try_acquire());
        assert!(!semaphore.try_acquire());
        assert_eq!(value.get(), 4);
    });
}

#[test]
fn loom_semaphore_passes_on_what_a_dropped_task_was_told_or_handed() {
    model(3, || {
        let semaphore = Semaphore::new(0);
        let fickle = {
            let semaphore = semaphore.clone();
            elsewhere(move || {
                let mut future = pin!(semaphore.acquire_async());
                (0..3).any(|_| poll(future.as_mut()).is_ready())
            })
        };
        let mut free = 0;
        for _ in 0..3 {
            semaphore.release().unwrap();
            free += 1 - u32::from(semaphore.try_acquire());
        }
        // It is this task that has it, or nobody.
        free -= u32::from(fickle.join().unwrap());
        for _ in 0..free {
            assert!(semaphore.try_acquire());
        }
        assert!(!semaphore.try_acquire());
    });
}

/// Who gives up leaves the others in line, and a permit that it was told of is for the next.
#[test]
fn loom_semaphore_reaches_who_came_after_a_dropped_task() {
    model(4, || {
        let semaphore = Semaphore::new(0);
        let mut fickle = Box::pin(semaphore.acquire_async());
        let mut steady = Box::pin(semaphore.acquire_async());
        assert!(poll(fickle.as_mut()).is_pending());
        assert!(poll(steady.as_mut()).is_pending());
        let releaser = {
            let semaphore = semaphore.clone();
            thread::spawn(move || semaphore.release().unwrap())
        };
        drop(fickle);
        block_on(steady);
        releaser.join().unwrap();
        assert!(!semaphore.try_acquire());
    });
}

#[test]
fn loom_semaphore_takes_back_what_a_dropped_task_was_handed() {
    model(None, || {
        let semaphore = Semaphore::new(0);
        let mut starved = Box::pin(semaphore.acquire_async());
        assert!(poll(starved.as_mut()).is_pending());
        semaphore.release().unwrap();
        assert!(semaphore.try_acquire());
        // Woken in vain.
        assert!(poll(starved.as_mut()).is_pending());
        let releaser = {
            let semaphore = semaphore.clone();
            thread::spawn(move || semaphore.release().unwrap())
        };
        drop(starved);
        releaser.join().unwrap();
        assert!(semaphore.try_acquire());
        assert!(!semaphore.try_acquire());
    });
}

/// Two may take the permit that only one gets. The other gets the one that comes back meanwhile, or leaves it to others.
#[test]
fn loom_semaphore_taken_in_vain_gives_what_comes_back() {
    model(None, || {
        let semaphore = Semaphore::new(1);
        let [one, other] = [(); 2].map(|()| {
            let semaphore = semaphore.clone();
            thread::spawn(move || semaphore.try_acquire())
        });
        semaphore.release().unwrap();
        let mine = semaphore.try_acquire();
        let taken = [one.join().unwrap(), other.join().unwrap(), mine];
        assert_eq!(taken.into_iter().filter(|&taken| taken).count(), 2);
        assert!(!semaphore.try_acquire());
    });
}

#[test]
fn loom_bounded_semaphore_of_one_excludes() {
    model(8, || {
        let semaphore = BoundedSemaphore::new(1);
        let value = Protected::new();
        let add = {
            let (semaphore, value) = (semaphore.clone(), Arc::clone(&value));
            move || {
                semaphore.acquire();
                value.add();
                semaphore.release().unwrap();
            }
        };
        let other = elsewhere(add.clone());
        add();
        other.join().unwrap();
        assert_eq!(value.get(), 2);
        assert!(semaphore.release().is_err());
    });
}

#[test]
fn loom_bounded_semaphore_takes_no_permit_too_many() {
    model(3, || {
        let semaphore = BoundedSemaphore::new(1);
        semaphore.acquire();
        let hasty = {
            let semaphore = semaphore.clone();
            thread::spawn(move || semaphore.acquire_timeout(NO_TIME))
        };
        let other = {
            let semaphore = semaphore.clone();
            thread::spawn(move || semaphore.release().is_ok())
        };
        let mine = semaphore.release().is_ok();
        let given = u32::from(other.join().unwrap()) + u32::from(mine);
        let free = given - u32::from(hasty.join().unwrap());
        assert!(free <= 1);
        assert_eq!(semaphore.try_acquire(), free == 1);
        assert!(!semaphore.try_acquire());
    });
}
