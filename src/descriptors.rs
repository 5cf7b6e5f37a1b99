//! The three standard descriptors.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd};

use rustix::{
    fs::{Mode, OFlags, open},
    io::fcntl_getfd,
};

/// To be called before anything is opened that stays: what a program prints, or a task, must not go there because it has
/// the number of a standard descriptor. Where one is closed, `/dev/null` takes its place, as std has it when a program
/// begins; one may be closed later, and std is not asked where the host is no Rust program.
pub(crate) fn occupy_standard() {
    // SAFETY: the descriptor is only asked for, and may be closed.
    let is_open = |fd| fcntl_getfd(unsafe { BorrowedFd::borrow_raw(fd) }).is_ok();
    while !(0..3).all(is_open) {
        // Programs that are started have it, too.
        match open("/dev/null", OFlags::RDWR, Mode::empty()) {
            Ok(null) if null.as_raw_fd() < 3 => drop(null.into_raw_fd()),
            // Somebody else was faster, or there is none.
            _ => return,
        }
    }
}
