//! Sees to it that memory of large arguments and results goes back to the system when it is not used.

use std::{
    sync::atomic::{AtomicBool, Ordering, fence},
    time::Duration,
};

use crate::{arena::arena, engine::reactor};

/// Memory that was not used for so long, by anybody, is given back.
const QUIET: Duration = Duration::from_secs(10);

/// Whether somebody in this process sees to it now.
static AT_IT: AtomicBool = AtomicBool::new(false);

/// To be called when this process has come to have some.
pub(crate) fn later() {
    // Either this sees that nobody is at it, or whoever stops sees, behind its own fence, that there
    // is memory. Relaxed: that is all that the flag is for.
    fence(Ordering::SeqCst);
    if AT_IT.load(Ordering::Relaxed) || AT_IT.swap(true, Ordering::Relaxed) {
        return;
    }
    let Ok(reactor) = reactor::handle() else {
        AT_IT.store(false, Ordering::Relaxed);
        return;
    };
    arena().extents.tend();
    drop(reactor.spawn(tidy()));
}

async fn tidy() {
    let extents = &arena().extents;
    loop {
        let claims = extents.claims();
        tokio::time::sleep(QUIET).await;
        // Piece by piece, since others wait for this thread.
        while extents.claims() == claims && extents.tidy() {
            tokio::task::yield_now().await;
        }
        if !extents.are_in_use() {
            AT_IT.store(false, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            if !extents.are_in_use() || AT_IT.swap(true, Ordering::Relaxed) {
                return;
            }
        }
    }
}
