//! Who moves which queues into the arena, and who waits for whom.
//!
//! To move a queue its items are encoded. An item may hold other queues, to which its `Serialize` comes then. The same
//! thread moves these, too: they are one convoy. If one of them is on its way already, it is encoded as what it will be.
//! Where it is on its way in another convoy, this convoy *needs* that one.
//!
//! Nobody waits while items are encoded. A convoy is loaded when all its items are encoded. Only then it waits, until the
//! convoys that it needs are loaded, too, and those that they need. Then all of them arrive, at one moment. A convoy that
//! fails puts its items back; so do those that need it, and set out again.

use std::{
    collections::BTreeMap,
    mem,
    sync::atomic::{AtomicU64, Ordering},
    thread::{self, ThreadId},
};

use parking_lot::{Condvar, Mutex, MutexGuard};

static UNDER_WAY: Mutex<Convoys> = Mutex::new(BTreeMap::new());

/// Tells that one of them is loaded, has arrived, or is gone.
static CHANGED: Condvar = Condvar::new();

type Convoys = BTreeMap<u64, Convoy>;

/// Queues that move together.
struct Convoy {
    by: ThreadId,
    leg: Leg,
    queues: Vec<Box<dyn Cargo>>,
    /// The convoys without which this one cannot arrive.
    needs: Vec<u64>,
    /// One of those has failed.
    is_lost: bool,
    /// Why a queue cannot move: of the first one that cannot.
    error: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Leg {
    Loading,
    Loaded,
    Arrived,
    /// The items are being put back.
    Failed,
}

/// A queue whose items are encoded, or cannot be. Dropped at the end, with the items that nobody needs any more.
pub(super) trait Cargo: Send {
    /// From now on what is done is counted where the queue will be.
    fn close(&self);

    /// The queue is there.
    fn open(&self);

    /// The queue stays here.
    fn put_back(&mut self);

    /// Tells those who wait to look again.
    fn tell(&self);
}

/// Moves what `load` loads into a convoy, whose number it is given.
pub(super) fn travel(mut load: impl FnMut(u64) -> Result<(), String>) -> Result<(), String> {
    // Relaxed: it is a number of its own, no more.
    static NEXT: AtomicU64 = AtomicU64::new(1);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let convoy = Convoy {
            by: thread::current().id(),
            leg: Leg::Loading,
            queues: Vec::new(),
            needs: Vec::new(),
            is_lost: false,
            error: None,
        };
        UNDER_WAY.lock().insert(number, convoy);
        let loaded = load(number);
        let outcome = arrive(number, loaded);
        leave(number, outcome.is_ok());
        match outcome {
            Ok(()) => return Ok(()),
            Err(Some(why)) => return Err(why),
            // What has failed elsewhere may succeed here, or tell why it does not.
            Err(None) => {}
        }
    }
}

/// The convoy that this thread is loading.
pub(super) fn mine() -> Option<u64> {
    let me = thread::current().id();
    let convoys = UNDER_WAY.lock();
    // The last one has the last number.
    let mut mine = convoys.iter().rev().filter(|(_, convoy)| convoy.by == me);
    mine.next().map(|(&number, _)| number)
}

/// Adds a queue, and the reason if it cannot be moved.
pub(super) fn add(number: u64, queue: Box<dyn Cargo>, error: Option<&String>) {
    with(&mut UNDER_WAY.lock(), number, |convoy| {
        convoy.queues.push(queue);
        if convoy.error.is_none() {
            convoy.error = error.cloned();
        }
    });
}

/// The convoy holds a queue of another one; `false` if that is not under way any more.
pub(super) fn need(number: u64, other: u64) -> bool {
    let mut convoys = UNDER_WAY.lock();
    loop {
        match convoys.get(&other).map(|other| other.leg) {
            None | Some(Leg::Arrived) => return false,
            // Nobody's code runs while items are put back.
            Some(Leg::Failed) => CHANGED.wait(&mut convoys),
            Some(Leg::Loading | Leg::Loaded) => break,
        }
    }
    with(&mut convoys, number, |convoy| convoy.needs.push(other));
    true
}

/// Whether it is this thread that moves the convoy: its own code is called to encode an item then.
pub(super) fn is_mine(number: u64) -> bool {
    let me = thread::current().id();
    let convoys = UNDER_WAY.lock();
    convoys.get(&number).is_some_and(|convoy| convoy.by == me)
}

/// Waits until the convoy has arrived, or its items are where they were.
pub(super) fn wait_for(number: u64) {
    let mut convoys = UNDER_WAY.lock();
    let is_under_way = |convoys: &mut Convoys| {
        let convoy = convoys.get(&number);
        convoy.is_some_and(|convoy| convoy.leg != Leg::Arrived)
    };
    CHANGED.wait_while(&mut convoys, is_under_way);
}

fn with<R>(
    convoys: &mut MutexGuard<'_, Convoys>,
    number: u64,
    code: impl FnOnce(&mut Convoy) -> R,
) -> R {
    let convoy = convoys.get_mut(&number);
    code(convoy.expect("a convoy is known until its own thread removes it"))
}

/// All is loaded, or something could not be. Fails without a reason where another convoy has.
fn arrive(number: u64, loaded: Result<(), String>) -> Result<(), Option<String>> {
    let mut convoys = UNDER_WAY.lock();
    let error = with(&mut convoys, number, |convoy| {
        convoy.leg = Leg::Loaded;
        // Whoever called may have got over it, but others may have the name of what is not moved.
        loaded.err().or_else(|| convoy.error.take())
    });
    if error.is_some() {
        return fail(&mut convoys, number, error);
    }
    CHANGED.notify_all();
    loop {
        let (leg, is_lost) = with(&mut convoys, number, |convoy| (convoy.leg, convoy.is_lost));
        if leg == Leg::Arrived {
            return Ok(());
        }
        if is_lost {
            return fail(&mut convoys, number, None);
        }
        if let Some(all) = all_loaded(&convoys, number) {
            // Nobody has anything of what has arrived before all is counted where it is.
            each_queue(&convoys, &all, |queue| queue.close());
            each_queue(&convoys, &all, |queue| queue.open());
            for &number in &all {
                with(&mut convoys, number, |convoy| convoy.leg = Leg::Arrived);
            }
            CHANGED.notify_all();
            return Ok(());
        }
        // Who waits has nothing that others wait for, so nobody waits in a circle.
        let me = thread::current().id();
        let is_loading = |convoy: &Convoy| convoy.by == me && convoy.leg == Leg::Loading;
        if convoys.values().any(is_loading) {
            let why = "what encodes an item of a queue that is being given to a process for the first time cannot \
                       wait for another queue of which that is so";
            return fail(&mut convoys, number, Some(why.into()));
        }
        CHANGED.wait(&mut convoys);
    }
}

fn fail(
    convoys: &mut MutexGuard<'_, Convoys>,
    number: u64,
    why: Option<String>,
) -> Result<(), Option<String>> {
    with(convoys, number, |convoy| convoy.leg = Leg::Failed);
    for convoy in convoys.values_mut() {
        convoy.is_lost |= convoy.needs.contains(&number);
    }
    CHANGED.notify_all();
    Err(why)
}

/// This convoy and those that it needs, and those that they need, if all are loaded.
fn all_loaded(convoys: &Convoys, number: u64) -> Option<Vec<u64>> {
    let mut all = vec![number];
    let mut looked_at = 0;
    while let Some(number) = all.get(looked_at) {
        let convoy = &convoys[number];
        if convoy.leg != Leg::Loaded || convoy.is_lost {
            return None;
        }
        for need in &convoy.needs {
            // One that is gone has arrived, since this one is not lost.
            let has_arrived = convoys
                .get(need)
                .is_none_or(|need| need.leg == Leg::Arrived);
            if !has_arrived && !all.contains(need) {
                all.push(*need);
            }
        }
        looked_at += 1;
    }
    Some(all)
}

fn each_queue(convoys: &Convoys, all: &[u64], code: impl Fn(&dyn Cargo)) {
    let queues = all.iter().flat_map(|number| &convoys[number].queues);
    queues.for_each(|queue| code(&**queue));
}

/// The convoy is no more.
fn leave(number: u64, has_arrived: bool) {
    let mut queues = with(&mut UNDER_WAY.lock(), number, |convoy| {
        mem::take(&mut convoy.queues)
    });
    if !has_arrived {
        queues.iter_mut().for_each(|queue| queue.put_back());
    }
    UNDER_WAY.lock().remove(&number);
    CHANGED.notify_all();
    // Wakers and destructors are anybody's code.
    queues.iter().for_each(|queue| queue.tell());
}
