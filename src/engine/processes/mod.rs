//! Workers that are processes: this executable, run again, driven over pipes.
//!
//! - [`launcher`] starts the process, [`child`] is what the process does,
//! - [`wire`] is what they say to each other,
//! - [`link`] is the parent's end of one worker,
//! - [`reactor`] is the thread that all links live on.

pub(crate) mod child;
pub(crate) mod launcher;
mod link;
pub(crate) mod reactor;
pub(crate) mod wire;

use std::sync::Arc;

use super::{Engine, Runner, Scheduler, threads};
use crate::{
    backend::Backend,
    error::{Error, StartError, TaskError},
    init,
};
use launcher::Launcher;
use link::{Link, Terms};
use wire::Carriage;

/// The largest frame, where the user says nothing else.
pub(crate) const DEFAULT_MAX_FRAME_LEN: usize = 1 << 30;

/// Starts worker processes.
pub(crate) struct Processes {
    launcher: Option<Launcher>,
    terms: Terms,
}

impl Processes {
    pub(crate) fn new(launcher: Option<Launcher>, max_frame_len: usize) -> Result<Self, Error> {
        init::check()?;
        Ok(Processes {
            terms: Terms {
                backend: Backend::of_thread(),
                max_frame_len,
                remote: launcher.is_some(),
            },
            launcher,
        })
    }
}

impl Engine for Processes {
    fn start(&self, scheduler: &Arc<Scheduler>) -> Result<(), TaskError> {
        let record = scheduler.recruit();
        let id = threads::runner_id();
        let failed = |error| TaskError::Start(StartError::new(&record.name(), error));
        let reactor = reactor::handle().map_err(failed)?;
        let launched = {
            // The child is registered with the reactor by the thread that starts it.
            let _context = reactor.enter();
            launcher::launch(self.launcher.as_ref()).map_err(failed)?
        };
        let (pid, scheduler) = (launched.pid, Arc::clone(scheduler));
        let link = Arc::new(Link::new(id, Arc::clone(&record), scheduler, pid));
        link.enlist();
        record.begin(Some(pid), Arc::clone(&link) as Arc<dyn Runner>);
        // The link's task ends by itself, with the process.
        drop(reactor.spawn(link.drive(launched, self.terms)));
        Ok(())
    }

    fn carriage(&self) -> Option<Carriage> {
        Some(self.terms.carriage())
    }
}
