//! The gate of a slot: a second mutex, for those who take from a queue, far from what those use who put.

use super::{
    me,
    slot::{CONTENDED, Locked, SlotRef, lock_slow},
    waiter::Wakes,
};
use crate::{
    shim::{AtomicU64, Futex, Ordering},
    sync::bereaved,
};

/// How many words a primitive has that are far from the others: their numbers follow.
pub(crate) const FAR_WORDS: usize = 8;

/// What those use who take from a queue, so that they do not meet those who put.
#[derive(Default)]
#[repr(C, align(128))]
pub(super) struct Far {
    /// A second mutex, which guards what is taken. Who needs both locks this one last.
    pub(super) gate: Futex,
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
        let mine = u32::from(self.mine()) << 1;
        let gate = &self.slot.far.gate;
        // Acquire: what was done behind the gate before is seen.
        let locked = gate.compare_exchange(0, mine, Ordering::Acquire, Ordering::Relaxed);
        if locked.is_err() {
            lock_slow(gate, mine, bury);
        }
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
        (self.slot.far.gate.load(Ordering::Relaxed) >> 1) as u16
    }
}

/// A slot whose gate is held.
pub(crate) struct Gate {
    slot: SlotRef,
}

impl Drop for Gate {
    #[inline]
    fn drop(&mut self) {
        let gate = &self.slot.far.gate;
        // Release: what was done behind the gate is seen by who locks it next.
        if gate.swap(0, Ordering::Release) & CONTENDED != 0 {
            gate.wake();
        }
    }
}

impl Locked {
    /// Locks the gate too. If who had it is gone, there may be some to wake.
    pub(crate) fn gate(&self, wakes: &mut Wakes) -> Gate {
        self.slot.enter(|dead| self.reopen(dead, wakes))
    }

    fn reopen(&self, dead: u16, wakes: &mut Wakes) {
        let gate = &self.far.gate;
        loop {
            let word = gate.load(Ordering::Relaxed);
            if word >> 1 != u32::from(dead) {
                return;
            }
            // With the flag, since others may sleep already.
            let seized = u32::from(me()) << 1 | CONTENDED;
            // Acquire: what was done before the dead one had it is seen.
            if gate
                .compare_exchange(word, seized, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
            {
                let gate = Gate { slot: self.slot };
                return bereaved::repair_gate(self, &gate, wakes);
            }
        }
    }
}
