use freethreading::WorkerPool;

fn add(x: u32, y: u32) -> u32 {
    x + y
}

fn main() {
    freethreading::init();
    let pool = WorkerPool::new(1).unwrap();
    let _ = pool.starmap(add, [(1, 2, 3)]);
}
