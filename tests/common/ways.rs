//! The ways to do one thing: blocking, with a time limit, async. A scenario is written once and runs
//! in each of them, and with all of them mixed.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

use freethreading::{
    Barrier, BarrierError, Condition, GetError, IntoTask, Lock, NotOwned, Portable, PutError,
    Queue, RLock, SimpleQueue, TaskFuture, WorkerPoolExecutor,
};
use serde::{Deserialize, Serialize};

use super::{Sign, Wakes, eventually};

/// More than any test takes.
pub const LONG: Duration = Duration::from_secs(3600);

/// A way to call one operation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Way {
    Blocking,
    Timed,
    /// A future, on the plainest of executors.
    Async,
    /// A future on a tokio runtime, as a task of it where it can be one.
    Tokio,
}

impl Way {
    pub const ALL: [Way; 4] = [Way::Blocking, Way::Timed, Way::Async, Way::Tokio];

    /// Runs a future on the executor of this way; a blocking one has the plainest.
    pub fn run<F: Future>(self, future: F) -> F::Output {
        thread_local! {
            // Made once: a test may run very many futures.
            static RUNTIME: tokio::runtime::Runtime = current_thread();
        }
        match self {
            Way::Tokio => RUNTIME.with(|runtime| runtime.block_on(future)),
            _ => futures::executor::block_on(future),
        }
    }
}

/// The operations that may have to wait.
impl Way {
    pub fn put<T: Send + 'static>(self, queue: &Queue<T>, item: T) -> Result<(), PutError<T>> {
        match self {
            Way::Blocking => queue.put(item),
            Way::Timed => queue.put_timeout(item, LONG),
            Way::Async | Way::Tokio => self.run(queue.put_async(item)),
        }
    }

    pub fn get<T: Send + 'static>(self, queue: &Queue<T>) -> Result<T, GetError> {
        match self {
            Way::Blocking => queue.get(),
            Way::Timed => queue.get_timeout(LONG),
            Way::Async | Way::Tokio => self.run(queue.get_async()),
        }
    }

    pub fn get_simple<T: Send + 'static>(self, queue: &SimpleQueue<T>) -> Result<T, GetError> {
        match self {
            Way::Blocking => queue.get(),
            Way::Timed => queue.get_timeout(LONG),
            Way::Async | Way::Tokio => self.run(queue.get_async()),
        }
    }

    pub fn join<T: Send + 'static>(self, queue: &Queue<T>) {
        match self {
            Way::Blocking => queue.join(),
            Way::Timed => assert!(queue.join_timeout(LONG)),
            Way::Async | Way::Tokio => self.run(queue.join_async()),
        }
    }

    pub fn pass(self, barrier: &Barrier) -> Result<usize, BarrierError> {
        match self {
            Way::Blocking => barrier.wait(),
            Way::Timed => barrier.wait_timeout(LONG),
            Way::Async | Way::Tokio => self.run(barrier.wait_async()),
        }
    }

    pub fn acquire(self, condition: &Condition) {
        match self {
            Way::Blocking => condition.acquire(),
            Way::Timed => assert!(condition.acquire_timeout(LONG)),
            Way::Async | Way::Tokio => self.run(condition.acquire_async()),
        }
    }

    pub fn wait(self, condition: &Condition) -> Result<(), NotOwned> {
        match self {
            Way::Blocking => condition.wait(),
            Way::Timed => condition.wait_timeout(LONG).map(|woken| assert!(woken)),
            Way::Async | Way::Tokio => self.run(condition.wait_async()),
        }
    }

    pub fn wait_for(
        self,
        condition: &Condition,
        predicate: impl FnMut() -> bool + Send,
    ) -> Result<(), NotOwned> {
        match self {
            Way::Blocking => condition.wait_for(predicate),
            Way::Timed => {
                let held = condition.wait_for_timeout(LONG, predicate);
                held.map(|held| assert!(held))
            }
            Way::Async | Way::Tokio => self.run(condition.wait_for_async(predicate)),
        }
    }
}

/// A condition over each kind of lock.
pub fn conditions() -> [Condition; 3] {
    [
        Condition::new(),
        Condition::with_lock(&Lock::new()),
        Condition::with_rlock(&RLock::new()),
    ]
}

pub fn current_thread() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

pub fn multi_thread() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// Runs a task of a runtime that is there for it alone.
pub fn spawned<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> T {
    current_thread().block_on(async { tokio::spawn(task).await.unwrap() })
}

/// The ways of the workers of one scenario.
#[derive(Clone, Copy, Debug)]
pub enum Ways {
    All(Way),
    Mixed,
}

impl Ways {
    /// The way of the worker with this number.
    pub fn of(self, number: usize) -> Way {
        match self {
            Ways::All(way) => way,
            Ways::Mixed => Way::ALL[number % Way::ALL.len()],
        }
    }
}

/// Makes a test of the body for each way and for the mixture, on each backend: `NAME::WAY::BACKEND`; where types are
/// given, for each of them: `NAME::TYPE::WAY::BACKEND`.
macro_rules! every_way {
    ($($(#[$attribute:meta])* fn $name:ident($ways:ident) $body:block)*) => {
        $(
            $(#[$attribute])*
            mod $name {
                use super::*;

                fn scenario($ways: $crate::common::ways::Ways) {
                    $crate::common::watched(|| $body);
                }

                $crate::common::ways::every_way!(@ways scenario);
            }
        )*
    };
    (for $types:tt $($(#[$attribute:meta])* fn $name:ident<$type:ident: $bound:ident>($ways:ident) $body:block)*) => {
        $(
            $(#[$attribute])*
            mod $name {
                use super::*;

                fn scenario<$type: $bound>($ways: $crate::common::ways::Ways) {
                    $crate::common::watched(|| $body);
                }

                $crate::common::ways::every_way!(@types $types);
            }
        )*
    };
    (@types [$($module:ident: $type:ty),* $(,)?]) => {
        $(
            mod $module {
                use super::*;

                $crate::common::ways::every_way!(@ways scenario::<$type>);
            }
        )*
    };
    (@ways $scenario:expr) => {
        freethreading::test_backends! {
            #[test]
            fn blocking() {
                use $crate::common::ways::{Way, Ways};
                $scenario(Ways::All(Way::Blocking));
            }

            #[test]
            fn timed() {
                use $crate::common::ways::{Way, Ways};
                $scenario(Ways::All(Way::Timed));
            }

            #[test]
            fn asynchronous() {
                use $crate::common::ways::{Way, Ways};
                $scenario(Ways::All(Way::Async));
            }

            #[test]
            fn on_tokio() {
                use $crate::common::ways::{Way, Ways};
                $scenario(Ways::All(Way::Tokio));
            }

            #[test]
            fn mixed() {
                $scenario($crate::common::ways::Ways::Mixed);
            }
        }
    };
}
pub(crate) use every_way;

/// Workers of the backend at hand, each with a task that may wait for the others.
pub struct Team<R: Portable> {
    _executor: WorkerPoolExecutor,
    futures: Vec<TaskFuture<R>>,
}

impl<R: Portable> Team<R> {
    pub fn new<T, M>(size: usize, task: impl FnMut(usize) -> T) -> Team<R>
    where
        T: IntoTask<M, Output = R>,
    {
        let executor = WorkerPoolExecutor::new(size).unwrap();
        let futures = (0..size).map(task).map(|task| executor.submit(task));
        Team {
            futures: futures.collect(),
            _executor: executor,
        }
    }

    /// Whether nobody is done yet.
    pub fn all_busy(&self) -> bool {
        !self.futures.iter().any(TaskFuture::done)
    }

    /// Whether somebody is not done yet.
    pub fn some_busy(&self) -> bool {
        !self.futures.iter().all(TaskFuture::done)
    }

    pub fn results(self) -> Vec<R> {
        let results = self.futures.iter().map(|future| future.result().unwrap());
        results.collect()
    }
}

/// A worker of the backend at hand that does one thing after another.
pub struct Other(WorkerPoolExecutor);

impl Other {
    pub fn new() -> Other {
        Other(WorkerPoolExecutor::new(1).unwrap())
    }

    /// Has the task done.
    pub fn run<R: Portable, M>(&self, task: impl IntoTask<M, Output = R>) -> R {
        self.0.submit(task).result().unwrap()
    }
}

/// A task that is given something, and does nothing with it.
pub fn nothing<T: Portable>(_: T) {}

/// A queue that workers know: it has been on its way to one.
pub fn known<Q: Portable + Clone>(queue: Q) -> Q {
    Other::new().run(freethreading::task!(nothing(queue.clone())));
    queue
}

#[track_caller]
pub fn assert_empty<T>(result: Result<T, GetError>) {
    assert!(matches!(result, Err(GetError::Empty)));
}

/// Tells who is about to sleep; see [`wait_asleep`].
pub fn report(sign: &Sign) {
    let thread = rustix::thread::gettid().as_raw_nonzero();
    sign.tell(format!("{}/task/{thread}", std::process::id()));
}

/// Waits until the thread that reported there sleeps, which it does in whatever it called next.
pub fn wait_asleep(sign: &Sign) {
    let path = format!("/proc/{}/stat", sign.hear());
    let sleeps = || {
        let stat = std::fs::read_to_string(&path).unwrap();
        stat.rsplit(") ").next().unwrap().starts_with('S')
    };
    // Not for a moment only.
    eventually("asleep", || {
        (0..3).all(|_| {
            thread::sleep(Duration::from_micros(200));
            sleeps()
        })
    });
}

/// A future that is polled by hand.
pub struct Hand<F: Future> {
    future: Pin<Box<F>>,
    wakes: Arc<Wakes>,
}

impl<F: Future> Hand<F> {
    pub fn new(future: F) -> Hand<F> {
        Hand {
            future: Box::pin(future),
            wakes: Wakes::new(),
        }
    }

    /// One that has been polled, and waits.
    #[track_caller]
    pub fn waiting(future: F) -> Hand<F> {
        let mut hand = Hand::new(future);
        assert!(hand.poll().is_pending());
        hand
    }

    pub fn poll(&mut self) -> Poll<F::Output> {
        let waker = Waker::from(Arc::clone(&self.wakes));
        self.poll_with(&waker)
    }

    pub fn poll_with(&mut self, waker: &Waker) -> Poll<F::Output> {
        self.future.as_mut().poll(&mut Context::from_waker(waker))
    }

    #[track_caller]
    pub fn ready(&mut self) -> F::Output {
        match self.poll() {
            Poll::Ready(output) => output,
            Poll::Pending => panic!("pending"),
        }
    }

    /// Polls whenever it is woken, until it is ready.
    pub fn finish(mut self) -> F::Output {
        futures::executor::block_on(self.future.as_mut())
    }

    pub fn woken(&self) -> bool {
        self.wakes.count() > 0
    }

    /// Waits until it is woken, which takes a moment where another process does it.
    pub fn wait_woken(&self) {
        eventually("woken", || self.woken());
    }
}

/// Says something about its length that need not be true.
pub struct Liar {
    pub items: std::ops::Range<u64>,
    pub hint: (usize, Option<usize>),
}

impl Iterator for Liar {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.items.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.hint
    }
}

/// Stays away from the processor until the instant, which a sleep does not hit as well.
pub fn spin_until(instant: std::time::Instant) {
    while std::time::Instant::now() < instant {
        thread::yield_now();
    }
}
