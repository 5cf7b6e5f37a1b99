//! The worker process's side: it takes its pipes, says hello, and runs task after task on its main
//! thread until there are no more. Requests come and replies go through its [`port`].
#![allow(unsafe_code)]

mod port;

use std::{
    env,
    ffi::{CString, OsStr},
    fs::File,
    io::{self, ErrorKind, IoSliceMut, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    process, ptr, thread,
    time::Duration,
};

use bytes::Bytes;
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::{fcntl_dupfd_cloexec, retry_on_intr},
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg},
    process::{Resource, Rlimit, getrlimit, setrlimit},
    stdio,
};
use tokio::runtime::Handle;

use super::{
    launcher::{self, HANDED_OVER, ON_STDIO},
    wire::{self, Call, FromWorker, PROTOCOL, Reply, RunFailure, Setup, ToWorker},
};
use crate::{
    arena::{
        self,
        extent::Extent,
        lane::Lanes,
        passage::{self, Luggage},
    },
    backend,
    codec::{self, Encoded, Freight},
    error::{Part, TooLarge},
    exit, fork,
    task::{
        duty,
        entry::{self, Entry},
    },
    worker::record::{self, Record},
};
use port::{KEEP, Port};

/// What main threads usually have.
const MAIN_STACK_SIZE: usize = 8 << 20;

/// What the thread gets that watches the parent.
const WATCH_STACK_SIZE: usize = 64 * 1024;

/// Works for the process that started this one; returns only by ending the process.
pub(crate) fn work(marker: &OsStr) -> ! {
    extern "C" fn do_nothing(_: libc::c_int) {}

    exit::begin_worker();
    // SAFETY: both are signals, and the handler, which has the required signature, touches nothing. Ctrl-C is
    // the parent's to handle; programs that a task starts do not come to ignore it, as they would if this process did.
    // Where `init` runs before `main`, nobody has taken care of SIGPIPE yet.
    unsafe {
        let do_nothing: extern "C" fn(libc::c_int) = do_nothing;
        libc::signal(libc::SIGINT, do_nothing as libc::sighandler_t);
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
    take_name();
    let served = take_pipes(marker).and_then(|pipes| {
        if Handle::try_current().is_err() {
            return serve(pipes);
        }
        // `init` was called from within a runtime, where a task could not block on one of its own.
        let outside = thread::Builder::new()
            .stack_size(MAIN_STACK_SIZE)
            .spawn(|| serve(pipes))?;
        outside
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("it panicked, which is a bug")))
    });
    if served.is_ok() {
        arena::process::leave();
    }
    process::exit(served.unwrap_or_else(|error| {
        // Nobody is left to work for; whoever ended the parent knows.
        let orphaned = matches!(
            error.kind(),
            ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof
        );
        if !orphaned {
            let pid = process::id();
            let _ = writeln!(io::stderr(), "freethreading: worker process {pid}: {error}");
        }
        1
    }))
}

/// Has the process listed under the program's name, where it would be that of the link by which it was found.
fn take_name() {
    let program = env::args_os().next();
    let name = program.as_deref().map(Path::new).and_then(Path::file_name);
    if let Some(name) = name.and_then(|name| CString::new(name.as_bytes()).ok()) {
        // It is of no use to anything here.
        let _ = rustix::thread::set_name(&name);
    }
}

/// What the parent has given.
struct Pipes {
    input: File,
    output: File,
    memory: Option<OwnedFd>,
}

/// Moves the protocol to descriptors of its own; standard input is empty from now on, and standard
/// output is the parent's.
fn take_pipes(marker: &OsStr) -> io::Result<Pipes> {
    // Not the handles of std, which have buffers.
    let (input, printed, memory) = if marker == HANDED_OVER {
        receive_pipes(stdio::stdin())?
    } else if marker == ON_STDIO {
        // The parent's standard output is out of reach: it may be on another host.
        (
            set_apart(stdio::stdin())?,
            set_apart(stdio::stderr())?,
            None,
        )
    } else {
        return Err(io::Error::other(format!(
            "{} is {marker:?}, which is for worker processes, and says nothing to one",
            wire::MARKER
        )));
    };
    let output = set_apart(stdio::stdout())?;
    stdio::dup2_stdin(File::open("/dev/null")?)?;
    stdio::dup2_stdout(printed)?;
    Ok(Pipes {
        input: File::from(input),
        output: File::from(output),
        memory,
    })
}

/// The same, with a number that no task comes to by mistake: neither a standard one nor one of the lowest. Those are
/// what code that closes a descriptor twice closes for somebody else.
fn set_apart(descriptor: impl AsFd) -> io::Result<OwnedFd> {
    /// The table that every process has at first is large enough for these.
    const LOWEST: RawFd = 40;

    let descriptor = descriptor.as_fd();
    // The process may be allowed fewer descriptors than that.
    let set_apart = fcntl_dupfd_cloexec(descriptor, LOWEST);
    Ok(set_apart.or_else(|_| fcntl_dupfd_cloexec(descriptor, 3))?)
}

/// The descriptors that the parent has put into the socket: the pipe, its standard output, and the
/// memory that it shares, if it does.
fn receive_pipes(socket: impl AsFd) -> io::Result<(OwnedFd, OwnedFd, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut fds = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten();
    match (fds.next(), fds.next()) {
        (Some(input), Some(stdout)) => {
            let memory = fds.next().map(set_apart).transpose()?;
            Ok((set_apart(input)?, stdout, memory))
        }
        _ => Err(io::Error::other(format!(
            "{} is set, but there are no pipes on standard input",
            wire::MARKER
        ))),
    }
}

/// Runs tasks until the parent closes the pipe; gives the code to exit with.
fn serve(pipes: Pipes) -> io::Result<i32> {
    let Pipes {
        input,
        output,
        memory,
    } = pipes;
    watch_parent(&output)?;
    let mut port = Port::new(input, output);
    let Some(setup) = port.next()? else {
        return Ok(0);
    };
    let setup = match codec::decode_first(&mut &setup[..]) {
        Ok(ToWorker::Setup(setup)) if setup.protocol == PROTOCOL => setup,
        _ => return Err(io::Error::other("the parent speaks another protocol")),
    };
    let limit = usize::try_from(setup.max_frame_len).unwrap_or(usize::MAX);
    // Where the memory cannot be had, tasks that are given a primitive fail, and say why.
    let adopted = memory
        .zip(setup.arena)
        .is_some_and(|(memory, ticket)| arena::adopt(memory, ticket).is_ok());
    if !adopted {
        passage::parent_is_beyond();
    }
    port.set_limit(limit);
    let (solo, max_tasks) = (setup.solo, setup.max_tasks);
    let hello = FromWorker::Hello {
        protocol: PROTOCOL,
        fingerprint: match setup.fingerprint {
            true => Some(launcher::fingerprint()?),
            false => None,
        },
        shares: adopted,
    };
    port.reply(&wire::message(&hello), Luggage::default())?;
    let lanes = setup.lanes.filter(|_| adopted).map(Lanes::of_parent);
    if let Some(limit) = setup.memory_limit {
        limit_memory(limit)?;
    }
    let initializes = setup.initializes;
    become_worker(setup);

    let mut frame = Vec::new();
    let mut failed = false;
    if initializes && let Some(request) = port.next()? {
        let luggage = answer(request, &mut frame, limit)?;
        port.reply(&frame, luggage.unwrap_or_default())?;
    }
    if let Some(lanes) = lanes.transpose()? {
        port.use_lanes(lanes, max_tasks)?;
    }
    while let Some(request) = port.next()? {
        let luggage = answer(request, &mut frame, limit)?;
        failed = luggage.is_none();
        port.reply(&frame, luggage.unwrap_or_default())?;
        if frame.capacity() > KEEP && frame.len() < frame.capacity() / 4 {
            frame = Vec::new();
        }
    }
    Ok(i32::from(solo && failed))
}

fn become_worker(setup: Setup) {
    fork::watch();
    backend::inherit(setup.backend);
    let record = Record::of_process(setup.name, setup.daemon);
    if let Some(rank) = setup.rank {
        // A rank that this machine cannot count to is that of no worker.
        let _ = usize::try_from(rank).map(|rank| record.set_rank(rank));
    }
    record::set_process_worker(record);
}

/// From now on this process has at most so many bytes of memory of its own. What it shares with others
/// does not count.
fn limit_memory(limit: u64) -> io::Result<()> {
    // It may have been limited before, which cannot be undone.
    let maximum = getrlimit(Resource::Data).maximum;
    let limit = Some(maximum.map_or(limit, |maximum| maximum.min(limit)));
    let limit = Rlimit {
        current: limit,
        maximum: limit,
    };
    setrlimit(Resource::Data, limit)
        .map_err(|error| io::Error::other(format!("its memory cannot be limited: {error}")))
}

/// Runs one task and leaves its reply in `frame`; gives what the result names if the task went well.
fn answer(request: Bytes, frame: &mut Vec<u8>, limit: usize) -> io::Result<Option<Luggage>> {
    let mut payload = &request[..];
    let (call, extent) = match codec::decode_first(&mut payload) {
        Ok(ToWorker::Run(call)) => (call, None),
        Ok(ToWorker::RunOn(call, extent)) => (call, Some(extent)),
        other => return Err(io::Error::other(format!("unexpected request: {other:?}"))),
    };
    let Call {
        id,
        function,
        reply,
        origin,
    } = call;
    // First of all: now it is this process's to free, whatever becomes of the task.
    let payload = match extent {
        None => Encoded::Bytes(payload),
        Some(name) => Encoded::Extent(
            Extent::take_from_parent(name)
                .ok_or_else(|| io::Error::other(format!("there are no arguments at {name:?}")))?,
        ),
    };
    wire::begin(frame, &FromWorker::Done { id });
    let done = match Entry::find(function) {
        Ok(entry) => {
            let wanted = reply == Reply::Value;
            let run = || entry.run(payload, wanted.then_some(entry::Reply { frame, limit }));
            let run = || origin.run(entry.function_name(), run);
            fork::once(|| duty::run(run)).map_err(RunFailure::Task)
        }
        Err(why) => Err(RunFailure::Mismatch(why)),
    };
    // The arguments' buffer is free for the next request.
    drop(request);
    let done =
        done.and_then(|freight| pack(freight, frame, id, limit).map_err(RunFailure::TooLarge));
    match done {
        Ok(luggage) => Ok(Some(luggage)),
        Err(failure) => {
            *frame = wire::message(&FromWorker::Failed { id, failure });
            Ok(None)
        }
    }
}

/// Makes the frame of a reply complete; gives the primitives that the result names.
fn pack(freight: Freight, frame: &mut Vec<u8>, id: u64, limit: usize) -> Result<Luggage, TooLarge> {
    let Freight {
        luggage,
        extent,
        excess,
    } = freight;
    wire::admit(frame, excess, Part::Result, limit)?;
    match extent {
        Some(extent) => {
            let header = FromWorker::DoneIn {
                id,
                luggage: luggage.ids(),
                extent: extent.name(),
            };
            wire::refer(frame, &extent, &header, Part::Result, limit)?;
            // The parent will take it.
            extent.leave();
        }
        None => {
            if !luggage.is_empty() {
                name_luggage(frame, id, &luggage);
            }
            wire::finish(frame, Part::Result, limit)?;
        }
    }
    Ok(luggage)
}

/// Puts the names of primitives into the header of a reply.
fn name_luggage(frame: &mut Vec<u8>, id: u64, luggage: &Luggage) {
    let mut plain = Vec::new();
    wire::begin(&mut plain, &FromWorker::Done { id });
    let payload = frame.split_off(plain.len());
    let luggage = luggage.ids();
    wire::begin(frame, &FromWorker::DoneWith { id, luggage });
    frame.extend(payload);
}

/// Ends this process as soon as nobody can read its replies any more, whatever it is doing then.
fn watch_parent(output: &File) -> io::Result<()> {
    /// How long until the system may let this process wait.
    const PAUSE: Duration = Duration::from_millis(100);

    extern "C" fn watch(output: *mut libc::c_void) -> *mut libc::c_void {
        // SAFETY: the descriptor was made for this thread, which never closes it.
        let output = unsafe { BorrowedFd::borrow_raw(output.addr() as RawFd) };
        // No events are asked for, so only an error or a hang-up ends the wait.
        let mut fds = [PollFd::new(&output, PollFlags::empty())];
        while retry_on_intr(|| poll(&mut fds, None)).is_err() {
            // The system refuses that, as where a task has left no descriptors to this process.
            thread::sleep(PAUSE);
        }
        // SAFETY: `_exit` takes no pointers, and nothing of this process is wanted now.
        unsafe { libc::_exit(1) }
    }

    let output = set_apart(output)?.into_raw_fd();
    let start = |stack_size| {
        let (mut attributes, mut thread) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        // SAFETY: the calls write what is not initialised, in this order, and copy what they are given. The
        // thread uses the pointer as the number that it is, and no memory of this one.
        unsafe {
            libc::pthread_attr_init(attributes.as_mut_ptr());
            libc::pthread_attr_setstacksize(attributes.as_mut_ptr(), stack_size);
            let output = ptr::without_provenance_mut(output as usize);
            let result =
                libc::pthread_create(thread.as_mut_ptr(), attributes.as_ptr(), watch, output);
            libc::pthread_attr_destroy(attributes.as_mut_ptr());
            result
        }
    };
    // A thread of std's would take three times as long to start, which is a good part of what starting a
    // process takes. A program may have more thread-locals than fit into a small stack.
    match start(WATCH_STACK_SIZE) {
        0 => Ok(()),
        _ => match start(MAIN_STACK_SIZE) {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error)),
        },
    }
}

/// Whether the environment says that this process is a worker; the marker is taken out, so that
/// programs that a task starts do not take themselves for workers.
pub(crate) fn take_marker() -> Option<std::ffi::OsString> {
    let marker = env::var_os(wire::MARKER)?;
    // SAFETY: only a worker process comes here, with the first thing that it does. If there are other
    // threads, they are those of a runtime that has not been given anything to do: nobody reads the
    // environment behind std's back.
    unsafe { env::remove_var(wire::MARKER) };
    Some(marker)
}
