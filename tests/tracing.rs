//! Spans and events, as a subscriber sees them here and in a worker process.
#![cfg(feature = "trace")]

mod common;

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use common::{Scratch, Sign, eventually, watched};
use freethreading::{Backend, Event, TaskError, WorkerPool, WorkerPoolExecutor, task};
use tracing_subscriber::fmt::{MakeWriter, format::FmtSpan};

freethreading::init_tests!();

/// Whether a log panics.
static FAILS: AtomicBool = AtomicBool::new(false);

/// Keeps what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        assert!(!FAILS.load(Ordering::Relaxed), "nothing can be logged");
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Log;

    fn make_writer(&self) -> Log {
        self.clone()
    }
}

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    fn subscriber(&self) -> impl tracing::Subscriber + Send + Sync + 'static {
        tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(tracing::Level::DEBUG)
            .with_writer(self.clone())
            .finish()
    }

    /// The same, which also logs that a span is entered.
    fn subscriber_of_spans(&self) -> impl tracing::Subscriber + Send + Sync + 'static {
        tracing_subscriber::fmt()
            .with_ansi(false)
            .with_span_events(FmtSpan::ENTER)
            .with_writer(self.clone())
            .finish()
    }
}

fn work() {
    tracing::info!("at work");
}

/// The target of the span that it runs in.
fn target() -> String {
    let span = tracing::Span::current();
    span.metadata().unwrap().target().into()
}

fn work_on(_: u32) {
    work();
}

/// Has a worker process keep what it logs.
fn keep_log() {
    let log = Log::default();
    // The span of this very task was entered before the subscriber was there.
    tracing::subscriber::set_global_default(log.subscriber()).unwrap();
    LOG.lock().unwrap().replace(log);
}

static LOG: Mutex<Option<Log>> = Mutex::new(None);

fn work_and_tell() -> String {
    work();
    LOG.lock().unwrap().as_ref().unwrap().text()
}

fn work_on_and_tell(_: u32) -> String {
    work_and_tell()
}

#[test]
fn a_task_says_where_it_was_submitted() {
    watched(|| {
        let log = Log::default();
        // Worker threads have no subscriber of their own, so it has to be everybody's.
        tracing::subscriber::set_global_default(log.subscriber()).unwrap();
        {
            let executor = WorkerPoolExecutor::builder().max_workers(1);
            let executor = executor.backend(Backend::Threading).build().unwrap();
            let request = tracing::info_span!("request", number = 7);
            let future = request.in_scope(|| executor.submit(work));
            future.result().unwrap();
            assert_eq!(executor.submit(target).result().unwrap(), "freethreading");
            executor.shutdown(true, false);
        }
        let text = log.text();
        let line = text.lines().find(|line| line.contains("at work")).unwrap();
        assert!(line.contains("request{number=7}:task{"), "{line}");
        assert!(line.contains("work"), "{line}");
        for event in ["started", "ended"] {
            let event = format!(" freethreading: a worker has {event}");
            assert!(text.contains(&event), "{text}");
        }
        in_maps_of_a_pool(&log);
        in_a_worker_process();
        of_a_worker_process_that_dies(&log);
        of_a_worker_process_that_was_to_end(&log);
        where_no_span_can_be_entered_any_more();
        with_a_subscriber_that_panics();
    });
}

fn where_no_span_can_be_entered_any_more() {
    fn fail() {
        tracing::subscriber::set_global_default(Log::default().subscriber_of_spans()).unwrap();
        FAILS.store(true, Ordering::Relaxed);
    }

    let executor = WorkerPoolExecutor::builder().max_workers(1);
    let executor = executor.backend(Backend::Multiprocessing).build().unwrap();
    executor.submit(fail).result().unwrap();
    for _ in 0..2 {
        let error = executor.submit(work).result().unwrap_err();
        assert!(matches!(error, TaskError::Panicked(_)), "{error}");
    }
    // A map enters the span in which it was called with each chunk.
    let pool = WorkerPool::builder().max_workers(1);
    let pool = pool.backend(Backend::Multiprocessing).build().unwrap();
    let scratch = Scratch::new();
    let go = scratch.sign("go");
    let signs = vec![go.clone(); 100];
    let map = tracing::subscriber::with_default(Log::default().subscriber_of_spans(), || {
        let request = tracing::info_span!("request", number = 10);
        request.in_scope(|| pool.map_async(|sign: Sign| sign.wait(), signs).unwrap())
    });
    FAILS.store(true, Ordering::Relaxed);
    go.give();
    let error = map.get_timeout(Duration::from_secs(10)).unwrap_err();
    assert!(matches!(error, TaskError::Panicked(_)), "{error}");
}

fn in_maps_of_a_pool(log: &Log) {
    let pool = WorkerPool::builder().max_workers(2);
    let pool = pool.backend(Backend::Threading).build().unwrap();
    let request = tracing::info_span!("request", number = 9);
    request.in_scope(|| {
        pool.map(work_on, 0..100).unwrap();
        pool.chunksize(7).map(work_on, 0..100).unwrap();
        pool.imap(work_on, 0..100).unwrap().for_each(Result::unwrap);
    });
    let text = log.text();
    let is_told =
        |line: &&str| line.contains("at work") && line.contains("request{number=9}:task{");
    assert_eq!(text.lines().filter(is_told).count(), 300, "{text}");
}

fn of_a_worker_process_that_dies(log: &Log) {
    fn abort() {
        eprintln!("this is the end");
        std::process::abort();
    }

    let executor = WorkerPoolExecutor::builder().max_workers(1);
    let executor = executor.name_prefix("doomed");
    let executor = executor.backend(Backend::Multiprocessing).build().unwrap();
    let error = executor.submit(abort).result().unwrap_err();
    assert!(error.to_string().contains("may have run"), "{error}");
    let told = || {
        let text = log.text();
        let mut lines = text.lines().map(str::to_owned);
        let end = lines.find(|line| line.contains("WARN") && line.contains("doomed"))?;
        Some((end, lines.next()))
    };
    eventually("the end is told", || told().is_some());
    let (end, last_words) = told().unwrap();
    assert!(end.contains("a worker has ended"), "{end}");
    assert!(end.contains("was killed by signal 6 (SIGABRT)"), "{end}");
    // What became of its task is told by that.
    assert!(!end.contains("task"), "{end}");
    assert_eq!(last_words.unwrap(), "this is the end");
}

fn of_a_worker_process_that_was_to_end(log: &Log) {
    fn spin(begun: Event) {
        begun.set();
        loop {
            std::hint::spin_loop();
        }
    }

    let executor = WorkerPoolExecutor::builder().max_workers(1);
    let executor = executor.name_prefix("unwanted");
    let executor = executor.backend(Backend::Multiprocessing).build().unwrap();
    let begun = Event::new();
    let spinning = executor.submit(task!(spin(begun.clone())));
    begun.wait();
    assert!(spinning.kill());
    assert!(spinning.result().is_err());
    let told = || {
        let text = log.text();
        let is_told =
            |line: &&str| line.contains("a worker was ended") && line.contains("unwanted");
        text.lines().find(is_told).map(str::to_owned)
    };
    eventually("the end is told", || told().is_some());
    let end = told().unwrap();
    assert!(end.contains("DEBUG") && end.contains("SIGKILL"), "{end}");
}

fn with_a_subscriber_that_panics() {
    FAILS.store(true, Ordering::Relaxed);
    for backend in Backend::ALL {
        let executor = WorkerPoolExecutor::builder().max_workers(1);
        let executor = executor.backend(backend).build().unwrap();
        assert_eq!(executor.submit(|| 6 * 7).result().unwrap(), 42);
        executor.shutdown(true, false);
    }
}

fn in_a_worker_process() {
    let executor = WorkerPoolExecutor::builder().max_workers(1);
    let executor = executor.backend(Backend::Multiprocessing).build().unwrap();
    executor.submit(keep_log).result().unwrap();
    let request = tracing::info_span!("request", number = 8);
    let id = request.id().unwrap().into_u64();
    let future = request.in_scope(|| executor.submit(work_and_tell));
    let text = future.result().unwrap();
    let line = text.lines().find(|line| line.contains("at work")).unwrap();
    assert!(line.contains("task{"), "{line}");
    assert!(line.contains("origin=\"request\""), "{line}");
    assert!(line.contains(&format!("origin_id={id}")), "{line}");
    assert_eq!(executor.submit(target).result().unwrap(), "freethreading");
    // What comes from nowhere says so by saying nothing.
    let text = executor.submit(work_and_tell).result().unwrap();
    assert!(!text.lines().last().unwrap().contains("origin"), "{text}");
    // A map's chunks are not all submitted by who has called it.
    let pool = WorkerPool::builder().max_workers(1);
    let pool = pool.backend(Backend::Multiprocessing).build().unwrap();
    pool.apply(keep_log).unwrap();
    for text in request.in_scope(|| pool.map(work_on_and_tell, 0..20).unwrap()) {
        assert!(
            text.lines()
                .last()
                .unwrap()
                .contains(&format!("origin_id={id}")),
            "{text}"
        );
    }
}
