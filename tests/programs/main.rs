//! What can only be seen of a whole program: how it ends, what it prints, what it leaves behind.
//!
//! A scenario is a program, `main`, and what must come of it, `check`. The test program runs itself
//! again, as the program of a scenario, once per backend.

#[path = "../common/mod.rs"]
mod common;

use std::{
    env,
    io::Read,
    os::{
        fd::AsRawFd,
        unix::process::{CommandExt, ExitStatusExt},
    },
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

mod backends;
mod counting;
mod ending;
mod leaks;
mod output;
mod refusals;
mod signals;
mod starting;

const PROCESSES: &[Backend] = &[Backend::Multiprocessing];
const THREADS: &[Backend] = &[Backend::Threading];

/// What there is, by theme.
const SCENARIOS: &[&[Scenario]] = &[
    ending::SCENARIOS,
    backends::SCENARIOS,
    counting::SCENARIOS,
    output::SCENARIOS,
    starting::SCENARIOS,
    refusals::SCENARIOS,
    signals::SCENARIOS,
    leaks::SCENARIOS,
];

fn main() -> ExitCode {
    if let Ok(name) = env::var(SCENARIO) {
        let mut scenarios = SCENARIOS.iter().copied().flatten();
        let scenario = scenarios.find(|scenario| scenario.name == name);
        let scenario = scenario.expect("there is such a scenario");
        if scenario.init {
            freethreading::init();
        }
        (scenario.main)();
        return ExitCode::SUCCESS;
    }
    common::heed_interrupts();
    let mut trials = Vec::new();
    for scenario in SCENARIOS.iter().copied().flatten() {
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
