//! What is done when a process is gone: everything that was in its hands is put in order.

use super::{
    arena, bell,
    handle::{Held, SlotId, free_after, release_all_of},
    node::{Node, State, Wakes},
    pool::Tag,
    slot::{Kind, LISTS, Locked, SlotRef},
};
use crate::{shim::Ordering, sync::bereaved};

/// A process that is gone.
#[derive(Clone, Copy)]
pub(crate) struct Dead {
    /// Its index in the table.
    pub(crate) process: u16,
    pub(crate) pid: u32,
    /// It did not end by itself, with nothing more to do.
    pub(crate) crashed: bool,
}

/// Cleans up after a process that is gone.
pub(crate) fn reap(process: u16, pid: u32, crashed: bool) {
    let dead = Dead {
        process,
        pid,
        crashed,
    };
    let arena = arena();
    let hold = |index, Tag { generation, .. }| Held::of(SlotId { index, generation });
    // First of all: where the system does not tell which processes there are, nobody else can do this, and whoever
    // locks one of these waits for it.
    for (index, slot, tag) in arena.slots.used() {
        let slot = SlotRef::new(index, slot);
        if !slot.is_locked_by(process) {
            continue;
        }
        match hold(index, tag) {
            Some(_held) => {
                slot.seize(process);
                slot.reopen(process);
            }
            // Nobody has it any more, so that it is in disorder for nobody.
            None => free_after(slot, process),
        }
    }
    for (index, node, tag) in arena.waiters.used() {
        if tag.owner == process {
            remove(node);
            // From here on nobody notifies it.
            bereaved::notify_another(node);
            arena.waiters.free(index, node);
        }
    }
    for (index, _, tag) in arena.slots.used() {
        // One that nobody has any more is nothing that the process may have left in disorder for others.
        if let Some(kind) = Kind::of(tag.kind)
            && let Some(held) = hold(index, tag)
        {
            bereaved::inherit(held.slot(), kind, dead);
        }
    }
    // It may have told somebody something and not woken him: one that has ended well, too, by a thread that was about
    // to when it ended.
    bell::ring_again();
    for (_, node, _) in arena.waiters.used() {
        node.reminder().wake();
    }
    release_all_of(process);
    arena.blocks.free_all_of(process);
    arena.extents.free_all_of(process);
    arena.slots.recount();
    arena.waiters.recount();
    arena.records.recount();
}

/// Takes a waiter whose process is gone out of its list, and passes on what it was told.
fn remove(node: &'static Node) {
    let id = node.list();
    // The process may have leaked the wait, and let go of what it waited for.
    let Some(held) = Held::of(id.slot) else {
        return;
    };
    let slot = held.slot();
    let Some(kind) = slot.kind() else { return };
    let list = id.list as usize;
    let locked = slot.lock();
    // Somebody may have put it into another list meanwhile.
    if node.list() != id {
        drop(locked);
        return remove(node);
    }
    match node.state() {
        State::Waiting | State::Sleeping | State::Dozing => {
            let mut wakes = Wakes::default();
            locked.unlink(list, node);
            bereaved::left(&locked, kind, list, &mut wakes);
            drop(locked);
            wakes.wake();
        }
        message => {
            drop(locked);
            bereaved::pass_on(slot, kind, list, message, node);
        }
    }
}

/// Puts a slot in order whose mutex was held by a process that is gone; says whom to wake.
pub(super) fn repair(slot: &Locked, dead: u16) -> Wakes {
    let mut wakes = Wakes::default();
    for list in 0..LISTS {
        let mut waiters: Vec<_> = arena()
            .waiters
            .used()
            .filter(|(_, node, _)| slot.has(node) && node.list() == slot.id(list))
            .map(|(index, node, _)| (index, node))
            .collect();
        waiters.sort_by_key(|(_, node)| node.ticket.load(Ordering::Relaxed));
        slot.relink(list, &waiters);
    }
    // It may have had the gate, too: who waits for that finds out late that it is gone, or never.
    slot.reopen(dead, &mut wakes);
    if let Some(kind) = slot.slot.kind() {
        bereaved::repair(slot, kind, &mut wakes);
    }
    wakes
}
