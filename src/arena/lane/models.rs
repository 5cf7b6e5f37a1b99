//! A lane's word and signal, and nothing else: what goes through the ring is theirs to order.

use std::sync::Arc;

use loom::{
    cell::UnsafeCell,
    sync::atomic::{AtomicU32, AtomicU64},
    thread::spawn,
};

use super::*;
use crate::arena::models::model;

/// A ring with room for two frames, of which the checker sees who uses it when.
struct Ring([UnsafeCell<u32>; 2]);

// SAFETY: the checker finds out who uses a cell when he must not.
unsafe impl Sync for Ring {}
// SAFETY: as above.
unsafe impl Send for Ring {}

struct Model {
    line: Line,
    ring: Ring,
}

impl Model {
    fn new() -> Arc<Model> {
        Arc::new(Model {
            line: Line::default(),
            ring: Ring([UnsafeCell::new(0), UnsafeCell::new(0)]),
        })
    }

    fn write(&self, number: u32) -> Attention {
        self.ring.0[number as usize % 2].with_mut(|cell| {
            // SAFETY: see `Ring`.
            unsafe { *cell = number + 10 }
        });
        let attention = self.line.publish();
        if attention == Attention::Asleep {
            self.line.signal();
        }
        attention
    }

    fn read(&self, number: u32) {
        self.ring.0[number as usize % 2].with(|cell| {
            // SAFETY: see `Ring`.
            assert_eq!(unsafe { *cell }, number + 10);
        });
    }
}

#[test]
fn loom_a_sleeper_gets_every_frame() {
    model(2, || {
        let model = Model::new();
        let worker = {
            let model = Arc::clone(&model);
            spawn(move || {
                for number in 0..2 {
                    while !model.line.claim() {
                        model.line.sleep(model.line.signals(), None);
                    }
                    model.read(number);
                }
            })
        };
        model.write(0);
        model.write(1);
        worker.join().unwrap();
    });
}

#[test]
fn loom_a_sleeper_sees_the_end() {
    model(2, || {
        let model = Model::new();
        let worker = {
            let model = Arc::clone(&model);
            spawn(move || {
                let mut frames = 0;
                loop {
                    if model.line.claim() {
                        frames += 1;
                    } else if model.line.has_ended() {
                        return frames;
                    } else {
                        model.line.sleep(model.line.signals(), None);
                    }
                }
            })
        };
        model.write(0);
        model.line.close();
        assert_eq!(worker.join().unwrap(), 1);
    });
}

#[test]
fn loom_room_that_was_read_can_be_written_again() {
    model(None, || {
        let model = Model::new();
        model.write(0);
        let reader = {
            let model = Arc::clone(&model);
            spawn(move || {
                // As `receive`: the bytes first.
                model.read(0);
                assert!(model.line.claim());
            })
        };
        if model.line.word().taken == 1 {
            model.ring.0[0].with_mut(|_| ());
        }
        reader.join().unwrap();
    });
}

/// Somebody attends until what he waits for is over, which another says who then rouses him.
#[test]
fn loom_who_is_roused_sees_why() {
    model(3, || {
        let model = Model::new();
        let over = Arc::new(loom::sync::Mutex::new(false));
        let helper = {
            let (model, over) = (Arc::clone(&model), Arc::clone(&over));
            spawn(move || {
                loop {
                    let signals = model.line.signals();
                    model.line.attend();
                    if *over.lock().unwrap() {
                        break;
                    }
                    model.line.sleep(signals, None);
                }
            })
        };
        *over.lock().unwrap() = true;
        model.line.signal();
        helper.join().unwrap();
    });
}

/// What is taken, by who holds the lock.
type Taken = loom::sync::Mutex<u32>;

/// A thread or the link's task takes what there is, unless somebody else does.
fn take(model: &Model, taken: &Taken) {
    let Ok(mut taken) = taken.try_lock() else {
        return;
    };
    model.line.attend();
    loop {
        while model.line.word().waiting > 0 {
            model.read(*taken);
            assert!(model.line.claim());
            *taken += 1;
        }
        if model.line.rest(Attention::None) {
            return;
        }
    }
}

/// A worker that replies twice, a thread that takes what it sees and leaves, and the link's task, which comes
/// when it is rung for.
#[test]
fn loom_who_is_rung_for_or_attends_takes_every_reply() {
    model(3, || {
        let model = Model::new();
        let rung = Arc::new(AtomicU32::new(0));
        let taken = Arc::new(Taken::new(0));
        let worker = {
            let (model, rung) = (Arc::clone(&model), Arc::clone(&rung));
            spawn(move || {
                for number in 0..2 {
                    if model.write(number) == Attention::None {
                        rung.swap(1, Ordering::AcqRel);
                    }
                }
            })
        };
        let helper = {
            let (model, rung, taken) = (Arc::clone(&model), Arc::clone(&rung), Arc::clone(&taken));
            spawn(move || {
                take(&model, &taken);
                if !model.line.is_empty_after_all() {
                    rung.swap(1, Ordering::AcqRel);
                }
            })
        };
        let come = || {
            if rung.swap(0, Ordering::AcqRel) == 1 {
                take(&model, &taken);
            }
        };
        come();
        worker.join().unwrap();
        helper.join().unwrap();
        come();
        assert_eq!(*taken.lock().unwrap(), 2);
    });
}

/// A process writes so many bytes to its pipe, and then looks whether all that was in it is what it has said, while it
/// is read. The system is not asked to order anything.
fn looks_while_it_is_read(written: u64, said: u64, check: fn(Option<bool>)) {
    model(None, move || {
        let heard = Arc::new(Heard::default());
        let pipe = Arc::new(AtomicU64::new(0));
        let reader = {
            let (heard, pipe) = (Arc::clone(&heard), Arc::clone(&pipe));
            spawn(move || {
                for _ in 0..2 {
                    heard.hear(|| ((), pipe.swap(0, Ordering::Relaxed) as usize));
                }
            })
        };
        pipe.fetch_add(written, Ordering::Relaxed);
        let unread = || Ok(pipe.load(Ordering::Relaxed));
        check(heard.is_all_of(said, unread).unwrap());
        reader.join().unwrap();
        let all = heard.is_all_of(said, unread).unwrap();
        assert_eq!(all, Some(written == said));
    });
}

#[test]
fn loom_what_a_process_has_not_said_is_found_out() {
    looks_while_it_is_read(3, 0, |all| assert_ne!(all, Some(true)));
}

#[test]
fn loom_what_a_process_has_said_is_in_order() {
    looks_while_it_is_read(8, 8, |all| assert_ne!(all, Some(false)));
}
