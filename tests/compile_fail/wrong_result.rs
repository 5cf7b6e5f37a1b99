use freethreading::{Worker, WorkerPoolExecutor, task};

struct Plain;

fn plain() -> Plain {
    Plain
}

fn plain_from(_: u32) -> Plain {
    Plain
}

fn main() {
    freethreading::init();
    let executor = WorkerPoolExecutor::new(1).unwrap();
    let _ = executor.submit(plain);
    let _ = executor.submit(task!(plain_from(1)));
    let _ = Worker::new(plain);
}
