//! Room in a scheduler's queue, where it is limited, and those who wait for it.
//!
//! A submission first gets an [`Admission`]. It counts against the limit until the job is in the queue,
//! or the admission is dropped. Who finds no room waits in line; whatever makes room
//! gives it to the first in line, so that nobody can take it away. Admissions to a scheduler that takes
//! no jobs any more are free: the refusal is the job's outcome.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{Job, Scheduler};
use crate::{latch::Latch, task::cell};

/// The limit of a queue, and who is to come into it.
pub(super) struct Room {
    limit: usize,
    /// Admissions that count against the limit.
    admitted: usize,
    line: VecDeque<Arc<Turn>>,
    /// The workers that were started and have not asked for a job yet.
    fresh: Vec<u64>,
    /// How many tasks of this program had been cancelled when it was last looked for them.
    cancelled: u64,
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
    /// Workers that are being started, and not enlisted yet.
    pub(super) starting: usize,
}

impl Room {
    pub(super) fn new(limit: usize) -> Self {
        Room {
            limit,
            admitted: 0,
            line: VecDeque::new(),
            fresh: Vec::new(),
            cancelled: 0,
        }
    }

    /// A worker was enlisted, and will ask for a job.
    pub(super) fn came(&mut self, id: u64) {
        self.fresh.push(id);
    }

    /// It asks for a job, or never will.
    pub(super) fn asked(&mut self, id: u64) {
        self.fresh.retain(|&fresh| fresh != id);
    }

    /// Whether one more job may come. What free and new workers will take at once does not count.
    fn has_room(&self, census: &Census) -> bool {
        let soon = census.idle + census.starting + self.fresh.len();
        census.queued + self.admitted < self.limit.saturating_add(soon)
    }

    /// Gives the room that there is to those in line.
    pub(super) fn call(&mut self, census: &Census) -> Called {
        let mut called = Vec::new();
        while self.has_room(census)
            && let Some(turn) = self.line.pop_front()
        {
            self.admitted += 1;
            // Relaxed: the scheduler's lock orders it.
            turn.counts.store(true, Ordering::Relaxed);
            called.push(turn);
        }
        Called(called)
    }

    /// There will be no more room: all are to see why.
    pub(super) fn call_all(&mut self) -> Called {
        Called(self.line.drain(..).collect())
    }

    fn admit(&mut self, census: &Census) -> bool {
        let admitted = self.line.is_empty() && self.has_room(census);
        self.admitted += usize::from(admitted);
        admitted
    }

    /// Takes the jobs out of the queue that were cancelled meanwhile.
    fn purge(&mut self, queue: &mut VecDeque<Arc<dyn Job>>) -> Vec<Arc<dyn Job>> {
        let cancelled = cell::cancelled_so_far();
        let mut purged = Vec::new();
        if std::mem::replace(&mut self.cancelled, cancelled) != cancelled {
            queue.retain(|job| {
                let over = job.error().is_some();
                if over {
                    purged.push(Arc::clone(job));
                }
                !over
            });
        }
        purged
    }

    fn leave(&mut self, turn: &Arc<Turn>) {
        let before = self.line.len();
        self.line.retain(|other| !Arc::ptr_eq(other, turn));
        // Relaxed: the scheduler's lock orders it.
        if before == self.line.len() && turn.counts.load(Ordering::Relaxed) {
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
        if let Holds::Turn(turn) = &self.holds {
            turn.come.wait_async().await;
        }
    }
}

impl Admission<'_> {
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
        let called = self.scheduler.call(&mut state);
        drop(state);
        called.tell();
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
                room.line.push_back(Arc::clone(&turn));
            }
            // There may be room by now, or no reason to wait for any.
            let called = self.call(&mut state);
            drop(state);
            called.tell();
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
        let census = self.census(&state);
        let state_now = &mut *state;
        let Some(room) = &mut state_now.room else {
            return admission(Holds::Nothing);
        };
        if room.admit(&census) {
            return admission(Holds::Room);
        }
        let purged = room.purge(&mut state_now.queue);
        let census = self.census(&state);
        let admitted = state.room.as_mut().is_some_and(|room| room.admit(&census));
        let called = self.call(&mut state);
        drop(state);
        called.tell();
        drop(purged);
        match admitted {
            true => admission(Holds::Room),
            false => None,
        }
    }
}
