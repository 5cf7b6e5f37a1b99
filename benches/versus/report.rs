//! The figures as a table, as JSON, and in a document.

use std::{fmt::Write as _, fs};

use serde::{Deserialize, Serialize};

use crate::harness::{Case, Row, Unit};

/// Ours beside one peer.
#[derive(Clone, Serialize, Deserialize)]
pub struct Line {
    pub case: String,
    pub cores: usize,
    pub unit: Unit,
    pub ours: f64,
    pub peer: String,
    pub figure: f64,
    pub ratio: f64,
    pub slowest: f64,
    pub peer_slowest: f64,
}

/// What a document has around the table.
const BEGIN: &str = "<!-- table -->";
const END: &str = "<!-- end -->";

impl Line {
    pub fn new(case: &Case, ours: &Row, peer: &Row) -> Line {
        Line {
            case: case.name.into(),
            cores: case.cores,
            unit: case.unit,
            ours: ours.median,
            peer: peer.name.clone(),
            figure: peer.median,
            ratio: peer.ratio,
            slowest: ours.slowest,
            peer_slowest: peer.slowest,
        }
    }

    fn cells(&self) -> [String; 6] {
        let cores = if self.cores == 1 { "core" } else { "cores" };
        [
            format!("{}, {} {cores}", self.case, self.cores),
            self.unit.format(self.ours),
            self.peer.clone(),
            self.unit.format(self.figure),
            format!("{:.2}", self.ratio),
            format!("{:.2} {:.2}", self.slowest, self.peer_slowest),
        ]
    }

    pub fn print(&self) {
        println!("{}", row(self.cells(), WIDTHS));
    }
}

const WIDTHS: [usize; 6] = [55, 11, 50, 13, 6, 9];

pub fn print_head() {
    for cells in HEAD {
        println!("{}", row(cells.map(String::from), WIDTHS));
    }
}

const HEAD: [[&str; 6]; 2] = [
    ["case", "ours", "peer", "peer's figure", "ratio", "slowest"],
    ["---"; 6],
];

fn row(cells: [String; 6], widths: [usize; 6]) -> String {
    let mut line = String::from("|");
    for (cell, width) in cells.into_iter().zip(widths) {
        write!(line, " {cell:width$} |").expect("strings can be written to");
    }
    line
}

/// One line of the file for each.
pub fn write_json<T: Serialize>(file: &str, items: &[T]) -> Result<(), String> {
    let lines: Result<Vec<_>, _> = items.iter().map(serde_json::to_string).collect();
    let lines = lines.map_err(|error| format!("{file}: {error}"))?;
    let text = format!("[\n{}\n]\n", lines.join(",\n"));
    fs::write(file, text).map_err(|error| format!("{file}: {error}"))
}

pub fn read_json<T: for<'de> Deserialize<'de>>(file: &str) -> Result<Vec<T>, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    serde_json::from_str(&text).map_err(|error| format!("{file}: {error}"))
}

/// Puts the table in the place of the one that the document has.
pub fn write_markdown(file: &str, lines: &[Line]) -> Result<(), String> {
    let text = fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    let parts = text.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some((before, after))
    });
    let (before, after) = parts.ok_or(format!("{file}: no place between {BEGIN} and {END}"))?;
    let head = HEAD.map(|cells| cells.map(String::from));
    let rows = head.into_iter().chain(lines.iter().map(Line::cells));
    let table: Vec<_> = rows.map(|cells| row(cells, [0; 6])).collect();
    let text = format!("{before}{BEGIN}\n{}\n{END}{after}", table.join("\n"));
    fs::write(file, text).map_err(|error| format!("{file}: {error}"))
}
