//! Snapshots on the wire: parts in pieces that fit a message.

use bytes::Bytes;

use crate::{limits, pb::retcd::peer::SnapshotPiece};

/// A stretch of a part of a snapshot, with its checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) data: Bytes,
    pub(crate) crc32c: u32,
    /// The next piece continues the same part.
    pub(crate) is_continued: bool,
}

impl Piece {
    /// The pieces of an encoded part, whatever its size.
    pub(crate) fn of(mut part: Bytes) -> Vec<Piece> {
        let bytes = part.len();
        let mut pieces = Vec::with_capacity(bytes / limits::SNAPSHOT_PIECE_BYTES + 1);
        loop {
            let data = part.split_to(part.len().min(limits::SNAPSHOT_PIECE_BYTES));
            let is_continued = !part.is_empty();
            pieces.push(Piece { crc32c: crc32c::crc32c(&data), data, is_continued });
            if !is_continued {
                break;
            }
        }
        let split: usize = pieces.iter().map(|piece| piece.data.len()).sum();
        assert_eq!(split, bytes, "the pieces of a part are all of it");
        pieces
    }
}

impl From<Piece> for SnapshotPiece {
    fn from(Piece { data, crc32c, is_continued }: Piece) -> SnapshotPiece {
        SnapshotPiece { data, data_crc32c: crc32c, is_continued, ..SnapshotPiece::default() }
    }
}
