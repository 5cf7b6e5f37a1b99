//! Programs that are interrupted or killed.

use super::*;

pub const SCENARIOS: &[Scenario] = &[
    scenario!(
        true,
        PROCESSES,
        worker_processes_end_when_their_program_is_killed
    ),
    scenario!(true, PROCESSES, a_stopped_worker_ends_once_it_is_continued),
    scenario!(true, PROCESSES, no_file_is_left_of_a_program_that_is_killed),
    scenario!(
        true,
        PROCESSES,
        an_interrupt_ends_the_program_and_its_worker_processes
    ),
    scenario!(
        true,
        PROCESSES,
        worker_processes_survive_an_interrupt_that_the_program_handles
    ),
    scenario!(true, &Backend::ALL, signals_do_not_disturb_who_waits),
];

// Violent ends.

mod worker_processes_end_when_their_program_is_killed {
    use super::*;
    use freethreading::{Worker, WorkerPool, WorkerPoolExecutor};

    fn note_and_spin() {
        sign("busy").note(std::process::id());
        spin();
    }

    fn note_and_start_another() {
        Worker::new(note_and_spin)
            .with_daemon(true)
            .start()
            .unwrap();
        note_and_spin();
    }

    pub fn start_workers() {
        Worker::new(note_and_spin).start().unwrap();
        Worker::new(note_and_spin)
            .with_daemon(true)
            .start()
            .unwrap();
        Worker::new(note_and_start_another).start().unwrap();
        let executor = WorkerPoolExecutor::new(3).unwrap();
        // An idle one, and two with endless tasks.
        let idle = executor.submit(|| sign("busy").note(std::process::id()));
        drop(executor.submit(note_and_spin));
        drop(executor.submit(note_and_spin));
        idle.result().unwrap();
        std::mem::forget(executor);
        let pool = WorkerPool::new(2).unwrap();
        drop(pool.map_async(|_: u32| note_and_spin(), 0..10));
        std::mem::forget(pool);
    }

    /// The processes that `start_workers` makes busy.
    pub fn wait_for_workers(running: &Running) -> Vec<u32> {
        let busy = running.sign("busy");
        eventually("all are busy", || busy.notes().len() == 9);
        busy.notes()
            .iter()
            .map(|pid| pid.parse().unwrap())
            .collect()
    }

    pub fn main() {
        start_workers();
        spin();
    }

    pub fn check(program: Program) {
        let running = program.start();
        let pids = wait_for_workers(&running);
        common::signal(running.child.id(), libc::SIGKILL);
        let ended = running.finish();
        assert_eq!(ended.status.signal(), Some(libc::SIGKILL));
        assert_eq!((ended.stdout, ended.stderr), (String::new(), String::new()));
        for pid in pids {
            eventually("the worker has ended", || !common::runs(pid));
        }
    }
}

mod a_stopped_worker_ends_once_it_is_continued {
    use super::*;
    use freethreading::WorkerPoolExecutor;

    pub fn main() {
        let executor = WorkerPoolExecutor::new(1).unwrap();
        let pid = executor.submit(std::process::id).result().unwrap();
        sign("idle").note(pid);
        spin();
    }

    pub fn check(program: Program) {
        let mut running = program.start();
        let idle = running.sign("idle");
        eventually("it is idle", || idle.notes().len() == 1);
        let pid = idle.notes()[0].parse().unwrap();
        common::stop(pid);
        common::signal(running.child.id(), libc::SIGKILL);
        running.child.wait().unwrap();
        assert!(common::runs(pid));
        common::signal(pid, libc::SIGCONT);
        let ended = running.finish();
        assert_eq!((ended.stdout, ended.stderr), (String::new(), String::new()));
        eventually("the worker has ended", || !common::runs(pid));
    }
}

mod no_file_is_left_of_a_program_that_is_killed {
    use super::*;
    use freethreading::{
        Barrier, BoundedSemaphore, Condition, Event, Lock, Queue, RLock, Semaphore, SimpleQueue,
        Worker, task,
    };
    use serde_bytes::ByteBuf;
    use std::{collections::BTreeSet, fs, path::PathBuf};

    /// One of each.
    #[derive(Clone, serde::Serialize, serde::Deserialize)]
    struct All {
        lock: Lock,
        rlock: RLock,
        semaphore: Semaphore,
        bounded: BoundedSemaphore,
        condition: Condition,
        event: Event,
        barrier: Barrier,
        queue: Queue<ByteBuf>,
        simple: SimpleQueue<ByteBuf>,
    }

    impl All {
        fn new() -> All {
            All {
                lock: Lock::new(),
                rlock: RLock::new(),
                semaphore: Semaphore::new(2),
                bounded: BoundedSemaphore::new(2),
                condition: Condition::new(),
                event: Event::new(),
                barrier: Barrier::new(3).unwrap(),
                queue: Queue::new(0),
                simple: SimpleQueue::new(),
            }
        }

        fn fill(&self) {
            for _ in 0..50 {
                self.queue.put(ByteBuf::from(vec![7; 100_000])).unwrap();
                self.simple.put(ByteBuf::from(vec![7; 100_000])).unwrap();
            }
        }

        /// Takes some of all that there is, says so, and waits for ever.
        fn hold_on(&self) {
            self.semaphore.acquire();
            self.bounded.acquire();
            assert_eq!(self.queue.get().unwrap().len(), 100_000);
            assert_eq!(self.simple.get().unwrap().len(), 100_000);
            sign("busy").note(std::process::id());
            self.barrier.wait().unwrap();
        }
    }

    fn hold_on(all: All) {
        all.lock.acquire();
        all.condition.acquire();
        all.hold_on();
    }

    pub fn main() {
        let all = All::new();
        // The queues grow before they are shared, and once more afterwards.
        all.fill();
        let worker = Worker::new(task!(hold_on(all.clone())));
        worker.start().unwrap();
        eventually("the worker is busy", || !sign("busy").notes().is_empty());
        all.fill();
        all.event.set();
        all.rlock.acquire();
        all.hold_on();
    }

    /// The named memory of all programs on this machine, which may come and go; but no name is of a
    /// program of ours.
    fn named_memory(pids: &[u32]) -> BTreeSet<PathBuf> {
        let ours = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let numbers = name.split(|c: char| !c.is_ascii_digit());
            let mut pids_in_it = numbers.filter_map(|number| number.parse().ok());
            name.contains("freethreading") || pids_in_it.any(|number| pids.contains(&number))
        };
        let entries = fs::read_dir("/dev/shm").into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(ours).collect()
    }

    /// What the process has open or mapped that has a name there.
    fn files_of(pid: u32, places: &[PathBuf]) -> Vec<String> {
        let there = |path: &str| {
            let path = path.trim_end_matches(" (deleted)");
            places
                .iter()
                .any(|place| std::path::Path::new(path).starts_with(place))
        };
        let opened = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        let opened = opened.filter_map(|entry| fs::read_link(entry.path()).ok());
        let opened = opened.map(|path| path.to_string_lossy().into_owned());
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        let mapped = maps
            .lines()
            .filter_map(|line| line.find('/').map(|at| line[at..].to_owned()));
        opened.chain(mapped).filter(|path| there(path)).collect()
    }

    pub fn check(mut program: Program) {
        let temporary = Scratch::new();
        program.command.env("TMPDIR", temporary.path());
        let running = program.start();
        let busy = running.sign("busy");
        eventually("both are busy", || busy.notes().len() == 2);
        let pids: Vec<u32> = busy
            .notes()
            .iter()
            .map(|pid| pid.parse().unwrap())
            .collect();
        assert!(pids.contains(&running.child.id()), "{pids:?}");
        // What they share has no name there, not even one that is taken away at the end.
        let places = [
            temporary.path().into(),
            "/dev/shm".into(),
            "/dev/mqueue".into(),
        ];
        for pid in &pids {
            assert_eq!(files_of(*pid, &places), Vec::<String>::new());
            let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
            assert!(maps.contains("/memfd:freethreading"), "{maps}");
        }
        common::signal(running.child.id(), libc::SIGKILL);
        let ended = running.finish();
        assert_eq!(ended.status.signal(), Some(libc::SIGKILL));
        assert_eq!((ended.stdout, ended.stderr), (String::new(), String::new()));
        for pid in &pids {
            eventually("it has ended", || !common::runs(*pid));
        }
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
        assert_eq!(named_memory(&pids), BTreeSet::new());
    }
}

mod an_interrupt_ends_the_program_and_its_worker_processes {
    use super::*;

    pub fn main() {
        worker_processes_end_when_their_program_is_killed::main();
    }

    pub fn check(mut program: Program) {
        program.command.process_group(0);
        let running = program.start();
        let pids = worker_processes_end_when_their_program_is_killed::wait_for_workers(&running);
        interrupt(&running);
        let ended = running.finish();
        assert_eq!(ended.status.signal(), Some(libc::SIGINT));
        assert_eq!((ended.stdout, ended.stderr), (String::new(), String::new()));
        for pid in pids {
            eventually("the worker has ended", || !common::runs(pid));
        }
    }

    /// What Ctrl-C does.
    pub fn interrupt(running: &Running) {
        let group = i32::try_from(running.child.id()).unwrap();
        // SAFETY: the call takes no pointers.
        assert_eq!(unsafe { libc::kill(-group, libc::SIGINT) }, 0);
    }
}

mod worker_processes_survive_an_interrupt_that_the_program_handles {
    use super::*;
    use freethreading::{Worker, WorkerPoolExecutor};
    use std::sync::atomic::{AtomicBool, Ordering};

    static INTERRUPTED: AtomicBool = AtomicBool::new(false);

    extern "C" fn note_interrupt(_: i32) {
        INTERRUPTED.store(true, Ordering::SeqCst);
    }

    fn wait() -> u32 {
        sign("busy").note("");
        sign("go").wait();
        7
    }

    pub fn main() {
        let handler = note_interrupt as extern "C" fn(i32);
        // SAFETY: the handler does nothing that a handler may not do.
        unsafe { libc::signal(libc::SIGINT, handler as libc::sighandler_t) };
        let executor = WorkerPoolExecutor::new(2).unwrap();
        let tasks = [executor.submit(wait), executor.submit(wait)];
        let worker = Worker::new(wait);
        worker.start().unwrap();
        eventually("the interrupt", || INTERRUPTED.load(Ordering::SeqCst));
        sign("go").give();
        for task in tasks {
            assert_eq!(task.result().unwrap(), 7);
        }
        worker.join().unwrap();
        println!("fine");
    }

    pub fn check(mut program: Program) {
        program.command.process_group(0);
        let running = program.start();
        let busy = running.sign("busy");
        eventually("all are busy", || busy.notes().len() == 3);
        an_interrupt_ends_the_program_and_its_worker_processes::interrupt(&running);
        running.finish().said("fine\n");
    }
}

mod signals_do_not_disturb_who_waits {
    use super::*;
    use freethreading::{Worker, WorkerPoolExecutor, task};
    use std::{
        os::unix::thread::JoinHandleExt,
        sync::atomic::{AtomicBool, AtomicU32, Ordering},
    };

    static SEEN: AtomicU32 = AtomicU32::new(0);
    static DONE: AtomicBool = AtomicBool::new(false);

    extern "C" fn count(_: i32) {
        SEEN.fetch_add(1, Ordering::SeqCst);
    }

    /// Has interrupted system calls fail.
    fn handle_signals() {
        // SAFETY: all-zero is a valid value; the handler does nothing that a handler may not do, and the
        // pointers are those of a structure of the type that the call expects.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = count as extern "C" fn(i32) as libc::sighandler_t;
            assert_eq!(
                libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()),
                0
            );
        }
    }

    fn mirror(bytes: serde_bytes::ByteBuf) -> serde_bytes::ByteBuf {
        bytes
    }

    fn wait() {
        sign("go").wait();
    }

    pub fn main() {
        handle_signals();
        let waiter = thread::spawn(|| {
            let worker = Worker::new(wait);
            worker.start().unwrap();
            let seen = SEEN.load(Ordering::SeqCst);
            let releasing = thread::spawn(move || {
                eventually("some signals", || SEEN.load(Ordering::SeqCst) > seen + 50);
                sign("go").give();
            });
            worker.join().unwrap();
            assert!(SEEN.load(Ordering::SeqCst) > seen + 50);
            releasing.join().unwrap();

            let executor = WorkerPoolExecutor::new(1).unwrap();
            // A worker process is signalled as well.
            let pid = executor
                .submit(|| {
                    handle_signals();
                    std::process::id()
                })
                .result()
                .unwrap();
            let bytes: Vec<u8> = (0..5 << 20).map(|i| (i % 251) as u8).collect();
            for _ in 0..3 {
                let future = executor.submit(task!(mirror(bytes.clone().into())));
                while !future.done() {
                    if pid != std::process::id() {
                        common::signal(pid, libc::SIGUSR1);
                    }
                    thread::yield_now();
                }
                assert!(future.result().unwrap() == bytes);
            }
            DONE.store(true, Ordering::SeqCst);
        });
        while !DONE.load(Ordering::SeqCst) && !waiter.is_finished() {
            // SAFETY: the thread was not joined yet, so its identifier is valid.
            unsafe { libc::pthread_kill(waiter.as_pthread_t(), libc::SIGUSR1) };
            thread::yield_now();
        }
        waiter.join().unwrap();
    }

    pub fn check(program: Program) {
        program.run().said("");
    }
}
