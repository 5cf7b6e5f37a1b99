//! What workers share, and what they only seem to: a plain `static` beside a queue.
//!
//! Worker processes have each their own copy of every `static`, which starts as it was when the program
//! did. What they add to it stays with them:
//!
//! ```text
//! threading:        the static says 10, the queue says 10
//! multiprocessing:  the static says 0, the queue says 10
//! ```
//!
//! Try it with `FREETHREADING_BACKEND=multiprocessing`.

use std::sync::atomic::{AtomicU32, Ordering};

use freethreading::{Backend, Error, Queue, Worker, get_backend, task};

/// Shared by threads. Not by processes.
static COUNTER: AtomicU32 = AtomicU32::new(0);

/// Adds to the counter, and tells the queue, which is one and the same wherever it is sent.
fn count(increments: Queue<u32>) {
    COUNTER.fetch_add(1, Ordering::Relaxed);
    increments.put(1).expect("a number can be encoded");
}

fn main() -> Result<(), Error> {
    freethreading::init(); // First line of main: a worker process stays here.
    let increments = Queue::new(0);
    let workers: Vec<_> = (0..10)
        .map(|_| Worker::new(task!(count(increments.clone()))))
        .collect();
    for worker in &workers {
        worker.start()?;
    }
    for worker in &workers {
        worker.join()?;
    }
    let mut total = 0;
    while let Ok(increment) = increments.get_nowait() {
        total += increment;
    }
    let counter = COUNTER.load(Ordering::Relaxed);
    println!("the static says {counter}, the queue says {total}");
    assert_eq!(total, 10);
    assert_eq!(
        counter,
        if get_backend()? == Backend::Threading {
            10
        } else {
            0
        }
    );
    Ok(())
}
