//! What worker processes take by themselves while this program is busy: in order, once, and no more than they
//! answer for.

mod common;

use std::{
    collections::HashMap,
    hint,
    pin::{Pin, pin},
    process,
    sync::{Arc, Mutex, mpsc},
    task::{Context, Wake, Waker},
    thread::{self, ThreadId},
    time::{Duration, Instant},
};

use common::{
    Gate, GateKeeper, Meddling, Random, Scratch, Sign, eventually, kill_child, processes, runs,
    signal, stop, told, watched,
};
use freethreading::{
    Backend, Barrier, Effect, KillOnDrop, Queue, SimpleQueue, TaskError, TaskFuture, WorkerPool,
    WorkerPoolExecutor, task,
};

freethreading::init_tests!();

fn double(x: u64) -> u64 {
    x * 2
}

fn pass(gate: Gate) {
    gate.pass();
}

/// Has all workers running, and held up until the gates open.
fn hold_up(
    executor: &WorkerPoolExecutor,
    workers: usize,
    gates: &GateKeeper,
) -> Vec<TaskFuture<()>> {
    let held = (0..workers)
        .map(|_| executor.submit(task!(pass(gates.gate()))))
        .collect();
    gates.wait_for(workers);
    held
}

/// Has all workers know of the board, which is made when more waits than they are given.
fn warm_up(executor: &WorkerPoolExecutor) {
    let futures: Vec<_> = (0..300)
        .map(|x| executor.submit(task!(double(x))))
        .collect();
    for (x, future) in futures.into_iter().enumerate() {
        assert_eq!(future.result().unwrap(), 2 * x as u64);
    }
}

fn meet(barrier: Barrier) -> u32 {
    barrier.wait().unwrap();
    process::id()
}

#[test]
fn partners_that_come_one_after_the_other_meet() {
    watched(|| {
        let executor = processes(2);
        warm_up(&executor);
        let pairs: Vec<_> = (0..300)
            .map(|_| {
                let barrier = Barrier::new(2).unwrap();
                let partner = barrier.clone();
                let first = executor.submit(task!(meet(barrier)));
                (first, executor.submit(task!(meet(partner))))
            })
            .collect();
        for (first, second) in pairs {
            assert_ne!(first.result().unwrap(), second.result().unwrap());
        }
    });
}

/// Meets its partner by number, where the arguments name no primitive: such tasks are posted.
fn meet_at(n: u64, way: String) {
    let path = std::path::Path::new(&way);
    let (mine, other) = (path.join(n.to_string()), path.join((n ^ 1).to_string()));
    std::fs::write(mine, "").unwrap();
    while !other.exists() {
        thread::yield_now();
    }
}

#[test]
fn partners_meet_that_workers_have_taken_by_themselves() {
    watched(|| {
        let scratch = common::Scratch::new();
        for workers in [2, 3] {
            let executor = processes(workers);
            warm_up(&executor);
            let way = scratch.path().join(workers.to_string());
            std::fs::create_dir(&way).unwrap();
            let way = way.to_str().unwrap().to_owned();
            let futures: Vec<_> = (0..400)
                .map(|n| {
                    let way = way.clone();
                    executor.submit(task!(meet_at(n, way)))
                })
                .collect();
            for future in futures {
                future.result().unwrap();
            }
        }
    });
}

/// So far no task with a higher number can have begun but those that run now.
fn begin(n: u64, log: std::path::PathBuf) {
    common::Sign::at(log).note(n);
}

#[test]
fn tasks_begin_in_the_order_in_which_they_were_submitted() {
    watched(|| {
        let scratch = common::Scratch::new();
        for workers in 1..=3 {
            let executor = processes(workers);
            warm_up(&executor);
            let log = scratch.sign(&workers.to_string());
            let futures: Vec<_> = (0..1000)
                .map(|n| {
                    let path = log.path().to_owned();
                    executor.submit(task!(begin(n, path)))
                })
                .collect();
            for future in futures {
                future.result().unwrap();
            }
            let begun: Vec<usize> = log.notes().iter().map(|n| n.parse().unwrap()).collect();
            assert_eq!(begun.len(), 1000);
            for (at, &n) in begun.iter().enumerate() {
                // Each of the other workers may be between taking a task and noting it. It has noted all that
                // it took before.
                let before = begun[..at].iter().filter(|&&other| other < n).count();
                assert!(n - before < workers, "{n} of {workers} at {at}");
            }
        }
    });
}

fn count(n: u64, log: std::path::PathBuf) -> u64 {
    common::Sign::at(log).note(n);
    n
}

#[test]
fn a_task_is_run_or_cancelled_and_never_both() {
    watched(|| {
        let scratch = common::Scratch::new();
        let executor = processes(2);
        warm_up(&executor);
        let log = scratch.sign("log");
        let futures: Vec<_> = (0..2000)
            .map(|n| {
                let path = log.path().to_owned();
                executor.submit(task!(count(n, path)))
            })
            .collect();
        let cancelled: Vec<bool> = thread::scope(|scope| {
            let futures = &futures;
            let from_the_front = scope.spawn(move || {
                let cancel = |(n, future): (usize, &TaskFuture<u64>)| n % 3 == 0 && future.cancel();
                futures.iter().enumerate().map(cancel).collect::<Vec<_>>()
            });
            let mut random = Random::new();
            for _ in 0..300 {
                futures[random.below(2000)].running();
                futures[random.below(2000)].done();
                executor.stats();
            }
            from_the_front.join().unwrap()
        });
        for (n, (future, cancelled)) in futures.into_iter().zip(&cancelled).enumerate() {
            match future.result() {
                Ok(value) => assert!(!cancelled && value == n as u64),
                Err(error) => assert!(
                    *cancelled && matches!(error, TaskError::Cancelled),
                    "{error}"
                ),
            }
        }
        let mut run: Vec<usize> = log.notes().iter().map(|n| n.parse().unwrap()).collect();
        run.sort();
        let expected: Vec<_> = (0..2000).filter(|&n| !cancelled[n]).collect();
        assert_eq!(run, expected);
        let stats = executor.stats();
        assert_eq!((stats.queued, stats.running, stats.failed), (0, 0, 0));
        assert_eq!(stats.completed, 300 + expected.len() as u64);
    });
}

#[test]
fn what_is_posted_is_pending() {
    watched(|| {
        let executor = processes(1);
        warm_up(&executor);
        let gates = GateKeeper::new();
        let held = hold_up(&executor, 1, &gates);
        let futures: Vec<_> = (0..200)
            .map(|x| executor.submit(task!(double(x))))
            .collect();
        let stats = executor.stats();
        assert_eq!((stats.queued, stats.running), (200, 1));
        for (x, future) in futures.iter().enumerate() {
            assert!(!future.running() && !future.done());
            if x % 2 == 1 {
                assert!(future.cancel() && future.cancelled());
            }
        }
        gates.open();
        for (x, future) in futures.into_iter().enumerate() {
            match future.result() {
                Ok(value) => assert!(x % 2 == 0 && value == 2 * x as u64),
                Err(error) => assert!(x % 2 == 1 && matches!(error, TaskError::Cancelled)),
            }
        }
        held.into_iter().for_each(|future| future.result().unwrap());
    });
}

fn pass_with(n: u64, gate: Gate) -> u64 {
    gate.pass();
    n
}

#[test]
fn a_task_that_a_worker_has_taken_runs_as_far_as_anybody_sees() {
    watched(|| {
        let executor = processes(1);
        for round in 0..20u64 {
            warm_up(&executor);
            let gates = GateKeeper::new();
            let held = hold_up(&executor, 1, &gates);
            let next_gates = GateKeeper::new();
            let next = executor.submit(task!(pass_with(round, next_gates.gate())));
            let last = executor.submit(task!(double(round)));
            assert!(!next.running());
            gates.open();
            // Nobody waits for the first one, whose reply says that the worker goes on.
            next_gates.wait_for(1);
            assert!(next.running() && !next.cancel() && !next.cancelled());
            eventually("it is known", || executor.stats().queued == 1);
            assert_eq!(executor.stats().running, 1);
            if round % 2 == 0 {
                assert!(next.kill());
                assert!(matches!(next.result(), Err(TaskError::Killed(_))));
            } else {
                next_gates.open();
                assert_eq!(next.result().unwrap(), round);
            }
            assert_eq!(last.result().unwrap(), 2 * round);
            held.into_iter().for_each(|future| future.result().unwrap());
        }
    });
}

#[test]
fn a_limit_that_comes_when_the_task_is_posted_counts_from_its_start() {
    watched(|| {
        let executor = processes(1);
        warm_up(&executor);
        let gates = GateKeeper::new();
        let held = hold_up(&executor, 1, &gates);
        let (slow_gates, limit) = (GateKeeper::new(), Duration::from_millis(50));
        let slow = executor.submit(task!(pass(slow_gates.gate())));
        let fast = executor
            .submit(task!(double(1)))
            .kill_after(Duration::from_secs(3600));
        let slow = slow.kill_after(limit);
        let after = executor.submit(task!(double(4)));
        gates.open();
        assert!(matches!(slow.result(), Err(TaskError::TimeLimit(_))));
        assert_eq!((fast.result().unwrap(), after.result().unwrap()), (2, 8));
        held.into_iter().for_each(|future| future.result().unwrap());
    });
}

fn spin_for(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        hint::spin_loop();
    }
}

#[test]
fn the_time_of_a_task_does_not_count_while_it_is_posted() {
    watched(|| {
        let mut limit = Duration::from_millis(200);
        loop {
            // There is no board yet, so that all have their limits when they are posted.
            let executor = processes(1);
            let gates = GateKeeper::new();
            let held = hold_up(&executor, 1, &gates);
            let futures: Vec<_> = (0..8)
                .map(|_| {
                    let time = limit / 4;
                    executor.submit(task!(spin_for(time))).kill_after(limit)
                })
                .collect();
            gates.open();
            let results = futures.into_iter().map(|future| future.result());
            let late = results.filter_map(Result::err).collect::<Vec<_>>();
            held.into_iter().for_each(|held| held.result().unwrap());
            let is_limit = |error| matches!(error, &TaskError::TimeLimit(_));
            assert!(late.iter().all(is_limit), "{late:?}");
            // On a machine that is so busy that one of them takes four times as long.
            if late.is_empty() {
                break;
            }
            limit *= 2;
        }
    });
}

/// An executor of so many worker processes, for which so many tasks may wait.
fn bounded(workers: usize, max_pending: usize) -> WorkerPoolExecutor {
    WorkerPoolExecutor::builder()
        .max_workers(workers)
        .backend(Backend::Multiprocessing)
        .max_pending(max_pending)
        .build()
        .unwrap()
}

#[test]
fn what_is_posted_takes_room_until_it_is_cancelled() {
    watched(|| {
        let executor = bounded(1, 4);
        warm_up(&executor);
        let gates = GateKeeper::new();
        let held = hold_up(&executor, 1, &gates);
        let submit = |x| executor.try_submit(task!(double(x)));
        let mut posted: Vec<_> = (0..4).map(|x| submit(x).unwrap()).collect();
        assert!(submit(4).is_err());
        // In the midst of others.
        assert!(posted.remove(2).cancel());
        assert_eq!(executor.stats().queued, 3);
        posted.push(submit(5).unwrap());
        assert!(submit(6).is_err());
        assert_eq!(executor.stats().queued, 4);
        thread::scope(|scope| {
            let waiting = scope.spawn(|| executor.submit(task!(double(7))).result().unwrap());
            gates.open();
            assert_eq!(waiting.join().unwrap(), 14);
        });
        let results = posted.into_iter().map(|future| future.result().unwrap());
        assert!(results.eq([0, 2, 6, 10]));
        held.into_iter().for_each(|held| held.result().unwrap());
    });
}

#[test]
fn who_waits_for_room_has_that_of_a_task_that_a_worker_takes_by_itself() {
    watched(|| {
        let (held_gate, first_gate) = (GateKeeper::new(), GateKeeper::new());
        let executor = bounded(1, 1);
        warm_up(&executor);
        let held = hold_up(&executor, 1, &held_gate);
        let first = executor.try_submit(task!(pass(first_gate.gate()))).unwrap();
        let mut waiting = pin!(executor.submit_async(task!(double(2))));
        let polled = waiting
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending());
        held_gate.open();
        let second = futures::executor::block_on(waiting);
        first_gate.open();
        first.result().unwrap();
        assert_eq!(second.result().unwrap(), 4);
        held.into_iter().for_each(|held| held.result().unwrap());
    });
}

#[test]
fn who_is_let_in_may_end_the_task_that_made_room_and_no_other() {
    watched(|| {
        let (held_gate, first_gate) = (GateKeeper::new(), GateKeeper::new());
        let executor = bounded(1, 1);
        warm_up(&executor);
        let held = hold_up(&executor, 1, &held_gate);
        let first = executor.try_submit(task!(pass(first_gate.gate())));
        let first = Arc::new(first.unwrap());
        let killed = Arc::clone(&first);
        let waker = Waker::from(Meddling::new(move || {
            killed.kill();
        }));
        let mut waiting = pin!(executor.submit_async(task!(double(2))));
        let polled = waiting.as_mut().poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
        held_gate.open();
        // It was done before.
        held.into_iter().for_each(|held| held.result().unwrap());
        let second = futures::executor::block_on(waiting);
        assert_eq!(second.result().unwrap(), 4);
        eventually("it is over", || first.done());
    });
}

#[test]
fn a_worker_takes_no_more_tasks_by_itself_than_it_may_run() {
    watched(|| {
        for max_tasks in [1, 2, 7] {
            let executor = WorkerPoolExecutor::builder()
                .max_workers(2)
                .backend(Backend::Multiprocessing)
                .max_tasks_per_child(max_tasks)
                .build()
                .unwrap();
            let futures: Vec<_> = (0..100)
                .map(|_| executor.submit(task!(process::id())))
                .collect();
            let mut run = HashMap::new();
            for future in futures {
                *run.entry(future.result().unwrap()).or_insert(0) += 1;
            }
            // All but the last two have run as many as they may.
            let in_full = run.values().filter(|&&run| run == max_tasks).count();
            assert!(run.values().all(|&run| run <= max_tasks), "{run:?}");
            assert!(in_full + 2 >= run.len(), "{run:?}");
        }
    });
}

#[test]
fn what_a_worker_has_taken_by_itself_takes_no_room() {
    watched(|| {
        let scratch = Scratch::new();
        let (held_gate, first_gate, second_gate) =
            (GateKeeper::new(), GateKeeper::new(), GateKeeper::new());
        let executor = bounded(1, 1);
        warm_up(&executor);
        let mut held = executor.submit(task!(pass(held_gate.gate())));
        held_gate.wait_for(1);
        let first = executor.try_submit(task!(pass(first_gate.gate()))).unwrap();
        let (is_woken, go_on) = hold_up_readers(&mut held);
        held_gate.open();
        is_woken.recv().unwrap();
        // From now on no replies are read.
        let (sign, gate) = (scratch.sign("runs"), second_gate.gate());
        let second = executor
            .try_submit(task!(tell_and_pass(sign.clone(), gate)))
            .unwrap();
        assert!(executor.try_submit(task!(double(3))).is_err());
        first_gate.open();
        sign.hear();
        let third = executor.try_submit(task!(double(3))).unwrap();
        assert!(executor.try_submit(task!(double(4))).is_err());
        go_on.send(()).unwrap();
        second_gate.open();
        first.result().unwrap();
        second.result().unwrap();
        assert_eq!(third.result().unwrap(), 6);
    });
}

fn tell_and_pass(sign: Sign, gate: Gate) {
    sign.tell(process::id());
    gate.pass();
}

/// An executor of so many worker processes, whose tasks may take so long.
fn limited(workers: usize, limit: Duration) -> WorkerPoolExecutor {
    WorkerPoolExecutor::builder()
        .max_workers(workers)
        .backend(Backend::Multiprocessing)
        .task_timeout(limit)
        .build()
        .unwrap()
}

/// That a task was ended for its limit; gives the process that it ran on.
#[track_caller]
fn assert_late<T: std::fmt::Debug>(result: Result<T, TaskError>, limit: Duration) -> u32 {
    match result {
        Err(TaskError::TimeLimit(killed)) => {
            assert_eq!(killed.limit(), Some(limit));
            assert_eq!(killed.effect(), Effect::MayHaveRun);
            killed.pid()
        }
        other => panic!("{other:?}"),
    }
}

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn runaways_among_posted_tasks_end_alone() {
    fn note_or_run_away(n: u64, log: std::path::PathBuf) -> u64 {
        common::Sign::at(log).note(n);
        if n % 100 == 50 {
            loop {
                thread::yield_now();
            }
        }
        n
    }
    watched(|| {
        let scratch = Scratch::new();
        let executor = limited(2, HOUR);
        for round in 0..4 {
            warm_up(&executor);
            let log = scratch.sign(&round.to_string());
            let limit = Duration::from_millis(20 << round);
            let futures: Vec<_> = (0..400)
                .map(|n| {
                    let path = log.path().to_owned();
                    let future = executor.submit(task!(note_or_run_away(n, path)));
                    match n % 100 {
                        50 => future.kill_after(limit),
                        _ => future,
                    }
                })
                .collect();
            for (n, future) in futures.into_iter().enumerate() {
                match future.result() {
                    Ok(value) => assert_eq!(value, n as u64),
                    Err(TaskError::TimeLimit(killed)) => {
                        assert_eq!((n % 100, killed.limit()), (50, Some(limit)));
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            let mut run: Vec<usize> = log.notes().iter().map(|n| n.parse().unwrap()).collect();
            run.sort();
            // The time of a runaway may be over before it has noted anything.
            run.retain(|n| n % 100 != 50);
            assert!(run.into_iter().eq((0..400).filter(|n| n % 100 != 50)));
        }
    });
}

#[test]
fn a_limit_of_all_tasks_holds_for_those_that_workers_take_by_themselves() {
    watched(|| {
        let scratch = Scratch::new();
        let limit = Duration::from_secs(2);
        let executor = limited(1, limit);
        warm_up(&executor);
        let gates = GateKeeper::new();
        let held = hold_up(&executor, 1, &gates);
        let before = executor.submit(task!(double(1)));
        let sign = scratch.sign("runs");
        let runaway = executor.submit(task!(run_for_ever(sign.clone())));
        let after = executor.submit(task!(double(2)));
        gates.open();
        assert_late(runaway.result(), limit);
        assert!(sign.is_given());
        assert_eq!((before.result().unwrap(), after.result().unwrap()), (2, 4));
        held.into_iter().for_each(|held| held.result().unwrap());
    });
}

#[test]
fn a_worker_that_is_killed_costs_the_task_that_it_has_begun() {
    fn note_twice(n: u64, log: std::path::PathBuf) -> u64 {
        let log = common::Sign::at(log);
        log.note(n);
        log.note(n);
        n
    }
    watched(|| {
        let scratch = common::Scratch::new();
        let executor = processes(2);
        let mut random = Random::new();
        for round in 0..30 {
            warm_up(&executor);
            let log = scratch.sign(&round.to_string());
            let futures: Vec<_> = (0..400)
                .map(|n| {
                    let path = log.path().to_owned();
                    executor.submit(task!(note_twice(n, path)))
                })
                .collect();
            // One that takes the place of a dead one may be about to start, and have none yet.
            let workers = executor.stats().workers.into_iter();
            let pids: Vec<_> = workers.filter_map(|worker| worker.ident).collect();
            eventually("some have run", || log.notes().len() > random.below(300));
            kill_child(pids[random.below(pids.len())] as u32);
            let mut failed = Vec::new();
            for (n, future) in futures.into_iter().enumerate() {
                match future.result() {
                    Ok(value) => assert_eq!(value, n as u64),
                    Err(TaskError::WorkerDied(died)) => {
                        assert_eq!(died.effect(), Effect::MayHaveRun);
                        failed.push(n as u64);
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            assert!(failed.len() <= 1, "{failed:?}");
            let mut runs = HashMap::new();
            for n in log.notes() {
                *runs.entry(n.parse::<u64>().unwrap()).or_insert(0) += 1;
            }
            // Nothing was run twice, and nothing that has a result was not run.
            for n in 0..400 {
                let times = runs.get(&n).copied().unwrap_or(0);
                match failed.contains(&n) {
                    true => assert!(times <= 2),
                    false => assert_eq!(times, 2, "{n}"),
                }
            }
        }
    });
}

#[test]
fn to_kill_a_task_costs_no_other() {
    watched(|| {
        let executor = processes(2);
        let mut random = Random::new();
        for _ in 0..20 {
            warm_up(&executor);
            let futures: Vec<_> = (0..200)
                .map(|x| executor.submit(task!(double(x))))
                .collect();
            let first = random.below(150);
            let killed: Vec<_> = (first..first + 5).map(|n| futures[n].kill()).collect();
            for (x, future) in futures.into_iter().enumerate() {
                let is_killed = x >= first && x < first + 5 && killed[x - first];
                match future.result() {
                    Ok(value) => assert!(!is_killed && value == 2 * x as u64),
                    Err(error) => assert!(
                        is_killed && matches!(error, TaskError::Cancelled | TaskError::Killed(_)),
                        "{error}"
                    ),
                }
            }
        }
    });
}

#[test]
fn a_stopped_worker_leaves_what_is_posted_to_the_other() {
    watched(|| {
        let executor = processes(2);
        warm_up(&executor);
        let stopped = executor.stats().workers[0].ident.unwrap() as u32;
        stop(stopped);
        let futures: Vec<_> = (0..500)
            .map(|x| executor.submit(task!(double(x))))
            .collect();
        // At most one lies with the worker that does nothing.
        eventually("the others are done", || {
            futures.iter().filter(|future| future.done()).count() >= 499
        });
        signal(stopped, libc::SIGCONT);
        for (x, future) in futures.into_iter().enumerate() {
            assert_eq!(future.result().unwrap(), 2 * x as u64);
        }
    });
}

#[test]
fn what_is_posted_is_cancelled_at_the_end_or_runs() {
    watched(|| {
        for cancel in [true, false] {
            let executor = processes(2);
            warm_up(&executor);
            let gates = GateKeeper::new();
            let held = hold_up(&executor, 2, &gates);
            let futures: Vec<_> = (0..200)
                .map(|x| executor.submit(task!(double(x))))
                .collect();
            executor.shutdown(false, cancel);
            gates.open();
            for (x, future) in futures.into_iter().enumerate() {
                match future.result() {
                    Ok(value) => assert!(!cancel && value == 2 * x as u64),
                    Err(error) => assert!(cancel && matches!(error, TaskError::Cancelled)),
                }
            }
            held.into_iter().for_each(|future| future.result().unwrap());
            executor.shutdown(true, false);
        }
    });
}

#[test]
fn at_any_moment_an_executor_may_end_or_be_dropped() {
    watched(|| {
        let mut random = Random::new();
        for round in 0..20 {
            let executor = processes(2);
            warm_up(&executor);
            let futures: Vec<_> = (0..300)
                .map(|x| executor.submit(task!(double(x))))
                .collect();
            let awaited = random.below(300);
            assert_eq!(futures[awaited].result().unwrap(), 2 * awaited as u64);
            match round % 4 {
                0 => executor.shutdown(false, true),
                1 => executor.kill_workers(),
                _ => drop(executor),
            }
            for (x, future) in futures.into_iter().enumerate() {
                match future.result() {
                    Ok(value) => assert_eq!(value, 2 * x as u64),
                    Err(TaskError::Taken) => assert_eq!(x, awaited),
                    Err(error) => assert!(round % 4 < 2, "{error}"),
                }
            }
        }
    });
}

fn len(bytes: Vec<u8>) -> usize {
    bytes.len()
}

fn bytes(len: usize) -> Vec<u8> {
    vec![7; len]
}

fn put(queue: Queue<u64>, n: u64) {
    queue.put(n).unwrap();
}

#[test]
fn small_and_large_tasks_and_those_with_primitives_keep_the_order() {
    watched(|| {
        let executor = processes(2);
        warm_up(&executor);
        let queue = Queue::new(0);
        let mut random = Random::new();
        for _ in 0..5 {
            let mut sizes = Vec::new();
            let mut results = Vec::new();
            let mut puts = Vec::new();
            for n in 0..300 {
                let size = [0, 40, 400, 600, 20_000, 200_000][random.below(6)];
                match random.below(4) {
                    0 => {
                        let bytes = bytes(size);
                        sizes.push((size, executor.submit(task!(len(bytes)))));
                    }
                    1 => results.push((size, executor.submit(task!(bytes(size))))),
                    2 => {
                        let queue = queue.clone();
                        puts.push(executor.submit(task!(put(queue, n))));
                    }
                    _ => sizes.push((2 * size, executor.submit(task!(twice(size))))),
                }
            }
            for (size, future) in sizes {
                assert_eq!(future.result().unwrap(), size);
            }
            for (size, future) in results {
                assert_eq!(future.result().unwrap(), bytes(size));
            }
            for future in puts {
                future.result().unwrap();
                queue.get().unwrap();
            }
        }
    });
}

fn twice(x: usize) -> usize {
    x * 2
}

fn new_queue(n: u64) -> SimpleQueue<u64> {
    let queue = SimpleQueue::new();
    queue.put(n).unwrap();
    queue
}

#[test]
fn primitives_in_results_reach_who_asked_for_them() {
    watched(|| {
        let executor = processes(2);
        warm_up(&executor);
        let futures: Vec<_> = (0..300)
            .map(|n| executor.submit(task!(new_queue(n))))
            .collect();
        for (n, future) in futures.into_iter().enumerate() {
            assert_eq!(future.result().unwrap().get().unwrap(), n as u64);
        }
    });
}

#[test]
fn who_has_his_result_leaves_the_others_to_others() {
    watched(|| {
        let executor = processes(1);
        warm_up(&executor);
        let mut random = Random::new();
        for _ in 0..20 {
            let (called, calls) = mpsc::channel();
            let futures: Vec<_> = (0..1000)
                .map(|x| {
                    let (future, called) = (executor.submit(task!(double(x))), called.clone());
                    future.add_done_callback(move |future| called.send(future.done()).unwrap());
                    future
                })
                .collect();
            // The replies of those behind it come while this one is taken; nobody waits for them then.
            let awaited = random.below(1000);
            assert_eq!(futures[awaited].result().unwrap(), 2 * awaited as u64);
            for _ in 0..1000 {
                assert!(calls.recv().unwrap());
            }
        }
    });
}

#[test]
fn many_threads_submit_and_take() {
    watched(|| {
        let executor = processes(2);
        thread::scope(|scope| {
            for offset in 0..4u64 {
                let executor = &executor;
                scope.spawn(move || {
                    let mut random = Random::new();
                    for round in 0..30 {
                        let tasks = 1 + random.below(100) as u64;
                        let futures: Vec<_> = (0..tasks)
                            .map(|x| executor.submit(task!(double(x))))
                            .collect();
                        for (x, future) in futures.into_iter().enumerate() {
                            let result = match (offset + round) % 2 {
                                0 => future.result(),
                                _ => futures::executor::block_on(future),
                            };
                            assert_eq!(result.unwrap(), 2 * x as u64);
                        }
                    }
                });
            }
        });
        let stats = executor.stats();
        assert_eq!((stats.queued, stats.running, stats.failed), (0, 0, 0));
    });
}

/// Kills a task when it is woken.
struct Killing(Arc<TaskFuture<u64>>, mpsc::Sender<bool>);

impl Wake for Killing {
    fn wake(self: Arc<Self>) {
        let _ = self.1.send(self.0.kill());
    }
}

#[test]
fn a_task_can_be_killed_by_who_is_woken_for_the_one_before() {
    watched(|| {
        let executor = processes(1);
        warm_up(&executor);
        for _ in 0..50 {
            let gates = GateKeeper::new();
            let held = hold_up(&executor, 1, &gates);
            let mut first = executor.submit(task!(double(1)));
            let second = Arc::new(executor.submit(task!(double(2))));
            let third = executor.submit(task!(double(3)));
            let (killed, is_killed) = mpsc::channel();
            let waker = Waker::from(Arc::new(Killing(Arc::clone(&second), killed)));
            let pending = Pin::new(&mut first).poll(&mut Context::from_waker(&waker));
            assert!(pending.is_pending());
            gates.open();
            let is_killed = is_killed.recv().unwrap();
            // The worker may have had the second one done by then, and then has the third one.
            match second.result() {
                Ok(result) => assert_eq!((result, is_killed), (4, false)),
                Err(error) => {
                    assert!(matches!(error, TaskError::Killed(_) | TaskError::Cancelled));
                    assert!(is_killed);
                }
            }
            assert_eq!(first.result().unwrap(), 2);
            assert_eq!(third.result().unwrap(), 6);
            held.into_iter().for_each(|held| held.result().unwrap());
        }
    });
}

/// Says who runs it.
fn run_for_ever(sign: Sign) {
    sign.tell(process::id());
    loop {
        thread::yield_now();
    }
}

/// Drops a future when it is woken.
struct Dropping(Mutex<Option<KillOnDrop<u64>>>);

impl Wake for Dropping {
    fn wake(self: Arc<Self>) {
        drop(self.0.lock().unwrap().take());
    }
}

#[test]
fn a_future_can_be_dropped_by_who_is_woken_for_the_task_before() {
    watched(|| {
        let executor = processes(1);
        warm_up(&executor);
        for _ in 0..50 {
            let gates = GateKeeper::new();
            let held = executor.submit(task!(pass(gates.gate())));
            gates.wait_for(1);
            let mut first = executor.submit(task!(double(1)));
            let second = executor.submit(task!(double(2))).kill_on_drop();
            let third = executor.submit(task!(double(3)));
            let told = told(second.as_ref());
            let waker = Waker::from(Arc::new(Dropping(Mutex::new(Some(second)))));
            let pending = Pin::new(&mut first).poll(&mut Context::from_waker(&waker));
            assert!(pending.is_pending());
            gates.open();
            match told.recv().unwrap() {
                Ok(result) => assert_eq!(result, 4),
                Err(TaskError::Cancelled | TaskError::Killed(_)) => {}
                Err(error) => panic!("{error}"),
            }
            assert_eq!(first.result().unwrap(), 2);
            assert_eq!(third.result().unwrap(), 6);
            held.result().unwrap();
        }
    });
}

/// Tells when it is woken, and by whom, and holds up that thread until it is told to go on.
struct HoldingUp(mpsc::Sender<ThreadId>, Mutex<mpsc::Receiver<()>>);

impl Wake for HoldingUp {
    fn wake(self: Arc<Self>) {
        self.0.send(thread::current().id()).unwrap();
        self.1.lock().unwrap().recv().unwrap();
    }
}

/// Has whoever reads that the task is over held up; who that is, and what lets him go on.
fn hold_up_readers(future: &mut TaskFuture<()>) -> (mpsc::Receiver<ThreadId>, mpsc::Sender<()>) {
    let (woken, is_woken) = mpsc::channel();
    let (go_on, goes_on) = mpsc::channel();
    let waker = Waker::from(Arc::new(HoldingUp(woken, Mutex::new(goes_on))));
    let pending = Pin::new(future).poll(&mut Context::from_waker(&waker));
    assert!(pending.is_pending());
    (is_woken, go_on)
}

/// Nobody may end the process meanwhile: the reply to the task before would be lost with it.
#[test]
fn a_drop_does_not_wait_until_the_reply_to_the_task_before_is_read() {
    watched(|| {
        let scratch = Scratch::new();
        let (held_gate, first_gate) = (GateKeeper::new(), GateKeeper::new());
        let executor = processes(1);
        warm_up(&executor);
        let mut held = executor.submit(task!(pass(held_gate.gate())));
        held_gate.wait_for(1);
        let first = executor.submit(task!(pass(first_gate.gate())));
        let sign = scratch.sign("runs");
        let second = executor
            .submit(task!(run_for_ever(sign.clone())))
            .kill_on_drop();
        let told = told(second.as_ref());
        let (is_woken, go_on) = hold_up_readers(&mut held);
        held_gate.open();
        is_woken.recv().unwrap();
        // From now on no replies are read.
        first_gate.open();
        sign.wait();
        drop(second);
        assert!(told.try_recv().is_err());
        go_on.send(()).unwrap();
        first.result().unwrap();
        match told.recv().unwrap() {
            Err(TaskError::Killed(killed)) => assert_eq!(killed.pid().to_string(), sign.hear()),
            other => panic!("{other:?}"),
        }
        assert_eq!(executor.submit(task!(double(1))).result().unwrap(), 2);
    });
}

#[test]
fn tasks_with_a_limit_begin_while_nobody_reads_what_their_worker_says() {
    watched(|| {
        let scratch = Scratch::new();
        let (held_gate, first_gate) = (GateKeeper::new(), GateKeeper::new());
        let executor = limited(1, HOUR);
        let mut held = executor.submit(task!(pass(held_gate.gate())));
        held_gate.wait_for(1);
        let first = executor.submit(task!(pass(first_gate.gate())));
        let (sign, limit) = (scratch.sign("runs"), Duration::from_millis(50));
        let second = executor.submit(task!(run_for_ever(sign.clone())));
        let second = second.kill_after(limit);
        let (is_woken, go_on) = hold_up_readers(&mut held);
        held_gate.open();
        is_woken.recv().unwrap();
        // The board was made for the second one, which is posted, with its limit, as soon as somebody looks.
        let third = executor.submit(task!(double(3)));
        first_gate.open();
        let pid = sign.hear();
        go_on.send(()).unwrap();
        assert_eq!(assert_late(second.result(), limit).to_string(), pid);
        first.result().unwrap();
        assert_eq!(third.result().unwrap(), 6);
    });
}

#[test]
fn a_runaway_is_ended_although_the_reply_to_the_task_before_is_not_read() {
    watched(|| {
        let scratch = Scratch::new();
        let executor = processes(1);
        let limit = Duration::from_millis(50);
        for attempt in 0.. {
            warm_up(&executor);
            let (held_gate, first_gate) = (GateKeeper::new(), GateKeeper::new());
            let mut held = executor.submit(task!(pass(held_gate.gate())));
            held_gate.wait_for(1);
            let first = executor.submit(task!(pass(first_gate.gate())));
            let sign = scratch.sign(&attempt.to_string());
            let second = executor.submit(task!(run_for_ever(sign.clone())));
            let second = second.kill_after(limit);
            let (is_woken, go_on) = hold_up_readers(&mut held);
            let is_done = thread::scope(|scope| {
                let attending = scope.spawn(|| held.result().unwrap());
                held_gate.open();
                // Or it is the thread that keeps the time, which stands still then.
                let is_held_up = is_woken.recv().unwrap() == attending.thread().id();
                first_gate.open();
                let pid = sign.hear().parse().unwrap();
                let mut first = first;
                if is_held_up {
                    first = first.kill_after(Duration::ZERO);
                    eventually("the process is ended", || !runs(pid));
                }
                go_on.send(()).unwrap();
                attending.join().unwrap();
                assert_eq!(assert_late(second.result(), limit), pid);
                // Its reply is lost with the process, if it was not read.
                assert_eq!(first.result().is_err(), is_held_up);
                is_held_up
            });
            if is_done {
                break;
            }
        }
    });
}

#[test]
fn what_is_posted_of_a_pool_that_is_terminated_fails() {
    watched(|| {
        for workers in [1, 2, 3] {
            let pool = WorkerPool::builder()
                .max_workers(workers)
                .backend(Backend::Multiprocessing)
                .build()
                .unwrap();
            let gates = GateKeeper::new();
            let held: Vec<_> = (0..workers)
                .map(|_| pool.apply_async(task!(pass(gates.gate()))).unwrap())
                .collect();
            gates.wait_for(workers);
            let waiting: Vec<_> = (0..200)
                .map(|n| pool.apply_async(task!(double(n))).unwrap())
                .collect();
            pool.terminate();
            for result in waiting {
                let error = result.get().unwrap_err();
                assert!(matches!(error, TaskError::Terminated(Effect::DidNotRun)));
                assert!(error.to_string().ends_with("did not run"), "{error}");
            }
            for result in held {
                let error = result.get().unwrap_err();
                assert!(matches!(error, TaskError::Terminated(Effect::MayHaveRun)));
                assert!(error.to_string().ends_with("may have run"), "{error}");
            }
            pool.join().unwrap();
        }
    });
}
