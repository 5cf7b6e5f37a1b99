//! What a [`TaskCell`](super::cell::TaskCell) can have a worker do.

use super::{Portable, Task};
use crate::{
    codec::Encoded,
    engine::{Carriage, Payload, Request, processes::wire},
    error::{Part, TaskError},
};

/// What a worker can do: a call that is made here, or encoded and made elsewhere.
pub(crate) trait Work: Send + 'static {
    type Output: Send + 'static;

    /// Whether it may take but a moment, so that whoever waits for it looks a few times before going to sleep.
    const MAY_BE_SHORT: bool = true;

    /// Gives the path of the function, for messages.
    fn name(&self) -> fn() -> &'static str;

    /// Does it on this thread.
    fn call(self) -> Self::Output;

    /// Encodes it as a request with this number.
    fn request(&self, id: u64, carriage: Carriage) -> Result<Request, TaskError>;

    /// Whether such an output counts as a failure, although there is one.
    fn has_failed(_output: &Self::Output) -> bool {
        false
    }

    /// The same of one that is not decoded yet.
    fn has_failed_elsewhere(_payload: &Payload) -> bool {
        false
    }

    /// Decodes what came back.
    fn decode(payload: Encoded<'_>) -> Result<Self::Output, TaskError>;
}

impl<A: Portable, R: Portable> Work for Task<A, R> {
    type Output = R;

    fn name(&self) -> fn() -> &'static str {
        self.function.entry().function_name
    }

    fn call(self) -> R {
        self.function.call(self.args)
    }

    fn request(&self, id: u64, carriage: Carriage) -> Result<Request, TaskError> {
        wire::request(
            id,
            self.function.entry(),
            wire::Reply::Value,
            carriage,
            &self.args,
        )
    }

    fn decode(payload: Encoded<'_>) -> Result<R, TaskError> {
        payload.decode(Part::Result).map_err(TaskError::Decode)
    }
}

/// A task whose result nobody wants.
pub(crate) struct Discarding<A, R>(pub(crate) Task<A, R>);

impl<A: Portable, R: Portable> Work for Discarding<A, R> {
    type Output = ();

    fn name(&self) -> fn() -> &'static str {
        self.0.name()
    }

    fn call(self) {
        drop(self.0.call());
    }

    fn request(&self, id: u64, carriage: Carriage) -> Result<Request, TaskError> {
        let Task { args, function } = &self.0;
        wire::request(id, function.entry(), wire::Reply::Nothing, carriage, args)
    }

    fn decode(_payload: Encoded<'_>) -> Result<(), TaskError> {
        Ok(())
    }
}
