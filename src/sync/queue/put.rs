//! Putting an item in.
//!
//! What is most likely, here and in [`get`](super::get), calls nothing that comes back to it, so it saves no registers:
//! the lock could not be taken before these stores are through, which takes a third longer.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use super::{
    convoy,
    core::Core,
    plain::{MOVED_BY_CALLER, Room, Stage},
    seldom::Seldom,
    shared::{GETTERS, PUTTERS},
};
use crate::{
    arena::{
        node::{State, Wakes},
        parcel::{Parcel, Reserve},
        passage::Reach,
        slot::{Locked, SlotRef},
        wait::{Miss, Resource, Waiting},
        waiter::Sleeper,
    },
    coop,
    error::{CodecError, Part, PutError},
    look::look_for_one_of,
    unwind,
};

impl<T: Send + 'static> Core<T> {
    #[inline]
    pub(super) fn put(&self, item: T) -> Result<(), PutError<T>> {
        match self.room() {
            Some(room) => self.fill(room, item),
            None => self.put_later(item),
        }
    }

    #[cold]
    #[inline(never)]
    fn put_later(&self, item: T) -> Result<(), PutError<T>> {
        if !self.local.is_shared() {
            return match self.put_here(item) {
                Ok(()) => Ok(()),
                Err((item, _)) => Putting::new(self, item).block(),
            };
        }
        match self.put_shared(&item) {
            Ok(None) => {
                unwind::discard(item);
                Ok(())
            }
            kept => Putting::with(self, item, kept)?.block(),
        }
    }

    #[inline]
    pub(super) fn put_nowait(&self, item: T) -> Result<(), PutError<T>> {
        match self.room() {
            Some(room) => self.fill(room, item),
            None => self.put_if_there_is_room(item),
        }
    }

    #[cold]
    #[inline(never)]
    fn put_if_there_is_room(&self, item: T) -> Result<(), PutError<T>> {
        let mut putting = Putting::new(self, item);
        loop {
            match putting.try_once() {
                Ok(put) => return put,
                // There is room, and it cannot be had yet.
                Err(Stage::Moving(convoy)) if !self.is_full() => convoy::wait_for(convoy),
                Err(_) => return Err(PutError::Full(putting.item())),
            }
        }
    }

    pub(super) fn put_until(&self, item: T, deadline: Option<Instant>) -> Result<(), PutError<T>> {
        let mut waiting = Waiting::new(Putting::new(self, item));
        match waiting.block(deadline) {
            Some(put) => put,
            None => Err(PutError::Full(waiting.resource().item())),
        }
    }

    pub(super) fn put_async(&self, item: T) -> PutAsync<'_, T> {
        PutAsync {
            core: self,
            item: Some(item),
            waiting: Seldom::none(),
        }
    }
}

/// A put that is awaited. Written out, so that what is most likely is compiled into the caller: a result
/// that is returned through memory takes longer than all the rest.
pub(super) struct PutAsync<'a, T> {
    core: &'a Core<T>,
    /// Before the first poll.
    item: Option<T>,
    /// After it.
    waiting: Seldom<Waiting<Putting<'a, T>>>,
}

impl<T> Unpin for PutAsync<'_, T> {}

impl<T: Send + 'static> Future for PutAsync<'_, T> {
    type Output = Result<(), PutError<T>>;

    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let core = self.core;
        if self.item.is_some() {
            ready!(coop::poll_begin(context));
        }
        match self.item.take() {
            None => self.wait(context),
            Some(item) => match core.room() {
                Some(room) => Poll::Ready(core.fill(room, item)),
                None => self.begin(item, context),
            },
        }
    }
}

impl<'a, T: Send + 'static> PutAsync<'a, T> {
    #[cold]
    #[inline(never)]
    fn begin(&mut self, item: T, context: &mut Context<'_>) -> Poll<Result<(), PutError<T>>> {
        let core = self.core;
        let putting = match core.local.is_shared() {
            false => Putting::new(core, item),
            true => match core.put_shared(&item) {
                Ok(None) => {
                    unwind::discard(item);
                    return Poll::Ready(Ok(()));
                }
                kept => Putting::with(core, item, kept)?,
            },
        };
        self.waiting.begin(Waiting::new(putting));
        self.wait(context)
    }

    #[cold]
    #[inline(never)]
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<Result<(), PutError<T>>> {
        let waiting = self.waiting.get().expect("it is polled after the end");
        let put = waiting.poll(Sleeper::Task(context.waker()));
        if put.is_ready() {
            self.waiting.end();
        }
        put
    }
}

impl<T> Core<T> {
    /// What is most likely, without any preparation: room in this process.
    #[inline]
    fn room(&self) -> Option<Room<'_, T>> {
        match self.local.is_shared() {
            true => None,
            false => self.local.plain.room(),
        }
    }

    #[inline]
    fn fill(&self, room: Room<'_, T>, item: T) -> Result<(), PutError<T>> {
        if room.fill(item) {
            self.tell(GETTERS);
        }
        Ok(())
    }

    /// Puts the item if there is room, and the items are in this process. Else says where the items are.
    fn put_here(&self, item: T) -> Result<(), (T, Stage)> {
        if self.local.plain.try_put(item)? {
            self.tell(GETTERS);
        }
        Ok(())
    }
}

impl<T> Core<T> {
    /// Puts the item into the queue, which is shared; most likely it is small and there is room. Else gives its
    /// encoded form.
    #[inline]
    fn put_shared(&self, item: &T) -> Result<Option<Parcel>, CodecError> {
        Parcel::lend(|parcel| {
            (self.local.codec().encode)(item, parcel, Reach::Tree)?;
            let is_put = parcel.is_small() && self.raw().try_put_small(parcel);
            Ok((!is_put).then(|| mem::take(parcel)))
        })
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

    #[cold]
    #[inline(never)]
    fn block(mut self) -> Result<(), PutError<T>> {
        let put = self.attempt().or_else(|| Waiting::new(self).block(None));
        put.expect("a wait without an end is not in vain")
    }

    /// A put of an item that is encoded, if it could be.
    #[cold]
    fn with(
        core: &'a Core<T>,
        item: T,
        parcel: Result<Option<Parcel>, CodecError>,
    ) -> Result<Self, PutError<T>> {
        let mut putting = Putting::new(core, item);
        match parcel {
            Ok(None) => {}
            Ok(Some(parcel)) => putting.take_along(parcel)?,
            Err(error) => return Err(PutError::Encode(putting.item(), error)),
        }
        Ok(putting)
    }

    fn item(&mut self) -> T {
        self.item.take().expect("an item that was not put is there")
    }

    /// Puts the item if there is room, or says where there is none.
    #[inline]
    fn try_once(&mut self) -> Result<Result<(), PutError<T>>, Stage> {
        let item = self.item();
        let Err((item, stage)) = self.core.put_here(item) else {
            return Ok(Ok(()));
        };
        self.item = Some(item);
        match stage {
            Stage::Here => Err(stage),
            Stage::Moving(convoy) if !convoy::is_mine(convoy) => Err(stage),
            Stage::Moving(_) => Ok(Err(self.refused())),
            Stage::Shared => {
                if let Err(error) = self.pack() {
                    return Ok(Err(error));
                }
                let raw = self.core.raw();
                let put = self.put_packed(&raw.0.lock());
                self.wakes.wake();
                put.ok_or(stage)
            }
        }
    }

    #[cold]
    fn refused(&mut self) -> PutError<T> {
        let error = CodecError::new(Part::Argument, std::any::type_name::<T>(), &MOVED_BY_CALLER);
        PutError::Encode(self.item(), error.of_item())
    }

    /// Encodes the item, once.
    fn pack(&mut self) -> Result<(), PutError<T>> {
        if self.parcel.is_some() {
            return Ok(());
        }
        let item = self.item();
        let mut parcel = Parcel::default();
        if let Err(error) = (self.core.local.codec().encode)(&item, &mut parcel, Reach::Tree) {
            return Err(PutError::Encode(item, error));
        }
        self.item = Some(item);
        self.take_along(parcel)
    }

    /// The item is encoded.
    fn take_along(&mut self, parcel: Parcel) -> Result<(), PutError<T>> {
        match Reserve::of(parcel.bytes.len()) {
            Ok(reserve) => self.reserve = reserve,
            Err(_) => return Err(PutError::NoMemory(self.item())),
        }
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

    /// The same; if there is no room, sees to it that whoever makes some looks for waiters.
    fn put_packed_or_join(&mut self, slot: &Locked) -> Result<<Self as Resource>::Output, Miss> {
        if let Some(put) = self.put_packed(slot) {
            return Ok(put);
        }
        if !self.core.raw().wants_room(slot, &mut self.wakes) {
            // Something was taken just now.
            return self.put_packed(slot).ok_or(Miss::Again);
        }
        match self.wakes.is_empty() {
            true => Err(Miss::Join(PUTTERS)),
            // Those who are to be woken must not wait while this one sleeps.
            false => Err(Miss::Again),
        }
    }
}

impl<T> Drop for Putting<'_, T> {
    /// An item that is still here was not put, or is in a shared queue as a copy.
    fn drop(&mut self) {
        if let Some(item) = self.item.take() {
            unwind::discard(item);
        }
    }
}

impl<T> Resource for Putting<'_, T> {
    type Output = Result<(), PutError<T>>;

    const CONTENDED: bool = true;

    fn slot(&self) -> SlotRef {
        self.core.handle.slot()
    }

    #[inline]
    fn attempt(&mut self) -> Option<Self::Output> {
        self.try_once().ok()
    }

    fn look(&mut self) -> Option<Self::Output> {
        let core = self.core;
        look_for_one_of(core.maxsize(), || self.attempt(), || core.is_full())
    }

    fn attempt_or_join(&mut self, slot: &Locked) -> Result<Self::Output, Miss> {
        let plain = &self.core.local.plain;
        while !plain.want_room() {
            let item = self.item();
            let (item, stage) = match plain.try_put(item) {
                Ok(is_wanted) => {
                    if is_wanted {
                        self.core.tell_next(slot, GETTERS, &mut self.wakes);
                    }
                    return Ok(Ok(()));
                }
                Err(refused) => refused,
            };
            self.item = Some(item);
            match stage {
                Stage::Here => {}
                // Who moves the items tells those in line when that is done.
                Stage::Moving(_) => break,
                // Encoding is code of a user: not under the mutex.
                Stage::Shared if self.parcel.is_none() => return Err(Miss::Again),
                Stage::Shared => return self.put_packed_or_join(slot),
            }
        }
        Err(Miss::Join(PUTTERS))
    }

    fn unlocked(&mut self) {
        self.wakes.wake();
    }

    fn handed(&mut self) -> Option<Self::Output> {
        let item = self.item();
        match self.core.local.plain.put_kept(item) {
            Ok(is_wanted) => {
                if is_wanted {
                    self.core.tell(GETTERS);
                }
                Some(Ok(()))
            }
            Err(item) => {
                self.item = Some(item);
                None
            }
        }
    }

    fn left(&mut self, slot: &Locked, list: usize) {
        self.core.tidy(slot, list);
    }

    fn pass_on(&mut self, message: State, _outcome: u32) {
        if message == State::Handed {
            self.core.local.plain.give_back(PUTTERS);
        }
        self.core.tell(PUTTERS);
    }
}
