//! What a member touches of the world outside of it: directories, the other members, and chance.
//!
//! The process has a file system, a network and the system's randomness. A simulator passes others of each.
//! Time is not here: see `clock`.

use std::sync::Arc;

use crate::{
    chance::Chance,
    config::Config,
    disk::{Disks, FileSystem},
    link::{Connector, GrpcConnector},
    tls::Trust,
};

#[derive(Clone)]
pub(crate) struct Outside {
    pub(crate) disks: Arc<dyn Disks>,
    pub(crate) connector: Arc<dyn Connector>,
    /// What the member does by chance comes from it.
    pub(crate) chance: Chance,
    pub(crate) find: Find,
}

/// Finds out who founds the cluster of the settings, at the first start of a member, and returns the settings with these
/// members. It may block until all of them are there. The error is a message for the operator.
pub(crate) type Find = fn(&Config) -> Result<Config, String>;

impl Outside {
    /// What a process has.
    pub(crate) fn of_process(config: &Config, find: Find) -> Outside {
        Outside {
            disks: Arc::new(FileSystem),
            connector: connector(config),
            chance: Chance::from_system(),
            find,
        }
    }

    /// With other settings, which may expect other names in the certificates of the members.
    pub(super) fn changed(self, before: &Config, after: &Config) -> Outside {
        if before.peer_security == after.peer_security {
            return self;
        }
        Outside { connector: connector(after), ..self }
    }
}

fn connector(config: &Config) -> Arc<dyn Connector> {
    Arc::new(GrpcConnector::new(Trust::new(&config.peer_security)))
}
