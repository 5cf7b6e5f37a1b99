//! The pool: its workers, one task or one function over many items, and how it ends.

mod common;

use std::{
    cell::Cell,
    collections::BTreeSet,
    iter,
    num::NonZero,
    panic::{AssertUnwindSafe, RefUnwindSafe, UnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use common::{
    Gate, GateKeeper, Scratch, Sign, eventually, number_at, square, squares, takes_its_time,
    unique_prefix, watched,
    ways::{Hand, Way},
    workers_of,
};
use freethreading::{
    AsyncResult, Backend, Barrier, Effect, Error, Imap, ImapStream, TaskError, Worker, WorkerPool,
    current_worker, get_ident, task,
};
use futures::{executor::block_on, stream};

freethreading::init_tests!();

static_assertions::assert_impl_all!(WorkerPool: Send, Sync, UnwindSafe, RefUnwindSafe);
static_assertions::assert_impl_all!(
    AsyncResult<Cell<u8>>: Send, Sync, Unpin, UnwindSafe, RefUnwindSafe
);
static_assertions::assert_impl_all!(
    Imap<std::ops::Range<u8>, Cell<u8>>: Send, Unpin, UnwindSafe, RefUnwindSafe
);
static_assertions::assert_impl_all!(
    ImapStream<stream::Pending<u8>, u8>: Send, Unpin, UnwindSafe, RefUnwindSafe
);

/// What the methods give that are awaited has no name, but may be awaited on any thread.
const _: fn(&WorkerPool) = |pool| {
    fn is_send(_: impl Future + Send) {}
    is_send(pool.join_async());
    is_send(pool.apply_queued(task!(square(2))));
    is_send(async {
        pool.apply_async(task!(square(2)))
            .unwrap()
            .wait_async()
            .await
    });
};

fn pass(gate: Gate) {
    gate.pass();
}

fn fussy(n: u64) -> u64 {
    assert!(n != 5, "no fives");
    n
}

/// A pool whose workers can be told from those of all others.
fn named_pool(workers: usize) -> (WorkerPool, String) {
    let prefix = unique_prefix();
    let pool = WorkerPool::builder()
        .max_workers(workers)
        .name_prefix(&prefix)
        .build()
        .unwrap();
    (pool, prefix)
}

/// Waits for the result in the given way.
fn get<R: Send + 'static>(way: Way, result: AsyncResult<R>) -> Result<R, TaskError> {
    match way {
        Way::Blocking => result.get(),
        Way::Timed => result.get_timeout(common::ways::LONG),
        Way::Async | Way::Tokio => way.run(result),
    }
}

/// All that a pool has for one function over many items, with or without chunks of one size.
fn every_map(pool: &WorkerPool, chunksize: Option<usize>) -> [Result<Vec<u64>, Error>; 11] {
    fn plus((a, b): (u64, u64)) -> u64 {
        a + b
    }
    let pairs = || (0..40).zip(iter::repeat(1));
    let chunks = |size| pool.chunksize(size);
    macro_rules! call {
        ($method:ident($function:expr, $items:expr)) => {
            match chunksize {
                None => pool.$method($function, $items),
                Some(size) => chunks(size).$method($function, $items),
            }
        };
    }
    let wait = |result: Result<AsyncResult<Vec<u64>>, Error>, way| Ok(get(way, result?)?);
    let collect = |imap: Result<Vec<Result<u64, TaskError>>, Error>| {
        imap.map(|results| results.into_iter().map(Result::unwrap).collect())
    };
    let sorted = |results: Result<Vec<u64>, Error>| {
        results.map(|mut results| {
            results.sort_unstable();
            results
        })
    };
    let iterated = call!(imap(plus, pairs())).map(Iterator::collect);
    let unordered = call!(imap_unordered(plus, pairs())).map(Iterator::collect);
    let streamed = call!(imap_stream(plus, stream::iter(pairs())));
    let streamed = streamed.map(|stream| block_on(futures::StreamExt::collect(stream)));
    let streamed_unordered = call!(imap_unordered_stream(plus, stream::iter(pairs())));
    let streamed_unordered =
        streamed_unordered.map(|stream| block_on(futures::StreamExt::collect(stream)));
    [
        call!(map(plus, pairs())),
        call!(starmap(|a: u64, b: u64| a + b, pairs())),
        wait(call!(map_async(plus, pairs())), Way::Blocking),
        wait(call!(map_async(plus, pairs())), Way::Timed),
        wait(call!(map_async(plus, pairs())), Way::Async),
        wait(call!(map_async(plus, pairs())), Way::Tokio),
        wait(
            call!(starmap_async(|a: u64, b: u64| a + b, pairs())),
            Way::Async,
        ),
        collect(iterated),
        sorted(collect(unordered)),
        collect(streamed),
        sorted(collect(streamed_unordered)),
    ]
}

/// Where the next function panics.
const RUNS_OUT: u32 = line!() + 2;
fn run_out_of(what: String) {
    panic!("out of {what}");
}

// The workers.

freethreading::test_backends! {
    #[test]
    fn a_task_gives_its_result() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            assert_eq!(pool.apply(task!(square(3))).unwrap(), 9);
            assert_eq!(pool.apply(|| "text".to_string()).unwrap(), "text");
            for way in Way::ALL {
                let x = 4;
                let result = pool.apply_async(task!(|x| square(x) + 1)).unwrap();
                assert_eq!(get(way, result).unwrap(), 17);
            }
        });
    }

    #[test]
    fn all_workers_are_started_at_once() {
        watched(|| {
            let (pool, prefix) = named_pool(3);
            assert_eq!(workers_of(&prefix).len(), 3);
            let gates = GateKeeper::new();
            let results: Vec<_> = (0..10)
                .map(|_| pool.apply_async(task!(pass(gates.gate()))).unwrap())
                .collect();
            gates.wait_for(3);
            assert_eq!((gates.arrived(), workers_of(&prefix).len()), (3, 3));
            gates.open();
            assert!(results.iter().all(|result| result.get().is_ok()));
            assert_eq!(workers_of(&prefix).len(), 3);
        });
    }

    #[test]
    fn workers_are_replaced_when_they_have_done_their_share() {
        watched(|| {
            let prefix = unique_prefix();
            let builder = WorkerPool::builder().max_workers(2).max_tasks_per_child(1);
            let pool = builder.name_prefix(&prefix).build().unwrap();
            let before = workers_of(&prefix);
            // Each of the two is at one of them: a new worker might else be at hand before the other one is asked.
            let gates = GateKeeper::new();
            let results = [(); 2].map(|()| pool.apply_async(task!(pass(gates.gate()))).unwrap());
            gates.wait_for(2);
            gates.open();
            assert!(results.iter().all(|result| result.get().is_ok()));
            eventually("both are replaced", || {
                workers_of(&prefix).iter().all(|ident| !before.contains(ident))
            });
            assert!(pool.apply(|| current_worker().rank()).unwrap().unwrap() < 2);
            eventually("both are there, though nothing is queued", || {
                workers_of(&prefix).len() == 2
            });
        });
    }

    #[test]
    fn there_are_as_many_workers_as_cpus_unless_said() {
        watched(|| {
            let cpus = thread::available_parallelism().map_or(1, NonZero::get);
            assert_eq!(WorkerPool::builder().build().unwrap().workers(), cpus);
            assert_eq!(WorkerPool::new(3).unwrap().workers(), 3);
            assert!(matches!(
                WorkerPool::new(0),
                Err(Error::InvalidArgument(why)) if why.contains("max_workers")
            ));
        });
    }

    #[test]
    fn a_pool_and_its_workers_say_what_they_are() {
        watched(|| {
            let backend = freethreading::get_backend().unwrap();
            let pool = WorkerPool::new(1).unwrap();
            assert_eq!(pool.backend(), backend);
            let text = format!("{pool:?}");
            assert!(text.contains("workers: 1") && text.contains("running: true"), "{text}");
            let name = pool.apply(|| current_worker().name()).unwrap();
            let kind = match backend {
                Backend::Threading => "ThreadPool-",
                Backend::Multiprocessing => "ProcessPool-",
            };
            assert!(name.starts_with(kind) && name.ends_with("_0"), "{name}");
            pool.close();
            assert!(format!("{pool:?}").contains("running: false"));
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
            let pool = WorkerPool::builder()
                .max_workers(3)
                .initializer(task!(|sign, greeting| {
                    GREETING.set(GREETING.get() + greeting);
                    sign.note(get_ident());
                }))
                .build()
                .unwrap();
            let results = pool.chunksize(1).map_async(
                |gate: Gate| {
                    gate.pass();
                    (GREETING.get(), get_ident().to_string())
                },
                (0..12).map(|_| gates.gate()),
            );
            gates.wait_for(3);
            gates.open();
            let (greetings, workers): (Vec<_>, BTreeSet<_>) =
                results.unwrap().get().unwrap().into_iter().unzip();
            assert_eq!(greetings, [77; 12]);
            let initialized = scratch.sign("initialized").notes();
            assert_eq!(initialized.len(), 3);
            assert_eq!(workers, initialized.into_iter().collect());
        });
    }

    #[test]
    fn a_panicking_initializer_breaks_the_pool() {
        fn fail(sign: Sign, gate: Gate) {
            gate.pass();
            sign.note("attempt");
            panic!("no luck");
        }
        watched(|| {
            let (gates, scratch) = (GateKeeper::new(), Scratch::new());
            let pool = WorkerPool::builder()
                .max_workers(4)
                .initializer(task!(fail(scratch.sign("attempts"), gates.gate())))
                .build()
                .unwrap();
            let pending = pool.apply_async(|| ()).unwrap();
            let mapping = pool.map_async(square, 0..50).unwrap();
            let chunks = pool.chunksize(3).map_async(square, 0..50).unwrap();
            let mut imap = pool.imap(square, 0..50).unwrap();
            gates.open();
            let is_it = |error: TaskError| {
                let TaskError::Broken(broken) = &error else { panic!("{error:?}") };
                broken.initializer_failed() && broken.cause().to_string().contains("no luck")
            };
            assert!(is_it(pending.get().unwrap_err()));
            assert!(is_it(mapping.get().unwrap_err()));
            assert!(is_it(chunks.get().unwrap_err()));
            assert!(is_it(imap.next().unwrap().unwrap_err()));
            assert!(imap.by_ref().all(|result| is_it(result.unwrap_err())));
            for error in [
                pool.apply(|| ()).unwrap_err(),
                pool.map(square, 0..3).unwrap_err(),
                pool.imap(square, 0..3).unwrap_err(),
            ] {
                let Error::Task(error) = error else { panic!("{error:?}") };
                assert!(is_it(error));
            }
            pool.close();
            pool.join().unwrap();
            pool.terminate();
            pool.join().unwrap();
            // Three failures in a row, and as many workers more as were being tried meanwhile.
            let attempts = scratch.sign("attempts").notes().len();
            assert!((3..=7).contains(&attempts), "{attempts}");
        });
    }

    #[test]
    fn a_panic_is_the_error_of_its_own_task_only() {
        watched(|| {
            let pool = WorkerPool::new(1).unwrap();
            let before = pool.apply(get_ident).unwrap();
            let error = pool.apply(task!(run_out_of("paper".to_string()))).unwrap_err();
            let Error::Task(TaskError::Panicked(panic)) = error else { panic!("{error}") };
            assert_eq!(panic.message(), "out of paper");
            assert_eq!(panic.location().unwrap(), format!("{}:{RUNS_OUT}:5", file!()));
            let results: Vec<_> = (0..16)
                .map(|n| pool.apply_async(task!(|n| assert!(n % 4 != 0, "a fourth"))).unwrap())
                .collect();
            let failures = results.iter().filter(|result| {
                matches!(result.get(), Err(TaskError::Panicked(panic)) if panic.message() == "a fourth")
            });
            assert_eq!(failures.count(), 4);
            assert_eq!(pool.apply(get_ident).unwrap(), before);
        });
    }

    // Maps.

    #[test]
    fn every_map_gives_all_results_in_order_whatever_the_chunks() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            let expected: Vec<_> = (1..41).collect();
            for chunksize in [None, Some(1), Some(3), Some(20), Some(50), Some(usize::MAX)] {
                for (k, results) in every_map(&pool, chunksize).into_iter().enumerate() {
                    assert_eq!(results.unwrap(), expected, "map {k}, chunks of {chunksize:?}");
                }
            }
        });
    }

    #[test]
    fn a_chunk_of_nothing_is_an_error_of_every_map() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            for results in every_map(&pool, Some(0)) {
                let error = results.unwrap_err();
                assert!(
                    matches!(&error, Error::InvalidArgument(why) if why.contains("chunksize")),
                    "{error}"
                );
            }
        });
    }

    #[test]
    fn no_items_give_no_results() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            let chunked = [None, Some(1), Some(7)];
            for chunksize in chunked {
                let maps = || pool.chunksize(chunksize.unwrap_or(1));
                let result = match chunksize {
                    None => pool.map_async(square, iter::empty()),
                    Some(_) => maps().map_async(square, iter::empty()),
                };
                let (sender, called) = std::sync::mpsc::channel();
                let result = result.unwrap();
                assert!(result.ready());
                let result = result.callback(move |squares| sender.send(squares.len()).unwrap());
                assert_eq!(called.recv().unwrap(), 0);
                assert_eq!(result.get().unwrap(), []);
                assert_eq!(maps().map(square, Vec::new()).unwrap(), []);
                assert_eq!(maps().starmap(u64::pow, Vec::new()).unwrap(), []);
                assert!(maps().imap(square, 0..0).unwrap().next().is_none());
                assert!(maps().imap_unordered(square, 0..0).unwrap().next().is_none());
            }
        });
    }

    #[test]
    fn items_and_results_may_be_of_size_zero() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            assert_eq!(pool.map(|()| (), iter::repeat_n((), 1000)).unwrap().len(), 1000);
            assert_eq!(pool.chunksize(3).map(|()| (), iter::repeat_n((), 10)).unwrap().len(), 10);
            assert_eq!(pool.map(|()| 7, iter::repeat_n((), 10)).unwrap(), [7; 10]);
            assert_eq!(pool.map(|_: u32| (), 0..10).unwrap().len(), 10);
        });
    }

    #[test]
    fn many_items_arrive_whole() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            let expected: Vec<_> = (0..20_000u64).map(|n| n.to_string()).collect();
            assert!(pool.map(|n: u64| n.to_string(), 0..20_000).unwrap() == expected);
            assert!(pool.chunksize(7).map(|n: u64| n.to_string(), 0..20_000).unwrap() == expected);
        });
    }

    #[test]
    fn items_may_be_fewer_than_workers() {
        watched(|| {
            let pool = WorkerPool::new(5).unwrap();
            for len in 0..8 {
                assert_eq!(pool.map(square, 0..len).unwrap(), squares(0..len));
                assert_eq!(pool.chunksize(2).map(square, 0..len).unwrap(), squares(0..len));
            }
        });
    }

    #[test]
    fn a_chunk_runs_on_one_worker() {
        watched(|| {
            let pool = WorkerPool::new(4).unwrap();
            let workers = pool.chunksize(10).map(|_: u32| get_ident(), 0..100).unwrap();
            for chunk in workers.chunks(10) {
                assert!(chunk.iter().all(|worker| *worker == chunk[0]));
            }
        });
    }

    #[test]
    fn a_slow_first_item_keeps_nobody_from_the_rest() {
        /// The first item waits until all others have left a note.
        fn wait_for_others((n, sign): (u64, Sign)) -> u64 {
            match n {
                0 => eventually("all others are done", || sign.notes().len() == 99),
                _ => sign.note(n),
            }
            n
        }
        watched(|| {
            let scratch = Scratch::new();
            let pool = WorkerPool::new(2).unwrap();
            let items = (0..100).map(|n| (n, scratch.sign("done")));
            let numbers = pool.map(wait_for_others, items).unwrap();
            assert_eq!(numbers, (0..100).collect::<Vec<_>>());
        });
    }

    #[test]
    fn its_workers_are_daemons() {
        watched(|| {
            let pool = WorkerPool::new(1).unwrap();
            assert!(pool.apply(|| current_worker().daemon()).unwrap());
        });
    }

    #[test]
    fn slow_items_at_the_end_of_many_quick_ones_are_not_one_workers() {
        /// The last two items wait for each other.
        fn meet((n, barrier): (u64, Option<Barrier>)) -> u64 {
            if let Some(barrier) = barrier {
                barrier.wait().unwrap();
            }
            n
        }
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            let barrier = Barrier::new(2).unwrap();
            let items = (0..20_000).map(|n| (n, (n >= 19_998).then(|| barrier.clone())));
            let numbers = pool.map(meet, items).unwrap();
            assert_eq!(numbers, (0..20_000).collect::<Vec<_>>());
        });
    }

    #[test]
    fn ranges_and_vectors_are_mapped_like_any_input() {
        fn flip(n: i64) -> i64 {
            !n
        }
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            let (least, most) = (i64::MIN, i64::MAX);
            let flipped = |range: std::ops::Range<i64>| range.map(flip).collect::<Vec<_>>();
            for chunksize in [None, Some(1), Some(7), Some(1000)] {
                macro_rules! map {
                    ($items:expr) => {
                        match chunksize {
                            None => pool.map(flip, $items),
                            Some(size) => pool.chunksize(size).map(flip, $items),
                        }
                    };
                }
                for range in [-50..50, 0..1, 0..0, most - 20..most, most..least] {
                    assert_eq!(map!(range.clone()).unwrap(), flipped(range));
                }
                let last = [most - 1, most].map(flip);
                assert_eq!(map!(most - 1..=most).unwrap(), last);
                let mut used = (0..100).collect::<Vec<_>>().into_iter();
                used.next();
                used.next_back();
                assert_eq!(map!(used).unwrap(), flipped(1..99));
                assert_eq!(map!(Vec::new()).unwrap(), []);
            }
        });
    }

    #[test]
    fn the_first_error_is_that_of_the_map() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            let is_it = |error: Error| match &error {
                Error::Task(TaskError::Panicked(panic)) => panic.message() == "no fives",
                _ => false,
            };
            assert!(is_it(pool.map(fussy, 0..1000).unwrap_err()));
            for chunksize in [1, 2, 3, 10, 20] {
                assert!(is_it(pool.chunksize(chunksize).map(fussy, 0..12).unwrap_err()));
            }
            let result = pool.map_async(fussy, 0..12).unwrap();
            assert!(is_it(block_on(result).unwrap_err().into()));
            assert_eq!(pool.map(square, 0..12).unwrap(), squares(0..12));
        });
    }

    #[test]
    fn an_error_leaves_out_what_has_not_begun() {
        fn note((n, sign, gate): (u32, Sign, Gate)) {
            sign.note(n);
            gate.pass();
            assert!(n != 0, "the first fails");
        }
        watched(|| {
            for chunksize in [None, Some(1), Some(2)] {
                let (first, others) = (GateKeeper::new(), GateKeeper::new());
                let scratch = Scratch::new();
                let pool = WorkerPool::new(2).unwrap();
                // One worker fails, the other one is held meanwhile.
                let items = (0..100).map(|n| {
                    let gate = if n == 0 { first.gate() } else { others.gate() };
                    (n, scratch.sign("ran"), gate)
                });
                let result = match chunksize {
                    None => pool.map_async(note, items),
                    Some(chunksize) => pool.chunksize(chunksize).map_async(note, items),
                };
                first.wait_for(1);
                others.wait_for(1);
                first.open();
                assert!(matches!(result.unwrap().get(), Err(TaskError::Panicked(_))));
                others.open();
                pool.close();
                pool.join().unwrap();
                // The first, the held chunk, and those that were given out before it was known.
                let ran = scratch.sign("ran").notes();
                assert!(ran.len() <= 5 * chunksize.unwrap_or(1), "{chunksize:?}: {ran:?}");
            }
        });
    }

    #[test]
    fn a_panic_of_the_input_reaches_the_caller_and_harms_nobody() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            for _ in 0..2 {
                for last in [0, 2] {
                    let items = || (0..10).inspect(move |n| assert!(*n != last, "no more items"));
                    let panics = [
                        catch_unwind(AssertUnwindSafe(|| drop(pool.map(square, items())))),
                        catch_unwind(AssertUnwindSafe(|| drop(pool.map_async(square, items())))),
                        catch_unwind(AssertUnwindSafe(|| drop(pool.chunksize(2).map(square, items())))),
                    ];
                    for panic in panics {
                        let panic = panic.unwrap_err();
                        assert_eq!(panic.downcast_ref::<&str>(), Some(&"no more items"));
                    }
                    assert_eq!(pool.map(square, 0..3).unwrap(), [0, 1, 4]);
                }
            }
        });
    }

    #[test]
    fn an_input_may_be_wrong_about_its_length() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            let hints = [(0, None), (0, Some(0)), (9, Some(9)), (11, Some(11)), (1000, None)];
            for hint in hints {
                let input = || common::ways::Liar { items: 0..10, hint };
                assert_eq!(pool.map(square, input()).unwrap(), squares(0..10), "{hint:?}");
                for chunksize in [1, 3, 10, usize::MAX] {
                    let squares_ = pool.chunksize(chunksize).map(square, input()).unwrap();
                    assert_eq!(squares_, squares(0..10), "{hint:?}");
                }
            }
        });
    }

    #[test]
    fn a_pool_serves_many_callers_at_once() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            thread::scope(|scope| {
                for caller in 0..6u64 {
                    let pool = &pool;
                    scope.spawn(move || {
                        for n in 0..20 {
                            let range = n..n + 10 * caller;
                            assert_eq!(pool.map(square, range.clone()).unwrap(), squares(range.clone()));
                            let chunked = pool.chunksize(4).map(square, range.clone()).unwrap();
                            assert_eq!(chunked, squares(range.clone()));
                            let imap = pool.imap(square, range.clone()).unwrap();
                            assert!(imap.map(Result::unwrap).eq(squares(range)));
                            assert_eq!(pool.apply(task!(square(n))).unwrap(), n * n);
                        }
                    });
                }
            });
        });
    }

    #[test]
    fn a_worker_may_have_a_pool() {
        fn have_a_pool(sign: Sign) {
            let pool = WorkerPool::new(2).unwrap();
            sign.tell(format!("{:?}", pool.map(square, 0..5).unwrap()));
            pool.close();
            pool.join().unwrap();
        }
        watched(|| {
            let scratch = Scratch::new();
            let worker = Worker::new(task!(have_a_pool(scratch.sign("squares"))));
            worker.start().unwrap();
            worker.join().unwrap();
            assert_eq!(scratch.sign("squares").hear(), "[0, 1, 4, 9, 16]");
        });
    }

    #[test]
    fn a_task_of_a_pool_may_have_a_pool() {
        fn sum_of_squares(n: u64) -> u64 {
            // One that is left to itself, and one that is not.
            let pool = WorkerPool::new(2).unwrap();
            let inner = WorkerPool::new(1).unwrap();
            let sum = pool.map(square, 0..n).unwrap().into_iter().sum();
            inner.close();
            inner.join().unwrap();
            sum
        }
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            assert_eq!(pool.chunksize(1).map(sum_of_squares, 2..6).unwrap(), [1, 5, 14, 30]);
        });
    }

    // How a pool ends.

    #[test]
    fn a_pool_takes_no_work_once_it_is_closed_or_terminated() {
        watched(|| {
            for terminate in [false, true] {
                let pool = WorkerPool::new(2).unwrap();
                match terminate {
                    true => pool.terminate(),
                    false => pool.close(),
                }
                for round in 0..2 {
                    for chunksize in [None, Some(2), Some(0)] {
                        for results in every_map(&pool, chunksize) {
                            assert!(matches!(results, Err(Error::NotRunning)), "{results:?}");
                        }
                    }
                    assert!(matches!(pool.apply(|| ()), Err(Error::NotRunning)));
                    assert!(matches!(pool.apply_async(|| ()), Err(Error::NotRunning)));
                    // Nothing was read.
                    let mut items = 0..10;
                    assert!(pool.imap(square, items.by_ref()).is_err());
                    assert!(pool.map(square, items.by_ref()).is_err());
                    assert_eq!(items, 0..10);
                    if round == 0 {
                        pool.join().unwrap();
                    }
                }
            }
        });
    }

    #[test]
    fn a_map_whose_input_closes_the_pool_is_refused() {
        watched(|| {
            for chunksize in [None, Some(2)] {
                let pool = WorkerPool::new(2).unwrap();
                let items = (0..10).inspect(|n| {
                    if *n == 5 {
                        pool.close();
                    }
                });
                let result = match chunksize {
                    None => pool.map(square, items),
                    Some(chunksize) => pool.chunksize(chunksize).map(square, items),
                };
                assert!(matches!(result, Err(Error::NotRunning)), "{result:?}");
                pool.join().unwrap();
            }
        });
    }

    #[test]
    fn a_map_is_accepted_as_a_whole_or_not_at_all() {
        watched(|| {
            for round in 0..60 {
                let pool = WorkerPool::new(2).unwrap();
                let result = thread::scope(|scope| {
                    let mapping = scope.spawn(|| match round % 2 {
                        0 => pool.map(square, 0..20),
                        _ => pool.chunksize(1).map(square, 0..20),
                    });
                    for _ in 0..round * 20 {
                        std::hint::spin_loop();
                    }
                    pool.close();
                    mapping.join().unwrap()
                });
                match result {
                    Ok(results) => assert_eq!(results, squares(0..20)),
                    Err(Error::NotRunning) => {}
                    Err(error) => panic!("{error:?}"),
                }
                pool.join().unwrap();
            }
        });
    }

    #[test]
    fn only_a_pool_that_was_closed_can_be_joined() {
        watched(|| {
            let pool = WorkerPool::new(1).unwrap();
            assert!(matches!(pool.join(), Err(Error::StillRunning)));
            assert!(matches!(pool.join_timeout(Duration::ZERO), Err(Error::StillRunning)));
            assert!(matches!(block_on(pool.join_async()), Err(Error::StillRunning)));
            assert_eq!(pool.apply(task!(square(2))).unwrap(), 4);
            pool.close();
            for _ in 0..2 {
                pool.close();
                pool.join().unwrap();
                pool.join_timeout(Duration::ZERO).unwrap();
                block_on(pool.join_async()).unwrap();
            }
        });
    }

    #[test]
    fn a_join_in_vain_takes_as_long_as_it_was_told() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            let gates = GateKeeper::new();
            let held = pool.apply_async(task!(pass(gates.gate()))).unwrap();
            pool.close();
            let early = takes_its_time(|limit| pool.join_timeout(limit));
            assert!(matches!(early, Err(Error::Timeout)), "{early:?}");
            gates.open();
            pool.join().unwrap();
            held.get().unwrap();
        });
    }

    #[test]
    fn a_pool_may_be_closed_with_nothing_done() {
        watched(|| {
            let (pool, prefix) = named_pool(2);
            pool.close();
            pool.join().unwrap();
            assert!(workers_of(&prefix).is_empty());
        });
    }

    #[test]
    fn all_that_was_submitted_completes_after_the_close() {
        watched(|| {
            for wait in [Way::Blocking, Way::Timed, Way::Async, Way::Tokio] {
                let (pool, prefix) = named_pool(2);
                let gates = GateKeeper::new();
                let items = |n| (0..n).map(|n| (n, Some(gates.gate())));
                let result = pool.apply_async(task!(square(7))).unwrap();
                let tasks: Vec<_> = (0..20)
                    .map(|_| pool.apply_async(task!(pass(gates.gate()))).unwrap())
                    .collect();
                let mapping = pool.map_async(number_at, items(60)).unwrap();
                let chunks = pool.chunksize(1).map_async(number_at, items(30)).unwrap();
                gates.wait_for(2);
                pool.close();
                assert!(matches!(pool.join_timeout(Duration::ZERO), Err(Error::Timeout)));
                assert!(matches!(pool.apply(|| ()), Err(Error::NotRunning)));
                gates.open();
                match wait {
                    Way::Blocking => pool.join().unwrap(),
                    Way::Timed => pool.join_timeout(common::ways::LONG).unwrap(),
                    Way::Async | Way::Tokio => wait.run(pool.join_async()).unwrap(),
                }
                eventually("no workers", || workers_of(&prefix).is_empty());
                assert!(tasks.iter().all(AsyncResult::ready));
                assert!(mapping.ready() && chunks.ready() && result.ready());
                assert_eq!(result.get().unwrap(), 49);
                assert!(tasks.iter().all(|result| result.get().is_ok()));
                assert_eq!(mapping.get().unwrap(), (0..60).collect::<Vec<_>>());
                assert_eq!(chunks.get().unwrap(), (0..30).collect::<Vec<_>>());
            }
        });
    }

    #[test]
    fn a_map_that_is_not_read_out_to_the_workers_completes_after_the_close() {
        watched(|| {
            for round in 0..20 {
                let pool = WorkerPool::new(2).unwrap();
                let mapping = pool.map_async(square, 0..5000).unwrap();
                pool.close();
                pool.join().unwrap();
                assert!(mapping.ready(), "round {round}");
                assert!(mapping.get().unwrap() == squares(0..5000));
            }
        });
    }

    #[test]
    fn several_callers_may_join() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            let gates = GateKeeper::new();
            let held = pool.apply_async(task!(pass(gates.gate()))).unwrap();
            gates.wait_for(1);
            pool.close();
            thread::scope(|scope| {
                for n in 0..6 {
                    let (pool, held) = (&pool, &held);
                    scope.spawn(move || {
                        match n % 2 {
                            0 => pool.join().unwrap(),
                            _ => block_on(pool.join_async()).unwrap(),
                        }
                        assert!(held.ready());
                    });
                }
                let mut left = Hand::waiting(pool.join_async());
                let abandoned = Hand::waiting(pool.join_async());
                drop(abandoned);
                gates.open();
                left.wait_woken();
                left.ready().unwrap();
            });
        });
    }

    #[test]
    fn a_dropped_pool_is_terminated() {
        watched(|| {
            let (pool, prefix) = named_pool(2);
            let (gates, scratch) = (GateKeeper::new(), Scratch::new());
            let held: Vec<_> = (0..2)
                .map(|_| pool.apply_async(task!(pass(gates.gate()))).unwrap())
                .collect();
            gates.wait_for(2);
            let sign = scratch.sign("ran");
            let queued = pool.apply_async(task!(|sign| sign.give())).unwrap();
            drop(pool);
            for (result, effect) in [
                (&held[0], Effect::MayHaveRun),
                (&held[1], Effect::MayHaveRun),
                (&queued, Effect::DidNotRun),
            ] {
                let error = result.get().unwrap_err();
                assert!(matches!(error, TaskError::Terminated(_)), "{error}");
                assert_eq!(error.effect(), effect);
            }
            gates.open();
            eventually("the workers end", || workers_of(&prefix).is_empty());
            assert!(!scratch.sign("ran").is_given());
        });
    }

    #[test]
    fn ten_thousand_queued_tasks_are_terminated() {
        watched(|| {
            let (pool, prefix) = named_pool(2);
            let (gates, scratch) = (GateKeeper::new(), Scratch::new());
            let items = || (0..10_000).map(|_| gates.gate());
            let note = |(sign, gate): (Sign, Gate)| {
                gate.pass();
                sign.note("ran");
            };
            let signs = || items().map(|gate| (scratch.sign("ran"), gate));
            let mapping = pool.chunksize(1).map_async(note, signs()).unwrap();
            let spread = pool.map_async(note, signs()).unwrap();
            let tasks: Vec<_> =
                items().map(|gate| pool.apply_async(task!(pass(gate))).unwrap()).collect();
            gates.wait_for(2);
            pool.terminate();
            assert!(matches!(mapping.get(), Err(TaskError::Terminated(_))));
            assert!(matches!(spread.get(), Err(TaskError::Terminated(_))));
            for result in tasks {
                assert!(matches!(result.get(), Err(TaskError::Terminated(_))));
            }
            if pool.backend() == Backend::Multiprocessing {
                pool.join().unwrap();
            }
            gates.open();
            pool.join().unwrap();
            // What a thread has begun it finishes.
            assert!(scratch.sign("ran").notes().len() <= 2);
            assert!(workers_of(&prefix).is_empty());
        });
    }

    #[test]
    fn terminated_workers_begin_no_further_item() {
        fn note(gate_and_sign: Option<(Gate, Sign)>) {
            if let Some((gate, sign)) = gate_and_sign {
                gate.pass();
                sign.note("ran");
            }
        }
        watched(|| {
            let (gates, scratch) = (GateKeeper::new(), Scratch::new());
            let pool = WorkerPool::new(1).unwrap();
            // Quick items first, of which a worker takes many at a time.
            let items = (0..10_200).map(|n| {
                (n >= 10_000).then(|| (gates.gate(), scratch.sign("ran")))
            });
            let result = pool.map_async(note, items).unwrap();
            gates.wait_for(1);
            pool.terminate();
            assert!(matches!(result.get(), Err(TaskError::Terminated(_))));
            // A process is about to be killed; a thread goes on with its item.
            if pool.backend() == Backend::Multiprocessing {
                pool.join().unwrap();
            }
            gates.open();
            pool.join().unwrap();
            assert!(scratch.sign("ran").notes().len() <= 1);
        });
    }

    #[test]
    fn a_terminated_map_of_which_a_part_was_done_may_have_run() {
        watched(|| {
            let pool = WorkerPool::new(1).unwrap();
            let [before, behind] = [GateKeeper::new(), GateKeeper::new()];
            let first = pool.apply_async(task!(pass(before.gate()))).unwrap();
            before.wait_for(1);
            let mapping = pool.map_async(square, 0..1000).unwrap();
            let held = pool.apply_async(task!(pass(behind.gate()))).unwrap();
            before.open();
            first.get().unwrap();
            behind.wait_for(1);
            pool.terminate();
            assert!(held.get().is_err());
            // A thread has done it all by now, a process as much as it is given at a time.
            match mapping.get() {
                Ok(results) => assert_eq!(results, squares(0..1000)),
                Err(error) => assert_eq!(error.effect(), Effect::MayHaveRun),
            }
            behind.open();
        });
    }

    #[test]
    fn those_who_wait_in_all_ways_learn_of_the_end() {
        watched(|| {
            for dropped in [false, true] {
                let pool = WorkerPool::new(2).unwrap();
                let gates = GateKeeper::new();
                let items = || (0..50).map(|n| (n, Some(gates.gate())));
                let mut imap = pool.imap(number_at, items()).unwrap();
                let mut unordered = pool.imap_unordered(number_at, items()).unwrap();
                let mut stream = pool.imap(number_at, items()).unwrap().into_stream();
                let apply = || pool.apply_async(task!(|| 7u64)).unwrap();
                let map = || pool.map_async(number_at, items()).unwrap();
                let chunks = || pool.chunksize(2).map_async(number_at, items()).unwrap();
                let tasks: Vec<_> = Way::ALL.into_iter().map(|way| (way, apply())).collect();
                let maps: Vec<_> = Way::ALL.into_iter()
                    .flat_map(|way| [(way, map()), (way, chunks())])
                    .collect();
                let shared = map();
                gates.wait_for(2);
                thread::scope(|scope| {
                    let is_it = |error| matches!(error, Some(TaskError::Terminated(_)));
                    for (way, result) in tasks {
                        scope.spawn(move || assert!(is_it(get(way, result).err())));
                    }
                    for (way, result) in maps {
                        scope.spawn(move || assert!(is_it(get(way, result).err())));
                    }
                    for n in 0..4 {
                        let shared = &shared;
                        scope.spawn(move || {
                            match n % 2 {
                                0 => shared.wait(),
                                _ => block_on(shared.wait_async()),
                            }
                            assert!(is_it(shared.get().err()));
                        });
                    }
                    scope.spawn(move || assert!(is_it(imap.next().unwrap().err())));
                    scope.spawn(move || assert!(is_it(unordered.next().unwrap().err())));
                    scope.spawn(move || {
                        let next = block_on(futures::StreamExt::next(&mut stream));
                        assert!(is_it(next.unwrap().err()));
                    });
                    match dropped {
                        true => drop(pool),
                        false => pool.terminate(),
                    }
                });
                gates.open();
            }
        });
    }

    #[test]
    fn a_pool_may_be_terminated_after_the_close_and_again() {
        watched(|| {
            let pool = WorkerPool::new(1).unwrap();
            let gates = GateKeeper::new();
            let held = pool.apply_async(task!(pass(gates.gate()))).unwrap();
            let queued = pool.map_async(square, 0..100).unwrap();
            gates.wait_for(1);
            pool.close();
            assert!(!held.ready() && !queued.ready());
            pool.terminate();
            assert!(held.ready() && queued.ready());
            pool.terminate();
            gates.open();
            pool.join().unwrap();
            pool.terminate();
            pool.close();
            pool.join().unwrap();
        });
    }

    #[test]
    fn results_that_were_there_before_the_end_stay() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            let one = pool.apply_async(task!(square(3))).unwrap();
            let many = pool.map_async(square, 0..10).unwrap();
            one.wait();
            many.wait();
            pool.terminate();
            assert_eq!(one.get().unwrap(), 9);
            assert_eq!(many.get().unwrap(), squares(0..10));
        });
    }

    #[test]
    fn every_result_resolves_once_whenever_the_end_comes() {
        watched(|| {
            for round in 0..40 {
                let pool = WorkerPool::new(2).unwrap();
                let calls = Arc::new(AtomicU32::new(0));
                let counted = |result: AsyncResult<Vec<u64>>| {
                    let (fine, failed) = (Arc::clone(&calls), Arc::clone(&calls));
                    result
                        .callback(move |_| _ = fine.fetch_add(1, Ordering::SeqCst))
                        .error_callback(move |_| _ = failed.fetch_add(1, Ordering::SeqCst))
                };
                let mut results = Vec::new();
                for n in 0..10 {
                    results.push(counted(pool.map_async(square, 0..n * 10).unwrap()));
                    let chunked = pool.chunksize(3).map_async(square, 0..n * 10).unwrap();
                    results.push(counted(chunked));
                    results.push(counted(pool.apply_async(task!(|n| squares(0..n * 10))).unwrap()));
                }
                for _ in 0..round * 200 {
                    std::hint::spin_loop();
                }
                pool.terminate();
                for (k, result) in results.into_iter().enumerate() {
                    let n = k as u64 / 3;
                    match result.get() {
                        Ok(values) => assert_eq!(values, squares(0..n * 10)),
                        Err(TaskError::Terminated(_)) => {}
                        Err(error) => panic!("{error:?}"),
                    }
                }
                assert_eq!(calls.load(Ordering::SeqCst), 30, "round {round}");
                pool.join().unwrap();
            }
        });
    }
}

#[test]
fn a_thread_of_a_pool_cannot_join_it() {
    static POOL: OnceLock<WorkerPool> = OnceLock::new();
    watched(|| {
        let pool = POOL.get_or_init(|| {
            let builder = WorkerPool::builder().backend(Backend::Threading);
            builder.max_workers(2).build().unwrap()
        });
        let joined = pool.apply_async(|| {
            let pool = POOL.get().unwrap();
            pool.close();
            let in_vain = [
                pool.join(),
                pool.join_timeout(Duration::ZERO),
                block_on(pool.join_async()),
            ];
            in_vain
                .iter()
                .all(|result| matches!(result, Err(Error::JoinSelf)))
        });
        assert!(joined.unwrap().get().unwrap());
        pool.join().unwrap();
    });
}

#[test]
fn a_thread_of_a_pool_may_drop_it() {
    watched(|| {
        let builder = WorkerPool::builder().backend(Backend::Threading);
        let pool = Arc::new(builder.max_workers(1).build().unwrap());
        let gates = GateKeeper::new();
        let result = pool.map_async(number_at, [(7, Some(gates.gate()))]);
        let kept = Arc::clone(&pool);
        let (sender, dropped) = std::sync::mpsc::channel();
        let result = result.unwrap().callback(move |_| {
            drop(kept);
            sender.send(()).unwrap();
        });
        drop(pool);
        gates.open();
        dropped.recv().unwrap();
        assert_eq!(result.get().unwrap(), [7]);
    });
}

/// Also where others of its parts were never begun, and are the first to be told.
#[test]
fn a_map_that_one_of_its_items_terminates_may_have_run() {
    static POOL: Mutex<Option<Arc<WorkerPool>>> = Mutex::new(None);

    fn end(n: u32) {
        if n == 0 {
            POOL.lock().unwrap().take().unwrap().terminate();
        }
    }

    watched(|| {
        for chunksize in [None, Some(20)].repeat(200) {
            let builder = WorkerPool::builder().backend(Backend::Threading);
            let pool = Arc::new(builder.max_workers(3).build().unwrap());
            *POOL.lock().unwrap() = Some(Arc::clone(&pool));
            let mapping = match chunksize {
                None => pool.map_async(end, 0..300),
                Some(size) => pool.chunksize(size).map_async(end, 0..300),
            };
            let error = mapping.unwrap().get().unwrap_err();
            assert!(matches!(error, TaskError::Terminated(_)), "{error}");
            assert_eq!(error.effect(), Effect::MayHaveRun);
        }
    });
}

/// A range can be longer than any memory: what it would take is not asked for before there are results.
#[test]
fn a_long_range_of_large_results_fails_with_its_first_item() {
    fn fail(n: u32) -> [u64; 32] {
        panic!("{n} has no result")
    }

    watched(|| {
        let builder = WorkerPool::builder().backend(Backend::Threading);
        let pool = builder.max_workers(2).build().unwrap();
        let failed = pool.map(fail, 0..u32::MAX).unwrap_err();
        let panicked = matches!(failed, Error::Task(TaskError::Panicked(_)));
        assert!(panicked, "{failed}");
    });
}

/// A chunk is as large as a frame can carry, however quickly its items are done.
#[test]
fn chunks_fit_into_their_frames() {
    watched(|| {
        let pool = WorkerPool::builder()
            .max_workers(2)
            .backend(Backend::Multiprocessing)
            .max_frame_len(64 << 10)
            .build()
            .unwrap();
        let texts = (0..200).map(|_| "x".repeat(10_000));
        let lengths = pool.map(|text: String| text.len(), texts).unwrap();
        assert_eq!(lengths, vec![10_000; 200]);
        let repeated = pool
            .map(|n: usize| "x".repeat(n), vec![10_000; 200])
            .unwrap();
        assert!(repeated.iter().all(|text| text.len() == 10_000));
    });
}
