//! The event count: how a thread or a task waits for a primitive, and is woken by any process.
//!
//! Who waits has a [node](super::node) in the arena, which is in one of the slot's lists or, once it was told
//! something, in none. A thread sleeps on its own node, so that a wake-up reaches whom it is for. A task
//! leaves its waker in its process; another process rings that process's bell (see [`super::bell`]).

use std::{
    mem::ManuallyDrop,
    ops::Deref,
    task::Waker,
    time::{Duration, Instant},
};

use super::{
    arena, bell, me,
    node::{Node, State},
    patience::Patience,
    waker::WakerCell,
};
use crate::{
    deadline,
    look::{Looker, give_way_once, look},
    shim::{Ordering, Scope, fence},
    unwind, wakers,
};

/// What waiters' tags say that they are.
const WAITER: u16 = 1;

/// Where waiters of this process that are tasks leave their wakers, one after the other, and what else a waiter has for
/// itself.
pub(super) struct Place {
    waker: WakerCell,
    patience: Patience,
    /// What others know of who waits here.
    node: &'static Node,
}

impl Place {
    pub(super) fn new(node: &'static Node) -> Self {
        Place {
            waker: WakerCell::new(),
            patience: Patience::default(),
            node,
        }
    }
}

/// Wakes the task that has left its waker there, if there is one.
#[inline]
pub(super) fn wake_task(local: u32) {
    let Some(place) = arena().locals.get(local as usize) else {
        return;
    };
    // Who comes late may find another one here, who was told nothing. Relaxed: whoever comes has told it, or has heard
    // from who did.
    let state = State::of(place.node.state.load(Ordering::Relaxed));
    if state.is_told()
        && let Some(waker) = place.waker.take()
    {
        wakers::wake(waker);
    }
}

/// A node that is this process's, with all that belongs to it. It is kept for whoever waits next; a
/// reference to it is what is moved.
pub(crate) struct Seat {
    pub(crate) index: u32,
    pub(crate) node: &'static Node,
    place: &'static Place,
    /// The number of that place in this process.
    local: u32,
}

/// A node in use.
pub(crate) struct Waiter(pub(super) &'static Seat);

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
    pub(super) fn make() -> &'static Seat {
        let arena = arena();
        let (index, node) = arena
            .waiters
            .claim(me(), WAITER)
            .unwrap_or_else(|error| panic!("no memory to wait in: {error}"));
        let local = arena.locals.push(Place::new(node));
        let place = arena.locals.get(local).expect("it was just pushed");
        Box::leak(Box::new(Seat {
            index,
            node,
            place,
            local: local as u32,
        }))
    }
}

impl Waiter {
    /// # Panics
    ///
    /// If the system has no memory for one more.
    #[inline]
    pub(crate) fn claim() -> Waiter {
        let waiter = Waiter(seats::take().unwrap_or_else(Seat::make));
        waiter.patience().renew();
        waiter
    }

    /// Before it is put into a list.
    #[inline]
    pub(crate) fn prepare(&self, sleeper: Sleeper<'_>) {
        let local = match sleeper {
            Sleeper::Thread => 0,
            Sleeper::Task(waker) => {
                bell::attend(waker);
                self.place.waker.fill(waker.clone());
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

    #[inline]
    pub(super) fn patience(&self) -> &'static Patience {
        &self.place.patience
    }

    pub(super) fn set_starved(&self) {
        self.node.starved.store(1, Ordering::Relaxed);
    }

    /// From now on this waker is woken; it is not kept if the waiter was told something before.
    pub(crate) fn leave(&self, waker: &Waker) {
        bell::attend(waker);
        self.place.waker.replace(waker);
        if self.state().is_told() {
            // Who told it may have looked for a waker already.
            self.clear();
        }
    }

    /// Takes the waker back.
    #[cold]
    fn clear(&self) {
        if self.node.local.load(Ordering::Relaxed) != 0 {
            // What it does must not keep the waiter from what it has come to have.
            unwind::discard(self.place.waker.take());
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

    /// What dropping it does, compiled into the caller.
    #[inline]
    pub(crate) fn give_back(self) {
        let waiter = ManuallyDrop::new(self);
        // Who was told something is woken by who told it, which takes the waker.
        if !waiter.state().is_told() {
            waiter.clear();
        }
        waiter.retire();
        waiter.node.notified_by.store(0, Ordering::Release);
        seats::give(waiter.0);
    }

    pub(crate) fn outcome(&self) -> u32 {
        self.node.outcome()
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
    #[inline]
    fn drop(&mut self) {
        drop_apart(self.0);
    }
}

/// By value, so that the future of who need not wait is not kept in memory for it.
#[inline(never)]
fn drop_apart(seat: &'static Seat) {
    Waiter(seat).give_back();
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

    #[inline]
    pub(super) fn take() -> Option<&'static Seat> {
        // Thread-locals are gone while a thread ends.
        let own = OWN.try_with(|own| own.0.take()).ok().flatten();
        own.or_else(take_idle)
    }

    #[inline]
    pub(super) fn give(seat: &'static Seat) {
        let spare = OWN.try_with(|own| own.0.replace(Some(seat)));
        if let Some(spare) = spare.unwrap_or(Some(seat)) {
            give_idle(spare);
        }
    }

    #[cold]
    fn take_idle() -> Option<&'static Seat> {
        arena().idle.lock().pop()
    }

    #[cold]
    fn give_idle(seat: &'static Seat) {
        arena().idle.lock().push(seat);
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
