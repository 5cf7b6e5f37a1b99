use freethreading::{WorkerPoolExecutor, task};

struct Site;

impl Site {
    fn own(self, n: u64) -> u64 {
        n
    }
}

fn parse(n: u64) -> Option<u64> {
    Some(n)
}

fn main() {
    freethreading::init();
    let executor = WorkerPoolExecutor::new(1).unwrap();
    let (site, n, text) = (Site, 1, String::new());
    let _ = executor.submit(task!(site.own(3)));
    let _ = executor.submit(task!(parse(1).unwrap()));
    let _ = executor.submit(task!(println!("{}", n)));
    let _ = executor.submit(task!(|n: u64| parse(n)));
    let _ = executor.submit(task!(|text.clone()| text.len()));
    let _ = executor.submit(task!(|&text| text.len()));
}
