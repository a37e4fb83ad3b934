//! Who may call what: every method, in every place that it can stand in, by every kind of caller, at a leader
//! and at a follower, with and without an alarm. What each caller is answered, code and text, is recorded from a
//! real etcd in `etcd37.txt`; retcd must answer the same, but for what [`differences`] lists.
//!
//! A method, or a field of a request, that no call of the matrix uses fails the test of [`coverage`]. To record the
//! tables anew, after calls or callers have changed:
//! `UPDATE_EXPECT=1 cargo test --test cluster matrix -- --ignored`.

mod callers;
mod calls;
mod coverage;
mod differences;
mod play;
mod table;
mod wire;

use expect_test::expect_file;

use self::{
    play::{nothing_more, play, what_harms_etcd_35},
    table::Table,
};
use crate::{cluster::Plan, tools::Release};

const ETCD_37: &str = include_str!("etcd37.txt");
const ETCD_35: &str = include_str!("etcd35.txt");

#[test]
fn there_is_a_row_for_every_method_and_every_field_of_a_request() {
    assert_eq!(coverage::without_rows(&calls::all()), [""; 0]);
}

#[test]
fn the_matrix_is_as_large_as_promised() {
    let cases: usize =
        [ETCD_37, ETCD_35].map(|text| Table::parse(text).cases()).into_iter().min().unwrap_or(0);
    assert!(cases >= 1500, "{cases} cases");
}

#[tokio::test(flavor = "multi_thread")]
async fn retcd_answers_every_caller_as_etcd_does() {
    let expected = Table::parse(ETCD_37);
    let seen = play(Plan::new, nothing_more).await;
    assert_eq!(differences::unexpected(&expected, &seen), [""; 0], "etcd 3.7, and ours");
}

#[test]
fn what_releases_of_etcd_answer_differently_is_known_and_has_a_reason() {
    let (newer, older) = (Table::parse(ETCD_37), Table::parse(ETCD_35));
    assert_eq!(differences::unexplained(&newer, &older), [""; 0], "etcd 3.7, and 3.5.1");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute, and changes only with the calls and the callers"]
async fn the_table_is_what_etcd_37_answers() {
    expect_file!["etcd37.txt"]
        .assert_eq(&play(|size| Plan::release(Release::V37, size), nothing_more).await.to_string());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute, and changes only with the calls and the callers"]
async fn the_older_table_is_what_etcd_35_answers() {
    let seen = play(|size| Plan::release(Release::V35, size), what_harms_etcd_35).await;
    expect_file!["etcd35.txt"].assert_eq(&seen.to_string());
}
