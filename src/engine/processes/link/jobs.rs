//! How a worker process gets its jobs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rustix::io::retry_on_intr;
use tokio::net::unix::pipe;

use super::{
    Link,
    burial::unread,
    frames::write_some,
    state::{Current, Sentence},
};
use crate::{
    engine::{
        Heed, Job, PATIENCE, Request, Runner,
        processes::{
            launcher::PIPE_SIZE,
            wire::{self, PREFIX},
        },
        scheduler::{After, Next},
    },
    error::TaskError,
    stats::Moment,
};

/// What a process may take from one job to the next.
const A_MOMENT: Duration = Duration::from_millis(1);

impl Link {
    /// Does what comes next, now that the process has nothing to do.
    pub(super) fn advance(self: &Arc<Self>, after: After) {
        let mut after = after;
        loop {
            match self.scheduler.next(self, after) {
                Next::Job(job) => {
                    if let Some(request) = self.take_request(&job) {
                        self.send(job, request);
                        return self.show_board();
                    }
                    after = After::Nothing; // That job was cancelled.
                }
                Next::Idle => {
                    let is_dead = {
                        let mut state = self.state.lock();
                        if self.scheduler.idle_timeout().is_some() {
                            state.idle_since = Some(Instant::now());
                            self.changed.notify_one();
                        }
                        state.death.is_some()
                    };
                    // Nobody else would take it off the list.
                    if is_dead {
                        self.scheduler.retire(self.id);
                    }
                    return;
                }
                Next::Stop => return self.close(),
            }
        }
    }

    /// Tells the process of the board, once there is one.
    fn show_board(&self) {
        let Some(lanes) = self.lanes.as_ref().filter(|lanes| lanes.board().is_none()) else {
            return;
        };
        let shares = self.state.lock().lane.is_some();
        if shares && let Some(block) = self.scheduler.board() {
            lanes.show_board(block);
        }
    }

    pub(super) fn take_request(self: &Arc<Self>, job: &Arc<dyn Job>) -> Option<Request> {
        let runner = Arc::clone(self) as Arc<dyn Runner>;
        job.take_request(runner, self.scheduler.task_timeout())
    }

    /// Gives a job to the process, which is idle.
    pub(super) fn send(self: &Arc<Self>, job: Arc<dyn Job>, request: Request) {
        let request = self.prepared(request);
        let mut state = self.state.lock();
        let serves = state.death.is_none() && !state.kill && !state.leaving;
        let Some(input) = state.input.clone().filter(|_| serves) else {
            drop(state);
            self.scheduler.give_back(job, request);
            // Who waits for it may have come here already.
            return self.rouse();
        };
        // Those that come later find the job here.
        let orders = job.orders();
        if orders.stop {
            drop(state);
            self.scheduler.fail(job, TaskError::Cancelled);
            self.rouse();
            return self.advance(After::Nothing);
        }
        let (id, frame) = (request.id, request.frame.clone());
        let entry = state.lane.as_mut().and_then(|lane| {
            let small = lane.write(Some(&frame[PREFIX..]));
            small.or_else(|| lane.write(None))
        });
        let is_piped = entry.is_none_or(|entry| entry.is_elsewhere);
        state.idle_since = None;
        state.held.push_back(Current {
            job,
            since: Moment::now(),
            deadline: orders.deadline,
            request,
            entry,
            posted: None,
            piped: is_piped.then_some(0),
            sending: is_piped,
        });
        let needs_alarm = state.needs_alarm(orders.deadline);
        drop(state);
        if let (Some(lanes), Some(entry)) = (&self.lanes, entry) {
            lanes.requests().alert(entry.attention);
        }
        if is_piped {
            self.write(&input, &frame, id);
        } else if needs_alarm {
            self.changed.notify_one();
        }
    }

    /// Writes as much of the current request as the pipe takes at once.
    fn write(self: &Arc<Self>, input: &pipe::Sender, frame: &Bytes, id: u64) {
        // The reply may be here before the call returns, so nothing is locked now.
        let result = retry_on_intr(|| rustix::io::write(input, frame));
        let mut state = self.state.lock();
        let death = state.death.clone();
        // If it is not there, the process has answered it already.
        let Some(current) = state.held(id) else {
            return;
        };
        let written = result.unwrap_or(0);
        current.sending = false;
        current.piped = Some(written);
        let has_deadline = current.deadline.is_some();
        if let Some(death) = death {
            // The burial has left this job to us.
            let current = state.take_if(|current| current.request.id == id);
            let current = current.expect("it is there");
            drop(state);
            self.abandon(current, unread(input), death);
        } else if written < frame.len() || has_deadline {
            // A process that cannot be written to is about to be found dead.
            drop(state);
            self.changed.notify_one();
        }
    }

    /// A request that the process can read.
    fn prepared(&self, request: Request) -> Request {
        if request.extent.is_none() || self.state.lock().shares {
            return request;
        }
        wire::enclose(request)
    }

    /// Writes what is left of the current request; pends if there is nothing to write.
    pub(super) async fn write_rest(&self) {
        loop {
            let work = {
                let state = self.state.lock();
                let rest = state.held.iter().find_map(Current::unwritten);
                state.input.clone().zip(rest)
            };
            let Some((input, (id, rest))) = work else {
                return std::future::pending().await;
            };
            match write_some(&input, &rest).await {
                Ok(written) => {
                    let mut state = self.state.lock();
                    if let Some(current) = state.held(id)
                        && let Some(piped) = &mut current.piped
                    {
                        *piped += written;
                        if *piped > PIPE_SIZE && written == rest.len() {
                            // The process has begun to read it, so no other will need it.
                            current.request.frame = Bytes::new();
                        }
                    }
                }
                // The process has closed its pipe: the replies will end too.
                Err(_) => std::future::pending().await,
            }
        }
    }

    /// Waits until a job at hand may have taken too long, and kills the process if it has.
    pub(super) async fn time_is_over(self: &Arc<Self>, alarm: Option<Instant>) {
        let Some(alarm) = alarm else {
            return std::future::pending().await;
        };
        tokio::time::sleep_until(alarm.into()).await;
        // It may have been in time, or be another job by now.
        self.take_replies();
        let late = {
            let state = self.state.lock();
            let now = Instant::now();
            // The last one first: the process can be ended for that alone.
            state.held.iter().rev().find_map(|current| {
                let deadline = current.deadline.filter(|&at| at <= now)?;
                Some((Arc::clone(&current.job), deadline))
            })
        };
        if let Some((job, at)) = late {
            let limit = job.orders().limit.unwrap_or_default();
            let insists = at.elapsed() > PATIENCE;
            if self.condemn_for(&job, Sentence::TimeLimit(limit), insists) != Heed::Heeded {
                // The process is just about to reply.
                tokio::time::sleep(A_MOMENT).await;
            }
        }
    }

    /// The process is to be killed for the sake of a job, unless it has done that, or may not have replied to
    /// the one before yet: that is a moment, but for a process that is stopped just then.
    pub(super) fn condemn_for(
        &self,
        job: &Arc<dyn Job>,
        sentence: Sentence,
        insists: bool,
    ) -> Heed {
        let mut heed = Heed::NotNow;
        self.scheduler.doom(self.id, || {
            let mut state = self.state.lock();
            heed = state.may_end_for(job, insists);
            if heed == Heed::Heeded {
                state.condemn(sentence);
            }
            heed == Heed::Heeded
        });
        heed
    }

    /// Waits until the process has had nothing to do for too long, and lets it go then.
    pub(super) async fn idles_too_long(&self) {
        let limit = self.scheduler.idle_timeout();
        let since = match limit {
            Some(_) => self.state.lock().idle_since,
            None => None,
        };
        let until = limit.and_then(|limit| since?.checked_add(limit));
        let Some(until) = until else {
            return std::future::pending().await;
        };
        tokio::time::sleep_until(until.into()).await;
        {
            let mut state = self.state.lock();
            if state.idle_since != since {
                return; // It had something to do meanwhile.
            }
            state.idle_since = None;
        }
        // Unless somebody is about to give it something right now.
        if self.scheduler.retire(self.id) {
            self.close();
        }
    }

    /// Whether it has completed as many jobs as it may.
    pub(super) fn is_spent(&self) -> bool {
        let max = self.scheduler.max_tasks();
        max.is_some_and(|max| self.state.lock().completed >= max)
    }
}
