//! Room in a scheduler's queue, where it is limited, and those who wait for it.
//!
//! A submission first gets an [`Admission`]. It counts against the limit until the job is in the queue,
//! or the admission is dropped. Who finds no room waits in line; whatever makes room
//! gives it to the first in line, so that nobody can take it away. Admissions to a scheduler that takes
//! no jobs any more are free: the refusal is the job's outcome.

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{Scheduler, purge, scheduler::State};
use crate::{coop, latch::Latch};

/// The limit of a queue, and who is to come into it.
pub(super) struct Room {
    limit: usize,
    /// Admissions that count against the limit.
    admitted: usize,
    line: VecDeque<Arc<Turn>>,
}

/// A place in line.
struct Turn {
    /// It has come, and counts as an admission; changes under the scheduler's lock.
    counts: AtomicBool,
    come: Latch<()>,
}

/// Those whose turn has come; tell them outside of all locks.
#[derive(Default)]
#[must_use]
pub(super) struct Called(Vec<Arc<Turn>>);

impl Called {
    pub(super) fn tell(self) {
        for turn in self.0 {
            turn.come.set(());
        }
    }
}

/// What counts for the room in a queue.
pub(super) struct Census {
    pub(super) queued: usize,
    /// Workers that wait for a job, or may still be started.
    pub(super) idle: usize,
    /// Workers that are on their way to their first job.
    pub(super) coming: usize,
}

impl Room {
    pub(super) fn new(limit: usize) -> Self {
        Room {
            limit,
            admitted: 0,
            line: VecDeque::new(),
        }
    }

    /// Whether one more job may come. What free and new workers will take at once does not count.
    fn has_room(&self, census: &Census) -> bool {
        let soon = census.idle + census.coming;
        census.queued + self.admitted < self.limit.saturating_add(soon)
    }

    /// Gives the room that there is to those in line.
    pub(super) fn call(&mut self, census: &Census) -> Called {
        let mut called = Vec::new();
        while self.has_room(census)
            && let Some(turn) = self.line.pop_front()
        {
            self.admitted += 1;
            purge::goes_on();
            // Relaxed: the scheduler's lock orders it.
            turn.counts.store(true, Ordering::Relaxed);
            called.push(turn);
        }
        Called(called)
    }

    /// There will be no more room: all are to see why.
    pub(super) fn call_all(&mut self) -> Called {
        self.line.iter().for_each(|_| purge::goes_on());
        Called(self.line.drain(..).collect())
    }

    /// Whether anybody waits.
    pub(super) fn is_wanted(&self) -> bool {
        !self.line.is_empty()
    }

    fn line_up(&mut self, turn: Arc<Turn>) {
        self.line.push_back(turn);
        purge::waits();
    }

    fn admit(&mut self, census: &Census) -> bool {
        let admitted = self.line.is_empty() && self.has_room(census);
        self.admitted += usize::from(admitted);
        admitted
    }

    fn leave(&mut self, turn: &Arc<Turn>) {
        let place = self.line.iter().position(|other| Arc::ptr_eq(other, turn));
        if let Some(place) = place {
            self.line.remove(place);
            purge::goes_on();
        } else if turn.counts.load(Ordering::Relaxed) {
            // Relaxed: the scheduler's lock orders it.
            self.admitted -= 1;
        }
    }
}

/// Leave to submit one job: at once, or when its turn has come. Drop it when the job is submitted.
pub(crate) struct Admission<'a> {
    scheduler: &'a Scheduler,
    holds: Holds,
    /// The job is in the queue, or a worker's, and counts there. Changes under the scheduler's lock.
    spent: AtomicBool,
}

enum Holds {
    /// It needs none.
    Nothing,
    Room,
    Turn(Arc<Turn>),
}

impl Admission<'_> {
    /// Blocks until the turn has come.
    pub(crate) fn wait(&self) {
        if let Holds::Turn(turn) = &self.holds {
            turn.come.wait(None);
        }
    }

    /// Waits until the turn has come.
    pub(crate) async fn wait_async(&self) {
        match &self.holds {
            Holds::Turn(turn) => turn.come.wait_async().await,
            Holds::Nothing | Holds::Room => &poll_fn(coop::poll_begin).await,
        };
    }

    /// From now on the job counts, and this does not.
    pub(super) fn spend(&self, room: &mut Option<Room>) {
        // Relaxed: the scheduler's lock orders it.
        if self.spent.swap(true, Ordering::Relaxed) {
            return;
        }
        if let Some(room) = room {
            match &self.holds {
                Holds::Nothing => {}
                Holds::Room => room.admitted -= 1,
                Holds::Turn(turn) => room.leave(turn),
            }
        }
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        if matches!(self.holds, Holds::Nothing) || *self.spent.get_mut() {
            return;
        }
        let mut state = self.scheduler.state.lock();
        self.spend(&mut state.room);
        self.scheduler.unlock_and_call(state);
    }
}

impl Scheduler {
    /// Leave to submit a job now, or later.
    pub(crate) fn admit(&self) -> Admission<'_> {
        self.admit_now().unwrap_or_else(|| {
            let mut state = self.state.lock();
            let turn = Arc::new(Turn {
                counts: AtomicBool::new(false),
                come: Latch::new(),
            });
            if let Some(room) = &mut state.room {
                room.line_up(Arc::clone(&turn));
            }
            // There may be room by now, or no reason to wait for any.
            let purged = state.purge();
            self.unlock_and_call(state);
            drop(purged);
            Admission {
                scheduler: self,
                holds: Holds::Turn(turn),
                spent: AtomicBool::new(false),
            }
        })
    }

    /// Leave to submit a job now, if there is room for it.
    pub(crate) fn admit_now(&self) -> Option<Admission<'_>> {
        let admission = |holds| {
            Some(Admission {
                scheduler: self,
                holds,
                spent: AtomicBool::new(false),
            })
        };
        if !self.is_limited() {
            return admission(Holds::Nothing);
        }
        let mut state = self.state.lock();
        if state.takes_none() {
            return admission(Holds::Nothing);
        }
        let admit = |state: &mut State| {
            let census = self.census(state);
            state.room.as_mut().is_none_or(|room| room.admit(&census))
        };
        if admit(&mut state) {
            return admission(Holds::Room);
        }
        let purged = state.purge();
        let admitted = admit(&mut state);
        self.unlock_and_call(state);
        drop(purged);
        match admitted {
            true => admission(Holds::Room),
            false => None,
        }
    }
}
