//! The disk thread beside everything else that a member does.

use std::fs;

use bytes::Bytes;
use futures_util::FutureExt;
use tempfile::TempDir;

use crate::{
    apply::{Command, Op, Put, Txn},
    config::Config,
    node::{self, Node, Running},
    telemetry::Metrics,
    types::{Caller, LeaseId},
};

async fn member() -> (Running, Node, TempDir) {
    member_with(30).await
}

/// A member with a database of so many megabytes.
async fn member_with(megabytes: u32) -> (Running, Node, TempDir) {
    let data_dir = TempDir::new().expect("there is a place for temporary files");
    let config = Config::of_flags(&[&format!("--data-dir={}", data_dir.path().display())]);
    let metrics = std::sync::Arc::new(Metrics::new(&config));
    let (running, node) = node::start(config, metrics);
    // Larger values would not be in the database.
    for megabyte in 0..megabytes {
        let puts = (0..500).map(|number| {
            let key = format!("key {megabyte} {number}").into();
            Op::Put(Put::new(key, Some(vec![7; 2000].into()), Some(LeaseId::NONE), false))
        });
        let txn = Txn { success: puts.collect(), ..Txn::default() };
        node.propose(Command::Txn(txn).by(Caller::Nobody)).await.expect("there is room");
    }
    (running, node, data_dir)
}

async fn put(node: &Node, number: u32, value: Vec<u8>) {
    let put = Put::new(format!("key {number}").into(), Some(Bytes::from(value)), Some(LeaseId::NONE), false);
    node.propose(Command::Put(put).by(Caller::Nobody)).await.expect("there is room");
}

/// What is beside the reserve of space.
fn names(data_dir: &TempDir) -> Vec<std::ffi::OsString> {
    let left = fs::read_dir(data_dir.path().join("member/snap")).expect("a directory");
    left.map(|entry| entry.expect("an entry").file_name()).filter(|name| name != "reserve").collect()
}

fn copies(data_dir: &TempDir) -> bool {
    data_dir.path().join("member/snap/db.unfinished").exists()
}

async fn copying(data_dir: &TempDir) {
    while !copies(data_dir) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn checkpoints_and_writes_go_on_while_a_database_is_defragmented() {
    // So much that the copy takes many turns of the thread on a fast machine too.
    let (running, node, data_dir) = member_with(120).await;
    let mut defragmented = Box::pin(node.defragment());
    let mut checkpoints = 0;
    loop {
        if let Some(result) = (&mut defragmented).now_or_never() {
            result.expect("there is room");
            break;
        }
        put(&node, 1000 + checkpoints, vec![8; 100]).await;
        node.checkpoint().await;
        checkpoints += u32::from(copies(&data_dir));
    }
    // The last may have been the one that the defragmentation itself makes before its end.
    assert!(checkpoints > 2, "there were {checkpoints}");
    drop(defragmented);
    drop(node);
    running.stop();
    let config = Config::of_flags(&[&format!("--data-dir={}", data_dir.path().display())]);
    let metrics = std::sync::Arc::new(Metrics::new(&config));
    let (running, node) = node::start(config, metrics);
    assert!(node.rev().0 >= 121 + i64::from(checkpoints), "all of it is there");
    drop(node);
    running.stop();
}

#[tokio::test]
async fn a_defragmentation_does_not_hold_up_the_stop() {
    let (running, node, data_dir) = member().await;
    let mut defragmented = Box::pin(node.defragment());
    assert_eq!((&mut defragmented).now_or_never(), None);
    copying(&data_dir).await;
    running.stop();
    let result = defragmented.await;
    assert!(result.is_err(), "it was abandoned: {result:?}");
    assert_eq!(names(&data_dir), ["db"]);
}

#[tokio::test]
async fn a_defragmentation_that_nobody_waits_for_does_not_begin() {
    let (running, node, data_dir) = member().await;
    let mut first = Box::pin(node.defragment());
    assert_eq!((&mut first).now_or_never(), None);
    copying(&data_dir).await;
    for _ in 0..100 {
        assert_eq!(node.defragment().now_or_never(), None, "it waits, and is given up");
    }
    first.await.expect("there is room");
    // It comes after all that was asked for before.
    node.checkpoint().await;
    assert_eq!(node.metrics().backend_defrag.get_sample_count(), 1);
    assert!(!copies(&data_dir));
    running.stop();
}

/// A client that takes no more is not asked for the next piece, however far it is.
#[tokio::test]
async fn who_stops_taking_a_snapshot_does_not_hold_up_the_others() {
    let (running, node, _data_dir) = member().await;
    let mut stopped = Vec::new();
    for _ in 0..=crate::limits::SNAPSHOT_READS_AT_ONCE {
        let mut snapshot = node.snapshot().await.expect("there is room");
        let mut next = Box::pin(async move { snapshot.next().await });
        assert!((&mut next).now_or_never().is_none(), "it is read elsewhere");
        stopped.push(next);
    }
    let mut snapshot = node.snapshot().await.expect("they share an image");
    let next = tokio::time::timeout(std::time::Duration::from_secs(60), snapshot.next()).await;
    assert!(next.expect("nobody is in its way").expect("it is read").is_some());
    drop((stopped, snapshot));
    running.stop();
}

/// What was asked for is given up when those who asked have gone.
#[tokio::test]
async fn a_snapshot_that_nobody_waits_for_leaves_nothing() {
    let (running, node, data_dir) = member().await;
    let begun = tokio::time::timeout(std::time::Duration::ZERO, node.snapshot()).await;
    assert!(begun.is_err(), "it takes longer");
    // The one after it is made whole, once the first is given up.
    let snapshot = node.snapshot().await.expect("there is room");
    drop(snapshot);
    // The thread that made the image lets go of it a moment after it has told of it.
    while names(&data_dir) != ["db"] {
        tokio::task::yield_now().await;
    }
    running.stop();
}
