//! The system calls under the arena: an anonymous file, its mapping, and its growth.
#![allow(unsafe_code)]

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    ptr::NonNull,
};

use rustix::{
    fs::{
        FallocateFlags, MemfdFlags, SealFlags, SeekFrom, fallocate, fcntl_add_seals, ftruncate,
        memfd_create, seek,
    },
    io::{Errno, retry_on_intr},
    mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous},
    process::{
        Pid, PidfdFlags, Resource, Signal, WaitOptions, getrlimit, pidfd_open, pidfd_send_signal,
        test_kill_process, waitpid,
    },
};

use crate::descriptors;

/// A range of addresses that stays mapped for as long as the process lives.
pub(super) struct Mapping {
    base: NonNull<u8>,
    len: usize,
    /// `None` where the memory is this process's alone.
    file: Option<OwnedFd>,
}

// SAFETY: the mapping is never moved or undone, so its address is good on every thread; access to what
// is in it is the business of those who take references.
unsafe impl Send for Mapping {}
// SAFETY: as above; the mapping itself is not changed through a shared reference.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// A new file in memory, of `len` bytes of which none is backed, mapped so that worker processes
    /// can map it too.
    pub(super) fn shared(len: usize) -> io::Result<Mapping> {
        descriptors::occupy_standard();
        // To ask for more is not only an error but a signal, which ends the program.
        let largest = getrlimit(Resource::Fsize).current;
        if largest.is_some_and(|largest| largest < len as u64) {
            return Err(Errno::FBIG.into());
        }
        let file = memfd_create(
            "freethreading",
            MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
        )?;
        ftruncate(&file, len as u64)?;
        // Nobody can take away what others have mapped.
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Mapping::of(file, len)
    }

    /// The file that another process has made.
    ///
    /// All who have it share one offset, at which nothing of ours reads or writes. It is moved to where nobody can: a
    /// task that writes to a descriptor by mistake would change what stands at the start of the arena.
    pub(super) fn of(file: OwnedFd, len: usize) -> io::Result<Mapping> {
        if rustix::fs::fstat(&file)?.st_size as u64 != len as u64 {
            return Err(io::Error::other("the arena has another size"));
        }
        // Where the system has no such offset, less is out of the way.
        let _ = seek(&file, SeekFrom::Start(i64::MAX as u64));
        // SAFETY: the kernel chooses the address, so no memory of ours is replaced.
        let base = unsafe {
            mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::NORESERVE,
                &file,
                0,
            )?
        };
        // A core dump would read all of it, and with that back it and write it out: 64 GiB for a program that has one lock.
        // SAFETY: the range was just mapped. The advice does not change what it holds; a kernel that does not know it
        // dumps more.
        let _ = unsafe { madvise(base, len, Advice::LinuxDontDump) };
        Ok(Mapping {
            base: NonNull::new(base.cast()).expect("a mapping is not at zero"),
            len,
            file: Some(file),
        })
    }

    /// Memory of this process alone, where the system gives none to share.
    pub(super) fn private(len: usize) -> io::Result<Mapping> {
        // SAFETY: as above.
        let base = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )?
        };
        Ok(Mapping {
            base: NonNull::new(base.cast()).expect("a mapping is not at zero"),
            len,
            file: None,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The file behind the mapping, if others can map it too.
    pub(super) fn file(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd)
    }

    /// Backs a range with memory: where there is none this is an error, and not a signal at the first
    /// access.
    pub(super) fn back(&self, offset: usize, len: usize) -> io::Result<()> {
        self.punch_or_fill(FallocateFlags::KEEP_SIZE, offset, len)
    }

    /// Maps the memory of a range, which is backed, all at once: page by page, at the first accesses, takes
    /// longer.
    pub(super) fn populate(&self, offset: usize, len: usize) {
        if let Some(start) = self.at(offset, len) {
            // SAFETY: the range lies within the mapping. The advice does not change what it holds; where
            // the kernel does not know it, the accesses will do it.
            let _ = unsafe { madvise(start.as_ptr().cast(), len, Advice::LinuxPopulateWrite) };
        }
    }

    /// Gives the memory of a range back to the system; it reads as zeros afterwards.
    pub(super) fn give_back(&self, offset: usize, len: usize) -> io::Result<()> {
        let punch = FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE;
        self.punch_or_fill(punch, offset, len)
    }

    fn punch_or_fill(&self, mode: FallocateFlags, offset: usize, len: usize) -> io::Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let call = || fallocate(file, mode, offset as u64, len as u64);
        Ok(retry_on_intr(call)?)
    }

    /// The address of `len` bytes at an offset, if they lie within.
    pub(super) fn at(&self, offset: usize, len: usize) -> Option<NonNull<u8>> {
        if offset.checked_add(len)? > self.len {
            return None;
        }
        // SAFETY: the offset lies within the one mapping, whose length fits an isize.
        Some(unsafe { self.base.add(offset) })
    }
}

/// The state of a process in `/proc` and the time of its start, which tells it from a later process
/// with the same number; `None` if there is no such process, or it cannot be looked at.
pub(super) fn process_state(pid: u32) -> Option<(u8, u64)> {
    state_at(&format!("/proc/{pid}/stat"))
}

/// When this process was started. It may have another number where `/proc` comes from.
pub(super) fn own_start() -> Option<u64> {
    state_at("/proc/self/stat").map(|(_, started)| started)
}

fn state_at(path: &str) -> Option<(u8, u64)> {
    // All of it is some hundred bytes, and comes at once.
    let mut stat = [0; 1024];
    let mut file = File::open(path).ok()?;
    let len = file.read(&mut stat).ok()?;
    // pid (name) state …, where the name may hold anything; the start is the 22nd field.
    let name_end = stat[..len].iter().rposition(|&byte| byte == b')')?;
    let mut fields = std::str::from_utf8(&stat[name_end + 1..len])
        .ok()?
        .split_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// Kills a process, unless `is_gone` says that the number is that of another one by now.
pub(super) fn kill(pid: u32, is_gone: impl FnOnce() -> bool) {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return;
    };
    // Who has the descriptor has this very process, so the question cannot come too early.
    if let Ok(process) = pidfd_open(pid, PidfdFlags::empty())
        && !is_gone()
    {
        let _ = pidfd_send_signal(process, Signal::KILL);
    }
}

/// Whether there is no process with this number, which the system tells without `/proc` and descriptors.
pub(super) fn is_gone(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_none_or(|pid| test_kill_process(pid) == Err(Errno::SRCH))
}

/// Waits for a process that has ended, if it is a child of this one by now.
pub(super) fn wait_for_ended(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = waitpid(Some(pid), WaitOptions::NOHANG);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static_assertions::assert_impl_all!(Mapping: Send, Sync);

    #[test]
    fn what_was_given_back_reads_as_zeros() {
        let mapping = Mapping::shared(1 << 20).unwrap();
        mapping.back(0, 8192).unwrap();
        let start = mapping.at(4096, 1).unwrap();
        // SAFETY: the page is mapped and backed, and nobody else knows it.
        unsafe { start.write_volatile(7) };
        mapping.give_back(4096, 4096).unwrap();
        // SAFETY: as above. Volatile: it is the system that has written to it.
        assert_eq!(unsafe { start.read_volatile() }, 0);
        assert!(mapping.at(1 << 20, 1).is_none());
        assert!(mapping.at(usize::MAX, 2).is_none());
    }

    #[test]
    fn who_reads_or_writes_by_mistake_does_not_come_to_what_is_shared() {
        let mapping = Mapping::shared(1 << 20).unwrap();
        mapping.back(0, 4096).unwrap();
        let file = mapping.file().unwrap();
        for _ in 0..2 {
            assert!(rustix::io::write(file, &[7; 100]).is_err());
            let mut bytes = [0; 100];
            assert!(matches!(rustix::io::read(file, &mut bytes), Ok(0) | Err(_)));
        }
        // SAFETY: the memory is mapped and backed, and nobody else knows it.
        assert_eq!(unsafe { mapping.at(0, 1).unwrap().read_volatile() }, 0);
        // Whoever has the file by another descriptor has the same offset.
        let again = Mapping::of(file.try_clone_to_owned().unwrap(), 1 << 20).unwrap();
        assert!(rustix::io::write(again.file().unwrap(), &[7]).is_err());
    }

    #[test]
    fn what_is_shared_is_left_out_of_core_dumps() {
        let mapping = Mapping::shared(1 << 20).unwrap();
        let start = format!("{:x}-", mapping.at(0, 1).unwrap().addr());
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let about = maps.lines().skip_while(|line| !line.starts_with(&start));
        let flags = about.into_iter().find(|line| line.starts_with("VmFlags:"));
        assert!(flags.unwrap().split_whitespace().any(|flag| flag == "dd"));
    }

    #[test]
    fn a_process_is_told_from_its_absence() {
        let (state, started) = process_state(std::process::id()).unwrap();
        assert!(b"RS".contains(&state));
        assert!(started > 0);
        assert_eq!(own_start(), Some(started));
        assert!(process_state(u32::MAX).is_none());
        assert!(is_gone(u32::MAX) && is_gone(i32::MAX as u32));
        assert!(!is_gone(std::process::id()) && !is_gone(1));
    }
}
