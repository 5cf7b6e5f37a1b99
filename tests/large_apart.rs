//! A program whose workers cannot have the memory that it would share with them, since they have made
//! some of their own before `init`.

mod common;

use common::watched;
use freethreading::{Lock, TaskError, task};
use serde_bytes::ByteBuf;

/// Runs before all that has no number, `init` among it.
#[used]
#[unsafe(link_section = ".init_array.00200")]
static EARLY: extern "C" fn() = early;

extern "C" fn early() {
    std::mem::forget(Lock::new());
}

freethreading::init_tests!();

#[test]
fn large_arguments_and_results_go_through_the_pipe_then() {
    watched(|| {
        let executor = common::processes(1);
        // So it is, or the test is of no use.
        let lock = Lock::new();
        let error = executor.submit(task!(|lock| lock.locked())).result();
        assert!(matches!(error, Err(TaskError::Decode(_))));
        for len in [1 << 10, 1 << 20, 20 << 20] {
            let bytes = ByteBuf::from(vec![7; len]);
            let sent = bytes.clone();
            let back = executor.submit(task!(|sent| std::convert::identity::<ByteBuf>(sent)));
            assert!(back.result().unwrap() == bytes);
        }
    });
}
