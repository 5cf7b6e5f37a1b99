//! A queue's items and counts in the arena, once it is shared with another process.

use std::io;

use crate::{
    arena::{
        ring::{Parcel, Reserve, Ring, Words},
        slot::{Locked, SlotRef},
        waiter::{State, Wakes},
    },
    shim::{AtomicU64, Ordering},
};

// The words of the slot, written under its mutex. The counts are read without it as well: Acquire and
// Release, so that who knows that something was put sees it counted.
const MAXSIZE: usize = 0;
const DONE: usize = 1;
const TAKEN: usize = 2;
const PUT: usize = 3;

const WORDS: Words = Words {
    taken: TAKEN,
    put: PUT,
    head: 4,
    tail: 5,
    spare: 6,
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
        &self.0.slot.words[word]
    }

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
        // In this order: what is taken was put before.
        let taken = self.get(TAKEN);
        self.get(PUT).wrapping_sub(taken) as usize
    }

    fn is_full(self) -> bool {
        self.maxsize() != 0 && self.len() >= self.maxsize()
    }

    pub(super) fn unfinished(self) -> u64 {
        let done = self.get(DONE);
        self.get(PUT).wrapping_sub(done)
    }

    /// Fills an empty queue with what it had before it was shared.
    pub(super) fn fill(
        self,
        slot: &Locked,
        parcels: &[Parcel],
        unfinished: usize,
    ) -> io::Result<()> {
        let ring = Ring::of(slot, WORDS);
        for parcel in parcels {
            if let Err(error) = ring.put(parcel, &mut Reserve::default()) {
                ring.clear();
                self.word(TAKEN).store(0, Ordering::Release);
                self.word(PUT).store(0, Ordering::Release);
                return Err(error);
            }
        }
        let done = self.get(PUT).wrapping_sub(unfinished as u64);
        self.word(DONE).store(done, Ordering::Release);
        Ok(())
    }

    /// Puts an item if there is room: `false` if there is none.
    pub(super) fn try_put(
        self,
        slot: &Locked,
        parcel: &Parcel,
        reserve: &mut Reserve,
        wakes: &mut Wakes,
    ) -> io::Result<bool> {
        if self.is_full() {
            return Ok(false);
        }
        Ring::of(slot, WORDS).put(parcel, reserve)?;
        if let Some(getter) = slot.pop(GETTERS, State::Notified) {
            wakes.add(getter);
        }
        Ok(true)
    }

    /// Takes the first item, if there is one.
    pub(super) fn try_get(
        self,
        slot: &Locked,
        spent: &mut Reserve,
        wakes: &mut Wakes,
    ) -> Option<Result<Parcel, &'static str>> {
        let parcel = Ring::of(slot, WORDS).take(spent)?;
        if let Some(putter) = slot.pop(PUTTERS, State::Notified) {
            wakes.add(putter);
        }
        Some(parcel)
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

    /// The process that had the mutex is gone.
    pub(crate) fn repair(self, slot: &Locked, wakes: &mut Wakes) {
        Ring::of(slot, WORDS).repair();
        slot.pop_all(GETTERS, wakes, 0);
        slot.pop_all(PUTTERS, wakes, 0);
        if self.unfinished() == 0 {
            slot.pop_all(JOINERS, wakes, 0);
        }
    }

    /// Nobody has the queue any more.
    pub(crate) fn clear(self) {
        if self.get(WORDS.tail) != 0 {
            Ring::of(&self.0.lock(), WORDS).clear();
        }
    }
}
