//! Tasks that were cancelled while they waited for a worker.
//!
//! A task does not know the queue that it is in. So a cancelled one stays there until a worker comes to it and passes it
//! over. Where the number of tasks that wait counts, as for a limit, it is taken out before.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
};

use super::{Job, Scheduler, room::Room, scheduler::State};
use crate::exit;

// SeqCst, here and below: who has begun to wait looks for cancelled tasks, and who has cancelled one looks for those
// who wait. One of the two must see the other.

/// How many tasks of this program were cancelled before they began.
static CANCELLED: AtomicU64 = AtomicU64::new(0);

/// How many submissions of this program wait for room in a queue.
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// A submission begins to wait for room. It is in line already, and looks for cancelled tasks afterwards.
pub(super) fn waits() {
    WAITING.fetch_add(1, SeqCst);
}

/// A submission waits no more.
pub(super) fn goes_on() {
    WAITING.fetch_sub(1, SeqCst);
}

/// A task was cancelled before it began; what waits for its room may have it.
pub(crate) fn was_cancelled() {
    CANCELLED.fetch_add(1, SeqCst);
    if WAITING.load(SeqCst) > 0 {
        for scheduler in exit::watched(Scheduler::is_limited) {
            scheduler.make_room();
        }
    }
}

impl State {
    /// Takes those out of the queue that were cancelled since the last time; drop them outside of all locks. What has
    /// been taken from the board does not wait either.
    #[must_use]
    pub(super) fn purge(&mut self) -> VecDeque<Arc<dyn Job>> {
        self.harvest();
        let cancelled = CANCELLED.load(SeqCst);
        if std::mem::replace(&mut self.cancelled, cancelled) == cancelled {
            return VecDeque::new();
        }
        self.forget_withdrawn();
        self.inbox.shut(&mut self.queue);
        if !self.queue.iter().any(|job| job.is_settled()) {
            return VecDeque::new();
        }
        let queue = std::mem::take(&mut self.queue).into_iter();
        let (purged, left) = queue.partition(|job| job.is_settled());
        self.queue = left;
        purged
    }
}

impl Scheduler {
    /// Gives the room of tasks that wait no more to those who wait for it.
    pub(crate) fn make_room(&self) {
        if !self.is_limited() {
            return;
        }
        let mut state = self.state.lock();
        if !state.room.as_ref().is_some_and(Room::is_wanted) {
            return;
        }
        let purged = state.purge();
        self.unlock_and_call(state);
        drop(purged);
    }
}
