//! Putting an item in.

use std::{mem, time::Instant};

use super::{
    core::{Core, Found},
    shared::{GETTERS, PUTTERS},
};
use crate::{
    arena::{
        look::Looker,
        parcel::{Parcel, Reserve},
        slot::{Locked, SlotRef},
        wait::{Miss, Resource, WaitAsync, Waiting},
        waiter::{State, Wakes},
    },
    error::PutError,
};

impl<T: Send + 'static> Core<T> {
    #[inline]
    pub(super) fn put(&self, item: T, deadline: Option<Instant>) -> Result<(), PutError<T>> {
        // What is most likely, without any preparation.
        let mut item = Some(item);
        match self.try_put_plain(&mut item) {
            Found::Plain(Some(())) => return Ok(()),
            Found::Shared => {
                let item = item.take().expect("it was not put");
                return match self.put_shared(item)? {
                    None => Ok(()),
                    Some(putting) => Waiting::new(putting).block(deadline).unwrap_or(Ok(())),
                };
            }
            Found::Plain(None) | Found::Moving => {}
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
        match self.try_put_plain(&mut item) {
            Found::Plain(Some(())) => return Ok(()),
            Found::Shared => {
                let item = item.take().expect("it was not put");
                return match self.put_shared(item)? {
                    None => Ok(()),
                    Some(putting) => WaitAsync::new(putting).await,
                };
            }
            Found::Plain(None) | Found::Moving => {}
        }
        let item = item.take().expect("it was not put");
        WaitAsync::new(Putting::new(self, item)).await
    }
}

impl<T> Core<T> {
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
}

impl<T: Send + 'static> Core<T> {
    /// Puts the item into the queue, which is shared: most likely it is small and there is room. If not,
    /// gives what is to be waited with.
    #[inline]
    fn put_shared(&self, item: T) -> Result<Option<Putting<'_, T>>, PutError<T>> {
        let mut parcel = Parcel::new();
        if let Err(error) = (self.local.codec().encode)(&item, &mut parcel) {
            return Err(PutError::Encode(item, error));
        }
        if parcel.is_small() && self.raw().try_put_small(&parcel) {
            return Ok(None);
        }
        let mut putting = Putting::new(self, item);
        putting.take_along(parcel)?;
        Ok(Some(putting))
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
        let mut parcel = Parcel::new();
        if let Err(error) = (self.core.local.codec().encode)(&item, &mut parcel) {
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
            Found::Shared => {
                let put = self.put_packed(slot);
                if put.is_none() && !self.core.raw().wants_room(slot, &mut self.wakes) {
                    // Something was taken just now.
                    return self.put_packed(slot).ok_or(Miss::Again);
                }
                match put {
                    Some(put) => Ok(put),
                    // They are not to wait for this one's sleep.
                    None if !self.wakes.is_empty() => Err(Miss::Again),
                    None => Err(Miss::Join(PUTTERS)),
                }
            }
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
