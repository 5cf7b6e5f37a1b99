//! Where a worker process leaves the program's own way.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::{engine::processes::child, error::Error};

static INITIALIZED: AtomicBool = AtomicBool::new(false);

/// Makes worker processes possible: call it first in `main`.
///
/// A worker process is this program, run again. In such a process `init` does not return: it runs
/// tasks until there are no more, and ends the process. In the program that the user started it
/// only notes that it was called. Without it, whatever needs a worker process returns
/// [`Error::NotInitialized`]; threads work without it.
///
/// What `main` does before `init` is done by every worker process, too, so nothing should come before it. Above all,
/// nothing should be printed there. Exit hooks, such as those of `libc::atexit`, belong behind `init`: one that is
/// registered before is also run by every worker process, when that ends. It gets no workers there: to ask for
/// processes is an error, [`Error::Unsupported`], and what is given to threads is refused.
///
/// A program with `#[tokio::main]` starts the runtime's threads first. That does no harm, but takes time at the start
/// of every worker process. To avoid that, build the runtime after `init`:
///
/// ```no_run
/// fn main() {
///     freethreading::init();
///     tokio::runtime::Runtime::new().unwrap().block_on(async {
///         // …
///     });
/// }
/// ```
///
/// A test crate has no `main` of its own: see [`init_tests!`](crate::init_tests!).
///
/// It stands for Python's `if __name__ == "__main__":`.
///
/// # Blocking
///
/// In a worker process, for ever. In the program itself not at all.
///
/// # Examples
///
/// ```standalone_crate
/// use freethreading::{Backend, WorkerPoolExecutor};
///
/// fn main() -> Result<(), freethreading::Error> {
///     freethreading::init();
///     let executor = WorkerPoolExecutor::builder().backend(Backend::Multiprocessing).build()?;
///     let pid = executor.submit(std::process::id).result()?;
///     assert_ne!(pid, std::process::id());
///     Ok(())
/// }
/// ```
#[allow(clippy::needless_doctest_main)] // It is about `main`.
pub fn init() {
    if let Some(marker) = child::take_marker() {
        // Tasks may start worker processes of their own.
        INITIALIZED.store(true, Ordering::Relaxed);
        child::work(&marker);
    }
    // Relaxed: the flag guards nothing else, and `main` calls this before anybody can look.
    INITIALIZED.store(true, Ordering::Relaxed);
}

/// An error if [`init`] was not called: a worker process would run `main` like the program itself.
pub(crate) fn check() -> Result<(), Error> {
    match INITIALIZED.load(Ordering::Relaxed) {
        true => Ok(()),
        false => Err(Error::NotInitialized),
    }
}

/// Makes worker processes possible in a test crate: one line at the crate's root.
///
/// It has [`init`] called before the test harness starts, so that a worker process never runs a
/// test. It works with `cargo test` and with nextest, for integration tests and for unit tests: these need it in
/// `lib.rs`, in a module behind `#[cfg(test)]`.
///
/// # Examples
///
/// ```
/// // tests/workers.rs
/// use freethreading::{Backend, WorkerPoolExecutor};
///
/// freethreading::init_tests!();
///
/// #[test]
/// fn a_task_runs_in_another_process() -> Result<(), freethreading::Error> {
///     let executor = WorkerPoolExecutor::builder().backend(Backend::Multiprocessing).build()?;
///     assert_ne!(executor.submit(std::process::id).result()?, std::process::id());
///     Ok(())
/// }
/// ```
#[allow(clippy::test_attr_in_doctest)] // It is about test crates.
#[macro_export]
macro_rules! init_tests {
    () => {
        const _: () = {
            extern "C" fn init() {
                $crate::init();
            }
            // SAFETY: what the section holds are pointers to functions that take nothing that they need.
            #[used]
            #[unsafe(link_section = ".init_array")]
            static INIT: extern "C" fn() = init;
        };
    };
}
