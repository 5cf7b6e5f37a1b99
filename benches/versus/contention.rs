//! Many that do the same thing to one object at once, and one that does it alone.

use std::{
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use futures::executor::block_on;
use parking_lot::Mutex;
use tokio::runtime::Runtime;

use crate::harness::{Clock, Contender, Size, contender, stay_on};

/// Operations in one sample of one that is alone: about a millisecond.
const ALONE: Size<u32> = Size::new(50_000, 10_000);

/// How long a sample of many takes: a slow one is not given longer than a fast one.
pub const WHILE: Size<Duration> = Size::new(Duration::from_millis(20), Duration::from_millis(5));

/// What can be held by one, or a few, at a time: a lock, a semaphore.
pub trait Held: Send + Sync + 'static {
    type Guard<'a>: Send;

    fn hold(&self) -> impl Future<Output = Self::Guard<'_>> + Send;
}

/// Nanoseconds of an operation that nobody else does.
pub fn alone(name: &'static str, mut operation: impl FnMut() + 'static) -> Contender {
    contender(name, move || {
        let clock = Clock::start();
        for _ in 0..ALONE.get() {
            operation();
        }
        clock.micros_each(ALONE.get()) * 1e3
    })
}

/// The same where it is awaited; all in one `block_on`.
pub fn alone_awaited(name: &'static str, mut operation: impl AsyncFnMut() + 'static) -> Contender {
    contender(name, move || {
        block_on(async {
            let clock = Clock::start();
            for _ in 0..ALONE.get() {
                operation().await;
            }
            clock.micros_each(ALONE.get()) * 1e3
        })
    })
}

/// Millions of operations per second of so many threads, dealt out to the cores in turn.
pub fn threads(
    name: &'static str,
    count: usize,
    operation: impl Fn() + Sync + 'static,
) -> Contender {
    contender(name, move || {
        let (tally, begin) = (Tally::default(), Barrier::new(count + 1));
        thread::scope(|scope| {
            for i in 0..count {
                let (tally, begin, operation) = (&tally, &begin, &operation);
                scope.spawn(move || {
                    stay_on(i % 2);
                    begin.wait();
                    let mut turn = tally.enter();
                    while turn.goes_on() {
                        operation();
                    }
                });
            }
            begin.wait();
            tally.run();
        });
        tally.rate()
    })
}

/// The same of 64 tasks on 2 workers, each of which may yield to the others while it holds on.
pub fn tasks<H: Held>(
    name: &'static str,
    runtime: &Arc<Runtime>,
    object: H,
    yielding: bool,
) -> Contender {
    let (runtime, object) = (Arc::clone(runtime), Arc::new(object));
    contender(name, move || {
        let tally = Arc::new(Tally::default());
        let start = |_| {
            let (tally, object) = (Arc::clone(&tally), Arc::clone(&object));
            runtime.spawn(async move {
                let mut turn = tally.enter();
                while turn.goes_on() {
                    let guard = object.hold().await;
                    if yielding {
                        tokio::task::yield_now().await;
                    }
                    drop(guard);
                }
            })
        };
        let tasks: Vec<_> = (0..64).map(start).collect();
        tally.run();
        for task in tasks {
            runtime.block_on(task).expect("samples do not panic");
        }
        tally.rate()
    })
}

/// Says how long to go on, and counts.
#[derive(Default)]
pub struct Tally {
    over: AtomicBool,
    done: AtomicU64,
    span: Span,
}

impl Tally {
    /// Waits while the others work.
    pub fn run(&self) {
        thread::sleep(WHILE.get());
        self.over.store(true, Relaxed);
    }

    /// Begins to take part, and to be counted.
    pub fn enter(&self) -> Counting<'_> {
        Counting {
            tally: self,
            begun: 0,
            _turn: self.span.enter(),
        }
    }

    /// Begins to take part in the time, but not in the count.
    pub fn accompany(&self) -> Turn<'_> {
        self.span.enter()
    }

    /// Millions per second.
    pub fn rate(&self) -> f64 {
        self.span.millions_per_second(self.done.load(Relaxed))
    }
}

/// One that takes part.
pub struct Counting<'a> {
    tally: &'a Tally,
    begun: u64,
    _turn: Turn<'a>,
}

impl Counting<'_> {
    pub fn goes_on(&mut self) -> bool {
        let goes_on = !self.tally.over.load(Relaxed);
        self.begun += u64::from(goes_on);
        goes_on
    }
}

impl Drop for Counting<'_> {
    fn drop(&mut self) {
        self.tally.done.fetch_add(self.begun, Relaxed);
    }
}

/// From when the first begins until the last ends.
#[derive(Default)]
struct Span(Mutex<Option<(Instant, Instant)>>);

impl Span {
    /// Begins; dropping it ends.
    fn enter(&self) -> Turn<'_> {
        Turn(self, Instant::now())
    }

    fn millions_per_second(&self, times: u64) -> f64 {
        let (first, last) = (*self.0.lock()).expect("somebody took part");
        times as f64 / (last - first).as_secs_f64() / 1e6
    }
}

pub struct Turn<'a>(&'a Span, Instant);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let Turn(span, begin) = *self;
        let mut span = span.0.lock();
        let (first, last) = span.unwrap_or((begin, begin));
        *span = Some((first.min(begin), last.max(Instant::now())));
    }
}
