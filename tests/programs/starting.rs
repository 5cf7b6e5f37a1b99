//! What worker processes find when they start.

use super::*;

pub const SCENARIOS: &[Scenario] = &[
    scenario!(true, PROCESSES, workers_have_the_arguments_of_their_program),
    scenario!(
        true,
        PROCESSES,
        worker_processes_see_environment_and_directory_of_now
    ),
    scenario!(
        true,
        PROCESSES,
        workers_start_after_the_executable_was_deleted
    ),
    scenario!(
        true,
        PROCESSES,
        workers_start_after_the_executable_was_replaced
    ),
    scenario!(
        true,
        PROCESSES,
        workers_start_after_the_program_has_moved_elsewhere
    ),
    scenario!(
        true,
        PROCESSES,
        workers_start_where_the_standard_descriptors_are_closed
    ),
];

mod workers_have_the_arguments_of_their_program {
    use super::*;
    use freethreading::WorkerPoolExecutor;

    fn arguments() -> Vec<String> {
        env::args().skip(1).collect()
    }

    pub fn main() {
        let executor = WorkerPoolExecutor::new(1).unwrap();
        println!("{}", executor.submit(arguments).result().unwrap().join(" "));
    }

    pub fn check(mut program: Program) {
        program.command.args(["--level", "3"]);
        program.run().said("--level 3\n");
    }
}

// How worker processes are started.

mod worker_processes_see_environment_and_directory_of_now {
    use super::*;
    use freethreading::WorkerPoolExecutor;

    fn look() -> (Option<String>, Option<String>, std::path::PathBuf) {
        let marker = env::var("FREETHREADING_WORKER").ok();
        (
            env::var("SET_AT_RUN_TIME").ok(),
            marker,
            env::current_dir().unwrap(),
        )
    }

    pub fn main() {
        let scratch = std::path::PathBuf::from(env::var_os(SCRATCH).unwrap());
        for (value, directory) in [
            ("one", scratch.as_path()),
            ("two", scratch.parent().unwrap()),
        ] {
            // SAFETY: no other thread of this program reads the environment meanwhile.
            unsafe { env::set_var("SET_AT_RUN_TIME", value) };
            env::set_current_dir(directory).unwrap();
            let executor = WorkerPoolExecutor::new(1).unwrap();
            let seen = executor.submit(look).result().unwrap();
            // What makes a process a worker is not for the programs that it starts.
            assert_eq!(
                seen,
                (Some(value.into()), None, directory.canonicalize().unwrap())
            );
        }
    }

    pub fn check(program: Program) {
        program.run().said("");
    }
}

/// Runs two workers, one after the other.
fn run_workers() {
    use freethreading::{Worker, WorkerPoolExecutor};

    let worker = Worker::new(|| println!("a worker"));
    worker.start().unwrap();
    worker.join().unwrap();
    let executor = WorkerPoolExecutor::new(1).unwrap();
    assert_eq!(executor.submit(|| 7).result().unwrap(), 7);
}

/// Runs the program under another name, in a directory of its own.
fn under_another_name(program: &mut Program) -> std::path::PathBuf {
    let path = program.scratch.path().join("program");
    std::fs::hard_link(env::current_exe().unwrap(), &path).unwrap();
    let mut command = Command::new("./program");
    for (key, value) in program.command.get_envs() {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    command
        .current_dir(program.scratch.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    program.command = command;
    path
}

mod workers_start_after_the_executable_was_deleted {
    use super::*;

    pub fn main() {
        std::fs::remove_file("program").unwrap();
        run_workers();
    }

    pub fn check(mut program: Program) {
        let path = under_another_name(&mut program);
        program.run().said("a worker\n");
        assert!(!path.exists());
    }
}

mod workers_start_after_the_executable_was_replaced {
    use super::*;

    pub fn main() {
        std::fs::write("other", "not a program at all").unwrap();
        std::fs::rename("other", "program").unwrap();
        run_workers();
    }

    pub fn check(mut program: Program) {
        under_another_name(&mut program);
        program.run().said("a worker\n");
    }
}

mod workers_start_after_the_program_has_moved_elsewhere {
    use super::*;

    pub fn main() {
        env::set_current_dir("/").unwrap();
        run_workers();
    }

    pub fn check(mut program: Program) {
        under_another_name(&mut program);
        program.run().said("a worker\n");
    }
}

mod workers_start_where_the_standard_descriptors_are_closed {
    use super::*;
    use freethreading::WorkerPoolExecutor;

    pub fn main() {
        for fd in 0..3 {
            // SAFETY: nothing of this process owns the standard descriptors.
            assert_eq!(unsafe { libc::close(fd) }, 0);
        }
        let executor = WorkerPoolExecutor::new(2).unwrap();
        // Whatever this process has opened in the place of its standard output is not for printing.
        let results = executor.map(|len: usize| vec![1u8; len].len(), [1, 100_000, 10_000_000]);
        assert_eq!(results.into_vec().unwrap(), [1, 100_000, 10_000_000]);
        executor.shutdown(true, false);
        sign("fine").give();
    }

    pub fn check(program: Program) {
        let running = program.start();
        let fine = running.sign("fine");
        fine.wait();
        running.finish().said("");
    }
}
