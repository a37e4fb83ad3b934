//! The version 2 API, compared with etcd 3.4 request by request, and by itself.

mod accounts;
mod compared;
mod ctl;
mod expiry;
mod rough;
mod survival;
mod tutorial;
mod wire;

use crate::server::{Launch, Server};

/// A server with the version 2 API.
fn subject() -> Server {
    Launch::subject().flag("enable-v2", true).start()
}

/// A server under test and an etcd 3.4 beside it; `None` if there is no etcd 3.4.
fn pair() -> Option<[Server; 2]> {
    let etcd = Launch::etcd34()?.start();
    Some([subject(), etcd])
}
