//! A position in the stream, and the words of a slot that say where the stream is.

use super::{
    super::{gate::FAR_WORDS, slot::WORDS},
    BLOCK,
};

/// A position in the stream; as a word, with the last bits of how many items were put, or taken, up to there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) block: u32,
    pub(super) offset: usize,
}

/// Enough for any offset, and for the end of a block.
const OFFSET_BITS: u32 = BLOCK.ilog2() + 1;

/// Those bits of the count.
pub(super) const COUNT: u64 = (1 << (32 - OFFSET_BITS)) - 1;

pub(super) fn count_of(position: u64) -> u64 {
    position >> OFFSET_BITS & COUNT
}

impl Position {
    /// The start of no block.
    pub(super) const NOWHERE: Position = Position {
        block: 0,
        offset: 0,
    };

    pub(super) fn pack(self, count: u64) -> u64 {
        u64::from(self.block) << 32 | (count & COUNT) << OFFSET_BITS | self.offset as u64
    }

    /// What is in the arena is not trusted: a position that is none is nowhere.
    pub(super) fn unpack(position: u64) -> Position {
        let offset = position as usize & ((1 << OFFSET_BITS) - 1);
        match offset <= BLOCK {
            true => Position {
                block: (position >> 32) as u32,
                offset,
            },
            false => Position::NOWHERE,
        }
    }
}

// The words of those who put, which are written under the mutex. Counts are read without it as well.

pub(crate) const MAXSIZE: usize = 0;
/// How many items are done.
pub(crate) const DONE: usize = 1;
/// How many items were put: counted before the put is committed, so that nobody has an item that is not
/// counted.
pub(crate) const PUT: usize = 2;
/// Where the stream ends.
pub(crate) const TAIL: usize = 3;
/// How many items had been taken when somebody who puts last looked.
pub(crate) const TAKEN_SEEN: usize = 4;

// The words of those who take, which are written under the gate, and are far from the others.

/// Where the stream starts.
pub(crate) const HEAD: usize = WORDS;
/// How many items were taken: counted once the get is committed.
pub(crate) const TAKEN: usize = WORDS + 1;
/// Where the stream ended when somebody who takes last looked.
pub(crate) const TAIL_SEEN: usize = WORDS + 2;
/// Somebody waits for room, perhaps: set under both locks, cleared under the mutex.
pub(crate) const WANTED: usize = WORDS + 3;
/// Blocks that are kept for the next ones that are needed. Who takes only ever fills in one that is zero,
/// and who puts only ever makes one zero.
pub(crate) const SPARES: [usize; 4] = [WORDS + 4, WORDS + 5, WORDS + 6, WORDS + 7];

const _: () = assert!(SPARES[SPARES.len() - 1] < WORDS + FAR_WORDS);
