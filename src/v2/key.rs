//! Paths of nodes.

use std::{borrow::Borrow, fmt, sync::Arc};

use thiserror::Error;

use crate::limits::{V2_DEPTH_MAX, V2_KEY_BYTES_MAX};

/// A cleaned path: it begins with `/`, has no empty component, no `.` and no `..`, and ends with `/` only if it
/// is the root.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key(Arc<str>);

#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum BadKey {
    #[error("the key is longer than {V2_KEY_BYTES_MAX} bytes")]
    TooLong,
    #[error("the key is more than {V2_DEPTH_MAX} levels deep")]
    TooDeep,
}

impl Key {
    /// The key that a path leads to: as Go's `path.Clean`, from the root.
    pub(crate) fn of(path: &str) -> Result<Key, BadKey> {
        let mut components: Vec<&str> = Vec::new();
        for component in path.split('/') {
            match component {
                "" | "." => {}
                ".." => drop(components.pop()),
                name => components.push(name),
            }
        }
        if components.len() > V2_DEPTH_MAX {
            return Err(BadKey::TooDeep);
        }
        let key = format!("/{}", components.join("/"));
        if key.len() > V2_KEY_BYTES_MAX { Err(BadKey::TooLong) } else { Ok(Key(key.into())) }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn is_root(&self) -> bool {
        &*self.0 == "/"
    }

    /// The ancestors below the root, from the highest, and the key itself at the end.
    pub(super) fn steps(&self) -> impl Iterator<Item = &str> {
        let path = &*self.0;
        let ends = path.match_indices('/').map(|(at, _)| at).skip(1).chain([path.len()]);
        ends.filter(move |_| path.len() > 1).map(move |end| &path[..end])
    }

    /// What the keys of all descendants begin with.
    pub(super) fn prefix(&self) -> String {
        if self.is_root() { "/".to_owned() } else { format!("{}/", self.0) }
    }

    /// Whether listings of the parent leave the node out.
    pub(super) fn is_hidden(&self) -> bool {
        self.0.rsplit('/').next().is_some_and(|name| name.starts_with('_'))
    }

    pub(super) fn is_below(&self, ancestor: &Key) -> bool {
        self.0.len() > ancestor.0.len() && self.0.starts_with(&ancestor.prefix())
    }
}

/// The first key behind all descendants of the node at `path`: `0` follows `/`.
pub(super) fn behind(path: &str) -> String {
    format!("{path}0")
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_as_go_does() {
        for (path, key) in [
            ("", "/"),
            ("/", "/"),
            ("//a///b/", "/a/b"),
            ("/a/./b/../c", "/a/c"),
            ("/../../a", "/a"),
            ("a", "/a"),
        ] {
            assert_eq!(Key::of(path).expect("short").as_str(), key, "{path}");
        }
        assert_eq!(Key::of(&"/a".repeat(V2_DEPTH_MAX + 1)), Err(BadKey::TooDeep));
        assert_eq!(Key::of(&"a".repeat(V2_KEY_BYTES_MAX)), Err(BadKey::TooLong));
    }

    #[test]
    fn a_key_knows_its_steps() {
        let steps = |path| Key::of(path).expect("short").steps().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(steps("/a/b/c"), ["/a", "/a/b", "/a/b/c"]);
        assert!(steps("/").is_empty());
        let key = |path| Key::of(path).expect("short");
        assert!(key("/a/b").is_below(&key("/a")) && !key("/ab").is_below(&key("/a")));
        assert!(key("/a").is_below(&key("/")) && !key("/").is_below(&key("/")));
        assert!(key("/a/_b").is_hidden() && !key("/_a/b").is_hidden());
    }
}
