//! How a worker process gets its jobs, and what becomes of its replies.

use std::{sync::Arc, time::Instant};

use bytes::{Buf, Bytes, BytesMut};
use rustix::io::Errno;

use super::{
    Current, Ending, Link, Sentence, State,
    burial::unread,
    frames::{excerpt, write_some},
};
use crate::{
    arena::{
        extent::{Extent, ExtentName},
        passage::Luggage,
        process::Place,
    },
    codec,
    engine::{
        Body, Job, Payload, Request, Runner, fail,
        processes::{
            launcher::PIPE_SIZE,
            tidy,
            wire::{self, FromWorker},
        },
        scheduler::{After, Next},
    },
    error::TaskError,
    stats::Moment,
};

impl Link {
    /// Does what comes next, now that the process has nothing to do.
    pub(super) fn advance(self: &Arc<Self>, after: After) {
        let mut after = after;
        loop {
            match self.scheduler.next(self, after) {
                Next::Job(job) => {
                    if let Some(request) = self.take_request(&job) {
                        return self.send(job, request);
                    }
                    after = After::Nothing; // That job was cancelled.
                }
                Next::Idle => {
                    let is_dead = {
                        let mut state = self.state.lock();
                        if self.scheduler.idle_timeout().is_some() {
                            state.idle_since = Some(Instant::now());
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

    pub(super) fn take_request(self: &Arc<Self>, job: &Arc<dyn Job>) -> Option<Request> {
        let runner = Arc::clone(self) as Arc<dyn Runner>;
        job.take_request(runner, self.scheduler.task_timeout())
    }

    /// Gives a job to the process, which is idle.
    pub(super) fn send(self: &Arc<Self>, job: Arc<dyn Job>, request: Request) {
        let request = self.prepared(request);
        let mut state = self.state.lock();
        let serves = state.death.is_none() && !state.kill;
        let Some(input) = state.input.clone().filter(|_| serves) else {
            drop(state);
            Arc::clone(&job).put_back(request);
            return self.scheduler.give_back(job);
        };
        // Those that come later find the job here.
        let orders = job.orders();
        if orders.stop {
            drop(state);
            fail(job, TaskError::Cancelled);
            return self.advance(After::Nothing);
        }
        let (id, frame) = (request.id, request.frame.clone());
        state.idle_since = None;
        state.current = Some(Current {
            job,
            since: Moment::now(),
            deadline: orders.deadline,
            request,
            written: 0,
            sending: true,
        });
        drop(state);
        // The reply may be here before the call returns, so nothing is locked now.
        let result = loop {
            match rustix::io::write(&*input, &frame) {
                Err(Errno::INTR) => {}
                result => break result,
            }
        };
        let mut state = self.state.lock();
        let State { current, death, .. } = &mut *state;
        // If the job is another, the process has answered this one already.
        let Some(current) = current.as_mut().filter(|current| current.request.id == id) else {
            return;
        };
        current.sending = false;
        current.written = result.unwrap_or(0);
        if let Some(death) = death.clone() {
            // The burial has left this job to us.
            let current = state.current.take().expect("it is there");
            drop(state);
            self.abandon(current, unread(&input), death);
        } else if current.written < frame.len() || current.deadline.is_some() {
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
                match (&state.input, &state.current) {
                    (Some(input), Some(current))
                        if !current.sending && current.written < current.request.frame.len() =>
                    {
                        let rest = current.request.frame.slice(current.written..);
                        Some((Arc::clone(input), current.request.id, rest))
                    }
                    _ => None,
                }
            };
            let Some((input, id, rest)) = work else {
                return std::future::pending().await;
            };
            match write_some(&input, &rest).await {
                Ok(written) => {
                    let mut state = self.state.lock();
                    if let Some(current) = &mut state.current
                        && current.request.id == id
                    {
                        current.written += written;
                        if current.written > PIPE_SIZE && written == rest.len() {
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

    /// Waits until the job at hand has taken too long, and kills the process then.
    pub(super) async fn time_is_over(&self, deadline: Option<Instant>) {
        let Some(at) = deadline else {
            return std::future::pending().await;
        };
        tokio::time::sleep_until(at.into()).await;
        let mut state = self.state.lock();
        // It may be another job by now.
        if state
            .deadline()
            .is_some_and(|deadline| deadline <= Instant::now())
        {
            let limit = state
                .current
                .as_ref()
                .and_then(|current| current.job.orders().limit);
            state.condemn(Sentence::TimeLimit(limit.unwrap_or_default()));
        }
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

    /// Takes a reply of the process, and settles the job that it is for.
    pub(super) fn receive(&self, reply: BytesMut, limit: usize) -> Result<Arc<dyn Job>, Ending> {
        let mut payload = &reply[..];
        let header = codec::decode_first(&mut payload);
        let (id, outcome) = match header {
            Ok(FromWorker::Done { id }) => {
                let header_len = reply.len() - payload.len();
                (id, Ok(result(reply, header_len, Luggage::default())))
            }
            Ok(FromWorker::DoneWith { id, luggage }) => {
                let header_len = reply.len() - payload.len();
                // While the worker still holds them.
                let luggage = Luggage::attach(&luggage);
                (id, Ok(result(reply, header_len, luggage)))
            }
            Ok(FromWorker::DoneIn {
                id,
                luggage,
                extent,
            }) => {
                let luggage = Luggage::attach(&luggage);
                let payload = Payload {
                    body: Body::Extent(self.take(extent, limit)?),
                    _luggage: luggage,
                };
                (id, Ok(payload))
            }
            Ok(FromWorker::Failed { id, failure }) => (id, Err(TaskError::from(failure))),
            _ => return Err(Ending::Protocol(format!("it said {}", excerpt(&reply)))),
        };
        let current = {
            let mut state = self.state.lock();
            if state.kill {
                // The process is to have died of that, whatever it has done last.
                return Err(Ending::Killed);
            }
            match state.current.take_if(|current| current.request.id == id) {
                Some(current) => {
                    state.completed += 1;
                    current
                }
                None => {
                    return Err(Ending::Protocol(format!(
                        "it answered task {id}, which it does not have"
                    )));
                }
            }
        };
        if self.scheduler.is_solo() {
            self.state.lock().verdict = outcome.as_ref().map(|_| ()).map_err(Clone::clone);
        }
        self.tally.count(current.job.settle(outcome).failed);
        Ok(current.job)
    }
}

impl Link {
    /// Takes what the process has left for this one.
    fn take(&self, name: ExtentName, limit: usize) -> Result<Extent, Ending> {
        let from = self.state.lock().place.as_ref().map(Place::index);
        let extent = from.and_then(|from| Extent::take(name, from));
        if extent.is_some() {
            tidy::later();
        }
        extent
            .filter(|extent| extent.len() <= limit)
            .ok_or_else(|| Ending::Protocol(format!("it has no result at {name:?}")))
    }
}

/// What follows the header of a reply.
fn result(reply: BytesMut, header_len: usize, luggage: Luggage) -> Payload {
    let mut bytes = reply.freeze();
    bytes.advance(header_len);
    Payload {
        body: Body::Bytes(bytes),
        _luggage: luggage,
    }
}
