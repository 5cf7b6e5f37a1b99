//! One function over many items.

use std::{
    collections::VecDeque,
    fmt,
    panic::{RefUnwindSafe, UnwindSafe},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use futures::{Stream, stream::FusedStream};

use super::{TaskFuture, WorkerPoolExecutor};
use crate::{
    chunk::{
        Chunk, ChunkResult, ChunkWork, Values,
        items::Input,
        piece::{self, Carver},
    },
    coop, deadline,
    engine::reactor,
    error::{Error, TaskError},
    pool::{Imap, ImapStream, imap::Recipe},
    task::Portable,
};

/// The settings of a [`map`](Mapping::map): how many items a worker gets at a time, and how long all of it may take.
///
/// Made by [`WorkerPoolExecutor::chunksize`] and [`WorkerPoolExecutor::timeout`].
#[derive(Clone, Copy, Debug)]
#[must_use = "settings do nothing until `map` is called"]
pub struct Mapping<'a> {
    executor: &'a WorkerPoolExecutor,
    chunksize: usize,
    timeout: Option<Duration>,
}

impl<'a> Mapping<'a> {
    pub(super) fn new(executor: &'a WorkerPoolExecutor) -> Self {
        Mapping {
            executor,
            chunksize: 1,
            timeout: None,
        }
    }

    /// Gives the workers so many items at a time, at least 1: see [`WorkerPoolExecutor::chunksize`].
    pub fn chunksize(mut self, chunksize: usize) -> Self {
        self.chunksize = chunksize;
        self
    }

    /// All results must be there within this time, counted from the call of `map`. When it is up, the iterator gives
    /// [`TaskError::Timeout`], and ends.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Reads the items as results are taken, for inputs that are endless or do not fit into memory. So many chunks
    /// are under way at most, at least 1. A [`timeout`](Mapping::timeout) has no effect then.
    ///
    /// Python's `buffersize`.
    ///
    /// # Examples
    ///
    /// ```
    /// # use freethreading::{Backend, WorkerPoolExecutor};
    /// # fn main() -> Result<(), freethreading::Error> {
    /// let executor = WorkerPoolExecutor::builder().backend(Backend::Threading).build()?;
    /// let squares = executor.chunksize(100).buffersize(8).map(|n: u64| n * n, 0..)?;
    /// let first: Vec<u64> = squares.take(3).collect::<Result<_, _>>()?;
    /// assert_eq!(first, [0, 1, 4]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn buffersize(self, chunks: usize) -> Buffered<'a> {
        Buffered {
            mapping: self,
            chunks,
        }
    }

    /// Calls the function with each item on the workers: see [`WorkerPoolExecutor::map`].
    ///
    /// # Blocking
    ///
    /// As [`WorkerPoolExecutor::map`].
    ///
    /// # Panics
    ///
    /// If the input does; the executor goes on.
    pub fn map<F, I, R>(self, function: F, items: I) -> Map<R>
    where
        F: Fn(I::Item) -> R + Send + Sync + 'static,
        I: IntoIterator,
        I::Item: Portable,
        R: Portable,
    {
        let Mapping {
            executor,
            chunksize,
            timeout,
        } = self;
        let deadline = timeout.and_then(deadline::after);
        if chunksize == 0 {
            return Map::new(VecDeque::new(), 0, deadline, Some(zero_chunksize()));
        }
        let chunk = Chunk::of(function);
        let mut input = Input::new(items.into_iter());
        // Worker processes send their results back, there is nothing to put in place.
        let is_here = executor.scheduler.carriage().is_none();
        let mut results = is_here.then(|| Carver::in_place(input.expected()));
        let mut chunks = VecDeque::new();
        let mut to_come = 0usize;
        loop {
            let items = input.cut(chunksize);
            let len = items.len();
            if len == 0 {
                break;
            }
            to_come = to_come.saturating_add(len);
            chunks.push_back(executor.submit_work(ChunkWork {
                chunk,
                items,
                piece: results.as_mut().map(|results| results.carve(len)),
            }));
            if len < chunksize {
                break;
            }
        }
        Map::new(chunks, to_come, deadline, None)
    }
}

/// How many chunks behind the first one to wait for.
struct Stride(usize);

impl Stride {
    /// Waits until the first chunk is done, and some more if that takes no longer than a moment: whoever is woken for
    /// each of them takes a processor from a worker each time.
    fn wait<R>(&mut self, chunks: &VecDeque<TaskFuture<R>>, deadline: Option<Instant>) {
        /// An error among them is noticed so much later at most.
        const MOMENT: Duration = Duration::from_millis(10);

        let Some(first) = chunks.front() else {
            return;
        };
        // What comes from worker processes is decoded while they do the next.
        if first.done() || first.encoded_len().is_some() {
            return;
        }
        let start = Instant::now();
        let end = start + MOMENT;
        let last = &chunks[self.0.min(chunks.len() - 1)];
        last.wait_until(Some(deadline.map_or(end, |deadline| deadline.min(end))));
        let taken = start.elapsed();
        if taken < MOMENT / 4 {
            self.0 = (2 * self.0).clamp(1, chunks.len());
        } else if taken >= MOMENT {
            self.0 /= 2;
        }
    }
}

/// A map that reads its input as results are taken; made by [`Mapping::buffersize`].
///
/// It needs its executor until the end: once that is shut down or dropped, what was not submitted yet is
/// [`TaskError::Shutdown`].
#[derive(Clone, Copy, Debug)]
#[must_use = "settings do nothing until `map` is called"]
pub struct Buffered<'a> {
    mapping: Mapping<'a>,
    chunks: usize,
}

impl Buffered<'_> {
    /// Calls the function with each item on the workers, and gives the results in the order of the
    /// items. An item that fails is an `Err` among them, after which the next chunk goes on.
    ///
    /// # Blocking
    ///
    /// The call reads the first items, and does not wait for results. The iterator blocks until the next result is
    /// there; [`Imap::into_stream`] does not.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] for a chunksize or a buffersize of 0.
    pub fn map<F, I, R>(self, function: F, items: I) -> Result<Imap<I::IntoIter, R>, Error>
    where
        F: Fn(I::Item) -> R + Send + Sync + 'static,
        I: IntoIterator,
        I::Item: Portable,
        R: Portable,
    {
        Ok(self.recipe(function)?.imap(items.into_iter()))
    }

    /// Like [`map`](Buffered::map), for the items of a stream; the results are a stream as well.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] for a chunksize or a buffersize of 0.
    pub fn map_stream<F, S, R>(self, function: F, items: S) -> Result<ImapStream<S, R>, Error>
    where
        F: Fn(S::Item) -> R + Send + Sync + 'static,
        S: Stream,
        S::Item: Portable,
        R: Portable,
    {
        Ok(self.recipe(function)?.stream(items))
    }

    fn recipe<F, T, R>(self, function: F) -> Result<Recipe<T, R>, Error>
    where
        F: Fn(T) -> R + Send + Sync + 'static,
        T: Portable,
        R: Portable,
    {
        if self.mapping.chunksize == 0 {
            return Err(zero_chunksize().into());
        }
        if self.chunks == 0 {
            let why = "nothing could ever be under way: buffersize is 0";
            return Err(Error::InvalidArgument(why.into()));
        }
        let executor = self.mapping.executor;
        Ok(Recipe {
            scheduler: Arc::clone(&executor.scheduler),
            workers: executor.max_workers,
            ahead: self.chunks,
            chunk: Chunk::of(function),
            chunksize: self.mapping.chunksize,
            ordered: true,
        })
    }
}

fn zero_chunksize() -> TaskError {
    TaskError::InvalidArgument("a chunk needs at least one item: chunksize is 0".into())
}

/// The results of a [`map`](WorkerPoolExecutor::map), in the order of its items.
///
/// It ends after the first error. Dropping it cancels the tasks that have not begun, unless it was never used: then
/// all of them run.
#[must_use = "the tasks run all the same, but their errors go unseen"]
pub struct Map<R> {
    /// What comes after `values`.
    chunks: VecDeque<TaskFuture<ChunkResult<R>>>,
    /// How many results the chunks are to give.
    to_come: usize,
    values: Option<Values<R>>,
    /// What comes after `values` and is the last to come.
    error: Option<TaskError>,
    deadline: Option<Instant>,
    used: bool,
}

impl<R> Map<R> {
    fn new(
        chunks: VecDeque<TaskFuture<ChunkResult<R>>>,
        to_come: usize,
        deadline: Option<Instant>,
        error: Option<TaskError>,
    ) -> Self {
        Map {
            chunks,
            to_come,
            values: None,
            error,
            deadline,
            used: false,
        }
    }

    /// All results in one vector; faster than collecting them one by one.
    ///
    /// # Blocking
    ///
    /// Until all results are there, or one error. In async code use [`Map::into_stream`].
    ///
    /// # Errors
    ///
    /// The first error; tasks that have not begun by then are cancelled.
    pub fn into_vec(mut self) -> Result<Vec<R>, TaskError> {
        self.used = true;
        let mut results: Vec<R> = self.values.take().into_iter().flatten().collect();
        let mut pieces = Vec::with_capacity(self.chunks.len());
        let mut stride = Stride(0);
        while let Some(chunk) = self.chunks.front() {
            stride.wait(&self.chunks, self.deadline);
            let chunk = chunk.result_until(self.deadline)?;
            self.chunks.pop_front();
            match chunk.values {
                Values::Here(piece) => pieces.push(piece),
                Values::FromElsewhere(values) => results.extend(values),
            }
            if let Some(panic) = chunk.panic {
                return Err(TaskError::Panicked(panic));
            }
        }
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        Ok(match (results.is_empty(), pieces.is_empty()) {
            (true, false) => piece::join(pieces),
            _ => {
                results.extend(pieces.into_iter().flatten());
                results
            }
        })
    }

    /// The results as a stream, which ends after the first error as well.
    ///
    /// # Examples
    ///
    /// ```
    /// use futures::TryStreamExt;
    /// # use freethreading::{Backend, Error, WorkerPoolExecutor};
    ///
    /// # fn main() -> Result<(), Error> {
    /// # futures::executor::block_on(async {
    /// let executor = WorkerPoolExecutor::builder().backend(Backend::Threading).build()?;
    /// let mut squares = executor.map(|x: u64| x * x, 0..5).into_stream();
    /// let mut sum = 0;
    /// while let Some(square) = squares.try_next().await? {
    ///     sum += square;
    /// }
    /// assert_eq!(sum, 30);
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    pub fn into_stream(self) -> MapStream<R> {
        MapStream {
            map: self,
            timer: None,
            ended: false,
        }
    }

    /// Takes over the outcome of the first chunk.
    fn receive(&mut self, outcome: Result<ChunkResult<R>, TaskError>) {
        match outcome {
            Ok(ChunkResult { values, panic }) => {
                self.chunks.pop_front();
                self.to_come = self.to_come.saturating_sub(values.len());
                self.values = Some(values);
                self.error = panic.map(TaskError::Panicked);
            }
            Err(error) => self.error = Some(error),
        }
        if self.error.is_some() {
            self.cancel_rest();
        }
    }

    fn cancel_rest(&mut self) {
        self.to_come = 0;
        for chunk in self.chunks.drain(..) {
            chunk.cancel();
        }
    }

    /// How many items come at least, and at most.
    fn bounds(&self) -> (usize, Option<usize>) {
        let here = self.values.as_ref().map_or(0, Values::len) + usize::from(self.error.is_some());
        // The first of those to come may be an error, and the last.
        let least = usize::from(!self.chunks.is_empty());
        (here.saturating_add(least), here.checked_add(self.to_come))
    }

    /// Waits for the next result. Not a part of `next`, which is to be small where it is called.
    #[inline(never)]
    fn next_of_chunks(&mut self) -> Option<Result<R, TaskError>> {
        loop {
            if let Some(item) = self.next_received() {
                return Some(item);
            }
            let outcome = self.chunks.front()?.result_until(self.deadline);
            self.receive(outcome);
        }
    }

    fn next_received(&mut self) -> Option<Result<R, TaskError>> {
        self.used = true;
        if let Some(value) = self.values.as_mut().and_then(Iterator::next) {
            return Some(Ok(value));
        }
        self.values = None;
        self.error.take().map(Err)
    }
}

impl<R> Iterator for Map<R> {
    type Item = Result<R, TaskError>;

    /// The next result.
    ///
    /// # Blocking
    ///
    /// Until it is there.
    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if let Some(Values::Here(piece)) = &mut self.values
            && let Some(value) = piece.next()
        {
            return Some(Ok(value));
        }
        self.next_of_chunks()
    }

    /// At most as many as there are items without a result; fewer if an error comes among them.
    fn size_hint(&self) -> (usize, Option<usize>) {
        self.bounds()
    }
}

impl<R> std::iter::FusedIterator for Map<R> {}

impl<R> Drop for Map<R> {
    fn drop(&mut self) {
        if self.used {
            self.cancel_rest();
        }
    }
}

impl<R> fmt::Debug for Map<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Map")
            .field("chunks_to_come", &self.chunks.len())
            .finish_non_exhaustive()
    }
}

/// The results of a [`map`](WorkerPoolExecutor::map) as a stream, on any runtime.
///
/// Dropping it cancels the tasks that have not begun, unless it was never polled, nor the [`Map`] used that it comes
/// from: then all of them run.
///
/// # Cancel safety
///
/// A result leaves the stream only when `poll_next` gives it: leaving a `next().await` half-way
/// loses nothing.
#[must_use = "streams do nothing unless polled"]
pub struct MapStream<R> {
    map: Map<R>,
    /// Runs to the deadline, if there is one, once somebody waits.
    timer: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// It was polled to its end.
    ended: bool,
}

// Nothing is pinned but the box.
impl<R> Unpin for MapStream<R> {}

// No user code runs where the stream is changed, so that no panic leaves it half changed.
impl<R> UnwindSafe for MapStream<R> {}
impl<R> RefUnwindSafe for MapStream<R> {}

impl<R> MapStream<R> {
    fn poll_deadline(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match self.map.deadline {
            None => Poll::Pending,
            Some(deadline) => self
                .timer
                .get_or_insert_with(|| Box::pin(reactor::sleep_until(deadline)))
                .as_mut()
                .poll(context),
        }
    }
}

impl<R> Stream for MapStream<R> {
    type Item = Result<R, TaskError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        ready!(coop::poll_begin(context));
        loop {
            if let Some(item) = self.map.next_received() {
                return Poll::Ready(Some(item));
            }
            let Some(chunk) = self.map.chunks.front() else {
                self.ended = true;
                return Poll::Ready(None);
            };
            let outcome = match chunk.poll_result(context) {
                Poll::Ready(outcome) => outcome,
                Poll::Pending => {
                    ready!(self.poll_deadline(context));
                    Err(TaskError::Timeout)
                }
            };
            self.map.receive(outcome);
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.map.bounds()
    }
}

/// It is terminated once it gave `None`.
impl<R> FusedStream for MapStream<R> {
    fn is_terminated(&self) -> bool {
        self.ended
    }
}

impl<R> fmt::Debug for MapStream<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MapStream")
            .field("chunks_to_come", &self.map.chunks.len())
            .finish_non_exhaustive()
    }
}
