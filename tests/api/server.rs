//! One server process under test: its directory, its ports, its log, its end.
//!
//! A `Server` is the real binary on free loopback ports with a directory of its own on disk. It is ready when
//! its log says so; no test sleeps instead. Its standard error is kept, and shown when the test fails. The
//! process ends when the value is dropped.
//!
//! `RETCD_TEST_BIN` names another binary to start instead of retcd, so that every expectation can be checked
//! with a real etcd first.

use std::{
    collections::VecDeque,
    env,
    ffi::OsString,
    fmt::Display,
    fs,
    io::{BufRead, BufReader},
    net::TcpListener,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use crate::{canary, client::Client, tools};

/// How long anything that should happen soon may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

const READY: &str = "ready to serve client requests";

/// Lines of the server's log that a failing test shows.
const LOG_LINES_SHOWN: usize = 80;

/// The program to start, and its arguments.
#[derive(Clone)]
pub(crate) struct Launch {
    program: PathBuf,
    flags: Vec<String>,
    environment: Vec<(String, String)>,
    default_flags: bool,
    /// Commands of the shell that come before the server.
    before: Option<String>,
    /// Whether the server has mounts of its own.
    own_mounts: bool,
}

/// A running server, or one between two runs on the same directory and ports.
pub(crate) struct Server {
    launch: Launch,
    home: TempDir,
    pub(crate) client_port: u16,
    pub(crate) peer_port: u16,
    running: Option<Running>,
}

struct Running {
    child: Child,
    log: Arc<Mutex<VecDeque<String>>>,
    news: mpsc::Receiver<News>,
}

enum News {
    Ready,
    Closed,
}

/// How a server ended, after it was stopped or refused to start.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) log: Vec<String>,
    pub(crate) took: Duration,
}

/// The binary under test.
pub(crate) fn subject_program() -> PathBuf {
    env::var_os("RETCD_TEST_BIN").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_retcd")), PathBuf::from)
}

/// Whether the binary under test is retcd itself, not an etcd put in its place.
pub(crate) fn subject_is_retcd() -> bool {
    env::var_os("RETCD_TEST_BIN").is_none_or(|path| path.to_string_lossy().ends_with("retcd"))
}

impl Launch {
    /// The server under test.
    pub(crate) fn subject() -> Launch {
        Launch::of(subject_program())
    }

    /// The real etcd with which answers are compared.
    pub(crate) fn reference() -> Launch {
        Launch::of(tools::reference().etcd.clone())
    }

    /// etcd 3.4 with the version 2 API, if it is at hand.
    pub(crate) fn etcd34() -> Option<Launch> {
        tools::etcd34().map(|program| Launch::of(program).flag("enable-v2", true))
    }

    /// A real etcd of this release.
    pub(crate) fn etcd(release: tools::Release) -> Launch {
        Launch::of(release.etcd())
    }

    fn of(program: PathBuf) -> Launch {
        Launch {
            program,
            flags: Vec::new(),
            environment: Vec::new(),
            default_flags: true,
            before: None,
            own_mounts: false,
        }
    }

    pub(crate) fn is_reference(&self) -> bool {
        self.program == tools::reference().etcd
    }

    /// Adds `--name=value`.
    pub(crate) fn flag(mut self, name: &str, value: impl Display) -> Launch {
        self.flags.push(format!("--{name}={value}"));
        self
    }

    /// Adds an argument unchanged.
    pub(crate) fn argument(mut self, argument: &str) -> Launch {
        self.flags.push(argument.to_owned());
        self
    }

    pub(crate) fn environment(mut self, name: &str, value: &str) -> Launch {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets a limit of the process, as `ulimit` takes it: `-n 256`.
    pub(crate) fn limits(mut self, arguments: &str) -> Launch {
        self.before = Some(format!("ulimit {arguments}"));
        self
    }

    /// Runs these commands of the shell before the server, which then has mounts of its own. Only root may do that.
    pub(crate) fn mounts(mut self, commands: &str) -> Launch {
        (self.before, self.own_mounts) = (Some(commands.to_owned()), true);
        self
    }

    /// Leaves out the flags for directory, ports and cluster that the harness adds otherwise.
    pub(crate) fn bare(mut self) -> Launch {
        self.default_flags = false;
        self
    }

    /// Starts on a new directory and new ports, and waits until the server is ready.
    pub(crate) fn start(self) -> Server {
        let mut server = self.prepare();
        server.start();
        server
    }

    /// A directory and ports, without a running server.
    pub(crate) fn prepare(self) -> Server {
        let home = tempfile::Builder::new()
            .prefix("server-")
            .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
            .expect("the build's directory for tests is writable");
        Server { launch: self, home, client_port: free_port(), peer_port: free_port(), running: None }
    }
}

impl Server {
    pub(crate) fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.client_port)
    }

    /// A new connection. Needs a tokio runtime around it.
    pub(crate) fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer_port)
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.endpoint())
    }

    /// The directory that holds the data directory, and room for a test's own files.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.home.path().join("data")
    }

    pub(crate) fn wal_dir(&self) -> PathBuf {
        self.data_dir().join("member").join("wal")
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.data_dir().join("member").join("snap").join("db")
    }

    /// As [`Launch::mounts`], for paths that are known only after the launch was prepared.
    pub(crate) fn set_mounts(&mut self, commands: &str) {
        (self.launch.before, self.launch.own_mounts) = (Some(commands.to_owned()), true);
    }

    /// As [`Launch::flag`], for values that are known only after the launch was prepared.
    pub(crate) fn set_flag(&mut self, name: &str, value: impl Display) {
        self.launch.flags.push(format!("--{name}={value}"));
    }

    /// Starts the process and waits until it serves. Panics with its log when it does not.
    pub(crate) fn start(&mut self) {
        self.spawn();
        let running = self.running.as_mut().expect("just spawned");
        match running.news.recv_timeout(PATIENCE) {
            Ok(News::Ready) => {}
            Ok(News::Closed) | Err(mpsc::RecvTimeoutError::Disconnected) => {
                let status = running.child.wait().expect("a child can be waited for");
                panic!("the server ended before it was ready: {status}");
            }
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("the server was not ready within {PATIENCE:?}"),
        }
    }

    /// Starts a server that must refuse to serve, and waits for its end.
    pub(crate) fn start_refused(&mut self) -> Ended {
        self.spawn();
        let ended = self.wait_for_end();
        assert!(
            !ended.log.iter().any(|line| line.contains(READY)),
            "the server served though it should have refused to start"
        );
        ended
    }

    /// Starts a server that may serve or refuse to, and waits until it has done either. Returns how it
    /// ended if it refused.
    pub(crate) fn spawn_and_settle(&mut self) -> Option<Ended> {
        self.spawn();
        let running = self.running.as_mut().expect("just spawned");
        match running.news.recv_timeout(PATIENCE) {
            Ok(News::Ready) => None,
            Ok(News::Closed) | Err(mpsc::RecvTimeoutError::Disconnected) => Some(self.wait_for_end()),
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("neither ready nor ended within {PATIENCE:?}"),
        }
    }

    /// The id of the process.
    pub(crate) fn pid(&self) -> u32 {
        self.running.as_ref().expect("the server runs").child.id()
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    fn spawn(&mut self) {
        assert!(self.running.is_none(), "the server already runs");
        let mut command = match &self.launch.before {
            None => Command::new(&self.launch.program),
            Some(before) => {
                let mut shell = Command::new(if self.launch.own_mounts { "unshare" } else { "/bin/sh" });
                if self.launch.own_mounts {
                    shell.args(["--mount", "/bin/sh"]);
                }
                // The shell executes the server, which keeps the process id.
                shell.arg("-c").arg(format!("{before} && exec \"$0\" \"$@\"")).arg(&self.launch.program);
                shell
            }
        };
        let mut child = command
            .args(self.arguments())
            .envs(self.launch.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", self.launch.program.display()));
        let stderr = child.stderr.take().expect("standard error is piped");
        let log = Arc::new(Mutex::new(VecDeque::new()));
        let (tell, news) = mpsc::channel();
        let written = Arc::clone(&log);
        thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n') {
                let Ok(line) = line else { break };
                let line = String::from_utf8_lossy(&line).into_owned();
                if line.contains(READY) {
                    tell.send(News::Ready).ok();
                }
                written.lock().expect("no reader of the log panics").push_back(line);
            }
            tell.send(News::Closed).ok();
        });
        self.running = Some(Running { child, log, news });
    }

    fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = Vec::new();
        if self.launch.default_flags {
            let client = format!("http://127.0.0.1:{}", self.client_port);
            let peer = format!("http://127.0.0.1:{}", self.peer_port);
            let given =
                |name: &str| self.launch.flags.iter().any(|flag| flag.starts_with(&format!("--{name}=")));
            for (name, value) in [
                ("name", "default".to_owned()),
                ("data-dir", self.data_dir().display().to_string()),
                ("listen-client-urls", client.clone()),
                ("advertise-client-urls", client),
                ("listen-peer-urls", peer.clone()),
                ("initial-advertise-peer-urls", peer.clone()),
                ("initial-cluster", format!("default={peer}")),
            ] {
                if !given(name) {
                    arguments.push(format!("--{name}={value}").into());
                }
            }
        }
        arguments.extend(self.launch.flags.iter().map(OsString::from));
        arguments
    }

    /// Stops the server, waits for its end, and checks that it ended normally.
    pub(crate) fn stop(&mut self) -> Ended {
        self.signal(Signal::TERM);
        let ended = self.wait_for_end();
        if subject_is_retcd() && self.launch.program == subject_program() {
            assert_eq!(
                ended.status.code(),
                Some(0),
                "SIGTERM ends a healthy server with 0: {}",
                ended.status
            );
        } else {
            // etcd ends by raising the signal again.
            assert!(
                ended.status.success() || ended.status.signal() == Some(Signal::TERM.as_raw()),
                "{}",
                ended.status
            );
        }
        ended
    }

    /// Kills the server.
    pub(crate) fn kill(&mut self) {
        let mut running = self.running.take().expect("a server to be killed runs");
        running.child.kill().expect("a running child can be killed");
        running.child.wait().expect("a child can be waited for");
    }

    /// Threads of the process at this moment.
    pub(crate) fn threads(&self) -> usize {
        let running = self.running.as_ref().expect("a server whose threads are counted runs");
        let tasks = fs::read_dir(format!("/proc/{}/task", running.child.id())).expect("Linux lists threads");
        tasks.count()
    }

    /// Files and connections that the process has open at this moment.
    pub(crate) fn open_files(&self) -> usize {
        let running = self.running.as_ref().expect("a server whose files are counted runs");
        fs::read_dir(format!("/proc/{}/fd", running.child.id())).expect("Linux lists files").count()
    }

    /// The most memory that the process has held so far.
    pub(crate) fn peak_memory_bytes(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the process runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux counts it");
        let kib: usize = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kib * 1024
    }

    pub(crate) fn restart(&mut self) {
        self.stop();
        self.start();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let running = self.running.as_ref().expect("a server to be signalled runs");
        let id = Pid::from_raw(running.child.id().cast_signed()).expect("a child's id is positive");
        rustix::process::kill_process(id, signal).expect("a running child can be signalled");
    }

    /// Waits until the process has closed its log and is gone.
    pub(crate) fn wait_for_end(&mut self) -> Ended {
        let since = Instant::now();
        let running = self.running.as_mut().expect("a server that ends was running");
        loop {
            let left = PATIENCE.saturating_sub(since.elapsed());
            match running.news.recv_timeout(left) {
                Ok(News::Ready) => {}
                Ok(News::Closed) | Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("the server still runs after {PATIENCE:?}"),
            }
        }
        let status = running.child.wait().expect("a child can be waited for");
        let took = since.elapsed();
        let log = self.log();
        self.running = None;
        if self.launch.program == subject_program() && subject_is_retcd() {
            assert_no_secret(&log);
        }
        Ended { status, log, took }
    }

    /// Waits until the log has a line with these words.
    pub(crate) fn wait_for_line(&self, words: &str) -> String {
        let since = Instant::now();
        loop {
            if let Some(line) = self.log().into_iter().find(|line| line.contains(words)) {
                return line;
            }
            assert!(since.elapsed() < PATIENCE, "no line says {words:?} within {PATIENCE:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Everything the running server has written so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.running.as_ref().map_or_else(Vec::new, |running| {
            running.log.lock().expect("no writer of the log panics").iter().cloned().collect()
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let log = self.log();
        if let Some(mut running) = self.running.take() {
            running.child.kill().ok();
            running.child.wait().ok();
        }
        if thread::panicking() {
            eprintln!("the end of the log of {}:", self.launch.program.display());
            for line in log.iter().skip(log.len().saturating_sub(LOG_LINES_SHOWN)) {
                eprintln!("  {line:.400}");
            }
        } else if self.launch.program == subject_program() && subject_is_retcd() {
            assert_no_secret(&log);
        }
    }
}

fn assert_no_secret(log: &[String]) {
    let found = canary::found_in(log.iter().map(String::as_str));
    assert!(found.is_empty(), "secrets are logged:\n{}", found.join("\n"));
}

/// Whether this user may have mounts of its own.
pub(crate) fn may_mount() -> bool {
    let tried = Command::new("unshare").args(["--mount", "true"]).status();
    tried.is_ok_and(|status| status.success())
}

/// A port below the kernel's range for outgoing connections, so that none can take it between
/// this check and the server's start. The process id spreads parallel test runs apart.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 12_000;
    const COUNT: u16 = 20_000;
    let spread = (std::process::id() % u32::from(COUNT) / 500 * 500) as u16;
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (spread + step % COUNT) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The server under test with etcd's defaults, and a connection to it.
pub(crate) fn serve() -> (Server, Client) {
    serve_with(Launch::subject())
}

pub(crate) fn serve_with(launch: Launch) -> (Server, Client) {
    let server = launch.start();
    let client = server.client();
    (server, client)
}
