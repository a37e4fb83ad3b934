//! A permission of a role: a kind of access to a range of keys.

use bytes::Bytes;

use crate::types::KeyRange;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Permission {
    pub(crate) kind: PermissionKind,
    pub(crate) range: KeyRange,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PermissionKind {
    Read,
    Write,
    ReadWrite,
    /// A kind that etcd does not know. As in etcd, such a permission is stored and permits nothing.
    Unknown(i32),
}

impl PermissionKind {
    /// The kind with this number, which is etcd's, on the wire and on the disk.
    pub(crate) fn of(number: i32) -> PermissionKind {
        match number {
            0 => PermissionKind::Read,
            1 => PermissionKind::Write,
            2 => PermissionKind::ReadWrite,
            unknown => PermissionKind::Unknown(unknown),
        }
    }

    pub(crate) fn number(self) -> i32 {
        match self {
            PermissionKind::Read => 0,
            PermissionKind::Write => 1,
            PermissionKind::ReadWrite => 2,
            PermissionKind::Unknown(number) => number,
        }
    }
}

impl Permission {
    /// Reading and writing every key.
    pub(super) fn everything() -> Permission {
        Permission { kind: PermissionKind::ReadWrite, range: KeyRange::all() }
    }
}

/// Whether a permission may be granted on the range: its first key is not empty, and the range is not
/// empty.
pub(super) fn is_grantable(range: &KeyRange) -> bool {
    let has_room = match range {
        KeyRange::Span(start, end) => start < end,
        KeyRange::Point(_) | KeyRange::From(_) => true,
    };
    has_room && !range.start().is_empty()
}

/// The stored form of each permission in turn: the number of its kind, i32; the key and the range end, each
/// after its length, u32; all big-endian.
pub(super) fn encode(permissions: &[Permission]) -> Bytes {
    let mut out = Vec::new();
    for permission in permissions {
        out.extend_from_slice(&permission.kind.number().to_be_bytes());
        let (key, range_end) = permission.range.to_wire();
        for bytes in [key, range_end] {
            let length = u32::try_from(bytes.len()).expect("a request has less than 4 GiB");
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(&bytes);
        }
    }
    out.into()
}

/// `None` if this is not what [`encode`] writes.
pub(super) fn decode(mut cell: &[u8]) -> Option<Vec<Permission>> {
    let mut permissions = Vec::new();
    while !cell.is_empty() {
        let kind = PermissionKind::of(i32::from_be_bytes(take(&mut cell)?));
        let (key, range_end) = (take_bytes(&mut cell)?, take_bytes(&mut cell)?);
        permissions.push(Permission { kind, range: KeyRange::parse(key, range_end) });
    }
    Some(permissions)
}

fn take(cell: &mut &[u8]) -> Option<[u8; 4]> {
    let (taken, rest) = cell.split_first_chunk()?;
    *cell = rest;
    Some(*taken)
}

fn take_bytes(cell: &mut &[u8]) -> Option<Bytes> {
    let length = usize::try_from(u32::from_be_bytes(take(cell)?)).ok()?;
    let (taken, rest) = cell.split_at_checked(length)?;
    *cell = rest;
    Some(Bytes::copy_from_slice(taken))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permission(kind: i32, key: &'static str, range_end: &'static str) -> Permission {
        let range = KeyRange::parse(Bytes::from(key), Bytes::from(range_end));
        Permission { kind: PermissionKind::of(kind), range }
    }

    #[test]
    fn the_stored_form_comes_back_and_a_part_of_it_does_not() {
        let permissions = [
            permission(0, "a", ""),
            permission(1, "a", "b"),
            permission(2, "a", "\0"),
            permission(-7, "b", ""),
        ];
        let cell = encode(&permissions);
        assert_eq!(decode(&cell).as_deref(), Some(&permissions[..]));
        let ends: Vec<usize> =
            (0..=permissions.len()).map(|some| encode(&permissions[..some]).len()).collect();
        for length in 0..=cell.len() {
            assert_eq!(decode(&cell[..length]).is_some(), ends.contains(&length), "{length}");
        }
    }

    #[test]
    fn ranges_that_are_granted() {
        for (key, range_end, expected) in [
            ("a", "", true),
            ("a", "b", true),
            ("a", "\0", true),
            ("\0", "\0", true),
            ("a", "a", false),
            ("b", "a", false),
            ("", "", false),
            ("", "a", false),
            ("", "\0", false),
        ] {
            assert_eq!(is_grantable(&permission(0, key, range_end).range), expected, "{key:?} {range_end:?}");
        }
    }
}
