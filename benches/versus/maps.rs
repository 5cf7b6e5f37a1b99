//! One function over many numbers, on threads.

use std::{hint::black_box, ops::Range};

use freethreading::WorkerPoolExecutor;
use rayon::prelude::*;

use crate::{
    harness::{Case, Contender, Size, Unit, contender, seconds},
    threads::{executor, rayon},
};

const CHEAP: Size<u64> = Size::new(10_000_000, 2_000_000);
const MEDIUM: Size<u64> = Size::new(1_000_000, 50_000);

/// Items in a chunk of ours; rayon finds its own.
const CHEAP_CHUNK: usize = 100_000;
const MEDIUM_CHUNK: usize = 1000;

pub fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "map x*x over 10,000,000, into_vec",
            unit: Unit::Millis,
            cores: 2,
            contenders: || {
                cheap(|executor, items| {
                    let mapping = executor.chunksize(CHEAP_CHUNK);
                    mapping.map(square, items).into_vec().expect("it works")
                })
            },
        },
        Case {
            name: "map x*x over 10,000,000, collected as iterator",
            unit: Unit::Millis,
            cores: 2,
            contenders: || {
                cheap(|executor, items| {
                    let results = executor.chunksize(CHEAP_CHUNK).map(square, items);
                    results.collect::<Result<_, _>>().expect("it works")
                })
            },
        },
        Case {
            name: "map ~1 us over 1,000,000, into_vec",
            unit: Unit::Millis,
            cores: 2,
            contenders: medium,
        },
    ]
}

pub fn square(x: u64) -> u64 {
    x.wrapping_mul(x)
}

/// Takes about a microsecond, each step waiting for the one before.
fn churn(x: u64) -> u64 {
    (0..470).fold(x, |mut x, _| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^ (x << 17)
    })
}

fn millis(map: impl FnOnce() -> Vec<u64>) -> f64 {
    seconds(map) * 1e3
}

fn cheap(ours: fn(&WorkerPoolExecutor, Range<u64>) -> Vec<u64>) -> Vec<Contender> {
    let executor = executor(2);
    let pool = rayon(2);
    let items = || 0..black_box(CHEAP.get());
    vec![
        contender("ours", move || millis(|| ours(&executor, items()))),
        contender("rayon par_iter collect", move || {
            millis(|| pool.install(|| items().into_par_iter().map(square).collect()))
        }),
        contender("sequential collect", move || {
            millis(|| items().map(square).collect())
        }),
    ]
}

fn medium() -> Vec<Contender> {
    let executor = executor(2);
    let pool = rayon(2);
    let items = || 0..black_box(MEDIUM.get());
    vec![
        contender("ours", move || {
            let mapping = executor.chunksize(MEDIUM_CHUNK);
            millis(|| mapping.map(churn, items()).into_vec().expect("it works"))
        }),
        contender("rayon par_iter collect", move || {
            millis(|| pool.install(|| items().into_par_iter().map(churn).collect()))
        }),
        contender("sequential collect", move || {
            millis(|| items().map(churn).collect())
        }),
    ]
}
