//! The synchronisation that the model checker can look into: parking_lot and std, or loom's stand-ins
//! for them when the crate is built to be modelled (`--cfg freethreading_loom`).

#[cfg(not(freethreading_loom))]
mod imp {
    pub(crate) use parking_lot::{Mutex, MutexGuard};
    pub(crate) use std::{
        hint,
        sync::atomic::{AtomicBool, Ordering},
        thread::{self, Thread},
    };

    /// Waits to be unparked, for so long at most; may return at any time.
    pub(crate) fn park(timeout: Option<std::time::Duration>) {
        match timeout {
            None => thread::park(),
            Some(timeout) => thread::park_timeout(timeout),
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

    /// Models have no clock: a wait with a timeout ends at once.
    pub(crate) fn park(timeout: Option<std::time::Duration>) {
        if timeout.is_none() {
            thread::park();
        }
    }
}

pub(crate) use imp::*;
