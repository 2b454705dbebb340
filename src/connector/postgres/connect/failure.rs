//! Why a connection could not be made, in words that say what to do next.

use super::settings::{Host, Place, Settings, SslMode};
use crate::error::{Error, ErrorKind};
use rustls::{AlertDescription, CertificateError};
use std::error::Error as _;
use std::io;
use std::time::Duration;
use tokio_postgres::error::{DbError, SqlState};

/// Why one attempt failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The name of the host gives no address.
    Name(io::Error),
    /// There is no line to the server.
    Line(io::Error),
    /// No answer in time.
    Time(Duration),
    /// TLS could not be begun.
    Tls(io::Error),
    /// The server is not of the kind that `target_session_attrs` asks for.
    Target(&'static str),
    /// In the conversation with the server.
    Server(tokio_postgres::Error),
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Server(error)
    }
}

impl Failure {
    fn said(&self) -> Option<&DbError> {
        match self {
            Self::Server(error) => error.as_db_error(),
            _ => None,
        }
    }

    /// The server answered and said no.
    pub(super) fn is_refusal(&self) -> bool {
        self.said().is_some()
    }

    pub(super) fn is_time(&self) -> bool {
        matches!(self, Self::Time(_))
    }

    /// TLS failed, or the server has none.
    pub(super) fn is_tls(&self) -> bool {
        match self {
            Self::Tls(_) => true,
            Self::Server(error) => rustls_error(error).is_some() || error.to_string().contains("TLS"),
            _ => false,
        }
    }

    /// The server answered that it has no TLS.
    pub(super) fn is_without_tls(&self) -> bool {
        match self {
            Self::Server(error) => cause(error).contains("does not support TLS"),
            _ => false,
        }
    }

    /// As with libpq, no other host is asked when one refused the login: it would be asked with the same password.
    pub(super) fn is_final(&self) -> bool {
        self.said()
            .is_some_and(|said| *said.code() != SqlState::CANNOT_CONNECT_NOW)
    }

    /// The network has no way to the place.
    fn is_without_route(&self) -> bool {
        match self {
            Self::Line(error) => {
                matches!(
                    error.kind(),
                    io::ErrorKind::NetworkUnreachable
                        | io::ErrorKind::HostUnreachable
                        | io::ErrorKind::AddrNotAvailable
                        | io::ErrorKind::Unsupported
                ) || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
            }
            Self::Name(_) | Self::Time(_) => true,
            _ => false,
        }
    }
}

/// A failure and where it happened.
pub(super) struct Attempt {
    host: Host,
    /// The address, if it came to that.
    place: Option<Host>,
    failure: Failure,
}

impl Attempt {
    pub(super) fn new(host: &Host, place: Option<&Host>, failure: Failure) -> Self {
        Self {
            host: host.clone(),
            place: place.cloned(),
            failure,
        }
    }

    fn is_at_six(&self) -> bool {
        match self.place.as_ref().map(|place| &place.place) {
            Some(Place::Address(address, _)) => address.is_ipv6(),
            Some(_) => false,
            // No address at all: on a network without IPv6, resolvers leave out what they hold useless.
            None => true,
        }
    }

    fn place(&self) -> String {
        match self.place.as_ref().map(|place| (&place.place, place.port)) {
            Some((Place::Address(address, Some(name)), port)) => {
                format!("{name} ({})", std::net::SocketAddr::new(*address, port))
            }
            _ => self.host.to_string(),
        }
    }
}

/// The error of all attempts: the words of the last, and where it was tried.
pub(super) fn error(settings: &Settings, attempts: Vec<Attempt>) -> Error {
    let only_six = !attempts.is_empty()
        && attempts
            .iter()
            .all(|attempt| attempt.is_at_six() && attempt.failure.is_without_route());
    let tried: Vec<String> = attempts.iter().map(Attempt::place).collect();
    let Some(Attempt { host, failure, .. }) = attempts.into_iter().last() else {
        return Error::new(ErrorKind::Source, "there is no host to connect to");
    };
    let pooler = supabase_reference(&host).filter(|_| only_six);
    let mut error = words(settings, &host, failure).with("server", tried.join(", "));
    if let Some(reference) = pooler {
        error = error.hint(format!(
            "{host} has an IPv6 address only, which this network does not reach: use the session pooler, \
             postgres://postgres.{reference}@aws-N-REGION.pooler.supabase.com:5432/postgres (\"Connect\" in the project's \
             dashboard shows its address)"
        ));
    }
    error
}

/// The project of `db.<ref>.supabase.co`.
fn supabase_reference(host: &Host) -> Option<&str> {
    let (Place::Name(name) | Place::Address(_, Some(name))) = &host.place else {
        return None;
    };
    name.strip_prefix("db.")?
        .strip_suffix(".supabase.co")
        .or_else(|| name.strip_prefix("db.")?.strip_suffix(".supabase.co."))
}

fn words(settings: &Settings, host: &Host, failure: Failure) -> Error {
    let new = |what: &str| Error::new(ErrorKind::Source, what);
    match failure {
        Failure::Name(error) => new("the name of the database server cannot be resolved")
            .because(error)
            .hint("check the name in the connection string, and the network"),
        Failure::Time(limit) => new("the database server does not answer")
            .with("waited", format!("{} s", limit.as_secs_f64()))
            .hint(
                "check that host and port are right and that no firewall drops the packets; connect_timeout=SECONDS waits longer",
            ),
        Failure::Line(error) => line(&host.place, error),
        Failure::Tls(error) => {
            new("TLS cannot be begun with this name").because(error)
        }
        Failure::Target(why) => new(&format!("the server is not the one asked for: {why}"))
            .hint("target_session_attrs says which server is wanted"),
        Failure::Server(error) => conversation(settings, error),
    }
}

fn line(place: &Place, error: io::Error) -> Error {
    let new = |what: &str, hint: &str| Error::new(ErrorKind::Source, what).hint(hint);
    let socket = matches!(place, Place::Socket(_));
    match error.kind() {
        io::ErrorKind::NotFound if socket => new(
            "no database server has a socket there",
            "start the server, or name a host: postgres://USER@HOST:PORT/DATABASE",
        ),
        io::ErrorKind::PermissionDenied if socket => new(
            "the socket of the database server may not be used by this user",
            "connect over TCP: postgres://USER@localhost:PORT/DATABASE",
        ),
        io::ErrorKind::ConnectionRefused => new(
            "no database server listens there",
            "check host and port, that the server runs, and that its listen_addresses names this address",
        ),
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => new(
            "this network has no way to the database server",
            "check the network; a host with an IPv6 address only needs a network with IPv6",
        ),
        _ => new(
            "the database server cannot be reached",
            "check host, port and the network",
        ),
    }
    .because(error)
}

/// What went wrong once there was a line.
fn conversation(settings: &Settings, error: tokio_postgres::Error) -> Error {
    if let Some(said) = error.as_db_error() {
        return refusal(settings, said);
    }
    if let Some(tls) = rustls_error(&error) {
        return handshake(settings, tls.clone());
    }
    let new = |what: &str| Error::new(ErrorKind::Source, what);
    let cause = cause(&error);
    if cause == "password missing" {
        return new("the database server asks for a password, and there is none")
            .with("role", &settings.user)
            .hint(
                "set PGPASSWORD, or put a line HOST:PORT:DATABASE:USER:PASSWORD into ~/.pgpass and chmod it to 600",
            );
    }
    if cause.contains("does not support TLS") {
        return new("the database server offers no TLS").hint(
            "turn TLS on at the server (ssl = on), or, on a network that is trusted, use sslmode=prefer",
        );
    }
    if cause.contains("channel binding") {
        return new("the database server does not bind the password to the TLS channel")
            .because(error)
            .hint("channel_binding=require needs TLS and a password stored as scram-sha-256");
    }
    new("the connection to the database server was lost while it was made")
        .because(error)
        .hint("check that a PostgreSQL server listens there; its log says why it closed the connection")
}

/// The server answered with an error.
fn refusal(settings: &Settings, said: &DbError) -> Error {
    let (role, database) = (&settings.user, &settings.database);
    let message = said.message();
    let unencrypted = settings.tls.mode == SslMode::Disable && message.contains("no encryption");
    let (what, hint) = if message.contains("SSL connection is required") {
        (
            "the database server wants TLS",
            "use sslmode=require, or better verify-full",
        )
    } else if unencrypted {
        (
            "the database server does not let this role in without TLS",
            "use sslmode=require, or better verify-full; if that is refused too, its pg_hba.conf needs a line for this address",
        )
    } else if message.contains("Tenant or user not found") || message.contains("tenant/user") {
        (
            "the pooler knows no such project",
            "the role is postgres.REF with the project's reference, and the host that of the project's region",
        )
    } else if message.contains("client certificate") {
        (
            "the database server wants a client certificate",
            "name one that it trusts with sslcert=FILE and sslkey=FILE",
        )
    } else if message.contains("pg_hba.conf") {
        (
            "the database server does not let this role in from here",
            "its pg_hba.conf needs a line for this address, role and database",
        )
    } else {
        match said.code() {
            code if *code == SqlState::INVALID_PASSWORD => (
                "the database server does not take this password",
                "check role and password; special characters in a URL are written as %XX",
            ),
            code if *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION => (
                "the database server does not let this role in",
                "check the name of the role, and the server's pg_hba.conf",
            ),
            code if *code == SqlState::INVALID_CATALOG_NAME => (
                "there is no such database",
                "check the last part of the URL; without one it is the name of the role",
            ),
            code if *code == SqlState::TOO_MANY_CONNECTIONS => (
                "the database server has no connection left",
                "wait, use fewer --jobs, or raise max_connections or the limit of the role",
            ),
            code if *code == SqlState::INSUFFICIENT_PRIVILEGE => (
                "the role may not connect to this database",
                "GRANT CONNECT ON DATABASE … TO … lets it in",
            ),
            code if *code == SqlState::CANNOT_CONNECT_NOW => (
                "the database server takes no connections now",
                "it starts, stops or recovers; try again",
            ),
            _ => (
                "the database server refuses the connection",
                "its own words say why",
            ),
        }
    };
    Error::new(ErrorKind::Source, what)
        .with("role", role)
        .with("database", database)
        .with("sqlstate", said.code().code())
        .because(format!("{}: {message} ({})", said.severity(), said.code().code()))
        .hint(hint)
}

/// TLS began and failed.
fn handshake(settings: &Settings, error: rustls::Error) -> Error {
    let (what, hint) = match &error {
        rustls::Error::InvalidCertificate(why) => match why {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => (
                "the certificate of the database server is not trusted",
                "name the certificate of the authority that signed it with sslrootcert=FILE",
            ),
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => (
                "the certificate of the database server is for another name",
                "connect by a name that its subjectAltName holds; a common name alone does not count",
            ),
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => (
                "the certificate of the database server has expired",
                "have it renewed; check the clock of this machine",
            ),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => (
                "the certificate of the database server is not valid yet",
                "check the clock of this machine",
            ),
            CertificateError::Revoked => (
                "the certificate of the database server was revoked",
                "the server needs a new one",
            ),
            _ => (
                "the certificate of the database server cannot be used",
                "it must be one for servers, signed by the authority that sslrootcert names",
            ),
        },
        rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateUnknown
            // Its signature is not of the authority whose name it bears.
            | AlertDescription::DecryptError
            | AlertDescription::AccessDenied,
        ) => (
            "the database server does not take the client's certificate",
            "name one that it trusts with sslcert=FILE and sslkey=FILE",
        ),
        _ => (
            "TLS with the database server failed",
            "it needs TLS 1.2 or newer; sslnegotiation=direct needs PostgreSQL 17",
        ),
    };
    let mut made = Error::new(ErrorKind::Source, what).hint(hint);
    if settings.tls.mode >= SslMode::VerifyCa {
        made = made.with(
            "verifying",
            if settings.tls.mode == SslMode::VerifyFull {
                "authority and name"
            } else {
                "authority"
            },
        );
    }
    made.because(error)
}

fn cause(error: &tokio_postgres::Error) -> String {
    error.source().map(ToString::to_string).unwrap_or_default()
}

/// rustls's own error, however deep in the chain.
fn rustls_error(error: &tokio_postgres::Error) -> Option<&rustls::Error> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = error.source();
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        let inner = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
            .and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if inner.is_some() {
            return inner;
        }
        next = error.source();
    }
    None
}
