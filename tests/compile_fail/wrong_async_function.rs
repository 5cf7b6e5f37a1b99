//! An `async fn` is no task: its future stays where it was made.

use freethreading::WorkerPoolExecutor;

async fn nine() -> u32 {
    9
}

fn main() {
    let executor = WorkerPoolExecutor::new(1).unwrap();
    let _ = executor.submit(nine);
}
