//! What those who put and those who take tell each other, in every order that the memory model allows.

use super::*;
use crate::arena::{
    handle::Handle,
    models::{elsewhere, model},
    reaper,
    slot::Kind,
    waiter::{Sleeper, Waiter},
};

/// A full queue with room for so many items.
fn full(size: u64) -> Handle {
    Handle::new(Kind::Queue, |slot| {
        RawQueue(slot).init(size as usize);
        slot.word(PUT).store(size, Ordering::Relaxed);
    })
    .unwrap()
}

impl RawQueue {
    /// Something is taken, and counted; says whether somebody is to be told.
    fn count_one(self) -> bool {
        let gate = self.0.gate();
        let taken = self.get(TAKEN) + 1;
        self.word(TAKEN).store(taken, Ordering::Release);
        self.is_room_wanted(&gate)
    }

    /// What is done about the counts, and those who wait, when something is taken.
    fn take_one(self) {
        if self.count_one() {
            self.tell_putters();
        }
    }

    /// Waits until there is room, and uses it.
    fn put_one(self) {
        let waiter = Waiter::claim();
        loop {
            {
                let slot = self.0.lock();
                if !self.is_full(&slot) || !self.wants_room(&slot, &mut Wakes::default()) {
                    let put = self.get(PUT) + 1;
                    return self.word(PUT).store(put, Ordering::Release);
                }
                waiter.prepare(Sleeper::Thread);
                slot.stamp(waiter.node);
                slot.push(PUTTERS, waiter.index, waiter.node, false);
            }
            waiter.sleep(None);
        }
    }
}

#[test]
fn loom_who_waits_for_room_is_told_of_it() {
    model(None, || {
        let queue = full(1);
        let raw = RawQueue(queue.slot());
        let other = elsewhere(move || raw.here().take_one());
        raw.put_one();
        other.join().unwrap();
        assert_eq!(raw.len(), 1);
    });
}

#[test]
fn loom_who_waits_for_room_is_told_of_it_though_who_made_it_was_killed() {
    model(2, || {
        let queue = full(1);
        let raw = RawQueue(queue.slot());
        let killed = elsewhere(move || raw.here().count_one());
        let reaper = loom::thread::spawn(move || {
            killed.join().unwrap();
            reaper::reap(2, 0, true);
        });
        raw.put_one();
        reaper.join().unwrap();
        assert_eq!(raw.len(), 1);
    });
}

#[test]
fn loom_each_of_those_who_wait_for_room_is_told_of_it() {
    model(2, || {
        let queue = full(2);
        let raw = RawQueue(queue.slot());
        let putter = elsewhere(move || raw.here().put_one());
        let taker = loom::thread::spawn(move || {
            raw.take_one();
            raw.take_one();
        });
        raw.put_one();
        putter.join().unwrap();
        taker.join().unwrap();
        assert_eq!(raw.len(), 2);
    });
}

/// An item that fills a line.
fn item(number: u8) -> Parcel {
    let mut parcel = Parcel::default();
    parcel.bytes.extend([number; 48]);
    parcel
}

impl RawQueue {
    /// The same queue in the process that calls.
    fn here(self) -> Self {
        RawQueue(SlotRef::new(self.0.index(), self.0.slot))
    }

    fn put_item(self, number: u8) {
        assert!(self.try_put_small(&item(number)));
    }

    fn take_item(self) -> Option<u8> {
        let mut parcel = Parcel::default();
        self.try_get_alone(&mut parcel)?.unwrap();
        assert!(parcel.bytes.iter().all(|&byte| byte == parcel.bytes[0]));
        Some(parcel.bytes[0])
    }
}

fn unbounded() -> Handle {
    Handle::new(Kind::Queue, |slot| RawQueue(slot).init(0)).unwrap()
}

#[test]
fn loom_what_one_puts_another_takes_as_a_whole_and_in_order() {
    model(3, || {
        let queue = unbounded();
        let raw = RawQueue(queue.slot());
        let putter = elsewhere(move || (1..=3).for_each(|number| raw.here().put_item(number)));
        let mut taken: Vec<_> = (0..2).filter_map(|_| raw.take_item()).collect();
        assert!(raw.len() <= 3);
        putter.join().unwrap();
        taken.extend(std::iter::from_fn(|| raw.take_item()));
        assert_eq!(taken, [1, 2, 3]);
        assert_eq!(raw.len(), 0);
    });
}

#[test]
fn loom_a_block_is_used_again_once_it_was_read() {
    model(3, || {
        let queue = unbounded();
        let raw = RawQueue(queue.slot());
        (1..=3).for_each(|number| raw.put_item(number));
        let putter = elsewhere(move || (4..=5).for_each(|number| raw.here().put_item(number)));
        let mut taken: Vec<_> = (0..3).filter_map(|_| raw.take_item()).collect();
        assert_eq!(taken, [1, 2, 3]);
        putter.join().unwrap();
        taken.extend(std::iter::from_fn(|| raw.take_item()));
        assert_eq!(taken, [1, 2, 3, 4, 5]);
    });
}

#[test]
fn loom_two_who_take_do_not_take_the_same() {
    model(2, || {
        let queue = unbounded();
        let raw = RawQueue(queue.slot());
        raw.put_item(1);
        let taker = elsewhere(move || raw.here().take_item());
        let putter = loom::thread::spawn(move || raw.put_item(2));
        let mine = raw.take_item();
        putter.join().unwrap();
        let theirs = taker.join().unwrap();
        let rest = std::iter::from_fn(|| raw.take_item());
        let mut all: Vec<_> = mine.into_iter().chain(theirs).chain(rest).collect();
        all.sort_unstable();
        assert_eq!(all, [1, 2]);
    });
}

#[test]
fn loom_who_waits_for_an_item_is_told_of_it() {
    model(3, || {
        let queue = unbounded();
        let raw = RawQueue(queue.slot());
        let putter = elsewhere(move || raw.here().put_item(1));
        let waiter = Waiter::claim();
        loop {
            {
                let (mut parcel, slot) = (Parcel::default(), raw.0.lock());
                let (mut spent, mut wakes) = (Reserve::default(), Wakes::default());
                let taken = raw.try_get_locked(&slot, &mut parcel, &mut spent, &mut wakes);
                if taken.is_some() {
                    break assert_eq!(parcel.bytes[0], 1);
                }
                waiter.prepare(Sleeper::Thread);
                slot.stamp(waiter.node);
                slot.push(GETTERS, waiter.index, waiter.node, false);
            }
            waiter.sleep(None);
        }
        putter.join().unwrap();
    });
}
