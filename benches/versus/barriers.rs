//! Rounds that nobody finishes before all have begun them.

use std::{sync::Arc, thread};

use freethreading::Barrier;
use tokio::runtime::Runtime;

use crate::{
    harness::{Case, Clock, Contender, Size, Unit, contender},
    threads::{multi_thread, on},
};

/// Rounds in one sample: a few milliseconds.
const ROUNDS: Size<u32> = Size::new(1000, 200);

pub fn cases() -> Vec<Case> {
    vec![
        Unit::KiloPerSecond.case("Barrier, 2 threads", 1, || threads(2)),
        Unit::KiloPerSecond.case("Barrier, 4 threads", 1, || threads(4)),
        Unit::KiloPerSecond.case("Barrier, 2 tasks on 2 workers", 2, || tasks(2)),
        Unit::KiloPerSecond.case("Barrier, 4 tasks on 2 workers", 2, || tasks(4)),
    ]
}

const WHOLE: &str = "nobody breaks it";

trait Round: Send + Sync + 'static {
    fn wait(&self) -> impl Future<Output = ()> + Send;
}

impl Round for Barrier {
    async fn wait(&self) {
        self.wait_async().await.expect(WHOLE);
    }
}

impl Round for async_lock::Barrier {
    async fn wait(&self) {
        self.wait().await;
    }
}

impl Round for tokio::sync::Barrier {
    async fn wait(&self) {
        self.wait().await;
    }
}

fn threads(count: usize) -> Vec<Contender> {
    let ours = Barrier::new(count).expect("there is somebody");
    let std = std::sync::Barrier::new(count);
    let async_lock = async_lock::Barrier::new(count);
    vec![
        of_threads("ours", count, move || {
            ours.wait().expect(WHOLE);
        }),
        of_threads("std", count, move || {
            std.wait();
        }),
        of_threads("async-lock wait_blocking", count, move || {
            async_lock.wait_blocking();
        }),
    ]
}

fn tasks(count: usize) -> Vec<Contender> {
    let runtime = Arc::new(multi_thread());
    let ours = Barrier::new(count).expect("there is somebody");
    vec![
        of_tasks("ours", &runtime, count, ours),
        of_tasks(
            "async-lock",
            &runtime,
            count,
            async_lock::Barrier::new(count),
        ),
        of_tasks("tokio", &runtime, count, tokio::sync::Barrier::new(count)),
    ]
}

fn of_threads(name: &'static str, count: usize, wait: impl Fn() + Sync + 'static) -> Contender {
    let rounds = |wait: &dyn Fn()| (0..ROUNDS.get()).for_each(|_| wait());
    contender(name, move || {
        thread::scope(|scope| {
            for _ in 1..count {
                scope.spawn(|| {
                    wait();
                    rounds(&wait);
                });
            }
            wait(); // The others have started.
            let clock = Clock::start();
            rounds(&wait);
            rate(&clock)
        })
    })
}

fn of_tasks<R: Round>(
    name: &'static str,
    runtime: &Arc<Runtime>,
    count: usize,
    barrier: R,
) -> Contender {
    let (runtime, barrier) = (Arc::clone(runtime), Arc::new(barrier));
    contender(name, move || {
        let tasks: Vec<_> = (1..count)
            .map(|_| {
                let barrier = Arc::clone(&barrier);
                runtime.spawn(async move {
                    for _ in 0..=ROUNDS.get() {
                        barrier.wait().await;
                    }
                })
            })
            .collect();
        let barrier = Arc::clone(&barrier);
        let rate = on(&runtime, async move {
            barrier.wait().await; // The others have started.
            let clock = Clock::start();
            for _ in 0..ROUNDS.get() {
                barrier.wait().await;
            }
            rate(&clock)
        });
        for task in tasks {
            runtime.block_on(task).expect("samples do not panic");
        }
        rate
    })
}

fn rate(clock: &Clock) -> f64 {
    f64::from(ROUNDS.get()) / clock.seconds() / 1e3
}
