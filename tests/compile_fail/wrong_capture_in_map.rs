use freethreading::WorkerPoolExecutor;

fn main() {
    freethreading::init();
    let executor = WorkerPoolExecutor::new(1).unwrap();
    let x = 1;
    let _ = executor.map(move |y: u32| x + y, 0..3);
}
