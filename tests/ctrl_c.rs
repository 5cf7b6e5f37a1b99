//! Ctrl-C in a program that blocks: the example of that name.

mod common;

use common::{examples::Example, watched};
use freethreading::Backend;

/// More than any test takes, in seconds.
const LONG: &str = "3600";

/// What became of the tasks: how many were done, cut short, never begun.
fn tally(said: &str) -> [u32; 3] {
    let last = said.lines().last().unwrap();
    let numbers = last.split(' ').filter_map(|word| word.parse().ok());
    numbers.collect::<Vec<_>>().try_into().unwrap()
}

fn for_each_backend(scenario: fn(Backend)) {
    watched(|| Backend::ALL.into_iter().for_each(scenario));
}

/// The example, when both of its workers have begun with a task.
fn begun(backend: Backend, arguments: &[&str]) -> Example {
    let mut example = Example::start("ctrl_c", backend, arguments);
    for _ in 0..2 {
        // The names of the workers, which are of either kind.
        example.line(match backend {
            Backend::Threading => "ThreadPool",
            Backend::Multiprocessing => "ProcessPool",
        });
    }
    if backend == Backend::Multiprocessing {
        assert_eq!(example.workers().len(), 2);
    }
    example
}

#[test]
fn without_an_interruption_all_is_done() {
    for_each_backend(|backend| {
        let example = Example::start("ctrl_c", backend, &["--tasks", "9", "--seconds", "0.001"]);
        let (status, said) = example.end();
        assert_eq!(status.code(), Some(0));
        assert_eq!(tally(&said), [9, 0, 0]);
    });
}

#[test]
fn what_was_submitted_is_completed() {
    for_each_backend(|backend| {
        let tasks = 100_000; // So many that there are always some left.
        let number = tasks.to_string();
        let arguments = ["--tasks", &number, "--seconds", "0.02", "--deadline", LONG];
        let mut example = begun(backend, &arguments);
        example.interrupt();
        example.line("stopping within");
        let (status, said) = example.end();
        assert_eq!(status.code(), Some(130));
        let [done, cut_short, left] = tally(&said);
        assert!(done >= 2 && cut_short == 0 && left > 0, "{said}");
        assert_eq!(done + left, tasks);
    });
}

#[test]
fn when_the_time_is_up_the_rest_is_ended() {
    for_each_backend(|backend| {
        let arguments = ["--tasks", "9", "--seconds", LONG, "--deadline", "0"];
        let mut example = begun(backend, &arguments);
        example.interrupt();
        example.line("stopping within");
        let (status, said) = example.end();
        assert_eq!(status.code(), Some(130));
        assert_eq!(tally(&said), [0, 2, 7]);
    });
}

#[test]
fn a_second_interruption_does_not_wait() {
    for_each_backend(|backend| {
        let arguments = ["--tasks", "9", "--seconds", LONG, "--deadline", LONG];
        let mut example = begun(backend, &arguments);
        example.interrupt();
        example.line("stopping within");
        example.interrupt();
        example.line("stopping at once");
        let (status, said) = example.end();
        assert_eq!(status.code(), Some(130));
        assert_eq!(tally(&said), [0, 2, 7]);
    });
}
