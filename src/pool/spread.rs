//! Many items over worker threads, in chunks that nobody has to choose.
//!
//! Every worker has a range of the items and works it off from the front, a few items at a time: as many
//! as take about a microsecond, so one if it takes longer. A worker that has nothing left takes the rear
//! half of the longest range that another has. So little waits behind a slow item while a worker is
//! idle, and the price per item is next to nothing.
#![allow(unsafe_code)]

pub(super) mod memory;
mod progress;
mod ranges;

use std::{
    mem,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize},
    },
};

use parking_lot::Mutex;

use super::promise::Promise;
use crate::{
    chunk::{items::Items, numbers::Numbers, piece},
    codec::Encoded,
    engine::{Carriage, Job, Request, scheduler::Hold},
    error::{Effect, TaskError},
    executor::TaskFuture,
    shim::Ordering,
    task::{
        Portable,
        cell::{TaskCell, Watcher},
        entry,
        work::Work,
    },
    trace, unwind,
};
use memory::Memory;
use progress::Progress;
use ranges::Ranges;

pub(super) struct Spread<I, R: Portable> {
    /// Those that are in no range are gone.
    items: Source<I>,
    /// The results; those that are there are in `written`, once their worker has stopped.
    results: Memory<R>,
    ranges: Ranges,
    /// How many items have no result that is known of.
    left: AtomicUsize,
    stopped: AtomicBool,
    /// Some worker has begun with items, or has found just in time that all is `stopped`.
    begun: AtomicBool,
    written: Mutex<Vec<Range<usize>>>,
    drivers: Mutex<Vec<Option<TaskFuture<Driven>>>>,
    promise: Promise<Vec<R>>,
}

/// Where the items are.
enum Source<I> {
    Memory(Memory<I>),
    Numbers(Numbers<I>),
}

impl<I> Source<I> {
    /// # Safety
    ///
    /// As for [`Memory::drop_range`].
    unsafe fn drop_range(&self, range: Range<usize>) {
        if let Source::Memory(items) = self {
            // SAFETY: the caller says so.
            unsafe { items.drop_range(range) };
        }
    }
}

impl<I: Portable, R: Portable> Spread<I, R> {
    /// Has the function called with every item.
    pub(super) fn start<F>(
        hold: &Arc<Hold>,
        workers: usize,
        function: F,
        items: Items<I>,
        results: Memory<R>,
        promise: Promise<Vec<R>>,
    ) where
        F: Fn(I) -> R + Send + Sync + 'static,
    {
        let len = items.len();
        if len == 0 {
            return promise.complete(Ok(Vec::new()));
        }
        let drivers = workers.min(len);
        let spread = Arc::new(Spread {
            items: match items {
                Items::InMemory(piece) => Source::Memory(Memory::of(piece::join(vec![piece]))),
                Items::Numbers(numbers) => Source::Numbers(numbers),
            },
            results,
            ranges: Ranges::new(len, drivers),
            left: AtomicUsize::new(len),
            stopped: AtomicBool::new(false),
            begun: AtomicBool::new(false),
            written: Mutex::default(),
            drivers: Mutex::new((0..drivers).map(|_| None).collect()),
            promise,
        });
        // The value that makes it sound to summon it on the workers: it lives for ever.
        mem::forget(function);
        for number in 0..drivers {
            let cell = TaskCell::new(trace::traced(Driver {
                spread: Arc::clone(&spread),
                number,
                name: std::any::type_name::<F>,
                drive: Spread::drive::<F>,
            }));
            let future = TaskFuture::new(Arc::clone(&cell) as _);
            // Before it is submitted: it may be over at once, and then the others are to stop.
            let watched = future.watch(Arc::clone(&spread) as _, number);
            debug_assert!(watched, "nobody else has it yet");
            spread.drivers.lock()[number] = Some(future);
            Arc::clone(hold).submit(cell as Arc<dyn Job>);
        }
    }

    /// Works until nothing is left to claim.
    fn drive<F>(&self, number: usize) -> Driven
    where
        F: Fn(I) -> R + Send + Sync + 'static,
    {
        // SeqCst: either this worker finds that all is stopped, or who has stopped it finds that this one has begun.
        self.begun.store(true, Ordering::SeqCst);
        if self.stopped.load(Ordering::SeqCst) {
            return Driven::ToItsEnd;
        }
        let mut progress = Progress::new(self);
        let run = unwind::catch(|| progress.run(number, entry::summon::<F>()));
        drop(progress);
        match run {
            Ok(()) => Driven::ToItsEnd,
            Err(panic) => {
                self.fail(TaskError::Panicked(panic));
                Driven::IntoPanic
            }
        }
    }

    /// So many more items have results; whoever brings the last one hands them out.
    fn count(&self, done: usize) {
        // Release: the results are seen by who hands them out; Acquire: by that one.
        if done > 0 && self.left.fetch_sub(done, Ordering::AcqRel) == done {
            // SAFETY: every item has a result, and workers write none any more. The count reaches zero
            // once.
            let results = unsafe { self.results.take() };
            self.promise.complete(Ok(results));
        }
    }

    fn fail(&self, error: TaskError) {
        // SeqCst: as in `drive`.
        self.stopped.store(true, Ordering::SeqCst);
        let error = match error {
            // That is what became of this worker's part, not of all.
            TaskError::Terminated(_) if self.begun.load(Ordering::SeqCst) => {
                TaskError::Terminated(Effect::MayHaveRun)
            }
            error => error,
        };
        self.promise.complete(Err(error));
    }
}

impl<I, R: Portable> Drop for Spread<I, R> {
    fn drop(&mut self) {
        for range in self.ranges.left() {
            // SAFETY: nobody has claimed these, and nobody is left who could.
            unsafe { self.items.drop_range(range) };
        }
        if self.results.is_there() {
            for range in mem::take(self.written.get_mut()) {
                // SAFETY: these were written, and nobody has taken them.
                unsafe { self.results.drop_range(range) };
            }
        }
    }
}

impl<I: Portable, R: Portable> Watcher for Spread<I, R> {
    /// A driver that did not run to its end stops the others: the pool was terminated, or is broken.
    fn is_over(self: Arc<Self>, number: usize) {
        let driver = self.drivers.lock()[number].take();
        if let Some(Err(error)) = driver.map(|driver| driver.result()) {
            self.fail(error);
        }
    }

    fn calls_back(&self) -> bool {
        true
    }
}

/// How a worker's part ended.
enum Driven {
    ToItsEnd,
    IntoPanic,
}

/// One worker's part, as a task.
struct Driver<I, R: Portable> {
    spread: Arc<Spread<I, R>>,
    number: usize,
    name: fn() -> &'static str,
    drive: fn(&Spread<I, R>, usize) -> Driven,
}

impl<I: Portable, R: Portable> Work for Driver<I, R> {
    type Output = Driven;

    fn name(&self) -> fn() -> &'static str {
        self.name
    }

    fn call(self) -> Driven {
        (self.drive)(&self.spread, self.number)
    }

    fn has_failed(driven: &Driven) -> bool {
        matches!(driven, Driven::IntoPanic)
    }

    fn request(&self, _: u64, _: Carriage) -> Result<Request, TaskError> {
        unreachable!("it is for threads")
    }

    fn decode(_: Encoded<'_>) -> Result<Driven, TaskError> {
        unreachable!("it is for threads")
    }
}
