//! How a worker process is started, and what it is given on the way.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    hash::{DefaultHasher, Hasher},
    io::{self, ErrorKind, IoSlice, Read},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    process::Stdio,
    sync::OnceLock,
    time::Duration,
};

use rustix::{
    io::ioctl_fionbio,
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
};
use tokio::{
    net::unix::pipe,
    process::{Child, Command},
};

use super::wire::MARKER;
use crate::{
    arena::{self, Ticket, process::Place},
    descriptors,
};

/// What [`MARKER`] says to a process that finds its pipe and its standard output in a message on
/// its standard input.
pub(super) const HANDED_OVER: &str = "handed-over";

/// What [`MARKER`] says to a process whose standard input and output are the pipes.
pub(super) const ON_STDIO: &str = "on-stdio";

/// Right even after the file was replaced.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// A process that has not said hello by then never will, unless its launcher says otherwise.
pub(super) const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Room in each pipe where all goes through them, so that large payloads need few switches between the processes.
pub(super) const PIPE_SIZE: usize = 1 << 20;

/// A command that starts worker processes in a way of its own: on another host, in a job of a
/// cluster, under a debugger or a tracer.
///
/// By default a worker process is this very executable, run again. A launcher is a command that in
/// the end runs a copy of this executable, whose standard input and output are those of the command. Whether
/// the copy is the same build is checked before it gets any task. What its tasks print goes to its
/// standard error. Primitives cannot be given to such a worker, since it does not share the program's memory.
///
/// The environment variable `FREETHREADING_WORKER` tells the program that it is a worker. It is set for the
/// command. A command that does not pass its environment on, as `ssh`, must set it again: see the example.
///
/// # Examples
///
/// ```no_run
/// use freethreading::{Backend, Launcher, WorkerPoolExecutor};
///
/// # fn main() -> Result<(), freethreading::Error> {
/// freethreading::init();
/// let ssh = Launcher::new("ssh").args(["host", "env", "FREETHREADING_WORKER=on-stdio", "/opt/app"]);
/// let executor = WorkerPoolExecutor::builder()
///     .backend(Backend::Multiprocessing)
///     .launcher(ssh)
///     .build()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Launcher {
    program: OsString,
    args: Vec<OsString>,
    pub(super) start_timeout: Duration,
}

impl Launcher {
    /// A launcher that runs the program, which is looked up in `PATH` if it is a bare name.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Launcher {
            program: program.as_ref().into(),
            args: Vec::new(),
            start_timeout: START_TIMEOUT,
        }
    }

    /// Adds an argument of the command.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().into());
        self
    }

    /// Adds arguments of the command.
    #[must_use]
    pub fn args(self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        args.into_iter().fold(self, Launcher::arg)
    }

    /// How long it may take until the copy has come to [`init`](crate::init()) and reports for work; 60 seconds by default.
    ///
    /// A worker that takes longer is killed, and counts as one that has died before it was of any use: [`Death::Silent`].
    /// A command that waits in line first, as `srun` does, may need more.
    ///
    /// [`Death::Silent`]: crate::Death::Silent
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use freethreading::Launcher;
    ///
    /// let srun = Launcher::new("srun").arg("/opt/app").start_timeout(Duration::from_secs(3600));
    /// ```
    #[must_use]
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.start_timeout = timeout;
        self
    }
}

/// What a worker process finds around it, where that is not what its parent has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Surroundings {
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) current_dir: Option<PathBuf>,
}

impl Surroundings {
    fn apply(&self, command: &mut Command) {
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        if let Some(current_dir) = &self.current_dir {
            command.current_dir(current_dir);
        }
    }

    /// The system does not say what it is that does not exist.
    fn explain(&self, error: io::Error, program: &OsStr) -> io::Error {
        match &self.current_dir {
            Some(dir) if !dir.is_dir() => {
                io::Error::new(error.kind(), format!("{error}: its directory, {dir:?}"))
            }
            _ if error.kind() == ErrorKind::NotFound => {
                io::Error::new(error.kind(), format!("{error}: {}", program.display()))
            }
            _ => error,
        }
    }
}

/// A worker process that was just started.
pub(super) struct Launched {
    pub(super) child: Child,
    pub(super) pid: u32,
    /// Where its requests go.
    pub(super) input: OwnedFd,
    /// Where its replies come from.
    pub(super) output: pipe::Receiver,
    /// Its place in the memory that it shares, if it does.
    pub(super) place: Option<(Place, Ticket)>,
}

/// Starts a worker process, and gives the pipe that is its standard error; the caller must be in the context of a tokio runtime.
///
/// The system call is `posix_spawn`, since nothing here needs code to run between fork and exec.
pub(super) fn launch(
    launcher: Option<&Launcher>,
    surroundings: &Surroundings,
) -> io::Result<(Launched, pipe::Receiver)> {
    descriptors::occupy_standard();
    let (input_end, input) = io::pipe()?;
    let (output, output_end) = io::pipe()?;
    let (errors, errors_end) = io::pipe()?;
    for pipe in [input.as_fd(), output.as_fd(), errors.as_fd()] {
        ioctl_fionbio(pipe, true)?;
    }
    // They were made here, so there is nothing to check.
    let output = pipe::Receiver::from_owned_fd_unchecked(output.into())?;
    let errors = pipe::Receiver::from_owned_fd_unchecked(errors.into())?;
    let mut place = None;
    let mut command = match launcher {
        None => {
            let mut command = Command::new(THIS_PROGRAM);
            let mut args = std::env::args_os();
            if let Some(name) = args.next() {
                command.arg0(name);
            }
            command.args(args);
            arena::ready()?;
            let shared = arena::ticket_for_child();
            let memory = shared.as_ref().map(|&(.., file)| file);
            surroundings.apply(&mut command);
            command
                .env(MARKER, HANDED_OVER)
                .stdin(hand_over(input_end.as_fd(), memory)?);
            place = shared.map(|(place, ticket, _)| (place, ticket));
            command
        }
        Some(launcher) => {
            let mut command = Command::new(&launcher.program);
            surroundings.apply(&mut command);
            command
                .args(&launcher.args)
                .env(MARKER, ON_STDIO)
                .stdin(Stdio::from(OwnedFd::from(input_end)));
            command
        }
    };
    let child = command
        .stdout(Stdio::from(OwnedFd::from(output_end)))
        .stderr(Stdio::from(OwnedFd::from(errors_end)))
        .spawn()
        .map_err(|error| {
            let program = launcher.map_or(OsStr::new(THIS_PROGRAM), |launcher| &launcher.program);
            surroundings.explain(error, program)
        })?;
    if place.is_none() {
        // All goes through the pipes. The kernel may have run out of room for large ones: a small one is slower.
        for pipe in [input.as_fd(), output.as_fd()] {
            let _ = rustix::pipe::fcntl_setpipe_size(pipe, PIPE_SIZE);
        }
    }
    let pid = child.id().expect("the child was not waited for yet");
    if let Some((place, _)) = &place {
        place.fill(pid);
    }
    let launched = Launched {
        pid,
        child,
        input: input.into(),
        output,
        place,
    };
    Ok((launched, errors))
}

/// A socket from which the child receives its end of a pipe, this process's standard output, and the
/// memory that it shares, if there is any.
///
/// Only this way can it be given more than three descriptors without one of them being open, for a
/// moment, to every other child that the program starts meanwhile.
fn hand_over(input: BorrowedFd<'_>, memory: Option<BorrowedFd<'_>>) -> io::Result<Stdio> {
    let (ours, theirs) = UnixStream::pair()?;
    let stdout = std::io::stdout();
    let stdout = stdout.as_fd();
    let fds = [input, stdout, memory.unwrap_or(stdout)];
    let fds = &fds[..if memory.is_some() { 3 } else { 2 }];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(
        control.push(SendAncillaryMessage::ScmRights(fds)),
        "the space was made for three descriptors"
    );
    sendmsg(
        &ours,
        &[IoSlice::new(&[0])],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    Ok(Stdio::from(OwnedFd::from(theirs)))
}

/// A hash of the contents of this executable, to tell another build of it.
pub(super) fn fingerprint() -> io::Result<u64> {
    static FINGERPRINT: OnceLock<u64> = OnceLock::new();
    if let Some(&fingerprint) = FINGERPRINT.get() {
        return Ok(fingerprint);
    }
    let mut file = File::open(THIS_PROGRAM)?;
    let mut hasher = DefaultHasher::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            len => hasher.write(&buffer[..len]),
        }
    }
    Ok(*FINGERPRINT.get_or_init(|| hasher.finish()))
}
