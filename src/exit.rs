//! The end of the program: what is to be completed is waited for, the rest is stopped.
#![allow(unsafe_code)]

use std::{
    collections::BTreeMap,
    io::{self, Write},
    sync::{
        Arc, Once, Weak,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use parking_lot::Mutex;

use crate::{
    engine::{Scheduler, scheduler::Queued},
    fork, unwind,
    worker::record::{self, Role},
};

/// All schedulers that have not finished.
static WATCHED: Mutex<BTreeMap<u64, Weak<Scheduler>>> = Mutex::new(BTreeMap::new());

/// Whether there was a worker that is a thread.
static HAD_THREADS: AtomicBool = AtomicBool::new(false);

/// The program's end looks after this scheduler.
pub(crate) fn watch(id: u64, scheduler: &Arc<Scheduler>) {
    static REGISTER: Once = Once::new();
    REGISTER.call_once(|| {
        // SAFETY: the function has the required signature and does not unwind. It is part of this
        // image, which is not unloaded: threads that run its code are never all gone.
        unsafe { libc::atexit(at_exit) };
    });
    fork::watch();
    // Relaxed: who has started a worker returns from `main` afterwards.
    HAD_THREADS.fetch_or(scheduler.carriage().is_none(), Ordering::Relaxed);
    WATCHED.lock().insert(id, Arc::downgrade(scheduler));
}

/// The scheduler has finished.
pub(crate) fn unwatch(id: u64) {
    WATCHED.lock().remove(&id);
}

extern "C" fn at_exit() {
    // The workers are those of another process.
    if !fork::is_forked() {
        unwind::contain(end_workers);
    }
}

fn end_workers() {
    // A thread that ends the program from within a task would wait for itself.
    let (_, role) = record::current_role();
    if matches!(role, Role::Main | Role::Foreign) {
        wait_for_workers();
        if HAD_THREADS.load(Ordering::Relaxed) {
            flush_stdout();
        }
    }
    // Threads end with the program. Processes would, too, but nobody would wait for them.
    let killed = watched(|scheduler| scheduler.carriage().is_some());
    for scheduler in &killed {
        scheduler.close(Queued::IsAllCancelled);
        scheduler.kill();
    }
    for scheduler in killed {
        // Their callbacks are not waited for.
        scheduler.vacated.wait(None);
    }
}

fn wait_for_workers() {
    loop {
        let waited_for = watched(Scheduler::outlasts_main);
        if waited_for.is_empty() {
            break;
        }
        for scheduler in &waited_for {
            scheduler.close(Queued::Runs);
        }
        for scheduler in waited_for {
            scheduler.released.wait(None);
        }
    }
}

/// Writes out what threads have printed. std does that when `main` has returned, unless one of them is printing just
/// then.
fn flush_stdout() {
    /// How long to wait for it: a thread that ends with the program may have locked it, and keep it.
    const PATIENCE: Duration = Duration::from_millis(200);

    let (sender, is_flushed) = mpsc::channel();
    let flush = move || {
        let _ = io::stdout().flush();
        let _ = sender.send(());
    };
    if thread::Builder::new().spawn(flush).is_ok() {
        let _ = is_flushed.recv_timeout(PATIENCE);
    }
}

/// The schedulers that have not finished and for which `which` holds.
pub(crate) fn watched(which: impl Fn(&Scheduler) -> bool) -> Vec<Arc<Scheduler>> {
    let all: Vec<_> = WATCHED.lock().values().filter_map(Weak::upgrade).collect();
    all.into_iter()
        .filter(|scheduler| which(scheduler))
        .collect()
}
