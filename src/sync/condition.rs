//! Waiting for a change of what a lock protects.

mod guard;
mod wait;

use std::{fmt, time::Duration};

use super::{Lock, RLock, face, rlock::RawRLock};
use crate::{
    arena::{handle::Handle, slot::Kind},
    deadline,
    error::{Error, NotOwned},
};
pub use guard::ConditionGuard;
use wait::{ConditionWait, Raw, RawAnyLock};
pub(super) use wait::{LINE, notify_another};

/// A condition variable; Python's `threading.Condition` and `multiprocessing.Condition`.
///
/// It has a lock: an [`RLock`] of its own, or one that it [shares](Condition::with_lock). Who holds the lock can wait.
/// A wait gives the lock up, and holds it again when it is over, however it ends; only a future that is dropped
/// half-way does not. A notification is for those who wait at that moment, the longest waiting first; it is not
/// remembered. They go on one after another, once the notifier has released the lock.
///
/// It can be given to any worker of this machine, at any time; clones, and what workers get, are
/// handles to the same condition and the same lock.
///
/// # Several guards of one owner
///
/// A wait gives up all levels of a re-entrant lock, those of other guards of the same owner included. These guards hold
/// nothing until the wait is over. A guard that is dropped meanwhile takes its level along. If the wait is dropped
/// half-way, they hold nothing any more.
///
/// One owner are also the futures that one tokio task polls, as in a `join!` or a `select!`, and on another runtime all
/// that a thread polls: see [`RLock`]. They do not exclude each other, and one that waits gives up what the others
/// hold. There use [`with_lock`](Condition::with_lock), and guards.
///
/// # Examples
///
/// ```
/// use std::{sync::atomic::{AtomicBool, Ordering}, thread};
/// use freethreading::Condition;
///
/// static DONE: AtomicBool = AtomicBool::new(false);
///
/// let condition = Condition::new();
/// let other = condition.clone();
/// let worker = thread::spawn(move || {
///     let guard = other.lock();
///     DONE.store(true, Ordering::Relaxed);
///     guard.notify_all().unwrap();
/// });
/// let mut guard = condition.lock();
/// guard.wait_for(|| DONE.load(Ordering::Relaxed))?;
/// # drop(guard);
/// # worker.join().unwrap();
/// # Ok::<(), freethreading::NotOwned>(())
/// ```
#[derive(Clone, serde::Serialize, serde::Deserialize)]
pub struct Condition {
    line: Line,
    lock: AnyLock,
}

/// The condition's own slot, where those wait who are to be notified. It is a re-entrant lock besides, which is that of
/// the condition unless it shares another.
#[derive(Clone)]
struct Line(Handle);

face::travels!(Line, Kind::Condition);

/// The lock of a condition.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
enum AnyLock {
    Own,
    Lock(Lock),
    RLock(RLock),
}

impl Condition {
    /// A new condition with an [`RLock`] of its own.
    ///
    /// # Panics
    ///
    /// If the system has no memory for it; see [`try_new`](Condition::try_new).
    pub fn new() -> Self {
        Self::try_new().unwrap_or_else(|error| panic!("{error}"))
    }

    /// A new condition with an [`RLock`] of its own.
    ///
    /// # Errors
    ///
    /// [`Error::Arena`] if the system has no memory for it.
    pub fn try_new() -> Result<Self, Error> {
        Condition::over(AnyLock::Own)
    }

    /// A new condition that shares a lock: to acquire the lock is to acquire the condition, and the other way round.
    /// From now on it is noted which tokio task or thread acquires the lock, as with an [`RLock`].
    ///
    /// If somebody holds the lock already, it is not known who. Waits and notifications are errors then, whoever calls,
    /// until the lock was released and acquired again. So they are where a worker process held the lock when it ended.
    ///
    /// # Panics
    ///
    /// If the system has no memory for it.
    pub fn with_lock(lock: &Lock) -> Self {
        let condition = Condition::over(AnyLock::Lock(lock.clone()));
        lock.raw().take_notes();
        condition.unwrap_or_else(|error| panic!("{error}"))
    }

    /// A new condition that shares a re-entrant lock.
    ///
    /// # Panics
    ///
    /// If the system has no memory for it.
    pub fn with_rlock(lock: &RLock) -> Self {
        Condition::over(AnyLock::RLock(lock.clone())).unwrap_or_else(|error| panic!("{error}"))
    }

    fn over(lock: AnyLock) -> Result<Self, Error> {
        let line = Line(Handle::new(Kind::Condition, |_| {})?);
        Ok(Condition { line, lock })
    }

    fn raw(&self) -> Raw {
        let line = self.line.0.slot();
        Raw {
            line,
            lock: match &self.lock {
                AnyLock::Own => RawAnyLock::RLock(RawRLock(line)),
                AnyLock::Lock(lock) => RawAnyLock::Lock(lock.raw()),
                AnyLock::RLock(lock) => RawAnyLock::RLock(lock.raw()),
            },
        }
    }

    /// Acquires the lock.
    ///
    /// # Blocking
    ///
    /// Until the lock is released, if somebody holds it.
    pub fn acquire(&self) {
        self.raw().acquire_until(None);
    }

    /// Acquires the lock if that can be done at once; says whether it did.
    #[must_use = "the lock may not have been acquired"]
    pub fn try_acquire(&self) -> bool {
        self.raw().try_acquire().is_some()
    }

    /// Acquires the lock; `false` if that could not be done in time.
    ///
    /// # Blocking
    ///
    /// For so long at most.
    #[must_use = "the lock may not have been acquired"]
    pub fn acquire_timeout(&self, timeout: Duration) -> bool {
        self.raw().acquire_until(deadline::after(timeout)).is_some()
    }

    /// Acquires the lock; the async twin of [`acquire`](Condition::acquire).
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped has not acquired the lock, and loses its place in line.
    #[inline]
    pub fn acquire_async(&self) -> impl Future<Output = ()> + Send + Unpin {
        face::Giving::new(self.raw().acquire_async(), |_| ())
    }

    /// Releases the lock.
    ///
    /// # Errors
    ///
    /// [`NotOwned`] if the caller does not hold it.
    pub fn release(&self) -> Result<(), NotOwned> {
        self.raw().release()
    }

    fn waiting(&self) -> ConditionWait<'_> {
        ConditionWait::new(self.raw(), None)
    }

    /// Gives the lock up, waits for a notification, and acquires the lock again.
    ///
    /// # Blocking
    ///
    /// Until the notification comes, and then until the lock is free.
    ///
    /// # Errors
    ///
    /// [`NotOwned`] if the caller does not hold the lock.
    pub fn wait(&self) -> Result<(), NotOwned> {
        self.waiting().block(None).map(drop)
    }

    /// Like [`wait`](Condition::wait), for so long at most: `false` if there was no notification in time.
    ///
    /// # Blocking
    ///
    /// Until the notification comes or the time is up, and then until the lock is free.
    ///
    /// # Errors
    ///
    /// [`NotOwned`] if the caller does not hold the lock.
    pub fn wait_timeout(&self, timeout: Duration) -> Result<bool, NotOwned> {
        self.waiting().block(deadline::after(timeout))
    }

    /// The async twin of [`wait`](Condition::wait).
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped after its first poll has given the lock up for good. If it was notified already, the
    /// notification goes to another, whom it or one after it could have reached.
    ///
    /// # Errors
    ///
    /// [`NotOwned`] if the caller does not hold the lock.
    pub fn wait_async(&self) -> impl Future<Output = Result<(), NotOwned>> + Send + Unpin {
        self.waiting()
    }

    /// Waits until the predicate says `true`. It is called with the lock held, at first and after each notification.
    ///
    /// # Blocking
    ///
    /// Until the predicate says `true`.
    ///
    /// # Errors
    ///
    /// [`NotOwned`] if the caller does not hold the lock.
    pub fn wait_for(&self, predicate: impl FnMut() -> bool) -> Result<(), NotOwned> {
        self.raw().hold()?;
        wait_for(predicate, || self.waiting().block(None)).map(drop)
    }

    /// Like [`wait_for`](Condition::wait_for), for so long at most: gives what the predicate said last. It is asked
    /// once more when the time is up.
    ///
    /// # Blocking
    ///
    /// Until the predicate says `true` or the time is up, and then until the lock is free.
    ///
    /// # Errors
    ///
    /// [`NotOwned`] if the caller does not hold the lock.
    pub fn wait_for_timeout(
        &self,
        timeout: Duration,
        predicate: impl FnMut() -> bool,
    ) -> Result<bool, NotOwned> {
        self.raw().hold()?;
        let deadline = deadline::after(timeout);
        wait_for(predicate, || self.waiting().block(deadline))
    }

    /// The async twin of [`wait_for`](Condition::wait_for). Where the predicate says `true` at once it is ready with its
    /// first poll, always: it does not give way to other tasks now and then, since it would do so with the lock held.
    ///
    /// # Cancel safety
    ///
    /// As of [`wait_async`](Condition::wait_async).
    ///
    /// # Errors
    ///
    /// [`NotOwned`] if the caller does not hold the lock.
    pub async fn wait_for_async<P>(&self, mut predicate: P) -> Result<(), NotOwned>
    where
        P: FnMut() -> bool + Send,
    {
        self.raw().hold()?;
        while !predicate() {
            self.waiting().await?;
        }
        Ok(())
    }

    /// Notifies so many of those who wait, the longest waiting first; fewer if there are fewer.
    ///
    /// # Errors
    ///
    /// [`NotOwned`] if the caller does not hold the lock.
    pub fn notify(&self, count: usize) -> Result<(), NotOwned> {
        let raw = self.raw();
        raw.hold()?;
        raw.notify(count);
        Ok(())
    }

    /// Notifies all who wait.
    ///
    /// # Errors
    ///
    /// [`NotOwned`] if the caller does not hold the lock.
    pub fn notify_all(&self) -> Result<(), NotOwned> {
        self.notify(usize::MAX)
    }
}

/// Until the predicate says so, or a wait was in vain: what it said last.
fn wait_for(
    mut predicate: impl FnMut() -> bool,
    mut wait: impl FnMut() -> Result<bool, NotOwned>,
) -> Result<bool, NotOwned> {
    loop {
        if predicate() {
            return Ok(true);
        }
        if !wait()? {
            return Ok(predicate());
        }
    }
}

impl Default for Condition {
    fn default() -> Self {
        Condition::new()
    }
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own;
        let lock: &dyn fmt::Debug = match &self.lock {
            AnyLock::Own => {
                own = RLock(self.line.0.clone());
                &own
            }
            AnyLock::Lock(lock) => lock,
            AnyLock::RLock(lock) => lock,
        };
        f.debug_struct("Condition")
            .field("lock", lock)
            .field("waiters", &self.line.0.slot().waiters(LINE))
            .finish()
    }
}
