//! What the reactor's thread must not do itself: call user code, or wait for somebody.
//!
//! Such calls wait in line for a helper, a thread that makes one after the other; when nothing is left, and nothing
//! comes for a while, it ends. A call may take as long as it likes, and may wait for another one: so there is a further
//! helper when the line has not moved for a moment, and as many as there are processors when it moves, but too slowly.
//!
//! The runtime has such threads as well, but where the system refuses the first one, it panics.

use std::{collections::VecDeque, mem, num::NonZero, sync::LazyLock, thread, time::Duration};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::reactor;
use crate::unwind;

/// How long a call waits in line before there is a further helper.
const MOMENT: Duration = Duration::from_millis(1);

/// How long a helper stays that has nothing to do.
const WHILE: Duration = Duration::from_secs(1);

type Call = Box<dyn FnOnce() + Send>;

static LINE: Mutex<Line> = Mutex::new(Line {
    calls: VecDeque::new(),
    taken: 0,
    helpers: 0,
    idle: 0,
    is_one_coming: false,
    is_watched: false,
});

/// An idle helper is sent for.
static SENT_FOR: Condvar = Condvar::new();

struct Line {
    calls: VecDeque<Call>,
    /// How many were ever taken out.
    taken: u64,
    /// Helpers that make calls.
    helpers: usize,
    /// Helpers that have nothing to do, and wait for [`SENT_FOR`].
    idle: usize,
    /// A helper was sent for and has not begun.
    is_one_coming: bool,
    /// Somebody sees to it that the line moves.
    is_watched: bool,
}

/// Makes the call here, or leaves it to a helper if this thread serves worker processes: all jobs wait for it, and
/// whoever does it while he waits may hold what the call waits for.
pub(crate) fn off_the_reactor(call: impl FnOnce() + Send + 'static) {
    match reactor::is_served_here() {
        true => leave(Box::new(call)),
        false => call(),
    }
}

/// Leaves a call to a helper.
pub(crate) fn leave(call: Call) {
    let (is_helped, was_watched) = {
        let mut line = LINE.lock();
        line.calls.push_back(call);
        let is_helped = line.helpers > 0 || mem::replace(&mut line.is_one_coming, true);
        let was_watched = is_helped && mem::replace(&mut line.is_watched, true);
        (is_helped, was_watched)
    };
    if !is_helped && !send_for_helper() {
        // It has to be done here after all.
        work_off(&mut LINE.lock());
    }
    if is_helped && !was_watched {
        let watches = reactor::handle().map(|reactor| drop(reactor.spawn(watch())));
        LINE.lock().is_watched &= watches.is_ok();
    }
}

/// Has a helper begin; `false` if there can be none.
fn send_for_helper() -> bool {
    if LINE.lock().idle > 0 {
        SENT_FOR.notify_one();
        return true;
    }
    let helper = thread::Builder::new().name("freethreading-callbacks".into());
    helper.spawn(stay).is_ok()
}

/// Helps, again and again, until nobody has sent for a helper for a while.
fn stay() {
    let mut line = LINE.lock();
    loop {
        work_off(&mut line);
        line.idle += 1;
        let is_over = SENT_FOR.wait_for(&mut line, WHILE).timed_out();
        line.idle -= 1;
        if is_over && line.calls.is_empty() {
            // It may have been sent for all the same, when others were just about to make the call.
            line.is_one_coming = false;
            return;
        }
    }
}

/// Makes the calls that wait, until there are none.
fn work_off(line: &mut MutexGuard<'_, Line>) {
    line.is_one_coming = false;
    line.helpers += 1;
    while let Some(call) = line.calls.pop_front() {
        line.taken += 1;
        MutexGuard::unlocked(line, || unwind::contain(call));
    }
    line.helpers -= 1;
}

/// Sees to it that the line moves, as long as there is one.
async fn watch() {
    static PROCESSORS: LazyLock<usize> =
        LazyLock::new(|| thread::available_parallelism().map_or(1, NonZero::get));

    loop {
        let (before, last) = {
            let mut line = LINE.lock();
            if line.calls.is_empty() {
                line.is_watched = false;
                return;
            }
            (line.taken, line.taken + line.calls.len() as u64)
        };
        tokio::time::sleep(MOMENT).await;
        let is_wanted = {
            let mut line = LINE.lock();
            let (stands, is_slow) = (line.taken == before, line.taken < last);
            let is_wanted = stands || is_slow && line.helpers < *PROCESSORS;
            is_wanted && !mem::replace(&mut line.is_one_coming, true)
        };
        if is_wanted && !send_for_helper() {
            LINE.lock().is_one_coming = false;
        }
    }
}

#[cfg(all(test, not(freethreading_loom)))]
mod tests {
    use std::{collections::HashSet, sync::mpsc, thread};

    use super::*;
    use crate::engine::reactor::Serving;

    /// As the reactor's thread does.
    fn leave(call: impl FnOnce() + Send + 'static) {
        let _serving = Serving::begin();
        off_the_reactor(call);
    }

    #[test]
    fn calls_may_wait_for_those_behind_them() {
        let (done, is_done) = mpsc::channel();
        let mut senders = Vec::new();
        for _ in 0..10 {
            let (sender, may_end) = mpsc::channel();
            senders.push(sender);
            let done = done.clone();
            leave(move || {
                may_end.recv().unwrap();
                done.send(()).unwrap();
            });
        }
        leave(move || senders.iter().for_each(|sender| sender.send(()).unwrap()));
        for _ in 0..10 {
            is_done.recv_timeout(Duration::from_secs(60)).unwrap();
        }
    }

    #[test]
    fn a_call_that_panics_stops_no_other() {
        let (done, is_done) = mpsc::channel();
        leave(|| panic!("on purpose"));
        leave(move || done.send(()).unwrap());
        is_done.recv_timeout(Duration::from_secs(60)).unwrap();
    }

    #[test]
    fn many_short_calls_take_few_threads() {
        let (done, is_done) = mpsc::channel();
        for _ in 0..20_000 {
            let done = done.clone();
            leave(move || done.send(thread::current().id()).unwrap());
        }
        drop(done);
        let threads: HashSet<_> = is_done.iter().collect();
        assert!(threads.len() < 100, "{} threads", threads.len());
    }
}
