//! `txn`: several requests as one, read from stdin.
//!
//! Three paragraphs, each ended by an empty line: what has to hold, what is done if all of it does, and what is done
//! otherwise.

use std::io;

use futures_util::{FutureExt, future::LocalBoxFuture};

use super::kv::{DEL, GET, PUT_COMMAND, delete_request, get_request, put_request, warn_of_range};
use crate::{
    cli::{
        Command, Exit, Failure, Flag, Found, Group, Invocation, Parsed, Values,
        go::{self, quote, unquote_prefix},
        output,
    },
    ctl::{client::TXN, printer::Shown, words::words},
    pb::etcdserverpb::{
        Compare, RequestOp, TxnRequest,
        compare::{CompareResult, CompareTarget, TargetUnion},
        request_op::Request,
    },
};

pub(in crate::ctl) const TXN_COMMAND: Command =
    Command::new("txn", "[options]", "Makes several requests as one transaction")
        .long(
            "Makes several requests as one transaction, which is read from standard input: conditions, the requests to make if \
             all of them hold, and the requests to make otherwise. An empty line ends each of the three.\n\n  \
             mod(\"key1\") > \"0\"\n\n  put key1 \"overwritten\"\n\n  put key1 \"created\"\n  put key2 \"another\"\n\n\
             Conditions compare mod, create, ver, val or lease of a key by =, !=, < or >.\n",
        )
        .of(Group::KeyValue)
        .flags(&[Flag::switch("interactive", "say what is to be typed").short('i')])
        .runs(txn);

/// What a line of a transaction may ask for.
static LINES: Command = Command::new("", "", "").below(&[DEL, GET, PUT_COMMAND]);

fn txn<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        if !call.args.is_empty() {
            return Err(Failure::bad_args("txn command does not accept argument"));
        }
        let (session, client) = call.connect().await?;
        let prompt = |text: &str| match call.values.switch("interactive") {
            true => output::line(format_args!("{text}")),
            false => Ok(()),
        };
        prompt("compares:")?;
        let compare = paragraph()?.iter().map(|line| comparison(line)).collect::<Result<_, _>>()?;
        prompt("success requests (get, put, del):")?;
        let success = requests().await?;
        prompt("failure requests (get, put, del):")?;
        let failure = requests().await?;
        let request = TxnRequest { compare, success, failure };
        let answer = client.call(&TXN, &request, session.deadline()).await?;
        session.print(&Shown::Txn(&answer))
    }
    .boxed_local()
}

/// The lines until the next empty one.
fn paragraph() -> Result<Vec<String>, Failure> {
    let mut lines = Vec::new();
    loop {
        let line = line()?;
        if line.is_empty() {
            return Ok(lines);
        }
        lines.push(line);
    }
}

/// A line without the space around it. Every line has to be ended: a transaction that was cut off is not made.
fn line() -> Result<String, Failure> {
    let mut line = String::new();
    let read = io::stdin().read_line(&mut line);
    read.map_err(|error| Exit::InvalidInput.because(error))?;
    if !line.ends_with('\n') {
        return Err(Exit::InvalidInput.because("EOF"));
    }
    Ok(line.trim().to_owned())
}

async fn requests() -> Result<Vec<RequestOp>, Failure> {
    let mut requests = Vec::new();
    loop {
        let line = line()?;
        if line.is_empty() {
            return Ok(requests);
        }
        requests.push(RequestOp { request: Some(request(&line).await?) });
    }
}

async fn request(line: &str) -> Result<Request, Failure> {
    let words = words(line).map_err(|error| Exit::InvalidInput.because(error))?;
    if words.len() < 2 {
        return Err(Exit::InvalidInput.because(format_args!("invalid txn compare request: {line}")));
    }
    let invalid = || Exit::InvalidInput.because(format_args!("invalid txn request: {line}"));
    let found = Found::in_line(&LINES, &words);
    let mut values = Values::defaults(found.flags());
    let Ok(Parsed::Arguments(args)) = values.parse(&found.args) else { return Err(invalid()) };
    Ok(match found.command().name {
        "get" => Request::RequestRange(get_request(&args, &values)?),
        "put" => Request::RequestPut(put_request(&args, &values, None)?),
        "del" => {
            let request = delete_request(&args, &values)?;
            warn_of_range(&args, &values).await;
            Request::RequestDeleteRange(request)
        }
        _ => return Err(invalid()),
    })
}

/// `mod("key") > "0"`
fn comparison(line: &str) -> Result<Compare, Failure> {
    let invalid = |text: String| Exit::InvalidInput.because(text);
    let (target, rest) =
        line.split_once('(').ok_or_else(|| invalid(format!("malformed comparison: {line}")))?;
    let ([key, result, value], are_all) = operands(rest);
    let result = String::from_utf8_lossy(&result).into_owned();
    if !are_all {
        let [key, value] = [key, value].map(|text| quote(&text));
        return Err(invalid(format!("malformed comparison: {line}; got {target}({key}) {result} {value}")));
    }
    let number = |base: u32| {
        let text = String::from_utf8_lossy(&value);
        go::parse_int(&text, base).map_err(|_| invalid(format!("invalid txn compare request: {line}")))
    };
    let (target, union) = match target {
        "ver" | "version" => (CompareTarget::Version, TargetUnion::Version(number(10)?)),
        "c" | "create" => (CompareTarget::Create, TargetUnion::CreateRevision(number(10)?)),
        "m" | "mod" => (CompareTarget::Mod, TargetUnion::ModRevision(number(10)?)),
        "val" | "value" => (CompareTarget::Value, TargetUnion::Value(value.into())),
        // etcdctl 3.7 fails here whatever the value is. Leases are written in hexadecimal everywhere else.
        "lease" => (CompareTarget::Lease, TargetUnion::Lease(number(16)?)),
        _ => return Err(invalid(format!("malformed comparison: {line} (unknown target {target})"))),
    };
    let result = match &*result {
        "=" => CompareResult::Equal,
        "!=" => CompareResult::NotEqual,
        ">" => CompareResult::Greater,
        "<" => CompareResult::Less,
        other => {
            return Err(invalid(format!(
                "malformed comparison: {line} (\"{other}\" is none of =, !=, < and >)"
            )));
        }
    };
    Ok(Compare {
        result: result.into(),
        target: target.into(),
        key: key.into(),
        range_end: Vec::new().into(),
        target_union: Some(union),
    })
}

/// The key, the sign and the value, as many of them as there are, and whether that is all.
fn operands(text: &str) -> ([Vec<u8>; 3], bool) {
    let mut got: [Vec<u8>; 3] = Default::default();
    let Some((key, rest)) = unquote_prefix(text.trim_start()) else { return (got, false) };
    got[0] = key;
    // Space has to separate the sign from both.
    let Some(rest) = rest.strip_prefix(')').filter(|rest| rest.starts_with(char::is_whitespace)) else {
        return (got, false);
    };
    let rest = rest.trim_start();
    let (result, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    got[1] = result.as_bytes().to_vec();
    match unquote_prefix(rest.trim_start()) {
        Some((value, _)) => {
            got[2] = value;
            (got, true)
        }
        None => (got, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparisons_are_read() {
        let compare = comparison("mod(\"a b\") > \"7\"").unwrap();
        assert_eq!(compare.key, "a b");
        assert_eq!(compare.result(), CompareResult::Greater);
        assert_eq!(compare.target_union, Some(TargetUnion::ModRevision(7)));
        let lease = comparison("lease(\"k\") = \"1f\"").unwrap();
        assert_eq!(lease.target_union, Some(TargetUnion::Lease(31)));
        let value = comparison("val(\"k\") != \"\\x00\"").unwrap();
        assert_eq!(value.target_union, Some(TargetUnion::Value("\0".into())));
    }

    /// The texts are etcdctl's, but for the one about the sign, where etcdctl 3.7 crashes.
    #[test]
    fn what_is_wrong_with_a_comparison_is_said() {
        let told = |line: &str| match comparison(line) {
            Err(Failure::Told { exit: Exit::InvalidInput, text }) => text,
            other => panic!("{other:?}"),
        };
        for (line, text) in [
            ("mod", "malformed comparison: mod"),
            ("mod(a) > \"0\"", "malformed comparison: mod(a) > \"0\"; got mod(\"\")  \"\""),
            ("mod(\"a\") > 0", "malformed comparison: mod(\"a\") > 0; got mod(\"a\") > \"\""),
            ("bad(\"a\") > \"0\"", "malformed comparison: bad(\"a\") > \"0\" (unknown target bad)"),
            ("mod(\"a\") > \"x\"", "invalid txn compare request: mod(\"a\") > \"x\""),
        ] {
            assert_eq!(told(line), text);
        }
        assert!(told("mod(\"a\") ! \"0\"").contains("none of"));
    }
}
