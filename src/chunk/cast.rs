//! Values of a type parameter as values of the type that it turns out to be.
#![allow(unsafe_code)]

use std::{any::TypeId, ptr};

/// The value as one of the other type, if that is its type: what `Any` does, for a type that is not known
/// to be `'static`.
///
/// # Safety
///
/// Lifetimes are not compared. If `To` has any, those in `From` must be the same.
pub(super) unsafe fn cast<From, To: 'static>(value: &mut From) -> Option<&mut To> {
    if typeid::of::<From>() != TypeId::of::<To>() {
        return None;
    }
    // SAFETY: it is that type but for its lifetimes, for which the caller vouches; the reference is
    // borrowed from the one that was given.
    Some(unsafe { &mut *ptr::from_mut(value).cast::<To>() })
}
