//! Items on their way into a shared queue or out of it, and what goes with them.

use std::{io, mem};

use super::{
    arena,
    blocks::BLOCK,
    handle::{SlotId, release},
    slot::SlotRef,
};

/// An item as it travels: encoded, with the primitives that it names.
#[derive(Default)]
pub(crate) struct Parcel {
    pub(crate) bytes: Vec<u8>,
    pub(crate) luggage: Vec<u64>,
}

impl Drop for Parcel {
    fn drop(&mut self) {
        buffer::give(mem::take(&mut self.bytes));
    }
}

/// Each thread keeps a buffer for the next item.
mod buffer {
    use std::cell::Cell;

    use crate::codec::ENOUGH;

    /// What is larger is not kept.
    const LARGEST: usize = 4096;

    thread_local! {
        static KEPT: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    }

    /// Empty, and with capacity for what most items need.
    #[inline]
    pub(super) fn take() -> Vec<u8> {
        // Thread-locals are gone while a thread ends.
        let mut buffer = KEPT.try_with(Cell::take).unwrap_or_default();
        buffer.reserve(ENOUGH);
        buffer
    }

    #[inline]
    pub(super) fn give(mut buffer: Vec<u8>) {
        if buffer.capacity() != 0 && buffer.capacity() <= LARGEST {
            buffer.clear();
            let _ = KEPT.try_with(|kept| kept.set(buffer));
        }
    }
}

/// Blocks that are this process's alone: claimed ahead of time, or to be freed, neither of which is
/// to be done under the mutex. Dropped, they are freed.
#[derive(Default)]
pub(crate) struct Reserve(pub(super) Vec<u32>);

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
    #[inline]
    fn drop(&mut self) {
        if !self.0.is_empty() {
            self.free();
        }
    }
}

impl Reserve {
    #[cold]
    fn free(&mut self) {
        for block in self.0.drain(..) {
            arena().blocks.free(block);
        }
    }
}

impl Parcel {
    /// An empty one, with room for most items.
    #[inline]
    pub(crate) fn new() -> Self {
        Parcel {
            bytes: buffer::take(),
            luggage: Vec::new(),
        }
    }

    pub(crate) fn empty(&mut self) {
        self.bytes.clear();
        self.luggage.clear();
    }

    /// Whether at most one more block is needed for it.
    #[inline]
    pub(crate) fn is_small(&self) -> bool {
        self.bytes.len() + 8 * self.luggage.len() < BLOCK / 2
    }

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
