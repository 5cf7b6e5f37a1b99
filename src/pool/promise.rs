//! A result to come that several tasks give together, or that is shown to somebody first: the cell of a task,
//! without the task.

use std::{any::type_name, convert::Infallible, marker::PhantomData, sync::Arc};

use crate::{
    codec::Encoded,
    engine::{Carriage, Job, Request},
    error::TaskError,
    executor::TaskFuture,
    task::{cell::TaskCell, work::Work},
};

/// Kept by whoever has it.
pub(super) struct Promise<R: Send + 'static>(Arc<TaskCell<Nothing<R>>>);

impl<R: Send + 'static> Promise<R> {
    pub(super) fn new() -> Self {
        Promise(TaskCell::without_work(type_name::<R>))
    }

    pub(super) fn future(&self) -> TaskFuture<R> {
        TaskFuture::new(Arc::clone(&self.0) as _)
    }

    /// Keeps the promise; the first outcome stays.
    pub(super) fn complete(&self, outcome: Result<R, TaskError>) {
        self.complete_and_release(outcome, ());
    }

    /// Keeps the promise, and drops what was held until then: callbacks do not find it any more, and others
    /// find the promise kept once it is gone.
    pub(super) fn complete_and_release<H>(&self, outcome: Result<R, TaskError>, held: H) {
        let _ = self.0.decide(outcome);
        drop(held);
        Arc::clone(&self.0).publish();
    }
}

/// The work of nobody: there is none of it.
struct Nothing<R>(Infallible, PhantomData<fn() -> R>);

impl<R: Send + 'static> Work for Nothing<R> {
    type Output = R;

    /// What several tasks give together takes longer.
    const MAY_BE_SHORT: bool = false;

    fn name(&self) -> fn() -> &'static str {
        match self.0 {}
    }

    fn call(self) -> R {
        match self.0 {}
    }

    fn request(&self, _: u64, _: Carriage) -> Result<Request, TaskError> {
        match self.0 {}
    }

    fn decode(_: Encoded<'_>) -> Result<R, TaskError> {
        unreachable!("no worker was asked for it")
    }
}

#[cfg(all(test, not(freethreading_loom)))]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// Calls a function when it is dropped.
    struct OnDrop<F: FnMut()>(F);

    impl<F: FnMut()> Drop for OnDrop<F> {
        fn drop(&mut self) {
            (self.0)();
        }
    }

    #[test]
    fn a_promise_is_kept_before_what_is_held_is_dropped() {
        let promise = Promise::new();
        let kept = AtomicBool::new(false);
        let held = OnDrop(|| kept.store(promise.future().done(), Ordering::SeqCst));
        promise.complete_and_release(Ok(1), held);
        assert!(kept.into_inner());
    }

    #[test]
    fn callbacks_do_not_find_what_was_held() {
        let promise = Promise::new();
        let dropped = Arc::new(AtomicBool::new(false));
        let (drops, saw) = (Arc::clone(&dropped), Arc::new(AtomicBool::new(false)));
        let seen = Arc::clone(&saw);
        promise.future().add_done_callback(move |_| {
            seen.store(dropped.load(Ordering::SeqCst), Ordering::SeqCst);
        });
        let held = OnDrop(move || drops.store(true, Ordering::SeqCst));
        promise.complete_and_release(Ok(1), held);
        assert!(saw.load(Ordering::SeqCst));
    }
}

#[cfg(all(test, freethreading_loom))]
mod models {
    use std::{pin::pin, task::Context};

    use loom::{
        future::block_on,
        sync::atomic::{AtomicUsize, Ordering::SeqCst},
        thread::{JoinHandle, spawn},
    };

    use super::*;
    use crate::AsyncResult;

    /// A result that another thread gives, or two do.
    fn kept_by(keepers: u32) -> (Arc<AsyncResult<u32>>, Vec<JoinHandle<()>>) {
        let promise = Arc::new(Promise::new());
        let result = AsyncResult::of(promise.future());
        let keep = |number| {
            let promise = Arc::clone(&promise);
            spawn(move || promise.complete(Ok(number)))
        };
        let keepers = (0..keepers).map(keep).collect();
        (Arc::new(result), keepers)
    }

    /// Has the function called with the value.
    fn hooked(
        result: Arc<AsyncResult<u32>>,
        hook: impl FnOnce(&u32) + Send + 'static,
    ) -> AsyncResult<u32> {
        Arc::into_inner(result).unwrap().callback(hook)
    }

    fn join(keepers: Vec<JoinHandle<()>>) {
        for keeper in keepers {
            keeper.join().unwrap();
        }
    }

    #[test]
    fn loom_of_two_takers_one_gets_the_outcome_and_an_onlooker_sees_it() {
        loom::model(|| {
            let (result, keepers) = kept_by(1);
            let other = {
                let result = Arc::clone(&result);
                spawn(move || result.get().is_ok())
            };
            block_on(result.wait_async());
            assert_ne!(result.get().is_ok(), other.join().unwrap());
            assert!(matches!(result.get(), Err(TaskError::Taken)));
            join(keepers);
        });
    }

    #[test]
    fn loom_an_onlooker_that_leaves_takes_nothing_along() {
        loom::model(|| {
            let (result, keepers) = kept_by(1);
            let waker = std::task::Waker::noop();
            let _ = pin!(result.wait_async()).poll(&mut Context::from_waker(waker));
            block_on(result.wait_async());
            assert_eq!(result.get().unwrap(), 0);
            join(keepers);
        });
    }

    #[test]
    fn loom_hooks_added_meanwhile_are_called_once_and_in_turn_and_first() {
        loom::model(|| {
            let (result, keepers) = kept_by(1);
            let calls = Arc::new(AtomicUsize::new(0));
            let hook = |turn| {
                let calls = Arc::clone(&calls);
                move |value: &u32| {
                    assert_eq!(*value, 0);
                    assert_eq!(calls.fetch_add(1, SeqCst), turn);
                }
            };
            let result = hooked(result, hook(0)).callback(hook(1));
            assert_eq!(result.get().unwrap(), 0);
            assert_eq!(calls.load(SeqCst), 2);
            join(keepers);
            assert_eq!(calls.load(SeqCst), 2);
        });
    }

    #[test]
    fn loom_the_first_outcome_stays_and_is_shown_once() {
        loom::model(|| {
            let (result, keepers) = kept_by(2);
            let shown = Arc::new(AtomicUsize::new(0));
            let seen = Arc::clone(&shown);
            let result = hooked(result, move |value| {
                seen.fetch_add(10 + *value as usize, SeqCst);
            });
            let taken = result.get().unwrap() as usize;
            assert_eq!(shown.load(SeqCst), 10 + taken);
            join(keepers);
            assert_eq!(shown.load(SeqCst), 10 + taken);
        });
    }
}
