//! Locks of both kinds: who gets them, who may release them, and what their guards do.

mod common;
#[path = "common/primitives.rs"]
mod primitives;

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc, Barrier as Meet,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    task::{Context, Waker},
    thread,
    time::{Duration, Instant},
};

use common::{
    Scratch, Sign, unclonable, watched,
    ways::{Hand, Way, Ways, every_way, spawned},
};
use freethreading::{
    Backend, BoundedSemaphore, Condition, Error, Lock, NotHeld, RLock, Semaphore, TaskError,
    Worker, WorkerPoolExecutor, task,
};
use futures::{FutureExt, executor::block_on};
use primitives::{
    LONG, Lockable, Place, Waiters, asleep_in, current_thread, every_type, multi_thread,
};

freethreading::init_tests!();

/// The task of a worker that holds the lock for a moment.
fn pass_through<L: Lockable>(lock: L, way: Way, came: Sign, passed: Sign) {
    came.note(Place::here());
    lock.hold(way, move || {
        passed.note("in");
        passed.note("out");
    });
}

/// Adds one to the number in a file, in a way that loses it if two do so at once.
fn add_one(file: PathBuf) {
    let number: u64 = fs::read_to_string(&file).unwrap().parse().unwrap();
    thread::yield_now();
    fs::write(&file, (number + 1).to_string()).unwrap();
}

fn add_one_under<L: Lockable>(lock: L, way: Way, file: PathBuf) {
    lock.hold(way, move || add_one(file));
}

fn panic_under<L: Lockable>(lock: L, way: Way) {
    lock.with_guard(way, || panic!("while it is held"))
}

/// Runs a task on a worker of the default backend; gives its result.
fn elsewhere<M, T: freethreading::IntoTask<M>>(task: T) -> T::Output {
    let executor = WorkerPoolExecutor::new(1).unwrap();
    executor.submit(task).result().unwrap()
}

fn tries<L: Lockable>(lock: L) -> bool {
    lock.try_acquire()
}

fn release(lock: Lock) -> bool {
    lock.release().is_ok()
}

fn gives_up(lock: Lock, way: Way) -> bool {
    let limit = Duration::from_millis(50);
    let start = Instant::now();
    let acquired = match way {
        Way::Blocking => lock.acquire_timeout(limit),
        _ => current_thread().block_on(async {
            let acquire = lock.acquire_async();
            tokio::time::timeout(limit, acquire).await.is_ok()
        }),
    };
    !acquired && start.elapsed() >= limit
}

fn acquire_twice(lock: Lock, came: Sign, passed: Sign) {
    lock.acquire();
    came.note(Place::here());
    lock.acquire();
    passed.note("");
}

fn nest(lock: RLock) -> bool {
    let acquired = lock.try_acquire() && lock.acquire_timeout(Duration::ZERO);
    lock.acquire();
    (0..3).for_each(|_| lock.release().unwrap());
    acquired && lock.release().is_err()
}

fn is_foreign(lock: RLock) -> bool {
    !lock.is_owned()
        && lock.recursion_count() == 0
        && lock.release().is_err()
        && !lock.try_acquire()
}

/// Whether another thread could have the lock at once; it does not keep it.
fn is_free_for_others<L: Lockable>(lock: &L) -> bool {
    thread::scope(|scope| {
        let tried = scope.spawn(|| {
            let acquired = lock.try_acquire();
            if acquired {
                lock.release().unwrap();
            }
            acquired
        });
        tried.join().unwrap()
    })
}

every_way! {
    for [
        lock: Lock,
        r_lock: RLock,
        condition: Condition,
        semaphore: Semaphore,
        bounded_semaphore: BoundedSemaphore,
    ]

    fn a_free_one_is_had_at_once<L: Lockable>(ways) {
        let lock = L::free();
        for _ in 0..3 {
            lock.hold(ways.of(0), || ());
            lock.with_guard(ways.of(0), || ());
            assert!(lock.acquire_timeout(Duration::ZERO));
            lock.release().unwrap();
            assert!(is_free_for_others(&lock));
        }
    }

    fn those_who_wait_pass_one_by_one<L: Lockable>(ways) {
        let lock = L::free();
        lock.acquire();
        let waiters = Waiters::asleep(5, ways, |way, came, passed| {
            Worker::new(task!(pass_through::<L>(lock.clone(), way, came, passed)))
        });
        assert_eq!(waiters.passed(), 0);
        lock.release().unwrap();
        assert_eq!(waiters.join(), ["in", "out"].repeat(5));
        assert!(is_free_for_others(&lock));
    }

    fn workers_exclude_each_other<L: Lockable>(ways) {
        let scratch = Scratch::new();
        let file = scratch.path().join("number");
        fs::write(&file, "0").unwrap();
        let lock = L::free();
        let executor = WorkerPoolExecutor::new(3).unwrap();
        let adds: Vec<_> = (0..100)
            .map(|n| {
                let add = task!(add_one_under::<L>(lock.clone(), ways.of(n), file.clone()));
                executor.submit(add)
            })
            .collect();
        for add in adds {
            add.result().unwrap();
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), "100");
    }

    fn threads_exclude_each_other<L: Lockable>(ways) {
        const ROUNDS: u64 = 500;
        let lock = L::free();
        let number = Arc::new(AtomicU64::new(0));
        thread::scope(|scope| {
            for n in 0..8 {
                let (lock, number) = (lock.clone(), Arc::clone(&number));
                scope.spawn(move || {
                    for _ in 0..ROUNDS {
                        let number = Arc::clone(&number);
                        lock.hold(ways.of(n), move || {
                            // Two steps, the second of which undoes what others do in between.
                            let before = number.load(Ordering::Relaxed);
                            std::hint::spin_loop();
                            number.store(before + 1, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(number.load(Ordering::Relaxed), 8 * ROUNDS);
    }

    fn a_panic_leaves_it_free<L: Lockable>(ways) {
        let lock = L::free();
        let panicked = catch_unwind(AssertUnwindSafe(|| panic_under(lock.clone(), ways.of(0))));
        assert!(panicked.is_err());
        assert!(is_free_for_others(&lock));
        let worker = Worker::new(task!(panic_under::<L>(lock.clone(), ways.of(0))));
        worker.start().unwrap();
        let error = worker.join().unwrap_err();
        assert!(matches!(error, Error::Task(TaskError::Panicked(_))), "{error}");
        assert!(is_free_for_others(&lock));
        lock.with_guard(ways.of(0), || assert!(!is_free_for_others(&lock)));
    }

    fn it_may_be_dropped_while_it_is_held<L: Lockable>(ways) {
        let lock = L::free();
        assert!(elsewhere(task!(tries::<L>(lock.clone()))));
        drop(lock);
        let lock = L::free();
        lock.with_guard(ways.of(0), || drop(lock.clone()));
        lock.acquire();
    }
}

every_type! {
    for [
        lock: Lock,
        r_lock: RLock,
        condition: Condition,
        semaphore: Semaphore,
        bounded_semaphore: BoundedSemaphore,
    ]

    fn a_clone_is_the_same_one<L: Lockable>() {
        let lock = L::free();
        let clone = lock.clone();
        clone.acquire();
        assert!(!is_free_for_others(&lock));
        drop(clone);
        lock.release().unwrap();
        assert!(is_free_for_others(&lock));
    }

    fn a_future_acquires_with_its_first_poll_and_once<L: Lockable>() {
        let lock = L::free();
        let mut acquire = lock.acquire_async();
        assert!(is_free_for_others(&lock));
        assert!(acquire.as_mut().now_or_never().is_some());
        let again = AssertUnwindSafe(|| acquire.as_mut().now_or_never());
        assert!(catch_unwind(again).is_err());
        assert!(!is_free_for_others(&lock));
        lock.release().unwrap();
        drop(acquire);
        assert!(is_free_for_others(&lock));
    }

    fn a_guard_is_only_had_of_a_free_one<L: Lockable>() {
        let lock = L::free();
        assert!(lock.try_guard());
        // The guard that came of it is gone.
        assert!(lock.try_guard());
        thread::scope(|scope| {
            lock.with_guard(Way::Blocking, || {
                scope.spawn(|| assert!(!lock.try_guard())).join().unwrap();
            });
        });
    }
}

freethreading::test_backends! {
    #[test]
    fn a_held_lock_refuses_whoever_tries() {
        watched(|| {
            let lock = Lock::default();
            assert!(!lock.locked());
            lock.acquire();
            assert!(lock.locked());
            assert!(!lock.try_acquire());
            assert!(lock.try_lock().is_none());
            assert!(!is_free_for_others(&lock));
            assert!(!elsewhere(task!(tries::<Lock>(lock.clone()))));
            assert!(lock.locked());
            lock.release().unwrap();
            assert!(!lock.locked());
            // A worker keeps what it has acquired.
            assert!(elsewhere(task!(tries::<Lock>(lock.clone()))));
            assert!(lock.locked());
            lock.release().unwrap();
        });
    }

    #[test]
    fn a_lock_is_released_by_whoever_does_so() {
        watched(|| {
            let lock = Lock::new();
            lock.acquire();
            assert!(elsewhere(task!(release(lock.clone()))));
            assert!(lock.try_acquire());
            thread::scope(|scope| {
                scope.spawn(|| lock.release().unwrap());
            });
            assert!(lock.try_acquire());
            spawned({
                let lock = lock.clone();
                async move { lock.release().unwrap() }
            });
            assert!(!lock.locked());
        });
    }

    #[test]
    fn a_lock_that_nobody_holds_cannot_be_released() {
        watched(|| {
            let lock = Lock::new();
            for _ in 0..3 {
                let error = lock.release().unwrap_err();
                assert!(matches!(Error::from(error), Error::NotHeld));
                assert!(!elsewhere(task!(release(lock.clone()))));
                assert!(!lock.locked());
                assert!(lock.try_acquire());
                lock.release().unwrap();
            }
        });
    }

    #[test]
    fn one_who_gave_up_gets_nothing() {
        watched(|| {
            let lock = Lock::new();
            lock.acquire();
            for way in [Way::Blocking, Way::Async] {
                assert!(elsewhere(task!(gives_up(lock.clone(), way))));
            }
            lock.release().unwrap();
            assert!(!lock.locked());
            assert!(lock.try_acquire());
        });
    }

    #[test]
    fn a_lock_is_not_reentrant() {
        watched(|| {
            let lock = Lock::new();
            let waiters = Waiters::asleep(1, Ways::All(Way::Blocking), |_, came, passed| {
                Worker::new(task!(acquire_twice(lock.clone(), came, passed)))
            });
            lock.release().unwrap();
            waiters.join();
            assert!(lock.locked());
        });
    }

    #[test]
    fn an_r_lock_is_free_after_as_many_releases() {
        watched(|| {
            let lock = RLock::default();
            for _ in 0..3 {
                assert!(lock.try_acquire());
            }
            for _ in 0..3 {
                assert!(!is_free_for_others(&lock));
                assert!(!elsewhere(task!(tries::<RLock>(lock.clone()))));
                lock.release().unwrap();
            }
            assert!(is_free_for_others(&lock));
            assert!(elsewhere(task!(nest(lock.clone()))));
            assert!(is_free_for_others(&lock));
        });
    }

    #[test]
    fn an_r_lock_is_released_by_its_owner_only() {
        watched(|| {
            let lock = RLock::new();
            let refuses = |lock: &RLock| {
                assert!(lock.locked() && !lock.is_owned());
                assert_eq!(lock.recursion_count(), 0);
                assert!(matches!(Error::from(lock.release().unwrap_err()), Error::NotOwned));
                assert!(!lock.try_acquire());
                assert!(lock.try_lock().is_none());
                assert!(!lock.acquire_timeout(Duration::from_millis(10)));
            };
            lock.acquire();
            lock.acquire();
            thread::scope(|scope| {
                scope.spawn(|| refuses(&lock));
            });
            let other = lock.clone();
            spawned(async move { refuses(&other) });
            assert!(elsewhere(task!(is_foreign(lock.clone()))));
            assert!(lock.is_owned());
            assert_eq!(lock.recursion_count(), 2);
            lock.release().unwrap();
            lock.release().unwrap();
            assert!(!lock.locked());
            assert!(is_free_for_others(&lock));
        });
    }

    #[test]
    fn an_r_lock_survives_a_release_too_many() {
        watched(|| {
            let lock = RLock::new();
            for _ in 0..3 {
                assert!(matches!(Error::from(lock.release().unwrap_err()), Error::NotOwned));
                lock.acquire();
                lock.acquire();
                lock.release().unwrap();
                lock.acquire();
                lock.release().unwrap();
                lock.release().unwrap();
                assert!(lock.release().is_err());
                assert!(is_free_for_others(&lock));
            }
        });
    }
}

#[test]
fn an_r_lock_counts_for_its_owner_alone() {
    watched(|| {
        let lock = RLock::new();
        let seen_by_another = || {
            thread::scope(|scope| {
                let seen = scope.spawn(|| (lock.recursion_count(), lock.is_owned()));
                seen.join().unwrap()
            })
        };
        let mut counts = vec![lock.recursion_count()];
        lock.acquire();
        counts.push(lock.recursion_count());
        lock.acquire();
        lock.acquire();
        counts.push(lock.recursion_count());
        assert_eq!(seen_by_another(), (0, false));
        lock.release().unwrap();
        counts.push(lock.recursion_count());
        assert!(lock.is_owned());
        lock.release().unwrap();
        lock.release().unwrap();
        counts.push(lock.recursion_count());
        assert!(!lock.is_owned());
        assert_eq!(counts, [0, 1, 3, 2, 0]);
        assert_eq!(seen_by_another(), (0, false));
    });
}

#[test]
fn scopes_of_an_r_lock_nest() {
    fn countdown(lock: &RLock, n: usize) -> usize {
        let _guard = lock.lock();
        match n {
            0 => lock.recursion_count(),
            n => countdown(lock, n - 1),
        }
    }
    watched(|| {
        let lock = RLock::new();
        assert_eq!(countdown(&lock, 3), 4);
        assert!(is_free_for_others(&lock));
        let outer = lock.lock();
        let inner = lock.try_lock().unwrap();
        let innermost = lock.lock_timeout(LONG).unwrap();
        drop(inner);
        drop(innermost);
        assert!(!is_free_for_others(&lock));
        drop(outer);
        assert!(is_free_for_others(&lock));
    });
}

/// Another thread must not become the owner because it was given the number of one that has ended.
#[test]
fn an_owner_that_has_ended_has_no_heirs() {
    watched(|| {
        let lock = RLock::new();
        thread::scope(|scope| {
            scope.spawn(|| lock.acquire()).join().unwrap();
            for _ in 0..300 {
                let tried = scope.spawn(|| lock.try_acquire() || lock.is_owned());
                assert!(!tried.join().unwrap());
            }
        });
        let task_lock = RLock::new();
        current_thread().block_on(async {
            let holder = task_lock.clone();
            tokio::spawn(async move { holder.acquire_async().await })
                .await
                .unwrap();
            for _ in 0..300 {
                let other = task_lock.clone();
                let tried = tokio::spawn(async move { other.try_acquire() || other.is_owned() });
                assert!(!tried.await.unwrap());
            }
        });
    });
}

/// Threads, tasks and processes are numbered each for themselves; equal numbers are not equal owners.
#[test]
fn threads_tasks_and_processes_are_different_owners() {
    fn owned(locks: Vec<RLock>) -> usize {
        let by_threads: usize = (0..50)
            .map(|_| {
                let locks = locks.clone();
                thread::spawn(move || locks.iter().filter(|lock| lock.is_owned()).count())
            })
            .map(|counting| counting.join().unwrap())
            .sum();
        let by_tasks: usize = current_thread().block_on(async {
            let mut owned = 0;
            for _ in 0..200 {
                let locks = locks.clone();
                let count = async move { locks.iter().filter(|lock| lock.is_owned()).count() };
                owned += tokio::spawn(count).await.unwrap();
            }
            owned
        });
        by_threads + by_tasks + locks.iter().filter(|lock| lock.try_acquire()).count()
    }
    watched(|| {
        let locks: Vec<_> = (0..100).map(|_| RLock::new()).collect();
        for lock in &locks[..50] {
            let lock = lock.clone();
            thread::spawn(move || lock.acquire()).join().unwrap();
        }
        current_thread().block_on(async {
            for lock in &locks[50..] {
                let lock = lock.clone();
                tokio::spawn(async move { lock.acquire_async().await })
                    .await
                    .unwrap();
            }
        });
        assert_eq!(owned(locks.clone()), 0);
        Backend::Multiprocessing.scope(|| assert_eq!(elsewhere(task!(owned(locks.clone()))), 0));
    });
}

#[test]
fn tasks_on_one_thread_are_different_owners() {
    watched(|| {
        let lock = RLock::new();
        current_thread().block_on(async {
            let (told, tell) = (lock.clone(), lock.clone());
            let (sender, go_on) = tokio::sync::oneshot::channel();
            let first = tokio::spawn(async move {
                told.acquire_async().await;
                told.acquire();
                go_on.await.unwrap();
                assert_eq!(told.recursion_count(), 2);
                told.release().unwrap();
                assert!(told.is_owned());
                told.release().unwrap();
            });
            // The first task runs until it waits.
            tokio::task::yield_now().await;
            let second = tokio::spawn(async move {
                assert!(!tell.try_acquire());
                assert!(!tell.is_owned());
                let mut acquire = Box::pin(tell.acquire_async());
                assert!(futures::poll!(&mut acquire).is_pending());
                sender.send(()).unwrap();
                acquire.await;
                assert_eq!(tell.recursion_count(), 1);
                tell.release().unwrap();
            });
            // Neither is the runtime's own future, which runs on the same thread.
            assert!(!lock.try_acquire());
            first.await.unwrap();
            second.await.unwrap();
        });
        assert!(is_free_for_others(&lock));
    });
}

#[test]
fn tasks_of_a_local_set_are_different_owners() {
    watched(|| {
        let lock = RLock::new();
        let local = tokio::task::LocalSet::new();
        local.block_on(&current_thread(), async {
            let other = lock.clone();
            let held = tokio::task::spawn_local(async move { other.acquire() });
            held.await.unwrap();
            let other = lock.clone();
            let tried = tokio::task::spawn_local(async move { other.try_acquire() });
            assert!(!tried.await.unwrap());
            assert!(!lock.is_owned());
        });
    });
}

#[test]
fn futures_of_one_owner_that_wait_have_an_r_lock_one_after_the_other() {
    watched(|| {
        let lock = RLock::new();
        {
            let (mut one, mut other) = (Hand::new(lock.lock_async()), Hand::new(lock.lock_async()));
            let guards = (one.ready(), other.ready());
            assert_eq!(lock.recursion_count(), 2);
            drop(guards);
        }
        let (held, wanted) = (Meet::new(2), Meet::new(2));
        thread::scope(|scope| {
            scope.spawn(|| {
                let _guard = lock.lock();
                held.wait();
                wanted.wait();
            });
            held.wait();
            let mut one = Hand::waiting(lock.lock_async());
            let mut other = Hand::waiting(lock.lock_async());
            wanted.wait();
            one.wait_woken();
            let guard = one.ready();
            assert!(other.poll().is_pending());
            drop(guard);
            drop(other.finish());
        });
        assert!(is_free_for_others(&lock));
    });
}

macro_rules! every_lock_with_an_owner {
    ($(fn $name:ident($lock:ident: $type:ident) $body:block)*) => {$(
        mod $name {
            use super::*;

            every_lock_with_an_owner!(RLock, r_lock, $name, $lock, $type, $body);
            every_lock_with_an_owner!(Condition, condition, $name, $lock, $type, $body);
        }
    )*};
    ($lock_type:ident, $test:ident, $name:ident, $lock:ident, $type:ident, $body:block) => {
        #[test]
        fn $test() {
            type $type = $lock_type;
            watched(|| {
                let $lock = $type::new();
                $body
            });
        }
    };
}

/// Another thread polls it first, with this waker.
fn polled_elsewhere<F: Future + Send>(wait: F, waker: &Waker) -> Pin<Box<F>> {
    let mut wait = Box::pin(wait);
    thread::scope(|scope| {
        let elsewhere = scope.spawn(|| {
            let context = &mut Context::from_waker(waker);
            let polled = catch_unwind(AssertUnwindSafe(|| wait.as_mut().poll(context).is_ready()));
            assert!(!polled.unwrap_or(false));
        });
        elsewhere.join().unwrap();
    });
    wait
}

every_lock_with_an_owner! {
    fn who_is_told_in_vain_acquires_for_who_has_polled_first(lock: L) {
        let held = lock.lock();
        let mut wait = polled_elsewhere(lock.lock_async(), Waker::noop());
        drop(held);
        // This thread is faster than who was told, and has the lock once.
        let held = lock.lock();
        let context = &mut Context::from_waker(Waker::noop());
        assert!(wait.as_mut().poll(context).is_pending());
        drop(held);
        let guard = wait.now_or_never().expect("it is free");
        assert!(thread::scope(|scope| scope.spawn(|| lock.try_lock().is_none()).join().unwrap()));
        // If it were this thread's, it could have it once more.
        assert!(lock.try_lock().is_none());
        drop(guard);
        assert!(lock.try_lock().is_some());
    }

    fn who_has_polled_first_is_the_owner_also_if_its_waker_panicked(lock: L) {
        let held = lock.lock();
        let mut wait = polled_elsewhere(lock.lock_async(), unclonable());
        let context = &mut Context::from_waker(Waker::noop());
        assert!(wait.as_mut().poll(context).is_pending());
        drop(held);
        let guard = wait.now_or_never().expect("it is free");
        assert!(lock.try_lock().is_none());
        drop(guard);
        assert!(lock.try_lock().is_some());
    }
}

/// Goes on as a task until it runs on another thread than before.
async fn move_to_another_thread() {
    let first = thread::current().id();
    while thread::current().id() == first {
        // Somebody else takes the thread, so that the runtime's other one takes this task.
        tokio::spawn(async { thread::sleep(Duration::from_millis(5)) });
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn a_task_may_release_on_another_thread() {
    watched(|| {
        let (lock, r_lock, semaphore) = (Lock::new(), RLock::new(), Semaphore::new(1));
        multi_thread().block_on(async {
            let (lock, r_lock, semaphore) = (lock.clone(), r_lock.clone(), semaphore.clone());
            let moving = tokio::spawn(async move {
                r_lock.acquire_async().await;
                r_lock.acquire();
                let guards = (lock.lock_async().await, semaphore.permit_async().await);
                let r_guard = r_lock.lock_async().await;
                move_to_another_thread().await;
                assert_eq!(r_lock.recursion_count(), 3);
                drop(r_guard);
                r_lock.release().unwrap();
                assert!(r_lock.is_owned());
                r_lock.release().unwrap();
                assert!(r_lock.release().is_err());
                drop(guards);
            });
            moving.await.unwrap();
        });
        assert!(!lock.locked());
        assert!(is_free_for_others(&r_lock));
        assert!(semaphore.try_acquire());
    });
}

/// Not within a runtime: the same future, polled by one thread and then by another.
#[test]
fn a_guard_may_be_dropped_on_another_thread() {
    watched(|| {
        let (lock, r_lock) = (Lock::new(), RLock::new());
        let semaphore = BoundedSemaphore::new(1);
        let mut holding = Box::pin(async {
            let _guard = lock.lock_async().await;
            let _r_guard = r_lock.lock_async().await;
            let _permit = semaphore.permit_async().await;
            futures::pending!();
        });
        assert!(holding.as_mut().now_or_never().is_none());
        assert!(!is_free_for_others(&r_lock));
        thread::scope(|scope| {
            scope.spawn(move || block_on(holding));
        });
        assert!(!lock.locked());
        assert!(!r_lock.is_owned());
        assert!(is_free_for_others(&r_lock));
        assert!(semaphore.try_acquire());
    });
}

/// A guard that is dropped on another thread, while its owner comes back for the lock, must not leave
/// the owner with a lock that others can have.
#[test]
fn a_guard_dropped_elsewhere_races_with_its_owner() {
    watched(|| {
        let lock: &'static RLock = Box::leak(Box::new(RLock::new()));
        let (sender, guards) = mpsc::channel();
        let dropping =
            thread::spawn(move || guards.iter().for_each(drop::<freethreading::RLockGuard>));
        let inside = AtomicBool::new(false);
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    if lock.try_acquire() {
                        assert!(!inside.swap(true, Ordering::SeqCst), "two owners");
                        inside.store(false, Ordering::SeqCst);
                        lock.release().unwrap();
                    }
                }
            });
            let owner = scope.spawn(|| {
                for _ in 0..20_000 {
                    sender.send(lock.lock()).unwrap();
                    let guard = lock.lock();
                    assert!(!inside.swap(true, Ordering::SeqCst), "two owners");
                    inside.store(false, Ordering::SeqCst);
                    drop(guard);
                }
            });
            let ended = owner.join();
            stop.store(true, Ordering::Relaxed);
            ended.unwrap();
        });
        drop(sender);
        dropping.join().unwrap();
        assert!(is_free_for_others(lock));
    });
}

#[test]
fn a_guard_outlived_by_its_lock_does_no_harm() {
    watched(|| {
        let lock = Lock::new();
        let guard = lock.lock();
        lock.release().unwrap();
        drop(guard);
        assert!(lock.try_acquire());

        let r_lock = RLock::new();
        let guard = r_lock.lock();
        r_lock.release().unwrap();
        drop(guard);
        assert!(is_free_for_others(&r_lock));

        let condition = Condition::new();
        let guard = condition.lock();
        condition.release().unwrap();
        drop(guard);
        assert!(is_free_for_others(&condition));

        let semaphore = BoundedSemaphore::new(1);
        let permit = semaphore.permit();
        semaphore.release().unwrap();
        drop(permit);
        assert!(semaphore.try_acquire());
        assert!(!semaphore.try_acquire());
    });
}

/// The guard's drop must not release what somebody else has acquired meanwhile... which, for a lock
/// that anybody may release, nobody can tell; for an RLock one can.
#[test]
fn a_guard_does_not_release_the_next_owners_r_lock() {
    watched(|| {
        let lock = RLock::new();
        let guard = lock.lock();
        lock.release().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| lock.acquire()).join().unwrap();
        });
        drop(guard);
        assert!(!lock.try_acquire());
    });
}

#[test]
fn an_owned_guard_outlives_the_handle_that_it_came_from() {
    watched(|| {
        multi_thread().block_on(async {
            let (lock, semaphore, bounded) =
                (Lock::new(), Semaphore::new(1), BoundedSemaphore::new(1));
            let guards = (
                lock.clone().lock_async().await.into_owned(),
                semaphore.clone().permit_async().await.into_owned(),
                bounded.clone().permit_async().await.into_owned(),
            );
            assert!(lock.locked());
            assert_eq!((semaphore.value(), bounded.value()), (0, 0));
            tokio::spawn(async move { drop(guards) }).await.unwrap();
            assert!(!lock.locked());
            assert_eq!((semaphore.value(), bounded.value()), (1, 1));
            // It may be all that is left.
            drop(Lock::new().lock().into_owned());
        });
    });
}

#[test]
fn an_owned_guard_releases_once() {
    watched(|| {
        let semaphore = BoundedSemaphore::new(1);
        assert_eq!(semaphore.permit().into_owned().release(), Ok(()));
        assert_eq!(semaphore.value(), 1);
        let lock = Lock::new();
        let guard = lock.lock().into_owned();
        lock.release().unwrap();
        assert_eq!(guard.release(), Err(NotHeld));
        assert!(lock.try_acquire());
    });
}

#[test]
fn a_forgotten_guard_keeps_the_lock() {
    watched(|| {
        let (lock, r_lock, semaphore) = (Lock::new(), RLock::new(), Semaphore::new(1));
        std::mem::forget(lock.lock());
        std::mem::forget(r_lock.lock());
        std::mem::forget(semaphore.permit());
        assert!(lock.locked());
        assert_eq!(r_lock.recursion_count(), 1);
        assert!(!semaphore.try_acquire());
        lock.release().unwrap();
        r_lock.release().unwrap();
        semaphore.release().unwrap();
    });
}

#[test]
fn who_is_told_in_vain_keeps_its_place() {
    fn keeps<L: Lockable>() {
        let lock = L::free();
        lock.acquire();
        let (mut first, mut second) = [(); 2].map(|()| Hand::waiting(lock.acquire_async())).into();
        lock.release().unwrap();
        // Should this thread take long, it is not told any more but has the lock.
        for _ in 0..3 {
            assert!(!second.woken());
            if !lock.try_acquire() {
                break;
            }
            assert!(first.poll().is_pending());
            lock.release().unwrap();
        }
        assert!(!second.woken());
        first.ready();
        lock.release().unwrap();
        second.ready();
        lock.release().unwrap();
    }
    watched(|| {
        keeps::<Lock>();
        keeps::<Semaphore>();
        keeps::<BoundedSemaphore>();
    });
}

#[test]
fn a_thread_that_waits_is_not_starved_by_one_that_comes_and_goes() {
    fn starves<L: Lockable>() {
        let lock = L::free();
        let stop = Arc::new(AtomicBool::new(false));
        let busy = thread::spawn({
            let (lock, stop) = (lock.clone(), Arc::clone(&stop));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    lock.acquire();
                    lock.release().unwrap();
                }
            }
        });
        for n in 0..40 {
            lock.hold(Ways::Mixed.of(n), || ());
        }
        stop.store(true, Ordering::Relaxed);
        busy.join().unwrap();
    }
    watched(|| {
        starves::<Lock>();
        starves::<RLock>();
        starves::<Semaphore>();
        starves::<BoundedSemaphore>();
        starves::<Condition>();
    });
}

/// The same between processes, each of which comes and goes.
#[test]
fn processes_do_not_starve_each_other() {
    watched(|| {
        let (lock, done) = (Lock::new(), freethreading::Event::new());
        let executor = common::processes(2);
        let busy: Vec<_> = (0..2)
            .map(|_| {
                let (lock, done) = (lock.clone(), done.clone());
                executor.submit(task!(|lock, done| {
                    let mut rounds = 0u64;
                    while !done.is_set() || rounds == 0 {
                        lock.acquire();
                        lock.release().unwrap();
                        rounds += 1;
                    }
                    rounds
                }))
            })
            .collect();
        for n in 0..40 {
            lock.hold(Ways::Mixed.of(n), || ());
        }
        done.set();
        for busy in busy {
            assert!(busy.result().unwrap() > 0);
        }
    });
}

#[test]
fn a_blocked_acquire_stalls_a_runtime_but_works_there() {
    watched(|| {
        let lock = Lock::new();
        lock.acquire();
        let (blocked, place) = asleep_in({
            let lock = lock.clone();
            move || current_thread().block_on(async { lock.acquire() })
        });
        assert!(place.is_asleep());
        lock.release().unwrap();
        blocked.join().unwrap();
        let (r_lock, semaphore) = (RLock::new(), Semaphore::new(1));
        multi_thread().block_on(async {
            r_lock.acquire();
            assert!(r_lock.acquire_timeout(LONG));
            semaphore.acquire();
        });
        assert_eq!(r_lock.recursion_count(), 2);
    });
}

#[test]
fn they_show_their_state() {
    watched(|| {
        let lock = Lock::new();
        assert_eq!(format!("{lock:?}"), "Lock { locked: false, waiters: 0 }");
        let guard = lock.lock();
        assert_eq!(format!("{lock:?}"), "Lock { locked: true, waiters: 0 }");
        assert!(format!("{guard:?}").contains("locked: true"));
        drop(guard);

        let lock = RLock::new();
        assert!(format!("{lock:?}").contains("locked: false"), "{lock:?}");
        let guards = (lock.lock(), lock.lock());
        // By the owner and by others.
        let shown = format!("{lock:?}");
        assert!(
            shown.contains("locked: true") && shown.contains('2'),
            "{shown}"
        );
        thread::scope(|scope| {
            scope.spawn(|| assert!(format!("{lock:?}").contains("locked: true")));
        });
        drop(guards);
    });
}

#[test]
fn they_show_their_state_while_others_fight_for_them() {
    watched(|| {
        let (lock, r_lock) = (Lock::new(), RLock::new());
        let stop = AtomicBool::new(false);
        let started = Meet::new(3);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    started.wait();
                    while !stop.load(Ordering::Relaxed) {
                        drop((lock.lock(), r_lock.lock()));
                    }
                });
            }
            started.wait();
            for _ in 0..1000 {
                assert!(format!("{lock:?}{r_lock:?}").contains("Lock"));
            }
            stop.store(true, Ordering::Relaxed);
        });
    });
}

#[test]
fn what_is_awaited_may_outlive_the_last_other_handle() {
    watched(|| {
        let lock = Lock::new();
        lock.acquire();
        let other = lock.clone();
        let (sender, polled) = mpsc::channel();
        let acquiring = thread::spawn(move || {
            let acquire = async move {
                other.acquire_async().await;
                other.locked()
            };
            let mut acquire = Box::pin(acquire);
            assert!(acquire.as_mut().now_or_never().is_none());
            sender.send(()).unwrap();
            block_on(acquire)
        });
        polled.recv().unwrap();
        lock.release().unwrap();
        drop(lock);
        assert!(acquiring.join().unwrap());
    });
}

/// Counts in a process of its own, where no other test runs.
fn leftovers_of_threads() -> bool {
    let (lock, r_lock) = (Lock::new(), RLock::new());
    let counts_after = |rounds| {
        for _ in 0..rounds {
            thread::scope(|scope| {
                for _ in 0..10 {
                    scope.spawn(|| drop((lock.lock(), r_lock.lock())));
                }
            });
        }
        (common::descriptors(), freethreading::active_count())
    };
    counts_after(1) == counts_after(20)
}

#[test]
fn threads_that_end_leave_nothing_behind() {
    watched(|| Backend::Multiprocessing.scope(|| assert!(elsewhere(leftovers_of_threads))));
}
