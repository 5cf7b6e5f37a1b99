//! Blocks that are used for the words at their start, by this process and those that it has started.
#![allow(unsafe_code)]

use std::io;

use parking_lot::Mutex;

use super::{arena, process};

/// What stands at the start of a block.
///
/// # Safety
///
/// All of it is atomics, for which any bytes are valid.
pub(super) unsafe trait Words: Sync + 'static {}

/// How many blocks this process keeps: to have memory from the system, and to give it back, takes a good
/// part of the time that a worker process needs to start.
const MOST_KEPT: usize = 16;

static KEPT: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// A block that is used for the words at its start, by this process, or by that and those that it has started.
pub(super) struct Page<T: 'static> {
    pub(super) block: u32,
    pub(super) words: &'static T,
    /// Whether this process has claimed the block.
    is_mine: bool,
}

impl<T: Words> Page<T> {
    /// One that this process has kept, or else a new one, if there is memory that other processes reach. What the
    /// words are, is left over from who had it before.
    pub(super) fn claim() -> Option<Self> {
        let blocks = &arena().blocks;
        let kept = KEPT.lock().pop();
        let block = kept.or_else(|| blocks.claim().ok())?;
        let Some(words) = blocks.words(block) else {
            blocks.free(block);
            return None;
        };
        Some(Page {
            block,
            words,
            is_mine: true,
        })
    }

    /// One that the process which has started this one has claimed.
    pub(super) fn of_parent(block: u32) -> io::Result<Self> {
        let blocks = &arena().blocks;
        let is_its = process::parent().is_some_and(|parent| blocks.is_of(block, parent));
        let words = blocks.words(block).filter(|_| is_its);
        let words =
            words.ok_or_else(|| io::Error::other(format!("the parent has no block {block}")))?;
        Ok(Page {
            block,
            words,
            is_mine: false,
        })
    }
}

impl<T> Drop for Page<T> {
    /// Another like it may be needed soon.
    fn drop(&mut self) {
        if !self.is_mine {
            return;
        }
        let mut kept = KEPT.lock();
        if kept.len() < MOST_KEPT {
            return kept.push(self.block);
        }
        drop(kept);
        arena().blocks.free(self.block);
    }
}
