//! The journal of systemd, by its own protocol: a datagram of `FIELD=value` lines for each line of the log.

use std::{
    env,
    ffi::OsStr,
    io::{self, IoSlice, Write},
    os::{fd::AsFd, unix::net::UnixDatagram},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create},
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
};
use tracing::Level;

use super::queue::Entry;

/// Where the journal listens.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";

pub(super) struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
    /// The name that the journal shows: that of the program, as it was called.
    identifier: String,
}

impl Journal {
    pub(super) fn connect() -> io::Result<Journal> {
        let program = env::args_os().next().unwrap_or_default();
        let name = Path::new(&program).file_name().unwrap_or(OsStr::new("retcd"));
        Journal::at(Path::new(SOCKET), &name.to_string_lossy())
    }

    fn at(path: &Path, identifier: &str) -> io::Result<Journal> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!(
                    "can't find journal (dial unixgram {}: {error}); without systemd, use --log-outputs=stderr",
                    path.display()
                ),
            )
        })?;
        Ok(Journal { socket, path: path.to_owned(), identifier: identifier.to_owned() })
    }

    /// The journal is looked for again if it was restarted.
    pub(super) fn send(&mut self, entry: &Entry) -> io::Result<()> {
        let message = message(entry, &self.identifier);
        match self.try_send(&message) {
            Err(error)
                if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotConnected) =>
            {
                self.socket.connect(&self.path)?;
                self.try_send(&message)
            }
            sent => sent,
        }
    }

    /// What is larger than a datagram goes as a file in memory, which is passed on.
    fn try_send(&self, message: &[u8]) -> io::Result<()> {
        match self.socket.send(message) {
            Ok(_) => Ok(()),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error()) => {
                let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
                let mut file = std::fs::File::from(memfd_create("retcd-log", flags)?);
                file.write_all(message)?;
                let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
                fcntl_add_seals(&file, seals)?;
                let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                let files = [file.as_fd()];
                assert!(control.push(SendAncillaryMessage::ScmRights(&files)), "there is space for one");
                sendmsg(&self.socket, &[IoSlice::new(&[])], &mut control, SendFlags::empty())?;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// As the journal reads it. A value with a line break has its length before it.
fn message(entry: &Entry, identifier: &str) -> Vec<u8> {
    let text = entry.text.strip_suffix(b"\n").unwrap_or(&entry.text);
    let mut message = Vec::with_capacity(text.len() + 128);
    let mut add = |name: &str, value: &[u8]| {
        message.extend_from_slice(name.as_bytes());
        if value.contains(&b'\n') {
            message.push(b'\n');
            message.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            message.push(b'=');
        }
        message.extend_from_slice(value);
        message.push(b'\n');
    };
    add("MESSAGE", text);
    add("PRIORITY", priority(entry.level).as_bytes());
    add("SYSLOG_IDENTIFIER", identifier.as_bytes());
    add("PACKAGE", entry.package.as_bytes());
    message
}

/// The level as syslog numbers it.
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        _ => "7",
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        io::{Read, Seek},
    };

    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

    use super::*;

    fn entry(level: Level, text: &str) -> Entry {
        Entry { level, package: "node".to_owned(), text: text.as_bytes().into() }
    }

    #[test]
    fn a_line_is_a_datagram_of_fields() {
        let sent = message(&entry(Level::WARN, "slow fdatasync\n"), "etcd");
        let text = "MESSAGE=slow fdatasync\nPRIORITY=4\nSYSLOG_IDENTIFIER=etcd\nPACKAGE=node\n";
        assert_eq!(String::from_utf8(sent).expect("text"), text);
        let sent = message(&entry(Level::ERROR, "two\nlines\n"), "etcd");
        assert!(sent.starts_with(b"MESSAGE\n\x09\0\0\0\0\0\0\0two\nlines\nPRIORITY=3\n"), "{sent:?}");
    }

    #[test]
    fn a_line_of_any_length_arrives_and_a_journal_that_was_restarted_is_found() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("socket");
        assert!(
            Journal::at(&path, "x")
                .err()
                .expect("there is none")
                .to_string()
                .starts_with("can't find journal")
        );
        let receiver = UnixDatagram::bind(&path).expect("the path is free");
        let mut journal = Journal::at(&path, "etcd").expect("it listens");
        let long = "x".repeat(4 * 1024 * 1024);
        journal.send(&entry(Level::INFO, &long)).expect("sent");
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        recvmsg(&receiver, &mut [], &mut control, RecvFlags::empty()).expect("received");
        let files = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut files) => files.next(),
            _ => None,
        });
        let mut text = String::new();
        let mut file = File::from(files.expect("a file is passed"));
        file.rewind().and_then(|()| file.read_to_string(&mut text)).expect("readable");
        assert!(text.starts_with(&format!("MESSAGE={long}\nPRIORITY=6\n")), "{} bytes", text.len());

        drop(receiver);
        fs::remove_file(&path).expect("it was there");
        let receiver = UnixDatagram::bind(&path).expect("the path is free");
        journal.send(&entry(Level::INFO, "again")).expect("sent");
        let mut received = [0; 1000];
        let len = receiver.recv(&mut received).expect("received");
        assert!(received[..len].starts_with(b"MESSAGE=again\n"));
    }
}
