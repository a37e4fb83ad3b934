//! Memory: of a server that has just been started, and of one that holds so many keys.

use std::{thread, time::Duration};

use super::{Row, Turn, VALUE_BYTES};
use crate::{
    Failure,
    figures::{Figure, MEMORY, figure},
};

/// So that what is freed after the load has been returned to the system.
const SETTLE: Duration = Duration::from_secs(3);

pub(crate) struct Idle;

impl Row for Idle {
    fn name(&self) -> String {
        "idle server".to_owned()
    }

    fn measure(&self, turn: &mut Turn<'_>) -> Result<Vec<Figure>, Failure> {
        turn.connect()?;
        resident(turn)
    }
}

pub(crate) struct Filled {
    pub(crate) keys: usize,
}

impl Row for Filled {
    fn name(&self) -> String {
        format!("{} keys of {VALUE_BYTES} bytes", self.keys)
    }

    fn measure(&self, turn: &mut Turn<'_>) -> Result<Vec<Figure>, Failure> {
        turn.fill(self.keys, VALUE_BYTES)?;
        resident(turn)
    }
}

fn resident(turn: &mut Turn<'_>) -> Result<Vec<Figure>, Failure> {
    Ok(vec![figure(MEMORY, resident_mib(turn)?)])
}

pub(super) fn resident_mib(turn: &mut Turn<'_>) -> Result<f64, Failure> {
    thread::sleep(SETTLE);
    Ok(turn.server.usage()?.resident_bytes as f64 / f64::from(1 << 20))
}
