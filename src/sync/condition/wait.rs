//! A condition as its waiters need it, and their wait: in the condition's line, and then for the lock.

use std::{
    cell::OnceCell,
    pin::Pin,
    ptr,
    task::{Context, Poll},
    time::Instant,
};

use crate::{
    arena::{
        node::{Node, State, Wakes},
        slot::{Locked, SlotRef},
        wait::{WaitAsync, Waiting},
        waiter::{Sleeper, Waiter},
    },
    error::NotOwned,
    shim::Ordering,
    sync::{
        owner::Owner,
        raw::RawLock,
        rlock::{Acquiring, Hold, Owned, RawRLock},
    },
};

/// The list of those who wait to be notified. The one before it is that of the lock, if the condition has its own.
pub(in crate::sync) const LINE: usize = 1;

/// Notifies another one who waited when this one was notified, which is gone; that one will look for the lock itself.
pub(in crate::sync) fn notify_another(slot: SlotRef, gone: &Node) {
    let line = slot.lock();
    let Some((_, waiter)) = take(&line, reach(&line, notified_with(gone))) else {
        return;
    };
    let woken = waiter.tell(State::Notified);
    drop(line);
    woken.wake();
}

/// Notifications that came so close upon each other that each took one who waited already when the one before it was
/// given: the ticket of the first who was taken, and the last ticket of those among whom the latest was given.
const CHAIN_START: usize = 5;
const CHAIN_END: usize = 6;

/// The last ticket of those to whom a notification may be passed on that was given among those until this one. Of them,
/// the next notification may have taken one who would have had this one: then that goes on to one of its own.
fn reach(line: &Locked, last: u64) -> u64 {
    let word = |word: usize| line.slot.slot.words[word].load(Ordering::Relaxed);
    match last >= word(CHAIN_START) {
        true => last.max(word(CHAIN_END)),
        false => last,
    }
}

/// A notification among those until the last ticket has taken the one with this ticket.
fn link(line: &Locked, ticket: u64, last: u64) {
    let words = &line.slot.slot.words;
    let end = words[CHAIN_END].load(Ordering::Relaxed);
    if ticket > end {
        words[CHAIN_START].store(ticket, Ordering::Relaxed);
    }
    words[CHAIN_END].store(end.max(last), Ordering::Relaxed);
}

/// Takes the longest waiting out of the line, if it was there already when this ticket was the last one. It has to be
/// told.
fn take(line: &Locked, last: u64) -> Option<(u32, &'static Node)> {
    // Relaxed, here and below: the slot's mutex orders it, or telling the waiter does.
    let ticket = |waiter: &Node| waiter.ticket.load(Ordering::Relaxed);
    let (index, waiter) = line.take_if(LINE, |waiter| ticket(waiter) <= last)?;
    link(line, ticket(waiter), last);
    waiter
        .notified_by
        .store(line.slot.id().pack(), Ordering::Relaxed);
    waiter.notified_with.store(last, Ordering::Relaxed);
    Some((index, waiter))
}

/// The last ticket of those among whom this one was notified.
fn notified_with(waiter: &Node) -> u64 {
    waiter.notified_with.load(Ordering::Relaxed)
}

/// A condition as its waiters need it: all of it is `Copy`.
#[derive(Clone, Copy)]
pub(super) struct Raw {
    pub(super) line: SlotRef,
    pub(super) lock: RawAnyLock,
}

#[derive(Clone, Copy)]
pub(super) enum RawAnyLock {
    Lock(RawLock),
    RLock(RawRLock),
}

impl Owned for RawAnyLock {
    #[inline]
    fn lock(self) -> RawLock {
        match self {
            RawAnyLock::Lock(lock) => lock,
            RawAnyLock::RLock(lock) => lock.lock(),
        }
    }

    #[inline]
    fn try_acquire(self, owner: Owner) -> Option<Hold> {
        match self {
            RawAnyLock::Lock(lock) => lock.try_acquire().then(|| only(owner)),
            RawAnyLock::RLock(lock) => lock.try_acquire(owner),
        }
    }

    #[inline]
    fn own(self, owner: Owner) -> Hold {
        match self {
            // As is noted: whoever has found that it is its own.
            RawAnyLock::Lock(lock) => only(Owner::current(lock.0)),
            RawAnyLock::RLock(lock) => lock.own(owner),
        }
    }
}

impl Raw {
    fn lock(self) -> RawLock {
        self.lock.lock()
    }

    /// Whether one slot is both.
    fn has_own_lock(self) -> bool {
        ptr::eq(self.line.slot, self.lock().0.slot)
    }

    /// What the caller has of the lock.
    pub(super) fn hold(self) -> Result<Hold, NotOwned> {
        let owner = Owner::current(self.line);
        match self.lock {
            RawAnyLock::RLock(lock) => lock.hold_of(owner).ok_or(NotOwned),
            RawAnyLock::Lock(_) => {
                let hold = only(owner);
                self.check(hold).map(|()| hold)
            }
        }
    }

    /// Whether the lock is held still.
    pub(super) fn check(self, hold: Hold) -> Result<(), NotOwned> {
        let held = match self.lock {
            RawAnyLock::RLock(lock) => lock.is_held_in(hold),
            RawAnyLock::Lock(lock) => lock.is_held_by(hold.owner),
        };
        if held { Ok(()) } else { Err(NotOwned) }
    }

    pub(super) fn acquire_until(self, deadline: Option<Instant>) -> Option<Hold> {
        let owner = Owner::current(self.line);
        match self.lock {
            RawAnyLock::RLock(lock) => lock.acquire_until(owner, deadline),
            RawAnyLock::Lock(lock) => lock.acquire_until(deadline).then(|| only(owner)),
        }
    }

    pub(super) fn try_acquire(self) -> Option<Hold> {
        self.lock.try_acquire(Owner::current(self.line))
    }

    #[inline]
    pub(super) fn acquire_async(self) -> WaitAsync<Acquiring<RawAnyLock>> {
        Acquiring::wait(self.lock)
    }

    pub(super) fn release(self) -> Result<(), NotOwned> {
        let owner = Owner::current(self.line);
        match self.lock {
            RawAnyLock::RLock(lock) => lock.release(owner),
            RawAnyLock::Lock(lock) => release_if(lock, lock.may_be_held_by(owner)),
        }
    }

    /// What a guard does in the end.
    #[inline]
    pub(super) fn release_in(self, hold: Hold) -> Result<(), NotOwned> {
        match self.lock {
            RawAnyLock::RLock(lock) => lock.release_in(hold),
            RawAnyLock::Lock(lock) => release_if(lock, lock.is_held_by(hold.owner)),
        }
    }

    /// Gives the lock up altogether; says what is to be known when it is taken back.
    fn give_up(self, hold: Hold, guard: bool) -> Result<bool, NotOwned> {
        match self.lock {
            RawAnyLock::RLock(lock) => lock.give_up(hold, guard),
            RawAnyLock::Lock(lock) => release_if(lock, lock.is_held_by(hold.owner)).map(|()| false),
        }
    }

    /// The same under the mutex of the lock's slot, for a guard, where that is all there is to do.
    fn give_up_under(self, line: &Locked, hold: Hold) -> bool {
        match self.lock {
            RawAnyLock::RLock(lock) if self.has_own_lock() => lock.give_up_under(line, hold),
            _ => false,
        }
    }

    /// The lock was acquired again for who gave it up.
    fn take_back(self, hold: Hold, noted: bool) {
        match self.lock {
            RawAnyLock::RLock(lock) => lock.take_back(hold, noted),
            RawAnyLock::Lock(lock) => lock.note(hold.owner),
        }
    }

    /// Who gave the lock up does not want it back.
    fn forget(self, hold: Hold, noted: bool) {
        if let (RawAnyLock::RLock(lock), true) = (self.lock, noted) {
            lock.forget(hold);
        }
    }

    /// Notifies the longest waiting: they are put into the lock's line, and go on when it is released.
    pub(super) fn notify(self, count: usize) {
        self.notify_among(Locked::last_ticket, count);
    }

    /// Passes a notification on that was given among those until this ticket.
    fn pass_on(self, last: u64) {
        self.notify_among(|line| reach(line, last), 1);
    }

    /// Notifies the longest waiting of those until a ticket.
    fn notify_among(self, last: impl FnOnce(&Locked) -> u64, count: usize) {
        let mut wakes = Wakes::default();
        {
            let line = self.line.lock();
            if line.is_empty(LINE) {
                return;
            }
            let lock = self.lock();
            let other_slot = OnceCell::new();
            let lock_slot = || match self.has_own_lock() {
                true => &line,
                // Nobody takes the two the other way round.
                false => other_slot.get_or_init(|| lock.0.lock()),
            };
            let last = last(&line);
            for _ in 0..count {
                let Some((index, waiter)) = take(&line, last) else {
                    break;
                };
                // A task is told at once: by its turn the lock is most likely free, and if it is not polled for
                // long the others need not wait for it. A thread would be there too early, and stays in the
                // lock's line until then.
                if waiter.is_task() || !lock.enrol(lock_slot(), index, waiter) {
                    // Or somebody has released the lock behind the notifier's back.
                    wakes.add(waiter.tell(State::Notified));
                }
            }
        }
        wakes.wake();
    }
}

/// Of a [`Lock`](crate::Lock) there is but one at a time.
fn only(owner: Owner) -> Hold {
    Hold { owner, number: 0 }
}

fn release_if(lock: RawLock, is_held: bool) -> Result<(), NotOwned> {
    match is_held && lock.release() {
        true => Ok(()),
        false => Err(NotOwned),
    }
}

/// A wait for a notification, and then for the lock.
pub(super) struct ConditionWait<'a> {
    condition: Raw,
    /// What the guard that waits has of the lock; without one, it is the caller who waits.
    guard: Option<&'a mut Option<Hold>>,
    stage: Stage,
    /// For the lock. Its waiter is in the condition's line before.
    waiting: Waiting<RawLock>,
    /// By a notification for those who waited until this ticket was the last one.
    notified: Option<u64>,
    given_up: Option<GivenUp>,
}

/// What was given up of the lock, to be taken back in the end.
#[derive(Clone, Copy)]
struct GivenUp {
    hold: Hold,
    noted: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Start,
    /// In the condition's line, or, notified, in the lock's.
    InLine,
    /// The wait is over, and the lock is to be acquired.
    Locking,
    Done,
}

impl<'a> ConditionWait<'a> {
    pub(super) fn new(condition: Raw, guard: Option<&'a mut Option<Hold>>) -> Self {
        ConditionWait {
            condition,
            guard,
            stage: Stage::Start,
            waiting: Waiting::new(condition.lock()),
            notified: None,
            given_up: None,
        }
    }

    /// Says in the end whether there was a notification.
    fn advance(&mut self, sleeper: Sleeper<'_>) -> Poll<Result<bool, NotOwned>> {
        loop {
            match self.stage {
                Stage::Start => {
                    let begun = self.begin(sleeper);
                    return match begun {
                        Ok(()) => Poll::Pending,
                        Err(error) => {
                            self.end();
                            Poll::Ready(Err(error))
                        }
                    };
                }
                Stage::InLine => {
                    let waiter = self.waiting.waiter();
                    if let (State::Waiting, Sleeper::Task(waker)) = (waiter.state(), sleeper) {
                        // Whoever tells it something from now on finds this waker.
                        waiter.leave(waker);
                    }
                    if !waiter.state().is_told() {
                        return Poll::Pending;
                    }
                    self.lock_again();
                }
                Stage::Locking => {
                    return self.waiting.poll(sleeper).map(|()| Ok(self.done()));
                }
                Stage::Done => panic!("it is polled after the end"),
            }
        }
    }

    /// Gets in line and gives the lock up.
    fn begin(&mut self, sleeper: Sleeper<'_>) -> Result<(), NotOwned> {
        let hold = match &self.guard {
            Some(hold) => hold.ok_or(NotOwned)?,
            None => self.condition.hold()?,
        };
        let guard = self.guard.is_some();
        let waiter = Waiter::claim();
        waiter.prepare(sleeper);
        let released = {
            let line = self.condition.line.lock();
            line.stamp(waiter.node);
            line.push(LINE, waiter.index, waiter.node, false);
            guard && self.condition.give_up_under(&line, hold)
        };
        self.waiting.adopt(waiter);
        self.stage = Stage::InLine;
        let noted = match released {
            true => false,
            // If it is not there to be given up any more, what the wait was told goes to another.
            false => self.condition.give_up(hold, guard)?,
        };
        self.given_up = Some(GivenUp { hold, noted });
        if let Some(hold) = &mut self.guard {
            **hold = None;
        }
        Ok(())
    }

    /// It was notified: its waiter is in the lock's line, or was told of the lock.
    fn lock_again(&mut self) {
        self.notified = Some(notified_with(self.waiting.waiter().node));
        self.stage = Stage::Locking;
    }

    /// Takes the waiter out of the condition's line, unless it was notified, and is in the lock's by now or was told.
    fn leave_line(&mut self) {
        let waiter = self.waiting.waiter();
        let line = self.condition.line.lock();
        // Under this mutex nobody notifies it.
        if !line.has(waiter.node) || waiter.node.list().list as usize != LINE {
            drop(line);
            return self.lock_again();
        }
        line.unlink(LINE, waiter.node);
        waiter.retire();
        drop(line);
        self.stage = Stage::Locking;
        self.waiting.let_go();
    }

    fn done(&mut self) -> bool {
        self.stage = Stage::Done;
        if let Some(GivenUp { hold, noted }) = self.given_up.take() {
            self.condition.take_back(hold, noted);
            if let Some(guard) = &mut self.guard {
                **guard = Some(hold);
            }
        }
        self.notified.is_some()
    }

    /// Before it is over: the lock stays given up, and a notification is passed on.
    fn end(&mut self) {
        if let Some(GivenUp { hold, noted }) = self.given_up.take() {
            self.condition.forget(hold, noted);
        }
        if self.stage == Stage::InLine {
            self.leave_line();
        }
        self.stage = Stage::Done;
        // A process killed here has it passed on twice, which does no harm.
        if let Some(last) = self.notified {
            self.condition.pass_on(last);
        }
        self.waiting.end();
    }

    pub(super) fn block(mut self, deadline: Option<Instant>) -> Result<bool, NotOwned> {
        loop {
            if let Poll::Ready(notified) = self.advance(Sleeper::Thread) {
                return notified;
            }
            match self.stage {
                Stage::InLine => {
                    if !self.waiting.waiter().sleep(deadline) {
                        self.leave_line();
                    }
                }
                Stage::Locking => {
                    self.waiting.block(None);
                    return Ok(self.done());
                }
                Stage::Start | Stage::Done => {}
            }
        }
    }
}

impl Future for ConditionWait<'_> {
    type Output = Result<(), NotOwned>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let waited = self.advance(Sleeper::Task(context.waker()));
        waited.map_ok(drop)
    }
}

impl Drop for ConditionWait<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.stage != Stage::Done {
            self.end();
        }
    }
}
