//! Which backend a program has, and who says so.

use super::*;

pub const SCENARIOS: &[Scenario] = &[
    scenario!(false, &[], without_init_there_are_no_process_workers),
    scenario!(
        false,
        &[],
        what_is_printed_before_init_is_an_error_that_says_so
    ),
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
];

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

mod what_is_printed_before_init_is_an_error_that_says_so {
    use super::*;
    use freethreading::WorkerPoolExecutor;

    pub fn main() {
        println!("main begins");
        freethreading::init();
        let executor = WorkerPoolExecutor::builder().backend(Backend::Multiprocessing);
        let error = executor
            .build()
            .unwrap()
            .submit(|| ())
            .result()
            .unwrap_err()
            .to_string();
        assert!(error.contains("main begins"), "{error}");
        assert!(error.contains("before `freethreading::init()`"), "{error}");
    }

    pub fn check(program: Program) {
        program.run().said("main begins\n");
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
