//! The peers' child process: this program, with a plain blocking loop on its standard streams.

use std::{
    env,
    fs::File,
    io::{self, BufReader, BufWriter, Read, Write},
    os::fd::AsFd,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{CHILD, board::Other, maps::square};

/// Bytes that serde carries as one block.
#[derive(Serialize, Deserialize)]
pub struct Blob(#[serde(with = "serde_bytes")] pub Vec<u8>);

/// What goes to and fro where the contents do not matter.
pub const PING: [u8; 16] = [7; 16];

/// Gives back what it gets, whatever it is.
pub const PONG: &str = "pong";
/// Squares vectors of numbers, with bincode.
pub const SQUARES: &str = "squares";
/// Squares numbers, one at a time; what it says goes out when there is nothing more to read.
pub const SQUARE: &str = "square";
/// Gives back a [`Blob`], decoded and encoded with bincode.
pub const ECHO_BLOB: &str = "echo-blob";
/// The same with a plain `Vec<u8>`.
pub const ECHO_VEC: &str = "echo-vec";
/// Gives back bytes that nothing decodes.
pub const ECHO_RAW: &str = "echo-raw";
/// Does what it is ordered to with the [board](Other) whose path follows.
pub const BOARD: &str = "board:";

/// What the child does until its input ends.
pub fn serve(mode: &str) {
    let own = |fd: io::Result<_>| File::from(fd.expect("standard streams are open"));
    let mut input = BufReader::new(own(io::stdin().as_fd().try_clone_to_owned()));
    let mut output = own(io::stdout().as_fd().try_clone_to_owned());
    match mode {
        PONG => pong(input.get_mut(), &mut output),
        SQUARES => answer(&mut input, &mut output, |numbers: Vec<u64>| {
            numbers.into_iter().map(square).collect::<Vec<u64>>()
        }),
        SQUARE => {
            let mut output = BufWriter::new(output);
            while let Some(bytes) = read_raw(&mut input) {
                let number: u64 = bincode::deserialize(&bytes).expect("the parent speaks bincode");
                write_frame(&mut output, square(number));
                if input.buffer().is_empty() {
                    output.flush().expect("there is a reader");
                }
            }
        }
        ECHO_BLOB => answer(&mut input, &mut output, |blob: Blob| blob),
        ECHO_VEC => answer(&mut input, &mut output, |bytes: Vec<u8>| bytes),
        ECHO_RAW => {
            while let Some(bytes) = read_raw(&mut input) {
                write_raw(&mut output, &bytes);
            }
        }
        _ => {
            let board = mode.strip_prefix(BOARD).expect("it is the last mode");
            let mut other = Other::new(board);
            answer(&mut input, &mut output, |order| other.obey(order));
        }
    }
}

fn pong(input: &mut File, output: &mut File) {
    let mut buffer = [0; 64];
    loop {
        match input.read(&mut buffer).expect("the pipe can be read") {
            0 => return,
            len => output.write_all(&buffer[..len]).expect("there is a reader"),
        }
    }
}

fn answer<A, R>(input: &mut impl Read, output: &mut impl Write, mut function: impl FnMut(A) -> R)
where
    A: DeserializeOwned,
    R: Serialize,
{
    while let Some(bytes) = read_raw(input) {
        let argument = bincode::deserialize(&bytes).expect("the parent speaks bincode");
        drop(bytes);
        write_frame(output, function(argument));
    }
}

/// The parent's end.
pub struct Peer {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Peer {
    pub fn start(mode: &str) -> Peer {
        let exe = env::current_exe().expect("the executable has a name");
        let mut child = Command::new(exe)
            .args([CHILD, mode])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program can be run again");
        Peer {
            input: child.stdin.take(),
            output: BufReader::new(child.stdout.take().expect("it is a pipe")),
            child,
        }
    }

    /// With pipes of 1 MiB.
    pub fn start_wide(mode: &str) -> Peer {
        let peer = Peer::start(mode);
        let input = peer.input.as_ref().expect("it is open");
        for pipe in [input.as_fd(), peer.output.get_ref().as_fd()] {
            rustix::pipe::fcntl_setpipe_size(pipe, 1 << 20).expect("pipes may be that large");
        }
        peer
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends them all; none has to wait for another's end.
    pub fn end(mut peers: Vec<Peer>) {
        peers.iter_mut().for_each(|peer| peer.input = None);
    }

    /// There and back with [`PING`].
    pub fn ping(&mut self) {
        let mut reply = PING;
        self.input().write_all(&PING).expect("the child reads");
        self.output
            .get_mut()
            .read_exact(&mut reply)
            .expect("the child answers");
        std::hint::black_box(reply);
    }

    /// Sends a value and receives another, with bincode.
    pub fn call<A: Serialize, R: DeserializeOwned>(&mut self, argument: A) -> R {
        self.send(argument);
        self.receive()
    }

    pub fn send<A: Serialize>(&mut self, argument: A) {
        write_frame(self.input(), argument);
    }

    pub fn receive<R: DeserializeOwned>(&mut self) -> R {
        let bytes = read_raw(&mut self.output).expect("the child answers");
        bincode::deserialize(&bytes).expect("the child speaks bincode")
    }

    /// Sends bytes and receives others.
    pub fn call_raw(&mut self, bytes: Vec<u8>) -> Vec<u8> {
        write_raw(self.input(), &bytes);
        drop(bytes);
        read_raw(&mut self.output).expect("the child answers")
    }

    fn input(&mut self) -> &mut ChildStdin {
        self.input.as_mut().expect("it is open until the end")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.input = None; // The child ends with its input.
        self.child.wait().expect("it is our child");
    }
}

fn write_frame(output: &mut impl Write, value: impl Serialize) {
    let len = bincode::serialized_size(&value).expect("plain data has a size");
    let mut frame = Vec::with_capacity(8 + len as usize);
    frame.extend_from_slice(&len.to_le_bytes());
    bincode::serialize_into(&mut frame, &value).expect("plain data can be encoded");
    drop(value);
    output.write_all(&frame).expect("the other side reads");
}

fn write_raw(output: &mut impl Write, bytes: &[u8]) {
    let len = bytes.len() as u64;
    output
        .write_all(&len.to_le_bytes())
        .and_then(|()| output.write_all(bytes))
        .expect("the other side reads");
}

/// What follows a length; `None` at the end.
fn read_raw(input: &mut impl Read) -> Option<Vec<u8>> {
    let mut len = [0; 8];
    match input.read_exact(&mut len) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return None,
        result => result.expect("the pipe can be read"),
    }
    let mut bytes = vec![0; u64::from_le_bytes(len) as usize];
    input
        .read_exact(&mut bytes)
        .expect("a frame comes as a whole");
    Some(bytes)
}
