//! What both kinds of queue are made of: plain items in this process's memory, until the queue is shared
//! with another process; from then on encoded items in the arena.
//! Putting, taking and waiting for the end are in [`put`](super::put), [`get`](super::get) and
//! [`join`](super::join).

use std::{
    fmt,
    panic::RefUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use parking_lot::{Condvar, Mutex};
use serde::{Deserializer, Serializer, ser};

use super::{
    join::LOOK_AGAIN,
    plain::{Plain, Stage},
    shared::RawQueue,
};
use crate::{
    arena::{
        handle::Handle,
        parcel::Parcel,
        passage::{self, Luggage, Reach},
        slot::{Kind, LISTS, Locked},
        waiter::{State, Wakes},
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
    moving: Mutex<()>,
    /// Tells that the items are no longer on their way.
    moved: Condvar,
    codec: std::sync::OnceLock<ItemCodec<T>>,
}

// No panic leaves a queue half changed: user code runs outside of its locks.
impl<T> RefUnwindSafe for Local<T> {}

/// How items are encoded; known once the queue is shared, which only queues of portable items can be.
pub(super) struct ItemCodec<T> {
    pub(super) encode: fn(&T, &mut Parcel) -> Result<(), CodecError>,
    pub(super) decode: fn(&Parcel, &mut Option<T>) -> Result<(), CodecError>,
}

impl<T: Portable> ItemCodec<T> {
    fn new() -> Self {
        ItemCodec {
            encode: |item, parcel| {
                let mut luggage = Luggage::default();
                let (bytes, part) = (&mut parcel.bytes, Part::Argument);
                codec::encode(item, bytes, part, Reach::Tree, &mut luggage)
                    .map_err(CodecError::of_item)?;
                if !luggage.is_empty() {
                    parcel.luggage = luggage.ids();
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
            moving: Mutex::new(()),
            moved: Condvar::new(),
            codec: std::sync::OnceLock::new(),
        })
    }

    #[inline]
    pub(super) fn is_shared(&self) -> bool {
        // Acquire: pairs with the store in `move_items`, before which the codec is set.
        self.shared.load(Ordering::Acquire)
    }

    /// Waits for another thread that moves the items, if one does; says whether it did.
    #[inline]
    pub(super) fn was_moving(&self, stage: Stage) -> bool {
        let by_another = matches!(stage, Stage::Moving(by) if by != thread::current().id());
        if by_another {
            self.wait_until_moved();
        }
        by_another
    }

    #[cold]
    fn wait_until_moved(&self) {
        let mut moving = self.moving.lock();
        while matches!(self.plain.stage(), Stage::Moving(_)) {
            self.moved.wait(&mut moving);
        }
    }

    /// The items are where they are to stay.
    fn settled(&self) {
        // Who has seen that they were on their way waits by now.
        drop(self.moving.lock());
        self.moved.notify_all();
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
        match self.local.is_shared() {
            false => self.local.plain.len(),
            true => self.raw().len(),
        }
    }

    /// Tells the next who waits in a list, or all of them; the items are here.
    #[cold]
    pub(super) fn tell(&self, list: usize, all: bool) {
        let mut wakes = Wakes::default();
        {
            let slot = self.raw().0.lock();
            match all {
                true => slot.pop_all(list, &mut wakes, 0),
                false => self.tell_next(&slot, list, &mut wakes),
            }
            self.tidy(&slot, list);
        }
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

    pub(super) fn debug(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct(name);
        debug.field("qsize", &self.len());
        debug.field("maxsize", &self.local.maxsize).finish()
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
        let local = &*self.local;
        if local.is_shared() {
            return Ok(());
        }
        let _ = local.codec.set(ItemCodec::new());
        let me = thread::current().id();
        let items = loop {
            match local.plain.take_out(me) {
                Ok(items) => break items,
                Err(Stage::Moving(by)) if by == me => {
                    return Err("a queue cannot be an item of itself".into());
                }
                Err(Stage::Shared) => return Ok(()),
                Err(stage) => drop(local.was_moving(stage)),
            }
        };
        // User code runs here, and no lock is held; who wants an item meanwhile waits for us.
        let encode = |item| {
            let mut parcel = Parcel::default();
            (local.codec().encode)(item, &mut parcel).map(|()| parcel)
        };
        let parcels: Result<Vec<_>, _> = items.iter().map(encode).collect();
        let moved = parcels
            .map_err(|error| error.to_string())
            .and_then(|parcels| self.move_items(&parcels).map_err(|error| error.to_string()));
        if moved.is_err() {
            local.plain.put_back(items);
            local.settled();
            self.tell_all_to_look();
        } else {
            // Whatever their destructors do, outside of all locks.
            items.into_iter().for_each(unwind::discard);
        }
        moved
    }

    fn move_items(&self, parcels: &[Parcel]) -> std::io::Result<()> {
        let plain = &self.local.plain;
        {
            let slot = self.raw().0.lock();
            let unfinished = plain.close();
            if let Err(error) = self.raw().fill(&slot, parcels, unfinished as usize) {
                plain.reopen();
                return Err(error);
            }
            // Release: who sees it sees the codec.
            self.local.shared.store(true, Ordering::Release);
            plain.leave();
        }
        self.local.settled();
        self.tell_all_to_look();
        Ok(())
    }

    /// The items have moved, or not: who got in line meanwhile has not seen them.
    fn tell_all_to_look(&self) {
        let mut wakes = Wakes::default();
        {
            let slot = self.raw().0.lock();
            for list in 0..LISTS {
                slot.pop_all(list, &mut wakes, LOOK_AGAIN);
                self.tidy(&slot, list);
            }
        }
        wakes.wake();
    }
}
