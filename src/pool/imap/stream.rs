//! The results of an imap as a stream.

use std::{
    fmt,
    panic::{RefUnwindSafe, UnwindSafe},
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::{Stream, StreamExt, stream::FusedStream};

use super::{Feeder, Output};
use crate::{coop, error::TaskError, task::Portable, unwind};

/// The results of an [`imap`](crate::WorkerPool::imap) as a stream, on any runtime.
///
/// It is made by [`Imap::into_stream`](super::Imap::into_stream) or, with a stream as its input, by
/// [`imap_stream`](crate::WorkerPool::imap_stream). As many items as the input has ready are read, up to
/// a few chunks ahead of the results; a chunk may be smaller where the input is not ready with more.
///
/// # Cancel safety
///
/// A result leaves the stream only when `poll_next` gives it: leaving a `next().await` half-way loses
/// nothing. Dropping the stream cancels the tasks that have not begun.
#[must_use = "streams do nothing unless polled"]
pub struct ImapStream<S: Stream, R> {
    input: Option<Pin<Box<S>>>,
    /// Items that were read and do not make up a chunk yet.
    buffer: Vec<S::Item>,
    feeder: Feeder<S::Item, R>,
    output: Output<R>,
    /// It was polled to its end.
    ended: bool,
}

// Nothing is pinned but the box.
impl<S: Stream, R> Unpin for ImapStream<S, R> {}

// A panic of the input is an item, and no other user code runs where the stream is changed.
impl<S: Stream, R> UnwindSafe for ImapStream<S, R> {}
impl<S: Stream, R> RefUnwindSafe for ImapStream<S, R> {}

impl<S: Stream, R> ImapStream<S, R> {
    pub(super) fn new(input: Option<S>, feeder: Feeder<S::Item, R>, output: Output<R>) -> Self {
        ImapStream {
            input: input.map(Box::pin),
            buffer: Vec::new(),
            feeder,
            output,
            ended: false,
        }
    }
}

impl<S, R> ImapStream<S, R>
where
    S: Stream,
    S::Item: Portable,
    R: Portable,
{
    /// Reads on, as far as the look-ahead goes, and remembers to wake the caller when there is more.
    fn feed(&mut self, context: &mut Context<'_>) {
        while let Some(input) = &mut self.input
            && self.output.window.len() < self.feeder.limit
        {
            if self.buffer.is_empty()
                && let Err(error) = self.feeder.scheduler.check()
            {
                self.output.leave_out(input.size_hint(), error);
                self.input = None;
                return;
            }
            let item = unwind::catch(|| input.poll_next_unpin(context));
            let chunk_is_full = match item {
                Ok(Poll::Ready(Some(item))) => {
                    self.buffer.push(item);
                    self.buffer.len() == self.feeder.chunksize
                }
                Ok(Poll::Pending) => {
                    // Nobody knows when there will be more.
                    return self.submit();
                }
                Ok(Poll::Ready(None)) => {
                    self.input = None;
                    true
                }
                Err(panic) => {
                    self.output.last = Some(TaskError::Panicked(panic));
                    self.input = None;
                    self.buffer.clear();
                    return;
                }
            };
            if chunk_is_full {
                self.submit();
            }
        }
    }

    fn submit(&mut self) {
        let len = self.buffer.len();
        if len > 0 {
            let mut items = self.buffer.drain(..);
            let piece = self.feeder.inputs.carve_from(&mut items, len);
            drop(items);
            self.output.window.push(self.feeder.submit(piece));
        }
    }
}

impl<S, R> Stream for ImapStream<S, R>
where
    S: Stream,
    S::Item: Portable,
    R: Portable,
{
    type Item = Result<R, TaskError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        ready!(coop::poll_begin(context));
        loop {
            if let Some(item) = self.output.take() {
                return Poll::Ready(Some(item));
            }
            self.feed(context);
            match self.output.window.poll_next(context) {
                Poll::Ready(Some(outcome)) => {
                    self.feeder.widen();
                    if self.output.receive(outcome) {
                        self.input = None;
                    }
                }
                Poll::Ready(None) if self.input.is_none() => {
                    let last = self.output.last.take();
                    self.ended = last.is_none();
                    return Poll::Ready(last.map(Err));
                }
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// It is terminated once it gave `None`.
impl<S, R> FusedStream for ImapStream<S, R>
where
    S: Stream,
    S::Item: Portable,
    R: Portable,
{
    fn is_terminated(&self) -> bool {
        self.ended
    }
}

impl<S: Stream, R> fmt::Debug for ImapStream<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImapStream")
            .field("input_to_come", &self.input.is_some())
            .finish_non_exhaustive()
    }
}
