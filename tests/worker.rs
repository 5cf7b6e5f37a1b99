//! One worker from its start to its end, which may be a violent one.

mod common;

use std::{
    collections::HashSet,
    fs::{self, File},
    os::{
        fd::{AsRawFd, IntoRawFd},
        unix::process::ExitStatusExt,
    },
    path::PathBuf,
    process,
    sync::{Mutex, OnceLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use common::{
    Scratch, Sign, eventually, exists, on_processes, runs, signal, takes_its_time, watched,
    ways::LONG,
};
use freethreading::{
    Backend, Death, Effect, Error, TaskError, Worker, WorkerDied, WorkerPoolExecutor,
    active_children, current_worker, get_backend, get_ident, task,
};
use futures::{FutureExt, executor::block_on};
use serde::{Deserialize, Serialize, Serializer};

freethreading::init_tests!();

type Join = fn(&Worker) -> Result<(), Error>;

fn join_in_tokio(worker: &Worker) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .unwrap();
    let worker = worker.clone();
    runtime.block_on(async {
        tokio::spawn(async move { worker.join_async().await })
            .await
            .unwrap()
    })
}

/// Makes a test of each way to wait for a worker, on each backend.
macro_rules! test_joins {
    ($(#[test] fn $name:ident($join:ident) $body:block)*) => {
        $(
            mod $name {
                use super::*;

                fn scenario($join: Join) {
                    watched(|| $body);
                }

                freethreading::test_backends! {
                    #[test]
                    fn join() {
                        scenario(Worker::join);
                    }

                    #[test]
                    fn join_timeout() {
                        scenario(|worker| worker.join_timeout(LONG));
                    }

                    #[test]
                    fn join_async() {
                        scenario(|worker| block_on(worker.join_async()));
                    }

                    #[test]
                    fn join_in_tokio() {
                        scenario(super::join_in_tokio);
                    }
                }
            }
        )*
    };
}

fn give(sign: Sign) {
    sign.give();
}

/// Gives a sign, and waits for another.
fn tell_and_wait(tell: Sign, wait: Sign) {
    tell.give();
    wait.wait();
}

/// A worker that was started and runs until it is told to end.
struct Waiting {
    worker: Worker,
    end: Sign,
    _scratch: Scratch,
}

impl Waiting {
    fn start() -> Waiting {
        Waiting::prepared(|worker| worker)
    }

    fn prepared(prepare: impl FnOnce(Worker) -> Worker) -> Waiting {
        let scratch = Scratch::new();
        let (begun, end) = (scratch.sign("begun"), scratch.sign("end"));
        let worker = Worker::new(task!(tell_and_wait(begun.clone(), end.clone())));
        let worker = prepare(worker);
        worker.start().unwrap();
        begun.wait();
        Waiting {
            worker,
            end,
            _scratch: scratch,
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.end.give();
        let _ = self.worker.join();
    }
}

/// Works until it is killed.
fn spin() {
    loop {
        std::hint::spin_loop();
    }
}

/// Does nothing until it is killed.
fn idle() {
    loop {
        thread::park();
    }
}

fn pid_of(worker: &Worker) -> u32 {
    worker.ident().unwrap().try_into().unwrap()
}

// Start and join.

test_joins! {
    #[test]
    fn the_task_runs_once_with_its_arguments(join) {
        fn note(log: Sign, list: Vec<u8>, text: Option<String>) {
            log.note(format_args!("{list:?} {text:?}"));
        }
        let scratch = Scratch::new();
        let log = scratch.sign("log");
        let worker = Worker::new(task!(note(log.clone(), vec![1, 2], Some("text".to_string()))));
        worker.start().unwrap();
        join(&worker).unwrap();
        assert_eq!(log.notes(), [r#"[1, 2] Some("text")"#]);
    }

    #[test]
    fn join_waits_for_the_end(join) {
        fn wait_and_tell(wait: Sign, tell: Sign) {
            wait.wait();
            tell.give();
        }
        let scratch = Scratch::new();
        let (end, ended) = (scratch.sign("end"), scratch.sign("ended"));
        let worker = Worker::new(task!(wait_and_tell(end.clone(), ended.clone())));
        worker.start().unwrap();
        let joining = thread::spawn(move || {
            join(&worker).unwrap();
            ended.is_given()
        });
        end.give();
        assert!(joining.join().unwrap());
    }

    #[test]
    fn join_may_be_called_by_many_and_again(join) {
        let waiting = Waiting::start();
        let joins: Vec<_> = (0..6)
            .map(|_| {
                let worker = waiting.worker.clone();
                thread::spawn(move || join(&worker))
            })
            .collect();
        waiting.end.give();
        for one in joins {
            one.join().unwrap().unwrap();
        }
        join(&waiting.worker).unwrap();
        join(&waiting.worker).unwrap();
    }

    #[test]
    fn join_before_the_start_is_an_error(join) {
        let scratch = Scratch::new();
        let ran = scratch.sign("ran");
        let worker = Worker::new(task!(give(ran.clone())));
        assert_eq!(join(&worker), Err(Error::NotStarted));
        // It is as it was.
        worker.start().unwrap();
        join(&worker).unwrap();
        assert!(ran.is_given());
    }

    #[test]
    fn the_main_worker_cannot_be_joined(join) {
        assert_eq!(join(&current_worker()), Err(Error::JoinSelf));
        let main = freethreading::enumerate().swap_remove(0);
        assert_eq!(join(&main), Err(Error::JoinSelf));
    }

    #[test]
    fn a_panic_is_an_error_of_join(join) {
        fn divide(x: u32, y: u32) -> u32 {
            assert_ne!(y, 0, "cannot divide {x}");
            x / y
        }
        let line = line!() - 3;
        let worker = Worker::new(task!(divide(1, 0)));
        worker.start().unwrap();
        for _ in 0..2 {
            let error = join(&worker).unwrap_err();
            let Error::Task(TaskError::Panicked(panic)) = &error else {
                panic!("{error:?}");
            };
            assert!(panic.message().contains("cannot divide 1"), "{panic}");
            let location = panic.location().unwrap();
            assert!(location.starts_with(&format!("{}:{line}:", file!())), "{location}");
            assert!(error.to_string().contains(panic.message()), "{error}");
        }
        assert!(!worker.is_alive());
    }

    #[test]
    fn the_tasks_own_error_is_no_error_of_join(join) {
        fn fails() -> Result<(), String> {
            Err("no".into())
        }
        let worker = Worker::new(fails);
        worker.start().unwrap();
        join(&worker).unwrap();
    }
}

freethreading::test_backends! {
    #[test]
    fn nothing_runs_before_the_start() {
        watched(|| {
            let scratch = Scratch::new();
            let ran = scratch.sign("ran");
            let worker = Worker::new(task!(give(ran.clone())));
            assert!(!worker.is_alive());
            assert_eq!(worker.ident(), None);
            assert!(!active_children().contains(&worker));
            drop(worker);
            assert!(!ran.is_given());
        });
    }

    #[test]
    fn a_worker_is_alive_from_its_start_to_its_end() {
        watched(|| {
            let waiting = Waiting::start();
            assert!(waiting.worker.is_alive());
            waiting.end.give();
            waiting.worker.join().unwrap();
            assert!(!waiting.worker.is_alive());
        });
    }

    #[test]
    fn a_worker_starts_once() {
        fn note_and_wait(log: Sign, end: Sign) {
            log.note("ran");
            end.wait();
        }
        watched(|| {
            let scratch = Scratch::new();
            let (log, end) = (scratch.sign("log"), scratch.sign("end"));
            let worker = Worker::new(task!(note_and_wait(log.clone(), end.clone())));
            worker.start().unwrap();
            log.wait();
            assert!(matches!(worker.start(), Err(Error::AlreadyStarted)));
            assert!(worker.is_alive());
            end.give();
            worker.join().unwrap();
            assert!(matches!(worker.start(), Err(Error::AlreadyStarted)));
            assert!(matches!(worker.clone().start(), Err(Error::AlreadyStarted)));
            assert_eq!(log.notes(), ["ran"]);
        });
    }

    #[test]
    fn of_many_that_start_a_worker_one_does() {
        watched(|| {
            let scratch = Scratch::new();
            let log = scratch.sign("log");
            fn note(log: Sign) {
                log.note("ran");
            }
            let worker = Worker::new(task!(note(log.clone())));
            let starts = thread::scope(|scope| {
                let starts = [(); 8].map(|()| scope.spawn(|| worker.start().is_ok()));
                starts.map(|start| start.join().unwrap())
            });
            assert_eq!(starts.into_iter().filter(|started| *started).count(), 1);
            worker.join().unwrap();
            assert_eq!(log.notes(), ["ran"]);
        });
    }

    #[test]
    fn a_worker_cannot_wait_for_itself() {
        fn tell_outcomes(told: Sign) {
            let this = current_worker();
            let outcomes = [
                this.join(),
                this.join_timeout(LONG),
                block_on(this.join_async()),
            ];
            told.tell(outcomes.iter().all(|outcome| *outcome == Err(Error::JoinSelf)));
        }
        watched(|| {
            let scratch = Scratch::new();
            let told = scratch.sign("told");
            let worker = Worker::new(task!(tell_outcomes(told.clone())));
            worker.start().unwrap();
            worker.join().unwrap();
            assert_eq!(told.hear(), "true");
        });
    }
}

#[test]
fn what_encodes_an_argument_may_ask_for_its_worker() {
    /// What is said to who asks while it is encoded.
    static SAID: Mutex<Vec<Error>> = Mutex::new(Vec::new());
    static WORKER: OnceLock<Worker> = OnceLock::new();

    #[derive(Deserialize)]
    struct Asking;

    impl Serialize for Asking {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let worker = WORKER.get().unwrap();
            let said = [
                worker.join_timeout(LONG),
                worker.terminate(),
                worker.set_daemon(true),
                worker.start(),
            ];
            *SAID.lock().unwrap() = said.map(Result::unwrap_err).into();
            ().serialize(serializer)
        }
    }

    fn ignore(_: Asking) {}

    watched(|| {
        let worker = Worker::new(task!(ignore(Asking))).backend(Backend::Multiprocessing);
        WORKER.set(worker.clone()).unwrap();
        worker.start().unwrap();
        worker.join().unwrap();
        assert_eq!(
            *SAID.lock().unwrap(),
            [
                Error::NotStarted,
                Error::NotStarted,
                Error::AlreadyStarted,
                Error::AlreadyStarted,
            ]
        );
    });
}

freethreading::test_backends! {
    #[test]
    fn a_join_that_runs_out_of_time_leaves_the_worker_alone() {
        watched(|| {
            let waiting = Waiting::start();
            let worker = &waiting.worker;
            assert!(matches!(worker.join_timeout(Duration::ZERO), Err(Error::Timeout)));
            let early = takes_its_time(|limit| worker.join_timeout(limit));
            assert!(matches!(early, Err(Error::Timeout)), "{early:?}");
            assert!(worker.is_alive());
            waiting.end.give();
            worker.join().unwrap();
            worker.join_timeout(Duration::ZERO).unwrap();
        });
    }

    #[test]
    fn the_longest_timeout_is_no_mistake() {
        watched(|| {
            let waiting = Waiting::start();
            waiting.end.give();
            waiting.worker.join_timeout(Duration::MAX).unwrap();
        });
    }

    #[test]
    fn an_async_join_that_is_dropped_leaves_the_worker_alone() {
        watched(|| {
            let waiting = Waiting::start();
            let worker = &waiting.worker;
            for _ in 0..3 {
                assert!(worker.join_async().now_or_never().is_none());
            }
            assert!(worker.is_alive());
            let mut kept = Box::pin(worker.join_async());
            assert!(kept.as_mut().now_or_never().is_none());
            waiting.end.give();
            block_on(worker.join_async()).unwrap();
            block_on(kept).unwrap();
            assert!(worker.join_async().now_or_never().unwrap().is_ok());
        });
    }

    #[test]
    fn an_async_join_wakes_whoever_polled_it_last() {
        use std::{pin::pin, task::Context};

        watched(|| {
            let waiting = Waiting::start();
            let mut join = pin!(waiting.worker.join_async());
            let nobody = futures::task::noop_waker();
            assert!(join.as_mut().poll(&mut Context::from_waker(&nobody)).is_pending());
            thread::scope(|scope| {
                let (polled, is_polled) = mpsc::channel::<()>();
                let join = scope.spawn(move || {
                    let mut polled = Some(polled);
                    block_on(std::future::poll_fn(|context| {
                        let poll = join.as_mut().poll(context);
                        drop(polled.take());
                        poll
                    }))
                });
                assert!(is_polled.recv().is_err());
                waiting.end.give();
                join.join().unwrap().unwrap();
            });
        });
    }

    #[test]
    fn threads_of_others_start_and_join_workers() {
        watched(|| {
            let backend = get_backend().unwrap();
            let by_thread = thread::spawn(move || {
                let worker = Worker::new(|| ()).backend(backend);
                worker.start().unwrap();
                worker.join()
            });
            by_thread.join().unwrap().unwrap();

            let runtime = tokio::runtime::Runtime::new().unwrap();
            let in_task = runtime.spawn(async move {
                let worker = Worker::new(|| ()).backend(backend);
                worker.start().unwrap();
                worker.join_async().await
            });
            runtime.block_on(in_task).unwrap().unwrap();

            smol::block_on(async {
                let worker = Worker::new(|| ());
                worker.start().unwrap();
                worker.join_async().await
            }).unwrap();
        });
    }

    #[test]
    fn a_worker_whose_handle_is_dropped_goes_on() {
        watched(|| {
            let scratch = Scratch::new();
            let (begun, end, ended) = (scratch.sign("begun"), scratch.sign("end"), scratch.sign("ended"));
            fn work(begun: Sign, end: Sign, ended: Sign) {
                tell_and_wait(begun, end);
                ended.give();
            }
            let worker = Worker::new(task!(work(begun.clone(), end.clone(), ended.clone())));
            worker.start().unwrap();
            drop(worker);
            begun.wait();
            end.give();
            ended.wait();
        });
    }

    #[test]
    fn workers_start_and_end_in_great_numbers() {
        watched(|| {
            let scratch = Scratch::new();
            let log = scratch.sign("log");
            fn note(log: Sign, number: usize) {
                log.note(number);
            }
            let workers: Vec<_> = (0..100)
                .map(|number| Worker::new(task!(note(log.clone(), number))))
                .collect();
            for worker in &workers {
                worker.start().unwrap();
            }
            for worker in &workers {
                worker.join().unwrap();
            }
            let mut numbers: Vec<usize> = log.notes().iter().map(|note| note.parse().unwrap()).collect();
            numbers.sort_unstable();
            assert!(numbers.into_iter().eq(0..100));
            let children = active_children();
            assert!(workers.iter().all(|worker| !children.contains(worker)));
        });
    }

    #[test]
    fn workers_start_workers_which_start_workers() {
        fn descend(log: Sign, path: Vec<u8>) {
            log.note(format_args!("{path:?}"));
            if path.len() == 2 {
                return;
            }
            for step in 0..2 {
                let path = [&path[..], &[step]].concat();
                let worker = Worker::new(task!(descend(log.clone(), path)));
                worker.start().unwrap();
                worker.join().unwrap();
            }
        }
        watched(|| {
            let scratch = Scratch::new();
            let log = scratch.sign("log");
            let worker = Worker::new(task!(descend(log.clone(), vec![])));
            worker.start().unwrap();
            worker.join().unwrap();
            assert_eq!(
                log.notes(),
                ["[]", "[0]", "[0, 0]", "[0, 1]", "[1]", "[1, 0]", "[1, 1]"]
            );
        });
    }

    #[test]
    fn daemons_may_have_workers() {
        fn have_worker(told: Sign) {
            let worker = Worker::new(task!(give(told)));
            worker.start().unwrap();
            worker.join().unwrap();
        }
        watched(|| {
            let scratch = Scratch::new();
            let told = scratch.sign("told");
            let worker = Worker::new(task!(have_worker(told.clone()))).with_daemon(true);
            worker.start().unwrap();
            worker.join().unwrap();
            assert!(told.is_given());
        });
    }

    #[test]
    fn large_arguments_arrive_whole() {
        fn measure(bytes: serde_bytes::ByteBuf, told: Sign) {
            let sum: u64 = bytes.iter().map(|byte| u64::from(*byte)).sum();
            told.tell(format_args!("{} {sum}", bytes.len()));
        }
        watched(|| {
            let scratch = Scratch::new();
            let workers: Vec<_> = [1usize << 20, 16 << 20, (1 << 20) + 1]
                .into_iter()
                .map(|len| {
                    let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
                    let sum: u64 = bytes.iter().map(|byte| u64::from(*byte)).sum();
                    let told = scratch.sign(&len.to_string());
                    let worker = Worker::new(task!(measure(bytes.into(), told.clone())));
                    worker.start().unwrap();
                    (worker, told, format!("{len} {sum}"))
                })
                .collect();
            for (worker, told, expected) in workers {
                worker.join().unwrap();
                assert_eq!(told.hear(), expected);
            }
        });
    }

    #[test]
    fn a_large_result_that_nobody_wants_does_no_harm() {
        fn large() -> Vec<u64> {
            vec![7; 1 << 20]
        }
        watched(|| {
            let worker = Worker::new(large);
            worker.start().unwrap();
            worker.join().unwrap();
        });
    }
}

// Name, daemon flag, ident.

freethreading::test_backends! {
    #[test]
    fn a_name_is_what_it_was_set_to() {
        watched(|| {
            let waiting = Waiting::prepared(|worker| worker.with_name("first"));
            assert_eq!(waiting.worker.name(), "first");
            waiting.worker.set_name("second");
            assert_eq!(waiting.worker.clone().name(), "second");
            waiting.end.give();
            waiting.worker.join().unwrap();
            waiting.worker.set_name("third");
            assert_eq!(waiting.worker.name(), "third");
        });
    }

    #[test]
    fn default_names_are_unique_and_their_numbers_grow() {
        let names: Vec<String> = (0..10).map(|_| Worker::new(|| ()).name()).collect();
        let prefix = if on_processes() { "Process-" } else { "Thread-" };
        let numbers: Vec<u64> = names
            .iter()
            .map(|name| name.strip_prefix(prefix).unwrap().parse().unwrap())
            .collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "{names:?}");
    }

    #[test]
    fn an_empty_name_means_the_default_one() {
        let worker = Worker::new(|| ());
        let default = worker.name();
        let worker = worker.with_name("x").with_name("");
        assert_eq!(worker.name(), default);
        worker.set_name("y");
        worker.set_name("");
        assert_eq!(worker.name(), default);
    }

    #[test]
    fn any_text_is_a_name() {
        watched(|| {
            let scratch = Scratch::new();
            for (i, name) in ["a\0b", "日本", " ", "a\nb", &"long".repeat(5000)].into_iter().enumerate() {
                let told = scratch.sign(&i.to_string());
                fn tell_name(told: Sign) {
                    told.tell(current_worker().name());
                }
                let worker = Worker::new(task!(tell_name(told.clone()))).with_name(name);
                assert_eq!(worker.name(), name);
                worker.start().unwrap();
                worker.join().unwrap();
                assert_eq!(told.hear(), name);
            }
        });
    }

    #[test]
    fn the_daemon_flag_is_settled_by_the_start() {
        watched(|| {
            let waiting = Waiting::prepared(|worker| {
                assert!(!worker.daemon());
                worker.set_daemon(true).unwrap();
                assert!(worker.daemon());
                worker.set_daemon(false).unwrap();
                worker.with_daemon(true)
            });
            assert!(waiting.worker.daemon());
            assert!(waiting.worker.clone().with_daemon(false).daemon());
            assert!(matches!(waiting.worker.set_daemon(false), Err(Error::AlreadyStarted)));
            waiting.end.give();
            waiting.worker.join().unwrap();
            assert!(matches!(waiting.worker.set_daemon(false), Err(Error::AlreadyStarted)));
            assert!(waiting.worker.daemon());
        });
    }

    #[test]
    fn idents_of_running_workers_differ() {
        watched(|| {
            let running: Vec<_> = (0..5).map(|_| Waiting::start()).collect();
            let mut idents: Vec<u64> = running.iter().map(|one| one.worker.ident().unwrap()).collect();
            idents.push(get_ident());
            assert!(idents.iter().all(|ident| *ident > 0));
            let distinct: HashSet<_> = idents.iter().collect();
            assert_eq!(distinct.len(), idents.len(), "{idents:?}");
            if on_processes() {
                for one in &running {
                    assert!(common::children().contains(&pid_of(&one.worker)));
                }
            }
        });
    }

    #[test]
    fn handles_of_one_worker_are_equal() {
        let (one, other) = (Worker::new(|| ()), Worker::new(|| ()));
        assert_eq!(one, one.clone());
        assert_ne!(one, other);
        // What a handle tells changes, which worker it is of does not.
        #[expect(clippy::mutable_key_type, reason = "the hash is that of which worker it is")]
        let workers = HashSet::from([one.clone(), other.clone()]);
        let _ = one.clone().with_name("renamed");
        assert!(workers.contains(&one) && workers.contains(&other.clone()));
        assert!(!workers.contains(&Worker::new(|| ())));
    }

    #[test]
    fn the_debug_form_tells_the_state() {
        watched(|| {
            let worker = Worker::new(|| ()).with_name("Ada");
            assert!(format!("{worker:?}").contains("not started"), "{worker:?}");
            let waiting = Waiting::prepared(|worker| worker.with_name("Ada").with_daemon(true));
            let running = format!("{:?}", waiting.worker);
            assert!(running.contains("Ada") && running.contains("running"), "{running}");
            assert!(running.contains("daemon: true"), "{running}");
            waiting.end.give();
            waiting.worker.join().unwrap();
            assert!(format!("{:?}", waiting.worker).contains("ended"));
        });
    }
}

#[test]
fn an_explicit_backend_wins_over_the_default_and_stays() {
    watched(|| {
        for default in Backend::ALL {
            default.scope(|| {
                let scratch = Scratch::new();
                let told = scratch.sign("pid");
                fn tell_pid(told: Sign) {
                    told.tell(process::id());
                }
                let worker = Worker::new(task!(tell_pid(told.clone())))
                    .backend(Backend::Threading)
                    .backend(Backend::Multiprocessing);
                worker.start().unwrap();
                worker.join().unwrap();
                assert_eq!(told.hear(), process::id().to_string());

                let told = scratch.sign("another pid");
                let worker =
                    Worker::new(task!(tell_pid(told.clone()))).backend(Backend::Multiprocessing);
                worker.start().unwrap();
                worker.join().unwrap();
                assert_eq!(told.hear(), worker.ident().unwrap().to_string());
                assert_ne!(told.hear(), process::id().to_string());
            });
        }
    });
}

#[test]
fn handles_and_their_futures_may_go_to_other_threads() {
    fn check<T: Send + Sync + Clone + 'static>(_: &T) {}
    fn check_future(_: &(impl Future + Send)) {}
    let worker = Worker::new(|| ());
    check(&worker);
    check_future(&worker.join_async());
}

// Panics of all kinds.

/// What a worker says that runs this function.
fn panic_of(function: impl Fn() + Send + Sync + 'static) -> freethreading::Panic {
    watched(|| {
        let worker = Worker::new(function);
        worker.start().unwrap();
        match worker.join() {
            Err(Error::Task(TaskError::Panicked(panic))) => panic,
            other => panic!("it did not panic: {other:?}"),
        }
    })
}

/// Panics when it is dropped.
#[derive(Serialize, Deserialize)]
struct Grenade;

impl Drop for Grenade {
    fn drop(&mut self) {
        panic!("the grenade went off");
    }
}

freethreading::test_backends! {
    #[test]
    fn panics_with_plain_formatted_and_other_payloads() {
        assert_eq!(panic_of(|| panic!("plain")).message(), "plain");
        assert_eq!(panic_of(|| panic!("formatted {}", 1)).message(), "formatted 1");
        assert_eq!(panic_of(|| std::panic::panic_any(5u8)).message(), "a payload that is not a string");
        let unwrapped = panic_of(|| { let _: u8 = "x".parse().unwrap(); });
        assert!(unwrapped.message().contains("on an `Err` value: ParseIntError"), "{unwrapped}");
    }

    #[test]
    fn a_panic_that_went_through_the_tasks_own_hands() {
        let panic = panic_of(|| {
            let first = std::panic::catch_unwind(|| panic!("first")).unwrap_err();
            let _ = std::panic::catch_unwind(|| panic!("second"));
            std::panic::resume_unwind(first);
        });
        assert_eq!(panic.message(), "first");
    }

    #[test]
    fn a_panic_that_the_task_caught_is_none() {
        watched(|| {
            let worker = Worker::new(|| {
                let _ = std::panic::catch_unwind(|| panic!("caught"));
            });
            worker.start().unwrap();
            worker.join().unwrap();
        });
    }

    #[test]
    fn a_panic_in_an_arguments_destructor_is_the_tasks() {
        watched(|| {
            let grenade = Grenade;
            let worker = Worker::new(task!(|grenade| {
                let _armed = grenade;
            }));
            // A process worker gets a copy, and the original goes off here.
            let started = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| worker.start()));
            match started {
                Ok(started) => started.unwrap(),
                Err(_) => panic!("a destructor's panic came out of start"),
            }
            let error = worker.join().unwrap_err();
            assert!(matches!(&error, Error::Task(TaskError::Panicked(panic)) if panic.message().contains("grenade")), "{error:?}");
        });
    }

    #[test]
    fn a_panic_in_a_results_destructor_ends_there() {
        watched(|| {
            let worker = Worker::new(|| Grenade);
            worker.start().unwrap();
            let _ = worker.join();
            assert!(!worker.is_alive());
            assert!(!active_children().contains(&worker));
        });
    }
}

// Workers that do not end well: only processes survive that in one piece.

/// A process worker.
fn process_worker<M>(task: impl freethreading::IntoTask<M>) -> Worker {
    Worker::new(task).backend(Backend::Multiprocessing)
}

/// How a process worker dies that runs the task.
fn death_in<M>(task: impl freethreading::IntoTask<M>) -> WorkerDied {
    watched(|| {
        let worker = process_worker(task);
        worker.start().unwrap();
        death_of(&worker)
    })
}

/// Joins a worker that must have died, in all ways; says how.
fn death_of(worker: &Worker) -> WorkerDied {
    let died = match worker.join() {
        Err(Error::Task(TaskError::WorkerDied(died))) => died,
        other => panic!("it did not die: {other:?}"),
    };
    for again in [
        worker.join(),
        worker.join_timeout(LONG),
        block_on(worker.join_async()),
    ] {
        assert_eq!(
            again.unwrap_err().to_string(),
            Error::Task(TaskError::WorkerDied(died.clone())).to_string()
        );
    }
    assert_eq!(died.worker(), worker.name());
    assert_eq!(died.pid(), pid_of(worker));
    assert!(!worker.is_alive());
    assert!(!active_children().contains(worker));
    assert!(!exists(died.pid()), "the process is gone, not a zombie");
    died
}

#[test]
fn an_exit_in_a_task_is_the_death_of_its_worker() {
    fn exit(code: i32) {
        process::exit(code);
    }
    for code in [0, 1, 8, 255] {
        let died = death_in(task!(exit(code)));
        assert_eq!(died.death(), &Death::Exited(code));
        assert_eq!((died.exit_code(), died.signal()), (Some(code), None));
        assert_eq!(died.effect(), Effect::MayHaveRun);
        assert!(died.task().unwrap().ends_with("exit"), "{died}");
        let text = died.to_string();
        assert!(text.contains(&format!("code {code}")), "{text}");
        assert!(text.contains("may have run"), "{text}");
    }
}

#[test]
fn an_abort_in_a_task_is_the_death_of_its_worker() {
    let died = death_in(|| -> () { process::abort() });
    assert_eq!(died.signal(), Some(libc::SIGABRT));
    assert!(died.to_string().contains("SIGABRT"), "{died}");
}

#[test]
fn a_segmentation_fault_in_a_task_is_the_death_of_its_worker() {
    fn crash() {
        // SAFETY: it is not: nothing is mapped there, which is the point.
        unsafe { std::ptr::without_provenance_mut::<u8>(64).write_volatile(1) };
    }
    assert_eq!(death_in(crash).signal(), Some(libc::SIGSEGV));
}

#[test]
fn a_stack_overflow_in_a_task_is_the_death_of_its_worker() {
    fn sink(depth: u64) -> u64 {
        let ballast = std::hint::black_box([depth; 512]);
        match depth {
            u64::MAX => 0,
            _ => sink(depth + 1) + ballast[(depth % 512) as usize],
        }
    }
    let died = death_in(task!(sink(0)));
    assert!(
        matches!(died.signal(), Some(libc::SIGSEGV | libc::SIGABRT)),
        "{died}"
    );
}

#[test]
fn a_panic_during_a_panic_is_the_death_of_its_worker() {
    let died = death_in(|| -> () {
        let _grenade = Grenade;
        panic!("one at a time");
    });
    assert_eq!(died.signal(), Some(libc::SIGABRT));
}

#[test]
fn a_killed_worker_is_found_dead() {
    for number in [libc::SIGTERM, libc::SIGKILL, libc::SIGUSR1] {
        watched(|| {
            let scratch = Scratch::new();
            let (begun, never) = (scratch.sign("begun"), scratch.sign("never"));
            let worker = process_worker(task!(tell_and_wait(begun.clone(), never)));
            worker.start().unwrap();
            begun.wait();
            signal(pid_of(&worker), number);
            let died = death_of(&worker);
            assert_eq!(died.death(), &Death::Signaled(number));
            assert_eq!((died.exit_code(), died.signal()), (None, Some(number)));
            assert_eq!(died.effect(), Effect::MayHaveRun);
        });
    }
}

#[test]
fn a_killed_worker_wakes_all_who_wait_for_it() {
    watched(|| {
        let worker = process_worker(spin);
        worker.start().unwrap();
        let waits: [Join; 4] = [
            Worker::join,
            |worker| worker.join_timeout(LONG),
            |worker| block_on(worker.join_async()),
            join_in_tokio,
        ];
        let waits = waits.map(|wait| {
            let worker = worker.clone();
            thread::spawn(move || wait(&worker))
        });
        signal(pid_of(&worker), libc::SIGKILL);
        for wait in waits {
            assert!(matches!(
                wait.join().unwrap(),
                Err(Error::Task(TaskError::WorkerDied(_)))
            ));
        }
    });
}

#[test]
fn a_worker_killed_at_any_moment_of_its_start_is_found_dead() {
    watched(|| {
        for delay in 0..100 {
            let worker = process_worker(idle);
            worker.start().unwrap();
            // The process gets a little further each round.
            let start = Instant::now();
            while start.elapsed() < Duration::from_micros(delay * 20) {
                std::hint::spin_loop();
            }
            signal(pid_of(&worker), libc::SIGKILL);
            assert_eq!(death_of(&worker).signal(), Some(libc::SIGKILL));
        }
    });
}

#[test]
fn a_worker_killed_while_it_reads_a_large_argument_is_found_dead() {
    fn ignore(_: serde_bytes::ByteBuf) {
        spin();
    }
    watched(|| {
        for _ in 0..10 {
            let worker = process_worker(task!(ignore(vec![1; 16 << 20].into())));
            worker.start().unwrap();
            signal(pid_of(&worker), libc::SIGKILL);
            assert_eq!(death_of(&worker).signal(), Some(libc::SIGKILL));
        }
    });
}

#[test]
fn a_worker_that_ends_within_threads_of_its_own_is_found_dead() {
    let died = death_in(|| {
        thread::spawn(|| process::exit(3));
        spin();
    });
    assert_eq!(died.exit_code(), Some(3));
}

#[test]
fn a_task_may_close_the_standard_descriptors() {
    fn close_standard_descriptors() -> bool {
        for fd in 0..3 {
            // SAFETY: nothing of this process owns the standard descriptors.
            unsafe { libc::close(fd) };
        }
        println!("nobody hears this");
        eprintln!("nor this");
        true
    }
    watched(|| {
        let worker = process_worker(close_standard_descriptors);
        worker.start().unwrap();
        worker.join().unwrap();

        let executor = common::processes(1);
        assert!(
            executor
                .submit(close_standard_descriptors)
                .result()
                .unwrap()
        );
        // Files opened from now on take the places of the standard descriptors.
        let next = executor.submit(|| {
            let file = File::open("/dev/null").unwrap();
            let number = file.as_raw_fd();
            println!("nobody hears this");
            number
        });
        assert_eq!(next.result().unwrap(), 0);
        let large = executor.submit(|| vec![1u8; 1 << 20].len());
        assert_eq!(large.result().unwrap(), 1 << 20);
    });
}

#[test]
fn a_task_may_close_descriptors_that_are_not_its_own() {
    /// As who closes one twice does.
    fn close_low_descriptors(path: PathBuf) -> i32 {
        for fd in 3..20 {
            // SAFETY: nothing of this process owns those that are free; whose the others are is the question.
            unsafe { libc::close(fd) };
        }
        File::create(path).unwrap().into_raw_fd()
    }
    watched(|| {
        let scratch = Scratch::new();
        let path = scratch.path().join("file");
        let worker = process_worker(task!(close_low_descriptors(path.clone())));
        worker.start().unwrap();
        worker.join().unwrap();

        let executor = common::processes(1);
        let fd = executor.submit(task!(close_low_descriptors(path.clone())));
        assert_eq!(fd.result().unwrap(), 3);
        for _ in 0..10 {
            executor.submit(|| ()).result().unwrap();
        }
        assert_eq!(block_on(executor.submit(|| 7)).unwrap(), 7);
        executor.shutdown(true, false);
        assert_eq!(fs::read(path).unwrap(), []);
    });
}

#[test]
fn programs_that_a_task_starts_heed_an_interrupt() {
    fn interrupt() -> Option<i32> {
        let status = process::Command::new("sh")
            .args(["-c", "kill -INT $$; exit 0"])
            .status();
        status.unwrap().signal()
    }
    watched(|| {
        let executor = WorkerPoolExecutor::builder().backend(Backend::Multiprocessing);
        let signal = executor.build().unwrap().submit(interrupt);
        assert_eq!(signal.result().unwrap(), Some(libc::SIGINT));
    });
}

#[test]
fn a_process_may_have_a_long_name() {
    fn len() -> usize {
        current_worker().name().len()
    }
    watched(|| {
        const LEN: usize = 100_000;

        let executor = WorkerPoolExecutor::builder()
            .name_prefix("n".repeat(LEN))
            .backend(Backend::Multiprocessing)
            .build()
            .unwrap();
        assert_eq!(executor.submit(len).result().unwrap(), LEN + 2);
    });
}

#[test]
fn a_marker_that_means_nothing_is_an_error() {
    let output = process::Command::new(std::env::current_exe().unwrap())
        .env("FREETHREADING_WORKER", "yes")
        .stdin(process::Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("FREETHREADING_WORKER is \"yes\""), "{error}");
}

// Terminate.

#[test]
fn terminate_kills_a_process_that_does_not_listen() {
    fn deaf(begun: Sign) {
        // SAFETY: they are signals, and ignoring one runs no code.
        unsafe {
            libc::signal(libc::SIGTERM, libc::SIG_IGN);
            libc::signal(libc::SIGINT, libc::SIG_IGN);
        }
        begun.give();
        spin();
    }
    watched(|| {
        let scratch = Scratch::new();
        let begun = scratch.sign("begun");
        let worker = process_worker(task!(deaf(begun.clone())));
        worker.start().unwrap();
        begun.wait();
        worker.terminate().unwrap();
        assert_eq!(death_of(&worker).signal(), Some(libc::SIGKILL));
    });
}

#[test]
fn terminate_right_after_the_start() {
    watched(|| {
        for _ in 0..30 {
            let worker = process_worker(spin);
            worker.start().unwrap();
            worker.terminate().unwrap();
            worker.terminate().unwrap();
            assert_eq!(death_of(&worker).signal(), Some(libc::SIGKILL));
        }
    });
}

#[test]
fn terminate_may_come_from_another_handle_and_thread() {
    watched(|| {
        let worker = process_worker(spin).with_name("to be terminated");
        worker.start().unwrap();
        thread::spawn(|| {
            let children = active_children();
            let found = children
                .iter()
                .find(|child| child.name() == "to be terminated");
            found.unwrap().terminate()
        })
        .join()
        .unwrap()
        .unwrap();
        assert_eq!(death_of(&worker).signal(), Some(libc::SIGKILL));
    });
}

#[test]
fn terminate_of_a_stopped_process() {
    watched(|| {
        let worker = process_worker(spin);
        worker.start().unwrap();
        signal(pid_of(&worker), libc::SIGSTOP);
        worker.terminate().unwrap();
        assert_eq!(death_of(&worker).signal(), Some(libc::SIGKILL));
    });
}

#[test]
fn terminate_leaves_what_has_ended_as_it_is() {
    watched(|| {
        let worker = process_worker(|| ());
        assert!(matches!(worker.terminate(), Err(Error::NotStarted)));
        worker.start().unwrap();
        worker.join().unwrap();
        worker.terminate().unwrap();
        worker.join().unwrap();
    });
}

#[test]
fn terminate_is_not_for_threads_nor_for_the_main_worker() {
    Backend::Threading.scope(|| {
        watched(|| {
            let waiting = Waiting::start();
            for worker in [&waiting.worker, &current_worker()] {
                let error = worker.terminate().unwrap_err();
                assert!(matches!(error, Error::Unsupported(_)), "{error:?}");
            }
            assert!(waiting.worker.is_alive());
        });
    });
}

#[test]
fn process_workers_are_killed_in_great_numbers() {
    watched(|| {
        let workers: Vec<_> = (0..100).map(|_| process_worker(idle)).collect();
        for worker in &workers {
            worker.start().unwrap();
        }
        for worker in &workers {
            worker.terminate().unwrap();
        }
        for worker in &workers {
            assert_eq!(death_of(worker).signal(), Some(libc::SIGKILL));
        }
    });
}

#[test]
fn a_process_goes_down_with_the_processes_that_it_started() {
    fn nest(pids: Sign, depth: u32) {
        pids.note(process::id());
        if depth > 0 {
            let worker = process_worker(task!(nest(pids, depth - 1)));
            worker.start().unwrap();
        }
        spin();
    }
    watched(|| {
        let scratch = Scratch::new();
        let pids = scratch.sign("pids");
        let worker = process_worker(task!(nest(pids.clone(), 3)));
        worker.start().unwrap();
        eventually("four processes", || pids.notes().len() == 4);
        worker.terminate().unwrap();
        assert_eq!(death_of(&worker).signal(), Some(libc::SIGKILL));
        for pid in pids.notes() {
            let pid = pid.parse().unwrap();
            eventually("the process is gone", || !runs(pid));
        }
    });
}

// What a worker process gets from its parent.

/// The open descriptors of this process.
fn descriptors_here() -> Vec<i32> {
    let mut numbers: Vec<i32> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(|entry| {
            entry
                .unwrap()
                .file_name()
                .to_string_lossy()
                .parse()
                .unwrap()
        })
        .collect();
    numbers.sort_unstable();
    numbers
}

#[test]
fn worker_processes_do_not_inherit_descriptors() {
    fn tell_and_keep(told: Sign, end: Sign) {
        told.tell(format_args!("{:?}", descriptors_here()));
        end.wait();
    }
    watched(|| {
        let file = File::open("/dev/null").unwrap();
        // SAFETY: the call takes no pointers.
        let high = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 600) };
        assert!(high >= 600);
        let scratch = Scratch::new();
        let end = scratch.sign("end");
        let workers: Vec<_> = (0..5)
            .map(|i| {
                let told = scratch.sign(&i.to_string());
                let worker = process_worker(task!(tell_and_keep(told.clone(), end.clone())));
                worker.start().unwrap();
                (worker, told)
            })
            .collect();
        let open: Vec<String> = workers.iter().map(|(_, told)| told.hear()).collect();
        end.give();
        for (worker, _) in workers {
            worker.join().unwrap();
        }
        // SAFETY: the descriptor was made above, and nothing else owns it.
        unsafe { libc::close(high) };
        assert!(open.iter().all(|one| *one == open[0]), "{open:?}");
        assert!(!open[0].contains(&high.to_string()), "{open:?}");
    });
}

#[test]
fn a_worker_process_waits_for_the_workers_that_it_started() {
    fn late(begin: Sign, ended: Sign) {
        begin.wait();
        ended.give();
    }
    fn parent(backend: Backend, returning: Sign, begin: Sign, ended: Sign) {
        Worker::new(task!(late(begin, ended)))
            .backend(backend)
            .start()
            .unwrap();
        returning.give();
    }
    watched(|| {
        for backend in Backend::ALL {
            let scratch = Scratch::new();
            let [returning, begin, ended] =
                ["returning", "begin", "ended"].map(|name| scratch.sign(name));
            let worker = process_worker(task!(parent(
                backend,
                returning.clone(),
                begin.clone(),
                ended.clone()
            )));
            worker.start().unwrap();
            returning.wait();
            begin.give();
            worker.join().unwrap();
            assert!(ended.is_given());
        }
    });
}

#[test]
fn a_worker_process_does_not_wait_for_bare_threads() {
    watched(|| {
        let worker = process_worker(|| {
            thread::spawn(spin);
        });
        worker.start().unwrap();
        worker.join().unwrap();
    });
}
