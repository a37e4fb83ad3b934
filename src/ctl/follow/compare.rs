//! All keys of two clusters side by side: what differs, or whether nothing does.

use std::{cmp::Ordering, fmt};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{batch::Change, patience::patiently};
use crate::{
    ctl::{
        client::{Client, ClientError},
        pages::{At, Pages},
        ranges::OPEN_END,
    },
    pb::mvccpb::KeyValue,
};

/// Everything.
fn all() -> (Vec<u8>, Vec<u8>) {
    (b"\0".to_vec(), OPEN_END.to_vec())
}

/// Goes through the keys of both in order.
pub(super) struct Differences<'a> {
    source: Side<'a>,
    destination: Side<'a>,
    pub(super) compared: u64,
}

struct Side<'a> {
    pages: Pages<'a>,
    /// The key that was read last and has not been compared.
    next: Option<KeyValue>,
}

impl<'a> Differences<'a> {
    pub(super) fn between(source: &'a Client, destination: &'a Client) -> Differences<'a> {
        let side = |client| Side { pages: Pages::new(client, all(), At::Newest), next: None };
        Differences { source: side(source), destination: side(destination), compared: 0 }
    }

    /// The revision of the source behind which everything has to be followed: pages are read later than that, and what
    /// they have of a later revision is written once more by what is followed.
    pub(super) async fn source_revision(&mut self) -> Result<i64, ClientError> {
        let pages = &mut self.source.pages;
        patiently(async || pages.begun_at().await).await
    }

    /// The next key that differs, and what has to become of it at the destination.
    pub(super) async fn next(&mut self) -> Result<Option<(Bytes, Change)>, ClientError> {
        loop {
            self.source.fill().await?;
            self.destination.fill().await?;
            let order = match (&self.source.next, &self.destination.next) {
                (None, None) => return Ok(None),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(source), Some(destination)) => source.key.cmp(&destination.key),
            };
            self.compared += 1;
            let theirs = if order.is_ge() { self.destination.next.take() } else { None };
            let ours = if order.is_le() { self.source.next.take() } else { None };
            match (ours, theirs) {
                (Some(ours), Some(theirs)) if ours.value == theirs.value && ours.lease == theirs.lease => {}
                (Some(ours), _) => {
                    return Ok(Some((ours.key, Change::Put { value: ours.value, lease: ours.lease })));
                }
                (None, Some(theirs)) => return Ok(Some((theirs.key, Change::Delete))),
                (None, None) => return Ok(None),
            }
        }
    }
}

impl Side<'_> {
    async fn fill(&mut self) -> Result<(), ClientError> {
        if self.next.is_none() {
            let pages = &mut self.pages;
            self.next = patiently(async || pages.next().await).await?;
        }
        Ok(())
    }
}

/// How many keys a cluster has, and a hash of all keys and values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) keys: u64,
    hash: [u8; 32],
}

impl Totals {
    /// At a revision; 0 is the newest. Returns that revision too.
    pub(super) async fn of(client: &Client, revision: i64) -> Result<(i64, Totals), ClientError> {
        let mut pages = Pages::new(client, all(), At::One(revision));
        let begun_at = patiently(async || pages.begun_at().await).await?;
        let (mut keys, mut hash) = (0, Sha256::new());
        while let Some(kv) = patiently(async || pages.next().await).await? {
            keys += 1;
            for part in [&kv.key, &kv.value] {
                hash.update((part.len() as u64).to_be_bytes());
                hash.update(part);
            }
        }
        let at = if revision == 0 { begun_at } else { revision };
        Ok((at, Totals { keys, hash: hash.finalize().into() }))
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hash: String = self.hash.iter().map(|byte| format!("{byte:02x}")).collect();
        write!(f, "{} keys, SHA-256 {hash}", self.keys)
    }
}
