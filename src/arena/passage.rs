//! How a primitive travels: its slot's name is encoded, and what carries the encoding, the luggage, holds the slot until
//! the other side has one of its own.

use std::{
    cell::{Cell, RefCell},
    sync::atomic::{AtomicBool, Ordering},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

use super::{
    arena,
    handle::{Handle, SlotId},
    reachable,
    slot::Kind,
};

/// How far an encoding goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// To a process that shares this one's memory.
    Tree,
    /// The same, as an item of a queue that is on its way there.
    Moved,
    /// Perhaps to another machine.
    Beyond,
}

/// Primitives that are on their way, in encoded form.
#[derive(Clone, Default)]
pub(crate) struct Luggage(Vec<Handle>);

impl Luggage {
    pub(super) const NONE: Luggage = Luggage(Vec::new());

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn ids(&self) -> Vec<u64> {
        self.0.iter().map(|handle| handle.id().pack()).collect()
    }

    /// The same primitives, held by this process; those that are gone are left out.
    pub(crate) fn attach(ids: &[u64]) -> Luggage {
        let ids = ids.iter().map(|&id| SlotId::unpack(id));
        Luggage(ids.filter_map(Handle::attach_any).collect())
    }
}

/// Whether the process that started this one shares its memory.
static PARENT: AtomicBool = AtomicBool::new(true);

/// How far what is encoded for the parent goes.
pub(crate) fn to_parent() -> Reach {
    // Relaxed: it is set before any task runs.
    match PARENT.load(Ordering::Relaxed) {
        true => Reach::Tree,
        false => Reach::Beyond,
    }
}

/// The parent does not share this process's memory.
pub(crate) fn parent_is_beyond() {
    PARENT.store(false, Ordering::Relaxed);
}

thread_local! {
    /// How far what is being packed on this thread goes.
    static PACKING: Cell<Reach> = const { Cell::new(Reach::Beyond) };
    /// How many primitives have been packed, and not been carried away yet.
    static PACKED: Cell<usize> = const { Cell::new(0) };
    /// Those; looked at only where there are some.
    static HANDLES: RefCell<Vec<Handle>> = const { RefCell::new(Vec::new()) };
}

/// Calls `code`, which encodes something that goes so far; what it has packed is added to the luggage.
#[inline]
pub(crate) fn pack<T>(reach: Reach, luggage: &mut Luggage, code: impl FnOnce() -> T) -> T {
    /// What encloses this, which may be an encoding too, goes on as before.
    struct Outer {
        packing: Reach,
        packed: usize,
    }
    impl Outer {
        #[cold]
        fn carry_away(&self) -> Vec<Handle> {
            PACKED.set(self.packed);
            HANDLES.with_borrow_mut(|handles| handles.split_off(self.packed))
        }
    }
    impl Drop for Outer {
        fn drop(&mut self) {
            PACKING.set(self.packing);
            if PACKED.get() != self.packed {
                drop(self.carry_away());
            }
        }
    }
    let outer = Outer {
        packing: PACKING.replace(reach),
        packed: PACKED.get(),
    };
    let result = code();
    if PACKED.get() != outer.packed {
        luggage.0.extend(outer.carry_away());
    }
    result
}

/// Whether a primitive can be encoded here and now, or why not.
pub(crate) fn check() -> Result<(), String> {
    if let Err(why) = reachable() {
        return Err(format!(
            "the system has no memory that processes can share, so a primitive can only be used by \
             threads: {why}"
        ));
    }
    if PACKING.get() == Reach::Beyond {
        return Err(
            "a primitive can only be encoded for a worker process of this machine, as a part of \
                    a task, of its result or of a queue's item: nobody else reaches its memory"
                .into(),
        );
    }
    Ok(())
}

/// Whether it is an item of a queue that is on its way that is being packed on this thread.
pub(crate) fn is_moving() -> bool {
    PACKING.get() == Reach::Moved
}

/// What encloses it carries these primitives too.
pub(crate) fn add(luggage: &Luggage) {
    if PACKING.get() != Reach::Beyond && !luggage.is_empty() {
        // In this order: on a thread that ends they may be gone, which is a panic of this encoding.
        HANDLES.with_borrow_mut(|handles| handles.extend_from_slice(&luggage.0));
        PACKED.set(PACKED.get() + luggage.0.len());
    }
}

/// Encodes the name of a primitive.
pub(crate) fn serialize<S: Serializer>(handle: &Handle, serializer: S) -> Result<S::Ok, S::Error> {
    check().map_err(ser::Error::custom)?;
    add(&Luggage(vec![handle.clone()]));
    let SlotId { index, generation } = handle.id();
    (arena().id, index, generation).serialize(serializer)
}

/// A handle to the primitive whose name was encoded.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
    kind: Kind,
    deserializer: D,
) -> Result<Handle, D::Error> {
    let (id, index, generation) = <(u64, u32, u32)>::deserialize(deserializer)?;
    if id != arena().id {
        return Err(de::Error::custom(
            "the primitive is one of another program, or this process cannot reach its memory",
        ));
    }
    Handle::attach(SlotId { index, generation }, kind).map_err(de::Error::custom)
}
