//! Many items in chunks, each of which is a task, and all results together.
//!
//! Where the user chooses the size of the chunks, all are submitted at once. Otherwise each worker has
//! two at a time, and their size is what takes a worker some milliseconds: it begins with one item, and
//! is doubled as long as the results come sooner than that.

use std::{
    collections::HashMap,
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::promise::Promise;
use crate::{
    chunk::{
        Chunk, ChunkResult, ChunkWork, Values,
        items::Items,
        piece::{self, Carver, Piece},
    },
    engine::{Carriage, Job, aside, scheduler::Hold},
    error::{Effect, TaskError},
    executor::TaskFuture,
    task::{
        Portable,
        cell::{TaskCell, Watcher},
    },
    trace::{self, Scope},
    unwind,
};

/// How long a chunk should take, from its submission to its results; half of that it waits for the one
/// before.
const SHORT: Duration = Duration::from_millis(3);
const LONG: Duration = Duration::from_millis(8);

/// How many chunks a worker has at a time.
const AHEAD: usize = 2;

/// How the items are cut.
pub(super) enum Cut {
    /// So many at a time.
    Fixed(usize),
    /// As it turns out best.
    Adaptive,
}

pub(super) struct Gather<I, R: Portable> {
    hold: Mutex<Option<Arc<Hold>>>,
    carriage: Option<Carriage>,
    chunk: Chunk<I, R>,
    workers: usize,
    adaptive: bool,
    state: Mutex<State<I, R>>,
    promise: Promise<Vec<R>>,
    scope: Scope,
}

struct State<I, R> {
    /// What is not submitted yet.
    items: Items<I>,
    /// Where the results go, unless they come from another process.
    outputs: Option<Carver<R>>,
    chunksize: usize,
    /// How many bytes an item has taken, or its result, encoded, at most so far.
    item_len: usize,
    running: HashMap<usize, Running<R>>,
    /// How many chunks were cut whose results are not there.
    open: usize,
    /// By the chunks' numbers.
    results: Vec<Option<Values<R>>>,
    over: bool,
}

struct Running<R> {
    /// `None` until it is submitted.
    future: Option<TaskFuture<ChunkResult<R>>>,
    since: Instant,
}

impl<I, R> State<I, R> {
    /// So many items, or their results, took so many bytes.
    fn weigh(&mut self, count: usize, encoded_len: Option<usize>) {
        let each = encoded_len.unwrap_or(0).div_ceil(count.max(1));
        self.item_len = self.item_len.max(each);
    }
}

impl<I: Portable, R: Portable> Gather<I, R> {
    /// Has the chunk's function called with every item.
    pub(super) fn start(
        hold: Arc<Hold>,
        workers: usize,
        chunk: Chunk<I, R>,
        cut: Cut,
        items: Items<I>,
        promise: Promise<Vec<R>>,
    ) {
        let carriage = hold.scheduler().carriage();
        let outputs = carriage.is_none().then(|| Carver::in_place(items.len()));
        let (chunksize, adaptive) = match cut {
            Cut::Fixed(chunksize) => (chunksize, false),
            Cut::Adaptive => (1, true),
        };
        let gather = Arc::new(Gather {
            hold: Mutex::new(Some(hold)),
            carriage,
            chunk,
            workers,
            adaptive,
            state: Mutex::new(State {
                items,
                outputs,
                chunksize,
                item_len: 0,
                running: HashMap::new(),
                open: 0,
                results: Vec::new(),
                over: false,
            }),
            promise,
            scope: Scope::here(),
        });
        gather.feed();
    }

    /// Submits chunks as long as there may be more.
    ///
    /// Whoever is told of the end may wait for that of the workers, so nothing is held meanwhile.
    fn feed(self: &Arc<Self>) {
        loop {
            let Some((number, items, piece)) = self.cut_next() else {
                return self.finish();
            };
            let count = items.len();
            let work = ChunkWork {
                chunk: self.chunk,
                items,
                piece,
            };
            // Encoding is code of a user: not under the lock.
            let make = || TaskCell::of(trace::traced(work), self.carriage);
            let cell = match self.scope.run(make) {
                Ok(cell) => cell,
                Err(panic) => return self.fail(TaskError::Panicked(panic)),
            };
            let future = TaskFuture::new(Arc::clone(&cell) as _);
            let watched = future.watch(Arc::clone(self) as _, number);
            let hold = self.hold.lock().clone();
            {
                let mut state = self.state.lock();
                state.weigh(count, future.encoded_len());
                match state.running.get_mut(&number) {
                    Some(running) => running.future = Some(future),
                    // All is over; a task that nobody waits for is not submitted any more.
                    None => return,
                }
            }
            match hold {
                Some(hold) if watched => hold.submit(cell as Arc<dyn Job>),
                _ => {
                    drop(hold);
                    self.receive(number);
                }
            }
        }
    }

    fn cut_next(&self) -> Option<(usize, Items<I>, Option<Piece<R>>)> {
        let mut state = self.state.lock();
        let left = state.items.len();
        let full = self.adaptive && state.open >= AHEAD * self.workers;
        if state.over || left == 0 || full {
            return None;
        }
        if self.adaptive {
            // The last ones are small, so that all workers are through at the same time.
            let share = left.div_ceil(AHEAD * self.workers);
            state.chunksize = state.chunksize.min(share);
            if let Some(carriage) = self.carriage {
                // Others may be larger than those that were seen.
                let most = carriage.max_frame_len / 4 / state.item_len.max(1);
                state.chunksize = state.chunksize.min(most).max(1);
            }
        }
        let State {
            items,
            outputs,
            chunksize,
            ..
        } = &mut *state;
        let items = items.cut(*chunksize);
        let piece = outputs.as_mut().map(|outputs| outputs.carve(items.len()));
        let number = state.results.len();
        state.results.push(None);
        state.open += 1;
        let since = Instant::now();
        let future = None;
        state.running.insert(number, Running { future, since });
        Some((number, items, piece))
    }

    /// A chunk is over.
    fn receive(&self, number: usize) {
        let Some(running) = self.state.lock().running.remove(&number) else {
            return;
        };
        let encoded_len = running.future.as_ref().and_then(TaskFuture::encoded_len);
        let outcome = match running.future {
            // Decoding is code of a user: not under the lock.
            Some(future) => future.result(),
            None => Err(TaskError::Cancelled),
        };
        match outcome {
            Ok(ChunkResult {
                values,
                panic: None,
            }) => {
                let mut state = self.state.lock();
                if state.over {
                    drop(state);
                    return unwind::discard(values);
                }
                state.weigh(values.len(), encoded_len);
                if self.adaptive {
                    let took = running.since.elapsed();
                    if took < SHORT {
                        state.chunksize = state.chunksize.saturating_mul(2);
                    } else if took > LONG {
                        state.chunksize = (state.chunksize / 2).max(1);
                    }
                }
                state.results[number] = Some(values);
                state.open -= 1;
            }
            Ok(ChunkResult {
                values,
                panic: Some(panic),
            }) => {
                self.fail(TaskError::Panicked(panic));
                unwind::discard(values);
            }
            Err(error) => self.fail(error),
        }
    }

    /// Hands out the results, if all are there.
    fn finish(&self) {
        let results = {
            let mut state = self.state.lock();
            if state.over || state.items.len() > 0 || state.open > 0 {
                return;
            }
            state.over = true;
            // The results' memory is nobody else's now.
            state.outputs = None;
            mem::take(&mut state.results)
        };
        let hold = self.hold.lock().take();
        self.promise.complete_and_release(Ok(join(results)), hold);
    }

    /// The first error is the result; what has not begun is cancelled.
    fn fail(&self, error: TaskError) {
        let (received, running, items, results) = {
            let mut state = self.state.lock();
            state.over = true;
            (
                // Besides the one that has failed, whether others are just taking note of some.
                state.open > state.running.len() + 1,
                mem::take(&mut state.running),
                state.items.cut(usize::MAX),
                mem::take(&mut state.results),
            )
        };
        // That would be what became of this chunk, and perhaps not of all.
        let did_not_run = matches!(error, TaskError::Terminated(Effect::DidNotRun));
        let mut begun = received || results.iter().any(Option::is_some);
        // Who sees the error is to see nothing begin any more.
        let futures = running
            .values()
            .filter_map(|running| running.future.as_ref());
        for future in futures {
            let cancelled = future.cancel();
            begun = begun || did_not_run && !cancelled && has_begun(future);
        }
        let error = match did_not_run && begun {
            true => TaskError::Terminated(Effect::MayHaveRun),
            false => error,
        };
        let hold = self.hold.lock().take();
        self.promise.complete_and_release(Err(error), hold);
        unwind::discard((running, items, results));
    }
}

impl<I: Portable, R: Portable> Watcher for Gather<I, R> {
    fn is_over(self: Arc<Self>, number: usize) {
        aside::off_the_reactor(move || {
            self.receive(number);
            self.feed();
        });
    }

    fn calls_back(&self) -> bool {
        true
    }
}

/// Whether a chunk that cannot be cancelled has begun.
fn has_begun<R>(chunk: &TaskFuture<ChunkResult<R>>) -> bool {
    match chunk.done().then(|| chunk.result()) {
        Some(Err(error)) => error.effect() != Effect::DidNotRun,
        Some(Ok(result)) => {
            unwind::discard(result.values);
            true
        }
        None => true,
    }
}

/// All results in one vector.
fn join<R>(results: Vec<Option<Values<R>>>) -> Vec<R> {
    let (mut pieces, mut vectors) = (Vec::new(), Vec::new());
    let mut len = 0;
    for values in results.into_iter().flatten() {
        match values {
            Values::Here(piece) => pieces.push(piece),
            Values::FromElsewhere(values) => {
                len += values.len();
                vectors.push(values);
            }
        }
    }
    if vectors.is_empty() {
        return piece::join(pieces);
    }
    let mut joined = Vec::with_capacity(len);
    for values in vectors {
        joined.extend(values);
    }
    joined
}
