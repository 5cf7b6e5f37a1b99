//! Frames to and from one worker process.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes, BytesMut};
use futures::StreamExt;
use tokio::{
    io::{AsyncRead, ReadBuf},
    net::unix::pipe,
    time::timeout,
};

use super::{DRAINING_TIME, Ending, Link, Replies};

/// The process's pipe, which the process may compare with what it has written.
pub(super) struct Listener {
    pipe: pipe::Receiver,
    link: Arc<Link>,
}

impl Listener {
    pub(super) fn new(pipe: pipe::Receiver, link: Arc<Link>) -> Self {
        Listener { pipe, link }
    }
}

impl AsyncRead for Listener {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let Listener { pipe, link } = self.get_mut();
        let pipe = Pin::new(pipe);
        let Some(lanes) = &link.lanes else {
            return pipe.poll_read(context, buffer);
        };
        lanes.heard().hear(|| {
            let before = buffer.filled().len();
            let poll = pipe.poll_read(context, buffer);
            (poll, buffer.filled().len() - before)
        })
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

/// A task has written to the pipe: what is there, as far as it is no frame.
pub(super) async fn garbled(replies: &mut Replies) -> Ending {
    // What there is to read is read at once, but may not have been noticed yet.
    let _ = timeout(DRAINING_TIME, replies.next()).await;
    Ending::Protocol(format!(
        "a task has written to its pipe, where this is left: {}",
        excerpt(replies.read_buffer())
    ))
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
