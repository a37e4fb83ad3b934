//! Reading a node and what is below it, from a snapshot of the tree.
//!
//! The keys of a directory's descendants are not all behind each other: `/a-b` stands between `/a` and `/a/c`.
//! So the walk asks for the next key behind the last child, and jumps over what is below a child.

use std::ops::Bound;

use imbl::OrdMap;

use super::{Key, Refusal, Tree, key::behind, node::Node, nodes::find};

/// The parts of an answer, in the order in which they are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Listed {
    /// A file, or a directory that is shown without its children.
    Leaf { key: Key, node: Node },
    /// A directory whose children follow.
    Enter { key: Key, node: Node },
    /// The end of the directory that was entered last and not left.
    Leave { node: Node },
}

/// A walk over a node and what is below it: of a directory its children, and with `recursive` everything.
/// Hidden nodes are left out, but for the one that was asked for. Children are sorted by key.
#[derive(Debug)]
pub(crate) struct Listing {
    nodes: OrdMap<Key, Node>,
    recursive: bool,
    start: Option<(Key, Node)>,
    /// The directories that were entered and not left, the innermost last.
    open: Vec<Open>,
}

#[derive(Debug)]
struct Open {
    node: Node,
    prefix: String,
    /// The next child is behind this.
    after: Bound<String>,
}

impl Listing {
    pub(crate) fn new(tree: &Tree, key: &Key, recursive: bool) -> Result<Listing, Refusal> {
        let node = find(&tree.nodes, key, tree.index)?;
        Ok(Listing {
            nodes: tree.nodes.clone(),
            recursive,
            start: Some((key.clone(), node)),
            open: Vec::new(),
        })
    }

    fn enter(&mut self, key: Key, node: Node) -> Listed {
        let prefix = key.prefix();
        let after = Bound::Included(prefix.clone());
        self.open.push(Open { node: node.clone(), prefix, after });
        Listed::Enter { key, node }
    }
}

impl Iterator for Listing {
    type Item = Listed;

    fn next(&mut self) -> Option<Listed> {
        if let Some((key, node)) = self.start.take() {
            return Some(if node.is_dir() { self.enter(key, node) } else { Listed::Leaf { key, node } });
        }
        let is_deep = self.recursive;
        let innermost = self.open.last_mut()?;
        match next_child(&self.nodes, innermost) {
            Some((key, node)) if is_deep && node.is_dir() => Some(self.enter(key, node)),
            Some((key, node)) => Some(Listed::Leaf { key, node }),
            None => self.open.pop().map(|open| Listed::Leave { node: open.node }),
        }
    }
}

fn next_child(nodes: &OrdMap<Key, Node>, dir: &mut Open) -> Option<(Key, Node)> {
    loop {
        let from = match &dir.after {
            Bound::Included(key) => Bound::Included(key.as_str()),
            Bound::Excluded(key) => Bound::Excluded(key.as_str()),
            Bound::Unbounded => Bound::Unbounded,
        };
        let (key, node) = nodes.range::<_, str>((from, Bound::Unbounded)).next()?;
        let name = key.as_str().strip_prefix(&dir.prefix)?;
        if let Some(end) = name.find('/') {
            // Below a child that was visited.
            dir.after = Bound::Included(behind(&key.as_str()[..dir.prefix.len() + end]));
            continue;
        }
        dir.after = Bound::Excluded(key.as_str().to_owned());
        if !key.is_hidden() {
            return Some((key.clone(), node.clone()));
        }
    }
}
