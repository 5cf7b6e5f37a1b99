//! An HTTP service whose worker processes die under load, run away and are too few: the example of that
//! name. Every request has exactly one answer.

mod common;

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, ScopedJoinHandle},
};

use common::{Random, children_of, eventually, examples::Example, runs, watched};
use freethreading::Backend;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// More than any test takes, in seconds.
const LONG: &str = "3600";

/// How many primes there are below.
const PRIMES: [(u32, u32); 4] = [(10, 4), (100, 25), (1000, 168), (2000, 303)];

struct Service {
    example: Example,
    address: SocketAddr,
}

impl Service {
    fn start(backend: Backend, workers: u32, arguments: &[&str]) -> Service {
        let workers = workers.to_string();
        let mut all = vec!["--address", "127.0.0.1:0", "--workers", &workers];
        all.extend(arguments);
        let mut example = Example::start("async_server", backend, &all);
        let address = example.line("listening on http://").parse().unwrap();
        Service { example, address }
    }

    /// Waits until so many requests wait for their tasks.
    fn wait_for(&self, waiting: usize) {
        eventually(&format!("{waiting} requests wait"), || {
            let status = get(self.address, "/status");
            assert_eq!(status.code, 200);
            status.text.parse::<usize>().unwrap() == waiting
        });
    }

    /// Waits for so many tasks that run away; gives their processes.
    fn runaways(&mut self, number: usize) -> Vec<u32> {
        let runaways = (0..number).map(|_| {
            let rest = self.example.line("process ");
            let pid = rest.strip_suffix(" runs away").unwrap();
            pid.parse().unwrap()
        });
        let runaways = runaways.collect();
        self.example.workers(); // It looks at them, to see them gone at the end.
        runaways
    }

    /// Tells it to stop; gives the number of requests that it says are under way.
    fn interrupt(&mut self) -> usize {
        self.example.interrupt();
        let rest = self.example.line("stopping within ");
        let number = rest.split(' ').find_map(|word| word.parse().ok());
        number.unwrap()
    }

    /// Waits until it has ended; whether it says that all was done.
    fn end(self) -> bool {
        let (status, said) = self.example.end();
        assert!(said.ends_with("stopped\n"), "{said}");
        status.success()
    }

    fn stop(mut self) {
        assert_eq!(self.interrupt(), 0);
        assert!(self.end());
    }
}

/// Kills a worker process of the service, if it still is one.
fn kill(service: u32, worker: u32) {
    let pid = Pid::from_raw(worker as i32).unwrap();
    // A number may be given to another process, a descriptor stays.
    let Ok(descriptor) = pidfd_open(pid, PidfdFlags::empty()) else {
        return;
    };
    if children_of(service).contains(&worker) {
        let _ = pidfd_send_signal(descriptor, Signal::KILL);
    }
}

#[derive(Clone, Debug)]
struct Answer {
    code: u16,
    text: String,
}

impl Answer {
    #[track_caller]
    fn is(&self, code: u16, text: &str) {
        assert!(self.code == code && self.text.contains(text), "{self:?}");
    }
}

/// A client with one connection.
struct Client(BufReader<TcpStream>);

impl Client {
    fn new(address: SocketAddr) -> Client {
        Client(BufReader::new(TcpStream::connect(address).unwrap()))
    }

    fn send(&mut self, path: &str, last: bool) {
        let connection = if last { "close" } else { "keep-alive" };
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: {connection}\r\n\r\n");
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
    }

    fn receive(&mut self) -> Answer {
        let mut line = || {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            line.strip_suffix("\r\n").expect("a whole line").to_string()
        };
        let status = line();
        let code = status.strip_prefix("HTTP/1.1 ").unwrap()[..3].parse();
        let mut len = None;
        loop {
            let header = line().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length:") {
                assert!(len.replace(value.trim().parse().unwrap()).is_none());
            }
        }
        let mut text = vec![0; len.expect("a length")];
        self.0.read_exact(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        Answer {
            code: code.unwrap(),
            text: text.trim_end().into(),
        }
    }

    fn ask(&mut self, path: &str) -> Answer {
        self.send(path, false);
        let answer = self.receive();
        // What comes without being asked for.
        assert_eq!(self.0.buffer(), b"");
        answer
    }

    /// Asks once more, after which the service has nothing else to say.
    fn ask_last(mut self, path: &str) -> Answer {
        self.send(path, true);
        self.last()
    }

    fn last(mut self) -> Answer {
        let answer = self.receive();
        let mut more = Vec::new();
        self.0.read_to_end(&mut more).unwrap();
        assert_eq!(more, b"", "one answer, and no more");
        answer
    }
}

/// One request, on a connection of its own.
fn get(address: SocketAddr, path: &str) -> Answer {
    Client::new(address).ask_last(path)
}

/// Clients that have asked, and have no answers yet.
struct Asking(Vec<Client>);

impl Asking {
    fn start(service: &Service, number: usize, path: &str) -> Asking {
        let client = |_| {
            let mut client = Client::new(service.address);
            client.send(path, true);
            client
        };
        Asking((0..number).map(client).collect())
    }

    fn answers(self) -> Vec<Answer> {
        self.0.into_iter().map(Client::last).collect()
    }

    #[track_caller]
    fn all(self, code: u16, text: &str) {
        for answer in self.answers() {
            answer.is(code, text);
        }
    }
}

fn for_each_backend(scenario: fn(Backend)) {
    watched(|| Backend::ALL.into_iter().for_each(scenario));
}

#[test]
fn workers_that_die_under_load_cost_no_request_its_answer() {
    watched(|| {
        const CLIENTS: usize = 8;
        const REQUESTS: usize = 40;
        let arguments = ["--limit", LONG, "--drain", LONG];
        let mut service = Service::start(Backend::Multiprocessing, 3, &arguments);
        let (address, pid) = (service.address, service.example.pid());
        let answered = AtomicUsize::new(0);
        let over = AtomicBool::new(false);
        let tally = Mutex::new(BTreeMap::<(&str, u16), usize>::new());

        let client = |number: usize| {
            let mut random = Random::new();
            let mut client = None;
            for n in 0..REQUESTS {
                let (below, primes) = PRIMES[random.below(PRIMES.len())];
                let (kind, path) = match (n + number) % 10 {
                    3 => ("crash", "/crash".into()),
                    7 => ("panic", "/panic".into()),
                    _ => ("primes", format!("/primes/{below}")),
                };
                // Several on one connection, the last of which ends it.
                let mut kept = client.take().unwrap_or_else(|| Client::new(address));
                let answer = if n % 10 == 9 {
                    kept.ask_last(&path)
                } else {
                    let answer = kept.ask(&path);
                    client = Some(kept);
                    answer
                };
                match (kind, answer.code) {
                    ("primes", 200) => assert_eq!(answer.text, primes.to_string()),
                    ("panic", 500) if answer.text.contains("no bread") => {}
                    ("crash", 500) if answer.text.contains("SIGABRT") => {}
                    (_, 500) => answer.is(500, "SIGKILL"),
                    _ => panic!("{path}: {answer:?}"),
                }
                *tally
                    .lock()
                    .unwrap()
                    .entry((kind, answer.code))
                    .or_default() += 1;
                answered.fetch_add(1, Ordering::SeqCst);
            }
        };
        thread::scope(|scope| {
            let killer = scope.spawn(|| {
                let mut random = Random::new();
                let mut killed = 0;
                while !over.load(Ordering::SeqCst) {
                    let workers = children_of(pid);
                    if !workers.is_empty() {
                        kill(pid, workers[random.below(workers.len())]);
                        killed += 1;
                    }
                    // The service gets ahead in between.
                    let before = answered.load(Ordering::SeqCst);
                    eventually("answers", || {
                        answered.load(Ordering::SeqCst) > before + 4 || over.load(Ordering::SeqCst)
                    });
                }
                killed
            });
            let clients: Vec<ScopedJoinHandle<'_, ()>> = (0..CLIENTS)
                .map(|number| scope.spawn(move || client(number)))
                .collect();
            let ends: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
            over.store(true, Ordering::SeqCst);
            let killed = killer.join().unwrap();
            assert!(ends.iter().all(Result::is_ok));
            assert!(killed > 1);
        });
        let tally = tally.into_inner().unwrap();
        assert_eq!(tally.values().sum::<usize>(), CLIENTS * REQUESTS);
        assert!(tally[&("primes", 200)] > 0, "{tally:?}");
        assert!(tally[&("crash", 500)] > 0, "{tally:?}");

        // Those that certainly run meanwhile.
        let runaways = Asking::start(&service, 3, "/runaway");
        for worker in service.runaways(3) {
            kill(pid, worker);
        }
        runaways.all(500, "SIGKILL");
        get(address, "/primes/100").is(200, "25");
        service.stop();
    });
}

#[test]
fn what_is_too_much_is_refused_at_once() {
    for_each_backend(|backend| {
        let arguments = ["--max-pending", "3", "--limit", LONG, "--drain", LONG];
        let mut service = Service::start(backend, 2, &arguments);
        // Two that run, three that wait. One after another: there is no room for more.
        let mut runaways = Vec::new();
        for number in 1..=5 {
            runaways.push(Asking::start(&service, 1, "/runaway"));
            service.wait_for(number);
        }
        let pids = service.runaways(2);
        Asking::start(&service, 30, "/primes/10").all(503, "try again later");
        service.wait_for(5);

        // The clients lose their patience, and with them go their tasks.
        drop(runaways);
        service.wait_for(0);
        get(service.address, "/primes/1000").is(200, "168");
        if backend == Backend::Multiprocessing {
            eventually("the processes are gone", || {
                !pids.iter().any(|&pid| runs(pid))
            });
        }
        service.stop();
    });
}

#[test]
fn a_request_that_takes_too_long_is_ended() {
    for_each_backend(|backend| {
        let arguments = ["--max-pending", "100", "--limit", "0.2", "--drain", LONG];
        let service = Service::start(backend, 2, &arguments);
        let runaways = Asking::start(&service, 4, "/runaway");
        let primes = Asking::start(&service, 20, "/primes/100");
        runaways.all(504, "too long");
        for answer in primes.answers() {
            match answer.code {
                // On a machine that is so busy that everything takes too long.
                504 => {}
                _ => answer.is(200, "25"),
            }
        }
        // More than there are workers have run away, and it goes on.
        eventually("an answer in time", || {
            get(service.address, "/primes/100").code == 200
        });
        service.stop();
    });
}

#[test]
fn an_interrupted_service_answers_what_it_has() {
    watched(|| {
        let arguments = ["--max-pending", "100", "--limit", LONG, "--drain", LONG];
        let mut service = Service::start(Backend::Multiprocessing, 2, &arguments);
        let mut idle = Client::new(service.address);
        idle.ask("/primes/10").is(200, "4");
        let runaways = Asking::start(&service, 2, "/runaway");
        let pids = service.runaways(2);
        let primes = Asking::start(&service, 20, "/primes/1000");
        service.wait_for(22);

        assert_eq!(service.interrupt(), 22);
        let address = service.address;
        eventually("no more connections", || {
            TcpStream::connect(address).is_err()
        });
        // Connections that are of no use any more do not keep it.
        assert_eq!(idle.0.read(&mut [0]).unwrap(), 0);
        // Only now there are workers for the others.
        for &runaway in &pids {
            kill(service.example.pid(), runaway);
        }
        runaways.all(500, "SIGKILL");
        primes.all(200, "168");
        assert!(service.end());
    });
}

/// Requests under way, and more that wait; all of them are to be answered though none is done.
fn with_runaways(backend: Backend, drain: &str, end: fn(&mut Service)) {
    let arguments = ["--max-pending", "100", "--limit", LONG, "--drain", drain];
    let mut service = Service::start(backend, 2, &arguments);
    let runaways = Asking::start(&service, 2, "/runaway");
    service.runaways(2);
    let primes = Asking::start(&service, 20, "/primes/1000");
    service.wait_for(22);
    assert_eq!(service.interrupt(), 22);
    end(&mut service);
    primes.all(503, "about to stop");
    for answer in runaways.answers() {
        match (backend, answer.code) {
            // It listened.
            (Backend::Threading, 504) => {}
            _ => answer.is(503, "about to stop"),
        }
    }
    assert!(!service.end());
}

#[test]
fn when_the_time_is_up_the_rest_is_killed() {
    for_each_backend(|backend| with_runaways(backend, "0", |_| ()));
}

#[test]
fn a_second_interruption_does_not_wait() {
    for_each_backend(|backend| {
        with_runaways(backend, LONG, |service| service.example.interrupt());
    });
}
