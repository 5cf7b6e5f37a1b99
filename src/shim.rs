//! The synchronisation that the model checker can look into: parking_lot and std, or loom's stand-ins
//! for them when the crate is built to be modelled (`--cfg freethreading_loom`).

/// Who can wake a thread that sleeps on a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Threads of its process: the system finds it by its address alone.
    Here,
    /// Threads of all processes that see the number.
    Everywhere,
}

#[cfg(not(freethreading_loom))]
mod imp {
    use super::Scope;
    pub(crate) use crate::spin::{SpinLock, SpinLockGuard, take_turns};
    pub(crate) use parking_lot::Mutex;
    pub(crate) use std::{
        hint,
        sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering, fence},
        thread::{self, Thread},
    };

    use std::{ops::Deref, time::Duration};

    use rustix::thread::futex;

    /// What the checker sees whether two use it at the same time.
    pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub(crate) fn new(value: T) -> Self {
            UnsafeCell(std::cell::UnsafeCell::new(value))
        }

        /// To read it.
        #[inline]
        pub(crate) fn with<R>(&self, access: impl FnOnce(*const T) -> R) -> R {
            access(self.0.get())
        }

        /// To write it.
        #[inline]
        pub(crate) fn with_mut<R>(&self, access: impl FnOnce(*mut T) -> R) -> R {
            access(self.0.get())
        }
    }

    /// Waits to be unparked, for so long at most; may return at any time.
    pub(crate) fn park(timeout: Option<Duration>) {
        match timeout {
            None => thread::park(),
            Some(timeout) => thread::park_timeout(timeout),
        }
    }

    /// A look at a word before an exchange.
    #[inline]
    pub(crate) fn first_look(word: &AtomicU64, order: Ordering) -> u64 {
        word.load(order)
    }

    /// A number that threads, of any process that sees it, can sleep on.
    #[derive(Default)]
    #[repr(transparent)]
    pub(crate) struct Futex(AtomicU32);

    fn flags(scope: Scope) -> futex::Flags {
        match scope {
            Scope::Everywhere => futex::Flags::empty(),
            Scope::Here => futex::Flags::PRIVATE,
        }
    }

    impl Futex {
        /// Sleeps while the number is `expected`, until woken, for so long at most; may return at any
        /// time.
        pub(crate) fn wait(&self, expected: u32, timeout: Option<Duration>, scope: Scope) {
            // A time that the system cannot represent is as good as none.
            let timeout = timeout.and_then(|timeout| timeout.try_into().ok());
            let _ = futex::wait(&self.0, flags(scope), expected, Option::as_ref(&timeout));
        }

        /// Wakes one thread that sleeps on the number in this scope.
        pub(crate) fn wake(&self, scope: Scope) {
            let _ = futex::wake(&self.0, flags(scope), 1);
        }
    }

    impl Deref for Futex {
        type Target = AtomicU32;

        fn deref(&self) -> &AtomicU32 {
            &self.0
        }
    }
}

#[cfg(freethreading_loom)]
mod imp {
    pub(crate) use self::{Mutex as SpinLock, MutexGuard as SpinLockGuard};
    use super::Scope;
    pub(crate) use loom::{
        cell::UnsafeCell,
        hint,
        sync::{
            MutexGuard,
            atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering, fence},
        },
        thread::{self, Thread},
    };

    use std::{
        collections::VecDeque,
        ops::Deref,
        sync::{
            Arc,
            atomic::{AtomicBool as Flag, Ordering::Relaxed},
        },
        time::Duration,
    };

    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Mutex(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap()
        }

        pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
            self.0.try_lock().ok()
        }
    }

    impl<T: Default> Default for Mutex<T> {
        fn default() -> Self {
            Mutex::new(T::default())
        }
    }

    /// Waits for something that another thread does as soon as it runs.
    pub(crate) fn take_turns(mut attempt: impl FnMut() -> bool) {
        while !attempt() {
            thread::yield_now();
        }
    }

    /// Models have no clock: a wait with a timeout ends at once.
    pub(crate) fn park(timeout: Option<Duration>) {
        if timeout.is_none() {
            thread::park();
        }
    }

    /// The checker takes no notice of who has looked before if he looks once more, or another one does, and then
    /// exchanges. An exchange it does notice, also one that fails because the word is never this one.
    pub(crate) fn first_look(word: &AtomicU64, order: Ordering) -> u64 {
        word.compare_exchange(u64::MAX, u64::MAX, order, order)
            .unwrap_or_else(|word| word)
    }

    /// A number to sleep on. Who sleeps must be woken, whatever the number is by then.
    ///
    /// Every other sleep ends at once, as a system's may. For in a model who is woken knows all that its
    /// waker did, which a system does not promise: who looks by itself knows what it has seen.
    #[derive(Default)]
    pub(crate) struct Futex {
        number: AtomicU32,
        sleepers: std::sync::Mutex<Sleepers>,
    }

    /// Where a wake-up must come from to be heard: a process, or any.
    type Place = Option<u16>;

    fn place(scope: Scope) -> Place {
        (scope == Scope::Here).then(crate::arena::me)
    }

    /// The checker does not see this: nothing else runs between a look at the number, which it does see,
    /// and the next such point.
    #[derive(Default)]
    struct Sleepers {
        asleep: VecDeque<(Place, Thread, Arc<Flag>)>,
        restless: bool,
    }

    impl Futex {
        pub(crate) fn wait(&self, expected: u32, timeout: Option<Duration>, scope: Scope) {
            if timeout.is_some() || self.latest() != expected {
                return;
            }
            let asleep = Arc::new(Flag::new(true));
            {
                let mut sleepers = self.sleepers.lock().unwrap();
                sleepers.restless = !sleepers.restless;
                if sleepers.restless {
                    return;
                }
                let sleeper = (place(scope), thread::current(), Arc::clone(&asleep));
                sleepers.asleep.push_back(sleeper);
            }
            while asleep.load(Relaxed) {
                thread::park();
            }
        }

        pub(crate) fn wake(&self, scope: Scope) {
            // It comes before the look of one who is about to sleep, or after it: the checker tries both.
            self.latest();
            let sleeper = {
                let asleep = &mut self.sleepers.lock().unwrap().asleep;
                let hears = |(from, ..): &(Place, Thread, Arc<Flag>)| *from == place(scope);
                asleep
                    .iter()
                    .position(hears)
                    .and_then(|at| asleep.remove(at))
            };
            if let Some((_, sleeper, asleep)) = sleeper {
                asleep.store(false, Relaxed);
                sleeper.unpark();
            }
        }

        /// The number as the kernel sees it. A load might see an older one; an exchange does not, also
        /// one that fails because the number is never this one.
        fn latest(&self) -> u32 {
            self.number
                .compare_exchange(u32::MAX, u32::MAX, Relaxed, Relaxed)
                .unwrap_or_else(|latest| latest)
        }
    }

    impl Deref for Futex {
        type Target = AtomicU32;

        fn deref(&self) -> &AtomicU32 {
            &self.number
        }
    }
}

pub(crate) use imp::*;
