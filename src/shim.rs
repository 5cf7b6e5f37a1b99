//! The synchronisation that the model checker can look into: parking_lot and std, or loom's stand-ins
//! for them when the crate is built to be modelled (`--cfg freethreading_loom`).

#[cfg(not(freethreading_loom))]
mod imp {
    pub(crate) use parking_lot::{Mutex, MutexGuard};
    pub(crate) use std::{
        hint,
        sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
        thread::{self, Thread},
    };

    use std::{ops::Deref, time::Duration};

    use rustix::thread::futex;

    /// Waits to be unparked, for so long at most; may return at any time.
    pub(crate) fn park(timeout: Option<Duration>) {
        match timeout {
            None => thread::park(),
            Some(timeout) => thread::park_timeout(timeout),
        }
    }

    /// A number that threads, of any process that sees it, can sleep on.
    #[derive(Default)]
    #[repr(transparent)]
    pub(crate) struct Futex(AtomicU32);

    impl Futex {
        /// Sleeps while the number is `expected`, until woken, for so long at most; may return at any
        /// time.
        pub(crate) fn wait(&self, expected: u32, timeout: Option<Duration>) {
            // A time that the system cannot represent is as good as none.
            let timeout = timeout.and_then(|timeout| timeout.try_into().ok());
            let _ = futex::wait(
                &self.0,
                futex::Flags::empty(),
                expected,
                Option::as_ref(&timeout),
            );
        }

        /// Wakes one thread that sleeps on the number.
        pub(crate) fn wake(&self) {
            let _ = futex::wake(&self.0, futex::Flags::empty(), 1);
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
    pub(crate) use loom::{
        hint,
        sync::{
            MutexGuard,
            atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
        },
        thread::{self, Thread},
    };

    use std::{ops::Deref, time::Duration};

    use loom::sync::Condvar;

    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Mutex(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap()
        }
    }

    impl<T: Default> Default for Mutex<T> {
        fn default() -> Self {
            Mutex::new(T::default())
        }
    }

    /// Models have no clock: a wait with a timeout ends at once.
    pub(crate) fn park(timeout: Option<Duration>) {
        if timeout.is_none() {
            thread::park();
        }
    }

    /// A number to sleep on: who sleeps must be woken, whatever the number is by then.
    #[derive(Default)]
    pub(crate) struct Futex {
        number: AtomicU32,
        sleepers: Mutex<()>,
        woken: Condvar,
    }

    impl Futex {
        pub(crate) fn wait(&self, expected: u32, timeout: Option<Duration>) {
            let sleepers = self.sleepers.lock();
            // The kernel looks at the number under its own lock.
            if timeout.is_none() && self.number.load(Ordering::Relaxed) == expected {
                drop(self.woken.wait(sleepers).unwrap());
            }
        }

        pub(crate) fn wake(&self) {
            let _sleepers = self.sleepers.lock();
            self.woken.notify_all();
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
