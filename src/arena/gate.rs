//! The gate of a slot: a second mutex, for those who take from a queue, far from what those use who put.

use super::{
    me,
    mutex::Mutex,
    node::Wakes,
    slot::{Locked, SlotRef, mark_of},
};
use crate::{shim::AtomicU64, sync::bereaved};

/// How many words a primitive has that are far from the others: their numbers follow.
pub(crate) const FAR_WORDS: usize = 8;

/// What those use who take from a queue, so that they do not meet those who put.
#[derive(Default)]
#[repr(C, align(128))]
pub(super) struct Far {
    /// Guards what is taken. Who needs both locks this one last.
    pub(super) gate: Mutex,
    pub(super) words: [AtomicU64; FAR_WORDS],
}

impl SlotRef {
    /// Locks the gate of a queue, by who has not locked the mutex. Nothing else may be locked meanwhile.
    #[inline]
    pub(crate) fn gate(self) -> Gate {
        self.enter(|dead| self.reopen(dead))
    }

    #[inline]
    fn enter(self, bury: impl FnMut(u16)) -> Gate {
        self.slot.far.gate.lock(self.mark(), bury);
        Gate { slot: self }
    }

    /// If the gate is held by a process that is gone, puts what is behind it in order and unlocks it.
    pub(super) fn reopen(self, dead: u16) {
        if dead == 0 || self.gatekeeper() != dead {
            return;
        }
        let mut wakes = Wakes::default();
        self.lock().reopen(dead, &mut wakes);
        wakes.wake();
    }

    /// The process that has the gate, or none, 0.
    pub(super) fn gatekeeper(self) -> u16 {
        self.slot.far.gate.holder()
    }
}

/// A slot whose gate is held.
pub(crate) struct Gate {
    slot: SlotRef,
}

impl Drop for Gate {
    #[inline]
    fn drop(&mut self) {
        self.slot.far.gate.unlock();
    }
}

impl Locked {
    /// Locks the gate too. If who had it is gone, there may be some to wake.
    pub(crate) fn gate(&self, wakes: &mut Wakes) -> Gate {
        self.slot.enter(|dead| self.reopen(dead, wakes))
    }

    /// As of a slot whose mutex is not held.
    pub(super) fn reopen(&self, dead: u16, wakes: &mut Wakes) {
        if self.far.gate.seize(dead, mark_of(me())) {
            let gate = Gate { slot: self.slot };
            bereaved::repair_gate(self, &gate, wakes);
        }
    }
}
