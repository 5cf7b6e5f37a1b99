//! What is done for a primitive when a process that used it is gone.

use super::{
    barrier::RawBarrier, condition, event::RawEvent, queue::RawQueue, raw::RawLock,
    rlock::RawRLock, semaphore::RawSemaphore,
};
use crate::{
    arena::{
        gate::Gate,
        handle::{Held, SlotId},
        node::{Node, State, Wakes},
        reaper::Dead,
        slot::{Kind, Locked, SlotRef},
    },
    shim::Ordering,
    trace, unwind,
};

/// One of the waiters of the process has left this list.
pub(crate) fn left(slot: &Locked, kind: Kind, list: usize, wakes: &mut Wakes) {
    match kind {
        Kind::Lock | Kind::RLock | Kind::Condition => RawLock(slot.slot).tidy(slot),
        Kind::Semaphore | Kind::BoundedSemaphore => RawSemaphore(slot.slot).tidy(slot),
        Kind::Event => RawEvent(slot.slot).tidy(slot),
        Kind::Barrier => RawBarrier::of(slot.slot).left(slot, list, wakes),
        Kind::Queue | Kind::SimpleQueue => {}
    }
}

/// One of the waiters of the process was told something, and may not have heard it.
pub(crate) fn pass_on(slot: SlotRef, kind: Kind, list: usize, message: State, waiter: &Node) {
    match kind {
        Kind::Lock | Kind::RLock => RawLock(slot).bequeath(message, waiter.owner()),
        // Notifications are known by the waiter, wherever it is.
        Kind::Condition if list == condition::LINE => {}
        Kind::Condition => RawLock(slot).bequeath(message, waiter.owner()),
        Kind::Semaphore | Kind::BoundedSemaphore => RawSemaphore(slot).bequeath(message),
        Kind::Queue | Kind::SimpleQueue => RawQueue(slot).tell_another(list),
        Kind::Barrier => RawBarrier::of(slot).bequeath(waiter.outcome()),
        // Everybody was told.
        Kind::Event => {}
    }
}

/// One of the waiters of the process was notified by a condition, if by any, and has not gone on yet.
pub(crate) fn notify_another(waiter: &Node) {
    let condition = SlotId::unpack(waiter.notified_by.load(Ordering::Relaxed));
    if let Some(held) = Held::of(condition)
        && held.slot().kind() == Some(Kind::Condition)
    {
        condition::notify_another(held.slot(), waiter);
    }
}

/// The process may have held the primitive itself.
pub(crate) fn inherit(slot: SlotRef, kind: Kind, dead: Dead) {
    let released = match kind {
        Kind::Lock => RawLock(slot).inherit(dead, || {}),
        Kind::RLock | Kind::Condition => {
            let lock = RawRLock(slot);
            lock.lock().inherit(dead, || lock.disown())
        }
        Kind::Barrier => {
            RawBarrier::of(slot).inherit(dead);
            false
        }
        Kind::Queue | Kind::SimpleQueue => {
            RawQueue(slot).tell_of_room();
            false
        }
        _ => false,
    };
    if released {
        // What a subscriber does must not keep the rest from being put in order.
        unwind::contain(|| {
            tracing::warn!(
                target: trace::TARGET,
                pid = dead.pid,
                "a worker process died and held a {kind:?}, which was released: what it protects may be half changed"
            );
        });
    }
}

/// The process held the mutex of the slot, whose lists have been put in order.
pub(crate) fn repair(slot: &Locked, kind: Kind, wakes: &mut Wakes) {
    match kind {
        Kind::Lock | Kind::RLock | Kind::Condition => RawLock(slot.slot).repair(slot, wakes),
        Kind::Semaphore | Kind::BoundedSemaphore => RawSemaphore(slot.slot).repair(slot, wakes),
        Kind::Event => RawEvent(slot.slot).repair(slot, wakes),
        Kind::Barrier => RawBarrier::of(slot.slot).repair(slot, wakes),
        Kind::Queue | Kind::SimpleQueue => RawQueue(slot.slot).repair(slot, wakes),
    }
}

/// The process held the gate of the slot.
pub(crate) fn repair_gate(slot: &Locked, gate: &Gate, wakes: &mut Wakes) {
    if let Some(Kind::Queue | Kind::SimpleQueue) = slot.slot.kind() {
        RawQueue(slot.slot).repair_stream(slot, gate, wakes);
    }
}

/// Nobody has the primitive any more.
pub(crate) fn clear(slot: SlotRef) {
    if let Some(Kind::Queue | Kind::SimpleQueue) = slot.kind() {
        RawQueue(slot).clear();
    }
}
