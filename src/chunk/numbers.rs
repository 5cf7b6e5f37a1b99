//! Whole numbers one after the other: items that need not be collected.
#![allow(unsafe_code)]

use std::{
    any::TypeId,
    marker::PhantomData,
    mem::transmute_copy,
    ops::{Range, RangeInclusive},
};

use serde::{Deserialize, Serialize};

use super::cast::cast;

/// A range of whole numbers, each of which is made where it is needed.
pub(crate) struct Numbers<T> {
    bounds: Bounds,
    /// `T` is one of the types of whole numbers.
    made: PhantomData<fn() -> T>,
}

/// A range as it travels.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) struct Bounds {
    /// The first one, in the lowest bits.
    first: u128,
    len: usize,
}

/// Calls the macro with all types of whole numbers.
macro_rules! with_types_of_numbers {
    ($call:ident) => {
        $call!(u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize)
    };
}

impl<T> Clone for Numbers<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Numbers<T> {}

impl<T: 'static> Numbers<T> {
    /// What the iterator would give, if it is a range of whole numbers.
    pub(crate) fn of<I: Iterator<Item = T>>(items: &mut I) -> Option<Self> {
        macro_rules! look_for {
            ($($number:ty)*) => {
                $(if TypeId::of::<T>() == TypeId::of::<$number>() {
                    // SAFETY: the type has no lifetimes.
                    if let Some(range) = unsafe { cast::<I, Range<$number>>(items) } {
                        let Range { start, end } = *range;
                        let len = match start < end {
                            true => end.abs_diff(start).try_into().ok()?,
                            false => 0,
                        };
                        return Some(Numbers::new(start as u128, len));
                    }
                    // SAFETY: as above.
                    if let Some(range) = unsafe { cast::<I, RangeInclusive<$number>>(items) } {
                        let (start, last) = (*range.start(), *range.end());
                        let len = match RangeInclusive::is_empty(range) {
                            true => 0,
                            false => usize::try_from(last.abs_diff(start)).ok()?.checked_add(1)?,
                        };
                        return Some(Numbers::new(start as u128, len));
                    }
                })*
            };
        }
        with_types_of_numbers!(look_for);
        None
    }

    /// The type has to be one of whole numbers.
    fn new(first: u128, len: usize) -> Self {
        let bounds = Bounds { first, len };
        Numbers {
            bounds,
            made: PhantomData,
        }
    }

    /// Those that have come from another process, unless there are no such ones of this type.
    pub(super) fn within(bounds: Bounds) -> Option<Self> {
        macro_rules! is_one_of {
            ($($number:ty)*) => {
                [$(TypeId::of::<$number>()),*].contains(&TypeId::of::<T>())
            };
        }
        with_types_of_numbers!(is_one_of).then(|| Numbers::new(bounds.first, bounds.len))
    }

    pub(super) fn bounds(&self) -> Bounds {
        self.bounds
    }

    pub(crate) fn len(&self) -> usize {
        self.bounds.len
    }

    /// The number at the index.
    #[inline]
    pub(crate) fn at(&self, index: usize) -> T {
        debug_assert!(index < self.len());
        let number = self.bounds.first.wrapping_add(index as u128);
        // SAFETY: `T` is a type of whole numbers, any bits are one of those, and the lowest bits of the
        // sum are the sum in fewer bits, whether it has a sign or not.
        unsafe {
            match size_of::<T>() {
                1 => transmute_copy(&(number as u8)),
                2 => transmute_copy(&(number as u16)),
                4 => transmute_copy(&(number as u32)),
                8 => transmute_copy(&(number as u64)),
                _ => transmute_copy(&number),
            }
        }
    }

    /// Those from the index on.
    #[inline]
    pub(crate) fn from(&self, index: usize) -> Self {
        let Bounds { first, len } = self.bounds;
        Numbers::new(first.wrapping_add(index as u128), len - index)
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = T> {
        (0..self.len()).map(|index| self.at(index))
    }

    /// Takes the first ones away, up to `max`.
    pub(crate) fn cut(&mut self, max: usize) -> Self {
        let Bounds { first, len } = self.bounds;
        let cut = len.min(max);
        *self = self.from(cut);
        Numbers::new(first, cut)
    }
}

#[cfg(all(test, not(freethreading_loom)))]
mod tests {
    use std::{fmt::Debug, iter};

    use super::*;

    static_assertions::assert_impl_all!(Numbers<u8>: Send, Sync);

    /// Checks that the items are numbers that give the same as the iterator, also in parts.
    fn check<I>(items: I)
    where
        I: Iterator<Item: Debug + PartialEq + 'static> + Clone,
    {
        let numbers = || Numbers::of(&mut items.clone()).expect("it is a range of numbers");
        let expected: Vec<_> = items.clone().collect();
        assert_eq!(numbers().len(), expected.len());
        assert_eq!(numbers().iter().collect::<Vec<_>>(), expected);
        for max in [1, 2, 3, 7, usize::MAX] {
            let mut rest = numbers();
            let parts = iter::repeat_with(|| rest.cut(max)).take_while(|part| part.len() > 0);
            let cut: Vec<_> = parts
                .inspect(|part| assert!(part.len() <= max))
                .flat_map(|part| part.iter().collect::<Vec<_>>())
                .collect();
            assert_eq!(cut, expected, "up to {max} at a time");
        }
    }

    #[test]
    fn ranges_of_all_types_are_numbers() {
        macro_rules! check_all {
            ($($number:ty)*) => {
                $({
                    const MIN: $number = <$number>::MIN;
                    const MAX: $number = <$number>::MAX;
                    const MIDDLE: $number = MIN.midpoint(MAX);
                    for first in [MIN, MIN + 1, MIDDLE - 5, MIDDLE, MAX - 11, MAX - 1, MAX] {
                        for last in [0, 1, 2, 10, 11].map(|n| first.saturating_add(n)) {
                            check(first..last);
                            check(first..=last);
                            check(last..first);
                            check(last..=first);
                        }
                    }
                    let mut begun = MAX - 5..=MAX;
                    while begun.next().is_some() {
                        check(begun.clone());
                    }
                    check(begun);
                    let mut begun = MIN..MIN + 3;
                    while begun.next_back().is_some() {
                        check(begun.clone());
                    }
                })*
            };
        }
        check_all!(u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize);
        check(u8::MIN..=u8::MAX);
        check(i8::MIN..=i8::MAX);
        check(i16::MIN..i16::MAX);
    }

    #[test]
    fn what_is_no_range_or_too_long_is_not() {
        /// Has the name and the fields.
        #[derive(Clone)]
        struct Range<T> {
            start: T,
            end: T,
        }
        impl Iterator for Range<u64> {
            type Item = u64;
            fn next(&mut self) -> Option<u64> {
                Some(self.start + self.end)
            }
        }

        assert!(Numbers::of(&mut Range { start: 1, end: 9 }).is_none());
        assert!(Numbers::of(&mut (0..9).map(u32::count_ones)).is_none());
        assert!(Numbers::of(&mut (0..9).rev()).is_none());
        assert!(Numbers::of(&mut (0..)).is_none());
        assert!(Numbers::of(&mut ('a'..'q')).is_none());
        assert!(Numbers::of(&mut vec![1, 2].into_iter()).is_none());
        assert!(Numbers::of(&mut [1, 2].iter().copied()).is_none());
        assert!(Numbers::of(&mut &mut (0..9)).is_none());
        assert!(Numbers::of(&mut (0..u128::MAX)).is_none());
        assert!(Numbers::of(&mut (i128::MIN..=i128::MAX)).is_none());
        assert!(Numbers::of(&mut (0..=usize::MAX)).is_none());
        let longest = Numbers::of(&mut (0..usize::MAX));
        assert_eq!(longest.map(|numbers| numbers.len()), Some(usize::MAX));
    }
}
