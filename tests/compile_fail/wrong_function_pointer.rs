use freethreading::WorkerPoolExecutor;

fn seven() -> u32 {
    7
}

fn main() {
    freethreading::init();
    let executor = WorkerPoolExecutor::new(1).unwrap();
    let pointer: fn() -> u32 = seven;
    let _ = executor.submit(pointer);
}
