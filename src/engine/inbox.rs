//! Where a scheduler's jobs go while all its workers are busy: who submits needs the inbox's lock alone, and who
//! takes a job comes here only once the queue is empty, for all that has come meanwhile. Submitters and workers,
//! who would else meet at one lock for each job, seldom meet.
//!
//! The inbox is opened and shut under the scheduler's lock. It is open only while nothing else is to be done
//! for a job than to keep it: no worker is idle, none may be started, and jobs are accepted.

use std::collections::VecDeque;

use crate::shim::{AtomicBool, Mutex, Ordering};

/// On cache lines of its own, since workers use what would be beside it.
#[repr(align(128))]
pub(super) struct Inbox<T> {
    /// Whether it is open. Changes with the lock held.
    is_open: AtomicBool,
    jobs: Mutex<VecDeque<T>>,
}

impl<T> Default for Inbox<T> {
    /// A shut one.
    fn default() -> Self {
        Inbox {
            is_open: AtomicBool::new(false),
            jobs: Mutex::new(VecDeque::new()),
        }
    }
}

impl<T> Inbox<T> {
    /// Whether it was open a moment ago. Who holds the scheduler's lock knows that it is still so.
    pub(super) fn is_open(&self) -> bool {
        // Relaxed: whoever is to rely on it holds the scheduler's lock, or asks again with that of the jobs.
        self.is_open.load(Ordering::Relaxed)
    }

    /// Adds a job; gives it back if the inbox is shut.
    pub(super) fn put(&self, job: T) -> Result<(), T> {
        if !self.is_open() {
            return Err(job);
        }
        let mut jobs = self.jobs.lock();
        if !self.is_open() {
            return Err(job);
        }
        jobs.push_back(job);
        Ok(())
    }

    /// Adds a job, and opens the inbox. The scheduler is locked.
    pub(super) fn open(&self, job: T) {
        let mut jobs = self.jobs.lock();
        jobs.push_back(job);
        // Relaxed: the locks order it.
        self.is_open.store(true, Ordering::Relaxed);
    }

    /// Moves what has come to the queue, which is empty, or shuts the inbox if nothing has. The scheduler is locked.
    pub(super) fn refill(&self, queue: &mut VecDeque<T>) {
        if !self.is_open() {
            return;
        }
        let mut jobs = self.jobs.lock();
        if jobs.is_empty() {
            self.is_open.store(false, Ordering::Relaxed);
        } else {
            std::mem::swap(&mut *jobs, queue);
        }
    }

    /// Shuts the inbox; what has come goes to the end of the queue. The scheduler is locked.
    pub(super) fn shut(&self, queue: &mut VecDeque<T>) {
        if !self.is_open() {
            return;
        }
        let mut jobs = self.jobs.lock();
        self.is_open.store(false, Ordering::Relaxed);
        queue.append(&mut jobs);
    }

    /// How many jobs are there.
    pub(super) fn len(&self) -> usize {
        self.jobs.lock().len()
    }
}

#[cfg(all(test, freethreading_loom))]
mod models {
    use std::sync::Arc;

    use super::*;

    /// A scheduler with one worker, which begins busy.
    #[derive(Default)]
    struct State {
        queue: VecDeque<u32>,
        /// The worker waits to be given a job.
        idle: bool,
        given: Option<u32>,
        closed: bool,
    }

    type Shared = Arc<(Mutex<State>, Inbox<u32>)>;

    fn shared() -> Shared {
        Arc::new((Mutex::new(State::default()), Inbox::default()))
    }

    /// Whether the job was accepted.
    fn submit((state, inbox): &(Mutex<State>, Inbox<u32>), job: u32) -> bool {
        let Err(job) = inbox.put(job) else {
            return true;
        };
        let mut state = state.lock();
        if state.closed {
            return false;
        }
        if std::mem::replace(&mut state.idle, false) {
            state.given = Some(job);
        } else {
            inbox.open(job);
        }
        true
    }

    /// All that the worker comes to until it is idle.
    fn work((state, inbox): &(Mutex<State>, Inbox<u32>)) -> Vec<u32> {
        let mut done = Vec::new();
        loop {
            let mut state = state.lock();
            if state.queue.is_empty() {
                inbox.refill(&mut state.queue);
            }
            match state.queue.pop_front() {
                Some(job) => done.push(job),
                None => {
                    state.idle = true;
                    return done;
                }
            }
        }
    }

    #[test]
    fn loom_every_job_reaches_the_worker_in_order() {
        loom::model(|| {
            let shared = shared();
            let submitter = {
                let shared = Arc::clone(&shared);
                loom::thread::spawn(move || (1..=3).for_each(|job| assert!(submit(&shared, job))))
            };
            let mut done = work(&shared);
            submitter.join().unwrap();
            // It goes on only if it is given something.
            let given = shared.0.lock().given.take();
            if given.is_some() {
                done.extend(given);
                done.extend(work(&shared));
            }
            assert_eq!(done, [1, 2, 3]);
        });
    }

    #[test]
    fn loom_none_is_accepted_after_the_end() {
        loom::model(|| {
            let shared = shared();
            assert!(submit(&shared, 1));
            let submitter = {
                let shared = Arc::clone(&shared);
                loom::thread::spawn(move || [2, 3].map(|job| submit(&shared, job)))
            };
            let left = {
                let (state, inbox) = &*shared;
                let mut state = state.lock();
                state.closed = true;
                let mut left = std::mem::take(&mut state.queue);
                inbox.shut(&mut left);
                left
            };
            let accepted = submitter.join().unwrap();
            let expected: &[u32] = match accepted {
                [false, false] => &[1],
                [true, false] => &[1, 2],
                [true, true] => &[1, 2, 3],
                [false, true] => panic!("it was accepted after the end"),
            };
            assert_eq!(left, expected);
            assert_eq!(shared.1.len(), 0);
        });
    }
}
