//! The arena in every order that the memory model allows: `cargo test --lib loom_` in a build with
//! `--cfg freethreading_loom`. What the models of the primitives need is here too.

use std::{
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    task::{Wake, Waker},
};

use loom::{
    cell::UnsafeCell,
    model::Builder,
    sync::Arc,
    thread::{self, JoinHandle},
};

use super::{
    arena, bell,
    handle::Handle,
    me,
    modelled::enter,
    node::{Node, State, Wakes},
    pool::{Pool, Shared, Unit, Units},
    process, reaper,
    slot::{Kind, SlotRef},
    waiter::{Sleeper, Waiter},
};
use crate::shim::{AtomicBool, AtomicU64};

/// Runs the code in all orders that switch threads where they need not at most so often.
///
/// `LOOM_MAX_PREEMPTIONS` sets another limit; with `--nocapture` the number of orders is printed.
pub(crate) fn model(switches: impl Into<Option<usize>>, code: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(switches.into());
    let orders = std::sync::Arc::new(AtomicUsize::new(0));
    builder.check({
        let orders = std::sync::Arc::clone(&orders);
        move || {
            orders.fetch_add(1, Relaxed);
            code();
        }
    });
    println!("{} orders", orders.load(Relaxed));
}

/// Starts a thread of another process, as far as the arena knows.
pub(crate) fn elsewhere<T: 'static>(code: impl FnOnce() -> T + 'static) -> JoinHandle<T> {
    thread::spawn(|| {
        enter(2);
        code()
    })
}

/// Something that only one may use at a time; the checker sees it if two do.
pub(crate) struct Protected(UnsafeCell<u32>);

impl Protected {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Protected(UnsafeCell::new(0)))
    }

    pub(crate) fn add(&self) {
        // SAFETY: that nobody else is here is what the model checks, and loom panics if it is not so.
        #[allow(unsafe_code)]
        self.0.with_mut(|value| unsafe { *value += 1 });
    }

    pub(crate) fn get(&self) -> u32 {
        // SAFETY: as above.
        #[allow(unsafe_code)]
        self.0.with(|value| unsafe { *value })
    }
}

fn claim_slot() -> SlotRef {
    let (index, slot) = arena().slots.claim(me(), 1).unwrap();
    SlotRef::new(index, slot)
}

#[test]
fn loom_a_slot_mutex_excludes() {
    model(None, || {
        let slot = claim_slot();
        let value = Protected::new();
        let add = {
            let value = Arc::clone(&value);
            move || {
                let _locked = slot.lock();
                value.add();
            }
        };
        let other = elsewhere(add.clone());
        add();
        other.join().unwrap();
        assert_eq!(value.get(), 2);
    });
}

#[test]
fn loom_a_slot_mutex_is_taken_from_a_dead_process() {
    model(None, || {
        let lock = Handle::new(Kind::Lock, |_| {}).unwrap();
        let slot = lock.slot();
        let waiter = Waiter::claim();
        waiter.prepare(Sleeper::Thread);
        let (index, node) = (waiter.index, waiter.node);
        let other = thread::spawn(move || {
            slot.lock().push(0, index, node, false);
            // As a process that is killed before it has done anything.
            enter(2);
            std::mem::forget(SlotRef::new(slot.index(), slot.slot).lock());
        });
        while slot.holder() != 2 {
            thread::yield_now();
        }
        slot.seize(2);
        // Who puts the slot in order finds who waits there.
        assert_eq!(waiter.state(), State::Notified);
        drop(slot.lock());
        other.join().unwrap();
    });
}

/// Who is told something by a process that is killed with the mutex goes on, while another puts the slot in order.
#[test]
fn loom_who_is_about_to_wait_again_is_not_found_where_it_has_waited() {
    model(None, || {
        let lock = Handle::new(Kind::Lock, |_| {}).unwrap();
        let slot = lock.slot();
        let waiter = Waiter::claim();
        waiter.prepare(Sleeper::Thread);
        slot.lock().push(0, waiter.index, waiter.node, false);
        let killed = elsewhere(move || {
            let slot = SlotRef::new(slot.index(), slot.slot).lock();
            let told = slot.pop(0, State::Notified);
            std::mem::forget(slot);
            told.unwrap().wake();
        });
        killed.join().unwrap();
        let again = thread::spawn(move || {
            assert_eq!(waiter.state(), State::Notified);
            waiter.retire();
            waiter.prepare(Sleeper::Thread);
            waiter
        });
        slot.seize(2);
        assert_eq!(again.join().unwrap().state(), State::Waiting);
    });
}

/// A process ends, killed or not, with a thread that has told somebody something, and not woken him.
#[test]
fn loom_who_was_told_is_woken_however_the_process_has_ended() {
    model(None, || {
        let event = Handle::new(Kind::Event, |_| {}).unwrap();
        let slot = event.slot();
        let waiter = Waiter::claim();
        waiter.prepare(Sleeper::Thread);
        slot.lock().push(0, waiter.index, waiter.node, false);
        let waiting = thread::spawn(move || assert!(waiter.sleep(None)));
        let ended = elsewhere(move || {
            let _never = SlotRef::new(slot.index(), slot.slot)
                .lock()
                .pop(0, State::Notified);
        });
        ended.join().unwrap();
        reaper::reap(2, 0, false);
        waiting.join().unwrap();
    });
}

/// Nobody else finds out that it is gone: models start no processes.
#[test]
fn loom_a_dead_process_is_out_of_a_line_whose_mutex_it_had() {
    model(None, || {
        let event = Handle::new(Kind::Event, |_| {}).unwrap();
        let slot = event.slot();
        let killed = elsewhere(move || {
            let slot = SlotRef::new(slot.index(), slot.slot);
            let waiter = Waiter::claim();
            waiter.prepare(Sleeper::Thread);
            slot.lock().push(0, waiter.index, waiter.node, false);
            std::mem::forget(slot.lock());
            std::mem::forget(waiter);
        });
        killed.join().unwrap();
        reaper::reap(2, 0, true);
        assert!(slot.lock().is_empty(0));
    });
}

/// As above: one that had the gate, too.
#[test]
fn loom_a_slot_is_in_order_again_whose_mutex_and_gate_a_dead_process_had() {
    model(None, || {
        let queue = Handle::new(Kind::Queue, |_| {}).unwrap();
        let slot = queue.slot();
        let killed = elsewhere(move || {
            let slot = SlotRef::new(slot.index(), slot.slot).lock();
            std::mem::forget(slot.gate(&mut Wakes::default()));
            std::mem::forget(slot);
        });
        killed.join().unwrap();
        reaper::reap(2, 0, true);
        drop(slot.lock());
        drop(slot.gate());
    });
}

#[test]
fn loom_a_gate_excludes_with_or_without_the_mutex_and_nobody_sleeps_on() {
    model(3, || {
        let slot = claim_slot();
        let value = Protected::new();
        let add = {
            let value = Arc::clone(&value);
            move || {
                let _gate = slot.gate();
                value.add();
            }
        };
        let others = [thread::spawn(add.clone()), elsewhere(add)];
        {
            let locked = slot.lock();
            let _gate = locked.gate(&mut Wakes::default());
            value.add();
        }
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(value.get(), 3);
    });
}

#[test]
fn loom_a_gate_is_taken_from_a_dead_process() {
    model(3, || {
        let queue = Handle::new(Kind::Queue, |_| {}).unwrap();
        let slot = queue.slot();
        let waiter = Waiter::claim();
        waiter.prepare(Sleeper::Thread);
        slot.lock().push(0, waiter.index, waiter.node, false);
        let other = elsewhere(move || {
            // As a process that is killed before it has done anything.
            std::mem::forget(SlotRef::new(slot.index(), slot.slot).gate());
        });
        let one_more = thread::spawn(move || drop(slot.gate()));
        while slot.gatekeeper() != 2 {
            thread::yield_now();
        }
        slot.reopen(2);
        // Who puts in order what is behind the gate tells those who wait to look again.
        assert_eq!(waiter.state(), State::Notified);
        drop(slot.gate());
        other.join().unwrap();
        one_more.join().unwrap();
    });
}

#[test]
fn loom_a_unit_is_given_to_one_at_a_time() {
    model(4, || {
        let values = [(); 4].map(|()| Protected::new());
        let use_one = {
            let values = values.clone();
            move || {
                let claimed = claim_slot();
                let (index, slot) = (claimed.index(), claimed.slot);
                values[index as usize].add();
                // A unit that is claimed has no past.
                assert_eq!(slot.words[0].load(Relaxed), 0);
                slot.words[0].store(1, Relaxed);
                arena().slots.free(index, slot);
            }
        };
        let other = elsewhere({
            let use_one = use_one.clone();
            move || {
                use_one();
                use_one();
            }
        });
        use_one();
        other.join().unwrap();
        let used: u32 = values.iter().map(|value| value.get()).sum();
        assert_eq!(used, 3);
    });
}

#[derive(Default)]
struct Small {
    tag: AtomicU64,
    user: AtomicU64,
}

impl Unit for Small {
    fn tag(&self) -> &AtomicU64 {
        &self.tag
    }

    fn reset(&self) {
        self.user.store(0, Relaxed);
    }

    fn new() -> Self {
        Small::default()
    }
}

pub(crate) fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

#[test]
fn loom_a_unit_that_was_handed_on_is_what_it_was_handed_on_as() {
    model(None, || {
        let units = leak([(); 2].map(|()| Small::new()));
        let pool = leak(Pool::new(Units::over(units, &[]), leak(Shared::default())));
        let hand_on = |user| {
            let (index, unit) = pool.claim(1, 1).unwrap();
            unit.user.store(user, Relaxed);
            pool.hand(unit, 0);
            (index, unit)
        };
        let (index, unit) = hand_on(1);
        let other = elsewhere(move || {
            for (_, unit, tag) in pool.used() {
                if tag.generation == 1 && tag.owner == 0 {
                    assert_eq!(unit.user.load(Relaxed), 2);
                }
            }
        });
        pool.free(index, unit);
        hand_on(2);
        other.join().unwrap();
    });
}

#[test]
fn loom_a_unit_that_others_hear_of_has_memory() {
    model(None, || {
        let units = leak([(); 4].map(|()| Small::new()));
        let there = leak([(); 4].map(|()| AtomicBool::new(false)));
        let shared = leak(Shared::default());
        let heard = leak(AtomicU64::new(0));
        let pool = || Pool::new(Units::over(units, there), shared);
        let other = elsewhere(move || {
            let (index, _) = pool().claim(2, 1).unwrap();
            heard.store(index.into(), Relaxed);
            index
        });
        let pool = pool();
        // Whoever knows the number finds the unit, or finds that there is none, whatever brought it.
        let found = pool.get(heard.load(Relaxed) as u32);
        assert!(found.is_none_or(|unit| std::ptr::eq(unit, &units[1])));
        let (index, _) = pool.claim(1, 1).unwrap();
        assert_ne!(index, other.join().unwrap());
    });
}

#[test]
fn loom_a_name_leads_to_what_it_names_or_nowhere() {
    model(5, || {
        let new = |mark| {
            Handle::new(Kind::Lock, |slot| {
                slot.words[0].store(mark, Relaxed);
            })
            .unwrap()
        };
        let first = new(1);
        let id = first.id();
        let other = elsewhere(move || {
            if let Ok(handle) = Handle::attach(id, Kind::Lock) {
                assert_eq!(handle.slot().words[0].load(Relaxed), 1);
            }
        });
        drop(first);
        let second = new(2);
        assert_eq!(second.slot().words[0].load(Relaxed), 2);
        other.join().unwrap();
        // Nobody has freed it.
        assert_eq!(second.slot().words[0].load(Relaxed), 2);
    });
}

/// A process ends that has leaked a wait, and let go of what it waited for.
#[test]
fn loom_a_leaked_wait_is_nothing_to_what_comes_after() {
    model(2, || {
        let wait_for = |slot: SlotRef| {
            let waiter = Waiter::claim();
            waiter.prepare(Sleeper::Thread);
            slot.lock().push(0, waiter.index, waiter.node, false);
            waiter
        };
        let first = Handle::new(Kind::Event, |_| {}).unwrap();
        let slot = first.slot();
        let leaking = move || std::mem::forget(wait_for(SlotRef::new(slot.index(), slot.slot)));
        elsewhere(leaking).join().unwrap();
        let reaper = thread::spawn(|| reaper::reap(2, 0, false));
        drop(first);
        let second = Handle::new(Kind::Event, |_| {}).unwrap();
        let waiter = wait_for(second.slot());
        reaper.join().unwrap();
        let line = second.slot().lock();
        assert!(line.pop(0, State::Notified).is_some());
        assert!(line.is_empty(0));
        assert_eq!(waiter.state(), State::Notified);
    });
}

#[test]
fn loom_the_last_handle_frees_the_slot() {
    model(None, || {
        let mine = Handle::new(Kind::Lock, |_| {}).unwrap();
        let id = mine.id();
        let theirs = Handle::attach(id, Kind::Lock).unwrap();
        let other = elsewhere(move || {
            theirs.slot().words[0].store(1, Relaxed);
            drop(theirs);
        });
        drop(mine);
        other.join().unwrap();
        assert!(Handle::attach(id, Kind::Lock).is_err());
        let slots = [claim_slot(), claim_slot(), claim_slot()];
        for slot in slots {
            assert_eq!(slot.words[0].load(Relaxed), 0);
        }
    });
}

#[test]
fn loom_a_waiter_hears_what_it_is_told() {
    model(None, || {
        let waiter = Waiter::claim();
        let node = waiter.node;
        let value = Protected::new();
        waiter.prepare(Sleeper::Thread);
        let other = elsewhere({
            let value = Arc::clone(&value);
            move || {
                value.add();
                node.set_outcome(7);
                node.tell(State::Notified).wake();
            }
        });
        assert!(waiter.sleep(None));
        // A look at the state is what brings the rest.
        assert_eq!(waiter.state(), State::Notified);
        assert_eq!(waiter.outcome(), 7);
        assert_eq!(value.get(), 1);
        other.join().unwrap();
    });
}

#[test]
fn loom_a_waiter_that_looks_hears_what_it_is_told() {
    model(None, || {
        let waiter = Waiter::claim();
        let node = waiter.node;
        let value = Protected::new();
        waiter.prepare(Sleeper::Thread);
        let other = elsewhere({
            let value = Arc::clone(&value);
            move || {
                value.add();
                node.tell(State::Handed).wake();
            }
        });
        let told = waiter.sleep(Some(std::time::Instant::now()));
        if waiter.state() == State::Handed {
            assert_eq!(value.get(), 1);
        } else {
            assert!(!told);
        }
        other.join().unwrap();
    });
}

/// Wakes by asserting that the news is seen.
struct Seen {
    news: &'static AtomicU64,
    woken: AtomicUsize,
}

impl Wake for Seen {
    fn wake(self: std::sync::Arc<Self>) {
        assert_eq!(self.news.load(Relaxed), 1);
        self.woken.fetch_add(1, Relaxed);
    }
}

/// The task waits.
fn awaiting(task: std::sync::Arc<Seen>) -> Waiter {
    let waiter = Waiter::claim();
    waiter.prepare(Sleeper::Task(&Waker::from(task)));
    waiter
}

#[test]
fn loom_a_bell_wakes_whom_it_is_rung_for() {
    model(None, || {
        let tasks = [0, 1].map(|_| {
            std::sync::Arc::new(Seen {
                news: Box::leak(Box::new(AtomicU64::new(0))),
                woken: AtomicUsize::new(0),
            })
        });
        let waiters = tasks.clone().map(awaiting);
        let other = elsewhere({
            let nodes = waiters.each_ref().map(|waiter| waiter.node);
            let news = tasks.clone().map(|task| task.news);
            move || {
                for (node, news) in nodes.into_iter().zip(news) {
                    news.store(1, Relaxed);
                    node.tell(State::Notified).wake();
                }
            }
        });
        bell::hear_until(|| tasks.iter().all(|task| task.woken.load(Relaxed) == 1));
        other.join().unwrap();
    });
}

#[test]
fn loom_a_bell_is_heard_though_who_rang_it_was_killed() {
    model(None, || {
        let task = std::sync::Arc::new(Seen {
            news: Box::leak(Box::new(AtomicU64::new(0))),
            woken: AtomicUsize::new(0),
        });
        let waiter = awaiting(task.clone());
        let killed = elsewhere({
            let (node, news) = (waiter.node, task.news);
            move || {
                news.store(1, Relaxed);
                let _not_woken = node.tell(State::Notified);
                let place = node.local.load(Relaxed) - 1;
                bell::set(process::process(1).unwrap(), place);
            }
        });
        let reaper = thread::spawn(move || {
            killed.join().unwrap();
            reaper::reap(2, 0, true);
        });
        bell::hear_until(|| task.woken.load(Relaxed) == 1);
        reaper.join().unwrap();
    });
}

#[test]
fn loom_a_bell_is_heard_once_others_may_ring_it() {
    model(None, || {
        arena().shared.store(false, Relaxed);
        let waiting = thread::spawn(|| bell::attend(Waker::noop()));
        bell::share();
        waiting.join().unwrap();
        assert!(arena().heard.load(Relaxed));
    });
}

/// A thread that sleeps, or is about to, while no other process has the arena.
fn dozing() -> (JoinHandle<()>, &'static Node) {
    arena().shared.store(false, Relaxed);
    let waiter = Waiter::claim();
    waiter.prepare(Sleeper::Thread);
    let node = waiter.node;
    let thread = thread::spawn(move || assert!(waiter.sleep(None)));
    (thread, node)
}

#[test]
fn loom_a_thread_that_dozes_hears_others_once_they_have_the_arena() {
    model(None, || {
        let (dozing, node) = dozing();
        bell::share();
        let other = elsewhere(move || node.tell(State::Notified).wake());
        other.join().unwrap();
        dozing.join().unwrap();
    });
}

#[test]
fn loom_a_thread_that_dozes_hears_its_own_process_while_the_arena_is_shared() {
    model(None, || {
        let (dozing, node) = dozing();
        let other = thread::spawn(move || node.tell(State::Notified).wake());
        bell::share();
        other.join().unwrap();
        dozing.join().unwrap();
    });
}

struct Idle;

impl Wake for Idle {
    fn wake(self: std::sync::Arc<Self>) {}
}

/// A task is polled with another waker while it is told something.
#[test]
fn loom_a_waker_that_comes_too_late_is_not_kept() {
    model(None, || {
        let waiter = Waiter::claim();
        waiter.prepare(Sleeper::Task(Waker::noop()));
        let node = waiter.node;
        let other = thread::spawn(move || node.tell(State::Notified).wake());
        let task = std::sync::Arc::new(Idle);
        waiter.leave(&std::sync::Arc::clone(&task).into());
        other.join().unwrap();
        drop(waiter);
        assert_eq!(std::sync::Arc::strong_count(&task), 1);
    });
}
