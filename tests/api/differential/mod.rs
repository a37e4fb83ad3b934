//! The strongest check that retcd behaves like etcd: a real etcd and the server under test get the same
//! random calls, and every answer, refusal, event and hash must be equal.
//!
//! `RETCD_DIFFERENTIAL_SEED` and `RETCD_DIFFERENTIAL_CALLS` repeat or lengthen a run;
//! `RETCD_DIFFERENTIAL_TRACE` prints every call of it. A run that fails is shortened by leaving out calls as
//! long as it still fails, and then printed.

mod call;
mod normal;
mod operation;
mod play;

use std::{
    env,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use call::{Call, terse};
use play::{Lockstep, Parted};

use crate::server::Launch;

const CALLS: usize = 1500;

/// Seeds whose runs once found a difference.
const SEEDS: [u64; 2] = [1, 20_260];

/// How long a failing run may be shortened.
const SHORTENING: Duration = Duration::from_secs(20);

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is not a number: {text}")))
}

async fn play(calls: &[Call]) -> Result<(), Parted> {
    // Both servers have the same election timeout, because the minimum TTL follows from it. Passwords may be
    // hashed cheaply.
    let quick = |launch: Launch| {
        launch.flag("heartbeat-interval", 10).flag("election-timeout", 100).flag("bcrypt-cost", 4)
    };
    Lockstep::start(quick(Launch::reference()), quick(Launch::subject())).await.play(calls).await
}

async fn compare(seed: u64) {
    let count = number("RETCD_DIFFERENTIAL_CALLS").map_or(CALLS, |count| count as usize);
    eprintln!("RETCD_DIFFERENTIAL_SEED={seed} RETCD_DIFFERENTIAL_CALLS={count}");
    let calls = call::calls(seed, count);
    if let Err(parted) = play(&calls).await {
        let (calls, parted) = shorten(calls, parted).await;
        eprintln!("the servers part after these calls:");
        for call in &calls {
            eprintln!("  {}", terse(call));
        }
        eprintln!("at: {}\netcd: {}\nours: {}", parted.what, parted.reference, parted.subject);
        panic!("seed {seed}: the servers part in {} calls, at: {}", calls.len(), parted.what);
    }
}

/// Leaves out calls, in smaller and smaller pieces, as long as the servers still differ.
async fn shorten(calls: Vec<Call>, parted: Parted) -> (Vec<Call>, Parted) {
    let deadline = Instant::now() + SHORTENING;
    let mut shortest = (calls, parted);
    shortest.0.truncate(shortest.1.index + 1);
    let mut piece = shortest.0.len() / 2;
    while piece > 0 {
        let mut from = 0;
        while from < shortest.0.len() {
            if Instant::now() > deadline {
                return shortest;
            }
            let mut fewer = shortest.0.clone();
            fewer.drain(from..(from + piece).min(fewer.len()));
            match play(&fewer).await {
                Ok(()) => from += piece,
                Err(parted) => {
                    fewer.truncate(parted.index + 1);
                    shortest = (fewer, parted);
                }
            }
        }
        piece /= 2;
    }
    shortest
}

#[tokio::test]
async fn the_same_calls_have_the_same_answers() {
    for seed in number("RETCD_DIFFERENTIAL_SEED").map_or(SEEDS.to_vec(), |seed| vec![seed]) {
        compare(seed).await;
    }
}

#[tokio::test]
async fn calls_never_tried_before_have_the_same_answers() {
    if number("RETCD_DIFFERENTIAL_SEED").is_none() {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
        compare(since.as_secs()).await;
    }
}

#[test]
fn every_known_difference_has_a_release_and_a_reason() {
    for difference in &normal::DIFFERENCES {
        assert!(!difference.what.is_empty() && !difference.handling.is_empty());
        if let normal::Difference { since: Some(since), .. } = difference {
            assert!((3, 5, 1) < *since && *since <= (3, 7, 1), "{}", difference.what);
        }
    }
}

#[test]
fn a_seed_gives_the_same_calls_for_ever() {
    let calls = call::calls(7, 3).iter().map(terse).collect::<Vec<_>>();
    assert_eq!(calls, call::calls(7, 3).iter().map(terse).collect::<Vec<_>>());
    assert_eq!(call::calls(7, 2000).len(), 2000);
}
