//! Where a process puts up small frames for several that it has started: each takes the next one when it has
//! time, and nobody in between.
//!
//! A [`Board`] is a ring of cells. Frames have numbers from zero on, and each has its cell, which says in
//! one word what became of it:
//!
//! ```text
//! Posted ──► Taken by a process ──► Begun
//!    └─────► Withdrawn
//! ```
//!
//! One exchange takes a frame and says who did, so whenever a process is killed it is known what it had, and
//! whether it had begun with it. Frames are taken in the order of their numbers: who takes one has
//! seen that none before it is posted any more.
#![allow(unsafe_code)]

use std::io;

use super::{
    me,
    page::{self, Page},
};
use crate::shim::{AtomicU64, Ordering, first_look};

/// How many frames may be up at a time.
pub(crate) const CELLS: usize = if cfg!(freethreading_loom) { 2 } else { 64 };

/// How many words of eight bytes a frame may have.
const FRAME_WORDS: usize = if cfg!(freethreading_loom) { 1 } else { 62 };

/// What became of the frame that a cell was used for last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// There was none yet.
    None,
    Posted,
    /// This process has it, and has not begun.
    Taken(u16),
    Begun(u16),
    /// The process that had posted it has it back.
    Withdrawn,
}

/// The state of a cell, as one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    /// The frame's number; not enough of them can be posted for it to wrap around.
    number: u64,
    fate: Fate,
}

impl State {
    fn unpack(word: u64) -> State {
        let process = (word >> 4) as u16;
        State {
            number: word >> 20,
            fate: match word & 0xf {
                1 => Fate::Posted,
                2 => Fate::Taken(process),
                3 => Fate::Begun(process),
                4 => Fate::Withdrawn,
                _ => Fate::None,
            },
        }
    }

    fn pack(self) -> u64 {
        let (fate, process) = match self.fate {
            Fate::None => (0, 0),
            Fate::Posted => (1, 0),
            Fate::Taken(process) => (2, process),
            Fate::Begun(process) => (3, process),
            Fate::Withdrawn => (4, 0),
        };
        self.number << 20 | u64::from(process) << 4 | fate
    }
}

/// All of it is atomics: whatever a process writes there, the others find some numbers.
#[repr(C, align(64))]
struct Cell {
    state: AtomicU64,
    /// How many bytes the frame has.
    len: AtomicU64,
    frame: [AtomicU64; FRAME_WORDS],
}

impl Cell {
    fn state(&self) -> State {
        // Acquire: who sees a frame posted sees its bytes, and who sees it begun knows that they were read.
        State::unpack(self.state.load(Ordering::Acquire))
    }

    /// The same, for who acts on it.
    fn first_look(&self) -> State {
        State::unpack(first_look(&self.state, Ordering::Acquire))
    }

    fn set(&self, number: u64, fate: Fate) {
        // Release: the other half.
        self.state
            .store(State { number, fate }.pack(), Ordering::Release);
    }

    /// Decides what becomes of the frame, if it is posted; else gives the state.
    fn decide(&self, number: u64, fate: Fate) -> Result<(), State> {
        let posted = State {
            number,
            fate: Fate::Posted,
        };
        let decided = State { number, fate };
        // Relaxed: who takes a frame has seen it posted, with its bytes, and nobody goes by this for more than the
        // state itself, of which nobody sees less than one whom he has heard of.
        self.state
            .compare_exchange(
                posted.pack(),
                decided.pack(),
                Ordering::Relaxed,
                Ordering::Relaxed,
            )
            .map(|_| ())
            .map_err(State::unpack)
    }

    // Relaxed, here and below: the state says when the bytes are there, and when they are not needed any more.
    fn write(&self, frame: &[u8]) {
        self.len.store(frame.len() as u64, Ordering::Relaxed);
        for (word, bytes) in self.frame.iter().zip(frame.chunks(8)) {
            let mut padded = [0; 8];
            padded[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_ne_bytes(padded), Ordering::Relaxed);
        }
    }

    /// `None` if the length is none that was written here.
    fn read(&self) -> Option<Vec<u8>> {
        let len = usize::try_from(self.len.load(Ordering::Relaxed)).ok()?;
        let words = self.frame.get(..len.div_ceil(8))?;
        let mut frame = Vec::with_capacity(words.len() * 8);
        for word in words {
            frame.extend_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        frame.truncate(len);
        Some(frame)
    }
}

#[repr(C, align(64))]
struct Head(AtomicU64);

/// What stands in the block.
#[repr(C)]
pub(super) struct Words {
    /// No frame before this number is posted any more. Whoever sees that it could be more helps it on.
    head: Head,
    cells: [Cell; CELLS],
}

// SAFETY: all of it is atomics.
unsafe impl page::Words for Words {}

/// What the process that has posted a frame can see of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Posted,
    Withdrawn,
    /// Or begun.
    TakenBy(u16),
    /// Somebody has written to the board who must not.
    Lost,
}

impl Words {
    /// Empties it, while nobody else knows of it: the memory may have been used before.
    fn reset(&self) {
        // Relaxed: whoever is told of it sees this.
        self.head.0.store(0, Ordering::Relaxed);
        for cell in &self.cells {
            cell.state.store(0, Ordering::Relaxed);
        }
    }

    fn cell(&self, number: u64) -> &Cell {
        &self.cells[(number % CELLS as u64) as usize]
    }

    /// Puts a frame up, if it fits and its cell is free.
    fn post(&self, number: u64, frame: &[u8]) -> bool {
        let cell = self.cell(number);
        let is_free = match cell.first_look().fate {
            Fate::None | Fate::Begun(_) | Fate::Withdrawn => true,
            // Who has it may be about to read it.
            Fate::Posted | Fate::Taken(_) => false,
        };
        let fits = is_free && frame.len() <= FRAME_WORDS * 8;
        if fits {
            cell.write(frame);
            cell.set(number, Fate::Posted);
        }
        fits
    }

    /// The first frame that is posted is the process's.
    fn take(&self, process: u16) -> Option<u64> {
        // Relaxed: what the others saw that have helped the head on is known once it is helped on here.
        let mut head = first_look(&self.head.0, Ordering::Relaxed);
        loop {
            let cell = self.cell(head);
            let State { number, fate } = cell.first_look();
            if number < head || fate == Fate::None {
                return None; // It is not posted yet.
            }
            let is_posted = number == head && fate == Fate::Posted;
            // If not, another one was faster, or it was withdrawn.
            let taken = is_posted && cell.decide(head, Fate::Taken(process)).is_ok();
            // A cell is used again when its frame, and so all before that, are not posted any more.
            let over = number.saturating_sub(CELLS as u64 - 1);
            let now = self.advance(head, over.max(head + 1));
            if taken {
                return Some(head);
            }
            head = now;
        }
    }

    /// Helps the head on; gives what it is then.
    fn advance(&self, from: u64, to: u64) -> u64 {
        // Both ways, also if another one was faster: who takes a frame, and says so, has seen that none before it
        // is posted any more, as all have that have helped before.
        match self
            .head
            .0
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(_) => to,
            Err(now) => now,
        }
    }

    /// Reads a frame that the process has taken: from now on it has begun.
    fn begin(&self, number: u64, process: u16) -> Option<Vec<u8>> {
        let cell = self.cell(number);
        let frame = cell.read();
        cell.set(number, Fate::Begun(process));
        frame
    }

    /// Takes a frame back, unless a process has it; `true` as well if it was taken back before.
    fn withdraw(&self, number: u64) -> bool {
        let withdrawn = State {
            number,
            fate: Fate::Withdrawn,
        };
        match self.cell(number).decide(number, Fate::Withdrawn) {
            Ok(()) => true,
            Err(state) => state == withdrawn,
        }
    }

    fn standing(&self, number: u64) -> Standing {
        let state = self.cell(number).state();
        match state.fate {
            _ if state.number != number => Standing::Lost,
            Fate::None => Standing::Lost,
            Fate::Posted => Standing::Posted,
            Fate::Withdrawn => Standing::Withdrawn,
            Fate::Taken(process) | Fate::Begun(process) => Standing::TakenBy(process),
        }
    }

    /// The process that had taken the frame is gone; says whether it had begun.
    fn bury(&self, number: u64) -> bool {
        let cell = self.cell(number);
        let state = cell.state();
        if state.number == number {
            cell.set(number, Fate::Withdrawn);
        }
        // If it is not known, it may have.
        !matches!(state, State { number: of, fate: Fate::Taken(_) } if of == number)
    }
}

/// A board in a block of shared memory.
pub(crate) struct Board(Page<Words>);

impl Board {
    /// A new one, if there is memory for it that other processes reach.
    pub(crate) fn claim() -> Option<Board> {
        let page = Page::<Words>::claim()?;
        page.words.reset();
        Some(Board(page))
    }

    /// One that the process which has started this one has claimed.
    pub(crate) fn of_parent(block: u32) -> io::Result<Board> {
        Page::of_parent(block).map(Board)
    }

    pub(crate) fn block(&self) -> u32 {
        self.0.block
    }

    /// Posts a frame under the next number, if it fits and there is room; only one thread may do so at a time.
    pub(crate) fn post(&self, number: u64, frame: &[u8]) -> bool {
        self.0.words.post(number, frame)
    }

    /// The number of the first frame that is posted, which is this process's to [begin](Board::begin).
    pub(crate) fn take(&self) -> Option<u64> {
        self.0.words.take(me())
    }

    /// The bytes of a frame that this process has taken; from now on it counts as begun.
    pub(crate) fn begin(&self, number: u64) -> io::Result<Vec<u8>> {
        let frame = self.0.words.begin(number, me());
        frame.ok_or_else(|| io::Error::other("a frame that is larger than the board's cells"))
    }

    /// Takes a frame back, unless a process has it; `true` as well if it was taken back before.
    pub(crate) fn withdraw(&self, number: u64) -> bool {
        self.0.words.withdraw(number)
    }

    pub(crate) fn standing(&self, number: u64) -> Standing {
        self.0.words.standing(number)
    }

    /// The process that had taken a frame is gone: its cell is free again. Says whether it may have begun.
    pub(crate) fn bury(&self, number: u64) -> bool {
        self.0.words.bury(number)
    }
}

#[cfg(all(test, freethreading_loom))]
mod models;
#[cfg(all(test, not(freethreading_loom)))]
mod tests;
