//! Who waits for a task of a worker process takes the process's replies himself: what others wait for
//! must not suffer from it, nor he from them.

mod common;

use std::{
    pin::pin,
    sync::{Arc, Mutex, mpsc},
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

use common::{Gate, GateKeeper, Random, kill_child, processes, watched};
use freethreading::{Death, TaskError, task};

freethreading::init_tests!();

fn double(x: u64) -> u64 {
    x * 2
}

fn number_at(n: u64, gate: Gate) -> u64 {
    gate.pass();
    n
}

/// So many bytes, of which only the larger ones go through the pipe.
fn bytes(len: usize) -> Vec<u8> {
    vec![7; len]
}

#[test]
fn callbacks_do_not_run_on_the_thread_that_waits() {
    watched(|| {
        let executor = processes(1);
        for n in 0..20 {
            let held = Arc::new(Mutex::new(()));
            let gates = GateKeeper::new();
            let future = executor.submit(task!(number_at(n, gates.gate())));
            let (called, is_called) = mpsc::channel();
            future.add_done_callback({
                let held = Arc::clone(&held);
                move |_| {
                    drop(held.lock().unwrap());
                    called.send(thread::current().id()).unwrap();
                }
            });
            let guard = held.lock().unwrap();
            gates.wait_for(1);
            gates.open();
            assert_eq!(future.result().unwrap(), n);
            assert_eq!(executor.submit(task!(double(n))).result().unwrap(), 2 * n);
            drop(guard);
            assert_ne!(is_called.recv().unwrap(), thread::current().id());
        }
    });
}

#[test]
fn many_threads_wait_for_a_few_workers() {
    watched(|| {
        let executor = processes(2);
        thread::scope(|scope| {
            for n in 0..6 {
                let executor = &executor;
                scope.spawn(move || {
                    let mut random = Random::new();
                    for round in 0..200 {
                        // Small ones through the lane, large ones through the pipe or elsewhere.
                        let len = [0, 100, 40_000, 200_000][random.below(4)];
                        let future = executor.submit(task!(bytes(len)));
                        match (n + round) % 4 {
                            0 => assert_eq!(future.result().unwrap().len(), len),
                            1 => {
                                assert_eq!(futures::executor::block_on(future).unwrap().len(), len)
                            }
                            2 => {
                                let soon = Duration::from_micros(random.below(200) as u64);
                                match future.result_timeout(soon) {
                                    Ok(result) => assert_eq!(result.len(), len),
                                    Err(TaskError::Timeout) => {
                                        assert_eq!(future.result().unwrap().len(), len);
                                    }
                                    Err(error) => panic!("{error}"),
                                }
                            }
                            _ => drop(future),
                        }
                    }
                });
            }
        });
        executor.shutdown(true, false);
    });
}

#[test]
fn who_gives_up_leaves_the_replies_to_others() {
    watched(|| {
        let executor = processes(1);
        for _ in 0..50 {
            let gates = GateKeeper::new();
            let future = executor.submit(task!(number_at(3, gates.gate())));
            let soon = Duration::from_millis(1);
            assert!(matches!(
                future.result_timeout(soon),
                Err(TaskError::Timeout)
            ));
            gates.open();
            // Nobody waits for the first one from here on.
            assert_eq!(executor.submit(task!(double(2))).result().unwrap(), 4);
            assert_eq!(future.result().unwrap(), 3);
        }
    });
}

#[test]
fn a_future_that_was_polled_once_holds_up_nobody() {
    watched(|| {
        let executor = processes(1);
        for n in 0..50 {
            let mut polled = pin!(executor.submit(task!(double(n))));
            let mut context = Context::from_waker(Waker::noop());
            if let Poll::Ready(result) = polled.as_mut().poll(&mut context) {
                assert_eq!(result.unwrap(), 2 * n);
            }
            // Whether it is ready or not, the worker goes on.
            assert_eq!(executor.submit(task!(double(n))).result().unwrap(), 2 * n);
        }
    });
}

#[test]
fn who_attends_learns_of_the_end_of_the_process() {
    watched(|| {
        let executor = processes(1);
        for round in 0..10 {
            let gates = GateKeeper::new();
            let mut future = executor.submit(task!(number_at(3, gates.gate())));
            if round % 3 == 1 {
                future = future.kill_after(Duration::from_millis(5));
            } else {
                gates.wait_for(1);
            }
            let future = &future;
            thread::scope(|scope| {
                let waiting = scope.spawn(|| future.result());
                match round % 3 {
                    0 => assert!(future.kill()),
                    1 => {}
                    _ => kill_child(executor.stats().workers[0].ident.unwrap() as u32),
                }
                let error = waiting.join().unwrap().unwrap_err();
                let is_it = match &error {
                    TaskError::Killed(_) => round % 3 == 0,
                    TaskError::TimeLimit(_) => round % 3 == 1,
                    TaskError::WorkerDied(died) => {
                        round % 3 == 2 && matches!(died.death(), Death::Signaled(9))
                    }
                    _ => false,
                };
                assert!(is_it, "{error}");
            });
            assert_eq!(executor.submit(task!(double(2))).result().unwrap(), 4);
        }
    });
}

#[test]
fn who_attends_learns_of_the_end_of_all_workers() {
    watched(|| {
        for _ in 0..10 {
            let executor = processes(1);
            let gates = GateKeeper::new();
            let future = executor.submit(task!(number_at(3, gates.gate())));
            let later = executor.submit(task!(double(3)));
            thread::scope(|scope| {
                let waiting = scope.spawn(|| future.result());
                gates.wait_for(1);
                executor.kill_workers();
                assert!(matches!(
                    waiting.join().unwrap(),
                    Err(TaskError::WorkerDied(_) | TaskError::Terminated(_))
                ));
            });
            drop(later);
        }
    });
}
