//! The items of a shared queue: a stream of bytes in a chain of blocks, which grows at its end and is
//! given back at its start.
//!
//! Its end is under the mutex of the queue's slot, and its start under the slot's gate, so that who puts
//! and who takes do not wait for each other, nor write to the same cache lines: each side keeps what it
//! last saw of the other's progress and looks again only when that is used up. A put is committed by one
//! store, to the end of the stream, and a get by one, to its start: a process that is killed half-way leaves
//! the stream as it was, and what else is not right then is put in order, under both locks, when the slot
//! is repaired.

pub(crate) mod position;
mod stream;

use std::io;

use self::{
    position::{COUNT, HEAD, PUT, Position, SPARES, TAIL, TAIL_SEEN, TAKEN, count_of},
    stream::{Reader, Writer},
};
use super::{
    arena,
    blocks::{BLOCK, BlockTag, CACHE_LINE},
    gate::Gate,
    handle::{SlotId, retain},
    me,
    node::Wakes,
    parcel::{Parcel, Reserve},
    slot::{Locked, SlotRef},
};
use crate::shim::Ordering;

/// In front of every item: how many bytes it has, and how many primitives' names, which come first.
const HEADER: usize = 16;

/// How far ahead of the items that are copied memory is fetched.
const AHEAD: usize = 3 * CACHE_LINE;

/// The stream of a slot. Words are read with Acquire and written with Release: with the positions come
/// the bytes, and with what one side gives to the other what it has done with it.
#[derive(Clone, Copy)]
pub(crate) struct Ring {
    slot: SlotRef,
}

/// What was read is not an item.
#[derive(Debug)]
pub(crate) struct Damaged;

impl Ring {
    pub(crate) fn of(slot: SlotRef) -> Self {
        Ring { slot }
    }

    #[inline]
    fn get(self, word: usize) -> u64 {
        self.slot.word(word).load(Ordering::Acquire)
    }

    #[inline]
    fn set(self, word: usize, value: u64) {
        self.slot.word(word).store(value, Ordering::Release);
    }

    fn head(self) -> Position {
        Position::unpack(self.get(HEAD))
    }

    fn tail(self) -> Position {
        Position::unpack(self.get(TAIL))
    }

    /// Whether there is no item, at some moment of the call; any process may ask.
    #[inline]
    pub(crate) fn is_empty(self) -> bool {
        let head = self.get(HEAD);
        // Who has not used up what was seen leaves the end, and its cache line, alone.
        head == self.get(TAIL_SEEN) && head == self.get(TAIL)
    }

    /// Appends an item, with blocks from `reserve` where more are needed.
    pub(crate) fn put(
        self,
        slot: &Locked,
        parcel: &Parcel,
        reserve: &mut Reserve,
        wakes: &mut Wakes,
    ) -> io::Result<()> {
        let blocks = &arena().blocks;
        let last = self.tail().block;
        if last != 0 && !blocks.belongs(last, self.slot.index()) {
            self.forget(&slot.gate(wakes));
        }
        let start = self.tail();
        blocks.expect::<true>(
            start.block,
            start.offset + HEADER + parcel.bytes.len() + AHEAD,
        );
        let mut writer = Writer {
            ring: self,
            at: start,
            new: Vec::new(),
            reserve,
        };
        let (len, names) = (parcel.bytes.len() as u64, parcel.luggage.len() as u64);
        let header: [u8; HEADER] = (u128::from(names) << 64 | u128::from(len)).to_ne_bytes();
        let written = writer.write(&header).and_then(|()| {
            for id in &parcel.luggage {
                writer.write(&id.to_ne_bytes())?;
            }
            writer.write(&parcel.bytes)
        });
        let Writer { at, new, .. } = writer;
        if let Err(error) = written {
            // What was linked behind the end does not belong to the stream.
            if let Some(last) = blocks.tags.get(self.tail().block) {
                last.next.store(0, Ordering::Relaxed);
            }
            reserve.0.extend(new);
            return Err(error);
        }
        // The queue has the primitives from now on, whoever else lets go of them: before anybody can take
        // them out. A process that is killed here has at worst held on to them for good.
        for &id in &parcel.luggage {
            let _ = retain(SlotId::unpack(id));
        }
        // Likewise the blocks, before anybody can be done with them.
        self.adopt(&new);
        let put = self.get(PUT).wrapping_add(1);
        if start.block == 0 {
            // The first item of all: its start is the start of the stream. Nobody takes yet, since the end
            // is nowhere.
            let block = new.first().copied().unwrap_or(0);
            let first = Position { block, offset: 0 };
            self.set(HEAD, first.pack(self.get(TAKEN)));
        }
        self.set(PUT, put);
        // The item is in the queue, from here on.
        self.set(TAIL, at.pack(put));
        Ok(())
    }

    /// The blocks are the queue's.
    fn adopt(self, new: &[u32]) {
        let blocks = &arena().blocks;
        let slot = self.slot.index();
        for &index in new.iter().filter(|&&index| blocks.belongs(index, slot)) {
            if let Some(tag) = blocks.tags.get(index) {
                tag.slot.store(slot, Ordering::Relaxed);
                blocks.tags.hand(tag, 0);
            }
        }
    }

    /// The words were damaged: nothing can be found any more.
    fn forget(self, _gate: &Gate) {
        for spare in SPARES {
            self.set(spare, 0);
        }
        self.rest_at(Position::NOWHERE);
    }

    /// The stream is empty, and goes on from here.
    fn rest_at(self, position: Position) {
        let put = self.get(PUT);
        let word = position.pack(put);
        self.set(HEAD, word);
        self.set(TAKEN, put);
        self.set(TAIL_SEEN, word);
        self.set(TAIL, word);
    }

    fn reader(self, head: u64, end: u64) -> Reader {
        Reader {
            slot: self.slot.index(),
            at: Position::unpack(head),
            end: Position::unpack(end),
            left: Vec::new(),
        }
    }

    /// Takes the first item, if there is one, into an empty parcel; blocks that are not needed any more go
    /// to `spent`.
    #[inline]
    pub(crate) fn take(
        self,
        _gate: &Gate,
        parcel: &mut Parcel,
        spent: &mut Reserve,
    ) -> Option<Result<(), Damaged>> {
        let head = self.get(HEAD);
        let mut end = self.get(TAIL_SEEN);
        if head == end || Position::unpack(end).block == 0 {
            end = self.get(TAIL);
            if head == end || Position::unpack(end).block == 0 {
                return None;
            }
            self.set(TAIL_SEEN, end);
        }
        // Once more, since the first put of all says where the start is, before it says where the end is.
        let mut reader = self.reader(self.get(HEAD), end);
        if reader.at.block != reader.end.block || reader.at.offset + AHEAD < reader.end.offset {
            arena()
                .blocks
                .expect::<false>(reader.at.block, reader.at.offset + AHEAD);
        }
        if reader.item(parcel).is_none() {
            parcel.empty();
            return Some(Err(Damaged));
        }
        let Reader { at, left, .. } = reader;
        let taken = self.get(TAKEN).wrapping_add(1);
        // The item is out of the queue, from here on.
        self.set(HEAD, at.pack(taken));
        self.set(TAKEN, taken);
        if !left.is_empty() {
            self.put_by(left, spent);
        }
        Some(Ok(()))
    }

    /// Somebody has written where he must not: what cannot be made out is given up.
    pub(crate) fn give_up(self, slot: &Locked, gate: &Gate) {
        self.rest_at(self.tail());
        self.repair(slot, gate);
    }

    /// A few blocks are kept, so that a queue that moves on needs no system calls.
    #[cold]
    fn put_by(self, left: Vec<u32>, spent: &mut Reserve) {
        let blocks = &arena().blocks;
        let is_ours = |tag: &&BlockTag| tag.slot.load(Ordering::Relaxed) == self.slot.index();
        for block in left {
            let Some(tag) = blocks.tags.get(block).filter(is_ours) else {
                continue;
            };
            tag.next.store(0, Ordering::Relaxed);
            if let Some(free) = SPARES.into_iter().find(|&spare| self.get(spare) == 0) {
                self.set(free, u64::from(block));
            } else {
                // Should this process be killed, they are freed with all that it has.
                blocks.tags.hand(tag, me());
                tag.slot.store(0, Ordering::Relaxed);
                spent.0.push(block);
            }
        }
    }

    fn take_spare(self) -> Option<u32> {
        let blocks = &arena().blocks;
        SPARES.into_iter().find_map(|spare| {
            let block = self.get(spare) as u32;
            let tag = blocks.tags.get(block)?;
            if !blocks.belongs(block, self.slot.index()) {
                return None;
            }
            // First it is this process's, then not the queue's. Should the process be killed in between, the
            // repair finds that the queue does not have it any more.
            blocks.tags.hand(tag, me());
            self.set(spare, 0);
            Some(block)
        })
    }

    /// A process that had the mutex, or the gate, is gone, perhaps in the middle of something.
    pub(crate) fn repair(self, _slot: &Locked, _gate: &Gate) {
        let blocks = &arena().blocks;
        // A put may have been counted and not committed.
        let uncommitted = self.get(PUT).wrapping_sub(count_of(self.get(TAIL))) & COUNT;
        if uncommitted == 1 {
            self.set(PUT, self.get(PUT).wrapping_sub(1));
        }
        if self.tail().block == 0 {
            // It was about to put the first item, if any.
            self.rest_at(self.tail());
        }
        let (head, tail) = (self.head(), self.tail());
        let mut reader = self.reader(self.get(HEAD), self.get(TAIL));
        let mut count = 0;
        let mut parcel = Parcel::default();
        while reader.at != tail && reader.item(&mut parcel).is_some() {
            count += 1;
            parcel.empty();
        }
        if reader.at != tail {
            self.rest_at(tail);
        } else {
            // A get may have been committed and not counted; and where the counts were damaged, what can be
            // read is what there is.
            let put = self.get(PUT);
            let taken = put.wrapping_sub(count);
            self.set(TAKEN, taken);
            self.set(HEAD, head.pack(taken));
            self.set(TAIL, tail.pack(put));
            self.set(TAIL_SEEN, tail.pack(put));
        }
        if let Some(last) = blocks.tags.get(tail.block) {
            last.next.store(0, Ordering::Relaxed);
        }
        let mut kept = reader.left;
        kept.push(head.block);
        kept.push(tail.block);
        self.adopt(&kept);
        for spare in SPARES {
            let block = self.get(spare) as u32;
            let tag = blocks.tags.get(block);
            if tag.is_some_and(|tag| blocks.tags.owner(tag) == 0) {
                kept.push(block);
            } else {
                // Somebody was about to use it, and it is freed with what he had.
                self.set(spare, 0);
            }
        }
        blocks.free_others(self.slot.index(), &kept);
    }

    /// Lets go of all there is.
    pub(crate) fn clear(self, slot: &Locked, gate: &Gate) {
        let mut spent = Reserve::default();
        let mut parcel = Parcel::default();
        while let Some(taken) = self.take(gate, &mut parcel, &mut spent) {
            match taken {
                Ok(()) => parcel.release_luggage(),
                Err(Damaged) => self.give_up(slot, gate),
            }
            parcel.empty();
        }
        spent.0.extend(std::iter::from_fn(|| self.take_spare()));
        let last = self.tail().block;
        self.rest_at(Position::NOWHERE);
        let blocks = &arena().blocks;
        if let Some(tag) = blocks.tags.get(last)
            && blocks.belongs(last, self.slot.index())
        {
            blocks.tags.hand(tag, me());
            spent.0.push(last);
        }
    }
}

#[cfg(all(test, not(freethreading_loom)))]
mod tests;
