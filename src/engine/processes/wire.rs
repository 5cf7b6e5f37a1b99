//! What goes over the pipes between a process and its worker processes.
//!
//! A frame is a length (8 bytes, big-endian), a header in bincode, and for requests and results the
//! payload, which is encoded straight behind its header. A frame is built in the buffer that it is
//! written from, and a payload is decoded from the buffer that it was read into.
//!
//! Where the two share memory, small frames go through [lanes](arena::lane) in it; the pipes carry those that
//! do not fit there, and an empty frame that makes the parent look into its lane. Of replies a lane never says that they
//! are elsewhere, but where a task has written to the pipe: then nothing that comes there counts. Small requests may also be on a
//! [board](arena::board), for whichever process is ready first.
//!
//! A large payload is in an [extent](arena::extent) of the memory that the processes share instead, and the
//! header names it: a process takes it with the frame. What a process has named in a frame that was
//! not read yet is still its own, and is freed with all that it has should it be killed.

use std::io::Read;

use serde::{Deserialize, Serialize};
use tokio_util::codec::LengthDelimitedCodec;

use super::tidy;
use crate::{
    arena::{
        self,
        extent::{Extent, ExtentName},
        passage::{Luggage, Reach},
    },
    backend::Backend,
    codec::{self, Freight},
    engine::{Carriage, Request},
    error::{Part, TaskError, TooLarge},
    task::{
        encoded::EncodedTask,
        entry::{Entry, Failure, FunctionId},
    },
    trace::Origin,
};

/// The environment variable that makes a process a worker of the process that started it.
pub(crate) const MARKER: &str = "FREETHREADING_WORKER";

/// Distinguishes this protocol from whatever else a program may write, and from its other versions.
pub(super) const PROTOCOL: u64 = 0xf4ee_7412_ead1_0006;

/// The largest frame until both sides know each other.
pub(super) const GREETING_LIMIT: usize = 64 * 1024;

/// The same for what the parent says first: names may be long.
pub(super) const SETUP_LIMIT: usize = 16 * 1024 * 1024;

/// Bytes of the length in front of every frame.
pub(crate) const PREFIX: usize = 8;

/// A frame without anything in it: makes the parent look into its lane.
pub(super) const BELL: [u8; PREFIX] = [0; PREFIX];

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToWorker {
    Setup(Setup),
    /// The payload, the encoded arguments, follows.
    Run(Call),
    /// The payload is in an extent of the parent's.
    RunOn(Call, ExtentName),
}

/// A task for a worker process, but for its arguments.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Call {
    pub(super) id: u64,
    pub(super) function: FunctionId,
    pub(super) reply: Reply,
    /// Where the task comes from.
    pub(super) origin: Origin,
}

/// What a worker process has to know before its first task.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Setup {
    pub(super) protocol: u64,
    pub(super) name: String,
    pub(super) daemon: bool,
    /// Its number within its crew.
    pub(super) rank: Option<u64>,
    /// How much memory it may have of its own, in bytes.
    pub(super) memory_limit: Option<u64>,
    /// How many tasks it may run.
    pub(super) max_tasks: Option<u64>,
    /// Whether it ends after one task, with a code that says how that went.
    pub(super) solo: bool,
    /// The default backend of the program.
    pub(super) backend: Backend,
    pub(super) max_frame_len: u64,
    /// Whether to say what executable this is, since it may be another one.
    pub(super) fingerprint: bool,
    /// How to use the memory that was handed over, if any was.
    pub(super) arena: Option<arena::Ticket>,
    /// Which block of it has the lanes for frames, if one has.
    pub(super) lanes: Option<u32>,
    /// Whether the first request, which comes through the pipe, runs the initializer.
    pub(super) initializes: bool,
}

/// Whether a task's result is sent back or dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Reply {
    Value,
    Nothing,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromWorker {
    Hello {
        protocol: u64,
        fingerprint: Option<u64>,
        /// It uses the memory that was handed over.
        shares: bool,
    },
    /// The payload, the encoded result, follows.
    Done {
        id: u64,
    },
    Failed {
        id: u64,
        failure: RunFailure,
    },
    /// `Done` with a result that names primitives, which the worker holds until it hears of its parent
    /// again.
    DoneWith {
        id: u64,
        luggage: Vec<u64>,
    },
    /// `DoneWith` with the payload in an extent of the worker's.
    DoneIn {
        id: u64,
        luggage: Vec<u64>,
        extent: ExtentName,
    },
}

/// Why a worker process has no result.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum RunFailure {
    Task(Failure),
    TooLarge(TooLarge),
    Mismatch(String),
}

impl From<RunFailure> for TaskError {
    fn from(failure: RunFailure) -> TaskError {
        match failure {
            RunFailure::Task(failure) => failure.into(),
            RunFailure::TooLarge(error) => TaskError::TooLarge(error),
            RunFailure::Mismatch(why) => TaskError::Mismatch(why.into()),
        }
    }
}

/// Reads frames of at most `limit` bytes.
pub(super) fn codec(limit: usize) -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder()
        .length_field_length(PREFIX)
        .max_frame_length(limit)
        .new_codec()
}

/// Empties `frame` and begins a new one: room for the length, then the header.
pub(super) fn begin<H: Serialize>(frame: &mut Vec<u8>, header: &H) {
    frame.clear();
    frame.extend_from_slice(&[0; PREFIX]);
    let mut none = Luggage::default();
    codec::encode(header, frame, Part::Argument, Reach::Beyond, &mut none)
        .expect("headers are plain data");
}

/// Puts the length in front of a frame that is complete, unless it is too large.
pub(super) fn finish(frame: &mut [u8], part: Part, limit: usize) -> Result<(), TooLarge> {
    let len = frame.len() - PREFIX;
    check(len, part, limit)?;
    frame[..PREFIX].copy_from_slice(&(len as u64).to_be_bytes());
    Ok(())
}

/// Refuses a payload of so many bytes that was left out of the frame since it is too large.
pub(super) fn admit(frame: &[u8], excess: usize, part: Part, limit: usize) -> Result<(), TooLarge> {
    check((frame.len() - PREFIX).saturating_add(excess), part, limit)
}

fn check(len: usize, part: Part, limit: usize) -> Result<(), TooLarge> {
    match len <= limit {
        true => Ok(()),
        false => Err(TooLarge::new(part, len, limit)),
    }
}

/// Makes the frame of a payload that is in an extent, if it is not too large: a header alone, after one
/// that was begun for a payload behind it.
pub(super) fn refer<H: Serialize>(
    frame: &mut Vec<u8>,
    extent: &Extent,
    header: &H,
    part: Part,
    limit: usize,
) -> Result<(), TooLarge> {
    check(frame.len() - PREFIX + extent.len(), part, limit)?;
    begin(frame, header);
    finish(frame, part, limit)
}

/// A frame without a payload.
pub(super) fn message<H: Serialize>(header: &H) -> Vec<u8> {
    let mut frame = Vec::new();
    begin(&mut frame, header);
    finish(&mut frame, Part::Argument, usize::MAX).expect("there is no limit");
    frame
}

/// The frame that asks a worker process to call a function.
pub(crate) fn request<A: Serialize>(
    id: u64,
    entry: &'static Entry,
    reply: Reply,
    carriage: Carriage,
    args: &A,
) -> Result<Request, TaskError> {
    let Carriage {
        max_frame_len: limit,
        reach,
    } = carriage;
    let header = call(id, entry, reply, Origin::here())?;
    let mut frame = Vec::new();
    begin(&mut frame, &header);
    let Freight {
        luggage,
        extent,
        excess,
    } = codec::ship(args, &mut frame, Part::Argument, reach, limit).map_err(TaskError::Encode)?;
    admit(&frame, excess, Part::Argument, limit).map_err(TaskError::TooLarge)?;
    match &extent {
        Some(extent) => {
            tidy::later();
            let header = header.on(extent.name());
            refer(&mut frame, extent, &header, Part::Argument, limit)
        }
        None => finish(&mut frame, Part::Argument, limit),
    }
    .map_err(TaskError::TooLarge)?;
    Ok(Request {
        id,
        frame: frame.into(),
        extent,
        luggage,
        posting: None,
    })
}

/// The same with arguments that are encoded already.
pub(super) fn request_encoded(
    id: u64,
    task: &EncodedTask,
    carriage: Carriage,
) -> Result<Vec<u8>, TaskError> {
    let mut frame = Vec::new();
    begin(
        &mut frame,
        &call(id, task.entry, Reply::Nothing, Origin::none())?,
    );
    frame.extend_from_slice(&task.payload);
    task.check(carriage.reach).map_err(TaskError::Encode)?;
    finish(&mut frame, Part::Argument, carriage.max_frame_len).map_err(TaskError::TooLarge)?;
    Ok(frame)
}

/// Has the arguments of a request behind its header, for a worker that does not reach them elsewhere.
pub(super) fn enclose(request: Request) -> Request {
    let Some(extent) = &request.extent else {
        return request;
    };
    let Ok(ToWorker::RunOn(call, _)) = codec::decode_first(&mut &request.frame[PREFIX..]) else {
        unreachable!("a request with an extent has such a header");
    };
    let mut frame = Vec::new();
    begin(&mut frame, &ToWorker::Run(call));
    frame.reserve(extent.len());
    let read = extent.reader().read_to_end(&mut frame);
    read.expect("memory can be read");
    finish(&mut frame, Part::Argument, usize::MAX).expect("it was checked when it was made");
    Request {
        frame: frame.into(),
        extent: None,
        ..request
    }
}

fn call(
    id: u64,
    entry: &'static Entry,
    reply: Reply,
    origin: Origin,
) -> Result<ToWorker, TaskError> {
    let function = entry
        .id()
        .ok_or_else(|| TaskError::SharedLibrary(entry.function_name().into()))?;
    Ok(ToWorker::Run(Call {
        id,
        function,
        reply,
        origin,
    }))
}

impl ToWorker {
    /// The same with the payload there.
    fn on(self, extent: ExtentName) -> ToWorker {
        match self {
            ToWorker::Run(call) => ToWorker::RunOn(call, extent),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::{collection::vec, prelude::*};
    use tokio_util::codec::Decoder;

    use super::*;

    fn decode_all(bytes: &[u8], limit: usize) -> Result<Vec<BytesMut>, std::io::Error> {
        let (mut codec, mut buffer) = (codec(limit), BytesMut::from(bytes));
        let mut frames = Vec::new();
        while let Some(frame) = codec.decode(&mut buffer)? {
            frames.push(frame);
        }
        Ok(frames)
    }

    proptest! {
        #[test]
        fn what_is_framed_is_read_back(payloads in vec(vec(any::<u8>(), 0..300), 0..5), id: u64) {
            let mut stream = Vec::new();
            for payload in &payloads {
                let mut frame = Vec::new();
                begin(&mut frame, &FromWorker::Done { id });
                frame.extend(payload);
                finish(&mut frame, Part::Result, 1000).unwrap();
                stream.extend(frame);
            }
            let frames = decode_all(&stream, 1000).unwrap();
            prop_assert_eq!(frames.len(), payloads.len());
            for (frame, payload) in frames.iter().zip(&payloads) {
                let mut rest = &frame[..];
                let header = codec::decode_first(&mut rest);
                let Ok(FromWorker::Done { id: read }) = header else {
                    panic!("another header: {header:?}");
                };
                prop_assert_eq!(read, id);
                prop_assert_eq!(rest, &payload[..]);
            }
        }

        #[test]
        fn noise_is_an_error_or_nothing(noise in vec(any::<u8>(), 0..200)) {
            let _ = codec::decode_first::<FromWorker>(&mut &noise[..]);
            let _ = codec::decode_first::<ToWorker>(&mut &noise[..]);
            for frame in decode_all(&noise, 100).unwrap_or_default() {
                prop_assert!(frame.len() <= 100);
            }
        }

        #[test]
        fn a_damaged_header_does_no_harm(id: u64, position in 0usize..40, bit in 0u8..8) {
            let failure = RunFailure::TooLarge(TooLarge::new(Part::Result, 5, 4));
            let mut frame = message(&FromWorker::Failed { id, failure });
            let position = position % frame.len();
            frame[position] ^= 1 << bit;
            for frame in decode_all(&frame, 1000).unwrap_or_default() {
                let _ = codec::decode_first::<FromWorker>(&mut &frame[..]);
            }
        }

        #[test]
        fn a_frame_over_the_limit_names_both_sizes(len in 0usize..2000, limit in 0usize..2000) {
            let mut frame = vec![0; PREFIX + len];
            match finish(&mut frame, Part::Argument, limit) {
                Ok(()) => prop_assert!(len <= limit),
                Err(error) => {
                    prop_assert!(len > limit);
                    prop_assert_eq!((error.size(), error.limit()), (len as u64, limit as u64));
                }
            }
        }
    }
}
