//! The end of a scheduler: no more jobs, or no more workers.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::MutexGuard;

use super::{Scheduler, State};
use crate::{
    engine::{Job, Settled, SettledJob, aside, reactor, settle},
    error::{Effect, TaskError},
    exit, unwind,
    worker::record::OnBehalfOf,
};

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

impl Settled {
    /// Whether another thread is to publish it: this one serves worker processes, and must not call back.
    fn is_published_aside(self) -> bool {
        self.calls_back && reactor::is_served_here()
    }
}

impl Scheduler {
    /// Accepts no more jobs. Workers end when they are through.
    pub(crate) fn close(self: &Arc<Self>, queued: Queued) {
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
            Vec::new()
        });
    }

    /// Accepts no more jobs and ends the workers: all jobs without a result fail at once.
    pub(crate) fn terminate(self: &Arc<Self>) {
        let mut state = self.state.lock();
        state.closed = true;
        state.shut();
        state.terminated = true;
        let idle = std::mem::take(&mut state.idle);
        let queued = state.take_all();
        let crew = state.crew.clone();
        let error = TaskError::Terminated(Effect::DidNotRun);
        self.fail_all(state, queued, error, || {
            let at_hand = crew.iter().flat_map(|runner| runner.terminate());
            let at_hand = at_hand.collect();
            idle.iter().for_each(|runner| runner.stop());
            at_hand
        });
    }

    /// Fails jobs that were accepted, once something else is done, which may give others that have failed. The end does
    /// not come before: who waits for it finds all outcomes.
    pub(super) fn fail_all(
        self: &Arc<Self>,
        mut state: MutexGuard<'_, State>,
        jobs: VecDeque<Arc<dyn Job>>,
        error: TaskError,
        first: impl FnOnce() -> Vec<SettledJob>,
    ) {
        state.handed += 1;
        drop(state);
        let mut settled = first();
        settled.extend(jobs.into_iter().map(|job| settle(job, error.clone())));
        // The end waits for callbacks that others call,
        let is_for_others = |(_, settled): &SettledJob| settled.is_published_aside();
        let (for_others, settled): (Vec<_>, _) = settled.into_iter().partition(is_for_others);
        for (job, settled) in for_others {
            self.publish(job, settled);
        }
        let mut state = self.state.lock();
        state.handed -= 1;
        self.unlock_and_finish(state);
        // but who is told here may wait for the end.
        for (job, _) in settled {
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

    /// Kills the workers that can be killed, and those that are just being started as soon as they are.
    pub(crate) fn kill(&self) {
        let crew = {
            let mut state = self.state.lock();
            state.terminated = true;
            state.crew.clone()
        };
        for runner in crew {
            runner.kill();
        }
    }

    /// Blocks until nothing is left of the workers; call it after `finished`.
    pub(crate) fn reap(&self) {
        self.engine.reap();
    }

    pub(super) fn unlock_and_finish(&self, mut state: MutexGuard<'_, State>) {
        let called = self.call(&mut state);
        let vacated = state.is_over() && state.live == 0 && state.handed == 0 && !state.has_jobs();
        let finished = vacated && state.calling == 0;
        // Processes are gone in a moment. A thread goes on for as long as it likes, for nobody.
        let is_settled = state.terminated && state.handed == 0 && state.calling == 0;
        let released = finished || is_settled && self.carriage().is_none();
        drop(state);
        called.tell();
        if vacated {
            self.vacated.set(());
        }
        if finished {
            exit::unwatch(self.id);
            self.finished.set(());
        }
        if released {
            self.released.set(());
        }
    }

    /// Ends a job that no worker has.
    pub(in crate::engine) fn fail(self: &Arc<Self>, job: Arc<dyn Job>, error: TaskError) {
        let (job, settled) = settle(job, error);
        self.publish(job, settled);
    }

    /// Tells who waits for a job that it is settled. Callbacks are called by the thread that does, or, if that serves
    /// worker processes, on behalf of the workers by another one, and the end comes after them.
    pub(in crate::engine) fn publish(self: &Arc<Self>, job: Arc<dyn Job>, settled: Settled) {
        if !settled.is_published_aside() {
            return job.publish();
        }
        self.state.lock().calling += 1;
        let scheduler = Arc::clone(self);
        aside::off_the_reactor(move || {
            let on_behalf = OnBehalfOf::crew(scheduler.id);
            unwind::contain(|| job.publish());
            drop(on_behalf);
            let mut state = scheduler.state.lock();
            state.calling -= 1;
            scheduler.unlock_and_finish(state);
        });
    }
}
