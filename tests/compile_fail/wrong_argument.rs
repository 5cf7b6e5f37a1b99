use std::rc::Rc;

use freethreading::{WorkerPoolExecutor, task};

struct Plain;

fn ignore<T>(_: T) {}

fn main() {
    freethreading::init();
    let executor = WorkerPoolExecutor::new(1).unwrap();
    let _ = executor.submit(task!(ignore(Plain)));
    let plain = Rc::new(1);
    let _ = executor.submit(task!(|plain| drop(plain)));
}
