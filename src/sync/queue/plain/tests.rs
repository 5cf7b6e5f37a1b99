use std::{cell::Cell, rc::Rc, sync::Arc, thread};

use proptest::{collection::vec, prelude::*};

use super::*;

static_assertions::assert_impl_all!(Plain<Cell<u8>>: Send, Sync);
static_assertions::assert_not_impl_any!(Plain<Rc<u8>>: Send, Sync);

#[derive(Clone, Copy, Debug)]
enum Step {
    Put(u8),
    Get(u8),
    Move,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (1..100u8).prop_map(Step::Put),
        (1..100u8).prop_map(Step::Get),
        Just(Step::Move),
    ];
    vec(step, 0..40)
}

proptest! {
    /// Whatever is done, it is as with a `VecDeque`, and nothing is lost or dropped twice.
    #[test]
    fn it_is_a_queue(steps in steps(), maxsize in 0usize..200) {
        let alive = Arc::new(());
        let queue = Plain::new(maxsize, Stage::Here);
        let (mut expected, mut next) = (std::collections::VecDeque::new(), 0u64);
        for step in steps {
            match step {
                Step::Put(count) => for _ in 0..count {
                    let is_full = maxsize != 0 && expected.len() == maxsize;
                    match queue.put((next, Arc::clone(&alive))) {
                        Ok(is_wanted) => {
                            prop_assert!(!is_full && !is_wanted);
                            expected.push_back(next);
                        }
                        Err(((item, _), stage)) => {
                            prop_assert!(is_full && item == next && stage == Stage::Here);
                        }
                    }
                    next += 1;
                },
                Step::Get(count) => for _ in 0..count {
                    let got = queue.get().map(|((item, _), _)| item);
                    prop_assert_eq!(got, expected.pop_front().ok_or(Stage::Here));
                },
                Step::Move => {
                    let items = queue.take_out(7).unwrap();
                    prop_assert!(items.iter().map(|item| &item.0).eq(&expected));
                    prop_assert!(queue.get().is_err());
                    queue.put_back(items);
                }
            }
            prop_assert_eq!(queue.len(), expected.len());
            prop_assert_eq!(Arc::strong_count(&alive), 1 + expected.len());
        }
        drop(queue);
        prop_assert_eq!(Arc::strong_count(&alive), 1);
    }
}

#[test]
fn a_ring_that_was_made_for_one_who_went_away_goes_with_the_one_before() {
    // Rings of 16, 32 and 64 places; the last is full before the queue is.
    let queue = Plain::new(100, Stage::Here);
    let put = |item: u64| assert!(queue.put([item; 2]).is_ok());
    (0..100).for_each(put);
    for item in 100..112 {
        queue.get().unwrap();
        put(item);
    }
    queue.get().unwrap();
    assert!(queue.keep(PUTTERS));
    queue.give_back(PUTTERS);
    while queue.get().is_ok() {}
    assert_eq!(queue.take_out(7), Ok(Vec::new()));
}

#[test]
fn what_is_kept_is_for_one_alone_until_it_is_given_back() {
    let queue = Plain::new(2, Stage::Here);
    assert!(!queue.keep(GETTERS));
    queue.put(1).unwrap();
    assert!(queue.keep(PUTTERS));
    assert!(!queue.keep(PUTTERS));
    assert!(queue.put(2).is_err());
    assert!(queue.want_room());
    queue.put_kept(2).unwrap();
    assert_eq!(queue.put_kept(3), Err(3));
    assert!(queue.keep(GETTERS) && queue.keep(GETTERS) && !queue.keep(GETTERS));
    assert!(queue.get().is_err() && queue.want_item());
    queue.give_back(GETTERS);
    assert!(!queue.want_item());
    assert_eq!(queue.get().unwrap().0, 1);
    assert!(queue.get().is_err());
    // Who moves the items moves all of them.
    let items = queue.take_out(7).unwrap();
    assert_eq!(items, [2]);
    queue.put_back(items);
    assert!(queue.get_kept().is_none());
    assert_eq!(queue.get().unwrap().0, 2);
    assert_eq!(queue.len(), 0);
}

#[test]
fn items_without_a_size_are_counted() {
    let queue = Plain::new(0, Stage::Here);
    for _ in 0..1000 {
        queue.put(()).unwrap();
    }
    assert_eq!(queue.len(), 1000);
    assert_eq!(std::iter::from_fn(|| queue.get().ok()).count(), 1000);
}

#[test]
fn items_that_panic_as_they_are_dropped_leave_none_of_the_others() {
    struct Item {
        _alive: Arc<()>,
        explodes: bool,
    }

    impl Drop for Item {
        fn drop(&mut self) {
            assert!(!self.explodes, "boom");
        }
    }

    let alive = Arc::new(());
    let queue = Plain::new(0, Stage::Here);
    for number in 0..200 {
        let item = Item {
            _alive: Arc::clone(&alive),
            explodes: number % 70 == 69,
        };
        assert!(queue.put(item).is_ok());
    }
    drop(queue);
    assert_eq!(Arc::strong_count(&alive), 1);
}

#[test]
fn threads_at_both_ends_lose_nothing() {
    const EACH: u64 = if cfg!(miri) { 100 } else { 100_000 };

    for maxsize in [0, 1, 3, 100] {
        let queue = Plain::new(maxsize, Stage::Here);
        let sum = thread::scope(|scope| {
            for start in 0..2 {
                let queue = &queue;
                scope.spawn(move || {
                    for mut item in (0..EACH).map(|item| 2 * item + start) {
                        while let Err((back, _)) = queue.put(item) {
                            item = back;
                            thread::yield_now();
                        }
                    }
                });
            }
            let getters: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        let (mut sum, mut last) = (0, [None; 2]);
                        for _ in 0..EACH {
                            let item = loop {
                                match queue.get() {
                                    Ok((item, _)) => break item,
                                    Err(_) => thread::yield_now(),
                                }
                            };
                            // Those of one putter come in order.
                            let last = &mut last[(item % 2) as usize];
                            assert!(*last < Some(item));
                            *last = Some(item);
                            sum += item;
                        }
                        sum
                    })
                })
                .collect();
            getters
                .into_iter()
                .map(|getter| getter.join().unwrap())
                .sum::<u64>()
        });
        assert_eq!(sum, (0..2 * EACH).sum());
        assert_eq!(queue.len(), 0);
    }
}
