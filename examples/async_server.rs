//! An HTTP service whose answers take computing. The runtime's threads do the waiting, worker processes
//! the computing, so that no request can stop or crash the service:
//!
//! | request | answer |
//! |---|---|
//! | `GET /primes/100000` | 200, the number of primes below |
//! | `GET /runaway` | 504: its task is ended when its time is up |
//! | `GET /crash` | 500: its worker process died, of what and what it said |
//! | `GET /panic` | 500: its task panicked, where and with what |
//! | one too many of these | 503, at once: try again later |
//! | `GET /status` | 200, the number of requests that wait for their tasks |
//!
//! A client that hangs up takes its task with it. At Ctrl-C, or `SIGTERM`, the service accepts no more
//! connections, gives the tasks that it has so much time, kills what is left, and answers all of it. A
//! second Ctrl-C does not wait.
//!
//! `async_server [--address 127.0.0.1:8080] [--workers N] [--max-pending 64] [--limit 5] [--drain 10]`,
//! with times in seconds. `async_server --check` asks itself a few things, and stops.
//!
//! With `FREETHREADING_BACKEND=threading` the workers are threads: nothing contains a crash then, and a
//! task ends early only where it looks at `cancelled()`.

use std::{
    env,
    error::Error,
    fmt::Display,
    future::IntoFuture,
    net::SocketAddr,
    process::{self, ExitCode},
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    routing::get,
};
use freethreading::{Backend, IntoTask, Portable, TaskError, WorkerPoolExecutor, cancelled, task};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
    sync::oneshot,
    time::timeout,
};

// What the workers do. `None` says that the task was asked to end before it had a result.

fn count_primes(below: u64) -> Option<u64> {
    let mut primes = 0;
    for n in 2..below {
        if cancelled() {
            return None;
        }
        let mut divisors = (2..).take_while(|d| d * d <= n);
        primes += u64::from(divisors.all(|d| n % d != 0));
    }
    Some(primes)
}

/// Never ends by itself. On a thread it must be polite, since it cannot be killed.
fn runaway(polite: bool) -> Option<u64> {
    println!("process {} runs away", process::id());
    while !(polite && cancelled()) {
        std::hint::spin_loop();
    }
    None
}

fn crash() -> Option<u64> {
    eprintln!("this is the end");
    process::abort();
}

fn panic() -> Option<u64> {
    panic!("no bread in the house");
}

// What the service does.

/// What all requests share.
struct Service {
    executor: WorkerPoolExecutor,
    /// How long the task of a request may run.
    limit: Duration,
    /// The requests that wait for their tasks.
    waiting: AtomicUsize,
}

type Answer = (StatusCode, String);

/// A request that waits for its task, for the count of them.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Service {
    /// Runs the task of a request, and says how that went.
    async fn run<M, T, R>(&self, task: T) -> Answer
    where
        T: IntoTask<M, Output = Option<R>>,
        R: Portable + Display,
    {
        // Better no now than an answer when nobody waits for it any more.
        let Ok(future) = self.executor.try_submit(task) else {
            let why = "too many requests wait; try again later\n";
            return (StatusCode::SERVICE_UNAVAILABLE, why.into());
        };
        let _waiting = Waiting::new(&self.waiting);
        // When a client hangs up, its request is dropped, and the task ends with that.
        let future = future.kill_after(self.limit).kill_on_drop();
        let (status, text) = match future.await {
            Ok(Some(result)) => (StatusCode::OK, result.to_string()),
            // The task was ended with its process, or listened on its thread.
            Err(TaskError::TimeLimit(_)) | Ok(None) => {
                (StatusCode::GATEWAY_TIMEOUT, "that takes too long".into())
            }
            Err(TaskError::Shutdown | TaskError::Cancelled | TaskError::Terminated(_)) => {
                let why = "the service is about to stop".into();
                (StatusCode::SERVICE_UNAVAILABLE, why)
            }
            // The worker died, the task panicked, … A real service would keep the text to itself.
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        };
        (status, text + "\n")
    }

    fn routes(self: Arc<Self>) -> Router {
        type Shared = State<Arc<Service>>;
        Router::new()
            .route(
                "/primes/{below}",
                get(|State(service): Shared, Path(below)| async move {
                    service.run(task!(count_primes(below))).await
                }),
            )
            .route(
                "/runaway",
                get(|State(service): Shared| async move {
                    let polite = service.executor.backend() == Backend::Threading;
                    service.run(task!(runaway(polite))).await
                }),
            )
            .route(
                "/crash",
                get(|State(service): Shared| async move {
                    match service.executor.backend() {
                        Backend::Multiprocessing => service.run(crash).await,
                        Backend::Threading => {
                            let why = "that would be the end of the service\n";
                            (StatusCode::NOT_IMPLEMENTED, why.into())
                        }
                    }
                }),
            )
            .route(
                "/panic",
                get(|State(service): Shared| async move { service.run(panic).await }),
            )
            .route(
                "/status",
                get(|State(service): Shared| async move {
                    format!("{}\n", service.waiting.load(Ordering::Relaxed))
                }),
            )
            .with_state(self)
    }
}

/// Serves until it is told to stop; says whether all that it had begun came to its end in time.
async fn serve(settings: Settings) -> Result<bool, Box<dyn Error>> {
    let mut executor = WorkerPoolExecutor::builder().max_pending(settings.max_pending);
    if let Some(workers) = settings.workers {
        executor = executor.max_workers(workers);
    }
    let service = Arc::new(Service {
        executor: executor.build()?,
        limit: settings.limit,
        waiting: AtomicUsize::new(0),
    });

    // Worker processes ignore the Ctrl-C that the terminal sends to them as well.
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let (stop, stopped) = oneshot::channel::<()>();
    let listener = TcpListener::bind(settings.address).await?;
    let address = listener.local_addr()?;
    let server = axum::serve(listener, Arc::clone(&service).routes())
        .with_graceful_shutdown(async {
            let _ = stopped.await;
        })
        .into_future();
    let mut server = tokio::spawn(server);
    println!("listening on http://{address}");
    let check = match settings.check {
        true => Some(tokio::spawn(check(address, service.executor.backend()))),
        false => None,
    };

    tokio::select! {
        _ = interrupted.recv() => {}
        _ = terminated.recv() => {}
    }
    println!(
        "stopping within {:?}, with {} requests under way; Ctrl-C once more stops at once",
        settings.drain,
        service.waiting.load(Ordering::Relaxed),
    );
    // First no more connections, nor requests on those that there are.
    drop(stop);
    // Then no more tasks. Those that there are end, or are ended when the time is up.
    let in_time = tokio::select! {
        in_time = service.executor.shutdown_timeout_async(settings.drain) => in_time,
        _ = interrupted.recv() => {
            service.executor.kill_workers(); // Every task is over now.
            false
        }
    };
    // So every request has its answer, which is only to be written. A client that does not read keeps
    // nobody from ending.
    let written = timeout(Duration::from_secs(5), &mut server).await;
    println!("stopped");

    let fine = match check {
        Some(check) => check.await??,
        None => true,
    };
    Ok(in_time && written.is_ok() && fine)
}

struct Settings {
    address: SocketAddr,
    workers: Option<usize>,
    max_pending: usize,
    limit: Duration,
    drain: Duration,
    check: bool,
}

impl Settings {
    fn parse() -> Result<Settings, String> {
        let mut settings = Settings {
            address: SocketAddr::from(([127, 0, 0, 1], 8080)),
            workers: None,
            max_pending: 64,
            limit: Duration::from_secs(5),
            drain: Duration::from_secs(10),
            check: false,
        };
        fn value<T: FromStr>(name: &str, value: Option<String>) -> Result<T, String> {
            let value = value.and_then(|value| value.parse().ok());
            value.ok_or(format!("{name} needs a value that fits"))
        }
        fn time(name: &str, time: Option<String>) -> Result<Duration, String> {
            Duration::try_from_secs_f64(value(name, time)?).map_err(|e| format!("{name}: {e}"))
        }
        let mut arguments = env::args().skip(1);
        while let Some(name) = arguments.next() {
            let mut next = || arguments.next();
            match &name[..] {
                "--address" => settings.address = value(&name, next())?,
                "--workers" => settings.workers = Some(value(&name, next())?),
                "--max-pending" => settings.max_pending = value(&name, next())?,
                "--limit" => settings.limit = time(&name, next())?,
                "--drain" => settings.drain = time(&name, next())?,
                "--check" => {
                    settings.check = true;
                    settings.address.set_port(0);
                    settings.limit = Duration::from_secs(1);
                }
                _ => return Err(format!("there is no {name}")),
            }
        }
        Ok(settings)
    }
}

/// Asks the service a few things, and has it stop; says whether the answers were as expected.
async fn check(address: SocketAddr, backend: Backend) -> Result<bool, std::io::Error> {
    let mut questions = vec![
        ("/primes/100", "200", "25"),
        ("/runaway", "504", "too long"),
    ];
    match backend {
        Backend::Multiprocessing => questions.push(("/crash", "500", "SIGABRT")),
        Backend::Threading => questions.push(("/crash", "501", "the end")),
    }
    if cfg!(panic = "unwind") || backend == Backend::Multiprocessing {
        questions.push(("/panic", "500", "no bread in the house"));
    }
    questions.push(("/primes/1000", "200", "168")); // After all that it is as before.
    let mut fine = true;
    for (path, status, text) in questions {
        let mut stream = TcpStream::connect(address).await?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        println!("{path}: {}", body.trim_end());
        if head.split(' ').nth(1) != Some(status) || !body.contains(text) {
            println!("{path}: that was NOT expected: {answer}");
            fine = false;
        }
    }
    signal_hook::low_level::raise(signal_hook::consts::SIGINT)?;
    Ok(fine)
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    // First line of main: a worker process stays here, and never builds a runtime.
    freethreading::init();
    // Unless the environment says otherwise.
    freethreading::set_backend(Backend::Multiprocessing)?;

    let settings = match Settings::parse() {
        Ok(settings) => settings,
        Err(why) => {
            eprintln!("{why}");
            return Ok(ExitCode::from(2));
        }
    };
    let in_time = Runtime::new()?.block_on(serve(settings))?;
    Ok(match in_time {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
