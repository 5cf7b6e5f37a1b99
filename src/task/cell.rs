//! A task on its way, and the place of its result: the one allocation that a task costs.
//!
//! ```text
//! Pending ──► Running ──► settled ──► published
//!    └───────(cancelled)──────▲
//! ```
//!
//! *Settled* means that the outcome is decided, and there for who looks; *published* that those who
//! wait are told. The lock is held for moves only: the task, encoders, destructors, wakers and
//! callbacks run outside of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use super::work::Work;
use crate::{
    engine::{
        self, Heed, Job, Orders, PATIENCE, Patience, Payload, Post, Posting, Request, Runner,
        Settled,
        processes::{reactor, wire::Carriage},
        purge,
    },
    error::TaskError,
    executor::TaskFuture,
    shim::{SpinLock, SpinLockGuard, Thread, hint, park, thread},
    unwind,
    wakers::Wakers,
};

/// How often a blocking taker looks, giving way to other threads in between, before it sleeps.
const LOOKS: u32 = if cfg!(freethreading_loom) { 1 } else { 16 };

pub(crate) type Callback<R> = Box<dyn FnOnce(&TaskFuture<R>) + Send>;

/// Wants to know when each of several tasks is over.
pub(crate) trait Watcher: Send + Sync {
    /// The task with this number is over. On the reactor's thread it must not take long.
    fn is_over(self: Arc<Self>, number: usize);

    /// Whether that may call user code, which takes as long as it likes.
    fn calls_back(&self) -> bool;
}

/// Kept small, since a million of them may wait.
pub(crate) struct TaskCell<W: Work> {
    name: fn() -> &'static str,
    state: SpinLock<State<W>>,
}

struct State<W: Work> {
    stage: Stage<W>,
    /// Only there once somebody waits.
    waiting: Option<Box<Waiting<W::Output>>>,
}

enum Stage<W: Work> {
    Pending(Input<W>),
    /// With the worker, if that can be made to end the task.
    Running(Option<Arc<dyn Runner>>),
    Settled {
        outcome: Outcome<W::Output>,
        published: bool,
    },
}

enum Input<W> {
    Work(W),
    Request(Box<Request>),
}

enum Outcome<R> {
    Value(R),
    /// Decoded by whoever takes it, not by the thread that reads it from a pipe.
    Encoded(Box<Payload>),
    Error(TaskError),
    Taken,
}

/// Who is to be told of the outcome.
struct Waiting<R> {
    threads: Vec<Thread>,
    /// Of the task that awaits the result.
    waker: Option<Waker>,
    /// Of tasks that only want to know that it is there.
    onlookers: Wakers,
    watcher: Option<(Arc<dyn Watcher>, usize)>,
    callbacks: Vec<Callback<R>>,
    /// Those for the worker: there as well, since most tasks have none.
    orders: Orders,
}

impl<R> Waiting<R> {
    fn calls_back(&self) -> bool {
        let watcher = self.watcher.as_ref();
        !self.callbacks.is_empty() || watcher.is_some_and(|(watcher, _)| watcher.calls_back())
    }
}

impl<R> Default for Waiting<R> {
    fn default() -> Self {
        Waiting {
            threads: Vec::new(),
            waker: None,
            onlookers: Wakers::default(),
            watcher: None,
            callbacks: Vec::new(),
            orders: Orders::default(),
        }
    }
}

impl<W: Work> State<W> {
    fn is_settled(&self) -> bool {
        matches!(self.stage, Stage::Settled { .. })
    }

    /// Where the pending task is posted.
    fn posting(&self) -> Option<&Posting> {
        match &self.stage {
            Stage::Pending(Input::Request(request)) => request.posting.as_ref(),
            _ => None,
        }
    }

    /// The same, if a worker has taken it from there, and nobody has noticed yet.
    fn taken(&self) -> Option<Posting> {
        self.posting().filter(|posting| posting.is_taken()).cloned()
    }

    /// Whether the task is pending, and not with a worker from now on either.
    fn withdraw(&self) -> bool {
        let is_pending = matches!(self.stage, Stage::Pending(_));
        is_pending && self.posting().is_none_or(Posting::withdraw)
    }

    fn is_published(&self) -> bool {
        matches!(
            self.stage,
            Stage::Settled {
                published: true,
                ..
            }
        )
    }

    fn waiting(&mut self) -> &mut Waiting<W::Output> {
        self.waiting.get_or_insert_default()
    }
}

impl<W: Work> TaskCell<W> {
    /// A task to be run by a thread of this process.
    pub(crate) fn new(work: W) -> Arc<Self> {
        Self::with_stage(work.name(), Stage::Pending(Input::Work(work)))
    }

    /// A task to be run by another process: encoded right here, once. If that fails it is settled.
    pub(crate) fn encoded(work: W, carriage: Carriage) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        // Relaxed: only distinctness counts.
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = work.name();
        let stage = match work.request(id, carriage) {
            Ok(request) => Stage::Pending(Input::Request(Box::new(request))),
            Err(error) => Stage::Settled {
                outcome: Outcome::Error(error),
                published: true,
            },
        };
        // The arguments have gone where they had to go.
        unwind::discard(work);
        Self::with_stage(name, stage)
    }

    fn with_stage(name: fn() -> &'static str, stage: Stage<W>) -> Arc<Self> {
        Arc::new(TaskCell {
            name,
            state: SpinLock::new(State {
                stage,
                waiting: None,
            }),
        })
    }

    /// Moves a pending task to running, on a worker and for so long at most.
    fn begin(&self, runner: Option<Arc<dyn Runner>>, limit: Option<Duration>) -> Option<Input<W>> {
        let mut state = self.state.lock();
        if !matches!(state.stage, Stage::Pending(_)) {
            return None;
        }
        if limit.is_some() || state.waiting.is_some() {
            state.waiting().orders.begin(limit);
        }
        match std::mem::replace(&mut state.stage, Stage::Running(runner)) {
            Stage::Pending(input) => Some(input),
            _ => unreachable!("the stage was just looked at"),
        }
    }

    /// Changes the orders of a task that is not over; gives the worker that is to heed them.
    fn order(&self, change: impl FnOnce(&mut Orders, bool)) -> Option<Arc<dyn Runner>> {
        let mut state = self.state.lock();
        let runner = match &state.stage {
            Stage::Pending(_) => None,
            Stage::Running(runner) => Some(runner.clone()),
            Stage::Settled { .. } => return None,
        };
        change(&mut state.waiting().orders, runner.is_some());
        runner.flatten()
    }

    fn settle_with(&self, outcome: Outcome<W::Output>) -> Settled {
        let mut state = self.state.lock();
        if state.is_settled() {
            drop(state);
            unwind::discard(outcome);
            return Settled {
                calls_back: false,
                failed: true,
            };
        }
        let failed = matches!(outcome, Outcome::Error(_));
        let settled = Stage::Settled {
            outcome,
            published: false,
        };
        let before = std::mem::replace(&mut state.stage, settled);
        let waiting = state.waiting.as_ref();
        let calls_back = waiting.is_some_and(|waiting| waiting.calls_back());
        drop(state);
        // Arguments of a task that will not run.
        unwind::discard(before);
        Settled { calls_back, failed }
    }

    /// The state once the outcome is decided; blocks until then, or until the deadline.
    fn settled_by(&self, deadline: Option<Instant>) -> Option<SpinLockGuard<'_, State<W>>> {
        let left = || deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let mut noticed = false;
        for look in 0.. {
            let mut state = self.state.lock();
            // Those who look again and again wait to be told, like those who sleep: the worker is to
            // be free again by then.
            if state.is_published() || (state.is_settled() && look == 0) {
                return Some(state);
            }
            let left = left();
            if left == Some(Duration::ZERO) {
                return state.is_settled().then_some(state);
            }
            if !noticed && let Some(posting) = state.taken() {
                drop(state);
                posting.notice();
                noticed = true;
                continue;
            }
            if let Stage::Running(Some(runner)) = &state.stage {
                let runner = Arc::clone(runner);
                drop(state);
                let is_over = || !self.is_with(&runner);
                if Arc::clone(&runner).attend(Patience::Until(deadline), &is_over) {
                    continue;
                }
                state = self.state.lock();
                if state.is_published() {
                    return Some(state);
                }
            }
            if look < LOOKS {
                drop(state);
                hint::spin_loop();
                thread::yield_now();
                continue;
            }
            let this = thread::current();
            // It may be there from the last time, if the thread was woken by something else.
            let threads = &mut state.waiting().threads;
            if threads.iter().all(|thread| thread.id() != this.id()) {
                threads.push(this);
            }
            drop(state);
            park(left);
        }
        unreachable!("the loop ends with a result")
    }

    /// The state if the outcome is decided, else remembers to wake the caller.
    fn poll_settled(&self, context: &mut Context<'_>) -> Poll<SpinLockGuard<'_, State<W>>> {
        // Wakers are cloned and dropped outside of the lock: they may do anything.
        let mut waker = None;
        let (mut noticed, mut attended) = (false, false);
        loop {
            let mut state = self.state.lock();
            if state.is_settled() {
                return Poll::Ready(state);
            }
            if !noticed && let Some(posting) = state.taken() {
                drop(state);
                posting.notice();
                noticed = true;
                continue;
            }
            if let Stage::Running(Some(runner)) = &state.stage
                && !std::mem::replace(&mut attended, true)
            {
                let runner = Arc::clone(runner);
                drop(state);
                let is_over = || !self.is_with(&runner);
                Arc::clone(&runner).attend(Patience::Moment, &is_over);
                continue;
            }
            let Some(waker) = waker.take() else {
                drop(state);
                waker = Some(context.waker().clone());
                continue;
            };
            let old = state.waiting().waker.replace(waker);
            drop(state);
            drop(old);
            return Poll::Pending;
        }
    }

    /// Whether the worker has the task, and not another one, or none any more.
    fn is_with(&self, runner: &Arc<dyn Runner>) -> bool {
        match &self.state.lock().stage {
            Stage::Running(Some(other)) => Arc::ptr_eq(other, runner),
            _ => false,
        }
    }

    fn take_settled(&self, mut state: SpinLockGuard<'_, State<W>>) -> Result<W::Output, TaskError> {
        let Stage::Settled { outcome, .. } = &mut state.stage else {
            unreachable!("only a settled task has a result");
        };
        if let Outcome::Error(error) = outcome {
            return Err(error.clone());
        }
        let outcome = std::mem::replace(outcome, Outcome::Taken);
        drop(state);
        match outcome {
            Outcome::Value(value) => Ok(value),
            Outcome::Encoded(payload) => payload.open(W::decode),
            Outcome::Taken => Err(TaskError::Taken),
            Outcome::Error(_) => unreachable!("errors stay, for every taker"),
        }
    }
}

impl<W: Work> Job for TaskCell<W> {
    fn name(&self) -> &'static str {
        (self.name)()
    }

    fn call(&self, limit: Option<Duration>) -> Option<Settled> {
        let Input::Work(work) = self.begin(None, limit)? else {
            unreachable!("an encoded task was given to a thread");
        };
        let outcome = match unwind::catch(|| work.call()) {
            Ok(value) => Outcome::Value(value),
            Err(panic) => Outcome::Error(TaskError::Panicked(panic)),
        };
        Some(self.settle_with(outcome))
    }

    fn take_request(&self, runner: Arc<dyn Runner>, limit: Option<Duration>) -> Option<Request> {
        match self.begin(Some(runner), limit)? {
            Input::Request(mut request) => {
                request.posting = None;
                Some(*request)
            }
            Input::Work(_) => unreachable!("a task was given to a process without being encoded"),
        }
    }

    fn put_back(self: Arc<Self>, request: Request) {
        let mut state = self.state.lock();
        if !matches!(state.stage, Stage::Running(_)) {
            return;
        }
        if let Some(waiting) = &mut state.waiting {
            if waiting.orders.stop {
                drop(state);
                return engine::fail(self, TaskError::Cancelled);
            }
            waiting.orders.deadline = None;
        }
        let pending = Stage::Pending(Input::Request(Box::new(request)));
        let running = std::mem::replace(&mut state.stage, pending);
        drop(state);
        drop(running);
    }

    fn post(&self, post: &mut dyn FnMut(&Request) -> Option<Posting>) -> Post {
        let mut state = self.state.lock();
        let State { stage, waiting } = &mut *state;
        let Stage::Pending(Input::Request(request)) = stage else {
            return Post::Over;
        };
        // Whoever has a limit is to be given to a worker, whose time then counts.
        let has_limit = waiting
            .as_ref()
            .is_some_and(|waiting| waiting.orders.limit.is_some());
        if !has_limit {
            request.posting = post(request);
        }
        match request.posting {
            Some(_) => Post::Posted,
            None => Post::Unfit,
        }
    }

    fn unpost(&self) {
        if let Stage::Pending(Input::Request(request)) = &mut self.state.lock().stage {
            request.posting = None;
        }
    }

    fn orders(&self) -> Orders {
        let state = self.state.lock();
        let waiting = state.waiting.as_ref();
        waiting.map_or(Orders::default(), |waiting| waiting.orders)
    }

    fn is_settled(&self) -> bool {
        self.state.lock().is_settled()
    }

    fn error(&self) -> Option<TaskError> {
        match &self.state.lock().stage {
            Stage::Settled {
                outcome: Outcome::Error(error),
                ..
            } => Some(error.clone()),
            _ => None,
        }
    }

    fn settle(&self, outcome: Result<Payload, TaskError>) -> Settled {
        self.settle_with(match outcome {
            Ok(payload) => Outcome::Encoded(Box::new(payload)),
            Err(error) => Outcome::Error(error),
        })
    }

    fn publish(self: Arc<Self>) {
        let waiting = {
            let mut state = self.state.lock();
            if let Stage::Settled { published, .. } = &mut state.stage {
                *published = true;
            }
            state.waiting.take()
        };
        let Some(waiting) = waiting else { return };
        let Waiting {
            threads,
            waker,
            onlookers,
            watcher,
            callbacks,
            orders: _,
        } = *waiting;
        for thread in threads {
            thread.unpark();
        }
        if let Some(waker) = waker {
            unwind::contain(|| waker.wake());
        }
        onlookers.wake();
        if let Some((watcher, number)) = watcher {
            unwind::contain(|| watcher.is_over(number));
        }
        if !callbacks.is_empty() {
            let future = TaskFuture::new(self);
            // The thread that serves all worker processes must not wait for user code.
            reactor::off_the_reactor(move || {
                for callback in callbacks {
                    unwind::contain(|| callback(&future));
                }
            });
        }
    }
}

/// What a [`TaskFuture`] does with its task, whatever the task's arguments are.
pub(crate) trait Shared<R>: Send + Sync {
    fn name(&self) -> &'static str;
    fn done(&self) -> bool;
    fn running(&self) -> bool;
    fn cancelled(&self) -> bool;
    /// Cancels the task if it is pending; says whether it is cancelled now.
    fn cancel(self: Arc<Self>) -> bool;
    /// Cancels the task, or has it ended or asked to end; says whether.
    fn kill(self: Arc<Self>) -> bool;
    /// Has the task killed when it has run for so long.
    fn limit(self: Arc<Self>, limit: Duration);
    /// Blocks until the result is there, or until the deadline, and takes it.
    fn take(&self, deadline: Option<Instant>) -> Result<R, TaskError>;
    /// Blocks until the result is there, or until the deadline; says whether it is there.
    fn wait(&self, deadline: Option<Instant>) -> bool;
    /// Whether there is a result rather than an error, once it is decided.
    fn succeeded(&self) -> Option<bool>;
    /// Whether the result is there; else remembers, under this key, to wake the caller.
    fn poll_done(&self, key: &mut Option<u64>, context: &mut Context<'_>) -> Poll<()>;
    /// Who waited under this key does not any more.
    fn forget(&self, key: u64);
    /// Takes the result if it is there, else remembers to wake the caller.
    fn poll_take(&self, context: &mut Context<'_>) -> Poll<Result<R, TaskError>>;
    /// How large the encoded arguments or, once it is there, the encoded result is, in bytes.
    fn encoded_len(&self) -> Option<usize>;
    /// Has the one watcher told; `false` if the outcome is decided already.
    fn watch(&self, watcher: Arc<dyn Watcher>, number: usize) -> bool;
    /// Keeps the callback, or gives it back if the outcome is decided.
    fn add_callback(&self, callback: Callback<R>) -> Option<Callback<R>>;
}

impl<W: Work> Shared<W::Output> for TaskCell<W> {
    fn name(&self) -> &'static str {
        (self.name)()
    }

    fn done(&self) -> bool {
        self.state.lock().is_settled()
    }

    fn running(&self) -> bool {
        let state = self.state.lock();
        matches!(state.stage, Stage::Running(_)) || state.taken().is_some()
    }

    fn cancelled(&self) -> bool {
        matches!(
            self.state.lock().stage,
            Stage::Settled {
                outcome: Outcome::Error(TaskError::Cancelled),
                ..
            }
        )
    }

    fn cancel(self: Arc<Self>) -> bool {
        let mut state = self.state.lock();
        if state.withdraw() {
            let cancelled = Stage::Settled {
                outcome: Outcome::Error(TaskError::Cancelled),
                published: false,
            };
            let pending = std::mem::replace(&mut state.stage, cancelled);
            drop(state);
            unwind::discard(pending);
            purge::was_cancelled();
            Arc::clone(&self).publish();
            return true;
        }
        drop(state);
        self.cancelled()
    }

    fn kill(self: Arc<Self>) -> bool {
        let since = Instant::now();
        loop {
            if Arc::clone(&self).cancel() {
                return true;
            }
            let mut running = false;
            let runner = self.order(|orders, begun| {
                orders.stop = begun;
                running = begun;
            });
            let job = Arc::clone(&self) as Arc<dyn Job>;
            let insists = since.elapsed() > PATIENCE;
            match runner.map(|runner| runner.heed(&job, insists)) {
                Some(Heed::Heeded) => return true,
                Some(Heed::TooLate) => return false,
                None if running => return true,
                None | Some(Heed::NotNow) => {}
            }
            if let Stage::Settled { outcome, .. } = &self.state.lock().stage {
                return matches!(
                    outcome,
                    Outcome::Error(
                        TaskError::Cancelled | TaskError::Killed(_) | TaskError::Terminated(_)
                    )
                );
            }
            let taken = self.state.lock().taken();
            if let Some(posting) = taken {
                posting.notice();
            }
            // Its worker is about to get it, to give it back or to have done it.
            hint::spin_loop();
            thread::yield_now();
        }
    }

    fn limit(self: Arc<Self>, limit: Duration) {
        let runner = self.order(|orders, begun| {
            if begun {
                orders.begin(Some(limit));
            } else {
                orders.shorten(limit);
            }
        });
        if let Some(runner) = runner {
            // One that does not have it yet looks for orders when it gets it.
            let _ = runner.heed(&(self as Arc<dyn Job>), false);
        }
    }

    fn succeeded(&self) -> Option<bool> {
        match &self.state.lock().stage {
            Stage::Settled { outcome, .. } => Some(!matches!(outcome, Outcome::Error(_))),
            _ => None,
        }
    }

    fn wait(&self, deadline: Option<Instant>) -> bool {
        self.settled_by(deadline).is_some()
    }

    fn take(&self, deadline: Option<Instant>) -> Result<W::Output, TaskError> {
        match self.settled_by(deadline) {
            Some(state) => self.take_settled(state),
            None => Err(TaskError::Timeout),
        }
    }

    fn poll_done(&self, key: &mut Option<u64>, context: &mut Context<'_>) -> Poll<()> {
        let waker = context.waker().clone();
        let mut state = self.state.lock();
        let (poll, old) = match state.is_settled() {
            true => (Poll::Ready(()), Some(waker)),
            false => (Poll::Pending, state.waiting().onlookers.keep(key, waker)),
        };
        drop(state);
        drop(old);
        poll
    }

    fn forget(&self, key: u64) {
        let waker = match &mut self.state.lock().waiting {
            Some(waiting) => waiting.onlookers.forget(key),
            None => None,
        };
        drop(waker);
    }

    fn poll_take(&self, context: &mut Context<'_>) -> Poll<Result<W::Output, TaskError>> {
        self.poll_settled(context)
            .map(|state| self.take_settled(state))
    }

    fn encoded_len(&self) -> Option<usize> {
        match &self.state.lock().stage {
            Stage::Pending(Input::Request(request)) => Some(request.len()),
            Stage::Settled {
                outcome: Outcome::Encoded(payload),
                ..
            } => Some(payload.len()),
            _ => None,
        }
    }

    fn watch(&self, watcher: Arc<dyn Watcher>, number: usize) -> bool {
        let mut state = self.state.lock();
        if state.is_settled() {
            return false;
        }
        state.waiting().watcher = Some((watcher, number));
        true
    }

    fn add_callback(&self, callback: Callback<W::Output>) -> Option<Callback<W::Output>> {
        let mut state = self.state.lock();
        if state.is_settled() {
            return Some(callback);
        }
        state.waiting().callbacks.push(callback);
        None
    }
}

#[cfg(all(test, not(freethreading_loom)))]
mod tests {
    use super::*;
    use crate::Task;

    #[test]
    fn a_task_costs_little_memory() {
        // With the two counts of the `Arc` it is 72 bytes.
        assert_eq!(size_of::<TaskError>(), 24);
        assert_eq!(size_of::<TaskCell<Task<(), ()>>>(), 56);
    }
}

#[cfg(all(test, freethreading_loom))]
mod models;
