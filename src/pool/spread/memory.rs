//! The memory of a vector that several threads fill or empty.

use std::{
    mem::{self, MaybeUninit},
    ops::Range,
};

use parking_lot::Mutex;

use crate::memory::{advise_huge_pages, discard_all};

/// The memory of a vector, whose values are looked after by somebody else.
pub(in crate::pool) struct Memory<T> {
    start: *mut MaybeUninit<T>,
    vector: Mutex<Option<Vec<MaybeUninit<T>>>>,
}

// SAFETY: each value is reached by one thread at a time: who has claimed its index, or, once nobody works
// any more, who takes or drops them all. `T: Send` lets it go from one to the other.
unsafe impl<T: Send> Send for Memory<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Memory<T> {}

impl<T> Memory<T> {
    pub(super) fn of(vector: Vec<T>) -> Self {
        let mut vector = mem::ManuallyDrop::new(vector);
        // SAFETY: the vector is forgotten, and `MaybeUninit<T>` is laid out like `T`.
        Memory::new(unsafe {
            Vec::from_raw_parts(vector.as_mut_ptr().cast(), vector.len(), vector.capacity())
        })
    }

    /// `None` where the memory is refused: a range can be of any length, and there may never be so many.
    pub(in crate::pool) fn with_room_for(len: usize) -> Option<Self> {
        let mut vector = Vec::new();
        vector.try_reserve_exact(len).ok()?;
        advise_huge_pages(vector.spare_capacity_mut());
        // SAFETY: there is room for them, and what may be uninitialised need not be initialised.
        unsafe { vector.set_len(len) };
        Some(Memory::new(vector))
    }

    fn new(mut vector: Vec<MaybeUninit<T>>) -> Self {
        Memory {
            start: vector.as_mut_ptr(),
            vector: Mutex::new(Some(vector)),
        }
    }

    pub(super) fn start(&self) -> *mut MaybeUninit<T> {
        self.start
    }

    /// Whether the vector was not taken yet.
    pub(super) fn is_there(&mut self) -> bool {
        self.vector.get_mut().is_some()
    }

    /// Takes the vector with its values.
    ///
    /// # Safety
    ///
    /// All values are initialised, nobody else touches them any more, and they are taken once.
    pub(super) unsafe fn take(&self) -> Vec<T> {
        let vector = self.vector.lock().take().expect("it is taken once");
        let mut vector = mem::ManuallyDrop::new(vector);
        // SAFETY: the vector is forgotten, and its values are initialised.
        unsafe { Vec::from_raw_parts(vector.as_mut_ptr().cast(), vector.len(), vector.capacity()) }
    }

    /// Drops these values.
    ///
    /// # Safety
    ///
    /// The values in the range are initialised, and nobody else touches them, now or later.
    pub(super) unsafe fn drop_range(&self, range: Range<usize>) {
        // SAFETY: the range is within the vector, as the caller vouches for its values.
        unsafe { discard_all(self.start.add(range.start).cast::<T>(), range.len()) };
    }
}

#[cfg(all(test, not(freethreading_loom)))]
mod tests {
    use std::{cell::Cell, rc::Rc};

    use super::*;

    static_assertions::assert_impl_all!(Memory<Cell<u8>>: Send, Sync);
    static_assertions::assert_not_impl_any!(Memory<Rc<u8>>: Send, Sync);
}
