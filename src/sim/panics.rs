//! Panics of simulated members: tokio catches them, and a run has to fail all the same.

use std::{cell::RefCell, panic, path::PathBuf, sync::Once};

use crate::{storage::Inside, threads};

thread_local! {
    static FIRST: RefCell<Option<Panic>> = const { RefCell::new(None) };
}

/// A panic, and the file that makes no sense if it is one of redb's: there the process ends with the name of the file.
pub(super) struct Panic {
    pub(super) what: String,
    pub(super) file: Option<PathBuf>,
    is_of_redb: bool,
}

/// From now on panics of threads with simulated members are noted there.
pub(super) fn note() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if threads::is_simulated() {
                let is_ours = info.location().is_some_and(|location| location.file().starts_with("src/"));
                let file = Inside::file().filter(|_| !is_ours).map(|path| path.to_path_buf());
                let is_of_redb = info.location().is_some_and(|location| location.file().contains("/redb-"));
                let panic = Panic { what: info.to_string(), file, is_of_redb };
                // Others may follow from the first one.
                FIRST.with_borrow_mut(|first| *first = first.take().or(Some(panic)));
            }
            before(info);
        }));
    });
    FIRST.set(None);
}

/// The first panic of this thread since the last time.
pub(super) fn take() -> Option<Panic> {
    FIRST.take()
}

/// Forgets a panic of redb: what redb does when the files of a process that was killed are closed does not happen.
pub(super) fn forget_those_of_redb() {
    FIRST.with_borrow_mut(|first| drop(first.take_if(|panic| panic.is_of_redb)));
}
