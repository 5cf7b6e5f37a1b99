//! What a program and its workers print, and what they read.

use super::*;

pub const SCENARIOS: &[Scenario] = &[
    scenario!(
        true,
        &Backend::ALL,
        a_panic_is_reported_with_the_workers_name
    ),
    scenario!(true, &Backend::ALL, the_programs_own_panic_hook_is_called),
    scenario!(true, &Backend::ALL, panics_in_callbacks_are_reported),
    scenario!(true, &Backend::ALL, panics_in_initializers_are_reported),
    scenario!(
        true,
        &Backend::ALL,
        what_workers_print_appears_once_and_whole
    ),
    scenario!(
        true,
        PROCESSES,
        a_thread_that_holds_the_standard_output_delays_no_result
    ),
    scenario!(
        true,
        PROCESSES,
        garbage_on_the_standard_descriptors_does_no_harm
    ),
    scenario!(
        true,
        PROCESSES,
        worker_processes_leave_the_standard_input_alone
    ),
    scenario!(
        true,
        PROCESSES,
        what_is_printed_after_the_standard_descriptors_are_closed_goes_nowhere
    ),
    scenario!(
        true,
        &Backend::ALL,
        a_panic_stays_a_panic_where_nobody_reads_the_standard_error
    ),
];

// What is printed.

mod a_panic_is_reported_with_the_workers_name {
    use super::*;
    use freethreading::{Worker, WorkerPoolExecutor};

    pub fn main() {
        let worker = Worker::new(|| -> () { panic!("the first") }).with_name("Ada");
        worker.start().unwrap();
        worker.join().unwrap_err();
        let executor = WorkerPoolExecutor::builder()
            .name_prefix("crew")
            .build()
            .unwrap();
        executor
            .submit(|| -> () { panic!("the second") })
            .result()
            .unwrap_err();
        println!("the program goes on");
    }

    pub fn check(program: Program) {
        let ended = program.run();
        ended.had_code(0);
        assert_eq!(ended.stdout, "the program goes on\n");
        let (first, second) = ended
            .stderr
            .split_once("the first")
            .expect("the first panic");
        for (report, name) in [(first, "'Ada'"), (second, "'crew_0'")] {
            assert!(report.contains(name), "{ended:#?}");
            assert!(
                report.contains(&format!("panicked at {}:", file!())),
                "{ended:#?}"
            );
        }
        assert_eq!(second.matches("the second").count(), 1, "{ended:#?}");
    }
}

mod the_programs_own_panic_hook_is_called {
    use super::*;
    use freethreading::{Error, TaskError, Worker};

    fn set_hook_and_panic() {
        std::panic::set_hook(Box::new(|info| eprintln!("own hook: {info}")));
        panic!("the task gives up");
    }

    pub fn main() {
        let worker = Worker::new(set_hook_and_panic);
        worker.start().unwrap();
        let Err(Error::Task(TaskError::Panicked(panic))) = worker.join() else {
            unreachable!("it panicked")
        };
        assert_eq!(panic.message(), "the task gives up");
        std::panic::set_hook(Box::new(|_| eprintln!("another hook")));
        let worker = Worker::new(|| -> () { panic!("again") });
        worker.start().unwrap();
        worker.join().unwrap_err();
    }

    pub fn check(program: Program) {
        let processes = program
            .command
            .get_envs()
            .any(|(_, value)| value.is_some_and(|value| value == "multiprocessing"));
        let ended = program.run();
        ended.had_code(0);
        assert_eq!(ended.stderr.matches("own hook: ").count(), 1, "{ended:#?}");
        assert_eq!(
            ended.stderr.matches("the task gives up").count(),
            1,
            "{ended:#?}"
        );
        // The hook of this process is no other process's.
        let others = usize::from(!processes);
        assert_eq!(
            ended.stderr.matches("another hook").count(),
            others,
            "{ended:#?}"
        );
    }
}

mod panics_in_callbacks_are_reported {
    use super::*;
    use freethreading::{WorkerPool, WorkerPoolExecutor};

    pub fn main() {
        let (sender, called) = mpsc::channel();
        let executor = WorkerPoolExecutor::new(1).unwrap();
        let future = executor.submit(|| 7);
        future.add_done_callback(|_| panic!("a callback of a future"));
        let after = sender.clone();
        future.add_done_callback(move |_| after.send("of the future").unwrap());
        assert_eq!(called.recv().unwrap(), "of the future");
        future.add_done_callback(|_| panic!("a late callback of a future"));
        assert_eq!(future.result().unwrap(), 7);

        let pool = WorkerPool::new(1).unwrap();
        let result = pool
            .apply_async(|| 8)
            .unwrap()
            .callback(|_| panic!("a callback of a result"))
            .callback(move |_| sender.send("of the result").unwrap());
        assert_eq!(called.recv().unwrap(), "of the result");
        let result = result.callback(|_| panic!("a late callback of a result"));
        assert_eq!(result.get().unwrap(), 8);
        let failed = pool
            .map_async(|_: u32| -> u32 { panic!("a task") }, 0..1)
            .unwrap()
            .error_callback(|_| panic!("a callback of an error"));
        failed.get().unwrap_err();
        // Both are as good as new.
        assert_eq!(executor.submit(|| 9).result().unwrap(), 9);
        assert_eq!(pool.apply(|| 10).unwrap(), 10);
        println!("the program goes on");
    }

    pub fn check(program: Program) {
        let ended = program.run();
        ended.had_code(0);
        assert_eq!(ended.stdout, "the program goes on\n");
        let reports = [
            "a callback of a future",
            "a late callback of a future",
            "a callback of a result",
            "a late callback of a result",
            "a callback of an error",
            "a task",
        ];
        for report in reports {
            let lines = ended.stderr.lines().filter(|line| *line == report);
            assert_eq!(lines.count(), 1, "{report}: {ended:#?}");
        }
        let panicked = format!("panicked at {}:", file!());
        assert_eq!(
            ended.stderr.matches(&panicked).count(),
            reports.len(),
            "{ended:#?}"
        );
    }
}

mod panics_in_initializers_are_reported {
    use super::*;
    use freethreading::{Error, TaskError, WorkerPool, WorkerPoolExecutor};

    pub fn main() {
        let executor = WorkerPoolExecutor::builder()
            .max_workers(1)
            .initializer(|| -> () { panic!("an executor's initializer") });
        let executor = executor.build().unwrap();
        let pending = executor.submit(|| 7);
        let Err(TaskError::Broken(broken)) = pending.result() else {
            panic!("it has no worker")
        };
        assert!(broken.initializer_failed(), "{broken}");
        let refused = executor.submit(|| 8).result();
        assert!(matches!(refused, Err(TaskError::Broken(_))), "{refused:?}");
        executor.shutdown(true, false);

        let pool = WorkerPool::builder()
            .max_workers(1)
            .initializer(|| -> () { panic!("a pool's initializer") });
        // Its workers begin at once, and may be the quicker.
        let broken = match pool.build().map(|pool| pool.apply(|| 9)) {
            Ok(Err(Error::Task(TaskError::Broken(broken)))) => broken,
            other => panic!("{other:?}"),
        };
        assert!(broken.initializer_failed(), "{broken}");
        println!("the program goes on");
    }

    pub fn check(program: Program) {
        let ended = program.run();
        ended.had_code(0);
        assert_eq!(ended.stdout, "the program goes on\n");
        for report in ["an executor's initializer", "a pool's initializer"] {
            let mut lines = ended.stderr.lines();
            assert!(lines.any(|line| line == report), "{report}: {ended:#?}");
        }
    }
}

mod what_workers_print_appears_once_and_whole {
    use super::*;
    use freethreading::{Worker, WorkerPoolExecutor, task};

    fn print_lines(number: u32) {
        for line in 0..100 {
            println!("{number:02} {line:02} {}", "x".repeat(200));
        }
    }

    pub fn main() {
        let workers = [0, 1, 2, 3].map(|number| Worker::new(task!(print_lines(number))));
        for worker in &workers {
            worker.start().unwrap();
        }
        let executor = WorkerPoolExecutor::new(2).unwrap();
        executor
            .map(print_lines, 4..8)
            .for_each(|result| result.unwrap());
        executor.shutdown(true, false);
        for worker in &workers {
            worker.join().unwrap();
        }
        // Without the end of a line, and printed as the last thing that its process does.
        let worker = Worker::new(|| print!("08 the end"));
        worker.start().unwrap();
        worker.join().unwrap();
        println!();
    }

    pub fn check(program: Program) {
        let ended = program.run();
        ended.was_fine();
        let mut expected: Vec<String> = (0..8)
            .flat_map(|number| (0..100).map(move |line| (number, line)))
            .map(|(number, line)| format!("{number:02} {line:02} {}", "x".repeat(200)))
            .collect();
        expected.push("08 the end".into());
        let found = ended.sorted_lines();
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found, expected);
        }
    }
}

mod a_thread_that_holds_the_standard_output_delays_no_result {
    use super::*;
    use freethreading::WorkerPoolExecutor;

    fn leave_thread() -> u32 {
        thread::spawn(|| {
            let _held = std::io::stdout().lock();
            sign("held").give();
            spin();
        });
        sign("held").wait();
        7
    }

    pub fn main() {
        let executor = WorkerPoolExecutor::new(1).unwrap();
        assert_eq!(executor.submit(leave_thread).result().unwrap(), 7);
        assert_eq!(executor.submit(|| 8).result().unwrap(), 8);
    }

    pub fn check(program: Program) {
        program.run().said("");
    }
}

mod garbage_on_the_standard_descriptors_does_no_harm {
    use super::*;
    use freethreading::{WorkerPoolExecutor, task};
    use std::{fs::File, io::Write, os::fd::FromRawFd};

    fn write_garbage(fd: i32) -> i32 {
        // SAFETY: the descriptor is open, and not closed by the file, which is forgotten.
        let mut file = std::mem::ManuallyDrop::new(unsafe { File::from_raw_fd(fd) });
        // What a frame could begin with is among it.
        let garbage: Vec<u8> = (0..=255).cycle().take(1000).chain([0; 100]).collect();
        file.write_all(&garbage).unwrap();
        fd
    }

    pub fn main() {
        let executor = WorkerPoolExecutor::new(2).unwrap();
        for fd in [1, 2, 1, 2, 1, 2] {
            assert_eq!(
                executor.submit(task!(write_garbage(fd))).result().unwrap(),
                fd
            );
        }
        println!("fine");
    }

    pub fn check(program: Program) {
        let ended = program.run();
        ended.had_code(0);
        assert!(ended.stdout.ends_with("fine\n"));
        assert!(ended.stderr.len() >= 3300);
    }
}

mod worker_processes_leave_the_standard_input_alone {
    use super::*;
    use freethreading::{Worker, WorkerPoolExecutor};
    use std::io::Write;

    fn read() -> String {
        std::io::read_to_string(std::io::stdin()).unwrap()
    }

    pub fn main() {
        let executor = WorkerPoolExecutor::new(2).unwrap();
        assert_eq!(executor.submit(read).result().unwrap(), "");
        let worker = Worker::new(|| assert_eq!(read(), ""));
        worker.start().unwrap();
        worker.join().unwrap();
        print!("{}", read());
    }

    pub fn check(mut program: Program) {
        program.command.stdin(Stdio::piped());
        let mut running = program.start();
        let mut stdin = running.child.stdin.take().unwrap();
        stdin.write_all(b"for the program").unwrap();
        drop(stdin);
        running.finish().said("for the program");
    }
}

mod a_panic_stays_a_panic_where_nobody_reads_the_standard_error {
    use super::*;
    use freethreading::{TaskError, WorkerPoolExecutor};

    pub fn main() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        // SAFETY: both are open descriptors.
        assert_eq!(unsafe { libc::dup2(writer.as_raw_fd(), 2) }, 2);
        let executor = WorkerPoolExecutor::new(1).unwrap();
        let panicked = executor.submit(|| -> () { panic!("unheard") }).result();
        // Not an assertion, whose message nobody would read either.
        let as_expected =
            matches!(panicked, Err(TaskError::Panicked(panic)) if panic.message() == "unheard");
        std::process::exit(if as_expected { 5 } else { 6 });
    }

    pub fn check(program: Program) {
        program.run().had_code(5);
    }
}

mod what_is_printed_after_the_standard_descriptors_are_closed_goes_nowhere {
    use super::*;
    use freethreading::{Lock, Queue, Worker, WorkerPoolExecutor, task};

    fn print_and_put(number: u32, queue: Queue<u32>) {
        println!("{}", "x".repeat(10_000));
        eprintln!("{}", "y".repeat(10_000));
        queue.put(number).unwrap();
    }

    fn close_all() {
        for descriptor in 0..3 {
            // SAFETY: nobody reads, prints or opens anything meanwhile.
            unsafe { libc::close(descriptor) };
        }
    }

    /// What is opened next gets the lowest number.
    fn open_something(first: u32) {
        match first {
            0 => drop(Lock::new()),
            1 => Worker::new(|| ()).start().unwrap(),
            _ => drop(WorkerPoolExecutor::new(1).unwrap().submit(|| ())),
        }
    }

    pub fn main() {
        let log = sign("log");
        for first in 0..3 {
            close_all();
            open_something(first);
            println!("{}", "z".repeat(10_000));
            eprintln!("{}", "z".repeat(10_000));
            let executor = WorkerPoolExecutor::new(2).unwrap();
            let queue = Queue::new(0);
            let put: Vec<_> = (0..100)
                .map(|n| executor.submit(task!(print_and_put(n, queue.clone()))))
                .collect();
            for future in put {
                future.result().unwrap();
            }
            executor.shutdown(true, false);
            let mut numbers: Vec<_> = (0..100).map(|_| queue.get_nowait().unwrap()).collect();
            numbers.sort_unstable();
            assert!((0..100).eq(numbers));
            for descriptor in 0..3 {
                let path = std::fs::read_link(format!("/proc/self/fd/{descriptor}")).unwrap();
                assert_eq!(path.to_str(), Some("/dev/null"));
            }
        }
        log.note("fine");
    }

    pub fn check(program: Program) {
        let running = program.start();
        let log = running.sign("log");
        eventually("it comes to its end", || log.is_given());
        running.finish().had_code(0);
    }
}
