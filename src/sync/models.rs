//! The state machines in every order that the memory model allows: `cargo test --lib loom_` in a build
//! with `--cfg freethreading_loom`.
//!
//! Two threads are looked at in all orders where that takes no more than a few seconds; with three there
//! are too many, and the limit is as many needless switches as can be had in that time.

use std::{
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

mod barrier;
mod condition;
mod event;
mod lock;
mod rlock;
mod semaphore;

/// Polls a future once, as a task does that will not be woken.
fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Polls a future once and drops it; says whether it was ready.
fn poll_and_drop(future: impl Future<Output = ()>) -> bool {
    poll(pin!(future)).is_ready()
}

/// For a timed wait: the time is up as soon as there is nothing else to do.
const NO_TIME: Duration = Duration::ZERO;
