//! A ring of items, of which the ends know what is in which place.

use std::{
    mem::MaybeUninit,
    ptr::{self, NonNull},
};

use crate::shim::{AtomicPtr, UnsafeCell};

/// The items with the numbers from `base` on, but for those that are in the next ring.
pub(super) struct Ring<T> {
    pub(super) base: u64,
    /// As many as a power of two.
    pub(super) places: Box<[UnsafeCell<MaybeUninit<T>>]>,
    pub(super) next: AtomicPtr<Ring<T>>,
}

impl<T> Ring<T> {
    /// The places of the first ring: few of large items.
    pub(super) const FIRST: usize = match size_of::<T>() {
        _ if cfg!(freethreading_loom) => 1,
        0..=8 => 64,
        9..=64 => 16,
        _ => 4,
    };

    pub(super) fn new(base: u64, places: usize) -> NonNull<Self> {
        let ring = Box::new(Ring {
            base,
            places: (0..places.next_power_of_two())
                .map(|_| UnsafeCell::new(MaybeUninit::uninit()))
                .collect(),
            next: AtomicPtr::new(ptr::null_mut()),
        });
        NonNull::from(Box::leak(ring))
    }

    pub(super) fn places(&self) -> Places<T> {
        Places {
            first: NonNull::from(&*self.places).cast(),
            mask: self.places.len() - 1,
        }
    }
}

/// Where a ring's places are, for who would have to look twice otherwise: at the ring, and at what it says.
pub(super) struct Places<T> {
    first: NonNull<UnsafeCell<MaybeUninit<T>>>,
    mask: usize,
}

impl<T> Places<T> {
    /// Those of no ring.
    pub(super) const NONE: Self = Places {
        first: NonNull::dangling(),
        mask: 0,
    };

    /// # Safety
    ///
    /// They are those of a ring, which lives for as long as the place is used.
    #[inline]
    pub(super) unsafe fn at<'a>(&self, number: u64) -> &'a UnsafeCell<MaybeUninit<T>> {
        // SAFETY: there are as many as a power of two, one more than the mask, so this is within them.
        unsafe { self.first.add(number as usize & self.mask).as_ref() }
    }
}
