use freethreading::Barrier;

fn main() {
    freethreading::init();
    let x = 1;
    let barrier = Barrier::new(2).unwrap().action(move || x + 1);
    barrier.wait().unwrap();
}
