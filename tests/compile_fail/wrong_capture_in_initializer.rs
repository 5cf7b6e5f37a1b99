use freethreading::WorkerPoolExecutor;

fn main() {
    freethreading::init();
    let x = 1;
    let executor = WorkerPoolExecutor::builder()
        .initializer(move || x + 1)
        .build();
    executor.unwrap();
}
