//! The future of a task: its states, who gets the result, and callbacks.

mod common;

use std::{
    cell::Cell,
    panic::{RefUnwindSafe, UnwindSafe},
    pin::pin,
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

use common::{Gate, GateKeeper, Random, Scratch, eventually, takes_its_time, watched};
use freethreading::{
    Backend, Broken, CodecError, Death, Effect, Error, KillOnDrop, Launcher, Map, MapStream,
    Mapping, Panic, Part, StartError, Task, TaskError, TaskFuture, TooLarge, Worker, WorkerDied,
    WorkerPoolExecutor, WorkerPoolExecutorBuilder, task,
};

freethreading::init_tests!();

fn seven_at(gate: Gate) -> u32 {
    gate.pass();
    7
}

fn panic_at(gate: Gate) -> u32 {
    gate.pass();
    panic!("no result")
}

fn fail() -> u32 {
    panic!("no result");
}

/// An executor of one worker, which is held by the first task; the second is queued.
struct Held {
    gates: GateKeeper,
    executor: WorkerPoolExecutor,
    running: TaskFuture<u32>,
    pending: TaskFuture<u32>,
}

impl Held {
    fn new() -> Held {
        let gates = GateKeeper::new();
        let executor = WorkerPoolExecutor::new(1).unwrap();
        let running = executor.submit(task!(seven_at(gates.gate())));
        gates.wait_for(1);
        let pending = executor.submit(task!(seven_at(gates.gate())));
        Held {
            gates,
            executor,
            running,
            pending,
        }
    }
}

/// A future that is done, with a panic.
fn failed() -> TaskFuture<u32> {
    let executor = WorkerPoolExecutor::new(1).unwrap();
    let future = executor.submit(fail);
    executor.shutdown(true, false);
    future
}

fn finished() -> TaskFuture<u32> {
    let executor = WorkerPoolExecutor::new(1).unwrap();
    let future = executor.submit(|| 7);
    executor.shutdown(true, false);
    future
}

fn cancelled() -> TaskFuture<u32> {
    let held = Held::new();
    assert!(held.pending.cancel());
    held.pending
}

/// Whether it is running, done and cancelled.
fn state(future: &TaskFuture<u32>) -> (bool, bool, bool) {
    (future.running(), future.done(), future.cancelled())
}

const PENDING: (bool, bool, bool) = (false, false, false);
const RUNNING: (bool, bool, bool) = (true, false, false);
const FINISHED: (bool, bool, bool) = (false, true, false);
const CANCELLED: (bool, bool, bool) = (false, true, true);

freethreading::test_backends! {
    #[test]
    fn a_future_goes_from_pending_to_running_to_finished() {
        watched(|| {
            let held = Held::new();
            assert_eq!(state(&held.pending), PENDING);
            assert_eq!(state(&held.running), RUNNING);
            held.gates.open();
            eventually("the task is done", || held.running.done());
            assert_eq!(state(&held.running), FINISHED);
            held.running.result().unwrap();
            assert_eq!(state(&held.running), FINISHED);
        });
    }

    #[test]
    fn a_failed_task_is_finished() {
        watched(|| assert_eq!(state(&failed()), FINISHED));
    }

    #[test]
    fn a_refused_task_is_finished_but_not_cancelled() {
        watched(|| {
            let executor = WorkerPoolExecutor::new(1).unwrap();
            executor.shutdown(true, false);
            assert_eq!(state(&executor.submit(|| 7)), FINISHED);
        });
    }

    #[test]
    fn a_pending_task_can_be_cancelled_and_never_runs() {
        watched(|| {
            let held = Held::new();
            assert!(held.pending.cancel());
            assert_eq!(state(&held.pending), CANCELLED);
            held.gates.open();
            held.executor.shutdown(true, false);
            assert_eq!(held.gates.arrived(), 1);
            assert_eq!(state(&held.pending), CANCELLED);
            let error = held.pending.result().unwrap_err();
            assert!(matches!(error, TaskError::Cancelled));
            assert_eq!(error.effect(), Effect::DidNotRun);
        });
    }

    #[test]
    fn cancelling_again_is_no_mistake() {
        watched(|| {
            let future = cancelled();
            assert!(future.cancel());
            assert_eq!(state(&future), CANCELLED);
        });
    }

    #[test]
    fn a_running_task_cannot_be_cancelled() {
        watched(|| {
            let held = Held::new();
            assert!(!held.running.cancel());
            assert_eq!(state(&held.running), RUNNING);
            held.gates.open();
            assert_eq!(held.running.result().unwrap(), 7);
        });
    }

    #[test]
    fn a_finished_task_cannot_be_cancelled() {
        watched(|| {
            let (finished, failed) = (finished(), failed());
            assert!(!finished.cancel() && !failed.cancel());
            assert_eq!((state(&finished), state(&failed)), (FINISHED, FINISHED));
            assert_eq!(finished.result().unwrap(), 7);
            assert!(matches!(failed.result(), Err(TaskError::Panicked(_))));
        });
    }

    #[test]
    fn two_who_cancel_at_once_agree() {
        watched(|| {
            let held = Held::new();
            for _ in 0..3000 {
                let future = held.executor.submit(|| ());
                let start = Barrier::new(2);
                let cancel = || {
                    start.wait();
                    future.cancel()
                };
                let both = thread::scope(|scope| {
                    let other = scope.spawn(cancel);
                    [cancel(), other.join().unwrap()]
                });
                assert_eq!(both, [true, true]);
            }
        });
    }

    #[test]
    fn a_task_is_either_cancelled_or_run() {
        watched(|| {
            let scratch = Scratch::new();
            let executor = WorkerPoolExecutor::new(2).unwrap();
            let calls = Arc::new(AtomicUsize::new(0));
            let futures: Vec<_> = (0..500u32)
                .map(|n| {
                    let sign = scratch.sign("ran");
                    let future = executor.submit(task!(|sign, n| sign.note(n)));
                    let calls = Arc::clone(&calls);
                    future.add_done_callback(move |future| {
                        assert!(future.done());
                        calls.fetch_add(1, Ordering::SeqCst);
                    });
                    future
                })
                .collect();
            let mut random = Random::new();
            let cancelled: Vec<_> =
                futures.iter().map(|future| random.below(3) == 0 && future.cancel()).collect();
            executor.shutdown(true, false);
            let mut ran = scratch.sign("ran").notes();
            ran.sort_by_key(|n| n.parse::<u32>().unwrap());
            let expected: Vec<_> =
                (0..500).filter(|&n| !cancelled[n]).map(|n| n.to_string()).collect();
            assert_eq!(ran, expected);
            for (future, cancelled) in futures.iter().zip(cancelled) {
                assert_eq!(matches!(future.result(), Err(TaskError::Cancelled)), cancelled);
            }
            eventually("all callbacks are called", || calls.load(Ordering::SeqCst) == 500);
        });
    }

    #[test]
    fn a_timeout_of_zero_only_looks() {
        watched(|| {
            let held = Held::new();
            let look = |future: &TaskFuture<u32>| future.result_timeout(Duration::ZERO);
            assert!(matches!(look(&held.running), Err(TaskError::Timeout)));
            assert!(matches!(look(&held.pending), Err(TaskError::Timeout)));
            assert!(matches!(look(&cancelled()), Err(TaskError::Cancelled)));
            assert!(matches!(look(&failed()), Err(TaskError::Panicked(_))));
            assert_eq!(look(&finished()).unwrap(), 7);
        });
    }

    #[test]
    fn a_timed_wait_in_vain_changes_nothing() {
        watched(|| {
            let held = Held::new();
            let early = takes_its_time(|limit| held.running.result_timeout(limit));
            let error = early.unwrap_err();
            assert!(matches!(error, TaskError::Timeout));
            assert_eq!(error.effect(), Effect::MayHaveRun);
            assert_eq!(state(&held.running), RUNNING);
            held.gates.open();
            assert_eq!(held.running.result_timeout(Duration::MAX).unwrap(), 7);
        });
    }

    #[test]
    fn a_blocked_taker_is_woken_by_the_result() {
        watched(|| {
            let held = Held::new();
            thread::scope(|scope| {
                let blocked = scope.spawn(|| held.running.result());
                let timed = scope.spawn(|| held.pending.result_timeout(Duration::from_secs(50)));
                held.gates.open();
                assert_eq!(blocked.join().unwrap().unwrap(), 7);
                assert_eq!(timed.join().unwrap().unwrap(), 7);
            });
        });
    }

    #[test]
    fn a_blocked_taker_is_woken_by_a_panic() {
        watched(|| {
            let held = Held::new();
            let failing = held.executor.submit(task!(panic_at(held.gates.gate())));
            thread::scope(|scope| {
                let blocked = scope.spawn(|| failing.result());
                held.gates.open();
                assert!(matches!(blocked.join().unwrap(), Err(TaskError::Panicked(_))));
            });
        });
    }

    #[test]
    fn a_blocked_taker_is_woken_by_a_cancellation() {
        watched(|| {
            let held = Held::new();
            thread::scope(|scope| {
                let blocked = scope.spawn(|| held.pending.result());
                assert!(held.pending.cancel());
                assert!(matches!(blocked.join().unwrap(), Err(TaskError::Cancelled)));
            });
        });
    }

    #[test]
    fn a_result_is_handed_out_once() {
        watched(|| {
            let future = finished();
            assert_eq!(future.result().unwrap(), 7);
            let error = future.result().unwrap_err();
            assert!(matches!(error, TaskError::Taken));
            assert_eq!(error.effect(), Effect::Ran);
            let awaited = pin!(future).poll(&mut Context::from_waker(Waker::noop()));
            assert!(matches!(awaited, Poll::Ready(Err(TaskError::Taken))));
        });
    }

    #[test]
    fn an_error_is_handed_out_again_and_again() {
        watched(|| {
            let future = failed();
            let texts = [0; 3].map(|_| future.result().unwrap_err().to_string());
            assert!(texts[0].contains("no result"));
            assert_eq!([&texts[1], &texts[2]], [&texts[0], &texts[0]]);
        });
    }

    #[test]
    fn of_several_threads_that_wait_one_gets_the_result() {
        watched(|| {
            let held = Held::new();
            thread::scope(|scope| {
                let takers: Vec<_> =
                    (0..8).map(|_| scope.spawn(|| held.running.result())).collect();
                held.gates.open();
                let results: Vec<_> = takers.into_iter().map(|t| t.join().unwrap()).collect();
                assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
                let others = results.into_iter().filter_map(Result::err);
                assert!(others.into_iter().all(|error| matches!(error, TaskError::Taken)));
            });
        });
    }

    #[test]
    fn several_threads_that_wait_all_get_the_error() {
        watched(|| {
            let held = Held::new();
            let failing = held.executor.submit(task!(panic_at(held.gates.gate())));
            thread::scope(|scope| {
                let takers: Vec<_> = (0..8).map(|_| scope.spawn(|| failing.result())).collect();
                held.gates.open();
                for taker in takers {
                    assert!(matches!(taker.join().unwrap(), Err(TaskError::Panicked(_))));
                }
            });
        });
    }

    #[test]
    fn a_dropped_future_leaves_its_task_alone() {
        watched(|| {
            let Held { gates, executor, running, pending } = Held::new();
            drop((running, pending));
            gates.open();
            executor.shutdown(true, false);
            assert_eq!(gates.arrived(), 2);
        });
    }

    #[test]
    fn callbacks_are_called_in_order_and_once_with_the_finished_future() {
        watched(|| {
            let held = Held::new();
            let (sender, calls) = mpsc::channel();
            for n in 0..10 {
                let sender = sender.clone();
                held.running.add_done_callback(move |future| {
                    sender.send((n, state(future), future.result().ok())).unwrap();
                });
            }
            drop(sender);
            held.gates.open();
            let calls: Vec<_> = calls.iter().collect();
            let expected: Vec<_> =
                (0..10).map(|n| (n, FINISHED, (n == 0).then_some(7))).collect();
            assert_eq!(calls, expected);
        });
    }

    #[test]
    fn callbacks_see_errors_too() {
        watched(|| {
            let held = Held::new();
            let failing = held.executor.submit(task!(panic_at(held.gates.gate())));
            let (sender, calls) = mpsc::channel();
            failing.add_done_callback(move |future| sender.send(future.result()).unwrap());
            held.gates.open();
            assert!(matches!(calls.recv().unwrap(), Err(TaskError::Panicked(_))));
            assert!(matches!(failing.result(), Err(TaskError::Panicked(_))));
        });
    }

    #[test]
    fn a_callback_on_a_finished_future_is_called_right_here() {
        watched(|| {
            for future in [finished(), failed(), cancelled()] {
                let (sender, calls) = mpsc::channel();
                future.add_done_callback(move |future| {
                    sender.send((future.done(), thread::current().id())).unwrap();
                });
                assert_eq!(calls.try_recv().unwrap(), (true, thread::current().id()));
            }
        });
    }

    #[test]
    fn cancelling_calls_the_callbacks_before_it_returns() {
        watched(|| {
            let held = Held::new();
            let (sender, calls) = mpsc::channel();
            for n in 0..3 {
                let sender = sender.clone();
                held.pending.add_done_callback(move |future| {
                    sender.send((n, state(future), thread::current().id())).unwrap();
                });
            }
            assert!(held.pending.cancel());
            let here = thread::current().id();
            let calls: Vec<_> = calls.try_iter().collect();
            assert_eq!(calls, [0, 1, 2].map(|n| (n, CANCELLED, here)));
        });
    }

    #[test]
    fn a_shutdown_that_cancels_calls_the_callbacks() {
        watched(|| {
            let held = Held::new();
            let (sender, calls) = mpsc::channel();
            held.pending.add_done_callback(move |future| sender.send(state(future)).unwrap());
            held.executor.shutdown(false, true);
            assert_eq!(calls.recv().unwrap(), CANCELLED);
        });
    }

    #[test]
    fn a_panicking_callback_harms_nobody() {
        watched(|| {
            let held = Held::new();
            let (sender, calls) = mpsc::channel();
            for n in 0..3 {
                let sender = sender.clone();
                held.running.add_done_callback(move |_| {
                    sender.send(n).unwrap();
                    panic!("callback {n}");
                });
                held.pending.add_done_callback(move |_| panic!("callback {n}"));
            }
            drop(sender);
            assert!(held.pending.cancel());
            held.gates.open();
            assert_eq!(calls.iter().collect::<Vec<_>>(), [0, 1, 2]);
            assert_eq!(held.running.result().unwrap(), 7);
            // On a future that is done the panic does not reach the caller either.
            held.running.add_done_callback(|_| panic!("a late callback"));
            assert_eq!(held.executor.submit(|| 8).result().unwrap(), 8);
            held.executor.shutdown(true, false);
        });
    }

    #[test]
    fn a_callback_may_add_callbacks() {
        watched(|| {
            let held = Held::new();
            let (sender, calls) = mpsc::channel();
            let last = sender.clone();
            held.running.add_done_callback(move |future| {
                sender.send("outer").unwrap();
                let inner = sender.clone();
                future.add_done_callback(move |future| {
                    inner.send("inner").unwrap();
                    let innermost = inner.clone();
                    future.add_done_callback(move |_| innermost.send("innermost").unwrap());
                });
                sender.send("outer again").unwrap();
            });
            held.running.add_done_callback(move |_| last.send("last").unwrap());
            held.gates.open();
            let calls: Vec<_> = calls.iter().collect();
            assert_eq!(calls, ["outer", "inner", "innermost", "outer again", "last"]);
        });
    }

    #[test]
    fn a_callback_may_take_the_result() {
        watched(|| {
            let held = Held::new();
            let (sender, result) = mpsc::channel();
            held.running.add_done_callback(move |future| sender.send(future.result()).unwrap());
            held.gates.open();
            assert_eq!(result.recv().unwrap().unwrap(), 7);
            assert!(matches!(held.running.result(), Err(TaskError::Taken)));
        });
    }

    #[test]
    fn the_callback_of_a_dropped_future_is_called() {
        watched(|| {
            let Held { gates, running, .. } = Held::new();
            let (sender, result) = mpsc::channel();
            running.add_done_callback(move |future| sender.send(future.result()).unwrap());
            drop(running);
            gates.open();
            assert_eq!(result.recv().unwrap().unwrap(), 7);
        });
    }

    #[test]
    fn a_callback_added_while_the_task_ends_is_called_once() {
        watched(|| {
            let executor = WorkerPoolExecutor::new(1).unwrap();
            let calls = Arc::new(AtomicUsize::new(0));
            for round in 1..=300 {
                let future = executor.submit(|| ());
                let called = Arc::clone(&calls);
                future.add_done_callback(move |_| {
                    called.fetch_add(1, Ordering::SeqCst);
                });
                future.result().unwrap();
                eventually("the callback is called", || calls.load(Ordering::SeqCst) == round);
            }
            executor.shutdown(true, false);
            assert_eq!(calls.load(Ordering::SeqCst), 300);
        });
    }

    #[test]
    fn a_shutdown_waits_for_callbacks() {
        watched(|| {
            let ways: [fn(&WorkerPoolExecutor); 3] = [
                |executor| executor.shutdown(true, false),
                |executor| futures::executor::block_on(executor.shutdown_async(false)),
                |executor| assert!(executor.shutdown_timeout(Duration::MAX)),
            ];
            for shut_down in ways {
                let executor = WorkerPoolExecutor::new(2).unwrap();
                let calls = Arc::new(AtomicUsize::new(0));
                for _ in 0..10 {
                    let called = Arc::clone(&calls);
                    executor.submit(|| ()).add_done_callback(move |_| {
                        // Long enough for a shutdown that does not wait to be over.
                        thread::sleep(Duration::from_millis(20));
                        called.fetch_add(1, Ordering::SeqCst);
                    });
                }
                shut_down(&executor);
                assert_eq!(calls.load(Ordering::SeqCst), 10);
            }
        });
    }

    #[test]
    fn a_shutdown_of_a_broken_executor_waits_for_callbacks() {
        fn break_it() {
            panic!("it never begins");
        }
        watched(|| {
            let builder = WorkerPoolExecutor::builder().max_workers(1).initializer(break_it);
            let executor = builder.build().unwrap();
            let calls = Arc::new(AtomicUsize::new(0));
            for _ in 0..5 {
                let called = Arc::clone(&calls);
                executor.submit(|| ()).add_done_callback(move |_| {
                    // Long enough for a shutdown that does not wait to be over.
                    thread::sleep(Duration::from_millis(20));
                    called.fetch_add(1, Ordering::SeqCst);
                });
            }
            executor.shutdown(true, false);
            assert_eq!(calls.load(Ordering::SeqCst), 5);
        });
    }

    #[test]
    fn a_slow_callback_stops_no_other_worker() {
        watched(|| {
            let executor = WorkerPoolExecutor::new(2).unwrap();
            let (release, released) = mpsc::channel::<()>();
            let (entered, has_entered) = mpsc::channel();
            let gates = GateKeeper::new();
            executor.submit(task!(seven_at(gates.gate()))).add_done_callback(move |_| {
                entered.send(()).unwrap();
                released.recv().unwrap();
            });
            gates.open();
            has_entered.recv().unwrap();
            for _ in 0..20 {
                executor.submit(|| ()).result().unwrap();
            }
            release.send(()).unwrap();
            executor.shutdown(true, false);
        });
    }

    #[test]
    fn those_who_wait_in_all_ways_are_released_by_a_shutdown() {
        watched(|| {
            let held = Held::new();
            let futures: Vec<_> = (0..16).map(|_| held.executor.submit(|| 1)).collect();
            let count = AtomicUsize::new(0);
            thread::scope(|scope| {
                for (n, future) in futures.into_iter().enumerate() {
                    let count = &count;
                    scope.spawn(move || {
                        let result = match n % 2 {
                            0 => future.result(),
                            _ => futures::executor::block_on(future),
                        };
                        assert!(matches!(result, Err(TaskError::Cancelled)));
                        count.fetch_add(1, Ordering::SeqCst);
                    });
                }
                held.executor.shutdown(false, true);
            });
            assert_eq!(count.load(Ordering::SeqCst), 16);
        });
    }

    #[test]
    fn the_debug_output_tells_task_and_state() {
        watched(|| {
            let held = Held::new();
            let text = format!("{:?}", held.pending);
            assert!(text.contains("seven_at") && text.contains("state: pending"), "{text}");
            let text = format!("{:?}", held.running);
            assert!(text.contains("state: running"), "{text}");
            assert!(format!("{:?}", cancelled()).contains("state: cancelled"));
            assert!(format!("{:?}", failed()).contains("state: finished"));
            let text = format!("{:?}", finished().kill_on_drop());
            assert!(text.starts_with("KillOnDrop") && text.contains("state: finished"), "{text}");
            let finished = finished();
            finished.add_done_callback(|future| {
                assert!(format!("{future:?}").contains("state: finished"));
            });
        });
    }
}

#[test]
fn a_callback_may_capture_what_cannot_be_encoded() {
    watched(|| {
        let executor = WorkerPoolExecutor::builder()
            .backend(Backend::Multiprocessing)
            .build()
            .unwrap();
        let called = Arc::new(AtomicBool::new(false));
        let future = executor.submit(std::process::id);
        let (sender, pids) = mpsc::channel();
        let flag = Arc::clone(&called);
        future.add_done_callback(move |_| {
            flag.store(true, Ordering::SeqCst);
            sender.send(std::process::id()).unwrap();
        });
        assert_eq!(pids.recv().unwrap(), std::process::id());
        assert!(called.load(Ordering::SeqCst));
    });
}

#[test]
fn the_callbacks_of_worker_processes_may_wait_for_each_other() {
    watched(|| {
        let executor = common::processes(1);
        let (sender, meeting) = mpsc::channel();
        let meeting = Arc::new(Mutex::new(meeting));
        let (done, is_done) = mpsc::channel();
        let gates = GateKeeper::new();
        let first = executor.submit(task!(seven_at(gates.gate())));
        let (waiting, first_done) = (Arc::clone(&meeting), done.clone());
        first.add_done_callback(move |_| {
            waiting.lock().unwrap().recv().unwrap();
            first_done.send(1).unwrap();
        });
        let second = executor.submit(task!(seven_at(gates.gate())));
        second.add_done_callback(move |_| {
            sender.send(()).unwrap();
            done.send(2).unwrap();
        });
        gates.open();
        let mut done: Vec<i32> = is_done.iter().collect();
        done.sort_unstable();
        assert_eq!(done, [1, 2]);
    });
}

static_assertions::assert_impl_all!(TaskFuture<Cell<u32>>: UnwindSafe, RefUnwindSafe);
static_assertions::assert_impl_all!(KillOnDrop<Cell<u32>>: UnwindSafe, RefUnwindSafe);
static_assertions::assert_impl_all!(MapStream<Cell<u32>>: UnwindSafe, RefUnwindSafe);
static_assertions::assert_impl_all!(Worker: UnwindSafe, RefUnwindSafe);
static_assertions::assert_impl_all!(Error: UnwindSafe, RefUnwindSafe);

/// `Cell` may be sent but not shared, which must not matter to whoever holds its future.
#[test]
fn types_cross_threads() {
    fn everywhere<T: Send + Sync + Unpin + 'static>() {}
    fn anywhere<T: Send + Unpin>() {}
    fn sends<T: Send>(_: T) {}

    everywhere::<TaskFuture<u32>>();
    everywhere::<TaskFuture<Cell<u32>>>();
    everywhere::<KillOnDrop<Cell<u32>>>();
    everywhere::<WorkerPoolExecutor>();
    everywhere::<WorkerPoolExecutorBuilder>();
    everywhere::<Worker>();
    everywhere::<Launcher>();
    everywhere::<Backend>();
    everywhere::<Map<u32>>();
    anywhere::<MapStream<u32>>();
    everywhere::<Task<(u32, String), u32>>();
    everywhere::<Error>();
    everywhere::<TaskError>();
    everywhere::<Panic>();
    everywhere::<CodecError>();
    everywhere::<WorkerDied>();
    everywhere::<StartError>();
    everywhere::<Broken>();
    everywhere::<TooLarge>();
    everywhere::<Death>();
    everywhere::<Effect>();
    everywhere::<Part>();
    anywhere::<Mapping<'static>>();
    anywhere::<Map<Cell<u32>>>();
    anywhere::<MapStream<Cell<u32>>>();
    anywhere::<Task<(Cell<u32>,), Cell<u32>>>();

    let executor = WorkerPoolExecutor::new(1).unwrap();
    sends(executor.shutdown_async(false));
    sends(Worker::new(|| ()).join_async());
}
