//! The items of a shared queue: a stream of bytes in a chain of blocks, which grows at its end and is
//! given back at its start.
//!
//! All of it is under the mutex of the queue's slot. A put is committed by one store, to the end of the
//! stream, and a get by one, to its start: a process that is killed half-way leaves the stream as it was,
//! and what else is not right then is put in order when the slot is repaired.
#![allow(unsafe_code)]

use std::{io, mem::MaybeUninit};

use super::{
    arena,
    blocks::{BLOCK, BlockTag},
    handle::{SlotId, release, retain},
    me,
    slot::{Locked, SlotRef},
};
use crate::shim::Ordering;

/// A place in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    block: u32,
    offset: usize,
}

impl Position {
    fn pack(self) -> u64 {
        u64::from(self.block) << 32 | self.offset as u64
    }

    /// What is in the arena is not trusted: a place that is none is the start of no block.
    fn unpack(position: u64) -> Position {
        let offset = position as u32 as usize;
        match offset <= BLOCK {
            true => Position {
                block: (position >> 32) as u32,
                offset,
            },
            false => Position {
                block: 0,
                offset: 0,
            },
        }
    }
}

/// The words of a slot that say where its stream is.
#[derive(Clone, Copy)]
pub(crate) struct Words {
    /// Where it starts, and how many items were taken.
    pub(crate) head: usize,
    pub(crate) taken: usize,
    /// Where it ends, and how many items were put.
    pub(crate) tail: usize,
    pub(crate) put: usize,
    /// A block that is kept for the next one that is needed.
    pub(crate) spare: usize,
}

/// An item as it travels: encoded, with the primitives that it names.
pub(crate) struct Parcel {
    pub(crate) bytes: Vec<u8>,
    pub(crate) luggage: Vec<u64>,
}

/// In front of every item: how many bytes it has, and how many primitives' names, which come first.
const HEADER: usize = 16;

/// The stream of a slot whose mutex is held. Relaxed throughout: the mutex orders it.
pub(crate) struct Ring<'a> {
    slot: &'a Locked,
    words: Words,
}

impl<'a> Ring<'a> {
    pub(crate) fn of(slot: &'a Locked, words: Words) -> Self {
        Ring { slot, words }
    }

    fn get(&self, word: usize) -> u64 {
        self.slot.words[word].load(Ordering::Relaxed)
    }

    fn set(&self, word: usize, value: u64) {
        self.slot.words[word].store(value, Ordering::Release);
    }

    fn head(&self) -> Position {
        Position::unpack(self.get(self.words.head))
    }

    fn tail(&self) -> Position {
        Position::unpack(self.get(self.words.tail))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.head() == self.tail()
    }

    /// Appends an item, with blocks from `reserve` where more are needed.
    pub(crate) fn put(&self, parcel: &Parcel, reserve: &mut Reserve) -> io::Result<()> {
        let blocks = &arena().blocks;
        let last = self.tail().block;
        if last != 0 && !blocks.belongs(last, self.slot.slot.index()) {
            self.forget();
        }
        let mut writer = Writer {
            ring: self,
            at: self.tail(),
            new: Vec::new(),
            reserve,
        };
        let (len, names) = (parcel.bytes.len() as u64, parcel.luggage.len() as u64);
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(&len.to_ne_bytes());
        header[8..].copy_from_slice(&names.to_ne_bytes());
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
        if self.tail().block == 0 {
            // The first item of all: its start is the start of the stream.
            let first = new.first().copied().unwrap_or(0);
            let start = Position {
                block: first,
                offset: 0,
            };
            self.set(self.words.head, start.pack());
        }
        // The item is in the queue, from here on.
        self.set(self.words.tail, at.pack());
        self.set(self.words.put, self.get(self.words.put).wrapping_add(1));
        self.adopt(&new);
        // The queue has the primitives now, whoever else lets go of them.
        for &id in &parcel.luggage {
            let _ = retain(SlotId::unpack(id));
        }
        Ok(())
    }

    /// The blocks are the queue's.
    fn adopt(&self, new: &[u32]) {
        let blocks = &arena().blocks;
        let slot = self.slot.slot.index();
        for &index in new.iter().filter(|&&index| blocks.belongs(index, slot)) {
            if let Some(tag) = blocks.tags.get(index) {
                tag.slot.store(slot, Ordering::Relaxed);
                blocks.tags.hand(tag, 0);
            }
        }
    }

    /// The words were damaged: nothing can be found any more.
    fn forget(&self) {
        self.set(self.words.head, 0);
        self.set(self.words.tail, 0);
        self.set(self.words.spare, 0);
        self.set(self.words.taken, self.get(self.words.put));
    }

    fn reader(&self) -> Reader {
        Reader {
            slot: self.slot.slot.index(),
            at: self.head(),
            end: self.tail(),
            left: Vec::new(),
        }
    }

    /// Takes the first item, if there is one; blocks that are not needed any more go to `spent`.
    pub(crate) fn take(&self, spent: &mut Reserve) -> Option<Result<Parcel, &'static str>> {
        if self.is_empty() {
            return None;
        }
        let mut reader = self.reader();
        let parcel = reader.parcel();
        if parcel.is_none() {
            // Somebody has written where he must not: nothing that follows can be made out.
            reader.at = self.tail();
        }
        let Reader { at, left, .. } = reader;
        // The item is out of the queue, from here on.
        self.set(self.words.head, at.pack());
        self.set(self.words.taken, self.get(self.words.taken).wrapping_add(1));
        if parcel.is_none() {
            self.set(self.words.taken, self.get(self.words.put));
        }
        for block in left {
            self.put_by(block, spent);
        }
        Some(parcel.ok_or("the memory of the queue was damaged"))
    }

    /// One block is kept, so that a queue that moves on needs no system calls.
    fn put_by(&self, block: u32, spent: &mut Reserve) {
        let blocks = &arena().blocks;
        let is_ours = |tag: &&BlockTag| tag.slot.load(Ordering::Relaxed) == self.slot.slot.index();
        let Some(tag) = blocks.tags.get(block).filter(is_ours) else {
            return;
        };
        tag.next.store(0, Ordering::Relaxed);
        if self.get(self.words.spare) == 0 {
            self.set(self.words.spare, u64::from(block));
        } else {
            // Should this process be killed, they are freed with all that it has.
            blocks.tags.hand(tag, me());
            tag.slot.store(0, Ordering::Relaxed);
            spent.0.push(block);
        }
    }

    fn take_spare(&self) -> Option<u32> {
        let spare = self.get(self.words.spare) as u32;
        let blocks = &arena().blocks;
        let tag = blocks.tags.get(spare)?;
        if !blocks.belongs(spare, self.slot.slot.index()) {
            return None;
        }
        // First it is this process's, then not the queue's.
        arena().blocks.tags.hand(tag, me());
        self.set(self.words.spare, 0);
        Some(spare)
    }

    /// The process that had the mutex is gone, perhaps in the middle of something.
    pub(crate) fn repair(&self) {
        let blocks = &arena().blocks;
        let (head, tail) = (self.head(), self.tail());
        if tail.block == 0 {
            // It was about to put the first item.
            self.set(self.words.head, 0);
        }
        let mut reader = self.reader();
        let mut count = 0;
        while reader.at != tail && reader.parcel().is_some() {
            count += 1;
        }
        // A put or a get was committed and not counted.
        let (put, taken) = (self.get(self.words.put), self.get(self.words.taken));
        match put.wrapping_sub(taken).wrapping_sub(count) {
            0 => {}
            1 => self.set(self.words.taken, taken.wrapping_add(1)),
            u64::MAX => self.set(self.words.put, put.wrapping_add(1)),
            // Damaged: what can be read is what there is.
            _ => self.set(self.words.taken, put.wrapping_sub(count)),
        }
        if reader.at != tail {
            self.set(self.words.head, tail.pack());
            self.set(self.words.taken, self.get(self.words.put));
        }
        if let Some(last) = blocks.tags.get(tail.block) {
            last.next.store(0, Ordering::Relaxed);
        }
        let mut kept = reader.left;
        kept.push(head.block);
        kept.push(tail.block);
        self.adopt(&kept);
        kept.push(self.get(self.words.spare) as u32);
        blocks.free_others(self.slot.slot.index(), &kept);
    }

    /// Lets go of all there is.
    pub(crate) fn clear(&self) {
        let mut spent = Reserve::default();
        while let Some(parcel) = self.take(&mut spent) {
            if let Ok(parcel) = parcel {
                parcel.release_luggage();
            }
        }
        spent.0.extend(self.take_spare());
        let last = self.tail().block;
        self.set(self.words.head, 0);
        self.set(self.words.tail, 0);
        let blocks = &arena().blocks;
        if let Some(tag) = blocks.tags.get(last)
            && blocks.belongs(last, self.slot.slot.index())
        {
            blocks.tags.hand(tag, me());
            spent.0.push(last);
        }
    }
}

/// Blocks that are this process's alone: claimed ahead of time, or to be freed, neither of which is
/// to be done under the mutex. Dropped, they are freed.
#[derive(Default)]
pub(crate) struct Reserve(Vec<u32>);

impl Reserve {
    /// Enough for an item of so many bytes, but for the last block.
    pub(crate) fn of(len: usize) -> io::Result<Reserve> {
        let mut reserve = Reserve::default();
        for _ in 0..len / BLOCK {
            reserve.0.push(arena().blocks.claim()?);
        }
        Ok(reserve)
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        for block in self.0.drain(..) {
            arena().blocks.free(block);
        }
    }
}

impl Parcel {
    /// The primitives are not the queue's any more.
    pub(crate) fn release_luggage(&self) {
        for &id in &self.luggage {
            let id = SlotId::unpack(id);
            if let Some(slot) = arena().slots.get(id.index) {
                release(SlotRef::new(id.index, slot));
            }
        }
    }
}

/// Writes behind the end of the stream, where nobody looks yet.
struct Writer<'a, 'b> {
    ring: &'a Ring<'a>,
    at: Position,
    /// Blocks that were linked.
    new: Vec<u32>,
    reserve: &'b mut Reserve,
}

impl Writer<'_, '_> {
    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let blocks = &arena().blocks;
        while !bytes.is_empty() {
            if self.at.block == 0 || self.at.offset == BLOCK {
                self.link()?;
            }
            let len = bytes.len().min(BLOCK - self.at.offset);
            blocks.write(self.at.block, self.at.offset, &bytes[..len]);
            self.at.offset += len;
            bytes = &bytes[len..];
        }
        Ok(())
    }

    fn link(&mut self) -> io::Result<()> {
        let blocks = &arena().blocks;
        let spare = self.ring.take_spare().or_else(|| self.reserve.0.pop());
        let block = match spare {
            Some(block) => block,
            None => blocks.claim()?,
        };
        self.new.push(block);
        if let Some(last) = blocks.tags.get(self.at.block) {
            last.next.store(block, Ordering::Relaxed);
        }
        self.at = Position { block, offset: 0 };
        Ok(())
    }
}

/// Reads from the stream, and never beyond its end.
struct Reader {
    slot: u32,
    at: Position,
    end: Position,
    /// Blocks that were read to their end.
    left: Vec<u32>,
}

impl Reader {
    fn parcel(&mut self) -> Option<Parcel> {
        let (len, names) = (self.number()?, self.number()?);
        let mut luggage = Vec::new();
        for _ in 0..names {
            luggage.push(self.number()?);
        }
        let mut bytes = Vec::new();
        let mut left = usize::try_from(len).ok()?;
        // The length is not to be trusted: no more is reserved than there is.
        while left > 0 {
            let part = left.min(self.room()?);
            bytes.reserve(part);
            self.read(&mut bytes.spare_capacity_mut()[..part])?;
            // SAFETY: so much of the spare capacity was just filled.
            unsafe { bytes.set_len(bytes.len() + part) };
            left -= part;
        }
        Some(Parcel { bytes, luggage })
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = [MaybeUninit::new(0); 8];
        let mut filled = 0;
        while filled < number.len() {
            let part = self.room()?.min(number.len() - filled);
            self.read(&mut number[filled..filled + part])?;
            filled += part;
        }
        // SAFETY: all of them were initialised from the start.
        Some(u64::from_ne_bytes(
            number.map(|byte| unsafe { byte.assume_init() }),
        ))
    }

    /// Goes to where there is something to read, and says how much of it lies in one block.
    fn room(&mut self) -> Option<usize> {
        let blocks = &arena().blocks;
        loop {
            if !blocks.belongs(self.at.block, self.slot) {
                return None;
            }
            let end = match self.at.block == self.end.block {
                true => self.end.offset,
                false => BLOCK,
            };
            match end.checked_sub(self.at.offset)? {
                // Links that were damaged may go in a circle.
                0 if self.at.block == self.end.block || self.left.len() > blocks.count => {
                    return None;
                }
                0 => {
                    self.left.push(self.at.block);
                    let block = blocks.next(self.at.block)?;
                    self.at = Position { block, offset: 0 };
                }
                room => return Some(room),
            }
        }
    }

    /// Reads what lies in one block.
    fn read(&mut self, out: &mut [MaybeUninit<u8>]) -> Option<()> {
        let read = arena().blocks.read(self.at.block, self.at.offset, out);
        self.at.offset += out.len();
        read.then_some(())
    }
}

#[cfg(all(test, not(freethreading_loom)))]
mod tests;
