//! Giving way in async code. A task that finds everything it asks for at once never has to wait, and would keep its
//! thread for ever: the other tasks of a runtime with one thread would not run, nor its timers. So operations take
//! part in the budget that tokio gives each task for the time that it is polled. On other runtimes they do not.

use std::{
    cell::Cell,
    future::poll_fn,
    task::{Context, Poll},
};

use tokio::task::coop::poll_proceed;

/// How much of the budget 256 operations take, whose number costs least to count: they take so much less time than
/// tokio's.
const UNITS: u32 = 16;

thread_local! {
    static BEGUN: Cell<u8> = const { Cell::new(0) };
}

/// Whether an operation may begin; else the task is woken once others had their turn.
#[inline]
pub(crate) fn poll_begin(context: &mut Context<'_>) -> Poll<()> {
    let begun = BEGUN.get().wrapping_add(1);
    BEGUN.set(begun);
    match begun {
        0 => spend(context),
        _ => Poll::Ready(()),
    }
}

/// The same for what has been done already, and cannot be done again: waits afterwards instead, if need be.
#[inline]
pub(crate) fn give_way() -> impl Future<Output = ()> {
    poll_fn(poll_begin)
}

#[cold]
#[inline(never)]
fn spend(context: &mut Context<'_>) -> Poll<()> {
    for _ in 0..UNITS {
        let Poll::Ready(unit) = poll_proceed(context) else {
            // What is left of the operations comes next time.
            BEGUN.set(u8::MAX);
            return Poll::Pending;
        };
        unit.made_progress();
    }
    Poll::Ready(())
}
