use freethreading::{WorkerPoolExecutor, task};

fn main() {
    freethreading::init();
    let executor = WorkerPoolExecutor::new(1).unwrap();
    let offset = 1;
    let add = move |x: u32| x + offset;
    let _ = executor.submit(task!(add(2)));
}
