//! What executors and pools tell of themselves while they work.

mod common;

use std::thread;

use common::{Gate, GateKeeper, Scratch, eventually, watched};
use freethreading::{
    Backend, Stats, TaskError, WorkerPool, WorkerPoolExecutor, current_worker, get_backend, task,
};

freethreading::init_tests!();

fn pass(gate: Gate) -> u64 {
    gate.pass();
    freethreading::get_ident()
}

fn fail() {
    panic!("not today");
}

fn exit() {
    std::process::exit(3);
}

/// Spares all but some of the items.
fn spare(x: u32) -> Vec<u8> {
    assert!(x % 10 != 3, "not today");
    vec![0; x as usize]
}

/// What it has done so far.
fn counts(stats: &Stats) -> (usize, usize, u64, u64) {
    (stats.queued, stats.running, stats.completed, stats.failed)
}

freethreading::test_backends! {
    #[test]
    fn what_waits_and_what_runs_is_seen() {
        watched(|| {
            let gates = GateKeeper::new();
            let executor = WorkerPoolExecutor::new(2).unwrap();
            assert_eq!(counts(&executor.stats()), (0, 0, 0, 0));
            let futures: Vec<_> = (0..5)
                .map(|_| executor.submit(task!(pass(gates.gate()))))
                .collect();
            gates.wait_for(2);
            let stats = executor.stats();
            assert_eq!(counts(&stats), (3, 2, 0, 0));
            assert_eq!(stats.workers.len(), 2);
            for worker in &stats.workers {
                assert!(worker.task.is_some_and(|task| task.contains("pass")), "{worker:?}");
                assert!(worker.running_for.is_some());
                assert_eq!((worker.completed, worker.failed), (0, 0));
            }
            let mut ranks: Vec<_> = stats.workers.iter().map(|worker| worker.rank).collect();
            ranks.sort();
            assert_eq!(ranks, [Some(0), Some(1)]);
            gates.open();
            let idents: Vec<_> = futures.iter().map(|future| future.result().unwrap()).collect();
            // Who has seen a result sees it counted.
            let stats = executor.stats();
            assert_eq!(counts(&stats), (0, 0, 5, 0));
            for worker in &stats.workers {
                assert!(worker.ident.is_some_and(|ident| idents.contains(&ident)), "{worker:?}");
                assert_eq!((worker.task, worker.running_for), (None, None));
            }
        });
    }

    #[test]
    fn failures_are_counted_apart() {
        watched(|| {
            let executor = WorkerPoolExecutor::new(1).unwrap();
            for _ in 0..3 {
                assert!(executor.submit(fail).result().is_err());
                executor.submit(|| ()).result().unwrap();
            }
            let stats = executor.stats();
            assert_eq!(counts(&stats), (0, 0, 3, 3));
            assert_eq!(stats.workers[0].failed, 3);
            assert_eq!(stats.restarted, 0);
        });
    }

    #[test]
    fn a_chunk_of_a_map_in_which_an_item_panics_is_a_failure() {
        watched(|| {
            let executor = WorkerPoolExecutor::new(1).unwrap();
            let results = executor.chunksize(1).buffersize(10).map(spare, 0..6).unwrap();
            assert_eq!(results.filter(Result::is_err).count(), 1);
            assert_eq!(counts(&executor.stats()), (0, 0, 5, 1));
            // The map is over, and what it had submitted runs: nobody has looked at the results.
            let _ = executor.map(spare, 0..6);
            executor.submit(|| ()).result().unwrap();
            assert_eq!(counts(&executor.stats()), (0, 0, 11, 2));
            let _ = executor.chunksize(2).map(spare, 0..6);
            executor.submit(|| ()).result().unwrap();
            assert_eq!(counts(&executor.stats()), (0, 0, 14, 3));
            // Results of this length are not sent in a frame.
            let large = executor.chunksize(2).buffersize(2).map(spare, [60_000, 60_003, 60_001]);
            assert_eq!(large.unwrap().filter(Result::is_err).count(), 1);
            assert_eq!(counts(&executor.stats()), (0, 0, 15, 4));
        });
    }

    #[test]
    fn what_a_worker_does_for_a_map_is_a_failure_if_an_item_panics() {
        watched(|| {
            let pool = WorkerPool::new(1).unwrap();
            pool.map(spare, 0..3).unwrap();
            eventually("it is counted", || pool.stats().completed > 0);
            let completed = pool.stats().completed;
            pool.map(spare, [3]).unwrap_err();
            eventually("it is counted", || pool.stats().failed == 1);
            assert_eq!(pool.stats().completed, completed);
            pool.chunksize(2).map(spare, 0..4).unwrap_err();
            eventually("it is counted", || pool.stats().failed == 2);
            let results = pool.imap(spare, 0..6).unwrap();
            assert_eq!(results.filter(Result::is_err).count(), 1);
            assert_eq!(pool.stats().failed, 3);
        });
    }

    #[test]
    fn a_task_that_was_cancelled_is_neither_completed_nor_failed() {
        watched(|| {
            let gates = GateKeeper::new();
            let executor = WorkerPoolExecutor::new(1).unwrap();
            let first = executor.submit(task!(pass(gates.gate())));
            gates.wait_for(1);
            let mut others: Vec<_> = (0..100).map(|_| executor.submit(|| ())).collect();
            assert!(others.drain(1..).all(|other| other.cancel()));
            assert_eq!(counts(&executor.stats()), (1, 1, 0, 0));
            assert!(others[0].cancel());
            assert_eq!(counts(&executor.stats()), (0, 1, 0, 0));
            gates.open();
            first.result().unwrap();
            executor.submit(|| ()).result().unwrap();
            assert_eq!(counts(&executor.stats()), (0, 0, 2, 0));
        });
    }

    #[test]
    fn a_pool_has_its_workers_from_the_start() {
        watched(|| {
            let pool = WorkerPool::new(3).unwrap();
            assert_eq!(pool.stats().workers.len(), 3);
            let names = pool.stats().workers.into_iter().map(|worker| worker.name);
            let name = pool.apply(|| current_worker().name()).unwrap();
            assert!(names.collect::<Vec<_>>().contains(&name));
            assert_eq!(counts(&pool.stats()), (0, 0, 1, 0));
            pool.close();
            pool.join().unwrap();
            let stats = pool.stats();
            assert_eq!((stats.workers.len(), stats.completed), (0, 1));
        });
    }

    #[test]
    fn workers_that_were_replaced_are_counted_with_what_they_did() {
        watched(|| {
            let executor = WorkerPoolExecutor::builder().max_workers(1).max_tasks_per_child(2);
            let executor = executor.build().unwrap();
            for _ in 0..6 {
                executor.submit(|| ()).result().unwrap();
            }
            eventually("the others have ended", || executor.stats().restarted >= 2);
            assert_eq!(executor.stats().completed, 6);
        });
    }
}

#[test]
fn a_worker_that_could_not_be_started_is_no_restart() {
    watched(|| {
        let directory = Scratch::new();
        let nowhere = directory.path().join("nowhere");
        let executor = WorkerPoolExecutor::builder()
            .max_workers(1)
            .backend(Backend::Multiprocessing)
            .current_dir(&nowhere);
        let executor = executor.build().unwrap();
        for _ in 0..3 {
            let refused = executor.submit(|| ()).result();
            assert!(matches!(refused, Err(TaskError::Start(_))), "{refused:?}");
        }
        std::fs::create_dir(&nowhere).unwrap();
        executor.submit(|| ()).result().unwrap();
        assert_eq!(executor.stats().restarted, 0);
        executor.submit(exit).result().unwrap_err();
        executor.submit(|| ()).result().unwrap();
        assert_eq!(executor.stats().restarted, 1);
    });
}

#[test]
fn a_worker_that_died_is_a_failure_and_a_restart() {
    watched(|| {
        let pool = WorkerPool::builder()
            .max_workers(1)
            .backend(Backend::Multiprocessing);
        let pool = pool.build().unwrap();
        let died = pool.apply(exit).unwrap_err();
        assert!(matches!(
            died,
            freethreading::Error::Task(TaskError::WorkerDied(_))
        ));
        pool.apply(|| ()).unwrap();
        let stats = pool.stats();
        assert_eq!(counts(&stats), (0, 0, 1, 1));
        assert_eq!(stats.restarted, 1);
        assert_eq!(stats.workers[0].rank, Some(0));
    });
}

freethreading::test_backends! {
    #[test]
    fn a_pool_with_a_limit_gives_back_what_is_too_much() {
        watched(|| {
            let gates = GateKeeper::new();
            let pool = WorkerPool::builder().max_workers(1).max_pending(1).build().unwrap();
            assert_eq!(pool.backend(), get_backend().unwrap());
            let running = pool.apply_async(task!(pass(gates.gate()))).unwrap();
            gates.wait_for(1);
            let waiting = pool.try_apply_async(|| 1).unwrap().unwrap();
            let full = pool.try_apply_async(|| 7).unwrap().unwrap_err();
            assert_eq!(full.into_inner()(), 7);
            let queued = futures::executor::block_on(async {
                let mut queued = Box::pin(pool.apply_queued(|| 3));
                assert!(futures::poll!(&mut queued).is_pending());
                gates.open();
                queued.await.unwrap().await.unwrap()
            });
            assert_eq!(queued, 3);
            running.get().unwrap();
            assert_eq!(waiting.get().unwrap(), 1);
            pool.close();
            let refused = futures::executor::block_on(pool.apply_queued(|| 3));
            assert!(matches!(refused, Err(freethreading::Error::NotRunning)));
            assert!(matches!(pool.try_apply_async(|| 3), Err(freethreading::Error::NotRunning)));
        });
    }

    #[test]
    fn who_waits_for_room_in_a_pool_that_is_closed_is_refused() {
        watched(|| {
            let gates = GateKeeper::new();
            let pool = WorkerPool::builder().max_workers(1).max_pending(1).build().unwrap();
            let running = pool.apply_async(task!(pass(gates.gate()))).unwrap();
            gates.wait_for(1);
            let waiting = pool.apply_async(|| 1).unwrap();
            let mut queued = Box::pin(pool.apply_queued(|| 3));
            futures::executor::block_on(async {
                assert!(futures::poll!(&mut queued).is_pending());
            });
            thread::scope(|scope| {
                let applied = scope.spawn(|| pool.apply(|| 2));
                pool.close();
                let applied = applied.join().unwrap();
                assert!(matches!(applied, Err(freethreading::Error::NotRunning)));
            });
            let queued = futures::executor::block_on(queued);
            assert!(matches!(queued, Err(freethreading::Error::NotRunning)));
            gates.open();
            running.get().unwrap();
            assert_eq!(waiting.get().unwrap(), 1);
        });
    }

    #[test]
    fn a_map_with_a_buffer_reads_no_further_than_it_may() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        watched(|| {
            static READ: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];
            let read = &READ[usize::from(get_backend().unwrap() == Backend::Threading)];
            let executor = WorkerPoolExecutor::new(2).unwrap();
            let items = (0u64..).inspect(|_| {
                read.fetch_add(1, Ordering::SeqCst);
            });
            let mut squares = executor.chunksize(10).buffersize(3).map(|n| n * n, items).unwrap();
            for n in 0..1000 {
                assert_eq!(squares.next().unwrap().unwrap(), n * n);
                assert!(read.load(Ordering::SeqCst) as u64 <= n + 1 + 3 * 10);
            }
            for (chunksize, buffersize) in [(0, 1), (1, 0)] {
                let mapping = executor.chunksize(chunksize).buffersize(buffersize);
                let refused = mapping.map(|n: u64| n, 0..3);
                assert!(matches!(refused, Err(freethreading::Error::InvalidArgument(_))));
            }
        });
    }
}
