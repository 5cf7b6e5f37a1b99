//! Conditions: who waits, who is woken, and who has the lock.

mod common;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    task::{Context, Poll, Waker},
    thread,
    time::{Duration, Instant},
};

use common::{
    Meddling, Panicking, Random, Wakes, eventually, fragile, threads, unclonable, watched,
    ways::{Hand, LONG, Other, Team, Way, Ways, conditions, current_thread, every_way, spin_until},
};
use freethreading::{Backend, Condition, Error, Event, Lock, RLock, Semaphore, Worker, task};
use futures::{FutureExt, future::join_all};
use serde::{Deserialize, Serialize};

freethreading::init_tests!();

static_assertions::assert_impl_all!(Condition: Send, Sync);

/// What the methods give that are awaited has no name, but may be awaited on any thread.
const _: fn(&Condition) = |condition| {
    fn is_send(_: impl Future + Send) {}
    is_send(condition.acquire_async());
    is_send(condition.lock_async());
    is_send(condition.wait_async());
    is_send(condition.wait_for_async(|| true));
    is_send(async {
        let mut guard = condition.lock_async().await;
        guard.wait_async().await?;
        guard.wait_for_async(|| true).await
    });
};

/// A condition, and how the workers of a scenario tell who sleeps and who is awake. What is told
/// before a wait is told with the lock held: who has the lock then knows that the wait has begun.
#[derive(Clone, Serialize, Deserialize)]
struct Stage {
    condition: Condition,
    asleep: Semaphore,
    woken: Semaphore,
    /// The test sets one after the other.
    phases: Vec<Event>,
}

impl Stage {
    fn new(condition: Condition) -> Stage {
        Stage {
            condition,
            asleep: Semaphore::new(0),
            woken: Semaphore::new(0),
            phases: (0..4).map(|_| Event::new()).collect(),
        }
    }

    fn phase(&self) -> usize {
        self.phases.iter().filter(|phase| phase.is_set()).count()
    }

    fn next_phase(&self) {
        self.phases[self.phase()].set();
    }

    /// Waits so often, one after the other; gives the phase after each.
    fn wait(self, way: Way, times: usize) -> Vec<usize> {
        way.acquire(&self.condition);
        let phases = (0..times).map(|_| {
            self.asleep.release().unwrap();
            way.wait(&self.condition).unwrap();
            self.woken.release().unwrap();
            self.phase()
        });
        let phases = phases.collect();
        self.condition.release().unwrap();
        phases
    }

    fn team(&self, size: usize, ways: Ways, times: usize) -> Team<Vec<usize>> {
        Team::new(size, |n| {
            task!(Stage::wait(self.clone(), ways.of(n), times))
        })
    }

    /// Waits until so many more sleep.
    fn wait_asleep(&self, number: usize) {
        (0..number).for_each(|_| self.asleep.acquire());
    }

    /// Waits until so many more were woken.
    fn wait_woken(&self, number: usize) {
        (0..number).for_each(|_| self.woken.acquire());
    }

    /// Notifies, and has the next phase begin before anybody can have the lock.
    fn notify(&self, number: usize) {
        let guard = self.condition.lock();
        guard.notify(number).unwrap();
        // Who came back without the lock would do so now.
        (0..10).for_each(|_| thread::yield_now());
        self.next_phase();
    }

    /// Has the lock while nobody was woken.
    fn assert_nobody_woken(&self) {
        (0..10).for_each(|_| thread::yield_now());
        let _guard = self.condition.lock();
        assert!(!self.woken.try_acquire());
    }
}

/// Notifies from wherever it runs.
fn notify(condition: Condition, number: usize) {
    condition.acquire();
    condition.notify(number).unwrap();
    condition.release().unwrap();
}

/// Whether a thread of its own, on the backend at hand, could have the lock.
fn is_free(condition: &Condition) -> bool {
    fn try_acquire(condition: Condition) -> bool {
        let acquired = condition.try_acquire();
        if acquired {
            condition.release().unwrap();
        }
        acquired
    }
    Other::new().run(task!(try_acquire(condition.clone())))
}

/// Whoever calls does not hold the lock.
#[track_caller]
fn assert_errors(ways: Ways, condition: &Condition) {
    for n in 0..4 {
        assert!(ways.of(n).wait(condition).is_err());
        // Also where there would be nothing to wait for.
        assert!(ways.of(n).wait_for(condition, || true).is_err());
    }
    assert!(condition.wait_timeout(Duration::ZERO).is_err());
    assert!(condition.wait_for_timeout(Duration::ZERO, || true).is_err());
    assert!(condition.notify(1).is_err());
    assert!(condition.notify(0).is_err());
    assert!(condition.notify_all().is_err());
    assert!(condition.release().is_err());
}

every_way! {
    fn the_default_lock_is_reentrant(ways) {
        for (n, condition) in [Condition::new(), Condition::default()].into_iter().enumerate() {
            let way = ways.of(n);
            way.acquire(&condition);
            way.acquire(&condition);
            assert!(condition.try_acquire());
            for _ in 0..3 {
                assert!(!is_free(&condition));
                condition.release().unwrap();
            }
            assert!(is_free(&condition));
            assert!(condition.release().is_err());
        }
    }

    fn a_given_lock_is_shared_both_ways(ways) {
        fn use_through_the_lock(lock: Lock, condition: Condition) {
            let guard = lock.lock();
            condition.notify(1).unwrap();
            assert!(!condition.wait_timeout(Duration::ZERO).unwrap());
            drop(guard);
        }
        let lock = Lock::new();
        let condition = Condition::with_lock(&lock);
        for n in 0..4 {
            ways.of(n).acquire(&condition);
            assert!(lock.locked());
            assert!(!lock.try_acquire());
            assert!(!condition.try_acquire());
            condition.release().unwrap();
            assert!(!lock.locked());
        }
        // What was acquired through the one may be released through the other.
        condition.acquire();
        lock.release().unwrap();
        Other::new().run(task!(use_through_the_lock(lock.clone(), condition.clone())));
        lock.acquire();
        condition.release().unwrap();
        lock.acquire();
        assert!(!condition.try_acquire());
        assert!(!condition.acquire_timeout(Duration::from_millis(5)));
        lock.release().unwrap();
        assert!(condition.try_acquire());
        condition.release().unwrap();
    }

    /// A lock does not belong to anybody, but one that has a condition knows who has acquired it.
    fn who_has_acquired_a_given_lock_itself_is_known(ways) {
        fn acquire(way: Way, lock: &Lock) {
            match way {
                Way::Blocking => lock.acquire(),
                Way::Timed => assert!(lock.acquire_timeout(LONG)),
                Way::Async | Way::Tokio => way.run(lock.acquire_async()),
            }
        }
        fn hold(way: Way, lock: Lock, held: Event, end: Event) {
            acquire(way, &lock);
            held.set();
            end.wait();
            lock.release().unwrap();
        }
        let lock = Lock::new();
        let condition = Condition::with_lock(&lock);
        for n in 0..4 {
            let (held, end) = (Event::new(), Event::new());
            let holder = Team::new(1, |_| {
                task!(hold(ways.of(n), lock.clone(), held.clone(), end.clone()))
            });
            held.wait();
            assert_errors(ways, &condition);
            assert!(lock.locked());
            end.set();
            assert_eq!(holder.results(), [()]);
            assert_errors(ways, &condition);
            acquire(ways.of(n), &lock);
            condition.notify_all().unwrap();
            condition.release().unwrap();
            assert!(!lock.locked());
        }
    }

    fn a_given_rlock_nests(ways) {
        let lock = RLock::new();
        let condition = Condition::with_rlock(&lock);
        let outer = condition.lock();
        ways.of(0).acquire(&condition);
        let inner = lock.lock();
        assert_eq!(lock.recursion_count(), 3);
        drop(inner);
        condition.release().unwrap();
        assert!(!is_free(&condition));
        drop(outer);
        assert_eq!(lock.recursion_count(), 0);
        assert!(is_free(&condition));
    }

    /// A wait gives up all levels of a re-entrant lock, and has them again afterwards.
    fn a_wait_gives_up_all_levels_of_the_lock(ways) {
        let lock = RLock::new();
        for condition in [Condition::new(), Condition::with_rlock(&lock)] {
            (0..3).for_each(|_| ways.of(1).acquire(&condition));
            let team = Team::new(1, |_| task!(notify(condition.clone(), 1)));
            ways.of(2).wait(&condition).unwrap();
            assert_eq!(team.results(), [()]);
            for _ in 0..3 {
                assert!(!is_free(&condition));
                condition.release().unwrap();
            }
            assert!(is_free(&condition));
        }
    }

    fn without_the_lock_everything_is_an_error(ways) {
        fn hold(condition: Condition, held: Event, end: Event) {
            let _guard = condition.lock();
            held.set();
            end.wait();
        }
        for condition in conditions() {
            let stage = Stage::new(condition.clone());
            let sleepers = stage.team(2, ways, 1);
            stage.wait_asleep(2);
            drop(condition.lock());
            // Free, with two who wait.
            assert_errors(ways, &condition);
            // Held by somebody else.
            let (held, end) = (Event::new(), Event::new());
            let holder = Team::new(1, |_| task!(hold(condition.clone(), held.clone(), end.clone())));
            held.wait();
            assert_errors(ways, &condition);
            // It still is.
            assert!(!condition.try_acquire());
            end.set();
            assert_eq!(holder.results(), [()]);
            stage.assert_nobody_woken();
            stage.notify(2);
            assert_eq!(sleepers.results(), [[1], [1]]);
        }
    }

    fn notify_wakes_as_many_as_it_says_and_the_oldest_first(ways) {
        for condition in conditions() {
            let stage = Stage::new(condition);
            let team = stage.team(5, ways, 2);
            stage.wait_asleep(5);
            stage.notify(3);
            stage.wait_woken(3);
            // Those three wait again, behind the other two.
            stage.wait_asleep(3);
            stage.assert_nobody_woken();
            stage.notify(2);
            stage.wait_woken(2);
            stage.wait_asleep(2);
            stage.assert_nobody_woken();
            stage.notify(3);
            stage.wait_woken(3);
            stage.assert_nobody_woken();
            stage.notify(2);
            let mut phases = team.results();
            phases.sort();
            assert_eq!(phases, [[1, 3], [1, 3], [1, 3], [2, 4], [2, 4]]);
        }
    }

    fn notify_wakes_those_in_different_waits_together(ways) {
        for condition in conditions() {
            let stage = Stage::new(condition);
            let team = stage.team(5, ways, 2);
            stage.wait_asleep(5);
            stage.notify(3);
            stage.wait_woken(3);
            stage.wait_asleep(3);
            stage.notify(5);
            stage.wait_woken(5);
            stage.wait_asleep(2);
            stage.notify(2);
            let mut phases = team.results();
            phases.sort();
            assert_eq!(phases, [[1, 2], [1, 2], [1, 2], [2, 3], [2, 3]]);
        }
    }

    fn notify_all_wakes_everybody_once(ways) {
        for condition in conditions() {
            let stage = Stage::new(condition.clone());
            let team = stage.team(5, ways, 2);
            for _ in 0..2 {
                stage.wait_asleep(5);
                stage.assert_nobody_woken();
                let guard = condition.lock();
                guard.notify_all().unwrap();
                stage.next_phase();
                drop(guard);
                stage.wait_woken(5);
            }
            assert_eq!(team.results(), [[1, 2]; 5]);
        }
    }

    fn a_notification_that_nobody_waits_for_is_not_kept(ways) {
        let nap = Duration::from_millis(10);
        for condition in conditions() {
            let stage = Stage::new(condition.clone());
            let team = stage.team(1, ways, 1);
            stage.wait_asleep(1);
            // For more than wait.
            stage.notify(3);
            assert_eq!(team.results(), [[1]]);
            condition.acquire();
            assert!(!condition.wait_timeout(nap).unwrap());
            condition.notify(2).unwrap();
            condition.notify_all().unwrap();
            assert!(!condition.wait_timeout(nap).unwrap());
            condition.release().unwrap();
            // The next one wakes for its own notification only.
            let team = stage.team(1, ways, 1);
            stage.wait_woken(1);
            stage.wait_asleep(1);
            stage.assert_nobody_woken();
            stage.notify(1);
            assert_eq!(team.results(), [[2]]);
        }
    }

    fn notify_none_wakes_nobody(ways) {
        for condition in conditions() {
            let stage = Stage::new(condition);
            let team = stage.team(3, ways, 1);
            stage.wait_asleep(3);
            stage.notify(0);
            stage.assert_nobody_woken();
            stage.notify(3);
            assert_eq!(team.results(), [[2]; 3]);
        }
    }

    fn a_wait_that_is_over_has_the_lock(ways) {
        for condition in conditions() {
            let stage = Stage::new(condition.clone());
            let team = stage.team(1, ways, 1);
            stage.wait_asleep(1);
            for timeout in [Duration::ZERO, Duration::from_millis(50)] {
                condition.acquire();
                let start = Instant::now();
                assert!(!condition.wait_timeout(timeout).unwrap());
                assert!(start.elapsed() >= timeout);
                assert!(!is_free(&condition));
                condition.release().unwrap();
            }
            stage.notify(1);
            assert_eq!(team.results(), [[1]]);
            // And one that was notified.
            for n in 0..4 {
                condition.acquire();
                let notifier = Team::new(1, |_| task!(notify(condition.clone(), 1)));
                ways.of(n).wait(&condition).unwrap();
                assert!(!is_free(&condition));
                condition.release().unwrap();
                assert_eq!(notifier.results(), [()]);
            }
        }
    }

    fn a_wait_without_time_still_lets_others_in(ways) {
        fn enter(way: Way, condition: Condition, entered: Event) {
            way.acquire(&condition);
            entered.set();
            condition.release().unwrap();
        }
        for condition in conditions() {
            let entered = Event::new();
            condition.acquire();
            let team = Team::new(1, |n| {
                task!(enter(ways.of(n), condition.clone(), entered.clone()))
            });
            eventually("the other has been let in", || {
                assert!(!condition.wait_timeout(Duration::ZERO).unwrap());
                entered.is_set()
            });
            condition.release().unwrap();
            assert_eq!(team.results(), [()]);
        }
    }

    fn wait_for_waits_until_the_predicate_holds(ways) {
        /// How often the predicate was called.
        fn wait_for(way: Way, stage: Stage) -> usize {
            let mut calls = 0;
            way.acquire(&stage.condition);
            let predicate = || {
                calls += 1;
                stage.asleep.release().unwrap();
                stage.phase() == 4
            };
            way.wait_for(&stage.condition, predicate).unwrap();
            stage.condition.release().unwrap();
            calls
        }
        for condition in conditions() {
            let stage = Stage::new(condition);
            let team = Team::new(2, |n| task!(wait_for(ways.of(n), stage.clone())));
            for _ in 0..4 {
                stage.wait_asleep(2);
                assert!(team.all_busy());
                stage.notify(2);
            }
            assert_eq!(team.results(), [5, 5]);
        }
    }

    fn wait_for_what_holds_never_lets_go_of_the_lock(ways) {
        fn enter(way: Way, condition: Condition, begun: Event, entered: Event) {
            begun.set();
            way.acquire(&condition);
            entered.set();
            condition.release().unwrap();
        }
        for condition in conditions() {
            let (begun, entered) = (Event::new(), Event::new());
            condition.acquire();
            let team = Team::new(2, |n| {
                task!(enter(ways.of(n), condition.clone(), begun.clone(), entered.clone()))
            });
            begun.wait();
            for n in 0..100 {
                let mut calls = 0;
                let predicate = || {
                    calls += 1;
                    true
                };
                ways.of(n).wait_for(&condition, predicate).unwrap();
                assert_eq!(calls, 1);
                assert!(!entered.is_set());
            }
            condition.release().unwrap();
            assert_eq!(team.results(), [(), ()]);
        }
    }

    fn wait_for_in_vain_ends_with_its_time(ways) {
        for condition in conditions() {
            let over = Event::new();
            let team = Team::new(1, |n| {
                task!(disturb(ways.of(n), condition.clone(), over.clone()))
            });
            let mut timeout = Duration::from_millis(100);
            let mut guard = condition.lock();
            loop {
                let start = Instant::now();
                let mut calls = 0;
                let held = guard.wait_for_timeout(timeout, || {
                    calls += 1;
                    false
                });
                assert!(!held.unwrap());
                let elapsed = start.elapsed();
                assert!(timeout <= elapsed, "{elapsed:?}");
                // Who disturbs may have had no chance to do so in time, or the machine stood still for a while.
                if calls > 2 && elapsed < 10 * timeout {
                    break;
                }
                timeout *= 2;
            }
            drop(guard);
            over.set();
            assert_eq!(team.results(), [()]);
        }
    }

    fn the_predicate_has_the_lock(ways) {
        /// Holds the lock for a while, again and again, and says so meanwhile.
        fn hold(way: Way, condition: Condition, inside: Event, over: Event) {
            while !over.is_set() {
                way.acquire(&condition);
                inside.set();
                thread::yield_now();
                inside.clear();
                condition.notify_all().unwrap();
                condition.release().unwrap();
            }
        }
        for condition in conditions() {
            let (inside, over) = (Event::new(), Event::new());
            let team = Team::new(2, |n| {
                task!(hold(ways.of(n), condition.clone(), inside.clone(), over.clone()))
            });
            let mut calls = 0;
            ways.of(2).acquire(&condition);
            let predicate = || {
                assert!(!inside.is_set());
                calls += 1;
                calls == 100
            };
            ways.of(2).wait_for(&condition, predicate).unwrap();
            assert!(!inside.is_set());
            condition.release().unwrap();
            over.set();
            assert_eq!(team.results(), [(), ()]);
        }
    }

    fn a_predicate_that_panics_leaves_the_condition_in_order(ways) {
        for condition in conditions() {
            let way = ways.of(0);
            for panics_at in [1, 2] {
                let over = Event::new();
                let team = Team::new(1, |n| {
                    task!(disturb(ways.of(n), condition.clone(), over.clone()))
                });
                let panicked = catch_unwind(AssertUnwindSafe(|| {
                    let mut guard = condition.lock();
                    let mut calls = 0;
                    let predicate = || {
                        calls += 1;
                        assert_ne!(calls, panics_at);
                        false
                    };
                    match way {
                        Way::Blocking => guard.wait_for(predicate).unwrap(),
                        Way::Timed => assert!(guard.wait_for_timeout(LONG, predicate).unwrap()),
                        _ => way.run(guard.wait_for_async(predicate)).unwrap(),
                    }
                }));
                assert!(panicked.is_err());
                over.set();
                assert_eq!(team.results(), [()]);
                assert!(is_free(&condition));
            }
            let stage = Stage::new(condition);
            let team = stage.team(2, ways, 1);
            stage.wait_asleep(2);
            stage.notify(2);
            assert_eq!(team.results(), [[1], [1]]);
        }
    }

    fn a_predicate_may_use_its_condition(ways) {
        /// Two do this, and each wakes the other from within its predicate; gives how often that was called.
        fn converse(way: Way, condition: Condition, nests: bool) -> usize {
            let mut calls = 0;
            way.acquire(&condition);
            let predicate = || {
                calls += 1;
                let text = format!("{condition:?}");
                assert!(text.contains("waiters"), "{text}");
                assert_eq!(condition.try_acquire(), nests);
                if nests {
                    condition.acquire();
                    assert!(condition.acquire_timeout(Duration::ZERO));
                    drop(condition.lock());
                    (0..3).for_each(|_| condition.release().unwrap());
                }
                match calls % 2 {
                    0 => condition.notify(1).unwrap(),
                    _ => condition.notify_all().unwrap(),
                }
                calls == 50
            };
            way.wait_for(&condition, predicate).unwrap();
            condition.release().unwrap();
            assert!(condition.release().is_err());
            calls
        }
        for (condition, nests) in conditions().into_iter().zip([true, false, true]) {
            let team = Team::new(2, |n| task!(converse(ways.of(n), condition.clone(), nests)));
            assert_eq!(team.results(), [50, 50]);
            assert!(is_free(&condition));
        }
    }

    fn a_predicate_that_lets_its_lock_go_gets_an_error(ways) {
        for condition in conditions() {
            let way = ways.of(0);
            way.acquire(&condition);
            let mut calls = 0;
            let waited = {
                let predicate = || {
                    calls += 1;
                    condition.release().unwrap();
                    false
                };
                match way {
                    Way::Blocking => condition.wait_for(predicate),
                    Way::Timed => condition.wait_for_timeout(LONG, predicate).map(|_| ()),
                    _ => way.run(condition.wait_for_async(predicate)),
                }
            };
            assert!(waited.is_err());
            assert_eq!(calls, 1);
            assert!(is_free(&condition));
        }
    }

    fn a_condition_is_shared_and_not_copied(ways) {
        /// Takes turns: waits until the number of the turn has this parity.
        fn play(way: Way, stage: Stage, turns: Semaphore, parity: usize) {
            for _ in 0..50 {
                way.acquire(&stage.condition);
                way.wait_for(&stage.condition, || stage.phase() == parity).unwrap();
                turns.release().unwrap();
                match parity {
                    0 => stage.phases[0].set(),
                    _ => stage.phases[0].clear(),
                }
                stage.condition.notify(1).unwrap();
                stage.condition.release().unwrap();
            }
        }
        for condition in conditions() {
            let (stage, turns) = (Stage::new(condition), Semaphore::new(0));
            let team = Team::new(2, |n| {
                task!(play(ways.of(n), stage.clone(), turns.clone(), n))
            });
            assert_eq!(team.results(), [(), ()]);
            (0..100).for_each(|_| assert!(turns.try_acquire()));
            assert!(!turns.try_acquire());
        }
    }
}

/// Notifies again and again.
fn disturb(way: Way, condition: Condition, over: Event) {
    while !over.is_set() {
        way.acquire(&condition);
        condition.notify_all().unwrap();
        condition.release().unwrap();
        thread::sleep(Duration::from_millis(1));
    }
}

freethreading::test_backends! {
    #[test]
    fn an_error_of_a_condition_is_an_error_of_the_crate() {
        fn fails() -> Result<(), Error> {
            Condition::new().notify(1)?;
            Ok(())
        }
        assert!(matches!(fails(), Err(Error::NotOwned)));
    }

    /// A time limit that ends while one of two waiters is notified: it is one of them who is woken.
    #[test]
    fn a_notification_is_never_lost_on_who_gives_up() {
        /// Waits without a limit, whenever it is told to.
        fn wait_patiently(way: Way, stage: Stage, go: Semaphore) {
            loop {
                go.acquire();
                way.acquire(&stage.condition);
                if stage.phase() > 0 {
                    return stage.condition.release().unwrap();
                }
                stage.asleep.release().unwrap();
                way.wait(&stage.condition).unwrap();
                stage.woken.release().unwrap();
                stage.condition.release().unwrap();
            }
        }
        /// Waits once, until the instant; says whether it was notified.
        fn wait_until(asynchronous: bool, stage: &Stage, go: &Semaphore, limit: Instant) -> bool {
            stage.condition.acquire();
            // The other one cannot wait before this one does, who is therefore chosen first.
            go.release().unwrap();
            let woken = if asynchronous {
                let mut wait = Hand::waiting(stage.condition.wait_async());
                spin_until(limit);
                // Chosen or not, it goes unless it has the lock.
                wait.poll().is_ready()
            } else {
                let left = limit.saturating_duration_since(Instant::now());
                stage.condition.wait_timeout(left).unwrap()
            };
            if woken || !asynchronous {
                stage.condition.release().unwrap();
            }
            woken
        }
        watched(|| {
            for (condition, asynchronous) in conditions().into_iter().zip([false, true, true]) {
                for way in [Way::Blocking, Way::Async] {
                    let (stage, go) = (Stage::new(condition.clone()), Semaphore::new(0));
                    let team = Team::new(1, |_| {
                        task!(wait_patiently(way, stage.clone(), go.clone()))
                    });
                    let mut delay = Duration::from_micros(300);
                    for round in 0..200 {
                        let start = Instant::now();
                        let first = thread::scope(|scope| {
                            scope.spawn(|| {
                                stage.wait_asleep(1);
                                spin_until(start + Duration::from_micros(300));
                                notify(condition.clone(), 1);
                            });
                            wait_until(asynchronous, &stage, &go, start + delay)
                        });
                        // The next time it is to be the other way round.
                        let step = Duration::from_micros(5 + round % 7);
                        if first {
                            delay = delay.saturating_sub(step);
                            stage.assert_nobody_woken();
                            notify(condition.clone(), 1);
                        } else {
                            delay += step;
                        }
                        stage.wait_woken(1);
                    }
                    stage.next_phase();
                    go.release().unwrap();
                    assert_eq!(team.results(), [()]);
                }
            }
        });
    }

    #[test]
    fn guards_release_when_they_go() {
        watched(|| {
            for condition in conditions() {
                drop(condition.lock());
                assert!(is_free(&condition));
                drop(condition.try_lock().unwrap());
                assert!(is_free(&condition));
                drop(condition.lock_timeout(LONG).unwrap());
                assert!(is_free(&condition));
                drop(Way::Tokio.run(condition.lock_async()));
                assert!(is_free(&condition));
                let panicked = catch_unwind(AssertUnwindSafe(|| {
                    let _guard = condition.lock();
                    panic!("in the middle");
                }));
                assert!(panicked.is_err());
                assert!(is_free(&condition));
                // One that was released before has nothing to release.
                let guard = condition.lock();
                condition.release().unwrap();
                drop(guard);
                assert!(is_free(&condition));
                condition.lock().release().unwrap();
                assert!(is_free(&condition));
                let guard = condition.lock();
                condition.release().unwrap();
                assert!(guard.release().is_err());
                let mut guard = condition.lock();
                drop(Hand::waiting(guard.wait_async()));
                assert!(guard.release().is_err());
            }
        });
    }

    #[test]
    fn who_cannot_have_the_lock_gets_no_guard() {
        fn try_in_vain(condition: Condition) {
            assert!(condition.try_lock().is_none());
            let (timeout, start) = (Duration::from_millis(20), Instant::now());
            assert!(condition.lock_timeout(timeout).is_none());
            assert!(!condition.acquire_timeout(timeout));
            assert!(start.elapsed() >= 2 * timeout);
            assert!(!condition.acquire_timeout(Duration::ZERO));
            let mut guard = Hand::waiting(condition.lock_async());
            assert!(guard.poll().is_pending());
        }
        watched(|| {
            for condition in conditions() {
                let _guard = condition.lock();
                Other::new().run(task!(try_in_vain(condition.clone())));
            }
        });
    }

    #[test]
    fn guards_wait_and_notify() {
        fn notify_by_guard(way: Way, stage: Stage) {
            stage.wait_asleep(1);
            let guard = way.run(stage.condition.lock_async());
            stage.next_phase();
            guard.notify_all().unwrap();
        }
        watched(|| {
            for condition in conditions() {
                let stage = Stage::new(condition.clone());
                for way in Way::ALL {
                    let team = Team::new(1, |_| task!(notify_by_guard(way, stage.clone())));
                    let mut guard = condition.lock();
                    stage.asleep.release().unwrap();
                    match way {
                        Way::Blocking => guard.wait().unwrap(),
                        Way::Timed => assert!(guard.wait_timeout(LONG).unwrap()),
                        Way::Async => way.run(guard.wait_async()).unwrap(),
                        Way::Tokio => {
                            // The predicate need not be called before the worker is there.
                            let holds = || stage.phase() == 4;
                            way.run(guard.wait_for_async(holds)).unwrap();
                        }
                    }
                    assert!(!guard.wait_timeout(Duration::ZERO).unwrap());
                    assert!(!guard.wait_for_timeout(Duration::ZERO, || false).unwrap());
                    guard.wait_for(|| true).unwrap();
                    assert!(!is_free(&condition));
                    drop(guard);
                    assert!(is_free(&condition));
                    assert_eq!(team.results(), [()]);
                }
            }
        });
    }

    #[test]
    fn a_condition_says_what_it_is_whoever_has_the_lock() {
        watched(|| {
            for condition in conditions() {
                let free = format!("{condition:?}");
                assert!(free.contains("Condition"), "{free}");
                let _guard = condition.lock();
                assert_ne!(format!("{condition:?}"), free);
                thread::scope(|scope| {
                    scope.spawn(|| assert_ne!(format!("{condition:?}"), free));
                });
            }
        });
    }

    #[test]
    fn a_pending_wait_is_woken_by_its_notification_only() {
        watched(|| {
            let other = Other::new();
            for condition in conditions() {
                condition.acquire();
                let mut wait = Hand::waiting(condition.wait_async());
                // The lock was given up.
                assert!(is_free(&condition));
                assert!(wait.poll().is_pending());
                other.run(task!(notify(condition.clone(), 0)));
                assert!(wait.poll().is_pending());
                other.run(task!(notify(condition.clone(), 1)));
                wait.wait_woken();
                wait.ready().unwrap();
                assert!(!is_free(&condition));
                condition.release().unwrap();
            }
        });
    }

    #[test]
    fn a_notified_wait_is_pending_until_it_has_the_lock() {
        watched(|| {
            for condition in conditions() {
                // In a thread of its own, since this one holds the lock in between.
                let (go, went) = (mpsc::channel(), mpsc::channel());
                thread::scope(|scope| {
                    let condition = &condition;
                    scope.spawn(move || {
                        condition.acquire();
                        let mut wait = Hand::waiting(condition.wait_async());
                        went.0.send(()).unwrap();
                        go.1.recv().unwrap();
                        assert!(wait.poll().is_pending());
                        went.0.send(()).unwrap();
                        wait.finish().unwrap();
                        condition.release().unwrap();
                    });
                    went.1.recv().unwrap();
                    let guard = condition.lock();
                    guard.notify(1).unwrap();
                    go.0.send(()).unwrap();
                    went.1.recv().unwrap();
                });
                assert!(is_free(&condition));
            }
        });
    }

    #[test]
    fn a_wait_that_is_dropped_is_not_notified() {
        watched(|| {
            for condition in conditions() {
                for way in Way::ALL {
                    condition.acquire();
                    let dropped = Hand::waiting(condition.wait_async());
                    let stage = Stage::new(condition.clone());
                    let team = stage.team(1, Ways::All(way), 1);
                    stage.wait_asleep(1);
                    drop(condition.lock());
                    drop(dropped);
                    // Nobody has the lock, least of all who has dropped the wait.
                    assert!(condition.release().is_err());
                    assert!(is_free(&condition));
                    stage.notify(1);
                    assert_eq!(team.results(), [[1]]);
                    assert!(is_free(&condition));
                }
            }
        });
    }

    #[test]
    fn the_notification_of_a_wait_that_is_dropped_goes_to_the_next() {
        watched(|| {
            let other = Other::new();
            for condition in conditions() {
                for way in Way::ALL {
                    condition.acquire();
                    let dropped = Hand::waiting(condition.wait_async());
                    let stage = Stage::new(condition.clone());
                    let team = stage.team(2, Ways::All(way), 1);
                    stage.wait_asleep(2);
                    stage.next_phase();
                    other.run(task!(notify(condition.clone(), 1)));
                    dropped.wait_woken();
                    stage.assert_nobody_woken();
                    drop(dropped);
                    assert!(condition.release().is_err());
                    // One of the two, not both.
                    stage.wait_woken(1);
                    stage.assert_nobody_woken();
                    stage.notify(1);
                    let mut phases = team.results();
                    phases.sort();
                    assert_eq!(phases, [[1], [2]]);
                    assert!(is_free(&condition));
                }
            }
        });
    }

    #[test]
    fn a_notification_is_passed_on_whatever_becomes_of_the_waker() {
        watched(|| {
            let condition = Condition::with_lock(&Lock::new());
            let begin = |waker: &Waker| {
                condition.acquire();
                let mut wait = Box::pin(condition.wait_async());
                let polled = wait.as_mut().poll(&mut Context::from_waker(waker));
                assert!(polled.is_pending());
                wait
            };
            let waker = fragile(|| ());
            let mut first = begin(&waker);
            let mut second = begin(Waker::noop());
            condition.acquire();
            condition.notify(1).unwrap();
            // It is in line for the lock now.
            let polled = first.as_mut().poll(&mut Context::from_waker(&waker));
            assert!(polled.is_pending());
            drop(first);
            condition.release().unwrap();
            assert!(second.as_mut().now_or_never().unwrap().is_ok());
        });
    }

    #[test]
    fn a_wait_whose_lock_goes_as_it_begins_is_an_error_whatever_becomes_of_the_waker() {
        watched(|| {
            let lock = Lock::new();
            let condition = Condition::with_lock(&lock);
            condition.acquire();
            let waker = fragile(move || lock.release().unwrap());
            let mut wait = Box::pin(condition.wait_async());
            let polled = wait.as_mut().poll(&mut Context::from_waker(&waker));
            assert!(matches!(polled, Poll::Ready(Err(_))));
            drop(wait);
            condition.acquire();
            condition.notify_all().unwrap();
        });
    }

    #[test]
    fn a_notification_is_passed_on_to_nobody_who_came_later() {
        watched(|| {
            let other = Other::new();
            let condition_waits = |condition: &Condition| {
                condition.acquire();
                let condition = condition.clone();
                Hand::waiting(async move { condition.wait_async().await })
            };
            for condition in conditions() {
                for (count, on_its_way) in
                    [(1, false), (usize::MAX, false), (1, true), (usize::MAX, true)]
                {
                    let mut dropped = condition_waits(&condition);
                    let also_dropped = (count > 1).then(|| condition_waits(&condition));
                    other.run(task!(notify(condition.clone(), count)));
                    dropped.wait_woken();
                    let later = condition_waits(&condition);
                    condition.acquire();
                    if on_its_way {
                        assert!(dropped.poll().is_pending());
                    }
                    drop((dropped, also_dropped));
                    condition.release().unwrap();
                    assert!(!later.woken());
                    other.run(task!(notify(condition.clone(), 1)));
                    later.finish().unwrap();
                    condition.release().unwrap();
                    assert!(is_free(&condition));
                }
            }
        });
    }

    /// As if the one that gives up had done so a moment earlier: then the first notification would have been the second
    /// one's, and the second the third one's.
    #[test]
    fn two_notifications_reach_two_though_one_was_notified_and_gives_up() {
        watched(|| {
            let other = Other::new();
            for condition in conditions() {
                let wait = || {
                    condition.acquire();
                    Hand::waiting(condition.wait_async())
                };
                let (first, mut second) = (wait(), wait());
                other.run(task!(notify(condition.clone(), 1)));
                let mut third = wait();
                other.run(task!(notify(condition.clone(), 1)));
                let mut late = wait();
                drop(first);
                for waiting in [&mut second, &mut third] {
                    waiting.wait_woken();
                    waiting.ready().unwrap();
                    condition.release().unwrap();
                }
                // Who came after both has no part in them.
                drop((second, third));
                assert!(late.poll().is_pending());
                other.run(task!(notify(condition.clone(), 1)));
                late.wait_woken();
                late.ready().unwrap();
                condition.release().unwrap();
            }
        });
    }

    #[test]
    fn a_wait_that_is_dropped_on_its_way_to_the_lock_passes_its_notification_on() {
        fn hold_and_notify(condition: Condition, notified: Event, end: Event) {
            let guard = condition.lock();
            guard.notify(1).unwrap();
            notified.set();
            end.wait();
        }
        watched(|| {
            for condition in conditions() {
                for way in Way::ALL {
                    condition.acquire();
                    let mut dropped = Hand::waiting(condition.wait_async());
                    let stage = Stage::new(condition.clone());
                    let team = stage.team(1, Ways::All(way), 1);
                    stage.wait_asleep(1);
                    let (notified, end) = (Event::new(), Event::new());
                    let holder = Team::new(1, |_| {
                        task!(hold_and_notify(condition.clone(), notified.clone(), end.clone()))
                    });
                    notified.wait();
                    // It was chosen, and now it waits for the lock.
                    assert!(dropped.poll().is_pending());
                    drop(dropped);
                    end.set();
                    assert_eq!(holder.results(), [()]);
                    assert_eq!(team.results(), [[0]]);
                    assert!(is_free(&condition));
                }
            }
        });
    }

    #[test]
    fn a_wait_that_panics_before_it_begins_still_has_the_lock() {
        watched(|| {
            for condition in conditions() {
                let mut guard = condition.lock();
                let polled = catch_unwind(AssertUnwindSafe(|| {
                    let mut context = Context::from_waker(unclonable());
                    pin!(guard.wait_async()).poll(&mut context).is_pending()
                }));
                assert!(polled.is_err());
                assert!(!is_free(&condition));
                guard.notify_all().unwrap();
                drop(guard);
                assert!(is_free(&condition));
            }
        });
    }

    /// Polled again, it must not wait for what nobody has promised.
    #[test]
    fn a_wait_that_is_over_is_in_no_line() {
        fn is_over<T>(mut wait: impl Future<Output = Result<(), T>> + Unpin) -> bool {
            assert!((&mut wait).now_or_never().is_some_and(|waited| waited.is_err()));
            let again = AssertUnwindSafe(|| (&mut wait).now_or_never());
            catch_unwind(again).is_err()
        }
        watched(|| {
            for condition in conditions() {
                assert!(is_over(condition.wait_async()));
                let mut guard = condition.lock();
                condition.release().unwrap();
                assert!(is_over(guard.wait_async()));
                drop(guard);
                let waiters = format!("{condition:?}");
                assert!(waiters.contains("waiters: 0"), "{waiters}");
            }
        });
    }

    #[test]
    fn of_all_that_are_notified_one_that_is_not_polled_holds_up_nobody() {
        watched(|| {
            let other = Other::new();
            for condition in conditions() {
                let mut waits = [0; 3].map(|_| {
                    condition.acquire();
                    Hand::waiting(condition.wait_async())
                });
                other.run(task!(notify(condition.clone(), usize::MAX)));
                waits[2].wait_woken();
                waits[2].ready().unwrap();
                condition.release().unwrap();
                waits[1].wait_woken();
                waits[1].ready().unwrap();
                condition.release().unwrap();
                waits[0].ready().unwrap();
                condition.release().unwrap();
            }
        });
    }

    #[test]
    fn a_wait_that_was_never_polled_still_has_the_lock() {
        watched(|| {
            for condition in conditions() {
                condition.acquire();
                drop(condition.wait_async());
                assert!(!is_free(&condition));
                condition.release().unwrap();
                assert!(is_free(&condition));
            }
        });
    }

    #[test]
    fn a_guard_whose_wait_is_dropped_has_no_lock() {
        watched(|| {
            for condition in conditions() {
                let mut guard = condition.lock();
                drop(Hand::waiting(guard.wait_async()));
                assert!(is_free(&condition));
                assert!(guard.notify(1).is_err());
                assert!(guard.notify_all().is_err());
                assert!(guard.wait().is_err());
                assert!(guard.wait_timeout(Duration::ZERO).is_err());
                assert!(guard.wait_for(|| true).is_err());
                assert!(guard.wait_async().now_or_never().unwrap().is_err());
                assert!(guard.wait_for_async(|| true).now_or_never().unwrap().is_err());
                // Its end does not take the lock from who has it now.
                let other = condition.lock();
                drop(guard);
                assert!(!is_free(&condition));
                drop(other);
                assert!(is_free(&condition));
                // The same for one that waits for a predicate.
                let mut guard = condition.lock();
                drop(Hand::waiting(guard.wait_for_async(|| false)));
                assert!(is_free(&condition));
                assert!(guard.notify(1).is_err());
            }
        });
    }

    #[test]
    fn a_wait_that_nobody_polls_stops_nobody_else() {
        watched(|| {
            let other = Other::new();
            for condition in conditions() {
                condition.acquire();
                let mut left = Hand::waiting(condition.wait_async());
                let stage = Stage::new(condition.clone());
                let team = stage.team(2, Ways::Mixed, 1);
                stage.wait_asleep(2);
                // The oldest is chosen, and does not come for the lock.
                for _ in 0..3 {
                    other.run(task!(notify(condition.clone(), 1)));
                }
                assert_eq!(team.results(), [[0], [0]]);
                left.wait_woken();
                left.ready().unwrap();
                condition.release().unwrap();
            }
        });
    }

    #[test]
    fn waits_are_woken_first_come_first_served() {
        watched(|| {
            let other = Other::new();
            for condition in conditions() {
                let mut waits: Vec<_> = (0..3)
                    .map(|_| {
                        condition.acquire();
                        Hand::waiting(condition.wait_async())
                    })
                    .collect();
                while !waits.is_empty() {
                    other.run(task!(notify(condition.clone(), 1)));
                    let mut first = waits.remove(0);
                    first.wait_woken();
                    assert!(!waits.iter().any(Hand::woken));
                    first.ready().unwrap();
                    condition.release().unwrap();
                }
            }
        });
    }

    #[test]
    fn only_the_last_waker_is_woken() {
        watched(|| {
            let other = Other::new();
            for condition in conditions() {
                condition.acquire();
                let mut wait = Hand::new(condition.wait_async());
                let (first, last) = (Wakes::new(), Wakes::new());
                for wakes in [&first, &first, &last] {
                    assert!(wait.poll_with(&Waker::from(Arc::clone(wakes))).is_pending());
                }
                other.run(task!(notify(condition.clone(), 1)));
                eventually("the last waker is woken", || last.count() > 0);
                assert_eq!((first.count(), last.count()), (0, 1));
                wait.ready().unwrap();
                condition.release().unwrap();
            }
        });
    }

    #[test]
    fn only_the_last_waker_of_a_wait_for_something_is_woken() {
        watched(|| {
            let other = Other::new();
            for condition in conditions() {
                condition.acquire();
                let holds = AtomicBool::new(false);
                let mut wait = Hand::new(condition.wait_for_async(|| holds.load(Ordering::SeqCst)));
                let (first, last, next) = (Wakes::new(), Wakes::new(), Wakes::new());
                for wakes in [&first, &first, &last] {
                    assert!(wait.poll_with(&Waker::from(Arc::clone(wakes))).is_pending());
                }
                // Too early: it goes on to wait, with the waker of that poll.
                other.run(task!(notify(condition.clone(), 1)));
                eventually("the last waker is woken", || last.count() > 0);
                assert!(wait.poll_with(&Waker::from(Arc::clone(&next))).is_pending());
                holds.store(true, Ordering::SeqCst);
                other.run(task!(notify(condition.clone(), 1)));
                eventually("the next waker is woken", || next.count() > 0);
                assert_eq!((first.count(), last.count(), next.count()), (0, 1, 1));
                wait.ready().unwrap();
                drop(wait);
                condition.release().unwrap();
            }
        });
    }

    #[test]
    fn a_waker_may_use_the_condition() {
        watched(|| {
            for condition in conditions() {
                let other = condition.clone();
                let waker = Meddling::new(move || {
                    if other.try_acquire() {
                        other.notify_all().unwrap();
                        other.release().unwrap();
                    } else {
                        // Nobody notifies twice, but who holds the lock may.
                        let _ = other.notify_all();
                    }
                });
                condition.acquire();
                let mut first = Hand::new(condition.wait_async());
                assert!(first.poll_with(&Waker::from(Arc::clone(&waker))).is_pending());
                condition.acquire();
                let mut second = Hand::waiting(condition.wait_async());
                notify(condition.clone(), 1);
                eventually("woken", || waker.count() > 0);
                drop(waker);
                // Its waker has notified all, here or on the thread that wakes.
                second.wait_woken();
                second.ready().unwrap();
                condition.release().unwrap();
                first.ready().unwrap();
                condition.release().unwrap();
            }
        });
    }

    #[test]
    fn a_waker_that_panics_harms_nobody_else() {
        watched(|| {
            let other = Other::new();
            for condition in conditions() {
                condition.acquire();
                let mut first = Hand::new(condition.wait_async());
                assert!(first.poll_with(&Waker::from(Arc::new(Panicking))).is_pending());
                condition.acquire();
                let mut second = Hand::waiting(condition.wait_async());
                notify(condition.clone(), 1);
                other.run(task!(notify(condition.clone(), 1)));
                second.wait_woken();
                for wait in [&mut second, &mut first] {
                    wait.ready().unwrap();
                    condition.release().unwrap();
                }
            }
        });
    }

    #[test]
    fn blocking_calls_stall_a_runtime_but_work_there() {
        watched(|| {
            for condition in conditions() {
                current_thread().block_on(async {
                    let mut guard = condition.lock();
                    let team = Team::new(1, |_| task!(notify(condition.clone(), 1)));
                    guard.wait().unwrap();
                    assert!(!guard.wait_timeout(Duration::from_millis(1)).unwrap());
                    assert_eq!(team.results(), [()]);
                });
            }
        });
    }

    #[test]
    fn a_wait_keeps_its_condition_alive() {
        watched(|| {
            let other = Other::new();
            for condition in conditions() {
                condition.acquire();
                let own = condition.clone();
                let mut wait = Hand::waiting(
                    async move {
                        own.wait_async().await.unwrap();
                        own.release().unwrap();
                    }
                    .boxed(),
                );
                other.run(task!(notify(condition, 1)));
                wait.wait_woken();
                wait.ready();
            }
        });
    }

    #[test]
    fn a_thousand_waits_need_no_thread_each() {
        fn notify_all(condition: Condition) {
            let guard = condition.lock();
            guard.notify_all().unwrap();
        }
        watched(|| {
            for condition in conditions() {
                current_thread().block_on(async {
                    let mut waits: Vec<_> = (0..1000)
                        .map(|_| {
                            condition.acquire();
                            Hand::waiting(condition.wait_async())
                        })
                        .collect();
                    let mut interval = tokio::time::interval(Duration::from_millis(1));
                    for _ in 0..5 {
                        interval.tick().await;
                    }
                    // Other tests have some, too.
                    assert!(threads() < 500);
                    // Those that are dropped leave no trace.
                    waits.truncate(500);
                    Other::new().run(task!(notify_all(condition.clone())));
                    let mut finished = 0;
                    for wait in waits {
                        wait.finish().unwrap();
                        condition.release().unwrap();
                        finished += 1;
                    }
                    assert_eq!(finished, 500);
                    assert!(is_free(&condition));
                });
            }
        });
    }

    #[test]
    fn tasks_of_one_runtime_wait_and_notify() {
        watched(|| {
            for condition in conditions() {
                let arrived = Arc::new(AtomicUsize::new(0));
                current_thread().block_on(async {
                    let waiters: Vec<_> = (0..10)
                        .map(|_| {
                            let (condition, arrived) = (condition.clone(), Arc::clone(&arrived));
                            tokio::spawn(async move {
                                let mut guard = condition.lock_async().await;
                                arrived.fetch_add(1, Ordering::SeqCst);
                                guard.wait_async().await.unwrap();
                            })
                        })
                        .collect();
                    while arrived.load(Ordering::SeqCst) < 10 {
                        tokio::task::yield_now().await;
                    }
                    let guard = condition.lock_async().await;
                    guard.notify_all().unwrap();
                    drop(guard);
                    for result in join_all(waiters).await {
                        result.unwrap();
                    }
                });
                assert!(is_free(&condition));
            }
        });
    }

    #[test]
    fn a_task_that_is_not_the_owner_cannot_notify() {
        watched(|| {
            for condition in conditions() {
                current_thread().block_on(async {
                    let guard = condition.lock_async().await;
                    let other = condition.clone();
                    let refused = tokio::spawn(async move {
                        other.notify(1).is_err() && other.wait_async().await.is_err()
                    });
                    assert!(refused.await.unwrap());
                    guard.notify(1).unwrap();
                });
            }
        });
    }

    #[test]
    fn a_guard_may_move_to_another_thread() {
        fn is_send<T: Send>(value: T) -> T {
            value
        }
        watched(|| {
            // A re-entrant lock belongs to a thread, unless there are tasks.
            let condition = Condition::with_lock(&Lock::new());
            let guard = is_send(condition.lock());
            thread::scope(|scope| {
                scope.spawn(move || drop(guard));
            });
            assert!(is_free(&condition));
        });
    }

    #[test]
    fn waits_left_at_random_lose_no_notification() {
        /// Waits for notifications, with and without patience.
        fn wait_impatiently(condition: Condition, got: Semaphore, over: Event) {
            let mut random = Random::new();
            while !over.is_set() {
                condition.acquire();
                let patience = Duration::from_micros(random.below(300) as u64);
                let woken = if random.below(2) == 0 {
                    let woken = condition.wait_timeout(patience).unwrap();
                    condition.release().unwrap();
                    woken
                } else {
                    let mut wait = Hand::new(condition.wait_async());
                    let limit = Instant::now() + patience;
                    loop {
                        if wait.poll().is_ready() {
                            condition.release().unwrap();
                            break true;
                        }
                        if Instant::now() > limit {
                            break false;
                        }
                        thread::yield_now();
                    }
                };
                if woken {
                    got.release().unwrap();
                }
            }
        }
        /// Waits for notifications, however long it takes.
        fn wait_patiently(way: Way, stage: Stage) {
            way.acquire(&stage.condition);
            loop {
                stage.asleep.release().unwrap();
                way.wait(&stage.condition).unwrap();
                if stage.phase() > 0 {
                    return stage.condition.release().unwrap();
                }
                stage.woken.release().unwrap();
            }
        }
        watched(|| {
            for condition in conditions() {
                let (stage, over) = (Stage::new(condition.clone()), Event::new());
                let patient = Team::new(1, |_| task!(wait_patiently(Way::Blocking, stage.clone())));
                let impatient = Team::new(2, |_| {
                    task!(wait_impatiently(condition.clone(), stage.woken.clone(), over.clone()))
                });
                stage.wait_asleep(1);
                drop(condition.lock());
                for _ in 0..300 {
                    // There is always one who waits, so each notification wakes exactly one.
                    notify(condition.clone(), 1);
                    stage.wait_woken(1);
                }
                over.set();
                assert_eq!(impatient.results(), [(), ()]);
                stage.assert_nobody_woken();
                stage.notify(1);
                assert_eq!(patient.results(), [()]);
            }
        });
    }
}

#[test]
fn a_condition_may_be_dropped_in_any_state() {
    watched(|| {
        for condition in conditions() {
            condition.acquire();
        }
        for condition in conditions() {
            std::mem::forget(condition.lock());
        }
        for condition in conditions() {
            condition.acquire();
            std::mem::forget(Hand::waiting(async move { condition.wait_async().await }));
        }
    });
}

// -- Guards of one owner

/// Conditions over re-entrant locks; with the lock, if guards are to be its own.
fn reentrant() -> [(Condition, Option<RLock>); 2] {
    let lock = RLock::new();
    [
        (Condition::new(), None),
        (Condition::with_rlock(&lock), Some(lock)),
    ]
}

/// One more guard of the caller's.
fn another<'a>(condition: &'a Condition, lock: &'a Option<RLock>) -> Box<dyn Send + 'a> {
    match lock {
        Some(lock) => Box::new(lock.lock()),
        None => Box::new(condition.lock()),
    }
}

#[test]
fn a_guard_that_is_dropped_while_its_owner_waits_takes_its_level_along() {
    watched(|| {
        for (condition, lock) in reentrant() {
            for notified in [false, true] {
                let mut guard = condition.lock();
                let sent = another(&condition, &lock);
                thread::scope(|scope| {
                    scope.spawn(|| {
                        // Its owner waits, since this one has the lock.
                        let other = condition.lock();
                        if notified {
                            other.notify(1).unwrap();
                            drop(sent);
                        } else {
                            drop(sent);
                            other.notify(1).unwrap();
                        }
                    });
                    guard.wait().unwrap();
                    guard.notify(1).unwrap();
                    assert!(!is_free(&condition));
                    drop(guard);
                    assert!(is_free(&condition));
                });
            }
        }
    });
}

#[test]
fn a_guard_that_its_owner_waits_without_may_be_the_last_one() {
    watched(|| {
        for (condition, lock) in reentrant() {
            let sent = another(&condition, &lock);
            thread::scope(|scope| {
                scope.spawn(|| {
                    let other = condition.lock();
                    drop(sent);
                    other.notify(1).unwrap();
                });
                condition.wait().unwrap();
                assert!(condition.notify(1).is_err());
                assert!(is_free(&condition));
            });
        }
    });
}

#[test]
fn a_guard_may_be_dropped_at_any_moment_of_a_wait() {
    watched(|| {
        let mut random = Random::new();
        for (condition, lock) in reentrant() {
            for _ in 0..2_000 {
                let mut guard = condition.lock();
                let sent = [another(&condition, &lock), another(&condition, &lock)];
                let patience = Duration::from_micros(random.below(60) as u64);
                let delays = [0, 1].map(|_| Duration::from_micros(random.below(60) as u64));
                thread::scope(|scope| {
                    for (sent, delay) in sent.into_iter().zip(delays) {
                        scope.spawn(move || {
                            spin_until(Instant::now() + delay);
                            drop(sent);
                        });
                    }
                    guard.wait_timeout(patience).unwrap();
                    guard.notify(1).unwrap();
                });
                drop(guard);
                let acquired = thread::scope(|scope| {
                    let other = scope.spawn(|| condition.try_lock().is_some());
                    other.join().unwrap()
                });
                assert!(acquired, "{condition:?}");
            }
        }
    });
}

/// The futures of a task are one owner.
#[test]
fn futures_of_one_task_leave_the_lock_free() {
    async fn meet(condition: &Condition, lock: &Option<RLock>) {
        let waiting = async {
            let mut guard = condition.lock_async().await;
            guard.wait_async().await.unwrap();
            guard.notify(1).unwrap();
        };
        let notifying = async {
            let guard = another(condition, lock);
            tokio::task::yield_now().await;
            // The other one has given this one's level up as well.
            drop(guard);
            let condition = condition.clone();
            tokio::task::spawn_blocking(move || notify(condition, 1))
                .await
                .unwrap();
        };
        futures::join!(notifying, waiting);
    }
    watched(|| {
        for (condition, lock) in reentrant() {
            current_thread().block_on(meet(&condition, &lock));
            assert!(is_free(&condition));
            let other = condition.clone();
            current_thread().block_on(async {
                let task = tokio::spawn(async move { meet(&other, &lock).await });
                task.await.unwrap();
            });
            assert!(is_free(&condition));
        }
    });
}

#[test]
fn a_guard_that_was_given_up_releases_no_later_one() {
    watched(|| {
        for (condition, lock) in reentrant() {
            // While the wait goes on.
            let mut guard = condition.lock();
            let given_up = another(&condition, &lock);
            let mut wait = Hand::waiting(guard.wait_async());
            let later = condition.lock();
            drop(given_up);
            later.notify(1).unwrap();
            assert!(!is_free(&condition));
            drop(later);
            wait.wait_woken();
            wait.ready().unwrap();
            drop(wait);
            assert!(!is_free(&condition));
            // After a wait that was dropped.
            let given_up = [condition.lock(), condition.lock()];
            drop(Hand::waiting(guard.wait_async()));
            assert!(is_free(&condition));
            let later = condition.lock();
            for guard in given_up {
                assert!(guard.notify(1).is_err());
                drop(guard);
            }
            drop(guard);
            later.notify(1).unwrap();
            assert!(!is_free(&condition));
            drop(later);
            assert!(is_free(&condition));
        }
    });
}

#[test]
fn guards_of_one_owner_cannot_both_wait() {
    watched(|| {
        for (condition, _) in reentrant() {
            let mut first = condition.lock();
            let mut second = condition.lock();
            let mut wait = Hand::waiting(first.wait_async());
            assert!(second.wait().is_err());
            assert!(Hand::new(second.wait_async()).ready().is_err());
            notify(condition.clone(), 1);
            wait.wait_woken();
            wait.ready().unwrap();
            drop(wait);
            second.notify(1).unwrap();
            drop(first);
            assert!(!is_free(&condition));
            drop(second);
            assert!(is_free(&condition));
        }
    });
}

// -- A lock that is held before

#[test]
fn who_has_acquired_a_lock_before_it_had_a_condition_is_not_known() {
    fn hold(lock: Lock) {
        lock.acquire();
    }
    fn assert_nobodys(lock: Lock) {
        let condition = Condition::with_lock(&lock);
        assert!(condition.notify(1).is_err());
        assert!(condition.wait().is_err());
        assert!(condition.wait_timeout(Duration::ZERO).is_err());
        assert!(condition.wait_for(|| true).is_err());
        assert!(lock.locked());
        // Anybody may release it, as ever.
        condition.release().unwrap();
        let guard = condition.lock();
        guard.notify(1).unwrap();
        drop(guard);
        lock.acquire();
        condition.notify(1).unwrap();
        condition.release().unwrap();
        assert!(!lock.locked());
    }
    watched(|| {
        let lock = Lock::new();
        lock.acquire();
        assert_nobodys(lock);
        // The holder has ended well.
        for known in [false, true] {
            let lock = Lock::new();
            let _condition = known.then(|| Condition::with_lock(&lock));
            let worker = Worker::new(task!(hold(lock.clone()))).backend(Backend::Multiprocessing);
            worker.start().unwrap();
            worker.join().unwrap();
            assert_nobodys(lock);
        }
    });
}
