//! The stored form of nodes, events, users and roles.
//!
//! Integers are eight bytes, big-endian. A text has its length before it, in four bytes; the value of a node
//! is the rest of its cell.

use std::sync::Arc;

use bytes::Bytes;

use super::{Action, Event, Key, Seen, node::Node};

/// A node has a value.
const FILE: u8 = 0;
const DIR: u8 = 1;

const NODE_HEADER_BYTES: usize = 3 * 8 + 1;

/// The length of [`node`]'s result.
pub(super) fn node_len(node: &Node) -> usize {
    NODE_HEADER_BYTES + node.value.as_ref().map_or(0, |value| value.len())
}

pub(super) fn node(node: &Node) -> Bytes {
    let mut out = Vec::with_capacity(node_len(node));
    out.extend_from_slice(&node.created.to_be_bytes());
    out.extend_from_slice(&node.modified.to_be_bytes());
    // A node cannot expire in 1970.
    out.extend_from_slice(&node.expires.unwrap_or(0).to_be_bytes());
    out.push(if node.is_dir() { DIR } else { FILE });
    if let Some(value) = &node.value {
        out.extend_from_slice(value.as_bytes());
    }
    out.into()
}

/// `None` if this is not what [`node`] writes.
pub(super) fn read_node(cell: &[u8]) -> Option<Node> {
    let mut rest = cell;
    let (created, modified) = (integer(&mut rest)?, integer(&mut rest)?);
    let expires = integer(&mut rest)? as i64;
    let (kind, value) = rest.split_first()?;
    let value = match *kind {
        FILE => Some(str::from_utf8(value).ok()?.into()),
        DIR if value.is_empty() => None,
        _ => return None,
    };
    Some(Node { created, modified, expires: (expires != 0).then_some(expires), value })
}

/// The cell of a slot of the history. An empty slot has an empty cell.
pub(super) fn slot(event: Option<&Event>) -> Bytes {
    let Some(event) = event else { return Bytes::new() };
    let mut out = vec![event.action.number(), u8::from(event.prev.is_some())];
    for seen in [Some(&event.node), event.prev.as_ref()].into_iter().flatten() {
        put_text(&mut out, seen.key.as_str());
        for integer in [seen.created, seen.modified, seen.expires.unwrap_or(0) as u64, seen.ttl_secs as u64] {
            out.extend_from_slice(&integer.to_be_bytes());
        }
        out.push(u8::from(seen.is_dir) | u8::from(seen.value.is_some()) << 1);
        if let Some(value) = &seen.value {
            put_text(&mut out, value);
        }
    }
    out.into()
}

/// `None` if this is not what [`slot`] writes.
pub(super) fn read_slot(cell: &[u8]) -> Option<Option<Event>> {
    let mut rest = cell;
    if rest.is_empty() {
        return Some(None);
    }
    let action = Action::of_number(byte(&mut rest)?)?;
    let has_prev = match byte(&mut rest)? {
        0 => false,
        1 => true,
        _ => return None,
    };
    let node = seen(&mut rest)?;
    let prev = if has_prev { Some(seen(&mut rest)?) } else { None };
    rest.is_empty().then_some(Some(Event { action, node, prev, is_refresh: false }))
}

fn seen(rest: &mut &[u8]) -> Option<Seen> {
    let key = Key::of(text(rest)?).ok()?;
    let (created, modified) = (integer(rest)?, integer(rest)?);
    let (expires, ttl_secs) = (integer(rest)? as i64, integer(rest)? as i64);
    let flags = byte(rest)?;
    let value = match flags >> 1 {
        0 => None,
        1 => Some(Arc::from(text(rest)?)),
        _ => return None,
    };
    let expires = (expires != 0).then_some(expires);
    Some(Seen { key, value, is_dir: flags & 1 == 1, expires, ttl_secs, modified, created })
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    let len = u32::try_from(text.len()).expect("a request is shorter");
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let (len, behind) = rest.split_first_chunk::<4>()?;
    let (text, behind) = behind.split_at_checked(u32::from_be_bytes(*len) as usize)?;
    *rest = behind;
    str::from_utf8(text).ok()
}

fn integer(rest: &mut &[u8]) -> Option<u64> {
    let (integer, behind) = rest.split_first_chunk::<8>()?;
    *rest = behind;
    Some(u64::from_be_bytes(*integer))
}

fn byte(rest: &mut &[u8]) -> Option<u8> {
    let (byte, behind) = rest.split_first()?;
    *rest = behind;
    Some(*byte)
}
