//! Until when somebody waits: `None` is for ever.

use std::time::{Duration, Instant};

/// When so much time will have passed; a time that the clock cannot tell is as good as for ever.
pub(crate) fn after(time: Duration) -> Option<Instant> {
    Instant::now().checked_add(time)
}

/// How much time is left until then.
pub(crate) fn left(deadline: Option<Instant>) -> Option<Duration> {
    deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
}
