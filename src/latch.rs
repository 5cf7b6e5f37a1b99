//! A value that is set once, and that any number of threads and async tasks wait for.
//!
//! Nobody is woken, and no waker cloned or dropped, while the lock is held: wakers may do anything,
//! also come back to this very latch.

use std::{
    pin::Pin,
    sync::OnceLock,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::{
    coop, deadline,
    shim::park,
    wakers::{Parked, Wakers},
};

pub(crate) struct Latch<T> {
    value: OnceLock<T>,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    threads: Parked,
    wakers: Wakers,
}

impl<T> Latch<T> {
    pub(crate) fn new() -> Self {
        Latch {
            value: OnceLock::new(),
            waiting: Mutex::default(),
        }
    }

    /// Sets the value and wakes everybody; the first value stays.
    pub(crate) fn set(&self, value: T) {
        // Before the list is taken: who is not on it will see the value.
        let _ = self.value.set(value);
        let waiting = std::mem::take(&mut *self.waiting.lock());
        waiting.threads.unpark();
        waiting.wakers.wake();
    }

    pub(crate) fn get(&self) -> Option<&T> {
        self.value.get()
    }

    /// Blocks until the value is there, or until the deadline.
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> Option<&T> {
        loop {
            let left = deadline::left(deadline);
            {
                let mut waiting = self.waiting.lock();
                if self.get().is_some() || left == Some(Duration::ZERO) {
                    waiting.threads.remove_current();
                    return self.get();
                }
                waiting.threads.add_current();
            }
            park(left);
        }
    }

    /// Waits for the value; dropping the future loses nothing.
    pub(crate) fn wait_async(&self) -> WaitAsync<'_, T> {
        WaitAsync {
            latch: self,
            key: None,
        }
    }
}

pub(crate) struct WaitAsync<'a, T> {
    latch: &'a Latch<T>,
    /// Where the waker is, once there is one.
    key: Option<u64>,
}

impl<'a, T> Future for WaitAsync<'a, T> {
    type Output = &'a T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<&'a T> {
        let latch = self.latch;
        if self.key.is_none() {
            ready!(coop::poll_begin(context));
        }
        if let Some(value) = latch.get() {
            return Poll::Ready(value);
        }
        let waker = context.waker().clone();
        let old = {
            let mut waiting = latch.waiting.lock();
            match latch.get() {
                // The new waker is as useless now as an old one.
                Some(_) => Some(waker),
                None => waiting.wakers.keep(&mut self.key, waker),
            }
        };
        drop(old);
        latch.get().map_or(Poll::Pending, Poll::Ready)
    }
}

impl<T> Drop for WaitAsync<'_, T> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            let waker = self.latch.waiting.lock().wakers.forget(key);
            drop(waker);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        task::{Wake, Waker},
        thread,
    };

    use super::*;

    #[test]
    fn the_first_value_stays_and_everybody_gets_it() {
        let latch = Arc::new(Latch::new());
        let waiting: Vec<_> = (0..4)
            .map(|n| {
                let latch = Arc::clone(&latch);
                thread::spawn(move || match n % 2 {
                    0 => *latch.wait(None).unwrap(),
                    _ => *futures::executor::block_on(latch.wait_async()),
                })
            })
            .collect();
        latch.set(1);
        latch.set(2);
        for thread in waiting {
            assert_eq!(thread.join().unwrap(), 1);
        }
    }

    #[test]
    fn a_wait_in_vain_ends_in_time_and_leaves_nobody_to_wake() {
        let latch = Latch::<()>::new();
        assert!(latch.wait(Some(Instant::now())).is_none());
        let deadline = Instant::now() + Duration::from_millis(2);
        assert!(latch.wait(Some(deadline)).is_none());
        assert!(Instant::now() >= deadline);
        assert_eq!(latch.waiting.lock().threads.len(), 0);
        let mut context = Context::from_waker(Waker::noop());
        let mut wait = Box::pin(latch.wait_async());
        assert!(wait.as_mut().poll(&mut context).is_pending());
        assert_eq!(latch.waiting.lock().wakers.len(), 1);
        drop(wait);
        assert_eq!(latch.waiting.lock().wakers.len(), 0);
    }

    #[test]
    fn a_waker_may_come_back_to_the_latch() {
        struct ComesBack(Arc<Latch<u32>>, AtomicUsize);
        impl Wake for ComesBack {
            fn wake(self: Arc<Self>) {
                self.1.fetch_add(1, Ordering::Relaxed);
                self.0.set(3);
                assert_eq!(self.0.wait(None), Some(&7));
                let mut context = Context::from_waker(Waker::noop());
                let mut wait = Box::pin(self.0.wait_async());
                assert!(wait.as_mut().poll(&mut context).is_ready());
            }
        }
        let latch = Arc::new(Latch::new());
        let waker = Arc::new(ComesBack(Arc::clone(&latch), AtomicUsize::new(0)));
        let mut wait = Box::pin(latch.wait_async());
        let polled = Waker::from(Arc::clone(&waker));
        assert!(
            wait.as_mut()
                .poll(&mut Context::from_waker(&polled))
                .is_pending()
        );
        latch.set(7);
        assert_eq!(waker.1.load(Ordering::Relaxed), 1);
        drop(wait);
    }
}
