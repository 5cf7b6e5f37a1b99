//! A slot as a re-entrant lock: a lock word, and beside it who owns it and how often.

use std::time::Instant;

use super::given_up::GIVEN_UP;
use crate::{
    arena::{
        node::State,
        slot::{Locked, SlotRef},
        wait::{Miss, Resource, WaitAsync},
    },
    error::NotOwned,
    look::Looker,
    shim::{AtomicU64, Ordering, first_look},
    sync::{owner::Owner, raw::RawLock},
};

/// One time that an owner has the lock, however often it acquires it meanwhile: from the first of these to the last
/// release, with waits of a condition in between.
///
/// A guard is of one hold. Should that end behind its back, a later one is nothing to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::sync) struct Hold {
    pub(in crate::sync) owner: Owner,
    pub(in crate::sync) number: u64,
}

/// A slot as a re-entrant lock.
#[derive(Clone, Copy)]
pub(in crate::sync) struct RawRLock(pub(in crate::sync) SlotRef);

/// Who owns it, or was the last to do so.
const OWNER: usize = 1;

/// How often its owner has acquired it, whether its hold is [resumed](RESUMED), and above that a number which every new
/// owner changes, and so does who has the lock again after a wait.
///
/// A guard may be dropped while its owner, on another thread, acquires once more. So the count goes up
/// and down by compare-and-swap, which fails when the lock has changed hands since the word was read;
/// only the owner itself need not, for the first and the last time.
const TENURE: usize = 2;
const COUNT: u64 = RESUMED - 1;
/// The owner has the lock again after a wait: the number of its hold is an earlier one, which is in [`HOLD`].
const RESUMED: u64 = 1 << 31;
const NUMBER_SHIFT: u32 = 32;

/// The number of a [`Hold`] that is [resumed](RESUMED). Of others it is the one in the word, which saves storing it.
const HOLD: usize = 4;

impl RawRLock {
    #[inline]
    pub(in crate::sync) fn lock(self) -> RawLock {
        RawLock(self.0)
    }

    #[inline]
    fn owner(&self) -> &AtomicU64 {
        &self.0.slot.words[OWNER]
    }

    #[inline]
    fn tenure(&self) -> &AtomicU64 {
        &self.0.slot.words[TENURE]
    }

    /// The number of the hold whose word this is.
    #[inline]
    fn number_in(self, tenure: u64) -> u64 {
        match tenure & RESUMED {
            0 => tenure >> NUMBER_SHIFT,
            // Relaxed: it was there before the word.
            _ => self.0.slot.words[HOLD].load(Ordering::Relaxed),
        }
    }

    /// The word, if the lock is the owner's; its count is not zero.
    #[inline]
    fn tenure_of(self, owner: Owner) -> Option<u64> {
        // Acquire: if the word is a later owner's, then that one is seen, too. Otherwise, who finds its
        // own number has written it itself.
        let tenure = self.tenure().load(Ordering::Acquire);
        let is_its = || self.owner().load(Ordering::Relaxed) == owner.number();
        (tenure & COUNT != 0 && is_its()).then_some(tenure)
    }

    /// The word, if the lock is held in this hold.
    #[inline]
    fn tenure_in(self, hold: Hold) -> Option<u64> {
        // Acquire: what was done in the hold before is seen, and its number if that is elsewhere.
        let tenure = self.tenure().load(Ordering::Acquire);
        // No two holds have one number, so whose it is need not be asked.
        (tenure & COUNT != 0 && self.number_in(tenure) == hold.number).then_some(tenure)
    }

    #[inline]
    pub(super) fn is_owned_by(self, owner: Owner) -> bool {
        self.tenure_of(owner).is_some()
    }

    #[inline]
    pub(in crate::sync) fn is_held_in(self, hold: Hold) -> bool {
        self.tenure_in(hold).is_some()
    }

    /// What the owner has at this moment, if it has the lock. It asks this itself.
    pub(in crate::sync) fn hold_of(self, owner: Owner) -> Option<Hold> {
        let number = self.number_in(self.tenure_of(owner)?);
        Some(Hold { owner, number })
    }

    /// How often the owner has acquired it.
    pub(super) fn count_of(self, owner: Owner) -> u64 {
        self.tenure_of(owner).map_or(0, |tenure| tenure & COUNT)
    }

    /// The word of the next owner, without its count. Only who has the lock asks.
    #[inline]
    fn next_tenure(self) -> u64 {
        let before = self.tenure().load(Ordering::Relaxed);
        (before >> NUMBER_SHIFT).wrapping_add(1) << NUMBER_SHIFT
    }

    /// The owner has just acquired the lock.
    #[inline]
    fn own(self, owner: Owner) -> Hold {
        let tenure = self.next_tenure();
        let number = tenure >> NUMBER_SHIFT;
        self.begin(owner, tenure | 1);
        Hold { owner, number }
    }

    #[inline]
    fn begin(self, owner: Owner, tenure: u64) {
        self.owner().store(owner.number(), Ordering::Relaxed);
        // Release: who finds this word finds this owner, and its hold.
        self.tenure().store(tenure, Ordering::Release);
    }

    /// The owner has the lock again.
    fn resume(self, hold: Hold, count: u64) {
        self.0.slot.words[HOLD].store(hold.number, Ordering::Relaxed);
        self.begin(hold.owner, self.next_tenure() | RESUMED | count);
    }

    /// How often whoever owns it has acquired it.
    pub(super) fn count(self) -> u64 {
        match self.lock().is_held() {
            true => self.tenure().load(Ordering::Relaxed) & COUNT,
            false => 0,
        }
    }

    /// Nobody owns it any more; it is about to be released.
    pub(in crate::sync) fn disown(self) {
        self.tenure().fetch_and(!COUNT, Ordering::Relaxed);
    }

    /// Once more, if the caller has it already.
    #[inline]
    fn again(self, owner: Owner) -> Option<Hold> {
        loop {
            let tenure = self.tenure_of(owner)?;
            let number = self.number_in(tenure);
            assert!(tenure & COUNT < COUNT, "an RLock has 2^31 - 1 levels");
            if self.change(tenure, tenure + 1) {
                return Some(Hold { owner, number });
            }
        }
    }

    #[inline]
    fn change(self, from: u64, to: u64) -> bool {
        // Acquire and Release: what was done before a guard was dropped elsewhere is seen by who has the
        // lock after that.
        self.tenure()
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    #[inline]
    pub(super) fn acquire(self, owner: Owner) -> Hold {
        match self.try_acquire(owner) {
            Some(hold) => hold,
            None => {
                self.lock().acquire();
                self.own(owner)
            }
        }
    }

    #[inline]
    pub(in crate::sync) fn try_acquire(self, owner: Owner) -> Option<Hold> {
        // Who comes again does not ask the lock for what it cannot give.
        if let Some(hold) = self.again(owner) {
            return Some(hold);
        }
        self.lock().try_acquire().then(|| self.own(owner))
    }

    pub(in crate::sync) fn acquire_until(
        self,
        owner: Owner,
        deadline: Option<Instant>,
    ) -> Option<Hold> {
        let acquired = self.try_acquire(owner);
        if acquired.is_some() {
            return acquired;
        }
        let acquired = self.lock().acquire_until(deadline);
        acquired.then(|| self.own(owner))
    }

    #[inline]
    pub(in crate::sync) fn acquire_async(self) -> WaitAsync<Acquiring<RawRLock>> {
        Acquiring::wait(self)
    }

    /// Lowers the count of the owner, who may be the one that calls; `false` if the word has changed meanwhile.
    #[inline]
    fn lower(self, is_owner: bool, from: u64, to: u64) -> bool {
        if from & COUNT != 1 || !is_owner {
            return self.change(from, to);
        }
        // Nobody else has anything to release, unless by mistake, and it is not about to acquire.
        self.tenure().store(to, Ordering::Relaxed);
        true
    }

    /// Once, if the owner has it, whose word this finds; says whether it was the last time.
    #[inline]
    fn lower_once(self, is_owner: bool, find: impl Fn() -> Option<u64>) -> Result<bool, NotOwned> {
        while let Some(tenure) = find() {
            if self.lower(is_owner, tenure, tenure - 1) {
                return Ok(tenure & COUNT == 1);
            }
        }
        Err(NotOwned)
    }

    /// Once, for the owner, who calls.
    #[inline]
    pub(in crate::sync) fn release(self, owner: Owner) -> Result<(), NotOwned> {
        if self.lower_once(true, || self.tenure_of(owner))? {
            self.lock().release();
        }
        Ok(())
    }

    /// What a guard does in the end, wherever it is.
    #[inline]
    pub(in crate::sync) fn release_in(self, hold: Hold) -> Result<(), NotOwned> {
        let once = hold.number << NUMBER_SHIFT | 1;
        // As in `lower`.
        if first_look(self.tenure(), Ordering::Acquire) == once && hold.owner.is_current(self.0) {
            self.tenure().store(once - 1, Ordering::Relaxed);
            self.lock().release();
            return Ok(());
        }
        self.release_level_in(hold)
    }

    /// The same, where the hold may be resumed, one level of several, or somebody else's.
    #[inline(never)]
    fn release_level_in(self, hold: Hold) -> Result<(), NotOwned> {
        match self.lower_once(hold.owner.is_current(self.0), || self.tenure_in(hold)) {
            Ok(false) => {}
            Ok(true) => {
                self.lock().release();
            }
            Err(NotOwned) => return self.release_given_up(hold),
        }
        Ok(())
    }

    /// The same, where the owner had given the lock up a moment ago.
    #[cold]
    fn release_given_up(self, hold: Hold) -> Result<(), NotOwned> {
        let is_last = {
            let mut given_up = GIVEN_UP.lock();
            if let Some(count) = given_up.get_mut(&(self.0.id(), hold)) {
                // At zero its wait goes on without the lock.
                *count = count.checked_sub(1).ok_or(NotOwned)?;
                return Ok(());
            }
            // It may have the lock again meanwhile.
            self.lower_once(false, || self.tenure_in(hold))?
        };
        if is_last {
            self.lock().release();
        }
        Ok(())
    }

    /// Gives the lock up for a wait, however often the owner has acquired it; says whether that is [noted](GIVEN_UP).
    /// It need not be if all that there is to give up is the `guard` that waits.
    pub(in crate::sync) fn give_up(self, hold: Hold, guard: bool) -> Result<bool, NotOwned> {
        if guard
            && let Some(tenure) = self.tenure_in(hold)
            && tenure & COUNT == 1
            && self.lower(hold.owner.is_current(self.0), tenure, tenure - 1)
        {
            self.lock().release();
            return Ok(false);
        }
        {
            let mut given_up = GIVEN_UP.lock();
            let count = loop {
                let tenure = self.tenure_in(hold).ok_or(NotOwned)?;
                // The only guard may be with another thread, so not as `lower` does.
                if self.change(tenure, tenure & !COUNT) {
                    break tenure & COUNT;
                }
            };
            given_up.insert((self.0.id(), hold), count);
        }
        self.lock().release();
        Ok(true)
    }

    /// The same under the mutex, if all that there is to give up is the guard that waits, and nobody waits for the lock.
    pub(in crate::sync) fn give_up_under(self, slot: &Locked, hold: Hold) -> bool {
        let once = |tenure: &u64| tenure & COUNT == 1 && hold.owner.is_current(self.0);
        let Some(tenure) = self.tenure_in(hold).filter(once) else {
            return false;
        };
        self.lock().release_under(slot, || {
            self.tenure().store(tenure - 1, Ordering::Relaxed);
        })
    }

    /// The lock was acquired again for who gave it up. It is released if all its guards were dropped meanwhile.
    pub(in crate::sync) fn take_back(self, hold: Hold, noted: bool) {
        if !noted {
            return self.resume(hold, 1);
        }
        {
            let mut given_up = GIVEN_UP.lock();
            let count = given_up.remove(&(self.0.id(), hold)).unwrap_or(0);
            if count != 0 {
                return self.resume(hold, count);
            }
        }
        self.lock().release();
    }

    /// The wait of who gave the lock up has ended without it. Guards that there are besides have nothing to release.
    pub(in crate::sync) fn forget(self, hold: Hold) {
        GIVEN_UP.lock().remove(&(self.0.id(), hold));
    }
}

/// What has an owner while it is held.
pub(in crate::sync) trait Owned: Copy {
    fn lock(self) -> RawLock;

    fn try_acquire(self, owner: Owner) -> Option<Hold>;

    /// The owner has just acquired the lock.
    fn own(self, owner: Owner) -> Hold;
}

impl Owned for RawRLock {
    #[inline]
    fn lock(self) -> RawLock {
        self.lock()
    }

    #[inline]
    fn try_acquire(self, owner: Owner) -> Option<Hold> {
        self.try_acquire(owner)
    }

    #[inline]
    fn own(self, owner: Owner) -> Hold {
        self.own(owner)
    }
}

/// An acquisition that is awaited. Its owner is who polls it first. The lock lies in front, as [`WaitAsync`] wants it.
#[repr(C)]
pub(in crate::sync) struct Acquiring<L> {
    lock: L,
    /// Once it has come in vain.
    owner: Option<Owner>,
}

impl<L: Owned> Acquiring<L> {
    #[inline]
    pub(in crate::sync) fn wait(lock: L) -> WaitAsync<Self> {
        WaitAsync::new(Acquiring { lock, owner: None })
    }

    /// The lock was acquired by who waits for it.
    fn own(&self) -> Hold {
        self.lock
            .own(self.owner.expect("who waits has come in vain"))
    }
}

impl<L: Owned> Resource for Acquiring<L> {
    type Output = Hold;

    const CONTENDED_BY_TASKS: Option<Looker> = RawLock::CONTENDED_BY_TASKS;

    fn slot(&self) -> SlotRef {
        self.lock.lock().0
    }

    // Always: a hold that is returned through memory takes longer than all the rest.
    #[inline(always)]
    fn attempt(&mut self) -> Option<Hold> {
        debug_assert!(self.owner.is_none(), "who has come in vain waits");
        let owner = Owner::current(self.slot());
        let hold = self.lock.try_acquire(owner);
        if hold.is_none() {
            self.owner = Some(owner);
        }
        hold
    }

    fn attempt_again(&mut self) -> Option<Hold> {
        self.lock.lock().attempt_again().map(|()| self.own())
    }

    fn attempt_or_join(&mut self, slot: &Locked) -> Result<Hold, Miss> {
        let acquired = self.lock.lock().attempt_or_join(slot);
        acquired.map(|()| self.own())
    }

    fn notified(&mut self, _outcome: u32) -> Option<Hold> {
        self.lock.lock().attempt().map(|()| self.own())
    }

    fn handed(&mut self) -> Option<Hold> {
        self.lock.lock().handed().map(|()| self.own())
    }

    fn left(&mut self, slot: &Locked, list: usize) {
        self.lock.lock().left(slot, list);
    }

    fn pass_on(&mut self, message: State, outcome: u32) {
        self.lock.lock().pass_on(message, outcome);
    }
}

#[cfg(all(test, not(freethreading_loom)))]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::sync::RLock;

    #[test]
    fn one_level_too_many_is_a_panic_and_changes_nothing() {
        let lock = RLock::new();
        lock.acquire();
        let raw = lock.raw();
        raw.tenure().fetch_or(COUNT, Ordering::Relaxed);
        assert!(catch_unwind(AssertUnwindSafe(|| lock.acquire())).is_err());
        assert_eq!(raw.count_of(Owner::current(raw.0)), COUNT);
        lock.release().unwrap();
        lock.acquire();
    }
}
