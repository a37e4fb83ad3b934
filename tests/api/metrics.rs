//! The metrics compared with those of a real etcd: names, types, labels and buckets, and what some of them
//! count.
//!
//! Dashboards and alert rules are written for etcd's. A family that etcd has and retcd lacks, or has in another
//! shape, is a panel that stays empty without a word, so both servers do the same and are compared family by family.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::Duration,
};

use crate::{
    client::Client,
    http::get,
    pb::etcdserverpb::{RangeRequest, RequestOp, TxnRequest, WatchCreateRequest, request_op},
    server::{Launch, serve_with},
};

/// Families that only etcd has, by the beginning of their names, with the reason.
const ONLY_ETCDS: &[(&str, &str)] = &[
    ("go_", "there is no Go inside"),
    ("etcd_server_go_version", "there is no Go inside"),
    ("etcd_grpc_proxy_", "there is no grpc-proxy inside; etcd registers its counters in every server"),
    ("etcd_debugging_store_", "the version 2 store of 3.5 and older; what 3.7 still shows is there"),
    ("etcd_debugging_mvcc_", "names that 3.5 kept beside those it moved to etcd_mvcc_"),
];

/// One family in Prometheus' text format.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    /// The sets of label names of its series, without the label of buckets.
    labels: BTreeSet<Vec<String>>,
    /// Upper bounds of its buckets.
    buckets: BTreeSet<u64>,
}

fn families(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type follows the name");
            families.entry(name.to_owned()).or_default().kind = kind.to_owned();
        } else if !line.starts_with('#') && !line.is_empty() {
            let (series, _value) = line.rsplit_once(' ').expect("a value follows the series");
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let base = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| name.strip_suffix(suffix).filter(|base| families.contains_key(*base)));
            let family = families.get_mut(base.unwrap_or(name)).expect("the type comes before the series");
            let labels = labels.trim_end_matches('}').split("\",").filter(|label| !label.is_empty());
            let mut names = Vec::new();
            for label in labels {
                let (label, value) = label.split_once("=\"").expect("a label has a value");
                if label == "le" {
                    // As bits, so that 1e+06 and 1000000 are equal.
                    let bound: f64 = value.trim_end_matches('"').parse().expect("a bound is a number");
                    family.buckets.insert(bound.to_bits());
                } else {
                    names.push(label.to_owned());
                }
            }
            names.sort();
            family.labels.insert(names);
        }
    }
    families
}

/// Makes one request of most kinds, so that families with a series for each kind have some.
async fn use_everything(client: &Client) {
    client.put("a", "1").await;
    let revision = client.put("a", "2").await;
    client.get("a").await;
    let range = RangeRequest { key: "a".into(), ..Default::default() };
    let read = RequestOp { request: Some(request_op::Request::RequestRange(range)) };
    client.txn(TxnRequest { success: vec![read], ..Default::default() }).await;
    client.grant(60, 7).await;
    client.keep_alive_once(7).await;
    let mut watch =
        client.watch(WatchCreateRequest { key: "a".into(), start_revision: 2, ..Default::default() }).await;
    watch.events(2).await;
    client.compact(revision).await;
    client.delete("a").await;
}

#[tokio::test]
async fn every_family_of_etcd_is_there_in_its_shape() {
    let (reference, client) = serve_with(Launch::reference().flag("metrics", "extensive"));
    use_everything(&client).await;
    let theirs = families(&get(reference.client_port, "/metrics").body);
    let (subject, client) = serve_with(Launch::subject().flag("metrics", "extensive"));
    use_everything(&client).await;
    let ours = families(&get(subject.client_port, "/metrics").body);

    let mut differences = Vec::new();
    for (name, their) in &theirs {
        let Some(our) = ours.get(name) else {
            if !ONLY_ETCDS.iter().any(|(prefix, _)| name.starts_with(prefix)) {
                differences.push(format!("{name} is missing"));
            }
            continue;
        };
        if our.kind != their.kind {
            differences.push(format!("{name} is a {}, etcd's a {}", our.kind, their.kind));
        }
        if our.labels != their.labels {
            differences.push(format!("{name} has labels {:?}, etcd's {:?}", our.labels, their.labels));
        }
        if our.buckets != their.buckets {
            differences.push(format!("{name} has other buckets than etcd's"));
        }
    }
    assert!(theirs.len() > 50, "etcd shows many families, not {}", theirs.len());
    assert!(differences.is_empty(), "{differences:#?}");
}

/// The value of a series whose line begins with `series`.
fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
    line.and_then(|line| line.rsplit_once(' '))
        .and_then(|(_, value)| value.parse().ok())
        .unwrap_or_else(|| panic!("{series} is missing in\n{text}"))
}

#[tokio::test]
async fn requests_and_applies_are_counted_by_kind() {
    let (server, client) = serve_with(Launch::subject());
    use_everything(&client).await;
    let text = get(server.client_port, "/metrics").body;
    let request = |kind: &str| {
        value(
            &text,
            &format!("etcd_server_request_duration_seconds_count{{success=\"true\",type=\"{kind}\"}}"),
        )
    };
    let apply = |op: &str| {
        value(
            &text,
            &format!(
                "etcd_server_apply_duration_seconds_count{{op=\"{op}\",success=\"true\",version=\"v3\"}}"
            ),
        )
    };
    assert_eq!((request("Put"), apply("Put")), (2.0, 2.0));
    assert_eq!((request("DeleteRange"), apply("DeleteRange")), (1.0, 1.0));
    assert_eq!((request("Compaction"), apply("Compaction")), (1.0, 1.0));
    assert_eq!((request("LeaseGrant"), apply("LeaseGrant")), (1.0, 1.0));
    assert_eq!((request("Range"), request("ReadonlyTxn")), (1.0, 1.0));
    assert!(value(&text, "etcd_server_range_duration_seconds_count{success=\"true\"}") >= 1.0);
    assert!(value(&text, "etcd_disk_wal_write_duration_seconds_count") >= 6.0);
    // A compaction is done in the background.
    let count = |series: &str| value(&get(server.client_port, "/metrics").body, series);
    while count("etcd_debugging_mvcc_db_compaction_total_duration_milliseconds_count") < 1.0
        || count("etcd_debugging_mvcc_db_compaction_keys_total") < 1.0
    {
        thread::sleep(Duration::from_millis(20));
    }
    let sends = "etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds_count";
    assert!(value(&text, sends) >= 1.0);
}
