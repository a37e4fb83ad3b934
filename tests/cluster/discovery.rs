//! Clusters whose members find each other: by SRV records, and through etcd's discovery service.

use std::net::Ipv4Addr;

use crate::{
    certificates::{Authority, Subject},
    cluster::{Cluster, Member, Plan},
    name_server::{NameServer, Records},
    tools::etcdctl,
};

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// Starts members together.
fn found(mut members: Vec<Member>) -> Cluster {
    for member in &mut members {
        member.spawn();
    }
    for member in &mut members {
        member.wait_until_ready();
    }
    Cluster { members }
}

fn records_of(members: &[Member], service: &str) -> Records {
    let mut records = Records::default();
    for member in members {
        let host = format!("{}.cluster.test", member.name);
        records.addresses.insert(host.clone(), vec![LOOPBACK]);
        let targets = records.services.entry(service.to_owned()).or_default();
        targets.push((host, member.peer_port));
    }
    records
}

/// Gives the members a domain, and flags that name it.
fn with_domain(members: &mut [Member], server: &NameServer, flags: &[&str]) {
    for member in members {
        let host = format!("{}.cluster.test", member.name);
        member.initial_cluster = String::new();
        member.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        // Later flags count.
        member.flags.push(format!("--initial-advertise-peer-urls=http://{host}:{}", member.peer_port));
        let wrapper = server.wrapper(member.home());
        member.wrap(&wrapper);
    }
}

async fn works(cluster: &Cluster) {
    cluster.leader().await;
    let endpoints = cluster.endpoints();
    assert_eq!(etcdctl(&endpoints, &["put", "k", "v"]).expect("a quorum"), "OK\n");
    cluster.assert_equal().await;
    let members = etcdctl(&endpoints, &["member", "list"]).expect("a list");
    assert_eq!(members.lines().count(), cluster.members.len(), "{members}");
    for member in &cluster.members {
        assert!(members.contains(&format!(", {}, http", member.name)), "{members}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_find_each_other_by_srv_records() {
    for plan in [Plan::new(3), Plan::reference(3)] {
        let is_reference = plan.is_reference();
        let mut members = plan.members();
        let records = records_of(&members, "_etcd-server-blue._tcp.cluster.test");
        let Some(server) = NameServer::start(records) else { return };
        with_domain(
            &mut members,
            &server,
            &["--discovery-srv=cluster.test", "--discovery-srv-name=blue", "--initial-cluster-token=t"],
        );
        let mut cluster = found(members);
        works(&cluster).await;
        let log = cluster.members[0].log();
        assert!(
            log.contains("get cluster for etcd-server") && log.contains("got bootstrap from DNS"),
            "{log}"
        );
        if is_reference {
            continue;
        }
        // A member that has data does not ask again.
        server.forget_services();
        cluster.members[1].kill();
        cluster.members[1].start();
        works(&cluster).await;
        assert!(!cluster.members[1].log().contains("get cluster for"), "{}", cluster.members[1].log());
    }
}

/// Without a CA of its own, which signs for nobody else, a founding member looks for its domain in the certificates of the
/// others, and not for their hosts.
#[tokio::test(flavor = "multi_thread")]
async fn members_with_certificates_for_their_domain_find_each_other() {
    let authority = Authority::new("everybody's");
    let of = |label: &str, hosts: &str| {
        authority.issue_for(label, &Subject { name: label, hosts, valid: ("", "") })
    };
    let of_domain = of("domain", "DNS:cluster.test");
    let of_hosts = of("hosts", "DNS:m0.cluster.test,DNS:m1.cluster.test,DNS:m2.cluster.test");
    for (plan, pair, is_right) in [
        (Plan::new(3), &of_domain, true),
        (Plan::reference(3), &of_domain, true),
        (Plan::new(3), &of_hosts, false),
        (Plan::reference(3), &of_hosts, false),
    ] {
        let mut members = plan.with_peer_tls().members();
        let Some(server) = NameServer::start(records_of(&members, "_etcd-server-ssl._tcp.cluster.test"))
        else {
            return;
        };
        let flags = [
            "--discovery-srv=cluster.test".to_owned(),
            format!("--peer-cert-file={}", pair.cert.display()),
            format!("--peer-key-file={}", pair.key.display()),
        ];
        with_domain(&mut members, &server, &flags.each_ref().map(String::as_str));
        for member in &mut members {
            let url = format!("https://{}.cluster.test:{}", member.name, member.peer_port);
            member.flags.push(format!("--initial-advertise-peer-urls={url}"));
            // What the system trusts.
            member.environment.push(("SSL_CERT_FILE".to_owned(), authority.cert().display().to_string()));
        }
        if is_right {
            works(&found(members)).await;
            continue;
        }
        members.iter_mut().for_each(Member::spawn);
        members[0].wait_for_line("2.cluster.test, not cluster.test");
    }
}

#[test]
fn records_without_this_member_are_refused() {
    let mut members = Plan::new(2).members();
    let records = records_of(&members[1..], "_etcd-server._tcp.cluster.test");
    let Some(server) = NameServer::start(records) else { return };
    let mut records = Records::default();
    records.addresses.insert("m0.cluster.test".to_owned(), vec![LOOPBACK]);
    with_domain(&mut members, &server, &["--discovery-srv=cluster.test"]);
    // Its own name is none of that name server's.
    let own = format!("--initial-advertise-peer-urls=http://127.0.0.1:{}", members[0].peer_port);
    members[0].flags.push(own);
    let log = members[0].start_refused();
    assert!(log.contains("cannot find local etcd member \\\"m0\\\" in SRV records"), "{log}");
    let Some(server) = NameServer::start(records) else { return };
    with_domain(&mut members, &server, &["--discovery-srv=cluster.test"]);
    let log = members[0].start_refused();
    assert!(log.contains("error querying DNS SRV records for _etcd-server "), "{log}");
}

/// etcdctl finds its endpoints in the same way.
#[test]
fn a_client_finds_the_members_by_srv_records() {
    let cluster = Cluster::found(1);
    let member = &cluster.members[0];
    let mut records = Records::default();
    records.addresses.insert("m0.cluster.test".to_owned(), vec![LOOPBACK]);
    let target = ("m0.cluster.test".to_owned(), member.client_port);
    records.services.insert("_etcd-client-blue._tcp.cluster.test".to_owned(), vec![target]);
    let Some(server) = NameServer::start(records) else { return };
    let retcd = std::path::PathBuf::from(env!("CARGO_BIN_EXE_retcd"));
    let theirs = crate::tools::Release::V35.etcdctl();
    for (program, words) in [(retcd, vec!["ctl"]), (theirs, vec![])] {
        let run = |flags: &[&str]| {
            let mut command = server.wrapper(member.home());
            command.arg(&program).args(&words).args(["--discovery-srv", "cluster.test"]).args(flags);
            command.output().expect("it runs")
        };
        let put = run(&["--discovery-srv-name", "blue", "put", "k", "v"]);
        assert_eq!(String::from_utf8_lossy(&put.stdout), "OK\n", "{put:?}");
        let lost = run(&["--discovery-srv-name", "red", "put", "k", "v"]);
        assert_eq!(lost.status.code(), Some(1), "{lost:?}");
        assert!(String::from_utf8_lossy(&lost.stderr).contains("lookup"), "{lost:?}");
    }
}

/// A cluster that others find each other in.
fn discovery_service() -> Cluster {
    Cluster::found(1)
}

fn with_token(members: &mut [Member], service: &Cluster, token: &str) {
    for member in members {
        member.initial_cluster = String::new();
        member.flags = vec![
            format!("--discovery-endpoints=http://{}", service.endpoints()),
            format!("--discovery-token={token}"),
        ];
    }
}

fn set_size(service: &Cluster, token: &str, size: &str) {
    let key = format!("/_etcd/registry/{token}/_config/size");
    etcdctl(&service.endpoints(), &["put", &key, size]).expect("it is put");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_find_each_other_through_a_discovery_service() {
    let service = discovery_service();
    for plan in [Plan::new(3), Plan::reference(3)] {
        let is_reference = plan.is_reference();
        let token = if is_reference { "theirs" } else { "ours" };
        set_size(&service, token, "3");
        let mut members = plan.members();
        with_token(&mut members, &service, token);
        let mut cluster = found(members);
        works(&cluster).await;
        let ids = etcdctl(&cluster.endpoints(), &["member", "list"]).expect("a list");
        let keys = etcdctl(
            &service.endpoints(),
            &["get", "--prefix", "--keys-only", &format!("/_etcd/registry/{token}/members/")],
        )
        .expect("it is read");
        let registered: Vec<&str> =
            keys.lines().filter_map(|key| key.rsplit_once('/').map(|(_, id)| id)).collect();
        assert_eq!(registered.len(), 3, "{keys}");
        for id in registered {
            assert!(ids.contains(id), "{id} is not in {ids}");
        }
        if is_reference {
            continue;
        }
        // The cluster is complete, and a fourth does not belong to it.
        let mut more = Plan::new(1).members();
        with_token(&mut more, &service, token);
        let log = more[0].start_refused();
        assert!(log.contains("discovery: cluster is full"), "{log}");
        // Members with data do without the service.
        cluster.members[0].flags[0] = "--discovery-endpoints=http://127.0.0.1:1".to_owned();
        cluster.members[0].kill();
        cluster.members[0].start();
        works(&cluster).await;
    }
}

#[test]
fn a_token_that_nobody_has_made_is_refused() {
    let service = discovery_service();
    let mut members = Plan::new(1).members();
    with_token(&mut members, &service, "none");
    let log = members[0].start_refused();
    assert!(log.contains("discovery: size key not found; put the number of members into"), "{log}");
    set_size(&service, "none", "many");
    let log = members[0].start_refused();
    assert!(log.contains("discovery: size key is bad"), "{log}");
}

/// The password of the discovery service is in no line of the log.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_with_users_is_logged_in_to() {
    let service = discovery_service();
    set_size(&service, "guarded", "1");
    let password = format!("{}-password", crate::cluster::canary::MARK);
    let endpoints = service.endpoints();
    for arguments in [
        vec!["user", "add", &format!("root:{password}")],
        vec!["user", "grant-role", "root", "root"],
        vec!["auth", "enable"],
    ] {
        etcdctl(&endpoints, &arguments).expect("it is done");
    }
    let mut members = Plan::new(1).members();
    with_token(&mut members, &service, "guarded");
    let log = {
        members[0].flags.push("--discovery-user=root".to_owned());
        members[0].start_refused()
    };
    assert!(log.contains("--discovery-user needs a password"), "{log}");
    members[0].environment = vec![("ETCD_DISCOVERY_PASSWORD".to_owned(), password)];
    let cluster = found(members);
    works(&cluster).await;
    let log = cluster.members[0].log();
    assert!(crate::cluster::canary::found_in(log.lines()).is_empty(), "{log}");
}
