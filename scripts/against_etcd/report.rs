//! The table at the end, as Markdown, which docs/performance.md takes over.

use std::fmt::Write as _;

use crate::figures::{Figure, median};

/// What the rounds of a row have shown.
pub(crate) struct Measured {
    pub(crate) row: String,
    /// For each contender the figures of each round.
    rounds: Vec<Vec<Vec<Figure>>>,
}

impl Measured {
    pub(crate) fn new(row: String, contenders: usize) -> Measured {
        Measured { row, rounds: vec![Vec::new(); contenders] }
    }

    pub(crate) fn add(&mut self, contender: usize, figures: Vec<Figure>) {
        self.rounds[contender].push(figures);
    }

    /// The names of all figures, in order.
    fn names(&self) -> Vec<&'static str> {
        let rounds = self.rounds.iter().flatten();
        rounds
            .map(|figures| figures.iter().map(|figure| figure.name).collect())
            .max_by_key(Vec::len)
            .unwrap_or_default()
    }

    /// The median of a figure over the rounds; `None` where it was not measured.
    pub(crate) fn median(&self, contender: usize, name: &str) -> Option<f64> {
        let figures = self.rounds[contender].iter().flatten();
        let values: Vec<f64> =
            figures.filter(|figure| figure.name == name).map(|figure| figure.value).collect();
        (!values.is_empty()).then(|| median(values))
    }
}

/// One line for each figure: the medians of all, and those of the second contender as a multiple of those of the first.
pub(crate) fn table(contenders: &[&str], measured: &[Measured]) -> String {
    let mut out = String::new();
    let [first, second, others @ ..] = contenders else { return out };
    let mut line =
        |cells: Vec<String>| writeln!(out, "| {} |", cells.join(" | ")).expect("a String takes everything");
    let titles = ["row", "", first, second, "ratio"];
    line(titles.into_iter().chain(others.iter().copied()).map(str::to_owned).collect());
    line(vec!["---".to_owned(); titles.len() + others.len()]);
    for measured in measured {
        let mut row = measured.row.as_str();
        for name in measured.names() {
            let of = |contender| measured.median(contender, name);
            let ratio = of(0).zip(of(1)).map(|(first, second)| format!("{:.2}", second / first));
            let mut cells = vec![row.to_owned(), name.to_owned(), shown(of(0)), shown(of(1))];
            cells.push(ratio.unwrap_or_default());
            cells.extend((2..contenders.len()).map(|contender| shown(of(contender))));
            line(cells);
            row = "";
        }
    }
    out
}

/// Three digits that matter.
fn shown(value: Option<f64>) -> String {
    match value {
        None => String::new(),
        Some(value) if value >= 100.0 => {
            let digits = format!("{value:.0}");
            let mut text = String::new();
            for (place, digit) in digits.chars().enumerate() {
                if place > 0 && (digits.len() - place).is_multiple_of(3) {
                    text.push(',');
                }
                text.push(digit);
            }
            text
        }
        Some(value) if value >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}
