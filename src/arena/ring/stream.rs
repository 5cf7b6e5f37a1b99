//! Copying into the stream and out of it, piece by piece, from block to block.
#![allow(unsafe_code)]

use std::{io, mem::MaybeUninit};

use super::{
    super::{
        arena,
        parcel::{Parcel, Reserve},
    },
    BLOCK, Ring,
    position::Position,
};
use crate::shim::Ordering;

/// Writes behind the end of the stream, where nobody looks yet.
pub(super) struct Writer<'a> {
    pub(super) ring: Ring,
    pub(super) at: Position,
    /// Blocks that were linked.
    pub(super) new: Vec<u32>,
    pub(super) reserve: &'a mut Reserve,
}

impl Writer<'_> {
    #[inline]
    pub(super) fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
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

    #[cold]
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
pub(super) struct Reader {
    pub(super) slot: u32,
    pub(super) at: Position,
    pub(super) end: Position,
    /// Blocks that were read to their end.
    pub(super) left: Vec<u32>,
}

impl Reader {
    /// Reads an item, and appends what it has to the parcel.
    #[inline]
    pub(super) fn item(&mut self, parcel: &mut Parcel) -> Option<()> {
        let header = u128::from_ne_bytes(self.bytes()?);
        let (len, names) = (header as u64, (header >> 64) as u64);
        for _ in 0..names {
            let name = u64::from_ne_bytes(self.bytes()?);
            parcel.luggage.push(name);
        }
        let bytes = &mut parcel.bytes;
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
        Some(())
    }

    #[inline]
    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut bytes = [MaybeUninit::new(0); N];
        let mut filled = 0;
        // Mostly it lies in one piece, whose size is known here.
        if self.room()? >= N {
            self.read(&mut bytes)?;
            filled = N;
        }
        while filled < N {
            let part = self.room()?.min(N - filled);
            self.read(&mut bytes[filled..filled + part])?;
            filled += part;
        }
        // SAFETY: all of them were initialised from the start.
        Some(bytes.map(|byte| unsafe { byte.assume_init() }))
    }

    /// Goes to where there is something to read, and says how much of it lies in one block.
    #[inline]
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
    #[inline]
    fn read(&mut self, out: &mut [MaybeUninit<u8>]) -> Option<()> {
        let read = arena().blocks.read(self.at.block, self.at.offset, out);
        self.at.offset += out.len();
        read.then_some(())
    }
}
