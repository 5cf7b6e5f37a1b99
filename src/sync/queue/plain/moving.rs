//! Moving the items of a queue into the arena. From [`take_out`](Plain::take_out) on nobody else can put or take
//! anything, until they are put back or it is said that they have left.

use super::{CLOSED, ONE_DONE, Plain, Stage, ring::Ring};
use crate::shim::Ordering;

impl<T> Plain<T> {
    /// Takes out all items, for a convoy. They count as being here still.
    pub(in crate::sync::queue) fn take_out(&self, convoy: u64) -> Result<Vec<T>, Stage> {
        let (mut tail, mut head) = (self.tail.state.lock(), self.head.state.lock());
        if tail.stage != Stage::Here {
            return Err(tail.stage);
        }
        let (put, taken) = (tail.put, head.taken);
        // Those for whom something is kept will find that it is gone.
        (tail.kept, head.kept) = (0, 0);
        head.limit = taken;
        let mut items = Vec::with_capacity((put - taken) as usize);
        while head.taken != put {
            if head.taken == head.limit {
                self.find_item(&mut head)?;
            }
            items.push(head.take());
        }
        head.taken = taken;
        self.forget_rings(&mut tail, &mut head);
        (tail.limit, head.limit) = (put, taken);
        tail.stage = Stage::Moving(convoy);
        head.stage = tail.stage;
        Ok(items)
    }

    /// The items could not be moved, and come back.
    pub(in crate::sync::queue) fn put_back(&self, items: Vec<T>) {
        let (mut tail, mut head) = (self.tail.state.lock(), self.head.state.lock());
        let (put, taken) = (tail.put, head.taken);
        let ring = Ring::new(taken, items.len().max(Ring::<T>::FIRST));
        // SAFETY: it was just made.
        let places = || unsafe { ring.as_ref() }.places();
        (tail.places, head.places) = (places(), places());
        for (number, item) in (taken..).zip(items) {
            // SAFETY: nobody else knows the ring, and it has a place for each.
            unsafe {
                let place = tail.places.at(number);
                place.with_mut(|place| (*place).write(item));
            }
        }
        (tail.ring, head.ring) = (Some(ring), Some(ring));
        (tail.limit, head.limit) = (put, put);
        (tail.stage, head.stage) = (Stage::Here, Stage::Here);
    }

    /// The items are in the arena now.
    pub(in crate::sync::queue) fn leave(&self) {
        let (mut tail, mut head) = (self.tail.state.lock(), self.head.state.lock());
        (tail.stage, head.stage) = (Stage::Shared, Stage::Shared);
    }

    /// From now on the arena counts what is done. Gives how many items are not done yet.
    pub(in crate::sync::queue) fn close(&self) -> u64 {
        let done = self.done.fetch_or(CLOSED, Ordering::AcqRel);
        self.tail.count.load(Ordering::Relaxed) - done / ONE_DONE
    }
}
