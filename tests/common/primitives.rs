//! What the tests of the primitives share: one face over all that can be waited for, and workers that
//! wait. Not every test crate uses all of it.
#![allow(dead_code, unused_imports, unused_macros)]

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

use freethreading::{
    Barrier, BoundedSemaphore, Condition, Error, Event, Lock, Portable, Queue, RLock, Semaphore,
    SimpleQueue, Worker,
};
use futures::executor::block_on;
use serde::{Deserialize, Serialize};

pub use crate::common::ways::{LONG, current_thread, multi_thread};
use crate::common::{
    Scratch, Sign, eventually,
    ways::{Way, Ways, spawned},
};

pub type Wait<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// A thread of some process, as others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub pid: u32,
    pub tid: i32,
}

impl Place {
    /// The calling thread.
    pub fn here() -> Place {
        // SAFETY: the call takes nothing and cannot fail.
        let tid = unsafe { libc::gettid() };
        Place {
            pid: std::process::id(),
            tid,
        }
    }

    fn state(&self) -> Option<char> {
        let stat = format!("/proc/{}/task/{}/stat", self.pid, self.tid);
        let stat = std::fs::read_to_string(stat).ok()?;
        stat.rsplit(')').next()?.trim_start().chars().next()
    }

    pub fn is_asleep(&self) -> bool {
        self.state() == Some('S')
    }

    /// How often the thread has gone to sleep, if it is asleep.
    fn sleeps(&self) -> Option<u64> {
        let status = format!("/proc/{}/task/{}/status", self.pid, self.tid);
        let status = std::fs::read_to_string(status).ok()?;
        let field = |name| {
            let mut fields = status.lines().filter_map(|line| line.split_once(':'));
            fields.find_map(|(key, value)| (key == name).then(|| value.trim()))
        };
        let count = field("voluntary_ctxt_switches")?.parse().ok();
        count.filter(|_| field("State").is_some_and(|state| state.starts_with('S')))
    }

    /// Whether the thread is not there any more.
    pub fn is_gone(&self) -> bool {
        matches!(self.state(), None | Some('Z' | 'X'))
    }

    pub fn wait_until_asleep(&self) {
        eventually("it sleeps", || self.is_asleep());
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.pid, self.tid)
    }
}

impl From<String> for Place {
    fn from(line: String) -> Place {
        let (pid, tid) = line.split_once(' ').unwrap();
        Place {
            pid: pid.parse().unwrap(),
            tid: tid.parse().unwrap(),
        }
    }
}

/// Starts a thread and waits until it sleeps in what it does.
pub fn asleep_in<T: Send + 'static>(
    body: impl FnOnce() -> T + Send + 'static,
) -> (thread::JoinHandle<T>, Place) {
    let (sender, place) = mpsc::channel();
    let thread = thread::spawn(move || {
        sender.send(Place::here()).unwrap();
        body()
    });
    let place = place.recv().unwrap();
    place.wait_until_asleep();
    (thread, place)
}

/// Something that lets those through who wait for it: one each time, or all of them.
pub trait Awaitable: Portable + Clone + Sync + fmt::Debug {
    /// Whether one is enough for all who wait.
    const ALL: bool = false;

    /// Whether it lets somebody through who comes later.
    const REMEMBERS: bool = true;

    /// A new one that lets nobody through, for so many who wait.
    fn closed(waiters: usize) -> Self;

    /// Whether so many wait, where who comes later is not let through. That all sleep does not say so: one may have been
    /// told that the lock is free, and be about to be woken by a thread of its process that has yet to run.
    fn has_waiters(&self, _count: usize) -> bool {
        true
    }

    fn let_through(&self);

    /// The same where there may be nobody, or no room, for one more.
    fn let_through_perhaps(&self) {
        self.let_through();
    }

    /// Whether it let the caller through, at once.
    fn try_wait(&self) -> bool {
        self.wait_timeout(Duration::ZERO)
    }

    fn wait(&self);

    /// Whether it let the caller through in time.
    fn wait_timeout(&self, timeout: Duration) -> bool;

    fn wait_async(&self) -> Wait<'_>;

    /// Waits until it lets the caller through.
    fn wait_in(&self, way: Way) {
        match way {
            Way::Blocking => self.wait(),
            Way::Timed => assert!(self.wait_timeout(LONG)),
            Way::Async => block_on(self.wait_async()),
            Way::Tokio => {
                let object = self.clone();
                spawned(async move { object.wait_async().await });
            }
        }
    }
}

/// How one waits for what is acquired.
macro_rules! acquires {
    () => {
        fn try_wait(&self) -> bool {
            self.try_acquire()
        }

        fn wait(&self) {
            self.acquire();
        }

        fn wait_timeout(&self, timeout: Duration) -> bool {
            self.acquire_timeout(timeout)
        }

        fn wait_async(&self) -> Wait<'_> {
            Box::pin(self.acquire_async())
        }
    };
}

impl Awaitable for Lock {
    fn closed(_: usize) -> Self {
        let lock = Lock::new();
        lock.acquire();
        lock
    }

    fn let_through(&self) {
        self.release().unwrap();
    }

    fn let_through_perhaps(&self) {
        let _ = self.release();
    }

    acquires!();
}

impl Awaitable for Semaphore {
    fn closed(_: usize) -> Self {
        Semaphore::new(0)
    }

    fn let_through(&self) {
        self.release().unwrap();
    }

    acquires!();
}

impl Awaitable for BoundedSemaphore {
    fn closed(_: usize) -> Self {
        let semaphore = BoundedSemaphore::new(100);
        while semaphore.try_acquire() {}
        semaphore
    }

    fn let_through(&self) {
        self.release().unwrap();
    }

    fn let_through_perhaps(&self) {
        let _ = self.release();
    }

    acquires!();
}

impl Awaitable for Event {
    const ALL: bool = true;

    fn closed(_: usize) -> Self {
        Event::new()
    }

    fn let_through(&self) {
        self.set();
    }

    fn wait(&self) {
        self.wait();
    }

    fn wait_timeout(&self, timeout: Duration) -> bool {
        self.wait_timeout(timeout)
    }

    fn wait_async(&self) -> Wait<'_> {
        Box::pin(self.wait_async())
    }
}

/// An RLock that a thread of this process holds until it is told not to. Who waits for it releases it
/// again, since no other could: so one release is enough for all.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HeldRLock {
    pub lock: RLock,
    #[serde(skip)]
    keeper: Option<Arc<Mutex<Option<Keeper>>>>,
}

#[derive(Debug)]
struct Keeper {
    let_go: mpsc::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl HeldRLock {
    /// One that somebody else holds, who is not told when to let go.
    pub fn held_elsewhere(lock: RLock) -> HeldRLock {
        HeldRLock { lock, keeper: None }
    }
}

impl Awaitable for HeldRLock {
    const ALL: bool = true;

    fn closed(_: usize) -> Self {
        let lock = RLock::new();
        let (let_go, told) = mpsc::channel();
        let (held, is_held) = mpsc::channel();
        let kept = lock.clone();
        let thread = thread::spawn(move || {
            kept.acquire();
            held.send(()).unwrap();
            // An error means that the test is over.
            let _ = told.recv();
            kept.release().unwrap();
        });
        is_held.recv().unwrap();
        HeldRLock {
            lock,
            keeper: Some(Arc::new(Mutex::new(Some(Keeper { let_go, thread })))),
        }
    }

    fn let_through(&self) {
        let keeper = self
            .keeper
            .as_ref()
            .expect("the keeper is a thread of the test");
        // Only the first time there is something to do.
        let keeper = keeper.lock().unwrap().take();
        if let Some(Keeper { let_go, thread }) = keeper {
            let_go.send(()).unwrap();
            thread.join().unwrap();
        }
    }

    fn try_wait(&self) -> bool {
        let acquired = self.lock.try_acquire();
        if acquired {
            self.lock.release().unwrap();
        }
        acquired
    }

    fn wait(&self) {
        self.lock.acquire();
        self.lock.release().unwrap();
    }

    fn wait_timeout(&self, timeout: Duration) -> bool {
        let acquired = self.lock.acquire_timeout(timeout);
        if acquired {
            self.lock.release().unwrap();
        }
        acquired
    }

    fn wait_async(&self) -> Wait<'_> {
        Box::pin(async {
            self.lock.acquire_async().await;
            self.lock.release().unwrap();
        })
    }
}

impl Awaitable for Condition {
    const REMEMBERS: bool = false;

    fn closed(_: usize) -> Self {
        Condition::new()
    }

    fn let_through(&self) {
        let guard = self.lock();
        guard.notify(1).unwrap();
    }

    fn has_waiters(&self, count: usize) -> bool {
        format!("{self:?}").ends_with(&format!(" waiters: {count} }}"))
    }

    fn wait(&self) {
        self.lock().wait().unwrap();
    }

    fn wait_timeout(&self, timeout: Duration) -> bool {
        self.lock().wait_timeout(timeout).unwrap()
    }

    fn wait_async(&self) -> Wait<'_> {
        Box::pin(async {
            let mut guard = self.lock_async().await;
            guard.wait_async().await.unwrap();
        })
    }
}

/// A barrier that the last one opens for all.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Meeting(pub Barrier);

impl Awaitable for Meeting {
    const ALL: bool = true;
    const REMEMBERS: bool = false;

    fn closed(waiters: usize) -> Self {
        Meeting(Barrier::new(waiters + 1).unwrap())
    }

    fn let_through(&self) {
        self.0.wait().unwrap();
    }

    fn let_through_perhaps(&self) {
        if self.0.n_waiting() + 1 == self.0.parties() {
            self.0.wait().unwrap();
        }
    }

    fn wait(&self) {
        self.0.wait().unwrap();
    }

    fn wait_timeout(&self, timeout: Duration) -> bool {
        self.0.wait_timeout(timeout).is_ok()
    }

    fn wait_async(&self) -> Wait<'_> {
        Box::pin(async {
            self.0.wait_async().await.unwrap();
        })
    }
}

/// An empty queue.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Getting(pub Queue<u32>);

impl Awaitable for Getting {
    fn closed(_: usize) -> Self {
        Getting(Queue::new(0))
    }

    fn let_through(&self) {
        self.0.put(7).unwrap();
    }

    fn try_wait(&self) -> bool {
        self.0.get_nowait().is_ok()
    }

    fn wait(&self) {
        assert_eq!(self.0.get().unwrap(), 7);
    }

    fn wait_timeout(&self, timeout: Duration) -> bool {
        self.0.get_timeout(timeout).is_ok()
    }

    fn wait_async(&self) -> Wait<'_> {
        Box::pin(async {
            assert_eq!(self.0.get_async().await.unwrap(), 7);
        })
    }
}

/// A full queue.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Putting(pub Queue<u32>);

impl Awaitable for Putting {
    fn closed(_: usize) -> Self {
        let queue = Queue::new(1);
        queue.put(7).unwrap();
        Putting(queue)
    }

    fn let_through(&self) {
        self.0.get().unwrap();
    }

    fn let_through_perhaps(&self) {
        let _ = self.0.get_nowait();
    }

    fn try_wait(&self) -> bool {
        self.0.put_nowait(7).is_ok()
    }

    fn wait(&self) {
        self.0.put(7).unwrap();
    }

    fn wait_timeout(&self, timeout: Duration) -> bool {
        self.0.put_timeout(7, timeout).is_ok()
    }

    fn wait_async(&self) -> Wait<'_> {
        Box::pin(async {
            self.0.put_async(7).await.unwrap();
        })
    }
}

/// A queue with an unfinished task.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Joining(pub Queue<u32>);

impl Awaitable for Joining {
    const ALL: bool = true;

    fn closed(_: usize) -> Self {
        let queue = Queue::new(0);
        queue.put(7).unwrap();
        Joining(queue)
    }

    fn let_through(&self) {
        self.0.task_done().unwrap();
    }

    fn let_through_perhaps(&self) {
        let _ = self.0.task_done();
    }

    fn wait(&self) {
        self.0.join();
    }

    fn wait_timeout(&self, timeout: Duration) -> bool {
        self.0.join_timeout(timeout)
    }

    fn wait_async(&self) -> Wait<'_> {
        Box::pin(self.0.join_async())
    }
}

/// An empty simple queue.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SimplyGetting(pub SimpleQueue<u32>);

impl Awaitable for SimplyGetting {
    fn closed(_: usize) -> Self {
        SimplyGetting(SimpleQueue::new())
    }

    fn let_through(&self) {
        self.0.put(7).unwrap();
    }

    fn try_wait(&self) -> bool {
        self.0.get_nowait().is_ok()
    }

    fn wait(&self) {
        assert_eq!(self.0.get().unwrap(), 7);
    }

    fn wait_timeout(&self, timeout: Duration) -> bool {
        self.0.get_timeout(timeout).is_ok()
    }

    fn wait_async(&self) -> Wait<'_> {
        Box::pin(async {
            assert_eq!(self.0.get_async().await.unwrap(), 7);
        })
    }
}

/// What is acquired and released by the same owner; new, it is free for one.
pub trait Lockable: Portable + Clone + Sync + fmt::Debug {
    fn free() -> Self;
    fn acquire(&self);
    fn try_acquire(&self) -> bool;
    fn acquire_timeout(&self, timeout: Duration) -> bool;
    fn acquire_async(&self) -> Wait<'_>;
    fn release(&self) -> Result<(), Error>;

    /// Acquires, runs the body, and releases, all as one owner.
    fn hold<T: Send + 'static>(&self, way: Way, body: impl FnOnce() -> T + Send + 'static) -> T {
        match way {
            Way::Blocking => self.acquire(),
            Way::Timed => assert!(self.acquire_timeout(LONG)),
            Way::Async => block_on(self.acquire_async()),
            Way::Tokio => {
                let lock = self.clone();
                return spawned(async move {
                    lock.acquire_async().await;
                    let result = body();
                    lock.release().unwrap();
                    result
                });
            }
        }
        let result = body();
        self.release().unwrap();
        result
    }

    /// Runs the body with a guard held.
    fn with_guard<T>(&self, way: Way, body: impl FnOnce() -> T) -> T;

    /// Whether a guard can be had at once.
    fn try_guard(&self) -> bool;
}

macro_rules! lockable {
    ($type:ident, $lock:ident, $try_lock:ident, $lock_timeout:ident, $lock_async:ident) => {
        impl Lockable for $type {
            fn free() -> Self {
                $type::default()
            }

            fn acquire(&self) {
                $type::acquire(self);
            }

            fn try_acquire(&self) -> bool {
                $type::try_acquire(self)
            }

            fn acquire_timeout(&self, timeout: Duration) -> bool {
                $type::acquire_timeout(self, timeout)
            }

            fn acquire_async(&self) -> Wait<'_> {
                Box::pin($type::acquire_async(self))
            }

            fn release(&self) -> Result<(), Error> {
                $type::release(self).map_err(Error::from)
            }

            fn with_guard<T>(&self, way: Way, body: impl FnOnce() -> T) -> T {
                match way {
                    Way::Blocking => {
                        let _guard = self.$lock();
                        body()
                    }
                    Way::Timed => {
                        let _guard = self.$lock_timeout(LONG).unwrap();
                        body()
                    }
                    Way::Async | Way::Tokio => way.run(async {
                        let _guard = self.$lock_async().await;
                        body()
                    }),
                }
            }

            fn try_guard(&self) -> bool {
                self.$try_lock().is_some()
            }
        }
    };
}

lockable!(Lock, lock, try_lock, lock_timeout, lock_async);
lockable!(RLock, lock, try_lock, lock_timeout, lock_async);
lockable!(Condition, lock, try_lock, lock_timeout, lock_async);
lockable!(Semaphore, permit, try_permit, permit_timeout, permit_async);
lockable!(
    BoundedSemaphore,
    permit,
    try_permit,
    permit_timeout,
    permit_async
);

/// Workers that each tell where they are, wait, and tell that they were let through.
pub struct Waiters {
    workers: Vec<Worker>,
    came: Sign,
    passed: Sign,
    _scratch: Scratch,
}

impl Waiters {
    /// Workers of the default backend, each of which `make` makes from the way to wait and the places
    /// for the two lists of notes. Returns when all of them sleep.
    pub fn asleep(number: usize, ways: Ways, make: impl Fn(Way, Sign, Sign) -> Worker) -> Waiters {
        let waiters = Waiters::start(number, ways, make);
        waiters.settle(0);
        waiters
    }

    /// The same, without waiting for them.
    pub fn start(number: usize, ways: Ways, make: impl Fn(Way, Sign, Sign) -> Worker) -> Waiters {
        let scratch = Scratch::new();
        let (came, passed) = (scratch.sign("came"), scratch.sign("passed"));
        let workers: Vec<_> = (0..number)
            .map(|n| make(ways.of(n), came.clone(), passed.clone()))
            .collect();
        for worker in &workers {
            worker.start().unwrap();
        }
        Waiters {
            workers,
            came,
            passed,
            _scratch: scratch,
        }
    }

    /// Workers that wait for an object.
    pub fn of<A: Awaitable>(number: usize, ways: Ways, object: &A) -> Waiters {
        Waiters::asleep(number, ways, |way, came, passed| {
            Worker::new(freethreading::task!(wait_and_note::<A>(
                object.clone(),
                way,
                came,
                passed
            )))
        })
    }

    pub fn places(&self) -> Vec<Place> {
        self.came.notes().into_iter().map(Place::from).collect()
    }

    /// Waits until so many were let through and all the others sleep.
    pub fn settle(&self, passed: usize) {
        eventually(&format!("{passed} are let through"), || {
            let places = self.places();
            let still = || -> Vec<_> {
                let sleeps = |place: &Place| (place.sleeps(), place.is_gone());
                places.iter().map(sleeps).collect()
            };
            // All at the same time: one that waits for the lock of another is not where it is to wait.
            let first = still();
            places.len() == self.workers.len()
                && first.iter().all(|&(sleeps, gone)| gone || sleeps.is_some())
                && self.passed() == passed
                && still() == first
        });
    }

    pub fn passed(&self) -> usize {
        self.passed.notes().len()
    }

    pub fn workers(&self) -> &[Worker] {
        &self.workers
    }

    /// Waits for their ends; gives what they noted.
    pub fn join(self) -> Vec<String> {
        for worker in &self.workers {
            worker.join().unwrap();
        }
        self.passed.notes()
    }
}

/// The task of a worker that waits.
pub fn wait_and_note<A: Awaitable>(object: A, way: Way, came: Sign, passed: Sign) {
    came.note(Place::here());
    object.wait_in(way);
    passed.note("");
}

/// Makes a test of the body for each of the types, for all that can be waited for, or for those of them that have no
/// owner who alone could let others through: `NAME::TYPE`.
macro_rules! every_type {
    (for $types:tt $($(#[$attribute:meta])* fn $name:ident<$type:ident: $bound:ident>() $body:block)*) => {
        $(
            $(#[$attribute])*
            mod $name {
                use super::*;

                fn run<$type: $bound>() {
                    watched(|| $body)
                }

                every_type!(@types $types);
            }
        )*
    };
    (@types all) => {
        every_type!(@types [r_lock: HeldRLock]);
        every_type!(@types unowned);
    };
    (@types unowned) => {
        every_type!(@types [
            lock: Lock,
            semaphore: Semaphore,
            bounded_semaphore: BoundedSemaphore,
            event: Event,
            condition: Condition,
            barrier: Meeting,
            get: Getting,
            put: Putting,
            join: Joining,
            simple_get: SimplyGetting,
        ]);
    };
    (@types [$($module:ident: $type:ty),* $(,)?]) => {
        $(
            #[test]
            fn $module() {
                run::<$type>();
            }
        )*
    };
}

pub(crate) use every_type;
