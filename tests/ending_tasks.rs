//! Tasks that are ended while they run: killed with their process, or asked on their thread.

mod common;

use std::{
    hint,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use common::{
    Gate, GateKeeper, Random, Scratch, Sign, eventually, on_processes, runs, told, watched,
};
use freethreading::{
    Backend, Effect, Error, TaskError, TaskFuture, WorkerPoolExecutor, WorkerPoolExecutorBuilder,
    cancelled, get_ident, task,
};
use futures::{executor::block_on, future::FusedFuture};
use tokio::{runtime::Runtime, time::timeout};

freethreading::init_tests!();

fn executor(max_workers: usize) -> WorkerPoolExecutor {
    WorkerPoolExecutor::new(max_workers).unwrap()
}

fn processes() -> WorkerPoolExecutorBuilder {
    WorkerPoolExecutor::builder().backend(Backend::Multiprocessing)
}

fn double(n: u64) -> u64 {
    n * 2
}

fn pass(gate: Gate) {
    gate.pass();
}

/// Says who runs it, and runs until it is asked to end, or for ever.
fn run_until_cancelled(sign: Sign) -> u32 {
    sign.tell(std::process::id());
    while !cancelled() {
        thread::yield_now();
    }
    5
}

/// How a task ends that runs until it is cancelled and was killed; the process that ran it is gone.
#[track_caller]
fn assert_killed(future: &TaskFuture<u32>, sign: &Sign) {
    if !on_processes() {
        assert_eq!(future.result().unwrap(), 5);
        return;
    }
    let error = future.result().unwrap_err();
    let TaskError::Killed(killed) = &error else {
        panic!("{error}");
    };
    assert_eq!(killed.pid().to_string(), sign.hear());
    assert_eq!(killed.effect(), Effect::MayHaveRun);
    assert_eq!(error.effect(), Effect::MayHaveRun);
    assert!(killed.task().contains("run_until_cancelled"));
    assert!(killed.limit().is_none());
    assert!(error.to_string().contains(killed.worker()), "{error}");
    assert!(!runs(killed.pid()));
}

freethreading::test_backends! {
    #[test]
    fn a_running_task_is_killed_and_no_other() {
        watched(|| {
            let (gates, scratch) = (GateKeeper::new(), Scratch::new());
            let executor = executor(2);
            let other = executor.submit(task!(pass(gates.gate())));
            gates.wait_for(1);
            let sign = scratch.sign("runs");
            let doomed = executor.submit(task!(run_until_cancelled(sign.clone())));
            sign.wait();
            let next = executor.submit(task!(double(1)));
            assert!(doomed.kill());
            assert_killed(&doomed, &sign);
            assert_eq!(next.result().unwrap(), 2);
            gates.open();
            other.result().unwrap();
            executor.shutdown(true, false);
        });
    }

    #[test]
    fn a_task_that_waits_is_cancelled() {
        watched(|| {
            let gates = GateKeeper::new();
            let executor = executor(1);
            let first = executor.submit(task!(pass(gates.gate())));
            gates.wait_for(1);
            let waiting = executor.submit(task!(double(1)));
            assert!(waiting.kill());
            assert!(waiting.kill());
            assert!(waiting.cancelled());
            assert!(matches!(waiting.result(), Err(TaskError::Cancelled)));
            gates.open();
            first.result().unwrap();
        });
    }

    #[test]
    fn a_task_that_is_over_cannot_be_killed() {
        watched(|| {
            let executor = executor(1);
            let over = executor.submit(task!(double(2)));
            while !over.done() {
                thread::yield_now();
            }
            assert!(!over.kill());
            assert_eq!(over.result().unwrap(), 4);
            assert!(!over.kill());
        });
    }

    #[test]
    fn killing_again_and_again_does_not_break_the_executor() {
        watched(|| {
            let scratch = Scratch::new();
            let executor = executor(1);
            for n in 0..8 {
                let sign = scratch.sign(&n.to_string());
                let doomed = executor.submit(task!(run_until_cancelled(sign.clone())));
                sign.wait();
                assert!(doomed.kill());
                assert_killed(&doomed, &sign);
                if on_processes() {
                    // It has an end of that kind already.
                    assert!(doomed.kill());
                }
            }
            assert_eq!(executor.submit(task!(double(4))).result().unwrap(), 8);
        });
    }

    #[test]
    fn tasks_killed_at_any_moment_cost_no_others() {
        fn short(n: u64) -> u64 {
            for _ in 0..n % 7 * 100 {
                hint::spin_loop();
            }
            n
        }
        watched(|| {
            let mut random = Random::new();
            let executor = executor(2);
            for _ in 0..60 {
                let mut futures: Vec<_> =
                    (0..6u64).map(|n| (n, executor.submit(task!(short(n))))).collect();
                let (_, victim) = futures.remove(random.below(6));
                for _ in 0..random.below(200) {
                    thread::yield_now();
                }
                let killed = victim.kill();
                match victim.result() {
                    Ok(_) => assert!(!killed || !on_processes()),
                    Err(TaskError::Cancelled | TaskError::Killed(_)) => assert!(killed),
                    Err(error) => panic!("{error}"),
                }
                for (n, future) in futures {
                    assert_eq!(future.result().unwrap(), n);
                }
            }
            executor.shutdown(true, false);
        });
    }

    #[test]
    fn no_task_is_cancelled_that_nobody_has_ended() {
        watched(|| {
            assert!(!cancelled());
            let scratch = Scratch::new();
            let executor = executor(1);
            let sign = scratch.sign("runs");
            let doomed = executor.submit(task!(run_until_cancelled(sign.clone())));
            sign.wait();
            assert!(doomed.kill());
            let _ = doomed.result();
            assert!(!executor.submit(cancelled).result().unwrap());
            assert!(!cancelled());
        });
    }

    #[test]
    fn a_task_may_take_so_long_and_no_longer() {
        watched(|| {
            let scratch = Scratch::new();
            let executor = executor(1);
            let sign = scratch.sign("runs");
            let limit = Duration::from_millis(1);
            let slow = executor.submit(task!(run_until_cancelled(sign.clone()))).kill_after(limit);
            match slow.result() {
                Ok(result) => assert!(!on_processes() && result == 5),
                Err(TaskError::TimeLimit(killed)) => {
                    assert!(on_processes());
                    assert_eq!(killed.limit(), Some(limit));
                    assert!(!runs(killed.pid()));
                    assert!(killed.to_string().contains("1ms"), "{killed}");
                }
                Err(error) => panic!("{error}"),
            }
            assert_eq!(executor.submit(task!(double(4))).result().unwrap(), 8);
        });
    }

    #[test]
    fn the_time_of_a_task_counts_from_its_start() {
        watched(|| {
            let executor = executor(1);
            let mut limit = Duration::from_millis(300);
            loop {
                let gates = GateKeeper::new();
                let first = executor.submit(task!(pass(gates.gate())));
                gates.wait_for(1);
                let waiting = executor.submit(cancelled).kill_after(limit);
                let start = Instant::now();
                while start.elapsed() <= limit {
                    thread::yield_now();
                }
                gates.open();
                first.result().unwrap();
                match waiting.result() {
                    Ok(false) => break,
                    // On a machine that is so busy that it takes too long from its start, too.
                    Ok(true) => assert!(!on_processes()),
                    Err(error) => assert!(matches!(error, TaskError::TimeLimit(_)), "{error}"),
                }
                limit *= 2;
            }
        });
    }

    #[test]
    fn a_limit_may_come_when_the_task_runs() {
        watched(|| {
            let scratch = Scratch::new();
            let executor = executor(1);
            let sign = scratch.sign("runs");
            let slow = executor.submit(task!(run_until_cancelled(sign.clone())));
            sign.wait();
            let slow = slow.kill_after(Duration::from_secs(3600)).kill_after(Duration::ZERO);
            match slow.result() {
                Ok(result) => assert!(!on_processes() && result == 5),
                Err(error) => assert!(matches!(error, TaskError::TimeLimit(_)), "{error}"),
            }
        });
    }

    #[test]
    fn all_tasks_of_an_executor_may_have_a_limit() {
        watched(|| {
            let scratch = Scratch::new();
            let limit = Duration::from_millis(200);
            let executor =
                WorkerPoolExecutor::builder().max_workers(2).task_timeout(limit).build().unwrap();
            let slow: Vec<_> = (0..2)
                .map(|n| {
                    let sign = scratch.sign(&n.to_string());
                    executor.submit(task!(run_until_cancelled(sign)))
                })
                .collect();
            for future in slow {
                match future.result() {
                    Ok(result) => assert!(!on_processes() && result == 5),
                    Err(error) => assert!(matches!(error, TaskError::TimeLimit(_)), "{error}"),
                }
            }
            for n in 0..100 {
                eventually("one is done in time", || {
                    match executor.submit(task!(double(n))).result() {
                        Ok(result) => {
                            assert_eq!(result, 2 * n);
                            true
                        }
                        // On a machine that is so busy that even this takes too long.
                        Err(error) => {
                            assert!(matches!(error, TaskError::TimeLimit(_)), "{error}");
                            false
                        }
                    }
                });
            }
        });
    }

    #[test]
    fn a_short_limit_holds_behind_long_ones_and_a_long_one_behind_short_ones() {
        watched(|| {
            let scratch = Scratch::new();
            let executor = executor(1);
            let (hour, short) = (Duration::from_secs(3600), Duration::from_millis(50));
            for n in 0..4 {
                let long = executor.submit(task!(double(n))).kill_after(hour);
                assert_eq!(long.result().unwrap(), 2 * n);
                // The time of this one may be up while the worker is at the next.
                let quick = executor.submit(task!(double(n))).kill_after(short).result();
                assert!(matches!(quick, Ok(_) | Err(TaskError::TimeLimit(_))));
                let sign = scratch.sign(&n.to_string());
                let slow =
                    executor.submit(task!(run_until_cancelled(sign.clone()))).kill_after(hour);
                sign.wait();
                thread::sleep(2 * short);
                assert!(!slow.done());
                match slow.kill_after(short).result() {
                    Ok(result) => assert!(!on_processes() && result == 5),
                    Err(error) => assert!(matches!(error, TaskError::TimeLimit(_)), "{error}"),
                }
                // Nor does a time that is far away put off one that is near.
                let long = executor.submit(task!(double(n))).kill_after(hour);
                assert_eq!(long.result().unwrap(), 2 * n);
                let sign = scratch.sign(&format!("again {n}"));
                let slow = executor.submit(task!(run_until_cancelled(sign))).kill_after(short);
                match slow.result() {
                    Ok(result) => assert!(!on_processes() && result == 5),
                    Err(error) => assert!(matches!(error, TaskError::TimeLimit(_)), "{error}"),
                }
            }
        });
    }

    #[test]
    fn no_time_at_all_is_an_error() {
        let built = WorkerPoolExecutor::builder().task_timeout(Duration::ZERO).build();
        assert!(matches!(built, Err(Error::InvalidArgument(why)) if why.contains("task_timeout")));
    }

    #[test]
    fn a_task_within_a_task_is_ended_alone() {
        fn outer(sign: Sign) -> (bool, u32) {
            let executor =
                WorkerPoolExecutor::builder().backend(Backend::Threading).build().unwrap();
            let inner = executor.submit(task!(run_until_cancelled(sign.clone())));
            sign.wait();
            inner.kill();
            (cancelled(), inner.result().unwrap())
        }
        watched(|| {
            let scratch = Scratch::new();
            let executor = executor(1);
            let future = executor.submit(task!(outer(scratch.sign("inner"))));
            assert_eq!(future.result().unwrap(), (false, 5));
        });
    }
}

/// That a task ended that runs until it is cancelled, because its future was dropped.
#[track_caller]
fn assert_dropped(told: &mpsc::Receiver<Result<u32, TaskError>>, sign: &Sign) {
    match told.recv().unwrap() {
        Ok(result) => assert!(!on_processes() && result == 5),
        Err(TaskError::Killed(killed)) => {
            assert!(on_processes());
            assert_eq!(killed.pid().to_string(), sign.hear());
            assert!(killed.limit().is_none());
            assert!(!runs(killed.pid()));
        }
        Err(error) => panic!("{error}"),
    }
}

freethreading::test_backends! {
    #[test]
    fn a_task_that_waits_never_runs_if_its_future_is_dropped() {
        watched(|| {
            let (gates, scratch) = (GateKeeper::new(), Scratch::new());
            let executor = executor(1);
            let first = executor.submit(task!(pass(gates.gate())));
            gates.wait_for(1);
            let sign = scratch.sign("runs");
            let waiting = executor.submit(task!(run_until_cancelled(sign.clone()))).kill_on_drop();
            let told = told(waiting.as_ref());
            drop(waiting);
            assert!(matches!(told.try_recv(), Ok(Err(TaskError::Cancelled))));
            gates.open();
            first.result().unwrap();
            assert_eq!(executor.submit(task!(double(1))).result().unwrap(), 2);
            assert!(!sign.is_given());
        });
    }

    #[test]
    fn a_task_that_runs_ends_with_its_future_and_no_other_does() {
        watched(|| {
            let (gates, scratch) = (GateKeeper::new(), Scratch::new());
            let executor = executor(2);
            let other = executor.submit(task!(pass(gates.gate())));
            gates.wait_for(1);
            let sign = scratch.sign("runs");
            let doomed = executor.submit(task!(run_until_cancelled(sign.clone()))).kill_on_drop();
            let told = told(doomed.as_ref());
            sign.wait();
            let next = executor.submit(task!(double(1)));
            drop(doomed);
            assert_dropped(&told, &sign);
            assert_eq!(next.result().unwrap(), 2);
            gates.open();
            other.result().unwrap();
        });
    }

    #[test]
    fn a_future_that_is_dropped_after_its_result_ends_nothing() {
        watched(|| {
            let executor = executor(1);
            let worker = || executor.submit(get_ident).result().unwrap();
            let before = worker();
            let mut awaited = executor.submit(task!(double(1))).kill_on_drop();
            assert!(!awaited.is_terminated());
            assert_eq!(block_on(&mut awaited).unwrap(), 2);
            assert!(awaited.is_terminated());
            assert!(matches!(block_on(&mut awaited), Err(TaskError::Taken)));
            let over = executor.submit(task!(double(2))).kill_on_drop();
            eventually("it is over", || over.as_ref().done());
            let told = told(over.as_ref());
            drop((awaited, over));
            assert_eq!(told.recv().unwrap().unwrap(), 4);
            assert_eq!(worker(), before);
        });
    }

    #[test]
    fn a_task_ends_with_the_timeout_around_its_future() {
        watched(|| {
            let scratch = Scratch::new();
            let executor = executor(1);
            let sign = scratch.sign("runs");
            let mut doomed =
                executor.submit(task!(run_until_cancelled(sign.clone()))).kill_on_drop();
            let told = told(doomed.as_ref());
            sign.wait();
            Runtime::new().unwrap().block_on(async {
                assert!(timeout(Duration::ZERO, &mut doomed).await.is_err());
                assert!(doomed.as_ref().running());
                assert!(told.try_recv().is_err());
                assert!(timeout(Duration::from_millis(1), doomed).await.is_err());
                let next = executor.submit(task!(double(1))).kill_on_drop();
                assert_eq!(timeout(Duration::from_secs(60), next).await.unwrap().unwrap(), 2);
            });
            assert_dropped(&told, &sign);
        });
    }

    #[test]
    fn a_detached_future_leaves_its_task_alone() {
        watched(|| {
            let gates = GateKeeper::new();
            let executor = executor(1);
            let running = executor.submit(task!(pass(gates.gate()))).kill_on_drop();
            let waiting = executor.submit(task!(double(1))).kill_on_drop();
            let told = told(waiting.as_ref());
            gates.wait_for(1);
            let running = running.detach();
            drop(waiting.detach());
            assert!(!running.done());
            gates.open();
            running.result().unwrap();
            assert_eq!(told.recv().unwrap().unwrap(), 2);
        });
    }

    #[test]
    fn futures_dropped_at_any_moment_cost_no_other_tasks() {
        watched(|| {
            let mut random = Random::new();
            let executor = executor(2);
            for _ in 0..60 {
                let mut futures: Vec<_> =
                    (0..6u64).map(|n| (n, executor.submit(task!(double(n))))).collect();
                let (_, victim) = futures.remove(random.below(6));
                let told = told(&victim);
                let victim = victim.kill_on_drop();
                for _ in 0..random.below(200) {
                    thread::yield_now();
                }
                drop(victim);
                match told.recv().unwrap() {
                    Ok(_) | Err(TaskError::Cancelled | TaskError::Killed(_)) => {}
                    Err(error) => panic!("{error}"),
                }
                for (n, future) in futures {
                    assert_eq!(future.result().unwrap(), 2 * n);
                }
            }
            executor.shutdown(true, false);
        });
    }
}

#[test]
fn a_task_that_its_process_has_not_read_is_killed_with_it_or_never_reaches_it() {
    watched(|| {
        let executor = processes().max_workers(1).build().unwrap();
        let pid = executor.submit(std::process::id).result().unwrap();
        common::stop(pid);
        let unread = executor.submit(task!(double(1)));
        let next = executor.submit(task!(double(2)));
        eventually("the worker is given the task", || unread.running());
        assert!(unread.kill());
        let error = unread.result().unwrap_err();
        assert!(
            matches!(error, TaskError::Killed(_) | TaskError::Cancelled),
            "{error}"
        );
        assert_eq!(next.result().unwrap(), 4);
        assert_ne!(executor.submit(std::process::id).result().unwrap(), pid);
    });
}

#[test]
fn a_large_task_may_be_killed_while_it_is_being_sent() {
    fn len(bytes: serde_bytes::ByteBuf) -> usize {
        bytes.len()
    }
    watched(|| {
        let executor = processes().max_workers(1).build().unwrap();
        let pid = executor.submit(std::process::id).result().unwrap();
        common::stop(pid);
        let bytes = serde_bytes::ByteBuf::from(vec![1; 16 << 20]);
        let large = executor.submit(task!(len(bytes)));
        eventually("the worker is given the task", || large.running());
        assert!(large.kill());
        assert!(matches!(large.result(), Err(TaskError::Killed(_))));
        assert_eq!(executor.submit(task!(double(2))).result().unwrap(), 4);
    });
}
