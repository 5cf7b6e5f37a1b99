use freethreading::WorkerPoolExecutor;

fn main() {
    freethreading::init();
    let executor = WorkerPoolExecutor::new(1).unwrap();
    let x = 1;
    let _ = executor.submit(move || x + 1);
}
