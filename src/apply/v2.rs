//! Applying the commands of the version 2 API, and opening what they have left.

use super::{Advanced, Effect, StateMachine, state::unreadable};
use crate::{
    apply::Response,
    storage::{Reader, StorageError, Table},
    v2::{Advanced as V2Advanced, Changes, Run, Store, V2Command},
};

pub(super) fn begin(state: &mut StateMachine, command: &V2Command, keys_left: &mut usize) -> Advanced<Run> {
    let advanced = state.v2.begin(command, keys_left);
    finish(state, advanced)
}

pub(super) fn advance(state: &mut StateMachine, run: Run, keys_left: &mut usize) -> Advanced<Run> {
    let advanced = state.v2.advance(run, keys_left);
    finish(state, advanced)
}

fn finish(state: &mut StateMachine, advanced: V2Advanced) -> Advanced<Run> {
    let Changes { cells, counted_before, counted_after } = state.v2.take_changes();
    for (table, key, cell) in cells {
        state.record(table, key, cell);
    }
    state.mvcc.cells_changed(counted_before, counted_after);
    match advanced {
        V2Advanced::More(run) => Advanced::More(run),
        V2Advanced::Done(answer) => Advanced::Done(Effect::quiet(Response::V2(Box::new(answer)))),
    }
}

pub(super) fn open(reader: &Reader) -> Result<Store, StorageError> {
    let mut store = Store::default();
    for cell in reader.cells(Table::V2Node)? {
        let (key, cell) = cell?;
        let restored = store.restore_node(&key, &cell);
        restored.ok_or_else(|| reader.corrupted(unreadable("node", &key)))?;
    }
    let mut is_first = true;
    for cell in reader.cells(Table::V2Event)? {
        let (key, cell) = cell?;
        let restored = store.restore_event(&key, &cell, std::mem::take(&mut is_first));
        restored.ok_or_else(|| reader.corrupted(unreadable("event", &key)))?;
    }
    for cell in reader.cells(Table::V2Account)? {
        let (key, cell) = cell?;
        let restored = store.restore_account(&key, &cell);
        restored.ok_or_else(|| reader.corrupted(unreadable("account", &key)))?;
    }
    let restored = store.restored();
    restored.ok_or_else(|| reader.corrupted("a node of the version 2 API is in no directory".to_owned()))?;
    Ok(store)
}
