//! What can only be seen of a whole program: how it ends, what it prints, what it leaves behind.
//!
//! A scenario is a program, `main`, and what must come of it, `check`. The test program runs itself
//! again, as the program of a scenario, once per backend.

mod common;

use std::os::fd::AsRawFd;
use std::{
    env,
    io::Read,
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use common::{Scratch, Sign, eventually};
use freethreading::Backend;
use libtest_mimic::{Arguments, Trial};

/// Says which scenario's program this process is.
const SCENARIO: &str = "PROGRAM_OF_SCENARIO";

/// Says where the program and its check exchange signs.
const SCRATCH: &str = "SCRATCH_OF_SCENARIO";

struct Scenario {
    name: &'static str,
    /// Whether the program begins with `init`.
    init: bool,
    /// The backends to run it on; with none it runs once, and finds no choice in its environment.
    backends: &'static [Backend],
    main: fn(),
    check: fn(Program),
}

macro_rules! scenario {
    ($init:literal, $backends:expr, $name:ident) => {
        Scenario {
            name: stringify!($name),
            init: $init,
            backends: $backends,
            main: $name::main,
            check: $name::check,
        }
    };
}

const PROCESSES: &[Backend] = &[Backend::Multiprocessing];
const THREADS: &[Backend] = &[Backend::Threading];

const SCENARIOS: &[Scenario] = &[
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
    scenario!(true, &Backend::ALL, an_ending_program_accepts_no_more_tasks),
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
        PROCESSES,
        a_thread_that_holds_the_standard_output_delays_no_result
    ),
    scenario!(true, &Backend::ALL, a_panic_in_main_ends_the_program),
    scenario!(
        true,
        &Backend::ALL,
        a_panic_stays_a_panic_where_nobody_reads_the_standard_error
    ),
    scenario!(
        true,
        PROCESSES,
        a_first_use_without_descriptors_is_an_error_of_its_task
    ),
    scenario!(false, &[], without_init_there_are_no_process_workers),
    scenario!(false, THREADS, without_init_there_are_thread_workers),
    scenario!(true, &[], an_environment_that_names_no_backend_is_an_error),
    scenario!(true, &[], the_build_decides_where_nobody_chose_a_backend),
    scenario!(true, &[], a_backend_may_be_chosen_before_it_is_used),
    scenario!(true, &[], a_backend_that_was_used_stays),
    scenario!(
        true,
        &Backend::ALL,
        the_environment_chooses_the_backend_first
    ),
    scenario!(true, &[], all_workers_have_the_programs_backend),
    scenario!(true, &Backend::ALL, workers_are_counted),
    scenario!(true, &Backend::ALL, executors_workers_are_counted),
    scenario!(true, &Backend::ALL, the_main_worker_has_its_name),
    scenario!(
        true,
        &Backend::ALL,
        threads_of_others_are_counted_only_for_themselves
    ),
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
    scenario!(true, PROCESSES, a_refused_process_may_be_started_again),
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
        worker_processes_end_when_their_program_is_killed
    ),
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
    scenario!(true, &[], nothing_is_left_of_workers_and_executors),
    scenario!(true, PROCESSES, no_zombies_are_left),
    scenario!(
        true,
        PROCESSES,
        workers_that_kill_each_other_are_all_found_dead
    ),
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
    scenario!(
        true,
        &Backend::ALL,
        a_forked_process_ends_and_leaves_all_alone
    ),
    scenario!(
        true,
        PROCESSES,
        workers_end_well_where_somebody_else_waits_for_them
    ),
    scenario!(true, PROCESSES, workers_have_the_arguments_of_their_program),
    scenario!(true, &[], nothing_is_left_of_pools),
    scenario!(true, THREADS, a_pool_that_is_refused_a_thread_leaves_none),
    scenario!(
        true,
        PROCESSES,
        a_pool_that_is_refused_a_process_leaves_none
    ),
];

fn main() -> ExitCode {
    if let Ok(name) = env::var(SCENARIO) {
        let scenario = SCENARIOS.iter().find(|scenario| scenario.name == name);
        let scenario = scenario.expect("there is such a scenario");
        if scenario.init {
            freethreading::init();
        }
        (scenario.main)();
        return ExitCode::SUCCESS;
    }
    common::heed_interrupts();
    let mut trials = Vec::new();
    for scenario in SCENARIOS {
        if scenario.backends.is_empty() {
            trials.push(trial(scenario, None));
        }
        for backend in scenario.backends {
            trials.push(trial(scenario, Some(*backend)));
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn trial(scenario: &'static Scenario, backend: Option<Backend>) -> Trial {
    let name = match backend {
        Some(backend) => format!("{}::{backend}", scenario.name),
        None => scenario.name.into(),
    };
    Trial::test(name, move || {
        (scenario.check)(Program::new(scenario.name, backend));
        Ok(())
    })
}

// The side of the check.

/// The program of a scenario, about to be started.
struct Program {
    command: Command,
    scratch: Scratch,
}

impl Program {
    fn new(scenario: &str, backend: Option<Backend>) -> Program {
        let scratch = Scratch::new();
        let mut command = Command::new(env::current_exe().unwrap());
        command
            .env(SCENARIO, scenario)
            .env(SCRATCH, scratch.path())
            .env("RUST_BACKTRACE", "0")
            .env_remove("FREETHREADING_BACKEND")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(backend) = backend {
            command.env("FREETHREADING_BACKEND", backend.to_string());
        }
        Program { command, scratch }
    }

    fn sign(&self, name: &str) -> Sign {
        self.scratch.sign(name)
    }

    fn start(mut self) -> Running {
        let mut child = self.command.spawn().unwrap();
        Running {
            stdout: collect(child.stdout.take().unwrap()),
            stderr: collect(child.stderr.take().unwrap()),
            child,
            program: self,
        }
    }

    fn run(self) -> Ended {
        self.start().finish()
    }
}

/// Reads all that there is, until everybody has closed the other end.
fn collect(mut pipe: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut all = Vec::new();
        pipe.read_to_end(&mut all).unwrap();
        let _ = sender.send(all);
    });
    receiver
}

/// A program that was started.
struct Running {
    program: Program,
    child: Child,
    stdout: Receiver<Vec<u8>>,
    stderr: Receiver<Vec<u8>>,
}

impl Running {
    fn sign(&self, name: &str) -> Sign {
        self.program.sign(name)
    }

    /// Waits for the program's end, and for that of all who have its output.
    fn finish(mut self) -> Ended {
        let mut status = None;
        eventually("the program ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let output = |pipe: &Receiver<Vec<u8>>, what| {
            let all = pipe.recv_timeout(Duration::from_secs(20));
            let all = all.unwrap_or_else(|_| panic!("somebody keeps the program's {what} open"));
            String::from_utf8_lossy(&all).into_owned()
        };
        Ended {
            stdout: output(&self.stdout, "output"),
            stderr: output(&self.stderr, "error output"),
            status: status.unwrap(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A program that hangs must not stay.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What is known of a program that has ended.
#[derive(Debug)]
struct Ended {
    status: ExitStatus,
    stdout: String,
    stderr: String,
}

impl Ended {
    /// It has ended well, and said nothing but this.
    #[track_caller]
    fn said(&self, stdout: &str) {
        self.was_fine();
        assert_eq!(self.stdout, stdout);
    }

    #[track_caller]
    fn was_fine(&self) {
        assert!(self.status.success() && self.stderr.is_empty(), "{self:#?}");
    }

    #[track_caller]
    fn had_code(&self, code: i32) {
        assert_eq!(self.status.code(), Some(code), "{self:#?}");
    }

    fn sorted_lines(&self) -> Vec<&str> {
        let mut lines: Vec<_> = self.stdout.lines().collect();
        lines.sort_unstable();
        lines
    }
}

// The side of the program.

/// The sign that the check knows by the same name.
fn sign(name: &str) -> Sign {
    let scratch = std::path::PathBuf::from(env::var_os(SCRATCH).unwrap());
    Sign::at(scratch.join(name))
}

/// Has the sign "main has returned" given when it has. To be called after the crate was used, since
/// what is to be done at the end is done in reverse order.
fn tell_the_end_of_main() {
    extern "C" fn tell() {
        sign("main has returned").give();
    }
    // SAFETY: the function has the required signature, and does not unwind unless the test fails.
    assert_eq!(unsafe { libc::atexit(tell) }, 0);
}

fn wait_for_the_end_of_main() {
    sign("main has returned").wait();
}

/// Works for ever.
fn spin() {
    loop {
        std::hint::spin_loop();
    }
}

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

mod a_forked_process_ends_and_leaves_all_alone {
    use super::*;
    use freethreading::{
        Error, Lock, Queue, RLock, Semaphore, TaskError, WorkerPool, WorkerPoolExecutor, task,
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
                drop((held, r_lock, semaphore, queue, result));
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
        println!("all is well");
    }

    pub fn check(program: Program) {
        program.run().said("all is well\n");
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

// Without `init`, and the choice of a backend.

mod without_init_there_are_no_process_workers {
    use super::*;
    use freethreading::{Error, Worker, WorkerPoolExecutor};

    pub fn main() {
        println!("main runs");
        let worker = Worker::new(spin).backend(Backend::Multiprocessing);
        let executor = WorkerPoolExecutor::builder().backend(Backend::Multiprocessing);
        for refused in [
            worker.start(),
            worker.start(),
            executor.build().map(drop),
            Backend::Multiprocessing.scope(|| WorkerPoolExecutor::new(1).map(drop)),
        ] {
            let error = refused.unwrap_err();
            assert!(matches!(error, Error::NotInitialized), "{error:?}");
            let text = error.to_string();
            assert!(text.contains("`freethreading::init();`"), "{text}");
            assert!(text.contains("`freethreading::init_tests!();`"), "{text}");
        }
        assert!(!worker.is_alive());
        assert_eq!(freethreading::active_count(), 1);
        assert!(common::children().is_empty());
        // What would have helped helps now.
        freethreading::init();
        worker.start().unwrap();
        worker.terminate().unwrap();
    }

    pub fn check(program: Program) {
        program.run().said("main runs\n");
    }
}

mod without_init_there_are_thread_workers {
    use super::*;
    use freethreading::{Worker, WorkerPoolExecutor};

    pub fn main() {
        Worker::new(|| println!("a worker runs")).start().unwrap();
        let executor = WorkerPoolExecutor::new(2).unwrap();
        assert_eq!(executor.submit(|| 7).result().unwrap(), 7);
    }

    pub fn check(program: Program) {
        program.run().said("a worker runs\n");
    }
}

mod an_environment_that_names_no_backend_is_an_error {
    use super::*;
    use freethreading::{
        Error, Worker, WorkerPoolExecutor, current_worker, get_backend, set_backend,
    };
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

    const WRONG: [&[u8]; 6] = [b"", b"threads", b"Threading", b"threading ", b"1", b"\xff"];

    pub fn main() {
        for result in [
            get_backend().map(drop),
            set_backend(Backend::Threading),
            set_backend(Backend::Multiprocessing),
            WorkerPoolExecutor::new(1).map(drop),
            Worker::new(|| ()).start(),
        ] {
            let error = result.unwrap_err();
            assert!(matches!(error, Error::InvalidBackend(_)), "{error:?}");
            println!("{error}");
        }
        // What is told a backend does not need the environment's, and the rest has no use for it.
        let worker = Worker::new(|| ()).backend(Backend::Threading);
        worker.start().unwrap();
        worker.join().unwrap();
        let _ = (current_worker(), freethreading::enumerate(), worker.name());
        assert_eq!(
            Backend::Threading.scope(|| get_backend().unwrap()),
            Backend::Threading
        );
    }

    pub fn check(program: Program) {
        drop(program);
        for wrong in WRONG {
            let mut program =
                Program::new("an_environment_that_names_no_backend_is_an_error", None);
            program
                .command
                .env("FREETHREADING_BACKEND", OsStr::from_bytes(wrong));
            let ended = program.run();
            ended.was_fine();
            assert_eq!(ended.stdout.lines().count(), 5);
            for line in ended.stdout.lines() {
                let value = format!("`{}`", String::from_utf8_lossy(wrong));
                for part in [
                    "FREETHREADING_BACKEND",
                    &value,
                    "`threading`",
                    "`multiprocessing`",
                ] {
                    assert!(line.contains(part), "{line}");
                }
            }
        }
    }
}

mod the_build_decides_where_nobody_chose_a_backend {
    use super::*;
    use freethreading::get_backend;

    pub fn main() {
        // Tests are built with unwinding panics.
        assert_eq!(get_backend().unwrap(), Backend::Threading);
    }

    pub fn check(program: Program) {
        program.run().said("");
    }
}

mod a_backend_may_be_chosen_before_it_is_used {
    use super::*;
    use freethreading::{Error, WorkerPoolExecutor, get_backend, set_backend};

    pub fn main() {
        set_backend(Backend::Multiprocessing).unwrap();
        set_backend(Backend::Multiprocessing).unwrap();
        assert_eq!(get_backend().unwrap(), Backend::Multiprocessing);
        let executor = WorkerPoolExecutor::new(1).unwrap();
        assert_eq!(executor.backend(), Backend::Multiprocessing);
        assert_ne!(
            executor.submit(std::process::id).result().unwrap(),
            std::process::id()
        );
        let late = set_backend(Backend::Threading);
        assert!(matches!(
            late,
            Err(Error::BackendDecided(Backend::Multiprocessing))
        ));
        assert_eq!(get_backend().unwrap(), Backend::Multiprocessing);
        set_backend(Backend::Multiprocessing).unwrap();
    }

    pub fn check(program: Program) {
        program.run().said("");
    }
}

mod a_backend_that_was_used_stays {
    use super::*;
    use freethreading::{Error, Worker, get_backend, set_backend};

    pub fn main() {
        let worker = Worker::new(|| ());
        worker.start().unwrap();
        worker.join().unwrap();
        let late = set_backend(Backend::Multiprocessing).unwrap_err();
        assert!(matches!(late, Error::BackendDecided(Backend::Threading)));
        assert!(late.to_string().contains("threading"), "{late}");
        assert_eq!(get_backend().unwrap(), Backend::Threading);
        // Neither does the environment matter any more.
        // SAFETY: this program has one thread.
        unsafe { env::set_var("FREETHREADING_BACKEND", "multiprocessing") };
        assert_eq!(get_backend().unwrap(), Backend::Threading);
    }

    pub fn check(program: Program) {
        program.run().said("");
    }
}

mod the_environment_chooses_the_backend_first {
    use super::*;
    use freethreading::{get_backend, set_backend};

    pub fn main() {
        let chosen: Backend = env::var("FREETHREADING_BACKEND").unwrap().parse().unwrap();
        for backend in Backend::ALL {
            set_backend(backend).unwrap();
            assert_eq!(get_backend().unwrap(), chosen);
        }
    }

    pub fn check(program: Program) {
        program.run().said("");
    }
}

mod all_workers_have_the_programs_backend {
    use super::*;
    use freethreading::{Worker, WorkerPoolExecutor, get_backend, set_backend, task};

    /// Notes the backend here and in workers of workers, on each backend.
    fn note_backend(path: String, depth: u32) {
        sign("backends").note(format_args!("{path} {}", get_backend().unwrap()));
        for backend in Backend::ALL {
            if depth > 0 {
                let path = format!("{path}/{backend}");
                let worker = Worker::new(task!(note_backend(path, depth - 1))).backend(backend);
                worker.start().unwrap();
                worker.join().unwrap();
            }
        }
    }

    pub fn main() {
        // Workers are not told by way of the environment.
        set_backend(env::var("CHOICE").unwrap().parse().unwrap()).unwrap();
        note_backend("main".into(), 2);
        for backend in Backend::ALL {
            let executor = WorkerPoolExecutor::builder()
                .backend(backend)
                .build()
                .unwrap();
            let path = format!("executor/{backend}");
            executor
                .submit(task!(note_backend(path, 0)))
                .result()
                .unwrap();
        }
    }

    pub fn check(program: Program) {
        drop(program);
        for choice in Backend::ALL {
            let mut program = Program::new("all_workers_have_the_programs_backend", None);
            program.command.env("CHOICE", choice.to_string());
            let running = program.start();
            let backends = running.sign("backends");
            eventually("all have noted", || backends.notes().len() == 9);
            let notes = backends.notes();
            running.finish().said("");
            assert!(
                notes
                    .iter()
                    .all(|note| note.ends_with(&format!(" {choice}"))),
                "{notes:#?}"
            );
        }
    }
}

// The lists of workers.

mod workers_are_counted {
    use super::*;
    use freethreading::{Worker, active_children, active_count, current_worker, enumerate, task};

    fn wait() {
        // A worker process has no workers but itself, a thread is one of its program's.
        sign("counted inside").tell(format_args!(
            "{} {}",
            active_count(),
            active_children().contains(&current_worker())
        ));
        sign("end").wait();
    }

    pub fn main() {
        let main = current_worker();
        assert!(enumerate().iter().eq([&main]));
        assert_eq!((active_count(), active_children()), (1, vec![]));
        let worker = Worker::new(task!(wait()));
        assert_eq!((active_count(), active_children()), (1, vec![]));
        worker.start().unwrap();
        assert_eq!(
            (active_count(), active_children()),
            (2, vec![worker.clone()])
        );
        assert_eq!(enumerate(), [main.clone(), worker.clone()]);
        println!("{}", sign("counted inside").hear());
        sign("end").give();
        worker.join().unwrap();
        assert_eq!((active_count(), active_children()), (1, vec![]));
        assert_eq!(enumerate(), [main]);
    }

    pub fn check(program: Program) {
        let processes = program
            .command
            .get_envs()
            .any(|(_, value)| value.is_some_and(|value| value == "multiprocessing"));
        program
            .run()
            .said(if processes { "1 false\n" } else { "2 false\n" });
    }
}

mod executors_workers_are_counted {
    use super::*;
    use freethreading::{WorkerPoolExecutor, active_children, active_count};

    pub fn main() {
        let executor = WorkerPoolExecutor::new(3).unwrap();
        assert_eq!(active_count(), 1);
        let begun: Vec<_> = (0..2)
            .map(|_| executor.submit(|| sign("go").wait()))
            .collect();
        assert_eq!(active_count(), 3);
        assert!(active_children().iter().all(|child| child.is_alive()));
        sign("go").give();
        for future in begun {
            future.result().unwrap();
        }
        // They are idle, and so they stay, whatever helper threads there are.
        assert_eq!(active_count(), 3);
        executor.shutdown(true, false);
        assert_eq!((active_count(), active_children()), (1, vec![]));
    }

    pub fn check(program: Program) {
        program.run().said("");
    }
}

mod the_main_worker_has_its_name {
    use super::*;
    use freethreading::{Error, current_worker, enumerate, get_backend, get_ident};

    pub fn main() {
        let main = current_worker();
        let name = match get_backend().unwrap() {
            Backend::Threading => "MainThread",
            Backend::Multiprocessing => "MainProcess",
        };
        assert_eq!(main.name(), name);
        assert!(main.is_alive());
        assert!(!main.daemon());
        assert_eq!(main.ident(), Some(get_ident()));
        assert!(get_ident() > 0);
        assert!(enumerate().iter().eq([&main]));
        assert!(matches!(main.join(), Err(Error::JoinSelf)));
        assert!(matches!(main.start(), Err(Error::AlreadyStarted)));
        assert!(matches!(main.set_daemon(true), Err(Error::AlreadyStarted)));
        assert!(matches!(main.terminate(), Err(Error::Unsupported(_))));
        main.set_name("renamed");
        assert_eq!(current_worker().name(), "renamed");
        main.set_name("");
        assert_eq!(current_worker().name(), name);
    }

    pub fn check(program: Program) {
        program.run().said("");
    }
}

mod threads_of_others_are_counted_only_for_themselves {
    use super::*;
    use freethreading::{
        Worker, active_children, active_count, current_worker, enumerate, get_backend, get_ident,
    };

    pub fn main() {
        let main = current_worker();
        let builder = thread::Builder::new().name("of others".into());
        let of_others = builder.spawn(move || {
            let this = current_worker();
            assert_eq!(this, current_worker());
            assert_eq!(this.ident(), Some(get_ident()));
            assert!(this.is_alive());
            match get_backend().unwrap() {
                Backend::Threading => {
                    assert_eq!(this.name(), "of others");
                    assert_ne!(this, main);
                    assert_eq!(enumerate(), [main.clone(), this]);
                }
                Backend::Multiprocessing => {
                    assert_eq!(this, main);
                    assert_eq!(enumerate(), [main]);
                }
            }
            assert!(!active_children().contains(&current_worker()));
            let worker = Worker::new(|| ());
            worker.start().unwrap();
            worker.join().unwrap();
        });
        of_others.unwrap().join().unwrap();
        assert_eq!(active_count(), 1);
    }

    pub fn check(program: Program) {
        let ended = program.run();
        ended.said("");
    }
}

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

mod a_refused_thread_may_be_started_again {
    use super::*;

    pub fn main() {
        let worker = a_refused_worker(|| {
            // Room for anything but a stack.
            let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
            let pages: u64 = pages.split(' ').next().unwrap().parse().unwrap();
            let before = limit(libc::RLIMIT_AS, pages * 4096 + (64 << 20));
            move || {
                limit(libc::RLIMIT_AS, before);
            }
        });
        start_again(&worker);
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

// What is left behind.

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

    fn counts() -> (usize, usize, usize) {
        (
            common::threads(),
            common::descriptors(),
            common::children().len(),
        )
    }

    pub fn main() {
        for backend in Backend::ALL {
            cycle(backend);
            let mut before = counts();
            // The first cycle has started what stays.
            eventually("the first cycle is over", || {
                before = counts();
                freethreading::active_count() == 1 && before.2 == 0
            });
            let quiet = |what: &str| eventually(what, || counts() <= before);
            quiet("the first cycle is over");
            for _ in 0..50 {
                cycle(backend);
            }
            eventually("everything is as before", || {
                let now = counts();
                now.0 <= before.0 && now.1 <= before.1 && now.2 == 0
            });
        }
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

    fn counts() -> (usize, usize, usize) {
        (
            common::threads(),
            common::descriptors(),
            common::children().len(),
        )
    }

    pub fn main() {
        for backend in Backend::ALL {
            cycle(backend);
            let mut before = counts();
            // The first cycle has started what stays.
            eventually("the first cycle is over", || {
                before = counts();
                freethreading::active_count() == 1 && before.2 == 0
            });
            for _ in 0..50 {
                cycle(backend);
            }
            eventually("everything is as before", || {
                let now = counts();
                now.0 <= before.0 && now.1 <= before.1 && now.2 == 0
            });
        }
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
        assert_eq!((active_count(), common::threads()), (1, before));
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
