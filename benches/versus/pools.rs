//! The maps of a pool, with the chunks that it finds by itself and with others.

use std::{hint::black_box, thread, time::Duration};

use freethreading::{Backend, WorkerPool};
use rayon::prelude::*;

use crate::{
    harness::{Case, Contender, Size, Unit, contender, seconds},
    maps::square,
    threads::rayon,
};

const ITEMS: Size<u64> = Size::new(1_000_000, 200_000);

/// What the slow one of many items takes.
const SLOW: Duration = Duration::from_millis(20);

pub fn cases() -> Vec<Case> {
    vec![
        Unit::Millis.case("pool map x*x over 1,000,000, threads", 2, || {
            let mut contenders = maps(Backend::Threading);
            let pool = rayon(2);
            contenders.push(contender("rayon par_iter collect", move || {
                millis(|| {
                    pool.install(|| {
                        (0..black_box(ITEMS.get()))
                            .into_par_iter()
                            .map(square)
                            .collect::<Vec<_>>()
                    })
                })
            }));
            contenders
        }),
        Unit::Millis.case("pool map x*x over 1,000,000, processes", 2, || {
            maps(Backend::Multiprocessing)
        }),
        Unit::Nanos.case("pool imap, an item of 1,000,000, threads", 2, || {
            imaps(Backend::Threading)
        }),
        Unit::Nanos.case("pool imap, an item of 1,000,000, processes", 2, || {
            imaps(Backend::Multiprocessing)
        }),
        Unit::Micros.case("pool imap, to the first result, threads", 2, || {
            first(Backend::Threading)
        }),
        Unit::Micros.case("pool imap, to the first result, processes", 2, || {
            first(Backend::Multiprocessing)
        }),
        Unit::Millis.case("pool map, 1 of 20 ms and 9,999 of 1 us, threads", 2, || {
            slow_one(Backend::Threading)
        }),
        Unit::Millis.case(
            "pool map, 1 of 20 ms and 9,999 of 1 us, processes",
            2,
            || slow_one(Backend::Multiprocessing),
        ),
    ]
}

fn pool(backend: Backend) -> WorkerPool {
    let builder = WorkerPool::builder().max_workers(2).backend(backend);
    builder.build().expect("workers can be started")
}

fn millis<T>(run: impl FnOnce() -> T) -> f64 {
    seconds(run) * 1e3
}

fn maps(backend: Backend) -> Vec<Contender> {
    let of = move |chunksize: Option<usize>| {
        let pool = pool(backend);
        move || {
            millis(|| {
                let items = 0..black_box(ITEMS.get());
                match chunksize {
                    None => pool.map(square, items),
                    Some(chunksize) => pool.chunksize(chunksize).map(square, items),
                }
                .expect("it works")
            })
        }
    };
    let starmap = {
        let pool = pool(backend);
        move || {
            millis(|| {
                let items = (0..black_box(ITEMS.get())).map(|x| (x, x));
                pool.starmap(u64::wrapping_mul, items).expect("it works")
            })
        }
    };
    vec![
        contender("ours", of(None)),
        contender("ours, starmap", starmap),
        contender("ours, chunks of 1,000", of(Some(1000))),
        contender("ours, chunks of 10,000", of(Some(10_000))),
        contender("ours, chunks of 50,000", of(Some(50_000))),
        contender("ours, chunks of 125,000 (as Python's)", of(Some(125_000))),
    ]
}

fn imaps(backend: Backend) -> Vec<Contender> {
    let ordered = |chunksize: usize| {
        let pool = pool(backend);
        move || {
            let run = || {
                let squares = pool
                    .chunksize(chunksize)
                    .imap(square, 0..black_box(ITEMS.get()));
                squares.expect("it runs").map(Result::unwrap).sum::<u64>()
            };
            seconds(run) * 1e9 / ITEMS.get() as f64
        }
    };
    let unordered = {
        let pool = pool(backend);
        move || {
            let run = || {
                let squares = pool.chunksize(1000);
                let squares = squares.imap_unordered(square, 0..black_box(ITEMS.get()));
                squares.expect("it runs").map(Result::unwrap).sum::<u64>()
            };
            seconds(run) * 1e9 / ITEMS.get() as f64
        }
    };
    vec![
        contender("ours", ordered(1000)),
        contender("ours, chunks of 100", ordered(100)),
        contender("ours, chunks of 10,000", ordered(10_000)),
        contender("ours, unordered", unordered),
    ]
}

fn first(backend: Backend) -> Vec<Contender> {
    const TIMES: u32 = 100;

    let imap = {
        let pool = pool(backend);
        move || {
            let run = || {
                for _ in 0..TIMES {
                    let mut squares = pool.imap(square, black_box(3)..).expect("it runs");
                    assert_eq!(squares.next().expect("endless").expect("it works"), 9);
                }
            };
            seconds(run) * 1e6 / f64::from(TIMES)
        }
    };
    let apply = {
        let pool = pool(backend);
        move || {
            let run = || {
                for _ in 0..TIMES {
                    let nine = pool.apply(freethreading::task!(square(black_box(3))));
                    assert_eq!(nine.expect("it works"), 9);
                }
            };
            seconds(run) * 1e6 / f64::from(TIMES)
        }
    };
    vec![contender("ours", imap), contender("ours, apply", apply)]
}

/// About a microsecond, or very long.
fn one_is_slow(n: u64) -> u64 {
    if n == 0 {
        thread::sleep(SLOW);
    }
    (0..470).fold(n, |x, _| (x ^ (x << 13)).rotate_left(7))
}

fn slow_one(backend: Backend) -> Vec<Contender> {
    let of = |chunksize: Option<usize>| {
        let pool = pool(backend);
        move || {
            millis(|| {
                let items = 0..black_box(10_000);
                match chunksize {
                    None => pool.map(one_is_slow, items),
                    Some(chunksize) => pool.chunksize(chunksize).map(one_is_slow, items),
                }
                .expect("it works")
            })
        }
    };
    let sleep = || millis(|| thread::sleep(SLOW));
    vec![
        contender("ours", of(None)),
        contender("ours, chunks of 1,250 (as Python's)", of(Some(1250))),
        contender("the slow one alone (limit)", sleep),
    ]
}
