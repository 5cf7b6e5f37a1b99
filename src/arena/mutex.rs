//! The mutex of a slot, which processes share: held for some nanoseconds, never while code of a user runs,
//! and by a process that may be killed.
//!
//! Giving it back is a plain store, half the price of a mutex that has to look for sleepers. Who finds it
//! taken looks a few times, gives way to others, and in the end sleeps for a moment: who has it may not be
//! running, or be gone.

use super::slot::{mark_of, process_of};
#[cfg(freethreading_loom)]
use crate::shim::Scope;
use crate::{
    look::{Looker, give_way_and, look},
    shim::{Futex, Ordering},
};

/// The [mark](mark_of) of the process that has it, or 0.
#[derive(Default)]
#[repr(transparent)]
pub(super) struct Mutex(Futex);

impl Mutex {
    /// Locks it in the name of the process with this mark. `bury` is told of a holder that is gone, to
    /// [`seize`](Self::seize) it from there.
    #[inline]
    pub(super) fn lock(&self, mark: u64, bury: impl FnMut(u16)) {
        if !self.try_lock(mark) {
            self.lock_slow(mark, bury);
        }
    }

    #[inline]
    fn try_lock(&self, mark: u64) -> bool {
        self.pass(0, mark)
    }

    #[inline]
    fn pass(&self, from: u64, to: u64) -> bool {
        // Acquire: what was done under the mutex before is seen.
        self.0
            .compare_exchange(from as u32, to as u32, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    #[inline]
    pub(super) fn unlock(&self) {
        // Release: what was done under the mutex is seen by who locks it next.
        self.0.store(0, Ordering::Release);
        #[cfg(freethreading_loom)]
        self.0.wake(Scope::Everywhere);
    }

    /// Takes it from a process that is gone: `false` if somebody else has done that.
    pub(super) fn seize(&self, dead: u16, mark: u64) -> bool {
        dead != 0 && self.pass(mark_of(dead), mark)
    }

    /// The index of the process that has it, or 0.
    pub(super) fn holder(&self) -> u16 {
        process_of(self.0.load(Ordering::Relaxed).into())
    }

    pub(super) fn reset(&self) {
        // Relaxed: nobody knows the slot any more.
        self.0.store(0, Ordering::Relaxed);
    }

    #[cold]
    fn lock_slow(&self, mark: u64, mut bury: impl FnMut(u16)) {
        let mut attempt = || (self.holder() == 0 && self.try_lock(mark)).then_some(());
        if look(Looker::Mutex, &mut attempt).is_some() || give_way_and(None, &mut attempt).is_some()
        {
            return;
        }
        loop {
            for doubled in 0..PAUSES {
                self.pause(doubled);
                if attempt().is_some() {
                    return;
                }
            }
            let holder = self.holder();
            if holder != 0 && super::process::is_dead(holder) {
                bury(holder);
            }
        }
    }

    #[cfg(not(freethreading_loom))]
    fn pause(&self, doubled: u32) {
        std::thread::sleep(std::time::Duration::from_micros(50 << doubled));
    }

    /// Models have no clock: they sleep until it is given back.
    #[cfg(freethreading_loom)]
    fn pause(&self, _doubled: u32) {
        let word = self.0.load(Ordering::Relaxed);
        if word != 0 {
            self.0.wait(word, None, Scope::Everywhere);
        }
    }
}

/// How many pauses there are before it is asked whether the holder is still alive, which takes a system call:
/// 25 ms altogether.
const PAUSES: u32 = if cfg!(freethreading_loom) { 1 } else { 9 };
