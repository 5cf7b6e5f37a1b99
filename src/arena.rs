//! The memory that a program and its worker processes share, and how they wait for each other in it.
//!
//! - [`sys`] has the system calls, [`pool`] allocates units of one size in the mapping,
//! - [`slot`] is the state of a primitive with its [`mutex`], [`gate`] a second one, [`handle`] what keeps it
//!   alive, and [`passage`] how it travels,
//! - a [`node`] is what others know of a waiter; [`waiter`] and [`wait`] are the event count, [`patience`] says
//!   who has waited long enough. A task leaves its [`waker`], and [`bell`] wakes it from other processes,
//! - [`process`] is the table of processes, [`reaper`] cleans up after those that died,
//! - [`blocks`] are memory in larger pieces, [`ring`] holds the items of shared queues in them, and a
//!   [`parcel`] is one of these on its way,
//! - a [`lane`] passes small frames to another process, and a [`board`] has some that several may take; each
//!   has a [`page`], which is a block with a few words of its own,
//! - [`extents`] are memory for what is too large for a pipe, and an [`extent`] holds one such thing.
//!
//! There is one arena in a program: one anonymous file, mapped by the program and by every worker
//! process of this machine. It is made when it is first needed. A large range of addresses is
//! reserved; memory stands behind what is in use.

pub(crate) mod bell;
mod blocks;
pub(crate) mod board;
pub(crate) mod extent;
mod extents;
pub(crate) mod gate;
pub(crate) mod handle;
pub(crate) mod lane;
mod mutex;
pub(crate) mod node;
mod page;
pub(crate) mod parcel;
pub(crate) mod passage;
mod patience;
pub(crate) mod pool;
// Models start no processes.
#[cfg_attr(freethreading_loom, allow(dead_code))]
pub(crate) mod process;
pub(crate) mod reaper;
pub(crate) mod ring;
pub(crate) mod slot;
#[cfg_attr(freethreading_loom, allow(dead_code))]
mod sys;
pub(crate) mod wait;
pub(crate) mod waiter;
mod waker;

#[cfg(freethreading_loom)]
mod modelled;
#[cfg(all(test, freethreading_loom))]
pub(crate) mod models;
#[cfg(freethreading_loom)]
pub(crate) use modelled::{Ticket, adopt, arena, me, reachable, ready, ticket_for_child};

#[cfg(not(freethreading_loom))]
mod mapped;
#[cfg(not(freethreading_loom))]
pub(crate) use mapped::{Ticket, adopt, arena, me, reachable, ready, ticket_for_child};

use crate::shim::{AtomicBool, Mutex};
use handle::Record;
use node::Node;
use pool::Pool;
use process::Process;
use slot::Slot;
use waiter::{Place, Seat};

pub(crate) struct Arena {
    /// Tells this program's arena from any other.
    pub(crate) id: u64,
    pub(crate) slots: Pool<Slot>,
    pub(crate) waiters: Pool<Node>,
    pub(super) records: Pool<Record>,
    pub(super) processes: Pool<Process>,
    pub(crate) blocks: blocks::Blocks,
    pub(crate) extents: extents::Extents,
    /// Where this process's tasks leave their wakers.
    locals: boxcar::Vec<Place>,
    /// This process's waiters that nobody uses now.
    idle: Mutex<Vec<&'static Seat>>,
    /// Another process has, or has had, the arena too.
    shared: AtomicBool,
    /// Held by who gives it to another process for the first time.
    sharing: Mutex<()>,
    /// Some task of this process has waited.
    awaited: AtomicBool,
    /// The thread that hears the bell is there.
    heard: AtomicBool,
}
