//! The chunks of an imap that are under way, and which of them comes next.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Instant,
};

use parking_lot::{Condvar, Mutex};

use crate::{
    chunk::ChunkResult, error::TaskError, executor::TaskFuture, look::give_way_and,
    task::cell::Watcher, wakers,
};

pub(super) type ChunkOutcome<R> = Result<ChunkResult<R>, TaskError>;

/// The chunks that are under way.
pub(super) enum Window<R> {
    InOrder(VecDeque<TaskFuture<ChunkResult<R>>>),
    AsCompleted {
        tasks: HashMap<usize, TaskFuture<ChunkResult<R>>>,
        next: usize,
        completed: Arc<Completed>,
    },
}

/// The numbers of the chunks that are over, in the order in which they ended.
#[derive(Default)]
pub(super) struct Completed {
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
            wakers::wake(waker);
        }
    }

    fn calls_back(&self) -> bool {
        false
    }
}

impl<R: Send + 'static> Window<R> {
    pub(super) fn new(ordered: bool) -> Self {
        match ordered {
            true => Window::InOrder(VecDeque::new()),
            false => Window::AsCompleted {
                tasks: HashMap::new(),
                next: 0,
                completed: Arc::default(),
            },
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Window::InOrder(tasks) => tasks.len(),
            Window::AsCompleted { tasks, .. } => tasks.len(),
        }
    }

    pub(super) fn push(&mut self, task: TaskFuture<ChunkResult<R>>) {
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
    pub(super) fn next(&mut self, deadline: Option<Instant>) -> Option<ChunkOutcome<R>> {
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
                let first = || completed.state.lock().numbers.pop_front();
                let early = first().or_else(|| give_way_and(deadline, first));
                let mut state = completed.state.lock();
                let number = loop {
                    if let Some(number) = early.or_else(|| state.numbers.pop_front()) {
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

    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<ChunkOutcome<R>>> {
        match self {
            Window::InOrder(tasks) => {
                let Some(task) = tasks.front() else {
                    return Poll::Ready(None);
                };
                let outcome = ready!(task.poll_result(context));
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
    pub(super) fn cancel(&mut self) {
        let tasks: Vec<_> = match self {
            Window::InOrder(tasks) => tasks.drain(..).collect(),
            Window::AsCompleted { tasks, .. } => tasks.drain().map(|(_, task)| task).collect(),
        };
        for task in tasks {
            task.cancel();
        }
    }
}
