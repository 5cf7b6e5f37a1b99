//! Who owns an RLock: the tokio task, if there is one, else the thread.

use std::{
    cell::Cell,
    hash::{Hash, Hasher},
    sync::atomic::{AtomicU64, Ordering},
};

use crate::arena::slot::{MARK_BITS, SlotRef};

/// It is a task: above the mark of the process,
const TASK: u64 = 1 << MARK_BITS;

/// and above it is the number of the task or the thread: one that makes 2^46 tasks takes years.
const NUMBER_SHIFT: u32 = MARK_BITS + 1;

/// A number that no other task or thread has, in any process that uses the arena now; never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Owner(u64);

impl Owner {
    /// Whoever calls. The slot has the index of this process at hand.
    #[inline]
    pub(super) fn current(slot: SlotRef) -> Owner {
        match tokio::task::try_id() {
            Some(task) => Owner::of(slot, number_of(task)),
            None => Owner::of(slot, number_of_thread()),
        }
    }

    #[inline]
    fn of(slot: SlotRef, number: u64) -> Owner {
        Owner(number | slot.mark())
    }

    /// Whether it is the thread or the task that calls: nothing that it does can happen meanwhile.
    #[inline]
    pub(super) fn is_current(self, slot: SlotRef) -> bool {
        match self.number() & TASK {
            // A thread that has no number yet owns nothing.
            0 => self == Owner::of(slot, NUMBER.with(Cell::get)),
            _ => tokio::task::try_id().is_some_and(|task| self == Owner::of(slot, number_of(task))),
        }
    }

    pub(super) fn number(self) -> u64 {
        self.0
    }
}

/// The number of a task, which tokio shows to hashers only.
#[inline]
fn number_of(task: tokio::task::Id) -> u64 {
    struct Last(u64);
    impl Hasher for Last {
        fn write(&mut self, bytes: &[u8]) {
            for &byte in bytes {
                self.0 = self.0.wrapping_mul(31).wrapping_add(u64::from(byte));
            }
        }

        fn write_u64(&mut self, number: u64) {
            self.0 = number;
        }

        fn finish(&self) -> u64 {
            self.0
        }
    }
    let mut last = Last(0);
    task.hash(&mut last);
    last.finish() << NUMBER_SHIFT | TASK
}

#[cfg(freethreading_loom)]
loom::thread_local! {
    static NUMBER: Cell<u64> = Cell::new(0);
}
#[cfg(not(freethreading_loom))]
thread_local! {
    // Without a destructor, so it is there until the very end of the thread.
    static NUMBER: Cell<u64> = const { Cell::new(0) };
}

#[inline]
fn number_of_thread() -> u64 {
    match NUMBER.with(Cell::get) {
        0 => number_thread(),
        number => number,
    }
}

#[cold]
fn number_thread() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);

    // Relaxed: it only deals out numbers.
    let number = NEXT.fetch_add(1, Ordering::Relaxed) << NUMBER_SHIFT;
    NUMBER.with(|cell| cell.set(number));
    number
}

#[cfg(all(test, not(freethreading_loom)))]
mod tests {
    use super::*;
    use crate::sync::RLock;

    #[test]
    fn a_thread_is_one_owner_and_every_task_is_another() {
        let lock = RLock::new();
        let slot = lock.0.slot();
        let current = move || Owner::current(slot);
        let thread = current();
        assert_eq!(thread, current());
        let other = std::thread::spawn(current).join().unwrap();
        assert_ne!(thread, other);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            assert_eq!(current(), thread);
            let task = || tokio::spawn(async move { current() });
            let (one, two) = (task().await.unwrap(), task().await.unwrap());
            assert_ne!(one, two);
            assert_ne!(one, thread);
        });
    }
}
