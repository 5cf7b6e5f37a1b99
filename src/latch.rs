//! A value that is set once, and that any number of threads and async tasks wait for.

use std::{sync::OnceLock, time::Instant};

use event_listener::{Event, Listener, listener};

pub(crate) struct Latch<T> {
    value: OnceLock<T>,
    event: Event,
}

impl<T> Latch<T> {
    pub(crate) const fn new() -> Self {
        Latch {
            value: OnceLock::new(),
            event: Event::new(),
        }
    }

    /// Sets the value and wakes everybody; the first value stays.
    pub(crate) fn set(&self, value: T) {
        if self.value.set(value).is_ok() {
            self.event.notify(usize::MAX);
        }
    }

    pub(crate) fn get(&self) -> Option<&T> {
        self.value.get()
    }

    /// Blocks until the value is there, or until the deadline.
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> Option<&T> {
        loop {
            if let Some(value) = self.get() {
                return Some(value);
            }
            listener!(self.event => listener);
            if let Some(value) = self.get() {
                return Some(value);
            }
            match deadline {
                None => listener.wait(),
                Some(deadline) => {
                    if listener.wait_deadline(deadline).is_none() {
                        return self.get();
                    }
                }
            }
        }
    }

    /// Waits for the value; dropping the future loses nothing.
    pub(crate) async fn wait_async(&self) -> &T {
        loop {
            if let Some(value) = self.get() {
                return value;
            }
            let listener = self.event.listen();
            if let Some(value) = self.get() {
                return value;
            }
            listener.await;
        }
    }
}
