//! Run functions on workers, be they threads or processes, with one API, from blocking and async code
//! alike; and the primitives that workers coordinate with.
//!
//! ```
//! use freethreading::{WorkerPoolExecutor, task};
//!
//! fn square(x: u64) -> u64 {
//!     x * x
//! }
//!
//! # fn main() -> Result<(), freethreading::Error> {
//! freethreading::init(); // First line of main: a worker process stays here.
//! let executor = WorkerPoolExecutor::new(2)?;
//! let nine = executor.submit(task!(square(3))); // `.await` it, or
//! assert_eq!(nine.result()?, 9);
//! # Ok(())
//! # }
//! ```
//!
//! A *worker* is a thread or a process. A *task* is what it runs: a function with its arguments. (The tasks of an
//! async runtime are called async tasks here.) The *primitives* are the locks, semaphores, conditions, events,
//! barriers and queues.
//!
//! # Where to begin
//!
//! | to | use |
//! |---|---|
//! | run one function on a worker of its own | [`Worker`] |
//! | run many tasks on a few workers, and have their results | [`WorkerPoolExecutor`] |
//! | run one function over many items | [`WorkerPool`] |
//! | make a task of a call or of a closure | [`task!`] |
//! | keep others out, or let so many in | [`Lock`], [`RLock`], [`Semaphore`], [`BoundedSemaphore`] |
//! | wait for others | [`Event`], [`Condition`], [`Barrier`] |
//! | pass items on | [`Queue`], [`SimpleQueue`] |
//! | choose threads or processes | [`set_backend`], `FREETHREADING_BACKEND`, `.backend(…)` |
//! | make worker processes possible | [`init()`] in `main`, [`init_tests!`] in a test crate |
//! | run a test on threads and on processes | [`test_backends!`] |
//! | end a task that runs | [`TaskFuture::kill`], [`TaskFuture::kill_after`], [`cancelled`] |
//! | end a task that nobody waits for any more | [`TaskFuture::kill_on_drop`] |
//! | limit what waits, what runs and what it takes | [`Builder`] |
//! | know whether a failed task has run | [`TaskError::effect`] |
//! | see what workers do | [`WorkerPoolExecutor::stats`], the feature `trace` |
//! | know where one is | [`current_worker`], [`active_children`], [`enumerate`] |
//!
//! # Threads or processes
//!
//! | | [`Backend::Threading`] | [`Backend::Multiprocessing`] |
//! |---|---|---|
//! | a worker is | a thread of this process | this executable, run again |
//! | arguments and results | are moved | are encoded with serde |
//! | a panic | is an error of its task | is an error of its task |
//! | a crash, an abort, an exit | ends the program | is an error of its task; the worker is replaced |
//! | a task that does not end | can be asked to: [`cancelled`] | can be killed: [`TaskFuture::kill`] |
//! | `static`s | are shared | are each worker's own |
//! | `main` must call [`init()`] | no | yes |
//!
//! A program has one default backend, which [`get_backend`] gives. Each worker, pool and executor may choose
//! another one, and both kinds can be used side by side.
//!
//! # Blocking and async
//!
//! What waits comes in several forms, all of which may wait for the same thing at the same time:
//!
//! | form | for example | |
//! |---|---|---|
//! | `x` | [`Lock::acquire`], [`Worker::join`], [`Queue::get`] | blocks the thread |
//! | `x_timeout` | [`Lock::acquire_timeout`], [`Worker::join_timeout`] | blocks it for so long at most |
//! | `x_async` | [`Lock::acquire_async`], [`Worker::join_async`] | is a future, on any runtime or on none |
//! | `try_x`, `x_nowait` | [`Lock::try_acquire`], [`Queue::get_nowait`] | does not wait |
//!
//! A result to come is a value that can be awaited or waited for: [`TaskFuture`] with
//! [`result`](TaskFuture::result), [`AsyncResult`] with [`get`](AsyncResult::get). The latter comes from the
//! methods of a pool that Python calls `…_async`. [`Map`] and [`Imap`] are iterators, and
//! [`into_stream`](Map::into_stream) makes streams of them.
//!
//! A blocking method may be called on any thread, but one of an async runtime does nothing else meanwhile. A
//! timeout of zero only looks; one that is too long for the clock is for ever. A limit to an async method is
//! `tokio::time::timeout`, or another runtime's, around it. The sections *Cancel safety* say what is lost with a
//! future that is dropped. What waits for a primitive panics if the system has no memory for one more that waits.
//!
//! Wakers are called by whoever has what is waited for: a worker thread, or the one thread that serves all worker
//! processes. They must be quick, and wait for nothing.
//!
//! # What can travel
//!
//! Arguments, captures, results and items are [`Portable`]: serde can encode and decode them. That holds on
//! both backends, so that the same code compiles for either. The primitives are portable, too: what a
//! worker gets is a handle to the same object. They cannot be encoded for anything but a worker of this machine:
//! not into a file, and not for a worker that a [`Launcher`] has started.
//!
//! # Features
//!
//! `trace`: tasks run in `tracing` spans, and workers that start and end are events. It is off by default.
//!
//! All of them have the target `freethreading`. A span is called `task`, and its field `function` is the path of the
//! task's function. On a thread it is a child of the span in which the task was submitted. In a worker process, which
//! does not have that one, the fields `origin` and `origin_id` are its name and its id, if there was one.
//!
//! A worker process needs a subscriber of its own, or its spans go nowhere. [`init`] does not return there, so `main`
//! has to install one before it; or an [`initializer`](Builder::initializer) does, as in a test crate, where
//! [`init_tests!`] comes before all else.
//!
//! # When to use something else
//!
//! For loops over borrowed data use rayon: tasks here own their arguments. For work that waits rather than
//! computes use the tasks of an async runtime: they are cheaper than any worker.
//!
//! # How it works
//!
//! A task's function is known by its type, which has size zero; only its arguments travel. One scheduler keeps
//! the queue and the workers of an executor or a pool, whatever the workers are. Worker processes are this
//! executable, run again. Requests and replies are frames on pipes, which one background thread serves for all
//! processes. Small frames pass through memory that both sides have. Where more tasks wait than there are
//! workers, the workers take the next one from that memory by themselves, in the order of submission. There is
//! no thread per task, per process or per waiting caller.
//!
//! The state of every primitive lies in memory that a program shares with its worker processes from the
//! start. So a primitive is the same for threads, async tasks and processes, and an uncontended operation makes no
//! system call. Who waits has a place in that memory, too, and is woken by whoever brings what is waited for: a
//! thread by a futex, an async task by its waker, one of another process by a thread of that process, which
//! hears its bell. Large arguments and results travel through that memory as well; the frame says where they are.

#![deny(missing_docs, unsafe_code)]
#![warn(missing_debug_implementations)]

#[cfg(not(target_os = "linux"))]
compile_error!("freethreading runs on Linux; other systems are still to come");

mod arena;
mod backend;
mod builder;
mod chunk;
mod codec;
mod coop;
mod deadline;
mod descriptors;
mod engine;
mod error;
mod executor;
mod exit;
mod fork;
mod init;
mod latch;
mod look;
mod memory;
mod pool;
mod shim;
// Models have locks of their own.
#[cfg_attr(freethreading_loom, allow(dead_code))]
mod spin;
mod stats;
mod sync;
mod task;
mod trace;
mod unwind;
mod wakers;
mod worker;

pub use backend::{Backend, get_backend, set_backend};
pub use builder::{Builder, WorkerPoolExecutorBuilder};
pub use engine::processes::launcher::Launcher;
pub use error::{
    BarrierError, Broken, CodecError, Death, Effect, Error, Full, GetError, Killed, NotHeld,
    NotOwned, Overflow, Panic, Part, PutError, StartError, TaskError, TooLarge, TooManyTaskDone,
    WorkerDied,
};
pub use executor::{Buffered, KillOnDrop, Map, MapStream, Mapping, TaskFuture, WorkerPoolExecutor};
pub use init::init;
pub use pool::{AsyncResult, Chunks, Imap, ImapStream, WorkerPool, WorkerPoolBuilder};
pub use stats::{Stats, WorkerStats};
pub use sync::{
    Barrier, BoundedSemaphore, BoundedSemaphorePermit, Condition, ConditionGuard, Event, Lock,
    LockGuard, OwnedBoundedSemaphorePermit, OwnedLockGuard, OwnedSemaphorePermit, Queue, RLock,
    RLockGuard, Semaphore, SemaphorePermit, SimpleQueue,
};
pub use task::{Bare, Built, Callable, IntoTask, Portable, Task, duty::cancelled};
pub use worker::{Worker, active_children, active_count, current_worker, enumerate, get_ident};

#[doc(hidden)]
pub use task::expand as __private;

#[cfg(all(test, not(freethreading_loom)))]
#[allow(unsafe_code)] // The macro puts a function where the loader looks for those to call.
mod tests_begin_here {
    crate::init_tests!();
}

/// The programs of the README compile and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
