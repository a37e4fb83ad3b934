//! From the wire to meanings. A malformed request dies here.
//!
//! What leaves this file is well-formed by construction: every key is there, every enum is a
//! known one, a transaction is within its bounds and never puts a key twice. Nothing below
//! checks any of it again, and nothing below sees a wire type.
//!
//! Requests are taken by reference, because a slow one is described in the log afterwards;
//! their bytes are shared, not copied.

use std::collections::{BTreeMap, BTreeSet};

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

/// A streamed range comes in key order and unfiltered, or not at all.
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
    // Without an order the target means nothing, and a chunk must not be sorted by it.
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
    Ok(Put {
        key: request.key.clone(),
        value: (!request.ignore_value).then(|| request.value.clone()),
        lease: (!request.ignore_lease).then_some(LeaseId(request.lease)),
        prev_kv: request.prev_kv,
    })
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

/// Where a transaction is to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// It may write: through the log.
    Write,
    /// Both branches hold nothing but ranges: from the state, without the log.
    Read { serializable: bool },
}

pub(crate) fn txn(request: &pb::TxnRequest, ops_max: usize) -> Result<(Txn, Access), Refusal> {
    let txn = txn_within(request, ops_max, TXN_DEPTH_MAX)?;
    check_overlaps(&txn.success)?;
    check_overlaps(&txn.failure)?;
    Ok((txn, access(request)))
}

/// A nested transaction has what the one around it leaves of the budget.
fn txn_within(request: &pb::TxnRequest, ops_max: usize, depth_max: usize) -> Result<Txn, Refusal> {
    let ops = request.compare.len().max(request.success.len()).max(request.failure.len());
    if ops > ops_max || depth_max == 0 {
        return Err(Refusal::TooManyOps);
    }
    let branch = |requests: &[pb::RequestOp]| -> Result<Vec<Op>, Refusal> {
        requests.iter().map(|request| op(request, ops_max - ops, depth_max - 1)).collect()
    };
    Ok(Txn {
        compares: request.compare.iter().map(compare).collect::<Result<_, _>>()?,
        success: branch(&request.success)?,
        failure: branch(&request.failure)?,
    })
}

fn op(request: &pb::RequestOp, ops_max: usize, depth_max: usize) -> Result<Op, Refusal> {
    match &request.request {
        Some(PbOp::RequestRange(request)) => range(request).map(Op::Range),
        Some(PbOp::RequestPut(request)) => put(request).map(Op::Put),
        Some(PbOp::RequestDeleteRange(request)) => delete_range(request).map(Op::DeleteRange),
        Some(PbOp::RequestTxn(request)) => txn_within(request, ops_max, depth_max).map(Op::Txn),
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

/// The target rules; a value given for another target counts as not given, that is, as zero.
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
        // etcd finds that anything equals what an unknown target was given. Said with what we
        // have: a comparison that always holds, or one that never does.
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

/// A transaction makes one revision, and a key cannot change twice in one: no key may be put
/// twice, or be both put and deleted, on any path that could be taken.
///
/// etcd's rule is cruder than that, and clients can tell: see [`Writes::of`].
fn check_overlaps(ops: &[Op]) -> Result<(), Refusal> {
    match ops {
        [] | [Op::Range(_) | Op::Put(_) | Op::DeleteRange(_)] => Ok(()),
        _ => Writes::of(ops).map(drop),
    }
}

/// What a list of operations may write.
#[derive(Default)]
struct Writes<'a> {
    puts: BTreeSet<&'a [u8]>,
    deleted_keys: BTreeSet<&'a [u8]>,
    /// Start to end, disjoint.
    deleted_spans: BTreeMap<&'a [u8], &'a [u8]>,
}

impl<'a> Writes<'a> {
    /// Deletes of the list itself come first, then its nested transactions in their order,
    /// then its own puts. So a nested put clashes with deletes of the list and of nested
    /// transactions before it, but not of those after it. The two branches of one transaction
    /// exclude each other, so they may put the same key.
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
                for key in success.puts.union(&failure.puts) {
                    writes.put(key)?;
                }
                writes.take_deletes(success);
                writes.take_deletes(failure);
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

    fn delete(&mut self, range: &'a KeyRange) {
        match range {
            KeyRange::Point(key) => drop(self.deleted_keys.insert(key)),
            KeyRange::Span(start, end) => self.delete_span(start, end),
            // etcd takes the "\0" that means "from here on" for an end like any other. It lies
            // before every key, so it makes an empty interval, which clashes with nothing.
            KeyRange::From(_) => {}
        }
    }

    fn delete_span(&mut self, mut start: &'a [u8], mut end: &'a [u8]) {
        if end <= start {
            return;
        }
        // Merge with whatever it touches. Only the last span that starts at or before `end`
        // can touch, then the one before it, and so on.
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

    fn take_deletes(&mut self, other: Writes<'a>) {
        self.deleted_keys.extend(other.deleted_keys);
        for (start, end) in other.deleted_spans {
            self.delete_span(start, end);
        }
    }

    fn deletes(&self, key: &[u8]) -> bool {
        self.deleted_keys.contains(key)
            || self.deleted_spans.range(..=key).next_back().is_some_and(|(_, end)| key < *end)
    }
}

/// An alarm to raise or to clear. `None` for the type that is no alarm.
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
    if urls.is_empty() {
        return Err(Refusal::BadMemberUrls);
    }
    let mut urls: Vec<String> = urls.iter().map(|url| url.trim().to_owned()).collect();
    if !urls.iter().all(|url| is_member_url(url)) {
        return Err(Refusal::BadMemberUrls);
    }
    urls.sort();
    Ok(urls)
}

fn is_member_url(url: &str) -> bool {
    let Some((scheme, rest)) = url.split_once("://") else { return false };
    match scheme {
        "http" | "https" => {
            let Some((host, port)) = rest.rsplit_once(':') else { return false };
            let host_fits = match host.strip_prefix('[') {
                Some(address) => address.strip_suffix(']').is_some_and(|address| !address.contains(']')),
                None => !host.contains([':', '/', '[', ']', ' ']),
            };
            host_fits && port.bytes().all(|digit| digit.is_ascii_digit())
        }
        "unix" | "unixs" => true,
        _ => false,
    }
}

/// `major.minor` of a downgrade target: a semantic version, of which the patch is ignored, or
/// a version without a patch.
pub(crate) fn downgrade_target(version: &str) -> Result<(u64, u64), Refusal> {
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let mut numbers = core.split('.').map(str::parse::<u64>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return Err(Refusal::WrongDowngradeVersionFormat);
    };
    match (numbers.next(), numbers.next()) {
        (Some(Ok(_)), None) => Ok((major, minor)),
        // Only a whole version can have a suffix.
        (None, None) if core == version => Ok((major, minor)),
        _ => Err(Refusal::WrongDowngradeVersionFormat),
    }
}
