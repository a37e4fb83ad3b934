//! Notifies the service manager that started this process of the state of the member.
//!
//! systemd passes the address of a datagram socket in `NOTIFY_SOCKET` to a unit of `Type=notify`,
//! and takes the unit for started once `READY=1` arrives there. Like etcd, a member sends this when it
//! starts to serve, which requires a leader. Without the variable nothing is sent. If a message cannot be
//! sent, the member logs that and serves all the same.

use std::{
    env,
    ffi::{OsStr, OsString},
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    process,
    time::Duration,
};

/// How long a service manager that does not read its socket may hold up the start and the stop.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// Reports that the member serves.
pub(crate) fn tell_ready(status: &str) {
    if let Some(socket) = socket() {
        tracing::info!("notifying init daemon");
        match send(&socket, &message("READY=1\n", status), Some(SEND_TIMEOUT)) {
            Ok(()) => tracing::info!("successfully notified init daemon"),
            Err(error) => tracing::error!(
                %error,
                socket = %socket.display(),
                "failed to notify systemd for readiness; systemd will consider a unit with Type=notify as not started"
            ),
        }
    }
}

/// Reports that the member has started to stop.
pub(crate) fn tell_stopping() {
    tell("STOPPING=1\n", "stopping", Some(SEND_TIMEOUT));
}

/// Reports one line about the member's state, for `systemctl status`. The line is dropped if the service
/// manager does not read fast enough, so that the calling thread is not blocked.
pub(crate) fn tell_status(status: &str) {
    tell("", status, None);
}

/// How often [`tell_alive`] is to be called: twice in the time after which the service manager takes this process for
/// hung. `None` if it does not watch this process.
pub(crate) fn watchdog_interval() -> Option<Duration> {
    socket()?;
    interval_of(
        env::var("WATCHDOG_USEC").ok().as_deref(),
        env::var("WATCHDOG_PID").ok().as_deref(),
        process::id(),
    )
}

/// systemd also says which process it means, because a child may inherit the variables.
fn interval_of(limit_us: Option<&str>, pid: Option<&str>, own_pid: u32) -> Option<Duration> {
    let is_meant = pid.is_none_or(|pid| pid.parse() == Ok(own_pid));
    let limit_us = limit_us?.parse().ok().filter(|limit_us| is_meant && *limit_us > 0)?;
    Some(Duration::from_micros(limit_us) / 2)
}

/// Reports that this process is alive.
pub(crate) fn tell_alive() {
    tell_lines("WATCHDOG=1\n", None);
}

fn tell(assignments: &str, status: &str, patience: Option<Duration>) {
    tell_lines(&message(assignments, status), patience);
}

fn tell_lines(lines: &str, patience: Option<Duration>) {
    if let Some(socket) = socket()
        && let Err(error) = send(&socket, lines, patience)
    {
        tracing::debug!(%error, socket = %socket.display(), "could not notify the service manager");
    }
}

fn socket() -> Option<OsString> {
    env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty())
}

/// The lines of a message. A status of several lines is put into one, because a value ends with its line.
fn message(assignments: &str, status: &str) -> String {
    format!("{assignments}STATUS={}\n", status.replace('\n', " "))
}

/// Sends one datagram. Without `patience` it does not wait for room in the receiver's queue.
fn send(socket: &OsStr, message: &str, patience: Option<Duration>) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(socket)?,
        _ => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "NOTIFY_SOCKET is neither an absolute path nor an abstract name that begins with @",
            ));
        }
    };
    let sender = UnixDatagram::unbound()?;
    match patience {
        Some(_) => sender.set_write_timeout(patience)?,
        None => sender.set_nonblocking(true)?,
    }
    sender.send_to_addr(message.as_bytes(), &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 4096];
        let len = socket.recv(&mut buffer).expect("a datagram came");
        String::from_utf8(buffer[..len].to_vec()).expect("it is text")
    }

    #[test]
    fn a_message_arrives_at_a_path_and_at_an_abstract_name() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("notify");
        let by_path = UnixDatagram::bind(&path).expect("the path is free");
        let name = format!("retcd-test-{}", process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let by_name = UnixDatagram::bind_addr(&address).expect("the name is free");
        let message = message("READY=1\n", "two\nlines");
        assert_eq!(message, "READY=1\nSTATUS=two lines\n");
        for (socket, receiver) in
            [(path.into_os_string(), by_path), (OsString::from(format!("@{name}")), by_name)]
        {
            for patience in [Some(SEND_TIMEOUT), None] {
                send(&socket, &message, patience).expect("somebody listens");
                assert_eq!(received(&receiver), message);
            }
        }
    }

    #[test]
    fn the_watchdog_is_told_twice_in_its_time_by_the_process_that_it_watches() {
        let of = |limit_us, pid| interval_of(limit_us, pid, 7);
        assert_eq!(of(Some("3000000"), Some("7")), Some(Duration::from_millis(1500)));
        assert_eq!(of(Some("3000000"), None), Some(Duration::from_millis(1500)));
        for (limit_us, pid) in
            [(None, None), (Some("3000000"), Some("8")), (Some("0"), None), (Some("x"), None)]
        {
            assert_eq!(of(limit_us, pid), None, "{limit_us:?} {pid:?}");
        }
    }

    #[test]
    fn a_socket_that_nobody_reads_is_an_error_and_holds_up_nobody() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("notify");
        let nobody = send(path.as_os_str(), "READY=1\n", Some(SEND_TIMEOUT)).expect_err("there is no socket");
        assert_eq!(nobody.kind(), io::ErrorKind::NotFound);
        for address in ["relative/path", "vsock:2:1234"] {
            let error = send(OsStr::new(address), "READY=1\n", None).expect_err("no such form");
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{address}");
        }
        let _full = UnixDatagram::bind(&path).expect("the path is free");
        let refusal = (0..100_000).find_map(|_| send(path.as_os_str(), "STATUS=x\n", None).err());
        assert_eq!(refusal.expect("a queue has an end").kind(), io::ErrorKind::WouldBlock);
        let impatient = Some(Duration::from_millis(10));
        let error = send(path.as_os_str(), "READY=1\n", impatient).expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
