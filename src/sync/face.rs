//! What the faces of the primitives have in common.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

/// An acquisition that gives something else, such as a guard. The future of an `async` block would not be compiled into
/// its caller, and with the one of `FutureExt::map` a lock takes a fifth longer.
pub(super) struct Giving<A, G> {
    acquisition: A,
    give: G,
}

impl<A, G> Giving<A, G> {
    #[inline]
    pub(super) fn new(acquisition: A, give: G) -> Self {
        Giving { acquisition, give }
    }
}

// The function is called where it is, never pinned.
impl<A: Unpin, G> Unpin for Giving<A, G> {}

impl<A: Future + Unpin, T, G: Fn(A::Output) -> T> Future for Giving<A, G> {
    type Output = T;

    // Always: as for what it is made of.
    #[inline(always)]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let this = self.get_mut();
        Pin::new(&mut this.acquisition)
            .poll(context)
            .map(&this.give)
    }
}

/// What a guard and its owned twin do, and the ways to get a guard, over the ways to acquire: four methods with the
/// given names.
macro_rules! guards {
    (
        $type:ident, $guard:ident, $owned:ident, $error:ident, $errors:literal,
        $lock:ident, $try_lock:ident, $lock_timeout:ident, $lock_async:ident
    ) => {
        impl $guard<'_> {
            /// Releases, as dropping the guard does.
            ///
            /// # Errors
            ///
            #[doc = $errors]
            pub fn release(self) -> Result<(), $error> {
                std::mem::ManuallyDrop::new(self).lock.release()
            }

            /// A guard with a handle of its own: it can outlive the one that it came from, and move into an async task.
            pub fn into_owned(self) -> $owned {
                $owned {
                    lock: $type::clone(std::mem::ManuallyDrop::new(self).lock),
                    held: true,
                }
            }
        }

        impl Drop for $guard<'_> {
            #[inline]
            fn drop(&mut self) {
                // Somebody may have released it meanwhile, or too much.
                let _ = self.lock.release();
            }
        }

        impl $owned {
            /// Releases, as dropping the guard does.
            ///
            /// # Errors
            ///
            #[doc = $errors]
            pub fn release(mut self) -> Result<(), $error> {
                self.held = false;
                self.lock.release()
            }
        }

        impl Drop for $owned {
            fn drop(&mut self) {
                if self.held {
                    let _ = self.lock.release();
                }
            }
        }

        impl $type {
            /// Acquires and gives a guard that releases when it is dropped.
            ///
            /// # Blocking
            ///
            #[doc = concat!("Like [`acquire`](", stringify!($type), "::acquire).")]
            #[inline]
            pub fn $lock(&self) -> $guard<'_> {
                self.acquire();
                $guard { lock: self }
            }

            /// Acquires if that can be done at once, and gives a guard.
            #[inline]
            #[must_use = "what was acquired is released when the guard is dropped"]
            pub fn $try_lock(&self) -> Option<$guard<'_>> {
                self.try_acquire().then(|| $guard { lock: self })
            }

            /// Acquires if that can be done in time, and gives a guard.
            ///
            /// # Blocking
            ///
            /// For so long at most.
            #[must_use = "what was acquired is released when the guard is dropped"]
            pub fn $lock_timeout(&self, timeout: std::time::Duration) -> Option<$guard<'_>> {
                self.acquire_timeout(timeout).then(|| $guard { lock: self })
            }

            #[doc = concat!(
                "Acquires and gives a guard; the async twin of [`", stringify!($lock), "`](",
                stringify!($type), "::", stringify!($lock), ")."
            )]
            ///
            /// # Cancel safety
            ///
            /// A future that is dropped has acquired nothing, and loses its place in line.
            #[inline]
            pub fn $lock_async(&self) -> impl Future<Output = $guard<'_>> + Send + Unpin {
                face::Giving::new(self.acquire_async(), move |()| $guard { lock: self })
            }
        }
    };
}

/// `serde`, on the way to a worker.
macro_rules! travels {
    ($type:ident, $kind:expr) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                crate::arena::passage::serialize(&self.0, serializer)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                crate::arena::passage::deserialize($kind, deserializer).map($type)
            }
        }
    };
}

pub(super) use {guards, travels};
