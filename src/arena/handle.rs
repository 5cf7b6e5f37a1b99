//! What keeps a slot alive: it is freed with the last handle in the last process.

use std::{fmt, io, sync::Arc};

use super::{
    arena, me,
    pool::Unit,
    ready,
    slot::{Kind, SlotRef},
};
use crate::{
    error::Error,
    fork,
    shim::{AtomicU64, Ordering},
};

/// Notes that a process has a slot, so that the slot is let go when the process dies; 16 bytes.
#[derive(Default)]
#[repr(C)]
pub(crate) struct Record {
    tag: AtomicU64,
    /// The slot's number and generation.
    slot: AtomicU64,
}

impl Unit for Record {
    fn tag(&self) -> &AtomicU64 {
        &self.tag
    }

    fn reset(&self) {
        // Relaxed: freeing the unit publishes it.
        self.slot.store(0, Ordering::Relaxed);
    }

    #[cfg(freethreading_loom)]
    fn new() -> Self {
        Record::default()
    }
}

const RECORD: u16 = 1;

/// A slot as it is named in other processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SlotId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl SlotId {
    pub(crate) fn pack(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    pub(crate) fn unpack(id: u64) -> SlotId {
        SlotId {
            index: id as u32,
            generation: (id >> 32) as u32,
        }
    }
}

/// A handle to a slot. Its clones are handles to the same one.
#[derive(Clone)]
pub(crate) struct Handle {
    slot: SlotRef,
    _attachment: Arc<Attachment>,
}

/// One count of a slot, this process's.
struct Attachment {
    slot: SlotRef,
    record: (u32, &'static Record),
}

impl Handle {
    /// A new slot, which `init` fills in before anybody else can know of it.
    pub(crate) fn new(kind: Kind, init: impl FnOnce(SlotRef)) -> Result<Handle, Error> {
        let no_memory = |error: io::Error| Error::Arena(error.to_string());
        ready().map_err(no_memory)?;
        let (index, slot) = arena().slots.claim(me(), kind as u16).map_err(no_memory)?;
        let slot = SlotRef::new(index, slot);
        init(slot);
        // Release: who comes with the name of what the slot was before, and finds it in use, finds
        // that it is another now.
        slot.refs.store(1, Ordering::Release);
        Handle::recorded(slot).map_err(no_memory)
    }

    /// Takes over one count of the slot.
    fn recorded(slot: SlotRef) -> io::Result<Handle> {
        let (index, record) = match arena().records.claim(me(), RECORD) {
            Ok(record) => record,
            Err(error) => {
                release(slot);
                return Err(error);
            }
        };
        // Release: should the process be killed, no count is given back that was not taken.
        record.slot.store(slot.id().pack(), Ordering::Release);
        Ok(Handle {
            slot,
            _attachment: Arc::new(Attachment {
                slot,
                record: (index, record),
            }),
        })
    }

    /// A handle to the slot that another process, or a queue, has named.
    pub(crate) fn attach(id: SlotId, kind: Kind) -> Result<Handle, String> {
        let slot = retain(id).ok_or("the primitive does not exist any more")?;
        if slot.kind() != Some(kind) {
            let is = slot.kind();
            release(slot);
            return Err(format!("expected a {kind:?}, and it is a {is:?}"));
        }
        Handle::recorded(slot).map_err(|error| error.to_string())
    }

    /// A handle to a slot, whatever it is used as, if there is such a one.
    pub(super) fn attach_any(id: SlotId) -> Option<Handle> {
        Handle::recorded(retain(id)?).ok()
    }

    #[inline]
    pub(crate) fn slot(&self) -> SlotRef {
        self.slot
    }

    pub(crate) fn id(&self) -> SlotId {
        self.slot.id()
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        // It is that of the process that this one was forked from.
        if fork::is_forked() {
            return;
        }
        let (index, record) = self.record;
        arena().records.free(index, record);
        release(self.slot);
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.slot.tag(), self.slot.index())
    }
}

/// Adds one to the count of a slot, if it is still the one that is meant.
pub(super) fn retain(id: SlotId) -> Option<SlotRef> {
    let slot = arena().slots.get(id.index)?;
    let slot = SlotRef::new(id.index, slot);
    let more = |refs: u32| if refs == 0 { None } else { refs.checked_add(1) };
    // Acquire: what was done by who made it, or had it, is seen.
    slot.refs
        .fetch_update(Ordering::Acquire, Ordering::Relaxed, more)
        .ok()?;
    // It was in use, but perhaps as another one already.
    if slot.id() != id {
        release(slot);
        return None;
    }
    Some(slot)
}

/// Takes one from the count of a slot, and frees it if that was the last.
pub(super) fn release(slot: SlotRef) {
    let fewer = |refs: u32| refs.checked_sub(1);
    // AcqRel: who frees it sees what all others have done with it.
    let before = slot
        .refs
        .fetch_update(Ordering::AcqRel, Ordering::Relaxed, fewer);
    if before == Ok(1) {
        free(slot);
    }
}

/// Frees a slot that nobody has any more.
fn free(slot: SlotRef) {
    crate::sync::bereaved::clear(slot);
    arena().slots.free(slot.index(), slot.slot);
}

/// Frees a slot that nobody has any more, if a dead process was in the middle of that: it has the mutex then.
pub(super) fn free_after(slot: SlotRef, process: u16) {
    // Acquire: as of `retain`.
    if slot.refs.load(Ordering::Acquire) == 0 && slot.seize(process) {
        free(slot);
    }
}

/// The same for a count that goes with a name.
pub(super) fn release_named(id: SlotId) {
    if let Some(slot) = arena().slots.get(id.index) {
        let slot = SlotRef::new(id.index, slot);
        if slot.id() == id {
            release(slot);
        }
    }
}

/// A slot that stays what it is for a moment, whoever else lets go of it. A process that is killed meanwhile has at
/// worst held on to it for good.
pub(crate) struct Held(SlotRef);

impl Held {
    /// `None` if the slot is free, or another one by now.
    pub(crate) fn of(id: SlotId) -> Option<Held> {
        retain(id).map(Held)
    }

    pub(crate) fn slot(&self) -> SlotRef {
        self.0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        release(self.0);
    }
}

/// Lets go of what a dead process had.
pub(super) fn release_all_of(process: u16) {
    for (index, record, tag) in arena().records.used() {
        if tag.owner != process {
            continue;
        }
        // Acquire: what the record names was there before it.
        let id = SlotId::unpack(record.slot.load(Ordering::Acquire));
        arena().records.free(index, record);
        // A record that was never filled in names no slot.
        release_named(id);
    }
}
