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
mod types;
mod watch;
// ---- the line ------------------------------------------------------------------------------
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
mod telemetry;

use std::{env, net::TcpListener, path::Path, process::ExitCode, sync::Arc};

use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
};

use crate::{
    config::{Config, Invocation},
    http::Protocols,
    node::{End, Running},
    serve::{Front, Listener},
    telemetry::Metrics,
};

#[allow(clippy::disallowed_methods)]
fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let variables: Vec<(String, String)> = env::vars().collect();
    let config = match Config::load(&args, &variables) {
        Ok(Invocation::Print(text)) => return telemetry::print(&text),
        Ok(Invocation::Restore { file, data_dir }) => return restore(&file, &data_dir),
        Ok(Invocation::Serve(config)) => *config,
        Err(error) => return telemetry::refuse(&error),
    };
    if let Err(message) = telemetry::init(&config) {
        return telemetry::fail("start logging", &message);
    }
    config.log_notices();
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime needs nothing but memory and a few descriptors");
    match runtime.block_on(run(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            tracing::error!(error = message, "retcd cannot go on");
            ExitCode::FAILURE
        }
    }
}

fn restore(file: &Path, data_dir: &Path) -> ExitCode {
    match node::restore(file, data_dir) {
        Ok(restored) => telemetry::print(&format!(
            "restored {} keys at revision {} into {}\n",
            restored.keys,
            restored.revision,
            data_dir.display()
        )),
        Err(error) => telemetry::fail("restore the snapshot", &error.to_string()),
    }
}

/// Serves until a signal or a failure ends it. The error is a line for a person.
async fn run(config: Config) -> Result<(), String> {
    let listeners = bind(&config).await?;
    let peer_listeners = bind_peers(&config).await?;
    let metrics = Arc::new(Metrics::new(&config));
    let serve_peers = |node| rpc::serve_peers(node, peer_listeners);
    let mut running = node::open(config, metrics).map_err(|error| error.to_string())?.run(serve_peers);
    let node = running.ready().await.map_err(|error| error.to_string())?;
    let front = Front::start(&node);
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;

    tracing::info!("ready to serve client requests");
    for listener in &listeners {
        if let Ok(address) = listener.socket.local_addr() {
            tracing::info!(
                address = %address,
                traffic = listener.protocols.as_str(),
                "serving client traffic insecurely; this is strongly discouraged!"
            );
        }
    }
    let end = tokio::select! { biased;
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        end = running.ended() => Some(end),
        _ = futures_util::future::join_all(listeners.into_iter().map(|listener| front.accept(listener))) => None,
    };
    match end {
        None => {
            tracing::info!("received signal; shutting down");
            stop(running, front);
            tracing::info!("closed etcd server");
            Ok(())
        }
        Some(End::Removed) => {
            tracing::warn!("the member has been permanently removed from the cluster; shutting down");
            stop(running, front);
            tracing::info!("closed etcd server");
            Ok(())
        }
        // What is in memory is in the log too; a damaged disk is better not written to again.
        Some(End::Failed(reason)) => Err(reason),
    }
}

fn stop(running: Running, front: Front) {
    running.announce_stop();
    front.stop();
    running.stop();
}

async fn bind(config: &Config) -> Result<Vec<Listener>, String> {
    let split = !config.listen_client_http_urls.is_empty();
    let client = if split { Protocols::Grpc } else { Protocols::GrpcAndHttp };
    let wanted = [
        ("listen-client-urls", &config.listen_client_urls, client),
        ("listen-client-http-urls", &config.listen_client_http_urls, Protocols::Http),
        ("listen-metrics-urls", &config.listen_metrics_urls, Protocols::Metrics),
    ];
    let mut listeners = Vec::new();
    for (flag, addresses, protocols) in wanted {
        for &address in addresses {
            listeners.push(Listener { socket: serve::bind(address, flag).await?, protocols });
        }
    }
    Ok(listeners)
}

async fn bind_peers(config: &Config) -> Result<Vec<TcpListener>, String> {
    let mut listeners = Vec::new();
    for &address in &config.listen_peer_urls {
        let listener = serve::bind(address, "listen-peer-urls").await?;
        listeners.push(listener.into_std().map_err(|error| error.to_string())?);
    }
    Ok(listeners)
}
