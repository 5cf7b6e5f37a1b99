//! What the system itself offers: futexes, and glibc's objects for threads and processes.

use std::{
    cell::UnsafeCell,
    marker::PhantomData,
    sync::atomic::{
        AtomicU32,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use rustix::thread::futex::{self, Flags};

/// Who may wait on a futex.
pub trait Scope: Send + Sync + 'static {
    const FLAGS: Flags;
}

pub struct Private;
pub struct Shared;

impl Scope for Private {
    const FLAGS: Flags = Flags::PRIVATE;
}

impl Scope for Shared {
    const FLAGS: Flags = Flags::empty();
}

/// A word to sleep on.
pub struct Word<S> {
    value: AtomicU32,
    scope: PhantomData<S>,
}

impl<S> Default for Word<S> {
    fn default() -> Word<S> {
        Word {
            value: AtomicU32::new(0),
            scope: PhantomData,
        }
    }
}

impl<S: Scope> Word<S> {
    fn sleep_while(&self, value: u32) {
        // That it has changed, or a signal, is as good as being woken.
        let _ = futex::wait(&self.value, S::FLAGS, value, None);
    }

    fn wake_one(&self) {
        futex::wake(&self.value, S::FLAGS, 1).expect("the word is there");
    }
}

/// As a flag: 1 is set.
impl<S: Scope> Word<S> {
    pub fn set(&self) {
        self.value.store(1, Release);
        self.wake_one();
    }

    /// Waits until it is set, and clears it.
    pub fn take(&self) {
        while self.value.swap(0, Acquire) == 0 {
            self.sleep_while(0);
        }
    }
}

/// As the plainest mutex: 1 is locked, 2 is locked and perhaps waited for.
impl<S: Scope> Word<S> {
    #[inline]
    pub fn lock(&self) {
        let first = self.value.compare_exchange(0, 1, Acquire, Relaxed);
        if first.is_err() {
            while self.value.swap(2, Acquire) != 0 {
                self.sleep_while(2);
            }
        }
    }

    #[inline]
    pub fn unlock(&self) {
        if self.value.swap(0, Release) == 2 {
            self.wake_one();
        }
    }
}

/// A `sem_t`.
pub struct Sem(UnsafeCell<libc::sem_t>);

// SAFETY: a semaphore is there to be used by many threads.
unsafe impl Send for Sem {}
// SAFETY: as above.
unsafe impl Sync for Sem {}

impl Sem {
    pub fn new(value: u32) -> Box<Sem> {
        // SAFETY: any bits are a semaphore that is not initialized yet.
        let sem = Box::new(unsafe { std::mem::zeroed::<Sem>() });
        sem.init(false, value);
        sem
    }

    /// To be called before anything else, where the semaphore stays.
    pub fn init(&self, shared: bool, value: u32) {
        // SAFETY: the memory is ours, and nobody uses the semaphore yet.
        let result = unsafe { libc::sem_init(self.0.get(), shared.into(), value) };
        assert_eq!(result, 0);
    }

    #[inline]
    pub fn wait(&self) {
        // SAFETY: it is initialized.
        while unsafe { libc::sem_wait(self.0.get()) } != 0 {} // A signal came.
    }

    #[inline]
    pub fn post(&self) {
        // SAFETY: it is initialized.
        assert_eq!(unsafe { libc::sem_post(self.0.get()) }, 0);
    }
}

/// A process-shared `pthread_mutex_t`.
pub struct Pthread(UnsafeCell<libc::pthread_mutex_t>);

// SAFETY: a mutex is there to be used by many threads.
unsafe impl Sync for Pthread {}

impl Pthread {
    /// To be called before anything else, where the mutex stays.
    pub fn init(&self, kind: libc::c_int, robust: libc::c_int) {
        // SAFETY: the memory is ours, nobody uses the mutex yet, and the attributes are initialized first.
        unsafe {
            let mut attributes = std::mem::zeroed();
            let results = [
                libc::pthread_mutexattr_init(&mut attributes),
                libc::pthread_mutexattr_setpshared(&mut attributes, libc::PTHREAD_PROCESS_SHARED),
                libc::pthread_mutexattr_settype(&mut attributes, kind),
                libc::pthread_mutexattr_setrobust(&mut attributes, robust),
                libc::pthread_mutex_init(self.0.get(), &attributes),
                libc::pthread_mutexattr_destroy(&mut attributes),
            ];
            assert_eq!(results, [0; 6]);
        }
    }

    #[inline]
    pub fn lock(&self) {
        // SAFETY: it is initialized.
        assert_eq!(unsafe { libc::pthread_mutex_lock(self.0.get()) }, 0);
    }

    #[inline]
    pub fn unlock(&self) {
        // SAFETY: it is initialized.
        assert_eq!(unsafe { libc::pthread_mutex_unlock(self.0.get()) }, 0);
    }
}
