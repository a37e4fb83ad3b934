//! What watchers were sent, against what happened.

use crate::{
    history::{History, Violation},
    replay::Replayed,
};

#[derive(Debug)]
pub(crate) struct Summary {
    pub(crate) events: usize,
}

pub(crate) fn check(_history: &History, replayed: &Replayed) -> Result<Summary, Violation> {
    Ok(Summary { events: replayed.changes.len() })
}
