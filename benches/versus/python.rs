//! What Python does, where it is there: `benches/python_peers.py` measures.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use serde::Deserialize;

use crate::{
    harness::{Case, Effort, Row},
    report::Line,
};

#[derive(Deserialize)]
struct Figure {
    case: String,
    peer: String,
    unit: String,
    figure: f64,
    slowest: f64,
}

/// The figures of further peers.
#[derive(Default)]
pub struct Python(Vec<Figure>);

impl Python {
    /// Measures those of the cases whose names contain the filter; nothing where there is no Python.
    pub fn measure(filter: &str, effort: Effort) -> Python {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/python_peers.py");
        let mut command = Command::new("python3");
        command.arg(script).args(["--filter", filter]);
        if let Effort::Quick = effort {
            command.arg("--quick");
        }
        let Ok(output) = command.stderr(Stdio::inherit()).output() else {
            return Python::default();
        };
        serde_json::from_slice(&output.stdout).map_or_else(|_| Python::default(), Python)
    }

    /// The ratios are of the medians, since nothing was measured in turn.
    pub fn lines(&self, case: &Case, ours: &Row) -> Vec<Line> {
        let of_case = |figure: &&Figure| {
            figure.case == case.name && figure.unit == case.unit.name() && figure.figure > 0.0
        };
        let row = |figure: &Figure| Row {
            name: format!("Python {}", figure.peer),
            median: figure.figure,
            slowest: figure.slowest,
            ratio: case.unit.ratio(ours.median, figure.figure),
        };
        let rows = self.0.iter().filter(of_case).map(row);
        rows.map(|row| Line::new(case, ours, &row)).collect()
    }
}
