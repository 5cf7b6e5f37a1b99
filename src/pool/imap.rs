//! One function over many items, as its results come.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    iter::FusedIterator,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use futures::{
    Stream, StreamExt,
    stream::{self, Iter},
};
use parking_lot::{Condvar, Mutex};

use crate::{
    chunk::{
        Chunk, ChunkResult, ChunkWork, Values,
        items::Items,
        piece::{Carver, Piece},
    },
    engine::Scheduler,
    error::TaskError,
    executor::TaskFuture,
    task::{Portable, cell::Watcher},
    unwind,
};

/// The results of [`imap`](crate::WorkerPool::imap) or
/// [`imap_unordered`](crate::WorkerPool::imap_unordered), as they come.
///
/// The input is read as results are taken, a few chunks ahead of them, so it may be endless. An item
/// that fails is an `Err` among the others, after which the iterator goes on; an input that panics is one,
/// too, and the last. Dropping the iterator cancels what has not begun.
///
/// Python's `multiprocessing.pool.IMapIterator`.
#[must_use = "a few items are worked on ahead, the others when results are taken"]
pub struct Imap<I: Iterator, R> {
    input: Option<I>,
    feeder: Feeder<I::Item, R>,
    output: Output<R>,
}

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

type ChunkOutcome<R> = Result<ChunkResult<R>, TaskError>;

/// The chunks that are under way.
enum Window<R> {
    InOrder(VecDeque<TaskFuture<ChunkResult<R>>>),
    AsCompleted {
        tasks: HashMap<usize, TaskFuture<ChunkResult<R>>>,
        next: usize,
        completed: Arc<Completed>,
    },
}

/// The numbers of the chunks that are over, in the order in which they ended.
#[derive(Default)]
struct Completed {
    state: Mutex<CompletedState>,
    changed: Condvar,
}

#[derive(Default)]
struct CompletedState {
    numbers: VecDeque<usize>,
    waker: Option<Waker>,
}

impl Watcher for Completed {
    fn is_over(self: Arc<Self>, number: usize) {
        let waker = {
            let mut state = self.state.lock();
            state.numbers.push_back(number);
            state.waker.take()
        };
        self.changed.notify_one();
        if let Some(waker) = waker {
            unwind::contain(|| waker.wake());
        }
    }

    fn calls_back(&self) -> bool {
        false
    }
}

impl<R: Send + 'static> Window<R> {
    fn new(ordered: bool) -> Self {
        match ordered {
            true => Window::InOrder(VecDeque::new()),
            false => Window::AsCompleted {
                tasks: HashMap::new(),
                next: 0,
                completed: Arc::default(),
            },
        }
    }

    fn len(&self) -> usize {
        match self {
            Window::InOrder(tasks) => tasks.len(),
            Window::AsCompleted { tasks, .. } => tasks.len(),
        }
    }

    fn push(&mut self, task: TaskFuture<ChunkResult<R>>) {
        match self {
            Window::InOrder(tasks) => tasks.push_back(task),
            Window::AsCompleted {
                tasks,
                next,
                completed,
            } => {
                if !task.watch(Arc::clone(completed) as _, *next) {
                    Arc::clone(completed).is_over(*next);
                }
                tasks.insert(*next, task);
                *next += 1;
            }
        }
    }

    /// The next outcome; blocks until it is there, or until the deadline.
    fn next(&mut self, deadline: Option<Instant>) -> Option<ChunkOutcome<R>> {
        match self {
            Window::InOrder(tasks) => {
                let outcome = tasks.front()?.result_until(deadline);
                if !matches!(outcome, Err(TaskError::Timeout)) {
                    tasks.pop_front();
                }
                Some(outcome)
            }
            Window::AsCompleted {
                tasks, completed, ..
            } => {
                if tasks.is_empty() {
                    return None;
                }
                let mut state = completed.state.lock();
                let number = loop {
                    if let Some(number) = state.numbers.pop_front() {
                        break number;
                    }
                    match deadline {
                        None => completed.changed.wait(&mut state),
                        Some(deadline) => {
                            let wait = completed.changed.wait_until(&mut state, deadline);
                            if wait.timed_out() && state.numbers.is_empty() {
                                return Some(Err(TaskError::Timeout));
                            }
                        }
                    }
                };
                drop(state);
                tasks.remove(&number).map(|task| task.result())
            }
        }
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<ChunkOutcome<R>>> {
        match self {
            Window::InOrder(tasks) => {
                let Some(task) = tasks.front_mut() else {
                    return Poll::Ready(None);
                };
                let outcome = std::task::ready!(Pin::new(task).poll(context));
                tasks.pop_front();
                Poll::Ready(Some(outcome))
            }
            Window::AsCompleted {
                tasks, completed, ..
            } => {
                if tasks.is_empty() {
                    return Poll::Ready(None);
                }
                // Wakers are cloned and dropped outside of the lock: they may do anything.
                let waker = context.waker().clone();
                let mut state = completed.state.lock();
                let number = state.numbers.pop_front();
                let old = match number {
                    Some(_) => Some(waker),
                    None => state.waker.replace(waker),
                };
                drop(state);
                drop(old);
                match number {
                    Some(number) => Poll::Ready(tasks.remove(&number).map(|task| task.result())),
                    None => Poll::Pending,
                }
            }
        }
    }
}

impl<R> Window<R> {
    fn cancel(&mut self) {
        let tasks: Vec<_> = match self {
            Window::InOrder(tasks) => tasks.drain(..).collect(),
            Window::AsCompleted { tasks, .. } => tasks.drain().map(|(_, task)| task).collect(),
        };
        for task in tasks {
            task.cancel();
        }
    }
}

impl<T: Portable, R: Portable> Feeder<T, R> {
    /// There was a result.
    fn widen(&mut self) {
        self.limit = (self.limit + 1).min(self.ahead);
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
        let outputs = match self.scheduler.carriage() {
            None => Some(Carver::in_turns(expected)),
            Some(_) => None,
        };
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
        ImapStream {
            input: Some(Box::pin(input)),
            buffer: Vec::new(),
            feeder,
            output,
        }
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
                output.last = Some(error);
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

    /// The next result, if it comes in time.
    ///
    /// Python's `next(timeout)`.
    ///
    /// # Blocking
    ///
    /// For so long at most; a time of zero only looks.
    ///
    /// # Errors
    ///
    /// An item that is [`TaskError::Timeout`] if the time is up; the result comes with a later call.
    pub fn next_timeout(&mut self, timeout: Duration) -> Option<Result<R, TaskError>> {
        // A time that the clock cannot tell is as good as for ever.
        self.next_until(Instant::now().checked_add(timeout))
    }

    /// The results as a stream. The input is read where the stream is polled.
    pub fn into_stream(mut self) -> ImapStream<Iter<I>, R> {
        let input = self.input.take().map(|input| Box::pin(stream::iter(input)));
        ImapStream {
            input,
            buffer: Vec::new(),
            feeder: self.feeder,
            output: self.output,
        }
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

/// The results of an [`imap`](crate::WorkerPool::imap) as a stream, on any runtime.
///
/// It is made by [`Imap::into_stream`] or, with a stream as its input, by
/// [`imap_stream`](crate::WorkerPool::imap_stream). As many items as the input has ready are read, up to
/// a few chunks ahead of the results; a chunk may be smaller where the input is not ready with more.
///
/// # Cancel safety
///
/// A result leaves the stream only when `poll_next` gives it: leaving a `next().await` half-way loses
/// nothing. Dropping the stream cancels what has not begun.
#[must_use = "streams do nothing unless polled"]
pub struct ImapStream<S: Stream, R> {
    input: Option<Pin<Box<S>>>,
    /// Items that were read and do not make up a chunk yet.
    buffer: Vec<S::Item>,
    feeder: Feeder<S::Item, R>,
    output: Output<R>,
}

// Nothing is pinned but the box.
impl<S: Stream, R> Unpin for ImapStream<S, R> {}

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
                self.output.last = Some(error);
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
                    return Poll::Ready(self.output.last.take().map(Err));
                }
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl<S: Stream, R> fmt::Debug for ImapStream<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImapStream")
            .field("input_to_come", &self.input.is_some())
            .finish_non_exhaustive()
    }
}
