//! Processes that are killed while they put, get, join, or wait at a barrier or a condition: nothing is
//! lost but what the dead one had, nothing is torn, nothing comes twice, and nobody waits for the dead.

mod common;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fs, mem,
    os::unix::fs::MetadataExt,
    sync::{
        Barrier as ThreadBarrier, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use common::{
    Random, Scratch, Sign, eventually, is_all, signal, watched,
    ways::{Hand, LONG, Way, conditions, report, spin_until, wait_asleep},
};
use freethreading::{
    Backend, Barrier, BarrierError, Condition, Error, Event, GetError, IntoTask, PutError, Queue,
    SimpleQueue, TaskError, Worker, task,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, ser::SerializeTuple};
use serde_bytes::ByteBuf;

freethreading::init_tests!();

/// Long enough for whoever is wrongly awake to show it.
const NAP: Duration = Duration::from_millis(20);

/// A worker process. The program does not wait for it.
fn process<M>(task: impl IntoTask<M>) -> Worker {
    let worker = Worker::new(task)
        .backend(Backend::Multiprocessing)
        .with_daemon(true);
    worker.start().unwrap();
    worker
}

fn pid(worker: &Worker) -> u32 {
    worker.ident().unwrap().try_into().unwrap()
}

/// Kills a worker that does not end by itself.
#[track_caller]
fn kill(worker: &Worker) {
    signal(pid(worker), libc::SIGKILL);
    match worker.join() {
        Err(Error::Task(TaskError::WorkerDied(died))) => {
            assert_eq!(died.signal(), Some(libc::SIGKILL));
        }
        other => panic!("{other:?}"),
    }
}

/// Stops a worker, which is as if it was slow; it can still be killed.
fn stop(worker: &Worker) {
    common::stop(pid(worker));
}

/// Waits for a worker that has to come to a good end.
#[track_caller]
fn join(worker: &Worker) {
    worker.join().unwrap();
}

fn for_ever() -> ! {
    loop {
        thread::park();
    }
}

// Killed while it waits.

fn report_and_get(way: Way, queue: Queue<u32>, sign: Sign, got: SimpleQueue<u32>) {
    report(&sign);
    got.put(way.get(&queue).unwrap()).unwrap();
}

#[test]
fn who_is_killed_in_a_get_takes_nothing() {
    watched(|| {
        for way in Way::ALL {
            let scratch = Scratch::new();
            let (queue, got) = (Queue::new(0), SimpleQueue::new());
            let sign = |n: usize| scratch.sign(&format!("getting-{n}"));
            let get = |n: usize, way: Way| {
                process(task!(report_and_get(
                    way,
                    queue.clone(),
                    sign(n),
                    got.clone()
                )))
            };
            let (victim, survivor) = (get(0, way), get(1, Way::Blocking));
            (0..2).for_each(|n| wait_asleep(&sign(n)));
            kill(&victim);
            queue.put(1).unwrap();
            assert_eq!(got.get().unwrap(), 1);
            join(&survivor);
            // Without anybody else who waits.
            let victim = get(2, way);
            wait_asleep(&sign(2));
            kill(&victim);
            queue.put(2).unwrap();
            assert_eq!(queue.get_timeout(LONG).unwrap(), 2);
            assert!(queue.empty() && got.empty());
        }
    });
}

#[test]
fn the_item_that_woke_a_killed_process_goes_to_another() {
    watched(|| {
        for (way, live) in Way::ALL
            .into_iter()
            .zip([Way::Async, Way::Blocking].repeat(2))
        {
            let scratch = Scratch::new();
            let (queue, got) = (Queue::new(0), SimpleQueue::new());
            let sign = |n: usize| scratch.sign(&format!("getting-{n}"));
            let get = |n: usize, way: Way| {
                let worker = process(task!(report_and_get(
                    way,
                    queue.clone(),
                    sign(n),
                    got.clone()
                )));
                wait_asleep(&sign(n));
                worker
            };
            let (victim, survivor) = (get(0, way), get(1, live));
            // It has waited for longer, so the item is announced to it, but it does not come for it.
            stop(&victim);
            queue.put(1).unwrap();
            kill(&victim);
            assert_eq!(got.get_timeout(LONG).unwrap(), 1);
            join(&survivor);
            assert!(queue.empty() && got.empty());
        }
    });
}

fn report_and_put(way: Way, queue: Queue<u32>, sign: Sign, item: u32) {
    report(&sign);
    way.put(&queue, item).unwrap();
}

#[test]
fn who_is_killed_in_a_put_has_put_nothing() {
    watched(|| {
        for way in Way::ALL {
            for stopped in [false, true] {
                let scratch = Scratch::new();
                let queue = Queue::new(1);
                let sign = |item: u32| scratch.sign(&format!("putting-{item}"));
                let put = |item: u32, way: Way| {
                    let worker =
                        process(task!(report_and_put(way, queue.clone(), sign(item), item)));
                    wait_asleep(&sign(item));
                    worker
                };
                queue.put(0).unwrap();
                let (victim, survivor) = (put(1, way), put(2, Way::Blocking));
                if stopped {
                    // The room is announced to it, but it does not come for it.
                    stop(&victim);
                    assert_eq!(queue.get().unwrap(), 0);
                    kill(&victim);
                } else {
                    kill(&victim);
                    assert_eq!(queue.qsize(), 1);
                    assert_eq!(queue.get().unwrap(), 0);
                }
                assert_eq!(queue.get_timeout(LONG).unwrap(), 2);
                join(&survivor);
                // The limit is as it was, and so is the count of unfinished items.
                queue.put_nowait(3).unwrap();
                assert!(matches!(queue.put_nowait(4), Err(PutError::Full(4))));
                assert_eq!(queue.get().unwrap(), 3);
                (0..3).for_each(|_| queue.task_done().unwrap());
                queue.join();
                assert!(queue.task_done().is_err());
            }
        }
    });
}

/// The moments in which who was woken has not yet got what it was woken for.
#[test]
fn who_is_killed_as_it_wakes_up_leaves_nobody_asleep() {
    fn report_and_get(way: Way, queue: Queue<u32>, sign: Sign) {
        report(&sign);
        way.get(&queue).unwrap();
        for_ever();
    }
    fn report_and_put(way: Way, queue: Queue<u32>, sign: Sign) {
        report(&sign);
        way.put(&queue, 1).unwrap();
        for_ever();
    }
    watched(|| {
        let mut random = Random::new();
        for round in 0..50 {
            let scratch = Scratch::new();
            let (queue, room) = (Queue::new(1), Queue::new(1));
            room.put(0).unwrap();
            let get = |name: &str, way: Way| {
                let sign = scratch.sign(name);
                let task = task!(report_and_get(way, queue.clone(), sign.clone()));
                let worker = process(task);
                wait_asleep(&sign);
                worker
            };
            let put = |name: &str, way: Way| {
                let sign = scratch.sign(name);
                let task = task!(report_and_put(way, room.clone(), sign.clone()));
                let worker = process(task);
                wait_asleep(&sign);
                worker
            };
            let way = Way::ALL[round % 4];
            let victims = [get("getting", way), put("putting", way)];
            let survivors = [get("also-getting", way), put("also-putting", way)];
            queue.put(1).unwrap();
            spin_until(Instant::now() + Duration::from_micros(random.below(60) as u64));
            kill(&victims[0]);
            room.get().unwrap();
            spin_until(Instant::now() + Duration::from_micros(random.below(60) as u64));
            kill(&victims[1]);
            // The dead one had the item, or the other one gets it.
            eventually("the item is taken", || queue.empty());
            eventually("the room is taken", || room.full());
            survivors.iter().for_each(kill);
        }
    });
}

#[test]
fn who_is_killed_in_a_join_stops_no_other() {
    fn report_and_join(way: Way, queue: Queue<u32>, sign: Sign) {
        report(&sign);
        way.join(&queue);
    }
    watched(|| {
        for way in Way::ALL {
            let scratch = Scratch::new();
            let queue = Queue::new(0);
            queue.put(1).unwrap();
            let join = |name: &str, way: Way| {
                let sign = scratch.sign(name);
                let worker = process(task!(report_and_join(way, queue.clone(), sign.clone())));
                wait_asleep(&sign);
                worker
            };
            let (victim, survivor) = (join("victim", way), join("survivor", way));
            kill(&victim);
            queue.get().unwrap();
            queue.task_done().unwrap();
            self::join(&survivor);
            queue.join();
        }
    });
}

#[test]
fn what_a_killed_process_had_is_for_others_to_finish() {
    fn get_and_keep(queue: Queue<u32>, sign: Sign) {
        sign.tell(queue.get().unwrap());
        for_ever();
    }
    watched(|| {
        let scratch = Scratch::new();
        let (queue, sign) = (Queue::new(2), scratch.sign("got"));
        (0..2).for_each(|n| queue.put(n).unwrap());
        let victim = process(task!(get_and_keep(queue.clone(), sign.clone())));
        assert_eq!(sign.hear(), "0");
        kill(&victim);
        assert_eq!(queue.qsize(), 1);
        assert_eq!(queue.get().unwrap(), 1);
        queue.task_done().unwrap();
        assert!(!queue.join_timeout(NAP));
        queue.task_done().unwrap();
        queue.join();
    });
}

#[test]
fn who_is_killed_at_a_barrier_breaks_it() {
    fn wait(way: Way, barrier: Barrier, ends: SimpleQueue<Option<usize>>) {
        match way.pass(&barrier) {
            Ok(index) => ends.put(Some(index)).unwrap(),
            Err(BarrierError::Broken) => ends.put(None).unwrap(),
            Err(error) => panic!("{error}"),
        }
    }
    watched(|| {
        let waiters = |barrier: &Barrier, number: usize| {
            eventually("so many wait", || barrier.n_waiting() == number);
        };
        for (way, live) in Way::ALL
            .into_iter()
            .zip([Way::Async, Way::Blocking].repeat(2))
        {
            let (barrier, ends) = (Barrier::new(4).unwrap(), SimpleQueue::new());
            let wait = |way: Way| process(task!(wait(way, barrier.clone(), ends.clone())));
            let victim = wait(way);
            waiters(&barrier, 1);
            let survivor = wait(live);
            waiters(&barrier, 2);
            let mut here = Hand::waiting(barrier.wait_async());
            kill(&victim);
            join(&survivor);
            assert_eq!(ends.get().unwrap(), None);
            here.wait_woken();
            assert!(matches!(here.ready(), Err(BarrierError::Broken)));
            assert!(barrier.broken());
            assert_eq!(barrier.n_waiting(), 0);
            assert!(matches!(
                barrier.wait_timeout(LONG),
                Err(BarrierError::Broken)
            ));
            // The dead one is not counted any more.
            barrier.reset();
            let others = [way, live, way].map(wait);
            waiters(&barrier, 3);
            let mut indices = vec![Some(barrier.wait_timeout(LONG).unwrap())];
            indices.extend((0..3).map(|_| ends.get().unwrap()));
            indices.sort();
            assert_eq!(indices, [Some(0), Some(1), Some(2), Some(3)]);
            others.iter().for_each(join);
            // Nor does the end of one that had passed break anything.
            assert!(!barrier.broken());
        }
    });
}

#[test]
fn who_is_killed_in_the_action_breaks_the_barrier() {
    fn act(sign: Sign) {
        sign.give();
        for_ever();
    }
    fn wait(barrier: Barrier) {
        drop(barrier.wait());
    }
    watched(|| {
        let scratch = Scratch::new();
        let acting = scratch.sign("acting");
        let barrier = Barrier::new(2).unwrap().action(task!(act(acting.clone())));
        let mut here = Hand::waiting(barrier.wait_async());
        let victim = process(task!(wait(barrier.clone())));
        acting.wait();
        assert!(here.poll().is_pending());
        kill(&victim);
        here.wait_woken();
        assert!(matches!(here.ready(), Err(BarrierError::Broken)));
        barrier.reset();
        assert!(!barrier.broken());
        assert_eq!(barrier.n_waiting(), 0);
    });
}

#[test]
fn who_is_killed_when_all_have_come_leaves_the_next_round_alone() {
    fn wait(way: Way, barrier: Barrier) {
        way.pass(&barrier).unwrap();
        for_ever();
    }
    watched(|| {
        for way in Way::ALL {
            let barrier = Barrier::new(2).unwrap();
            let victim = process(task!(wait(way, barrier.clone())));
            eventually("it waits", || barrier.n_waiting() == 1);
            stop(&victim);
            // It is free to go, and does not.
            assert_eq!(barrier.wait_timeout(LONG).unwrap(), 1);
            let mut first = Hand::waiting(barrier.wait_async());
            kill(&victim);
            match barrier.wait_timeout(LONG) {
                Ok(index) => assert_eq!((index, first.ready().unwrap()), (1, 0)),
                Err(error) => panic!("{error}"),
            }
        }
    });
}

fn wait_at_condition(way: Way, condition: Condition, waiting: Sign, woken: Sign) {
    let guard = condition.lock();
    waiting.give();
    way.wait(&condition).unwrap();
    drop(guard);
    woken.give();
}

#[test]
fn who_is_killed_at_a_condition_takes_no_notification() {
    watched(|| {
        for condition in conditions() {
            for (way, live) in Way::ALL
                .into_iter()
                .zip([Way::Async, Way::Blocking].repeat(2))
            {
                for stopped in [false, true] {
                    let scratch = Scratch::new();
                    let woken = scratch.sign("woken");
                    let wait = |name: &str, way: Way| {
                        let (condition, sign) = (condition.clone(), scratch.sign(name));
                        let task = task!(wait_at_condition(
                            way,
                            condition.clone(),
                            sign.clone(),
                            woken.clone()
                        ));
                        let worker = process(task);
                        sign.wait();
                        drop(condition.lock());
                        worker
                    };
                    let (victim, survivor) = (wait("victim", way), wait("survivor", live));
                    if stopped {
                        // It is chosen, but it does not come for the lock.
                        stop(&victim);
                        condition.lock().notify(1).unwrap();
                        kill(&victim);
                    } else {
                        kill(&victim);
                        condition.lock().notify(1).unwrap();
                    }
                    woken.wait();
                    join(&survivor);
                    assert!(condition.try_acquire());
                    // Nobody waits any more.
                    condition.notify_all().unwrap();
                    assert!(!condition.wait_timeout(Duration::ZERO).unwrap());
                    condition.release().unwrap();
                }
            }
        }
    });
}

#[test]
fn who_is_killed_with_the_lock_of_a_condition_leaves_it_to_others() {
    fn hold(condition: Condition, held: Sign) {
        let mut guard = condition.lock();
        let predicate = || {
            held.give();
            for_ever()
        };
        guard.wait_for(predicate).unwrap();
    }
    watched(|| {
        for condition in conditions() {
            for way in Way::ALL {
                let scratch = Scratch::new();
                let (held, waiting, woken) = (
                    scratch.sign("held"),
                    scratch.sign("waiting"),
                    scratch.sign("woken"),
                );
                let survivor = process(task!(wait_at_condition(
                    way,
                    condition.clone(),
                    waiting.clone(),
                    woken.clone()
                )));
                waiting.wait();
                let victim = process(task!(hold(condition.clone(), held.clone())));
                held.wait();
                assert!(!condition.try_acquire());
                kill(&victim);
                assert!(condition.acquire_timeout(LONG));
                condition.notify(1).unwrap();
                condition.release().unwrap();
                join(&survivor);
                assert!(woken.is_given());
            }
        }
    });
}

// Killed in the middle of an item.

/// Goes on its way, or comes from it, only in part: the process that encodes or decodes it stays there
/// if it has a sign.
struct Halting {
    text: String,
    to_go: Option<Sign>,
    to_arrive: bool,
}

thread_local! {
    /// Where this thread tells that it halts, when it decodes.
    static ARRIVING: RefCell<Option<Sign>> = const { RefCell::new(None) };
}

impl Halting {
    fn new(text: &str) -> Halting {
        Halting {
            text: text.into(),
            to_go: None,
            to_arrive: false,
        }
    }
}

impl Serialize for Halting {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut parts = serializer.serialize_tuple(3)?;
        parts.serialize_element(&ByteBuf::from(vec![1; 300 << 10]))?;
        if let Some(sign) = &self.to_go {
            sign.give();
            for_ever();
        }
        parts.serialize_element(&self.text)?;
        parts.serialize_element(&self.to_arrive)?;
        parts.end()
    }
}

impl<'de> Deserialize<'de> for Halting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (bytes, text, to_arrive) = <(ByteBuf, String, bool)>::deserialize(deserializer)?;
        assert!(bytes.len() == 300 << 10 && is_all(&bytes, 1));
        if to_arrive && let Some(sign) = ARRIVING.take() {
            sign.give();
            for_ever();
        }
        Ok(Halting {
            text,
            to_go: None,
            to_arrive,
        })
    }
}

#[test]
fn a_put_that_stays_half_way_stops_nobody_and_leaves_nothing() {
    fn put_in_part(way: Way, queue: Queue<Halting>, sign: Sign) {
        let item = Halting {
            to_go: Some(sign),
            ..Halting::new("never")
        };
        way.put(&queue, item).unwrap_or_else(|_| panic!("no put"));
    }
    fn exchange(queue: &Queue<Halting>) {
        for text in ["one", "two"] {
            queue
                .put_timeout(Halting::new(text), LONG)
                .unwrap_or_else(|_| panic!("no put"));
        }
        for text in ["one", "two"] {
            assert_eq!(
                queue
                    .get_timeout(LONG)
                    .unwrap_or_else(|e| panic!("{e}"))
                    .text,
                text
            );
        }
        assert!(matches!(queue.get_nowait(), Err(GetError::Empty)));
    }
    watched(|| {
        for way in Way::ALL {
            for limit in [0, 3] {
                let scratch = Scratch::new();
                let (queue, halted) = (Queue::new(limit), scratch.sign("halted"));
                let victim = process(task!(put_in_part(way, queue.clone(), halted.clone())));
                halted.wait();
                exchange(&queue);
                kill(&victim);
                exchange(&queue);
                // The room that it may have taken is free again.
                if limit > 0 {
                    for _ in 0..limit {
                        let put = queue.put_timeout(Halting::new("fill"), LONG);
                        put.unwrap_or_else(|_| panic!("no put"));
                    }
                    assert!(queue.full());
                }
            }
        }
    });
}

#[test]
fn a_get_that_stays_half_way_stops_nobody() {
    fn get_in_part(way: Way, queue: Queue<Halting>, sign: Sign) {
        ARRIVING.set(Some(sign));
        drop(way.get(&queue));
    }
    watched(|| {
        for way in Way::ALL {
            let scratch = Scratch::new();
            let (queue, halted) = (Queue::new(2), scratch.sign("halted"));
            let put = |text: &str, to_arrive: bool| {
                let item = Halting {
                    to_arrive,
                    ..Halting::new(text)
                };
                queue
                    .put_timeout(item, LONG)
                    .unwrap_or_else(|_| panic!("no put"));
            };
            let get = || {
                queue
                    .get_timeout(LONG)
                    .unwrap_or_else(|error| panic!("{error}"))
                    .text
            };
            put("halting", true);
            let victim = process(task!(get_in_part(way, queue.clone(), halted.clone())));
            halted.wait();
            put("one", false);
            assert_eq!(get(), "one");
            kill(&victim);
            // It had it.
            assert!(queue.empty());
            put("two", false);
            put("three", false);
            assert!(queue.full());
            assert_eq!((get().as_str(), get().as_str()), ("two", "three"));
            (0..4).for_each(|_| queue.task_done().unwrap());
            queue.join();
        }
    });
}

/// An item that can be told from any other, whole or not.
#[derive(Debug, Serialize, Deserialize)]
struct Parcel {
    sender: u64,
    number: u64,
    body: ByteBuf,
}

impl Parcel {
    fn new(sender: u64, number: u64, len: usize) -> Parcel {
        let pattern = Parcel::pattern(sender, number);
        let mut body = pattern.repeat(len / pattern.len() + 1);
        body.truncate(len);
        Parcel {
            sender,
            number,
            body: ByteBuf::from(body),
        }
    }

    /// What it is filled with; its length divides no page.
    fn pattern(sender: u64, number: u64) -> Vec<u8> {
        let words = (0..125).map(|n| (sender << 48) ^ (number << 16) ^ n);
        words.flat_map(u64::to_le_bytes).collect()
    }

    #[track_caller]
    fn check(&self) {
        let pattern = Parcel::pattern(self.sender, self.number);
        for part in self.body.chunks(pattern.len()) {
            assert!(
                part == &pattern[..part.len()],
                "{} {}",
                self.sender,
                self.number
            );
        }
    }
}

/// Sizes of all kinds, most of them such that a process is in the middle of one at most times.
fn any_size(random: &mut Random) -> usize {
    match random.below(10) {
        0..3 => 16,
        3 => 0,
        4..8 => (200 << 10) + random.below(100 << 10),
        8 => 1 << 20,
        _ => 3 << 20,
    }
}

/// Puts parcels until it is killed. What was put is noted.
fn send(queue: Queue<Parcel>, sender: u64, put: Sign, begun: Sign) {
    let mut random = Random::new();
    begun.give();
    for number in 0.. {
        let way = Way::ALL[random.below(4)];
        let parcel = Parcel::new(sender, number, any_size(&mut random));
        way.put(&queue, parcel).unwrap();
        put.note(format_args!("{sender} {number}"));
    }
}

/// Gets parcels until it is killed. What was got is noted.
fn receive(queue: Queue<Parcel>, got: Sign, begun: Sign) {
    let mut random = Random::new();
    begun.give();
    loop {
        let parcel = match random.below(5) {
            0 => match queue.get_timeout(Duration::from_micros(100)) {
                Err(GetError::Empty) => continue,
                result => result.unwrap(),
            },
            n => Way::ALL[n - 1].get(&queue).unwrap(),
        };
        parcel.check();
        got.note(format_args!("{} {}", parcel.sender, parcel.number));
        queue.task_done().unwrap();
    }
}

fn notes(sign: &Sign) -> Vec<(u64, u64)> {
    let parse = |note: String| {
        let (sender, number) = note.split_once(' ').unwrap();
        (sender.parse().unwrap(), number.parse().unwrap())
    };
    sign.notes().into_iter().map(parse).collect()
}

/// All numbers by sender; none may be there twice, and those of each sender in order.
#[track_caller]
fn by_sender(parcels: &[(u64, u64)], in_order: bool) -> BTreeMap<u64, BTreeSet<u64>> {
    let mut senders: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    for &(sender, number) in parcels {
        let numbers = senders.entry(sender).or_default();
        assert!(
            !in_order || numbers.last().is_none_or(|&last| last < number),
            "{sender} {number}"
        );
        assert!(numbers.insert(number), "{sender} {number} came twice");
    }
    senders
}

/// Workers that are killed in the midst of what they do.
struct Victims<'a> {
    scratch: &'a Scratch,
    started: usize,
    random: Random,
}

/// One of them, and the sign that it has begun.
type Victim = (Worker, Sign);

impl Victims<'_> {
    fn new(scratch: &Scratch) -> Victims<'_> {
        Victims {
            scratch,
            started: 0,
            random: Random::new(),
        }
    }

    fn start(&mut self, work: impl FnOnce(u64, Sign) -> Worker) -> Victim {
        let begun = self.scratch.sign(&format!("begun-{}", self.started));
        self.started += 1;
        (work(self.started as u64, begun.clone()), begun)
    }

    /// Kills one that has begun, in the midst of anything.
    fn kill(&mut self, (worker, begun): Victim) {
        begun.wait();
        thread::sleep(Duration::from_micros(self.random.below(3000) as u64));
        kill(&worker);
    }

    /// Kills one of them, and has another one take its place.
    fn replace(&mut self, victims: &mut [Victim], work: impl FnOnce(u64, Sign) -> Worker) {
        let next = self.start(work);
        let place = self.random.below(victims.len());
        let victim = mem::replace(&mut victims[place], next);
        self.kill(victim);
    }
}

/// Takes all that is there, and finds the limit where it was.
fn drain_and_fill(queue: &Queue<Parcel>, limit: usize) -> Vec<(u64, u64)> {
    let mut drained = Vec::new();
    // A place that a dead process had taken becomes free when its end was noticed.
    loop {
        match queue.get_timeout(NAP) {
            Ok(parcel) => {
                parcel.check();
                drained.push((parcel.sender, parcel.number));
            }
            Err(GetError::Empty) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((queue.qsize(), queue.empty()), (0, true));
    for n in 0..limit as u64 {
        queue.put_timeout(Parcel::new(1000, n, 64), LONG).unwrap();
    }
    assert!(matches!(
        queue.put_nowait(Parcel::new(1000, 0, 8)),
        Err(PutError::Full(_))
    ));
    assert_eq!((queue.qsize(), queue.full()), (limit, true));
    for n in 0..limit as u64 {
        let parcel = queue.get_timeout(LONG).unwrap();
        parcel.check();
        assert_eq!((parcel.sender, parcel.number), (1000, n));
    }
    drained
}

const LIMIT: usize = 4;

#[test]
fn producers_that_are_killed_at_random_lose_nothing_that_they_had_put() {
    watched(|| {
        let scratch = Scratch::new();
        let (queue, put) = (Queue::<Parcel>::new(LIMIT), scratch.sign("put"));
        let over = AtomicBool::new(false);
        let mut got = thread::scope(|scope| {
            let consumer = scope.spawn(|| {
                let mut got = Vec::new();
                while !over.load(Ordering::SeqCst) {
                    assert!(queue.qsize() <= LIMIT);
                    match queue.get_timeout(NAP) {
                        Ok(parcel) => {
                            parcel.check();
                            got.push((parcel.sender, parcel.number));
                        }
                        Err(GetError::Empty) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                got
            });
            let mut victims = Victims::new(&scratch);
            let start = |sender: u64, begun: Sign| {
                process(task!(send(
                    queue.clone(),
                    sender,
                    put.clone(),
                    begun.clone()
                )))
            };
            let mut producers = [victims.start(start), victims.start(start)];
            for _ in 0..100 {
                victims.replace(&mut producers, start);
            }
            for producer in producers {
                victims.kill(producer);
            }
            over.store(true, Ordering::SeqCst);
            consumer.join().unwrap()
        });
        got.extend(drain_and_fill(&queue, LIMIT));
        let (put, mut got) = (by_sender(&notes(&put), true), by_sender(&got, true));
        for (sender, put) in &put {
            let mut got = got.remove(sender).unwrap();
            // The last one may have been put when there was no time left to note it.
            if got.len() > put.len() {
                assert_eq!(got.pop_last(), Some(put.len() as u64));
            }
            assert_eq!(got, *put);
        }
        assert!(got.into_values().all(|unnoted| unnoted.into_iter().eq([0])));
        assert!(put.len() > 10, "{}", put.len());
    });
}

#[test]
fn consumers_that_are_killed_at_random_lose_no_more_than_they_had() {
    watched(|| {
        let scratch = Scratch::new();
        let (queue, got) = (Queue::new(LIMIT), scratch.sign("got"));
        let (sent, over) = (AtomicUsize::new(0), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut random = Random::new();
                while !over.load(Ordering::SeqCst) {
                    let number = sent.load(Ordering::SeqCst) as u64;
                    let parcel = Parcel::new(7, number, any_size(&mut random));
                    queue.put_timeout(parcel, LONG).unwrap();
                    sent.fetch_add(1, Ordering::SeqCst);
                    assert!(queue.qsize() <= LIMIT);
                }
            });
            let mut victims = Victims::new(&scratch);
            let start =
                |_, begun: Sign| process(task!(receive(queue.clone(), got.clone(), begun.clone())));
            let mut consumers = [victims.start(start), victims.start(start)];
            for _ in 0..100 {
                victims.replace(&mut consumers, start);
            }
            // Somebody has to take what is put last.
            over.store(true, Ordering::SeqCst);
            eventually("all is taken", || queue.empty());
            for consumer in consumers {
                victims.kill(consumer);
            }
        });
        let deaths = 102;
        let mut received = notes(&got);
        received.extend(drain_and_fill(&queue, LIMIT));
        let received = by_sender(&received, false).remove(&7).unwrap();
        let sent = sent.into_inner() as u64;
        let lost = (0..sent)
            .filter(|number| !received.contains(number))
            .count();
        assert!(received.last().is_none_or(|&last| last < sent));
        assert!(
            lost <= deaths,
            "{lost} of {sent} are lost, with {deaths} deaths"
        );
        assert!(received.len() > 10, "{}", received.len());
    });
}

#[test]
fn processes_on_both_sides_may_be_killed_at_random() {
    watched(|| {
        let scratch = Scratch::new();
        let (queue, put, got) = (Queue::new(LIMIT), scratch.sign("put"), scratch.sign("got"));
        let mut victims = Victims::new(&scratch);
        let send = |sender: u64, begun: Sign| {
            process(task!(send(
                queue.clone(),
                sender,
                put.clone(),
                begun.clone()
            )))
        };
        let receive =
            |_, begun: Sign| process(task!(receive(queue.clone(), got.clone(), begun.clone())));
        let mut senders = [victims.start(send), victims.start(send)];
        let mut receivers = [victims.start(receive), victims.start(receive)];
        for _ in 0..20 {
            victims.replace(&mut senders, send);
            victims.replace(&mut receivers, receive);
            assert!(queue.qsize() <= LIMIT);
        }
        for sender in senders {
            victims.kill(sender);
        }
        // The live ones go on: they take all that is left.
        eventually("all is taken", || queue.empty());
        for receiver in receivers {
            victims.kill(receiver);
        }
        let deaths = 44;
        let mut received = notes(&got);
        received.extend(drain_and_fill(&queue, LIMIT));
        let (put, received) = (by_sender(&notes(&put), true), by_sender(&received, false));
        let mut lost = 0;
        for (sender, put) in &put {
            let nothing = BTreeSet::new();
            let received = received.get(sender).unwrap_or(&nothing);
            lost += put.difference(received).count();
            // At most the last one was not noted.
            let mut unnoted = received.difference(put);
            assert!(
                unnoted
                    .next()
                    .is_none_or(|&number| number == put.len() as u64)
            );
            assert_eq!(unnoted.next(), None);
        }
        assert!(lost <= deaths, "{lost} are lost, with {deaths} deaths");
    });
}

#[test]
fn users_of_a_simple_queue_may_be_killed_at_random() {
    fn send(queue: SimpleQueue<Parcel>, sender: u64, put: Sign, begun: Sign) {
        let mut random = Random::new();
        begun.give();
        for number in 0.. {
            // There is no limit but this one.
            while queue.qsize() > 20 {
                thread::sleep(Duration::from_micros(100));
            }
            queue
                .put(Parcel::new(sender, number, any_size(&mut random)))
                .unwrap();
            put.note(format_args!("{sender} {number}"));
        }
    }
    fn receive(queue: SimpleQueue<Parcel>, got: Sign, begun: Sign) {
        begun.give();
        for n in 0.. {
            let parcel = Way::ALL[n % 4].get_simple(&queue).unwrap();
            parcel.check();
            got.note(format_args!("{} {}", parcel.sender, parcel.number));
        }
    }
    watched(|| {
        let scratch = Scratch::new();
        let (queue, put, got) = (SimpleQueue::new(), scratch.sign("put"), scratch.sign("got"));
        let mut victims = Victims::new(&scratch);
        let send = |sender: u64, begun: Sign| {
            process(task!(send(
                queue.clone(),
                sender,
                put.clone(),
                begun.clone()
            )))
        };
        let receive =
            |_, begun: Sign| process(task!(receive(queue.clone(), got.clone(), begun.clone())));
        let mut senders = [victims.start(send), victims.start(send)];
        let mut receivers = [victims.start(receive), victims.start(receive)];
        for _ in 0..20 {
            victims.replace(&mut senders, send);
            victims.replace(&mut receivers, receive);
        }
        for sender in senders {
            victims.kill(sender);
        }
        eventually("all is taken", || queue.empty());
        for receiver in receivers {
            victims.kill(receiver);
        }
        let (put, received) = (
            by_sender(&notes(&put), true),
            by_sender(&notes(&got), false),
        );
        let lost = |(sender, put): (_, &BTreeSet<u64>)| match received.get(sender) {
            Some(received) => put.difference(received).count(),
            None => put.len(),
        };
        let lost: usize = put.iter().map(lost).sum();
        assert!(lost <= 44, "{lost} are lost, with 44 deaths");
        queue.put(Parcel::new(0, 0, 1 << 20)).unwrap();
        queue.get_timeout(LONG).unwrap().check();
    });
}

#[test]
fn waiters_at_a_condition_may_be_killed_at_random() {
    /// Waits again and again; the number of its waits that are over is in the file.
    fn wait_for_ever(condition: Condition, woken: Sign) {
        let mut random = Random::new();
        for count in 1.. {
            let way = Way::ALL[random.below(4)];
            let guard = way.run(condition.lock_async());
            way.wait(&condition).unwrap();
            drop(guard);
            if count % 20 == 0 {
                woken.tell(count);
            }
        }
    }
    watched(|| {
        for condition in conditions() {
            let scratch = Scratch::new();
            let start =
                |name: &str| process(task!(wait_for_ever(condition.clone(), scratch.sign(name))));
            let survivor = start("survivor");
            let mut victims = [start("victim-0"), start("victim-1")];
            let mut random = Random::new();
            let mut next_death = Instant::now();
            for deaths in 0..20 {
                while Instant::now() < next_death {
                    assert!(condition.acquire_timeout(LONG));
                    condition.notify(1 + random.below(2)).unwrap();
                    condition.release().unwrap();
                }
                let victim = random.below(2);
                let next = start(&format!("victim-{deaths}"));
                kill(&mem::replace(&mut victims[victim], next));
                next_death = Instant::now() + Duration::from_micros(random.below(3000) as u64);
            }
            victims.iter().for_each(kill);
            // The one that lives still wakes up.
            let survived = scratch.sign("survivor");
            let count = || match survived.is_given() {
                true => survived.hear().parse::<u64>().unwrap(),
                false => 0,
            };
            let before = count();
            while count() < before + 40 {
                assert!(condition.acquire_timeout(LONG));
                condition.notify(1).unwrap();
                condition.release().unwrap();
            }
            kill(&survivor);
            assert!(condition.acquire_timeout(LONG));
            condition.release().unwrap();
        }
    });
}

#[test]
fn parties_of_a_barrier_may_be_killed_at_random() {
    fn pass_for_ever(barrier: Barrier, started: Event) {
        started.set();
        for n in 0.. {
            // Broken is what it becomes when another one dies; it is mended.
            if Way::ALL[n % 4].pass(&barrier).is_err() {
                eventually("mended", || !barrier.broken());
            }
        }
    }
    watched(|| {
        let barrier = Barrier::new(3).unwrap();
        let meeting = ThreadBarrier::new(2);
        let passed = AtomicUsize::new(0);
        let kill_some_time = |pause: Duration| {
            let (barrier, started) = (barrier.clone(), Event::new());
            let victim = process(task!(pass_for_ever(barrier.clone(), started.clone())));
            thread::spawn(move || {
                started.wait();
                thread::sleep(pause);
                kill(&victim);
                // It may not have waited at that moment.
                barrier.abort();
            })
        };
        // One of two live parties; the leader also sees to it that there is a third.
        let live = |is_leader: bool| {
            let mut random = Random::new();
            for n in 0..30 {
                let killer = is_leader.then(|| {
                    let pause = Duration::from_micros(random.below(3000) as u64);
                    kill_some_time(pause)
                });
                let broken = (n..).find_map(|n| match Way::ALL[n % 4].pass(&barrier) {
                    Ok(index) => {
                        assert!(index < 3);
                        passed.fetch_add(1, Ordering::SeqCst);
                        None
                    }
                    Err(error) => Some(error),
                });
                assert!(matches!(broken, Some(BarrierError::Broken)));
                // Both have seen it.
                meeting.wait();
                if let Some(killer) = killer {
                    killer.join().unwrap();
                    barrier.reset();
                }
                meeting.wait();
            }
        };
        thread::scope(|scope| {
            scope.spawn(|| live(false));
            live(true);
        });
        assert!(passed.into_inner() > 0);
        barrier.reset();
        assert_eq!(barrier.n_waiting(), 0);
        let mut waits = [(); 2].map(|_| Hand::waiting(barrier.wait_async()));
        assert_eq!(barrier.wait_timeout(LONG).unwrap(), 2);
        assert!(waits.iter_mut().all(|wait| wait.ready().is_ok()));
    });
}

// Gone as soon as it has put.

/// The ways for a worker to end with what it has put.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
enum End {
    Return,
    Panic,
    Exit,
    Abort,
    Kill,
}

#[test]
fn what_was_put_arrives_however_its_producer_ends() {
    fn put_and_end(way: Way, end: End, queue: Queue<(u32, ByteBuf)>, simple: SimpleQueue<u32>) {
        for n in 0..20 {
            let size = if n % 5 == 0 { 500_000 } else { 5 };
            way.put(&queue, (n, ByteBuf::from(vec![n as u8; size])))
                .unwrap();
            simple.put(n).unwrap();
        }
        match end {
            End::Return => {}
            End::Panic => panic!("that is all"),
            End::Exit => std::process::exit(0),
            End::Abort => std::process::abort(),
            End::Kill => signal(std::process::id(), libc::SIGKILL),
        }
    }
    watched(|| {
        for end in [End::Return, End::Panic, End::Exit, End::Abort, End::Kill] {
            for way in Way::ALL {
                let (queue, simple) = (Queue::new(0), SimpleQueue::new());
                let task = task!(put_and_end(way, end, queue.clone(), simple.clone()));
                let producer = process(task);
                assert_eq!(producer.join().is_ok(), end == End::Return);
                // They are all there by now.
                assert_eq!((queue.qsize(), simple.qsize()), (20, 20));
                for n in 0..20 {
                    let (number, bytes) = queue.get_nowait().unwrap();
                    assert_eq!(number, n);
                    assert!(is_all(&bytes, n as u8));
                    assert_eq!(simple.get_nowait().unwrap(), n);
                }
                assert!(queue.empty() && simple.empty());
            }
        }
    });
}

#[test]
fn what_many_short_producers_put_arrives() {
    fn put(queue: Queue<u32>, n: u32) {
        queue.put(n).unwrap();
        std::process::exit(0);
    }
    watched(|| {
        let queue = Queue::new(0);
        let producers: Vec<_> = (0..30)
            .map(|n| process(task!(put(queue.clone(), n))))
            .collect();
        let mut got: Vec<_> = (0..30).map(|_| queue.get_timeout(LONG).unwrap()).collect();
        got.sort();
        assert!(got.into_iter().eq(0..30));
        for producer in producers {
            assert!(producer.join().is_err());
        }
    });
}

// Memory.

/// The memory that the program shares with its workers, in bytes.
fn shared_memory() -> u64 {
    let descriptors = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let shared = descriptors.filter(|descriptor| {
        fs::read_link(descriptor.path())
            .is_ok_and(|target| target.to_string_lossy().starts_with("/memfd:"))
    });
    shared
        .filter_map(|file| fs::metadata(file.path()).ok())
        .map(|file| file.blocks() * 512)
        .sum()
}

const MIB: u64 = 1 << 20;

/// One test of memory at a time.
static MEASURING: Mutex<()> = Mutex::new(());

/// Other tests use some, too.
const OTHERS: u64 = 100 * MIB;

#[track_caller]
fn assert_given_back(before: u64) {
    eventually("memory is given back", || shared_memory() < before + OTHERS);
}

#[test]
fn the_memory_of_a_drained_queue_is_given_back() {
    fn put(queue: Queue<ByteBuf>, number: usize, size: usize) {
        for _ in 0..number {
            queue.put(ByteBuf::from(vec![7; size])).unwrap();
        }
    }
    let _alone = MEASURING.lock();
    watched(|| {
        let before = shared_memory();
        for (number, size) in [(150, 1 << 20), (15 << 10, 10_000), (2, 75 << 20)] {
            let queue = Queue::new(0);
            join(&process(task!(put(queue.clone(), number, size))));
            let full = shared_memory();
            assert!(full > before + 146 * MIB - OTHERS, "{full}");
            for _ in 0..number {
                assert_eq!(queue.get_nowait().unwrap().len(), size);
            }
            // While the queue is there, and may be used again.
            assert_given_back(before);
            queue.put(ByteBuf::from(vec![8; 100])).unwrap();
            assert_eq!(queue.get().unwrap().len(), 100);
        }
    });
}

#[test]
fn the_memory_of_a_queue_goes_with_its_last_handle() {
    fn put(queue: SimpleQueue<ByteBuf>) {
        for _ in 0..300 {
            queue.put(ByteBuf::from(vec![7; 1 << 20])).unwrap();
        }
    }
    fn put_and_stay(queue: SimpleQueue<ByteBuf>, sign: Sign) {
        put(queue.clone());
        sign.give();
        for_ever();
    }
    let _alone = MEASURING.lock();
    watched(|| {
        let before = shared_memory();
        let queue = SimpleQueue::new();
        join(&process(task!(put(queue.clone()))));
        assert!(shared_memory() > before + 300 * MIB - OTHERS);
        drop(queue);
        assert_given_back(before);
        // Also where the last handle is that of a process which is killed.
        let scratch = Scratch::new();
        let (queue, sign) = (SimpleQueue::new(), scratch.sign("put"));
        let victim = process(task!(put_and_stay(queue.clone(), sign.clone())));
        sign.wait();
        drop(queue);
        assert!(shared_memory() > before + 300 * MIB - OTHERS);
        kill(&victim);
        assert_given_back(before);
    });
}

#[test]
fn what_killed_processes_had_half_put_is_given_back() {
    fn put_for_ever(queue: Queue<ByteBuf>) {
        loop {
            queue.put(ByteBuf::from(vec![7; 32 << 20])).unwrap();
        }
    }
    let _alone = MEASURING.lock();
    watched(|| {
        let before = shared_memory();
        let (queue, mut random) = (Queue::new(1), Random::new());
        for _ in 0..20 {
            let victim = process(task!(put_for_ever(queue.clone())));
            if random.below(2) == 0 {
                assert_eq!(queue.get_timeout(LONG).unwrap().len(), 32 << 20);
            }
            thread::sleep(Duration::from_micros(random.below(20_000) as u64));
            kill(&victim);
        }
        while queue.get_timeout(NAP).is_ok() {}
        assert_given_back(before);
    });
}

#[test]
fn who_is_killed_while_a_queue_goes_leaves_nothing_of_it() {
    fn put_and_let_go(carrier: SimpleQueue<SimpleQueue<ByteBuf>>, put: Event) {
        let queue = SimpleQueue::new();
        carrier.put(queue.clone()).unwrap();
        drop(carrier.get().unwrap());
        for _ in 0..50 {
            queue.put(ByteBuf::from(vec![7; 1 << 20])).unwrap();
        }
        put.set();
        drop(queue);
        for_ever();
    }
    let _alone = MEASURING.lock();
    watched(|| {
        let (before, mut random) = (shared_memory(), Random::new());
        for _ in 0..20 {
            let (carrier, put) = (SimpleQueue::new(), Event::new());
            let victim = process(task!(put_and_let_go(carrier.clone(), put.clone())));
            put.wait();
            thread::sleep(Duration::from_micros(random.below(20_000) as u64));
            kill(&victim);
        }
        assert_given_back(before);
    });
}

#[test]
fn handles_that_come_and_go_leave_nothing() {
    fn touch(queue: Queue<ByteBuf>) -> usize {
        queue.get().unwrap().len()
    }
    let _alone = MEASURING.lock();
    watched(|| {
        let executor = common::processes(2);
        let before = shared_memory();
        for _ in 0..1000 {
            let (queue, event) = (Queue::new(0), Event::new());
            queue.put(ByteBuf::from(vec![7; 100_000])).unwrap();
            queue.put(ByteBuf::from(vec![7; 100_000])).unwrap();
            assert_eq!(
                executor
                    .submit(task!(touch(queue.clone())))
                    .result()
                    .unwrap(),
                100_000
            );
            drop(event);
        }
        assert_given_back(before);
    });
}
