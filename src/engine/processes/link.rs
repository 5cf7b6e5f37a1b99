//! The parent's end of one worker process.
//!
//! Whoever gives a job to an idle link writes the request itself, as far as the pipe takes it; the
//! link's task on the reactor writes the rest, reads the replies, and sees the process to its end.
//! At most one request is with the process at any time, so when it dies it is known whose it was,
//! and a request of which the process has not read a byte goes to another worker.

use std::{
    os::fd::AsFd,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use futures::StreamExt;
use parking_lot::Mutex;
use rustix::io::{Errno, ioctl_fionread};
use tokio::{net::unix::pipe, process::Child, sync::Notify, time::timeout};
use tokio_util::codec::{FramedRead, LengthDelimitedCodec};

use super::{
    super::{
        Callbacks, Job, Payload, Request, Runner, Scheduler, fail,
        scheduler::{After, Next, Setback},
    },
    launcher::{self, Launched, PIPE_SIZE},
    stderr::Errors,
    wire::{self, Carriage, FromWorker, PROTOCOL, Setup, ToWorker},
};
use crate::{
    arena::{
        self,
        passage::{Luggage, Reach},
        process::Place,
    },
    backend::Backend,
    codec,
    error::{Death, Effect, Killed, TaskError, WorkerDied},
    worker::record::Record,
};

/// A process that has not said hello by then never will.
const GREETING_TIME: Duration = Duration::from_secs(60);

/// How long a process may take to end after it has closed its pipe.
const ENDING_TIME: Duration = Duration::from_secs(5);

/// What a failure may take beyond the largest result.
const FAILURE_LIMIT: usize = 1 << 20;

/// The number of the request that runs the initializer; jobs have others.
const INITIALIZER: u64 = 0;

type Replies = FramedRead<pipe::Receiver, LengthDelimitedCodec>;

pub(super) struct Link {
    id: u64,
    record: Arc<Record>,
    scheduler: Arc<Scheduler>,
    pid: u32,
    errors: Errors,
    state: Mutex<State>,
    /// Tells the link's task that there is something to write, or that the process is to be killed.
    changed: Notify,
}

struct State {
    /// The way to the process; gone once there is nothing more to say, or nobody to hear it.
    input: Option<Arc<pipe::Sender>>,
    current: Option<Current>,
    /// How many jobs the process has completed.
    completed: u64,
    /// Since when it has had nothing to do.
    idle_since: Option<Instant>,
    /// Whether it was told that there are no more.
    closed: bool,
    kill: bool,
    /// Why it is killed, where that is what its job is to be told.
    sentence: Option<Sentence>,
    /// Its place in the memory that it shares, if it does.
    place: Option<Place>,
    /// How the one job of a `Worker` went, as far as is known.
    verdict: Result<(), TaskError>,
    /// The process is gone, and this is how it went.
    death: Option<Death>,
}

/// Why a process is killed on purpose.
enum Sentence {
    /// All workers are.
    Terminated,
    /// Its task is to end.
    Killed,
    /// Its task has taken so long.
    TimeLimit(Duration),
}

/// The job that the process has, or is being given.
struct Current {
    job: Arc<dyn Job>,
    /// When the process is killed for it.
    deadline: Option<Instant>,
    request: Request,
    /// How much of the request is in the pipe.
    written: usize,
    /// Somebody is writing right now, and will look at the state afterwards.
    sending: bool,
}

/// What holds between this process and all workers of one executor.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    /// The default backend of the tasks.
    pub(super) backend: Backend,
    pub(super) max_frame_len: usize,
    pub(super) memory_limit: Option<u64>,
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
    /// It is of no use, for this reason.
    Useless(Setback),
}

impl State {
    /// The process is to be killed; the first reason stays, unless all workers are.
    fn condemn(&mut self, sentence: Sentence) {
        self.kill = true;
        if self.sentence.is_none() || matches!(sentence, Sentence::Terminated) {
            self.sentence = Some(sentence);
        }
    }
}

impl Link {
    pub(super) fn new(
        id: u64,
        record: Arc<Record>,
        scheduler: Arc<Scheduler>,
        pid: u32,
        errors: Errors,
    ) -> Self {
        Link {
            id,
            record,
            scheduler,
            pid,
            errors,
            state: Mutex::new(State {
                input: None,
                current: None,
                completed: 0,
                idle_since: None,
                closed: false,
                kill: false,
                sentence: None,
                place: None,
                verdict: Ok(()),
                death: None,
            }),
            changed: Notify::new(),
        }
    }

    /// From now on the scheduler can kill the process.
    pub(super) fn enlist(self: &Arc<Self>) {
        self.scheduler.enlist(Arc::clone(self) as Arc<dyn Runner>);
    }

    /// Serves the process until it has ended.
    pub(super) async fn drive(self: Arc<Self>, launched: Launched, terms: Terms) {
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
        self.state.lock().place = place;
        let mut replies = FramedRead::new(output, wire::codec(wire::GREETING_LIMIT));
        let ending = self
            .serve(input, &mut replies, &mut child, terms, ticket)
            .await;
        let ends_itself = matches!(ending, Ending::Closed | Ending::ClosedInInitializer);
        if !ends_itself || timeout(ENDING_TIME, child.wait()).await.is_err() {
            // It may have exited by itself just now.
            let _ = child.start_kill();
        }
        let status = child.wait().await;
        let death = match (&ending, status) {
            (Ending::Protocol(what), _) => Death::Protocol(what.clone()),
            (Ending::Silent, _) => Death::Silent,
            (_, Ok(status)) => death_of(status),
            (_, Err(error)) => Death::Protocol(format!("its end could not be observed: {error}")),
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
        // Nobody else may read what this process has left unread.
        drop(replies);
        let place = self.state.lock().place.take();
        if let Some(place) = place {
            bury_in_arena(place).await;
        }
        burial.done = true;
        self.bury(death, setback);
    }

    async fn serve(
        self: &Arc<Self>,
        input: pipe::Sender,
        replies: &mut Replies,
        child: &mut Child,
        terms: Terms,
        ticket: Option<arena::Ticket>,
    ) -> Ending {
        let limit = terms.max_frame_len;
        let greeting = self.greet(input, replies, terms, ticket);
        let greeted = tokio::select! {
            biased;
            greeted = timeout(GREETING_TIME, greeting) => greeted.unwrap_or(Err(Ending::Silent)),
            () = self.killed() => Err(Ending::Killed),
        };
        if let Err(ending) = greeted {
            return ending;
        }
        // A result is at most that large; the description of a failure may be a little more.
        let codec = replies.decoder_mut();
        codec.set_max_frame_length(limit.saturating_add(FAILURE_LIMIT));
        if let Err(ending) = self.initialize(replies, child, terms.carriage()).await {
            return ending;
        }
        self.advance(After::Nothing);
        while !self.state.lock().kill {
            tokio::select! {
                biased;
                reply = replies.next() => {
                    let reply = match checked(reply, replies) {
                        Ok(reply) => reply,
                        Err(ending) => return ending,
                    };
                    if reply.len() > PIPE_SIZE && replies.read_buffer().is_empty() {
                        // Or the buffer would keep the memory of a large result.
                        *replies.read_buffer_mut() = BytesMut::new();
                    }
                    match self.receive(reply) {
                        Ok(job) => {
                            // The process is busy again, or known to be idle, before anybody sees the
                            // result.
                            self.advance(After::task(self.is_spent()));
                            job.publish();
                        }
                        Err(ending) => return ending,
                    }
                }
                () = self.write_rest() => {}
                () = self.time_is_over() => {}
                () = self.idles_too_long() => {}
                () = self.changed.notified() => {}
                // What it sent before is still in the pipe; where the pipe stays open, since another
                // process has it, the replies end here all the same.
                _ = child.wait() => loop {
                    match timeout(ENDING_TIME, replies.next()).await {
                        Ok(Some(Ok(reply))) => match self.receive(reply) {
                            Ok(job) => job.publish(),
                            Err(ending) => return ending,
                        },
                        _ => return Ending::Closed,
                    }
                },
            }
        }
        Ending::Killed
    }

    /// Tells the process what it is, and hears what it is.
    async fn greet(
        &self,
        input: pipe::Sender,
        replies: &mut Replies,
        terms: Terms,
        ticket: Option<arena::Ticket>,
    ) -> Result<(), Ending> {
        let setup = wire::message(&ToWorker::Setup(Setup {
            protocol: PROTOCOL,
            name: self.record.name(),
            daemon: self.record.daemon(),
            rank: self.record.rank().map(|rank| rank as u64),
            memory_limit: terms.memory_limit,
            solo: self.scheduler.is_solo(),
            backend: terms.backend,
            max_frame_len: terms.max_frame_len as u64,
            fingerprint: terms.remote,
            arena: ticket,
        }));
        let input = Arc::new(input);
        // Before anything is said: the process must not see the pipe's end while it is being killed.
        self.state.lock().input = Some(Arc::clone(&input));
        write_all(&input, &setup).await?;
        let reply = replies.next().await;
        let hello = checked(reply, replies)?;
        let (protocol, fingerprint) = match codec::decode_first(&mut &hello[..]) {
            Ok(FromWorker::Hello {
                protocol,
                fingerprint,
            }) => (protocol, fingerprint),
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
    async fn initialize(
        &self,
        replies: &mut Replies,
        child: &mut Child,
        carriage: Carriage,
    ) -> Result<(), Ending> {
        let Some(initializer) = self.scheduler.initializer() else {
            return Ok(());
        };
        let failed = |error| Err(Ending::Useless(Setback::Initializer(error)));
        let frame = match wire::request_encoded(INITIALIZER, initializer, carriage) {
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

    /// Does what comes next, now that the process has nothing to do.
    fn advance(self: &Arc<Self>, after: After) {
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

    fn take_request(self: &Arc<Self>, job: &Arc<dyn Job>) -> Option<Request> {
        let runner = Arc::clone(self) as Arc<dyn Runner>;
        job.take_request(runner, self.scheduler.task_timeout())
    }

    /// Gives a job to the process, which is idle.
    fn send(self: &Arc<Self>, job: Arc<dyn Job>, request: Request) {
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

    /// Writes what is left of the current request; pends if there is nothing to write.
    async fn write_rest(&self) {
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
    async fn time_is_over(&self) {
        let deadline = |state: &State| state.current.as_ref().and_then(|current| current.deadline);
        let Some(at) = deadline(&self.state.lock()) else {
            return std::future::pending().await;
        };
        tokio::time::sleep_until(at.into()).await;
        let mut state = self.state.lock();
        // It may be another job by now.
        if deadline(&state).is_some_and(|deadline| deadline <= Instant::now()) {
            let limit = state
                .current
                .as_ref()
                .and_then(|current| current.job.orders().limit);
            state.condemn(Sentence::TimeLimit(limit.unwrap_or_default()));
        }
    }

    /// Waits until the process has had nothing to do for too long, and lets it go then.
    async fn idles_too_long(&self) {
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
    fn is_spent(&self) -> bool {
        let max = self.scheduler.max_tasks();
        max.is_some_and(|max| self.state.lock().completed >= max)
    }

    /// Takes a reply of the process, and settles the job that it is for.
    fn receive(&self, reply: BytesMut) -> Result<Arc<dyn Job>, Ending> {
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
        let _: Callbacks = current.job.settle(outcome);
        Ok(current.job)
    }

    /// There is nothing more to do for the process.
    fn close(&self) {
        let input = {
            let mut state = self.state.lock();
            state.closed = true;
            state.input.take()
        };
        drop(input);
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

    /// The process is gone: settles what is left of it.
    fn bury(self: &Arc<Self>, death: Death, setback: Option<Setback>) {
        let (current, input) = {
            let mut state = self.state.lock();
            state.death = Some(death.clone());
            (
                state.current.take_if(|current| !current.sending),
                state.input.take(),
            )
        };
        self.scheduler.retire(self.id);
        let unread = input.map_or(0, |input| unread(&input));
        let charged = match current {
            Some(current) => self.abandon(current, unread, death.clone()),
            // Whoever is sending a job at this moment will find out.
            None => self.state.lock().current.is_some(),
        };
        let (useful, verdict) = {
            let state = self.state.lock();
            (
                charged || state.completed > 0 || state.closed,
                state.verdict.clone(),
            )
        };
        let setback = setback.or_else(|| {
            (!useful).then(|| Setback::Death(self.died(death.clone(), None, Effect::DidNotRun)))
        });
        self.record.end(match (&setback, verdict, death) {
            (Some(Setback::Initializer(error) | Setback::Death(error)), ..) => Err(error.clone()),
            (None, Err(error), _) => Err(error),
            (None, Ok(()), Death::Exited(0)) => Ok(()),
            (None, Ok(()), death) => Err(self.died(death, None, Effect::Ran)),
        });
        self.scheduler.ended(self.id, setback);
    }

    /// Settles a job whose process is gone, or gives it to another worker if it has not begun; says
    /// whether it was settled.
    fn abandon(&self, current: Current, unread: u64, death: Death) -> bool {
        let Current {
            job,
            request,
            written,
            ..
        } = current;
        let untouched = unread == written as u64;
        let effect = match untouched {
            true => Effect::DidNotRun,
            false => Effect::MayHaveRun,
        };
        if let Some(error) = self.sentenced(job.name(), effect) {
            fail(job, error);
            return true;
        }
        let solo = self.scheduler.is_solo();
        if untouched && !solo {
            Arc::clone(&job).put_back(request);
            self.scheduler.give_back(job);
            return false;
        }
        let error = self.died(death, Some(job.name()), effect);
        if solo {
            self.state.lock().verdict = Err(error.clone());
        }
        let _: Callbacks = job.settle(Err(error));
        job.publish();
        true
    }

    /// What the job at hand is told if the process was killed on purpose.
    fn sentenced(&self, task: &'static str, effect: Effect) -> Option<TaskError> {
        let killed = |limit| Killed::new(self.record.name(), self.pid, task, effect, limit);
        Some(match self.state.lock().sentence.as_ref()? {
            Sentence::Terminated => TaskError::Terminated,
            Sentence::Killed => TaskError::Killed(killed(None)),
            Sentence::TimeLimit(limit) => TaskError::TimeLimit(killed(Some(*limit))),
        })
    }

    fn died(&self, death: Death, task: Option<&'static str>, effect: Effect) -> TaskError {
        let (name, stderr) = (self.record.name(), self.errors.last_lines());
        TaskError::WorkerDied(WorkerDied::new(name, self.pid, death, task, effect, stderr))
    }
}

/// Buries the process of a link whose task is dropped, which only a mistake of ours could cause.
struct Burial {
    link: Arc<Link>,
    done: bool,
}

impl Drop for Burial {
    fn drop(&mut self) {
        if !self.done {
            let death = Death::Protocol("the thread that served it failed".into());
            self.link.bury(death, None);
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

    fn heed(&self, job: &Arc<dyn Job>) -> bool {
        let mut state = self.state.lock();
        let Some(current) = &mut state.current else {
            return false;
        };
        if !std::ptr::addr_eq(Arc::as_ptr(&current.job), Arc::as_ptr(job)) {
            return false;
        }
        let orders = job.orders();
        current.deadline = orders.deadline;
        if orders.stop {
            state.condemn(Sentence::Killed);
        }
        drop(state);
        self.changed.notify_one();
        true
    }

    fn ask(&self) {
        if let Some(place) = &self.state.lock().place {
            place.ask();
        }
    }

    fn terminate(&self) {
        let job = {
            let mut state = self.state.lock();
            state.condemn(Sentence::Terminated);
            state
                .current
                .as_ref()
                .map(|current| Arc::clone(&current.job))
        };
        self.changed.notify_one();
        // Whoever waits for it need not wait for the process's end.
        if let Some(job) = job {
            fail(job, TaskError::Terminated);
        }
    }
}

/// What follows the header of a reply.
fn result(reply: BytesMut, header_len: usize, luggage: Luggage) -> Payload {
    let mut bytes = reply.freeze();
    bytes.advance(header_len);
    Payload {
        bytes,
        _luggage: luggage,
    }
}

/// Puts in order what the process, which is gone, had in its hands, and what those had that it has
/// started itself.
async fn bury_in_arena(place: Place) {
    const PATIENCE: Duration = Duration::from_millis(1);
    // They end by themselves as well; but who waits for what they hold shall not wait for that.
    for _ in 0..ENDING_TIME.as_millis() {
        if place.end_orphans() {
            break;
        }
        tokio::time::sleep(PATIENCE).await;
    }
    drop(place);
}

/// A frame, or the reason why there is none.
fn checked(
    reply: Option<std::io::Result<BytesMut>>,
    replies: &Replies,
) -> Result<BytesMut, Ending> {
    match reply {
        Some(Ok(reply)) => Ok(reply),
        // It ended in the middle of a frame, or the pipe broke: its exit status says more.
        None => Err(Ending::Closed),
        Some(Err(error)) if error.kind() != std::io::ErrorKind::InvalidData => Err(Ending::Closed),
        Some(Err(_)) => {
            let buffer = replies.read_buffer();
            let len = buffer
                .first_chunk()
                .map_or(0, |len| u64::from_be_bytes(*len));
            let limit = replies.decoder().max_frame_length();
            let start = excerpt(buffer);
            Err(Ending::Protocol(format!(
                "a frame of {len} bytes, where the limit is {limit}; it begins with {start}"
            )))
        }
    }
}

/// The start of what a process said, for a message.
fn excerpt(bytes: &[u8]) -> String {
    format!(
        "{:?}",
        String::from_utf8_lossy(&bytes[..bytes.len().min(64)])
    )
}

/// How many bytes the process has not read.
fn unread(input: &pipe::Sender) -> u64 {
    ioctl_fionread(input.as_fd()).unwrap_or(0)
}

fn death_of(status: std::process::ExitStatus) -> Death {
    use std::os::unix::process::ExitStatusExt;

    match (status.code(), status.signal()) {
        (Some(code), _) => Death::Exited(code),
        (None, Some(signal)) => Death::Signaled(signal),
        (None, None) => Death::Protocol(format!("an end that is none: {status}")),
    }
}

/// Writes as much as the pipe takes, but something.
async fn write_some(input: &pipe::Sender, bytes: &Bytes) -> std::io::Result<usize> {
    loop {
        input.writable().await?;
        match input.try_write(bytes) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
}

async fn write_all(input: &pipe::Sender, bytes: &[u8]) -> Result<(), Ending> {
    let mut rest = Bytes::copy_from_slice(bytes);
    while !rest.is_empty() {
        match write_some(input, &rest).await {
            Ok(written) => rest.advance(written),
            Err(_) => return Err(Ending::Closed),
        }
    }
    Ok(())
}
