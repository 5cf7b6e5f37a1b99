//! The part of a future that it mostly comes without.

use std::mem::ManuallyDrop;

/// The wait of a future that mostly need not wait: there is none then, and to find that out is all that its destructor
/// does in the future's caller.
pub(super) struct Seldom<W>(ManuallyDrop<Option<W>>);

impl<W> Seldom<W> {
    #[inline]
    pub(super) fn none() -> Self {
        Seldom(ManuallyDrop::new(None))
    }

    #[inline]
    pub(super) fn get(&mut self) -> Option<&mut W> {
        self.0.as_mut()
    }

    pub(super) fn begin(&mut self, wait: W) {
        *self.0 = Some(wait);
    }

    #[inline]
    pub(super) fn has_begun(&self) -> bool {
        self.0.is_some()
    }

    #[inline(never)]
    pub(super) fn end(&mut self) {
        *self.0 = None;
    }
}

impl<W> Drop for Seldom<W> {
    #[inline]
    fn drop(&mut self) {
        if self.has_begun() {
            self.end();
        }
    }
}
