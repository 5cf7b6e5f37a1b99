//! A program that has only had threads until now: those that sleep are woken by its first worker process as well.

mod common;
#[path = "common/primitives.rs"]
mod primitives;

use std::thread::JoinHandle;

use common::{children, watched};
use freethreading::{Backend, BoundedSemaphore, Condition, Event, Lock, Semaphore, Worker, task};
use primitives::{Awaitable, Getting, Joining, LONG, Meeting, Putting, SimplyGetting, asleep_in};

freethreading::init_tests!();

/// A thread that waits, and the task that lets it through.
type Waited = (JoinHandle<bool>, Worker);

fn waited<A: Awaitable>() -> [Waited; 2] {
    let ways: [fn(&A) -> bool; 2] = [
        |awaited| {
            awaited.wait();
            true
        },
        |awaited| awaited.wait_timeout(LONG),
    ];
    ways.map(|wait| {
        let awaited = A::closed(1);
        let waiting = awaited.clone();
        let (thread, _) = asleep_in(move || wait(&waiting));
        let let_through = Worker::new(task!(|awaited| A::let_through(&awaited)));
        (thread, let_through.backend(Backend::Multiprocessing))
    })
}

#[test]
fn who_sleeps_already_is_woken_by_the_first_process() {
    watched(|| {
        let all = [
            waited::<Lock>(),
            waited::<Semaphore>(),
            waited::<BoundedSemaphore>(),
            waited::<Event>(),
            waited::<Condition>(),
            waited::<Meeting>(),
            waited::<Getting>(),
            waited::<Putting>(),
            waited::<Joining>(),
            waited::<SimplyGetting>(),
        ];
        assert_eq!(children(), [0; 0]);
        for (thread, let_through) in all.into_iter().flatten() {
            let_through.start().unwrap();
            let_through.join().unwrap();
            assert!(thread.join().unwrap());
        }
    });
}
