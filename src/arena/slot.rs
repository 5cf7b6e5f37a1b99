//! A primitive's state: a few words, the lists of those who wait, and a mutex for what takes more than
//! one compare-and-swap.

use std::ops::Deref;

use super::{
    arena,
    gate::Far,
    handle::SlotId,
    me,
    mutex::Mutex,
    node::{Node, State, Wakes, Woken},
    pool::{Tag, Unit},
};
use crate::shim::{AtomicU32, AtomicU64, Ordering};

/// What a slot is used as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Kind {
    Lock = 1,
    RLock,
    Semaphore,
    BoundedSemaphore,
    Event,
    Condition,
    Barrier,
    Queue,
    SimpleQueue,
}

impl Kind {
    pub(crate) fn of(kind: u16) -> Option<Kind> {
        use Kind::*;
        [
            Lock,
            RLock,
            Semaphore,
            BoundedSemaphore,
            Event,
            Condition,
            Barrier,
            Queue,
            SimpleQueue,
        ]
        .into_iter()
        .find(|&known| known as u16 == kind)
    }
}

/// How many words a primitive has for itself.
pub(crate) const WORDS: usize = 8;

/// How many lists of waiters a primitive may have.
pub(crate) const LISTS: usize = 3;

/// Two cache lines, and far from them, where those who use them do not slow each other down, one more.
#[derive(Default)]
#[repr(C, align(128))]
pub(crate) struct Slot {
    tag: AtomicU64,
    /// How many attachments there are, in all processes, plus those of items in queues.
    pub(super) refs: AtomicU32,
    mutex: Mutex,
    lists: [List; LISTS],
    /// How many have begun to wait.
    tickets: AtomicU64,
    pub(crate) words: [AtomicU64; WORDS],
    pub(super) far: Far,
}

/// The ends of a list of waiters, both zero if there are none. Only used under the mutex.
#[derive(Default)]
#[repr(C)]
struct List {
    first: AtomicU32,
    last: AtomicU32,
    /// How many there are. It is read without the mutex as well, where a rough number will do.
    count: AtomicU32,
}

impl Unit for Slot {
    fn tag(&self) -> &AtomicU64 {
        &self.tag
    }

    // Relaxed: freeing the unit publishes it.
    fn reset(&self) {
        self.refs.store(0, Ordering::Relaxed);
        self.mutex.reset();
        for list in &self.lists {
            list.first.store(0, Ordering::Relaxed);
            list.last.store(0, Ordering::Relaxed);
            list.count.store(0, Ordering::Relaxed);
        }
        self.tickets.store(0, Ordering::Relaxed);
        self.far.gate.reset();
        for word in self.words.iter().chain(&self.far.words) {
            word.store(0, Ordering::Relaxed);
        }
    }

    #[cfg(freethreading_loom)]
    fn new() -> Self {
        Slot::default()
    }
}

impl Slot {
    /// One of the words that the primitive has for itself.
    #[inline]
    pub(crate) fn word(&self, word: usize) -> &AtomicU64 {
        match word.checked_sub(WORDS) {
            None => &self.words[word],
            Some(far) => &self.far.words[far],
        }
    }
}

/// How a word says that it is this process that has something: in the lowest [bits](MARK_BITS), and never zero.
pub(crate) fn mark_of(process: u16) -> u64 {
    u64::from(process) << 1 | 1
}

/// The process whose mark it is; 0, which is none, for no mark.
pub(crate) fn process_of(mark: u64) -> u16 {
    (mark >> 1) as u16
}

/// How many bits a mark takes.
pub(crate) const MARK_BITS: u32 = 17;

/// A slot and its number.
#[derive(Clone, Copy)]
pub(crate) struct SlotRef {
    /// The slot's number, and below it the mark of this process: in one, so that two registers hold it all.
    numbers: u64,
    pub(crate) slot: &'static Slot,
}

impl SlotRef {
    pub(crate) fn new(index: u32, slot: &'static Slot) -> Self {
        SlotRef {
            numbers: u64::from(index) << 32 | mark_of(me()),
            slot,
        }
    }

    pub(crate) fn index(self) -> u32 {
        (self.numbers >> 32) as u32
    }

    /// The [mark](mark_of) of this process, which is at hand here.
    #[inline]
    pub(crate) fn mark(self) -> u64 {
        u64::from(self.numbers as u32)
    }
}

impl Deref for SlotRef {
    type Target = Slot;

    #[inline]
    fn deref(&self) -> &Slot {
        self.slot
    }
}

/// One of the lists of a slot, as a waiter notes it: `generation : 32, list : 2, index : 30`.
///
/// A wait may be leaked, and the slot then be freed and used again: such a waiter is in none of the new one's lists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ListId {
    pub(crate) slot: SlotId,
    pub(crate) list: u32,
}

/// The arena has room for fewer slots than there are numbers below this bit.
const LIST_SHIFT: u32 = 30;

impl ListId {
    pub(crate) fn pack(self) -> u64 {
        self.slot.pack() | u64::from(self.list) << LIST_SHIFT
    }

    pub(crate) fn unpack(id: u64) -> ListId {
        let SlotId { index, generation } = SlotId::unpack(id);
        ListId {
            slot: SlotId {
                index: index & ((1 << LIST_SHIFT) - 1),
                generation,
            },
            // Whatever it says, it is one of the lists there are.
            list: (index >> LIST_SHIFT) % LISTS as u32,
        }
    }
}

impl SlotRef {
    pub(crate) fn tag(self) -> Tag {
        // Relaxed: who has a count of the slot knows what it is.
        Tag::unpack(self.slot.tag.load(Ordering::Relaxed))
    }

    pub(crate) fn kind(self) -> Option<Kind> {
        Kind::of(self.tag().kind)
    }

    /// The slot's name, which is good until the slot is freed.
    #[inline]
    pub(crate) fn id(self) -> SlotId {
        SlotId {
            index: self.index(),
            generation: self.tag().generation,
        }
    }

    /// How many wait in a list at this moment.
    pub(crate) fn waiters(self, list: usize) -> u32 {
        self.slot.lists[list].count.load(Ordering::Relaxed)
    }

    /// Locks the slot's mutex, which is never held for long and never while code of a user runs.
    ///
    /// If the process that has it dies, whoever finds out puts the slot in order and goes on.
    #[inline]
    pub(crate) fn lock(self) -> Locked {
        self.slot.mutex.lock(self.mark(), move |dead| {
            self.seize(dead);
        });
        Locked { slot: self }
    }

    /// If the mutex is held by a process that is gone, puts the slot in order and unlocks it; says whether it was.
    pub(super) fn seize(self, dead: u16) -> bool {
        let seized = self.slot.mutex.seize(dead, mark_of(me()));
        if seized {
            let locked = Locked { slot: self };
            let mut wakes = super::reaper::repair(&locked, dead);
            drop(locked);
            wakes.wake();
        }
        seized
    }

    /// Whether the mutex, or the gate, is held by a process that is gone, as was found out after all that it did.
    pub(super) fn is_locked_by(self, dead: u16) -> bool {
        self.slot.mutex.holder() == dead || self.gatekeeper() == dead
    }

    /// The process that has the mutex, or none, 0.
    #[cfg(all(test, freethreading_loom))]
    pub(super) fn holder(self) -> u16 {
        self.slot.mutex.holder()
    }
}

/// The waiter with this number, where there is one: mostly a waiter is alone in its list.
#[inline]
fn waiter(index: u32) -> Option<&'static Node> {
    match index {
        0 => None,
        _ => arena().waiters.get(index),
    }
}

/// A slot whose mutex is held.
pub(crate) struct Locked {
    pub(crate) slot: SlotRef,
}

impl Deref for Locked {
    type Target = Slot;

    fn deref(&self) -> &Slot {
        self.slot.slot
    }
}

impl Drop for Locked {
    #[inline]
    fn drop(&mut self) {
        self.mutex.unlock();
    }
}

// Links are read and written under the mutex only, which orders them: Relaxed. A number that leads
// nowhere ends the list.
impl Locked {
    pub(crate) fn is_empty(&self, list: usize) -> bool {
        self.lists[list].first.load(Ordering::Relaxed) == 0
    }

    /// The name of one of the lists.
    #[inline]
    pub(super) fn id(&self, list: usize) -> ListId {
        ListId {
            slot: self.slot.id(),
            list: list as u32,
        }
    }

    /// Whether a waiter is in one of the lists.
    pub(crate) fn has(&self, waiter: &Node) -> bool {
        // In this order: one that was told something, and is about to wait again, has left its list before that.
        !waiter.state().is_told() && waiter.list().slot == self.slot.id()
    }

    /// Notes that a waiter has come after all that were there before.
    #[inline]
    pub(crate) fn stamp(&self, waiter: &Node) {
        let ticket = self.tickets.load(Ordering::Relaxed) + 1;
        self.tickets.store(ticket, Ordering::Relaxed);
        waiter.ticket.store(ticket, Ordering::Relaxed);
    }

    /// The ticket of the waiter who has come last.
    pub(crate) fn last_ticket(&self) -> u64 {
        self.tickets.load(Ordering::Relaxed)
    }

    /// Puts a waiter behind the others, or in front of them if it has waited before.
    #[inline]
    pub(crate) fn push(&self, list: usize, index: u32, node: &Node, front: bool) {
        node.list.store(self.id(list).pack(), Ordering::Relaxed);
        let ends = &self.lists[list];
        let (end, other_end) = match front {
            true => (&ends.first, &ends.last),
            false => (&ends.last, &ends.first),
        };
        let (inward, outward) = match front {
            true => (&node.next, &node.previous),
            false => (&node.previous, &node.next),
        };
        let neighbour = end.load(Ordering::Relaxed);
        inward.store(neighbour, Ordering::Relaxed);
        outward.store(0, Ordering::Relaxed);
        match waiter(neighbour) {
            None => other_end.store(index, Ordering::Relaxed),
            Some(neighbour) if front => neighbour.previous.store(index, Ordering::Relaxed),
            Some(neighbour) => neighbour.next.store(index, Ordering::Relaxed),
        }
        end.store(index, Ordering::Relaxed);
        let count = ends.count.load(Ordering::Relaxed);
        ends.count.store(count.wrapping_add(1), Ordering::Relaxed);
    }

    /// Takes a waiter, which is in this list, out of it.
    #[inline]
    pub(crate) fn unlink(&self, list: usize, node: &Node) {
        #[cfg(any(debug_assertions, freethreading_loom))]
        assert_eq!(node.list(), self.id(list), "it is in this list");
        let ends = &self.lists[list];
        let next = node.next.load(Ordering::Relaxed);
        let previous = node.previous.load(Ordering::Relaxed);
        match waiter(next) {
            Some(next) => next.previous.store(previous, Ordering::Relaxed),
            None => ends.last.store(previous, Ordering::Relaxed),
        }
        match waiter(previous) {
            Some(previous) => previous.next.store(next, Ordering::Relaxed),
            None => ends.first.store(next, Ordering::Relaxed),
        }
        let count = ends.count.load(Ordering::Relaxed);
        ends.count.store(count.wrapping_sub(1), Ordering::Relaxed);
    }

    /// Takes the first waiter out of a list. It has to be told something, or put into another list.
    ///
    /// Should this process be killed before it does so, the waiter is put back.
    #[inline]
    pub(crate) fn take(&self, list: usize) -> Option<(u32, &'static Node)> {
        self.take_if(list, |_| true)
    }

    /// The same, if the first waiter is one of those.
    #[inline]
    pub(crate) fn take_if(
        &self,
        list: usize,
        is_one: impl FnOnce(&Node) -> bool,
    ) -> Option<(u32, &'static Node)> {
        let index = self.lists[list].first.load(Ordering::Relaxed);
        let first = waiter(index).filter(|first| is_one(first))?;
        self.unlink(list, first);
        Some((index, first))
    }

    /// Takes the first waiter out of a list and tells it something; it has to be woken, once the mutex
    /// is free.
    pub(crate) fn pop(&self, list: usize, message: State) -> Option<Woken> {
        self.take(list).map(|(_, waiter)| waiter.tell(message))
    }

    /// The same for all that are in a list, which are taken out all at once: who is not told yet, should this process be
    /// killed, still knows in which list it was.
    // Always: mostly there is one, or none, and a call takes about as long as the rest.
    #[inline(always)]
    pub(crate) fn pop_all(&self, list: usize, wakes: &mut Wakes, outcome: u32) {
        let first = self.lists[list].first.load(Ordering::Relaxed);
        if let Some(first) = waiter(first) {
            self.clear(list);
            let next = self.notify(list, first, wakes, outcome);
            if next != 0 {
                self.notify_from(list, next, wakes, outcome);
            }
        }
    }

    /// Notifies one that was in this list; says who came after it.
    #[inline]
    fn notify(&self, list: usize, node: &'static Node, wakes: &mut Wakes, outcome: u32) -> u32 {
        if cfg!(any(debug_assertions, freethreading_loom)) {
            assert_eq!(node.list(), self.id(list), "it was in this list");
        }
        // Before it is told, and may wait somewhere else.
        let next = node.next.load(Ordering::Relaxed);
        node.set_outcome(outcome);
        wakes.add(node.tell(State::Notified));
        next
    }

    #[inline(never)]
    fn notify_from(&self, list: usize, mut next: u32, wakes: &mut Wakes, outcome: u32) {
        // Links that were damaged must not keep this from ending.
        for _ in 0..1 << 24 {
            let Some(node) = waiter(next) else {
                break;
            };
            next = self.notify(list, node, wakes, outcome);
        }
    }

    #[inline]
    fn clear(&self, list: usize) {
        let ends = &self.lists[list];
        ends.first.store(0, Ordering::Relaxed);
        ends.last.store(0, Ordering::Relaxed);
        ends.count.store(0, Ordering::Relaxed);
    }

    /// Forgets the links of a list and makes them anew from the waiters, in this order.
    pub(super) fn relink(&self, list: usize, waiters: &[(u32, &'static Node)]) {
        self.clear(list);
        for &(index, waiter) in waiters {
            self.push(list, index, waiter, false);
        }
    }
}
