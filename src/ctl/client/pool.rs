//! The endpoints of a client, and a connection to each that was needed.

use std::{
    cell::{Cell, RefCell},
    io,
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::{self, Instant};

use super::{
    connection::{Connection, Keepalive},
    endpoint::{Endpoint, Security},
};
use crate::{cli::go::reason, limits, tls::Trust};

/// Endpoints are used in turn, so that calls are spread over the members. One that did not accept a connection is
/// left alone for a while, unless there is no other.
pub(super) struct Pool {
    places: Vec<Place>,
    /// For all endpoints. `None`: plaintext.
    trust: Option<Trust>,
    keepalive: Keepalive,
    turn: Cell<usize>,
    /// Why no connection was made the last time that none was.
    trouble: RefCell<Option<String>>,
}

struct Place {
    endpoint: Endpoint,
    connection: RefCell<Option<Connection>>,
    failed: Cell<Option<Instant>>,
}

/// A connection, and the endpoint that it leads to.
pub(super) struct Picked<'a> {
    pub(super) connection: Connection,
    pub(super) endpoint: &'a Endpoint,
}

impl Pool {
    pub(super) fn new(endpoints: &[String], trust: Option<Trust>, keepalive: Keepalive) -> Pool {
        let endpoints: Vec<Endpoint> = endpoints.iter().map(|text| Endpoint::parse(text)).collect();
        // The first endpoint decides for all whether there is TLS, as in etcd's client.
        let trust = match endpoints.first().map(|endpoint| endpoint.security) {
            Some(Security::Required) => Some(trust.unwrap_or_else(|| Trust::of_client(None, None, false))),
            Some(Security::ByFlags) => trust,
            Some(Security::None) | None => None,
        };
        let place = |endpoint| Place { endpoint, connection: RefCell::new(None), failed: Cell::new(None) };
        let places = endpoints.into_iter().map(place).collect();
        Pool { places, trust, keepalive, turn: Cell::new(0), trouble: RefCell::new(None) }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Why there is no connection.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.borrow().clone()
    }

    /// A connection to the endpoint whose turn it is, or to another that can be reached. Waits until there is one.
    pub(super) async fn pick(&self) -> Picked<'_> {
        let mut pause = limits::CTL_REDIAL_MIN;
        loop {
            if let Some(picked) = self.try_pick().await {
                *self.trouble.borrow_mut() = None;
                return picked;
            }
            time::sleep(pause).await;
            pause = (pause * 2).min(limits::CTL_REDIAL_MAX);
        }
    }

    /// Each endpoint is given some time, and then the next one is dialled as well; the first that accepts is used.
    async fn try_pick(&self) -> Option<Picked<'_>> {
        let mut waiting = self.in_order().into_iter();
        let mut dialling = FuturesUnordered::new();
        let mut next = waiting.next();
        loop {
            if let Some(place) = next.take() {
                if let Some(connection) = place.open() {
                    return Some(Picked { connection, endpoint: &place.endpoint });
                }
                dialling.push(self.dial(place));
            }
            let head_start = async {
                match waiting.len() {
                    0 => std::future::pending().await,
                    _ => time::sleep(limits::CTL_DIAL_HEAD_START).await,
                }
            };
            tokio::select! { biased;
                dialled = dialling.next(), if !dialling.is_empty() => match dialled {
                    Some(Some(picked)) => return Some(picked),
                    _ => next = waiting.next(),
                },
                () = head_start => next = waiting.next(),
            }
            if next.is_none() && dialling.is_empty() {
                return None;
            }
        }
    }

    /// All endpoints, from the one whose turn it is; those that failed recently are last.
    fn in_order(&self) -> Vec<&Place> {
        let len = self.places.len();
        let turn = self.turn.get();
        self.turn.set((turn + 1) % len);
        let mut order: Vec<&Place> = (0..len).map(|step| &self.places[(turn + step) % len]).collect();
        order.sort_by_key(|place| place.has_failed_recently());
        order
    }

    async fn dial<'a>(&'a self, place: &'a Place) -> Option<Picked<'a>> {
        let Place { endpoint, connection, failed } = place;
        match Connection::dial(endpoint, self.trust.as_ref(), self.keepalive).await {
            Ok(made) => {
                failed.set(None);
                *connection.borrow_mut() = Some(made.clone());
                Some(Picked { connection: made, endpoint })
            }
            Err(error) => {
                failed.set(Some(Instant::now()));
                *self.trouble.borrow_mut() = Some(format!("{}: {}", endpoint.text, told(&error)));
                None
            }
        }
    }
}

impl Place {
    /// The connection, if it is still one.
    fn open(&self) -> Option<Connection> {
        let mut connection = self.connection.borrow_mut();
        if connection.as_ref().is_some_and(Connection::is_closed) {
            *connection = None;
        }
        connection.clone()
    }

    fn has_failed_recently(&self) -> bool {
        const LEFT_ALONE: Duration = Duration::from_secs(1);
        self.failed.get().is_some_and(|failed| failed.elapsed() < LEFT_ALONE)
    }
}

fn told(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::TimedOut => "no answer".to_owned(),
        _ => reason(error),
    }
}
