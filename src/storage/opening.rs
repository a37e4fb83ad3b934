//! Which file is being opened, for whoever has to say why the process ends.
//!
//! Records and cells have checksums of ours; redb's own pages have none that is checked, and redb
//! panics where one of them makes no sense. A file is read whole when it is opened. So that is when
//! such a page is met, and the panic has to be told as what it is: this file is damaged.

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
};

thread_local! {
    static OPENED: RefCell<Option<PathBuf>> = const { RefCell::new(None) };
}

/// This thread opens a file, for as long as this lives.
pub(crate) struct Opening {
    before: Option<PathBuf>,
}

impl Opening {
    pub(super) fn of(path: &Path) -> Opening {
        Opening { before: OPENED.replace(Some(path.to_owned())) }
    }

    /// What the calling thread opens.
    pub(crate) fn under_way() -> Option<PathBuf> {
        OPENED.with_borrow(Clone::clone)
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        OPENED.set(self.before.take());
    }
}
