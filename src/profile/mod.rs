//! `/debug/pprof/`, with `--enable-pprof`: what the process does, for `go tool pprof` and for people.
//!
//! The paths are Go's. Profiles of the CPU are in pprof's format; what Go's runtime has and this process has not is
//! answered with 501 and the reason.

mod cpu;
mod encode;
mod tasks;

use std::time::Duration;

use axum::{
    Router,
    body::Body,
    extract::Query,
    http::{StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use serde::Deserialize;

use crate::limits;

/// How long a profile of the CPU takes unless the request says otherwise, as in Go.
const SECONDS_DEFAULT: u64 = 30;

const INDEX: &str = "<!DOCTYPE html>
<html><head><title>/debug/pprof/</title></head><body>
<p>/debug/pprof/</p>
<ul>
<li><a href=\"profile?seconds=10\">profile</a>: where the CPU time of the next seconds goes, for <code>go tool pprof</code></li>
<li><a href=\"goroutine?debug=2\">goroutine</a>: the threads, what they do, and the CPU time that each has taken</li>
<li><a href=\"cmdline\">cmdline</a>: the command line</li>
</ul>
</body></html>
";

/// The routes. The command line of the process is an argument, because only `main` looks at it.
pub(crate) fn router() -> Router {
    let mut router = Router::new()
        .route("/debug/pprof/", get(async || Html(INDEX)))
        .route("/debug/pprof/cmdline", get(async || plain(tasks::command_line())))
        .route("/debug/pprof/goroutine", get(async || plain(tasks::threads())))
        .route(
            "/debug/pprof/symbol",
            get(async || plain("num_symbols: 1\n".to_owned())).post(async || {
                // Profiles have names already.
                plain(String::new())
            }),
        )
        .route("/debug/pprof/profile", get(profile));
    for (path, why) in [
        (
            "heap",
            "the allocator is built without sampling; the metric process_resident_memory_bytes says how much is used",
        ),
        ("allocs", "the allocator is built without sampling"),
        ("block", "waits are not recorded; /debug/pprof/profile shows what runs"),
        ("mutex", "waits are not recorded; /debug/pprof/profile shows what runs"),
        ("threadcreate", "threads are listed in /debug/pprof/goroutine"),
        ("trace", "there is no Go runtime; --enable-distributed-tracing has spans of requests"),
    ] {
        let refuse = async move || (StatusCode::NOT_IMPLEMENTED, format!("no {path} profile: {why}\n"));
        router = router.route(&format!("/debug/pprof/{path}"), get(refuse));
    }
    router
}

#[derive(Deserialize)]
struct Options {
    seconds: Option<String>,
}

/// Go answers a `seconds` that is no number as if it were not there.
async fn profile(Query(options): Query<Options>) -> Response {
    let asked = options.seconds.and_then(|seconds| seconds.parse().ok()).filter(|seconds| *seconds > 0);
    let time = Duration::from_secs(asked.unwrap_or(SECONDS_DEFAULT));
    if time > limits::PROFILE_TIME_MAX {
        let most = limits::PROFILE_TIME_MAX.as_secs();
        return (StatusCode::BAD_REQUEST, format!("a profile takes at most {most} seconds\n"))
            .into_response();
    }
    match cpu::profile(time).await {
        Ok(bytes) => {
            let headers = [
                (header::CONTENT_TYPE, "application/octet-stream"),
                (header::CONTENT_DISPOSITION, "attachment; filename=\"profile\""),
            ];
            (headers, Body::from(bytes)).into_response()
        }
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("Could not enable CPU profiling: {error}\n"))
                .into_response()
        }
    }
}

fn plain(text: String) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}
