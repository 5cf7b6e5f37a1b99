//! What becomes of it when there are many: tasks, workers, objects; and what each takes of memory.

use std::{
    fs,
    hint::black_box,
    mem::forget,
    sync::{Arc, mpsc},
    thread,
};

use freethreading::{
    Barrier, Condition, Event, Lock, Portable, Queue, RLock, Semaphore, SimpleQueue, TaskFuture,
    WorkerPoolExecutor, task,
};
use serde::{Deserialize, Serialize};
use tokio::{sync::oneshot, task::JoinHandle};

use crate::{
    child::{PONG, Peer},
    harness::{Case, Clock, Contender, Effort, Unit, contender, micros, seconds},
    processes,
    threads::{self, noop, rayon},
};

pub fn cases(effort: Effort) -> Vec<Case> {
    let mut cases = vec![
        Unit::Nanos.case("thread task of 1,000 queued", 2, queued::<1000>),
        Unit::Nanos.case("thread task of 10,000 queued", 2, queued::<10_000>),
        Unit::Nanos.case("thread task of 100,000 queued", 2, queued::<100_000>),
        Unit::Bytes.case("memory of a queued thread task", 2, queued_memory),
        Unit::Bytes.case("memory of an idle worker thread", 2, thread_memory),
        Unit::Bytes.case("memory of a worker process", 2, process_memory),
        Unit::Bytes.case("memory of a primitive", 2, primitive_memory),
        Unit::Millis.case("start of 1 worker process", 2, start::<1>),
        Unit::Millis.case("start of 8 worker processes", 2, start::<8>),
        Unit::Millis.case("start of 64 worker processes", 2, start::<64>),
        Unit::Micros.case("round trip to 1 of 1 worker process", 1, trip::<1>),
        Unit::Micros.case("round trip to 1 of 8 worker processes", 1, trip::<8>),
        Unit::Micros.case("round trip to 1 of 64 worker processes", 1, trip::<64>),
        Unit::Millis.case("shutdown of 1 worker process", 2, shutdown::<1>),
        Unit::Millis.case("shutdown of 8 worker processes", 2, shutdown::<8>),
        Unit::Millis.case("shutdown of 64 worker processes", 2, shutdown::<64>),
        Unit::Nanos.case("10,000 Locks to a process, each", 2, send_many),
        Unit::Nanos.case("10,000 Locks used by a process, each", 2, use_many),
    ];
    if let Effort::Full(_) = effort {
        cases.extend([
            Unit::Nanos.case("thread task of 1,000,000 queued", 2, queued::<1_000_000>),
            Unit::Millis.case("start of 512 worker processes", 2, start::<512>),
            Unit::Micros.case("round trip to 1 of 512 worker processes", 1, trip::<512>),
            Unit::Millis.case("shutdown of 512 worker processes", 2, shutdown::<512>),
        ]);
    }
    cases
}

fn wait(gate: Event) {
    gate.wait();
}

/// An executor whose only worker waits for the event.
fn closed() -> (WorkerPoolExecutor, Event) {
    let (executor, gate) = (threads::executor(1), Event::new());
    drop(executor.submit(task!(wait(gate.clone()))));
    (executor, gate)
}

fn submit(executor: &WorkerPoolExecutor, tasks: usize) -> Vec<TaskFuture<()>> {
    (0..tasks).map(|_| executor.submit(noop)).collect()
}

fn take(futures: Vec<TaskFuture<()>>) {
    for future in futures {
        future.result().expect("it works");
    }
}

/// The same of rayon; dropping the sender opens.
fn closed_rayon() -> (rayon::ThreadPool, mpsc::Sender<()>) {
    let (pool, (gate, closed)) = (rayon(1), mpsc::channel());
    pool.spawn(move || assert!(closed.recv().is_err()));
    (pool, gate)
}

fn spawn(pool: &rayon::ThreadPool, tasks: usize) -> Vec<oneshot::Receiver<()>> {
    let spawn = |_| {
        let (sender, receiver) = oneshot::channel();
        pool.spawn(move || sender.send(()).expect("the caller waits"));
        receiver
    };
    (0..tasks).map(spawn).collect()
}

fn receive(receivers: Vec<oneshot::Receiver<()>>) {
    for receiver in receivers {
        receiver.blocking_recv().expect("it works");
    }
}

/// The tasks are all submitted before the first one runs.
fn queued<const TASKS: usize>() -> Vec<Contender> {
    fn ours(tasks: usize) -> f64 {
        let (executor, gate) = closed();
        let run = || {
            let futures = submit(&executor, tasks);
            gate.set();
            take(futures);
        };
        seconds(run) * 1e9 / tasks as f64
    }

    let mut contenders = vec![
        contender("ours", || ours(TASKS)),
        contender("rayon spawn + a oneshot each", || {
            let (pool, gate) = closed_rayon();
            let run = || {
                let receivers = spawn(&pool, TASKS);
                drop(gate);
                receive(receivers);
            };
            seconds(run) * 1e9 / TASKS as f64
        }),
    ];
    if TASKS > 1000 {
        contenders.push(contender("ours, of 1,000 queued", || ours(1000)));
    }
    contenders
}

/// Kibibytes that the kernel counts under this name for the process.
fn counted(process: &str, name: &str) -> f64 {
    let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup"));
    let rollup = rollup.expect("the kernel says what a process has");
    let kib = rollup.lines().find_map(|line| {
        let figure = line.strip_prefix(name)?.strip_suffix("kB")?;
        figure.trim().parse::<f64>().ok()
    });
    kib.expect("the kernel counts it")
}

/// Bytes of memory that this process has for each that is made. Kept at least until they are counted.
fn grown<T>(count: usize, make: impl FnOnce() -> T) -> (f64, T) {
    let before = resident();
    let made = make();
    // Nothing at all would make a ratio of infinity.
    let bytes = (resident() - before).max(1.0);
    (bytes / count as f64, made)
}

/// Bytes, without those that the allocator could give back.
fn resident() -> f64 {
    #[cfg(target_env = "gnu")]
    // SAFETY: it may be called at any time.
    unsafe {
        libc::malloc_trim(0)
    };
    counted("self", "Rss:") * 1024.0
}

fn queued_memory() -> Vec<Contender> {
    const TASKS: usize = 50_000;

    vec![
        contender("ours", || {
            let (executor, gate) = closed();
            let (bytes, futures) = grown(TASKS, || submit(&executor, TASKS));
            gate.set();
            take(futures);
            bytes
        }),
        contender("rayon spawn + a oneshot each", || {
            let (pool, gate) = closed_rayon();
            let (bytes, receivers) = grown(TASKS, || spawn(&pool, TASKS));
            drop(gate);
            receive(receivers);
            bytes
        }),
        contender("tokio spawn_blocking", || {
            let runtime = threads::current_thread();
            let (gate, closed) = mpsc::channel::<()>();
            runtime.spawn_blocking(move || assert!(closed.recv().is_err()));
            let spawn = || (0..TASKS).map(|_| runtime.spawn_blocking(noop));
            let (bytes, handles) = grown(TASKS, || spawn().collect::<Vec<JoinHandle<()>>>());
            drop(gate);
            for handle in handles {
                runtime.block_on(handle).expect("it works");
            }
            bytes
        }),
    ]
}

fn meet(barrier: Barrier) {
    barrier.wait().expect("nobody breaks it");
}

/// The executor with all its workers started.
fn started(executor: WorkerPoolExecutor, workers: usize) -> WorkerPoolExecutor {
    let barrier = Barrier::new(workers).expect("there is somebody");
    let all = (0..workers).map(|_| executor.submit(task!(meet(barrier.clone()))));
    take(all.collect());
    executor
}

/// The threads of every sample stay: the stack of one that ends would be the next one's.
fn thread_memory() -> Vec<Contender> {
    const THREADS: usize = 32;

    vec![
        contender("ours", || {
            let executor = || started(threads::executor(THREADS), THREADS);
            let (bytes, executor) = grown(THREADS, executor);
            forget(executor);
            bytes
        }),
        contender("std::thread that waits", || {
            let begun = Arc::new(std::sync::Barrier::new(THREADS + 1));
            let start = |_| {
                let (begun, (gate, closed)) = (Arc::clone(&begun), mpsc::channel::<()>());
                thread::spawn(move || {
                    begun.wait();
                    assert!(closed.recv().is_err());
                });
                gate
            };
            let (bytes, gates) = grown(THREADS, || {
                let gates: Vec<_> = (0..THREADS).map(start).collect();
                begun.wait();
                gates
            });
            forget(gates);
            bytes
        }),
        contender("rayon", || {
            let (bytes, pool) = grown(THREADS, || {
                let pool = rayon(THREADS);
                pool.broadcast(|_| ());
                pool
            });
            forget(pool);
            bytes
        }),
    ]
}

/// What goes away with a process.
fn private(process: &str) -> f64 {
    let kib = counted(process, "Private_Clean:") + counted(process, "Private_Dirty:");
    kib * 1024.0
}

fn own_private() -> f64 {
    private("self")
}

fn process_memory() -> Vec<Contender> {
    vec![
        contender("ours", || {
            let executor = processes::executor(1);
            executor.submit(own_private).result().expect("it works")
        }),
        contender("this program that reads a pipe", || {
            let mut peer = Peer::start(PONG);
            peer.ping();
            private(&peer.id().to_string())
        }),
    ]
}

/// Those that are made stay, lest the next ones get their places.
fn primitive<T: 'static>(name: &'static str, make: fn() -> T) -> Contender {
    const COUNT: usize = 1000;

    contender(name, move || {
        let make = || (0..COUNT).map(|_| make()).collect::<Vec<T>>();
        let (bytes, made) = grown(COUNT, make);
        forget(made);
        bytes
    })
}

fn primitive_memory() -> Vec<Contender> {
    vec![
        primitive("ours", Lock::new),
        primitive("ours, RLock", RLock::new),
        primitive("ours, Semaphore", || Semaphore::new(1)),
        primitive("ours, Condition", Condition::new),
        primitive("ours, Event", Event::new),
        primitive("ours, Barrier", || Barrier::new(2)),
        primitive("ours, Queue", || Queue::<u64>::new(0)),
        primitive("ours, SimpleQueue", SimpleQueue::<u64>::new),
        primitive("Arc of tokio Mutex", || {
            Arc::new(tokio::sync::Mutex::new(()))
        }),
        primitive("crossbeam-channel", crossbeam_channel::unbounded::<u64>),
    ]
}

fn start<const WORKERS: usize>() -> Vec<Contender> {
    vec![
        contender("ours", || {
            let clock = Clock::start();
            let executor = started(processes::executor(WORKERS), WORKERS);
            let millis = clock.seconds() * 1e3;
            executor.shutdown(true, false);
            millis
        }),
        contender("std Command, pipes, a message each way", || {
            let clock = Clock::start();
            let peers = start_peers(WORKERS);
            let millis = clock.seconds() * 1e3;
            Peer::end(peers);
            millis
        }),
    ]
}

/// All run before the first has to answer.
fn start_peers(count: usize) -> Vec<Peer> {
    let mut peers: Vec<_> = (0..count).map(|_| Peer::start(PONG)).collect();
    peers.iter_mut().for_each(Peer::ping);
    peers
}

fn shutdown<const WORKERS: usize>() -> Vec<Contender> {
    vec![
        contender("ours", || {
            let executor = started(processes::executor(WORKERS), WORKERS);
            seconds(|| executor.shutdown(true, false)) * 1e3
        }),
        contender("ends of pipes closed, all waited for", || {
            let peers = start_peers(WORKERS);
            seconds(|| Peer::end(peers)) * 1e3
        }),
    ]
}

fn trip<const WORKERS: usize>() -> Vec<Contender> {
    const TRIPS: u32 = 64;

    let trips = |executor: WorkerPoolExecutor| {
        move || micros(TRIPS, || executor.submit(noop).result().expect("it works"))
    };
    let executor = started(processes::executor(WORKERS), WORKERS);
    let mut peers = start_peers(WORKERS);
    let mut next = 0;
    let mut contenders = vec![
        contender("ours", trips(executor)),
        contender("raw pipes, to each in turn (limit)", move || {
            micros(TRIPS, || {
                peers[next].ping();
                next = (next + 1) % WORKERS;
            })
        }),
    ];
    if WORKERS > 1 {
        let alone = started(processes::executor(1), 1);
        contenders.push(contender("ours, of 1 worker", trips(alone)));
    }
    contenders
}

const MANY: usize = 10_000;

fn keep<T>(items: Vec<T>) {
    black_box(items);
}

fn send<T: Portable>(executor: &WorkerPoolExecutor, items: Vec<T>) -> f64 {
    let sent = || executor.submit(task!(keep(items))).result();
    seconds(|| sent().expect("it works")) * 1e9 / MANY as f64
}

fn locks() -> Vec<Lock> {
    (0..MANY).map(|_| Lock::new()).collect()
}

fn send_many() -> Vec<Contender> {
    let executors = [(); 3].map(|()| started(processes::executor(1), 1));
    let [for_new, for_known, for_numbers] = executors;
    let known = locks();
    vec![
        contender("ours", move || {
            let locks = locks();
            send(&for_new, locks.clone())
        }),
        contender("ours, sent before", move || send(&for_known, known.clone())),
        contender("ours, pairs of numbers", move || {
            send(&for_numbers, vec![(7u64, 7u64); MANY])
        }),
    ]
}

#[derive(Serialize, Deserialize)]
struct Uses {
    locks: Vec<Lock>,
    rounds: u32,
}

/// Nanoseconds of an acquire and a release on the worker.
fn use_all(Uses { locks, rounds }: Uses) -> f64 {
    let round = || {
        for lock in &locks {
            lock.acquire();
            lock.release().expect("it is held");
        }
    };
    micros(rounds, round) * 1e3 / locks.len() as f64
}

fn use_many() -> Vec<Contender> {
    let executor = Arc::new(started(processes::executor(1), 1));
    let of = |locks: Vec<Lock>, rounds| {
        let executor = Arc::clone(&executor);
        move || {
            let locks = locks.clone();
            let used = executor.submit(task!(use_all(Uses { locks, rounds })));
            used.result().expect("it works")
        }
    };
    vec![
        contender("ours", of(locks(), 1)),
        contender("ours, each 10 times", of(locks(), 10)),
        contender("ours, one Lock", of(vec![Lock::new()], MANY as u32)),
    ]
}
