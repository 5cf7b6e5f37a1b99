//! The main job in async code: whatever was submitted is a future, on any runtime. Here it is tokio.
//!
//! Try it with `FREETHREADING_BACKEND=multiprocessing`.

use freethreading::{WorkerPoolExecutor, current_worker, task};

fn greet() {
    println!("Hello from {}!", current_worker().name());
}

fn square(x: u64) -> u64 {
    x * x
}

// A worker process is this program, run again, and does all that comes before `init`: with
// `#[tokio::main]` it starts tokio's threads and uses none of them. `smol_quickstart.rs` shows the
// better form: a plain `main` that calls `init`, then builds the runtime.
#[tokio::main]
async fn main() -> Result<(), freethreading::Error> {
    freethreading::init(); // First line of main: a worker process stays here.
    let executor = WorkerPoolExecutor::builder().max_workers(4).build()?;

    let a = executor.submit(greet); // a function of no arguments
    let b = executor.submit(|| 2 + 2); // a closure that captures nothing
    let c = executor.submit(task!(square(9))); // a call: arguments are evaluated here, it runs there
    let (n, s) = (5u64, String::from("x"));
    let d = executor.submit(task!(|n, s| s.repeat(n as usize))); // captures by name: they travel

    // All four are under way by now; the first error would end the wait.
    let (_, four, eighty_one, xs) = futures::try_join!(a, b, c, d)?;
    println!("{four} {eighty_one} {xs}"); // 4 81 xxxxx
    assert_eq!((four, eighty_one, xs.as_str()), (4, 81, "xxxxx"));
    Ok(())
}
