//! The items of a queue that only this process has: a ring whose two ends have a lock each, so that who
//! puts and who takes do not wait for each other.
//!
//! Each end counts what has passed it. It also remembers how far it may go before it has to look at the
//! other's count again; until then the two write to cache lines of their own. A ring that is full
//! is followed by one of twice the size, and is freed by whoever takes the last item out of it. So there is one
//! ring, of the size that is needed, once the queue has been used for a while.
#![allow(unsafe_code)]

mod moving;
mod ring;

use std::ptr::{self, NonNull};

use super::{
    core::between,
    shared::{GETTERS, PUTTERS},
};
use crate::{
    shim::{AtomicPtr, AtomicU64, Ordering, SpinLock, SpinLockGuard},
    unwind,
};
use ring::{Places, Ring};

/// Where the items are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// In this process.
    Here,
    /// On their way, in the convoy with this number: a thread is encoding them.
    Moving(u64),
    /// In the arena, where they will stay.
    Shared,
}

/// Why the code that encodes an item of a queue that is on its way cannot put anything into it, nor take from it.
pub(super) const MOVED_BY_CALLER: &str = "the queue is being given to a process for the first time, and what encodes \
                                          its items cannot use it meanwhile";

/// Why an item was not counted as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotCounted {
    /// The work on all items was done already.
    TooMany,
    /// The queue has moved to the arena, and counts there.
    Moved,
}

pub(super) struct Plain<T> {
    maxsize: u64,
    tail: End<Tail<T>>,
    head: End<Head<T>>,
    /// The ring that the first item was put into.
    first: AtomicPtr<Ring<T>>,
    /// How many items are done, in steps of [`ONE_DONE`], and two flags: in one word, so that who counts the
    /// last one cannot overlook who begins to wait for that.
    done: AtomicU64,
}

/// Somebody waits until all items are done.
const JOIN_WANTED: u64 = 1;
/// The queue has moved to the arena, and counts there.
const CLOSED: u64 = 2;
const ONE_DONE: u64 = 4;

/// One end of the ring, far enough from the other.
#[repr(align(128))]
struct End<S> {
    state: SpinLock<S>,
    /// How many items have passed it, for those who do not have the lock.
    count: AtomicU64,
}

/// Where items are put.
struct Tail<T> {
    /// How many items were put.
    put: u64,
    ring: Option<NonNull<Ring<T>>>,
    /// The places of the ring at this end.
    places: Places<T>,
    /// The count up to which there is room for anybody, as far as is known.
    limit: u64,
    /// How much of the room is kept for those who were overtaken.
    kept: u64,
    /// Somebody waits for an item.
    wanted: bool,
    stage: Stage,
}

/// Where items are taken.
struct Head<T> {
    /// How many items were taken.
    taken: u64,
    ring: Option<NonNull<Ring<T>>>,
    /// The places of the ring at this end.
    places: Places<T>,
    /// The count up to which there are items in this ring for anybody, as far as is known.
    limit: u64,
    /// How many items are kept for those who were overtaken.
    kept: u64,
    /// Somebody waits for room.
    wanted: bool,
    stage: Stage,
}

// SAFETY: the ring that is pointed to belongs to the queue, and goes from thread to thread with the lock
// around the end; the items in it may do so since they are `Send`.
unsafe impl<T: Send> Send for Tail<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Head<T> {}

/// Room for one item, which nobody else takes meanwhile.
pub(super) struct Room<'a, T> {
    plain: &'a Plain<T>,
    tail: SpinLockGuard<'a, Tail<T>>,
}

impl<T> Room<'_, T> {
    /// Puts the item there, and says whether somebody waits for one.
    #[inline]
    pub(super) fn fill(mut self, item: T) -> bool {
        self.plain.write(&mut self.tail, item);
        self.tail.wanted
    }
}

/// The first item, which nobody else takes meanwhile.
pub(super) struct First<'a, T> {
    plain: &'a Plain<T>,
    head: SpinLockGuard<'a, Head<T>>,
}

impl<T> First<'_, T> {
    /// Takes it, and says whether somebody waits for the room.
    #[inline]
    pub(super) fn take(mut self) -> (T, bool) {
        (self.plain.read(&mut self.head), self.head.wanted)
    }
}

impl<T> Head<T> {
    /// Takes the next item, which must be there, and does not show others yet that it is gone.
    #[inline]
    fn take(&mut self) -> T {
        // SAFETY: where there is an item there is a ring, which is freed under this lock alone. The place
        // has an item: it was counted as put before the limit was set, is in this ring, and under this lock
        // nobody else takes it, nor is it written to before it is counted as taken.
        let item = unsafe {
            let place = self.places.at(self.taken);
            place.with(|place| (*place).assume_init_read())
        };
        self.taken += 1;
        item
    }
}

impl<T> Plain<T> {
    /// For so many items at most; 0 is for any number.
    pub(super) fn new(maxsize: usize, stage: Stage) -> Self {
        Plain {
            maxsize: maxsize as u64,
            tail: End {
                state: SpinLock::new(Tail {
                    put: 0,
                    ring: None,
                    places: Places::NONE,
                    limit: 0,
                    kept: 0,
                    wanted: false,
                    stage,
                }),
                count: AtomicU64::new(0),
            },
            head: End {
                state: SpinLock::new(Head {
                    taken: 0,
                    ring: None,
                    places: Places::NONE,
                    limit: 0,
                    kept: 0,
                    wanted: false,
                    stage,
                }),
                count: AtomicU64::new(0),
            },
            first: AtomicPtr::new(ptr::null_mut()),
            done: AtomicU64::new(match stage {
                Stage::Shared => CLOSED,
                _ => 0,
            }),
        }
    }

    /// Room for an item, if it is there and nothing has to be waited for or found out.
    #[inline]
    pub(super) fn room(&self) -> Option<Room<'_, T>> {
        let tail = self.tail.state.try_lock()?;
        (tail.put != tail.limit).then_some(Room { plain: self, tail })
    }

    /// The first item, if it is there and nothing has to be waited for or found out.
    #[inline]
    pub(super) fn first(&self) -> Option<First<'_, T>> {
        let mut head = self.head.state.try_lock()?;
        (head.taken != head.limit || self.sees_item(&mut head))
            .then_some(First { plain: self, head })
    }

    /// Puts an item, and says whether somebody waits for one. It comes back if there is no room, or the items are
    /// elsewhere.
    pub(super) fn try_put(&self, item: T) -> Result<bool, (T, Stage)> {
        let mut tail = self.tail.state.lock();
        if tail.put == tail.limit
            && let Err(stage) = self.make_room(&mut tail)
        {
            drop(tail);
            return Err((item, stage));
        }
        Ok(Room { plain: self, tail }.fill(item))
    }

    /// Puts an item; there must be room.
    #[inline]
    fn write(&self, tail: &mut Tail<T>, item: T) {
        let number = tail.put;
        // SAFETY: where there is room there is a ring. It lives until what was put into it last is taken out, and
        // nothing is put into another one without this lock. The place is free: whoever had taken what was there
        // counted it before the limit was set, and nobody takes what is not counted as put.
        unsafe {
            let place = tail.places.at(number);
            place.with_mut(|place| (*place).write(item));
        }
        tail.put = number + 1;
        // Release: who sees the count sees the item.
        self.tail.count.store(number + 1, Ordering::Release);
    }

    /// Takes the first item, and says whether somebody waits for the room.
    pub(super) fn try_get(&self) -> Result<(T, bool), Stage> {
        let mut head = self.head.state.lock();
        if head.taken == head.limit {
            self.find_item(&mut head)?;
        }
        Ok(First { plain: self, head }.take())
    }

    /// Takes the next item, which must be there.
    #[inline]
    fn read(&self, head: &mut Head<T>) -> T {
        let item = head.take();
        // Release: who sees the count sees that the place is free.
        self.head.count.store(head.taken, Ordering::Release);
        item
    }

    /// Keeps something for who waits in this list; `false` if there is nothing. The one for whom it is kept
    /// [gets](Self::get_kept) it or [puts](Self::put_kept), or [gives it back](Self::give_back).
    pub(super) fn keep(&self, list: usize) -> bool {
        match list {
            GETTERS => {
                let mut head = self.head.state.lock();
                let is_there = self.find_item(&mut head).is_ok();
                head.kept += u64::from(is_there);
                // Whoever comes by has to look.
                head.limit = head.taken;
                is_there
            }
            _ => {
                let mut tail = self.tail.state.lock();
                let is_there = self.make_room(&mut tail).is_ok();
                tail.kept += u64::from(is_there);
                tail.limit = tail.put;
                is_there
            }
        }
    }

    /// The one for whom something was kept in this list does not want it: it is anybody's now.
    pub(super) fn give_back(&self, list: usize) {
        match list {
            GETTERS => {
                let mut head = self.head.state.lock();
                head.kept = head.kept.saturating_sub(1);
            }
            _ => {
                let mut tail = self.tail.state.lock();
                tail.kept = tail.kept.saturating_sub(1);
            }
        }
    }

    /// Takes an item on behalf of one for whom it is kept; `None` if the items have left meanwhile.
    pub(super) fn get_kept(&self) -> Option<(T, bool)> {
        let mut head = self.head.state.lock();
        head.kept = head.kept.checked_sub(1)?;
        self.find_item(&mut head).ok()?;
        let item = self.read(&mut head);
        // What is kept for others still is not anybody's.
        head.limit = head.taken;
        Some((item, head.wanted))
    }

    /// Puts an item on behalf of one for whom room is kept; it comes back if the items have left meanwhile.
    pub(super) fn put_kept(&self, item: T) -> Result<bool, T> {
        let mut tail = self.tail.state.lock();
        let kept = tail.kept.checked_sub(1);
        tail.kept = kept.unwrap_or(0);
        if kept.is_none() || self.make_room(&mut tail).is_err() {
            drop(tail);
            return Err(item);
        }
        self.write(&mut tail, item);
        tail.limit = tail.put;
        Ok(tail.wanted)
    }

    /// Finds out how far one can put, with a larger ring if need be.
    #[cold]
    fn make_room(&self, tail: &mut Tail<T>) -> Result<(), Stage> {
        let put = tail.put;
        if tail.stage != Stage::Here {
            return Err(tail.stage);
        }
        // Acquire: what was taken is out of its place.
        let taken = self.head.count.load(Ordering::Acquire);
        let most = match self.maxsize {
            0 => u64::MAX,
            maxsize => taken.saturating_add(maxsize).saturating_sub(tail.kept),
        };
        if put >= most {
            return Err(Stage::Here);
        }
        // SAFETY: the ring that is put into is not freed before another one follows.
        let ring = tail.ring.map(|ring| unsafe { ring.as_ref() });
        let end = ring.map_or(put, |ring| ring.base.max(taken) + ring.places.len() as u64);
        let room = match end - put {
            0 => self.follow(tail, put),
            room => room,
        };
        tail.limit = most.min(put + room);
        Ok(())
    }

    /// Adds a larger ring; says how large.
    fn follow(&self, tail: &mut Tail<T>, put: u64) -> u64 {
        // SAFETY: as above.
        let last = tail.ring.map(|ring| unsafe { ring.as_ref() });
        let places = last.map_or(Ring::<T>::FIRST, |last| 2 * last.places.len());
        let places = match usize::try_from(self.maxsize) {
            Ok(1..) if self.maxsize < places as u64 => self.maxsize as usize,
            _ => places,
        };
        let ring = Ring::new(put, places);
        let link = last.map_or(&self.first, |last| &last.next);
        // Release: who sees it sees what is in it. It is there before anything in it is counted.
        link.store(ring.as_ptr(), Ordering::Release);
        tail.ring = Some(ring);
        // SAFETY: it was just made.
        tail.places = unsafe { ring.as_ref() }.places();
        places.next_power_of_two() as u64
    }

    /// Finds out how far one can take, in the next ring if this one is used up.
    #[cold]
    fn find_item(&self, head: &mut Head<T>) -> Result<(), Stage> {
        let taken = head.taken;
        if head.stage != Stage::Here {
            return Err(head.stage);
        }
        // Acquire: with the count come the items, and the rings that they are in.
        let put = self.tail.count.load(Ordering::Acquire) - head.kept;
        if put == taken {
            return Err(Stage::Here);
        }
        loop {
            // SAFETY: rings are freed here, under the lock, and by nobody else who shares the queue.
            let ring = head.ring.map(|ring| unsafe { ring.as_ref() });
            let link = ring.map_or(&self.first, |ring| &ring.next);
            // Acquire: with the pointer comes the ring.
            let next = NonNull::new(link.load(Ordering::Acquire));
            // SAFETY: a ring that follows is freed after this one.
            let end = next.map_or(put, |next| unsafe { next.as_ref() }.base.min(put));
            if end != taken {
                head.limit = end;
                return Ok(());
            }
            let spent = std::mem::replace(&mut head.ring, next);
            // SAFETY: it was made before this one is freed.
            head.places = next.map_or(Places::NONE, |next| unsafe { next.as_ref() }.places());
            // SAFETY: it was leaked when it was made. All that was put into it is taken, nothing
            // more will be, since another ring follows, and the head does not point to it any more.
            drop(spent.map(|ring| unsafe { Box::from_raw(ring.as_ptr()) }));
        }
    }

    /// The same, where there is but one ring; whether it is far enough. Where items come one by one, this is what is
    /// most likely.
    #[inline]
    fn sees_item(&self, head: &mut Head<T>) -> bool {
        // There is none while the items are elsewhere.
        let Some(ring) = head.ring else {
            return false;
        };
        // Acquire: as above.
        let put = self.tail.count.load(Ordering::Acquire);
        // SAFETY: as above.
        let next = unsafe { &ring.as_ref().next };
        // Relaxed: with the count of an item that is in the next one came the pointer.
        if next.load(Ordering::Relaxed).is_null() {
            head.limit = put - head.kept;
        }
        head.limit != head.taken
    }

    /// Frees the last ring, which is empty; and one that follows, if room was made there and nothing was put.
    fn forget_rings(&self, tail: &mut Tail<T>, head: &mut Head<T>) {
        // Relaxed: both locks are held.
        self.first.store(ptr::null_mut(), Ordering::Relaxed);
        (tail.places, head.places) = (Places::NONE, Places::NONE);
        let mut ring = head.ring.take().or(tail.ring);
        tail.ring = None;
        while let Some(last) = ring {
            // SAFETY: it was leaked when it was made. What was put into it is taken, and nothing points to it any more:
            // those before it were freed as the head left them.
            let last = unsafe { Box::from_raw(last.as_ptr()) };
            ring = NonNull::new(last.next.load(Ordering::Relaxed));
        }
    }

    /// Sees to it that who puts looks for those who wait for items; `false` if there is something to be
    /// seen at once.
    pub(super) fn want_item(&self) -> bool {
        let (mut tail, head) = (self.tail.state.lock(), self.head.state.lock());
        let wanted = tail.stage == Stage::Here && tail.put == head.taken + head.kept;
        tail.wanted |= wanted;
        wanted
    }

    /// Sees to it that who takes looks for those who wait for room; `false` if there is something to be
    /// seen at once.
    pub(super) fn want_room(&self) -> bool {
        let (tail, mut head) = (self.tail.state.lock(), self.head.state.lock());
        let len = tail.put - head.taken + tail.kept;
        let wanted = head.stage == Stage::Here && self.maxsize != 0 && len >= self.maxsize;
        head.wanted |= wanted;
        wanted
    }

    /// Sees to it that who is done with the last item looks for those who wait for that; `false` if all
    /// are done.
    pub(super) fn want_join(&self) -> bool {
        let done = self.done.fetch_or(JOIN_WANTED, Ordering::AcqRel);
        self.unfinished_after(done) != Some(0)
    }

    /// Nobody waits in this list any more.
    pub(super) fn unwanted(&self, list: usize) {
        match list {
            GETTERS => self.tail.state.lock().wanted = false,
            PUTTERS => self.head.state.lock().wanted = false,
            // Relaxed: the flag alone is changed, by who has locked the slot, as where it is set.
            _ => drop(self.done.fetch_and(!JOIN_WANTED, Ordering::Relaxed)),
        }
    }

    /// How many items there are.
    pub(super) fn len(&self) -> usize {
        between(
            || self.head.count.load(Ordering::Acquire),
            || self.tail.count.load(Ordering::Acquire),
        )
    }

    /// How many items were put and are not done; `None` if that is not counted here.
    pub(super) fn unfinished(&self) -> Option<u64> {
        self.unfinished_after(self.done.load(Ordering::Acquire))
    }

    /// The count is looked at after what is done: what is done was put before.
    fn unfinished_after(&self, done: u64) -> Option<u64> {
        let put = self.tail.count.load(Ordering::Acquire);
        (done & CLOSED == 0).then(|| put - done / ONE_DONE)
    }

    /// Counts one more item as done; says whether it was the last one, and somebody waits for that.
    pub(super) fn task_done(&self) -> Result<bool, NotCounted> {
        let mut done = self.done.load(Ordering::Acquire);
        loop {
            match self.unfinished_after(done) {
                None => return Err(NotCounted::Moved),
                Some(0) => return Err(NotCounted::TooMany),
                Some(_) => {}
            }
            // AcqRel: who sees the last one counted sees all that was done about the items.
            match self.done.compare_exchange_weak(
                done,
                done + ONE_DONE,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => break,
                Err(now) => done = now,
            }
        }
        // All were done at the moment of this look at the count, if it says so.
        let is_last = self.unfinished_after(done + ONE_DONE) == Some(0);
        Ok(is_last && done & JOIN_WANTED != 0)
    }
}

impl<T> Drop for Plain<T> {
    fn drop(&mut self) {
        // Those for whom something is kept are no more.
        self.head.state.lock().kept = 0;
        while let Ok((item, _)) = self.try_get() {
            unwind::discard(item);
        }
        let (mut tail, mut head) = (self.tail.state.lock(), self.head.state.lock());
        self.forget_rings(&mut tail, &mut head);
    }
}

/// As queues do it.
#[cfg(test)]
impl<T> Plain<T> {
    fn put(&self, item: T) -> Result<bool, (T, Stage)> {
        match self.room() {
            Some(room) => Ok(room.fill(item)),
            None => self.try_put(item),
        }
    }

    fn get(&self) -> Result<(T, bool), Stage> {
        match self.first() {
            Some(first) => Ok(first.take()),
            None => self.try_get(),
        }
    }
}

#[cfg(all(test, freethreading_loom))]
mod models;

#[cfg(all(test, not(freethreading_loom)))]
mod tests;
