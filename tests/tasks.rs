//! What a task can be: the forms of `task!`, functions, closures; arguments and results of all shapes.

mod common;

use std::{
    borrow::Cow,
    cell::Cell,
    collections::{BTreeMap, HashMap, HashSet},
    fmt::Debug,
    marker::PhantomData,
    num::NonZero,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use common::{on_processes, watched};
use freethreading::{
    Backend, Effect, Error, IntoTask, Part, Portable, Queue, Task, TaskError, Worker,
    WorkerPoolExecutor, task,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

freethreading::init_tests!();

/// Runs one task on a worker of its own.
fn run<M, T: IntoTask<M>>(task: T) -> T::Output {
    watched(|| {
        let executor = WorkerPoolExecutor::new(1).unwrap();
        executor.submit(task).result().unwrap()
    })
}

// Calls.

fn seven() -> u32 {
    7
}

macro_rules! letters {
    ($($name:ident($($arg:ident)*))*) => {
        $(#[allow(clippy::too_many_arguments)]
        fn $name($($arg: String),*) -> Vec<String> {
            vec![$($arg),*]
        })*
    };
}

letters! {
    letters0()
    letters1(a)
    letters2(a b)
    letters3(a b c)
    letters4(a b c d)
    letters5(a b c d e)
    letters6(a b c d e f)
    letters7(a b c d e f g)
    letters8(a b c d e f g h)
    letters9(a b c d e f g h i)
    letters10(a b c d e f g h i j)
    letters11(a b c d e f g h i j k)
    letters12(a b c d e f g h i j k l)
}

fn letter(letter: &str) -> String {
    letter.into()
}

/// Checks calls of the functions with as many letters as they are followed by.
macro_rules! check_letters {
    ($($function:ident($($letter:ident)*))*) => {
        $(
            let given: Vec<String> = vec![$(letter(stringify!($letter))),*];
            assert_eq!(run(task!($function($(letter(stringify!($letter))),*))), given);
        )*
    };
}

freethreading::test_backends! {
    #[test]
    fn calls_with_none_to_six_arguments() {
        check_letters! {
            letters0()
            letters1(a)
            letters2(a b)
            letters3(a b c)
            letters4(a b c d)
            letters5(a b c d e)
            letters6(a b c d e f)
        }
    }

    #[test]
    fn calls_with_seven_to_twelve_arguments() {
        check_letters! {
            letters7(a b c d e f g)
            letters8(a b c d e f g h)
            letters9(a b c d e f g h i)
            letters10(a b c d e f g h i j)
            letters11(a b c d e f g h i j k)
            letters12(a b c d e f g h i j k l)
        }
    }

    #[test]
    fn arguments_of_different_types() {
        fn mixed(a: u8, b: String, c: Option<f64>, d: [i16; 3], e: (), f: char) -> String {
            format!("{a} {b} {c:?} {d:?} {e:?} {f}")
        }
        let text = run(task!(mixed(1, "two".into(), Some(3.5), [4, 5, 6], (), 'f')));
        assert_eq!(text, "1 two Some(3.5) [4, 5, 6] () f");
    }

    #[test]
    fn a_comma_after_the_last_argument() {
        assert_eq!(run(task!(u32::pow(2, 10,))), 1024);
    }

    #[test]
    fn arguments_are_evaluated_here_once_and_in_order() {
        let next = Cell::new(0);
        // Neither the cell nor the reference to it could travel.
        let count = || {
            next.set(next.get() + 1);
            next.get()
        };
        fn three(a: u32, b: u32, c: u32) -> (u32, u32, u32) {
            (a, b, c)
        }
        let task = task!(three(count(), count(), count()));
        assert_eq!(next.get(), 3);
        assert_eq!(run(task), (1, 2, 3));
        assert_eq!(next.get(), 3);
    }

    #[test]
    fn arguments_are_moved() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct NotCloned(String);

        let value = NotCloned("x".into());
        assert_eq!(run(task!(std::convert::identity(value))), NotCloned("x".into()));
    }

    #[test]
    fn a_clone_of_a_task_is_the_same_call() {
        let task = task!(letters2(letter("a"), letter("b")));
        assert_eq!(run(task.clone()), run(task));
        let (n, word) = (3usize, letter("ab"));
        let task = task!(|n, mut word| {
            word.push('c');
            word.repeat(n)
        });
        assert_eq!(run(task.clone()), "abcabcabc");
        assert_eq!(run(task), "abcabcabc");
    }

    #[test]
    fn a_task_that_did_not_run_may_be_submitted_again() {
        watched(|| {
            let task = task!(letters1(letter("a")));
            let executor = WorkerPoolExecutor::new(1).unwrap();
            executor.shutdown(true, false);
            let error = executor.submit(task.clone()).result().unwrap_err();
            assert_eq!((&error, error.effect()), (&TaskError::Shutdown, Effect::DidNotRun));
            assert_eq!(run(task), ["a"]);
        });
    }

    #[test]
    fn a_task_may_be_made_before_it_is_given_away() {
        let task: Task<(u32, u32), u32> = task!(u32::pow(3, 2));
        assert!(format!("{task:?}").contains("pow"), "{task:?}");
        assert_eq!(run(task), 9);
    }
}

// Functions.

mod shapes {
    use serde::{Deserialize, Serialize};

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    pub struct Square {
        pub side: u32,
    }

    impl Square {
        pub const UNIT: Square = Square { side: 1 };

        pub fn new(side: u32) -> Self {
            Square { side }
        }

        pub fn area(self) -> u32 {
            self.side * self.side
        }

        pub fn scaled(self, factor: u32) -> Self {
            Square::new(self.side * factor)
        }
    }

    pub trait Named {
        fn name(self) -> String;
        fn kind() -> String {
            "thing".into()
        }
    }

    impl Named for Square {
        fn name(self) -> String {
            format!("square of {}", self.side)
        }
    }
}

use shapes::{Named, Square};

fn pair<A, B>(a: A, b: B) -> (B, A) {
    (b, a)
}

fn size_of_type<T: 'static>() -> usize {
    size_of::<T>()
}

fn repeat<const N: usize>(x: u8) -> Vec<u8> {
    vec![x; N]
}

/// What a generic library would do with a function of its user's.
fn submit_twice<F, R>(executor: &WorkerPoolExecutor, function: F) -> (R, R)
where
    F: Fn(u32) -> R + Copy + Send + Sync + 'static,
    R: Portable,
{
    let first = executor.submit(task!(function(1)));
    let second = executor.submit(task!(function(2)));
    (first.result().unwrap(), second.result().unwrap())
}

/// A task in a generic function, over a type that only the caller knows.
fn last_on_a_worker<T: Portable>(items: Vec<T>) -> Option<T> {
    run(task!(|mut items| items.pop()))
}

freethreading::test_backends! {
    #[test]
    fn functions_of_no_arguments_as_they_are() {
        assert_eq!(run(seven), 7);
        assert_eq!(run(self::seven), 7);
        assert_eq!(run(task!(seven())), 7);
        assert_eq!(run(task!(crate::seven())), 7);
    }

    #[test]
    fn generic_functions() {
        assert_eq!(run(task!(pair(1u8, letter("a")))), (letter("a"), 1));
        assert_eq!(run(task!(pair::<String, u8>(letter("a"), 1))), (1, letter("a")));
        let nested = run(task!(pair::<Vec<Vec<u8>>, Option<Option<u8>>>(vec![vec![1]], Some(None))));
        assert_eq!(nested, (Some(None), vec![vec![1]]));
        assert_eq!(run(task!(repeat::<3>(9))), [9, 9, 9]);
        assert_eq!(run(task!(repeat::<{ 1 + 1 }>(9))), [9, 9]);
    }

    #[test]
    fn generic_functions_of_no_arguments() {
        assert_eq!(run(size_of_type::<u16>), 2);
        assert_eq!(run(size_of_type::<[u64; 4]>), 32);
        assert_eq!(run(task!(size_of_type::<u32>())), 4);
        assert_eq!(run(Vec::<String>::new), Vec::<String>::new());
    }

    #[test]
    fn methods_and_associated_functions() {
        assert_eq!(run(task!(Square::new(3))), Square { side: 3 });
        assert_eq!(run(task!(Square::area(Square::UNIT))), 1);
        assert_eq!(run(task!(shapes::Square::scaled(Square::new(2), 5))), Square::new(10));
        assert_eq!(run(task!(Named::name(Square::new(4)))), "square of 4");
        assert_eq!(run(task!(<Square as Named>::name(Square::new(4)))), "square of 4");
        assert_eq!(run(<Square as Named>::kind), "thing");
        assert_eq!(run(task!(String::into_bytes(letter("az")))), [97, 122]);
        assert_eq!(run(task!(<u64 as From<u8>>::from(200))), 200);
    }

    #[test]
    fn tuple_constructors() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Point(i32, i32);

        assert_eq!(run(task!(Point(1, -1))), Point(1, -1));
        assert_eq!(run(task!(Some(5u8))), Some(5));
    }

    #[test]
    fn functions_inside_of_functions() {
        fn outer_text() -> String {
            fn inner() -> String {
                "inner".into()
            }
            run(inner)
        }
        assert_eq!(outer_text(), "inner");
    }

    #[test]
    fn functions_of_generic_functions() {
        watched(|| {
            let executor = WorkerPoolExecutor::new(1).unwrap();
            assert_eq!(submit_twice(&executor, |x| x * 10), (10, 20));
            assert_eq!(submit_twice(&executor, repeat_text), (letter("t"), letter("tt")));
            fn repeat_text(times: u32) -> String {
                "t".repeat(times as usize)
            }
        });
        assert_eq!(last_on_a_worker(vec![1u8, 2]), Some(2));
        assert_eq!(last_on_a_worker(vec![letter("a"), letter("b")]), Some(letter("b")));
    }

    #[test]
    fn functions_and_closures_that_look_alike_stay_apart() {
        fn same(x: u32) -> u32 { x }
        mod other {
            pub fn same(x: u32) -> u32 { x + 100 }
        }
        assert_eq!(run(task!(same(1))), 1);
        assert_eq!(run(task!(other::same(1))), 101);
        // Closures of one function have one type name.
        assert_eq!([run(|| 1), run(|| 2), run(|| 3)], [1, 2, 3]);
        let x = 10;
        assert_eq!([run(task!(|x| x + 1)), run(task!(|x| x + 2))], [11, 12]);
    }
}

// Closures.

freethreading::test_backends! {
    #[test]
    fn closures_that_capture_nothing() {
        assert_eq!(run(|| 6 * 7), 42);
        assert_eq!(run(task!(|| 6 * 7)), 42);
        assert_eq!(run(task!(|| { let x = 6; x * 7 })), 42);
        assert_eq!(run(task!(|| -> u64 { "42".parse().unwrap() })), 42);
        let half = 21;
        assert_eq!(run(task!(|half| -> u8 { half * 2 })), 42);
        let kept = || 43;
        assert_eq!((run(kept), run(kept)), (43, 43));
        assert_eq!(run(task!(kept())), 43);
    }

    #[test]
    fn closures_called_with_arguments() {
        assert_eq!(run(task!((|x: u32, y: u32| x - y)(44, 2))), 42);
        let minus = |x: u32, y: u32| x - y;
        assert_eq!(run(task!(minus(44, 2))), 42);
    }

    #[test]
    fn closures_that_name_what_they_capture() {
        let one = 1u32;
        assert_eq!(run(task!(|one| one + 1)), 2);
        let text = letter("a");
        let times = 3;
        assert_eq!(run(task!(|text, times| text.repeat(times))), "aaa");
        let (a, b, c, d) = (1u8, letter("b"), [3u16, 4], Some(5.5f32));
        assert_eq!(
            run(task!(|a, b, c, d| format!("{a} {b} {c:?} {d:?}"))),
            "1 b [3, 4] Some(5.5)"
        );
    }

    #[test]
    fn captured_variables_that_the_body_changes() {
        let mut count = 1u32;
        let copy = run(task!(|mut count| { count += 1; count }));
        // The worker has a variable of its own.
        count += 10;
        assert_eq!((copy, count), (2, 11));

        let (first, list, last) = (1u8, vec![2u8], vec![3u8]);
        let all = run(task!(|first, mut list, mut last| {
            list.insert(0, first);
            list.append(&mut last);
            list
        }));
        assert_eq!(all, [1, 2, 3]);

        let list = vec![2u8];
        assert_eq!(run(task!(|mut list, first| { list.push(first); list })), [2, 1]);
    }

    #[test]
    fn a_comma_after_the_last_captured_variable() {
        let (x, y) = (1u8, 2u8);
        assert_eq!(run(task!(|x,| x)), 1);
        assert_eq!(run(task!(|x, mut y,| { y += x; y })), 3);
    }

    #[test]
    fn captured_variables_are_moved() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct NotCloned(String);

        let value = NotCloned("x".into());
        assert_eq!(run(task!(|value| value)), NotCloned("x".into()));
    }

    #[test]
    fn captures_may_be_what_an_expression_makes_here() {
        let (text, times) = (letter("a"), 3usize);
        assert_eq!(run(task!(|text = text.clone(), times| text.repeat(times))), "aaa");
        let letters = run(task!(|times, mut letters = vec![text.clone(), letter("b")],| {
            letters.resize(times, letter("c"));
            letters
        }));
        assert_eq!(letters, ["a", "b", "c"]);
        let is_here = run(task!(|pid = std::process::id()| -> bool { pid == std::process::id() }));
        assert_eq!(is_here, !on_processes());
        let sum = run(task!(|bits = (1u32 | 4), next = [1u32, 2].map(|n| n + 1)| {
            bits + next.iter().sum::<u32>()
        }));
        assert_eq!(sum, 10);
        assert_eq!(text, "a");
    }

    #[test]
    fn a_closure_may_say_that_it_moves() {
        let (x, y) = (40u8, 2u8);
        assert_eq!(run(task!(move |x, y| x + y)), 42);
        assert_eq!(run(task!(move || 42)), 42);
    }

    #[test]
    fn sixteen_captured_variables() {
        let (a, b, c, d, e, f, g, h) = (1u64, 2u64, 3u64, 4u64, 5u64, 6u64, 7u64, 8u64);
        let (i, j, k, l, m, n, o, p) = (9u64, 10u64, 11u64, 12u64, 13u64, 14u64, 15u64, 16u64);
        let sums = run(task!(|a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p| [
            a + b + c + d + e + f + g + h,
            i + j + k + l + m + n + o + p
        ]));
        assert_eq!(sums, [36, 100]);
    }

    #[test]
    fn bodies_may_be_any_code() {
        const LIMIT: u32 = 100;
        static STEP: u32 = 3;

        let (start, words) = (1u32, vec![letter("a"), letter("b")]);
        let result = run(task!(|start, words| {
            let mut x = start;
            while x < LIMIT {
                x += STEP;
            }
            if words.is_empty() {
                return Err(letter("no words"));
            }
            let parsed: u32 = "1000".parse::<u32>().map_err(|error| error.to_string())?;
            let joined: String = words.iter().map(|word| word.to_uppercase()).collect();
            Ok((x + parsed, joined))
        }));
        assert_eq!(result, Ok((1100, letter("AB"))));
    }

    #[test]
    fn a_body_of_one_call() {
        let words = vec![letter("a"), letter("b")];
        assert_eq!(run(task!(|words| words.join("-"))), "a-b");
    }
}

// Values of size zero.

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Nothing;

/// What only this crate can make, to be captured by closures.
struct Token {
    _private: (),
}

static TOKENS_DROPPED: AtomicU32 = AtomicU32::new(0);

impl Drop for Token {
    fn drop(&mut self) {
        TOKENS_DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

freethreading::test_backends! {
    #[test]
    fn arguments_and_results_of_size_zero() {
        assert_eq!(run(|| ()), ());
        assert_eq!(run(task!(pair((), Nothing))), (Nothing, ()));
        assert_eq!(run(task!(pair([(); 3], PhantomData::<Cell<u8>>))).1, [(); 3]);
        let nothing = Nothing;
        assert_eq!(run(task!(|nothing| nothing)), Nothing);
        assert_eq!(run(task!(|nothing| vec![nothing; 1000])).len(), 1000);
    }

    #[test]
    fn a_closure_that_captures_values_of_size_zero_is_a_function() {
        let (token, function) = (Token { _private: () }, seven);
        let task = move || {
            let _token: &Token = &token;
            function() + 1
        };
        assert_eq!(run(task), 8);
        // The function lives for ever, and with it what it captured.
        assert_eq!(TOKENS_DROPPED.load(Ordering::Relaxed), 0);
    }
}

// Shapes of values.

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Shape {
    Unit,
    Newtype(Box<Shape>),
    Tuple(i8, String),
    Fields {
        list: Vec<Shape>,
        map: BTreeMap<String, Option<Shape>>,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Generic<T> {
    items: [Option<T>; 3],
    #[serde(skip)]
    cache: u32,
}

/// Sends the value to a worker and back, as an argument and as a capture.
fn travels<T: Portable + Clone + Debug + PartialEq>(value: T) {
    let copy = value.clone();
    let (there, back) = watched(|| {
        let executor = WorkerPoolExecutor::new(1).unwrap();
        let called = executor.submit(task!(std::convert::identity(copy.clone())));
        let captured = executor.submit(task!(|copy| copy));
        (called.result().unwrap(), captured.result().unwrap())
    });
    assert_eq!(there, value);
    assert_eq!(back, value);
}

/// Bytes in which every displacement shows.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect()
}

freethreading::test_backends! {
    #[test]
    fn numbers_travel() {
        travels((u8::MAX, i8::MIN, u16::MAX, i16::MIN, u32::MAX, i32::MIN));
        travels((u64::MAX, i64::MIN, u128::MAX, i128::MIN, usize::MAX, isize::MIN));
        travels((f32::MIN_POSITIVE, f64::MAX, f64::NEG_INFINITY, -0.0f64));
        travels((true, false, '\0', char::MAX, NonZero::new(1u8)));
        let nan = run(task!(std::convert::identity(f64::from_bits(0x7ff8_0000_dead_beef))));
        assert_eq!(nan.to_bits(), 0x7ff8_0000_dead_beef);
    }

    #[test]
    fn texts_and_collections_travel() {
        travels((String::new(), letter("naïve 日本 \0 🦀"), PathBuf::from("/a/b")));
        travels((Vec::<u8>::new(), vec![vec![vec![1u8], vec![]], vec![]]));
        travels(HashMap::from([(letter("a"), vec![1u8]), (letter("b"), vec![])]));
        travels((BTreeMap::from([(1u8, 'x')]), HashSet::from([1u64, 1 << 60])));
        travels((Duration::new(1, 999_999_999), Box::new([1u8, 2]), Cow::Borrowed("cow")));
    }

    #[test]
    fn options_and_results_travel() {
        travels((None::<u8>, Some(None::<u8>), Some(Some(0u8)), Some(())));
        travels(Ok::<String, u32>(letter("fine")));
        travels(Err::<String, u32>(404));
        // The function's own error is a result like any other.
        fn half(x: u32) -> Result<u32, String> {
            if x.is_multiple_of(2) { Ok(x / 2) } else { Err(format!("{x} is odd")) }
        }
        assert_eq!(run(task!(half(8))), Ok(4));
        assert_eq!(run(task!(half(7))), Err(letter("7 is odd")));
    }

    #[test]
    fn structs_and_enums_travel() {
        let fields = Shape::Fields {
            list: vec![Shape::Unit, Shape::Tuple(-1, letter("x"))],
            map: BTreeMap::from([(letter("none"), None), (letter("unit"), Some(Shape::Unit))]),
        };
        travels(Shape::Newtype(Box::new(Shape::Newtype(Box::new(fields)))));
        travels(Generic { items: [None, Some(Shape::Unit), Some(Shape::Tuple(1, letter("")))], cache: 0 });
    }

    #[test]
    fn large_values_travel() {
        travels(pattern(1 << 20));
        travels("é".repeat(1 << 19));
        travels(serde_bytes::ByteBuf::from(pattern(5 << 20)));
        travels(vec![(1u64, letter("text")); 20_000]);
    }
}

// What becomes of the values.

/// Counts how often it is dropped in this process.
#[derive(Serialize, Deserialize)]
struct Counted {
    #[serde(skip)]
    dropped: Option<std::sync::Arc<AtomicU32>>,
}

impl Counted {
    fn new() -> (Counted, std::sync::Arc<AtomicU32>) {
        let dropped = std::sync::Arc::new(AtomicU32::new(0));
        (
            Counted {
                dropped: Some(dropped.clone()),
            },
            dropped,
        )
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(dropped) = &self.dropped {
            dropped.fetch_add(1, Ordering::SeqCst);
        }
    }
}

freethreading::test_backends! {
    #[test]
    fn arguments_are_dropped_once() {
        let (counted, dropped) = Counted::new();
        run(task!(drop(counted)));
        assert_eq!(dropped.load(Ordering::SeqCst), 1);

        let (counted, dropped) = Counted::new();
        let back = run(task!(|counted| counted));
        // Threads move the very value; processes copy it and are done with the original.
        assert_eq!(dropped.load(Ordering::SeqCst), u32::from(on_processes()));
        drop(back);
        assert_eq!(dropped.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_worker_keeps_no_arguments_after_its_end() {
        let (counted, dropped) = Counted::new();
        let worker = Worker::new(task!(drop(counted)));
        assert_eq!(dropped.load(Ordering::SeqCst), 0);
        watched(|| {
            worker.start().unwrap();
            worker.join().unwrap();
        });
        assert_eq!(dropped.load(Ordering::SeqCst), 1);
        drop(worker);
        assert_eq!(dropped.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_task_that_is_never_given_away_drops_its_arguments() {
        let (counted, dropped) = Counted::new();
        drop(task!(drop(counted)));
        assert_eq!(dropped.load(Ordering::SeqCst), 1);

        let (counted, dropped) = Counted::new();
        drop(Worker::new(task!(drop(counted))));
        assert_eq!(dropped.load(Ordering::SeqCst), 1);
    }
}

// Values that refuse to travel.

/// A value that says no, or panics, when it is encoded or decoded.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fussy {
    Fine,
    RefusesEncoding,
    PanicsInEncoding,
    RefusesDecoding,
    PanicsInDecoding,
}

impl Serialize for Fussy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Fussy::Fine => 0u8.serialize(serializer),
            Fussy::RefusesEncoding => Err(serde::ser::Error::custom("I will not be encoded")),
            Fussy::PanicsInEncoding => panic!("I will not be encoded"),
            Fussy::RefusesDecoding => 1u8.serialize(serializer),
            Fussy::PanicsInDecoding => 2u8.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Fussy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u8::deserialize(deserializer)? {
            0 => Ok(Fussy::Fine),
            1 => Err(serde::de::Error::custom("I will not be decoded")),
            _ => panic!("I will not be decoded"),
        }
    }
}

fn no_matter(_: Fussy, marker: String) -> String {
    marker
}

#[test]
fn an_argument_that_cannot_travel_is_the_error_of_its_task_alone() {
    Backend::Multiprocessing.scope(|| {
        watched(|| {
            let executor = WorkerPoolExecutor::new(1).unwrap();
            for fussy in [
                Fussy::RefusesEncoding,
                Fussy::PanicsInEncoding,
                Fussy::RefusesDecoding,
                Fussy::PanicsInDecoding,
            ] {
                let error = executor
                    .submit(task!(no_matter(fussy, letter("x"))))
                    .result()
                    .unwrap_err();
                let what = match (&error, fussy) {
                    (
                        TaskError::Encode(what),
                        Fussy::RefusesEncoding | Fussy::PanicsInEncoding,
                    )
                    | (
                        TaskError::Decode(what),
                        Fussy::RefusesDecoding | Fussy::PanicsInDecoding,
                    ) => what,
                    _ => panic!("{fussy:?}: {error:?}"),
                };
                assert_eq!(what.part(), Part::Argument);
                assert!(what.type_name().contains("Fussy"), "{what:?}");
                assert!(what.message().contains("I will not be"), "{what:?}");
                assert!(error.to_string().contains("I will not be"), "{error}");
                assert_eq!(error.effect(), Effect::DidNotRun);
                let fine = executor.submit(task!(no_matter(Fussy::Fine, letter("y"))));
                assert_eq!(fine.result().unwrap(), "y");
            }
        });
    });
}

#[test]
fn a_result_that_cannot_travel_is_the_error_of_its_task_alone() {
    fn refuses_encoding() -> Fussy {
        Fussy::RefusesEncoding
    }
    fn panics_in_encoding() -> Fussy {
        Fussy::PanicsInEncoding
    }
    fn refuses_decoding() -> Fussy {
        Fussy::RefusesDecoding
    }
    fn panics_in_decoding() -> Fussy {
        Fussy::PanicsInDecoding
    }
    Backend::Multiprocessing.scope(|| {
        watched(|| {
            let executor = WorkerPoolExecutor::new(1).unwrap();
            let encode = [refuses_encoding, panics_in_encoding].len();
            let errors = [
                executor.submit(refuses_encoding).result().unwrap_err(),
                executor.submit(panics_in_encoding).result().unwrap_err(),
                executor.submit(refuses_decoding).result().unwrap_err(),
                executor.submit(panics_in_decoding).result().unwrap_err(),
            ];
            for (i, error) in errors.into_iter().enumerate() {
                let what = match &error {
                    TaskError::Encode(what) if i < encode => what,
                    TaskError::Decode(what) if i >= encode => what,
                    _ => panic!("{i}: {error:?}"),
                };
                assert_eq!(what.part(), Part::Result);
                assert!(what.message().contains("I will not be"), "{what:?}");
                assert_eq!(error.effect(), Effect::Ran);
            }
            assert_eq!(executor.submit(seven).result().unwrap(), 7);
        });
    });
}

/// Writes a field that it does not read.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Uneven {
    #[serde(skip_deserializing)]
    written: String,
    read: String,
}

#[test]
fn a_value_that_reads_less_than_it_has_written_is_an_error() {
    fn uneven(len: usize) -> Uneven {
        Uneven {
            written: "w".repeat(len),
            read: "r".repeat(len),
        }
    }
    Backend::Multiprocessing.scope(|| {
        watched(|| {
            let executor = WorkerPoolExecutor::new(1).unwrap();
            // In a frame and in memory of its own.
            for len in [1, 100_000] {
                let argument = uneven(len);
                let errors = [
                    executor.submit(task!(|argument| drop(argument))).result(),
                    executor.submit(task!(uneven(len))).result().map(drop),
                ];
                for (error, part) in errors.into_iter().zip([Part::Argument, Part::Result]) {
                    let error = error.unwrap_err();
                    assert!(
                        matches!(&error, TaskError::Decode(what) if what.part() == part),
                        "{error}"
                    );
                    assert!(error.to_string().contains("remaining"), "{error}");
                }
            }
            assert_eq!(executor.submit(seven).result().unwrap(), 7);
        });
    });
}

/// Leaves out what it could not find again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Sparse {
    Struct(SparseStruct),
    Variant {
        #[serde(skip_serializing_if = "Option::is_none")]
        note: Option<u8>,
        body: Vec<u8>,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct SparseStruct {
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<u8>,
    body: Vec<u8>,
}

/// What would be read as another value of the same type, if the note were left out: its length as that of a body with
/// a note before it.
fn sparse(note: Option<u8>, is_struct: bool, len: usize) -> Sparse {
    let mut body = vec![0; len];
    body[2..10].copy_from_slice(&(len as u64 - 10).to_le_bytes());
    match is_struct {
        true => Sparse::Struct(SparseStruct { note, body }),
        false => Sparse::Variant { note, body },
    }
}

#[test]
fn a_field_that_is_left_out_is_an_error() {
    Backend::Multiprocessing.scope(|| {
        watched(|| {
            let executor = WorkerPoolExecutor::new(1).unwrap();
            // In a frame and in memory of its own.
            for (is_struct, len) in [(true, 256), (false, 256), (true, 100_000)] {
                let whole = sparse(Some(1), is_struct, len);
                let same = executor.submit(task!(|whole = whole.clone()| whole));
                assert_eq!(same.result().unwrap(), whole);
                let queue = Queue::new(0);
                let same = executor.submit(task!(|queue = queue.clone(), whole| queue.put(whole)));
                same.result().unwrap().unwrap();
                assert_eq!(queue.get().unwrap(), sparse(Some(1), is_struct, len));

                let part = sparse(None, is_struct, len);
                let put = task!(|queue, is_struct, len| {
                    queue.put(sparse(None, is_struct, len)).unwrap_err().to_string()
                });
                let refused = [
                    executor.submit(task!(|part| drop(part))).result().unwrap_err().to_string(),
                    executor.submit(task!(sparse(None, is_struct, len))).result().unwrap_err().to_string(),
                    executor.submit(put).result().unwrap(),
                ];
                for error in refused {
                    assert!(error.contains("the field `note` is left out"), "{error}");
                }
            }
            let each = executor.map(|note| sparse(note, true, 256), [Some(1), None]);
            let each: Vec<_> = each.collect();
            assert!(each[0].is_ok());
            assert!(matches!(&each[1], Err(TaskError::Encode(what)) if what.message().contains("`note`")));
        });
    });
}

/// What is read with the help of names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Number(u32),
    Text(String),
}

#[test]
fn a_value_that_is_read_by_its_names_is_an_error_that_says_what_to_do() {
    Backend::Multiprocessing.scope(|| {
        watched(|| {
            let executor = WorkerPoolExecutor::new(1).unwrap();
            let untagged = Untagged::Number(1);
            let json = serde_json::json!({ "number": 1 });
            let errors = [
                executor.submit(task!(|untagged| drop(untagged))).result(),
                executor.submit(task!(|json| drop(json))).result(),
            ];
            for error in errors {
                let error = error.unwrap_err();
                assert_eq!(error.effect(), Effect::DidNotRun);
                assert!(
                    error.to_string().contains("can travel as a string"),
                    "{error}"
                );
            }
        });
    });
}

#[test]
fn threads_encode_nothing() {
    Backend::Threading.scope(|| {
        let fussy = Fussy::PanicsInEncoding;
        assert_eq!(run(task!(|fussy| fussy)), Fussy::PanicsInEncoding);
    });
}

#[test]
fn a_worker_whose_argument_cannot_be_encoded_does_not_start() {
    for fussy in [Fussy::RefusesEncoding, Fussy::PanicsInEncoding] {
        watched(|| {
            let worker =
                Worker::new(task!(no_matter(fussy, letter("x")))).backend(Backend::Multiprocessing);
            for _ in 0..2 {
                let error = worker.start().unwrap_err();
                assert!(
                    matches!(&error, Error::Task(TaskError::Encode(what)) if what.part() == Part::Argument),
                    "{error:?}"
                );
                assert!(!worker.is_alive());
                assert!(!freethreading::active_children().contains(&worker));
                assert!(matches!(worker.join(), Err(Error::NotStarted)));
                assert!(matches!(worker.terminate(), Err(Error::NotStarted)));
            }
        });
    }
}

#[test]
fn a_worker_whose_argument_cannot_be_decoded_says_so_in_join() {
    for fussy in [Fussy::RefusesDecoding, Fussy::PanicsInDecoding] {
        watched(|| {
            let worker =
                Worker::new(task!(no_matter(fussy, letter("x")))).backend(Backend::Multiprocessing);
            worker.start().unwrap();
            let error = worker.join().unwrap_err();
            assert!(
                matches!(&error, Error::Task(TaskError::Decode(what)) if what.part() == Part::Argument),
                "{error:?}"
            );
        });
    }
}

// Errors of this crate as results.

fn pump(from: Queue<u64>, to: Queue<u64>) -> Result<(), Error> {
    to.put(from.get_nowait()?)?;
    Ok(())
}

/// Has a worker of its own do it.
fn nested(divisor: u64) -> Result<u64, TaskError> {
    let executor = WorkerPoolExecutor::new(1).unwrap();
    executor.submit(task!(|divisor| 42 / divisor)).result()
}

freethreading::test_backends! {
    #[test]
    fn a_task_may_return_any_error_of_this_crate() {
        let (from, to) = (Queue::new(0), Queue::new(0));
        from.put(7).unwrap();
        watched(|| {
            let executor = WorkerPoolExecutor::new(1).unwrap();
            let pump = || executor.submit(task!(pump(from.clone(), to.clone()))).result().unwrap();
            assert_eq!(pump(), Ok(()));
            assert_eq!(to.get_nowait(), Ok(7));
            assert_eq!(pump(), Err(Error::Empty));
        });
    }

    #[test]
    fn a_task_may_return_the_error_of_another_task() {
        watched(|| {
            let executor = WorkerPoolExecutor::new(1).unwrap();
            assert_eq!(executor.submit(task!(nested(6))).result().unwrap(), Ok(7));
            let error = executor.submit(task!(nested(0))).result().unwrap().unwrap_err();
            assert!(
                matches!(&error, TaskError::Panicked(panic) if panic.message().contains("zero")),
                "{error}"
            );
            assert_eq!(error.effect(), Effect::Ran);
        });
    }
}
