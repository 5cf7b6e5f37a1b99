//! Which workers a program sees.

use super::*;

pub const SCENARIOS: &[Scenario] = &[
    scenario!(true, &Backend::ALL, workers_are_counted),
    scenario!(true, &Backend::ALL, executors_workers_are_counted),
    scenario!(true, &Backend::ALL, the_main_worker_has_its_name),
    scenario!(
        true,
        &Backend::ALL,
        threads_of_others_are_counted_only_for_themselves
    ),
];

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
