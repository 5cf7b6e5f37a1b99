//! What the tests share. Not every test crate uses all of it.
#![allow(dead_code)]

use std::{
    fs,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// Runs a body that could hang. If it takes longer than a minute the whole test program is ended,
/// since a hanging test cannot be.
pub fn watched<T>(body: impl FnOnce() -> T) -> T {
    let (done, is_done) = mpsc::channel::<()>();
    let name = thread::current().name().unwrap_or("?").to_owned();
    let watchdog = thread::spawn(move || {
        let limit = Duration::from_secs(60);
        if is_done.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!("watchdog: test '{name}' hangs");
            std::process::abort();
        }
    });
    let result = body();
    drop(done);
    watchdog.join().expect("the watchdog does not panic");
    result
}

/// Waits until the condition holds, for what no handle tells: files, processes, other programs. The
/// watchdog ends a wait in vain.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        thread::sleep(Duration::from_millis(1));
        assert!(start.elapsed() < Duration::from_secs(50), "never: {what}");
    }
}

/// The threads of this process.
pub fn threads() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}

/// The open descriptors of this process, without the one that counts them.
pub fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count() - 1
}

/// The processes whose parent this one is, zombies included.
pub fn children() -> Vec<u32> {
    children_of(std::process::id())
}

/// The processes whose parent is the given one, zombies included.
pub fn children_of(parent: u32) -> Vec<u32> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        // pid (name) state ppid …, where the name may hold anything.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        let fields = stat.rsplit(')').next().unwrap_or_default();
        if fields.split_whitespace().nth(1) == Some(parent.to_string().as_str()) {
            children.push(pid);
        }
    }
    children
}

/// Whether the process exists; a zombie does.
pub fn exists(pid: u32) -> bool {
    fs::exists(format!("/proc/{pid}")).unwrap()
}

/// Sends a signal to a process that this test started.
pub fn signal(pid: u32, signal: i32) {
    // SAFETY: the call takes no pointers.
    assert_eq!(unsafe { libc::kill(pid as libc::pid_t, signal) }, 0);
}
