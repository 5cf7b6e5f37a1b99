use freethreading::Worker;

fn main() {
    freethreading::init();
    let worker = Worker::new(|| loop {
        std::hint::spin_loop();
    });
    worker.start().unwrap();
}
