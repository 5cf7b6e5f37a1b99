//! The crate against its peers, in one run: `cargo bench --bench versus`.
//!
//! ```text
//! cargo bench --bench versus -- [FILTER] [--quick | --seconds N] [--python] [--json FILE]
//!                               [--markdown FILE] [--record FILE | --check FILE]
//! cargo bench --bench versus -- --from FILE --markdown FILE
//! ```
//!
//! FILTER runs only the cases whose name contains it. `--quick` takes few and small samples, and leaves out
//! what takes long; else a case goes on for `--seconds`, of which it has 8 by default. `--python` adds
//! what Python does, as a full run does by itself. `--json` writes the figures to a file, `--from` takes
//! them from one, and `--markdown` puts the table into a document. `--record` keeps the ratios in a
//! file, of several runs; `--check` fails when they have become much worse.
//!
//! Every case runs in a process of its own, which
//! is this program again, so that cases do not disturb each other and each can have its affinity.

mod barriers;
mod board;
mod check;
mod child;
mod contention;
mod harness;
mod io_thread;
mod locks;
mod maps;
mod payloads;
mod pools;
mod posix;
mod processes;
mod python;
mod queues;
mod report;
mod scaling;
mod shared;
mod starts;
mod threads;
mod wakeups;

use std::{
    env,
    io::Read,
    path::Path,
    process::{Command, ExitCode, Stdio},
    sync::mpsc,
    thread,
};

use harness::{Case, Effort, Row};
use python::Python;
use report::Line;

/// Makes this process the peers' child; the mode follows.
const CHILD: &str = "--child";

/// Makes this process run one case; its name follows.
const CASE: &str = "--case";

const NOTE: &str = "
How to read it: the figures are medians of samples that were taken in turn, ours and then each peer's,
round after round. The ratio says how many times as fast as the peer we are (above 1: we are faster);
it is the median of the ratios within a round, so that a machine that speeds up or slows down does not
bend it, and may differ a little from the ratio of the two figures. Slowest is how fast the slowest
sample was against the median, ours and the peer's: near 0 it collapses now and then. A peer that is
called ours is another way of ours; Python's figures are medians too, but were not taken in turn with ours;
one marked (limit) is no rival but about the least that the system
asks for, and near 1 is the best to hope for there. Cases on 1 core have their affinity set to one CPU,
where a wake-up costs the same whenever it happens; with free placement a round trip is mostly
wake-ups, and chance decides how many go to the other core.";

struct Options {
    effort: Effort,
    filter: String,
    python: bool,
    from: Option<String>,
    json: Option<String>,
    markdown: Option<String>,
    record: Option<String>,
    check: Option<String>,
}

fn main() -> ExitCode {
    freethreading::init();
    // SAFETY: no function that procspawn is given comes from a shared library.
    unsafe { procspawn::assert_spawn_is_safe() };
    procspawn::init();
    let args: Vec<String> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [CHILD, mode] => child::serve(mode),
        [CASE, name, effort] => run_case(name, effort),
        _ => {
            if let Err(error) = parse(args).and_then(|options| run_all(&options)) {
                eprintln!("versus: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

fn parse(args: Vec<String>) -> Result<Options, String> {
    let mut options = Options {
        effort: Effort::FULL,
        filter: String::new(),
        python: false,
        from: None,
        json: None,
        markdown: None,
        record: None,
        check: None,
    };
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        match arg.as_str() {
            "--bench" => {} // What cargo says to every benchmark.
            "--quick" => options.effort = Effort::Quick,
            "--seconds" => {
                let seconds = value()?.parse();
                options.effort = Effort::Full(seconds.map_err(|error| format!("{arg}: {error}"))?);
            }
            "--python" => options.python = true,
            "--from" => options.from = Some(value()?),
            "--json" => options.json = Some(value()?),
            "--markdown" => options.markdown = Some(value()?),
            "--record" => options.record = Some(value()?),
            "--check" => options.check = Some(value()?),
            flag if flag.starts_with('-') => return Err(format!("what is {flag}?")),
            _ => options.filter = arg,
        }
    }
    Ok(options)
}

fn cases(effort: Effort) -> Vec<Case> {
    [
        threads::cases(),
        maps::cases(),
        pools::cases(),
        processes::cases(),
        starts::cases(),
        payloads::cases(),
        locks::cases(),
        wakeups::cases(),
        barriers::cases(),
        queues::cases(),
        shared::cases(),
        scaling::cases(effort),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Runs one case in this process, and leaves its rows to the one that started it.
fn run_case(name: &str, effort: &str) {
    let effort = Effort::parse(effort).expect("the program says what it can read");
    let case = cases(effort)
        .into_iter()
        .find(|case| case.name == name)
        .expect("the program asks itself for cases that it has");
    for row in case.run(effort) {
        println!("{row}");
    }
}

fn run_all(options: &Options) -> Result<(), String> {
    let mut failed = Vec::new();
    let lines = match &options.from {
        Some(file) => report::read_json(file)?,
        None => run(options, &options.filter, &mut failed),
    };
    if let Some(file) = &options.json {
        report::write_json(file, &lines)?;
    }
    if let Some(file) = &options.markdown {
        report::write_markdown(file, &lines)?;
    }
    if !failed.is_empty() {
        return Err(format!("failed: {}", failed.join("; ")));
    }
    if let Some(file) = &options.record {
        return record(options, file, lines);
    }
    match &options.check {
        Some(file) => check(options, file, lines),
        None => Ok(()),
    }
}

/// Runs the cases and prints the table; those that fail are left out.
fn run(options: &Options, filter: &str, failed: &mut Vec<String>) -> Vec<Line> {
    let python = match options.effort {
        Effort::Quick if !options.python => Python::default(),
        effort => Python::measure(filter, effort),
    };
    let mut lines = Vec::new();
    report::print_head();
    for case in cases(options.effort) {
        if !case.name.contains(filter) {
            continue;
        }
        let Some(rows) = run_elsewhere(&case, options.effort) else {
            failed.push(case.name.into());
            continue;
        };
        let (ours, peers) = rows.split_first().expect("every case has ours");
        let peers = peers.iter().map(|peer| Line::new(&case, ours, peer));
        for line in peers.chain(python.lines(&case, ours)) {
            line.print();
            lines.push(line);
        }
    }
    println!("{NOTE}");
    lines
}

fn record(options: &Options, file: &str, lines: Vec<Line>) -> Result<(), String> {
    let mut failed = Vec::new();
    let mut runs = vec![lines];
    while runs.len() < check::RUNS {
        runs.push(run(options, &options.filter, &mut failed));
    }
    if !failed.is_empty() {
        return Err(format!("failed: {}", failed.join("; ")));
    }
    let old = match Path::new(file).exists() && !options.filter.is_empty() {
        true => report::read_json(file)?,
        false => Vec::new(),
    };
    report::write_json(file, &check::record(old, &runs))
}

fn check(options: &Options, file: &str, lines: Vec<Line>) -> Result<(), String> {
    let records: Vec<check::Record> = report::read_json(file)?;
    if options.filter.is_empty() {
        for stranger in check::strangers(&records, &lines) {
            eprintln!("versus: {stranger}; --record writes {file} anew");
        }
    }
    let mut failures = check::failures(&records, &lines);
    for _ in 0..check::RETAKES {
        let mut taken = Vec::new();
        for case in cases(options.effort) {
            if failures.iter().any(|failure| failure.is_of(&case)) {
                eprintln!("versus: '{}' once more", case.name);
                let rows = run_elsewhere(&case, options.effort).ok_or("it failed")?;
                let (ours, peers) = rows.split_first().expect("every case has ours");
                taken.extend(peers.iter().map(|peer| Line::new(&case, ours, peer)));
            }
        }
        let still = check::failures(&records, &taken);
        // A row that has passed once is fine.
        failures = still
            .into_iter()
            .filter(|failure| failures.contains(failure))
            .collect();
    }
    match failures.is_empty() {
        true => Ok(()),
        false => {
            let failures: Vec<_> = failures.iter().map(ToString::to_string).collect();
            let failures = failures.join("\n");
            Err(format!("ratios have become worse:\n{failures}"))
        }
    }
}

/// Runs the case in a process of its own, and anew if that does not end: a peer may lose a wake-up, and wait for ever.
fn run_elsewhere(case: &Case, effort: Effort) -> Option<Vec<Row>> {
    const ATTEMPTS: usize = 3;

    for _ in 0..ATTEMPTS {
        let mut process = Command::new(env::current_exe().ok()?)
            .args([CASE, case.name, &effort.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let mut stdout = process.stdout.take()?;
        let (sender, rows) = mpsc::channel();
        thread::spawn(move || {
            let mut rows = String::new();
            let _ = stdout.read_to_string(&mut rows);
            let _ = sender.send(rows);
        });
        if let Ok(rows) = rows.recv_timeout(effort.time_limit()) {
            let status = process.wait().ok()?;
            return status
                .success()
                .then(|| rows.lines().map(Row::parse).collect())?;
        }
        eprintln!("versus: '{}' does not end", case.name);
        process.kill().ok()?;
        process.wait().ok()?;
    }
    None
}
