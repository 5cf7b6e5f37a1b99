use std::{error::Error, fs, io};

use freethreading::WorkerPoolExecutor;

fn read() -> io::Result<String> {
    fs::read_to_string("/proc/self/stat")
}

fn parse() -> Result<u64, Box<dyn Error + Send + Sync>> {
    Ok("7".parse()?)
}

fn main() {
    freethreading::init();
    let executor = WorkerPoolExecutor::new(1).unwrap();
    let _ = executor.submit(read);
    let _ = executor.submit(parse);
}
