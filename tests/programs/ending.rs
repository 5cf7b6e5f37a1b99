//! How a program ends: what is waited for, what is not, and with which code.

use super::*;

pub const SCENARIOS: &[Scenario] = &[
    scenario!(true, &Backend::ALL, a_running_worker_is_waited_for),
    scenario!(
        true,
        &Backend::ALL,
        a_running_worker_without_a_handle_is_waited_for
    ),
    scenario!(
        true,
        &Backend::ALL,
        workers_that_start_while_the_program_ends_are_waited_for
    ),
    scenario!(true, &Backend::ALL, daemon_workers_are_not_waited_for),
    scenario!(true, &Backend::ALL, daemon_workers_that_print_do_no_harm),
    scenario!(true, THREADS, what_a_thread_prints_last_appears),
    scenario!(true, &Backend::ALL, callbacks_are_waited_for),
    scenario!(
        true,
        THREADS,
        a_daemon_that_holds_the_standard_output_is_not_waited_for
    ),
    scenario!(true, &Backend::ALL, tasks_of_a_dropped_executor_complete),
    scenario!(true, &Backend::ALL, tasks_of_a_leaked_executor_complete),
    scenario!(
        true,
        &Backend::ALL,
        tasks_of_an_executor_that_was_shut_down_complete
    ),
    scenario!(
        true,
        &Backend::ALL,
        tasks_whose_workers_were_killed_are_not_waited_for
    ),
    scenario!(
        true,
        &Backend::ALL,
        tasks_whose_workers_are_killed_at_the_end_are_not_waited_for
    ),
    scenario!(true, &Backend::ALL, an_ending_program_accepts_no_more_tasks),
    scenario!(
        true,
        &Backend::ALL,
        what_is_made_while_the_program_ends_accepts_no_tasks
    ),
    scenario!(
        true,
        THREADS,
        a_daemon_that_makes_executors_is_not_waited_for
    ),
    scenario!(
        true,
        &Backend::ALL,
        what_is_waited_for_may_make_executors_and_workers
    ),
    scenario!(true, &Backend::ALL, an_exit_code_of_main_stays),
    scenario!(true, &Backend::ALL, an_early_exit_of_main_ends_the_program),
    scenario!(true, THREADS, an_exit_in_a_worker_ends_the_program),
    scenario!(true, THREADS, an_exit_in_an_executors_task_ends_the_program),
    scenario!(
        true,
        PROCESSES,
        an_exit_in_a_worker_after_main_ends_the_program
    ),
    scenario!(
        true,
        &Backend::ALL,
        an_exit_in_a_callback_of_a_task_that_is_given_up_ends_the_program
    ),
    scenario!(true, &Backend::ALL, an_exit_in_a_waker_ends_the_program),
    scenario!(
        true,
        PROCESSES,
        an_exit_while_a_pool_is_at_work_starts_no_worker
    ),
    scenario!(true, &Backend::ALL, a_panic_in_main_ends_the_program),
    scenario!(
        true,
        &Backend::ALL,
        a_leaked_pools_work_ends_with_the_program
    ),
    scenario!(
        true,
        &Backend::ALL,
        a_closed_pools_work_ends_with_the_program
    ),
    scenario!(
        true,
        &Backend::ALL,
        a_dropped_pools_work_ends_with_the_program
    ),
    scenario!(
        true,
        &Backend::ALL,
        a_pools_last_results_come_before_the_end
    ),
];

mod a_running_worker_is_waited_for {
    use super::*;
    use freethreading::Worker;

    pub fn main() {
        let worker = Worker::new(work);
        worker.start().unwrap();
        tell_the_end_of_main();
    }

    pub fn work() {
        wait_for_the_end_of_main();
        println!("one line");
        print!("and another");
    }

    pub fn check(program: Program) {
        program.run().said("one line\nand another");
    }
}

mod a_running_worker_without_a_handle_is_waited_for {
    use super::*;
    use freethreading::Worker;

    pub fn main() {
        Worker::new(a_running_worker_is_waited_for::work)
            .start()
            .unwrap();
        tell_the_end_of_main();
    }

    pub fn check(program: Program) {
        program.run().said("one line\nand another");
    }
}

mod workers_that_start_while_the_program_ends_are_waited_for {
    use super::*;
    use freethreading::{Worker, task};

    pub fn main() {
        Worker::new(task!(start_another(3))).start().unwrap();
        tell_the_end_of_main();
    }

    fn start_another(more: u32) {
        wait_for_the_end_of_main();
        println!("{more}");
        if more > 0 {
            Worker::new(task!(start_another(more - 1))).start().unwrap();
        }
    }

    pub fn check(program: Program) {
        program.run().said("3\n2\n1\n0\n");
    }
}

mod daemon_workers_are_not_waited_for {
    use super::*;
    use freethreading::Worker;

    fn be_busy() {
        sign("busy").note(std::process::id());
        spin();
    }

    pub fn main() {
        for _ in 0..40 {
            Worker::new(be_busy).with_daemon(true).start().unwrap();
        }
        eventually("all are busy", || sign("busy").notes().len() == 40);
        println!("the end");
    }

    pub fn check(program: Program) {
        let program = program.start();
        let busy = program.sign("busy");
        eventually("all are busy", || busy.notes().len() == 40);
        let pids: Vec<u32> = busy
            .notes()
            .iter()
            .map(|pid| pid.parse().unwrap())
            .collect();
        program.finish().said("the end\n");
        assert!(pids.into_iter().all(|pid| !common::exists(pid)));
    }
}

mod daemon_workers_that_print_do_no_harm {
    use super::*;
    use freethreading::Worker;

    fn chatter() {
        sign("chatters").note("");
        loop {
            println!("chatter");
        }
    }

    pub fn main() {
        for _ in 0..8 {
            Worker::new(chatter).with_daemon(true).start().unwrap();
        }
        eventually("all of them chatter", || {
            sign("chatters").notes().len() == 8
        });
    }

    pub fn check(program: Program) {
        let ended = program.run();
        ended.was_fine();
        // The last of them may have been stopped within a word.
        let complete = ended
            .stdout
            .lines()
            .filter(|line| *line == "chatter")
            .count();
        assert!(complete + 8 >= ended.stdout.lines().count());
    }
}

mod what_a_thread_prints_last_appears {
    use super::*;
    use std::io::Write;

    use freethreading::Worker;

    fn print_slowly() {
        let mut output = std::io::stdout().lock();
        writeln!(output, "one line").unwrap();
        sign("printing").give();
        wait_for_the_end_of_main();
        write!(output, "and another").unwrap();
    }

    pub fn main() {
        Worker::new(print_slowly).start().unwrap();
        sign("printing").wait();
        tell_the_end_of_main();
    }

    pub fn check(program: Program) {
        program.run().said("one line\nand another");
    }
}

mod callbacks_are_waited_for {
    use super::*;
    use freethreading::{WorkerPoolExecutor, task};

    fn double(number: u32) -> u32 {
        sign("go").wait();
        2 * number
    }

    pub fn main() {
        let executor = WorkerPoolExecutor::new(2).unwrap();
        tell_the_end_of_main();
        for number in 0..4 {
            let future = executor.submit(task!(double(number)));
            future.add_done_callback(|future| {
                wait_for_the_end_of_main();
                // Long enough for an end that does not wait to be over.
                thread::sleep(Duration::from_millis(20));
                println!("{}", future.result().unwrap());
            });
        }
        sign("go").give();
    }

    pub fn check(program: Program) {
        let ended = program.run();
        assert_eq!(ended.sorted_lines(), ["0", "2", "4", "6"]);
        ended.was_fine();
    }
}

mod a_daemon_that_holds_the_standard_output_is_not_waited_for {
    use super::*;
    use freethreading::Worker;

    fn hold_output() {
        let _held = std::io::stdout().lock();
        sign("held").give();
        spin();
    }

    pub fn main() {
        Worker::new(hold_output).with_daemon(true).start().unwrap();
        sign("held").wait();
    }

    pub fn check(program: Program) {
        program.run().said("");
    }
}

mod tasks_of_a_dropped_executor_complete {
    use super::*;
    use freethreading::{WorkerPoolExecutor, task};

    fn print_at_last(number: u32) {
        wait_for_the_end_of_main();
        println!("{number}");
    }

    /// An executor that has more to do than its workers can take at once.
    pub fn busy_executor() -> WorkerPoolExecutor {
        let executor = WorkerPoolExecutor::new(2).unwrap();
        for number in 0..8 {
            drop(executor.submit(task!(print_at_last(number))));
        }
        tell_the_end_of_main();
        executor
    }

    pub fn main() {
        drop(busy_executor());
    }

    pub fn check(program: Program) {
        let ended = program.run();
        ended.was_fine();
        assert_eq!(
            ended.sorted_lines(),
            ["0", "1", "2", "3", "4", "5", "6", "7"]
        );
    }
}

mod tasks_of_a_leaked_executor_complete {
    use super::*;
    use freethreading::WorkerPoolExecutor;
    use std::sync::OnceLock;

    static EXECUTOR: OnceLock<WorkerPoolExecutor> = OnceLock::new();

    pub fn main() {
        EXECUTOR
            .set(tasks_of_a_dropped_executor_complete::busy_executor())
            .unwrap();
    }

    pub fn check(program: Program) {
        tasks_of_a_dropped_executor_complete::check(program);
    }
}

mod tasks_of_an_executor_that_was_shut_down_complete {
    use super::*;

    pub fn main() {
        let executor = tasks_of_a_dropped_executor_complete::busy_executor();
        executor.shutdown(false, false);
        std::mem::forget(executor);
    }

    pub fn check(program: Program) {
        tasks_of_a_dropped_executor_complete::check(program);
    }
}

mod an_ending_program_accepts_no_more_tasks {
    use super::*;
    use freethreading::{TaskError, WorkerPoolExecutor};
    use std::sync::OnceLock;

    static EXECUTOR: OnceLock<WorkerPoolExecutor> = OnceLock::new();

    fn last_task() {
        sign("refused").wait();
    }

    pub fn main() {
        let executor = EXECUTOR.get_or_init(|| WorkerPoolExecutor::new(2).unwrap());
        drop(executor.submit(last_task));
        // The end of the program waits for that task, and the task for a refusal.
        thread::spawn(|| {
            wait_for_the_end_of_main();
            loop {
                match executor.submit(|| ()).result() {
                    Ok(()) => {}
                    Err(TaskError::Shutdown) => break,
                    Err(other) => panic!("{other:?}"),
                }
            }
            let mut rest = executor.map(|x: u8| x, [1, 2]);
            assert!(matches!(rest.next(), Some(Err(TaskError::Shutdown))));
            sign("refused").give();
        });
        tell_the_end_of_main();
    }

    pub fn check(program: Program) {
        program.run().said("");
    }
}

mod what_is_made_while_the_program_ends_accepts_no_tasks {
    use super::*;
    use freethreading::{Error, TaskError, Worker, WorkerPool, WorkerPoolExecutor};

    pub fn last_task() {
        sign("refused").wait();
    }

    /// Makes executors until one accepts nothing.
    pub fn make_executors() {
        loop {
            let executor = WorkerPoolExecutor::new(1).unwrap();
            match executor.submit(|| ()).result() {
                Ok(()) => {}
                Err(TaskError::Shutdown) => break,
                Err(other) => panic!("{other:?}"),
            }
        }
    }

    pub fn main() {
        let executor = WorkerPoolExecutor::new(1).unwrap();
        drop(executor.submit(last_task));
        // The end of the program waits for that task, and the task for these refusals.
        thread::spawn(|| {
            wait_for_the_end_of_main();
            make_executors();
            let worker = Worker::new(|| ());
            let shutdown = Error::Task(TaskError::Shutdown);
            assert_eq!(worker.start(), Err(shutdown.clone()));
            assert_eq!(worker.start(), Err(shutdown));
            assert_eq!(worker.join(), Err(Error::NotStarted));
            let pool = WorkerPool::new(2).unwrap();
            assert_eq!(pool.apply(|| ()), Err(Error::NotRunning));
            assert_eq!(pool.map(|x: u8| x, [1, 2]), Err(Error::NotRunning));
            pool.join().unwrap();
            sign("refused").give();
        });
        tell_the_end_of_main();
    }

    pub fn check(program: Program) {
        program.run().said("");
    }
}

mod a_daemon_that_makes_executors_is_not_waited_for {
    use super::*;
    use freethreading::{Worker, WorkerPoolExecutor};

    fn make_executors() {
        what_is_made_while_the_program_ends_accepts_no_tasks::make_executors();
        sign("refused").give();
        spin();
    }

    pub fn main() {
        let executor = WorkerPoolExecutor::new(1).unwrap();
        drop(executor.submit(what_is_made_while_the_program_ends_accepts_no_tasks::last_task));
        let daemon = Worker::new(make_executors).with_daemon(true);
        daemon.start().unwrap();
    }

    pub fn check(program: Program) {
        program.run().said("");
    }
}

mod what_is_waited_for_may_make_executors_and_workers {
    use super::*;
    use freethreading::{TaskError, Worker, WorkerPool, WorkerPoolExecutor};
    use std::sync::OnceLock;

    static EXECUTOR: OnceLock<WorkerPoolExecutor> = OnceLock::new();

    fn make_executor(number: u8) -> u8 {
        let executor = WorkerPoolExecutor::new(1).unwrap();
        executor
            .submit(freethreading::task!(|number| number + 1))
            .result()
            .unwrap()
    }

    fn make_all() {
        sign("ending").wait();
        assert_eq!(make_executor(1), 2);
        let pool = WorkerPool::new(2).unwrap();
        assert_eq!(pool.map(make_executor, [3, 4]).unwrap(), [4, 5]);
        let worker = Worker::new(|| println!("a worker"));
        worker.start().unwrap();
        worker.join().unwrap();
    }

    fn submit_before_and_after() {
        let executor = WorkerPoolExecutor::new(1).unwrap();
        executor.submit(|| ()).result().unwrap();
        sign("made").give();
        make_all();
        // It is the worker's own.
        executor.submit(|| println!("a task")).result().unwrap();
        drop(executor.submit(|| println!("a last task")));
        std::mem::forget(executor);
    }

    pub fn main() {
        Worker::new(submit_before_and_after).start().unwrap();
        sign("made").wait();
        let executor = EXECUTOR.get_or_init(|| WorkerPoolExecutor::new(2).unwrap());
        let last = executor.submit(|| sign("ending").wait());
        last.add_done_callback(|_| make_all());
        thread::spawn(|| {
            while executor.submit(|| ()).result() != Err(TaskError::Shutdown) {}
            sign("ending").give();
        });
    }

    pub fn check(program: Program) {
        let ended = program.run();
        ended.was_fine();
        assert_eq!(
            ended.sorted_lines(),
            ["a last task", "a task", "a worker", "a worker"]
        );
    }
}

mod tasks_whose_workers_were_killed_are_not_waited_for {
    use super::*;
    use freethreading::WorkerPoolExecutor;

    pub fn main() {
        let in_no_time =
            |executor: &WorkerPoolExecutor| assert!(!executor.shutdown_timeout(Duration::ZERO));
        for give_up in [WorkerPoolExecutor::kill_workers, in_no_time] {
            let executor = WorkerPoolExecutor::new(1).unwrap();
            let running = executor.submit(spin);
            eventually("it runs", || running.running());
            give_up(&executor);
        }
    }

    pub fn check(program: Program) {
        program.run().had_code(0);
    }
}

mod tasks_whose_workers_are_killed_at_the_end_are_not_waited_for {
    use super::*;
    use freethreading::WorkerPoolExecutor;

    pub fn main() {
        let executor = WorkerPoolExecutor::new(1).unwrap();
        let running = executor.submit(spin);
        eventually("it runs", || running.running());
        thread::spawn(move || {
            wait_for_the_end_of_main();
            executor.kill_workers();
        });
        tell_the_end_of_main();
    }

    pub fn check(program: Program) {
        program.run().had_code(0);
    }
}

mod an_exit_code_of_main_stays {
    use super::*;
    use freethreading::Worker;

    pub fn main() {
        Worker::new(a_running_worker_is_waited_for::work)
            .start()
            .unwrap();
        Worker::new(spin).with_daemon(true).start().unwrap();
        tell_the_end_of_main();
        std::process::exit(9);
    }

    pub fn check(program: Program) {
        program.run().had_code(9);
    }
}

mod an_early_exit_of_main_ends_the_program {
    use super::*;
    use freethreading::WorkerPoolExecutor;

    pub fn main() {
        let executor = WorkerPoolExecutor::new(2).unwrap();
        executor.submit(|| ()).result().unwrap();
        // Nothing is dropped.
        std::process::exit(4);
    }

    pub fn check(program: Program) {
        program.run().had_code(4);
    }
}

mod an_exit_in_a_worker_ends_the_program {
    use super::*;
    use freethreading::Worker;

    fn exit() {
        print!("the end");
        std::process::exit(7);
    }

    pub fn main() {
        let worker = Worker::new(exit);
        worker.start().unwrap();
        let _ = worker.join();
        unreachable!("the program has ended");
    }

    pub fn check(program: Program) {
        let ended = program.run();
        ended.had_code(7);
        assert_eq!(ended.stdout, "the end");
    }
}

mod an_exit_in_an_executors_task_ends_the_program {
    use super::*;
    use freethreading::{WorkerPoolExecutor, task};

    fn exit(code: i32) {
        std::process::exit(code);
    }

    pub fn main() {
        let executor = WorkerPoolExecutor::new(2).unwrap();
        drop(executor.submit(spin));
        let last = executor.submit(task!(exit(7)));
        drop(executor.submit(|| ()));
        let _ = last.result();
        unreachable!("the program has ended");
    }

    pub fn check(program: Program) {
        program.run().had_code(7);
    }
}

mod an_exit_in_a_worker_after_main_ends_the_program {
    use super::*;
    use freethreading::Worker;

    fn exit() {
        wait_for_the_end_of_main();
        std::process::exit(7);
    }

    pub fn main() {
        Worker::new(exit).start().unwrap();
        tell_the_end_of_main();
    }

    pub fn check(program: Program) {
        // Either code will do: the first exit was that of main.
        let ended = program.run();
        assert!(matches!(ended.status.code(), Some(0 | 7)), "{ended:#?}");
    }
}

mod an_exit_in_a_callback_of_a_task_that_is_given_up_ends_the_program {
    use super::*;
    use freethreading::WorkerPoolExecutor;

    pub fn main() {
        let executor = WorkerPoolExecutor::new(1).unwrap();
        let future = executor.submit(spin);
        eventually("it runs", || future.running());
        future.add_done_callback(|_| std::process::exit(7));
        executor.kill_workers();
        unreachable!("the program has ended");
    }

    pub fn check(program: Program) {
        program.run().had_code(7);
    }
}

mod an_exit_in_a_waker_ends_the_program {
    use super::*;
    use freethreading::WorkerPoolExecutor;
    use futures::FutureExt;
    use std::{
        sync::Arc,
        task::{Context, Wake},
    };

    struct Exit;

    impl Wake for Exit {
        fn wake(self: Arc<Self>) {
            std::process::exit(7);
        }
    }

    fn note_and_spin() {
        sign("busy").note(std::process::id());
        spin();
    }

    pub fn main() {
        let executor = WorkerPoolExecutor::new(2).unwrap();
        drop(executor.submit(note_and_spin));
        eventually("it is busy", || sign("busy").notes().len() == 1);
        let mut future = executor.submit(|| sign("polled").wait());
        let waker = Arc::new(Exit).into();
        let polled = future.poll_unpin(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
        sign("polled").give();
        loop {
            thread::park();
        }
    }

    pub fn check(program: Program) {
        let running = program.start();
        let busy = running.sign("busy");
        eventually("it is busy", || busy.notes().len() == 1);
        let pid = busy.notes()[0].parse().unwrap();
        running.finish().had_code(7);
        eventually("the worker has ended", || !common::runs(pid));
    }
}

mod an_exit_while_a_pool_is_at_work_starts_no_worker {
    use super::*;
    use freethreading::WorkerPool;

    /// Takes for ever once the program ends.
    fn initialize() {
        if sign("ending").is_given() {
            spin();
        }
    }

    fn note_and_spin(_: u32) {
        sign("busy").note("");
        spin();
    }

    pub fn main() {
        let pool = WorkerPool::builder().max_workers(2);
        let pool = pool.initializer(initialize).build().unwrap();
        // Somebody else ends the program, as a handler of Ctrl-C may.
        thread::spawn(|| {
            eventually("both are busy", || sign("busy").notes().len() == 2);
            sign("ending").give();
            std::process::exit(7);
        });
        let _ = pool.map(note_and_spin, 0..2);
        loop {
            thread::park();
        }
    }

    pub fn check(program: Program) {
        program.run().had_code(7);
    }
}

mod a_panic_in_main_ends_the_program {
    use super::*;
    use freethreading::{Worker, WorkerPoolExecutor};

    pub fn main() {
        let executor = WorkerPoolExecutor::new(2).unwrap();
        executor.submit(|| ()).result().unwrap();
        Worker::new(a_running_worker_is_waited_for::work)
            .start()
            .unwrap();
        tell_the_end_of_main();
        panic!("main gives up");
    }

    pub fn check(program: Program) {
        let ended = program.run();
        ended.had_code(101);
        assert_eq!(
            ended.stderr.matches("main gives up").count(),
            1,
            "{ended:#?}"
        );
        assert_eq!(ended.stdout, "one line\nand another");
    }
}

// Pools.

mod a_leaked_pools_work_ends_with_the_program {
    use super::*;
    use freethreading::{WorkerPool, task};
    use std::sync::OnceLock;

    static POOL: OnceLock<WorkerPool> = OnceLock::new();

    fn note_and_spin(number: u32) {
        sign("busy").note(format!("{} {number}", std::process::id()));
        spin();
    }

    /// A pool that has more to do than it can ever do.
    pub fn busy_pool() -> WorkerPool {
        let pool = WorkerPool::new(2).unwrap();
        drop(pool.map_async(note_and_spin, 0..100));
        drop(pool.chunksize(1).map_async(note_and_spin, 0..100));
        for number in 0..100 {
            drop(pool.apply_async(task!(note_and_spin(number))));
        }
        let imap = pool.imap(note_and_spin, 0..).unwrap();
        std::mem::forget(imap);
        eventually("both are busy", || sign("busy").notes().len() == 2);
        pool
    }

    pub fn main() {
        POOL.set(busy_pool()).unwrap();
        println!("main returns");
    }

    pub fn check(program: Program) {
        let running = program.start();
        let busy = running.sign("busy");
        let program = running.child.id();
        let (pids, ended) = {
            eventually("both are busy", || busy.notes().len() == 2);
            (busy.notes(), running.finish())
        };
        ended.said("main returns\n");
        for note in pids {
            let pid: u32 = note.split(' ').next().unwrap().parse().unwrap();
            assert!(pid == program || !common::runs(pid));
        }
    }
}

mod a_closed_pools_work_ends_with_the_program {
    use super::*;

    pub fn main() {
        let pool = a_leaked_pools_work_ends_with_the_program::busy_pool();
        pool.close();
        std::mem::forget(pool);
        println!("main returns");
    }

    pub fn check(program: Program) {
        a_leaked_pools_work_ends_with_the_program::check(program);
    }
}

mod a_dropped_pools_work_ends_with_the_program {
    use super::*;

    pub fn main() {
        drop(a_leaked_pools_work_ends_with_the_program::busy_pool());
        println!("main returns");
    }

    pub fn check(program: Program) {
        a_leaked_pools_work_ends_with_the_program::check(program);
    }
}

mod a_pools_last_results_come_before_the_end {
    use super::*;
    use freethreading::WorkerPool;

    pub fn main() {
        for round in 0..20 {
            let pool = WorkerPool::new(2).unwrap();
            let result = pool.map_async(|n: u32| println!("{n}"), 0..10).unwrap();
            pool.close();
            if round % 2 == 0 {
                pool.join().unwrap();
            }
            result.get().unwrap();
        }
    }

    pub fn check(program: Program) {
        let ended = program.run();
        ended.was_fine();
        let mut expected: Vec<_> = (0..200).map(|n| (n % 10).to_string()).collect();
        expected.sort_unstable();
        assert_eq!(ended.sorted_lines(), expected);
    }
}
