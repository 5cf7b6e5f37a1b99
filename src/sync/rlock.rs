//! Re-entrant mutual exclusion.

mod given_up;
mod raw;

use std::{fmt, time::Duration};

use super::{face, owner::Owner};
use crate::{
    arena::{handle::Handle, slot::Kind},
    deadline,
    error::{Error, NotOwned},
};
pub(super) use raw::{Acquiring, Hold, Owned, RawRLock};

/// A lock that its owner can acquire again and again; Python's `threading.RLock` and
/// `multiprocessing.RLock`.
///
/// The owner is the tokio task that has acquired it, on whatever thread that runs, or, where there is no tokio task,
/// the thread. So the futures that one tokio task polls, as in a `join!`, are one owner; and so are, on other runtimes
/// and in the future that `block_on` runs, all futures of a thread. Only the owner can release the lock, as often as it
/// has acquired it. An owner that ends without having done so leaves it locked for good, unless it was in a process that
/// was killed or has crashed. To acquire it a 2³¹st time on top of all others is a panic.
///
/// Futures of one owner do not exclude each other if they find the lock free. While another owner has it they wait in
/// line like everybody, and have it one after the other: a `join!` of two that each keep a guard may never end.
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
    lock: &'a RLock,
    hold: Hold,
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
        self.raw().acquire(Owner::current(self.0.slot()));
    }

    /// Acquires the lock if nobody else owns it; says whether it did.
    #[inline]
    #[must_use = "the lock may not have been acquired"]
    pub fn try_acquire(&self) -> bool {
        self.raw()
            .try_acquire(Owner::current(self.0.slot()))
            .is_some()
    }

    /// Acquires the lock; `false` if that could not be done in time.
    ///
    /// # Blocking
    ///
    /// For so long at most.
    #[must_use = "the lock may not have been acquired"]
    pub fn acquire_timeout(&self, timeout: Duration) -> bool {
        let owner = Owner::current(self.0.slot());
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
    pub fn acquire_async(&self) -> impl Future<Output = ()> + Send + Unpin {
        face::Giving::new(self.raw().acquire_async(), |_| ())
    }

    /// Releases the lock once: it is free when the owner has released it as often as acquired it.
    ///
    /// What a guard has is the guard's to release. Released here at the very moment at which another thread drops that
    /// guard, the lock may be taken from whoever has it next.
    ///
    /// # Errors
    ///
    /// [`NotOwned`] if the caller does not own it.
    #[inline]
    pub fn release(&self) -> Result<(), NotOwned> {
        self.raw().release(Owner::current(self.0.slot()))
    }

    /// Whether somebody holds the lock at this moment.
    #[inline]
    pub fn locked(&self) -> bool {
        self.raw().lock().is_held()
    }

    /// Whether the caller owns the lock.
    #[inline]
    pub fn is_owned(&self) -> bool {
        self.raw().is_owned_by(Owner::current(self.0.slot()))
    }

    /// How often the caller has acquired the lock and not yet released it; zero if it does not own it.
    pub fn recursion_count(&self) -> usize {
        self.raw().count_of(Owner::current(self.0.slot())) as usize
    }

    /// Acquires the lock and gives a guard that releases it, once, when it is dropped.
    ///
    /// # Blocking
    ///
    /// Like [`acquire`](RLock::acquire).
    #[inline]
    pub fn lock(&self) -> RLockGuard<'_> {
        let hold = self.raw().acquire(Owner::current(self.0.slot()));
        RLockGuard { lock: self, hold }
    }

    /// Acquires the lock if that can be done at once, and gives a guard.
    #[inline]
    #[must_use = "the lock is released when the guard is dropped"]
    pub fn try_lock(&self) -> Option<RLockGuard<'_>> {
        let hold = self.raw().try_acquire(Owner::current(self.0.slot()))?;
        Some(RLockGuard { lock: self, hold })
    }

    /// Acquires the lock if that can be done in time, and gives a guard.
    ///
    /// # Blocking
    ///
    /// For so long at most.
    #[must_use = "the lock is released when the guard is dropped"]
    pub fn lock_timeout(&self, timeout: Duration) -> Option<RLockGuard<'_>> {
        let owner = Owner::current(self.0.slot());
        let hold = self.raw().acquire_until(owner, deadline::after(timeout))?;
        Some(RLockGuard { lock: self, hold })
    }

    /// Acquires the lock and gives a guard; the async twin of [`lock`](RLock::lock). The owner is the tokio task,
    /// or the thread, that polls the future first.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped has not acquired the lock, and loses its place in line.
    #[inline]
    pub fn lock_async(&self) -> impl Future<Output = RLockGuard<'_>> + Send + Unpin {
        face::Giving::new(self.raw().acquire_async(), |hold| RLockGuard {
            lock: self,
            hold,
        })
    }
}

impl RLockGuard<'_> {
    /// Releases the lock, as dropping the guard does.
    ///
    /// # Errors
    ///
    /// [`NotOwned`] if the guard does not hold the lock any more: it was released otherwise, by [`RLock::release`].
    pub fn release(self) -> Result<(), NotOwned> {
        let guard = std::mem::ManuallyDrop::new(self);
        guard.lock.raw().release_in(guard.hold)
    }
}

impl Drop for RLockGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        // It may have been released behind the guard's back.
        let _ = self.lock.raw().release_in(self.hold);
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
