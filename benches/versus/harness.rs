//! Takes samples of ours and of the peers in turn, and makes figures of them.

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};

use rustix::thread::{CpuSet, sched_setaffinity};
use serde::{Deserialize, Serialize};

/// One thing to do, in our way and in others'.
pub struct Case {
    pub name: &'static str,
    pub unit: Unit,
    /// 1 or 2; 1 sets the affinity.
    pub cores: usize,
    /// Prepares ours, which comes first, and the peers.
    pub contenders: fn() -> Vec<Contender>,
}

/// A way to do it: the name, and what takes one sample, in the case's unit.
pub type Contender = (&'static str, Box<dyn FnMut() -> f64>);

pub fn contender(name: &'static str, sample: impl FnMut() -> f64 + 'static) -> Contender {
    (name, Box::new(sample))
}

#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Unit {
    #[serde(rename = "ns")]
    Nanos,
    #[serde(rename = "us")]
    Micros,
    #[serde(rename = "ms")]
    Millis,
    #[serde(rename = "k/s")]
    KiloPerSecond,
    #[serde(rename = "M/s")]
    MegaPerSecond,
    #[serde(rename = "GiB/s")]
    GibPerSecond,
    /// Of memory. It is measured no more often than need be, since some samples give none back.
    #[serde(rename = "B")]
    Bytes,
}

impl Unit {
    pub fn name(self) -> &'static str {
        match self {
            Unit::Nanos => "ns",
            Unit::Micros => "us",
            Unit::Millis => "ms",
            Unit::KiloPerSecond => "k/s",
            Unit::MegaPerSecond => "M/s",
            Unit::GibPerSecond => "GiB/s",
            Unit::Bytes => "B",
        }
    }

    /// Three digits and the unit.
    pub fn format(self, figure: f64) -> String {
        let decimals = match figure {
            100.0.. => 0,
            10.0.. => 1,
            1.0.. => 2,
            _ => 3,
        };
        format!("{figure:.decimals$} {}", self.name())
    }

    pub fn case(
        self,
        name: &'static str,
        cores: usize,
        contenders: fn() -> Vec<Contender>,
    ) -> Case {
        Case {
            name,
            unit: self,
            cores,
            contenders,
        }
    }

    /// How many times as fast as the second figure the first is, or as small.
    pub fn ratio(self, figure: f64, other: f64) -> f64 {
        match self {
            Unit::Nanos | Unit::Micros | Unit::Millis | Unit::Bytes => other / figure,
            Unit::KiloPerSecond | Unit::MegaPerSecond | Unit::GibPerSecond => figure / other,
        }
    }
}

/// Whether samples are small here.
static QUICK: AtomicBool = AtomicBool::new(false);

/// How much of something a sample has, and how much when it has to be quick.
pub struct Size<T> {
    full: T,
    quick: T,
}

impl<T: Copy> Size<T> {
    pub const fn new(full: T, quick: T) -> Size<T> {
        Size { full, quick }
    }

    pub fn get(&self) -> T {
        match QUICK.load(Relaxed) {
            true => self.quick,
            false => self.full,
        }
    }
}

/// How long to go on taking samples.
#[derive(Clone, Copy)]
pub enum Effort {
    /// So that all cases take less than a minute.
    Quick,
    /// So many seconds a case, or longer where that is needed for a few rounds.
    Full(f64),
}

impl Effort {
    pub const FULL: Effort = Effort::Full(8.0);

    /// So many rounds in any case, further ones up to so many, while this time is not up.
    fn rounds(self) -> (usize, usize, Duration) {
        match self {
            Effort::Quick => (2, 51, Duration::from_millis(60)),
            Effort::Full(seconds) => (7, 501, Duration::from_secs_f64(seconds)),
        }
    }

    /// What takes longer than that, many times more than any case should, does not end.
    pub fn time_limit(self) -> Duration {
        match self {
            Effort::Quick => Duration::from_secs(60),
            Effort::Full(seconds) => Duration::from_secs_f64(120.0 + 10.0 * seconds),
        }
    }

    /// Of what [`Display`](fmt::Display) gives.
    pub fn parse(text: &str) -> Option<Effort> {
        match text {
            "quick" => Some(Effort::Quick),
            seconds => seconds.parse().ok().map(Effort::Full),
        }
    }
}

impl fmt::Display for Effort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Effort::Quick => f.write_str("quick"),
            Effort::Full(seconds) => write!(f, "{seconds}"),
        }
    }
}

/// What became of one contender.
pub struct Row {
    pub name: String,
    pub median: f64,
    /// How many times as fast the slowest sample was: what a collapse now and then shows in.
    pub slowest: f64,
    /// How many times as fast ours is, the first.
    pub ratio: f64,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row {
            name,
            median,
            slowest,
            ratio,
        } = self;
        write!(f, "{name}\t{median}\t{slowest}\t{ratio}")
    }
}

impl Row {
    pub fn parse(line: &str) -> Option<Row> {
        let mut fields = line.split('\t');
        Some(Row {
            name: fields.next()?.into(),
            median: fields.next()?.parse().ok()?,
            slowest: fields.next()?.parse().ok()?,
            ratio: fields.next()?.parse().ok()?,
        })
    }
}

impl Case {
    /// Runs the case; to be called before anything has started a thread.
    pub fn run(&self, effort: Effort) -> Vec<Row> {
        QUICK.store(matches!(effort, Effort::Quick), Relaxed);
        let (least, mut most, time) = effort.rounds();
        if self.unit == Unit::Bytes {
            most = least;
        }
        if self.cores == 1 {
            stay_on(0);
        }
        let mut contenders = (self.contenders)();
        for (_, sample) in &mut contenders {
            sample(); // The first time is always another matter.
        }
        let mut samples = vec![Vec::new(); contenders.len()];
        let start = Instant::now();
        let mut rounds = 0;
        while rounds < least || rounds < most && start.elapsed() < time {
            for ((_, sample), samples) in contenders.iter_mut().zip(&mut samples) {
                samples.push(sample());
            }
            rounds += 1;
        }
        contenders
            .iter()
            .zip(&samples)
            .map(|((name, _), theirs)| {
                let ratios = samples[0].iter().zip(theirs);
                let middle = median(theirs.clone());
                let against_median = theirs.iter().map(|&t| self.unit.ratio(t, middle));
                Row {
                    name: (*name).into(),
                    median: middle,
                    slowest: against_median.fold(1.0, f64::min),
                    ratio: median(ratios.map(|(&o, &t)| self.unit.ratio(o, t)).collect()),
                }
            })
            .collect()
    }
}

/// Keeps the thread, and those that it starts, on this CPU.
pub fn stay_on(cpu: usize) {
    let mut cpus = CpuSet::new();
    cpus.set(cpu);
    sched_setaffinity(None, &cpus).expect("there are as many CPUs");
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        0 => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    }
}

/// Measures what is awaited, where no closure can do it.
pub struct Clock(Instant);

impl Clock {
    pub fn start() -> Clock {
        Clock(Instant::now())
    }

    pub fn seconds(&self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }

    /// Microseconds for each of so many times.
    pub fn micros_each(&self, times: u32) -> f64 {
        self.seconds() * 1e6 / f64::from(times)
    }
}

/// Runs the operation so often and gives microseconds for each time.
pub fn micros(times: u32, mut operation: impl FnMut()) -> f64 {
    let clock = Clock::start();
    for _ in 0..times {
        operation();
    }
    clock.micros_each(times)
}

/// Runs the operation once and gives its seconds.
pub fn seconds<R>(operation: impl FnOnce() -> R) -> f64 {
    let start = Instant::now();
    let result = operation();
    let seconds = start.elapsed().as_secs_f64();
    drop(std::hint::black_box(result));
    seconds
}
