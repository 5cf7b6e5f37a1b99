//! The end of the work on the items, and waiting for it.

use super::{core::Core, plain::NotCounted, shared::JOINERS};
use crate::{
    arena::{
        node::{State, Wakes},
        slot::{Locked, SlotRef},
        wait::{Budget, Miss, Resource},
    },
    error::TooManyTaskDone,
};

/// What those who wait are told when all is done.
const ALL_DONE: u32 = 0;

/// What they are told when the items have moved, or there are new ones.
pub(super) const LOOK_AGAIN: u32 = 1;

impl<T> Core<T> {
    fn unfinished(&self) -> u64 {
        self.local
            .plain
            .unfinished()
            .unwrap_or_else(|| self.unfinished_of(&self.raw().0.lock()))
    }

    /// The same by who holds the mutex, without which nothing moves.
    fn unfinished_of(&self, _slot: &Locked) -> u64 {
        self.local
            .plain
            .unfinished()
            .unwrap_or_else(|| self.raw().unfinished())
    }

    pub(super) fn task_done(&self) -> Result<(), TooManyTaskDone> {
        match self.local.plain.task_done() {
            Ok(is_last) => {
                if is_last {
                    self.tell_joiners();
                }
                return Ok(());
            }
            Err(NotCounted::TooMany) => return Err(TooManyTaskDone),
            Err(NotCounted::Moved) => {}
        }
        let mut wakes = Wakes::default();
        // Whoever moves the count does so under the mutex.
        let counted = self.raw().task_done(&self.raw().0.lock(), &mut wakes);
        wakes.wake();
        match counted {
            true => Ok(()),
            false => Err(TooManyTaskDone),
        }
    }
}

impl<T> Core<T> {
    /// The last item was done, without the mutex: tells those who wait for that. If something was put since, some may
    /// have begun to wait after it.
    #[cold]
    fn tell_joiners(&self) {
        let mut wakes = Wakes::default();
        {
            let slot = self.raw().0.lock();
            let outcome = match self.unfinished_of(&slot) {
                0 => ALL_DONE,
                _ => LOOK_AGAIN,
            };
            slot.pop_all(JOINERS, &mut wakes, outcome);
            self.tidy(&slot, JOINERS);
        }
        wakes.wake();
    }
}

/// A wait until all work is done.
pub(super) struct Joining<'a, T>(pub(super) &'a Core<T>);

impl<T> Resource for Joining<'_, T> {
    type Output = ();

    const BUDGET: Budget<()> = Budget::After(());

    fn slot(&self) -> SlotRef {
        self.0.handle.slot()
    }

    fn attempt(&mut self) -> Option<()> {
        (self.0.unfinished() == 0).then_some(())
    }

    fn attempt_or_join(&mut self, slot: &Locked) -> Result<(), Miss> {
        // What is shared is counted under the mutex, and who counts the last one looks for those in line.
        match self.0.local.plain.want_join() && self.0.unfinished_of(slot) != 0 {
            true => Err(Miss::Join(JOINERS)),
            false => Ok(()),
        }
    }

    /// All was done at that moment, whatever was put since; or that is not known.
    fn notified(&mut self, outcome: u32) -> Option<()> {
        (outcome == ALL_DONE)
            .then_some(())
            .or_else(|| self.attempt())
    }

    fn handed(&mut self) -> Option<()> {
        Some(())
    }

    fn left(&mut self, slot: &Locked, list: usize) {
        self.0.tidy(slot, list);
    }

    fn pass_on(&mut self, _message: State, _outcome: u32) {}
}

#[cfg(all(test, not(freethreading_loom)))]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::arena::{slot::Kind, wait::Waiting, waiter::Sleeper};

    #[test]
    fn who_is_told_late_that_all_was_done_does_not_believe_it_of_what_was_put_since() {
        let core = Core::new(Kind::Queue, 0).unwrap();
        let put = |item: u8| assert!(core.put(item).is_ok());
        let sleeper = Sleeper::Task(Waker::noop());
        put(1);
        let mut early = Waiting::new(Joining(&core));
        assert!(early.poll(sleeper).is_pending());
        // The last item is counted, and nobody is told yet.
        assert_eq!(core.local.plain.task_done(), Ok(true));
        put(2);
        let mut late = Waiting::new(Joining(&core));
        assert!(late.poll(sleeper).is_pending());
        core.tell_joiners();
        assert!(late.poll(sleeper).is_pending());
        assert_eq!(core.task_done(), Ok(()));
        assert!(early.poll(sleeper).is_ready() && late.poll(sleeper).is_ready());
    }
}
