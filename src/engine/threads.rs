//! Workers that are threads of this process.

use std::{
    sync::Arc,
    thread::{self, JoinHandle},
};

use parking_lot::Mutex;

use super::{
    Carriage, Engine, Heed, Job, Runner, Scheduler, Settled, SettledJob, runner_id,
    scheduler::{After, Next, Setback},
    settle,
    tray::Tray,
};
use crate::{
    backend::Backend,
    error::{Effect, StartError, TaskError},
    fork,
    shim::SpinLock,
    stats::{Moment, Tally, WorkerStats},
    task::duty::{self, Duty},
    unwind,
    worker::record::{self, Record},
};

/// More than any system has, which is refused. Where the C library has a limit of its own for larger ones, std panics.
const MAX_STACK_SIZE: usize = isize::MAX as usize / 2;

/// Starts threads, and joins them in the end.
pub(crate) struct Threads {
    /// The default backend of the tasks, where it is not the program's.
    scope: Option<Backend>,
    /// The size of each thread's stack, where it is not std's.
    stack_size: Option<usize>,
    handles: Mutex<Vec<JoinHandle<()>>>,
}

impl Threads {
    pub(crate) fn new(stack_size: Option<usize>) -> Self {
        Threads {
            scope: Backend::scoped(),
            stack_size,
            handles: Mutex::new(Vec::new()),
        }
    }
}

impl Engine for Threads {
    fn start(&self, scheduler: &Arc<Scheduler>, record: &Arc<Record>) -> Result<(), TaskError> {
        let runner = Arc::new(ThreadRunner::new(Arc::clone(record)));
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
        let mut builder = thread::Builder::new().name(name);
        if let Some(stack_size) = self.stack_size {
            builder = builder.stack_size(stack_size.min(MAX_STACK_SIZE));
        }
        match builder.spawn(body) {
            Ok(handle) => {
                record.begin(None, listed);
                let mut handles = self.handles.lock();
                // The system keeps the stack of a thread that has ended as long as it may be joined.
                handles.retain(|other| !other.is_finished());
                handles.push(handle);
                Ok(())
            }
            Err(error) => {
                scheduler.delist(&*listed);
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

/// One worker thread.
struct ThreadRunner {
    id: u64,
    record: Arc<Record>,
    /// The next job, or `None` to end.
    tray: Tray<Option<Arc<dyn Job>>>,
    desk: SpinLock<Desk>,
    tally: Tally,
}

/// What a worker thread is at.
#[derive(Default)]
struct Desk {
    /// The job at hand. It stays there until there is another one, or nothing to do.
    job: Option<Arc<dyn Job>>,
    /// Since when it has been at the job.
    since: Option<Moment>,
    /// Whether its tasks are asked to end.
    asked: bool,
    terminated: bool,
}

impl ThreadRunner {
    fn new(record: Arc<Record>) -> Self {
        ThreadRunner {
            id: runner_id(),
            record,
            tray: Tray::new(),
            desk: SpinLock::default(),
            tally: Tally::default(),
        }
    }

    fn work(self: &Arc<Self>, scheduler: &Arc<Scheduler>) {
        let runner = Arc::clone(self) as Arc<dyn Runner>;
        self.record.begin(None, runner);
        record::set_current(Arc::clone(&self.record));
        duty::set(Arc::clone(self) as Arc<dyn Duty>);
        let initialized = match scheduler.initializer() {
            Some(initializer) => fork::once(|| initializer.run()),
            None => Ok(()),
        };
        let (verdict, setback) = match initialized {
            Ok(()) => (self.serve(scheduler), None),
            Err(error) => (Err(error.clone()), Some(Setback::Initializer(error))),
        };
        self.record.end(verdict, false);
        scheduler.ended(self.id, setback);
    }

    /// Begins with a job, or has none any more; `false` if there is to be no more work.
    fn take_up(&self, job: Option<Arc<dyn Job>>) -> bool {
        let since = job.is_some().then(Moment::now);
        let (before, goes_on) = {
            let mut desk = self.desk.lock();
            desk.since = since;
            let before = std::mem::replace(&mut desk.job, job);
            (before, !desk.terminated)
        };
        // The last to let go of a result that nobody wants drops it: user code once more.
        unwind::discard(before);
        goes_on
    }

    /// Waits for a job, or for word that there are no more; ends by itself when it has waited too long.
    fn wait(&self, scheduler: &Scheduler) -> Option<Arc<dyn Job>> {
        if let Some(given) = self.tray.look() {
            return given;
        }
        self.take_up(None);
        let given = self.tray.wait(scheduler.idle_timeout()).or_else(|| {
            // Unless somebody is about to give something right now.
            match scheduler.retire(self.id) {
                true => None,
                false => self.tray.wait(None),
            }
        });
        given.flatten()
    }

    /// Runs jobs until there are no more; says how the one job of a `Worker` went.
    fn serve(self: &Arc<Self>, scheduler: &Arc<Scheduler>) -> Result<(), TaskError> {
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
            let Some(job) = job else {
                self.take_up(None);
                return verdict;
            };
            if !self.take_up(Some(Arc::clone(&job))) {
                scheduler.fail(job, TaskError::Terminated(Effect::DidNotRun));
                next = scheduler.next(self, After::Nothing);
                continue;
            }
            let called = duty::run(|| job.call(scheduler.task_timeout()));
            let after = match &mut left {
                Some(left) if called.is_some() => {
                    *left -= 1;
                    After::task(*left == 0)
                }
                _ => After::task(false),
            };
            if let Some(settled) = called {
                self.tally.count(settled.failed);
            }
            if solo {
                verdict = job.error().map_or(Ok(()), Err);
            }
            next = match called {
                // Who sees the result is to find this worker free,
                Some(Settled {
                    calls_back: false, ..
                }) => {
                    let next = scheduler.next(self, after);
                    job.publish();
                    next
                }
                // but no job is to wait behind a callback.
                Some(_) => {
                    job.publish();
                    scheduler.next(self, after)
                }
                None => scheduler.next(self, After::Nothing),
            };
        }
    }
}

impl Duty for ThreadRunner {
    fn is_cancelled(&self) -> bool {
        let (job, asked) = {
            let desk = self.desk.lock();
            (desk.job.clone(), desk.asked)
        };
        asked || job.is_some_and(|job| job.orders().are_to_stop())
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
        self.tray.give(Some(job));
    }

    fn stop(&self) {
        self.tray.give(None);
    }

    fn kill(&self) -> bool {
        false
    }

    fn heed(&self, _job: &Arc<dyn Job>, _insists: bool) -> Heed {
        // The task looks itself.
        Heed::Heeded
    }

    fn ask(&self) {
        self.desk.lock().asked = true;
    }

    fn stats(&self) -> WorkerStats {
        let (task, since) = {
            let desk = self.desk.lock();
            // What it is through with stays there until it takes up something else. The task is not cloned: its values,
            // which are the user's, are not to be dropped here.
            let job = desk.job.as_ref().filter(|job| !job.is_settled());
            (job.map(|job| job.name()), desk.since)
        };
        self.record.stats(&self.tally, task, since)
    }

    fn terminate(&self) -> Vec<SettledJob> {
        let job = {
            let mut desk = self.desk.lock();
            desk.asked = true;
            desk.terminated = true;
            desk.job.clone()
        };
        let end = |job| settle(job, TaskError::Terminated(Effect::MayHaveRun));
        job.map(end).into_iter().collect()
    }
}
