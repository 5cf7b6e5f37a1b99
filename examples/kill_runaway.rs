//! Tasks that never end, or never stop taking memory, and how to be rid of them: a table of what was
//! done about each, and what came of it. The program, and the tasks among them that behave, go on.
//!
//! A worker process can be killed, whatever its task is at: `FREETHREADING_BACKEND=multiprocessing`.
//! A thread cannot; there a task has to look at `cancelled()` now and then.
//!
//! The exit code is 0 if all tasks came to the end that is expected of them.

use std::{hint::black_box, process::ExitCode, thread, time::Duration};

use freethreading::{
    Backend, Error, Event, TaskError, TaskFuture, WorkerPoolExecutor, cancelled, task,
};

const LIMIT: Duration = Duration::from_millis(200);

/// What a worker process may have: a few times what it needs.
const MEMORY: u64 = 256 << 20;

fn square(x: u64) -> u64 {
    x * x
}

/// Never returns, and never looks whether it should.
fn runaway(begun: Event) -> u64 {
    begun.set();
    loop {
        black_box(()); // In place of some work.
    }
}

/// Never returns by itself, but looks now and then whether it should.
fn polite_runaway(begun: Event) -> u64 {
    begun.set();
    let mut rounds = 0;
    while !cancelled() {
        rounds += 1;
        thread::yield_now(); // In place of some work.
    }
    rounds
}

/// Takes a MiB at a time, and keeps it.
fn leak() -> u64 {
    let mut kept = Vec::new();
    loop {
        kept.push(black_box(vec![1; 1 << 20]));
    }
}

fn panic() -> u64 {
    panic!("no bread in the house");
}

/// The ends that tasks come to here.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Returned,
    Killed,
    TimeLimit,
    Panicked,
    Died(Option<i32>),
    Other,
}

impl End {
    fn of(result: &Result<u64, TaskError>) -> End {
        match result {
            Ok(_) => End::Returned,
            Err(TaskError::Killed(_)) => End::Killed,
            Err(TaskError::TimeLimit(_)) => End::TimeLimit,
            Err(TaskError::Panicked(_)) => End::Panicked,
            Err(TaskError::WorkerDied(died)) => End::Died(died.signal()),
            Err(_) => End::Other,
        }
    }
}

/// What is known of a task, for the table.
fn describe(result: &Result<u64, TaskError>) -> String {
    match result {
        Ok(rounds) => format!("returned, when it was asked to, after {rounds} rounds"),
        Err(TaskError::Killed(killed)) => format!("process {} was killed", killed.pid()),
        Err(TaskError::TimeLimit(killed)) => format!("process {} was killed", killed.pid()),
        Err(TaskError::WorkerDied(died)) => format!("process {} {}", died.pid(), died.death()),
        Err(TaskError::Panicked(panic)) => format!("panicked: {}", panic.message()),
        Err(other) => other.to_string(),
    }
}

/// Tasks that misbehave, each with a name, what is done about it, and the end that is expected.
#[derive(Default)]
struct Culprits(Vec<(&'static str, &'static str, TaskFuture<u64>, End)>);

impl Culprits {
    fn add(&mut self, name: &'static str, cure: &'static str, future: TaskFuture<u64>, end: End) {
        self.0.push((name, cure, future, end));
    }

    /// Prints what became of them; says whether that was expected.
    fn table(self) -> bool {
        println!("{:16} {:14} what happened", "task", "what was done");
        let mut as_expected = true;
        for (name, cure, future, end) in self.0 {
            let result = future.result();
            println!("{name:16} {cure:14} {}", describe(&result));
            if End::of(&result) != end {
                println!("{name:16} {cure:14} that was NOT expected: it was to be {end:?}");
                as_expected = false;
            }
        }
        as_expected
    }
}

/// Kills the task once it says that it has begun. To kill it earlier would be to cancel it: it would never run.
fn kill_running(future: TaskFuture<u64>, begun: &Event) -> TaskFuture<u64> {
    begun.wait();
    future.kill();
    future
}

fn main() -> Result<ExitCode, Error> {
    freethreading::init(); // First line of main: a worker process stays here.

    let backend = freethreading::get_backend()?;
    let mut builder = WorkerPoolExecutor::builder().max_workers(3);
    if backend == Backend::Multiprocessing {
        builder = builder.memory_limit(MEMORY); // Threads have the program's memory.
    }
    let executor = builder.build()?;

    let mut ordinary = vec![executor.map(square, 0..100)];
    let mut culprits = Culprits::default();

    // On threads these return when they are asked to; processes are not asked.
    let (killed, limited) = match backend {
        Backend::Threading => (End::Returned, End::Returned),
        Backend::Multiprocessing => (End::Killed, End::TimeLimit),
    };
    let future = executor
        .submit(task!(polite_runaway(Event::new())))
        .kill_after(LIMIT);
    culprits.add("polite runaway", "kill_after", future, limited);
    let begun = Event::new();
    let future = executor.submit(task!(polite_runaway(begun.clone())));
    let future = kill_running(future, &begun);
    culprits.add("polite runaway", "kill", future, killed);
    ordinary.push(executor.map(square, 0..100));

    match backend {
        Backend::Multiprocessing => {
            let future = executor
                .submit(task!(runaway(Event::new())))
                .kill_after(LIMIT);
            culprits.add("runaway", "kill_after", future, End::TimeLimit);
            let begun = Event::new();
            let future = executor.submit(task!(runaway(begun.clone())));
            let future = kill_running(future, &begun);
            culprits.add("runaway", "kill", future, End::Killed);
            let future = executor.submit(leak);
            let end = End::Died(Some(libc::SIGABRT)); // As always when Rust has no memory.
            culprits.add("leak", "memory_limit", future, end);
        }
        Backend::Threading => {
            println!(
                "on threads a task has to be polite, and what it leaks is the program's memory"
            );
        }
    }
    ordinary.push(executor.map(square, 0..100));

    // Built with `panic = "abort"`, a program cannot catch a panic: it ends the worker.
    let end = match (cfg!(panic = "unwind"), backend) {
        (true, _) => Some(End::Panicked),
        (false, Backend::Multiprocessing) => Some(End::Died(Some(libc::SIGABRT))),
        (false, Backend::Threading) => None,
    };
    if let Some(end) = end {
        let future = executor.submit(panic);
        culprits.add("panic", "nothing", future, end);
    }
    ordinary.push(executor.map(square, 0..100));

    let mut passed = culprits.table();

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
