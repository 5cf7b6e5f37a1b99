use freethreading::{WorkerPoolExecutor, task};

fn main() {
    freethreading::init();
    let executor = WorkerPoolExecutor::new(1).unwrap();
    let (x, y) = (1, 2);
    let _ = executor.submit(task!(|x| x + y));
}
