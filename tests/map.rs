//! One function over many items: order, chunks, errors, time limits, and odd inputs.

mod common;

use std::{
    iter,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use common::{
    Gate, GateKeeper, Scratch, Sign, eventually, number_at, square, squares, watched, ways::Liar,
};
use freethreading::{Backend, Effect, Map, TaskError, WorkerPoolExecutor};
use futures::{Stream, StreamExt, executor::block_on};
use serde::{Deserialize, Serialize};

freethreading::init_tests!();

/// Its results up to the first error, which must be the last thing that it gives.
fn take_apart<R>(mut map: Map<R>) -> (Vec<R>, Option<TaskError>) {
    let mut values = Vec::new();
    for item in map.by_ref() {
        match item {
            Ok(value) => values.push(value),
            Err(error) => {
                assert!(map.next().is_none());
                assert!(map.next().is_none());
                return (values, Some(error));
            }
        }
    }
    assert!(map.next().is_none());
    (values, None)
}

/// The same through a stream.
fn take_stream_apart<R>(map: Map<R>) -> (Vec<R>, Option<TaskError>) {
    block_on(async {
        let mut stream = map.into_stream();
        let mut values = Vec::new();
        while let Some(item) = stream.next().await {
            match item {
                Ok(value) => values.push(value),
                Err(error) => {
                    assert!(stream.next().await.is_none());
                    return (values, Some(error));
                }
            }
        }
        assert!(stream.next().await.is_none());
        (values, None)
    })
}

freethreading::test_backends! {
    #[test]
    fn an_error_is_noticed_although_what_follows_takes_for_ever() {
        watched(|| {
            let gates = GateKeeper::new();
            let executor = WorkerPoolExecutor::new(1).unwrap();
            // So many that several are waited for at once.
            let quick = (0..200).map(|n| (n, None));
            let rest = [(666, None), (1, Some(gates.gate())), (2, None), (3, None)];
            let map = executor.map(
                |(n, gate): (u64, Option<Gate>)| {
                    assert_ne!(n, 666);
                    number_at((n, gate))
                },
                quick.chain(rest).collect::<Vec<_>>(),
            );
            assert!(matches!(map.into_vec(), Err(TaskError::Panicked(_))));
            gates.open();
            executor.shutdown(true, false);
            // What had not begun was cancelled.
            assert!(executor.stats().completed <= 202);
        });
    }

    #[test]
    fn results_come_in_the_order_of_the_items() {
        watched(|| {
            let gates = GateKeeper::new();
            let executor = WorkerPoolExecutor::new(3).unwrap();
            // The first is the last to be ready.
            let items = (0..50).map(|n| (n, (n == 0).then(|| gates.gate())));
            let map = executor.map(number_at, items);
            gates.wait_for(1);
            gates.open();
            let numbers: Vec<_> = map.collect::<Result<_, _>>().unwrap();
            assert_eq!(numbers, (0..50).collect::<Vec<_>>());
        });
    }

    #[test]
    fn chunks_change_nothing() {
        watched(|| {
            let executor = WorkerPoolExecutor::new(2).unwrap();
            for chunksize in [1, 3, 6, 40, 50, usize::MAX] {
                let mapping = executor.chunksize(chunksize);
                assert_eq!(take_apart(mapping.map(square, 0..40)).0, squares(0..40));
                assert_eq!(mapping.map(square, 0..40).into_vec().unwrap(), squares(0..40));
                assert_eq!(take_stream_apart(mapping.map(square, 0..40)).0, squares(0..40));
            }
        });
    }

    #[test]
    fn a_map_tells_how_many_results_are_to_come() {
        watched(|| {
            let executor = WorkerPoolExecutor::new(2).unwrap();
            for chunksize in [1, 3, 40] {
                let mut map = executor.chunksize(chunksize).map(square, 0..10);
                for left in (1..=10).rev() {
                    let (least, most) = map.size_hint();
                    assert!((1..=left).contains(&least));
                    assert_eq!(most, Some(left));
                    map.next().unwrap().unwrap();
                }
                assert_eq!(map.size_hint(), (0, Some(0)));
                assert_eq!(map.into_stream().size_hint(), (0, Some(0)));
            }
            let mut map = executor.chunksize(4).map(|n: u64| assert_ne!(n, 5), 0..10);
            let ended: Vec<_> = map.by_ref().take(6).collect();
            assert!(ended[..5].iter().all(Result::is_ok) && ended[5].is_err());
            assert_eq!(map.size_hint(), (0, Some(0)));
            assert_eq!(executor.chunksize(0).map(square, 0..10).size_hint(), (1, Some(1)));
        });
    }

    #[test]
    fn a_chunk_runs_on_one_worker() {
        watched(|| {
            let executor = WorkerPoolExecutor::new(4).unwrap();
            let workers = executor
                .chunksize(10)
                .map(|_: u32| freethreading::get_ident(), 0..100)
                .into_vec()
                .unwrap();
            for chunk in workers.chunks(10) {
                assert!(chunk.iter().all(|worker| *worker == chunk[0]));
            }
        });
    }

    #[test]
    fn a_chunk_of_nothing_is_an_error() {
        watched(|| {
            let executor = WorkerPoolExecutor::new(2).unwrap();
            let map = || executor.chunksize(0).map(square, 0..10);
            for (values, error) in [take_apart(map()), take_stream_apart(map())] {
                assert!(values.is_empty());
                let error = error.unwrap();
                assert!(matches!(&error, TaskError::InvalidArgument(why) if why.contains("chunksize")));
                assert_eq!(error.effect(), Effect::DidNotRun);
            }
            assert!(matches!(map().into_vec(), Err(TaskError::InvalidArgument(_))));
        });
    }

    #[test]
    fn several_inputs_are_zipped_and_the_shortest_decides() {
        watched(|| {
            let executor = WorkerPoolExecutor::new(2).unwrap();
            let sums = executor.map(|(a, b): (u64, u64)| a + b, (0..10).zip(100..104));
            assert_eq!(sums.into_vec().unwrap(), [100, 102, 104, 106]);
        });
    }

    #[test]
    fn no_items_give_no_results() {
        watched(|| {
            let executor = WorkerPoolExecutor::new(2).unwrap();
            assert_eq!(take_apart(executor.map(square, iter::empty())).0, []);
            assert_eq!(take_stream_apart(executor.map(square, 0..0)).0, []);
            assert_eq!(executor.chunksize(7).map(square, Vec::new()).into_vec().unwrap(), []);
        });
    }

    #[test]
    fn ranges_of_numbers_of_all_types_are_mapped() {
        watched(|| {
            let executor = WorkerPoolExecutor::new(2).unwrap();
            macro_rules! check {
                ($($number:ty)*) => {
                    $({
                        const MIN: $number = <$number>::MIN;
                        const MAX: $number = <$number>::MAX;
                        let (least, most) = (MIN, MAX);
                        fn flip(n: $number) -> $number {
                            !n
                        }
                        for chunksize in [3, 100] {
                            let mapping = executor.chunksize(chunksize);
                            for range in [MIN..MIN + 10, MIN..MIN, MAX - 4..MAX, most..least] {
                                let flipped: Vec<_> = range.clone().map(flip).collect();
                                let map = || mapping.map(flip, range.clone());
                                assert_eq!(map().into_vec().unwrap(), flipped);
                                assert_eq!(take_apart(map()).0, flipped);
                            }
                            for range in [MIN..=MIN, MAX - 4..=MAX, most..=least] {
                                let flipped: Vec<_> = range.clone().map(flip).collect();
                                let map = || mapping.map(flip, range.clone());
                                assert_eq!(map().into_vec().unwrap(), flipped);
                                assert_eq!(take_stream_apart(map()).0, flipped);
                            }
                        }
                    })*
                };
            }
            check!(u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize);
        });
    }

    #[test]
    fn the_rest_of_an_iterator_is_mapped() {
        watched(|| {
            let executor = WorkerPoolExecutor::new(2).unwrap();
            let mut range = 0..10;
            range.next();
            let mut inclusive = 0..=9;
            inclusive.next_back();
            let mut exhausted = 0..=9;
            exhausted.by_ref().for_each(drop);
            let mut vector = (0..10).collect::<Vec<_>>().into_iter();
            vector.next();
            for chunksize in [1, 4, 100] {
                let mapping = executor.chunksize(chunksize);
                let ranged = mapping.map(square, range.clone());
                assert_eq!(ranged.into_vec().unwrap(), squares(1..10));
                let included = mapping.map(square, inclusive.clone());
                assert_eq!(included.into_vec().unwrap(), squares(0..9));
                assert_eq!(mapping.map(square, exhausted.clone()).into_vec().unwrap(), []);
                let listed = mapping.map(square, vector.clone());
                assert_eq!(listed.into_vec().unwrap(), squares(1..10));
                let mut borrowed = 0..10;
                let by_reference = mapping.map(square, borrowed.by_ref());
                assert_eq!(by_reference.into_vec().unwrap(), squares(0..10));
                assert!(borrowed.is_empty());
            }
        });
    }

    #[test]
    fn items_may_be_of_size_zero() {
        watched(|| {
            let executor = WorkerPoolExecutor::new(2).unwrap();
            let map = || executor.chunksize(3).map(|()| (), iter::repeat_n((), 10));
            assert_eq!(take_apart(map()).0.len(), 10);
            assert_eq!(map().into_vec().unwrap().len(), 10);
        });
    }

    #[test]
    fn all_tasks_run_without_the_iterator_being_used() {
        watched(|| {
            let scratch = Scratch::new();
            let executor = WorkerPoolExecutor::new(2).unwrap();
            let items = (0..10).map(|n| (n, scratch.sign("ran")));
            let map = executor.map(|(n, sign): (u32, Sign)| sign.note(n), items);
            drop(map);
            executor.shutdown(true, false);
            assert_eq!(scratch.sign("ran").notes().len(), 10);
        });
    }

    #[test]
    fn an_unused_stream_lets_the_tasks_run_too() {
        watched(|| {
            let scratch = Scratch::new();
            let executor = WorkerPoolExecutor::new(2).unwrap();
            let items = (0..10).map(|n| (n, scratch.sign("ran")));
            drop(executor.map(|(n, sign): (u32, Sign)| sign.note(n), items).into_stream());
            executor.shutdown(true, false);
            assert_eq!(scratch.sign("ran").notes().len(), 10);
        });
    }

    #[test]
    fn a_map_may_outlive_its_executor() {
        watched(|| {
            let executor = WorkerPoolExecutor::new(2).unwrap();
            let map = executor.map(square, 0..100);
            drop(executor);
            assert_eq!(map.into_vec().unwrap(), squares(0..100));
        });
    }

    #[test]
    fn results_before_an_error_then_the_error_then_nothing() {
        fn fussy(n: u64) -> u64 {
            assert!(n != 5, "no fives");
            n
        }
        watched(|| {
            let executor = WorkerPoolExecutor::new(2).unwrap();
            for chunksize in [1, 2, 3, 4, 10, 20] {
                let map = || executor.chunksize(chunksize).map(fussy, 0..12);
                for (values, error) in [take_apart(map()), take_stream_apart(map())] {
                    assert_eq!(values, [0, 1, 2, 3, 4], "chunks of {chunksize}");
                    let error = error.unwrap();
                    assert!(matches!(&error, TaskError::Panicked(panic) if panic.message() == "no fives"));
                    assert_eq!(error.effect(), Effect::Ran);
                }
                let vec = map().into_vec();
                assert!(matches!(vec, Err(TaskError::Panicked(panic)) if panic.message() == "no fives"));
            }
        });
    }

    #[test]
    fn an_error_cancels_what_has_not_begun() {
        fn note((n, sign, gate): (u32, Sign, Option<Gate>)) {
            sign.note(n);
            if let Some(gate) = gate {
                gate.pass();
            }
            assert!(n != 0, "the first fails");
        }
        watched(|| {
            let (gates, scratch) = (GateKeeper::new(), Scratch::new());
            let executor = WorkerPoolExecutor::new(2).unwrap();
            // One worker fails, the other one is held meanwhile.
            let second = GateKeeper::new();
            let items = (0..20).map(|n| {
                let gate = match n {
                    0 => Some(gates.gate()),
                    _ => Some(second.gate()),
                };
                (n, scratch.sign("ran"), gate)
            });
            let mut map = executor.map(note, items);
            gates.wait_for(1);
            second.wait_for(1);
            gates.open();
            assert!(matches!(map.next(), Some(Err(TaskError::Panicked(_)))));
            // The worker that failed may have begun another task before it was known.
            assert!(map.next().is_none());
            second.open();
            executor.shutdown(true, false);
            assert!(scratch.sign("ran").notes().len() <= 3, "{:?}", scratch.sign("ran").notes());
        });
    }

    #[test]
    fn the_time_limit_counts_from_the_call() {
        watched(|| {
            let executor = WorkerPoolExecutor::new(2).unwrap();
            let mut limit = Duration::from_millis(500);
            loop {
                let gates = GateKeeper::new();
                let start = Instant::now();
                let items = (0..3).map(|n| (n, (n == 2).then(|| gates.gate())));
                let (values, error) = take_apart(executor.timeout(limit).map(number_at, items));
                assert!(start.elapsed() >= limit);
                assert!([0, 1].starts_with(&values), "{values:?}");
                assert!(matches!(error, Some(TaskError::Timeout)));
                if values.len() == 2 {
                    // The task goes on, and so does the executor.
                    gates.wait_for(1);
                    gates.open();
                    break;
                }
                // On a machine that is so busy that the others take too long, too.
                limit *= 2;
            }
            assert_eq!(executor.map(square, 0..3).into_vec().unwrap(), [0, 1, 4]);
        });
    }

    #[test]
    fn a_vector_in_time_or_not_at_all() {
        watched(|| {
            let gates = GateKeeper::new();
            let executor = WorkerPoolExecutor::new(2).unwrap();
            let items = || (0..3).map(|n| (n, (n == 2).then(|| gates.gate())));
            let late = executor.timeout(Duration::from_millis(50)).map(number_at, items());
            assert!(matches!(late.into_vec(), Err(TaskError::Timeout)));
            gates.open();
            let unlimited = executor.timeout(Duration::MAX).map(number_at, items());
            assert_eq!(unlimited.into_vec().unwrap(), [0, 1, 2]);
        });
    }

    #[test]
    fn a_time_limit_that_is_up_does_not_hide_results_that_are_there() {
        watched(|| {
            let executor = WorkerPoolExecutor::new(2).unwrap();
            let map = executor.timeout(Duration::from_millis(1)).map(square, 0..10);
            executor.shutdown(true, false);
            assert_eq!(map.into_vec().unwrap(), squares(0..10));
            let none = Duration::ZERO;
            let executor = WorkerPoolExecutor::new(2).unwrap();
            let map = executor.timeout(none).map(square, 0..10);
            executor.shutdown(true, false);
            assert_eq!(take_apart(map).0, squares(0..10));
        });
    }

    #[test]
    fn a_used_iterator_that_is_dropped_cancels_the_rest() {
        watched(|| {
            let gates = GateKeeper::new();
            let executor = WorkerPoolExecutor::new(1).unwrap();
            let items = (0..50).map(|n| (n, (n > 0).then(|| gates.gate())));
            let mut map = executor.map(number_at, items);
            assert_eq!(map.next().unwrap().unwrap(), 0);
            gates.wait_for(1);
            drop(map);
            gates.open();
            executor.shutdown(true, false);
            assert_eq!(gates.arrived(), 1);
        });
    }

    #[test]
    fn a_used_stream_that_is_dropped_cancels_the_rest() {
        watched(|| {
            let gates = GateKeeper::new();
            let executor = WorkerPoolExecutor::new(1).unwrap();
            let items = (0..50).map(|n| (n, (n > 0).then(|| gates.gate())));
            let mut stream = executor.map(number_at, items).into_stream();
            assert_eq!(block_on(stream.next()).unwrap().unwrap(), 0);
            gates.wait_for(1);
            drop(stream);
            gates.open();
            executor.shutdown(true, false);
            assert_eq!(gates.arrived(), 1);
        });
    }

    #[test]
    fn a_panic_of_the_input_reaches_the_caller_and_harms_nobody() {
        watched(|| {
            let scratch = Scratch::new();
            let executor = WorkerPoolExecutor::new(2).unwrap();
            let items = (0..10).map(|n| {
                assert!(n != 5, "no more items");
                (n, scratch.sign("ran"))
            });
            let map = AssertUnwindSafe(|| {
                executor.map(|(n, sign): (u32, Sign)| sign.note(n), items).into_vec()
            });
            let panic = catch_unwind(map).unwrap_err();
            assert_eq!(panic.downcast_ref::<&str>(), Some(&"no more items"));
            assert_eq!(executor.map(square, 0..3).into_vec().unwrap(), [0, 1, 4]);
            executor.shutdown(true, false);
            // What had been submitted by then has run.
            assert_eq!(scratch.sign("ran").notes().len(), 5);
        });
    }

    #[test]
    fn an_input_may_be_wrong_about_its_length() {
        watched(|| {
            let executor = WorkerPoolExecutor::new(2).unwrap();
            let hints = [
                (0, None),
                (0, Some(0)),
                (0, Some(usize::MAX)),
                (1, Some(3)),
                (9, Some(9)),
                (11, Some(11)),
                (100_000, Some(100_000)),
            ];
            for hint in hints {
                for chunksize in [1, 3, 10, usize::MAX] {
                    let input = || Liar { items: 0..10, hint };
                    let mapping = executor.chunksize(chunksize);
                    let expected = squares(0..10);
                    assert_eq!(take_apart(mapping.map(square, input())).0, expected, "{hint:?}");
                    assert_eq!(mapping.map(square, input()).into_vec().unwrap(), expected, "{hint:?}");
                }
            }
        });
    }

    #[test]
    fn an_input_may_claim_to_be_longer_than_memory() {
        watched(|| {
            let executor = WorkerPoolExecutor::new(2).unwrap();
            let input = Liar { items: 0..10, hint: (usize::MAX, None) };
            assert_eq!(executor.map(square, input).into_vec().unwrap(), squares(0..10));
        });
    }

    #[test]
    fn an_input_may_go_on_after_its_end() {
        /// Has a gap.
        struct Restless(u64);
        impl Iterator for Restless {
            type Item = u64;
            fn next(&mut self) -> Option<u64> {
                self.0 += 1;
                (self.0 != 5).then_some(self.0)
            }
        }
        watched(|| {
            let executor = WorkerPoolExecutor::new(2).unwrap();
            for chunksize in [1, 2, 3, 4, 10] {
                let map = executor.chunksize(chunksize).map(square, Restless(0));
                assert_eq!(map.into_vec().unwrap(), squares(1..5), "chunks of {chunksize}");
            }
        });
    }

    #[test]
    fn the_rest_of_a_used_iterator_can_be_had_in_one_piece() {
        watched(|| {
            let executor = WorkerPoolExecutor::new(2).unwrap();
            for used in [1, 2, 3, 4, 5, 9, 10] {
                let mut map = executor.chunksize(3).map(square, 0..10);
                for n in 0..used {
                    assert_eq!(map.next().unwrap().unwrap(), square(n));
                }
                assert_eq!(map.into_vec().unwrap(), squares(used..10), "{used} used");
            }
        });
    }

    #[test]
    fn the_rest_of_a_used_iterator_can_be_streamed() {
        watched(|| {
            let executor = WorkerPoolExecutor::new(2).unwrap();
            let mut map = executor.chunksize(3).map(square, 0..10);
            for n in 0..4 {
                assert_eq!(map.next().unwrap().unwrap(), square(n));
            }
            let rest: Vec<_> = block_on(map.into_stream().map(Result::unwrap).collect());
            assert_eq!(rest, squares(4..10));
        });
    }

    #[test]
    fn many_small_chunks_arrive_whole() {
        watched(|| {
            let executor = WorkerPoolExecutor::new(2).unwrap();
            let texts = executor
                .chunksize(7)
                .map(|n: u64| n.to_string(), 0..5000)
                .into_vec()
                .unwrap();
            assert!(texts.iter().zip(0u64..).all(|(text, n)| *text == n.to_string()));
            assert_eq!(texts.len(), 5000);
        });
    }
}

/// How many `Counted` there are; the tests that look at it take turns.
static ALIVE: AtomicI64 = AtomicI64::new(0);
static DROPS: AtomicUsize = AtomicUsize::new(0);
static TURNS: Mutex<()> = Mutex::new(());

#[derive(Serialize, Deserialize)]
struct Counted(u64);

impl Counted {
    fn new(n: u64) -> Counted {
        ALIVE.fetch_add(1, Ordering::SeqCst);
        Counted(n)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        ALIVE.fetch_sub(1, Ordering::SeqCst);
        DROPS.fetch_add(1, Ordering::SeqCst);
    }
}

/// Runs the body with an executor of threads; in the end so many results must have been dropped, each
/// once.
fn count_drops(drops: usize, body: impl FnOnce(&WorkerPoolExecutor)) {
    watched(|| {
        let _turn = TURNS
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        assert_eq!(ALIVE.load(Ordering::SeqCst), 0);
        DROPS.store(0, Ordering::SeqCst);
        let executor = WorkerPoolExecutor::builder()
            .max_workers(2)
            .backend(Backend::Threading)
            .build()
            .unwrap();
        body(&executor);
        executor.shutdown(true, false);
        eventually("all results are dropped", || {
            ALIVE.load(Ordering::SeqCst) == 0
        });
        assert_eq!(DROPS.load(Ordering::SeqCst), drops);
    });
}

#[test]
fn collected_results_are_dropped_once() {
    for chunksize in [1, 3, 100] {
        count_drops(200, |executor| {
            let mapping = executor.chunksize(chunksize);
            let vec = mapping.map(Counted::new, 0..100).into_vec().unwrap();
            assert!(vec.iter().zip(0..).all(|(counted, n)| counted.0 == n));
            let iterated: Vec<_> = mapping.map(Counted::new, 0..100).collect();
            assert_eq!(iterated.len(), 100);
            assert_eq!(ALIVE.load(Ordering::SeqCst), 200);
        });
    }
}

#[test]
fn items_of_a_vector_are_dropped_once() {
    fn fussy(item: Counted) -> u64 {
        assert!(item.0 != 5, "no fives");
        item.0
    }
    let items = |count| (0..count).map(Counted::new).collect::<Vec<_>>();
    for chunksize in [1, 4, 100] {
        count_drops(5, |executor| {
            let mapping = executor.chunksize(chunksize);
            let numbers = mapping.map(fussy, items(5)).into_vec().unwrap();
            assert_eq!(numbers, [0, 1, 2, 3, 4]);
        });
        count_drops(10, |executor| {
            let map = executor.chunksize(chunksize).map(fussy, items(10));
            assert_eq!(take_apart(map).0, [0, 1, 2, 3, 4]);
        });
        count_drops(10, |executor| {
            executor.shutdown(true, false);
            let refused = executor.chunksize(chunksize).map(fussy, items(10));
            assert!(matches!(refused.into_vec(), Err(TaskError::Shutdown)));
        });
    }
}

#[test]
fn results_that_were_not_fetched_are_dropped_once() {
    for chunksize in [1, 3, 100] {
        count_drops(100, |executor| {
            drop(executor.chunksize(chunksize).map(Counted::new, 0..100));
        });
    }
}

#[test]
fn results_that_are_not_used_up_are_dropped_once() {
    for used in [1, 2, 7, 10] {
        count_drops(10, |executor| {
            let mut map = executor.chunksize(4).map(Counted::new, 0..10);
            executor.shutdown(true, false);
            for n in 0..used {
                assert_eq!(map.next().unwrap().unwrap().0, n);
            }
            drop(map);
        });
    }
}

#[test]
fn results_before_and_behind_a_panic_are_dropped_once() {
    fn fussy(n: u64) -> Counted {
        assert!(n != 5, "no fives");
        Counted::new(n)
    }
    // In chunks of 4: 0 to 3, 4 and the panic, and 8 to 9 in a chunk that is cancelled, or is not.
    for into_vec in [false, true] {
        count_drops(7, |executor| {
            let map = executor.chunksize(4).map(fussy, 0..10);
            executor.shutdown(true, false);
            match into_vec {
                true => assert!(map.into_vec().is_err()),
                false => assert_eq!(take_apart(map).0.len(), 5),
            }
        });
    }
}

#[test]
fn results_are_dropped_once_where_the_input_was_wrong_about_its_length() {
    for hint in [(0, None), (3, Some(3)), (50, Some(50))] {
        count_drops(20, |executor| {
            let input = || Liar { items: 0..10, hint };
            let mapping = executor.chunksize(3);
            let vec = mapping.map(Counted::new, input()).into_vec().unwrap();
            assert_eq!(vec.len(), 10);
            drop(vec);
            assert_eq!(take_apart(mapping.map(Counted::new, input())).0.len(), 10);
        });
    }
}

#[test]
fn a_late_result_of_a_timed_map_is_dropped_once() {
    fn counted_at((n, gate): (u64, Gate)) -> Counted {
        gate.pass();
        Counted::new(n)
    }
    let gates = GateKeeper::new();
    count_drops(2, |executor| {
        let items = (0..2).map(|n| (n, gates.gate()));
        let limit = Duration::from_millis(20);
        let mut map = executor.timeout(limit).map(counted_at, items);
        // Both workers are busy, so that nothing can be cancelled.
        gates.wait_for(2);
        assert!(matches!(map.next(), Some(Err(TaskError::Timeout))));
        drop(map);
        gates.open();
    });
}
