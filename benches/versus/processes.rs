//! Small tasks on warm worker processes.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use freethreading::{Backend, WorkerPoolExecutor, task};
use tokio::sync::oneshot;

use crate::{
    child::{PONG, Peer, SQUARES},
    harness::{Case, Clock, Contender, Size, Unit, contender, micros, seconds},
    io_thread::IoThread,
    maps::square,
    threads::{current_thread, noop},
};

/// Round trips in one sample: a few milliseconds.
const TRIPS: Size<u32> = Size::new(300, 60);
/// The same for the slowest.
const SLOW_TRIPS: Size<u32> = Size::new(100, 20);

const TASKS: Size<u64> = Size::new(100_000, 20_000);
/// The same for the slowest.
const SLOW_TASKS: Size<u64> = Size::new(1000, 200);

/// How many tasks a caller has under way.
const IN_FLIGHT: usize = 64;

pub fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "process round trip, blocking",
            unit: Unit::Micros,
            cores: 1,
            contenders: round_trip,
        },
        Case {
            name: "process round trip, blocking, free placement",
            unit: Unit::Micros,
            cores: 2,
            contenders: round_trip,
        },
        Case {
            name: "process round trip, awaited",
            unit: Unit::Micros,
            cores: 1,
            contenders: round_trip_awaited,
        },
        Case {
            name: "process map x*x over 100,000, chunks of 1",
            unit: Unit::KiloPerSecond,
            cores: 2,
            contenders: || map(1),
        },
        Case {
            name: "process map x*x over 100,000, chunks of 1000",
            unit: Unit::KiloPerSecond,
            cores: 2,
            contenders: || map(1000),
        },
        Case {
            name: "process tasks, 64 in flight",
            unit: Unit::KiloPerSecond,
            cores: 2,
            contenders: in_flight,
        },
        Case {
            name: "process tasks within limits, 64 in flight",
            unit: Unit::KiloPerSecond,
            cores: 2,
            contenders: within_limits,
        },
    ]
}

pub fn executor(workers: usize) -> WorkerPoolExecutor {
    WorkerPoolExecutor::builder()
        .max_workers(workers)
        .backend(Backend::Multiprocessing)
        .build()
        .expect("`main` has called `init`")
}

fn round_trip() -> Vec<Contender> {
    let executor = executor(1);
    let pool = procspawn::Pool::new(1).expect("processes can be started");
    let mut peer = Peer::start(PONG);
    let (to_io, requests) = mpsc::channel();
    let (to_caller, replies) = mpsc::channel();
    thread::spawn(move || {
        let mut peer = Peer::start(PONG);
        for () in requests {
            peer.ping();
            to_caller.send(()).expect("the caller waits");
        }
    });
    vec![
        contender("ours", move || {
            micros(TRIPS.get(), || {
                executor.submit(noop).result().expect("it works")
            })
        }),
        contender("procspawn Pool", move || {
            micros(SLOW_TRIPS.get(), || {
                pool.spawn((), |()| noop()).join().expect("it works");
            })
        }),
        contender("raw pipes through one I/O thread (limit)", move || {
            micros(TRIPS.get(), || {
                to_io.send(()).expect("the thread waits");
                replies.recv().expect("it works");
            })
        }),
        contender("raw pipes (limit)", move || {
            micros(TRIPS.get(), || peer.ping())
        }),
    ]
}

fn round_trip_awaited() -> Vec<Contender> {
    let runtime = Arc::new(current_thread());
    let (for_ours, for_procspawn, for_pipes) =
        (Arc::clone(&runtime), Arc::clone(&runtime), runtime);
    let executor = executor(1);
    let pool = Arc::new(procspawn::Pool::new(1).expect("processes can be started"));
    let mut peer = Peer::start(PONG);
    let (to_io, requests) = mpsc::channel::<oneshot::Sender<()>>();
    thread::spawn(move || {
        let mut peer = Peer::start(PONG);
        for caller in requests {
            peer.ping();
            caller.send(()).expect("the caller waits");
        }
    });
    vec![
        contender("ours", move || {
            for_ours.block_on(async {
                let clock = Clock::start();
                for _ in 0..TRIPS.get() {
                    executor.submit(noop).await.expect("it works");
                }
                clock.micros_each(TRIPS.get())
            })
        }),
        contender("procspawn Pool in spawn_blocking", move || {
            for_procspawn.block_on(async {
                let clock = Clock::start();
                for _ in 0..SLOW_TRIPS.get() {
                    let pool = Arc::clone(&pool);
                    let call = move || pool.spawn((), |()| noop()).join();
                    let joined = tokio::task::spawn_blocking(call).await;
                    joined.expect("it does not panic").expect("it works");
                }
                clock.micros_each(SLOW_TRIPS.get())
            })
        }),
        contender("raw pipes through one I/O thread (limit)", move || {
            for_pipes.block_on(async {
                let clock = Clock::start();
                for _ in 0..TRIPS.get() {
                    let (sender, receiver) = oneshot::channel();
                    to_io.send(sender).expect("the thread waits");
                    receiver.await.expect("it works");
                }
                clock.micros_each(TRIPS.get())
            })
        }),
        contender("raw pipes, blocking (limit)", move || {
            micros(TRIPS.get(), || peer.ping())
        }),
    ]
}

fn map(chunk: u64) -> Vec<Contender> {
    let rate = |seconds: f64| TASKS.get() as f64 / seconds / 1e3;
    let executor = executor(2);
    let mut peers = [Peer::start_wide(SQUARES), Peer::start_wide(SQUARES)];
    vec![
        contender("ours", move || {
            let mapping = executor.chunksize(chunk as usize);
            rate(seconds(|| {
                mapping
                    .map(square, 0..TASKS.get())
                    .into_vec()
                    .expect("it works")
            }))
        }),
        contender(
            "raw pipes + bincode, a thread per child (limit)",
            move || rate(seconds(|| map_over(&mut peers, chunk))),
        ),
    ]
}

/// An executor with limits to all that can have one, none of which is reached.
fn limited() -> WorkerPoolExecutor {
    WorkerPoolExecutor::builder()
        .max_workers(1)
        .backend(Backend::Multiprocessing)
        .task_timeout(Duration::from_secs(3600))
        .max_pending(1 << 20)
        .max_tasks_per_child(1 << 40)
        .build()
        .expect("`main` has called `init`")
}

/// What it costs that there are limits.
fn within_limits() -> Vec<Contender> {
    vec![
        submitted("ours", limited()),
        submitted("ours, without", executor(1)),
    ]
}

fn submitted(name: &'static str, executor: WorkerPoolExecutor) -> Contender {
    contender(name, move || {
        keep_in_flight(
            TASKS.get(),
            |x| executor.submit(task!(square(x))),
            |future| future.result().expect("it works"),
        )
    })
}

/// A caller who blocks, and takes the results in order.
fn in_flight() -> Vec<Contender> {
    let io_thread = IoThread::start();
    let pool = procspawn::Pool::new(1).expect("processes can be started");
    vec![
        submitted("ours", executor(1)),
        contender("tokio I/O thread, LengthDelimited, bincode", move || {
            let send = |x| io_thread.send(x);
            keep_in_flight(TASKS.get(), send, |()| io_thread.receive())
        }),
        contender("procspawn Pool", move || {
            keep_in_flight(
                SLOW_TASKS.get(),
                |x| pool.spawn(x, square),
                |handle| handle.join().expect("it works"),
            )
        }),
    ]
}

/// Thousands of tasks a second.
fn keep_in_flight<T>(
    tasks: u64,
    mut submit: impl FnMut(u64) -> T,
    mut take: impl FnMut(T) -> u64,
) -> f64 {
    let mut under_way = VecDeque::with_capacity(IN_FLIGHT);
    let mut sum = 0u64;
    let seconds = seconds(|| {
        for x in 0..tasks {
            if under_way.len() == IN_FLIGHT {
                sum = sum.wrapping_add(under_way.pop_front().map_or(0, &mut take));
            }
            under_way.push_back(submit(x));
        }
        for task in under_way.drain(..) {
            sum = sum.wrapping_add(take(task));
        }
    });
    let expected = (0..tasks).map(square).fold(0, u64::wrapping_add);
    assert_eq!(sum, expected);
    tasks as f64 / seconds / 1e3
}

/// The threads take chunk after chunk, each for its child.
fn map_over(peers: &mut [Peer], chunk: u64) -> Vec<Vec<(u64, Vec<u64>)>> {
    let next = AtomicU64::new(0);
    thread::scope(|scope| {
        let start = |peer| scope.spawn(|| squares(peer, &next, chunk));
        let threads: Vec<_> = peers.iter_mut().map(start).collect();
        let results = threads.into_iter().map(thread::ScopedJoinHandle::join);
        results.map(|result| result.expect("it works")).collect()
    })
}

/// The results of the chunks that this child was given, and where they begin.
fn squares(peer: &mut Peer, next: &AtomicU64, chunk: u64) -> Vec<(u64, Vec<u64>)> {
    let mut results = Vec::new();
    loop {
        let start = next.fetch_add(chunk, Ordering::Relaxed);
        if start >= TASKS.get() {
            return results;
        }
        let numbers: Vec<u64> = (start..(start + chunk).min(TASKS.get())).collect();
        results.push((start, peer.call(numbers)));
    }
}
