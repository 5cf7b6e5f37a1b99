//! A limit to the tasks that wait: who waits for room gets it, in turn, and nobody waits in vain.

mod common;

use std::{
    future::Future,
    pin::pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, Waker},
    thread,
};

use common::{Gate, GateKeeper, Scratch, Wakes, eventually, watched};
use freethreading::{
    Backend, Error, Full, TaskError, TaskFuture, WorkerPoolExecutor, get_backend, task,
};
use serde::{Deserialize, Serialize};

freethreading::init_tests!();

fn limited(max_workers: usize, max_pending: usize) -> WorkerPoolExecutor {
    WorkerPoolExecutor::builder()
        .max_workers(max_workers)
        .max_pending(max_pending)
        .build()
        .unwrap()
}

fn pass(gate: Gate) {
    gate.pass();
}

fn fail() {
    panic!("not today");
}

fn exit() {
    std::process::exit(3);
}

fn seven() -> u32 {
    7
}

/// All workers at the gate, and as many tasks waiting as may.
fn filled(
    gates: &GateKeeper,
    max_workers: usize,
    max_pending: usize,
) -> (WorkerPoolExecutor, Vec<TaskFuture<()>>) {
    let executor = limited(max_workers, max_pending);
    let mut futures: Vec<_> = (0..max_workers)
        .map(|_| executor.submit(task!(pass(gates.gate()))))
        .collect();
    gates.wait_for(max_workers);
    for _ in 0..max_pending {
        futures.push(executor.try_submit(task!(pass(gates.gate()))).unwrap());
    }
    (executor, futures)
}

/// Whether the future is ready after one look.
fn is_ready<F: Future>(future: std::pin::Pin<&mut F>) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    future.poll(&mut context).is_ready()
}

freethreading::test_backends! {
    #[test]
    fn no_room_at_all_is_an_error() {
        let built = WorkerPoolExecutor::builder().max_pending(0).build();
        assert!(matches!(built, Err(Error::InvalidArgument(why)) if why.contains("max_pending")));
    }

    #[test]
    fn a_task_too_many_comes_back() {
        watched(|| {
            let gates = GateKeeper::new();
            let (executor, futures) = filled(&gates, 2, 3);
            let Full(task) = executor.try_submit(seven).unwrap_err();
            assert_eq!(task(), 7);
            assert!(matches!(Error::from(Full(task)), Error::Full));
            gates.open();
            assert!(futures.iter().all(|future| future.result().is_ok()));
            assert_eq!(executor.submit(task).result().unwrap(), 7);
            // The workers are idle or about to be: there is room again.
            assert_eq!(executor.try_submit(seven).unwrap().result().unwrap(), 7);
        });
    }

    #[test]
    fn workers_that_are_still_to_start_make_room() {
        watched(|| {
            let gates = GateKeeper::new();
            let executor = limited(3, 1);
            // Three for the workers, however slowly these come, and one that waits.
            let futures: Vec<_> = (0..4)
                .map(|_| executor.try_submit(task!(pass(gates.gate()))).unwrap())
                .collect();
            gates.wait_for(3);
            assert!(executor.try_submit(seven).is_err());
            gates.open();
            assert!(futures.iter().all(|future| future.result().is_ok()));
        });
    }

    #[test]
    fn submit_waits_for_room() {
        watched(|| {
            let gates = GateKeeper::new();
            let (executor, futures) = filled(&gates, 1, 1);
            thread::scope(|scope| {
                let submitting = scope.spawn(|| executor.submit(seven).result().unwrap());
                assert!(executor.try_submit(seven).is_err());
                gates.open();
                assert_eq!(submitting.join().unwrap(), 7);
            });
            assert!(futures.iter().all(|future| future.result().is_ok()));
        });
    }

    #[test]
    fn an_async_submission_waits_for_room_in_turn() {
        watched(|| {
            let gates = GateKeeper::new();
            let scratch = Scratch::new();
            let order = scratch.sign("order");
            let (executor, _futures) = filled(&gates, 1, 1);
            let note = |n: u32| {
                let order = order.clone();
                executor.submit_async(task!(|order, n| order.note(n)))
            };
            let (mut first, mut second) = (pin!(note(1)), pin!(note(2)));
            assert!(!is_ready(first.as_mut()) && !is_ready(second.as_mut()));
            gates.open();
            futures::executor::block_on(async {
                // The later one alone would wait in vain.
                let (first, second) = futures::join!(first, second);
                second.await.unwrap();
                first.await.unwrap();
            });
            assert_eq!(order.notes(), ["1", "2"]);
        });
    }

    #[test]
    fn a_submission_that_is_dropped_submits_nothing_and_holds_up_nobody() {
        watched(|| {
            let gates = GateKeeper::new();
            let scratch = Scratch::new();
            let ran = scratch.sign("ran");
            let (executor, futures) = filled(&gates, 1, 1);
            {
                let sign = ran.clone();
                let mut waiting = pin!(executor.submit_async(task!(|sign| sign.give())));
                assert!(!is_ready(waiting.as_mut()));
            }
            // One whose turn comes, and which never looks again.
            let sign = ran.clone();
            let wakes = Wakes::new();
            let waker = Waker::from(Arc::clone(&wakes));
            let mut waiting = Box::pin(executor.submit_async(task!(|sign| sign.give())));
            assert!(waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            gates.open();
            assert!(futures.iter().all(|future| future.result().is_ok()));
            eventually("its turn comes", || wakes.count() > 0);
            drop(waiting);
            for _ in 0..10 {
                assert_eq!(executor.submit(seven).result().unwrap(), 7);
            }
            executor.shutdown(true, false);
            assert!(!ran.is_given());
        });
    }

    #[test]
    fn cancelled_tasks_take_no_room() {
        watched(|| {
            let gates = GateKeeper::new();
            let (executor, futures) = filled(&gates, 1, 3);
            assert!(executor.try_submit(seven).is_err());
            assert!(futures[1].cancel() && futures[3].cancel());
            let one = executor.try_submit(seven).unwrap();
            let other = executor.submit(seven);
            assert!(executor.try_submit(seven).is_err());
            gates.open();
            assert_eq!(one.result().unwrap() + other.result().unwrap(), 14);
            assert!(futures[2].result().is_ok());
        });
    }

    #[test]
    fn a_cancelled_task_makes_room_for_those_who_wait() {
        watched(|| {
            let gates = GateKeeper::new();
            let (executor, futures) = filled(&gates, 1, 2);
            let wakes = Wakes::new();
            let waker = Waker::from(Arc::clone(&wakes));
            let mut context = Context::from_waker(&waker);
            let mut first = Box::pin(executor.submit_async(seven));
            assert!(first.as_mut().poll(&mut context).is_pending());
            thread::scope(|scope| {
                assert!(futures[2].cancel());
                assert_eq!(wakes.count(), 1);
                let second = scope.spawn(|| executor.submit(seven).result().unwrap());
                assert!(futures[1].kill());
                assert!(is_ready(first.as_mut()));
                gates.open();
                assert_eq!(second.join().unwrap(), 7);
            });
        });
    }

    #[test]
    fn a_task_that_is_cancelled_while_another_comes_makes_room_for_it() {
        watched(|| {
            let gates = GateKeeper::new();
            let (executor, mut futures) = filled(&gates, 1, 1);
            let mut waiting = futures.pop().unwrap();
            for _ in 0..500 {
                let start = std::sync::Barrier::new(2);
                waiting = thread::scope(|scope| {
                    scope.spawn(|| {
                        start.wait();
                        assert!(waiting.cancel());
                    });
                    start.wait();
                    executor.submit(task!(pass(gates.gate())))
                });
            }
            gates.open();
            waiting.result().unwrap();
        });
    }

    #[test]
    fn a_shutdown_wakes_those_who_wait_for_room() {
        watched(|| {
            for cancel_futures in [false, true] {
                let gates = GateKeeper::new();
                let (executor, _futures) = filled(&gates, 1, 1);
                let mut asynchronous = Box::pin(executor.submit_async(seven));
                assert!(!is_ready(asynchronous.as_mut()));
                thread::scope(|scope| {
                    let blocked = scope.spawn(|| executor.submit(seven).result());
                    executor.shutdown(false, cancel_futures);
                    assert!(matches!(blocked.join().unwrap(), Err(TaskError::Shutdown)));
                });
                let refused = futures::executor::block_on(asynchronous).result();
                assert!(matches!(refused, Err(TaskError::Shutdown)));
                let refused = executor.try_submit(seven).unwrap().result();
                assert!(matches!(refused, Err(TaskError::Shutdown)));
                gates.open();
            }
        });
    }

    #[test]
    fn a_broken_executor_wakes_those_who_wait_for_room() {
        watched(|| {
            let executor = WorkerPoolExecutor::builder()
                .max_workers(1)
                .max_pending(1)
                .initializer(fail)
                .build()
                .unwrap();
            let futures: Vec<_> = (0..20).map(|_| executor.submit(seven)).collect();
            for future in futures {
                assert!(matches!(future.result(), Err(TaskError::Broken(_))));
            }
        });
    }

    #[test]
    fn many_submitters_all_get_in() {
        watched(|| {
            let executor = limited(2, 2);
            thread::scope(|scope| {
                for n in 0..4u32 {
                    let executor = &executor;
                    scope.spawn(move || {
                        for k in 0..50u32 {
                            match (n + k) % 3 {
                                0 => assert_eq!(executor.submit(seven).result().unwrap(), 7),
                                1 => futures::executor::block_on(async {
                                    let future = executor.submit_async(seven).await;
                                    assert_eq!(future.await.unwrap(), 7);
                                }),
                                _ => {
                                    let mut waiting = pin!(executor.submit_async(seven));
                                    let mut context = Context::from_waker(Waker::noop());
                                    if let Poll::Ready(future) = waiting.as_mut().poll(&mut context)
                                    {
                                        drop(future);
                                    }
                                }
                            }
                        }
                    });
                }
            });
            executor.shutdown(true, false);
        });
    }

    #[test]
    fn who_comes_at_once_with_others_finds_the_room_that_there_is() {
        watched(|| {
            for _ in 0..20 {
                let gates = GateKeeper::new();
                let executor = limited(2, 3);
                let start = std::sync::Barrier::new(5);
                let futures: Vec<_> = thread::scope(|scope| {
                    let submit = || {
                        start.wait();
                        executor.try_submit(task!(pass(gates.gate())))
                    };
                    let submits: Vec<_> = (0..5).map(|_| scope.spawn(submit)).collect();
                    submits.into_iter().map(|submit| submit.join().unwrap()).collect()
                });
                assert!(futures.iter().all(Result::is_ok));
                assert!(executor.try_submit(seven).is_err());
                gates.open();
            }
        });
    }

    #[test]
    fn a_map_may_be_larger_than_the_room() {
        watched(|| {
            let executor = limited(2, 1);
            let squares = executor.map(|n: u64| n * n, 0..200).into_vec().unwrap();
            assert_eq!(squares, (0..200).map(|n| n * n).collect::<Vec<_>>());
        });
    }
}

#[test]
fn a_worker_process_that_dies_holds_up_nobody() {
    watched(|| {
        let executor = WorkerPoolExecutor::builder()
            .backend(Backend::Multiprocessing)
            .max_workers(1)
            .max_pending(1)
            .build()
            .unwrap();
        assert_ne!(get_backend().unwrap(), executor.backend());
        for _ in 0..5 {
            let doomed = executor.submit(exit);
            let good: Vec<_> = (0..3).map(|_| executor.submit(seven)).collect();
            assert!(matches!(doomed.result(), Err(TaskError::WorkerDied(_))));
            assert!(good.iter().all(|future| future.result().is_ok()));
        }
    });
}

#[test]
fn what_a_cancelled_task_was_given_may_submit_as_it_is_dropped() {
    static EXECUTOR: OnceLock<WorkerPoolExecutor> = OnceLock::new();

    #[derive(Serialize, Deserialize)]
    struct Submits;

    impl Drop for Submits {
        fn drop(&mut self) {
            drop(EXECUTOR.get().unwrap().submit(seven));
        }
    }

    watched(|| {
        let gates = GateKeeper::new();
        let builder = WorkerPoolExecutor::builder().backend(Backend::Threading);
        let executor = builder.max_workers(1).max_pending(1).build().unwrap();
        let executor = EXECUTOR.get_or_init(|| executor);
        let running = executor.submit(task!(pass(gates.gate())));
        gates.wait_for(1);
        let waiting = executor.submit(task!(drop::<Submits>(Submits)));
        // It finds the room of the task that it was an argument of.
        assert!(waiting.cancel());
        assert!(executor.try_submit(seven).is_err());
        gates.open();
        running.result().unwrap();
    });
}
