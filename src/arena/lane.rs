//! How a process and one that it has started pass each other small frames: through memory that both have,
//! with a system call only where the other one sleeps.
//!
//! A [`Lane`] goes one way. It is a ring of bytes with one [`Writer`] and one [`Reader`], and a word that says
//! how many frames were taken, how many wait, and whether the reader sleeps. Since that is one word, it is
//! known of every frame whether its reader had come to it, whenever that is killed.
#![allow(unsafe_code)]

mod heard;
mod line;

use std::{io, time::Duration};

use super::{
    arena,
    blocks::{BLOCK, CACHE_LINE},
    page::{self, Page},
};
use crate::{
    look::{Looker, look_and_give_way},
    shim::{AtomicU32, Ordering},
};
pub(crate) use heard::Heard;
pub(crate) use line::Attention;
use line::Line;

/// Bytes at the start of the block, which hold the words.
const HEAD: usize = if cfg!(freethreading_loom) {
    CACHE_LINE
} else {
    4 * CACHE_LINE
};

/// Bytes of a ring.
const RING: usize = (BLOCK - HEAD) / 2;

/// Bytes in front of each frame: its length.
const PREFIX: usize = 4;

/// The length of a frame that is elsewhere.
const ELSEWHERE: u32 = u32::MAX;

/// What stands at the start of the block.
#[derive(Default)]
#[repr(C)]
pub(super) struct Words {
    requests: Line,
    replies: Line,
    heard: Heard,
    board: BoardName,
}

// SAFETY: all of it is atomics.
unsafe impl page::Words for Words {}

/// The block of the board that the reader of the requests may look at when it has none, or zero.
#[derive(Default)]
#[repr(C, align(64))]
struct BoardName(AtomicU32);

/// Two lanes between a process and one that it has started.
pub(crate) struct Lanes(Page<Words>);

impl Lanes {
    /// New ones, if there is memory for them that other processes reach.
    pub(crate) fn claim() -> Option<Lanes> {
        let page = Page::<Words>::claim()?;
        page.words.requests.reset();
        page.words.replies.reset();
        page.words.heard.reset();
        // Relaxed: whoever is told of the lanes sees this.
        page.words.board.0.store(0, Ordering::Relaxed);
        Some(Lanes(page))
    }

    /// Those that the process which has started this one has claimed.
    pub(crate) fn of_parent(block: u32) -> io::Result<Lanes> {
        Page::of_parent(block).map(Lanes)
    }

    pub(crate) fn block(&self) -> u32 {
        self.0.block
    }

    /// There is a board now, in this block, for whoever has nothing to read.
    pub(crate) fn show_board(&self, block: u32) {
        // Release: the board is empty before anybody looks at it.
        self.0.words.board.0.store(block, Ordering::Release);
    }

    pub(crate) fn board(&self) -> Option<u32> {
        // Acquire: see `show_board`.
        let block = self.0.words.board.0.load(Ordering::Acquire);
        (block != 0).then_some(block)
    }

    /// What was read of what the process has written to its pipe.
    pub(crate) fn heard(&self) -> &'static Heard {
        &self.0.words.heard
    }

    pub(crate) fn requests(&self) -> Lane {
        Lane {
            block: self.0.block,
            start: HEAD,
            line: &self.0.words.requests,
        }
    }

    pub(crate) fn replies(&self) -> Lane {
        Lane {
            block: self.0.block,
            start: HEAD + RING,
            line: &self.0.words.replies,
        }
    }
}

/// One way between two processes. It is good for as long as its [`Lanes`] are.
#[derive(Clone, Copy)]
pub(crate) struct Lane {
    block: u32,
    start: usize,
    line: &'static Line,
}

impl Lane {
    /// How many frames were taken, ever; wraps around.
    pub(crate) fn taken(self) -> u32 {
        self.line.word().taken
    }

    /// Whether the frame with this number, from zero, was taken. It may be so at any time, unless the
    /// reader is gone.
    pub(crate) fn has_taken(self, number: u32) -> bool {
        is_before(number, self.taken())
    }

    pub(crate) fn is_empty(self) -> bool {
        self.line.word().waiting == 0
    }

    /// The same, for who has just let go of what another one may have found taken because he was told of a
    /// frame: then this sees the frame.
    pub(crate) fn is_empty_after_all(self) -> bool {
        self.line.is_empty_after_all()
    }

    /// Whether there will be nothing more than what waits.
    pub(crate) fn is_closed(self) -> bool {
        self.line.word().closed
    }

    /// Whether there is nothing more to read, and will be nothing more.
    pub(crate) fn has_ended(self) -> bool {
        self.line.has_ended()
    }

    /// There is nothing more to come.
    pub(crate) fn close(self) {
        self.line.close();
    }

    /// Wakes whoever has had this attention when a frame was written. No lock may be held, as for all that
    /// wakes somebody.
    pub(crate) fn alert(self, attention: Attention) {
        if attention == Attention::Asleep {
            self.line.signal();
        }
    }

    /// Has whoever sleeps at the other end look.
    pub(crate) fn rouse(self) {
        self.line.signal();
    }

    /// Copies bytes into the ring, from a place on which is within it; gives where they end.
    fn write(self, at: usize, bytes: &[u8]) -> usize {
        let (first, rest) = bytes.split_at(bytes.len().min(RING - at));
        let blocks = &arena().blocks;
        blocks.write(self.block, self.start + at, first);
        if !rest.is_empty() {
            blocks.write(self.block, self.start, rest);
        }
        (at + bytes.len()) % RING
    }

    /// Copies bytes out of the ring to the end of a buffer.
    fn read(self, at: usize, len: usize, out: &mut Vec<u8>) -> usize {
        out.reserve(len);
        let blocks = &arena().blocks;
        let space = &mut out.spare_capacity_mut()[..len];
        let (first, rest) = space.split_at_mut(len.min(RING - at));
        let read = blocks.read(self.block, self.start + at, first)
            && (rest.is_empty() || blocks.read(self.block, self.start, rest));
        if read {
            // SAFETY: so many bytes were reserved and have just been filled.
            unsafe { out.set_len(out.len() + len) };
        }
        (at + len) % RING
    }
}

/// Whether a number comes before another one, where numbers wrap around.
pub(crate) fn is_before(number: u32, other: u32) -> bool {
    (number.wrapping_sub(other) as i32) < 0
}

/// How many bytes of a ring a frame takes.
fn room_for(frame: Option<&[u8]>) -> usize {
    PREFIX + frame.map_or(0, <[u8]>::len)
}

/// The end of a lane where frames come in.
pub(crate) struct Writer {
    lane: Lane,
    /// Where the next frame begins.
    at: usize,
    /// How many bytes are in use.
    used: usize,
    /// How many frames were written, ever; wraps around.
    written: u32,
}

/// A frame that was written: what has to be known to use its room again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) number: u32,
    pub(crate) room: usize,
    /// It only says that the frame is elsewhere.
    pub(crate) is_elsewhere: bool,
    pub(crate) attention: Attention,
}

impl Writer {
    pub(crate) fn new(lane: Lane) -> Self {
        Writer {
            lane,
            at: 0,
            used: 0,
            written: 0,
        }
    }

    pub(crate) fn lane(&self) -> Lane {
        self.lane
    }

    /// Whether there is room for a frame of so many bytes.
    pub(crate) fn has_room(&self, len: usize) -> bool {
        PREFIX + len <= RING - self.used
    }

    /// Whether at least half of the room is left.
    pub(crate) fn has_much_room(&self) -> bool {
        self.used <= RING / 2
    }

    /// Passes a frame on, or the news that it is elsewhere; `None` if there is no room for it.
    /// Whoever sleeps at the other end is to be [alerted](Lane::alert).
    pub(crate) fn write(&mut self, frame: Option<&[u8]>) -> Option<Written> {
        let room = room_for(frame);
        if room > RING - self.used {
            return None;
        }
        let len = frame.map_or(ELSEWHERE, |frame| frame.len() as u32);
        let at = self.lane.write(self.at, &len.to_ne_bytes());
        self.at = self.lane.write(at, frame.unwrap_or_default());
        self.used += room;
        let number = self.written;
        self.written = number.wrapping_add(1);
        let attention = self.lane.line.publish();
        Some(Written {
            number,
            room,
            is_elsewhere: frame.is_none(),
            attention,
        })
    }

    /// The oldest frames, which took so much room, are not needed any more.
    pub(crate) fn free(&mut self, room: usize) {
        self.used -= room;
    }
}

/// The end of a lane where frames come out.
pub(crate) struct Reader {
    lane: Lane,
    /// Where the next frame begins.
    at: usize,
}

/// What comes out of a lane: a frame, or the news that it is elsewhere.
pub(crate) type Arrival = Option<Vec<u8>>;

impl Reader {
    pub(crate) fn new(lane: Lane) -> Self {
        Reader { lane, at: 0 }
    }

    pub(crate) fn lane(&self) -> Lane {
        self.lane
    }

    /// The next frame. From before it is read it is known that this end has come to it; its room is the
    /// writer's when that has been told so.
    pub(crate) fn claim(&mut self) -> Option<io::Result<Arrival>> {
        self.lane.line.claim().then(|| self.read())
    }

    /// The next frame, whose room is the writer's as soon as it counts as taken: when `see` has seen it.
    pub(crate) fn receive<T>(&mut self, see: impl FnOnce(io::Result<Arrival>) -> T) -> Option<T> {
        if self.lane.is_empty() {
            return None;
        }
        let arrival = self.read();
        let seen = see(arrival);
        self.lane.line.claim();
        Some(seen)
    }

    fn read(&mut self) -> io::Result<Arrival> {
        let mut prefix = Vec::with_capacity(PREFIX);
        let at = self.lane.read(self.at, PREFIX, &mut prefix);
        let len = u32::from_ne_bytes(prefix.try_into().unwrap_or_default());
        if len == ELSEWHERE {
            self.at = at;
            return Ok(None);
        }
        let len = len as usize;
        if len > RING - PREFIX {
            return Err(io::Error::other(format!(
                "a frame of {len} bytes, where there is room for {RING}"
            )));
        }
        let mut frame = Vec::with_capacity(len);
        self.at = self.lane.read(at, len, &mut frame);
        Ok(Some(frame))
    }

    /// From now on this end looks, and need not be told otherwise.
    pub(crate) fn attend(&self) {
        self.lane.line.attend();
    }

    /// From now on this end does not look; `false` if there is something to read, or nothing more to
    /// come.
    pub(crate) fn rest(&self) -> bool {
        self.lane.line.rest(Attention::None)
    }

    /// How often this end was roused, or told of a frame in its sleep; wraps around.
    pub(crate) fn signals(&self) -> u32 {
        self.lane.line.signals()
    }

    /// Looks for a while, gives way once, and then sleeps until there may be something to read, or a signal after
    /// the first so many; for so long at most.
    pub(crate) fn wait(&self, signals: u32, timeout: Option<Duration>) {
        // Where both ends share a core, who is woken for a frame takes the core from the one that is about to write
        // the next.
        if !self.looks(Looker::Frame) {
            self.lane.line.sleep(signals, timeout);
        }
    }

    /// Looks for a moment, and lets another thread run once, if either has been of use; says whether there is
    /// something to read, or to see.
    pub(crate) fn glance(&self) -> bool {
        self.looks(Looker::Polled)
    }

    fn looks(&self, looker: Looker) -> bool {
        look_and_give_way(looker, Looker::Yielding, &|| {
            let word = self.lane.line.word();
            word.waiting > 0 || word.closed
        })
    }
}

#[cfg(all(test, freethreading_loom))]
mod models;
#[cfg(all(test, not(freethreading_loom)))]
mod tests;
