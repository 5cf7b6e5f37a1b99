//! Items on their way into a shared queue or out of it, and what goes with them.

use std::{cell::RefCell, io};

use super::{
    arena,
    blocks::BLOCK,
    handle::{SlotId, release_named},
    passage::Luggage,
};

/// An item as it travels: encoded, with the primitives that it names.
#[derive(Default)]
pub(crate) struct Parcel {
    pub(crate) bytes: Vec<u8>,
    pub(crate) luggage: Vec<u64>,
    /// Holds them until the queue does: the item may not, if they were made for its encoding.
    held: Luggage,
}

thread_local! {
    /// Each thread keeps one for items that nobody has to wait with.
    static KEPT: RefCell<Parcel> = const {
        RefCell::new(Parcel {
            bytes: Vec::new(),
            luggage: Vec::new(),
            held: Luggage::NONE,
        })
    };
}

/// Blocks that are this process's alone: claimed ahead of time, or to be freed, neither of which is
/// to be done under the mutex. Dropped, they are freed.
#[derive(Default)]
pub(crate) struct Reserve(pub(super) Vec<u32>);

impl Reserve {
    /// Enough for an item of so many bytes, but for the last block.
    pub(crate) fn of(len: usize) -> io::Result<Reserve> {
        let mut reserve = Reserve::default();
        for _ in 0..len / BLOCK {
            reserve.0.push(arena().blocks.claim()?);
        }
        Ok(reserve)
    }
}

impl Drop for Reserve {
    #[inline]
    fn drop(&mut self) {
        if !self.0.is_empty() {
            self.free();
        }
    }
}

impl Reserve {
    #[cold]
    fn free(&mut self) {
        for block in self.0.drain(..) {
            arena().blocks.free(block);
        }
    }
}

impl Parcel {
    /// Calls `code` with an empty one, which is this thread's; it stays where it is, since to move one takes
    /// longer than to fill it.
    #[inline]
    pub(crate) fn lend<T>(code: impl FnOnce(&mut Parcel) -> T) -> T {
        let mut code = Some(code);
        let mut call = |parcel: &mut Parcel| code.take().map(|code| code(parcel));
        // It is in use if items contain queues that are used while they are encoded, and thread-locals are
        // gone while a thread ends.
        let lent = KEPT.try_with(|kept| {
            let mut parcel = kept.try_borrow_mut().ok()?;
            // Should anything have unwound through here, there is something left.
            parcel.empty();
            let result = call(&mut parcel);
            parcel.empty();
            result
        });
        match lent {
            Ok(Some(result)) => result,
            _ => call(&mut Parcel::default()).expect("it was not called before"),
        }
    }

    /// The item that is in it has these.
    pub(crate) fn load(&mut self, luggage: Luggage) {
        self.luggage = luggage.ids();
        self.held = luggage;
    }

    pub(crate) fn empty(&mut self) {
        /// What is larger is not kept.
        const LARGEST: usize = 4096;

        self.bytes.clear();
        if self.bytes.capacity() > LARGEST {
            self.bytes = Vec::new();
        }
        self.luggage.clear();
        if !self.held.is_empty() {
            self.held = Luggage::NONE;
        }
    }

    /// Whether at most one more block is needed for it.
    #[inline]
    pub(crate) fn is_small(&self) -> bool {
        self.bytes.len() + 8 * self.luggage.len() < BLOCK / 2
    }

    /// The primitives are not the queue's any more.
    pub(crate) fn release_luggage(&self) {
        for &id in &self.luggage {
            release_named(SlotId::unpack(id));
        }
    }
}

#[cfg(all(test, not(freethreading_loom)))]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_lent_a_parcel_gets_an_empty_one() {
        Parcel::lend(|outer| {
            outer.bytes.extend([1; 10]);
            outer.luggage.push(1);
            Parcel::lend(|inner| {
                assert!(inner.bytes.is_empty());
                inner.bytes.extend([2; 10_000]);
            });
            assert_eq!(outer.bytes, [1; 10]);
        });
        Parcel::lend(|again| {
            assert!(again.bytes.is_empty() && again.luggage.is_empty());
            again.bytes.extend([3; 10_000]);
        });
        Parcel::lend(|small| assert!(small.bytes.capacity() < 10_000));
        let panic = std::panic::catch_unwind(|| {
            Parcel::lend(|parcel| {
                parcel.bytes.extend([4; 10]);
                panic!("in the middle");
            });
        });
        assert!(panic.is_err());
        Parcel::lend(|parcel| assert!(parcel.bytes.is_empty()));
    }
}
