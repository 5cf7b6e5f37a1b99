//! What both ends of a lane know of it: a word, and a signal for who sleeps.

use std::time::Duration;

use crate::shim::{AtomicU64, Futex, Ordering, Scope, first_look};

/// What whoever reads a lane does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attention {
    /// Something else: it has to be told by other means.
    None,
    /// It is about to look, or was told to.
    Full,
    /// It sleeps on the signal.
    Asleep,
}

/// The state of a lane, as one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word {
    /// How many frames were taken, ever; wraps around.
    pub(super) taken: u32,
    pub(super) waiting: u16,
    pub(super) attention: Attention,
    pub(super) closed: bool,
}

impl Word {
    pub(super) fn unpack(word: u64) -> Word {
        Word {
            taken: (word >> 32) as u32,
            waiting: (word >> 16) as u16,
            attention: match word & 0x3 {
                0 => Attention::None,
                2 => Attention::Asleep,
                _ => Attention::Full,
            },
            closed: word & 0x100 != 0,
        }
    }

    pub(super) fn pack(self) -> u64 {
        u64::from(self.taken) << 32
            | u64::from(self.waiting) << 16
            | u64::from(self.closed) << 8
            | match self.attention {
                Attention::None => 0,
                Attention::Full => 1,
                Attention::Asleep => 2,
            }
    }
}

/// What both ends of a lane know of it.
#[derive(Default)]
#[repr(C, align(64))]
pub(super) struct Line {
    pub(super) word: AtomicU64,
    /// What the reader sleeps on; counts how often it was woken.
    signal: Futex,
}

impl Line {
    /// Empties it, while nobody else knows of it: the memory may have been used before.
    pub(super) fn reset(&self) {
        // Relaxed: whoever is told of it sees this.
        self.word.store(0, Ordering::Relaxed);
        self.signal.store(0, Ordering::Relaxed);
    }

    pub(super) fn word(&self) -> Word {
        // Acquire: who sees a frame counted sees its bytes.
        Word::unpack(self.word.load(Ordering::Acquire))
    }

    /// Changes the word, unless there is nothing to change; gives what it was before.
    fn change(&self, change: impl Fn(Word) -> Option<Word>) -> Option<Word> {
        let mut word = first_look(&self.word, Ordering::Acquire);
        loop {
            let changed = change(Word::unpack(word))?.pack();
            // Both ways: the bytes of a frame come before its count, and after the count of those that
            // were there before them.
            match self.word.compare_exchange_weak(
                word,
                changed,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return Some(Word::unpack(word)),
                Err(other) => word = other,
            }
        }
    }

    /// An exchange, that changes nothing: if it comes before the frame's, whoever is told of that frame sees
    /// all that was done before here.
    pub(super) fn is_empty_after_all(&self) -> bool {
        Word::unpack(self.word.fetch_add(0, Ordering::AcqRel)).waiting == 0
    }

    /// Both in one look: a frame may come, and then the end.
    pub(super) fn has_ended(&self) -> bool {
        let word = self.word();
        word.closed && word.waiting == 0
    }

    /// One more frame waits. Gives the attention that it has: a sleeper is to be [signalled](Line::signal).
    pub(super) fn publish(&self) -> Attention {
        let before = self.change(|word| {
            Some(Word {
                waiting: word.waiting.wrapping_add(1),
                attention: Attention::Full,
                ..word
            })
        });
        before.map_or(Attention::None, |word| word.attention)
    }

    /// The first frame that waits is the reader's.
    pub(super) fn claim(&self) -> bool {
        let claimed = self.change(|word| {
            Some(Word {
                waiting: word.waiting.checked_sub(1)?,
                taken: word.taken.wrapping_add(1),
                ..word
            })
        });
        claimed.is_some()
    }

    /// The reader looks, from now on.
    pub(super) fn attend(&self) {
        // Most of the time it was told to.
        if self.word().attention != Attention::Full {
            self.change(|word| {
                Some(Word {
                    attention: Attention::Full,
                    ..word
                })
            });
        }
    }

    /// The reader has nothing to read, and does not look from now on; `false` if there is something after
    /// all, or will never be.
    pub(super) fn rest(&self, attention: Attention) -> bool {
        let rested = self.change(|word| {
            (word.waiting == 0 && !word.closed).then_some(Word { attention, ..word })
        });
        rested.is_some()
    }

    /// How often the reader was signalled.
    pub(super) fn signals(&self) -> u32 {
        // Relaxed: who signals has done before what there is to see, under a lock or in the word, and whoever
        // has not seen that has looked here before.
        self.signal.load(Ordering::Relaxed)
    }

    /// Sleeps until there is something to read, or a signal after the first so many; may return at any time.
    pub(super) fn sleep(&self, signals: u32, timeout: Option<Duration>) {
        if self.rest(Attention::Asleep) {
            self.signal.wait(signals, timeout, Scope::Everywhere);
            self.attend();
        }
    }

    /// There is nothing more to come than what waits.
    pub(super) fn close(&self) {
        self.change(|word| {
            Some(Word {
                closed: true,
                ..word
            })
        });
        self.signal();
    }

    /// Whoever sleeps is to look, or who is about to.
    pub(super) fn signal(&self) {
        // Relaxed: see `signals`.
        self.signal.fetch_add(1, Ordering::Relaxed);
        self.signal.wake(Scope::Everywhere);
    }
}
