//! Units of one kind and size, allocated and freed by any process at any time.
//!
//! Whether a unit is free, and whose it is otherwise, is said by its tag alone, a single word. It is
//! claimed by one compare-and-swap and freed by one store, so a process killed at any point leaves no
//! list half linked. Where free units may be found is remembered, process by process, as a hint.

use std::io;

use crate::shim::{AtomicU32, AtomicU64, Mutex, Ordering};

/// Something that pools hold. All of it must be atomics, of which any value is a valid one.
pub(crate) trait Unit: Sync + 'static {
    fn tag(&self) -> &AtomicU64;

    /// Back to zeros: a unit that is claimed has no past.
    fn reset(&self);

    #[cfg(freethreading_loom)]
    fn new() -> Self;
}

/// What a tag says: how often the unit was freed, who has it, and as what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(crate) generation: u32,
    /// The index of the process.
    pub(crate) owner: u16,
    /// What it is used as; zero is free.
    pub(crate) kind: u16,
}

impl Tag {
    pub(crate) fn unpack(tag: u64) -> Tag {
        Tag {
            generation: (tag >> 32) as u32,
            owner: (tag >> 16) as u16,
            kind: tag as u16,
        }
    }

    fn pack(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.owner) << 16 | u64::from(self.kind)
    }

    pub(crate) fn is_free(self) -> bool {
        self.kind == 0
    }
}

/// What all processes know about a pool; in the arena's header.
#[derive(Default)]
#[repr(C, align(64))]
pub(super) struct Shared {
    /// The first unit that was never used. The one with number 0 never is: it stands for none.
    fresh: AtomicU32,
    /// How many units have memory behind them.
    backed: AtomicU32,
    /// About how many used units are free now and in nobody's hints.
    free: AtomicU32,
}

pub(crate) struct Pool<T: 'static> {
    units: Units<T>,
    shared: &'static Shared,
    /// Units that this process has freed.
    hints: Mutex<Vec<u32>>,
}

/// More hints than this are left for others to find.
const MAX_HINTS: usize = if cfg!(freethreading_loom) { 0 } else { 256 };

/// How far a unit that somebody else has freed is looked for.
const SEARCH: u32 = 64;

impl<T: Unit> Pool<T> {
    pub(super) fn new(units: Units<T>, shared: &'static Shared) -> Self {
        Pool {
            units,
            shared,
            hints: Mutex::default(),
        }
    }

    /// The unit with this number, wherever the number comes from.
    #[inline]
    pub(crate) fn get(&self, index: u32) -> Option<&'static T> {
        // Acquire: with the number comes the memory behind it.
        let exists = index != 0 && index < self.shared.backed.load(Ordering::Acquire);
        exists.then(|| self.units.get(index)).flatten()
    }

    /// A free unit, which is the process's from now on.
    pub(crate) fn claim(&self, owner: u16, kind: u16) -> io::Result<(u32, &'static T)> {
        loop {
            let hint = self.hints.lock().pop();
            let Some(index) = hint.or_else(|| self.search()) else {
                break;
            };
            if let Some(unit) = self.try_claim(index, owner, kind) {
                return Ok((index, unit));
            }
        }
        loop {
            // Relaxed: it only deals out numbers; the tag decides.
            let fresh = self.shared.fresh.load(Ordering::Relaxed).max(1);
            if let Err(error) = self.back(fresh) {
                return self.claim_any(owner, kind).ok_or(error);
            }
            let dealt = self.shared.fresh.fetch_max(fresh + 1, Ordering::Relaxed) <= fresh;
            if dealt && let Some(unit) = self.try_claim(fresh, owner, kind) {
                return Ok((fresh, unit));
            }
        }
    }

    /// A free unit in whosever hints it is, for who finds no other.
    #[cold]
    fn claim_any(&self, owner: u16, kind: u16) -> Option<(u32, &'static T)> {
        self.all()
            .find_map(|(index, ..)| Some((index, self.try_claim(index, owner, kind)?)))
    }

    fn try_claim(&self, index: u32, owner: u16, kind: u16) -> Option<&'static T> {
        let unit = self.get(index)?;
        // Relaxed: the exchange checks it.
        let tag = Tag::unpack(unit.tag().load(Ordering::Relaxed));
        if !tag.is_free() {
            return None;
        }
        let claimed = Tag { owner, kind, ..tag };
        // Acquire: what the last owner wrote is over.
        unit.tag()
            .compare_exchange(
                tag.pack(),
                claimed.pack(),
                Ordering::Acquire,
                Ordering::Relaxed,
            )
            .ok()
            .map(|_| unit)
    }

    /// A unit that somebody may have freed: a few are looked at, from one that differs each time.
    fn search(&self) -> Option<u32> {
        let free = self.shared.free.load(Ordering::Relaxed);
        if free == 0 {
            return None;
        }
        let used = self.shared.fresh.load(Ordering::Relaxed);
        // Any start will do, and the counter makes it move.
        let start = free.wrapping_mul(SEARCH);
        for step in 0..SEARCH.min(used) {
            let index = start.wrapping_add(step) % used;
            if let Some(unit) = self.get(index)
                && Tag::unpack(unit.tag().load(Ordering::Relaxed)).is_free()
            {
                self.less_free();
                return Some(index);
            }
        }
        // So that a count that is too high does not cost a search each time.
        self.less_free();
        None
    }

    fn less_free(&self) {
        let less = |free: u32| free.checked_sub(1);
        let _ = self
            .shared
            .free
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Frees a unit, which must be the caller's.
    pub(crate) fn free(&self, index: u32, unit: &T) {
        unit.reset();
        let tag = Tag::unpack(unit.tag().load(Ordering::Relaxed));
        let free = Tag {
            generation: tag.generation.wrapping_add(1),
            owner: 0,
            kind: 0,
        };
        // Release: the next owner finds it reset.
        unit.tag().store(free.pack(), Ordering::Release);
        let mut hints = self.hints.lock();
        if hints.len() == MAX_HINTS {
            self.shared.free.fetch_add(1, Ordering::Relaxed);
        } else {
            hints.push(index);
        }
    }

    /// Gives a unit to another process, or to none.
    pub(crate) fn hand(&self, unit: &T, owner: u16) {
        let tag = Tag::unpack(unit.tag().load(Ordering::Relaxed));
        // Release: who finds it there finds all that was noted in it.
        unit.tag()
            .store(Tag { owner, ..tag }.pack(), Ordering::Release);
    }

    /// Whose a unit is.
    pub(crate) fn owner(&self, unit: &T) -> u16 {
        // Acquire: as of `used`.
        Tag::unpack(unit.tag().load(Ordering::Acquire)).owner
    }

    /// All units that are in use, with what their tags say.
    pub(crate) fn used(&self) -> impl Iterator<Item = (u32, &'static T, Tag)> + '_ {
        self.all().filter(|(.., tag)| !tag.is_free())
    }

    /// The same with those that were in use before.
    fn all(&self) -> impl Iterator<Item = (u32, &'static T, Tag)> + '_ {
        // Relaxed: whoever looks for a unit that is not there yet does not need it.
        let fresh = self.shared.fresh.load(Ordering::Relaxed);
        (1..fresh).filter_map(|index| {
            let unit = self.get(index)?;
            // Acquire: with the tag comes what the unit was handed on or freed with.
            let tag = Tag::unpack(unit.tag().load(Ordering::Acquire));
            Some((index, unit, tag))
        })
    }

    /// The units that a dead process had freed are in no living one's hints: others shall look.
    pub(crate) fn recount(&self) {
        let free = self.all().filter(|(.., tag)| tag.is_free()).count();
        self.shared.free.store(free as u32, Ordering::Relaxed);
    }

    /// Makes sure that there is memory behind a unit.
    fn back(&self, index: u32) -> io::Result<()> {
        // Relaxed: `get` looks again.
        let backed = self.shared.backed.load(Ordering::Relaxed);
        if index < backed {
            return Ok(());
        }
        let backed = self.units.back(backed, index)?;
        // Release: who finds the number finds the memory.
        self.shared.backed.fetch_max(backed, Ordering::Release);
        Ok(())
    }
}

#[cfg(not(freethreading_loom))]
pub(super) use mapped::Units;

#[cfg(not(freethreading_loom))]
mod mapped {
    #![allow(unsafe_code)]

    use std::{ops::Range, ptr::NonNull};

    use super::*;
    use crate::arena::sys::Mapping;

    /// Units side by side in the mapping.
    pub(in crate::arena) struct Units<T: 'static> {
        mapping: &'static Mapping,
        offset: usize,
        limit: u32,
        /// The first of them, in the mapping.
        first: NonNull<T>,
    }

    // SAFETY: it leads to units alone, which are made of atomics and are there for good, for any thread.
    unsafe impl<T: Unit> Send for Units<T> {}
    // SAFETY: as above.
    unsafe impl<T: Unit> Sync for Units<T> {}

    /// The least memory that a pool grows by, in bytes.
    const CHUNK: usize = 16 << 10;

    impl<T: Unit> Units<T> {
        /// Those in a range of the mapping, whose start is aligned for them.
        pub(in crate::arena) fn new(mapping: &'static Mapping, range: Range<usize>) -> Self {
            assert!(range.start.is_multiple_of(align_of::<T>()));
            let room = range.len() / size_of::<T>();
            let first = mapping.at(range.start, range.len());
            Units {
                mapping,
                offset: range.start,
                limit: u32::try_from(room).unwrap_or(u32::MAX),
                first: first.expect("the range is in the mapping").cast(),
            }
        }

        #[inline]
        pub(super) fn get(&self, index: u32) -> Option<&'static T> {
            if index >= self.limit {
                return None;
            }
            // SAFETY: there are so many in the range, which lies in one mapping. The memory is mapped for good, aligned,
            // and backed where `Pool::get` asks for it (the process's own memory always is). A `Unit` is made of
            // atomics alone, which any bytes are valid for, and which other processes access as atomics too.
            Some(unsafe { self.first.add(index as usize).as_ref() })
        }

        /// Backs the units up to and with this one, and some more; gives how many there are then.
        pub(super) fn back(&self, backed: u32, index: u32) -> io::Result<u32> {
            if index >= self.limit {
                return Err(io::Error::other(format!(
                    "the arena is full: there is room for {} in {} bytes of reserved addresses",
                    self.limit,
                    self.mapping.len()
                )));
            }
            let size = size_of::<T>();
            let start = backed as usize * size;
            let grown = (start + (start / 4).max(CHUNK)).max((index as usize + 1) * size);
            let end = grown
                .next_multiple_of(CHUNK)
                .min(self.limit as usize * size);
            self.mapping.back(self.offset + start, end - start)?;
            Ok((end / size) as u32)
        }
    }
}

#[cfg(freethreading_loom)]
pub(super) use modelled::Units;

#[cfg(freethreading_loom)]
mod modelled {
    use super::*;
    use crate::shim::AtomicBool;

    /// A few units, as many as a model can do with.
    pub(in crate::arena) struct Units<T: 'static> {
        units: &'static [T],
        /// Whether there is memory behind them, if not all have it from the start.
        there: &'static [AtomicBool],
    }

    impl<T: Unit> Units<T> {
        pub(in crate::arena) fn over(units: &'static [T], there: &'static [AtomicBool]) -> Self {
            Units { units, there }
        }

        pub(super) fn get(&self, index: u32) -> Option<&'static T> {
            if let Some(there) = self.there.get(index as usize) {
                assert!(there.load(Ordering::Relaxed), "no memory behind a unit");
            }
            self.units.get(index as usize)
        }

        pub(super) fn back(&self, backed: u32, index: u32) -> io::Result<u32> {
            if index as usize >= self.units.len() {
                return Err(io::Error::other("the model has no more"));
            }
            if self.there.is_empty() {
                return Ok(self.units.len() as u32);
            }
            for there in &self.there[backed as usize..=index as usize] {
                there.store(true, Ordering::Relaxed);
            }
            Ok(index + 1)
        }
    }
}

#[cfg(all(test, not(freethreading_loom)))]
mod tests {
    use super::*;
    use crate::arena::sys::Mapping;

    static_assertions::assert_impl_all!(Units<Word>: Send, Sync);

    #[derive(Default)]
    struct Word(AtomicU64);

    impl Unit for Word {
        fn tag(&self) -> &AtomicU64 {
            &self.0
        }

        fn reset(&self) {}
    }

    /// The pools of two processes, with room for so many units.
    fn pools(room: usize) -> [Pool<Word>; 2] {
        let len = room * size_of::<Word>();
        let mapping = Box::leak(Box::new(Mapping::private(len).unwrap()));
        let shared = Box::leak(Box::default());
        [(); 2].map(|()| Pool::new(Units::new(mapping, 0..len), shared))
    }

    #[test]
    fn what_another_process_has_freed_can_be_had_where_there_is_nothing_else() {
        let [mine, its] = pools(200);
        let claimed: Vec<_> = std::iter::from_fn(|| mine.claim(1, 1).ok()).collect();
        assert_eq!(claimed.len(), 199);
        for (index, unit) in claimed {
            its.free(index, unit);
            assert_eq!(mine.claim(1, 1).unwrap().0, index);
            assert!(mine.claim(1, 1).is_err());
        }
    }
}
