use freethreading::{WorkerPoolExecutor, task};

fn main() {
    freethreading::init();
    let executor = WorkerPoolExecutor::new(1).unwrap();
    let text = String::from("text");
    let _ = executor.submit(task!(|text| text.len()));
    println!("{text}");
}
