//! What others know of a waiter, and how they tell it something and wake it.

use smallvec::SmallVec;

use super::{
    bell, me,
    pool::{Tag, Unit},
    slot::ListId,
    waiter::wake_task,
};
use crate::shim::{AtomicU32, AtomicU64, Futex, Ordering, Scope};

/// What a waiter knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum State {
    /// Nothing yet, and it will look by itself.
    Waiting = 0,
    /// Nothing yet, and it sleeps.
    Sleeping,
    /// The same, and only its own process can wake it: no other one has the arena yet.
    Dozing,
    /// What it waits for has happened or may be had: it is in no list any more.
    Notified,
    /// What it waits for is its own: it is in no list any more.
    Handed,
}

impl State {
    pub(super) fn of(state: u32) -> State {
        match state {
            0 => State::Waiting,
            1 => State::Sleeping,
            2 => State::Dozing,
            4 => State::Handed,
            // A number that is none must not leave anybody asleep.
            _ => State::Notified,
        }
    }

    /// Whether it was told something.
    pub(crate) fn is_told(self) -> bool {
        matches!(self, State::Notified | State::Handed)
    }
}

/// What others know of a waiter; a cache line.
#[derive(Default)]
#[repr(C, align(64))]
pub(crate) struct Node {
    tag: AtomicU64,
    pub(super) state: Futex,
    /// Where its process keeps its waker, plus one; zero for a thread.
    pub(super) local: AtomicU32,
    /// The list that it is in. Once it was told something, the list that it was in, until its process has taken note.
    pub(super) list: AtomicU64,
    pub(super) next: AtomicU32,
    pub(super) previous: AtomicU32,
    /// When it came, among those of its slot.
    pub(crate) ticket: AtomicU64,
    /// More about what it was told; what it means is the primitive's to say.
    pub(super) outcome: AtomicU32,
    /// It was woken in vain often enough.
    pub(super) starved: AtomicU32,
    /// The condition that has notified it, until its wait is over.
    pub(crate) notified_by: AtomicU64,
    /// The last ticket of those who waited for that condition at that moment.
    pub(crate) notified_with: AtomicU64,
}

impl Unit for Node {
    fn tag(&self) -> &AtomicU64 {
        &self.tag
    }

    // Relaxed: freeing the unit publishes it.
    fn reset(&self) {
        self.state.store(State::Notified as u32, Ordering::Relaxed);
        self.local.store(0, Ordering::Relaxed);
        self.list.store(0, Ordering::Relaxed);
        self.notified_by.store(0, Ordering::Relaxed);
    }

    #[cfg(freethreading_loom)]
    fn new() -> Self {
        Node::default()
    }
}

impl Node {
    /// Tells the waiter something; it has to be woken afterwards.
    #[inline]
    pub(crate) fn tell(&'static self, message: State) -> Woken {
        let owner = self.owner();
        let local = self.local.load(Ordering::Relaxed);
        // Release, in both: the waiter sees what it was told of. From here on the node may be used
        // for something else, by its process; a wake-up that comes late does no harm.
        if local != 0 {
            self.state.store(message as u32, Ordering::Release);
            return Woken::task(owner, local - 1);
        }
        match State::of(self.state.swap(message as u32, Ordering::Release)) {
            State::Sleeping => Woken::Sleeper(&self.state),
            State::Dozing => Woken::Dozer(&self.state),
            _ => Woken::Nobody,
        }
    }

    /// Whom to wake if the waiter was told something, but perhaps not woken.
    pub(super) fn reminder(&'static self) -> Woken {
        let local = self.local.load(Ordering::Relaxed);
        match self.state() {
            state if !state.is_told() => Woken::Nobody,
            // It has taken note.
            _ if self.list.load(Ordering::Relaxed) == 0 => Woken::Nobody,
            // By a process that is gone: there were several, so it does not doze.
            _ if local == 0 => Woken::Sleeper(&self.state),
            _ => Woken::task(self.owner(), local - 1),
        }
    }

    pub(crate) fn state(&self) -> State {
        // Acquire: pairs with `tell`.
        State::of(self.state.load(Ordering::Acquire))
    }

    /// Whether it is a task.
    pub(crate) fn is_task(&self) -> bool {
        self.local.load(Ordering::Relaxed) != 0
    }

    pub(crate) fn is_starved(&self) -> bool {
        self.starved.load(Ordering::Relaxed) != 0
    }

    /// The index of its process.
    pub(crate) fn owner(&self) -> u16 {
        Tag::unpack(self.tag.load(Ordering::Relaxed)).owner
    }

    /// Says more to a waiter, before it is told; it must be in a list of a slot that is locked.
    pub(crate) fn set_outcome(&self, outcome: u32) {
        self.outcome.store(outcome, Ordering::Relaxed);
    }

    pub(crate) fn outcome(&self) -> u32 {
        self.outcome.load(Ordering::Relaxed)
    }

    pub(crate) fn list(&self) -> ListId {
        ListId::unpack(self.list.load(Ordering::Relaxed))
    }

    /// Changes the state from one to another, or says what it is. Relaxed: nothing is passed on with it.
    pub(super) fn turn(&self, from: State, to: State) -> Result<(), State> {
        self.state
            .compare_exchange(from as u32, to as u32, Ordering::Relaxed, Ordering::Relaxed)
            .map(drop)
            .map_err(State::of)
    }
}

/// Somebody who was told something and is to be woken, once no lock is held.
///
/// Each kind has one number, so that it is passed in two registers: written to memory and read at once, it
/// would take longer than all that is done with it.
#[must_use]
#[derive(Clone, Copy)]
pub(crate) enum Woken {
    /// It will look by itself.
    Nobody,
    /// A thread that sleeps.
    Sleeper(&'static Futex),
    /// A thread that only this process can wake.
    Dozer(&'static Futex),
    /// A task: its place, and above it the process whose it is.
    Task(u64),
}

impl Woken {
    fn task(process: u16, local: u32) -> Woken {
        Woken::Task(u64::from(process) << 32 | u64::from(local))
    }

    #[inline]
    pub(crate) fn wake(self) {
        // A task of this process takes the least time, and is looked for first.
        match self {
            Woken::Task(task) if (task >> 32) as u16 == me() => wake_task(task as u32),
            _ => self.wake_by_system(),
        }
    }

    #[inline(never)]
    fn wake_by_system(self) {
        match self {
            Woken::Nobody => {}
            Woken::Sleeper(futex) => futex.wake(Scope::Everywhere),
            Woken::Dozer(futex) => futex.wake(Scope::Here),
            Woken::Task(task) => bell::ring((task >> 32) as u16, task as u32),
        }
    }
}

/// Those who are to be woken by one notification; mostly that is one.
#[derive(Default)]
pub(crate) struct Wakes {
    first: Option<Woken>,
    others: Option<SmallVec<[Woken; 3]>>,
}

impl Wakes {
    pub(crate) fn add(&mut self, woken: Woken) {
        match self.first {
            None => self.first = Some(woken),
            Some(_) => self.others.get_or_insert_default().push(woken),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub(crate) fn extend(&mut self, woken: Option<Woken>) {
        if let Some(woken) = woken {
            self.add(woken);
        }
    }

    #[inline]
    pub(crate) fn wake(&mut self) {
        if let Some(first) = self.first.take() {
            first.wake();
            if let Some(others) = &mut self.others {
                wake_others(others);
            }
        }
    }
}

#[inline(never)]
fn wake_others(others: &mut SmallVec<[Woken; 3]>) {
    for woken in others.drain(..) {
        woken.wake();
    }
}
