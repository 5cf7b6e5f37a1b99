//! What a process says to its jobs, and who listens.

use std::{future::poll_fn, io, sync::Arc};

use bytes::{Buf, Bytes, BytesMut};
use futures::StreamExt;

use super::{Ending, Link, Replies, frames::excerpt};
use crate::{
    arena::{
        extent::{Extent, ExtentName},
        lane::{Arrival, Reader},
        passage::Luggage,
        process::Place,
    },
    codec, deadline,
    engine::{
        Body, Job, Patience, Payload, Settled,
        processes::{tidy, wire::FromWorker},
        reactor,
        scheduler::After,
    },
    error::TaskError,
};

/// A job that a process has answered.
pub(super) struct Done {
    job: Arc<dyn Job>,
    settled: Settled,
    /// The process has no other.
    was_last: bool,
}

/// How many replies are taken before there is a look at anything else.
const MANY: usize = 64;

/// How often whoever has what he waited for takes what has come meanwhile.
const LEAVES: u32 = 4;

/// What was in the lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drained {
    Empty,
    /// There may be more.
    More,
    /// The process did what it must not do.
    Failed,
}

impl Link {
    /// Takes a reply that came through the pipe, or those that it rings for.
    pub(super) fn take_reply(self: &Arc<Self>, reply: Bytes) -> Result<(), Ending> {
        if reply.is_empty() {
            self.take_replies();
            return Ok(());
        }
        let done = self.receive(reply)?;
        self.conclude(done);
        // It may be what somebody waits for at the lane.
        self.rouse();
        Ok(())
    }

    /// The next frame that comes through the pipe. Whatever comes there, there is a look at the lane: a task may have
    /// written something, for a part of which a bell is taken.
    pub(super) async fn next_from_pipe(
        self: &Arc<Self>,
        replies: &mut Replies,
    ) -> Option<io::Result<BytesMut>> {
        poll_fn(|context| {
            let next = replies.poll_next_unpin(context);
            self.take_replies();
            next
        })
        .await
    }

    /// Takes the replies in the lane, unless somebody else does.
    pub(super) fn take_replies(self: &Arc<Self>) {
        // Who has it looks once more when he leaves.
        if let Some(mut replies) = self.replies.try_lock()
            && let Some(reader) = &mut *replies
        {
            reader.attend();
            loop {
                match self.drain(reader) {
                    Drained::Empty if !reader.rest() && !reader.lane().is_closed() => {}
                    Drained::Empty | Drained::Failed => return,
                    // The other processes' turn comes first.
                    Drained::More => return self.changed.notify_one(),
                }
            }
        }
    }

    /// The process is gone: takes what it has left in the lane.
    pub(super) fn take_last_replies(self: &Arc<Self>) {
        let Some(lanes) = &self.lanes else {
            return;
        };
        // Whoever waits there lets go of it.
        lanes.replies().close();
        let Some(mut reader) = self.replies.lock().take() else {
            return;
        };
        while let Some(Ok(done)) = reader.receive(|arrival| self.received(arrival)) {
            self.scheduler.publish(done.job, done.settled);
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
        let (mut patient, mut leaving, mut rests) = (true, 0, true);
        let serves = loop {
            let signals = reader.signals();
            reader.attend();
            let drained = self.drain(reader);
            if drained == Drained::Failed || lane.is_closed() {
                break false;
            }
            if !patient || is_over() {
                leaving += 1;
                if reader.rest() {
                    break true;
                }
                // A process that replies again and again does not keep anybody.
                if drained == Drained::More || leaving == LEAVES {
                    rests = false;
                    break true;
                }
                continue;
            }
            if drained == Drained::More {
                continue;
            }
            patient = match patience {
                Patience::Moment => reader.glance(),
                Patience::Until(deadline) => {
                    let left = deadline::left(deadline);
                    reader.wait(signals, left);
                    left.is_none_or(|left| !left.is_zero())
                }
            };
        };
        drop(replies);
        if !rests || !lane.is_empty_after_all() {
            // The process takes it that somebody looks. Or a reply came after the last look, and whoever was told of
            // it may have found this thread here.
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

    /// Takes what there is, up to so many.
    fn drain(self: &Arc<Self>, reader: &mut Reader) -> Drained {
        for _ in 0..MANY {
            match reader.receive(|arrival| self.received(arrival)) {
                None => return Drained::Empty,
                Some(Ok(done)) => self.conclude(done),
                Some(Err(ending)) => {
                    self.state.lock().ending.get_or_insert(ending);
                    self.changed.notify_one();
                    return Drained::Failed;
                }
            }
        }
        Drained::More
    }

    /// Settles the job that a reply in the lane is for.
    fn received(&self, arrival: io::Result<Arrival>) -> Result<Done, Ending> {
        let protocol = |what: &str| Err(Ending::Protocol(what.into()));
        match arrival {
            Ok(Some(reply)) => self.receive(Bytes::from(reply)),
            Ok(None) => Err(Ending::Garbled),
            Err(error) => protocol(&error.to_string()),
        }
    }

    /// The process is busy again, or known to be idle, before anybody sees the result. It has gone on by itself if
    /// this was not its last job.
    fn conclude(self: &Arc<Self>, done: Done) {
        if done.was_last {
            self.advance(After::task(self.is_spent()));
        }
        self.scheduler.publish(done.job, done.settled);
        self.scheduler.make_room();
    }

    /// Takes a reply of the process, and settles the job that it is for.
    pub(super) fn receive(&self, reply: Bytes) -> Result<Done, Ending> {
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
        if self
            .lanes
            .as_ref()
            .is_some_and(|lanes| lanes.board().is_some())
        {
            // What it had taken from the board before it replied is at hand now. No code of users may run from here on
            // until the job is settled: whoever wants to end the next one takes this one for not yet done.
            self.scheduler.catch_up(After::Job);
        }
        let (current, was_last) = {
            let mut state = self.state.lock();
            if state.kill {
                // The process is to have died of that, whatever it has done last.
                return Err(Ending::Killed);
            }
            match state.take_if(|current| current.request.id == id) {
                Some(current) => {
                    state.completed += 1;
                    if let (Some(lane), Some(entry)) = (&mut state.lane, current.entry) {
                        lane.free(entry.room);
                    }
                    (current, state.held.is_empty())
                }
                None => {
                    return Err(Ending::Protocol(format!(
                        "it answered task {id}, which it does not have"
                    )));
                }
            }
        };
        if self.scheduler.is_solo() {
            self.state.lock().failure = outcome.as_ref().err().cloned();
        }
        let settled = current.job.settle(outcome);
        self.tally.count(settled.failed);
        Ok(Done {
            job: current.job,
            settled,
            was_last,
        })
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
