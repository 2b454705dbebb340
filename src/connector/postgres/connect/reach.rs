//! From settings to a connection that stands: hosts, addresses, TLS or not, in libpq's order.

use super::failure::{self, Attempt};
use super::line::Line;
use super::pieces::{At, Pieces};
use super::settings::{Host, Place, Settings, SslMode, Target};
use super::tls;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use futures::future::BoxFuture;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::runtime::Handle;
use tokio_postgres::config::{SslMode as Negotiated, SslNegotiation};
use tokio_postgres::tls::{MakeTlsConnect, NoTls, TlsConnect};
use tokio_postgres::{Client, Config, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::task::AbortOnDropHandle;

/// A connection that stands.
pub(super) struct Reached {
    pub(super) client: Client,
    /// Ends behind the client.
    pub(super) driver: Driver,
    /// The one place that was reached: a socket or an address.
    pub(super) host: Host,
    pub(super) facts: Facts,
}

/// Moves the bytes of a connection. When its client is gone it says so to the server, for which it has a moment: a server takes down in
/// its log whoever goes in the middle of a transaction without a word.
pub(super) struct Driver(Option<AbortOnDropHandle<()>>);

/// How long a farewell may take.
const FAREWELL: Duration = Duration::from_millis(100);

impl Driver {
    fn begin(work: BoxFuture<'static, ()>) -> Self {
        Self(Some(AbortOnDropHandle::new(tokio::spawn(work))))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(work) = self.0.take()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(tokio::time::timeout(FAREWELL, work));
        }
    }
}

/// What a server says of itself.
#[derive(Clone, Copy)]
pub(super) struct Facts {
    pub(super) backend: u32,
    pub(super) version: u32,
    recovering: bool,
    read_only: bool,
    pub(super) has_no_encoding: bool,
}

/// How one connection is tried.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Plain,
    /// TLS if the server has it.
    Prefer,
    Tls,
}

/// Opens a connection to the first host and address that takes it.
///
/// # Errors
/// Of the last attempt, with the places that were tried.
pub(super) fn open<'a>(settings: &'a Settings, context: &'a Context) -> BoxFuture<'a, Result<Reached>> {
    Box::pin(async move {
        context.check_cancelled()?;
        tokio::select! {
            biased;
            () = context.cancel.cancelled() => Err(Error::new(ErrorKind::Cancelled, "interrupted")),
            reached = search(settings, context) => reached,
        }
    })
}

async fn search(settings: &Settings, context: &Context) -> Result<Reached> {
    let mut hosts = settings.hosts.clone();
    shuffle(&mut hosts, settings, context)?;
    // Those that cannot be used are told before anything is asked of the network.
    let connector = match settings.tls.mode {
        SslMode::Disable => None,
        _ if hosts.iter().all(|host| matches!(host.place, Place::Socket(_))) => None,
        _ => Some(tls::connector(&settings.tls)?),
    };
    let targets: &[Target] = match settings.target {
        Target::PreferStandby => &[Target::Standby, Target::Any],
        Target::Any => &[Target::Any],
        Target::ReadWrite => &[Target::ReadWrite],
        Target::ReadOnly => &[Target::ReadOnly],
        Target::Primary => &[Target::Primary],
        Target::Standby => &[Target::Standby],
    };
    let mut failures = Vec::new();
    for target in targets {
        for host in &hosts {
            let mut places = match addresses(settings, host).await {
                Ok(places) => places,
                Err(error) => {
                    failures.push(Attempt::new(host, None, error));
                    continue;
                }
            };
            shuffle(&mut places, settings, context)?;
            for place in places {
                match attempt(settings, &place, connector.as_ref(), *target).await {
                    Ok(reached) => return Ok(reached),
                    Err(failure) => {
                        let last = failure.is_final();
                        failures.push(Attempt::new(host, Some(&place), failure));
                        if last {
                            return Err(failure::error(settings, failures));
                        }
                    }
                }
            }
        }
    }
    Err(failure::error(settings, failures))
}

/// Fisher and Yates, where `load_balance_hosts` asks for it.
fn shuffle<T>(items: &mut [T], settings: &Settings, context: &Context) -> Result<()> {
    if settings.shuffled {
        for end in (1..items.len()).rev() {
            let random = u64::from_le_bytes(context.random.bytes()?) % (end as u64 + 1);
            items.swap(end, usize::try_from(random).unwrap_or(end));
        }
    }
    Ok(())
}

/// The places that a host stands for: each is a socket or one address.
async fn addresses(settings: &Settings, host: &Host) -> Result<Vec<Host>, failure::Failure> {
    let Place::Name(name) = &host.place else {
        return Ok(vec![host.clone()]);
    };
    let looked_up = limited(settings, lookup_host((name.clone(), host.port)));
    let found = looked_up.await?.map_err(failure::Failure::Name)?;
    let mut places: Vec<Host> = Vec::new();
    for address in found {
        let place = Place::Address(address.ip(), Some(name.clone()));
        if !places.iter().any(|known| known.place == place) {
            places.push(Host {
                place,
                port: host.port,
            });
        }
    }
    if places.is_empty() {
        let nothing = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        return Err(failure::Failure::Name(nothing));
    }
    Ok(places)
}

async fn limited<T>(settings: &Settings, work: impl Future<Output = T>) -> Result<T, failure::Failure> {
    match settings.connect_timeout {
        None => Ok(work.await),
        Some(limit) => tokio::time::timeout(limit, work)
            .await
            .map_err(|_| failure::Failure::Time(limit)),
    }
}

/// One place, in the ways that `sslmode` allows.
async fn attempt(
    settings: &Settings,
    host: &Host,
    connector: Option<&MakeRustlsConnect>,
    target: Target,
) -> Result<Reached, failure::Failure> {
    let ways: &[Way] = match (settings.tls.mode, &host.place) {
        (SslMode::Disable, _) | (_, Place::Socket(_)) => &[Way::Plain],
        (SslMode::Allow, _) => &[Way::Plain, Way::Tls],
        (SslMode::Prefer, _) => &[Way::Prefer, Way::Plain],
        _ => &[Way::Tls],
    };
    let mut first: Option<failure::Failure> = None;
    for way in ways {
        let used = Arc::new(AtomicBool::new(false));
        let once = limited(settings, start(settings, host, *way, connector, &used));
        match once.await.and_then(|done| done) {
            Ok(reached) => return fits(reached, target),
            Err(failure) => {
                // libpq tries the other way if the server spoke against this one, or TLS failed; not if nobody answered.
                let other = match way {
                    Way::Plain => failure.is_refusal(),
                    Way::Prefer => used.load(Ordering::Relaxed) && !failure.is_time(),
                    Way::Tls => false,
                };
                match first.take() {
                    Some(earlier) if earlier.is_tls() || failure.is_without_tls() => return Err(earlier),
                    _ if !other => return Err(failure),
                    _ => first = Some(failure),
                }
            }
        }
    }
    Err(first.unwrap_or(failure::Failure::Time(Duration::ZERO)))
}

async fn start(
    settings: &Settings,
    host: &Host,
    way: Way,
    connector: Option<&MakeRustlsConnect>,
    used: &Arc<AtomicBool>,
) -> Result<Reached, failure::Failure> {
    let at = match way {
        Way::Plain => At::Header(0),
        Way::Prefer => At::Answer,
        Way::Tls => At::Sealed,
    };
    let stream = Pieces::new(dial(settings, host).await?, at);
    let config = config(settings, host, way);
    let (client, work): (Client, BoxFuture<'static, ()>) = match connector {
        Some(connector) if way != Way::Plain => {
            let tls = Watched {
                inner: handshake(connector, host).map_err(failure::Failure::Tls)?,
                used: Arc::clone(used),
            };
            let (client, connection) = config.connect_raw(stream, tls).await?;
            (client, Box::pin(drive(connection)))
        }
        _ => {
            let (client, connection) = config.connect_raw(stream, NoTls).await?;
            (client, Box::pin(drive(connection)))
        }
    };
    let driver = Driver::begin(work);
    let facts = facts(&client).await?;
    Ok(Reached {
        client,
        driver,
        host: host.clone(),
        facts,
    })
}

/// What ends a connection is told to whoever waits for an answer on it.
async fn drive<E>(connection: impl Future<Output = Result<(), E>>) {
    let _ended = connection.await;
}

/// Bytes to the place, with the limits that notice a lost line.
pub(super) async fn dial(settings: &Settings, host: &Host) -> Result<Line, failure::Failure> {
    let address: IpAddr = match &host.place {
        Place::Socket(dir) => {
            let path = dir.join(format!(".s.PGSQL.{}", host.port));
            let stream = UnixStream::connect(path).await.map_err(failure::Failure::Line)?;
            return Ok(Line::Socket(stream));
        }
        Place::Address(address, _) => *address,
        Place::Name(_) => {
            let unresolved = io::Error::other("the name was not resolved");
            return Err(failure::Failure::Name(unresolved));
        }
    };
    let stream = TcpStream::connect((address, host.port))
        .await
        .map_err(failure::Failure::Line)?;
    stream.set_nodelay(true).map_err(failure::Failure::Line)?;
    watch(settings, &stream).map_err(|error| failure::Failure::Line(error.into()))?;
    Ok(Line::Tcp(stream))
}

fn watch(settings: &Settings, stream: &TcpStream) -> rustix::io::Result<()> {
    use rustix::net::sockopt;
    if let Some(keepalives) = settings.keepalives {
        sockopt::set_socket_keepalive(stream, true)?;
        sockopt::set_tcp_keepidle(stream, keepalives.idle)?;
        sockopt::set_tcp_keepintvl(stream, keepalives.interval)?;
        sockopt::set_tcp_keepcnt(stream, keepalives.count)?;
    }
    #[cfg(target_os = "linux")]
    if let Some(limit) = settings.tcp_user_timeout {
        sockopt::set_tcp_user_timeout(stream, u32::try_from(limit.as_millis()).unwrap_or(u32::MAX))?;
    }
    Ok(())
}

fn config(settings: &Settings, host: &Host, way: Way) -> Config {
    let mut config = Config::new();
    config
        .user(&settings.user)
        .dbname(&settings.database)
        .application_name(&settings.application_name)
        .channel_binding(settings.channel_binding)
        .ssl_mode(match way {
            Way::Plain => Negotiated::Disable,
            Way::Prefer => Negotiated::Prefer,
            Way::Tls => Negotiated::Require,
        });
    if settings.tls.direct {
        config.ssl_negotiation(SslNegotiation::Direct);
    }
    if let Some(options) = &settings.options {
        config.options(options);
    }
    if let Some(password) = settings.password(host) {
        config.password(password.as_bytes());
    }
    config
}

type Handshake = <MakeRustlsConnect as MakeTlsConnect<Line>>::TlsConnect;

/// TLS for the name that the place goes by.
pub(super) fn handshake(connector: &MakeRustlsConnect, host: &Host) -> io::Result<Handshake> {
    let name = match &host.place {
        Place::Name(name) | Place::Address(_, Some(name)) => name.clone(),
        Place::Address(address, None) => address.to_string(),
        Place::Socket(_) => String::new(),
    };
    // A dot at the end is part of no certificate.
    let name = name.strip_suffix('.').unwrap_or(&name);
    let made = MakeTlsConnect::<Line>::make_tls_connect(&mut connector.clone(), name);
    made.map_err(io::Error::other)
}

/// Tells whether the server took up TLS.
struct Watched {
    inner: Handshake,
    used: Arc<AtomicBool>,
}

impl TlsConnect<Pieces<Line>> for Watched {
    type Stream = Pieces<<Handshake as TlsConnect<Pieces<Line>>>::Stream>;
    type Error = <Handshake as TlsConnect<Pieces<Line>>>::Error;
    type Future = BoxFuture<'static, Result<Self::Stream, Self::Error>>;

    fn connect(self, stream: Pieces<Line>) -> Self::Future {
        self.used.store(true, Ordering::Relaxed);
        let opened = self.inner.connect(stream);
        Box::pin(async move { Ok(Pieces::new(opened.await?, At::Header(0))) })
    }
}

/// Asked as plain text, which poolers of every kind pass on.
async fn facts(client: &Client) -> Result<Facts, tokio_postgres::Error> {
    let sql = "SELECT pg_catalog.pg_backend_pid(), pg_catalog.current_setting('server_version_num'), \
               pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('transaction_read_only'), \
               pg_catalog.current_setting('server_encoding')";
    let mut facts = Facts {
        backend: 0,
        version: 0,
        recovering: false,
        read_only: false,
        has_no_encoding: false,
    };
    for message in client.simple_query(sql).await? {
        if let SimpleQueryMessage::Row(row) = message {
            let number = |at: usize| row.get(at).and_then(|text| text.parse().ok()).unwrap_or(0);
            facts = Facts {
                backend: number(0),
                version: number(1),
                recovering: row.get(2) == Some("t"),
                read_only: row.get(3) == Some("on"),
                has_no_encoding: row.get(4) == Some("SQL_ASCII"),
            };
        }
    }
    Ok(facts)
}

/// `target_session_attrs`.
fn fits(reached: Reached, target: Target) -> Result<Reached, failure::Failure> {
    let Facts {
        recovering,
        read_only,
        ..
    } = reached.facts;
    let wrong = match target {
        Target::ReadWrite if recovering || read_only => "it takes no writes",
        Target::ReadOnly if !recovering && !read_only => "it takes writes",
        Target::Primary if recovering => "it is a standby",
        Target::Standby if !recovering => "it is no standby",
        _ => return Ok(reached),
    };
    Err(failure::Failure::Target(wrong))
}

/// Asks the server of a connection to end its statement, on a line of its own and with TLS if the connection has it.
pub(super) async fn cancel(
    settings: &Settings,
    host: &Host,
    token: &tokio_postgres::CancelToken,
) -> Result<(), failure::Failure> {
    let work = async {
        let stream = dial(settings, host).await?;
        let plain = settings.tls.mode == SslMode::Disable || matches!(host.place, Place::Socket(_));
        if plain {
            return Ok(token.cancel_query_raw(stream, NoTls).await?);
        }
        let unusable = |error: Error| failure::Failure::Tls(io::Error::other(error));
        let connector = tls::connector(&settings.tls).map_err(unusable)?;
        let tls = handshake(&connector, host).map_err(failure::Failure::Tls)?;
        Ok(token.cancel_query_raw(stream, tls).await?)
    };
    limited(settings, work).await?
}
