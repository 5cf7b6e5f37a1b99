//! Barriers: all go on together, or nobody does.

mod common;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Poll, Waker},
    thread,
    time::{Duration, Instant},
};

use common::{
    ATTEMPTS, Meddling, Panicking, Scratch, Sign, Wakes, eventually, takes_its_time, threads,
    watched,
    ways::{Hand, LONG, Other, Team, Way, current_thread, every_way, report, wait_asleep},
};
use freethreading::{
    Backend, Barrier, BarrierError, Error, Event, Panic, TaskError, Worker, get_ident, task,
};
use futures::{FutureExt, executor::block_on, future::join_all};

freethreading::init_tests!();

/// Long enough for a task to be polled many times.
const NAP: Duration = Duration::from_millis(20);

/// The index, or nothing if the barrier is broken.
#[track_caller]
fn index(result: Result<usize, BarrierError>) -> Option<usize> {
    match result {
        Ok(index) => Some(index),
        Err(BarrierError::Broken) => None,
        Err(error) => panic!("{error}"),
    }
}

/// One wait at the barrier.
fn pass(way: Way, barrier: Barrier) -> Option<usize> {
    index(way.pass(&barrier))
}

/// Workers that each wait once.
fn team(size: usize, way: impl Fn(usize) -> Way, barrier: &Barrier) -> Team<Option<usize>> {
    Team::new(size, |n| task!(pass(way(n), barrier.clone())))
}

fn wait_for_waiters(barrier: &Barrier, number: usize) {
    eventually("so many wait", || barrier.n_waiting() == number);
}

/// As many waiters as there are parties pass; they get one index each.
#[track_caller]
fn assert_works(way: impl Fn(usize) -> Way, barrier: &Barrier) {
    let mut indices = team(barrier.parties(), way, barrier).results();
    indices.sort();
    assert!(indices.into_iter().eq((0..barrier.parties()).map(Some)));
    assert!(!barrier.broken());
    assert_eq!(barrier.n_waiting(), 0);
}

/// Notes the number of each round before it waits.
fn march(way: Way, barrier: Barrier, rounds: u32, log: Sign) -> Vec<usize> {
    let indices = (0..rounds).map(|round| {
        log.note(round);
        way.pass(&barrier).unwrap()
    });
    indices.collect()
}

/// Five workers go through so many rounds.
fn keep_step(way: impl Fn(usize) -> Way, rounds: u32) {
    let scratch = Scratch::new();
    let log = scratch.sign("log");
    let barrier = Barrier::new(5).unwrap();
    let team = Team::new(5, |n| {
        task!(march(way(n), barrier.clone(), rounds, log.clone()))
    });
    let indices = team.results();
    for round in 0..rounds as usize {
        let mut indices: Vec<_> = indices.iter().map(|worker| worker[round]).collect();
        indices.sort();
        assert_eq!(indices, [0, 1, 2, 3, 4]);
    }
    // Who notes a round has passed the one before, for which all had to note that one.
    let rounds = (0..rounds).flat_map(|round| [round; 5]);
    assert!(
        log.notes()
            .into_iter()
            .eq(rounds.map(|round| round.to_string()))
    );
    assert!(!barrier.broken());
    assert_eq!(barrier.n_waiting(), 0);
}

/// An action that takes as long as the test wants.
fn hold_up(begun: Event, end: Event) {
    begun.set();
    end.wait();
}

every_way! {
    fn parties_keep_step(ways) {
        keep_step(|n| ways.of(n), 10);
    }

    fn parties_keep_step_for_long(ways) {
        keep_step(|n| ways.of(n), 1000);
    }

    fn the_action_runs_once_before_anybody_goes_on(ways) {
        fn act(log: Sign) {
            log.note(get_ident());
        }
        /// Its ident, and how often the action had run after each wait.
        fn count(way: Way, barrier: Barrier, log: Sign) -> (u64, Vec<usize>) {
            let counts = (0..10).map(|_| {
                way.pass(&barrier).unwrap();
                log.notes().len()
            });
            (get_ident(), counts.collect())
        }
        let scratch = Scratch::new();
        let log = scratch.sign("log");
        let barrier = Barrier::new(5).unwrap().action(task!(act(log.clone())));
        let team = Team::new(5, |n| task!(count(ways.of(n), barrier.clone(), log.clone())));
        let results = team.results();
        for (_, counts) in &results {
            assert!(counts.iter().copied().eq(1..=10));
        }
        for ident in log.notes() {
            assert!(results.iter().any(|(worker, _)| worker.to_string() == ident));
        }
    }

    fn an_action_that_panics_breaks_the_barrier(ways) {
        fn act(healed: Sign) {
            if !healed.is_given() {
                panic!("out of breath");
            }
        }
        fn wait(way: Way, barrier: Barrier) -> Option<Panic> {
            match way.pass(&barrier) {
                Err(BarrierError::Broken) => None,
                Err(BarrierError::Action(TaskError::Panicked(panic))) => Some(panic),
                other => panic!("{other:?}"),
            }
        }
        let scratch = Scratch::new();
        let healed = scratch.sign("healed");
        let barrier = Barrier::new(3).unwrap().action(task!(act(healed.clone())));
        let team = Team::new(3, |n| task!(wait(ways.of(n), barrier.clone())));
        let panics: Vec<_> = team.results().into_iter().flatten().collect();
        let [panic] = &panics[..] else {
            panic!("{panics:?}");
        };
        assert_eq!(panic.message(), "out of breath");
        assert!(barrier.broken());
        assert_eq!(index(ways.of(0).pass(&barrier)), None);
        healed.give();
        barrier.reset();
        assert_works(|n| ways.of(n), &barrier);
    }

    fn an_action_may_look_at_its_barrier(ways) {
        fn look(barrier: Barrier, seen: Sign) {
            seen.note(format_args!("{} {} {barrier:?}", barrier.parties(), barrier.broken()));
            assert!(barrier.n_waiting() <= 3);
        }
        let scratch = Scratch::new();
        let seen = scratch.sign("seen");
        let barrier = Barrier::new(3).unwrap();
        let barrier = barrier.clone().action(task!(look(barrier, seen.clone())));
        assert_works(|n| ways.of(n), &barrier);
        assert!(seen.notes()[0].starts_with("3 false "), "{:?}", seen.notes());
    }

    fn an_action_may_abort_its_barrier(ways) {
        fn abort(barrier: Barrier) {
            barrier.abort();
        }
        let barrier = Barrier::new(3).unwrap();
        let barrier = barrier.clone().action(task!(abort(barrier)));
        assert_eq!(team(3, |n| ways.of(n), &barrier).results(), [None; 3]);
        assert!(barrier.broken());
        assert_eq!(barrier.n_waiting(), 0);
    }

    fn who_gives_up_while_the_action_runs_is_missed_after_it(ways) {
        let (begun, end) = (Event::new(), Event::new());
        let barrier = Barrier::new(2).unwrap();
        let barrier = barrier.action(task!(hold_up(begun.clone(), end.clone())));
        let team = team(2, |n| ways.of(n), &barrier);
        begun.wait();
        // All these have come for the next time.
        let mut patient = Hand::waiting(barrier.wait_async());
        assert_eq!(index(barrier.wait_timeout(Duration::from_millis(1))), None);
        drop(Hand::waiting(barrier.wait_async()));
        assert!(!barrier.broken());
        end.set();
        let mut indices = team.results();
        indices.sort();
        assert_eq!(indices, [Some(0), Some(1)]);
        assert!(barrier.broken());
        assert_eq!(index(patient.ready()), None);
        barrier.reset();
        assert_works(|n| ways.of(n), &barrier);
    }

    /// Also when it is over, as long as they have not come for the next time once more.
    fn who_came_while_the_action_ran_and_gives_up_is_missed(ways) {
        let (begun, end) = (Event::new(), Event::new());
        let barrier = Barrier::new(2).unwrap();
        let barrier = barrier.action(task!(hold_up(begun.clone(), end.clone())));
        let team = team(2, |n| ways.of(n), &barrier);
        begun.wait();
        let early = Hand::waiting(barrier.wait_async());
        end.set();
        let mut indices = team.results();
        indices.sort();
        assert_eq!(indices, [Some(0), Some(1)]);
        early.wait_woken();
        let mut patient = Hand::waiting(barrier.wait_async());
        assert!(!barrier.broken());
        drop(early);
        assert!(barrier.broken());
        assert_eq!(index(patient.ready()), None);
        barrier.reset();
        assert_works(|n| ways.of(n), &barrier);
    }

    /// They do not take part in what comes after it, and are not missed there.
    fn who_came_while_the_action_ran_is_of_the_round_that_is_broken_or_reset(ways) {
        for breaks in [Barrier::abort, Barrier::reset] {
            let (begun, end) = (Event::new(), Event::new());
            let barrier = Barrier::new(2).unwrap();
            let acting = barrier.clone().action(task!(hold_up(begun.clone(), end.clone())));
            let team = team(2, |n| ways.of(n), &acting);
            begun.wait();
            let mut early = [(); 2].map(|()| Hand::waiting(barrier.wait_async()));
            breaks(&barrier);
            barrier.reset();
            end.set();
            assert_eq!(team.results(), [None; 2]);
            let [first, second] = &mut early;
            assert_eq!(index(first.ready()), None);
            assert_eq!(index(second.ready()), None);
            drop(early);
            assert!(!barrier.broken());
            assert_works(|n| ways.of(n), &barrier);
        }
    }

    fn abort_breaks_the_barrier_for_those_who_wait(ways) {
        let barrier = Barrier::new(5).unwrap();
        let team = team(4, |n| ways.of(n), &barrier);
        wait_for_waiters(&barrier, 4);
        assert!(team.all_busy());
        barrier.abort();
        assert_eq!(team.results(), [None; 4]);
        assert!(barrier.broken());
        assert_eq!(barrier.n_waiting(), 0);
        assert_eq!(index(ways.of(0).pass(&barrier)), None);
    }

    fn a_worker_may_abort(ways) {
        fn wait_or_abort(way: Way, barrier: Barrier, aborts: bool) -> Option<usize> {
            if aborts {
                wait_for_waiters(&barrier, 4);
                barrier.abort();
                return None;
            }
            pass(way, barrier)
        }
        let barrier = Barrier::new(5).unwrap();
        let team = Team::new(5, |n| task!(wait_or_abort(ways.of(n), barrier.clone(), n == 2)));
        assert_eq!(team.results(), [None; 5]);
        assert!(barrier.broken());
    }

    fn reset_breaks_the_barrier_for_those_who_wait_only(ways) {
        let barrier = Barrier::new(5).unwrap();
        for waiting in [4, 1, 4] {
            let team = team(waiting, |n| ways.of(n), &barrier);
            wait_for_waiters(&barrier, waiting);
            barrier.reset();
            assert_eq!(team.results(), vec![None; waiting]);
            assert!(!barrier.broken());
            assert_works(|n| ways.of(n), &barrier);
        }
    }

    fn reset_mends_a_broken_barrier(ways) {
        let barrier = Barrier::new(5).unwrap();
        for _ in 0..3 {
            let team = team(4, |n| ways.of(n), &barrier);
            wait_for_waiters(&barrier, 4);
            barrier.abort();
            assert_eq!(team.results(), [None; 4]);
            barrier.reset();
            assert!(!barrier.broken());
            assert_works(|n| ways.of(n), &barrier);
        }
    }

    fn reset_may_come_while_broken_waiters_still_leave(ways) {
        let barrier = Barrier::new(5).unwrap();
        for _ in 0..10 {
            let broken = team(4, |n| ways.of(n), &barrier);
            wait_for_waiters(&barrier, 4);
            barrier.abort();
            barrier.reset();
            // They belong to the broken generation, however late they leave.
            assert_works(|n| ways.of(n), &barrier);
            assert_eq!(broken.results(), [None; 4]);
        }
    }

    fn a_timeout_breaks_the_barrier_for_all(ways) {
        let barrier = Barrier::new(5).unwrap();
        let in_time = (0..ATTEMPTS).any(|_| {
            barrier.reset();
            let team = team(3, |n| ways.of(n), &barrier);
            wait_for_waiters(&barrier, 3);
            let (timeout, start) = (Duration::from_millis(200), Instant::now());
            assert_eq!(index(barrier.wait_timeout(timeout)), None);
            let elapsed = start.elapsed();
            assert!(elapsed >= timeout);
            assert_eq!(team.results(), [None; 3]);
            assert!(barrier.broken());
            elapsed < 10 * timeout
        });
        assert!(in_time);
        // The one that is late.
        assert_eq!(index(ways.of(0).pass(&barrier)), None);
        assert_eq!(barrier.n_waiting(), 0);
    }

    fn one_party_never_waits(ways) {
        let barrier = Barrier::new(1).unwrap();
        for n in 0..10 {
            assert_eq!(index(ways.of(n).pass(&barrier)), Some(0));
        }
        assert_eq!(team(1, |n| ways.of(n), &barrier).results(), [Some(0)]);
    }

    fn waiters_are_counted(ways) {
        let barrier = Barrier::new(3).unwrap();
        assert_eq!((barrier.parties(), barrier.n_waiting(), barrier.broken()), (3, 0, false));
        let team = team(2, |n| ways.of(n), &barrier);
        wait_for_waiters(&barrier, 2);
        let text = format!("{barrier:?}");
        assert!(text.contains('2') && text.contains('3'), "{text}");
        assert!(ways.of(2).pass(&barrier).is_ok());
        assert_eq!((barrier.parties(), barrier.n_waiting(), barrier.broken()), (3, 0, false));
        assert!(team.results().iter().all(Option::is_some));
        barrier.abort();
        assert_eq!((barrier.parties(), barrier.n_waiting(), barrier.broken()), (3, 0, true));
        let text = format!("{barrier:?}");
        assert!(text.contains("broken"), "{text}");
    }

    fn the_waits_of_many_barriers_do_not_mix(ways) {
        let barriers: Vec<_> = (2..6).map(|parties| Barrier::new(parties).unwrap()).collect();
        let teams: Vec<_> = barriers
            .iter()
            .map(|barrier| team(barrier.parties() - 1, |n| ways.of(n), barrier))
            .collect();
        for barrier in &barriers {
            wait_for_waiters(barrier, barrier.parties() - 1);
        }
        for (barrier, team) in barriers.iter().zip(teams) {
            assert!(team.all_busy());
            assert!(ways.of(0).pass(barrier).is_ok());
            assert!(team.results().iter().all(Option::is_some));
        }
    }
}

freethreading::test_backends! {
    #[test]
    fn the_default_timeout_is_used_where_none_is_given() {
        watched(|| {
            for way in [Way::Blocking, Way::Async, Way::Tokio] {
                let barrier = takes_its_time(|timeout| {
                    let barrier = Barrier::new(2).unwrap().timeout(timeout);
                    assert_eq!(index(way.pass(&barrier)), None);
                    barrier
                });
                assert!(barrier.broken());
                barrier.reset();
                assert_eq!(team(1, |_| way, &barrier).results(), [None]);
                assert!(barrier.broken());
            }
        });
    }

    #[test]
    fn an_explicit_timeout_wins() {
        watched(|| {
            let timeout = Duration::from_millis(50);
            let barrier = Barrier::new(2).unwrap().timeout(LONG);
            let start = Instant::now();
            assert_eq!(index(barrier.wait_timeout(timeout)), None);
            assert!(start.elapsed() >= timeout);
            // The default would be over.
            let barrier = Barrier::new(2).unwrap().timeout(timeout);
            let team = team(1, |_| Way::Timed, &barrier);
            wait_for_waiters(&barrier, 1);
            thread::sleep(2 * timeout);
            assert!(barrier.wait().is_ok());
            assert!(team.results()[0].is_some());
        });
    }

    #[test]
    fn a_wait_that_is_soon_enough_meets_no_timeout() {
        watched(|| {
            let barrier = Barrier::new(3).unwrap().timeout(LONG);
            for way in Way::ALL {
                assert_works(|_| way, &barrier);
            }
        });
    }

    #[test]
    fn a_timeout_of_zero_is_a_try() {
        watched(|| {
            let alone = Barrier::new(1).unwrap();
            assert_eq!(index(alone.wait_timeout(Duration::ZERO)), Some(0));
            let barrier = Barrier::new(2).unwrap();
            assert_eq!(index(barrier.wait_timeout(Duration::ZERO)), None);
            assert!(barrier.broken());
            assert_eq!(barrier.n_waiting(), 0);
            barrier.reset();
            // The last one does not have to wait.
            let team = team(1, |_| Way::Blocking, &barrier);
            wait_for_waiters(&barrier, 1);
            assert!(index(barrier.wait_timeout(Duration::ZERO)).is_some());
            assert!(team.results()[0].is_some());
        });
    }

    #[test]
    fn no_parties_is_an_error() {
        let error = Barrier::new(0).unwrap_err();
        assert!(matches!(&error, Error::InvalidArgument(why) if why.contains("party")), "{error}");
    }

    #[test]
    fn reset_of_an_idle_barrier_does_nothing() {
        watched(|| {
            let barrier = Barrier::new(3).unwrap();
            barrier.reset();
            assert!(!barrier.broken());
            assert_works(|_| Way::Blocking, &barrier);
            barrier.reset();
            assert_works(|_| Way::Async, &barrier);
        });
    }

    /// A time limit that ends while the last one arrives: both agree on what happened.
    #[test]
    fn a_timeout_that_meets_the_last_arrival_is_one_or_the_other() {
        fn arrive(way: Way, barriers: Vec<Barrier>) -> Vec<Option<usize>> {
            let arrive = |barrier: Barrier| {
                while barrier.n_waiting() == 0 && !barrier.broken() {
                    thread::yield_now();
                }
                pass(way, barrier)
            };
            barriers.into_iter().map(arrive).collect()
        }
        fn check(wait: fn(&Barrier, Duration) -> Result<usize, BarrierError>, way: Way) {
            let barriers: Vec<_> = (0..200).map(|_| Barrier::new(2).unwrap()).collect();
            let team = Team::new(1, |_| task!(arrive(way, barriers.clone())));
            // Now the one, now the other is to come first.
            let mut timeout = Duration::from_micros(100);
            let step = Duration::from_micros(5);
            let waits: Vec<_> = barriers
                .iter()
                .map(|barrier| {
                    let index = index(wait(barrier, timeout));
                    match index {
                        Some(_) => timeout = timeout.saturating_sub(step),
                        None => timeout += step,
                    }
                    (index, barrier.broken())
                })
                .collect();
            for ((here, broken), there) in waits.into_iter().zip(&team.results()[0]) {
                match here.zip(*there) {
                    Some(both) => assert!([(0, 1), (1, 0)].contains(&both), "{both:?}"),
                    None => assert_eq!((here, *there), (None, None)),
                }
                assert_eq!(broken, here.is_none());
            }
        }
        watched(|| {
            for way in Way::ALL {
                check(Barrier::wait_timeout, way);
                check(
                    |barrier, limit| block_on(barrier.clone().timeout(limit).wait_async()),
                    way,
                );
            }
        });
    }

    /// Who is killed, having come early for the next time, is missed after this time.
    #[test]
    fn a_process_killed_while_the_action_runs_is_missed_after_it() {
        fn come(barrier: Barrier, asleep: Sign) {
            report(&asleep);
            let _ = barrier.wait();
        }
        watched(|| {
            let scratch = Scratch::new();
            let asleep = scratch.sign("asleep");
            let (begun, end) = (Event::new(), Event::new());
            let barrier = Barrier::new(2).unwrap();
            let barrier = barrier.action(task!(hold_up(begun.clone(), end.clone())));
            let team = team(2, |_| Way::Blocking, &barrier);
            begun.wait();
            let early = Worker::new(task!(come(barrier.clone(), asleep.clone())))
                .backend(Backend::Multiprocessing);
            early.start().unwrap();
            wait_asleep(&asleep);
            early.terminate().unwrap();
            early.join().unwrap_err();
            assert!(!barrier.broken());
            end.set();
            let mut indices = team.results();
            indices.sort();
            assert_eq!(indices, [Some(0), Some(1)]);
            assert!(barrier.broken());
        });
    }

    #[test]
    fn a_process_killed_that_came_while_the_action_ran_is_missed() {
        fn come(barrier: Barrier, came: Sign) {
            let _early = Hand::waiting(barrier.wait_async());
            came.give();
            loop {
                thread::park();
            }
        }
        watched(|| {
            let scratch = Scratch::new();
            let came = scratch.sign("came");
            let (begun, end) = (Event::new(), Event::new());
            let barrier = Barrier::new(2).unwrap();
            let barrier = barrier.action(task!(hold_up(begun.clone(), end.clone())));
            let team = team(2, |_| Way::Blocking, &barrier);
            begun.wait();
            let early = Worker::new(task!(come(barrier.clone(), came.clone())))
                .backend(Backend::Multiprocessing);
            early.start().unwrap();
            came.wait();
            end.set();
            assert!(team.results().iter().all(Option::is_some));
            assert!(!barrier.broken());
            early.terminate().unwrap();
            early.join().unwrap_err();
            assert!(barrier.broken());
        });
    }

    #[test]
    fn the_action_may_run_in_a_poll() {
        fn act(log: Sign) {
            log.note("acted");
        }
        watched(|| {
            let scratch = Scratch::new();
            let log = scratch.sign("log");
            let barrier = Barrier::new(2).unwrap().action(task!(act(log.clone())));
            let mut first = Hand::waiting(barrier.wait_async());
            assert_eq!(log.notes().len(), 0);
            let mut last = Hand::new(barrier.wait_async());
            assert!(last.ready().is_ok());
            assert_eq!(log.notes().len(), 1);
            assert!(first.woken());
            assert!(first.ready().is_ok());
        });
    }

    #[test]
    fn errors_of_barriers_can_be_compared() {
        fn act() {
            panic!("no further");
        }
        watched(|| {
            let barrier = Barrier::new(1).unwrap().action(task!(act()));
            let error = barrier.wait().unwrap_err();
            assert!(matches!(error, BarrierError::Action(TaskError::Panicked(_))));
            assert_eq!(error, error.clone());
            assert_ne!(error, BarrierError::Broken);
            assert_eq!(barrier.wait(), Err(BarrierError::Broken));
        });
    }

    /// Who passes without having to wait, or is turned away, is as good as never done.
    #[test]
    fn a_task_that_never_has_to_wait_gives_way() {
        watched(|| {
            current_thread().block_on(async {
                let barrier = Barrier::new(1).unwrap();
                for is_broken in [false, true] {
                    if is_broken {
                        barrier.abort();
                    }
                    for timeout in [None, Some(LONG)] {
                        let barrier = match timeout {
                            None => barrier.clone(),
                            Some(timeout) => barrier.clone().timeout(timeout),
                        };
                        let ended = Arc::new(AtomicBool::new(false));
                        let is_ended = Arc::clone(&ended);
                        let passes = tokio::spawn(async move {
                            while !is_ended.load(Ordering::Relaxed) {
                                assert_eq!(barrier.wait_async().await.is_err(), is_broken);
                            }
                        });
                        tokio::time::sleep(NAP).await;
                        ended.store(true, Ordering::Relaxed);
                        passes.await.unwrap();
                    }
                }
            });
        });
    }

    /// Once it has come, the others pass, though it has its turn later.
    #[test]
    fn an_arrival_counts_when_the_task_gives_way() {
        watched(|| {
            current_thread().block_on(async {
                let barrier = Barrier::new(2).unwrap();
                for _ in 0..100 {
                    // More than a task may do at a time, in one poll.
                    let both = (0..1000).map(|_| {
                        let (first, last) = (barrier.wait_async(), barrier.wait_async());
                        async move { (index(first.await), index(last.await)) }
                    });
                    let pairs = join_all(both).await;
                    let passed = pairs.into_iter().flat_map(|(first, last)| [first, last]);
                    let numbers: Vec<_> = passed.map(Option::unwrap).collect();
                    assert_eq!(numbers.iter().sum::<usize>(), 1000);
                    assert_eq!(barrier.n_waiting(), 0);
                }
            });
        });
    }

    #[test]
    fn a_pending_wait_is_woken_by_the_last_arrival() {
        watched(|| {
            let barrier = Barrier::new(3).unwrap();
            let mut waits = [(); 2].map(|_| Hand::waiting(barrier.wait_async()));
            assert_eq!(barrier.n_waiting(), 2);
            let last = Other::new().run(task!(pass(Way::Blocking, barrier.clone())));
            let mut indices = vec![last];
            for wait in &mut waits {
                wait.wait_woken();
                indices.push(index(wait.ready()));
            }
            indices.sort();
            assert_eq!(indices, [Some(0), Some(1), Some(2)]);
        });
    }

    #[test]
    fn a_pending_wait_is_woken_by_abort_and_reset() {
        fn abort(barrier: Barrier) {
            barrier.abort();
        }
        fn reset(barrier: Barrier) {
            barrier.reset();
        }
        watched(|| {
            let (barrier, other) = (Barrier::new(3).unwrap(), Other::new());
            let mut wait = Hand::waiting(barrier.wait_async());
            other.run(task!(reset(barrier.clone())));
            wait.wait_woken();
            assert_eq!(index(wait.ready()), None);
            let mut wait = Hand::waiting(barrier.wait_async());
            other.run(task!(abort(barrier.clone())));
            wait.wait_woken();
            assert_eq!(index(wait.ready()), None);
        });
    }

    #[test]
    fn a_dropped_wait_breaks_the_barrier() {
        watched(|| {
            for way in Way::ALL {
                let barrier = Barrier::new(4).unwrap();
                let team = team(2, |_| way, &barrier);
                wait_for_waiters(&barrier, 2);
                let dropped = Hand::waiting(barrier.wait_async());
                assert_eq!(barrier.n_waiting(), 3);
                drop(dropped);
                assert_eq!(team.results(), [None; 2]);
                assert!(barrier.broken());
                assert_eq!(barrier.n_waiting(), 0);
                assert_eq!(index(way.pass(&barrier)), None);
                // It is not counted any more: less than all do not pass, all do.
                barrier.reset();
                let waits = [(); 3].map(|_| Hand::waiting(barrier.wait_async()));
                assert!(barrier.wait().is_ok());
                for wait in waits {
                    assert!(wait.finish().is_ok());
                }
                assert_works(|_| way, &barrier);
            }
        });
    }

    #[test]
    fn less_than_all_do_not_pass_after_a_dropped_wait() {
        watched(|| {
            let barrier = Barrier::new(3).unwrap();
            drop(Hand::waiting(barrier.wait_async()));
            barrier.reset();
            let team = team(1, |_| Way::Blocking, &barrier);
            wait_for_waiters(&barrier, 1);
            let mut second = Hand::waiting(barrier.wait_async());
            assert_eq!(barrier.n_waiting(), 2);
            assert!(team.all_busy());
            assert_eq!(index(barrier.wait_timeout(Duration::ZERO)).map(|_| ()), Some(()));
            second.wait_woken();
            assert!(second.ready().is_ok());
            assert!(team.results()[0].is_some());
        });
    }

    #[test]
    fn a_wait_that_was_never_polled_counts_for_nothing() {
        watched(|| {
            let barrier = Barrier::new(2).unwrap();
            let wait = barrier.wait_async();
            assert_eq!(barrier.n_waiting(), 0);
            drop(wait);
            assert!(!barrier.broken());
            assert_works(|_| Way::Blocking, &barrier);
        });
    }

    #[test]
    fn a_wait_that_is_dropped_when_all_have_come_breaks_nothing() {
        watched(|| {
            let (barrier, other) = (Barrier::new(2).unwrap(), Other::new());
            for _ in 0..10 {
                let wait = Hand::waiting(barrier.wait_async());
                assert!(other.run(task!(pass(Way::Blocking, barrier.clone()))).is_some());
                drop(wait);
                assert!(!barrier.broken());
                assert_eq!(barrier.n_waiting(), 0);
            }
            assert_works(|n| Way::ALL[n], &barrier);
        });
    }

    #[test]
    fn a_wait_that_nobody_polls_stops_nobody_else() {
        watched(|| {
            let barrier = Barrier::new(3).unwrap();
            let mut left = Hand::waiting(barrier.wait_async());
            let passed = team(2, |n| Way::ALL[n], &barrier).results();
            assert!(passed.iter().all(Option::is_some));
            // Nor the next generations.
            for way in Way::ALL {
                assert_works(|_| way, &barrier);
            }
            assert!(left.ready().is_ok());
        });
    }

    #[test]
    fn a_timeout_around_an_async_wait_breaks_the_barrier() {
        watched(|| {
            let barrier = Barrier::new(3).unwrap();
            let team = team(1, |_| Way::Async, &barrier);
            wait_for_waiters(&barrier, 1);
            current_thread().block_on(async {
                let timeout = Duration::from_millis(20);
                assert!(tokio::time::timeout(timeout, barrier.wait_async()).await.is_err());
            });
            assert_eq!(team.results(), [None]);
            assert!(barrier.broken());
        });
    }

    #[test]
    fn only_the_last_waker_is_woken() {
        watched(|| {
            let barrier = Barrier::new(2).unwrap();
            let (first, last) = (Wakes::new(), Wakes::new());
            let mut wait = Hand::new(barrier.wait_async());
            for wakes in [&first, &first, &last] {
                assert!(wait.poll_with(&Waker::from(Arc::clone(wakes))).is_pending());
            }
            Other::new().run(task!(pass(Way::Blocking, barrier.clone())));
            eventually("the last waker is woken", || last.count() > 0);
            assert_eq!((first.count(), last.count()), (0, 1));
            assert!(wait.ready().is_ok());
        });
    }

    #[test]
    fn a_waker_may_use_the_barrier() {
        watched(|| {
            let barrier = Barrier::new(3).unwrap();
            for ends in [Barrier::abort, Barrier::reset] {
                let other = barrier.clone();
                let mut second = async move { drop(other.wait_async().await) }.boxed();
                assert!((&mut second).now_or_never().is_none());
                let mut first = Hand::new(barrier.wait_async());
                let (meddled, second) = (barrier.clone(), Mutex::new(Some(second)));
                let waker = Waker::from(Meddling::new(move || {
                    meddled.n_waiting();
                    meddled.abort();
                    let wait = second.lock().unwrap().take();
                    drop(wait);
                    meddled.reset();
                }));
                assert!(first.poll_with(&waker).is_pending());
                drop(waker);
                ends(&barrier);
                assert!(matches!(first.poll(), Poll::Ready(Err(BarrierError::Broken))));
                drop(first);
                barrier.reset();
                assert_works(|_| Way::Blocking, &barrier);
            }
        });
    }

    #[test]
    fn a_waker_that_panics_harms_nobody_else() {
        watched(|| {
            let barrier = Barrier::new(4).unwrap();
            let team = team(1, |_| Way::Blocking, &barrier);
            wait_for_waiters(&barrier, 1);
            let mut first = Hand::new(barrier.wait_async());
            assert!(first.poll_with(&Waker::from(Arc::new(Panicking))).is_pending());
            let mut second = Hand::waiting(barrier.wait_async());
            assert_eq!(barrier.wait().unwrap(), 3);
            second.wait_woken();
            assert!(second.ready().is_ok() && first.ready().is_ok());
            assert!(team.results()[0].is_some());
        });
    }

    #[test]
    fn blocking_calls_stall_a_runtime_but_work_there() {
        watched(|| {
            let barrier = Barrier::new(2).unwrap();
            let team = team(2, |_| Way::Async, &barrier);
            assert!(team.results().iter().all(Option::is_some));
            current_thread().block_on(async {
                let team = self::team(1, |_| Way::Blocking, &barrier);
                assert!(barrier.wait().is_ok());
                assert!(team.results()[0].is_some());
                assert_eq!(index(barrier.wait_timeout(Duration::from_millis(5))), None);
            });
        });
    }

    #[test]
    fn a_wait_keeps_its_barrier_alive() {
        watched(|| {
            let barrier = Barrier::new(2).unwrap();
            let other = barrier.clone();
            let mut wait = Hand::waiting(async move { other.wait_async().await });
            let team = team(1, |_| Way::Blocking, &barrier);
            drop(barrier);
            wait.wait_woken();
            assert!(wait.ready().is_ok());
            assert!(team.results()[0].is_some());
        });
    }

    #[test]
    fn a_thousand_waits_need_no_thread_each() {
        watched(|| {
            let barrier = Barrier::new(1001).unwrap();
            current_thread().block_on(async {
                let waits = join_all((0..1000).map(|_| barrier.wait_async()));
                let ticks = async {
                    let mut interval = tokio::time::interval(Duration::from_millis(1));
                    for _ in 0..10 {
                        interval.tick().await;
                    }
                    assert_eq!(barrier.n_waiting(), 1000);
                    // Other tests have some, too.
                    assert!(threads() < 500);
                    let worker = Team::new(1, |_| task!(pass(Way::Async, barrier.clone())));
                    // The runtime goes on meanwhile.
                    interval.tick().await;
                    worker
                };
                let (indices, worker) = tokio::join!(waits, ticks);
                let mut indices: Vec<_> = indices.into_iter().map(index).collect();
                indices.extend(worker.results());
                indices.sort();
                assert!(indices.into_iter().eq((0..1001).map(Some)));
            });
        });
    }

    #[test]
    fn waits_left_at_random_never_leave_the_count_wrong() {
        watched(|| {
            let barrier = Barrier::new(3).unwrap();
            let mut random = common::Random::new();
            for _ in 0..300 {
                let mut waits = Vec::new();
                for _ in 0..random.below(3) {
                    waits.push(Hand::waiting(barrier.wait_async()));
                }
                while !waits.is_empty() {
                    drop(waits.swap_remove(random.below(waits.len())));
                    assert!(barrier.broken());
                    assert_eq!(barrier.n_waiting(), 0);
                }
                barrier.reset();
                let passed = join_all((0..3).map(|_| barrier.wait_async()));
                let mut indices: Vec<_> = block_on(passed).into_iter().map(index).collect();
                indices.sort();
                assert_eq!(indices, [Some(0), Some(1), Some(2)]);
            }
        });
    }
}
