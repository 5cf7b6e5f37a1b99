//! Threads, processes and descriptors that the system refuses.

use super::*;

pub const SCENARIOS: &[Scenario] = &[
    scenario!(true, PROCESSES, a_refused_process_may_be_started_again),
    scenario!(
        true,
        PROCESSES,
        a_first_use_without_descriptors_is_an_error_of_its_task
    ),
    scenario!(
        true,
        PROCESSES,
        a_first_use_in_a_runtime_without_threads_is_an_error_of_its_task
    ),
    scenario!(
        true,
        PROCESSES,
        a_callback_is_called_though_there_is_no_thread_for_it
    ),
    scenario!(true, THREADS, a_refused_thread_may_be_started_again),
    scenario!(
        true,
        PROCESSES,
        a_worker_that_was_refused_first_is_waited_for
    ),
    scenario!(
        true,
        PROCESSES,
        a_lack_of_descriptors_at_any_point_is_an_error_and_no_leak
    ),
    scenario!(
        true,
        PROCESSES,
        what_is_shared_is_no_larger_than_files_may_be
    ),
    scenario!(
        true,
        PROCESSES,
        where_files_may_not_be_large_primitives_are_for_threads
    ),
    scenario!(
        true,
        PROCESSES,
        where_there_is_no_memory_for_what_is_shared_it_is_an_error
    ),
    scenario!(true, THREADS, a_pool_that_is_refused_a_thread_leaves_none),
    scenario!(
        true,
        PROCESSES,
        a_pool_that_is_refused_a_process_leaves_none
    ),
];

// Workers that the system refuses.

/// Sets a soft limit; gives the one before.
fn limit(resource: libc::__rlimit_resource_t, soft: u64) -> u64 {
    let mut limits = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointers are those of a structure of the type that the calls expect.
    unsafe {
        assert_eq!(libc::getrlimit(resource, &raw mut limits), 0);
        let before = std::mem::replace(&mut limits.rlim_cur, soft);
        assert_eq!(libc::setrlimit(resource, &raw const limits), 0);
        before
    }
}

/// A worker that was refused; `refuse` makes the system do that, and gives what undoes it.
fn a_refused_worker<U: FnOnce()>(refuse: impl FnOnce() -> U) -> freethreading::Worker {
    use freethreading::{Error, Worker, active_children, active_count};

    let worker = Worker::new(|| {
        sign("log").note("ran");
        sign("go").wait();
    });
    let undo = refuse();
    let refused = [worker.start(), worker.start()];
    undo();
    for result in refused {
        let error = result.unwrap_err();
        let Error::Start(start) = &error else {
            panic!("{error:?}");
        };
        assert!(start.io_error().raw_os_error().is_some(), "{start:?}");
        assert!(error.to_string().contains(&worker.name()), "{error}");
    }
    assert!(!worker.is_alive());
    assert_eq!((active_count(), active_children()), (1, vec![]));
    assert!(matches!(worker.join(), Err(Error::NotStarted)));
    assert!(!sign("log").is_given());
    worker
}

fn start_again(worker: &freethreading::Worker) {
    use freethreading::{Error, active_children};

    worker.set_daemon(true).unwrap();
    worker.set_daemon(false).unwrap();
    worker.start().unwrap();
    eventually("it runs", || sign("log").is_given());
    assert!(worker.is_alive());
    assert!(active_children().iter().eq([worker]));
    assert!(matches!(
        worker.join_timeout(Duration::ZERO),
        Err(Error::Timeout)
    ));
    assert!(matches!(worker.start(), Err(Error::AlreadyStarted)));
    sign("go").give();
    worker.join().unwrap();
    assert!(!worker.is_alive());
    assert_eq!(sign("log").notes(), ["ran"]);
}

/// Leaves no descriptors for anything.
fn refuse_descriptors() -> impl FnOnce() {
    let before = limit(libc::RLIMIT_NOFILE, 3);
    move || {
        limit(libc::RLIMIT_NOFILE, before);
    }
}

mod a_refused_process_may_be_started_again {
    use super::*;

    pub fn main() {
        start_again(&a_refused_worker(refuse_descriptors));
        std::fs::remove_file(std::path::Path::new(&env::var_os(SCRATCH).unwrap()).join("go"))
            .unwrap();
        std::fs::remove_file(std::path::Path::new(&env::var_os(SCRATCH).unwrap()).join("log"))
            .unwrap();
        // Now that all helpers are there.
        start_again(&a_refused_worker(refuse_descriptors));
    }

    pub fn check(program: Program) {
        program.run().said("");
    }
}

mod a_first_use_without_descriptors_is_an_error_of_its_task {
    use super::*;
    use freethreading::{TaskError, WorkerPoolExecutor};

    pub fn main() {
        let executor = WorkerPoolExecutor::new(1).unwrap();
        let open = common::descriptors() as u64;
        let mut refused = 0;
        // Each time a little more of what the first worker needs can be had.
        for room in 0.. {
            let before = limit(libc::RLIMIT_NOFILE, open + room);
            let result = executor.submit(|| 6 * 7).result();
            limit(libc::RLIMIT_NOFILE, before);
            match result {
                Ok(result) => {
                    assert_eq!(result, 42);
                    break;
                }
                Err(TaskError::Start(_)) => refused += 1,
                Err(other) => panic!("with room for {room}: {other:?}"),
            }
        }
        assert!(refused > 3, "{refused}");
        executor.shutdown(true, false);
    }

    pub fn check(program: Program) {
        program.run().had_code(0);
    }
}

mod a_first_use_in_a_runtime_without_threads_is_an_error_of_its_task {
    use super::*;
    use freethreading::{TaskError, WorkerPoolExecutor};

    pub fn main() {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.build().unwrap();
        runtime.block_on(async {
            let executor = WorkerPoolExecutor::new(1).unwrap();
            let undo = refuse_threads();
            let refused = executor.submit(|| 6 * 7).await;
            undo();
            let Err(TaskError::Start(error)) = refused else {
                panic!("{refused:?}");
            };
            assert!(error.io_error().raw_os_error().is_some(), "{error:?}");
            assert_eq!(executor.submit(|| 6 * 7).await.unwrap(), 42);
            executor.shutdown_async(false).await;
        });
    }

    pub fn check(mut program: Program) {
        program
            .command
            .env("RUST_MIN_STACK", (512 << 20).to_string());
        program.run().said("");
    }
}

mod a_callback_is_called_though_there_is_no_thread_for_it {
    use super::*;
    use freethreading::WorkerPoolExecutor;

    pub fn main() {
        let executor = WorkerPoolExecutor::new(1).unwrap();
        executor.submit(|| ()).result().unwrap();
        let (done, is_done) = mpsc::channel();
        let undo = refuse_threads();
        executor.submit(|| 6 * 7).add_done_callback(move |future| {
            done.send(future.result().unwrap()).unwrap();
        });
        assert_eq!(is_done.recv().unwrap(), 42);
        undo();
        executor.shutdown(true, false);
    }

    pub fn check(mut program: Program) {
        program
            .command
            .env("RUST_MIN_STACK", (512 << 20).to_string());
        program.run().said("");
    }
}

/// Leaves room for anything but a stack, where the environment says that stacks are large.
fn refuse_threads() -> impl FnOnce() {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = pages.split(' ').next().unwrap().parse().unwrap();
    let before = limit(libc::RLIMIT_AS, pages * 4096 + (64 << 20));
    move || {
        limit(libc::RLIMIT_AS, before);
    }
}

mod a_refused_thread_may_be_started_again {
    use super::*;

    pub fn main() {
        start_again(&a_refused_worker(refuse_threads));
    }

    pub fn check(mut program: Program) {
        program
            .command
            .env("RUST_MIN_STACK", (512 << 20).to_string());
        program.run().said("");
    }
}

mod a_worker_that_was_refused_first_is_waited_for {
    use super::*;

    pub fn main() {
        let worker = a_refused_worker(refuse_descriptors);
        worker.start().unwrap();
        thread::spawn(|| {
            wait_for_the_end_of_main();
            sign("go").give();
        });
        tell_the_end_of_main();
        println!("main returns");
    }

    pub fn check(program: Program) {
        let running = program.start();
        let log = running.sign("log");
        eventually("it runs", || log.is_given());
        running.finish().said("main returns\n");
    }
}

mod a_lack_of_descriptors_at_any_point_is_an_error_and_no_leak {
    use super::*;
    use freethreading::{Error, Worker};

    pub fn main() {
        let warm = Worker::new(|| ());
        warm.start().unwrap();
        warm.join().unwrap();
        let before = common::descriptors();
        let mut refused = 0;
        let mut started = 0;
        for room in 0..24 {
            let worker = Worker::new(|| ());
            let limit_before = limit(libc::RLIMIT_NOFILE, before as u64 + room);
            let start = worker.start();
            limit(libc::RLIMIT_NOFILE, limit_before);
            match start {
                Ok(()) => {
                    started += 1;
                    worker.join().unwrap();
                }
                Err(Error::Start(_)) => refused += 1,
                Err(other) => panic!("with room for {room}: {other:?}"),
            }
            drop(worker);
            eventually("as before", || common::descriptors() <= before);
        }
        assert!(refused > 3 && started > 3, "{refused} {started}");
        eventually("no child is left", || common::children().is_empty());
    }

    pub fn check(program: Program) {
        program.run().said("");
    }
}

mod what_is_shared_is_no_larger_than_files_may_be {
    use super::*;
    use freethreading::{Queue, Worker, task};

    fn put(queue: Queue<u32>) {
        (0..1000).for_each(|n| queue.put(n).unwrap());
    }

    pub fn main() {
        // To make a file that is larger than this ends a program.
        limit(libc::RLIMIT_FSIZE, 100 << 20);
        let queue = Queue::new(0);
        let worker = Worker::new(task!(put(queue.clone())));
        worker.start().unwrap();
        worker.join().unwrap();
        assert!((0..1000).all(|n| queue.get_nowait().unwrap() == n));
    }

    pub fn check(program: Program) {
        program.run().said("");
    }
}

mod where_files_may_not_be_large_primitives_are_for_threads {
    use super::*;
    use freethreading::{Queue, Worker, task};

    fn nothing(_: Queue<u32>) {}

    pub fn main() {
        limit(libc::RLIMIT_FSIZE, 1 << 20);
        let queue = Queue::new(0);
        std::thread::scope(|scope| scope.spawn(|| queue.put(7)).join().unwrap()).unwrap();
        assert_eq!(queue.get().unwrap(), 7);
        let error = Worker::new(task!(nothing(queue))).start().unwrap_err();
        assert!(error.to_string().contains("File too large"), "{error}");
        let worker = Worker::new(|| {});
        worker.start().unwrap();
        worker.join().unwrap();
    }

    pub fn check(program: Program) {
        program.run().said("");
    }
}

mod where_there_is_no_memory_for_what_is_shared_it_is_an_error {
    use super::*;
    use freethreading::{Error, Lock, TaskError, WorkerPoolExecutor};

    pub fn main() {
        let executor = WorkerPoolExecutor::new(1).unwrap();
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = pages.split(' ').next().unwrap().parse().unwrap();
        // Room for a stack, but not for the smallest arena.
        let before = limit(libc::RLIMIT_AS, pages * 4096 + (32 << 20));
        let (lock, task) = (Lock::try_new(), executor.submit(|| 6 * 7).result());
        limit(libc::RLIMIT_AS, before);
        assert!(matches!(lock, Err(Error::Arena(_))), "{lock:?}");
        assert!(matches!(task, Err(TaskError::Start(_))), "{task:?}");
        let executor = WorkerPoolExecutor::new(1).unwrap();
        assert_eq!(executor.submit(|| 6 * 7).result().unwrap(), 42);
        assert!(Lock::try_new().unwrap().try_acquire());
    }

    pub fn check(program: Program) {
        program.run().said("");
    }
}

mod a_pool_that_is_refused_a_thread_leaves_none {
    use super::*;
    use freethreading::{Error, WorkerPool, active_count};

    pub fn main() {
        let before = common::threads();
        // Room for one stack and anything else, but not for two.
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = pages.split(' ').next().unwrap().parse().unwrap();
        let unlimited = limit(libc::RLIMIT_AS, pages * 4096 + (512 << 20) + (128 << 20));
        let refused = WorkerPool::new(3);
        limit(libc::RLIMIT_AS, unlimited);
        let Err(Error::Start(error)) = refused else {
            panic!("{refused:?}");
        };
        assert!(error.io_error().raw_os_error().is_some());
        assert_eq!(active_count(), 1);
        // To the system a thread that was waited for may be there a moment longer.
        eventually("no thread is left", || common::threads() == before);
        let pool = WorkerPool::new(3).unwrap();
        assert_eq!(pool.map(|x: u32| x * 2, 0..3).unwrap(), [0, 2, 4]);
    }

    pub fn check(mut program: Program) {
        program
            .command
            .env("RUST_MIN_STACK", (512 << 20).to_string());
        program.run().said("");
    }
}

mod a_pool_that_is_refused_a_process_leaves_none {
    use super::*;
    use freethreading::{Error, WorkerPool, active_count};

    pub fn main() {
        let warm = WorkerPool::new(1).unwrap();
        warm.apply(|| ()).unwrap();
        warm.close();
        warm.join().unwrap();
        let open = common::descriptors() as u64;
        let (mut refused, mut built) = (0, 0);
        // Each time a little more of what the workers need can be had.
        for room in 0..40 {
            let before = limit(libc::RLIMIT_NOFILE, open + room);
            let result = WorkerPool::new(3);
            limit(libc::RLIMIT_NOFILE, before);
            match result {
                Ok(pool) => {
                    built += 1;
                    assert_eq!(pool.map(|x: u32| x * 2, 0..3).unwrap(), [0, 2, 4]);
                    pool.close();
                    pool.join().unwrap();
                }
                Err(Error::Start(_)) => refused += 1,
                Err(error) => panic!("with room for {room}: {error:?}"),
            }
            assert_eq!((active_count(), common::children().len()), (1, 0));
            eventually("as before", || common::descriptors() as u64 <= open);
        }
        assert!(refused > 8 && built > 3, "{refused} {built}");
    }

    pub fn check(program: Program) {
        program.run().said("");
    }
}
