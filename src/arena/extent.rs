//! A piece of the arena's memory that holds one large encoding, on its way from one process to another.
#![allow(unsafe_code)]

use std::{
    io::{self, ErrorKind, Read, Write},
    marker::PhantomData,
    mem::{self, MaybeUninit},
    ptr::NonNull,
};

use serde::{Deserialize, Serialize};

use super::{
    arena,
    blocks::BLOCK,
    extents::{Run, blocks_for},
    ready,
};
use crate::{
    fork,
    memory::{advise_huge_pages, copy_away},
};

/// What is at least so large travels in memory of its own, in bytes. What is smaller is as fast within the frame, if
/// that goes through a lane, and would take up whole blocks.
pub(crate) const LARGE: usize = 24 << 10;

/// Buffers that are at least so large, in bytes, are filled faster if they have huge pages.
const HUGE: usize = 4 << 20;

/// A process's own piece of the arena's memory. Dropped, it is free.
#[derive(Debug)]
pub(crate) struct Extent {
    run: Run,
    /// How many bytes it holds.
    len: usize,
    /// It comes from another process.
    taken: bool,
}

/// How an extent is named to another process, which takes it then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExtentName {
    first: u32,
    len: u64,
    claim: u64,
}

impl Extent {
    /// An empty one with room for so many bytes, if there is memory that other processes reach.
    pub(crate) fn claim(room: usize) -> Option<Extent> {
        ready().ok()?;
        let run = arena().extents.claim(room)?;
        Some(Extent {
            run,
            len: 0,
            taken: false,
        })
    }

    /// How many bytes it holds.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// What another process has to know to take it.
    pub(crate) fn name(&self) -> ExtentName {
        ExtentName {
            first: self.run.first,
            len: self.len as u64,
            claim: self.run.claim,
        }
    }

    /// Leaves it to the process that is told its name. Until that takes it, it is still this
    /// process's: if this process is gone before, nobody has it.
    pub(crate) fn leave(self) {
        mem::forget(self);
    }

    /// Takes what the process with this index has named; `None` if that has no such extent.
    pub(crate) fn take(name: ExtentName, from: u16) -> Option<Extent> {
        let len = usize::try_from(name.len).ok()?;
        let run = Run {
            first: name.first,
            count: blocks_for(len)?,
            claim: name.claim,
        };
        // Not before it is taken: dropping it would free it.
        arena().extents.take(run, from).then(|| Extent {
            run,
            len,
            taken: true,
        })
    }

    /// Takes what the process that started this one has named.
    pub(crate) fn take_from_parent(name: ExtentName) -> Option<Extent> {
        Extent::take(name, super::process::parent()?)
    }

    /// Empties and fills it.
    pub(crate) fn writer(&mut self) -> ExtentWriter<'_> {
        let room = self.run.count as usize * BLOCK;
        self.len = 0;
        ExtentWriter {
            at: self.start(room),
            left: room,
            len: &mut self.len,
        }
    }

    /// Reads it from its start.
    pub(crate) fn reader(&self) -> ExtentReader<'_> {
        ExtentReader {
            at: self.start(self.len),
            left: self.len,
            of: PhantomData,
        }
    }

    fn start(&self, len: usize) -> NonNull<u8> {
        arena()
            .extents
            .at(self.run, len)
            .expect("an extent lies within the arena")
    }
}

impl Drop for Extent {
    fn drop(&mut self) {
        // It is that of the process that this one was forked from.
        if fork::is_forked() {
            return;
        }
        let extents = &arena().extents;
        // Whoever it was taken from, or who will take it, tends them.
        extents.free(self.run, self.taken || extents.are_tended());
    }
}

/// Fills an extent up to its end; to write more is an error, [`ErrorKind::WriteZero`].
///
/// The bytes are shared with other processes, so no references to them exist: they are copied, from
/// and to this process's own memory. A process that writes where it must not can change the bytes, but
/// not what is around them.
pub(crate) struct ExtentWriter<'a> {
    at: NonNull<u8>,
    left: usize,
    len: &'a mut usize,
}

impl Write for ExtentWriter<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes)?;
        Ok(bytes.len())
    }

    #[inline]
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() > self.left {
            return Err(ErrorKind::WriteZero.into());
        }
        // SAFETY: so many bytes are left in the extent, which is mapped, backed and this process's
        // for as long as the writer lives; the source is private memory, so they do not overlap. The
        // address behind them is within the mapping or at its end.
        unsafe {
            copy_away(bytes.as_ptr(), self.at.as_ptr(), bytes.len());
            self.at = self.at.add(bytes.len());
        }
        self.left -= bytes.len();
        *self.len += bytes.len();
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Copies bytes out of an extent. See [`ExtentWriter`] for why there are no references to them.
pub(crate) struct ExtentReader<'a> {
    at: NonNull<u8>,
    left: usize,
    of: PhantomData<&'a Extent>,
}

impl ExtentReader<'_> {
    /// Whether all was read.
    pub(crate) fn is_at_end(&self) -> bool {
        self.left == 0
    }

    /// The next bytes, in a buffer of their own; an error if there are not so many.
    pub(crate) fn take_bytes(&mut self, len: usize) -> io::Result<Vec<u8>> {
        if len > self.left {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = Vec::with_capacity(len);
        if len >= HUGE {
            advise_huge_pages(bytes.spare_capacity_mut());
        }
        self.fill(&mut bytes.spare_capacity_mut()[..len])?;
        // SAFETY: so much of the capacity was just filled.
        unsafe { bytes.set_len(len) };
        Ok(bytes)
    }

    #[inline]
    fn fill(&mut self, out: &mut [MaybeUninit<u8>]) -> io::Result<()> {
        if out.len() > self.left {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        // SAFETY: so many bytes are left in the extent, which is mapped and this process's for as long as
        // the reader lives; any bytes are valid. The target is private memory, so they do not overlap.
        // The address behind them is within the mapping or at its end.
        unsafe {
            self.at
                .cast::<MaybeUninit<u8>>()
                .as_ptr()
                .copy_to_nonoverlapping(out.as_mut_ptr(), out.len());
            self.at = self.at.add(out.len());
        }
        self.left -= out.len();
        Ok(())
    }
}

impl Read for ExtentReader<'_> {
    #[inline]
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let len = out.len().min(self.left);
        self.read_exact(&mut out[..len])?;
        Ok(len)
    }

    #[inline]
    fn read_exact(&mut self, out: &mut [u8]) -> io::Result<()> {
        // SAFETY: the bytes stay initialised: `fill` writes initialised ones, or nothing.
        let out = unsafe { &mut *(std::ptr::from_mut(out) as *mut [MaybeUninit<u8>]) };
        self.fill(out)
    }
}

#[cfg(all(test, not(freethreading_loom)))]
mod tests;
