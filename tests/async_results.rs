//! Results to come: waiting for them in every way, and callbacks that are shown them first.

mod common;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Receiver},
    },
    task::Waker,
    thread,
    time::Duration,
};

use common::{
    Gate, GateKeeper, Panicking, Wakes, eventually, number_at, takes_its_time, watched,
    ways::{Hand, LONG, Way},
};
use freethreading::{
    AsyncResult, Backend, Effect, Error, Part, TaskError, WorkerPool, get_backend, task,
};
use futures::{
    executor::block_on,
    future::{join_all, select_ok},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

freethreading::init_tests!();

fn double(x: u64) -> u64 {
    x * 2
}

fn fail_at((_, gate): (u64, Option<Gate>)) -> u64 {
    if let Some(gate) = gate {
        gate.pass();
    }
    panic!("no luck")
}

/// The kinds of work that there are. Each gives `[0, 1, 2]` or fails.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Apply,
    Map,
    Chunks,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Apply, Kind::Map, Kind::Chunks];

    fn submit(self, pool: &WorkerPool, gate: Option<Gate>) -> AsyncResult<Vec<u64>> {
        let items = (0..3).map(|n| (n, gate.clone()));
        let result = match self {
            Kind::Apply => {
                let items: Vec<_> = items.collect();
                pool.apply_async(task!(|items| items.into_iter().map(number_at).collect()))
            }
            Kind::Map => pool.map_async(number_at, items),
            Kind::Chunks => pool.chunksize(2).map_async(number_at, items),
        };
        result.unwrap()
    }

    fn submit_failure(self, pool: &WorkerPool, gate: Option<Gate>) -> AsyncResult<Vec<u64>> {
        let items = (0..3).map(|n| (n, gate.clone()));
        let result = match self {
            Kind::Apply => {
                let items: Vec<_> = items.collect();
                pool.apply_async(task!(|items| items.into_iter().map(fail_at).collect()))
            }
            Kind::Map => pool.map_async(fail_at, items),
            Kind::Chunks => pool.chunksize(2).map_async(fail_at, items),
        };
        result.unwrap()
    }
}

fn is_panic(error: &TaskError) -> bool {
    matches!(error, TaskError::Panicked(panic) if panic.message() == "no luck")
}

fn get<R>(way: Way, result: AsyncResult<R>) -> Result<R, TaskError> {
    match way {
        Way::Blocking => result.get(),
        Way::Timed => result.get_timeout(LONG),
        Way::Async | Way::Tokio => way.run(result),
    }
}

fn wait<R>(way: Way, result: &AsyncResult<R>) {
    match way {
        Way::Blocking => result.wait(),
        Way::Timed => assert!(result.wait_timeout(LONG)),
        Way::Async | Way::Tokio => way.run(result.wait_async()),
    }
}

/// The workers of a pool that has some, all of which have come.
fn idents(pool: &WorkerPool) -> Vec<u64> {
    let mut idents = Vec::new();
    eventually("the workers are there", || {
        let workers = pool.stats().workers.into_iter();
        idents = workers.filter_map(|worker| worker.ident).collect();
        idents.len() == pool.workers()
    });
    idents
}

/// Adds callbacks that tell what they were shown.
fn told(result: AsyncResult<Vec<u64>>) -> (AsyncResult<Vec<u64>>, Receiver<Result<usize, String>>) {
    let (sender, told) = mpsc::channel();
    let failed = sender.clone();
    let result = result
        .callback(move |values| sender.send(Ok(values.len())).unwrap())
        .error_callback(move |error| failed.send(Err(error.to_string())).unwrap());
    (result, told)
}

freethreading::test_backends! {
    #[test]
    fn a_result_that_did_not_come_in_time_comes_later() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            for kind in Kind::ALL {
                let gates = GateKeeper::new();
                let result = kind.submit(&pool, Some(gates.gate()));
                for timeout in [0, 0, 1, 20] {
                    let timeout = Duration::from_millis(timeout);
                    assert!(!result.wait_timeout(timeout));
                    assert!(matches!(result.get_timeout(timeout), Err(TaskError::Timeout)));
                }
                gates.open();
                assert_eq!(result.get_timeout(Duration::MAX).unwrap(), [0, 1, 2]);
            }
        });
    }

    #[test]
    fn a_wait_in_vain_takes_as_long_as_it_was_told() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            for kind in Kind::ALL {
                let gates = GateKeeper::new();
                let result = kind.submit(&pool, Some(gates.gate()));
                assert!(!takes_its_time(|limit| result.wait_timeout(limit)));
                let early = takes_its_time(|limit| result.get_timeout(limit));
                assert!(matches!(early, Err(TaskError::Timeout)), "{early:?}");
                gates.open();
                assert_eq!(result.get().unwrap(), [0, 1, 2]);
            }
        });
    }

    #[test]
    fn a_result_says_whether_it_is_there_and_what_it_is() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            for kind in Kind::ALL {
                for way in Way::ALL {
                    let gates = GateKeeper::new();
                    let fine = kind.submit(&pool, Some(gates.gate()));
                    let failed = kind.submit_failure(&pool, Some(gates.gate()));
                    for result in [&fine, &failed] {
                        assert_eq!((result.ready(), result.successful()), (false, None));
                        assert!(format!("{result:?}").contains("ready: false"));
                    }
                    gates.open();
                    wait(way, &fine);
                    wait(way, &failed);
                    assert_eq!((fine.ready(), fine.successful()), (true, Some(true)));
                    assert_eq!((failed.ready(), failed.successful()), (true, Some(false)));
                    assert!(format!("{fine:?}").contains("ready: true"));
                    assert!(fine.wait_timeout(Duration::ZERO));
                    assert_eq!(fine.get_timeout(Duration::ZERO).unwrap(), [0, 1, 2]);
                    assert_eq!((fine.ready(), fine.successful()), (true, Some(true)));
                    assert!(is_panic(&get(way, failed).unwrap_err()));
                }
            }
        });
    }

    #[test]
    fn a_result_is_handed_out_once_and_an_error_to_everybody() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            for kind in Kind::ALL {
                let gates = GateKeeper::new();
                let fine = kind.submit(&pool, Some(gates.gate()));
                let failed = kind.submit_failure(&pool, Some(gates.gate()));
                let taken = AtomicUsize::new(0);
                thread::scope(|scope| {
                    for _ in 0..4 {
                        scope.spawn(|| match fine.get() {
                            Ok(values) => {
                                assert_eq!(values, [0, 1, 2]);
                                taken.fetch_add(1, Ordering::SeqCst);
                            }
                            Err(error) => {
                                assert!(matches!(error, TaskError::Taken));
                                assert_eq!(error.effect(), Effect::Ran);
                            }
                        });
                        scope.spawn(|| assert!(is_panic(&failed.get().unwrap_err())));
                    }
                    gates.open();
                });
                assert_eq!(taken.load(Ordering::SeqCst), 1);
                assert!(matches!(block_on(fine), Err(TaskError::Taken)));
                assert!(is_panic(&block_on(failed).unwrap_err()));
            }
        });
    }

    #[test]
    fn everybody_who_waits_is_woken() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            for kind in Kind::ALL {
                for hooked in [false, true] {
                    let gates = GateKeeper::new();
                    let mut result = kind.submit(&pool, Some(gates.gate()));
                    if hooked {
                        result = result.callback(|_| ());
                    }
                    let result = &result;
                    thread::scope(|scope| {
                        for n in 0..8 {
                            scope.spawn(move || wait(Way::ALL[n % 4], result));
                        }
                        let tasks = (0..4).map(|_| result.wait_async());
                        // One that is left half-way is no hindrance.
                        let left = Hand::waiting(result.wait_async());
                        let mut hands: Vec<_> =
                            (0..3).map(|_| Hand::waiting(result.wait_async())).collect();
                        drop(left);
                        scope.spawn(|| block_on(join_all(tasks)));
                        gates.open();
                        for hand in &mut hands {
                            hand.wait_woken();
                            hand.ready();
                        }
                    });
                    assert_eq!(result.get().unwrap(), [0, 1, 2]);
                }
            }
        });
    }

    #[test]
    fn the_latest_waker_is_woken() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            for kind in Kind::ALL {
                let gates = GateKeeper::new();
                let looked_at = kind.submit(&pool, Some(gates.gate()));
                let awaited = kind.submit(&pool, Some(gates.gate()));
                let (first, second) = (Wakes::new(), Wakes::new());
                let (onlooker, owner) = (Wakes::new(), Wakes::new());
                let mut wait = Hand::new(looked_at.wait_async());
                let mut get = Hand::new(awaited);
                for (wait_with, get_with) in [(&first, &second), (&onlooker, &owner)] {
                    let wait_with = Waker::from(Arc::clone(wait_with));
                    assert!(wait.poll_with(&wait_with).is_pending());
                    assert!(get.poll_with(&Waker::from(Arc::clone(get_with))).is_pending());
                }
                gates.open();
                eventually("woken", || onlooker.count() > 0 && owner.count() > 0);
                assert_eq!((first.count(), second.count()), (0, 0));
                wait.ready();
                assert_eq!(get.ready().unwrap(), [0, 1, 2]);
            }
        });
    }

    #[test]
    fn a_wait_that_is_left_half_way_takes_nothing() {
        watched(|| {
            let pool = WorkerPool::new(1).unwrap();
            for kind in Kind::ALL {
                let gates = GateKeeper::new();
                let mut result = kind.submit(&pool, Some(gates.gate()));
                common::ways::current_thread().block_on(async {
                    let limit = Duration::from_millis(5);
                    assert!(tokio::time::timeout(limit, &mut result).await.is_err());
                    assert!(tokio::time::timeout(limit, result.wait_async()).await.is_err());
                });
                gates.open();
                assert_eq!(result.get().unwrap(), [0, 1, 2]);
                // One that is dropped half-way lets the work go on, and the worker be free.
                let gates = GateKeeper::new();
                drop(Hand::waiting(kind.submit(&pool, Some(gates.gate()))));
                gates.open();
                assert_eq!(pool.apply(task!(double(2))).unwrap(), 4);
                assert!(gates.arrived() >= 1);
            }
        });
    }

    #[test]
    fn wakers_may_panic() {
        watched(|| {
            let pool = WorkerPool::new(1).unwrap();
            for kind in Kind::ALL {
                let gates = GateKeeper::new();
                let result = kind.submit(&pool, Some(gates.gate()));
                let waker = Waker::from(Arc::new(Panicking));
                let mut onlooker = Hand::new(result.wait_async());
                assert!(onlooker.poll_with(&waker).is_pending());
                let fine = Hand::waiting(result.wait_async());
                gates.open();
                fine.wait_woken();
                drop((fine, onlooker));
                assert_eq!(block_on(result).unwrap(), [0, 1, 2]);
                assert_eq!(pool.apply(task!(double(2))).unwrap(), 4);
            }
        });
    }

    #[test]
    fn results_can_be_awaited_on_any_runtime() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            for kind in Kind::ALL {
                let spawned = kind.submit(&pool, None);
                let values = runtime.block_on(async { tokio::spawn(spawned).await.unwrap() });
                assert_eq!(values.unwrap(), [0, 1, 2]);
                assert_eq!(smol::block_on(smol::spawn(kind.submit(&pool, None))).unwrap(), [0, 1, 2]);
                let results = (0..20).map(|_| kind.submit(&pool, None));
                for values in block_on(join_all(results)) {
                    assert_eq!(values.unwrap(), [0, 1, 2]);
                }
                let fastest = select_ok([kind.submit_failure(&pool, None), kind.submit(&pool, None)]);
                assert_eq!(block_on(fastest).unwrap().0, [0, 1, 2]);
                let error = block_on(kind.submit_failure(&pool, None)).unwrap_err();
                assert!(is_panic(&error));
            }
        });
    }

    // Callbacks.

    #[test]
    fn one_of_the_callbacks_is_called_once_before_anybody_has_the_result() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            for kind in Kind::ALL {
                for way in Way::ALL {
                    let (result, shown) = told(kind.submit(&pool, None));
                    assert_eq!(get(way, result).unwrap(), [0, 1, 2]);
                    assert_eq!(shown.try_recv().unwrap().unwrap(), 3);
                    assert!(shown.try_recv().is_err());

                    let (result, shown) = told(kind.submit_failure(&pool, None));
                    wait(way, &result);
                    assert!(shown.try_recv().unwrap().unwrap_err().contains("no luck"));
                    assert!(is_panic(&result.get().unwrap_err()));
                    assert!(shown.try_recv().is_err());
                }
            }
        });
    }

    #[test]
    fn a_result_is_not_there_before_its_callbacks_are_through() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            for kind in Kind::ALL {
                let gates = GateKeeper::new();
                let (in_callback, callback) = (GateKeeper::new(), gates.gate());
                let gate = in_callback.gate();
                let result = kind.submit(&pool, Some(callback)).callback(move |_| gate.pass());
                gates.open();
                in_callback.wait_for(1);
                assert!(!result.ready());
                assert_eq!(result.successful(), None);
                assert!(matches!(result.get_timeout(Duration::ZERO), Err(TaskError::Timeout)));
                let mut onlooker = Hand::waiting(result.wait_async());
                in_callback.open();
                onlooker.wait_woken();
                onlooker.ready();
                assert_eq!(result.get_timeout(Duration::ZERO).unwrap(), [0, 1, 2]);
            }
        });
    }

    #[test]
    fn callbacks_are_called_in_the_order_in_which_they_were_added() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            for kind in Kind::ALL {
                let order = Arc::new(Mutex::new(Vec::new()));
                let mut result = kind.submit(&pool, None);
                for n in 0..10 {
                    let order = Arc::clone(&order);
                    result = result.callback(move |_| order.lock().unwrap().push(n));
                }
                result.wait();
                assert_eq!(*order.lock().unwrap(), (0..10).collect::<Vec<_>>());
            }
        });
    }

    #[test]
    fn a_callback_that_comes_late_is_called_at_once() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            for kind in Kind::ALL {
                let result = kind.submit(&pool, None);
                result.wait();
                let here = thread::current().id();
                let (sender, called_on) = mpsc::channel();
                let result = result.callback(move |values| {
                    assert_eq!(values.len(), 3);
                    sender.send(thread::current().id()).unwrap();
                });
                assert_eq!(called_on.try_recv().unwrap(), here);
                let (result, shown) = told(result);
                assert_eq!(shown.try_recv().unwrap().unwrap(), 3);
                assert_eq!(result.get().unwrap(), [0, 1, 2]);

                let result = kind.submit_failure(&pool, None);
                result.wait();
                let (result, shown) = told(result);
                assert!(shown.try_recv().unwrap().unwrap_err().contains("no luck"));
                assert!(is_panic(&result.get().unwrap_err()));
            }
        });
    }

    #[test]
    fn a_callback_that_comes_after_the_value_was_taken_is_shown_that() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            for kind in Kind::ALL {
                let mut result = kind.submit(&pool, None);
                assert_eq!(result.get().unwrap(), [0, 1, 2]);
                for _ in 0..2 {
                    let shown;
                    (result, shown) = told(result);
                    assert!(shown.try_recv().unwrap().unwrap_err().contains("taken"));
                    assert!(shown.try_recv().is_err());
                    assert_eq!((result.ready(), result.successful()), (true, Some(true)));
                    assert!(matches!(result.get(), Err(TaskError::Taken)));
                }
            }
        });
    }

    #[test]
    fn callbacks_are_called_although_the_result_was_dropped() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            for kind in Kind::ALL {
                let gates = GateKeeper::new();
                let (result, shown) = told(kind.submit(&pool, Some(gates.gate())));
                drop(result);
                gates.open();
                assert_eq!(shown.recv().unwrap().unwrap(), 3);
                assert!(shown.recv().is_err());
            }
        });
    }

    #[test]
    fn a_callback_that_panics_costs_nothing() {
        watched(|| {
            let pool = WorkerPool::new(1).unwrap();
            for kind in Kind::ALL {
                let result = kind.submit(&pool, None).callback(|_| panic!("a callback"));
                let (result, shown) = told(result);
                assert_eq!(result.get().unwrap(), [0, 1, 2]);
                assert_eq!(shown.try_recv().unwrap().unwrap(), 3);
                let failed = kind.submit_failure(&pool, None);
                let failed = failed.error_callback(|_| panic!("a callback"));
                assert!(is_panic(&failed.get().unwrap_err()));
                let late = failed.error_callback(|_| panic!("a late callback"));
                assert!(is_panic(&late.get().unwrap_err()));
                assert_eq!(pool.apply(task!(double(2))).unwrap(), 4);
            }
            pool.close();
            pool.join().unwrap();
        });
    }

    #[test]
    fn a_callback_may_submit_and_its_callback_too() {
        fn chain(pool: &Arc<WorkerPool>, kind: Kind, left: usize, end: mpsc::Sender<usize>) {
            let next = Arc::clone(pool);
            drop(kind.submit(pool, None).callback(move |values| match left {
                0 => end.send(values.len()).unwrap(),
                _ => chain(&next, kind, left - 1, end),
            }));
        }
        watched(|| {
            let pool = Arc::new(WorkerPool::new(1).unwrap());
            for kind in Kind::ALL {
                let (end, ended) = mpsc::channel();
                chain(&pool, kind, 5, end);
                assert_eq!(ended.recv().unwrap(), 3);
            }
        });
    }

    #[test]
    fn a_callback_may_wait_for_other_work() {
        watched(|| {
            let pool = Arc::new(WorkerPool::new(2).unwrap());
            for kind in Kind::ALL {
                for inner in Kind::ALL {
                    let (sender, results) = mpsc::channel();
                    let user = Arc::clone(&pool);
                    let result = kind.submit(&pool, None).callback(move |_| {
                        // On threads one of the workers is here; the other one is enough.
                        sender.send(inner.submit(&user, None).get()).unwrap();
                    });
                    assert_eq!(result.get().unwrap(), [0, 1, 2]);
                    assert_eq!(results.recv().unwrap().unwrap(), [0, 1, 2], "{kind:?} {inner:?}");
                }
            }
        });
    }

    #[test]
    fn a_callback_that_waits_for_its_own_worker_does_so_in_vain() {
        watched(|| {
            let pool = Arc::new(WorkerPool::new(1).unwrap());
            for kind in Kind::ALL {
                let (sender, inner) = mpsc::channel();
                let user = Arc::clone(&pool);
                let result = kind.submit(&pool, None).callback(move |_| {
                    let result = user.apply_async(task!(double(2))).unwrap();
                    let limit = match user.backend() {
                        Backend::Threading => Duration::from_millis(5),
                        Backend::Multiprocessing => LONG,
                    };
                    sender.send((result.get_timeout(limit), result)).unwrap();
                });
                assert_eq!(result.get().unwrap(), [0, 1, 2]);
                match inner.recv().unwrap() {
                    (Err(TaskError::Timeout), result) => {
                        assert_eq!(pool.backend(), Backend::Threading);
                        assert_eq!(result.get().unwrap(), 4);
                    }
                    (result, _) => assert_eq!(result.unwrap(), 4),
                }
            }
        });
    }

    #[test]
    fn a_callback_may_end_the_pool() {
        watched(|| {
            for kind in Kind::ALL {
                for terminate in [false, true] {
                    let pool = Arc::new(WorkerPool::new(2).unwrap());
                    let (sender, joined) = mpsc::channel();
                    let user = Arc::clone(&pool);
                    let gates = GateKeeper::new();
                    let result = kind.submit(&pool, Some(gates.gate())).callback(move |_| {
                        match terminate {
                            true => user.terminate(),
                            false => user.close(),
                        }
                        sender.send(user.join()).unwrap();
                    });
                    gates.open();
                    // The end waits for callbacks.
                    assert!(matches!(joined.recv().unwrap(), Err(Error::JoinSelf)));
                    assert_eq!(result.get().unwrap(), [0, 1, 2]);
                    pool.join().unwrap();
                }
            }
        });
    }

    #[test]
    fn a_callback_of_a_terminated_pool_is_shown_that() {
        watched(|| {
            for kind in Kind::ALL {
                let pool = WorkerPool::new(2).unwrap();
                let gates = GateKeeper::new();
                let (running, shown) = told(kind.submit(&pool, Some(gates.gate())));
                gates.wait_for(1);
                let (queued, shown_of_queued) = told(kind.submit(&pool, Some(gates.gate())));
                pool.terminate();
                for (result, shown) in [(running, shown), (queued, shown_of_queued)] {
                    assert!(matches!(result.get(), Err(TaskError::Terminated(_))));
                    assert!(shown.try_recv().unwrap().unwrap_err().contains("terminated"));
                    assert!(shown.try_recv().is_err());
                }
                gates.open();
            }
        });
    }

    #[test]
    fn callbacks_may_be_added_while_the_result_comes() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            for round in 0..200 {
                for kind in Kind::ALL {
                    let result = kind.submit(&pool, None);
                    (0..round * 20).for_each(|_| std::hint::spin_loop());
                    let (result, shown) = told(result);
                    assert_eq!(result.get().unwrap(), [0, 1, 2]);
                    assert_eq!(shown.try_recv().unwrap().unwrap(), 3);
                    assert!(shown.try_recv().is_err());
                }
            }
        });
    }

    // What cannot travel.

    #[test]
    fn what_cannot_be_encoded_or_decoded_is_the_error_of_its_own_task() {
        if get_backend().unwrap() == Backend::Threading {
            return;
        }
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            let workers = idents(&pool);
            for _ in 0..20 {
                for rogue in Rogue::ALL {
                    let result = pool.apply_async(task!(|rogue| { let _: Rogue = rogue; })).unwrap();
                    check_rogue(&result.get().unwrap_err(), rogue, Part::Argument);
                    let number = rogue as u8;
                    let result = pool.apply_async(task!(|number| Rogue::ALL[number as usize]));
                    let (sender, shown) = mpsc::channel();
                    let result = result.unwrap().error_callback(move |error| {
                        sender.send(error.to_string()).unwrap();
                    });
                    check_rogue(&result.get().unwrap_err(), rogue, Part::Result);
                    assert!(shown.try_recv().unwrap().contains("Rogue"));
                }
            }
            for rogue in Rogue::ALL {
                let items = || (0..10).map(|n| (n, (n == 7).then_some(rogue)));
                let number = |(n, _): (u64, Option<Rogue>)| n;
                for result in [pool.map(number, items()), pool.chunksize(3).map(number, items())] {
                    let Error::Task(error) = result.unwrap_err() else { panic!("not a task's") };
                    check_rogue(&error, rogue, Part::Argument);
                }
                let mut failed = 0;
                for (n, result) in (0..).zip(pool.imap(number, items()).unwrap()) {
                    match result {
                        Ok(number) => assert_eq!(number, n),
                        Err(error) => {
                            check_rogue(&error, rogue, Part::Argument);
                            failed += 1;
                        }
                    }
                }
                assert_eq!(failed, 1);
                let results = pool.map(|n: u8| Rogue::ALL[n as usize % 4], 0..10);
                assert!(matches!(
                    results.unwrap_err(),
                    Error::Task(TaskError::Encode(_) | TaskError::Decode(_))
                ));
            }
            assert_eq!(pool.map(double, 0..3).unwrap(), [0, 2, 4]);
            // It cost no worker.
            assert_eq!(pool.stats().restarted, 0);
            assert_eq!(idents(&pool), workers);
        });
    }
}

/// Fails to travel.
#[derive(Clone, Copy, Debug)]
enum Rogue {
    EncodeFails,
    EncodePanics,
    DecodeFails,
    DecodePanics,
}

impl Rogue {
    const ALL: [Rogue; 4] = [
        Rogue::EncodeFails,
        Rogue::EncodePanics,
        Rogue::DecodeFails,
        Rogue::DecodePanics,
    ];
}

impl Serialize for Rogue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Rogue::EncodeFails => Err(ser::Error::custom("a rogue")),
            Rogue::EncodePanics => panic!("a rogue"),
            _ => serializer.serialize_bool(matches!(self, Rogue::DecodePanics)),
        }
    }
}

impl<'de> Deserialize<'de> for Rogue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match bool::deserialize(deserializer)? {
            true => panic!("a rogue"),
            false => Err(de::Error::custom("a rogue")),
        }
    }
}

#[track_caller]
fn check_rogue(error: &TaskError, rogue: Rogue, part: Part) {
    let codec = match (error, rogue) {
        (TaskError::Encode(codec), Rogue::EncodeFails | Rogue::EncodePanics) => codec,
        (TaskError::Decode(codec), Rogue::DecodeFails | Rogue::DecodePanics) => codec,
        _ => panic!("{rogue:?}: {error:?}"),
    };
    assert_eq!(codec.part(), part);
    assert!(codec.message().contains("a rogue"), "{error}");
}
