//! The main job in async code, on smol, with streams and a worker of one's own.
//!
//! `main` calls `init` before there is a runtime, which is the best form on every runtime. With tokio
//! the last line of `main` is `tokio::runtime::Runtime::new().unwrap().block_on(run())`.
//!
//! Try it with `FREETHREADING_BACKEND=multiprocessing`.

use freethreading::{Worker, WorkerPoolExecutor, current_worker, task};
use futures::StreamExt;

fn greet() {
    println!("Hello from {}!", current_worker().name());
}

fn square(x: u64) -> u64 {
    x * x
}

fn main() -> Result<(), freethreading::Error> {
    freethreading::init(); // First line of main: a worker process stays here.
    smol::block_on(run())
}

async fn run() -> Result<(), freethreading::Error> {
    let worker = Worker::new(greet).with_name("MyWorker");
    worker.start()?;
    worker.join_async().await?; // An error if the task panicked or the worker died.

    let executor = WorkerPoolExecutor::builder().max_workers(4).build()?;
    let eighty_one = executor.submit(task!(square(9))).await?;
    println!("{eighty_one}"); // 81

    // The results come in the order of the items, each as soon as it and those before it are there.
    let mut squares = executor.map(square, 0..5).into_stream();
    let mut sum = 0;
    while let Some(square) = squares.next().await {
        sum += square?;
        println!("the sum is {sum}"); // 0, 1, 5, 14, 30
    }

    assert_eq!((eighty_one, sum), (81, 30));
    Ok(())
}
