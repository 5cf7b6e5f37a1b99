//! The arena as the models see it: a few units, in one process, made anew for each execution.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
    sync::OnceLock,
};

use serde::{Deserialize, Serialize};

use super::{
    Arena,
    pool::{Pool, Shared, Units},
    process::{self, Place},
    ring::Blocks,
    sys::Mapping,
};
use crate::shim::{AtomicBool, Mutex};

loom::lazy_static! {
    static ref ARENA: Arena = make();
}

fn pool<T: super::pool::Unit>(count: usize) -> Pool<T> {
    Pool::new(Units::few(count), Box::leak(Box::new(Shared::default())))
}

fn make() -> Arena {
    static MAPPING: OnceLock<Mapping> = OnceLock::new();
    let mapping = MAPPING.get_or_init(|| Mapping::private(1 << 16).unwrap());
    let arena = Arena {
        id: 1,
        slots: pool(4),
        waiters: pool(6),
        records: pool(6),
        processes: pool(2),
        blocks: Blocks::new(pool(1), mapping, 0..0),
        locals: boxcar::Vec::new(),
        idle: Mutex::default(),
        shared: AtomicBool::new(false),
        awaited: AtomicBool::new(false),
        heard: AtomicBool::new(false),
    };
    let _ = arena.processes.claim(0, process::RUNNING);
    arena
}

pub(crate) fn arena() -> &'static Arena {
    // What is made for one execution lives for as long as the execution.
    &ARENA
}

/// The one process there is.
pub(crate) fn me() -> u16 {
    1
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Ticket;

pub(crate) fn reachable() -> Result<(), &'static io::Error> {
    Ok(())
}

pub(crate) fn ticket_for_child() -> Option<(Place, Ticket, BorrowedFd<'static>)> {
    None
}

pub(crate) fn adopt(_: OwnedFd, _: Ticket) -> io::Result<()> {
    Err(io::Error::other("models have one process"))
}
