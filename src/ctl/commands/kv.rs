//! `get`, `put` and `del`.

use std::{
    io::{self, Read},
    time::Duration,
};

use futures_util::{FutureExt, future::LocalBoxFuture};
use tokio::time;

use crate::{
    cli::{
        Command, Exit, Failure, Flag, Format, Group, Invocation, Values,
        go::{self, quote},
        output::notice,
    },
    ctl::{
        client::{Client, ClientError, DELETE_RANGE, Deadline, PUT, RANGE, RANGE_STREAM},
        printer::Shown,
        ranges::range,
        settings::is_serializable,
    },
    pb::etcdserverpb::{
        DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse,
        range_request::{SortOrder, SortTarget},
    },
};

pub(in crate::ctl) const GET: Command =
    Command::new("get", "[options] <key> [range_end]", "Reads a key or a range of keys")
        .of(Group::KeyValue)
        .flags(&[
            Flag::text(
                "consistency",
                "l: as new as the last write (linearizable); s: what the member has (serializable)",
            )
            .or("l")
            .one_of(&["l", "s"]),
            Flag::text("order", "the order of the keys: ASCEND or DESCEND").one_of(&["ASCEND", "DESCEND"]),
            Flag::text("sort-by", "what they are ordered by: CREATE, KEY, MODIFY, VALUE or VERSION")
                .one_of(&["CREATE", "KEY", "MODIFY", "VALUE", "VERSION"]),
            Flag::int("limit", "the largest number of keys"),
            Flag::switch("prefix", "all keys with this prefix"),
            Flag::switch("from-key", "all keys from this one on, in the order of their bytes"),
            Flag::int("rev", "as it was at this revision"),
            Flag::switch("keys-only", "without the values"),
            Flag::switch("count-only", "only the number of keys"),
            Flag::switch("print-value-only", "only the values, in the format \"simple\""),
            Flag::int("min-create-rev", "only keys created at this revision or later"),
            Flag::int("max-create-rev", "only keys created at this revision or earlier"),
            Flag::int("min-mod-rev", "only keys changed at this revision or later"),
            Flag::int("max-mod-rev", "only keys changed at this revision or earlier"),
            Flag::switch("stream", "ask for the answer in pieces (RangeStream)"),
        ])
        .runs(get);

pub(in crate::ctl) const PUT_COMMAND: Command =
    Command::new("put", "[options] <key> <value> (<value> can also be given from stdin)", "Writes a key")
        .long(
            "Writes a key.\n\nA <value> that begins with '-' would be read as a flag; '--' ends the flags:\n\n  put <key> -- <value>\n  \
             put -- <key> <value>\n\nWithout <value>, and without '--ignore-value', the value is read from standard input:\n\n  \
             cat file | put <key>\n",
        )
        .of(Group::KeyValue)
        .flags(&[
            Flag::text("lease", "the lease to attach to the key, in hexadecimal").or("0"),
            Flag::switch("prev-kv", "show the key as it was before"),
            Flag::switch("ignore-value", "keep the value"),
            Flag::switch("ignore-lease", "keep the lease"),
        ])
        .runs(put);

pub(in crate::ctl) const DEL: Command =
    Command::new("del", "[options] <key> [range_end]", "Removes a key or the keys in [key, range_end)")
        .of(Group::KeyValue)
        .flags(&[
            Flag::switch("prefix", "all keys with this prefix"),
            Flag::switch("prev-kv", "show the keys as they were before"),
            Flag::switch("from-key", "all keys from this one on, in the order of their bytes"),
            Flag::switch("range", "mean the range: do not wait before it is removed"),
        ])
        .runs(del);

fn get<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        let request = get_request(&call.args, &call.values)?;
        let (mut session, client) = call.connect().await?;
        let deadline = session.deadline();
        let answer = match session.values.switch("stream") {
            true => in_pieces(&client, &request, deadline).await,
            false => client.call(&RANGE, &request, deadline).await,
        };
        let answer = answer?;
        if request.count_only && session.format != Format::Fields {
            return Err(Failure::bad_args("--count-only is only for `--write-out=fields`"));
        }
        if session.values.switch("print-value-only") {
            if session.format != Format::Simple {
                return Err(Failure::bad_args("print-value-only is only for `--write-out=simple`"));
            }
            session.style.value_only = true;
        }
        session.print(&Shown::Get(&answer))
    }
    .boxed_local()
}

/// All pieces of a streamed answer as one answer.
async fn in_pieces(
    client: &Client,
    request: &RangeRequest,
    deadline: Deadline,
) -> Result<RangeResponse, ClientError> {
    let mut pieces = client.stream(&RANGE_STREAM, request, deadline).await?;
    let mut whole = RangeResponse::default();
    while let Some(piece) = pieces.message().await.map_err(ClientError::of)? {
        let RangeResponse { header, kvs, more, count } = piece.range_response.unwrap_or_default();
        whole.header = header.or(whole.header);
        whole.kvs.extend(kvs);
        whole.more |= more;
        whole.count = whole.count.max(count);
    }
    Ok(whole)
}

/// What `get` asks for, also as a line of a transaction.
pub(in crate::ctl) fn get_request(args: &[Vec<u8>], values: &Values) -> Result<RangeRequest, Failure> {
    if args.is_empty() {
        return Err(Failure::bad_args(
            "get command needs one argument as key and an optional argument as range_end",
        ));
    }
    exclusive(values, "prefix", "from-key")?;
    exclusive(values, "keys-only", "count-only")?;
    let serializable = is_serializable(values.text("consistency"))?;
    let (key, range_end) = range(args, values.switch("prefix"), values.switch("from-key"))?;
    let sort_order = sort_order(values.text("order"))?;
    let sort_target = sort_target(values.text("sort-by"))?;
    let positive = |name: &str| values.int(name).max(0);
    let (min_create, max_create) = (positive("min-create-rev"), positive("max-create-rev"));
    let (min_mod, max_mod) = (positive("min-mod-rev"), positive("max-mod-rev"));
    bounds("getMinCreateRev", min_create, "getMaxCreateRev", max_create)?;
    bounds("getMinModRev", min_mod, "getMaxModRev", max_mod)?;
    Ok(RangeRequest {
        key: key.into(),
        range_end: range_end.into(),
        limit: values.int("limit"),
        revision: positive("rev"),
        sort_order: sort_order.into(),
        sort_target: sort_target.into(),
        serializable,
        keys_only: values.switch("keys-only"),
        count_only: values.switch("count-only"),
        min_mod_revision: min_mod,
        max_mod_revision: max_mod,
        min_create_revision: min_create,
        max_create_revision: max_create,
    })
}

fn exclusive(values: &Values, one: &str, other: &str) -> Result<(), Failure> {
    if values.switch(one) && values.switch(other) {
        return Err(Failure::bad_args(format!(
            "`--{one}` and `--{other}` cannot be set at the same time, choose one"
        )));
    }
    Ok(())
}

fn bounds(min_name: &str, min: i64, max_name: &str, max: i64) -> Result<(), Failure> {
    if max > 0 && min > max {
        return Err(Exit::BadFeature.because(format_args!("{min_name}(={min}) > {max_name}(={max})")));
    }
    Ok(())
}

fn sort_order(text: &str) -> Result<SortOrder, Failure> {
    match &*text.to_uppercase() {
        "" => Ok(SortOrder::None),
        "ASCEND" => Ok(SortOrder::Ascend),
        "DESCEND" => Ok(SortOrder::Descend),
        _ => Err(Exit::BadFeature.because(format_args!("bad sort order {text}"))),
    }
}

fn sort_target(text: &str) -> Result<SortTarget, Failure> {
    match &*text.to_uppercase() {
        "" | "KEY" => Ok(SortTarget::Key),
        "CREATE" => Ok(SortTarget::Create),
        "MODIFY" => Ok(SortTarget::Mod),
        "VALUE" => Ok(SortTarget::Value),
        "VERSION" => Ok(SortTarget::Version),
        _ => Err(Exit::BadFeature.because(format_args!("bad sort target {text}"))),
    }
}

fn put<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        let request = put_request(&call.args, &call.values, Some(&mut io::stdin()))?;
        let (session, client) = call.connect().await?;
        let answer = client.call(&PUT, &request, session.deadline()).await;
        session.print(&Shown::Put(&answer?))
    }
    .boxed_local()
}

/// What `put` asks for, also as a line of a transaction. A value that is no argument is all that can be read from
/// `stdin`; the lines behind one of a transaction are no value.
pub(in crate::ctl) fn put_request(
    args: &[Vec<u8>],
    values: &Values,
    stdin: Option<&mut dyn Read>,
) -> Result<PutRequest, Failure> {
    const NEEDS: &str = "put command needs 1 argument and input from stdin or 2 arguments";
    let Some(key) = args.first() else { return Err(Failure::bad_args(NEEDS)) };
    let ignore_value = values.switch("ignore-value");
    let value = match args.get(1) {
        Some(_) if ignore_value => {
            return Err(Failure::bad_args("put command needs only 1 argument when 'ignore-value' is set"));
        }
        None if ignore_value => Vec::new(),
        Some(value) => value.clone(),
        None => {
            let mut value = Vec::new();
            match stdin.map(|stdin| stdin.read_to_end(&mut value)) {
                Some(Ok(1..)) => value,
                Some(Ok(0) | Err(_)) | None => return Err(Failure::bad_args(NEEDS)),
            }
        }
    };
    let lease = go::parse_int(values.text("lease"), 16)
        .map_err(|error| Failure::bad_args(format!("bad lease ID ({error}), expecting ID in Hex")))?;
    Ok(PutRequest {
        key: key.clone().into(),
        value: value.into(),
        lease,
        prev_kv: values.switch("prev-kv"),
        ignore_value,
        ignore_lease: values.switch("ignore-lease"),
    })
}

fn del<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        let request = delete_request(&call.args, &call.values)?;
        warn_of_range(&call.args, &call.values).await;
        let (session, client) = call.connect().await?;
        let answer = client.call(&DELETE_RANGE, &request, session.deadline()).await;
        session.print(&Shown::Delete(&answer?))
    }
    .boxed_local()
}

/// What `del` asks for, also as a line of a transaction.
pub(in crate::ctl) fn delete_request(
    args: &[Vec<u8>],
    values: &Values,
) -> Result<DeleteRangeRequest, Failure> {
    if !(1..=2).contains(&args.len()) {
        return Err(Failure::bad_args(
            "del command needs one argument as key and an optional argument as range_end",
        ));
    }
    exclusive(values, "prefix", "from-key")?;
    let (key, range_end) = range(args, values.switch("prefix"), values.switch("from-key"))?;
    Ok(DeleteRangeRequest { key: key.into(), range_end: range_end.into(), prev_kv: values.switch("prev-kv") })
}

/// Whoever means two keys, and not the range between them, can still interrupt.
pub(in crate::ctl) async fn warn_of_range(args: &[Vec<u8>], values: &Values) {
    const TIME_TO_INTERRUPT: Duration = Duration::from_secs(2);
    if let [key, end] = args
        && !values.switch("range")
    {
        notice(format_args!(
            "Keys between {} and {} will be deleted. Please interrupt the command within next 2 seconds to cancel. You can \
             provide `--range` flag to avoid the delay.",
            quote(key),
            quote(end)
        ));
        time::sleep(TIME_TO_INTERRUPT).await;
    }
}
