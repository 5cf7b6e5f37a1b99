//! The stream against a plain queue, cut short at any point, and damaged.

use std::{collections::VecDeque, mem};

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::arena::{handle::Handle, slot::Kind};

fn queue() -> Handle {
    Handle::new(Kind::Queue, |_| {}).unwrap()
}

fn parcel(bytes: Vec<u8>) -> Parcel {
    let mut parcel = Parcel::default();
    parcel.bytes.extend(bytes);
    parcel
}

fn put(slot: &Locked, bytes: &[u8]) {
    let parcel = parcel(bytes.to_vec());
    Ring::of(slot.slot)
        .put(
            slot,
            &parcel,
            &mut Reserve::default(),
            &mut Wakes::default(),
        )
        .unwrap();
}

fn gate(slot: &Locked) -> Gate {
    slot.gate(&mut Wakes::default())
}

fn take(slot: &Locked) -> Option<Vec<u8>> {
    let mut parcel = Parcel::default();
    let ring = Ring::of(slot.slot);
    ring.take(&gate(slot), &mut parcel, &mut Reserve::default())?
        .unwrap();
    Some(mem::take(&mut parcel.bytes))
}

fn repair(slot: &Locked) {
    Ring::of(slot.slot).repair(slot, &gate(slot));
}

fn clear(slot: &Locked) {
    Ring::of(slot.slot).clear(slot, &gate(slot));
}

/// How many items the counts say there are.
fn counted(slot: &Locked) -> u64 {
    let ring = Ring::of(slot.slot);
    ring.get(PUT).wrapping_sub(ring.get(TAKEN))
}

/// The blocks that are some slot's.
fn blocks_of(slot: u32) -> usize {
    let all = arena().blocks.tags.used();
    all.filter(|(_, block, _)| block.slot.load(Ordering::Relaxed) == slot)
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
        let ring = Ring::of(slot.slot);
        let mut model = VecDeque::new();
        for (puts, seed, len) in steps {
            if puts {
                let bytes = item(seed, len);
                put(&slot, &bytes);
                model.push_back(bytes);
            } else {
                prop_assert_eq!(take(&slot), model.pop_front());
            }
            prop_assert_eq!(counted(&slot), model.len() as u64);
        }
        while let Some(bytes) = model.pop_front() {
            prop_assert_eq!(take(&slot), Some(bytes));
        }
        prop_assert!(ring.is_empty());
        // What was needed for more is given back.
        prop_assert!(blocks_of(handle.slot().index()) <= 1 + SPARES.len());
        clear(&slot);
    }

    #[test]
    fn a_put_that_is_cut_short_has_not_happened(
        before in vec(0usize..100_000, 0..4),
        len in 0usize..300_000,
        written in 0usize..300_000,
        adopted: bool,
    ) {
        let handle = queue();
        let slot = handle.slot().lock();
        let ring = Ring::of(slot.slot);
        for (n, &len) in before.iter().enumerate() {
            put(&slot, &item(n as u8, len));
        }
        {
            // As far as a process may have come that is killed before it commits.
            let mut reserve = Reserve::default();
            let mut writer = Writer {
                ring,
                at: ring.tail(),
                new: Vec::new(),
                reserve: &mut reserve,
            };
            writer.write(&item(9, written.min(len))).unwrap();
            let new = writer.new;
            if adopted {
                ring.adopt(&new);
                let first = Position { block: new.first().copied().unwrap_or(0), offset: 0 };
                if before.is_empty() {
                    ring.set(HEAD, first.pack(0));
                }
                repair(&slot);
            } else {
                repair(&slot);
                // What it had claimed is freed with all that it has.
                drop(Reserve(new));
            }
        }
        prop_assert_eq!(counted(&slot), before.len() as u64);
        let used: usize = before.iter().map(|len| HEADER + len).sum();
        prop_assert_eq!(blocks_of(handle.slot().index()), used.div_ceil(BLOCK));
        put(&slot, b"after");
        for (n, &len) in before.iter().enumerate() {
            prop_assert_eq!(take(&slot), Some(item(n as u8, len)));
        }
        prop_assert_eq!(take(&slot), Some(b"after".to_vec()));
        prop_assert!(take(&slot).is_none());
        clear(&slot);
    }

    #[test]
    fn what_is_counted_is_what_is_committed_after_a_repair(
        lens in vec(0usize..100_000, 1..5),
        was_put: bool,
    ) {
        let handle = queue();
        let slot = handle.slot().lock();
        let ring = Ring::of(slot.slot);
        for &len in &lens {
            put(&slot, &item(1, len));
        }
        // A put was counted, and its process was killed before it committed; or a get was committed, and
        // its process was killed before it counted.
        let mut left = lens.len();
        if was_put {
            ring.set(PUT, ring.get(PUT) + 1);
        } else {
            let taken = ring.get(TAKEN);
            take(&slot).unwrap();
            ring.set(TAKEN, taken);
            left -= 1;
        }
        repair(&slot);
        prop_assert_eq!(counted(&slot), left as u64);
        prop_assert_eq!(ring.get(PUT), lens.len() as u64);
        for &len in &lens[lens.len() - left..] {
            prop_assert_eq!(take(&slot), Some(item(1, len)));
        }
        prop_assert!(take(&slot).is_none());
        clear(&slot);
    }

    #[test]
    fn damage_costs_items_and_nothing_else(
        lens in vec(0usize..100_000, 1..4),
        words in vec((0usize..=SPARES[SPARES.len() - 1], any::<u64>()), 0..3),
        bytes in vec((0usize..BLOCK, any::<u8>()), 0..20),
        repairs: bool,
    ) {
        let handle = queue();
        {
            let slot = handle.slot().lock();
            let ring = Ring::of(slot.slot);
            for &len in &lens {
                put(&slot, &item(1, len));
            }
            for &(offset, byte) in &bytes {
                arena().blocks.write(ring.head().block, offset, &[byte]);
            }
            for &(word, value) in &words {
                // Small numbers are the more dangerous ones.
                ring.set(word, if value & 1 == 0 { value } else { value % 8 });
            }
            if repairs {
                repair(&slot);
            }
            let mut spent = Reserve::default();
            for _ in 0..10 {
                let gate = gate(&slot);
                match ring.take(&gate, &mut Parcel::default(), &mut spent) {
                    None => break,
                    Some(Ok(())) => {}
                    Some(Err(Damaged)) => ring.give_up(&slot, &gate),
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
    let mut parcel = Parcel::default();
    parcel.luggage.push(id.pack());
    let slot = handle.slot().lock();
    let ring = Ring::of(slot.slot);
    ring.put(
        &slot,
        &parcel,
        &mut Reserve::default(),
        &mut Wakes::default(),
    )
    .unwrap();
    drop(lock);
    let again = Handle::attach(id, Kind::Lock).unwrap();
    let mut taken = Parcel::default();
    ring.take(&gate(&slot), &mut taken, &mut Reserve::default())
        .unwrap()
        .unwrap();
    taken.release_luggage();
    drop(again);
    assert!(Handle::attach(id, Kind::Lock).is_err());
    clear(&slot);
}

#[test]
fn a_spare_block_is_one_processs_or_the_queues() {
    let handle = queue();
    let slot = handle.slot().lock();
    let ring = Ring::of(slot.slot);
    put(&slot, &item(1, SPARES.len() * BLOCK));
    take(&slot).unwrap();
    let spares: Vec<_> = SPARES.map(|spare| ring.get(spare) as u32).to_vec();
    let mut known = spares.clone();
    known.extend([ring.tail().block, 0]);
    known.sort_unstable();
    known.dedup();
    assert_eq!(known.len(), SPARES.len() + 2, "{spares:?}");
    // Somebody is killed who is about to use one of them, but is still said to be kept.
    let dead = u16::MAX;
    let tag = arena().blocks.tags.get(spares[1]).unwrap();
    arena().blocks.tags.hand(tag, dead);
    repair(&slot);
    assert_eq!(
        SPARES.map(|spare| ring.get(spare) as u32).to_vec(),
        [spares[0], 0, spares[2], spares[3]]
    );
    assert_eq!(arena().blocks.tags.owner(tag), dead);
    arena().blocks.free_all_of(dead);
    assert_eq!(blocks_of(handle.slot().index()), SPARES.len());
    clear(&slot);
    assert_eq!(blocks_of(handle.slot().index()), 0);
}
