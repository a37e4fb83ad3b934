//! What TLS and authentication cost.
//!
//! ```text
//! round 1: open, tls, auth, roles    round 2: open, tls, auth, roles    ...
//! ```
//!
//! `cargo bench --bench guards` starts a new server for each turn: `open` has neither TLS nor users, `tls` has TLS, `auth`
//! authentication, with a token for each call, and `roles` a user with 1,000 roles of 100 ranges each. The same puts and
//! ranges are made on all of them, and the medians of the rounds are printed, beside `open` as a ratio. Then come logins:
//! the first of each of many users, which takes bcrypt, and 10,000 more; and TLS handshakes.
//!
//! `--program etcd` measures etcd instead, `--program PATH` another build. `--seconds N` is for each load (3), `--rounds N`
//! how often (3). Trust the ratios of one run more than its figures, because client and server share the machine; a
//! client's part of encryption is in them.

#![allow(clippy::disallowed_methods, reason = "a measurement lives by the clock")]

use std::{
    error::Error,
    io::{self, Write as _},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, TryStreamExt, future::try_join_all, stream};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, runtime};
use tokio_rustls::TlsConnector;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::Channel,
};

use self::{
    arguments::Arguments,
    certificates::Authority,
    cluster::{Cluster, Connect, Member, Plan},
    pb::{
        authpb::Permission,
        etcdserverpb::{
            AuthEnableRequest, AuthRoleAddRequest, AuthRoleGrantPermissionRequest, AuthUserAddRequest,
            AuthUserGrantRoleRequest, AuthenticateRequest, PutRequest, RangeRequest, auth_client::AuthClient,
            kv_client::KvClient,
        },
    },
};

#[path = "bench_arguments.rs"]
mod arguments;
#[path = "../tests/support/certificates.rs"]
mod certificates;
#[path = "../tests/support/cluster.rs"]
mod cluster;
#[path = "../tests/support/pb.rs"]
mod pb;
#[path = "../tests/support/secure.rs"]
mod secure;
#[path = "../tests/support/tools.rs"]
mod tools;

const CONNECTIONS: usize = 8;
const CLIENTS: usize = 64;
const KEYS: usize = 10_000;
const VALUE_BYTES: usize = 256;
const ROLES: usize = 1000;
const RANGES_PER_ROLE: usize = 100;
/// Users with a password each.
const USERS: usize = 200;
const REPEATED_LOGINS: usize = 10_000;
const LOGIN_CLIENTS: usize = 16;
const HANDSHAKE_CLIENTS: usize = 16;

type Failure = Box<dyn Error + Send + Sync>;
type Token = Option<MetadataValue<Ascii>>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Guard {
    Open,
    Tls,
    Auth,
    Roles,
}

const GUARDS: [(&str, Guard); 4] =
    [("open", Guard::Open), ("tls", Guard::Tls), ("auth", Guard::Auth), ("roles", Guard::Roles)];

#[derive(Clone, Copy)]
enum Op {
    Put,
    Range,
}

const OPS: [(&str, Op); 2] = [("puts", Op::Put), ("ranges of one key", Op::Range)];

fn main() -> Result<(), Failure> {
    let Some(arguments) = Arguments::of_bench() else { return Ok(()) };
    let length = Duration::from_secs(arguments.number("--seconds", 3)? as u64);
    let rounds = arguments.number("--rounds", 3)?;
    let program = arguments.program()?;
    let only = arguments.value("--only");
    let plan = || match &program {
        None => Plan::new(1),
        Some(program) => Plan::new(1).program(program.clone()),
    };
    let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut out = io::stdout();
    let wanted = |name: &str| only.is_none_or(|only| only == name);
    let guards: Vec<_> = GUARDS.into_iter().filter(|(name, _)| *name == "open" || wanted(name)).collect();
    let has_loads = guards.len() > 1;
    let mut seen: Vec<Vec<[Figures; OPS.len()]>> = vec![Vec::new(); guards.len()];
    for round in 0..if has_loads { rounds } else { 0 } {
        for ((name, guard), seen) in guards.iter().zip(&mut seen) {
            writeln!(io::stderr(), "round {} of {rounds}: {name}", round + 1)?;
            seen.push(runtime.block_on(turn(plan(), *guard, length))?);
        }
    }
    for (at, (op, _)) in OPS.iter().enumerate().filter(|_| has_loads) {
        writeln!(
            out,
            "{CLIENTS} clients, {op}: operations a second, and microseconds of the server's CPU each"
        )?;
        let medians: Vec<Figures> =
            seen.iter().map(|turns| median(turns.iter().map(|turn| turn[at]))).collect();
        for ((name, _), [per_second, cpu]) in guards.iter().zip(&medians) {
            let [open_per_second, open_cpu] = medians[0];
            let (faster, cheaper) = (per_second / open_per_second, cpu / open_cpu);
            writeln!(out, "{name:>8} {per_second:8.0} ({faster:.2})  {cpu:6.1} us ({cheaper:.2})")?;
        }
    }
    if wanted("logins") {
        runtime.block_on(logins(plan()))?;
    }
    if wanted("handshakes") {
        runtime.block_on(handshakes(plan(), length))?;
    }
    Ok(())
}

/// Operations a second, and microseconds of the server's CPU for each.
type Figures = [f64; 2];

fn median(turns: impl Iterator<Item = Figures>) -> Figures {
    let turns: Vec<Figures> = turns.collect();
    std::array::from_fn(|column| {
        let mut figures: Vec<f64> = turns.iter().map(|turn| turn[column]).collect();
        figures.sort_unstable_by(f64::total_cmp);
        figures[figures.len() / 2]
    })
}

/// A server with certificates, and a client that trusts it.
struct Secured {
    cluster: Cluster,
    client: Arc<ClientConfig>,
    _authority: Authority,
}

fn with_tls(plan: Plan) -> Secured {
    let authority = Authority::new("ca");
    let own = authority.issue("server");
    let client = certificates::client(&[&authority], None, "h2");
    let trusting = Arc::clone(&client);
    let connect: Connect = Arc::new(move |endpoint| secure::connect(endpoint, &trusting));
    let [cert, key] = [("cert", &own.cert), ("key", &own.key)]
        .map(|(name, path)| format!("--{name}-file={}", path.display()));
    let cluster = plan.with_client_tls(connect).flags(&[&*cert, &*key]).found();
    Secured { cluster, client, _authority: authority }
}

/// One new server, with the loads one after the other.
async fn turn(plan: Plan, guard: Guard, length: Duration) -> Result<[Figures; OPS.len()], Failure> {
    let secured;
    let plain;
    let cluster = if guard == Guard::Tls {
        secured = with_tls(plan);
        &secured.cluster
    } else {
        plain = plan.found();
        &plain
    };
    let member = &cluster.members[0];
    let token = match guard {
        Guard::Open | Guard::Tls => None,
        Guard::Auth => Some(guarded(member, &[vec![("\0", "\0")]]).await?),
        Guard::Roles => {
            let names: Vec<Vec<String>> = (0..ROLES)
                .map(|role| (0..RANGES_PER_ROLE).map(|range| key(role * RANGES_PER_ROLE + range)).collect())
                .collect();
            let roles: Vec<Vec<(&str, &str)>> =
                names.iter().map(|role| role.iter().map(|key| (&**key, "")).collect()).collect();
            Some(guarded(member, &roles).await?)
        }
    };
    let clients: Vec<_> = (0..CONNECTIONS).map(|_| KvClient::new(member.channel())).collect();
    // Every key gets a value, which also warms up both sides.
    load(&clients, &token, Op::Put, |_, number| number < KEYS).await?;
    let mut figures = [Figures::default(); OPS.len()];
    for ((_, op), figures) in OPS.into_iter().zip(&mut figures) {
        let (start, before) = (Instant::now(), cpu(member)?);
        let done = load(&clients, &token, op, move |now, _| now < start + length).await? as f64;
        *figures = [done / start.elapsed().as_secs_f64(), (cpu(member)? - before).as_secs_f64() * 1e6 / done];
    }
    Ok(figures)
}

fn key(number: usize) -> String {
    format!("/bench/{number:025}")
}

/// How many operations are made while `goes_on` says so of the time and of the number of the next one.
async fn load(
    clients: &[KvClient<Channel>],
    token: &Token,
    op: Op,
    goes_on: impl Fn(Instant, usize) -> bool + Copy + Send + Sync + 'static,
) -> Result<usize, Failure> {
    let tasks = (0..CLIENTS).map(|first| {
        let (mut client, token) = (clients[first % clients.len()].clone(), token.clone());
        tokio::spawn(async move {
            let mut number = first;
            while goes_on(Instant::now(), number) {
                run(&mut client, &token, op, number % KEYS).await?;
                number += CLIENTS;
            }
            Ok::<_, Status>((number - first) / CLIENTS)
        })
    });
    let mut done = 0;
    for task in try_join_all(tasks.collect::<Vec<_>>()).await? {
        done += task?;
    }
    Ok(done)
}

async fn run(client: &mut KvClient<Channel>, token: &Token, op: Op, number: usize) -> Result<(), Status> {
    let key = key(number).into();
    match op {
        Op::Put => {
            let put = PutRequest { key, value: vec![b'v'; VALUE_BYTES].into(), ..PutRequest::default() };
            client.put(with(token, put)).await?;
        }
        Op::Range => {
            let range = RangeRequest { key, ..RangeRequest::default() };
            let answer = client.range(with(token, range)).await?.into_inner();
            if answer.kvs.first().is_none_or(|kv| kv.value.len() != VALUE_BYTES) {
                return Err(Status::data_loss(format!("key {number} is not what was put there")));
            }
        }
    }
    Ok(())
}

fn with<T>(token: &Token, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        request.metadata_mut().insert("token", token.clone());
    }
    request
}

/// Enables authentication. The token of a user with these roles, each with the ranges that it may read and write.
async fn guarded(member: &Member, roles: &[Vec<(&str, &str)>]) -> Result<MetadataValue<Ascii>, Failure> {
    let auth = AuthClient::new(member.channel());
    for name in ["root", "user"] {
        auth.clone().user_add(user(name)).await?;
    }
    let grant = |user: &str, role: String| AuthUserGrantRoleRequest { user: user.to_owned(), role };
    auth.clone().user_grant_role(grant("root", "root".to_owned())).await?;
    let adding = roles.iter().enumerate().map(|(number, ranges)| {
        let mut auth = auth.clone();
        async move {
            let role = format!("role-{number}");
            auth.role_add(AuthRoleAddRequest { name: role.clone() }).await?;
            for (key, end) in ranges {
                let perm = Permission {
                    perm_type: 2,
                    key: key.as_bytes().to_vec().into(),
                    range_end: end.as_bytes().to_vec().into(),
                };
                let grant = AuthRoleGrantPermissionRequest { name: role.clone(), perm: Some(perm) };
                auth.role_grant_permission(grant).await?;
            }
            auth.user_grant_role(AuthUserGrantRoleRequest { user: "user".to_owned(), role }).await?;
            Ok::<_, Status>(())
        }
    });
    stream::iter(adding).buffer_unordered(CLIENTS).try_collect::<Vec<()>>().await?;
    auth.clone().auth_enable(AuthEnableRequest {}).await?;
    let answer = auth.clone().authenticate(login("user")).await?;
    Ok(answer.into_inner().token.parse()?)
}

/// Whose name is its password.
fn user(name: &str) -> AuthUserAddRequest {
    AuthUserAddRequest { name: name.to_owned(), password: name.to_owned(), ..AuthUserAddRequest::default() }
}

fn login(name: &str) -> AuthenticateRequest {
    AuthenticateRequest { name: name.to_owned(), password: name.to_owned() }
}

async fn logins(plan: Plan) -> Result<(), Failure> {
    let cluster = plan.found();
    let auth = AuthClient::new(cluster.members[0].channel());
    let name = |number: usize| format!("user-{}", number % USERS);
    guarded(&cluster.members[0], &[]).await?;
    let root = auth.clone().authenticate(login("root")).await?.into_inner().token;
    let root: Token = Some(root.parse()?);
    let users = (0..USERS).map(|number| {
        let (mut auth, add) = (auth.clone(), with(&root, user(&name(number))));
        async move { auth.user_add(add).await }
    });
    stream::iter(users).buffer_unordered(LOGIN_CLIENTS).try_collect::<Vec<_>>().await?;
    for (what, count) in [("first logins of as many users", USERS), ("more logins", REPEATED_LOGINS)] {
        let start = Instant::now();
        let logins = (0..count).map(|number| {
            let mut auth = auth.clone();
            async move { auth.authenticate(login(&name(number))).await }
        });
        stream::iter(logins).buffer_unordered(LOGIN_CLIENTS).try_collect::<Vec<_>>().await?;
        let per_second = count as f64 / start.elapsed().as_secs_f64();
        writeln!(io::stdout(), "{count} {what}, {LOGIN_CLIENTS} at a time: {per_second:.0} a second")?;
    }
    Ok(())
}

async fn handshakes(plan: Plan, length: Duration) -> Result<(), Failure> {
    let secured = with_tls(plan);
    let member = &secured.cluster.members[0];
    let (start, before) = (Instant::now(), cpu(member)?);
    let tasks = (0..HANDSHAKE_CLIENTS).map(|_| {
        let (connector, address) = (TlsConnector::from(Arc::clone(&secured.client)), member.endpoint());
        tokio::spawn(async move {
            let mut done = 0_usize;
            while start.elapsed() < length {
                let stream = TcpStream::connect(&address).await?;
                let name = ServerName::try_from("127.0.0.1").map_err(io::Error::other)?;
                connector.connect(name, stream).await?;
                done += 1;
            }
            Ok::<_, io::Error>(done)
        })
    });
    let mut done = 0;
    for task in try_join_all(tasks.collect::<Vec<_>>()).await? {
        done += task?;
    }
    let per_second = done as f64 / start.elapsed().as_secs_f64();
    let cpu = (cpu(member)? - before).as_secs_f64() * 1e6 / done as f64;
    writeln!(
        io::stdout(),
        "handshakes, {HANDSHAKE_CLIENTS} at a time: {per_second:.0} a second, {cpu:.0} us of the server's CPU each"
    )?;
    Ok(())
}

/// The time that the member's process has had of the processors.
fn cpu(member: &Member) -> Result<Duration, Failure> {
    let id = member.process_id().ok_or("the member has ended")?;
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
    // utime and stime are fields 14 and 15; they are counted after the name, which may contain any characters.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    let ticks = fields.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}
