//! A flag to wait for.

use std::{fmt, time::Duration};

use super::face;
use crate::{
    arena::{
        handle::Handle,
        node::{State, Wakes},
        slot::{Kind, Locked, SlotRef},
        wait::{Budget, Miss, Resource, WaitAsync, Waiting},
    },
    deadline,
    error::Error,
    shim::{AtomicU64, Ordering},
};

/// The flag, and a bit that says that somebody waits, or has waited.
const WORD: usize = 0;
const SET: u64 = 1;
const WAITED_FOR: u64 = 2;

/// The list of waiters.
const LINE: usize = 0;

/// A flag that is set and cleared, and that others wait for; Python's `threading.Event` and
/// `multiprocessing.Event`.
///
/// When it is set, all who wait for it go on, also if it is cleared right afterwards.
///
/// It can be given to any worker of this machine, at any time; clones, and what workers get, are
/// handles to the same event.
///
/// # Examples
///
/// ```
/// use std::thread;
/// use freethreading::Event;
///
/// let ready = Event::new();
/// let waiting = thread::spawn({
///     let ready = ready.clone();
///     move || ready.wait()
/// });
/// ready.set();
/// waiting.join().unwrap();
/// assert!(ready.is_set());
/// ```
#[derive(Clone)]
pub struct Event(Handle);

/// A slot as an event.
#[derive(Clone, Copy)]
pub(super) struct RawEvent(pub(super) SlotRef);

impl RawEvent {
    #[inline]
    fn word(&self) -> &AtomicU64 {
        &self.0.slot.words[WORD]
    }

    #[inline]
    fn is_set(self) -> bool {
        // Acquire: what was done before it was set is seen.
        self.word().load(Ordering::Acquire) & SET != 0
    }

    #[inline]
    fn set(self) {
        let mut word = self.word().load(Ordering::Relaxed);
        while word & WAITED_FOR == 0 {
            // Release, also where it is set already: who waits sees what was done before.
            match self.word().compare_exchange_weak(
                word,
                word | SET,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(now) => word = now,
            }
        }
        self.set_and_wake();
    }

    fn set_and_wake(self) {
        let mut wakes;
        {
            let slot = self.0.lock();
            wakes = Wakes::default();
            // Who has waited will wait again: the bit stays until a set finds that nobody waits.
            let word = match slot.is_empty(LINE) {
                true => SET,
                false => SET | WAITED_FOR,
            };
            // Only under the mutex does anybody begin to wait; and a clear or a set that comes at the same
            // moment may as well have come before.
            self.word().store(word, Ordering::Release);
            slot.pop_all(LINE, &mut wakes, 0);
        }
        wakes.wake();
    }

    #[inline]
    fn clear(self) {
        match self.word().load(Ordering::Relaxed) & WAITED_FOR {
            0 => drop(self.word().fetch_and(!SET, Ordering::Relaxed)),
            // A set that comes in between may as well have come before, and it has woken those who waited.
            // The bit, should it be wrong by now, makes the next set look for them in vain.
            _ => self.word().store(WAITED_FOR, Ordering::Relaxed),
        }
    }

    /// Nobody waits any more, perhaps.
    pub(super) fn tidy(self, slot: &Locked) {
        if slot.is_empty(LINE) {
            self.word().fetch_and(!WAITED_FOR, Ordering::Relaxed);
        }
    }

    /// The links were lost half-way: if it was being set, those who wait go on.
    pub(super) fn repair(self, slot: &Locked, wakes: &mut Wakes) {
        if self.is_set() {
            slot.pop_all(LINE, wakes, 0);
        }
        match slot.is_empty(LINE) {
            true => self.tidy(slot),
            false => drop(self.word().fetch_or(WAITED_FOR, Ordering::Relaxed)),
        }
    }
}

impl Resource for RawEvent {
    type Output = ();

    const BUDGET: Budget<()> = Budget::After(());

    fn slot(&self) -> SlotRef {
        self.0
    }

    #[inline]
    fn attempt(&mut self) -> Option<()> {
        self.is_set().then_some(())
    }

    fn attempt_or_join(&mut self, _slot: &Locked) -> Result<(), Miss> {
        loop {
            let word = self.word().load(Ordering::Acquire);
            match word {
                // Whoever sets it has to come through the mutex.
                WAITED_FOR => return Err(Miss::Join(LINE)),
                _ if word & SET != 0 => return Ok(()),
                _ => {}
            }
            let marked = self.word().compare_exchange(
                word,
                WAITED_FOR,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            if marked.is_ok() {
                return Err(Miss::Join(LINE));
            }
        }
    }

    /// It was set, whatever it is now.
    fn notified(&mut self, _outcome: u32) -> Option<()> {
        Some(())
    }

    fn handed(&mut self) -> Option<()> {
        Some(())
    }

    fn left(&mut self, slot: &Locked, _list: usize) {
        self.tidy(slot);
    }

    /// All others were told as well.
    fn pass_on(&mut self, _message: State, _outcome: u32) {}
}

impl Event {
    /// A new event, which is not set.
    ///
    /// # Panics
    ///
    /// If the system has no memory for it; see [`try_new`](Event::try_new).
    pub fn new() -> Self {
        Self::try_new().unwrap_or_else(|error| panic!("{error}"))
    }

    /// A new event, which is not set.
    ///
    /// # Errors
    ///
    /// [`Error::Arena`] if the system has no memory for it.
    pub fn try_new() -> Result<Self, Error> {
        Ok(Event(Handle::new(Kind::Event, |_| {})?))
    }

    fn raw(&self) -> RawEvent {
        RawEvent(self.0.slot())
    }

    /// Sets the event: all who wait for it go on, and until it is cleared nobody waits.
    #[inline]
    pub fn set(&self) {
        self.raw().set();
    }

    /// Clears the event: whoever comes from now on has to wait.
    #[inline]
    pub fn clear(&self) {
        self.raw().clear();
    }

    /// Whether the event is set.
    #[inline]
    pub fn is_set(&self) -> bool {
        self.raw().is_set()
    }

    /// Waits for the event.
    ///
    /// # Blocking
    ///
    /// Until it is set, if it is not.
    #[inline]
    pub fn wait(&self) {
        if !self.is_set() {
            Waiting::new(self.raw()).block(None);
        }
    }

    /// Waits for the event; `false` if it was not set in time.
    ///
    /// # Blocking
    ///
    /// For so long at most.
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        self.is_set()
            || Waiting::new(self.raw())
                .block(deadline::after(timeout))
                .is_some()
    }

    /// Waits for the event; the async twin of [`wait`](Event::wait). The wait begins with the first poll of the
    /// future: an event that is set and cleared before that is missed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future takes nothing from others.
    #[inline]
    pub fn wait_async(&self) -> impl Future<Output = ()> + Send + Unpin {
        WaitAsync::new(self.raw())
    }
}

impl Default for Event {
    fn default() -> Self {
        Event::new()
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("set", &self.is_set())
            .field("waiters", &self.raw().0.waiters(LINE))
            .finish()
    }
}

face::travels!(Event, Kind::Event);
