//! The items of a map, and the results of many workers, in one allocation each.
//!
//! A [`Block`] is room for values. It is [carved](carver) into [`Piece`]s, each of which owns a range of its
//! own, like a small `Vec` in somebody else's memory, so that workers fill them without a lock. In
//! the end pieces that lie side by side in one block become a `Vec` without any value being moved.
#![allow(unsafe_code)]

mod carver;

use std::{
    mem::{ManuallyDrop, MaybeUninit},
    ptr::NonNull,
    sync::Arc,
};

use super::items::Items;
use crate::memory::discard_all;
use carver::Block;
pub(crate) use carver::Carver;

/// A range of a block: values that were pushed, of which the first ones may have been taken.
pub(crate) struct Piece<T> {
    /// The first value; it is in the block.
    first: NonNull<MaybeUninit<T>>,
    block: Arc<Block<T>>,
    start: usize,
    taken: usize,
    len: usize,
    capacity: usize,
}

// SAFETY: a piece owns the values in its range, like a `Vec`, and nobody else touches them.
unsafe impl<T: Send> Send for Piece<T> {}
// SAFETY: as above; `&Piece` gives `&T` and nothing else.
unsafe impl<T: Sync> Sync for Piece<T> {}

impl<T> Piece<T> {
    /// How many values were pushed.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The values that were not taken.
    pub(crate) fn as_slice(&self) -> &[T] {
        // SAFETY: values from `taken` to `len` are initialised and belong to this piece, which lends
        // itself for as long as the slice lives.
        unsafe {
            let start = self.first.add(self.taken);
            std::slice::from_raw_parts(start.as_ptr().cast(), self.len - self.taken)
        }
    }

    /// The first values that were not taken, up to `max`, as a piece of their own.
    pub(crate) fn cut(&mut self, max: usize) -> Self {
        let start = self.taken;
        let len = max.min(self.len - start);
        self.taken += len;
        Piece {
            // SAFETY: `start` is at most `len`, and that many values are in the block. Those of the cut are
            // taken from this piece.
            first: unsafe { self.first.add(start) },
            block: Arc::clone(&self.block),
            start: self.start + start,
            taken: 0,
            len,
            capacity: len,
        }
    }

    /// Pushes what the function makes of the items, for which there must be room. If it panics, what it
    /// gave before is there.
    pub(crate) fn map_from<I: 'static>(
        &mut self,
        items: Items<I>,
        mut function: impl FnMut(I) -> T,
    ) {
        /// Writes back how many there are, also when the function panics.
        struct Progress<'a, T> {
            piece: &'a mut Piece<T>,
            made: usize,
        }
        impl<T> Drop for Progress<'_, T> {
            fn drop(&mut self) {
                self.piece.len += self.made;
            }
        }

        assert!(
            items.len() <= self.capacity - self.len,
            "there is room for a result of each item"
        );
        // SAFETY: the index is within the block.
        let target = unsafe { self.first.add(self.len) };
        let mut progress = Progress {
            piece: self,
            made: 0,
        };
        items.for_each(|item| {
            let made = function(item);
            // SAFETY: there is room behind the values that this piece has for as many as there are items,
            // and nobody else touches it.
            unsafe { target.add(progress.made).write(MaybeUninit::new(made)) };
            progress.made += 1;
        });
    }

    /// Pushes the values of the iterator, for which there must be room. If it panics, what it gave
    /// before is there.
    #[inline]
    pub(crate) fn fill(&mut self, values: impl Iterator<Item = T>) {
        values.for_each(|value| {
            assert!(self.len < self.capacity, "a piece is filled up to its end");
            // SAFETY: the index is within the range of this piece, which is within the block. Nobody
            // else touches the range, and nothing is there that would have to be dropped.
            unsafe {
                self.first.add(self.len).write(MaybeUninit::new(value));
            }
            self.len += 1;
        });
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
        let value = unsafe { self.first.add(self.taken).read().assume_init() };
        self.taken += 1;
        Some(value)
    }

    /// Keeps its place in a register, which `next` cannot.
    #[inline]
    fn fold<B, F: FnMut(B, T) -> B>(mut self, init: B, mut function: F) -> B {
        /// Writes back how many were taken, also when the function panics.
        struct Progress<'a, T> {
            piece: &'a mut Piece<T>,
            taken: usize,
        }
        impl<T> Drop for Progress<'_, T> {
            fn drop(&mut self) {
                self.piece.taken = self.taken;
            }
        }

        let (first, taken, len) = (self.first, self.taken, self.len);
        let mut progress = Progress {
            piece: &mut self,
            taken,
        };
        let mut folded = init;
        for index in taken..len {
            // SAFETY: values from `taken` to `len` are initialised and belong to this piece; the count
            // goes up, so that each is read once.
            let value = unsafe { first.add(index).read().assume_init() };
            progress.taken = index + 1;
            folded = function(folded, value);
        }
        folded
    }
}

impl<T> From<Vec<T>> for Piece<T> {
    /// The values stay where they are.
    fn from(vector: Vec<T>) -> Self {
        let len = vector.len();
        let block = Block::of(vector);
        Piece {
            first: block.start,
            block: Arc::new(block),
            start: 0,
            taken: 0,
            len,
            capacity: len,
        }
    }
}

impl<T> Drop for Piece<T> {
    fn drop(&mut self) {
        // SAFETY: values from `taken` to `len` are initialised, are in the block and belong to this piece, which ends
        // here.
        unsafe {
            let first = self.first.add(self.taken).cast::<T>();
            discard_all(first.as_ptr(), self.len - self.taken);
        }
    }
}

/// All values of the pieces, in order.
pub(crate) fn join<T>(pieces: Vec<Piece<T>>) -> Vec<T> {
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
            // SAFETY: the block is not dropped. Its first `len` values are those of the pieces, which
            // have given them up.
            unsafe { ManuallyDrop::new(block).take(len) }
        }
        _ => unreachable!("the pieces were the last that referred to their block"),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::Cell,
        rc::Rc,
        sync::atomic::{AtomicUsize, Ordering},
    };

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

    static_assertions::assert_impl_all!(Piece<Cell<u8>>: Send);
    static_assertions::assert_not_impl_any!(Piece<Rc<u8>>: Send);
    static_assertions::assert_impl_all!(Piece<u8>: Sync);
    static_assertions::assert_not_impl_any!(Piece<Cell<u8>>: Sync);

    #[test]
    fn pieces_side_by_side_become_a_vec_in_place() {
        let mut carver = Carver::in_place(5);
        let pieces = pieces_of(
            &mut carver,
            vec![vec!["a".to_string(), "b".into()], vec!["c".into()]],
        );
        drop(carver);
        let start = pieces[0].as_slice().as_ptr().addr();
        let joined = join(pieces);
        assert_eq!(joined, ["a", "b", "c"]);
        assert_eq!(joined.as_ptr().addr(), start);
    }

    #[test]
    fn pieces_of_several_blocks_and_used_ones_are_joined_too() {
        let mut carver = Carver::in_place(1);
        let mut pieces = pieces_of(&mut carver, vec![vec![1], vec![2, 3], vec![], vec![4, 5]]);
        drop(carver);
        assert_eq!(pieces[0].next(), Some(1));
        assert_eq!(join(pieces), [2, 3, 4, 5]);
        assert!(join::<i32>(Vec::new()).is_empty());
    }

    #[test]
    fn a_piece_that_was_not_filled_leaves_no_hole() {
        let mut carver = Carver::in_place(4);
        let mut first = carver.carve(2);
        first.fill([1].into_iter());
        let mut second = carver.carve(2);
        second.fill([3, 4].into_iter());
        drop(carver);
        assert_eq!(join(vec![first, second]), [1, 3, 4]);
    }

    #[test]
    fn a_function_that_panics_leaves_what_it_gave_before() {
        let items = ["a", "b", "c", "d"].map(String::from);
        let mut from = Carver::in_place(4).carve(4);
        from.fill(items.into_iter());
        let mut to = Carver::in_place(4).carve(4);
        let panics = |item: String| if item == "c" { panic!("c") } else { item + "!" };
        let run = std::panic::AssertUnwindSafe(|| to.map_from(Items::InMemory(from), panics));
        assert!(std::panic::catch_unwind(run).is_err());
        assert!(to.eq(["a!", "b!"]));
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
        let mut carver = Carver::in_place(6);
        let mut pieces = pieces_of(&mut carver, vec![chunk(3), chunk(2)]);
        drop(pieces[0].next());
        assert_eq!(DROPS.load(Ordering::Relaxed), 1);
        drop(pieces);
        assert_eq!(DROPS.load(Ordering::Relaxed), 5);
        let pieces = pieces_of(&mut Carver::in_place(2), vec![chunk(1), chunk(1)]);
        drop(join(pieces));
        assert_eq!(DROPS.load(Ordering::Relaxed), 7);
    }

    #[test]
    fn values_without_a_size_work() {
        let mut carver = Carver::in_place(3);
        let pieces = pieces_of(&mut carver, vec![vec![(), ()], vec![()]]);
        drop(carver);
        assert_eq!(join(pieces).len(), 3);
    }
}
