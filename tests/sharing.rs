//! Primitives on their way between workers: always the same one, never a copy, and an error where
//! that cannot be.

mod common;
#[path = "common/primitives.rs"]
mod primitives;

use std::{cell::RefCell, collections::HashMap, fmt, process, thread};

use common::{Gate, GateKeeper, watched};
use freethreading::{
    Backend, Barrier, BoundedSemaphore, Condition, Effect, Event, IntoTask, Launcher, Lock, Part,
    Portable, Queue, RLock, Semaphore, SimpleQueue, TaskError, Worker, WorkerPoolExecutor, task,
};
use primitives::every_type;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};

freethreading::init_tests!();

/// A primitive with something to see.
trait Shared: Portable + Clone + Sync + fmt::Debug {
    fn fresh() -> Self;

    /// Once; it is never undone.
    fn change(&self);

    /// Whether it was changed, by another thread than the one that asks.
    fn changed(&self) -> bool;
}

impl Shared for Lock {
    fn fresh() -> Self {
        Lock::new()
    }

    fn change(&self) {
        self.acquire();
    }

    fn changed(&self) -> bool {
        self.locked()
    }
}

impl Shared for RLock {
    fn fresh() -> Self {
        RLock::new()
    }

    fn change(&self) {
        self.acquire();
        self.acquire();
    }

    fn changed(&self) -> bool {
        assert!(!self.is_owned());
        self.try_lock().is_none()
    }
}

impl Shared for Condition {
    fn fresh() -> Self {
        Condition::new()
    }

    fn change(&self) {
        self.acquire();
    }

    fn changed(&self) -> bool {
        self.try_lock().is_none()
    }
}

impl Shared for Semaphore {
    fn fresh() -> Self {
        Semaphore::new(0)
    }

    fn change(&self) {
        self.release().unwrap();
    }

    fn changed(&self) -> bool {
        self.try_permit().is_some()
    }
}

impl Shared for BoundedSemaphore {
    fn fresh() -> Self {
        BoundedSemaphore::new(1)
    }

    fn change(&self) {
        self.acquire();
    }

    fn changed(&self) -> bool {
        self.try_permit().is_none()
    }
}

impl Shared for Event {
    fn fresh() -> Self {
        Event::new()
    }

    fn change(&self) {
        self.set();
    }

    fn changed(&self) -> bool {
        self.is_set()
    }
}

impl Shared for Barrier {
    fn fresh() -> Self {
        Barrier::new(2).unwrap()
    }

    fn change(&self) {
        self.abort();
    }

    fn changed(&self) -> bool {
        self.broken()
    }
}

impl Shared for Queue<String> {
    fn fresh() -> Self {
        Queue::new(1)
    }

    fn change(&self) {
        self.put("changed".into()).unwrap();
    }

    fn changed(&self) -> bool {
        self.full()
    }
}

impl Shared for SimpleQueue<String> {
    fn fresh() -> Self {
        SimpleQueue::new()
    }

    fn change(&self) {
        self.put("changed".into()).unwrap();
    }

    fn changed(&self) -> bool {
        !self.empty()
    }
}

fn executor(max_workers: usize) -> WorkerPoolExecutor {
    WorkerPoolExecutor::new(max_workers).unwrap()
}

fn processes(max_workers: usize) -> WorkerPoolExecutor {
    Backend::Multiprocessing.scope(|| executor(max_workers))
}

/// Runs a task on a worker of the default backend, which ends afterwards; gives the result.
fn elsewhere<M, T: IntoTask<M>>(task: T) -> T::Output {
    let executor = executor(1);
    let result = executor.submit(task).result().unwrap();
    executor.shutdown(true, false);
    result
}

fn change<S: Shared>(object: S) {
    object.change();
}

fn changed<S: Shared>(object: S) -> bool {
    object.changed()
}

fn make<S: Shared>() -> S {
    S::fresh()
}

fn echo<S: Shared>(object: S) -> S {
    object
}

fn change_behind<S: Shared>(object: S, gate: Gate) -> S {
    gate.pass();
    object.change();
    object
}

/// Sees what the parent does, and does something for the parent to see.
fn exchange<S: Shared>(theirs: S, ours: S, gate: Gate) {
    assert!(!theirs.changed());
    gate.pass();
    assert!(theirs.changed());
    ours.change();
}

/// A change far below.
fn change_below<S: Shared>(object: S, levels: u32) {
    match levels {
        0 => object.change(),
        levels => elsewhere(task!(change_below::<S>(object, levels - 1))),
    }
}

/// A new one from far below.
fn make_below<S: Shared>(levels: u32) -> S {
    match levels {
        0 => S::fresh(),
        levels => elsewhere(task!(make_below::<S>(levels - 1))),
    }
}

/// One new primitive, after so many others.
fn make_many<S: Shared>(others: usize) -> (S, Vec<S>) {
    let others = (0..others).map(|_| S::fresh()).collect();
    (S::fresh(), others)
}

/// Takes a primitive from one queue, changes it, and puts a new one into another.
fn trade<S: Shared>(from: Queue<S>, to: SimpleQueue<S>) {
    from.get().unwrap().change();
    to.put(S::fresh()).unwrap();
}

#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
struct Mixture<S: Shared> {
    name: String,
    list: Vec<Option<S>>,
    pair: (u32, S),
    map: HashMap<u8, S>,
}

fn change_first<S: Shared>(mixture: Mixture<S>) -> Mixture<S> {
    assert_eq!(mixture.name, "mixture");
    mixture.list[1].as_ref().unwrap().change();
    mixture
}

/// Whether encoders that are not on the way to a worker refuse.
fn outside_encoders_refuse<S: Shared>(object: S) -> bool {
    let refused = bincode::serialize(&object).is_err();
    let text = serde_json::to_string(&object).map_err(|error| error.to_string());
    refused && text.is_err_and(|why| why.contains("worker process"))
}

/// Makes tests of the functions, for each type, on each backend: `NAME::TYPE::BACKEND`.
macro_rules! every_route {
    ($($route:ident)*) => {
        $(
            mod $route {
                use super::*;

                every_route!(@types $route lock: Lock, r_lock: RLock, condition: Condition,
                    semaphore: Semaphore, bounded_semaphore: BoundedSemaphore, event: Event,
                    barrier: Barrier, queue: Queue<String>, simple_queue: SimpleQueue<String>);
            }
        )*
    };
    (@types $route:ident $($name:ident: $type:ty),*) => {
        freethreading::test_backends! {
            $(
                #[test]
                fn $name() {
                    watched(super::super::$route::<$type>);
                }
            )*
        }
    };
}

every_route! {
    as_an_argument
    as_a_capture
    as_a_result
    in_an_initializer
    in_a_map
    in_structures
    down_and_up_a_tree
    through_queues
    while_nobody_else_has_it
    to_a_worker_that_was_there_before
    to_threads_and_processes_at_once
    not_out_of_the_program
}

fn as_an_argument<S: Shared>() {
    let gates = GateKeeper::new();
    let (theirs, ours) = (S::fresh(), S::fresh());
    let worker = Worker::new(task!(exchange::<S>(
        theirs.clone(),
        ours.clone(),
        gates.gate()
    )));
    worker.start().unwrap();
    gates.wait_for(1);
    assert!(!ours.changed());
    theirs.change();
    gates.open();
    worker.join().unwrap();
    assert!(ours.changed());
    assert!(!thread::spawn(|| S::fresh().changed()).join().unwrap());
}

fn as_a_capture<S: Shared>() {
    let (object, other) = (S::fresh(), 5);
    let captured = object.clone();
    let sum = elsewhere(task!(|captured, other| {
        captured.change();
        other + 1
    }));
    assert_eq!(sum, 6);
    assert!(object.changed());
}

fn as_a_result<S: Shared>() {
    // Its maker is gone when it is used.
    let object: S = elsewhere(make::<S>);
    assert!(!object.changed());
    elsewhere(task!(change::<S>(object.clone())));
    assert!(object.changed());
    // What comes back is what was sent.
    let object = S::fresh();
    let back = elsewhere(task!(echo::<S>(object.clone())));
    elsewhere(task!(change::<S>(back)));
    assert!(object.changed());
}

fn in_an_initializer<S: Shared>() {
    let object = S::fresh();
    let executor = WorkerPoolExecutor::builder()
        .max_workers(1)
        .initializer(task!(change::<S>(object.clone())))
        .build()
        .unwrap();
    assert!(!object.changed());
    executor.submit(|| ()).result().unwrap();
    assert!(object.changed());
}

fn in_a_map<S: Shared>() {
    let objects: Vec<S> = (0..20).map(|_| S::fresh()).collect();
    let executor = executor(2);
    let echoes: Result<Vec<S>, _> = executor
        .chunksize(3)
        .map(echo::<S>, objects.clone())
        .collect();
    for echo in echoes.unwrap() {
        executor.submit(task!(change::<S>(echo))).result().unwrap();
    }
    assert!(objects.iter().all(S::changed));
}

fn in_structures<S: Shared>() {
    let objects: Vec<S> = (0..3).map(|_| S::fresh()).collect();
    let mixture = Mixture {
        name: "mixture".into(),
        // The same one twice is one.
        list: vec![None, Some(objects[0].clone()), Some(objects[1].clone())],
        pair: (7, objects[0].clone()),
        map: HashMap::from([(1, objects[2].clone()), (2, objects[0].clone())]),
    };
    let back = elsewhere(task!(change_first::<S>(mixture)));
    assert!(objects[0].changed() && back.pair.1.changed() && back.map[&2].changed());
    assert!(!back.map[&1].changed() && !back.list[2].as_ref().unwrap().changed());
    elsewhere(task!(change::<S>(back.map[&1].clone())));
    assert!(objects[2].changed());
}

fn down_and_up_a_tree<S: Shared>() {
    for levels in 1..=2 {
        let object = S::fresh();
        elsewhere(task!(change_below::<S>(object.clone(), levels)));
        assert!(object.changed());
        let object: S = elsewhere(task!(make_below::<S>(levels)));
        assert!(!object.changed());
        elsewhere(task!(change_below::<S>(object.clone(), levels)));
        assert!(object.changed());
    }
}

fn through_queues<S: Shared>() {
    let (to, from) = (Queue::new(0), SimpleQueue::new());
    let object = S::fresh();
    // One is there before the queue is shared.
    to.put(object.clone()).unwrap();
    elsewhere(task!(trade::<S>(to.clone(), from.clone())));
    assert!(object.changed());
    let theirs = from.get().unwrap();
    assert!(!theirs.changed());
    // And one that nobody else has: the queue keeps it.
    to.put(theirs).unwrap();
    elsewhere(task!(trade::<S>(to.clone(), from.clone())));
    assert!(to.empty());
    // The queue goes with what is in it.
    to.put(from.get().unwrap()).unwrap();
    drop((to, from));
    let queue: Queue<S> = Queue::new(0);
    queue.put(object).unwrap();
    let theirs = queue.clone();
    elsewhere(task!(|theirs| drop(theirs)));
    assert!(queue.get().unwrap().changed());
}

fn while_nobody_else_has_it<S: Shared>() {
    let gates = GateKeeper::new();
    let executor = executor(1);
    let object = S::fresh();
    let held = executor.submit(task!(change_behind::<S>(S::fresh(), gates.gate())));
    gates.wait_for(1);
    let sent = executor.submit(task!(change_behind::<S>(object, gates.gate())));
    // Others, which must not get its place.
    let others: Vec<S> = (0..100).map(|_| S::fresh()).collect();
    gates.open();
    held.result().unwrap();
    let back = sent.result().unwrap();
    assert!(elsewhere(task!(changed::<S>(back.clone()))));
    assert!(!others.iter().any(S::changed));
}

fn to_a_worker_that_was_there_before<S: Shared>() {
    let executor = executor(1);
    executor.submit(|| ()).result().unwrap();
    // So many that the memory for them grows.
    let (object, others): (S, _) = make_many(2000);
    executor
        .submit(task!(change::<S>(object.clone())))
        .result()
        .unwrap();
    assert!(object.changed());
    let (theirs, more): (S, Vec<S>) = executor
        .submit(task!(make_many::<S>(2000)))
        .result()
        .unwrap();
    assert!(!theirs.changed());
    executor
        .submit(task!(change::<S>(theirs.clone())))
        .result()
        .unwrap();
    assert!(theirs.changed());
    assert!(!others.iter().chain(&more).any(S::changed));
}

fn to_threads_and_processes_at_once<S: Shared>() {
    for (first, second) in [
        (Backend::Threading, Backend::Multiprocessing),
        (Backend::Multiprocessing, Backend::Threading),
    ] {
        let object = S::fresh();
        first.scope(|| elsewhere(task!(change::<S>(object.clone()))));
        assert!(second.scope(|| elsewhere(task!(changed::<S>(object.clone())))));
    }
}

fn not_out_of_the_program<S: Shared>() {
    let object = S::fresh();
    assert!(outside_encoders_refuse(object.clone()));
    // Nor within a task, where a value is only a value.
    assert!(elsewhere(task!(outside_encoders_refuse::<S>(
        object.clone()
    ))));
    assert!(!thread::scope(|scope| scope
        .spawn(|| object.changed())
        .join()
        .unwrap()));
    elsewhere(task!(change::<S>(object.clone())));
    assert!(object.changed());
}

/// What a primitive looks like on its way: taken when it is encoded for a worker.
struct Photographed<S>(S);

thread_local! {
    static PHOTOGRAPH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl<S: Serialize> Serialize for Photographed<S> {
    fn serialize<Z: Serializer>(&self, serializer: Z) -> Result<Z::Ok, Z::Error> {
        PHOTOGRAPH.set(bincode::serialize(&self.0).unwrap());
        self.0.serialize(serializer)
    }
}

impl<'de, S: Deserialize<'de>> Deserialize<'de> for Photographed<S> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        S::deserialize(deserializer).map(Photographed)
    }
}

fn drop_photographed<S: Shared>(_: Photographed<S>) {}

fn photograph<S: Shared>(object: &S) -> Vec<u8> {
    let photographed = Photographed(object.clone());
    let sent = processes(1).submit(task!(drop_photographed::<S>(photographed)));
    sent.result().unwrap();
    PHOTOGRAPH.take()
}

fn decodes<S: Shared>(bytes: &[u8]) -> bool {
    bincode::deserialize::<S>(bytes).is_ok()
}

fn decodes_there<S: Shared>(bytes: Vec<u8>) -> bool {
    decodes::<S>(&bytes)
}

/// Does what one may to a primitive that came of nowhere.
fn use_it<S: DeserializeOwned + fmt::Debug>(bytes: &[u8]) {
    if let Ok(object) = bincode::deserialize::<S>(bytes) {
        assert!(!format!("{object:?}").is_empty());
    }
}

every_type! {
    for [
        lock: Lock,
        r_lock: RLock,
        condition: Condition,
        semaphore: Semaphore,
        bounded_semaphore: BoundedSemaphore,
        event: Event,
        barrier: Barrier,
        queue: Queue<String>,
        simple_queue: SimpleQueue<String>,
    ]

    fn what_is_gone_cannot_be_decoded<S: Shared>() {
        let object = S::fresh();
        let bytes = photograph(&object);
        drop(object);
        assert!(!decodes::<S>(&bytes));
        // Nor when there is another one in its place.
        let others: Vec<S> = (0..100).map(|_| S::fresh()).collect();
        assert!(!decodes::<S>(&bytes));
        assert!(!processes(1).submit(task!(decodes_there::<S>(bytes))).result().unwrap());
        drop(others);
    }

    fn what_is_damaged_is_never_followed<S: Shared>() {
        let object = S::fresh();
        let bytes = photograph(&object);
        for len in 0..bytes.len() {
            assert!(!decodes::<S>(&bytes[..len]));
        }
        for bit in 0..8 * bytes.len() {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            use_it::<S>(&damaged);
        }
        let mut random = common::Random::new();
        for _ in 0..2000 {
            let mut damaged = bytes.clone();
            for _ in 0..1 + random.below(4) {
                let len = damaged.len();
                damaged[random.below(len)] = random.below(256) as u8;
            }
            use_it::<S>(&damaged);
        }
        assert!(!object.changed());
        thread::scope(|scope| {
            scope.spawn(|| object.change());
        });
        assert!(object.changed());
    }
}

/// Calls a generic function for each type.
macro_rules! for_every_type {
    ($function:ident($($arg:expr),*)) => {
        $function::<Lock>($($arg),*);
        $function::<RLock>($($arg),*);
        $function::<Condition>($($arg),*);
        $function::<Semaphore>($($arg),*);
        $function::<BoundedSemaphore>($($arg),*);
        $function::<Event>($($arg),*);
        $function::<Barrier>($($arg),*);
        $function::<Queue<String>>($($arg),*);
        $function::<SimpleQueue<String>>($($arg),*);
    };
}

#[test]
fn another_program_cannot_decode_them() {
    fn decodes_among_others<S: Shared>(bytes: Vec<u8>) -> bool {
        // Whatever number it has, there is one of the same kind with that number here.
        let _others: Vec<S> = (0..5000).map(|_| S::fresh()).collect();
        decodes::<S>(&bytes)
    }
    fn refuses<S: Shared>(executor: &WorkerPoolExecutor) {
        // The last of many is most probably the first with its number.
        let (object, _others): (S, _) = make_many(1000);
        let bytes = photograph(&object);
        assert!(decodes::<S>(&bytes));
        let there = executor.submit(task!(decodes_among_others::<S>(bytes)));
        assert!(!there.result().unwrap());
    }
    watched(|| {
        let executor = launched();
        for_every_type!(refuses(&executor));
    });
}

#[test]
fn a_launched_worker_cannot_have_them() {
    fn cannot_have<S: Shared>(executor: &WorkerPoolExecutor) {
        let object = S::fresh();
        for _ in 0..3 {
            let error = executor
                .submit(task!(change::<S>(object.clone())))
                .result()
                .unwrap_err();
            let TaskError::Encode(why) = &error else {
                panic!("{error}")
            };
            assert_eq!(
                (why.part(), error.effect()),
                (Part::Argument, Effect::DidNotRun)
            );
            let error = executor.submit(make::<S>).result().unwrap_err();
            let TaskError::Encode(why) = &error else {
                panic!("{error}")
            };
            assert_eq!((why.part(), error.effect()), (Part::Result, Effect::Ran));
            // The worker is none the worse for it.
            assert_eq!(executor.submit(|| 2 + 2).result().unwrap(), 4);
        }
        assert!(!object.changed());
    }
    watched(|| {
        let executor = launched();
        for_every_type!(cannot_have(&executor));
    });
}

#[test]
fn an_initializer_of_launched_workers_cannot_have_them() {
    watched(|| {
        let object = Event::new();
        let executor = launcher()
            .initializer(task!(change::<Event>(object.clone())))
            .build();
        let refused = match executor {
            Ok(executor) => executor.submit(|| ()).result().unwrap_err().to_string(),
            Err(error) => error.to_string(),
        };
        assert!(refused.contains("encode"), "{refused}");
        assert!(!object.is_set());
    });
}

#[test]
fn a_launched_worker_has_its_own() {
    fn shares<S: Shared>(executor: &WorkerPoolExecutor) {
        assert!(executor.submit(shares_below::<S>).result().unwrap());
    }
    watched(|| {
        let executor = launched();
        for_every_type!(shares(&executor));
    });
}

fn shares_below<S: Shared>() -> bool {
    let object = S::fresh();
    let executor = processes(2);
    executor
        .submit(task!(change::<S>(object.clone())))
        .result()
        .unwrap();
    object.changed()
}

/// An executor whose workers may be anywhere, for all that this program knows.
fn launched() -> WorkerPoolExecutor {
    launcher().build().unwrap()
}

fn launcher() -> freethreading::WorkerPoolExecutorBuilder {
    WorkerPoolExecutor::builder()
        .max_workers(1)
        .backend(Backend::Multiprocessing)
        .launcher(Launcher::new("env").arg(std::env::current_exe().unwrap()))
}

#[test]
fn one_kind_cannot_be_decoded_as_another() {
    watched(|| {
        let lock = Lock::new();
        let bytes = photograph(&lock);
        assert!(decodes::<Lock>(&bytes));
        assert!(!decodes::<RLock>(&bytes));
        assert!(!decodes::<Semaphore>(&bytes));
        assert!(!decodes::<BoundedSemaphore>(&bytes));
        assert!(!decodes::<Event>(&bytes));
        assert!(!decodes::<Condition>(&bytes));
        assert!(!decodes::<Barrier>(&bytes));
        assert!(!decodes::<Queue<String>>(&bytes));
        assert!(!decodes::<SimpleQueue<String>>(&bytes));
        let semaphore = photograph(&Semaphore::new(1));
        assert!(!decodes::<BoundedSemaphore>(&semaphore));
        let r_lock = RLock::new();
        let r_lock_bytes = photograph(&r_lock);
        assert!(!decodes::<Lock>(&r_lock_bytes));
        assert!(lock.try_acquire());
    });
}

/// An argument that cannot be decoded, behind a primitive that can.
#[derive(Serialize)]
struct Indecipherable;

impl<'de> Deserialize<'de> for Indecipherable {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom("nobody reads this"))
    }
}

fn never(_: Lock, _: Indecipherable) {}

#[test]
fn one_behind_which_decoding_fails_goes_on() {
    watched(|| {
        let lock = Lock::new();
        let executor = processes(1);
        for _ in 0..100 {
            let error = executor.submit(task!(never(lock.clone(), Indecipherable)));
            let error = error.result().unwrap_err();
            assert!(matches!(error, TaskError::Decode(_)), "{error}");
        }
        executor
            .submit(task!(change::<Lock>(lock.clone())))
            .result()
            .unwrap();
        assert!(lock.locked());
    });
}

/// Through many hands, each of which has it for a moment only.
#[test]
fn one_may_be_passed_from_hand_to_hand() {
    watched(|| {
        let executor = processes(3);
        let mut semaphore = Semaphore::new(0);
        for n in 0..50 {
            semaphore = executor
                .submit(task!(change_and_give::<Semaphore>(semaphore)))
                .result()
                .unwrap();
            if n % 10 == 9 {
                (0..10).for_each(|_| assert!(semaphore.try_acquire()));
            }
        }
        assert!(!semaphore.try_acquire());
    });
}

fn change_and_give<S: Shared>(object: S) -> S {
    object.change();
    object
}

/// A table of many, all of which go at once.
#[test]
fn many_go_together() {
    watched(|| {
        let locks: Vec<Lock> = (0..3000).map(|_| Lock::new()).collect();
        let executor = processes(2);
        let every_third = locks.clone();
        let back = executor.submit(task!(|every_third| {
            every_third.iter().step_by(3).for_each(Lock::acquire);
            every_third
        }));
        let back = back.result().unwrap();
        for (n, (lock, back)) in locks.iter().zip(&back).enumerate() {
            assert_eq!((lock.locked(), back.locked()), (n % 3 == 0, n % 3 == 0));
        }
    });
}

/// An owner is a thread or task of one process: not its namesake in a child that was started meanwhile.
#[test]
fn a_child_does_not_inherit_what_its_parent_owns() {
    fn has_nothing(lock: RLock, condition: Condition) -> u32 {
        assert!(!lock.is_owned() && !lock.try_acquire() && lock.release().is_err());
        assert!(!condition.try_acquire() && condition.notify_all().is_err());
        process::id()
    }
    watched(|| {
        let (lock, condition) = (RLock::new(), Condition::new());
        lock.acquire();
        condition.acquire();
        Backend::Multiprocessing.scope(|| {
            let child = elsewhere(task!(has_nothing(lock.clone(), condition.clone())));
            assert_ne!(child, process::id());
        });
        assert!(lock.is_owned());
        lock.release().unwrap();
        condition.release().unwrap();
    });
}
