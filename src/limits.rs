//! Every bound, its reason, and what happens when it is reached.

use std::time::Duration;

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

/// Memory for records that are already in the database, so that reads of recent revisions do not go
/// to the disk. When it is full, the oldest records are dropped from memory.
pub(crate) const RECENT_CACHE_BYTES: usize = 32 * 1024 * 1024;

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

/// Records that one checkpoint removes, so that a large compaction does not delay the durability of
/// concurrent writes. Further removals wait for the next checkpoint.
pub(crate) const CHECKPOINT_REMOVALS_MAX: usize = 50_000;

/// Bytes in one catch-up batch of a watcher. It ends with the revision that reaches them.
pub(crate) const HISTORY_BYTES: usize = 1024 * 1024;

/// Distinct revisions in one catch-up batch of a watcher.
pub(crate) const WATCH_BATCH_REVS: usize = 1000;

/// Answers waiting for one watch stream. When full, its watchers fall back to history and
/// read on from where they were; nothing is dropped.
pub(crate) const WATCH_QUEUE: usize = 128;

/// Bytes of events waiting for one watch stream. The same happens when they are reached; a
/// single larger revision still passes.
pub(crate) const WATCH_QUEUE_BYTES: usize = 1024 * 1024;

/// Versions that clients may give themselves and be counted under. Clients of further ones are
/// counted as unknown.
pub(crate) const CLIENT_VERSIONS_MAX: usize = 32;

/// Bytes of a password: bcrypt takes no more in. Longer ones are refused.
pub(crate) const PASSWORD_BYTES_MAX: usize = 72;

/// Passwords that one reactor hashes at the same time. Each hash takes 100 ms of a core; further
/// requests wait.
pub(crate) const PASSWORDS_HASHED_AT_ONCE: usize = 1;

/// Proposals waiting for the core. When full, writes are refused with `too many requests`.
pub(crate) const PROPOSAL_QUEUE: usize = 5000;

/// Linearizable reads waiting for a round. When full, further ones are refused with `too many
/// requests`.
pub(crate) const READ_QUEUE: usize = 50_000;

/// Commands in one log entry, and their bytes. Further commands wait for the next entry.
pub(crate) const BATCH_COMMANDS_MAX: usize = 4096;
pub(crate) const BATCH_BYTES_MAX: usize = 512 * 1024;

const _: () = assert!(BATCH_COMMANDS_MAX <= PROPOSAL_QUEUE);
const _: () = assert!(BATCH_BYTES_MAX <= COMMAND_BYTES_MAX);

/// Maximum size in a log entry of a lease's id and remaining TTL, with their encoding. It keeps the
/// entries that a leader proposes itself no larger than a batch.
const LEASE_COMMAND_BYTES: usize = 48;

const _: () = assert!(LEASE_HANDOVER_LEASES * LEASE_COMMAND_BYTES <= BATCH_BYTES_MAX);
const _: () = assert!(LEASE_CHECKPOINT_LEASES * LEASE_COMMAND_BYTES <= BATCH_BYTES_MAX);
const _: () = assert!(LEASE_REVOKES_PER_ROUND * LEASE_COMMAND_BYTES <= BATCH_BYTES_MAX);

/// Bytes of one log entry: a batch of commands or a single larger one, and whose it is.
pub(crate) const ENTRY_BYTES_MAX: usize = COMMAND_BYTES_MAX + 16;

/// Bytes of the peer URLs of all members together, which travel and are stored as one, with what
/// each takes beside itself. A change that needs more is refused like a request that is too large.
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
/// from the file, which the kernel caches as well.
pub(crate) const DATABASE_CACHE_BYTES: usize = 64 * 1024 * 1024;

/// What of a database is read, sent or written in one go when all of it is: so little that a log on
/// the same disk hardly waits for it. A single larger record still passes.
pub(crate) const STRETCH_BYTES: usize = 64 * 1024;

/// How far ahead of where it is read such a database is fetched from the disk.
pub(crate) const PREFETCH_BYTES: u64 = 1024 * 1024;

const _: () = assert!(PREFETCH_BYTES >= STRETCH_BYTES as u64);

/// Pages kept in memory of a database that is written whole. Half of it may be what is not in the
/// file yet, which a stretch has to fit into.
pub(crate) const DRAFT_CACHE_BYTES: usize = 8 * 1024 * 1024;

const _: () = assert!(DRAFT_CACHE_BYTES / 2 > REQUEST_BYTES_MAX + 2 * STRETCH_BYTES);

/// The network buffer that a command in memory keeps alive, roughly.
pub(crate) const COMMAND_BUFFER_BYTES: usize = 2 * 1024;

/// Full segments of the log that are kept for peers that are a little behind, at most; 64 MiB each.
pub(crate) const LOG_SEGMENTS_KEPT: usize = 2;

/// Log entries kept in memory once they are committed. Older ones are read back from the files.
pub(crate) const LOG_CACHE_BYTES: usize = 4 * 1024 * 1024;

/// Log entries in one message to a peer, and approximately their bytes. Further entries wait for the
/// next message; a single larger entry is still sent.
pub(crate) const APPEND_ENTRIES_MAX: u64 = 4096;
pub(crate) const APPEND_BYTES_MAX: usize = 1024 * 1024;

/// What one peer may owe answers for: messages, and their bytes. What is over stays in the log
/// until answers have come; the message that reaches the bytes still goes. openraft takes in as
/// many on the other side before it stops reading.
pub(crate) const APPENDS_IN_FLIGHT: usize = 64;
pub(crate) const APPENDS_IN_FLIGHT_BYTES: usize = 4 * 1024 * 1024;

const _: () = assert!(APPENDS_IN_FLIGHT_BYTES >= APPEND_BYTES_MAX);
// A full batch of commands is sent in one message.
const _: () = assert!(APPEND_BYTES_MAX >= BATCH_BYTES_MAX);
// A peer that keeps up is sent entries from memory.
const _: () = assert!(LOG_CACHE_BYTES >= APPENDS_IN_FLIGHT_BYTES);

/// Bytes that are gathered into one frame of the log. The entry that reaches them is still in it.
pub(crate) const FRAME_BYTES: usize = 16 * 1024 * 1024;

/// Bytes of one message from a peer. Larger ones are refused, and none is ever sent: see the
/// assertions below.
pub(crate) const PEER_MESSAGE_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Bytes of a message to a peer beside its payload: envelope, vote, positions, tags and lengths.
const PEER_ENVELOPE_BYTES: usize = 1024;
/// The same for each entry that it carries.
const PEER_ENTRY_BYTES: usize = 64;

/// Everything that a peer is sent fits: entries, a batch that is taken to the leader, a change of the
/// members as a client asked for it, all members with their URLs, a piece of a snapshot. Other
/// messages have nothing in them whose size a client decides.
const _: () = {
    let entries = PEER_ENVELOPE_BYTES + APPEND_ENTRIES_MAX as usize * PEER_ENTRY_BYTES;
    assert!(entries + APPEND_BYTES_MAX <= PEER_MESSAGE_BYTES_MAX);
    assert!(entries + ENTRY_BYTES_MAX <= PEER_MESSAGE_BYTES_MAX);
    assert!(PEER_ENVELOPE_BYTES + REQUEST_BYTES_LIMIT + REQUEST_OVERHEAD_BYTES <= PEER_MESSAGE_BYTES_MAX);
    // As much again for ids and for members that have no URL.
    assert!(PEER_ENVELOPE_BYTES + 2 * MEMBERSHIP_BYTES_MAX <= PEER_MESSAGE_BYTES_MAX);
    assert!(PEER_ENVELOPE_BYTES + SNAPSHOT_PIECE_BYTES <= PEER_MESSAGE_BYTES_MAX);
};

/// How slow the way to a peer and its disk may be together. A large message may take as long as this
/// makes it beyond the time that any message has.
pub(crate) const PEER_BYTES_PER_SEC_MIN: usize = 4 * 1024 * 1024;

/// Bytes of a part of a snapshot in one piece. A part that is larger, for it holds a single larger
/// record or cell, travels in several.
pub(crate) const SNAPSHOT_PIECE_BYTES: usize = 1024 * 1024;

/// Senders of refused peer requests that are remembered, so that each is told of once in a while. Of
/// more nothing is told until some of these are quiet: who they are is what they say, and a log can
/// be filled with that.
pub(crate) const REFUSED_PEERS: usize = 64;

/// Pieces of a snapshot that have arrived and are not in a file yet. When full, the sender waits.
pub(crate) const SNAPSHOT_PIECES: usize = 4;

/// How fast a snapshot is sent to one peer: a gigabyte in less than a minute, and most of the disk,
/// the network and a core left for those who write meanwhile.
pub(crate) const SNAPSHOT_BYTES_PER_SEC: u64 = 24 * 1024 * 1024;

/// Connections on their way from the acceptor to one reactor. When it is full, another reactor
/// gets the next connection; when all are, the acceptor waits, and with it the kernel's own queue
/// of connections fills.
pub(crate) const ACCEPT_QUEUE: usize = 64;

/// Connections that the kernel keeps until they are accepted. Beyond it clients are told to try
/// again.
pub(crate) const LISTEN_BACKLOG: i32 = 1024;

/// The pause before a member tries again to tell the cluster its name and client URLs.
pub(crate) const PUBLISH_RETRY_PAUSE: Duration = Duration::from_millis(500);

/// The pause before a compaction that failed is tried again, however short `--auto-compaction-retention` is.
pub(crate) const COMPACTION_RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Reactors: each is a thread. More are refused.
pub(crate) const REACTORS_MAX: usize = 1024;

/// How long a connection is silent at least before its client is asked whether it is there. Lower
/// values of `--grpc-keepalive-interval` are raised to it, as gRPC for Go does.
pub(crate) const KEEPALIVE_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// The pause after a connection could not be accepted.
pub(crate) const ACCEPT_RETRY_PAUSE: Duration = Duration::from_millis(300);

/// File descriptors that are not available to clients' connections, as many as etcd reserves. They
/// are for files (logs, database, log segments, snapshots, a defragmentation: 40), listeners
/// and the threads' event queues (20), connections made to peers (26), and the two below. A member
/// that is not left that many does not start.
pub(crate) const DESCRIPTORS_RESERVED: u64 = 150;
/// What each reactor needs for itself.
pub(crate) const DESCRIPTORS_PER_REACTOR: u64 = 4;
/// Connections to the peer port, at least. Each peer makes four at most. When more are open, new
/// ones wait.
pub(crate) const PEER_CONNECTIONS: usize = 48;
/// Connections to the ports of --listen-metrics-urls, at least. When more are open, new ones wait.
pub(crate) const METRICS_CONNECTIONS: usize = 16;
/// Of the descriptors that are not reserved, peers and metrics get one in so many each.
pub(crate) const CONNECTIONS_SHARE: usize = 8;

const _: () = assert!(40 + 20 + 26 + PEER_CONNECTIONS + METRICS_CONNECTIONS <= DESCRIPTORS_RESERVED as usize);

/// How long a connection to the peer port may be silent before its first byte. It is closed then:
/// peers speak at once, and the places are few.
pub(crate) const PEER_FIRST_BYTES: Duration = Duration::from_secs(10);

/// Concurrent clean-ups after calls that were cancelled. Each clean-up is a proposal that waits for a
/// leader. Beyond this number, the keys that a call left behind are deleted when its lease ends.
pub(crate) const CLEANUPS_MAX: usize = 10_000;

/// How long a member that stops waits for clean-ups, once its connections are closed.
pub(crate) const CLEANUP_TIMEOUT: Duration = Duration::from_millis(500);

/// How long connections may take to finish what they are answering when the server stops.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_millis(300);

/// Records that the scrubber reads at once, and the time between two such reads: a million records in
/// 17 minutes, at a negligible load.
pub(crate) const SCRUB_RECORDS: usize = 1000;
pub(crate) const SCRUB_INTERVAL: Duration = Duration::from_secs(1);

/// Places with damage that are looked at again, and how often. The first ones are enough to know
/// whether a disarmed alarm has to come back; until it does, whoever disarmed it can write.
pub(crate) const DAMAGE_KNOWN: usize = 64;
pub(crate) const DAMAGE_INTERVAL: Duration = Duration::from_secs(60);

/// The next request of a single client that writes without pause comes within this time.
pub(crate) const LONE_WRITER_BEAT: Duration = Duration::from_micros(400);
/// Requests in that rhythm before the core stays awake for the next.
pub(crate) const LONE_WRITER_BEATS: u32 = 8;

/// Hashes of the database or of its history that wait for the one that is made. Who asks for what
/// waits already, waits along; further ones are refused with `too many requests`. One is made at a
/// time, on one thread, and ends early if all who wait for it have gone.
pub(crate) const HASHES_WAITING: usize = 16;

/// Images of the database that wait to be made, or are being sent to clients: each is a copy of the
/// whole database on the disk. One is made at a time, all who come meanwhile share the next, and
/// where nothing was written since the last they share that. If all are being sent, another is
/// refused, unless one of them was not read for [`SNAPSHOT_IDLE_MAX`]: that one ends, and its
/// client is told so.
pub(crate) const SNAPSHOT_IMAGES_MAX: usize = 3;
pub(crate) const SNAPSHOT_IDLE_MAX: Duration = Duration::from_secs(60);

/// Pieces of such images that are read at the same time, each on a thread for a moment. Further
/// clients wait.
pub(crate) const SNAPSHOT_READS_AT_ONCE: usize = 4;

/// Defragmentations that wait for the one that is under way. All who come meanwhile wait for the
/// next one together, so there is never a second.
pub(crate) const DEFRAGMENTATIONS_WAITING: usize = 1;

/// How long a defragmentation copies before the disk thread checks whether a checkpoint is due.
pub(crate) const DEFRAGMENTATION_SLICE: Duration = Duration::from_millis(50);

const _: () = assert!(DEFRAGMENTATION_SLICE.as_millis() < CHECKPOINT_INTERVAL.as_millis());

/// A defragmentation stops commits for its end once a pass copied no more than this of what was
/// written during the pass before it. If more is written than it can copy, it does so after the
/// last of these passes anyway; what is written then waits in memory, and then in the log.
pub(crate) const DEFRAGMENTATION_REST_BYTES: usize = 4 * 1024 * 1024;

// What is written while the end of a defragmentation stops commits has room in memory.
const _: () = assert!(DEFRAGMENTATION_REST_BYTES < UNSAVED_BYTES / 2);

pub(crate) const DEFRAGMENTATION_PASSES_MAX: u32 = 10;
