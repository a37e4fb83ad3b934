//! The files of the page.

use axum::response::{IntoResponse, Response};
use http::{HeaderName, StatusCode, header};

/// The page may use what comes from this server, and nothing else. It may not be framed.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const IMAGE: &str = "image/svg+xml";

macro_rules! file {
    ($name:literal, $kind:expr) => {
        ($name, $kind, include_str!(concat!("page/", $name)))
    };
}

/// Name, type and content.
const FILES: &[(&str, &str, &str)] = &[
    file!("index.html", HTML),
    file!("style.css", STYLE),
    file!("icon.svg", IMAGE),
    file!("main.js", SCRIPT),
    file!("bytes.js", SCRIPT),
    file!("cluster.js", SCRIPT),
    file!("diff.js", SCRIPT),
    file!("dom.js", SCRIPT),
    file!("format.js", SCRIPT),
    file!("health.js", SCRIPT),
    file!("keys.js", SCRIPT),
    file!("leases.js", SCRIPT),
    file!("listing.js", SCRIPT),
    file!("live.js", SCRIPT),
    file!("plot.js", SCRIPT),
    file!("rows.js", SCRIPT),
    file!("samples.js", SCRIPT),
    file!("server.js", SCRIPT),
    file!("users.js", SCRIPT),
    file!("value.js", SCRIPT),
];

/// A file of the page, or 404.
pub(super) fn serve(name: &str) -> Response {
    let Some((_, kind, content)) = FILES.iter().find(|(known, ..)| *known == name) else {
        return (StatusCode::NOT_FOUND, "404 page not found\n").into_response();
    };
    let headers: [(HeaderName, &str); 5] = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // The binary may be another one after a restart.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, *content).into_response()
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn every_file_of_the_page_is_served_and_the_page_is_small() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/console/page");
        let mut names: Vec<String> = fs::read_dir(page)
            .expect("the folder of the page")
            .map(|entry| entry.expect("a file").file_name().into_string().expect("a name in ASCII"))
            .collect();
        names.sort();
        let mut served: Vec<&str> = FILES.iter().map(|(name, ..)| *name).collect();
        served.sort_unstable();
        assert_eq!(served, names);
        let bytes: usize = FILES.iter().map(|(.., content)| content.len()).sum();
        assert!(bytes < 200_000, "the page has {bytes} bytes, before any compression");
    }

    #[test]
    fn a_page_comes_with_a_policy() {
        let page = serve("index.html");
        assert_eq!(page.status(), StatusCode::OK);
        assert!(page.headers()[header::CONTENT_SECURITY_POLICY].to_str().expect("text").contains("'none'"));
        assert_eq!(serve("../mod.rs").status(), StatusCode::NOT_FOUND);
    }
}
