//! Whole programs, and worker processes that do not keep to the protocol.
//!
//! This test program has a `main` of its own. With `PROGRAM` in the environment it is one of the
//! programs in [`programs`], which a test starts and watches from outside. With `FAULTY_WORKER` it is
//! a worker process that stands between the parent and a real one, and spoils what they say.

mod common;

use std::{
    env, fs,
    io::{Read, Write},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use common::{Scratch, death, eventually, runs, signal, watched};
use freethreading::{
    Backend, Death, Effect, Error, Launcher, TaskError, WorkerPoolExecutor,
    WorkerPoolExecutorBuilder, active_children, task,
};
use libtest_mimic::{Arguments, Trial};

fn main() {
    if let Ok(fault) = env::var("FAULTY_WORKER") {
        faulty_worker::run(&fault);
    }
    let program = env::var("PROGRAM").unwrap_or_default();
    if program == "without init" {
        return programs::without_init();
    }
    if program == "registers an exit hook" {
        programs::register_exit_hook();
    }
    freethreading::init();
    if !program.is_empty() {
        return programs::run(&program);
    }
    common::heed_interrupts();
    libtest_mimic::run(&Arguments::from_args(), trials()).exit();
}

/// Makes trials of functions, named after them.
macro_rules! trials {
    ($($name:ident),* $(,)?) => {
        fn trials() -> Vec<Trial> {
            vec![$(Trial::test(stringify!($name), || {
                // A thread that is named after the trial, as libtest's are.
                let thread = thread::Builder::new().name(stringify!($name).into());
                let trial = thread.spawn(|| watched($name)).unwrap();
                trial.join().map_err(|_| "it panicked".into())
            })),*]
        }
    };
}

trials! {
    a_launcher_may_run_this_executable_in_its_own_way,
    processes_that_are_interrupted_as_they_start_break_nothing,
    a_launcher_may_stay_between_the_processes,
    a_launcher_that_takes_too_long_is_given_up,
    replies_may_come_in_small_pieces,
    a_launcher_whose_program_does_not_exist_is_an_error_of_the_task,
    programs_that_are_no_workers_break_the_executor,
    another_build_is_refused_before_anything_runs,
    a_process_that_prints_before_it_says_hello_breaks_the_executor,
    a_process_that_dies_before_it_says_hello_breaks_the_executor,
    another_version_of_the_protocol_is_refused,
    a_hello_of_absurd_length_breaks_the_executor,
    processes_that_die_without_looking_at_their_tasks_break_the_executor,
    a_process_that_dies_with_half_a_task_costs_that_task,
    a_process_that_dies_with_half_a_reply_costs_that_task,
    a_reply_of_absurd_length_costs_its_task,
    a_reply_that_makes_no_sense_costs_its_task,
    a_reply_to_another_task_costs_the_task_at_hand,
    a_process_that_answers_twice_is_replaced,
    a_process_that_closes_its_pipe_is_replaced,
    good_and_bad_workers_work_side_by_side,
    the_parent_survives_a_reply_that_claims_to_hold_a_huge_text,
    what_tasks_print_comes_out_whole,
    what_tasks_print_disturbs_nobody,
    what_tasks_write_to_standard_error_comes_out_whole,
    a_standard_error_that_nobody_reads_holds_up_who_writes_there_only,
    a_standard_error_that_is_closed_disturbs_nobody,
    standard_input_stays_with_the_program,
    a_program_needs_no_standard_streams,
    a_program_completes_what_it_submitted_before_it_ends,
    tasks_are_refused_once_the_program_ends,
    workers_end_with_a_program_that_is_killed,
    workers_end_with_a_program_that_is_interrupted,
    a_program_whose_file_is_replaced_goes_on,
    nothing_is_left_of_executors_and_of_their_faults,
    memory_does_not_grow_with_the_number_of_tasks,
    a_thousand_waiters_need_no_threads_and_stop_no_clock,
    a_worker_that_cannot_be_started_is_an_error_of_the_task,
    processes_need_init,
    an_exit_hook_of_worker_processes_gets_no_workers,
    programs_that_tasks_start_are_no_workers,
}

fn this_executable() -> PathBuf {
    env::current_exe().unwrap()
}

fn double(x: u64) -> u64 {
    x * 2
}

fn processes(max_workers: usize) -> WorkerPoolExecutorBuilder {
    WorkerPoolExecutor::builder()
        .max_workers(max_workers)
        .backend(Backend::Multiprocessing)
}

/// Up to so many workers that have this fault.
fn faulty(fault: &str, max_workers: usize) -> WorkerPoolExecutor {
    let launcher = Launcher::new("env")
        .arg(format!("FAULTY_WORKER={fault}"))
        .arg(this_executable());
    processes(max_workers).launcher(launcher).build().unwrap()
}

/// The executor gives up, for this reason, on all tasks; it can be shut down.
#[track_caller]
fn assert_breaks(executor: &WorkerPoolExecutor, why: &str) {
    let futures: Vec<_> = (0..10).map(|n| executor.submit(task!(double(n)))).collect();
    for future in futures
        .into_iter()
        .chain([executor.submit(task!(double(1)))])
    {
        let error = future.result().unwrap_err();
        assert_eq!(error.effect(), Effect::DidNotRun);
        let TaskError::Broken(broken) = &error else {
            panic!("{error}");
        };
        assert!(!broken.initializer_failed());
        assert!(error.to_string().contains(why), "{error}");
    }
    executor.shutdown(true, false);
}

fn assert_works(executor: &WorkerPoolExecutor) {
    for n in 0..20 {
        assert_eq!(executor.submit(task!(double(n))).result().unwrap(), 2 * n);
    }
    assert_eq!(
        executor.map(double, 0..5).into_vec().unwrap(),
        [0, 2, 4, 6, 8]
    );
    executor.shutdown(true, false);
}

fn a_launcher_may_run_this_executable_in_its_own_way() {
    let exe = this_executable();
    for launcher in [
        Launcher::new(&exe),
        Launcher::new("env").arg(&exe),
        Launcher::new("sh").args(["-c", "exec \"$0\""]).arg(&exe),
        Launcher::new("sh").args(["-c", "\"$0\"; true"]).arg(&exe),
        Launcher::new("nice").arg(&exe),
    ] {
        assert_works(&processes(2).launcher(launcher).build().unwrap());
    }
}

/// As by a terminal's Ctrl-C, which reaches a process that does not ignore it yet.
fn processes_that_are_interrupted_as_they_start_break_nothing() {
    let scratch = Scratch::new();
    let script = "echo >> \"$1\"; test $(wc -l < \"$1\") -gt 8 || kill -INT $$; exec \"$0\"";
    let launcher = Launcher::new("sh")
        .args(["-c", script])
        .arg(this_executable())
        .arg(scratch.path().join("starts"));
    assert_works(&processes(2).launcher(launcher).build().unwrap());
}

fn a_launcher_may_stay_between_the_processes() {
    assert_works(&faulty("none", 2));
}

fn replies_may_come_in_small_pieces() {
    assert_works(&faulty("small pieces", 2));
}

fn a_launcher_that_takes_too_long_is_given_up() {
    let launcher = Launcher::new("sleep").arg("600");
    let launcher = launcher.start_timeout(Duration::from_millis(50));
    let executor = processes(1).launcher(launcher).build().unwrap();
    let Err(TaskError::Broken(why)) = executor.submit(task!(double(1))).result() else {
        panic!("no worker has come");
    };
    let why = why.to_string();
    assert!(why.contains("start_timeout"), "{why}");
    executor.shutdown(true, false);
}

fn a_launcher_whose_program_does_not_exist_is_an_error_of_the_task() {
    let launcher = Launcher::new("/nonexistent/launcher");
    let executor = processes(2).launcher(launcher).build().unwrap();
    for _ in 0..3 {
        let error = executor.submit(task!(double(1))).result().unwrap_err();
        assert_eq!(error.effect(), Effect::DidNotRun);
        let TaskError::Start(start) = error else {
            panic!("{error}");
        };
        assert_eq!(start.io_error().kind(), std::io::ErrorKind::NotFound);
    }
    let mut map = executor.map(double, 0..3);
    assert!(matches!(map.next(), Some(Err(TaskError::Start(_)))));
    executor.shutdown(true, false);
}

fn programs_that_are_no_workers_break_the_executor() {
    for (program, why) in [
        ("true", "exited with code 0"),
        ("false", "exited with code 1"),
        ("cat", "broke the protocol"),
        ("kill -KILL $$", "SIGKILL"),
        ("echo Welcome to this host!; cat > /dev/null", "Welcome"),
        ("printf hi", "exited with code 0"),
        (
            "printf '\\000\\000\\000\\000\\000\\000\\000\\000'; cat > /dev/null",
            "broke the protocol",
        ),
    ] {
        let launcher = Launcher::new("sh").args(["-c", program]);
        assert_breaks(&processes(2).launcher(launcher).build().unwrap(), why);
    }
}

/// Makes a copy of this executable, with something more at its end. Another process writes it: if this one did, so
/// would, for a moment, the processes that other tests start meanwhile, and the system runs no file that is being written.
fn copy_executable(to: &Path, more: &str) {
    let copied = Command::new("sh")
        .args(["-c", r#"cp "$0" "$1" && printf %s "$2" >>"$1""#])
        .args([this_executable().as_path(), to])
        .arg(more)
        .status();
    assert!(copied.unwrap().success());
}

fn another_build_is_refused_before_anything_runs() {
    let scratch = Scratch::new();
    let other = scratch.path().join("other-build");
    copy_executable(&other, "one more line");
    let sign = scratch.sign("ran");
    let executor = processes(2)
        .launcher(Launcher::new(&other))
        .initializer(task!(|sign| sign.give()))
        .build()
        .unwrap();
    let error = executor.submit(task!(double(1))).result().unwrap_err();
    let TaskError::Broken(broken) = error else {
        panic!("{error}");
    };
    assert!(matches!(broken.cause(), TaskError::Mismatch(_)));
    assert_breaks(&executor, "another build");
    assert!(!scratch.sign("ran").is_given());
}

fn a_process_that_prints_before_it_says_hello_breaks_the_executor() {
    assert_breaks(&faulty("prints", 2), "Good morning");
}

fn a_process_that_dies_before_it_says_hello_breaks_the_executor() {
    assert_breaks(&faulty("dies early", 2), "exited with code 7");
}

fn another_version_of_the_protocol_is_refused() {
    let executor = faulty("other version", 2);
    assert_breaks(&executor, "version of the protocol");
}

fn a_hello_of_absurd_length_breaks_the_executor() {
    assert_breaks(&faulty("absurd hello", 2), "broke the protocol");
}

fn processes_that_die_without_looking_at_their_tasks_break_the_executor() {
    assert_breaks(&faulty("never reads", 2), "exited with code 7");
}

fn a_process_that_dies_with_half_a_task_costs_that_task() {
    let executor = faulty("half a task", 1);
    for n in 0..5 {
        let died = death(executor.submit(task!(double(n))).result());
        assert_eq!(died.exit_code(), Some(7));
        assert_eq!(died.effect(), Effect::MayHaveRun);
    }
    executor.shutdown(true, false);
}

fn a_process_that_dies_with_half_a_reply_costs_that_task() {
    let executor = faulty("half a reply", 1);
    for n in 0..5 {
        let died = death(executor.submit(task!(double(n))).result());
        assert_eq!(died.exit_code(), Some(7));
        assert_eq!(died.effect(), Effect::MayHaveRun);
    }
    executor.shutdown(true, false);
}

/// Each task fails since its process breaks the protocol.
fn assert_breaks_the_protocol(fault: &str) {
    let executor = faulty(fault, 2);
    let futures: Vec<_> = (0..10).map(|n| executor.submit(task!(double(n)))).collect();
    for future in futures {
        let died = death(future.result());
        assert!(matches!(died.death(), Death::Protocol(_)), "{died}");
        assert_eq!(died.effect(), Effect::MayHaveRun);
        assert!(!runs(died.pid()));
    }
    executor.shutdown(true, false);
}

fn a_reply_of_absurd_length_costs_its_task() {
    assert_breaks_the_protocol("absurd reply");
}

fn a_reply_that_makes_no_sense_costs_its_task() {
    assert_breaks_the_protocol("senseless reply");
}

fn a_reply_to_another_task_costs_the_task_at_hand() {
    assert_breaks_the_protocol("other task");
}

fn a_process_that_answers_twice_is_replaced() {
    let executor = faulty("answers twice", 2);
    let futures: Vec<_> = (0..20).map(|n| executor.submit(task!(double(n)))).collect();
    let mut good = 0;
    for (n, future) in (0..).zip(futures) {
        // The second answer may hit the next task.
        match future.result() {
            Ok(value) => {
                assert_eq!(value, 2 * n);
                good += 1;
            }
            error => assert!(matches!(death(error).death(), Death::Protocol(_))),
        }
    }
    assert!(good > 0);
    executor.shutdown(true, false);
}

fn a_process_that_closes_its_pipe_is_replaced() {
    let executor = faulty("closes its pipe", 1);
    let died = death(executor.submit(task!(double(1))).result());
    assert_eq!(died.signal(), Some(libc::SIGKILL));
    executor.shutdown(true, false);
}

fn good_and_bad_workers_work_side_by_side() {
    let executor = faulty("now and then", 3);
    let mut failed = 0;
    let futures: Vec<_> = (0..200)
        .map(|n| executor.submit(task!(double(n))))
        .collect();
    for (n, future) in (0..).zip(futures) {
        match future.result() {
            Ok(value) => assert_eq!(value, 2 * n),
            error => {
                death(error);
                failed += 1;
            }
        }
    }
    assert!((1..100).contains(&failed), "{failed}");
    executor.shutdown(true, false);
}

/// Runs the program named so, and waits for it.
fn run(program: &str) -> Output {
    command(program).output().unwrap()
}

fn command(program: &str) -> Command {
    let mut command = Command::new(this_executable());
    // A backtrace for each of many panics takes longer than all the rest.
    command.env("PROGRAM", program).env("RUST_BACKTRACE", "0");
    command
}

/// Runs the program, on this backend.
fn run_on(backend: Backend, program: &str) -> Output {
    let mut command = command(program);
    command.env("FREETHREADING_BACKEND", backend.to_string());
    command.output().unwrap()
}

/// Its standard output, if it went well.
#[track_caller]
fn success(output: Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

fn the_parent_survives_a_reply_that_claims_to_hold_a_huge_text() {
    for bits in [40, 62] {
        let mut command = command("huge text");
        command.env("TEXT_LEN", (1u64 << bits).to_string());
        assert_eq!(success(command.output().unwrap()), "survived\n");
    }
}

fn what_tasks_print_comes_out_whole() {
    for backend in Backend::ALL {
        let text = success(run_on(backend, "prints"));
        let expected: String = (0..1000)
            .map(|n| format!("line {n} begins, and ends\n"))
            .collect();
        assert!(text == expected + "the last word", "{text}");
    }
}

fn what_tasks_print_disturbs_nobody() {
    let output = run("prints garbage");
    assert!(output.status.success());
    assert!(output.stdout.ends_with(b"9900\n"));
    assert!(output.stdout.len() >= 100 * 4096 && output.stderr.len() >= 100 * 4096);
}

fn what_tasks_write_to_standard_error_comes_out_whole() {
    let output = run("floods");
    assert!(output.status.success());
    let expected: String = (0..100_000).map(|n| format!("line {n}\n")).collect();
    assert!(String::from_utf8(output.stderr).unwrap() == expected);
}

fn a_standard_error_that_nobody_reads_holds_up_who_writes_there_only() {
    let mut program = command("floods beside another")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut word = [0; 5];
    program
        .stdout
        .take()
        .unwrap()
        .read_exact(&mut word)
        .unwrap();
    assert_eq!(&word, b"done\n");
    let mut errors = String::new();
    program
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut errors)
        .unwrap();
    assert_eq!(errors.lines().count(), 100_000);
    assert!(program.wait().unwrap().success());
}

fn a_standard_error_that_is_closed_disturbs_nobody() {
    let mut program = command("floods")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(program.stderr.take());
    assert!(program.wait().unwrap().success());
}

fn standard_input_stays_with_the_program() {
    let mut program = command("reads")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = program.stdin.take().unwrap();
    input.write_all(b"for the program").unwrap();
    drop(input);
    let output = program.wait_with_output().unwrap();
    assert_eq!(
        success(output),
        "the task got ``, the program got `for the program`\n"
    );
}

fn a_program_needs_no_standard_streams() {
    let scratch = Scratch::new();
    let status = Command::new("sh")
        .args(["-c", "exec \"$0\" <&- >&- 2>&-"])
        .arg(this_executable())
        .env("PROGRAM", "is closed")
        .env("RESULT", scratch.path().join("result"))
        .status()
        .unwrap();
    assert!(status.success());
    let result = fs::read_to_string(scratch.path().join("result")).unwrap();
    assert_eq!(result, "[0, 2, 4]");
}

fn a_program_completes_what_it_submitted_before_it_ends() {
    for backend in Backend::ALL {
        for end in ["drop", "shutdown", "forget", "exit"] {
            let scratch = Scratch::new();
            let mut command = command("ends early");
            command
                .env("FREETHREADING_BACKEND", backend.to_string())
                .env("END", end)
                .env("DIRECTORY", scratch.path());
            success(command.output().unwrap());
            let files = fs::read_dir(scratch.path()).unwrap().count();
            assert_eq!(files, 8, "{backend}, {end}");
        }
    }
}

fn tasks_are_refused_once_the_program_ends() {
    let text = success(run("submits for ever"));
    assert!(text.contains("shut down"), "{text}");
}

/// Starts a program that tells the processes of its workers and waits; gives its process, and theirs.
fn start_waiting(program: &str) -> (std::process::Child, Vec<u32>) {
    use std::os::unix::process::CommandExt;

    let scratch = Scratch::new();
    let child = command(program)
        .env("PIDS", scratch.path().join("pids"))
        .process_group(0)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut pids = Vec::new();
    eventually("the workers run", || {
        let text = fs::read_to_string(scratch.path().join("pids")).unwrap_or_default();
        pids = text.lines().filter_map(|pid| pid.parse().ok()).collect();
        pids.len() == 4
    });
    assert!(pids.iter().all(|&pid| runs(pid)));
    (child, pids)
}

fn workers_end_with_a_program_that_is_killed() {
    let (mut program, pids) = start_waiting("waits");
    signal(program.id(), libc::SIGKILL);
    program.wait().unwrap();
    for pid in pids {
        eventually("a worker is gone", || !runs(pid));
    }
}

fn workers_end_with_a_program_that_is_interrupted() {
    let (mut program, pids) = start_waiting("waits");
    let group = -(program.id() as libc::pid_t);
    // SAFETY: the call takes no pointers; the group is that of the program just started.
    assert_eq!(unsafe { libc::kill(group, libc::SIGINT) }, 0);
    assert_eq!(program.wait().unwrap().signal(), Some(libc::SIGINT));
    for pid in pids {
        eventually("a worker is gone", || !runs(pid));
    }
}

fn a_program_whose_file_is_replaced_goes_on() {
    let scratch = Scratch::new();
    let copy = scratch.path().join("program");
    copy_executable(&copy, "");
    let output = Command::new(&copy)
        .env("PROGRAM", "replaces itself")
        .output()
        .unwrap();
    assert_eq!(success(output), "[0, 2, 4]\n");
}

fn nothing_is_left_of_executors_and_of_their_faults() {
    for backend in Backend::ALL {
        success(run_on(backend, "leaves nothing"));
    }
}

fn memory_does_not_grow_with_the_number_of_tasks() {
    for backend in Backend::ALL {
        success(run_on(backend, "keeps its memory"));
    }
}

fn a_thousand_waiters_need_no_threads_and_stop_no_clock() {
    for backend in Backend::ALL {
        success(run_on(backend, "a thousand waiters"));
    }
}

fn a_worker_that_cannot_be_started_is_an_error_of_the_task() {
    success(run("runs out of descriptors"));
}

fn processes_need_init() {
    assert_eq!(success(run("without init")), "7, init\n");
}

fn an_exit_hook_of_worker_processes_gets_no_workers() {
    let mut program = command("registers an exit hook");
    let text = success(program.env("LEVELS", "4").output().unwrap());
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    // The hook of the program, that of the worker which it has started, and those of the two before.
    assert_eq!(lines, ["10 and 12", "refused", "refused", "refused"]);
}

fn programs_that_tasks_start_are_no_workers() {
    let executor = processes(1).build().unwrap();
    let environment = executor.submit(|| {
        let output = Command::new("env").output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    });
    let environment = environment.result().unwrap();
    assert!(environment.contains("PATH="));
    assert!(
        !environment.contains("FREETHREADING_WORKER"),
        "{environment}"
    );
}

/// What this executable is with `FAULTY_WORKER` in its environment.
mod faulty_worker {
    use std::{
        io::{self, Read, Write},
        process::{ChildStdin, ChildStdout, exit},
    };

    use super::*;

    /// Bytes of the length in front of a frame.
    const PREFIX: usize = 8;

    pub fn run(fault: &str) -> ! {
        let mut home = io::stdout();
        match fault {
            "dies early" => exit(7),
            "prints" => send(&mut home, b"Good morning, what can I do for you?"),
            _ => {}
        }
        let (mut input, mut output) = start_real_worker();
        send(&mut input, &frame(&mut io::stdin()));
        let mut hello = frame(&mut output);
        match fault {
            // Length, kind of message, version.
            "other version" => hello[PREFIX + 4] ^= 0xff,
            "absurd hello" => hello[0] ^= 0xff,
            _ => {}
        }
        send(&mut home, &hello);
        match fault {
            "never reads" => exit(7),
            "half a task" => {
                io::stdin().read_exact(&mut [0; 20]).unwrap();
                exit(7);
            }
            _ => {}
        }
        for number in 1.. {
            send(&mut input, &frame(&mut io::stdin()));
            let mut reply = frame(&mut output);
            match fault {
                "small pieces" => {
                    for byte in &reply {
                        send(&mut home, &[*byte]);
                    }
                    continue;
                }
                "half a reply" => {
                    send(&mut home, &reply[..reply.len() / 2]);
                    exit(7);
                }
                "absurd reply" => reply[0] ^= 0xff,
                "senseless reply" => reply[PREFIX..].fill(0xee),
                "other task" => reply[PREFIX + 4] ^= 0xff,
                "answers twice" => send(&mut home, &reply),
                "closes its pipe" => {
                    // SAFETY: the call takes no pointers, and nobody writes there any more.
                    unsafe { libc::close(1) };
                    loop {
                        thread::park();
                    }
                }
                "now and then" if number == 20 => exit(7),
                "huge text" => {
                    // "Failed", the task's number, "of the task", "panicked", and the text's length.
                    let mut body = 2u32.to_le_bytes().to_vec();
                    body.extend(&reply[PREFIX + 4..PREFIX + 12]);
                    body.extend([0; 8]);
                    let len: u64 = env::var("TEXT_LEN").unwrap().parse().unwrap();
                    body.extend(len.to_le_bytes());
                    reply = (body.len() as u64).to_be_bytes().to_vec();
                    reply.extend(body);
                }
                _ => {}
            }
            send(&mut home, &reply);
        }
        unreachable!("it ends with its input");
    }

    /// It ends when its input does, and nobody needs to know how.
    #[allow(clippy::zombie_processes)]
    fn start_real_worker() -> (ChildStdin, ChildStdout) {
        let mut child = Command::new(this_executable())
            .env_remove("FAULTY_WORKER")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        (child.stdin.take().unwrap(), child.stdout.take().unwrap())
    }

    /// The next frame, with its length; ends the process if there are no more.
    fn frame(source: &mut impl Read) -> Vec<u8> {
        let mut frame = vec![0; PREFIX];
        if source.read_exact(&mut frame).is_err() {
            exit(0);
        }
        let len = u64::from_be_bytes(frame[..].try_into().unwrap());
        frame.resize(PREFIX + len as usize, 0);
        source.read_exact(&mut frame[PREFIX..]).unwrap();
        frame
    }

    fn send(target: &mut impl Write, bytes: &[u8]) {
        if target
            .write_all(bytes)
            .and_then(|()| target.flush())
            .is_err()
        {
            exit(0);
        }
    }
}

/// What this executable is with `PROGRAM` in its environment.
mod programs {
    use super::*;
    use common::{Gate, GateKeeper, Sign, children, children_of, descriptors, threads};
    use std::{
        sync::{
            LazyLock,
            atomic::{AtomicUsize, Ordering},
        },
        time::Instant,
    };

    pub fn run(program: &str) {
        match program {
            "huge text" => huge_text(),
            "prints" => prints(),
            "prints garbage" => prints_garbage(),
            "floods" => floods(),
            "floods beside another" => floods_beside_another(),
            "reads" => reads(),
            "is closed" => is_closed(),
            "ends early" => ends_early(),
            "submits for ever" => submits_for_ever(),
            "waits" => waits(),
            "replaces itself" => replaces_itself(),
            "leaves nothing" => watched(leaves_nothing),
            "keeps its memory" => watched(keeps_its_memory),
            "a thousand waiters" => watched(a_thousand_waiters),
            "runs out of descriptors" => watched(runs_out_of_descriptors),
            "registers an exit hook" => watched(uses_two_workers),
            other => panic!("there is no program '{other}'"),
        }
    }

    fn huge_text() {
        watched(|| {
            let executor = faulty("huge text", 1);
            let died = death(executor.submit(task!(double(1))).result());
            assert!(matches!(died.death(), Death::Protocol(_)), "{died}");
            executor.shutdown(true, false);
            println!("survived");
        });
    }

    fn prints() {
        let executor = WorkerPoolExecutor::new(1).unwrap();
        for n in 0..1000u32 {
            executor
                .submit(task!(|n| {
                    print!("line {n} begins");
                    println!(", and ends");
                }))
                .result()
                .unwrap();
        }
        executor
            .submit(|| print!("the last word"))
            .result()
            .unwrap();
    }

    fn prints_garbage() {
        fn garble(n: u64) -> u64 {
            let garbage: Vec<u8> = (0..4096u64).map(|i| ((i * (n + 7)) >> 3) as u8).collect();
            std::io::stdout().write_all(&garbage).unwrap();
            std::io::stderr().write_all(&garbage).unwrap();
            2 * n
        }
        let executor = processes(2).build().unwrap();
        let doubles = executor.map(garble, 0..100).into_vec().unwrap();
        executor.shutdown(true, false);
        println!("{}", doubles.iter().sum::<u64>());
    }

    /// Much more than a pipe takes.
    fn flood() {
        let text: String = (0..100_000).map(|n| format!("line {n}\n")).collect();
        let _ = std::io::stderr().write_all(text.as_bytes());
    }

    fn floods() {
        let executor = processes(1).build().unwrap();
        drop(executor.submit(flood));
    }

    fn floods_beside_another() {
        let executor = processes(2).build().unwrap();
        let flooding = executor.submit(flood);
        for n in 0..100 {
            assert_eq!(executor.submit(task!(double(n))).result().unwrap(), 2 * n);
        }
        println!("done");
        flooding.result().unwrap();
    }

    fn read_all() -> String {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).unwrap();
        text
    }

    fn reads() {
        let executor = processes(1).build().unwrap();
        let task = executor.submit(read_all).result().unwrap();
        println!("the task got `{task}`, the program got `{}`", read_all());
    }

    fn is_closed() {
        let executor = processes(1).build().unwrap();
        let doubles = executor.map(
            |n: u64| {
                println!("to nobody");
                2 * n
            },
            0..3,
        );
        let doubles = doubles.into_vec().unwrap();
        fs::write(env::var_os("RESULT").unwrap(), format!("{doubles:?}")).unwrap();
    }

    fn ends_early() {
        fn write(path: PathBuf) {
            // Some of them are still to come when `main` is over.
            thread::sleep(Duration::from_millis(20));
            fs::write(path, "").unwrap();
        }
        let directory = PathBuf::from(env::var_os("DIRECTORY").unwrap());
        let executor = WorkerPoolExecutor::new(2).unwrap();
        for n in 0..8 {
            drop(executor.submit(task!(write(directory.join(n.to_string())))));
        }
        match env::var("END").unwrap().as_str() {
            "drop" => drop(executor),
            "shutdown" => executor.shutdown(false, false),
            "forget" => std::mem::forget(executor),
            "exit" => std::process::exit(0),
            other => panic!("there is no end '{other}'"),
        }
    }

    fn submits_for_ever() {
        static EXECUTOR: LazyLock<WorkerPoolExecutor> = LazyLock::new(|| {
            let builder = WorkerPoolExecutor::builder().max_workers(2);
            builder.backend(Backend::Threading).build().unwrap()
        });
        let begun = Scratch::new();
        let sign = begun.sign("begun");
        drop(EXECUTOR.submit(task!(|sign| {
            sign.give();
            loop {
                if let Err(error) = EXECUTOR.submit(|| ()).result() {
                    println!("{error}");
                    break;
                }
            }
        })));
        begun.sign("begun").wait();
    }

    fn waits() {
        fn tell_and_wait(sign: Sign) {
            sign.note(std::process::id());
            loop {
                thread::park();
            }
        }
        let scratch = PathBuf::from(env::var_os("PIDS").unwrap());
        let busy = processes(3).build().unwrap();
        let idle = processes(1).build().unwrap();
        let note = |pid: u32| {
            let mut file = fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(&scratch)
                .unwrap();
            file.write_all(format!("{pid}\n").as_bytes()).unwrap();
        };
        let home = Scratch::new();
        for _ in 0..3 {
            drop(busy.submit(task!(tell_and_wait(home.sign("pids")))));
        }
        eventually("the workers are busy", || {
            home.sign("pids").notes().len() == 3
        });
        for pid in home.sign("pids").notes() {
            note(pid.parse().unwrap());
        }
        // The directory will not be cleaned by a program that is killed.
        drop(home);
        note(idle.submit(std::process::id).result().unwrap());
        loop {
            thread::park();
        }
    }

    fn replaces_itself() {
        let executable = this_executable();
        fs::remove_file(&executable).unwrap();
        fs::write(&executable, "#!/bin/sh\nexit 5\n").unwrap();
        let executor = processes(2).build().unwrap();
        println!("{:?}", executor.map(double, 0..3).into_vec().unwrap());
    }

    pub fn without_init() {
        let threads = WorkerPoolExecutor::builder().backend(Backend::Threading);
        let seven = threads.build().unwrap().submit(|| 7).result().unwrap();
        let Err(Error::NotInitialized) = processes(1).build() else {
            panic!("worker processes would run `main`");
        };
        let text = Error::NotInitialized.to_string();
        println!(
            "{seven}, {}",
            if text.contains("init") { "init" } else { &text }
        );
    }

    /// Has a hook run at the end of the program, and of each of its worker processes.
    pub fn register_exit_hook() {
        // SAFETY: the function has the required signature, and does not unwind unless the test fails.
        assert_eq!(unsafe { libc::atexit(exit_hook) }, 0);
    }

    extern "C" fn exit_hook() {
        // A worker process runs it, too: were it to get another one there, this would go on without end.
        let levels: u32 = env::var("LEVELS").unwrap().parse().unwrap();
        if levels == 0 {
            return println!("too deep");
        }
        // SAFETY: no other thread of this program reads the environment meanwhile.
        unsafe { env::set_var("LEVELS", (levels - 1).to_string()) };
        match processes(1).build() {
            Ok(executor) => {
                let ten = executor.submit(task!(double(5))).result().unwrap();
                executor.shutdown(true, false);
                println!("{ten} and {}", double_on_a_thread().unwrap());
            }
            Err(error @ Error::Unsupported(_)) => {
                assert!(error.to_string().contains("init"), "{error}");
                assert_eq!(double_on_a_thread(), Err(TaskError::Shutdown));
                println!("refused");
            }
            Err(other) => panic!("{other}"),
        }
    }

    fn double_on_a_thread() -> Result<u64, TaskError> {
        let builder = WorkerPoolExecutor::builder().backend(Backend::Threading);
        let executor = builder.max_workers(1).build().unwrap();
        executor.submit(task!(double(6))).result()
    }

    fn uses_two_workers() {
        fn exit() {
            std::process::exit(5);
        }
        let executor = processes(1).build().unwrap();
        assert_eq!(executor.submit(task!(double(1))).result().unwrap(), 2);
        executor.shutdown(true, false);
        let executor = processes(1).build().unwrap();
        assert_eq!(death(executor.submit(exit).result()).exit_code(), Some(5));
        executor.shutdown(true, false);
    }

    fn abort() {
        std::process::abort();
    }

    fn fail() {
        panic!("as is to be expected");
    }

    /// Uses an executor in most ways, and lets it go in one of several.
    fn cycle(round: usize, backend: Backend) {
        let builder = WorkerPoolExecutor::builder()
            .max_workers(2)
            .backend(backend);
        let executor = builder.clone().build().unwrap();
        let mut map = executor.map(double, 0..10);
        assert_eq!(map.next().unwrap().unwrap(), 0);
        drop(map);
        assert!(executor.submit(fail).result().is_err());
        drop(executor.submit(task!(double(1))));
        executor.submit(task!(double(1))).add_done_callback(|_| ());
        let future = executor.submit(task!(double(1)));
        assert_eq!(futures::executor::block_on(future).unwrap(), 2);
        if backend == Backend::Multiprocessing {
            death(executor.submit(abort).result());
            let pid = executor.submit(std::process::id).result().unwrap();
            signal(pid, libc::SIGKILL);
            if round.is_multiple_of(10) {
                let nowhere = Launcher::new("/nonexistent/launcher");
                let unlaunched = builder.clone().launcher(nowhere).build().unwrap();
                assert!(unlaunched.submit(task!(double(1))).result().is_err());
                let useless = builder
                    .clone()
                    .launcher(Launcher::new("true"))
                    .build()
                    .unwrap();
                assert!(useless.submit(task!(double(1))).result().is_err());
                let faulty = faulty("answers twice", 1);
                assert!(faulty.submit(task!(double(1))).result().is_ok());
            }
        }
        let broken = builder.clone().initializer(fail).build().unwrap();
        assert!(broken.submit(task!(double(1))).result().is_err());
        match round % 4 {
            0 => executor.shutdown(true, false),
            1 => executor.shutdown(false, true),
            2 => futures::executor::block_on(executor.shutdown_async(false)),
            _ => {}
        }
    }

    fn leaves_nothing() {
        let backend = freethreading::get_backend().unwrap();
        cycle(0, backend);
        // What stays once it was needed: the reactor, but not its thread for callbacks.
        let state = || {
            let callbacks = fs::read_dir("/proc/self/task").unwrap().flatten();
            let callbacks = callbacks.filter(|thread| {
                fs::read_to_string(thread.path().join("comm"))
                    .is_ok_and(|name| name.starts_with("freethreading-c"))
            });
            (threads() - callbacks.count(), descriptors(), children())
        };
        let settled = || {
            eventually("all workers are gone", || {
                active_children().is_empty() && children().is_empty()
            });
            let mut last = state();
            eventually("threads and descriptors settle", || {
                thread::sleep(Duration::from_millis(50));
                let now = state();
                std::mem::replace(&mut last, now.clone()) == now
            });
            last
        };
        let before = settled();
        for round in 0..50 {
            cycle(round, backend);
        }
        // A thread that ended slowly may have been counted before.
        eventually("there is no more than before", || {
            let now = settled();
            now.0 <= before.0 && now.1 <= before.1
        });
    }

    /// Memory in use by the process, in KiB, as the system sees it.
    fn memory(pid: u32) -> i64 {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("RssAnon:"));
        let number = line.and_then(|line| line.split_whitespace().nth(1));
        number.unwrap().parse().unwrap()
    }

    fn text_of(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    fn keeps_its_memory() {
        let executor = WorkerPoolExecutor::new(2).unwrap();
        let run = |tasks: usize| {
            for _ in 0..tasks / 100 {
                let futures: Vec<_> = (0..100)
                    .map(|_| executor.submit(task!(text_of(vec![b'x'; 1000]))))
                    .inspect(|future| {
                        future.add_done_callback(|future| assert!(future.done()));
                    })
                    .collect();
                for future in futures {
                    assert_eq!(future.result().unwrap().len(), 1000);
                }
            }
        };
        let total = || {
            let workers = children_of(std::process::id());
            let pids = workers.into_iter().chain([std::process::id()]);
            pids.map(memory).collect::<Vec<_>>()
        };
        run(2000);
        let before = total();
        run(10_000);
        let after = total();
        assert_eq!(before.len(), after.len());
        for (before, after) in before.iter().zip(&after) {
            // A hundred bytes per task would be 1000 KiB.
            assert!(
                after - before < 800,
                "{before} KiB before, {after} KiB after"
            );
        }
    }

    fn a_thousand_waiters() {
        static TICKS: AtomicUsize = AtomicUsize::new(0);

        fn pass(gate: Gate) {
            gate.pass();
        }

        let gates = GateKeeper::new();
        let executor = WorkerPoolExecutor::new(2).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            tokio::spawn(async {
                let mut interval = tokio::time::interval(Duration::from_millis(1));
                loop {
                    interval.tick().await;
                    TICKS.fetch_add(1, Ordering::SeqCst);
                }
            });
            let some_ticks = async || {
                let start = TICKS.load(Ordering::SeqCst);
                while TICKS.load(Ordering::SeqCst) < start + 20 {
                    tokio::task::yield_now().await;
                }
            };
            // Two hold the workers.
            let mut futures: Vec<_> = (0..2)
                .map(|_| executor.submit(task!(pass(gates.gate()))))
                .collect();
            gates.wait_for(2);
            let before = threads();
            futures.extend((0..1000).map(|_| executor.submit(task!(pass(gates.gate())))));
            let waiting: Vec<_> = futures.into_iter().map(tokio::spawn).collect();
            some_ticks().await;
            assert_eq!(threads(), before);
            // Half of them are given up.
            for task in waiting.iter().skip(500) {
                task.abort();
            }
            some_ticks().await;
            gates.open();
            let start = Instant::now();
            let mut done = 0;
            for task in waiting {
                match task.await {
                    Ok(result) => {
                        result.unwrap();
                        done += 1;
                    }
                    Err(error) => assert!(error.is_cancelled()),
                }
            }
            assert!(done >= 500 && start.elapsed() < Duration::from_secs(50));
            executor.shutdown_async(false).await;
            assert_eq!(gates.arrived(), 1002);
        });
    }

    fn runs_out_of_descriptors() {
        let limit = |limit: u64| {
            use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
            let maximum = getrlimit(Resource::Nofile).maximum;
            let current = Some(limit);
            setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
        };
        let executor = processes(3).build().unwrap();
        assert_eq!(executor.submit(task!(double(1))).result().unwrap(), 2);
        let open = descriptors() as u64;
        limit(open + 1);
        // There is a worker, which gets to all of them.
        let doubles = executor.map(double, 0..20).into_vec().unwrap();
        assert_eq!(doubles, (0..20).map(double).collect::<Vec<_>>());
        // Without one, nothing goes.
        let other = processes(1).build().unwrap();
        for _ in 0..3 {
            let error = other.submit(task!(double(1))).result().unwrap_err();
            assert!(matches!(error, TaskError::Start(_)), "{error}");
            assert_eq!(error.effect(), Effect::DidNotRun);
        }
        limit(1000);
        assert_eq!(other.submit(task!(double(4))).result().unwrap(), 8);
        assert_eq!(executor.map(double, 0..2).into_vec().unwrap(), [0, 2]);
    }
}
