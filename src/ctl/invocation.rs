//! One command that was typed: its arguments and flags, and what it needs to ask a cluster.

use std::ffi::OsString;

use super::{
    client::{Client, Deadline},
    command::{Command, Found},
    exit::{Exit, Failure},
    flags::Values,
    help, output,
    printer::{Format, Printer, Shown, Style},
    settings::{Dial, apply_variables},
};

/// A command with its flags parsed. The variables of the environment count only once a client is made, as in
/// etcdctl: a wrong argument is reported first.
pub(super) struct Invocation<'a> {
    pub(super) program: &'a str,
    pub(super) root: &'static Command,
    pub(super) found: &'a Found,
    pub(super) args: Vec<Vec<u8>>,
    pub(super) values: Values,
    pub(super) variables: &'a [(OsString, OsString)],
}

/// What a command has once its settings are read.
pub(super) struct Session {
    pub(super) dial: Dial,
    pub(super) values: Values,
    pub(super) format: Format,
    printer: Box<dyn Printer>,
    pub(super) style: Style,
}

impl<'a> Invocation<'a> {
    /// Reads the settings: flags and variables.
    pub(super) fn session(&self) -> Result<Session, Failure> {
        let mut values = self.values.clone();
        apply_variables(&mut values, self.found.inherited(), self.variables)?;
        let dial = Dial::of(&values)?;
        let format = Format::named(values.text("write-out"));
        let format = format.ok_or_else(|| Exit::BadFeature.because("unsupported output format"))?;
        let style = Style { hex: values.switch("hex"), value_only: false };
        Ok(Session { dial, values, format, printer: format.printer(), style })
    }

    /// Reads the settings, and makes a client of them.
    pub(super) async fn connect(&self) -> Result<(Session, Client), Failure> {
        let session = self.session()?;
        let client = session.client(&session.dial).await?;
        Ok((session, client))
    }

    /// An argument as text. Names are text, keys are bytes.
    pub(super) fn text(&self, at: usize) -> String {
        self.args.get(at).map(|arg| String::from_utf8_lossy(arg).into_owned()).unwrap_or_default()
    }

    pub(super) fn variable(&self, name: &str) -> Vec<u8> {
        let found = self.variables.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_encoded_bytes().to_vec()).unwrap_or_default()
    }

    /// The flags are right, and something else of the command line is wrong in a way for which etcdctl shows the
    /// usage.
    pub(super) fn wrong_usage(&self, text: String) -> Failure {
        Failure::Usage { text, usage: format!("{}\n", help::usage(self.program, self.found)) }
    }
}

impl Session {
    pub(super) async fn client(&self, dial: &Dial) -> Result<Client, Failure> {
        Client::open(dial).await.map_err(|error| Exit::BadConnection.because(error))
    }

    /// By when a short command has to be done, from now on.
    pub(super) fn deadline(&self) -> Deadline {
        Deadline::within(self.values.duration("command-timeout"))
    }

    pub(super) fn print(&self, shown: &Shown<'_>) -> Result<(), Failure> {
        output::write(|out| self.printer.print(shown, self.style, out))
    }
}
