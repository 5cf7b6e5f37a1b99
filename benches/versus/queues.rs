//! Queues between threads and between tasks.

use std::{
    hint::black_box,
    sync::{Arc, Barrier, mpsc},
    thread,
    time::Instant,
};

use freethreading::{Queue, SimpleQueue};
use tokio::{runtime::Runtime, sync::mpsc as tokio_mpsc};

use crate::{
    contention::{Tally, alone, alone_awaited},
    harness::{Case, Contender, Unit, contender, stay_on},
    threads::multi_thread,
};

/// Where the queue is bounded.
const SIZE: usize = 1024;

/// The same where the ends wait for each other again and again.
const FEW: usize = 16;

/// The last item, for each that gets.
const END: u64 = u64::MAX;

const OPEN: &str = "both ends stay open";

pub fn cases() -> Vec<Case> {
    let unit = Unit::MegaPerSecond;
    vec![
        Unit::Nanos.case("Queue, put + get, uncontended", 2, uncontended),
        Unit::Nanos.case(
            "Queue, put + get, uncontended, awaited",
            2,
            uncontended_awaited,
        ),
        unit.case("Queue(1024), 1-1 threads", 2, || bounded(SIZE, 1, 1)),
        unit.case("Queue(1024), 2-2 threads", 2, || bounded(SIZE, 2, 2)),
        unit.case("Queue(1024), 4-4 threads", 2, || bounded(SIZE, 4, 4)),
        unit.case("Queue(1024), 4-1 threads", 2, || bounded(SIZE, 4, 1)),
        unit.case("Queue(16), 1-1 threads", 2, || bounded(FEW, 1, 1)),
        unit.case("Queue(16), 4-4 threads", 2, || bounded(FEW, 4, 4)),
        unit.case("Queue, 1-1 threads", 2, || unbounded(1, 1)),
        unit.case("Queue, 2-2 threads", 2, || unbounded(2, 2)),
        unit.case("Queue, 4-4 threads", 2, || unbounded(4, 4)),
        unit.case("Queue, 4-1 threads", 2, || unbounded(4, 1)),
        Unit::Micros.case("Queue, there and back, 2 threads", 2, there_and_back),
        unit.case("Queue(1024), 1-1 tasks", 2, || bounded_tasks(SIZE, 1, 1)),
        unit.case("Queue(1024), 4-4 tasks", 2, || bounded_tasks(SIZE, 4, 4)),
        unit.case("Queue(1024), 4-1 tasks", 2, || bounded_tasks(SIZE, 4, 1)),
        unit.case("Queue(16), 4-4 tasks", 2, || bounded_tasks(FEW, 4, 4)),
        unit.case("Queue, 1-1 tasks", 2, || unbounded_tasks(1, 1)),
        unit.case("Queue, 4-4 tasks", 2, || unbounded_tasks(4, 4)),
        unit.case("Queue, 4-1 tasks", 2, || unbounded_tasks(4, 1)),
    ]
}

trait Put: Clone + Send {
    fn put_item(&self, item: u64);
}

trait Get: Send {
    fn get_item(&mut self) -> u64;
}

trait AsyncPut: Clone + Send + 'static {
    fn put_item(&self, item: u64) -> impl Future<Output = ()> + Send;
}

trait AsyncGet: Send + 'static {
    fn get_item(&mut self) -> impl Future<Output = u64> + Send;
}

macro_rules! blocking {
    ($($sender:ty, $receiver:ty, $send:ident, $receive:ident;)*) => {$(
        impl Put for $sender {
            fn put_item(&self, item: u64) {
                self.$send(item).expect(OPEN);
            }
        }

        impl Get for $receiver {
            fn get_item(&mut self) -> u64 {
                self.$receive().expect(OPEN)
            }
        }
    )*};
}

macro_rules! awaited {
    ($($sender:ty, $receiver:ty, $send:ident, $receive:ident;)*) => {$(
        impl AsyncPut for $sender {
            async fn put_item(&self, item: u64) {
                self.$send(item).await.expect(OPEN);
            }
        }

        impl AsyncGet for $receiver {
            async fn get_item(&mut self) -> u64 {
                self.$receive().await.expect(OPEN)
            }
        }
    )*};
}

blocking! {
    Queue<u64>, Queue<u64>, put, get;
    SimpleQueue<u64>, SimpleQueue<u64>, put, get;
    async_channel::Sender<u64>, async_channel::Receiver<u64>, send_blocking, recv_blocking;
    crossbeam_channel::Sender<u64>, crossbeam_channel::Receiver<u64>, send, recv;
    flume::Sender<u64>, flume::Receiver<u64>, send, recv;
    kanal::Sender<u64>, kanal::Receiver<u64>, send, recv;
    mpsc::SyncSender<u64>, mpsc::Receiver<u64>, send, recv;
}

impl AsyncPut for SimpleQueue<u64> {
    async fn put_item(&self, item: u64) {
        self.put(item).expect(OPEN);
    }
}

impl AsyncGet for SimpleQueue<u64> {
    async fn get_item(&mut self) -> u64 {
        self.get_async().await.expect(OPEN)
    }
}

impl Put for mpsc::Sender<u64> {
    fn put_item(&self, item: u64) {
        self.send(item).expect(OPEN);
    }
}

awaited! {
    Queue<u64>, Queue<u64>, put_async, get_async;
    async_channel::Sender<u64>, async_channel::Receiver<u64>, send, recv;
    flume::Sender<u64>, flume::Receiver<u64>, send_async, recv_async;
    kanal::AsyncSender<u64>, kanal::AsyncReceiver<u64>, send, recv;
    tokio_mpsc::Sender<u64>, tokio_mpsc::Receiver<u64>, send, recv;
}

impl AsyncPut for tokio_mpsc::UnboundedSender<u64> {
    async fn put_item(&self, item: u64) {
        self.send(item).expect(OPEN);
    }
}

impl AsyncGet for tokio_mpsc::UnboundedReceiver<u64> {
    async fn get_item(&mut self) -> u64 {
        self.recv().await.expect(OPEN)
    }
}

/// The handles of those that put and of those that get.
struct Ends<P, G>(Vec<P>, Vec<G>);

/// Ends of a queue that has many.
fn many<P: Clone, G: Clone>(putting: usize, getting: usize, (put, get): (P, G)) -> Ends<P, G> {
    Ends(vec![put; putting], vec![get; getting])
}

/// Ours has no ends.
fn ours<Q: Clone>(putting: usize, getting: usize, queue: Q) -> Ends<Q, Q> {
    many(putting, getting, (queue.clone(), queue))
}

/// Ends of a queue that has one consumer.
fn sole<P: Clone, G>(putting: usize, (put, get): (P, G)) -> Ends<P, G> {
    Ends(vec![put; putting], vec![get])
}

/// Millions of items per second; those that put are on one core, those that get on the other.
fn threads<P: Put, G: Get>(
    name: &'static str,
    new: impl Fn() -> Ends<P, G> + 'static,
) -> Contender {
    contender(name, move || {
        let Ends(putting, getting) = new();
        let (last, consumers) = (putting[0].clone(), getting.len());
        let (begin, tally) = (
            Barrier::new(putting.len() + consumers + 1),
            Tally::default(),
        );
        let (begin, tally) = (&begin, &tally);
        thread::scope(|scope| {
            let put = |end: P| {
                scope.spawn(move || {
                    stay_on(0);
                    begin.wait();
                    let mut turn = tally.enter();
                    while turn.goes_on() {
                        end.put_item(7);
                    }
                })
            };
            let producers: Vec<_> = putting.into_iter().map(put).collect();
            for mut end in getting {
                scope.spawn(move || {
                    stay_on(1);
                    begin.wait();
                    let _turn = tally.accompany();
                    while end.get_item() != END {}
                });
            }
            begin.wait();
            tally.run();
            for producer in producers {
                producer.join().expect("samples do not panic");
            }
            (0..consumers).for_each(|_| last.put_item(END));
        });
        tally.rate()
    })
}

/// Microseconds for one item there and back; each thread has a core.
fn round_trip<P: Put, G: Get>(name: &'static str, new: impl Fn() -> (P, G) + 'static) -> Contender {
    const ROUNDS: u32 = 2000;

    contender(name, move || {
        let ((put, mut far_end), (send_back, mut get)) = (new(), new());
        thread::scope(|scope| {
            scope.spawn(move || {
                stay_on(1);
                let mut item = 0;
                while item != END {
                    item = far_end.get_item();
                    send_back.put_item(item);
                }
            });
            let rounds = scope.spawn(move || {
                stay_on(0);
                let start = Instant::now();
                for _ in 0..ROUNDS {
                    put.put_item(7);
                    get.get_item();
                }
                let taken = start.elapsed();
                put.put_item(END);
                get.get_item();
                taken.as_secs_f64() * 1e6 / f64::from(ROUNDS)
            });
            rounds.join().expect("samples do not panic")
        })
    })
}

/// The same between tasks on 2 workers.
fn tasks<P: AsyncPut, G: AsyncGet>(
    name: &'static str,
    runtime: &Arc<Runtime>,
    new: impl Fn() -> Ends<P, G> + 'static,
) -> Contender {
    let runtime = Arc::clone(runtime);
    contender(name, move || {
        let Ends(putting, getting) = new();
        let last = putting[0].clone();
        let tally = Arc::new(Tally::default());
        let put = |end: P| {
            let tally = Arc::clone(&tally);
            runtime.spawn(async move {
                let mut turn = tally.enter();
                while turn.goes_on() {
                    end.put_item(7).await;
                }
            })
        };
        let producers: Vec<_> = putting.into_iter().map(put).collect();
        let get = |mut end: G| {
            let tally = Arc::clone(&tally);
            runtime.spawn(async move {
                let _turn = tally.accompany();
                while end.get_item().await != END {}
            })
        };
        let consumers: Vec<_> = getting.into_iter().map(get).collect();
        tally.run();
        runtime.block_on(async {
            for producer in producers {
                producer.await.expect("samples do not panic");
            }
            for _ in &consumers {
                last.put_item(END).await;
            }
            for consumer in consumers {
                consumer.await.expect("samples do not panic");
            }
        });
        tally.rate()
    })
}

/// One item in and out again.
fn both<P: Put + 'static, G: Get + 'static>(
    name: &'static str,
    (put, mut get): (P, G),
) -> Contender {
    alone(name, move || {
        put.put_item(7);
        black_box(get.get_item());
    })
}

fn both_awaited<P: AsyncPut, G: AsyncGet>(name: &'static str, (put, mut get): (P, G)) -> Contender {
    alone_awaited(name, async move || {
        put.put_item(7).await;
        black_box(get.get_item().await);
    })
}

fn uncontended() -> Vec<Contender> {
    let [queue, bounded] = [Queue::new(0), Queue::new(SIZE)];
    let simple = SimpleQueue::new();
    vec![
        both("ours", (queue.clone(), queue)),
        both("ours, bounded", (bounded.clone(), bounded)),
        both("ours, SimpleQueue", (simple.clone(), simple)),
        both("async-channel", async_channel::unbounded()),
        both("crossbeam-channel", crossbeam_channel::unbounded()),
        both("flume", flume::unbounded()),
        both("kanal", kanal::unbounded()),
        both("std mpsc", mpsc::channel()),
    ]
}

fn uncontended_awaited() -> Vec<Contender> {
    let [queue, bounded] = [Queue::new(0), Queue::new(SIZE)];
    let simple = SimpleQueue::new();
    vec![
        both_awaited("ours", (queue.clone(), queue)),
        both_awaited("ours, bounded", (bounded.clone(), bounded)),
        both_awaited("ours, SimpleQueue", (simple.clone(), simple)),
        both_awaited("async-channel", async_channel::unbounded()),
        both_awaited("flume", flume::unbounded()),
        both_awaited("kanal", kanal::unbounded_async()),
        both_awaited("tokio mpsc", tokio_mpsc::unbounded_channel()),
    ]
}

fn there_and_back() -> Vec<Contender> {
    vec![
        round_trip("ours", || {
            let queue = Queue::new(0);
            (queue.clone(), queue)
        }),
        round_trip("async-channel", async_channel::unbounded),
        round_trip("crossbeam-channel", crossbeam_channel::unbounded),
        round_trip("flume", flume::unbounded),
        round_trip("kanal", kanal::unbounded),
        round_trip("std mpsc", mpsc::channel),
    ]
}

fn bounded(size: usize, p: usize, c: usize) -> Vec<Contender> {
    let mut contenders = vec![
        threads("ours", move || ours(p, c, Queue::new(size))),
        threads("async-channel", move || {
            many(p, c, async_channel::bounded(size))
        }),
        threads("crossbeam-channel", move || {
            many(p, c, crossbeam_channel::bounded(size))
        }),
        threads("flume", move || many(p, c, flume::bounded(size))),
        threads("kanal", move || many(p, c, kanal::bounded(size))),
    ];
    if c == 1 {
        contenders.push(threads("std mpsc", move || {
            sole(p, mpsc::sync_channel(size))
        }));
    }
    contenders
}

fn unbounded(p: usize, c: usize) -> Vec<Contender> {
    let mut contenders = vec![
        threads("ours", move || ours(p, c, Queue::new(0))),
        threads("ours, SimpleQueue", move || ours(p, c, SimpleQueue::new())),
        threads("async-channel", move || {
            many(p, c, async_channel::unbounded())
        }),
        threads("crossbeam-channel", move || {
            many(p, c, crossbeam_channel::unbounded())
        }),
        threads("flume", move || many(p, c, flume::unbounded())),
        threads("kanal", move || many(p, c, kanal::unbounded())),
    ];
    if c == 1 {
        contenders.push(threads("std mpsc", move || sole(p, mpsc::channel())));
    }
    contenders
}

fn bounded_tasks(size: usize, p: usize, c: usize) -> Vec<Contender> {
    let on = Arc::new(multi_thread());
    let mut contenders = vec![
        tasks("ours", &on, move || ours(p, c, Queue::new(size))),
        tasks("async-channel", &on, move || {
            many(p, c, async_channel::bounded(size))
        }),
        tasks("flume", &on, move || many(p, c, flume::bounded(size))),
        tasks("kanal", &on, move || many(p, c, kanal::bounded_async(size))),
    ];
    if c == 1 {
        contenders.push(tasks("tokio mpsc", &on, move || {
            sole(p, tokio_mpsc::channel(size))
        }));
    }
    contenders
}

fn unbounded_tasks(p: usize, c: usize) -> Vec<Contender> {
    let on = Arc::new(multi_thread());
    let mut contenders = vec![
        tasks("ours", &on, move || ours(p, c, Queue::new(0))),
        tasks("ours, SimpleQueue", &on, move || {
            ours(p, c, SimpleQueue::new())
        }),
        tasks("async-channel", &on, move || {
            many(p, c, async_channel::unbounded())
        }),
        tasks("flume", &on, move || many(p, c, flume::unbounded())),
        tasks("kanal", &on, move || many(p, c, kanal::unbounded_async())),
    ];
    if c == 1 {
        contenders.push(tasks("tokio mpsc", &on, move || {
            sole(p, tokio_mpsc::unbounded_channel())
        }));
    }
    contenders
}
