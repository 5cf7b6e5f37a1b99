//! Locks and semaphores, alone and contended, between threads and between tasks.

use std::{
    cell::RefCell,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
};

use freethreading::{Lock, LockGuard, RLock, Semaphore, SemaphorePermit};
use futures::executor::block_on;

use crate::{
    contention::{Held, alone, alone_awaited, tasks, threads},
    harness::{Case, Contender, Unit},
    posix::Sem,
    threads::multi_thread,
};

pub fn cases() -> Vec<Case> {
    vec![
        Unit::Nanos.case("Lock, uncontended", 2, lock),
        Unit::Nanos.case("Lock, uncontended, awaited", 2, lock_awaited),
        Unit::Nanos.case("RLock, uncontended", 2, rlock),
        Unit::Nanos.case("RLock, uncontended, awaited", 2, rlock_awaited),
        Unit::Nanos.case("Semaphore, uncontended", 2, semaphore),
        Unit::Nanos.case("Semaphore, uncontended, awaited", 2, semaphore_awaited),
        Unit::MegaPerSecond.case("Lock, 2 threads", 2, || lock_threads(2)),
        Unit::MegaPerSecond.case("Lock, 4 threads", 2, || lock_threads(4)),
        Unit::MegaPerSecond.case("Semaphore of 1, 2 threads", 2, || semaphore_threads(1, 2)),
        Unit::MegaPerSecond.case("Semaphore of 2, 4 threads", 2, || semaphore_threads(2, 4)),
        Unit::MegaPerSecond.case("Lock, 64 tasks", 2, || lock_tasks(false)),
        Unit::MegaPerSecond.case("Lock, 64 tasks, held over a yield", 2, || lock_tasks(true)),
        Unit::MegaPerSecond.case("Semaphore of 2, 64 tasks", 2, semaphore_tasks),
    ]
}

const OPEN: &str = "nobody closes it";
const HELD: &str = "it is held";

/// What our locks protect, which they do not contain.
#[derive(Default)]
struct Number(AtomicU64);

impl Number {
    fn increment(&self) {
        self.0.store(self.0.load(Relaxed) + 1, Relaxed);
    }
}

impl Held for Lock {
    type Guard<'a> = LockGuard<'a>;

    fn hold(&self) -> impl Future<Output = Self::Guard<'_>> + Send {
        self.lock_async()
    }
}

impl Held for Semaphore {
    type Guard<'a> = SemaphorePermit<'a>;

    fn hold(&self) -> impl Future<Output = Self::Guard<'_>> + Send {
        self.permit_async()
    }
}

impl Held for async_lock::Mutex<()> {
    type Guard<'a> = async_lock::MutexGuard<'a, ()>;

    fn hold(&self) -> impl Future<Output = Self::Guard<'_>> + Send {
        self.lock()
    }
}

impl Held for tokio::sync::Mutex<()> {
    type Guard<'a> = tokio::sync::MutexGuard<'a, ()>;

    fn hold(&self) -> impl Future<Output = Self::Guard<'_>> + Send {
        self.lock()
    }
}

impl Held for async_lock::Semaphore {
    type Guard<'a> = async_lock::SemaphoreGuard<'a>;

    fn hold(&self) -> impl Future<Output = Self::Guard<'_>> + Send {
        self.acquire()
    }
}

impl Held for tokio::sync::Semaphore {
    type Guard<'a> = tokio::sync::SemaphorePermit<'a>;

    async fn hold(&self) -> Self::Guard<'_> {
        self.acquire().await.expect(OPEN)
    }
}

fn lock() -> Vec<Contender> {
    let [raw, guarded] = [Lock::new(), Lock::new()];
    let [of_raw, of_guarded] = [Number::default(), Number::default()];
    let std = std::sync::Mutex::new(0);
    let parking_lot = parking_lot::Mutex::new(0);
    let async_lock = async_lock::Mutex::new(0);
    let tokio = tokio::sync::Mutex::new(0);
    let word = AtomicBool::new(false);
    vec![
        alone("ours", move || {
            raw.acquire();
            of_raw.increment();
            raw.release().expect(HELD);
        }),
        alone("ours, guard", move || {
            let _guard = guarded.lock();
            of_guarded.increment();
        }),
        alone("std Mutex", move || *std.lock().expect("no panic") += 1),
        alone("parking_lot Mutex", move || *parking_lot.lock() += 1),
        alone("async-lock lock_blocking", move || {
            *async_lock.lock_blocking() += 1;
        }),
        alone("tokio blocking_lock", move || *tokio.blocking_lock() += 1),
        alone("atomic swap + store (limit)", move || {
            word.swap(true, Acquire);
            word.store(false, Release);
        }),
    ]
}

fn lock_awaited() -> Vec<Contender> {
    let [raw, guarded] = [Lock::new(), Lock::new()];
    let [of_raw, of_guarded] = [Number::default(), Number::default()];
    let async_lock = async_lock::Mutex::new(0);
    let futures = futures::lock::Mutex::new(0);
    let tokio = tokio::sync::Mutex::new(0);
    vec![
        alone_awaited("ours", async move || {
            raw.acquire_async().await;
            of_raw.increment();
            raw.release().expect(HELD);
        }),
        alone_awaited("ours, guard", async move || {
            let _guard = guarded.lock_async().await;
            of_guarded.increment();
        }),
        alone_awaited("async-lock", async move || *async_lock.lock().await += 1),
        alone_awaited("futures", async move || *futures.lock().await += 1),
        alone_awaited("tokio", async move || *tokio.lock().await += 1),
    ]
}

fn rlock() -> Vec<Contender> {
    let [raw, guarded] = [RLock::new(), RLock::new()];
    let [of_raw, of_guarded] = [Number::default(), Number::default()];
    let parking_lot = parking_lot::ReentrantMutex::new(RefCell::new(0));
    vec![
        alone("ours", move || {
            raw.acquire();
            of_raw.increment();
            raw.release().expect(HELD);
        }),
        alone("ours, guard", move || {
            let _guard = guarded.lock();
            of_guarded.increment();
        }),
        alone("parking_lot ReentrantMutex", move || {
            *parking_lot.lock().borrow_mut() += 1;
        }),
    ]
}

/// No peer is re-entrant.
fn rlock_awaited() -> Vec<Contender> {
    let [raw, guarded] = [RLock::new(), RLock::new()];
    let [of_raw, of_guarded] = [Number::default(), Number::default()];
    let async_lock = async_lock::Mutex::new(0);
    vec![
        alone_awaited("ours", async move || {
            raw.acquire_async().await;
            of_raw.increment();
            raw.release().expect(HELD);
        }),
        alone_awaited("ours, guard", async move || {
            let _guard = guarded.lock_async().await;
            of_guarded.increment();
        }),
        alone_awaited("async-lock Mutex", async move || {
            *async_lock.lock().await += 1
        }),
    ]
}

fn semaphore() -> Vec<Contender> {
    let [raw, guarded] = [Semaphore::new(1), Semaphore::new(1)];
    let sem = Sem::new(1);
    let async_lock = async_lock::Semaphore::new(1);
    let tokio = tokio::sync::Semaphore::new(1);
    vec![
        alone("ours", move || {
            raw.acquire();
            raw.release().expect(HELD);
        }),
        alone("ours, permit", move || drop(guarded.permit())),
        alone("POSIX sem_t", move || {
            sem.wait();
            sem.post();
        }),
        alone("async-lock acquire_blocking", move || {
            async_lock.acquire_blocking();
        }),
        alone("tokio, a block_on each", move || {
            drop(block_on(tokio.acquire()).expect(OPEN));
        }),
    ]
}

fn semaphore_awaited() -> Vec<Contender> {
    let [raw, guarded] = [Semaphore::new(1), Semaphore::new(1)];
    let async_lock = async_lock::Semaphore::new(1);
    let tokio = tokio::sync::Semaphore::new(1);
    vec![
        alone_awaited("ours", async move || {
            raw.acquire_async().await;
            raw.release().expect(HELD);
        }),
        alone_awaited("ours, permit", async move || {
            drop(guarded.permit_async().await)
        }),
        alone_awaited("async-lock", async move || drop(async_lock.acquire().await)),
        alone_awaited("tokio", async move || {
            drop(tokio.acquire().await.expect(OPEN));
        }),
    ]
}

fn lock_threads(count: usize) -> Vec<Contender> {
    let [raw, guarded] = [Lock::new(), Lock::new()];
    let [of_raw, of_guarded] = [Number::default(), Number::default()];
    let std = std::sync::Mutex::new(0);
    let parking_lot = parking_lot::Mutex::new(0);
    let async_lock = async_lock::Mutex::new(0);
    let tokio = tokio::sync::Mutex::new(0);
    vec![
        threads("ours", count, move || {
            raw.acquire();
            of_raw.increment();
            raw.release().expect(HELD);
        }),
        threads("ours, guard", count, move || {
            let _guard = guarded.lock();
            of_guarded.increment();
        }),
        threads("std Mutex", count, move || {
            *std.lock().expect("no panic") += 1;
        }),
        threads("parking_lot Mutex", count, move || *parking_lot.lock() += 1),
        threads("async-lock lock_blocking", count, move || {
            *async_lock.lock_blocking() += 1;
        }),
        threads("tokio blocking_lock", count, move || {
            *tokio.blocking_lock() += 1;
        }),
    ]
}

fn semaphore_threads(permits: usize, count: usize) -> Vec<Contender> {
    let ours = Semaphore::new(permits);
    let sem = Sem::new(permits as u32);
    let async_lock = async_lock::Semaphore::new(permits);
    let tokio = tokio::sync::Semaphore::new(permits);
    vec![
        threads("ours", count, move || {
            ours.acquire();
            ours.release().expect(HELD);
        }),
        threads("POSIX sem_t", count, move || {
            sem.wait();
            sem.post();
        }),
        threads("async-lock acquire_blocking", count, move || {
            async_lock.acquire_blocking();
        }),
        threads("tokio, a block_on each", count, move || {
            drop(block_on(tokio.acquire()).expect(OPEN));
        }),
    ]
}

fn lock_tasks(yielding: bool) -> Vec<Contender> {
    let runtime = Arc::new(multi_thread());
    vec![
        tasks("ours", &runtime, Lock::new(), yielding),
        tasks("async-lock", &runtime, async_lock::Mutex::new(()), yielding),
        tasks("tokio", &runtime, tokio::sync::Mutex::new(()), yielding),
    ]
}

fn semaphore_tasks() -> Vec<Contender> {
    let runtime = Arc::new(multi_thread());
    vec![
        tasks("ours", &runtime, Semaphore::new(2), false),
        tasks("async-lock", &runtime, async_lock::Semaphore::new(2), false),
        tasks("tokio", &runtime, tokio::sync::Semaphore::new(2), false),
    ]
}
