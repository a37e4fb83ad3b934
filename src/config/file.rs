//! The configuration file: YAML (or JSON, which YAML contains).
//!
//! Keys are the names of flags. Three things differ from the command line: a duration may be a plain
//! number of nanoseconds, a list may be a YAML list, and TLS settings are in blocks of their own. The
//! file is converted to flags as a user would have typed them, so that the same rules apply to both.

use std::{fs, path::Path};

use serde_json::{Map, Value};

use super::{
    ConfigError, Notice,
    table::{Flag, Kind, find, find_experimental},
};

/// Blocks of settings, and the prefix that makes flags of their keys.
const BLOCKS: [(&str, &str); 4] = [
    ("client-transport-security", ""),
    ("peer-transport-security", "peer-"),
    ("discovery-config", "discovery-"),
    ("socket-options", "socket-"),
];

/// Blocks within `discovery-config`, whose keys are as those beside them.
const BLOCKS_OF_DISCOVERY: [&str; 3] = ["client", "secure", "auth"];

/// Keys whose name with the prefix still differs from the name of their flag.
const RENAMED: [(&str, &str); 5] = [
    ("allowed-cn", "client-cert-allowed-cn"),
    ("allowed-hostname", "client-cert-allowed-hostname"),
    ("peer-allowed-cn", "peer-cert-allowed-cn"),
    ("peer-allowed-hostname", "peer-cert-allowed-hostname"),
    ("discovery-username", "discovery-user"),
];

/// The flags and their values, as a user would type them.
pub(super) fn read(path: &Path, notices: &mut Vec<Notice>) -> Result<Vec<(String, String)>, ConfigError> {
    let text = fs::read_to_string(path).map_err(|error| {
        ConfigError::invalid(format!("cannot read the configuration file {}: {error}", path.display()))
    })?;
    parse(&text, notices).map_err(|error| error.in_file(path))
}

fn parse(yaml: &str, notices: &mut Vec<Notice>) -> Result<Vec<(String, String)>, ConfigError> {
    let settings: Option<Map<String, Value>> = serde_saphyr::from_str(yaml)
        .map_err(|error| ConfigError::invalid(format!("not a YAML mapping: {error}")))?;
    let mut flags = Vec::new();
    for (key, value) in settings.unwrap_or_default() {
        match (BLOCKS.iter().find(|(block, _)| *block == key), value) {
            (Some((_, prefix)), Value::Object(block)) => add_block(prefix, &block, &mut flags, notices)?,
            // As in etcd, this flag belongs to the command line alone.
            (None, value) if key == "discovery-fallback" => notices.push(Notice {
                warn: true,
                message: format!("discovery-fallback={value} has no effect in a configuration file"),
            }),
            (_, value) => add(&key, &value, &mut flags, notices)?,
        }
    }
    Ok(flags)
}

fn add_block(
    prefix: &str,
    block: &Map<String, Value>,
    flags: &mut Vec<(String, String)>,
    notices: &mut Vec<Notice>,
) -> Result<(), ConfigError> {
    for (key, value) in block {
        match value {
            Value::Object(inner) if prefix == "discovery-" && BLOCKS_OF_DISCOVERY.contains(&key.as_str()) => {
                add_block(prefix, inner, flags, notices)?;
            }
            value => {
                let name = format!("{prefix}{key}");
                let renamed = RENAMED.iter().find(|(from, _)| *from == name);
                add(renamed.map_or(name.as_str(), |(_, to)| to), value, flags, notices)?;
            }
        }
    }
    Ok(())
}

fn add(
    name: &str,
    value: &Value,
    flags: &mut Vec<(String, String)>,
    notices: &mut Vec<Notice>,
) -> Result<(), ConfigError> {
    let Some(flag) = find(name).or_else(|| find_experimental(name)) else {
        notices.push(Notice {
            warn: true,
            message: format!("ignored unknown key {name:?} of the configuration file"),
        });
        return Ok(());
    };
    if let Some(text) = as_typed(flag, value)
        .map_err(|()| ConfigError::invalid(format!("{name:?} cannot have the value {value}")))?
    {
        flags.push((name.to_owned(), text));
    }
    Ok(())
}

/// The value as a user would type it; `None` for a key without a value.
fn as_typed(flag: &Flag, value: &Value) -> Result<Option<String>, ()> {
    match value {
        Value::Null => Ok(None),
        Value::Bool(on) => Ok(Some(on.to_string())),
        Value::Number(nanos) if flag.kind == Kind::Duration => Ok(Some(format!("{nanos}ns"))),
        Value::Number(number) => Ok(Some(number.to_string())),
        Value::String(text) => Ok((!text.is_empty()).then(|| text.clone())),
        Value::Array(items) => {
            let items: Vec<&str> =
                items.iter().map(|item| item.as_str().ok_or(())).collect::<Result<_, _>>()?;
            Ok((!items.is_empty()).then(|| items.join(",")))
        }
        Value::Object(_) => Err(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(yaml: &str) -> Vec<String> {
        let mut notices = Vec::new();
        let flags = parse(yaml, &mut notices).expect("valid YAML");
        let flags = flags.into_iter().map(|(name, text)| format!("--{name}={text}"));
        flags.chain(notices.into_iter().map(|notice| notice.message)).collect()
    }

    #[test]
    fn keys_become_flags() {
        let yaml = "
# a comment
name: 'a'
heartbeat-interval: 200
pre-vote: false
grpc-keepalive-interval: 7200000000000
auto-compaction-retention: \"1\"
log-outputs: [stderr, /tmp/log]
discovery-srv:
client-transport-security:
  cert-file: path
  auto-tls: true
peer-transport-security:
  allowed-cn: [a]
socket-options:
  reuse-port: true
discovery-config:
  token: t
  client:
    endpoints: [a, b]
    request-timeout: 5000000000
    secure: {cert: c, insecure-transport: false}
    auth: {username: u, password: p}
discovery-fallback: 'proxy'
surprise: 1
";
        assert_eq!(
            typed(yaml),
            [
                "--auto-compaction-retention=1",
                "--auto-tls=true",
                "--cert-file=path",
                "--discovery-password=p",
                "--discovery-user=u",
                "--discovery-endpoints=a,b",
                "--discovery-request-timeout=5000000000ns",
                "--discovery-cert=c",
                "--discovery-insecure-transport=false",
                "--discovery-token=t",
                "--grpc-keepalive-interval=7200000000000ns",
                "--heartbeat-interval=200",
                "--log-outputs=stderr,/tmp/log",
                "--name=a",
                "--peer-cert-allowed-cn=a",
                "--pre-vote=false",
                "--socket-reuse-port=true",
                "discovery-fallback=\"proxy\" has no effect in a configuration file",
                "ignored unknown key \"surprise\" of the configuration file",
            ]
        );
    }

    #[test]
    fn json_is_yaml_and_nothing_is_fine() {
        assert_eq!(typed(r#"{"name": "a"}"#), ["--name=a"]);
        assert_eq!(typed("# nothing\n"), Vec::<String>::new());
    }

    #[test]
    fn nonsense_is_refused() {
        for yaml in ["- a\n- b\n", "name: {a: b}\n", "name: [1]\n", "name: 'a\n"] {
            assert!(parse(yaml, &mut Vec::new()).is_err(), "{yaml}");
        }
    }
}
