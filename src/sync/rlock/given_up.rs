//! What owners have given up for the waits that they are in.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, DefaultHasher},
};

use super::Hold;
use crate::{arena::handle::SlotId, shim::SpinLock};

/// How often each lock was acquired that this process's waits have given up, where a guard may be dropped meanwhile,
/// which is then one less. Nobody but this process has its guards.
///
/// While it is locked, a count goes from the lock's word to here, and back: so it is in one of the two.
type GivenUp = SpinLock<HashMap<(SlotId, Hold), u64, BuildHasherDefault<DefaultHasher>>>;

#[cfg(not(freethreading_loom))]
pub(super) static GIVEN_UP: GivenUp =
    SpinLock::new(HashMap::with_hasher(BuildHasherDefault::new()));

#[cfg(freethreading_loom)]
loom::lazy_static! {
    pub(super) static ref GIVEN_UP: GivenUp = SpinLock::default();
}
