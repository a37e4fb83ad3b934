//! The memory that the bodies of requests of the version 2 API may take.

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use http_body_util::BodyExt;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time,
};

use crate::limits;

pub(crate) struct Gate {
    /// One permit for each byte of the bodies that are being received or processed.
    bodies: Arc<Semaphore>,
}

/// A body, and the bytes that it takes of the budget.
pub(super) struct Received {
    pub(super) bytes: Vec<u8>,
    _held: Vec<OwnedSemaphorePermit>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyError {
    TooLarge,
    /// There is no memory for it now.
    NoRoom,
    /// The client has gone, or sent nothing for too long.
    Incomplete,
}

impl Gate {
    pub(crate) fn new() -> Arc<Gate> {
        Arc::new(Gate { bodies: Arc::new(Semaphore::new(limits::V2_FORMS_BYTES_MAX)) })
    }

    pub(super) async fn receive(&self, mut body: Body) -> Result<Received, BodyError> {
        const PATIENCE: Duration = limits::CLIENT_PATIENCE;
        let mut received = Received { bytes: Vec::new(), _held: Vec::new() };
        loop {
            let frame = time::timeout(PATIENCE, body.frame()).await.map_err(|_| BodyError::Incomplete)?;
            let Some(frame) = frame else { return Ok(received) };
            let frame = frame.map_err(|_| BodyError::Incomplete)?;
            let Ok(data) = frame.into_data() else { continue };
            if received.bytes.len() + data.len() > limits::V2_FORM_BYTES_MAX {
                return Err(BodyError::TooLarge);
            }
            let len = u32::try_from(data.len()).map_err(|_| BodyError::TooLarge)?;
            let held = self.bodies.clone().try_acquire_many_owned(len).map_err(|_| BodyError::NoRoom)?;
            received._held.push(held);
            received.bytes.extend_from_slice(&data);
        }
    }
}
