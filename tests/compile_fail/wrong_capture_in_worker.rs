use freethreading::Worker;

fn main() {
    freethreading::init();
    let text = String::from("text");
    let worker = Worker::new(move || println!("{text}"));
    worker.start().unwrap();
}
