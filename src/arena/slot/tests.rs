//! Lists whose links were damaged.

use super::*;
use crate::arena::{
    handle::Handle,
    waiter::{Sleeper, Waiter},
};

/// Two who wait in a list, and after the last comes the first.
pub(crate) fn circle(slot: &Locked, list: usize) -> [Waiter; 2] {
    let waiters = [(); 2].map(|()| {
        let waiter = Waiter::claim();
        waiter.prepare(Sleeper::Thread);
        slot.stamp(waiter.node);
        slot.push(list, waiter.index, waiter.node, false);
        waiter
    });
    let [first, second] = &waiters;
    second.node.next.store(first.index, Ordering::Relaxed);
    waiters
}

#[test]
fn all_that_are_in_a_circle_are_told() {
    let handle = Handle::new(Kind::Event, |_| {}).unwrap();
    let slot = handle.slot().lock();
    let waiters = circle(&slot, 0);
    let mut wakes = Wakes::default();
    slot.pop_all(0, &mut wakes, 7);
    assert!(slot.is_empty(0));
    assert!(wakes.len() <= arena().waiters.most() + 1);
    for waiter in waiters {
        assert_eq!(waiter.state(), State::Notified);
        assert_eq!(waiter.outcome(), 7);
    }
}

#[test]
fn nothing_is_done_more_often_than_there_are_waiters() {
    let waiter = Waiter::claim();
    let most = arena().waiters.most();
    assert!(waiter.index < most as u32);
    assert_eq!([0, 1, 2].map(at_most), [0, 1, 2]);
    assert!(at_most(usize::MAX) < 1 << 20);
}
