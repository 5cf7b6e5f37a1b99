//! The arena as the models see it: a few units, made anew for each execution, and two processes, which
//! share no more than the units.
#![allow(unsafe_code)]

use std::{
    any::Any,
    array,
    cell::Cell,
    io,
    os::fd::{BorrowedFd, OwnedFd},
    sync::OnceLock,
};

use loom::cell::UnsafeCell;
use serde::{Deserialize, Serialize};

use super::{
    Arena,
    blocks::{BLOCK, Blocks, CACHE_LINE},
    extents::{self, Extents},
    pool::{Pool, Shared, Unit, Units},
    process::{self, Place},
    sys::Mapping,
};
use crate::shim::{AtomicBool, Mutex};

const PROCESSES: usize = 2;

loom::lazy_static! {
    static ref HOME: Home = make();
}

loom::thread_local! {
    /// The process that the thread is of.
    static ME: Cell<u16> = Cell::new(1);
}

/// Of these one is never used.
const BLOCKS: usize = 4;

/// Sees to it that nobody writes to a line of the blocks' memory, which the checker does not look into, while
/// another reads it or before he is known to be done.
pub(super) struct Watched(Vec<UnsafeCell<()>>);

// SAFETY: the cells hold nothing; the checker finds out who uses them when he must not.
unsafe impl Send for Watched {}
// SAFETY: as above.
unsafe impl Sync for Watched {}

impl Watched {
    fn new() -> Self {
        let lines = 0..BLOCKS * BLOCK / CACHE_LINE;
        Watched(lines.map(|_| UnsafeCell::new(())).collect())
    }

    fn lines(&self, offset: usize, len: usize) -> &[UnsafeCell<()>] {
        &self.0[offset / CACHE_LINE..(offset + len).div_ceil(CACHE_LINE)]
    }

    pub(super) fn write(&self, offset: usize, len: usize) {
        self.lines(offset, len)
            .iter()
            .for_each(|line| line.with_mut(|_| {}));
    }

    pub(super) fn read(&self, offset: usize, len: usize) {
        self.lines(offset, len)
            .iter()
            .for_each(|line| line.with(|_| {}));
    }
}

struct Home {
    arenas: [Arena; PROCESSES],
    /// What the arenas refer to.
    _kept: Vec<Box<dyn Any + Send + Sync>>,
}

/// Makes what lives for as long as the arenas.
#[derive(Default)]
struct Maker(Vec<Box<dyn Any + Send + Sync>>);

impl Maker {
    fn keep<T: Send + Sync + 'static>(&mut self, value: T) -> &'static T {
        let kept = Box::new(value);
        let value: *const T = &*kept;
        self.0.push(kept);
        // SAFETY: the box is dropped with the arenas, at the end of an execution, when all its threads
        // have ended.
        unsafe { &*value }
    }

    /// The same units, as each process knows them. Of `count` one is never used: number 0 is none.
    fn pools<T: Unit + Send>(&mut self, count: usize) -> impl Fn() -> Pool<T> + use<T> {
        let units: &'static Vec<T> = self.keep((0..count).map(|_| T::new()).collect());
        let shared = self.keep(Shared::default());
        move || Pool::new(Units::over(units, &[]), shared)
    }
}

fn make() -> Home {
    static MAPPING: OnceLock<Mapping> = OnceLock::new();
    let mapping = MAPPING.get_or_init(|| Mapping::private(1 << 16).unwrap());
    static EXTENTS: OnceLock<extents::Shared> = OnceLock::new();
    let extents = EXTENTS.get_or_init(extents::Shared::default);
    let mut maker = Maker::default();
    let slots = maker.pools(4);
    let waiters = maker.pools(4);
    let records = maker.pools(4);
    let processes = maker.pools(PROCESSES + 1);
    let blocks = maker.pools(BLOCKS);
    let watched: &'static Watched = maker.keep(Watched::new());
    let arenas = array::from_fn(|_| Arena {
        id: 1,
        slots: slots(),
        waiters: waiters(),
        records: records(),
        processes: processes(),
        blocks: Blocks::new(blocks(), mapping, 0..BLOCKS * BLOCK, watched),
        extents: Extents::new(mapping, extents, 0..0, 0..0),
        locals: boxcar::Vec::new(),
        idle: Mutex::default(),
        shared: AtomicBool::new(true),
        sharing: Mutex::default(),
        awaited: AtomicBool::new(false),
        heard: AtomicBool::new(false),
    });
    for arena in &arenas {
        let _ = arena.processes.claim(0, process::RUNNING);
    }
    Home {
        arenas,
        _kept: maker.0,
    }
}

pub(crate) fn arena() -> &'static Arena {
    // What is made for one execution lives for as long as the execution.
    &HOME.arenas[usize::from(me()) - 1]
}

/// The process of the calling thread: the first one, unless it says otherwise.
pub(crate) fn me() -> u16 {
    ME.with(Cell::get)
}

/// The calling thread is one of this process from now on.
#[cfg(test)]
pub(crate) fn enter(process: u16) {
    ME.with(|me| me.set(process));
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Ticket;

pub(crate) fn ready() -> io::Result<()> {
    Ok(())
}

pub(crate) fn reachable() -> Result<(), &'static io::Error> {
    Ok(())
}

pub(crate) fn ticket_for_child() -> Option<(Place, Ticket, BorrowedFd<'static>)> {
    None
}

pub(crate) fn adopt(_: OwnedFd, _: Ticket) -> io::Result<()> {
    Err(io::Error::other("models start no processes"))
}
