//! Parsing requests. A malformed request is refused here.
//!
//! The results are valid: no key is empty, every enum has a known value, a transaction is within its bounds
//! and never puts a key twice. The layers below check none of this again, and do not know the API's messages.
//!
//! Requests are passed by reference, because a slow request is described in the log afterwards. Their keys
//! and values are shared, not copied.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use prost::Message;

use super::status::Refusal;
use crate::{
    apply::{Alarm, AlarmKind, Compare, CompareOperator, CompareTarget, DeleteRange, Op, Put, Txn},
    limits::TXN_DEPTH_MAX,
    mvcc::{Range, RevBounds, Sort, SortOrder, SortTarget},
    pb::etcdserverpb::{
        self as pb, AlarmType, RangeRequest, compare, range_request, request_op::Request as PbOp,
    },
    types::{KeyRange, LeaseId, MemberId},
};

pub(crate) fn range(request: &RangeRequest) -> Result<Range, Refusal> {
    if request.key.is_empty() {
        return Err(Refusal::EmptyKey);
    }
    let order = match range_request::SortOrder::try_from(request.sort_order) {
        Ok(range_request::SortOrder::None) => SortOrder::None,
        Ok(range_request::SortOrder::Ascend) => SortOrder::Ascend,
        Ok(range_request::SortOrder::Descend) => SortOrder::Descend,
        Err(_) => return Err(Refusal::InvalidSortOption),
    };
    let target = match range_request::SortTarget::try_from(request.sort_target) {
        Ok(range_request::SortTarget::Key) => SortTarget::Key,
        Ok(range_request::SortTarget::Version) => SortTarget::Version,
        Ok(range_request::SortTarget::Create) => SortTarget::CreateRev,
        Ok(range_request::SortTarget::Mod) => SortTarget::ModRev,
        Ok(range_request::SortTarget::Value) => SortTarget::Value,
        Err(_) => return Err(Refusal::InvalidSortOption),
    };
    Ok(Range {
        range: KeyRange::parse(request.key.clone(), request.range_end.clone()),
        rev: request.revision,
        limit: request.limit,
        sort: Sort { target, order },
        mod_rev: RevBounds { min: request.min_mod_revision, max: request.max_mod_revision },
        create_rev: RevBounds { min: request.min_create_revision, max: request.max_create_revision },
        keys_only: request.keys_only,
        count_only: request.count_only,
    })
}

/// A range to be streamed. It is refused unless it is in key order and has no filters.
pub(crate) fn range_stream(request: &RangeRequest) -> Result<Range, Refusal> {
    let range = range(request)?;
    let in_key_order = match range.sort.order {
        SortOrder::None => true,
        SortOrder::Ascend => range.sort.target == SortTarget::Key,
        SortOrder::Descend => false,
    };
    if !in_key_order {
        return Err(Refusal::StreamCustomSort);
    }
    if range.mod_rev != RevBounds::default() || range.create_rev != RevBounds::default() {
        return Err(Refusal::StreamRevisionFilters);
    }
    // Without a sort order the target has no meaning, and the chunks must not be sorted by it.
    Ok(Range { sort: Sort::default(), ..range })
}

pub(crate) fn put(request: &pb::PutRequest) -> Result<Put, Refusal> {
    if request.key.is_empty() {
        return Err(Refusal::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(Refusal::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Refusal::LeaseProvided);
    }
    Ok(Put::new(
        request.key.clone(),
        (!request.ignore_value).then(|| request.value.clone()),
        (!request.ignore_lease).then_some(LeaseId(request.lease)),
        request.prev_kv,
    ))
}

pub(crate) fn delete_range(request: &pb::DeleteRangeRequest) -> Result<DeleteRange, Refusal> {
    if request.key.is_empty() {
        return Err(Refusal::EmptyKey);
    }
    Ok(DeleteRange {
        range: KeyRange::parse(request.key.clone(), request.range_end.clone()),
        prev_kv: request.prev_kv,
    })
}

/// How a transaction is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Through the log, because it may write.
    Write,
    /// From the state and without the log, because both branches contain only ranges.
    Read { serializable: bool },
}

pub(crate) fn txn(request: &pb::TxnRequest, ops_max: usize) -> Result<(Txn, Access), Refusal> {
    let txn = txn_within(request, ops_max, TXN_DEPTH_MAX)?;
    check_overlaps(&txn.success)?;
    check_overlaps(&txn.failure)?;
    Ok((txn, access(request)))
}

/// A nested transaction may have as many operations as the one around it leaves of the budget.
///
/// Calls itself for nested transactions, so its stack frame is kept small: loops, and no iterator adapters.
fn txn_within(request: &pb::TxnRequest, ops_max: usize, depth_max: usize) -> Result<Txn, Refusal> {
    let ops = request.compare.len().max(request.success.len()).max(request.failure.len());
    if ops > ops_max || depth_max == 0 {
        return Err(Refusal::TooManyOps);
    }
    let compares = request.compare.iter().map(compare).collect::<Result<_, _>>()?;
    let mut txn = Txn {
        compares,
        success: Vec::with_capacity(request.success.len()),
        failure: Vec::with_capacity(request.failure.len()),
    };
    for request in &request.success {
        txn.success.push(op(request, ops_max - ops, depth_max - 1)?);
    }
    for request in &request.failure {
        txn.failure.push(op(request, ops_max - ops, depth_max - 1)?);
    }
    Ok(txn)
}

fn op(request: &pb::RequestOp, ops_max: usize, depth_max: usize) -> Result<Op, Refusal> {
    match &request.request {
        Some(PbOp::RequestRange(request)) => range(request).map(Op::Range),
        Some(PbOp::RequestPut(request)) => put(request).map(Op::Put),
        Some(PbOp::RequestDeleteRange(request)) => delete_range(request).map(Op::DeleteRange),
        Some(PbOp::RequestTxn(request)) => {
            let request = pb::TxnRequest::decode(request.clone()).map_err(|_| Refusal::MalformedMessage)?;
            txn_within(&request, ops_max, depth_max).map(Op::Txn)
        }
        None => Err(Refusal::KeyNotFound),
    }
}

fn compare(request: &pb::Compare) -> Result<Compare, Refusal> {
    if request.key.is_empty() {
        return Err(Refusal::EmptyKey);
    }
    let operator = match compare::CompareResult::try_from(request.result) {
        Ok(compare::CompareResult::Equal) => CompareOperator::Equal,
        Ok(compare::CompareResult::Greater) => CompareOperator::Greater,
        Ok(compare::CompareResult::Less) => CompareOperator::Less,
        Ok(compare::CompareResult::NotEqual) => CompareOperator::NotEqual,
        Err(_) => CompareOperator::Unknown,
    };
    let (operator, target) = target(request, operator);
    Ok(Compare { range: KeyRange::parse(request.key.clone(), request.range_end.clone()), operator, target })
}

/// The field `target` determines what is compared. A value that was given for another target is ignored, and
/// the comparison is with zero.
fn target(request: &pb::Compare, operator: CompareOperator) -> (CompareOperator, CompareTarget) {
    use compare::{CompareTarget as PbTarget, TargetUnion};
    let given = &request.target_union;
    let target = match PbTarget::try_from(request.target) {
        Ok(PbTarget::Version) => CompareTarget::Version(match given {
            Some(TargetUnion::Version(version)) => *version,
            _ => 0,
        }),
        Ok(PbTarget::Create) => CompareTarget::CreateRev(match given {
            Some(TargetUnion::CreateRevision(rev)) => *rev,
            _ => 0,
        }),
        Ok(PbTarget::Mod) => CompareTarget::ModRev(match given {
            Some(TargetUnion::ModRevision(rev)) => *rev,
            _ => 0,
        }),
        Ok(PbTarget::Value) => CompareTarget::Value(match given {
            Some(TargetUnion::Value(value)) => value.clone(),
            _ => Default::default(),
        }),
        Ok(PbTarget::Lease) => CompareTarget::Lease(match given {
            Some(TargetUnion::Lease(lease)) => *lease,
            _ => 0,
        }),
        // In etcd, a comparison with an unknown target finds both sides equal. It is translated into a
        // comparison that always holds, or into one that never does.
        Err(_) => {
            let holds = matches!(operator, CompareOperator::Equal | CompareOperator::Unknown);
            let operator = if holds { CompareOperator::Unknown } else { CompareOperator::Less };
            return (operator, CompareTarget::Version(i64::MIN));
        }
    };
    (operator, target)
}

fn access(request: &pb::TxnRequest) -> Access {
    let mut serializable = true;
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(PbOp::RequestRange(range)) => serializable &= range.serializable,
            Some(PbOp::RequestPut(_) | PbOp::RequestDeleteRange(_) | PbOp::RequestTxn(_)) | None => {
                return Access::Write;
            }
        }
    }
    Access::Read { serializable }
}

/// No path through a transaction may put a key twice, or both put and delete it.
///
/// The check is etcd's, which is only an approximation of that rule: see [`Writes::of`].
fn check_overlaps(ops: &[Op]) -> Result<(), Refusal> {
    match ops {
        [] | [Op::Range(_) | Op::Put(_) | Op::DeleteRange(_)] => Ok(()),
        _ => Writes::of(ops).map(drop),
    }
}

/// The keys that a list of operations may write.
#[derive(Default)]
struct Writes<'a> {
    puts: BTreeSet<&'a [u8]>,
    deleted_keys: BTreeSet<&'a [u8]>,
    /// From start to end; the spans are disjoint.
    deleted_spans: BTreeMap<&'a [u8], &'a [u8]>,
}

impl<'a> Writes<'a> {
    /// The list's own deletes are checked first, then its nested transactions in their order, then its own
    /// puts. A nested put therefore conflicts with the list's own deletes and with those of earlier nested
    /// transactions, but not with those of later ones. The two branches of a transaction exclude each other,
    /// so both may put the same key.
    fn of(ops: &'a [Op]) -> Result<Writes<'a>, Refusal> {
        let mut writes = Writes::default();
        for op in ops {
            if let Op::DeleteRange(delete) = op {
                writes.delete(&delete.range);
            }
        }
        for op in ops {
            if let Op::Txn(txn) = op {
                let success = Writes::of(&txn.success)?;
                let failure = Writes::of(&txn.failure)?;
                writes.take_puts(united(success.puts, failure.puts))?;
                writes.take_deletes(success.deleted_keys, success.deleted_spans);
                writes.take_deletes(failure.deleted_keys, failure.deleted_spans);
            }
        }
        for op in ops {
            if let Op::Put(put) = op {
                writes.put(&put.key)?;
            }
        }
        Ok(writes)
    }

    fn put(&mut self, key: &'a [u8]) -> Result<(), Refusal> {
        if self.deletes(key) || !self.puts.insert(key) {
            return Err(Refusal::DuplicateKey);
        }
        Ok(())
    }

    /// Adds the puts of a nested transaction. They are moved at every level of nesting, so always the smaller
    /// set is moved into the larger one.
    fn take_puts(&mut self, mut puts: BTreeSet<&'a [u8]>) -> Result<(), Refusal> {
        let deletes = self.deleted_keys.len() + self.deleted_spans.len();
        let is_deleted = if puts.len() < deletes {
            puts.iter().any(|key| self.deletes(key))
        } else {
            self.deleted_keys.iter().any(|key| puts.contains(key))
                || self.deleted_spans.iter().any(|(start, end)| puts.range(*start..*end).next().is_some())
        };
        if is_deleted {
            return Err(Refusal::DuplicateKey);
        }
        if self.puts.len() < puts.len() {
            mem::swap(&mut self.puts, &mut puts);
        }
        let is_new = |key| self.puts.insert(key);
        if puts.into_iter().all(is_new) { Ok(()) } else { Err(Refusal::DuplicateKey) }
    }

    fn delete(&mut self, range: &'a KeyRange) {
        match range {
            KeyRange::Point(key) => drop(self.deleted_keys.insert(key)),
            KeyRange::Span(start, end) => self.delete_span(start, end),
            // Here etcd does not recognise that an end of "\0" means "no end". As a key, "\0" is before every
            // start, so the interval is empty and conflicts with nothing.
            KeyRange::From(_) => {}
        }
    }

    fn delete_span(&mut self, mut start: &'a [u8], mut end: &'a [u8]) {
        if end <= start {
            return;
        }
        // Merges the span with every span that it touches. Only the last span that starts at or before `end`
        // can touch it, then the one before that, and so on.
        while let Some((&other_start, &other_end)) = self.deleted_spans.range(..=end).next_back() {
            if other_end < start {
                break;
            }
            self.deleted_spans.remove(other_start);
            start = start.min(other_start);
            end = end.max(other_end);
        }
        self.deleted_spans.insert(start, end);
    }

    fn take_deletes(&mut self, keys: BTreeSet<&'a [u8]>, mut spans: BTreeMap<&'a [u8], &'a [u8]>) {
        self.deleted_keys = united(mem::take(&mut self.deleted_keys), keys);
        if self.deleted_spans.len() < spans.len() {
            mem::swap(&mut self.deleted_spans, &mut spans);
        }
        for (start, end) in spans {
            self.delete_span(start, end);
        }
    }

    fn deletes(&self, key: &[u8]) -> bool {
        self.deleted_keys.contains(key)
            || self.deleted_spans.range(..=key).next_back().is_some_and(|(_, end)| key < *end)
    }
}

/// The union of two sets. The smaller one is moved into the larger one.
fn united<'a>(a: BTreeSet<&'a [u8]>, b: BTreeSet<&'a [u8]>) -> BTreeSet<&'a [u8]> {
    let (few, mut many) = if a.len() < b.len() { (a, b) } else { (b, a) };
    many.extend(few);
    many
}

/// The alarm to raise or to clear; `None` for the type `NONE`.
pub(crate) fn alarm(request: &pb::AlarmRequest) -> Option<Alarm> {
    let kind = match AlarmType::try_from(request.alarm) {
        Ok(AlarmType::Nospace) => AlarmKind::NoSpace,
        Ok(AlarmType::Corrupt) => AlarmKind::Corrupt,
        Ok(AlarmType::None) | Err(_) => return None,
    };
    Some(Alarm { member: MemberId(request.member_id), kind })
}

/// Peer URLs of a new member, sorted: `http(s)://host:port` without a path, or a unix socket.
pub(crate) fn member_urls(urls: &[String]) -> Result<Vec<String>, Refusal> {
    let urls = urls.iter().map(|url| member_url(url.trim()).ok_or(Refusal::BadMemberUrls));
    let mut urls = urls.collect::<Result<Vec<String>, Refusal>>()?;
    if urls.is_empty() {
        return Err(Refusal::BadMemberUrls);
    }
    urls.sort();
    Ok(urls)
}

/// The URL as it is stored: with the scheme in lower case, and otherwise unchanged.
fn member_url(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once(':')?;
    let scheme = scheme.to_ascii_lowercase();
    let is_known = match scheme.as_str() {
        "http" | "https" => is_host_and_port(rest.strip_prefix("//")?),
        "unix" | "unixs" => true,
        _ => false,
    };
    is_known.then(|| format!("{scheme}:{rest}"))
}

fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let host_fits = match host.strip_prefix('[') {
        Some(address) => address.strip_suffix(']').is_some_and(|address| !address.contains(']')),
        None => !host.contains([':', '/', '[', ']', ' ']),
    };
    host_fits && port.bytes().all(|digit| digit.is_ascii_digit())
}

/// `major.minor` of a downgrade target: a semantic version, whose patch is ignored, or a version without a
/// patch.
pub(crate) fn downgrade_target(version: &str) -> Result<(u64, u64), Refusal> {
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let mut numbers = core.split('.').map(str::parse::<u64>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return Err(Refusal::WrongDowngradeVersionFormat);
    };
    match (numbers.next(), numbers.next()) {
        (Some(Ok(_)), None) => Ok((major, minor)),
        // Only a version with a patch can have a suffix.
        (None, None) if core == version => Ok((major, minor)),
        _ => Err(Refusal::WrongDowngradeVersionFormat),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::pb::etcdserverpb::{DeleteRangeRequest, PutRequest, RequestOp, TxnRequest};

    fn bytes(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    fn get(key: &'static str) -> RangeRequest {
        RangeRequest { key: bytes(key), ..Default::default() }
    }

    fn put_of(key: &'static str) -> PutRequest {
        PutRequest { key: bytes(key), ..Default::default() }
    }

    fn delete_of(key: &'static str, range_end: &'static str) -> DeleteRangeRequest {
        DeleteRangeRequest { key: bytes(key), range_end: bytes(range_end), prev_kv: false }
    }

    fn op_of(request: PbOp) -> RequestOp {
        RequestOp { request: Some(request) }
    }

    #[test]
    fn a_range_keeps_every_field_in_its_place() {
        let request = RangeRequest {
            key: bytes("a"),
            range_end: bytes("b"),
            limit: 1,
            revision: 2,
            sort_order: range_request::SortOrder::Descend.into(),
            sort_target: range_request::SortTarget::Mod.into(),
            serializable: true,
            keys_only: true,
            count_only: false,
            min_mod_revision: 3,
            max_mod_revision: 4,
            min_create_revision: 5,
            max_create_revision: 6,
        };
        let expected = Range {
            range: KeyRange::Span(bytes("a"), bytes("b")),
            rev: 2,
            limit: 1,
            sort: Sort { target: SortTarget::ModRev, order: SortOrder::Descend },
            mod_rev: RevBounds { min: 3, max: 4 },
            create_rev: RevBounds { min: 5, max: 6 },
            keys_only: true,
            count_only: false,
        };
        assert_eq!(range(&request), Ok(expected));
    }

    #[test]
    fn a_range_needs_a_key_and_a_known_order() {
        assert_eq!(range(&get("")), Err(Refusal::EmptyKey));
        assert_eq!(range(&RangeRequest { sort_order: 3, ..get("a") }), Err(Refusal::InvalidSortOption));
        assert_eq!(range(&RangeRequest { sort_target: 5, ..get("a") }), Err(Refusal::InvalidSortOption));
        assert_eq!(range(&RangeRequest { sort_target: -1, ..get("a") }), Err(Refusal::InvalidSortOption));
        // The key is checked first.
        assert_eq!(range(&RangeRequest { sort_order: 3, ..get("") }), Err(Refusal::EmptyKey));
    }

    #[test]
    fn a_streamed_range_is_in_key_order_and_unfiltered() {
        let ordered = |order: i32, target: i32| {
            range_stream(&RangeRequest { sort_order: order, sort_target: target, ..get("a") })
                .map(|range| range.sort)
        };
        for target in 0..5 {
            assert_eq!(ordered(0, target), Ok(Sort::default()), "unordered by {target}");
            assert_eq!(ordered(2, target), Err(Refusal::StreamCustomSort), "descending by {target}");
        }
        assert_eq!(ordered(1, 0), Ok(Sort::default()));
        assert_eq!(ordered(1, 1), Err(Refusal::StreamCustomSort));
        for filtered in [
            RangeRequest { min_mod_revision: 1, ..get("a") },
            RangeRequest { max_mod_revision: 1, ..get("a") },
            RangeRequest { min_create_revision: 1, ..get("a") },
            RangeRequest { max_create_revision: 1, ..get("a") },
        ] {
            assert_eq!(range_stream(&filtered), Err(Refusal::StreamRevisionFilters));
            // The order is checked first.
            let both = RangeRequest { sort_order: 2, ..filtered };
            assert_eq!(range_stream(&both), Err(Refusal::StreamCustomSort));
        }
        assert_eq!(range_stream(&get("")), Err(Refusal::EmptyKey));
    }

    #[test]
    fn a_put_keeps_what_it_is_told_to_ignore() {
        let plain = PutRequest { value: bytes("v"), lease: 7, prev_kv: true, ..put_of("k") };
        let expected = Put::new(bytes("k"), Some(bytes("v")), Some(LeaseId(7)), true);
        assert_eq!(put(&plain), Ok(expected));

        let ignoring = PutRequest { ignore_value: true, ignore_lease: true, ..put_of("k") };
        assert_eq!(put(&ignoring), Ok(Put::new(bytes("k"), None, None, false)));
        // An empty value is a value, and lease 0 means that the key has no lease.
        let empty = put(&put_of("k")).expect("a put of nothing is a put");
        assert_eq!((empty.value, empty.lease), (Some(Bytes::new()), Some(LeaseId::NONE)));

        assert_eq!(put(&put_of("")), Err(Refusal::EmptyKey));
        let contradictory = PutRequest { ignore_value: true, ignore_lease: true, ..plain };
        assert_eq!(put(&contradictory), Err(Refusal::ValueProvided));
        assert_eq!(put(&PutRequest { value: Bytes::new(), ..contradictory }), Err(Refusal::LeaseProvided));
    }

    #[test]
    fn a_delete_needs_a_key() {
        assert_eq!(delete_range(&delete_of("", "z")), Err(Refusal::EmptyKey));
        let delete = delete_range(&delete_of("a", "\0")).expect("a delete");
        assert_eq!(delete.range, KeyRange::From(bytes("a")));
    }

    fn compare_of(target: i32, result: i32, target_union: Option<compare::TargetUnion>) -> pb::Compare {
        pb::Compare { target, result, target_union, key: bytes("k"), range_end: Bytes::new() }
    }

    #[test]
    fn the_target_of_a_comparison_says_which_value_counts() {
        use compare::TargetUnion;
        let parsed = |target, given| compare(&compare_of(target, 0, given)).expect("it has a key").target;
        assert_eq!(parsed(0, Some(TargetUnion::Version(1))), CompareTarget::Version(1));
        assert_eq!(parsed(1, Some(TargetUnion::CreateRevision(2))), CompareTarget::CreateRev(2));
        assert_eq!(parsed(2, Some(TargetUnion::ModRevision(3))), CompareTarget::ModRev(3));
        assert_eq!(parsed(3, Some(TargetUnion::Value(bytes("v")))), CompareTarget::Value(bytes("v")));
        assert_eq!(parsed(4, Some(TargetUnion::Lease(5))), CompareTarget::Lease(5));
        // The value is given for another target, or not at all.
        assert_eq!(parsed(3, Some(TargetUnion::Version(1))), CompareTarget::Value(Bytes::new()));
        assert_eq!(parsed(2, Some(TargetUnion::CreateRevision(1))), CompareTarget::ModRev(0));
        assert_eq!(parsed(4, None), CompareTarget::Lease(0));
    }

    #[test]
    fn anything_equals_an_unknown_target() {
        let parsed = |result| {
            let compare = compare(&compare_of(9, result, None)).expect("it has a key");
            (compare.operator, compare.target)
        };
        let never = (CompareOperator::Less, CompareTarget::Version(i64::MIN));
        let always = (CompareOperator::Unknown, CompareTarget::Version(i64::MIN));
        assert_eq!(
            [0, 1, 2, 3, 4].map(parsed),
            [always.clone(), never.clone(), never.clone(), never, always]
        );
    }

    #[test]
    fn an_unknown_operator_is_kept_as_such() {
        let parsed = compare(&compare_of(0, 4, None)).expect("it has a key");
        assert_eq!(parsed.operator, CompareOperator::Unknown);
        let keyless = pb::Compare { key: Bytes::new(), ..compare_of(0, 0, None) };
        assert_eq!(compare(&keyless), Err(Refusal::EmptyKey));
    }

    fn txn_of(success: Vec<PbOp>, failure: Vec<PbOp>) -> TxnRequest {
        TxnRequest {
            compare: Vec::new(),
            success: success.into_iter().map(op_of).collect(),
            failure: failure.into_iter().map(op_of).collect(),
        }
    }

    fn nested_op(txn: TxnRequest) -> PbOp {
        PbOp::RequestTxn(txn.encode_to_vec().into())
    }

    fn gets(count: usize) -> Vec<PbOp> {
        vec![PbOp::RequestRange(get("k")); count]
    }

    fn parsed(request: &TxnRequest, ops_max: usize) -> Result<Access, Refusal> {
        txn(request, ops_max).map(|(_, access)| access)
    }

    #[test]
    fn a_transaction_is_as_large_as_its_largest_list() {
        let request = txn_of(gets(3), gets(2));
        assert!(parsed(&request, 3).is_ok());
        assert_eq!(parsed(&request, 2), Err(Refusal::TooManyOps));
        assert_eq!(parsed(&txn_of(gets(2), gets(3)), 2), Err(Refusal::TooManyOps));
        let compares = vec![compare_of(0, 0, None); 3];
        assert_eq!(parsed(&TxnRequest { compare: compares, ..request }, 2), Err(Refusal::TooManyOps));
        // The size is checked first.
        assert_eq!(
            parsed(&txn_of(vec![PbOp::RequestRange(get("")); 3], vec![]), 2),
            Err(Refusal::TooManyOps)
        );
    }

    #[test]
    fn a_nested_transaction_gets_what_is_left() {
        let nested = |count| nested_op(txn_of(gets(count), vec![]));
        let request = |count| txn_of([vec![nested(count)], gets(2)].concat(), vec![]);
        assert!(parsed(&request(4), 7).is_ok());
        assert_eq!(parsed(&request(5), 7), Err(Refusal::TooManyOps));
    }

    #[test]
    fn transactions_are_not_nested_without_end() {
        let nested = |depth: usize| {
            (1..depth).fold(txn_of(vec![], vec![]), |inner, _| txn_of(vec![nested_op(inner)], vec![]))
        };
        assert!(parsed(&nested(TXN_DEPTH_MAX), 10_000).is_ok());
        for deeper in [TXN_DEPTH_MAX + 1, 5000] {
            assert_eq!(parsed(&nested(deeper), 10_000), Err(Refusal::TooManyOps));
        }
    }

    #[test]
    fn what_stands_in_a_transaction_is_checked_like_what_stands_alone() {
        let refused = |op: PbOp| {
            let inside = parsed(&txn_of(vec![op.clone()], vec![]), 9);
            assert_eq!(parsed(&txn_of(vec![], vec![op.clone()]), 9), inside);
            let nested = nested_op(txn_of(vec![op], vec![]));
            assert_eq!(parsed(&txn_of(vec![nested], vec![]), 9), inside);
            inside
        };
        assert_eq!(refused(PbOp::RequestRange(get(""))), Err(Refusal::EmptyKey));
        assert_eq!(refused(PbOp::RequestPut(put_of(""))), Err(Refusal::EmptyKey));
        assert_eq!(refused(PbOp::RequestDeleteRange(delete_of("", ""))), Err(Refusal::EmptyKey));
        let nothing = TxnRequest { success: vec![RequestOp { request: None }], ..Default::default() };
        assert_eq!(parsed(&nothing, 9), Err(Refusal::KeyNotFound));
    }

    #[test]
    fn only_direct_ranges_make_a_transaction_a_read() {
        let serializable = || PbOp::RequestRange(RangeRequest { serializable: true, ..get("k") });
        assert_eq!(parsed(&txn_of(vec![], vec![]), 9), Ok(Access::Read { serializable: true }));
        assert_eq!(
            parsed(&txn_of(vec![serializable()], vec![serializable()]), 9),
            Ok(Access::Read { serializable: true })
        );
        assert_eq!(
            parsed(&txn_of(vec![serializable()], gets(1)), 9),
            Ok(Access::Read { serializable: false })
        );
        assert_eq!(parsed(&txn_of(gets(1), vec![PbOp::RequestPut(put_of("k"))]), 9), Ok(Access::Write));
        let nested = nested_op(txn_of(gets(1), vec![]));
        assert_eq!(parsed(&txn_of(vec![nested], vec![]), 9), Ok(Access::Write));
    }

    /// `p k` puts, `d k` deletes a key, `d k l` a span, `( ... | ... )` is a nested transaction.
    fn ops(text: &str) -> Vec<Op> {
        fn list(words: &mut std::iter::Peekable<std::str::SplitWhitespace<'_>>) -> Vec<Op> {
            let key = |word: &str| Bytes::copy_from_slice(word.replace('^', "\0").as_bytes());
            let mut ops = Vec::new();
            while let Some(word) = words.next_if(|word| *word != "|" && *word != ")") {
                ops.push(match word {
                    "p" => Op::Put(Put::new(key(words.next().expect("a key")), None, None, false)),
                    "d" | "span" => {
                        let start = key(words.next().expect("a key"));
                        let end = if word == "d" { Bytes::new() } else { key(words.next().expect("an end")) };
                        Op::DeleteRange(DeleteRange { range: KeyRange::parse(start, end), prev_kv: false })
                    }
                    "(" => {
                        let success = list(words);
                        assert_eq!(words.next(), Some("|"));
                        let failure = list(words);
                        assert_eq!(words.next(), Some(")"));
                        Op::Txn(Txn { compares: Vec::new(), success, failure })
                    }
                    _ => panic!("what is {word}?"),
                });
            }
            ops
        }
        list(&mut text.split_whitespace().peekable())
    }

    #[test]
    fn no_key_changes_twice() {
        for text in [
            "p a p a",
            "p a d a",
            "d a p a",
            "span a c p b",
            "p a span a b",
            "p a ( p a | )",
            "p a ( | p a )",
            "( p a | ) ( p a | )",
            "( p a | ) ( | p a )",
            "( p a p a | )",
            "( | ( p a | ) ( p a | ) )",
            "d a ( p a | )",
            "span a c ( | p b )",
            "( d a | ) p a",
            "( span a c | ) ( p b | )",
            "( | d a ) ( p a | )",
            "span a b span b c p b",
            "span a d span b c p c",
            "span c e span a d p d",
        ] {
            assert_eq!(check_overlaps(&ops(text)), Err(Refusal::DuplicateKey), "{text}");
        }
    }

    #[test]
    fn what_cannot_both_happen_may_overlap_and_so_may_what_etcd_overlooks() {
        for text in [
            "p a p b",
            "d a d a span a c",
            "( p a | p a )",
            "( ( p a | ) | p a )",
            "span a c p c",
            "span c a p b p a",
            "span b b p b",
            // These conflict only in the other order.
            "( p a | ) ( d a | )",
            // The range end that means "no end".
            "span a ^ p a p b",
        ] {
            assert_eq!(check_overlaps(&ops(text)), Ok(()), "{text}");
        }
    }

    /// etcd's rule, written simply, with lists and loops.
    fn check_naively(ops: &[Op]) -> Result<(Vec<Bytes>, Vec<KeyRange>), ()> {
        let mut puts: Vec<Bytes> = Vec::new();
        let mut deletes: Vec<KeyRange> = Vec::new();
        let clashes = |deletes: &[KeyRange], key: &Bytes| {
            deletes.iter().any(|range| !matches!(range, KeyRange::From(_)) && range.contains(key))
        };
        for op in ops {
            if let Op::DeleteRange(delete) = op {
                deletes.push(delete.range.clone());
            }
        }
        for op in ops {
            let Op::Txn(txn) = op else { continue };
            let (success_puts, success_deletes) = check_naively(&txn.success)?;
            let (failure_puts, failure_deletes) = check_naively(&txn.failure)?;
            for key in &success_puts {
                if puts.contains(key) || clashes(&deletes, key) {
                    return Err(());
                }
                puts.push(key.clone());
            }
            for key in &failure_puts {
                if (puts.contains(key) && !success_puts.contains(key)) || clashes(&deletes, key) {
                    return Err(());
                }
                if !puts.contains(key) {
                    puts.push(key.clone());
                }
            }
            deletes.extend(success_deletes);
            deletes.extend(failure_deletes);
        }
        for op in ops {
            let Op::Put(put) = op else { continue };
            if puts.contains(&put.key) || clashes(&deletes, &put.key) {
                return Err(());
            }
            puts.push(put.key.clone());
        }
        Ok((puts, deletes))
    }

    fn any_key() -> impl Strategy<Value = Bytes> {
        "[a-f]{1,2}".prop_map(Bytes::from)
    }

    fn any_ops() -> impl Strategy<Value = Vec<Op>> {
        let end = prop_oneof![Just(Bytes::new()), Just(Bytes::from_static(b"\0")), any_key()];
        let leaf = prop_oneof![
            3 => any_key().prop_map(|key| Op::Put(Put::new(key, None, None, false))),
            1 => (any_key(), end).prop_map(|(key, end)| {
                Op::DeleteRange(DeleteRange { range: KeyRange::parse(key, end), prev_kv: false })
            }),
            1 => any_key().prop_map(|key| Op::Range(Range::of(KeyRange::Point(key)))),
        ];
        let op = leaf.prop_recursive(3, 12, 3, |op| {
            let branch = prop::collection::vec(op, 0..3);
            (branch.clone(), branch)
                .prop_map(|(success, failure)| Op::Txn(Txn { compares: Vec::new(), success, failure }))
        });
        prop::collection::vec(op, 0..5)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn overlaps_are_found_as_by_the_plain_rule(ops in any_ops()) {
            prop_assert_eq!(check_overlaps(&ops).is_ok(), check_naively(&ops).is_ok());
        }

        #[test]
        fn spans_are_merged_without_changing_what_they_cover(
            spans in prop::collection::vec((any_key(), any_key()), 0..8),
            key in any_key(),
        ) {
            let mut writes = Writes::default();
            for (start, end) in &spans {
                writes.delete_span(start, end);
            }
            let covered = spans.iter().any(|(start, end)| start <= &key && key < *end);
            prop_assert_eq!(writes.deletes(&key), covered);
            let merged: Vec<_> = writes.deleted_spans.into_iter().collect();
            for pair in merged.windows(2) {
                prop_assert!(pair[0].1 < pair[1].0, "{:?} touch", pair);
            }
        }
    }

    #[test]
    fn an_alarm_has_a_kind() {
        let request = pb::AlarmRequest { action: 1, member_id: 7, alarm: AlarmType::Nospace.into() };
        assert_eq!(alarm(&request), Some(Alarm { member: MemberId(7), kind: AlarmKind::NoSpace }));
        assert_eq!(alarm(&pb::AlarmRequest { alarm: AlarmType::None.into(), ..request }), None);
        assert_eq!(alarm(&pb::AlarmRequest { alarm: 3, ..request }), None);
    }

    #[test]
    fn member_urls_have_a_known_scheme_and_a_port_and_no_path() {
        let check = |urls: &[&str]| member_urls(&urls.iter().map(|url| url.to_string()).collect::<Vec<_>>());
        let good = [
            " http://b:2380",
            "https://[::1]:2380",
            "HTTP://A:1",
            "unix://some/socket",
            "http://:2380",
            "unix:/run/s",
        ];
        let sorted = [
            "http://:2380",
            "http://A:1",
            "http://b:2380",
            "https://[::1]:2380",
            "unix://some/socket",
            "unix:/run/s",
        ];
        assert_eq!(check(&good), Ok(sorted.map(str::to_owned).to_vec()));
        for bad in [
            "",
            "a:2380",
            "ftp://a:1",
            "http://a",
            "http://a:1/",
            "http://a:1/path",
            "http://::1:2380",
            "http://[::1]",
            "http://a:b",
            "://a:1",
        ] {
            assert_eq!(check(&[bad]), Err(Refusal::BadMemberUrls), "{bad}");
        }
        assert_eq!(check(&[]), Err(Refusal::BadMemberUrls));
        assert_eq!(check(&["http://a:1", "http://a"]), Err(Refusal::BadMemberUrls));
    }

    #[test]
    fn a_downgrade_target_is_a_version() {
        for (version, target) in
            [("3.6", (3, 6)), ("3.6.0", (3, 6)), ("3.6.14", (3, 6)), ("3.6.0-rc.1", (3, 6))]
        {
            assert_eq!(downgrade_target(version), Ok(target), "{version}");
        }
        for bad in ["", "3", "3.", "3.x", "v3.6.0", "3.6.0.1", "3.6-rc", "three.six", "3.6."] {
            assert_eq!(downgrade_target(bad), Err(Refusal::WrongDowngradeVersionFormat), "{bad}");
        }
    }
}
