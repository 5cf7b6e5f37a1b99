//! The event count: how a thread or a task waits for a primitive, and is woken by any process.
//!
//! Who waits has a node in the arena, which is in one of the slot's lists or, once it was told
//! something, in none. A thread sleeps on its own node, so that a wake-up reaches whom it is for. A task
//! leaves its waker in its process; another process rings that process's bell (see [`super::bell`]).

use std::{
    ops::Deref,
    task::Waker,
    time::{Duration, Instant},
};

use super::{
    arena, bell,
    look::{Looker, give_way_once, look},
    me,
    pool::{Tag, Unit},
    slot::ListId,
};
use crate::{
    deadline,
    shim::{AtomicU32, AtomicU64, Futex, Ordering, Scope, fence},
    unwind,
};

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
    fn of(state: u32) -> State {
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
    state: Futex,
    /// Where its process keeps its waker, plus one; zero for a thread.
    local: AtomicU32,
    /// The list that it is in. Once it was told something, the list that it was in, until its process has taken note.
    pub(super) list: AtomicU64,
    pub(super) next: AtomicU32,
    pub(super) previous: AtomicU32,
    /// When it came, among those of its slot.
    pub(crate) ticket: AtomicU64,
    /// More about what it was told; what it means is the primitive's to say.
    outcome: AtomicU32,
    /// It was woken in vain often enough.
    starved: AtomicU32,
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

/// What waiters' tags say that they are.
pub(super) const WAITER: u16 = 1;

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

    pub(crate) fn list(&self) -> ListId {
        ListId::unpack(self.list.load(Ordering::Relaxed))
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
    /// A task of this process, by its place.
    Task(u64),
    /// A task of another process: its place, and above it the process.
    Elsewhere(u64),
}

impl Woken {
    fn task(process: u16, local: u32) -> Woken {
        let local = u64::from(local);
        match process == me() {
            true => Woken::Task(local),
            false => Woken::Elsewhere(u64::from(process) << 32 | local),
        }
    }

    #[inline]
    pub(crate) fn wake(self) {
        match self {
            Woken::Nobody => {}
            Woken::Sleeper(futex) => futex.wake(Scope::Everywhere),
            Woken::Dozer(futex) => futex.wake(Scope::Here),
            Woken::Task(local) => wake_task(local as u32),
            Woken::Elsewhere(task) => bell::ring((task >> 32) as u16, task as u32),
        }
    }
}

/// Those who are to be woken by one notification; mostly that is one.
#[derive(Default)]
pub(crate) struct Wakes {
    first: Option<Woken>,
    others: Vec<Woken>,
}

impl Wakes {
    pub(crate) fn add(&mut self, woken: Woken) {
        match self.first {
            None => self.first = Some(woken),
            Some(_) => self.others.push(woken),
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
            for woken in self.others.drain(..) {
                woken.wake();
            }
        }
    }
}

/// Where a task of this process leaves its waker.
#[cfg(not(freethreading_loom))]
pub(super) type Local = crate::spin::SpinLock<Option<Waker>>;
#[cfg(freethreading_loom)]
pub(super) type Local = crate::shim::Mutex<Option<Waker>>;

/// Wakes the task that has left its waker there, if there is one.
pub(super) fn wake_task(local: u32) {
    let Some(place) = arena().locals.get(local as usize) else {
        return;
    };
    let waker = place.lock().take();
    if let Some(waker) = waker {
        unwind::contain(|| waker.wake());
    }
}

/// A node that is this process's, with all that belongs to it. It is kept for whoever waits next; a
/// reference to it is what is moved.
pub(crate) struct Seat {
    pub(crate) index: u32,
    pub(crate) node: &'static Node,
    /// The number of the place where the waiter leaves its waker, and the place itself.
    local: u32,
    place: &'static Local,
}

/// A node in use.
pub(crate) struct Waiter(&'static Seat);

impl Deref for Waiter {
    type Target = Seat;

    #[inline]
    fn deref(&self) -> &Seat {
        self.0
    }
}

/// Who waits: the thread that calls, or the task with this waker.
#[derive(Clone, Copy)]
pub(crate) enum Sleeper<'a> {
    Thread,
    Task(&'a Waker),
}

impl Seat {
    #[cold]
    fn make() -> &'static Seat {
        let arena = arena();
        let (index, node) = arena
            .waiters
            .claim(me(), WAITER)
            .unwrap_or_else(|error| panic!("no memory to wait in: {error}"));
        let local = arena.locals.push(Local::new(None));
        Box::leak(Box::new(Seat {
            index,
            node,
            local: local as u32,
            place: arena.locals.get(local).expect("it was just pushed"),
        }))
    }
}

impl Waiter {
    /// # Panics
    ///
    /// If the system has no memory for one more.
    #[inline]
    pub(crate) fn claim() -> Waiter {
        Waiter(seats::take().unwrap_or_else(Seat::make))
    }

    /// Before it is put into a list.
    #[inline]
    pub(crate) fn prepare(&self, sleeper: Sleeper<'_>) {
        let local = match sleeper {
            Sleeper::Thread => 0,
            Sleeper::Task(waker) => {
                bell::attend(waker);
                // Cloning and dropping a waker is code of a user: not under the lock.
                let new = waker.clone();
                let old = self.place.lock().replace(new);
                drop(old);
                self.local + 1
            }
        };
        // Relaxed: it is in no list, and the mutex under which it is put into one orders these.
        self.node.local.store(local, Ordering::Relaxed);
        self.node.outcome.store(0, Ordering::Relaxed);
        self.node.starved.store(0, Ordering::Relaxed);
        // Release: who finds that it waits finds that it has left the list that it was in before.
        self.node
            .state
            .store(State::Waiting as u32, Ordering::Release);
    }

    pub(super) fn set_starved(&self) {
        self.node.starved.store(1, Ordering::Relaxed);
    }

    /// From now on this waker is woken.
    pub(crate) fn leave(&self, waker: &Waker) {
        bell::attend(waker);
        {
            let left = self.place.lock();
            if left.as_ref().is_some_and(|left| left.will_wake(waker)) {
                return;
            }
        }
        // Cloning and dropping a waker is code of a user: not under the lock.
        let new = waker.clone();
        let old = self.place.lock().replace(new);
        drop(old);
    }

    /// Takes the waker back.
    fn clear(&self) {
        if self.node.local.load(Ordering::Relaxed) != 0 {
            let waker = self.place.lock().take();
            drop(waker);
        }
    }

    pub(crate) fn state(&self) -> State {
        self.node.state()
    }

    /// The waiter has taken note of what it was told, or has left its list. If the process is killed before that,
    /// somebody else is told instead. So call it once what the waiter was told of is its own, or is gone.
    pub(crate) fn retire(&self) {
        // Release: nothing that was done before is done later.
        self.node.list.store(0, Ordering::Release);
    }

    pub(crate) fn outcome(&self) -> u32 {
        self.node.outcome.load(Ordering::Relaxed)
    }

    /// Looks, gives way to other threads once, and sleeps until the waiter was told something: `false` if the time was
    /// up before. [`state`](Waiter::state) says what it was told, and synchronises with who told it: Relaxed here.
    pub(crate) fn sleep(&self, deadline: Option<Instant>) -> bool {
        let state = &self.node.state;
        let is_told = || State::of(state.load(Ordering::Relaxed)).is_told();
        if look(Looker::Waiter, || is_told().then_some(())).is_some()
            || give_way_once(Looker::WaiterYielding, is_told)
        {
            return true;
        }
        loop {
            let shared = is_shared();
            let (asleep, scope) = match shared {
                true => (State::Sleeping, Scope::Everywhere),
                false => (State::Dozing, Scope::Here),
            };
            match self.node.turn(State::Waiting, asleep) {
                Ok(()) => {}
                Err(state) if state == asleep => {}
                Err(state) if state.is_told() => return true,
                // Others have got the arena meanwhile.
                Err(state) => {
                    let _ = self.node.turn(state, State::Waiting);
                    continue;
                }
            }
            if !shared {
                // With the fence in `share`: either this sees that others have the arena now, or they are
                // not given it before this one was roused.
                fence(Ordering::SeqCst);
                if is_shared() {
                    continue;
                }
            }
            let left = deadline::left(deadline);
            if left == Some(Duration::ZERO) {
                return is_told();
            }
            state.wait(asleep as u32, left, scope);
        }
    }
}

impl Node {
    /// Changes the state from one to another, or says what it is. Relaxed: nothing is passed on with it.
    fn turn(&self, from: State, to: State) -> Result<(), State> {
        self.state
            .compare_exchange(from as u32, to as u32, Ordering::Relaxed, Ordering::Relaxed)
            .map(drop)
            .map_err(State::of)
    }
}

/// Whether other processes have the arena, or may have it at any time.
fn is_shared() -> bool {
    arena().shared.load(Ordering::Relaxed)
}

/// Other processes will have the arena: threads of this one that sleep must do so where those can wake them.
pub(super) fn rouse_dozing() {
    for (_, node, tag) in arena().waiters.used() {
        if tag.owner == me() && node.turn(State::Dozing, State::Waiting).is_ok() {
            node.state.wake(Scope::Here);
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        // Who was told something is woken by who told it, which takes the waker.
        if !self.state().is_told() {
            self.clear();
        }
        self.retire();
        self.node.notified_by.store(0, Ordering::Release);
        seats::give(self.0);
    }
}

/// The process's nodes that nobody uses now: each thread keeps one for itself.
#[cfg(not(freethreading_loom))]
mod seats {
    use std::cell::Cell;

    use super::{Seat, arena};

    struct Own(Cell<Option<&'static Seat>>);

    impl Drop for Own {
        fn drop(&mut self) {
            if let Some(seat) = self.0.take() {
                arena().idle.lock().push(seat);
            }
        }
    }

    thread_local! {
        static OWN: Own = const { Own(Cell::new(None)) };
    }

    pub(super) fn take() -> Option<&'static Seat> {
        // Thread-locals are gone while a thread ends.
        let own = OWN.try_with(|own| own.0.take()).ok().flatten();
        own.or_else(|| arena().idle.lock().pop())
    }

    pub(super) fn give(seat: &'static Seat) {
        let spare = OWN.try_with(|own| own.0.replace(Some(seat)));
        if let Some(spare) = spare.unwrap_or(Some(seat)) {
            arena().idle.lock().push(spare);
        }
    }
}

/// The models have no thread-locals.
#[cfg(freethreading_loom)]
mod seats {
    use super::{Seat, arena};

    pub(super) fn take() -> Option<&'static Seat> {
        arena().idle.lock().pop()
    }

    pub(super) fn give(seat: &'static Seat) {
        arena().idle.lock().push(seat);
    }
}
