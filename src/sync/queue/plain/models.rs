//! The two ends in every order that the memory model allows.

use loom::{sync::Arc, thread};

use super::*;
use crate::arena::models::model;

fn queue(maxsize: usize) -> Arc<Plain<u32>> {
    Arc::new(Plain::new(maxsize, Stage::Here))
}

fn put(queue: &Plain<u32>, item: u32) {
    queue.put(item).unwrap();
}

/// Takes what is there.
fn drain(queue: &Plain<u32>) -> Vec<u32> {
    std::iter::from_fn(|| queue.get().ok())
        .map(|(item, _)| item)
        .collect()
}

/// As many as need a second ring.
#[test]
fn loom_items_come_out_in_order_while_others_are_put() {
    model(None, || {
        let queue = queue(0);
        let putter = thread::spawn({
            let queue = Arc::clone(&queue);
            move || (0..3).for_each(|item| put(&queue, item))
        });
        let mut got = drain(&queue);
        putter.join().unwrap();
        got.extend(drain(&queue));
        assert_eq!(got, [0, 1, 2]);
    });
}

#[test]
fn loom_a_place_is_used_again_once_its_item_is_out() {
    model(None, || {
        let queue = queue(2);
        put(&queue, 0);
        put(&queue, 1);
        let putter = thread::spawn({
            let queue = Arc::clone(&queue);
            move || (2..4).take_while(|&item| queue.put(item).is_ok()).count()
        });
        let mut got = drain(&queue);
        let added = putter.join().unwrap();
        got.extend(drain(&queue));
        assert_eq!(got, (0..2 + added as u32).collect::<Vec<_>>());
    });
}

#[test]
fn loom_two_who_put_and_two_who_take_have_all_there_is() {
    model(2, || {
        let queue = queue(0);
        put(&queue, 1);
        let others: Vec<_> = (0..2)
            .map(|_| {
                let queue = Arc::clone(&queue);
                thread::spawn(move || {
                    put(&queue, 1);
                    queue.get().unwrap().0
                })
            })
            .collect();
        let got = queue.get().unwrap().0;
        assert_eq!(got, 1);
        for other in others {
            assert_eq!(other.join().unwrap(), 1);
        }
        assert_eq!(queue.len(), 0);
    });
}

#[test]
fn loom_who_waits_for_an_item_is_known_to_who_puts_it() {
    model(None, || {
        let queue = queue(0);
        let putter = thread::spawn({
            let queue = Arc::clone(&queue);
            move || queue.put(1).unwrap()
        });
        let waits = queue.get().is_err() && queue.want_item();
        let told = putter.join().unwrap();
        assert!(told || !waits);
    });
}

#[test]
fn loom_who_waits_for_room_is_known_to_who_makes_it() {
    model(None, || {
        let queue = queue(1);
        put(&queue, 1);
        let getter = thread::spawn({
            let queue = Arc::clone(&queue);
            move || queue.get().unwrap().1
        });
        let waits = queue.put(2).is_err() && queue.want_room();
        let told = getter.join().unwrap();
        assert!(told || !waits);
    });
}

#[test]
fn loom_who_waits_for_the_end_is_known_to_who_is_done() {
    model(None, || {
        let queue = queue(0);
        put(&queue, 1);
        put(&queue, 2);
        let workers: Vec<_> = (0..2)
            .map(|_| {
                let queue = Arc::clone(&queue);
                thread::spawn(move || queue.task_done().unwrap())
            })
            .collect();
        let waits = queue.want_join();
        let told: Vec<_> = workers
            .into_iter()
            .map(|worker| worker.join().unwrap())
            .collect();
        assert!(told.contains(&true) || !waits);
        assert_eq!(queue.task_done(), Err(NotCounted::TooMany));
    });
}

#[test]
fn loom_what_is_kept_for_somebody_nobody_else_has() {
    model(None, || {
        let queue = queue(1);
        let hasty = thread::spawn({
            let queue = Arc::clone(&queue);
            move || queue.get().is_ok()
        });
        put(&queue, 1);
        let is_kept = queue.keep(GETTERS);
        let taken = hasty.join().unwrap();
        assert_ne!(is_kept, taken);
        assert_eq!(queue.get_kept().is_some(), is_kept);
        // The same with the room for an item.
        put(&queue, 2);
        let hasty = thread::spawn({
            let queue = Arc::clone(&queue);
            move || queue.put(3).is_ok()
        });
        queue.get().unwrap();
        let is_kept = queue.keep(PUTTERS);
        let put = hasty.join().unwrap();
        assert_ne!(is_kept, put);
        assert_eq!(queue.put_kept(4).is_ok(), is_kept);
        assert_eq!(queue.len(), 1);
    });
}

#[test]
fn loom_an_item_is_moved_or_refused() {
    model(None, || {
        let queue = queue(0);
        put(&queue, 0);
        let putter = thread::spawn({
            let queue = Arc::clone(&queue);
            move || queue.put(1).is_ok()
        });
        let moved = queue.take_out(7).unwrap();
        let was_put = putter.join().unwrap();
        assert_eq!(moved.len(), 1 + usize::from(was_put));
        assert_eq!(queue.len(), moved.len());
        assert_eq!(queue.get().unwrap_err(), Stage::Moving(7));
        let count = moved.len();
        queue.put_back(moved);
        assert_eq!(drain(&queue).len(), count);
    });
}

/// The counts are closed while others are done with what they have.
#[test]
fn loom_what_is_done_while_the_items_move_is_counted_once() {
    model(None, || {
        let queue = queue(0);
        put(&queue, 0);
        put(&queue, 1);
        let worker = thread::spawn({
            let queue = Arc::clone(&queue);
            move || queue.task_done().is_ok()
        });
        let unfinished = queue.close();
        let counted = worker.join().unwrap();
        assert_eq!(unfinished, 2 - u64::from(counted));
        assert_eq!(queue.unfinished(), None);
    });
}
