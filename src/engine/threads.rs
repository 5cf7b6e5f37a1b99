//! Workers that are threads of this process.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use parking_lot::Mutex;

use super::{
    Callbacks, Engine, Job, Runner, Scheduler,
    processes::wire::Carriage,
    scheduler::{After, Next, Setback},
    slot::Slot,
};
use crate::{
    backend::Backend,
    error::{StartError, TaskError},
    task::duty,
    unwind,
    worker::record::{self, Record},
};

/// Starts threads, and joins them in the end.
pub(crate) struct Threads {
    /// The default backend of the tasks, where it is not the program's.
    scope: Option<Backend>,
    handles: Mutex<Vec<JoinHandle<()>>>,
}

impl Threads {
    pub(crate) fn new() -> Self {
        Threads {
            scope: Backend::scoped(),
            handles: Mutex::new(Vec::new()),
        }
    }
}

impl Engine for Threads {
    fn start(&self, scheduler: &Arc<Scheduler>, record: &Arc<Record>) -> Result<(), TaskError> {
        let runner = Arc::new(ThreadRunner::new(Arc::clone(record)));
        let id = runner.id;
        scheduler.enlist(Arc::clone(&runner) as Arc<dyn Runner>);
        let listed = Arc::clone(&runner);
        let body = {
            let (scheduler, scope) = (Arc::clone(scheduler), self.scope);
            move || match scope {
                Some(backend) => backend.scope(|| runner.work(&scheduler)),
                None => runner.work(&scheduler),
            }
        };
        // The system's names end at the first zero byte, and std refuses such a name.
        let name = record.name().replace('\0', "?");
        match thread::Builder::new().name(name).spawn(body) {
            Ok(handle) => {
                record.begin(None, listed);
                self.handles.lock().push(handle);
                Ok(())
            }
            Err(error) => {
                scheduler.delist(id);
                Err(TaskError::Start(StartError::new(&record.name(), error)))
            }
        }
    }

    fn carriage(&self) -> Option<Carriage> {
        None
    }

    fn reap(&self) {
        let handles = std::mem::take(&mut *self.handles.lock());
        for handle in handles {
            if handle.thread().id() != thread::current().id() {
                // Tasks cannot unwind out of a worker; a thread-local's destructor may.
                let _ = handle.join();
            }
        }
    }
}

/// A number that no other runner of this process has.
pub(super) fn runner_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    // Relaxed: only distinctness counts.
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// One worker thread.
struct ThreadRunner {
    id: u64,
    record: Arc<Record>,
    /// The next job, or `None` to end.
    slot: Slot<Option<Arc<dyn Job>>>,
    /// Whether its tasks are asked to end.
    asked: Arc<AtomicBool>,
}

impl ThreadRunner {
    fn new(record: Arc<Record>) -> Self {
        ThreadRunner {
            id: runner_id(),
            record,
            slot: Slot::new(),
            asked: Arc::new(AtomicBool::new(false)),
        }
    }

    fn work(self: &Arc<Self>, scheduler: &Arc<Scheduler>) {
        let runner = Arc::clone(self) as Arc<dyn Runner>;
        self.record.begin(None, runner);
        record::set_current(Arc::clone(&self.record));
        duty::heed(Arc::clone(&self.asked));
        let initialized = match scheduler.initializer() {
            Some(initializer) => initializer.run(),
            None => Ok(()),
        };
        let (verdict, setback) = match initialized {
            Ok(()) => (self.serve(scheduler), None),
            Err(error) => (Err(error.clone()), Some(Setback::Initializer(error))),
        };
        self.record.end(verdict);
        scheduler.ended(self.id, setback);
    }

    /// Waits for a job, or for word that there are no more; ends by itself when it has waited too long.
    fn wait(&self, scheduler: &Scheduler) -> Option<Arc<dyn Job>> {
        let given = self.slot.wait(scheduler.idle_timeout()).or_else(|| {
            // Unless somebody is about to give something right now.
            match scheduler.retire(self.id) {
                true => None,
                false => self.slot.wait(None),
            }
        });
        given.flatten()
    }

    /// Runs jobs until there are no more; says how the one job of a `Worker` went.
    fn serve(self: &Arc<Self>, scheduler: &Scheduler) -> Result<(), TaskError> {
        let solo = scheduler.is_solo();
        let mut verdict = Ok(());
        let mut left = scheduler.max_tasks();
        let mut next = scheduler.next(self, After::Nothing);
        loop {
            let job = match next {
                Next::Job(job) => Some(job),
                Next::Idle => self.wait(scheduler),
                Next::Stop => None,
            };
            let Some(job) = job else { return verdict };
            let limit = scheduler.task_timeout();
            let (called, job) = duty::run(job, |job| job.call(limit));
            let after = match &mut left {
                Some(left) if called.is_some() => {
                    *left -= 1;
                    After::task(*left == 0)
                }
                _ => After::task(false),
            };
            next = match called {
                // Who sees the result is to find this worker free,
                Some(Callbacks::None) => {
                    let next = scheduler.next(self, after);
                    Arc::clone(&job).publish();
                    next
                }
                // but no job is to wait behind a callback.
                Some(Callbacks::Waiting) => {
                    Arc::clone(&job).publish();
                    scheduler.next(self, after)
                }
                None => scheduler.next(self, After::Nothing),
            };
            if solo {
                verdict = job.error().map_or(Ok(()), Err);
            }
            // The last to let go of a result that nobody wants drops it: user code once more.
            unwind::contain(|| drop(job));
        }
    }
}

impl Runner for ThreadRunner {
    fn id(&self) -> u64 {
        self.id
    }

    fn rank(&self) -> Option<usize> {
        self.record.rank()
    }

    fn give(self: Arc<Self>, job: Arc<dyn Job>) {
        self.slot.give(Some(job));
    }

    fn stop(&self) {
        self.slot.give(None);
    }

    fn kill(&self) -> bool {
        false
    }

    fn heed(&self, _job: &Arc<dyn Job>) -> bool {
        // The task looks itself.
        true
    }

    fn desk(&self) -> Option<usize> {
        self.record.rank()
    }

    fn ask(&self) {
        // Relaxed: nothing is published with it.
        self.asked.store(true, Ordering::Relaxed);
    }

    fn terminate(&self) {
        self.ask();
    }
}
