//! A queue without a limit and without an end to wait for.

use std::{fmt, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::core::Core;
use crate::{
    arena::slot::Kind,
    deadline,
    error::{Error, GetError, PutError},
    task::Portable,
};

/// A queue of items, first in, first out, without a limit; Python's `queue.SimpleQueue` and
/// `multiprocessing.SimpleQueue`.
///
/// What is said of [`Queue`](crate::Queue) about processes holds for it as well. There is always room, so
/// [`put`](SimpleQueue::put) has no timed and no async form.
///
/// # Examples
///
/// ```
/// use freethreading::SimpleQueue;
///
/// let queue = SimpleQueue::new();
/// queue.put("first")?;
/// queue.put("second")?;
/// assert_eq!(queue.get().unwrap(), "first");
/// assert!(!queue.empty());
/// # Ok::<(), freethreading::PutError<&str>>(())
/// ```
pub struct SimpleQueue<T> {
    core: Core<T>,
}

impl<T> Clone for SimpleQueue<T> {
    fn clone(&self) -> Self {
        SimpleQueue {
            core: self.core.clone(),
        }
    }
}

impl<T: Send + 'static> SimpleQueue<T> {
    /// A new queue.
    ///
    /// # Panics
    ///
    /// If the system has no memory for it; see [`try_new`](SimpleQueue::try_new).
    pub fn new() -> Self {
        Self::try_new().unwrap_or_else(|error| panic!("{error}"))
    }

    /// A new queue.
    ///
    /// # Errors
    ///
    /// [`Error::Arena`] if the system has no memory for it.
    pub fn try_new() -> Result<Self, Error> {
        let core = Core::new(Kind::SimpleQueue, 0)?;
        Ok(SimpleQueue { core })
    }

    /// Puts an item.
    ///
    /// # Blocking
    ///
    /// Only while the queue goes to a process
    /// [for the first time](crate::Queue#the-first-time-that-it-goes-to-a-process).
    ///
    /// # Errors
    ///
    /// Once the queue is shared with a process: [`PutError::Encode`] if the item cannot be encoded,
    /// [`PutError::NoMemory`] if there is none to share. The item comes back.
    #[inline]
    pub fn put(&self, item: T) -> Result<(), PutError<T>> {
        self.core.put(item)
    }

    /// Takes the first item.
    ///
    /// # Blocking
    ///
    /// Until there is one.
    ///
    /// # Errors
    ///
    /// Once the queue is shared with a process: [`GetError::Decode`] if the item cannot be decoded. It is gone then.
    #[inline]
    pub fn get(&self) -> Result<T, GetError> {
        self.core.get(None)
    }

    /// Takes the first item if there is one.
    ///
    /// # Blocking
    ///
    /// Only while the queue goes to a process
    /// [for the first time](crate::Queue#the-first-time-that-it-goes-to-a-process), and there is an item.
    ///
    /// # Errors
    ///
    /// [`GetError::Empty`] if there is no item, and those of [`get`](SimpleQueue::get).
    #[inline]
    pub fn get_nowait(&self) -> Result<T, GetError> {
        self.core.get_nowait()
    }

    /// Takes the first item if there is one in time.
    ///
    /// # Blocking
    ///
    /// For so long at most.
    ///
    /// # Errors
    ///
    /// [`GetError::Empty`] if there was no item in time, and those of [`get`](SimpleQueue::get).
    pub fn get_timeout(&self, timeout: Duration) -> Result<T, GetError> {
        self.core.get(deadline::after(timeout))
    }

    /// Takes the first item; the async twin of [`get`](SimpleQueue::get).
    ///
    /// # Cancel safety
    ///
    /// An item leaves the queue in the poll that gives it: a future that is dropped takes none.
    ///
    /// # Errors
    ///
    /// Those of [`get`](SimpleQueue::get).
    pub fn get_async(&self) -> impl Future<Output = Result<T, GetError>> + Send {
        self.core.get_async()
    }

    /// How many items are in the queue.
    pub fn qsize(&self) -> usize {
        self.core.len()
    }

    /// Whether there is no item in the queue.
    pub fn empty(&self) -> bool {
        self.qsize() == 0
    }
}

impl<T: Send + 'static> Default for SimpleQueue<T> {
    fn default() -> Self {
        SimpleQueue::new()
    }
}

impl<T> fmt::Debug for SimpleQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimpleQueue")
            .field("qsize", &self.core.len())
            .finish()
    }
}

impl<T: Portable> Serialize for SimpleQueue<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.core.serialize(serializer)
    }
}

impl<'de, T: Portable> Deserialize<'de> for SimpleQueue<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let core = Core::deserialize(Kind::SimpleQueue, deserializer)?;
        Ok(SimpleQueue { core })
    }
}
