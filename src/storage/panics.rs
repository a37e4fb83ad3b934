//! What a panic of redb says: which file is damaged, and what to do.

use std::{panic, process};

use super::{error::REMEDY, inside::Inside};

/// From now on, turns a panic of redb into an error message that names the damaged file: redb panics when it cannot
/// interpret its own pages. A panic of our own code stays what it is.
pub(crate) fn name_damaged_files(tell: impl Fn(&str) + Send + Sync + 'static) {
    let others = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        let is_ours = panic.location().is_some_and(|location| location.file().starts_with("src/"));
        let Some(path) = Inside::file().filter(|_| !is_ours) else { return others(panic) };
        let detail = panic.payload_as_str().unwrap_or("its content cannot be read");
        let path = path.display();
        tell(&format!("{path} is damaged: {detail}; {REMEDY}"));
        process::exit(1);
    }));
}
