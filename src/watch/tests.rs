//! The hub against a naive model: for any interleaving and any size of the queues, a watcher is sent the
//! filtered history from its start, and every progress notification is true.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use proptest::{prelude::*, sample::Index};

use super::{
    CreateError, Delivery, Feed, State, WatchHub, WatchId, WatcherSpec,
    hub::{Census, Created, Matched, Publication},
};
use crate::types::{Chunked, Event, EventKind, KeyRange, KeyValue, Rev};

fn key(number: u8) -> Bytes {
    Bytes::from(vec![b'a' + number])
}

fn event(rev: Rev, number: u8, kind: EventKind) -> Event {
    let kv = KeyValue { key: key(number), mod_rev: rev, ..KeyValue::default() };
    Event { kind, kv, prev_kv: None }
}

fn spec(range: KeyRange, start_rev: i64) -> WatcherSpec {
    WatcherSpec {
        id: 0,
        range,
        start_rev,
        no_put: false,
        no_delete: false,
        prev_kv: false,
        progress_notify: false,
        fragment: false,
    }
}

/// What a client got for one watcher.
#[derive(Debug)]
struct Seen {
    spec: WatcherSpec,
    /// The first revision that the watcher has to get.
    start: Rev,
    events: Vec<(Rev, Vec<Event>)>,
}

impl Seen {
    fn receive(&mut self, rev: Rev, events: Vec<Event>) {
        if let Some((last, _)) = self.events.last() {
            assert!(*last < rev, "{rev} after {last}");
        }
        assert!(rev >= self.start, "{rev} comes before the start, {}", self.start);
        assert!(!events.is_empty());
        self.events.push((rev, events));
    }
}

/// The simplest reader of a stream: at each step it takes one delivery, or reads history for one unsynced
/// watcher.
struct Reader {
    feed: Feed,
    seen: BTreeMap<WatchId, Seen>,
    lagging: Vec<(WatchId, Rev)>,
}

struct World {
    hub: WatchHub,
    /// All revisions, beginning with revision 1, which has no events.
    history: Vec<Arc<Chunked<Event>>>,
    /// The newest revision that was published.
    published: Rev,
    readers: Vec<Reader>,
    /// The revision after it, while it is being published.
    publishing: Option<Publication>,
}

#[derive(Clone, Debug)]
enum Step {
    /// Adds a revision with these changes, without publishing it.
    Write(Vec<(u8, bool)>),
    Publish,
    Create {
        stream: Index,
        id: i64,
        range: (u8, Option<u8>),
        start: i64,
        no_put: bool,
        no_delete: bool,
        notify: bool,
    },
    Cancel {
        stream: Index,
        watcher: Index,
    },
    Take {
        stream: Index,
    },
    ReadHistory {
        stream: Index,
        laggard: Index,
        revs: i64,
    },
    Progress {
        stream: Index,
    },
    Tick {
        stream: Index,
    },
    Restore,
    Reopen {
        stream: Index,
    },
}

impl World {
    fn new() -> World {
        let mut hub = WatchHub::new(Rev::INITIAL);
        let readers = (1..=3).map(|capacity| Reader::open(&mut hub, capacity)).collect();
        let history = vec![Arc::new(Chunked::default())];
        World { hub, history, published: Rev::INITIAL, publishing: None, readers }
    }

    fn written(&self) -> Rev {
        Rev(self.history.len() as i64)
    }

    /// One stride of publishing.
    fn publish(&mut self) {
        if self.published == self.written() {
            return;
        }
        let rev = self.published.next();
        let mut publication = match self.publishing.take() {
            Some(publication) => publication,
            None => self.hub.begin(rev, Arc::clone(&self.history[rev.0 as usize - 1])),
        };
        if self.hub.match_some(&mut publication) == Matched::Some {
            self.publishing = Some(publication);
            return;
        }
        publication.sort();
        self.hub.finish(publication);
        self.published = rev;
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Write(changes) => {
                let rev = self.written().next();
                let kind = |put| if put { EventKind::Put } else { EventKind::Delete };
                self.history.push(Arc::new(
                    changes.iter().map(|(number, put)| event(rev, *number, kind(*put))).collect(),
                ));
            }
            Step::Publish => self.publish(),
            Step::Create { stream, id, range: (start_key, end_key), start, no_put, no_delete, notify } => {
                let range = match end_key {
                    None => KeyRange::Point(key(start_key)),
                    Some(7) => KeyRange::From(key(start_key)),
                    Some(end) => KeyRange::Span(key(start_key), key(end)),
                };
                let start_rev = if start == 0 { 0 } else { (self.published.0 - 4 + start).max(1) };
                let spec =
                    WatcherSpec { id, no_put, no_delete, progress_notify: notify, ..spec(range, start_rev) };
                self.create(stream, spec);
            }
            Step::Cancel { stream, watcher } => {
                let reader = stream.get_mut(&mut self.readers);
                let ids: Vec<WatchId> = reader.seen.keys().copied().collect();
                if !ids.is_empty() {
                    let id = *watcher.get(&ids);
                    assert!(self.hub.cancel(&mut reader.feed, id));
                    assert!(!self.hub.cancel(&mut reader.feed, id));
                    let gone = reader.seen.remove(&id).expect("it was there");
                    reader.lagging.retain(|(lagging, _)| *lagging != id);
                    check(&self.history, &gone, None);
                }
            }
            Step::Take { stream } => {
                let reader = stream.get_mut(&mut self.readers);
                if let Some(delivery) = reader.feed.try_recv() {
                    reader.receive(&mut self.hub, &self.history, delivery);
                }
            }
            Step::ReadHistory { stream, laggard, revs } => {
                let reader = stream.get_mut(&mut self.readers);
                if !reader.lagging.is_empty() {
                    let laggard = laggard.index(reader.lagging.len());
                    reader.read_history(&mut self.hub, &self.history, laggard, revs);
                }
            }
            Step::Progress { stream } => self.hub.progress(stream.get(&self.readers).feed.stream),
            Step::Tick { stream } => self.hub.tick(stream.get(&self.readers).feed.stream),
            Step::Restore => {
                // A snapshot is installed between two entries.
                while self.publishing.is_some() {
                    self.publish();
                }
                self.published = self.written();
                self.hub.restored(self.published);
            }
            Step::Reopen { stream } => {
                let reader = stream.get_mut(&mut self.readers);
                self.hub.close_stream(reader.feed.stream);
                *reader = Reader::open(&mut self.hub, 2);
            }
        }
    }

    fn create(&mut self, stream: Index, spec: WatcherSpec) {
        let reader = stream.get_mut(&mut self.readers);
        match self.hub.create(&mut reader.feed, spec.clone()) {
            Ok(Created { id, state, .. }) => {
                let rev = self.published;
                let begun = if self.publishing.is_some() { rev.next() } else { rev };
                assert!(spec.id == 0 || spec.id == id.0);
                let start = if spec.start_rev == 0 { rev.next() } else { Rev(spec.start_rev) };
                match state {
                    State::Synced { next_rev } => assert!(next_rev == start && start > begun),
                    State::Unsynced { next_rev } => {
                        assert!(next_rev == start && start <= begun);
                        reader.lagging.push((id, next_rev));
                    }
                }
                let before = reader.seen.insert(id, Seen { spec, start, events: Vec::new() });
                assert!(before.is_none(), "watcher {id} exists twice");
            }
            Err(CreateError::DuplicateId) => assert!(reader.seen.contains_key(&WatchId(spec.id))),
            Err(CreateError::EmptyRange) => {
                assert!(matches!(spec.range, KeyRange::Span(start, end) if end <= start));
            }
            Err(CreateError::Compacted) => panic!("no start is negative here"),
        }
    }

    /// Publishes all other revisions, lets every reader read to the end, and checks the results.
    fn finish(mut self) {
        while self.published < self.written() {
            self.publish();
        }
        for reader in &mut self.readers {
            loop {
                if let Some(delivery) = reader.feed.try_recv() {
                    reader.receive(&mut self.hub, &self.history, delivery);
                } else if !reader.lagging.is_empty() {
                    reader.read_history(&mut self.hub, &self.history, 0, 3);
                } else {
                    break;
                }
            }
            for seen in reader.seen.values() {
                check(&self.history, seen, Some(self.published));
            }
        }
        let watchers = self.readers.iter().map(|reader| reader.seen.len() as u64).sum();
        let streams = self.readers.len() as u64;
        assert_eq!(self.hub.census(), Census { streams, watchers, unsynced: 0, pending: 0 });
        for reader in self.readers {
            self.hub.close_stream(reader.feed.stream);
        }
        assert_eq!(self.hub.census(), Census::default());
    }
}

impl Reader {
    fn open(hub: &mut WatchHub, capacity: usize) -> Reader {
        Reader { feed: hub.open_stream(capacity), seen: BTreeMap::new(), lagging: Vec::new() }
    }

    fn receive(&mut self, hub: &mut WatchHub, history: &[Arc<Chunked<Event>>], delivery: Delivery) {
        match delivery {
            Delivery::Batch(batch) => {
                for share in batch.shares() {
                    let seen = self.seen.get_mut(&share.id).expect("only living watchers get events");
                    assert!(!self.lagging.iter().any(|(id, _)| *id == share.id), "a laggard reads history");
                    seen.receive(batch.rev, share.events().cloned().collect());
                }
            }
            Delivery::Progress { rev, id } => check_progress(history, &self.seen[&id], rev),
            Delivery::StreamProgress { rev } => {
                for seen in self.seen.values() {
                    check_progress(history, seen, rev);
                }
            }
            Delivery::Lagging => {
                self.lagging.extend(hub.lagging(self.feed.stream).into_iter().map(|l| (l.id, l.next_rev)));
            }
        }
    }

    /// History may hold more than has been published.
    fn read_history(
        &mut self,
        hub: &mut WatchHub,
        history: &[Arc<Chunked<Event>>],
        laggard: usize,
        revs: i64,
    ) {
        let (id, next_rev) = self.lagging.remove(laggard);
        let seen = self.seen.get_mut(&id).expect("only living watchers lag");
        let end = Rev((next_rev.0 + revs).min(history.len() as i64 + 1)).max(next_rev);
        let mut heard = false;
        for rev in next_rev.0..end.0 {
            let events = wanted(&seen.spec, &history[rev as usize - 1]);
            if !events.is_empty() {
                heard = true;
                seen.receive(Rev(rev), events);
            }
        }
        if let State::Unsynced { next_rev } = hub.resume(self.feed.stream, id, end, heard) {
            assert_eq!(next_rev, end);
            self.lagging.push((id, next_rev));
        }
    }
}

fn wanted(spec: &WatcherSpec, events: &Chunked<Event>) -> Vec<Event> {
    events.iter().filter(|event| spec.wants(event)).cloned().collect()
}

/// What was seen must be a prefix of the expected events, and contain all of them up to `until`.
fn check(history: &[Arc<Chunked<Event>>], seen: &Seen, until: Option<Rev>) {
    let mut expected: Vec<(Rev, Vec<Event>)> = (1..)
        .map(Rev)
        .zip(history)
        .filter(|(rev, _)| *rev >= seen.start)
        .map(|(rev, events)| (rev, wanted(&seen.spec, events)))
        .filter(|(_, events)| !events.is_empty())
        .collect();
    if let Some(until) = until {
        let due = expected.iter().filter(|(rev, _)| *rev <= until).count();
        assert!(seen.events.len() >= due, "missing up to {until}: {seen:?}");
    }
    expected.truncate(seen.events.len());
    assert_eq!(seen.events, expected);
}

/// A watcher that starts at the next revision may be sent progress at the revision before its start.
fn check_progress(history: &[Arc<Chunked<Event>>], seen: &Seen, rev: Rev) {
    assert!(rev.0 >= seen.spec.start_rev, "progress from before the start");
    assert!(seen.events.last().is_none_or(|(last, _)| *last <= rev), "progress goes back");
    check(history, seen, Some(rev));
}

fn step() -> impl Strategy<Value = Step> {
    let changes = |range| prop::collection::vec((0..6u8, any::<bool>()), range);
    let changes = prop_oneof![3 => changes(1..4), 1 => changes(4..20)];
    let create = (
        any::<Index>(),
        prop_oneof![2 => Just(0i64), 1 => 1..4i64],
        (0..6u8, prop::option::of(0..8u8)),
        0..8i64,
        (any::<bool>(), any::<bool>(), any::<bool>()),
    );
    prop_oneof![
        6 => changes.prop_map(Step::Write),
        4 => Just(Step::Publish),
        4 => create.prop_map(|(stream, id, range, start, (no_put, no_delete, notify))| {
            Step::Create { stream, id, range, start, no_put, no_delete: no_delete && !no_put, notify }
        }),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(stream, watcher)| Step::Cancel { stream, watcher }),
        6 => any::<Index>().prop_map(|stream| Step::Take { stream }),
        4 => (any::<Index>(), any::<Index>(), 0..4i64)
            .prop_map(|(stream, laggard, revs)| Step::ReadHistory { stream, laggard, revs }),
        2 => any::<Index>().prop_map(|stream| Step::Progress { stream }),
        2 => any::<Index>().prop_map(|stream| Step::Tick { stream }),
        1 => prop_oneof![2 => Just(Step::Publish), 1 => Just(Step::Restore)],
        1 => prop_oneof![5 => Just(Step::Publish), 1 => any::<Index>().prop_map(|stream| Step::Reopen { stream })],
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn every_watcher_sees_its_history(steps in prop::collection::vec(step(), 0..120)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.finish();
    }
}

fn publish(hub: &mut WatchHub, number: u8) -> Rev {
    let rev = hub.published().next();
    hub.publish(rev, Arc::new([event(rev, number, EventKind::Put)].into_iter().collect()));
    rev
}

#[test]
fn ids_count_up_past_those_in_use() {
    let mut hub = WatchHub::new(Rev(1));
    let mut feed = hub.open_stream(1);
    let mut create = |hub: &mut WatchHub, id| {
        hub.create(&mut feed, WatcherSpec { id, ..spec(KeyRange::all(), 0) }).map(|created| created.id.0)
    };
    assert_eq!(create(&mut hub, 1), Ok(1));
    assert_eq!(create(&mut hub, 0), Ok(0));
    assert_eq!(create(&mut hub, 0), Ok(2));
    assert_eq!(create(&mut hub, 1), Err(CreateError::DuplicateId));
    assert_eq!(create(&mut hub, -1), Ok(-1));
    assert!(hub.cancel(&mut feed, WatchId(0)));
    let created = hub.create(&mut feed, spec(KeyRange::all(), 0)).expect("there is a free id");
    assert_eq!(created.id, WatchId(3));
}

#[test]
fn refusals_come_in_etcds_order_and_words() {
    let mut hub = WatchHub::new(Rev(1));
    let mut feed = hub.open_stream(1);
    let empty = || KeyRange::Span(key(1), key(1));
    hub.create(&mut feed, WatcherSpec { id: 5, ..spec(KeyRange::all(), 0) }).expect("5 is free");
    let mut refusal = |spec| hub.create(&mut feed, spec).expect_err("it is refused").to_string();
    assert_eq!(
        refusal(WatcherSpec { id: 5, ..spec(empty(), -1) }),
        "etcdserver: mvcc: required revision has been compacted"
    );
    assert_eq!(refusal(WatcherSpec { id: 5, ..spec(empty(), 0) }), "mvcc: watcher range is empty");
    assert_eq!(
        refusal(WatcherSpec { id: 5, ..spec(KeyRange::all(), 0) }),
        "mvcc: duplicate watch ID provided on the WatchStream"
    );
}

#[test]
fn a_retired_watcher_keeps_its_id_and_holds_up_nobody() {
    let mut hub = WatchHub::new(Rev(9));
    let mut feed = hub.open_stream(4);
    let old = hub
        .create(&mut feed, WatcherSpec { prev_kv: true, ..spec(KeyRange::all(), 2) })
        .expect("it is created, and learns of the compaction later");
    assert!(hub.any_prev_kv());
    hub.retire(feed.stream, old.id);
    assert!(!hub.any_prev_kv());
    hub.progress(feed.stream);
    assert!(feed.try_recv().is_none(), "there is nobody left to tell");
    let again = WatcherSpec { id: 7, ..spec(KeyRange::all(), 0) };
    hub.create(&mut feed, again).expect("7 is free");
    hub.progress(feed.stream);
    assert!(matches!(feed.try_recv(), Some(Delivery::StreamProgress { rev: Rev(9) })));
    assert!(hub.cancel(&mut feed, old.id));
    assert!(!hub.cancel(&mut feed, old.id));
}

#[test]
fn nobody_is_told_of_progress_before_their_start() {
    let mut hub = WatchHub::new(Rev(9));
    let mut feed = hub.open_stream(4);
    let future = WatcherSpec { progress_notify: true, ..spec(KeyRange::all(), 11) };
    hub.create(&mut feed, future).expect("0 is free");
    for _ in 0..2 {
        hub.progress(feed.stream);
        hub.tick(feed.stream);
        assert!(feed.try_recv().is_none(), "at {} it has not begun", hub.published());
        publish(&mut hub, 0);
    }
    assert!(matches!(feed.try_recv(), Some(Delivery::Batch(batch)) if batch.rev == Rev(11)));
    hub.progress(feed.stream);
    assert!(matches!(feed.try_recv(), Some(Delivery::StreamProgress { rev: Rev(11) })));
}

#[test]
fn ticks_pass_over_who_heard_something() {
    let mut hub = WatchHub::new(Rev(1));
    let mut feed = hub.open_stream(4);
    let notified = WatcherSpec { progress_notify: true, ..spec(KeyRange::Point(key(0)), 0) };
    hub.create(&mut feed, notified).expect("0 is free");
    let mut told = |hub: &mut WatchHub| {
        hub.tick(feed.stream);
        let mut told = None;
        while let Some(delivery) = feed.try_recv() {
            if let Delivery::Progress { rev, .. } = delivery {
                told = Some(rev);
            }
        }
        told
    };
    assert_eq!(told(&mut hub), Some(Rev(1)), "idle since its creation");
    publish(&mut hub, 0);
    assert_eq!(told(&mut hub), None, "it heard an event");
    publish(&mut hub, 1);
    assert_eq!(told(&mut hub), Some(Rev(3)), "the event was for others");
}

#[test]
fn events_from_history_count_as_heard() {
    let mut hub = WatchHub::new(Rev(9));
    let mut feed = hub.open_stream(4);
    let notified = WatcherSpec { progress_notify: true, ..spec(KeyRange::all(), 5) };
    for heard in [true, false] {
        let created = hub.create(&mut feed, notified.clone()).expect("there is a free id");
        hub.resume(feed.stream, created.id, Rev(8), heard);
        hub.resume(feed.stream, created.id, Rev(10), false);
        hub.tick(feed.stream);
        assert_eq!(feed.try_recv().is_some(), !heard);
        hub.cancel(&mut feed, created.id);
    }
}

#[test]
fn bytes_fill_a_queue_too() {
    let mut hub = WatchHub::new(Rev(1));
    let mut feed = hub.open_stream(128);
    hub.create(&mut feed, spec(KeyRange::all(), 0)).expect("0 is free");
    let mut big = event(Rev(2), 0, EventKind::Put);
    big.kv.value = vec![0; crate::limits::WATCH_QUEUE_BYTES + 1].into();
    for rev in [2, 3] {
        hub.publish(Rev(rev), Arc::new([big.clone()].into_iter().collect()));
    }
    assert!(matches!(feed.try_recv(), Some(Delivery::Batch(batch)) if batch.rev == Rev(2)));
    assert!(matches!(feed.try_recv(), Some(Delivery::Lagging)));
    let lagging = hub.lagging(feed.stream);
    assert_eq!(lagging[0].next_rev, Rev(3));
    assert_eq!(hub.resume(feed.stream, lagging[0].id, Rev(4), true), State::Synced { next_rev: Rev(4) });
    publish(&mut hub, 0);
    assert!(matches!(feed.try_recv(), Some(Delivery::Batch(batch)) if batch.rev == Rev(4)));
}

#[test]
fn what_happens_between_two_strides_of_a_revision_loses_no_event() {
    let mut hub = WatchHub::new(Rev(1));
    let mut feed = hub.open_stream(4);
    let mut gone = hub.open_stream(4);
    let watch = |hub: &mut WatchHub, feed: &mut Feed, start| {
        hub.create(feed, spec(KeyRange::all(), start)).expect("there is a free id")
    };
    let early = watch(&mut hub, &mut feed, 0);
    let old = watch(&mut hub, &mut feed, 1);
    watch(&mut hub, &mut gone, 0);
    let events: Chunked<Event> = (0..4).map(|number| event(Rev(2), number, EventKind::Put)).collect();
    let mut publication = hub.begin(Rev(2), Arc::new(events));
    assert_eq!(hub.match_some(&mut publication), Matched::Some);
    // Those that may have missed an event read the revision from history.
    let late = watch(&mut hub, &mut feed, 0);
    assert_eq!(late.state, State::Unsynced { next_rev: Rev(2) });
    let resumed = hub.resume(feed.stream, old.id, Rev(2), false);
    assert_eq!(resumed, State::Unsynced { next_rev: Rev(2) });
    let later = watch(&mut hub, &mut feed, 3);
    assert_eq!(later.state, State::Synced { next_rev: Rev(3) });
    hub.close_stream(gone.stream);
    assert_eq!(hub.match_some(&mut publication), Matched::All);
    publication.sort();
    hub.finish(publication);
    let Some(Delivery::Batch(batch)) = feed.try_recv() else { panic!("the revision is queued") };
    let shares: Vec<_> = batch.shares().map(|share| (share.id, share.events().len())).collect();
    assert_eq!(shares, [(early.id, 4)]);
    assert!(feed.try_recv().is_none());
}

#[test]
fn a_revision_with_very_many_events_is_read_from_history() {
    let mut hub = WatchHub::new(Rev(1));
    let mut feed = hub.open_stream(4);
    let all = hub.create(&mut feed, spec(KeyRange::all(), 0)).expect("there is a free id");
    let one = hub.create(&mut feed, spec(KeyRange::Point(key(30)), 0)).expect("there is a free id");
    let many = crate::limits::PUBLISH_HITS_MAX as u8 + 5;
    let events: Chunked<Event> = (0..many).map(|number| event(Rev(2), number, EventKind::Put)).collect();
    hub.publish(Rev(2), Arc::new(events));
    assert!(matches!(feed.try_recv(), Some(Delivery::Lagging)));
    let lagging = hub.lagging(feed.stream);
    assert_eq!(
        lagging.iter().map(|lagging| (lagging.id, lagging.next_rev)).collect::<Vec<_>>(),
        [(all.id, Rev(2))]
    );
    assert!(feed.try_recv().is_none(), "nothing is for watcher {}", one.id);
    assert_eq!(hub.resume(feed.stream, all.id, Rev(3), true), State::Synced { next_rev: Rev(3) });
}

#[test]
fn progress_from_before_a_revision_does_not_follow_it() {
    let mut hub = WatchHub::new(Rev(1));
    let mut feed = hub.open_stream(4);
    hub.create(&mut feed, spec(KeyRange::all(), 0)).expect("there is a free id");
    hub.progress(feed.stream);
    let events: Chunked<Event> = (0..4).map(|number| event(Rev(2), number, EventKind::Put)).collect();
    let mut publication = hub.begin(Rev(2), Arc::new(events));
    // This one may read the revision from history before the notification is taken.
    hub.create(&mut feed, spec(KeyRange::all(), 0)).expect("there is a free id");
    while hub.match_some(&mut publication) == Matched::Some {}
    publication.sort();
    hub.finish(publication);
    assert!(matches!(feed.try_recv(), Some(Delivery::Batch(batch)) if batch.rev == Rev(2)));
}
