//! The thread that writes the log to files and to the journal.
//!
//! A disk that is full, slow or gone never holds up the threads that log: lines wait in a bounded queue, and those that
//! cannot be written are counted. When it goes on, the log says how many lines it lacks.

use std::{
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
};

use super::{
    journal::Journal,
    queue::{Entry, Queue},
    rotated::RotatedFile,
};
use crate::{
    config::{LogOutput, LogRotation},
    limits, threads,
};

/// A handle of the files of the log, if there are any.
#[derive(Clone)]
pub(crate) struct LogFiles {
    queue: Option<Arc<Queue>>,
}

impl LogFiles {
    /// Whether there are any: stderr and stdout are none.
    pub(crate) fn exist(&self) -> bool {
        self.queue.is_some()
    }

    /// Opens the files again by their names, for whoever has renamed them.
    pub(crate) fn reopen(&self) {
        if let Some(queue) = &self.queue {
            queue.reopen();
        }
    }

    /// Waits until all lines were written that were logged before. To be called before the process ends.
    pub(crate) fn flush(&self) {
        if let Some(queue) = &self.queue {
            queue.flush(limits::LOG_FLUSH_TIMEOUT);
        }
    }

    pub(super) fn queue(&self) -> Option<Arc<Queue>> {
        self.queue.clone()
    }
}

/// Opens the files among the outputs, and starts the thread that writes them. `alone` says that there are no other
/// outputs, so that stderr is the place to say that a file cannot be written to.
pub(super) fn open(
    outputs: &[LogOutput],
    rotation: Option<&LogRotation>,
    alone: bool,
) -> io::Result<LogFiles> {
    let mut sinks = Vec::new();
    for output in outputs {
        let target = match output {
            LogOutput::Stderr | LogOutput::Stdout => continue,
            LogOutput::File(path) => Target::File(RotatedFile::open(path, rotation.cloned())?),
            LogOutput::Journal => Target::Journal(Journal::connect()?),
        };
        sinks.push(Sink { target, lost: 0 });
    }
    if sinks.is_empty() {
        return Ok(LogFiles { queue: None });
    }
    let queue = Arc::new(Queue::default());
    let ours = Arc::clone(&queue);
    // It ends with the process.
    drop(threads::try_spawn("retcd-logger", move || Logger { queue: ours, sinks, alone }.run())?);
    Ok(LogFiles { queue: Some(queue) })
}

/// The thread's own.
struct Logger {
    queue: Arc<Queue>,
    sinks: Vec<Sink>,
    alone: bool,
}

struct Sink {
    target: Target,
    /// Lines that could not be written since the last one that could.
    lost: u64,
}

enum Target {
    File(RotatedFile),
    Journal(Journal),
}

impl Logger {
    fn run(mut self) {
        loop {
            let (entries, work) = self.queue.take();
            if work.reopen {
                self.sinks.iter_mut().for_each(Sink::reopen);
            }
            let bytes = entries.iter().map(|entry| entry.text.len()).sum();
            for entry in &entries {
                for sink in &mut self.sinks {
                    sink.write(entry, self.alone);
                }
            }
            // Said with the queue empty, so that the line finds room.
            self.queue.done(bytes);
            if work.dropped > 0 {
                tracing::warn!(
                    lines = work.dropped,
                    "the files of the log lack lines: they were logged faster than they could be written"
                );
            }
        }
    }
}

impl Sink {
    fn write(&mut self, entry: &Entry, alone: bool) {
        let written = match &mut self.target {
            Target::File(file) => file.write(&entry.text),
            Target::Journal(journal) => journal.send(entry),
        };
        match written {
            Ok(()) => {
                let lost = std::mem::take(&mut self.lost);
                if lost > 0 {
                    tracing::warn!(
                        output = self.target.name(),
                        lines = lost,
                        "the log can be written again; it lacks lines"
                    );
                }
            }
            Err(error) => {
                self.lost += 1;
                // Once, and not for every line.
                if self.lost == 1 {
                    let output = self.target.name();
                    if alone {
                        // If stderr is closed, this cannot be said anywhere.
                        let _ = writeln!(io::stderr(), "retcd: cannot write the log to {output}: {error}");
                    }
                    tracing::error!(output, %error, "cannot write the log; lines are lost until that is mended");
                }
                if let (Target::Journal(_), true) = (&self.target, alone) {
                    let _ = io::stderr().write_all(&entry.text);
                }
            }
        }
    }

    fn reopen(&mut self) {
        let Target::File(file) = &mut self.target else { return };
        match file.reopen() {
            Ok(()) => tracing::info!(path = %file.path().display(), "opened the log file again"),
            Err(error) => tracing::error!(
                path = %file.path().display(),
                %error,
                "cannot open the log file again; writing to the one that was open"
            ),
        }
    }
}

impl Target {
    fn name(&self) -> String {
        let path: PathBuf = match self {
            Target::File(file) => file.path().to_owned(),
            Target::Journal(_) => PathBuf::from(super::journal::SOCKET),
        };
        path.display().to_string()
    }
}
