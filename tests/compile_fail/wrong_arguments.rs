use freethreading::{WorkerPoolExecutor, task};

fn add(x: u32, y: u32) -> u32 {
    x + y
}

fn main() {
    freethreading::init();
    let executor = WorkerPoolExecutor::new(1).unwrap();
    let _ = executor.submit(task!(add(1)));
    let _ = executor.submit(task!(add(1, 2, 3)));
    let _ = executor.submit(task!(add(1, "two".to_string())));
}
