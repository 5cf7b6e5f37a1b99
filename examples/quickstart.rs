//! The main job in a few lines: a worker, a list, an executor; on threads or on processes.
//!
//! Try it with `FREETHREADING_BACKEND=multiprocessing`.

use freethreading::{Worker, WorkerPool, WorkerPoolExecutor, current_worker, task};

fn greet() {
    println!("Hello from {}!", current_worker().name());
}

fn square(x: u64) -> u64 {
    x * x
}

fn main() -> Result<(), freethreading::Error> {
    freethreading::init(); // First line of main: a worker process stays here.
    println!("{}", current_worker().name()); // MainThread or MainProcess

    let worker = Worker::new(greet).with_name("MyWorker");
    worker.start()?;
    worker.join()?; // An error if the task panicked or the worker died.

    let pool = WorkerPool::new(2)?;
    println!("{:?}", pool.map(square, 0..5)?); // [0, 1, 4, 9, 16]

    let executor = WorkerPoolExecutor::new(2)?;
    executor.submit(greet).result()?; // Hello from ThreadPoolExecutor-0_0!, or a process worker's name
    let nine = executor.submit(task!(square(3))).result()?;
    assert_eq!(nine, 9);
    Ok(())
}
