//! Bytes to a worker process and back: from what just fits into a pipe to what is much larger.

use std::{hint::black_box, mem::take};

use freethreading::task;

use crate::{
    child::{Blob, ECHO_BLOB, ECHO_RAW, ECHO_VEC, Peer},
    harness::{Case, Contender, Size, Unit, contender, seconds},
    processes::executor,
};

/// How large what is sent is; a quick sample has no more than 40 MiB.
struct Payload {
    size: Size<usize>,
    /// How often it goes there and back in one sample.
    trips: usize,
}

impl Payload {
    const fn new(size: usize) -> Payload {
        let quick = if size < 40 << 20 { size } else { 40 << 20 };
        let trips = (16 << 20) / size;
        Payload {
            size: Size::new(size, quick),
            trips: if trips > 0 { trips } else { 1 },
        }
    }

    /// Counts both directions.
    fn rate(&self, mut trip: impl FnMut()) -> f64 {
        let gib = (2 * self.size.get() * self.trips) as f64 / (1u64 << 30) as f64;
        gib / seconds(|| (0..self.trips).for_each(|_| trip()))
    }
}

pub fn cases() -> Vec<Case> {
    let case = |name, contenders| Unit::GibPerSecond.case(name, 2, contenders);
    vec![
        case(
            "64 KiB of bytes (serde_bytes), there and back",
            blob::<{ 64 << 10 }>,
        ),
        case(
            "256 KiB of bytes (serde_bytes), there and back",
            blob::<{ 256 << 10 }>,
        ),
        case(
            "1 MiB of bytes (serde_bytes), there and back",
            blob::<{ 1 << 20 }>,
        ),
        case(
            "64 MiB of bytes (serde_bytes), there and back",
            blob::<{ 64 << 20 }>,
        ),
        case(
            "512 MiB of bytes (serde_bytes), there and back",
            blob::<{ 512 << 20 }>,
        ),
        case(
            "1 MiB in a plain Vec<u8>, there and back",
            vec::<{ 1 << 20 }>,
        ),
        case(
            "64 MiB in a plain Vec<u8>, there and back",
            vec::<{ 64 << 20 }>,
        ),
    ]
}

fn echo_blob(blob: Blob) -> Blob {
    blob
}

fn echo_vec(bytes: Vec<u8>) -> Vec<u8> {
    bytes
}

/// What comes back is what is sent the next time, so that no sample has to make a copy.
fn echo(
    name: &'static str,
    payload: Payload,
    mut trip: impl FnMut(Vec<u8>) -> Vec<u8> + 'static,
) -> Contender {
    let size = payload.size.get();
    let mut bytes = vec![7; size];
    contender(name, move || {
        let rate = payload.rate(|| bytes = trip(take(&mut bytes)));
        assert!(bytes.len() == size && bytes[size - 1] == 7);
        rate
    })
}

fn blob<const SIZE: usize>() -> Vec<Contender> {
    let payload = || Payload::new(SIZE);
    let executor = executor(1);
    let mut with_bincode = Peer::start_wide(ECHO_BLOB);
    let mut raw = Peer::start_wide(ECHO_RAW);
    let size = payload().size.get();
    let (from, mut to) = (vec![7u8; size], vec![7u8; size]);
    vec![
        echo("ours", payload(), move |bytes| {
            let future = executor.submit(task!(echo_blob(Blob(bytes))));
            future.result().expect("it works").0
        }),
        echo(
            "bincode + serde_bytes, raw pipes of 1 MiB",
            payload(),
            move |bytes| with_bincode.call::<Blob, Blob>(Blob(bytes)).0,
        ),
        echo("raw pipes of 1 MiB, fresh Vecs", payload(), move |bytes| {
            raw.call_raw(bytes)
        }),
        contender("memcpy, there and back (limit)", move || {
            payload().rate(|| {
                for _ in 0..2 {
                    to.copy_from_slice(black_box(&from));
                    black_box(&mut to);
                }
            })
        }),
    ]
}

fn vec<const SIZE: usize>() -> Vec<Contender> {
    let payload = || Payload::new(SIZE);
    let executor = executor(1);
    let mut peer = Peer::start_wide(ECHO_VEC);
    vec![
        echo("ours", payload(), move |bytes| {
            let future = executor.submit(task!(echo_vec(bytes)));
            future.result().expect("it works")
        }),
        echo("bincode, raw pipes of 1 MiB", payload(), move |bytes| {
            peer.call(bytes)
        }),
    ]
}
