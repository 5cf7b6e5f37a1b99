//! How much was read of what a process has written to its pipe.

use std::io;

use crate::{
    look::{Looker, look},
    shim::{AtomicU64, Ordering, fence},
};

/// Twice how many bytes were read; one more while a read is under way.
///
/// With that the process finds out whether all that was ever in its pipe is what it has written itself: a task may
/// have written there, too.
#[derive(Default)]
#[repr(C, align(64))]
pub(crate) struct Heard(AtomicU64);

impl Heard {
    /// Nothing was read yet; while nobody else knows of it: the memory may have been used before.
    pub(super) fn reset(&self) {
        // Relaxed: whoever is told of it sees this.
        self.0.store(0, Ordering::Relaxed);
    }

    /// Runs what reads from the pipe, and also gives how many bytes it has read. There is one that reads.
    pub(crate) fn hear<T>(&self, read: impl FnOnce() -> (T, usize)) -> T {
        // Relaxed: nobody else changes it.
        let before = self.0.load(Ordering::Relaxed);
        self.0.store(before + 1, Ordering::Relaxed);
        // Who finds that something was taken out of the pipe finds that a read is under way, or over.
        fence(Ordering::Release);
        let (outcome, len) = read();
        // Release: who finds that the read is over does not find in the pipe what it has read.
        self.0.store(before + 2 * len as u64, Ordering::Release);
        outcome
    }

    /// Whether the process has written all that was ever in the pipe, where it has written so many bytes, and `unread`
    /// finds out how many are in the pipe still. `None` if nobody knows, since a read is under way.
    pub(crate) fn is_all_of(
        &self,
        said: u64,
        mut unread: impl FnMut() -> io::Result<u64>,
    ) -> io::Result<Option<bool>> {
        let mut find_out = || {
            // Acquire: the other end of the release in `hear`.
            let heard = self.0.load(Ordering::Acquire);
            if heard & 1 != 0 {
                return None;
            }
            let all = unread().map(|unread| heard / 2 + unread == said);
            // The other end of the fence in `hear`.
            fence(Ordering::Acquire);
            (self.0.load(Ordering::Relaxed) == heard).then_some(all)
        };
        let found = find_out().or_else(|| look(Looker::Heard, find_out));
        found.transpose()
    }
}
