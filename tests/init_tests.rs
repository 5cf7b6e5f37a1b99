//! Worker processes in a test crate: no test runs in them.

mod common;

use std::process::{Command, Stdio};

use common::{Scratch, Sign, watched};
use freethreading::{Backend, Worker, task};

freethreading::init_tests!();

/// Where the ignored tests note that they run.
const LOG: &str = "LOG_OF_IGNORED_TESTS";

fn note(text: &str) {
    // Without it somebody runs all tests, the ignored ones included.
    if let Some(log) = std::env::var_os(LOG) {
        Sign::at(log.into()).note(text);
    }
}

fn start_workers(depth: u32) {
    let worker = Worker::new(task!(start_workers_in_workers(depth)));
    let worker = worker.backend(Backend::Multiprocessing);
    worker.start().unwrap();
    worker.join().unwrap();
    let executor = common::processes(3);
    let sum: Result<Vec<u32>, _> = executor.map(|x: u32| x * x, 0..10).collect();
    assert_eq!(sum.unwrap().iter().sum::<u32>(), 285);
}

fn start_workers_in_workers(depth: u32) {
    note("worker");
    if depth > 0 {
        start_workers(depth - 1);
    }
}

#[test]
#[ignore = "another test runs it"]
fn ignored_with_workers() {
    note("ignored_with_workers");
    start_workers(2);
}

#[test]
#[ignore = "another test runs it"]
fn ignored_with_more_workers() {
    note("ignored_with_more_workers");
    start_workers(0);
}

/// Runs this test program again.
fn run_again(args: &[&str], log: &Sign) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(args)
        .env(LOG, log.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn each_test_runs_once_whatever_workers_there_are() {
    for threads in ["--test-threads=1", "--test-threads=4"] {
        watched(|| {
            let scratch = Scratch::new();
            let log = scratch.sign("log");
            let printed = run_again(&["--ignored", threads], &log);
            let mut notes = log.notes();
            notes.sort_unstable();
            assert_eq!(
                notes,
                [
                    "ignored_with_more_workers",
                    "ignored_with_workers",
                    "worker",
                    "worker",
                    "worker",
                    "worker"
                ]
            );
            // Nor does a harness say anything in a worker.
            assert_eq!(printed.matches("running 2 tests").count(), 1, "{printed}");
            assert_eq!(printed.matches("test result: ok").count(), 1, "{printed}");
        });
    }
}

#[test]
fn the_list_of_tests_is_left_alone() {
    watched(|| {
        let scratch = Scratch::new();
        let list = run_again(&["--list", "--ignored"], &scratch.sign("log"));
        assert_eq!(list.matches(": test").count(), 2, "{list}");
    });
}
