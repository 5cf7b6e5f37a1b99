//! One worker's way through the items: claim some, work them off, note the results.

use std::{
    hint::black_box,
    mem::{self, MaybeUninit},
    ops::Range,
    time::{Duration, Instant},
};

use super::{Source, Spread};
use crate::{shim::Ordering, task::Portable};

/// How long the items should take that a worker claims at a time.
const SHORT: Duration = Duration::from_nanos(500);
const LONG: Duration = Duration::from_micros(2);

/// How many items a worker claims at a time, at most.
const MAX_CLAIM: u32 = 1024;

/// How many claims of so many there are from one look at the clock to the next: a look takes as long as
/// dozens of such items.
const CLAIMS_PER_LOOK: u32 = 4;

/// How many items are worked off between two looks whether there are more.
const ROW: usize = 32;

/// How far a worker has come; what it has is taken note of when it stops, also by a panic.
pub(super) struct Progress<'a, I: Portable, R: Portable> {
    spread: &'a Spread<I, R>,
    /// Items that are claimed and still there.
    claimed: Range<usize>,
    /// How many results are not counted yet.
    done: usize,
    written: Vec<Range<usize>>,
}

impl<'a, I: Portable, R: Portable> Progress<'a, I, R> {
    pub(super) fn new(spread: &'a Spread<I, R>) -> Self {
        Progress {
            spread,
            claimed: 0..0,
            done: 0,
            written: Vec::new(),
        }
    }

    pub(super) fn run(&mut self, number: usize, function: impl Fn(I) -> R) {
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
                    let start = items.start();
                    self.work_off(claimed, &function, |first| {
                        // SAFETY: the index was in a range, so the item is there; it was claimed by this
                        // worker alone.
                        move |index| unsafe { start.add(first + index).read().assume_init() }
                    });
                }
                Source::Numbers(numbers) => self.work_off(claimed, &function, |first| {
                    // Opaque: each number is then one addition to the first of the row. The compiler would
                    // add up three, which takes a quarter more where the function is one multiplication.
                    let row = black_box(numbers.from(first));
                    move |index| row.at(index)
                }),
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

    /// `row` gives the items from an index on.
    #[inline]
    fn work_off<Row: Fn(usize) -> I>(
        &mut self,
        claimed: Range<usize>,
        function: impl Fn(I) -> R,
        row: impl Fn(usize) -> Row,
    ) {
        let (results, stopped) = (self.spread.results.start(), &self.spread.stopped);
        let mut claim = Claim {
            progress: self,
            first: claimed.start,
            made: claimed.start,
            left: claimed,
        };
        // Quick items may be followed by slow ones.
        let goes_on = || !stopped.load(Ordering::Relaxed);
        let work = |claim: &mut Claim<'_, '_, I, R>, row: &Row, number| {
            let index = claim.left.start;
            let item = row(number);
            claim.left.start = index + 1;
            let result = function(item);
            // SAFETY: the index is within the results, and nobody else has claimed it.
            unsafe { results.add(index).write(MaybeUninit::new(result)) };
            claim.made = index + 1;
        };
        // So many in a row, which takes less where the function is a few instructions.
        while claim.left.len() >= ROW {
            let row = row(claim.left.start);
            for number in 0..ROW {
                if !goes_on() {
                    return;
                }
                work(&mut claim, &row, number);
            }
        }
        let row = row(claim.left.start);
        for number in 0..claim.left.len() {
            if !goes_on() {
                return;
            }
            work(&mut claim, &row, number);
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
