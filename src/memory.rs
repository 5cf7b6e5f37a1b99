//! How memory is backed, and how much of it is copied.
#![allow(unsafe_code)]

use std::mem::{self, MaybeUninit};

use rustix::mm::{Advice, madvise};

use crate::unwind;

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

/// Drops values that nobody wants any more, each of them, whatever their destructors do.
///
/// # Safety
///
/// There are so many values from there on, and nobody uses or drops them any more.
pub(crate) unsafe fn discard_all<T>(first: *mut T, len: usize) {
    let mut dropped = 0;
    while mem::needs_drop::<T>() && dropped < len {
        // One more call for each panic, and not one for each value.
        unwind::contain(|| {
            while dropped < len {
                dropped += 1;
                // SAFETY: the caller vouches for the value, which is dropped once, since it was counted before.
                unsafe { first.add(dropped - 1).drop_in_place() };
            }
        });
    }
}

/// What is at least so large, in bytes, does not stay in a cache until another core reads it, so it need
/// not go there.
const PAST_THE_CACHE: usize = 32 << 20;

/// Copies bytes to where this core will not look at them again.
///
/// # Safety
///
/// As for [`std::ptr::copy_nonoverlapping`].
#[inline]
pub(crate) unsafe fn copy_away(from: *const u8, to: *mut u8, len: usize) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if len >= PAST_THE_CACHE {
        // SAFETY: the caller says so.
        return unsafe { stream(from, to, len) };
    }
    // SAFETY: the caller says so.
    unsafe { from.copy_to_nonoverlapping(to, len) };
}

/// Copies with stores that go to memory and do not fetch first what they replace.
///
/// # Safety
///
/// As for [`std::ptr::copy_nonoverlapping`].
#[cfg(all(target_arch = "x86_64", not(miri)))]
unsafe fn stream(from: *const u8, to: *mut u8, len: usize) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};

    /// A cache line.
    const STEP: usize = 64;
    const PART: usize = size_of::<__m128i>();

    let head = to.align_offset(STEP).min(len);
    let middle = (len - head) / STEP * STEP;
    // SAFETY: all offsets are at most `len`, so each access lies within what the caller may read or
    // write. Streaming stores want their target aligned, which it is behind the head. The fence orders
    // them before all that this thread does next, as ordinary ones would be.
    unsafe {
        from.copy_to_nonoverlapping(to, head);
        for offset in (head..head + middle).step_by(STEP) {
            let line: [__m128i; STEP / PART] =
                std::array::from_fn(|part| _mm_loadu_si128(from.add(offset + part * PART).cast()));
            for (part, bytes) in line.into_iter().enumerate() {
                _mm_stream_si128(to.add(offset + part * PART).cast(), bytes);
            }
        }
        _mm_sfence();
        let tail = head + middle;
        from.add(tail)
            .copy_to_nonoverlapping(to.add(tail), len - tail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_copied_away_is_the_same() {
        let from: Vec<u8> = (0..PAST_THE_CACHE as u32 + 300)
            .map(|n| (n.wrapping_mul(0x9e37_79b9) >> 24) as u8)
            .collect();
        for (skipped, len) in [
            (0, 0),
            (1, 1000),
            (0, PAST_THE_CACHE),
            (3, PAST_THE_CACHE + 1),
            (64, PAST_THE_CACHE + 130),
            (65, PAST_THE_CACHE + 63),
        ] {
            let mut to = vec![1; len + 200];
            // SAFETY: both ranges lie within their vectors, which are apart.
            unsafe { copy_away(from.as_ptr().add(skipped), to.as_mut_ptr().add(100), len) };
            assert!(to[100..100 + len] == from[skipped..skipped + len]);
            assert!(
                to[..100]
                    .iter()
                    .chain(&to[100 + len..])
                    .all(|&byte| byte == 1)
            );
        }
    }
}
