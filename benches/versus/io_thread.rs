//! The peer that keeps requests in flight: a thread with a runtime drives the one child, for callers who
//! block.

use std::{sync::mpsc, thread};

use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use tokio::{
    process::{ChildStdin, ChildStdout, Command},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec};

use crate::{CHILD, child::SQUARE};

/// A child that squares numbers, and the way to it.
pub struct IoThread {
    requests: UnboundedSender<u64>,
    replies: mpsc::Receiver<u64>,
}

impl IoThread {
    pub fn start() -> IoThread {
        let (requests, to_send) = unbounded_channel();
        let (to_caller, replies) = mpsc::channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .build()
                .expect("a runtime can be built");
            runtime.block_on(serve(to_send, to_caller));
        });
        IoThread { requests, replies }
    }

    pub fn send(&self, number: u64) {
        self.requests.send(number).expect("the thread serves");
    }

    /// The oldest reply that was not received yet.
    pub fn receive(&self) -> u64 {
        self.replies.recv().expect("the child answers")
    }
}

/// Feeds what is waiting, flushes once, and passes on what comes.
async fn serve(mut requests: UnboundedReceiver<u64>, replies: mpsc::Sender<u64>) {
    let exe = std::env::current_exe().expect("the executable has a name");
    let mut child = Command::new(exe)
        .args([CHILD, SQUARE])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("this program can be run again");
    let input: ChildStdin = child.stdin.take().expect("it is a pipe");
    let output: ChildStdout = child.stdout.take().expect("it is a pipe");
    let codec = LengthDelimitedCodec::builder()
        .length_field_length(8)
        .little_endian()
        .new_codec();
    let mut input = FramedWrite::new(input, codec.clone());
    let mut output = FramedRead::new(output, codec);
    loop {
        tokio::select! {
            request = requests.recv() => {
                let Some(request) = request else { break };
                input.feed(encoded(request)).await.expect("the child reads");
                while let Ok(request) = requests.try_recv() {
                    input.feed(encoded(request)).await.expect("the child reads");
                }
                SinkExt::<Bytes>::flush(&mut input).await.expect("the child reads");
            }
            reply = output.next() => {
                let reply: BytesMut = reply.expect("the child answers").expect("it is a frame");
                let reply = bincode::deserialize(&reply).expect("the child speaks bincode");
                if replies.send(reply).is_err() {
                    break;
                }
            }
        }
    }
    drop(input);
    child.wait().await.expect("it is our child");
}

fn encoded(number: u64) -> Bytes {
    bincode::serialize(&number)
        .expect("it is plain data")
        .into()
}
