//! Tasks that crash, each in its own way, among tasks that do not notice.
//!
//! With processes a crash costs the task that crashed, whose error says what happened, and nothing
//! else: `FREETHREADING_BACKEND=multiprocessing`. Threads contain a panic only.
//!
//! The exit code is 0 if all tasks came to the end that is expected of them.

use std::{
    hint::black_box,
    process::{self, ExitCode},
    ptr,
};

use freethreading::{Backend, Death, Effect, TaskError, WorkerPoolExecutor};

fn square(x: u64) -> u64 {
    x * x
}

const MESSAGE: &str = "no bread in the house";

fn panic() {
    panic!("{MESSAGE}");
}

fn abort() {
    process::abort();
}

fn exit() {
    process::exit(3);
}

fn segfault() {
    // SAFETY: there is none, on purpose. The pointer dangles, into a page that is never mapped.
    unsafe { ptr::dangling_mut::<u8>().write_volatile(1) };
}

fn overflow() {
    /// Takes a KiB of stack for every level.
    fn descend(levels: usize) -> u8 {
        let frame = black_box([1; 1024]);
        match levels {
            0 => 0,
            _ => descend(levels - 1).wrapping_add(frame[levels % 1024]),
        }
    }
    black_box(descend(1 << 20)); // A GiB, while stacks have some MiB.
}

/// The end that a task is expected to come to.
enum Expected {
    Panic,
    Death(Death),
}

impl Expected {
    fn is_met_by(&self, error: &TaskError) -> bool {
        match (self, error) {
            (Expected::Panic, TaskError::Panicked(panic)) => panic.message() == MESSAGE,
            (Expected::Death(expected), TaskError::WorkerDied(died)) => {
                died.death() == expected && died.effect() == Effect::MayHaveRun
            }
            _ => false,
        }
    }
}

/// What happened to a task, and whether it ran.
fn describe(error: &TaskError) -> String {
    let what = match error {
        TaskError::Panicked(panic) => {
            let location = panic.location().unwrap_or("an unknown place");
            format!("panicked at {location} with \"{}\"", panic.message())
        }
        // `exit_code` and `signal` give the bare numbers.
        TaskError::WorkerDied(died) => format!("its process {}", died.death()),
        other => other.to_string(),
    };
    let effect = match error.effect() {
        Effect::DidNotRun => "it did not run, and may be submitted again",
        Effect::Ran => "it ran",
        Effect::MayHaveRun => "it may have run, in part or as a whole",
    };
    format!("{what}; {effect}")
}

fn main() -> Result<ExitCode, freethreading::Error> {
    freethreading::init(); // First line of main: a worker process stays here.
    let executor = WorkerPoolExecutor::new(2)?;

    // Ordinary tasks: some before, and some right behind each one that crashes.
    let mut ordinary = vec![executor.map(square, 0..100)];
    let mut crashes = Vec::new();
    let mut crash = |name, future, expected| {
        crashes.push((name, future, expected));
        ordinary.push(executor.map(square, 0..100));
    };

    let signal = |number| Expected::Death(Death::Signaled(number));
    // Built with `panic = "abort"`, a program cannot catch a panic: it ends the worker.
    let contained = cfg!(panic = "unwind");
    match executor.backend() {
        Backend::Multiprocessing => {
            let end = match contained {
                true => Expected::Panic,
                false => signal(libc::SIGABRT),
            };
            crash("panic", executor.submit(panic), end);
            crash("abort", executor.submit(abort), signal(libc::SIGABRT));
            let end = Expected::Death(Death::Exited(3));
            crash("exit", executor.submit(exit), end);
            crash("segfault", executor.submit(segfault), signal(libc::SIGSEGV));
            // Rust's runtime notices it, and aborts.
            crash("overflow", executor.submit(overflow), signal(libc::SIGABRT));
        }
        Backend::Threading if contained => {
            println!("on threads only a panic can be contained: the others would end the program");
            crash("panic", executor.submit(panic), Expected::Panic);
        }
        Backend::Threading => {
            println!("on threads, with `panic = \"abort\"`, every crash would end the program");
        }
    }

    let mut passed = true;
    for (name, future, expected) in crashes {
        let (what, as_expected) = match future.result() {
            Err(error) => (describe(&error), expected.is_met_by(&error)),
            Ok(()) => ("returned".into(), false),
        };
        println!("{name}: {what}");
        if !as_expected {
            println!("{name}: that was NOT expected");
            passed = false;
        }
    }

    let results: Result<Vec<u64>, _> = ordinary.into_iter().flatten().collect();
    let results = results?; // An error if one of them failed.
    println!("{} ordinary tasks gave their results", results.len());
    let squares: Vec<u64> = (0..100).map(square).collect();
    if results.chunks(100).any(|results| results != squares) {
        println!("the results are WRONG");
        passed = false;
    }

    Ok(match passed {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
