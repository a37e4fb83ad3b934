//! Who founds a new cluster, where the flags do not list the members.
//!
//! ```text
//! --discovery-srv        SRV records  ---\
//!                                         >--- name=url,name=url --- as in --initial-cluster
//! --discovery-endpoints  an etcd      ---/
//! ```
//!
//! It is asked once, before a member has an identity: from then on the members know each other.

mod srv;

use tokio::runtime;

use crate::{
    config::{self, Config, Founding},
    ctl, threads,
};

/// The settings with the members that found the cluster. It blocks until all of them are known. The error is a message
/// for the operator.
pub(crate) fn find(config: &Config) -> Result<Config, String> {
    let members = match &config.founding {
        Founding::Listed => return Ok(config.clone()),
        Founding::Dns { domain, service } => srv::members(config, domain, service)
            .map_err(|error| format!("error setting up initial cluster: {error}"))?,
        Founding::Service(service) => {
            let id = config::member_id(&config.initial_advertise_peer_urls, &service.token);
            let id = format!("{:x}", id.0);
            let own = config.initial_cluster_text();
            // A client stays on its thread, and this one has a runtime already.
            let members = threads::apart(|| {
                let runtime = runtime::Builder::new_current_thread().enable_all().build();
                runtime.map_err(|error| error.to_string())?.block_on(ctl::join_cluster(service, &id, &own))
            });
            members.map_err(|error| format!("discovery failed: {error}"))?
        }
    };
    let founded = config.founded_by(&members);
    let founded = founded.map_err(|error| format!("discovery found no cluster: {error}"))?;
    Ok(match &config.founding {
        Founding::Dns { domain, .. } => founded.found_in_domain(domain),
        Founding::Listed | Founding::Service(_) => founded,
    })
}
