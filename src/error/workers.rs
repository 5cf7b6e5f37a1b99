//! What became of workers.

use std::{
    fmt, io,
    panic::{RefUnwindSafe, UnwindSafe},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    Effect, TaskError,
    travel::{io_error, shared},
};

/// How a worker process came to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Death {
    /// It exited with this code.
    Exited(i32),
    /// This signal killed it.
    Signaled(i32),
    /// It sent something that it must not send, and was killed for it; the text says what.
    Protocol(String),
    /// It did not report for work in time, and was killed for it: most likely its `main` never came to
    /// [`init`](crate::init()), or its launcher takes longer than
    /// [it may](crate::Launcher::start_timeout).
    Silent,
    /// Nobody knows, for the reason in the text: some other code of the program has waited for the process, or the
    /// program ignores `SIGCHLD`.
    Unobserved(String),
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
            Death::Unobserved(why) => write!(f, "ended, and how could not be observed: {why}"),
            Death::Silent => f.write_str(
                "did not report for work in time and was killed; does every path of `main` reach \
                 `freethreading::init()` first? A launcher that takes longer needs a `start_timeout`",
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
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerDied(#[serde(with = "shared")] Arc<DeathReport>);

#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct DeathReport {
    worker: String,
    pid: u32,
    death: Death,
    task: Option<String>,
    effect: Effect,
    stderr: String,
}

impl WorkerDied {
    pub(crate) fn new(
        worker: String,
        pid: u32,
        death: Death,
        task: Option<&str>,
        effect: Effect,
        stderr: String,
    ) -> Self {
        WorkerDied(Arc::new(DeathReport {
            worker,
            pid,
            death,
            task: task.map(str::to_owned),
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
        self.0.task.as_deref()
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
        effect.fmt(f)?;
        match stderr.is_empty() {
            true => Ok(()),
            false => write!(f, "; its standard error ended with:\n{stderr}"),
        }
    }
}

impl std::error::Error for WorkerDied {}

/// A task that was ended, together with the worker process that ran it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Killed(#[serde(with = "shared")] Arc<KillReport>);

#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct KillReport {
    worker: String,
    pid: u32,
    task: String,
    effect: Effect,
    limit: Option<Duration>,
}

impl Killed {
    pub(crate) fn new(
        worker: String,
        pid: u32,
        task: &str,
        effect: Effect,
        limit: Option<Duration>,
    ) -> Self {
        Killed(Arc::new(KillReport {
            worker,
            pid,
            task: task.into(),
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
        &self.0.task
    }

    /// Whether the task ran.
    pub fn effect(&self) -> Effect {
        self.0.effect
    }

    /// The time limit that the task has exceeded, if that is why it was ended.
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
        write!(f, ", with worker '{worker}' (process {pid}); it {effect}")
    }
}

impl std::error::Error for Killed {}

/// The system did not let a worker start.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartError(#[serde(with = "shared")] Arc<Refusal>);

#[derive(Serialize, Deserialize)]
struct Refusal {
    worker: String,
    #[serde(with = "io_error")]
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

// What the system said stays as it is.
impl UnwindSafe for StartError {}
impl RefUnwindSafe for StartError {}

/// The system's error is equal to one that has the same kind and says the same.
impl PartialEq for Refusal {
    fn eq(&self, other: &Self) -> bool {
        let parts = |refusal: &Refusal| (refusal.cause.kind(), refusal.cause.to_string());
        self.worker == other.worker && parts(self) == parts(other)
    }
}

impl Eq for Refusal {}

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
        self.0.cause.source()
    }
}

/// An executor or a pool that gave up on its workers; see [`initializer`](crate::Builder::initializer).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broken {
    initializer: bool,
    attempts: u32,
    #[serde(with = "shared")]
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

    /// What happened to the last worker that was tried.
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
            "the executor or pool is broken, make a new one: {what} {attempts} times in a row, the last time so: {cause}"
        )
    }
}

impl std::error::Error for Broken {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.source()
    }
}
