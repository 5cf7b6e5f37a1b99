//! Counts the words in all text files of some folders, and prints the most frequent ones.
//!
//! `wordcount [--check] [PATH…]`: without a path it reads this repository; `--check` counts once more
//! without workers, and compares. The exit code is 0 if all files could be read, and the counts agree.
//!
//! Try it with `FREETHREADING_BACKEND=multiprocessing`.

use std::{collections::HashMap, env, ffi::OsString, fs, process::ExitCode, time::Instant};

use freethreading::WorkerPoolExecutor;
use ignore::WalkBuilder;
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};

/// What was counted, in one file or in many.
#[derive(Default, PartialEq, Serialize, Deserialize)]
struct Counts {
    files: u64,
    bytes: u64,
    words: HashMap<String, u64>,
}

impl Counts {
    fn add(&mut self, other: Counts) {
        self.files += other.files;
        self.bytes += other.bytes;
        for (word, count) in other.words {
            *self.words.entry(word).or_default() += count;
        }
    }

    /// The most frequent words, those of one frequency in alphabetical order.
    fn top(&self, len: usize) -> Vec<(&str, u64)> {
        let mut words: Vec<_> = self.words.iter().map(|(w, &n)| (w.as_str(), n)).collect();
        words.sort_unstable_by(|(a, m), (b, n)| n.cmp(m).then(a.cmp(b)));
        words.truncate(len);
        words
    }
}

/// The words of one file; none if it is not text. This is what the workers do.
///
/// An `io::Error` cannot travel back from a worker, its text can.
fn count(path: OsString) -> Result<Counts, String> {
    let bytes = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let Some(text) = str::from_utf8(&bytes).ok().filter(|t| !t.contains('\0')) else {
        return Ok(Counts::default());
    };
    let text = text.to_lowercase();
    let mut words: HashMap<&str, u64> = HashMap::new();
    for word in text.split(|c: char| !c.is_alphanumeric()) {
        if !word.is_empty() {
            *words.entry(word).or_default() += 1;
        }
    }
    Ok(Counts {
        files: 1,
        bytes: bytes.len() as u64,
        words: words.into_iter().map(|(w, n)| (w.into(), n)).collect(),
    })
}

fn main() -> Result<ExitCode, freethreading::Error> {
    freethreading::init(); // First line of main: a worker process stays here.

    let (checks, mut roots): (Vec<_>, Vec<_>) = env::args_os()
        .skip(1)
        .partition(|argument| argument == "--check");
    if roots.is_empty() {
        roots.push(env!("CARGO_MANIFEST_DIR").into());
    }

    let executor = WorkerPoolExecutor::builder().build()?;
    let start = Instant::now();
    let mut failed = false;

    // All files that no `.gitignore` excludes, and that are not hidden. As `OsString`s: those travel
    // whatever bytes they are made of, a `PathBuf` only if it is valid UTF-8.
    let mut paths: Vec<OsString> = Vec::new();
    for root in roots {
        for entry in WalkBuilder::new(root).require_git(false).build() {
            match entry {
                Ok(entry) if entry.file_type().is_some_and(|kind| kind.is_file()) => {
                    paths.push(entry.into_path().into());
                }
                Ok(_) => {}
                Err(error) => {
                    eprintln!("skipped: {error}");
                    failed = true;
                }
            }
        }
    }

    // Many files at a time, since most of them are small, but enough chunks to keep all workers busy
    // to the end.
    let chunksize = (paths.len() / (8 * executor.max_workers())).clamp(1, 64);
    let counted = executor.chunksize(chunksize).map(count, paths.clone());

    let progress = ProgressBar::new(paths.len() as u64); // Shows if stderr is a terminal.
    let mut total = Counts::default();
    for counts in progress.wrap_iter(counted) {
        // A task may fail, for which there is `?`; this one may also return an error of its own.
        match counts? {
            Ok(counts) => total.add(counts),
            Err(why) => {
                progress.suspend(|| eprintln!("skipped: {why}"));
                failed = true;
            }
        }
    }
    progress.finish_and_clear();
    let seconds = start.elapsed().as_secs_f64();

    for (word, count) in total.top(20) {
        println!("{count:8} {word}");
    }
    eprintln!(
        "{} files, {} bytes, {:.0} files/s, {:.1} MB/s ({})",
        total.files,
        total.bytes,
        total.files as f64 / seconds,
        total.bytes as f64 / 1e6 / seconds,
        executor.backend(),
    );

    if !checks.is_empty() {
        let mut expected = Counts::default();
        paths
            .into_iter()
            .flat_map(count)
            .for_each(|counts| expected.add(counts));
        if total == expected {
            eprintln!("a plain loop counts the same");
        } else {
            eprintln!("a plain loop counts something else");
            failed = true;
        }
    }
    Ok(match failed {
        false => ExitCode::SUCCESS,
        true => ExitCode::FAILURE,
    })
}
