use std::{collections::VecDeque, thread};

use proptest::{collection::vec, prelude::*};

use super::{line::Word, *};

/// Both ends of one lane.
fn ends() -> (Lanes, Writer, Reader) {
    let lanes = Lanes::claim().unwrap();
    let lane = lanes.requests();
    (lanes, Writer::new(lane), Reader::new(lane))
}

fn frame(arrival: Option<io::Result<Arrival>>) -> Option<Vec<u8>> {
    arrival.and_then(Result::unwrap)
}

#[derive(Clone, Debug)]
enum Step {
    Write(Option<usize>),
    Claim,
    Free,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0usize..12_000).prop_map(|len| Step::Write(Some(len))),
        (0usize..100).prop_map(|len| Step::Write(Some(len))),
        Just(Step::Write(None)),
        Just(Step::Claim),
        Just(Step::Claim),
        Just(Step::Free),
    ]
}

proptest! {
    /// It does what a queue does that knows how much room there is.
    #[test]
    fn frames_come_out_as_they_went_in(steps in vec(step(), 0..200)) {
        let (_lanes, mut writer, mut reader) = ends();
        let mut waiting: VecDeque<(Written, Option<Vec<u8>>)> = VecDeque::new();
        let mut taken: VecDeque<Written> = VecDeque::new();
        let (mut used, mut count) = (0, 0u32);
        for (n, step) in steps.into_iter().enumerate() {
            match step {
                Step::Write(len) => {
                    let bytes = len.map(|len| (0..len).map(|at| (at * 31 + n) as u8).collect::<Vec<_>>());
                    let written = writer.write(bytes.as_deref());
                    let room = PREFIX + len.unwrap_or(0);
                    prop_assert_eq!(written.is_some(), used + room <= RING);
                    if let Some(written) = written {
                        prop_assert_eq!(written.room, room);
                        prop_assert_eq!(written.number, count + waiting.len() as u32);
                        used += room;
                        waiting.push_back((written, bytes));
                    }
                }
                Step::Claim => match waiting.pop_front() {
                    None => prop_assert!(reader.claim().is_none()),
                    Some((written, bytes)) => {
                        prop_assert!(!writer.lane().has_taken(written.number));
                        let arrival = reader.claim().unwrap().unwrap();
                        prop_assert_eq!(arrival, bytes);
                        prop_assert!(writer.lane().has_taken(written.number));
                        count += 1;
                        taken.push_back(written);
                    }
                },
                Step::Free => if let Some(written) = taken.pop_front() {
                    writer.free(written.room);
                    used -= written.room;
                },
            }
            prop_assert_eq!(writer.lane().taken(), count);
            prop_assert_eq!(writer.lane().is_empty(), waiting.is_empty());
        }
    }

    #[test]
    fn a_damaged_lane_is_an_error_or_nothing(noise in vec(any::<u8>(), 64..300), word: u64) {
        let (lanes, _, mut reader) = ends();
        arena().blocks.write(lanes.block(), HEAD, &noise);
        lanes.requests().line.word.store(word, Ordering::Relaxed);
        for _ in 0..3 {
            if let Some(Ok(arrival)) = reader.claim() {
                prop_assert!(arrival.is_none_or(|frame| frame.len() <= RING));
            }
        }
    }
}

#[test]
fn numbers_wrap_around() {
    assert!(is_before(1, 2) && !is_before(2, 2) && !is_before(3, 2));
    assert!(is_before(u32::MAX, 0) && !is_before(0, u32::MAX));
    let (lanes, mut writer, mut reader) = ends();
    let almost = Word {
        taken: u32::MAX,
        waiting: 0,
        attention: Attention::None,
        closed: false,
    };
    lanes
        .requests()
        .line
        .word
        .store(almost.pack(), Ordering::Relaxed);
    writer.written = u32::MAX;
    for n in 0..3u8 {
        let written = writer.write(Some(&[n])).unwrap();
        assert_eq!(written.number, u32::MAX.wrapping_add(u32::from(n)));
        assert!(!writer.lane().has_taken(written.number));
        assert_eq!(frame(reader.claim()), Some(vec![n]));
        assert!(writer.lane().has_taken(written.number));
    }
}

#[test]
fn a_word_is_what_was_packed() {
    for attention in [Attention::None, Attention::Full, Attention::Asleep] {
        for closed in [false, true] {
            let word = Word {
                taken: 0x8765_4321,
                waiting: 0xfedc,
                attention,
                closed,
            };
            assert_eq!(Word::unpack(word.pack()), word);
        }
    }
}

#[test]
fn a_sleeper_is_woken_by_a_frame_and_by_the_end() {
    let (lanes, mut writer, mut reader) = ends();
    let lane = lanes.requests();
    thread::scope(|scope| {
        let sleeper = scope.spawn(move || {
            let mut frames = 0;
            loop {
                if reader.claim().is_some() {
                    frames += 1;
                } else if reader.lane().has_ended() {
                    return frames;
                } else {
                    reader.wait(reader.signals(), None);
                }
            }
        });
        for n in 0..1000u32 {
            let written = loop {
                if let Some(written) = writer.write(Some(&n.to_ne_bytes())) {
                    break written;
                }
                thread::yield_now();
            };
            lane.alert(written.attention);
            if n % 2 == 0 {
                while !lane.has_taken(written.number) {
                    thread::yield_now();
                }
            }
            writer.free(if n % 2 == 0 { written.room } else { 0 });
        }
        lane.close();
        assert_eq!(sleeper.join().unwrap(), 1000);
    });
}

#[test]
fn what_was_read_and_what_was_not_is_all_that_was_said() {
    let heard = Heard::default();
    let is_all_of = |said, unread| heard.is_all_of(said, || Ok(unread)).unwrap();
    assert_eq!(is_all_of(0, 0), Some(true));
    assert_eq!(is_all_of(8, 8), Some(true));
    assert_eq!(is_all_of(8, 9), Some(false));
    assert_eq!(is_all_of(8, 0), Some(false));
    assert_eq!(heard.hear(|| ("done", 5)), "done");
    assert_eq!(is_all_of(8, 3), Some(true));
    assert_eq!(is_all_of(8, 8), Some(false));
    heard.hear(|| {
        assert_eq!(is_all_of(8, 3), None);
        ((), 3)
    });
    assert_eq!(is_all_of(8, 0), Some(true));
    let failed = heard.is_all_of(8, || Err(io::ErrorKind::BrokenPipe.into()));
    assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}
