//! Looking a few times before going to sleep, where it has been of use.

use std::{
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use crate::shim::thread;

/// Who looks, and for what.
#[derive(Clone, Copy)]
pub(crate) enum Looker {
    /// Whether a slot's mutex is free.
    Mutex,
    /// Whether a waiter was told something.
    Waiter,
    /// The same, having let another thread run.
    WaiterYielding,
    /// Whether a lock or a permit can be had.
    Lock,
    /// The same, by a task that is polled.
    LockPolled,
    /// Whether there is an item or room for one.
    Queue,
    /// Whether the lock of a queue's items is free; models have another.
    #[cfg_attr(freethreading_loom, allow(dead_code))]
    Items,
    /// Whether a task is over, by a task that is polled.
    Result,
    /// The same, having let another thread run.
    ResultYielding,
    /// Whether there is a frame.
    Frame,
    /// The same, by a task that is polled.
    Polled,
    /// The same, having let another thread run.
    Yielding,
    /// Whether a read of the pipe is over.
    Heard,
    /// Whether a frame was taken, having let another thread run.
    Taken,
}

impl Looker {
    /// How long the first and the last moment between two looks are, in pauses of the processor (some
    /// 10 ns each), as powers of two; each is twice as long as the one before.
    ///
    /// All together they are some microseconds, less than it takes to wake somebody. Where the first is long,
    /// who has what others want goes on with it for a while in its own cache: this makes for bursts.
    fn moments(self) -> RangeInclusive<u32> {
        match self {
            Looker::Mutex => 4..=8,
            Looker::Waiter => 0..=7,
            Looker::Lock => 1..=3,
            Looker::LockPolled => 5..=7,
            Looker::Queue => 8..=10,
            Looker::Items => 5..=9,
            Looker::Frame => 5..=8,
            // Other tasks have to wait for it.
            Looker::Polled | Looker::Result => 3..=6,
            Looker::Heard => 2..=6,
            // They give way instead.
            Looker::WaiterYielding | Looker::ResultYielding | Looker::Yielding | Looker::Taken => {
                0..=0
            }
        }
    }
}

/// Looks again and again for a short time.
///
/// If whoever is waited for cannot run meanwhile, on the same core for instance, this is in vain: then
/// the next times are left out, more and more of them as long as it stays so.
pub(crate) fn look<T>(looker: Looker, attempt: impl FnMut() -> Option<T>) -> Option<T> {
    look_for(looker.moments(), looker, attempt)
}

/// The same for what gathers in a queue, at most so many, or any number where it is 0. The first moment is long enough
/// for some of them; where they come one by one, that would be in vain.
pub(crate) fn look_for_one_of<T>(
    most: usize,
    attempt: impl FnMut() -> Option<T>,
    was_alone: impl FnOnce() -> bool,
) -> Option<T> {
    let (longest, last) = Looker::Queue.moments().into_inner();
    let first = match most.checked_ilog2() {
        _ if pace::is_one_by_one() => 0,
        // As measured: four times as long for eight times as many.
        Some(most) => longest.min(most * 2 / 3),
        None => longest,
    };
    let found = look_for(first..=last, Looker::Queue, attempt);
    if found.is_some() {
        pace::learn(was_alone());
    }
    found
}

fn look_for<T>(
    mut moments: RangeInclusive<u32>,
    looker: Looker,
    mut attempt: impl FnMut() -> Option<T>,
) -> Option<T> {
    if luck::skips(looker) {
        return None;
    }
    let found = moments.find_map(|length| {
        for _ in 0..1u32 << length {
            std::hint::spin_loop();
        }
        attempt()
    });
    luck::learn(looker, found.is_some());
    found
}

/// To be woken takes less.
const LONG: Duration = Duration::from_micros(50);

/// Whoever is waited for is quicker, mostly; others keep the processor for longer.
const VERY_LONG: Duration = Duration::from_millis(1);

/// Lets another thread run and looks once, unless that was in vain before, or has cost too much.
pub(crate) fn give_way_once(looker: Looker, attempt: impl FnOnce() -> bool) -> bool {
    if luck::skips(looker) {
        return false;
    }
    let start = Instant::now();
    if !budget::allows(start) {
        return false;
    }
    thread::yield_now();
    let found = attempt();
    let taken = start.elapsed();
    luck::learn(looker, found && taken <= LONG);
    if taken > VERY_LONG {
        budget::pay(start, taken);
    } else if found {
        budget::earn();
    }
    found
}

/// Looks for a short time, and then gives way once; says whether it is there. Compiled once, and not for each kind of
/// task that somebody waits for.
pub(crate) fn look_and_give_way(
    looker: Looker,
    yielding: Looker,
    is_there: &dyn Fn() -> bool,
) -> bool {
    look(looker, || is_there().then_some(())).is_some() || give_way_once(yielding, is_there)
}

/// Lets other threads run, a few times, and looks after each, unless that has cost too much, or would if there is
/// a deadline soon.
pub(crate) fn give_way_and<T>(
    deadline: Option<Instant>,
    mut attempt: impl FnMut() -> Option<T>,
) -> Option<T> {
    const TIMES: usize = 7;
    /// For so long the processor may be somebody else's.
    const TURN: Duration = Duration::from_millis(20);

    if cfg!(freethreading_loom) {
        // Where time decides, a model is not the same each time.
        thread::yield_now();
        return attempt();
    }
    let mut before = Instant::now();
    if deadline.is_some_and(|deadline| deadline < before + TURN) || !budget::allows(before) {
        return None;
    }
    for _ in 0..TIMES {
        thread::yield_now();
        let found = attempt();
        let now = Instant::now();
        if now - before > VERY_LONG {
            budget::pay(before, now - before);
            return found;
        }
        if found.is_some() {
            budget::earn();
            return found;
        }
        before = now;
    }
    None
}

/// How it went for this thread.
#[cfg(not(freethreading_loom))]
mod luck {
    use std::cell::Cell;

    use super::Looker;

    #[derive(Clone, Copy)]
    struct Luck {
        /// How many times to leave out yet.
        skip: u8,
        /// How many to leave out after the next time in vain.
        penalty: u8,
    }

    const LOOKERS: usize = Looker::Taken as usize + 1;

    thread_local! {
        static LUCK: [Cell<Luck>; LOOKERS] =
            const { [const { Cell::new(Luck { skip: 0, penalty: 0 }) }; LOOKERS] };
    }

    pub(super) fn skips(looker: Looker) -> bool {
        LUCK.with(|luck| {
            let cell = &luck[looker as usize];
            let Luck { skip, penalty } = cell.get();
            cell.set(Luck {
                skip: skip.saturating_sub(1),
                penalty,
            });
            skip > 0
        })
    }

    pub(super) fn learn(looker: Looker, found: bool) {
        LUCK.with(|luck| {
            let cell = &luck[looker as usize];
            let penalty = match found {
                true => 0,
                false => cell.get().penalty.saturating_mul(2).max(1),
            };
            cell.set(Luck {
                skip: penalty,
                penalty,
            });
        });
    }
}

/// How what this thread waits for has come: where each was the only one of its kind, it is waited for by who brought the
/// one before.
mod pace {
    use std::cell::Cell;

    /// So often in a row something has to be found alone until it is taken to come one by one,
    const ALONE: u8 = 3;

    /// for so many times, after which once is enough.
    const TIMES: u8 = 64;

    #[derive(Clone, Copy)]
    struct Pace {
        alone: u8,
        /// How many times there are left.
        times: u8,
    }

    thread_local! {
        static PACE: Cell<Pace> = const { Cell::new(Pace { alone: 0, times: 0 }) };
    }

    pub(super) fn is_one_by_one() -> bool {
        PACE.get().times > 0
    }

    pub(super) fn learn(alone: bool) {
        let Pace {
            alone: before,
            times,
        } = PACE.get();
        PACE.set(match (times, alone) {
            (1.., _) => Pace {
                alone: before,
                times: times - 1,
            },
            (0, false) => Pace { alone: 0, times },
            (0, true) if before + 1 < ALONE => Pace {
                alone: before + 1,
                times,
            },
            (0, true) => Pace {
                alone: ALONE - 1,
                times: TIMES,
            },
        });
    }
}

/// In a model looking is as good as sleeping.
#[cfg(freethreading_loom)]
mod luck {
    pub(super) fn skips(_: super::Looker) -> bool {
        true
    }

    pub(super) fn learn(_: super::Looker, _: bool) {}
}

/// What it has won, and cost, this thread to give way.
///
/// What is won each time is the microsecond or so that it takes to fall asleep and to be woken. Now and then it
/// takes a thousand times as long, while a process starts for instance; where somebody else wants the processor
/// and does not give it back, it does so nearly always. So it is given up for a while if that comes again before
/// it was of use many times, and for longer and longer as long as that stays so.
mod budget {
    use std::{
        cell::Cell,
        time::{Duration, Instant},
    };

    /// So often it may take long,
    const LOSSES: u32 = 3;

    /// until it has been of use so often without.
    const WINS: u32 = 50;

    const FIRST_PAUSE: Duration = Duration::from_millis(5);

    /// A hundred times what one attempt costs then.
    const LAST_PAUSE: Duration = Duration::from_millis(640);

    #[derive(Clone, Copy)]
    struct Budget {
        losses: u32,
        /// Since the last loss.
        wins: u32,
        /// How long to give it up next time.
        pause: Duration,
        /// Until when it is given up.
        end: Option<Instant>,
    }

    const FRESH: Budget = Budget {
        losses: 0,
        wins: 0,
        pause: FIRST_PAUSE,
        end: None,
    };

    thread_local! {
        static BUDGET: Cell<Budget> = const { Cell::new(FRESH) };
    }

    pub(super) fn allows(now: Instant) -> bool {
        BUDGET.get().end.is_none_or(|end| end <= now)
    }

    pub(super) fn earn() {
        let mut budget = BUDGET.get();
        budget.wins += 1;
        if budget.wins >= WINS {
            budget = FRESH;
        }
        BUDGET.set(budget);
    }

    pub(super) fn pay(now: Instant, cost: Duration) {
        let mut budget = BUDGET.get();
        budget.wins = 0;
        budget.losses += 1;
        if budget.losses >= LOSSES {
            budget.losses = LOSSES;
            budget.end = Some(now + cost + budget.pause);
            budget.pause = (2 * budget.pause).min(LAST_PAUSE);
        }
        BUDGET.set(budget);
    }
}
