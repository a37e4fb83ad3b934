//! The arguments of the benchmark programs.

use std::{env, path::PathBuf};

use super::{Failure, tools};

pub(super) struct Arguments(pub(super) Vec<String>);

impl Arguments {
    /// `None` if no benchmark is wanted: `cargo test --all-targets` runs these programs too.
    pub(super) fn of_bench() -> Option<Arguments> {
        let arguments: Vec<String> = env::args().skip(1).collect();
        arguments.iter().any(|argument| argument == "--bench").then_some(Arguments(arguments))
    }

    pub(super) fn value(&self, name: &str) -> Option<&str> {
        let at = self.0.iter().position(|argument| argument == name)?;
        self.0.get(at + 1).map(String::as_str)
    }

    pub(super) fn number(&self, name: &str, default: usize) -> Result<usize, Failure> {
        let Some(value) = self.value(name) else { return Ok(default) };
        let number = value.parse().ok().filter(|number| *number > 0);
        number.ok_or_else(|| format!("{name} needs a number above 0").into())
    }

    /// The server that is measured: `None` for the build of this tree, `etcd` for the etcd that the tests compare with.
    pub(super) fn program(&self) -> Result<Option<PathBuf>, Failure> {
        Ok(match self.value("--program") {
            Some("etcd") => Some(tools::brought_reference()?.etcd.clone()),
            Some(path) => Some(PathBuf::from(path)),
            None => None,
        })
    }
}
