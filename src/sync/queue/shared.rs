//! A queue's items and counts in the arena, once it is shared with another process.

use std::io;

use super::core::between;
use crate::{
    arena::{
        gate::Gate,
        node::{State, Wakes},
        parcel::{Parcel, Reserve},
        ring::{
            Damaged, Ring,
            position::{DONE, MAXSIZE, PUT, TAIL, TAKEN, TAKEN_SEEN, WANTED},
        },
        slot::{Locked, SlotRef},
    },
    shim::{AtomicU64, Ordering},
};

/// The list of those who wait for items.
pub(super) const GETTERS: usize = 0;

/// The list of those who wait for room.
pub(super) const PUTTERS: usize = 1;

/// The list of those who wait until all work is done.
pub(super) const JOINERS: usize = 2;

/// A slot as a queue.
#[derive(Clone, Copy)]
pub(crate) struct RawQueue(pub(crate) SlotRef);

impl RawQueue {
    fn word(&self, word: usize) -> &AtomicU64 {
        self.0.slot.word(word)
    }

    /// Acquire, and Release where it is written: who knows that something was put, or taken, sees it counted.
    fn get(self, word: usize) -> u64 {
        self.word(word).load(Ordering::Acquire)
    }

    pub(super) fn init(self, maxsize: usize) {
        // Relaxed: nobody else knows the slot yet.
        self.word(MAXSIZE).store(maxsize as u64, Ordering::Relaxed);
    }

    pub(super) fn maxsize(self) -> usize {
        self.get(MAXSIZE) as usize
    }

    pub(super) fn len(self) -> usize {
        between(|| self.get(TAKEN), || self.get(PUT))
    }

    /// Whether there is nothing to be had.
    #[inline]
    fn is_empty(self) -> bool {
        Ring::of(self.0).is_empty()
    }

    /// Whether there is no room. Nobody puts meanwhile; somebody may take.
    fn is_full(self, _slot: &Locked) -> bool {
        let maxsize = self.get(MAXSIZE);
        let put = self.get(PUT);
        // Only when what was seen is used up are those who take disturbed.
        if maxsize == 0 || put.wrapping_sub(self.get(TAKEN_SEEN)) < maxsize {
            return false;
        }
        let taken = self.get(TAKEN);
        // Relaxed: it is of use under the mutex only.
        self.word(TAKEN_SEEN).store(taken, Ordering::Relaxed);
        put.wrapping_sub(taken) >= maxsize
    }

    /// From now on who takes something looks for those who wait for room; whether there is none still.
    pub(super) fn wants_room(self, slot: &Locked, wakes: &mut Wakes) -> bool {
        // Under the gate: who takes something before it, is seen here; who does so after it, sees this.
        let _gate = slot.gate(wakes);
        // Relaxed: the gate orders it.
        self.word(WANTED).store(1, Ordering::Relaxed);
        self.is_full(slot)
    }

    /// Something was taken: whether somebody waits for that, perhaps.
    #[inline]
    fn is_room_wanted(self, _gate: &Gate) -> bool {
        // Relaxed: as above. Who finds it set yet by one that waits no more looks in vain.
        self.word(WANTED).load(Ordering::Relaxed) != 0
    }

    /// Tells the first who waits for room.
    fn tell_putter(self, slot: &Locked, wakes: &mut Wakes) {
        wakes.extend(slot.pop(PUTTERS, State::Notified));
        if slot.is_empty(PUTTERS) {
            // Relaxed: who waits next sets it under the mutex.
            self.word(WANTED).store(0, Ordering::Relaxed);
        }
    }

    pub(super) fn unfinished(self) -> u64 {
        let done = self.get(DONE);
        self.get(PUT).wrapping_sub(done)
    }

    /// Fills an empty queue, which no other process knows yet, with what it had before.
    pub(super) fn fill(self, slot: &Locked, parcels: &[Parcel]) -> io::Result<()> {
        let ring = Ring::of(self.0);
        let mut wakes = Wakes::default();
        for parcel in parcels {
            ring.put(slot, parcel, &mut Reserve::default(), &mut wakes)?;
        }
        Ok(())
    }

    /// How many items are not done, of which some may have been taken before.
    pub(super) fn set_unfinished(self, _slot: &Locked, unfinished: u64) {
        let done = self.get(PUT).wrapping_sub(unfinished);
        self.word(DONE).store(done, Ordering::Release);
    }

    /// Puts an item if there is room: `false` if there is none.
    pub(super) fn try_put(
        self,
        slot: &Locked,
        parcel: &Parcel,
        reserve: &mut Reserve,
        wakes: &mut Wakes,
    ) -> io::Result<bool> {
        if self.is_full(slot) {
            return Ok(false);
        }
        Ring::of(self.0).put(slot, parcel, reserve, wakes)?;
        if let Some(getter) = slot.pop(GETTERS, State::Notified) {
            wakes.add(getter);
        }
        Ok(true)
    }

    /// Puts an item that fits into one block if there is room, and wakes who waits for it; `false` if there
    /// is none, or no memory.
    #[inline]
    pub(super) fn try_put_small(self, parcel: &Parcel) -> bool {
        let mut wakes = Wakes::default();
        let put = self.try_put(&self.0.lock(), parcel, &mut Reserve::default(), &mut wakes);
        wakes.wake();
        matches!(put, Ok(true))
    }

    /// Takes the first item, if there is one, into an empty parcel, by who has locked nothing, and wakes who
    /// waits for room.
    #[inline]
    pub(super) fn try_get_alone(self, parcel: &mut Parcel) -> Option<Result<(), &'static str>> {
        // Only a look, while it is empty: others want to write.
        if self.is_empty() {
            return None;
        }
        let mut spent = Reserve::default();
        let (taken, wanted) = {
            let gate = self.0.gate();
            let taken = Ring::of(self.0).take(&gate, parcel, &mut spent)?;
            (taken, self.is_room_wanted(&gate))
        };
        // The gate is free again before anything else is locked.
        match taken {
            Ok(()) if !wanted => Some(Ok(())),
            Ok(()) => {
                self.tell_putters();
                Some(Ok(()))
            }
            Err(Damaged) => self.give_up(parcel),
        }
    }

    #[cold]
    fn tell_putters(self) {
        let mut wakes = Wakes::default();
        self.tell_putter(&self.0.lock(), &mut wakes);
        wakes.wake();
    }

    /// Something is wrong with the items: takes one, or gives up what cannot be made out, under both locks.
    #[cold]
    fn give_up(self, parcel: &mut Parcel) -> Option<Result<(), &'static str>> {
        let (mut spent, mut wakes) = (Reserve::default(), Wakes::default());
        let taken = self.try_get_locked(&self.0.lock(), parcel, &mut spent, &mut wakes);
        wakes.wake();
        taken
    }

    /// Takes the first item by who holds the mutex.
    pub(super) fn try_get_locked(
        self,
        slot: &Locked,
        parcel: &mut Parcel,
        spent: &mut Reserve,
        wakes: &mut Wakes,
    ) -> Option<Result<(), &'static str>> {
        let gate = slot.gate(wakes);
        let ring = Ring::of(self.0);
        let taken = ring.take(&gate, parcel, spent)?;
        if taken.is_err() {
            ring.give_up(slot, &gate);
        }
        let wanted = self.is_room_wanted(&gate);
        drop(gate);
        if wanted {
            self.tell_putter(slot, wakes);
        }
        Some(taken.map_err(|Damaged| "the memory of the queue was damaged"))
    }

    /// Counts one more item as done: `false` if all are.
    pub(super) fn task_done(self, slot: &Locked, wakes: &mut Wakes) -> bool {
        let unfinished = self.unfinished();
        if unfinished == 0 {
            return false;
        }
        let done = self.get(DONE).wrapping_add(1);
        self.word(DONE).store(done, Ordering::Release);
        if unfinished == 1 {
            slot.pop_all(JOINERS, wakes, 0);
        }
        true
    }

    /// Tells the next of a list, since the one who was told is gone.
    pub(crate) fn tell_another(self, list: usize) {
        if list == JOINERS {
            return;
        }
        let woken = self.0.lock().pop(list, State::Notified);
        if let Some(woken) = woken {
            woken.wake();
        }
    }

    /// A process is gone that may have taken something and told nobody of the room.
    pub(crate) fn tell_of_room(self) {
        // Relaxed: that the process is gone was found out after all that it did.
        if self.word(WANTED).load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut wakes = Wakes::default();
        {
            let slot = self.0.lock();
            let room = self.get(MAXSIZE).saturating_sub(self.len() as u64);
            for _ in 0..room.min(u64::from(self.0.waiters(PUTTERS))) {
                self.tell_putter(&slot, &mut wakes);
            }
        }
        wakes.wake();
    }

    /// The process that had the mutex is gone.
    pub(crate) fn repair(self, slot: &Locked, wakes: &mut Wakes) {
        let gate = slot.gate(wakes);
        self.repair_stream(slot, &gate, wakes);
    }

    /// The process that had the mutex, or the gate, is gone.
    pub(crate) fn repair_stream(self, slot: &Locked, gate: &Gate, wakes: &mut Wakes) {
        Ring::of(self.0).repair(slot, gate);
        // Relaxed: both locks are held. What was seen may be ahead of what there is now.
        let taken = self.word(TAKEN).load(Ordering::Relaxed);
        self.word(TAKEN_SEEN).store(taken, Ordering::Relaxed);
        slot.pop_all(GETTERS, wakes, 0);
        slot.pop_all(PUTTERS, wakes, 0);
        if self.unfinished() == 0 {
            slot.pop_all(JOINERS, wakes, 0);
        }
    }

    /// Nobody has the queue any more, or nobody but this process, which has its items elsewhere.
    pub(crate) fn clear(self) {
        if self.get(TAIL) != 0 {
            let mut wakes = Wakes::default();
            let slot = self.0.lock();
            Ring::of(self.0).clear(&slot, &slot.gate(&mut wakes));
        }
    }
}

#[cfg(all(test, freethreading_loom))]
mod models;
