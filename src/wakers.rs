//! Those who wait for the same thing: tasks, which have wakers, and threads, which are parked.

use std::{collections::BTreeMap, task::Waker};

use crate::{
    shim::{Thread, thread},
    unwind,
};

/// Wakes a task; what its runtime does then is its own matter.
#[inline]
pub(crate) fn wake(waker: Waker) {
    unwind::contain(|| waker.wake());
}

/// One waker for each task that waits: that of its latest poll.
///
/// Wakers may do anything, also when they are dropped: what comes out of here is to be woken or dropped
/// outside of locks.
#[derive(Default)]
pub(crate) struct Wakers {
    by_key: BTreeMap<u64, Waker>,
    last_key: u64,
}

impl Wakers {
    /// Keeps the waker of the task that waits with this key; it is given one at its first poll.
    #[must_use]
    pub(crate) fn keep(&mut self, key: &mut Option<u64>, waker: Waker) -> Option<Waker> {
        let key = *key.get_or_insert_with(|| {
            self.last_key += 1;
            self.last_key
        });
        self.by_key.insert(key, waker)
    }

    /// The task with this key does not wait any more.
    #[must_use]
    pub(crate) fn forget(&mut self, key: u64) -> Option<Waker> {
        self.by_key.remove(&key)
    }

    pub(crate) fn wake(self) {
        self.by_key.into_values().for_each(wake);
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }
}

/// The threads that wait.
#[derive(Default)]
pub(crate) struct Parked(Vec<Thread>);

impl Parked {
    /// The calling thread is about to be parked. It may be there from the last time, if something else has woken it.
    pub(crate) fn add_current(&mut self) {
        let this = thread::current();
        if self.0.iter().all(|other| other.id() != this.id()) {
            self.0.push(this);
        }
    }

    /// The calling thread does not wait any more: its time was up.
    pub(crate) fn remove_current(&mut self) {
        if !self.0.is_empty() {
            let this = thread::current().id();
            self.0.retain(|other| other.id() != this);
        }
    }

    pub(crate) fn unpark(self) {
        for thread in self.0 {
            thread.unpark();
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}
