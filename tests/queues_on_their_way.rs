//! Queues while they become known to other processes: what they hold, each other for instance, goes with them, and
//! meanwhile nobody waits longer than he would have to anyway.

mod common;

use std::{
    pin::pin,
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    task::Context,
    thread,
    time::Duration,
};

use common::{
    Random, Scratch, fragile, watched,
    ways::{Hand, LONG, Way, report, wait_asleep},
};
use freethreading::{Backend, GetError, Portable, PutError, Queue, SimpleQueue, Worker, task};
use futures::FutureExt;
use serde::{Deserialize, Serialize, Serializer, ser};

freethreading::init_tests!();

/// Long enough for anything but a wait in vain.
const NAP: Duration = Duration::from_millis(20);

/// What is called when an item is encoded; what comes out of a process does nothing.
type Hook = Option<Arc<dyn Fn() -> Result<(), String> + Send + Sync>>;

/// An item that holds queues.
#[derive(Default, Deserialize)]
struct Item {
    number: u32,
    queues: Vec<Queue<Item>>,
    #[serde(skip)]
    hook: Hook,
}

impl Item {
    fn plain(number: u32) -> Item {
        Item {
            number,
            ..Item::default()
        }
    }

    fn holding(number: u32, queues: &[&Queue<Item>]) -> Item {
        Item {
            queues: queues.iter().map(|&queue| queue.clone()).collect(),
            ..Item::plain(number)
        }
    }

    fn on_encoding(
        mut self,
        hook: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> Item {
        self.hook = Some(Arc::new(hook));
        self
    }
}

impl Serialize for Item {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Some(hook) = &self.hook {
            hook().map_err(ser::Error::custom)?;
        }
        (self.number, &self.queues).serialize(serializer)
    }
}

fn put(queue: &Queue<Item>, item: Item) {
    queue.put(item).unwrap();
}

fn numbers(queue: &Queue<Item>) -> Vec<u32> {
    let items = std::iter::from_fn(|| queue.get_nowait().ok());
    items.map(|item| item.number).collect()
}

fn nothing<T: Portable>(_: Queue<T>) {}

/// Another process has the queue from now on.
fn share<T: Portable>(queue: &Queue<T>) {
    let worker = Worker::new(task!(nothing(queue.clone()))).backend(Backend::Multiprocessing);
    worker.start().unwrap();
    worker.join().unwrap();
}

/// Whatever is put into it other processes may have from then on.
fn carrier() -> Queue<Queue<Item>> {
    let carrier = Queue::new(0);
    share(&carrier);
    carrier
}

/// A queue with an item that is being encoded until the sender is used, or gone.
fn held_up(maxsize: usize, item: Item) -> (Queue<Item>, Receiver<()>, Sender<()>) {
    let ((begun, is_begun), (go, may_go)) = (channel(), channel());
    let may_go = Mutex::new(may_go);
    let queue = Queue::new(maxsize);
    let item = item.on_encoding(move || {
        begun.send(()).unwrap();
        let _ = may_go.lock().unwrap().recv();
        Ok(())
    });
    put(&queue, item);
    (queue, is_begun, go)
}

#[test]
fn a_queue_that_is_in_itself_goes_with_what_it_holds() {
    fn answer(queue: Queue<Item>) {
        let item = queue.get().unwrap();
        put(&item.queues[0], Item::plain(item.number + 1));
    }
    watched(|| {
        let queue = Queue::new(0);
        put(&queue, Item::holding(1, &[&queue]));
        let executor = common::processes(1);
        let answered = executor.submit(task!(answer(queue.clone())));
        answered.result().unwrap();
        assert_eq!(numbers(&queue), [2]);
    });
}

/// Each of them is held by what it holds, through the others.
#[test]
fn queues_that_hold_each_other_go_together() {
    fn first_numbers(queue: Queue<Item>) -> Vec<u32> {
        let mut queue = queue;
        let hand_over = |_| {
            let item = queue.get().unwrap();
            queue.task_done().unwrap();
            queue = item.queues[0].clone();
            item.number
        };
        (0..3).map(hand_over).collect()
    }
    watched(|| {
        let executor = common::processes(1);
        for first in 0..3 {
            let queues = [0; 3].map(Queue::new);
            for n in 0..3 {
                let next = &queues[(n + 1) % 3];
                put(&queues[n], Item::holding(n as u32, &[next]));
            }
            let taken = executor.submit(task!(first_numbers(queues[first].clone())));
            let expected: Vec<_> = (0..3).map(|n| ((first + n) % 3) as u32).collect();
            assert_eq!(taken.result().unwrap(), expected);
            assert!(queues.iter().all(|queue| queue.join_timeout(LONG)));
        }
    });
}

/// Two queues whose first items hold the other one, and are encoded at the same time; of each, an item was taken before
/// and is not done.
fn crossed() -> [Queue<Item>; 2] {
    let queues = [Queue::new(0), Queue::new(0)];
    let meeting = Arc::new(Barrier::new(2));
    for n in 0..2 {
        let (meeting, has_met) = (Arc::clone(&meeting), AtomicBool::new(false));
        let item = Item::holding(n, &[&queues[1 - n as usize]]).on_encoding(move || {
            // Only the first time.
            if !has_met.swap(true, Ordering::Relaxed) {
                meeting.wait();
            }
            Ok(())
        });
        let queue = &queues[n as usize];
        put(queue, Item::plain(9));
        queue.get().unwrap();
        put(queue, item);
    }
    queues
}

/// Two threads give the queues to another process.
fn send_both(queues: &[Queue<Item>; 2]) -> [Result<(), PutError<Queue<Item>>>; 2] {
    let carrier = carrier();
    thread::scope(|scope| {
        let sent = [0, 1].map(|n| {
            let (carrier, queue) = (&carrier, &queues[n]);
            scope.spawn(move || carrier.put(queue.clone()))
        });
        sent.map(|sent| sent.join().unwrap())
    })
}

#[test]
fn queues_that_hold_each_other_may_be_given_to_processes_at_the_same_time() {
    watched(|| {
        for _ in 0..20 {
            let queues = crossed();
            for sent in send_both(&queues) {
                sent.unwrap();
            }
            for queue in &queues {
                assert_eq!(queue.qsize(), 1);
                assert!(!queue.join_timeout(Duration::ZERO));
            }
            let other = queues[0].get().unwrap().queues.remove(0);
            assert_eq!(other.get().unwrap().number, 1);
            for queue in &queues {
                queue.task_done().unwrap();
                assert!(!queue.join_timeout(Duration::ZERO));
                queue.task_done().unwrap();
                assert!(queue.join_timeout(LONG));
                assert!(queue.task_done().is_err());
            }
        }
    });
}

#[test]
fn queues_that_hold_each_other_all_stay_if_one_cannot_go() {
    watched(|| {
        for _ in 0..20 {
            let queues = crossed();
            put(
                &queues[0],
                Item::plain(2).on_encoding(|| Err("rather not".into())),
            );
            for sent in send_both(&queues) {
                let error = sent.unwrap_err();
                assert!(error.to_string().contains("rather not"), "{error}");
            }
            assert_eq!(queues.each_ref().map(Queue::qsize), [2, 1]);
            // They are the very items that were put.
            assert!(queues[0].get().is_ok_and(|item| item.number == 0));
            assert!(queues[0].get().is_ok_and(|item| item.hook.is_some()));
            for queue in &queues {
                put(queue, Item::plain(3));
            }
            for sent in send_both(&queues) {
                sent.unwrap();
            }
            assert_eq!(numbers(&queues[0]), [3]);
            assert_eq!(numbers(&queues[1]), [1, 3]);
        }
    });
}

/// Whatever holds whatever, and whoever is first.
#[test]
fn queues_that_hold_many_others_go_whoever_begins() {
    const QUEUES: usize = 5;
    const ITEMS: usize = 3;

    watched(|| {
        let carrier = carrier();
        let mut random = Random::new();
        for round in 0..200 {
            let queues: [Queue<Item>; QUEUES] = [0; QUEUES].map(Queue::new);
            // In every other round there is one that cannot go, nor can what leads to it.
            let stays = (round % 2 == 1).then(|| random.below(QUEUES));
            for (n, queue) in queues.iter().enumerate() {
                for number in 0..ITEMS {
                    let others = [(); 2].map(|()| &queues[random.below(QUEUES)]);
                    put(
                        queue,
                        Item::holding(number as u32, &others).on_encoding(|| {
                            thread::yield_now();
                            Ok(())
                        }),
                    );
                }
                if stays == Some(n) {
                    let hook = || Err("rather not".into());
                    put(queue, Item::plain(ITEMS as u32).on_encoding(hook));
                }
            }
            let start = Barrier::new(QUEUES);
            let sent = thread::scope(|scope| {
                let sent = queues.each_ref().map(|queue| {
                    scope.spawn(|| {
                        start.wait();
                        carrier.put(queue.clone())
                    })
                });
                sent.map(|sent| sent.join().unwrap())
            });
            for (n, (queue, sent)) in queues.iter().zip(sent).enumerate() {
                match sent {
                    Ok(()) => assert_ne!(stays, Some(n)),
                    Err(error) => {
                        assert!(stays.is_some());
                        assert!(error.to_string().contains("rather not"), "{error}");
                    }
                }
                let numbers = numbers(queue);
                assert!(numbers.iter().copied().eq(0..numbers.len() as u32));
                assert_eq!(numbers.len(), ITEMS + usize::from(stays == Some(n)));
                for _ in numbers {
                    queue.task_done().unwrap();
                }
                assert!(queue.task_done().is_err());
            }
        }
    });
}

/// The code of an item that uses the queue that the item is in: its thread is the one that it would wait for.
#[test]
fn what_encodes_an_item_cannot_use_its_queue_and_is_told_so() {
    watched(|| {
        for maxsize in [0, 3] {
            let queue = Queue::new(maxsize);
            let tried = {
                let queue = queue.clone();
                move || {
                    let put = |put: Result<(), PutError<Item>>| {
                        let error = put.unwrap_err();
                        assert!(error.to_string().contains("cannot use it"), "{error}");
                        assert!(matches!(error, PutError::Encode(Item { number: 9, .. }, _)));
                    };
                    let get = |got: Result<Item, GetError>| {
                        let error = got.err().unwrap();
                        assert!(error.to_string().contains("cannot use it"), "{error}");
                    };
                    for way in Way::ALL {
                        put(way.put(&queue, Item::plain(9)));
                        get(way.get(&queue));
                    }
                    put(queue.put_nowait(Item::plain(9)));
                    put(queue.put_timeout(Item::plain(9), Duration::ZERO));
                    get(queue.get_nowait());
                    get(queue.get_timeout(Duration::ZERO));
                    assert_eq!(queue.qsize(), 2);
                    assert!(!queue.join_timeout(Duration::ZERO));
                    Ok(())
                }
            };
            put(&queue, Item::plain(0).on_encoding(tried));
            put(&queue, Item::plain(1));
            share(&queue);
            assert_eq!(numbers(&queue), [0, 1]);
            put(&queue, Item::plain(2));
            assert_eq!(numbers(&queue), [2]);
        }
    });
}

/// As above, with another queue in between, which other processes have already.
#[test]
fn what_encodes_an_item_cannot_give_its_queue_away_and_is_told_so() {
    watched(|| {
        let (queue, carrier) = (Queue::new(0), carrier());
        let tried = {
            let (queue, carrier) = (queue.clone(), carrier.clone());
            move || {
                let error = carrier.put(queue.clone()).unwrap_err();
                assert!(error.to_string().contains("cannot wait"), "{error}");
                // Another one may go.
                carrier.put(Queue::new(0)).unwrap();
                Ok(())
            }
        };
        put(&queue, Item::plain(0).on_encoding(tried));
        share(&queue);
        assert_eq!(numbers(&queue), [0]);
        assert_eq!(carrier.qsize(), 1);
    });
}

#[test]
fn who_waits_while_a_queue_moves_waits_no_longer_than_he_would() {
    watched(|| {
        let (queue, is_begun, go) = held_up(0, Item::plain(0));
        thread::scope(|scope| {
            let sharing = scope.spawn(|| share(&queue));
            is_begun.recv().unwrap();
            common::takes_its_time(|limit| {
                let got = queue.get_timeout(limit);
                assert!(matches!(got, Err(GetError::Empty)));
            });
            common::takes_its_time(|limit| {
                let put = queue.put_timeout(Item::plain(9), limit);
                assert!(matches!(put, Err(PutError::Full(Item { number: 9, .. }))));
            });
            let mut get = Hand::waiting(queue.get_async());
            let mut put = Hand::waiting(queue.put_async(Item::plain(1)));
            drop(Hand::waiting(queue.get_async()));
            drop(Hand::waiting(queue.put_async(Item::plain(9))));
            assert!(!get.woken() && !put.woken());
            assert_eq!(queue.qsize(), 1);
            drop(go);
            get.wait_woken();
            put.wait_woken();
            assert_eq!(get.ready().unwrap().number, 0);
            put.ready().unwrap();
            sharing.join().unwrap();
        });
        assert_eq!(numbers(&queue), [1]);
    });
}

/// There is an item, or room for one, so it would be wrong to say that there is none.
#[test]
fn who_does_not_want_to_wait_waits_for_what_moves_alone() {
    watched(|| {
        let scratch = Scratch::new();
        let empty = Queue::new(0);
        let (queue, is_begun, go) = held_up(1, Item::plain(0));
        let (carrier, roomy) = (Queue::new(0), Queue::new(0));
        // All of them are on their way until the last item is encoded.
        put(&roomy, Item::plain(1));
        put(&carrier, Item::holding(2, &[&empty, &roomy, &queue]));
        thread::scope(|scope| {
            let sharing = scope.spawn(|| share(&carrier));
            is_begun.recv().unwrap();
            assert!(matches!(empty.get_nowait(), Err(GetError::Empty)));
            let put = queue.put_nowait(Item::plain(9));
            assert!(matches!(put, Err(PutError::Full(Item { number: 9, .. }))));
            let getting = scope.spawn(|| {
                report(&scratch.sign("getting"));
                roomy.get_nowait().unwrap().number
            });
            let putting = scope.spawn(|| {
                report(&scratch.sign("putting"));
                empty.put_nowait(Item::plain(3)).unwrap();
            });
            wait_asleep(&scratch.sign("getting"));
            wait_asleep(&scratch.sign("putting"));
            go.send(()).unwrap();
            assert_eq!(getting.join().unwrap(), 1);
            putting.join().unwrap();
            sharing.join().unwrap();
        });
        assert_eq!(numbers(&empty), [3]);
        assert_eq!(numbers(&queue), [0]);
        assert!(roomy.empty());
    });
}

/// Those who wait meanwhile find what was put back.
#[test]
fn who_waits_while_a_queue_tries_to_move_gets_what_stays() {
    watched(|| {
        let (queue, is_begun, go) = held_up(0, Item::plain(0));
        put(
            &queue,
            Item::plain(1).on_encoding(|| Err("rather not".into())),
        );
        let carrier = carrier();
        thread::scope(|scope| {
            let sharing = scope.spawn(|| carrier.put(queue.clone()));
            is_begun.recv().unwrap();
            let mut get = Hand::waiting(queue.get_async());
            let blocking = scope.spawn(|| Way::Blocking.put(&queue, Item::plain(2)));
            drop(go);
            assert!(sharing.join().unwrap().is_err());
            blocking.join().unwrap().unwrap();
            get.wait_woken();
            assert!(get.ready().unwrap().hook.is_some());
        });
        assert_eq!(numbers(&queue), [1, 2]);
    });
}

#[test]
fn a_put_to_a_queue_that_moves_keeps_nothing_of_its_waker() {
    watched(|| {
        let queue = Queue::new(1);
        queue.put(1).unwrap();
        // Between the look that finds no room and the one from in line.
        let moving = queue.clone();
        let waker = fragile(move || share(&moving));
        let mut put = pin!(queue.put_async(2));
        let polled = put.as_mut().poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
        assert_eq!(queue.get().unwrap(), 1);
        assert!(put.now_or_never().expect("there is room").is_ok());
        assert_eq!(queue.get().unwrap(), 2);
    });
}

/// A runtime with one thread goes on with its timers and its other tasks.
#[test]
fn a_task_that_waits_for_a_queue_that_moves_keeps_no_thread() {
    watched(|| {
        let (queue, is_begun, go) = held_up(0, Item::plain(0));
        thread::scope(|scope| {
            let sharing = scope.spawn(|| share(&queue));
            is_begun.recv().unwrap();
            common::ways::current_thread().block_on(async {
                let given_up = tokio::time::timeout(NAP, queue.get_async()).await;
                assert!(given_up.is_err());
                let (got, ()) = tokio::join!(queue.get_async(), async { drop(go) });
                assert_eq!(got.unwrap().number, 0);
            });
            sharing.join().unwrap();
        });
    });
}

#[test]
fn simple_queues_are_in_themselves_and_in_each_other_too() {
    #[derive(Serialize, Deserialize)]
    struct Nested(u32, Vec<SimpleQueue<Nested>>);
    fn answer(queue: SimpleQueue<Nested>) {
        let Nested(number, queues) = queue.get().unwrap();
        for queue in queues {
            queue.put(Nested(number + 1, Vec::new())).unwrap();
        }
    }
    watched(|| {
        let (queue, other) = (SimpleQueue::new(), SimpleQueue::new());
        let both = || vec![queue.clone(), other.clone()];
        queue.put(Nested(1, both())).unwrap();
        other.put(Nested(5, both())).unwrap();
        let executor = common::processes(1);
        let answered = executor.submit(task!(answer(queue.clone())));
        answered.result().unwrap();
        assert_eq!(queue.get().unwrap().0, 2);
        assert_eq!(other.get().unwrap().0, 5);
        assert_eq!(other.get().unwrap().0, 2);
        assert!(queue.empty() && other.empty());
    });
}
