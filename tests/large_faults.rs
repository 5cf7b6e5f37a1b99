//! The memory through which large arguments and results travel: it is given back, whatever becomes of
//! the tasks and of their workers.

mod common;

use std::{
    fs,
    os::unix::fs::MetadataExt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use common::{Gate, GateKeeper, Scratch, Sign, eventually, processes, signal, stop, watched};
use freethreading::{
    Backend, Death, Effect, Launcher, Portable, TaskError, TaskFuture, WorkerPool,
    WorkerPoolExecutor, task,
};
use futures::FutureExt;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_bytes::ByteBuf;

freethreading::init_tests!();

const LARGE: usize = 5 << 20;

fn large() -> ByteBuf {
    ByteBuf::from(vec![7; LARGE])
}

fn echo<T>(value: T) -> T {
    value
}

#[track_caller]
fn works(executor: &WorkerPoolExecutor) {
    let back = executor.submit(task!(echo(large()))).result().unwrap();
    assert!(back == large());
}

/// How much memory stands behind what this process and its workers share, in bytes.
fn shared_memory() -> u64 {
    let fds = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let arenas = fds.filter(|fd| {
        let target = fs::read_link(fd.path()).unwrap_or_default();
        target.to_string_lossy().starts_with("/memfd:freethreading")
    });
    let blocks = arenas.map(|fd| fs::metadata(fd.path()).map_or(0, |file| file.blocks()));
    512 * blocks.max().unwrap_or(0)
}

/// The scenarios look at the memory of the whole process, so there is one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does it again and again. What was freed is used again, so memory that grows was not.
fn leaks_nothing(mut scenario: impl FnMut()) {
    let _alone = alone();
    watched(|| {
        for _ in 0..2 {
            scenario();
        }
        let before = shared_memory();
        for _ in 0..6 {
            scenario();
        }
        let after = shared_memory();
        // What the threads and workers of a scenario have at a time differs, but not by so much.
        assert!(after < before + 3 * LARGE as u64, "{before} {after}");
    });
}

#[track_caller]
fn died<R>(result: Result<R, TaskError>) {
    match result {
        Ok(_) => panic!("the worker did not die"),
        Err(TaskError::WorkerDied(died)) => {
            assert_eq!(died.death(), &Death::Signaled(libc::SIGKILL));
            assert_eq!(died.effect(), Effect::MayHaveRun);
        }
        Err(error) => panic!("{error}"),
    }
}

/// Says who it is, and waits for its end.
fn wait_for_the_end(sign: &Sign) {
    sign.tell(std::process::id());
    loop {
        thread::park();
    }
}

fn kill_who_waits_at(sign: &Sign) {
    signal(sign.hear().parse().unwrap(), libc::SIGKILL);
}

/// Whoever decodes it waits for his end, with half of it read.
#[derive(Serialize)]
struct Endless(ByteBuf, Sign, ByteBuf);

impl<'de> Deserialize<'de> for Endless {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Stop;

        impl<'de> Deserialize<'de> for Stop {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                wait_for_the_end(&Sign::deserialize(deserializer)?);
                Ok(Stop)
            }
        }

        let (first, Stop, second) = Deserialize::deserialize(deserializer)?;
        Ok(Endless(first, Sign::at("".into()), second))
    }
}

/// Whoever encodes it, and not only finds out how large it is, waits for his end half-way.
#[derive(Deserialize)]
struct Unfinished(ByteBuf, Sign, ByteBuf);

impl Serialize for Unfinished {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Stop<'a>(&'a Sign);

        impl Serialize for Stop<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                static TIMES: AtomicU32 = AtomicU32::new(0);
                if TIMES.fetch_add(1, Ordering::Relaxed) > 0 {
                    wait_for_the_end(self.0);
                }
                self.0.serialize(serializer)
            }
        }

        (&self.0, Stop(&self.1), &self.2).serialize(serializer)
    }
}

#[test]
fn a_worker_killed_while_it_decodes_leaves_nothing() {
    let executor = processes(1);
    leaks_nothing(|| {
        let scratch = Scratch::new();
        let sign = scratch.sign("decodes");
        let argument = Endless(large(), sign.clone(), large());
        let doomed = executor.submit(task!(drop(argument)));
        kill_who_waits_at(&sign);
        died(doomed.result());
        works(&executor);
    });
}

#[test]
fn a_worker_killed_while_it_encodes_leaves_nothing() {
    let executor = processes(1);
    leaks_nothing(|| {
        let scratch = Scratch::new();
        let sign = scratch.sign("encodes");
        let told = sign.clone();
        let doomed = executor.submit(task!(|told| {
            Unfinished(ByteBuf::from(vec![7; LARGE]), told, ByteBuf::new())
        }));
        kill_who_waits_at(&sign);
        died(doomed.result());
        works(&executor);
    });
}

#[test]
fn a_worker_killed_in_its_task_leaves_nothing() {
    let executor = processes(1);
    leaks_nothing(|| {
        let scratch = Scratch::new();
        let sign = scratch.sign("runs");
        let (told, bytes) = (sign.clone(), large());
        let doomed = executor.submit(task!(|told, bytes| {
            wait_for_the_end(&told);
            echo::<ByteBuf>(bytes)
        }));
        kill_who_waits_at(&sign);
        died(doomed.result());
        works(&executor);
    });
}

#[test]
fn an_argument_that_no_worker_has_read_is_there_for_the_next() {
    let executor = processes(1);
    leaks_nothing(|| {
        works(&executor);
        let pid = executor.submit(std::process::id).result().unwrap();
        // It does not read what it is given now.
        stop(pid);
        let future = executor.submit(task!(echo(large())));
        let queued = executor.submit(task!(echo(large())));
        signal(pid, libc::SIGKILL);
        assert!(future.result().unwrap() == large());
        assert!(queued.result().unwrap() == large());
    });
}

#[test]
fn tasks_that_are_cancelled_leave_nothing() {
    let executor = processes(1);
    leaks_nothing(|| {
        let keeper = GateKeeper::new();
        let gate: Gate = keeper.gate();
        let first = executor.submit(task!(|gate| gate.pass()));
        keeper.wait_for(1);
        let futures: Vec<_> = (0..4)
            .map(|_| executor.submit(task!(echo(large()))))
            .collect();
        for future in &futures {
            assert!(future.cancel());
        }
        keeper.open();
        first.result().unwrap();
        works(&executor);
    });
}

#[test]
fn tasks_that_are_killed_leave_nothing() {
    let executor = processes(1);
    leaks_nothing(|| {
        let scratch = Scratch::new();
        let sign = scratch.sign("runs");
        let (told, bytes) = (sign.clone(), large());
        let future = executor.submit(task!(|told, bytes| {
            wait_for_the_end(&told);
            echo::<ByteBuf>(bytes)
        }));
        sign.wait();
        assert!(future.kill());
        assert!(matches!(future.result(), Err(TaskError::Killed(_))));
        works(&executor);
    });
}

/// Polls it once.
fn poll<R: Portable>(future: &mut TaskFuture<R>) {
    let _ = future.now_or_never();
}

#[test]
fn results_that_nobody_wants_leave_nothing() {
    let executor = processes(2);
    leaks_nothing(|| {
        // Dropped before and after the result is there, looked at and not.
        drop(executor.submit(task!(echo(large()))));
        let mut future = executor.submit(task!(echo(large())));
        poll(&mut future);
        drop(future);
        let future = executor.submit(task!(echo(large())));
        eventually("done", || future.done());
        drop(future);
        works(&executor);
        works(&executor);
    });
}

#[test]
fn tasks_that_fail_leave_nothing() {
    let executor = processes(1);
    leaks_nothing(|| {
        let (bytes, argument) = (large(), large());
        let panics = executor.submit(task!(|bytes| refuse(bytes)));
        assert!(matches!(panics.result(), Err(TaskError::Panicked(_))));
        // It is encoded before it is found out that it cannot be decoded.
        let wrong = executor.submit(task!(|argument| Picky(argument)));
        assert!(matches!(wrong.result(), Err(TaskError::Decode(_))));
        let wrong = executor.submit(task!(drop(Picky(large()))));
        assert!(matches!(wrong.result(), Err(TaskError::Decode(_))));
        let broken = executor.submit(task!(|| Broken(ByteBuf::from(vec![7; LARGE]))));
        assert!(matches!(broken.result(), Err(TaskError::Encode(_))));
        let broken = executor.submit(task!(drop(Broken(large()))));
        assert!(matches!(broken.result(), Err(TaskError::Encode(_))));
        works(&executor);
    });
}

fn refuse(bytes: ByteBuf) {
    panic!("with {} bytes", bytes.len());
}

/// Cannot be decoded.
#[derive(Serialize)]
struct Picky(ByteBuf);

impl<'de> Deserialize<'de> for Picky {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let _ = ByteBuf::deserialize(deserializer)?;
        Err(serde::de::Error::custom("not that"))
    }
}

/// Panics when it is encoded, after its bytes; its size can be taken.
#[derive(Deserialize)]
struct Broken(ByteBuf);

impl Serialize for Broken {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Mine;

        impl Serialize for Mine {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                thread_local! {
                    static TIMES: AtomicU32 = const { AtomicU32::new(0) };
                }
                let times = TIMES.with(|times| times.fetch_add(1, Ordering::Relaxed));
                assert!(times.is_multiple_of(2), "in the middle of it");
                ().serialize(serializer)
            }
        }

        (&self.0, Mine).serialize(serializer)
    }
}

#[test]
fn executors_that_end_leave_nothing() {
    leaks_nothing(|| {
        let killed = processes(2);
        let futures: Vec<_> = (0..6)
            .map(|_| killed.submit(task!(echo(large()))))
            .collect();
        killed.kill_workers();
        for future in futures {
            // Some were done.
            let _ = future.result();
        }
        drop(killed);
        let cancelled = processes(1);
        let futures: Vec<_> = (0..6)
            .map(|_| cancelled.submit(task!(echo(large()))))
            .collect();
        cancelled.shutdown(true, true);
        drop(futures);
        let pool = WorkerPool::builder()
            .max_workers(2)
            .backend(Backend::Multiprocessing)
            .build()
            .unwrap();
        let map = pool.map_async(echo::<ByteBuf>, vec![large(); 6]).unwrap();
        pool.terminate();
        let _ = map.get();
    });
}

#[test]
fn a_value_that_grows_while_it_is_encoded_travels_all_the_same() {
    /// Twice as large whenever its size was just taken.
    #[derive(Deserialize)]
    struct Growing(ByteBuf);

    impl Serialize for Growing {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            static TIMES: AtomicU32 = AtomicU32::new(0);
            let times = TIMES.fetch_add(1, Ordering::Relaxed);
            let len = if times == 0 { LARGE / 2 } else { LARGE };
            serializer.serialize_bytes(&self.0[..len])
        }
    }

    let _alone = alone();
    watched(|| {
        let argument = Growing(large());
        let len = processes(1).submit(task!(|argument| echo::<Growing>(argument).0.len()));
        assert_eq!(len.result().unwrap(), LARGE);
    });
}

#[test]
fn values_that_shrink_while_they_are_encoded_leave_nothing() {
    /// Next to nothing of it is left once its size was taken.
    #[derive(Deserialize)]
    struct Shrinking(ByteBuf);

    impl Serialize for Shrinking {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            static TIMES: AtomicU32 = AtomicU32::new(0);
            let times = TIMES.fetch_add(1, Ordering::Relaxed);
            let len = if times.is_multiple_of(3) { LARGE } else { 1 };
            serializer.serialize_bytes(&self.0[..len])
        }
    }

    let executor = processes(1);
    leaks_nothing(|| {
        for _ in 0..6 {
            let len = executor.submit(|| Shrinking(large())).result();
            assert_eq!(len.unwrap().0.len(), 1);
        }
    });
}

#[test]
fn a_worker_elsewhere_gets_it_through_its_pipe() {
    let _alone = alone();
    watched(|| {
        let launcher = Launcher::new(std::env::current_exe().unwrap());
        let executor = WorkerPoolExecutor::builder()
            .max_workers(1)
            .backend(Backend::Multiprocessing)
            .launcher(launcher)
            .build()
            .unwrap();
        let before = shared_memory();
        for _ in 0..3 {
            works(&executor);
        }
        assert!(shared_memory() < before + LARGE as u64);
    });
}

#[test]
fn all_of_it_is_given_back_after_a_while() {
    let _alone = alone();
    watched(|| {
        let executor = processes(2);
        let futures: Vec<_> = (0..8)
            .map(|_| executor.submit(task!(echo(large()))))
            .collect();
        for future in futures {
            future.result().unwrap();
        }
        assert!(shared_memory() > LARGE as u64);
        // The workers are still there; what has other uses is less than that.
        eventually("memory is given back", || shared_memory() < 2 << 20);
        works(&executor);
    });
}
