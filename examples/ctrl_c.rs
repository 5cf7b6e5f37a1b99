//! One clean story for Ctrl-C, in a program without an async runtime.
//!
//! At the first Ctrl-C, or `SIGTERM`, nothing new begins, and the tasks that were submitted have so much
//! time. Then they are asked to end, and after a moment killed. A second Ctrl-C does not wait. However
//! it goes, every future has its result or its error, `main` goes on and tells what there is, and no
//! worker process is left.
//!
//! `ctrl_c [--tasks 20] [--seconds 1] [--deadline 5]`: so many tasks of so many seconds each. The exit
//! code is 0 if all of them were done, and 130 if not, as of a program that Ctrl-C has ended.
//!
//! Try it with `FREETHREADING_BACKEND=multiprocessing`, and press Ctrl-C.

use std::{
    env,
    error::Error,
    process::ExitCode,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use freethreading::{TaskError, WorkerPoolExecutor, cancelled, current_worker, task};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

/// Works for so long; `None` if it was asked to end before.
fn work(number: u32, time: Duration) -> Option<u32> {
    println!("{} begins with task {number}", current_worker().name());
    let start = Instant::now();
    while start.elapsed() < time {
        if cancelled() {
            return None;
        }
        thread::sleep(Duration::from_millis(1)); // In place of some work.
    }
    Some(number)
}

/// Stops the executor at the first signal, and at the second one at once.
fn stop_at(mut signals: Signals, executor: Arc<WorkerPoolExecutor>, deadline: Duration) {
    // An ordinary thread, which may block and print: signal-hook calls no code of this program from
    // within a signal handler. Worker processes ignore the Ctrl-C that the terminal sends to them too.
    thread::spawn(move || {
        let mut signals = signals.forever();
        signals.next();
        println!("stopping within {deadline:?}; Ctrl-C once more stops at once");
        let draining = Arc::clone(&executor);
        thread::spawn(move || draining.shutdown_timeout(deadline));
        signals.next();
        println!("stopping at once");
        executor.shutdown(false, true); // What has not begun is cancelled,
        executor.kill_workers(); // and the rest is not waited for.
    });
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    freethreading::init(); // First line of main: a worker process stays here.

    let (mut tasks, mut seconds, mut deadline) = (20, 1.0, 5.0);
    let mut arguments = env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or(format!("{name} needs a value"))?;
        match &name[..] {
            "--tasks" => tasks = value.parse()?,
            "--seconds" => seconds = value.parse()?,
            "--deadline" => deadline = value.parse()?,
            _ => return Err(format!("there is no {name}").into()),
        }
    }
    let time = Duration::try_from_secs_f64(seconds)?;
    let deadline = Duration::try_from_secs_f64(deadline)?;

    // From here on the signals do not end the program.
    let signals = Signals::new([SIGINT, SIGTERM])?;
    // Few tasks wait, so that few are left to be done when it is to stop.
    let executor = WorkerPoolExecutor::builder()
        .max_workers(2)
        .max_pending(2)
        .build()?;
    let executor = Arc::new(executor);
    stop_at(signals, Arc::clone(&executor), deadline);

    // Blocks while as many tasks wait as may. Once the executor is shut down it refuses, at once.
    let futures: Vec<_> = (0..tasks)
        .map(|number| executor.submit(task!(work(number, time))))
        .collect();

    let (mut done, mut cut_short, mut left) = (0, 0, 0);
    for future in futures {
        match future.result() {
            Ok(Some(_)) => done += 1,
            // It was asked to end, or killed.
            Ok(None) | Err(TaskError::Terminated(_)) => cut_short += 1,
            Err(TaskError::Shutdown | TaskError::Cancelled) => left += 1,
            Err(error) => return Err(error.into()),
        }
    }
    println!("{done} tasks done, {cut_short} cut short, {left} not begun");
    Ok(match done == tasks {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(130),
    })
}
