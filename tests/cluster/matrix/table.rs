//! The answers as a text of one line for each call and circumstance: one letter for each caller.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Display},
};

use super::wire::OK;

/// The answers of one run, by the part of the run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) parts: Vec<Part>,
}

/// What the same callers were answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) callers: Vec<String>,
    pub(super) circumstances: Vec<String>,
    pub(super) rows: Vec<Row>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) call: String,
    /// By circumstance and caller. `None` for a call that is not made.
    pub(super) answers: Vec<Vec<Option<String>>>,
}

const NOT_MADE: char = '-';
const PERMITTED: char = '.';
const EVERYWHERE: &str = "everywhere";

/// In the order of use. There are not that many answers.
fn letters() -> impl Iterator<Item = char> {
    ('a'..='z').chain('A'..='Z').chain('0'..='9').chain("!$%&*+<>?@^~".chars())
}

impl Table {
    pub(super) fn cases(&self) -> usize {
        let rows = self.parts.iter().flat_map(|part| &part.rows);
        rows.flat_map(|row| row.answers.iter().flatten()).flatten().count()
    }

    /// The answers by name, to be compared: `part: call: circumstance: caller`.
    pub(super) fn named(&self) -> BTreeMap<Name<'_>, &str> {
        let mut named = BTreeMap::new();
        for part in &self.parts {
            for row in &part.rows {
                for (circumstance, answers) in part.circumstances.iter().zip(&row.answers) {
                    for (caller, answer) in part.callers.iter().zip(answers) {
                        let Some(answer) = answer else { continue };
                        let name = Name { part: &part.name, call: &row.call, circumstance, caller };
                        assert!(named.insert(name, answer.as_str()).is_none(), "{name:?} twice");
                    }
                }
            }
        }
        named
    }

    /// From the text that [`Table::fmt`] writes.
    pub(super) fn parse(text: &str) -> Table {
        let mut table = Table::default();
        let mut legend: BTreeMap<char, String> = BTreeMap::from([(PERMITTED, OK.to_owned())]);
        for line in text.lines() {
            if let Some(answer) = line.strip_prefix("= ") {
                let (letter, answer) = answer.split_once(' ').expect("a letter and what it stands for");
                legend.insert(letter.chars().next().expect("a letter"), answer.to_owned());
            } else if let Some(name) = line.strip_prefix("part ") {
                let (callers, circumstances, rows) = (Vec::new(), Vec::new(), Vec::new());
                table.parts.push(Part { name: name.to_owned(), callers, circumstances, rows });
            } else if let Some(part) = table.parts.last_mut() {
                part.take(line, &legend);
            }
        }
        table
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name<'t> {
    pub(super) part: &'t str,
    pub(super) call: &'t str,
    pub(super) circumstance: &'t str,
    pub(super) caller: &'t str,
}

impl Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}), {}, by {}", self.call, self.part, self.circumstance, self.caller)
    }
}

impl Part {
    fn take(&mut self, line: &str, legend: &BTreeMap<char, String>) {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect();
        if let Some(callers) = line.strip_prefix("callers ") {
            self.callers = words(callers);
        } else if let Some(circumstances) = line.strip_prefix("circumstances ") {
            self.circumstances = words(circumstances);
        } else if let Some(answers) = line.strip_prefix("    ") {
            let (letters, places) = answers.split_once("  ").expect("letters, and where");
            let answers: Vec<Option<String>> =
                letters.chars().map(|letter| (letter != NOT_MADE).then(|| legend[&letter].clone())).collect();
            let row = self.rows.last_mut().expect("a call stands before its answers");
            row.answers.resize(self.circumstances.len(), Vec::new());
            for (circumstance, place) in self.circumstances.iter().zip(&mut row.answers) {
                if places == EVERYWHERE || places.split(' ').any(|one| one == circumstance) {
                    place.clone_from(&answers);
                }
            }
        } else if !line.is_empty() {
            self.rows.push(Row { call: line.to_owned(), answers: Vec::new() });
        }
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = || self.parts.iter().flat_map(|part| &part.rows);
        let all: BTreeSet<&str> =
            rows().flat_map(|row| row.answers.iter().flatten()).flatten().map(String::as_str).collect();
        let others: Vec<&str> = all.into_iter().filter(|answer| *answer != OK).collect();
        assert!(others.len() <= letters().count(), "there are more answers than letters");
        let legend: BTreeMap<&str, char> =
            others.iter().copied().zip(letters()).chain([(OK, PERMITTED)]).collect();
        for (answer, letter) in others.iter().zip(letters()) {
            writeln!(f, "= {letter} {answer}")?;
        }
        for part in &self.parts {
            writeln!(f, "\npart {}", part.name)?;
            writeln!(f, "callers {}", part.callers.join(" "))?;
            writeln!(f, "circumstances {}", part.circumstances.join(" "))?;
            for row in &part.rows {
                writeln!(f, "{}", row.call)?;
                let mut places: Vec<(String, Vec<&str>)> = Vec::new();
                for (circumstance, answers) in part.circumstances.iter().zip(&row.answers) {
                    let letters: String = answers
                        .iter()
                        .map(|answer| answer.as_ref().map_or(NOT_MADE, |answer| legend[answer.as_str()]))
                        .collect();
                    match places.iter_mut().find(|(same, _)| *same == letters) {
                        Some((_, at)) => at.push(circumstance),
                        None => places.push((letters, vec![circumstance])),
                    }
                }
                for (letters, at) in &places {
                    let at = if places.len() == 1 { EVERYWHERE } else { &at.join(" ") };
                    writeln!(f, "    {letters}  {at}")?;
                }
            }
        }
        Ok(())
    }
}

#[test]
fn a_table_is_read_as_it_was_written() {
    let row = |call: &str, answers: &[&[Option<&str>]]| Row {
        call: call.to_owned(),
        answers: answers
            .iter()
            .map(|answers| answers.iter().map(|answer| answer.map(str::to_owned)).collect())
            .collect(),
    };
    let words = |text: &str| text.split(' ').map(str::to_owned).collect();
    let part = Part {
        name: "a name".to_owned(),
        callers: words("nobody root"),
        circumstances: words("leader follower"),
        rows: vec![
            row("KV/Put", &[&[Some("No: way"), Some(OK)], &[Some("No: way"), None]]),
            row("KV/Range a key", &[&[Some("Never"), Some(OK)], &[Some("Never"), Some(OK)]]),
        ],
    };
    let table = Table { parts: vec![part] };
    let text = table.to_string();
    assert!(text.contains("    a.  everywhere\n") && text.contains("    b-  follower\n"), "{text}");
    assert_eq!(Table::parse(&text), table);
    assert_eq!(table.cases(), 7);
}
