//! A program that may reserve few addresses, so that the memory which it shares with its workers is soon
//! full: what finds no room there goes through the pipe.

mod common;

use std::fs;

use common::{GateKeeper, watched};
use freethreading::{SimpleQueue, task};
use serde_bytes::ByteBuf;

/// Runs before all that has no number, `init` among it.
#[used]
#[unsafe(link_section = ".init_array.00200")]
static EARLY: extern "C" fn() = early;

extern "C" fn early() {
    let limit = libc::rlimit {
        rlim_cur: 1000 << 20,
        rlim_max: 1000 << 20,
    };
    // SAFETY: the pointer is to a limit that is there during the call.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) };
    assert_eq!(result, 0);
}

freethreading::init_tests!();

/// How large what is shared can become.
fn reserved() -> u64 {
    let fds = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let arenas = fds.filter(|fd| {
        let target = fs::read_link(fd.path()).unwrap_or_default();
        target.to_string_lossy().starts_with("/memfd:freethreading")
    });
    let sizes = arenas.map(|fd| fs::metadata(fd.path()).map_or(0, |file| file.len()));
    sizes.max().unwrap_or(u64::MAX)
}

#[test]
fn what_finds_no_room_goes_through_the_pipe() {
    watched(|| {
        let executor = common::processes(1);
        let keeper = GateKeeper::new();
        let gate = keeper.gate();
        let first = executor.submit(task!(|gate| gate.pass()));
        keeper.wait_for(1);
        // 100 MiB at a time, of which less than half have room.
        for _ in 0..2 {
            let values: Vec<_> = (0..10u8)
                .map(|n| ByteBuf::from(vec![n; (6 << 20) + usize::from(n) * (1 << 20)]))
                .collect();
            let futures: Vec<_> = values
                .iter()
                .cloned()
                .map(|value| {
                    executor.submit(task!(|value| std::convert::identity::<ByteBuf>(value)))
                })
                .collect();
            keeper.open();
            for (future, value) in futures.into_iter().zip(values) {
                assert!(future.result().unwrap() == value);
            }
        }
        first.result().unwrap();
        // Or the test is of no use.
        assert!(reserved() <= 256 << 20, "{}", reserved());
        // More than there is room for in all.
        let value = ByteBuf::from(vec![7; 50 << 20]);
        let sent = value.clone();
        let back = executor.submit(task!(|sent| std::convert::identity::<ByteBuf>(sent)));
        assert!(back.result().unwrap() == value);
    });
}

#[test]
fn who_found_no_room_for_an_item_has_that_of_others_who_took_some() {
    fn take_all(queue: SimpleQueue<ByteBuf>) -> usize {
        std::iter::from_fn(|| queue.get_nowait().ok()).count()
    }
    watched(|| {
        let executor = common::processes(1);
        let queue = SimpleQueue::new();
        let take_all = || {
            let queue = queue.clone();
            executor.submit(task!(take_all(queue))).result().unwrap()
        };
        let put_all = || {
            let put = |_: &u32| queue.put(ByteBuf::from(vec![7; 1 << 20])).is_ok();
            (0..).take_while(put).count()
        };
        assert_eq!(take_all(), 0);
        let most = put_all();
        assert!(most >= 20, "{most}");
        let mut there = most;
        for _ in 0..3 {
            assert_eq!(take_all(), there);
            there = put_all();
            // Other tests use some, too.
            assert!(there + 1 >= most, "{there}, after {most}");
        }
    });
}
