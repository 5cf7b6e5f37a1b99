//! The items of a map, and the results of many workers, in one allocation each.
//!
//! A [`Block`] is room for values. It is carved into [`Piece`]s, each of which owns a range of its
//! own, like a small `Vec` in somebody else's memory, so that workers fill them without a lock. In
//! the end pieces that lie side by side in one block become a `Vec` without any value being moved.
#![allow(unsafe_code)]

use std::{
    collections::VecDeque,
    mem::{ManuallyDrop, MaybeUninit},
    ptr::NonNull,
    sync::Arc,
};

use super::items::Items;
use crate::memory::advise_huge_pages;

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
    fn of(memory: Vec<T>) -> Self {
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
    unsafe fn take(&self, len: usize) -> Vec<T> {
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
        let values = NonNull::slice_from_raw_parts(
            // SAFETY: `taken` is at most `len`, and that many values are in the block.
            unsafe { self.first.add(self.taken) }.cast::<T>(),
            self.len - self.taken,
        );
        // SAFETY: values from `taken` to `len` are initialised and belong to this piece, which ends
        // here. Should one of them panic, the others are dropped all the same.
        unsafe { values.drop_in_place() };
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
        collections::HashSet,
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

    static_assertions::assert_impl_all!(Block<Cell<u8>>: Send, Sync);
    static_assertions::assert_impl_all!(Piece<Cell<u8>>: Send);
    static_assertions::assert_not_impl_any!(Block<Rc<u8>>: Send, Sync);
    static_assertions::assert_not_impl_any!(Piece<Rc<u8>>: Send);
    static_assertions::assert_impl_all!(Piece<u8>: Sync);
    static_assertions::assert_not_impl_any!(Piece<Cell<u8>>: Sync);

    #[test]
    fn pieces_side_by_side_become_a_vec_in_place() {
        let mut carver = Carver::in_place(5);
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
