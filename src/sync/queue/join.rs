//! The end of the work on the items, and waiting for it.

use super::{core::Core, plain::NotCounted, shared::JOINERS};
use crate::{
    arena::{
        slot::{Locked, SlotRef},
        wait::{Budget, Miss, Resource},
        waiter::{State, Wakes},
    },
    error::TooManyTaskDone,
};

/// What those who wait are told when the items have moved.
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
                    self.tell(JOINERS, true);
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

    /// All was done at that moment, whatever was put since; or the items have moved.
    fn notified(&mut self, outcome: u32) -> Option<()> {
        (outcome != LOOK_AGAIN)
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
