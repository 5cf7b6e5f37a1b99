//! A task as its scheduler and its worker see it.

use std::{sync::Arc, time::Duration};

use super::{Input, Outcome, Stage, TaskCell};
use crate::{
    engine::{Job, Orders, Payload, Post, Posting, Request, Runner, Settled},
    error::TaskError,
    executor::TaskFuture,
    fork,
    task::work::Work,
    unwind,
};

impl<W: Work> Job for TaskCell<W> {
    fn name(&self) -> &'static str {
        (self.name)()
    }

    fn call(&self, limit: Option<Duration>) -> Option<Settled> {
        let Input::Work(work) = self.begin(None, limit)? else {
            unreachable!("an encoded task was given to a thread");
        };
        let outcome = fork::once(|| unwind::catch(|| work.call()));
        Some(self.decide(outcome.map_err(TaskError::Panicked)))
    }

    fn take_request(&self, runner: Arc<dyn Runner>, limit: Option<Duration>) -> Option<Request> {
        match self.begin(Some(runner), limit)? {
            Input::Request(mut request) => {
                request.posting = None;
                Some(*request)
            }
            Input::Work(_) => unreachable!("a task was given to a process without being encoded"),
        }
    }

    fn put_back(&self, request: Request) -> Option<Settled> {
        let mut state = self.state.lock();
        if !matches!(state.stage, Stage::Running(_)) {
            return None;
        }
        if let Some(waiting) = &mut state.waiting {
            if waiting.orders.stop {
                drop(state);
                return Some(self.settle(Err(TaskError::Cancelled)));
            }
            waiting.orders.deadline = None;
        }
        let pending = Stage::Pending(Input::Request(Box::new(request)));
        let running = std::mem::replace(&mut state.stage, pending);
        drop(state);
        drop(running);
        None
    }

    fn post(&self, post: &mut dyn FnMut(&Request) -> Option<Posting>) -> Post {
        let mut state = self.state.lock();
        let Stage::Pending(Input::Request(request)) = &mut state.stage else {
            return Post::Over;
        };
        request.posting = post(request);
        match request.posting {
            Some(_) => Post::Posted,
            None => Post::Unfit,
        }
    }

    fn unpost(&self) {
        if let Stage::Pending(Input::Request(request)) = &mut self.state.lock().stage {
            request.posting = None;
        }
    }

    fn orders(&self) -> Orders {
        let state = self.state.lock();
        let waiting = state.waiting.as_ref();
        waiting.map_or(Orders::default(), |waiting| waiting.orders)
    }

    fn is_settled(&self) -> bool {
        self.state.lock().is_settled()
    }

    fn error(&self) -> Option<TaskError> {
        match &self.state.lock().stage {
            Stage::Settled {
                outcome: Outcome::Error(error),
                ..
            } => Some(error.clone()),
            _ => None,
        }
    }

    fn settle(&self, outcome: Result<Payload, TaskError>) -> Settled {
        self.settle_with(match outcome {
            Ok(payload) => Outcome::Encoded(Box::new(payload)),
            Err(error) => Outcome::Error(error),
        })
    }

    fn publish(self: Arc<Self>) {
        let waiting = {
            let mut state = self.state.lock();
            if let Stage::Settled { published, .. } = &mut state.stage {
                *published = true;
            }
            state.waiting.take()
        };
        if let Some(waiting) = waiting {
            waiting.tell(|| TaskFuture::new(self));
        }
    }
}
