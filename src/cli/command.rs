//! What a command is, and which command a command line means.

use futures_util::future::LocalBoxFuture;

use super::{
    exit::Failure,
    flags::{Flag, is_flag, takes_next},
    invocation::Invocation,
};

/// A command, or a group of commands. The tables of commands are constants; the usage, the completion and the
/// list of options are made from them.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) name: &'static str,
    /// What follows the name in its usage.
    pub(crate) arguments: &'static str,
    /// One line for the list of commands.
    pub(crate) short: &'static str,
    /// What its help begins with; empty: `short`.
    pub(crate) long: &'static str,
    pub(crate) group: Group,
    /// The flags of this command alone.
    pub(crate) flags: &'static [Flag],
    /// The flags of this command and of those below it.
    pub(crate) inherited: &'static [Flag],
    pub(crate) below: &'static [Command],
    /// `None`: the command is a group, and shows its help.
    pub(crate) run: Option<Run>,
}

/// Under which heading the list of commands has a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    KeyValue,
    Maintenance,
    Concurrency,
    Authentication,
    Utility,
    /// Below another command.
    None,
}

/// Runs a command whose flags are parsed.
pub(crate) type Run = for<'a> fn(&'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>>;

impl Command {
    pub(crate) const fn new(name: &'static str, arguments: &'static str, short: &'static str) -> Command {
        Command {
            name,
            arguments,
            short,
            long: "",
            group: Group::None,
            flags: &[],
            inherited: &[],
            below: &[],
            run: None,
        }
    }

    pub(crate) const fn long(self, long: &'static str) -> Command {
        Command { long, ..self }
    }

    pub(crate) const fn of(self, group: Group) -> Command {
        Command { group, ..self }
    }

    pub(crate) const fn flags(self, flags: &'static [Flag]) -> Command {
        Command { flags, ..self }
    }

    pub(crate) const fn inherited(self, inherited: &'static [Flag]) -> Command {
        Command { inherited, ..self }
    }

    pub(crate) const fn below(self, below: &'static [Command]) -> Command {
        Command { below, ..self }
    }

    pub(crate) const fn runs(self, run: Run) -> Command {
        Command { run: Some(run), ..self }
    }

    /// The command below this one that a word names: by its name, or by the beginning of one name only.
    fn named(&self, word: &[u8]) -> Option<&'static Command> {
        if let Some(exact) = self.below.iter().find(|command| command.name.as_bytes() == word) {
            return Some(exact);
        }
        let mut meant = self.below.iter().filter(|command| command.name.as_bytes().starts_with(word));
        meant.next().filter(|_| meant.next().is_none())
    }
}

/// The command that a command line names.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// From the root to the command.
    pub(crate) path: Vec<&'static Command>,
    /// Without the names of the commands.
    pub(crate) args: Vec<Vec<u8>>,
}

impl Found {
    /// Flags may precede the name of a command, so the value of such a flag is not taken for a name.
    pub(crate) fn in_line(root: &'static Command, args: &[Vec<u8>]) -> Found {
        let mut found = Found { path: vec![root], args: args.to_vec() };
        while let Some(at) = found.first_word() {
            let Some(below) = found.command().named(&found.args[at]) else { break };
            found.args.remove(at);
            found.path.push(below);
        }
        found
    }

    pub(crate) fn command(&self) -> &'static Command {
        self.path.last().expect("the root is always in it")
    }

    /// The first argument that is neither a flag nor the value of one.
    pub(crate) fn first_word(&self) -> Option<usize> {
        let mut at = 0;
        while let Some(arg) = self.args.get(at) {
            if arg == b"--" {
                return None;
            }
            if !is_flag(arg) && !arg.is_empty() {
                return Some(at);
            }
            let takes_next = std::str::from_utf8(arg).is_ok_and(|arg| takes_next(arg, self.flags()));
            at += if takes_next { 2 } else { 1 };
        }
        None
    }

    /// All flags that the command takes.
    pub(crate) fn flags(&self) -> impl Iterator<Item = &'static Flag> {
        self.command().flags.iter().chain(self.inherited())
    }

    /// Those that it has from the commands above it, and that variables of the environment may set.
    pub(crate) fn inherited(&self) -> impl Iterator<Item = &'static Flag> {
        self.path.iter().flat_map(|command| command.inherited)
    }

    /// The command as it is typed, such as `etcdctl lease grant`.
    pub(crate) fn typed(&self, program: &str) -> String {
        let names = self.path.iter().skip(1).map(|command| command.name);
        std::iter::once(program).chain(names).collect::<Vec<_>>().join(" ")
    }
}

/// The names that somebody who typed `word` may have meant.
pub(crate) fn suggestions(root: &Command, word: &str) -> Vec<&'static str> {
    let word = word.to_lowercase();
    let is_like = |name: &str| name.starts_with(&word) || distance(&word, name) <= 2;
    root.below.iter().map(|command| command.name).filter(|name| is_like(name)).collect()
}

/// How many letters have to be changed, added or removed (Levenshtein's distance).
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (at, c) in from.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], at + 1);
        for (column, other) in to.iter().enumerate() {
            let cost =
                if c == *other { diagonal } else { 1 + diagonal.min(row[column]).min(row[column + 1]) };
            diagonal = std::mem::replace(&mut row[column + 1], cost);
        }
    }
    row[to.len()]
}

#[cfg(test)]
impl Command {
    /// What must hold for the table of every tool.
    pub(crate) fn verify(&'static self) {
        self.verify_below(&[]);
    }

    fn verify_below(&'static self, above: &[&'static str]) {
        let flags = self.flags.iter().chain(self.inherited);
        let names: Vec<&str> = flags.clone().map(|flag| flag.name).chain(above.iter().copied()).collect();
        let mut once = names.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), names.len(), "{}: a flag is there twice: {names:?}", self.name);
        // Fails if a default is none.
        super::flags::Values::defaults(flags);
        assert!(self.below.is_sorted_by_key(|below| below.name), "{} is not in order", self.name);
        assert!(self.run.is_some() || !self.below.is_empty(), "{} does nothing", self.name);
        let inherited: Vec<&str> =
            self.inherited.iter().map(|flag| flag.name).chain(above.iter().copied()).collect();
        self.below.iter().for_each(|below| below.verify_below(&inherited));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_wrong_is_guessed() {
        const ROOT: Command = Command::new("tool", "", "").below(&[
            Command::new("get", "", ""),
            Command::new("put", "", ""),
            Command::new("watch", "", ""),
        ]);
        assert_eq!(suggestions(&ROOT, "gett"), ["get"]);
        assert!(suggestions(&ROOT, "bogus").is_empty());
        for (from, to, steps) in
            [("", "abc", 3), ("kitten", "sitting", 3), ("l", "del", 2), ("put", "put", 0)]
        {
            assert_eq!(distance(from, to), steps, "{from} {to}");
        }
    }
}
