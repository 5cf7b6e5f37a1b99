//! Many items as one task: they travel together, and one worker calls the function with each.
//!
//! [`items`] is what a map is given and what a chunk has of it, [`numbers`] are items that need not be collected,
//! [`piece`] is the memory that items and results are in, and [`cast`] finds out what a type parameter is.

mod cast;
pub(crate) mod items;
pub(crate) mod numbers;
pub(crate) mod piece;

use crate::{
    codec::Encoded,
    engine::{Carriage, Payload, Request, processes::wire},
    error::{Panic, Part, TaskError},
    task::{Function, Portable, entry, work::Work},
    unwind,
};
use items::Items;
use piece::Piece;

/// How to run a function over a chunk of items: here, and in another process.
pub(crate) struct Chunk<I, R> {
    name: fn() -> &'static str,
    here: fn(Items<I>, Piece<R>) -> ChunkResult<R>,
    elsewhere: Function<(Items<I>,), Reply<R>>,
}

/// What a worker process makes of a chunk: a panic, if there was one, and the results up to it.
type Reply<R> = (Option<Panic>, Vec<R>);

impl<I, R> Clone for Chunk<I, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<I, R> Copy for Chunk<I, R> {}

impl<I: Portable, R: Portable> Chunk<I, R> {
    pub(crate) fn of<F>(function: F) -> Self
    where
        F: Fn(I) -> R + Send + Sync + 'static,
    {
        let elsewhere = |items: Items<I>| {
            let mut results = Vec::new();
            // A range can be of any length: if there is no room for so many, there may never be so many.
            let _ = results.try_reserve_exact(items.len());
            let function = entry::summon::<F>();
            let run = || items.for_each(|item| results.push(function(item)));
            let panic = unwind::catch(run).err();
            (panic, results)
        };
        let chunk = Chunk {
            name: std::any::type_name::<F>,
            here: |items, mut piece| {
                let run = || piece.map_from(items, entry::summon::<F>());
                let panic = unwind::catch(run).err();
                ChunkResult {
                    values: Values::Here(piece),
                    panic,
                }
            },
            elsewhere: Function::of(elsewhere),
        };
        // The value that makes it sound to summon it on the workers: it lives for ever.
        std::mem::forget(function);
        chunk
    }
}

pub(crate) struct ChunkWork<I, R> {
    pub(crate) chunk: Chunk<I, R>,
    pub(crate) items: Items<I>,
    /// Where the results go, unless they come from another process.
    pub(crate) piece: Option<Piece<R>>,
}

pub(crate) struct ChunkResult<R> {
    pub(crate) values: Values<R>,
    pub(crate) panic: Option<Panic>,
}

/// The results of one chunk.
pub(crate) enum Values<R> {
    Here(Piece<R>),
    FromElsewhere(std::vec::IntoIter<R>),
}

impl<R> Values<R> {
    /// How many are left.
    pub(crate) fn len(&self) -> usize {
        match self {
            Values::Here(piece) => piece.as_slice().len(),
            Values::FromElsewhere(values) => values.len(),
        }
    }
}

impl<R> Iterator for Values<R> {
    type Item = R;

    #[inline]
    fn next(&mut self) -> Option<R> {
        match self {
            Values::Here(piece) => piece.next(),
            Values::FromElsewhere(values) => values.next(),
        }
    }
}

impl<I: Portable, R: Portable> Work for ChunkWork<I, R> {
    type Output = ChunkResult<R>;

    fn name(&self) -> fn() -> &'static str {
        self.chunk.name
    }

    fn call(self) -> ChunkResult<R> {
        let piece = self
            .piece
            .expect("threads are given a place for their results");
        (self.chunk.here)(self.items, piece)
    }

    fn request(&self, id: u64, carriage: Carriage) -> Result<Request, TaskError> {
        let entry = self.chunk.elsewhere.entry();
        wire::request(id, entry, wire::Reply::Value, carriage, &(&self.items,))
    }

    fn has_failed(result: &ChunkResult<R>) -> bool {
        result.panic.is_some()
    }

    fn has_failed_elsewhere(reply: &Payload) -> bool {
        reply.begins_with_some()
    }

    fn decode(payload: Encoded<'_>) -> Result<ChunkResult<R>, TaskError> {
        let reply: Reply<R> = payload.decode(Part::Result).map_err(TaskError::Decode)?;
        let (panic, results) = reply;
        Ok(ChunkResult {
            values: Values::FromElsewhere(results.into_iter()),
            panic,
        })
    }
}
