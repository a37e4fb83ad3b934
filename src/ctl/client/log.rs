//! The lines of etcd's client on stderr. Tools that drive etcdctl look for them.

use std::{fmt, time::SystemTime};

use super::error::ClientError;
use crate::cli::{go::json_string, output::complain};

/// A call did not succeed, and may be made again.
pub(super) fn failed_attempt(endpoint: &str, path: &str, attempt: usize, error: &ClientError) {
    let error = json_string(&in_full(error));
    write(format_args!(
        "\"msg\":\"retrying of unary invoker failed\",\"target\":{},\"method\":\"{path}\",\"attempt\":{attempt},\"error\":{error}",
        json_string(&format!("etcd-endpoints://{endpoint}"))
    ));
}

/// With the code, also where etcdctl shows the text alone.
fn in_full(error: &ClientError) -> String {
    match error {
        ClientError::Status(status) => ClientError::in_full(status),
        other => other.to_string(),
    }
}

fn write(fields: fmt::Arguments<'_>) {
    let now = humantime::format_rfc3339_micros(SystemTime::now());
    complain(format_args!("{{\"level\":\"warn\",\"ts\":\"{now}\",\"logger\":\"etcd-client\",{fields}}}"));
}
