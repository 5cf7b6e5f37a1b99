//! Worker processes that are killed while they hold a primitive, wait for one, or do either again and
//! again: nobody else hangs, and afterwards all is as it should be.

mod common;
#[path = "common/primitives.rs"]
mod primitives;

use std::{
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    thread,
    time::{Duration, Instant},
};

use common::{
    Random, Scratch, Sign, Wakes, descriptors, eventually, processes, runs, signal, threads,
    watched, ways::Way,
};
use freethreading::{
    Backend, Barrier, BoundedSemaphore, Condition, Error, Event, IntoTask, Launcher, Lock, Queue,
    RLock, Semaphore, SimpleQueue, TaskError, Worker, WorkerPoolExecutor, active_count, task,
};
use futures::{
    FutureExt,
    executor::block_on,
    future::{Either, select},
};
use primitives::{
    Awaitable, Getting, HeldRLock, Joining, LONG, Lockable, Meeting, Place, Putting, SimplyGetting,
    Wait, asleep_in, current_thread, every_type, multi_thread, wait_and_note,
};

freethreading::init_tests!();

/// Starts a process that runs the task.
fn start<M>(task: impl IntoTask<M>) -> Worker {
    let worker = Worker::new(task).backend(Backend::Multiprocessing);
    worker.start().unwrap();
    worker
}

/// Runs a task in a process that ends well afterwards; gives the result.
fn elsewhere<M, T: IntoTask<M>>(task: T) -> T::Output {
    let executor = processes(1);
    let result = executor.submit(task).result().unwrap();
    executor.shutdown(true, false);
    result
}

fn pid(worker: &Worker) -> u32 {
    worker.ident().unwrap() as u32
}

#[track_caller]
fn assert_died(worker: &Worker) {
    let error = worker.join().unwrap_err();
    assert!(
        matches!(error, Error::Task(TaskError::WorkerDied(_))),
        "{error}"
    );
}

fn kill(worker: &Worker) {
    signal(pid(worker), libc::SIGKILL);
}

/// A process that waits, and where it does. It says so if it is let through.
struct Victim {
    worker: Worker,
    place: Place,
    passed: Sign,
    _scratch: Scratch,
}

impl Victim {
    fn asleep<A: Awaitable>(object: &A, way: Way) -> Victim {
        let scratch = Scratch::new();
        let (came, passed) = (scratch.sign("came"), scratch.sign("passed"));
        let wait = task!(wait_and_note::<A>(
            object.clone(),
            way,
            came.clone(),
            passed.clone()
        ));
        let worker = start(wait);
        eventually("it has come", || came.notes().len() == 1);
        let place = Place::from(came.notes().remove(0));
        place.wait_until_asleep();
        Victim {
            worker,
            place,
            passed,
            _scratch: scratch,
        }
    }

    fn stop(&self) {
        common::stop(self.place.pid);
    }

    fn kill(&self) {
        kill(&self.worker);
    }

    /// It is dead, and its parent knows it.
    fn bury(&self) {
        assert_died(&self.worker);
        assert!(self.passed.notes().is_empty());
    }

    fn assert_passes(&self) {
        self.worker.join().unwrap();
        assert_eq!(self.passed.notes().len(), 1);
    }
}

/// What waits for the same as a process that is killed.
enum Witness {
    Thread(thread::JoinHandle<()>),
    Task(Wait<'static>, Arc<Wakes>),
    Process(Victim),
}

impl Witness {
    const KINDS: usize = 4;

    fn of<A: Awaitable>(object: &A, kind: usize) -> Witness {
        let leaked: &'static A = Box::leak(Box::new(object.clone()));
        match kind {
            0 => Witness::Thread(asleep_in(move || leaked.wait()).0),
            1 => {
                let (mut wait, wakes) = (leaked.wait_async(), Wakes::new());
                let waker = Waker::from(Arc::clone(&wakes));
                assert!(
                    wait.as_mut()
                        .poll(&mut Context::from_waker(&waker))
                        .is_pending()
                );
                Witness::Task(wait, wakes)
            }
            2 => Witness::Process(Victim::asleep(object, Way::Blocking)),
            _ => Witness::Process(Victim::asleep(object, Way::Async)),
        }
    }

    fn assert_passes(self) {
        match self {
            Witness::Thread(thread) => thread.join().unwrap(),
            Witness::Task(mut wait, wakes) => {
                let waker = Waker::from(Arc::clone(&wakes));
                let mut seen = 0;
                loop {
                    eventually("it is woken", || wakes.count() > seen);
                    seen = wakes.count();
                    if wait
                        .as_mut()
                        .poll(&mut Context::from_waker(&waker))
                        .is_ready()
                    {
                        return;
                    }
                }
            }
            Witness::Process(victim) => victim.assert_passes(),
        }
    }
}

// -- Waits that are given up

/// A wait of an object, polled once.
fn pending<'a, A: Awaitable>(object: &'a A) -> (Wait<'a>, Arc<Wakes>) {
    let (mut wait, wakes) = (object.wait_async(), Wakes::new());
    let waker = Waker::from(Arc::clone(&wakes));
    let polled = wait.as_mut().poll(&mut Context::from_waker(&waker));
    assert!(polled.is_pending());
    (wait, wakes)
}

/// One that another process has seen: the items of a queue are where they will stay, and nobody is woken
/// because they move.
fn known<A: Awaitable>() -> A {
    let object = A::closed(2);
    elsewhere(task!(open::<A>(object.clone(), 0)));
    object
}

/// The task of a worker that gives up: when it is told to, or else as soon as it is woken.
fn leave<A: Awaitable>(object: A, came: Sign, told: Option<Sign>) {
    let (wait, wakes) = pending(&object);
    came.give();
    match told {
        Some(told) => told.wait(),
        None => eventually("it is woken", || wakes.count() > 0),
    }
    drop(wait);
}

every_type! {
    for [
        lock: Lock,
        r_lock: HeldRLock,
        semaphore: Semaphore,
        bounded_semaphore: BoundedSemaphore,
        condition: Condition,
        get: Getting,
        put: Putting,
        simple_get: SimplyGetting,
    ]

    fn a_wake_up_is_passed_on_to_a_process<A: Awaitable>() {
        for way in [Way::Blocking, Way::Timed, Way::Async] {
            let object = known::<A>();
            let (first, woken) = pending(&object);
            let second = Victim::asleep(&object, way);
            object.let_through();
            eventually("the first is woken", || woken.count() > 0);
            assert!(second.passed.notes().is_empty());
            drop(first);
            second.assert_passes();
            assert_closed_again(&object);
        }
    }

    fn a_process_does_not_wait_behind_who_has_given_up<A: Awaitable>() {
        for way in [Way::Blocking, Way::Timed, Way::Async] {
            let object = known::<A>();
            let (first, _) = pending(&object);
            let second = Victim::asleep(&object, way);
            drop(first);
            object.let_through();
            second.assert_passes();
            assert_closed_again(&object);
        }
    }

    fn a_process_passes_a_wake_up_on<A: Awaitable>() {
        let scratch = Scratch::new();
        for kind in 0..Witness::KINDS {
            let object = known::<A>();
            let came = scratch.sign(&kind.to_string());
            let first = start(task!(leave::<A>(object.clone(), came.clone(), None)));
            came.wait();
            let second = Witness::of(&object, kind);
            object.let_through();
            first.join().unwrap();
            second.assert_passes();
            assert_closed_again(&object);
        }
    }

    fn nobody_waits_behind_a_process_that_has_given_up<A: Awaitable>() {
        let scratch = Scratch::new();
        for kind in 0..Witness::KINDS {
            let object = known::<A>();
            let came = scratch.sign(&kind.to_string());
            let told = scratch.sign(&format!("{kind} told"));
            let leaving = leave::<A>;
            let first = start(task!(leaving(object.clone(), came.clone(), Some(told.clone()))));
            came.wait();
            let second = Witness::of(&object, kind);
            told.give();
            first.join().unwrap();
            object.let_through();
            second.assert_passes();
            assert_closed_again(&object);
        }
    }
}

// -- Holders

/// The task of a worker that acquires for good, says so, and ends in some way.
fn hold<L: Lockable>(lock: L, times: usize, held: Sign, end: End) {
    for _ in 0..times {
        lock.acquire();
    }
    held.tell(process::id());
    end.come();
}

/// The same in a task of tokio, which owns what it acquires itself.
fn hold_as_a_task<L: Lockable>(lock: L, held: Sign, end: End) {
    current_thread().block_on(async {
        let holding = tokio::spawn(async move {
            lock.acquire_async().await;
            held.tell(process::id());
            end.come();
        });
        holding.await.unwrap();
    });
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
enum End {
    Never,
    Return,
    Exit(i32),
    Abort,
    Segfault,
}

impl End {
    fn come(self) {
        match self {
            End::Never => loop {
                thread::park();
            },
            End::Return => {}
            End::Exit(code) => process::exit(code),
            End::Abort => process::abort(),
            End::Segfault => signal(process::id(), libc::SIGSEGV),
        }
    }
}

/// A process that holds the lock.
fn holder<L: Lockable>(lock: &L, times: usize) -> Worker {
    let scratch = Scratch::new();
    let held = scratch.sign("held");
    let worker = start(task!(hold::<L>(
        lock.clone(),
        times,
        held.clone(),
        End::Never
    )));
    held.wait();
    worker
}

/// The lock is free, and works.
#[track_caller]
fn assert_sound<L: Lockable>(lock: &L) {
    for _ in 0..2 {
        assert!(lock.acquire_timeout(LONG));
        let others = lock.clone();
        assert!(!thread::spawn(move || others.try_acquire()).join().unwrap());
        lock.release().unwrap();
    }
    assert!(lock.release().is_err());
    let others = lock.clone();
    elsewhere(task!(come_and_go::<L>(others, 1)));
}

fn come_and_go<L: Lockable>(lock: L, times: usize) {
    for _ in 0..times {
        lock.acquire();
        lock.release().unwrap();
    }
}

/// Waits in every way for a lock; each of them has it for a moment.
struct Queuing<L: Lockable> {
    lock: L,
    threads: Vec<thread::JoinHandle<()>>,
    processes: Vec<Worker>,
    _scratch: Scratch,
}

impl<L: Lockable> Queuing<L> {
    fn asleep(lock: &L) -> Self {
        let scratch = Scratch::new();
        let ways = Way::ALL;
        let threads = ways.map(|way| {
            let lock = lock.clone();
            asleep_in(move || lock.hold(way, || ())).0
        });
        let processes = ways.map(|way| {
            let came = scratch.sign(&format!("{way:?}"));
            let worker = start(task!(queue_up::<L>(lock.clone(), way, came.clone())));
            Place::from(came.hear()).wait_until_asleep();
            worker
        });
        Queuing {
            lock: lock.clone(),
            threads: threads.into(),
            processes: processes.into(),
            _scratch: scratch,
        }
    }

    fn assert_pass(self) {
        for thread in self.threads {
            thread.join().unwrap();
        }
        for process in self.processes {
            process.join().unwrap();
        }
        assert_sound(&self.lock);
    }
}

fn queue_up<L: Lockable>(lock: L, way: Way, came: Sign) {
    came.tell(Place::here());
    lock.hold(way, || ());
}

/// How often somebody has to look in vain until the lock is handed to him.
const POLLS: usize = 4;

/// Waits for a lock until it would be handed it, looks whenever it is told to, and never hears of the lock.
fn starve<L: Lockable>(lock: L, told: Semaphore, polled: Semaphore) {
    let mut wait = lock.acquire_async();
    for _ in 0..POLLS {
        told.acquire();
        // For less it goes on competing.
        thread::sleep(Duration::from_millis(1));
        let mut context = Context::from_waker(Waker::noop());
        assert!(wait.as_mut().poll(&mut context).is_pending());
        polled.release().unwrap();
    }
    told.acquire();
    std::mem::forget(wait);
}

/// What a lock does when the process below dies that holds it.
fn hold_below<L: Lockable>(lock: L, levels: u32, held: Sign, end: End) {
    if levels == 0 {
        return hold(lock, 1, held, end);
    }
    let below = start(task!(hold_below::<L>(lock, levels - 1, held, end)));
    // The one below may be killed.
    let _ = below.join();
    End::Never.come();
}

every_type! {
    for [lock: Lock, r_lock: RLock, condition: Condition]

    fn what_a_killed_process_held_goes_to_those_who_wait<L: Lockable>() {
        let lock = L::free();
        let holder = holder(&lock, 1);
        let queuing = Queuing::asleep(&lock);
        kill(&holder);
        queuing.assert_pass();
        assert_died(&holder);
    }

    fn what_a_killed_process_held_is_free<L: Lockable>() {
        let lock = L::free();
        let holder = holder(&lock, 1);
        assert!(!lock.try_acquire());
        holder.terminate().unwrap();
        assert_died(&holder);
        assert_sound(&lock);
    }

    fn what_a_task_of_a_killed_process_held_is_free<L: Lockable>() {
        let lock = L::free();
        let scratch = Scratch::new();
        let held = scratch.sign("held");
        let holder = start(task!(hold_as_a_task::<L>(lock.clone(), held.clone(), End::Never)));
        held.wait();
        kill(&holder);
        assert_sound(&lock);
        assert_died(&holder);
    }

    fn a_crash_or_an_exit_is_as_good_as_a_kill<L: Lockable>() {
        let scratch = Scratch::new();
        for (n, end) in [End::Exit(0), End::Exit(3), End::Abort, End::Segfault].into_iter().enumerate() {
            let lock = L::free();
            let held = scratch.sign(&n.to_string());
            let executor = processes(1);
            let died = executor.submit(task!(hold::<L>(lock.clone(), 1, held, end)));
            let error = died.result().unwrap_err();
            assert!(matches!(error, TaskError::WorkerDied(_)), "{error}");
            assert_sound(&lock);
        }
    }

    fn an_executor_s_worker_that_is_killed_leaves_nothing_locked<L: Lockable>() {
        let executor = processes(1);
        let lock = L::free();
        for _ in 0..10 {
            let scratch = Scratch::new();
            let held = scratch.sign("held");
            let died = executor.submit(task!(hold::<L>(lock.clone(), 1, held.clone(), End::Never)));
            signal(held.hear().parse().unwrap(), libc::SIGKILL);
            assert!(died.result().is_err());
            assert_sound(&lock);
        }
    }

    fn a_worker_that_ended_well_keeps_what_it_held<L: Lockable>() {
        let lock = L::free();
        let scratch = Scratch::new();
        let ended = start(task!(hold::<L>(lock.clone(), 1, scratch.sign("held"), End::Return)));
        ended.join().unwrap();
        assert!(!lock.try_acquire());
        // Its successors, which may have its place in all tables, have nothing to do with it: not while
        // they live, nor when they are killed.
        for _ in 0..20 {
            assert!(!elsewhere(task!(tries::<L>(lock.clone()))));
            let other = L::free();
            let successor = holder(&other, 1);
            kill(&successor);
            assert_died(&successor);
            assert!(!lock.try_acquire());
            assert!(!lock.acquire_timeout(Duration::from_millis(1)));
        }
    }

    fn what_was_handed_to_who_never_knew_is_free_however_the_process_ends<L: Lockable>() {
        for kills in [false, true] {
            let lock = L::free();
            let (told, polled) = (Semaphore::new(0), Semaphore::new(0));
            lock.acquire();
            let starving = start(task!(starve::<L>(lock.clone(), told.clone(), polled.clone())));
            for n in 1..=POLLS {
                told.release().unwrap();
                polled.acquire();
                lock.release().unwrap();
                // In the end it was in vain so often that the lock is handed to who waits.
                assert_eq!(lock.try_acquire(), n < POLLS);
            }
            match kills {
                true => kill(&starving),
                false => told.release().unwrap(),
            }
            assert_eq!(starving.join().is_err(), kills);
            assert_sound(&lock);
        }
    }

    fn an_executor_that_is_shut_down_leaves_locked_what_its_tasks_locked<L: Lockable>() {
        let lock = L::free();
        assert!(elsewhere(task!(tries::<L>(lock.clone()))));
        assert!(!lock.try_acquire());
    }

    fn what_a_killed_grandchild_held_is_free<L: Lockable>() {
        for levels in 1..=2 {
            let lock = L::free();
            let scratch = Scratch::new();
            let (child, grandchild) = family(&lock, levels, &scratch);
            let queuing = Queuing::asleep(&lock);
            signal(grandchild, libc::SIGKILL);
            queuing.assert_pass();
            // Those above it are well.
            assert!(child.is_alive());
            kill(&child);
            assert_died(&child);
            assert_sound(&lock);
        }
    }

    fn what_a_grandchild_held_is_free_when_the_child_is_killed<L: Lockable>() {
        for levels in 1..=2 {
            let lock = L::free();
            let scratch = Scratch::new();
            let (child, grandchild) = family(&lock, levels, &scratch);
            let queuing = Queuing::asleep(&lock);
            kill(&child);
            queuing.assert_pass();
            assert_died(&child);
            eventually("the grandchild is gone", || !runs(grandchild));
        }
    }

    /// One that is still in use by somebody else is not the dead one's.
    fn only_what_the_dead_one_held_is_released<L: Lockable>() {
        let (ours, theirs, its) = (L::free(), L::free(), L::free());
        ours.acquire();
        let other = holder(&theirs, 1);
        let doomed = holder(&its, 1);
        kill(&doomed);
        assert_died(&doomed);
        assert_sound(&its);
        for lock in [&ours, &theirs] {
            let lock = lock.clone();
            assert!(!thread::spawn(move || lock.try_acquire()).join().unwrap());
        }
        ours.release().unwrap();
        kill(&other);
        assert_died(&other);
        assert_sound(&theirs);
    }
}

fn tries<L: Lockable>(lock: L) -> bool {
    lock.try_acquire()
}

/// A child, and the process far below it that holds the lock.
fn family<L: Lockable>(lock: &L, levels: u32, scratch: &Scratch) -> (Worker, u32) {
    let held = scratch.sign(&format!("family-{levels}"));
    let child = start(task!(hold_below::<L>(
        lock.clone(),
        levels,
        held.clone(),
        End::Never
    )));
    let grandchild = held.hear().parse().unwrap();
    (child, grandchild)
}

/// The numbers of processes are used again, those of their threads too.
#[test]
fn a_successor_does_not_own_what_its_predecessor_held() {
    fn owns(lock: RLock) -> bool {
        lock.is_owned() || lock.recursion_count() > 0 || lock.release().is_ok()
    }
    watched(|| {
        let lock = RLock::new();
        assert!(elsewhere(task!(tries::<RLock>(lock.clone()))));
        for _ in 0..20 {
            assert!(!elsewhere(task!(owns(lock.clone()))));
        }
    });
}

#[test]
fn an_r_lock_is_free_however_often_it_was_acquired() {
    watched(|| {
        let lock = RLock::new();
        let holder = holder(&lock, 3);
        kill(&holder);
        assert!(lock.acquire_timeout(LONG));
        assert_eq!(lock.recursion_count(), 1);
        lock.release().unwrap();
        assert_sound(&lock);
        assert_died(&holder);
    });
}

/// A lock that a process left behind when it ended well is still anybody's to release.
#[test]
fn a_lock_left_behind_may_be_released() {
    watched(|| {
        let lock = Lock::new();
        assert!(elsewhere(task!(tries::<Lock>(lock.clone()))));
        let queuing = Queuing::asleep(&lock);
        lock.release().unwrap();
        queuing.assert_pass();
    });
}

/// A panic leaves the worker, and with it what it has acquired, as they are; then comes the kill.
#[test]
fn what_a_task_left_locked_is_released_with_its_worker() {
    fn acquire_and_panic(lock: Lock, came: Sign) {
        lock.acquire();
        came.tell(process::id());
        panic!("while it is held");
    }
    watched(|| {
        let scratch = Scratch::new();
        let (lock, came) = (Lock::new(), scratch.sign("came"));
        let executor = processes(1);
        let panicked = executor.submit(task!(acquire_and_panic(lock.clone(), came.clone())));
        assert!(matches!(panicked.result(), Err(TaskError::Panicked(_))));
        assert!(!lock.try_acquire());
        executor.submit(|| ()).result().unwrap();
        assert!(lock.locked());
        signal(came.hear().parse().unwrap(), libc::SIGKILL);
        lock.acquire();
        lock.release().unwrap();
        assert_sound(&lock);
        executor.submit(|| ()).result().unwrap();
    });
}

/// A permit belongs to nobody: it is gone with whoever had it, and with nobody else.
#[test]
fn a_permit_of_a_killed_process_is_gone() {
    fn take_one<L: Lockable>(semaphore: L) {
        let holder = holder(&semaphore, 1);
        kill(&holder);
        assert_died(&holder);
        assert!(!semaphore.acquire_timeout(Duration::from_millis(1)));
        semaphore.release().unwrap();
        assert_sound_permit(&semaphore);
    }
    fn assert_sound_permit<L: Lockable>(semaphore: &L) {
        assert!(semaphore.try_acquire());
        assert!(!semaphore.try_acquire());
        semaphore.release().unwrap();
    }
    watched(|| {
        take_one(Semaphore::new(1));
        take_one(BoundedSemaphore::new(1));
    });
}

// -- Leaked waits

/// The task of a worker that leaks a wait, perhaps after it was told that it may go on, and lets go of what it
/// waited for.
fn leak<A: Awaitable>(objects: SimpleQueue<A>, told: bool, came: Sign, leaked: Sign, end: Sign) {
    let object = objects.get().unwrap();
    let (wait, wakes) = pending(&object);
    came.give();
    if told {
        eventually("it is woken", || wakes.count() > 0);
    }
    std::mem::forget(wait);
    drop(object);
    leaked.give();
    end.wait();
}

/// What is made after the object of a leaked wait is gone, in the same memory: it has a waiter when the process
/// that has leaked the wait ends.
fn assert_leak_harmless<A: Awaitable>(told: bool, killed: bool, witness: usize) {
    let scratch = Scratch::new();
    let [came, leaked, end] = ["came", "leaked", "end"].map(|name| scratch.sign(name));
    let objects = SimpleQueue::new();
    let worker = start(task!(leak::<A>(
        objects.clone(),
        told,
        came.clone(),
        leaked.clone(),
        end.clone()
    )));
    let object = A::closed(1);
    objects.put(object.clone()).unwrap();
    came.wait();
    if told {
        object.let_through();
    }
    leaked.wait();
    drop(object);
    let later: Vec<A> = (0..3).map(|_| A::closed(1)).collect();
    let witnesses: Vec<_> = later
        .iter()
        .map(|object| Witness::of(object, witness))
        .collect();
    if killed {
        kill(&worker);
        assert_died(&worker);
    } else {
        end.give();
        worker.join().unwrap();
    }
    for (object, witness) in later.iter().zip(witnesses) {
        object.let_through();
        witness.assert_passes();
        assert_closed_again(object);
    }
}

every_type! {
    for unowned

    fn a_leaked_wait_is_nothing_to_what_comes_after<A: Awaitable>() {
        for killed in [false, true] {
            for witness in [0, 1] {
                assert_leak_harmless::<A>(false, killed, witness);
            }
        }
    }
}

every_type! {
    for [
        lock: Lock,
        semaphore: Semaphore,
        bounded_semaphore: BoundedSemaphore,
        condition: Condition,
        get: Getting,
        put: Putting,
        simple_get: SimplyGetting,
    ]

    fn what_a_leaked_wait_was_told_is_nothing_to_what_comes_after<A: Awaitable>() {
        for killed in [false, true] {
            assert_leak_harmless::<A>(true, killed, 0);
        }
    }
}

// -- Waiters

every_type! {
    for [
        lock: Lock,
        r_lock: HeldRLock,
        semaphore: Semaphore,
        bounded_semaphore: BoundedSemaphore,
        event: Event,
        condition: Condition,
        get: Getting,
        put: Putting,
        join: Joining,
        simple_get: SimplyGetting,
    ]

    fn a_waiter_killed_in_its_sleep_is_passed_over<A: Awaitable>() {
        for way in [Way::Blocking, Way::Async] {
            for witness in 0..Witness::KINDS {
                let object = A::closed(2);
                let victim = Victim::asleep(&object, way);
                let witness = Witness::of(&object, witness);
                victim.kill();
                victim.bury();
                object.let_through();
                witness.assert_passes();
                assert_closed_again(&object);
            }
        }
    }

    fn a_waiter_behind_others_may_be_killed<A: Awaitable>() {
        for way in [Way::Blocking, Way::Async] {
            for witness in 0..Witness::KINDS {
                let object = A::closed(2);
                let witness = Witness::of(&object, witness);
                let victim = Victim::asleep(&object, way);
                victim.kill();
                object.let_through();
                witness.assert_passes();
                victim.bury_perhaps::<A>();
                assert_closed_again(&object);
            }
        }
    }

    /// It is told that it may go on, and killed before it does.
    fn a_waiter_killed_on_waking_passes_it_on<A: Awaitable>() {
        for way in Way::ALL {
            for witness in 0..Witness::KINDS {
                let object = A::closed(2);
                let victim = Victim::asleep(&object, way);
                let witness = Witness::of(&object, witness);
                victim.stop();
                object.let_through();
                victim.kill();
                victim.bury();
                if !A::REMEMBERS {
                    // Notifications are for those who wait, dead or alive.
                    object.let_through();
                }
                witness.assert_passes();
                assert_closed_again(&object);
            }
        }
    }

    /// The kill comes at about the same time as the wake-up.
    fn a_waiter_killed_about_when_it_is_woken_stops_nobody<A: Awaitable>() {
        let mut random = Random::new();
        for round in 0..60 {
            let object = A::closed(2);
            let victim = Victim::asleep(&object, [Way::Blocking, Way::Async][round % 2]);
            let witness = Witness::of(&object, round / 2 % Witness::KINDS);
            let doomed = victim.worker.clone();
            let delays = [random.below(100), random.below(100)].map(|us| Duration::from_micros(us as u64));
            let killing = thread::spawn(move || {
                spin(delays[0]);
                // It may have ended meanwhile.
                let _ = doomed.terminate();
            });
            spin(delays[1]);
            object.let_through();
            killing.join().unwrap();
            // It may have gone on, with what it was let through for, or not.
            let _ = victim.worker.join();
            object.let_through_perhaps();
            witness.assert_passes();
        }
    }

    fn nobody_is_left_of_many_who_were_killed<A: Awaitable>() {
        let object = A::closed(1);
        let ways = [Way::Blocking, Way::Async, Way::Timed, Way::Tokio];
        let victims: Vec<_> = (0..8).map(|n| Victim::asleep(&object, ways[n % 4])).collect();
        let witness = Witness::of(&object, 0);
        for victim in &victims {
            victim.kill();
        }
        for victim in &victims {
            victim.bury();
        }
        object.let_through();
        witness.assert_passes();
        assert_closed_again(&object);
    }

    fn a_waiter_is_killed_and_nobody_else_waits<A: Awaitable>() {
        for way in [Way::Blocking, Way::Async] {
            let object = A::closed(1);
            let victim = Victim::asleep(&object, way);
            victim.stop();
            object.let_through();
            victim.kill();
            victim.bury();
            if A::REMEMBERS {
                // What it was let through for is there.
                assert!(object.try_wait());
                assert_closed_again(&object);
            }
        }
    }

    /// Tasks of one process and of another wait; the one in which more wait dies.
    fn a_process_with_many_tasks_that_wait_is_killed<A: Awaitable>() {
        let object = A::closed(101);
        let scratch = Scratch::new();
        let came = scratch.sign("came");
        let crowd = start(task!(wait_in_many_tasks::<A>(object.clone(), 100, came.clone())));
        came.wait();
        let witness = Witness::of(&object, 1);
        kill(&crowd);
        assert_died(&crowd);
        object.let_through();
        witness.assert_passes();
        assert_closed_again(&object);
    }
}

impl Victim {
    /// Where one is enough for all it may have been faster than its death.
    fn bury_perhaps<A: Awaitable>(self) {
        match A::ALL {
            true => drop(self.worker.join()),
            false => self.bury(),
        }
    }
}

#[track_caller]
fn assert_closed_again<A: Awaitable>(object: &A) {
    if !A::ALL {
        assert!(!object.try_wait());
    }
}

fn spin(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

fn wait_in_many_tasks<A: Awaitable>(object: A, tasks: usize, came: Sign) {
    current_thread().block_on(async {
        let waiting = Arc::new(AtomicUsize::new(0));
        for _ in 0..tasks {
            let (object, waiting) = (object.clone(), Arc::clone(&waiting));
            tokio::spawn(async move {
                let mut wait = object.wait_async();
                assert!(futures::poll!(&mut wait).is_pending());
                waiting.fetch_add(1, Ordering::SeqCst);
                wait.await
            });
        }
        // The runtime comes back here before all of so many have run.
        while waiting.load(Ordering::SeqCst) < tasks {
            tokio::task::yield_now().await;
        }
        came.give();
        std::future::pending::<()>().await;
    });
}

/// Of a barrier every killed waiter is missed.
#[test]
fn a_waiter_killed_at_a_barrier_breaks_it() {
    watched(|| {
        for way in [Way::Blocking, Way::Async] {
            let meeting = Meeting::closed(2);
            let victim = Victim::asleep(&meeting, way);
            let waiting = meeting.0.clone();
            let (witness, _) = asleep_in(move || waiting.wait());
            victim.kill();
            assert!(witness.join().unwrap().is_err());
            victim.bury();
            assert!(meeting.0.broken());
            assert!(meeting.0.wait_timeout(LONG).is_err());
            meeting.0.reset();
            assert_eq!(meeting.0.n_waiting(), 0);
        }
    });
}

/// All who wait at a barrier are told that it breaks, also if the one that breaks it is killed when it has told a few.
#[test]
fn a_process_killed_while_it_breaks_a_barrier_leaves_nobody_there() {
    fn break_it(meeting: Meeting) {
        meeting.0.abort();
        End::Never.come();
    }
    watched(|| {
        let mut random = Random::new();
        for _ in 0..40 {
            let meeting = Meeting::closed(5000);
            let waits: Vec<_> = (0..5000).map(|_| pending(&meeting)).collect();
            let victim = start(task!(break_it(meeting.clone())));
            while !meeting.0.broken() {
                std::hint::spin_loop();
            }
            spin(Duration::from_micros(random.below(100) as u64));
            kill(&victim);
            assert_died(&victim);
            for (_wait, wakes) in &waits {
                eventually("it is woken", || wakes.count() > 0);
            }
        }
    });
}

/// A thread of a process that ends well tells many: one after the other is woken, and in between it is gone.
#[test]
fn who_was_told_by_a_process_that_ended_meanwhile_is_woken() {
    fn set_while_it_ends(event: Event, delay: Duration) {
        thread::spawn(move || {
            spin(delay);
            event.set();
        });
    }
    watched(|| {
        let mut random = Random::new();
        for _ in 0..40 {
            let event = Event::new();
            let waiting = [(); 50].map(|()| {
                let event = event.clone();
                asleep_in(move || event.wait()).0
            });
            let delay = Duration::from_micros(random.below(1000) as u64);
            start(task!(set_while_it_ends(event.clone(), delay)))
                .join()
                .unwrap();
            if !event.is_set() {
                event.set();
            }
            for thread in waiting {
                thread.join().unwrap();
            }
        }
    });
}

/// A killed process had a primitive on its way to it, or from it, and never got it.
#[test]
fn a_process_killed_at_any_moment_takes_no_primitive_with_it() {
    watched(|| {
        let mut random = Random::new();
        let semaphore = Semaphore::new(3);
        for _ in 0..100 {
            let short = semaphore.clone();
            let doomed = start(task!(|short| short.is_of_no_use()));
            spin(Duration::from_micros(random.below(4000) as u64));
            // It may have ended by itself.
            let _ = doomed.terminate();
            let _ = doomed.join();
        }
        assert!((0..3).all(|_| semaphore.try_acquire()));
        assert!(!semaphore.try_acquire());
    });
}

trait OfNoUse {
    fn is_of_no_use(&self);
}

impl OfNoUse for Semaphore {
    fn is_of_no_use(&self) {
        assert!(format!("{self:?}").contains("value: 3"));
    }
}

// -- Killed at any moment

/// Acquires and releases in every way, for ever.
fn hammer<L: Lockable>(lock: L) {
    for n in 0.. {
        hammer_once(&lock, n);
    }
}

fn hammer_once<L: Lockable>(lock: &L, n: usize) {
    match n % 6 {
        0 => lock.acquire(),
        1 => block_on(lock.acquire_async()),
        2 => {
            if !lock.acquire_timeout(Duration::from_micros(20)) {
                return;
            }
        }
        3 => {
            if lock.acquire_async().now_or_never().is_none() {
                return;
            }
        }
        4 => {
            if !lock.try_acquire() {
                return;
            }
        }
        // Twice, where that can be.
        _ => {
            lock.acquire();
            if lock.try_acquire() {
                lock.release().unwrap();
            }
        }
    }
    lock.release().unwrap();
}

every_type! {
    for [lock: Lock, r_lock: RLock, condition: Condition]

    fn processes_that_hammer_on_it_are_killed<L: Lockable>() {
        const KILLS: usize = 300;
        let lock = L::free();
        let stop = Arc::new(AtomicBool::new(false));
        let (inside, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let ours: Vec<_> = [Way::Blocking, Way::Async, Way::Tokio]
            .map(|way| {
                let (lock, stop) = (lock.clone(), Arc::clone(&stop));
                let (inside, rounds) = (Arc::clone(&inside), Arc::clone(&rounds));
                thread::spawn(move || {
                    while !stop.load(Ordering::SeqCst) {
                        let inside = Arc::clone(&inside);
                        lock.hold(way, move || {
                            assert!(!inside.swap(true, Ordering::SeqCst), "two at once");
                            inside.store(false, Ordering::SeqCst);
                        });
                        rounds.fetch_add(1, Ordering::SeqCst);
                        // Most of the time is for the others.
                        thread::sleep(Duration::from_micros(100));
                    }
                })
            })
            .into();
        let mut random = Random::new();
        let mut victims: Vec<_> = (0..2).map(|_| start(task!(hammer::<L>(lock.clone())))).collect();
        for n in 0..KILLS {
            // As long as a process needs to start, more or less.
            thread::sleep(Duration::from_micros(random.below(8000) as u64));
            let victim = std::mem::replace(&mut victims[n % 2], start(task!(hammer::<L>(lock.clone()))));
            kill(&victim);
            assert_died(&victim);
            let before = rounds.load(Ordering::SeqCst);
            eventually("it goes on", || rounds.load(Ordering::SeqCst) > before);
        }
        stop.store(true, Ordering::SeqCst);
        for thread in ours {
            thread.join().unwrap();
        }
        for victim in &victims {
            kill(victim);
            assert_died(victim);
        }
        assert_sound(&lock);
    }
}

/// Takes and gives back a permit; never waits for long, since a permit may be gone with the dead.
fn hammer_permits<L: Lockable>(semaphore: L) {
    for n in 0.. {
        let acquired = match n % 3 {
            0 => semaphore.acquire_timeout(Duration::from_micros(20)),
            1 => semaphore.acquire_async().now_or_never().is_some(),
            _ => semaphore.try_acquire(),
        };
        if acquired {
            semaphore.release().unwrap();
        }
    }
}

/// Waits for permits that it never gets, and gives up.
fn hammer_in_vain<L: Lockable>(semaphore: L, taken: Sign) {
    for n in 0.. {
        let acquired = match n % 3 {
            0 => semaphore.acquire_timeout(Duration::from_micros(20)),
            1 => block_on(async {
                let wait = semaphore.acquire_async();
                let mut yields = 3;
                let gives_up = futures::future::poll_fn(|context| {
                    yields -= 1;
                    context.waker().wake_by_ref();
                    if yields == 0 {
                        Poll::Ready(())
                    } else {
                        Poll::Pending
                    }
                });
                matches!(select(wait, gives_up).await, Either::Left(_))
            }),
            _ => semaphore.acquire_async().now_or_never().is_some(),
        };
        if acquired {
            taken.give();
        }
    }
}

every_type! {
    for [semaphore: Semaphore, bounded_semaphore: BoundedSemaphore]

    fn processes_that_hammer_on_permits_are_killed<L: Lockable>() {
        let semaphore = L::free();
        let mut random = Random::new();
        for _ in 0..150 {
            let victims = [(); 2].map(|()| start(task!(hammer_permits::<L>(semaphore.clone()))));
            thread::sleep(Duration::from_micros(random.below(8000) as u64));
            for victim in &victims {
                kill(victim);
            }
            for victim in &victims {
                assert_died(victim);
            }
            // The one permit is there, or went with the dead; there is no second one.
            if semaphore.try_acquire() {
                assert!(!semaphore.try_acquire());
            }
            let waiting = semaphore.clone();
            let (thread, _) = asleep_in(move || waiting.acquire());
            semaphore.release().unwrap();
            thread.join().unwrap();
            assert!(!semaphore.try_acquire());
            semaphore.release().unwrap();
        }
    }

    /// None of them ever has a permit, so none is lost.
    fn processes_that_wait_for_permits_in_vain_are_killed<L: Lockable>() {
        let semaphore = L::free();
        semaphore.acquire();
        let scratch = Scratch::new();
        let taken = scratch.sign("taken");
        let mut random = Random::new();
        for _ in 0..100 {
            let victims = [(); 2].map(|()| start(task!(hammer_in_vain::<L>(semaphore.clone(), taken.clone()))));
            thread::sleep(Duration::from_micros(random.below(8000) as u64));
            for victim in &victims {
                kill(victim);
            }
            for victim in &victims {
                assert_died(victim);
            }
            assert!(!taken.is_given());
            assert!(!semaphore.try_acquire());
            let waiting = semaphore.clone();
            let (thread, _) = asleep_in(move || waiting.acquire());
            semaphore.release().unwrap();
            thread.join().unwrap();
            assert!(!semaphore.try_acquire());
        }
    }
}

/// Sets, clears and waits, for ever.
fn hammer_event(event: Event) {
    for n in 0.. {
        match n % 4 {
            0 => event.set(),
            1 => event.clear(),
            2 => drop(event.wait_timeout(Duration::from_micros(20))),
            _ => drop(event.wait_async().now_or_never()),
        }
    }
}

#[test]
fn processes_that_hammer_on_an_event_are_killed() {
    watched(|| {
        let event = Event::new();
        let mut random = Random::new();
        for _ in 0..200 {
            let victims = [(); 2].map(|()| start(task!(hammer_event(event.clone()))));
            let waiting = event.clone();
            let always = thread::spawn({
                let event = event.clone();
                move || event.wait()
            });
            thread::sleep(Duration::from_micros(random.below(8000) as u64));
            for victim in &victims {
                kill(victim);
            }
            for victim in &victims {
                assert_died(victim);
            }
            event.set();
            always.join().unwrap();
            waiting.wait();
            event.clear();
            let (thread, _) = asleep_in(move || waiting.wait());
            event.set();
            event.clear();
            thread.join().unwrap();
            assert!(!event.is_set());
        }
    });
}

// -- Many waits, and what is left of them: each counts in a process of its own.

/// The blocks of memory that processes share.
fn shared_blocks() -> u64 {
    use std::os::unix::fs::MetadataExt;
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    descriptors
        .filter(|entry| {
            std::fs::read_link(entry.path())
                .is_ok_and(|target| target.to_string_lossy().starts_with("/memfd:"))
        })
        .map(|entry| std::fs::metadata(entry.path()).unwrap().blocks())
        .sum()
}

fn open<A: Awaitable>(object: A, times: usize) {
    for _ in 0..times {
        object.let_through();
    }
}

/// A clock of the runtime, which stands still if something blocks it.
struct Ticks(Arc<AtomicUsize>);

impl Ticks {
    fn start() -> Ticks {
        let ticks = Arc::new(AtomicUsize::new(0));
        let ticking = Arc::clone(&ticks);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(1)).await;
                ticking.fetch_add(1, Ordering::SeqCst);
            }
        });
        Ticks(ticks)
    }

    async fn go_on(&self) {
        let before = self.0.load(Ordering::SeqCst);
        while self.0.load(Ordering::SeqCst) < before + 10 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// A thousand tasks wait for what another process holds, and give up, twice. Nothing else stands still.
fn wait_in_vain<A: Awaitable>(object: &A) {
    // All that is needed is there, the thread that hears of other processes too.
    let _ = object.wait_async().now_or_never();
    current_thread().block_on(async {
        let ticks = Ticks::start();
        ticks.go_on().await;
        let before = threads();
        for _ in 0..2 {
            let waits: Vec<_> = (0..1000)
                .map(|_| {
                    let object = object.clone();
                    tokio::spawn(async move { object.wait_async().await })
                })
                .collect();
            ticks.go_on().await;
            assert!(
                threads() <= before,
                "{} threads, before {before}",
                threads()
            );
            for wait in &waits {
                wait.abort();
            }
            for wait in waits {
                assert!(wait.await.unwrap_err().is_cancelled());
            }
            ticks.go_on().await;
        }
    });
}

fn give_up_a_thousand_waits<A: Awaitable>() {
    let object = A::closed(1001);
    let executor = processes(1);
    executor
        .submit(task!(open::<A>(object.clone(), 0)))
        .result()
        .unwrap();
    wait_in_vain(&object);
    if A::REMEMBERS {
        executor
            .submit(task!(open::<A>(object.clone(), 1)))
            .result()
            .unwrap();
        assert!(object.try_wait());
        assert_closed_again(&object);
    } else {
        let waiting = object.clone();
        let (thread, _) = asleep_in(move || waiting.wait());
        executor
            .submit(task!(open::<A>(object, 1)))
            .result()
            .unwrap();
        thread.join().unwrap();
    }
}

/// The same with a lock that only the process can release that holds it.
fn give_up_a_thousand_waits_for_an_r_lock() {
    let (lock, held, told) = (RLock::new(), Event::new(), Event::new());
    let executor = processes(1);
    let (theirs, they_hold, they_are_told) = (lock.clone(), held.clone(), told.clone());
    let holding = executor.submit(task!(|theirs, they_hold, they_are_told| {
        let _guard = theirs.lock();
        they_hold.set();
        they_are_told.wait();
    }));
    held.wait();
    wait_in_vain(&HeldRLock::held_elsewhere(lock.clone()));
    assert!(!lock.try_acquire());
    told.set();
    holding.result().unwrap();
    assert!(lock.try_acquire());
    assert_eq!(format!("{lock:?}").matches("waiters: 0").count(), 1);
}

/// A thousand tasks wait, and all come through; another process sees to it.
fn see_a_thousand_waits_through<A: Awaitable>() {
    let object = A::closed(1000);
    let executor = processes(1);
    executor.submit(|| ()).result().unwrap();
    let times = if A::ALL { 1 } else { 1000 };
    for _ in 0..3 {
        let object = if A::ALL {
            A::closed(1000)
        } else {
            object.clone()
        };
        current_thread().block_on(async {
            let ticks = Ticks::start();
            let waits: Vec<_> = (0..1000)
                .map(|_| {
                    let object = object.clone();
                    tokio::spawn(async move { object.wait_async().await })
                })
                .collect();
            ticks.go_on().await;
            let opened = executor.submit(task!(open::<A>(object.clone(), times)));
            for wait in waits {
                wait.await.unwrap();
            }
            opened.await.unwrap();
        });
        assert_closed_again(&object);
    }
}

every_type! {
    for [
        lock: Lock,
        semaphore: Semaphore,
        bounded_semaphore: BoundedSemaphore,
        event: Event,
        condition: Condition,
        get: Getting,
        put: Putting,
        join: Joining,
        simple_get: SimplyGetting,
    ]

    fn a_thousand_waits_are_given_up<A: Awaitable>() {
        elsewhere(give_up_a_thousand_waits::<A>);
    }
}

every_type! {
    for [
        semaphore: Semaphore,
        event: Event,
        barrier: Meeting,
        get: Getting,
        join: Joining,
        simple_get: SimplyGetting,
    ]

    fn a_thousand_waits_come_through<A: Awaitable>() {
        elsewhere(see_a_thousand_waits_through::<A>);
    }
}

#[test]
fn a_thousand_waits_for_an_r_lock_are_given_up() {
    watched(|| elsewhere(give_up_a_thousand_waits_for_an_r_lock));
}

/// What another process holds is acquired by a task that gives up at about the time of the release.
fn give_up_about_when_it_is_released(rounds: usize) {
    let lock = Lock::new();
    let go = Semaphore::new(0);
    let executor = processes(1);
    let (theirs, told) = (lock.clone(), go.clone());
    let releasing = executor.submit(task!(|theirs, told, rounds| {
        for _ in 0..rounds {
            told.acquire();
            theirs.release().unwrap();
        }
    }));
    let mut random = Random::new();
    for _ in 0..rounds {
        assert!(lock.try_acquire());
        let mut acquire = Box::pin(lock.acquire_async());
        let mut context = Context::from_waker(Waker::noop());
        assert!(acquire.as_mut().poll(&mut context).is_pending());
        go.release().unwrap();
        spin(Duration::from_micros(random.below(60) as u64));
        let acquired = acquire.as_mut().poll(&mut context).is_ready();
        drop(acquire);
        if acquired {
            assert!(!lock.try_acquire());
            lock.release().unwrap();
        } else {
            eventually("it is free", || !lock.locked());
        }
    }
    releasing.result().unwrap();
}

#[test]
fn a_task_gives_up_about_when_another_process_releases() {
    watched(|| elsewhere(task!(give_up_about_when_it_is_released(1000))));
}

/// Makes many of each kind, uses them, and drops them.
fn make_and_drop(number: usize) {
    for _ in 0..number {
        let (lock, r_lock, condition) = (Lock::new(), RLock::new(), Condition::new());
        let (semaphore, bounded, event) =
            (Semaphore::new(1), BoundedSemaphore::new(1), Event::new());
        let barrier = Barrier::new(1).unwrap();
        let (queue, simple) = (Queue::new(0), SimpleQueue::new());
        // Some are dropped as they were made, some in use.
        lock.acquire();
        r_lock.acquire();
        let _ = lock.acquire_async().now_or_never();
        drop(condition.lock());
        semaphore.acquire();
        let _ = semaphore.acquire_async().now_or_never();
        bounded.acquire();
        assert!(!event.wait_timeout(Duration::ZERO));
        event.set();
        barrier.wait().unwrap();
        queue.put(vec![7]).unwrap();
        simple.put(vec![7]).unwrap();
    }
}

fn make(number: usize) -> Vec<(Lock, Event, Queue<u32>)> {
    std::iter::repeat_with(|| (Lock::new(), Event::new(), Queue::new(0)))
        .take(number)
        .collect()
}

/// Gives primitives, and gets some.
fn send_to_and_fro(executor: &WorkerPoolExecutor) {
    let ours = make(200);
    let theirs = executor.submit(task!(|ours| {
        for (lock, event, queue) in &ours {
            lock.acquire();
            event.set();
            queue.put(7).unwrap();
        }
        make(200)
    }));
    drop(theirs.result().unwrap());
}

/// A process is killed that has handles to many, some of them the last ones.
fn kill_one_that_has_many() {
    fn have_many(ours: Vec<(Lock, Event, Queue<u32>)>, came: Sign) {
        let _theirs = make(200);
        for (lock, ..) in &ours {
            lock.acquire();
        }
        came.give();
        End::Never.come();
    }
    let scratch = Scratch::new();
    let came = scratch.sign("came");
    let holder = start(task!(have_many(make(200), came.clone())));
    came.wait();
    kill(&holder);
    assert_died(&holder);
}

#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
enum Doing {
    Making,
    Sending,
    Killing,
}

/// What is open, what runs and what is shared.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
struct Counts {
    descriptors: usize,
    threads: usize,
    blocks: u64,
}

/// After a few times, and after many more.
fn leftovers(doing: Doing, times: usize) -> (Counts, Counts) {
    let executor = processes(1);
    executor.submit(|| ()).result().unwrap();
    let after = |times| {
        for _ in 0..times {
            match doing {
                Doing::Making => make_and_drop(100),
                Doing::Sending => send_to_and_fro(&executor),
                Doing::Killing => kill_one_that_has_many(),
            }
        }
        Counts {
            descriptors: descriptors(),
            threads: threads(),
            blocks: shared_blocks(),
        }
    };
    (after(5), after(times))
}

/// Runs a task in a program of its own, with memory of its own to share.
fn in_a_program_of_its_own<M, T: IntoTask<M>>(task: T) -> T::Output {
    let executor = WorkerPoolExecutor::builder()
        .max_workers(1)
        .backend(Backend::Multiprocessing)
        .launcher(Launcher::new("env").arg(std::env::current_exe().unwrap()))
        .build()
        .unwrap();
    executor.submit(task).result().unwrap()
}

fn counted(doing: Doing, times: usize) -> (Counts, Counts) {
    let (before, after) = in_a_program_of_its_own(task!(leftovers(doing, times)));
    assert!(before.blocks > 0, "it is not known what is shared");
    assert!(
        after.descriptors <= before.descriptors,
        "{before:?} {after:?}"
    );
    assert!(after.threads <= before.threads, "{before:?} {after:?}");
    (before, after)
}

#[test]
fn nothing_is_left_of_primitives_that_are_dropped() {
    watched(|| {
        let (before, after) = counted(Doing::Making, 20);
        assert_eq!(before.blocks, after.blocks);
    });
}

/// Of 1.2 million bytes each time next to nothing stays; but what one process has freed another one
/// need not find at once.
#[test]
fn little_is_left_of_primitives_that_went_to_and_fro() {
    watched(|| {
        let (before, after) = counted(Doing::Sending, 100);
        assert!(
            after.blocks < before.blocks + 10_000,
            "{before:?} {after:?}"
        );
    });
}

#[test]
fn little_is_left_of_primitives_of_processes_that_are_killed() {
    watched(|| {
        let (before, after) = counted(Doing::Killing, 30);
        assert!(after.blocks < 2 * before.blocks, "{before:?} {after:?}");
    });
}

/// Threads that this crate did not start, a runtime's among them, wait for an object in all ways, and one lets
/// them through.
fn come_as_strangers<A: Awaitable>(runtime: &tokio::runtime::Runtime) {
    const ALL: usize = 7;
    let (object, passed) = (A::closed(ALL), AtomicUsize::new(0));
    let passes = || passed.fetch_add(1, Ordering::SeqCst);
    thread::scope(|scope| {
        for way in [Way::Blocking, Way::Timed, Way::Async] {
            let (object, passes) = (&object, &passes);
            scope.spawn(move || {
                object.wait_in(way);
                passes();
            });
        }
        scope.spawn(|| {
            eventually("all are through", || {
                object.let_through_perhaps();
                passed.load(Ordering::SeqCst) == ALL
            });
        });
        let tasks: Vec<_> = (0..4)
            .map(|n| {
                let object = object.clone();
                runtime.spawn(async move {
                    match n {
                        // It keeps its thread of the runtime from all else meanwhile.
                        0 => object.wait(),
                        _ => object.wait_async().await,
                    }
                })
            })
            .collect();
        for task in tasks {
            runtime.block_on(task).unwrap();
            passes();
        }
    });
}

/// What is counted after a few such threads, and after many more.
fn leftovers_of_strangers<A: Awaitable>() -> [(Counts, usize); 2] {
    let runtime = multi_thread();
    // What all of them need, once; a thread that was waited for may be there a moment longer.
    come_as_strangers::<A>(&runtime);
    let counted = (0..20).map(|_| {
        thread::sleep(Duration::from_millis(1));
        threads()
    });
    let at_rest = counted.min().unwrap();
    [5, 30].map(|times| {
        (0..times).for_each(|_| come_as_strangers::<A>(&runtime));
        eventually("the threads are gone", || threads() <= at_rest);
        let counts = Counts {
            descriptors: descriptors(),
            threads: threads(),
            blocks: shared_blocks(),
        };
        (counts, active_count())
    })
}

every_type! {
    for all

    fn threads_that_the_crate_does_not_know_leave_nothing_behind<A: Awaitable>() {
        let [(before, active), (after, active_then)] =
            in_a_program_of_its_own(leftovers_of_strangers::<A>);
        assert!(before.blocks > 0, "it is not known what is shared");
        assert!(after.descriptors <= before.descriptors, "{before:?} {after:?}");
        assert!(after.blocks <= before.blocks, "{before:?} {after:?}");
        assert_eq!(active_then, active);
    }
}
