//! Flags in Go's syntax, from the command line and the environment.
//!
//! `-x v`, `--x v`, `-x=v` and `--x=v` mean the same; a boolean flag takes its value only after an
//! `=`. Every flag can instead be set by the variable `ETCD_<NAME>`; setting both is an error. After
//! [`Flags::parse`] every value has the syntax of its kind; `validate` checks whether it makes sense.
//!
//! Arguments and variables are bytes that need not be UTF-8. A path is used as it is; any other value
//! that is not UTF-8 is refused with the name of its flag.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    path::Path,
    time::Duration,
};

use super::{
    ConfigError, Notice, file,
    table::{FLAGS, Flag, GATE_FLAGS, Kind, Standing, find, find_experimental},
    url::{Url, parse_urls},
    value::{parse_bool, parse_duration, parse_int, parse_uint},
};

const SHADOWED: &str = "conflicting environment variable is shadowed by corresponding command-line flag \
                        (either unset environment variable or disable flag))";

/// Variables that start with `ETCD_` but are not flags.
const ENV_OTHERS: [&str; 3] = ["ETCD_UNSUPPORTED_ARCH", "ETCD_VERIFY", "ETCD_VERSION"];

/// Where the value of a flag came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    CommandLine,
    Environment,
    File,
}

impl Origin {
    fn as_str(self) -> &'static str {
        match self {
            Origin::CommandLine => "flag",
            Origin::Environment => "environment",
            Origin::File => "file",
        }
    }
}

/// The flags that were set, by their current names, and the remarks about them.
#[derive(Clone, Debug, Default)]
pub(super) struct Flags {
    values: BTreeMap<&'static str, OsString>,
    /// Flags set by an `experimental-` name of etcd 3.5 or 3.6. Such a value wins over one set by the
    /// current name, in whatever order they were given.
    values_experimental: BTreeMap<&'static str, OsString>,
    /// Everything that was set, by the name that was used, with its origin.
    settings: BTreeMap<String, (OsString, Origin)>,
    /// `Gate=true` items from old flags that are feature gates today, in the order given.
    gates: Vec<String>,
    pub(super) help: bool,
    pub(super) notices: Vec<Notice>,
}

impl Flags {
    /// Reads the arguments after the program's name, then the environment. If one of them names a
    /// configuration file, only that file is used.
    pub(super) fn parse(args: &[OsString], env: &[(OsString, OsString)]) -> Result<Flags, ConfigError> {
        let mut flags = Flags::default();
        let typed = flags.set_from_args(args)?;
        if flags.help || flags.bool("version") {
            return Ok(flags);
        }
        let config_file = match flags.values.get("config-file") {
            Some(path) => Some(path),
            None => env.iter().find(|(name, _)| name == "ETCD_CONFIG_FILE").map(|(_, path)| path),
        };
        if let Some(path) = config_file.filter(|path| !path.is_empty()) {
            let path = Path::new(path);
            let mut from_file = Flags::default();
            from_file.notice(format!("loaded server configuration from {}, other configuration command line flags and environment variables will be ignored if provided", path.display()));
            for (name, text) in file::read(path, &mut from_file.notices)? {
                from_file.set(&name, text.into(), Origin::File).map_err(|error| error.in_file(path))?;
            }
            return Ok(from_file);
        }
        flags.set_from_env(env, &typed)?;
        Ok(flags)
    }

    pub(super) fn is_set(&self, name: &str) -> bool {
        self.values_experimental.contains_key(name) || self.values.contains_key(name)
    }

    /// The value of a flag as it was typed, or its default.
    pub(super) fn text(&self, name: &'static str) -> &str {
        self.value(name).to_str().expect("checked when it was set")
    }

    /// The value of a flag that takes a path.
    pub(super) fn path(&self, name: &'static str) -> &Path {
        Path::new(self.value(name))
    }

    fn value(&self, name: &'static str) -> &OsStr {
        match self.values_experimental.get(name).or_else(|| self.values.get(name)) {
            Some(value) => value,
            None => OsStr::new(find(name).expect("asked for a flag that is in the table").default),
        }
    }

    pub(super) fn bool(&self, name: &'static str) -> bool {
        parse_bool(self.text(name)).expect("checked when it was set")
    }

    pub(super) fn int(&self, name: &'static str) -> i64 {
        parse_int(self.text(name)).expect("checked when it was set")
    }

    pub(super) fn uint(&self, name: &'static str) -> u64 {
        parse_uint(self.text(name)).expect("checked when it was set")
    }

    pub(super) fn duration(&self, name: &'static str) -> Duration {
        parse_duration(self.text(name)).expect("checked when it was set")
    }

    /// The URLs of a flag, without duplicates.
    pub(super) fn urls(&self, name: &'static str) -> Vec<Url> {
        let mut urls = parse_urls(self.text(name)).expect("checked when it was set");
        urls.dedup();
        urls
    }

    /// `Name=true` items, from `--feature-gates` and from old flags that became feature gates.
    pub(super) fn gates(&self) -> impl Iterator<Item = &str> {
        let listed = self.text("feature-gates").split(',').filter(|item| !item.is_empty());
        listed.chain(self.gates.iter().map(String::as_str))
    }

    /// Every flag that was set, with its value as it can be shown.
    pub(super) fn iter_set(&self) -> impl Iterator<Item = (&'static Flag, Cow<'_, str>)> {
        let set = FLAGS.iter().filter(|flag| self.is_set(flag.name));
        set.map(|flag| (flag, self.value(flag.name).to_string_lossy()))
    }

    /// `name=value (flag)` of everything that was set, by the names that were used.
    pub(super) fn settings(&self) -> Vec<String> {
        let settings = self.settings.iter();
        let setting = |(name, (value, origin)): (&String, &(OsString, Origin))| {
            format!("{name}={} ({})", shown(name, value), origin.as_str())
        };
        settings.map(setting).collect()
    }

    /// Returns the names as they were typed.
    fn set_from_args(&mut self, args: &[OsString]) -> Result<BTreeSet<String>, ConfigError> {
        let mut args = args.iter();
        let mut typed = BTreeSet::new();
        let mut last: Option<String> = None;
        while let Some(arg) = args.next() {
            let (head, given) = split_value(arg);
            let Some(name) = head.strip_prefix("--").or_else(|| head.strip_prefix('-')) else {
                return Err(not_a_flag(arg, last.as_deref()));
            };
            if arg == "-" {
                return Err(not_a_flag(arg, last.as_deref()));
            }
            if arg == "--" {
                return args.next().map_or(Ok(typed), |arg| Err(not_a_flag(arg, None)));
            }
            if name.is_empty() || name.starts_with('-') {
                return Err(ConfigError::usage(format!("bad flag syntax: {}", arg.display())));
            }
            if name == "h" || name == "help" {
                self.help = true;
                return Ok(typed);
            }
            let value = match given {
                Some(value) => value.to_owned(),
                None if kind_of(name)? == Kind::Bool => "true".into(),
                None => args
                    .next()
                    .cloned()
                    .ok_or_else(|| ConfigError::usage(format!("flag needs an argument: -{name}")))?,
            };
            self.set(name, value, Origin::CommandLine)?;
            typed.insert(name.to_owned());
            last = Some(name.to_owned());
        }
        Ok(typed)
    }

    fn set_from_env(
        &mut self,
        env: &[(OsString, OsString)],
        typed: &BTreeSet<String>,
    ) -> Result<(), ConfigError> {
        // A variable whose name is not UTF-8 is not a flag of etcd.
        let named = env.iter().filter_map(|(variable, value)| Some((variable.to_str()?, value)));
        for (variable, value) in named {
            let Some(upper) = variable.strip_prefix("ETCD_") else { continue };
            if ENV_OTHERS.contains(&variable) {
                continue;
            }
            let name = upper.to_ascii_lowercase().replace('_', "-");
            let spelled_right = *upper == upper.to_ascii_uppercase();
            if !spelled_right || kind_of(&name).is_err() {
                self.notice(format!("unrecognized environment variable {variable}"));
                continue;
            }
            if typed.contains(&name) {
                return Err(ConfigError::invalid(format!("{SHADOWED}: {variable}")));
            }
            if !value.is_empty() {
                self.set(&name, value.clone(), Origin::Environment)
                    .map_err(|error| error.in_variable(variable))?;
                let value = shown(&name, value);
                self.tell(format!("recognized and used environment variable {variable}={value}"));
            }
        }
        Ok(())
    }

    /// Sets one value, by the current or a former name of its flag.
    fn set(&mut self, name: &str, value: OsString, origin: Origin) -> Result<(), ConfigError> {
        check_syntax(name, kind_of(name)?, &value)?;
        self.settings.insert(name.to_owned(), (value.clone(), origin));
        if let Some((_, gate)) = GATE_FLAGS.iter().find(|(flag, _)| *flag == name) {
            let on = value.to_str().map(parse_bool).expect("checked just now").expect("checked just now");
            self.notice(format!("--{name} is deprecated; use --feature-gates={gate}={on}"));
            self.gates.push(format!("{gate}={on}"));
        } else if let Some(flag) = find(name) {
            if let Standing::Removed(why) = flag.standing {
                self.notice(format!("--{name} is ignored: {why}"));
            }
            self.values.insert(flag.name, value);
        } else if let Some(flag) = find_experimental(name) {
            self.notice(format!("--{name} is deprecated; use --{}", flag.name));
            self.values_experimental.insert(flag.name, value);
        }
        Ok(())
    }

    fn notice(&mut self, message: String) {
        self.notices.push(Notice { warn: true, message });
    }

    fn tell(&mut self, message: String) {
        self.notices.push(Notice { warn: false, message });
    }
}

/// Flags whose values are not for the log.
const SECRETS: [&str; 2] = ["discovery-password", "discovery-user"];

fn shown<'a>(name: &str, value: &'a OsStr) -> Cow<'a, str> {
    if SECRETS.contains(&name) { "***".into() } else { value.to_string_lossy() }
}

/// The kind of value that a flag takes; an unknown name is an error.
fn kind_of(name: &str) -> Result<Kind, ConfigError> {
    if GATE_FLAGS.iter().any(|(flag, _)| *flag == name) {
        return Ok(Kind::Bool);
    }
    match find(name).or_else(|| find_experimental(name)) {
        Some(flag) => Ok(flag.kind),
        None => {
            let mut message = format!("flag provided but not defined: -{name}");
            if let Some(near) = nearest(name) {
                message.push_str(&format!(" (did you mean --{near}?)"));
            }
            Err(ConfigError::usage(message))
        }
    }
}

/// What stands before the first `=` of an argument, as it can be shown, and what stands behind it.
pub(super) fn split_value(arg: &OsStr) -> (Cow<'_, str>, Option<&OsStr>) {
    let bytes = arg.as_bytes();
    match bytes.iter().position(|byte| *byte == b'=') {
        Some(at) => {
            let value = OsStr::from_bytes(&bytes[at + 1..]);
            (String::from_utf8_lossy(&bytes[..at]), Some(value))
        }
        None => (arg.to_string_lossy(), None),
    }
}

fn check_syntax(name: &str, kind: Kind, value: &OsStr) -> Result<(), ConfigError> {
    let wrong = |why: String| ConfigError::usage(format!("invalid value {value:?} for flag -{name}: {why}"));
    if kind == Kind::Path {
        return Ok(());
    }
    let text = value.to_str().ok_or_else(|| wrong("must be text in UTF-8".to_owned()))?;
    let checked = match kind {
        Kind::Text | Kind::Path => Ok(()),
        Kind::Choice(words) if words.contains(&text) => Ok(()),
        Kind::Choice(words) => Err(format!("must be one of {}", words.join(", "))),
        Kind::Bool => parse_bool(text).map(drop),
        Kind::Int => parse_int(text).map(drop),
        Kind::Uint => parse_uint(text).map(drop),
        Kind::Duration => parse_duration(text).map(drop),
        Kind::Urls => parse_urls(text).map(drop),
    };
    checked.map_err(wrong)
}

/// Something that is no flag where a flag should be. Most often it is the value of the boolean
/// flag before it.
fn not_a_flag(arg: &OsStr, last: Option<&str>) -> ConfigError {
    let mut message = format!("{arg:?} is not a valid flag");
    match last {
        Some(name) if kind_of(name) == Ok(Kind::Bool) => {
            if let Some(value) = arg.to_str().filter(|value| parse_bool(value).is_ok()) {
                message.push_str(&format!(" (did you mean --{name}={value}?)"));
            }
        }
        _ => {}
    }
    ConfigError::invalid(message)
}

/// The flag whose name takes the fewest changes to reach, if that is few enough to be a slip.
fn nearest(name: &str) -> Option<&'static str> {
    let useful = FLAGS.iter().filter(|flag| !matches!(flag.standing, Standing::Removed(_)));
    let (distance, flag) =
        useful.map(|flag| (edit_distance(name, flag.name), flag)).min_by_key(|(distance, _)| *distance)?;
    (distance <= name.len() / 3).then_some(flag.name)
}

/// Insertions, deletions and replacements that turn `from` into `to`.
fn edit_distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}
