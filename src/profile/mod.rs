//! `/debug/pprof/`, with `--enable-pprof`: what the process does, for `go tool pprof` and for people.
//!
//! The paths are Go's. Profiles of the CPU and of the heap are in pprof's format; what Go's runtime has and this process
//! has not is answered with 501 and the reason.

mod cpu;
mod dump;
mod encode;
mod heap;
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

use self::heap::Shown;
pub(crate) use self::heap::begin as sample_allocations;
use crate::limits;

/// How long a profile of the CPU takes unless the request says otherwise, as in Go.
const SECONDS_DEFAULT: u64 = 30;

const INDEX: &str = "<!DOCTYPE html>
<html><head><title>/debug/pprof/</title></head><body>
<p>/debug/pprof/</p>
<ul>
<li><a href=\"profile?seconds=10\">profile</a>: where the CPU time of the next seconds goes, for <code>go tool pprof</code></li>
<li><a href=\"heap?debug=1\">heap</a>: which functions have allocated the memory that is in use, for <code>go tool pprof</code></li>
<li><a href=\"allocs?debug=1\">allocs</a>: the same, with all that was ever allocated shown first</li>
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
        .route("/debug/pprof/profile", get(profile))
        .route("/debug/pprof/heap", get(async |options| heap("heap", Shown::InUse, options).await))
        .route("/debug/pprof/allocs", get(async |options| heap("allocs", Shown::Allocated, options).await));
    for (path, why) in [
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
    debug: Option<String>,
}

/// Go answers a `seconds` that is no number as if it were not there.
async fn profile(Query(options): Query<Options>) -> Response {
    let asked = options.seconds.and_then(|seconds| seconds.parse().ok()).filter(|seconds| *seconds > 0);
    let time = Duration::from_secs(asked.unwrap_or(SECONDS_DEFAULT));
    if time > limits::PROFILE_TIME_MAX {
        return too_long();
    }
    match cpu::profile(time).await {
        Ok(bytes) => attachment("profile", bytes),
        Err(error) => failure(format!("Could not enable CPU profiling: {error}\n")),
    }
}

/// With `seconds` it is what has changed within them; with `debug`, text.
async fn heap(name: &str, shown: Shown, Query(options): Query<Options>) -> Response {
    let bad = |why: &str| (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response();
    let as_text = options.debug.and_then(|debug| debug.parse::<i64>().ok()).is_some_and(|debug| debug != 0);
    let seconds = options.seconds.filter(|seconds| !seconds.is_empty());
    let Some(seconds) = seconds else {
        let answer = match as_text {
            true => heap::text().await.map(plain),
            false => heap::profile(shown, None).await.map(|bytes| attachment(name, bytes)),
        };
        return answer.unwrap_or_else(|error| failure(format!("Could not profile the heap: {error}\n")));
    };
    let Some(period) = seconds.parse().ok().filter(|seconds| *seconds > 0).map(Duration::from_secs) else {
        return bad("invalid value for \"seconds\" - must be a positive integer");
    };
    if as_text {
        return bad("seconds and debug params are incompatible");
    }
    if period > limits::PROFILE_TIME_MAX {
        return too_long();
    }
    match heap::profile(shown, Some(period)).await {
        Ok(bytes) => attachment(&format!("{name}-delta"), bytes),
        Err(error) => failure(format!("Could not profile the heap: {error}\n")),
    }
}

fn too_long() -> Response {
    let most = limits::PROFILE_TIME_MAX.as_secs();
    (StatusCode::BAD_REQUEST, format!("a profile takes at most {most} seconds\n")).into_response()
}

fn attachment(name: &str, bytes: Vec<u8>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\"")),
    ];
    (headers, Body::from(bytes)).into_response()
}

fn failure(text: String) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
}

fn plain(text: String) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}
