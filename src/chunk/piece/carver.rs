//! Room for values, and how it is divided: a [`Block`], and the [`Carver`] that gives pieces of it.

use std::{
    collections::VecDeque,
    mem::{ManuallyDrop, MaybeUninit},
    ptr::NonNull,
    sync::Arc,
};

use super::Piece;
use crate::memory::advise_huge_pages;

/// Uninitialised memory for `capacity` values. It drops no values: those belong to the pieces.
pub(super) struct Block<T> {
    pub(super) start: NonNull<MaybeUninit<T>>,
    capacity: usize,
}

// SAFETY: a block is touched only through its pieces, which own ranges that do not overlap; a value
// that is reached from another thread was sent there, for which `T: Send` suffices.
unsafe impl<T: Send> Send for Block<T> {}
// SAFETY: as above; `&Block` alone gives access to nothing.
unsafe impl<T: Send> Sync for Block<T> {}

impl<T> Block<T> {
    fn new(capacity: usize) -> Self {
        Block::to_fill(Vec::with_capacity(capacity))
    }

    /// A block of that capacity or, where the memory is refused, of none: an input may claim any
    /// length, and what it really delivers finds room elsewhere.
    fn claimed(capacity: usize) -> Self {
        let mut memory = Vec::new();
        let _ = memory.try_reserve_exact(capacity);
        Block::to_fill(memory)
    }

    fn to_fill(mut memory: Vec<T>) -> Self {
        advise_huge_pages(memory.spare_capacity_mut());
        Block::of(memory)
    }

    /// The memory of a vector. The values, if there are any, are the caller's from now on.
    pub(super) fn of(memory: Vec<T>) -> Self {
        let mut memory = ManuallyDrop::new(memory);
        Block {
            // A `Vec` of values without a size has room for any number of them.
            capacity: memory.capacity(),
            // SAFETY: a `Vec` has no null pointer.
            start: unsafe { NonNull::new_unchecked(memory.as_mut_ptr().cast()) },
        }
    }

    /// The vector that the block was made of, with so many values.
    ///
    /// # Safety
    ///
    /// It may be called once, and the first `len` values are initialised and nobody else's.
    pub(super) unsafe fn take(&self, len: usize) -> Vec<T> {
        // SAFETY: pointer and capacity are those of the vector that `of` forgot, which the caller takes
        // back only once; for the values the caller vouches.
        unsafe { Vec::from_raw_parts(self.start.as_ptr().cast(), len, self.capacity) }
    }
}

impl<T> Drop for Block<T> {
    fn drop(&mut self) {
        // SAFETY: this is the end of the block, and it takes no values along.
        drop(unsafe { self.take(0) });
    }
}

/// How many blocks are kept to be used again. With more, memory is not in the caches any more.
const WORN: usize = 64;

/// Hands out the pieces of one block, and of another when that is used up.
pub(crate) struct Carver<T> {
    block: Arc<Block<T>>,
    used: usize,
    /// Blocks that are used up, the oldest first; `None` where all pieces are to lie side by side.
    worn: Option<VecDeque<Arc<Block<T>>>>,
}

impl<T> Carver<T> {
    /// Carves pieces that lie side by side, as far as `capacity` goes.
    pub(crate) fn in_place(capacity: usize) -> Self {
        Carver {
            block: Arc::new(Block::claimed(capacity)),
            used: 0,
            worn: None,
        }
    }

    /// Carves pieces that are soon dropped: memory that is in the caches already is used again. The
    /// values are expected to be as many as `total`.
    pub(crate) fn in_turns(total: usize) -> Self {
        /// A fraction of a second-level cache.
        const BYTES: usize = 256 << 10;

        let capacity = BYTES / size_of::<T>().max(1);
        Carver {
            block: Arc::new(Block::new(capacity.min(total))),
            used: 0,
            worn: Some(VecDeque::new()),
        }
    }

    /// Makes room for a piece of the given size.
    fn turn_over(&mut self, capacity: usize) {
        self.used = 0;
        let Some(worn) = &mut self.worn else {
            // The input was longer than it had said, or had said nothing.
            let capacity = capacity.max(self.block.capacity.saturating_mul(2));
            self.block = Arc::new(Block::new(capacity));
            return;
        };
        if worn.len() == WORN {
            // Its pieces have it to themselves.
            worn.pop_front();
        }
        worn.push_back(Arc::clone(&self.block));
        // A block of which this is the only reference has no pieces any more: mostly the oldest, but any piece may
        // stay for long. One that is too small is not worth keeping.
        let is_free = |block: &mut Arc<Block<T>>| Arc::get_mut(block).is_some();
        while let Some(place) = worn.iter_mut().position(is_free) {
            let free = worn.remove(place).expect("it was looked at");
            if free.capacity >= capacity {
                self.block = free;
                return;
            }
        }
        self.block = Arc::new(Block::new(capacity.max(self.block.capacity)));
    }

    /// Room for `capacity` values.
    pub(crate) fn carve(&mut self, capacity: usize) -> Piece<T> {
        if self.block.capacity - self.used < capacity {
            self.turn_over(capacity);
        }
        let start = self.used;
        self.used += capacity;
        Piece {
            // SAFETY: `start` is at most the block's capacity.
            first: unsafe { self.block.start.add(start) },
            block: Arc::clone(&self.block),
            start,
            taken: 0,
            len: 0,
            capacity,
        }
    }
}

/// How many bytes are taken for values on the mere claim that they will come.
const MAX_CLAIM: usize = 64 << 20;

impl<T> Carver<T> {
    /// A piece of the next values of the iterator, at most `max`; shorter only where that ends.
    pub(crate) fn carve_from(
        &mut self,
        values: &mut impl Iterator<Item = T>,
        max: usize,
    ) -> Piece<T> {
        // What an input says of its length need not be true, so room is made as it delivers.
        let affordable = (MAX_CLAIM / size_of::<T>().max(1)).max(1);
        let likely = values.size_hint().0.clamp(1, affordable).max(64);
        let mut piece = self.carve(max.min(likely));
        loop {
            piece.fill(values.by_ref().take(piece.capacity - piece.len));
            if piece.len < piece.capacity || piece.len == max {
                break;
            }
            let mut larger = self.carve(max.min(piece.capacity.saturating_mul(2)));
            larger.fill(piece);
            piece = larger;
        }
        self.shrink(&mut piece);
        piece
    }

    /// Takes back the room that the piece, the last one carved, has not used.
    fn shrink(&mut self, piece: &mut Piece<T>) {
        if Arc::ptr_eq(&self.block, &piece.block) && self.used == piece.start + piece.capacity {
            piece.capacity = piece.len;
            self.used = piece.start + piece.len;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, collections::HashSet, rc::Rc};

    use super::*;

    static_assertions::assert_impl_all!(Block<Cell<u8>>: Send, Sync);
    static_assertions::assert_not_impl_any!(Block<Rc<u8>>: Send, Sync);

    #[test]
    fn inputs_are_cut_into_chunks_whatever_they_say_of_their_length() {
        for expected in [0, 1, 10, 5000] {
            for max in [1, 7, 1500, 4999, 5000, usize::MAX] {
                let mut carver = Carver::in_turns(expected);
                let mut values = 0..5000;
                let mut cut = Vec::new();
                loop {
                    let piece = carver.carve_from(&mut values, max);
                    if piece.len() == 0 {
                        break;
                    }
                    assert!(piece.len() == max || values.is_empty());
                    assert_eq!(piece.as_slice().len(), piece.len());
                    cut.extend(piece);
                }
                assert!(cut.into_iter().eq(0..5000), "{expected} {max}");
            }
        }
    }

    #[test]
    fn a_block_is_used_again_when_its_pieces_are_gone() {
        let mut carver = Carver::<u32>::in_turns(4);
        let first = carver.carve(4).block.start;
        let kept = carver.carve(4);
        let again = carver.carve(4);
        assert_eq!(again.block.start, first);
        drop((kept, again));
    }

    #[test]
    fn pieces_that_stay_keep_no_other_block_from_being_used_again() {
        for stay in [1, WORN - 2, 2 * WORN] {
            let mut carver = Carver::<u32>::in_turns(4);
            let stay: Vec<_> = (0..stay).map(|_| carver.carve(4)).collect();
            let blocks: HashSet<_> = (0..1000).map(|_| carver.carve(4).block.start).collect();
            assert!(blocks.len() < 4, "{} blocks", blocks.len());
            assert!(carver.worn.is_some_and(|worn| worn.len() <= WORN));
            drop(stay);
        }
    }
}
