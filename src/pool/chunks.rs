//! The maps of a pool, with chunks of a given size or of one that is found.

use std::sync::Arc;

use futures::Stream;

use super::{
    AsyncResult, Imap, ImapStream, WorkerPool,
    gather::{Cut, Gather},
    imap::Recipe,
    promise::Promise,
    refused,
    spread::{Spread, memory::Memory},
};
use crate::{
    chunk::{Chunk, items::Items},
    error::Error,
    task::{Callable, Portable},
};

/// How many chunks of an [`imap`](WorkerPool::imap) are under way at most, for each worker.
const AHEAD: usize = 4;

/// The maps of a [`WorkerPool`], with a choice of how many items a worker gets at a time.
///
/// Made by [`WorkerPool::chunksize`]. Its methods are those of the pool.
#[derive(Clone, Copy, Debug)]
#[must_use = "it does nothing until one of its maps is called"]
pub struct Chunks<'a> {
    pub(super) pool: &'a WorkerPool,
    pub(super) size: Option<usize>,
}

impl Chunks<'_> {
    fn check(&self) -> Result<(), Error> {
        self.pool.check()?;
        match self.size {
            Some(0) => Err(Error::InvalidArgument(
                "a chunk needs at least one item: chunksize is 0".into(),
            )),
            _ => Ok(()),
        }
    }

    /// See [`WorkerPool::map`].
    ///
    /// # Blocking
    ///
    /// As [`WorkerPool::map`].
    ///
    /// # Errors
    ///
    /// Those of [`WorkerPool::map`], and [`Error::InvalidArgument`] for a chunksize of 0.
    ///
    /// # Panics
    ///
    /// If the input does; the pool goes on.
    pub fn map<F, I, R>(self, function: F, items: I) -> Result<Vec<R>, Error>
    where
        F: Fn(I::Item) -> R + Send + Sync + 'static,
        I: IntoIterator,
        I::Item: Portable,
        R: Portable,
    {
        Ok(self.map_async(function, items)?.get()?)
    }

    /// See [`WorkerPool::map_async`].
    ///
    /// # Blocking
    ///
    /// While the input is read to its end.
    ///
    /// # Errors
    ///
    /// Those of [`WorkerPool::map_async`], and [`Error::InvalidArgument`] for a chunksize of 0.
    ///
    /// # Panics
    ///
    /// If the input does; the pool goes on.
    pub fn map_async<F, I, R>(self, function: F, items: I) -> Result<AsyncResult<Vec<R>>, Error>
    where
        F: Fn(I::Item) -> R + Send + Sync + 'static,
        I: IntoIterator,
        I::Item: Portable,
        R: Portable,
    {
        self.check()?;
        let WorkerPool {
            scheduler, workers, ..
        } = self.pool;
        let items = Items::collect(items.into_iter());
        // From now on the pool may be closed: all items are accepted, or, if it was meanwhile, none.
        let hold = Arc::new(scheduler.hold().map_err(refused)?);
        let promise = Promise::new();
        let result = AsyncResult::of(promise.future());
        let is_thread_map = scheduler.carriage().is_none() && items.len() <= u32::MAX as usize;
        let room = match self.size {
            None if is_thread_map => Memory::with_room_for(items.len()),
            _ => None,
        };
        match room {
            Some(results) => Spread::start(&hold, *workers, function, items, results, promise),
            None => {
                let cut = self.size.map_or(Cut::Adaptive, Cut::Fixed);
                let chunk = Chunk::of(function);
                Gather::start(hold, *workers, chunk, cut, items, promise);
            }
        }
        Ok(result)
    }

    /// See [`WorkerPool::starmap`].
    ///
    /// # Blocking
    ///
    /// As [`WorkerPool::map`].
    ///
    /// # Errors
    ///
    /// Those of [`WorkerPool::map`], and [`Error::InvalidArgument`] for a chunksize of 0.
    ///
    /// # Panics
    ///
    /// If the input does; the pool goes on.
    pub fn starmap<F, I, R>(self, function: F, items: I) -> Result<Vec<R>, Error>
    where
        F: Callable<I::Item, Output = R>,
        I: IntoIterator,
        I::Item: Portable,
        R: Portable,
    {
        self.map(move |args| function.call(args), items)
    }

    /// See [`WorkerPool::starmap_async`].
    ///
    /// # Blocking
    ///
    /// While the input is read to its end.
    ///
    /// # Errors
    ///
    /// Those of [`WorkerPool::map_async`], and [`Error::InvalidArgument`] for a chunksize of 0.
    ///
    /// # Panics
    ///
    /// If the input does; the pool goes on.
    pub fn starmap_async<F, I, R>(self, function: F, items: I) -> Result<AsyncResult<Vec<R>>, Error>
    where
        F: Callable<I::Item, Output = R>,
        I: IntoIterator,
        I::Item: Portable,
        R: Portable,
    {
        self.map_async(move |args| function.call(args), items)
    }

    /// See [`WorkerPool::imap`].
    ///
    /// # Blocking
    ///
    /// As [`WorkerPool::imap`].
    ///
    /// # Errors
    ///
    /// Those of [`WorkerPool::imap`], and [`Error::InvalidArgument`] for a chunksize of 0.
    pub fn imap<F, I, R>(self, function: F, items: I) -> Result<Imap<I::IntoIter, R>, Error>
    where
        F: Fn(I::Item) -> R + Send + Sync + 'static,
        I: IntoIterator,
        I::Item: Portable,
        R: Portable,
    {
        Ok(self.recipe(function, true)?.imap(items.into_iter()))
    }

    /// See [`WorkerPool::imap_unordered`].
    ///
    /// # Blocking
    ///
    /// As [`WorkerPool::imap`].
    ///
    /// # Errors
    ///
    /// Those of [`WorkerPool::imap`], and [`Error::InvalidArgument`] for a chunksize of 0.
    pub fn imap_unordered<F, I, R>(
        self,
        function: F,
        items: I,
    ) -> Result<Imap<I::IntoIter, R>, Error>
    where
        F: Fn(I::Item) -> R + Send + Sync + 'static,
        I: IntoIterator,
        I::Item: Portable,
        R: Portable,
    {
        Ok(self.recipe(function, false)?.imap(items.into_iter()))
    }

    /// See [`WorkerPool::imap_stream`].
    ///
    /// # Errors
    ///
    /// Those of [`WorkerPool::imap`], and [`Error::InvalidArgument`] for a chunksize of 0.
    pub fn imap_stream<F, S, R>(self, function: F, items: S) -> Result<ImapStream<S, R>, Error>
    where
        F: Fn(S::Item) -> R + Send + Sync + 'static,
        S: Stream,
        S::Item: Portable,
        R: Portable,
    {
        Ok(self.recipe(function, true)?.stream(items))
    }

    /// See [`WorkerPool::imap_unordered_stream`].
    ///
    /// # Errors
    ///
    /// Those of [`WorkerPool::imap`], and [`Error::InvalidArgument`] for a chunksize of 0.
    pub fn imap_unordered_stream<F, S, R>(
        self,
        function: F,
        items: S,
    ) -> Result<ImapStream<S, R>, Error>
    where
        F: Fn(S::Item) -> R + Send + Sync + 'static,
        S: Stream,
        S::Item: Portable,
        R: Portable,
    {
        Ok(self.recipe(function, false)?.stream(items))
    }

    fn recipe<F, T, R>(self, function: F, ordered: bool) -> Result<Recipe<T, R>, Error>
    where
        F: Fn(T) -> R + Send + Sync + 'static,
        T: Portable,
        R: Portable,
    {
        self.check()?;
        Ok(Recipe {
            scheduler: Arc::clone(&self.pool.scheduler),
            workers: self.pool.workers,
            ahead: AHEAD.saturating_mul(self.pool.workers),
            chunk: Chunk::of(function),
            chunksize: self.size.unwrap_or(1),
            ordered,
        })
    }
}
