//! Tables for people.

use std::io::{self, Write};

/// With headings in the middle of their columns, and everything else at the right.
pub(crate) fn draw(headings: &[&str], rows: &[Vec<String>], out: &mut dyn Write) -> io::Result<()> {
    let len = |text: &str| text.chars().count();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| len(cell));
        cells.chain([len(headings[column])]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let rule = |out: &mut dyn Write, [left, middle, right]: [&str; 3]| {
        let parts: Vec<String> = widths.iter().map(|width| "\u{2500}".repeat(width + 2)).collect();
        writeln!(out, "{left}{}{right}", parts.join(middle))
    };
    let line = |out: &mut dyn Write, cells: Vec<String>| {
        writeln!(out, "\u{2502} {} \u{2502}", cells.join(" \u{2502} "))
    };
    rule(out, ["\u{250c}", "\u{252c}", "\u{2510}"])?;
    line(out, headings.iter().zip(&widths).map(|(heading, width)| format!("{heading:^width$}")).collect())?;
    rule(out, ["\u{251c}", "\u{253c}", "\u{2524}"])?;
    for row in rows {
        line(out, row.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}")).collect())?;
    }
    rule(out, ["\u{2514}", "\u{2534}", "\u{2518}"])
}
