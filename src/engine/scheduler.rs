//! The queue and the workers of one executor, or of one `Worker`.
//!
//! A submitted job goes to an idle worker, else into the queue, and a further worker is started if
//! there may be one. While threads that there may be are all busy, it goes to the [inbox](super::inbox) instead,
//! behind what is queued. A worker that has finished a job asks for the [`Next`], unless it is a process that has
//! taken one by itself of those that are [posted](super::posts). The lock covers moves in
//! the queue and in the lists only: jobs, callbacks and system calls run outside of it. How workers come and go is in
//! [`crew`].

mod crew;

use std::{
    collections::VecDeque,
    panic::RefUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};

use super::{
    Engine, Job, Runner, fail,
    inbox::Inbox,
    posts::Posts,
    processes::wire::Carriage,
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

pub(crate) struct Scheduler {
    id: u64,
    engine: Box<dyn Engine>,
    plan: Plan,
    pub(super) state: Mutex<State>,
    inbox: Arc<Inbox<Arc<dyn Job>>>,
    /// Closed, nothing queued, and no worker left.
    pub(crate) finished: Latch<()>,
}

// No panic leaves it half changed: user code runs outside of its locks.
impl RefUnwindSafe for Scheduler {}

pub(super) struct State {
    pub(super) queue: VecDeque<Arc<dyn Job>>,
    /// What was submitted while all workers were busy, and comes after the queue.
    pub(super) inbox: Arc<Inbox<Arc<dyn Job>>>,
    /// How many tasks of this program had been cancelled when it was last looked for them.
    pub(super) cancelled: u64,
    /// Where the queue is limited.
    pub(super) room: Option<Room>,
    /// What the workers take by themselves, where they can.
    pub(super) posts: Option<Posts>,
    /// There is no memory for that, or it is not to be.
    pub(super) has_no_board: bool,
    /// Workers that are ended for the sake of a job, and must not come to another.
    pub(super) doomed: Vec<u64>,
    /// Workers that wait to be given a job; the one that worked last is at the end.
    pub(super) idle: Vec<Arc<dyn Runner>>,
    /// All workers that were started and have not ended.
    pub(super) crew: Vec<Arc<dyn Runner>>,
    /// Those of them that have not asked for a job yet.
    fresh: Vec<u64>,
    /// Their number, and those that are being started.
    live: usize,
    /// Jobs that were taken for an idle worker and have not reached it yet, and whatever else has to be done before
    /// the end.
    handed: usize,
    /// How many were ever named.
    named: usize,
    /// How many workers took the place of one that had ended.
    restarted: u64,
    /// How many tasks of workers that have ended gave a result, and how many an error.
    past: (u64, u64),
    /// How many [`Hold`]s there are.
    holds: usize,
    /// Which numbers below `max` the workers have.
    ranks: Vec<bool>,
    closed: bool,
    /// Closed, and what has not begun is cancelled.
    pub(super) cancelling: bool,
    /// Closed, and no worker is to finish what it has.
    pub(super) terminated: bool,
    pub(super) broken: Option<TaskError>,
    setbacks: u32,
    interruptions: u32,
    /// How many workers there were when one died, at most, since one was of use.
    peak: usize,
}

/// What becomes of the jobs that wait when no more are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Queued {
    Runs,
    /// But for what the workers that are on their way will take: they were started for it.
    IsCancelled,
    IsAllCancelled,
}

impl Queued {
    pub(crate) fn cancelled_if(cancel: bool) -> Self {
        match cancel {
            true => Queued::IsCancelled,
            false => Queued::Runs,
        }
    }
}

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
        if let Some(error) = self.0.verdict(&state) {
            drop(state);
            // Who is told may wait for the workers' end.
            drop(self);
            return fail(job, error);
        }
        self.0.queue(state, job, None, End::Back);
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

impl State {
    /// Whether jobs are refused from now on.
    pub(super) fn takes_none(&self) -> bool {
        self.closed || self.broken.is_some()
    }

    /// How many workers are on their way to their first job.
    fn coming(&self) -> usize {
        self.live.saturating_sub(self.crew.len()) + self.fresh.len()
    }

    /// A worker asks for a job, or never will.
    fn asked(&mut self, id: u64) {
        self.fresh.retain(|&fresh| fresh != id);
    }

    /// A worker was of use.
    pub(super) fn came_after(&mut self, after: After) {
        if after != After::Nothing {
            self.setbacks = 0;
            self.interruptions = 0;
            self.peak = 0;
        }
    }

    /// What is submitted from now on has more to be done for it than to be kept.
    fn shut(&mut self) {
        self.inbox.shut(&mut self.queue);
    }

    /// Whether no job will come any more.
    fn is_over(&self) -> bool {
        self.closed && self.holds == 0
    }

    /// The idle workers, if they are to end.
    fn dismissed(&mut self) -> Vec<Arc<dyn Runner>> {
        match self.is_over() {
            true => std::mem::take(&mut self.idle),
            false => Vec::new(),
        }
    }
}

impl Scheduler {
    pub(crate) fn new(engine: Box<dyn Engine>, plan: Plan) -> Arc<Scheduler> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let inbox = Arc::new(Inbox::new());
        let scheduler = Arc::new(Scheduler {
            // Relaxed: only distinctness counts.
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            engine,
            state: Mutex::new(State {
                queue: VecDeque::new(),
                inbox: Arc::clone(&inbox),
                cancelled: 0,
                room: plan.max_pending.map(Room::new),
                posts: None,
                has_no_board: false,
                doomed: Vec::new(),
                idle: Vec::new(),
                crew: Vec::new(),
                fresh: Vec::new(),
                live: 0,
                handed: 0,
                named: 0,
                restarted: 0,
                past: (0, 0),
                holds: 0,
                ranks: Vec::new(),
                closed: false,
                cancelling: false,
                terminated: false,
                broken: None,
                setbacks: 0,
                interruptions: 0,
                peak: 0,
            }),
            inbox,
            plan,
            finished: Latch::new(),
        });
        exit::watch(scheduler.id, &scheduler);
        scheduler
    }

    pub(super) fn plan(&self) -> &Plan {
        &self.plan
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

    /// Whether its worker is a `Worker`, which runs one job and then ends.
    pub(crate) fn is_solo(&self) -> bool {
        matches!(self.plan.crew, Crew::Solo(_))
    }

    /// Whether the program's end waits for it.
    pub(crate) fn outlasts_main(&self) -> bool {
        match &self.plan.crew {
            Crew::Many { hiring, .. } => *hiring == Hiring::OnDemand,
            Crew::Solo(record) => !record.daemon(),
        }
    }

    /// Whether the calling thread is one of its workers.
    pub(crate) fn is_current(&self) -> bool {
        match &self.plan.crew {
            Crew::Many { .. } => record::current_role().1 == Role::Crew(self.id),
            Crew::Solo(record) => record::current_role().0 == record.id(),
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

    /// Gives the job to an idle worker, or puts it into the queue; or refuses it.
    fn queue(
        self: &Arc<Self>,
        mut state: MutexGuard<'_, State>,
        job: Arc<dyn Job>,
        refusal: Option<TaskError>,
        end: End,
    ) {
        if let Some(error) = refusal {
            drop(state);
            return fail(job, error);
        }
        if let Some(runner) = state.idle.pop() {
            return self.hand_over(state, runner, job);
        }
        match end {
            End::Front => {
                state.retract();
                state.queue.push_front(job);
            }
            End::Back if self.may_open(&state) => return self.inbox.open(job),
            End::Back => state.queue.push_back(job),
        }
        state.post();
        let grow = state.live < self.max();
        if grow {
            state.live += 1;
            drop(state);
            self.start();
        }
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
    pub(crate) fn give_back(self: &Arc<Self>, job: Arc<dyn Job>) {
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
        if state.room.is_some() {
            let called = self.call(&mut state);
            drop(state);
            called.tell();
        }
        next
    }

    /// Accepts no more jobs. Workers end when they are through.
    pub(crate) fn close(&self, queued: Queued) {
        let mut state = self.state.lock();
        state.closed = true;
        state.shut();
        state.cancelling |= queued != Queued::Runs;
        let idle = state.dismissed();
        let spared = match queued {
            Queued::Runs => usize::MAX,
            Queued::IsCancelled => state.coming(),
            Queued::IsAllCancelled => 0,
        };
        let mut cancelled = VecDeque::new();
        if state.cancelling {
            let mut queue = state.take_all();
            cancelled = queue.split_off(spared.min(queue.len()));
            state.queue = queue;
        }
        self.fail_all(state, cancelled, TaskError::Cancelled, || {
            idle.iter().for_each(|runner| runner.stop());
        });
    }

    /// Accepts no more jobs and ends the workers: all jobs without a result fail at once.
    pub(crate) fn terminate(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.shut();
        state.terminated = true;
        let idle = std::mem::take(&mut state.idle);
        let queued = state.take_all();
        let crew = state.crew.clone();
        let error = TaskError::Terminated(Effect::DidNotRun);
        self.fail_all(state, queued, error, || {
            crew.iter().for_each(|runner| runner.terminate());
            idle.iter().for_each(|runner| runner.stop());
        });
    }

    /// Fails jobs that were accepted, once something else is done. The end does not come before: who waits for it finds
    /// all outcomes.
    fn fail_all(
        &self,
        mut state: MutexGuard<'_, State>,
        jobs: VecDeque<Arc<dyn Job>>,
        error: TaskError,
        first: impl FnOnce(),
    ) {
        state.handed += 1;
        drop(state);
        first();
        for job in &jobs {
            let _ = job.settle(Err(error.clone()));
        }
        let mut state = self.state.lock();
        state.handed -= 1;
        self.unlock_and_finish(state);
        // Who is told may wait for the end.
        for job in jobs {
            job.publish();
        }
    }

    /// Asks the tasks that run to end.
    pub(crate) fn ask(&self) {
        let crew = self.state.lock().crew.clone();
        for runner in crew {
            runner.ask();
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        let (mut stats, crew, purged) = {
            let mut state = self.state.lock();
            state.harvest();
            let purged = state.purge();
            let stats = Stats {
                queued: state.queue.len() + state.inbox.len() + state.still_posted(),
                completed: state.past.0,
                failed: state.past.1,
                restarted: state.restarted,
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

    /// Kills the workers that can be killed; `false` if there was one that cannot.
    pub(crate) fn kill(&self) -> bool {
        let crew: Vec<_> = self.state.lock().crew.to_vec();
        crew.iter().all(|runner| runner.kill())
    }

    /// Blocks until nothing is left of the workers; call it after `finished`.
    pub(crate) fn reap(&self) {
        self.engine.reap();
    }

    fn unlock_and_finish(&self, mut state: MutexGuard<'_, State>) {
        let called = self.call(&mut state);
        let finished = state.is_over() && state.live == 0 && state.handed == 0 && !state.has_jobs();
        drop(state);
        called.tell();
        if finished {
            exit::unwatch(self.id);
            self.finished.set(());
        }
    }
}
