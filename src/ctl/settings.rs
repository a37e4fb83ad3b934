//! What the global flags and the variables `ETCDCTL_...` say: where the cluster is, who asks, and how answers look.

use std::{ffi::OsString, fmt, fs, io, path::PathBuf, time::Duration};

use super::terminal;
use crate::{
    cli::{
        Exit, Failure, Flag, Format, Kind, Values,
        go::{quote, reason},
        output::notice,
    },
    config::KeyPair,
    dns, limits,
    signals::Asked,
    tls::Trust,
};

/// The flags that every command has.
pub(super) const GLOBAL: &[Flag] = &[
    Flag::new(Kind::List, "endpoints", "the endpoints of the members to ask").or("127.0.0.1:2379"),
    Flag::switch("debug", "say on stderr what the client does"),
    Flag::text("write-out", "the format of the output (fields, json, protobuf, simple, table)")
        .short('w')
        .or("simple")
        .one_of(Format::NAMES),
    Flag::switch("hex", "print strings of bytes in hexadecimal"),
    Flag::new(Kind::Duration, "dial-timeout", "how long a login may take").or("2s"),
    Flag::new(Kind::Duration, "command-timeout", "how long a short command may take").or("5s"),
    Flag::new(Kind::Duration, "keepalive-time", "the time of silence after which a connection is probed")
        .or("2s"),
    Flag::new(Kind::Duration, "keepalive-timeout", "how long the answer to a probe may take").or("6s"),
    Flag::int("max-request-bytes", "the largest request that is sent (0: 2 MiB)"),
    Flag::int("max-recv-bytes", "the largest answer that is accepted (0: 2 GiB)"),
    Flag::switch("insecure-transport", "no TLS, unless an endpoint or another flag asks for it").or("true"),
    Flag::switch("insecure-discovery", "use SRV records of members without TLS too").or("true"),
    Flag::switch(
        "insecure-skip-tls-verify",
        "take any certificate of a server (for tests: whoever is in between can read and change everything)",
    ),
    Flag::text("cert", "the file with the certificate to show to servers"),
    Flag::text("key", "the file with the key of that certificate"),
    Flag::text("cacert", "the file with the CAs that sign the certificates of servers"),
    Flag::text("auth-jwt-token", "a JSON web token to show instead of a password"),
    Flag::text("user", "name[:password] of the user who asks (without the password, it is asked for)"),
    Flag::text("password", "the password of --user, which then has none itself"),
    Flag::text("discovery-srv", "the domain whose SRV records name the endpoints").short('d'),
    Flag::text("discovery-srv-name", "the name of the service in SRV records"),
];

/// The prefix of variables that set flags.
const PREFIX: &str = "ETCDCTL_";
/// Variables that are no flags. `ETCDCTL_API` chose between two tools until etcd 3.5, and is still set by many.
const OTHER_VARIABLES: [&str; 3] = ["ETCDCTL_API", "ETCDCTL_WATCH_KEY", "ETCDCTL_WATCH_RANGE_END"];

/// How to reach a cluster, and as whom.
#[derive(Clone, Debug)]
pub(super) struct Dial {
    pub(super) endpoints: Vec<String>,
    pub(super) dial_timeout: Duration,
    pub(super) keepalive_interval: Duration,
    pub(super) keepalive_timeout: Duration,
    pub(super) request_bytes_max: usize,
    pub(super) answer_bytes_max: usize,
    /// `None`: in plaintext, unless the first endpoint is one of `https`.
    pub(super) trust: Option<Trust>,
    pub(super) login: Login,
}

/// Who asks.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Login {
    Nobody,
    Password { name: String, password: String },
    Token(String),
}

/// Passwords and tokens are not shown.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Login::Nobody => "Nobody",
            Login::Password { .. } => "Password",
            Login::Token(_) => "Token",
        })
    }
}

/// Sets the flags that the command has from above by variables of the environment.
pub(super) fn apply_variables(
    values: &mut Values,
    inherited: impl Iterator<Item = &'static Flag>,
    variables: &[(OsString, OsString)],
) -> Result<(), Failure> {
    let flags: Vec<&Flag> = inherited.collect();
    let of_tool = variables.iter().filter_map(|(name, value)| {
        let name = name.to_str().filter(|name| name.starts_with(PREFIX))?;
        Some((name, value.to_str().unwrap_or_default()))
    });
    for (name, value) in of_tool {
        match flags.iter().find(|flag| variable(flag) == name) {
            Some(flag) if values.is_set(flag.name) => {
                return Err(Exit::Error.because(format_args!(
                    "the environment variable {name} and the flag --{} are both set; unset the variable, or leave out \
                     the flag",
                    flag.name
                )));
            }
            Some(_) if value.is_empty() => {}
            Some(flag) => {
                if let Err(error) = values.set(flag, value) {
                    notice(format_args!("the environment variable {name} is not used: {error}"));
                }
            }
            None if OTHER_VARIABLES.contains(&name) => {}
            None => notice(format_args!("no flag belongs to the environment variable {name}")),
        }
    }
    Ok(())
}

fn variable(flag: &Flag) -> String {
    format!("{PREFIX}{}", flag.name.to_uppercase().replace('-', "_"))
}

impl Dial {
    pub(super) fn of(values: &Values) -> Result<Dial, Failure> {
        let given = values.list("endpoints").iter().map(|endpoint| endpoint.trim().to_owned());
        let discovered = discovered(values)?;
        let endpoints = if discovered.is_empty() { given.collect() } else { discovered };
        let security = Security {
            cert: given_file(values, "cert")?,
            key: given_file(values, "key")?,
            cacert: given_file(values, "cacert")?,
            insecure_transport: values.switch("insecure-transport"),
            skip_verify: values.switch("insecure-skip-tls-verify"),
        };
        let login = match values.text("auth-jwt-token") {
            "" => Login::with_password(values.text("user"), values.text("password"), "Password: ")?,
            token => Login::Token(token.to_owned()),
        };
        let bytes = |name: &str, default: usize| match usize::try_from(values.int(name)) {
            Ok(0) | Err(_) => default,
            Ok(bytes) => bytes,
        };
        Ok(Dial {
            endpoints,
            dial_timeout: values.duration("dial-timeout"),
            keepalive_interval: values.duration("keepalive-time").max(limits::CTL_KEEPALIVE_MIN),
            keepalive_timeout: values.duration("keepalive-timeout"),
            request_bytes_max: bytes("max-request-bytes", limits::CTL_REQUEST_BYTES_MAX),
            answer_bytes_max: bytes("max-recv-bytes", limits::CTL_ANSWER_BYTES_MAX),
            trust: security.trust()?,
            login,
        })
    }

    /// The same, for one endpoint.
    pub(super) fn only(&self, endpoint: &str) -> Dial {
        Dial { endpoints: vec![endpoint.to_owned()], ..self.clone() }
    }
}

/// The endpoints by SRV records, if a domain is given.
fn discovered(values: &Values) -> Result<Vec<String>, Failure> {
    let (domain, suffix) = (values.text("discovery-srv"), values.text("discovery-srv-name"));
    if domain.is_empty() {
        return Ok(Vec::new());
    }
    let lookup = |is_tls| dns::srv_records(&dns::service_name("etcd-client", is_tls, suffix), domain);
    let (with_tls, without) = match (lookup(true), lookup(false)) {
        (Err(with_tls), Err(without)) => {
            return Err(Exit::Error.because(format_args!("dns lookup errors: {with_tls} and {without}")));
        }
        (with_tls, without) => (with_tls.unwrap_or_default(), without.unwrap_or_default()),
    };
    let mut endpoints: Vec<String> = with_tls.iter().map(|target| target.url("https")).collect();
    for endpoint in without.iter().map(|target| target.url("http")) {
        if values.switch("insecure-discovery") {
            endpoints.push(endpoint);
        } else {
            notice(format_args!("ignoring discovered insecure endpoint {}", quote(endpoint.as_bytes())));
        }
    }
    Ok(endpoints)
}

/// The flags of TLS.
pub(super) struct Security<'a> {
    pub(super) cert: &'a str,
    pub(super) key: &'a str,
    pub(super) cacert: &'a str,
    pub(super) insecure_transport: bool,
    pub(super) skip_verify: bool,
}

fn given_file<'a>(values: &'a Values, name: &str) -> Result<&'a str, Failure> {
    let file = values.text(name);
    if file.is_empty() && values.is_set(name) {
        return Err(Failure::bad_args(format!("empty string is passed to --{name} option")));
    }
    Ok(file)
}

impl Security<'_> {
    /// `None`: nothing asks for TLS.
    pub(super) fn trust(&self) -> Result<Option<Trust>, Failure> {
        let Security { cert, key, cacert, .. } = *self;
        if cert.is_empty() != key.is_empty() {
            return Err(Failure::bad_args(format!(
                "KeyFile and CertFile must both be present[key: {key}, cert: {cert}]"
            )));
        }
        let files = [cacert, cert, key].into_iter().filter(|file| !file.is_empty());
        for file in files.clone() {
            fs::File::open(file)
                .map_err(|error| Failure::bad_args(format!("open {file}: {}", reason(&error))))?;
        }
        if files.count() == 0 && self.insecure_transport && !self.skip_verify {
            return Ok(None);
        }
        let path = |file: &str| (!file.is_empty()).then(|| PathBuf::from(file));
        let pair = path(cert).zip(path(key));
        let pair = pair.map(|(cert_file, key_file)| KeyPair { cert_file, key_file });
        let trust = Trust::of_client(pair, path(cacert), self.skip_verify);
        trust.read().map_err(|error| Failure::bad_args(error.to_string()))?;
        Ok(Some(trust))
    }
}

impl Login {
    /// `user` may have the password behind a colon. If there is none at all, it is asked for.
    pub(super) fn with_password(user: &str, password: &str, prompt: &str) -> Result<Login, Failure> {
        if user.is_empty() {
            return Ok(Login::Nobody);
        }
        let (name, password) = match user.split_once(':') {
            _ if !password.is_empty() => (user, password.to_owned()),
            Some((name, password)) => (name, password.to_owned()),
            None => (user, ask_password(prompt, Exit::Error)?),
        };
        // etcdctl logs nobody in without a name and a password.
        if name.is_empty() || password.is_empty() {
            return Ok(Login::Nobody);
        }
        Ok(Login::Password { name: name.to_owned(), password })
    }
}

/// Asks whoever is at the terminal.
pub(super) fn ask_password(prompt: &str, exit: Exit) -> Result<String, Failure> {
    terminal::ask_password(prompt).map_err(|error| match error.kind() {
        io::ErrorKind::Interrupted => Failure::Silent(Asked::Interrupt.exit_code()),
        _ => exit.because(format_args!("failed to ask password: {error}")),
    })
}

/// `l` and `s`, the values of `--consistency`: whether a stale answer will do.
pub(super) fn is_serializable(consistency: &str) -> Result<bool, Failure> {
    match consistency {
        "l" => Ok(false),
        "s" => Ok(true),
        other => {
            let quoted = quote(other.as_bytes());
            Err(Exit::BadFeature.because(format_args!("unknown consistency flag {quoted}")))
        }
    }
}
