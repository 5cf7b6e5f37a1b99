//! What can go wrong, and what it means for a task: whether it ran.
//!
//! Here is what all errors convert into, and what a task can end with. [`workers`] has what becomes of workers,
//! [`user_code`] what the user's own code does, [`primitives`] what the operations of primitives can return.

mod primitives;
#[cfg(all(test, not(freethreading_loom)))]
mod tests;
mod travel;
mod user_code;
mod workers;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::backend::Backend;

pub use primitives::{
    BarrierError, Full, GetError, NotHeld, NotOwned, Overflow, PutError, TooManyTaskDone,
};
pub use user_code::{CodecError, Panic, Part, TooLarge};
pub use workers::{Broken, Death, Killed, StartError, WorkerDied};

/// Any error of this crate.
///
/// The narrower error types convert into it, so `?` works in a function that returns
/// `Result<_, freethreading::Error>`. Like them it travels, so that a task may return such a `Result` as
/// well.
///
/// The text of an error is the whole text, with that of the error within. Therefore its
/// [`source`](std::error::Error::source) is not that one but, as for an [`io::Error`](std::io::Error), what that
/// one has as its source: whoever prints an error with all its sources prints nothing twice. The error within is
/// had by a match, as in `Error::Task(error)`.
///
/// `Debug` is the variant's name and the text: it is what one sees where `main` returns an error or somebody
/// unwraps one.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Error {
    /// A task gave no result.
    Task(TaskError),
    /// An argument or a setting with which the call cannot work; the text says which and why.
    InvalidArgument(String),
    /// `FREETHREADING_BACKEND` has this value, which names no backend.
    InvalidBackend(String),
    /// The backend of the program was decided before, and is this one.
    BackendDecided(Backend),
    /// Worker processes need [`init`](crate::init()) at the start of `main`, and it was not called.
    NotInitialized,
    /// The platform or the backend has no such operation; the text says what to use instead.
    Unsupported(String),
    /// The system did not let the worker start.
    Start(StartError),
    /// The worker was started before: a worker runs once.
    AlreadyStarted,
    /// The worker was not started yet.
    NotStarted,
    /// The pool was closed or terminated, or the program is ending.
    NotRunning,
    /// The pool was neither closed nor terminated, so its workers will not end.
    StillRunning,
    /// A worker cannot wait for its own end, and nobody can wait for the end of the main worker.
    JoinSelf,
    /// The time was up; what was waited for goes on.
    Timeout,
    /// The lock is not held by anybody; see [`NotHeld`].
    NotHeld,
    /// The lock is not held by the caller; see [`NotOwned`].
    NotOwned,
    /// The semaphore would have too many permits; see [`Overflow`].
    Overflow,
    /// The barrier is broken; see [`BarrierError`].
    BrokenBarrier,
    /// There is no room in the queue, or for a task; see [`PutError`] and [`Full`].
    Full,
    /// There is no item in the queue; see [`GetError`].
    Empty,
    /// The work on all items was done already; see [`TooManyTaskDone`].
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
            Error::NotRunning => f.write_str(
                "the pool was closed or terminated, or the program is ending; it takes no more work",
            ),
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
            Error::Full => f.write_str("there is no room for more"),
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

/// Whether a task ran; if it did not, it is safe to submit it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Effect {
    /// Not a line of the task ran.
    DidNotRun,
    /// The task ran to its end, by returning or by panicking.
    Ran,
    /// The task may have run, wholly, in part or not at all, or may still be running.
    MayHaveRun,
}

impl fmt::Display for Effect {
    /// As it is said of a task, such as `did not run`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Effect::DidNotRun => "did not run",
            Effect::Ran => "had run before",
            Effect::MayHaveRun => "may have run",
        })
    }
}

/// Why a task gave no result.
///
/// [`effect`](TaskError::effect) says whether the task ran. For text and source see [`Error`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum TaskError {
    /// The task panicked.
    Panicked(Panic),
    /// The worker that had the task died: it was killed, crashed, exited or broke the protocol.
    WorkerDied(WorkerDied),
    /// The task was cancelled before it started.
    Cancelled,
    /// [`TaskFuture::kill`](crate::TaskFuture::kill) has ended the task, and with it its worker process.
    Killed(Killed),
    /// The task took longer than it was allowed to, and was ended with its worker process: see
    /// [`TaskFuture::kill_after`](crate::TaskFuture::kill_after).
    TimeLimit(Killed),
    /// The executor was shut down, or the pool closed, before the task was submitted; or the program is ending, and
    /// waits for no more tasks than it does already.
    Shutdown,
    /// The task's workers were terminated before it had a result; the value says whether it had begun.
    Terminated(Effect),
    /// The argument or the result could not be encoded.
    Encode(CodecError),
    /// The argument or the result could not be decoded.
    Decode(CodecError),
    /// The argument or the result is larger than a frame may be.
    TooLarge(TooLarge),
    /// The other process does not have this function: it is not the same build of the same program.
    Mismatch(Box<str>),
    /// The function is in a shared library, which a worker process may have at another place, or not at all.
    SharedLibrary(Box<str>),
    /// No worker could be started for the task.
    Start(StartError),
    /// The executor is broken for good: its initializer or its workers failed again and again.
    Broken(Broken),
    /// An argument with which the call cannot work; the text says which and why.
    InvalidArgument(Box<str>),
    /// The time to wait was up; the task goes on.
    Timeout,
    /// The result was taken before: a result is handed out once.
    Taken,
}

impl TaskError {
    /// Whether the task ran, so that one knows whether it may be submitted again.
    ///
    /// The error of a map is that of one of its items, or chunks of them, and says of this one whether it ran; only
    /// [`Terminated`](TaskError::Terminated) speaks of all.
    ///
    /// # Examples
    ///
    /// ```
    /// use freethreading::{Backend, Effect, WorkerPoolExecutor, task};
    ///
    /// fn send(letter: String) {
    ///     std::process::exit(letter.len() as i32);
    /// }
    ///
    /// # fn main() -> Result<(), freethreading::Error> {
    /// # freethreading::init();
    /// let executor = WorkerPoolExecutor::builder().backend(Backend::Multiprocessing).build()?;
    /// let error = executor.submit(task!(send("hello".to_string()))).result().unwrap_err();
    /// match error.effect() {
    ///     Effect::DidNotRun => println!("not sent, so try again: {error}"),
    ///     Effect::Ran => println!("the task has ended: {error}"),
    ///     Effect::MayHaveRun => println!("find out first whether it was sent: {error}"),
    /// }
    /// # assert_eq!(error.effect(), Effect::MayHaveRun);
    /// # Ok(())
    /// # }
    /// ```
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
            TaskError::Shutdown => f.write_str(
                "the executor was shut down, the pool closed, or the program is ending; the task did not run",
            ),
            TaskError::Terminated(effect) => {
                write!(f, "the workers were terminated; the task {effect}")
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
            TaskError::Broken(error) => error.source(),
            _ => None,
        }
    }
}

// `Debug` is what one sees of an error that `main` returns or somebody unwraps: it has the text, which says what to do.

macro_rules! variant_names {
    ($type:ident: $($variant:ident)*) => {
        impl $type {
            fn variant_name(&self) -> &'static str {
                match self {
                    $($type::$variant { .. } => stringify!($variant),)*
                }
            }
        }
    };
}

variant_names! {
    Error:
    Task InvalidArgument InvalidBackend BackendDecided NotInitialized Unsupported Start AlreadyStarted NotStarted
    NotRunning StillRunning JoinSelf Timeout NotHeld NotOwned Overflow BrokenBarrier Full Empty TooManyTaskDone
    Codec Arena
}

variant_names! {
    TaskError:
    Panicked WorkerDied Cancelled Killed TimeLimit Shutdown Terminated Encode Decode TooLarge Mismatch
    SharedLibrary Start Broken InvalidArgument Timeout Taken
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Task(error) => write!(f, "Task: {error:?}"),
            error => write!(f, "{}: {error}", error.variant_name()),
        }
    }
}

impl fmt::Debug for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {self}", self.variant_name())
    }
}

macro_rules! debug_as_text {
    ($($type:ident)*) => {
        $(impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($type), ": {}"), self)
            }
        })*
    };
}

debug_as_text! { Broken CodecError Killed Panic StartError TooLarge WorkerDied }
