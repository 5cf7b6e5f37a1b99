//! Events: who goes on when they are set, also for a moment only.

mod common;
#[path = "common/primitives.rs"]
mod primitives;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Waker},
    thread,
    time::{Duration, Instant},
};

use common::{
    ATTEMPTS, Sign, eventually, watched,
    ways::{Way, every_way},
};
use freethreading::{Event, Semaphore, Worker, WorkerPoolExecutor, task};
use futures::{FutureExt, executor::block_on};
use primitives::{Awaitable, LONG, Place, Waiters, asleep_in};

freethreading::init_tests!();

/// Waits again and again; tells where it does, and each time that it was let through.
fn wait_often(event: Event, way: Way, rounds: usize, through: Semaphore, came: Sign) {
    came.note(Place::here());
    for _ in 0..rounds {
        event.wait_in(way);
        through.release().unwrap();
    }
}

/// Waits, and then once more while it is still set.
fn wait_twice(event: Event, way: Way, came: Sign, passed: Sign) {
    came.note(Place::here());
    event.wait_in(way);
    assert!(event.wait_timeout(Duration::ZERO));
    event.wait_in(way);
    passed.note("");
}

every_way! {
    fn all_go_on_when_it_is_set(ways) {
        let event = Event::new();
        // The second round is as the first.
        for _ in 0..2 {
            let waiters = Waiters::asleep(5, ways, |way, came, passed| {
                Worker::new(task!(wait_twice(event.clone(), way, came, passed)))
            });
            assert_eq!(waiters.passed(), 0);
            event.set();
            assert_eq!(waiters.join().len(), 5);
            assert!(event.is_set());
            event.clear();
            assert!(!event.is_set());
        }
    }

    fn a_set_event_lets_everybody_pass_at_once(ways) {
        let event = Event::new();
        event.set();
        event.wait_in(ways.of(0));
        assert!(event.wait_timeout(Duration::ZERO));
        assert!(event.wait_async().now_or_never().is_some());
        let waiters = Waiters::start(2, ways, |way, came, passed| {
            Worker::new(task!(wait_twice(event.clone(), way, came, passed)))
        });
        assert_eq!(waiters.join().len(), 2);
    }

    fn all_who_wait_see_a_pulse(ways) {
        let event = Event::new();
        let waiters = Waiters::of(5, ways, &event);
        event.set();
        event.clear();
        assert_eq!(waiters.join().len(), 5);
        assert!(!event.is_set());
        assert!(!event.wait_timeout(Duration::ZERO));
    }

    fn all_who_wait_see_every_one_of_many_pulses(ways) {
        const ROUNDS: usize = 1000;
        let (event, through) = (Event::new(), Semaphore::new(0));
        let waiters = Waiters::start(5, ways, |way, came, _| {
            let waiting = task!(wait_often(event.clone(), way, ROUNDS, through.clone(), came));
            Worker::new(waiting)
        });
        for _ in 0..ROUNDS {
            // A pulse is for those who wait, and the event says how many those are. Who is fast passes
            // twice while it is set, and is done earlier.
            eventually("all wait", || {
                let running = waiters.workers().iter().filter(|worker| worker.is_alive());
                format!("{event:?}").contains(&format!("waiters: {}", running.count()))
            });
            event.set();
            event.clear();
            for _ in 0..5 {
                through.acquire();
            }
        }
        waiters.join();
        assert!(!through.try_acquire());
    }
}

freethreading::test_backends! {
    #[test]
    fn it_is_set_and_cleared() {
        fn seen(event: &Event) -> [bool; 2] {
            let elsewhere = event.clone();
            let executor = WorkerPoolExecutor::new(1).unwrap();
            let seen = executor.submit(task!(|elsewhere| elsewhere.is_set()));
            [event.is_set(), seen.result().unwrap()]
        }
        watched(|| {
            let event = Event::default();
            assert_eq!(seen(&event), [false; 2]);
            for _ in 0..2 {
                event.set();
                assert_eq!(seen(&event), [true; 2]);
            }
            for _ in 0..2 {
                event.clear();
                assert_eq!(seen(&event), [false; 2]);
            }
        });
    }

    #[test]
    fn nobody_goes_on_without_it() {
        /// How long it waits in vain.
        fn gives_up(event: Event, limit: Duration) -> Option<Duration> {
            let start = Instant::now();
            (!event.wait_timeout(limit)).then(|| start.elapsed())
        }
        watched(|| {
            let event = Event::new();
            let executor = WorkerPoolExecutor::new(2).unwrap();
            for limit in [0, 1, 200].map(Duration::from_millis) {
                let in_time = (0..ATTEMPTS).any(|_| {
                    let given_up: Vec<_> = (0..5)
                        .map(|_| executor.submit(task!(gives_up(event.clone(), limit))))
                        .collect();
                    let longest = given_up.into_iter().map(|given_up| {
                        let elapsed = given_up.result().unwrap().expect("it is not set");
                        assert!(elapsed >= limit, "{elapsed:?}");
                        elapsed
                    });
                    longest.max().unwrap() < 10 * limit.max(Duration::from_millis(200))
                });
                assert!(in_time, "{limit:?}");
            }
            event.set();
            assert_eq!(executor.submit(task!(gives_up(event, LONG))).result().unwrap(), None);
        });
    }

    #[test]
    fn a_worker_sets_it_for_good() {
        watched(|| {
            let event = Event::new();
            let told = event.clone();
            let (waiting, _) = asleep_in(move || told.wait());
            let setting = event.clone();
            let worker = Worker::new(task!(|setting| setting.set()));
            worker.start().unwrap();
            waiting.join().unwrap();
            worker.join().unwrap();
            assert!(event.is_set());
            event.wait();
            let clearing = event.clone();
            let worker = Worker::new(task!(|clearing| clearing.clear()));
            worker.start().unwrap();
            worker.join().unwrap();
            assert!(!event.is_set());
        });
    }
}

/// Futures, which are only looked at long after the pulse.
#[test]
fn a_future_that_waits_sees_every_pulse() {
    watched(|| {
        let event = Event::new();
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..1000 {
            let mut waits: Vec<_> = (0..5).map(|_| Box::pin(event.wait_async())).collect();
            for wait in &mut waits {
                assert!(wait.as_mut().poll(&mut context).is_pending());
            }
            event.set();
            event.clear();
            for wait in &mut waits {
                assert!(wait.as_mut().poll(&mut context).is_ready());
            }
        }
    });
}

/// Who comes after the pulse has missed it.
#[test]
fn a_pulse_is_not_remembered() {
    watched(|| {
        let event = Event::new();
        for _ in 0..3 {
            event.set();
            event.clear();
            assert!(!event.wait_timeout(Duration::from_millis(10)));
            assert!(event.wait_async().now_or_never().is_none());
        }
    });
}

/// Those who are told by a pulse and by its successor are told once each.
#[test]
fn pulses_race_with_those_who_come_and_go() {
    watched(|| {
        let event = Event::new();
        let passed = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = (0..4)
            .map(|n| {
                let (event, passed) = (event.clone(), Arc::clone(&passed));
                thread::spawn(move || {
                    for round in 0..500 {
                        match (n + round) % 3 {
                            0 => event.wait(),
                            1 => block_on(event.wait_async()),
                            _ => while !event.wait_timeout(Duration::from_micros(50)) {},
                        }
                        passed.fetch_add(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        while !threads.iter().all(|thread| thread.is_finished()) {
            event.set();
            event.clear();
        }
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(passed.load(Ordering::SeqCst), 4 * 500);
    });
}

#[test]
fn it_may_be_set_and_cleared_by_many() {
    watched(|| {
        let event = Event::new();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..5000 {
                        event.set();
                        event.clear();
                    }
                });
            }
            scope.spawn(|| {
                for _ in 0..100 {
                    event.wait_timeout(Duration::from_micros(100));
                }
            });
        });
        assert!(!event.is_set());
        let waiting = event.clone();
        let (thread, _) = asleep_in(move || waiting.wait());
        event.set();
        thread.join().unwrap();
    });
}

#[test]
fn it_shows_its_state() {
    watched(|| {
        let event = Event::new();
        assert_eq!(format!("{event:?}"), "Event { set: false, waiters: 0 }");
        let waiting = event.clone();
        let (thread, _) = asleep_in(move || waiting.wait());
        assert_eq!(format!("{event:?}"), "Event { set: false, waiters: 1 }");
        event.set();
        thread.join().unwrap();
        eventually("it is shown as set", || {
            format!("{event:?}") == "Event { set: true, waiters: 0 }"
        });
    });
}
