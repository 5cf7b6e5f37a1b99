//! The end of the work on the items, and waiting for it.

use super::{
    core::{Core, Found},
    shared::JOINERS,
};
use crate::{
    arena::{
        slot::{Locked, SlotRef},
        wait::{Miss, Resource},
        waiter::{State, Wakes},
    },
    error::TooManyTaskDone,
};

/// What those who wait are told when the items have moved.
pub(super) const LOOK_AGAIN: u32 = 1;

impl<T> Core<T> {
    pub(super) fn unfinished(&self) -> u64 {
        match self.local.with(|plain| plain.unfinished as u64) {
            Found::Plain(unfinished) => unfinished,
            Found::Shared | Found::Moving => self.raw().unfinished(),
        }
    }

    pub(super) fn task_done(&self) -> Result<(), TooManyTaskDone> {
        let done = self.local.with(|plain| {
            plain.unfinished = plain.unfinished.checked_sub(1)?;
            Some(plain.unfinished == 0 && plain.waited_for[JOINERS])
        });
        match done {
            Found::Plain(Some(is_last)) => {
                if is_last {
                    self.tell(JOINERS, true);
                }
                Ok(())
            }
            Found::Plain(None) => Err(TooManyTaskDone),
            Found::Shared | Found::Moving => {
                let mut wakes = Wakes::default();
                let counted = self.raw().task_done(&self.raw().0.lock(), &mut wakes);
                wakes.wake();
                match counted {
                    true => Ok(()),
                    false => Err(TooManyTaskDone),
                }
            }
        }
    }
}

/// A wait until all work is done.
pub(super) struct Joining<'a, T>(pub(super) &'a Core<T>);

impl<T> Resource for Joining<'_, T> {
    type Output = ();

    fn slot(&self) -> SlotRef {
        self.0.handle.slot()
    }

    fn attempt(&mut self) -> Option<()> {
        (self.0.unfinished() == 0).then_some(())
    }

    fn attempt_or_join(&mut self, slot: &Locked) -> Result<(), Miss> {
        let found = self.0.local.with_locked(slot, |plain| {
            plain.waited_for[JOINERS] |= plain.unfinished != 0;
            plain.unfinished as u64
        });
        let unfinished = match found {
            Found::Plain(unfinished) => unfinished,
            Found::Shared => self.0.raw().unfinished(),
            Found::Moving => return Err(Miss::Join(JOINERS)),
        };
        match unfinished {
            0 => Ok(()),
            _ => Err(Miss::Join(JOINERS)),
        }
    }

    /// All was done at that moment, whatever was put since; or the items have moved.
    fn notified(&mut self, outcome: u32) -> Option<()> {
        (outcome != LOOK_AGAIN)
            .then_some(())
            .or_else(|| self.attempt())
    }

    fn handed(&mut self) {}

    fn left(&mut self, slot: &Locked, list: usize) {
        self.0.tidy(slot, list);
    }

    fn pass_on(&mut self, _message: State, _outcome: u32) {}
}
