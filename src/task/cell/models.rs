//! Models of what becomes of a task.

use loom::{
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    thread::spawn,
};

use super::*;
use crate::{
    codec::Encoded,
    engine::{Job, Request},
    executor::TaskFuture,
};

/// Gives 7, and counts how often it is run.
struct Seven(Arc<AtomicUsize>);

impl Work for Seven {
    type Output = u32;

    fn name(&self) -> fn() -> &'static str {
        || "seven"
    }

    fn call(self) -> u32 {
        self.0.fetch_add(1, SeqCst);
        7
    }

    fn request(&self, _: u64, _: Carriage) -> Result<Request, TaskError> {
        unreachable!("models run on threads")
    }

    fn decode(_: Encoded<'_>) -> Result<u32, TaskError> {
        unreachable!("models run on threads")
    }
}

struct Model {
    runs: Arc<AtomicUsize>,
    callbacks: Arc<AtomicUsize>,
    cell: Arc<TaskCell<Seven>>,
    future: TaskFuture<u32>,
}

fn new_model() -> Model {
    let runs = Arc::new(AtomicUsize::new(0));
    let cell = TaskCell::new(Seven(Arc::clone(&runs)));
    Model {
        runs,
        callbacks: Arc::new(AtomicUsize::new(0)),
        future: TaskFuture::new(Arc::clone(&cell) as Arc<dyn Shared<u32>>),
        cell,
    }
}

impl Model {
    fn add_callback(&self) {
        let callbacks = Arc::clone(&self.callbacks);
        self.future.add_done_callback(move |future| {
            assert!(future.done());
            callbacks.fetch_add(1, SeqCst);
        });
    }
}

/// What a worker thread does.
fn work(cell: &Arc<TaskCell<Seven>>) {
    if cell.call(None).is_some() {
        Arc::clone(cell).publish();
    }
}

#[test]
fn loom_a_blocked_taker_gets_the_result() {
    loom::model(|| {
        let model = new_model();
        let cell = Arc::clone(&model.cell);
        let worker = spawn(move || work(&cell));
        assert_eq!(model.future.result().unwrap(), 7);
        worker.join().unwrap();
    });
}

#[test]
fn loom_an_awaiting_taker_gets_the_result() {
    loom::model(|| {
        let model = new_model();
        let cell = Arc::clone(&model.cell);
        let worker = spawn(move || work(&cell));
        assert_eq!(loom::future::block_on(model.future).unwrap(), 7);
        worker.join().unwrap();
    });
}

#[test]
fn loom_of_two_takers_one_gets_the_result() {
    loom::model(|| {
        let model = new_model();
        work(&model.cell);
        let future = TaskFuture::new(Arc::clone(&model.cell) as Arc<dyn Shared<u32>>);
        let other = spawn(move || future.result().is_ok());
        let mine = model.future.result().is_ok();
        assert_ne!(mine, other.join().unwrap());
    });
}

#[test]
fn loom_a_task_runs_or_is_cancelled_and_calls_back_once() {
    loom::model(|| {
        let model = new_model();
        model.add_callback();
        let cell = Arc::clone(&model.cell);
        let worker = spawn(move || work(&cell));
        let cancelled = model.future.cancel();
        worker.join().unwrap();
        assert_eq!(model.runs.load(SeqCst), usize::from(!cancelled));
        assert_eq!(model.callbacks.load(SeqCst), 1);
        assert_eq!(model.future.result().is_err(), cancelled);
    });
}

#[test]
fn loom_a_callback_added_meanwhile_is_called_once() {
    loom::model(|| {
        let model = new_model();
        let cell = Arc::clone(&model.cell);
        let worker = spawn(move || work(&cell));
        model.add_callback();
        worker.join().unwrap();
        assert_eq!(model.callbacks.load(SeqCst), 1);
    });
}

#[test]
fn loom_the_first_outcome_stays() {
    loom::model(|| {
        let model = new_model();
        let cell = Arc::clone(&model.cell);
        let loser = spawn(move || {
            let _ = cell.settle(Err(TaskError::Shutdown));
        });
        let _ = model.cell.settle(Err(TaskError::Cancelled));
        let first = model.cell.error();
        loser.join().unwrap();
        let last = model.cell.error();
        assert_eq!(format!("{first:?}"), format!("{last:?}"));
    });
}
