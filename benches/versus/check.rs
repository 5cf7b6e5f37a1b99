//! Compares the ratios of a run with those of an earlier one, which are kept in a file.
//!
//! Ratios, not times: the machine may be another. Half the recorded ratio is let pass, and less than that
//! where a row is known to vary more: by as much as it did while it was recorded, or for a reason that
//! is [written down](UNSTEADY). A row that fails is measured anew before it counts.

use std::{collections::HashMap, fmt, ptr};

use serde::{Deserialize, Serialize};

use crate::{harness::Case, report::Line};

/// How often all is measured for a record.
pub const RUNS: usize = 3;

/// How often a row that fails is measured anew.
pub const RETAKES: usize = 4;

/// How many times worse than recorded a ratio may be.
const TOLERANCE: f64 = 2.0;

/// Rows whose ratio has more than one state, of which chance decides: what the case and the peer begin
/// with, how many times worse the ratio may be, and why.
const UNSTEADY: &[(&str, &str, f64, &str)] = &[
    (
        "Lock, ",
        "async-lock",
        500.0,
        "its hand-over to starved waiters sets in or does not",
    ),
    (
        "Lock, ",
        "tokio blocking_lock",
        500.0,
        "a context switch for each turn, or none while one thread is alone",
    ),
    (
        "Semaphore of",
        "async-lock",
        20.0,
        "its hand-over to starved waiters sets in or does not",
    ),
    (
        "Semaphore of",
        "tokio",
        50.0,
        "a context switch for each turn, or none while one thread is alone",
    ),
    (
        "Queue",
        "kanal",
        4.0,
        "it spins, for which chance and load decide if the other runs",
    ),
    (
        "Queue",
        "crossbeam-channel",
        4.0,
        "it spins, for which chance and load decide if the other runs",
    ),
    (
        "Queue",
        "async-channel",
        5.0,
        "how often its ends sleep is left to chance",
    ),
    (
        "Queue",
        "flume",
        5.0,
        "how often its ends sleep is left to chance",
    ),
    (
        "Queue to a process, 64-byte items",
        "ring of 1024",
        20.0,
        "it spins, which needs a core for each side",
    ),
    (
        "Queue(1024) to a process, 64-byte items",
        "ring of 1024",
        20.0,
        "it spins, which needs a core for each side",
    ),
    (
        "thread round trip, blocking, free placement",
        "",
        8.0,
        "which core a thread wakes on decides: 20 us or 1",
    ),
    (
        "process round trip, blocking, free placement",
        "",
        8.0,
        "which core a process wakes on decides: 20 us or 1",
    ),
    (
        "Event, 2 threads, free placement",
        "",
        20.0,
        "which core a thread wakes on decides: 20 us or 1",
    ),
    (
        "Event, 2 processes, free placement",
        "",
        20.0,
        "which core a process wakes on decides: 20 us or 1",
    ),
    (
        "Event, 2 tasks, 2 workers",
        "",
        8.0,
        "both tasks may come to be on one worker",
    ),
    (
        "Barrier, 2 tasks",
        "",
        4.0,
        "both tasks may come to be on one worker",
    ),
    (
        "Barrier, 4 tasks",
        "",
        4.0,
        "all tasks may come to be on one worker",
    ),
    (
        "pool imap, to the first result",
        "",
        4.0,
        "which core a worker wakes on decides",
    ),
];

/// What the file keeps of a row.
#[derive(Clone, Serialize, Deserialize)]
pub struct Record {
    case: String,
    peer: String,
    ratio: f64,
    /// How many times worse it may become.
    tolerance: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

impl Record {
    fn is_of(&self, line: &Line) -> bool {
        self.case == line.case && self.peer == line.peer
    }

    /// Of the ratios of several runs.
    fn new(line: &Line, mut ratios: Vec<f64>) -> Record {
        ratios.sort_by(f64::total_cmp);
        let middle = ratios[ratios.len() / 2];
        let reason = UNSTEADY
            .iter()
            .find(|(case, peer, ..)| line.case.starts_with(case) && line.peer.starts_with(peer));
        let spread = TOLERANCE * middle / ratios[0];
        let wide = reason.map_or(TOLERANCE, |&(_, _, tolerance, _)| tolerance);
        Record {
            case: line.case.clone(),
            peer: line.peer.clone(),
            ratio: digits(middle, 3),
            tolerance: digits(spread.max(wide), 2),
            why: reason.map(|&(.., why)| why.into()),
        }
    }
}

/// So many digits, as the file needs no more.
fn digits(figure: f64, digits: i32) -> f64 {
    let unit = 10f64.powi(figure.abs().log10().floor() as i32 + 1 - digits);
    let figure = (figure / unit).round() * unit;
    format!("{figure:.6}").parse().expect("it is a number")
}

/// The records of these runs; what was not run stays as it was.
pub fn record(old: Vec<Record>, runs: &[Vec<Line>]) -> Vec<Record> {
    let mut ratios: HashMap<_, Vec<f64>> = HashMap::new();
    for line in runs.iter().flatten() {
        let of_line = ratios.entry((&line.case, &line.peer)).or_default();
        of_line.push(line.ratio);
    }
    let lines = || runs.first().into_iter().flatten();
    let new = lines().map(|line| Record::new(line, ratios[&(&line.case, &line.peer)].clone()));
    let was_run = |record: &Record| lines().any(|line| line.case == record.case);
    let kept = old.into_iter().filter(|record| !was_run(record));
    kept.chain(new).collect()
}

/// A ratio that is worse than it may be. The same as another of the same row.
pub struct Failure<'a> {
    record: &'a Record,
    ratio: f64,
}

impl PartialEq for Failure<'_> {
    fn eq(&self, other: &Self) -> bool {
        ptr::eq(self.record, other.record)
    }
}

impl Failure<'_> {
    pub fn is_of(&self, case: &Case) -> bool {
        self.record.case == case.name
    }
}

impl fmt::Display for Failure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { record, ratio } = self;
        write!(
            f,
            "'{}' against '{}': {ratio:.3}, which was {} and must not be below {:.3}",
            record.case,
            record.peer,
            record.ratio,
            record.ratio / record.tolerance
        )
    }
}

/// What is wrong with the ratios.
pub fn failures<'a>(records: &'a [Record], lines: &[Line]) -> Vec<Failure<'a>> {
    let failure = |record: &'a Record| {
        let ratio = lines.iter().find(|line| record.is_of(line))?.ratio;
        (ratio * record.tolerance < record.ratio).then_some(Failure { record, ratio })
    };
    records.iter().filter_map(failure).collect()
}

/// The recorded rows that are not there any more, and those that have come.
pub fn strangers(records: &[Record], lines: &[Line]) -> Vec<String> {
    let gone = records
        .iter()
        .filter(|record| !lines.iter().any(|line| record.is_of(line)))
        .map(|Record { case, peer, .. }| {
            format!("'{case}' against '{peer}' is recorded, but gone")
        });
    let new = lines
        .iter()
        .filter(|line| !records.iter().any(|record| record.is_of(line)))
        .map(|Line { case, peer, .. }| format!("'{case}' against '{peer}' is not recorded"));
    gone.chain(new).collect()
}
