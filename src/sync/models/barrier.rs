use std::{future::ready, pin::pin};

use loom::{future::block_on, sync::Arc, thread};

use super::{NO_TIME, poll};
use crate::{
    arena::{
        models::{Protected, elsewhere, model},
        reaper,
    },
    error::BarrierError,
    sync::Barrier,
};

#[test]
fn loom_barrier_lets_all_pass_round_after_round() {
    model(4, || {
        let barrier = Barrier::new(2).unwrap();
        let value = Protected::new();
        let other = {
            let (barrier, value) = (barrier.clone(), Arc::clone(&value));
            thread::spawn(move || {
                value.add();
                let first = barrier.wait().unwrap();
                let second = barrier.wait().unwrap();
                value.add();
                [first, second]
            })
        };
        let first = barrier.wait().unwrap();
        assert_eq!(value.get(), 1);
        let second = block_on(barrier.wait_async()).unwrap();
        let theirs = other.join().unwrap();
        assert_eq!(theirs, [1 - first, 1 - second]);
        assert_eq!(barrier.n_waiting(), 0);
    });
}

#[test]
fn loom_barrier_breaks_for_all_or_for_none() {
    breaks_for_all_or_for_none(|barrier| barrier.wait_timeout(NO_TIME));
}

#[test]
fn loom_barrier_breaks_for_all_or_for_none_where_time_is_up_in_a_poll() {
    breaks_for_all_or_for_none(|barrier| block_on(barrier.wait_or(ready(()))));
}

fn breaks_for_all_or_for_none(wait_hastily: fn(&Barrier) -> Result<usize, BarrierError>) {
    model(3, move || {
        let barrier = Barrier::new(2).unwrap();
        let other = {
            let barrier = barrier.clone();
            elsewhere(move || barrier.wait())
        };
        let hasty = {
            let barrier = barrier.clone();
            thread::spawn(move || wait_hastily(&barrier))
        };
        match (hasty.join().unwrap(), other.join().unwrap()) {
            (Ok(its), Ok(theirs)) => assert_eq!(its + theirs, 1),
            // The other one was there, or came to a barrier that was broken.
            (Err(BarrierError::Broken), Err(BarrierError::Broken)) => assert!(barrier.broken()),
            (its, theirs) => panic!("{its:?} and {theirs:?}"),
        }
        assert_eq!(barrier.n_waiting(), 0);
    });
}

#[test]
fn loom_barrier_that_is_reset_fails_who_waits() {
    model(4, || {
        let barrier = Barrier::new(2).unwrap();
        let other = {
            let barrier = barrier.clone();
            elsewhere(move || barrier.wait())
        };
        barrier.reset();
        let fickle = poll(pin!(barrier.wait_async())).is_ready();
        let theirs = other.join().unwrap();
        assert!(theirs.is_ok() || !fickle);
        // Of those who wait now, none is left.
        assert_eq!(barrier.broken(), theirs.is_err());
        assert_eq!(barrier.n_waiting(), 0);
    });
}

/// A process that is gone has run the action before, and has nothing to do with who runs it now.
#[test]
fn loom_barrier_breaks_for_no_process_that_has_run_the_action_before() {
    model(3, || {
        let barrier = Barrier::new(1).unwrap().action(|| {});
        let before = {
            let barrier = barrier.clone();
            elsewhere(move || barrier.wait())
        };
        assert_eq!(before.join().unwrap(), Ok(0));
        let reaper = thread::spawn(|| reaper::reap(2, 0, true));
        assert_eq!(barrier.wait(), Ok(0));
        reaper.join().unwrap();
        assert!(!barrier.broken());
    });
}
