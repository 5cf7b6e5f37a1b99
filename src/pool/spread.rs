//! Many items over worker threads, in chunks that nobody has to choose.
//!
//! Every worker has a range of the items and works it off from the front, a few items at a time: as many
//! as take about a microsecond, so one if it takes longer. A worker that has nothing left takes the rear
//! half of the longest range that another has. So little waits behind a slow item while a worker is
//! idle, and the price per item is next to nothing.
//!
//! The ranges are words of their own: moving a range's ends is all there is to claiming and stealing.
#![allow(unsafe_code)]

use std::{
    mem::{self, MaybeUninit},
    ops::Range,
    ptr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::promise::Promise;
use crate::{
    chunk::{items::Items, numbers::Numbers, piece},
    codec::Encoded,
    engine::{Job, Request, processes::wire::Carriage, scheduler::Hold},
    error::TaskError,
    executor::TaskFuture,
    memory::advise_huge_pages,
    shim::{AtomicU64, Ordering},
    task::{
        Portable,
        cell::{TaskCell, Watcher},
        entry,
        work::Work,
    },
    unwind,
};

/// How long the items should take that a worker claims at a time.
const SHORT: Duration = Duration::from_nanos(500);
const LONG: Duration = Duration::from_micros(2);

/// How many items a worker claims at a time, at most.
const MAX_CLAIM: u32 = 1024;

/// How many claims of so many there are from one look at the clock to the next: a look takes as long as
/// dozens of such items.
const CLAIMS_PER_LOOK: u32 = 4;

pub(super) struct Spread<I, R> {
    /// Those that are in no range are gone.
    items: Source<I>,
    /// The results; those that are there are in `written`, once their worker has stopped.
    results: Memory<R>,
    ranges: Ranges,
    /// How many items have no result that is known of.
    left: AtomicUsize,
    stopped: AtomicBool,
    written: Mutex<Vec<Range<usize>>>,
    drivers: Mutex<Vec<Option<TaskFuture<()>>>>,
    promise: Arc<Promise<Vec<R>>>,
}

/// Where the items are.
enum Source<I> {
    Memory(Memory<I>),
    Numbers(Numbers<I>),
}

/// The memory of a vector, whose values are looked after by somebody else.
struct Memory<T> {
    start: *mut MaybeUninit<T>,
    vector: Mutex<Option<Vec<MaybeUninit<T>>>>,
}

// SAFETY: each value is reached by one thread at a time: who has claimed its index, or, once nobody works
// any more, who takes or drops them all. `T: Send` lets it go from one to the other.
unsafe impl<T: Send> Send for Memory<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Memory<T> {}

impl<T> Memory<T> {
    fn of(vector: Vec<T>) -> Self {
        let mut vector = mem::ManuallyDrop::new(vector);
        // SAFETY: the vector is forgotten, and `MaybeUninit<T>` is laid out like `T`.
        Memory::new(unsafe {
            Vec::from_raw_parts(vector.as_mut_ptr().cast(), vector.len(), vector.capacity())
        })
    }

    fn with_room_for(len: usize) -> Self {
        let mut vector = Vec::with_capacity(len);
        advise_huge_pages(vector.spare_capacity_mut());
        // SAFETY: there is room for them, and what may be uninitialised need not be initialised.
        unsafe { vector.set_len(len) };
        Memory::new(vector)
    }

    fn new(mut vector: Vec<MaybeUninit<T>>) -> Self {
        Memory {
            start: vector.as_mut_ptr(),
            vector: Mutex::new(Some(vector)),
        }
    }

    /// # Safety
    ///
    /// All values are initialised, nobody else touches them any more, and they are taken once.
    unsafe fn take(&self) -> Vec<T> {
        let vector = self.vector.lock().take().expect("it is taken once");
        let mut vector = mem::ManuallyDrop::new(vector);
        // SAFETY: the vector is forgotten, and its values are initialised.
        unsafe { Vec::from_raw_parts(vector.as_mut_ptr().cast(), vector.len(), vector.capacity()) }
    }

    /// # Safety
    ///
    /// The values in the range are initialised, and nobody else touches them, now or later.
    unsafe fn drop_range(&self, range: Range<usize>) {
        if mem::needs_drop::<T>() && !range.is_empty() {
            // SAFETY: the range is within the vector, as the caller vouches for its values.
            let values = unsafe { self.start.add(range.start) }.cast::<T>();
            let values = ptr::slice_from_raw_parts_mut(values, range.len());
            // SAFETY: as above.
            unwind::contain(|| unsafe { ptr::drop_in_place(values) });
        }
    }
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

/// What is left to do, a range for each worker.
struct Ranges(Box<[Ends]>);

/// The ends of a range of items, in one word on cache lines of its own.
#[repr(align(128))]
struct Ends(AtomicU64);

fn pack(range: Range<u32>) -> u64 {
    u64::from(range.start) << 32 | u64::from(range.end)
}

fn unpack(ends: u64) -> Range<u32> {
    (ends >> 32) as u32..ends as u32
}

impl Ends {
    fn get(&self) -> Range<u32> {
        // Relaxed, and so below: the items were there before any worker was, and results are told of by
        // `left`. An index is in one range at a time, so a word that came back says the same again.
        unpack(self.0.load(Ordering::Relaxed))
    }

    /// Takes up to so many from the front.
    fn claim(&self, count: u32) -> Option<Range<usize>> {
        let mut range = self.get();
        while !range.is_empty() {
            let end = range.start + count.min(range.end - range.start);
            match self.replace(&range, end..range.end) {
                Ok(()) => return Some(range.start as usize..end as usize),
                Err(now) => range = now,
            }
        }
        None
    }

    /// Takes the rear half.
    fn steal(&self) -> Option<Range<u32>> {
        let mut range = self.get();
        while !range.is_empty() {
            let middle = range.start + (range.end - range.start) / 2;
            match self.replace(&range, range.start..middle) {
                Ok(()) => return Some(middle..range.end),
                Err(now) => range = now,
            }
        }
        None
    }

    fn replace(&self, from: &Range<u32>, to: Range<u32>) -> Result<(), Range<u32>> {
        let (from, to) = (pack(from.clone()), pack(to));
        self.0
            .compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed)
            .map(drop)
            .map_err(unpack)
    }
}

impl Ranges {
    /// So many items, for so many workers.
    fn new(len: usize, workers: usize) -> Self {
        let bound = |k: usize| (len as u64 * k as u64 / workers as u64) as u32;
        let ends = |k| Ends(AtomicU64::new(pack(bound(k)..bound(k + 1))));
        Ranges((0..workers).map(ends).collect())
    }

    /// Takes up to so many items from the front of this worker's range.
    fn claim(&self, number: usize, count: u32) -> Option<Range<usize>> {
        self.0[number].claim(count)
    }

    /// Gives this worker, whose range is empty, the rear half of the longest.
    fn refill(&self, number: usize) -> bool {
        loop {
            let longest = self.0.iter().max_by_key(|ends| ends.get().len());
            let Some(longest) = longest.filter(|ends| !ends.get().is_empty()) else {
                return false;
            };
            if let Some(stolen) = longest.steal() {
                // Relaxed: this worker's range is empty, so nobody else changes it.
                self.0[number].0.store(pack(stolen), Ordering::Relaxed);
                return true;
            }
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
        promise: &Arc<Promise<Vec<R>>>,
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
            results: Memory::with_room_for(len),
            ranges: Ranges::new(len, drivers),
            left: AtomicUsize::new(len),
            stopped: AtomicBool::new(false),
            written: Mutex::default(),
            drivers: Mutex::new((0..drivers).map(|_| None).collect()),
            promise: Arc::clone(promise),
        });
        // The value that makes it sound to summon it on the workers: it lives for ever.
        mem::forget(function);
        for number in 0..drivers {
            let cell = TaskCell::new(Driver {
                spread: Arc::clone(&spread),
                number,
                name: std::any::type_name::<F>,
                drive: Spread::drive::<F>,
            });
            let future = TaskFuture::new(Arc::clone(&cell) as _);
            Arc::clone(hold).submit(cell as Arc<dyn Job>);
            let watcher = Arc::clone(&spread);
            spread.drivers.lock()[number] = Some(future);
            let watched = spread.drivers.lock()[number]
                .as_ref()
                .is_some_and(|future| future.watch(watcher, number));
            if !watched {
                Arc::clone(&spread).is_over(number);
            }
        }
    }

    /// Works until nothing is left to claim.
    fn drive<F>(&self, number: usize)
    where
        F: Fn(I) -> R + Send + Sync + 'static,
    {
        let mut progress = Progress {
            spread: self,
            claimed: 0..0,
            done: 0,
            written: Vec::new(),
        };
        let run = unwind::catch(|| progress.run(number, entry::summon::<F>()));
        drop(progress);
        if let Err(panic) = run {
            self.fail(TaskError::Panicked(panic));
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
        // Relaxed: the sooner it is seen the better, nothing depends on it.
        self.stopped.store(true, Ordering::Relaxed);
        self.promise.complete(Err(error));
    }
}

/// How far a worker has come; what it has is taken note of when it stops, also by a panic.
struct Progress<'a, I: Portable, R: Portable> {
    spread: &'a Spread<I, R>,
    /// Items that are claimed and still there.
    claimed: Range<usize>,
    /// How many results are not counted yet.
    done: usize,
    written: Vec<Range<usize>>,
}

impl<I: Portable, R: Portable> Progress<'_, I, R> {
    fn run(&mut self, number: usize, function: impl Fn(I) -> R) {
        let spread = self.spread;
        let (mut count, mut claims) = (1, 0);
        let mut before = Instant::now();
        while !spread.stopped.load(Ordering::Relaxed) {
            let Some(claimed) = spread.ranges.claim(number, count) else {
                spread.count(mem::take(&mut self.done));
                if spread.ranges.refill(number) {
                    continue;
                }
                return;
            };
            match self.written.last_mut() {
                Some(last) if last.end == claimed.start => {}
                _ => self.written.push(claimed.start..claimed.start),
            }
            match &spread.items {
                Source::Memory(items) => {
                    let start = items.start;
                    // SAFETY: the index was in a range, so the item is there; it was claimed by this
                    // worker alone.
                    let take = |index| unsafe { start.add(index).read().assume_init() };
                    self.work_off(claimed, &function, take);
                }
                Source::Numbers(numbers) => {
                    let numbers = *numbers;
                    self.work_off(claimed, &function, |index| numbers.at(index));
                }
            }
            claims += 1;
            if count == MAX_CLAIM && claims < CLAIMS_PER_LOOK {
                continue;
            }
            let now = Instant::now();
            let took = now - before;
            let (short, long) = (SHORT * claims, LONG * claims);
            (before, claims) = (now, 0);
            if took < short {
                count = (count * 2).min(MAX_CLAIM);
            } else if took > long {
                count = (count / 2).max(1);
            }
        }
    }

    #[inline]
    fn work_off(
        &mut self,
        claimed: Range<usize>,
        function: impl Fn(I) -> R,
        take: impl Fn(usize) -> I,
    ) {
        let (results, stopped) = (self.spread.results.start, &self.spread.stopped);
        let mut claim = Claim {
            progress: self,
            first: claimed.start,
            made: claimed.start,
            left: claimed,
        };
        // Quick items may be followed by slow ones.
        while !claim.left.is_empty() && !stopped.load(Ordering::Relaxed) {
            let index = claim.left.start;
            let item = take(index);
            claim.left.start = index + 1;
            let result = function(item);
            // SAFETY: the index is within the results, and nobody else has claimed it.
            unsafe { results.add(index).write(MaybeUninit::new(result)) };
            claim.made = index + 1;
        }
    }
}

impl<I: Portable, R: Portable> Drop for Progress<'_, I, R> {
    fn drop(&mut self) {
        // SAFETY: these were claimed by this worker, which will not come to them.
        unsafe { self.spread.items.drop_range(self.claimed.clone()) };
        self.spread.written.lock().append(&mut self.written);
        self.spread.count(self.done);
    }
}

/// How far a worker has come with what it has claimed: in registers, unless a call may need them.
struct Claim<'a, 'b, I: Portable, R: Portable> {
    progress: &'a mut Progress<'b, I, R>,
    first: usize,
    /// The end of those that have results.
    made: usize,
    /// Items that are still there.
    left: Range<usize>,
}

impl<I: Portable, R: Portable> Drop for Claim<'_, '_, I, R> {
    fn drop(&mut self) {
        let progress = &mut *self.progress;
        progress.claimed = self.left.clone();
        progress.done += self.made - self.first;
        let last = progress.written.last_mut();
        last.expect("it was looked after before").end = self.made;
    }
}

impl<I, R> Drop for Spread<I, R> {
    fn drop(&mut self) {
        for ends in &self.ranges.0 {
            let range = ends.get();
            // SAFETY: nobody has claimed these, and nobody is left who could.
            unsafe {
                self.items
                    .drop_range(range.start as usize..range.end as usize);
            }
        }
        if self.results.vector.get_mut().is_some() {
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

/// One worker's part, as a task.
struct Driver<I, R> {
    spread: Arc<Spread<I, R>>,
    number: usize,
    name: fn() -> &'static str,
    drive: fn(&Spread<I, R>, usize),
}

impl<I: Portable, R: Portable> Work for Driver<I, R> {
    type Output = ();

    fn name(&self) -> fn() -> &'static str {
        self.name
    }

    fn call(self) {
        (self.drive)(&self.spread, self.number);
    }

    fn request(&self, _: u64, _: Carriage) -> Result<Request, TaskError> {
        unreachable!("it is for threads")
    }

    fn decode(_: Encoded<'_>) -> Result<(), TaskError> {
        unreachable!("it is for threads")
    }
}

#[cfg(all(test, not(freethreading_loom)))]
mod tests {
    use std::{cell::Cell, rc::Rc};

    use super::*;

    static_assertions::assert_impl_all!(Memory<Cell<u8>>: Send, Sync);
    static_assertions::assert_not_impl_any!(Memory<Rc<u8>>: Send, Sync);

    #[test]
    fn claims_and_thefts_leave_nothing_out() {
        let ends = Ends(AtomicU64::new(pack(0..10)));
        assert_eq!(ends.claim(3), Some(0..3));
        assert_eq!(ends.steal(), Some(6..10));
        assert_eq!(ends.claim(2), Some(3..5));
        assert_eq!(ends.steal(), Some(5..6));
        assert_eq!(ends.claim(1), None);
        assert_eq!(ends.steal(), None);
        ends.0.store(pack(6..10), Ordering::Relaxed);
        assert_eq!(ends.claim(9), Some(6..10));
    }
}

#[cfg(all(test, freethreading_loom))]
mod loom_models {
    use loom::{cell::UnsafeCell, model::Builder, sync::Arc, thread::spawn};

    use super::*;

    /// Workers, and how often each item was worked off: loom panics if two are at one.
    struct Model {
        ranges: Ranges,
        times: Vec<UnsafeCell<u32>>,
    }

    impl Model {
        fn new(ranges: Ranges, items: usize) -> Arc<Self> {
            let times = (0..items).map(|_| UnsafeCell::new(0)).collect();
            Arc::new(Model { ranges, times })
        }

        fn work_off(&self, number: usize, count: u32) {
            while let Some(claimed) = self.ranges.claim(number, count) {
                for index in claimed {
                    // SAFETY: that nobody else is here is what the model checks.
                    self.times[index].with_mut(|times| unsafe { *times += 1 });
                }
            }
        }

        fn check(&self) {
            for times in &self.times {
                // SAFETY: as above.
                times.with(|times| assert_eq!(unsafe { *times }, 1));
            }
        }
    }

    fn model(switches: usize, code: impl Fn() + Sync + Send + 'static) {
        let mut builder = Builder::new();
        // So many where none is needed; more take hours.
        builder.preemption_bound = Some(switches);
        builder.check(code);
    }

    #[test]
    fn loom_two_workers_work_off_every_item_once() {
        model(3, || {
            let model = Model::new(Ranges::new(3, 2), 3);
            let work = |number| {
                let model = Arc::clone(&model);
                move || {
                    model.work_off(number, 1);
                    while model.ranges.refill(number) {
                        model.work_off(number, 1);
                    }
                }
            };
            let other = spawn(work(1));
            work(0)();
            other.join().unwrap();
            model.check();
        });
    }

    #[test]
    fn loom_two_thieves_of_one_worker_leave_nothing_out() {
        model(2, || {
            let ends = [0..3, 0..0, 0..0].map(|range| Ends(AtomicU64::new(pack(range))));
            let model = Model::new(Ranges(Box::new(ends)), 3);
            let thief = |number: usize| {
                let model = Arc::clone(&model);
                spawn(move || {
                    if let Some(stolen) = model.ranges.0[0].steal() {
                        let own = &model.ranges.0[number].0;
                        own.store(pack(stolen), Ordering::Relaxed);
                        model.work_off(number, 2);
                    }
                })
            };
            let thieves = [thief(1), thief(2)];
            model.work_off(0, 1);
            for thief in thieves {
                thief.join().unwrap();
            }
            model.check();
        });
    }
}
