//! Waiting for a change of what a lock protects.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use super::{Lock, RLock, face, owner::Owner, raw::RawLock, rlock::RawRLock};
use crate::{
    arena::{
        handle::Handle,
        slot::{Kind, SlotRef},
        wait::{Waiting, deadline},
        waiter::{Sleeper, State, Waiter, Wakes},
    },
    error::{Error, NotOwned},
    shim::Ordering,
};

/// The list of those who wait to be notified.
const LINE: usize = 0;

/// A condition variable; Python's `threading.Condition` and `multiprocessing.Condition`.
///
/// It goes with a lock, an [`RLock`] of its own or a lock that it is made over and shares. Who holds the lock
/// can wait: the lock is given up, and held again when the wait is over, however it ends (but for a
/// future that is dropped). A notification is for those who wait at that moment, the longest first; it
/// is not remembered. They go on one after another, once the notifier has released the lock.
///
/// It can be given to any worker of this machine, at any time; clones, and what workers get, are
/// handles to the same condition and the same lock.
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
#[derive(Clone)]
pub struct Condition {
    line: Handle,
    lock: AnyLock,
}

/// The lock of a condition.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
enum AnyLock {
    Lock(Lock),
    RLock(RLock),
}

/// Holds the lock of a [`Condition`] until it is dropped.
///
/// It can be sent to other threads and held over an `.await`.
#[must_use = "the lock is released when the guard is dropped"]
#[derive(Debug)]
pub struct ConditionGuard<'a> {
    condition: &'a Condition,
    owner: Owner,
    /// A wait that was dropped half-way has lost the lock.
    held: bool,
}

/// Notifies the longest waiting, since one that was notified is gone; it will look for the lock itself.
pub(super) fn notify_another(slot: SlotRef) {
    let line = slot.lock();
    let Some((_, waiter)) = line.take(LINE) else {
        return;
    };
    waiter.notified_by.store(slot.index(), Ordering::Relaxed);
    let woken = waiter.tell(State::Notified);
    drop(line);
    woken.wake();
}

/// A condition as its waiters need it: all of it is `Copy`.
#[derive(Clone, Copy)]
struct Raw {
    line: SlotRef,
    lock: RawAnyLock,
}

#[derive(Clone, Copy)]
enum RawAnyLock {
    Lock(RawLock),
    RLock(RawRLock),
}

impl Raw {
    fn lock(self) -> RawLock {
        match self.lock {
            RawAnyLock::Lock(lock) => lock,
            RawAnyLock::RLock(lock) => lock.lock(),
        }
    }

    fn check(self, owner: Owner) -> Result<(), NotOwned> {
        let owned = match self.lock {
            RawAnyLock::RLock(lock) => lock.is_owned_by(owner),
            RawAnyLock::Lock(lock) => {
                lock.is_held() && lock.noted().is_none_or(|noted| noted == owner.number())
            }
        };
        if owned { Ok(()) } else { Err(NotOwned) }
    }

    fn acquire_until(self, owner: Owner, deadline: Option<Instant>) -> bool {
        match self.lock {
            RawAnyLock::RLock(lock) => lock.acquire_until(owner, deadline),
            RawAnyLock::Lock(lock) => {
                let acquired = lock.acquire_until(deadline);
                if acquired {
                    lock.note(owner.number());
                }
                acquired
            }
        }
    }

    fn try_acquire(self, owner: Owner) -> bool {
        match self.lock {
            RawAnyLock::RLock(lock) => lock.try_acquire(owner),
            RawAnyLock::Lock(lock) => {
                let acquired = lock.try_acquire();
                if acquired {
                    lock.note(owner.number());
                }
                acquired
            }
        }
    }

    async fn acquire_async(self) -> Owner {
        match self.lock {
            RawAnyLock::RLock(lock) => lock.acquire_async().await,
            RawAnyLock::Lock(lock) => {
                let owner = Owner::current();
                lock.acquire_async().await;
                lock.note(owner.number());
                owner
            }
        }
    }

    fn release(self, owner: Owner) -> Result<(), NotOwned> {
        match self.lock {
            RawAnyLock::RLock(lock) => lock.release(owner),
            RawAnyLock::Lock(lock) => {
                self.check(owner)?;
                match lock.release() {
                    true => Ok(()),
                    false => Err(NotOwned),
                }
            }
        }
    }

    /// Gives the lock up altogether; says what to take back.
    fn give_up(self, owner: Owner) -> u64 {
        match self.lock {
            RawAnyLock::RLock(lock) => lock.release_all(owner),
            RawAnyLock::Lock(lock) => {
                let noted = lock.noted();
                lock.release();
                noted.unwrap_or(0)
            }
        }
    }

    /// The lock was acquired again by who gave it up.
    fn take_back(self, owner: Owner, given_up: u64) {
        match self.lock {
            // A guard that was dropped elsewhere has released it just before.
            RawAnyLock::RLock(lock) if given_up == 0 => {
                lock.lock().release();
            }
            RawAnyLock::RLock(lock) => lock.own(owner, given_up),
            RawAnyLock::Lock(lock) => {
                if given_up != 0 {
                    lock.note(given_up);
                }
            }
        }
    }

    /// Notifies the longest waiting: they are put into the lock's line, and go on when it is released.
    fn notify(self, count: usize) {
        let mut wakes = Wakes::default();
        {
            let line = self.line.lock();
            if line.is_empty(LINE) {
                return;
            }
            // Nobody takes the two the other way round.
            let lock = self.lock();
            let lock_slot = std::cell::OnceCell::new();
            for _ in 0..count {
                let Some((index, waiter)) = line.take(LINE) else {
                    break;
                };
                waiter
                    .notified_by
                    .store(self.line.index(), Ordering::Relaxed);
                // One task is woken at once: most likely the lock is free when its turn comes. To a thread
                // that would be so much sooner that it is not.
                let goes_itself = count == 1 && waiter.is_task();
                if goes_itself
                    || !lock.enrol(lock_slot.get_or_init(|| lock.0.lock()), index, waiter)
                {
                    // Or somebody has released the lock behind the notifier's back.
                    wakes.add(waiter.tell(State::Notified));
                }
            }
        }
        wakes.wake();
    }
}

/// A wait for a notification, and then for the lock; its output is whether there was a notification.
struct ConditionWait {
    condition: Raw,
    owner: Owner,
    stage: Stage,
    notified: bool,
    /// How often the lock was acquired.
    given_up: u64,
}

enum Stage {
    Start,
    /// In the condition's line, or, notified, in the lock's.
    InLine(Waiter),
    /// The wait is over, and the lock is to be acquired.
    Locking(Waiting<RawLock>),
    Done,
}

impl ConditionWait {
    fn new(condition: Raw, owner: Owner) -> Self {
        ConditionWait {
            condition,
            owner,
            stage: Stage::Start,
            notified: false,
            given_up: 0,
        }
    }

    fn advance(&mut self, sleeper: Sleeper<'_>) -> Poll<bool> {
        loop {
            match &mut self.stage {
                Stage::Start => {
                    let waiter = Waiter::claim();
                    waiter.prepare(sleeper);
                    {
                        let line = self.condition.line.lock();
                        line.stamp(waiter.node);
                        line.push(LINE, waiter.index, waiter.node, false);
                    }
                    self.stage = Stage::InLine(waiter);
                    self.given_up = self.condition.give_up(self.owner);
                    return Poll::Pending;
                }
                Stage::InLine(waiter) => {
                    if let (State::Waiting, Sleeper::Task(waker)) = (waiter.state(), sleeper) {
                        // Whoever tells it something from now on finds this waker.
                        waiter.leave(waker);
                    }
                    if !waiter.state().is_told() {
                        return Poll::Pending;
                    }
                    self.lock_again(true);
                }
                Stage::Locking(waiting) => {
                    return waiting.poll(sleeper).map(|()| self.done());
                }
                Stage::Done => unreachable!("a wait that is over is not polled"),
            }
        }
    }

    fn lock_again(&mut self, notified: bool) {
        if let Stage::InLine(waiter) = std::mem::replace(&mut self.stage, Stage::Done) {
            self.notified = notified;
            // Who was notified is in the lock's line, or was told of the lock.
            let waiting = Waiting::with(self.condition.lock(), waiter, notified);
            self.stage = Stage::Locking(waiting);
        }
    }

    fn done(&mut self) -> bool {
        self.stage = Stage::Done;
        self.condition.take_back(self.owner, self.given_up);
        self.notified
    }

    fn block(mut self, deadline: Option<Instant>) -> bool {
        loop {
            if let Poll::Ready(notified) = self.advance(Sleeper::Thread) {
                return notified;
            }
            match &mut self.stage {
                Stage::InLine(waiter) => {
                    if !waiter.sleep(deadline) {
                        let in_vain = leave(self.condition, waiter);
                        self.lock_again(!in_vain);
                    }
                }
                Stage::Locking(waiting) => {
                    waiting.block(None);
                    return self.done();
                }
                Stage::Start | Stage::Done => {}
            }
        }
    }
}

impl Future for ConditionWait {
    type Output = bool;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<bool> {
        self.advance(Sleeper::Task(context.waker()))
    }
}

impl Drop for ConditionWait {
    /// The lock stays given up; a notification goes to somebody else.
    fn drop(&mut self) {
        if let Stage::InLine(waiter) = &self.stage
            && !leave(self.condition, waiter)
        {
            self.lock_again(true);
        }
        if let Stage::Locking(waiting) = std::mem::replace(&mut self.stage, Stage::Done) {
            drop(waiting);
            if self.notified {
                self.condition.notify(1);
            }
        }
    }
}

/// Takes a waiter out of the condition's line; `false` if it was notified.
fn leave(condition: Raw, waiter: &Waiter) -> bool {
    let line = condition.line.lock();
    // Under this mutex nobody notifies it.
    let waits = !waiter.state().is_told() && waiter.node.list().slot == line.slot.index();
    if waits {
        line.unlink(LINE, waiter.node);
        waiter.retire();
    }
    waits
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
        Condition::over(AnyLock::RLock(RLock::try_new()?))
    }

    /// A new condition that shares a lock.
    ///
    /// # Panics
    ///
    /// If the system has no memory for it.
    pub fn with_lock(lock: &Lock) -> Self {
        Condition::over(AnyLock::Lock(lock.clone())).unwrap_or_else(|error| panic!("{error}"))
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
        let line = Handle::new(Kind::Condition, |_| {})?;
        Ok(Condition { line, lock })
    }

    fn raw(&self) -> Raw {
        Raw {
            line: self.line.slot(),
            lock: match &self.lock {
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
        self.raw().acquire_until(Owner::current(), None);
    }

    /// Acquires the lock if that can be done at once; says whether it did.
    pub fn try_acquire(&self) -> bool {
        self.raw().try_acquire(Owner::current())
    }

    /// Acquires the lock; `false` if that could not be done in time.
    ///
    /// # Blocking
    ///
    /// For so long at most.
    pub fn acquire_timeout(&self, timeout: Duration) -> bool {
        let owner = Owner::current();
        self.raw().acquire_until(owner, deadline(timeout))
    }

    /// Acquires the lock; the async twin of [`acquire`](Condition::acquire).
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped has not acquired the lock.
    pub async fn acquire_async(&self) {
        self.raw().acquire_async().await;
    }

    /// Releases the lock.
    ///
    /// # Errors
    ///
    /// [`NotOwned`] if the caller does not hold it.
    pub fn release(&self) -> Result<(), NotOwned> {
        self.raw().release(Owner::current())
    }

    fn wait_until(&self, owner: Owner, deadline: Option<Instant>) -> Result<bool, NotOwned> {
        let raw = self.raw();
        raw.check(owner)?;
        Ok(ConditionWait::new(raw, owner).block(deadline))
    }

    fn wait_for_until(
        &self,
        owner: Owner,
        deadline: Option<Instant>,
        mut predicate: impl FnMut() -> bool,
    ) -> Result<bool, NotOwned> {
        self.raw().check(owner)?;
        loop {
            if predicate() {
                return Ok(true);
            }
            if !self.wait_until(owner, deadline)? {
                return Ok(predicate());
            }
        }
    }

    /// Gives the lock up, waits for a notification, and acquires the lock again.
    ///
    /// # Blocking
    ///
    /// Until the notification, and then until the lock is free.
    ///
    /// # Errors
    ///
    /// [`NotOwned`] if the caller does not hold the lock.
    pub fn wait(&self) -> Result<(), NotOwned> {
        self.wait_until(Owner::current(), None).map(drop)
    }

    /// The same for so long at most: `false` if there was no notification in time.
    ///
    /// # Blocking
    ///
    /// Until the notification or the time is up, and then until the lock is free.
    ///
    /// # Errors
    ///
    /// [`NotOwned`] if the caller does not hold the lock.
    pub fn wait_timeout(&self, timeout: Duration) -> Result<bool, NotOwned> {
        self.wait_until(Owner::current(), deadline(timeout))
    }

    /// The async twin of [`wait`](Condition::wait).
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped after its first poll has given the lock up for good; a notification that it was
    /// given goes to another.
    pub async fn wait_async(&self) -> Result<(), NotOwned> {
        let (raw, owner) = (self.raw(), Owner::current());
        raw.check(owner)?;
        ConditionWait::new(raw, owner).await;
        Ok(())
    }

    /// Waits until the predicate, which is called with the lock held, says `true`.
    ///
    /// # Blocking
    ///
    /// Until it does; it is asked at first and after each notification.
    ///
    /// # Errors
    ///
    /// [`NotOwned`] if the caller does not hold the lock.
    pub fn wait_for(&self, predicate: impl FnMut() -> bool) -> Result<(), NotOwned> {
        self.wait_for_until(Owner::current(), None, predicate)
            .map(drop)
    }

    /// The same for so long at most: what the predicate said last.
    ///
    /// # Blocking
    ///
    /// Until it says `true` or the time is up, and then until the lock is free.
    ///
    /// # Errors
    ///
    /// [`NotOwned`] if the caller does not hold the lock.
    pub fn wait_for_timeout(
        &self,
        timeout: Duration,
        predicate: impl FnMut() -> bool,
    ) -> Result<bool, NotOwned> {
        self.wait_for_until(Owner::current(), deadline(timeout), predicate)
    }

    /// The async twin of [`wait_for`](Condition::wait_for).
    ///
    /// # Cancel safety
    ///
    /// As of [`wait_async`](Condition::wait_async).
    pub async fn wait_for_async<P>(&self, mut predicate: P) -> Result<(), NotOwned>
    where
        P: FnMut() -> bool + Send,
    {
        self.raw().check(Owner::current())?;
        while !predicate() {
            self.wait_async().await?;
        }
        Ok(())
    }

    /// Notifies so many of those who wait, the longest first; fewer if there are fewer.
    ///
    /// # Errors
    ///
    /// [`NotOwned`] if the caller does not hold the lock.
    pub fn notify(&self, count: usize) -> Result<(), NotOwned> {
        let raw = self.raw();
        raw.check(Owner::current())?;
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

    fn guard(&self, owner: Owner) -> ConditionGuard<'_> {
        ConditionGuard {
            condition: self,
            owner,
            held: true,
        }
    }

    /// Acquires the lock and gives a guard that releases it when it is dropped.
    ///
    /// # Blocking
    ///
    /// Like [`acquire`](Condition::acquire).
    pub fn lock(&self) -> ConditionGuard<'_> {
        let owner = Owner::current();
        self.raw().acquire_until(owner, None);
        self.guard(owner)
    }

    /// Acquires the lock if that can be done at once, and gives a guard.
    pub fn try_lock(&self) -> Option<ConditionGuard<'_>> {
        let owner = Owner::current();
        let acquired = self.raw().try_acquire(owner);
        acquired.then(|| self.guard(owner))
    }

    /// Acquires the lock if that can be done in time, and gives a guard.
    ///
    /// # Blocking
    ///
    /// For so long at most.
    pub fn lock_timeout(&self, timeout: Duration) -> Option<ConditionGuard<'_>> {
        let owner = Owner::current();
        let acquired = self.raw().acquire_until(owner, deadline(timeout));
        acquired.then(|| self.guard(owner))
    }

    /// Acquires the lock and gives a guard; the async twin of [`lock`](Condition::lock).
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped has not acquired the lock.
    pub async fn lock_async(&self) -> ConditionGuard<'_> {
        let owner = self.raw().acquire_async().await;
        self.guard(owner)
    }
}

impl ConditionGuard<'_> {
    fn check(&self) -> Result<(), NotOwned> {
        match self.held {
            true => self.condition.raw().check(self.owner),
            false => Err(NotOwned),
        }
    }

    /// [`Condition::wait`].
    ///
    /// # Blocking
    ///
    /// Until the notification, and then until the lock is free.
    ///
    /// # Errors
    ///
    /// [`NotOwned`] if a wait that was dropped half-way has lost the lock.
    pub fn wait(&mut self) -> Result<(), NotOwned> {
        self.check()?;
        self.condition.wait_until(self.owner, None).map(drop)
    }

    /// [`Condition::wait_timeout`].
    ///
    /// # Blocking
    ///
    /// Until the notification or the time is up, and then until the lock is free.
    ///
    /// # Errors
    ///
    /// As of [`wait`](ConditionGuard::wait).
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<bool, NotOwned> {
        self.check()?;
        self.condition.wait_until(self.owner, deadline(timeout))
    }

    /// [`Condition::wait_async`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped after its first poll, the guard does not hold the lock any more:
    /// dropping it does nothing, and its other methods are errors.
    ///
    /// # Errors
    ///
    /// As of [`wait`](ConditionGuard::wait).
    pub async fn wait_async(&mut self) -> Result<(), NotOwned> {
        self.check()?;
        self.held = false;
        ConditionWait::new(self.condition.raw(), self.owner).await;
        self.held = true;
        Ok(())
    }

    /// [`Condition::wait_for`].
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
        self.condition
            .wait_for_until(self.owner, None, predicate)
            .map(drop)
    }

    /// [`Condition::wait_for_timeout`].
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
        self.condition
            .wait_for_until(self.owner, deadline(timeout), predicate)
    }

    /// [`Condition::wait_for_async`].
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
            self.wait_async().await?;
        }
        Ok(())
    }

    /// [`Condition::notify`].
    ///
    /// # Errors
    ///
    /// As of [`wait`](ConditionGuard::wait).
    pub fn notify(&self, count: usize) -> Result<(), NotOwned> {
        self.check()?;
        self.condition.raw().notify(count);
        Ok(())
    }

    /// [`Condition::notify_all`].
    ///
    /// # Errors
    ///
    /// As of [`wait`](ConditionGuard::wait).
    pub fn notify_all(&self) -> Result<(), NotOwned> {
        self.notify(usize::MAX)
    }
}

impl Drop for ConditionGuard<'_> {
    fn drop(&mut self) {
        if self.held {
            // It may have been released behind the guard's back.
            let _ = self.condition.raw().release(self.owner);
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
        let lock: &dyn fmt::Debug = match &self.lock {
            AnyLock::Lock(lock) => lock,
            AnyLock::RLock(lock) => lock,
        };
        f.debug_struct("Condition")
            .field("lock", lock)
            .field("waiters", &self.line.slot().waiters(LINE))
            .finish()
    }
}

impl serde::Serialize for Condition {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (Travelling(self.line.clone()), &self.lock).serialize(serializer)
    }
}

impl<'de> serde::Deserialize<'de> for Condition {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (Travelling(line), lock) = serde::Deserialize::deserialize(deserializer)?;
        Ok(Condition { line, lock })
    }
}

/// The condition's own slot.
struct Travelling(Handle);

face::travels!(Travelling, Kind::Condition);
