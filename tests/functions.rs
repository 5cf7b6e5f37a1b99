//! What is known of workers, in a program that has many: the rest is counted in programs of its own.

mod common;

use std::{collections::HashSet, thread};

use common::{Scratch, Sign, eventually, runs, signal, watched};
use freethreading::{
    Backend, Error, Worker, WorkerPoolExecutor, active_children, active_count, current_worker,
    enumerate, get_backend, get_ident, task,
};

freethreading::init_tests!();

/// What a worker says of itself.
fn describe() -> String {
    let this = current_worker();
    format!(
        "{:?} {:?} {} {}",
        this.name(),
        this.ident(),
        this.daemon(),
        this.is_alive()
    )
}

fn describe_and_wait(told: Sign, end: Sign) {
    told.tell(describe());
    end.wait();
}

fn wait(begun: Sign, end: Sign) {
    begun.give();
    end.wait();
}

#[test]
fn a_backend_is_told_by_its_name() {
    for backend in Backend::ALL {
        assert_eq!(backend.to_string().parse::<Backend>().unwrap(), backend);
    }
    for wrong in ["", "fork", "Threading"] {
        let error = wrong.parse::<Backend>().unwrap_err();
        assert!(matches!(error, Error::InvalidArgument(_)), "{error:?}");
        // Nobody has looked into the environment.
        let text = error.to_string();
        assert!(!text.contains("FREETHREADING_BACKEND"), "{text}");
        for part in [&*format!("`{wrong}`"), "`threading`", "`multiprocessing`"] {
            assert!(text.contains(part), "{text}");
        }
    }
}

freethreading::test_backends! {
    #[test]
    fn a_worker_knows_itself_as_its_handle_does() {
        watched(|| {
            for (name, daemon) in [("", false), ("Ada", true)] {
                let scratch = Scratch::new();
                let (told, end) = (scratch.sign("told"), scratch.sign("end"));
                let worker = Worker::new(task!(describe_and_wait(told.clone(), end.clone())))
                    .with_name(name)
                    .with_daemon(daemon);
                worker.start().unwrap();
                let of_handle = format!("{:?} {:?} {daemon} true", worker.name(), worker.ident());
                assert_eq!(told.hear(), of_handle);
                end.give();
                worker.join().unwrap();
            }
        });
    }

    #[test]
    fn an_ident_is_positive_and_stays() {
        let ident = get_ident();
        assert!(ident > 0);
        assert_eq!(get_ident(), ident);
        assert_eq!(current_worker().ident(), Some(ident));
    }

    #[test]
    fn an_executors_workers_know_themselves() {
        watched(|| {
            let executor = WorkerPoolExecutor::new(3).unwrap();
            let scratch = Scratch::new();
            let go = scratch.sign("go");
            fn wait_and_describe(begun: Sign, go: Sign) -> (String, u64, bool, bool) {
                begun.note("");
                go.wait();
                let this = current_worker();
                let itself = active_children().contains(&this);
                (this.name(), get_ident(), this.daemon(), itself)
            }
            let begun = scratch.sign("begun");
            let futures: Vec<_> = (0..3)
                .map(|_| executor.submit(task!(wait_and_describe(begun.clone(), go.clone()))))
                .collect();
            eventually("all run", || begun.notes().len() == 3);
            go.give();
            let workers: Vec<_> = futures.iter().map(|future| future.result().unwrap()).collect();
            let names: HashSet<_> = workers.iter().map(|(name, ..)| name.clone()).collect();
            let idents: HashSet<_> = workers.iter().map(|(_, ident, ..)| *ident).collect();
            assert_eq!((names.len(), idents.len()), (3, 3), "{workers:?}");
            assert!(!names.contains(""));
            assert!(workers.iter().all(|(_, _, daemon, itself)| !daemon && !itself));
            // Here they are known by the same names and idents, and go by them as long as they live.
            for _ in 0..10 {
                let name = executor.submit(|| current_worker().name()).result().unwrap();
                assert!(names.contains(&name));
            }
            let here: HashSet<_> = active_children()
                .into_iter()
                .filter(|child| names.contains(&child.name()))
                .map(|child| child.ident().unwrap())
                .collect();
            assert_eq!(here, idents);
            executor.shutdown(true, false);
            assert!(!active_children().iter().any(|child| names.contains(&child.name())));
        });
    }

    #[test]
    fn the_backend_is_the_same_for_all_who_ask() {
        watched(|| {
            let backend = get_backend().unwrap();
            assert_eq!(get_backend().unwrap(), backend);
            let executor = WorkerPoolExecutor::new(1).unwrap();
            assert_eq!(executor.backend(), backend);
            assert_eq!(executor.submit(|| get_backend().unwrap()).result().unwrap(), backend);
            fn of_worker(told: Sign) {
                told.tell(get_backend().unwrap());
            }
            let scratch = Scratch::new();
            let told = scratch.sign("told");
            let worker = Worker::new(task!(of_worker(told.clone())));
            worker.start().unwrap();
            worker.join().unwrap();
            assert_eq!(told.hear(), backend.to_string());
        });
    }

    #[test]
    fn workers_are_listed_while_they_run() {
        watched(|| {
            let scratch = Scratch::new();
            let (begun, end) = (scratch.sign("begun"), scratch.sign("end"));
            let worker = Worker::new(task!(wait(begun.clone(), end.clone())));
            assert!(!active_children().contains(&worker));
            worker.start().unwrap();
            begun.wait();
            assert!(active_children().contains(&worker));
            assert!(enumerate().contains(&worker));
            assert!(!active_children().contains(&current_worker()));
            assert!(enumerate().contains(&current_worker()));
            assert!(active_count() >= 2);
            end.give();
            worker.join().unwrap();
            assert!(!active_children().contains(&worker));
            assert!(!enumerate().contains(&worker));
        });
    }

    #[test]
    fn a_listed_worker_can_be_joined() {
        watched(|| {
            let scratch = Scratch::new();
            let (begun, end) = (scratch.sign("begun"), scratch.sign("end"));
            Worker::new(task!(wait(begun.clone(), end.clone())))
                .with_name("listed")
                .start()
                .unwrap();
            let listed = active_children();
            let backend = get_backend().unwrap();
            // The tests of both backends have one of that name.
            let listed = listed.iter().find(|child| {
                let process = child.ident().unwrap() < 1 << 32;
                child.name() == "listed" && process == (backend == Backend::Multiprocessing)
            });
            let listed = listed.unwrap().clone();
            end.give();
            listed.join().unwrap();
            assert!(!active_children().contains(&listed));
        });
    }

    #[test]
    fn a_joined_worker_is_never_listed() {
        watched(|| {
            for _ in 0..100 {
                let worker = Worker::new(|| ());
                worker.start().unwrap();
                worker.join().unwrap();
                assert!(!enumerate().contains(&worker));
                assert!(!active_children().contains(&worker));
                assert!(!worker.is_alive());
            }
        });
    }

    #[test]
    fn a_worker_that_nobody_joins_is_not_listed_after_its_end() {
        watched(|| {
            let ends = [Worker::new(|| ()), Worker::new(|| -> () { panic!("the end") })];
            for worker in ends {
                worker.start().unwrap();
                eventually("it is not listed", || !active_children().contains(&worker));
                assert!(!worker.is_alive());
                assert!(!enumerate().contains(&worker));
            }
        });
    }

    #[test]
    fn the_lists_agree_while_workers_come_and_go() {
        watched(|| {
            thread::scope(|scope| {
                let coming_and_going: Vec<_> = (0..2)
                    .map(|_| {
                        let backend = get_backend().unwrap();
                        scope.spawn(move || {
                            for _ in 0..50 {
                                let worker = Worker::new(|| ()).backend(backend);
                                worker.start().unwrap();
                                worker.join().unwrap();
                            }
                        })
                    })
                    .collect();
                while coming_and_going.iter().any(|one| !one.is_finished()) {
                    let all = enumerate();
                    let distinct: HashSet<_> = all.iter().map(|worker| worker.ident()).collect();
                    assert_eq!(distinct.len(), all.len(), "{all:?}");
                    assert!(all.contains(&current_worker()));
                    assert!(!active_children().contains(&current_worker()));
                }
            });
        });
    }
}

#[test]
fn a_killed_worker_that_nobody_joins_is_not_listed_and_no_zombie() {
    watched(|| {
        let worker = Worker::new(|| -> () {
            loop {
                std::hint::spin_loop()
            }
        })
        .backend(Backend::Multiprocessing);
        worker.start().unwrap();
        let pid = worker.ident().unwrap() as u32;
        assert!(runs(pid));
        assert!(active_children().contains(&worker));
        signal(pid, libc::SIGKILL);
        eventually("it is not listed", || !active_children().contains(&worker));
        assert!(!worker.is_alive());
        assert!(!common::exists(pid));
    });
}

#[test]
fn the_ident_of_a_process_worker_is_its_process_id() {
    watched(|| {
        let executor = common::processes(1);
        let (ident, pid) = executor
            .submit(|| (get_ident(), std::process::id()))
            .result()
            .unwrap();
        assert_eq!(ident, u64::from(pid));
    });
}
