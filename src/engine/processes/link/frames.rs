//! Frames to and from one worker process.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, ReadBuf},
    net::unix::pipe,
};

use super::{Ending, Replies};
use crate::engine::processes::wire::BELL;

/// What was read from a process's pipe.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// How many bytes.
    len: u64,
    /// How many of the last ones are as in a bell; no more than it has are counted.
    of_bell: u64,
}

impl Heard {
    fn hear(&mut self, bytes: &[u8]) {
        let last = bytes.iter().rev().take(BELL.len());
        let of_bell = last.take_while(|&&byte| byte == BELL[0]).count();
        let before = match of_bell == bytes.len() {
            true => self.of_bell,
            false => 0,
        };
        self.of_bell = (before + of_bell as u64).min(BELL.len() as u64);
        self.len += bytes.len() as u64;
    }

    /// Whether this may be all of a process that had said so much when it replied: it may have rung afterwards, and
    /// not all of that need have been read.
    pub(super) fn may_follow(&self, said: u64) -> bool {
        self.len <= said + self.of_bell
    }
}

/// The process's pipe: who locks what was heard knows of all that is not in the pipe any more.
pub(super) struct Listener {
    pipe: pipe::Receiver,
    heard: Arc<Mutex<Heard>>,
}

impl Listener {
    pub(super) fn new(pipe: pipe::Receiver, heard: Arc<Mutex<Heard>>) -> Self {
        Listener { pipe, heard }
    }
}

impl AsyncRead for Listener {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let Listener { pipe, heard } = self.get_mut();
        let mut heard = heard.lock();
        let before = buffer.filled().len();
        let poll = Pin::new(pipe).poll_read(context, buffer);
        heard.hear(&buffer.filled()[before..]);
        poll
    }
}

/// A frame, or the reason why there is none.
pub(super) fn checked(
    reply: Option<std::io::Result<BytesMut>>,
    replies: &Replies,
) -> Result<BytesMut, Ending> {
    match reply {
        Some(Ok(reply)) => Ok(reply),
        // It ended in the middle of a frame, or the pipe broke: its exit status says more.
        None => Err(Ending::Closed),
        Some(Err(error)) if error.kind() != std::io::ErrorKind::InvalidData => Err(Ending::Closed),
        Some(Err(_)) => {
            let buffer = replies.read_buffer();
            let len = buffer
                .first_chunk()
                .map_or(0, |len| u64::from_be_bytes(*len));
            let limit = replies.decoder().max_frame_length();
            let start = excerpt(buffer);
            Err(Ending::Protocol(format!(
                "a frame of {len} bytes, where the limit is {limit}; it begins with {start}"
            )))
        }
    }
}

/// The start of what a process said, for a message.
pub(super) fn excerpt(bytes: &[u8]) -> String {
    format!(
        "{:?}",
        String::from_utf8_lossy(&bytes[..bytes.len().min(64)])
    )
}

/// Writes as much as the pipe takes, but something.
pub(super) async fn write_some(input: &pipe::Sender, bytes: &Bytes) -> std::io::Result<usize> {
    loop {
        input.writable().await?;
        match input.try_write(bytes) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
}

pub(super) async fn write_all(input: &pipe::Sender, bytes: &[u8]) -> Result<(), Ending> {
    let mut rest = Bytes::copy_from_slice(bytes);
    while !rest.is_empty() {
        match write_some(input, &rest).await {
            Ok(written) => rest.advance(written),
            Err(_) => return Err(Ending::Closed),
        }
    }
    Ok(())
}

#[cfg(all(test, not(freethreading_loom)))]
mod tests {
    use super::*;

    /// What was heard, one part after the other.
    fn heard(parts: &[&[u8]]) -> Heard {
        let mut heard = Heard::default();
        parts.iter().for_each(|part| heard.hear(part));
        heard
    }

    #[test]
    fn a_process_may_ring_once_after_it_has_replied() {
        for parts in [
            &[&b"hello"[..], &BELL][..],
            &[&b"hello\0\0\0\0\0\0\0\0"[..]],
        ] {
            let heard = heard(parts);
            assert!(heard.may_follow(5));
            assert!(heard.may_follow(13));
            assert!(heard.may_follow(99));
            assert!(!heard.may_follow(4));
        }
        // The second one is of a later reply.
        assert!(!heard(&[&BELL, &BELL]).may_follow(0));
    }

    #[test]
    fn a_bell_may_be_read_in_parts() {
        for len in 0..=BELL.len() {
            let (first, rest) = BELL.split_at(len);
            assert!(heard(&[b"hello", first]).may_follow(5), "{len}");
            assert!(heard(&[b"hello", first, rest]).may_follow(5), "{len}");
            assert!(heard(&[b"hello", &BELL, first]).may_follow(13), "{len}");
        }
    }

    #[test]
    fn what_a_task_has_written_is_no_bell() {
        for len in 1..=BELL.len() {
            let written = &b"whatever"[..len];
            assert!(!heard(&[b"hello", written]).may_follow(5), "{len}");
            assert!(!heard(&[b"hello", written, &BELL]).may_follow(5), "{len}");
            assert!(!heard(&[b"hello", &BELL, written]).may_follow(5), "{len}");
        }
        assert!(!heard(&[b"hello", b"\0\0w\0\0"]).may_follow(5));
    }
}
