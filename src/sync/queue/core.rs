//! What both kinds of queue are made of: plain items in this process's memory, until the queue is shared
//! with another process; from then on encoded items in the arena.
//! Putting, taking and waiting for the end are in [`put`](super::put), [`get`](super::get) and
//! [`join`](super::join).

use std::{
    mem,
    panic::RefUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde::{Deserializer, Serializer, ser};

use super::{
    convoy::{self, Cargo},
    join::LOOK_AGAIN,
    plain::{Plain, Stage},
    shared::RawQueue,
};
use crate::{
    arena::{
        handle::Handle,
        node::{State, Wakes},
        parcel::Parcel,
        passage::{self, Luggage, Reach},
        slot::{Kind, LISTS, Locked},
    },
    codec,
    error::{CodecError, Error, Part},
    task::Portable,
    unwind,
};

pub(super) struct Core<T> {
    pub(super) handle: Handle,
    pub(super) local: Arc<Local<T>>,
}

impl<T> Clone for Core<T> {
    fn clone(&self) -> Self {
        Core {
            handle: self.handle.clone(),
            local: Arc::clone(&self.local),
        }
    }
}

/// What this process knows of a queue.
pub(super) struct Local<T> {
    pub(super) maxsize: usize,
    /// The items are in the arena, and will stay there.
    shared: AtomicBool,
    pub(super) plain: Plain<T>,
    codec: std::sync::OnceLock<ItemCodec<T>>,
}

// No panic leaves a queue half changed: user code runs outside of its locks.
impl<T> RefUnwindSafe for Local<T> {}

/// How items are encoded; known once the queue is shared, which only queues of portable items can be.
pub(super) struct ItemCodec<T> {
    pub(super) encode: fn(&T, &mut Parcel, Reach) -> Result<(), CodecError>,
    pub(super) decode: fn(&Parcel, &mut Option<T>) -> Result<(), CodecError>,
}

impl<T: Portable> ItemCodec<T> {
    fn new() -> Self {
        ItemCodec {
            encode: |item, parcel, reach| {
                let mut luggage = Luggage::default();
                let (bytes, part) = (&mut parcel.bytes, Part::Argument);
                codec::encode(item, bytes, part, reach, &mut luggage)
                    .map_err(CodecError::of_item)?;
                if !luggage.is_empty() {
                    parcel.load(luggage);
                }
                Ok(())
            },
            decode: |parcel, item| {
                codec::decode_into(&parcel.bytes, Part::Result, item).map_err(CodecError::of_item)
            },
        }
    }
}

impl<T> Local<T> {
    fn new(maxsize: usize, stage: Stage) -> Arc<Self> {
        Arc::new(Local {
            maxsize,
            shared: AtomicBool::new(stage == Stage::Shared),
            plain: Plain::new(maxsize, stage),
            codec: std::sync::OnceLock::new(),
        })
    }

    #[inline]
    pub(super) fn is_shared(&self) -> bool {
        // Acquire: pairs with the store in `open`, before which the codec is set.
        self.shared.load(Ordering::Acquire)
    }

    pub(super) fn codec(&self) -> &ItemCodec<T> {
        self.codec.get().expect("a shared queue has a codec")
    }
}

impl<T> Core<T> {
    pub(super) fn new(kind: Kind, maxsize: usize) -> Result<Self, Error> {
        let handle = Handle::new(kind, |slot| RawQueue(slot).init(maxsize))?;
        Ok(Core {
            handle,
            local: Local::new(maxsize, Stage::Here),
        })
    }

    #[inline]
    pub(super) fn raw(&self) -> RawQueue {
        RawQueue(self.handle.slot())
    }

    pub(super) fn maxsize(&self) -> usize {
        self.local.maxsize
    }

    pub(super) fn len(&self) -> usize {
        let len = match self.local.is_shared() {
            false => self.local.plain.len(),
            true => self.raw().len(),
        };
        match self.maxsize() {
            0 => len,
            maxsize => len.min(maxsize),
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.maxsize() != 0 && self.len() >= self.maxsize()
    }

    /// Tells the next who waits in a list.
    #[cold]
    pub(super) fn tell(&self, list: usize) {
        let mut wakes = Wakes::default();
        self.tell_next(&self.raw().0.lock(), list, &mut wakes);
        wakes.wake();
    }

    /// Tells the next who waits in a list that there is something, which is kept for one who was
    /// overtaken often enough.
    pub(super) fn tell_next(&self, slot: &Locked, list: usize, wakes: &mut Wakes) {
        if let Some((_, waiter)) = slot.take(list) {
            let message = match waiter.is_starved() && self.local.plain.keep(list) {
                true => State::Handed,
                false => State::Notified,
            };
            wakes.add(waiter.tell(message));
        }
        self.tidy(slot, list);
    }

    /// Nobody waits in the list any more, perhaps.
    pub(super) fn tidy(&self, slot: &Locked, list: usize) {
        if slot.is_empty(list) {
            self.local.plain.unwanted(list);
        }
    }
}

impl<T: Portable> Core<T> {
    pub(super) fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // First of all whether the handle can go where it is to go.
        passage::check().map_err(ser::Error::custom)?;
        self.share().map_err(ser::Error::custom)?;
        passage::serialize(&self.handle, serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        kind: Kind,
        deserializer: D,
    ) -> Result<Self, D::Error> {
        let handle = passage::deserialize(kind, deserializer)?;
        let maxsize = RawQueue(handle.slot()).maxsize();
        let local = Local::new(maxsize, Stage::Shared);
        let _ = local.codec.set(ItemCodec::new());
        Ok(Core { handle, local })
    }

    /// Moves the items into the arena, where other processes can reach them.
    fn share(&self) -> Result<(), String> {
        if self.local.is_shared() {
            return Ok(());
        }
        let _ = self.local.codec.set(ItemCodec::new());
        match passage::is_moving().then(convoy::mine).flatten() {
            // It is in an item of another queue, or of its own.
            Some(convoy) => self.load(convoy),
            None => convoy::travel(|convoy| self.load(convoy)),
        }
    }

    /// Moves the items as a part of a convoy; unless they are on their way already.
    fn load(&self, convoy: u64) -> Result<(), String> {
        let local = &*self.local;
        let items = loop {
            match local.plain.take_out(convoy) {
                Ok(items) => break items,
                Err(Stage::Shared) => return Ok(()),
                Err(Stage::Moving(other)) if other == convoy || convoy::need(convoy, other) => {
                    return Ok(());
                }
                // It has just arrived, or is here again.
                Err(_) => {}
            }
        };
        // User code runs here, and no lock is held; who wants an item meanwhile waits for us.
        let encode = |item| {
            let mut parcel = Parcel::default();
            (local.codec().encode)(item, &mut parcel, Reach::Moved).map(|()| parcel)
        };
        let parcels: Result<Vec<_>, _> = items.iter().map(encode).collect();
        let loaded = parcels
            .map_err(|error| error.to_string())
            .and_then(|parcels| {
                let raw = self.raw();
                let filled = raw.fill(&raw.0.lock(), &parcels);
                filled.map_err(|error| error.to_string())
            });
        let core = self.clone();
        convoy::add(
            convoy,
            Box::new(Load { core, items }),
            loaded.as_ref().err(),
        );
        loaded
    }
}

/// A queue that is on its way, with the items that it had.
struct Load<T> {
    core: Core<T>,
    items: Vec<T>,
}

impl<T: Send> Cargo for Load<T> {
    fn close(&self) {
        let raw = self.core.raw();
        let slot = raw.0.lock();
        raw.set_unfinished(&slot, self.core.local.plain.close());
    }

    fn open(&self) {
        // Release: who sees it sees the codec.
        self.core.local.shared.store(true, Ordering::Release);
        self.core.local.plain.leave();
    }

    fn put_back(&mut self) {
        self.core.raw().clear();
        self.core.local.plain.put_back(mem::take(&mut self.items));
    }

    /// Who got in line meanwhile has not seen the items.
    fn tell(&self) {
        let mut wakes = Wakes::default();
        {
            let slot = self.core.raw().0.lock();
            for list in 0..LISTS {
                slot.pop_all(list, &mut wakes, LOOK_AGAIN);
                self.core.tidy(&slot, list);
            }
        }
        wakes.wake();
    }
}

impl<T> Drop for Load<T> {
    /// Whatever their destructors do, outside of all locks.
    fn drop(&mut self) {
        self.items.drain(..).for_each(unwind::discard);
    }
}

/// How many items were put and not taken, as these counts say: at one moment, unless others are faster again and again.
pub(super) fn between(taken: impl Fn() -> u64, put: impl Fn() -> u64) -> usize {
    const LOOKS: u32 = 8;

    let mut len = 0;
    for _ in 0..LOOKS {
        // In this order: what is taken was put before.
        let before = taken();
        len = put().wrapping_sub(before);
        if len == 0 || taken() == before {
            break;
        }
    }
    len as usize
}

#[cfg(all(test, not(freethreading_loom)))]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn what_is_taken_between_two_looks_is_not_there() {
        let taken = Cell::new(0);
        let put = || {
            // Somebody puts and takes meanwhile.
            taken.set(if taken.get() < 11 { 11 } else { 12 });
            13
        };
        assert_eq!(between(|| taken.get(), put), 1);
        assert_eq!(between(|| 7, || 7), 0);
        // Somebody takes whenever it is looked; it comes to an end.
        let put = Cell::new(2);
        let takes = || put.replace(put.get() + 1) - 2;
        assert!(between(takes, || put.get()) > 0);
    }
}
