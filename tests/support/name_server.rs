//! A name server with a few records, on a loopback address of its own, and processes that ask it alone.

// No test program uses all of this file.
#![allow(dead_code)]

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, UdpSocket},
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

const A: u16 = 1;
const SRV: u16 = 33;
const NAME_ERROR: u8 = 3;

/// The records, by their names without the dot at the end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Records {
    pub(crate) addresses: BTreeMap<String, Vec<Ipv4Addr>>,
    /// Targets with their ports.
    pub(crate) services: BTreeMap<String, Vec<(String, u16)>>,
}

/// It answers until it is dropped.
pub(crate) struct NameServer {
    address: Ipv4Addr,
    records: Arc<Mutex<Records>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl NameServer {
    /// `None`, with a message, where this user may not listen on the port of name servers.
    pub(crate) fn start(records: Records) -> Option<NameServer> {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        // Programs that run at the same time get addresses of their own.
        let program = std::process::id() as u8;
        let bound = (0..100).find_map(|_| {
            let address = Ipv4Addr::new(127, 53, program, NEXT.fetch_add(1, Ordering::Relaxed));
            Some((UdpSocket::bind((address, 53)).ok()?, address))
        });
        let Some((socket, address)) = bound else {
            eprintln!("left out: this user may not be a name server");
            return None;
        };
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a socket has timeouts");
        let is_over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&is_over);
        let records = Arc::new(Mutex::new(records));
        let known = Arc::clone(&records);
        let thread = thread::spawn(move || {
            let mut buffer = [0; 512];
            while !seen.load(Ordering::Relaxed) {
                let Ok((len, from)) = socket.recv_from(&mut buffer) else { continue };
                if let Some(answer) = answer(&known.lock().expect("nobody panics with it"), &buffer[..len]) {
                    socket.send_to(&answer, from).ok();
                }
            }
        });
        Some(NameServer { address, records, is_over, thread: Some(thread) })
    }

    /// From now on there are addresses only.
    pub(crate) fn forget_services(&self) {
        self.records.lock().expect("nobody panics with it").services.clear();
    }

    /// A command that runs another with this name server. `dir` is a directory for its file.
    pub(crate) fn wrapper(&self, dir: &Path) -> Command {
        let file = dir.join("resolv.conf");
        let text = format!("nameserver {}\noptions timeout:1 attempts:2\n", self.address);
        fs::write(&file, text).expect("a test may write");
        let mut command = Command::new("unshare");
        let script = format!("mount --bind {} /etc/resolv.conf && exec \"$0\" \"$@\"", file.display());
        command.args(["--mount", "/bin/sh", "-c", &script]);
        command
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

/// The answer to a query with one question. `None` if it is none.
fn answer(records: &Records, query: &[u8]) -> Option<Vec<u8>> {
    let mut labels = Vec::new();
    let mut at = 12;
    loop {
        let len = usize::from(*query.get(at)?);
        at += 1;
        if len == 0 {
            break;
        }
        labels.push(String::from_utf8(query.get(at..at + len)?.to_vec()).ok()?.to_lowercase());
        at += len;
    }
    let name = labels.join(".");
    let kind = u16::from_be_bytes(query.get(at..at + 2)?.try_into().ok()?);
    let question = query.get(12..at + 4)?;
    let data: Vec<Vec<u8>> = match kind {
        A => records.addresses.get(&name).into_iter().flatten().map(|ip| ip.octets().to_vec()).collect(),
        SRV => records
            .services
            .get(&name)
            .into_iter()
            .flatten()
            .map(|(target, port)| srv(target, *port))
            .collect(),
        _ => Vec::new(),
    };
    let is_known = records.addresses.contains_key(&name) || records.services.contains_key(&name);
    let mut answer = query.get(..2)?.to_vec();
    // An answer, with recursion.
    answer.extend([0x81, 0x80 | if is_known { 0 } else { NAME_ERROR }]);
    answer.extend(1_u16.to_be_bytes());
    answer.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
    answer.extend([0; 4]);
    answer.extend(question);
    for data in data {
        // The name is that of the question.
        answer.extend([0xc0, 12]);
        answer.extend(kind.to_be_bytes());
        answer.extend([0, 1, 0, 0, 0, 1]);
        answer.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
        answer.extend(data);
    }
    Some(answer)
}

/// Priority, weight, port and target.
fn srv(target: &str, port: u16) -> Vec<u8> {
    let mut data = vec![0, 10, 0, 0];
    data.extend(port.to_be_bytes());
    for label in target.split('.') {
        data.push(u8::try_from(label.len()).expect("a label is short"));
        data.extend(label.as_bytes());
    }
    data.push(0);
    data
}
