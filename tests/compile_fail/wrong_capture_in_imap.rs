use freethreading::WorkerPool;

fn main() {
    freethreading::init();
    let pool = WorkerPool::new(1).unwrap();
    let x = 1;
    let _ = pool.imap(move |y: u32| x + y, 0..3);
}
