//! What a worker process wrote to its standard error before it died is in the error.

mod common;

use std::{
    io::Write,
    process::{Command, Stdio},
};

use common::{Scratch, Sign, death, processes, signal, watched};
use freethreading::{Backend, Worker, WorkerPoolExecutor, task};

freethreading::init_tests!();

fn say_and_abort(text: String) {
    std::io::stderr().write_all(text.as_bytes()).unwrap();
    std::process::abort();
}

#[test]
fn the_last_lines_are_in_the_error() {
    watched(|| {
        let executor = processes(1);
        for _ in 0..5 {
            let text: String = (0..20).map(|n| format!("word {n}\n")).collect();
            let died = death(executor.submit(task!(say_and_abort(text))).result());
            let expected: Vec<_> = (10..20).map(|n| format!("word {n}")).collect();
            assert_eq!(died.stderr(), expected.join("\n"));
            assert!(died.to_string().ends_with("word 18\nword 19"), "{died}");
        }
    });
}

#[test]
fn a_worker_may_have_said_nothing_or_half_a_line() {
    watched(|| {
        let executor = processes(1);
        let silent = death(
            executor
                .submit(task!(say_and_abort(String::new())))
                .result(),
        );
        assert_eq!(silent.stderr(), "");
        assert!(silent.to_string().ends_with("may have run"), "{silent}");
        let half = death(
            executor
                .submit(task!(say_and_abort("no end".to_string())))
                .result(),
        );
        assert_eq!(half.stderr(), "no end");
    });
}

#[test]
fn a_long_line_is_cut() {
    watched(|| {
        let text = "x".repeat(100_000) + "the end";
        let died = death(processes(1).submit(task!(say_and_abort(text))).result());
        assert!(died.stderr().ends_with("xthe end"));
        assert!(died.stderr().len() <= 4096);
    });
}

#[test]
fn a_message_of_the_system_is_there() {
    fn overflow() -> usize {
        vec![1u8; usize::MAX >> 1].len()
    }
    watched(|| {
        // Its message, without a backtrace below it.
        let executor = WorkerPoolExecutor::builder()
            .backend(Backend::Multiprocessing)
            .env("RUST_BACKTRACE", "0")
            .build()
            .unwrap();
        let died = death(executor.submit(overflow).result());
        assert!(died.stderr().contains("memory allocation"), "{died}");
    });
}

#[test]
fn another_process_that_has_it_open_holds_up_nothing() {
    fn leave_a_child(sign: Sign) {
        // The test ends it.
        #[expect(clippy::zombie_processes)]
        let child = Command::new("sleep")
            .arg("1000")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        sign.tell(child.id());
        say_and_abort("gone".into());
    }
    watched(|| {
        let scratch = Scratch::new();
        let sign = scratch.sign("child");
        let executor = processes(1);
        let died = death(executor.submit(task!(leave_a_child(sign.clone()))).result());
        assert_eq!(died.stderr(), "gone");
        assert_eq!(executor.submit(|| 7).result().unwrap(), 7);
        executor.shutdown(true, false);
        signal(sign.hear().parse().unwrap(), libc::SIGKILL);
    });
}

#[test]
fn a_worker_of_its_own_has_last_words_too() {
    watched(|| {
        let worker = Worker::new(task!(say_and_abort("farewell".to_string())))
            .backend(Backend::Multiprocessing);
        worker.start().unwrap();
        let error = worker.join().unwrap_err();
        assert!(error.to_string().ends_with("farewell"), "{error}");
    });
}
