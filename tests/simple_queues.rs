//! Simple queues: no limit, nothing to count, no put that waits.

mod common;

use std::{
    cell::Cell,
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Poll, Waker},
    thread,
    time::{Duration, Instant},
};

use common::{
    Meddling, Random, Scratch, Sign, Wakes, eventually, is_all, on_processes, threads, watched,
    ways::{
        Hand, Other, Team, Way, assert_empty, current_thread, every_way, known, nothing, report,
        spin_until, wait_asleep,
    },
};
use freethreading::{
    Error, GetError, Portable, PutError, Semaphore, SimpleQueue, Worker, WorkerPoolExecutor, task,
};
use futures::{FutureExt, future::join_all};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_bytes::ByteBuf;

freethreading::init_tests!();

static_assertions::assert_impl_all!(SimpleQueue<std::cell::Cell<u8>>: Send, Sync);

/// Tasks that use a queue from wherever they run.
fn put_all<T: Portable>(queue: SimpleQueue<T>, items: Vec<T>) {
    for item in items {
        queue.put(item).unwrap_or_else(|_| panic!("no put"));
    }
}

fn get_some<T: Portable>(way: Way, queue: SimpleQueue<T>, number: usize) -> Vec<T> {
    (0..number)
        .map(|_| way.get_simple(&queue).unwrap())
        .collect()
}

every_way! {
    fn items_come_out_in_order(ways) {
        for queue in [SimpleQueue::new(), SimpleQueue::default(), known(SimpleQueue::new())] {
            assert!(queue.empty());
            queue.put("first".to_string()).unwrap();
            assert!(!queue.empty());
            queue.put("second".to_string()).unwrap();
            assert_eq!(queue.qsize(), 2);
            assert_eq!(ways.of(0).get_simple(&queue).unwrap(), "first");
            assert!(!queue.empty());
            assert_eq!(ways.of(1).get_simple(&queue).unwrap(), "second");
            assert!(queue.empty());
        }
    }

    fn items_go_to_workers_and_come_back(ways) {
        fn double(way: Way, from: SimpleQueue<u32>, to: SimpleQueue<u32>) {
            for _ in 0..100 {
                to.put(way.get_simple(&from).unwrap() * 2).unwrap();
            }
        }
        let (from, to) = (SimpleQueue::new(), SimpleQueue::new());
        // Some before there is a worker.
        put_all(from.clone(), (0..50).collect());
        let team = Team::new(1, |n| task!(double(ways.of(n), from.clone(), to.clone())));
        put_all(from.clone(), (50..100).collect());
        assert!(get_some(ways.of(1), to.clone(), 100).into_iter().eq((0..100).map(|n| n * 2)));
        assert_eq!(team.results(), [()]);
        assert!(from.empty() && to.empty());
    }

    fn an_empty_queue_makes_who_gets_wait(ways) {
        fn report_and_get(way: Way, queue: SimpleQueue<usize>, sign: Sign) -> usize {
            report(&sign);
            way.get_simple(&queue).unwrap()
        }
        let scratch = Scratch::new();
        let sign = |n: usize| scratch.sign(&format!("getting-{n}"));
        let (queue, other) = (SimpleQueue::new(), Other::new());
        let team = Team::new(4, |n| task!(report_and_get(ways.of(n), queue.clone(), sign(n))));
        (0..4).for_each(|n| wait_asleep(&sign(n)));
        assert!(team.all_busy());
        other.run(task!(put_all(queue.clone(), vec![0, 1])));
        put_all(queue.clone(), vec![2, 3]);
        let mut items = team.results();
        items.sort();
        assert_eq!(items, [0, 1, 2, 3]);
        assert!(queue.empty());
    }

    fn the_order_stays_whatever_the_pace(ways) {
        /// Now and then it lets the other side come to the end of what it can do.
        fn dawdle(random: &mut Random) {
            match random.below(50) {
                0 => thread::sleep(Duration::from_micros(random.below(300) as u64)),
                1..10 => thread::yield_now(),
                _ => {}
            }
        }
        fn produce(queue: SimpleQueue<u32>) {
            let mut random = Random::new();
            for n in 0..2000 {
                dawdle(&mut random);
                queue.put(n).unwrap();
            }
        }
        let queue = SimpleQueue::new();
        let team = Team::new(1, |_| task!(produce(queue.clone())));
        let mut random = Random::new();
        for n in 0..2000 {
            dawdle(&mut random);
            assert_eq!(ways.of(n as usize).get_simple(&queue).unwrap(), n);
        }
        assert_eq!(team.results(), [()]);
        assert!(queue.empty());
    }

    fn many_producers_and_consumers_lose_and_double_nothing(ways) {
        // On processes, too, most of them are threads: there are four workers for each side.
        const SIDES: usize = 4;
        const THREADS: usize = 12;
        const ITEMS: usize = 200;
        type Item = (usize, usize);
        fn produce(queue: SimpleQueue<Item>, number: usize) {
            thread::scope(|scope| {
                for thread in 0..THREADS {
                    let (queue, producer) = (queue.clone(), number * THREADS + thread);
                    scope.spawn(move || put_all(queue, (0..ITEMS).map(|n| (producer, n)).collect()));
                }
            });
        }
        fn consume(ways: [Way; 4], queue: SimpleQueue<Item>) -> Vec<Vec<Item>> {
            thread::scope(|scope| {
                let threads: Vec<_> = (0..THREADS)
                    .map(|thread| {
                        let queue = queue.clone();
                        scope.spawn(move || get_some(ways[thread % 4], queue, ITEMS))
                    })
                    .collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            })
        }
        let queue = SimpleQueue::new();
        let ways = [0, 1, 2, 3].map(|n| ways.of(n));
        let consumers = Team::new(SIDES, |_| task!(consume(ways, queue.clone())));
        let producers = Team::new(SIDES, |n| task!(produce(queue.clone(), n)));
        let mut seen = BTreeMap::new();
        for items in consumers.results().into_iter().flatten() {
            let mut last = BTreeMap::new();
            for (producer, item) in items {
                assert!(last.insert(producer, item).is_none_or(|last| last < item));
                *seen.entry((producer, item)).or_insert(0) += 1;
            }
        }
        assert_eq!(seen.len(), SIDES * THREADS * ITEMS);
        assert!(seen.into_values().all(|times| times == 1));
        assert_eq!(producers.results(), [(); SIDES]);
        assert!(queue.empty());
    }

    fn a_put_needs_no_reader(ways) {
        fn put_large(queue: SimpleQueue<ByteBuf>) {
            for n in 0..40 {
                queue.put(ByteBuf::from(vec![n; 1 << 20])).unwrap();
            }
        }
        let queue = SimpleQueue::new();
        let worker = Worker::new(task!(put_large(queue.clone())));
        worker.start().unwrap();
        worker.join().unwrap();
        for n in 0..40 {
            let item = ways.of(0).get_simple(&queue).unwrap();
            assert_eq!(item.len(), 1 << 20);
            assert!(is_all(&item, n));
        }
        assert!(queue.empty());
    }

    fn an_item_that_cannot_be_encoded_is_an_error_of_its_put(ways) {
        let queue = known(SimpleQueue::new());
        if !on_processes() {
            // It does not have to be.
            queue.put(Fragile::RefusesToGo).unwrap();
            assert_eq!(ways.of(0).get_simple(&queue).unwrap(), Fragile::RefusesToGo);
            return;
        }
        for (item, why) in [(Fragile::RefusesToGo, "rather not"), (Fragile::PanicsToGo, "never")] {
            let error = queue.put(item).unwrap_err();
            let PutError::Encode(back, text) = error else {
                panic!("{error:?}");
            };
            assert_eq!(back, item);
            assert!(text.message().contains(why), "{text}");
            assert!(queue.empty());
            queue.put(Fragile::Sound(1)).unwrap();
            assert_eq!(ways.of(0).get_simple(&queue).unwrap(), Fragile::Sound(1));
        }
    }

    fn an_item_that_cannot_be_decoded_is_an_error_of_its_get(ways) {
        if !on_processes() {
            return;
        }
        let queue = known(SimpleQueue::new());
        for (item, why) in [
            (Fragile::RefusesToArrive, "not here"),
            (Fragile::PanicsOnArrival, "what a place"),
        ] {
            put_all(queue.clone(), vec![item, Fragile::Sound(2)]);
            let error = ways.of(0).get_simple(&queue).unwrap_err();
            assert!(matches!(&error, GetError::Decode(text) if text.message().contains(why)), "{error:?}");
            assert_eq!(ways.of(1).get_simple(&queue).unwrap(), Fragile::Sound(2));
            assert!(queue.empty());
        }
    }

    fn simple_queues_travel_in_simple_queues(ways) {
        fn answer(way: Way, calls: SimpleQueue<(u32, SimpleQueue<u32>)>) {
            let (n, answers) = way.get_simple(&calls).unwrap();
            answers.put(n + 1).unwrap();
        }
        let (calls, answers) = (SimpleQueue::new(), SimpleQueue::new());
        let team = Team::new(1, |n| task!(answer(ways.of(n), calls.clone())));
        calls.put((41, answers.clone())).unwrap();
        assert_eq!(ways.of(1).get_simple(&answers).unwrap(), 42);
        assert_eq!(team.results(), [()]);
    }
}

freethreading::test_backends! {
    #[test]
    fn what_takes_too_long_is_given_up() {
        watched(|| {
            let nap = Duration::from_millis(20);
            for queue in [SimpleQueue::new(), known(SimpleQueue::new())] {
                assert_empty(queue.get_nowait());
                assert_empty(queue.get_timeout(Duration::ZERO));
                let start = Instant::now();
                assert_empty(queue.get_timeout(nap));
                assert!(start.elapsed() >= nap);
                current_thread().block_on(async {
                    let timeout = Duration::from_millis(5);
                    assert!(tokio::time::timeout(timeout, queue.get_async()).await.is_err());
                });
                queue.put(7).unwrap();
                assert_eq!(queue.get_timeout(Duration::ZERO).unwrap(), 7);
                queue.put(8).unwrap();
                assert_eq!(queue.get_nowait().unwrap(), 8);
                queue.put(9).unwrap();
                assert_eq!(queue.get_async().now_or_never().unwrap().unwrap(), 9);
            }
        });
    }

    #[test]
    fn a_simple_queue_says_how_much_is_in_it() {
        let queue = SimpleQueue::new();
        (0..3).for_each(|n| queue.put(n).unwrap());
        assert_eq!(format!("{queue:?}"), "SimpleQueue { qsize: 3 }");
    }

    #[test]
    fn an_error_of_a_queue_is_an_error_of_the_crate() {
        fn empty() -> Result<u8, Error> {
            Ok(SimpleQueue::new().get_nowait()?)
        }
        assert!(matches!(empty(), Err(Error::Empty)));
    }

    #[test]
    fn a_get_that_gives_up_while_an_item_comes_has_it_or_leaves_it() {
        fn put_at_times(queue: SimpleQueue<u32>, go: Semaphore, rounds: u32) {
            for round in 0..rounds {
                go.acquire();
                queue.put(round).unwrap();
            }
        }
        watched(|| {
            let (queue, go) = (SimpleQueue::new(), Semaphore::new(0));
            let team = Team::new(1, |_| task!(put_at_times(queue.clone(), go.clone(), 500)));
            let mut patience = Duration::from_micros(50);
            for round in 0..500 {
                go.release().unwrap();
                match queue.get_timeout(patience) {
                    Ok(item) => {
                        assert_eq!(item, round);
                        patience = patience.saturating_sub(Duration::from_micros(2));
                    }
                    Err(_) => {
                        patience += Duration::from_micros(2);
                        assert_eq!(queue.get().unwrap(), round);
                    }
                }
                assert!(queue.empty());
            }
            assert_eq!(team.results(), [()]);
        });
    }

    #[test]
    fn a_pending_get_is_woken_by_a_put() {
        watched(|| {
            let (queue, other) = (SimpleQueue::new(), Other::new());
            let mut get = Hand::waiting(queue.get_async());
            assert!(get.poll().is_pending() && !get.woken());
            other.run(task!(put_all(queue.clone(), vec![7])));
            get.wait_woken();
            assert_eq!(get.ready().unwrap(), 7);
        });
    }

    #[test]
    fn a_get_that_is_dropped_takes_nothing() {
        watched(|| {
            for way in Way::ALL {
                let (queue, other) = (SimpleQueue::new(), Other::new());
                drop(Hand::waiting(queue.get_async()));
                other.run(task!(put_all(queue.clone(), vec![1])));
                assert_eq!(queue.get().unwrap(), 1);
                let dropped = Hand::waiting(queue.get_async());
                let team = Team::new(1, |_| task!(get_some(way, queue.clone(), 1)));
                other.run(task!(put_all(queue.clone(), vec![2])));
                drop(dropped);
                assert_eq!(team.results(), [[2]]);
                let mut gets: Vec<_> = (0..3).map(|_| Hand::waiting(queue.get_async())).collect();
                let woken = |gets: &[Hand<_>]| {
                    eventually("one is woken", || gets.iter().any(Hand::woken));
                    gets.iter().position(Hand::woken).unwrap()
                };
                other.run(task!(put_all(queue.clone(), vec![3])));
                let chosen = woken(&gets);
                drop(gets.remove(chosen));
                let chosen = woken(&gets);
                assert_eq!(gets[chosen].ready().unwrap(), 3);
                assert!(queue.empty());
            }
        });
    }

    #[test]
    fn a_get_that_nobody_polls_stops_nobody_else() {
        watched(|| {
            let (queue, other) = (SimpleQueue::new(), Other::new());
            let mut left = Hand::waiting(queue.get_async());
            let team = Team::new(2, |n| task!(get_some(Way::ALL[2 * n], queue.clone(), 1)));
            other.run(task!(put_all(queue.clone(), vec![1, 2, 3])));
            let mut got = team.results().concat();
            got.sort();
            assert_eq!(got, [1, 2]);
            left.wait_woken();
            assert_eq!(left.ready().unwrap(), 3);
        });
    }

    #[test]
    fn gets_are_served_first_come_first_served() {
        watched(|| {
            for queue in [SimpleQueue::new(), known(SimpleQueue::new())] {
                let mut gets: Vec<_> = (0..3).map(|_| Hand::waiting(queue.get_async())).collect();
                for n in 0..3 {
                    queue.put(n).unwrap();
                    let mut first = gets.remove(0);
                    first.wait_woken();
                    assert!(!gets.iter().any(Hand::woken));
                    assert_eq!(first.ready().unwrap(), n);
                }
            }
        });
    }

    #[test]
    fn only_the_last_waker_is_woken() {
        watched(|| {
            let queue = SimpleQueue::new();
            let mut get = Hand::new(queue.get_async());
            let (first, last) = (Wakes::new(), Wakes::new());
            for wakes in [&first, &first, &last] {
                assert!(get.poll_with(&Waker::from(Arc::clone(wakes))).is_pending());
            }
            Other::new().run(task!(put_all(queue.clone(), vec![7])));
            eventually("the last waker is woken", || last.count() > 0);
            assert_eq!((first.count(), last.count()), (0, 1));
            assert_eq!(get.ready().unwrap(), 7);
        });
    }

    #[test]
    fn a_waker_may_use_the_queue() {
        watched(|| {
            let (queue, other) = (known(SimpleQueue::new()), Other::new());
            let meddled = queue.clone();
            let putting = Meddling::new(move || meddled.put(100).unwrap());
            let mut get = Hand::new(queue.get_async());
            assert!(get.poll_with(&Waker::from(Arc::clone(&putting))).is_pending());
            other.run(task!(put_all(queue.clone(), vec![1])));
            eventually("woken", || putting.count() > 0);
            assert_eq!(get.ready().unwrap(), 1);
            drop(get);
            drop(putting);
            assert_eq!(get_some(Way::Async, queue.clone(), 2), [100, 100]);
            assert!(queue.empty());
        });
    }

    #[test]
    fn a_wait_keeps_its_queue_alive() {
        watched(|| {
            let queue = SimpleQueue::new();
            let own = queue.clone();
            let mut get = Hand::waiting(async move { own.get_async().await }.boxed());
            Other::new().run(task!(put_all(queue, vec![7])));
            get.wait_woken();
            assert_eq!(get.ready().unwrap(), 7);
        });
    }

    #[test]
    fn a_thousand_waits_need_no_thread_each() {
        watched(|| {
            let queue = known(SimpleQueue::new());
            current_thread().block_on(async {
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
                    let items: Vec<u32> = (0..500).collect();
                    let team = Team::new(1, |_| task!(put_all(queue.clone(), items.clone())));
                    interval.tick().await;
                    team
                };
                let (got, team) = tokio::join!(gets, ticks);
                let mut got: Vec<u32> = got.into_iter().map(Result::unwrap).collect();
                got.sort();
                assert!(got.into_iter().eq(0..500));
                assert_eq!(team.results(), [()]);
            });
            assert!(queue.empty());
        });
    }

    #[test]
    fn gets_left_at_random_lose_nothing() {
        fn produce(queue: SimpleQueue<(u32, ByteBuf)>, number: u32) {
            for n in 0..number {
                let size = if n % 100 == 0 { 200 << 10 } else { 10 };
                queue.put((n, ByteBuf::from(vec![n as u8; size]))).unwrap();
            }
        }
        watched(|| {
            const NUMBER: u32 = 5000;
            let (queue, mut random) = (SimpleQueue::new(), Random::new());
            let team = Team::new(1, |_| task!(produce(queue.clone(), NUMBER)));
            let mut expected = 0;
            while expected < NUMBER {
                let mut get = Hand::new(queue.get_async());
                for _ in 0..random.below(5) {
                    if let Poll::Ready(item) = get.poll() {
                        let (n, bytes) = item.unwrap();
                        assert_eq!(n, expected);
                        assert!(is_all(&bytes, n as u8));
                        expected += 1;
                        break;
                    }
                    spin_until(Instant::now() + Duration::from_micros(random.below(20) as u64));
                }
            }
            assert_eq!(team.results(), [()]);
            assert!(queue.empty());
        });
    }

    #[test]
    fn a_queue_says_how_full_it_is() {
        watched(|| {
            for queue in [SimpleQueue::new(), known(SimpleQueue::new())] {
                put_all(queue.clone(), vec![1, 2, 3]);
                let text = format!("{queue:?}");
                assert!(text.contains("SimpleQueue") && text.contains('3'), "{text}");
            }
        });
    }

    #[test]
    fn the_queue_keeps_nothing_of_an_item() {
        watched(|| {
            let queue = SimpleQueue::new();
            let item = Arc::new(7);
            for n in 0..3 {
                queue.put(Arc::clone(&item)).unwrap();
                assert_eq!(Arc::strong_count(&item), 2, "{n}");
                drop(queue.get().unwrap());
                assert_eq!(Arc::strong_count(&item), 1, "{n}");
            }
            queue.put(Arc::clone(&item)).unwrap();
            drop(queue);
            assert_eq!(Arc::strong_count(&item), 1);
        });
    }

    #[test]
    fn an_item_whose_end_uses_the_queue_does_no_harm() {
        /// Puts a successor into the queue it comes from, when it is dropped.
        struct Reentrant {
            queue: SimpleQueue<Reentrant>,
            left: u32,
            /// Its place among all that are put.
            number: usize,
            puts: Arc<AtomicUsize>,
        }
        impl Reentrant {
            fn put(queue: &SimpleQueue<Reentrant>, left: u32, puts: &Arc<AtomicUsize>) {
                let item = Reentrant {
                    queue: queue.clone(),
                    left,
                    number: puts.fetch_add(1, Ordering::Relaxed),
                    puts: Arc::clone(puts),
                };
                queue.put(item).unwrap_or_else(|_| panic!("no put"));
            }
        }
        impl Drop for Reentrant {
            fn drop(&mut self) {
                if self.left > 0 {
                    Reentrant::put(&self.queue, self.left - 1, &self.puts);
                }
            }
        }
        watched(|| {
            let (queue, puts) = (SimpleQueue::new(), Arc::default());
            let mut taken = 0;
            for n in 0..100 {
                Reentrant::put(&queue, 3, &puts);
                if n % 2 == 1 {
                    let item = queue.get().unwrap_or_else(|_| panic!("no get"));
                    assert_eq!(item.number, taken);
                    taken += 1;
                }
            }
            // In order, those that the ends of others put too.
            while let Ok(item) = queue.get_nowait() {
                assert_eq!(item.number, taken);
                taken += 1;
            }
            assert_eq!(taken, 100 * 4);
        });
    }

    #[test]
    fn items_whose_ends_use_the_queue_keep_the_order_of_each_thread() {
        const THREADS: usize = 4;
        const ITEMS: u32 = 500;
        thread_local! {
            /// The number of the thread, and how many items it has put.
            static HERE: Cell<(usize, u32)> = const { Cell::new((0, 0)) };
        }
        /// Puts a successor, which is of the thread where it is dropped.
        struct Reentrant {
            queue: SimpleQueue<Reentrant>,
            left: u32,
            thread: usize,
            number: u32,
        }
        impl Reentrant {
            fn put(queue: &SimpleQueue<Reentrant>, left: u32) {
                let (thread, number) = HERE.get();
                HERE.set((thread, number + 1));
                let item = Reentrant { queue: queue.clone(), left, thread, number };
                queue.put(item).unwrap_or_else(|_| panic!("no put"));
            }
        }
        impl Drop for Reentrant {
            fn drop(&mut self) {
                if self.left > 0 {
                    Reentrant::put(&self.queue, self.left - 1);
                }
            }
        }
        watched(|| {
            let queue = SimpleQueue::<Reentrant>::new();
            let taken = AtomicUsize::new(0);
            let all = THREADS * ITEMS as usize * 3;
            thread::scope(|scope| {
                for thread in 0..THREADS {
                    let (queue, taken) = (&queue, &taken);
                    scope.spawn(move || {
                        HERE.set((thread, 0));
                        // What is taken here comes in the order in which each thread has put it.
                        let mut next = [0; THREADS];
                        let mut take = || {
                            if let Ok(item) = queue.get_nowait() {
                                assert!(item.number >= next[item.thread], "out of order");
                                next[item.thread] = item.number + 1;
                                drop(item);
                                taken.fetch_add(1, Ordering::SeqCst);
                            }
                        };
                        for _ in 0..ITEMS {
                            Reentrant::put(queue, 2);
                            take();
                        }
                        while taken.load(Ordering::SeqCst) < all {
                            take();
                        }
                    });
                }
            });
            assert!(queue.empty());
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
            let queue = SimpleQueue::new();
            for _ in 0..3 {
                queue.put(Grenade).unwrap_or_else(|_| panic!("no put"));
                let item = queue.get().unwrap_or_else(|_| panic!("no get"));
                assert!(catch_unwind(AssertUnwindSafe(|| drop(item))).is_err());
            }
            assert!(queue.empty());
        });
    }
}

/// The numbers of all items that another process takes out of the queue.
fn taken_elsewhere<T: Portable>(
    executor: &WorkerPoolExecutor,
    queue: &SimpleQueue<T>,
    number: fn(&T) -> u32,
) -> Vec<u32> {
    fn take_all<T: Portable>(queue: SimpleQueue<T>) -> Vec<T> {
        std::iter::from_fn(|| queue.get_nowait().ok()).collect()
    }
    let taken = executor.submit(task!(take_all(queue.clone()))).result();
    taken.unwrap().iter().map(number).collect()
}

/// Panics when it is dropped, which what another process gets, or a queue has kept, does not.
#[derive(Debug, Serialize, Deserialize)]
struct Grenade {
    number: u32,
    #[serde(skip)]
    is_live: bool,
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
fn put_live(queue: &SimpleQueue<Grenade>, number: u32) {
    let is_live = true;
    assert!(queue.put(Grenade { number, is_live }).is_ok());
}

#[test]
fn an_item_that_panics_as_it_is_dropped_does_a_shared_queue_no_harm() {
    watched(|| {
        let executor = common::processes(1);
        for is_shared_before in [true, false] {
            let queue = SimpleQueue::new();
            let taken = || taken_elsewhere(&executor, &queue, |item: &Grenade| item.number);
            if is_shared_before {
                assert!(taken().is_empty());
            }
            put_live(&queue, 1);
            if !is_shared_before {
                // The items move.
                put_live(&queue, 2);
                let sent = executor.submit(task!(nothing(queue.clone())));
                sent.result().unwrap();
                assert_eq!(queue.qsize(), 2);
                assert_eq!(queue.get().unwrap().number, 1);
            }
            let waiting = queue.clone();
            assert_eq!(taken(), [1 + u32::from(!is_shared_before)]);
            let mut get = Hand::waiting(waiting.get_async());
            put_live(&queue, 2);
            get.wait_woken();
            assert_eq!(get.ready().unwrap().number, 2);
            put_live(&queue, 3);
            put_live(&queue, 4);
            assert_eq!(taken(), [3, 4]);
            assert!(queue.empty());
        }
    });
}

/// An item that is encoded is dropped then; its end may use the queue.
#[test]
fn an_item_whose_end_uses_a_shared_queue_does_no_harm() {
    #[derive(Serialize, Deserialize)]
    struct Reentrant {
        #[serde(skip)]
        queue: Option<SimpleQueue<Reentrant>>,
        left: u32,
    }
    impl Drop for Reentrant {
        fn drop(&mut self) {
            if let (Some(queue), 1..) = (self.queue.take(), self.left) {
                let next = Reentrant {
                    queue: Some(queue.clone()),
                    left: self.left - 1,
                };
                queue.put(next).unwrap_or_else(|_| panic!("no put"));
            }
        }
    }
    watched(|| {
        let executor = common::processes(1);
        for is_shared_before in [true, false] {
            let queue = SimpleQueue::new();
            let taken = || taken_elsewhere(&executor, &queue, |item: &Reentrant| item.left);
            if is_shared_before {
                assert!(taken().is_empty());
            }
            let item = Reentrant {
                queue: Some(queue.clone()),
                left: 3,
            };
            queue.put(item).unwrap_or_else(|_| panic!("no put"));
            assert_eq!(taken(), [3, 2, 1, 0]);
            assert!(queue.empty());
        }
    });
}

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
        match self {
            Fragile::Sound(n) => n.serialize(serializer),
            Fragile::RefusesToGo => Err(serde::ser::Error::custom("rather not")),
            Fragile::PanicsToGo => panic!("never"),
            Fragile::RefusesToArrive => u32::MAX.serialize(serializer),
            Fragile::PanicsOnArrival => (u32::MAX - 1).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Fragile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u32::deserialize(deserializer)? {
            u32::MAX => Err(serde::de::Error::custom("not here")),
            n if n == u32::MAX - 1 => panic!("what a place"),
            n => Ok(Fragile::Sound(n)),
        }
    }
}
