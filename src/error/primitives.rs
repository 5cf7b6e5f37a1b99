//! What the operations of the primitives can return.

use std::{error, fmt};

use serde::{Deserialize, Serialize};

use super::{CodecError, Error, TaskError};

/// The lock is not held by anybody, so it cannot be released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotHeld;

impl fmt::Display for NotHeld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the lock is not held; acquire it before releasing it")
    }
}

/// The lock is not held by the caller, who therefore can neither release it, nor wait, nor notify.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotOwned;

impl fmt::Display for NotOwned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the lock is not held by the caller; acquire it first")
    }
}

/// The semaphore would have more permits than it can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overflow;

impl fmt::Display for Overflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the semaphore was released too many times")
    }
}

/// [`task_done`](crate::Queue::task_done) was called more often than items were put.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TooManyTaskDone;

impl fmt::Display for TooManyTaskDone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("task_done was called more often than items were put")
    }
}

/// Why a barrier was not passed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum BarrierError {
    /// The barrier is broken, or broke during the wait: one of those who waited gave up or died, or it was aborted
    /// or reset.
    Broken,
    /// The barrier's action failed. Who has run it gets this error; the others get `Broken`.
    Action(TaskError),
}

impl fmt::Display for BarrierError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BarrierError::Broken => f.write_str("the barrier is broken; reset it to use it again"),
            BarrierError::Action(error) => write!(f, "the barrier's action failed: {error}"),
        }
    }
}

/// Why an item was not put into a queue. The item comes back with the error.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum PutError<T> {
    /// There is no room, or there was none in time.
    Full(T),
    /// The item cannot be encoded for the other processes that use the queue. Or the put came from the `Serialize` of an
    /// item of the same queue, while the queue
    /// [went to a process](crate::Queue#the-first-time-that-it-goes-to-a-process).
    Encode(T, CodecError),
    /// There is no memory to share with the other processes that use the queue.
    NoMemory(T),
}

impl<T> PutError<T> {
    /// The item.
    pub fn into_inner(self) -> T {
        match self {
            PutError::Full(item) | PutError::Encode(item, _) | PutError::NoMemory(item) => item,
        }
    }
}

impl<T> fmt::Debug for PutError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PutError::Full(_) => f.write_str("Full(..)"),
            PutError::Encode(_, error) => write!(f, "Encode(.., {error:?})"),
            PutError::NoMemory(_) => f.write_str("NoMemory(..)"),
        }
    }
}

impl<T> fmt::Display for PutError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PutError::Full(_) => f.write_str("the queue is full"),
            PutError::Encode(_, error) => write!(f, "cannot encode {error}"),
            PutError::NoMemory(_) => {
                f.write_str("there is no memory for the item that processes can share")
            }
        }
    }
}

/// There is no room for a task: as many wait for a worker as [`max_pending`](crate::Builder::max_pending) allows. The
/// task comes back.
///
/// See [`WorkerPoolExecutor::try_submit`](crate::WorkerPoolExecutor::try_submit) and
/// [`WorkerPool::try_apply_async`](crate::WorkerPool::try_apply_async).
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Full<T>(pub T);

impl<T> Full<T> {
    /// The task.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> fmt::Debug for Full<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Full(..)")
    }
}

impl<T> fmt::Display for Full<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("as many tasks wait for a worker as may")
    }
}

impl<T> error::Error for Full<T> {}

impl<T> From<Full<T>> for Error {
    fn from(_: Full<T>) -> Self {
        Error::Full
    }
}

/// Why a queue gave no item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum GetError {
    /// The queue is empty, or was so until the time was up.
    Empty,
    /// The item cannot be decoded, and is gone. Or the get came from the `Serialize` of an item of the same queue, while
    /// the queue [went to a process](crate::Queue#the-first-time-that-it-goes-to-a-process); then no item is gone.
    Decode(CodecError),
}

impl fmt::Display for GetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GetError::Empty => f.write_str("the queue is empty"),
            GetError::Decode(error) => write!(f, "cannot decode {error}"),
        }
    }
}

impl error::Error for NotHeld {}
impl error::Error for NotOwned {}
impl error::Error for Overflow {}
impl error::Error for TooManyTaskDone {}
impl<T> error::Error for PutError<T> {}
impl error::Error for GetError {}

impl error::Error for BarrierError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            BarrierError::Broken => None,
            BarrierError::Action(error) => error.source(),
        }
    }
}

impl From<NotHeld> for Error {
    fn from(_: NotHeld) -> Error {
        Error::NotHeld
    }
}

impl From<NotOwned> for Error {
    fn from(_: NotOwned) -> Error {
        Error::NotOwned
    }
}

impl From<Overflow> for Error {
    fn from(_: Overflow) -> Error {
        Error::Overflow
    }
}

impl From<TooManyTaskDone> for Error {
    fn from(_: TooManyTaskDone) -> Error {
        Error::TooManyTaskDone
    }
}

impl From<BarrierError> for Error {
    fn from(error: BarrierError) -> Error {
        match error {
            BarrierError::Broken => Error::BrokenBarrier,
            BarrierError::Action(error) => error.into(),
        }
    }
}

impl<T> From<PutError<T>> for Error {
    fn from(error: PutError<T>) -> Error {
        match error {
            PutError::Full(_) => Error::Full,
            PutError::Encode(_, error) => Error::Codec(error),
            PutError::NoMemory(_) => Error::Arena("the queue cannot grow".into()),
        }
    }
}

impl From<GetError> for Error {
    fn from(error: GetError) -> Error {
        match error {
            GetError::Empty => Error::Empty,
            GetError::Decode(error) => Error::Codec(error),
        }
    }
}
