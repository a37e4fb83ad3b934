//! Random calls over few keys: valid, unusual and invalid ones.
//!
//! A call has revisions relative to those of the store at that time, so a list of calls keeps its meaning
//! when some of them are left out. The same seed always gives the same list, because the generator is part of
//! this file.

use bytes::Bytes;

use super::operation::{self, Operation};
use crate::{
    pb::etcdserverpb::{compare::TargetUnion, request_op::Request, *},
    tools::Reference,
};

/// `NOW + n` stands for the store's revision plus `n`, `COMPACTED + n` for the compact revision.
pub(crate) const NOW: i64 = 1 << 40;
pub(crate) const COMPACTED: i64 = 1 << 41;
const REACH: i64 = 1 << 20;

/// The depth of nested transactions.
const NESTING: usize = 2;

/// One step of a run, played on both servers.
#[derive(Clone, Debug)]
pub(crate) enum Call {
    Range(RangeRequest),
    RangeStream(RangeRequest),
    Put(PutRequest),
    Delete(DeleteRangeRequest),
    Txn(TxnRequest),
    Compact(CompactionRequest),
    Grant(LeaseGrantRequest),
    /// Grants a lease and revokes it at once, because it would expire soon or the server chooses its id.
    GrantBriefly(LeaseGrantRequest),
    Revoke(LeaseRevokeRequest),
    TimeToLive(LeaseTimeToLiveRequest),
    KeepAlive(LeaseKeepAliveRequest),
    Leases(LeaseLeasesRequest),
    HashKv(HashKvRequest),
    Watch(WatchCreateRequest),
    CancelWatch(WatchCancelRequest),
    /// Asks for the progress of the watch stream.
    Progress,
    Operation(Operation),
    /// Raises an alarm, makes these calls, and clears the alarm.
    Alarmed(AlarmRequest, Vec<Call>),
    /// Restarts both servers; retcd is killed.
    Crash,
}

/// SplitMix64. It is part of the tests, so that a seed that failed keeps failing.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.roll() % bound as u64) as usize
    }

    pub(super) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(super) fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }
}

/// A whole run.
pub(crate) fn calls(seed: u64, count: usize) -> Vec<Call> {
    let mut dice = Dice::new(seed);
    (0..count).map(|_| call(&mut dice)).collect()
}

fn call(dice: &mut Dice) -> Call {
    match dice.below(1000) {
        0..760 => data(dice),
        760..795 => Call::Grant(LeaseGrantRequest {
            id: lease_id(dice),
            ttl: dice.pick(&[1000, 1000, 5000, 100_000, 9_000_000_000, 9_000_000_001, i64::MAX]),
        }),
        795..805 => Call::GrantBriefly(LeaseGrantRequest {
            id: dice.pick(&[0, 0, 77]),
            ttl: dice.pick(&[i64::MIN, -1, 0, 1, 2, 1000, 9_000_000_000]),
        }),
        805..825 => Call::Revoke(LeaseRevokeRequest { id: any_lease_id(dice) }),
        825..845 => {
            Call::TimeToLive(LeaseTimeToLiveRequest { id: any_lease_id(dice), keys: dice.chance(80) })
        }
        845..855 => Call::KeepAlive(LeaseKeepAliveRequest { id: any_lease_id(dice) }),
        855..860 => Call::Leases(LeaseLeasesRequest {}),
        860..895 => Call::Watch(watch(dice)),
        895..912 => Call::CancelWatch(WatchCancelRequest {
            watch_id: dice.pick(&[0, 0, 1, 2, 3, 4, 5, 9, -1, -7, i64::MAX]),
        }),
        912..918 => Call::Progress,
        918..932 => Call::Compact(CompactionRequest {
            revision: dice.pick(&[
                NOW,
                NOW - 1,
                NOW - 3,
                NOW - 10,
                NOW + 1,
                COMPACTED,
                COMPACTED + 1,
                COMPACTED - 1,
                -1,
                0,
                i64::MAX,
                i64::MIN,
            ]),
            physical: dice.chance(60),
        }),
        932..946 => Call::HashKv(HashKvRequest {
            revision: dice.pick(&[
                0,
                0,
                NOW,
                NOW - 1,
                NOW - 5,
                NOW + 1,
                COMPACTED - 1,
                COMPACTED + 1,
                -1,
                i64::MAX,
                i64::MIN,
            ]),
        }),
        946..994 => Call::Operation(operation::any(dice)),
        994..998 => {
            let alarm = AlarmRequest { action: 1, member_id: dice.pick(&[0, 7]), alarm: dice.pick(&[1, 2]) };
            let count = 2 + dice.below(6);
            Call::Alarmed(alarm, (0..count).map(|_| data(dice)).collect())
        }
        _ => Call::Crash,
    }
}

fn data(dice: &mut Dice) -> Call {
    match dice.below(76) {
        0..26 => Call::Put(put(dice)),
        26..44 => Call::Range(range(dice)),
        44..48 => {
            let mut request = range(dice);
            if request.sort_order == 0 {
                // See DIFFERENCES: etcd does not handle this.
                request.sort_target = 0;
            }
            Call::RangeStream(request)
        }
        48..57 => Call::Delete(delete(dice)),
        _ => Call::Txn(txn(dice, NESTING)),
    }
}

/// Few keys, so that calls affect each other; some of them sort in an unusual order, and sometimes the key is
/// empty.
fn key(dice: &mut Dice) -> Bytes {
    const KEYS: [&[u8]; 12] =
        [b"a", b"b", b"c", b"d", b"e", b"ab", b"a\0", b"\0", b"\xff", b"\xff\xff", b"dir/1", b"dir/2"];
    if dice.chance(2) { Bytes::new() } else { Bytes::from_static(KEYS[dice.below(KEYS.len())]) }
}

fn end(dice: &mut Dice) -> Bytes {
    const ENDS: [&[u8]; 8] = [b"\0", b"\0", b"b", b"d", b"e", b"dir0", b"\xff", b"a"];
    if dice.chance(45) { Bytes::new() } else { Bytes::from_static(ENDS[dice.below(ENDS.len())]) }
}

fn value(dice: &mut Dice) -> Bytes {
    const VALUES: [&[u8]; 5] = [b"", b"1", b"2", b"3", b"a longer value with a \0 in it"];
    Bytes::from_static(VALUES[dice.below(VALUES.len())])
}

fn lease_id(dice: &mut Dice) -> i64 {
    dice.pick(&[1, 2, 3, 4, -1, i64::MAX, i64::MIN])
}

/// Some of these leases are never granted.
fn any_lease_id(dice: &mut Dice) -> i64 {
    if dice.chance(10) { dice.pick(&[0, 5, -2]) } else { lease_id(dice) }
}

/// Mostly the newest revision, sometimes a past, a future, or an invalid one.
fn revision(dice: &mut Dice) -> i64 {
    if dice.chance(1) {
        return dice.pick(&[i64::MAX, i64::MIN, 1 << 62]);
    }
    match dice.below(20) {
        0..9 => 0,
        9..15 => NOW - dice.below(12) as i64,
        15 => NOW + dice.below(2) as i64,
        16 => COMPACTED + dice.below(3) as i64 - 1,
        17 => 1,
        18 => -1,
        _ => NOW - dice.below(100) as i64,
    }
}

fn range(dice: &mut Dice) -> RangeRequest {
    let mut request = RangeRequest {
        key: key(dice),
        range_end: end(dice),
        revision: revision(dice),
        serializable: dice.chance(20),
        keys_only: dice.chance(15),
        count_only: dice.chance(10),
        ..Default::default()
    };
    if dice.chance(40) {
        request.limit = dice.pick(&[-1, 1, 1, 2, 3, 5, 10, 11, i64::MAX, i64::MAX - 1, i64::MIN]);
    }
    if dice.chance(40) {
        request.sort_order = dice.below(3) as i32;
        request.sort_target = dice.below(5) as i32;
    }
    if dice.chance(2) {
        request.sort_order = dice.pick(&[-1, 3, i32::MAX]);
    }
    if dice.chance(2) {
        request.sort_target = dice.pick(&[-1, 5, i32::MIN]);
    }
    if dice.chance(15) {
        let bound = |dice: &mut Dice| {
            dice.pick(&[0, 0, 0, NOW, NOW - 2, NOW - 6, NOW - 15, NOW + 3, -1, i64::MAX, i64::MIN])
        };
        request.min_mod_revision = bound(dice);
        request.max_mod_revision = bound(dice);
        request.min_create_revision = bound(dice);
        request.max_create_revision = bound(dice);
    }
    if request.keys_only && request.sort_target == 4 {
        // It is not defined which of several equal values a limit cuts off.
        request.limit = 0;
    }
    request
}

fn put(dice: &mut Dice) -> PutRequest {
    let mut request = PutRequest { key: key(dice), value: value(dice), ..Default::default() };
    request.prev_kv = dice.chance(30);
    if dice.chance(25) {
        request.lease = lease_id(dice);
    }
    if dice.chance(8) {
        request.ignore_value = true;
        if dice.chance(80) {
            request.value = Bytes::new();
        }
    }
    if dice.chance(8) {
        request.ignore_lease = true;
        if dice.chance(80) {
            request.lease = 0;
        }
    }
    request
}

fn delete(dice: &mut Dice) -> DeleteRangeRequest {
    // Deletes of the whole store are rare, because otherwise the store would always be nearly empty.
    let range_end = if dice.chance(60) { Bytes::new() } else { end(dice) };
    DeleteRangeRequest { key: key(dice), range_end, prev_kv: dice.chance(40) }
}

fn txn(dice: &mut Dice, depth: usize) -> TxnRequest {
    let compares = if dice.chance(1) { 129 } else { dice.pick(&[0, 0, 1, 1, 2, 3]) };
    let then = if dice.chance(1) { 129 } else { dice.pick(&[0, 1, 1, 2, 3, 4]) };
    let otherwise = dice.pick(&[0, 0, 1, 2, 3]);
    let mut txn = TxnRequest {
        compare: (0..compares).map(|_| comparison(dice)).collect(),
        success: (0..then).map(|_| operation(dice, depth)).collect(),
        failure: (0..otherwise).map(|_| operation(dice, depth)).collect(),
    };
    if depth == NESTING && deletes_openly(&txn) {
        // See DIFFERENCES: etcd does not survive both in one txn.
        forbid_ignoring(&mut txn);
    }
    txn
}

fn operations(txn: &TxnRequest) -> impl Iterator<Item = &Request> {
    txn.success.iter().chain(&txn.failure).filter_map(|op| op.request.as_ref())
}

fn deletes_openly(txn: &TxnRequest) -> bool {
    operations(txn).any(|request| match request {
        Request::RequestDeleteRange(delete) => delete.range_end == "\0",
        Request::RequestTxn(txn) => deletes_openly(txn),
        Request::RequestPut(_) | Request::RequestRange(_) => false,
    })
}

fn forbid_ignoring(txn: &mut TxnRequest) {
    for op in txn.success.iter_mut().chain(&mut txn.failure) {
        match &mut op.request {
            Some(Request::RequestPut(put)) => (put.ignore_value, put.ignore_lease) = (false, false),
            Some(Request::RequestTxn(txn)) => forbid_ignoring(txn),
            Some(Request::RequestDeleteRange(_) | Request::RequestRange(_)) | None => {}
        }
    }
}

fn operation(dice: &mut Dice, depth: usize) -> RequestOp {
    let request = match dice.below(100) {
        0..45 => Request::RequestPut(put(dice)),
        45..70 => Request::RequestRange(range(dice)),
        70..86 => Request::RequestDeleteRange(delete(dice)),
        86..99 if depth > 0 => Request::RequestTxn(txn(dice, depth - 1)),
        99 => return RequestOp { request: None },
        _ => Request::RequestRange(range(dice)),
    };
    RequestOp { request: Some(request) }
}

fn comparison(dice: &mut Dice) -> Compare {
    let target = if dice.chance(1) { dice.pick(&[-1, 5, 9]) } else { dice.below(5) as i32 };
    let union = if dice.chance(4) { dice.below(5) as i32 } else { target };
    let at = |dice: &mut Dice| dice.pick(&[0, 1, NOW, NOW - 1, NOW - 2, NOW - 5, NOW - 9]);
    let target_union = match union {
        0 => TargetUnion::Version(dice.pick(&[0, 0, 1, 2, 3])),
        1 => TargetUnion::CreateRevision(at(dice)),
        2 => TargetUnion::ModRevision(at(dice)),
        3 => TargetUnion::Value(value(dice)),
        _ => TargetUnion::Lease(dice.pick(&[0, 1, 2, 3, -1])),
    };
    Compare {
        result: if dice.chance(1) { dice.pick(&[-1, 4, 9]) } else { dice.below(4) as i32 },
        target,
        key: key(dice),
        range_end: if dice.chance(20) { end(dice) } else { Bytes::new() },
        target_union: if dice.chance(3) { None } else { Some(target_union) },
    }
}

fn watch(dice: &mut Dice) -> WatchCreateRequest {
    let mut request = WatchCreateRequest {
        key: key(dice),
        range_end: end(dice),
        start_revision: dice.pick(&[
            0,
            0,
            0,
            1,
            NOW,
            NOW - 3,
            NOW - 20,
            NOW + 1,
            NOW + 4,
            COMPACTED,
            COMPACTED - 1,
            -1,
            i64::MIN,
        ]),
        prev_kv: dice.chance(40),
        watch_id: dice.pick(&[0, 0, 0, 0, 0, 0, 1, 2, 3, 5, -1, -7, i64::MAX]),
        progress_notify: dice.chance(10),
        fragment: dice.chance(10),
        ..Default::default()
    };
    if dice.chance(20) {
        request.filters = dice.pick(&[vec![0], vec![1], vec![0, 1], vec![1, 1], vec![7]]);
        if hears_nothing(&request) {
            // This watcher never gets a response, so the run could not wait for it.
            request.start_revision = 0;
        }
    }
    request
}

/// Neither puts nor deletes.
pub(crate) fn hears_nothing(watch: &WatchCreateRequest) -> bool {
    watch.filters.contains(&0) && watch.filters.contains(&1)
}

/// The call in a form that a reference of this release survives; `None` if there is none.
pub(crate) fn adapted(mut call: Call, reference: &Reference) -> Option<Call> {
    match &mut call {
        Call::RangeStream(_) if !reference.has((3, 7, 0)) => return None,
        Call::Range(range) => adapt_range(range, reference),
        Call::Txn(txn) => adapt_txn(txn, reference, false),
        Call::Alarmed(_, calls) => {
            let counts_nested = reference.has((3, 7, 1));
            calls.retain(|call| counts_nested || !matches!(call, Call::Txn(txn) if is_nested(txn)));
        }
        Call::Watch(watch) if watch.start_revision < 0 && !reference.has((3, 5, 24)) => return None,
        Call::Watch(watch) if watch.watch_id == -1 && !reference.has((3, 6, 0)) => return None,
        Call::Progress if !reference.has((3, 5, 8)) => return None,
        Call::Operation(operation) if !operation.is_known_to(reference) => return None,
        _ => {}
    }
    Some(call)
}

fn is_nested(txn: &TxnRequest) -> bool {
    operations(txn).any(|request| matches!(request, Request::RequestTxn(_)))
}

fn adapt_range(range: &mut RangeRequest, reference: &Reference) {
    if !reference.has((3, 6, 0)) {
        let is_known = (0..3).contains(&range.sort_order) && (0..5).contains(&range.sort_target);
        if !is_known {
            (range.sort_order, range.sort_target) = (0, 0);
        }
    }
}

fn adapt_txn(txn: &mut TxnRequest, reference: &Reference, is_nested: bool) {
    for op in txn.success.iter_mut().chain(&mut txn.failure) {
        match &mut op.request {
            Some(Request::RequestRange(range)) => adapt_range(range, reference),
            Some(Request::RequestPut(put)) if is_nested && !reference.has((3, 6, 0)) => {
                (put.lease, put.ignore_lease) = (0, false);
            }
            Some(Request::RequestTxn(txn)) => adapt_txn(txn, reference, true),
            Some(Request::RequestPut(_) | Request::RequestDeleteRange(_)) | None => {}
        }
    }
}

/// The revisions of the store when a call is made.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) now: i64,
    pub(crate) compacted: i64,
}

impl Place {
    pub(crate) fn resolve(self, revision: i64) -> i64 {
        let near = |mark: i64| revision.checked_sub(mark).filter(|offset| (-REACH..REACH).contains(offset));
        match (near(NOW), near(COMPACTED)) {
            (Some(offset), _) => (self.now + offset).max(1),
            (None, Some(offset)) => self.compacted + offset,
            (None, None) => revision,
        }
    }

    /// The call with its revisions as the servers will read them.
    pub(crate) fn resolve_call(self, call: &Call) -> Call {
        let mut call = call.clone();
        match &mut call {
            Call::Range(range) | Call::RangeStream(range) => self.resolve_range(range),
            Call::Txn(txn) => self.resolve_txn(txn),
            Call::Compact(compact) => compact.revision = self.resolve(compact.revision),
            Call::HashKv(hash) => hash.revision = self.resolve(hash.revision),
            Call::Watch(watch) => watch.start_revision = self.resolve(watch.start_revision),
            Call::Put(_)
            | Call::Delete(_)
            | Call::Grant(_)
            | Call::GrantBriefly(_)
            | Call::Revoke(_)
            | Call::TimeToLive(_)
            | Call::KeepAlive(_)
            | Call::Leases(_)
            | Call::CancelWatch(_)
            | Call::Progress
            | Call::Operation(_)
            // The calls inside are resolved when they are made.
            | Call::Alarmed(..)
            | Call::Crash => {}
        }
        call
    }

    fn resolve_range(self, range: &mut RangeRequest) {
        for revision in [
            &mut range.revision,
            &mut range.min_mod_revision,
            &mut range.max_mod_revision,
            &mut range.min_create_revision,
            &mut range.max_create_revision,
        ] {
            *revision = self.resolve(*revision);
        }
    }

    fn resolve_txn(self, txn: &mut TxnRequest) {
        for compare in &mut txn.compare {
            match &mut compare.target_union {
                Some(TargetUnion::CreateRevision(revision) | TargetUnion::ModRevision(revision)) => {
                    *revision = self.resolve(*revision);
                }
                Some(TargetUnion::Version(_) | TargetUnion::Value(_) | TargetUnion::Lease(_)) | None => {}
            }
        }
        for op in txn.success.iter_mut().chain(&mut txn.failure) {
            match &mut op.request {
                Some(Request::RequestRange(range)) => self.resolve_range(range),
                Some(Request::RequestTxn(txn)) => self.resolve_txn(txn),
                Some(Request::RequestPut(_) | Request::RequestDeleteRange(_)) | None => {}
            }
        }
    }
}

/// A message in Rust's own notation without the fields that are not set.
pub(crate) fn terse(message: &impl std::fmt::Debug) -> String {
    let mut text = format!("{message:?}");
    for unset in [": 0", ": false", ": b\"\"", ": \"\"", ": []", ": None"] {
        let mut from = 0;
        while let Some(found) = text[from..].find(unset).map(|offset| from + offset) {
            let after = found + unset.len();
            let field = text[..found].rfind([' ', '{']).map_or(0, |space| space + 1);
            match &text[after..] {
                rest if rest.starts_with(", ") => text.replace_range(field..after + 2, ""),
                rest if rest.starts_with(" }") => text.replace_range(field..after + 1, ""),
                _ => {
                    from = after;
                    continue;
                }
            }
            from = field.min(found);
        }
    }
    text.replace(", }", " }")
}
