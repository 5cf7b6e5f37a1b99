//! Tasks on threads: a round trip, and a million at once.

use std::{
    hint::black_box,
    sync::{Arc, mpsc},
    thread,
};

use freethreading::{Backend, TaskFuture, WorkerPoolExecutor};
use tokio::{runtime::Runtime, sync::oneshot, task::JoinHandle};

use crate::harness::{Case, Clock, Contender, Size, Unit, contender, micros, seconds};

/// Round trips in one sample: a few milliseconds.
const TRIPS: Size<u32> = Size::new(500, 100);

const TASKS: Size<usize> = Size::new(1_000_000, 100_000);

pub fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "thread round trip, blocking",
            unit: Unit::Micros,
            cores: 1,
            contenders: round_trip,
        },
        Case {
            name: "thread round trip, blocking, free placement",
            unit: Unit::Micros,
            cores: 2,
            contenders: round_trip,
        },
        Case {
            name: "thread round trip, awaited, current_thread",
            unit: Unit::Micros,
            cores: 1,
            contenders: || round_trip_awaited(current_thread()),
        },
        Case {
            name: "thread round trip, awaited, multi_thread",
            unit: Unit::Micros,
            cores: 1,
            contenders: || round_trip_awaited(multi_thread()),
        },
        Case {
            name: "1,000,000 thread tasks, all results taken",
            unit: Unit::MegaPerSecond,
            cores: 2,
            contenders: a_million,
        },
    ]
}

pub fn noop() {}

pub fn executor(workers: usize) -> WorkerPoolExecutor {
    WorkerPoolExecutor::builder()
        .max_workers(workers)
        .backend(Backend::Threading)
        .build()
        .expect("threads are always there")
}

pub fn rayon(workers: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new()
        .num_threads(workers)
        .build()
        .expect("threads are always there")
}

/// Its blocking pool has one thread.
pub fn current_thread() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(1)
        .build()
        .expect("a runtime can be built")
}

/// With 2 workers, and one more thread in the blocking pool.
pub fn multi_thread() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(1)
        .build()
        .expect("a runtime can be built")
}

fn round_trip() -> Vec<Contender> {
    let executor = executor(1);
    let pool = rayon(1);
    let (to_worker, requests) = mpsc::channel::<u64>();
    let (to_caller, replies) = mpsc::channel::<u64>();
    thread::spawn(move || {
        for request in requests {
            to_caller.send(request).expect("the caller waits");
        }
    });
    vec![
        contender("ours", move || {
            micros(TRIPS.get(), || {
                executor.submit(noop).result().expect("it works")
            })
        }),
        contender("rayon spawn + mpsc", move || {
            micros(TRIPS.get(), || {
                let (sender, receiver) = mpsc::channel();
                pool.spawn(move || sender.send(()).expect("the caller waits"));
                receiver.recv().expect("it works");
            })
        }),
        contender("one worker + 2 mpsc (limit)", move || {
            micros(TRIPS.get(), || {
                to_worker.send(1).expect("the worker waits");
                black_box(replies.recv().expect("it works"));
            })
        }),
    ]
}

/// The caller is a task of the runtime.
fn round_trip_awaited(runtime: Runtime) -> Vec<Contender> {
    let runtime = Arc::new(runtime);
    let (for_ours, for_tokio, for_rayon) = (Arc::clone(&runtime), Arc::clone(&runtime), runtime);
    let executor = Arc::new(executor(1));
    let pool = Arc::new(rayon(1));
    vec![
        contender("ours", move || {
            let executor = Arc::clone(&executor);
            on(&for_ours, async move {
                let clock = Clock::start();
                for _ in 0..TRIPS.get() {
                    executor.submit(noop).await.expect("it works");
                }
                clock.micros_each(TRIPS.get())
            })
        }),
        contender("tokio spawn_blocking", move || {
            on(&for_tokio, async {
                let clock = Clock::start();
                for _ in 0..TRIPS.get() {
                    tokio::task::spawn_blocking(noop).await.expect("it works");
                }
                clock.micros_each(TRIPS.get())
            })
        }),
        contender("rayon spawn + oneshot", move || {
            let pool = Arc::clone(&pool);
            on(&for_rayon, async move {
                let clock = Clock::start();
                for _ in 0..TRIPS.get() {
                    let (sender, receiver) = oneshot::channel();
                    pool.spawn(move || sender.send(()).expect("the caller waits"));
                    receiver.await.expect("it works");
                }
                clock.micros_each(TRIPS.get())
            })
        }),
    ]
}

/// Runs a future as a task.
pub fn on(runtime: &Runtime, future: impl Future<Output = f64> + Send + 'static) -> f64 {
    runtime
        .block_on(runtime.spawn(future))
        .expect("samples do not panic")
}

fn a_million() -> Vec<Contender> {
    let rate = |seconds: f64| TASKS.get() as f64 / seconds / 1e6;
    let executor = executor(2);
    let pool = Arc::new(rayon(2));
    let same_pool = Arc::clone(&pool);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(2)
        .build()
        .expect("a runtime can be built");
    vec![
        contender("ours", move || {
            rate(seconds(|| {
                let futures: Vec<TaskFuture<()>> =
                    (0..TASKS.get()).map(|_| executor.submit(noop)).collect();
                for future in futures {
                    future.result().expect("it works");
                }
            }))
        }),
        contender("rayon spawn + a oneshot each", move || {
            rate(seconds(|| {
                let receivers: Vec<oneshot::Receiver<()>> = (0..TASKS.get())
                    .map(|_| {
                        let (sender, receiver) = oneshot::channel();
                        pool.spawn(move || sender.send(()).expect("the caller waits"));
                        receiver
                    })
                    .collect();
                for receiver in receivers {
                    receiver.blocking_recv().expect("it works");
                }
            }))
        }),
        contender("rayon spawn + one mpsc", move || {
            rate(seconds(|| {
                let (sender, receiver) = mpsc::channel();
                for _ in 0..TASKS.get() {
                    let sender = sender.clone();
                    same_pool.spawn(move || sender.send(()).expect("the caller waits"));
                }
                for _ in 0..TASKS.get() {
                    receiver.recv().expect("it works");
                }
            }))
        }),
        contender("tokio spawn_blocking", move || {
            rate(seconds(|| {
                runtime.block_on(async {
                    let handles: Vec<JoinHandle<()>> = (0..TASKS.get())
                        .map(|_| tokio::task::spawn_blocking(noop))
                        .collect();
                    for handle in handles {
                        handle.await.expect("it works");
                    }
                });
            }))
        }),
    ]
}
