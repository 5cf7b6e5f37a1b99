//! Panics of user code: caught, and described with message, location and backtrace.

use std::{
    any::Any,
    backtrace::{Backtrace, BacktraceStatus},
    cell::{Cell, RefCell},
    io::{self, Write},
    mem,
    panic::{self, AssertUnwindSafe, PanicHookInfo},
    sync::Once,
};

use crate::{error::Panic, worker};

thread_local! {
    /// How many calls of [`catch`] are on this thread's stack.
    static CATCHING: Cell<u32> = const { Cell::new(0) };
    /// What the panic hook saw of the panics that are unwinding, with how many calls of [`catch`] there were: a
    /// destructor that the one runs may be where the next one begins, and ends.
    static SEEN: RefCell<Vec<(u32, Panic)>> = const { RefCell::new(Vec::new()) };
}

/// Calls `code`; if it panics, says what the panic was.
///
/// The caller must not look at state that a panic in `code` left half-way.
#[inline]
pub(crate) fn catch<T>(code: impl FnOnce() -> T) -> Result<T, Panic> {
    install_hook();
    CATCHING.set(CATCHING.get() + 1);
    let result = panic::catch_unwind(AssertUnwindSafe(code));
    CATCHING.set(CATCHING.get() - 1);
    match result {
        Ok(value) => Ok(value),
        Err(payload) => Err(describe(payload)),
    }
}

/// What the panic was that has just ended here. Apart from [`catch`], which is compiled for whatever it calls.
#[cold]
fn describe(payload: Box<dyn Any + Send>) -> Panic {
    // The hook is called before the unwinding starts, unless somebody put another in its place.
    let seen = SEEN.try_with(|seen| take_seen(&mut seen.borrow_mut(), CATCHING.get() + 1));
    let seen = seen.ok().flatten();
    let bare = Panic::new(message(&*payload), None, None);
    // A payload whose own destructor panics must not get out of here.
    if let Err(again) = panic::catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(again);
    }
    // What was seen may have been another one, which user code has caught itself.
    seen.filter(|seen| seen.message() == bare.message())
        .unwrap_or(bare)
}

/// What was seen of the panic that ended in the call of [`catch`] with this number; what is within is over, too.
fn take_seen(seen: &mut Vec<(u32, Panic)>, depth: u32) -> Option<Panic> {
    let outer = seen.partition_point(|(other, _)| *other < depth);
    let mut over = seen.drain(outer..);
    over.find_map(|(other, panic)| (other == depth).then_some(panic))
}

/// Calls `code` whose result nobody waits for; a panic has been reported by the hook, and ends here.
#[inline]
pub(crate) fn contain(code: impl FnOnce()) {
    let _ = catch(code);
}

/// Drops what nobody wants any more, whatever its destructor does.
#[inline]
pub(crate) fn discard<T>(value: T) {
    if mem::needs_drop::<T>() {
        let mut value = Some(value);
        let mut discard = || value = None;
        // Compiled once, and not for each type.
        contain(&mut discard as &mut dyn FnMut());
    }
}

/// Puts our hook before the one that is there: it notes what a panic was, and names the worker.
#[inline]
fn install_hook() {
    static INSTALL: Once = Once::new();
    // A thread that is panicking may not change the hook; the next call will do it.
    if INSTALL.is_completed() || std::thread::panicking() {
        return;
    }
    INSTALL.call_once(|| {
        let next = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            note(info);
            next(info);
        }));
    });
}

/// The text of a panic, as `panic!` makes it; other payloads have none.
fn message(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a payload that is not a string".into())
}

fn note(info: &PanicHookInfo<'_>) {
    // Thread-locals may be gone on a thread that is ending.
    let depth = CATCHING.try_with(Cell::get).unwrap_or(0);
    if depth == 0 {
        return;
    }
    let message = message(info.payload());
    let location = info.location().map(ToString::to_string);
    let backtrace = Backtrace::capture();
    let backtrace =
        (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    let _ = SEEN.try_with(|seen| {
        if let Ok(mut seen) = seen.try_borrow_mut() {
            take_seen(&mut seen, depth);
            seen.push((depth, Panic::new(message, location, backtrace)));
        }
    });
    // The default hook names the thread, which in a worker process is just "main".
    if let Some(name) = worker::process_worker_name() {
        // Where nobody reads it, `eprintln!` would panic within the panic.
        let _ = writeln!(io::stderr(), "\nworker '{name}' ({}):", std::process::id());
    }
}

#[cfg(all(test, not(freethreading_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_panic_keeps_its_location_whatever_ends_while_it_unwinds() {
        struct Nested;
        impl Drop for Nested {
            fn drop(&mut self) {
                contain(|| panic!("within"));
            }
        }

        let panic = catch(|| {
            let _nested = Nested;
            panic!("around")
        })
        .unwrap_err();
        assert_eq!(panic.message(), "around");
        assert!(panic.to_string().contains("unwind.rs"), "{panic}");
        assert!(SEEN.with_borrow(Vec::is_empty));
    }
}
