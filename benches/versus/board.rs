//! Memory that this program and its child share, with the system's objects in it.

use std::{
    fs::OpenOptions,
    hint::spin_loop,
    ops::Deref,
    os::fd::{AsRawFd, OwnedFd},
    process,
    ptr::{self, NonNull},
    sync::atomic::{
        AtomicBool, AtomicUsize,
        Ordering::{Acquire, Relaxed, Release},
    },
    thread,
};

use ipc_channel::ipc::{self, IpcReceiver, IpcSender};
use rustix::{
    fs::{MemfdFlags, ftruncate, memfd_create},
    mm::{MapFlags, ProtFlags, mmap, munmap},
};
use serde::{Deserialize, Serialize};

use crate::{
    contention::WHILE,
    harness::{Clock, stay_on},
    posix::{Pthread, Sem, Shared, Word},
};

/// What goes through queues: 64 bytes.
pub type Item = [u64; 8];

/// On a cache line of its own, and away from the prefetcher's next.
#[repr(align(128))]
pub struct Line<T>(pub T);

/// All of it is fine when zero, but for glibc's objects.
#[repr(C)]
pub struct Board {
    begun: Line<AtomicBool>,
    over: Line<AtomicBool>,
    pub futex: Line<Word<Shared>>,
    pub mutex: Line<Pthread>,
    pub robust: Line<Pthread>,
    pub recursive: Line<Pthread>,
    pub sem: Line<Sem>,
    pub flags: [Line<Word<Shared>>; 2],
    pub sems: [Line<Sem>; 2],
    pub ring: Ring,
}

/// A board that is mapped, here and perhaps elsewhere.
pub struct Mapping {
    board: NonNull<Board>,
    memory: OwnedFd,
}

// SAFETY: a board is there to be shared.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Deref for Mapping {
    type Target = Board;

    fn deref(&self) -> &Board {
        // SAFETY: the mapping is as large, stays as long as self, and holds a valid board.
        unsafe { self.board.as_ref() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nothing is borrowed from it any more.
        unsafe { munmap(self.board.as_ptr().cast(), size_of::<Board>()) }.expect("it is mapped");
    }
}

impl Mapping {
    pub fn new() -> Mapping {
        let memory = memfd_create("board", MemfdFlags::CLOEXEC).expect("memory can be shared");
        ftruncate(&memory, size_of::<Board>() as u64).expect("there is as much memory");
        let board = Mapping::of(memory);
        let (normal, stalled) = (libc::PTHREAD_MUTEX_NORMAL, libc::PTHREAD_MUTEX_STALLED);
        let robust = libc::PTHREAD_MUTEX_ROBUST;
        board.mutex.0.init(normal, stalled);
        board.robust.0.init(normal, robust);
        board
            .recursive
            .0
            .init(libc::PTHREAD_MUTEX_RECURSIVE, robust);
        board.sem.0.init(true, 1);
        for sem in &board.sems {
            sem.0.init(true, 0);
        }
        board
    }

    /// The one that another process has made.
    pub fn open(path: &str) -> Mapping {
        let memory = OpenOptions::new().read(true).write(true).open(path);
        Mapping::of(memory.expect("the maker lives").into())
    }

    /// By which others can open it, while this process keeps it.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", process::id(), self.memory.as_raw_fd())
    }

    fn of(memory: OwnedFd) -> Mapping {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: it is a new mapping.
        let board = unsafe {
            mmap(
                ptr::null_mut(),
                size_of::<Board>(),
                access,
                MapFlags::SHARED,
                &memory,
                0,
            )
        };
        let board = NonNull::new(board.expect("the memory is there").cast());
        Mapping {
            board: board.expect("nothing is mapped at 0"),
            memory,
        }
    }
}

/// Two processes that do the same thing over and over for a while, each on a core of its own.
impl Board {
    /// This side: `other` makes the other side begin, and gives what waits for how often that has done
    /// it. Millions per second of both.
    pub fn with_other<D: FnOnce() -> u64>(
        &self,
        operation: impl Fn(),
        other: impl FnOnce() -> D,
    ) -> f64 {
        stay_on(0);
        self.begun.0.store(false, Relaxed);
        self.over.0.store(false, Relaxed);
        let done = other();
        while !self.begun.0.load(Acquire) {
            thread::yield_now();
        }
        let clock = Clock::start();
        let mut mine = 0;
        while clock.seconds() < WHILE.get().as_secs_f64() {
            // Looking at the clock takes longer than the operation.
            (0..100).for_each(|_| operation());
            mine += 100;
        }
        self.over.0.store(true, Relaxed);
        let seconds = clock.seconds();
        (mine + done()) as f64 / seconds / 1e6
    }

    /// The other side.
    pub fn as_other(&self, operation: impl Fn()) -> u64 {
        stay_on(1);
        self.begun.0.store(true, Release);
        let mut done = 0;
        while !self.over.0.load(Relaxed) {
            operation();
            done += 1;
        }
        done
    }
}

/// From one to one, without ever sleeping.
#[repr(C)]
pub struct Ring {
    put: Line<AtomicUsize>,
    got: Line<AtomicUsize>,
    slots: [std::cell::UnsafeCell<Item>; 1024],
}

impl Ring {
    pub fn put(&self, item: Item) {
        let at = self.put.0.load(Relaxed);
        while at - self.got.0.load(Acquire) == self.slots.len() {
            spin_loop();
        }
        // SAFETY: the slot is free, and nobody else puts.
        unsafe { *self.slots[at % self.slots.len()].get() = item };
        self.put.0.store(at + 1, Release);
    }

    pub fn get(&self) -> Item {
        let at = self.got.0.load(Relaxed);
        while self.put.0.load(Acquire) == at {
            spin_loop();
        }
        // SAFETY: the slot is filled, and nobody else gets.
        let item = unsafe { *self.slots[at % self.slots.len()].get() };
        self.got.0.store(at + 1, Release);
        item
    }
}

/// What the child is to do, each with what is on the board; it answers with a number.
#[derive(Serialize, Deserialize)]
pub enum Order {
    /// Be the other of [`Board::with_other`].
    Futex,
    Mutex,
    Robust,
    Sem,
    /// Answer so often.
    PongFlags(u32),
    PongSems(u32),
    /// Take so many items.
    TakeRing(u32),
    TakeIpc(u32),
    /// Make an ipc-channel's sender for the server of this name.
    Connect(String),
}

/// The child.
pub struct Other {
    board: Mapping,
    items: Option<IpcReceiver<Item>>,
}

impl Other {
    pub fn new(path: &str) -> Other {
        Other {
            board: Mapping::open(path),
            items: None,
        }
    }

    pub fn obey(&mut self, order: Order) -> u64 {
        let Board {
            futex,
            mutex,
            robust,
            sem,
            flags,
            sems,
            ring,
            ..
        } = &*self.board;
        match order {
            Order::Futex => self.board.as_other(|| {
                futex.0.lock();
                futex.0.unlock();
            }),
            Order::Mutex => self.board.as_other(|| {
                mutex.0.lock();
                mutex.0.unlock();
            }),
            Order::Robust => self.board.as_other(|| {
                robust.0.lock();
                robust.0.unlock();
            }),
            Order::Sem => self.board.as_other(|| {
                sem.0.wait();
                sem.0.post();
            }),
            Order::PongFlags(trips) => times(trips, || {
                flags[0].0.take();
                flags[1].0.set();
            }),
            Order::PongSems(trips) => times(trips, || {
                sems[0].0.wait();
                sems[1].0.post();
            }),
            Order::TakeRing(items) => times(items, || {
                std::hint::black_box(ring.get());
            }),
            Order::TakeIpc(items) => {
                let channel = self.items.as_ref().expect("it is connected");
                times(items, || {
                    std::hint::black_box(channel.recv().expect("the parent sends"));
                })
            }
            Order::Connect(server) => {
                let (sender, receiver) = ipc::channel().expect("channels can be made");
                let server =
                    IpcSender::<IpcSender<Item>>::connect(server).expect("the parent waits");
                server.send(sender).expect("the parent waits");
                self.items = Some(receiver);
                0
            }
        }
    }
}

/// Does it so often, and says how often.
pub fn times(times: u32, operation: impl FnMut()) -> u64 {
    std::iter::repeat_with(operation)
        .take(times as usize)
        .count() as u64
}
