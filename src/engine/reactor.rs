//! The one background thread that serves all worker processes, and keeps the time.
//!
//! It runs a tokio runtime of its own, so that callers may be on any runtime or on none. It starts
//! when it is first needed and stays. No user code runs on it but wakers.

use std::{cell::Cell, future::pending, io, sync::Arc, thread, time::Instant};

use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle};

use crate::{descriptors, fork, unwind};

static REACTOR: Mutex<Option<Handle>> = Mutex::new(None);

thread_local! {
    static SERVES: Cell<bool> = const { Cell::new(false) };
}

/// The calling thread does the reactor's work for a while.
pub(super) struct Serving {
    /// What it did before.
    served: bool,
}

impl Serving {
    pub(super) fn begin() -> Self {
        Serving {
            served: SERVES.replace(true),
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        SERVES.set(self.served);
    }
}

/// The reactor's runtime, which is started if need be.
pub(crate) fn handle() -> io::Result<Handle> {
    if fork::is_forked() {
        let why =
            "a process that was forked without running another program has no worker processes";
        return Err(io::Error::other(why));
    }
    let mut reactor = REACTOR.lock();
    if let Some(handle) = &*reactor {
        return Ok(handle.clone());
    }
    descriptors::occupy_standard();
    let build = || Builder::new_current_thread().enable_all().build();
    // tokio panics where the last descriptors are used up.
    let runtime = unwind::catch(build).map_err(|panic| io::Error::other(panic.to_string()))??;
    let runtime = Arc::new(runtime);
    let handle = runtime.handle().clone();
    let served = Arc::clone(&runtime);
    let begun = thread::Builder::new()
        .name("freethreading-io".into())
        .spawn(move || {
            let _serving = Serving::begin();
            served.block_on(pending::<()>());
        });
    if let Err(error) = begun {
        // To drop it is to wait for it, which is a panic for a caller that is on a runtime of his own.
        if let Some(runtime) = Arc::into_inner(runtime) {
            runtime.shutdown_background();
        }
        return Err(error);
    }
    *reactor = Some(handle.clone());
    Ok(handle)
}

/// Whether this thread serves worker processes now.
pub(crate) fn is_served_here() -> bool {
    SERVES.try_with(Cell::get).unwrap_or(false)
}

/// Waits until the given time, on any runtime.
pub(crate) async fn sleep_until(deadline: Instant) {
    let Ok(handle) = handle() else {
        // Without a clock it is better to be too late than too early.
        return pending().await;
    };
    let timer = handle.spawn(async move { tokio::time::sleep_until(deadline.into()).await });
    let abort = AbortOnDrop(timer.abort_handle());
    let _ = timer.await;
    drop(abort);
}

/// A timer that nobody waits for any more is no use to keep.
struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
