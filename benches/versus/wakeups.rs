//! Two that wake each other in turn.

use std::{
    iter,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{
            AtomicBool,
            Ordering::{Relaxed, SeqCst},
        },
    },
    thread,
};

use freethreading::{Condition, Event};
use tokio::{runtime::Runtime, sync::Notify};

use crate::{
    harness::{Case, Clock, Contender, Size, Unit, contender, micros},
    posix::{Private, Word},
    threads::{current_thread, multi_thread, on},
};

/// Round trips in one sample: a few milliseconds.
const TRIPS: Size<u32> = Size::new(1000, 200);

pub fn cases() -> Vec<Case> {
    vec![
        Unit::Micros.case("Event, 2 threads", 1, event_threads),
        Unit::Micros.case("Event, 2 threads, free placement", 2, event_threads),
        Unit::Micros.case("Event, 2 tasks, current_thread", 1, || {
            event_tasks(current_thread())
        }),
        Unit::Micros.case("Event, 2 tasks, 2 workers", 2, || {
            event_tasks(multi_thread())
        }),
        Unit::Micros.case("Condition, 2 threads", 1, condition_threads),
        Unit::Micros.case("Condition, 2 tasks, current_thread", 1, || {
            condition_tasks(current_thread())
        }),
        Unit::Micros.case("Condition, 2 tasks in turn, current_thread", 1, || {
            condition_turns(current_thread())
        }),
    ]
}

/// What one side sets, and the other waits for and clears.
trait Flag: Send + Sync + 'static {
    fn set(&self);
    fn wait(&self);
}

trait AsyncFlag: Send + Sync + 'static {
    fn set(&self) -> impl Future<Output = ()> + Send;
    fn wait(&self) -> impl Future<Output = ()> + Send;
}

impl Flag for Event {
    fn set(&self) {
        self.set();
    }

    fn wait(&self) {
        self.wait();
        self.clear();
    }
}

impl AsyncFlag for Event {
    async fn set(&self) {
        self.set();
    }

    async fn wait(&self) {
        self.wait_async().await;
        self.clear();
    }
}

/// With our condition.
#[derive(Default)]
struct Conditioned {
    set: AtomicBool,
    changed: Condition,
}

const HELD: &str = "it is held";

impl Flag for Conditioned {
    fn set(&self) {
        let guard = self.changed.lock();
        self.set.store(true, Relaxed);
        guard.notify(1).expect(HELD);
    }

    fn wait(&self) {
        let mut guard = self.changed.lock();
        guard.wait_for(|| self.set.load(Relaxed)).expect(HELD);
        self.set.store(false, Relaxed);
    }
}

impl AsyncFlag for Conditioned {
    async fn set(&self) {
        let guard = self.changed.lock_async().await;
        self.set.store(true, Relaxed);
        guard.notify(1).expect(HELD);
    }

    async fn wait(&self) {
        let mut guard = self.changed.lock_async().await;
        let is_set = || self.set.load(Relaxed);
        guard.wait_for_async(is_set).await.expect(HELD);
        self.set.store(false, Relaxed);
    }
}

impl Flag for Word<Private> {
    fn set(&self) {
        Word::set(self);
    }

    fn wait(&self) {
        self.take();
    }
}

impl Flag for (Mutex<bool>, Condvar) {
    fn set(&self) {
        *self.0.lock().expect("no panic") = true;
        self.1.notify_one();
    }

    fn wait(&self) {
        let mut set = self.0.lock().expect("no panic");
        while !*set {
            set = self.1.wait(set).expect("no panic");
        }
        *set = false;
    }
}

impl Flag for (parking_lot::Mutex<bool>, parking_lot::Condvar) {
    fn set(&self) {
        *self.0.lock() = true;
        self.1.notify_one();
    }

    fn wait(&self) {
        let mut set = self.0.lock();
        self.1.wait_while(&mut set, |set| !*set);
        *set = false;
    }
}

/// With an event-listener.
#[derive(Default)]
struct Listened {
    set: AtomicBool,
    changed: event_listener::Event,
}

impl Listened {
    fn set(&self) {
        self.set.store(true, SeqCst);
        self.changed.notify(1);
    }

    /// What to wait for, unless it is set already.
    fn listen(&self) -> Option<event_listener::EventListener> {
        if self.set.swap(false, SeqCst) {
            return None;
        }
        let listener = self.changed.listen();
        (!self.set.swap(false, SeqCst)).then_some(listener)
    }
}

impl Flag for Listened {
    fn set(&self) {
        self.set();
    }

    fn wait(&self) {
        while let Some(listener) = self.listen() {
            event_listener::Listener::wait(listener);
        }
    }
}

impl AsyncFlag for Listened {
    async fn set(&self) {
        self.set();
    }

    async fn wait(&self) {
        while let Some(listener) = self.listen() {
            listener.await;
        }
    }
}

impl AsyncFlag for Notify {
    async fn set(&self) {
        self.notify_one();
    }

    fn wait(&self) -> impl Future<Output = ()> + Send {
        self.notified()
    }
}

/// What a condition is made of where there is none: a lock, and something to be told.
#[derive(Default)]
struct Built<L, N> {
    set: L,
    changed: N,
}

impl AsyncFlag for Built<tokio::sync::Mutex<bool>, Notify> {
    async fn set(&self) {
        let mut set = self.set.lock().await;
        *set = true;
        self.changed.notify_one();
    }

    async fn wait(&self) {
        let mut set = self.set.lock().await;
        while !*set {
            drop(set);
            // It keeps a notification for who comes later.
            self.changed.notified().await;
            set = self.set.lock().await;
        }
        *set = false;
    }
}

impl AsyncFlag for Built<async_lock::Mutex<bool>, event_listener::Event> {
    async fn set(&self) {
        let mut set = self.set.lock().await;
        *set = true;
        self.changed.notify(1);
    }

    async fn wait(&self) {
        let mut set = self.set.lock().await;
        while !*set {
            let listener = self.changed.listen();
            drop(set);
            listener.await;
            set = self.set.lock().await;
        }
        *set = false;
    }
}

/// This thread and another.
fn threads<F: Flag>(name: &'static str, new: fn() -> F) -> Contender {
    let (ping, pong) = (new(), new());
    contender(name, move || {
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..=TRIPS.get() {
                    ping.wait();
                    pong.set();
                }
            });
            let trip = || {
                ping.set();
                pong.wait();
            };
            trip(); // The other has started.
            micros(TRIPS.get(), trip)
        })
    })
}

fn tasks<F: AsyncFlag>(name: &'static str, runtime: &Arc<Runtime>, new: fn() -> F) -> Contender {
    let runtime = Arc::clone(runtime);
    let flags = Arc::new((new(), new()));
    contender(name, move || {
        let flags = Arc::clone(&flags);
        on(&runtime, async move {
            let theirs = Arc::clone(&flags);
            let other = tokio::spawn(async move {
                for _ in 0..TRIPS.get() {
                    theirs.0.wait().await;
                    theirs.1.set().await;
                }
            });
            let clock = Clock::start();
            for _ in 0..TRIPS.get() {
                flags.0.set().await;
                flags.1.wait().await;
            }
            let micros = clock.micros_each(TRIPS.get());
            other.await.expect("samples do not panic");
            micros
        })
    })
}

/// Two tasks, one condition that says whose turn it is, and one critical section each way.
fn turns(runtime: &Arc<Runtime>) -> Contender {
    async fn play((changed, turn): &(Condition, AtomicBool), mine: bool) {
        let mut guard = changed.lock_async().await;
        for _ in 0..TRIPS.get() {
            let is_mine = || turn.load(Relaxed) == mine;
            guard.wait_for_async(is_mine).await.expect(HELD);
            turn.store(!mine, Relaxed);
            guard.notify(1).expect(HELD);
        }
    }

    let runtime = Arc::clone(runtime);
    let game = Arc::new((Condition::new(), AtomicBool::new(false)));
    contender("ours", move || {
        let game = Arc::clone(&game);
        on(&runtime, async move {
            let theirs = Arc::clone(&game);
            let other = tokio::spawn(async move { play(&theirs, true).await });
            let clock = Clock::start();
            play(&game, false).await;
            other.await.expect("samples do not panic");
            clock.micros_each(TRIPS.get())
        })
    })
}

type StdFlag = (Mutex<bool>, Condvar);
type ParkingLotFlag = (parking_lot::Mutex<bool>, parking_lot::Condvar);

fn event_threads() -> Vec<Contender> {
    vec![
        threads::<Event>("ours", Default::default),
        threads::<StdFlag>("std Condvar", Default::default),
        threads::<ParkingLotFlag>("parking_lot Condvar", Default::default),
        threads::<Listened>("event-listener", Default::default),
        threads::<Word<Private>>("futex (limit)", Default::default),
    ]
}

fn event_tasks(runtime: Runtime) -> Vec<Contender> {
    let runtime = Arc::new(runtime);
    vec![
        tasks::<Event>("ours", &runtime, Default::default),
        tasks::<Notify>("tokio Notify", &runtime, Default::default),
        tasks::<Listened>("event-listener", &runtime, Default::default),
    ]
}

fn condition_threads() -> Vec<Contender> {
    vec![
        threads::<Conditioned>("ours", Default::default),
        threads::<StdFlag>("std Condvar", Default::default),
        threads::<ParkingLotFlag>("parking_lot Condvar", Default::default),
        threads::<Word<Private>>("futex (limit)", Default::default),
    ]
}

fn condition_tasks(runtime: Runtime) -> Vec<Contender> {
    let runtime = Arc::new(runtime);
    let ours = tasks::<Conditioned>("ours", &runtime, Default::default);
    iter::once(ours).chain(conditions(&runtime)).collect()
}

fn condition_turns(runtime: Runtime) -> Vec<Contender> {
    let runtime = Arc::new(runtime);
    let ours = turns(&runtime);
    iter::once(ours).chain(conditions(&runtime)).collect()
}

/// No peer has a condition for tasks.
fn conditions(runtime: &Arc<Runtime>) -> [Contender; 3] {
    type Tokio = Built<tokio::sync::Mutex<bool>, Notify>;
    type AsyncLock = Built<async_lock::Mutex<bool>, event_listener::Event>;
    [
        tasks::<Notify>("tokio Notify", runtime, Default::default),
        tasks::<Tokio>("tokio Mutex + Notify", runtime, Default::default),
        tasks::<AsyncLock>(
            "async-lock Mutex + event-listener",
            runtime,
            Default::default,
        ),
    ]
}
