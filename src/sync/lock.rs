//! Mutual exclusion.

use std::{fmt, time::Duration};

use super::{face, raw::RawLock};
use crate::{
    arena::{handle::Handle, slot::Kind},
    deadline,
    error::{Error, NotHeld},
};

/// A lock that one at a time can hold, be it a thread, an async task or a worker process; Python's
/// `threading.Lock` and `multiprocessing.Lock`.
///
/// It can be given to any worker of this machine, at any time; clones, and what workers get, are
/// handles to the same lock. It is not re-entrant (see [`RLock`](crate::RLock)), and it does not belong
/// to anybody: whoever has a handle may release it. If a worker process holds it when it is killed or crashes, it is
/// released. A task that panics, or a worker that ends in good order, leaves it held, unless a guard releases it. There
/// is no poisoning.
///
/// Whoever comes by may take a free lock, also ahead of those who wait for it. But a waiter that was woken in vain
/// more than once is handed the lock, so nobody waits for ever. An uncontended acquire makes no system call.
///
/// # Examples
///
/// ```
/// use std::thread;
/// use freethreading::Lock;
///
/// let lock = Lock::new();
/// let other = lock.clone();
/// let guard = lock.lock();
/// let waiting = thread::spawn(move || other.acquire());
/// assert!(lock.locked());
/// drop(guard);
/// waiting.join().unwrap();
/// assert!(!lock.try_acquire()); // The other thread still holds it.
/// lock.release()?; // Anybody may.
/// # Ok::<(), freethreading::NotHeld>(())
/// ```
#[derive(Clone)]
pub struct Lock(pub(super) Handle);

/// Holds a [`Lock`] until it is dropped.
///
/// It can be sent to other threads and held over an `.await`.
#[must_use = "the lock is released when the guard is dropped"]
#[derive(Debug)]
pub struct LockGuard<'a> {
    lock: &'a Lock,
}

/// A [`LockGuard`] with a handle of its own, as [`into_owned`](LockGuard::into_owned) gives it; tokio's
/// `OwnedMutexGuard`.
#[must_use = "the lock is released when the guard is dropped"]
#[derive(Debug)]
pub struct OwnedLockGuard {
    lock: Lock,
    held: bool,
}

impl Lock {
    /// A new lock, which nobody holds.
    ///
    /// # Panics
    ///
    /// If the system has no memory for it; see [`try_new`](Lock::try_new).
    pub fn new() -> Self {
        Self::try_new().unwrap_or_else(|error| panic!("{error}"))
    }

    /// A new lock, which nobody holds.
    ///
    /// # Errors
    ///
    /// [`Error::Arena`] if the system has no memory for it.
    pub fn try_new() -> Result<Self, Error> {
        Ok(Lock(Handle::new(Kind::Lock, |_| {})?))
    }

    #[inline]
    pub(super) fn raw(&self) -> RawLock {
        RawLock(self.0.slot())
    }

    /// Acquires the lock.
    ///
    /// # Blocking
    ///
    /// Until the lock is released, if somebody holds it. A caller that holds it itself waits for ever, unless somebody
    /// else releases it.
    #[inline]
    pub fn acquire(&self) {
        self.raw().acquire();
    }

    /// Acquires the lock if nobody holds it; says whether it did.
    #[inline]
    #[must_use = "the lock may not have been acquired"]
    pub fn try_acquire(&self) -> bool {
        self.raw().try_acquire()
    }

    /// Acquires the lock; `false` if that could not be done in time.
    ///
    /// # Blocking
    ///
    /// For so long at most.
    #[must_use = "the lock may not have been acquired"]
    pub fn acquire_timeout(&self, timeout: Duration) -> bool {
        self.try_acquire() || self.raw().acquire_until(deadline::after(timeout))
    }

    /// Acquires the lock; the async twin of [`acquire`](Lock::acquire).
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped has not acquired the lock, and loses its place in line.
    #[inline]
    pub fn acquire_async(&self) -> impl Future<Output = ()> + Send + Unpin {
        self.raw().acquire_async()
    }

    /// Releases the lock, whoever has acquired it.
    ///
    /// # Errors
    ///
    /// [`NotHeld`] if nobody holds it.
    #[inline]
    pub fn release(&self) -> Result<(), NotHeld> {
        match self.raw().release() {
            true => Ok(()),
            false => Err(NotHeld),
        }
    }

    /// Whether somebody holds the lock at this moment.
    #[inline]
    pub fn locked(&self) -> bool {
        self.raw().is_held()
    }
}

face::guards!(
    Lock,
    LockGuard,
    OwnedLockGuard,
    NotHeld,
    "[`NotHeld`] if somebody else has released the lock before.",
    lock,
    try_lock,
    lock_timeout,
    lock_async
);

impl Default for Lock {
    fn default() -> Self {
        Lock::new()
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock")
            .field("locked", &self.locked())
            .field("waiters", &self.raw().waiters())
            .finish()
    }
}

face::travels!(Lock, Kind::Lock);
