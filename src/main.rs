//! retcd: a drop-in replacement for etcd.
//!
//! Modules in reading order. Above the line nothing knows a clock, chance, a task or a socket:
//! time is an argument, and what happens there happens the same way on every member.

mod apply;
mod auth;
mod lease;
mod limits;
mod mvcc;
mod pb;
mod storage;
mod turn;
mod types;
mod watch;
// ---- the line ------------------------------------------------------------------------------
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
mod chance;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
mod clock;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
mod config;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
mod http;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
mod node;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
mod raft;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
mod rpc;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
mod serve;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
mod signals;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
mod sockets;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
mod telemetry;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
mod threads;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
mod wal;

use std::{
    env,
    ffi::OsString,
    panic,
    path::{Path, PathBuf},
    process::{self, ExitCode},
    sync::Arc,
    time::Duration,
};

use tokio::{runtime, task, time};

use crate::{
    chance::Chance,
    config::{Config, Invocation},
    http::Protocols,
    node::{End, Running},
    serve::{Front, Port},
    signals::{Asked, Signals},
    sockets::{Bound, Descriptors},
    storage::{Opening, REMEDY},
    telemetry::{GoDuration, Metrics},
};

/// How long a member that has not served anybody may take to stop. What it has in hand is in its
/// log, and the next start goes on from there.
const WAITING_STOP_TIMEOUT: Duration = Duration::from_millis(1500);

/// How often a start that takes long says so.
const OPENING_TOLD_INTERVAL: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime needs nothing but memory and a few descriptors");
    let code = runtime.block_on(run());
    // A thread that is not waited for any more is reading, or writing what a kill could interrupt
    // as well.
    runtime.shutdown_background();
    code
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
        Ok(Invocation::Restore { file, data_dir }) => return restore(file, data_dir, signals).await,
        Ok(Invocation::Serve(config)) => *config,
        Err(error) => return telemetry::refuse(&error),
    };
    if let Err(message) = telemetry::init(&config) {
        return telemetry::fail("start logging", &message);
    }
    refuse_files_that_make_no_sense();
    config.log_start();
    match serve(&config, &mut signals).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            telemetry::tell_status(&message);
            tracing::error!(error = message, "retcd cannot go on");
            ExitCode::FAILURE
        }
    }
}

/// A panic over a file that is being opened is a refusal of that file, in as many words.
fn refuse_files_that_make_no_sense() {
    let others = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        let Some(path) = Opening::under_way() else { return others(panic) };
        let detail = panic.payload_as_str().unwrap_or("it makes no sense");
        let path = path.display();
        let error = format!("{path} is damaged: {detail}; {REMEDY}");
        tracing::error!(error, "retcd cannot go on");
        process::exit(1);
    }));
}

/// Restores a snapshot, unless a signal comes before that is done: then the process ends as if the
/// signal had ended it.
async fn restore(file: PathBuf, data_dir: PathBuf, mut signals: Signals) -> ExitCode {
    let restoring = task::spawn_blocking(move || restore_now(&file, &data_dir));
    tokio::select! { biased;
        asked = signals.next() => ExitCode::from(asked.exit_code()),
        code = restoring => code.expect("a restore does not panic"),
    }
}

fn restore_now(file: &Path, data_dir: &Path) -> ExitCode {
    match node::restore(file, data_dir) {
        Ok(restored) => telemetry::print(&format!(
            "restored {} keys at revision {} into {} ({})\n",
            restored.keys,
            restored.revision,
            data_dir.display(),
            restored.base
        )),
        Err(error) => telemetry::fail("restore the snapshot", &error.to_string()),
    }
}

/// Serves until a signal or a failure ends it. The error is a line for a person.
async fn serve(config: &Config, signals: &mut Signals) -> Result<(), String> {
    let (ports, mut running) = tokio::select! { biased;
        asked = signals.next() => {
            // Nobody was served, and the directory is read only: there is nothing to stop.
            begin_to_stop(config, asked);
            tell_closed(config);
            return Ok(());
        }
        opened = open(config) => opened?,
    };
    let node = tokio::select! { biased;
        asked = signals.next() => {
            begin_to_stop(config, asked);
            stop(config, running, None, Some(WAITING_STOP_TIMEOUT), signals).await;
            return Ok(());
        }
        node = running.ready() => node.map_err(|error| error.to_string())?,
    };
    let front = Front::start(&node);

    tracing::info!("ready to serve client requests");
    for port in &ports {
        tracing::info!(
            address = %port.listener.address(),
            traffic = port.protocols.as_str(),
            "serving client traffic insecurely; this is strongly discouraged!"
        );
    }
    telemetry::tell_ready("serving client requests");
    tokio::select! { biased;
        asked = signals.next() => begin_to_stop(config, asked),
        end = running.ended() => match end {
            End::Removed => {
                telemetry::tell_stopping();
                tracing::warn!("the member has been permanently removed from the cluster; shutting down");
            }
            // What is in memory is in the log too; a damaged disk is better not written to again.
            End::Failed(reason) => return Err(reason),
        },
        _ = futures_util::future::join_all(ports.into_iter().map(|port| front.accept(port))) => {}
    }
    stop(config, running, Some(front), None, signals).await;
    Ok(())
}

/// Binds all sockets, reads the data directory, and starts the member's threads.
async fn open(config: &Config) -> Result<(Vec<Port>, Running), String> {
    let descriptors = Descriptors::within(sockets::raise_limit(), config.reactors)?;
    let ports = bind(config, &descriptors)?;
    let peer_sockets = bind_peers(config)?;
    let opening = {
        let config = config.clone();
        let metrics = Arc::new(Metrics::new(&config));
        // Elsewhere, for it takes as long as there is data, and a signal must be heard meanwhile.
        task::spawn_blocking(move || node::open(config, metrics))
    };
    let opened = tell_while(opening).await.map_err(|error| error.to_string())?;
    let opened = opened.map_err(|error| error.to_string())?;
    Ok((
        ports,
        opened.run(Chance::from_system(), |node| serve::serve_peers(node, peer_sockets, descriptors.peers)),
    ))
}

/// Reading a large directory takes a while, which should not look like a server that hangs.
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

/// Ends the member: those who ask first, the disk last. It takes a thread that waits for the
/// member's; this one hears a second signal meanwhile, which ends the process at once.
#[allow(clippy::disallowed_methods)]
async fn stop(
    config: &Config,
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
                "received a second signal; ending at once. Nothing that was answered is lost: it is in the log"
            );
            process::exit(asked.exit_code().into());
        }
        () = out_of_time => tracing::warn!(
            "a thread did not end in time and is not waited for. Nothing is lost: the next start replays the log"
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

fn bind(config: &Config, descriptors: &Descriptors) -> Result<Vec<Port>, String> {
    let split = !config.listen_client_http_urls.is_empty();
    let client = if split { Protocols::Grpc } else { Protocols::GrpcAndHttp };
    let wanted = [
        ("listen-client-urls", &config.listen_client_urls, client, &descriptors.clients),
        ("listen-client-http-urls", &config.listen_client_http_urls, Protocols::Http, &descriptors.clients),
        ("listen-metrics-urls", &config.listen_metrics_urls, Protocols::Metrics, &descriptors.metrics),
    ];
    let mut ports = Vec::new();
    for (flag, urls, protocols, places) in wanted {
        for url in urls {
            let listener = sockets::bind(url, flag)?.listen(places.clone());
            ports.push(Port { listener: listener.map_err(|error| error.to_string())?, protocols });
        }
    }
    Ok(ports)
}

fn bind_peers(config: &Config) -> Result<Vec<Bound>, String> {
    config.listen_peer_urls.iter().map(|url| sockets::bind(url, "listen-peer-urls")).collect()
}
