//! Run functions on workers, be they threads or processes, from blocking and async code alike.

#![deny(missing_docs, unsafe_code)]
#![warn(missing_debug_implementations)]

mod backend;
mod codec;
mod engine;
mod error;
mod executor;
mod exit;
mod init;
mod latch;
mod shim;
mod task;
mod unwind;
mod worker;

pub use backend::{Backend, get_backend, set_backend};
pub use engine::processes::launcher::Launcher;
pub use error::{
    Broken, CodecError, Death, Effect, Error, Panic, Part, StartError, TaskError, TooLarge,
    WorkerDied,
};
pub use executor::{
    Builder as WorkerPoolExecutorBuilder, Map, MapStream, Mapping, TaskFuture, WorkerPoolExecutor,
};
pub use init::init;
pub use task::{Bare, Built, Callable, IntoTask, Portable, Task};
pub use worker::{Worker, active_children, active_count, current_worker, enumerate, get_ident};

#[doc(hidden)]
pub use task::expand as __private;
