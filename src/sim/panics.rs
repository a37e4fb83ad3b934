//! Panics of simulated members: tokio catches them, and a run has to fail all the same.

use std::{cell::RefCell, panic, sync::Once};

use crate::threads;

thread_local! {
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// From now on panics of threads with simulated members are noted there.
pub(super) fn note() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if threads::is_simulated() {
                LAST.set(Some(info.to_string()));
            }
            before(info);
        }));
    });
    LAST.set(None);
}

/// The last panic of this thread.
pub(super) fn take() -> Option<String> {
    LAST.take()
}
