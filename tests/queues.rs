//! Queues: what is put comes out, once, in order, to whoever gets.

mod common;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    panic::{AssertUnwindSafe, RefUnwindSafe, UnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Poll, Waker},
    thread,
    time::{Duration, Instant},
};

use common::{
    Meddling, Panicking, Scratch, Sign, Wakes, eventually, is_all, on_processes, takes_its_time,
    threads, watched,
    ways::{
        Hand, LONG, Other, Team, Way, Ways, assert_empty, current_thread, every_way, known,
        nothing, report, spin_until, wait_asleep,
    },
};
use freethreading::{
    Backend, Barrier, CodecError, Error, Event, GetError, Lock, Portable, PutError, Queue,
    Semaphore, SimpleQueue, TooManyTaskDone, Worker, task,
};
use futures::{FutureExt, executor::block_on, future::join_all};
use serde::{Deserialize, Deserializer, Serialize, Serializer, ser, ser::SerializeSeq};
use serde_bytes::ByteBuf;

freethreading::init_tests!();

static_assertions::assert_impl_all!(Queue<std::cell::Cell<u8>>: Send, Sync, UnwindSafe, RefUnwindSafe);

/// Long enough for anything but a wait in vain.
const NAP: Duration = Duration::from_millis(20);

/// Tasks that use a queue from wherever they run.
fn put_all<T: Portable>(way: Way, queue: Queue<T>, items: Vec<T>) {
    for item in items {
        way.put(&queue, item).unwrap_or_else(|_| panic!("no put"));
    }
}

fn get_some<T: Portable>(way: Way, queue: Queue<T>, number: usize) -> Vec<T> {
    (0..number).map(|_| way.get(&queue).unwrap()).collect()
}

#[track_caller]
fn assert_full<T>(result: Result<(), PutError<T>>) -> T {
    match result {
        Err(PutError::Full(item)) => item,
        Err(_) => panic!("not full, but another error"),
        Ok(()) => panic!("not full"),
    }
}

/// Fills and drains the queue, with a look at every step.
fn look_at_every_step(ways: Ways, queue: &Queue<usize>, limit: usize) {
    assert_eq!(queue.maxsize(), limit);
    for pass in 0..2 {
        for size in 0..limit {
            assert_eq!(
                (queue.qsize(), queue.empty(), queue.full()),
                (size, size == 0, false)
            );
            ways.of(size).put(queue, pass + size).unwrap();
        }
        assert_eq!(
            (queue.qsize(), queue.empty(), queue.full()),
            (limit, false, true)
        );
        assert_eq!(assert_full(queue.put_nowait(7)), 7);
        assert_eq!(assert_full(queue.put_timeout(8, Duration::ZERO)), 8);
        assert!(queue.put_async(9).now_or_never().is_none());
        for size in 0..limit {
            assert_eq!(queue.qsize(), limit - size);
            assert_eq!(ways.of(size).get(queue).unwrap(), pass + size);
            assert!(!queue.full());
        }
        assert_eq!(
            (queue.qsize(), queue.empty(), queue.full()),
            (0, true, false)
        );
        assert_empty(queue.get_nowait());
        assert_empty(queue.get_timeout(Duration::ZERO));
        assert!(queue.get_async().now_or_never().is_none());
    }
}

every_way! {
    fn items_come_out_in_order(ways) {
        let queue = Queue::new(0);
        for item in ["111", "333", "222"] {
            ways.of(0).put(&queue, item.to_string()).unwrap();
        }
        assert_eq!(get_some(ways.of(1), queue.clone(), 3), ["111", "333", "222"]);
        // Of two producers, one after the other.
        let (queue, other) = (Queue::new(0), Other::new());
        for numbers in [0..10, 10..20] {
            other.run(task!(put_all(ways.of(2), queue.clone(), numbers.collect())));
        }
        assert!(get_some(ways.of(3), queue.clone(), 20).into_iter().eq(0..20));
        assert!(queue.empty());
    }

    fn sizes_are_exact_at_every_step(ways) {
        for limit in [1, 2, 5] {
            look_at_every_step(ways, &Queue::new(limit), limit);
            look_at_every_step(ways, &known(Queue::new(limit)), limit);
        }
    }

    fn what_was_put_before_a_queue_is_shared_comes_first(ways) {
        let queue = Queue::new(5);
        (0..3).for_each(|n| ways.of(n).put(&queue, n).unwrap());
        let queue = known(queue);
        assert_eq!((queue.qsize(), queue.full()), (3, false));
        (3..5).for_each(|n| ways.of(n).put(&queue, n).unwrap());
        assert_eq!(assert_full(queue.put_nowait(9)), 9);
        let got = Other::new().run(task!(get_some(ways.of(0), queue.clone(), 5)));
        assert_eq!(got, [0, 1, 2, 3, 4]);
        // They count as unfinished, as they did before.
        assert!(!queue.join_timeout(Duration::ZERO));
        (0..5).for_each(|_| queue.task_done().unwrap());
        ways.of(1).join(&queue);
    }

    fn without_a_limit_a_queue_is_never_full(ways) {
        for queue in [Queue::new(0), known(Queue::new(0))] {
            assert_eq!(queue.maxsize(), 0);
            for n in 0..1000 {
                queue.put_nowait(n).unwrap();
                assert!(!queue.full());
            }
            assert_eq!(queue.qsize(), 1000);
            assert!(get_some(ways.of(0), queue, 1000).into_iter().eq(0..1000));
        }
    }

    fn the_largest_limit_is_as_good_as_none(ways) {
        for queue in [Queue::new(usize::MAX), known(Queue::new(usize::MAX))] {
            assert_eq!(queue.maxsize(), usize::MAX);
            queue.put(0).unwrap();
            assert_eq!(queue.get().unwrap(), 0);
            for n in 0..1000 {
                queue.put_nowait(n).unwrap();
                assert!(!queue.full());
            }
            assert!(get_some(ways.of(0), queue, 1000).into_iter().eq(0..1000));
        }
    }

    fn a_full_queue_makes_who_puts_wait(ways) {
        fn report_and_put(way: Way, queue: Queue<usize>, sign: Sign, item: usize) {
            report(&sign);
            way.put(&queue, item).unwrap();
        }
        let scratch = Scratch::new();
        let sign = |n: usize| scratch.sign(&format!("putting-{n}"));
        let queue = Queue::new(1);
        queue.put(0).unwrap();
        let team = Team::new(4, |n| {
            task!(report_and_put(ways.of(n), queue.clone(), sign(n), n + 1))
        });
        (0..4).for_each(|n| wait_asleep(&sign(n)));
        assert!(team.all_busy());
        assert_eq!(queue.qsize(), 1);
        let mut items = get_some(ways.of(0), queue.clone(), 5);
        assert_eq!(items[0], 0);
        items.sort();
        assert_eq!(items, [0, 1, 2, 3, 4]);
        assert_eq!(team.results(), [(); 4]);
        assert!(queue.empty());
    }

    fn an_empty_queue_makes_who_gets_wait(ways) {
        fn report_and_get(way: Way, queue: Queue<usize>, sign: Sign) -> usize {
            report(&sign);
            way.get(&queue).unwrap()
        }
        let scratch = Scratch::new();
        let sign = |n: usize| scratch.sign(&format!("getting-{n}"));
        let queue = Queue::new(2);
        let team = Team::new(4, |n| task!(report_and_get(ways.of(n), queue.clone(), sign(n))));
        (0..4).for_each(|n| wait_asleep(&sign(n)));
        assert!(team.all_busy());
        (0..4).for_each(|n| ways.of(n).put(&queue, n).unwrap());
        let mut items = team.results();
        items.sort();
        assert_eq!(items, [0, 1, 2, 3]);
        assert!(queue.empty());
    }

    fn join_waits_until_every_task_is_done(ways) {
        fn work(way: Way, queue: Queue<u64>, sums: SimpleQueue<u64>) {
            let mut sum = 0;
            loop {
                match way.get(&queue).unwrap() {
                    u64::MAX => break,
                    item => sum += item,
                }
                // Only now and then, so that others see how far it is.
                queue.task_done().unwrap();
            }
            sums.put(sum).unwrap();
            queue.task_done().unwrap();
        }
        let (queue, sums) = (Queue::new(0), SimpleQueue::new());
        let team = Team::new(2, |n| task!(work(ways.of(n), queue.clone(), sums.clone())));
        (0..100).for_each(|n| ways.of(2).put(&queue, n).unwrap());
        ways.of(3).join(&queue);
        assert!(queue.empty());
        // It may be called again, and there may be more to do.
        ways.of(0).join(&queue);
        (0..2).for_each(|_| queue.put(u64::MAX).unwrap());
        ways.of(1).join(&queue);
        let sum: u64 = (0..2).map(|_| sums.get_nowait().unwrap()).sum();
        assert_eq!(sum, (0..100).sum());
        assert_eq!(team.results(), [(), ()]);
    }

    fn join_counts_what_is_unfinished_and_not_what_is_queued(ways) {
        fn report_and_join(way: Way, queue: Queue<u8>, sign: Sign) {
            report(&sign);
            way.join(&queue);
        }
        let scratch = Scratch::new();
        let sign = |n: usize| scratch.sign(&format!("joining-{n}"));
        let queue = known(Queue::new(0));
        ways.of(0).join(&queue);
        assert!(queue.join_timeout(Duration::ZERO));
        queue.put(7).unwrap();
        queue.put(8).unwrap();
        let team = Team::new(4, |n| task!(report_and_join(ways.of(n), queue.clone(), sign(n))));
        (0..4).for_each(|n| wait_asleep(&sign(n)));
        assert_eq!(get_some(ways.of(1), queue.clone(), 2), [7, 8]);
        queue.task_done().unwrap();
        let start = Instant::now();
        assert!(!queue.join_timeout(NAP));
        assert!(start.elapsed() >= NAP);
        assert!(team.all_busy());
        queue.task_done().unwrap();
        ways.of(2).join(&queue);
        assert_eq!(team.results(), [(); 4]);
    }

    fn a_task_done_too_many_is_an_error(ways) {
        for queue in [Queue::new(0), known(Queue::new(0))] {
            for round in 0..3 {
                assert!(matches!(queue.task_done(), Err(TooManyTaskDone { .. })));
                ways.of(0).put(&queue, round).unwrap();
                assert_eq!(ways.of(1).get(&queue).unwrap(), round);
                assert!(!queue.join_timeout(Duration::ZERO));
                queue.task_done().unwrap();
                ways.of(2).join(&queue);
            }
            assert!(queue.task_done().is_err());
        }
    }

    fn many_producers_and_consumers_lose_and_double_nothing(ways) {
        // On processes, too, most of them are threads: there are four workers for each side.
        const SIDES: usize = 4;
        const THREADS: usize = 12;
        const ITEMS: usize = 200;
        fn produce(ways: [Way; 4], queue: Queue<(usize, usize)>, number: usize) {
            thread::scope(|scope| {
                for thread in 0..THREADS {
                    let (queue, way) = (queue.clone(), ways[thread % 4]);
                    let producer = number * THREADS + thread;
                    scope.spawn(move || {
                        for item in 0..ITEMS {
                            way.put(&queue, (producer, item)).unwrap();
                        }
                    });
                }
            });
        }
        fn consume(ways: [Way; 4], queue: Queue<(usize, usize)>) -> Vec<Vec<(usize, usize)>> {
            let consume = |thread: usize| -> Vec<_> {
                let items = (0..ITEMS).map(|_| match thread % 4 {
                    // Those that look again and again.
                    0 => loop {
                        match queue.get_nowait() {
                            Ok(item) => break item,
                            Err(_) => thread::yield_now(),
                        }
                    },
                    1 => loop {
                        if let Ok(item) = queue.get_timeout(Duration::from_micros(10)) {
                            break item;
                        }
                    },
                    _ => ways[thread % 4].get(&queue).unwrap(),
                });
                items.collect()
            };
            thread::scope(|scope| {
                let consume = &consume;
                let threads: Vec<_> =
                    (0..THREADS).map(|n| scope.spawn(move || consume(n))).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            })
        }
        let queue = Queue::new(7);
        let ways = [0, 1, 2, 3].map(|n| ways.of(n));
        let producers = Team::new(SIDES, |n| task!(produce(ways, queue.clone(), n)));
        let consumers = Team::new(SIDES, |_| task!(consume(ways, queue.clone())));
        eventually("all is produced", || {
            assert!(queue.qsize() <= 7);
            !producers.some_busy()
        });
        let mut seen = BTreeMap::new();
        for items in consumers.results().into_iter().flatten() {
            // Each consumer sees the items of one producer in their order.
            let mut last = BTreeMap::new();
            for (producer, item) in items {
                assert!(last.insert(producer, item).is_none_or(|last| last < item));
                *seen.entry((producer, item)).or_insert(0) += 1;
            }
        }
        assert_eq!(seen.len(), SIDES * THREADS * ITEMS);
        assert!(seen.into_values().all(|times| times == 1));
        assert!(queue.empty());
    }

    fn the_limit_counts_for_all_workers_together(ways) {
        fn find_full_and_take(way: Way, queue: Queue<usize>) -> Vec<usize> {
            assert!(queue.full());
            assert_eq!(assert_full(queue.put_nowait(9)), 9);
            get_some(way, queue, 6)
        }
        fn find_empty_and_fill(way: Way, queue: Queue<usize>) {
            assert!(queue.empty());
            put_all(way, queue, (0..6).collect());
        }
        let (queue, other) = (Queue::new(6), Other::new());
        put_all(ways.of(0), queue.clone(), (0..6).collect());
        assert_eq!(assert_full(queue.put_nowait(7)), 7);
        assert_eq!(assert_full(queue.put_timeout(7, NAP)), 7);
        let taken = other.run(task!(find_full_and_take(ways.of(1), queue.clone())));
        assert_eq!(taken, [0, 1, 2, 3, 4, 5]);
        assert!(queue.empty());
        assert_empty(queue.get_nowait());
        other.run(task!(find_empty_and_fill(ways.of(2), queue.clone())));
        assert!(queue.full());
        assert_eq!(assert_full(queue.put_nowait(7)), 7);
        assert_eq!(get_some(ways.of(3), queue.clone(), 6), [0, 1, 2, 3, 4, 5]);
    }

    fn large_items_need_no_reader(ways) {
        fn put_large(way: Way, queue: Queue<ByteBuf>) {
            for n in 0..40 {
                way.put(&queue, ByteBuf::from(vec![n; 1 << 20])).unwrap();
            }
        }
        let queue = Queue::new(0);
        // The worker is at its end before anybody reads.
        let worker = Worker::new(task!(put_large(ways.of(0), queue.clone())));
        worker.start().unwrap();
        worker.join().unwrap();
        assert_eq!(queue.qsize(), 40);
        for n in 0..40 {
            let item = ways.of(1).get(&queue).unwrap();
            assert_eq!(item.len(), 1 << 20);
            assert!(is_all(&item, n));
        }
        assert!(queue.empty());
    }

    fn items_of_all_sizes_keep_their_order(ways) {
        fn sizes() -> impl Iterator<Item = usize> {
            // Around powers of two, where blocks and pages end.
            let around = (4..23).flat_map(|power| [(1 << power) - 9, 1 << power, (1 << power) + 1]);
            around.chain([0, 1, 0, 10_000_000, 2, 0])
        }
        fn put_sizes(way: Way, queue: Queue<ByteBuf>) {
            for (n, size) in sizes().enumerate() {
                way.put(&queue, ByteBuf::from(vec![n as u8; size])).unwrap();
            }
        }
        for limit in [0, 1, 3] {
            let queue = Queue::new(limit);
            let team = Team::new(1, |n| task!(put_sizes(ways.of(n), queue.clone())));
            for (n, size) in sizes().enumerate() {
                let item = ways.of(n).get(&queue).unwrap();
                assert_eq!(item.len(), size);
                assert!(is_all(&item, n as u8));
            }
            assert_eq!(team.results(), [()]);
        }
    }

    fn items_may_be_of_no_size(ways) {
        let queue = Queue::new(3);
        let team = Team::new(2, |n| task!(put_all(ways.of(n), queue.clone(), vec![(); 100])));
        for n in 0..200 {
            ways.of(n).get(&queue).unwrap();
        }
        assert_eq!(team.results(), [(), ()]);
        assert_eq!(queue.qsize(), 0);
    }

    fn primitives_travel_in_queues(ways) {
        type Kit = (Event, Lock, Semaphore, Barrier, Queue<u32>, SimpleQueue<String>);
        fn use_kit(way: Way, kits: Queue<Kit>) {
            let (event, lock, semaphore, barrier, numbers, texts) = way.get(&kits).unwrap();
            event.wait();
            lock.release().unwrap();
            semaphore.release().unwrap();
            way.put(&numbers, way.get(&numbers).unwrap() + 1).unwrap();
            texts.put("from there".to_string()).unwrap();
            barrier.wait().unwrap();
        }
        let kits = Queue::new(0);
        let team = Team::new(1, |n| task!(use_kit(ways.of(n), kits.clone())));
        let kit: Kit = (
            Event::new(),
            Lock::new(),
            Semaphore::new(0),
            Barrier::new(2).unwrap(),
            Queue::new(1),
            SimpleQueue::new(),
        );
        let (event, lock, semaphore, barrier, numbers, texts) = kit.clone();
        lock.acquire();
        ways.of(1).put(&numbers, 41).unwrap();
        ways.of(2).put(&kits, kit).unwrap_or_else(|_| panic!("no put"));
        event.set();
        barrier.wait().unwrap();
        assert!(!lock.locked());
        assert!(semaphore.try_acquire());
        assert_eq!(ways.of(3).get(&numbers).unwrap(), 42);
        assert_eq!(texts.get().unwrap(), "from there");
        assert_eq!(team.results(), [()]);
    }
}

freethreading::test_backends! {
    #[test]
    fn errors_of_a_queue_are_errors_of_the_crate() {
        fn full() -> Result<(), Error> {
            let queue = Queue::new(1);
            queue.put(1)?;
            queue.put_nowait(2)?;
            Ok(())
        }
        fn empty() -> Result<u8, Error> {
            Ok(Queue::new(1).get_nowait()?)
        }
        fn too_many() -> Result<(), Error> {
            Queue::<u8>::new(1).task_done()?;
            Ok(())
        }
        assert!(matches!(full(), Err(Error::Full)));
        assert!(matches!(empty(), Err(Error::Empty)));
        assert!(matches!(too_many(), Err(Error::TooManyTaskDone)));
        let queue = Queue::new(1);
        queue.put(1).unwrap();
        assert_eq!(queue.put_nowait(2).unwrap_err().into_inner(), 2);
    }

    #[test]
    fn what_takes_too_long_is_given_up() {
        watched(|| {
            for queue in [Queue::new(1), known(Queue::new(1))] {
                let start = Instant::now();
                assert_empty(queue.get_timeout(NAP));
                assert!(start.elapsed() >= NAP);
                queue.put(1).unwrap();
                let start = Instant::now();
                assert_eq!(assert_full(queue.put_timeout(2, NAP)), 2);
                assert!(start.elapsed() >= NAP);
                assert!(!queue.join_timeout(NAP));
                current_thread().block_on(async {
                    let timeout = |wait| tokio::time::timeout(Duration::from_millis(5), wait);
                    assert!(timeout(queue.put_async(3).map(drop).boxed()).await.is_err());
                    assert!(timeout(queue.join_async().boxed()).await.is_err());
                    assert_eq!(queue.get_async().await.unwrap(), 1);
                    assert!(timeout(queue.get_async().map(drop).boxed()).await.is_err());
                });
                // Nothing of it is left.
                assert_eq!(queue.qsize(), 0);
                queue.task_done().unwrap();
                assert!(queue.join_timeout(Duration::ZERO));
                queue.put_nowait(4).unwrap();
                assert_eq!(queue.get_nowait().unwrap(), 4);
            }
        });
    }

    #[test]
    fn a_time_limit_counts_while_others_wait_too() {
        fn report_and_get(queue: Queue<u8>, sign: Sign) -> u8 {
            report(&sign);
            queue.get().unwrap()
        }
        watched(|| {
            let scratch = Scratch::new();
            let (queue, sign) = (Queue::new(1), scratch.sign("getting"));
            let team = Team::new(1, |_| task!(report_and_get(queue.clone(), sign.clone())));
            wait_asleep(&sign);
            takes_its_time(|limit| assert_empty(queue.get_timeout(limit)));
            assert_empty(queue.get_nowait());
            queue.put(7).unwrap();
            assert_eq!(team.results(), [7]);
        });
    }

    #[test]
    fn a_get_that_gives_up_while_an_item_comes_has_it_or_leaves_it() {
        fn put_at_times(queue: Queue<u32>, go: Semaphore, rounds: u32) {
            for round in 0..rounds {
                go.acquire();
                queue.put(round).unwrap();
            }
        }
        watched(|| {
            for way in [Way::Blocking, Way::Async] {
                let (queue, go) = (Queue::new(1), Semaphore::new(0));
                let team = Team::new(1, |_| task!(put_at_times(queue.clone(), go.clone(), 500)));
                let mut patience = Duration::from_micros(50);
                let step = Duration::from_micros(2);
                for round in 0..500 {
                    go.release().unwrap();
                    let got = match way {
                        Way::Blocking => queue.get_timeout(patience).ok(),
                        _ => {
                            let mut get = Hand::new(queue.get_async());
                            let limit = Instant::now() + patience;
                            let mut polled = get.poll();
                            if polled.is_pending() {
                                spin_until(limit);
                                // Or it is left when it has just been woken.
                                if round % 2 == 0 {
                                    polled = get.poll();
                                }
                            }
                            match polled {
                                Poll::Ready(item) => Some(item.unwrap()),
                                Poll::Pending => None,
                            }
                        }
                    };
                    match got {
                        Some(item) => {
                            assert_eq!(item, round);
                            patience = patience.saturating_sub(step);
                        }
                        None => {
                            patience += step;
                            assert_eq!(queue.get().unwrap(), round);
                        }
                    }
                    assert_empty(queue.get_nowait());
                }
                assert_eq!(team.results(), [()]);
            }
        });
    }

    #[test]
    fn a_put_that_gives_up_while_there_is_room_has_put_or_not() {
        fn get_at_times(queue: Queue<u32>, go: Semaphore, rounds: u32) -> Vec<u32> {
            let items = (0..rounds).map(|_| {
                go.acquire();
                queue.get().unwrap()
            });
            items.collect()
        }
        watched(|| {
            let (queue, go) = (Queue::new(1), Semaphore::new(0));
            let team = Team::new(1, |_| task!(get_at_times(queue.clone(), go.clone(), 500)));
            let mut patience = Duration::from_micros(50);
            let step = Duration::from_micros(2);
            let mut put = vec![0];
            queue.put(0).unwrap();
            for round in 1..500 {
                go.release().unwrap();
                match queue.put_timeout(round, patience) {
                    Ok(()) => patience = patience.saturating_sub(step),
                    Err(error) => {
                        assert_eq!(error.into_inner(), round);
                        patience += step;
                        // The room is there, now or soon, for another one.
                        queue.put(1000 + round).unwrap();
                    }
                }
                put.push(round);
                assert!(queue.qsize() <= 1);
            }
            go.release().unwrap();
            let got: Vec<_> = team.results().remove(0);
            assert!(got.iter().map(|item| item % 1000).eq(put));
            assert_eq!(queue.qsize(), 0);
        });
    }

    #[test]
    fn a_pending_get_is_woken_by_a_put_and_a_pending_put_by_a_get() {
        watched(|| {
            let (queue, other) = (Queue::new(1), Other::new());
            let mut get = Hand::waiting(queue.get_async());
            assert!(!get.woken());
            other.run(task!(put_all(Way::Blocking, queue.clone(), vec![7])));
            get.wait_woken();
            assert_eq!(get.ready().unwrap(), 7);
            queue.put(8).unwrap();
            let mut put = Hand::waiting(queue.put_async(9));
            assert!(!put.woken());
            assert_eq!(other.run(task!(get_some(Way::Blocking, queue.clone(), 1))), [8]);
            put.wait_woken();
            put.ready().unwrap();
            assert_eq!(queue.get().unwrap(), 9);
            let mut join = Hand::waiting(queue.join_async());
            for done in 0..3 {
                assert!(!join.woken(), "{done}");
                other.run(task!(finish(queue.clone())));
            }
            join.wait_woken();
            join.ready();
        });
    }

    #[test]
    fn a_get_that_is_dropped_takes_nothing() {
        watched(|| {
            for way in Way::ALL {
                let (queue, other) = (Queue::new(0), Other::new());
                // Before there is an item.
                drop(Hand::waiting(queue.get_async()));
                other.run(task!(put_all(way, queue.clone(), vec![1])));
                assert_eq!(queue.get().unwrap(), 1);
                // After it was woken.
                let dropped = Hand::waiting(queue.get_async());
                let team = Team::new(1, |_| task!(get_some(way, queue.clone(), 1)));
                other.run(task!(put_all(way, queue.clone(), vec![2])));
                drop(dropped);
                assert_eq!(team.results(), [[2]]);
                let (first, mut second) =
                    (Hand::waiting(queue.get_async()), Hand::waiting(queue.get_async()));
                other.run(task!(put_all(way, queue.clone(), vec![3])));
                eventually("one is woken", || first.woken() || second.woken());
                drop(first);
                second.wait_woken();
                assert_eq!(second.ready().unwrap(), 3);
                assert!(queue.empty());
            }
        });
    }

    #[test]
    fn a_put_that_is_dropped_leaves_nothing_behind() {
        watched(|| {
            for queue in [Queue::new(1), known(Queue::new(1))] {
                let other = Other::new();
                for _ in 0..3 {
                    queue.put(Counted::new()).unwrap();
                    let ghost = Counted::new();
                    let drops = ghost.drops();
                    // While the queue is full.
                    drop(Hand::waiting(queue.put_async(ghost)));
                    assert_eq!(drops.count(), 1);
                    // After there was room: the room goes to the next.
                    let (ghost, item) = (Counted::new(), Counted::new());
                    let drops = ghost.drops();
                    let first = Hand::waiting(queue.put_async(ghost));
                    let mut second = Hand::waiting(queue.put_async(item));
                    drop(other.run(task!(get_some(Way::Blocking, queue.clone(), 1))));
                    eventually("one is woken", || first.woken() || second.woken());
                    drop(first);
                    second.wait_woken();
                    second.ready().unwrap();
                    assert_eq!(drops.count(), 1);
                    assert_eq!(queue.qsize(), 1);
                    drop(queue.get().unwrap());
                    assert!(queue.empty());
                    // Only the two that were really put are unfinished.
                    queue.task_done().unwrap();
                    assert!(!queue.join_timeout(Duration::ZERO));
                    queue.task_done().unwrap();
                    queue.join();
                    assert!(queue.task_done().is_err());
                }
            }
        });
    }

    #[test]
    fn a_put_that_was_never_polled_has_put_nothing() {
        watched(|| {
            let queue = Queue::new(0);
            let item = Counted::new();
            let drops = item.drops();
            drop(queue.put_async(item));
            assert_eq!(drops.count(), 1);
            assert!(queue.empty() && queue.join_timeout(Duration::ZERO));
        });
    }

    #[test]
    fn waits_that_nobody_polls_stop_nobody_else() {
        watched(|| {
            let (queue, other) = (Queue::new(0), Other::new());
            let mut left = Hand::waiting(queue.get_async());
            let team = Team::new(1, |_| task!(get_some(Way::Async, queue.clone(), 1)));
            let mut second = Hand::waiting(queue.get_async());
            // The item that wakes the first is there for others.
            other.run(task!(put_all(Way::Blocking, queue.clone(), vec![1, 2, 3])));
            let mut got = team.results().remove(0);
            second.wait_woken();
            got.extend(second.ready());
            got.sort();
            assert_eq!(got, [1, 2]);
            left.wait_woken();
            assert_eq!(left.ready().unwrap(), 3);
            // The same for who puts.
            let queue = Queue::new(1);
            queue.put(0).unwrap();
            let left = Hand::waiting(queue.put_async(8));
            let mut second = Hand::waiting(queue.put_async(9));
            for n in 0..10 {
                assert_eq!(other.run(task!(get_some(Way::Blocking, queue.clone(), 1))), [n]);
                queue.put_timeout(n + 1, LONG).unwrap();
            }
            assert!(second.poll().is_pending());
            assert_eq!(queue.get().unwrap(), 10);
            drop(left);
            second.wait_woken();
            second.ready().unwrap();
            assert_eq!(queue.get().unwrap(), 9);
        });
    }

    #[test]
    fn a_join_that_is_dropped_does_nothing() {
        watched(|| {
            let queue = known(Queue::new(0));
            queue.put(1).unwrap();
            drop(Hand::waiting(queue.join_async()));
            let mut join = Hand::waiting(queue.join_async());
            assert_eq!(queue.get().unwrap(), 1);
            queue.task_done().unwrap();
            join.wait_woken();
            join.ready();
            queue.join();
        });
    }

    #[test]
    fn gets_and_puts_are_served_first_come_first_served() {
        watched(|| {
            for queue in [Queue::new(1), known(Queue::new(1))] {
                let mut gets: Vec<_> = (0..3).map(|_| Hand::waiting(queue.get_async())).collect();
                for n in 0..3 {
                    queue.put(n).unwrap();
                    let mut first = gets.remove(0);
                    first.wait_woken();
                    assert!(!gets.iter().any(Hand::woken));
                    assert_eq!(first.ready().unwrap(), n);
                }
                queue.put(0).unwrap();
                let mut puts: Vec<_> =
                    (1..4).map(|n| Hand::waiting(queue.put_async(n))).collect();
                for n in 0..3 {
                    assert_eq!(queue.get().unwrap(), n);
                    let mut first = puts.remove(0);
                    first.wait_woken();
                    assert!(!puts.iter().any(Hand::woken));
                    first.ready().unwrap();
                }
                assert_eq!(queue.get().unwrap(), 3);
            }
        });
    }

    #[test]
    fn only_the_last_waker_is_woken() {
        watched(|| {
            let other = Other::new();
            let [empty, full, unfinished] = [(); 3].map(|_| known(Queue::new(1)));
            full.put(0).unwrap();
            unfinished.put(0).unwrap();
            let awaited = [
                (empty.get_async().map(drop).boxed(), &empty),
                (full.put_async(1).map(drop).boxed(), &full),
                (unfinished.join_async().boxed(), &unfinished),
            ];
            for (n, (future, queue)) in awaited.into_iter().enumerate() {
                let mut future = Hand::new(future);
                let (first, last) = (Wakes::new(), Wakes::new());
                for wakes in [&first, &first, &last] {
                    assert!(future.poll_with(&Waker::from(Arc::clone(wakes))).is_pending());
                }
                match n {
                    0 => other.run(task!(put_all(Way::Blocking, queue.clone(), vec![1]))),
                    1 => drop(other.run(task!(get_some(Way::Blocking, queue.clone(), 1)))),
                    _ => other.run(task!(finish(queue.clone()))),
                }
                eventually("the last waker is woken", || last.count() > 0);
                assert_eq!((first.count(), last.count()), (0, 1));
                future.ready();
            }
        });
    }

    #[test]
    fn a_waker_may_use_the_queue() {
        watched(|| {
            let other = Other::new();
            for queue in [Queue::new(2), known(Queue::new(2))] {
                let (meddled, meddles) = (queue.clone(), Arc::new(()));
                let still_meddles = Arc::clone(&meddles);
                let meddling = Meddling::new(move || {
                    let _still_meddles = &still_meddles;
                    let _ = meddled.put_nowait(100);
                    let _ = meddled.get_nowait();
                    let _ = meddled.task_done();
                });
                let mut get = Hand::new(queue.get_async());
                assert!(get.poll_with(&Waker::from(Arc::clone(&meddling))).is_pending());
                other.run(task!(put_all(Way::Blocking, queue.clone(), vec![1])));
                eventually("woken", || meddling.count() > 0);
                drop(get);
                while queue.get_nowait().is_ok() {}
                (0..2).for_each(|n| queue.put(n).unwrap());
                let woken = meddling.count();
                let mut put = Hand::new(queue.put_async(2));
                assert!(put.poll_with(&Waker::from(Arc::clone(&meddling))).is_pending());
                other.run(task!(get_some(Way::Blocking, queue.clone(), 1)));
                eventually("woken", || meddling.count() > woken);
                drop(put);
                drop(meddling);
                // Whoever has woken it may be the last to let go of it.
                eventually("it is gone", || Arc::strong_count(&meddles) == 1);
                while queue.get_nowait().is_ok() {}
                queue.put(5).unwrap();
                assert_eq!(queue.get().unwrap(), 5);
            }
        });
    }

    #[test]
    fn a_waker_that_panics_harms_nobody_else() {
        watched(|| {
            let other = Other::new();
            for queue in [Queue::new(0), known(Queue::new(0))] {
                let mut first = Hand::new(queue.get_async());
                assert!(first.poll_with(&Waker::from(Arc::new(Panicking))).is_pending());
                let mut second = Hand::waiting(queue.get_async());
                queue.put(1).unwrap();
                other.run(task!(put_all(Way::Blocking, queue.clone(), vec![2])));
                second.wait_woken();
                assert_eq!((second.ready().unwrap(), first.ready().unwrap()), (1, 2));
            }
        });
    }

    #[test]
    fn blocking_calls_stall_a_runtime_but_work_there() {
        watched(|| {
            for queue in [Queue::new(1), known(Queue::new(1))] {
                current_thread().block_on(async {
                    queue.put(1).unwrap();
                    assert_eq!(assert_full(queue.put_timeout(2, Duration::from_millis(1))), 2);
                    let team = Team::new(1, |_| task!(get_some(Way::Async, queue.clone(), 1)));
                    queue.put(3).unwrap();
                    assert_eq!(team.results(), [[1]]);
                    assert_eq!(queue.get().unwrap(), 3);
                    (0..2).for_each(|_| queue.task_done().unwrap());
                    queue.join();
                });
            }
        });
    }

    #[test]
    fn a_queue_may_be_dropped_in_any_state() {
        watched(|| {
            for queue in [Queue::new(1), known(Queue::new(1))] {
                let (getting, putting) = (queue.clone(), queue.clone());
                std::mem::forget(Hand::waiting(async move { getting.get_async().await }));
                queue.put(1).unwrap();
                queue.put_nowait(2).unwrap_err();
                std::mem::forget(Hand::waiting(async move { putting.put_async(3).await }));
            }
        });
    }

    #[test]
    fn a_wait_keeps_its_queue_alive() {
        watched(|| {
            let queue = Queue::new(1);
            let own = queue.clone();
            let mut get = Hand::waiting(async move { own.get_async().await }.boxed());
            Other::new().run(task!(put_all(Way::Blocking, queue, vec![7])));
            get.wait_woken();
            assert_eq!(get.ready().unwrap(), 7);
        });
    }

    #[test]
    fn a_thousand_waits_need_no_thread_each() {
        fn put_and_get(queue: Queue<u32>, number: u32) {
            (0..number).for_each(|n| queue.put(n).unwrap());
        }
        watched(|| {
            let queue = known(Queue::new(0));
            current_thread().block_on(async {
                // Half of them are left.
                let left: Vec<_> = (0..500).map(|_| Hand::waiting(queue.get_async())).collect();
                let gets = join_all((0..500).map(|_| queue.get_async()));
                let ticks = async {
                    let mut interval = tokio::time::interval(Duration::from_millis(1));
                    for _ in 0..10 {
                        interval.tick().await;
                    }
                    // Other tests have some, too.
                    assert!(threads() < 500);
                    drop(left);
                    let team = Team::new(1, |_| task!(put_and_get(queue.clone(), 500)));
                    interval.tick().await;
                    team
                };
                let (got, team) = tokio::join!(gets, ticks);
                let mut got: Vec<_> = got.into_iter().map(Result::unwrap).collect();
                got.sort();
                assert!(got.into_iter().eq(0..500));
                assert_eq!(team.results(), [()]);
            });
            // An item that comes now is for who gets now.
            Other::new().run(task!(put_and_get(queue.clone(), 1)));
            assert_eq!(queue.get_timeout(LONG).unwrap(), 0);
        });
    }

    #[test]
    fn gets_left_at_every_tick_lose_nothing() {
        fn produce(queue: Queue<(u32, ByteBuf)>, number: u32) {
            for n in 0..number {
                // Large ones in between.
                let size = if n % 100 == 0 { 200 << 10 } else { 10 };
                queue.put((n, ByteBuf::from(vec![n as u8; size]))).unwrap();
            }
        }
        watched(|| {
            const NUMBER: u32 = if cfg!(debug_assertions) { 30_000 } else { 100_000 };
            let queue = Queue::new(100);
            let team = Team::new(1, |_| task!(produce(queue.clone(), NUMBER)));
            let mut left = 0;
            current_thread().block_on(async {
                let mut interval = tokio::time::interval(Duration::from_millis(1));
                let mut expected = 0;
                while expected < NUMBER {
                    tokio::select! {
                        biased;
                        _ = interval.tick() => left += 1,
                        _ = tokio::task::yield_now(), if expected % 3 == 0 => {
                            // A get that is dropped as soon as it may have been woken.
                            let get = Hand::new(queue.get_async()).poll();
                            if let Poll::Ready(item) = get {
                                check(item.unwrap(), &mut expected);
                            }
                        }
                        item = queue.get_async() => check(item.unwrap(), &mut expected),
                    }
                }
            });
            fn check((n, bytes): (u32, ByteBuf), expected: &mut u32) {
                assert_eq!(n, *expected);
                assert!([10, 200 << 10].contains(&bytes.len()));
                assert!(is_all(&bytes, n as u8));
                *expected += 1;
            }
            assert!(left > 0);
            assert_eq!(team.results(), [()]);
            assert!(queue.empty());
        });
    }

    #[test]
    fn puts_left_at_random_put_all_or_nothing() {
        fn consume(queue: Queue<(u32, ByteBuf)>) -> Vec<u32> {
            let items = std::iter::from_fn(|| {
                let (n, bytes) = queue.get().unwrap();
                assert!(is_all(&bytes, n as u8));
                (n != u32::MAX).then_some(n)
            });
            items.collect()
        }
        watched(|| {
            let queue = Queue::new(2);
            let team = Team::new(1, |_| task!(consume(queue.clone())));
            let mut random = common::Random::new();
            let mut put = Vec::new();
            for n in 0..2000 {
                let size = [10, 1000, 200 << 10][random.below(3)];
                let mut future = Hand::new(queue.put_async((n, ByteBuf::from(vec![n as u8; size]))));
                for _ in 0..random.below(20) {
                    if let Poll::Ready(result) = future.poll() {
                        result.unwrap();
                        put.push(n);
                        break;
                    }
                    thread::yield_now();
                }
            }
            queue.put((u32::MAX, ByteBuf::new())).unwrap();
            assert_eq!(team.results(), [put]);
            assert_eq!(queue.qsize(), 0);
        });
    }

    #[test]
    fn tasks_of_one_runtime_share_a_queue() {
        watched(|| {
            let queue = known(Queue::new(2));
            let sum = current_thread().block_on(async {
                let consumers: Vec<_> = (0..10)
                    .map(|_| {
                        let queue = queue.clone();
                        tokio::spawn(async move {
                            let mut sum = 0;
                            for _ in 0..10 {
                                sum += queue.get_async().await.unwrap();
                                queue.task_done().unwrap();
                            }
                            sum
                        })
                    })
                    .collect();
                for n in 0..100 {
                    queue.put_async(n).await.unwrap();
                }
                queue.join_async().await;
                let mut sum = 0;
                for consumer in consumers {
                    sum += consumer.await.unwrap();
                }
                sum
            });
            assert_eq!(sum, (0..100).sum::<i32>());
        });
    }

    #[test]
    fn a_signal_does_not_disturb_who_waits() {
        extern "C" fn nothing(_: i32) {}
        watched(|| {
            // SAFETY: all zeros is a valid `sigaction`, the handler does nothing, and the pointers
            // are valid for the call. Without `SA_RESTART` system calls are interrupted.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = nothing as extern "C" fn(i32) as libc::sighandler_t;
                assert_eq!(libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()), 0);
            }
            let scratch = Scratch::new();
            let queue = known(Queue::new(1));
            let disturb = |sign: &Sign| {
                let path = sign.hear();
                let thread: libc::pid_t = path.rsplit('/').next().unwrap().parse().unwrap();
                for _ in 0..2 {
                    wait_asleep(sign);
                    let pid = std::process::id() as libc::pid_t;
                    // SAFETY: the call takes no pointers.
                    unsafe { libc::syscall(libc::SYS_tgkill, pid, thread, libc::SIGUSR1) };
                }
            };
            let large = || ByteBuf::from(vec![7; 4 << 20]);
            let (get, put) = (scratch.sign("get"), scratch.sign("put"));
            thread::scope(|scope| {
                let getter = scope.spawn(|| {
                    report(&get);
                    queue.get().unwrap()
                });
                disturb(&get);
                queue.put(large()).unwrap();
                assert!(getter.join().unwrap() == large());
                queue.put(ByteBuf::new()).unwrap();
                let putter = scope.spawn(|| {
                    report(&put);
                    queue.put(large()).unwrap();
                });
                disturb(&put);
                assert!(!putter.is_finished());
                assert_eq!(queue.get().unwrap().len(), 0);
                assert!(queue.get().unwrap() == large());
                putter.join().unwrap();
            });
        });
    }

    #[test]
    fn a_queue_says_how_full_it_is() {
        watched(|| {
            assert_eq!(Queue::<u8>::default().maxsize(), 0);
            for queue in [Queue::new(5), known(Queue::new(5))] {
                (0..3).for_each(|n| queue.put(n).unwrap());
                let text = format!("{queue:?}");
                assert!(text.contains("Queue") && text.contains('3') && text.contains('5'), "{text}");
            }
        });
    }

    #[test]
    fn a_worker_of_a_worker_uses_the_queue_without_a_standard_input() {
        fn put_from_below(queue: Queue<u8>) {
            // SAFETY: the call takes no pointers, and nobody here reads.
            unsafe { libc::close(0) };
            Other::new().run(task!(put_all(Way::Blocking, queue.clone(), vec![1])));
            queue.put(2).unwrap();
        }
        // In a thread the descriptor is that of all tests.
        if !on_processes() {
            return;
        }
        watched(|| {
            let queue = Queue::new(0);
            let worker = Worker::new(task!(put_from_below(queue.clone())));
            worker.start().unwrap();
            assert_eq!((queue.get().unwrap(), queue.get().unwrap()), (1, 2));
            worker.join().unwrap();
        });
    }

    /// Each item is dropped once, and the queue keeps nothing of it.
    #[test]
    fn items_are_dropped_once() {
        watched(|| {
            for queue in [Queue::new(0), known(Queue::new(0))] {
                let item = Counted::new();
                let drops = item.drops();
                queue.put(item).unwrap();
                let got = queue.get().unwrap();
                let before = drops.count();
                drop(got);
                // One that was encoded was dropped by then, and another one came out.
                assert!((before, drops.count()) == (0, 1) || before == 1);
                let items: Vec<_> = (0..3).map(|_| Counted::new()).collect();
                let drops: Vec<_> = items.iter().map(Counted::drops).collect();
                for item in items {
                    queue.put(item).unwrap();
                }
                drop(queue);
                assert!(drops.iter().all(|drops| drops.count() == 1));
            }
        });
    }

    #[test]
    fn an_item_whose_end_uses_the_queue_does_no_harm() {
        /// Puts a successor into the queue it comes from, when it is dropped.
        struct Reentrant(Queue<Reentrant>, u32);
        impl Drop for Reentrant {
            fn drop(&mut self) {
                if self.1 > 0 {
                    let next = Reentrant(self.0.clone(), self.1 - 1);
                    drop(self.0.put(next));
                    assert!(self.0.qsize() > 0);
                }
            }
        }
        watched(|| {
            let queue = Queue::new(0);
            queue.put(Reentrant(queue.clone(), 3)).unwrap_or_else(|_| panic!("no put"));
            for left in (0..4).rev() {
                let item = queue.get().unwrap_or_else(|_| panic!("no get"));
                assert_eq!(item.1, left);
            }
            assert!(queue.empty());
            // One that is put in vain, and one whose put is dropped.
            let full = Queue::new(1);
            full.put(Reentrant(queue.clone(), 0)).unwrap_or_else(|_| panic!("no put"));
            drop(full.put_nowait(Reentrant(queue.clone(), 1)));
            drop(Hand::waiting(full.put_async(Reentrant(queue.clone(), 1))));
            assert_eq!(queue.qsize(), 2);
        });
    }

    #[test]
    fn an_item_that_panics_as_it_is_dropped_does_no_harm() {
        struct Grenade;
        impl Drop for Grenade {
            fn drop(&mut self) {
                panic!("boom");
            }
        }
        watched(|| {
            let queue = Queue::new(2);
            for _ in 0..3 {
                queue.put(Grenade).unwrap_or_else(|_| panic!("no put"));
                let item = queue.get().unwrap_or_else(|_| panic!("no get"));
                assert!(catch_unwind(AssertUnwindSafe(|| drop(item))).is_err());
                queue.task_done().unwrap();
                queue.join();
            }
            assert!(queue.empty());
            // Nor one that is in the queue when that goes.
            queue.put(Grenade).unwrap_or_else(|_| panic!("no put"));
            let _ = catch_unwind(AssertUnwindSafe(|| drop(queue)));
        });
    }
}

fn finish(queue: Queue<i32>) {
    queue.task_done().unwrap();
}

/// Counts how often it is dropped in this process. It may travel; what arrives elsewhere, or by being
/// decoded, counts for itself.
#[derive(Debug, Serialize, Deserialize)]
struct Counted {
    #[serde(skip)]
    drops: Drops,
}

#[derive(Clone, Debug, Default)]
struct Drops(Arc<AtomicUsize>);

impl Drops {
    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Counted {
    fn new() -> Counted {
        Counted {
            drops: Drops::default(),
        }
    }

    fn drops(&self) -> Drops {
        self.drops.clone()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.drops.0.fetch_add(1, Ordering::SeqCst);
    }
}

// Items that cannot travel. A queue that no other process knows does not mind.

/// Fails or panics on its way to another process, or at its arrival there.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fragile {
    Sound(u32),
    RefusesToGo,
    PanicsToGo,
    RefusesToArrive,
    PanicsOnArrival,
}

impl Serialize for Fragile {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let sent = match self {
            Fragile::Sound(n) => *n,
            Fragile::RefusesToGo => return Err(serde::ser::Error::custom("rather not")),
            Fragile::PanicsToGo => panic!("never"),
            Fragile::RefusesToArrive => u32::MAX,
            Fragile::PanicsOnArrival => u32::MAX - 1,
        };
        // With a body, so that something is there when it fails.
        (sent, ByteBuf::from(vec![0; 1000])).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Fragile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match <(u32, ByteBuf)>::deserialize(deserializer)? {
            (u32::MAX, _) => Err(serde::de::Error::custom("not here")),
            (n, _) if n == u32::MAX - 1 => panic!("what a place"),
            (n, _) => Ok(Fragile::Sound(n)),
        }
    }
}

every_way! {
    fn an_item_that_cannot_be_encoded_is_an_error_of_its_put(ways) {
        let queue = known(Queue::new(1));
        if !on_processes() {
            // It does not have to be.
            ways.of(0).put(&queue, Fragile::PanicsToGo).unwrap();
            assert_eq!(ways.of(1).get(&queue).unwrap(), Fragile::PanicsToGo);
            return;
        }
        for (item, why) in [(Fragile::RefusesToGo, "rather not"), (Fragile::PanicsToGo, "never")] {
            for n in 0..4 {
                let error = ways.of(n).put(&queue, item).unwrap_err();
                assert!(matches!(&error, PutError::Encode(_, text) if says(text, why)), "{error:?}");
                assert_eq!(error.into_inner(), item);
                assert!(matches!(queue.put_nowait(item), Err(PutError::Encode(..))));
                // No room was used, and nothing is unfinished.
                assert_eq!(queue.qsize(), 0);
                ways.of(n).join(&queue);
                ways.of(n).put(&queue, Fragile::Sound(1)).unwrap();
                assert_eq!(ways.of(n).get(&queue).unwrap(), Fragile::Sound(1));
                queue.task_done().unwrap();
            }
        }
        // Also where there is no room.
        queue.put(Fragile::Sound(2)).unwrap();
        let error = queue.put_timeout(Fragile::RefusesToGo, NAP).unwrap_err();
        assert_eq!(error.into_inner(), Fragile::RefusesToGo);
        assert_eq!(queue.qsize(), 1);
        assert_eq!(ways.of(0).get(&queue).unwrap(), Fragile::Sound(2));
    }

    fn an_item_that_cannot_be_decoded_is_an_error_of_its_get(ways) {
        if !on_processes() {
            return;
        }
        let queue = known(Queue::new(2));
        for (item, why) in [
            (Fragile::RefusesToArrive, "not here"),
            (Fragile::PanicsOnArrival, "what a place"),
        ] {
            for n in 0..4 {
                ways.of(n).put(&queue, item).unwrap();
                ways.of(n).put(&queue, Fragile::Sound(3)).unwrap();
                assert!(queue.full());
                let error = ways.of(n).get(&queue).unwrap_err();
                assert!(matches!(&error, GetError::Decode(text) if says(text, why)), "{error:?}");
                assert_eq!(queue.qsize(), 1);
                assert_eq!(ways.of(n).get(&queue).unwrap(), Fragile::Sound(3));
                (0..2).for_each(|_| queue.task_done().unwrap());
                ways.of(n).join(&queue);
            }
        }
    }
}

fn says(error: &CodecError, why: &str) -> bool {
    error.message().contains(why) && error.type_name().contains("Fragile")
}

#[test]
fn a_plain_queue_takes_what_cannot_travel() {
    watched(|| {
        let queue: Queue<Box<dyn Fn() -> u8 + Send>> = Queue::new(1);
        queue
            .put(Box::new(|| 7))
            .unwrap_or_else(|_| panic!("no put"));
        let function = block_on(queue.get_async()).unwrap_or_else(|_| panic!("no get"));
        assert_eq!(function(), 7);
    });
}

/// A queue whose items cannot travel either does not go to a process itself, or tells who gets them.
#[test]
fn a_queue_with_items_that_cannot_travel_loses_no_other() {
    watched(|| {
        for (fragile, why) in [
            (Fragile::RefusesToGo, "rather not"),
            (Fragile::PanicsToGo, "never"),
        ] {
            let queue = Queue::new(0);
            let items = [Fragile::Sound(1), fragile, Fragile::Sound(2)];
            for item in items {
                queue.put(item).unwrap();
            }
            let executor = common::processes(1);
            let sent = executor.submit(task!(nothing(queue.clone()))).result();
            let got: Vec<_> = (0..3).map_while(|_| queue.get_nowait().ok()).collect();
            match sent {
                Ok(()) => panic!("it went, with {got:?}"),
                Err(freethreading::TaskError::Encode(error)) => {
                    assert!(error.message().contains(why), "{error}");
                    assert_eq!(got, items);
                }
                Err(error) => panic!("{error}"),
            }
            // What remains may go.
            queue.put(Fragile::Sound(3)).unwrap();
            executor
                .submit(task!(nothing(queue.clone())))
                .result()
                .unwrap();
            assert_eq!(queue.get().unwrap(), Fragile::Sound(3));
        }
    });
}

/// Threads that are in the middle of puts and gets while the queue becomes known to another process.
#[test]
fn a_queue_may_become_shared_while_it_is_used() {
    watched(|| {
        for _ in 0..20 {
            let queue = Queue::new(3);
            let unfinished = Mutex::new(());
            let executor = common::processes(1);
            let got = thread::scope(|scope| {
                for producer in 0..2 {
                    let queue = &queue;
                    scope.spawn(move || {
                        for n in 0..300 {
                            Way::ALL[n as usize % 4].put(queue, (producer, n)).unwrap();
                        }
                    });
                }
                let consumers: Vec<_> = (0..2)
                    .map(|consumer| {
                        let (queue, unfinished) = (&queue, &unfinished);
                        scope.spawn(move || {
                            let items = (0..300).map(|n| {
                                let item = Way::ALL[(n + consumer) % 4].get(queue).unwrap();
                                let _one_by_one = unfinished.lock().unwrap();
                                queue.task_done().unwrap();
                                item
                            });
                            items.collect::<Vec<(u32, u32)>>()
                        })
                    })
                    .collect();
                executor
                    .submit(task!(nothing(queue.clone())))
                    .result()
                    .unwrap();
                let got = consumers
                    .into_iter()
                    .map(|consumer| consumer.join().unwrap());
                got.collect::<Vec<_>>()
            });
            let mut all = got.concat();
            all.sort();
            let put = (0..2).flat_map(|producer| (0..300).map(move |n| (producer, n)));
            assert!(all.into_iter().eq(put));
            for items in got {
                for producer in 0..2 {
                    assert!(items.iter().filter(|item| item.0 == producer).is_sorted());
                }
            }
            queue.join();
        }
    });
}

/// Another process has the queue from now on.
fn share<T: Portable>(queue: &Queue<T>) {
    let worker = Worker::new(task!(nothing(queue.clone()))).backend(Backend::Multiprocessing);
    worker.start().unwrap();
    worker.join().unwrap();
}

/// Items whose code makes something of its own of what the encoder says, or can be run once only.
#[derive(Debug)]
enum Stubborn {
    /// Gives errors another message.
    Rewraps(Vec<u64>),
    /// Expects that there are none.
    Expects(Vec<u64>),
    /// Does not look whether there are any.
    Swallows(Vec<u64>),
    /// Has nothing the next time.
    Once(Mutex<Vec<u64>>),
}

impl Serialize for Stubborn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Stubborn::Rewraps(numbers) => numbers
                .serialize(serializer)
                .map_err(|error| ser::Error::custom(format!("of mine: {error}"))),
            Stubborn::Expects(numbers) => {
                Ok(numbers.serialize(serializer).expect("memory suffices"))
            }
            Stubborn::Swallows(numbers) => {
                let mut sequence = serializer.serialize_seq(Some(numbers.len()))?;
                for number in numbers {
                    let _ = sequence.serialize_element(number);
                }
                sequence.end()
            }
            Stubborn::Once(numbers) => {
                std::mem::take(&mut *numbers.lock().unwrap()).serialize(serializer)
            }
        }
    }
}

impl<'de> Deserialize<'de> for Stubborn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Stubborn::Rewraps)
    }
}

/// What it names is made as it is encoded, and the item does not keep it.
struct Fresh(Option<SimpleQueue<u8>>);

impl Serialize for Fresh {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let queue = SimpleQueue::new();
        queue.put(7u8).map_err(ser::Error::custom)?;
        queue.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Fresh {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        SimpleQueue::deserialize(deserializer).map(|queue| Fresh(Some(queue)))
    }
}

#[test]
fn primitives_that_are_made_for_an_encoding_arrive() {
    watched(|| {
        let queue = Queue::new(1);
        queue.put(Fresh(None)).unwrap();
        share(&queue);
        let take = || queue.get().unwrap().0.unwrap().get_nowait().unwrap();
        assert_eq!(take(), 7);
        queue.put(Fresh(None)).unwrap();
        // There is no room for this one yet.
        let mut put = Box::pin(queue.put_async(Fresh(None)));
        assert!(put.as_mut().now_or_never().is_none());
        assert_eq!(take(), 7);
        block_on(put).unwrap();
        assert_eq!(take(), 7);
    });
}

#[test]
fn items_are_encoded_once_and_into_as_much_room_as_they_take() {
    watched(|| {
        let queue = Queue::new(0);
        share::<Stubborn>(&queue);
        for len in [0, 1, 14, 15, 16, 17, 30, 100, 1000, 100_000] {
            let numbers = || (0..len).collect::<Vec<u64>>();
            let items = [
                Stubborn::Rewraps(numbers()),
                Stubborn::Expects(numbers()),
                Stubborn::Swallows(numbers()),
                Stubborn::Once(Mutex::new(numbers())),
            ];
            for item in items {
                queue.put(item).unwrap();
                match queue.get().unwrap() {
                    Stubborn::Rewraps(got) => assert_eq!(got, numbers()),
                    other => panic!("{other:?}"),
                }
            }
        }
    });
}

/// Panics when it is dropped, which what another process gets, or a queue has kept, does not.
#[derive(Debug, Serialize, Deserialize)]
struct Grenade {
    number: u32,
    #[serde(skip)]
    is_live: bool,
}

impl Grenade {
    fn live(number: u32) -> Grenade {
        let is_live = true;
        Grenade { number, is_live }
    }
}

impl Drop for Grenade {
    fn drop(&mut self) {
        if self.is_live {
            panic!("boom");
        }
    }
}

/// Puts one: the panic of its end is nobody's.
#[track_caller]
fn put_live(put: impl FnOnce(Grenade) -> Result<(), PutError<Grenade>>, number: u32) {
    assert!(put(Grenade::live(number)).is_ok());
}

fn take_all(queue: Queue<Grenade>) -> Vec<u32> {
    let items = std::iter::from_fn(|| queue.get_nowait().ok());
    let numbers = items.map(|item| {
        queue.task_done().unwrap();
        item.number
    });
    numbers.collect()
}

#[test]
fn an_item_that_panics_as_it_is_dropped_does_a_shared_queue_no_harm() {
    watched(|| {
        let scratch = Scratch::new();
        let executor = common::processes(1);
        for (n, way) in Way::ALL.into_iter().enumerate() {
            let queue = Queue::new(2);
            share(&queue);
            let taken_elsewhere = || {
                let taken = executor.submit(task!(take_all(queue.clone())));
                taken.result().unwrap()
            };
            // There is room.
            put_live(|item| way.put(&queue, item), 1);
            put_live(|item| queue.put_nowait(item), 2);
            assert_eq!(taken_elsewhere(), [1, 2]);
            assert!(queue.join_timeout(Duration::ZERO));
            // There is none.
            put_live(|item| way.put(&queue, item), 3);
            put_live(|item| queue.put_timeout(item, Duration::ZERO), 4);
            for put in [
                queue.put_nowait(Grenade::live(5)),
                queue.put_timeout(Grenade::live(5), Duration::from_millis(1)),
            ] {
                let mut item = assert_full(put);
                item.is_live = false;
                assert_eq!(item.number, 5);
            }
            let asleep = scratch.sign(&n.to_string());
            thread::scope(|scope| {
                let putting = scope.spawn(|| {
                    report(&asleep);
                    put_live(|item| way.put(&queue, item), 6);
                });
                wait_asleep(&asleep);
                assert_eq!(queue.get().unwrap().number, 3);
                queue.task_done().unwrap();
                putting.join().unwrap();
            });
            assert_eq!(taken_elsewhere(), [4, 6]);
            assert!(queue.join_timeout(Duration::ZERO));
            assert_eq!(queue.qsize(), 0);
        }
    });
}

#[test]
fn a_put_that_is_given_up_passes_its_room_on_though_its_item_panics() {
    watched(|| {
        for is_shared in [false, true] {
            let queue = Queue::new(1);
            if is_shared {
                share(&queue);
            }
            put_live(|item| queue.put(item), 1);
            let first = Hand::waiting(queue.put_async(Grenade::live(2)));
            let mut second = Hand::waiting(queue.put_async(Grenade::live(3)));
            // What was never shared is the very one that was put.
            let mut item = queue.get().unwrap();
            item.is_live = false;
            assert_eq!(item.number, 1);
            first.wait_woken();
            drop(first);
            second.wait_woken();
            assert!(second.ready().is_ok());
            let mut item = queue.get_nowait().unwrap();
            item.is_live = false;
            assert_eq!(item.number, 3);
        }
    });
}

#[test]
fn an_item_that_panics_as_it_is_dropped_may_be_in_a_queue_that_becomes_shared() {
    watched(|| {
        let queue = Queue::new(0);
        let items = [0, 1, 2].map(|number| Grenade {
            number,
            is_live: number > 0,
        });
        for item in items {
            queue.put(item).unwrap();
        }
        let executor = common::processes(1);
        let sent = executor.submit(task!(nothing(queue.clone())));
        sent.result().unwrap();
        assert_eq!(queue.qsize(), 3);
        let taken = executor.submit(task!(take_all(queue.clone())));
        assert_eq!(taken.result().unwrap(), [0, 1, 2]);
        assert!(queue.join_timeout(Duration::ZERO));
        put_live(|item| queue.put(item), 3);
        let taken = executor.submit(task!(take_all(queue.clone())));
        assert_eq!(taken.result().unwrap(), [3]);
    });
}

/// What a thread keeps for its puts may be gone before others of its thread-locals end.
#[test]
fn a_shared_queue_may_be_used_while_a_thread_ends() {
    struct AtTheEnd(Queue<String>);
    impl Drop for AtTheEnd {
        fn drop(&mut self) {
            self.0.put("at the end".into()).unwrap();
        }
    }
    thread_local! {
        static FIRST: RefCell<Option<AtTheEnd>> = const { RefCell::new(None) };
        static LAST: RefCell<Option<AtTheEnd>> = const { RefCell::new(None) };
    }
    watched(|| {
        let queue = Queue::new(0);
        share(&queue);
        thread::scope(|scope| {
            scope.spawn(|| {
                FIRST.set(Some(AtTheEnd(queue.clone())));
                queue.put("before".into()).unwrap();
                LAST.set(Some(AtTheEnd(queue.clone())));
            });
        });
        // Scopes do not wait for the end of thread-locals.
        let items = [(); 3].map(|()| queue.get_timeout(LONG).unwrap());
        assert_eq!(items, ["before", "at the end", "at the end"]);
        assert_eq!(queue.qsize(), 0);
    });
}

#[test]
fn a_future_that_was_ready_is_not_to_be_polled_again() {
    watched(|| {
        for is_shared in [false, true] {
            let queue = Queue::new(1);
            if is_shared {
                share(&queue);
            }
            let panics = |poll: &mut dyn FnMut()| {
                assert!(catch_unwind(AssertUnwindSafe(poll)).is_err());
            };
            let mut at_once = queue.put_async(1);
            assert!((&mut at_once).now_or_never().is_some());
            panics(&mut || drop((&mut at_once).now_or_never()));
            let mut later = queue.put_async(2);
            assert!((&mut later).now_or_never().is_none());
            let mut first = queue.get_async();
            assert_eq!((&mut first).now_or_never().unwrap().unwrap(), 1);
            panics(&mut || drop((&mut first).now_or_never()));
            assert!((&mut later).now_or_never().unwrap().is_ok());
            panics(&mut || drop((&mut later).now_or_never()));
            assert_eq!(queue.get_nowait().unwrap(), 2);
            assert_eq!(queue.qsize(), 0);
            let mut awaited = queue.get_async();
            assert!((&mut awaited).now_or_never().is_none());
            queue.put(3).unwrap();
            assert_eq!((&mut awaited).now_or_never().unwrap().unwrap(), 3);
            panics(&mut || drop((&mut awaited).now_or_never()));
        }
    });
}
