//! What holds for a crew whose workers all start at once, whatever is built on it.

use std::{
    sync::atomic::AtomicU64,
    thread,
    time::{Duration, Instant},
};

use super::*;
use crate::{
    engine::scheduler::Queued,
    error::Effect,
    executor::TaskFuture,
    task,
    worker::{active_children, current_worker},
};

struct Pool {
    scheduler: Arc<Scheduler>,
    max_workers: usize,
}

impl Built for Pool {
    const NAME: &'static str = "TestPool";
    const HIRING: Hiring = Hiring::AtOnce;

    fn counter() -> &'static AtomicU64 {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        &NEXT
    }

    fn default_workers(_: Backend, cpus: usize) -> usize {
        cpus
    }

    fn of(scheduler: Arc<Scheduler>, _: Backend, max_workers: usize) -> Self {
        Pool {
            scheduler,
            max_workers,
        }
    }
}

impl Pool {
    fn submit<M, T: IntoTask<M>>(&self, task: T) -> TaskFuture<T::Output> {
        TaskFuture::submit(task.into_task(), &self.scheduler, None)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.scheduler.terminate();
    }
}

fn prefix() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("crew-{}-", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn idents(prefix: &str) -> Vec<u64> {
    let workers = active_children();
    let ours = workers.iter().filter(|w| w.name().starts_with(prefix));
    ours.filter_map(|worker| worker.ident()).collect()
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        thread::yield_now();
        assert!(start.elapsed() < Duration::from_secs(50), "never: {what}");
    }
}

fn seven() -> u32 {
    7
}

fn sleep_for_long() {
    thread::sleep(Duration::from_secs(2));
}

crate::test_backends! {
    #[test]
    fn all_workers_start_at_once_and_no_more() {
        let prefix = prefix();
        let pool = Builder::<Pool>::new().max_workers(3).name_prefix(&prefix).build().unwrap();
        assert_eq!((pool.max_workers, idents(&prefix).len()), (3, 3));
        let futures: Vec<_> = (0..50).map(|_| pool.submit(seven)).collect();
        assert!(futures.iter().all(|future| future.result().unwrap() == 7));
        assert_eq!(idents(&prefix).len(), 3);
        assert!(!pool.scheduler.outlasts_main());
        drop(pool);
        eventually("the workers end", || idents(&prefix).is_empty());
    }

    #[test]
    fn by_default_there_is_one_worker_for_each_cpu() {
        let pool = Builder::<Pool>::new().build().unwrap();
        let cpus = available_parallelism().map_or(1, NonZero::get);
        assert_eq!(pool.max_workers, cpus);
    }

    #[test]
    fn terminating_ends_every_task_at_once() {
        let pool = Builder::<Pool>::new().max_workers(1).build().unwrap();
        let futures: Vec<_> = (0..100).map(|_| pool.submit(sleep_for_long)).collect();
        eventually("the first runs", || futures[0].running());
        thread::scope(|scope| {
            let waiting: Vec<_> =
                futures.iter().map(|future| scope.spawn(|| future.result())).collect();
            pool.scheduler.terminate();
            for (n, thread) in waiting.into_iter().enumerate() {
                let error = thread.join().unwrap().unwrap_err();
                assert!(matches!(error, TaskError::Terminated(_)), "{error}");
                let effect = if n == 0 { Effect::MayHaveRun } else { Effect::DidNotRun };
                assert_eq!(error.effect(), effect);
            }
        });
        assert!(matches!(pool.submit(seven).result(), Err(TaskError::Shutdown)));
        pool.scheduler.finished.wait(None);
        pool.scheduler.reap();
    }

    #[test]
    fn an_initializer_that_fails_is_not_tried_for_ever() {
        fn fail() {
            panic!("on purpose");
        }
        let pool = Builder::<Pool>::new().max_workers(2).initializer(fail).build().unwrap();
        let futures: Vec<_> = (0..5).map(|_| pool.submit(seven)).collect();
        for future in futures {
            match future.result() {
                Err(TaskError::Broken(broken)) => assert!(broken.initializer_failed()),
                other => panic!("{other:?}"),
            }
        }
        pool.scheduler.close(Queued::Runs);
        pool.scheduler.finished.wait(None);
        pool.scheduler.reap();
    }

    #[test]
    fn a_pool_may_close_with_nothing_done() {
        let pool = Builder::<Pool>::new().max_workers(2).build().unwrap();
        pool.scheduler.close(Queued::Runs);
        pool.scheduler.finished.wait(None);
        pool.scheduler.reap();
    }

    #[test]
    fn workers_are_replaced_when_they_have_done_their_share() {
        let prefix = prefix();
        let pool = Builder::<Pool>::new()
            .max_workers(2)
            .max_tasks_per_child(1)
            .name_prefix(&prefix)
            .build()
            .unwrap();
        let before = idents(&prefix);
        // One of them may be slow to start, and the others, one after another, do its work.
        eventually("both are replaced", || {
            let rank = pool.submit(|| current_worker().rank()).result().unwrap();
            assert!(rank.unwrap() < 2);
            idents(&prefix).iter().all(|ident| !before.contains(ident))
        });
        eventually("both are there, though nothing is queued", || idents(&prefix).len() == 2);
    }
}

fn exit() {
    std::process::exit(0);
}

fn processes(max_workers: usize) -> Builder<Pool> {
    Builder::new()
        .backend(Backend::Multiprocessing)
        .max_workers(max_workers)
}

#[test]
fn a_worker_that_dies_is_replaced_at_once() {
    let prefix = prefix();
    let pool = processes(2).name_prefix(&prefix).build().unwrap();
    for _ in 0..5 {
        let before = idents(&prefix);
        assert!(matches!(
            pool.submit(exit).result(),
            Err(TaskError::WorkerDied(_))
        ));
        eventually("there are two again, one of them new", || {
            let now = idents(&prefix);
            now.len() == 2 && now != before
        });
        assert_eq!(pool.submit(seven).result().unwrap(), 7);
    }
}

#[test]
fn idle_workers_may_all_be_killed() {
    let prefix = prefix();
    let pool = processes(4).name_prefix(&prefix).build().unwrap();
    for _ in 0..2 {
        let victims = idents(&prefix);
        assert_eq!(victims.len(), 4);
        for &victim in &victims {
            let pid = rustix::process::Pid::from_raw(victim as i32).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
        eventually("all are replaced", || {
            let now = idents(&prefix);
            now.len() == 4 && now.iter().all(|ident| !victims.contains(ident))
        });
    }
    assert_eq!(pool.submit(seven).result().unwrap(), 7);
}

#[test]
fn a_pool_of_which_a_worker_is_refused_leaves_none() {
    let prefix = prefix();
    let error = processes(3)
        .name_prefix(&prefix)
        .current_dir("/nowhere/at/all")
        .build()
        .err()
        .expect("the directory does not exist");
    assert!(matches!(error, Error::Start(_)), "{error}");
    assert!(idents(&prefix).is_empty());
}

#[test]
fn a_task_of_a_pool_may_be_killed() {
    let pool = processes(1).build().unwrap();
    let doomed = pool.submit(sleep_for_long);
    eventually("it runs", || doomed.running());
    let next = pool.submit(task!(|| 8));
    assert!(doomed.kill());
    assert!(matches!(doomed.result(), Err(TaskError::Killed(_))));
    assert_eq!(next.result().unwrap(), 8);
}
