use freethreading::{Worker, WorkerPoolExecutor, task};

fn add(x: u32, y: u32) -> u32 {
    x + y
}

fn main() {
    freethreading::init();
    let executor = WorkerPoolExecutor::new(1).unwrap();
    let _ = executor.submit(5);
    let _ = executor.submit(add);
    let _ = Worker::new(add(1, 2));
    let _ = executor.submit(add(1, 2));
    let _ = executor.submit(async { 5 });
    let _ = executor.submit(Box::new(add(1, 2)));
    let _ = executor.submit(task!(5));
}
