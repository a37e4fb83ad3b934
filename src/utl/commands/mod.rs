//! The commands, a file for each group of them.

pub(super) mod directory;
pub(super) mod history;
pub(super) mod snapshot;
pub(super) mod version;

use std::{ffi::OsString, os::unix::ffi::OsStringExt, path::PathBuf, time::Duration};

use crate::{
    cli::{Exit, Failure, Format, Invocation},
    utl::{printer::Printer, source::Patience},
};

/// The format that the command line asks for.
fn printer(call: &Invocation<'_>) -> Result<Printer, Failure> {
    let format = Format::named(call.values.text("write-out"));
    format.map(Printer::of).ok_or_else(|| Exit::BadFeature.because("unsupported output format"))
}

/// How long to wait for a file that is in use.
fn patience(call: &Invocation<'_>) -> Patience {
    match call.values.duration("timeout") {
        Duration::ZERO => Patience::Endless,
        time => Patience::Within(time),
    }
}

fn path(call: &Invocation<'_>, at: usize) -> PathBuf {
    call.args.get(at).map(|arg| PathBuf::from(OsString::from_vec(arg.clone()))).unwrap_or_default()
}
