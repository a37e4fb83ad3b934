//! The checkers, checked: they let a clean history pass, and each thing that a store must not do
//! is found by those that can see it.

use crate::{
    history::{Batch, Change, History},
    linearize, replay,
    simulated::{self, Planted, Setting},
    watches,
};

const OPERATIONS: usize = 1500;

fn setting(seed: u64, planted: Planted) -> Setting {
    Setting { seed, clients: 8, operations: OPERATIONS, unknown: 10, planted }
}

fn clean(seed: u64) -> History {
    simulated::run(setting(seed, Planted::Nothing)).expect("nothing is to be planted")
}

#[test]
fn a_clean_history_passes() {
    for seed in 0..20 {
        for (clients, unknown) in [(8, 10), (4, 100), (12, 0)] {
            let setting =
                Setting { seed, clients, operations: OPERATIONS, unknown, planted: Planted::Nothing };
            let history = simulated::run(setting).expect("nothing is to be planted");
            let replayed =
                replay::check(&history).unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
            let linear =
                linearize::check(&history).unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
            println!(
                "seed {seed} {clients} {unknown}: {} {} {linear:?}",
                replayed.judged, replayed.unknown_done
            );
            let watched = watches::check(&history, &replayed)
                .unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
            println!("{watched:?}");
        }
    }
}

#[test]
fn survey() {
    for planted in [
        Planted::LostWrite,
        Planted::LostDelete,
        Planted::StaleRead,
        Planted::DirtyRead,
        Planted::RefusedButDone,
        Planted::HalfTxn,
        Planted::WrongBranch,
        Planted::DoneTwice,
        Planted::MixedList,
        Planted::MemberGoesBack,
    ] {
        let (mut runs, mut by_replay, mut by_search) = (0, 0, 0);
        for seed in 0..30 {
            let Some(history) = simulated::run(setting(seed, planted)) else { continue };
            runs += 1;
            let r = replay::check(&history).map(|_| ());
            let l = linearize::check(&history).map(|_| ());
            by_replay += u32::from(r.is_err());
            by_search += u32::from(l.is_err());
            if seed < 3 {
                println!("---- {planted:?} seed {seed}");
                if let Err(v) = r {
                    println!("R: {v}");
                }
                if let Err(v) = l {
                    println!("L: {v}");
                }
            }
        }
        println!("==== {planted:?}: {runs} runs, replay {by_replay}, search {by_search}");
    }
}
