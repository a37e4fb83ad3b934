//! Whether the calls of the matrix use every method of the API and every field of its requests. The methods and
//! fields are those of the files in `proto/`, as the build has read them.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use prost_types::{
    DescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};

use super::calls::{Call, Case};

const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/api.descriptors"));

/// The methods and the fields that no call uses: `/package.Service/Method`, `.package.Message.field`.
pub(super) fn without_rows(calls: &[Call]) -> Vec<String> {
    let api = Api::read();
    let case = Case { number: 1, user: "user", peer_url: "http://127.0.0.1:1" };
    let mut used = BTreeSet::new();
    let mut wanted = BTreeSet::new();
    for (path, request) in &api.methods {
        wanted.insert(path.clone());
        api.fields_below(request, &mut wanted);
    }
    for call in calls {
        let Some(request) = api.methods.get(call.path) else {
            return vec![format!("{}: there is no such method", call.path)];
        };
        used.insert(call.path.to_owned());
        for message in (call.make)(&case) {
            api.used_fields(request, &message, &mut used);
        }
    }
    wanted.difference(&used).cloned().collect()
}

struct Api {
    /// The name of each method's request, by its path.
    methods: BTreeMap<String, String>,
    messages: BTreeMap<String, DescriptorProto>,
}

impl Api {
    fn read() -> Api {
        let files = FileDescriptorSet::decode(DESCRIPTORS).expect("the build wrote it");
        let mut api = Api { methods: BTreeMap::new(), messages: BTreeMap::new() };
        for file in files.file {
            let package = file.package().to_owned();
            for message in &file.message_type {
                api.messages.insert(format!(".{package}.{}", message.name()), message.clone());
            }
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{package}.{}/{}", service.name(), method.name());
                    api.methods.insert(path, method.input_type().to_owned());
                }
            }
        }
        api
    }

    /// All fields of a message, and of the messages in it.
    fn fields_below(&self, name: &str, fields: &mut BTreeSet<String>) {
        for field in &self.messages[name].field {
            let is_new = fields.insert(format!("{name}.{}", field.name()));
            if is_new && field.r#type() == Type::Message {
                self.fields_below(field.type_name(), fields);
            }
        }
    }

    /// The fields that are in an encoded message.
    fn used_fields(&self, name: &str, mut message: &[u8], used: &mut BTreeSet<String>) {
        while !message.is_empty() {
            let key = varint(&mut message);
            let (number, wire_type) = (key >> 3, key & 7);
            let content = match wire_type {
                0 => {
                    varint(&mut message);
                    &[][..]
                }
                2 => {
                    let length = varint(&mut message) as usize;
                    let (content, rest) = message.split_at(length);
                    message = rest;
                    content
                }
                other => panic!("no field of the API has the wire type {other}"),
            };
            let fields = &self.messages[name].field;
            let field = fields.iter().find(|field| field.number() as u64 == number).expect("it was encoded");
            assert!(wire_type == 2 || field.label() != Label::Repeated || wire_type == 0);
            used.insert(format!("{name}.{}", field.name()));
            if field.r#type() == Type::Message {
                self.used_fields(field.type_name(), content, used);
            }
        }
    }
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let (byte, rest) = bytes.split_first().expect("a message is whole");
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    value
}

#[test]
fn a_method_or_a_field_without_a_row_is_found() {
    let mut calls = super::calls::all();
    calls.retain(|call| !call.path.ends_with("/Compact") && !call.name.contains("with every option"));
    let missing = without_rows(&calls);
    for expected in [
        "/etcdserverpb.KV/Compact",
        ".etcdserverpb.CompactionRequest.physical",
        ".etcdserverpb.RangeRequest.min_mod_revision",
        ".etcdserverpb.WatchCreateRequest.fragment",
        ".authpb.UserAddOptions.no_password",
    ] {
        assert!(missing.iter().any(|found| found == expected), "{expected}: {missing:?}");
    }
}
