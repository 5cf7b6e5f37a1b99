//! Each primitive at its work, as in Python's documentation of `threading`, `multiprocessing` and
//! `queue`; on threads or on processes.
//!
//! `primitives [NAME…]`: all of them, or those that are named.
//!
//! Try it with `FREETHREADING_BACKEND=multiprocessing`.

use std::{env, thread, time::Duration};

use freethreading::{
    Barrier, BarrierError, BoundedSemaphore, Condition, Error, Event, IntoTask, Lock, Queue, RLock,
    Semaphore, SimpleQueue, Worker, task,
};

/// A worker that has started.
fn start<M>(task: impl IntoTask<M>) -> Result<Worker, Error> {
    let worker = Worker::new(task);
    worker.start()?;
    Ok(worker)
}

/// Ten workers say hello; no line is torn by another.
fn lock() -> Result<(), Error> {
    fn hello(lock: Lock, number: u32) {
        let _guard = lock.lock();
        println!("hello world {number}");
    }
    let lock = Lock::new();
    let workers: Result<Vec<_>, _> = (0..10)
        .map(|number| start(task!(hello(lock.clone(), number))))
        .collect();
    workers?.iter().try_for_each(Worker::join)
}

/// A function that has the lock calls itself, and has it once more.
fn rlock() -> Result<(), Error> {
    fn countdown(lock: &RLock, number: u32) {
        let _guard = lock.lock();
        if number > 0 {
            println!("{number}");
            countdown(lock, number - 1);
        } else {
            println!("Liftoff!");
        }
    }
    fn count_from_three(lock: RLock) {
        countdown(&lock, 3);
    }
    let lock = RLock::new();
    start(task!(count_from_three(lock)))?.join()
}

/// Of six workers two at a time have a connection.
fn semaphore() -> Result<(), Error> {
    fn connect(connections: Semaphore, number: u32) {
        let _permit = connections.permit();
        println!("worker {number} is connected");
        thread::sleep(Duration::from_millis(5));
        println!("worker {number} is disconnected");
    }
    let connections = Semaphore::new(2);
    let workers: Result<Vec<_>, _> = (0..6)
        .map(|number| start(task!(connect(connections.clone(), number))))
        .collect();
    workers?.iter().try_for_each(Worker::join)
}

/// Guards a resource of which there are five; to give back a sixth is an error.
fn bounded_semaphore() -> Result<(), Error> {
    const MAX_CONNECTIONS: usize = 5;
    let connections = BoundedSemaphore::new(MAX_CONNECTIONS);
    {
        let _permit = connections.permit();
        println!("connected");
    }
    match connections.release() {
        Ok(()) => println!("there was one more than there should be"),
        Err(error) => println!("error: {error}"),
    }
    Ok(())
}

/// A consumer waits until a producer has made an item available.
fn condition() -> Result<(), Error> {
    fn consume(available: Condition, items: Queue<String>) -> Result<(), String> {
        let mut guard = available.lock();
        guard
            .wait_for(|| !items.empty())
            .map_err(|error| error.to_string())?;
        let item = items.get_nowait().map_err(|error| error.to_string())?;
        println!("consumed {item}");
        Ok(())
    }
    let (available, items) = (Condition::new(), Queue::new(0));
    let consumer = start(task!(consume(available.clone(), items.clone())))?;
    let guard = available.lock();
    items.put("an item".to_string())?;
    println!("produced an item");
    guard.notify(1)?;
    drop(guard);
    consumer.join()
}

/// One worker waits until another says that it may go on.
fn event() -> Result<(), Error> {
    fn wait(event: Event, ready: Event) {
        println!("waiting for the event");
        ready.set();
        event.wait();
        println!("the event is set");
    }
    let (event, ready) = (Event::new(), Event::new());
    let worker = start(task!(wait(event.clone(), ready.clone())))?;
    ready.wait();
    println!("setting the event");
    event.set();
    worker.join()
}

/// A client begins when its server is ready.
fn barrier() -> Result<(), Error> {
    fn serve(barrier: Barrier, connections: SimpleQueue<String>) {
        println!("the server starts");
        if let Err(error) = barrier.wait() {
            return println!("no client: {error}");
        }
        match connections.get() {
            Ok(request) => println!("the server has got {request:?}"),
            Err(error) => println!("no request: {error}"),
        }
    }
    fn call(barrier: Barrier, connections: SimpleQueue<String>) -> Result<(), String> {
        let broken = |error: BarrierError| error.to_string();
        barrier.wait().map_err(broken)?;
        connections
            .put("a request".to_string())
            .map_err(|error| error.to_string())
    }
    let barrier = Barrier::new(2)?.timeout(Duration::from_secs(5));
    let connections = SimpleQueue::new();
    let server = start(task!(serve(barrier.clone(), connections.clone())))?;
    let client = start(task!(call(barrier, connections)))?;
    client.join()?;
    server.join()
}

/// A worker that does what is in the queue, and a program that waits until all of it is done.
fn queue() -> Result<(), Error> {
    fn work(queue: Queue<u32>) {
        while let Ok(item) = queue.get() {
            println!("Working on {item}");
            println!("Finished {item}");
            queue.task_done().expect("there was an item");
        }
    }
    let queue = Queue::new(0);
    // Turn on the worker. It never ends, so the program is not to wait for it.
    let worker = Worker::new(task!(work(queue.clone()))).with_daemon(true);
    worker.start()?;
    // Send thirty requests to the worker.
    for item in 0..30 {
        queue.put(item)?;
    }
    // Block until all of them are done.
    queue.join();
    println!("All work completed");
    Ok(())
}

/// A value from a worker.
fn simple_queue() -> Result<(), Error> {
    type Value = (u32, Option<String>, String);
    fn put(queue: SimpleQueue<Value>) {
        let value = (42, None, "hello".to_string());
        queue.put(value).expect("it can be encoded");
    }
    let queue = SimpleQueue::new();
    let worker = start(task!(put(queue.clone())))?;
    println!("{:?}", queue.get()?); // (42, None, "hello")
    worker.join()
}

type Example = (&'static str, fn() -> Result<(), Error>);

const EXAMPLES: [Example; 9] = [
    ("lock", lock),
    ("rlock", rlock),
    ("semaphore", semaphore),
    ("bounded_semaphore", bounded_semaphore),
    ("condition", condition),
    ("event", event),
    ("barrier", barrier),
    ("queue", queue),
    ("simple_queue", simple_queue),
];

fn main() -> Result<(), Error> {
    freethreading::init(); // First line of main: a worker process stays here.
    let names: Vec<_> = env::args().skip(1).collect();
    for (name, example) in EXAMPLES {
        if names.is_empty() || names.iter().any(|wanted| wanted == name) {
            println!("-- {name}");
            example()?;
        }
    }
    Ok(())
}
