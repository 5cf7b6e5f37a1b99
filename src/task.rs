//! What is given to a worker: a function and its arguments.
//!
//! A task's function is a type rather than a value: a `fn` item or a closure that captures nothing
//! has size zero, so its type alone says what to call, in this process or in another one that runs
//! the same executable. Its arguments are plain values that serde can carry.
//!
//! [`cell`] is a task on its way and the place of its result, [`work`] what can be in one. [`entry`] is how a function
//! is named across processes, [`encoded`] a task that can be run again and again, [`duty`] what a thread is at.

pub(crate) mod cell;
pub(crate) mod duty;
pub(crate) mod encoded;
pub(crate) mod entry;
pub(crate) mod work;

use std::fmt;

use serde::{Serialize, de::DeserializeOwned};

use entry::Entry;

/// A value that may travel to a worker on either backend, and back.
///
/// It is implemented for every type that serde can encode and decode, that may be sent to another
/// thread, and that borrows nothing. There is nothing to implement by hand.
///
/// What is large, from 24 KiB on, goes to a worker process and back through memory that both share. It is copied
/// once in and once out if serde takes it as one block: `serde_bytes::ByteBuf`, a field
/// with `#[serde(with = "serde_bytes")]`, `bytes::Bytes` with its feature `serde`, a `String`. A plain
/// `Vec<u8>`, like any other collection, goes through serde element by element, which takes more than ten times as
/// long.
///
/// serde refuses a `PathBuf` that is not UTF-8: that is an error of the task. An `OsString` always travels.
///
/// The encoding has no names, so `Deserialize` has to read just what `Serialize` writes. Where workers are processes, a
/// field that `skip_serializing_if` leaves out is an error of the task, and so is a value that is read by its names:
/// `serde_json::Value`, and types with `flatten`, `untagged` or `tag`. A field that only one of the two skips
/// (`skip_serializing`, `skip_deserializing`) is mostly an error, too; where the fields behind it happen to read as
/// others, nobody notices.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot travel to a worker",
    label = "not portable",
    note = "what goes to a worker, and what comes back, must be `Serialize + DeserializeOwned + Send + 'static`",
    note = "a type of one's own derives `serde::Serialize` and `serde::Deserialize`; what is borrowed or shared is passed as an owned value (`String` for `&str`, `T` for `Arc<T>`)",
    note = "an error that serde does not carry travels as its text, `.map_err(|error| error.to_string())`, or as a type of one's own",
    note = "a closure that never returns says what it would: `|| -> () {{ panic!() }}`",
    note = "what an `async fn` returns has to be awaited where it was made: give it to a runtime, or have the task block on it"
)]
pub trait Portable: Serialize + DeserializeOwned + Send + 'static {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned + Send + 'static> Portable for T {}

/// A function together with its arguments, made by [`task!`](crate::task!).
///
/// `A` is the tuple of the arguments, `R` what the function returns.
///
/// A task whose arguments are `Clone` is `Clone`, so that it can be submitted again. A clone makes the same call with
/// clones of the arguments. What captures more than 12 variables is not: no tuple of so many is.
///
/// # Examples
///
/// ```
/// use freethreading::{Backend, Effect, WorkerPoolExecutor, task};
///
/// fn area(width: u32, height: u32) -> u32 {
///     width * height
/// }
///
/// # fn main() -> Result<(), freethreading::Error> {
/// let builder = WorkerPoolExecutor::builder().backend(Backend::Threading);
/// let (executor, other) = (builder.clone().build()?, builder.build()?);
/// executor.shutdown(true, false);
///
/// let task = task!(area(6, 7));
/// let mut result = executor.submit(task.clone()).result();
/// if result.as_ref().is_err_and(|error| error.effect() == Effect::DidNotRun) {
///     result = other.submit(task).result();
/// }
/// assert_eq!(result?, 42);
/// # Ok(())
/// # }
/// ```
#[must_use = "a task does nothing until it is given to a worker"]
pub struct Task<A, R> {
    pub(crate) args: A,
    pub(crate) function: Function<A, R>,
}

impl<A: Clone, R> Clone for Task<A, R> {
    fn clone(&self) -> Self {
        Task {
            args: self.args.clone(),
            function: self.function,
        }
    }
}

impl<A, R> fmt::Debug for Task<A, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task")
            .field("function", &self.function.name())
            .finish_non_exhaustive()
    }
}

impl<A: Portable, R: Portable> Task<A, R> {
    fn new<F: Callable<A, Output = R>>(function: F, args: A) -> Self {
        Task {
            args,
            function: Function::of(function),
        }
    }
}

/// How to call the function `fn(A) -> R` whose type was forgotten: here, and in another process.
pub(crate) struct Function<A, R> {
    call: fn(A) -> R,
    entry: &'static Entry,
}

impl<A, R> Clone for Function<A, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A, R> Copy for Function<A, R> {}

impl<A: Portable, R: Portable> Function<A, R> {
    pub(crate) fn of<F: Callable<A, Output = R>>(function: F) -> Self {
        // What makes it sound to summon the function on a worker: this value lives for ever.
        std::mem::forget(function);
        Function {
            call: |args| entry::summon::<F>().call(args),
            entry: entry::entry::<F, A>(),
        }
    }

    pub(crate) fn entry(&self) -> &'static Entry {
        self.entry
    }
}

impl<A, R> Function<A, R> {
    pub(crate) fn call(&self, args: A) -> R {
        (self.call)(args)
    }

    /// The function's path, for messages.
    pub(crate) fn name(&self) -> &'static str {
        self.entry.function_name()
    }
}

/// What can be given to a worker: a function of no arguments, or what [`task!`](crate::task!) makes.
///
/// `Worker::new`, `submit` and every initializer take the same thing. The type parameter only tells the two apart,
/// and is always inferred. There is nothing to implement by hand.
///
/// The function must have size zero: a `fn` item, generic ones included, or a closure that captures
/// nothing. A capturing closure or a `fn` pointer does not compile, since only its type, not its
/// value, can reach another process.
///
/// A captured value that has size zero itself goes unnoticed, and is there in a worker process though nobody has made it
/// there. So a token that stands for something that was done in this process, and that `unsafe` code relies on, must not
/// be captured.
///
/// # Examples
///
/// Functions of one's own can pass on whatever can be submitted, or functions alone:
///
/// ```
/// use freethreading::{Backend, IntoTask, Portable, TaskError, TaskFuture, WorkerPoolExecutor, task};
///
/// fn twice<M, T>(executor: &WorkerPoolExecutor, make: impl Fn() -> T) -> [TaskFuture<T::Output>; 2]
/// where
///     T: IntoTask<M>,
/// {
///     [executor.submit(make()), executor.submit(make())]
/// }
///
/// fn now<F, R>(executor: &WorkerPoolExecutor, f: F) -> Result<R, TaskError>
/// where
///     F: Fn() -> R + Send + Sync + 'static,
///     R: Portable,
/// {
///     executor.submit(f).result()
/// }
///
/// # fn main() -> Result<(), freethreading::Error> {
/// let executor = WorkerPoolExecutor::builder().backend(Backend::Threading).build()?;
/// let word = String::from("ab");
/// let [a, b] = twice(&executor, || task!(|word = word.clone()| word.repeat(2)));
/// assert_eq!((a.result()?, b.result()?), ("abab".into(), "abab".into()));
/// assert_eq!(now(&executor, || 7)?, 7);
/// # Ok(())
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a task",
    label = "not a task",
    note = "a task is a function of no arguments (`submit(f)`), a call (`submit(task!(f(a, b)))`), or a closure that names what it captures (`submit(task!(|x, y| x + y))`)",
    note = "what passes tasks on is generic over `T: IntoTask<M>`, or over `F: Fn() -> R + Send + Sync + 'static` where `R: Portable`"
)]
pub trait IntoTask<Marker> {
    /// The tuple of the arguments.
    type Args: Portable;
    /// What the function returns.
    type Output: Portable;

    /// Makes the task.
    fn into_task(self) -> Task<Self::Args, Self::Output>;
}

/// Marks functions of no arguments among the implementations of [`IntoTask`].
#[derive(Debug)]
pub struct Bare;

/// Marks tasks made by [`task!`](crate::task!) among the implementations of [`IntoTask`].
#[derive(Debug)]
pub struct Built;

impl<F> IntoTask<Bare> for F
where
    F: Nullary,
    F::Output: Portable,
{
    type Args = ();
    type Output = F::Output;

    fn into_task(self) -> Task<(), F::Output> {
        self.task()
    }
}

/// A function of no arguments. What is none is said to be no task; the compiler would say how to make it an `Fn()`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a task",
    label = "not a task",
    note = "a task is a function of no arguments (`submit(f)`), a call (`submit(task!(f(a, b)))`), or a closure that names what it captures (`submit(task!(|x, y| x + y))`)",
    note = "what passes tasks on is generic over `T: IntoTask<M>`, or over `F: Fn() -> R + Send + Sync + 'static` where `R: Portable`"
)]
pub trait Nullary {
    /// What it returns.
    type Output;

    /// The task of calling it.
    fn task(self) -> Task<(), Self::Output>
    where
        Self::Output: Portable;
}

#[diagnostic::do_not_recommend]
impl<F, R> Nullary for F
where
    F: Fn() -> R + Send + Sync + 'static,
{
    type Output = R;

    fn task(self) -> Task<(), R>
    where
        R: Portable,
    {
        Task::new(self, ())
    }
}

impl<A: Portable, R: Portable> IntoTask<Built> for Task<A, R> {
    type Args = A;
    type Output = R;

    fn into_task(self) -> Task<A, R> {
        self
    }
}

/// A function that takes the elements of the tuple `Args` as its arguments.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be called with the arguments `{Args}`",
    note = "`task!(f(a, b))` takes a function of at most 12 arguments, each an owned, portable value"
)]
pub trait Callable<Args>: Send + Sync + 'static {
    /// What the function returns.
    type Output;

    /// Calls the function.
    fn call(&self, args: Args) -> Self::Output;
}

macro_rules! callable {
    ($($arg:ident)*) => {
        impl<Func, Out, $($arg),*> Callable<($($arg,)*)> for Func
        where
            Func: Fn($($arg),*) -> Out + Send + Sync + 'static,
        {
            type Output = Out;

            #[allow(non_snake_case)]
            fn call(&self, ($($arg,)*): ($($arg,)*)) -> Out {
                self($($arg),*)
            }
        }
    };
}

callable!();
callable!(A);
callable!(A B);
callable!(A B C);
callable!(A B C D);
callable!(A B C D E);
callable!(A B C D E G);
callable!(A B C D E G H);
callable!(A B C D E G H I);
callable!(A B C D E G H I J);
callable!(A B C D E G H I J K);
callable!(A B C D E G H I J K L);
callable!(A B C D E G H I J K L M);

/// Makes a [`Task`]: a call that a worker is to make, or a closure that names what it captures.
///
/// * `task!(f(a, b))` evaluates the arguments here, at most 12, and calls `f` on the worker. `f` is any path or
///   expression of size zero: `task!(module::f::<u64>(1))`, `task!(String::into_bytes(s))`.
/// * `task!(|x, y| body)` takes the variables `x` and `y` of the surrounding scope, by value, at most 16, and runs
///   the body on the worker with variables of the same names. `|mut x|` works, too.
/// * `task!(|| body)` captures nothing. The type of the result may be given, as in `task!(|x| -> u64 { body })`.
///
/// Where the body uses a variable that is not named, the compiler suggests the `move` keyword; what it takes is to name the
/// variable.
///
/// Arguments, captures and results must be [`Portable`].
///
/// It stands for Python's `target=…, args=…`.
///
/// # Examples
///
/// ```
/// use freethreading::{Backend, Queue, WorkerPoolExecutor, task};
///
/// fn area(width: u32, height: u32) -> u32 {
///     width * height
/// }
///
/// # fn main() -> Result<(), freethreading::Error> {
/// let executor = WorkerPoolExecutor::builder().backend(Backend::Threading).build()?;
/// let called = executor.submit(task!(area(6, 7)));
///
/// let (times, word) = (2usize, String::from("ab"));
/// let captured = executor.submit(task!(|times, word| word.repeat(times)));
///
/// let queue = Queue::new(0);
/// let put = executor.submit(task!(|queue = queue.clone()| queue.put(1)));
///
/// assert_eq!(called.result()?, 42);
/// assert_eq!(captured.result()?, "abab");
/// assert_eq!(queue.get()?, 1);
/// # Ok(())
/// # }
/// ```
#[macro_export]
macro_rules! task {
    (|| $body:expr) => {
        $crate::__private::call(|| $body, ())
    };
    (|| -> $result:ty $body:block) => {
        $crate::__private::call(|| -> $result { $body }, ())
    };
    (| $($rest:tt)+) => {
        $crate::task!(@captures [] [] $($rest)+)
    };
    // All captures travel by value.
    (move $($closure:tt)+) => {
        $crate::task!($($closure)+)
    };
    // Captures, one at a time, up to the closing bar: their values in parentheses, and their names.
    (@captures [$(($value:expr))*] [$($name:tt)*] | $body:expr) => {
        $crate::__private::captured(
            ($($crate::__private::portable($value),)*),
            |($($name)*)| $body,
        )
    };
    (@captures [$(($value:expr))*] [$($name:tt)*] | -> $result:ty $body:block) => {
        $crate::__private::captured(
            ($($crate::__private::portable($value),)*),
            |($($name)*)| -> $result { $body },
        )
    };
    // A variable is its own value. Taken as any token, it is what messages point at.
    (@captures [$($value:tt)*] [$($name:tt)*] $next:tt , $($rest:tt)+) => {
        $crate::task!(@captures [$($value)* ($next)] [$($name)* $next,] $($rest)+)
    };
    (@captures [$($value:tt)*] [$($name:tt)*] $next:tt | $($rest:tt)+) => {
        $crate::task!(@captures [$($value)* ($next)] [$($name)* $next,] | $($rest)+)
    };
    (@captures [$($value:tt)*] [$($name:tt)*] mut $next:tt , $($rest:tt)+) => {
        $crate::task!(@captures [$($value)* ($next)] [$($name)* mut $next,] $($rest)+)
    };
    (@captures [$($value:tt)*] [$($name:tt)*] mut $next:tt | $($rest:tt)+) => {
        $crate::task!(@captures [$($value)* ($next)] [$($name)* mut $next,] | $($rest)+)
    };
    // An expression for the value goes on up to the next comma or bar.
    (@captures $values:tt [$($name:tt)*] $next:ident = $($rest:tt)+) => {
        $crate::task!(@captures $values [$($name)* $next,] = [] $($rest)+)
    };
    (@captures $values:tt [$($name:tt)*] mut $next:ident = $($rest:tt)+) => {
        $crate::task!(@captures $values [$($name)* mut $next,] = [] $($rest)+)
    };
    (@captures [$($value:tt)*] $names:tt = [$($expression:tt)+] , $($rest:tt)+) => {
        $crate::task!(@captures [$($value)* ($($expression)+)] $names $($rest)+)
    };
    (@captures [$($value:tt)*] $names:tt = [$($expression:tt)+] | $($rest:tt)+) => {
        $crate::task!(@captures [$($value)* ($($expression)+)] $names | $($rest)+)
    };
    (@captures $values:tt $names:tt = [$($expression:tt)*] $next:tt $($rest:tt)+) => {
        $crate::task!(@captures $values $names = [$($expression)* $next] $($rest)+)
    };
    (@captures $values:tt $names:tt $variable:ident : $($rest:tt)*) => {
        ::core::compile_error!(
            "what a task captures are variables, which have a type already: write task!(|x| …) for task!(|x: u64| …)"
        )
    };
    (@captures $($other:tt)*) => {
        ::core::compile_error!(
            "a task names what it captures: variables, task!(|x, mut y| …), or what an expression makes here, task!(|x = x.clone()| …)"
        )
    };
    // A call: everything before the last group of parentheses is the function.
    (@call [$($macro:tt)+] ! $arguments:tt) => {
        ::core::compile_error!(
            "a macro is not a function: write a closure that names what it captures, as in task!(|x| println!(\"{x}\"))"
        )
    };
    (@call [$($function:tt)+] ($($arg:expr),* $(,)?)) => {
        $crate::__private::call($($function)+, ($($crate::__private::portable($arg),)*))
    };
    (@call [$($function:tt)+] ($($arguments:tt)*) . $($rest:tt)*) => {
        ::core::compile_error!(
            "task! takes nothing behind a call: write a closure that names what it captures, as in task!(|x| f(x).unwrap())"
        )
    };
    (@call [$($value:tt)+] . $($rest:tt)*) => {
        ::core::compile_error!(
            "task! takes no method call: write task!(Type::method(value, x)), or a closure that names what it captures, task!(|value, x| value.method(x))"
        )
    };
    (@call [$($function:tt)*] $next:tt $($rest:tt)+) => {
        $crate::task!(@call [$($function)* $next] $($rest)+)
    };
    (@call $($other:tt)*) => {
        ::core::compile_error!(
            "task! takes a call, task!(f(a, b)), or a closure that names what it captures, task!(|x, y| x + y)"
        )
    };
    ($($call:tt)+) => {
        $crate::task!(@call [] $($call)+)
    };
}

/// What `task!` expands to.
pub mod expand {
    use super::{Callable, Portable, Task};

    /// A task from a function and the tuple of its arguments.
    pub fn call<F, A>(function: F, args: A) -> Task<A, F::Output>
    where
        F: Callable<A>,
        A: Portable,
        F::Output: Portable,
    {
        Task::new(function, args)
    }

    /// A task from a closure that takes its captures as one tuple; `Fn(A) -> R` is what lets the
    /// closure's parameter types be inferred from the captured values.
    pub fn captured<A, R, F>(captures: A, function: F) -> Task<(A,), R>
    where
        F: Fn(A) -> R + Send + Sync + 'static,
        A: Portable,
        R: Portable,
    {
        Task::new(function, (captures,))
    }

    /// Lets the compiler name the argument that is not portable, rather than their tuple.
    pub fn portable<T: Portable>(value: T) -> T {
        value
    }
}
