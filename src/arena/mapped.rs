//! The arena as it is in a program: its layout, how it is made, and how it is handed on.

#![allow(unsafe_code)]

use std::{
    hash::{BuildHasher, RandomState},
    io,
    ops::Range,
    os::fd::{BorrowedFd, OwnedFd},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use serde::{Deserialize, Serialize};

use super::{
    Arena, bell,
    blocks::{BLOCK, BlockTag, Blocks},
    extents::{self, Extents},
    pool::{self, Pool, Units},
    process,
    sys::Mapping,
};
use crate::{
    fork,
    shim::{AtomicBool, Mutex},
};

/// Addresses to reserve, in bytes: less where the system does not let us have so many.
const SIZES: [usize; 6] = [64 << 30, 16 << 30, 4 << 30, 1 << 30, 256 << 20, 64 << 20];

/// What stands at the start of the arena.
#[derive(Default)]
#[repr(C)]
struct Header {
    slots: pool::Shared,
    waiters: pool::Shared,
    records: pool::Shared,
    processes: pool::Shared,
    blocks: pool::Shared,
    extents: extents::Shared,
}

const HEADER: usize = 4096;

struct Home {
    arena: Arena,
    mapping: &'static Mapping,
    /// Why no other process can have it, if none can.
    lonely: Option<io::Error>,
}

static HOME: OnceLock<Home> = OnceLock::new();

/// The index of this process, once it has one.
static ME: AtomicU32 = AtomicU32::new(0);

/// The arena of this program, which is made if need be.
///
/// # Panics
///
/// If the system has no memory for it, not even for one that is this process's alone.
#[inline]
pub(crate) fn arena() -> &'static Arena {
    match HOME.get() {
        Some(home) => &home.arena,
        None => &home().arena,
    }
}

/// The index of this process.
#[inline]
pub(crate) fn me() -> u16 {
    // Relaxed: it is set before anything of the arena can be had.
    ME.load(Ordering::Relaxed) as u16
}

/// Makes the arena if need be, for who can say that there is no memory for it, or do without.
pub(crate) fn ready() -> io::Result<()> {
    match HOME.get() {
        Some(_) => Ok(()),
        None => try_home().map(drop),
    }
}

#[cold]
fn home() -> &'static Home {
    try_home().unwrap_or_else(|error| panic!("{error}"))
}

fn try_home() -> io::Result<&'static Home> {
    /// So that one alone is made.
    static MAKING: Mutex<()> = Mutex::new(());

    let _making = MAKING.lock();
    if let Some(home) = HOME.get() {
        return Ok(home);
    }
    let home = make_home().map_err(|error| {
        let why = format!("no memory for the arena: {error}");
        io::Error::new(error.kind(), why)
    })?;
    Ok(HOME.get_or_init(|| home))
}

fn make_home() -> io::Result<Home> {
    fork::watch();
    let shared = |size| Mapping::shared(size).and_then(Home::make);
    let home = match SIZES.iter().find_map(|&size| shared(size).ok()) {
        Some(home) => home,
        None => {
            let cause = shared(SIZES[SIZES.len() - 1]).err();
            let lonely = cause.unwrap_or_else(|| io::Error::other("no memory"));
            let alone = SIZES.iter().find_map(|&size| Mapping::private(size).ok());
            let Some(alone) = alone else {
                return Err(lonely);
            };
            let mut home = Home::make(alone)?;
            home.lonely = Some(lonely);
            home
        }
    };
    let (index, process) = home.arena.processes.claim(0, process::RUNNING)?;
    process.register();
    ME.store(index, Ordering::Relaxed);
    Ok(home)
}

impl Home {
    fn make(mapping: Mapping) -> io::Result<Home> {
        mapping.back(0, HEADER)?;
        Ok(Home::over(mapping, RandomState::new().hash_one(0)))
    }

    fn over(mapping: Mapping, id: u64) -> Home {
        let mapping: &'static Mapping = Box::leak(Box::new(mapping));
        let header = mapping
            .at(0, size_of::<Header>())
            .expect("an arena is larger than its header");
        // SAFETY: the header's memory is mapped for good, backed, and aligned to a page; it is made of
        // atomics alone, which any bytes are valid for.
        let header: &'static Header = unsafe { header.cast().as_ref() };
        // Parts of the whole, in 64ths: where each begins and ends.
        let part = |from: usize, to: usize| {
            let unit = mapping.len() / 64;
            (unit * from).max(HEADER)..unit * to
        };
        // To the processor a load is one of what was just stored at an address with the same lowest 12 bits, until it
        // finds out better. Of the header and what is used all the time, the first ones lie apart.
        let apart = |part: Range<usize>, by| part.start + by..part.end;
        let (blocks, mut tags) = (part(32, 64), part(21, 22));
        tags.end = tags.start + blocks.len() / BLOCK * size_of::<BlockTag>();
        let arena = Arena {
            id,
            processes: Pool::new(Units::new(mapping, part(0, 1)), &header.processes),
            records: Pool::new(Units::new(mapping, part(1, 5)), &header.records),
            slots: Pool::new(Units::new(mapping, apart(part(5, 13), 2048)), &header.slots),
            waiters: Pool::new(
                Units::new(mapping, apart(part(13, 21), 1024)),
                &header.waiters,
            ),
            blocks: Blocks::new(
                Pool::new(Units::<BlockTag>::new(mapping, tags), &header.blocks),
                mapping,
                blocks,
            ),
            extents: Extents::new(mapping, &header.extents, part(22, 23), part(23, 32)),
            locals: boxcar::Vec::new(),
            idle: Mutex::default(),
            shared: AtomicBool::new(false),
            sharing: Mutex::default(),
            awaited: AtomicBool::new(false),
            heard: AtomicBool::new(false),
        };
        Home {
            arena,
            mapping,
            lonely: None,
        }
    }
}

/// Whether what is in the arena can be reached from other processes, or why not.
pub(crate) fn reachable() -> Result<(), &'static io::Error> {
    home().lonely.as_ref().map_or(Ok(()), Err)
}

/// What a worker process has to know to use the arena.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Ticket {
    id: u64,
    len: u64,
    /// The child's place in the table of processes.
    index: u16,
}

/// A place in the arena for a worker process, and the file to give it; nothing if there is nothing to
/// share.
pub(crate) fn ticket_for_child() -> Option<(process::Place, Ticket, BorrowedFd<'static>)> {
    let home = home();
    let file = home.mapping.file()?;
    let place = process::Place::claim()?;
    let ticket = Ticket {
        id: home.arena.id,
        len: home.mapping.len() as u64,
        index: place.index(),
    };
    bell::share();
    Some((place, ticket, file))
}

/// Uses the arena of the process that started this one. Where that fails, this process will have one
/// of its own, and primitives of its parent are errors to it.
pub(crate) fn adopt(file: OwnedFd, ticket: Ticket) -> io::Result<()> {
    let len = usize::try_from(ticket.len).map_err(io::Error::other)?;
    let home = Home::over(Mapping::of(file, len)?, ticket.id);
    let process = home
        .arena
        .processes
        .get(u32::from(ticket.index))
        .ok_or_else(|| io::Error::other("there is no such process"))?;
    process.register();
    // Before the arena can be had.
    ME.store(u32::from(ticket.index), Ordering::Relaxed);
    if HOME.set(home).is_err() {
        // Something has made another one already, and its processes count from one.
        ME.store(1, Ordering::Relaxed);
        return Err(io::Error::other("a primitive was made before `init`"));
    }
    bell::share();
    Ok(())
}
