//! Stdout, and remarks on stderr.

use std::{
    fmt,
    io::{self, Write},
};

use super::exit::Failure;

/// Writes a piece of output and flushes it, so that whoever follows a watch through a pipe sees each event.
pub(crate) fn write(piece: impl FnOnce(&mut dyn Write) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut stdout = io::BufWriter::new(io::stdout().lock());
    piece(&mut stdout)?;
    stdout.flush()?;
    Ok(())
}

/// Writes a line.
pub(crate) fn line(text: fmt::Arguments<'_>) -> Result<(), Failure> {
    write(|out| Ok(writeln!(out, "{text}")?))
}

/// A remark that does not change how the command ends.
pub(crate) fn notice(text: fmt::Arguments<'_>) {
    complain(format_args!("Warning: {text}"));
}

/// A line on stderr.
pub(crate) fn complain(text: fmt::Arguments<'_>) {
    // If stderr is closed, nobody can be told.
    let _ = writeln!(io::stderr(), "{text}");
}
