//! How much of the log stays when the database holds what it says.

use crate::limits;

/// What is kept of a log for those who may ask for it.
pub(super) struct Retention<'a> {
    /// The last entry whose effects the database holds.
    pub(super) durable_index: u64,
    /// The last entry of each full segment, oldest first. Only whole ones give room back.
    pub(super) sealed: &'a [u64],
    /// Nobody else belongs to the cluster, so nobody is behind.
    pub(super) is_alone: bool,
    /// For peers that are a little behind.
    pub(super) keep_entries: u64,
    /// Behind this entry, a peer that is sent a snapshot needs everything.
    pub(super) needed_after: Option<u64>,
}

impl Retention<'_> {
    /// Up to which entry the log may go. `None`: nothing would be gained, or nothing may go.
    pub(super) fn released_upto(&self) -> Option<u64> {
        if self.sealed.is_empty() {
            return None;
        }
        let upto = if self.is_alone {
            self.durable_index
        } else {
            let kept_from = self.sealed.len().checked_sub(limits::LOG_SEGMENTS_KEPT + 1);
            let beyond_room = kept_from.map_or(0, |last| self.sealed[last]).min(self.durable_index);
            self.durable_index.saturating_sub(self.keep_entries).max(beyond_room)
        };
        let upto = self.needed_after.map_or(upto, |needed_after| upto.min(needed_after));
        (upto > 0).then_some(upto)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMBER: Retention<'_> = Retention {
        durable_index: 20_000,
        sealed: &[9_000],
        is_alone: false,
        keep_entries: 5_000,
        needed_after: None,
    };

    #[test]
    fn nothing_goes_before_a_segment_is_full() {
        assert_eq!(Retention { sealed: &[], ..MEMBER }.released_upto(), None);
        assert_eq!(Retention { sealed: &[], is_alone: true, ..MEMBER }.released_upto(), None);
    }

    #[test]
    fn peers_that_are_a_little_behind_find_their_entries() {
        assert_eq!(MEMBER.released_upto(), Some(15_000));
        assert_eq!(Retention { keep_entries: 20_000, ..MEMBER }.released_upto(), None);
        assert_eq!(Retention { keep_entries: 100_000, ..MEMBER }.released_upto(), None);
    }

    #[test]
    fn those_entries_take_no_more_than_the_segments_that_may_be_kept() {
        let large_entries = Retention { sealed: &[15_500, 16_000, 17_000, 18_000], ..MEMBER };
        assert_eq!(large_entries.released_upto(), Some(16_000));
        let as_many_as_fit = Retention { sealed: &[17_000, 18_000], ..MEMBER };
        assert_eq!(as_many_as_fit.released_upto(), Some(15_000));
    }

    #[test]
    fn what_the_database_does_not_hold_stays() {
        let behind = Retention { durable_index: 100, sealed: &[200, 300, 400, 500], ..MEMBER };
        assert_eq!(behind.released_upto(), Some(100));
        assert_eq!(Retention { is_alone: true, ..behind }.released_upto(), Some(100));
    }

    #[test]
    fn who_is_alone_keeps_nothing() {
        assert_eq!(Retention { is_alone: true, ..MEMBER }.released_upto(), Some(20_000));
    }

    #[test]
    fn what_follows_a_snapshot_under_way_stays() {
        assert_eq!(Retention { needed_after: Some(12_000), ..MEMBER }.released_upto(), Some(12_000));
        assert_eq!(Retention { needed_after: Some(0), ..MEMBER }.released_upto(), None);
        assert_eq!(Retention { needed_after: Some(19_000), ..MEMBER }.released_upto(), Some(15_000));
    }
}
