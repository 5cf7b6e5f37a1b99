//! The stream against a plain queue, cut short at any point, and damaged.

use std::collections::VecDeque;

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::arena::{handle::Handle, slot::Kind};

const WORDS: Words = Words {
    head: 4,
    tail: 5,
    taken: 2,
    put: 3,
    spare: 6,
};

fn queue() -> Handle {
    Handle::new(Kind::Queue, |_| {}).unwrap()
}

fn parcel(bytes: Vec<u8>) -> Parcel {
    Parcel {
        bytes,
        luggage: Vec::new(),
    }
}

fn put(ring: &Ring<'_>, bytes: &[u8]) {
    ring.put(&parcel(bytes.to_vec()), &mut Reserve::default())
        .unwrap();
}

fn take(ring: &Ring<'_>) -> Option<Vec<u8>> {
    let parcel = ring.take(&mut Reserve::default())?;
    Some(parcel.unwrap().bytes)
}

/// How many items the counts say there are.
fn counted(ring: &Ring<'_>) -> u64 {
    ring.get(WORDS.put).wrapping_sub(ring.get(WORDS.taken))
}

/// The blocks that are some slot's.
fn blocks_of(slot: u32) -> usize {
    let all = arena().blocks.tags.used();
    all.filter(|(_, block, tag)| !tag.is_free() && block.slot.load(Ordering::Relaxed) == slot)
        .count()
}

fn item(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|n| seed.wrapping_add(n as u8)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_put_is_taken_in_order(
        steps in vec((any::<bool>(), any::<u8>(), 0usize..200_000), 1..40)
    ) {
        let handle = queue();
        let slot = handle.slot().lock();
        let ring = Ring::of(&slot, WORDS);
        let mut model = VecDeque::new();
        for (puts, seed, len) in steps {
            if puts {
                let bytes = item(seed, len);
                put(&ring, &bytes);
                model.push_back(bytes);
            } else {
                prop_assert_eq!(take(&ring), model.pop_front());
            }
            prop_assert_eq!(counted(&ring), model.len() as u64);
        }
        while let Some(bytes) = model.pop_front() {
            prop_assert_eq!(take(&ring), Some(bytes));
        }
        prop_assert!(ring.is_empty());
        // What was needed for more is given back.
        prop_assert!(blocks_of(handle.slot().index()) <= 2);
        ring.clear();
    }

    #[test]
    fn a_put_that_is_cut_short_has_not_happened(
        before in vec(0usize..100_000, 0..4),
        len in 0usize..300_000,
        written in 0usize..300_000,
    ) {
        let handle = queue();
        let slot = handle.slot().lock();
        let ring = Ring::of(&slot, WORDS);
        for (n, &len) in before.iter().enumerate() {
            put(&ring, &item(n as u8, len));
        }
        {
            // As far as a process may have come that is killed before it commits.
            let mut reserve = Reserve::default();
            let mut writer = Writer {
                ring: &ring,
                at: ring.tail(),
                new: Vec::new(),
                reserve: &mut reserve,
            };
            writer.write(&item(9, written.min(len))).unwrap();
            let new = writer.new;
            ring.repair();
            // What it had claimed is freed with all that it has.
            drop(Reserve(new));
        }
        prop_assert_eq!(counted(&ring), before.len() as u64);
        put(&ring, b"after");
        for (n, &len) in before.iter().enumerate() {
            prop_assert_eq!(take(&ring), Some(item(n as u8, len)));
        }
        prop_assert_eq!(take(&ring), Some(b"after".to_vec()));
        prop_assert!(take(&ring).is_none());
        ring.clear();
    }

    #[test]
    fn a_commit_that_was_not_counted_is_counted_by_the_repair(
        lens in vec(0usize..100_000, 1..5),
        was_put: bool,
    ) {
        let handle = queue();
        let slot = handle.slot().lock();
        let ring = Ring::of(&slot, WORDS);
        for &len in &lens {
            put(&ring, &item(1, len));
        }
        // A put or a get committed, and its process was killed before it counted.
        let mut left = lens.len();
        if was_put {
            ring.set(WORDS.put, ring.get(WORDS.put) - 1);
        } else {
            let taken = ring.get(WORDS.taken);
            take(&ring).unwrap();
            ring.set(WORDS.taken, taken);
            left -= 1;
        }
        ring.repair();
        prop_assert_eq!(counted(&ring), left as u64);
        for &len in &lens[lens.len() - left..] {
            prop_assert_eq!(take(&ring), Some(item(1, len)));
        }
        prop_assert!(take(&ring).is_none());
        ring.clear();
    }

    #[test]
    fn damage_costs_items_and_nothing_else(
        lens in vec(0usize..100_000, 1..4),
        words in vec((0usize..7, any::<u64>()), 0..3),
        bytes in vec((0usize..BLOCK, any::<u8>()), 0..20),
        repairs: bool,
    ) {
        let handle = queue();
        {
            let slot = handle.slot().lock();
            let ring = Ring::of(&slot, WORDS);
            for &len in &lens {
                put(&ring, &item(1, len));
            }
            for &(offset, byte) in &bytes {
                arena().blocks.write(ring.head().block, offset, &[byte]);
            }
            for &(word, value) in &words {
                // Small numbers are the more dangerous ones.
                ring.set(word, if value & 1 == 0 { value } else { value % 8 });
            }
            if repairs {
                ring.repair();
            }
            let mut spent = Reserve::default();
            for _ in 0..10 {
                if ring.take(&mut spent).is_none() {
                    break;
                }
            }
            // The words may name blocks of others by now, which must not be freed here.
            std::mem::forget(spent);
        }
        std::mem::forget(handle);
    }
}

#[test]
fn a_primitive_in_an_item_is_held_by_the_queue() {
    let (handle, lock) = (queue(), Handle::new(Kind::Lock, |_| {}).unwrap());
    let id = lock.id();
    let luggage = vec![id.pack()];
    let parcel = Parcel {
        bytes: Vec::new(),
        luggage,
    };
    let slot = handle.slot().lock();
    let ring = Ring::of(&slot, WORDS);
    ring.put(&parcel, &mut Reserve::default()).unwrap();
    drop(lock);
    let again = Handle::attach(id, Kind::Lock).unwrap();
    let taken = ring.take(&mut Reserve::default()).unwrap();
    taken.unwrap().release_luggage();
    drop(again);
    assert!(Handle::attach(id, Kind::Lock).is_err());
    ring.clear();
}
