//! Threads or processes: how a program's backend is chosen.

use std::{cell::Cell, env, fmt, future::poll_fn, pin::pin, str::FromStr, sync::OnceLock};

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// The kind of worker that runs tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Backend {
    /// Workers are threads of this process: cheap, but a crash of one ends the program.
    Threading,
    /// Workers are processes that re-run this executable: a crash, an exit, a leak or a runaway loop
    /// costs the task at hand and nothing else.
    Multiprocessing,
}

/// The environment variable that decides before anything else.
const VARIABLE: &str = "FREETHREADING_BACKEND";

/// The program's backend, once it is decided.
static DECIDED: OnceLock<Backend> = OnceLock::new();

thread_local! {
    static SCOPED: Cell<Option<Backend>> = const { Cell::new(None) };
}

impl Backend {
    /// Both backends, for code that does the same on each of them.
    pub const ALL: [Backend; 2] = [Backend::Threading, Backend::Multiprocessing];

    /// Calls `body` with this backend as the default of the calling thread, and of the workers that
    /// `body` starts from it.
    ///
    /// It is meant for tests: one body can run on both backends in one program. See
    /// [`test_backends!`](crate::test_backends!).
    ///
    /// # Examples
    ///
    /// ```
    /// use freethreading::{Backend, WorkerPoolExecutor, get_backend};
    ///
    /// # fn main() -> Result<(), freethreading::Error> {
    /// Backend::Threading.scope(|| {
    ///     assert_eq!(get_backend()?, Backend::Threading);
    ///     let executor = WorkerPoolExecutor::new(1)?; // on threads
    ///     assert_eq!(executor.submit(|| 2 + 2).result()?, 4);
    ///     Ok(())
    /// })
    /// # }
    /// ```
    pub fn scope<T>(self, body: impl FnOnce() -> T) -> T {
        /// Puts the previous choice back, also when the body panics.
        struct Restore(Option<Backend>);
        impl Drop for Restore {
            fn drop(&mut self) {
                SCOPED.set(self.0);
            }
        }
        let _restore = Restore(SCOPED.replace(Some(self)));
        body()
    }

    /// Awaits `body` with this backend as the default wherever it is polled; the async twin of
    /// [`scope`](Backend::scope). Async tasks that `body` spawns have the default of the program.
    ///
    /// # Cancel safety
    ///
    /// That of `body`, which is dropped with it.
    pub async fn scope_async<T>(self, body: impl Future<Output = T>) -> T {
        let mut body = pin!(body);
        poll_fn(|context| self.scope(|| body.as_mut().poll(context))).await
    }

    fn named(name: &str) -> Option<Backend> {
        let mut all = Backend::ALL.into_iter();
        all.find(|backend| backend.to_string() == name)
    }

    /// The backend that a program gets which does not choose: one built with `panic = "unwind"` can
    /// contain a panic in a thread, one built with `panic = "abort"` only in a process.
    fn of_build() -> Backend {
        if cfg!(panic = "unwind") {
            Backend::Threading
        } else {
            Backend::Multiprocessing
        }
    }

    /// The choice of the [`scope`](Backend::scope) that the calling thread is in.
    pub(crate) fn scoped() -> Option<Backend> {
        SCOPED.try_with(Cell::get).ok().flatten()
    }

    /// The backend of the calling thread, where a mistake in the environment must not matter.
    pub(crate) fn of_thread() -> Backend {
        get_backend().unwrap_or(Backend::of_build())
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Backend::Threading => "threading",
            Backend::Multiprocessing => "multiprocessing",
        })
    }
}

impl FromStr for Backend {
    type Err = Error;

    /// The backend of that name, `threading` or `multiprocessing`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] if it is the name of none.
    fn from_str(name: &str) -> Result<Backend, Error> {
        Backend::named(name).ok_or_else(|| {
            let why =
                format!("`{name}` is no backend; it must be `threading` or `multiprocessing`");
            Error::InvalidArgument(why)
        })
    }
}

/// The backend of the workers, pools and executors that are not told one.
///
/// It is decided at first use and stays. The environment variable `FREETHREADING_BACKEND` (`threading` or
/// `multiprocessing`) comes first, then [`set_backend`], then the build: threads with `panic = "unwind"`,
/// processes with `panic = "abort"`. It is the same in all workers. Within [`Backend::scope`] it is that one.
///
/// `get_backend()` of the Python package.
///
/// # Errors
///
/// [`Error::InvalidBackend`] if the environment variable names no backend.
///
/// # Examples
///
/// ```
/// # fn main() -> Result<(), freethreading::Error> {
/// println!("workers are by default on {}", freethreading::get_backend()?);
/// # Ok(())
/// # }
/// ```
pub fn get_backend() -> Result<Backend, Error> {
    match Backend::scoped() {
        Some(backend) => Ok(backend),
        None => decide(Backend::of_build()),
    }
}

/// Chooses the program's backend, unless the environment variable `FREETHREADING_BACKEND` does: that wins, and this has
/// no effect, which is no error.
///
/// # Errors
///
/// [`Error::BackendDecided`] if the backend was decided before and is the other one: call this right after
/// [`init`](crate::init()). [`Error::InvalidBackend`] if the environment variable names no backend.
///
/// # Examples
///
/// ```
/// use freethreading::Backend;
///
/// # fn main() -> Result<(), freethreading::Error> {
/// freethreading::set_backend(Backend::Threading)?;
/// # Ok(())
/// # }
/// ```
pub fn set_backend(backend: Backend) -> Result<(), Error> {
    let decided = decide(backend)?;
    if decided == backend || env::var_os(VARIABLE).is_some() {
        Ok(())
    } else {
        Err(Error::BackendDecided(decided))
    }
}

/// Decides for the program, unless that was done before: the environment, else `fallback`.
fn decide(fallback: Backend) -> Result<Backend, Error> {
    if let Some(&decided) = DECIDED.get() {
        return Ok(decided);
    }
    let backend = match env::var_os(VARIABLE) {
        Some(name) => {
            let name = name.to_string_lossy();
            Backend::named(&name).ok_or_else(|| Error::InvalidBackend(name.into()))?
        }
        None => fallback,
    };
    Ok(*DECIDED.get_or_init(|| backend))
}

/// Takes over the choice of the process that started this one.
pub(crate) fn inherit(backend: Backend) {
    let _ = DECIDED.set(backend);
}

/// Runs one test body on both backends: the tests `NAME::threading` and `NAME::multiprocessing`.
///
/// Within the body the backend in question is the default, so that the code under test is the same for both. The
/// root of the test crate also needs the line [`init_tests!`](crate::init_tests!), for the worker processes. Further
/// attributes of the test, as `#[ignore]` or `#[should_panic]`, hold for both. So do those that make a test of an
/// `async fn`, as `#[tokio::test]`.
///
/// # Examples
///
/// ```
/// freethreading::test_backends! {
///     #[test]
///     fn squares() -> Result<(), freethreading::Error> {
///         let executor = freethreading::WorkerPoolExecutor::new(2)?;
///         let squares: Result<Vec<u64>, _> = executor.map(|x: u64| x * x, 0..5).collect();
///         assert_eq!(squares?, [0, 1, 4, 9, 16]);
///         Ok(())
///     }
///
///     #[tokio::test]
///     async fn sums() {
///         let executor = freethreading::WorkerPoolExecutor::new(1).unwrap();
///         assert_eq!(executor.submit(|| 2 + 2).await.unwrap(), 4);
///     }
/// }
/// ```
#[allow(clippy::test_attr_in_doctest)] // It is about test crates.
#[macro_export]
macro_rules! test_backends {
    ($($(#[$attribute:meta])* fn $name:ident() $(-> $result:ty)? $body:block)*) => {
        $(
            mod $name {
                #[allow(unused_imports)]
                use super::*;

                fn body() $(-> $result)? $body

                $(#[$attribute])*
                fn threading() $(-> $result)? {
                    $crate::Backend::Threading.scope(body)
                }

                $(#[$attribute])*
                fn multiprocessing() $(-> $result)? {
                    $crate::Backend::Multiprocessing.scope(body)
                }
            }
        )*
    };
    ($(#[$attribute:meta])* async fn $name:ident() $(-> $result:ty)? $body:block $($more:tt)*) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            async fn body() $(-> $result)? $body

            $(#[$attribute])*
            async fn threading() $(-> $result)? {
                $crate::Backend::Threading.scope_async(body()).await
            }

            $(#[$attribute])*
            async fn multiprocessing() $(-> $result)? {
                $crate::Backend::Multiprocessing.scope_async(body()).await
            }
        }
        $crate::test_backends! { $($more)* }
    };
    // Before the next that is async.
    ($(#[$attribute:meta])* fn $name:ident() $(-> $result:ty)? $body:block $($more:tt)*) => {
        $crate::test_backends! { $(#[$attribute])* fn $name() $(-> $result)? $body }
        $crate::test_backends! { $($more)* }
    };
}
