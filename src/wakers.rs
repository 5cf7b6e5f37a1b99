//! The wakers of tasks that wait for the same thing.

use std::{collections::BTreeMap, task::Waker};

use crate::unwind;

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
        for waker in self.by_key.into_values() {
            unwind::contain(|| waker.wake());
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }
}
