//! `lease`: what keys can be attached to, and disappear with.

use futures_util::{FutureExt, future::LocalBoxFuture};

use crate::{
    cli::{Command, Exit, Failure, Flag, Format, Group, Invocation, go, output},
    ctl::{
        client::{ClientError, KeepAlive, LEASE_GRANT, LEASE_REVOKE, LEASE_TIME_TO_LIVE, LEASES},
        printer::Shown,
    },
    pb::etcdserverpb::{LeaseGrantRequest, LeaseLeasesRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest},
};

pub(in crate::ctl) const LEASE: Command =
    Command::new("lease", "<subcommand>", "Commands about leases").of(Group::KeyValue).below(&[
        Command::new("grant", "<ttl>", "Makes a lease that ends after <ttl> seconds without a renewal")
            .runs(grant),
        Command::new("keep-alive", "[options] <leaseID>", "Renews a lease again and again")
            .flags(&[Flag::switch("once", "renew it once")])
            .runs(keep_alive),
        Command::new("list", "", "Lists all leases").runs(list),
        Command::new("revoke", "<leaseID>", "Ends a lease, and removes its keys").runs(revoke),
        Command::new("timetolive", "<leaseID> [options]", "Shows how long a lease will live")
            .flags(&[Flag::switch("keys", "show its keys")])
            .runs(time_to_live),
    ]);

fn grant<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        if call.args.len() != 1 {
            return Err(Failure::bad_args("lease grant command needs TTL argument"));
        }
        let ttl = go::parse_int(&call.text(0), 10);
        let ttl = ttl.map_err(|error| Failure::bad_args(format!("bad TTL ({error})")))?;
        let (session, client) = call.connect().await?;
        let answer = client.call(&LEASE_GRANT, &LeaseGrantRequest { ttl, id: 0 }, session.deadline()).await;
        let answer =
            answer.map_err(|error| Exit::Error.because(format_args!("failed to grant lease ({error})")))?;
        session.print(&Shown::LeaseGrant(&answer))
    }
    .boxed_local()
}

fn revoke<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        if call.args.len() != 1 {
            return Err(Failure::bad_args("lease revoke command needs 1 argument"));
        }
        let id = lease_id(&call.text(0))?;
        let (session, client) = call.connect().await?;
        let answer = client.call(&LEASE_REVOKE, &LeaseRevokeRequest { id }, session.deadline()).await;
        let answer =
            answer.map_err(|error| Exit::Error.because(format_args!("failed to revoke lease ({error})")))?;
        session.print(&Shown::LeaseRevoke(id, &answer))
    }
    .boxed_local()
}

fn time_to_live<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        if call.args.len() != 1 {
            return Err(Failure::bad_args("lease timetolive command needs lease ID as argument"));
        }
        let keys = call.values.switch("keys");
        let (session, client) = call.connect().await?;
        let request = LeaseTimeToLiveRequest { id: lease_id(&call.text(0))?, keys };
        let answer = client.call(&LEASE_TIME_TO_LIVE, &request, session.deadline()).await;
        let answer = answer.map_err(|error| Exit::BadConnection.because(error))?;
        session.print(&Shown::LeaseTimeToLive { response: &answer, keys })
    }
    .boxed_local()
}

fn list<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        let (session, client) = call.connect().await?;
        let answer = client.call(&LEASES, &LeaseLeasesRequest {}, session.deadline()).await;
        session.print(&Shown::Leases(&answer.map_err(|error| Exit::BadConnection.because(error))?))
    }
    .boxed_local()
}

fn keep_alive<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        if call.args.len() != 1 {
            return Err(Failure::bad_args("lease keep-alive command needs lease ID as argument"));
        }
        let id = lease_id(&call.text(0))?;
        let (session, client) = call.connect().await?;
        let mut lease = KeepAlive::new(&client, id);
        if call.values.switch("once") {
            let renewed = session.deadline().bound(lease.renew()).await;
            let renewed = renewed.unwrap_or(Err(ClientError::DeadlineExceeded));
            let renewed = renewed.map_err(|error| Exit::BadConnection.because(error))?;
            return session.print(&Shown::LeaseKeepAlive(&renewed));
        }
        // Until the lease has ended, or nobody could be reached for as long as it lives.
        while let Ok(renewed) = lease.next().await {
            session.print(&Shown::LeaseKeepAlive(&renewed))?;
        }
        if session.format == Format::Simple {
            output::line(format_args!("lease {id:016x} expired or revoked."))?;
        }
        Ok(())
    }
    .boxed_local()
}

fn lease_id(text: &str) -> Result<i64, Failure> {
    go::parse_int(text, 16)
        .map_err(|error| Failure::bad_args(format!("bad lease ID arg ({error}), expecting ID in Hex")))
}
