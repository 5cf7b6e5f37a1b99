use freethreading::WorkerPool;

fn main() {
    freethreading::init();
    let pool = WorkerPool::new(1).unwrap();
    let x = 1;
    let _ = pool.starmap(move |y: u32, z: u32| x + y + z, [(2, 3)]);
}
