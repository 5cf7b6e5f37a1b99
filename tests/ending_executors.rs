//! Executors that are ended before their tasks are.

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use common::{Gate, GateKeeper, Scratch, Sign, on_processes, runs, watched, ways::LONG};
use freethreading::{Effect, TaskError, WorkerPoolExecutor, cancelled, task};

freethreading::init_tests!();

const AT_ONCE: Duration = Duration::ZERO;

/// What the methods give that are awaited has no name, but may be awaited on any thread.
const _: fn(&WorkerPoolExecutor) = |executor| {
    fn is_send(_: impl Future + Send) {}
    is_send(executor.shutdown_async(false));
    is_send(executor.shutdown_timeout_async(LONG));
    is_send(executor.submit_async(task!(double(1))));
};

fn double(n: u64) -> u64 {
    n * 2
}

/// Says who runs it, and does what cannot be interrupted.
fn pass(sign: Sign, gate: Gate) {
    sign.tell(std::process::id());
    gate.pass();
}

/// Says who runs it, and runs until it is asked to end.
fn run_until_cancelled(sign: Sign) -> u32 {
    sign.tell(std::process::id());
    while !cancelled() {
        thread::yield_now();
    }
    5
}

fn shutdown(executor: &WorkerPoolExecutor, timeout: Duration, asynchronously: bool) -> bool {
    match asynchronously {
        false => executor.shutdown_timeout(timeout),
        true => futures::executor::block_on(executor.shutdown_timeout_async(timeout)),
    }
}

freethreading::test_backends! {
    #[test]
    fn who_is_terminated_hears_whether_the_task_had_begun() {
        watched(|| {
            let (gates, scratch) = (GateKeeper::new(), Scratch::new());
            let executor = WorkerPoolExecutor::new(1).unwrap();
            let sign = scratch.sign("runs");
            let running = executor.submit(task!(pass(sign.clone(), gates.gate())));
            sign.hear();
            let queued = executor.submit(task!(double(1)));
            executor.kill_workers();
            let effect = |error: TaskError| {
                assert!(matches!(error, TaskError::Terminated(_)), "{error}");
                error.effect()
            };
            assert_eq!(effect(queued.result().map(drop).unwrap_err()), Effect::DidNotRun);
            assert_eq!(effect(running.result().unwrap_err()), Effect::MayHaveRun);
            gates.open();
        });
    }

    #[test]
    fn what_ends_in_time_is_completed() {
        watched(|| {
            for asynchronously in [false, true] {
                for timeout in [LONG, Duration::MAX] {
                    let executor = WorkerPoolExecutor::new(2).unwrap();
                    let futures: Vec<_> =
                        (0..50).map(|n| executor.submit(task!(double(n)))).collect();
                    assert!(shutdown(&executor, timeout, asynchronously));
                    assert!(shutdown(&executor, AT_ONCE, asynchronously));
                    for (n, future) in (0..).zip(futures) {
                        assert_eq!(future.result_timeout(AT_ONCE).unwrap(), 2 * n);
                    }
                }
                let unused = WorkerPoolExecutor::new(2).unwrap();
                assert!(shutdown(&unused, AT_ONCE, asynchronously));
            }
        });
    }

    #[test]
    fn tasks_that_listen_give_what_they_have() {
        watched(|| {
            for asynchronously in [false, true] {
                let scratch = Scratch::new();
                let executor = WorkerPoolExecutor::new(1).unwrap();
                let sign = scratch.sign("runs");
                let running = executor.submit(task!(run_until_cancelled(sign.clone())));
                sign.wait();
                let waiting = executor.submit(task!(double(1)));
                assert!(!shutdown(&executor, AT_ONCE, asynchronously));
                match running.result_timeout(AT_ONCE) {
                    Ok(result) => assert_eq!(result, 5),
                    // On a machine that is so busy that the grace is over before the task looks.
                    Err(error) => assert!(matches!(error, TaskError::Terminated(_)), "{error}"),
                }
                assert!(matches!(waiting.result_timeout(AT_ONCE), Err(TaskError::Cancelled)));
                let late = executor.submit(task!(double(1)));
                assert!(matches!(late.result(), Err(TaskError::Shutdown)));
            }
        });
    }

    #[test]
    fn tasks_that_do_not_listen_are_given_up() {
        watched(|| {
            for asynchronously in [false, true] {
                let (gates, scratch) = (GateKeeper::new(), Scratch::new());
                let executor = WorkerPoolExecutor::new(1).unwrap();
                let sign = scratch.sign("runs");
                let running = executor.submit(task!(pass(sign.clone(), gates.gate())));
                let pid = sign.hear().parse().unwrap();
                assert!(!shutdown(&executor, AT_ONCE, asynchronously));
                let error = running.result_timeout(AT_ONCE).unwrap_err();
                assert!(matches!(error, TaskError::Terminated(_)), "{error}");
                assert_eq!(error.effect(), Effect::MayHaveRun);
                assert_eq!(runs(pid), !on_processes());
                gates.open();
                executor.shutdown(true, false);
            }
        });
    }

    #[test]
    fn killing_the_workers_ends_every_task_at_once() {
        watched(|| {
            let (gates, scratch) = (GateKeeper::new(), Scratch::new());
            let executor = WorkerPoolExecutor::new(2).unwrap();
            let futures: Vec<_> = (0..20)
                .map(|n| {
                    let sign = scratch.sign(&n.to_string());
                    executor.submit(task!(pass(sign, gates.gate())))
                })
                .collect();
            gates.wait_for(2);
            thread::scope(|scope| {
                let waiting: Vec<_> =
                    futures.iter().map(|future| scope.spawn(|| future.result())).collect();
                executor.kill_workers();
                for thread in waiting {
                    assert!(matches!(thread.join().unwrap(), Err(TaskError::Terminated(_))));
                }
            });
            executor.kill_workers();
            let late = executor.submit(task!(double(1)));
            assert!(matches!(late.result(), Err(TaskError::Shutdown)));
            gates.open();
            executor.shutdown(true, false);
            assert_eq!(gates.arrived(), 2);
        });
    }

    #[test]
    fn who_is_told_that_a_task_was_given_up_may_wait_for_the_end() {
        watched(|| {
            let scratch = Scratch::new();
            let begun = scratch.sign("begun");
            let executor = Arc::new(WorkerPoolExecutor::new(1).unwrap());
            let runs = executor.submit(task!(run_until_cancelled(begun.clone())));
            let waits = executor.submit(task!(run_until_cancelled(begun.clone())));
            begun.wait();
            let ends = Arc::new(AtomicUsize::new(0));
            for future in [runs, waits] {
                let (executor, ends) = (Arc::clone(&executor), Arc::clone(&ends));
                future.add_done_callback(move |_| {
                    executor.shutdown(true, false);
                    ends.fetch_add(1, Ordering::Relaxed);
                });
            }
            executor.kill_workers();
            assert_eq!(ends.load(Ordering::Relaxed), 2);
        });
    }

    #[test]
    fn a_callback_may_end_its_own_executor() {
        watched(|| {
            let scratch = Scratch::new();
            let (begin, killed) = (scratch.sign("begin"), scratch.sign("killed"));
            let executor = Arc::new(WorkerPoolExecutor::new(1).unwrap());
            let sign = begin.clone();
            let waits = executor.submit(task!(|sign| sign.wait()));
            let other = Arc::clone(&executor);
            let end = killed.clone();
            waits.add_done_callback(move |_| {
                assert!(!other.shutdown_timeout(LONG));
                other.kill_workers();
                end.give();
            });
            begin.give();
            killed.wait();
            executor.shutdown(true, false);
        });
    }
}
