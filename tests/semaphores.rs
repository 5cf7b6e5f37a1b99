//! Semaphores of both kinds: how many come through, and how many permits there are afterwards.

mod common;
#[path = "common/primitives.rs"]
mod primitives;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Barrier as Meet,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use common::{
    Sign, eventually, watched,
    ways::{Way, Ways, every_way, spawned},
};
use freethreading::{
    Barrier, BoundedSemaphore, Error, Overflow, Semaphore, Worker, WorkerPoolExecutor, task,
};
use futures::executor::block_on;
use primitives::{Lockable, Place, Waiters, every_type, multi_thread};

freethreading::init_tests!();

/// What the two kinds have in common.
trait Permits: Lockable {
    fn with(value: usize) -> Self;
    fn try_with(value: usize) -> Result<Self, Error>;
    fn release_many(&self, permits: usize) -> Result<(), Error>;

    /// Takes all that are there; says how many.
    fn drain(&self) -> usize {
        std::iter::repeat_with(|| self.try_acquire())
            .take_while(|&acquired| acquired)
            .count()
    }
}

macro_rules! permits {
    ($($type:ident)*) => {
        $(
            impl Permits for $type {
                fn with(value: usize) -> Self {
                    $type::new(value)
                }

                fn try_with(value: usize) -> Result<Self, Error> {
                    $type::try_new(value)
                }

                fn release_many(&self, permits: usize) -> Result<(), Error> {
                    $type::release_many(self, permits).map_err(Error::from)
                }
            }
        )*
    };
}

permits!(Semaphore BoundedSemaphore);

/// Acquires without releasing.
fn acquire<P: Permits>(semaphore: &P, way: Way) {
    match way {
        Way::Timed => assert!(semaphore.acquire_timeout(primitives::LONG)),
        Way::Async => block_on(semaphore.acquire_async()),
        Way::Tokio => {
            let semaphore = semaphore.clone();
            spawned(async move { semaphore.acquire_async().await });
        }
        Way::Blocking => semaphore.acquire(),
    }
}

fn acquire_twice<P: Permits>(semaphore: P, way: Way, came: Sign, passed: Sign) {
    came.note(Place::here());
    for _ in 0..2 {
        acquire(&semaphore, way);
        passed.note("");
    }
}

fn try_twice<P: Permits>(semaphore: P) -> [bool; 2] {
    [semaphore.try_acquire(), semaphore.try_acquire()]
}

fn release<P: Permits>(semaphore: P) -> bool {
    semaphore.release().is_ok()
}

fn acquire_once<P: Permits>(semaphore: P, way: Way) {
    acquire(&semaphore, way);
}

fn executor(max_workers: usize) -> WorkerPoolExecutor {
    WorkerPoolExecutor::new(max_workers).unwrap()
}

#[track_caller]
fn assert_overflow(result: Result<(), Error>) {
    assert!(matches!(result, Err(Error::Overflow)), "{result:?}");
}

every_way! {
    for [semaphore: Semaphore, bounded_semaphore: BoundedSemaphore]

    fn the_default_is_one_permit<P: Permits>(ways) {
        let semaphore = P::free();
        acquire(&semaphore, ways.of(0));
        assert!(!semaphore.try_acquire());
        let waiters = Waiters::asleep(1, ways, |way, came, passed| {
            let second = task!(acquire_and_note::<P>(semaphore.clone(), way, came, passed));
            Worker::new(second)
        });
        assert_eq!(waiters.passed(), 0);
        semaphore.release().unwrap();
        waiters.join();
        assert_eq!(semaphore.drain(), 0);
    }

    fn there_are_as_many_as_were_asked_for<P: Permits>(ways) {
        let semaphore = P::with(2);
        acquire(&semaphore, ways.of(0));
        assert!(semaphore.acquire_timeout(Duration::ZERO));
        assert!(!semaphore.try_acquire());
        assert!(!semaphore.acquire_timeout(Duration::from_millis(10)));
        semaphore.release().unwrap();
        acquire(&semaphore, ways.of(0));
        assert!(!semaphore.try_acquire());
    }

    fn exactly_as_many_come_through_as_there_are_permits<P: Permits>(ways) {
        let semaphore = P::with(7);
        semaphore.acquire();
        let waiters = Waiters::start(10, ways, |way, came, passed| {
            Worker::new(task!(acquire_twice::<P>(semaphore.clone(), way, came, passed)))
        });
        waiters.settle(6);
        for _ in 0..7 {
            semaphore.release().unwrap();
        }
        waiters.settle(13);
        semaphore.release_many(6).unwrap();
        waiters.settle(19);
        assert!(!semaphore.try_acquire());
        semaphore.release().unwrap();
        assert_eq!(waiters.join().len(), 20);
        assert_eq!(semaphore.drain(), 0);
    }

    fn many_releases_at_once_let_as_many_through<P: Permits>(ways) {
        let semaphore = P::with(5);
        assert_eq!(semaphore.drain(), 5);
        let waiters = Waiters::asleep(4, ways, |way, came, passed| {
            let acquire = task!(acquire_and_note::<P>(semaphore.clone(), way, came, passed));
            Worker::new(acquire)
        });
        semaphore.release_many(0).unwrap();
        waiters.settle(0);
        semaphore.release_many(3).unwrap();
        waiters.settle(3);
        assert!(!semaphore.try_acquire());
        // More than there are waiters: the rest is there for others.
        semaphore.release_many(2).unwrap();
        waiters.join();
        assert_eq!(semaphore.drain(), 1);
    }

    fn one_who_acquires_and_one_who_releases_may_differ<P: Permits>(ways) {
        for limit in 1..=4 {
            let semaphore = P::with(limit);
            let executor = executor(2);
            let acquired: Vec<_> = (0..limit)
                .map(|n| executor.submit(task!(acquire_once::<P>(semaphore.clone(), ways.of(n)))))
                .collect();
            for acquired in acquired {
                acquired.result().unwrap();
            }
            assert!(!semaphore.try_acquire());
            let released: Vec<_> = (0..limit)
                .map(|_| executor.submit(task!(release::<P>(semaphore.clone()))))
                .collect();
            for released in released {
                assert!(released.result().unwrap());
            }
            assert_eq!(semaphore.drain(), limit);
        }
    }
}

fn acquire_and_note<P: Permits>(semaphore: P, way: Way, came: Sign, passed: Sign) {
    came.note(Place::here());
    acquire(&semaphore, way);
    passed.note("");
}

fn three_of_ten_tries<P: Permits>() {
    let semaphore = P::with(3);
    let executor = executor(3);
    let tries: Vec<_> = (0..5)
        .map(|_| executor.submit(task!(try_twice::<P>(semaphore.clone()))))
        .collect();
    let tries: Vec<_> = tries
        .into_iter()
        .flat_map(|tried| tried.result().unwrap())
        .collect();
    assert_eq!(tries.iter().filter(|&&acquired| acquired).count(), 3);
    assert_eq!(tries.len(), 10);
    assert_eq!(semaphore.drain(), 0);
}

fn scopes<P: Permits>() {
    let semaphore = P::with(2);
    semaphore.with_guard(Way::Blocking, || {
        let left = catch_unwind(AssertUnwindSafe(|| {
            semaphore.with_guard(Way::Timed, || {
                assert!(!semaphore.try_guard());
                panic!("out of both");
            })
        }));
        assert!(left.is_err());
        assert!(semaphore.try_guard());
    });
    assert_eq!(semaphore.drain(), 2);
}

freethreading::test_backends! {
    #[test]
    fn some_of_many_tries_succeed() {
        watched(|| {
            three_of_ten_tries::<Semaphore>();
            three_of_ten_tries::<BoundedSemaphore>();
        });
    }

    #[test]
    fn there_may_be_none_at_first() {
        watched(|| {
            let semaphore = Semaphore::new(0);
            assert!(!semaphore.try_acquire());
            let waiters = Waiters::asleep(1, Ways::All(Way::Blocking), |way, came, passed| {
                let acquire = task!(acquire_and_note::<Semaphore>(semaphore.clone(), way, came, passed));
                Worker::new(acquire)
            });
            assert!(executor(1).submit(task!(release::<Semaphore>(semaphore.clone()))).result().unwrap());
            waiters.join();
            assert_eq!(semaphore.drain(), 0);
        });
    }

    #[test]
    fn there_may_be_more_than_at_first() {
        watched(|| {
            let semaphore = Semaphore::new(1);
            let executor = executor(2);
            let released: Vec<_> = (0..3)
                .map(|_| executor.submit(task!(release::<Semaphore>(semaphore.clone()))))
                .collect();
            for released in released {
                assert!(released.result().unwrap());
            }
            assert_eq!(semaphore.drain(), 4);
        });
    }

    #[test]
    fn there_are_never_more_than_the_bound() {
        watched(|| {
            let semaphore = BoundedSemaphore::new(1);
            let executor = executor(1);
            // As the very first call, and after an acquire and a release.
            for _ in 0..2 {
                assert_overflow(Lockable::release(&semaphore));
                assert!(!executor.submit(task!(release::<BoundedSemaphore>(semaphore.clone()))).result().unwrap());
                assert!(semaphore.try_acquire());
                assert!(!semaphore.try_acquire());
                semaphore.release().unwrap();
            }
            assert_eq!(semaphore.drain(), 1);
        });
    }

    #[test]
    fn every_bound_is_kept() {
        watched(|| {
            let executor = executor(2);
            for bound in 1..10 {
                let semaphore = BoundedSemaphore::new(bound);
                let acquired: Vec<_> = (0..bound)
                    .map(|_| executor.submit(task!(try_once(semaphore.clone()))))
                    .collect();
                assert!(acquired.into_iter().all(|acquired| acquired.result().unwrap()));
                let released: Vec<_> = (0..bound)
                    .map(|_| executor.submit(task!(release::<BoundedSemaphore>(semaphore.clone()))))
                    .collect();
                assert!(released.into_iter().all(|released| released.result().unwrap()));
                assert_overflow(Lockable::release(&semaphore));
                assert_eq!(semaphore.drain(), bound);
            }
        });
    }

    #[test]
    fn of_releases_at_once_as_many_succeed_as_permits_are_out() {
        const ROUNDS: usize = 200;
        /// Releases once in each round, together with all others.
        fn race(meeting: Barrier, semaphore: BoundedSemaphore) -> Vec<bool> {
            let rounds = (0..ROUNDS).map(|_| {
                meeting.wait().unwrap();
                let is_released = semaphore.release().is_ok();
                meeting.wait().unwrap();
                is_released
            });
            rounds.collect()
        }
        watched(|| {
            for (bound, out, workers) in [(3, 1, 4), (5, 5, 7), (8, 3, 5), (2, 0, 2)] {
                let semaphore = BoundedSemaphore::new(bound);
                let meeting = Barrier::new(workers + 1).unwrap();
                let executor = executor(workers);
                let races: Vec<_> = (0..workers)
                    .map(|_| executor.submit(task!(race(meeting.clone(), semaphore.clone()))))
                    .collect();
                for _ in 0..ROUNDS {
                    (0..out).for_each(|_| assert!(semaphore.try_acquire()));
                    meeting.wait().unwrap();
                    meeting.wait().unwrap();
                    assert_eq!(Permits::drain(&semaphore), bound);
                    semaphore.release_many(bound).unwrap();
                }
                let races: Vec<_> = races.iter().map(|race| race.result().unwrap()).collect();
                for round in 0..ROUNDS {
                    let released = races.iter().filter(|race| race[round]).count();
                    assert_eq!(released, out, "of {workers} in round {round}");
                }
            }
        });
    }

    #[test]
    fn a_bound_may_be_nothing() {
        watched(|| {
            let semaphore = BoundedSemaphore::new(0);
            for _ in 0..3 {
                assert!(!semaphore.try_acquire());
                assert!(!semaphore.acquire_timeout(Duration::from_millis(5)));
                assert_overflow(Lockable::release(&semaphore));
                assert!(!executor(1).submit(task!(release::<BoundedSemaphore>(semaphore.clone()))).result().unwrap());
            }
        });
    }
}

fn try_once(semaphore: BoundedSemaphore) -> bool {
    semaphore.try_acquire()
}

/// Comes and goes, in several ways. There is room for as many as there are permits, and never for more.
fn come_and_go<P: Permits>(semaphore: P, room: Semaphore, rounds: usize) {
    let enter = || {
        assert!(room.try_acquire(), "too many");
        room.release().unwrap();
    };
    for round in 0..rounds {
        match round % 5 {
            4 => {
                semaphore.with_guard(Way::Blocking, enter);
                continue;
            }
            3 => block_on(semaphore.acquire_async()),
            2 => {
                while !semaphore.try_acquire() {
                    thread::yield_now();
                }
            }
            1 => while !semaphore.acquire_timeout(Duration::from_micros(100)) {},
            _ => semaphore.acquire(),
        }
        enter();
        semaphore.release().unwrap();
    }
}

every_type! {
    for [semaphore: Semaphore, bounded_semaphore: BoundedSemaphore]

    fn scopes_nest_and_give_back<P: Permits>() {
        scopes::<P>();
    }

    /// Threads and tasks that all come and go.
    fn permits_survive_a_crowd<P: Permits>() {
        const ROUNDS: usize = 1000;
        let semaphore = P::with(5);
        let inside = Arc::new(AtomicUsize::new(0));
        let enter = |inside: &AtomicUsize| {
            assert!(inside.fetch_add(1, Ordering::SeqCst) < 5, "too many");
            inside.fetch_sub(1, Ordering::SeqCst);
        };
        thread::scope(|scope| {
            for n in 0..25 {
                let (semaphore, inside) = (&semaphore, &inside);
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        // Two ways to block, and one to try.
                        match (n + round) % 4 {
                            3 => while !semaphore.try_acquire() {
                                thread::yield_now();
                            },
                            2 => while !semaphore.acquire_timeout(Duration::from_micros(100)) {},
                            _ => semaphore.acquire(),
                        }
                        enter(inside);
                        semaphore.release().unwrap();
                    }
                });
            }
            scope.spawn(|| {
                multi_thread().block_on(async {
                    let tasks: Vec<_> = (0..25)
                        .map(|_| {
                            let (semaphore, inside) = (semaphore.clone(), Arc::clone(&inside));
                            tokio::spawn(async move {
                                for _ in 0..ROUNDS {
                                    semaphore.acquire_async().await;
                                    enter(&inside);
                                    semaphore.release().unwrap();
                                }
                            })
                        })
                        .collect();
                    for task in tasks {
                        task.await.unwrap();
                    }
                });
            });
        });
        assert_eq!(semaphore.drain(), 5);
    }

    /// Processes, threads and tasks, all at the same time.
    fn permits_survive_a_crowd_of_all_kinds<P: Permits>() {
        const ROUNDS: usize = 1000;
        let (semaphore, room) = (P::with(5), Semaphore::new(5));
        let executor = common::processes(4);
        let processes: Vec<_> = (0..4)
            .map(|_| {
                executor.submit(task!(come_and_go::<P>(semaphore.clone(), room.clone(), ROUNDS)))
            })
            .collect();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| come_and_go(semaphore.clone(), room.clone(), ROUNDS));
            }
            multi_thread().block_on(async {
                let tasks: Vec<_> = (0..8)
                    .map(|_| {
                        let (semaphore, room) = (semaphore.clone(), room.clone());
                        tokio::spawn(async move {
                            for _ in 0..ROUNDS {
                                semaphore.acquire_async().await;
                                assert!(room.try_acquire(), "too many");
                                room.release().unwrap();
                                semaphore.release().unwrap();
                            }
                        })
                    })
                    .collect();
                for task in tasks {
                    task.await.unwrap();
                }
            });
        });
        for process in processes {
            process.result().unwrap();
        }
        assert_eq!(semaphore.drain(), 5);
        assert_eq!(room.drain(), 5);
        // A process sees the same.
        let others = semaphore.clone();
        assert_eq!(executor.submit(task!(try_twice::<P>(others))).result().unwrap(), [false; 2]);
    }

    fn too_many_are_an_error<P: Permits>() {
        // As many as there can be, and one more.
        let most = u32::MAX as usize;
        let semaphore = P::with(most);
        for permits in [1, 2, most, usize::MAX] {
            assert_overflow(semaphore.release_many(permits));
        }
        assert_overflow(semaphore.release());
        semaphore.acquire();
        assert_overflow(semaphore.release_many(2));
        semaphore.release_many(1).unwrap();
        assert_overflow(semaphore.release());
        assert!(semaphore.release_many(0).is_ok());
        for value in [most + 1, usize::MAX] {
            let error = P::try_with(value).unwrap_err();
            assert!(matches!(error, Error::InvalidArgument(_)), "{error}");
        }
        assert!(catch_unwind(|| P::with(usize::MAX)).is_err());
    }

    fn an_overflow_leaves_those_who_wait_alone<P: Permits>() {
        let semaphore = P::with(2);
        assert_eq!(semaphore.drain(), 2);
        let waiting = semaphore.clone();
        let (thread, place) = primitives::asleep_in(move || waiting.acquire());
        assert_overflow(semaphore.release_many(usize::MAX));
        assert_overflow(semaphore.release_many(u32::MAX as usize + 1));
        assert!(place.is_asleep());
        assert_eq!(semaphore.drain(), 0);
        semaphore.release_many(2).unwrap();
        thread.join().unwrap();
        assert_eq!(semaphore.drain(), 1);
    }

    /// A release of many while some have given up and others have not.
    fn many_releases_race_with_those_who_give_up<P: Permits>() {
        let semaphore = P::with(8);
        assert_eq!(semaphore.drain(), 8);
        for _ in 0..200 {
            let through = AtomicUsize::new(0);
            let start = Meet::new(9);
            thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        start.wait();
                        if semaphore.acquire_timeout(Duration::from_micros(50)) {
                            through.fetch_add(1, Ordering::SeqCst);
                        }
                    });
                }
                start.wait();
                semaphore.release_many(5).unwrap();
            });
            assert_eq!(through.load(Ordering::SeqCst) + semaphore.drain(), 5);
        }
    }
}

/// More releases at once than permits are out.
#[test]
fn as_many_releases_succeed_as_permits_are_out() {
    watched(|| {
        for (bound, out) in [(3, 1), (5, 5), (8, 4)] {
            for _ in 0..200 {
                let semaphore = BoundedSemaphore::new(bound);
                (0..out).for_each(|_| semaphore.acquire());
                let start = Meet::new(out + 3);
                let released: usize = thread::scope(|scope| {
                    let releases: Vec<_> = (0..out + 3)
                        .map(|_| {
                            scope.spawn(|| {
                                start.wait();
                                usize::from(semaphore.release().is_ok())
                            })
                        })
                        .collect();
                    releases
                        .into_iter()
                        .map(|release| release.join().unwrap())
                        .sum()
                });
                assert_eq!(released, out);
                assert_eq!(Permits::drain(&semaphore), bound);
            }
        }
    });
}

#[test]
fn all_or_none_of_many_are_released() {
    watched(|| {
        let semaphore = BoundedSemaphore::new(4);
        (0..2).for_each(|_| semaphore.acquire());
        assert_overflow(Permits::release_many(&semaphore, 3));
        assert_eq!(
            format!("{semaphore:?}"),
            "BoundedSemaphore { value: 2/4, waiters: 0 }"
        );
        semaphore.release_many(2).unwrap();
        assert_eq!(Permits::drain(&semaphore), 4);
    });
}

#[test]
fn they_show_their_values() {
    watched(|| {
        let semaphore = Semaphore::new(3);
        assert_eq!(
            format!("{semaphore:?}"),
            "Semaphore { value: 3, waiters: 0 }"
        );
        let permit = semaphore.permit();
        assert_eq!(semaphore.value(), 2);
        assert_eq!(
            format!("{semaphore:?}"),
            "Semaphore { value: 2, waiters: 0 }"
        );
        assert!(format!("{permit:?}").contains("value: 2"));
        drop(permit);
        let semaphore = BoundedSemaphore::new(3);
        semaphore.acquire();
        assert_eq!(semaphore.value(), 2);
        assert_eq!(
            format!("{semaphore:?}"),
            "BoundedSemaphore { value: 2/3, waiters: 0 }"
        );
        // Also while somebody waits.
        let empty = Semaphore::new(0);
        let waiting = empty.clone();
        let (thread, _) = primitives::asleep_in(move || waiting.acquire());
        assert_eq!(format!("{empty:?}"), "Semaphore { value: 0, waiters: 1 }");
        empty.release().unwrap();
        thread.join().unwrap();
        eventually("nothing is left", || {
            format!("{empty:?}") == "Semaphore { value: 0, waiters: 0 }"
        });
    });
}

/// Nobody comes through on permits that were refused.
#[test]
fn refused_permits_are_never_there() {
    const ROUNDS: usize = 20_000;
    fn up_to_five(semaphore: &Semaphore) -> usize {
        (0..5).filter(|_| semaphore.try_acquire()).count()
    }
    watched(|| {
        let semaphores: Vec<_> = (0..ROUNDS).map(|_| Semaphore::new(1)).collect();
        // Who comes to a round first waits for the other, without sleeping.
        let come = AtomicUsize::new(0);
        let meet = |round: usize| {
            come.fetch_add(1, Ordering::SeqCst);
            for spins in 0.. {
                if come.load(Ordering::SeqCst) >= 2 * (round + 1) {
                    break;
                }
                match spins {
                    0..1000 => std::hint::spin_loop(),
                    _ => thread::yield_now(),
                }
            }
        };
        let (through, released): (Vec<_>, Vec<_>) = thread::scope(|scope| {
            let through = scope.spawn(|| {
                let rounds = semaphores.iter().enumerate();
                rounds
                    .map(|(round, semaphore)| {
                        meet(round);
                        up_to_five(semaphore)
                    })
                    .collect()
            });
            let rounds = semaphores.iter().enumerate();
            let released = rounds
                .map(|(round, semaphore)| {
                    meet(round);
                    semaphore.release_many(u32::MAX as usize).is_ok()
                })
                .collect();
            (through.join().unwrap(), released)
        });
        for ((semaphore, through), released) in semaphores.iter().zip(through).zip(released) {
            // If the one permit was taken before, there was room for all of them.
            if !released {
                assert_eq!(through + up_to_five(semaphore), 1);
            }
        }
    });
}

#[test]
fn a_permit_is_given_back_once() {
    watched(|| {
        let semaphore = Semaphore::new(1);
        semaphore.permit().release().unwrap();
        assert_eq!(semaphore.value(), 1);
        let semaphore = BoundedSemaphore::new(1);
        semaphore.permit().release().unwrap();
        assert_eq!(semaphore.value(), 1);
        // One that somebody else has given back is none.
        let permit = semaphore.permit();
        semaphore.release().unwrap();
        assert_eq!(permit.release(), Err(Overflow));
        assert_eq!(semaphore.value(), 1);
    });
}
