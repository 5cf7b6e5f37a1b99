//! Workers from their start to their end.

use std::{process::Command, thread};

use freethreading::{Backend, Worker};

use crate::{
    child::{PONG, Peer},
    harness::{Case, Contender, Size, Unit, contender, micros},
    processes::executor,
    threads::noop,
};

/// Starts in one sample: a few milliseconds.
const THREADS: Size<u32> = Size::new(100, 30);
const PROCESSES: Size<u32> = Size::new(5, 2);

pub fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "thread start + join",
            unit: Unit::Micros,
            cores: 1,
            contenders: threads,
        },
        Case {
            name: "process start + join, Worker",
            unit: Unit::Micros,
            cores: 1,
            contenders: || {
                processes(|| {
                    let worker = Worker::new(noop).backend(Backend::Multiprocessing);
                    worker.start().expect("processes can be started");
                    worker.join().expect("it works");
                })
            },
        },
        Case {
            name: "process start, one result, shutdown, executor",
            unit: Unit::Micros,
            cores: 1,
            contenders: || {
                processes(|| {
                    let executor = executor(1);
                    executor.submit(noop).result().expect("it works");
                    executor.shutdown(true, false);
                })
            },
        },
    ]
}

fn threads() -> Vec<Contender> {
    vec![
        contender("ours", || {
            micros(THREADS.get(), || {
                let worker = Worker::new(noop).backend(Backend::Threading);
                worker.start().expect("threads can be started");
                worker.join().expect("it works");
            })
        }),
        contender("std::thread spawn + join", || {
            micros(THREADS.get(), || {
                thread::spawn(noop).join().expect("it works")
            })
        }),
    ]
}

fn processes(ours: fn()) -> Vec<Contender> {
    vec![
        contender("ours", move || micros(PROCESSES.get(), ours)),
        contender("procspawn spawn + join", || {
            micros(PROCESSES.get(), || {
                let handle = procspawn::spawn((), |()| noop());
                handle.join().expect("it works");
            })
        }),
        contender("std Command, pipes, a message each way", || {
            micros(PROCESSES.get(), || Peer::start(PONG).ping())
        }),
        contender("std Command /bin/true (limit)", || {
            micros(PROCESSES.get(), || {
                let status = Command::new("/bin/true").status();
                assert!(status.expect("there is /bin/true").success());
            })
        }),
    ]
}
