//! The flags of commands, and how they are read from a command line: as etcdctl's library (pflag) reads them.
//!
//! Flags and arguments may be mixed, `--` ends the flags, `-w json`, `-wjson` and `--write-out=json` are the same, and
//! a switch takes a value only behind `=`.

use std::time::Duration;

use super::go;

/// One flag. The tables of flags are constants, from which the usage and the completion are made too.
#[derive(Debug)]
pub(crate) struct Flag {
    pub(crate) name: &'static str,
    pub(crate) short: Option<char>,
    pub(crate) kind: Kind,
    /// As it would be written on a command line; empty: false, zero, or no text.
    pub(crate) default: &'static str,
    pub(crate) usage: &'static str,
    /// The values that a shell offers.
    pub(crate) choices: &'static [&'static str],
    /// The command is refused without it.
    pub(crate) is_required: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Switch,
    Int,
    Uint,
    Duration,
    Text,
    List,
}

impl Flag {
    pub(crate) const fn new(kind: Kind, name: &'static str, usage: &'static str) -> Flag {
        Flag { name, short: None, kind, default: "", usage, choices: &[], is_required: false }
    }

    pub(crate) const fn switch(name: &'static str, usage: &'static str) -> Flag {
        Flag::new(Kind::Switch, name, usage)
    }

    pub(crate) const fn int(name: &'static str, usage: &'static str) -> Flag {
        Flag::new(Kind::Int, name, usage)
    }

    pub(crate) const fn text(name: &'static str, usage: &'static str) -> Flag {
        Flag::new(Kind::Text, name, usage)
    }

    pub(crate) const fn or(self, default: &'static str) -> Flag {
        Flag { default, ..self }
    }

    pub(crate) const fn short(self, short: char) -> Flag {
        Flag { short: Some(short), ..self }
    }

    pub(crate) const fn required(self) -> Flag {
        Flag { is_required: true, ..self }
    }

    pub(crate) const fn one_of(self, choices: &'static [&'static str]) -> Flag {
        Flag { choices, ..self }
    }

    fn is_switch(&self) -> bool {
        self.kind == Kind::Switch
    }

    /// Its name in an error message.
    fn shown(&self) -> String {
        match self.short {
            Some(short) => format!("-{short}, --{}", self.name),
            None => format!("--{}", self.name),
        }
    }

    fn parse(&self, text: &str) -> Result<Value, String> {
        Ok(match self.kind {
            Kind::Switch => Value::Switch(go::parse_bool(text).map_err(|error| error.to_string())?),
            Kind::Int => Value::Int(go::parse_int(text, 0).map_err(|error| error.to_string())?),
            Kind::Uint => Value::Uint(go::parse_uint(text, 0).map_err(|error| error.to_string())?),
            Kind::Duration => Value::Duration(go::parse_duration(text)?),
            Kind::Text => Value::Text(text.to_owned()),
            Kind::List if text.is_empty() => Value::List(Vec::new()),
            Kind::List => Value::List(text.split(',').map(str::to_owned).collect()),
        })
    }

    fn default_value(&self) -> Value {
        let text = match (self.kind, self.default) {
            (Kind::Switch, "") => "false",
            (Kind::Int | Kind::Uint | Kind::Duration, "") => "0",
            (_, default) => default,
        };
        self.parse(text).expect("the defaults in the tables of flags are values")
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Value {
    Switch(bool),
    Int(i64),
    Uint(u64),
    Duration(Duration),
    Text(String),
    List(Vec<String>),
}

/// The flags that a command takes, with their values.
#[derive(Clone, Debug)]
pub(crate) struct Values(Vec<Entry>);

#[derive(Clone, Debug)]
struct Entry {
    flag: &'static Flag,
    value: Value,
    /// It was given on the command line or by a variable.
    is_set: bool,
}

/// What a command line says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    Arguments(Vec<Vec<u8>>),
    /// Asked for by `--help` or `-h`.
    Help,
}

impl Values {
    pub(crate) fn defaults(flags: impl IntoIterator<Item = &'static Flag>) -> Values {
        let entry = |flag: &'static Flag| Entry { flag, value: flag.default_value(), is_set: false };
        Values(flags.into_iter().map(entry).collect())
    }

    /// Takes the flags out of `args`. The error is the text that etcdctl has for it.
    pub(crate) fn parse(&mut self, args: &[Vec<u8>]) -> Result<Parsed, String> {
        let mut arguments = Vec::new();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            if !is_flag(arg) {
                arguments.push(arg.clone());
                continue;
            }
            if arg == b"--" {
                arguments.extend(args.cloned());
                break;
            }
            let text = String::from_utf8_lossy(arg).into_owned();
            let is_help = match text.strip_prefix("--") {
                Some(long) => self.parse_long(&text, long, &mut args)?,
                None => self.parse_short(&text[1..], &mut args)?,
            };
            if is_help {
                return Ok(Parsed::Help);
            }
        }
        Ok(Parsed::Arguments(arguments))
    }

    fn parse_long<'a>(
        &mut self,
        arg: &str,
        long: &str,
        args: &mut impl Iterator<Item = &'a Vec<u8>>,
    ) -> Result<bool, String> {
        if long.starts_with(['-', '=']) {
            return Err(format!("bad flag syntax: {arg}"));
        }
        let (name, given) = match long.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (long, None),
        };
        let Some(entry) = self.entry(|flag| flag.name == name) else {
            return if name == "help" { Ok(true) } else { Err(format!("unknown flag: --{name}")) };
        };
        let value = match given {
            Some(value) => value,
            None if entry.flag.is_switch() => "true".to_owned(),
            None => next_text(args).ok_or_else(|| format!("flag needs an argument: --{name}"))?,
        };
        entry.set(&value)?;
        Ok(false)
    }

    /// `shorts` may be several switches, the last of them with a value: `-iw json`.
    fn parse_short<'a>(
        &mut self,
        shorts: &str,
        args: &mut impl Iterator<Item = &'a Vec<u8>>,
    ) -> Result<bool, String> {
        let mut rest = shorts;
        while let Some(short) = rest.chars().next() {
            let whole = rest;
            rest = &rest[short.len_utf8()..];
            let Some(entry) = self.entry(|flag| flag.short == Some(short)) else {
                return if short == 'h' {
                    Ok(true)
                } else {
                    Err(format!("unknown shorthand flag: '{short}' in -{whole}"))
                };
            };
            let value = match rest.strip_prefix('=') {
                Some(value) => {
                    rest = "";
                    value.to_owned()
                }
                None if entry.flag.is_switch() => "true".to_owned(),
                None if !rest.is_empty() => std::mem::take(&mut rest).to_owned(),
                None => {
                    next_text(args).ok_or_else(|| format!("flag needs an argument: '{short}' in -{whole}"))?
                }
            };
            entry.set(&value)?;
        }
        Ok(false)
    }

    fn entry(&mut self, is_meant: impl Fn(&Flag) -> bool) -> Option<&mut Entry> {
        self.0.iter_mut().find(|entry| is_meant(entry.flag))
    }

    /// Sets a flag by a variable of the environment. A value that the flag does not take is an error, and changes
    /// nothing.
    pub(crate) fn set(&mut self, flag: &Flag, text: &str) -> Result<(), String> {
        match self.entry(|known| known.name == flag.name) {
            Some(entry) => entry.set(text),
            None => Ok(()),
        }
    }

    /// The error names the flags that are required and are not there.
    pub(crate) fn require(&self) -> Result<(), String> {
        let missing = self.0.iter().filter(|entry| entry.flag.is_required && !entry.is_set);
        let mut missing: Vec<String> = missing.map(|entry| format!("\"{}\"", entry.flag.name)).collect();
        missing.sort_unstable();
        match missing.is_empty() {
            true => Ok(()),
            false => Err(format!("required flag(s) {} not set", missing.join(", "))),
        }
    }

    pub(crate) fn is_set(&self, name: &str) -> bool {
        self.get(name).is_set
    }

    pub(crate) fn switch(&self, name: &str) -> bool {
        match &self.get(name).value {
            Value::Switch(value) => *value,
            other => panic!("--{name} is {other:?}"),
        }
    }

    pub(crate) fn int(&self, name: &str) -> i64 {
        match &self.get(name).value {
            Value::Int(value) => *value,
            other => panic!("--{name} is {other:?}"),
        }
    }

    pub(crate) fn uint(&self, name: &str) -> u64 {
        match &self.get(name).value {
            Value::Uint(value) => *value,
            other => panic!("--{name} is {other:?}"),
        }
    }

    pub(crate) fn duration(&self, name: &str) -> Duration {
        match &self.get(name).value {
            Value::Duration(value) => *value,
            other => panic!("--{name} is {other:?}"),
        }
    }

    pub(crate) fn text(&self, name: &str) -> &str {
        match &self.get(name).value {
            Value::Text(value) => value,
            other => panic!("--{name} is {other:?}"),
        }
    }

    pub(crate) fn list(&self, name: &str) -> &[String] {
        match &self.get(name).value {
            Value::List(value) => value,
            other => panic!("--{name} is {other:?}"),
        }
    }

    /// A flag that the tables do not give to the command is a mistake in this program.
    fn get(&self, name: &str) -> &Entry {
        let entry = self.0.iter().find(|entry| entry.flag.name == name);
        entry.unwrap_or_else(|| panic!("the command has no flag --{name}"))
    }
}

impl Entry {
    fn set(&mut self, text: &str) -> Result<(), String> {
        let parsed = self.flag.parse(text);
        let value = parsed.map_err(|error| {
            let text = go::quote(text.as_bytes());
            format!("invalid argument {text} for \"{}\" flag: {error}", self.flag.shown())
        })?;
        match (&mut self.value, value) {
            // A list that is given twice is one list.
            (Value::List(list), Value::List(more)) if self.is_set => list.extend(more),
            (old, new) => *old = new,
        }
        self.is_set = true;
        Ok(())
    }
}

/// Whether an argument is one or more flags, or the `--` that ends them. A single dash is an argument.
pub(crate) fn is_flag(arg: &[u8]) -> bool {
    arg.len() > 1 && arg[0] == b'-'
}

/// Whether `arg` is a flag whose value is the next argument.
pub(crate) fn takes_next<'a>(arg: &str, mut flags: impl Iterator<Item = &'a Flag>) -> bool {
    if arg.contains('=') {
        return false;
    }
    match arg.strip_prefix("--") {
        Some("") => false,
        Some(name) => !flags.any(|flag| flag.name == name && flag.is_switch()),
        None => match arg.strip_prefix('-').map(|shorts| shorts.chars().collect::<Vec<_>>()).as_deref() {
            Some([short]) => !flags.any(|flag| flag.short == Some(*short) && flag.is_switch()),
            _ => false,
        },
    }
}

fn next_text<'a>(args: &mut impl Iterator<Item = &'a Vec<u8>>) -> Option<String> {
    args.next().map(|arg| String::from_utf8_lossy(arg).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &[Flag] = &[
        Flag::switch("prefix", ""),
        Flag::switch("interactive", "").short('i'),
        Flag::int("limit", ""),
        Flag::text("write-out", "").short('w').or("simple"),
        Flag::new(Kind::List, "endpoints", "").or("127.0.0.1:2379"),
        Flag::new(Kind::Duration, "dial-timeout", "").or("2s"),
    ];

    fn parsed(line: &str) -> Result<(Values, Parsed), String> {
        let mut values = Values::defaults(FLAGS);
        let args: Vec<Vec<u8>> = line.split_whitespace().map(|word| word.as_bytes().to_vec()).collect();
        let parsed = values.parse(&args)?;
        Ok((values, parsed))
    }

    #[test]
    fn flags_and_arguments_are_mixed() {
        let (values, rest) = parsed("a --prefix -wjson b --limit 0x10 - -- --prefix=no").unwrap();
        let words = ["a", "b", "-", "--prefix=no"].map(|word| word.as_bytes().to_vec());
        assert_eq!(rest, Parsed::Arguments(words.to_vec()));
        assert!(values.switch("prefix") && values.is_set("prefix") && !values.is_set("dial-timeout"));
        assert_eq!((values.text("write-out"), values.int("limit")), ("json", 16));
        assert_eq!(values.duration("dial-timeout"), Duration::from_secs(2));
        for line in
            ["-w=table", "-w table", "--write-out table", "--write-out=table", "-iw table", "-iw=table"]
        {
            assert_eq!(parsed(line).unwrap().0.text("write-out"), "table", "{line}");
        }
        assert!(!parsed("--prefix=false").unwrap().0.switch("prefix"));
        assert_eq!(parsed("a -h b").unwrap().1, Parsed::Help);
        assert_eq!(parsed("--help").unwrap().1, Parsed::Help);
    }

    #[test]
    fn a_list_given_twice_is_one_list() {
        assert_eq!(parsed("").unwrap().0.list("endpoints"), ["127.0.0.1:2379"]);
        assert_eq!(parsed("--endpoints a,b --endpoints c").unwrap().0.list("endpoints"), ["a", "b", "c"]);
        assert!(parsed("--endpoints=").unwrap().0.list("endpoints").is_empty());
    }

    /// The texts are etcdctl's.
    #[test]
    fn what_is_wrong_is_said_in_etcdctls_words() {
        for (line, text) in [
            ("--bogus", "unknown flag: --bogus"),
            ("-x", "unknown shorthand flag: 'x' in -x"),
            ("-ix", "unknown shorthand flag: 'x' in -x"),
            ("--limit", "flag needs an argument: --limit"),
            ("-w", "flag needs an argument: 'w' in -w"),
            ("---", "bad flag syntax: ---"),
            ("--=x", "bad flag syntax: --=x"),
            (
                "--limit x",
                "invalid argument \"x\" for \"--limit\" flag: strconv.ParseInt: parsing \"x\": invalid syntax",
            ),
            (
                "--interactive=x",
                "invalid argument \"x\" for \"-i, --interactive\" flag: strconv.ParseBool: parsing \"x\": invalid syntax",
            ),
            (
                "--dial-timeout x",
                "invalid argument \"x\" for \"--dial-timeout\" flag: time: invalid duration \"x\"",
            ),
        ] {
            assert_eq!(parsed(line).unwrap_err(), text);
        }
    }
}
