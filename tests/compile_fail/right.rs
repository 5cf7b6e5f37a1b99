// What the other programs should have been.

use freethreading::{Backend, Worker, WorkerPoolExecutor, task};

fn add(x: u32, y: u32) -> u32 {
    x + y
}

fn main() -> Result<(), freethreading::Error> {
    freethreading::init();
    let executor = WorkerPoolExecutor::builder()
        .max_workers(1)
        .backend(Backend::Threading)
        .initializer(task!(add(0, 0)))
        .build()?;
    let x = 1;
    assert_eq!(executor.submit(task!(|x| x + 1)).result()?, 2);
    assert_eq!(executor.submit(task!(add(x, 2))).result()?, 3);
    assert_eq!(executor.submit(|| 4).result()?, 4);
    let worker = Worker::new(task!(add(x, 2))).backend(Backend::Threading);
    worker.start()?;
    worker.join()
}
