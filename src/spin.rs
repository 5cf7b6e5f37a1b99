//! A lock for what takes some nanoseconds: giving it back is a plain store, half the price of a mutex that
//! has to look for sleepers.
//!
//! Who finds it taken looks a few times, gives way to other threads, and in the end sleeps for a moment:
//! the thread that has it may not be running.
#![allow(unsafe_code)]

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use parking_lot::lock_api::{self, GuardSend, RawMutex};

use crate::look::{Looker, look};

pub(crate) type SpinLock<T> = lock_api::Mutex<RawSpinLock, T>;
pub(crate) type SpinLockGuard<'a, T> = lock_api::MutexGuard<'a, RawSpinLock, T>;

/// How often to give way to other threads before sleeping.
const YIELDS: u32 = 100;

/// How long to sleep then.
const PAUSE: Duration = Duration::from_micros(50);

pub(crate) struct RawSpinLock(AtomicBool);

// SAFETY: the flag is set by one thread at a time, which alone has the lock until it clears the flag.
unsafe impl RawMutex for RawSpinLock {
    const INIT: Self = RawSpinLock(AtomicBool::new(false));

    type GuardMarker = GuardSend;

    #[inline]
    fn lock(&self) {
        if !self.try_lock() {
            self.lock_slow();
        }
    }

    #[inline]
    fn try_lock(&self) -> bool {
        // Acquire: what was done under the lock before is seen.
        self.0
            .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    #[inline]
    unsafe fn unlock(&self) {
        // Release: what was done under the lock is seen by who has it next.
        self.0.store(false, Ordering::Release);
    }

    #[inline]
    fn is_locked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl RawSpinLock {
    #[cold]
    fn lock_slow(&self) {
        take_turns(|| !self.is_locked() && self.try_lock());
    }
}

/// Waits for something that takes another thread some nanoseconds, once it runs.
#[cold]
pub(crate) fn take_turns(mut attempt: impl FnMut() -> bool) {
    if look(Looker::Items, || attempt().then_some(())).is_some() {
        return;
    }
    for round in 0u32.. {
        match round {
            ..YIELDS => thread::yield_now(),
            _ => thread::sleep(PAUSE),
        }
        if attempt() {
            return;
        }
    }
}

#[cfg(all(test, not(freethreading_loom)))]
mod tests {
    use std::{cell::Cell, rc::Rc};

    use super::*;

    static_assertions::assert_impl_all!(SpinLock<Cell<u8>>: Send, Sync);
    static_assertions::assert_not_impl_any!(SpinLock<Rc<u8>>: Send, Sync);

    #[test]
    fn threads_exclude_each_other() {
        let count = SpinLock::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| *count.lock() += 1));
            }
        });
        assert_eq!(count.into_inner(), 40_000);
    }
}
