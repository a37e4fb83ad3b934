//! What a command needs to ask a cluster.

use super::{
    client::{Client, Deadline},
    printer::{Printer, Shown, Style},
    settings::{Dial, apply_variables},
};
use crate::cli::{Exit, Failure, Format, Invocation, Values, output};

/// What a command has once its settings are read.
pub(super) struct Session {
    pub(super) dial: Dial,
    pub(super) values: Values,
    pub(super) format: Format,
    printer: Box<dyn Printer>,
    pub(super) style: Style,
}

/// The variables of the environment count only once a client is made, as in etcdctl: a wrong argument is reported
/// first.
impl Invocation<'_> {
    /// Reads the settings: flags and variables.
    pub(super) fn session(&self) -> Result<Session, Failure> {
        let mut values = self.values.clone();
        apply_variables(&mut values, self.found.inherited(), self.variables)?;
        let dial = Dial::of(&values)?;
        let format = Format::named(values.text("write-out"));
        let format = format.ok_or_else(|| Exit::BadFeature.because("unsupported output format"))?;
        let style = Style { hex: values.switch("hex"), value_only: false };
        Ok(Session { dial, values, format, printer: <dyn Printer>::of(format), style })
    }

    /// Reads the settings, and makes a client of them.
    pub(super) async fn connect(&self) -> Result<(Session, Client), Failure> {
        let session = self.session()?;
        let client = session.client(&session.dial).await?;
        Ok((session, client))
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
