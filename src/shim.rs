//! The synchronisation that the model checker can look into: parking_lot and std, or loom's stand-ins
//! for them when the crate is built to be modelled (`--cfg freethreading_loom`).

#[cfg(not(freethreading_loom))]
mod imp {
    pub(crate) use parking_lot::Mutex;
    pub(crate) use std::{
        hint,
        sync::atomic::{AtomicBool, Ordering},
        thread::{self, Thread},
    };

    /// parking_lot's, with std's way of passing the guard.
    pub(crate) struct Condvar(parking_lot::Condvar);

    impl Condvar {
        pub(crate) const fn new() -> Self {
            Condvar(parking_lot::Condvar::new())
        }

        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }

        /// Waits to be notified, or for the deadline.
        pub(crate) fn wait<'a, T>(
            &self,
            mut guard: parking_lot::MutexGuard<'a, T>,
            deadline: Option<std::time::Instant>,
        ) -> parking_lot::MutexGuard<'a, T> {
            match deadline {
                None => self.0.wait(&mut guard),
                Some(deadline) => {
                    self.0.wait_until(&mut guard, deadline);
                }
            }
            guard
        }
    }
}

#[cfg(freethreading_loom)]
mod imp {
    pub(crate) use loom::{
        hint,
        sync::{
            MutexGuard,
            atomic::{AtomicBool, Ordering},
        },
        thread::{self, Thread},
    };

    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Mutex(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap()
        }
    }

    pub(crate) struct Condvar(loom::sync::Condvar);

    impl Condvar {
        pub(crate) fn new() -> Self {
            Condvar(loom::sync::Condvar::new())
        }

        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }

        /// Models have no clock: a wait with a deadline expires at once.
        pub(crate) fn wait<'a, T>(
            &self,
            guard: MutexGuard<'a, T>,
            deadline: Option<std::time::Instant>,
        ) -> MutexGuard<'a, T> {
            match deadline {
                None => self.0.wait(guard).unwrap(),
                Some(_) => guard,
            }
        }
    }
}

pub(crate) use imp::*;
