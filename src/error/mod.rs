//! What can go wrong, and what it means for a task: whether it ran.

mod primitives;

use std::{fmt, io, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::backend::Backend;

pub use primitives::{
    BarrierError, Full, GetError, NotHeld, NotOwned, Overflow, PutError, TooManyTaskDone,
};

/// Any error of this crate.
///
/// The narrower error types convert into it, so `?` works in a function that returns
/// `Result<_, freethreading::Error>`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Error {
    /// A task gave no result.
    Task(TaskError),
    /// An argument that the call cannot work with; the text says which and why.
    InvalidArgument(String),
    /// `FREETHREADING_BACKEND` holds this, which names no backend.
    InvalidBackend(String),
    /// The backend of the program was decided before, and is this one.
    BackendDecided(Backend),
    /// Process workers need [`init`](crate::init) at the start of `main`, and it was not called.
    NotInitialized,
    /// The platform or the backend has no such operation; the text says what to use instead.
    Unsupported(String),
    /// The system did not let the worker start.
    Start(StartError),
    /// The worker was started before: a worker runs once.
    AlreadyStarted,
    /// The worker was not started yet.
    NotStarted,
    /// The pool was closed or terminated.
    NotRunning,
    /// The pool was neither closed nor terminated, so its workers will not end.
    StillRunning,
    /// A worker cannot wait for its own end; neither can anybody wait for that of the main worker.
    JoinSelf,
    /// The time was up; what was waited for goes on.
    Timeout,
    /// See [`NotHeld`](crate::NotHeld).
    NotHeld,
    /// See [`NotOwned`](crate::NotOwned).
    NotOwned,
    /// See [`Overflow`](crate::Overflow).
    Overflow,
    /// The barrier is broken; see [`BarrierError`](crate::BarrierError).
    BrokenBarrier,
    /// There is no room in the queue; see [`PutError`](crate::PutError) and [`Full`](crate::Full).
    Full,
    /// There is no item in the queue; see [`GetError`](crate::GetError).
    Empty,
    /// See [`TooManyTaskDone`](crate::TooManyTaskDone).
    TooManyTaskDone,
    /// An item of a queue could not be encoded or decoded.
    Codec(CodecError),
    /// There is no memory for primitives, or none that processes can share; the text says why.
    Arena(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Task(error) => error.fmt(f),
            Error::InvalidArgument(why) | Error::Unsupported(why) => f.write_str(why),
            Error::InvalidBackend(value) => write!(
                f,
                "FREETHREADING_BACKEND is `{value}`; it must be `threading` or `multiprocessing`"
            ),
            Error::BackendDecided(backend) => write!(
                f,
                "the backend is {backend} and cannot change any more; call set_backend before anything else of this crate"
            ),
            Error::NotInitialized => f.write_str(
                "process workers re-run this program, so its `main` must begin with \
                 `freethreading::init();` (a test crate needs the line \
                 `freethreading::init_tests!();` at its root instead)",
            ),
            Error::Start(error) => error.fmt(f),
            Error::AlreadyStarted => f.write_str("the worker was started before; make a new one"),
            Error::NotStarted => f.write_str("the worker was not started yet"),
            Error::NotRunning => {
                f.write_str("the pool was closed or terminated; it takes no more work")
            }
            Error::StillRunning => {
                f.write_str("the pool was not closed yet; call close or terminate before join")
            }
            Error::JoinSelf => f.write_str(
                "a worker cannot wait for its own end, nor anybody for the main worker's",
            ),
            Error::Timeout => f.write_str("the time was up"),
            Error::NotHeld => NotHeld.fmt(f),
            Error::NotOwned => NotOwned.fmt(f),
            Error::Overflow => Overflow.fmt(f),
            Error::BrokenBarrier => BarrierError::Broken.fmt(f),
            Error::Full => f.write_str("the queue is full"),
            Error::Empty => GetError::Empty.fmt(f),
            Error::TooManyTaskDone => TooManyTaskDone.fmt(f),
            Error::Codec(error) => error.fmt(f),
            Error::Arena(why) => write!(f, "no memory for the primitive: {why}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Task(error) => error.source(),
            Error::Start(error) => error.source(),
            _ => None,
        }
    }
}

impl From<TaskError> for Error {
    fn from(error: TaskError) -> Self {
        match error {
            TaskError::Timeout => Error::Timeout,
            TaskError::Start(error) => Error::Start(error),
            TaskError::InvalidArgument(why) => Error::InvalidArgument(why.into()),
            error => Error::Task(error),
        }
    }
}

/// Whether a task ran: if not, giving it to a worker again is safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Not a line of the task ran.
    DidNotRun,
    /// The task ran to its end, by returning or by panicking.
    Ran,
    /// The task may have run, wholly, in part or not at all, or may still be running.
    MayHaveRun,
}

/// Why a task gave no result.
///
/// [`effect`](TaskError::effect) says whether the task ran.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TaskError {
    /// The task panicked.
    Panicked(Panic),
    /// The worker that had the task died: it was killed, crashed, exited or broke the protocol.
    WorkerDied(WorkerDied),
    /// The task was cancelled before it started.
    Cancelled,
    /// [`TaskFuture::kill`](crate::TaskFuture::kill) has ended the task, and its worker process.
    Killed(Killed),
    /// The task took longer than it might, and was ended with its worker process: see
    /// [`TaskFuture::kill_after`](crate::TaskFuture::kill_after).
    TimeLimit(Killed),
    /// The executor was shut down before the task was submitted.
    Shutdown,
    /// The task's workers were terminated before it had a result; whether it had begun.
    Terminated(Effect),
    /// The argument or the result could not be encoded.
    Encode(CodecError),
    /// The argument or the result could not be decoded.
    Decode(CodecError),
    /// The argument or the result is larger than a frame may be.
    TooLarge(TooLarge),
    /// The other process does not have this function: it is not the same build of the same program.
    Mismatch(Box<str>),
    /// The function lies in a shared library, which a worker process need not have at the same place.
    SharedLibrary(&'static str),
    /// No worker could be started for it.
    Start(StartError),
    /// The executor is broken for good: its initializer or its workers failed again and again.
    Broken(Broken),
    /// An argument that the call cannot work with; the text says which and why.
    InvalidArgument(&'static str),
    /// The time was up; the task goes on.
    Timeout,
    /// The result was taken before; a result is handed out once.
    Taken,
}

impl TaskError {
    /// Whether the task ran.
    pub fn effect(&self) -> Effect {
        match self {
            TaskError::Panicked(_) | TaskError::Taken => Effect::Ran,
            TaskError::WorkerDied(died) => died.effect(),
            TaskError::Killed(killed) | TaskError::TimeLimit(killed) => killed.effect(),
            TaskError::Encode(error) | TaskError::Decode(error) => error.part().effect(),
            TaskError::TooLarge(error) => error.part().effect(),
            TaskError::Timeout => Effect::MayHaveRun,
            TaskError::Terminated(effect) => *effect,
            TaskError::Cancelled
            | TaskError::Shutdown
            | TaskError::Mismatch(_)
            | TaskError::SharedLibrary(_)
            | TaskError::Start(_)
            | TaskError::InvalidArgument(_)
            | TaskError::Broken(_) => Effect::DidNotRun,
        }
    }
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TaskError::Panicked(panic) => panic.fmt(f),
            TaskError::WorkerDied(died) => died.fmt(f),
            TaskError::Killed(killed) | TaskError::TimeLimit(killed) => killed.fmt(f),
            TaskError::Cancelled => f.write_str("the task was cancelled before it started"),
            TaskError::Shutdown => f.write_str("the executor was shut down; the task did not run"),
            TaskError::Terminated(_) => {
                f.write_str("the workers were terminated; the task may have run")
            }
            TaskError::Encode(error) => write!(f, "cannot encode {error}"),
            TaskError::Decode(error) => write!(f, "cannot decode {error}"),
            TaskError::TooLarge(error) => error.fmt(f),
            TaskError::Mismatch(why) => write!(
                f,
                "the worker process runs another program than this one ({why}); the task did not run"
            ),
            TaskError::SharedLibrary(function) => write!(
                f,
                "`{function}` lies in a shared library, where a worker process cannot find it; \
                 call it from a function of the program itself"
            ),
            TaskError::Start(error) => error.fmt(f),
            TaskError::Broken(error) => error.fmt(f),
            TaskError::InvalidArgument(why) => f.write_str(why),
            TaskError::Timeout => f.write_str("the time was up; the task goes on"),
            TaskError::Taken => f.write_str("the result was taken before"),
        }
    }
}

impl std::error::Error for TaskError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            TaskError::Start(error) => error.source(),
            TaskError::Broken(broken) => Some(broken.cause()),
            _ => None,
        }
    }
}

/// The argument of a task, or its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Part {
    /// What goes to the worker.
    Argument,
    /// What comes back.
    Result,
}

impl Part {
    fn effect(self) -> Effect {
        match self {
            Part::Argument => Effect::DidNotRun,
            Part::Result => Effect::Ran,
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Part::Argument => "argument",
            Part::Result => "result",
        })
    }
}

/// A text for a person to read: at most 64 KiB.
fn shortened(mut text: String) -> String {
    const LIMIT: usize = 64 << 10;
    if text.len() > LIMIT {
        let end = (0..=LIMIT).rev().find(|&end| text.is_char_boundary(end));
        text.truncate(end.unwrap_or(0));
        text.push('…');
    }
    text
}

/// A panic of a task: message, location and, when `RUST_BACKTRACE` asks for it, backtrace.
#[derive(Clone, Serialize, Deserialize)]
pub struct Panic(Box<PanicText>);

#[derive(Clone, Debug, Serialize, Deserialize)]
struct PanicText {
    message: String,
    location: Option<String>,
    backtrace: Option<String>,
}

impl Panic {
    pub(crate) fn new(
        message: String,
        location: Option<String>,
        backtrace: Option<String>,
    ) -> Self {
        Panic(Box::new(PanicText {
            message: shortened(message),
            location,
            backtrace: backtrace.map(shortened),
        }))
    }

    /// What was given to `panic!`.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Where the panic was, as `file:line:column`; `None` if a panic hook set by the program keeps
    /// ours from seeing it.
    pub fn location(&self) -> Option<&str> {
        self.0.location.as_deref()
    }

    /// The backtrace, if `RUST_BACKTRACE` (or `RUST_LIB_BACKTRACE`) asks for one.
    pub fn backtrace(&self) -> Option<&str> {
        self.0.backtrace.as_deref()
    }
}

impl fmt::Debug for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Panic")
            .field("message", &self.message())
            .field("location", &self.location())
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.location() {
            Some(location) => write!(f, "panicked at {location}: {}", self.message()),
            None => write!(f, "panicked: {}", self.message()),
        }
    }
}

/// A value that serde could not carry.
#[derive(Clone, Serialize, Deserialize)]
pub struct CodecError(Box<CodecText>);

#[derive(Clone, Debug, Serialize, Deserialize)]
struct CodecText {
    part: Part,
    is_item: bool,
    type_name: String,
    message: String,
}

impl CodecError {
    pub(crate) fn new(part: Part, type_name: &str, message: &dyn fmt::Display) -> Self {
        CodecError(Box::new(CodecText {
            part,
            is_item: false,
            type_name: type_name.into(),
            message: shortened(message.to_string()),
        }))
    }

    /// The value was an item of a queue.
    pub(crate) fn of_item(mut self) -> Self {
        self.0.is_item = true;
        self
    }

    /// Whether it was the task's argument or its result; a queue's item counts as an argument when it is
    /// put, and as a result when it is taken.
    pub fn part(&self) -> Part {
        self.0.part
    }

    /// The type of the value; that of an argument is the tuple of all arguments.
    pub fn type_name(&self) -> &str {
        &self.0.type_name
    }

    /// What the type's `Serialize` or `Deserialize` said, or what it panicked with.
    pub fn message(&self) -> &str {
        &self.0.message
    }
}

impl fmt::Debug for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CodecText {
            part,
            is_item,
            type_name,
            message,
        } = &*self.0;
        match is_item {
            true => write!(f, "the queue's item of type `{type_name}`: {message}"),
            false => write!(f, "the task's {part} of type `{type_name}`: {message}"),
        }
    }
}

/// An argument or a result that is larger than a frame may be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TooLarge(Box<Sizes>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Sizes {
    part: Part,
    size: u64,
    limit: u64,
}

impl TooLarge {
    pub(crate) fn new(part: Part, size: usize, limit: usize) -> Self {
        TooLarge(Box::new(Sizes {
            part,
            size: size as u64,
            limit: limit as u64,
        }))
    }

    /// Whether it was the task's argument or its result.
    pub fn part(&self) -> Part {
        self.0.part
    }

    /// The size of the frame, in bytes.
    pub fn size(&self) -> u64 {
        self.0.size
    }

    /// The largest frame allowed, in bytes.
    pub fn limit(&self) -> u64 {
        self.0.limit
    }
}

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Sizes { part, size, limit } = *self.0;
        write!(
            f,
            "the task's {part} makes a frame of {size} bytes, the limit is {limit}; raise it with `max_frame_len`"
        )
    }
}

/// How a worker process came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Death {
    /// It exited with this code.
    Exited(i32),
    /// This signal killed it.
    Signaled(i32),
    /// It sent what it must not send, and was killed for it; the text says what.
    Protocol(String),
    /// It did not report for work in time, and was killed for it.
    Silent,
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Death::Exited(code) => write!(f, "exited with code {code}"),
            Death::Signaled(signal) => {
                write!(f, "was killed by signal {signal}")?;
                signal_name(*signal).map_or(Ok(()), |name| write!(f, " ({name})"))
            }
            Death::Protocol(what) => write!(f, "broke the protocol and was killed: {what}"),
            Death::Silent => f.write_str(
                "did not report for work in time and was killed; does every path of `main` reach \
                 `freethreading::init()` first?",
            ),
        }
    }
}

fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGILL => "SIGILL",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGKILL => "SIGKILL",
        libc::SIGUSR1 => "SIGUSR1",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGUSR2 => "SIGUSR2",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGALRM => "SIGALRM",
        libc::SIGTERM => "SIGTERM",
        libc::SIGXCPU => "SIGXCPU",
        _ => return None,
    })
}

/// A worker process that died before it gave the result of a task.
#[derive(Clone)]
pub struct WorkerDied(Arc<DeathReport>);

#[derive(Debug)]
struct DeathReport {
    worker: String,
    pid: u32,
    death: Death,
    task: Option<&'static str>,
    effect: Effect,
    stderr: String,
}

impl WorkerDied {
    pub(crate) fn new(
        worker: String,
        pid: u32,
        death: Death,
        task: Option<&'static str>,
        effect: Effect,
        stderr: String,
    ) -> Self {
        WorkerDied(Arc::new(DeathReport {
            worker,
            pid,
            death,
            task,
            effect,
            stderr,
        }))
    }

    /// The name of the worker.
    pub fn worker(&self) -> &str {
        &self.0.worker
    }

    /// The process id that the worker had.
    pub fn pid(&self) -> u32 {
        self.0.pid
    }

    /// How it came to its end.
    pub fn death(&self) -> &Death {
        &self.0.death
    }

    /// The code that it exited with, if that is how it ended.
    pub fn exit_code(&self) -> Option<i32> {
        match self.0.death {
            Death::Exited(code) => Some(code),
            _ => None,
        }
    }

    /// The signal that killed it, if that is how it ended.
    pub fn signal(&self) -> Option<i32> {
        match self.0.death {
            Death::Signaled(signal) => Some(signal),
            _ => None,
        }
    }

    /// The path of the function of the task that it had, if it had one.
    pub fn task(&self) -> Option<&str> {
        self.0.task
    }

    /// Whether the task ran.
    pub fn effect(&self) -> Effect {
        self.0.effect
    }

    /// The last lines that the worker wrote to its standard error, up to ten, for whichever task; they
    /// were passed on to the program's own as well. Empty if there were none.
    pub fn stderr(&self) -> &str {
        &self.0.stderr
    }
}

impl fmt::Debug for WorkerDied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for WorkerDied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DeathReport {
            worker,
            pid,
            death,
            task,
            effect,
            stderr,
        } = &*self.0;
        write!(f, "worker '{worker}' (process {pid}) {death}; ")?;
        match task {
            Some(task) => write!(f, "its task `{task}` ")?,
            None => f.write_str("the task ")?,
        }
        f.write_str(match effect {
            Effect::DidNotRun => "did not run",
            Effect::Ran => "had run before",
            Effect::MayHaveRun => "may have run",
        })?;
        match stderr.is_empty() {
            true => Ok(()),
            false => write!(f, "; its standard error ended with:\n{stderr}"),
        }
    }
}

/// A task that was ended, with the worker process that ran it.
#[derive(Clone, Debug)]
pub struct Killed(Arc<KillReport>);

#[derive(Debug)]
struct KillReport {
    worker: String,
    pid: u32,
    task: &'static str,
    effect: Effect,
    limit: Option<Duration>,
}

impl Killed {
    pub(crate) fn new(
        worker: String,
        pid: u32,
        task: &'static str,
        effect: Effect,
        limit: Option<Duration>,
    ) -> Self {
        Killed(Arc::new(KillReport {
            worker,
            pid,
            task,
            effect,
            limit,
        }))
    }

    /// The name of the worker.
    pub fn worker(&self) -> &str {
        &self.0.worker
    }

    /// The process id that the worker had.
    pub fn pid(&self) -> u32 {
        self.0.pid
    }

    /// The path of the task's function.
    pub fn task(&self) -> &str {
        self.0.task
    }

    /// Whether the task ran.
    pub fn effect(&self) -> Effect {
        self.0.effect
    }

    /// How long the task might take, if that is why it was ended.
    pub fn limit(&self) -> Option<Duration> {
        self.0.limit
    }
}

impl fmt::Display for Killed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let KillReport {
            worker,
            pid,
            task,
            effect,
            limit,
        } = &*self.0;
        write!(f, "the task `{task}` ")?;
        match limit {
            Some(limit) => write!(f, "took longer than {limit:?} and was ended")?,
            None => f.write_str("was killed")?,
        }
        write!(f, ", with worker '{worker}' (process {pid}); it ")?;
        f.write_str(match effect {
            Effect::DidNotRun => "did not run",
            Effect::Ran => "had run before",
            Effect::MayHaveRun => "may have run",
        })
    }
}

/// The system did not let a worker start.
#[derive(Clone, Debug)]
pub struct StartError(Arc<Refusal>);

#[derive(Debug)]
struct Refusal {
    worker: String,
    cause: io::Error,
}

impl StartError {
    pub(crate) fn new(worker: &str, cause: io::Error) -> Self {
        StartError(Arc::new(Refusal {
            worker: worker.into(),
            cause,
        }))
    }

    /// What the system said.
    pub fn io_error(&self) -> &io::Error {
        &self.0.cause
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cannot start worker '{}': {}",
            self.0.worker, self.0.cause
        )
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0.cause)
    }
}

/// An executor that gave up on its workers.
#[derive(Clone, Debug)]
pub struct Broken {
    initializer: bool,
    attempts: u32,
    cause: Arc<TaskError>,
}

impl Broken {
    pub(crate) fn new(initializer: bool, attempts: u32, cause: TaskError) -> Self {
        Broken {
            initializer,
            attempts,
            cause: Arc::new(cause),
        }
    }

    /// Whether it was the initializer that failed.
    pub fn initializer_failed(&self) -> bool {
        self.initializer
    }

    /// What happened the last time.
    pub fn cause(&self) -> &TaskError {
        &self.cause
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Broken {
            initializer,
            attempts,
            cause,
        } = self;
        let what = if *initializer {
            "the initializer failed"
        } else {
            "workers died before they completed anything"
        };
        write!(
            f,
            "the executor is broken, make a new one: {what} {attempts} times in a row, the last time so: {cause}"
        )
    }
}
