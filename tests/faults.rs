//! Worker processes that die, at any moment and in any way: each costs the task that it had, and
//! nothing else.

mod common;

use std::{
    fs,
    io::{Read, Write},
    os::fd::{BorrowedFd, IntoRawFd, RawFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use common::{
    ATTEMPTS, Gate, GateKeeper, Random, Scratch, Sign, Wakes, death, eventually, processes, runs,
    signal, stop, unique_prefix, watched, ways::Hand, workers_of,
};
use freethreading::{
    Backend, Death, Effect, Lock, Queue, TaskError, TaskFuture, WorkerPoolExecutor, task,
};
use serde::{Deserialize, Deserializer, Serialize};
use serde_bytes::ByteBuf;

freethreading::init_tests!();

fn double(x: u64) -> u64 {
    x * 2
}

fn pid_of_worker(executor: &WorkerPoolExecutor) -> u32 {
    executor.submit(std::process::id).result().unwrap()
}

/// The process's own end, by signal.
fn raise(signal: i32) {
    common::signal(std::process::id(), signal);
    loop {
        thread::park();
    }
}

fn follow_a_bad_pointer() {
    let nowhere = std::ptr::without_provenance_mut::<u64>(64);
    // SAFETY: there is none: it is what the test is about. Nothing is mapped there.
    unsafe { nowhere.write_volatile(1) };
}

#[allow(unconditional_recursion)]
fn overflow_the_stack() {
    let mut room = [0u8; 4096];
    std::hint::black_box(&mut room);
    overflow_the_stack();
    std::hint::black_box(&mut room);
}

/// Runs a deadly task among good ones. It must be the only one to fail, and say how its worker died.
fn among_others(deadly: fn(&WorkerPoolExecutor) -> TaskFuture<()>, expected: &[Death]) {
    watched(|| {
        let executor = processes(2);
        let before: Vec<_> = (0..20).map(|n| executor.submit(task!(double(n)))).collect();
        let doomed = deadly(&executor);
        let after: Vec<_> = (0..20).map(|n| executor.submit(task!(double(n)))).collect();
        let died = death(doomed.result());
        assert!(expected.contains(died.death()), "{died}");
        assert_eq!(died.effect(), Effect::MayHaveRun);
        assert!(died.worker().starts_with("ProcessPoolExecutor-"), "{died}");
        assert!(died.task().unwrap().contains("faults::"), "{died}");
        for futures in [before, after] {
            for (n, future) in (0..).zip(futures) {
                assert_eq!(future.result().unwrap(), 2 * n);
            }
        }
        assert!(!runs(died.pid()));
        assert_eq!(executor.submit(task!(double(4))).result().unwrap(), 8);
        executor.shutdown(true, false);
    });
}

#[test]
fn a_task_may_be_killed() {
    among_others(
        |executor| executor.submit(task!(raise(libc::SIGKILL))),
        &[Death::Signaled(libc::SIGKILL)],
    );
}

#[test]
fn a_task_may_be_terminated() {
    among_others(
        |executor| executor.submit(task!(raise(libc::SIGTERM))),
        &[Death::Signaled(libc::SIGTERM)],
    );
}

#[test]
fn a_task_may_follow_a_bad_pointer() {
    among_others(
        |executor| executor.submit(follow_a_bad_pointer),
        &[Death::Signaled(libc::SIGSEGV)],
    );
}

#[test]
fn a_task_may_abort() {
    among_others(
        |executor| {
            executor.submit(|| {
                std::process::abort();
            })
        },
        &[Death::Signaled(libc::SIGABRT)],
    );
}

#[test]
fn a_task_may_exit_as_if_all_was_well() {
    among_others(
        |executor| {
            executor.submit(|| {
                std::process::exit(0);
            })
        },
        &[Death::Exited(0)],
    );
}

#[test]
fn a_task_may_exit_with_a_code() {
    among_others(
        |executor| {
            executor.submit(|| {
                std::process::exit(3);
            })
        },
        &[Death::Exited(3)],
    );
}

#[test]
fn a_task_may_overflow_the_stack() {
    among_others(
        |executor| executor.submit(overflow_the_stack),
        // Where std watches the stack it aborts.
        &[
            Death::Signaled(libc::SIGSEGV),
            Death::Signaled(libc::SIGABRT),
        ],
    );
}

#[test]
fn a_task_may_panic_while_it_panics() {
    struct Grenade;
    impl Drop for Grenade {
        fn drop(&mut self) {
            panic!("again");
        }
    }
    among_others(
        |executor| {
            executor.submit(|| {
                let _grenade = Grenade;
                panic!("once");
            })
        },
        &[Death::Signaled(libc::SIGABRT)],
    );
}

/// Ends the process when it is decoded.
#[derive(Serialize)]
struct DeadlyToRead;

impl<'de> Deserialize<'de> for DeadlyToRead {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        std::process::abort()
    }
}

#[test]
fn an_argument_may_abort_when_it_is_decoded() {
    among_others(
        |executor| executor.submit(task!(drop::<DeadlyToRead>(DeadlyToRead))),
        &[Death::Signaled(libc::SIGABRT)],
    );
}

/// Ends the process when it is dropped, unless that is the one where it was made.
#[derive(Serialize, Deserialize)]
struct DeadlyToDrop(u32);

impl Drop for DeadlyToDrop {
    fn drop(&mut self) {
        if self.0 != std::process::id() {
            std::process::abort();
        }
    }
}

#[test]
fn an_argument_may_abort_when_it_is_dropped() {
    let deadly = |executor: &WorkerPoolExecutor| {
        let argument = DeadlyToDrop(std::process::id());
        executor.submit(task!(drop::<DeadlyToDrop>(argument)))
    };
    among_others(deadly, &[Death::Signaled(libc::SIGABRT)]);
}

#[test]
fn a_result_may_abort_when_it_is_dropped() {
    watched(|| {
        let executor = processes(1);
        let home = std::process::id();
        let future = executor.submit(task!(|home| DeadlyToDrop(home)));
        let died = death(future.result());
        assert_eq!(died.signal(), Some(libc::SIGABRT));
        assert_eq!(executor.submit(task!(double(4))).result().unwrap(), 8);
    });
}

#[test]
fn a_worker_that_dies_after_its_result_costs_nothing() {
    watched(|| {
        let scratch = Scratch::new();
        let sign = scratch.sign("taken");
        let executor = processes(1);
        let future = executor.submit(task!(|sign| {
            thread::spawn(move || {
                sign.wait();
                std::process::abort();
            });
            std::process::id()
        }));
        let pid = future.result().unwrap();
        scratch.sign("taken").give();
        eventually("the worker is dead", || !runs(pid));
        assert_ne!(pid_of_worker(&executor), pid);
    });
}

/// A task that tells its process id and waits.
struct Held {
    _gates: GateKeeper,
    future: TaskFuture<()>,
    pid: u32,
}

fn held(executor: &WorkerPoolExecutor) -> Held {
    fn tell_and_wait(sign: Sign, gate: Gate) {
        sign.tell(std::process::id());
        gate.pass();
    }
    let (gates, scratch) = (GateKeeper::new(), Scratch::new());
    let future = executor.submit(task!(tell_and_wait(scratch.sign("pid"), gates.gate())));
    let pid = scratch.sign("pid").hear().parse().unwrap();
    Held {
        _gates: gates,
        future,
        pid,
    }
}

#[test]
fn a_worker_that_is_killed_while_it_runs_a_task_is_replaced() {
    watched(|| {
        let executor = processes(1);
        for number in [libc::SIGKILL, libc::SIGTERM, libc::SIGKILL] {
            let held = held(&executor);
            let next = executor.submit(std::process::id);
            signal(held.pid, number);
            let died = death(held.future.result());
            assert_eq!((died.pid(), died.signal()), (held.pid, Some(number)));
            assert_eq!(died.exit_code(), None);
            assert_ne!(next.result().unwrap(), held.pid);
        }
    });
}

#[test]
fn those_who_wait_in_all_ways_learn_of_a_death() {
    watched(|| {
        let executor = processes(1);
        let held = held(&executor);
        let calls = Arc::new(AtomicUsize::new(0));
        let called = Arc::clone(&calls);
        held.future.add_done_callback(move |future| {
            death(future.result());
            called.fetch_add(1, Ordering::SeqCst);
        });
        thread::scope(|scope| {
            let waiting: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| held.future.result()))
                .collect();
            signal(held.pid, libc::SIGKILL);
            for result in waiting {
                death(result.join().unwrap());
            }
        });
        death(futures::executor::block_on(held.future));
        eventually("the callback is called", || {
            calls.load(Ordering::SeqCst) == 1
        });
    });
}

#[test]
fn futures_that_are_awaited_learn_of_a_death_once() {
    watched(|| {
        let executor = processes(8);
        let calls = Arc::new(AtomicUsize::new(0));
        let all_held = || -> Vec<_> {
            let all = (0..8).map(|_| {
                let held = held(&executor);
                let called = Arc::clone(&calls);
                held.future
                    .add_done_callback(move |_| _ = called.fetch_add(1, Ordering::SeqCst));
                held
            });
            all.collect()
        };
        // By hand, where it can be seen who is woken how often.
        let awaited = all_held().into_iter().map(|held| {
            let (mut hand, wakes) = (Hand::new(held.future), Wakes::new());
            assert!(hand.poll_with(&Arc::clone(&wakes).into()).is_pending());
            (held.pid, hand, wakes, held._gates)
        });
        let awaited: Vec<_> = awaited.collect();
        for (pid, ..) in &awaited {
            signal(*pid, libc::SIGKILL);
        }
        for (pid, mut hand, wakes, _gates) in awaited {
            eventually("the waker is called", || wakes.count() > 0);
            assert_eq!(death(hand.ready()).pid(), pid);
            drop(hand);
            assert_eq!(wakes.count(), 1);
        }
        // And as the tasks of a runtime.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .build()
            .unwrap();
        let held = all_held();
        let (waiting, waits) = mpsc::channel();
        let tasks = held.into_iter().map(|mut held| {
            let waiting = waiting.clone();
            let task = runtime.spawn(async move {
                assert!(futures::poll!(&mut held.future).is_pending());
                waiting.send(held.pid).unwrap();
                (held.future.await, held._gates)
            });
            (held.pid, task)
        });
        let tasks: Vec<_> = tasks.collect();
        for _ in 0..8 {
            signal(waits.recv().unwrap(), libc::SIGKILL);
        }
        for (pid, task) in tasks {
            let (result, _gates) = runtime.block_on(task).unwrap();
            assert_eq!(death(result).pid(), pid);
        }
        eventually("the callbacks are called", || {
            calls.load(Ordering::SeqCst) == 16
        });
        assert_eq!(executor.submit(task!(double(4))).result().unwrap(), 8);
        assert_eq!(calls.load(Ordering::SeqCst), 16);
    });
}

#[test]
fn a_task_for_a_worker_that_was_just_killed_is_not_lost() {
    watched(|| {
        let executor = processes(1);
        for _ in 0..100 {
            let pid = pid_of_worker(&executor);
            signal(pid, libc::SIGKILL);
            assert_ne!(pid_of_worker(&executor), pid);
        }
    });
}

#[test]
fn tasks_for_workers_that_were_all_just_killed_are_not_lost() {
    watched(|| {
        let executor = processes(3);
        for _ in 0..30 {
            let gates = GateKeeper::new();
            let pids = executor.map(
                |gate: Gate| {
                    gate.pass();
                    std::process::id()
                },
                (0..3).map(|_| gates.gate()),
            );
            gates.wait_for(3);
            gates.open();
            for pid in pids.into_vec().unwrap() {
                signal(pid, libc::SIGKILL);
            }
            let doubles = executor.map(double, 0..6).into_vec().unwrap();
            assert_eq!(doubles, [0, 2, 4, 6, 8, 10]);
        }
    });
}

#[test]
fn a_task_for_a_worker_that_died_a_while_ago_is_not_lost() {
    watched(|| {
        let executor = processes(1);
        for _ in 0..30 {
            let pid = pid_of_worker(&executor);
            signal(pid, libc::SIGKILL);
            eventually("the worker is dead", || !runs(pid));
            assert_ne!(pid_of_worker(&executor), pid);
        }
    });
}

#[test]
fn a_task_that_its_worker_did_not_look_at_goes_to_another() {
    watched(|| {
        let executor = processes(1);
        for len in [10, 8 << 20] {
            let pid = pid_of_worker(&executor);
            stop(pid);
            let bytes = ByteBuf::from(vec![7; len]);
            let future = executor.submit(task!(|bytes| (bytes.len(), std::process::id())));
            assert!(!future.done());
            signal(pid, libc::SIGKILL);
            let (received, other) = future.result().unwrap();
            assert_eq!(received, len);
            assert_ne!(other, pid);
        }
    });
}

#[test]
fn callbacks_of_a_task_that_no_worker_will_come_to_are_waited_for() {
    watched(|| {
        let executor = processes(1);
        let pid = pid_of_worker(&executor);
        stop(pid);
        let future = executor.submit(task!(double(2)));
        let called = Arc::new(AtomicBool::new(false));
        let calls = Arc::clone(&called);
        future.add_done_callback(move |future| {
            // Long enough for an end that does not wait to be over.
            thread::sleep(Duration::from_millis(20));
            calls.store(future.cancelled(), Ordering::Relaxed);
        });
        executor.shutdown(false, true);
        signal(pid, libc::SIGKILL);
        executor.shutdown(true, true);
        assert!(called.load(Ordering::Relaxed));
    });
}

#[test]
fn a_worker_may_be_killed_while_it_receives_a_large_argument() {
    watched(|| {
        let executor = processes(1);
        let mut random = Random::new();
        for _ in 0..30 {
            let pid = pid_of_worker(&executor);
            let bytes = ByteBuf::from(vec![7; 8 << 20]);
            let future = executor.submit(task!(|bytes| bytes.len()));
            spin(random.below(200_000));
            signal(pid, libc::SIGKILL);
            eventually("the worker is dead", || !runs(pid));
            match future.result() {
                Ok(len) => assert_eq!(len, 8 << 20),
                error => {
                    let died = death(error);
                    assert_eq!((died.pid(), died.signal()), (pid, Some(libc::SIGKILL)));
                }
            }
        }
    });
}

#[test]
fn a_worker_may_be_killed_while_it_sends_a_large_result() {
    watched(|| {
        let executor = processes(1);
        let mut random = Random::new();
        for _ in 0..30 {
            let scratch = Scratch::new();
            let sign = scratch.sign("pid");
            let future = executor.submit(task!(|sign| {
                sign.tell(std::process::id());
                ByteBuf::from(vec![7; 8 << 20])
            }));
            let pid = scratch.sign("pid").hear().parse().unwrap();
            spin(random.below(400_000));
            signal(pid, libc::SIGKILL);
            eventually("the worker is dead", || !runs(pid));
            match future.result() {
                Ok(bytes) => assert!(bytes.len() == 8 << 20 && bytes.iter().all(|&byte| byte == 7)),
                error => {
                    let died = death(error);
                    assert_eq!((died.pid(), died.signal()), (pid, Some(libc::SIGKILL)));
                }
            }
        }
    });
}

/// Lets some time pass, so that what follows comes at another moment each time.
fn spin(rounds: usize) {
    (0..rounds).for_each(|_| std::hint::spin_loop());
}

#[test]
fn a_death_after_the_executor_was_dropped_costs_its_task_only() {
    watched(|| {
        let executor = processes(1);
        let held = held(&executor);
        let next = executor.submit(task!(double(4)));
        drop(executor);
        signal(held.pid, libc::SIGKILL);
        assert_eq!(death(held.future.result()).pid(), held.pid);
        assert_eq!(next.result().unwrap(), 8);
    });
}

#[test]
fn a_death_during_the_shutdown_costs_its_task_only() {
    watched(|| {
        let executor = processes(1);
        let held = held(&executor);
        let next = executor.submit(task!(double(4)));
        thread::scope(|scope| {
            scope.spawn(|| executor.shutdown(true, false));
            signal(held.pid, libc::SIGKILL);
        });
        assert!(held.future.done() && next.done());
        assert_eq!(death(held.future.result()).pid(), held.pid);
        assert_eq!(next.result().unwrap(), 8);
    });
}

#[test]
fn a_callback_may_submit_a_deadly_task() {
    watched(|| {
        let executor = Arc::new(processes(1));
        let (sender, inner) = std::sync::mpsc::channel();
        let user = Arc::clone(&executor);
        executor
            .submit(task!(double(4)))
            .add_done_callback(move |_| {
                sender
                    .send(user.submit(task!(raise(libc::SIGKILL))))
                    .unwrap();
            });
        death(inner.recv().unwrap().result());
        assert_eq!(executor.submit(task!(double(4))).result().unwrap(), 8);
    });
}

#[test]
fn a_death_is_an_error_of_its_map() {
    fn fussy(n: u64) -> u64 {
        if n == 3 {
            std::process::exit(9);
        }
        n
    }
    watched(|| {
        let executor = processes(2);
        let mut map = executor.map(fussy, 0..10);
        for n in 0..3 {
            assert_eq!(map.next().unwrap().unwrap(), n);
        }
        assert_eq!(death(map.next().unwrap()).exit_code(), Some(9));
        assert!(map.next().is_none());
        assert_eq!(executor.map(double, 0..2).into_vec().unwrap(), [0, 2]);
    });
}

#[test]
fn many_deaths_in_a_row_break_nothing() {
    watched(|| {
        let executor = processes(2);
        for n in 0..20 {
            let futures = [0; 3].map(|_| executor.submit(task!(raise(libc::SIGKILL))));
            for future in futures {
                death(future.result());
            }
            assert_eq!(executor.submit(task!(double(n))).result().unwrap(), 2 * n);
        }
    });
}

#[test]
fn every_task_resolves_once_while_workers_are_killed_at_random() {
    fn echo(n: usize, mut bytes: ByteBuf) -> (usize, ByteBuf) {
        if let Some(first) = bytes.first_mut() {
            *first = 8;
        }
        (n, bytes)
    }

    watched(|| {
        let prefix = unique_prefix();
        let executor = WorkerPoolExecutor::builder()
            .max_workers(3)
            .name_prefix(&prefix)
            .backend(Backend::Multiprocessing)
            .build()
            .unwrap();
        let mut random = Random::new();
        let sizes: Vec<_> = (0..1000)
            .map(|_| [0, 10, 70_000][random.below(3)])
            .collect();
        let calls: Arc<Vec<_>> = Arc::new((0..1000).map(|_| AtomicUsize::new(0)).collect());
        let completed = Arc::new(AtomicUsize::new(0));
        let over = AtomicBool::new(false);
        let mut deaths = 0;
        thread::scope(|scope| {
            scope.spawn(|| common::kill_at_random(&prefix, &completed, 10, &over));
            let futures: Vec<_> = sizes
                .iter()
                .enumerate()
                .map(|(n, &size)| {
                    let future = executor.submit(task!(echo(n, ByteBuf::from(vec![7; size]))));
                    let (calls, completed) = (Arc::clone(&calls), Arc::clone(&completed));
                    future.add_done_callback(move |_| {
                        calls[n].fetch_add(1, Ordering::SeqCst);
                        completed.fetch_add(1, Ordering::SeqCst);
                    });
                    future
                })
                .collect();
            for (n, future) in futures.into_iter().enumerate() {
                match future.result() {
                    Ok((number, bytes)) => {
                        assert_eq!((number, bytes.len()), (n, sizes[n]));
                        assert!(bytes.first().is_none_or(|&byte| byte == 8));
                    }
                    error => {
                        death(error);
                        deaths += 1;
                    }
                }
            }
            over.store(true, Ordering::SeqCst);
        });
        eventually("all callbacks are called", || {
            completed.load(Ordering::SeqCst) == 1000
        });
        assert!(calls.iter().all(|calls| calls.load(Ordering::SeqCst) == 1));
        assert!(deaths < 200, "{deaths}");
        executor.shutdown(true, false);
        assert!(workers_of(&prefix).is_empty());
    });
}

#[test]
fn workers_may_kill_each_other() {
    fn kill_a_sibling(random: usize) -> u32 {
        let parent = rustix::process::getppid().unwrap().as_raw_nonzero().get() as u32;
        // Only those of the same executor, which have told who they are.
        let crew = CREW.with_borrow(|sign: &Option<Sign>| sign.as_ref().unwrap().notes());
        let mut victims = common::children_of(parent);
        victims.retain(|pid| crew.contains(&pid.to_string()));
        let victim = victims[random % victims.len()];
        // SAFETY: the call takes no pointers. One that has just gone is no error here.
        unsafe { libc::kill(victim as libc::pid_t, libc::SIGKILL) };
        victim
    }
    thread_local! {
        static CREW: std::cell::RefCell<Option<Sign>> = const { std::cell::RefCell::new(None) };
    }
    watched(|| {
        let scratch = Scratch::new();
        let sign = scratch.sign("crew");
        let executor = WorkerPoolExecutor::builder()
            .max_workers(4)
            .backend(Backend::Multiprocessing)
            .initializer(task!(|sign| {
                sign.note(std::process::id());
                CREW.set(Some(sign));
            }))
            .build()
            .unwrap();
        let mut random = Random::new();
        let futures: Vec<_> = (0..40)
            .map(|_| executor.submit(task!(kill_a_sibling(random.below(1000)))))
            .collect();
        for future in futures {
            match future.result() {
                Ok(_) | Err(TaskError::WorkerDied(_) | TaskError::Broken(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        executor.shutdown(true, false);
        for pid in scratch.sign("crew").notes() {
            assert!(!runs(pid.parse().unwrap()));
        }
    });
}

#[test]
fn the_workers_of_a_killed_worker_end_too() {
    fn note_and_wait(sign: Sign, gate: Gate) {
        sign.note(std::process::id());
        gate.pass();
    }
    fn note_and_have_others_wait(sign: Sign, gate: Gate) {
        sign.note(std::process::id());
        let nested = processes(2);
        for _ in 0..2 {
            drop(nested.submit(task!(note_and_wait(sign.clone(), gate.clone()))));
        }
        gate.pass();
    }
    watched(|| {
        let (scratch, gates) = (Scratch::new(), GateKeeper::new());
        let pids = || -> Vec<u32> {
            let notes = scratch.sign("pids").notes();
            notes.iter().map(|pid| pid.parse().unwrap()).collect()
        };
        let executor = processes(1);
        let outer = task!(note_and_have_others_wait(
            scratch.sign("pids"),
            gates.gate()
        ));
        let future = executor.submit(outer);
        eventually("the workers run", || pids().len() == 3);
        assert!(pids().into_iter().all(runs));
        // It is the first to note.
        signal(pids()[0], libc::SIGKILL);
        assert_eq!(death(future.result()).pid(), pids()[0]);
        for pid in pids() {
            eventually("the worker's workers are gone", || !runs(pid));
        }
    });
}

#[test]
fn standard_input_is_empty() {
    watched(|| {
        let executor = processes(1);
        let read = executor.submit(|| {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).unwrap();
            text
        });
        assert_eq!(read.result().unwrap(), "");
    });
}

fn close(fd: RawFd) {
    // SAFETY: the call takes no pointers; that others use the descriptor is what the test is about.
    unsafe { libc::close(fd) };
}

/// Gives the pid of a process that lives on, and has all that this one has.
fn fork_and_leave(gate: Gate) -> i32 {
    // SAFETY: the child waits, and ends without running anything of this process's.
    match unsafe { libc::fork() } {
        0 => {
            gate.pass();
            // SAFETY: as above.
            unsafe { libc::_exit(0) }
        }
        pid => pid,
    }
}

#[test]
fn a_process_that_a_task_has_forked_does_not_delay_the_end_of_its_worker() {
    fn fork_and_exit(gate: Gate) {
        fork_and_leave(gate);
        std::process::exit(3);
    }
    watched(|| {
        let in_time = (0..ATTEMPTS).any(|_| {
            let gates = GateKeeper::new();
            let executor = processes(1);
            let start = Instant::now();
            let died = death(executor.submit(task!(fork_and_exit(gates.gate()))).result());
            assert_eq!(died.death(), &Death::Exited(3));
            executor
                .submit(task!(fork_and_leave(gates.gate())))
                .result()
                .unwrap();
            gates.wait_for(2);
            executor.shutdown(true, false);
            let elapsed = start.elapsed();
            gates.open();
            // It would have taken as long as that for each.
            elapsed < Duration::from_secs(5)
        });
        assert!(in_time);
    });
}

#[test]
fn a_task_that_forks_and_comes_back_twice_has_one_result() {
    fn fork(n: u64) -> (u64, u32) {
        // SAFETY: the child comes back from the task, which is what this is about.
        unsafe { libc::fork() };
        (n, std::process::id())
    }
    watched(|| {
        let executor = processes(1);
        let pid = pid_of_worker(&executor);
        for n in 0..20 {
            assert_eq!(executor.submit(task!(fork(n))).result().unwrap(), (n, pid));
            assert_eq!(executor.submit(task!(double(n))).result().unwrap(), 2 * n);
        }
        assert_eq!(pid_of_worker(&executor), pid);
    });
}

#[test]
fn an_initializer_that_forks_and_comes_back_twice_has_run_once() {
    fn fork() {
        // SAFETY: the child comes back from the initializer, which is what this is about.
        unsafe { libc::fork() };
    }
    watched(|| {
        let executor = WorkerPoolExecutor::builder()
            .max_workers(1)
            .backend(Backend::Multiprocessing)
            .initializer(fork);
        let executor = executor.build().unwrap();
        let pid = pid_of_worker(&executor);
        for n in 0..20 {
            assert_eq!(executor.submit(task!(double(n))).result().unwrap(), 2 * n);
        }
        assert_eq!(pid_of_worker(&executor), pid);
    });
}

#[test]
fn workers_that_are_killed_as_they_start_break_nothing() {
    fn initialize() {}
    watched(|| {
        for round in 0..10 {
            let builder = WorkerPoolExecutor::builder()
                .backend(Backend::Multiprocessing)
                .max_workers(8);
            let builder = match round % 2 {
                0 => builder,
                _ => builder.initializer(initialize),
            };
            let executor = builder.build().unwrap();
            let futures: Vec<_> = (0..8).map(|n| executor.submit(task!(double(n)))).collect();
            for worker in executor.stats().workers {
                if let Some(pid) = worker.ident {
                    // SAFETY: the process is a child that was not waited for, or one that has its number.
                    unsafe { libc::kill(pid as i32, libc::SIGKILL) };
                }
            }
            for (n, future) in (0..).zip(futures) {
                match future.result() {
                    Ok(doubled) => assert_eq!(doubled, 2 * n),
                    Err(TaskError::WorkerDied(died)) => {
                        assert_eq!(died.death(), &Death::Signaled(libc::SIGKILL));
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }
    });
}

#[test]
fn a_task_may_close_the_standard_streams() {
    watched(|| {
        let executor = processes(1);
        let pid = pid_of_worker(&executor);
        let closed = executor.submit(|| (0..3).for_each(close));
        closed.result().unwrap();
        assert_eq!(pid_of_worker(&executor), pid);
        // Descriptors that a task opens now have the standard numbers, and workers can be started.
        let nested = executor.submit(|| {
            let nested = processes(1);
            let file = fs::File::open("/dev/null").unwrap().into_raw_fd();
            println!("to nowhere");
            (nested.submit(task!(double(4))).result().unwrap(), file)
        });
        let (eight, file) = nested.result().unwrap();
        assert_eq!(eight, 8);
        assert!(file < 20, "{file}");
        assert_eq!(pid_of_worker(&executor), pid);
    });
}

#[test]
fn a_task_that_closes_all_descriptors_costs_itself_only() {
    watched(|| {
        let executor = processes(1);
        for n in 0..3 {
            let closing = executor.submit(|| (0..1024).for_each(close));
            death(closing.result());
            assert_eq!(executor.submit(task!(double(n))).result().unwrap(), 2 * n);
        }
    });
}

#[test]
fn a_task_that_closes_all_descriptors_costs_none_of_those_around_it() {
    watched(|| {
        let executor = processes(1);
        let quick = |n| executor.submit(task!(double(n)));
        for _ in 0..10 {
            let before: Vec<_> = (0..100).map(quick).collect();
            let closing = executor.submit(|| (0..1024).for_each(close));
            let after: Vec<_> = (100..200).map(quick).collect();
            death(closing.result());
            for (n, future) in (0..).zip(before.into_iter().chain(after)) {
                assert_eq!(future.result().unwrap(), 2 * n);
            }
        }
    });
}

#[test]
fn a_task_that_puts_other_pipes_in_the_place_of_all_descriptors_costs_itself_only() {
    fn replace() {
        (3..1024).for_each(close);
        for _ in 0..30 {
            let (read, write) = std::io::pipe().unwrap();
            let _ = (read.into_raw_fd(), write.into_raw_fd());
        }
    }
    watched(|| {
        let executor = processes(1);
        let quick = |n| executor.submit(task!(double(n)));
        for _ in 0..10 {
            let before: Vec<_> = (0..100).map(quick).collect();
            let replacing = executor.submit(replace);
            let after: Vec<_> = (100..200).map(quick).collect();
            let all = before.into_iter().chain(after);
            let all = futures::executor::block_on(futures::future::join_all(all));
            for (n, outcome) in (0..).zip(all) {
                assert_eq!(outcome.unwrap(), 2 * n);
            }
            death(replacing.result());
        }
    });
}

/// The descriptors of its pipes that a process of the executor replies by, which a task can find but should not.
fn pipes_of_worker(executor: &WorkerPoolExecutor) -> Vec<RawFd> {
    let is_for_writing = |fd: &RawFd| {
        // SAFETY: it is used during the calls only, and they check that it is open.
        let fd = unsafe { BorrowedFd::borrow_raw(*fd) };
        let is_pipe = rustix::fs::fstat(fd)
            .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_fifo());
        let mode = rustix::fs::fcntl_getfl(fd).map(|flags| flags & rustix::fs::OFlags::ACCMODE);
        is_pipe && mode == Ok(rustix::fs::OFlags::WRONLY)
    };
    let found = executor.submit(move || (3..64).filter(is_for_writing).collect());
    found.result().unwrap()
}

#[test]
fn a_task_that_closes_the_pipe_and_nothing_else_costs_one_task_at_most() {
    watched(|| {
        let executor = processes(1);
        for _ in 0..10 {
            let pipes = pipes_of_worker(&executor);
            assert!(!pipes.is_empty());
            let quick = |n| executor.submit(task!(double(n)));
            let before: Vec<_> = (0..100).map(quick).collect();
            let closing = executor.submit(task!(|pipes| pipes.into_iter().for_each(close)));
            let after: Vec<_> = (100..200).map(quick).collect();
            let closed = closing.result();
            let rest = before.into_iter().chain(after);
            let outcomes: Vec<_> = rest.map(|future| future.result()).collect();
            let died = outcomes.iter().filter(|outcome| outcome.is_err()).count();
            assert!(died + usize::from(closed.is_err()) <= 1);
            for (n, outcome) in (0..).zip(outcomes) {
                assert_eq!(outcome.unwrap_or(2 * n), 2 * n);
            }
        }
    });
}

fn scribble(bytes: Vec<u8>) {
    for fd in 3..64 {
        // SAFETY: it is used during the call only, and the call checks that it is open.
        let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
        let is_pipe = rustix::fs::fstat(borrowed)
            .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_fifo());
        if is_pipe {
            let _ = rustix::io::write(borrowed, &bytes);
        }
    }
}

/// What may be found in a pipe where frames are expected, and what for: nothing, bells and parts of them, the beginning
/// of a frame that never ends, and what is none.
fn scribbles() -> impl Iterator<Item = Vec<u8>> + Clone {
    let zeros = [1, 5, 7, 8, 9, 16, 65_536].map(|len| vec![0; len]);
    let lens = [1, 100, 1000, 1 << 29, 1 << 40].map(|len: u64| len.to_be_bytes().to_vec());
    let others = [
        &b"a"[..],
        b"a diary, for a change",
        b"\0\0\0\0\0\0\0\x05short",
    ]
    .map(Vec::from);
    zeros.into_iter().chain(lens).chain(others)
}

#[test]
fn a_task_that_writes_where_it_should_not_costs_itself_only() {
    watched(|| {
        let executor = processes(1);
        for bytes in scribbles() {
            let written = String::from_utf8_lossy(&bytes).into_owned();
            let died = death(executor.submit(task!(scribble(bytes))).result());
            let Death::Protocol(what) = died.death() else {
                panic!("{died}");
            };
            if written.starts_with("a diary") {
                assert!(what.contains("a diary"), "{died}");
            }
            assert_eq!(executor.submit(task!(double(4))).result().unwrap(), 8);
        }
    });
}

#[test]
fn a_task_that_writes_where_it_should_not_costs_none_of_those_around_it() {
    watched(|| {
        let executor = processes(1);
        let quick = |n| executor.submit(task!(double(n)));
        for bytes in scribbles().cycle().take(90) {
            let before: Vec<_> = (0..100).map(quick).collect();
            let scribbling = executor.submit(task!(scribble(bytes)));
            let after: Vec<_> = (100..200).map(quick).collect();
            death(scribbling.result());
            for (n, future) in (0..).zip(before.into_iter().chain(after)) {
                assert_eq!(future.result().unwrap(), 2 * n);
            }
        }
    });
}

#[test]
fn a_task_that_writes_to_all_descriptors_costs_itself_only() {
    fn write_everywhere(bytes: Vec<u8>) {
        for fd in 3..64 {
            // SAFETY: it is used during the call only, and the call checks that it is open.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            let _ = rustix::io::write(fd, &bytes);
        }
    }
    fn come_and_go(lock: Lock, items: Queue<u64>) {
        for n in 0..1000 {
            lock.acquire();
            items.put(n).unwrap();
            lock.release().unwrap();
        }
    }
    watched(|| {
        let (executor, others) = (processes(1), processes(1));
        for byte in [0, 7, 255] {
            let (lock, items) = (Lock::new(), Queue::new(10));
            let using = others.submit(task!(come_and_go(lock.clone(), items.clone())));
            let bytes = vec![byte; 4096];
            death(executor.submit(task!(write_everywhere(bytes))).result());
            assert_eq!(executor.submit(task!(double(4))).result().unwrap(), 8);
            // What is new is found, and what is in use goes on.
            let another = Queue::new(0);
            let put = task!(|another = another.clone()| another.put(1).unwrap());
            executor.submit(put).result().unwrap();
            assert_eq!(another.get().unwrap(), 1);
            for n in 0..1000 {
                assert_eq!(items.get().unwrap(), n);
            }
            using.result().unwrap();
            lock.acquire();
        }
    });
}

#[test]
fn a_process_that_goes_on_writing_does_not_hold_up_the_error_of_the_task_that_forked_it() {
    fn fork_and_abort(sign: Sign) {
        // SAFETY: what the child does is what this is about; the memory that it allocates is its own.
        match unsafe { libc::fork() } {
            0 => {
                let start = Instant::now();
                while start.elapsed() < Duration::from_secs(40) {
                    scribble(vec![0; 8]);
                    thread::sleep(Duration::from_millis(2));
                }
                // SAFETY: it may be called at any time.
                unsafe { libc::_exit(0) }
            }
            child => {
                sign.tell(child as u32);
                std::process::abort()
            }
        }
    }
    watched(|| {
        let scratch = Scratch::new();
        let sign = scratch.sign("child");
        let executor = processes(1);
        let died = death(
            executor
                .submit(task!(fork_and_abort(sign.clone())))
                .result(),
        );
        let child: u32 = sign.hear().parse().unwrap();
        let is_writing = runs(child);
        signal(child, libc::SIGKILL);
        assert!(is_writing);
        assert_eq!(died.death(), &Death::Signaled(libc::SIGABRT));
        assert_eq!(executor.submit(task!(double(4))).result().unwrap(), 8);
    });
}

#[test]
fn a_thread_that_writes_where_it_should_not_costs_one_task_and_holds_up_nobody() {
    watched(|| {
        let executor = processes(1);
        for bytes in scribbles().cycle().take(60) {
            let left_behind = executor.submit(task!(|bytes| {
                thread::spawn(move || scribble(bytes));
            }));
            let futures: Vec<_> = (0..200)
                .map(|n| executor.submit(task!(double(n))))
                .collect();
            let all = futures::future::join_all(futures);
            let failed = futures::executor::block_on(all)
                .into_iter()
                .filter(Result::is_err)
                .count();
            assert!(failed + usize::from(left_behind.result().is_err()) <= 1);
        }
    });
}

/// From now on the signal does nothing but interrupt system calls.
fn interrupt_on(signal: i32) {
    extern "C" fn nothing(_: i32) {}
    // SAFETY: all zeros is a valid `sigaction`, the handler does nothing, and the pointers are valid
    // for the call. Without `SA_RESTART` system calls are interrupted.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as extern "C" fn(i32) as libc::sighandler_t;
        assert_eq!(libc::sigaction(signal, &action, std::ptr::null_mut()), 0);
    }
}

#[test]
fn signals_do_not_disturb_those_who_wait() {
    watched(|| {
        interrupt_on(libc::SIGUSR1);
        let executor = processes(1);
        let gates = GateKeeper::new();
        let gate = gates.gate();
        let bytes = ByteBuf::from(vec![7; 32 << 20]);
        let future = executor.submit(task!(|gate, bytes| {
            gate.pass();
            bytes
        }));
        thread::scope(|scope| {
            let (sender, id) = std::sync::mpsc::channel();
            let waiting = scope.spawn(move || {
                sender.send(rustix::thread::gettid()).unwrap();
                future.result()
            });
            let waiter = id.recv().unwrap().as_raw_nonzero().get();
            let disturb = || {
                for thread in [waiter, thread_called("freethreading-io")] {
                    let pid = std::process::id() as libc::pid_t;
                    // SAFETY: the call takes no pointers.
                    unsafe { libc::syscall(libc::SYS_tgkill, pid, thread, libc::SIGUSR1) };
                }
            };
            (0..50).for_each(|_| disturb());
            gates.wait_for(1);
            gates.open();
            while !waiting.is_finished() {
                disturb();
                thread::yield_now();
            }
            assert_eq!(waiting.join().unwrap().unwrap().len(), 32 << 20);
        });
    });
}

fn thread_called(name: &str) -> libc::pid_t {
    let mut threads = fs::read_dir("/proc/self/task").unwrap().flatten();
    let is_it = |thread: &fs::DirEntry| {
        fs::read_to_string(thread.path().join("comm"))
            .is_ok_and(|comm| name.starts_with(comm.trim()))
    };
    let thread = threads.find(is_it).expect("there is such a thread");
    thread.file_name().to_string_lossy().parse().unwrap()
}

#[test]
fn signals_do_not_disturb_a_worker() {
    watched(|| {
        let executor = processes(1);
        let pid = executor.submit(|| {
            interrupt_on(libc::SIGUSR1);
            std::process::id()
        });
        let pid = pid.result().unwrap();
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    signal(pid, libc::SIGUSR1);
                    thread::yield_now();
                }
            });
            for n in 0..20 {
                let bytes = ByteBuf::from(vec![n; 4 << 20]);
                let echo = executor.submit(task!(|bytes| {
                    print!("");
                    std::io::stdout().flush().unwrap();
                    (bytes, std::process::id())
                }));
                let (bytes, worker) = echo.result().unwrap();
                assert_eq!((bytes.len(), bytes[0], worker), (4 << 20, n, pid));
            }
            over.store(true, Ordering::SeqCst);
        });
    });
}
