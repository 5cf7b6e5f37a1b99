//! Spans for tasks and events of workers, with the feature `trace`; without it, nothing.
//!
//! A task runs in a span `task` with the path of its function. On a thread that is a child of the span in
//! which the task was submitted. A worker process has a subscriber of its own, if the program gives it
//! one, which knows nothing of the spans of others: there the span says by `origin` and `origin_id`
//! which one it was.

/// The target of all that is told: whoever filters it need not know the modules.
pub(crate) const TARGET: &str = "freethreading";

#[cfg(feature = "trace")]
mod imp {
    use std::fmt;

    use serde::{Deserialize, Serialize};
    use tracing::Span;

    use super::TARGET;
    use crate::{
        codec::Encoded,
        engine::{Carriage, Payload, Request},
        error::{Panic, TaskError},
        task::{entry::Failure, work::Work},
        unwind,
    };

    /// The span in which a task was submitted, for another process.
    #[derive(Clone, Debug, Serialize, Deserialize)]
    pub(crate) struct Origin(Option<(u64, String)>);

    impl Origin {
        pub(crate) fn here() -> Self {
            let span = Span::current();
            let named = span.id().zip(span.metadata());
            Origin(named.map(|(id, metadata)| (id.into_u64(), metadata.name().to_owned())))
        }

        pub(crate) fn none() -> Self {
            Origin(None)
        }

        /// Runs a task that came from there. What a subscriber does is the task's own doing, as on a thread.
        pub(crate) fn run<T>(
            self,
            function: &'static str,
            task: impl FnOnce() -> Result<T, Failure>,
        ) -> Result<T, Failure> {
            let run = || {
                let span = match self.0 {
                    Some((origin_id, origin)) => {
                        tracing::info_span!(target: TARGET, "task", function, origin, origin_id)
                    }
                    None => tracing::info_span!(target: TARGET, "task", function),
                };
                span.in_scope(task)
            };
            unwind::catch(run).unwrap_or_else(|panic| Err(Failure::Panicked(panic)))
        }
    }

    /// The span in which something was asked for that is submitted bit by bit.
    pub(crate) struct Scope(Span);

    impl Scope {
        pub(crate) fn here() -> Self {
            Scope(Span::current())
        }

        /// Makes some of it, unless a subscriber panics.
        pub(crate) fn run<T>(&self, make: impl FnOnce() -> T) -> Result<T, Panic> {
            unwind::catch(|| self.0.in_scope(make))
        }
    }

    /// Work that remembers in which span it was submitted.
    pub(crate) struct Traced<W> {
        span: Span,
        work: W,
    }

    pub(crate) fn traced<W: Work>(work: W) -> Traced<W> {
        let span = Span::current();
        Traced { span, work }
    }

    impl<W: Work> Work for Traced<W> {
        type Output = W::Output;

        fn name(&self) -> fn() -> &'static str {
            self.work.name()
        }

        fn call(self) -> W::Output {
            let function = self.work.name()();
            let span = tracing::info_span!(target: TARGET, parent: &self.span, "task", function);
            span.in_scope(|| self.work.call())
        }

        fn request(&self, id: u64, carriage: Carriage) -> Result<Request, TaskError> {
            self.work.request(id, carriage)
        }

        fn has_failed(output: &W::Output) -> bool {
            W::has_failed(output)
        }

        fn has_failed_elsewhere(payload: &Payload) -> bool {
            W::has_failed_elsewhere(payload)
        }

        fn decode(payload: Encoded<'_>) -> Result<W::Output, TaskError> {
            W::decode(payload)
        }
    }

    pub(crate) fn worker_started(worker: &str, pid: Option<u32>) {
        // The worker goes on, whatever a subscriber does.
        unwind::contain(|| tracing::debug!(target: TARGET, worker, pid, "a worker has started"));
    }

    pub(crate) fn worker_ended(worker: &str, verdict: &Result<(), TaskError>, on_purpose: bool) {
        unwind::contain(|| match verdict {
            Ok(()) => tracing::debug!(target: TARGET, worker, "a worker has ended"),
            Err(error) if on_purpose => {
                let error = Cause(error);
                tracing::debug!(target: TARGET, worker, %error, "a worker was ended");
            }
            Err(error) => {
                let error = Cause(error);
                tracing::warn!(target: TARGET, worker, %error, "a worker has ended");
            }
        });
    }

    /// Why a worker has ended. Where that names no task, it says nothing of one: the tasks' own errors say what
    /// became of them.
    struct Cause<'a>(&'a TaskError);

    impl fmt::Display for Cause<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            match self.0 {
                TaskError::WorkerDied(died) if died.task().is_none() => {
                    write!(f, "process {} {}", died.pid(), died.death())?;
                    match died.stderr() {
                        "" => Ok(()),
                        stderr => write!(f, "; its standard error ended with:\n{stderr}"),
                    }
                }
                error => error.fmt(f),
            }
        }
    }
}

#[cfg(not(feature = "trace"))]
mod imp {
    use serde::{Deserialize, Serialize};

    use crate::{
        error::{Panic, TaskError},
        task::work::Work,
    };

    #[derive(Clone, Debug, Serialize, Deserialize)]
    pub(crate) struct Origin;

    impl Origin {
        pub(crate) fn here() -> Self {
            Origin
        }

        pub(crate) fn none() -> Self {
            Origin
        }

        pub(crate) fn run<T>(self, _function: &'static str, task: impl FnOnce() -> T) -> T {
            task()
        }
    }

    pub(crate) struct Scope;

    impl Scope {
        pub(crate) fn here() -> Self {
            Scope
        }

        pub(crate) fn run<T>(&self, make: impl FnOnce() -> T) -> Result<T, Panic> {
            Ok(make())
        }
    }

    pub(crate) fn traced<W: Work>(work: W) -> W {
        work
    }

    pub(crate) fn worker_started(_worker: &str, _pid: Option<u32>) {}

    pub(crate) fn worker_ended(_worker: &str, _verdict: &Result<(), TaskError>, _on_purpose: bool) {
    }
}

pub(crate) use imp::*;
