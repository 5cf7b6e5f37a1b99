//! The queue and the workers of one executor, or of one `Worker`.
//!
//! A submitted job goes to an idle worker, else into the queue, and a further worker is started if
//! there may be one. While threads that there may be are all busy, it goes to the [inbox](super::inbox) instead,
//! behind what is queued. A worker that has finished a job asks for the [`Next`], unless it is a process that has
//! taken one by itself of those that are [posted](super::posts). The lock covers moves in
//! the queue and in the lists only: jobs, callbacks and system calls run outside of it. How workers come and go is in
//! [`crew`], how all of it ends in [`ending`].

mod crew;
mod ending;
mod state;

use std::{
    panic::RefUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};

use super::{
    Carriage, Engine, Job, Request, Runner,
    inbox::Inbox,
    room::{Admission, Called, Census, Room},
};
use crate::{
    error::{Effect, TaskError},
    exit,
    latch::Latch,
    stats::Stats,
    task::encoded::EncodedTask,
    worker::record::{self, Role},
};
pub(crate) use crew::{Crew, Hiring, Plan, Setback};
pub(crate) use ending::Queued;
pub(super) use state::State;

pub(crate) struct Scheduler {
    id: u64,
    engine: Box<dyn Engine>,
    plan: Plan,
    /// The worker that has made it, if one has: with its id and role.
    pub(crate) maker: Option<(u64, Role)>,
    pub(super) state: Mutex<State>,
    inbox: Arc<Inbox<Arc<dyn Job>>>,
    /// Closed, nothing queued, and no worker left.
    pub(crate) vacated: Latch<()>,
    /// The same, and all callbacks were called.
    pub(crate) finished: Latch<()>,
    /// The same, or whatever its workers still do was given up: the program's end need not wait for it.
    pub(crate) released: Latch<()>,
}

// No panic leaves it half changed: user code runs outside of its locks.
impl RefUnwindSafe for Scheduler {}

/// Of the queue.
#[derive(Clone, Copy)]
enum End {
    Front,
    Back,
}

/// What a worker has just done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    Nothing,
    Job,
    /// It was the last one that it may do.
    LastJob,
}

impl After {
    pub(super) fn task(last: bool) -> Self {
        match last {
            true => After::LastJob,
            false => After::Job,
        }
    }
}

/// What a worker does next.
pub(crate) enum Next {
    Job(Arc<dyn Job>),
    /// Wait: the scheduler will give a job, or tell it to stop.
    Idle,
    /// End.
    Stop,
}

/// Keeps a scheduler, although it is closed, until all that was accepted is submitted.
pub(crate) struct Hold(Arc<Scheduler>);

impl Hold {
    pub(crate) fn scheduler(&self) -> &Scheduler {
        &self.0
    }

    /// Takes a job; if it cannot be run, the job says so.
    pub(crate) fn submit(self: Arc<Self>, job: Arc<dyn Job>) {
        let state = self.0.state.lock();
        let refusal = self.0.verdict(&state);
        let scheduler = Arc::clone(&self.0);
        // Who is told that the job has failed may wait for the workers' end, so nothing is held by then.
        if let Some(error) = refusal {
            drop(state);
            drop(self);
            scheduler.fail(job, error);
        } else if scheduler.place(state, job, End::Back) {
            drop(self);
            scheduler.start();
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.holds -= 1;
        let idle = state.dismissed();
        self.0.unlock_and_finish(state);
        for runner in idle {
            runner.stop();
        }
    }
}

impl Scheduler {
    pub(crate) fn new(engine: Box<dyn Engine>, plan: Plan) -> Arc<Scheduler> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let inbox = Arc::default();
        let scheduler = Arc::new(Scheduler {
            // Relaxed: only distinctness counts.
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            engine,
            state: Mutex::new(State {
                inbox: Arc::clone(&inbox),
                room: plan.max_pending.map(Room::new),
                ..State::default()
            }),
            inbox,
            plan,
            maker: record::worker_here(),
            vacated: Latch::new(),
            finished: Latch::new(),
            released: Latch::new(),
        });
        if !exit::watch(scheduler.id, &scheduler) {
            // Who made it is told as by any that was closed.
            scheduler.close(Queued::Runs);
        }
        scheduler
    }

    pub(crate) fn initializer(&self) -> Option<&EncodedTask> {
        self.plan.initializer.as_ref()
    }

    pub(crate) fn task_timeout(&self) -> Option<Duration> {
        self.plan.task_timeout
    }

    /// The largest frame that may carry a job to its worker, if jobs travel in frames.
    pub(crate) fn carriage(&self) -> Option<Carriage> {
        self.engine.carriage()
    }

    /// Whether only so many jobs may wait.
    pub(super) fn is_limited(&self) -> bool {
        self.plan.max_pending.is_some()
    }

    /// What counts for the room in the queue.
    pub(super) fn census(&self, state: &State) -> Census {
        Census {
            queued: state.queue.len() + state.posted(),
            idle: state.idle.len() + self.max().saturating_sub(state.live),
            coming: state.coming(),
        }
    }

    /// Gives the room that there is now to those who wait for it.
    pub(super) fn call(&self, state: &mut State) -> Called {
        if state.room.is_none() {
            return Called::default();
        }
        let (census, takes_none) = (self.census(state), state.takes_none());
        match &mut state.room {
            None => Called::default(),
            Some(room) if takes_none => room.call_all(),
            Some(room) => room.call(&census),
        }
    }

    pub(super) fn unlock_and_call(&self, mut state: MutexGuard<'_, State>) {
        let called = self.call(&mut state);
        drop(state);
        called.tell();
    }

    /// Whether its worker is a `Worker`, which runs one job and then ends.
    pub(crate) fn is_solo(&self) -> bool {
        matches!(self.plan.crew, Crew::Solo(_))
    }

    /// Whether the program's end waits for it.
    pub(crate) fn outlasts_main(&self) -> bool {
        let is_to_complete = match &self.plan.crew {
            Crew::Many { hiring, .. } => *hiring == Hiring::OnDemand,
            Crew::Solo(record) => !record.daemon(),
        };
        is_to_complete && self.released.get().is_none()
    }

    /// Whether the calling thread is one of its workers.
    pub(crate) fn is_current(&self) -> bool {
        record::worker_here().is_some_and(|worker| self.employs(worker))
    }

    /// Whether this is one of its workers, or calls on their behalf.
    pub(crate) fn employs(&self, (id, role): (u64, Role)) -> bool {
        match &self.plan.crew {
            Crew::Many { .. } => role == Role::Crew(self.id),
            Crew::Solo(record) => id == record.id(),
        }
    }

    pub(super) fn max_tasks(&self) -> Option<u64> {
        self.plan.max_tasks
    }

    pub(super) fn idle_timeout(&self) -> Option<Duration> {
        self.plan.idle_timeout
    }

    /// Takes a job; if it cannot be run, the job says so.
    pub(crate) fn submit(self: &Arc<Self>, job: Arc<dyn Job>, admission: Option<&Admission<'_>>) {
        let Err(job) = self.inbox.put(job) else {
            return;
        };
        let mut state = self.state.lock();
        if let Some(admission) = admission {
            admission.spend(&mut state.room);
        }
        let refusal = self.refusal(&state);
        self.queue(state, job, refusal, End::Back);
    }

    /// Places the job; or refuses it.
    fn queue(
        self: &Arc<Self>,
        state: MutexGuard<'_, State>,
        job: Arc<dyn Job>,
        refusal: Option<TaskError>,
        end: End,
    ) {
        if let Some(error) = refusal {
            drop(state);
            self.fail(job, error);
        } else if self.place(state, job, end) {
            self.start();
        }
    }

    /// Gives the job to an idle worker, or puts it into the queue; says whether to start a worker for it, which is
    /// counted already.
    #[must_use]
    fn place(&self, mut state: MutexGuard<'_, State>, job: Arc<dyn Job>, end: End) -> bool {
        if let Some(runner) = state.idle.pop() {
            self.hand_over(state, runner, job);
            return false;
        }
        match end {
            End::Front => {
                state.retract();
                state.queue.push_front(job);
            }
            End::Back if self.may_open(&state) => {
                self.inbox.open(job);
                return false;
            }
            End::Back => state.queue.push_back(job),
        }
        state.post();
        let grows = state.live < self.max();
        state.live += usize::from(grows);
        grows
    }

    /// Whether to keep a job is all that there is to do for those who submit, as long as the workers are busy.
    fn may_open(&self, state: &State) -> bool {
        let is_plain = self.carriage().is_none() && !self.is_limited();
        is_plain && state.live == self.max() && !state.takes_none()
    }

    /// For work that was accepted as a whole and is submitted bit by bit.
    pub(crate) fn hold(self: &Arc<Self>) -> Result<Hold, TaskError> {
        let mut state = self.state.lock();
        self.refusal(&state).map_or(Ok(()), Err)?;
        state.holds += 1;
        Ok(Hold(Arc::clone(self)))
    }

    /// Why nothing new is accepted, if that is so.
    fn refusal(&self, state: &State) -> Option<TaskError> {
        match state.closed {
            true => Some(TaskError::Shutdown),
            false => state.broken.clone(),
        }
    }

    /// Whether it was neither closed nor terminated.
    pub(crate) fn is_open(&self) -> bool {
        !self.state.lock().closed
    }

    /// Whether new jobs are accepted.
    pub(crate) fn check(&self) -> Result<(), TaskError> {
        self.refusal(&self.state.lock()).map_or(Ok(()), Err)
    }

    /// A worker could not take the job that it was given: the job comes first again.
    pub(super) fn give_back(self: &Arc<Self>, job: Arc<dyn Job>, request: Request) {
        if let Some(settled) = job.put_back(request) {
            return self.publish(job, settled);
        }
        let state = self.state.lock();
        let refusal = self.verdict(&state);
        self.queue(state, job, refusal, End::Front);
    }

    /// Why a job that was accepted before cannot run any more, if that is so.
    fn verdict(&self, state: &State) -> Option<TaskError> {
        match (state.terminated, state.cancelling) {
            (true, _) => Some(TaskError::Terminated(Effect::DidNotRun)),
            (false, true) => Some(TaskError::Cancelled),
            (false, false) => state.broken.clone(),
        }
    }

    /// Gives a job to a worker that was idle. The worker may end meanwhile and give it back, so the
    /// scheduler has not finished before that is over.
    fn hand_over(
        &self,
        mut state: MutexGuard<'_, State>,
        runner: Arc<dyn Runner>,
        job: Arc<dyn Job>,
    ) {
        state.handed += 1;
        drop(state);
        runner.give(job);
        let mut state = self.state.lock();
        state.handed -= 1;
        self.unlock_and_finish(state);
    }

    /// What the worker, which has nothing to do, does next.
    pub(crate) fn next<R: Runner + 'static>(&self, runner: &Arc<R>, after: After) -> Next {
        let mut state = self.state.lock();
        state.came_after(after);
        state.asked(runner.id());
        let next = if after == After::LastJob {
            Next::Stop
        } else if let Some(job) = state.pop() {
            state.post();
            Next::Job(job)
        } else if state.is_over() {
            Next::Stop
        } else {
            state.idle.push(Arc::clone(runner) as Arc<dyn Runner>);
            Next::Idle
        };
        self.unlock_and_call(state);
        next
    }

    pub(crate) fn stats(&self) -> Stats {
        let (mut stats, crew, purged) = {
            let mut state = self.state.lock();
            let purged = state.purge();
            let stats = Stats {
                queued: state.queue.len() + state.inbox.len() + state.posted(),
                completed: state.past.0,
                failed: state.past.1,
                restarted: state.restarted(),
                ..Stats::default()
            };
            (stats, state.crew.clone(), purged)
        };
        drop(purged);
        stats.workers = crew.iter().map(|runner| runner.stats()).collect();
        for worker in &stats.workers {
            stats.completed += worker.completed;
            stats.failed += worker.failed;
            stats.running += usize::from(worker.task.is_some());
        }
        stats
    }
}

#[cfg(all(test, not(freethreading_loom)))]
mod tests {
    use std::{io, sync::mpsc};

    use super::*;
    use crate::{
        backend::Backend, deadline, error::StartError, executor::TaskFuture, task::IntoTask,
        task::cell::TaskCell, worker::record::Record,
    };

    /// Starts no worker.
    struct Refuses;

    impl Engine for Refuses {
        fn start(&self, _: &Arc<Scheduler>, record: &Arc<Record>) -> Result<(), TaskError> {
            let error = io::Error::other("on purpose");
            Err(TaskError::Start(StartError::new(&record.name(), error)))
        }

        fn carriage(&self) -> Option<Carriage> {
            None
        }
    }

    #[test]
    fn who_is_told_that_no_worker_could_be_started_may_wait_for_the_end() {
        let plan = Plan {
            crew: Crew::Many {
                max: 1,
                prefix: "Refused".into(),
                backend: Backend::Threading,
                hiring: Hiring::AtOnce,
            },
            initializer: None,
            max_pending: None,
            task_timeout: None,
            max_tasks: None,
            idle_timeout: None,
        };
        let scheduler = Scheduler::new(Box::new(Refuses), plan);
        let hold = Arc::new(scheduler.hold().unwrap());
        let cell = TaskCell::new((|| ()).into_task());
        let (tell, told) = mpsc::channel();
        let ends = Arc::clone(&scheduler);
        TaskFuture::new(Arc::clone(&cell) as _).add_done_callback(move |_| {
            ends.close(Queued::Runs);
            let has_ended = ends.finished.wait(deadline::after(Duration::from_secs(10)));
            tell.send(has_ended.is_some()).unwrap();
        });
        hold.submit(cell);
        assert!(told.recv().unwrap());
    }
}
