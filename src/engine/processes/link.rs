//! The parent's end of one worker process.
//!
//! Whoever gives a job to an idle link writes the request itself, as far as the pipe takes it; the
//! link's task on the reactor writes the rest, reads the replies, and sees the process to its end.
//! When the process dies it is known which request it was at: one that it has not come to goes to another
//! worker.
//!
//! Where the process shares memory, small frames go through lanes. A thread that blocks until a job is done
//! takes the replies itself, so that no third thread has to run in between; where there is none, the first
//! reply rings for the link's task. Such a process also takes jobs by itself that are [posted](super::super::posts)
//! for all: then it goes on while its replies wait, and has several jobs as far as its link knows.
//!
//! - [`state`] is what is known of it, under one lock,
//! - [`greeting`] is what comes before the first job, [`jobs`] how they are passed, over [`frames`],
//! - [`replies`] are what the process says to them,
//! - [`burial`] is what is left to do when the process is gone.

mod burial;
mod frames;
mod greeting;
mod jobs;
mod replies;
mod state;

use std::{
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::BytesMut;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::{process::Child, sync::Notify, time::timeout};
use tokio_util::codec::{FramedRead, LengthDelimitedCodec};

use super::{
    super::{
        Carriage, Heed, Job, Patience, Runner, Scheduler, SettledJob,
        scheduler::{After, Setback},
        settle,
    },
    launcher::{Launched, PIPE_SIZE},
    stderr::Errors,
    wire,
};
use crate::{
    arena::{
        self,
        lane::{Lanes, Reader},
        passage::Reach,
        process::Place,
    },
    backend::Backend,
    error::{Death, Effect, TaskError},
    stats::{Moment, Tally, WorkerStats},
    worker::record::Record,
};
use burial::{Burial, bury_in_arena, death_of};
use frames::{Listener, checked, garbled};
use state::{Current, Sentence, State};

/// How long a process may take to end after it has closed its pipe.
const ENDING_TIME: Duration = Duration::from_secs(5);

/// How long the pipe of a process that has ended may say nothing until that was all: it stays open where a process
/// that it has forked still has it.
const DRAINING_TIME: Duration = Duration::from_millis(20);

/// One that was ready for so long was killed for a reason that does not lie in how it starts.
const SETTLING_TIME: Duration = Duration::from_secs(1);

/// What a failure may take beyond the largest result.
const FAILURE_LIMIT: usize = 1 << 20;

/// The number of the request that runs the initializer; jobs have others.
const INITIALIZER: u64 = 0;

type Replies = FramedRead<Listener, LengthDelimitedCodec>;

pub(super) struct Link {
    id: u64,
    record: Arc<Record>,
    scheduler: Arc<Scheduler>,
    pid: u32,
    /// As whom it takes jobs from the board: its index in the table of those that share the memory. Zero while it takes
    /// none.
    takes_as: AtomicU32,
    errors: Errors,
    terms: Terms,
    tally: Tally,
    state: Mutex<State>,
    /// The lanes that were made for the process.
    lanes: Option<Lanes>,
    /// The end of the replies' lane, once it is in use. Who has it takes all replies that come meanwhile.
    replies: Mutex<Option<Reader>>,
    /// Tells the link's task that there is something to write, or that the process is to be killed.
    changed: Notify,
}

/// What holds between this process and all workers of one executor.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    /// The default backend of the tasks.
    pub(super) backend: Backend,
    pub(super) max_frame_len: usize,
    pub(super) memory_limit: Option<u64>,
    /// How long it may take to say hello.
    pub(super) start_timeout: Duration,
    /// The executable on the other side may be another one, on another machine.
    pub(super) remote: bool,
}

impl Terms {
    pub(super) fn carriage(&self) -> Carriage {
        Carriage {
            max_frame_len: self.max_frame_len,
            reach: match self.remote {
                true => Reach::Beyond,
                false => Reach::Tree,
            },
        }
    }
}

/// Why a link's task has stopped serving its process.
enum Ending {
    /// The process closed its pipe, or exited.
    Closed,
    /// The same, before it had answered to its initializer.
    ClosedInInitializer,
    /// It was told to be killed.
    Killed,
    /// It failed to greet.
    Silent,
    /// It did what it must not do.
    Protocol(String),
    /// The same: a task has written to its pipe, as it has found out itself.
    Garbled,
    /// It is of no use, for this reason.
    Useless(Setback),
}

impl Link {
    pub(super) fn new(
        id: u64,
        record: Arc<Record>,
        scheduler: Arc<Scheduler>,
        launched: &Launched,
        errors: Errors,
        terms: Terms,
    ) -> Self {
        Link {
            id,
            record,
            scheduler,
            pid: launched.pid,
            takes_as: AtomicU32::new(0),
            errors,
            terms,
            // Without them, all goes through the pipes.
            lanes: launched.place.as_ref().and_then(|_| Lanes::claim()),
            replies: Mutex::new(None),
            tally: Tally::default(),
            state: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// From now on the scheduler can kill the process.
    pub(super) fn enlist(self: &Arc<Self>) {
        self.scheduler.enlist(Arc::clone(self) as Arc<dyn Runner>);
    }

    /// Serves the process until it has ended.
    pub(super) async fn drive(self: Arc<Self>, launched: Launched) {
        // Whatever happens to this task, those who wait for the process are told.
        let mut burial = Burial {
            link: Arc::clone(&self),
            done: false,
        };
        let Launched {
            mut child,
            input,
            output,
            place,
            ..
        } = launched;
        let (place, ticket) = place.unzip();
        let index = place.as_ref().map_or(0, Place::index);
        // Relaxed: it was told of no board yet, and the scheduler's lock orders that.
        self.takes_as.store(u32::from(index), Ordering::Relaxed);
        self.state.lock().place = place;
        let output = Listener::new(output, Arc::clone(&self));
        let mut replies = FramedRead::new(output, wire::codec(wire::GREETING_LIMIT));
        let ending = self.serve(input, &mut replies, &mut child, ticket).await;
        let ends_itself = matches!(ending, Ending::Closed | Ending::ClosedInInitializer);
        {
            let mut state = self.state.lock();
            state.leaving = true;
            // Nor does what it says count any more, but for tasks that were done before one was to blame.
            state.kill |= !ends_itself && !matches!(ending, Ending::Protocol(_));
        }
        if !ends_itself {
            // What it has not come to is for others.
            self.scheduler.doom(self.id, || true);
        }
        if !ends_itself || timeout(ENDING_TIME, child.wait()).await.is_err() {
            // It may have exited by itself just now.
            let _ = child.start_kill();
        }
        let status = child.wait().await;
        let death = match (&ending, status) {
            (Ending::Protocol(what), _) => Death::Protocol(what.clone()),
            (Ending::Silent, _) => Death::Silent,
            (_, Ok(status)) => death_of(status),
            // The program waits for all children, or for none. This one was told to end, and did.
            (Ending::Closed, Err(_)) if self.state.lock().closed => Death::Exited(0),
            (_, Err(error)) => Death::Unobserved(error.to_string()),
        };
        self.errors.drain().await;
        let setback = match ending {
            Ending::Useless(setback) => Some(setback),
            Ending::ClosedInInitializer => {
                let initializer = self.scheduler.initializer();
                let task = initializer.map(|initializer| initializer.entry.function_name());
                let died = self.died(death.clone(), task, Effect::MayHaveRun);
                Some(Setback::Initializer(died))
            }
            _ => None,
        };
        self.take_last_replies();
        // Nobody else may read what this process has left unread.
        drop(replies);
        // Another process may have its place next.
        self.leave_board();
        let place = self.state.lock().place.take();
        if let Some(place) = place {
            bury_in_arena(place).await;
        }
        burial.done = true;
        self.bury(death, setback);
    }

    async fn serve(
        self: &Arc<Self>,
        input: OwnedFd,
        replies: &mut Replies,
        child: &mut Child,
        ticket: Option<arena::Ticket>,
    ) -> Ending {
        let greeting = self.greet(input, replies, ticket);
        let greeted = tokio::select! {
            biased;
            greeted = timeout(self.terms.start_timeout, greeting) => {
                greeted.unwrap_or(Err(Ending::Silent))
            }
            () = self.killed() => Err(Ending::Killed),
        };
        if let Err(ending) = greeted {
            return ending;
        }
        // A result is at most that large; the description of a failure may be a little more.
        let codec = replies.decoder_mut();
        codec.set_max_frame_length(self.terms.max_frame_len.saturating_add(FAILURE_LIMIT));
        if let Err(ending) = self.initialize(replies, child).await {
            return ending;
        }
        self.state.lock().ready_since = Some(Instant::now());
        self.advance(After::Nothing);
        loop {
            let (ending, alarm) = {
                let mut state = self.state.lock();
                if state.kill {
                    return Ending::Killed;
                }
                (state.ending.take(), state.set_alarm())
            };
            match ending {
                None => {}
                Some(Ending::Garbled) => return garbled(replies).await,
                Some(ending) => return ending,
            }
            tokio::select! {
                biased;
                reply = self.next_from_pipe(replies) => {
                    let reply = match checked(reply, replies) {
                        Ok(reply) => reply,
                        Err(ending) => return ending,
                    };
                    if reply.len() > PIPE_SIZE && replies.read_buffer().is_empty() {
                        // Or the buffer would keep the memory of a large result.
                        *replies.read_buffer_mut() = BytesMut::new();
                    }
                    if let Err(ending) = self.take_reply(reply.freeze()) {
                        return ending;
                    }
                }
                () = self.write_rest() => {}
                () = self.time_is_over(alarm) => {}
                () = self.idles_too_long() => {}
                () = self.changed.notified() => self.take_replies(),
                // What it sent before is still in the pipe; where the pipe stays open, since another
                // process has it, the replies end here all the same.
                _ = child.wait() => {
                    self.state.lock().leaving = true;
                    return self.drain_pipe(replies).await;
                },
            }
        }
    }

    /// The process has ended: takes what it has left in its pipe.
    async fn drain_pipe(self: &Arc<Self>, replies: &mut Replies) -> Ending {
        let draining = async {
            while let Ok(Some(Ok(reply))) = timeout(DRAINING_TIME, replies.next()).await {
                self.take_reply(reply.freeze())?;
            }
            Ok(())
        };
        match timeout(ENDING_TIME, draining).await {
            Ok(Err(ending)) => ending,
            // Or a process that it has forked goes on writing.
            Ok(Ok(())) | Err(_) => Ending::Closed,
        }
    }

    /// There is nothing more to do for the process.
    fn close(&self) {
        let input = {
            let mut state = self.state.lock();
            state.closed = true;
            state.input.take()
        };
        drop(input);
        if let Some(lanes) = &self.lanes {
            lanes.requests().close();
        }
    }

    /// The process takes no more jobs from the board: those that it took are known.
    fn leave_board(&self) {
        self.scheduler.catch_up(After::Nothing);
        self.scheduler.make_room();
        self.takes_as.store(0, Ordering::Relaxed);
    }

    async fn killed(&self) {
        loop {
            let changed = self.changed.notified();
            if self.state.lock().kill {
                return;
            }
            changed.await;
        }
    }
}

/// The link as its scheduler sees it.
impl Runner for Link {
    fn id(&self) -> u64 {
        self.id
    }

    fn rank(&self) -> Option<usize> {
        self.record.rank()
    }

    fn stats(&self) -> WorkerStats {
        let (task, since) = match self.state.lock().held.back() {
            Some(current) => (Some(current.job.name()), Some(current.since)),
            None => (None, None),
        };
        self.record.stats(&self.tally, task, since)
    }

    fn give(self: Arc<Self>, job: Arc<dyn Job>) {
        match self.take_request(&job) {
            Some(request) => self.send(job, request),
            None => self.advance(After::Nothing),
        }
    }

    fn stop(&self) {
        self.close();
    }

    fn kill(&self) -> bool {
        self.state.lock().kill = true;
        self.changed.notify_one();
        true
    }

    fn heed(&self, job: &Arc<dyn Job>, insists: bool) -> Heed {
        let orders = {
            let mut state = self.state.lock();
            let mut held = state.held.iter_mut();
            let Some(current) = held.find(|current| current.is(job)) else {
                return Heed::NotNow;
            };
            let orders = job.orders();
            current.deadline = orders.deadline;
            orders
        };
        let heed = match orders.stop {
            true => self.condemn_for(job, Sentence::Killed, insists),
            false => Heed::Heeded,
        };
        self.changed.notify_one();
        heed
    }

    fn takes_as(&self) -> Option<u16> {
        // Relaxed: the scheduler is locked.
        let index = self.takes_as.load(Ordering::Relaxed);
        u16::try_from(index).ok().filter(|&index| index != 0)
    }

    fn has_taken(self: Arc<Self>, job: Arc<dyn Job>, number: u64) {
        let Some(request) = self.take_request(&job) else {
            return;
        };
        let mut state = self.state.lock();
        // Those that come later find the job here.
        let deadline = job.orders().deadline;
        state.held.push_back(Current {
            job,
            since: Moment::now(),
            deadline,
            request,
            entry: None,
            posted: Some(number),
            piped: None,
            sending: false,
        });
        let needs_alarm = state.needs_alarm(deadline);
        drop(state);
        if needs_alarm {
            self.changed.notify_one();
        }
    }

    fn attend(self: Arc<Self>, patience: Patience, is_over: &dyn Fn() -> bool) -> bool {
        self.take_replies_until(patience, is_over)
    }

    fn ask(&self) {
        if let Some(place) = &self.state.lock().place {
            place.ask();
        }
    }

    fn terminate(&self) -> Vec<SettledJob> {
        let jobs: Vec<_> = {
            let mut state = self.state.lock();
            state.condemn(Sentence::Terminated);
            let held = state.held.iter();
            held.map(|current| Arc::clone(&current.job)).collect()
        };
        self.changed.notify_one();
        // Whoever waits for them need not wait for the process's end.
        let end = |job| settle(job, TaskError::Terminated(Effect::MayHaveRun));
        let ended = jobs.into_iter().map(end).collect();
        self.rouse();
        ended
    }
}
