//! What the user's own code did: it panicked, or what it gave cannot travel.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Effect;

/// The argument of a task, or its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Part {
    /// What goes to the worker.
    Argument,
    /// What comes back.
    Result,
}

impl Part {
    pub(super) fn effect(self) -> Effect {
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
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Panic(Box<PanicText>);

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
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

    /// What was given to `panic!`, shortened to 64 KiB.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Where the panic was, as `file:line:column`; `None` if a panic hook that the program has set does not call the
    /// one that was there before.
    pub fn location(&self) -> Option<&str> {
        self.0.location.as_deref()
    }

    /// The backtrace, if `RUST_BACKTRACE` (or `RUST_LIB_BACKTRACE`) asks for one.
    pub fn backtrace(&self) -> Option<&str> {
        self.0.backtrace.as_deref()
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

impl std::error::Error for Panic {}

/// A value that serde could not carry.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodecError(Box<CodecText>);

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
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

    /// Whether the value was the task's argument or its result. A queue's item counts as an argument when it is
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

impl std::error::Error for CodecError {}

/// An argument or a result that is larger than a frame may be; see
/// [`max_frame_len`](crate::Builder::max_frame_len).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TooLarge(Box<Sizes>);

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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

impl std::error::Error for TooLarge {}
