//! What both kinds of queue are made of: plain items in this process's memory, until the queue is shared
//! with another process; from then on encoded items in the arena.
//! Putting, taking and waiting for the end are in [`put`](super::put), [`get`](super::get) and
//! [`join`](super::join).

use std::{
    collections::VecDeque,
    fmt, mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, ThreadId},
};

use parking_lot::{Condvar, Mutex};
use serde::{Deserializer, Serializer, ser};

use super::{
    join::LOOK_AGAIN,
    shared::{GETTERS, PUTTERS, RawQueue},
};
use crate::{
    arena::{
        handle::Handle,
        parcel::Parcel,
        passage::{self, Reach},
        slot::{Kind, LISTS, Locked},
        waiter::{State, Wakes},
    },
    codec,
    error::{CodecError, Error, Part},
    spin::SpinLock,
    task::Portable,
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
    mode: SpinLock<Mode<T>>,
    moving: Mutex<()>,
    /// Tells that the items are no longer on their way.
    moved: Condvar,
    codec: std::sync::OnceLock<ItemCodec<T>>,
}

enum Mode<T> {
    Plain(Plain<T>),
    /// A thread is encoding the items.
    Moving(ThreadId),
    Shared,
}

pub(super) struct Plain<T> {
    pub(super) items: VecDeque<T>,
    /// How many items were put and are not done.
    pub(super) unfinished: usize,
    /// In which lists of the slot somebody waits. Set and cleared under both mutexes, the slot's first.
    pub(super) waited_for: [bool; LISTS],
}

/// How items are encoded; known once the queue is shared, which only queues of portable items can be.
pub(super) struct ItemCodec<T> {
    pub(super) encode: fn(&T, &mut Parcel) -> Result<(), CodecError>,
    pub(super) decode: fn(&Parcel, &mut Option<T>) -> Result<(), CodecError>,
}

impl<T: Portable> ItemCodec<T> {
    fn new() -> Self {
        ItemCodec {
            encode: |item, parcel| {
                let luggage = codec::encode(item, &mut parcel.bytes, Part::Argument, Reach::Tree)
                    .map_err(CodecError::of_item)?;
                parcel.luggage = luggage.ids();
                Ok(())
            },
            decode: |parcel, item| {
                codec::decode_into(&parcel.bytes, Part::Result, item).map_err(CodecError::of_item)
            },
        }
    }
}

/// Where the items are at this moment.
pub(super) enum Found<R> {
    /// In this process; what was done with them.
    Plain(R),
    Shared,
    /// On their way, by the very thread that asks.
    Moving,
}

impl<T> Local<T> {
    fn new(maxsize: usize, mode: Mode<T>) -> Arc<Self> {
        Arc::new(Local {
            maxsize,
            shared: AtomicBool::new(matches!(mode, Mode::Shared)),
            mode: SpinLock::new(mode),
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

    /// Does something with the items, if they are here. Items must not be dropped in there.
    #[inline]
    pub(super) fn with<R>(&self, access: impl FnOnce(&mut Plain<T>) -> R) -> Found<R> {
        if self.is_shared() {
            return Found::Shared;
        }
        loop {
            match &mut *self.mode.lock() {
                Mode::Plain(plain) => return Found::Plain(access(plain)),
                Mode::Shared => return Found::Shared,
                Mode::Moving(by) if *by == thread::current().id() => return Found::Moving,
                Mode::Moving(_) => {}
            }
            self.wait_until_moved();
        }
    }

    /// Waits for the thread that moves the items.
    #[cold]
    fn wait_until_moved(&self) {
        let mut moving = self.moving.lock();
        while matches!(*self.mode.lock(), Mode::Moving(_)) {
            self.moved.wait(&mut moving);
        }
    }

    /// The items are where they are to stay.
    fn settle(&self, mode: Mode<T>) {
        *self.mode.lock() = mode;
        // Who has seen that they were on their way waits by now.
        drop(self.moving.lock());
        self.moved.notify_all();
    }

    /// The same for who has locked the slot, and so must not wait: who moves the items tells those in
    /// the lists when it is done.
    pub(super) fn with_locked<R>(
        &self,
        _slot: &Locked,
        access: impl FnOnce(&mut Plain<T>) -> R,
    ) -> Found<R> {
        match &mut *self.mode.lock() {
            Mode::Plain(plain) => Found::Plain(access(plain)),
            Mode::Moving(_) => Found::Moving,
            Mode::Shared => Found::Shared,
        }
    }

    pub(super) fn codec(&self) -> &ItemCodec<T> {
        self.codec.get().expect("a shared queue has a codec")
    }
}

impl<T> Plain<T> {
    /// Puts the item if there is room; says whether somebody waits for it.
    #[inline]
    pub(super) fn try_put(&mut self, item: &mut Option<T>, maxsize: usize) -> Option<bool> {
        if maxsize != 0 && self.items.len() >= maxsize {
            return None;
        }
        self.items.extend(item.take());
        self.unfinished += 1;
        Some(self.waited_for[GETTERS])
    }

    /// Takes an item if there is one, and whether somebody waits for the room.
    #[inline]
    pub(super) fn try_get(&mut self) -> Option<(T, bool)> {
        let item = self.items.pop_front()?;
        Some((item, self.waited_for[PUTTERS]))
    }
}

impl<T> Core<T> {
    pub(super) fn new(kind: Kind, maxsize: usize) -> Result<Self, Error> {
        let handle = Handle::new(kind, |slot| RawQueue(slot).init(maxsize))?;
        let plain = Plain {
            items: VecDeque::new(),
            unfinished: 0,
            waited_for: [false; LISTS],
        };
        Ok(Core {
            handle,
            local: Local::new(maxsize, Mode::Plain(plain)),
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
        match self.local.with(|plain| plain.items.len()) {
            Found::Plain(len) => len,
            Found::Shared | Found::Moving => self.raw().len(),
        }
    }

    /// Tells the next who waits in a list, or all of them; the items are here.
    #[cold]
    pub(super) fn tell(&self, list: usize, all: bool) {
        let mut wakes = Wakes::default();
        {
            let slot = self.raw().0.lock();
            if all {
                slot.pop_all(list, &mut wakes, 0);
            } else if let Some(woken) = slot.pop(list, State::Notified) {
                wakes.add(woken);
            }
            self.tidy(&slot, list);
        }
        wakes.wake();
    }

    /// Nobody waits in the list any more, perhaps.
    pub(super) fn tidy(&self, slot: &Locked, list: usize) {
        if slot.is_empty(list) {
            self.local
                .with_locked(slot, |plain| plain.waited_for[list] = false);
        }
    }

    pub(super) fn debug(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct(name);
        let mode = self.local.mode.try_lock();
        match mode.as_deref() {
            Some(Mode::Plain(plain)) => debug.field("qsize", &plain.items.len()),
            Some(_) => debug.field("qsize", &self.raw().len()),
            None => debug.field("qsize", &format_args!("<locked>")),
        };
        drop(mode);
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
        let local = Local::new(maxsize, Mode::Shared);
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
        let plain = {
            loop {
                let mut mode = local.mode.lock();
                match &*mode {
                    Mode::Shared => return Ok(()),
                    Mode::Moving(by) if *by == thread::current().id() => {
                        return Err("a queue cannot be an item of itself".into());
                    }
                    Mode::Moving(_) => {}
                    Mode::Plain(_) => {
                        let moving = Mode::Moving(thread::current().id());
                        if let Mode::Plain(plain) = mem::replace(&mut *mode, moving) {
                            break plain;
                        }
                    }
                }
                drop(mode);
                local.wait_until_moved();
            }
        };
        // User code runs here, and no lock is held; who wants an item meanwhile waits for us.
        let encode = |item| {
            let mut parcel = Parcel::new();
            (local.codec().encode)(item, &mut parcel).map(|()| parcel)
        };
        let parcels: Result<Vec<_>, _> = plain.items.iter().map(encode).collect();
        let moved = parcels
            .map_err(|error| error.to_string())
            .and_then(|parcels| {
                self.move_items(&parcels, plain.unfinished)
                    .map_err(|error| error.to_string())
            });
        if moved.is_err() {
            local.settle(Mode::Plain(plain));
        } else {
            // The items, and whatever their destructors do, outside of all locks.
            drop(plain);
        }
        moved
    }

    fn move_items(&self, parcels: &[Parcel], unfinished: usize) -> std::io::Result<()> {
        let mut wakes = Wakes::default();
        {
            let slot = self.raw().0.lock();
            self.raw().fill(&slot, parcels, unfinished)?;
            // Release: who sees it sees the codec.
            self.local.shared.store(true, Ordering::Release);
            self.local.settle(Mode::Shared);
            for list in 0..LISTS {
                slot.pop_all(list, &mut wakes, LOOK_AGAIN);
            }
        }
        wakes.wake();
        Ok(())
    }
}
