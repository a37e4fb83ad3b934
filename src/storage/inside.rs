//! Which file a thread is reading or writing, for the message when redb panics.
//!
//! Records and cells have checksums of ours. redb's own pages have none that it checks when it reads
//! them, and redb panics where a page makes no sense. Such a panic means that the file is damaged, and
//! the message has to name the file. So whatever calls redb holds an [`Inside`] meanwhile, and the
//! panic hook asks the thread for it.

use std::{
    cell::{Cell, RefCell},
    path::Path,
    sync::Arc,
};

use super::apart::Apart;

thread_local! {
    /// It stays when the thread has left the file, because most threads come back to the same one: so
    /// a read of a record costs no reference count that other threads change too.
    static FILE: RefCell<Option<Arc<Path>>> = const { RefCell::new(None) };
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// The calling thread is inside a file for as long as this lives.
pub(crate) struct Inside {
    /// The file that the thread was inside of before, if that was another one.
    outer: Option<Arc<Path>>,
}

impl Inside {
    pub(super) fn of(path: &Arc<Path>) -> Inside {
        Apart::verify();
        let depth = DEPTH.replace(DEPTH.get() + 1);
        let left = FILE.with_borrow_mut(|file| match file {
            Some(known) if Arc::ptr_eq(known, path) => None,
            _ => file.replace(path.clone()),
        });
        Inside { outer: left.filter(|_| depth > 0) }
    }

    /// The file that the calling thread is inside of.
    pub(crate) fn file() -> Option<Arc<Path>> {
        if DEPTH.get() == 0 { None } else { FILE.with_borrow(Clone::clone) }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let depth = DEPTH.get();
        assert!(depth > 0, "a thread leaves a file that it has entered");
        DEPTH.set(depth - 1);
        if let Some(outer) = self.outer.take() {
            FILE.set(Some(outer));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_inside_the_innermost_file_and_at_last_inside_none() {
        let [one, other] = ["one", "other"].map(|path| Arc::<Path>::from(Path::new(path)));
        let file = || Inside::file().map(|path| path.to_string_lossy().into_owned());
        assert_eq!(file(), None);
        let outer = Inside::of(&one);
        let inner = Inside::of(&other);
        assert_eq!(file().as_deref(), Some("other"));
        let same = Inside::of(&other);
        drop(same);
        assert_eq!(file().as_deref(), Some("other"));
        drop(inner);
        assert_eq!(file().as_deref(), Some("one"));
        drop(outer);
        assert_eq!(file(), None);
        drop(Inside::of(&other));
        assert_eq!(file(), None);
    }
}
