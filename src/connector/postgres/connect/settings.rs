//! What the parameters of a connection mean: typed, with libpq's defaults, and checked against each other.

use super::parameters::{Parameters, Surroundings};
use super::passfile::Passfile;
use crate::error::{Error, ErrorKind, Result};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use zeroize::Zeroizing;

const PORT: u16 = 5432;
/// libpq waits for ever; a backup at night must not.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Where servers put their sockets: Debian's and Red Hat's place, and that of a build from source.
const SOCKETS: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// How a connection is made, apart from the name of the database's password.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) hosts: Vec<Host>,
    pub(super) user: String,
    pub(super) database: String,
    pub(super) password: Option<Zeroizing<String>>,
    pub(super) passfile: Passfile,
    pub(super) options: Option<String>,
    pub(super) application_name: String,
    pub(super) tls: Tls,
    pub(super) channel_binding: tokio_postgres::config::ChannelBinding,
    /// For each address, from the first packet to the server's readiness.
    pub(super) connect_timeout: Option<Duration>,
    pub(super) keepalives: Option<Keepalives>,
    /// How long sent bytes may stay without an acknowledgement.
    pub(super) tcp_user_timeout: Option<Duration>,
    pub(super) target: Target,
    /// Hosts and addresses in random order.
    pub(super) shuffled: bool,
}

/// One place to try.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Host {
    pub(super) place: Place,
    pub(super) port: u16,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// The directory of a socket.
    Socket(PathBuf),
    /// A name that is resolved.
    Name(String),
    /// An address, and the name that its certificate and its password go by.
    Address(IpAddr, Option<String>),
}

#[derive(Clone, Copy)]
pub(super) struct Keepalives {
    pub(super) idle: Duration,
    pub(super) interval: Duration,
    pub(super) count: u32,
}

/// `sslmode`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// What a client certificate is for: `sslcertmode`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum CertMode {
    Disable,
    Allow,
    Require,
}

/// The parameters of TLS.
#[derive(Clone)]
pub(super) struct Tls {
    pub(super) mode: SslMode,
    /// TLS from the first byte (`sslnegotiation=direct`), which servers from 17 on can.
    pub(super) direct: bool,
    pub(super) root: Root,
    /// The client's certificate and its key.
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    /// Whether the certificate was named, so that it must be there.
    pub(super) certificate_named: bool,
    pub(super) certificate_mode: CertMode,
    pub(super) crl: Option<PathBuf>,
    pub(super) server_name: bool,
    pub(super) oldest: Version,
    pub(super) newest: Version,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    Tls12,
    Tls13,
}

/// Whose certificates are trusted.
#[derive(Clone)]
pub(super) enum Root {
    /// Those that the system trusts.
    System,
    /// Those of a file, if it is there.
    File(PathBuf),
}

/// `target_session_attrs`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    PreferStandby,
}

impl Settings {
    /// The settings, and what the user should know about them.
    ///
    /// # Errors
    /// `Invalid` for a value that has no meaning; the message names the parameter and never the value.
    pub(super) fn new(all: &Parameters, surroundings: &Surroundings) -> Result<(Self, Vec<String>)> {
        let user = all
            .get("user")
            .or(surroundings.user.as_deref())
            .ok_or_else(|| {
                Error::new(ErrorKind::Invalid, "the role to connect as is not known")
                    .hint("postgres://USER@HOST/DATABASE, or set PGUSER")
            })?
            .to_owned();
        let passfile = all.get("passfile").map(PathBuf::from);
        let passfile = passfile.or_else(|| Some(surroundings.home.as_ref()?.join(".pgpass")));
        let password = all
            .get("password")
            .map(|password| Zeroizing::new(password.to_owned()));
        let (passfile, note) = match passfile.filter(|_| password.is_none()) {
            Some(path) => Passfile::read(&path)?,
            None => (Passfile::default(), None),
        };
        let name = all
            .get("application_name")
            .or(all.get("fallback_application_name"));
        let timeout = all.get("connect_timeout").map(|_| number(all, "connect_timeout"));
        let settings = Self {
            hosts: hosts(all)?,
            database: all.get("dbname").unwrap_or(&user).to_owned(),
            user,
            password,
            passfile,
            options: all.get("options").map(str::to_owned),
            application_name: name.unwrap_or("holdall").to_owned(),
            tls: Tls::new(all, surroundings.home.as_deref())?,
            channel_binding: choice(
                all,
                "channel_binding",
                &[
                    ("prefer", tokio_postgres::config::ChannelBinding::Prefer),
                    ("disable", tokio_postgres::config::ChannelBinding::Disable),
                    ("require", tokio_postgres::config::ChannelBinding::Require),
                ],
            )?,
            // 0 and less are libpq's way to say: as long as it takes.
            connect_timeout: match timeout.transpose()? {
                None => Some(CONNECT_TIMEOUT),
                Some(seconds) => positive(seconds).map(Duration::from_secs),
            },
            keepalives: keepalives(all)?,
            tcp_user_timeout: match all.get("tcp_user_timeout") {
                None => Some(Duration::from_secs(60)),
                Some(_) => positive(number(all, "tcp_user_timeout")?).map(Duration::from_millis),
            },
            target: choice(
                all,
                "target_session_attrs",
                &[
                    ("any", Target::Any),
                    ("read-write", Target::ReadWrite),
                    ("read-only", Target::ReadOnly),
                    ("primary", Target::Primary),
                    ("standby", Target::Standby),
                    ("prefer-standby", Target::PreferStandby),
                ],
            )?,
            shuffled: choice(all, "load_balance_hosts", &[("disable", false), ("random", true)])?,
        };
        if all.get("gssencmode") == Some("require") {
            return Err(
                Error::new(ErrorKind::Unsupported, "encryption by GSSAPI is not supported")
                    .with("parameter", "gssencmode")
                    .hint("use TLS: sslmode=verify-full"),
            );
        }
        Ok((settings, note.into_iter().collect()))
    }

    /// The password for a place: the one given, else that of the password file.
    pub(super) fn password(&self, host: &Host) -> Option<Zeroizing<String>> {
        if self.password.is_some() {
            return self.password.clone();
        }
        let name = match &host.place {
            Place::Socket(dir) if is_default(dir) => "localhost".to_owned(),
            Place::Socket(dir) => dir.to_string_lossy().into_owned(),
            Place::Name(name) | Place::Address(_, Some(name)) => name.clone(),
            Place::Address(address, None) => address.to_string(),
        };
        self.passfile.find(&name, host.port, &self.database, &self.user)
    }
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let port = self.port;
        match &self.place {
            Place::Socket(dir) => write!(f, "{}/.s.PGSQL.{port}", dir.display()),
            Place::Name(name) | Place::Address(_, Some(name)) => write!(f, "{name}:{port}"),
            Place::Address(address, None) => std::net::SocketAddr::new(*address, port).fmt(f),
        }
    }
}

/// libpq's lists: `host` and `hostaddr` are of the same length where both are given, `port` too or it is one for all.
fn hosts(all: &Parameters) -> Result<Vec<Host>> {
    let list =
        |name: &str| -> Vec<&str> { all.get(name).map_or(Vec::new(), |text| text.split(',').collect()) };
    let (names, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
    let count = names.len().max(addresses.len()).max(1);
    let mismatch = |what: &'static str| {
        Error::new(
            ErrorKind::Invalid,
            "lists of hosts, addresses and ports differ in length",
        )
        .with("parameter", what)
    };
    if !names.is_empty() && !addresses.is_empty() && names.len() != addresses.len() {
        return Err(mismatch("hostaddr"));
    }
    if ports.len() > 1 && ports.len() != count {
        return Err(mismatch("port"));
    }
    (0..count)
        .map(|i| {
            let item = |list: &[&str], i: usize| {
                let text = list.get(i).map(|text| text.trim().to_owned());
                text.filter(|text| !text.is_empty())
            };
            let port = item(&ports, if ports.len() == 1 { 0 } else { i });
            let port = match port {
                None => PORT,
                Some(text) => text.parse().ok().filter(|port| *port != 0).ok_or_else(|| {
                    // A password with an unescaped slash or colon ends up here.
                    meaningless("port").hint(
                        "a port is a number from 1 to 65535; write : and / in a password as %3A and %2F",
                    )
                })?,
            };
            let name = item(&names, i);
            let place = match item(&addresses, i) {
                Some(address) => {
                    let address = address.parse().map_err(|_| meaningless("hostaddr"))?;
                    Place::Address(address, name)
                }
                None => named(name, port)?,
            };
            Ok(Host { place, port })
        })
        .collect()
}

fn named(name: Option<String>, port: u16) -> Result<Place> {
    Ok(match name {
        None => Place::Socket(default_directory(port)),
        Some(dir) if dir.starts_with('/') => Place::Socket(PathBuf::from(dir)),
        Some(name) if name.starts_with('@') => {
            return Err(
                Error::new(ErrorKind::Unsupported, "abstract sockets are not supported")
                    .with("parameter", "host"),
            );
        }
        Some(name) => match name.parse() {
            Ok(address) => Place::Address(address, None),
            Err(_) => Place::Name(name),
        },
    })
}

/// The directory that has the server's socket, else the first that is there.
fn default_directory(port: u16) -> PathBuf {
    let socket = |dir: &&&str| Path::new(dir).join(format!(".s.PGSQL.{port}")).exists();
    let found = SOCKETS.iter().find(socket);
    let found = found.or_else(|| SOCKETS.iter().find(|dir| Path::new(dir).is_dir()));
    PathBuf::from(found.copied().unwrap_or("/tmp"))
}

fn is_default(dir: &Path) -> bool {
    SOCKETS.iter().any(|default| dir == Path::new(default))
}

fn keepalives(all: &Parameters) -> Result<Option<Keepalives>> {
    let on = all.get("keepalives").is_none() || number(all, "keepalives")? != 0;
    // libpq leaves the system's two hours, in which a lost line would not be noticed.
    let or = |name: &'static str, default: u64| -> Result<u64> {
        if all.get(name).is_none() {
            return Ok(default);
        }
        Ok(positive(number(all, name)?).unwrap_or(default))
    };
    let keepalives = Keepalives {
        idle: Duration::from_secs(or("keepalives_idle", 60)?.min(32_767)),
        interval: Duration::from_secs(or("keepalives_interval", 10)?.min(32_767)),
        count: u32::try_from(or("keepalives_count", 6)?.min(127)).unwrap_or(6),
    };
    Ok(on.then_some(keepalives))
}

impl Tls {
    fn new(all: &Parameters, home: Option<&Path>) -> Result<Self> {
        let own = |name: &str| home.map_or_else(PathBuf::new, |home| home.join(".postgresql").join(name));
        let system = all.get("sslrootcert") == Some("system");
        let default = if system { "verify-full" } else { "prefer" };
        let modes = [
            ("disable", SslMode::Disable),
            ("allow", SslMode::Allow),
            ("prefer", SslMode::Prefer),
            ("require", SslMode::Require),
            ("verify-ca", SslMode::VerifyCa),
            ("verify-full", SslMode::VerifyFull),
        ];
        let mode = all.get("sslmode").unwrap_or(default);
        let mode = one_of("sslmode", mode, &modes)?;
        let direct = choice(all, "sslnegotiation", &[("postgres", false), ("direct", true)])?;
        let weak = |with: &str, needed: &str| {
            Error::new(ErrorKind::Invalid, format!("this sslmode is too weak for {with}"))
                .with("parameter", "sslmode")
                .hint(format!("use sslmode={needed}"))
        };
        if system && mode != SslMode::VerifyFull {
            return Err(weak("sslrootcert=system", "verify-full"));
        }
        if direct && mode < SslMode::Require {
            return Err(weak("sslnegotiation=direct", "require"));
        }
        let version = |name, default: &str| {
            let value = all.get(name).unwrap_or(default);
            // What is older than 1.2 is not spoken here.
            let known = [
                ("TLSv1", Version::Tls12),
                ("TLSv1.1", Version::Tls12),
                ("TLSv1.2", Version::Tls12),
                ("TLSv1.3", Version::Tls13),
            ];
            one_of(name, value, &known)
        };
        let named = all.get("sslcert");
        let crl = all.get("sslcrl").map(PathBuf::from);
        Ok(Self {
            mode,
            direct,
            root: match all.get("sslrootcert") {
                Some(_) if system => Root::System,
                Some(path) => Root::File(PathBuf::from(path)),
                None => Root::File(own("root.crt")),
            },
            certificate: named.map_or_else(|| own("postgresql.crt"), PathBuf::from),
            key: all
                .get("sslkey")
                .map_or_else(|| own("postgresql.key"), PathBuf::from),
            certificate_named: named.is_some(),
            certificate_mode: choice(
                all,
                "sslcertmode",
                &[
                    ("allow", CertMode::Allow),
                    ("disable", CertMode::Disable),
                    ("require", CertMode::Require),
                ],
            )?,
            crl: crl.or_else(|| Some(own("root.crl")).filter(|path| path.exists())),
            server_name: choice(all, "sslsni", &[("1", true), ("0", false)])?,
            oldest: version("ssl_min_protocol_version", "TLSv1.2")?,
            newest: version("ssl_max_protocol_version", "TLSv1.3")?,
        })
    }
}

/// The value of a parameter that has a fixed set of them; the first is the default.
fn choice<T: Copy>(all: &Parameters, name: &'static str, known: &[(&str, T)]) -> Result<T> {
    let default = known.first().map_or("", |(word, _)| *word);
    one_of(name, all.get(name).unwrap_or(default), known)
}

fn one_of<T: Copy>(name: &'static str, value: &str, known: &[(&str, T)]) -> Result<T> {
    let found = known.iter().find(|(word, _)| word.eq_ignore_ascii_case(value));
    found.map(|(_, meaning)| *meaning).ok_or_else(|| {
        let words: Vec<&str> = known.iter().map(|(word, _)| *word).collect();
        meaningless(name).hint(format!("it is one of: {}", words.join(", ")))
    })
}

fn number(all: &Parameters, name: &'static str) -> Result<i64> {
    let text = all.get(name).unwrap_or_default();
    text.trim()
        .parse::<i32>()
        .map(i64::from)
        .map_err(|_| meaningless(name).hint("it is a number"))
}

fn positive(value: i64) -> Option<u64> {
    u64::try_from(value).ok().filter(|value| *value > 0)
}

fn meaningless(parameter: &'static str) -> Error {
    Error::new(
        ErrorKind::Invalid,
        "a connection parameter has a value without meaning",
    )
    .with("parameter", parameter)
}
