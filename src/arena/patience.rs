//! How long a waiter competes with whoever comes by before it is given what it waits for.

use std::{
    // Not those that the models look into: only who waits uses them.
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

/// How often a waiter is woken in vain before it is given what it waits for.
const PATIENT: u32 = if MODELLED { 1 } else { 2 };

/// For so long after it was woken in vain that often a waiter goes on competing with others: a thread or a task that runs
/// makes better use of what it gets than one that has to be woken first.
const PATIENCE: Duration = Duration::from_micros(if MODELLED { 0 } else { 500 });

/// After so many wake-ups in vain a waiter is given what it waits for, however little time has passed: a power of two,
/// as are all but the first counts of them at which it is looked whether it has been long enough.
const FED_UP: u32 = 64;

/// Models have no time to lose.
const MODELLED: bool = cfg!(freethreading_loom);

/// Of one waiter, which alone uses it: Relaxed throughout.
#[derive(Default)]
pub(super) struct Patience {
    /// How often it was woken in vain, or as if it had been [too often](FED_UP).
    vain: AtomicU32,
    /// When it was [patient](PATIENT).
    since: Mutex<Option<Instant>>,
}

impl Patience {
    /// Of who begins to wait.
    #[inline]
    pub(super) fn renew(&self) {
        self.vain.store(0, Ordering::Relaxed);
    }

    /// It was woken in vain.
    pub(super) fn try_it(&self) {
        self.vain.store(self.vain() + 1, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn was_tried(&self) -> bool {
        self.vain() != 0
    }

    /// Whether it was woken in vain for too long.
    #[inline]
    pub(super) fn is_over(&self) -> bool {
        let vain = self.vain();
        vain >= PATIENT && self.is_over_after(vain)
    }

    #[cold]
    fn is_over_after(&self, vain: u32) -> bool {
        // Not each time in the long run: to look at the clock takes a tenth of all that is done where many wait at a
        // small queue.
        if vain < 2 * PATIENT || vain.is_power_of_two() {
            let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
            if vain == PATIENT {
                *since = None;
            }
            if since.get_or_insert_with(Instant::now).elapsed() >= PATIENCE {
                self.vain.store(vain.max(FED_UP), Ordering::Relaxed);
            }
        }
        self.vain() >= FED_UP
    }

    #[inline]
    fn vain(&self) -> u32 {
        self.vain.load(Ordering::Relaxed)
    }
}

#[cfg(all(test, not(freethreading_loom)))]
mod tests {
    use super::*;

    impl Patience {
        fn tried(times: u32) -> Self {
            let patience = Patience::default();
            (0..times).for_each(|_| patience.try_it());
            patience
        }

        fn set_since(&self, before: Duration) {
            *self.since.lock().unwrap() = Instant::now().checked_sub(before);
        }
    }

    #[test]
    fn it_takes_some_time_and_some_tries() {
        for times in 0..PATIENT {
            let patience = Patience::tried(times);
            patience.set_since(PATIENCE);
            assert_eq!(
                (patience.is_over(), patience.was_tried()),
                (false, times > 0)
            );
        }
        let patience = Patience::tried(PATIENT + 1);
        // Still to come, so that it cannot have passed meanwhile.
        *patience.since.lock().unwrap() = Some(Instant::now() + Duration::from_secs(3600));
        assert!(!patience.is_over());
        patience.set_since(PATIENCE);
        assert!(patience.is_over());
        // And stays so.
        patience.set_since(Duration::ZERO);
        patience.try_it();
        assert!(patience.is_over());
        assert!(Patience::tried(FED_UP).is_over());
    }

    #[test]
    fn who_waits_next_has_patience_again() {
        let patience = Patience::tried(FED_UP);
        patience.set_since(PATIENCE);
        let before = *patience.since.lock().unwrap();
        patience.renew();
        assert!(!patience.was_tried() && !patience.is_over());
        (0..PATIENT).for_each(|_| patience.try_it());
        // Whether it is over by now is the scheduler's to say.
        let _ = patience.is_over();
        assert!(*patience.since.lock().unwrap() > before);
    }
}
