//! Alarms, and the commands that are refused while an alarm is active.
//!
//! An alarm belongs to one member and has a kind; only commands in the log raise and clear it. While a
//! NOSPACE alarm of any member is active, commands that add data are refused. While a CORRUPT alarm of
//! any member is active, commands that change data are refused.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::{
    apply::{Alarm, AlarmKind, ApplyError, Command, Response, admission},
    types::MemberId,
};

#[derive(Debug, Default)]
pub(crate) struct Alarms {
    active: BTreeSet<Alarm>,
}

impl Alarms {
    /// The active alarms, by member.
    pub(crate) fn active(&self) -> impl Iterator<Item = Alarm> {
        self.active.iter().copied()
    }

    pub(crate) fn any(&self, kind: AlarmKind) -> bool {
        self.active.iter().any(|alarm| alarm.kind == kind)
    }

    /// Answers with the alarm, whether or not it was active before.
    pub(super) fn activate(&mut self, alarm: Alarm) -> Response {
        self.active.insert(alarm);
        Response::Alarm { alarms: vec![alarm] }
    }

    /// Answers with the alarm if it was active.
    pub(super) fn deactivate(&mut self, alarm: Alarm) -> Response {
        let was_active = self.active.remove(&alarm);
        Response::Alarm { alarms: if was_active { vec![alarm] } else { Vec::new() } }
    }

    /// Refuses a command that an active alarm forbids.
    pub(super) fn check(&self, command: &Command) -> Result<(), ApplyError> {
        if self.active.is_empty() {
            return Ok(());
        }
        if self.any(AlarmKind::Corrupt) && changes(command) {
            return Err(ApplyError::Corrupt);
        }
        if self.any(AlarmKind::NoSpace) && grows(command) {
            return Err(ApplyError::NoSpace);
        }
        Ok(())
    }
}

/// Whether the command can change keys. Commands that grant or revoke leases count, because revoking a
/// lease deletes its keys.
fn changes(command: &Command) -> bool {
    match command {
        Command::Put(_)
        | Command::DeleteRange(_)
        | Command::Compact { .. }
        | Command::LeaseGrant { .. }
        | Command::LeaseRevoke { .. } => true,
        Command::Txn(txn) => !admission::is_read_only(txn),
        Command::V2(_) => true,
        Command::LeaseCheckpoint { .. }
        | Command::AlarmActivate(_)
        | Command::AlarmDeactivate(_)
        | Command::MemberPublish { .. }
        | Command::Auth(_) => false,
    }
}

fn grows(command: &Command) -> bool {
    admission::quota_cost(command) > 0
}

/// The stored form: the key is the member in eight bytes, big-endian, and the kind in one; the cell is
/// empty.
impl Alarms {
    pub(super) fn cell_key(alarm: Alarm) -> Bytes {
        let mut key = alarm.member.0.to_be_bytes().to_vec();
        key.push(match alarm.kind {
            AlarmKind::NoSpace => 1,
            AlarmKind::Corrupt => 2,
        });
        key.into()
    }

    pub(super) fn cell(&self, alarm: Alarm) -> Option<Bytes> {
        self.active.contains(&alarm).then(Bytes::new)
    }

    /// `None` if this is not what [`Alarms::cell_key`] writes.
    pub(super) fn restore(&mut self, key: &[u8]) -> Option<()> {
        let (member, kind) = key.split_first_chunk::<8>()?;
        let kind = match kind {
            [1] => AlarmKind::NoSpace,
            [2] => AlarmKind::Corrupt,
            _ => return None,
        };
        self.active.insert(Alarm { member: MemberId(u64::from_be_bytes(*member)), kind });
        Some(())
    }
}
