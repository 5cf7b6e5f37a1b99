//! Memory for data that is too large for a pipe: runs of blocks, each of which belongs to one process at
//! any time.
//!
//! There is a word for each block, and it alone says whose the block is: the process, and which claim
//! it was claimed with. A run is claimed word by word, and given back if one of its blocks turns out to be
//! another's; it passes from one process to another word by word as well, each from exactly what its
//! last owner has written there to what its next one does. So at any moment each block has one owner,
//! and when a process is killed, what is its is found and freed; who has let go of a block cannot free it
//! once more when somebody else has it.
//!
//! What is freed keeps its memory for a while, for the next one: fresh memory costs more than what is
//! done with it. See [`tidy`](Extents::tidy) for how it goes back to the system.
#![allow(unsafe_code)]

use std::{
    io,
    ops::Range,
    ptr::NonNull,
    sync::{
        OnceLock,
        // These words lie in the mapping, which models do not have.
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
};

use super::{blocks::BLOCK, me, sys::Mapping};

/// What all processes know about the extents; in the arena's header.
#[derive(Default)]
#[repr(C, align(64))]
pub(super) struct Shared {
    /// How many claims there were.
    claims: AtomicU64,
    /// How many of the words have memory behind them.
    words: AtomicU32,
    /// About how many blocks are free and have memory; more than were freed if it wraps.
    warm: AtomicU32,
}

/// What is known of a block: `claim : 47, owner : 16, warm : 1`.
///
/// | claim, owner | warm | meaning |
/// |---|---|---|
/// | 0 | 0 | free |
/// | 0 | 1 | free, and its memory is there |
/// | other | 0 | that process's, which is about to have memory put behind it |
/// | other | 1 | that process's |
type Word = AtomicU64;

const WARM: u64 = 1;
const OWNER_SHIFT: u32 = 1;
const CLAIM_SHIFT: u32 = 17;

/// The number of those claims that only give memory back.
const LAST_CLAIM: u64 = u64::MAX >> CLAIM_SHIFT;

fn owned(claim: u64, owner: u16) -> u64 {
    claim << CLAIM_SHIFT | u64::from(owner) << OWNER_SHIFT
}

fn is_free(word: u64) -> bool {
    word & !WARM == 0
}

fn owner(word: u64) -> u16 {
    (word >> OWNER_SHIFT) as u16
}

/// Words that get memory at once.
const WORDS_AT_ONCE: u32 = 512;

/// At most so much free memory is kept, in bytes, and no more than this part of the machine's.
const KEEP: u64 = 1 << 30;
const KEEP_PART: u64 = 16;

/// Memory that is given back in one go, in bytes: a moment's work.
const GIVEN_AT_ONCE: usize = 16 << 20;

/// All blocks there are.
pub(crate) struct Extents {
    shared: &'static Shared,
    mapping: &'static Mapping,
    /// Where the words begin.
    words: usize,
    /// Where the blocks begin.
    start: usize,
    count: u32,
    /// Somebody in this process sees to it that memory is given back.
    tended: AtomicBool,
}

/// Blocks side by side that this process has claimed or been given; no more than their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) first: u32,
    pub(super) count: u32,
    pub(super) claim: u64,
}

impl Run {
    fn blocks(&self) -> Range<u32> {
        self.first..self.first + self.count
    }
}

/// How many blocks so many bytes take.
pub(super) fn blocks_for(len: usize) -> Option<u32> {
    u32::try_from(len.div_ceil(BLOCK)).ok()
}

impl Extents {
    /// With the words and the blocks in these ranges of the mapping.
    pub(super) fn new(
        mapping: &'static Mapping,
        shared: &'static Shared,
        words: Range<usize>,
        blocks: Range<usize>,
    ) -> Self {
        assert!(words.start.is_multiple_of(align_of::<Word>()));
        let count = (blocks.len() / BLOCK).min(words.len() / size_of::<Word>());
        Extents {
            shared,
            mapping,
            words: words.start,
            start: blocks.start,
            count: u32::try_from(count).unwrap_or(u32::MAX),
            tended: AtomicBool::new(false),
        }
    }

    fn word(&self, index: u32) -> Option<&'static Word> {
        // Acquire: with the number comes the memory behind the words.
        if index >= self.known() {
            return None;
        }
        let offset = self.words + index as usize * size_of::<Word>();
        let word = self.mapping.at(offset, size_of::<Word>())?.cast();
        // SAFETY: the memory is mapped for good, backed and aligned. It is used as an atomic by all
        // processes, and any bytes are valid for one.
        Some(unsafe { word.as_ref() })
    }

    /// How many blocks have words with memory behind them, whatever stands in the arena.
    fn known(&self) -> u32 {
        self.shared.words.load(Ordering::Acquire).min(self.count)
    }

    /// So that there are words for the first `count` blocks.
    fn know(&self, count: u32) -> io::Result<()> {
        let known = self.known();
        if count <= known {
            return Ok(());
        }
        let grown = count.next_multiple_of(WORDS_AT_ONCE).min(self.count);
        let offset = |index: u32| self.words + index as usize * size_of::<Word>();
        self.mapping
            .back(offset(known), offset(grown) - offset(known))?;
        // Release: who finds the number finds the memory.
        self.shared.words.fetch_max(grown, Ordering::Release);
        Ok(())
    }

    /// Blocks for so many bytes, with memory behind them, if they can be had where other processes
    /// reach them.
    pub(super) fn claim(&self, len: usize) -> Option<Run> {
        // A claim of nothing would be no claim.
        let count = blocks_for(len).filter(|&count| 0 < count && count <= self.count)?;
        self.mapping.file()?;
        // Relaxed: only distinctness counts; zero is none. So many claims there will not be that the
        // number comes again while somebody still knows the first.
        let claim = self
            .shared
            .claims
            .fetch_add(1, Ordering::Relaxed)
            .wrapping_add(1);
        let claim = claim & LAST_CLAIM;
        let mut from = 0;
        let run = loop {
            let first = self.find(from, count)?;
            self.know(first + count).ok()?;
            let run = Run {
                first,
                count,
                claim,
            };
            match self.seize(run) {
                Ok(()) => break run,
                Err(taken) => from = taken + 1,
            }
        };
        if self.back(run).is_err() {
            self.free(run, false);
            return None;
        }
        Some(run)
    }

    /// The first place from there on where so many blocks are free.
    ///
    /// Always the first one: so the blocks that were in use before come first, whose memory is there.
    fn find(&self, from: u32, count: u32) -> Option<u32> {
        let (known, mut first) = (self.known(), from);
        let mut index = from;
        while index < known && index - first < count {
            // Relaxed: seizing it finds out.
            let free = self
                .word(index)
                .is_some_and(|word| is_free(word.load(Ordering::Relaxed)));
            index += 1;
            if !free {
                first = index;
            }
        }
        // All others are.
        (first.checked_add(count)? <= self.count).then_some(first)
    }

    /// Makes free blocks this process's: all of them, or none if one is not free, which it says.
    fn seize(&self, run: Run) -> Result<(), u32> {
        let mine = owned(run.claim, me());
        for index in run.blocks() {
            // Acquire: what the last owner did with the block is over.
            let seized = self.word(index).is_some_and(|word| {
                let claim = |old| is_free(old).then_some(mine | old);
                word.fetch_update(Ordering::Acquire, Ordering::Relaxed, claim)
                    .map(|old| self.less_warm((old & WARM) as u32))
                    .is_ok()
            });
            if !seized {
                let count = index - run.first;
                self.free(Run { count, ..run }, true);
                return Err(index);
            }
        }
        Ok(())
    }

    /// Puts memory behind those blocks of this process that have none.
    fn back(&self, run: Run) -> io::Result<()> {
        let is_cold = |word: u64| word & WARM == 0;
        for cold in self.stretches(run.blocks(), u32::MAX, is_cold) {
            let (offset, len) = self.range(&cold);
            self.mapping.back(offset, len)?;
            // One call instead of a page fault for each page.
            self.mapping.populate(offset, len);
            for index in cold {
                if let Some(word) = self.word(index) {
                    // Relaxed: it is this process's.
                    word.fetch_or(WARM, Ordering::Relaxed);
                }
            }
        }
        Ok(())
    }

    /// The longest runs of at most so many blocks, within these, whose words are so.
    fn stretches(
        &self,
        blocks: Range<u32>,
        most: u32,
        are_so: impl Fn(u64) -> bool,
    ) -> Vec<Range<u32>> {
        let mut stretches: Vec<Range<u32>> = Vec::new();
        for index in blocks {
            // Acquire: what the word says of the block was done before.
            let word = self.word(index).map(|word| word.load(Ordering::Acquire));
            if !word.is_some_and(&are_so) {
                continue;
            }
            match stretches.last_mut() {
                Some(last) if last.end == index && last.len() < most as usize => last.end += 1,
                _ => stretches.push(index..index + 1),
            }
        }
        stretches
    }

    /// Where blocks lie in the mapping, and how many bytes they are.
    fn range(&self, blocks: &Range<u32>) -> (usize, usize) {
        let offset = self.start + blocks.start as usize * BLOCK;
        (offset, blocks.len() * BLOCK)
    }

    /// The address of `len` bytes at the start of a run, if it has them.
    pub(super) fn at(&self, run: Run, len: usize) -> Option<NonNull<u8>> {
        let within = run.first.checked_add(run.count)? <= self.count;
        let (offset, room) = self.range(&run.blocks());
        (within && len <= room)
            .then(|| self.mapping.at(offset, len))
            .flatten()
    }

    /// Makes blocks this process's that another one has passed on, if they are what it says: all of
    /// them, or none.
    pub(super) fn take(&self, run: Run, from: u16) -> bool {
        let end = run.first.checked_add(run.count);
        if run.count == 0 || run.claim == 0 || end.is_none_or(|end| end > self.known()) {
            return false;
        }
        let (theirs, mine) = (owned(run.claim, from), owned(run.claim, me()));
        for index in run.blocks() {
            // Acquire: with the block comes what was written there. The pipe on which the other process
            // has named it orders that as well, but this does not have to know.
            let taken = self.word(index).is_some_and(|word| {
                word.compare_exchange(
                    theirs | WARM,
                    mine | WARM,
                    Ordering::Acquire,
                    Ordering::Relaxed,
                )
                .is_ok()
            });
            if !taken {
                let count = index - run.first;
                self.free(Run { count, ..run }, true);
                return false;
            }
        }
        true
    }

    /// Frees those blocks of a run that are this process's; the memory may be kept for the next.
    pub(super) fn free(&self, run: Run, keep: bool) {
        let mine = owned(run.claim, me());
        // Relaxed: it is about how much memory there is.
        let warm = self.shared.warm.load(Ordering::Relaxed);
        let room = match keep {
            // A count that has become wrong is of no use.
            true => most_kept().saturating_sub(if warm > self.count { 0 } else { warm }),
            false => 0,
        };
        let kept = run.count.min(room);
        // Those in front are needed again first.
        let (kept, given_back) = (
            run.first..run.first + kept,
            run.first + kept..run.first + run.count,
        );
        let mut freed = 0;
        for index in kept {
            if let Some(word) = self.word(index) {
                let free = |old: u64| (old & !WARM == mine).then_some(old & WARM);
                // Release: the next owner comes after all that was done with the block.
                if let Ok(old) = word.fetch_update(Ordering::Release, Ordering::Relaxed, free) {
                    freed += (old & WARM) as u32;
                }
            }
        }
        self.shared.warm.fetch_add(freed, Ordering::Relaxed);
        let is_mine = |word: u64| word & !WARM == mine;
        for stretch in self.stretches(given_back, u32::MAX, is_mine) {
            self.give_back(stretch);
        }
    }

    /// Frees blocks of this process, or of one that is gone, whose memory goes back to the system.
    fn give_back(&self, blocks: Range<u32>) {
        let (offset, len) = self.range(&blocks);
        // Where that fails, the memory is there for the next one, which does not know it.
        let _ = self.mapping.give_back(offset, len);
        for index in blocks {
            if let Some(word) = self.word(index) {
                // Release: the next owner comes after that.
                word.store(0, Ordering::Release);
            }
        }
    }

    fn less_warm(&self, count: u32) {
        if count > 0 {
            self.shared.warm.fetch_sub(count, Ordering::Relaxed);
        }
    }

    /// Frees all that a dead process had. Whether it had put memory there already is not known.
    pub(super) fn free_all_of(&self, process: u16) {
        let is_its = |word: u64| !is_free(word) && owner(word) == process;
        for stretch in self.stretches(0..self.known(), u32::MAX, is_its) {
            self.give_back(stretch);
        }
    }

    /// Whether this process sees to it that memory is given back.
    pub(super) fn are_tended(&self) -> bool {
        // Relaxed: it is about how much memory there is.
        self.tended.load(Ordering::Relaxed)
    }

    /// From now on this process [tidies](Self::tidy) for as long as there is something to.
    pub(crate) fn tend(&self) {
        self.tended.store(true, Ordering::Relaxed);
    }

    /// Whether any block has memory behind it.
    pub(crate) fn are_in_use(&self) -> bool {
        (0..self.known()).any(|index| {
            self.word(index)
                // Relaxed: who has to know it for sure has a fence.
                .is_some_and(|word| word.load(Ordering::Relaxed) != 0)
        })
    }

    /// A number that differs once more blocks were claimed.
    pub(crate) fn claims(&self) -> u64 {
        self.shared.claims.load(Ordering::Relaxed)
    }

    /// Gives some of the memory of free blocks back to the system; `false` if there is none.
    pub(crate) fn tidy(&self) -> bool {
        let most = (GIVEN_AT_ONCE / BLOCK) as u32;
        let is_spare = |word| word == WARM;
        let stretches = self.stretches(0..self.known(), most, is_spare);
        // Relaxed: it is about how much memory there is. What was counted wrongly, since a process was
        // killed, is put right here.
        let spare: usize = stretches.iter().map(ExactSizeIterator::len).sum();
        self.shared.warm.store(spare as u32, Ordering::Relaxed);
        // Those behind are needed last.
        let Some(stretch) = stretches.into_iter().next_back() else {
            return false;
        };
        let run = Run {
            first: stretch.start,
            count: stretch.len() as u32,
            claim: LAST_CLAIM,
        };
        if self.seize(run).is_ok() {
            self.free(run, false);
        }
        true
    }
}

/// How many free blocks keep their memory.
fn most_kept() -> u32 {
    static MOST: OnceLock<u32> = OnceLock::new();
    *MOST.get_or_init(|| {
        let info = rustix::system::sysinfo();
        let memory = (info.totalram as u64).saturating_mul(u64::from(info.mem_unit));
        ((memory / KEEP_PART).min(KEEP) / BLOCK as u64) as u32
    })
}

#[cfg(all(test, not(freethreading_loom)))]
mod tests;
