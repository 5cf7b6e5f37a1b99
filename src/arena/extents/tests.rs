use std::{collections::HashSet, thread};

use rustix::fs::fstat;

use super::*;
use crate::arena::arena;

static_assertions::assert_impl_all!(Extents: Send, Sync);

const LEN: usize = 64 << 20;

/// So many blocks over a file of their own; and what gives the file's memory, in bytes.
fn extents_over(mapping: Mapping, count: usize) -> (Extents, impl Fn() -> usize) {
    // So that this process has its index.
    arena();
    let mapping: &'static Mapping = Box::leak(Box::new(mapping));
    let shared: &'static Shared = Box::leak(Box::default());
    let blocks = (1 << 20)..(1 << 20) + count * BLOCK;
    let extents = Extents::new(mapping, shared, 0..1 << 20, blocks);
    let memory = move || {
        let file = mapping.file().expect("it is shared");
        512 * fstat(file).expect("it is open").st_blocks as usize
    };
    (extents, memory)
}

fn extents(count: usize) -> (Extents, impl Fn() -> usize) {
    extents_over(Mapping::shared(LEN).unwrap(), count)
}

/// What the words themselves take.
const WORDS: usize = 4096;

#[test]
fn runs_are_apart_and_freed_ones_come_first() {
    let (extents, _) = extents(20);
    let a = extents.claim(3 * BLOCK).unwrap();
    let b = extents.claim(3 * BLOCK + 1).unwrap();
    let c = extents.claim(1).unwrap();
    assert_eq!([a.count, b.count, c.count], [3, 4, 1]);
    assert_eq!([a.first, b.first, c.first], [0, 3, 7]);
    extents.free(b, true);
    assert_eq!(extents.claim(5 * BLOCK).unwrap().first, 8);
    assert_eq!(extents.claim(2 * BLOCK).unwrap().first, 3);
    assert_eq!(extents.claim(2 * BLOCK).unwrap().first, 5);
    extents.free(a, true);
    assert_eq!(extents.claim(3 * BLOCK).unwrap().first, 0);
}

#[test]
fn what_is_not_there_is_not_claimed() {
    let (extents, _) = extents(8);
    assert!(extents.claim(0).is_none());
    assert!(extents.claim(8 * BLOCK + 1).is_none());
    assert!(extents.claim(usize::MAX).is_none());
    let all = extents.claim(8 * BLOCK).unwrap();
    assert!(extents.claim(1).is_none());
    extents.free(all, true);
    assert!(extents.claim(8 * BLOCK).is_some());
    // Nobody else would reach it.
    let (alone, _) = extents_over_private(8);
    assert!(alone.claim(1).is_none());
}

fn extents_over_private(count: usize) -> (Extents, impl Fn() -> usize) {
    extents_over(Mapping::private(LEN).unwrap(), count)
}

#[test]
fn memory_that_is_kept_is_given_back_in_the_end() {
    let (extents, memory) = extents(600);
    assert_eq!(memory(), 0);
    let a = extents.claim(300 * BLOCK).unwrap();
    let b = extents.claim(10 * BLOCK).unwrap();
    assert_eq!(memory(), WORDS + 310 * BLOCK);
    extents.free(b, false);
    assert_eq!(memory(), WORDS + 300 * BLOCK);
    extents.free(a, true);
    assert_eq!(memory(), WORDS + 300 * BLOCK);
    // The second claim finds part of it there.
    let c = extents.claim(400 * BLOCK).unwrap();
    assert_eq!(memory(), WORDS + 400 * BLOCK);
    extents.free(c, true);
    let d = extents.claim(BLOCK).unwrap();
    assert!(extents.are_in_use());
    while extents.tidy() {}
    assert_eq!(memory(), WORDS + BLOCK);
    assert!(extents.are_in_use());
    extents.free(d, true);
    while extents.tidy() {}
    assert_eq!(memory(), WORDS);
    assert!(!extents.are_in_use());
    // A claim that fails leaves nothing.
    assert!(extents.claim(601 * BLOCK).is_none());
    assert_eq!(memory(), WORDS);
}

#[test]
fn what_another_has_is_not_freed() {
    let (extents, _) = extents(8);
    let old = extents.claim(2 * BLOCK).unwrap();
    extents.free(old, true);
    let new = extents.claim(2 * BLOCK).unwrap();
    assert_eq!((old.first, old.count), (new.first, new.count));
    extents.free(old, true);
    extents.free(old, false);
    assert_eq!(extents.claim(BLOCK).unwrap().first, 2);
    // Nor is it after somebody has taken it.
    let claim = 77;
    for index in new.blocks() {
        let theirs = owned(claim, me() + 1) | WARM;
        extents
            .word(index)
            .unwrap()
            .store(theirs, Ordering::Relaxed);
    }
    extents.free(new, false);
    assert!(extents.take(Run { claim, ..new }, me() + 1));
    extents.free(Run { claim, ..new }, true);
    assert_eq!(extents.claim(2 * BLOCK).unwrap().first, 0);
}

#[test]
fn only_what_is_all_the_others_is_taken() {
    let (extents, _) = extents(8);
    let run = extents.claim(3 * BLOCK).unwrap();
    let other = me() + 1;
    let give = |index: u32| {
        let theirs = owned(run.claim, other) | WARM;
        extents
            .word(index)
            .unwrap()
            .store(theirs, Ordering::Relaxed);
    };
    give(0);
    give(1);
    // The last one is not its own.
    assert!(!extents.take(run, other));
    give(0);
    give(1);
    give(2);
    for wrong in [
        Run { first: 6, ..run },
        Run { first: 7, ..run },
        Run {
            first: u32::MAX,
            ..run
        },
        Run { count: 0, ..run },
        Run { count: 4, ..run },
        Run {
            count: u32::MAX,
            ..run
        },
        Run { claim: 0, ..run },
        Run {
            claim: run.claim + 1,
            ..run
        },
        Run {
            claim: u64::MAX,
            ..run
        },
    ] {
        assert!(!extents.take(wrong, other), "{wrong:?}");
        assert!(wrong.first == 0 || extents.at(wrong, 1).is_none() || wrong.first == 6);
        (0..3).for_each(give);
    }
    assert!(!extents.take(run, other + 1));
    assert!(extents.take(run, other));
}

#[test]
fn a_dead_process_leaves_nothing() {
    let (extents, memory) = extents(100);
    let kept = extents.claim(5 * BLOCK).unwrap();
    let lost = extents.claim(50 * BLOCK).unwrap();
    let dead = me() + 1;
    for index in lost.blocks() {
        // It was about to get memory for some.
        let warm = if index % 3 == 0 { WARM } else { 0 };
        let theirs = owned(lost.claim, dead) | warm;
        extents
            .word(index)
            .unwrap()
            .store(theirs, Ordering::Relaxed);
    }
    extents.free_all_of(dead);
    assert_eq!(memory(), WORDS + 5 * BLOCK);
    assert_eq!(extents.claim(50 * BLOCK).unwrap().first, 5);
    extents.free(kept, true);
}

#[test]
fn threads_never_have_the_same_block() {
    let (extents, memory) = extents(64);
    thread::scope(|scope| {
        for number in 0..4u8 {
            let extents = &extents;
            scope.spawn(move || {
                for round in 0..300usize {
                    let len = (round * 7 + usize::from(number)) % 20 * BLOCK + 1;
                    let Some(run) = extents.claim(len) else {
                        continue;
                    };
                    let at = extents.at(run, len).unwrap();
                    // SAFETY: both bytes lie within the run, which is this thread's.
                    unsafe {
                        at.write_volatile(number);
                        at.add(len - 1).write_volatile(number);
                    }
                    thread::yield_now();
                    // SAFETY: as above.
                    let seen = unsafe { [at.read_volatile(), at.add(len - 1).read_volatile()] };
                    assert_eq!(seen, [number; 2]);
                    extents.free(run, round % 3 > 0);
                    if round % 10 == 0 {
                        extents.tidy();
                    }
                }
            });
        }
    });
    while extents.tidy() {}
    assert_eq!(memory(), WORDS);
    // All of them are there again, each once.
    let runs: Vec<_> = (0..64).map(|_| extents.claim(1).unwrap()).collect();
    let firsts: HashSet<_> = runs.iter().map(|run| run.first).collect();
    assert_eq!(firsts.len(), 64);
}
