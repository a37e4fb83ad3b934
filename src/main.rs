//! retcd: a drop-in replacement for etcd.
//!
//! The modules stand in reading order, from the lowest layer to the highest; a module uses those
//! before it, and `config` and `telemetry`. Modules before `chance` know no clock, chance, task or
//! socket: time is an argument, and the same input has the same effect on every member.

// Vocabulary: types, bounds, the wire.
mod limits;
mod pb;
#[cfg(test)]
mod planted;
mod sync;
mod turn;
mod types;

// Files: those of a directory, the database file, and those of etcd.
mod bbolt;
mod disk;
mod storage;

// The parts of the state. They do not know each other.
mod auth;
mod lease;
mod mvcc;
mod v2;
mod watch;

// Commands, and their effect on the state.
mod apply;

// What etcd's files are in terms of ours.
mod migrate;

// ---- From here on, modules touch the outside. ------------------------------------------------

// The seams to the outside: chance, time, threads, the log's files, sockets.
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
mod chance;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
mod clock;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
mod sockets;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
mod threads;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
mod tls;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
mod wal;

// The log between members.
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
mod link;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
mod raft;

// One member put together.
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
mod node;

// What clients speak to.
mod console;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
mod gateway;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
mod http;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
mod rpc;

// What the process does, for those who look into it.
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
mod profile;

// The process: listeners, signals; and what every layer may use: settings, log lines, metrics.
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
mod config;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
mod serve;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
mod signals;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
mod telemetry;

// Spans on their way to a collector.
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
mod otlp;

// SRV records.
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
mod dns;

// The tools: they know the wire, and nothing of the server.
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
mod cli;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
mod ctl;

// Who founds a new cluster: asked as a client asks.
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
mod discovery;

// The tools that know the files, and nothing of a running server.
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
mod utl;
// The world that a simulator puts members into.
#[cfg(test)]
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
mod sim;

use std::{
    env,
    ffi::{OsStr, OsString},
    panic,
    path::Path,
    process::{self, ExitCode},
    sync::Arc,
    time::Duration,
};

use rustix::mm::MlockAllFlags;
use tokio::{runtime, task, time};

use crate::{
    config::{Accepts, CheckCommand, Config, ExportCommand, Invocation, RestoreCommand, TransportSecurity},
    http::Protocols,
    node::{CheckStep, End, Outside, RestoreError, RestoreStep, Restored, Running},
    otlp::Exporter,
    serve::{Front, Port},
    signals::{Asked, Signals},
    sockets::{Bound, Descriptors, Places},
    storage::name_damaged_files,
    telemetry::{GoDuration, LogFiles, Metrics, Terminal},
    tls::{Acceptor, Endpoint, Trust},
};

/// jemalloc returns freed memory to the system, also between two busy hours, and costs a call less than the system's
/// allocator, which keeps what a burst of calls has scattered (decision 0033).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The settings that jemalloc reads when it starts, under the name that it looks for. Pages that were freed stay for a
/// quarter of a second. With its default of ten seconds, pages of answers that had long been sent were half as much again
/// as the answers that were being sent (decision 0033). Samples for heap profiles are not taken until a server with
/// `--enable-pprof` asks for them; that they can be has to be said here, before the first allocation (decision 0062).
#[expect(
    unsafe_code,
    reason = "a name for the linker; jemalloc reads a pointer to a C string there, and so it is one"
)]
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static ALLOCATOR_SETTINGS: &[u8; 81] =
    b"dirty_decay_ms:250,prof:true,prof_active:false,prof_accum:true,lg_prof_sample:19\0";

/// How long a member that has not served a client yet may take to stop. After that the process exits
/// without waiting: everything the member has accepted is in its log, and the next start replays it.
const WAITING_STOP_TIMEOUT: Duration = Duration::from_millis(1500);

/// How often the log says that the data directory is still being opened.
const OPENING_TOLD_INTERVAL: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime needs nothing but memory and a few descriptors");
    let code = runtime.block_on(async {
        match Tool::named() {
            Some((tool, args)) => tool.run(&args).await,
            None => run().await,
        }
    });
    // The blocking threads that may still run either read, or write files that also survive a kill
    // of the process at any moment. The exit therefore does not wait for them.
    runtime.shutdown_background();
    code
}

/// What the binary is, other than the server. A tool gets the signals that end a process: it installs no handlers
/// for them.
#[derive(Clone, Copy)]
enum Tool {
    /// `etcdctl`, under this name or as `retcd ctl`.
    Ctl { program: &'static str },
    /// `etcdutl`, under this name or as `retcd utl`.
    Utl { program: &'static str },
    /// `retcd follow`.
    Follow,
}

impl Tool {
    /// By the name that the binary was called under, or by its first argument; and the other arguments. Under any
    /// other name, such as `etcd`, it is the server.
    fn named() -> Option<(Tool, Vec<OsString>)> {
        let mut words = env::args_os();
        let called = words.next().unwrap_or_default();
        let mut args: Vec<OsString> = words.collect();
        match Path::new(&called).file_name().and_then(OsStr::to_str) {
            Some("etcdctl") => return Some((Tool::Ctl { program: "etcdctl" }, args)),
            Some("etcdutl") => return Some((Tool::Utl { program: "etcdutl" }, args)),
            _ => {}
        }
        let tool = match args.first().and_then(|word| word.to_str()) {
            Some("ctl") => Tool::Ctl { program: "retcd ctl" },
            Some("utl") => Tool::Utl { program: "retcd utl" },
            Some("follow") => Tool::Follow,
            _ => return None,
        };
        Some((tool, args.split_off(1)))
    }

    #[allow(clippy::disallowed_methods)]
    async fn run(self, args: &[OsString]) -> ExitCode {
        let variables: Vec<(OsString, OsString)> = env::vars_os().collect();
        match self {
            Tool::Ctl { program } => cli::run(&ctl::ROOT, program, args, &variables).await,
            Tool::Follow => cli::run(&ctl::FOLLOW, "retcd follow", args, &variables).await,
            Tool::Utl { program } => {
                name_damaged_files(|error| {
                    telemetry::fail("read a database", error);
                });
                cli::run(&utl::ROOT, program, args, &variables).await
            }
        }
    }
}

#[allow(clippy::disallowed_methods)]
async fn run() -> ExitCode {
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => return telemetry::fail("listen for signals", &error.to_string()),
    };
    let args: Vec<OsString> = env::args_os().skip(1).collect();
    let variables: Vec<(OsString, OsString)> = env::vars_os().collect();
    let config = match Config::load(&args, &variables) {
        Ok(Invocation::Print(text)) => return telemetry::print(&text),
        Ok(Invocation::Restore(command)) => {
            return make_directory(*command, "restore the snapshot", node::restore, signals).await;
        }
        Ok(Invocation::Import(command)) => {
            return make_directory(*command, "import", node::import, signals).await;
        }
        Ok(Invocation::Export(command)) => return export(*command, signals).await,
        Ok(Invocation::Check(command)) => return check(*command, signals).await,
        Ok(Invocation::Serve(config)) => *config,
        Err(error) => return telemetry::refuse(&error),
    };
    let log_files = match telemetry::init(&config) {
        Ok(log_files) => log_files,
        Err(message) => return telemetry::fail("start logging", &message),
    };
    let last = log_files.clone();
    name_damaged_files(move |error| {
        tracing::error!(error, "retcd stopped because of an error");
        last.flush();
    });
    flush_after_panics(log_files.clone());
    telemetry::log_start(&config);
    let code = match serve_with(&config, &log_files, &mut signals).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            telemetry::tell_status(&message);
            tracing::error!(error = message, "retcd stopped because of an error");
            ExitCode::FAILURE
        }
    };
    log_files.flush();
    code
}

/// As [`serve`], with log files that are opened again at SIGHUP.
async fn serve_with(config: &Config, log_files: &LogFiles, signals: &mut Signals) -> Result<(), String> {
    if log_files.exist() {
        let log_files = log_files.clone();
        let listening = signals::at_each_hangup(move || log_files.reopen());
        listening.map_err(|error| format!("cannot listen for SIGHUP: {error}"))?;
    }
    if config.memory_mlock {
        lock_memory()?;
    }
    if config.pprof {
        profile::sample_allocations().await;
    }
    serve(config, log_files, signals).await
}

/// Keeps what is in memory from being swapped out, and what will be from when it is first used.
fn lock_memory() -> Result<(), String> {
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    rustix::mm::mlockall(flags).map_err(|error| {
        format!(
            "cannot lock memory for --memory-mlock: {error}; raise the limit of locked memory (`ulimit -l`, LimitMEMLOCK= in \
             a systemd unit), or remove the flag"
        )
    })
}

/// A panic ends the process. What led to it may still be on its way to the log files.
fn flush_after_panics(log_files: LogFiles) {
    let others = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        others(panic);
        log_files.flush();
    }));
}

type Restore = fn(&RestoreCommand, &mut dyn FnMut(RestoreStep)) -> Result<Restored, RestoreError>;

/// Makes a data directory. A signal that arrives before it is done ends the process with the exit code of that
/// signal.
async fn make_directory(
    command: RestoreCommand,
    attempt: &'static str,
    make: Restore,
    signals: Signals,
) -> ExitCode {
    name_damaged_files(|error| {
        telemetry::fail("read a database", error);
    });
    unless_asked(signals, move || {
        let mut terminal = Terminal::default();
        match make(&command, &mut |step| terminal.show(|| step.to_string())) {
            Ok(restored) => {
                terminal.clear();
                telemetry::print(&restored.summary(&command))
            }
            Err(error) => {
                terminal.clear();
                telemetry::fail(attempt, &error.to_string())
            }
        }
    })
    .await
}

async fn export(command: ExportCommand, signals: Signals) -> ExitCode {
    name_damaged_files(|error| {
        telemetry::fail("read a database", error);
    });
    unless_asked(signals, move || {
        let mut terminal = Terminal::default();
        let exported = node::export(&command, &mut |written, total| {
            terminal.show(|| format!("written {} of {} MiB", written >> 20, total >> 20));
        });
        terminal.clear();
        match exported {
            Ok(exported) => telemetry::print(&format!(
                "exported {} keys at revision {} to {} ({} bytes)\n",
                exported.keys,
                exported.revision,
                command.file.display(),
                exported.bytes
            )),
            Err(error) => telemetry::fail("export the data directory", &error.to_string()),
        }
    })
    .await
}

/// The exit code is 1 if something is damaged.
async fn check(command: CheckCommand, signals: Signals) -> ExitCode {
    name_damaged_files(|error| {
        telemetry::fail("check the data directory", error);
    });
    unless_asked(signals, move || {
        let mut terminal = Terminal::default();
        let checked = node::check(&command, &mut |step| terminal.show(|| progress_of_check(step)));
        terminal.clear();
        match checked {
            Ok(report) => match (telemetry::print(&report.to_string()), report.places()) {
                (printed, 0) => printed,
                (_, _) => ExitCode::FAILURE,
            },
            Err(error) => telemetry::fail("check the data directory", &error.to_string()),
        }
    })
    .await
}

fn progress_of_check(step: CheckStep) -> String {
    match step {
        CheckStep::Log { segment, segments } => format!("read {segment} of {segments} segments of the log"),
        CheckStep::Pages => "checking the pages of the database".to_owned(),
        CheckStep::Records { read, total } => format!("read {read} of {total} revisions"),
        CheckStep::Opening => "opening the member as a start would".to_owned(),
    }
}

async fn unless_asked(mut signals: Signals, work: impl FnOnce() -> ExitCode + Send + 'static) -> ExitCode {
    let working = task::spawn_blocking(work);
    tokio::select! { biased;
        asked = signals.next() => ExitCode::from(asked.exit_code()),
        code = working => code.expect("the work of a command does not panic"),
    }
}

/// Serves until a signal arrives or the member fails. The error is a message for the operator.
async fn serve(config: &Config, log_files: &LogFiles, signals: &mut Signals) -> Result<(), String> {
    let (ports, mut running) = tokio::select! { biased;
        asked = signals.next() => {
            // No client was served, and opening only reads the directory: there is nothing to stop.
            begin_to_stop(config, asked);
            tell_closed(config);
            return Ok(());
        }
        opened = open(config) => opened?,
    };
    let node = tokio::select! { biased;
        asked = signals.next() => {
            begin_to_stop(config, asked);
            stop(config, log_files, running, None, Some(WAITING_STOP_TIMEOUT), signals).await;
            return Ok(());
        }
        node = running.ready() => node.map_err(|error| error.to_string())?,
    };
    let exporter = match (&config.tracing, &node.metrics().tracer) {
        (Some(settings), Some(tracer)) => Some(Exporter::start(settings, tracer.clone())?),
        _ => None,
    };
    let front = Front::start(&node);

    tracing::info!("ready to serve client requests");
    for Port { listener, protocols } in &ports {
        let (address, traffic) = (listener.address(), protocols.as_str());
        let accepts = listener.accepts();
        if accepts != Accepts::Tls {
            tracing::info!(
                %address,
                traffic,
                "serving client traffic insecurely; this is strongly discouraged!"
            );
        }
        if accepts != Accepts::Plaintext {
            tracing::info!(%address, traffic, "serving client traffic securely");
        }
    }
    telemetry::tell_ready("serving client requests");
    tokio::select! { biased;
        asked = signals.next() => begin_to_stop(config, asked),
        end = running.ended() => match end {
            End::Removed => {
                telemetry::tell_stopping();
                tracing::warn!("the member has been permanently removed from the cluster; shutting down");
            }
            // The state in memory is in the log too, and a damaged disk should not be written to again.
            End::Failed(reason) => return Err(reason),
        },
        _ = futures_util::future::join_all(ports.into_iter().map(|port| front.accept(port))) => {}
    }
    stop(config, log_files, running, Some(front), None, signals).await;
    if let Some(exporter) = exporter {
        exporter.stop().await;
    }
    Ok(())
}

/// Binds all sockets, reads the data directory, and starts the member's threads.
async fn open(config: &Config) -> Result<(Vec<Port>, Running), String> {
    let descriptors = Descriptors::within(sockets::raise_limit(), config.reactors)?;
    let binding = {
        let (config, descriptors) = (config.clone(), descriptors.clone());
        task::spawn_blocking(move || Ok::<_, String>((bind(&config, &descriptors)?, bind_peers(&config)?)))
    };
    let (sockets, peer_sockets) = binding.await.map_err(|error| error.to_string())??;
    let mut ports = Vec::new();
    for (bound, protocols, places) in sockets {
        let listener = bound.listen(places).map_err(|error| error.to_string())?;
        ports.push(Port { listener, protocols });
    }
    let opening = {
        let config = config.clone();
        let metrics = Arc::new(Metrics::new(&config));
        // On another thread: opening takes time in proportion to the data, and this thread has to
        // handle signals meanwhile.
        task::spawn_blocking(move || {
            let outside = Outside::of_process(&config, discovery::find);
            threads::wait(node::open(config, metrics, outside))
        })
    };
    let opened = tell_while(opening).await.map_err(|error| error.to_string())?;
    let opened = opened.map_err(|error| error.to_string())?;
    let running = opened.run(|node| serve::serve_peers(node, peer_sockets, descriptors.peers));
    Ok((ports, running))
}

/// Logs at intervals that a large directory is still being opened, so that the server does not look as
/// if it hangs.
#[allow(clippy::disallowed_methods)]
async fn tell_while<T>(mut opening: task::JoinHandle<T>) -> Result<T, task::JoinError> {
    let start = time::Instant::now();
    loop {
        tokio::select! { biased;
            opened = &mut opening => return opened,
            () = time::sleep(OPENING_TOLD_INTERVAL) => {
                let waited = GoDuration(start.elapsed());
                telemetry::tell_status("opening the data directory");
                tracing::info!(%waited, "still opening the data directory");
            }
        }
    }
}

fn begin_to_stop(config: &Config, asked: Asked) {
    telemetry::tell_stopping();
    tracing::info!(signal = asked.name(), "received signal; shutting down");
    tracing::info!(
        name = config.name,
        "data-dir" = %config.data_dir.display(),
        "advertise-peer-urls" = ?telemetry::list(&config.initial_advertise_peer_urls),
        "advertise-client-urls" = ?telemetry::list(&config.advertise_client_urls),
        "closing etcd server"
    );
}

/// Stops the clients' connections first and the member's disk thread last. A blocking thread waits for
/// the member's threads, while this thread handles a second signal, which ends the process at once.
#[allow(clippy::disallowed_methods)]
async fn stop(
    config: &Config,
    log_files: &LogFiles,
    running: Running,
    front: Option<Front>,
    patience: Option<Duration>,
    signals: &mut Signals,
) {
    let began = time::Instant::now().into_std();
    let stopping = task::spawn_blocking(move || {
        running.announce_stop();
        if let Some(front) = front {
            front.stop();
        }
        running.stop();
    });
    let out_of_time = async {
        match patience {
            Some(patience) => time::sleep(patience).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! { biased;
        stopped = stopping => stopped.expect("no thread of the member has panicked"),
        asked = signals.next_request(began) => {
            tracing::warn!(
                signal = asked.name(),
                "received a second signal; exiting at once. No acknowledged write is lost: all of them are in the log"
            );
            log_files.flush();
            process::exit(asked.exit_code().into());
        }
        () = out_of_time => tracing::warn!(
            "the member did not stop in time; exiting without waiting. No data is lost: the next start replays the log"
        ),
    }
    tell_closed(config);
}

fn tell_closed(config: &Config) {
    tracing::info!(
        name = config.name,
        "data-dir" = %config.data_dir.display(),
        "advertise-peer-urls" = ?telemetry::list(&config.initial_advertise_peer_urls),
        "advertise-client-urls" = ?telemetry::list(&config.advertise_client_urls),
        "closed etcd server"
    );
}

/// Binds the sockets for clients. It blocks while names are resolved.
fn bind(config: &Config, descriptors: &Descriptors) -> Result<Vec<(Bound, Protocols, Places)>, String> {
    let split = !config.listen_client_http_urls.is_empty();
    let client = if split { Protocols::Grpc } else { Protocols::GrpcAndHttp };
    let wanted = [
        ("listen-client-urls", &config.listen_client_urls, client, &descriptors.clients),
        ("listen-client-http-urls", &config.listen_client_http_urls, Protocols::Http, &descriptors.clients),
        ("listen-metrics-urls", &config.listen_metrics_urls, Protocols::Metrics, &descriptors.metrics),
    ];
    let acceptor = acceptor(&config.client_security, Endpoint::Client)?;
    let of_metrics = acceptor.as_ref().map(Acceptor::with_san_check);
    let mut sockets = Vec::new();
    for (flag, urls, protocols, places) in wanted {
        let acceptor = if protocols == Protocols::Metrics { &of_metrics } else { &acceptor };
        for url in urls {
            let bound = sockets::bind(url, flag, acceptor.as_ref(), config.socket_options)?;
            sockets.extend(bound.into_iter().map(|bound| (bound, protocols, places.clone())));
        }
    }
    Ok(sockets)
}

/// Binds the sockets for peers. It blocks while names are resolved.
fn bind_peers(config: &Config) -> Result<Vec<Bound>, String> {
    let acceptor = acceptor(&config.peer_security, Endpoint::Peer)?;
    if acceptor.is_some() {
        // What is wrong with these files is found now, and not when a peer is dialled.
        Trust::new(&config.peer_security).read().map_err(|error| error.to_string())?;
    }
    let bind = |url| sockets::bind(url, "listen-peer-urls", acceptor.as_ref(), config.socket_options);
    let bound = config.listen_peer_urls.iter().map(bind).collect::<Result<Vec<_>, _>>()?;
    Ok(bound.into_iter().flatten().collect())
}

/// What accepts TLS connections. The certificates are read here, or made if they are to be generated.
fn acceptor(security: &TransportSecurity, endpoint: Endpoint) -> Result<Option<Acceptor>, String> {
    Acceptor::open(security, endpoint).map_err(|error| error.to_string())
}
