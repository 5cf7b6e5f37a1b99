//! Permits that are taken and given back.

use std::{fmt, time::Duration};

use super::face;
use crate::{
    arena::{
        handle::Handle,
        node::{State, Wakes},
        slot::{Kind, Locked, SlotRef},
        wait::{Miss, Resource, WaitAsync, Waiting},
    },
    deadline,
    error::{Error, Overflow},
    look::{Looker, look},
    shim::{AtomicU64, Ordering},
};

/// The free permits, above a bit that says that somebody waits. They are fewer than none for a moment when several
/// subtract one where there are not so many.
const WORD: usize = 0;
const WAITED_FOR: u64 = 1;
const PERMIT: u64 = 2;

/// The free permits of that word, less those that are subtracted though there were none.
#[inline]
fn free_in(word: u64) -> i64 {
    word.cast_signed() >> PERMIT.trailing_zeros()
}

/// How many permits there were at first, which for a bounded one is how many there may be.
const LIMIT: usize = 1;

/// What a [`Semaphore`] can count to.
const MAX: i64 = u32::MAX as i64;

/// The list of waiters.
const LINE: usize = 0;

/// A slot as a semaphore.
#[derive(Clone, Copy)]
pub(super) struct RawSemaphore(pub(super) SlotRef);

impl RawSemaphore {
    #[inline]
    fn word(&self) -> &AtomicU64 {
        &self.0.slot.words[WORD]
    }

    /// The free permits.
    pub(super) fn value(self) -> u64 {
        let free = free_in(self.word().load(Ordering::Relaxed));
        free.max(0).cast_unsigned()
    }

    pub(super) fn limit(self) -> u64 {
        self.0.slot.words[LIMIT].load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn try_acquire(self) -> bool {
        free_in(self.word().load(Ordering::Relaxed)) > 0 && self.subtract()
    }

    /// Takes a permit by a subtraction, which need not wait for what a look has found, as a compare-and-swap must.
    #[inline]
    fn subtract(self) -> bool {
        // Acquire: what was done by who gave the permit back is seen.
        let before = self.word().fetch_sub(PERMIT, Ordering::Acquire);
        free_in(before) > 0 || !self.add_again()
    }

    /// A permit was subtracted where there was none: it is added again; `false` if one has come back meanwhile, which
    /// is this one.
    #[cold]
    fn add_again(self) -> bool {
        // Acquire: as above, if one has come back.
        let mut word = self.word().load(Ordering::Acquire);
        while free_in(word) < 0 {
            match self.word().compare_exchange_weak(
                word,
                word.wrapping_add(PERMIT),
                Ordering::Relaxed,
                Ordering::Acquire,
            ) {
                Ok(_) => return true,
                Err(now) => word = now,
            }
        }
        false
    }

    #[inline]
    fn acquire(self) {
        if !self.subtract() {
            self.wait();
        }
    }

    #[cold]
    fn wait(self) {
        Waiting::new(self).block(None);
    }

    fn acquire_timeout(self, timeout: Duration) -> bool {
        self.try_acquire() || Waiting::new(self).block(deadline::after(timeout)).is_some()
    }

    /// Gives permits back, where the limit is so far away that nobody gets there unless by mistake.
    #[inline]
    fn release(self, permits: usize) -> Result<(), Overflow> {
        let permits = u32::try_from(permits).map_err(|_| Overflow)?;
        // The addition below is taken back if it was too much, and must not be so large that others could
        // take, in between, what then is missing.
        if i64::from(permits) > MAX / 2 {
            return self.release_up_to(MAX, permits);
        }
        let added = u64::from(permits) * PERMIT;
        // Release: who takes the permit sees what was done before.
        let before = self.word().fetch_add(added, Ordering::Release);
        if free_in(before) + i64::from(permits) > MAX {
            self.word().fetch_sub(added, Ordering::Relaxed);
            return Err(Overflow);
        }
        if before & WAITED_FOR != 0 {
            self.tell(permits);
        }
        Ok(())
    }

    /// The same where the limit is how many there were at first.
    #[inline]
    fn release_bounded(self, permits: usize) -> Result<(), Overflow> {
        let permits = u32::try_from(permits).map_err(|_| Overflow)?;
        self.release_up_to(self.limit().cast_signed(), permits)
    }

    #[inline]
    fn release_up_to(self, limit: i64, permits: u32) -> Result<(), Overflow> {
        let mut word = self.word().load(Ordering::Relaxed);
        loop {
            if free_in(word) + i64::from(permits) > limit {
                return Err(Overflow);
            }
            match self.word().compare_exchange_weak(
                word,
                word.wrapping_add(u64::from(permits) * PERMIT),
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => break,
                Err(now) => word = now,
            }
        }
        if word & WAITED_FOR != 0 {
            self.tell(permits);
        }
        Ok(())
    }

    /// So many permits have come back: a starved waiter is given one, others are told.
    #[cold]
    fn tell(self, permits: u32) {
        let mut wakes = Wakes::default();
        {
            let slot = self.0.lock();
            for _ in 0..permits {
                let Some((_, waiter)) = slot.take(LINE) else {
                    break;
                };
                let message = match waiter.is_starved() && self.try_acquire() {
                    true => State::Handed,
                    false => State::Notified,
                };
                wakes.add(waiter.tell(message));
            }
            self.tidy(&slot);
        }
        wakes.wake();
    }

    /// Nobody waits any more, perhaps.
    pub(super) fn tidy(self, slot: &Locked) {
        if slot.is_empty(LINE) {
            self.word().fetch_and(!WAITED_FOR, Ordering::Relaxed);
        }
    }

    /// Passes on what a dead waiter was told.
    pub(super) fn bequeath(self, message: State) {
        if message == State::Handed {
            // Relaxed: who takes the permit sees what was done before it came here, since nobody has
            // done anything with it.
            self.word().fetch_add(PERMIT, Ordering::Relaxed);
        }
        self.tell(1);
    }

    /// The links were lost half-way: permits may have come back without anybody being told.
    pub(super) fn repair(self, slot: &Locked, wakes: &mut Wakes) {
        slot.pop_all(LINE, wakes, 0);
        self.tidy(slot);
    }
}

impl Resource for RawSemaphore {
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

    fn look(&mut self) -> Option<()> {
        look(Looker::Lock, || self.attempt())
    }

    fn attempt_or_join(&mut self, _slot: &Locked) -> Result<(), Miss> {
        loop {
            if self.try_acquire() {
                return Ok(());
            }
            let word = self.word().load(Ordering::Relaxed);
            let marked = free_in(word) <= 0
                && self
                    .word()
                    .compare_exchange(
                        word,
                        word | WAITED_FOR,
                        Ordering::Relaxed,
                        Ordering::Relaxed,
                    )
                    .is_ok();
            if marked {
                return Err(Miss::Join(LINE));
            }
        }
    }

    fn handed(&mut self) -> Option<()> {
        Some(())
    }

    fn left(&mut self, slot: &Locked, _list: usize) {
        self.tidy(slot);
    }

    fn pass_on(&mut self, message: State, _outcome: u32) {
        self.bequeath(message);
    }
}

/// A semaphore's face; the two differ in what a release too many does.
macro_rules! semaphore {
    (
        $(#[$doc:meta])* $type:ident, $release:ident,
        $(#[$guard_doc:meta])* $guard:ident, $owned:ident,
        $release_errors:literal
    ) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $type(pub(super) Handle);

        $(#[$guard_doc])*
        #[must_use = "the permit is given back when the guard is dropped"]
        #[derive(Debug)]
        pub struct $guard<'a> {
            lock: &'a $type,
        }

        #[doc = concat!(
            "A [`", stringify!($guard), "`] with a handle of its own, as [`into_owned`](", stringify!($guard),
            "::into_owned) gives it; tokio's `OwnedSemaphorePermit`."
        )]
        #[must_use = "the permit is given back when the guard is dropped"]
        #[derive(Debug)]
        pub struct $owned {
            lock: $type,
            held: bool,
        }

        impl $type {
            /// A new semaphore with so many permits.
            ///
            /// # Panics
            ///
            #[doc = concat!(
                "If there are more than `u32::MAX`, or if the system has no memory; see [`try_new`](",
                stringify!($type), "::try_new)."
            )]
            pub fn new(value: usize) -> Self {
                Self::try_new(value).unwrap_or_else(|error| panic!("{error}"))
            }

            /// A new semaphore with so many permits.
            ///
            /// # Errors
            ///
            /// [`Error::InvalidArgument`] if there are more than `u32::MAX`, [`Error::Arena`] if the
            /// system has no memory for it.
            pub fn try_new(value: usize) -> Result<Self, Error> {
                let value = u32::try_from(value).map_err(|_| {
                    Error::InvalidArgument("a semaphore has at most u32::MAX permits".into())
                })?;
                Ok($type(Handle::new(Kind::$type, |slot| {
                    let value = u64::from(value);
                    // Relaxed: nobody else knows the slot yet.
                    slot.words[WORD].store(value * PERMIT, Ordering::Relaxed);
                    slot.words[LIMIT].store(value, Ordering::Relaxed);
                })?))
            }

            #[inline]
            pub(super) fn raw(&self) -> RawSemaphore {
                RawSemaphore(self.0.slot())
            }

            /// Takes a permit.
            ///
            /// # Blocking
            ///
            /// Until there is one.
            #[inline]
            pub fn acquire(&self) {
                self.raw().acquire();
            }

            /// Takes a permit if there is one; says whether it did.
            #[inline]
            #[must_use = "there may have been no permit"]
            pub fn try_acquire(&self) -> bool {
                self.raw().try_acquire()
            }

            /// Takes a permit; `false` if there was none in time.
            ///
            /// # Blocking
            ///
            /// For so long at most.
            #[must_use = "there may have been no permit"]
            pub fn acquire_timeout(&self, timeout: Duration) -> bool {
                self.raw().acquire_timeout(timeout)
            }

            #[doc = concat!(
                "Takes a permit; the async twin of [`acquire`](", stringify!($type), "::acquire)."
            )]
            ///
            /// # Cancel safety
            ///
            /// A future that is dropped has taken no permit, and loses its place in line.
            #[inline]
            pub fn acquire_async(&self) -> impl Future<Output = ()> + Send + Unpin {
                WaitAsync::new(self.raw())
            }

            /// How many permits there are to take at this moment; Python's `get_value()`.
            pub fn value(&self) -> usize {
                self.raw().value() as usize
            }

            /// Gives a permit back. Anybody may, not only who took it.
            ///
            /// # Errors
            ///
            #[doc = $release_errors]
            #[inline]
            pub fn release(&self) -> Result<(), Overflow> {
                self.raw().$release(1)
            }

            /// Gives so many permits back at once: all of them, or none where that is an error. 0 does nothing.
            ///
            /// # Errors
            ///
            #[doc = $release_errors]
            pub fn release_many(&self, permits: usize) -> Result<(), Overflow> {
                self.raw().$release(permits)
            }
        }

        face::guards!(
            $type, $guard, $owned, Overflow, $release_errors,
            permit, try_permit, permit_timeout, permit_async
        );
        face::travels!($type, Kind::$type);

        impl Default for $type {
            /// With one permit.
            fn default() -> Self {
                $type::new(1)
            }
        }
    };
}

semaphore! {
    /// A number of permits to be taken and given back; Python's `threading.Semaphore` and
    /// `multiprocessing.Semaphore`.
    ///
    /// It can be given to any worker of this machine, at any time; clones, and what workers get, are
    /// handles to the same semaphore. A permit belongs to nobody: if a worker process dies, the permits that it took
    /// stay taken, and so may one that it was about to take.
    ///
    /// Whoever comes by may take a free permit, also ahead of those who wait. But a waiter that was woken in vain more
    /// than once is handed one, so nobody waits for ever.
    ///
    /// # Examples
    ///
    /// ```
    /// use freethreading::Semaphore;
    ///
    /// let connections = Semaphore::new(2);
    /// let one = connections.permit();
    /// let two = connections.permit();
    /// assert!(!connections.try_acquire());
    /// drop(one);
    /// assert!(connections.try_acquire());
    /// connections.release()?;
    /// # drop(two);
    /// # Ok::<(), freethreading::Overflow>(())
    /// ```
    ///
    /// A permit can go along with the async task that it is for:
    ///
    /// ```
    /// # use freethreading::Semaphore;
    /// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    /// # runtime.block_on(async {
    /// let connections = Semaphore::new(2);
    /// let permit = connections.permit_async().await.into_owned();
    /// let connected = tokio::spawn(async move {
    ///     let _permit = permit;
    ///     // …
    /// });
    /// # connected.await.unwrap();
    /// # assert_eq!(connections.value(), 2);
    /// # });
    /// ```
    Semaphore, release,
    /// A permit of a [`Semaphore`], which is given back when this is dropped.
    SemaphorePermit, OwnedSemaphorePermit,
    "[`Overflow`] if there would be more than `u32::MAX` permits then."
}

semaphore! {
    /// A [`Semaphore`] that never has more permits than it had at first; Python's
    /// `threading.BoundedSemaphore` and `multiprocessing.BoundedSemaphore`.
    ///
    /// # Examples
    ///
    /// ```
    /// use freethreading::{BoundedSemaphore, Overflow};
    ///
    /// let semaphore = BoundedSemaphore::new(1);
    /// semaphore.acquire();
    /// assert_eq!(semaphore.release(), Ok(()));
    /// assert_eq!(semaphore.release(), Err(Overflow));
    /// ```
    BoundedSemaphore, release_bounded,
    /// A permit of a [`BoundedSemaphore`], which is given back when this is dropped.
    BoundedSemaphorePermit, OwnedBoundedSemaphorePermit,
    "[`Overflow`] if there would be more permits then than at first."
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore")
            .field("value", &self.raw().value())
            .field("waiters", &self.raw().0.waiters(LINE))
            .finish()
    }
}

impl fmt::Debug for BoundedSemaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let raw = self.raw();
        f.debug_struct("BoundedSemaphore")
            .field("value", &format_args!("{}/{}", raw.value(), raw.limit()))
            .field("waiters", &raw.0.waiters(LINE))
            .finish()
    }
}
