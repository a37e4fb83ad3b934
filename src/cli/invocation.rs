//! One command that was typed: its arguments and flags.

use std::ffi::OsString;

use super::{
    command::{Command, Found},
    exit::Failure,
    flags::Values,
    help,
};

/// A command with its flags parsed.
pub(crate) struct Invocation<'a> {
    pub(crate) program: &'a str,
    pub(crate) root: &'static Command,
    pub(crate) found: &'a Found,
    pub(crate) args: Vec<Vec<u8>>,
    pub(crate) values: Values,
    pub(crate) variables: &'a [(OsString, OsString)],
}

impl Invocation<'_> {
    /// An argument as text. Names are text, keys are bytes.
    pub(crate) fn text(&self, at: usize) -> String {
        self.args.get(at).map(|arg| String::from_utf8_lossy(arg).into_owned()).unwrap_or_default()
    }

    pub(crate) fn variable(&self, name: &str) -> Vec<u8> {
        let found = self.variables.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_encoded_bytes().to_vec()).unwrap_or_default()
    }

    /// The flags are right, and something else of the command line is wrong in a way for which the tool shows the usage.
    pub(crate) fn wrong_usage(&self, text: String) -> Failure {
        Failure::Usage { text, usage: format!("{}\n", help::usage(self.program, self.found)) }
    }

    /// For a command with so many arguments, neither more nor less.
    pub(crate) fn expect_args(&self, count: usize) -> Result<(), Failure> {
        match self.args.len() {
            len if len == count => Ok(()),
            len => Err(self.wrong_usage(format!("accepts {count} arg(s), received {len}"))),
        }
    }
}
