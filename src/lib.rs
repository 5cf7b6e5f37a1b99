//! Run functions on workers, be they threads or processes, with one API, from blocking and async code
//! alike; and the primitives that workers coordinate with.
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
//! | end a task that runs | [`TaskFuture::kill`], [`TaskFuture::kill_after`], [`cancelled`] |
//! | limit what waits, what runs and what it takes | [`Builder`] |
//! | see what workers do | [`WorkerPoolExecutor::stats`], the feature `trace` |
//! | know where one is | [`current_worker`], [`active_children`], [`enumerate`] |
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
//! # When to use something else
//!
//! For a data-parallel loop over borrowed data rayon is made: tasks here own their arguments. For
//! work that waits rather than computes, tasks of an async runtime are cheaper than any worker.
//!
//! # How it works
//!
//! A task's function is known by its type, which has size zero; only its arguments travel. The
//! queue and the workers of an executor or a pool are kept by one scheduler, whatever the workers are. Worker processes are
//! this executable, run again; requests and replies are frames on pipes, which one background thread
//! serves for all of them. Small ones pass through memory that both sides have, and where more tasks wait
//! than there are workers, these take the next one from there by themselves, in the order of submission.
//! There is no thread per task, per process or per waiting caller.
//!
//! The state of every primitive lies in memory that a program shares with its worker processes from the
//! start, so that a primitive is the same for threads, tasks and processes, and an uncontended
//! operation makes no system call. Who waits has a place in that memory too, and is woken by whoever
//! brings what it waits for: a thread by a futex, a task by its waker, a task of another process by that
//! process's one thread that hears its bell. Large arguments and results travel through that memory
//! as well; the frame says where they are.

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
mod engine;
mod error;
mod executor;
mod exit;
mod fork;
mod init;
mod latch;
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
pub use executor::{Buffered, Map, MapStream, Mapping, TaskFuture, WorkerPoolExecutor};
pub use init::init;
pub use pool::{AsyncResult, Chunks, Imap, ImapStream, WorkerPool, WorkerPoolBuilder};
pub use stats::{Stats, WorkerStats};
pub use sync::{
    Barrier, BoundedSemaphore, BoundedSemaphorePermit, Condition, ConditionGuard, Event, Lock,
    LockGuard, Queue, RLock, RLockGuard, Semaphore, SemaphorePermit, SimpleQueue,
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
