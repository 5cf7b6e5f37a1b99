//! Re-entrant mutual exclusion.

use std::{
    fmt,
    time::{Duration, Instant},
};

use super::{face, owner::Owner, raw::RawLock};
use crate::{
    arena::{
        handle::Handle,
        slot::{Kind, SlotRef},
        wait::deadline,
    },
    error::{Error, NotOwned},
    shim::{AtomicU64, Ordering},
};

/// A lock that its owner can acquire again and again; Python's `threading.RLock` and
/// `multiprocessing.RLock`.
///
/// The owner is the tokio task that has acquired it, on whatever thread it runs; where there is no
/// tokio task, it is the thread; always of the one process. (The future that `block_on` runs, and tasks of
/// other runtimes, are their thread to it.) Only the owner can release it, as often as it has acquired it.
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
/// It can be sent to other threads and held over an `.await`; it releases on behalf of who has acquired.
#[must_use = "the lock is released when the guard is dropped"]
#[derive(Debug)]
pub struct RLockGuard<'a> {
    lock: &'a RLock,
    owner: Owner,
}

/// A slot as a re-entrant lock.
#[derive(Clone, Copy)]
pub(super) struct RawRLock(pub(super) SlotRef);

/// Who owns it, zero if nobody does, and how often beyond once. Only the owner writes them. Relaxed: who
/// finds its own number there has written it itself, and any other number is as good as none.
const OWNER: usize = 1;
const DEPTH: usize = 2;

impl RawRLock {
    #[inline]
    pub(super) fn lock(self) -> RawLock {
        RawLock(self.0)
    }

    #[inline]
    fn word(&self, word: usize) -> &AtomicU64 {
        &self.0.slot.words[word]
    }

    #[inline]
    pub(super) fn is_owned_by(self, owner: Owner) -> bool {
        self.word(OWNER).load(Ordering::Relaxed) == owner.number()
    }

    /// How often the owner has acquired it, beyond once.
    pub(super) fn depth(self) -> u64 {
        self.word(DEPTH).load(Ordering::Relaxed)
    }

    /// The owner has just acquired the lock, and had it so often before it gave it up.
    #[inline]
    pub(super) fn take_back(self, owner: Owner, depth: u64) {
        self.own(owner);
        self.word(DEPTH).store(depth, Ordering::Relaxed);
    }

    /// The owner has just acquired the lock.
    #[inline]
    fn own(self, owner: Owner) {
        self.word(OWNER).store(owner.number(), Ordering::Relaxed);
    }

    /// How often whoever owns it has acquired it.
    fn acquired(self) -> u64 {
        match self.lock().is_held() {
            true => self.depth() + 1,
            false => 0,
        }
    }

    /// Nobody owns it any more; it is about to be released.
    pub(super) fn disown(self) {
        self.word(OWNER).store(0, Ordering::Relaxed);
        self.word(DEPTH).store(0, Ordering::Relaxed);
    }

    /// Once more, if the caller has it already.
    #[inline]
    fn again(self, owner: Owner) -> bool {
        let again = self.is_owned_by(owner);
        if again {
            let depth = self.depth();
            self.word(DEPTH).store(depth + 1, Ordering::Relaxed);
        }
        again
    }

    #[inline]
    pub(super) fn acquire(self, owner: Owner) {
        if !self.try_acquire(owner) {
            self.lock().acquire();
            self.own(owner);
        }
    }

    #[inline]
    pub(super) fn try_acquire(self, owner: Owner) -> bool {
        if self.lock().try_acquire() {
            self.own(owner);
            return true;
        }
        self.again(owner)
    }

    pub(super) fn acquire_until(self, owner: Owner, deadline: Option<Instant>) -> bool {
        if self.try_acquire(owner) {
            return true;
        }
        let acquired = self.lock().acquire_until(deadline);
        if acquired {
            self.own(owner);
        }
        acquired
    }

    /// The owner is who polls it.
    pub(super) async fn acquire_async(self) -> Owner {
        let owner = Owner::current();
        if !self.try_acquire(owner) {
            self.lock().acquire_async().await;
            self.own(owner);
        }
        owner
    }

    #[inline]
    pub(super) fn release(self, owner: Owner) -> Result<(), NotOwned> {
        if !self.is_owned_by(owner) {
            return Err(NotOwned);
        }
        match self.depth() {
            0 => {
                self.word(OWNER).store(0, Ordering::Relaxed);
                self.lock().release();
            }
            depth => self.word(DEPTH).store(depth - 1, Ordering::Relaxed),
        }
        Ok(())
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

    /// Acquires the lock if no other owns it; says whether it did.
    #[inline]
    pub fn try_acquire(&self) -> bool {
        self.raw().try_acquire(Owner::current())
    }

    /// Acquires the lock; `false` if that could not be done in time.
    ///
    /// # Blocking
    ///
    /// For so long at most.
    pub fn acquire_timeout(&self, timeout: Duration) -> bool {
        self.raw()
            .acquire_until(Owner::current(), deadline(timeout))
    }

    /// Acquires the lock; the async twin of [`acquire`](RLock::acquire). The owner is the task that
    /// polls the future first.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped has not acquired the lock; it loses its place in the line.
    #[inline]
    pub async fn acquire_async(&self) {
        self.raw().acquire_async().await;
    }

    /// Releases the lock, once.
    ///
    /// # Errors
    ///
    /// [`NotOwned`] if the caller does not own it.
    #[inline]
    pub fn release(&self) -> Result<(), NotOwned> {
        self.raw().release(Owner::current())
    }

    /// Whether the caller owns the lock.
    #[inline]
    pub fn is_owned(&self) -> bool {
        self.raw().is_owned_by(Owner::current())
    }

    /// How often the caller has acquired the lock and not released it; zero if it does not own it.
    pub fn recursion_count(&self) -> usize {
        match self.is_owned() {
            true => self.raw().depth() as usize + 1,
            false => 0,
        }
    }

    /// Acquires the lock and gives a guard that releases it, once, when it is dropped.
    ///
    /// # Blocking
    ///
    /// Like [`acquire`](RLock::acquire).
    #[inline]
    pub fn lock(&self) -> RLockGuard<'_> {
        let owner = Owner::current();
        self.raw().acquire(owner);
        RLockGuard { lock: self, owner }
    }

    /// Acquires the lock if that can be done at once, and gives a guard.
    #[inline]
    pub fn try_lock(&self) -> Option<RLockGuard<'_>> {
        let owner = Owner::current();
        let acquired = self.raw().try_acquire(owner);
        acquired.then(|| RLockGuard { lock: self, owner })
    }

    /// Acquires the lock if that can be done in time, and gives a guard.
    ///
    /// # Blocking
    ///
    /// For so long at most.
    pub fn lock_timeout(&self, timeout: Duration) -> Option<RLockGuard<'_>> {
        let owner = Owner::current();
        let acquired = self.raw().acquire_until(owner, deadline(timeout));
        acquired.then(|| RLockGuard { lock: self, owner })
    }

    /// Acquires the lock and gives a guard; the async twin of [`lock`](RLock::lock).
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped has not acquired the lock.
    #[inline]
    pub async fn lock_async(&self) -> RLockGuard<'_> {
        let owner = self.raw().acquire_async().await;
        RLockGuard { lock: self, owner }
    }
}

impl RLockGuard<'_> {
    /// Releases the lock, as dropping the guard does.
    ///
    /// # Errors
    ///
    /// [`NotOwned`] if the lock was released behind the guard's back.
    pub fn release(self) -> Result<(), NotOwned> {
        let guard = std::mem::ManuallyDrop::new(self);
        guard.lock.raw().release(guard.owner)
    }
}

impl Drop for RLockGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        // It may have been released behind the guard's back.
        let _ = self.lock.raw().release(self.owner);
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
            .field("recursion_count", &self.raw().acquired())
            .field("waiters", &self.raw().lock().waiters())
            .finish()
    }
}

face::travels!(RLock, Kind::RLock);
