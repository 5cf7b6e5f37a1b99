//! Holding the lock of a condition for as long as a guard lives: what a guard does, and the ways to get one.

use std::{mem::ManuallyDrop, time::Duration};

use super::{Condition, wait::ConditionWait, wait_for};
use crate::{
    deadline,
    error::NotOwned,
    sync::{face, rlock::Hold},
};

/// Holds the lock of a [`Condition`] until it is dropped.
///
/// It can be sent to other threads and held over an `.await`.
#[must_use = "the lock is released when the guard is dropped"]
#[derive(Debug)]
pub struct ConditionGuard<'a> {
    condition: &'a Condition,
    /// What it has of the lock; a wait that was dropped half-way has lost it.
    hold: Option<Hold>,
}

impl Condition {
    fn guard(&self, hold: Option<Hold>) -> ConditionGuard<'_> {
        ConditionGuard {
            condition: self,
            hold,
        }
    }

    /// Acquires the lock and gives a guard that releases it when it is dropped.
    ///
    /// # Blocking
    ///
    /// Like [`acquire`](Condition::acquire).
    pub fn lock(&self) -> ConditionGuard<'_> {
        self.guard(self.raw().acquire_until(None))
    }

    /// Acquires the lock if that can be done at once, and gives a guard.
    #[must_use = "the lock is released when the guard is dropped"]
    pub fn try_lock(&self) -> Option<ConditionGuard<'_>> {
        let hold = self.raw().try_acquire()?;
        Some(self.guard(Some(hold)))
    }

    /// Acquires the lock if that can be done in time, and gives a guard.
    ///
    /// # Blocking
    ///
    /// For so long at most.
    #[must_use = "the lock is released when the guard is dropped"]
    pub fn lock_timeout(&self, timeout: Duration) -> Option<ConditionGuard<'_>> {
        let hold = self.raw().acquire_until(deadline::after(timeout))?;
        Some(self.guard(Some(hold)))
    }

    /// Acquires the lock and gives a guard; the async twin of [`lock`](Condition::lock).
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped has not acquired the lock, and loses its place in line.
    #[inline]
    pub fn lock_async(&self) -> impl Future<Output = ConditionGuard<'_>> + Send + Unpin {
        face::Giving::new(self.raw().acquire_async(), |hold| self.guard(Some(hold)))
    }
}

impl ConditionGuard<'_> {
    /// Releases the lock, as dropping the guard does.
    ///
    /// # Errors
    ///
    /// [`NotOwned`] if the guard does not hold the lock any more: it was released otherwise, or a wait was dropped
    /// half-way.
    pub fn release(self) -> Result<(), NotOwned> {
        let guard = ManuallyDrop::new(self);
        let hold = guard.hold.ok_or(NotOwned)?;
        guard.condition.raw().release_in(hold)
    }

    fn check(&self) -> Result<Hold, NotOwned> {
        let hold = self.hold.ok_or(NotOwned)?;
        self.condition.raw().check(hold).map(|()| hold)
    }

    fn waiting(&mut self) -> ConditionWait<'_> {
        ConditionWait::new(self.condition.raw(), Some(&mut self.hold))
    }

    /// See [`Condition::wait`].
    ///
    /// # Blocking
    ///
    /// Until the notification comes, and then until the lock is free.
    ///
    /// # Errors
    ///
    /// [`NotOwned`] if the guard does not hold the lock any more, as of [`release`](ConditionGuard::release).
    pub fn wait(&mut self) -> Result<(), NotOwned> {
        self.waiting().block(None).map(drop)
    }

    /// See [`Condition::wait_timeout`].
    ///
    /// # Blocking
    ///
    /// Until the notification comes or the time is up, and then until the lock is free.
    ///
    /// # Errors
    ///
    /// As of [`wait`](ConditionGuard::wait).
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<bool, NotOwned> {
        self.waiting().block(deadline::after(timeout))
    }

    /// See [`Condition::wait_async`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped after its first poll, the guard does not hold the lock any more: to drop the guard does
    /// nothing then, and its methods give [`NotOwned`].
    ///
    /// # Errors
    ///
    /// As of [`wait`](ConditionGuard::wait).
    pub fn wait_async(&mut self) -> impl Future<Output = Result<(), NotOwned>> + Send + Unpin {
        self.waiting()
    }

    /// See [`Condition::wait_for`].
    ///
    /// # Blocking
    ///
    /// Until the predicate says `true`.
    ///
    /// # Errors
    ///
    /// As of [`wait`](ConditionGuard::wait).
    pub fn wait_for(&mut self, predicate: impl FnMut() -> bool) -> Result<(), NotOwned> {
        self.check()?;
        wait_for(predicate, || self.waiting().block(None)).map(drop)
    }

    /// See [`Condition::wait_for_timeout`].
    ///
    /// # Blocking
    ///
    /// Until the predicate says `true` or the time is up, and then until the lock is free.
    ///
    /// # Errors
    ///
    /// As of [`wait`](ConditionGuard::wait).
    pub fn wait_for_timeout(
        &mut self,
        timeout: Duration,
        predicate: impl FnMut() -> bool,
    ) -> Result<bool, NotOwned> {
        self.check()?;
        let deadline = deadline::after(timeout);
        wait_for(predicate, || self.waiting().block(deadline))
    }

    /// See [`Condition::wait_for_async`].
    ///
    /// # Cancel safety
    ///
    /// As of [`wait_async`](ConditionGuard::wait_async).
    ///
    /// # Errors
    ///
    /// As of [`wait`](ConditionGuard::wait).
    pub async fn wait_for_async<P>(&mut self, mut predicate: P) -> Result<(), NotOwned>
    where
        P: FnMut() -> bool + Send,
    {
        self.check()?;
        while !predicate() {
            self.waiting().await?;
        }
        Ok(())
    }

    /// See [`Condition::notify`].
    ///
    /// # Errors
    ///
    /// As of [`wait`](ConditionGuard::wait).
    pub fn notify(&self, count: usize) -> Result<(), NotOwned> {
        self.check()?;
        self.condition.raw().notify(count);
        Ok(())
    }

    /// See [`Condition::notify_all`].
    ///
    /// # Errors
    ///
    /// As of [`wait`](ConditionGuard::wait).
    pub fn notify_all(&self) -> Result<(), NotOwned> {
        self.notify(usize::MAX)
    }
}

impl Drop for ConditionGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(hold) = self.hold {
            // It may have been released behind the guard's back.
            let _ = self.condition.raw().release_in(hold);
        }
    }
}
