//! Worker processes of a pool that die, at any moment and in any way: each costs the task that it had,
//! and nothing else, and another takes its place.

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use common::{
    Gate, GateKeeper, Random, Scratch, Sign, Wakes, death, eventually, runs, signal, stop,
    unique_prefix, watched,
    ways::{Hand, report, wait_asleep},
    workers_of,
};
use freethreading::{
    AsyncResult, Backend, Death, Error, TaskError, WorkerPool, WorkerPoolBuilder, task,
};
use futures::{StreamExt, executor::block_on, stream};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

freethreading::init_tests!();

fn builder(workers: usize) -> WorkerPoolBuilder {
    WorkerPool::builder()
        .max_workers(workers)
        .backend(Backend::Multiprocessing)
}

fn pool(workers: usize) -> WorkerPool {
    builder(workers).build().unwrap()
}

fn double(x: u64) -> u64 {
    x * 2
}

fn doubles(range: std::ops::Range<u64>) -> Vec<u64> {
    range.map(double).collect()
}

fn pid_of_worker(pool: &WorkerPool) -> u32 {
    pool.apply(std::process::id).unwrap()
}

/// The ways to end a worker from within.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum End {
    Exit(i32),
    Abort,
    Kill,
    Segfault,
}

impl End {
    const ALL: [End; 5] = [
        End::Exit(0),
        End::Exit(3),
        End::Abort,
        End::Kill,
        End::Segfault,
    ];

    fn come(self) -> ! {
        match self {
            End::Exit(code) => std::process::exit(code),
            End::Abort => std::process::abort(),
            End::Kill => signal(std::process::id(), libc::SIGKILL),
            End::Segfault => {
                let nowhere = std::ptr::without_provenance_mut::<u64>(64);
                // SAFETY: there is none: it is what the test is about. Nothing is mapped there.
                unsafe { nowhere.write_volatile(1) };
            }
        }
        loop {
            thread::park();
        }
    }

    fn death(self) -> Death {
        match self {
            End::Exit(code) => Death::Exited(code),
            End::Abort => Death::Signaled(libc::SIGABRT),
            End::Kill => Death::Signaled(libc::SIGKILL),
            End::Segfault => Death::Signaled(libc::SIGSEGV),
        }
    }
}

fn come(end: End) {
    end.come()
}

/// Doubles the number, unless it is the end.
fn double_or_end((n, end): (u64, Option<End>)) -> u64 {
    if let Some(end) = end {
        end.come();
    }
    double(n)
}

/// Items of which the seventh is deadly.
fn items(end: End) -> impl Iterator<Item = (u64, Option<End>)> {
    (0..20).map(move |n| (n, (n == 7).then_some(end)))
}

/// All its workers are there, and well.
#[track_caller]
fn is_well(pool: &WorkerPool) {
    let gates = GateKeeper::new();
    let gate_of_each = (0..pool.workers()).map(|_| gates.gate());
    let result = pool
        .chunksize(1)
        .map_async(|gate: Gate| gate.pass(), gate_of_each);
    gates.wait_for(pool.workers());
    gates.open();
    result.unwrap().get().unwrap();
    assert_eq!(pool.map(double, 0..10).unwrap(), doubles(0..10));
}

#[test]
fn a_task_that_ends_its_worker_costs_itself_only() {
    watched(|| {
        let pool = pool(2);
        for end in End::ALL {
            let before: Vec<_> = (0..10)
                .map(|n| pool.apply_async(task!(double(n))).unwrap())
                .collect();
            let doomed = pool.apply_async(task!(come(end))).unwrap();
            let after: Vec<_> = (0..10)
                .map(|n| pool.apply_async(task!(double(n))).unwrap())
                .collect();
            let died = death(doomed.get());
            assert_eq!(*died.death(), end.death());
            assert!(died.worker().starts_with("ProcessPool-"), "{died}");
            for results in [before, after] {
                for (n, result) in (0..).zip(results) {
                    assert_eq!(result.get().unwrap(), 2 * n);
                }
            }
            assert_eq!(*death(pool.apply(task!(come(end)))).death(), end.death());
            is_well(&pool);
        }
    });
}

#[test]
fn those_who_wait_in_all_ways_learn_of_a_death_once() {
    fn tell_and_wait((sign, gate): (Sign, Gate)) -> u64 {
        sign.tell(std::process::id());
        gate.pass();
        0
    }
    type Submit = fn(&WorkerPool, (Sign, Gate)) -> AsyncResult<Vec<u64>>;
    let submits: [Submit; 3] = [
        |pool, item| {
            let result = pool.apply_async(task!(|item| vec![tell_and_wait(item)]));
            result.unwrap()
        },
        |pool, item| pool.map_async(tell_and_wait, [item]).unwrap(),
        |pool, item| {
            let pool = pool.chunksize(3);
            pool.map_async(tell_and_wait, [item]).unwrap()
        },
    ];
    watched(|| {
        let pool = pool(1);
        // With a callback the result is another kind of thing.
        let both = submits.map(|submit| [(submit, false), (submit, true)]);
        for (submit, hooked) in both.concat() {
            let (gates, scratch) = (GateKeeper::new(), Scratch::new());
            let mut result = submit(&pool, (scratch.sign("pid"), gates.gate()));
            let calls = Arc::new(AtomicUsize::new(0));
            if hooked {
                let (fine, failed) = (Arc::clone(&calls), Arc::clone(&calls));
                result = result
                    .callback(move |_| _ = fine.fetch_add(100, Ordering::SeqCst))
                    .error_callback(move |_| _ = failed.fetch_add(1, Ordering::SeqCst));
            }
            let pid = scratch.sign("pid").hear().parse().unwrap();
            thread::scope(|scope| {
                let result = &result;
                let threads: Vec<_> = (0..8)
                    .map(|n| {
                        let asleep = scratch.sign(&format!("asleep-{n}"));
                        let told = asleep.clone();
                        let thread = scope.spawn(move || {
                            report(&told);
                            if n % 2 == 0 {
                                block_on(result.wait_async());
                            }
                            result.get()
                        });
                        wait_asleep(&asleep);
                        thread
                    })
                    .collect();
                let tasks: Vec<_> = (0..8)
                    .map(|_| {
                        let (mut hand, wakes) = (Hand::new(result.wait_async()), Wakes::new());
                        assert!(hand.poll_with(&Arc::clone(&wakes).into()).is_pending());
                        (hand, wakes)
                    })
                    .collect();
                signal(pid, libc::SIGKILL);
                for thread in threads {
                    assert_eq!(death(thread.join().unwrap()).pid(), pid);
                }
                for (mut hand, wakes) in tasks {
                    eventually("the waker is called", || wakes.count() > 0);
                    hand.ready();
                    assert_eq!(wakes.count(), 1);
                }
            });
            assert_eq!(death(block_on(result)).pid(), pid);
            assert_eq!(calls.load(Ordering::SeqCst), usize::from(hooked));
            is_well(&pool);
        }
    });
}

/// Who awaits a result itself rather than waits for it to be there.
#[test]
fn results_that_are_awaited_tell_of_a_death_once() {
    fn tell_and_wait(sign: Sign, gate: Gate) {
        sign.tell(std::process::id());
        gate.pass();
    }
    watched(|| {
        let pool = pool(8);
        let (gates, scratch) = (GateKeeper::new(), Scratch::new());
        let awaited = (0..8).map(|n| {
            let sign = scratch.sign(&format!("pid-{n}"));
            let result = pool.apply_async(task!(tell_and_wait(sign.clone(), gates.gate())));
            let mut result = result.unwrap();
            if n % 2 == 0 {
                result = result.error_callback(|_| ());
            }
            let (mut hand, wakes) = (Hand::new(result), Wakes::new());
            assert!(hand.poll_with(&Arc::clone(&wakes).into()).is_pending());
            let pid: u32 = sign.hear().parse().unwrap();
            (pid, hand, wakes)
        });
        let awaited: Vec<_> = awaited.collect();
        for (pid, ..) in &awaited {
            signal(*pid, libc::SIGKILL);
        }
        for (pid, mut hand, wakes) in awaited {
            eventually("the waker is called", || wakes.count() > 0);
            assert_eq!(death(hand.ready()).pid(), pid);
            drop(hand);
            assert_eq!(wakes.count(), 1);
        }
        is_well(&pool);
    });
}

#[test]
fn an_item_that_ends_its_worker_is_the_error_of_its_map() {
    watched(|| {
        let pool = pool(2);
        for end in End::ALL {
            let other = pool.map_async(double, 0..100).unwrap();
            let chunked = pool.chunksize(3);
            let results = [
                pool.map(double_or_end, items(end)),
                pool.starmap(|n, end| double_or_end((n, end)), items(end)),
                chunked.map(double_or_end, items(end)),
                Ok(
                    block_on(chunked.map_async(double_or_end, items(end)).unwrap())
                        .unwrap_or_default(),
                ),
            ];
            for (k, result) in results.into_iter().enumerate() {
                match k {
                    3 => assert!(result.unwrap().is_empty()),
                    _ => assert_eq!(*death(result).death(), end.death()),
                }
            }
            assert_eq!(other.get().unwrap(), doubles(0..100));
            is_well(&pool);
        }
    });
}

#[test]
fn an_item_that_ends_its_worker_is_an_error_among_the_others_of_an_imap() {
    watched(|| {
        let pool = pool(2);
        for end in End::ALL {
            for chunksize in [1, 3] {
                let chunks = pool.chunksize(chunksize);
                let streamed = chunks.imap_stream(double_or_end, stream::iter(items(end)));
                let all = [
                    chunks
                        .imap(double_or_end, items(end))
                        .unwrap()
                        .collect::<Vec<_>>(),
                    chunks
                        .imap_unordered(double_or_end, items(end))
                        .unwrap()
                        .collect(),
                    block_on(streamed.unwrap().collect()),
                ];
                for (k, results) in all.into_iter().enumerate() {
                    let (fine, failed): (Vec<_>, Vec<_>) =
                        results.into_iter().partition(Result::is_ok);
                    let [failed] = <[_; 1]>::try_from(failed).unwrap();
                    assert_eq!(*death(failed).death(), end.death());
                    let mut numbers: Vec<_> = fine.into_iter().map(Result::unwrap).collect();
                    if k == 1 {
                        numbers.sort_unstable();
                    }
                    // The other items of the chunk are lost with it.
                    let lost = if chunksize == 1 { 7..8 } else { 6..9 };
                    let expected = (0..20).filter(|n| !lost.contains(n)).map(double);
                    assert!(expected.eq(numbers), "{end:?}, {k}");
                }
            }
            is_well(&pool);
        }
    });
}

#[test]
fn workers_that_die_idle_are_replaced() {
    let (workers, prefix) = (3, unique_prefix());
    watched(|| {
        let pool = builder(workers).name_prefix(&prefix).build().unwrap();
        for round in 0..10 {
            let before = workers_of(&prefix);
            assert_eq!(before.len(), workers);
            // One of use now and then: a pool whose workers do nothing but die gives up.
            if round % 2 == 0 {
                is_well(&pool);
            }
            for &pid in &before {
                signal(pid as u32, libc::SIGKILL);
            }
            eventually("others have taken their places", || {
                let now = workers_of(&prefix);
                now.len() == workers && now.iter().all(|pid| !before.contains(pid))
            });
        }
        is_well(&pool);
        pool.close();
        pool.join().unwrap();
        assert!(workers_of(&prefix).is_empty());
    });
}

#[test]
fn a_pool_of_which_a_worker_is_refused_leaves_none() {
    watched(|| {
        let prefix = unique_prefix();
        let builder = builder(3).name_prefix(&prefix);
        let refused = builder.current_dir("/nowhere/at/all").build();
        assert!(matches!(refused, Err(Error::Start(_))), "{refused:?}");
        assert!(workers_of(&prefix).is_empty());
    });
}

#[test]
fn a_task_for_a_worker_that_was_just_killed_is_not_lost() {
    watched(|| {
        let pool = pool(1);
        for _ in 0..50 {
            let pid = pid_of_worker(&pool);
            signal(pid, libc::SIGKILL);
            assert_ne!(pid_of_worker(&pool), pid);
        }
    });
}

#[test]
fn a_replacement_runs_the_initializer_too() {
    watched(|| {
        let scratch = Scratch::new();
        let sign = scratch.sign("initialized");
        let initializer = task!(|sign| sign.note(std::process::id()));
        let pool = builder(1).initializer(initializer).build().unwrap();
        let first = pid_of_worker(&pool);
        death(pool.apply(|| -> () { End::Kill.come() }));
        let second = pid_of_worker(&pool);
        let notes = scratch.sign("initialized").notes();
        assert_eq!(notes, [first.to_string(), second.to_string()]);
    });
}

#[test]
fn an_initializer_that_ends_its_worker_breaks_the_pool() {
    watched(|| {
        for end in End::ALL {
            let (gates, scratch) = (GateKeeper::new(), Scratch::new());
            let (gate, sign) = (gates.gate(), scratch.sign("attempts"));
            let initializer = task!(|gate, sign, end| {
                gate.pass();
                sign.note("attempt");
                come(end);
            });
            let pool = builder(2).initializer(initializer).build().unwrap();
            let pending = pool.apply_async(task!(double(1))).unwrap();
            let mapping = pool.map_async(double, 0..100).unwrap();
            gates.open();
            let is_it = |error| matches!(error, TaskError::Broken(_));
            assert!(is_it(pending.get().unwrap_err()));
            assert!(is_it(mapping.get().unwrap_err()));
            assert!(pool.apply(task!(double(1))).is_err());
            pool.close();
            pool.join().unwrap();
            // Three failures in a row, or of each worker.
            let attempts = scratch.sign("attempts").notes().len();
            assert!((3..=9).contains(&attempts), "{attempts}");
        }
    });
}

#[test]
fn a_worker_may_be_killed_while_it_sends_a_large_result() {
    fn large((sign, len): (Sign, usize)) -> ByteBuf {
        sign.tell(std::process::id());
        ByteBuf::from(vec![7; len])
    }
    watched(|| {
        let pool = pool(2);
        let mut random = Random::new();
        for round in 0..30 {
            let scratch = Scratch::new();
            let items = [(scratch.sign("pid"), 8 << 20)];
            let doomed = match round % 3 {
                0 => pool.map_async(large, items).unwrap(),
                1 => pool.chunksize(1).map_async(large, items).unwrap(),
                _ => {
                    let [item] = items;
                    pool.apply_async(task!(|item| vec![large(item)])).unwrap()
                }
            };
            let others = pool.map_async(double, 0..100).unwrap();
            let pid = scratch.sign("pid").hear().parse().unwrap();
            spin(random.below(400_000));
            signal(pid, libc::SIGKILL);
            match doomed.get() {
                Ok(bytes) => assert!(bytes.len() == 1 && common::is_all(&bytes[0], 7)),
                error => {
                    let died = death(error);
                    assert_eq!((died.pid(), died.signal()), (pid, Some(libc::SIGKILL)));
                }
            }
            // It may have got some of the others by then.
            match others.get() {
                Ok(numbers) => assert_eq!(numbers, doubles(0..100)),
                error => assert_eq!(death(error).pid(), pid),
            }
        }
        is_well(&pool);
    });
}

/// Lets some time pass, so that what follows comes at another moment each time.
fn spin(rounds: usize) {
    (0..rounds).for_each(|_| std::hint::spin_loop());
}

#[test]
fn a_stopped_worker_can_be_terminated() {
    watched(|| {
        let prefix = unique_prefix();
        let pool = builder(2).name_prefix(&prefix).build().unwrap();
        is_well(&pool);
        for pid in workers_of(&prefix) {
            stop(pid as u32);
        }
        let results = [
            pool.map_async(double, 0..1000).unwrap(),
            pool.chunksize(2).map_async(double, 0..1000).unwrap(),
        ];
        let tasks: Vec<_> = (0..10)
            .map(|n| pool.apply_async(task!(double(n))).unwrap())
            .collect();
        pool.terminate();
        for result in results {
            assert!(matches!(result.get(), Err(TaskError::Terminated(_))));
        }
        for result in tasks {
            assert!(matches!(result.get(), Err(TaskError::Terminated(_))));
        }
        pool.join().unwrap();
        assert!(workers_of(&prefix).is_empty());
    });
}

#[test]
fn a_terminated_worker_dies_whatever_it_does() {
    fn hold_on(sign: Sign) {
        // SAFETY: the call takes no pointers but the handler that ignores.
        unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
        sign.note(std::process::id());
        loop {
            std::hint::spin_loop();
        }
    }
    watched(|| {
        let scratch = Scratch::new();
        let pool = pool(2);
        let result = pool
            .map_async(hold_on, (0..10).map(|_| scratch.sign("pids")))
            .unwrap();
        eventually("both are busy", || scratch.sign("pids").notes().len() == 2);
        pool.terminate();
        assert!(matches!(result.get(), Err(TaskError::Terminated(_))));
        pool.join().unwrap();
        for pid in scratch.sign("pids").notes() {
            assert!(!runs(pid.parse().unwrap()));
        }
    });
}

#[test]
fn a_death_after_the_close_costs_its_task_only() {
    watched(|| {
        for chunksize in [None, Some(1)] {
            let (gates, scratch) = (GateKeeper::new(), Scratch::new());
            let pool = pool(1);
            let (gate, sign) = (gates.gate(), scratch.sign("pid"));
            let doomed = pool.apply_async(task!(|gate, sign| {
                sign.tell(std::process::id());
                gate.pass();
            }));
            let mapping = match chunksize {
                None => pool.map_async(double, 0..100),
                Some(chunksize) => pool.chunksize(chunksize).map_async(double, 0..100),
            };
            let pid = scratch.sign("pid").hear().parse().unwrap();
            pool.close();
            signal(pid, libc::SIGKILL);
            assert_eq!(death(doomed.unwrap().get()).pid(), pid);
            assert_eq!(mapping.unwrap().get().unwrap(), doubles(0..100));
            pool.join().unwrap();
        }
    });
}

#[test]
fn too_large_a_frame_is_the_error_of_its_own_task() {
    watched(|| {
        let pool = builder(2).max_frame_len(64 << 10).build().unwrap();
        let large = ByteBuf::from(vec![7; 1 << 20]);
        let error = pool.apply(task!(|large| large.len())).unwrap_err();
        assert!(
            matches!(error, Error::Task(TaskError::TooLarge(_))),
            "{error}"
        );
        let lens = [10, 1 << 20, 10]
            .map(|len: usize| move || len)
            .map(|len| len());
        let make = |len: usize| ByteBuf::from(vec![7; len]);
        let error = pool.chunksize(1).map(make, lens).unwrap_err();
        assert!(
            matches!(error, Error::Task(TaskError::TooLarge(_))),
            "{error}"
        );
        let results: Vec<_> = pool.imap(make, lens).unwrap().collect();
        assert!(matches!(
            results.as_slice(),
            [Ok(_), Err(TaskError::TooLarge(_)), Ok(_)]
        ));
        is_well(&pool);
    });
}

#[test]
fn what_is_too_large_for_a_frame_takes_no_memory_for_it() {
    watched(|| {
        let builder = builder(1).max_frame_len(1 << 20);
        let pool = builder.memory_limit(150 << 20).build().unwrap();
        // Once; not twice.
        let error = pool.apply(|| "x".repeat(100 << 20)).unwrap_err();
        let Error::Task(TaskError::TooLarge(error)) = error else {
            panic!("{error}");
        };
        assert!(error.size() > 100 << 20, "{error}");
        is_well(&pool);
    });
}

/// Tells the workers of one pool from those of all others.
#[test]
fn every_result_resolves_once_while_workers_are_killed_at_random() {
    watched(|| {
        let prefix = unique_prefix();
        let pool = builder(3).name_prefix(&prefix).build().unwrap();
        let completed = Arc::new(AtomicUsize::new(0));
        let over = AtomicBool::new(false);
        let mut deaths = 0;
        thread::scope(|scope| {
            scope.spawn(|| common::kill_at_random(&prefix, &completed, 5, &over));
            let counted = |result: AsyncResult<Vec<u64>>| {
                let (fine, failed) = (Arc::clone(&completed), Arc::clone(&completed));
                result
                    .callback(move |_| _ = fine.fetch_add(1, Ordering::SeqCst))
                    .error_callback(move |_| _ = failed.fetch_add(1, Ordering::SeqCst))
            };
            let mut results = Vec::new();
            for n in 0..200 {
                results.push(counted(pool.map_async(double, 0..n).unwrap()));
                results.push(counted(pool.chunksize(7).map_async(double, 0..n).unwrap()));
                results.push(counted(pool.apply_async(task!(|n| doubles(0..n))).unwrap()));
            }
            let mut imap = pool.imap(double, 0..300).unwrap();
            for n in 0..300 {
                match imap.next().unwrap() {
                    Ok(number) => assert_eq!(number, double(n)),
                    error => drop(death(error)),
                }
            }
            assert!(imap.next().is_none());
            for (k, result) in results.into_iter().enumerate() {
                match result.get() {
                    Ok(numbers) => assert_eq!(numbers, doubles(0..k as u64 / 3)),
                    error => {
                        death(error);
                        deaths += 1;
                    }
                }
            }
            over.store(true, Ordering::SeqCst);
        });
        assert_eq!(completed.load(Ordering::SeqCst), 600);
        assert!(deaths < 300, "{deaths}");
        is_well(&pool);
        pool.close();
        pool.join().unwrap();
        assert!(workers_of(&prefix).is_empty());
    });
}
