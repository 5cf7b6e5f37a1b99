//! What worker processes write to their standard error: passed on to this process's own, unchanged, and
//! the last of it kept for the error that tells of a worker's death.
//!
//! There is at most one piece of each worker on its way at a time. While this process's standard error
//! takes nothing, nothing is read, and the worker waits as it would if it wrote there itself. Lines are passed on as a
//! whole, since a line is often written bit by bit, and other workers write as well.

use std::{io, sync::Arc, time::Duration};

use parking_lot::Mutex;
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::{Errno, retry_on_intr},
};
use tokio::{
    net::unix::pipe,
    sync::{Notify, oneshot},
    time::{Instant, sleep_until, timeout},
};

use crate::{engine::aside, latch::Latch};

/// What is read at once.
const PIECE: usize = 16 << 10;

/// At most so much of a process's output is in its pipe when it has died.
const IN_PIPE: usize = 64 << 10;

/// How much is kept, in bytes and in lines.
const KEPT: usize = 4 << 10;
const KEPT_LINES: usize = 10;

/// How long the rest of a line that has begun is waited for.
const LINE_PATIENCE: Duration = Duration::from_millis(100);

/// How long a worker's death may be held up by what it has written last.
const PATIENCE: Duration = Duration::from_secs(1);

/// The standard error of one worker process.
pub(super) struct Errors {
    shared: Arc<Shared>,
}

struct Shared {
    tail: Mutex<Vec<u8>>,
    /// The process is gone.
    dead: Notify,
    /// What it has written is passed on.
    drained: Latch<()>,
}

impl Errors {
    /// What comes out of the pipe is passed on by the future, which belongs on the reactor.
    pub(super) fn new(from: pipe::Receiver) -> (Errors, impl Future<Output = ()> + Send) {
        let shared = Arc::new(Shared {
            tail: Mutex::new(Vec::new()),
            dead: Notify::new(),
            drained: Latch::new(),
        });
        let passing = pass_on(from, Arc::clone(&shared));
        (Errors { shared }, passing)
    }

    /// The process is gone: waits until what it has written is passed on, if that can be.
    pub(super) async fn drain(&self) {
        self.shared.dead.notify_one();
        let _ = timeout(PATIENCE, self.shared.drained.wait_async()).await;
    }

    /// The last lines.
    pub(super) fn last_lines(&self) -> String {
        let tail = self.shared.tail.lock();
        let text = String::from_utf8_lossy(&tail);
        let lines: Vec<_> = text.trim_end().lines().collect();
        lines[lines.len().saturating_sub(KEPT_LINES)..].join("\n")
    }
}

async fn pass_on(from: pipe::Receiver, shared: Arc<Shared>) {
    let mut is_dead = false;
    let (mut begun, mut since) = (Vec::new(), Instant::now());
    loop {
        tokio::select! {
            biased;
            () = shared.dead.notified(), if !is_dead => {
                is_dead = true;
                if drain(&from, &shared, &mut begun).await {
                    break;
                }
                // A process that it has started writes there, too.
                shared.take(std::mem::take(&mut begun)).await;
                shared.drained.set(());
                continue;
            }
            readable = from.readable() => if readable.is_err() {
                break;
            },
            () = sleep_until(since + LINE_PATIENCE), if !begun.is_empty() => {
                shared.take(std::mem::take(&mut begun)).await;
                continue;
            }
        }
        let mut piece = vec![0; PIECE];
        match from.try_read(&mut piece) {
            Ok(0) => break,
            Ok(len) => {
                let goes_on = !begun.is_empty();
                let ended = lines(&mut begun, &piece[..len]);
                let begins = !goes_on || !ended.is_empty();
                shared.take(ended).await;
                if begins {
                    since = Instant::now();
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
    shared.take(begun).await;
    shared.drained.set(());
}

/// Passes on what a dead process has left; says whether nobody else can write there.
async fn drain(from: &pipe::Receiver, shared: &Shared, begun: &mut Vec<u8>) -> bool {
    let mut left = IN_PIPE;
    while left > 0 {
        let mut piece = vec![0; PIECE];
        // Not through tokio, which may not know yet that there is something.
        match retry_on_intr(|| rustix::io::read(from, &mut piece)) {
            Ok(0) => return true,
            Ok(len) => {
                left = left.saturating_sub(len);
                shared.take(lines(begun, &piece[..len])).await;
            }
            Err(error) => return error != Errno::AGAIN,
        }
    }
    false
}

impl Shared {
    async fn take(&self, piece: Vec<u8>) {
        if piece.is_empty() {
            return;
        }
        keep(&mut self.tail.lock(), &piece);
        let (done, is_done) = oneshot::channel();
        // It blocks where nobody reads this process's standard error.
        aside::off_the_reactor(move || {
            write(&piece);
            let _ = done.send(());
        });
        let _ = is_done.await;
    }
}

/// Adds to what has begun; gives back the lines that have come to their end.
fn lines(begun: &mut Vec<u8>, piece: &[u8]) -> Vec<u8> {
    begun.extend_from_slice(piece);
    let end = match begun.iter().rposition(|&byte| byte == b'\n') {
        Some(newline) => newline + 1,
        // It takes too long.
        None if begun.len() >= PIECE => begun.len(),
        None => 0,
    };
    let next = begun.split_off(end);
    std::mem::replace(begun, next)
}

/// Adds to what is kept.
fn keep(tail: &mut Vec<u8>, piece: &[u8]) {
    let piece = &piece[piece.len().saturating_sub(KEPT)..];
    let too_many = (tail.len() + piece.len()).saturating_sub(KEPT);
    tail.drain(..too_many.min(tail.len()));
    tail.extend_from_slice(piece);
}

/// Writes to this process's standard error, if there is one.
fn write(mut bytes: &[u8]) {
    let stderr = io::stderr();
    while !bytes.is_empty() {
        match retry_on_intr(|| rustix::io::write(&stderr, bytes)) {
            Ok(len) => bytes = &bytes[len..],
            Err(Errno::AGAIN) => {
                let _ = poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], None);
            }
            // It is closed, or nobody reads it.
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::{super::reactor, *};

    #[test]
    fn lines_are_passed_on_as_a_whole() {
        let mut begun = Vec::new();
        let mut pass =
            |piece: &str| String::from_utf8(lines(&mut begun, piece.as_bytes())).unwrap();
        assert_eq!(pass("one"), "");
        assert_eq!(pass(" and"), "");
        assert_eq!(pass(" two\nthree\nfo"), "one and two\nthree\n");
        assert_eq!(pass("ur\n"), "four\n");
        assert_eq!(pass(""), "");
        let long = "x".repeat(PIECE);
        assert_eq!(pass(&long), long);
        assert_eq!(pass("\n"), "\n");
    }

    #[test]
    fn what_comes_bit_by_bit_is_not_kept_until_it_ends() {
        let reactor = reactor::handle().unwrap();
        let (sender, receiver) = {
            let _context = reactor.enter();
            pipe::pipe().unwrap()
        };
        let (errors, passing) = Errors::new(receiver);
        drop(reactor.spawn(passing));
        // With twice as many it would be passed on for its length.
        let is_passed_on = (0..PIECE / 2).any(|_| {
            rustix::io::write(&sender, b".").unwrap();
            thread::sleep(Duration::from_millis(1));
            !errors.last_lines().is_empty()
        });
        assert!(is_passed_on);
    }

    #[test]
    fn the_last_bytes_are_kept() {
        let mut tail = Vec::new();
        for n in 0..10_000u32 {
            keep(&mut tail, format!("{n}\n").as_bytes());
            assert!(tail.len() <= KEPT);
        }
        assert!(tail.ends_with(b"9998\n9999\n"));
        keep(&mut tail, &[b'x'; 3 * KEPT]);
        assert_eq!(tail, [b'x'; KEPT]);
        keep(&mut tail, b"");
        assert_eq!(tail.len(), KEPT);
    }
}
