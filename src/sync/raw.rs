//! The lock word, which Lock, RLock and the Condition over either share.
//!
//! A free lock is taken by one compare-and-swap and given back by another. A bit in the word says that
//! somebody waits. That bit is set and cleared under the slot's mutex only, and a lock that somebody waits for is
//! given back under it. Whoever comes by may take a free lock, also ahead of those who wait
//! (a thread that runs makes better use of it), but a waiter that was woken in vain too often is given
//! the lock itself.

use std::time::Instant;

use crate::{
    arena::{
        arena,
        node::{Node, State, Wakes, Woken},
        reaper::Dead,
        slot::{Locked, MARK_BITS, SlotRef, mark_of},
        wait::{Miss, Resource, WaitAsync, Waiting},
    },
    look::{Looker, look},
    shim::Ordering,
    sync::owner::Owner,
};

/// The word: the [mark](mark_of) of the process that has the lock, and above it flags.
const WORD: usize = 0;
const HELD: u64 = (1 << MARK_BITS) - 1;
const WAITED_FOR: u64 = 1 << MARK_BITS;
/// The lock has a condition, so whoever acquires it is noted as its holder. Set under the slot's mutex, and for good.
const NOTES: u64 = WAITED_FOR << 1;
/// Who holds the lock has been noted, or is just about to be.
const NOTED: u64 = NOTES << 1;

/// Who holds a lock with [`NOTES`]; zero if nobody does, or if that is just about to be noted. Only written by whoever
/// has the lock: Relaxed.
const HOLDER: usize = 1;

/// While the lock is being given to a waiter: the number of its node. Written under the slot's mutex.
const HANDING: usize = 3;

/// The list of waiters.
const LINE: usize = 0;

/// A slot as a lock.
#[derive(Clone, Copy)]
pub(super) struct RawLock(pub(super) SlotRef);

/// Whether it is the word of a lock that the process holds, whoever waits for it.
fn is_held_by(process: u16, word: u64) -> bool {
    word & HELD == mark_of(process)
}

impl RawLock {
    #[inline]
    fn word(&self) -> &crate::shim::AtomicU64 {
        &self.0.slot.words[WORD]
    }

    /// The word of a lock that this process holds and nobody waits for.
    #[inline]
    fn held(self) -> u64 {
        self.0.mark()
    }

    fn holder(&self) -> &crate::shim::AtomicU64 {
        &self.0.slot.words[HOLDER]
    }

    /// From now on it is noted who acquires it.
    pub(super) fn take_notes(self) {
        let _slot = self.0.lock();
        self.word().fetch_or(NOTES, Ordering::Relaxed);
    }

    /// Notes who has the lock, until it is released.
    pub(super) fn note(self, owner: Owner) {
        self.holder().store(owner.number(), Ordering::Relaxed);
    }

    /// Who holds the lock whose word was this, if it was noted.
    fn noted_in(self, word: u64) -> Option<u64> {
        // Nobody is found here who had the lock before: the word was read with Acquire.
        (word & NOTED != 0).then(|| self.holder().load(Ordering::Relaxed))
    }

    /// Whether it was noted that this one holds the lock.
    pub(super) fn is_held_by(self, owner: Owner) -> bool {
        self.noted_in(self.word().load(Ordering::Acquire)) == Some(owner.number())
    }

    /// Whether this one holds the lock as far as one can tell: the lock is held, and it was not noted that another one
    /// holds it.
    pub(super) fn may_be_held_by(self, owner: Owner) -> bool {
        let word = self.word().load(Ordering::Acquire);
        let noted = self.noted_in(word);
        word & HELD != 0 && noted.is_none_or(|noted| noted == owner.number())
    }

    /// The word of the lock, whose word is this, once it is free; the lock is about to be.
    fn freed(self, word: u64, waited_for: u64) -> u64 {
        if word & NOTED != 0 {
            self.holder().store(0, Ordering::Relaxed);
        }
        word & NOTES | waited_for
    }

    /// The word of a lock once the process with this mark has taken it; before, it is this.
    fn taken(word: u64, mark: u64) -> u64 {
        let noted = match word & NOTES {
            0 => 0,
            _ => NOTES | NOTED,
        };
        mark | noted | word & WAITED_FOR
    }

    /// The lock is the caller's now.
    fn sign(self, word: u64) {
        if word & NOTED != 0 {
            self.note(Owner::current(self.0));
        }
    }

    fn handing(&self) -> &crate::shim::AtomicU64 {
        &self.0.slot.words[HANDING]
    }

    #[inline]
    pub(super) fn try_acquire(self) -> bool {
        // Acquire: what was done under the lock before is seen.
        match self
            .word()
            .compare_exchange(0, self.held(), Ordering::Acquire, Ordering::Relaxed)
        {
            Ok(_) => true,
            Err(word) => self.try_take(word),
        }
    }

    /// The same, where others wait, somebody is faster, or it is to be noted.
    #[cold]
    fn try_take(self, mut word: u64) -> bool {
        while word & HELD == 0 {
            let taken = Self::taken(word, self.0.mark());
            match self.word().compare_exchange_weak(
                word,
                taken,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => {
                    self.sign(taken);
                    return true;
                }
                Err(now) => word = now,
            }
        }
        false
    }

    #[inline]
    pub(super) fn acquire(self) {
        if !self.try_acquire() {
            self.wait();
        }
    }

    #[cold]
    fn wait(self) {
        Waiting::new(self).block(None);
    }

    pub(super) fn acquire_until(self, deadline: Option<Instant>) -> bool {
        self.try_acquire() || Waiting::new(self).block(deadline).is_some()
    }

    #[inline]
    pub(super) fn acquire_async(self) -> WaitAsync<RawLock> {
        WaitAsync::new(self)
    }

    /// Gives it back; `false` if nobody has it.
    #[inline]
    pub(super) fn release(self) -> bool {
        // Mostly it is this process that has it. Release: who takes it next sees what was done.
        self.word()
            .compare_exchange(self.held(), 0, Ordering::Release, Ordering::Relaxed)
            .is_ok()
            || self.release_slow()
    }

    /// The same for who has a re-entrant lock, and its mutex; `false` if somebody waits for it. Only who has one of the
    /// two changes the word of such a lock while it is held, so no exchange is needed. Others anybody may release.
    #[inline]
    pub(super) fn release_under(self, _slot: &Locked, before: impl FnOnce()) -> bool {
        let is_mine = self.word().load(Ordering::Relaxed) == self.held();
        if is_mine {
            before();
            // Release: as above.
            self.word().store(0, Ordering::Release);
        }
        is_mine
    }

    #[cold]
    fn release_slow(self) -> bool {
        let mut word = self.word().load(Ordering::Relaxed);
        // Nobody waits, and it was acquired by another process, or that was noted.
        while word & WAITED_FOR == 0 {
            if word & HELD == 0 {
                return false;
            }
            match self.word().compare_exchange_weak(
                word,
                self.freed(word, 0),
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => word = now,
            }
        }
        self.give_back(&|word| word & HELD != 0)
    }

    /// Gives the lock to the next, if the word is as it must be.
    fn give_back(self, is_expected: &dyn Fn(u64) -> bool) -> bool {
        let slot = self.0.lock();
        // While it is held and the mutex is ours, at most the fast path above changes the word.
        loop {
            let word = self.word().load(Ordering::Relaxed);
            if !is_expected(word) {
                return false;
            }
            if word & WAITED_FOR != 0 {
                break;
            }
            let freed = self.word().compare_exchange(
                word,
                self.freed(word, 0),
                Ordering::Release,
                Ordering::Relaxed,
            );
            if freed.is_ok() {
                return true;
            }
        }
        let woken = self.hand_on(&slot);
        drop(slot);
        woken.wake();
        true
    }

    /// The lock, which is held, goes to a starved waiter, or is freed and somebody is told.
    fn hand_on(self, slot: &Locked) -> Woken {
        let next = slot.take(LINE);
        let waited_for = match slot.is_empty(LINE) {
            true => 0,
            false => WAITED_FOR,
        };
        // While it is held, waited for, and the mutex is ours, nobody else changes the word.
        let freed = self.freed(self.word().load(Ordering::Relaxed), waited_for);
        // The word before the message, since who is told looks at once. Release: who has the lock next
        // sees what was done under it.
        let free = || self.word().store(freed, Ordering::Release);
        match next {
            Some((index, next)) if next.is_starved() => {
                self.handing().store(u64::from(index), Ordering::Release);
                let taken = Self::taken(freed, mark_of(next.owner()));
                self.word().store(taken, Ordering::Release);
                let woken = next.tell(State::Handed);
                self.handing().store(0, Ordering::Release);
                woken
            }
            Some((_, next)) => {
                free();
                next.tell(State::Notified)
            }
            None => {
                free();
                Woken::Nobody
            }
        }
    }

    /// Tells somebody to look, since the one who was told is gone.
    fn tell_another(self) {
        let slot = self.0.lock();
        // Who has the lock will tell somebody.
        let woken = match self.word().load(Ordering::Relaxed) {
            word if word & HELD == 0 => slot.pop(LINE, State::Notified).unwrap_or(Woken::Nobody),
            _ => Woken::Nobody,
        };
        self.tidy(&slot);
        drop(slot);
        woken.wake();
    }

    /// Nobody waits any more, perhaps.
    pub(super) fn tidy(self, slot: &Locked) {
        if slot.is_empty(LINE) {
            self.word().fetch_and(!WAITED_FOR, Ordering::Relaxed);
        }
    }

    /// How many wait for it at this moment.
    pub(super) fn waiters(self) -> u32 {
        self.0.waiters(LINE)
    }

    #[inline]
    pub(super) fn is_held(self) -> bool {
        self.word().load(Ordering::Relaxed) & HELD != 0
    }

    /// Puts a waiter of another list into the line, if the lock is held: who gives it back will tell it.
    pub(super) fn enrol(self, slot: &Locked, index: u32, waiter: &'static Node) -> bool {
        let joined = self.join(|_| None::<()>);
        if joined.is_some() {
            return false;
        }
        slot.push(LINE, index, waiter, false);
        true
    }

    /// Under the mutex: marks a held lock as waited for, or does something with a free one.
    fn join<T>(self, mut free: impl FnMut(u64) -> Option<T>) -> Option<Option<T>> {
        loop {
            let word = self.word().load(Ordering::Relaxed);
            if word & HELD == 0 {
                return Some(free(word));
            }
            let waited_for = word | WAITED_FOR;
            let marked = self.word().compare_exchange(
                word,
                waited_for,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            if marked.is_ok() {
                return None;
            }
        }
    }

    /// Who had the mutex is gone: the lock may have been given back without anybody being told.
    pub(super) fn repair(self, slot: &Locked, wakes: &mut Wakes) {
        let handing = self.handing().swap(0, Ordering::Acquire) as u32;
        let was_not_told = |waiter: &Node| slot.has(waiter);
        if arena().waiters.get(handing).is_some_and(was_not_told) {
            // It was to have the lock, and does not know: nobody has it.
            let word = self.word().load(Ordering::Relaxed);
            self.word()
                .store(self.freed(word, WAITED_FOR), Ordering::Release);
        }
        slot.pop_all(LINE, wakes, 0);
        self.tidy(slot);
    }

    /// A process is gone that may have had the lock. If it crashed, the lock is given back; if it has ended by itself,
    /// the lock stays held, for somebody else to release. Says whether it was given back.
    pub(super) fn inherit(self, dead: Dead, before: impl FnOnce()) -> bool {
        let is_its = |word| is_held_by(dead.process, word);
        // Acquire: what was done under the lock before the dead one had it is seen, and so by who has it next.
        if !is_its(self.word().load(Ordering::Acquire)) {
            return false;
        }
        before();
        loop {
            let word = self.word().load(Ordering::Acquire);
            if !is_its(word) {
                return false;
            }
            if dead.crashed {
                return self.give_back(&is_its);
            }
            // Nobody is known to hold it then.
            let orphaned = mark_of(0) | word & (WAITED_FOR | NOTES);
            let left =
                self.word()
                    .compare_exchange(word, orphaned, Ordering::Relaxed, Ordering::Relaxed);
            if left.is_ok() {
                return false;
            }
        }
    }

    /// Passes on what a waiter of a dead process was told.
    pub(super) fn bequeath(self, message: State, process: u16) {
        match message {
            // It did not come to know of it: the process has not acquired the lock, however it ended.
            State::Handed => {
                self.give_back(&|word| is_held_by(process, word));
            }
            _ => self.tell_another(),
        }
    }
}

impl Resource for RawLock {
    type Output = ();

    const CONTENDED: bool = true;
    const CONTENDED_BY_TASKS: Option<Looker> = Some(Looker::LockPolled);

    fn slot(&self) -> SlotRef {
        self.0
    }

    #[inline]
    fn attempt(&mut self) -> Option<()> {
        self.try_acquire().then_some(())
    }

    fn attempt_again(&mut self) -> Option<()> {
        // Only a look, while it is taken.
        (!self.is_held() && self.try_acquire()).then_some(())
    }

    fn look(&mut self) -> Option<()> {
        look(Looker::Lock, || self.attempt_again())
    }

    fn attempt_or_join(&mut self, _slot: &Locked) -> Result<(), Miss> {
        loop {
            match self.join(|word| self.try_take(word).then_some(())) {
                Some(Some(())) => return Ok(()),
                Some(None) => {}
                None => return Err(Miss::Join(LINE)),
            }
        }
    }

    /// What was done under the lock before came with the message.
    fn handed(&mut self) -> Option<()> {
        self.sign(self.word().load(Ordering::Relaxed));
        Some(())
    }

    fn left(&mut self, slot: &Locked, _list: usize) {
        self.tidy(slot);
    }

    fn pass_on(&mut self, message: State, _outcome: u32) {
        match message {
            State::Handed => {
                self.release();
            }
            _ => self.tell_another(),
        }
    }
}
