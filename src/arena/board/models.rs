//! The cells and the head in every order, with two processes that take and one that posts.

use std::{array, sync::Arc};

use loom::{sync::atomic::AtomicU32, thread::spawn};

use super::*;
use crate::arena::models::model;

const ONE: u16 = 1;
const OTHER: u16 = 2;
const THIRD: u16 = 3;

impl Words {
    fn new() -> Arc<Words> {
        Arc::new(Words {
            head: Head(AtomicU64::new(0)),
            cells: array::from_fn(|_| Cell {
                state: AtomicU64::new(0),
                len: AtomicU64::new(0),
                frame: array::from_fn(|_| AtomicU64::new(0)),
            }),
        })
    }

    fn post_number(&self, number: u64) -> bool {
        self.post(number, &(number + 10).to_ne_bytes())
    }

    /// Begins with a frame, whose bytes must be those that were posted.
    fn check(&self, number: u64, process: u16) {
        let frame = self.begin(number, process).unwrap();
        assert_eq!(frame, (number + 10).to_ne_bytes());
    }

    /// The same where a process is killed as soon as it has taken the frame.
    fn take_and_die(&self, number: u64, process: u16) -> bool {
        self.cell(number)
            .decide(number, Fate::Taken(process))
            .is_ok()
    }
}

/// A worker that takes what there is; what it took.
fn take_all(words: &Words, process: u16) -> Vec<u64> {
    let mut taken = Vec::new();
    while let Some(number) = words.take(process) {
        words.check(number, process);
        taken.push(number);
    }
    assert!(taken.is_sorted());
    taken
}

#[test]
fn loom_each_frame_is_taken_once_or_withdrawn() {
    model(3, || {
        let words = Words::new();
        assert!(words.post_number(0));
        let workers = [ONE, OTHER].map(|process| {
            let words = Arc::clone(&words);
            spawn(move || take_all(&words, process))
        });
        assert!(words.post_number(1));
        let withdrawn = words.withdraw(1);
        let mut all: Vec<u64> = withdrawn.then_some(1).into_iter().collect();
        for worker in workers {
            all.extend(worker.join().unwrap());
        }
        all.extend(take_all(&words, ONE));
        all.sort();
        assert_eq!(all, [0, 1]);
    });
}

#[test]
fn loom_a_cell_is_used_again_when_it_was_read() {
    model(None, || {
        let words = Words::new();
        assert!(words.post_number(0) && words.post_number(1));
        let worker = {
            let words = Arc::clone(&words);
            spawn(move || take_all(&words, ONE))
        };
        let posted = words.post_number(2);
        let mut taken = worker.join().unwrap();
        taken.extend(take_all(&words, ONE));
        assert_eq!(taken, [0, 1, 2][..2 + usize::from(posted)]);
    });
}

/// Who replies says with it that none before what it has taken is posted any more, whoever took that or has
/// helped.
#[test]
fn loom_with_a_reply_the_parent_sees_what_was_taken_before() {
    model(3, || {
        let words = Words::new();
        let replied = Arc::new(AtomicU64::new(u64::MAX));
        assert!(words.post_number(0) && words.post_number(1));
        let others = [OTHER, THIRD].map(|process| {
            let words = Arc::clone(&words);
            spawn(move || {
                words.take(process);
            })
        });
        let one = {
            let (words, replied) = (Arc::clone(&words), Arc::clone(&replied));
            spawn(move || {
                if let Some(number) = words.take(ONE) {
                    // As a lane's word.
                    replied.store(number, Ordering::Release);
                }
            })
        };
        let number = replied.load(Ordering::Acquire);
        if number != u64::MAX {
            for before in 0..number {
                assert!(matches!(words.standing(before), Standing::TakenBy(_)));
            }
            assert_eq!(words.standing(number), Standing::TakenBy(ONE));
        }
        one.join().unwrap();
        for other in others {
            other.join().unwrap();
        }
    });
}

/// The parent posts for a worker that is busy, as far as it knows, and gives it the frame if it is not.
#[test]
fn loom_no_frame_is_left_to_a_worker_that_has_gone_idle() {
    model(None, || {
        let words = Words::new();
        let replies = Arc::new(AtomicU32::new(0));
        let worker = {
            let (words, replies) = (Arc::clone(&words), Arc::clone(&replies));
            spawn(move || {
                let taken = words.take(ONE);
                replies.store(1, Ordering::Release);
                taken.inspect(|&number| words.check(number, ONE))
            })
        };
        assert!(words.post_number(0));
        let replied = replies.load(Ordering::Acquire) == 1;
        let is_at_work = words.standing(0) == Standing::TakenBy(ONE);
        // What the reply says is final.
        let given = replied && !is_at_work && words.withdraw(0);
        assert!(!replied || is_at_work || given);
        let taken = worker.join().unwrap();
        assert!(!(given && taken.is_some()));
        if !given && taken.is_none() {
            assert!(words.withdraw(0));
        }
    });
}

#[test]
fn loom_what_is_taken_back_comes_after_what_is_not() {
    model(3, || {
        let words = Words::new();
        assert!(words.post_number(0) && words.post_number(1));
        let workers = [ONE, OTHER].map(|process| {
            let words = Arc::clone(&words);
            spawn(move || take_all(&words, process))
        });
        let mut back = Vec::new();
        for number in [1, 0] {
            if !words.withdraw(number) {
                break;
            }
            back.push(number);
        }
        let mut taken: Vec<_> = workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap())
            .collect();
        taken.sort();
        let expected: Vec<u64> = (0..2 - back.len() as u64).collect();
        assert_eq!(taken, expected);
        for number in 0..2 {
            let is_back = words.standing(number) == Standing::Withdrawn;
            assert_eq!(is_back, back.contains(&number));
        }
    });
}

#[test]
fn loom_a_process_that_dies_with_a_frame_holds_up_nobody() {
    model(None, || {
        let words = Words::new();
        assert!(words.post_number(0) && words.post_number(1));
        let victim = {
            let words = Arc::clone(&words);
            spawn(move || words.take_and_die(0, OTHER))
        };
        let worker = {
            let words = Arc::clone(&words);
            spawn(move || take_all(&words, ONE))
        };
        let had_it = victim.join().unwrap();
        let taken = worker.join().unwrap();
        assert_eq!(taken, [0, 1][usize::from(had_it)..]);
        if had_it {
            assert_eq!(words.standing(0), Standing::TakenBy(OTHER));
            assert!(!words.bury(0), "it had not begun");
            assert!(words.post_number(2));
            assert_eq!(take_all(&words, ONE), [2]);
        }
    });
}
