//! Waiting from async code: on any runtime and on none, left half-waiter, with any waker.

mod common;

use std::{
    pin::{Pin, pin},
    sync::{Arc, Mutex},
    task::{Context, Poll, Wake, Waker},
    thread,
    time::{Duration, Instant},
};

use common::{
    Gate, GateKeeper, Panicking, Random, Wakes, eventually, watched,
    ways::{current_thread, multi_thread},
};
use freethreading::{
    Backend, BoundedSemaphore, Condition, Error, Event, Lock, Queue, RLock, Semaphore, SimpleQueue,
    TaskError, TaskFuture, Worker, WorkerPool, WorkerPoolExecutor, current_worker, get_backend,
    task,
};
use futures::{FutureExt, StreamExt, future::try_join_all, stream::FuturesUnordered};

freethreading::init_tests!();

fn seven_at(gate: Gate) -> u32 {
    gate.pass();
    7
}

fn number_at((n, gate): (u32, Option<Gate>)) -> u32 {
    if let Some(gate) = gate {
        gate.pass();
    }
    n
}

fn fail() {
    panic!("no luck");
}

fn double(x: u64) -> u64 {
    x * 2
}

/// Who waits for a future: a thread, or a task of a runtime.
#[derive(Clone, Copy, Debug)]
enum Waiter {
    Blocking,
    Timed,
    BlockOn,
    TokioMultiThread,
    TokioSpawned,
    TokioCurrentThread,
    Smol,
    SmolSpawned,
}

impl Waiter {
    const ALL: [Waiter; 8] = [
        Waiter::Blocking,
        Waiter::Timed,
        Waiter::BlockOn,
        Waiter::TokioMultiThread,
        Waiter::TokioSpawned,
        Waiter::TokioCurrentThread,
        Waiter::Smol,
        Waiter::SmolSpawned,
    ];

    fn wait<R: Send + 'static>(self, future: TaskFuture<R>) -> Result<R, TaskError> {
        match self {
            Waiter::Blocking => future.result(),
            Waiter::Timed => future.result_timeout(Duration::from_secs(50)),
            Waiter::SmolSpawned => smol::block_on(smol::spawn(future)),
            Waiter::TokioSpawned => multi_thread().block_on(async {
                let task = tokio::spawn(future);
                task.await.unwrap()
            }),
            _ => self.run(future),
        }
    }

    /// Runs a future of any kind; who blocks has only the plainest of executors for it.
    fn run<F: Future>(self, future: F) -> F::Output {
        match self {
            Waiter::TokioMultiThread | Waiter::TokioSpawned => multi_thread().block_on(future),
            Waiter::TokioCurrentThread => current_thread().block_on(future),
            Waiter::Smol | Waiter::SmolSpawned => smol::block_on(future),
            Waiter::Blocking | Waiter::Timed | Waiter::BlockOn => {
                futures::executor::block_on(future)
            }
        }
    }
}

/// Makes one test for everybody who may wait, on every backend.
macro_rules! every_waiter {
    ($(fn $name:ident($waiter:ident) $body:block)*) => {
        $(
            mod $name {
                use super::*;

                fn run($waiter: Waiter) {
                    watched(|| $body)
                }

                every_waiter!(@ blocking Blocking, timed Timed, block_on BlockOn,
                    tokio_multi_thread TokioMultiThread, tokio_spawned TokioSpawned,
                    tokio_current_thread TokioCurrentThread, smol Smol, smol_spawned SmolSpawned);
            }
        )*
    };
    (@ $($name:ident $waiter:ident),*) => {
        freethreading::test_backends! {
            $(
                #[test]
                fn $name() {
                    run(Waiter::$waiter);
                }
            )*
        }
    };
}

every_waiter! {
    fn a_result_comes(waiter) {
        let executor = WorkerPoolExecutor::new(2).unwrap();
        let text = "to and fro".to_string();
        let future = executor.submit(task!(|text| text.to_uppercase()));
        assert_eq!(waiter.wait(future).unwrap(), "TO AND FRO");
    }

    fn a_result_comes_after_a_while(waiter) {
        let gates = GateKeeper::new();
        let executor = WorkerPoolExecutor::new(1).unwrap();
        let future = executor.submit(task!(seven_at(gates.gate())));
        thread::scope(|scope| {
            let waiting = scope.spawn(move || waiter.wait(future));
            gates.wait_for(1);
            gates.open();
            assert_eq!(waiting.join().unwrap().unwrap(), 7);
        });
    }

    fn a_panic_is_an_error(waiter) {
        let executor = WorkerPoolExecutor::new(1).unwrap();
        let future = executor.submit(fail);
        let error = waiter.wait(future).unwrap_err();
        assert!(matches!(error, TaskError::Panicked(panic) if panic.message() == "no luck"));
    }

    fn a_cancellation_is_an_error(waiter) {
        let gates = GateKeeper::new();
        let executor = WorkerPoolExecutor::new(1).unwrap();
        let held = executor.submit(task!(seven_at(gates.gate())));
        gates.wait_for(1);
        let future = executor.submit(|| 8);
        thread::scope(|scope| {
            let waiting = scope.spawn(move || waiter.wait(future));
            executor.shutdown(false, true);
            assert!(matches!(waiting.join().unwrap(), Err(TaskError::Cancelled)));
        });
        gates.open();
        assert_eq!(waiter.wait(held).unwrap(), 7);
    }

    fn a_refusal_is_an_error(waiter) {
        let executor = WorkerPoolExecutor::new(1).unwrap();
        executor.shutdown(true, false);
        assert!(matches!(waiter.wait(executor.submit(|| 7)), Err(TaskError::Shutdown)));
    }

    fn many_are_awaited_together(waiter) {
        let executor = WorkerPoolExecutor::new(2).unwrap();
        let futures = (0..100).map(|n| executor.submit(task!(double(n))));
        let doubles = waiter.run(try_join_all(futures)).unwrap();
        assert_eq!(doubles, (0..100).map(double).collect::<Vec<_>>());
    }

    fn many_are_awaited_in_the_order_of_their_ends(waiter) {
        let executor = WorkerPoolExecutor::new(2).unwrap();
        let futures: FuturesUnordered<_> =
            (0..100).map(|n| executor.submit(task!(double(n)))).collect();
        let doubles: Vec<_> = waiter.run(futures.map(Result::unwrap).collect());
        assert_eq!(doubles.into_iter().sum::<u64>(), 9900);
    }

    fn a_stream_gives_the_results_in_order(waiter) {
        let executor = WorkerPoolExecutor::new(2).unwrap();
        let stream = executor.chunksize(3).map(double, 0..100).into_stream();
        let doubles: Vec<_> = waiter.run(stream.map(Result::unwrap).collect());
        assert_eq!(doubles, (0..100).map(double).collect::<Vec<_>>());
    }

    fn a_stream_keeps_to_its_time_limit(waiter) {
        let executor = WorkerPoolExecutor::new(2).unwrap();
        let mut limit = Duration::from_millis(300);
        loop {
            let gates = GateKeeper::new();
            let start = Instant::now();
            let items = (0..3).map(|n| (n, (n == 2).then(|| gates.gate())));
            let stream = executor.timeout(limit).map(number_at, items).into_stream();
            let results: Vec<_> = waiter.run(stream.collect());
            assert!(start.elapsed() >= limit);
            match results[..] {
                [Ok(0), Ok(1), Err(TaskError::Timeout)] => break,
                // On a machine that is so busy that the others take too long, too.
                [Ok(0), Err(TaskError::Timeout)] | [Err(TaskError::Timeout)] => limit *= 2,
                _ => panic!("{results:?}"),
            }
        }
    }

    fn a_shutdown_is_awaited(waiter) {
        let gates = GateKeeper::new();
        let executor = WorkerPoolExecutor::new(2).unwrap();
        let futures: Vec<_> =
            (0..10).map(|_| executor.submit(task!(seven_at(gates.gate())))).collect();
        gates.wait_for(2);
        thread::scope(|scope| {
            let shutdown = scope.spawn(|| waiter.run(executor.shutdown_async(false)));
            gates.open();
            shutdown.join().unwrap();
        });
        assert!(futures.iter().all(TaskFuture::done));
        assert!(matches!(executor.submit(|| ()).result(), Err(TaskError::Shutdown)));
        waiter.run(executor.shutdown_async(false));
    }

    fn a_shutdown_that_cancels_is_awaited(waiter) {
        let gates = GateKeeper::new();
        let executor = WorkerPoolExecutor::new(2).unwrap();
        let futures: Vec<_> =
            (0..10).map(|_| executor.submit(task!(seven_at(gates.gate())))).collect();
        gates.wait_for(2);
        thread::scope(|scope| {
            let shutdown = scope.spawn(|| waiter.run(executor.shutdown_async(true)));
            eventually("tasks are cancelled", || {
                futures.iter().filter(|future| future.cancelled()).count() == 8
            });
            gates.open();
            shutdown.join().unwrap();
        });
        assert_eq!(futures.iter().filter(|future| future.result().is_ok()).count(), 2);
    }

    fn the_end_of_a_worker_is_awaited(waiter) {
        let gates = GateKeeper::new();
        let worker = Worker::new(task!(seven_at(gates.gate())));
        worker.start().unwrap();
        thread::scope(|scope| {
            let join = scope.spawn(|| waiter.run(worker.join_async()));
            gates.wait_for(1);
            gates.open();
            join.join().unwrap().unwrap();
        });
        assert!(!worker.is_alive());
        waiter.run(worker.join_async()).unwrap();
    }

    fn a_failed_worker_is_awaited(waiter) {
        let worker = Worker::new(fail);
        worker.start().unwrap();
        let error = waiter.run(worker.join_async()).unwrap_err();
        assert!(matches!(error, Error::Task(TaskError::Panicked(_))), "{error}");
    }

    fn blocking_calls_stall_a_runtime_but_work_there(waiter) {
        waiter.run(async {
            let executor = WorkerPoolExecutor::new(2).unwrap();
            assert_eq!(executor.submit(|| 7).result().unwrap(), 7);
            assert_eq!(executor.map(double, 0..3).into_vec().unwrap(), [0, 2, 4]);
            let worker = Worker::new(|| ());
            worker.start().unwrap();
            worker.join().unwrap();
            executor.shutdown(true, false);
        });
    }
}

freethreading::test_backends! {
    #[tokio::test]
    async fn an_async_body_runs_on_both_backends() {
        let executor = WorkerPoolExecutor::new(1).unwrap();
        let name = executor.submit(|| current_worker().name()).await.unwrap();
        // It is the backend of the body, also after it has waited.
        tokio::task::yield_now().await;
        let kind = match get_backend().unwrap() {
            Backend::Threading => "Thread",
            Backend::Multiprocessing => "Process",
        };
        assert!(name.starts_with(kind), "{name}");
        assert_eq!(executor.backend(), get_backend().unwrap());
    }

    #[test]
    fn bodies_that_are_not_async_may_stand_among_them() -> Result<(), Error> {
        get_backend().map(drop)
    }

    #[tokio::test(flavor = "multi_thread")]
    #[should_panic(expected = "both backends")]
    async fn its_attributes_hold() {
        panic!("on both backends");
    }
}

freethreading::test_backends! {
    #[test]
    fn what_has_ended_is_left_out_of_a_select() {
        watched(|| {
            let executor = WorkerPoolExecutor::new(2).unwrap();
            let pool = WorkerPool::new(2).unwrap();
            let mut future = executor.submit(|| 1);
            let mut failure = executor.submit(fail);
            let mut result = pool.apply_async(|| 10).unwrap();
            let mut results = pool.map_async(double, 0..3).unwrap();
            let mut map = executor.map(double, 0..3).into_stream();
            let mut imap = pool.imap(double, 0..3).unwrap().into_stream();
            let (mut sum, mut failures, mut ends) = (0, 0, 0);
            futures::executor::block_on(async {
                loop {
                    let item = futures::select! {
                        one = future => Some(one),
                        failed = failure => {
                            failed.unwrap_err();
                            failures += 1;
                            continue;
                        }
                        ten = result => Some(ten),
                        all = results => Some(all.map(|all| all.into_iter().sum())),
                        item = map.next() => item,
                        item = imap.next() => item,
                        complete => break,
                    };
                    match item {
                        Some(item) => sum += item.unwrap(),
                        None => ends += 1,
                    }
                }
            });
            assert_eq!((sum, failures, ends), (1 + 10 + 3 * (2 + 4), 1, 2));
        });
    }

    #[test]
    fn several_runtimes_use_one_executor() {
        watched(|| {
            let executor = WorkerPoolExecutor::new(2).unwrap();
            thread::scope(|scope| {
                for waiter in Waiter::ALL {
                    let executor = &executor;
                    scope.spawn(move || {
                        for n in 0..30 {
                            let future = executor.submit(task!(double(n)));
                            assert_eq!(waiter.wait(future).unwrap(), 2 * n);
                        }
                    });
                }
            });
        });
    }

    #[test]
    fn an_executor_outlives_the_runtime_it_was_made_on() {
        watched(|| {
            let (executor, pending) = current_thread().block_on(async {
                let executor = WorkerPoolExecutor::new(1).unwrap();
                assert_eq!(executor.submit(task!(double(1))).await.unwrap(), 2);
                let pending = executor.submit(task!(double(2)));
                (executor, pending)
            });
            assert_eq!(multi_thread().block_on(pending).unwrap(), 4);
            assert_eq!(smol::block_on(executor.submit(task!(double(3)))).unwrap(), 6);
        });
    }

    #[test]
    fn a_future_may_move_from_one_runtime_to_another() {
        watched(|| {
            let gates = GateKeeper::new();
            let executor = WorkerPoolExecutor::new(1).unwrap();
            let mut future = executor.submit(task!(seven_at(gates.gate())));
            current_thread().block_on(async {
                let polled = tokio::time::timeout(Duration::from_millis(5), &mut future).await;
                assert!(polled.is_err());
            });
            smol::block_on(async {
                assert!(futures::poll!(&mut future).is_pending());
            });
            gates.open();
            assert_eq!(multi_thread().block_on(future).unwrap(), 7);
        });
    }

    #[test]
    fn futures_join_under_tokio() {
        watched(|| {
            for runtime in [multi_thread(), current_thread()] {
                let executor = WorkerPoolExecutor::new(2).unwrap();
                let joined: Result<_, TaskError> = runtime.block_on(async {
                    tokio::try_join!(
                        executor.submit(task!(double(1))),
                        executor.submit(|| "two".to_string()),
                        executor.submit(|| [3, 3]),
                    )
                });
                assert_eq!(joined.unwrap(), (2, "two".to_string(), [3, 3]));
                let joined: Result<_, TaskError> = runtime.block_on(async {
                    tokio::try_join!(
                        executor.submit(task!(double(1))),
                        executor.submit(fail),
                    )
                });
                assert!(matches!(joined, Err(TaskError::Panicked(_))));
            }
        });
    }

    #[test]
    fn the_first_of_several_is_selected() {
        watched(|| {
            let executor = WorkerPoolExecutor::new(2).unwrap();
            for runtime in [multi_thread(), current_thread()] {
                let gates = GateKeeper::new();
                runtime.block_on(async {
                    let mut slow = executor.submit(task!(seven_at(gates.gate())));
                    tokio::select! {
                        _ = &mut slow => panic!("the gate is closed"),
                        fast = executor.submit(task!(double(4))) => assert_eq!(fast.unwrap(), 8),
                    }
                    gates.open();
                    assert_eq!(slow.await.unwrap(), 7);
                });
            }
        });
    }

    #[test]
    fn a_future_that_is_left_half_way_still_gives_its_result() {
        watched(|| {
            let gates = GateKeeper::new();
            let executor = WorkerPoolExecutor::new(1).unwrap();
            let mut future = executor.submit(task!(seven_at(gates.gate())));
            current_thread().block_on(async {
                let limit = Duration::from_millis(10);
                assert!(tokio::time::timeout(limit, &mut future).await.is_err());
            });
            gates.open();
            assert_eq!(future.result().unwrap(), 7);
            assert_eq!(executor.submit(task!(double(1))).result().unwrap(), 2);
        });
    }

    #[test]
    fn a_future_that_is_dropped_half_way_leaves_its_task_alone() {
        watched(|| {
            let gates = GateKeeper::new();
            let executor = WorkerPoolExecutor::new(1).unwrap();
            current_thread().block_on(async {
                let limit = Duration::from_millis(10);
                let left: Vec<_> = (0..5)
                    .map(|_| executor.submit(task!(seven_at(gates.gate()))))
                    .map(|future| tokio::time::timeout(limit, future))
                    .collect();
                for left in left {
                    assert!(left.await.is_err());
                }
            });
            gates.open();
            assert_eq!(executor.submit(task!(double(1))).result().unwrap(), 2);
            executor.shutdown(true, false);
            assert_eq!(gates.arrived(), 5);
        });
    }

    #[test]
    fn futures_left_at_random_lose_nothing() {
        watched(|| {
            let executor = WorkerPoolExecutor::new(2).unwrap();
            let mut random = Random::new();
            current_thread().block_on(async {
                for n in 0..300 {
                    let mut future = executor.submit(task!(double(n)));
                    let limit = Duration::from_micros(random.below(300) as u64);
                    let result = match tokio::time::timeout(limit, &mut future).await {
                        Ok(result) => result,
                        Err(_) => future.await,
                    };
                    assert_eq!(result.unwrap(), 2 * n);
                }
            });
        });
    }

    #[test]
    fn a_stream_that_is_left_at_random_loses_nothing() {
        watched(|| {
            let executor = WorkerPoolExecutor::new(2).unwrap();
            let mut random = Random::new();
            let mut stream = executor.chunksize(2).map(double, 0..300).into_stream();
            let mut doubles = Vec::new();
            current_thread().block_on(async {
                while doubles.len() < 300 {
                    let limit = Duration::from_micros(random.below(300) as u64);
                    if let Ok(item) = tokio::time::timeout(limit, stream.next()).await {
                        doubles.push(item.unwrap().unwrap());
                    }
                }
            });
            assert_eq!(doubles, (0..300).map(double).collect::<Vec<_>>());
            assert!(stream.next().now_or_never().unwrap().is_none());
        });
    }

    #[test]
    fn a_shutdown_that_is_left_half_way_has_been_done() {
        watched(|| {
            let gates = GateKeeper::new();
            let executor = WorkerPoolExecutor::new(1).unwrap();
            let held = executor.submit(task!(seven_at(gates.gate())));
            assert!(executor.shutdown_async(false).now_or_never().is_none());
            assert!(matches!(executor.submit(|| ()).result(), Err(TaskError::Shutdown)));
            gates.open();
            assert_eq!(held.result().unwrap(), 7);
            executor.shutdown(true, false);
        });
    }

    #[test]
    fn a_shutdown_that_is_never_polled_does_nothing() {
        watched(|| {
            let executor = WorkerPoolExecutor::new(1).unwrap();
            drop(executor.shutdown_async(true));
            assert_eq!(executor.submit(task!(double(1))).result().unwrap(), 2);
        });
    }

    #[test]
    fn threads_and_tasks_wait_for_the_same_end() {
        watched(|| {
            let gates = GateKeeper::new();
            let executor = WorkerPoolExecutor::new(1).unwrap();
            let worker = Worker::new(task!(seven_at(gates.gate())));
            worker.start().unwrap();
            let held = executor.submit(task!(seven_at(gates.gate())));
            gates.wait_for(2);
            thread::scope(|scope| {
                for waiter in Waiter::ALL {
                    let (executor, worker, held) = (&executor, &worker, &held);
                    scope.spawn(move || {
                        worker.join().unwrap();
                        executor.shutdown(true, false);
                        assert!(held.done());
                    });
                    scope.spawn(move || {
                        waiter.run(async {
                            worker.join_async().await.unwrap();
                            executor.shutdown_async(false).await;
                            assert!(held.done());
                        });
                    });
                }
                gates.open();
            });
        });
    }

    #[test]
    fn only_the_last_waker_is_woken() {
        watched(|| {
            for awaited in AWAITED {
                let gates = GateKeeper::new();
                let mut awaited = awaited(gates.gate());
                gates.wait_for(1);
                let (first, last) = (Wakes::new(), Wakes::new());
                for wakes in [&first, &first, &last] {
                    let waker = Waker::from(Arc::clone(wakes));
                    assert!(awaited.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
                }
                gates.open();
                eventually("the last waker is woken", || last.count() > 0);
                assert_eq!((first.count(), last.count()), (0, 1));
                assert!(awaited.now_or_never().is_some());
            }
        });
    }

    #[test]
    fn a_waker_may_panic() {
        watched(|| {
            for awaited in AWAITED {
                let gates = GateKeeper::new();
                let mut awaited = awaited(gates.gate());
                gates.wait_for(1);
                let waker = Waker::from(Arc::new(Panicking));
                assert!(awaited.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
                gates.open();
                // Nobody is told, so all that can be done is to look.
                eventually("the wait is over", || awaited.as_mut().now_or_never().is_some());
            }
        });
    }

    #[test]
    fn a_waker_that_panics_harms_nobody_else() {
        watched(|| {
            let gates = GateKeeper::new();
            let worker = Worker::new(task!(seven_at(gates.gate())));
            worker.start().unwrap();
            let executor = WorkerPoolExecutor::new(1).unwrap();
            let held = executor.submit(task!(seven_at(gates.gate())));
            gates.wait_for(2);
            let waker = Waker::from(Arc::new(Panicking));
            let mut context = Context::from_waker(&waker);
            let mut join = pin!(worker.join_async());
            assert!(join.as_mut().poll(&mut context).is_pending());
            let mut shutdown = pin!(executor.shutdown_async(false));
            assert!(shutdown.as_mut().poll(&mut context).is_pending());
            thread::scope(|scope| {
                let joined = scope.spawn(|| worker.join());
                let shut_down = scope.spawn(|| executor.shutdown(true, false));
                gates.open();
                joined.join().unwrap().unwrap();
                shut_down.join().unwrap();
            });
            assert_eq!(held.result().unwrap(), 7);
        });
    }

    #[test]
    fn a_waker_may_come_back_in() {
        /// Drops a second future that waits for the same, when it is woken.
        struct Dropping(Mutex<Option<Awaited>>);
        impl Wake for Dropping {
            fn wake(self: Arc<Self>) {
                let second = self.0.lock().unwrap().take();
                drop(second);
            }
        }
        watched(|| {
            let gates = GateKeeper::new();
            let worker = Worker::new(task!(seven_at(gates.gate())));
            worker.start().unwrap();
            let executor = Arc::new(WorkerPoolExecutor::new(1).unwrap());
            let held = executor.submit(task!(seven_at(gates.gate())));
            gates.wait_for(2);
            let ends = || -> [Awaited; 2] {
                let (worker, executor) = (worker.clone(), Arc::clone(&executor));
                [
                    Box::pin(async move { worker.join_async().await.unwrap() }),
                    Box::pin(async move { executor.shutdown_async(false).await }),
                ]
            };
            let mut firsts = ends();
            for (first, mut second) in firsts.iter_mut().zip(ends()) {
                let mut ignored = Context::from_waker(Waker::noop());
                assert!(second.as_mut().poll(&mut ignored).is_pending());
                let waker = Waker::from(Arc::new(Dropping(Mutex::new(Some(second)))));
                assert!(first.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            }
            gates.open();
            worker.join().unwrap();
            executor.shutdown(true, false);
            assert_eq!(held.result().unwrap(), 7);
        });
    }

    #[test]
    fn the_waker_of_a_future_may_use_the_executor() {
        /// Submits one more task.
        struct Submitting(Arc<WorkerPoolExecutor>, std::sync::mpsc::Sender<TaskFuture<u64>>);
        impl Wake for Submitting {
            fn wake(self: Arc<Self>) {
                self.1.send(self.0.submit(task!(double(4)))).unwrap();
            }
        }
        watched(|| {
            let gates = GateKeeper::new();
            let executor = Arc::new(WorkerPoolExecutor::new(1).unwrap());
            let (sender, futures) = std::sync::mpsc::channel();
            let mut future = executor.submit(task!(seven_at(gates.gate())));
            let waker = Waker::from(Arc::new(Submitting(Arc::clone(&executor), sender)));
            let polled = Pin::new(&mut future).poll(&mut Context::from_waker(&waker));
            assert!(matches!(polled, Poll::Pending));
            gates.open();
            assert_eq!(futures.recv().unwrap().result().unwrap(), 8);
            assert_eq!(future.result().unwrap(), 7);
        });
    }
}

type Awaited = Pin<Box<dyn Future<Output = ()> + Send>>;

/// All that can be awaited, each as long as a task is at the gate.
const AWAITED: [fn(Gate) -> Awaited; 9] = [
    future_at,
    stream_at,
    timed_stream_at,
    join_at,
    shutdown_at,
    timed_shutdown_at,
    pool_join_at,
    submission_at,
    application_at,
];

fn future_at(gate: Gate) -> Awaited {
    let executor = WorkerPoolExecutor::new(1).unwrap();
    Box::pin(
        executor
            .submit(task!(seven_at(gate)))
            .map(|result| assert_eq!(result.unwrap(), 7)),
    )
}

fn stream_at(gate: Gate) -> Awaited {
    let executor = WorkerPoolExecutor::new(1).unwrap();
    let stream = executor.map(seven_at, [gate]).into_stream();
    Box::pin(
        stream
            .into_future()
            .map(|(item, _)| assert_eq!(item.unwrap().unwrap(), 7)),
    )
}

fn timed_stream_at(gate: Gate) -> Awaited {
    let executor = WorkerPoolExecutor::new(1).unwrap();
    let mapping = executor.timeout(Duration::from_secs(3600));
    let stream = mapping.map(seven_at, [gate]).into_stream();
    Box::pin(
        stream
            .into_future()
            .map(|(item, _)| assert_eq!(item.unwrap().unwrap(), 7)),
    )
}

fn join_at(gate: Gate) -> Awaited {
    let worker = Worker::new(task!(seven_at(gate)));
    worker.start().unwrap();
    Box::pin(async move { worker.join_async().await.unwrap() })
}

fn shutdown_at(gate: Gate) -> Awaited {
    let executor = WorkerPoolExecutor::new(1).unwrap();
    drop(executor.submit(task!(seven_at(gate))));
    Box::pin(async move { executor.shutdown_async(false).await })
}

fn timed_shutdown_at(gate: Gate) -> Awaited {
    let executor = WorkerPoolExecutor::new(1).unwrap();
    drop(executor.submit(task!(seven_at(gate))));
    let limit = Duration::from_secs(3600);
    Box::pin(async move { assert!(executor.shutdown_timeout_async(limit).await) })
}

fn pool_join_at(gate: Gate) -> Awaited {
    let pool = WorkerPool::new(1).unwrap();
    drop(pool.apply_async(task!(seven_at(gate))).unwrap());
    pool.close();
    Box::pin(async move { pool.join_async().await.unwrap() })
}

/// Waits for room, which the task at the gate and another one have taken.
fn submission_at(gate: Gate) -> Awaited {
    let builder = WorkerPoolExecutor::builder().max_workers(1).max_pending(1);
    let executor = builder.build().unwrap();
    drop(executor.submit(task!(seven_at(gate))));
    drop(executor.submit(task!(double(1))));
    Box::pin(async move { drop(executor.submit_async(task!(double(2))).await) })
}

fn application_at(gate: Gate) -> Awaited {
    let builder = WorkerPool::builder().max_workers(1).max_pending(1);
    let pool = builder.build().unwrap();
    drop(pool.apply_async(task!(seven_at(gate))).unwrap());
    drop(pool.apply_async(task!(double(1))).unwrap());
    Box::pin(async move { drop(pool.apply_queued(task!(double(2))).await.unwrap()) })
}

/// What is there at once, again and again.
async fn without_end<F: Future>(next: impl Fn() -> F) {
    loop {
        next().await;
    }
}

#[test]
fn a_task_that_never_has_to_wait_gives_way_to_others() {
    watched(|| {
        let (lock, r_lock, event) = (Lock::new(), RLock::new(), Event::new());
        let (semaphore, bounded) = (Semaphore::new(1), BoundedSemaphore::new(1));
        let condition = Condition::new();
        let (queue, simple_queue) = (Queue::new(0), SimpleQueue::new());
        let executor = WorkerPoolExecutor::builder().backend(Backend::Threading);
        let executor = executor.build().unwrap();
        let pool = WorkerPool::builder().backend(Backend::Threading);
        let pool = pool.build().unwrap();
        event.set();
        let done = || {
            let future = executor.submit(|| ());
            while !future.done() {
                thread::yield_now();
            }
            future
        };
        let worker = Worker::new(|| ()).backend(Backend::Threading);
        worker.start().unwrap();
        worker.join().unwrap();
        let result = pool.apply_async(|| ()).unwrap();
        result.wait();
        let loops: [Pin<Box<dyn Future<Output = ()> + '_>>; 15] = [
            Box::pin(without_end(async || drop(lock.lock_async().await))),
            Box::pin(without_end(async || drop(r_lock.lock_async().await))),
            Box::pin(without_end(async || drop(condition.lock_async().await))),
            Box::pin(without_end(async || drop(semaphore.permit_async().await))),
            Box::pin(without_end(async || drop(bounded.permit_async().await))),
            Box::pin(without_end(|| event.wait_async())),
            Box::pin(without_end(async || {
                queue.put_async(1).await.unwrap();
                queue.get_async().await.unwrap();
            })),
            Box::pin(without_end(|| queue.put_async(1))),
            Box::pin(without_end(async || {
                simple_queue.put(1).unwrap();
                simple_queue.get_async().await.unwrap();
            })),
            Box::pin(without_end(async || {
                let idle: Queue<u32> = Queue::new(0);
                idle.join_async().await;
            })),
            Box::pin(without_end(async || worker.join_async().await.unwrap())),
            Box::pin(without_end(async || {
                drop(executor.submit_async(|| ()).await)
            })),
            Box::pin(without_end(done)),
            Box::pin(without_end(|| result.wait_async())),
            Box::pin(async {
                let numbers = pool.imap(double, 0..).unwrap().into_stream();
                numbers
                    .for_each(async |number| assert!(number.is_ok()))
                    .await;
            }),
        ];
        current_thread().block_on(async {
            for (n, endless) in loops.into_iter().enumerate() {
                eprintln!("loop {n}");
                let limit = Duration::from_millis(5);
                assert!(tokio::time::timeout(limit, endless).await.is_err());
            }
        });
    });
}

#[test]
fn a_predicate_that_holds_is_no_wait_also_of_a_task_that_is_to_give_way() {
    watched(|| {
        let (condition, semaphore) = (Condition::new(), Semaphore::new(1));
        current_thread().block_on(async {
            condition.acquire_async().await;
            let guarded = Condition::new();
            let mut guard = guarded.lock_async().await;
            while let Some(permit) = semaphore.permit_async().now_or_never() {
                drop(permit);
            }
            // Had it to come again, who drops it after its first poll would hold the lock still.
            for _ in 0..5000 {
                let waited = condition.wait_for_async(|| true).now_or_never();
                waited.unwrap().unwrap();
                let waited = guard.wait_for_async(|| true).now_or_never();
                waited.unwrap().unwrap();
            }
            condition.release().unwrap();
        });
    });
}

#[test]
fn a_task_that_is_to_give_way_misses_no_event() {
    watched(|| {
        let (event, semaphore) = (Event::new(), Semaphore::new(1));
        current_thread().block_on(async {
            for _ in 0..5000 {
                // It uses up what the task has, and then there is nothing.
                drop(semaphore.permit_async().now_or_never());
                let mut wait = event.wait_async();
                assert!(futures::poll!(&mut wait).is_pending());
                event.set();
                event.clear();
                assert!(futures::poll!(&mut wait).is_ready());
            }
            assert!(semaphore.permit_async().now_or_never().is_none());
        });
    });
}
