//! etcd's discovery service: a cluster that keeps, for each token, how many members a new cluster has and which members
//! have come so far.
//!
//! ```text
//! /_etcd/registry/<token>/_config/size         3, written by whoever makes the token
//! /_etcd/registry/<token>/members/<member id>  name=url,name=url, written by each member
//! ```
//!
//! Whoever comes first belongs to the cluster. A member at its first start is a client of that service, so it is one of
//! this room's.

use std::path::Path;

use bytes::Bytes;
use tokio::time;

use super::{
    client::{Client, ClientError, Deadline, PUT, RANGE, Watcher, watch_error},
    settings::{Dial, Login},
};
use crate::{
    config::{DiscoveryService, KeyPair},
    limits,
    pb::{
        etcdserverpb::{PutRequest, RangeRequest, WatchCreateRequest},
        mvccpb::KeyValue,
    },
    tls::Trust,
};

/// What the service has said: how many members there will be, and who has come, by the order in which they came.
struct Registered {
    size: usize,
    members: Vec<Entry>,
    revision: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    key: Bytes,
    /// `name=url,name=url`
    urls: String,
    create_revision: i64,
}

struct Registry<'a> {
    client: Client,
    service: &'a DiscoveryService,
    attempts: u32,
}

/// Why a step has failed.
enum Trouble {
    /// It will fail again.
    Final(String),
    /// The service may answer later.
    Passing(ClientError),
}

/// Registers this member with the service, waits until the cluster is complete, and returns its members as
/// `--initial-cluster` lists them. While the service cannot be reached, it is asked again and again.
pub(crate) async fn join_cluster(
    service: &DiscoveryService,
    member_id: &str,
    own_urls: &str,
) -> Result<String, String> {
    let client = open(service).await?;
    let mut registry = Registry { client, service, attempts: 0 };
    let own_key = Bytes::from(format!("{}/{member_id}", registry.prefix()));
    registry.check(&own_key).await?;
    registry.register(&own_key, own_urls).await?;
    let Registered { size, mut members, revision } = registry.check(&own_key).await?;
    registry.wait(size, &mut members, revision).await?;
    members.truncate(size);
    let cluster = members.into_iter().map(|entry| entry.urls).collect::<Vec<_>>().join(",");
    tracing::info!(cluster, "discovery joined cluster successfully");
    Ok(cluster)
}

/// A login that fails because the service cannot be reached is tried again.
async fn open(service: &DiscoveryService) -> Result<Client, String> {
    let login = match (service.user.0.split_once(':'), service.password.0.as_str()) {
        _ if service.user.0.is_empty() => Login::Nobody,
        (_, password) if !password.is_empty() => {
            Login::Password { name: service.user.0.clone(), password: password.to_owned() }
        }
        (Some((name, password)), _) => {
            Login::Password { name: name.to_owned(), password: password.to_owned() }
        }
        // There is nobody at a terminal who could be asked.
        (None, _) => return Err("--discovery-user needs a password: set --discovery-password".to_owned()),
    };
    let dial = Dial {
        endpoints: service.endpoints.clone(),
        dial_timeout: service.dial_timeout,
        keepalive_interval: service.keepalive_interval.max(limits::CTL_KEEPALIVE_MIN),
        keepalive_timeout: service.keepalive_timeout,
        request_bytes_max: limits::CTL_REQUEST_BYTES_MAX,
        answer_bytes_max: limits::CTL_ANSWER_BYTES_MAX,
        trust: trust(service)?,
        login,
    };
    let mut attempts = 0;
    loop {
        match Client::open(&dial).await {
            Ok(client) => return Ok(client),
            Err(error @ (ClientError::DeadlineExceeded | ClientError::Status(_)))
                if !error.says("etcdserver: authentication failed, invalid user ID or password") =>
            {
                attempts = pause("login", attempts, &error).await;
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// `None`: nothing asks for TLS.
fn trust(service: &DiscoveryService) -> Result<Option<Trust>, String> {
    let given = |path: &Path| (path != Path::new("")).then(|| path.to_owned());
    let (cert, key, cacert) = (given(&service.cert), given(&service.key), given(&service.cacert));
    if cert.is_some() != key.is_some() {
        return Err("--discovery-cert and --discovery-key must both be set, or neither".to_owned());
    }
    if cert.is_none() && cacert.is_none() && service.insecure_transport && !service.skip_verify {
        return Ok(None);
    }
    let pair = cert.zip(key).map(|(cert_file, key_file)| KeyPair { cert_file, key_file });
    let trust = Trust::of_client(pair, cacert, service.skip_verify);
    trust.read().map_err(|error| error.to_string())?;
    Ok(Some(trust))
}

impl Registry<'_> {
    fn prefix(&self) -> String {
        format!("/_etcd/registry/{}/members", self.service.token)
    }

    fn deadline(&self) -> Deadline {
        Deadline::within(self.service.request_timeout)
    }

    /// Who has come. It is an error if there is no room for this member any more.
    async fn check(&mut self, own_key: &Bytes) -> Result<Registered, String> {
        loop {
            match self.look().await {
                Ok(registered) => {
                    self.attempts = 0;
                    let first = registered.members.iter().take(registered.size);
                    let is_full = registered.members.len() >= registered.size;
                    if is_full && !first.map(|entry| &entry.key).any(|key| key == own_key) {
                        return Err("discovery: cluster is full".to_owned());
                    }
                    return Ok(registered);
                }
                Err(Trouble::Final(error)) => return Err(error),
                Err(Trouble::Passing(error)) => {
                    self.attempts = pause("cluster status check", self.attempts, &error).await;
                }
            }
        }
    }

    async fn look(&self) -> Result<Registered, Trouble> {
        let size_key = format!("/_etcd/registry/{}/_config/size", self.service.token);
        let request = RangeRequest { key: size_key.clone().into(), ..RangeRequest::default() };
        let answer = self.client.call(&RANGE, &request, self.deadline()).await.map_err(Trouble::Passing)?;
        let Some(kv) = answer.kvs.first() else {
            return Err(Trouble::Final(format!(
                "discovery: size key not found; put the number of members into {size_key} first"
            )));
        };
        let size = std::str::from_utf8(&kv.value).ok().and_then(|size| size.parse::<usize>().ok());
        let Some(size) = size.filter(|size| (1..=limits::DISCOVERY_MEMBERS_MAX).contains(size)) else {
            return Err(Trouble::Final(format!(
                "discovery: size key is bad; {size_key} must hold a number from 1 to {}",
                limits::DISCOVERY_MEMBERS_MAX
            )));
        };
        let prefix = self.prefix();
        let request = RangeRequest {
            key: prefix.clone().into(),
            range_end: behind(&prefix),
            ..RangeRequest::default()
        };
        let answer = self.client.call(&RANGE, &request, self.deadline()).await.map_err(Trouble::Passing)?;
        let mut members = Vec::new();
        answer.kvs.iter().for_each(|kv| add(&mut members, kv));
        Ok(Registered { size, members, revision: answer.header.map_or(0, |header| header.revision) })
    }

    async fn register(&mut self, own_key: &Bytes, own_urls: &str) -> Result<(), String> {
        let request =
            PutRequest { key: own_key.clone(), value: own_urls.to_owned().into(), ..PutRequest::default() };
        loop {
            match self.client.call(&PUT, &request, self.deadline()).await {
                Ok(_) => {
                    let key = String::from_utf8_lossy(own_key).into_owned();
                    tracing::info!(
                        "memberKey" = key,
                        "memberInfo" = own_urls,
                        "register member itself successfully"
                    );
                    self.attempts = 0;
                    return Ok(());
                }
                Err(error) => {
                    self.attempts = pause("register member itself", self.attempts, &error).await;
                }
            }
        }
    }

    /// Waits for the members that are missing.
    async fn wait(&self, size: usize, members: &mut Vec<Entry>, revision: i64) -> Result<(), String> {
        if members.len() < size {
            tracing::info!(
                "clusterSize" = size,
                "found-peers" = members.len(),
                "waiting for peers from discovery service"
            );
        }
        let mut watcher = Watcher::new(&self.client);
        let prefix = self.prefix();
        watcher
            .add(WatchCreateRequest {
                key: prefix.clone().into(),
                range_end: behind(&prefix),
                start_revision: revision + 1,
                ..WatchCreateRequest::default()
            })
            .await;
        while members.len() < size {
            let seen = watcher.next().await.map_err(|error| error.to_string())?;
            if let Some(error) = watch_error(&seen.response) {
                return Err(format!("the watch of {prefix} has ended: {error}"));
            }
            let puts = seen.response.events.iter().filter(|event| event.r#type == 0);
            puts.filter_map(|event| event.kv.as_ref()).for_each(|kv| add(members, kv));
        }
        tracing::info!(
            "clusterSize" = size,
            "found-peers" = members.len(),
            "found all needed peers from discovery service"
        );
        Ok(())
    }
}

/// The end of the range of keys with this prefix, which ends with a character that has a successor.
fn behind(prefix: &str) -> Bytes {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end.into()
}

/// Adds a member that has come, at its place. What is no member is left out with a warning.
fn add(members: &mut Vec<Entry>, kv: &KeyValue) {
    let (key, urls) = (String::from_utf8_lossy(&kv.key), String::from_utf8_lossy(&kv.value));
    let problem = if !urls.contains('=') {
        "invalid peer info returned from discovery service"
    } else if members.iter().any(|known| known.key == kv.key) {
        "found duplicate peer from discovery service"
    } else if members.len() >= limits::DISCOVERY_MEMBERS_MAX {
        "more peers in the discovery service than a cluster can have"
    } else {
        tracing::info!("memberKey" = %key, "memberInfo" = %urls, "found peer from discovery service");
        let entry =
            Entry { key: kv.key.clone(), urls: urls.trim().to_owned(), create_revision: kv.create_revision };
        let at = members.partition_point(|known| known.create_revision <= entry.create_revision);
        members.insert(at, entry);
        return;
    };
    tracing::warn!("memberKey" = %key, "memberInfo" = %urls, "{problem}");
}

/// Waits before the next attempt, and returns how many there were.
async fn pause(step: &str, attempts: u32, error: &ClientError) -> u32 {
    let attempts = attempts + 1;
    let backoff = limits::DISCOVERY_BACKOFF_MIN
        .saturating_mul(1 << attempts.min(16))
        .min(limits::DISCOVERY_BACKOFF_MAX);
    tracing::warn!(reason = step, %error, backoff = ?backoff, "retry connecting to discovery service");
    time::sleep(backoff).await;
    attempts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_first_stands_first_and_what_is_no_member_is_left_out() {
        let kv = |key: &str, value: &str, create_revision| KeyValue {
            key: key.to_owned().into(),
            value: value.to_owned().into(),
            create_revision,
            ..KeyValue::default()
        };
        let mut members = Vec::new();
        for kv in
            [kv("b", "b=http://b:1", 7), kv("a", " a=http://a:1\n", 5), kv("c", "none", 1), kv("a", "x=y", 9)]
        {
            add(&mut members, &kv);
        }
        let urls: Vec<&str> = members.iter().map(|entry| entry.urls.as_str()).collect();
        assert_eq!(urls, ["a=http://a:1", "b=http://b:1"]);
        assert_eq!(behind("/_etcd/registry/t/members"), "/_etcd/registry/t/membert");
    }
}
