//! What a map is given, and what a chunk has of it.
#![allow(unsafe_code)]

use std::{mem, vec};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use super::{
    cast::cast,
    numbers::{Bounds, Numbers},
    piece::{Carver, Piece},
};

/// Items for which no iterator has to be asked any more.
pub(crate) enum Items<T> {
    InMemory(Piece<T>),
    /// They need not be anywhere.
    Numbers(Numbers<T>),
}

impl<T: 'static> Items<T> {
    /// What the iterator would give, if that can be had at once; or the iterator.
    pub(crate) fn at_once<I: Iterator<Item = T>>(mut items: I) -> Result<Self, I> {
        if let Some(numbers) = Numbers::of(&mut items) {
            return Ok(Items::Numbers(numbers));
        }
        // SAFETY: the lifetimes are those of `T`, as the items of both are.
        match unsafe { cast::<I, vec::IntoIter<T>>(&mut items) } {
            Some(items) => Ok(Items::InMemory(mem::take(items).collect::<Vec<T>>().into())),
            None => Err(items),
        }
    }

    /// All that the iterator gives.
    pub(crate) fn collect<I: Iterator<Item = T>>(items: I) -> Self {
        Self::at_once(items)
            .unwrap_or_else(|items| Items::InMemory(items.collect::<Vec<T>>().into()))
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Items::InMemory(piece) => piece.as_slice().len(),
            Items::Numbers(numbers) => numbers.len(),
        }
    }

    /// Takes the first ones away, up to `max`.
    pub(crate) fn cut(&mut self, max: usize) -> Self {
        match self {
            Items::InMemory(piece) => Items::InMemory(piece.cut(max)),
            Items::Numbers(numbers) => Items::Numbers(numbers.cut(max)),
        }
    }

    /// Calls the function with each; if it panics, those that it was not called with are dropped.
    #[inline]
    pub(super) fn for_each(self, function: impl FnMut(T)) {
        match self {
            Items::InMemory(piece) => piece.for_each(function),
            Items::Numbers(numbers) => numbers.iter().for_each(function),
        }
    }
}

/// Items on their way to another process; all that is sent of a range is its bounds.
#[derive(Serialize, Deserialize)]
enum Travelling<V> {
    InMemory(V),
    Numbers(Bounds),
}

impl<T: Serialize + 'static> Serialize for Items<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let travelling = match self {
            Items::InMemory(piece) => Travelling::InMemory(piece.as_slice()),
            Items::Numbers(numbers) => Travelling::Numbers(numbers.bounds()),
        };
        travelling.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de> + 'static> Deserialize<'de> for Items<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Travelling::<Vec<T>>::deserialize(deserializer)? {
            Travelling::InMemory(items) => Ok(Items::InMemory(items.into())),
            Travelling::Numbers(bounds) => match Numbers::within(bounds) {
                Some(numbers) => Ok(Items::Numbers(numbers)),
                None => Err(D::Error::custom("a range of what are no whole numbers")),
            },
        }
    }
}

/// What a map is given, of which chunks are cut.
pub(crate) enum Input<I: Iterator> {
    Items(Items<I::Item>),
    Iterator { items: I, carver: Carver<I::Item> },
}

impl<I: Iterator<Item: 'static>> Input<I> {
    pub(crate) fn new(items: I) -> Self {
        match Items::at_once(items) {
            Ok(items) => Input::Items(items),
            Err(items) => {
                let carver = Carver::in_turns(items.size_hint().0);
                Input::Iterator { items, carver }
            }
        }
    }

    /// How many items are to come, as far as one knows.
    pub(crate) fn expected(&self) -> usize {
        match self {
            Input::Items(items) => items.len(),
            Input::Iterator { items, .. } => items.size_hint().0,
        }
    }

    /// The next items, at most `max`; fewer only where there are no more.
    pub(crate) fn cut(&mut self, max: usize) -> Items<I::Item> {
        match self {
            Input::Items(items) => items.cut(max),
            Input::Iterator { items, carver } => Items::InMemory(carver.carve_from(items, max)),
        }
    }
}

#[cfg(all(test, not(freethreading_loom)))]
mod tests {
    use std::{
        fmt::Debug,
        iter,
        panic::{AssertUnwindSafe, catch_unwind},
        rc::Rc,
    };

    use serde::de::DeserializeOwned;

    use super::*;
    use crate::{
        arena::passage::{Luggage, Reach},
        codec,
        error::{CodecError, Part},
        task::Portable,
    };

    fn encoded(value: &impl Serialize) -> Vec<u8> {
        let mut encoded = Vec::new();
        let mut none = Luggage::default();
        codec::encode(
            value,
            &mut encoded,
            Part::Argument,
            Reach::Beyond,
            &mut none,
        )
        .unwrap();
        encoded
    }

    fn decoded<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
        codec::decode(bytes, Part::Argument)
    }

    /// All chunks of the input, which are to have so many items.
    fn chunks<I: Iterator<Item: 'static>>(items: I, max: usize) -> Vec<Vec<I::Item>> {
        let mut input = Input::new(items);
        iter::repeat_with(|| input.cut(max))
            .take_while(|items| items.len() > 0)
            .map(|items| {
                let mut chunk = Vec::new();
                items.for_each(|item| chunk.push(item));
                chunk
            })
            .collect()
    }

    #[test]
    fn inputs_of_all_kinds_are_cut_alike() {
        let texts = |n| (0..n).map(|n: u32| n.to_string()).collect::<Vec<_>>();
        for len in [0, 1, 6, 7, 20] {
            for max in [1, 2, 3, 7, usize::MAX] {
                let expected: Vec<_> = texts(len).chunks(max).map(<[_]>::to_vec).collect();
                assert_eq!(chunks(texts(len).into_iter(), max), expected);
                assert_eq!(chunks((0..len).map(|n| n.to_string()), max), expected);
                let numbers = chunks(0..len, max).into_iter();
                let numbers: Vec<Vec<_>> = numbers
                    .map(|chunk| chunk.iter().map(u32::to_string).collect())
                    .collect();
                assert_eq!(numbers, expected);
            }
        }
    }

    #[test]
    fn a_vector_stays_where_it_is() {
        let vector: Vec<_> = (0..10).map(|n| n.to_string()).collect();
        let start = vector.as_ptr();
        let Items::InMemory(mut piece) = Items::collect(vector.into_iter()) else {
            panic!("strings are no numbers");
        };
        let first = piece.cut(4);
        assert_eq!(first.as_slice().as_ptr(), start);
        assert!(first.chain(piece).eq((0..10).map(|n| n.to_string())));
    }

    #[test]
    fn a_vector_that_was_used_is_a_vector() {
        let mut used = vec!["a".to_string(), "b".into(), "c".into(), "d".into()].into_iter();
        assert_eq!(
            (used.next().unwrap(), used.next_back().unwrap()),
            ("a".into(), "d".into())
        );
        let Ok(Items::InMemory(piece)) = Items::at_once(used) else {
            panic!("it is a vector's");
        };
        assert!(piece.eq(["b", "c"]));
    }

    #[test]
    fn items_arrive_as_they_were_sent() {
        fn check<I: Iterator<Item: Portable + Debug + PartialEq> + Clone>(items: I) {
            let vector: Vec<_> = items.clone().collect();
            for skipped in [0, 1, vector.len()] {
                let mut all = Items::collect(items.clone());
                all.cut(skipped);
                let arrived = decoded::<Items<I::Item>>(&encoded(&all)).unwrap();
                let mut rest = Vec::new();
                arrived.for_each(|item| rest.push(item));
                assert_eq!(rest, &vector[skipped.min(vector.len())..]);
            }
        }
        check(0..5u64);
        check(-3..=3i8);
        check(250..=u8::MAX);
        check(i128::MIN..i128::MIN + 3);
        check(5..5u16);
        check(vec!["a".to_string(), "b".into()].into_iter());
        check((0..3u32).map(|n| n.to_string()));
    }

    #[test]
    fn a_range_is_sent_by_its_bounds() {
        let short = encoded(&Items::collect(0..5u64)).len();
        assert_eq!(encoded(&Items::collect(0..usize::MAX)).len(), short);
    }

    #[test]
    fn a_range_of_what_are_no_numbers_is_refused() {
        let range = encoded(&Items::collect(2..5u8));
        assert_eq!(decoded::<Items<i64>>(&range).unwrap().len(), 3);
        let error = decoded::<Items<bool>>(&range).err();
        let message = error.expect("there is no such range").to_string();
        assert!(message.contains("no whole numbers"), "{message}");
    }

    #[test]
    fn items_are_dropped_once_also_where_a_function_panics() {
        for panics_at in [0, 3, 9, 10] {
            let counted = Rc::new(());
            let mut items = Items::collect(vec![Rc::clone(&counted); 10].into_iter());
            let first = items.cut(1);
            assert_eq!(Rc::strong_count(&counted), 11);
            drop(first);
            assert_eq!(Rc::strong_count(&counted), 10);
            let mut left = panics_at;
            let run = AssertUnwindSafe(|| {
                items.for_each(|_| left = usize::checked_sub(left, 1).expect("one too many"));
            });
            assert_eq!(catch_unwind(run).is_err(), panics_at < 9);
            assert_eq!(Rc::strong_count(&counted), 1);
        }
    }
}
