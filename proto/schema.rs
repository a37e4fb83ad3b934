//! Generates the schema that the JSON gateway transcodes by: every message of the API, its fields, and the
//! methods with their messages, as tables of constants.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    fmt::Write,
};

use protox::prost_reflect::prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};

/// All messages and enums by their full name, as in `.etcdserverpb.RangeRequest`.
struct Types<'a> {
    messages: BTreeMap<String, &'a DescriptorProto>,
    enums: BTreeMap<String, &'a EnumDescriptorProto>,
}

/// The source of the tables.
pub(crate) fn generate(api: &FileDescriptorSet) -> Result<String, Box<dyn Error>> {
    let mut types = Types { messages: BTreeMap::new(), enums: BTreeMap::new() };
    let mut methods = String::new();
    let mut used = BTreeSet::new();
    for file in &api.file {
        let package = format!(".{}", file.package());
        types.enums.extend(file.enum_type.iter().map(|each| (format!("{package}.{}", each.name()), each)));
        for message in &file.message_type {
            types.add(&package, message);
        }
        // Health checks have no path in the gateway.
        let services = if file.package() == "grpc.health.v1" { &[] } else { &file.service[..] };
        for service in services {
            for method in &service.method {
                let (request, response) = (method.input_type(), method.output_type());
                writeln!(
                    methods,
                    "    Method {{ path: \"/{}.{}/{}\", request: &{}, response: &{}, takes_stream: {}, \
                     gives_stream: {} }},",
                    file.package(),
                    service.name(),
                    method.name(),
                    constant(request),
                    constant(response),
                    method.client_streaming(),
                    method.server_streaming(),
                )?;
                used.extend([request.to_owned(), response.to_owned()]);
            }
        }
    }
    let mut source = String::new();
    let mut written = BTreeSet::new();
    while let Some(name) = used.pop_first() {
        if !written.insert(name.clone()) {
            continue;
        }
        let Some(message) = types.messages.get(&name) else {
            let of_enum = types.enums.get(&name).ok_or_else(|| format!("{name} is not defined"))?;
            write_enum(&mut source, &name, of_enum)?;
            continue;
        };
        write_message(&mut source, &name, message)?;
        used.extend(message.field.iter().filter_map(|field| field.type_name.clone()));
    }
    writeln!(source, "\npub(super) static METHODS: &[Method] = &[\n{methods}];")?;
    Ok(source)
}

impl<'a> Types<'a> {
    fn add(&mut self, scope: &str, message: &'a DescriptorProto) {
        let name = format!("{scope}.{}", message.name());
        self.enums.extend(message.enum_type.iter().map(|each| (format!("{name}.{}", each.name()), each)));
        for nested in &message.nested_type {
            self.add(&name, nested);
        }
        self.messages.insert(name, message);
    }
}

fn write_message(source: &mut String, name: &str, message: &DescriptorProto) -> Result<(), Box<dyn Error>> {
    if message.options.as_ref().is_some_and(|options| options.map_entry()) {
        return Err(format!("{name}: a map has no JSON yet").into());
    }
    writeln!(source, "static {}: Message = Message {{ fields: &[", constant(name))?;
    let mut fields: Vec<&FieldDescriptorProto> = message.field.iter().collect();
    fields.sort_by_key(|field| field.number());
    for field in fields {
        let kind = match field.r#type() {
            Type::Bool => "Kind::Bool".to_owned(),
            Type::Int64 => "Kind::Int64".to_owned(),
            Type::Uint32 => "Kind::Uint32".to_owned(),
            Type::Uint64 => "Kind::Uint64".to_owned(),
            Type::String => "Kind::String".to_owned(),
            Type::Bytes => "Kind::Bytes".to_owned(),
            Type::Enum => format!("Kind::Enum(&{})", constant(field.type_name())),
            Type::Message => format!("Kind::Message(&{})", constant(field.type_name())),
            other => return Err(format!("{name}: a field of the type {other:?} has no JSON yet").into()),
        };
        let one_of = match field.oneof_index {
            Some(index) => {
                let one_of =
                    message.oneof_decl.get(usize::try_from(index)?).ok_or("there is no such oneof")?;
                format!("Some(\"{}.{}\")", name.trim_start_matches('.'), one_of.name())
            }
            None => "None".to_owned(),
        };
        writeln!(
            source,
            "    Field {{ number: {}, name: \"{}\", json_name: \"{}\", kind: {kind}, is_repeated: {}, \
             one_of: {one_of} }},",
            field.number(),
            field.name(),
            field.json_name(),
            field.label() == Label::Repeated,
        )?;
    }
    writeln!(source, "] }};")?;
    Ok(())
}

fn write_enum(source: &mut String, name: &str, of_enum: &EnumDescriptorProto) -> Result<(), Box<dyn Error>> {
    writeln!(source, "static {}: Enum = Enum {{ values: &[", constant(name))?;
    for value in &of_enum.value {
        writeln!(source, "    ({}, \"{}\"),", value.number(), value.name())?;
    }
    writeln!(source, "] }};")?;
    Ok(())
}

/// The name of the constant for a message or an enum.
fn constant(name: &str) -> String {
    name.trim_start_matches('.').replace('.', "__").to_uppercase()
}
