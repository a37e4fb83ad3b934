//! Rules of the history and of the hub.

use std::sync::Arc;

use crate::{
    limits::{V2_DEPTH_MAX, V2_HISTORY_EVENTS_MAX, V2_KEY_BYTES_MAX, V2_WATCHER_QUEUE},
    v2::{Advanced, Answer, Change, Code, Hub, Key, KeyChange, Store, V2Command, Who, Written},
};

fn key(path: &str) -> Key {
    Key::of(path).expect("short")
}

fn answer(store: &mut Store, path: &str, change: Change) -> Answer {
    let command = V2Command::Key(KeyChange { who: Who::Guest, key: key(path), at: 1, change });
    match store.begin(&command, &mut usize::MAX.clone()) {
        Advanced::Done(answer) => answer,
        Advanced::More(_) => unreachable!("there is no end to its keys"),
    }
}

fn set(store: &mut Store, path: &str, value: &str) -> Answer {
    let written = Written { value: value.into(), dir: false, expires: None, refresh: false };
    answer(store, path, Change::Set(written))
}

#[test]
fn the_history_forgets_the_oldest() {
    let mut store = Store::default();
    for _ in 0..V2_HISTORY_EVENTS_MAX {
        set(&mut store, "/k", "v");
    }
    let last = store.tree().index;
    let first = last - V2_HISTORY_EVENTS_MAX as u64 + 1;
    let found = store.find_event(&key("/k"), false, first, last).expect("it is there");
    assert_eq!(found.expect("an event").index(), first);
    let refusal = store.find_event(&key("/k"), false, first - 1, last).expect_err("it is gone");
    assert_eq!(refusal.code, Code::IndexCleared);
    assert_eq!(refusal.cause, format!("the requested history has been cleared [{first}/{}]", first - 1));
    assert_eq!(store.find_event(&key("/k"), false, last + 5, last), Ok(None), "the future is no error");
}

/// What is stored can be read back, so that no key may be longer than those that a request may name.
#[test]
fn an_in_order_child_of_the_longest_key_is_refused() {
    let mut store = Store::default();
    let written = || Written { value: "v".into(), dir: false, expires: None, refresh: false };
    for longest in ["/a".repeat(V2_DEPTH_MAX), format!("/{}", "a".repeat(V2_KEY_BYTES_MAX - 1))] {
        let create = Change::Create { written: written(), in_order: true };
        let Answer::Key(_, Err(refusal)) = answer(&mut store, &longest, create) else {
            panic!("a key that is too long or too deep");
        };
        assert_eq!(refusal.code, Code::InvalidForm);
    }
}

/// The bytes of the history are bounded too.
#[test]
fn large_values_shorten_the_history() {
    let mut store = Store::default();
    let value = "v".repeat(1 << 20);
    for _ in 0..100 {
        set(&mut store, "/k", &value);
    }
    let last = store.tree().index;
    assert!(store.find_event(&key("/k"), false, last - 20, last).is_ok());
    assert!(store.find_event(&key("/k"), false, last - 60, last).is_err());
}

#[test]
fn watchers_are_told_what_etcd_tells_them() {
    let mut store = Store::default();
    let mut hub = Hub::new(store.tree().index);
    set(&mut store, "/a/b/c", "0");
    hub.publish(&set(&mut store, "/a/b/c", "1"));
    let mut watchers = [("/", true), ("/a", true), ("/a", false), ("/a/b/c", false), ("/a/b/none", true)]
        .map(|(path, recursive)| hub.register(&key(path), recursive, 0).expect("there is room"));
    let mut told = |hub: &mut Hub, answer: &Answer| {
        hub.publish(answer);
        watchers.each_mut().map(|watching| watching.events.try_recv().is_ok())
    };
    assert_eq!(told(&mut hub, &set(&mut store, "/a/b/c", "2")), [true, true, false, true, false]);
    assert_eq!(told(&mut hub, &set(&mut store, "/a/_h/c", "2")), [false; 5], "hidden");
    assert_eq!(told(&mut hub, &set(&mut store, "/a2", "2")), [true, false, false, false, false]);
    let removed = answer(&mut store, "/a", Change::Delete { dir: true, recursive: true });
    assert_eq!(told(&mut hub, &removed), [true, true, true, true, false]);
}

#[test]
fn a_watcher_that_does_not_read_is_dropped() {
    let mut store = Store::default();
    let mut hub = Hub::new(store.tree().index);
    let mut watching = hub.register(&key("/k"), false, 0).expect("there is room");
    for _ in 0..=V2_WATCHER_QUEUE {
        hub.publish(&set(&mut store, "/k", "v"));
    }
    assert_eq!(hub.counts().watchers, 0);
    let mut read = Vec::new();
    while let Ok(event) = watching.events.try_recv() {
        read.push(Arc::clone(&event).index());
    }
    assert_eq!(read, (4..4 + V2_WATCHER_QUEUE as u64).collect::<Vec<_>>());
    assert_eq!(hub.generation(), watching.generation, "it is not told to come again");
}
