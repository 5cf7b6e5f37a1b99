//! First in, first out: [`Queue`], and in [`simple`] `SimpleQueue`; [`core`] is what both are made of.

mod convoy;
mod core;
mod get;
mod join;
mod plain;
mod put;
mod seldom;
mod shared;
pub(crate) mod simple;

use std::{fmt, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub(crate) use self::shared::RawQueue;
use self::{core::Core, join::Joining};
use crate::{
    arena::{
        slot::Kind,
        wait::{WaitAsync, Waiting},
    },
    deadline,
    error::{Error, GetError, PutError, TooManyTaskDone},
    task::Portable,
};

/// A queue of items, first in, first out; Python's `queue.Queue` and `multiprocessing.JoinableQueue`.
///
/// It also counts the items on which the work is not [done](Queue::task_done) yet, and one can [wait](Queue::join) until
/// there are none.
///
/// In one process the items are moved in and out as they are. Once the queue has been given to a worker
/// process, every item is encoded when it is put, and decoded when it is taken, in memory that the processes
/// share. A process that is killed in the middle of a put or a get leaves the queue as it was before. The size is that
/// of the whole queue, wherever it is used.
///
/// Whoever comes by may take an item, or the room for one, also ahead of those who wait. In one process nobody is
/// overtaken for ever: for one who was woken in vain more than once the next item, or the room for one, is kept until it
/// comes for it or gives up. Others find the queue empty then, or full, though [`qsize`](Queue::qsize) counts the item and
/// not the room. So a future that waits should be polled or dropped.
///
/// It can be given to any worker of this machine, at any time, if its items are
/// [`Portable`]; clones, and what workers get, are handles to the same queue.
///
/// # The first time that it goes to a process
///
/// That happens once, and there is no way back: whoever is the first to give the queue to a worker process, or to put
/// it into a queue that has been given to one, encodes all items that are in it at that moment. From then on all who use
/// the queue pay for encoding and decoding, also those who are in one process. If an item cannot be encoded, that is an
/// error for who gives the queue away, and the queue stays as it was.
///
/// While the items are encoded, nobody else can put or take anything. Blocking, timed and async methods wait for the end
/// of that as they wait for an item or for room. [`put_nowait`](Queue::put_nowait) and
/// [`get_nowait`](Queue::get_nowait) wait for it, too, if there is room, or an item: to say that there is none would be
/// wrong.
///
/// Queues that are in items go with them, also if the queues hold each other, or themselves. (As with an `Arc`, a queue
/// that holds itself is not freed until somebody takes it out.) An item's `Serialize` is called by the thread that
/// others wait for. So it cannot use the queue that the item is in: what it puts comes back with
/// [`PutError::Encode`], and a get gives [`GetError::Decode`]. Nor should it wait for others who use that queue.
///
/// # Examples
///
/// ```
/// use std::thread;
/// use freethreading::Queue;
///
/// let queue = Queue::new(0);
/// let worker = thread::spawn({
///     let queue = queue.clone();
///     move || {
///         for _ in 0..3 {
///             let item: u32 = queue.get().unwrap();
///             println!("working on {item}");
///             queue.task_done().unwrap();
///         }
///     }
/// });
/// for item in 0..3 {
///     queue.put(item)?;
/// }
/// queue.join(); // Returns when all that was put is done.
/// # worker.join().unwrap();
/// # Ok::<(), freethreading::PutError<u32>>(())
/// ```
pub struct Queue<T> {
    core: Core<T>,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Queue {
            core: self.core.clone(),
        }
    }
}

impl<T: Send + 'static> Queue<T> {
    /// A new queue for so many items at most; zero is for any number.
    ///
    /// # Panics
    ///
    /// If the system has no memory for it; see [`try_new`](Queue::try_new).
    pub fn new(maxsize: usize) -> Self {
        Self::try_new(maxsize).unwrap_or_else(|error| panic!("{error}"))
    }

    /// A new queue for so many items at most; zero is for any number.
    ///
    /// # Errors
    ///
    /// [`Error::Arena`] if the system has no memory for it.
    pub fn try_new(maxsize: usize) -> Result<Self, Error> {
        let core = Core::new(Kind::Queue, maxsize)?;
        Ok(Queue { core })
    }

    /// Puts an item.
    ///
    /// # Blocking
    ///
    /// Until there is room, if the queue is full.
    ///
    /// # Errors
    ///
    /// Once the queue is shared with a process: [`PutError::Encode`] if the item cannot be encoded,
    /// [`PutError::NoMemory`] if there is none to share. The item comes back.
    #[inline]
    pub fn put(&self, item: T) -> Result<(), PutError<T>> {
        self.core.put(item)
    }

    /// Puts an item if there is room at once.
    ///
    /// Python's `put_nowait()` and `put(block=False)`.
    ///
    /// # Blocking
    ///
    /// Only while the queue goes to a process [for the first time](Queue#the-first-time-that-it-goes-to-a-process), and
    /// there is room.
    ///
    /// # Errors
    ///
    /// [`PutError::Full`] if there is no room, and those of [`put`](Queue::put). The item comes back.
    ///
    /// # Examples
    ///
    /// ```
    /// use freethreading::{PutError, Queue};
    ///
    /// let queue = Queue::new(1);
    /// queue.put_nowait("first")?;
    /// match queue.put_nowait("second") {
    ///     Err(PutError::Full(item)) => assert_eq!(item, "second"),
    ///     _ => unreachable!("there is room for one"),
    /// }
    /// # Ok::<(), PutError<&str>>(())
    /// ```
    #[inline]
    pub fn put_nowait(&self, item: T) -> Result<(), PutError<T>> {
        self.core.put_nowait(item)
    }

    /// Puts an item if there is room in time.
    ///
    /// # Blocking
    ///
    /// For so long at most.
    ///
    /// # Errors
    ///
    /// [`PutError::Full`] if there was no room in time, and those of [`put`](Queue::put). The item comes back.
    pub fn put_timeout(&self, item: T, timeout: Duration) -> Result<(), PutError<T>> {
        self.core.put_until(item, deadline::after(timeout))
    }

    /// Puts an item; the async twin of [`put`](Queue::put).
    ///
    /// # Cancel safety
    ///
    /// The item of a future that is dropped before it is ready is not put; it is dropped with the future.
    ///
    /// # Errors
    ///
    /// Those of [`put`](Queue::put).
    pub fn put_async(&self, item: T) -> impl Future<Output = Result<(), PutError<T>>> + Send {
        self.core.put_async(item)
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
    /// Only while the queue goes to a process [for the first time](Queue#the-first-time-that-it-goes-to-a-process), and
    /// there is an item.
    ///
    /// # Errors
    ///
    /// [`GetError::Empty`] if there is no item, and those of [`get`](Queue::get).
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
    /// [`GetError::Empty`] if there was no item in time, and those of [`get`](Queue::get).
    pub fn get_timeout(&self, timeout: Duration) -> Result<T, GetError> {
        self.core.get(deadline::after(timeout))
    }

    /// Takes the first item; the async twin of [`get`](Queue::get).
    ///
    /// # Cancel safety
    ///
    /// An item leaves the queue in the poll that gives it: a future that is dropped takes none.
    ///
    /// # Errors
    ///
    /// Those of [`get`](Queue::get).
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

    /// Whether there is no room in the queue; never for one without a limit.
    pub fn full(&self) -> bool {
        self.core.is_full()
    }

    /// How many items there may be; zero for any number.
    pub fn maxsize(&self) -> usize {
        self.core.maxsize()
    }

    /// Says that the work on one item is done; to be called once for each item that was taken.
    ///
    /// # Errors
    ///
    /// [`TooManyTaskDone`] if that was said of all items already.
    pub fn task_done(&self) -> Result<(), TooManyTaskDone> {
        self.core.task_done()
    }

    /// Waits until the work on all items that were put is done.
    ///
    /// # Blocking
    ///
    /// Until [`task_done`](Queue::task_done) was called once for each item that was put.
    pub fn join(&self) {
        Waiting::new(Joining(&self.core)).block(None);
    }

    /// Like [`join`](Queue::join), for so long at most; says whether all work is done.
    ///
    /// # Blocking
    ///
    /// For so long at most.
    pub fn join_timeout(&self, timeout: Duration) -> bool {
        Waiting::new(Joining(&self.core))
            .block(deadline::after(timeout))
            .is_some()
    }

    /// The async twin of [`join`](Queue::join).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future takes nothing from others.
    pub fn join_async(&self) -> impl Future<Output = ()> + Send {
        WaitAsync::new(Joining(&self.core))
    }
}

impl<T: Send + 'static> Default for Queue<T> {
    /// A queue for any number of items.
    fn default() -> Self {
        Queue::new(0)
    }
}

impl<T> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("qsize", &self.core.len())
            .field("maxsize", &self.core.maxsize())
            .finish()
    }
}

impl<T: Portable> Serialize for Queue<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.core.serialize(serializer)
    }
}

impl<'de, T: Portable> Deserialize<'de> for Queue<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let core = Core::deserialize(Kind::Queue, deserializer)?;
        Ok(Queue { core })
    }
}
