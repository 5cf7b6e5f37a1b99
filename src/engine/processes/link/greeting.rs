//! How the parent and a new worker process come to know each other.

use std::{os::fd::OwnedFd, sync::Arc};

use futures::StreamExt;
use tokio::{net::unix::pipe, process::Child};

use super::{
    Ending, INITIALIZER, Link, Replies,
    frames::{checked, excerpt, write_all},
};
use crate::{
    arena::{
        self,
        lane::{Lanes, Reader, Writer},
    },
    codec,
    engine::{
        processes::{
            launcher,
            wire::{self, FromWorker, PROTOCOL, Setup, ToWorker},
        },
        scheduler::Setback,
    },
    error::{StartError, TaskError},
};

impl Link {
    /// Tells the process what it is, and hears what it is.
    pub(super) async fn greet(
        &self,
        input: OwnedFd,
        replies: &mut Replies,
        ticket: Option<arena::Ticket>,
    ) -> Result<(), Ending> {
        let terms = self.terms;
        let setup = wire::message(&ToWorker::Setup(Setup {
            protocol: PROTOCOL,
            name: self.record.name(),
            daemon: self.record.daemon(),
            rank: self.record.rank().map(|rank| rank as u64),
            memory_limit: terms.memory_limit,
            max_tasks: self.scheduler.max_tasks(),
            solo: self.scheduler.is_solo(),
            backend: terms.backend,
            max_frame_len: terms.max_frame_len as u64,
            fingerprint: terms.remote,
            arena: ticket,
            lanes: self.lanes.as_ref().map(Lanes::block),
            initializes: self.scheduler.initializer().is_some(),
        }));
        let failed = |error| {
            let error = StartError::new(&self.record.name(), error);
            Ending::Useless(Setback::Death(TaskError::Start(error)))
        };
        // Registered by the reactor itself, since that makes it look at the pipe, which can be written to.
        let input = pipe::Sender::from_owned_fd_unchecked(input).map_err(failed)?;
        let input = Arc::new(input);
        // Before anything is said: the process must not see the pipe's end while it is being killed.
        self.state.lock().input = Some(Arc::clone(&input));
        write_all(&input, &setup).await?;
        let reply = replies.next().await;
        let hello = checked(reply, replies).map_err(|ending| match ending {
            Ending::Protocol(what) => Ending::Protocol(format!(
                "{what}; if that is printed before `freethreading::init()`, have `main` begin with `init`"
            )),
            ending => ending,
        })?;
        let (protocol, fingerprint, shares) = match codec::decode_first(&mut &hello[..]) {
            Ok(FromWorker::Hello {
                protocol,
                fingerprint,
                shares,
            }) => (protocol, fingerprint, shares),
            _ => return Err(Ending::Protocol(format!("it said {}", excerpt(&hello)))),
        };
        let mismatch = |why: &str| {
            Err(Ending::Useless(Setback::Death(TaskError::Mismatch(
                why.into(),
            ))))
        };
        if protocol != PROTOCOL {
            return mismatch("it speaks another version of the protocol");
        }
        self.state.lock().shares = shares;
        if let Some(lanes) = self.lanes.as_ref().filter(|_| shares) {
            *self.replies.lock() = Some(Reader::new(lanes.replies()));
            self.state.lock().lane = Some(Writer::new(lanes.requests()));
        }
        if terms.remote {
            match launcher::fingerprint() {
                Ok(ours) if fingerprint == Some(ours) => {}
                Ok(_) => return mismatch("its executable is another build"),
                Err(error) => return mismatch(&format!("this executable cannot be read: {error}")),
            }
        }
        Ok(())
    }

    /// Has the process run the initializer.
    pub(super) async fn initialize(
        &self,
        replies: &mut Replies,
        child: &mut Child,
    ) -> Result<(), Ending> {
        let Some(initializer) = self.scheduler.initializer() else {
            return Ok(());
        };
        let failed = |error| Err(Ending::Useless(Setback::Initializer(error)));
        let frame = match wire::request_encoded(INITIALIZER, initializer, self.terms.carriage()) {
            Ok(frame) => frame,
            Err(error) => return failed(error),
        };
        let Some(input) = self.state.lock().input.clone() else {
            return Err(Ending::Closed);
        };
        let answer = async {
            write_all(&input, &frame).await?;
            let reply = replies.next().await;
            checked(reply, replies)
        };
        let reply = tokio::select! {
            biased;
            reply = answer => reply,
            () = self.killed() => return Err(Ending::Killed),
            // Where the pipe stays open, since another process has it.
            _ = child.wait() => Err(Ending::Closed),
        };
        match reply.map(|reply| codec::decode_first(&mut &reply[..])) {
            Ok(Ok(FromWorker::Done { id: INITIALIZER })) => Ok(()),
            Ok(Ok(FromWorker::Failed {
                id: INITIALIZER,
                failure,
            })) => failed(failure.into()),
            Ok(other) => Err(Ending::Protocol(format!(
                "it said {other:?} to its initializer"
            ))),
            Err(Ending::Closed) => Err(Ending::ClosedInInitializer),
            Err(ending) => Err(ending),
        }
    }
}
