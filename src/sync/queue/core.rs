//! What both kinds of queue are made of: plain items in this process's memory, until the queue is shared
//! with another process; from then on encoded items in the arena.

use std::{
    collections::VecDeque,
    fmt, mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, ThreadId},
    time::Instant,
};

use parking_lot::{Condvar, Mutex};
use serde::{Deserializer, Serializer, ser};

use super::shared::{GETTERS, JOINERS, PUTTERS, RawQueue};
use crate::{
    arena::{
        handle::Handle,
        look::Looker,
        passage::{self, Reach},
        ring::{Parcel, Reserve},
        slot::{Kind, LISTS, Locked, SlotRef},
        wait::{Miss, Resource, WaitAsync, Waiting},
        waiter::{State, Wakes},
    },
    codec,
    error::{CodecError, Error, GetError, Part, PutError, TooManyTaskDone},
    spin::SpinLock,
    task::Portable,
};

pub(super) struct Core<T> {
    handle: Handle,
    local: Arc<Local<T>>,
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
struct Local<T> {
    maxsize: usize,
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

struct Plain<T> {
    items: VecDeque<T>,
    /// How many items were put and are not done.
    unfinished: usize,
    /// In which lists of the slot somebody waits. Set and cleared under both mutexes, the slot's first.
    waited_for: [bool; LISTS],
}

/// How items are encoded; known once the queue is shared, which only queues of portable items can be.
struct ItemCodec<T> {
    encode: fn(&T) -> Result<Parcel, CodecError>,
    decode: fn(&[u8]) -> Result<T, CodecError>,
}

impl<T: Portable> ItemCodec<T> {
    fn new() -> Self {
        ItemCodec {
            encode: |item| {
                let mut bytes = Vec::new();
                let luggage = codec::encode(item, &mut bytes, Part::Argument, Reach::Tree)
                    .map_err(CodecError::of_item)?;
                Ok(Parcel {
                    bytes,
                    luggage: luggage.ids(),
                })
            },
            decode: |bytes| codec::decode(bytes, Part::Result).map_err(CodecError::of_item),
        }
    }
}

/// Where the items are at this moment.
enum Found<R> {
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
    fn is_shared(&self) -> bool {
        // Acquire: pairs with the store in `move_items`, before which the codec is set.
        self.shared.load(Ordering::Acquire)
    }

    /// Does something with the items, if they are here. Items must not be dropped in there.
    #[inline]
    fn with<R>(&self, access: impl FnOnce(&mut Plain<T>) -> R) -> Found<R> {
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
    fn with_locked<R>(&self, _slot: &Locked, access: impl FnOnce(&mut Plain<T>) -> R) -> Found<R> {
        match &mut *self.mode.lock() {
            Mode::Plain(plain) => Found::Plain(access(plain)),
            Mode::Moving(_) => Found::Moving,
            Mode::Shared => Found::Shared,
        }
    }

    fn codec(&self) -> &ItemCodec<T> {
        self.codec.get().expect("a shared queue has a codec")
    }
}

impl<T> Plain<T> {
    /// Puts the item if there is room; says whether somebody waits for it.
    #[inline]
    fn try_put(&mut self, item: &mut Option<T>, maxsize: usize) -> Option<bool> {
        if maxsize != 0 && self.items.len() >= maxsize {
            return None;
        }
        self.items.extend(item.take());
        self.unfinished += 1;
        Some(self.waited_for[GETTERS])
    }

    /// Takes an item if there is one, and whether somebody waits for the room.
    #[inline]
    fn try_get(&mut self) -> Option<(T, bool)> {
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
    fn raw(&self) -> RawQueue {
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

    /// Puts the item if there is room, and it is to stay in this process.
    #[inline]
    fn try_put_plain(&self, item: &mut Option<T>) -> Found<Option<()>> {
        let maxsize = self.local.maxsize;
        match self.local.with(|plain| plain.try_put(item, maxsize)) {
            Found::Plain(put) => {
                if put == Some(true) {
                    self.tell(GETTERS, false);
                }
                Found::Plain(put.map(drop))
            }
            Found::Shared => Found::Shared,
            Found::Moving => Found::Moving,
        }
    }

    /// Takes an item of this process, if there is one.
    #[inline]
    fn try_get_plain(&self) -> Found<Option<T>> {
        match self.local.with(Plain::try_get) {
            Found::Plain(Some((item, waited_for))) => {
                if waited_for {
                    self.tell(PUTTERS, false);
                }
                Found::Plain(Some(item))
            }
            Found::Plain(None) => Found::Plain(None),
            Found::Shared => Found::Shared,
            Found::Moving => Found::Moving,
        }
    }

    fn unfinished(&self) -> u64 {
        match self.local.with(|plain| plain.unfinished as u64) {
            Found::Plain(unfinished) => unfinished,
            Found::Shared | Found::Moving => self.raw().unfinished(),
        }
    }

    /// Tells the next who waits in a list, or all of them; the items are here.
    #[cold]
    fn tell(&self, list: usize, all: bool) {
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
    fn tidy(&self, slot: &Locked, list: usize) {
        if slot.is_empty(list) {
            self.local
                .with_locked(slot, |plain| plain.waited_for[list] = false);
        }
    }

    pub(super) fn task_done(&self) -> Result<(), TooManyTaskDone> {
        let done = self.local.with(|plain| {
            plain.unfinished = plain.unfinished.checked_sub(1)?;
            Some(plain.unfinished == 0 && plain.waited_for[JOINERS])
        });
        match done {
            Found::Plain(Some(is_last)) => {
                if is_last {
                    self.tell(JOINERS, true);
                }
                Ok(())
            }
            Found::Plain(None) => Err(TooManyTaskDone),
            Found::Shared | Found::Moving => {
                let mut wakes = Wakes::default();
                let counted = self.raw().task_done(&self.raw().0.lock(), &mut wakes);
                wakes.wake();
                match counted {
                    true => Ok(()),
                    false => Err(TooManyTaskDone),
                }
            }
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

impl<T: Send + 'static> Core<T> {
    #[inline]
    pub(super) fn put(&self, item: T, deadline: Option<Instant>) -> Result<(), PutError<T>> {
        // What is most likely, without any preparation.
        let mut item = Some(item);
        match self.try_put_plain(&mut item) {
            Found::Plain(Some(())) => return Ok(()),
            Found::Plain(None) | Found::Shared | Found::Moving => {}
        }
        let item = item.take().expect("it was not put");
        let mut putting = Putting::new(self, item);
        putting
            .attempt()
            .or_else(|| Waiting::new(putting).block(deadline))
            .unwrap_or(Ok(()))
    }

    pub(super) fn put_nowait(&self, item: T) -> Result<(), PutError<T>> {
        let mut putting = Putting::new(self, item);
        putting
            .attempt()
            .unwrap_or_else(|| Err(PutError::Full(putting.item())))
    }

    pub(super) fn put_until(&self, item: T, deadline: Option<Instant>) -> Result<(), PutError<T>> {
        let mut waiting = Waiting::new(Putting::new(self, item));
        match waiting.block(deadline) {
            Some(put) => put,
            None => Err(PutError::Full(waiting.resource().item())),
        }
    }

    pub(super) async fn put_async(&self, item: T) -> Result<(), PutError<T>> {
        // What is most likely, without any preparation.
        let mut item = Some(item);
        if let Found::Plain(Some(())) = self.try_put_plain(&mut item) {
            return Ok(());
        }
        let item = item.take().expect("it was not put");
        WaitAsync::new(Putting::new(self, item)).await
    }

    #[inline]
    pub(super) fn get(&self, deadline: Option<Instant>) -> Result<T, GetError> {
        // What is most likely, without any preparation.
        if let Found::Plain(Some(item)) = self.try_get_plain() {
            return Ok(item);
        }
        let mut getting = Getting::new(self);
        let taken = getting
            .attempt()
            .or_else(|| Waiting::new(getting).block(deadline));
        self.unpack(taken)
    }

    pub(super) fn get_nowait(&self) -> Result<T, GetError> {
        self.unpack(Getting::new(self).attempt())
    }

    pub(super) fn get_until(&self, deadline: Option<Instant>) -> Result<T, GetError> {
        self.get(deadline)
    }

    pub(super) async fn get_async(&self) -> Result<T, GetError> {
        if let Found::Plain(Some(item)) = self.try_get_plain() {
            return Ok(item);
        }
        let taken = WaitAsync::new(Getting::new(self)).await;
        self.unpack(Some(taken))
    }

    /// The item that was taken.
    #[inline]
    fn unpack(&self, taken: Option<Taken<T>>) -> Result<T, GetError> {
        match taken {
            None => Err(GetError::Empty),
            Some(Taken::Item(item)) => Ok(item),
            Some(Taken::Parcel(parcel)) => {
                let item = (self.local.codec().decode)(&parcel.bytes);
                parcel.release_luggage();
                item.map_err(GetError::Decode)
            }
            Some(Taken::Damaged(why)) => {
                let error = CodecError::new(Part::Result, std::any::type_name::<T>(), &why);
                Err(GetError::Decode(error.of_item()))
            }
        }
    }
}

/// What came out of a queue.
enum Taken<T> {
    Item(T),
    Parcel(Parcel),
    Damaged(&'static str),
}

impl<T> From<Result<Parcel, &'static str>> for Taken<T> {
    fn from(parcel: Result<Parcel, &'static str>) -> Self {
        match parcel {
            Ok(parcel) => Taken::Parcel(parcel),
            Err(why) => Taken::Damaged(why),
        }
    }
}

/// A get that has not got anything yet.
struct Getting<'a, T> {
    core: &'a Core<T>,
    wakes: Wakes,
    /// Blocks to be freed.
    spent: Reserve,
}

impl<'a, T> Getting<'a, T> {
    fn new(core: &'a Core<T>) -> Self {
        Getting {
            core,
            wakes: Wakes::default(),
            spent: Reserve::default(),
        }
    }
}

impl<T> Resource for Getting<'_, T> {
    type Output = Taken<T>;

    const CONTENDED: Option<Looker> = Some(Looker::Queue);

    fn slot(&self) -> SlotRef {
        self.core.handle.slot()
    }

    #[inline]
    fn attempt(&mut self) -> Option<Taken<T>> {
        match self.core.try_get_plain() {
            Found::Plain(item) => item.map(Taken::Item),
            Found::Moving => None,
            Found::Shared => {
                let raw = self.core.raw();
                // Only a look, while it is empty: others want to write.
                if raw.len() == 0 {
                    return None;
                }
                let taken = raw.try_get(&raw.0.lock(), &mut self.spent, &mut self.wakes);
                self.unlocked();
                taken.map(Taken::from)
            }
        }
    }

    fn attempt_or_join(&mut self, slot: &Locked) -> Result<Taken<T>, Miss> {
        let found = self.core.local.with_locked(slot, |plain| {
            let got = plain.try_get();
            plain.waited_for[GETTERS] |= got.is_none();
            got
        });
        match found {
            Found::Plain(Some((item, waited_for))) => {
                if waited_for {
                    self.wakes.extend(slot.pop(PUTTERS, State::Notified));
                    self.core.tidy(slot, PUTTERS);
                }
                Ok(Taken::Item(item))
            }
            Found::Plain(None) | Found::Moving => Err(Miss::Join(GETTERS)),
            Found::Shared => self
                .core
                .raw()
                .try_get(slot, &mut self.spent, &mut self.wakes)
                .map(Taken::from)
                .ok_or(Miss::Join(GETTERS)),
        }
    }

    fn unlocked(&mut self) {
        mem::take(&mut self.wakes).wake();
        drop(mem::take(&mut self.spent));
    }

    fn handed(&mut self) -> Taken<T> {
        unreachable!("queues hand nothing to waiters")
    }

    fn left(&mut self, slot: &Locked, list: usize) {
        self.core.tidy(slot, list);
    }

    fn pass_on(&mut self, _message: State, _outcome: u32) {
        self.core.tell(GETTERS, false);
    }
}

/// A put that has not put anything yet.
struct Putting<'a, T> {
    core: &'a Core<T>,
    /// Taken when it is in the queue, or goes back to the caller.
    item: Option<T>,
    /// The item as it goes into a shared queue.
    parcel: Option<Parcel>,
    reserve: Reserve,
    wakes: Wakes,
}

impl<T> Unpin for Putting<'_, T> {}

impl<'a, T> Putting<'a, T> {
    fn new(core: &'a Core<T>, item: T) -> Self {
        Putting {
            core,
            item: Some(item),
            parcel: None,
            reserve: Reserve::default(),
            wakes: Wakes::default(),
        }
    }

    fn item(&mut self) -> T {
        self.item.take().expect("an item that was not put is there")
    }

    /// Encodes the item, once.
    fn pack(&mut self) -> Result<(), PutError<T>> {
        if self.parcel.is_some() {
            return Ok(());
        }
        let item = self.item();
        let parcel = match (self.core.local.codec().encode)(&item) {
            Ok(parcel) => parcel,
            Err(error) => return Err(PutError::Encode(item, error)),
        };
        match Reserve::of(parcel.bytes.len()) {
            Ok(reserve) => self.reserve = reserve,
            Err(_) => return Err(PutError::NoMemory(item)),
        }
        self.item = Some(item);
        self.parcel = Some(parcel);
        Ok(())
    }

    /// Puts the item, which is packed, into the shared queue.
    fn put_packed(&mut self, slot: &Locked) -> Option<Result<(), PutError<T>>> {
        let parcel = self.parcel.as_ref()?;
        let put = self
            .core
            .raw()
            .try_put(slot, parcel, &mut self.reserve, &mut self.wakes);
        match put {
            Ok(false) => None,
            Ok(true) => Some(Ok(())),
            Err(_) => Some(Err(PutError::NoMemory(self.item()))),
        }
    }
}

impl<T> Resource for Putting<'_, T> {
    type Output = Result<(), PutError<T>>;

    const CONTENDED: Option<Looker> = Some(Looker::Queue);

    fn slot(&self) -> SlotRef {
        self.core.handle.slot()
    }

    #[inline]
    fn attempt(&mut self) -> Option<Self::Output> {
        match self.core.try_put_plain(&mut self.item) {
            Found::Plain(put) => put.map(Ok),
            Found::Moving => None,
            Found::Shared => {
                if let Err(error) = self.pack() {
                    return Some(Err(error));
                }
                let raw = self.core.raw();
                let put = self.put_packed(&raw.0.lock());
                self.unlocked();
                put
            }
        }
    }

    fn attempt_or_join(&mut self, slot: &Locked) -> Result<Self::Output, Miss> {
        let maxsize = self.core.local.maxsize;
        let item = &mut self.item;
        let found = self.core.local.with_locked(slot, |plain| {
            let put = plain.try_put(item, maxsize);
            plain.waited_for[PUTTERS] |= put.is_none();
            put
        });
        match found {
            Found::Plain(Some(waited_for)) => {
                if waited_for {
                    self.wakes.extend(slot.pop(GETTERS, State::Notified));
                    self.core.tidy(slot, GETTERS);
                }
                Ok(Ok(()))
            }
            Found::Plain(None) | Found::Moving => Err(Miss::Join(PUTTERS)),
            // Encoding is code of a user: not under the mutex.
            Found::Shared if self.parcel.is_none() => Err(Miss::Again),
            Found::Shared => self.put_packed(slot).ok_or(Miss::Join(PUTTERS)),
        }
    }

    fn unlocked(&mut self) {
        mem::take(&mut self.wakes).wake();
    }

    fn handed(&mut self) -> Self::Output {
        unreachable!("queues hand nothing to waiters")
    }

    fn left(&mut self, slot: &Locked, list: usize) {
        self.core.tidy(slot, list);
    }

    fn pass_on(&mut self, _message: State, _outcome: u32) {
        self.core.tell(PUTTERS, false);
    }
}

/// A wait until all work is done.
pub(super) struct Joining<'a, T>(pub(super) &'a Core<T>);

impl<T> Resource for Joining<'_, T> {
    type Output = ();

    fn slot(&self) -> SlotRef {
        self.0.handle.slot()
    }

    fn attempt(&mut self) -> Option<()> {
        (self.0.unfinished() == 0).then_some(())
    }

    fn attempt_or_join(&mut self, slot: &Locked) -> Result<(), Miss> {
        let found = self.0.local.with_locked(slot, |plain| {
            plain.waited_for[JOINERS] |= plain.unfinished != 0;
            plain.unfinished as u64
        });
        let unfinished = match found {
            Found::Plain(unfinished) => unfinished,
            Found::Shared => self.0.raw().unfinished(),
            Found::Moving => return Err(Miss::Join(JOINERS)),
        };
        match unfinished {
            0 => Ok(()),
            _ => Err(Miss::Join(JOINERS)),
        }
    }

    /// All was done at that moment, whatever was put since; or the items have moved.
    fn notified(&mut self, outcome: u32) -> Option<()> {
        (outcome != LOOK_AGAIN)
            .then_some(())
            .or_else(|| self.attempt())
    }

    fn handed(&mut self) {}

    fn left(&mut self, slot: &Locked, list: usize) {
        self.0.tidy(slot, list);
    }

    fn pass_on(&mut self, _message: State, _outcome: u32) {}
}

/// What those who wait are told when the items have moved.
const LOOK_AGAIN: u32 = 1;

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
        let parcels: Result<Vec<_>, _> = plain.items.iter().map(local.codec().encode).collect();
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
