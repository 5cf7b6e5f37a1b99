//! The crate against its peers, in one run: `cargo bench --bench versus`.
//!
//! ```text
//! cargo bench --bench versus -- [FILTER] [--quick] [--json FILE]
//! ```
//!
//! FILTER runs only the cases whose name contains it. Every case runs in a process of its own, which
//! is this program again, so that cases do not disturb each other and each can have its affinity.

mod barriers;
mod board;
mod child;
mod contention;
mod harness;
mod locks;
mod maps;
mod payloads;
mod pools;
mod posix;
mod processes;
mod queues;
mod shared;
mod starts;
mod threads;
mod wakeups;

use std::{
    env,
    fmt::Write as _,
    fs,
    process::{Command, ExitCode, Stdio},
};

use harness::{Case, Effort, Row};

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
called ours is another way of ours; one marked (limit) is no rival but about the least that the system
asks for, and near 1 is the best to hope for there. Cases on 1 core have their affinity set to one CPU,
where a wake-up costs the same whenever it happens; with free placement a round trip is mostly
wake-ups, and chance decides how many go to the other core.";

struct Options {
    effort: Effort,
    filter: String,
    json: Option<String>,
}

fn main() -> ExitCode {
    freethreading::init();
    // SAFETY: no function that procspawn is given comes from a shared library.
    unsafe { procspawn::assert_spawn_is_safe() };
    procspawn::init();
    let args: Vec<String> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [CHILD, mode] => child::serve(mode),
        [CASE, name, effort] => run_case(name, Effort::of(effort == "quick")),
        _ => match parse(args) {
            Ok(options) => return run_all(&options),
            Err(error) => {
                eprintln!("versus: {error}");
                return ExitCode::FAILURE;
            }
        },
    }
    ExitCode::SUCCESS
}

fn parse(args: Vec<String>) -> Result<Options, String> {
    let mut options = Options {
        effort: Effort::of(false),
        filter: String::new(),
        json: None,
    };
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--bench" => {} // What cargo says to every benchmark.
            "--quick" => options.effort = Effort::of(true),
            "--json" => options.json = Some(args.next().ok_or("--json needs a file")?),
            flag if flag.starts_with('-') => return Err(format!("what is {flag}?")),
            _ => options.filter = arg,
        }
    }
    Ok(options)
}

fn cases() -> Vec<Case> {
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
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Runs one case in this process, and leaves its rows to the one that started it.
fn run_case(name: &str, effort: Effort) {
    let case = cases()
        .into_iter()
        .find(|case| case.name == name)
        .expect("the program asks itself for cases that it has");
    for row in case.run(effort) {
        println!("{row}");
    }
}

fn run_all(options: &Options) -> ExitCode {
    let mut json = Vec::new();
    let mut failed = false;
    print_row(["case", "ours", "peer", "peer's figure", "ratio", "slowest"]);
    print_row(["---"; 6]);
    for case in cases() {
        if !case.name.contains(&options.filter) {
            continue;
        }
        let Some(rows) = run_elsewhere(&case, options.effort) else {
            eprintln!("versus: '{}' failed", case.name);
            failed = true;
            continue;
        };
        let (ours, peers) = rows.split_first().expect("every case has ours");
        let (figure, title) = (case.unit.format(ours.median), case.title());
        for peer in peers {
            print_row([
                &title,
                &figure,
                &peer.name,
                &case.unit.format(peer.median),
                &format!("{:.2}", peer.ratio),
                &format!("{:.2} {:.2}", ours.slowest, peer.slowest),
            ]);
            json.push(json_object(&case, ours, peer));
        }
    }
    println!("{NOTE}");
    if let Some(file) = &options.json {
        let text = format!("[\n{}\n]\n", json.join(",\n"));
        if let Err(error) = fs::write(file, text) {
            eprintln!("versus: {file}: {error}");
            failed = true;
        }
    }
    match failed {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    }
}

/// Runs the case in a process of its own.
fn run_elsewhere(case: &Case, effort: Effort) -> Option<Vec<Row>> {
    let output = Command::new(env::current_exe().ok()?)
        .args([CASE, case.name, effort.name()])
        .stderr(Stdio::inherit())
        .output()
        .ok()?;
    if !output.status.success() {
        return None;
    }
    String::from_utf8(output.stdout)
        .ok()?
        .lines()
        .map(Row::parse)
        .collect()
}

fn print_row(cells: [&str; 6]) {
    const WIDTHS: [usize; 6] = [55, 11, 50, 13, 6, 9];
    let mut line = String::from("|");
    for (cell, width) in cells.into_iter().zip(WIDTHS) {
        write!(line, " {cell:width$} |").expect("strings can be written to");
    }
    println!("{line}");
}

fn json_object(case: &Case, ours: &Row, peer: &Row) -> String {
    // No name holds anything that JSON writes in another way than Rust.
    format!(
        "{{\"case\": {:?}, \"cores\": {}, \"unit\": {:?}, \"ours\": {}, \"peer\": {:?}, \"figure\": {}, \"ratio\": {}, \"slowest\": {}, \"peer_slowest\": {}}}",
        case.name,
        case.cores,
        case.unit.name(),
        ours.median,
        peer.name,
        peer.median,
        peer.ratio,
        ours.slowest,
        peer.slowest
    )
}
