//! Where a task leaves its waker, and whoever wakes it finds it.
//!
//! A lock would take one atomic exchange more each time: mostly there is nothing here when a task comes to wait,
//! and then nobody else touches the place. Nor does who wakes a task ever wait here.
#![allow(unsafe_code)]

use std::{mem::MaybeUninit, task::Waker};

use crate::{
    shim::{AtomicU32, Ordering, UnsafeCell, fence, take_turns},
    unwind,
};

/// There is no waker. Only the owner changes that.
const EMPTY: u32 = 0;
/// There is one. Whoever changes that has it.
const FULL: u32 = 1;
/// Somebody has it in hand, for a moment.
const HELD: u32 = 2;

/// A place for one waker. It has an owner, who leaves one; anybody takes it.
pub(super) struct WakerCell {
    state: AtomicU32,
    waker: UnsafeCell<MaybeUninit<Waker>>,
}

// SAFETY: a waker may be used and dropped by any thread, and the state says which one has it.
unsafe impl Sync for WakerCell {}

impl WakerCell {
    pub(super) fn new() -> Self {
        WakerCell {
            state: AtomicU32::new(EMPTY),
            waker: UnsafeCell::new(MaybeUninit::uninit()),
        }
    }

    /// Takes the waker in hand, if there is one and nobody else has.
    #[inline]
    fn hold(&self) -> Option<InHand<'_>> {
        // Acquire: the waker is there as it was left.
        self.state
            .compare_exchange(FULL, HELD, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
            .then(|| InHand(self))
    }

    /// Takes the waker away, to wake the owner, who was told something before. Who finds nothing need not do so.
    #[inline]
    pub(super) fn take(&self) -> Option<Waker> {
        let held = self.hold().or_else(|| {
            // With the one in `replace`: either the owner will find what it was told, or its waker is here by now.
            fence(Ordering::SeqCst);
            self.hold()
        });
        held.map(InHand::take)
    }

    /// Leaves a waker, before anybody can have something to tell its owner, who calls this.
    #[inline]
    pub(super) fn fill(&self, waker: Waker) {
        if !self.is_empty() {
            self.empty();
        }
        // SAFETY: it is empty, so nobody else touches it until the owner, who is here, says that it is not.
        self.waker
            .with_mut(|place| unsafe { (*place).write(waker) });
        // Release: who takes the waker has it as it is here.
        self.state.store(FULL, Ordering::Release);
    }

    /// Leaves this waker from now on, if there is another one or none. Called by the owner, who looks whether it was
    /// told something afterwards.
    pub(super) fn replace(&self, waker: &Waker) {
        let is_there = self.hold().is_some_and(|held| held.will_wake(waker));
        if !is_there {
            // Cloning and dropping a waker is code of a user: nothing is held meanwhile.
            self.fill(waker.clone());
        }
        // With the one in `take`.
        fence(Ordering::SeqCst);
    }

    #[inline]
    fn is_empty(&self) -> bool {
        // Acquire: who has taken the waker away is through with it.
        self.state.load(Ordering::Acquire) == EMPTY
    }

    /// Drops the waker of a wait before this one, or waits until who has it in hand has taken it away.
    #[cold]
    fn empty(&self) {
        let attempt = || {
            // What it does as it is dropped must not keep the one that is to be left from its place.
            unwind::discard(self.hold().map(InHand::take));
            self.is_empty()
        };
        // Mostly nobody has it in hand.
        if !attempt() {
            take_turns(attempt);
        }
    }
}

impl Drop for WakerCell {
    fn drop(&mut self) {
        drop(self.take());
    }
}

/// The waker in hand; it is put back when this is dropped.
struct InHand<'a>(&'a WakerCell);

impl InHand<'_> {
    fn will_wake(&self, waker: &Waker) -> bool {
        // SAFETY: it was full, and who holds it is alone with it.
        self.0
            .waker
            .with(|held| unsafe { (*held).assume_init_ref() }.will_wake(waker))
    }

    fn take(self) -> Waker {
        // SAFETY: as above; nobody takes it again, since it is empty from here on.
        let waker = self
            .0
            .waker
            .with(|held| unsafe { (*held).assume_init_read() });
        // Release: it was moved out before it is filled again.
        self.0.state.store(EMPTY, Ordering::Release);
        std::mem::forget(self);
        waker
    }
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        // Release: as when it was left there.
        self.0.state.store(FULL, Ordering::Release);
    }
}

#[cfg(all(test, not(freethreading_loom)))]
static_assertions::assert_impl_all!(WakerCell: Send, Sync);

#[cfg(all(test, freethreading_loom))]
mod models {
    use std::{
        future::poll_fn,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering::Relaxed},
        },
        task::{Poll, Wake},
    };

    use loom::{future::block_on, thread};

    use super::*;
    use crate::arena::models::model;

    fn wake(cell: &WakerCell) {
        if let Some(waker) = cell.take() {
            waker.wake();
        }
    }

    /// Somebody tells the owner something, and somebody else comes late with what an earlier wait was told.
    #[test]
    fn loom_a_task_that_waits_on_is_woken_or_sees_what_it_was_told() {
        model(2, || {
            let cell = Arc::new(WakerCell::new());
            let told = Arc::new(AtomicU32::new(0));
            cell.fill(Waker::noop().clone());
            let late = Arc::clone(&cell);
            let late = thread::spawn(move || wake(&late));
            let teller = {
                let (cell, told) = (Arc::clone(&cell), Arc::clone(&told));
                thread::spawn(move || {
                    told.store(1, Ordering::Release);
                    wake(&cell);
                })
            };
            block_on(poll_fn(|context| {
                cell.replace(context.waker());
                match told.load(Ordering::Acquire) {
                    0 => Poll::Pending,
                    _ => Poll::Ready(()),
                }
            }));
            late.join().unwrap();
            teller.join().unwrap();
        });
    }

    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn loom_a_waker_is_taken_once_or_dropped() {
        model(3, || {
            let cell = Arc::new(WakerCell::new());
            let wakers = [(); 3].map(|()| Arc::new(Counted::default()));
            cell.fill(Arc::clone(&wakers[0]).into());
            let takers = [(); 2].map(|()| {
                let cell = Arc::clone(&cell);
                thread::spawn(move || wake(&cell))
            });
            cell.fill(Arc::clone(&wakers[1]).into());
            // It is put back, if it is there still.
            cell.replace(&Arc::clone(&wakers[1]).into());
            cell.fill(Arc::clone(&wakers[2]).into());
            for taker in takers {
                taker.join().unwrap();
            }
            wake(&cell);
            let woken = wakers.each_ref().map(|waker| waker.0.load(Relaxed));
            assert_eq!(woken[2], 1);
            // Each taker had one at most.
            assert!(woken[0] + woken[1] <= 2);
            assert_eq!(wakers.map(|waker| Arc::strong_count(&waker)), [1; 3]);
        });
    }
}
