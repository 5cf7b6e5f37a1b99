//! Where an idle thread waits for the one thing that it is to do next.
//!
//! One thread waits; anybody gives, one at a time, and only after the waiting thread has said
//! (through the scheduler's lock) that it is idle. The giver fills the tray, then unparks; the
//! waiter looks for a short while, then parks. `unpark` before `park` is remembered, so nothing is
//! lost in between. The flag lets the waiter look without taking the lock.

use std::time::Duration;

use crate::{
    deadline,
    shim::{AtomicBool, Mutex, Ordering, Thread, hint, park, thread},
};

/// How often an idle worker looks, giving way to other threads in between, before it sleeps: some
/// microseconds, about what waking it up would cost the giver.
const LOOKS: u32 = if cfg!(freethreading_loom) { 1 } else { 16 };

pub(crate) struct Tray<T> {
    filled: AtomicBool,
    content: Mutex<Content<T>>,
}

struct Content<T> {
    item: Option<T>,
    /// The thread that waits, once it is going to park.
    parked: Option<Thread>,
}

impl<T> Tray<T> {
    pub(crate) fn new() -> Self {
        Tray {
            filled: AtomicBool::new(false),
            content: Mutex::new(Content {
                item: None,
                parked: None,
            }),
        }
    }

    /// Fills the tray, which must be empty.
    pub(crate) fn give(&self, item: T) {
        let parked = {
            let mut content = self.content.lock();
            debug_assert!(content.item.is_none(), "the tray was filled twice");
            content.item = Some(item);
            // Relaxed: the flag is only a hint to take the lock, which orders the item.
            self.filled.store(true, Ordering::Relaxed);
            content.parked.take()
        };
        if let Some(thread) = parked {
            thread.unpark();
        }
    }

    /// Empties the tray if it is filled soon.
    pub(crate) fn look(&self) -> Option<T> {
        for _ in 0..LOOKS {
            if self.filled.load(Ordering::Relaxed) {
                return self.take(&mut self.content.lock());
            }
            hint::spin_loop();
            thread::yield_now();
        }
        None
    }

    fn take(&self, content: &mut Content<T>) -> Option<T> {
        let item = content.item.take()?;
        self.filled.store(false, Ordering::Relaxed);
        Some(item)
    }

    /// Waits until the tray is filled and empties it; gives up after so long.
    pub(crate) fn wait(&self, timeout: Option<Duration>) -> Option<T> {
        let deadline = timeout.and_then(deadline::after);
        loop {
            {
                let mut content = self.content.lock();
                if let Some(item) = self.take(&mut content) {
                    return Some(item);
                }
                content.parked = Some(thread::current());
            }
            let left = deadline::left(deadline);
            if left == Some(Duration::ZERO) {
                return None;
            }
            park(left);
        }
    }
}

#[cfg(all(test, freethreading_loom))]
mod models {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn loom_what_is_given_arrives() {
        loom::model(|| {
            let tray = Arc::new(Tray::new());
            let giver = {
                let tray = Arc::clone(&tray);
                loom::thread::spawn(move || tray.give(7))
            };
            assert_eq!(tray.look().or_else(|| tray.wait(None)), Some(7));
            giver.join().unwrap();
        });
    }

    #[test]
    fn loom_two_in_a_row_arrive_in_order() {
        loom::model(|| {
            let tray = Arc::new(Tray::new());
            let idle = Arc::new(loom::sync::Mutex::new(true));
            let giver = {
                let (tray, idle) = (Arc::clone(&tray), Arc::clone(&idle));
                loom::thread::spawn(move || {
                    for item in 0..2 {
                        while !std::mem::replace(&mut *idle.lock().unwrap(), false) {
                            loom::thread::yield_now();
                        }
                        tray.give(item);
                    }
                })
            };
            assert_eq!(tray.look().or_else(|| tray.wait(None)), Some(0));
            *idle.lock().unwrap() = true;
            assert_eq!(tray.look().or_else(|| tray.wait(None)), Some(1));
            giver.join().unwrap();
        });
    }
}
