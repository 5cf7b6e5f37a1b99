//! How a task is woken from another process: that process sets a bit and rings a bell, on which one
//! thread of this process sleeps, however many tasks wait.

use std::{io, task::Waker};

use super::{
    Arena, arena, me,
    process::{self, BELL_WORDS, Process},
    waiter,
};
use crate::shim::{Ordering, Scope, fence};

/// Where the bit for a waker is, by the waker's place. Many wakers may share one.
fn bit(local: u32) -> (usize, u64) {
    let bit = local as usize % (BELL_WORDS * 64);
    (bit / 64, 1 << (bit % 64))
}

/// Rings the bell of another process, for its waker in that place.
pub(super) fn ring(process: u16, local: u32) {
    let Some(process) = process::process(process) else {
        return;
    };
    if set(process, local) {
        process.bell.wake(Scope::Everywhere);
    }
}

/// Says for whom the bell is rung, and that it is; says whether who hears it is to be woken.
pub(super) fn set(process: &Process, local: u32) -> bool {
    let (word, bit) = bit(local);
    // Each step may be the last one of a process that is killed here. What it leaves undone is done
    // again when it is cleaned up after: see `ring_again`; and setting a bit twice does no harm.
    process.bits[word].fetch_or(bit, Ordering::Release);
    // Release: who hears the bell sees the bit.
    process.bell.swap(1, Ordering::Release) == 0
}

/// A process is gone that may have rung a bell and not woken who hears it: nobody would do it later.
pub(super) fn ring_again() {
    for (_, process, _) in arena().processes.used() {
        // Relaxed: that the process is gone was found out after all that it did.
        if process.bell.load(Ordering::Relaxed) != 0 {
            process.bell.wake(Scope::Everywhere);
        }
    }
}

/// From now on another process may wake tasks and threads of this one.
#[cfg_attr(freethreading_loom, allow(dead_code))]
pub(super) fn share() {
    let arena = arena();
    // Nobody goes on before all this is done.
    let _sharing = arena.sharing.lock();
    if arena.shared.load(Ordering::Relaxed) {
        return;
    }
    arena.shared.store(true, Ordering::Relaxed);
    // With the other fences: either this sees that some task waits or some thread dozes, or who does sees this.
    fence(Ordering::SeqCst);
    waiter::rouse_dozing();
    if arena.awaited.load(Ordering::Relaxed) {
        let _ = listen();
    }
}

/// A task of this process waits with this waker: sees to it that the bell is heard.
#[inline]
pub(super) fn attend(waker: &Waker) {
    let arena = arena();
    // Relaxed: as in `note`.
    let is_noted =
        || arena.awaited.load(Ordering::Relaxed) && !arena.shared.load(Ordering::Relaxed);
    // Relaxed: once it is heard, it stays so.
    if !arena.heard.load(Ordering::Relaxed) && !is_noted() {
        note(arena, waker);
    }
}

#[cold]
fn note(arena: &Arena, waker: &Waker) {
    // Who has noted it, now or long ago, sees what `share` has done, or is seen by it; one is enough.
    if !arena.awaited.load(Ordering::Relaxed) {
        arena.awaited.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }
    if arena.shared.load(Ordering::Relaxed) && listen().is_err() {
        // Without the thread the task has to look by itself, again and again.
        waker.wake_by_ref();
    }
}

/// Starts the thread that hears the bell, unless it is there.
fn listen() -> io::Result<()> {
    // Relaxed: it only decides who starts the thread.
    if arena().heard.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    start().inspect_err(|_| arena().heard.store(false, Ordering::Relaxed))
}

#[cfg(not(freethreading_loom))]
fn start() -> io::Result<()> {
    std::thread::Builder::new()
        .name("freethreading-bell".into())
        .stack_size(256 * 1024)
        .spawn(|| hear_until(|| false))
        .map(drop)
}

/// A model has a thread of its own that hears.
#[cfg(freethreading_loom)]
fn start() -> io::Result<()> {
    Ok(())
}

/// Wakes those for whom the bell is rung, until it is enough.
pub(super) fn hear_until(enough: impl Fn() -> bool) {
    let process = process::process(me()).expect("this process is in the table");
    loop {
        answer(process);
        if enough() {
            return;
        }
        process.bell.wait(0, None, Scope::Everywhere);
    }
}

/// Wakes those for whom the bell was rung. Rung from here on, it is looked at once more.
fn answer(process: &Process) {
    // Acquire: pairs with `ring`.
    process.bell.swap(0, Ordering::Acquire);
    for (word, bits) in process.bits.iter().enumerate() {
        if bits.load(Ordering::Relaxed) == 0 {
            continue;
        }
        let mut rung = bits.swap(0, Ordering::Acquire);
        while rung != 0 {
            wake_all(word * 64 + rung.trailing_zeros() as usize);
            rung &= rung - 1;
        }
    }
}

/// Wakes those whose bit it is.
fn wake_all(bit: usize) {
    const BITS: usize = BELL_WORDS * 64;

    // A place counts once it is made, and one behind it may be in use by then. So many threads do not make one at the
    // same moment.
    let end = arena().locals.count() + BITS;
    for local in (bit..end).step_by(BITS) {
        waiter::wake_task(local as u32);
    }
}

#[cfg(all(test, not(freethreading_loom)))]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering::Relaxed},
        },
        task::Wake,
    };

    use super::*;
    use crate::arena::{
        node::State,
        waiter::{Place, Seat, Sleeper, Waiter},
    };

    #[derive(Default)]
    struct Flag(AtomicBool);

    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Relaxed);
        }
    }

    /// Rings for the place of who waits there.
    fn ring_for(waiter: &Waiter) {
        let (word, bit) = bit(waiter.node.local.load(Relaxed) - 1);
        wake_all(word * 64 + bit.trailing_zeros() as usize);
    }

    #[test]
    fn a_task_is_woken_while_the_place_before_its_own_is_being_made() {
        let woken = Arc::new(Flag::default());
        arena().locals.push_with(|_| {
            // Behind it, and in use.
            let waiter = Waiter(Seat::make());
            waiter.prepare(Sleeper::Task(&Arc::clone(&woken).into()));
            let _ = waiter.node.tell(State::Notified);
            ring_for(&waiter);
            Place::new(waiter.node)
        });
        assert!(woken.0.load(Relaxed));
    }

    #[test]
    fn a_task_is_not_woken_by_what_who_was_there_before_it_was_told() {
        let woken = Arc::new(Flag::default());
        let waiter = Waiter::claim();
        waiter.prepare(Sleeper::Task(&Arc::clone(&woken).into()));
        ring_for(&waiter);
        assert!(!woken.0.load(Relaxed));
        waiter.node.tell(State::Notified).wake();
        assert!(woken.0.load(Relaxed));
    }
}
