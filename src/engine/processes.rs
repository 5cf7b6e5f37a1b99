//! Workers that are processes: this executable, run again, driven over pipes.
//!
//! - [`launcher`] starts the process, [`child`] is what the process does,
//! - [`wire`] is what they say to each other,
//! - [`link`] is the parent's end of one worker, [`stderr`] what becomes of its error output,
//! - [`tidy`] gives memory back.
//!
//! All links live on the thread of the [`reactor`].

pub(crate) mod child;
pub(crate) mod launcher;
mod link;
mod stderr;
pub(crate) mod tidy;
pub(crate) mod wire;

use std::{io, sync::Arc, thread};

use tokio::runtime::Handle;

use super::{Carriage, Engine, Runner, Scheduler, reactor, runner_id};
use crate::{
    backend::Backend,
    error::{Error, StartError, TaskError},
    exit, init,
    worker::record::Record,
};
use launcher::{Launcher, START_TIMEOUT, Surroundings};
use link::{Link, Terms};
use stderr::Errors;

/// The largest frame, where the user says nothing else.
pub(crate) const DEFAULT_MAX_FRAME_LEN: usize = 1 << 30;

/// How worker processes are to be.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) launcher: Option<Launcher>,
    pub(crate) max_frame_len: usize,
    /// How much memory each may have of its own, in bytes.
    pub(crate) memory_limit: Option<u64>,
    pub(crate) surroundings: Surroundings,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            launcher: None,
            max_frame_len: DEFAULT_MAX_FRAME_LEN,
            memory_limit: None,
            surroundings: Surroundings::default(),
        }
    }
}

/// Starts worker processes.
pub(crate) struct Processes {
    launcher: Option<Launcher>,
    surroundings: Surroundings,
    terms: Terms,
}

impl Processes {
    pub(crate) fn new(options: Options) -> Result<Self, Error> {
        init::check()?;
        exit::check()?;
        let launcher = options.launcher.as_ref();
        Ok(Processes {
            terms: Terms {
                backend: Backend::of_thread(),
                max_frame_len: options.max_frame_len,
                memory_limit: options.memory_limit,
                start_timeout: launcher.map_or(START_TIMEOUT, |launcher| launcher.start_timeout),
                remote: launcher.is_some(),
            },
            launcher: options.launcher,
            surroundings: options.surroundings,
        })
    }
}

impl Engine for Processes {
    fn start(&self, scheduler: &Arc<Scheduler>, record: &Arc<Record>) -> Result<(), TaskError> {
        let id = runner_id();
        let failed = |error| TaskError::Start(StartError::new(&record.name(), error));
        let reactor = reactor::handle().map_err(failed)?;
        let launch = || {
            // The child is registered with the reactor by the thread that starts it.
            let _context = reactor.enter();
            launcher::launch(self.launcher.as_ref(), &self.surroundings)
        };
        // A thread whose thread-locals are gone cannot enter: another one does it.
        let gone = Handle::try_current().is_err_and(|error| error.is_thread_local_destroyed());
        let (launched, errors) = match gone {
            false => launch(),
            true => elsewhere(launch),
        }
        .map_err(failed)?;
        let (errors, passing) = Errors::new(errors);
        let link = Link::new(
            id,
            Arc::clone(record),
            Arc::clone(scheduler),
            &launched,
            errors,
            self.terms,
        );
        let link = Arc::new(link);
        link.enlist();
        record.begin(Some(launched.pid), Arc::clone(&link) as Arc<dyn Runner>);
        // These tasks end by themselves, with the process. The reactor is woken once for both.
        drop(reactor.spawn(async {
            drop(tokio::spawn(passing));
            link.drive(launched).await;
        }));
        Ok(())
    }

    fn carriage(&self) -> Option<Carriage> {
        Some(self.terms.carriage())
    }
}

/// Calls the code on a thread of its own.
fn elsewhere<T: Send>(code: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let called = thread::Builder::new().spawn_scoped(scope, code)?.join();
        called.unwrap_or_else(|_| {
            Err(io::Error::other(
                "the thread that was to do it has panicked",
            ))
        })
    })
}
