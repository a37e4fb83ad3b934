//! The tree, and what commands do to it.
//!
//! Readers take a [`Tree`], a snapshot after a whole command, in constant time. A command that removes many
//! nodes takes strides, and what it has done so far is in no [`Tree`] before its end.

use std::sync::Arc;

use super::{
    AccountRefusal, Action, Change, Changes, Code, Condition, Done, Event, Happened, Key, KeyChange, Refusal,
    RoleRecord, Seen, Tree, UserRecord, V2Command, Who, Written,
    accounts::{Accounts, Touched},
    node::Node,
    nodes::{Nodes, parents},
    removal::Removal,
};
use crate::storage::Table;

#[derive(Debug)]
pub(crate) struct Store {
    nodes: Nodes,
    accounts: Accounts,
    /// After the last command that is done.
    visible: Tree,
}

/// What came of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// With what was asked for.
    Key(Action, Result<Happened, Refusal>),
    Expired(Vec<Happened>),
    /// The index after it: a change of users and roles has no event.
    Account {
        index: u64,
        result: Result<Done, AccountRefusal>,
    },
}

/// A command that is being applied.
#[derive(Debug)]
pub(crate) enum Run {
    Remove(Removal),
    Expire { cutoff: i64, left: u32, happened: Vec<Happened>, removal: Option<Removal> },
}

#[derive(Debug)]
pub(crate) enum Advanced {
    More(Run),
    Done(Answer),
}

impl Default for Store {
    fn default() -> Store {
        let nodes = Nodes::default();
        Store { visible: nodes.tree(), nodes, accounts: Accounts::default() }
    }
}

/// What readers ask.
impl Store {
    pub(crate) fn tree(&self) -> Tree {
        self.visible.clone()
    }

    /// When the next node expires, in nanoseconds since 1970.
    pub(crate) fn next_expiration(&self) -> Option<i64> {
        self.nodes.next_to_expire().map(|(expires, _)| *expires)
    }

    /// See [`History::find`].
    pub(crate) fn find_event(
        &self,
        key: &Key,
        recursive: bool,
        from: u64,
        to: u64,
    ) -> Result<Option<Arc<Event>>, Refusal> {
        self.nodes.history.find(key, recursive, from, to)
    }

    pub(crate) fn auth_enabled(&self) -> bool {
        self.accounts.is_enabled()
    }

    pub(crate) fn may_use(&self, who: &Who, key: &Key, writes: bool, recursive: bool) -> bool {
        self.accounts.may_use(who, key, writes, recursive)
    }

    /// Whether the caller may see and change users and roles.
    pub(crate) fn is_root(&self, who: &Who) -> bool {
        self.accounts.is_root(who)
    }

    pub(crate) fn user(&self, name: &str) -> Option<UserRecord> {
        self.accounts.user(name)
    }

    pub(crate) fn user_names(&self) -> impl Iterator<Item = &str> {
        self.accounts.users.keys().map(String::as_str)
    }

    pub(crate) fn role(&self, name: &str) -> Option<RoleRecord> {
        self.accounts.role(name)
    }

    pub(crate) fn role_names(&self) -> impl Iterator<Item = &str> {
        self.accounts.role_names().into_iter()
    }
}

/// What commands do.
impl Store {
    /// Begins a command, and does as much of it as `keys_left` allows, which is reduced by the nodes that were
    /// removed.
    pub(crate) fn begin(&mut self, command: &V2Command, keys_left: &mut usize) -> Advanced {
        let run = match command {
            V2Command::Key(change) => match self.change(change) {
                Ok(Changed::Event(event)) => {
                    let happened = Happened { event, removed: Vec::new() };
                    return self.done(Answer::Key(change.change.action(), Ok(happened)));
                }
                Ok(Changed::Removing(removal)) => Run::Remove(removal),
                Err(refusal) => return self.done(Answer::Key(change.change.action(), Err(refusal))),
            },
            V2Command::Expire { cutoff, most } => {
                Run::Expire { cutoff: *cutoff, left: *most, happened: Vec::new(), removal: None }
            }
            V2Command::Account { who, change } => {
                let mut touched = Vec::new();
                self.nodes.changes.counted_before += self.accounts.stored(change);
                let result = self.accounts.change(who, change, &mut touched);
                for touched in touched {
                    self.nodes.push_empty();
                    self.record_account(&touched);
                }
                self.nodes.changes.counted_after += self.accounts.stored(change);
                return self.done(Answer::Account { index: self.index(), result });
            }
        };
        self.advance(run, keys_left)
    }

    /// Goes on with a command.
    pub(crate) fn advance(&mut self, run: Run, keys_left: &mut usize) -> Advanced {
        match run {
            Run::Remove(mut removal) => match removal.advance(&mut self.nodes, keys_left) {
                Some(happened) => self.done(Answer::Key(happened.event.action, Ok(happened))),
                None => Advanced::More(Run::Remove(removal)),
            },
            Run::Expire { cutoff, mut left, mut happened, mut removal } => {
                while *keys_left > 0 {
                    let mut under_way = match removal.take() {
                        Some(removal) => removal,
                        None => match self.nodes.next_to_expire().filter(|(at, _)| *at <= cutoff && left > 0)
                        {
                            Some((_, key)) => {
                                left -= 1;
                                let node = self.nodes.get(key).expect("a node that expires exists");
                                Removal::begin(Action::Expire, key, node, cutoff)
                            }
                            None => return self.done(Answer::Expired(happened)),
                        },
                    };
                    match under_way.advance(&mut self.nodes, keys_left) {
                        Some(expired) => happened.push(expired),
                        None => removal = Some(under_way),
                    }
                }
                Advanced::More(Run::Expire { cutoff, left, happened, removal })
            }
        }
    }

    /// Takes the cells that have changed.
    pub(crate) fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.nodes.changes)
    }

    fn done(&mut self, answer: Answer) -> Advanced {
        self.visible = self.nodes.tree();
        Advanced::Done(answer)
    }
}

/// What a change has come to so far.
enum Changed {
    Event(Arc<Event>),
    Removing(Removal),
}

impl Store {
    fn change(&mut self, change: &KeyChange) -> Result<Changed, Refusal> {
        let KeyChange { who, key, at, change } = change;
        // As in etcd, an in-order request is judged by the directory, and its permission by the key it names.
        let recursive = matches!(change, Change::Delete { recursive: true, .. });
        if !self.accounts.may_use(who, key, true, recursive) {
            return Err(Refusal::of_request(Code::Unauthorized, "Insufficient credentials"));
        }
        let event = match change {
            Change::Set(written) => self.set(key, written, *at)?,
            Change::Create { written, in_order } => self.create(key, written, *in_order, *at)?,
            Change::Update(written) => self.update(key, written, *at)?,
            Change::CompareAndSwap { condition, written } => {
                self.compare_and_swap(key, condition, written, *at)?
            }
            Change::Delete { dir, recursive } => return self.delete(key, *dir, *recursive, *at),
            Change::CompareAndDelete(condition) => return self.compare_and_delete(key, condition, *at),
        };
        Ok(Changed::Event(self.nodes.push(event)))
    }

    fn set(&mut self, key: &Key, written: &Written, now: i64) -> Result<Event, Refusal> {
        let before = match self.nodes.find(key) {
            Ok(node) => Some(node),
            Err(refusal) if refusal.code == Code::KeyNotFound && !written.refresh => None,
            Err(refusal) => return Err(refusal),
        };
        self.refuse_root(key)?;
        let value = match &before {
            Some(node) if written.refresh => node.value.clone().unwrap_or_default(),
            _ => written.value.clone(),
        };
        self.make_parents(key)?;
        if before.as_ref().is_some_and(Node::is_dir) {
            return Err(self.refusal(Code::NotFile, key.as_str()));
        }
        let prev = before.map(|node| Seen::of(key, &node, now));
        let node = self.put_new(key, value, written);
        let node = Seen::of(key, &node, now);
        Ok(Event { action: Action::Set, node, prev, is_refresh: written.refresh })
    }

    fn create(&mut self, key: &Key, written: &Written, in_order: bool, now: i64) -> Result<Event, Refusal> {
        let child;
        let key = if in_order {
            let child_key = Key::of(&format!("{key}/{:020}", self.index() + 1));
            child = child_key.map_err(|bad| self.refusal(Code::InvalidForm, &bad.to_string()))?;
            &child
        } else {
            key
        };
        self.refuse_root(key)?;
        self.make_parents(key)?;
        if self.nodes.get(key).is_some() {
            return Err(self.refusal(Code::KeyExists, key.as_str()));
        }
        let node = self.put_new(key, written.value.clone(), written);
        let node = Seen::of(key, &node, now);
        Ok(Event { action: Action::Create, node, prev: None, is_refresh: false })
    }

    fn update(&mut self, key: &Key, written: &Written, now: i64) -> Result<Event, Refusal> {
        self.refuse_root(key)?;
        let before = self.nodes.find(key)?;
        if before.is_dir() && !written.value.is_empty() {
            return Err(self.refusal(Code::NotFile, key.as_str()));
        }
        Ok(self.rewrite(Action::Update, key, &before, written, now))
    }

    fn compare_and_swap(
        &mut self,
        key: &Key,
        condition: &Condition,
        written: &Written,
        now: i64,
    ) -> Result<Event, Refusal> {
        self.refuse_root(key)?;
        let before = self.compared(key, condition)?;
        Ok(self.rewrite(Action::CompareAndSwap, key, &before, written, now))
    }

    fn delete(&mut self, key: &Key, dir: bool, recursive: bool, now: i64) -> Result<Changed, Refusal> {
        self.refuse_root(key)?;
        let node = self.nodes.find(key)?;
        if node.is_dir() && !dir && !recursive {
            return Err(self.refusal(Code::NotFile, key.as_str()));
        }
        if node.is_dir() && !recursive && self.nodes.first_below(&key.prefix()).is_some() {
            return Err(self.refusal(Code::DirNotEmpty, key.as_str()));
        }
        Ok(Changed::Removing(Removal::begin(Action::Delete, key, &node, now)))
    }

    fn compare_and_delete(&mut self, key: &Key, condition: &Condition, now: i64) -> Result<Changed, Refusal> {
        let node = self.compared(key, condition)?;
        Ok(Changed::Removing(Removal::begin(Action::CompareAndDelete, key, &node, now)))
    }

    /// The file at the key, if the condition holds for it.
    fn compared(&self, key: &Key, condition: &Condition) -> Result<Node, Refusal> {
        let node = self.nodes.find(key)?;
        let Some(value) = &node.value else {
            // As in etcd: it compares the root too, and has no name for it.
            let cause = if key.is_root() { "" } else { key.as_str() };
            return Err(self.refusal(Code::NotFile, cause));
        };
        let mut causes = Vec::new();
        if let Some(wanted) = condition.value.as_ref().filter(|wanted| *wanted != value) {
            causes.push(format!("[{wanted} != {value}]"));
        }
        if let Some(wanted) = condition.index.filter(|wanted| *wanted != node.modified) {
            causes.push(format!("[{wanted} != {}]", node.modified));
        }
        if causes.is_empty() { Ok(node) } else { Err(self.refusal(Code::CompareFailed, &causes.join(" "))) }
    }

    /// Changes value and TTL of a node that exists. As in etcd, the index of a directory does not change.
    fn rewrite(&mut self, action: Action, key: &Key, before: &Node, written: &Written, now: i64) -> Event {
        let mut node = before.clone();
        let index = self.index() + 1;
        if node.value.is_some() {
            node.modified = index;
            if !written.refresh {
                node.value = Some(written.value.clone());
            }
        }
        node.expires = written.expires;
        self.nodes.put(key, node.clone());
        let node = Seen { modified: index, ..Seen::of(key, &node, now) };
        Event { action, node, prev: Some(Seen::of(key, before, now)), is_refresh: written.refresh }
    }

    fn put_new(&mut self, key: &Key, value: Arc<str>, written: &Written) -> Node {
        let index = self.index() + 1;
        let value = (!written.dir).then_some(value);
        let node = Node { created: index, modified: index, expires: written.expires, value };
        self.nodes.put(key, node.clone());
        node
    }

    /// Makes the directories above a node.
    fn make_parents(&mut self, key: &Key) -> Result<(), Refusal> {
        let parents: Vec<Key> = parents(key);
        let missing = parents.iter().position(|parent| self.nodes.get(parent).is_none());
        let known = &parents[..missing.unwrap_or(parents.len())];
        if let Some(file) =
            known.iter().find(|parent| self.nodes.get(parent).is_some_and(|node| !node.is_dir()))
        {
            return Err(self.refusal(Code::NotDir, file.as_str()));
        }
        let index = self.index() + 1;
        for parent in parents.into_iter().skip(missing.unwrap_or(usize::MAX)) {
            let dir = Node { created: index, modified: index, expires: None, value: None };
            self.nodes.put(&parent, dir);
        }
        Ok(())
    }

    fn index(&self) -> u64 {
        self.nodes.index()
    }

    fn refuse_root(&self, key: &Key) -> Result<(), Refusal> {
        if key.is_root() { Err(self.refusal(Code::RootReadOnly, "/")) } else { Ok(()) }
    }

    fn refusal(&self, code: Code, cause: &str) -> Refusal {
        Refusal { code, cause: cause.to_owned(), index: self.index() }
    }
}

/// Opening the state.
impl Store {
    /// `None` if this is not what was stored.
    pub(crate) fn restore_node(&mut self, key: &[u8], cell: &[u8]) -> Option<()> {
        self.nodes.restore_node(key, cell)
    }

    /// `None` if this is not what was stored. The slots have to come in the order of their keys.
    pub(crate) fn restore_event(&mut self, key: &[u8], cell: &[u8], is_first: bool) -> Option<()> {
        self.nodes.restore_event(key, cell, is_first)
    }

    /// `None` if this is not what was stored.
    pub(crate) fn restore_account(&mut self, key: &[u8], cell: &[u8]) -> Option<()> {
        self.accounts.restore(str::from_utf8(key).ok()?, cell)
    }

    /// To be called when everything was restored. `None` if a node has no directory to be in.
    pub(crate) fn restored(&mut self) -> Option<()> {
        self.visible = self.nodes.tree();
        self.nodes.is_whole().then_some(())
    }

    fn record_account(&mut self, touched: &Touched) {
        let (key, cell) = self.accounts.cell(touched);
        self.nodes.record(Table::V2Account, key.into(), cell);
    }
}
