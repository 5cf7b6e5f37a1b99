//! Those who are to be told of a task's outcome.

use std::{sync::Arc, task::Waker};

use crate::{
    engine::{Orders, aside},
    executor::TaskFuture,
    unwind,
    wakers::{self, Parked, Wakers},
};

pub(crate) type Callback<R> = Box<dyn FnOnce(&TaskFuture<R>) + Send>;

/// Wants to know when each of several tasks is over.
pub(crate) trait Watcher: Send + Sync {
    /// The task with this number is over. On the reactor's thread it must not take long.
    fn is_over(self: Arc<Self>, number: usize);

    /// Whether that may call user code, which takes as long as it likes.
    fn calls_back(&self) -> bool;
}

/// Who is to be told of the outcome.
pub(super) struct Waiting<R> {
    pub(super) threads: Parked,
    /// Of the task that awaits the result.
    pub(super) waker: Option<Waker>,
    /// Of tasks that only want to know that it is there.
    pub(super) onlookers: Wakers,
    pub(super) watcher: Option<(Arc<dyn Watcher>, usize)>,
    pub(super) callbacks: Vec<Callback<R>>,
    /// Those for the worker: there as well, since most tasks have none.
    pub(super) orders: Orders,
}

impl<R> Waiting<R> {
    pub(super) fn calls_back(&self) -> bool {
        let watcher = self.watcher.as_ref();
        !self.callbacks.is_empty() || watcher.is_some_and(|(watcher, _)| watcher.calls_back())
    }

    /// Tells all of them; the callbacks get the future.
    pub(super) fn tell(self, future: impl FnOnce() -> TaskFuture<R>)
    where
        R: Send + 'static,
    {
        self.threads.unpark();
        if let Some(waker) = self.waker {
            wakers::wake(waker);
        }
        self.onlookers.wake();
        if let Some((watcher, number)) = self.watcher {
            tell(watcher, number);
        }
        if !self.callbacks.is_empty() {
            let future = future();
            // The thread that serves all worker processes must not wait for user code.
            aside::off_the_reactor(move || {
                for callback in self.callbacks {
                    unwind::contain(|| callback(&future));
                }
            });
        }
    }
}

fn tell(watcher: Arc<dyn Watcher>, number: usize) {
    unwind::contain(|| watcher.is_over(number));
}

impl<R> Default for Waiting<R> {
    fn default() -> Self {
        Waiting {
            threads: Parked::default(),
            waker: None,
            onlookers: Wakers::default(),
            watcher: None,
            callbacks: Vec::new(),
            orders: Orders::default(),
        }
    }
}
