//! A second, slow and simple implementation of the same rules: a list of nodes with their paths.

use proptest::prelude::*;

use crate::{
    apply::arbitrary::v2_command,
    v2::{
        Action, Advanced, Answer, Change, Condition, Event, Happened, Key, Listed, Listing, Refusal, Seen,
        Store, V2Command, Written,
    },
};

#[derive(Clone, Debug, PartialEq)]
struct MNode {
    path: String,
    created: u64,
    modified: u64,
    expires: Option<i64>,
    value: Option<String>,
}

struct Model {
    nodes: Vec<MNode>,
    index: u64,
}

/// What happened, or code and cause of the refusal.
type Verdict = Result<MEvent, (u16, String)>;

#[derive(Debug, PartialEq)]
struct MEvent {
    action: Action,
    path: String,
    node: (Option<String>, bool, Option<i64>, u64, u64),
    prev: Option<MNode>,
}

impl Model {
    fn at(&self, path: &str) -> Option<&MNode> {
        self.nodes.iter().find(|node| node.path == path)
    }

    /// The first thing on the way to the node that is wrong.
    fn way(&self, path: &str) -> Result<(), (u16, String)> {
        let ends = path.match_indices('/').map(|(at, _)| at).skip(1).chain([path.len()]);
        for end in ends.filter(|_| path != "/") {
            match self.at(&path[..end]) {
                None => return Err((100, path[..end].to_owned())),
                Some(node) if node.value.is_some() && end < path.len() => {
                    return Err((104, path[..end].to_owned()));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn apply(&mut self, key: &str, at: i64, change: &Change) -> Verdict {
        let root_refused = || if key == "/" { Err((107, "/".to_owned())) } else { Ok(()) };
        match change {
            Change::Set(written) => {
                let way = self.way(key);
                let is_missing = matches!(&way, Err((100, _)));
                if let Err(refusal) = way
                    && (!is_missing || written.refresh)
                {
                    return Err(refusal);
                }
                root_refused()?;
                let prev = self.at(key).cloned();
                if prev.as_ref().is_some_and(|prev| prev.value.is_none()) {
                    return Err((102, key.to_owned()));
                }
                let mut written = written.clone();
                if let Some(prev) = prev.as_ref().filter(|_| written.refresh) {
                    written.value = prev.value.clone().unwrap_or_default().into();
                }
                Ok(self.put_new(Action::Set, key, &written, prev))
            }
            Change::Create { written, in_order } => {
                let child = format!("{}/{:020}", key.trim_end_matches('/'), self.index + 1);
                let key = if *in_order { child.as_str() } else { key };
                if key == "/" {
                    return Err((107, "/".to_owned()));
                }
                match self.way(key) {
                    Err((104, cause)) => return Err((104, cause)),
                    Ok(()) => return Err((105, key.to_owned())),
                    Err(_) => {}
                }
                Ok(self.put_new(Action::Create, key, written, None))
            }
            Change::Update(written) => {
                root_refused()?;
                self.way(key)?;
                let prev = self.at(key).cloned().expect("the way leads there");
                if prev.value.is_none() && !written.value.is_empty() {
                    return Err((102, key.to_owned()));
                }
                Ok(self.rewrite(Action::Update, prev, written))
            }
            Change::CompareAndSwap { condition, written } => {
                root_refused()?;
                let prev = self.compared(key, condition)?;
                Ok(self.rewrite(Action::CompareAndSwap, prev, written))
            }
            Change::Delete { dir, recursive } => {
                root_refused()?;
                self.way(key)?;
                let node = self.at(key).cloned().expect("the way leads there");
                let below = format!("{key}/");
                if node.value.is_none() && !dir && !recursive {
                    return Err((102, key.to_owned()));
                }
                let is_empty = !self.nodes.iter().any(|node| node.path.starts_with(&below));
                if node.value.is_none() && !recursive && !is_empty {
                    return Err((108, key.to_owned()));
                }
                Ok(self.remove(Action::Delete, node))
            }
            Change::CompareAndDelete(condition) => {
                let node = self.compared(key, condition)?;
                Ok(self.remove(Action::CompareAndDelete, node))
            }
        }
        .inspect(|_| assert!(at > 0))
    }

    fn expire(&mut self, cutoff: i64, most: u32) -> Vec<MEvent> {
        let mut events = Vec::new();
        for _ in 0..most {
            let due = self.nodes.iter().filter(|node| node.expires.is_some_and(|at| at <= cutoff));
            let Some(next) = due.min_by(|a, b| (a.expires, &a.path).cmp(&(b.expires, &b.path))).cloned()
            else {
                break;
            };
            events.push(self.remove(Action::Expire, next));
        }
        events
    }

    fn compared(&self, key: &str, condition: &Condition) -> Result<MNode, (u16, String)> {
        self.way(key)?;
        let node = match self.at(key) {
            None => return Err((102, String::new())),
            Some(node) => node.clone(),
        };
        let Some(value) = &node.value else { return Err((102, key.to_owned())) };
        let value_fits = condition.value.as_ref().is_none_or(|wanted| **wanted == **value);
        let index_fits = condition.index.is_none_or(|wanted| wanted == node.modified);
        let of_value = || format!("[{} != {value}]", condition.value.as_deref().unwrap_or_default());
        let of_index = || format!("[{} != {}]", condition.index.unwrap_or_default(), node.modified);
        match (value_fits, index_fits) {
            (true, true) => Ok(node),
            (false, true) => Err((101, of_value())),
            (true, false) => Err((101, of_index())),
            (false, false) => Err((101, format!("{} {}", of_value(), of_index()))),
        }
    }

    fn put_new(&mut self, action: Action, key: &str, written: &Written, prev: Option<MNode>) -> MEvent {
        self.index += 1;
        let index = self.index;
        for (end, _) in key.match_indices('/').skip(1) {
            if self.at(&key[..end]).is_none() {
                let path = key[..end].to_owned();
                self.nodes.push(MNode { path, created: index, modified: index, expires: None, value: None });
            }
        }
        self.nodes.retain(|node| node.path != key);
        let value = (!written.dir).then(|| written.value.to_string());
        let node =
            MNode { path: key.to_owned(), created: index, modified: index, expires: written.expires, value };
        self.nodes.push(node.clone());
        let is_dir = node.value.is_none();
        let shown = (node.value, is_dir, node.expires, index, index);
        MEvent { action, path: key.to_owned(), node: shown, prev }
    }

    fn rewrite(&mut self, action: Action, prev: MNode, written: &Written) -> MEvent {
        self.index += 1;
        let index = self.index;
        let node = self.nodes.iter_mut().find(|node| node.path == prev.path).expect("it exists");
        node.expires = written.expires;
        if node.value.is_some() {
            node.modified = index;
            if !written.refresh {
                node.value = Some(written.value.to_string());
            }
        }
        let shown = (node.value.clone(), node.value.is_none(), node.expires, index, node.created);
        MEvent { action, path: prev.path.clone(), node: shown, prev: Some(prev) }
    }

    fn remove(&mut self, action: Action, node: MNode) -> MEvent {
        self.index += 1;
        let below = format!("{}/", node.path);
        self.nodes.retain(|other| other.path != node.path && !other.path.starts_with(&below));
        let shown = (None, node.value.is_none(), None, self.index, node.created);
        MEvent { action, path: node.path.clone(), node: shown, prev: Some(node) }
    }
}

fn of_event(event: &Event) -> MEvent {
    let Event { action, node, prev, .. } = event;
    let Seen { key, value, is_dir, expires, modified, created, .. } = node.clone();
    let value = value.map(|value| value.to_string());
    let prev = prev.as_ref().map(|prev| MNode {
        path: prev.key.to_string(),
        created: prev.created,
        modified: prev.modified,
        expires: prev.expires,
        value: prev.value.as_ref().map(|value| value.to_string()),
    });
    MEvent { action: *action, path: key.to_string(), node: (value, is_dir, expires, modified, created), prev }
}

/// Applies a command in strides of this many nodes.
fn run(store: &mut Store, command: &V2Command, stride: usize) -> Answer {
    let before = store.tree().index;
    let mut advanced = store.begin(command, &mut stride.clone());
    loop {
        match advanced {
            Advanced::Done(answer) => return answer,
            Advanced::More(run) => {
                assert_eq!(store.tree().index, before, "nobody sees half a command");
                advanced = store.advance(run, &mut stride.clone());
            }
        }
    }
}

fn verdict(result: Result<Happened, Refusal>) -> Verdict {
    match result {
        Ok(happened) => Ok(of_event(&happened.event)),
        Err(refusal) => Err((refusal.code.number(), refusal.cause)),
    }
}

/// The visible nodes of a recursive listing, with their depth.
fn listed(store: &Store) -> Vec<String> {
    let root = Key::of("/").expect("short");
    let mut depth = 0;
    let mut out = Vec::new();
    for listed in Listing::new(&store.tree(), &root, true).expect("the root exists") {
        match listed {
            Listed::Leaf { key, .. } => out.push(format!("{depth} {key}")),
            Listed::Enter { key, .. } => {
                out.push(format!("{depth} {key}"));
                depth += 1;
            }
            Listed::Leave { .. } => depth -= 1,
        }
    }
    assert_eq!(depth, 0, "every directory is left");
    out.sort();
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_tree_is_as_the_model_says(
        commands in prop::collection::vec(v2_command(), 1..150),
        stride in 1usize..4,
    ) {
        let mut store = Store::default();
        let mut model = Model { nodes: Vec::new(), index: 3 };
        for command in &commands {
            match command {
                V2Command::Key(change) => {
                    let Answer::Key(_, result) = run(&mut store, command, stride) else { unreachable!() };
                    let expected = model.apply(change.key.as_str(), change.at, &change.change);
                    prop_assert_eq!(verdict(result), expected, "{:?}", command);
                }
                V2Command::Expire { cutoff, most } => {
                    let Answer::Expired(happened) = run(&mut store, command, stride) else { unreachable!() };
                    let events: Vec<MEvent> = happened.iter().map(|one| of_event(&one.event)).collect();
                    prop_assert_eq!(events, model.expire(*cutoff, *most), "{:?}", command);
                }
                // The model has no users.
                V2Command::Account { .. } => {}
            }
            prop_assert_eq!(store.tree().index, model.index);
        }
        let is_visible = |node: &&MNode| !node.path.contains("/_");
        let visible = model.nodes.iter().filter(is_visible);
        let mut expected: Vec<String> =
            visible.map(|node| format!("{} {}", node.path.matches('/').count(), node.path)).collect();
        expected.push("0 /".to_owned());
        expected.sort();
        prop_assert_eq!(listed(&store), expected);
        let next = model.nodes.iter().filter_map(|node| node.expires).min();
        prop_assert_eq!(store.next_expiration(), next);
    }
}
