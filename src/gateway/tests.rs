//! Transcoding, compared with another implementation: `prost-reflect`, which makes values of the same descriptors.

use proptest::prelude::*;
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions,
    prost::Message as _,
};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use super::{
    decode::{PREFIX_BYTES, decode},
    encode::Encoder,
    schema::{self, Field, Kind, METHODS, Message, Method},
};

const API: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/api.bin"));

fn descriptors() -> DescriptorPool {
    DescriptorPool::decode(API).expect("the descriptors that the tables were made of")
}

fn messages(pool: &DescriptorPool, method: &Method) -> (MessageDescriptor, MessageDescriptor) {
    let (service, name) = method.path[1..].split_once('/').expect("a path");
    let service = pool.get_service_by_name(service).expect("a service");
    let method = service.methods().find(|method| method.name() == name).expect("a method");
    (method.input(), method.output())
}

/// The bytes of the message, as the other implementation reads the value.
fn expected(descriptor: MessageDescriptor, text: &str) -> Vec<u8> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let message = DynamicMessage::deserialize_with_options(descriptor, &mut deserializer, &options);
    message.unwrap_or_else(|error| panic!("{error}: {text}")).encode_to_vec()
}

fn decoded(text: &str, message: &'static Message) -> Vec<u8> {
    let frame = decode(text.as_bytes(), message).unwrap_or_else(|error| panic!("{error}: {text}"));
    let length = u32::from_be_bytes(frame[1..PREFIX_BYTES].try_into().expect("four bytes"));
    assert_eq!((frame[0], length as usize), (0, frame.len() - PREFIX_BYTES));
    frame[PREFIX_BYTES..].to_vec()
}

/// The JSON of a message that arrives in pieces of these lengths.
fn encoded(mut bytes: &[u8], message: &'static Message, lengths: &[usize]) -> String {
    let mut json = Vec::new();
    let mut encoder = Encoder::new(message, bytes.len(), &mut json);
    for length in lengths.iter().cycle() {
        let (piece, rest) = bytes.split_at(bytes.len().min(*length));
        encoder.write(piece, &mut json).expect("such a message");
        bytes = rest;
        if bytes.is_empty() {
            break;
        }
    }
    assert!(encoder.is_done());
    String::from_utf8(json).expect("UTF-8")
}

/// A random value for a message, written in one of the ways in which clients write it.
fn random_message(random: &mut StdRng, message: &'static Message, depth: usize) -> Value {
    let mut members = serde_json::Map::new();
    let mut set = Vec::new();
    for field in message.fields {
        if random.random_bool(0.4) || field.one_of.is_some_and(|one_of| set.contains(&one_of)) {
            continue;
        }
        set.extend(field.one_of);
        let count = random.random_range(0..3);
        let value = match field.is_repeated {
            true => (0..count).map(|_| random_value(random, field, depth)).collect(),
            false => random_value(random, field, depth),
        };
        let name = if random.random() { field.name } else { field.json_name };
        members.insert(name.to_owned(), value);
    }
    if random.random_bool(0.1) {
        members.insert("unknown".to_owned(), json!({ "a": [1, { "b": "]}" }], "c": null }));
    }
    Value::Object(members)
}

fn random_value(random: &mut StdRng, field: &Field, depth: usize) -> Value {
    let number =
        |random: &mut StdRng, bits: u32| random.random::<i64>() >> random.random_range(64 - bits..64);
    let text = |random: &mut StdRng| -> String {
        let letters: Vec<char> = "ab<\"\\/\n\t\u{1}\u{e9}\u{1f600}".chars().collect();
        (0..random.random_range(0..8)).map(|_| letters[random.random_range(0..letters.len())]).collect()
    };
    match field.kind {
        Kind::Bool => random.random::<bool>().into(),
        Kind::Int64 => {
            let number = number(random, 63);
            if random.random() { number.into() } else { number.to_string().into() }
        }
        Kind::Uint32 => number(random, 31).unsigned_abs().into(),
        Kind::Uint64 => number(random, 63).unsigned_abs().to_string().into(),
        Kind::String => text(random).into(),
        Kind::Bytes => {
            use base64::{
                Engine,
                engine::general_purpose::{STANDARD, URL_SAFE},
            };
            let mut bytes = vec![0; random.random_range(0..20)];
            random.fill_bytes(&mut bytes);
            if random.random() { STANDARD.encode(bytes).into() } else { URL_SAFE.encode(bytes).into() }
        }
        Kind::Enum(of_enum) => {
            let (number, name) = of_enum.values[random.random_range(0..of_enum.values.len())];
            if random.random() { number.into() } else { name.into() }
        }
        Kind::Message(message) if depth > 0 => random_message(random, message, depth - 1),
        Kind::Message(_) => json!({}),
    }
}

proptest! {
    #[test]
    fn random_values_become_the_messages_that_others_make_of_them(seed: u64, pretty: bool) {
        let mut random = StdRng::seed_from_u64(seed);
        let pool = descriptors();
        let method = &METHODS[random.random_range(0..METHODS.len())];
        let (descriptor, _) = messages(&pool, method);
        let value = random_message(&mut random, method.request, 4);
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
        let text = text.expect("JSON");
        let decode = |bytes: &[u8]| DynamicMessage::decode(descriptor.clone(), bytes).expect("a message");
        let ours = decode(&decoded(&text, method.request));
        let theirs = decode(&expected(descriptor.clone(), &text));
        prop_assert_eq!(ours, theirs, "{}", text);
    }

    #[test]
    fn random_messages_become_the_json_that_others_make_of_them(
        seed: u64,
        lengths in prop::collection::vec(1_usize..50, 1..4),
    ) {
        let mut random = StdRng::seed_from_u64(seed);
        let pool = descriptors();
        let method = &METHODS[random.random_range(0..METHODS.len())];
        let (_, descriptor) = messages(&pool, method);
        let value = random_message(&mut random, method.response, 4);
        let bytes = expected(descriptor.clone(), &value.to_string());
        let message = DynamicMessage::decode(descriptor, &bytes[..]).expect("a message");
        let mut theirs = serde_json::Serializer::new(Vec::new());
        let options = SerializeOptions::new().use_proto_field_name(true);
        message.serialize_with_options(&mut theirs, &options).expect("JSON");
        let theirs: Value = serde_json::from_slice(&theirs.into_inner()).expect("JSON");
        let ours = encoded(&bytes, method.response, &lengths);
        prop_assert_eq!(serde_json::from_str::<Value>(&ours).expect("JSON"), theirs, "{}", ours);
        prop_assert_eq!(&ours, &encoded(&bytes, method.response, &[usize::MAX]));
    }

    /// Neither a panic, nor an endless loop.
    #[test]
    fn any_bytes_are_a_message_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..60), seed: u64) {
        let method = &METHODS[seed as usize % METHODS.len()];
        let mut json = Vec::new();
        let _ = Encoder::new(method.response, bytes.len(), &mut json).write(&bytes, &mut json);
    }
}

fn request(path: &str) -> &'static Message {
    schema::method(path).expect("a path").request
}

#[test]
fn deep_transactions_are_written_in_one_pass() {
    let depth = 3000;
    let text = r#"{"success":[{"request_txn":"#.repeat(depth) + "{}" + &"}]}".repeat(depth);
    let message = decoded(&text, request("kv/txn"));
    // The innermost is `success` with an operation of two bytes: `request_txn` of length zero.
    assert_eq!(message[message.len() - 4..], [0x12, 2, 0x22, 0]);
    let levels = message.iter().filter(|byte| **byte == 0x22).count();
    assert!(levels >= depth, "{levels}");
}

#[test]
fn what_is_wrong_with_a_value_is_told_in_the_words_of_etcd() {
    for (path, text, error) in [
        ("kv/range", "[1]", "proto: syntax error (line 1:1): unexpected token ["),
        ("kv/range", "null", "proto: syntax error (line 1:1): unexpected token null"),
        ("kv/range", "12", "proto: syntax error (line 1:1): unexpected token 12"),
        ("kv/range", r#""a""#, r#"proto: syntax error (line 1:1): unexpected token "a""#),
        ("kv/range", r#"{"key":12}"#, "proto: (line 1:8): invalid value for bytes field key: 12"),
        (
            "kv/range",
            "{\n  \"key\": \"Zg==\",\n \u{20}\"range_end\": \"!\"}",
            r#"proto: (line 3:16): invalid value for bytes field rangeEnd: "!""#,
        ),
        (
            "kv/range",
            "{\"\u{e9}\u{1f600}\":1,\"limit\":\"x\"}",
            r#"proto: (line 1:17): invalid value for int64 field limit: "x""#,
        ),
        ("kv/range", r#"{"limit":1.5}"#, "proto: (line 1:10): invalid value for int64 field limit: 1.5"),
        ("kv/range", r#"{"limit":{}}"#, "proto: (line 1:10): invalid value for int64 field limit: {"),
        (
            "kv/range",
            r#"{"serializable":1}"#,
            "proto: (line 1:17): invalid value for bool field serializable: 1",
        ),
        (
            "kv/range",
            r#"{"sort_order":1.5}"#,
            "proto: (line 1:15): invalid value for enum field sortOrder: 1.5",
        ),
        ("kv/range", r#"{"key":"","key":""}"#, r#"proto: (line 1:11): duplicate field "key""#),
        (
            "kv/range",
            r#"{"range_end":null,"rangeEnd":""}"#,
            r#"proto: (line 1:19): duplicate field "rangeEnd""#,
        ),
        ("auth/user/add", r#"{"name":1}"#, "proto: (line 1:9): invalid value for string field name: 1"),
        ("kv/txn", r#"{"compare":{}}"#, "proto: syntax error (line 1:12): unexpected token {"),
        ("kv/txn", r#"{"compare":[null]}"#, "proto: syntax error (line 1:13): unexpected token null"),
        (
            "kv/txn",
            r#"{"compare":[{"value":"","version":"1"}]}"#,
            r#"proto: (line 1:25): error parsing "version", oneof etcdserverpb.Compare.target_union is already set"#,
        ),
        (
            "watch",
            r#"{"create_request":{"filters":["x",null]}}"#,
            "proto: (line 1:35): invalid value for enum field filters: null",
        ),
        (
            "kv/range",
            r#"{"x":"\ud800abcdef"}"#,
            r#"proto: syntax error (line 1:6): invalid escape code "abcdef" in string"#,
        ),
    ] {
        let found = decode(text.as_bytes(), request(path)).expect_err(text).to_string();
        assert_eq!(found, error, "{text}");
    }
    let found = decode(b"{\"\xff\":1}", request("kv/range")).expect_err("not UTF-8").to_string();
    assert_eq!(found, "proto: syntax error (line 1:2): invalid UTF-8 in string");
    let long = format!("{{\"key\":\"{}!\"}}", "A".repeat(5000));
    let found = decode(long.as_bytes(), request("kv/range")).expect_err("not base64").to_string();
    assert!(found.len() < 1200 && found.ends_with("AAA..."), "the text is cut: {found}");
}

#[test]
fn values_are_read_as_go_reads_them() {
    let (range, put) = (request("kv/range"), request("kv/put"));
    let same = |message: &'static Message, one: &str, other: &str| {
        assert_eq!(decoded(one, message), decoded(other, message), "{one}");
    };
    same(range, r#"{"limit":"1e2"}"#, r#"{"limit":100}"#);
    same(range, r#"{"limit":"5 "}"#.replace("5 ", "5").as_str(), r#"{"limit":5.0}"#);
    same(range, r#"{"limit":"12 34"}"#, r#"{"limit":12}"#);
    same(range, r#"{"limit":0,"key":"","serializable":false,"sort_order":"NONE"}"#, "{}");
    same(range, r#"{"sort_order":"SIDEWAYS"}"#, "{}");
    same(range, r#"{"key":null,"Key":"AA==","[x]":1}"#, "{}");
    same(put, r#"{"key":"\/\/\/\/"}"#, r#"{"key":"////"}"#);
    for text in ["Zm9vYg==", "Zm9vYg", "Zm9v\\nYg", "Zm9vYh"] {
        same(put, &format!(r#"{{"key":"{text}"}}"#), r#"{"key":"Zm9vYg=="}"#);
    }
    same(put, r#"{"key":"-_8="}"#, r#"{"key":"+/8="}"#);
    same(put, r#"{"key":"-_8"}"#, r#"{"key":"+/8"}"#);
    for bad in ["Zm9vY", "Zg=", "Zm9vYg=\\n", "+_8=", "Zg==Zg==", "Zm9v Yg="] {
        let text = format!(r#"{{"key":"{bad}"}}"#);
        assert!(decode(text.as_bytes(), put).is_err(), "{text}");
    }
    for bad in [" 5", "5 ", "", "x", "1.5", "9223372036854775808"] {
        let text = format!(r#"{{"limit":"{bad}"}}"#);
        assert!(decode(text.as_bytes(), range).is_err(), "{text}");
    }
    // A zero in a `oneof` says which member is set.
    assert_eq!(decoded(r#"{"compare":[{"version":0}]}"#, request("kv/txn")), [0x0a, 2, 0x20, 0]);
}
