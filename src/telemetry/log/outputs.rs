//! Where the lines of the log go.

use std::{
    io::{self, Write},
    sync::Arc,
};

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use super::{
    files::{self, LogFiles},
    line::package,
    queue::{Entry, Queue},
};
use crate::config::{LogOutput, LogRotation};

/// The outputs; each line goes to all of them. Stderr and stdout are written to at once, so that the last words of a
/// process that crashes are there. Files and the journal, on which a write may take long, have a thread.
pub(super) struct Outputs {
    streams: Vec<Stream>,
    queue: Option<Arc<Queue>>,
}

#[derive(Clone, Copy)]
enum Stream {
    Stderr,
    Stdout,
}

impl Outputs {
    pub(super) fn open(
        outputs: &[LogOutput],
        rotation: Option<&LogRotation>,
    ) -> io::Result<(Outputs, LogFiles)> {
        let streams: Vec<Stream> = outputs
            .iter()
            .filter_map(|output| match output {
                LogOutput::Stderr => Some(Stream::Stderr),
                LogOutput::Stdout => Some(Stream::Stdout),
                LogOutput::File(_) | LogOutput::Journal => None,
            })
            .collect();
        let files = files::open(outputs, rotation, streams.is_empty())?;
        Ok((Outputs { streams, queue: files.queue() }, files))
    }
}

impl<'a> MakeWriter<'a> for Outputs {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> LineWriter<'a> {
        LineWriter { outputs: self, level: Level::INFO, package: String::new() }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> LineWriter<'a> {
        // Only the journal has a field for it.
        let package = self.queue.as_ref().and(metadata.file()).map(package).unwrap_or_default();
        LineWriter { outputs: self, level: *metadata.level(), package: package.to_owned() }
    }
}

/// Takes one line.
pub(super) struct LineWriter<'a> {
    outputs: &'a Outputs,
    level: Level,
    /// The folder of the source file that logs the line.
    package: String,
}

impl Write for LineWriter<'_> {
    /// Takes a whole line. If one output fails, the others still get the line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut result = Ok(line.len());
        for stream in &self.outputs.streams {
            let written = match stream {
                Stream::Stderr => io::stderr().write_all(line),
                Stream::Stdout => io::stdout().write_all(line),
            };
            if let Err(error) = written {
                result = Err(error);
            }
        }
        if let Some(queue) = &self.outputs.queue {
            queue.push(Entry {
                level: self.level,
                package: std::mem::take(&mut self.package),
                text: line.into(),
            });
        }
        result
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
