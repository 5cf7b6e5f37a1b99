//! The results of one function over many items as they come: order, errors, time limits, look-ahead,
//! and streams.

mod common;

use std::{
    collections::BTreeSet,
    iter,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

use common::{
    GateKeeper, Panicking, Scratch, Sign, Wakes, eventually, number_at, square, squares,
    takes_its_time, watched,
    ways::{Hand, Liar, Way},
};
use freethreading::{Error, Imap, ImapStream, Portable, TaskError, WorkerPool};
use futures::{
    FutureExt, Stream, StreamExt,
    channel::mpsc,
    executor::block_on,
    stream::{self, BoxStream},
};

freethreading::init_tests!();

fn fussy(n: u64) -> u64 {
    assert!(n != 5, "no fives");
    n
}

fn is_panic(result: &Result<u64, TaskError>, message: &str) -> bool {
    matches!(result, Err(TaskError::Panicked(panic)) if panic.message() == message)
}

/// How the results are taken: from the iterator, in all ways, or from a stream, over an iterator or
/// another stream.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Face {
    Iterator(Way),
    Stream(Way),
    OverStream(Way),
}

impl Face {
    const ALL: [Face; 6] = [
        Face::Iterator(Way::Blocking),
        Face::Iterator(Way::Timed),
        Face::Stream(Way::Async),
        Face::Stream(Way::Tokio),
        Face::OverStream(Way::Async),
        Face::OverStream(Way::Tokio),
    ];
}

/// The results of an imap, whatever the face.
enum Results<I: Iterator, R> {
    Iterator(Way, Box<Imap<I, R>>),
    Stream(Way, BoxStream<'static, Result<R, TaskError>>),
}

fn imap<I, R>(
    face: Face,
    pool: &WorkerPool,
    (chunksize, ordered): (usize, bool),
    function: impl Fn(I::Item) -> R + Send + Sync + 'static,
    items: I,
) -> Results<I, R>
where
    I: Iterator + Send + 'static,
    I::Item: Portable,
    R: Portable,
{
    let chunks = pool.chunksize(chunksize);
    if let Face::OverStream(way) = face {
        let items = stream::iter(items);
        let stream = match ordered {
            true => chunks.imap_stream(function, items).unwrap(),
            false => chunks.imap_unordered_stream(function, items).unwrap(),
        };
        return Results::Stream(way, stream.boxed());
    }
    let imap = match ordered {
        true => chunks.imap(function, items).unwrap(),
        false => chunks.imap_unordered(function, items).unwrap(),
    };
    match face {
        Face::Iterator(way) => Results::Iterator(way, Box::new(imap)),
        Face::Stream(way) | Face::OverStream(way) => {
            Results::Stream(way, imap.into_stream().boxed())
        }
    }
}

impl<I, R> Iterator for Results<I, R>
where
    I: Iterator,
    I::Item: Portable,
    R: Portable,
{
    type Item = Result<R, TaskError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Results::Iterator(Way::Timed, imap) => imap.next_timeout(common::ways::LONG),
            Results::Iterator(_, imap) => imap.next(),
            Results::Stream(way, stream) => way.run(stream.next()),
        }
    }
}

/// All that comes, which must end for good.
fn all<R>(mut results: impl Iterator<Item = Result<R, TaskError>>) -> Vec<Result<R, TaskError>> {
    let all = results.by_ref().collect();
    assert!(results.next().is_none());
    assert!(results.next().is_none());
    all
}

fn values(results: impl Iterator<Item = Result<u64, TaskError>>) -> Vec<u64> {
    all(results).into_iter().map(Result::unwrap).collect()
}

fn sorted(mut numbers: Vec<u64>) -> Vec<u64> {
    numbers.sort_unstable();
    numbers
}

/// An endless input that counts how much of it was read.
fn counted() -> (impl Iterator<Item = u64> + Send + 'static, Arc<AtomicUsize>) {
    let read = Arc::new(AtomicUsize::new(0));
    let reads = Arc::clone(&read);
    let items = (0..).inspect(move |_| _ = reads.fetch_add(1, Ordering::SeqCst));
    (items, read)
}

freethreading::test_backends! {
    #[test]
    fn results_come_in_the_order_of_the_items() {
        watched(|| {
            let pool = WorkerPool::new(3).unwrap();
            for face in Face::ALL {
                let gates = GateKeeper::new();
                // The first is the last to be ready.
                let first = gates.gate();
                let items = (0..50).map(move |n| (n, (n == 0).then(|| first.clone())));
                let results = imap(face, &pool, (1, true), number_at, items);
                thread::scope(|scope| {
                    let values = scope.spawn(|| values(results));
                    gates.wait_for(1);
                    gates.open();
                    assert_eq!(values.join().unwrap(), (0..50).collect::<Vec<_>>());
                });
            }
        });
    }

    #[test]
    fn chunks_change_nothing() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            for face in Face::ALL {
                for chunksize in [1, 3, 100, 1000, usize::MAX] {
                    let results = imap(face, &pool, (chunksize, true), square, 0..1000);
                    assert_eq!(values(results), squares(0..1000), "{face:?}, {chunksize}");
                    let results = imap(face, &pool, (chunksize, false), square, 0..1000);
                    assert_eq!(sorted(values(results)), squares(0..1000));
                }
            }
        });
    }

    #[test]
    fn unordered_results_come_as_they_are_ready() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            for face in Face::ALL {
                let gates = [GateKeeper::new(), GateKeeper::new(), GateKeeper::new()];
                let items: Vec<_> = (0..).zip(&gates).map(|(n, keeper)| (n, Some(keeper.gate()))).collect();
                let mut results = imap(face, &pool, (1, false), number_at, items.into_iter());
                if let Face::OverStream(_) = face {
                    // It begins when it is polled.
                    gates[1].open();
                    assert_eq!(results.next().unwrap().unwrap(), 1);
                    gates[0].wait_for(1);
                } else {
                    gates[0].wait_for(1);
                    gates[1].wait_for(1);
                    gates[1].open();
                    assert_eq!(results.next().unwrap().unwrap(), 1);
                }
                gates[2].open();
                assert_eq!(results.next().unwrap().unwrap(), 2);
                gates[0].open();
                assert_eq!(results.next().unwrap().unwrap(), 0);
                assert!(results.next().is_none());
            }
        });
    }

    #[test]
    fn no_items_give_no_results() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            for face in Face::ALL {
                for chunksize in [1, 7] {
                    for ordered in [true, false] {
                        let results = imap(face, &pool, (chunksize, ordered), square, iter::empty());
                        assert_eq!(values(results), []);
                    }
                }
            }
        });
    }

    #[test]
    fn items_may_be_of_size_zero() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            for face in Face::ALL {
                let results = imap(face, &pool, (3, true), |()| (), iter::repeat_n((), 10));
                assert_eq!(all(results).len(), 10);
            }
        });
    }

    #[test]
    fn an_item_that_fails_is_an_error_among_the_others() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            for face in Face::ALL {
                let results = all(imap(face, &pool, (1, true), fussy, 0..10));
                assert_eq!(results.len(), 10);
                for (n, result) in (0..).zip(results) {
                    match n {
                        5 => assert!(is_panic(&result, "no fives")),
                        _ => assert_eq!(result.unwrap(), n),
                    }
                }
                let unordered = all(imap(face, &pool, (1, false), fussy, 0..10));
                assert_eq!(unordered.len(), 10);
                assert_eq!(unordered.iter().filter(|result| is_panic(result, "no fives")).count(), 1);
            }
        });
    }

    #[test]
    fn the_rest_of_a_failing_chunk_is_left_out_and_the_next_one_is_not() {
        fn note((n, sign): (u64, Sign)) -> u64 {
            sign.note(n);
            fussy(n)
        }
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            for face in Face::ALL {
                let scratch = Scratch::new();
                let sign = scratch.sign("ran");
                let items = (0..16).map(move |n| (n, sign.clone()));
                let results = all(imap(face, &pool, (4, true), note, items));
                // 4, the error instead of 5 to 7, and the other chunks.
                assert_eq!(results.len(), 14);
                assert!(is_panic(&results[5], "no fives"));
                let values: Vec<_> = results.into_iter().flatten().collect();
                assert_eq!(values, [0, 1, 2, 3, 4, 8, 9, 10, 11, 12, 13, 14, 15]);
                assert_eq!(scratch.sign("ran").notes().len(), 14);
            }
        });
    }

    #[test]
    fn a_panic_of_the_input_is_the_last_item() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            for face in Face::ALL {
                // The results of the chunks that were complete.
                for (chunksize, last, before) in [(1, 3, 3), (2, 7, 6), (4, 7, 4), (1, 0, 0), (50, 7, 0)] {
                    let items = || (0..20).inspect(move |n| assert!(*n != last, "no more items"));
                    let mut results = all(imap(face, &pool, (chunksize, true), square, items()));
                    assert!(is_panic(&results.pop().unwrap(), "no more items"));
                    let values: Vec<_> = results.into_iter().map(Result::unwrap).collect();
                    assert_eq!(values, squares(0..before), "{face:?}, chunks of {chunksize}");

                    let mut results = all(imap(face, &pool, (chunksize, false), square, items()));
                    assert!(is_panic(&results.pop().unwrap(), "no more items"));
                    let values: Vec<_> = results.into_iter().map(Result::unwrap).collect();
                    assert_eq!(sorted(values), squares(0..before));
                }
            }
            assert_eq!(pool.map(square, 0..5).unwrap(), squares(0..5));
        });
    }

    #[test]
    fn an_input_may_be_wrong_about_its_length() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            let hints = [(0, None), (0, Some(0)), (9, Some(9)), (11, Some(11)), (usize::MAX, None)];
            for hint in hints {
                for chunksize in [1, 3, 10, usize::MAX] {
                    for face in [Face::Iterator(Way::Blocking), Face::OverStream(Way::Async)] {
                        let items = Liar { items: 0..10, hint };
                        let results = imap(face, &pool, (chunksize, true), square, items);
                        assert_eq!(values(results), squares(0..10), "{hint:?}, {chunksize}");
                    }
                }
            }
        });
    }

    #[test]
    fn an_input_is_not_used_again_after_its_end() {
        /// Has an end, and panics thereafter.
        struct Once(std::ops::Range<u64>, bool);
        impl Iterator for Once {
            type Item = u64;
            fn next(&mut self) -> Option<u64> {
                assert!(!self.1, "it had ended");
                let next = self.0.next();
                self.1 = next.is_none();
                next
            }
        }
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            for face in Face::ALL {
                for chunksize in [1, 2, 5, 10] {
                    let results = imap(face, &pool, (chunksize, true), square, Once(0..10, false));
                    assert_eq!(values(results), squares(0..10), "{face:?}, {chunksize}");
                }
            }
        });
    }

    #[test]
    fn an_endless_input_is_read_only_a_few_chunks_ahead() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            for face in Face::ALL {
                for chunksize in [1, 5] {
                    for ordered in [true, false] {
                        let (items, read) = counted();
                        let mut results = imap(face, &pool, (chunksize, ordered), square, items);
                        let mut taken = BTreeSet::new();
                        for n in 1..=100 {
                            taken.insert(results.next().unwrap().unwrap());
                            let ahead = read.load(Ordering::SeqCst) - n;
                            assert!(ahead <= 10 * chunksize, "{ahead} ahead, {face:?}");
                        }
                        assert_eq!(taken.len(), 100);
                        if ordered {
                            assert!(taken.into_iter().eq(squares(0..100)));
                        }
                    }
                }
            }
            pool.close();
            pool.join().unwrap();
        });
    }

    #[test]
    fn the_workers_begin_before_a_result_is_asked_for() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            let gates = GateKeeper::new();
            let items = || (0..8).map(|n| (n, Some(gates.gate())));
            let imap = pool.imap(number_at, items()).unwrap();
            gates.wait_for(2);
            gates.open();
            assert!(imap.map(Result::unwrap).eq(0..8));
        });
    }

    #[test]
    fn a_result_that_did_not_come_in_time_comes_later() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            for ordered in [true, false] {
                let gates = GateKeeper::new();
                let items = (0..3).map(|n| (n, Some(gates.gate())));
                let mut imap = match ordered {
                    true => pool.imap(number_at, items).unwrap(),
                    false => pool.imap_unordered(number_at, items).unwrap(),
                };
                for timeout in [0, 0, 1, 20] {
                    let early = imap.next_timeout(Duration::from_millis(timeout));
                    assert!(matches!(early, Some(Err(TaskError::Timeout))), "{early:?}");
                }
                gates.open();
                let mut numbers = vec![imap.next_timeout(Duration::MAX).unwrap().unwrap()];
                eventually("the next one is there", || match imap.next_timeout(Duration::ZERO) {
                    Some(Err(TaskError::Timeout)) => false,
                    result => {
                        numbers.push(result.unwrap().unwrap());
                        true
                    }
                });
                numbers.extend(imap.by_ref().map(Result::unwrap));
                assert_eq!(sorted(numbers), [0, 1, 2]);
                assert!(imap.next_timeout(Duration::ZERO).is_none());
            }
        });
    }

    #[test]
    fn a_wait_in_vain_takes_as_long_as_it_was_told() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            for ordered in [true, false] {
                for chunksize in [1, 3] {
                    let gates = GateKeeper::new();
                    let items = (0..3).map(|n| (n, Some(gates.gate())));
                    let pool = pool.chunksize(chunksize);
                    let mut imap = match ordered {
                        true => pool.imap(number_at, items).unwrap(),
                        false => pool.imap_unordered(number_at, items).unwrap(),
                    };
                    let early = takes_its_time(|limit| imap.next_timeout(limit));
                    assert!(matches!(early, Some(Err(TaskError::Timeout))), "{early:?}");
                    gates.open();
                    assert_eq!(sorted(imap.map(Result::unwrap).collect()), [0, 1, 2]);
                }
            }
        });
    }

    #[test]
    fn the_rest_of_a_used_iterator_can_be_streamed() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            for used in [0, 1, 3, 4, 10] {
                let mut imap = pool.chunksize(3).imap(square, 0..10).unwrap();
                assert!(imap.by_ref().take(used).map(Result::unwrap).eq(squares(0..used as u64)));
                let rest: Vec<_> = block_on(imap.into_stream().map(Result::unwrap).collect());
                assert_eq!(rest, squares(used as u64..10));
            }
        });
    }

    #[test]
    fn one_that_is_dropped_half_way_harms_nobody() {
        watched(|| {
            for face in Face::ALL {
                for ordered in [true, false] {
                    let pool = WorkerPool::new(2).unwrap();
                    let gates = GateKeeper::new();
                    let gate = gates.gate();
                    let (items, read) = counted();
                    let items = items.map(move |n| (n, (n > 0).then(|| gate.clone())));
                    let mut results = imap(face, &pool, (1, ordered), number_at, items);
                    assert_eq!(results.next().unwrap().unwrap(), 0);
                    gates.wait_for(1);
                    drop(results);
                    let before = read.load(Ordering::SeqCst);
                    gates.open();
                    assert_eq!(pool.map(square, 0..5).unwrap(), squares(0..5));
                    pool.close();
                    pool.join().unwrap();
                    // What had not begun was cancelled, and nothing was read any more.
                    assert!(gates.arrived() <= 2, "{}", gates.arrived());
                    assert_eq!(read.load(Ordering::SeqCst), before);
                }
            }
        });
    }

    #[test]
    fn several_may_be_used_in_turns() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            let mut imaps: Vec<_> = (1..6)
                .map(|k| pool.chunksize(k).imap(square, 0..).unwrap())
                .collect();
            for n in 0..50 {
                for imap in &mut imaps {
                    assert_eq!(imap.next().unwrap().unwrap(), square(n));
                }
            }
        });
    }

    #[test]
    fn what_was_submitted_completes_after_the_close_and_nothing_more_is_read() {
        watched(|| {
            for face in Face::ALL {
                for (chunksize, ordered) in [(1, true), (1, false), (3, true), (3, false)] {
                    let pool = WorkerPool::new(2).unwrap();
                    let (items, read) = counted();
                    let mut results = imap(face, &pool, (chunksize, ordered), square, items);
                    results.next().unwrap().unwrap();
                    pool.close();
                    let read_before = read.load(Ordering::SeqCst);
                    let mut rest = all(results);
                    assert!(matches!(rest.pop(), Some(Err(TaskError::Shutdown))));
                    assert_eq!(rest.len() + 1, read_before, "{face:?}");
                    assert!(rest.iter().all(Result::is_ok), "{rest:?}");
                    assert_eq!(read.load(Ordering::SeqCst), read_before);
                    pool.join().unwrap();
                }
            }
        });
    }

    #[test]
    fn one_whose_input_was_read_to_its_end_is_complete_after_the_close() {
        watched(|| {
            for face in Face::ALL {
                // A chunk for each worker, which is all that is read at first. Whether there are more is to be seen by
                // the last one, or the input has to say so.
                for len in [8, 10] {
                    let pool = WorkerPool::new(2).unwrap();
                    let gates = GateKeeper::new();
                    let gate = gates.gate();
                    let items = (0..len).map(move |n| (n, Some(gate.clone())));
                    let mut results = imap(face, &pool, (5, true), number_at, items);
                    // Streams are read when they are polled.
                    if let Results::Stream(_, stream) = &mut results {
                        assert!(stream.next().now_or_never().is_none());
                    }
                    pool.close();
                    gates.open();
                    assert_eq!(values(results), (0..len).collect::<Vec<_>>(), "{face:?}");
                    pool.join().unwrap();
                }
            }
        });
    }

    #[test]
    fn a_terminated_pool_is_an_error_and_then_the_end() {
        watched(|| {
            for face in Face::ALL {
                for ordered in [true, false] {
                    let pool = WorkerPool::new(2).unwrap();
                    let gates = GateKeeper::new();
                    let gate = gates.gate();
                    let (items, read) = counted();
                    let items = items.map(move |n| (n, (n > 0).then(|| gate.clone())));
                    let mut results = imap(face, &pool, (1, ordered), number_at, items);
                    assert_eq!(results.next().unwrap().unwrap(), 0);
                    gates.wait_for(1);
                    pool.terminate();
                    let read_before = read.load(Ordering::SeqCst);
                    let rest = all(results);
                    assert!(!rest.is_empty());
                    assert!(
                        rest.iter().all(|result| matches!(result, Err(TaskError::Terminated(_)))),
                        "{face:?} {rest:?}"
                    );
                    assert_eq!(read.load(Ordering::SeqCst), read_before);
                    gates.open();
                    pool.join().unwrap();
                }
            }
        });
    }

    #[test]
    fn a_stream_that_was_not_begun_before_the_end_says_so() {
        watched(|| {
            for terminate in [false, true] {
                let pool = WorkerPool::new(1).unwrap();
                let (items, read) = counted();
                let mut results = pool.imap_stream(square, stream::iter(items)).unwrap();
                match terminate {
                    true => pool.terminate(),
                    false => pool.close(),
                }
                let error = block_on(results.next()).unwrap().unwrap_err();
                assert!(matches!(error, TaskError::Shutdown | TaskError::Terminated(_)), "{error}");
                assert!(block_on(results.next()).is_none());
                assert_eq!(read.load(Ordering::SeqCst), 0);
            }
        });
    }

    // Streams as inputs.

    #[test]
    fn an_input_that_is_slow_is_not_waited_for() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            // Chunks are as large as what there is.
            let (sender, items) = mpsc::unbounded();
            let mut results = pool.chunksize(1000).imap_stream(square, items).unwrap();
            assert!(results.next().now_or_never().is_none());
            for n in 0..20 {
                sender.unbounded_send(n).unwrap();
                assert_eq!(block_on(results.next()).unwrap().unwrap(), square(n));
                assert!(results.next().now_or_never().is_none());
            }
            drop(sender);
            assert!(block_on(results.next()).is_none());
        });
    }

    #[test]
    fn an_input_wakes_who_waits_for_results() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            let (sender, items) = mpsc::unbounded();
            let mut results = pool.imap_stream(square, items).unwrap();
            thread::scope(|scope| {
                let (asleep, is_asleep) = std::sync::mpsc::channel();
                let all = scope.spawn(move || {
                    block_on(async {
                        let mut all = Vec::new();
                        loop {
                            let mut next = results.next();
                            // Before the next item is sent, it waits.
                            if let Poll::Ready(item) = futures::poll!(&mut next) {
                                match item {
                                    Some(item) => all.push(item.unwrap()),
                                    None => break,
                                }
                                continue;
                            }
                            asleep.send(()).unwrap();
                            match next.await {
                                Some(item) => all.push(item.unwrap()),
                                None => break,
                            }
                        }
                        all
                    })
                });
                for n in 0..10 {
                    is_asleep.recv().unwrap();
                    sender.unbounded_send(n).unwrap();
                }
                drop(sender);
                assert_eq!(all.join().unwrap(), squares(0..10));
            });
        });
    }

    #[test]
    fn an_input_that_is_never_ready_does_not_hide_results() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            let items = stream::iter(0..4).chain(stream::pending());
            let mut results = pool.imap_stream(square, items).unwrap();
            for n in 0..4 {
                assert_eq!(block_on(results.next()).unwrap().unwrap(), square(n));
            }
            assert!(results.next().now_or_never().is_none());
            drop(results);
            pool.close();
            pool.join().unwrap();
        });
    }

    #[test]
    fn the_latest_waker_is_woken() {
        watched(|| {
            for ordered in [true, false] {
                let pool = WorkerPool::new(1).unwrap();
                let gates = GateKeeper::new();
                let items = stream::iter([(7, Some(gates.gate()))]);
                let mut results: ImapStream<_, u64> = match ordered {
                    true => pool.imap_stream(number_at, items).unwrap(),
                    false => pool.imap_unordered_stream(number_at, items).unwrap(),
                };
                let (first, second) = (Wakes::new(), Wakes::new());
                for wakes in [&first, &second] {
                    let waker = Waker::from(Arc::clone(wakes));
                    let poll = results.poll_next_unpin(&mut Context::from_waker(&waker));
                    assert!(poll.is_pending());
                }
                gates.open();
                eventually("woken", || second.count() > 0);
                assert_eq!(first.count(), 0);
                assert_eq!(results.next().now_or_never().unwrap().unwrap().unwrap(), 7);
            }
        });
    }

    #[test]
    fn a_waker_may_panic() {
        watched(|| {
            for ordered in [true, false] {
                let pool = WorkerPool::new(1).unwrap();
                let gates = GateKeeper::new();
                let items = stream::iter((0..3).map(|n| (n, Some(gates.gate()))));
                let mut results: ImapStream<_, u64> = match ordered {
                    true => pool.imap_stream(number_at, items).unwrap(),
                    false => pool.imap_unordered_stream(number_at, items).unwrap(),
                };
                let waker = Waker::from(Arc::new(Panicking));
                let poll = results.poll_next_unpin(&mut Context::from_waker(&waker));
                assert!(poll.is_pending());
                gates.open();
                let results: Vec<_> = block_on(results.map(Result::unwrap).collect());
                assert_eq!(results, [0, 1, 2]);
                assert_eq!(pool.apply(|| 7).unwrap(), 7);
            }
        });
    }

    #[test]
    fn leaving_a_wait_half_way_loses_nothing() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            for ordered in [true, false] {
                let (items, _) = counted();
                let items = stream::iter(items.take(500));
                let mut results: ImapStream<_, u64> = match ordered {
                    true => pool.imap_stream(square, items).unwrap(),
                    false => pool.imap_unordered_stream(square, items).unwrap(),
                };
                let mut all = Vec::new();
                loop {
                    // Polled once, and dropped where it is not ready.
                    match Hand::new(results.next()).poll() {
                        Poll::Ready(Some(result)) => all.push(result.unwrap()),
                        Poll::Ready(None) => break,
                        Poll::Pending => thread::yield_now(),
                    }
                }
                assert_eq!(sorted(all), squares(0..500));
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
            let stream = pool.imap_stream(square, stream::iter(0..100)).unwrap();
            let all = runtime.block_on(async {
                let task = tokio::spawn(stream.map(Result::unwrap).collect::<Vec<_>>());
                task.await.unwrap()
            });
            assert_eq!(all, squares(0..100));
            let stream = pool.chunksize(3).imap_stream(square, stream::iter(0..100)).unwrap();
            let task = smol::spawn(stream.map(Result::unwrap).collect::<Vec<_>>());
            assert_eq!(smol::block_on(task), squares(0..100));
        });
    }
}

#[test]
fn an_input_may_use_the_pool() {
    watched(|| {
        let pool = WorkerPool::builder()
            .max_workers(2)
            .backend(freethreading::Backend::Threading)
            .build()
            .unwrap();
        let inner = pool.imap(square, 0..10).unwrap();
        let items = inner.map(|result| pool.apply(freethreading::task!(square(result.unwrap()))));
        let fourth_powers = pool.imap(square, items.map(Result::unwrap)).unwrap();
        assert!(
            fourth_powers
                .map(Result::unwrap)
                .eq((0..10).map(|n: u64| n.pow(8)))
        );
    });
}

#[test]
fn an_input_stream_is_dropped_at_its_end() {
    /// Tells that it was dropped.
    struct Told(stream::Iter<std::ops::Range<u64>>, Arc<AtomicBool>);
    impl Stream for Told {
        type Item = u64;
        fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<u64>> {
            self.0.poll_next_unpin(context)
        }
    }
    impl Drop for Told {
        fn drop(&mut self) {
            self.1.store(true, Ordering::SeqCst);
        }
    }
    watched(|| {
        let pool = WorkerPool::builder()
            .max_workers(1)
            .backend(freethreading::Backend::Threading)
            .build()
            .unwrap();
        let dropped = Arc::new(AtomicBool::new(false));
        let items = Told(stream::iter(0..2), Arc::clone(&dropped));
        let mut results = pool.imap_stream(square, items).unwrap();
        assert_eq!(block_on(results.next()).unwrap().unwrap(), 0);
        assert!(!dropped.load(Ordering::SeqCst));
        assert_eq!(block_on(results.by_ref().count()), 1);
        assert!(dropped.load(Ordering::SeqCst));
        drop(results);
    });
}

#[test]
fn they_say_whether_there_is_more_to_read() {
    watched(|| {
        let pool = WorkerPool::builder()
            .max_workers(1)
            .backend(freethreading::Backend::Threading)
            .build()
            .unwrap();
        let endless = pool.imap(square, 0..).unwrap();
        assert!(format!("{endless:?}").contains("input_to_come: true"));
        let mut short = pool.imap(square, 0..1).unwrap();
        short.next().unwrap().unwrap();
        assert!(short.next().is_none());
        let short = short.into_stream();
        assert!(format!("{short:?}").contains("input_to_come: false"));
        assert!(matches!(
            pool.chunksize(0).imap(square, 0..1),
            Err(Error::InvalidArgument(_))
        ));
    });
}
