//! The examples, as programs.

use std::{
    env,
    io::{BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
};

use freethreading::Backend;
use rustix::process::{Signal, set_parent_process_death_signal};

use super::{children_of, exists, signal};

/// An example that runs.
pub struct Example {
    child: Child,
    stdout: BufReader<ChildStdout>,
    /// Processes that it has started, as far as somebody has looked.
    seen: Vec<u32>,
}

impl Example {
    pub fn start(name: &str, backend: Backend, arguments: &[&str]) -> Example {
        // Next to the directory where this test program is.
        let directory = env::current_exe().unwrap();
        let directory = directory.parent().unwrap().parent().unwrap();
        let path = directory.join("examples").join(name);
        assert!(
            path.exists(),
            "examples are built by `cargo test` without `--test`, and by `cargo build --examples`"
        );
        let mut command = Command::new(path);
        command
            .args(arguments)
            .env("FREETHREADING_BACKEND", backend.to_string())
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // Where panics and crashes are on purpose.
            .stderr(Stdio::null());
        // SAFETY: what is called is one system call, and allocates nothing.
        unsafe {
            command.pre_exec(|| {
                // When a watchdog ends this program, nobody else would end that one.
                Ok(set_parent_process_death_signal(Some(Signal::KILL))?)
            });
        }
        let mut child = command.spawn().unwrap();
        Example {
            stdout: BufReader::new(child.stdout.take().unwrap()),
            child,
            seen: Vec::new(),
        }
    }

    /// What the first line has behind the text, of those that are still to be read and begin with it.
    pub fn line(&mut self, begin: &str) -> String {
        loop {
            let mut line = String::new();
            self.stdout.read_line(&mut line).unwrap();
            assert!(line.ends_with('\n'), "it ends without a line `{begin}…`");
            if let Some(rest) = line.strip_prefix(begin) {
                return rest.trim_end().into();
            }
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The worker processes that it has now.
    pub fn workers(&mut self) -> Vec<u32> {
        let workers = children_of(self.pid());
        self.seen.extend(&workers);
        workers
    }

    /// What Ctrl-C does, but to this process only.
    pub fn interrupt(&mut self) {
        self.workers();
        signal(self.pid(), libc::SIGINT);
    }

    /// Waits for its end, and for that of all who have its output; gives what it has said since.
    pub fn end(mut self) -> (ExitStatus, String) {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        let status = self.child.wait().unwrap();
        for worker in &self.seen {
            assert!(!exists(*worker), "a worker process is left");
        }
        (status, rest)
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        // One that a test has left, as it failed, must not stay.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
