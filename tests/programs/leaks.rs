//! What is left when workers are gone: nothing.

use super::*;

pub const SCENARIOS: &[Scenario] = &[
    scenario!(true, &[], nothing_is_left_of_workers_and_executors),
    scenario!(true, THREADS, threads_that_have_ended_leave_no_memory),
    scenario!(true, PROCESSES, many_small_results_take_few_threads),
    scenario!(true, PROCESSES, no_zombies_are_left),
    scenario!(
        true,
        PROCESSES,
        workers_that_kill_each_other_are_all_found_dead
    ),
    scenario!(true, &[], nothing_is_left_of_pools),
    scenario!(
        true,
        &Backend::ALL,
        a_forked_process_ends_and_leaves_all_alone
    ),
    scenario!(
        true,
        &Backend::ALL,
        nothing_is_left_of_tasks_that_come_back_twice
    ),
    scenario!(
        true,
        THREADS,
        nothing_is_left_of_those_of_a_forked_process_either
    ),
    scenario!(
        true,
        PROCESSES,
        workers_end_well_where_somebody_else_waits_for_them
    ),
];

fn counts() -> (usize, usize, usize) {
    (
        common::threads(),
        common::descriptors(),
        common::children().len(),
    )
}

/// After fifty more cycles on either backend there is no more than after the first, which has started what stays.
fn leaves_nothing(cycle: fn(Backend)) {
    for backend in Backend::ALL {
        cycle(backend);
        let mut before = counts();
        eventually("the first cycle is over", || {
            before = counts();
            freethreading::active_count() == 1 && before.2 == 0
        });
        eventually("the first cycle is over", || counts() <= before);
        for _ in 0..50 {
            cycle(backend);
        }
        eventually("everything is as before", || {
            let now = counts();
            now.0 <= before.0 && now.1 <= before.1 && now.2 == 0
        });
    }
}

mod nothing_is_left_of_workers_and_executors {
    use super::*;
    use freethreading::{TaskError, Worker, WorkerPoolExecutor};

    fn cycle(backend: Backend) {
        let worker = Worker::new(|| ()).backend(backend);
        worker.start().unwrap();
        worker.join().unwrap();

        // Never joined, panicked, never started.
        let worker = Worker::new(|| -> () { std::panic::resume_unwind(Box::new("quietly")) });
        worker.backend(backend).start().unwrap();
        drop(Worker::new(|| ()).backend(backend));

        let executor = WorkerPoolExecutor::builder()
            .max_workers(2)
            .backend(backend)
            .build()
            .unwrap();
        let sum: u32 = executor
            .map(|x: u32| x + 1, 0..10)
            .into_vec()
            .unwrap()
            .iter()
            .sum();
        assert_eq!(sum, 55);
        executor.shutdown(true, false);

        let executor = WorkerPoolExecutor::builder()
            .max_workers(2)
            .backend(backend)
            .build()
            .unwrap();
        drop(executor.submit(|| 7));
        drop(executor);

        if backend == Backend::Multiprocessing {
            let worker = Worker::new(spin).backend(backend);
            worker.start().unwrap();
            worker.terminate().unwrap();
            let executor = WorkerPoolExecutor::builder()
                .max_workers(1)
                .backend(backend)
                .build()
                .unwrap();
            let lost = executor.submit(|| -> () { std::process::abort() }).result();
            assert!(matches!(lost, Err(TaskError::WorkerDied(_))));
        }
    }

    pub fn main() {
        leaves_nothing(cycle);
    }

    pub fn check(program: Program) {
        program.run().said("");
    }
}

mod threads_that_have_ended_leave_no_memory {
    use super::*;
    use freethreading::WorkerPoolExecutor;

    fn mappings() -> usize {
        std::fs::read_to_string("/proc/self/maps")
            .unwrap()
            .lines()
            .count()
    }

    pub fn main() {
        let builder = WorkerPoolExecutor::builder()
            .max_workers(2)
            .max_tasks_per_child(1);
        let executor = builder.build().unwrap();
        let run = |count: usize| {
            for _ in 0..count {
                executor.submit(|| ()).result().unwrap();
            }
        };
        run(50);
        let before = mappings();
        run(1000);
        assert!(mappings() < before + 100, "{before} {}", mappings());
    }

    pub fn check(program: Program) {
        program.run().said("");
    }
}

mod many_small_results_take_few_threads {
    use super::*;
    use std::sync::mpsc;

    use freethreading::{WorkerPool, WorkerPoolExecutor, task};

    fn double(n: u64) -> u64 {
        2 * n
    }

    pub fn main() {
        const COUNT: u64 = 20_000;

        let pool = WorkerPool::new(2).unwrap();
        let doubles = pool.chunksize(1).map(double, 0..COUNT).unwrap();
        assert!(doubles.into_iter().eq((0..COUNT).map(double)));
        // Threads that had something to do are there for a second.
        assert!(common::threads() < 50, "{} threads", common::threads());

        let executor = WorkerPoolExecutor::new(2).unwrap();
        let (sender, receiver) = mpsc::channel();
        for n in 0..COUNT {
            let sender = sender.clone();
            let double = executor.submit(task!(double(n)));
            double.add_done_callback(move |_| sender.send(common::threads()).unwrap());
        }
        drop(sender);
        assert!(receiver.iter().max().unwrap() < 50);
    }

    pub fn check(program: Program) {
        program.run().said("");
    }
}

mod no_zombies_are_left {
    use super::*;
    use freethreading::{Worker, active_children, task};

    fn exit(code: i32) {
        std::process::exit(code);
    }

    pub fn main() {
        let kept: Vec<Worker> = [
            Worker::new(|| ()),
            Worker::new(|| -> () { std::process::abort() }),
            Worker::new(task!(exit(3))),
            Worker::new(spin),
            Worker::new(spin),
        ]
        .into();
        for worker in &kept {
            worker.start().unwrap();
            // Others, whose handles are dropped.
            Worker::new(|| -> () { std::process::abort() })
                .start()
                .unwrap();
            Worker::new(task!(exit(0))).start().unwrap();
        }
        common::signal(kept[3].ident().unwrap() as u32, libc::SIGKILL);
        kept[4].terminate().unwrap();
        // Nobody joins anything.
        eventually("all workers have ended", || active_children().is_empty());
        assert_eq!(common::children(), []);
        assert!(kept.iter().all(|worker| !worker.is_alive()));
    }

    pub fn check(program: Program) {
        program.run().said("");
    }
}

mod workers_that_kill_each_other_are_all_found_dead {
    use super::*;
    use freethreading::{Error, TaskError, Worker, task};
    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

    const FIGHTERS: usize = 13;

    /// Kills others, chosen at random, until all of them are gone.
    fn fight(seed: u64) {
        let this = std::process::id();
        sign("pids").note(this);
        eventually("all are there", || sign("pids").notes().len() == FIGHTERS);
        // Process ids may be given to others one day, these cannot.
        let mut others: Vec<_> = sign("pids")
            .notes()
            .iter()
            .map(|pid| pid.parse().unwrap())
            .filter(|pid: &u32| *pid != this)
            .map(|pid| Pid::from_raw(pid as i32).unwrap())
            .map(|pid| pidfd_open(pid, PidfdFlags::empty()).unwrap())
            .collect();
        sign("armed").note(this);
        eventually("all are armed", || sign("armed").notes().len() == FIGHTERS);
        let mut random = seed;
        while !others.is_empty() {
            // A generator of Lehmer's.
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let victim = (random >> 33) as usize % others.len();
            if pidfd_send_signal(&others[victim], Signal::KILL).is_err() {
                others.swap_remove(victim);
            }
        }
    }

    pub fn main() {
        let fighters: Vec<_> = (0..FIGHTERS as u64)
            .map(|i| Worker::new(task!(fight(i + u64::from(std::process::id())))))
            .collect();
        for fighter in &fighters {
            fighter.start().unwrap();
        }
        let mut survivors = 0;
        for fighter in &fighters {
            match fighter.join() {
                Ok(()) => survivors += 1,
                Err(Error::Task(TaskError::WorkerDied(died))) => {
                    assert_eq!(died.signal(), Some(libc::SIGKILL));
                }
                Err(other) => panic!("{other:?}"),
            }
        }
        assert!(survivors <= 1, "{survivors}");
        assert!(freethreading::active_children().is_empty());
        assert_eq!(common::children(), []);
    }

    pub fn check(program: Program) {
        program.run().said("");
    }
}

mod nothing_is_left_of_pools {
    use super::*;
    use freethreading::{Error, TaskError, WorkerPool, task};

    fn cycle(backend: Backend) {
        let new = || {
            WorkerPool::builder()
                .max_workers(2)
                .backend(backend)
                .build()
                .unwrap()
        };
        let double = |x: u32| x * 2;

        let pool = new();
        assert_eq!(pool.map(double, 0..3).unwrap(), [0, 2, 4]);
        assert_eq!(pool.chunksize(2).map(double, 0..3).unwrap(), [0, 2, 4]);
        assert_eq!(pool.imap(double, 0..3).unwrap().count(), 3);
        assert_eq!(pool.imap(double, 0..).unwrap().take(5).count(), 5);
        pool.close();
        pool.join().unwrap();

        // Not joined, with work that was not done.
        let pool = new();
        drop(pool.map_async(double, 0..1000));
        drop(pool.chunksize(1).map_async(double, 0..1000));
        drop(pool.apply_async(task!(double(2))).unwrap().callback(|_| ()));
        drop(pool.imap(double, 0..));
        drop(pool);

        let pool = new();
        drop(pool.map_async(double, 0..1000));
        pool.terminate();
        pool.join().unwrap();

        if backend == Backend::Multiprocessing {
            let pool = new();
            let lost = pool.apply(|| -> () { std::process::abort() });
            assert!(matches!(lost, Err(Error::Task(TaskError::WorkerDied(_)))));
        }
    }

    pub fn main() {
        leaves_nothing(cycle);
    }

    pub fn check(program: Program) {
        program.run().said("");
    }
}

mod a_forked_process_ends_and_leaves_all_alone {
    use super::*;
    use freethreading::{
        Error, Event, Lock, Queue, RLock, Semaphore, TaskError, WorkerPool, WorkerPoolExecutor,
        task,
    };
    use serde_bytes::ByteBuf;

    pub fn main() {
        let executor = WorkerPoolExecutor::new(2).unwrap();
        executor.submit(|| ()).result().unwrap();
        let held: Vec<_> = (0..1000).map(|_| Lock::new()).collect();
        held.iter().for_each(Lock::acquire);
        let (r_lock, semaphore, queue) = (RLock::new(), Semaphore::new(3), Queue::new(0));
        r_lock.acquire();
        queue.put(7).unwrap();
        let pool = WorkerPool::new(1).unwrap();
        let large = |byte| executor.submit(task!(|byte| ByteBuf::from(vec![byte; 1 << 20])));
        let result = large(1);
        common::eventually("it is there", || result.done());
        let (alone, go) = (WorkerPoolExecutor::new(1).unwrap(), Event::new());
        // Where so many wait, the worker takes them from memory that the child has, too.
        let many: Vec<_> = (0..300).map(|_| alone.submit(|| ())).collect();
        many.iter().for_each(|one| one.result().unwrap());
        let runs = alone
            .submit(task!(|go = go.clone()| { go.wait(); }))
            .kill_on_drop();
        common::eventually("it runs", || runs.as_ref().running());
        let waits = alone.submit(|| 8).kill_on_drop();
        let pids = || {
            (
                pool.apply(std::process::id).unwrap(),
                executor.stats().restarted,
            )
        };
        let before = pids();
        // SAFETY: what the child does is what this is about.
        match unsafe { libc::fork() } {
            0 => {
                drop((held, r_lock, semaphore, queue, result, runs, waits));
                let processes = WorkerPoolExecutor::builder().backend(Backend::Multiprocessing);
                let refused = processes.build().unwrap().submit(|| ()).result();
                let is_refused = matches!(refused, Err(TaskError::Start(_)));
                drop((pool, executor));
                std::process::exit(if is_refused { 5 } else { 6 });
            }
            pid => {
                let mut status = 0;
                // SAFETY: the status is this thread's.
                assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
                assert_eq!(libc::WEXITSTATUS(status), 5);
            }
        }
        // As many as there were, and none of them is one of those.
        let new: Vec<_> = (0..1000).map(|_| Lock::new()).collect();
        assert!(new.iter().all(Lock::try_acquire));
        assert!(held.iter().all(|lock| lock.release().is_ok()));
        assert!(new.iter().all(Lock::locked));
        assert!(matches!(r_lock.release().map_err(Error::from), Ok(())));
        assert_eq!((semaphore.value(), queue.get().unwrap()), (3, 7));
        (2..6).for_each(|byte| drop(large(byte).result().unwrap()));
        assert_eq!(result.result().unwrap(), vec![1; 1 << 20]);
        assert_eq!(pids(), before);
        go.set();
        runs.detach().result().unwrap();
        assert_eq!(waits.detach().result().unwrap(), 8);
        println!("all is well");
    }

    pub fn check(program: Program) {
        program.run().said("all is well\n");
    }
}

mod nothing_is_left_of_tasks_that_come_back_twice {
    use super::*;
    use freethreading::{WorkerPoolExecutor, task};

    fn fork() {
        // SAFETY: the child comes back from the task, which is what this is about.
        unsafe { libc::fork() };
    }

    fn note(n: u32) {
        sign("ran").note(n);
    }

    pub fn main() {
        let executor = WorkerPoolExecutor::builder().max_workers(1);
        let executor = executor.initializer(fork).build().unwrap();
        for n in 0..20 {
            let forks = executor.submit(fork);
            let next = executor.submit(task!(note(n)));
            forks.add_done_callback(|_| sign("told").note("once"));
            forks.result().unwrap();
            next.result().unwrap();
        }
        executor.shutdown(true, false);
        assert_eq!(sign("ran").notes().len(), 20);
        assert_eq!(sign("told").notes().len(), 20);
    }

    pub fn check(program: Program) {
        program.run().said("");
    }
}

mod nothing_is_left_of_those_of_a_forked_process_either {
    use super::*;
    use freethreading::WorkerPoolExecutor;

    pub fn main() {
        // The program has begun to use workers.
        drop(WorkerPoolExecutor::new(1).unwrap());
        // SAFETY: this is the only thread.
        match unsafe { libc::fork() } {
            0 => nothing_is_left_of_tasks_that_come_back_twice::main(),
            pid => {
                let mut status = 0;
                // SAFETY: the status is this thread's.
                assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
                assert_eq!(status, 0);
            }
        }
    }

    pub fn check(program: Program) {
        program.run().said("");
    }
}

mod workers_end_well_where_somebody_else_waits_for_them {
    use super::*;
    use freethreading::{Death, TaskError, Worker, WorkerPoolExecutor};

    pub fn main() {
        thread::spawn(|| {
            loop {
                // SAFETY: nobody wants the status.
                if unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) } < 0 {
                    thread::yield_now();
                }
            }
        });
        for _ in 0..20 {
            let worker = Worker::new(|| ());
            worker.start().unwrap();
            worker.join().unwrap();
        }
        let executor = WorkerPoolExecutor::new(1).unwrap();
        for _ in 0..5 {
            let aborted = executor.submit(|| -> () { std::process::abort() }).result();
            let Err(TaskError::WorkerDied(died)) = aborted else {
                panic!("{aborted:?}");
            };
            // Either of the two may be faster.
            let death = died.death();
            assert!(
                matches!(death, Death::Signaled(libc::SIGABRT) | Death::Unobserved(_)),
                "{died}"
            );
            executor.submit(|| ()).result().unwrap();
        }
        println!("all is well");
    }

    pub fn check(program: Program) {
        program.run().said("all is well\n");
    }
}
