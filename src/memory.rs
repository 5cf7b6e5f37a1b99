//! How memory is backed.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;

use rustix::mm::{Advice, madvise};

/// Asks for huge pages under large memory that is about to be filled, once, from its start to its end:
/// the page faults would cost more than what is done with the values.
pub(crate) fn advise_huge_pages<T>(memory: &mut [MaybeUninit<T>]) {
    const HUGE_PAGE: usize = 2 << 20;

    let start = memory.as_mut_ptr().cast::<u8>();
    let skipped = start.align_offset(HUGE_PAGE);
    let len = size_of_val(memory).saturating_sub(skipped) / HUGE_PAGE * HUGE_PAGE;
    if len > 0 {
        // SAFETY: the range, a whole number of pages, lies within the allocation. The advice changes
        // how it is backed, not what it holds; where the kernel refuses, pages stay small.
        let _ = unsafe { madvise(start.add(skipped).cast(), len, Advice::LinuxHugepage) };
    }
}
