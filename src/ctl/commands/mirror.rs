//! `make-mirror`: copies keys to another cluster, and goes on with what happens to them.

use std::{cell::Cell, pin::pin, time::Duration};

use futures_util::{FutureExt, future::LocalBoxFuture};
use tokio::time::{Instant, interval_at};

use crate::{
    cli::{Command, Failure, Flag, Group, Invocation, Kind, output},
    ctl::{
        client::{Client, ClientError, Deadline, PUT, TXN, Watcher, watch_error},
        pages::{At, Pages},
        ranges::{OPEN_END, prefix_end},
        settings::{Dial, Login, Security},
    },
    pb::{
        etcdserverpb::{
            DeleteRangeRequest, PutRequest, RequestOp, TxnRequest, WatchCreateRequest, request_op::Request,
        },
        mvccpb::{Event, event::EventType},
    },
};

pub(in crate::ctl) const MAKE_MIRROR: Command = Command::new(
    "make-mirror",
    "[options] <destination>",
    "Copies keys to another cluster, and keeps on copying",
)
.of(Group::Utility)
.flags(&[
    Flag::text("prefix", "only keys with this prefix"),
    Flag::int("rev", "copy nothing but what has happened from this revision on"),
    Flag::new(Kind::Uint, "max-txn-ops", "the largest number of requests in a transaction").or("128"),
    Flag::text("dest-prefix", "the prefix at the destination, instead of --prefix"),
    Flag::switch("no-dest-prefix", "no prefix at the destination"),
    Flag::text("dest-cert", "the file with the certificate to show to the destination"),
    Flag::text("dest-key", "the file with the key of that certificate"),
    Flag::text("dest-cacert", "the file with the CAs that sign the certificates of the destination"),
    Flag::switch("dest-insecure-transport", "no TLS to the destination, unless another flag asks for it")
        .or("true"),
    Flag::text("dest-user", "name[:password] of the user at the destination"),
    Flag::text("dest-password", "the password of --dest-user, which then has none itself"),
])
.runs(make_mirror);

/// How often the number of copied keys is shown.
const REPORT_INTERVAL: Duration = Duration::from_secs(30);

fn make_mirror<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        if call.args.len() != 1 {
            return Err(Failure::bad_args("make-mirror takes one destination argument"));
        }
        let session = call.session()?;
        let destination = session.client(&destination(call, &session.dial)?).await?;
        let source = session.client(&session.dial).await?;
        if call.values.switch("no-dest-prefix") && !call.values.text("dest-prefix").is_empty() {
            return Err(Failure::bad_args(
                "`--dest-prefix` and `--no-dest-prefix` cannot be set at the same time, choose one",
            ));
        }
        let mirror = Mirror::new(call, &source, &destination);
        let mut report = interval_at(Instant::now() + REPORT_INTERVAL, REPORT_INTERVAL);
        let mut copying = pin!(mirror.run());
        loop {
            tokio::select! { biased;
                ended = &mut copying => return ended.map_err(Failure::from),
                _ = report.tick() => output::line(format_args!("{}", mirror.total.get()))?,
            }
        }
    }
    .boxed_local()
}

/// How to reach the other cluster. What is not about who is asked is as it is for the first.
fn destination(call: &Invocation<'_>, source: &Dial) -> Result<Dial, Failure> {
    let values = &call.values;
    let security = Security {
        cert: values.text("dest-cert"),
        key: values.text("dest-key"),
        cacert: values.text("dest-cacert"),
        insecure_transport: values.switch("dest-insecure-transport"),
        skip_verify: false,
    };
    let (user, password) = (values.text("dest-user"), values.text("dest-password"));
    Ok(Dial {
        endpoints: vec![call.text(0)],
        trust: security.trust()?,
        login: Login::with_password(user, password, "Destination Password: ")?,
        ..source.clone()
    })
}

struct Mirror<'a> {
    source: &'a Client,
    destination: &'a Client,
    prefix: Vec<u8>,
    destination_prefix: Vec<u8>,
    /// Copying begins with this revision; 0: with the keys that are there.
    from_revision: i64,
    ops_max: usize,
    total: Cell<u64>,
}

impl<'a> Mirror<'a> {
    fn new(call: &Invocation<'_>, source: &'a Client, destination: &'a Client) -> Mirror<'a> {
        let values = &call.values;
        let prefix = values.text("prefix");
        let destination_prefix = match values.text("dest-prefix") {
            _ if values.switch("no-dest-prefix") => "",
            "" => prefix,
            given => given,
        };
        Mirror {
            source,
            destination,
            prefix: prefix.as_bytes().to_vec(),
            destination_prefix: destination_prefix.as_bytes().to_vec(),
            from_revision: values.int("rev").max(0),
            ops_max: usize::try_from(values.uint("max-txn-ops")).unwrap_or(usize::MAX),
            total: Cell::new(0),
        }
    }

    async fn run(&self) -> Result<(), ClientError> {
        // A mirror from revision 1 has everything, whatever was compacted.
        let begin = match self.from_revision {
            0 | 1 => self.copy_keys().await? + 1,
            revision => revision,
        };
        self.follow(begin).await
    }

    /// Copies the keys as they are at one revision, which is returned.
    async fn copy_keys(&self) -> Result<i64, ClientError> {
        let mut pages = Pages::new(self.source, self.range(), At::One(0));
        while let Some(kv) = pages.next().await? {
            let put =
                PutRequest { key: self.renamed(&kv.key).into(), value: kv.value, ..PutRequest::default() };
            self.destination.call(&PUT, &put, Deadline::never()).await?;
            self.count();
        }
        pages.begun_at().await
    }

    /// Copies what happens from a revision on. Each revision is a transaction, so that whoever reads the destination
    /// sees none of it or all of it, unless it is larger than a transaction may be.
    async fn follow(&self, revision: i64) -> Result<(), ClientError> {
        let (key, range_end) = self.range();
        let request = WatchCreateRequest {
            key: key.into(),
            range_end: range_end.into(),
            start_revision: revision,
            ..WatchCreateRequest::default()
        };
        let mut watcher = Watcher::new(self.source);
        watcher.add(request).await;
        loop {
            let response = watcher.next().await?.response;
            if let Some(error) = watch_error(&response) {
                return Err(ClientError::Refused(error));
            }
            let mut ops = Vec::new();
            let mut last_revision = 0;
            for event in response.events {
                let revision = event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
                if revision > last_revision || ops.len() >= self.ops_max.max(1) {
                    self.commit(std::mem::take(&mut ops)).await?;
                }
                last_revision = revision;
                ops.push(self.operation(event));
                self.count();
            }
            self.commit(ops).await?;
        }
    }

    fn operation(&self, event: Event) -> RequestOp {
        let kind = event.r#type();
        let kv = event.kv.unwrap_or_default();
        let key = self.renamed(&kv.key).into();
        let request = match kind {
            EventType::Put => {
                Request::RequestPut(PutRequest { key, value: kv.value, ..PutRequest::default() })
            }
            EventType::Delete => {
                Request::RequestDeleteRange(DeleteRangeRequest { key, ..DeleteRangeRequest::default() })
            }
        };
        RequestOp { request: Some(request) }
    }

    async fn commit(&self, ops: Vec<RequestOp>) -> Result<(), ClientError> {
        if ops.is_empty() {
            return Ok(());
        }
        let request = TxnRequest { compare: Vec::new(), success: ops, failure: Vec::new() };
        self.destination.call(&TXN, &request, Deadline::never()).await.map(drop)
    }

    fn range(&self) -> (Vec<u8>, Vec<u8>) {
        match self.prefix.is_empty() {
            true => (b"\0".to_vec(), OPEN_END.to_vec()),
            false => (self.prefix.clone(), prefix_end(&self.prefix)),
        }
    }

    fn renamed(&self, key: &[u8]) -> Vec<u8> {
        let rest = key.strip_prefix(&self.prefix[..]).unwrap_or(key);
        [&self.destination_prefix[..], rest].concat()
    }

    fn count(&self) {
        self.total.set(self.total.get() + 1);
    }
}
