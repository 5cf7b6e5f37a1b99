//! 64 MiB to a worker process and back.

use std::{hint::black_box, mem::take};

use freethreading::task;

use crate::{
    child::{Blob, ECHO_BLOB, ECHO_RAW, ECHO_VEC, Peer},
    harness::{Case, Contender, Size, Unit, contender, seconds},
    processes::executor,
};

const SIZE: Size<usize> = Size::new(64 << 20, 40 << 20);

pub fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "64 MiB of bytes (serde_bytes), there and back",
            unit: Unit::GibPerSecond,
            cores: 2,
            contenders: blob,
        },
        Case {
            name: "64 MiB in a plain Vec<u8>, there and back",
            unit: Unit::GibPerSecond,
            cores: 2,
            contenders: vec,
        },
    ]
}

fn echo_blob(blob: Blob) -> Blob {
    blob
}

fn echo_vec(bytes: Vec<u8>) -> Vec<u8> {
    bytes
}

/// What comes back is what is sent the next time, so that no sample has to make a copy.
fn echo(name: &'static str, mut trip: impl FnMut(Vec<u8>) -> Vec<u8> + 'static) -> Contender {
    let mut bytes = vec![7; SIZE.get()];
    contender(name, move || {
        let sent = take(&mut bytes);
        let rate = rate(|| bytes = trip(sent));
        assert!(bytes.len() == SIZE.get() && bytes[SIZE.get() - 1] == 7);
        rate
    })
}

/// Counts both directions.
fn rate(trip: impl FnOnce()) -> f64 {
    let gib = (2 * SIZE.get()) as f64 / (1u64 << 30) as f64;
    gib / seconds(trip)
}

fn blob() -> Vec<Contender> {
    let executor = executor(1);
    let mut with_bincode = Peer::start_wide(ECHO_BLOB);
    let mut raw = Peer::start_wide(ECHO_RAW);
    let (from, mut to) = (vec![7u8; SIZE.get()], vec![7u8; SIZE.get()]);
    vec![
        echo("ours", move |bytes| {
            let future = executor.submit(task!(echo_blob(Blob(bytes))));
            future.result().expect("it works").0
        }),
        echo("bincode + serde_bytes, raw pipes of 1 MiB", move |bytes| {
            with_bincode.call::<Blob, Blob>(Blob(bytes)).0
        }),
        echo("raw pipes of 1 MiB, fresh Vecs", move |bytes| {
            raw.call_raw(bytes)
        }),
        contender("memcpy, there and back (limit)", move || {
            rate(|| {
                for _ in 0..2 {
                    to.copy_from_slice(black_box(&from));
                    black_box(&mut to);
                }
            })
        }),
    ]
}

fn vec() -> Vec<Contender> {
    let executor = executor(1);
    let mut peer = Peer::start_wide(ECHO_VEC);
    vec![
        echo("ours", move |bytes| {
            let future = executor.submit(task!(echo_vec(bytes)));
            future.result().expect("it works")
        }),
        echo("bincode, raw pipes of 1 MiB", move |bytes| peer.call(bytes)),
    ]
}
