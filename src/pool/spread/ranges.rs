//! What is left to do, a range of items for each worker. The ranges are words of their own: moving a range's ends is
//! all there is to claiming and stealing.

use std::ops::Range;

use crate::shim::{AtomicU64, Ordering};

/// A claim is one of so many shares of a range, at most.
const SHARES: u32 = 4;

/// What is left to do, a range for each worker.
pub(super) struct Ranges(Box<[Ends]>);

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

    /// Takes up to so many from the front, and leaves most of what there is to thieves: slow items at the end of
    /// many quick ones are not to be one worker's.
    fn claim(&self, count: u32) -> Option<Range<usize>> {
        let mut range = self.get();
        while !range.is_empty() {
            let share = (range.end - range.start).div_ceil(SHARES);
            let end = range.start + count.min(share);
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
    pub(super) fn new(len: usize, workers: usize) -> Self {
        let bound = |k: usize| (len as u64 * k as u64 / workers as u64) as u32;
        let ends = |k| Ends(AtomicU64::new(pack(bound(k)..bound(k + 1))));
        Ranges((0..workers).map(ends).collect())
    }

    /// What nobody has claimed.
    pub(super) fn left(&self) -> impl Iterator<Item = Range<usize>> {
        let ranges = self.0.iter().map(Ends::get);
        ranges.map(|range| range.start as usize..range.end as usize)
    }

    /// Takes up to so many items from the front of this worker's range.
    pub(super) fn claim(&self, number: usize, count: u32) -> Option<Range<usize>> {
        self.0[number].claim(count)
    }

    /// Gives this worker, whose range is empty, the rear half of the longest.
    pub(super) fn refill(&self, number: usize) -> bool {
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

#[cfg(all(test, not(freethreading_loom)))]
mod tests {
    use super::*;

    #[test]
    fn claims_and_thefts_leave_nothing_out() {
        let ends = Ends(AtomicU64::new(pack(0..10)));
        assert_eq!(ends.claim(3), Some(0..3));
        assert_eq!(ends.steal(), Some(6..10));
        assert_eq!(ends.claim(1), Some(3..4));
        assert_eq!(ends.steal(), Some(5..6));
        assert_eq!(ends.claim(1), Some(4..5));
        assert_eq!(ends.claim(1), None);
        assert_eq!(ends.steal(), None);
        ends.0.store(pack(6..10), Ordering::Relaxed);
        assert_eq!(ends.claim(9), Some(6..7));
    }

    #[test]
    fn claims_become_small_before_the_end() {
        let ends = Ends(AtomicU64::new(pack(0..1000)));
        let claims: Vec<_> = std::iter::from_fn(|| ends.claim(100)).collect();
        assert!(claims.iter().map(Range::len).is_sorted_by(|a, b| a >= b));
        assert!(claims.iter().rev().take(4).all(|claim| claim.len() == 1));
        assert_eq!(claims.iter().map(Range::len).sum::<usize>(), 1000);
    }
}

#[cfg(all(test, freethreading_loom))]
mod models {
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
