//! Every bound, its reason, and what happens when it is reached.

mod knobs;

use std::time::Duration;

pub(crate) use knobs::Knob;

/// Depth of nested transactions. A deeper request is refused; `--max-txn-ops` (default 128) usually
/// refuses it earlier, because each level uses at least one operation of that budget. Code that
/// handles transactions recursively must use at most half of a thread's stack at this depth. The
/// bound may be raised but never lowered: deeper transactions that were accepted are in the log.
pub(crate) const TXN_DEPTH_MAX: usize = 256;

/// Bytes of one request, unless `--max-request-bytes` says otherwise. Larger ones are refused.
pub(crate) const REQUEST_BYTES_MAX: usize = 1_572_864;

/// Minimum of `--max-request-bytes`, enough for a put with a short key and value. Lower values are
/// refused. The flag does not apply to commands that the member itself proposes.
pub(crate) const REQUEST_BYTES_MIN: usize = 128;

/// What the gRPC layer accepts beyond [`REQUEST_BYTES_MAX`], so that an oversized request gets
/// etcd's refusal rather than a transport error.
pub(crate) const REQUEST_OVERHEAD_BYTES: usize = 512 * 1024;

/// Maximum of `--max-request-bytes`: every log entry must fit into a message to a peer, also in a
/// cluster that gets its second member later. Larger values are reduced to this one, with a warning
/// in the log at startup.
pub(crate) const REQUEST_BYTES_LIMIT: usize = 64 * 1024 * 1024;

const _: () = assert!(REQUEST_BYTES_MIN <= REQUEST_BYTES_MAX && REQUEST_BYTES_MAX <= REQUEST_BYTES_LIMIT);

/// Bytes of one command as it is encoded in the log and in messages. Many small operations encode to
/// more bytes than their request counts; a request that exceeds this bound is refused as too large.
pub(crate) const COMMAND_BYTES_MAX: usize = 96 * 1024 * 1024;

const _: () = assert!(REQUEST_BYTES_LIMIT + REQUEST_OVERHEAD_BYTES <= COMMAND_BYTES_MAX);

/// HTTP/2 flow-control windows: bytes that a client may send before the server has read them, on one
/// stream and on one connection. The largest default request fits a stream's window, so it arrives
/// without a pause. A client that has used up its window waits.
pub(crate) const HTTP2_STREAM_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
pub(crate) const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;

/// Bytes of answers that HTTP/2 buffers for one stream before the answer is asked for more. One more
/// piece of the answer waits behind them. A client that does not read holds up its own streams only.
pub(crate) const HTTP2_SEND_BUFFER_BYTES: usize = 16 * 1024;

/// Calls that one connection may have open, unless `--max-concurrent-streams` says otherwise. etcd has no
/// limit by default. A client that knows the limit, as all clients of gRPC do, waits for one of its calls to
/// end; any other client's call is reset. Clients that share one connection for hundreds of watch streams
/// are common, thousands are not known.
pub(crate) const HTTP2_STREAMS_MAX: u32 = 10_000;

/// Calls that may be open on all connections of clients together, and on all connections of peers. Further
/// ones are refused with `ResourceExhausted`. An open call takes about 6 KB.
pub(crate) const CALLS_MAX: usize = 50_000;

const _: () = assert!(HTTP2_STREAMS_MAX as usize <= CALLS_MAX);

/// How long a client may keep the server waiting for the rest of what it has begun to send: the first
/// bytes of a connection, a head, a frame, a message. In this time at least so many bytes have to arrive,
/// or the whole of it. Otherwise the connection is closed, or, for a message, the call is refused with
/// `Unavailable`. A connection that owes nothing may be idle for as long as it likes.
pub(crate) const CLIENT_PATIENCE: Duration = Duration::from_secs(10);
pub(crate) const BODY_PROGRESS_BYTES: usize = 1024;
pub(crate) const HEAD_PROGRESS_BYTES: usize = 64 * 1024;

/// Bytes of memory for messages that have not arrived whole: those of at most [`SMALL_MESSAGE_BYTES`], and
/// all others, on all connections of clients together, and on all connections of peers. A message for which
/// there is no memory waits, unread, until others have arrived or their clients have run out of time.
pub(crate) const SMALL_MESSAGE_BYTES: usize = 64 * 1024;
pub(crate) const UNFINISHED_SMALL_BYTES: usize = 64 * 1024 * 1024;
pub(crate) const UNFINISHED_BYTES: usize = 192 * 1024 * 1024;

const _: () = assert!(SMALL_MESSAGE_BYTES <= UNFINISHED_SMALL_BYTES);
const _: () = assert!(REQUEST_BYTES_LIMIT + REQUEST_OVERHEAD_BYTES <= UNFINISHED_BYTES);
const _: () = assert!(PEER_MESSAGE_BYTES_MAX <= UNFINISHED_BYTES);

/// Bytes of the JSON that the gateway reads for one message: base64 takes four for three, escapes, names and space
/// take more. A request with more is refused like one whose message is too large.
pub(crate) const fn json_bytes_max(message_bytes_max: usize) -> usize {
    let bytes = 4 * message_bytes_max;
    if bytes < UNFINISHED_BYTES { bytes } else { UNFINISHED_BYTES }
}

/// Arrays and objects within each other in such JSON, as in Go. A request with more is refused.
pub(crate) const JSON_DEPTH_MAX: usize = 10_000;

/// Bytes of a client's JSON that an error text repeats.
pub(crate) const JSON_QUOTED_BYTES: usize = 1024;

/// Bytes of one message that a client sends on a WebSocket: a request to a stream, or a small call. They are held
/// until the message is whole, for as long as the connection lives, so many connections times this many bytes
/// have to fit into memory. A connection that sends a larger message is closed.
pub(crate) const WEBSOCKET_MESSAGE_BYTES: usize = 64 * 1024;

/// Bytes read from a WebSocket at once.
pub(crate) const WEBSOCKET_READ_BYTES: usize = 4 * 1024;

/// Smaller pieces of such messages are copied, so that a piece of one byte does not keep the buffer in
/// memory that it was received in.
pub(crate) const SMALL_PIECE_BYTES: usize = 8 * 1024;

/// Frames without effect that a connection may send before it is closed with `too_many_frames`, and how many
/// more it may send each second. Clients of gRPC send a few in the life of a connection.
pub(crate) const HTTP2_VOID_FRAMES: u32 = 10_000;
pub(crate) const HTTP2_VOID_FRAMES_PER_SEC: u32 = 1000;

/// What connections to the peer port may do until a member has shown itself on them. Together they take a few
/// steps in each interval, each of which is to accept a connection, to read from one or to begin a call on one, and
/// at most so many that they did not take before. A step takes the core thread 0.1 ms at most, so steps take little of it. Who
/// finds no step waits in turn. A connection that stays for longer, or sends more frames without effect, is closed.
pub(crate) const LOBBY_STEPS: usize = 32;
pub(crate) const LOBBY_STEPS_PER_INTERVAL: usize = 4;
pub(crate) const LOBBY_INTERVAL: Duration = Duration::from_millis(1);
pub(crate) const LOBBY_STAY_MAX: Duration = Duration::from_secs(30);
pub(crate) const LOBBY_VOID_FRAMES: u32 = 64;

const _: () = assert!(LOBBY_STEPS_PER_INTERVAL <= LOBBY_STEPS && LOBBY_VOID_FRAMES <= HTTP2_VOID_FRAMES);

/// How long a client that sent too many frames may take to read why its connection is closed, and how many bytes
/// of what it still sends are read and discarded meanwhile. After that nothing is read until the connection is closed.
pub(crate) const HTTP2_GOAWAY_TIMEOUT: Duration = Duration::from_secs(1);
pub(crate) const HTTP2_GOAWAY_DISCARD_BYTES: usize = 64 * 1024;

/// The shortest time between two pings of a client if `--grpc-keepalive-min-time` is 0: gRPC's default.
pub(crate) const KEEPALIVE_MIN_TIME_DEFAULT: Duration = Duration::from_secs(5 * 60);

/// Bytes read from a connection at once, and the number of requests after which the connection stops
/// reading until a handler has been started for each of them.
pub(crate) const HTTP2_READ_BYTES: usize = 32 * 1024;
pub(crate) const HTTP2_REQUESTS_AT_ONCE: usize = 1024;

/// Streams of one connection that the client reset before the server accepted them. The HTTP/2
/// library closes a connection with more, even if the resets are timeouts during a stall of this
/// process. The server therefore stops reading before a connection can reach this number.
pub(crate) const HTTP2_RESETS_PENDING: usize = 4096;

/// Minimum size on the wire of a request and the frame that resets it.
const HTTP2_GIVEN_UP_BYTES: usize = 9 + 3 + 9 + 4;

const _: () =
    assert!(HTTP2_RESETS_PENDING > HTTP2_REQUESTS_AT_ONCE + HTTP2_READ_BYTES / HTTP2_GIVEN_UP_BYTES);

/// Frames that are read from a connection while its client reads nothing. Most of them need an
/// answer, which waits in memory. After this many, reading resumes when the client reads again.
pub(crate) const HTTP2_FRAMES_UNANSWERED: u64 = 4096;

/// Bytes of the header fields of one request, as HTTP/2 counts them: names, values, and 32 bytes for
/// each field. A request with more is refused. etcd accepts 16 MiB; real clients send only a token.
pub(crate) const HEADER_LIST_BYTES: u32 = 2 * 1024 * 1024;

/// Bytes of an incomplete header block that are buffered. A connection that sends more is closed.
pub(crate) const HEADER_HELD_BYTES: usize = 2 * HEADER_LIST_BYTES as usize;

/// CONTINUATION frames of one header block. A connection that sends more is closed: a full frame has
/// 16 KiB, so only a client that wants to keep the server busy needs more.
pub(crate) const HEADER_CONTINUATIONS: usize = 2 * HEADER_HELD_BYTES / (16 * 1024);

/// Headers of one call that are kept while the call waits. If there are more, only the headers that
/// the server evaluates are kept.
pub(crate) const HEADERS_KEPT: usize = 64;

/// Time and bytes for which the rest of a request is read and discarded after it was answered. A
/// client normally stops sending when it has the answer; otherwise its stream is reset.
pub(crate) const DISCARD_TIMEOUT: Duration = Duration::from_secs(10);
pub(crate) const DISCARD_BYTES: usize = 256 * 1024;

/// Memory that a connection keeps for decoding header fields, and the bytes that a request's decoded
/// fields may take beyond twice their size on the wire. A request that takes more is refused: its
/// client refers to one large field again and again.
pub(crate) const HEADER_SCRATCH_BYTES: usize = 16 * 1024;

const _: () = assert!(HTTP2_STREAM_WINDOW_BYTES as usize >= REQUEST_BYTES_MAX + REQUEST_OVERHEAD_BYTES);
const _: () = assert!(HTTP2_CONNECTION_WINDOW_BYTES >= HTTP2_STREAM_WINDOW_BYTES);

/// Longest lease, in seconds. Longer ones are refused.
pub(crate) const LEASE_TTL_SECS_MAX: i64 = 9_000_000_000;

/// Leases that may expire in one second after a change of leader. The deadlines of further leases are
/// moved to later seconds.
pub(crate) const LEASE_EXPIRIES_PER_SEC: usize = 750;

/// How long the leader waits for the revoke of an expired lease before it asks again.
pub(crate) const LEASE_REVOKE_RETRY: Duration = Duration::from_secs(3);

/// How often the leader reads its clock before a lease expires. If it reads the clock later than
/// planned by more than a stall, it first answers the keep-alives that wait, and expires leases after
/// that. After too many stalls in a row it expires leases anyway; otherwise leases would never expire
/// on a member that is always slow.
pub(crate) const LEASE_LOOK_INTERVAL: Duration = Duration::from_millis(100);
pub(crate) const LEASE_STALL: Duration = Duration::from_millis(500);
pub(crate) const LEASE_STALLS_MAX: u32 = 10;

// Otherwise a clock that is read in time would count as stalled.
const _: () = assert!(LEASE_LOOK_INTERVAL.as_millis() < LEASE_STALL.as_millis());

/// How often the leader writes the remaining TTL of a lease that is not renewed to the log, and for
/// how many leases at once. Further leases follow in the next command.
pub(crate) const LEASE_CHECKPOINT_INTERVAL: Duration = Duration::from_secs(5 * 60);
pub(crate) const LEASE_CHECKPOINT_LEASES: usize = 1000;

/// Leases whose remaining TTL a leader writes to the log before it transfers leadership; the leases
/// that expire next come first. All others start with their full TTL at the next leader.
pub(crate) const LEASE_HANDOVER_LEASES: usize = 10_000;

/// Space quota when `--quota-backend-bytes` is 0. Writes beyond it are refused.
pub(crate) const QUOTA_BYTES_DEFAULT: i64 = 2 * 1024 * 1024 * 1024;

/// Keys that a read visits before it releases the state's lock for a moment, so that a long range
/// does not block writes.
pub(crate) const RANGE_STRIDE_KEYS: usize = 1024;

/// Keys that applying an entry visits or changes before it releases the state's lock and lets the other
/// tasks of the core thread run, so that neither readers nor heartbeats wait for a large deletion. A command
/// counts as one key at least.
pub(crate) const APPLY_STRIDE_KEYS: usize = 1024;

/// Records that a checkpoint takes from memory before it releases the state's lock for a moment, and
/// revisions that it drops from memory.
pub(crate) const CAPTURE_STRIDE_RECORDS: usize = if cfg!(test) { 2 } else { 4096 };

/// How long the member that answers may read for the answer to a write: the ranges of a transaction, and
/// what keys held before. What a compaction removes stays on the disk for as long. After it the client is
/// told that the request timed out, as it is when the outcome of a write is not known.
pub(crate) const ANSWER_READ_MAX: Duration = Duration::from_secs(60);

/// What an answer may take without being counted: as much as HTTP/2 buffers of any answer.
pub(crate) const ANSWER_UNCOUNTED_BYTES: usize = HTTP2_SEND_BUFFER_BYTES;

/// Memory for the answers that are made as a whole, and the largest of them. It is counted where keys are read,
/// and released as the client takes the answer. An answer for which there is no memory drops what was read for
/// it, and waits for its turn with nothing in its hands. Small answers are not counted and do not wait.
pub(crate) const ANSWER_WHOLE_BYTES: usize = 1024 * 1024;
pub(crate) const WHOLE_ANSWERS_BYTES: usize = 64 * 1024 * 1024;

/// Of a larger answer in the order of the keys, only [`ANSWER_WHOLE_BYTES`] are kept; the keys behind it are
/// read while the client takes the answer, a piece at a time.
pub(crate) const ANSWER_PIECE_BYTES: usize = if cfg!(test) { 64 } else { 256 * 1024 };

/// Such answers that are sent at the same time. Each takes at most the part that is kept and two pieces; further
/// ones wait for their turn, and smaller answers do not.
pub(crate) const LONG_ANSWERS_AT_ONCE: usize = 32;

/// Memory for all other answers that are larger than [`ANSWER_WHOLE_BYTES`]: those that are sorted by something
/// else than the key, and those of transactions and deletions. They have to be in memory as a whole, so a single
/// one may take no more than this. A larger one is refused with `ResourceExhausted`; further ones wait.
pub(crate) const KEPT_ANSWERS_BYTES: usize = 128 * 1024 * 1024;

/// Bytes of an answer that are encoded at once.
pub(crate) const ANSWER_FRAME_BYTES: usize = 64 * 1024;

/// The memory of all answers that are being made or sent, and larger than [`ANSWER_UNCOUNTED_BYTES`].
pub(crate) const ANSWERS_BYTES: usize = WHOLE_ANSWERS_BYTES
    + LONG_ANSWERS_AT_ONCE * (ANSWER_WHOLE_BYTES + 2 * ANSWER_PIECE_BYTES)
    + KEPT_ANSWERS_BYTES;

const _: () = assert!(ANSWERS_BYTES <= 256 * 1024 * 1024);
// The refusal says so.
const _: () = assert!(KEPT_ANSWERS_BYTES == 128 * 1024 * 1024);
const _: () = assert!(ANSWER_UNCOUNTED_BYTES < ANSWER_WHOLE_BYTES);
const _: () = assert!(ANSWER_WHOLE_BYTES <= WHOLE_ANSWERS_BYTES && KEPT_ANSWERS_BYTES <= u32::MAX as usize);

/// Parts of large answers that are read from the database at the same time, on threads of the blocking pool, and
/// parts of all other answers.
pub(crate) const LONG_READS_AT_ONCE: usize = 2;
pub(crate) const SHORT_READS_AT_ONCE: usize = 2;

/// Records that a read takes from the database on the reactor itself, where most of them are in the memory of the
/// database or of the kernel. To have another thread read them would take longer.
pub(crate) const READS_ON_REACTOR: usize = 4;

/// How fast a client has to take a counted answer, after a grace period, and how long it may take for one that is
/// kept as a whole. A slower client gets an error, because others wait for the memory or the place of its answer,
/// and the state that is read for it keeps compacted records on the disk.
pub(crate) const LONG_ANSWER_BYTES_PER_SEC_MIN: u64 = 256 * 1024;
pub(crate) const LONG_ANSWER_GRACE: Duration = Duration::from_secs(30);
pub(crate) const KEPT_ANSWER_MAX: Duration = Duration::from_secs(60);

/// Records that a read takes from the database before it lets the other tasks of its reactor run. It
/// stops earlier when they have [`READ_STRIDE_BYTES`].
pub(crate) const READ_STRIDE_RECORDS: usize = 256;

/// Records that a start reads ahead of the index that it builds, in batches: two wait while one is read and one is
/// taken. A batch ends earlier when its keys have [`RESTORE_BATCH_BYTES`]. When all are full, reading waits.
pub(crate) const RESTORE_BATCH_RECORDS: usize = 1024;
pub(crate) const RESTORE_BATCH_BYTES: usize = 1024 * 1024;

/// Memory for records that are already in the database, so that reads of recent revisions do not go
/// to the disk. When it is full, the oldest records are dropped from memory.
pub(crate) const RECENT_CACHE_BYTES: usize = 16 * 1024 * 1024;

/// Memory for records that no checkpoint has stored yet. When half of it is used, a checkpoint starts
/// early; when it is full, committed entries wait in the log until that checkpoint is done.
pub(crate) const UNSAVED_BYTES: usize = 128 * 1024 * 1024;

/// Compactions that were accepted and wait for earlier ones. When the queue is full, a new compaction
/// is merged with the last one in it: both remove their records together, and `HashKV` at either
/// revision answers as after a restart.
pub(crate) const COMPACTIONS_WAITING: usize = if cfg!(test) { 2 } else { 16 };

/// Compactions whose hashes are remembered, as many as in etcd. The oldest is forgotten first.
pub(crate) const COMPACTION_HASHES: usize = if cfg!(test) { 3 } else { 10 };

/// Bytes of records that a compaction or the scrubber reads at once, so that a checkpoint does not
/// wait for a thousand large values. The record that reaches the bound is still read.
pub(crate) const READ_STRIDE_BYTES: usize = 1024 * 1024;

/// A compaction pauses after each stride for so many times as long as the stride took, and no longer than
/// `--compaction-sleep-interval`: the disk thread, its processor and the state's lock are others' for most of the time.
pub(crate) const COMPACTION_PAUSE_FACTOR: u32 = 3;
pub(crate) const COMPACTION_PAUSE_MIN: Duration = Duration::from_millis(1);

/// Records that one checkpoint removes, so that a large compaction does not delay the durability of
/// concurrent writes. Further removals wait for the next checkpoint.
pub(crate) const CHECKPOINT_REMOVALS_MAX: usize = 50_000;

/// Bytes in one catch-up batch of a stream, for each of its watchers that are behind, and at most. The batch
/// ends with the revision that reaches them. A stream whose client does not read holds a few such
/// batches, in different stages of being sent; a batch that many watchers share is read once for all of them.
pub(crate) const HISTORY_BYTES_PER_WATCHER: usize = 16 * 1024;
pub(crate) const HISTORY_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of responses after which a watch stream hands them on, so that the gRPC library does not collect more
/// for a client that does not read.
pub(crate) const WATCH_SEND_BYTES: usize = 8 * 1024;

/// Revisions whose events one message to a watcher may have, and how many have to be in the queue of the stream for that:
/// then the client is behind. As in etcd, a client that keeps up gets each revision in a message of its own.
pub(crate) const WATCH_MERGED_REVS: usize = if cfg!(test) { 6 } else { 32 };
pub(crate) const WATCH_MERGED_FROM: usize = if cfg!(test) { 4 } else { 8 };

const _: () = assert!(WATCH_MERGED_REVS <= WATCH_WHOLE_EVENTS);

/// Bytes of events that are encoded once for all watchers of a stream that get the same. Larger ones are encoded for each
/// watcher when it is its turn.
pub(crate) const WATCH_SHARED_BYTES: usize = 64 * 1024;

/// Events of one response to a watcher that are encoded at once. A response with more is sent while its events are
/// encoded and, if they were not in memory, reserves their memory before they are read. It is one message all the same,
/// unless the watcher asked for fragments.
pub(crate) const WATCH_WHOLE_EVENTS: usize = if cfg!(test) { 8 } else { 1024 };

/// Distinct revisions in one catch-up batch of a watcher.
pub(crate) const WATCH_BATCH_REVS: usize = 1000;

/// Events of a revision for which watchers are looked up before the hub's lock is released and the other tasks of the
/// core thread run.
pub(crate) const PUBLISH_STRIDE_EVENTS: usize = if cfg!(test) { 3 } else { 1024 };

/// Events that watchers get from one revision, all watchers together, if it has so many that it is published in strides.
/// When there are more, these watchers read the revision from history.
pub(crate) const PUBLISH_HITS_MAX: usize = if cfg!(test) { 12 } else { 256 * 1024 };

/// Deliveries in the queue of one watch stream. When the queue is full, the watchers that would get the
/// next revision read it from history later; no event is lost.
pub(crate) const WATCH_QUEUE: usize = 128;

/// Bytes of events in the queue of one watch stream, and how many of them there may be if the stream has taken
/// nothing since the last ones were added. When they are reached, the same happens. A single revision may be larger.
pub(crate) const WATCH_QUEUE_BYTES: usize = 1024 * 1024;
pub(crate) const WATCH_QUEUE_BYTES_UNREAD: usize = 64 * 1024;

const _: () = assert!(WATCH_QUEUE_BYTES_UNREAD <= WATCH_QUEUE_BYTES);

/// Versions in the requests' headers by which clients are counted. Clients with further versions are
/// counted as unknown.
pub(crate) const CLIENT_VERSIONS_MAX: usize = 32;

/// Bytes of a password, because bcrypt uses no more. Longer ones are refused.
pub(crate) const PASSWORD_BYTES_MAX: usize = 72;

/// Threads that hash and check passwords, at most; no more than cores. A password takes 50 ms of a core, so
/// these threads have a lower priority than all others.
pub(crate) const PASSWORD_THREADS_MAX: usize = 4;

/// Passwords that wait for one of these threads. When there are more, one is refused with `too many requests`: of
/// those who were wrong most lately, of the network with the most, the last. A place takes less than 4 KiB, with what
/// its call holds.
pub(crate) const PASSWORDS_WAITING: usize = 256;

/// Connections, and users in a network, whose password was wrong lately: they wait for others. When there are more,
/// the first is forgotten, and waits with all others again. Each takes about 100 bytes.
pub(crate) const PASSWORD_MISTAKES: usize = 4096;
/// After this time they wait with all others again.
pub(crate) const PASSWORD_MISTAKE_REMEMBERED: Duration = Duration::from_secs(60);

/// Characters of a name that are logged when a login is refused. The rest of a longer one is left out.
pub(crate) const LOGGED_NAME_CHARS_MAX: usize = 64;

/// Users whose password was right a moment ago and need not be hashed again. When there are more, the one
/// whose password was checked first is forgotten, and its next check takes as long as the first.
pub(crate) const PASSWORDS_REMEMBERED: usize = 1024;
/// After this time a password is hashed again.
pub(crate) const PASSWORD_REMEMBERED: Duration = Duration::from_secs(60);

/// How long a simple token is valid after its last use, unless `--auth-token-ttl` says otherwise.
pub(crate) const AUTH_TOKEN_TTL_DEFAULT: Duration = Duration::from_secs(300);
/// Longer times are taken for this one, so that a deadline can be computed.
pub(crate) const AUTH_TOKEN_TTL_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Simple tokens that a member remembers, of one user and of all users: 200 bytes each. When there are more,
/// the one that was used longest ago is forgotten, and its client has to log in again.
pub(crate) const TOKENS_PER_USER_MAX: usize = if cfg!(test) { 3 } else { 10_000 };
pub(crate) const TOKENS_MAX: usize = if cfg!(test) { 5 } else { 100_000 };

/// JSON web tokens that were found to be right and are remembered, so that their signature is not checked again with
/// each call: 150 bytes each. When there are more, all are forgotten and checked anew.
pub(crate) const VERIFIED_TOKENS_MAX: usize = 10_000;

/// How often a member looks whether the files of the keys of JSON web tokens have changed.
pub(crate) const TOKEN_KEYS_LOOKED_AT_INTERVAL: Duration = Duration::from_secs(1);

/// Leases that a stream of keep-alives renewed last. They are judged again when users or roles change, so
/// that the stream ends when its caller may not renew them any more. Older ones are judged when they are
/// renewed.
pub(crate) const LEASES_HELD_BY_STREAM: usize = 64;

/// Watchers that are judged again under one lock of the replica, when users or roles have changed.
pub(crate) const WATCHERS_JUDGED_AT_ONCE: usize = 256;

/// Proposals that wait for the core. When the queue is full, writes are refused with `too many requests`.
pub(crate) const PROPOSAL_QUEUE: usize = 5000;

/// Bytes of them, in the encoding of the log. 5000 requests of the largest default size would take 7.5 GB. When these
/// are used up, writes are refused in the same way; small ones nearly always fit.
pub(crate) const PROPOSAL_QUEUE_BYTES: usize = 256 * 1024 * 1024;

const _: () = assert!(COMMAND_BYTES_MAX <= PROPOSAL_QUEUE_BYTES);

/// Linearizable reads that wait for the leadership to be confirmed. When the queue is full, further reads
/// are refused with `too many requests`.
pub(crate) const READ_QUEUE: usize = 50_000;

/// Commands in one log entry, and their bytes. Further commands wait for the next entry.
pub(crate) const BATCH_COMMANDS_MAX: usize = 4096;
pub(crate) const BATCH_BYTES_MAX: usize = 512 * 1024;

/// Batches that were sent to the leader on a connection that broke, so that only the log can tell their
/// outcome. Further ones count as in flight until their time is over, and those behind them wait.
pub(crate) const BATCHES_UNSETTLED: usize = 16;

/// Members that a member which joins believes another one to have, until its own log says who they are. It
/// connects to each of them. A cluster has fewer.
pub(crate) const MEMBERS_INTRODUCED: usize = 64;

/// Tunnels from one member that another member uses at the same time: one for each connection that it
/// needs, and some that it has given up. When that many are used, no other is opened.
pub(crate) const TUNNELS_USED: usize = 8;
/// Bytes of a tunnel that are waiting in each direction. The sender waits when there are more.
pub(crate) const TUNNEL_BYTES: usize = 64 * 1024;
/// Bytes of a tunnel that are sent in one message, at most.
pub(crate) const TUNNEL_PIECE_BYTES: usize = 16 * 1024;
/// Connections that came through tunnels and are not served yet. The tunnels wait when there are more.
pub(crate) const TUNNELS_QUEUED: usize = 16;

const _: () = assert!(BATCH_COMMANDS_MAX <= PROPOSAL_QUEUE);
const _: () = assert!(BATCH_BYTES_MAX <= COMMAND_BYTES_MAX);

/// Maximum size in a log entry of a lease's id and remaining TTL, with their encoding. It keeps the
/// entries that a leader proposes itself no larger than a batch.
const LEASE_COMMAND_BYTES: usize = 48;

const _: () = assert!(LEASE_HANDOVER_LEASES * LEASE_COMMAND_BYTES <= BATCH_BYTES_MAX);
const _: () = assert!(LEASE_CHECKPOINT_LEASES * LEASE_COMMAND_BYTES <= BATCH_BYTES_MAX);
const _: () = assert!(LEASE_REVOKES_PER_ROUND * LEASE_COMMAND_BYTES <= BATCH_BYTES_MAX);

/// Bytes of one log entry: a batch of commands or a single larger command, and the batch's tag.
pub(crate) const ENTRY_BYTES_MAX: usize = COMMAND_BYTES_MAX + 16;

/// Bytes of the peer URLs of all members together, because they are sent and stored as one, and the bytes
/// that each URL takes in addition. A membership change that needs more is refused like a request that is
/// too large.
pub(crate) const MEMBERSHIP_BYTES_MAX: usize = 1024 * 1024;
pub(crate) const URL_BYTES: usize = 8;

/// Time between two checkpoints. It bounds the changes that are only in memory and in the log, and
/// the replay after a crash.
pub(crate) const CHECKPOINT_INTERVAL: Duration = Duration::from_millis(500);

/// Expired leases that are revoked in one round, and the pause after a full round, so that many leases
/// that expire together do not displace clients' writes from the log.
pub(crate) const LEASE_REVOKES_PER_ROUND: usize = 500;
pub(crate) const LEASE_ROUND_PAUSE: Duration = Duration::from_millis(500);

// Revokes keep up with the leases that expire after a change of leader.
const _: () = assert!(
    LEASE_REVOKES_PER_ROUND as u128 * 1000 >= LEASE_EXPIRIES_PER_SEC as u128 * LEASE_ROUND_PAUSE.as_millis()
);

/// Bytes of database pages that are kept in memory. Pages that are read often stay; others are read
/// from the file, which the kernel caches as well, so more of them did not make anything faster. Half of it may be
/// pages of a checkpoint that is being made.
pub(crate) const DATABASE_CACHE_BYTES: usize = 24 * 1024 * 1024;

/// Bytes that are read, sent or written at once when a whole database is: so few that a log on the same disk
/// hardly waits for them. A single record may be larger.
pub(crate) const STRETCH_BYTES: usize = 64 * 1024;

/// Bytes of such a database that are prefetched from the disk.
pub(crate) const PREFETCH_BYTES: u64 = 1024 * 1024;

const _: () = assert!(PREFETCH_BYTES >= STRETCH_BYTES as u64);

/// Memory for the pages of a database that is written as a whole. Half of it may be pages that are not in
/// the file yet, and one transaction with what is added to it last has to fit into that half.
pub(crate) const DRAFT_CACHE_BYTES: usize = 8 * 1024 * 1024;

/// Bytes of pages that wait to be written to the file of a database in their order. When there are more, they are written
/// at once.
pub(crate) const UNWRITTEN_BYTES: usize = if cfg!(test) { 16 * 1024 } else { 2 * 1024 * 1024 };

/// Bytes of neighbouring pages that are written with one call.
pub(crate) const PAGE_RUN_BYTES: usize = 256 * 1024;

/// Bytes that are added to such a database in one transaction. It is written at the end of the transaction, so a log on
/// the same disk waits for no more than this.
pub(crate) const DRAFT_TRANSACTION_BYTES: usize = 512 * 1024;

const _: () = assert!(
    DRAFT_CACHE_BYTES / 2
        > DRAFT_TRANSACTION_BYTES + INTAKE_STRETCH_BYTES + REQUEST_BYTES_MAX + 2 * STRETCH_BYTES
);

/// Approximate size of the network buffer that a command in memory keeps alive.
pub(crate) const COMMAND_BUFFER_BYTES: usize = 2 * 1024;

/// Maximum number of full log segments, 64 MiB each, that are kept for peers that are a little behind. A
/// peer that needs older entries is sent a snapshot.
pub(crate) const LOG_SEGMENTS_KEPT: usize = 2;

/// Space of the disk that is kept for checkpoints when the disk is full. Checkpoints of deletes and
/// compactions go on with it. While it is not whole, what grows is refused as without space.
pub(crate) const DATABASE_RESERVE_BYTES: u64 = 16 * 1024 * 1024;

/// How often a member looks for the space that it reserves ahead, while it does not have it. A member
/// whose disk was full accepts all writes again after this time.
pub(crate) const SPACE_INTERVAL: Duration = Duration::from_secs(1);

/// Log entries kept in memory once they are committed. Older ones are read back from the files.
pub(crate) const LOG_CACHE_BYTES: usize = 4 * 1024 * 1024;

/// Log entries in one message to a peer, and approximately their bytes. Further entries wait for the
/// next message; a single larger entry is still sent.
pub(crate) const APPEND_ENTRIES_MAX: u64 = 4096;
pub(crate) const APPEND_BYTES_MAX: usize = 1024 * 1024;

/// Messages to one peer that are not answered yet, and their bytes. Further entries stay in the log until
/// answers arrive; the message that reaches the bytes is still sent. The peer's openraft accepts as many
/// before it stops reading.
pub(crate) const APPENDS_IN_FLIGHT: usize = 64;
pub(crate) const APPENDS_IN_FLIGHT_BYTES: usize = 4 * 1024 * 1024;

const _: () = assert!(APPENDS_IN_FLIGHT_BYTES >= APPEND_BYTES_MAX);
// A full batch of commands is sent in one message.
const _: () = assert!(APPEND_BYTES_MAX >= BATCH_BYTES_MAX);
// A peer that keeps up is sent entries from memory.
const _: () = assert!(LOG_CACHE_BYTES >= APPENDS_IN_FLIGHT_BYTES);

/// Bytes of entries that are gathered into one frame of the log. The entry that reaches them is included.
pub(crate) const FRAME_BYTES: usize = 16 * 1024 * 1024;

/// Bytes of one message from a peer. Larger messages are refused. No member sends one, as the assertions
/// below show.
pub(crate) const PEER_MESSAGE_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Bytes of a message to a peer beside its payload: envelope, vote, positions, tags and lengths.
const PEER_ENVELOPE_BYTES: usize = 1024;
/// The same for each entry in the message.
const PEER_ENTRY_BYTES: usize = 64;

/// Every message to a peer fits: entries, a batch that is forwarded to the leader, a membership change as a
/// client asked for it, all members with their URLs, a piece of a snapshot. The other messages contain
/// nothing whose size a client decides.
const _: () = {
    let entries = PEER_ENVELOPE_BYTES + APPEND_ENTRIES_MAX as usize * PEER_ENTRY_BYTES;
    assert!(entries + APPEND_BYTES_MAX <= PEER_MESSAGE_BYTES_MAX);
    assert!(entries + ENTRY_BYTES_MAX <= PEER_MESSAGE_BYTES_MAX);
    assert!(PEER_ENVELOPE_BYTES + REQUEST_BYTES_LIMIT + REQUEST_OVERHEAD_BYTES <= PEER_MESSAGE_BYTES_MAX);
    // As much again for ids and for members that have no URL.
    assert!(PEER_ENVELOPE_BYTES + 2 * MEMBERSHIP_BYTES_MAX <= PEER_MESSAGE_BYTES_MAX);
    assert!(PEER_ENVELOPE_BYTES + SNAPSHOT_PIECE_BYTES <= PEER_MESSAGE_BYTES_MAX);
};

/// How far the term and the log index of a peer's message may be ahead of this member's own. A message
/// beyond that is refused: nothing honest can have come so far. Terms grow by one with each election; at
/// one every millisecond, a member that stands alone takes 34 years for so many. Entries grow by one with
/// each sync of a log; at a hundred thousand a second, a cluster takes 89 years for so many.
pub(crate) const TERMS_AHEAD_MAX: u64 = 1 << 40;
pub(crate) const INDICES_AHEAD_MAX: u64 = 1 << 48;

/// Highest term and log index that any message may have, however many messages approach it step by step.
/// Numbers beyond it are refused, and a log that holds one is not opened. A term or an index that was
/// accepted can always be counted on from.
pub(crate) const LOG_NUMBER_MAX: u64 = 1 << 62;

const _: () = assert!(LOG_NUMBER_MAX <= u64::MAX / 2 && INDICES_AHEAD_MAX < LOG_NUMBER_MAX);
const _: () = assert!(TERMS_AHEAD_MAX < LOG_NUMBER_MAX);

/// Minimum rate of the network to a peer and of the peer's disk together. The timeout of a large message is
/// longer by the time that the message takes at this rate.
pub(crate) const PEER_BYTES_PER_SEC_MIN: usize = 4 * 1024 * 1024;

/// Bytes of a part of a snapshot, which a receiver holds in memory until its last piece has arrived. A
/// transfer with a larger part is given up; no record and no cell is that large.
pub(crate) const SNAPSHOT_PART_BYTES_MAX: usize = 128 * 1024 * 1024;

const _: () = assert!(SNAPSHOT_PART_BYTES_MAX >= STRETCH_BYTES + COMMAND_BYTES_MAX + PEER_ENTRY_BYTES);

/// Bytes of a part of a snapshot in one message. A part with a single larger record or cell is sent in
/// several messages.
pub(crate) const SNAPSHOT_PIECE_BYTES: usize = 1024 * 1024;

/// Senders of refused peer requests that are remembered, so that each of them is logged only once in a
/// while. Further senders are not logged until some of these have been quiet, because the id of a sender is
/// what it claims, and invented ids could fill the log.
pub(crate) const REFUSED_PEERS: usize = 64;

/// Reasons why a peer does not answer that are logged until it does. A log says little more of a peer that is away for long.
pub(crate) const PEER_REASONS_TOLD: usize = 8;

/// Pieces of a snapshot that have arrived and are not in a file yet. When the queue is full, the sender
/// waits.
pub(crate) const SNAPSHOT_PIECES: usize = 4;

/// The rate at which a snapshot is sent to one peer: a gigabyte takes less than a minute, and most of the
/// disk, the network and the CPU remains for writes.
pub(crate) const SNAPSHOT_BYTES_PER_SEC: u64 = 24 * 1024 * 1024;

/// Accepted connections that wait for one reactor. When the queue is full, another reactor gets the next
/// connection. When all queues are full, the acceptor waits, and connections wait in the kernel's queue.
pub(crate) const ACCEPT_QUEUE: usize = 64;

/// Connections in the kernel's queue until they are accepted. When it is full, the kernel drops further
/// attempts to connect, and clients repeat them.
pub(crate) const LISTEN_BACKLOG: i32 = 1024;

/// TLS handshakes under way on all ports for clients, and as many on those for peers. Each may hold 64 KiB of what
/// was received. Beyond that number connections wait, and a handshake that is older than
/// [`HANDSHAKE_UNDISTURBED`] is given up for one that waits.
pub(crate) const HANDSHAKES: usize = 512;
/// How long a connection may take until its TLS handshake is complete, the wait for a place included. It is closed
/// then. etcd has the same bound.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a handshake keeps its place although others wait: several round trips around the world.
pub(crate) const HANDSHAKE_UNDISTURBED: Duration = Duration::from_secs(1);
/// How often a connection that waits for a place asks for one.
pub(crate) const HANDSHAKE_CROWD_INTERVAL: Duration = Duration::from_millis(100);
/// How long, and for how many bytes, a refused connection is read so that the reason arrives at the other side.
pub(crate) const REFUSED_DISCARD_TIMEOUT: Duration = Duration::from_secs(1);
pub(crate) const REFUSED_DISCARD_BYTES: usize = 64 * 1024;
/// Log lines about refused connections in a second, for each kind of port. Further ones are at the level debug.
pub(crate) const REFUSALS_LOGGED_PER_SEC: u32 = 50;
/// Lookups of the names in certificates of peers at the same time, each of which is a thread. Further ones wait, as
/// long as their handshake may take.
pub(crate) const CERTIFICATE_LOOKUPS: usize = 8;
/// Names of a certificate that are looked up. Further ones are as if they were not there.
pub(crate) const CERTIFICATE_NAMES: usize = 64;

/// The pause before a member tries again to publish its name and client URLs.
pub(crate) const PUBLISH_RETRY_PAUSE: Duration = Duration::from_millis(500);

/// The pause before a failed compaction is tried again, also if `--auto-compaction-retention` is shorter.
pub(crate) const COMPACTION_RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Reactors, each of which is a thread. A larger `--reactors` is refused.
pub(crate) const REACTORS_MAX: usize = 1024;

/// Minimum time without data on a connection before the server sends a ping. Lower values of
/// `--grpc-keepalive-interval` are raised to it, as in grpc-go.
pub(crate) const KEEPALIVE_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// The pause after a connection could not be accepted.
pub(crate) const ACCEPT_RETRY_PAUSE: Duration = Duration::from_millis(300);

/// Bytes of a value from which on it is stored once, in the log, and not in the database as well. Smaller ones share
/// pages of the database with others, and are read with fewer system calls.
pub(crate) const VALUE_APART_BYTES: usize = 2 * 1024;

/// Files of values that are open to be read. Beyond it, one is closed, and opened again when it is needed.
pub(crate) const VALUE_FILES_OPEN: usize = 16;

/// Bytes of a file that values are moved to. The next values begin another one.
pub(crate) const VALUE_FILE_BYTES: u32 = 64 * 1024 * 1024;

/// Records that are looked at, and bytes of values that are moved, in a slice of the disk thread. The last value of a slice
/// may go beyond, so that memory has one value more. The thread writes no checkpoint meanwhile.
pub(crate) const VALUE_MOVE_RECORDS: usize = 20_000;
pub(crate) const VALUE_MOVE_BYTES: usize = 1024 * 1024;

/// How often it is looked whether files of values have become useless, and between two slices, as a multiple of what the
/// last one took.
pub(crate) const VALUE_SWEEP_INTERVAL: Duration = Duration::from_secs(1);
pub(crate) const VALUE_MOVE_PAUSE_FACTOR: u32 = 3;

/// File descriptors that are not available to clients' connections; etcd reserves 150. They are for
/// files (logs, database, log segments, snapshots, a defragmentation: 40; values: 16), listeners and the threads' event
/// queues (20), connections to peers (26), and the two kinds of connections below. A member whose limit
/// leaves fewer does not start.
pub(crate) const DESCRIPTORS_RESERVED: u64 = 166;
/// File descriptors that each reactor needs.
pub(crate) const DESCRIPTORS_PER_REACTOR: u64 = 4;
/// Minimum number of connections to the peer ports. Each peer opens at most five: for single calls,
/// heartbeats, entries, a snapshot and its tunnel. When more are open, new ones wait.
pub(crate) const PEER_CONNECTIONS: usize = 48;
/// Minimum number of connections to the ports of `--listen-metrics-urls`. When more are open, new ones wait.
pub(crate) const METRICS_CONNECTIONS: usize = 16;
/// One in this many of the descriptors that are not reserved is for peers, and as many for metrics.
pub(crate) const CONNECTIONS_SHARE: usize = 8;

const _: () = assert!(
    40 + VALUE_FILES_OPEN + 20 + 26 + PEER_CONNECTIONS + METRICS_CONNECTIONS <= DESCRIPTORS_RESERVED as usize
);

/// Concurrent clean-ups after calls that were cancelled. Each clean-up is a proposal that waits for a
/// leader. Beyond this number, the keys that a call left behind are deleted when its lease ends.
pub(crate) const CLEANUPS_MAX: usize = 10_000;

/// How long a stopping member waits for clean-ups after its connections are closed.
pub(crate) const CLEANUP_TIMEOUT: Duration = Duration::from_millis(500);

/// How long connections may take to finish the requests in progress when the server stops.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_millis(300);

/// Records that the scrubber reads at once, and the time between two such reads: a million records in
/// 17 minutes, at a negligible load.
pub(crate) const SCRUB_RECORDS: usize = 1000;
pub(crate) const SCRUB_INTERVAL: Duration = Duration::from_secs(1);

/// Damaged places that are read again, and how often, to raise an alarm again that was disarmed although
/// the damage still exists. The first places are enough for that. Between these readings writes are
/// accepted.
pub(crate) const DAMAGE_KNOWN: usize = 64;
pub(crate) const DAMAGE_INTERVAL: Duration = Duration::from_secs(60);

/// Maximum time between two requests of a single client that writes without pause.
pub(crate) const LONE_WRITER_BEAT: Duration = Duration::from_micros(400);
/// Requests at such intervals after which the core stays awake for the next one.
pub(crate) const LONE_WRITER_BEATS: u32 = 8;

/// Hashes of the database or of its history that wait, while one is computed on one thread. Callers that
/// ask for the same hash share it; further hashes are refused with `too many requests`. The computation
/// ends early if no caller waits for it any more.
pub(crate) const HASHES_WAITING: usize = 16;

/// How often a member looks whether a backup is due, by the names in the directory of the backups.
pub(crate) const BACKUP_CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// Pause after a backup that failed.
pub(crate) const BACKUP_RETRY_PAUSE: Duration = Duration::from_secs(60);

/// The shortest time between two backups.
pub(crate) const BACKUP_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// States of the database that are pinned while clients are sent them. The space that writes free in the database is
/// not used again while an earlier state is pinned. One is laid out at a time. Clients that ask meanwhile share the next
/// one, or the last one if nothing was written since. If all are being sent, a further client is refused, unless
/// nothing of one was read for [`SNAPSHOT_IDLE_MAX`]: then sending that one is ended with an error.
pub(crate) const SNAPSHOT_IMAGES_MAX: usize = 3;
pub(crate) const SNAPSHOT_IDLE_MAX: Duration = Duration::from_secs(60);

/// Bytes of such an image in one message, as in etcd. More are read when the client has taken those before.
pub(crate) const IMAGE_PIECE_BYTES: usize = 32 * 1024;

/// Bytes of such an image that are made at once, and wait in memory for each client.
pub(crate) const IMAGE_READ_BYTES: usize = 256 * 1024;

/// Clients for whom such images are read at the same time, each on a thread of its own. Further clients wait.
pub(crate) const SNAPSHOT_READS_AT_ONCE: usize = 4;

/// Defragmentations that wait while one runs. All callers that ask meanwhile share the next one, so a second
/// one never waits.
pub(crate) const DEFRAGMENTATIONS_WAITING: usize = 1;

/// How long a defragmentation copies before the disk thread checks whether a checkpoint is due.
pub(crate) const DEFRAGMENTATION_SLICE: Duration = Duration::from_millis(50);

const _: () = assert!(DEFRAGMENTATION_SLICE.as_millis() < CHECKPOINT_INTERVAL.as_millis());

/// Stretches that it copies in that time at most. No disk is so fast.
pub(crate) const DEFRAGMENTATION_STRETCHES: usize = 8 * 1024;

/// Stretches that are read ahead of the copy, in batches: two wait while one is read and one is copied. A batch ends
/// earlier when it has as many bytes as so many stretches, for one with a single large record has more.
pub(crate) const DEFRAGMENTATION_BATCH_STRETCHES: usize = 4;

/// A defragmentation copies in passes, each of which copies the changes during the pass before it. Once a
/// pass has copied no more than these bytes, or after the last of these passes, commits are stopped and
/// the rest is copied. Changes during that time wait in memory, and then in the log.
pub(crate) const DEFRAGMENTATION_REST_BYTES: usize = 4 * 1024 * 1024;

// There is room in memory for the changes while commits are stopped.
const _: () = assert!(DEFRAGMENTATION_REST_BYTES < UNSAVED_BYTES / 2);

pub(crate) const DEFRAGMENTATION_PASSES_MAX: u32 = 10;

/// Bytes and components of a key of the version 2 API. Directories on the way to a key are made with it, so
/// these bound what one short request can make. Longer keys are refused with code 210. The bounds may be
/// raised but never lowered: keys that were accepted are in the log.
pub(crate) const V2_KEY_BYTES_MAX: usize = 4096;
pub(crate) const V2_DEPTH_MAX: usize = 128;

/// Events of the version 2 API that watchers can ask for afterwards, as many as in etcd, and the bytes of all
/// of them in memory. A watcher that asks for an older one gets code 401. Members must agree on both.
pub(crate) const V2_HISTORY_EVENTS_MAX: usize = 1000;
pub(crate) const V2_HISTORY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Watchers of the version 2 API on this member. Further ones are refused with code 300.
pub(crate) const V2_WATCHERS_MAX: usize = 20_000;

/// Events that wait for one watcher of the version 2 API, as many as in etcd. When another one comes, the
/// answer of a watcher that does not read ends.
pub(crate) const V2_WATCHER_QUEUE: usize = 100;

/// Nodes of the version 2 API that expire with one entry of the log, and the time after which the leader looks
/// again whether one has expired. Further ones follow in the next entry.
pub(crate) const V2_EXPIRATIONS_PER_ROUND: u32 = 1000;
pub(crate) const V2_EXPIRY_INTERVAL: Duration = Duration::from_millis(500);

/// Bytes of a body that is sent to the version 2 API, as in etcd: a larger one is refused. All bodies that are
/// being received or processed together take no more than the second number; a request for which there is
/// no room is refused with code 300.
pub(crate) const V2_FORM_BYTES_MAX: usize = 10 * 1024 * 1024;
pub(crate) const V2_FORMS_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Bytes of a listing of the version 2 API that are made at once. The next ones are made when these were sent.
pub(crate) const V2_LISTING_PIECE_BYTES: usize = 64 * 1024;

/// Bytes of a page of a bbolt file with what it has in the pages behind it. A longer one is refused as damage: no
/// request that etcd takes makes one, and a page is read into memory as a whole.
pub(crate) const BBOLT_PAGE_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Levels of a tree in a bbolt file. A deeper tree is refused as damage: two pages below each branch make a tree of
/// this depth larger than any disk.
pub(crate) const BBOLT_DEPTH_MAX: usize = 48;

/// Bytes of a record in the log of an etcd that is imported. A longer one is refused as damage, because a record is read
/// into memory as a whole.
pub(crate) const ETCD_WAL_RECORD_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// Bytes of records that are added to a new database at once while a database of etcd is read.
pub(crate) const INTAKE_STRETCH_BYTES: usize = 1024 * 1024;

const _: () = assert!(INTAKE_STRETCH_BYTES + REQUEST_BYTES_MAX <= DRAFT_CACHE_BYTES / 2);

/// How much `--bump-revision` may raise the revision of a restored state. Larger values are refused; counting up never
/// reaches the end of the numbers from there.
pub(crate) const REVISION_BUMP_MAX: i64 = 1 << 60;
/// How long another member may take to say how it is, and how often the members are asked for it at most, however many
/// consoles are open. A member that takes longer is shown as silent.
pub(crate) const MEMBER_STATUS_TIMEOUT: Duration = Duration::from_secs(1);
pub(crate) const MEMBER_STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// The client of `retcd ctl`: bytes of a request, unless `--max-request-bytes` says otherwise. A larger request is
/// not sent. The bound is that of etcd's client, and more than a server accepts by default.
pub(crate) const CTL_REQUEST_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Bytes of an answer, unless `--max-recv-bytes` says otherwise. A command fails if an answer is larger. It is the
/// largest number that etcd's client takes: whoever asks for everything gets it.
pub(crate) const CTL_ANSWER_BYTES_MAX: usize = i32::MAX as usize;

/// The shortest interval between two probes of a silent connection. `--keepalive-time` is raised to it, as gRPC
/// for Go does, because servers close connections that are probed more often.
pub(crate) const CTL_KEEPALIVE_MIN: Duration = Duration::from_secs(10);

/// How often a call is made at most, and the pause after a majority of the endpoints has been asked. The last
/// failure is then reported.
pub(crate) const CTL_ATTEMPTS_MAX: usize = 100;
pub(crate) const CTL_RETRY_PAUSE: Duration = Duration::from_millis(25);

/// How long an endpoint may take to accept a connection, and its head start before the next one is dialled as
/// well. An endpoint that takes longer counts as one that cannot be reached.
pub(crate) const CTL_DIAL_TIMEOUT: Duration = Duration::from_secs(20);
pub(crate) const CTL_DIAL_HEAD_START: Duration = Duration::from_millis(250);

/// The pause before all endpoints are dialled again, which doubles up to the second bound. A command ends when its
/// time is over.
pub(crate) const CTL_REDIAL_MIN: Duration = Duration::from_millis(50);
pub(crate) const CTL_REDIAL_MAX: Duration = Duration::from_secs(1);

/// A server measures the time of a call itself, and may say a little earlier than the client that it is over.
pub(crate) const CTL_DEADLINE_SLACK: Duration = Duration::from_millis(500);

/// The pause before a stream that broke is opened again.
pub(crate) const CTL_STREAM_PAUSE: Duration = Duration::from_millis(100);

/// How long the first renewal of a lease may take, because it is not known yet how long the lease lives. It counts as
/// ended then.
pub(crate) const CTL_FIRST_KEEP_ALIVE: Duration = Duration::from_secs(3);

/// Keys of the first page that `make-mirror` and `follow` read, and of a later one; and about how many bytes a later
/// one has, if its keys are like those before. A page is longer when its values are larger than theirs.
pub(crate) const CTL_FIRST_PAGE_KEYS: i64 = 16;
pub(crate) const CTL_PAGE_KEYS: i64 = 1000;
pub(crate) const CTL_PAGE_BYTES: usize = 4 * 1024 * 1024;

/// Requests in a transaction of `retcd follow`, and about their bytes. Both are less than a server takes by default. A
/// revision that is larger is written in several transactions.
pub(crate) const CTL_FOLLOW_TXN_OPS: usize = 128;
pub(crate) const CTL_FOLLOW_TXN_BYTES: usize = 1024 * 1024;

/// The pause before `retcd follow` makes a call again that may succeed later.
pub(crate) const CTL_FOLLOW_PAUSE: Duration = Duration::from_millis(500);

/// Bytes of a server's metrics. `check datascale` fails if they are more.
pub(crate) const CTL_METRICS_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Bytes of lines that wait for the thread that writes the log to files and to the journal. Further lines are dropped and
/// counted, and the log says how many: a slow disk holds up nobody.
pub(crate) const LOG_QUEUE_BYTES: usize = 8 * 1024 * 1024;

/// How long the end of the process waits for lines that are not written yet. They are lost then.
pub(crate) const LOG_FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Members of a cluster whose members find each other through a discovery service. A larger size is refused, and further
/// members are left out: a cluster of more votes slowly.
pub(crate) const DISCOVERY_MEMBERS_MAX: usize = 100;

/// The pause before a discovery service that did not answer is asked again, which doubles up to the second bound. A member
/// asks until somebody stops it.
pub(crate) const DISCOVERY_BACKOFF_MIN: Duration = Duration::from_millis(500);
pub(crate) const DISCOVERY_BACKOFF_MAX: Duration = Duration::from_secs(60);

/// Traces: spans that wait for the exporter. Further ones are dropped and counted. They take a few megabytes.
pub(crate) const TRACE_SPANS_QUEUED: usize = 8192;

/// Entries of the log whose stages are remembered for the calls that wait for them. A call that finds its entry forgotten has
/// no stages in its trace.
pub(crate) const TRACE_ENTRIES_KEPT: usize = 1024;

/// Stages of one call. A call that writes more often has only the first.
pub(crate) const TRACE_STAGES_MAX: usize = 64;

/// How often spans are sent, how many at once, and how long a collector may take. Spans that it does not take are dropped and
/// counted.
pub(crate) const TRACE_EXPORT_INTERVAL: Duration = Duration::from_millis(500);
pub(crate) const TRACE_BATCH_SPANS: usize = 512;
pub(crate) const TRACE_EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the end of the process waits for the collector. What it has not taken by then is lost.
pub(crate) const TRACE_FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a profile of the CPU, or of what changes in the heap, may take. A request for a longer one is refused. One of
/// each is made at a time.
pub(crate) const PROFILE_TIME_MAX: Duration = Duration::from_secs(600);
