//! The memory that grows and shrinks: blocks of bytes, claimed and given back by any process at any time.
#![allow(unsafe_code)]

use std::{io, mem::MaybeUninit, ops::Range, ptr::NonNull};

use super::{
    me,
    page::Words,
    pool::{Pool, Unit},
    sys::Mapping,
};
use crate::shim::{AtomicU32, AtomicU64, Ordering};

/// Bytes in a block; models have time for a few items only.
pub(super) const BLOCK: usize = if cfg!(freethreading_loom) {
    2 * CACHE_LINE
} else {
    64 << 10
};

/// Bytes in a cache line.
pub(super) const CACHE_LINE: usize = 64;

/// What is known of a block; its bytes are elsewhere.
#[derive(Default)]
#[repr(C)]
pub(crate) struct BlockTag {
    tag: AtomicU64,
    /// The next block of the stream.
    pub(super) next: AtomicU32,
    /// The slot that it belongs to, once it is part of the stream.
    pub(super) slot: AtomicU32,
}

impl Unit for BlockTag {
    fn tag(&self) -> &AtomicU64 {
        &self.tag
    }

    fn reset(&self) {
        // Relaxed: freeing the unit publishes it.
        self.next.store(0, Ordering::Relaxed);
        self.slot.store(0, Ordering::Relaxed);
    }

    #[cfg(freethreading_loom)]
    fn new() -> Self {
        BlockTag::default()
    }
}

const IN_USE: u16 = 1;

/// All blocks there are.
pub(crate) struct Blocks {
    pub(super) tags: Pool<BlockTag>,
    mapping: &'static Mapping,
    start: usize,
    pub(super) count: usize,
    #[cfg(freethreading_loom)]
    watched: &'static super::modelled::Watched,
}

impl Blocks {
    pub(super) fn new(
        tags: Pool<BlockTag>,
        mapping: &'static Mapping,
        range: Range<usize>,
        #[cfg(freethreading_loom)] watched: &'static super::modelled::Watched,
    ) -> Self {
        Blocks {
            #[cfg(freethreading_loom)]
            watched,
            tags,
            mapping,
            start: range.start,
            count: range.len() / BLOCK,
        }
    }

    fn offset(&self, index: u32) -> usize {
        self.start + index as usize * BLOCK
    }

    pub(super) fn claim(&self) -> io::Result<u32> {
        let (index, tag) = self.tags.claim(me(), IN_USE)?;
        if let Err(error) = self.mapping.back(self.offset(index), BLOCK) {
            self.tags.free(index, tag);
            return Err(error);
        }
        Ok(index)
    }

    /// The memory goes back to the system.
    pub(super) fn free(&self, index: u32) {
        if let Some(tag) = self.tags.get(index) {
            // Where that fails, the memory is there for the next one.
            let _ = self.mapping.give_back(self.offset(index), BLOCK);
            self.tags.free(index, tag);
        }
    }

    /// Frees the blocks that a dead process had not made part of a stream yet.
    pub(super) fn free_all_of(&self, process: u16) {
        for (index, _, tag) in self.tags.used() {
            if tag.owner == process {
                self.free(index);
            }
        }
    }

    /// Frees those of a slot's blocks that are not among these.
    pub(super) fn free_others(&self, slot: u32, kept: &[u32]) {
        for (index, block, tag) in self.tags.used() {
            let is_its = tag.owner == 0 && block.slot.load(Ordering::Relaxed) == slot;
            if is_its && !kept.contains(&index) {
                self.free(index);
            }
        }
    }

    /// Whether a block is part of this slot's stream, or about to be.
    pub(super) fn belongs(&self, index: u32, slot: u32) -> bool {
        self.tags.get(index).is_some_and(|block| {
            let owner = block.slot.load(Ordering::Relaxed);
            (index as usize) < self.count && (owner == slot || owner == 0)
        })
    }

    /// Whether a block is this process's to use as it likes.
    pub(super) fn is_of(&self, index: u32, process: u16) -> bool {
        let tag = self.tags.get(index);
        tag.is_some_and(|tag| self.tags.owner(tag) == process)
    }

    /// The words at the start of a block that has some, as long as it is somebody's.
    #[cfg(not(freethreading_loom))]
    pub(super) fn words<T: Words>(&self, index: u32) -> Option<&'static T> {
        const { assert!(size_of::<T>() <= BLOCK && align_of::<T>() <= CACHE_LINE) };
        if index as usize >= self.count {
            return None;
        }
        let at = self.mapping.at(self.offset(index), size_of::<T>())?;
        // SAFETY: the memory is mapped for good and aligned to a page. It is made of atomics alone, as the
        // trait says, and nothing else in this program touches those of this block.
        Some(unsafe { at.cast().as_ref() })
    }

    /// The checker's atomics cannot be in a mapping.
    #[cfg(freethreading_loom)]
    pub(super) fn words<T: Words>(&self, _: u32) -> Option<&'static T> {
        None
    }

    pub(super) fn next(&self, index: u32) -> Option<u32> {
        let next = self.tags.get(index)?.next.load(Ordering::Relaxed);
        (next != 0 && (next as usize) < self.count).then_some(next)
    }

    /// Says that the bytes from there on are about to be written, or else read, soon: who copies small items
    /// between locked instructions, which wait for all that was written before, would otherwise wait
    /// for another core's cache each time.
    #[inline]
    pub(super) fn expect<const WRITE: bool>(&self, index: u32, offset: usize) {
        if let Some(at) = self.mapping.at(self.offset(index) + offset, 2 * CACHE_LINE)
            && offset + 2 * CACHE_LINE <= BLOCK
        {
            prefetch::<WRITE>(at);
            // SAFETY: both lines lie within the block, and so in one mapping.
            prefetch::<WRITE>(unsafe { at.add(CACHE_LINE) });
        }
    }

    /// Copies bytes into a block.
    pub(super) fn write(&self, index: u32, offset: usize, bytes: &[u8]) {
        let at = self.mapping.at(self.offset(index) + offset, bytes.len());
        if let Some(at) = at
            && offset + bytes.len() <= BLOCK
        {
            #[cfg(freethreading_loom)]
            self.watched.write(self.offset(index) + offset, bytes.len());
            // SAFETY: the range lies within a block, which is mapped and was backed when it was
            // claimed. No Rust reference to it exists; that no other process uses it is what the mutex
            // is for, and one that does so all the same can do damage to the bytes, which are
            // checked when they are read.
            unsafe {
                bytes
                    .as_ptr()
                    .copy_to_nonoverlapping(at.as_ptr(), bytes.len())
            };
        }
    }

    /// Fills a buffer with bytes of a block; `false` if they do not lie in one.
    pub(super) fn read(&self, index: u32, offset: usize, out: &mut [MaybeUninit<u8>]) -> bool {
        let len = out.len();
        let Some(at) = self.mapping.at(self.offset(index) + offset, len) else {
            return false;
        };
        if offset + len > BLOCK {
            return false;
        }
        #[cfg(freethreading_loom)]
        self.watched.read(self.offset(index) + offset, len);
        // SAFETY: as above for the source; any bytes are valid. The target is a slice of this process's
        // own memory, which does not overlap the mapping.
        unsafe {
            at.cast::<MaybeUninit<u8>>()
                .as_ptr()
                .copy_to_nonoverlapping(out.as_mut_ptr(), len);
        }
        true
    }
}

/// Fetches a cache line, for good measure; nothing else is done with it.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline]
fn prefetch<const WRITE: bool>(at: NonNull<u8>) {
    use std::arch::{asm, x86_64};

    if WRITE {
        // SAFETY: it is a hint, whatever the address, and no operation where the processor does not know it.
        unsafe {
            asm!("prefetchw [{}]", in(reg) at.as_ptr(), options(nostack, preserves_flags, readonly));
        }
    } else {
        // SAFETY: it is a hint, whatever the address.
        unsafe { x86_64::_mm_prefetch::<{ x86_64::_MM_HINT_T0 }>(at.as_ptr().cast()) };
    }
}

#[cfg(not(all(target_arch = "x86_64", not(miri))))]
fn prefetch<const WRITE: bool>(_: NonNull<u8>) {}
