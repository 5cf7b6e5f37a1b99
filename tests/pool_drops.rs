//! Items and results of a pool's maps are dropped once, whatever happens; and a destructor that panics
//! costs nothing else.

mod common;

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicI64, AtomicUsize, Ordering},
};

use common::{Gate, GateKeeper, eventually, watched, ways::Liar};
use freethreading::{Backend, TaskError, WorkerPool, get_backend, task};
use futures::{StreamExt, executor::block_on, stream};
use serde::{Deserialize, Serialize};

freethreading::init_tests!();

/// How many `Counted` there are, and how many there were; the tests that look at it take turns.
static ALIVE: AtomicI64 = AtomicI64::new(0);
static MADE: AtomicUsize = AtomicUsize::new(0);
static TURNS: Mutex<()> = Mutex::new(());

#[derive(Debug, Serialize, Deserialize)]
#[serde(from = "u64")]
struct Counted(u64);

/// One that has come from another process.
impl From<u64> for Counted {
    fn from(n: u64) -> Counted {
        Counted::new(n)
    }
}

impl Counted {
    fn new(n: u64) -> Counted {
        ALIVE.fetch_add(1, Ordering::SeqCst);
        MADE.fetch_add(1, Ordering::SeqCst);
        Counted(n)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        // One that was dropped before would most likely not know its number any more.
        assert!(self.0 < 1 << 32);
        ALIVE.fetch_sub(1, Ordering::SeqCst);
        self.0 = u64::MAX;
    }
}

fn alive() -> i64 {
    ALIVE.load(Ordering::SeqCst)
}

fn my_turn() -> MutexGuard<'static, ()> {
    TURNS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the body with a pool of two threads, for each way to cut the items; in the end nothing may be
/// left.
fn nothing_is_left(body: impl Fn(&WorkerPool, Maps)) {
    watched(|| {
        let _turn = my_turn();
        for maps in [Maps(None), Maps(Some(1)), Maps(Some(3)), Maps(Some(1000))] {
            assert_eq!(alive(), 0);
            let pool = WorkerPool::builder().max_workers(2);
            let pool = pool.backend(Backend::Threading).build().unwrap();
            body(&pool, maps);
            pool.close();
            pool.join().unwrap();
            eventually("everything is dropped", || alive() <= 0);
            assert_eq!(alive(), 0, "{maps:?}");
        }
    });
}

/// The maps of a pool, with chunks or without.
#[derive(Clone, Copy, Debug)]
struct Maps(Option<usize>);

impl Maps {
    fn map_async<I, R>(
        self,
        pool: &WorkerPool,
        function: impl Fn(I::Item) -> R + Send + Sync + 'static,
        items: I,
    ) -> freethreading::AsyncResult<Vec<R>>
    where
        I: IntoIterator,
        I::Item: freethreading::Portable,
        R: freethreading::Portable,
    {
        let result = match self.0 {
            None => pool.map_async(function, items),
            Some(chunksize) => pool.chunksize(chunksize).map_async(function, items),
        };
        result.unwrap()
    }

    fn chunks(self, pool: &WorkerPool) -> freethreading::Chunks<'_> {
        pool.chunksize(self.0.unwrap_or(1))
    }
}

fn items() -> impl Iterator<Item = Counted> {
    (0..100).map(Counted::new)
}

fn again(item: Counted) -> Counted {
    Counted::new(item.0)
}

fn fussy(item: Counted) -> Counted {
    assert!(item.0 != 50, "no fifties");
    item
}

/// Waits at the gate if there is one.
fn pass_on((item, gate): (Counted, Option<Gate>)) -> Counted {
    if let Some(gate) = gate {
        gate.pass();
    }
    item
}

#[test]
fn of_a_map_that_succeeds() {
    nothing_is_left(|pool, maps| {
        let made = MADE.load(Ordering::SeqCst);
        let results = maps.map_async(pool, again, items()).get().unwrap();
        assert!(results.iter().zip(0..).all(|(counted, n)| counted.0 == n));
        // The items are gone already.
        eventually("the items are dropped", || alive() == 100);
        assert_eq!(MADE.load(Ordering::SeqCst) - made, 200);
    });
}

#[test]
fn of_a_map_that_nobody_waits_for() {
    nothing_is_left(|pool, maps| {
        drop(maps.map_async(pool, again, items()));
    });
}

#[test]
fn of_a_map_whose_function_panics() {
    nothing_is_left(|pool, maps| {
        let error = maps.map_async(pool, fussy, items()).get().unwrap_err();
        assert!(matches!(error, TaskError::Panicked(_)));
        drop(maps.map_async(pool, fussy, items()));
    });
}

#[test]
fn of_a_map_whose_input_panics() {
    nothing_is_left(|pool, maps| {
        let items = items().inspect(|item| assert!(item.0 != 50, "no more items"));
        let run = std::panic::AssertUnwindSafe(|| drop(maps.map_async(pool, again, items)));
        std::panic::catch_unwind(run).unwrap_err();
    });
}

#[test]
fn of_a_map_whose_input_is_wrong_about_its_length() {
    nothing_is_left(|pool, maps| {
        for hint in [(0, None), (3, Some(3)), (50, Some(50))] {
            let items = Liar { items: 0..10, hint }.map(Counted::new);
            assert_eq!(maps.map_async(pool, again, items).get().unwrap().len(), 10);
            let imap = maps
                .chunks(pool)
                .imap(again, Liar { items: 0..10, hint }.map(Counted::new));
            assert_eq!(imap.unwrap().count(), 10);
        }
    });
}

#[test]
fn of_a_map_that_is_terminated_half_way() {
    for gate_at in [0, 1, 40, 99] {
        for keep in [false, true] {
            nothing_is_left(|pool, maps| {
                let gates = GateKeeper::new();
                let items = items().map(|item| {
                    let gate = (item.0 == gate_at).then(|| gates.gate());
                    (item, gate)
                });
                let result = maps.map_async(pool, pass_on, items);
                gates.wait_for(1);
                pool.terminate();
                if keep {
                    assert!(result.get().is_err());
                }
                gates.open();
            });
        }
    }
}

#[test]
fn of_a_map_of_a_pool_that_is_dropped() {
    watched(|| {
        let _turn = my_turn();
        for maps in [Maps(None), Maps(Some(1)), Maps(Some(7))] {
            for spins in 0..20 {
                let pool = WorkerPool::builder().max_workers(2);
                let pool = pool.backend(Backend::Threading).build().unwrap();
                let result = maps.map_async(&pool, again, items());
                (0..spins * 500).for_each(|_| std::hint::spin_loop());
                drop(pool);
                drop(result);
            }
            eventually("everything is dropped", || alive() <= 0);
            assert_eq!(alive(), 0, "{maps:?}");
        }
    });
}

#[test]
fn of_a_result_that_is_taken_or_left_or_shown() {
    nothing_is_left(|pool, maps| {
        let taken = maps.map_async(pool, again, items());
        assert_eq!(taken.get().unwrap().len(), 100);
        assert!(matches!(taken.get(), Err(TaskError::Taken)));
        let left = maps.map_async(pool, again, items());
        left.wait();
        drop(left);
        let shown = maps.map_async(pool, again, items());
        let shown = shown.callback(|results| assert_eq!(results.len(), 100));
        assert_eq!(shown.get().unwrap().len(), 100);
        drop(maps.map_async(pool, again, items()).callback(|_| ()));
        let polled = maps.map_async(pool, again, items());
        assert_eq!(block_on(polled).unwrap().len(), 100);
        let item = Counted::new(7);
        assert_eq!(pool.apply(task!(again(item))).unwrap().0, 7);
    });
}

#[test]
fn of_an_imap_that_is_used_up() {
    nothing_is_left(|pool, maps| {
        assert_eq!(maps.chunks(pool).imap(again, items()).unwrap().count(), 100);
        let unordered = maps.chunks(pool).imap_unordered(again, items());
        assert_eq!(unordered.unwrap().count(), 100);
        let stream = maps.chunks(pool).imap_stream(again, stream::iter(items()));
        assert_eq!(block_on(stream.unwrap().count()), 100);
    });
}

#[test]
fn of_an_imap_that_is_dropped_half_way() {
    for used in [0, 1, 2, 7, 50, 99, 100] {
        nothing_is_left(|pool, maps| {
            let mut imap = maps.chunks(pool).imap(again, items()).unwrap();
            assert_eq!(imap.by_ref().take(used).filter(Result::is_ok).count(), used);
            drop(imap);
            let mut unordered = maps.chunks(pool).imap_unordered(again, items()).unwrap();
            assert_eq!(
                unordered.by_ref().take(used).filter(Result::is_ok).count(),
                used
            );
            drop(unordered);
            let stream = maps.chunks(pool).imap_stream(again, stream::iter(items()));
            let mut stream = stream.unwrap();
            assert_eq!(block_on(stream.by_ref().take(used).count()), used);
            drop(stream);
            let mut imap = maps.chunks(pool).imap(again, items()).unwrap();
            drop(imap.next());
            let mut stream = imap.into_stream();
            drop(block_on(stream.next()));
        });
    }
}

#[test]
fn of_an_imap_whose_function_or_input_panics() {
    nothing_is_left(|pool, maps| {
        let imap = maps.chunks(pool).imap(fussy, items()).unwrap();
        assert_eq!(imap.filter(Result::is_err).count(), 1);
        let ends = || items().inspect(|item| assert!(item.0 != 50, "no more items"));
        let imap = maps.chunks(pool).imap(again, ends()).unwrap();
        assert_eq!(imap.filter(Result::is_err).count(), 1);
        let stream = maps.chunks(pool).imap_stream(again, stream::iter(ends()));
        let errors = stream
            .unwrap()
            .filter(|result| std::future::ready(result.is_err()));
        assert_eq!(block_on(errors.count()), 1);
    });
}

#[test]
fn of_an_imap_that_is_terminated() {
    for used in [0, 1, 30] {
        nothing_is_left(|pool, maps| {
            let mut imap = maps.chunks(pool).imap(again, items()).unwrap();
            let stream = maps.chunks(pool).imap_stream(again, stream::iter(items()));
            let mut stream = stream.unwrap();
            assert_eq!(imap.by_ref().take(used).filter(Result::is_ok).count(), used);
            assert_eq!(block_on(stream.by_ref().take(used).count()), used);
            pool.terminate();
            assert!(imap.count() <= 100 && block_on(stream.count()) <= 100);
        });
    }
}

#[test]
fn what_a_callback_holds_is_dropped_with_it() {
    nothing_is_left(|pool, maps| {
        let (one, other) = (Counted::new(1), Counted::new(2));
        let result = maps.map_async(pool, again, items());
        let result = result
            .callback(move |_| drop(one))
            .error_callback(move |_| drop(other));
        result.wait();
        assert_eq!(alive(), 100);
        drop(result);
    });
}

/// What travels between processes is made anew on each side, and dropped there.
#[test]
fn of_what_a_worker_process_was_given_and_gave() {
    fn sum(one: Counted, other: Counted) -> Counted {
        Counted::new(one.0 + other.0)
    }
    watched(|| {
        let _turn = my_turn();
        for maps in [Maps(None), Maps(Some(1)), Maps(Some(3)), Maps(Some(1000))] {
            let pool = WorkerPool::builder().max_workers(1);
            let pool = pool.backend(Backend::Multiprocessing).build().unwrap();
            // The one worker counts its own, between the tasks that have any.
            let nothing_is_left = |what: &str| {
                eventually(&format!("all is dropped: {what}, {maps:?}"), || {
                    pool.apply(alive).unwrap() == 0 && alive() == 0
                });
            };
            let made = |pool: &WorkerPool| {
                let there = pool.apply(|| MADE.load(Ordering::SeqCst)).unwrap();
                (MADE.load(Ordering::SeqCst), there)
            };
            nothing_is_left("before");

            let before = made(&pool);
            let results = maps.map_async(&pool, again, items()).get().unwrap();
            assert!(results.iter().zip(0..).all(|(counted, n)| counted.0 == n));
            eventually("the items are dropped", || alive() == 100);
            drop(results);
            nothing_is_left("results that were taken");
            // Items and results, on both sides.
            let after = made(&pool);
            assert_eq!((after.0 - before.0, after.1 - before.1), (200, 200));

            let result = maps.map_async(&pool, again, items());
            result.wait();
            drop(result);
            drop(maps.map_async(&pool, again, items()));
            drop(maps.map_async(&pool, again, items()).callback(|_| ()));
            let nothing = maps.map_async(&pool, |_: Counted| (), items());
            nothing.get().unwrap();
            nothing_is_left("results that nobody took");

            assert!(maps.map_async(&pool, fussy, items()).get().is_err());
            nothing_is_left("a map that failed");

            let item = Counted::new(7);
            assert_eq!(pool.apply(task!(again(item))).unwrap().0, 7);
            let item = Counted::new(50);
            assert!(pool.apply(task!(fussy(item))).is_err());
            let item = Counted::new(7);
            drop(pool.apply_async(task!(again(item))).unwrap());
            nothing_is_left("single calls");

            let sums = maps
                .chunks(&pool)
                .starmap(sum, items().zip(items()))
                .unwrap();
            assert!(sums.iter().zip(0..).all(|(counted, n)| counted.0 == 2 * n));
            drop(sums);
            nothing_is_left("functions of two arguments");

            let imap = maps.chunks(&pool).imap(fussy, items()).unwrap();
            assert_eq!(imap.filter(Result::is_err).count(), 1);
            for used in [0, 1, 50] {
                let mut imap = maps.chunks(&pool).imap_unordered(again, items()).unwrap();
                assert_eq!(imap.by_ref().take(used).filter(Result::is_ok).count(), used);
                drop(imap);
                let stream = maps.chunks(&pool).imap_stream(again, stream::iter(items()));
                let mut stream = stream.unwrap();
                assert_eq!(block_on(stream.by_ref().take(used).count()), used);
            }
            nothing_is_left("imaps");

            // The worker that runs some of them ends with the pool, but what is here must go.
            drop(maps.map_async(&pool, again, items()));
            pool.terminate();
            pool.join().unwrap();
            eventually("everything is dropped", || alive() <= 0);
            assert_eq!(alive(), 0, "terminated, {maps:?}");
        }
    });
}

/// Panics when it is dropped, in the process where it was made, unless it was defused.
#[derive(Debug, Serialize, Deserialize)]
struct Grenade {
    live: bool,
}

impl Drop for Grenade {
    fn drop(&mut self) {
        // Two panics at a time would end the process, whosoever code they are in.
        if self.live && !std::thread::panicking() {
            panic!("a grenade was dropped");
        }
    }
}

/// One that is live if it is the first.
fn grenade(n: u64) -> Grenade {
    Grenade { live: n == 0 }
}

/// Has the pool show that all its workers are well, and end.
fn is_well(pool: &WorkerPool) {
    let gates = GateKeeper::new();
    let items = || (0..pool.workers()).map(|_| gates.gate());
    let result = pool
        .chunksize(1)
        .map_async(|gate: Gate| gate.pass(), items());
    gates.wait_for(pool.workers());
    gates.open();
    result.unwrap().get().unwrap();
    pool.close();
    pool.join().unwrap();
}

/// On threads, where they lie side by side in the program's own memory.
#[test]
fn items_and_results_may_all_panic_when_dropped() {
    /// Panics whenever it is dropped, also where another one has.
    #[derive(Debug, Serialize, Deserialize)]
    struct Mine(bool);
    impl Drop for Mine {
        fn drop(&mut self) {
            assert!(!self.0, "a mine was dropped");
        }
    }
    watched(|| {
        for chunksize in [None, Some(1), Some(3), Some(20)] {
            let pool = WorkerPool::builder().backend(Backend::Threading);
            let pool = pool.max_workers(2).build().unwrap();
            let items = || (0..20).map(|n| (n, Mine(n > 2)));
            let result = |(n, mut item): (u64, Mine)| {
                assert!(n != 2, "no twos");
                item.0 = true;
                item
            };
            let result = match chunksize {
                None => pool.map(result, items()),
                Some(chunksize) => pool.chunksize(chunksize).map(result, items()),
            };
            assert!(result.unwrap_err().to_string().contains("no twos"));
            is_well(&pool);
        }
    });
}

freethreading::test_backends! {
    #[test]
    fn results_that_nobody_wants_may_panic_when_dropped() {
        watched(|| {
            for chunksize in [None, Some(1), Some(3), Some(20)] {
                let pool = WorkerPool::new(2).unwrap();
                let gates = GateKeeper::new();
                let items = || (0..20u64).map(|n| (n, gates.gate()));
                let function = |(n, gate): (u64, Gate)| {
                    gate.pass();
                    grenade(n)
                };
                let result = match chunksize {
                    None => pool.map_async(function, items()),
                    Some(chunksize) => pool.chunksize(chunksize).map_async(function, items()),
                };
                drop(result);
                let gate = gates.gate();
                drop(pool.apply_async(task!(|gate| {
                    gate.pass();
                    grenade(0)
                })));
                drop(pool.chunksize(chunksize.unwrap_or(1)).imap(function, items()));
                gates.open();
                is_well(&pool);
            }
        });
    }

    #[test]
    fn results_before_a_panic_may_panic_when_dropped() {
        fn fussy(n: u64) -> Grenade {
            assert!(n != 5, "no fives");
            grenade(n)
        }
        watched(|| {
            for chunksize in [None, Some(1), Some(3), Some(20)] {
                let pool = WorkerPool::new(2).unwrap();
                let result = match chunksize {
                    None => pool.map(fussy, 0..20),
                    Some(chunksize) => pool.chunksize(chunksize).map(fussy, 0..20),
                };
                let error = result.unwrap_err();
                assert!(error.to_string().contains("no fives"), "{error}");
                is_well(&pool);
            }
        });
    }

    #[test]
    fn items_that_are_left_out_may_panic_when_dropped() {
        // On processes items are encoded, and dropped, where the caller can see it.
        if get_backend().unwrap() == Backend::Multiprocessing {
            return;
        }
        watched(|| {
            for chunksize in [None, Some(1), Some(3), Some(20)] {
                for terminate in [false, true] {
                    let pool = WorkerPool::new(2).unwrap();
                    let gates = GateKeeper::new();
                    let function = |(gate, n, mut grenade): (Gate, u64, Grenade)| {
                        gate.pass();
                        grenade.live = false;
                        assert!(n > 1, "too small");
                    };
                    // A live one is behind those that the workers begin with.
                    let items = (0..20).map(|n| (gates.gate(), n, Grenade { live: n == 15 }));
                    let result = match chunksize {
                        None => pool.map_async(function, items),
                        Some(chunksize) => pool.chunksize(chunksize).map_async(function, items),
                    };
                    gates.wait_for(1);
                    if terminate {
                        pool.terminate();
                    }
                    gates.open();
                    assert!(result.unwrap().get().is_err());
                    match terminate {
                        true => pool.join().unwrap(),
                        false => is_well(&pool),
                    }
                }
            }
        });
    }

    #[test]
    fn what_a_callback_holds_may_panic_when_dropped() {
        watched(|| {
            let pool = WorkerPool::new(1).unwrap();
            for chunksize in [None, Some(1)] {
                let grenade = Grenade { live: true };
                let result = match chunksize {
                    None => pool.map_async(|n: u64| n, 0..3),
                    Some(chunksize) => pool.chunksize(chunksize).map_async(|n: u64| n, 0..3),
                };
                let result = result.unwrap().error_callback(move |_| drop(grenade));
                assert_eq!(result.get().unwrap(), [0, 1, 2]);
                let grenade = Grenade { live: true };
                let result = pool.apply_async(|| 7).unwrap().error_callback(move |_| drop(grenade));
                assert_eq!(result.get().unwrap(), 7);
            }
            is_well(&pool);
        });
    }

    #[test]
    fn nothing_keeps_a_delivered_result() {
        watched(|| {
            let pool = WorkerPool::new(2).unwrap();
            let kept = Arc::new(());
            for chunksize in [1, 3] {
                let witness = Arc::clone(&kept);
                let result = pool.chunksize(chunksize).map_async(|n: u64| n, 0..10).unwrap();
                let result = result.callback(move |_| drop(witness));
                result.get().unwrap();
                // The callback is gone, although the result is not.
                assert_eq!(Arc::strong_count(&kept), 1);
                drop(result);
            }
            is_well(&pool);
        });
    }
}
