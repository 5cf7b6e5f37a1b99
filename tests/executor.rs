//! The executor: which tasks run, where and when, and what becomes of those that cannot.

mod common;

use std::{
    cell::Cell,
    collections::BTreeSet,
    num::NonZero,
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use common::{
    Gate, GateKeeper, Random, Scratch, Sign, eventually, processes, unique_prefix, watched,
    workers_of,
};
use freethreading::{
    Backend, Effect, Error, Part, TaskError, TaskFuture, WorkerPool, WorkerPoolExecutor,
    current_worker, get_ident, task,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use serde_bytes::ByteBuf;

freethreading::init_tests!();

fn threads(max_workers: usize) -> WorkerPoolExecutor {
    WorkerPoolExecutor::builder()
        .max_workers(max_workers)
        .backend(Backend::Threading)
        .build()
        .unwrap()
}

fn add(a: u64, b: u64) -> u64 {
    a + b
}

fn pass(gate: Gate) {
    gate.pass();
}

/// The worker's name, once it is through the gate.
fn name_at(gate: Gate) -> String {
    gate.pass();
    current_worker().name()
}

/// Where the next function panics.
const RUNS_OUT: u32 = line!() + 2;
fn run_out_of(what: String) {
    panic!("out of {what}");
}

/// What has workers of its own.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum House {
    Pool,
    Executor,
}

impl House {
    const ALL: [House; 2] = [House::Pool, House::Executor];
}

/// Sums up, in a house of its own for every level.
fn sum_in_houses(levels: Vec<(House, Backend)>, n: u64) -> u64 {
    let Some((&(house, backend), rest)) = levels.split_first() else {
        return n;
    };
    let tasks = [n, n + 1].map(|n| {
        let rest = rest.to_vec();
        task!(sum_in_houses(rest, n))
    });
    match house {
        House::Pool => {
            let builder = WorkerPool::builder().max_workers(2).backend(backend);
            let pool = builder.build().unwrap();
            let results = tasks.map(|task| pool.apply_async(task).unwrap());
            pool.close();
            pool.join().unwrap();
            results.iter().map(|result| result.get().unwrap()).sum()
        }
        House::Executor => {
            let builder = WorkerPoolExecutor::builder()
                .max_workers(2)
                .backend(backend);
            let executor = builder.build().unwrap();
            let futures = tasks.map(|task| executor.submit(task));
            futures.iter().map(|future| future.result().unwrap()).sum()
        }
    }
}

freethreading::test_backends! {
    #[test]
    fn a_task_gives_its_result() {
        watched(|| {
            let executor = WorkerPoolExecutor::new(2).unwrap();
            assert_eq!(executor.submit(task!(add(1, 2))).result().unwrap(), 3);
            assert_eq!(executor.submit(|| "text".to_string()).result().unwrap(), "text");
        });
    }

    #[test]
    fn as_many_tasks_run_at_once_as_there_may_be_workers() {
        watched(|| {
            let gates = GateKeeper::new();
            let executor = WorkerPoolExecutor::new(5).unwrap();
            let futures: Vec<_> =
                (0..75).map(|_| executor.submit(task!(name_at(gates.gate())))).collect();
            gates.wait_for(5);
            assert_eq!(gates.arrived(), 5);
            gates.open();
            let names: BTreeSet<_> = futures.iter().map(|f| f.result().unwrap()).collect();
            assert_eq!(names.len(), 5);
        });
    }

    #[test]
    fn an_idle_worker_is_used_again() {
        watched(|| {
            let executor = WorkerPoolExecutor::new(4).unwrap();
            let first = executor.submit(get_ident).result().unwrap();
            for _ in 0..100 {
                assert_eq!(executor.submit(get_ident).result().unwrap(), first);
            }
        });
    }

    #[test]
    fn no_workers_is_an_error() {
        assert!(matches!(
            WorkerPoolExecutor::new(0),
            Err(Error::InvalidArgument(why)) if why.contains("max_workers")
        ));
    }

    #[test]
    fn the_default_number_of_workers_heeds_the_cpus_that_may_be_used() {
        // On a thread of its own, which keeps to one CPU.
        let restricted = |backend: Backend| {
            let mut cpus = rustix::thread::sched_getaffinity(None).unwrap();
            let first = (0..).find(|&cpu| cpus.is_set(cpu)).unwrap();
            cpus.clear();
            cpus.set(first);
            rustix::thread::sched_setaffinity(None, &cpus).unwrap();
            WorkerPoolExecutor::builder().backend(backend).build().unwrap().max_workers()
        };
        let backend = freethreading::get_backend().unwrap();
        let cpus = thread::available_parallelism().map_or(1, NonZero::get);
        let unrestricted = WorkerPoolExecutor::builder().build().unwrap().max_workers();
        let restricted = thread::spawn(move || restricted(backend)).join().unwrap();
        match backend {
            Backend::Threading => assert_eq!((unrestricted, restricted), ((cpus + 4).min(32), 5)),
            Backend::Multiprocessing => assert_eq!((unrestricted, restricted), (cpus, 1)),
        }
    }

    #[test]
    fn an_executor_says_what_it_is() {
        let backend = freethreading::get_backend().unwrap();
        let executor = WorkerPoolExecutor::new(3).unwrap();
        assert_eq!(executor.backend(), backend);
        assert_eq!(executor.max_workers(), 3);
        let text = format!("{executor:?}");
        assert!(text.contains("max_workers: 3") && text.contains(&format!("{backend:?}")), "{text}");
    }

    #[test]
    fn workers_are_named_after_the_prefix() {
        watched(|| {
            let executor =
                WorkerPoolExecutor::builder().max_workers(1).name_prefix("painter").build().unwrap();
            assert_eq!(executor.submit(|| current_worker().name()).result().unwrap(), "painter_0");
        });
    }

    #[test]
    fn a_hundred_tasks_may_come_before_the_first_worker_is_ready() {
        watched(|| {
            let executor = WorkerPoolExecutor::new(2).unwrap();
            let futures: Vec<_> =
                (0..100u64).map(|n| executor.submit(task!(add(n, n)))).collect();
            for (n, future) in (0..).zip(futures) {
                assert_eq!(future.result().unwrap(), 2 * n);
            }
        });
    }

    #[test]
    fn a_panic_is_the_error_of_its_own_task_only() {
        watched(|| {
            let executor = WorkerPoolExecutor::new(1).unwrap();
            let before = executor.submit(get_ident).result().unwrap();
            let future = executor.submit(task!(run_out_of("paper".to_string())));
            let error = future.result().unwrap_err();
            assert_eq!(error.effect(), Effect::Ran);
            let TaskError::Panicked(panic) = error else { panic!("{error}") };
            assert_eq!(panic.message(), "out of paper");
            assert_eq!(panic.location().unwrap(), format!("{}:{RUNS_OUT}:5", file!()));
            assert_eq!(executor.submit(get_ident).result().unwrap(), before);
        });
    }

    #[test]
    fn a_panic_may_carry_anything() {
        /// Its destructor panics too.
        struct Grenade;
        impl Drop for Grenade {
            fn drop(&mut self) {
                panic!("the payload was dropped");
            }
        }
        fn number() {
            std::panic::panic_any(7);
        }
        fn grenade() {
            std::panic::panic_any(Grenade);
        }
        watched(|| {
            let executor = WorkerPoolExecutor::new(1).unwrap();
            let before = executor.submit(get_ident).result().unwrap();
            let number = executor.submit(number);
            let grenade = executor.submit(grenade);
            assert!(matches!(number.result(), Err(TaskError::Panicked(_))));
            assert!(matches!(grenade.result(), Err(TaskError::Panicked(_))));
            assert_eq!(executor.submit(get_ident).result().unwrap(), before);
        });
    }

    #[test]
    fn a_result_that_nobody_wants_may_panic_when_dropped() {
        #[derive(Serialize, Deserialize)]
        struct Grenade;
        impl Drop for Grenade {
            fn drop(&mut self) {
                panic!("the result was dropped");
            }
        }
        watched(|| {
            let gates = GateKeeper::new();
            let executor = WorkerPoolExecutor::new(1).unwrap();
            let before = executor.submit(get_ident).result().unwrap();
            let gate = gates.gate();
            drop(executor.submit(task!(|gate| {
                gate.pass();
                Grenade
            })));
            gates.open();
            assert_eq!(executor.submit(get_ident).result().unwrap(), before);
            executor.shutdown(true, false);
        });
    }

    #[test]
    fn an_argument_of_a_cancelled_task_may_panic_when_dropped() {
        #[derive(Serialize, Deserialize)]
        struct Grenade;
        impl Drop for Grenade {
            fn drop(&mut self) {
                if !thread::panicking() {
                    panic!("the argument was dropped");
                }
            }
        }
        // On processes arguments are encoded, and dropped, at once: where the caller can see it.
        if freethreading::get_backend().unwrap() == Backend::Multiprocessing {
            return;
        }
        watched(|| {
            let gates = GateKeeper::new();
            let executor = WorkerPoolExecutor::new(1).unwrap();
            let held = executor.submit(task!(pass(gates.gate())));
            gates.wait_for(1);
            let one = executor.submit(task!(drop::<Grenade>(Grenade)));
            let other = executor.submit(task!(drop::<Grenade>(Grenade)));
            assert!(one.cancel());
            executor.shutdown(false, true);
            assert!(matches!(other.result(), Err(TaskError::Cancelled)));
            gates.open();
            held.result().unwrap();
            executor.shutdown(true, false);
        });
    }

    #[test]
    fn shutting_down_again_or_unused_is_no_error() {
        watched(|| {
            let unused = WorkerPoolExecutor::new(2).unwrap();
            unused.shutdown(true, false);
            unused.shutdown(true, true);
            let used = WorkerPoolExecutor::new(2).unwrap();
            used.submit(|| ()).result().unwrap();
            used.shutdown(false, false);
            used.shutdown(true, false);
            used.shutdown(false, true);
        });
    }

    #[test]
    fn shutdown_waits_for_all_that_is_queued() {
        watched(|| {
            let scratch = Scratch::new();
            let sign = scratch.sign("done");
            let prefix = unique_prefix();
            let executor = WorkerPoolExecutor::builder()
                .max_workers(2).name_prefix(&prefix).build().unwrap();
            let futures: Vec<_> = (0..50)
                .map(|n| {
                    let sign = sign.clone();
                    executor.submit(task!(|sign, n| sign.note(n)))
                })
                .collect();
            executor.shutdown(true, false);
            assert_eq!(sign.notes().len(), 50);
            assert!(futures.iter().all(TaskFuture::done));
            assert!(workers_of(&prefix).is_empty());
        });
    }

    #[test]
    fn shutdown_need_not_wait() {
        watched(|| {
            let gates = GateKeeper::new();
            let prefix = unique_prefix();
            let executor =
                WorkerPoolExecutor::builder().max_workers(1).name_prefix(&prefix).build().unwrap();
            let futures: Vec<_> =
                (0..10).map(|_| executor.submit(task!(pass(gates.gate())))).collect();
            executor.shutdown(false, false);
            assert!(matches!(executor.submit(|| ()).result(), Err(TaskError::Shutdown)));
            assert!(futures.iter().all(|future| !future.done()));
            gates.open();
            assert!(futures.iter().all(|future| future.result().is_ok()));
            assert_eq!(gates.arrived(), 10);
            eventually("the worker ends by itself", || workers_of(&prefix).is_empty());
        });
    }

    #[test]
    fn shutdown_cancels_what_has_not_begun_if_asked() {
        watched(|| {
            let gates = GateKeeper::new();
            let executor = WorkerPoolExecutor::new(5).unwrap();
            let futures: Vec<_> =
                (0..50).map(|_| executor.submit(task!(pass(gates.gate())))).collect();
            gates.wait_for(5);
            executor.shutdown(false, true);
            assert_eq!(futures.iter().filter(|future| future.cancelled()).count(), 45);
            gates.open();
            executor.shutdown(true, false);
            assert_eq!(futures.iter().filter(|future| future.result().is_ok()).count(), 5);
            assert_eq!(gates.arrived(), 5);
        });
    }

    #[test]
    fn what_workers_were_just_started_for_runs_though_shutdown_cancels() {
        watched(|| {
            let gates = GateKeeper::new();
            let executor = WorkerPoolExecutor::new(5).unwrap();
            let futures: Vec<_> =
                (0..50).map(|_| executor.submit(task!(pass(gates.gate())))).collect();
            // The workers have had no time to begin.
            executor.shutdown(false, true);
            let cancelled = futures.iter().filter(|future| future.cancelled()).count();
            assert_eq!(cancelled, 45);
            gates.wait_for(5);
            gates.open();
            executor.shutdown(true, true);
            assert!(futures.iter().all(TaskFuture::done));
            assert_eq!(futures.iter().filter(|future| future.result().is_ok()).count(), 5);
        });
    }

    #[test]
    fn shutdown_cancels_and_waits_for_what_runs() {
        watched(|| {
            let gates = GateKeeper::new();
            let executor = WorkerPoolExecutor::new(5).unwrap();
            let futures: Vec<_> =
                (0..50).map(|_| executor.submit(task!(pass(gates.gate())))).collect();
            gates.wait_for(5);
            thread::scope(|scope| {
                let shutdown = scope.spawn(|| executor.shutdown(true, true));
                eventually("tasks are cancelled", || {
                    futures.iter().filter(|future| future.cancelled()).count() == 45
                });
                assert!(!shutdown.is_finished());
                gates.open();
            });
            assert!(futures.iter().all(TaskFuture::done));
            assert_eq!(futures.iter().filter(|future| future.result().is_ok()).count(), 5);
        });
    }

    #[test]
    fn what_is_submitted_during_the_shutdown_has_an_outcome() {
        watched(|| {
            for cancels in [false, true] {
                let executor = WorkerPoolExecutor::new(2).unwrap();
                let submitted = AtomicU32::new(0);
                let outcomes: Vec<_> = thread::scope(|scope| {
                    let submitters = [0; 3].map(|_| scope.spawn(|| {
                        let next = |n| {
                            submitted.fetch_add(1, Ordering::Relaxed);
                            executor.submit(task!(add(n, 1)))
                        };
                        (0..500).map(next).collect::<Vec<_>>()
                    }));
                    while submitted.load(Ordering::Relaxed) < 200 {
                        thread::yield_now();
                    }
                    executor.shutdown(true, cancels);
                    submitters.map(|submitter| submitter.join().unwrap()).into()
                });
                for futures in outcomes {
                    let mut is_over = false;
                    for (n, future) in (0..).zip(futures) {
                        assert!(future.done());
                        match future.result() {
                            Ok(sum) => assert!(!is_over && sum == n + 1),
                            Err(TaskError::Cancelled) => assert!(!is_over && cancels),
                            Err(TaskError::Shutdown) => is_over = true,
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
            }
        });
    }

    #[test]
    fn what_waits_for_a_busy_worker_runs_in_the_order_of_submission() {
        watched(|| {
            let scratch = Scratch::new();
            let sign = scratch.sign("order");
            let gates = GateKeeper::new();
            let executor = WorkerPoolExecutor::new(1).unwrap();
            let first = executor.submit(task!(pass(gates.gate())));
            gates.wait_for(1);
            let futures: Vec<_> = (0..300)
                .map(|n| {
                    let sign = sign.clone();
                    executor.submit(task!(|sign, n| sign.note(n)))
                })
                .collect();
            assert_eq!(executor.stats().queued, 300);
            gates.open();
            first.result().unwrap();
            // More come while these run.
            let later: Vec<_> = (300..400)
                .map(|n| {
                    let sign = sign.clone();
                    executor.submit(task!(|sign, n| sign.note(n)))
                })
                .collect();
            assert!(futures.into_iter().chain(later).all(|future| future.result().is_ok()));
            let expected: Vec<_> = (0..400).map(|n| n.to_string()).collect();
            assert_eq!(sign.notes(), expected);
        });
    }

    #[test]
    fn several_threads_may_wait_for_the_shutdown() {
        watched(|| {
            let gates = GateKeeper::new();
            let executor = WorkerPoolExecutor::new(1).unwrap();
            let future = executor.submit(task!(pass(gates.gate())));
            gates.wait_for(1);
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        executor.shutdown(true, false);
                        assert!(future.done());
                    });
                }
                gates.open();
            });
        });
    }

    #[test]
    fn a_shutdown_may_follow_at_once() {
        watched(|| {
            for round in 0..20 {
                let executor = WorkerPoolExecutor::new(2).unwrap();
                let map = executor.map(|n: u32| n + 1, 0..3);
                executor.shutdown(true, false);
                assert_eq!(map.into_vec().unwrap(), [1, 2, 3], "round {round}");
            }
        });
    }

    #[test]
    fn a_dropped_executor_completes_its_queue_and_ends_its_workers() {
        watched(|| {
            let gates = GateKeeper::new();
            let prefix = unique_prefix();
            let executor =
                WorkerPoolExecutor::builder().max_workers(2).name_prefix(&prefix).build().unwrap();
            let futures: Vec<_> =
                (0..20).map(|_| executor.submit(task!(pass(gates.gate())))).collect();
            gates.wait_for(2);
            drop(executor);
            gates.open();
            assert!(futures.iter().all(|future| future.result().is_ok()));
            eventually("the workers end", || workers_of(&prefix).is_empty());
        });
    }

    #[test]
    fn a_dropped_executor_ends_idle_workers() {
        watched(|| {
            let prefix = unique_prefix();
            let executor =
                WorkerPoolExecutor::builder().max_workers(2).name_prefix(&prefix).build().unwrap();
            executor.submit(|| ()).result().unwrap();
            assert_eq!(workers_of(&prefix).len(), 1);
            drop(executor);
            eventually("the worker ends", || workers_of(&prefix).is_empty());
        });
    }

    #[test]
    fn nothing_is_accepted_after_the_shutdown() {
        watched(|| {
            let gates = GateKeeper::new();
            let executor = WorkerPoolExecutor::new(1).unwrap();
            let held = executor.submit(task!(pass(gates.gate())));
            executor.shutdown(false, false);
            for _ in 0..2 {
                let error = executor.submit(|| ()).result().unwrap_err();
                assert!(matches!(error, TaskError::Shutdown), "{error}");
                assert_eq!(error.effect(), Effect::DidNotRun);
                let mut map = executor.map(|n: u32| n, 0..3);
                assert!(matches!(map.next(), Some(Err(TaskError::Shutdown))));
                assert!(map.next().is_none());
                gates.open();
                executor.shutdown(true, false);
            }
            held.result().unwrap();
        });
    }

    #[test]
    fn every_worker_runs_the_initializer_before_its_tasks() {
        thread_local! {
            static GREETING: Cell<u32> = const { Cell::new(0) };
        }
        watched(|| {
            let (gates, scratch) = (GateKeeper::new(), Scratch::new());
            let (sign, greeting) = (scratch.sign("initialized"), 77);
            let executor = WorkerPoolExecutor::builder()
                .max_workers(3)
                .initializer(task!(|sign, greeting| {
                    GREETING.set(GREETING.get() + greeting);
                    sign.note(get_ident());
                }))
                .build()
                .unwrap();
            let futures: Vec<_> = (0..12)
                .map(|_| {
                    let gate = gates.gate();
                    executor.submit(task!(|gate| {
                        gate.pass();
                        (GREETING.get(), get_ident().to_string())
                    }))
                })
                .collect();
            gates.wait_for(3);
            gates.open();
            let workers: BTreeSet<_> = futures
                .into_iter()
                .map(|future| {
                    let (greeting, worker) = future.result().unwrap();
                    assert_eq!(greeting, 77);
                    worker
                })
                .collect();
            let initialized = scratch.sign("initialized").notes();
            assert_eq!(initialized.len(), 3);
            assert_eq!(workers, initialized.into_iter().collect());
        });
    }

    #[test]
    fn a_panicking_initializer_breaks_the_executor_after_a_few_attempts() {
        fn fail(sign: Sign) {
            sign.note("attempt");
            panic!("no luck");
        }
        watched(|| {
            let scratch = Scratch::new();
            let sign = scratch.sign("attempts");
            let prefix = unique_prefix();
            let executor = WorkerPoolExecutor::builder()
                .max_workers(4)
                .name_prefix(&prefix)
                .initializer(task!(fail(sign)))
                .build()
                .unwrap();
            let futures: Vec<_> = (0..20).map(|_| executor.submit(|| ())).collect();
            for future in futures {
                assert_broken(future.result(), "no luck");
            }
            assert_broken(executor.submit(|| ()).result(), "no luck");
            let mut map = executor.map(|n: u32| n, 0..5);
            assert!(matches!(map.next(), Some(Err(TaskError::Broken(_)))));
            assert!(map.next().is_none());
            executor.shutdown(true, false);
            assert!(workers_of(&prefix).is_empty());
            // Three failures in a row, and as many workers more as were being tried meanwhile.
            let attempts = scratch.sign("attempts").notes().len();
            assert!((3..=7).contains(&attempts), "{attempts}");
        });
    }

    #[test]
    fn an_initializer_that_cannot_be_decoded_breaks_the_executor() {
        watched(|| {
            let executor = WorkerPoolExecutor::builder()
                .initializer(task!(drop::<Rogue>(Rogue::DecodeFails)))
                .build()
                .unwrap();
            assert_broken(executor.submit(|| ()).result(), "refuses to be read");
            executor.shutdown(true, false);
        });
    }

    #[test]
    fn an_initializer_that_cannot_be_encoded_is_an_error_of_the_builder() {
        for rogue in [Rogue::EncodeFails, Rogue::EncodePanics] {
            let builder = WorkerPoolExecutor::builder().initializer(task!(drop::<Rogue>(rogue)));
            assert!(matches!(builder.build(), Err(Error::Task(TaskError::Encode(_)))));
        }
    }

    #[test]
    fn ten_threads_submit_cancel_and_map_at_once() {
        watched(|| {
            let executor = WorkerPoolExecutor::new(3).unwrap();
            thread::scope(|scope| {
                for number in 0..10u64 {
                    let executor = &executor;
                    scope.spawn(move || busy_user(executor, number));
                }
            });
            executor.shutdown(true, false);
        });
    }

    #[test]
    fn callbacks_may_submit_on_and_on() {
        fn chain(executor: Arc<WorkerPoolExecutor>, left: u64, done: mpsc::Sender<u64>) {
            let future = executor.submit(task!(add(left, 0)));
            future.add_done_callback(move |future| match future.result() {
                Ok(0) => done.send(0).unwrap(),
                Ok(left) => chain(executor, left - 1, done),
                Err(error) => panic!("{error}"),
            });
        }
        watched(|| {
            let (done, is_done) = mpsc::channel();
            let executor = Arc::new(WorkerPoolExecutor::new(2).unwrap());
            for length in [100, 50, 60] {
                chain(Arc::clone(&executor), length, done.clone());
            }
            // The last link of the last chain drops it, on a thread that it itself made.
            drop(executor);
            drop(done);
            assert_eq!(is_done.iter().collect::<Vec<_>>(), [0, 0, 0]);
        });
    }

    #[test]
    fn executors_nest() {
        /// Sums up, with an executor of its own for every level below.
        fn sum(levels: Vec<Backend>, n: u64) -> u64 {
            let Some((&backend, rest)) = levels.split_first() else { return n };
            let executor =
                WorkerPoolExecutor::builder().max_workers(2).backend(backend).build().unwrap();
            let futures: Vec<_> = [n, n + 1]
                .map(|n| executor.submit(task!(sum(rest.to_vec(), n))))
                .into();
            futures.into_iter().map(|future| future.result().unwrap()).sum()
        }
        watched(|| {
            let executor = WorkerPoolExecutor::new(1).unwrap();
            for levels in Backend::ALL.map(|one| Backend::ALL.map(|other| [one, other])).concat() {
                let future = executor.submit(task!(sum(levels.to_vec(), 10)));
                assert_eq!(future.result().unwrap(), 10 + 11 + 11 + 12, "{levels:?}");
            }
        });
    }

    #[test]
    fn pools_and_executors_nest_in_each_other() {
        watched(|| {
            let here = freethreading::get_backend().unwrap();
            // On this backend all that may be in all, on both.
            for outer in House::ALL {
                for inner in House::ALL {
                    for backend in Backend::ALL {
                        let levels = vec![(outer, here), (inner, backend)];
                        let sum = sum_in_houses(levels.clone(), 10);
                        assert_eq!(sum, 10 + 11 + 11 + 12, "{levels:?}");
                    }
                }
            }
            // And deeper, with the backends in turn.
            let backends = Backend::ALL.into_iter().cycle().skip_while(|backend| *backend != here);
            let houses = [House::Pool, House::Executor, House::Executor, House::Pool];
            let levels: Vec<_> = houses.into_iter().zip(backends).collect();
            // Each of the four levels adds one to half of the 16 terms.
            assert_eq!(sum_in_houses(levels, 10), 16 * 10 + 4 * 8);
        });
    }

    #[test]
    fn workers_inherit_the_default_backend() {
        watched(|| {
            let executor = WorkerPoolExecutor::new(1).unwrap();
            let inherited = executor.submit(|| freethreading::get_backend().unwrap());
            assert_eq!(inherited.result().unwrap(), freethreading::get_backend().unwrap());
        });
    }

    #[test]
    fn large_arguments_and_results_pass_each_other() {
        watched(|| {
            let executor = WorkerPoolExecutor::new(2).unwrap();
            let large = |fill: u8| ByteBuf::from(vec![fill; 64 << 20]);
            let futures: Vec<_> = (0..4)
                .map(|n| {
                    let bytes = large(n);
                    executor.submit(task!(|mut bytes| {
                        bytes[0] ^= 0xff;
                        bytes
                    }))
                })
                .collect();
            for (n, future) in (0..).zip(futures) {
                let bytes = future.result().unwrap();
                assert_eq!(bytes[0], n ^ 0xff);
                assert!(bytes.len() == 64 << 20 && bytes[1..] == large(n)[1..]);
            }
        });
    }
}

#[track_caller]
fn assert_broken(result: Result<(), TaskError>, why: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.effect(), Effect::DidNotRun);
    assert!(error.to_string().contains(why), "{error}");
    let TaskError::Broken(broken) = error else {
        panic!("{error}");
    };
    assert!(broken.initializer_failed());
}

/// One of many that use the same executor, in all ways.
fn busy_user(executor: &WorkerPoolExecutor, number: u64) {
    let mut random = Random::new();
    for round in 0..30 {
        let n = number * 1000 + round;
        match random.below(3) {
            0 => assert_eq!(executor.submit(task!(add(n, 1))).result().unwrap(), n + 1),
            1 => {
                let future = executor.submit(task!(add(n, 2)));
                match future.cancel() {
                    true => assert!(matches!(future.result(), Err(TaskError::Cancelled))),
                    false => assert_eq!(future.result().unwrap(), n + 2),
                }
            }
            _ => {
                let chunksize = 1 + random.below(4);
                let map = executor.chunksize(chunksize).map(|x: u64| x * 2, n..n + 10);
                let doubles: Vec<_> = map.collect::<Result<_, _>>().unwrap();
                assert_eq!(doubles, (n..n + 10).map(|x| x * 2).collect::<Vec<_>>());
            }
        }
    }
}

static OWN: LazyLock<WorkerPoolExecutor> = LazyLock::new(|| threads(1));

#[test]
fn a_task_may_submit_to_its_own_executor() {
    static OTHERS: LazyLock<WorkerPoolExecutor> = LazyLock::new(|| threads(2));
    static RESULTS: Mutex<Option<mpsc::Sender<u64>>> = Mutex::new(None);
    watched(|| {
        let (sender, results) = mpsc::channel();
        *RESULTS.lock().unwrap() = Some(sender);
        // Without waiting for it,
        OWN.submit(|| {
            drop(OWN.submit(|| RESULTS.lock().unwrap().take().unwrap().send(3).unwrap()));
        })
        .result()
        .unwrap();
        assert_eq!(results.recv().unwrap(), 3);
        // and with waiting, where there is a worker for it.
        let outer = OTHERS.submit(|| OTHERS.submit(task!(add(1, 2))).result().unwrap());
        assert_eq!(outer.result().unwrap(), 3);
    });
}

#[test]
fn a_task_that_waits_for_its_own_executor_in_vain_can_give_up() {
    watched(|| {
        let inner = OWN.submit(|| {
            let inner = OWN.submit(|| ());
            let result = inner.result_timeout(Duration::from_millis(20));
            matches!(result, Err(TaskError::Timeout))
        });
        assert!(inner.result().unwrap());
        OWN.submit(|| ()).result().unwrap();
    });
}

#[test]
fn a_task_may_shut_its_own_executor_down() {
    static DOOMED: LazyLock<WorkerPoolExecutor> = LazyLock::new(|| threads(1));
    watched(|| {
        let future = DOOMED.submit(|| {
            DOOMED.shutdown(true, false);
            7
        });
        assert_eq!(future.result().unwrap(), 7);
        assert!(matches!(
            DOOMED.submit(|| ()).result(),
            Err(TaskError::Shutdown)
        ));
    });
}

#[test]
fn threads_share_memory_and_need_no_encoding() {
    watched(|| {
        let executor = threads(1);
        for rogue in [Rogue::EncodeFails, Rogue::EncodePanics, Rogue::DecodeFails] {
            let future = executor.submit(task!(|rogue| rogue));
            assert_eq!(future.result().unwrap(), rogue);
        }
        let limited = WorkerPoolExecutor::builder()
            .backend(Backend::Threading)
            .max_frame_len(1024)
            .build()
            .unwrap();
        let bytes = vec![7u8; 4096];
        let future = limited.submit(task!(|bytes| bytes));
        assert_eq!(future.result().unwrap().len(), 4096);
    });
}

/// A value that does not go along when it is encoded or decoded.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Rogue {
    Fine,
    EncodeFails,
    EncodePanics,
    DecodeFails,
    DecodePanics,
}

impl Serialize for Rogue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Rogue::EncodeFails => Err(ser::Error::custom("refuses to be written")),
            Rogue::EncodePanics => panic!("panics when written"),
            _ => (*self as u8).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Rogue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u8::deserialize(deserializer)? {
            3 => Err(de::Error::custom("refuses to be read")),
            4 => panic!("panics when read"),
            _ => Ok(Rogue::Fine),
        }
    }
}

#[track_caller]
fn assert_codec_error<R>(result: Result<R, TaskError>, encode: bool, part: Part, why: &str) {
    let error = result.err().expect("it cannot be encoded or decoded");
    let details = match (&error, encode) {
        (TaskError::Encode(details), true) | (TaskError::Decode(details), false) => details,
        _ => panic!("{error}"),
    };
    assert_eq!(details.part(), part);
    assert!(details.type_name().contains("Rogue"), "{details}");
    assert!(details.message().contains(why), "{details}");
    let effect = match part {
        Part::Argument => Effect::DidNotRun,
        Part::Result => Effect::Ran,
    };
    assert_eq!(error.effect(), effect);
}

/// An ordinary task works, and on the same worker as before.
fn goes_on(executor: &WorkerPoolExecutor, worker: u64) {
    assert_eq!(executor.submit(get_ident).result().unwrap(), worker);
}

fn abort() {
    std::process::abort()
}

fn takes(_: Rogue) {}

fn gives(number: u32) -> Rogue {
    [
        Rogue::Fine,
        Rogue::EncodeFails,
        Rogue::EncodePanics,
        Rogue::DecodeFails,
        Rogue::DecodePanics,
    ][number as usize]
}

#[test]
fn an_argument_that_cannot_be_encoded_costs_its_task_only() {
    watched(|| {
        let executor = processes(1);
        let worker = executor.submit(get_ident).result().unwrap();
        for (rogue, why) in [
            (Rogue::EncodeFails, "refuses to be written"),
            (Rogue::EncodePanics, "panics when written"),
        ] {
            let future = executor.submit(task!(takes(rogue)));
            assert!(future.done());
            assert_codec_error(future.result(), true, Part::Argument, why);
            goes_on(&executor, worker);
        }
    });
}

#[test]
fn an_argument_that_cannot_be_decoded_costs_its_task_only() {
    watched(|| {
        let executor = processes(1);
        let worker = executor.submit(get_ident).result().unwrap();
        for (rogue, why) in [
            (Rogue::DecodeFails, "refuses to be read"),
            (Rogue::DecodePanics, "panics when read"),
        ] {
            let future = executor.submit(task!(takes(rogue)));
            assert_codec_error(future.result(), false, Part::Argument, why);
            goes_on(&executor, worker);
        }
    });
}

#[test]
fn a_result_that_cannot_be_encoded_costs_its_task_only() {
    watched(|| {
        let executor = processes(1);
        let worker = executor.submit(get_ident).result().unwrap();
        for (number, why) in [(1, "refuses to be written"), (2, "panics when written")] {
            let future = executor.submit(task!(gives(number)));
            assert_codec_error(future.result(), true, Part::Result, why);
            goes_on(&executor, worker);
        }
    });
}

#[test]
fn a_result_that_cannot_be_decoded_costs_its_task_only() {
    watched(|| {
        let executor = processes(1);
        let worker = executor.submit(get_ident).result().unwrap();
        for (number, why) in [(3, "refuses to be read"), (4, "panics when read")] {
            let future = executor.submit(task!(gives(number)));
            assert_codec_error(future.result(), false, Part::Result, why);
            // An error stays.
            assert_codec_error(future.result(), false, Part::Result, why);
            goes_on(&executor, worker);
        }
    });
}

#[test]
fn good_tasks_are_safe_among_bad_ones() {
    watched(|| {
        let executor = processes(2);
        let mut good = Vec::new();
        let mut bad = Vec::new();
        for n in 0..100u32 {
            good.push((n, executor.submit(task!(add(n.into(), 1)))));
            let number = 1 + n % 4;
            bad.push(match n % 8 {
                0..4 => {
                    let rogue = gives(number);
                    executor.submit(task!(|rogue| {
                        takes(rogue);
                        Rogue::Fine
                    }))
                }
                _ => executor.submit(task!(gives(number))),
            });
        }
        for (n, future) in good {
            assert_eq!(future.result().unwrap(), u64::from(n) + 1);
        }
        for future in bad {
            let result = future.result();
            assert!(
                matches!(result, Err(TaskError::Encode(_) | TaskError::Decode(_))),
                "{result:?}"
            );
        }
    });
}

#[test]
fn a_dying_initializer_breaks_the_executor() {
    watched(|| {
        fn die(code: i32) {
            match code {
                ..0 => std::process::abort(),
                code => std::process::exit(code),
            }
        }
        for (initializer, text) in [
            (3, "exited with code 3"),
            (-1, "SIGABRT"),
            (0, "exited with code 0"),
        ] {
            let executor = WorkerPoolExecutor::builder()
                .max_workers(2)
                .backend(Backend::Multiprocessing)
                .initializer(task!(die(initializer)))
                .build()
                .unwrap();
            let futures: Vec<_> = (0..10).map(|_| executor.submit(|| ())).collect();
            for future in futures {
                assert_broken(future.result(), text);
            }
            assert_broken(executor.submit(|| ()).result(), text);
            executor.shutdown(true, false);
        }
    });
}

#[test]
fn an_initializer_that_fails_at_first_is_tried_again() {
    watched(|| {
        let scratch = Scratch::new();
        let sign = scratch.sign("attempts");
        let executor = WorkerPoolExecutor::builder()
            .max_workers(1)
            .backend(Backend::Multiprocessing)
            .initializer(task!(|sign| {
                sign.note("attempt");
                assert!(sign.notes().len() > 2, "not yet");
            }))
            .build()
            .unwrap();
        assert_eq!(executor.submit(task!(add(1, 2))).result().unwrap(), 3);
        assert_eq!(scratch.sign("attempts").notes().len(), 3);
    });
}

#[test]
fn a_worker_that_replaces_another_runs_the_initializer_too() {
    thread_local! {
        static READY: Cell<bool> = const { Cell::new(false) };
    }
    watched(|| {
        let executor = WorkerPoolExecutor::builder()
            .max_workers(1)
            .backend(Backend::Multiprocessing)
            .initializer(|| READY.set(true))
            .build()
            .unwrap();
        for _ in 0..5 {
            assert!(executor.submit(|| READY.get()).result().unwrap());
            let death = executor.submit(abort).result();
            assert!(matches!(death, Err(TaskError::WorkerDied(_))));
        }
    });
}

fn limited() -> WorkerPoolExecutor {
    WorkerPoolExecutor::builder()
        .max_workers(1)
        .backend(Backend::Multiprocessing)
        .max_frame_len(1 << 20)
        .build()
        .unwrap()
}

#[track_caller]
fn assert_too_large<R>(result: Result<R, TaskError>, part: Part, size: usize) {
    let error = result.err().expect("it is too large");
    let TaskError::TooLarge(details) = &error else {
        panic!("{error}");
    };
    assert_eq!(details.part(), part);
    assert_eq!(details.limit(), 1 << 20);
    // The frame has a header, too.
    let frames = size as u64..size as u64 + 100;
    assert!(frames.contains(&details.size()), "{}", details.size());
    let text = error.to_string();
    assert!(text.contains(&details.size().to_string()) && text.contains("1048576"));
    let effect = match part {
        Part::Argument => Effect::DidNotRun,
        Part::Result => Effect::Ran,
    };
    assert_eq!(error.effect(), effect);
}

#[test]
fn an_argument_above_the_frame_limit_costs_its_task_only() {
    watched(|| {
        let executor = limited();
        let worker = executor.submit(get_ident).result().unwrap();
        let len = |len: usize| {
            let bytes = ByteBuf::from(vec![7; len]);
            executor.submit(task!(|bytes| bytes.len()))
        };
        assert_eq!(len((1 << 20) - 100).result().unwrap(), (1 << 20) - 100);
        for size in [1 << 20, 2 << 20] {
            assert_too_large(len(size).result(), Part::Argument, size);
            goes_on(&executor, worker);
        }
    });
}

#[test]
fn a_result_above_the_frame_limit_costs_its_task_only() {
    watched(|| {
        let executor = limited();
        let worker = executor.submit(get_ident).result().unwrap();
        let bytes = |len: usize| executor.submit(task!(|len| ByteBuf::from(vec![7; len])));
        assert!(bytes((1 << 20) - 100).result().is_ok());
        for size in [1 << 20, 2 << 20] {
            assert_too_large(bytes(size).result(), Part::Result, size);
            goes_on(&executor, worker);
        }
    });
}

#[test]
fn a_chunk_above_the_frame_limit_is_an_error_of_its_map() {
    watched(|| {
        let executor = limited();
        let items = || (0..4).map(|_| ByteBuf::from(vec![7; 600 << 10]));
        let len = |bytes: ByteBuf| bytes.len();
        let chunked = executor.chunksize(2).map(len, items()).into_vec();
        assert_too_large(chunked, Part::Argument, 1200 << 10);
        assert_eq!(
            executor.map(len, items()).into_vec().unwrap(),
            [600 << 10; 4]
        );
    });
}

#[test]
fn frames_too_small_for_anything_are_refused() {
    let builder = WorkerPoolExecutor::builder().backend(Backend::Multiprocessing);
    let refused = builder.max_frame_len(100).build();
    assert!(
        matches!(refused, Err(Error::InvalidArgument(why)) if why.contains("100") && why.contains("max_frame_len"))
    );
}

#[test]
fn a_builder_may_be_used_again() {
    watched(|| {
        let builder = WorkerPoolExecutor::builder()
            .max_workers(2)
            .initializer(task!(drop::<Option<Sign>>(None)));
        for backend in Backend::ALL {
            let executor = builder.clone().backend(backend).build().unwrap();
            assert_eq!(executor.submit(task!(add(1, 2))).result().unwrap(), 3);
        }
    });
}

freethreading::test_backends! {
    #[test]
    fn a_thread_whose_thread_locals_are_gone_may_submit() {
        struct Late(WorkerPoolExecutor, mpsc::Sender<Result<u64, TaskError>>);
        impl Drop for Late {
            fn drop(&mut self) {
                let _ = self.1.send(self.0.submit(|| 42).result());
            }
        }
        thread_local! {
            static LATE: Cell<Option<Late>> = const { Cell::new(None) };
        }
        watched(|| {
            let (send, sent) = mpsc::channel();
            let executor = WorkerPoolExecutor::new(1).unwrap();
            let ends = thread::spawn(move || {
                LATE.set(Some(Late(executor, send)));
                // What comes to a thread last goes first.
                let _ = tokio::runtime::Handle::try_current();
            });
            ends.join().unwrap();
            assert_eq!(sent.recv().unwrap(), Ok(42));
        });
    }
}
