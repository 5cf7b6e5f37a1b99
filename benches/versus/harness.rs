//! Takes samples of ours and of the peers in turn, and makes figures of them.

use std::{
    fmt,
    time::{Duration, Instant},
};

use rustix::thread::{CpuSet, sched_setaffinity};

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

#[derive(Clone, Copy, PartialEq)]
pub enum Unit {
    Nanos,
    Micros,
    Millis,
    KiloPerSecond,
    MegaPerSecond,
    GibPerSecond,
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

    /// How many times as fast as the second figure the first is.
    fn ratio(self, figure: f64, other: f64) -> f64 {
        match self {
            Unit::Nanos | Unit::Micros | Unit::Millis => other / figure,
            Unit::KiloPerSecond | Unit::MegaPerSecond | Unit::GibPerSecond => figure / other,
        }
    }
}

/// How long to go on taking samples.
#[derive(Clone, Copy)]
pub struct Effort {
    quick: bool,
    /// So many rounds in any case,
    least: usize,
    /// and further ones, up to so many, while this time is not up.
    most: usize,
    time: Duration,
}

impl Effort {
    pub fn of(quick: bool) -> Effort {
        let (least, most, millis) = if quick { (2, 51, 400) } else { (7, 501, 8000) };
        Effort {
            quick,
            least,
            most,
            time: Duration::from_millis(millis),
        }
    }

    pub fn name(&self) -> &'static str {
        if self.quick { "quick" } else { "full" }
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
    pub fn title(&self) -> String {
        let cores = if self.cores == 1 { "core" } else { "cores" };
        format!("{}, {} {cores}", self.name, self.cores)
    }

    /// Runs the case; to be called before anything has started a thread.
    pub fn run(&self, effort: Effort) -> Vec<Row> {
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
        while rounds < effort.least || rounds < effort.most && start.elapsed() < effort.time {
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
