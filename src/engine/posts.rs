//! Jobs that are posted for a scheduler's worker processes, so that one that has finished a job need not
//! wait for this process to get the next.
//!
//! What comes next in the queue is posted while all workers are busy, in order, and the workers take it
//! in that order: nothing begins before what was submitted before it. A job that is posted is as
//! pending as one in the queue. Who took which job is [found out](Scheduler::catch_up) later, at the latest
//! when that worker answers to the job before. Just then it begins with the job, so that is when the time begins that the
//! job may take: by this process's clock, whatever a task writes to the board.
//!
//! A worker that has nothing to do does not look at the board: it is idle, and is given the first job there.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
};

use super::{
    Job, Post, Request, Scheduler,
    processes::wire::PREFIX,
    scheduler::{After, State},
};
use crate::arena::board::{Board, CELLS, Standing};

/// The board of a scheduler.
pub(super) struct Site {
    board: Board,
    scheduler: Weak<Scheduler>,
}

/// Where a job is posted.
#[derive(Clone)]
pub(crate) struct Posting {
    site: Arc<Site>,
    number: u64,
}

impl Posting {
    /// Whether a worker has the job.
    pub(crate) fn is_taken(&self) -> bool {
        matches!(
            self.site.board.standing(self.number),
            Standing::TakenBy(_) | Standing::Lost
        )
    }

    /// Takes the job back, unless a worker has it.
    pub(crate) fn withdraw(&self) -> bool {
        self.site.board.withdraw(self.number)
    }

    /// Has the job know that a worker has it.
    pub(crate) fn notice(&self) {
        if let Some(scheduler) = self.site.scheduler.upgrade() {
            scheduler.catch_up(After::Nothing);
            scheduler.make_room();
        }
    }
}

/// What is posted.
pub(super) struct Posts {
    site: Arc<Site>,
    /// The number of the next job. None has the number of another, also of one that was taken back.
    next: u64,
    jobs: VecDeque<(u64, Arc<dyn Job>)>,
}

impl Posts {
    /// The number of the next job, if its cell is not that of another.
    fn free_number(&self) -> Option<u64> {
        let first = self.jobs.front().map_or(self.next, |&(number, _)| number);
        (self.next - first < CELLS as u64).then_some(self.next)
    }
}

impl State {
    /// How many jobs are posted, as far as is known.
    pub(super) fn posted(&self) -> usize {
        self.posts.as_ref().map_or(0, |posts| posts.jobs.len())
    }

    /// Whether anything waits for a worker; asked when the inbox is shut.
    pub(super) fn has_jobs(&self) -> bool {
        !self.queue.is_empty() || self.posted() > 0
    }

    /// Gives the jobs that workers have taken to those workers.
    pub(super) fn harvest(&mut self) {
        let Some(posts) = &mut self.posts else {
            return;
        };
        while let Some(&(number, _)) = posts.jobs.front() {
            let standing = posts.site.board.standing(number);
            if standing == Standing::Posted {
                return;
            }
            let Some((_, job)) = posts.jobs.pop_front() else {
                return;
            };
            let taker = match standing {
                // As in `forget_withdrawn`.
                Standing::Withdrawn => continue,
                Standing::TakenBy(worker) => {
                    let mut crew = self.crew.iter();
                    crew.find(|runner| runner.takes_as() == Some(worker))
                }
                Standing::Posted | Standing::Lost => None,
            };
            match taker {
                Some(taker) => Arc::clone(taker).has_taken(job, number),
                // Somebody has written to the board who must not: the best to be done is to run it.
                None => {
                    job.unpost();
                    self.queue.push_front(job);
                }
            }
        }
    }

    /// Forgets the jobs that were cancelled; they have nothing left that would run code when they are dropped.
    pub(super) fn forget_withdrawn(&mut self) {
        if let Some(Posts { site, jobs, .. }) = &mut self.posts {
            jobs.retain(|&(number, _)| site.board.standing(number) != Standing::Withdrawn);
        }
    }

    /// Takes what is posted back into the queue.
    pub(super) fn retract(&mut self) {
        if let Some(posts) = &mut self.posts {
            // The last one first, so that none is taken after one that was not.
            while let Some((number, job)) = posts.jobs.pop_back() {
                if !posts.site.board.withdraw(number) {
                    posts.jobs.push_back((number, job));
                    break;
                }
                job.unpost();
                self.queue.push_front(job);
            }
        }
        self.harvest();
    }

    /// Takes all that waits for a worker.
    pub(super) fn take_all(&mut self) -> VecDeque<Arc<dyn Job>> {
        self.retract();
        self.inbox.shut(&mut self.queue);
        std::mem::take(&mut self.queue)
    }

    /// The job that comes next.
    pub(super) fn pop(&mut self) -> Option<Arc<dyn Job>> {
        loop {
            self.harvest();
            let Some(posts) = self.posts.as_mut().filter(|posts| !posts.jobs.is_empty()) else {
                if self.queue.is_empty() {
                    self.inbox.refill(&mut self.queue);
                }
                return self.queue.pop_front();
            };
            let (number, job) = posts.jobs.pop_front()?;
            if posts.site.board.withdraw(number) {
                job.unpost();
                return Some(job);
            }
            // A worker was faster.
            posts.jobs.push_front((number, job));
        }
    }

    /// Posts what is to be posted.
    pub(super) fn post(&mut self) {
        let waits = self.idle.is_empty() && self.doomed.is_empty();
        let ends = self.cancelling || self.terminated || self.broken.is_some();
        let Some(posts) = self.posts.as_mut().filter(|_| waits && !ends) else {
            return;
        };
        while let Some(number) = posts.free_number()
            && let Some(job) = self.queue.front()
        {
            let site = &posts.site;
            let mut post = |request: &Request| {
                let is_plain = request.extent.is_none() && request.luggage.is_empty();
                let posted = is_plain && site.board.post(number, &request.frame[PREFIX..]);
                posted.then(|| Posting {
                    site: Arc::clone(site),
                    number,
                })
            };
            match job.post(&mut post) {
                // It has to be given to a worker, and those behind it come later.
                Post::Unfit => return,
                Post::Over => drop(self.queue.pop_front()),
                Post::Posted => {
                    let job = self.queue.pop_front();
                    posts.jobs.extend(job.map(|job| (number, job)));
                    posts.next += 1;
                }
            }
        }
    }
}

impl Scheduler {
    /// The block of the board for a worker that can read it, once there is one. It is made when more waits than
    /// the workers are given.
    pub(super) fn board(self: &Arc<Self>) -> Option<u32> {
        let may_want = {
            let state = self.state.lock();
            match &state.posts {
                Some(posts) => return Some(posts.site.board.block()),
                None => !state.queue.is_empty() && !state.has_no_board,
            }
        };
        if !may_want {
            return None;
        }
        let board = match self.is_solo() {
            true => None,
            false => Board::claim(),
        };
        let mut state = self.state.lock();
        let Some(board) = board else {
            state.has_no_board = true;
            return None;
        };
        // Another thread may have been faster.
        let posts = state.posts.get_or_insert_with(|| Posts {
            site: Arc::new(Site {
                board,
                scheduler: Arc::downgrade(self),
            }),
            next: 0,
            jobs: VecDeque::new(),
        });
        Some(posts.site.board.block())
    }

    /// Finds out which jobs the workers have taken, and posts others. Who waits for their room is told by
    /// [`make_room`](Self::make_room), which runs code of users.
    pub(crate) fn catch_up(&self, after: After) {
        let mut state = self.state.lock();
        state.came_after(after);
        state.harvest();
        state.post();
    }

    /// Ends a worker for the sake of a job, as `end` does, which says whether it did. The worker will not come to
    /// another job while it ends.
    pub(super) fn doom(&self, id: u64, end: impl FnOnce() -> bool) {
        let mut state = self.state.lock();
        state.retract();
        let ends = end();
        // One that has ended already comes to no other anyway.
        if ends && state.crew.iter().any(|runner| runner.id() == id) {
            state.doomed.push(id);
        } else {
            state.post();
        }
    }

    /// Says of a job whose worker is gone whether it may have begun.
    pub(super) fn bury(&self, number: u64) -> bool {
        let state = self.state.lock();
        let posts = state.posts.as_ref();
        posts.is_none_or(|posts| posts.site.board.bury(number))
    }
}
