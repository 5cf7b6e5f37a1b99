//! Objects that this process shares with a worker process.

use std::{hint::black_box, mem::forget, sync::Arc};

use freethreading::{Event, Lock, Portable, Queue, RLock, Semaphore, task};
use futures::executor::block_on;
use ipc_channel::ipc::{self, IpcOneShotServer, IpcSender};

use crate::{
    board::{Item, Mapping, Order, times},
    child::{BOARD, PONG, Peer},
    contention::{alone, alone_awaited},
    harness::{Case, Clock, Contender, Size, Unit, contender, micros, seconds},
    processes::executor,
};

/// Round trips in one sample: a few milliseconds.
const TRIPS: Size<u32> = Size::new(500, 100);

/// Items in one sample.
const ITEMS: Size<u32> = Size::new(20_000, 10_000);

const HELD: &str = "it is held";

pub fn cases() -> Vec<Case> {
    use Unit::{MegaPerSecond, Micros, Nanos};
    vec![
        Nanos.case("Lock shared with a process", 2, lock),
        Nanos.case("RLock shared with a process", 2, rlock),
        Nanos.case("Semaphore shared with a process", 2, semaphore),
        MegaPerSecond.case("Lock, 2 processes", 2, lock_contended),
        MegaPerSecond.case("Semaphore, 2 processes", 2, semaphore_contended),
        Micros.case("Event, 2 processes", 1, event),
        Micros.case("Event, 2 processes, free placement", 2, event),
        Micros.case("Event, 2 processes, awaited", 1, event_awaited),
        Nanos.case("Queue shared with a process, put + get", 2, both),
        MegaPerSecond.case("Queue to a process, 64-byte items", 2, || queue(0)),
        MegaPerSecond.case("Queue(1024) to a process, 64-byte items", 2, || queue(1024)),
        MegaPerSecond.case(
            "Queue to a process, 64-byte items, awaited",
            2,
            queue_awaited,
        ),
    ]
}

/// Lets a worker process have the object too, and keep it, as long as this process lives.
fn share<T: Portable>(object: T) {
    let executor = executor(1);
    let kept = executor.submit(task!(forget(object)));
    kept.result().expect("it works");
    forget(executor);
}

/// A board, and the peers' child that looks at it.
fn peer() -> (Mapping, Peer) {
    let board = Mapping::new();
    let peer = Peer::start(&format!("{BOARD}{}", board.path()));
    (board, peer)
}

fn lock() -> Vec<Contender> {
    let [raw, guarded, awaited] = [(); 3].map(|()| Lock::new());
    share((raw.clone(), guarded.clone(), awaited.clone()));
    let board = Arc::new(Mapping::new());
    let [for_mutex, for_robust, for_futex] = [(); 3].map(|()| Arc::clone(&board));
    vec![
        alone("ours", move || raw.take()),
        alone("ours, guard", move || drop(guarded.lock())),
        alone_awaited("ours, awaited", async move || {
            awaited.acquire_async().await;
            awaited.release().expect(HELD);
        }),
        alone("pthread mutex, process-shared", move || {
            for_mutex.mutex.0.lock();
            for_mutex.mutex.0.unlock();
        }),
        alone("pthread mutex, process-shared, robust", move || {
            for_robust.robust.0.lock();
            for_robust.robust.0.unlock();
        }),
        alone("futex mutex", move || {
            for_futex.futex.0.lock();
            for_futex.futex.0.unlock();
        }),
    ]
}

fn rlock() -> Vec<Contender> {
    let [raw, awaited] = [RLock::new(), RLock::new()];
    share((raw.clone(), awaited.clone()));
    let board = Mapping::new();
    vec![
        alone("ours", move || {
            raw.acquire();
            raw.release().expect(HELD);
        }),
        alone_awaited("ours, awaited", async move || {
            awaited.acquire_async().await;
            awaited.release().expect(HELD);
        }),
        alone(
            "pthread mutex, process-shared, robust, recursive",
            move || {
                board.recursive.0.lock();
                board.recursive.0.unlock();
            },
        ),
    ]
}

fn semaphore() -> Vec<Contender> {
    let [raw, awaited] = [Semaphore::new(1), Semaphore::new(1)];
    share((raw.clone(), awaited.clone()));
    let board = Mapping::new();
    vec![
        alone("ours", move || raw.take()),
        alone_awaited("ours, awaited", async move || {
            awaited.acquire_async().await;
            awaited.release().expect(HELD);
        }),
        alone("POSIX sem_t, process-shared", move || {
            board.sem.0.wait();
            board.sem.0.post();
        }),
    ]
}

/// What two processes contend for.
trait Turn: Portable + Clone {
    /// Acquires and releases it.
    fn take(&self);
}

impl Turn for Lock {
    #[inline]
    fn take(&self) {
        self.acquire();
        self.release().expect(HELD);
    }
}

impl Turn for Semaphore {
    #[inline]
    fn take(&self) {
        self.acquire();
        self.release().expect(HELD);
    }
}

fn take_turns<T: Turn>(object: T, board: String) -> u64 {
    Mapping::open(&board).as_other(|| object.take())
}

fn contended<T: Turn>(object: T) -> Contender {
    let (executor, board) = (executor(1), Mapping::new());
    contender("ours", move || {
        board.with_other(
            || object.take(),
            || {
                let future = executor.submit(task!(take_turns(object.clone(), board.path())));
                move || future.result().expect("it works")
            },
        )
    })
}

/// The same of a peer; the order is for the other process.
fn contended_peer(
    name: &'static str,
    order: Order,
    take: impl Fn(&Mapping) + 'static,
) -> Contender {
    let (board, mut peer) = peer();
    contender(name, move || {
        let (peer, order) = (&mut peer, &order);
        board.with_other(
            || take(&board),
            move || {
                peer.send(order);
                move || peer.receive()
            },
        )
    })
}

fn lock_contended() -> Vec<Contender> {
    vec![
        contended(Lock::new()),
        contended_peer("pthread mutex, process-shared", Order::Mutex, |board| {
            board.mutex.0.lock();
            board.mutex.0.unlock();
        }),
        contended_peer(
            "pthread mutex, process-shared, robust",
            Order::Robust,
            |board| {
                board.robust.0.lock();
                board.robust.0.unlock();
            },
        ),
        contended_peer("futex mutex", Order::Futex, |board| {
            board.futex.0.lock();
            board.futex.0.unlock();
        }),
    ]
}

fn semaphore_contended() -> Vec<Contender> {
    vec![
        contended(Semaphore::new(1)),
        contended_peer("POSIX sem_t, process-shared", Order::Sem, |board| {
            board.sem.0.wait();
            board.sem.0.post();
        }),
    ]
}

fn pong(ping: Event, pong: Event, trips: u32) {
    for _ in 0..trips {
        ping.wait();
        ping.clear();
        pong.set();
    }
}

fn pong_awaited(ping: Event, pong: Event, trips: u32) {
    block_on(async {
        for _ in 0..trips {
            ping.wait_async().await;
            ping.clear();
            pong.set();
        }
    });
}

/// Round trips of a peer; the order is for the other process.
fn trips(
    name: &'static str,
    order: fn(u32) -> Order,
    trip: impl Fn(&Mapping) + 'static,
) -> Contender {
    let (board, mut peer) = peer();
    contender(name, move || {
        peer.send(order(TRIPS.get() + 1));
        trip(&board); // The other has begun.
        let micros = micros(TRIPS.get(), || trip(&board));
        peer.receive::<u64>();
        micros
    })
}

fn event() -> Vec<Contender> {
    let (executor, there, back) = (executor(1), Event::new(), Event::new());
    let mut pipes = Peer::start(PONG);
    vec![
        contender("ours", move || {
            let other = executor.submit(task!(pong(there.clone(), back.clone(), TRIPS.get() + 1)));
            let trip = || {
                there.set();
                back.wait();
                back.clear();
            };
            trip(); // The other has begun.
            let micros = micros(TRIPS.get(), trip);
            other.result().expect("it works");
            micros
        }),
        trips("POSIX sem_t, process-shared", Order::PongSems, |board| {
            board.sems[0].0.post();
            board.sems[1].0.wait();
        }),
        contender("raw pipes", move || micros(TRIPS.get(), || pipes.ping())),
        futex_trips(),
    ]
}

fn futex_trips() -> Contender {
    trips("futex (limit)", Order::PongFlags, |board| {
        board.flags[0].0.set();
        board.flags[1].0.take();
    })
}

fn event_awaited() -> Vec<Contender> {
    let (executor, there, back) = (executor(1), Event::new(), Event::new());
    vec![
        contender("ours", move || {
            let other = task!(pong_awaited(there.clone(), back.clone(), TRIPS.get() + 1));
            let other = executor.submit(other);
            let trip = async || {
                there.set();
                back.wait_async().await;
                back.clear();
            };
            let micros = block_on(async {
                trip().await; // The other has begun.
                let clock = Clock::start();
                for _ in 0..TRIPS.get() {
                    trip().await;
                }
                clock.micros_each(TRIPS.get())
            });
            other.result().expect("it works");
            micros
        }),
        futex_trips(),
    ]
}

fn take_items(queue: Queue<Item>, items: u32) -> u64 {
    times(items, || {
        black_box(queue.get().expect("items can be decoded"));
    })
}

fn take_items_awaited(queue: Queue<Item>, items: u32) {
    block_on(async {
        for _ in 0..items {
            black_box(queue.get_async().await.expect("items can be decoded"));
        }
    });
}

const ITEM: Item = [7; 8];

/// A 64-byte item in and out again, while the other process does nothing.
fn both() -> Vec<Contender> {
    let ours = Queue::new(0);
    share(ours.clone());
    let (sender, receiver) = ipc::channel().expect("channels can be made");
    vec![
        alone("ours", move || {
            ours.put(ITEM).expect("items can be encoded");
            black_box(ours.get().expect("items can be decoded"));
        }),
        alone("ipc-channel", move || {
            sender.send(ITEM).expect("there is a receiver");
            black_box(receiver.recv().expect("there is an item"));
        }),
    ]
}

fn rate(put: impl FnOnce()) -> f64 {
    f64::from(ITEMS.get()) / seconds(put) / 1e6
}

fn queue(size: usize) -> Vec<Contender> {
    let (executor, ours) = (executor(1), Queue::new(size));
    let mut contenders = vec![contender("ours", move || {
        rate(|| {
            let taken = executor.submit(task!(take_items(ours.clone(), ITEMS.get())));
            (0..ITEMS.get()).for_each(|_| ours.put(ITEM).expect("items can be encoded"));
            taken.result().expect("it works");
        })
    })];
    contenders.extend(queue_peers());
    contenders
}

fn queue_awaited() -> Vec<Contender> {
    let (executor, ours) = (executor(1), Queue::new(0));
    let mut contenders = vec![contender("ours", move || {
        rate(|| {
            let taken = executor.submit(task!(take_items_awaited(ours.clone(), ITEMS.get())));
            block_on(async {
                for _ in 0..ITEMS.get() {
                    ours.put_async(ITEM).await.expect("items can be encoded");
                }
            });
            taken.result().expect("it works");
        })
    })];
    contenders.extend(queue_peers());
    contenders
}

fn queue_peers() -> [Contender; 2] {
    let (for_ipc, mut ipc) = peer();
    let (server, name) = IpcOneShotServer::<IpcSender<Item>>::new().expect("servers can be made");
    ipc.send(Order::Connect(name));
    let (_, sender) = server.accept().expect("the child connects");
    ipc.receive::<u64>();
    let (board, mut ring) = peer();
    [
        contender("ipc-channel", move || {
            let _alive = &for_ipc;
            rate(|| {
                ipc.send(Order::TakeIpc(ITEMS.get()));
                (0..ITEMS.get()).for_each(|_| sender.send(ITEM).expect("the child receives"));
                ipc.receive::<u64>();
            })
        }),
        contender("ring of 1024 that spins (limit)", move || {
            rate(|| {
                ring.send(Order::TakeRing(ITEMS.get()));
                (0..ITEMS.get()).for_each(|_| board.ring.put(ITEM));
                ring.receive::<u64>();
            })
        }),
    ]
}
