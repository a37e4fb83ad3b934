//! Every bound, its reason, and what happens when it is reached.

/// Operations in one transaction, unless `--max-txn-ops` says otherwise. More are refused.
pub(crate) const TXN_OPS_MAX: usize = 128;

/// Bytes of one request, unless `--max-request-bytes` says otherwise. Larger ones are refused.
pub(crate) const REQUEST_BYTES_MAX: usize = 1_572_864;

/// What the gRPC layer accepts beyond [`REQUEST_BYTES_MAX`], so that an oversized request gets
/// etcd's refusal rather than a transport error.
pub(crate) const REQUEST_OVERHEAD_BYTES: usize = 512 * 1024;

/// What a client may send before the server has read it: on one stream, so that the largest
/// request arrives without a pause, and on one connection. A client that has used up its window
/// waits.
pub(crate) const HTTP2_STREAM_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
pub(crate) const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;

/// Streams of one connection that the client gave up before the server took them on. A busy
/// client whose requests time out together stays well below; more close the connection, as
/// nobody but an attacker gets there.
pub(crate) const HTTP2_RESETS_PENDING: usize = 4096;

const _: () = assert!(HTTP2_STREAM_WINDOW_BYTES as usize >= REQUEST_BYTES_MAX + REQUEST_OVERHEAD_BYTES);
const _: () = assert!(HTTP2_CONNECTION_WINDOW_BYTES >= HTTP2_STREAM_WINDOW_BYTES);

/// Longest lease, in seconds. Longer ones are refused.
pub(crate) const LEASE_TTL_SECS_MAX: i64 = 9_000_000_000;

/// Space quota when `--quota-backend-bytes` is 0. Writes beyond it are refused.
pub(crate) const QUOTA_BYTES_DEFAULT: i64 = 2 * 1024 * 1024 * 1024;

/// Keys that a read visits before it lets go of the state for a moment, so that a long range
/// does not hold up writes.
pub(crate) const RANGE_STRIDE_KEYS: usize = 1024;

/// Distinct revisions in one catch-up batch of a watcher.
pub(crate) const WATCH_BATCH_REVS: usize = 1000;

/// Answers waiting for one watch stream. When full, its watchers fall back to history and
/// read on from where they were; nothing is dropped.
pub(crate) const WATCH_QUEUE: usize = 128;

/// Proposals waiting for the core. When full, writes are refused with `too many requests`.
pub(crate) const PROPOSAL_QUEUE: usize = 5000;

/// Commands in one log entry, and their bytes. What is over waits for the next entry.
pub(crate) const BATCH_COMMANDS_MAX: usize = 4096;
pub(crate) const BATCH_BYTES_MAX: usize = 512 * 1024;

const _: () = assert!(BATCH_COMMANDS_MAX <= PROPOSAL_QUEUE);
