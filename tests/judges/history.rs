//! The history: the requests, answers and events of all clients of a cluster, which the checkers judge.
//!
//! Times are since the start of the run, by one clock for all clients. The store was empty at first (revision
//! 1), all writes are in the history, and every put has a unique value, so a value identifies the put that
//! wrote it.

use std::{collections::BTreeMap, fmt, time::Duration};

#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    pub(crate) operations: Vec<Operation>,
    pub(crate) watched: Vec<Watched>,
    pub(crate) compactions: Vec<Compaction>,
    pub(crate) restarts: Vec<Restart>,
    /// A linearizable list of all keys, after the last operation.
    pub(crate) final_state: Vec<Stored>,
    pub(crate) final_revision: i64,
}

/// A client has one operation in progress at a time. An operation that is not answered in time counts as in
/// progress until the end of the run, and the client continues with the next one.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) client: usize,
    /// The member that got the request.
    pub(crate) member: usize,
    pub(crate) called: Duration,
    /// When the client got the answer; `None` if it got none.
    pub(crate) returned: Option<Duration>,
    pub(crate) request: Request,
    pub(crate) outcome: Outcome,
}

#[derive(Clone, Debug)]
pub(crate) enum Request {
    Get { key: String, serializable: bool },
    List { prefix: String, serializable: bool },
    Put { key: String, value: u64 },
    Delete { key: String },
    Txn(Txn),
}

/// As in etcd, all comparisons are made with the state before the transaction, also those of the transactions among its
/// operations, and no key is written twice on a way through the branches.
#[derive(Clone, Debug)]
pub(crate) struct Txn {
    pub(crate) compares: Vec<Compare>,
    pub(crate) success: Vec<Write>,
    pub(crate) failure: Vec<Write>,
}

/// An operation of a transaction.
#[derive(Clone, Debug)]
pub(crate) enum Write {
    Put { key: String, value: u64 },
    Delete { key: String },
    Get { key: String },
    Txn(Txn),
}

/// For a key that does not exist the numbers are 0, and no value is equal to its value.
#[derive(Clone, Debug)]
pub(crate) enum Compare {
    Value { key: String, equal: u64 },
    Version { key: String, equal: i64 },
    CreateRevision { key: String, equal: i64 },
    ModRevision { key: String, equal: i64 },
}

#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Ok(Answer),
    /// The operation was certainly not executed and never will be.
    Refused,
    /// The operation may have been executed, may be executed later, or never.
    Unknown,
}

/// Fields that a kind of request does not have are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The revision in the header.
    pub(crate) revision: i64,
    /// The key-value pairs of a get or a list, in the order of keys.
    pub(crate) kvs: Vec<Stored>,
    /// The number of keys that a delete deleted.
    pub(crate) deleted: i64,
    /// The previous pairs of a put or a delete; `None` if the request did not ask for them.
    pub(crate) previous: Option<Vec<Stored>>,
    /// The branch that a transaction took.
    pub(crate) succeeded: bool,
    /// The answers of a transaction, one for each operation of the branch.
    pub(crate) responses: Vec<Response>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Response {
    Put,
    Deleted(i64),
    Got(Option<Stored>),
    Txn { succeeded: bool, responses: Vec<Response> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) key: String,
    pub(crate) value: u64,
    pub(crate) create_revision: i64,
    pub(crate) mod_revision: i64,
    pub(crate) version: i64,
}

/// Everything that one watcher got. When its stream breaks, it resumes on any member at the revision after
/// the last event or progress notification, and its batches continue. It asks for previous pairs, and runs
/// until it has the events up to the final revision of the run.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    pub(crate) watcher: usize,
    /// The member at which it began.
    pub(crate) member: usize,
    /// Empty: all keys.
    pub(crate) prefix: String,
    /// The first revision that it must get. For a watch without a start revision this is the one after the
    /// header of its creation.
    pub(crate) from_revision: i64,
    pub(crate) batches: Vec<Batch>,
    /// The compacted revision, if a compaction ended it. If the client continues there, that is another
    /// record.
    pub(crate) compacted: Option<i64>,
}

#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub(crate) received: Duration,
    pub(crate) header_revision: i64,
    pub(crate) events: Vec<Change>,
    /// A progress notification has no events: all events up to its revision were sent before.
    pub(crate) is_progress: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) key: String,
    pub(crate) kind: ChangeKind,
    /// For a deletion, as on the wire, only key and `mod_revision` are set; the rest is 0.
    pub(crate) stored: Stored,
    pub(crate) prev: Option<Stored>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChangeKind {
    Put,
    Delete,
}

/// A request for a compaction, whatever its outcome.
#[derive(Clone, Debug)]
pub(crate) struct Compaction {
    pub(crate) called: Duration,
    pub(crate) revision: i64,
}

/// From here on the member may answer serializable reads from an older state than before, because it was
/// killed or its data were deleted.
#[derive(Clone, Debug)]
pub(crate) struct Restart {
    pub(crate) at: Duration,
    pub(crate) member: usize,
}

/// Why a history cannot be that of a correct store, with what is needed to find the cause.
#[derive(Debug)]
pub(crate) struct Violation(pub(crate) String);

/// The operations and watchers that saw it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Witness<'a> {
    Operation(&'a Operation),
    Watched(&'a Watched),
    End,
}

impl Operation {
    pub(crate) fn answer(&self) -> Option<&Answer> {
        match &self.outcome {
            Outcome::Ok(answer) => Some(answer),
            Outcome::Refused | Outcome::Unknown => None,
        }
    }

    /// The request may be answered from the state of the member, however old.
    pub(crate) fn is_serializable(&self) -> bool {
        matches!(
            self.request,
            Request::Get { serializable: true, .. } | Request::List { serializable: true, .. }
        )
    }
}

impl Request {
    /// The writes of the request, for a transaction those of all its branches: key and value, or `None` for a
    /// deletion.
    pub(crate) fn writes(&self) -> Vec<(&str, Option<u64>)> {
        match self {
            Request::Get { .. } | Request::List { .. } => Vec::new(),
            Request::Put { key, value } => vec![(key, Some(*value))],
            Request::Delete { key } => vec![(key, None)],
            Request::Txn(txn) => {
                let written = |write: &'_ Write| match write {
                    Write::Put { value, .. } => Some(Some(*value)),
                    Write::Delete { .. } => Some(None),
                    Write::Get { .. } | Write::Txn(_) => None,
                };
                let operations = txn.operations().into_iter();
                operations.filter_map(|write| Some((write.key()?, written(write)?))).collect()
            }
        }
    }
}

impl Txn {
    pub(crate) fn branch(&self, succeeded: bool) -> &[Write] {
        if succeeded { &self.success } else { &self.failure }
    }

    /// The operations of all branches. Of a transaction among them its operations.
    pub(crate) fn operations(&self) -> Vec<&Write> {
        let all = self.success.iter().chain(&self.failure);
        let flat = all.flat_map(|write| match write {
            Write::Txn(inner) => inner.operations(),
            write => vec![write],
        });
        flat.collect()
    }

    /// The operations on the way that an answer has taken, each with its answer.
    pub(crate) fn taken<'a>(
        &'a self,
        succeeded: bool,
        responses: &'a [Response],
    ) -> Vec<(&'a Write, &'a Response)> {
        let pairs = self.branch(succeeded).iter().zip(responses);
        let flat = pairs.flat_map(|pair| match pair {
            (Write::Txn(inner), Response::Txn { succeeded, responses }) => inner.taken(*succeeded, responses),
            pair => vec![pair],
        });
        flat.collect()
    }

    /// The keys of all comparisons and operations.
    pub(crate) fn keys(&self) -> Vec<&str> {
        let compared = self.compares.iter().map(Compare::key);
        let used = self.success.iter().chain(&self.failure).flat_map(|write| match write {
            Write::Txn(inner) => inner.keys(),
            write => write.key().into_iter().collect(),
        });
        compared.chain(used).collect()
    }
}

impl Write {
    /// `None` for a transaction.
    pub(crate) fn key(&self) -> Option<&str> {
        match self {
            Write::Put { key, .. } | Write::Delete { key } | Write::Get { key } => Some(key),
            Write::Txn(_) => None,
        }
    }

    pub(crate) fn as_put(&self) -> Option<(&String, u64)> {
        match self {
            Write::Put { key, value } => Some((key, *value)),
            Write::Delete { .. } | Write::Get { .. } | Write::Txn(_) => None,
        }
    }
}

impl Response {
    /// What a get has found, and those of a transaction.
    fn seen(&self) -> Vec<&Stored> {
        match self {
            Response::Got(stored) => stored.iter().collect(),
            Response::Txn { responses, .. } => responses.iter().flat_map(Response::seen).collect(),
            Response::Put | Response::Deleted(_) => Vec::new(),
        }
    }
}

impl Compare {
    pub(crate) fn key(&self) -> &str {
        match self {
            Compare::Value { key, .. }
            | Compare::Version { key, .. }
            | Compare::CreateRevision { key, .. }
            | Compare::ModRevision { key, .. } => key,
        }
    }
}

impl Answer {
    /// Every key in the answer.
    pub(crate) fn seen(&self) -> impl Iterator<Item = &Stored> {
        let got = self.responses.iter().flat_map(Response::seen);
        self.kvs.iter().chain(self.previous.iter().flatten()).chain(got)
    }
}

impl History {
    /// Every observation of a key, with its time and observer.
    pub(crate) fn seen(&self) -> impl Iterator<Item = (&Stored, Duration, Witness<'_>)> {
        let answered = self.operations.iter().flat_map(|operation| {
            let at = operation.returned.unwrap_or(Duration::MAX);
            let seen = operation.answer().into_iter().flat_map(Answer::seen);
            seen.map(move |stored| (stored, at, Witness::Operation(operation)))
        });
        let events = self.watched.iter().flat_map(|watched| {
            watched.batches.iter().flat_map(move |batch| {
                let shown = batch.events.iter().flat_map(|change| {
                    let put = (change.kind == ChangeKind::Put).then_some(&change.stored);
                    put.into_iter().chain(&change.prev)
                });
                shown.map(move |stored| (stored, batch.received, Witness::Watched(watched)))
            })
        });
        let end = self.final_state.iter().map(|stored| (stored, Duration::MAX, Witness::End));
        answered.chain(events).chain(end)
    }

    /// The operation that wrote a value, or would have.
    pub(crate) fn writers(&self) -> BTreeMap<u64, &Operation> {
        let written = self.operations.iter().flat_map(|operation| {
            operation.request.writes().into_iter().filter_map(move |(_, value)| Some((value?, operation)))
        });
        written.collect()
    }
}

/// Reads as `client 3 at member 1, 1.203456s to 1.204567s: put a/1 = 17 -> revision 9`.
impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client {} at member {}, {:.6}s to ", self.client, self.member, self.called.as_secs_f64())?;
        match self.returned {
            Some(returned) => write!(f, "{:.6}s", returned.as_secs_f64())?,
            None => f.write_str("no answer")?,
        }
        write!(f, ": {} -> ", self.request)?;
        match &self.outcome {
            Outcome::Ok(answer) => {
                write!(f, "revision {}", answer.revision)?;
                match self.request {
                    Request::Get { .. } | Request::List { .. } => write!(f, " {}", All(&answer.kvs))?,
                    Request::Delete { .. } => write!(f, " deleted {}", answer.deleted)?,
                    Request::Put { .. } => {}
                    Request::Txn(_) => write!(f, " {} {}", branch(answer.succeeded), All(&answer.responses))?,
                }
                answer.previous.iter().try_for_each(|previous| write!(f, " previous {}", All(previous)))
            }
            Outcome::Refused => f.write_str("refused"),
            Outcome::Unknown => f.write_str("unknown"),
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = |serializable: &bool| if *serializable { " serializably" } else { "" };
        match self {
            Request::Get { key, serializable } => write!(f, "get {key}{}", how(serializable)),
            Request::List { prefix, serializable } => write!(f, "list {prefix}*{}", how(serializable)),
            Request::Put { key, value } => write!(f, "put {key} = {value}"),
            Request::Delete { key } => write!(f, "delete {key}"),
            Request::Txn(txn) => txn.fmt(f),
        }
    }
}

impl fmt::Display for Txn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Txn { compares, success, failure } = self;
        write!(f, "if {} then {} else {}", All(compares), All(success), All(failure))
    }
}

fn branch(succeeded: bool) -> &'static str {
    if succeeded { "success" } else { "failure" }
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Write::Put { key, value } => write!(f, "put {key} = {value}"),
            Write::Delete { key } => write!(f, "delete {key}"),
            Write::Get { key } => write!(f, "get {key}"),
            Write::Txn(txn) => txn.fmt(f),
        }
    }
}

impl fmt::Display for Compare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Compare::Value { key, equal } => write!(f, "value {key} = {equal}"),
            Compare::Version { key, equal } => write!(f, "version {key} = {equal}"),
            Compare::CreateRevision { key, equal } => write!(f, "create {key} = {equal}"),
            Compare::ModRevision { key, equal } => write!(f, "mod {key} = {equal}"),
        }
    }
}

impl fmt::Display for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Response::Put => f.write_str("put"),
            Response::Deleted(count) => write!(f, "deleted {count}"),
            Response::Got(Some(stored)) => stored.fmt(f),
            Response::Got(None) => f.write_str("nothing"),
            Response::Txn { succeeded, responses } => {
                write!(f, "{} {}", branch(*succeeded), All(responses))
            }
        }
    }
}

impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stored { key, value, create_revision, mod_revision, version } = self;
        write!(f, "{key} = {value} (create {create_revision}, mod {mod_revision}, version {version})")
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            ChangeKind::Put => write!(f, "put {}", self.stored)?,
            ChangeKind::Delete => write!(f, "delete {} (mod {})", self.key, self.stored.mod_revision)?,
        }
        self.prev.iter().try_for_each(|prev| write!(f, " of {prev}"))
    }
}

impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Watched { watcher, member, prefix, from_revision, .. } = self;
        write!(f, "watcher {watcher} of {prefix}* from revision {from_revision}, begun at member {member}")
    }
}

impl fmt::Display for Witness<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Witness::Operation(operation) => operation.fmt(f),
            Witness::Watched(watched) => watched.fmt(f),
            Witness::End => f.write_str("the final state"),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A list, in brackets.
pub(crate) struct All<'a, T>(pub(crate) &'a [T]);

impl<T: fmt::Display> fmt::Display for All<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (number, each) in self.0.iter().enumerate() {
            let separator = if number == 0 { "" } else { "; " };
            write!(f, "{separator}{each}")?;
        }
        f.write_str("]")
    }
}
