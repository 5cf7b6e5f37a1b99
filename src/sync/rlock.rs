//! Re-entrant mutual exclusion.

mod given_up;

use std::{
    borrow::Cow,
    fmt,
    future::poll_fn,
    time::{Duration, Instant},
};

use super::{face, owner::Owner, raw::RawLock};
use crate::{
    arena::{
        handle::Handle,
        slot::{Kind, SlotRef},
    },
    coop, deadline,
    error::{Error, NotOwned},
    shim::{AtomicU64, Ordering},
};
use given_up::GIVEN_UP;

/// A lock that its owner can acquire again and again; Python's `threading.RLock` and
/// `multiprocessing.RLock`.
///
/// The owner is the tokio task that has acquired it, on whatever thread that runs, or, where there is no tokio task,
/// the thread. So the futures that one tokio task polls, as in a `join!`, are one owner; and so are, on other runtimes
/// and in the future that `block_on` runs, all futures of a thread. Only the owner can release the lock, as often as it
/// has acquired it.
///
/// It can be given to any worker of this machine, at any time; see [`Lock`](crate::Lock) for what the two have in
/// common.
///
/// # Examples
///
/// ```
/// use freethreading::RLock;
///
/// fn countdown(lock: &RLock, n: u32) -> u32 {
///     let _guard = lock.lock();
///     if n == 0 { 0 } else { 1 + countdown(lock, n - 1) }
/// }
///
/// let lock = RLock::new();
/// assert_eq!(countdown(&lock, 3), 3);
/// assert!(!lock.is_owned());
/// ```
#[derive(Clone)]
pub struct RLock(pub(super) Handle);

/// Holds an [`RLock`], once, until it is dropped.
///
/// It can be sent to other threads and held over an `.await`. It releases the lock on behalf of the owner, wherever it
/// is dropped.
#[must_use = "the lock is released when the guard is dropped"]
#[derive(Debug)]
pub struct RLockGuard<'a> {
    lock: Cow<'a, RLock>,
    /// Until it is released.
    hold: Option<Hold>,
}

/// One time that an owner has the lock, however often it acquires it meanwhile: from the first of these to the last
/// release, with waits of a condition in between.
///
/// A guard is of one hold. Should that end behind its back, a later one is nothing to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Hold {
    pub(super) owner: Owner,
    pub(super) number: u64,
}

/// A slot as a re-entrant lock.
#[derive(Clone, Copy)]
pub(super) struct RawRLock(pub(super) SlotRef);

/// Who owns it, or was the last to do so.
const OWNER: usize = 1;

/// How often its owner has acquired it, and above that a number which every new owner changes.
///
/// A guard may be dropped while its owner, on another thread, acquires once more. So the count goes up
/// and down by compare-and-swap, which fails when the lock has changed hands since the word was read;
/// only the owner itself need not, for the first and the last time.
const TENURE: usize = 2;
const COUNT_BITS: u32 = 32;
const COUNT: u64 = (1 << COUNT_BITS) - 1;

/// The number of the owner's [`Hold`]: what stood above the count when it began.
const HOLD: usize = 4;

impl RawRLock {
    #[inline]
    pub(super) fn lock(self) -> RawLock {
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

    #[inline]
    fn number(&self) -> &AtomicU64 {
        &self.0.slot.words[HOLD]
    }

    /// The word, if the lock is the owner's; its count is not zero.
    #[inline]
    fn tenure_of(self, owner: Owner) -> Option<u64> {
        // Acquire: if the word is a later owner's, then that one is seen, too. Otherwise, who finds its
        // own number has written it itself.
        let tenure = self.tenure().load(Ordering::Acquire);
        let is_its = self.owner().load(Ordering::Relaxed) == owner.number();
        (is_its && tenure & COUNT != 0).then_some(tenure)
    }

    /// The same, if it is this hold.
    #[inline]
    fn tenure_in(self, hold: Hold) -> Option<u64> {
        let tenure = self.tenure_of(hold.owner)?;
        // Relaxed: as of the owner.
        (self.number().load(Ordering::Relaxed) == hold.number).then_some(tenure)
    }

    #[inline]
    fn is_owned_by(self, owner: Owner) -> bool {
        self.tenure_of(owner).is_some()
    }

    #[inline]
    pub(super) fn is_held_in(self, hold: Hold) -> bool {
        self.tenure_in(hold).is_some()
    }

    /// What the owner has at this moment, if it has the lock. It asks this itself.
    pub(super) fn hold_of(self, owner: Owner) -> Option<Hold> {
        self.tenure_of(owner)?;
        let number = self.number().load(Ordering::Relaxed);
        Some(Hold { owner, number })
    }

    /// How often the owner has acquired it.
    fn count_of(self, owner: Owner) -> u64 {
        self.tenure_of(owner).map_or(0, |tenure| tenure & COUNT)
    }

    /// The word of the next owner, without its count. Only who has the lock asks.
    #[inline]
    fn next_tenure(self) -> u64 {
        let before = self.tenure().load(Ordering::Relaxed);
        (before & !COUNT).wrapping_add(COUNT + 1)
    }

    /// The owner has just acquired the lock.
    #[inline]
    fn own(self, owner: Owner) -> Hold {
        let tenure = self.next_tenure();
        let number = tenure >> COUNT_BITS;
        let hold = Hold { owner, number };
        self.begin(hold, tenure | 1);
        hold
    }

    #[inline]
    fn begin(self, hold: Hold, tenure: u64) {
        self.owner().store(hold.owner.number(), Ordering::Relaxed);
        self.number().store(hold.number, Ordering::Relaxed);
        // Release: who finds this word finds this owner, and its hold.
        self.tenure().store(tenure, Ordering::Release);
    }

    /// How often whoever owns it has acquired it.
    fn count(self) -> u64 {
        match self.lock().is_held() {
            true => self.tenure().load(Ordering::Relaxed) & COUNT,
            false => 0,
        }
    }

    /// Nobody owns it any more; it is about to be released.
    pub(super) fn disown(self) {
        self.tenure().fetch_and(!COUNT, Ordering::Relaxed);
    }

    /// Once more, if the caller has it already.
    #[inline]
    fn again(self, owner: Owner) -> Option<Hold> {
        loop {
            let tenure = self.tenure_of(owner)?;
            let number = self.number().load(Ordering::Relaxed);
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
    fn acquire(self, owner: Owner) -> Hold {
        match self.try_acquire(owner) {
            Some(hold) => hold,
            None => {
                self.lock().acquire();
                self.own(owner)
            }
        }
    }

    #[inline]
    pub(super) fn try_acquire(self, owner: Owner) -> Option<Hold> {
        // Who comes again does not ask the lock for what it cannot give.
        if self.lock().is_held()
            && let Some(hold) = self.again(owner)
        {
            return Some(hold);
        }
        self.lock().try_acquire().then(|| self.own(owner))
    }

    pub(super) fn acquire_until(self, owner: Owner, deadline: Option<Instant>) -> Option<Hold> {
        let acquired = self.try_acquire(owner);
        if acquired.is_some() {
            return acquired;
        }
        let acquired = self.lock().acquire_until(deadline);
        acquired.then(|| self.own(owner))
    }

    /// The owner is who polls it.
    pub(super) async fn acquire_async(self) -> Hold {
        poll_fn(coop::poll_begin).await;
        let owner = Owner::current();
        match self.try_acquire(owner) {
            Some(hold) => hold,
            None => {
                self.lock().acquire_async().await;
                self.own(owner)
            }
        }
    }

    /// Lowers the count of the owner; `false` if the word has changed meanwhile.
    #[inline]
    fn lower(self, owner: Owner, from: u64, to: u64) -> bool {
        if from & COUNT != 1 || !owner.is_current() {
            return self.change(from, to);
        }
        // Nobody else has anything to release, unless by mistake, and it is not about to acquire.
        self.tenure().store(to, Ordering::Relaxed);
        true
    }

    /// Once, if the owner has it, whose word this finds; says whether it was the last time.
    #[inline]
    fn lower_once(self, owner: Owner, find: impl Fn() -> Option<u64>) -> Result<bool, NotOwned> {
        while let Some(tenure) = find() {
            if self.lower(owner, tenure, tenure - 1) {
                return Ok(tenure & COUNT == 1);
            }
        }
        Err(NotOwned)
    }

    #[inline]
    pub(super) fn release(self, owner: Owner) -> Result<(), NotOwned> {
        if self.lower_once(owner, || self.tenure_of(owner))? {
            self.lock().release();
        }
        Ok(())
    }

    /// What a guard does in the end, wherever it is.
    #[inline]
    pub(super) fn release_in(self, hold: Hold) -> Result<(), NotOwned> {
        match self.lower_once(hold.owner, || self.tenure_in(hold)) {
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
            self.lower_once(hold.owner, || self.tenure_in(hold))?
        };
        if is_last {
            self.lock().release();
        }
        Ok(())
    }

    /// Gives the lock up for a wait, however often the owner has acquired it; says whether that is [noted](GIVEN_UP).
    /// It need not be if all that there is to give up is the `guard` that waits.
    pub(super) fn give_up(self, hold: Hold, guard: bool) -> Result<bool, NotOwned> {
        if guard
            && let Some(tenure) = self.tenure_in(hold)
            && tenure & COUNT == 1
            && self.lower(hold.owner, tenure, tenure - 1)
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

    /// The lock was acquired again for who gave it up. It is released if all its guards were dropped meanwhile.
    pub(super) fn take_back(self, hold: Hold, noted: bool) {
        let resume = |count| self.begin(hold, self.next_tenure() | count);
        if !noted {
            return resume(1);
        }
        {
            let mut given_up = GIVEN_UP.lock();
            let count = given_up.remove(&(self.0.id(), hold)).unwrap_or(0);
            if count != 0 {
                return resume(count);
            }
        }
        self.lock().release();
    }

    /// The wait of who gave the lock up has ended without it. Guards that there are besides have nothing to release.
    pub(super) fn forget(self, hold: Hold) {
        GIVEN_UP.lock().remove(&(self.0.id(), hold));
    }
}

impl RLock {
    /// A new lock, which nobody holds.
    ///
    /// # Panics
    ///
    /// If the system has no memory for it; see [`try_new`](RLock::try_new).
    pub fn new() -> Self {
        Self::try_new().unwrap_or_else(|error| panic!("{error}"))
    }

    /// A new lock, which nobody holds.
    ///
    /// # Errors
    ///
    /// [`Error::Arena`] if the system has no memory for it.
    pub fn try_new() -> Result<Self, Error> {
        Ok(RLock(Handle::new(Kind::RLock, |_| {})?))
    }

    #[inline]
    pub(super) fn raw(&self) -> RawRLock {
        RawRLock(self.0.slot())
    }

    /// Acquires the lock, once more if the caller owns it.
    ///
    /// # Blocking
    ///
    /// Until the lock is released, if somebody else owns it.
    #[inline]
    pub fn acquire(&self) {
        self.raw().acquire(Owner::current());
    }

    /// Acquires the lock if nobody else owns it; says whether it did.
    #[inline]
    #[must_use = "the lock may not have been acquired"]
    pub fn try_acquire(&self) -> bool {
        self.raw().try_acquire(Owner::current()).is_some()
    }

    /// Acquires the lock; `false` if that could not be done in time.
    ///
    /// # Blocking
    ///
    /// For so long at most.
    #[must_use = "the lock may not have been acquired"]
    pub fn acquire_timeout(&self, timeout: Duration) -> bool {
        let owner = Owner::current();
        self.raw()
            .acquire_until(owner, deadline::after(timeout))
            .is_some()
    }

    /// Acquires the lock; the async twin of [`acquire`](RLock::acquire). The owner is the tokio task,
    /// or the thread, that polls the future first.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped has not acquired the lock, and loses its place in line.
    #[inline]
    pub async fn acquire_async(&self) {
        self.raw().acquire_async().await;
    }

    /// Releases the lock once: it is free when the owner has released it as often as acquired it.
    ///
    /// # Errors
    ///
    /// [`NotOwned`] if the caller does not own it.
    #[inline]
    pub fn release(&self) -> Result<(), NotOwned> {
        self.raw().release(Owner::current())
    }

    /// Whether somebody holds the lock at this moment.
    #[inline]
    pub fn locked(&self) -> bool {
        self.raw().lock().is_held()
    }

    /// Whether the caller owns the lock.
    #[inline]
    pub fn is_owned(&self) -> bool {
        self.raw().is_owned_by(Owner::current())
    }

    /// How often the caller has acquired the lock and not yet released it; zero if it does not own it.
    pub fn recursion_count(&self) -> usize {
        self.raw().count_of(Owner::current()) as usize
    }

    #[inline]
    fn guard(&self, hold: Hold) -> RLockGuard<'_> {
        RLockGuard {
            lock: Cow::Borrowed(self),
            hold: Some(hold),
        }
    }

    /// Acquires the lock and gives a guard that releases it, once, when it is dropped.
    ///
    /// # Blocking
    ///
    /// Like [`acquire`](RLock::acquire).
    #[inline]
    pub fn lock(&self) -> RLockGuard<'_> {
        self.guard(self.raw().acquire(Owner::current()))
    }

    /// Acquires the lock if that can be done at once, and gives a guard.
    #[inline]
    #[must_use = "the lock is released when the guard is dropped"]
    pub fn try_lock(&self) -> Option<RLockGuard<'_>> {
        let hold = self.raw().try_acquire(Owner::current())?;
        Some(self.guard(hold))
    }

    /// Acquires the lock if that can be done in time, and gives a guard.
    ///
    /// # Blocking
    ///
    /// For so long at most.
    #[must_use = "the lock is released when the guard is dropped"]
    pub fn lock_timeout(&self, timeout: Duration) -> Option<RLockGuard<'_>> {
        let owner = Owner::current();
        let hold = self.raw().acquire_until(owner, deadline::after(timeout))?;
        Some(self.guard(hold))
    }

    /// Acquires the lock and gives a guard; the async twin of [`lock`](RLock::lock). The owner is the tokio task,
    /// or the thread, that polls the future first.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped has not acquired the lock, and loses its place in line.
    #[inline]
    pub async fn lock_async(&self) -> RLockGuard<'_> {
        self.guard(self.raw().acquire_async().await)
    }
}

impl RLockGuard<'_> {
    /// Releases the lock, as dropping the guard does.
    ///
    /// # Errors
    ///
    /// [`NotOwned`] if the guard does not hold the lock any more: it was released otherwise, by [`RLock::release`].
    pub fn release(mut self) -> Result<(), NotOwned> {
        let hold = self.hold.take().ok_or(NotOwned)?;
        self.lock.raw().release_in(hold)
    }

    /// A guard with a handle of its own, which can outlive the one that it came from, and move into a task. The owner
    /// stays who it was.
    pub fn into_owned(mut self) -> RLockGuard<'static> {
        RLockGuard {
            lock: Cow::Owned(RLock::clone(&self.lock)),
            hold: self.hold.take(),
        }
    }
}

impl Drop for RLockGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(hold) = self.hold {
            // It may have been released behind the guard's back.
            let _ = self.lock.raw().release_in(hold);
        }
    }
}

impl Default for RLock {
    fn default() -> Self {
        RLock::new()
    }
}

impl fmt::Debug for RLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RLock")
            .field("locked", &self.raw().lock().is_held())
            .field("recursion_count", &self.raw().count())
            .field("waiters", &self.raw().lock().waiters())
            .finish()
    }
}

face::travels!(RLock, Kind::RLock);
