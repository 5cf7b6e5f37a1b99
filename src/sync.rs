//! The primitives that workers coordinate with.
//!
//! Each has a file with its algorithm over a slot of the arena and its public face. What they have in common:
//! [`raw`] is the lock word, [`owner`] says who the caller is, [`face`] has what their faces repeat, and
//! [`bereaved`] says what becomes of a primitive when a process dies.

mod barrier;
pub(crate) mod bereaved;
mod condition;
mod event;
mod face;
mod lock;
#[cfg(all(test, freethreading_loom))]
mod models;
mod owner;
mod queue;
mod raw;
mod rlock;
mod semaphore;

pub use barrier::Barrier;
pub use condition::{Condition, ConditionGuard};
pub use event::Event;
pub use lock::{Lock, LockGuard, OwnedLockGuard};
pub use queue::{Queue, simple::SimpleQueue};
pub use rlock::{RLock, RLockGuard};
pub use semaphore::{
    BoundedSemaphore, BoundedSemaphorePermit, OwnedBoundedSemaphorePermit, OwnedSemaphorePermit,
    Semaphore, SemaphorePermit,
};
