//! Tests of the checkers: they accept a correct history, and each kind of violation is found by the checkers
//! that can see it.
//!
//! The replay finds every wrong answer. The search does not know revisions, so it cannot see a lost write
//! that is overwritten before it is read, or a wrong serializable read. Only the check of watches finds
//! errors in a stream.

use std::time::Duration;

use crate::{
    history::{
        Answer, Batch, Change, ChangeKind, Compaction, Compare, History, Operation, Outcome, Request,
        Response, Restart, Stored, Txn, Watched, Write,
    },
    linearize,
    model::Model,
    replay,
    simulated::{self, Planted, Setting},
    watches,
};

const SEEDS: u64 = 8;

fn setting(seed: u64, planted: Planted) -> Setting {
    Setting { seed, clients: 8, operations: 1000, unknown: 10, groups: 5, planted }
}

fn clean(seed: u64) -> History {
    simulated::run(setting(seed, Planted::Nothing)).expect("there is nothing to be planted")
}

fn assert_clean(setting: Setting) {
    let (seed, clients, operations) = (setting.seed, setting.clients, setting.operations);
    let history = simulated::run(setting).expect("there is nothing to be planted");
    let name = format!("seed {seed}, {clients} clients");
    let replayed = replay::check(&history).unwrap_or_else(|violation| panic!("{name}: {violation}"));
    let searched = linearize::check(&history).unwrap_or_else(|violation| panic!("{name}: {violation}"));
    let watched =
        watches::check(&history, &replayed).unwrap_or_else(|violation| panic!("{name}: {violation}"));
    // Finding no violation means something only if something was examined.
    assert!(replayed.judged > operations / 2, "{name}: {}", replayed.judged);
    assert!(searched.operations > operations / 2 && searched.groups > 0, "{name}: {searched:?}");
    assert!(searched.steps > operations / 8 && searched.situations_max > 1, "{name}: {searched:?}");
    assert!(watched.events > replayed.changes.len() * 3, "{name}: {watched:?}");
    assert!(watched.progress_notices > 10, "{name}: {watched:?}");
}

#[test]
fn clean_histories_pass() {
    for seed in 0..SEEDS {
        assert_clean(setting(seed, Planted::Nothing));
    }
}

#[test]
fn clean_histories_with_many_requests_unanswered_pass() {
    for seed in 0..SEEDS {
        let setting = Setting { unknown: 150, ..setting(seed, Planted::Nothing) };
        let history = simulated::run(setting).expect("there is nothing to be planted");
        let replayed = replay::check(&history).unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        assert!(replayed.unknown_done > 20, "seed {seed}: {}", replayed.unknown_done);
        assert_clean(Setting { unknown: 150, ..self::setting(seed, Planted::Nothing) });
    }
}

#[test]
fn clean_histories_of_few_keys_and_many_clients_pass() {
    for seed in 0..SEEDS {
        assert_clean(Setting { groups: 1, ..setting(seed, Planted::Nothing) });
        assert_clean(Setting { clients: 24, ..setting(seed, Planted::Nothing) });
    }
}

/// In how many runs the search must find the violation. The replay must find it in all, or the check of watches, if no
/// answer shows it.
enum Search {
    All,
    /// It cannot see a value that was overwritten before it was read.
    Many,
    Blind,
}

fn assert_found(planted: Planted, search: &Search) {
    let (mut runs, mut found) = (0, 0);
    for seed in 0..2 * SEEDS {
        let Some(history) = simulated::run(setting(seed, planted)) else { continue };
        let is_found = match replay::check(&history) {
            Ok(replayed) => watches::check(&history, &replayed).is_err(),
            Err(_) => true,
        };
        assert!(is_found, "the replay misses {planted:?} of seed {seed}");
        runs += 1;
        found += u64::from(linearize::check(&history).is_err());
    }
    assert!(runs >= SEEDS, "{planted:?} could be planted {runs} times");
    let is_right = match search {
        Search::All => found == runs,
        Search::Many => 4 * found > runs,
        Search::Blind => found == 0,
    };
    assert!(is_right, "the search finds {planted:?} in {found} of {runs} runs");
}

#[test]
fn a_lost_write_is_found() {
    assert_found(Planted::LostWrite, &Search::Many);
    assert_found(Planted::LostDelete, &Search::Many);
}

#[test]
fn a_stale_read_is_found() {
    assert_found(Planted::StaleRead, &Search::All);
}

#[test]
fn what_was_never_committed_is_found() {
    assert_found(Planted::DirtyRead, &Search::All);
    assert_found(Planted::RefusedButDone, &Search::Many);
}

#[test]
fn half_a_transaction_is_found() {
    assert_found(Planted::HalfTxn, &Search::Many);
}

#[test]
fn the_wrong_branch_is_found() {
    assert_found(Planted::WrongBranch, &Search::Many);
    assert_found(Planted::WrongInnerBranch, &Search::Many);
}

#[test]
fn a_write_done_twice_is_found() {
    assert_found(Planted::DoneTwice, &Search::All);
}

#[test]
fn serializable_reads_of_what_never_was_are_found() {
    assert_found(Planted::MixedList, &Search::Blind);
    assert_found(Planted::MemberGoesBack, &Search::Blind);
}

#[test]
fn a_member_that_was_restarted_may_go_back() {
    let history = (0..).find_map(|seed| simulated::run(setting(seed, Planted::MemberGoesBack)));
    let mut history = history.expect("it can be planted");
    let violation = replay::check(&history).expect_err("a member goes back").to_string();
    assert!(violation.starts_with("a member went back from revision"), "{violation}");
    let restart = |operation: &Operation| Restart { at: operation.called, member: operation.member };
    history.restarts = history.operations.iter().map(restart).collect();
    assert!(replay::check(&history).is_ok());
    // The call that goes back waited while its member was started again.
    let mut calls: Vec<_> = history.operations.iter().map(|call| (call.called, call.member)).collect();
    calls.sort();
    let mut excused_by = |at, member| {
        history.restarts = vec![Restart { at, member }];
        replay::check(&history).is_ok()
    };
    let last = calls.into_iter().rfind(|(called, member)| excused_by(*called, *member));
    let (called, member) = last.expect("some call is the one that goes back");
    assert!(excused_by(called + Duration::from_nanos(1), member));
}

#[test]
fn a_search_that_finds_no_end_gives_up() {
    let violation = linearize::check_within(&clean(1), 50).expect_err("50 steps are too few").to_string();
    assert!(violation.starts_with("gave up"), "{violation}");
}

/// A small history by one client, with one operation after the other.
struct Tape {
    model: Model,
    history: History,
}

impl Tape {
    fn new() -> Tape {
        let watched = Watched {
            watcher: 0,
            member: 0,
            prefix: String::new(),
            from_revision: 2,
            batches: Vec::new(),
            compacted: None,
        };
        Tape { model: Model::new(), history: History { watched: vec![watched], ..History::default() } }
    }

    fn called(&mut self, request: Request, outcome: impl FnOnce(Answer) -> Outcome) -> &mut Operation {
        let (answer, _) = self.model.evaluate(&request);
        let called = Duration::from_secs(10 * self.history.operations.len() as u64);
        let returned = called + Duration::from_secs(1);
        let (outcome, request) = (outcome(answer), request);
        let returned = matches!(outcome, Outcome::Ok(_)).then_some(returned);
        self.history.operations.push(Operation { client: 0, member: 0, called, returned, request, outcome });
        self.history.operations.last_mut().expect("one was just pushed")
    }

    /// Executes a request, and adds its events to those of the watcher.
    fn done(&mut self, request: &Request) {
        let (answer, changes) = self.model.evaluate(request);
        self.model.commit(&changes);
        self.history.watched[0].batches.push(Batch {
            received: Duration::from_secs(10 * self.history.operations.len() as u64 - 8),
            header_revision: answer.revision,
            events: changes,
            is_progress: false,
        });
        self.history.final_state = self.model.kvs.values().cloned().collect();
        self.history.final_revision = self.model.revision;
    }

    fn put(&mut self, key: &str, value: u64) {
        let request = Request::Put { key: key.to_owned(), value };
        self.called(request.clone(), Outcome::Ok);
        self.done(&request);
    }

    fn get(&mut self, key: &str) -> &mut Answer {
        let request = Request::Get { key: key.to_owned(), serializable: false };
        match &mut self.called(request, Outcome::Ok).outcome {
            Outcome::Ok(answer) => answer,
            Outcome::Refused | Outcome::Unknown => unreachable!("it was answered"),
        }
    }

    fn judge(&self) -> [Option<String>; 2] {
        let replayed = replay::check(&self.history).err().map(|violation| violation.to_string());
        [replayed, linearize::check(&self.history).err().map(|violation| violation.to_string())]
    }
}

fn delete(key: &str) -> Request {
    Request::Delete { key: key.to_owned() }
}

/// Only the order in time is wrong: each answer is that of an earlier state.
#[test]
fn an_old_answer_after_a_newer_one_is_found_by_both() {
    let mut tape = Tape::new();
    tape.put("k", 1);
    let old = tape.get("k").clone();
    tape.put("k", 2);
    tape.get("k");
    assert_eq!(tape.judge(), [None, None]);
    *tape.get("k") = old;
    let [replayed, searched] = tape.judge();
    let replayed = replayed.expect("the revision is behind what was told");
    assert!(replayed.starts_with("revision 2 is behind the times: revision 3 had been told"), "{replayed}");
    let searched = searched.expect("no order explains it");
    assert!(searched.starts_with("no order of the operations explains"), "{searched}");
    assert!(searched.contains("possible before it: k = 2"), "{searched}");
    assert!(searched.contains("client 0 at member 0, 20.000000s to 21.000000s: put k = 2"), "{searched}");
}

#[test]
fn half_a_transaction_is_found_by_both() {
    let mut tape = Tape::new();
    let put = |key: &str, value: u64| Write::Put { key: key.to_owned(), value };
    let success = vec![put("k", 1), put("l", 2)];
    tape.called(Request::Txn(Txn { compares: Vec::new(), success, failure: Vec::new() }), Outcome::Ok);
    tape.done(&Request::Put { key: "k".to_owned(), value: 1 });
    tape.get("l");
    let [replayed, searched] = tape.judge();
    assert!(replayed.expect("l is not there").contains("get l -> revision 2 [l = 2 (create 2"));
    assert!(searched.expect("l is not there").contains("possible before it: l = 2"));
}

/// The outer transaction puts `k`, and the one within it puts `l` if `k` was not there before.
fn nested() -> Txn {
    let put = |key: &str, value: u64| Write::Put { key: key.to_owned(), value };
    let is_new = Compare::Version { key: "k".to_owned(), equal: 0 };
    let inner = Txn { compares: vec![is_new], success: vec![put("l", 3)], failure: vec![put("m", 4)] };
    Txn { compares: Vec::new(), success: vec![put("k", 2), Write::Txn(inner)], failure: Vec::new() }
}

#[test]
fn a_transaction_within_another_one_compares_with_the_state_before_both() {
    let mut tape = Tape::new();
    let request = Request::Txn(nested());
    let right = tape.called(request.clone(), Outcome::Ok).answer().cloned().expect("it was answered");
    let inner = Response::Txn { succeeded: true, responses: vec![Response::Put] };
    assert_eq!(right.responses, [Response::Put, inner]);
    tape.done(&request);
    tape.get("l");
    assert_eq!(tape.judge(), [None, None]);
    // It says that it was done in the other way, and was not.
    let wrong = Response::Txn { succeeded: false, responses: vec![Response::Put] };
    tape.history.operations[0].outcome =
        Outcome::Ok(Answer { responses: vec![Response::Put, wrong], ..right });
    let [replayed, searched] = tape.judge();
    assert!(replayed.expect("k was not there").starts_with("an answer is not that of the state"));
    assert!(searched.expect("k was not there").contains("if [version k = 0] then [put l = 3]"));
}

#[test]
fn a_transaction_within_another_one_that_was_done_in_the_wrong_way_is_found_by_both() {
    let mut tape = Tape::new();
    tape.put("k", 1);
    let compared_after = Txn { compares: Vec::new(), ..inner_of(nested()) };
    let mut wrong = nested();
    wrong.success[1] = Write::Txn(compared_after);
    // Nobody was answered, and what is seen is the branch that the state before does not allow.
    tape.called(Request::Txn(nested()), |_| Outcome::Unknown);
    tape.done(&Request::Txn(wrong));
    tape.get("l");
    let [replayed, searched] = tape.judge();
    assert!(replayed.is_some() && searched.is_some(), "{replayed:?} {searched:?}");
    // The right way is possible, with and without an answer.
    let mut tape = Tape::new();
    tape.put("k", 1);
    tape.called(Request::Txn(nested()), |_| Outcome::Unknown);
    tape.done(&Request::Txn(nested()));
    tape.get("m");
    assert_eq!(tape.judge(), [None, None]);
}

fn inner_of(txn: Txn) -> Txn {
    match txn.success.into_iter().next_back() {
        Some(Write::Txn(inner)) => inner,
        _ => unreachable!("the last operation is a transaction"),
    }
}

#[test]
fn a_delete_without_an_answer_happens_once_at_most() {
    let mut tape = Tape::new();
    tape.put("k", 1);
    tape.called(delete("k"), |_| Outcome::Unknown);
    tape.done(&delete("k"));
    tape.put("k", 2);
    assert_eq!(tape.judge(), [None, None]);
    tape.called(delete("other"), |_| Outcome::Unknown);
    tape.done(&delete("k"));
    let [replayed, searched] = tape.judge();
    let replayed = replayed.expect("somebody deleted it again");
    assert!(replayed.starts_with("revision 5 was made by a request that was done before"), "{replayed}");
    assert!(searched.expect("the end is without the key").contains("the final state"));
}

#[test]
fn a_revision_that_nobody_wrote_is_found() {
    let mut tape = Tape::new();
    tape.put("k", 1);
    tape.put("k", 2);
    tape.history.operations[1].outcome = Outcome::Unknown;
    tape.history.operations[1].returned = None;
    assert_eq!(tape.judge(), [None, None], "its value is seen");
    tape.put("k", 3);
    tape.history.watched[0].batches.remove(1);
    tape.history.watched[0].batches[1].events[0].prev = None;
    tape.history.operations[2].outcome = Outcome::Ok(Answer { revision: 4, ..Answer::default() });
    let [replayed, _] = tape.judge();
    assert_eq!(replayed.as_deref(), Some("revision 3 has no write, and no watcher saw one"));
}

#[test]
fn a_write_missing_at_the_end_is_found_by_both() {
    let mut tape = Tape::new();
    tape.put("k", 1);
    tape.put("l", 2);
    tape.history.final_state.pop();
    let [replayed, searched] = tape.judge();
    assert!(replayed.expect("it was acknowledged").starts_with("the final state"));
    assert!(searched.expect("it was acknowledged").contains("the final state"));
    tape.history.final_revision = 2;
    let [replayed, _] = tape.judge();
    assert!(replayed.expect("it was acknowledged").starts_with("an answer has a revision that is not there"));
}

/// The result of the check of watches for a stream that was changed.
fn watched(plant: impl FnOnce(&mut History)) -> String {
    let mut history = clean(3);
    let replayed = replay::check(&history).expect("it is clean");
    plant(&mut history);
    match watches::check(&history, &replayed) {
        Ok(_) => "nothing".to_owned(),
        Err(violation) => violation.to_string(),
    }
}

/// A batch with several events of several revisions, in the middle of a stream of all keys.
fn batch(history: &mut History) -> &mut Batch {
    let is_rich = |batch: &&mut Batch| {
        let is_later = |pair: &[Change]| pair[0].stored.mod_revision < pair[1].stored.mod_revision;
        let few = &batch.events[..batch.events.len().min(4)];
        few.len() == 4 && few.windows(2).all(is_later) && few[1].prev.is_some() && few[1].stored.version > 1
    };
    history.watched[0].batches.iter_mut().find(is_rich).expect("there is such a batch")
}

fn event(history: &mut History) -> &mut Change {
    &mut batch(history).events[1]
}

fn assert_says(plant: impl FnOnce(&mut History), expected: &str) {
    let said = watched(plant);
    assert!(said.starts_with(expected), "instead of {expected:?}: {said}");
}

#[test]
fn events_missing_twice_or_in_another_order_are_found() {
    assert_says(|_| {}, "nothing");
    assert_says(|history| drop(batch(history).events.remove(1)), "an event is missing or late");
    assert_says(|history| batch(history).events.swap(1, 2), "an event is missing or late");
    let twice = |history: &mut History| {
        let event = event(history).clone();
        batch(history).events.push(event);
    };
    assert_says(twice, "an event comes again");
    let too_many = |history: &mut History| {
        let batches = &mut history.watched[0].batches;
        batches.extend_from_within(batches.len() - 1..);
    };
    assert_says(too_many, "an event");
    let short = |history: &mut History| {
        let batches = &mut history.watched[3].batches;
        let last = batches.iter().rposition(|batch| !batch.is_progress).expect("there are events");
        batches.truncate(last);
    };
    assert_says(short, "the stream ended before");
    assert_says(|history| history.watched[4].from_revision = 2, "progress at revision");
    assert_says(|history| history.watched[0].prefix = "a/".to_owned(), "an event is not what happened");
}

#[test]
fn events_that_say_something_else_are_found() {
    assert_says(|history| event(history).stored.value += 1, "an event is not what happened");
    assert_says(|history| event(history).kind = ChangeKind::Delete, "an event is not what happened");
    // This event looks like a creation.
    let create = |history: &mut History| {
        let stored = &mut event(history).stored;
        (stored.create_revision, stored.version) = (stored.mod_revision, 1);
    };
    assert_says(create, "an event is not what happened");
    assert_says(|history| event(history).prev = None, "an event has a wrong previous value");
    let older = |history: &mut History| {
        event(history).prev.iter_mut().for_each(|prev| prev.version -= 1);
    };
    assert_says(older, "an event has a wrong previous value");
    assert_says(
        |history| batch(history).header_revision = 3,
        "an event is of a later revision than its header",
    );
    assert_says(|history| batch(history).events.clear(), "a batch has no events");
}

#[test]
fn a_split_revision_is_found() {
    let split = |history: &mut History| {
        let batches = &mut history.watched[0].batches;
        let revision = |change: &Change| change.stored.mod_revision;
        let place = batches.iter().enumerate().find_map(|(number, batch)| {
            let at = batch.events.windows(2).position(|pair| revision(&pair[0]) == revision(&pair[1]))?;
            Some((number, at))
        });
        let (number, at) = place.expect("a transaction has changed two keys");
        let mut second = batches[number].clone();
        second.events.drain(..=at);
        batches[number].events.truncate(at + 1);
        batches.insert(number + 1, second);
    };
    let said = watched(split);
    assert!(said.starts_with("revision ") && said.contains("is split"), "{said}");
}

#[test]
fn progress_notices_that_break_their_promise_are_found() {
    fn notice(history: &mut History, header_revision: i64, at: usize) {
        let received = history.watched[0].batches[at].received;
        let notice = Batch { received, header_revision, events: Vec::new(), is_progress: true };
        history.watched[0].batches.insert(at, notice);
    }
    fn first(history: &History, at: usize) -> i64 {
        history.watched[0].batches[at].events[0].stored.mod_revision
    }
    let at = |history: &History| {
        let batches = &history.watched[0].batches;
        (10..).find(|at| !batches[*at].is_progress).expect("there are events")
    };
    let honest = |history: &mut History| notice(history, first(history, at(history)) - 1, at(history));
    assert_says(honest, "nothing");
    let early = |history: &mut History| notice(history, first(history, at(history)), at(history));
    assert_says(early, "progress at revision");
    let back = |history: &mut History| notice(history, first(history, at(history)) - 2, at(history));
    assert_says(back, "progress went back from");
    let future = |history: &mut History| {
        let (header_revision, batches) = (history.final_revision + 1, &mut history.watched[0].batches);
        let received = batches[batches.len() - 1].received;
        batches.push(Batch { received, header_revision, events: Vec::new(), is_progress: true });
    };
    assert_says(future, "progress at revision");
}

#[test]
fn a_compaction_excuses_what_it_takes_and_no_more() {
    let compacted = |history: &mut History, early: i64, called: Duration| {
        let (received, revision) = {
            let batch = batch(history);
            batch.events[1].prev = None;
            (batch.received, batch.events[1].stored.mod_revision)
        };
        history.compactions.push(Compaction { called: received + called, revision: revision - early });
        history.compactions[0].called -= Duration::from_micros(1);
    };
    assert_says(|history| compacted(history, 0, Duration::ZERO), "nothing");
    assert_says(|history| compacted(history, 1, Duration::ZERO), "an event has a wrong previous value");
    let late = Duration::from_secs(1);
    assert_says(|history| compacted(history, 0, late), "an event has a wrong previous value");

    let ended = |history: &mut History, ahead: i64, is_asked: bool| {
        let watched = &mut history.watched[0];
        watched.batches.truncate(10);
        let position = watched.batches.iter().map(|batch| match batch.events.last() {
            Some(change) => change.stored.mod_revision,
            None => batch.header_revision,
        });
        let revision = position.max().expect("there are batches") + ahead;
        watched.compacted = Some(revision);
        if is_asked {
            history.compactions.push(Compaction { called: Duration::ZERO, revision });
        }
    };
    assert_says(|history| ended(history, 2, true), "nothing");
    assert_says(|history| ended(history, 1, true), "ended by the compaction");
    assert_says(|history| ended(history, 2, false), "ended by a compaction at");
}

/// The value was observed before the operation was called, which only the times show.
#[test]
fn an_event_before_its_write_is_found() {
    let mut tape = Tape::new();
    tape.put("k", 1);
    tape.put("k", 2);
    assert_eq!(tape.judge(), [None, None]);
    tape.history.watched[0].batches[1].received = Duration::from_secs(5);
    let [replayed, _] = tape.judge();
    assert!(replayed.expect("it cannot be").starts_with("revision 3 is behind the times"));
}

#[test]
fn a_value_that_nobody_wrote_is_found_by_both() {
    let mut tape = Tape::new();
    tape.put("k", 1);
    let dirty = Stored { key: "k".to_owned(), value: 9, create_revision: 2, mod_revision: 2, version: 1 };
    tape.get("k").kvs = vec![dirty];
    let [replayed, searched] = tape.judge();
    assert!(replayed.expect("nobody wrote it").starts_with("a value that nobody wrote: k = 9"));
    assert!(searched.is_some());
}
