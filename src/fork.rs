//! Processes that were forked from one that uses the crate, and run no other program: they have its memory, what is
//! shared with others as well, but none of its threads. What they drop is left to their parent.
#![allow(unsafe_code)]

use std::sync::{
    Once,
    atomic::{AtomicU32, Ordering},
};

/// How many forks lie between this process and the one that has used the crate first.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// From now on a process that is forked from this one knows.
pub(crate) fn watch() {
    static REGISTER: Once = Once::new();
    REGISTER.call_once(|| {
        // SAFETY: the function has the required signature, does nothing that a process with one thread out of many
        // must not do, and is part of this image, which is not unloaded. Without memory for it the crate is as unsafe
        // to use in such a process as it would be without this.
        unsafe { libc::pthread_atfork(None, None, Some(note)) };
    });
}

extern "C" fn note() {
    // Relaxed: the process has one thread.
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// Calls code of a task, which may fork and come back twice. Only here does it come back from this: the other process
/// must not answer, too, nor go on to what comes next.
#[inline]
pub(crate) fn once<T>(code: impl FnOnce() -> T) -> T {
    let forks = FORKS.load(Ordering::Relaxed);
    let result = code();
    if FORKS.load(Ordering::Relaxed) != forks {
        end();
    }
    result
}

/// Ends this process at once, and leaves alone whatever belongs to the one that it was forked from.
#[cold]
fn end() -> ! {
    // SAFETY: it may be called at any time.
    unsafe { libc::_exit(0) }
}

/// Whether this process was forked from one that used the crate before.
#[inline]
pub(crate) fn is_forked() -> bool {
    FORKS.load(Ordering::Relaxed) != 0
}
