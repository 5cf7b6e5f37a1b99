//! The worker's end of the ways between it and its parent, and of the board where it takes requests by itself.
#![allow(unsafe_code)]

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, ErrorKind, Write},
    thread,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::fstat,
    io::{ioctl_fionread, retry_on_intr},
};
use tokio_util::codec::{Decoder, LengthDelimitedCodec};

use super::wire::{self, BELL, PREFIX};
use crate::{
    arena::{
        board::Board,
        lane::{Arrival, Attention, Lanes, Reader, Writer, Written},
        passage::Luggage,
    },
    look::{Looker, give_way_once},
};

/// What is read at once where no frame asks for more.
const READ_SIZE: usize = 64 * 1024;

/// A buffer larger than this is given back when what follows is small.
pub(super) const KEEP: usize = 1 << 20;

/// How many replies may wait to be taken before a process does not go on by itself.
const FAR_AHEAD: usize = 256;

/// For so long after a look at the pipe it is taken for what it was, where one request follows another at once: the look
/// takes as long as a short task. A task that closes all descriptors takes longer, and is found out at once; one that
/// spoils the pipe alone, within that time, may be answered for by another one.
const TRUST: Duration = Duration::from_micros(2);

/// A task that takes less has not closed so many descriptors, and opened so many, that another pipe has the number of
/// this one.
const QUICK: Duration = Duration::from_micros(20);

/// Where requests come from, and replies go.
pub(super) struct Port {
    frames: Frames,
    output: File,
    lanes: Option<Ends>,
    /// What the last reply names, until the parent, which has it then, says something again.
    luggage: Luggage,
    /// How many bytes it has written to the pipe.
    said: u64,
}

/// This process's ends of the lanes.
struct Ends {
    requests: Reader,
    replies: Writer,
    /// The replies whose room in the lane is not free yet.
    sent: VecDeque<Written>,
    lanes: Lanes,
    /// Where it finds requests by itself, once it was told.
    board: Option<Board>,
    /// The number of the one that it has taken there.
    ahead: Option<u64>,
    /// The request at hand is one of those.
    is_in_a_row: bool,
    /// How many requests it may still answer.
    left: u64,
    /// When the pipe was last looked at.
    looked: Instant,
    /// When the request at hand came, or some time before.
    came: Instant,
    /// Which pipe it is.
    pipe: PipeId,
}

/// What no two pipes have in common: a device and a number on it.
type PipeId = (u64, u64);

fn id_of(pipe: &File) -> io::Result<PipeId> {
    let stat = fstat(pipe)?;
    Ok((stat.st_dev, stat.st_ino))
}

impl Port {
    pub(super) fn new(input: File, output: File) -> Self {
        Port {
            frames: Frames::new(input),
            output,
            lanes: None,
            luggage: Luggage::default(),
            said: 0,
        }
    }

    /// Requests have so many bytes at most.
    pub(super) fn set_limit(&mut self, limit: usize) {
        self.frames.codec.set_max_frame_length(limit);
    }

    /// From now on requests, so many at most, come through the lane, or are announced there.
    pub(super) fn use_lanes(&mut self, lanes: Lanes, max: Option<u64>) -> io::Result<()> {
        let now = Instant::now();
        self.lanes = Some(Ends {
            requests: Reader::new(lanes.requests()),
            replies: Writer::new(lanes.replies()),
            sent: VecDeque::new(),
            lanes,
            board: None,
            ahead: None,
            is_in_a_row: false,
            left: max.unwrap_or(u64::MAX),
            looked: now,
            came: now,
            pipe: id_of(&self.output)?,
        });
        Ok(())
    }

    /// The next request, or `None` if there are no more.
    pub(super) fn next(&mut self) -> io::Result<Option<Bytes>> {
        let next = match &mut self.lanes {
            None => self.next_from_pipe(),
            Some(ends) => match ends.next()? {
                None => Ok(None),
                Some(Some(frame)) => Ok(Some(frame.into())),
                Some(None) => self.next_from_pipe(),
            },
        };
        self.luggage = Luggage::default();
        next
    }

    fn next_from_pipe(&mut self) -> io::Result<Option<Bytes>> {
        Ok(self.frames.next()?.map(BytesMut::freeze))
    }

    /// Answers the request at hand with a frame, which names this.
    pub(super) fn reply(&mut self, frame: &[u8], luggage: Luggage) -> io::Result<()> {
        self.luggage = luggage;
        let Some(ends) = &mut self.lanes else {
            return self.write(frame);
        };
        // A request from the board does not say that the parent has the reply.
        let goes_on = self.luggage.is_empty();
        if !ends.finds_pipe_in_order(&self.output, self.said)? {
            return self.complain();
        }
        match ends.reply(Some(&frame[PREFIX..]), goes_on)? {
            None => {
                ends.wait_until_taken();
                self.write(frame)
            }
            Some(true) => Ok(()),
            Some(false) => self.write(&BELL),
        }
    }

    /// A task has written to the pipe, so that the parent may take what comes there for anything: tells it so through
    /// the lane, and waits to be ended.
    fn complain(&mut self) -> io::Result<()> {
        /// The parent does not take long.
        const PATIENCE: Duration = Duration::from_secs(5);

        if let Some(ends) = &mut self.lanes {
            ends.wait_until_taken();
            ends.reply(None, false)?;
        }
        // Whatever it is taken for, it has the parent look.
        self.write(&BELL)?;
        thread::sleep(PATIENCE);
        Err(io::Error::other("a task has written to its pipe"))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.said += bytes.len() as u64;
        self.output.write_all(bytes)
    }
}

impl Ends {
    /// Waits for the next request; `None` if there are no more.
    fn next(&mut self) -> io::Result<Option<Arrival>> {
        self.is_in_a_row = self.ahead.is_some();
        if let (Some(board), Some(number)) = (&self.board, self.ahead.take()) {
            self.came = self.looked;
            return board.begin(number).map(|frame| Some(Some(frame)));
        }
        loop {
            let signals = self.requests.signals();
            if let Some(arrival) = self.requests.claim() {
                self.came = Instant::now();
                return arrival.map(Some);
            }
            if self.requests.lane().has_ended() {
                return Ok(None);
            }
            self.requests.wait(signals, None);
        }
    }

    /// Whether the pipe is open and nothing but what this process has said was in it, as far as is known. It is an error
    /// if the pipe is not open, or another one is in its place.
    fn finds_pipe_in_order(&mut self, pipe: &File, said: u64) -> io::Result<bool> {
        let now = Instant::now();
        if self.is_in_a_row && now.duration_since(self.looked) < TRUST {
            return Ok(true);
        }
        self.looked = now;
        if now.duration_since(self.came) > QUICK && id_of(pipe)? != self.pipe {
            return Err(io::Error::other("a task has closed its pipe"));
        }
        let heard = self.lanes.heard();
        loop {
            if let Some(is_all) = heard.is_all_of(said, || Ok(ioctl_fionread(pipe)?))? {
                return Ok(is_all);
            }
            // The parent may be reading on this core.
            thread::yield_now();
        }
    }

    /// Puts a reply into the lane, or that there is none, if there is room; says whether the parent looks there. If the
    /// process is to go on by itself, the next request is taken before: the parent sees with the reply whether there is
    /// one.
    fn reply(&mut self, frame: Option<&[u8]>, goes_on: bool) -> io::Result<Option<bool>> {
        self.left = self.left.saturating_sub(1);
        self.make_room();
        let lane = self.replies.lane();
        if !self.replies.has_room(frame.map_or(0, <[u8]>::len)) {
            return Ok(None);
        }
        // A parent that does not keep up is not to be overwhelmed, and the next reply needs room, too.
        let keeps_up = self.sent.len() < FAR_AHEAD && self.replies.has_much_room();
        if goes_on && keeps_up && self.left > 0 {
            self.take_ahead()?;
        }
        let Some(written) = self.replies.write(frame) else {
            return Err(io::Error::other("there is no room in a lane that had some"));
        };
        self.sent.push_back(written);
        lane.alert(written.attention);
        // Who is about to wait for the reply may have had no chance to begin.
        let is_taken = || lane.has_taken(written.number);
        let looks = written.attention != Attention::None;
        Ok(Some(looks || give_way_once(Looker::Taken, is_taken)))
    }

    /// Has the room again of the replies that were taken.
    fn make_room(&mut self) {
        let lane = self.replies.lane();
        while let Some(first) = self.sent.front()
            && lane.has_taken(first.number)
        {
            self.replies.free(first.room);
            self.sent.pop_front();
        }
    }

    /// Waits until the parent, which was told, has taken all replies from the lane: whatever comes through
    /// the pipe comes after them. It is rare that one is waited for.
    fn wait_until_taken(&mut self) {
        const LOOKS: u32 = 64;
        const PAUSE: Duration = Duration::from_micros(50);

        for look in 0.. {
            self.make_room();
            if self.sent.is_empty() {
                return;
            }
            match look < LOOKS {
                true => thread::yield_now(),
                // A parent that is gone ends this process.
                false => thread::sleep(PAUSE),
            }
        }
    }

    /// Takes the next request from the board, if there is one.
    fn take_ahead(&mut self) -> io::Result<()> {
        if self.board.is_none() {
            let Some(block) = self.lanes.board() else {
                return Ok(());
            };
            self.board = Some(Board::of_parent(block)?);
        }
        self.ahead = self.board.as_ref().and_then(Board::take);
        Ok(())
    }
}

/// Reads frames with plain blocking reads.
struct Frames {
    input: File,
    codec: LengthDelimitedCodec,
    buffer: BytesMut,
}

impl Frames {
    fn new(input: File) -> Self {
        Frames {
            input,
            codec: wire::codec(wire::SETUP_LIMIT),
            buffer: BytesMut::with_capacity(READ_SIZE),
        }
    }

    /// The next frame, or `None` if there are no more.
    fn next(&mut self) -> io::Result<Option<BytesMut>> {
        loop {
            // Reserves room for the whole frame once its length is known.
            if let Some(frame) = self.codec.decode(&mut self.buffer)? {
                if frame.len() < READ_SIZE
                    && self.buffer.capacity() > KEEP
                    && self.buffer.is_empty()
                {
                    self.buffer = BytesMut::with_capacity(READ_SIZE);
                }
                return Ok(Some(frame));
            }
            if self.buffer.capacity() == self.buffer.len() {
                self.buffer.reserve(READ_SIZE);
            }
            if self.read()? == 0 {
                return match self.buffer.has_remaining() {
                    true => Err(ErrorKind::UnexpectedEof.into()),
                    false => Ok(None),
                };
            }
        }
    }

    /// Waits for the first bytes of a request without taking them.
    ///
    /// A process that was killed while it waited dies here, and the parent sees that the request was
    /// not touched. Within a read that waits it would still take the bytes before it dies.
    fn wait_for_request(&self) {
        // Interrupted or not, the read finds out what there is.
        let _ = poll(&mut [PollFd::new(&self.input, PollFlags::IN)], None);
    }

    fn read(&mut self) -> io::Result<usize> {
        if self.buffer.is_empty() {
            self.wait_for_request();
        }
        let (input, room) = (&self.input, self.buffer.spare_capacity_mut());
        let read =
            retry_on_intr(|| rustix::io::read(input, &mut *room).map(|(read, _)| read.len()))?;
        // SAFETY: the system call has just initialised `read` bytes of the spare capacity.
        unsafe { self.buffer.set_len(self.buffer.len() + read) };
        Ok(read)
    }
}
