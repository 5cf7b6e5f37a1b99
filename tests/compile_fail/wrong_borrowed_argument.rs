use freethreading::{WorkerPoolExecutor, task};

fn len(text: &str) -> usize {
    text.len()
}

fn main() {
    freethreading::init();
    let executor = WorkerPoolExecutor::new(1).unwrap();
    let text = String::from("text");
    let _ = executor.submit(task!(len(text.as_str())));
    let _ = executor.submit(task!(len("text")));
}
