//! How long workers live, what they have, and which number they bear.

mod common;

use std::{collections::BTreeSet, env, fs, hint::black_box, path::PathBuf, thread, time::Duration};

use common::{
    Gate, GateKeeper, Random, Scratch, eventually, runs, signal, unique_prefix, watched, workers_of,
};
use freethreading::{
    Backend, Death, Error, TaskError, Worker, WorkerPool, WorkerPoolExecutor,
    WorkerPoolExecutorBuilder, current_worker, get_backend, get_ident, task,
};

freethreading::init_tests!();

fn processes(max_workers: usize) -> WorkerPoolExecutorBuilder {
    WorkerPoolExecutor::builder()
        .backend(Backend::Multiprocessing)
        .max_workers(max_workers)
}

fn rank() -> Option<usize> {
    current_worker().rank()
}

fn rank_at(gate: Gate) -> Option<usize> {
    gate.pass();
    rank()
}

fn name() -> String {
    current_worker().name()
}

fn double(n: u64) -> u64 {
    n * 2
}

/// Needs 64 KiB of the stack for each step.
fn descend(steps: u64) -> u64 {
    let frame = [steps; 8 << 10];
    let below = match steps {
        0 => 0,
        _ => descend(steps - 1),
    };
    below + u64::from(black_box(&frame)[0] == steps)
}

#[track_caller]
fn assert_invalid(builder: WorkerPoolExecutorBuilder, setting: &str) {
    match builder.build() {
        Err(Error::InvalidArgument(why)) => assert!(why.contains(setting), "{why}"),
        other => panic!("{other:?}"),
    }
}

freethreading::test_backends! {
    #[test]
    fn a_worker_runs_so_many_tasks_and_no_more() {
        watched(|| {
            let executor = WorkerPoolExecutor::builder()
                .max_workers(1)
                .max_tasks_per_child(3)
                .build()
                .unwrap();
            let futures: Vec<_> = (0..10).map(|_| executor.submit(name)).collect();
            let names: Vec<_> = futures.iter().map(|future| future.result().unwrap()).collect();
            for same in names.chunks(3) {
                assert!(same.iter().all(|name| *name == same[0]), "{names:?}");
            }
            let different: BTreeSet<_> = names.iter().collect();
            assert_eq!(different.len(), 4);
            // Also one by one, where the worker is gone, or not, when the next task comes.
            for _ in 0..10 {
                executor.submit(name).result().unwrap();
            }
            executor.shutdown(true, false);
        });
    }

    #[test]
    fn cancelled_tasks_do_not_count_and_failed_ones_do() {
        fn fail() {
            panic!("on purpose");
        }
        watched(|| {
            let gates = GateKeeper::new();
            let executor = WorkerPoolExecutor::builder()
                .max_workers(1)
                .max_tasks_per_child(3)
                .build()
                .unwrap();
            let first = executor.submit(task!(rank_at(gates.gate())));
            gates.wait_for(1);
            for _ in 0..5 {
                assert!(executor.submit(name).cancel());
            }
            let second = executor.submit(fail);
            let (third, fourth) = (executor.submit(name), executor.submit(name));
            gates.open();
            first.result().unwrap();
            assert!(matches!(second.result(), Err(TaskError::Panicked(_))));
            assert_ne!(third.result().unwrap(), fourth.result().unwrap());
        });
    }

    #[test]
    fn the_initializer_runs_in_every_worker() {
        watched(|| {
            let scratch = Scratch::new();
            let initialized = scratch.sign("initialized");
            let sign = initialized.clone();
            let executor = WorkerPoolExecutor::builder()
                .max_workers(1)
                .max_tasks_per_child(1)
                .initializer(task!(|sign| sign.note(name())))
                .build()
                .unwrap();
            let names: Vec<_> = (0..4).map(|_| executor.submit(name)).collect();
            let names: Vec<_> = names.iter().map(|future| future.result().unwrap()).collect();
            assert_eq!(initialized.notes(), names);
        });
    }

    #[test]
    fn no_tasks_at_all_is_an_error() {
        let builder = WorkerPoolExecutor::builder().max_tasks_per_child(0);
        assert_invalid(builder, "max_tasks_per_child");
    }

    #[test]
    fn no_stack_at_all_is_an_error() {
        assert_invalid(WorkerPoolExecutor::builder().stack_size(0), "stack_size");
    }

    #[test]
    fn an_idle_worker_ends_and_another_takes_its_place() {
        watched(|| {
            let prefix = unique_prefix();
            let executor = WorkerPoolExecutor::builder()
                .max_workers(2)
                .name_prefix(&prefix)
                .idle_timeout(Duration::from_millis(5))
                .build()
                .unwrap();
            for _ in 0..3 {
                assert_eq!(executor.submit(task!(double(4))).result().unwrap(), 8);
                eventually("the worker ends by itself", || workers_of(&prefix).is_empty());
            }
            executor.shutdown(true, false);
        });
    }

    #[test]
    fn a_task_that_comes_when_the_worker_leaves_is_not_lost() {
        watched(|| {
            let mut random = Random::new();
            for timeout in [Duration::ZERO, Duration::from_micros(50)] {
                let executor = WorkerPoolExecutor::builder()
                    .max_workers(2)
                    .idle_timeout(timeout)
                    .build()
                    .unwrap();
                for n in 0..100 {
                    assert_eq!(executor.submit(task!(double(n))).result().unwrap(), 2 * n);
                    for _ in 0..random.below(50) {
                        thread::yield_now();
                    }
                }
                executor.shutdown(true, false);
            }
        });
    }

    #[test]
    fn a_worker_that_waits_for_long_is_used_again() {
        watched(|| {
            let executor = WorkerPoolExecutor::builder()
                .idle_timeout(Duration::MAX)
                .build()
                .unwrap();
            let first = executor.submit(get_ident).result().unwrap();
            assert_eq!(executor.submit(get_ident).result().unwrap(), first);
        });
    }

    #[test]
    fn workers_have_the_lowest_free_rank() {
        watched(|| {
            let gates = GateKeeper::new();
            let executor = WorkerPoolExecutor::new(4).unwrap();
            let ranks: Vec<_> =
                (0..4).map(|_| executor.submit(task!(rank_at(gates.gate())))).collect();
            gates.open();
            let ranks: BTreeSet<_> = ranks.iter().map(|future| future.result().unwrap()).collect();
            assert!(ranks.iter().all(|rank| rank.is_some_and(|rank| rank < 4)));
            executor.shutdown(true, false);
            assert_eq!(current_worker().rank(), None);
        });
    }

    #[test]
    fn all_workers_have_different_ranks() {
        watched(|| {
            let gates = GateKeeper::new();
            let executor = WorkerPoolExecutor::new(3).unwrap();
            let futures: Vec<_> =
                (0..3).map(|_| executor.submit(task!(rank_at(gates.gate())))).collect();
            gates.wait_for(3);
            gates.open();
            let mut ranks: Vec<_> = futures.iter().map(|future| future.result().unwrap()).collect();
            ranks.sort();
            assert_eq!(ranks, [Some(0), Some(1), Some(2)]);
        });
    }

    #[test]
    fn a_worker_takes_over_the_rank_of_the_one_it_replaces() {
        watched(|| {
            let executor = WorkerPoolExecutor::builder()
                .max_workers(1)
                .max_tasks_per_child(1)
                .build()
                .unwrap();
            let futures: Vec<_> = (0..5).map(|_| executor.submit(rank)).collect();
            for future in futures {
                assert_eq!(future.result().unwrap(), Some(0));
            }
        });
    }

    #[test]
    fn a_worker_of_its_own_has_no_rank() {
        watched(|| {
            let scratch = Scratch::new();
            let told = scratch.sign("rank");
            let sign = told.clone();
            let worker = Worker::new(task!(|sign| sign.tell(format!("{:?}", rank()))));
            worker.start().unwrap();
            worker.join().unwrap();
            assert_eq!((told.hear().as_str(), worker.rank()), ("None", None));
        });
    }

    #[test]
    fn settings_of_processes_are_errors_on_threads() {
        if get_backend().unwrap() == Backend::Multiprocessing {
            return;
        }
        let builder = WorkerPoolExecutor::builder;
        assert_invalid(builder().memory_limit(1 << 30), "memory_limit");
        assert_invalid(builder().env("KEY", "value"), "env");
        assert_invalid(builder().current_dir("/"), "current_dir");
    }
}

#[test]
fn worker_threads_may_have_larger_stacks() {
    // More than threads have by default.
    const STEPS: u64 = 256;

    watched(|| {
        let executor = WorkerPoolExecutor::builder()
            .backend(Backend::Threading)
            .stack_size(64 << 20)
            .build()
            .unwrap();
        let future = executor.submit(task!(descend(STEPS)));
        assert_eq!(future.result().unwrap(), STEPS + 1);
        let pool = WorkerPool::builder()
            .backend(Backend::Threading)
            .max_workers(2)
            .stack_size(64 << 20)
            .build()
            .unwrap();
        assert_eq!(pool.map(descend, [STEPS; 2]).unwrap(), [STEPS + 1; 2]);
    });
}

#[test]
fn the_stacks_of_worker_processes_are_as_they_were() {
    watched(|| {
        let executor = processes(1).stack_size(1).build().unwrap();
        assert_eq!(executor.submit(task!(descend(16))).result().unwrap(), 17);
    });
}

#[test]
fn stacks_that_the_system_refuses_are_errors() {
    watched(|| {
        for stack_size in [1 << 60, usize::MAX - 1, usize::MAX] {
            let executor = WorkerPoolExecutor::builder()
                .backend(Backend::Threading)
                .stack_size(stack_size)
                .build()
                .unwrap();
            let error = executor.submit(name).result().unwrap_err();
            assert!(matches!(error, TaskError::Start(_)), "{error}");
            let pool = WorkerPool::builder()
                .backend(Backend::Threading)
                .stack_size(stack_size)
                .build();
            assert!(matches!(pool, Err(Error::Start(_))));
        }
    });
}

#[test]
fn a_process_that_dies_leaves_its_rank_to_its_successor() {
    watched(|| {
        let gates = GateKeeper::new();
        let executor = processes(3).build().unwrap();
        let pid_and_rank = |gate: Gate| {
            executor.submit(task!(|gate| {
                gate.pass();
                (std::process::id(), current_worker().rank())
            }))
        };
        let first: Vec<_> = (0..3).map(|_| pid_and_rank(gates.gate())).collect();
        gates.wait_for(3);
        gates.open();
        let first: Vec<_> = first
            .iter()
            .map(|future| future.result().unwrap())
            .collect();
        let (victim, rank) = first[1];
        signal(victim, libc::SIGKILL);
        eventually("the worker is gone", || !common::exists(victim));
        let gates = GateKeeper::new();
        let second: Vec<_> = (0..3).map(|_| pid_and_rank(gates.gate())).collect();
        gates.wait_for(3);
        gates.open();
        for future in second {
            let (pid, its_rank) = future.result().unwrap();
            assert_eq!(
                its_rank == rank,
                first.iter().all(|&(other, _)| other != pid)
            );
        }
    });
}

#[test]
fn a_greedy_task_costs_itself_only() {
    fn take(bytes: usize) -> usize {
        let taken = vec![1u8; bytes];
        black_box(&taken).len()
    }
    watched(|| {
        let executor = processes(1).memory_limit(256 << 20).build().unwrap();
        let modest = executor.submit(task!(take(1 << 20)));
        let greedy = executor.submit(task!(take(1 << 30)));
        let next = executor.submit(task!(take(1 << 20)));
        assert_eq!(modest.result().unwrap(), 1 << 20);
        match greedy.result() {
            Err(TaskError::WorkerDied(died)) => {
                assert_eq!(*died.death(), Death::Signaled(libc::SIGABRT));
                assert!(!runs(died.pid()));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(next.result().unwrap(), 1 << 20);
        // Without a limit there is room for it.
        let unlimited = processes(1).build().unwrap();
        assert_eq!(
            unlimited.submit(task!(take(1 << 30))).result().unwrap(),
            1 << 30
        );
    });
}

#[test]
fn worker_processes_may_have_an_environment_and_a_directory_of_their_own() {
    fn look() -> (Option<String>, Option<String>, PathBuf) {
        let get = |key| env::var(key).ok();
        (
            get("FREETHREADING_TEST_KEY"),
            get("PATH"),
            env::current_dir().unwrap(),
        )
    }
    watched(|| {
        let scratch = Scratch::new();
        let directory = scratch.path().canonicalize().unwrap();
        let executor = processes(1)
            .env("FREETHREADING_TEST_KEY", "one")
            .env("FREETHREADING_TEST_KEY", "two")
            .current_dir(&directory)
            .build()
            .unwrap();
        let here = look();
        let there = executor.submit(look).result().unwrap();
        assert_eq!(here.0, None);
        assert_eq!(there, (Some("two".into()), here.1, directory));
    });
}

#[test]
fn worker_processes_are_listed_under_the_name_of_the_program() {
    let name = || fs::read_to_string("/proc/self/comm").unwrap();
    let of_worker = processes(1).build().unwrap().submit(name).result();
    assert_eq!(of_worker.unwrap(), name());
}

#[test]
fn a_directory_that_does_not_exist_is_named() {
    watched(|| {
        let scratch = Scratch::new();
        let executor = processes(1)
            .current_dir(scratch.path().join("nowhere"))
            .build()
            .unwrap();
        let error = executor.submit(name).result().unwrap_err();
        assert!(matches!(error, TaskError::Start(_)));
        assert!(error.to_string().contains("nowhere"), "{error}");
    });
}

#[test]
fn what_an_environment_cannot_hold_is_an_error() {
    assert_invalid(processes(1).env("", "value"), "environment");
    assert_invalid(processes(1).env("KEY=", "value"), "environment");
    assert_invalid(processes(1).env("KEY", "zero\0byte"), "environment");
    assert_invalid(processes(1).current_dir("zero\0byte"), "current_dir");
    assert_invalid(processes(1).memory_limit(0), "memory_limit");
}
