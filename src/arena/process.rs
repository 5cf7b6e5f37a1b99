//! The table of processes that use the arena.

use super::{arena, me, pool::Unit, reaper, sys};
use crate::shim::{AtomicU32, AtomicU64, Futex, Ordering};

/// What a process's tag says while it runs.
pub(super) const RUNNING: u16 = 1;

/// How many words of bits a bell has.
pub(super) const BELL_WORDS: usize = if cfg!(freethreading_loom) { 1 } else { 64 };

/// What the others know of a process.
#[repr(C, align(1024))]
pub(crate) struct Process {
    tag: AtomicU64,
    pid: AtomicU32,
    /// The index of the process that started it.
    parent: AtomicU32,
    /// When it started, as the system counts; zero until it says so.
    started: AtomicU64,
    /// It ends because it has nothing more to do.
    leaving: AtomicU32,
    /// Its task is asked to end; says the process that started it.
    asked: AtomicU32,
    /// What the thread that hears the bell sleeps on: 1 if it was rung.
    pub(super) bell: Futex,
    /// For which of its tasks.
    pub(super) bits: [AtomicU64; BELL_WORDS],
}

impl Default for Process {
    fn default() -> Self {
        Process {
            tag: AtomicU64::default(),
            pid: AtomicU32::default(),
            parent: AtomicU32::default(),
            started: AtomicU64::default(),
            leaving: AtomicU32::default(),
            asked: AtomicU32::default(),
            bell: Futex::default(),
            bits: std::array::from_fn(|_| AtomicU64::default()),
        }
    }
}

impl Unit for Process {
    fn tag(&self) -> &AtomicU64 {
        &self.tag
    }

    // Relaxed: freeing the unit publishes it.
    fn reset(&self) {
        self.pid.store(0, Ordering::Relaxed);
        self.parent.store(0, Ordering::Relaxed);
        self.started.store(0, Ordering::Relaxed);
        self.leaving.store(0, Ordering::Relaxed);
        self.asked.store(0, Ordering::Relaxed);
        self.bell.store(0, Ordering::Relaxed);
        for bits in &self.bits {
            bits.store(0, Ordering::Relaxed);
        }
    }

    #[cfg(freethreading_loom)]
    fn new() -> Self {
        Process::default()
    }
}

impl Process {
    /// Says, from within the process, what it is.
    pub(super) fn register(&self) {
        if let Some(started) = sys::own_start() {
            self.started.store(started, Ordering::Relaxed);
        }
        // Who started it says it, too, and counts: it may have another number there.
        let pid = std::process::id();
        let _ = self
            .pid
            .compare_exchange(0, pid, Ordering::Release, Ordering::Relaxed);
    }

    /// Whether the process exists no more.
    fn is_dead(&self) -> bool {
        let pid = self.pid.load(Ordering::Acquire);
        if pid == 0 {
            return false;
        }
        match sys::process_state(pid) {
            // Or this process cannot look: it has no descriptor left, or does not see `/proc`.
            None => sys::is_gone(pid),
            Some((b'Z' | b'X', _)) => true,
            Some((_, started)) => {
                let noted = self.started.load(Ordering::Relaxed);
                noted != 0 && noted != started
            }
        }
    }

    /// Orphans come to the first process of a container, and to whoever asks for them: it is for this one then to wait
    /// for it.
    fn wait_for_orphan(&self) {
        let pid = self.pid.load(Ordering::Acquire);
        let ended = Some((b'Z', self.started.load(Ordering::Relaxed)));
        if sys::process_state(pid) == ended {
            sys::wait_for_ended(pid);
        }
    }
}

/// The process with this index.
pub(super) fn process(index: u16) -> Option<&'static Process> {
    arena().processes.get(u32::from(index))
}

/// Whether a process of the table exists no more; one that never existed is as good as dead.
pub(super) fn is_dead(index: u16) -> bool {
    index != me() && process(index).is_none_or(|process| knows_numbers() && process.is_dead())
}

/// Whether this process counts processes as those do that are in the table: it may have been put among others.
fn knows_numbers() -> bool {
    process(me()).is_some_and(|me| me.pid.load(Ordering::Acquire) == std::process::id())
}

/// The index of the process that started this one, if it shares its memory.
pub(super) fn parent() -> Option<u16> {
    let parent = process(me())?.parent.load(Ordering::Acquire);
    u16::try_from(parent).ok().filter(|&parent| parent != 0)
}

/// This process is about to end because it has nothing more to do: what it holds, it may have left to
/// others on purpose.
pub(crate) fn leave() {
    if me() == 0 {
        // It has never had an arena.
        return;
    }
    if let Some(process) = process(me()) {
        process.leaving.store(1, Ordering::Release);
    }
}

/// Whether the process that started this one asks its task to end.
pub(crate) fn is_asked() -> bool {
    // A process that has never had an arena cannot be asked.
    // Relaxed: nothing is published with it.
    me() != 0 && process(me()).is_some_and(|process| process.asked.load(Ordering::Relaxed) != 0)
}

/// The place of a worker process in the table. Who drops it says that the process is gone.
pub(crate) struct Place {
    index: u16,
    process: &'static Process,
}

impl Place {
    pub(super) fn claim() -> Option<Place> {
        let (index, process) = arena().processes.claim(me(), RUNNING).ok()?;
        process.parent.store(u32::from(me()), Ordering::Relaxed);
        match u16::try_from(index) {
            Ok(index) => Some(Place { index, process }),
            Err(_) => {
                arena().processes.free(index, process);
                None
            }
        }
    }

    pub(crate) fn index(&self) -> u16 {
        self.index
    }

    /// The process is there, and has this number.
    pub(crate) fn fill(&self, pid: u32) {
        self.process.pid.store(pid, Ordering::Release);
    }

    /// Asks the process's task to end.
    pub(crate) fn ask(&self) {
        // Relaxed: nothing is published with it.
        self.process.asked.store(1, Ordering::Relaxed);
    }

    /// Ends the processes that the dead one has started, which nobody else looks after now.
    pub(crate) fn end_orphans(&self) -> bool {
        let mut all_dead = true;
        for orphan in descendants(self.index) {
            let pid = orphan.1.pid.load(Ordering::Acquire);
            if !orphan.1.is_dead() {
                all_dead = false;
                sys::kill(pid, || orphan.1.is_dead());
            }
        }
        all_dead
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for (index, process) in descendants(self.index) {
            if process.is_dead() {
                process.wait_for_orphan();
                bury(index, process);
            }
        }
        bury(self.index, self.process);
    }
}

fn bury(index: u16, process: &'static Process) {
    let crashed = process.leaving.load(Ordering::Acquire) == 0;
    let pid = process.pid.load(Ordering::Acquire);
    reaper::reap(index, pid, crashed);
    arena().processes.free(u32::from(index), process);
}

/// The processes below another one, children before grandchildren.
fn descendants(of: u16) -> Vec<(u16, &'static Process)> {
    let mut found = Vec::new();
    let mut parents = vec![of];
    while let Some(parent) = parents.pop() {
        for (index, process, _) in arena().processes.used() {
            let is_child = process.parent.load(Ordering::Acquire) == u32::from(parent)
                && process.pid.load(Ordering::Acquire) != 0;
            let index = index as u16;
            if is_child && index != of && found.iter().all(|&(known, _)| known != index) {
                found.push((index, process));
                parents.push(index);
            }
        }
    }
    found
}

#[cfg(all(test, not(freethreading_loom)))]
#[allow(unsafe_code)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn who_cannot_look_takes_nobody_for_dead() {
        let without_descriptors = || {
            // SAFETY: the call takes no pointers. This thread has a table of its own from now on.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_FILES) }, 0);
            let alive = Process::default();
            alive.register();
            assert!(!alive.is_dead());
            let null = File::open("/dev/null").unwrap();
            let taken: Vec<_> = std::iter::from_fn(|| null.try_clone().ok()).collect();
            assert_eq!(sys::process_state(std::process::id()), None);
            let is_dead = alive.is_dead();
            drop(taken);
            assert!(!is_dead);
        };
        std::thread::spawn(without_descriptors).join().unwrap();
    }

    #[test]
    fn a_process_has_the_number_that_it_was_given() {
        let process = Process::default();
        process.pid.store(7, Ordering::Relaxed);
        process.register();
        assert_eq!(process.pid.load(Ordering::Relaxed), 7);
    }
}
