//! Renders the Mandelbrot set as a PNG, row by row on all workers, each row drawn as soon as it is there.
//!
//! `mandelbrot [--check] [WIDTH HEIGHT ITERATIONS [OUTPUT]]`: 1200, 800 and 1000 by default, to
//! `mandelbrot.png`. `--check` makes a small picture in the directory for temporary files, reads it
//! back, compares it to what a plain loop renders, and removes it. The exit code is 0 if they agree.
//!
//! Try it with `FREETHREADING_BACKEND=multiprocessing`.

use std::{
    env,
    error::Error,
    fs::{self, File},
    io::{BufReader, BufWriter, Write},
    path::{Path, PathBuf},
    process::{self, ExitCode},
    time::Instant,
};

use freethreading::WorkerPool;
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// Red, green, blue.
const CHANNELS: usize = 3;

/// A picture to be made.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Picture {
    width: u32,
    height: u32,
    iterations: u32,
}

/// One row of it, counted from the top. This is what the workers get.
#[derive(Serialize, Deserialize)]
struct Row {
    picture: Picture,
    y: u32,
}

/// The pixels of a row, and which row it is: the rows come in any order. A `ByteBuf` travels as one
/// block, a `Vec<u8>` byte by byte.
type Rendered = (u32, ByteBuf);

fn render(row: Row) -> Rendered {
    let Row { picture, y } = row;
    let pixels = (0..picture.width).flat_map(|x| picture.color(x, y));
    (y, pixels.collect::<Vec<u8>>().into())
}

impl Picture {
    fn rows(self) -> impl Iterator<Item = Row> {
        (0..self.height).map(move |y| Row { picture: self, y })
    }

    fn row_len(self) -> usize {
        self.width as usize * CHANNELS
    }

    fn color(self, x: u32, y: u32) -> [u8; CHANNELS] {
        match self.escape(x, y) {
            None => [0, 0, 0],
            Some(iterations) => {
                // As the wheel turns: three waves, a third of a turn apart.
                let turn = f64::from(iterations).sqrt() * 0.7;
                [0.0, 2.1, 4.2].map(|phase| ((turn + phase).sin() * 127.0 + 128.0) as u8)
            }
        }
    }

    /// After how many iterations the point is outside, if it ever is.
    fn escape(self, x: u32, y: u32) -> Option<u32> {
        // The set lies between -2 and 0.5, and -1.2 and 1.2. One scale for both axes.
        let scale = (3.0 / f64::from(self.width)).max(2.5 / f64::from(self.height));
        let re = (f64::from(x) - f64::from(self.width) / 2.0) * scale - 0.75;
        let im = (f64::from(y) - f64::from(self.height) / 2.0) * scale;
        let (mut a, mut b) = (0.0, 0.0);
        (0..self.iterations).find(|_| {
            (a, b) = (a * a - b * b + re, 2.0 * a * b + im);
            a * a + b * b > 4.0
        })
    }
}

fn write_png(path: &Path, picture: Picture, pixels: &[u8]) -> Result<(), Box<dyn Error>> {
    let mut file = BufWriter::new(File::create(path)?);
    let mut encoder = png::Encoder::new(&mut file, picture.width, picture.height);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    writer.finish()?;
    file.flush()?; // A drop would hide that the disk is full.
    Ok(())
}

fn read_png(path: &Path) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut reader = png::Decoder::new(BufReader::new(File::open(path)?)).read_info()?;
    let len = reader.output_buffer_size().ok_or("a picture too large")?;
    let mut pixels = vec![0; len];
    let info = reader.next_frame(&mut pixels)?;
    pixels.truncate(info.buffer_size());
    Ok(pixels)
}

/// What the program was asked for.
struct Arguments {
    check: bool,
    picture: Picture,
    output: PathBuf,
}

impl Arguments {
    fn parse() -> Option<Arguments> {
        let (checks, others): (Vec<_>, Vec<_>) = env::args_os()
            .skip(1)
            .partition(|argument| argument == "--check");
        let check = !checks.is_empty();
        let (sizes, output) = others.split_at(others.len().min(3));
        let sizes: Option<Vec<u32>> = sizes
            .iter()
            .map(|size| size.to_str()?.parse().ok().filter(|&size| size > 0))
            .collect();
        let (width, height, iterations) = match (&sizes?[..], check) {
            (&[width, height, iterations], _) => (width, height, iterations),
            ([], true) => (120, 80, 200),
            ([], false) => (1200, 800, 1000),
            _ => return None,
        };
        let output = match (output, check) {
            ([path], _) => path.into(),
            ([], true) => env::temp_dir().join(format!("mandelbrot-{}.png", process::id())),
            ([], false) => "mandelbrot.png".into(),
            _ => return None,
        };
        Some(Arguments {
            check,
            picture: Picture {
                width,
                height,
                iterations,
            },
            output,
        })
    }
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    freethreading::init(); // First line of main: a worker process stays here.

    let Some(arguments) = Arguments::parse() else {
        eprintln!("usage: mandelbrot [--check] [WIDTH HEIGHT ITERATIONS [OUTPUT]]");
        return Ok(ExitCode::from(2));
    };
    let Arguments {
        check,
        picture,
        output,
    } = arguments;

    let pool = WorkerPool::builder().build()?;
    let start = Instant::now();
    let mut pixels = vec![0; picture.row_len() * picture.height as usize];
    // Rows in the middle take much longer than those at the edge, so no two workers are at the same
    // place for long. What comes first is drawn first.
    let rows = pool.imap_unordered(render, picture.rows())?;
    let progress = ProgressBar::new(picture.height.into()); // Shows if stderr is a terminal.
    for row in progress.wrap_iter(rows) {
        let (y, row) = row?; // An error if the task failed.
        let begin = y as usize * picture.row_len();
        pixels[begin..][..row.len()].copy_from_slice(&row);
    }
    progress.finish_and_clear();
    eprintln!(
        "{} x {} pixels in {:.2} s ({}, {} workers)",
        picture.width,
        picture.height,
        start.elapsed().as_secs_f64(),
        pool.backend(),
        pool.workers(),
    );
    write_png(&output, picture, &pixels)?;

    if !check {
        println!("{}", output.display());
        return Ok(ExitCode::SUCCESS);
    }
    let written = read_png(&output)?;
    fs::remove_file(&output)?;
    let expected = picture.rows().flat_map(|row| render(row).1);
    if expected.eq(written) {
        eprintln!("a plain loop renders the same");
        Ok(ExitCode::SUCCESS)
    } else {
        eprintln!("a plain loop renders something else");
        Ok(ExitCode::FAILURE)
    }
}
