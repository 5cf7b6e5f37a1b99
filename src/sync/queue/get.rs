//! Taking an item out.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use super::{
    convoy,
    core::Core,
    plain::{First, MOVED_BY_CALLER, Stage},
    seldom::Seldom,
    shared::{GETTERS, PUTTERS},
};
use crate::{
    arena::{
        node::{State, Wakes},
        parcel::{Parcel, Reserve},
        slot::{Locked, SlotRef},
        wait::{Miss, Resource, Waiting},
        waiter::Sleeper,
    },
    coop,
    error::{CodecError, GetError, Part},
    look::look_for_one_of,
};

impl<T: Send + 'static> Core<T> {
    #[inline]
    pub(super) fn get(&self, deadline: Option<Instant>) -> Result<T, GetError> {
        match self.first() {
            Some(first) => self.take(first),
            None => self.get_later(deadline),
        }
    }

    #[cold]
    #[inline(never)]
    fn get_later(&self, deadline: Option<Instant>) -> Result<T, GetError> {
        if self.local.is_shared() {
            let mut item = None;
            if let Some(taken) = self.get_shared(&mut item) {
                return opened(taken, item);
            }
        }
        let mut getting = Getting::new(self);
        let taken = getting
            .attempt()
            .or_else(|| Waiting::new(getting).block(deadline));
        self.unpack(taken)
    }

    #[inline]
    pub(super) fn get_nowait(&self) -> Result<T, GetError> {
        match self.first() {
            Some(first) => self.take(first),
            None => self.get_if_there_is_one(),
        }
    }

    #[cold]
    #[inline(never)]
    fn get_if_there_is_one(&self) -> Result<T, GetError> {
        let mut getting = Getting::new(self);
        loop {
            match getting.try_once() {
                Ok(taken) => return self.unpack(Some(taken)),
                // There is something, and it cannot be had yet.
                Err(Stage::Moving(convoy)) if self.len() > 0 => convoy::wait_for(convoy),
                Err(_) => return Err(GetError::Empty),
            }
        }
    }

    pub(super) fn get_async(&self) -> GetAsync<'_, T> {
        GetAsync {
            core: Some(self),
            waiting: Seldom::none(),
        }
    }

    /// Takes an item of the queue, which is shared, if there is one. It is decoded into the place where it stays, since
    /// to move it would take as long as to decode it.
    #[inline]
    fn get_shared(&self, item: &mut Option<T>) -> Option<Result<(), GetError>> {
        Parcel::lend(|parcel| {
            Some(match self.raw().try_get_alone(parcel)? {
                Ok(()) => self.open(parcel, item),
                Err(why) => Err(undecoded::<T>(why)),
            })
        })
    }

    /// The item that was taken.
    #[inline]
    fn unpack(&self, taken: Option<Taken<T>>) -> Result<T, GetError> {
        match taken {
            None => Err(GetError::Empty),
            Some(Taken::Item(item)) => Ok(item),
            Some(Taken::Parcel(parcel)) => {
                let mut item = None;
                opened(self.open(&parcel, &mut item), item)
            }
            Some(Taken::Nothing(why)) => Err(undecoded::<T>(why)),
        }
    }
}

fn opened<T>(done: Result<(), GetError>, item: Option<T>) -> Result<T, GetError> {
    done.map(|()| item.expect("what was decoded is there"))
}

#[cold]
fn undecoded<T>(why: &'static str) -> GetError {
    let error = CodecError::new(Part::Result, std::any::type_name::<T>(), &why);
    GetError::Decode(error.of_item())
}

impl<T> Core<T> {
    /// Decodes the item that is in a parcel.
    #[inline]
    fn open(&self, parcel: &Parcel, item: &mut Option<T>) -> Result<(), GetError> {
        let decoded = (self.local.codec().decode)(parcel, item);
        parcel.release_luggage();
        decoded.map_err(GetError::Decode)
    }

    /// What is most likely, without any preparation: the first item, in this process.
    #[inline]
    fn first(&self) -> Option<First<'_, T>> {
        match self.local.is_shared() {
            true => None,
            false => self.local.plain.first(),
        }
    }

    #[inline]
    fn take(&self, first: First<'_, T>) -> Result<T, GetError> {
        let (item, is_wanted) = first.take();
        if is_wanted {
            self.tell(PUTTERS);
        }
        Ok(item)
    }

    /// Takes an item of this process, if there is one. Else says where the items are.
    fn get_here(&self) -> Result<T, Stage> {
        if self.local.is_shared() {
            return Err(Stage::Shared);
        }
        let (item, is_wanted) = self.local.plain.try_get()?;
        if is_wanted {
            self.tell(PUTTERS);
        }
        Ok(item)
    }
}

/// A get that is awaited, written out like [`PutAsync`](super::put::PutAsync).
pub(super) struct GetAsync<'a, T> {
    /// Until the end.
    core: Option<&'a Core<T>>,
    /// After the first poll.
    waiting: Seldom<Waiting<Getting<'a, T>>>,
}

impl<T> Unpin for GetAsync<'_, T> {}

impl<T: Send + 'static> Future for GetAsync<'_, T> {
    type Output = Result<T, GetError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let core = self.core.expect("it is polled after the end");
        if self.waiting.has_begun() {
            return self.wait(core, context);
        }
        ready!(coop::poll_begin(context));
        match core.first() {
            Some(first) => {
                self.core = None;
                Poll::Ready(core.take(first))
            }
            None => self.begin(core, context),
        }
    }
}

impl<'a, T: Send + 'static> GetAsync<'a, T> {
    #[cold]
    #[inline(never)]
    fn begin(&mut self, core: &'a Core<T>, context: &mut Context<'_>) -> Poll<Result<T, GetError>> {
        if core.local.is_shared() {
            let mut item = None;
            if let Some(taken) = core.get_shared(&mut item) {
                self.core = None;
                return Poll::Ready(opened(taken, item));
            }
        }
        self.waiting.begin(Waiting::new(Getting::new(core)));
        self.wait(core, context)
    }

    #[cold]
    #[inline(never)]
    fn wait(&mut self, core: &Core<T>, context: &mut Context<'_>) -> Poll<Result<T, GetError>> {
        let waiting = self.waiting.get().expect("there is a wait");
        let taken = waiting.poll(Sleeper::Task(context.waker()));
        if taken.is_ready() {
            self.core = None;
        }
        taken.map(|taken| core.unpack(Some(taken)))
    }
}

/// What came out of a queue.
enum Taken<T> {
    Item(T),
    Parcel(Parcel),
    /// An item that cannot be decoded, for this reason.
    Nothing(&'static str),
}

impl<T> Taken<T> {
    fn of(parcel: Parcel, taken: Result<(), &'static str>) -> Self {
        match taken {
            Ok(()) => Taken::Parcel(parcel),
            Err(why) => Taken::Nothing(why),
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

    /// Takes an item if there is one, or says where there is none.
    #[inline]
    fn try_once(&mut self) -> Result<Taken<T>, Stage> {
        match self.core.get_here() {
            Ok(item) => Ok(Taken::Item(item)),
            Err(Stage::Shared) => {
                let mut parcel = Parcel::default();
                let taken = self.core.raw().try_get_alone(&mut parcel);
                let taken = taken.ok_or(Stage::Shared)?;
                Ok(Taken::of(parcel, taken))
            }
            Err(Stage::Moving(convoy)) if convoy::is_mine(convoy) => {
                Ok(Taken::Nothing(MOVED_BY_CALLER))
            }
            Err(stage) => Err(stage),
        }
    }
}

impl<T> Resource for Getting<'_, T> {
    type Output = Taken<T>;

    const CONTENDED: bool = true;

    fn slot(&self) -> SlotRef {
        self.core.handle.slot()
    }

    #[inline]
    fn attempt(&mut self) -> Option<Taken<T>> {
        self.try_once().ok()
    }

    fn look(&mut self) -> Option<Taken<T>> {
        let core = self.core;
        look_for_one_of(core.maxsize(), || self.attempt(), || core.len() == 0)
    }

    fn attempt_or_join(&mut self, slot: &Locked) -> Result<Taken<T>, Miss> {
        let plain = &self.core.local.plain;
        while !plain.want_item() {
            match plain.try_get() {
                Ok((item, is_wanted)) => {
                    if is_wanted {
                        self.core.tell_next(slot, PUTTERS, &mut self.wakes);
                    }
                    return Ok(Taken::Item(item));
                }
                Err(Stage::Here) => {}
                // Who moves the items tells those in line when that is done.
                Err(Stage::Moving(_)) => break,
                Err(Stage::Shared) => {
                    let (mut parcel, raw) = (Parcel::default(), self.core.raw());
                    let taken =
                        raw.try_get_locked(slot, &mut parcel, &mut self.spent, &mut self.wakes);
                    return match taken {
                        Some(taken) => Ok(Taken::of(parcel, taken)),
                        // Those who are to be woken must not wait while this one sleeps.
                        None if !self.wakes.is_empty() => Err(Miss::Again),
                        None => Err(Miss::Join(GETTERS)),
                    };
                }
            }
        }
        Err(Miss::Join(GETTERS))
    }

    fn unlocked(&mut self) {
        self.wakes.wake();
        drop(mem::take(&mut self.spent));
    }

    fn handed(&mut self) -> Option<Taken<T>> {
        let (item, is_wanted) = self.core.local.plain.get_kept()?;
        if is_wanted {
            self.core.tell(PUTTERS);
        }
        Some(Taken::Item(item))
    }

    fn left(&mut self, slot: &Locked, list: usize) {
        self.core.tidy(slot, list);
    }

    fn pass_on(&mut self, message: State, _outcome: u32) {
        if message == State::Handed {
            self.core.local.plain.give_back(GETTERS);
        }
        self.core.tell(GETTERS);
    }
}
