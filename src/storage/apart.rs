//! Who must not be inside of a file: a thread that has the lock of the state.
//!
//! A read of the database may wait for the disk, and whoever wants the lock would wait with it. So what a lock's owner
//! needs of the database is read before it takes the lock, or after it has released it. Debug builds check that, and
//! with them all tests that run the real binary.

use std::marker::PhantomData;

#[cfg(debug_assertions)]
use std::cell::Cell;

#[cfg(debug_assertions)]
thread_local! {
    static GUARDS: Cell<usize> = const { Cell::new(0) };
}

/// The calling thread must not be inside of a file for as long as this lives.
pub(crate) struct Apart {
    /// Of this thread alone.
    _thread: PhantomData<*const ()>,
}

impl Apart {
    pub(crate) fn new() -> Apart {
        #[cfg(debug_assertions)]
        GUARDS.set(GUARDS.get() + 1);
        Apart { _thread: PhantomData }
    }

    /// To be called by a thread that enters a file.
    pub(super) fn verify() {
        #[cfg(debug_assertions)]
        assert_eq!(GUARDS.get(), 0, "nobody waits for the lock of the state because of a disk");
    }
}

#[cfg(debug_assertions)]
impl Drop for Apart {
    fn drop(&mut self) {
        GUARDS.set(GUARDS.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_apart_for_as_long_as_it_has_a_lock() {
        let is_apart = || std::panic::catch_unwind(Apart::verify).is_err();
        assert!(!is_apart());
        let outer = Apart::new();
        drop(Apart::new());
        assert!(is_apart());
        std::thread::spawn(Apart::verify).join().expect("another thread has no lock");
        drop(outer);
        assert!(!is_apart());
    }
}
