//! Results of many workers in one allocation, without a lock and without a copy.
//!
//! A [`Block`] is room for results. It is carved into [`Piece`]s, each of which owns a range of its
//! own, like a small `Vec` in somebody else's memory. In the end pieces that lie side by side in one
//! block become a `Vec` without any result being moved.
#![allow(unsafe_code)]

use std::{
    mem::{ManuallyDrop, MaybeUninit},
    ptr::NonNull,
    sync::Arc,
};

/// Uninitialised memory for `capacity` values. It drops no values: those belong to the pieces.
struct Block<T> {
    start: NonNull<MaybeUninit<T>>,
    capacity: usize,
}

// SAFETY: a block is touched only through its pieces, which own ranges that do not overlap; a value
// that is reached from another thread was sent there, for which `T: Send` suffices.
unsafe impl<T: Send> Send for Block<T> {}
// SAFETY: as above; `&Block` alone gives access to nothing.
unsafe impl<T: Send> Sync for Block<T> {}

impl<T> Block<T> {
    fn new(capacity: usize) -> Self {
        let memory = Box::leak(Box::<[T]>::new_uninit_slice(capacity));
        Block {
            start: NonNull::from(memory).cast(),
            capacity,
        }
    }

    fn memory(&self) -> Box<[MaybeUninit<T>]> {
        let memory = NonNull::slice_from_raw_parts(self.start, self.capacity);
        // SAFETY: pointer and length are those of the box that `new` leaked. The callers take the
        // block apart, so that only one box is made of it.
        unsafe { Box::from_raw(memory.as_ptr()) }
    }
}

impl<T> Drop for Block<T> {
    fn drop(&mut self) {
        drop(self.memory());
    }
}

/// Hands out the pieces of one block, and of another when that is used up.
pub(super) struct Carver<T> {
    block: Arc<Block<T>>,
    used: usize,
}

impl<T> Carver<T> {
    pub(super) fn new(capacity: usize) -> Self {
        Carver {
            block: Arc::new(Block::new(capacity)),
            used: 0,
        }
    }

    /// Room for `capacity` values.
    pub(super) fn carve(&mut self, capacity: usize) -> Piece<T> {
        if self.block.capacity - self.used < capacity {
            // The input was longer than it had said, or had said nothing.
            *self = Carver::new(capacity.max(self.block.capacity.saturating_mul(2)));
        }
        let start = self.used;
        self.used += capacity;
        Piece {
            block: Arc::clone(&self.block),
            start,
            taken: 0,
            len: 0,
            capacity,
        }
    }
}

/// A range of a block: values that were pushed, of which the first ones may have been taken.
pub(crate) struct Piece<T> {
    block: Arc<Block<T>>,
    start: usize,
    taken: usize,
    len: usize,
    capacity: usize,
}

impl<T> Piece<T> {
    /// Pushes the values of the iterator, for which there must be room. If it panics, what it gave
    /// before is there.
    #[inline]
    pub(super) fn fill(&mut self, values: impl Iterator<Item = T>) {
        for value in values {
            assert!(self.len < self.capacity, "a piece is filled up to its end");
            // SAFETY: the index is within the range of this piece, which is within the block. Nobody
            // else touches the range, and nothing is there that would have to be dropped.
            unsafe {
                self.block
                    .start
                    .add(self.start + self.len)
                    .write(MaybeUninit::new(value));
            }
            self.len += 1;
        }
    }
}

impl<T> Iterator for Piece<T> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        if self.taken == self.len {
            return None;
        }
        // SAFETY: values from `taken` to `len` are initialised and belong to this piece; the count
        // goes up, so that each is read once.
        let value = unsafe {
            self.block
                .start
                .add(self.start + self.taken)
                .read()
                .assume_init()
        };
        self.taken += 1;
        Some(value)
    }
}

impl<T> Drop for Piece<T> {
    fn drop(&mut self) {
        self.for_each(drop);
    }
}

/// All values of the pieces, in order.
pub(super) fn join<T>(pieces: Vec<Piece<T>>) -> Vec<T> {
    let mut len = 0;
    let seamless = pieces.iter().all(|piece| {
        let fits =
            Arc::ptr_eq(&piece.block, &pieces[0].block) && piece.start == len && piece.taken == 0;
        len += piece.len;
        fits
    });
    if !seamless || pieces.is_empty() {
        return pieces.into_iter().flatten().collect();
    }
    let mut block = None;
    for piece in pieces {
        let piece = ManuallyDrop::new(piece);
        // SAFETY: the piece is not dropped, so its reference is moved out of it; its values stay where
        // they are.
        block = Some(unsafe { std::ptr::read(&raw const piece.block) });
    }
    match block.map(Arc::try_unwrap) {
        Some(Ok(block)) => {
            let mut memory = ManuallyDrop::new(ManuallyDrop::new(block).memory());
            // SAFETY: the memory was allocated as a slice of `capacity` values of this layout, and is
            // not freed by anybody else. Its first `len` values are those of the pieces, which have
            // given them up.
            unsafe { Vec::from_raw_parts(memory.as_mut_ptr().cast(), len, memory.len()) }
        }
        _ => unreachable!("the pieces were the last that referred to their block"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn pieces_of<T>(carver: &mut Carver<T>, chunks: Vec<Vec<T>>) -> Vec<Piece<T>> {
        chunks
            .into_iter()
            .map(|chunk| {
                let mut piece = carver.carve(chunk.len());
                piece.fill(chunk.into_iter());
                piece
            })
            .collect()
    }

    #[test]
    fn pieces_side_by_side_become_a_vec_in_place() {
        let mut carver = Carver::new(5);
        let start = carver.block.start.as_ptr().addr();
        let pieces = pieces_of(
            &mut carver,
            vec![vec!["a".to_string(), "b".into()], vec!["c".into()]],
        );
        drop(carver);
        let joined = join(pieces);
        assert_eq!(joined, ["a", "b", "c"]);
        assert_eq!(joined.as_ptr().addr(), start);
    }

    #[test]
    fn pieces_of_several_blocks_and_used_ones_are_joined_too() {
        let mut carver = Carver::new(1);
        let mut pieces = pieces_of(&mut carver, vec![vec![1], vec![2, 3], vec![], vec![4, 5]]);
        drop(carver);
        assert_eq!(pieces[0].next(), Some(1));
        assert_eq!(join(pieces), [2, 3, 4, 5]);
        assert!(join::<i32>(Vec::new()).is_empty());
    }

    #[test]
    fn a_piece_that_was_not_filled_leaves_no_hole() {
        let mut carver = Carver::new(4);
        let mut first = carver.carve(2);
        first.fill([1].into_iter());
        let mut second = carver.carve(2);
        second.fill([3, 4].into_iter());
        drop(carver);
        assert_eq!(join(vec![first, second]), [1, 3, 4]);
    }

    #[test]
    fn every_value_is_dropped_once() {
        static DROPS: AtomicUsize = AtomicUsize::new(0);
        struct Counted;
        impl Drop for Counted {
            fn drop(&mut self) {
                DROPS.fetch_add(1, Ordering::Relaxed);
            }
        }
        let chunk = |n| (0..n).map(|_| Counted).collect::<Vec<_>>();
        let mut carver = Carver::new(6);
        let mut pieces = pieces_of(&mut carver, vec![chunk(3), chunk(2)]);
        drop(pieces[0].next());
        assert_eq!(DROPS.load(Ordering::Relaxed), 1);
        drop(pieces);
        assert_eq!(DROPS.load(Ordering::Relaxed), 5);
        let pieces = pieces_of(&mut Carver::new(2), vec![chunk(1), chunk(1)]);
        drop(join(pieces));
        assert_eq!(DROPS.load(Ordering::Relaxed), 7);
    }

    #[test]
    fn values_without_a_size_work() {
        let mut carver = Carver::new(3);
        let pieces = pieces_of(&mut carver, vec![vec![(), ()], vec![()]]);
        drop(carver);
        assert_eq!(join(pieces).len(), 3);
    }
}
