use std::{collections::VecDeque, sync::atomic::AtomicBool, thread};

use proptest::{collection::vec, prelude::*};

use super::*;

const ME: u16 = 7;
const OTHER: u16 = 8;

#[derive(Clone, Debug)]
enum Step {
    Post(usize),
    Take(u16),
    Begin,
    WithdrawFirst,
    WithdrawLast,
    Die(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0usize..520).prop_map(Step::Post),
        (0usize..80).prop_map(Step::Post),
        Just(Step::Take(ME)),
        Just(Step::Take(OTHER)),
        Just(Step::Begin),
        Just(Step::WithdrawFirst),
        Just(Step::WithdrawLast),
        Just(Step::Die(OTHER)),
    ]
}

proptest! {
    /// It does what a queue does that remembers who took what.
    #[test]
    fn frames_are_taken_once_and_in_order(steps in vec(step(), 0..400)) {
        let board = Board::claim().unwrap();
        let words = board.0.words;
        let mut next = 0u64;
        let mut posted: VecDeque<(u64, Vec<u8>)> = VecDeque::new();
        let mut taken: VecDeque<(u64, u16, Vec<u8>)> = VecDeque::new();
        for (n, step) in steps.into_iter().enumerate() {
            match step {
                Step::Post(len) => {
                    let frame: Vec<_> = (0..len).map(|at| (at * 31 + n) as u8).collect();
                    let old = next.checked_sub(CELLS as u64);
                    let is_free = posted.iter().all(|(number, _)| Some(*number) != old)
                        && taken.iter().all(|(number, ..)| Some(*number) != old);
                    prop_assert_eq!(board.post(next, &frame), is_free && len <= FRAME_WORDS * 8);
                    if is_free && len <= FRAME_WORDS * 8 {
                        posted.push_back((next, frame));
                        next += 1;
                    }
                }
                Step::Take(process) => match posted.pop_front() {
                    None => prop_assert_eq!(words.take(process), None),
                    Some((number, frame)) => {
                        prop_assert_eq!(words.take(process), Some(number));
                        prop_assert_eq!(board.standing(number), Standing::TakenBy(process));
                        prop_assert!(!board.withdraw(number));
                        taken.push_back((number, process, frame));
                    }
                },
                Step::Begin => if let Some((number, process, frame)) = taken.pop_front() {
                    prop_assert_eq!(words.begin(number, process), Some(frame));
                    prop_assert_eq!(board.standing(number), Standing::TakenBy(process));
                },
                Step::WithdrawFirst => if let Some((number, _)) = posted.pop_front() {
                    prop_assert!(board.withdraw(number) && board.withdraw(number));
                    prop_assert_eq!(board.standing(number), Standing::Withdrawn);
                },
                Step::WithdrawLast => if let Some((number, _)) = posted.pop_back() {
                    prop_assert!(board.withdraw(number));
                },
                Step::Die(process) => taken.retain(|(number, of, _)| {
                    let dies = *of == process;
                    assert!(!dies || !board.bury(*number));
                    !dies
                }),
            }
        }
    }

    #[test]
    fn a_damaged_board_is_an_error_or_nothing(head: u64, words in vec(any::<u64>(), 4)) {
        let board = Board::claim().unwrap();
        board.0.words.head.0.store(head, Ordering::Relaxed);
        for (cell, word) in board.0.words.cells.iter().zip(&words) {
            cell.state.store(*word, Ordering::Relaxed);
            cell.len.store(word.rotate_left(7), Ordering::Relaxed);
        }
        for number in 0..8 {
            if let Some(taken) = board.0.words.take(ME) {
                let frame = board.0.words.begin(taken, ME);
                prop_assert!(frame.is_none_or(|frame| frame.len() <= FRAME_WORDS * 8));
            }
            board.standing(number);
            board.withdraw(number);
            board.bury(number);
            board.post(number, &[1, 2, 3]);
        }
    }
}

#[test]
fn a_state_is_what_was_packed() {
    let number = 0x0fff_1234_5678;
    for fate in [
        Fate::None,
        Fate::Posted,
        Fate::Taken(0xfedc),
        Fate::Begun(0xfedc),
        Fate::Withdrawn,
    ] {
        let state = State { number, fate };
        assert_eq!(State::unpack(state.pack()), state);
    }
}

#[test]
fn many_take_each_frame_once() {
    const FRAMES: u64 = 20_000;
    let board = Board::claim().unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let takers: Vec<_> = (1..4)
            .map(|process| {
                let (board, over) = (&board, &over);
                scope.spawn(move || {
                    let mut taken = Vec::new();
                    loop {
                        let ends = over.load(Ordering::Acquire);
                        if let Some(number) = board.0.words.take(process) {
                            let frame = board.0.words.begin(number, process).unwrap();
                            assert_eq!(frame, number.to_ne_bytes());
                            taken.push(number);
                        } else if ends {
                            return taken;
                        } else {
                            thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        let mut withdrawn = Vec::new();
        for number in 0..FRAMES {
            while !board.post(number, &number.to_ne_bytes()) {
                thread::yield_now();
            }
            if number % 7 == 0 && board.withdraw(number) {
                withdrawn.push(number);
            }
        }
        over.store(true, Ordering::Release);
        let mut all = withdrawn;
        for taker in takers {
            let taken = taker.join().unwrap();
            assert!(taken.is_sorted());
            all.extend(taken);
        }
        all.sort();
        assert!(all.into_iter().eq(0..FRAMES));
    });
}
