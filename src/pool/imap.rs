//! One function over many items, as its results come.

mod stream;
mod window;

use std::{
    fmt,
    iter::FusedIterator,
    panic::{RefUnwindSafe, UnwindSafe},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{
    Stream,
    stream::{Iter, iter},
};

use crate::{
    chunk::{
        Chunk, ChunkResult, ChunkWork, Values,
        items::Items,
        piece::{Carver, Piece},
    },
    deadline,
    engine::Scheduler,
    error::TaskError,
    executor::TaskFuture,
    task::Portable,
    unwind,
};
pub use stream::ImapStream;
use window::{ChunkOutcome, Window};

/// The results of [`imap`](crate::WorkerPool::imap) or
/// [`imap_unordered`](crate::WorkerPool::imap_unordered), as they come.
///
/// The input is read as results are taken, a few chunks ahead of them, so it may be endless. An item
/// that fails is an `Err` among the others, after which the iterator goes on, with the next chunk if there are several
/// items to one (see [`chunksize`](crate::WorkerPool::chunksize)). An input that panics is an `Err`, too, and the last
/// one. Dropping the iterator cancels the tasks that have not begun.
///
/// It is made by a pool, and by an executor's [`map`](crate::Buffered::map) with a buffersize.
///
/// Python's `multiprocessing.pool.IMapIterator`.
#[must_use = "a few items are worked on ahead, the others when results are taken"]
pub struct Imap<I: Iterator, R> {
    input: Option<I>,
    feeder: Feeder<I::Item, R>,
    output: Output<R>,
}

// A panic of the input is an item, and no other user code runs where the iterator is changed.
impl<I: Iterator, R> UnwindSafe for Imap<I, R> {}
impl<I: Iterator, R> RefUnwindSafe for Imap<I, R> {}

/// Gives items to the workers.
struct Feeder<T, R> {
    scheduler: Arc<Scheduler>,
    chunk: Chunk<T, R>,
    chunksize: usize,
    /// How many chunks may be under way at most,
    ahead: usize,
    /// and for now: at first one for each worker, since who waits for the first
    /// result is not to wait for what comes later; one more with every result.
    limit: usize,
    inputs: Carver<T>,
    /// Where the results go, unless they come from another process.
    outputs: Option<Carver<R>>,
}

/// What comes out.
struct Output<R> {
    window: Window<R>,
    values: Option<Values<R>>,
    /// What comes after `values`.
    error: Option<TaskError>,
    /// What comes after everything.
    last: Option<TaskError>,
}

impl<T: Portable, R: Portable> Feeder<T, R> {
    /// There was a result.
    fn widen(&mut self) {
        self.limit = self.limit.saturating_add(1).min(self.ahead);
    }

    fn submit(&mut self, items: Piece<T>) -> TaskFuture<ChunkResult<R>> {
        let outputs = self.outputs.as_mut();
        let work = ChunkWork {
            chunk: self.chunk,
            piece: outputs.map(|outputs| outputs.carve(items.len())),
            items: Items::InMemory(items),
        };
        TaskFuture::submit(work, &self.scheduler, None)
    }
}

impl<R> Output<R> {
    /// What is there without any waiting.
    #[inline]
    fn take(&mut self) -> Option<Result<R, TaskError>> {
        if let Some(value) = self.values.as_mut().and_then(Iterator::next) {
            return Some(Ok(value));
        }
        self.values = None;
        self.error.take().map(Err)
    }

    /// The rest of the input, which says this of its length, is not read, for this reason.
    fn leave_out(&mut self, (_, most): (usize, Option<usize>), error: TaskError) {
        self.last = (most != Some(0)).then_some(error);
    }

    /// Takes over the outcome of a chunk; says whether there is no use in submitting more.
    fn receive(&mut self, outcome: ChunkOutcome<R>) -> bool {
        match outcome {
            Ok(ChunkResult { values, panic }) => {
                self.values = Some(values);
                self.error = panic.map(TaskError::Panicked);
                false
            }
            Err(error) => {
                let is_final = matches!(
                    error,
                    TaskError::Shutdown | TaskError::Terminated(_) | TaskError::Broken(_)
                );
                self.error = Some(error);
                if is_final {
                    // This says it all.
                    self.last
                        .take_if(|last| matches!(last, TaskError::Shutdown));
                }
                is_final
            }
        }
    }
}

impl<R> Drop for Output<R> {
    fn drop(&mut self) {
        self.window.cancel();
    }
}

/// What an [`Imap`] is made of.
pub(crate) struct Recipe<T, R> {
    pub(crate) scheduler: Arc<Scheduler>,
    pub(crate) workers: usize,
    /// How many chunks are under way at most.
    pub(crate) ahead: usize,
    pub(crate) chunk: Chunk<T, R>,
    pub(crate) chunksize: usize,
    pub(crate) ordered: bool,
}

impl<T: Portable, R: Portable> Recipe<T, R> {
    fn parts(self, expected: usize) -> (Feeder<T, R>, Output<R>) {
        let most = self.chunksize.saturating_mul(self.ahead);
        let expected = expected.min(most);
        let is_here = self.scheduler.carriage().is_none();
        let outputs = is_here.then(|| Carver::in_turns(expected));
        let feeder = Feeder {
            scheduler: self.scheduler,
            chunk: self.chunk,
            chunksize: self.chunksize,
            ahead: self.ahead,
            limit: self.workers.min(self.ahead),
            inputs: Carver::in_turns(expected),
            outputs,
        };
        let output = Output {
            window: Window::new(self.ordered),
            values: None,
            error: None,
            last: None,
        };
        (feeder, output)
    }

    pub(crate) fn imap<I: Iterator<Item = T>>(self, input: I) -> Imap<I, R> {
        let (feeder, output) = self.parts(input.size_hint().0);
        let mut imap = Imap {
            input: Some(input),
            feeder,
            output,
        };
        // The workers begin now.
        imap.feed();
        imap
    }

    pub(crate) fn stream<S: Stream<Item = T>>(self, input: S) -> ImapStream<S, R> {
        let (feeder, output) = self.parts(input.size_hint().0);
        ImapStream::new(Some(input), feeder, output)
    }
}

impl<I, R> Imap<I, R>
where
    I: Iterator,
    I::Item: Portable,
    R: Portable,
{
    /// Reads on, as far as the look-ahead goes.
    fn feed(&mut self) {
        let Imap {
            input,
            feeder,
            output,
        } = self;
        while let Some(items) = input
            && output.window.len() < feeder.limit
        {
            if let Err(error) = feeder.scheduler.check() {
                output.leave_out(items.size_hint(), error);
                *input = None;
                return;
            }
            let chunksize = feeder.chunksize;
            let piece = unwind::catch(|| feeder.inputs.carve_from(items, chunksize));
            match piece {
                Ok(piece) => {
                    if piece.len() < chunksize {
                        *input = None;
                    }
                    if piece.len() > 0 {
                        output.window.push(feeder.submit(piece));
                    }
                }
                Err(panic) => {
                    output.last = Some(TaskError::Panicked(panic));
                    *input = None;
                }
            }
        }
    }

    fn next_until(&mut self, deadline: Option<Instant>) -> Option<Result<R, TaskError>> {
        loop {
            if let Some(item) = self.output.take() {
                return Some(item);
            }
            self.feed();
            match self.output.window.next(deadline) {
                None => return self.output.last.take().map(Err),
                Some(Err(TaskError::Timeout)) => return Some(Err(TaskError::Timeout)),
                Some(outcome) => {
                    self.feeder.widen();
                    if self.output.receive(outcome) {
                        self.input = None;
                    }
                }
            }
        }
    }

    /// The next result, if it comes in time; `None` after the last one.
    ///
    /// Python's `next(timeout)`.
    ///
    /// # Blocking
    ///
    /// For so long at most; a time of zero only looks. What the input takes to give the next items comes on top.
    ///
    /// # Errors
    ///
    /// [`TaskError::Timeout`] if the time is up; the result comes with a later call.
    pub fn next_timeout(&mut self, timeout: Duration) -> Option<Result<R, TaskError>> {
        self.next_until(deadline::after(timeout))
    }

    /// The results as a stream. The input is read where the stream is polled.
    pub fn into_stream(mut self) -> ImapStream<Iter<I>, R> {
        let input = self.input.take().map(iter);
        ImapStream::new(input, self.feeder, self.output)
    }
}

impl<I, R> Iterator for Imap<I, R>
where
    I: Iterator,
    I::Item: Portable,
    R: Portable,
{
    type Item = Result<R, TaskError>;

    /// The next result.
    ///
    /// # Blocking
    ///
    /// Until it is there.
    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if let Some(Values::Here(values)) = &mut self.output.values
            && let Some(value) = values.next()
        {
            return Some(Ok(value));
        }
        self.next_until(None)
    }
}

impl<I, R> FusedIterator for Imap<I, R>
where
    I: Iterator,
    I::Item: Portable,
    R: Portable,
{
}

impl<I: Iterator, R> fmt::Debug for Imap<I, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Imap")
            .field("input_to_come", &self.input.is_some())
            .finish_non_exhaustive()
    }
}
