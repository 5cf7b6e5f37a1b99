//! What a process says to its jobs, and who listens.

use std::{io, sync::Arc, time::Instant};

use bytes::{Buf, Bytes};

use super::{Ending, Link, frames::excerpt};
use crate::{
    arena::{
        extent::{Extent, ExtentName},
        lane::{Arrival, Reader},
        passage::Luggage,
        process::Place,
    },
    codec,
    engine::{
        Body, Job, Patience, Payload,
        processes::{
            reactor, tidy,
            wire::{BELL, FromWorker},
        },
        scheduler::After,
    },
    error::TaskError,
};

impl Link {
    /// Takes a reply that came through the pipe.
    pub(super) fn take_reply(self: &Arc<Self>, reply: Bytes) -> Result<(), Ending> {
        let job = self.receive(reply)?;
        self.conclude(job);
        // It may be what somebody waits for at the lane.
        self.rouse();
        Ok(())
    }

    /// Takes the replies in the lane, unless somebody else does.
    pub(super) fn take_replies(self: &Arc<Self>) {
        // Who has it looks once more when he leaves.
        if let Some(mut replies) = self.replies.try_lock()
            && let Some(reader) = &mut *replies
        {
            reader.attend();
            while self.drain(reader) && !reader.rest() && !reader.lane().is_closed() {}
        }
    }

    /// The process is gone: takes what it has left in the lane.
    pub(super) fn take_last_replies(self: &Arc<Self>) {
        let Some(lanes) = &self.lanes else {
            return;
        };
        // Whoever waits there lets go of it.
        lanes.replies().close();
        let mut replies = self.replies.lock();
        let Some(mut reader) = replies.take() else {
            return;
        };
        while let Some(Ok(job)) = reader.receive(|arrival| self.received(arrival)) {
            job.publish();
        }
    }

    /// Takes replies until the job is over, as `is_over` says, or patience is at its end; `false` if somebody
    /// else takes them.
    pub(super) fn take_replies_until(
        self: &Arc<Self>,
        patience: Patience,
        is_over: &dyn Fn() -> bool,
    ) -> bool {
        let Some(mut replies) = self.replies.try_lock() else {
            return false;
        };
        let Some(reader) = &mut *replies else {
            return false;
        };
        let lane = reader.lane();
        let _serving = reactor::Serving::begin();
        let mut patient = true;
        let serves = loop {
            let signals = reader.signals();
            reader.attend();
            if !self.drain(reader) || lane.is_closed() {
                break false;
            }
            if !patient || is_over() {
                if reader.rest() {
                    break true;
                }
                continue;
            }
            patient = match patience {
                Patience::Moment => reader.glance(),
                Patience::Until(deadline) => {
                    let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
                    reader.wait(signals, left);
                    left.is_none_or(|left| !left.is_zero())
                }
            };
        };
        drop(replies);
        if !lane.is_empty_after_all() {
            // It came after the last look, and whoever was told of it may have found this thread here.
            self.changed.notify_one();
        }
        serves
    }

    /// Has whoever waits at the lane look whether his job is over.
    pub(super) fn rouse(&self) {
        if let Some(lanes) = &self.lanes {
            lanes.replies().rouse();
        }
    }

    /// Takes what there is; `false` if the process did what it must not do.
    fn drain(self: &Arc<Self>, reader: &mut Reader) -> bool {
        while let Some(received) = reader.receive(|arrival| self.received(arrival)) {
            match received {
                Ok(job) => self.conclude(job),
                Err(ending) => {
                    self.state.lock().ending.get_or_insert(ending);
                    self.changed.notify_one();
                    return false;
                }
            }
        }
        true
    }

    /// Settles the job that a reply in the lane is for.
    fn received(&self, arrival: io::Result<Arrival>) -> Result<Arc<dyn Job>, Ending> {
        let protocol = |what: &str| Err(Ending::Protocol(what.into()));
        let mut reply = match arrival {
            Ok(Some(reply)) => Bytes::from(reply),
            Ok(None) => return protocol("it said nothing"),
            Err(error) => return protocol(&error.to_string()),
        };
        match reply.try_get_u64() {
            Ok(said) if self.has_heard(said) => self.receive(reply),
            // A task has written to the pipe, and whoever reads that finds out what.
            Ok(_) => protocol("it said more than it knows of"),
            Err(_) => protocol("its reply has no start"),
        }
    }

    /// Whether so much was said through the pipe when the process replied, as far as can be known: it may have
    /// rung afterwards.
    fn has_heard(&self, said: u64) -> bool {
        let heard = *self.heard.lock();
        heard <= said || heard == said + BELL.len() as u64
    }

    /// The process is busy again, or known to be idle, before anybody sees the result.
    fn conclude(self: &Arc<Self>, job: Arc<dyn Job>) {
        self.advance(After::task(self.is_spent()));
        job.publish();
    }

    /// Takes a reply of the process, and settles the job that it is for.
    pub(super) fn receive(&self, reply: Bytes) -> Result<Arc<dyn Job>, Ending> {
        let mut payload = &reply[..];
        let header = codec::decode_first(&mut payload);
        let header_len = reply.len() - payload.len();
        let (id, outcome) = match header {
            Ok(FromWorker::Done { id }) => (id, Ok(result(reply, header_len, Luggage::default()))),
            Ok(FromWorker::DoneWith { id, luggage }) => {
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
                    body: Body::Extent(self.take(extent)?),
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
                    if let (Some(lane), Some(entry)) = (&mut state.lane, current.entry) {
                        lane.free(entry.room);
                    }
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

    /// Takes what the process has left for this one.
    fn take(&self, name: ExtentName) -> Result<Extent, Ending> {
        let from = self.state.lock().place.as_ref().map(Place::index);
        let extent = from.and_then(|from| Extent::take(name, from));
        if extent.is_some() {
            tidy::later();
        }
        extent
            .filter(|extent| extent.len() <= self.terms.max_frame_len)
            .ok_or_else(|| Ending::Protocol(format!("it has no result at {name:?}")))
    }
}

/// What follows the header of a reply.
fn result(mut reply: Bytes, header_len: usize, luggage: Luggage) -> Payload {
    reply.advance(header_len);
    Payload {
        body: Body::Bytes(reply),
        _luggage: luggage,
    }
}
