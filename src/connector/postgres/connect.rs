//! Connections to a server: parameters as libpq means them, TLS on rustls, no pooler that breaks sessions.

mod child;
mod connection_string;
mod failure;
mod line;
mod parameters;
mod passfile;
mod pieces;
mod pooler;
mod reach;
mod service;
mod settings;
mod tls;
mod validity;

pub use parameters::{Surroundings, VARIABLES};

use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use parameters::Parameters;
use reach::{Driver, Reached};
use settings::Settings;
use std::ffi::OsString;
use std::sync::Arc;
use tokio_postgres::Client;

/// The oldest server that is read, as `server_version_num`.
pub const OLDEST: u32 = 120_000;
/// From here on a server is newer than what this program was tested with.
pub const UNTESTED: u32 = 190_000;

/// Where a database is, and who asks for it. Holds a password, which no form of printing shows.
#[derive(Clone)]
pub struct Server {
    settings: Arc<Settings>,
    notes: Vec<String>,
    password_in_text: bool,
    /// A connection to this one place was made, and no pooler is between.
    proved: bool,
}

/// A connection; closed when dropped.
pub struct Connection {
    client: Client,
    server: Server,
    version: u32,
    backend: u32,
    has_no_encoding: bool,
    /// Behind the client, which has to be gone before it ends.
    _driver: Driver,
}

/// Ends what a connection's server does, from anywhere and also while the connection waits.
#[derive(Clone)]
pub struct CancelToken {
    token: tokio_postgres::CancelToken,
    settings: Arc<Settings>,
}

impl Server {
    /// What a connection string names: a `postgres://` URL or `key=value` pairs, completed from `surroundings` as libpq does it
    /// (service file, `PG*`, password file, defaults). An empty text leaves everything to the surroundings.
    ///
    /// # Errors
    /// `Invalid` if it cannot be read or has values without meaning, `Unsupported` for parameters that are not done here, `NotFound`
    /// for a service that is not defined, `Refused` for the address of a pooler in transaction mode. Messages name parameters and
    /// hold no values.
    pub fn parse(text: &str, surroundings: &Surroundings) -> Result<Self> {
        let password_in_text = connection_string::parse(text)?.get("password").is_some();
        let all = Parameters::gather(text, surroundings)?;
        let (settings, notes) = Settings::new(&all, surroundings)?;
        pooler::refuse_known(&settings)?;
        Ok(Self {
            settings: Arc::new(settings),
            notes,
            password_in_text,
            proved: false,
        })
    }

    /// The same server and role, another database.
    #[must_use]
    pub fn with_database(&self, name: &str) -> Self {
        let mut settings = Settings::clone(&self.settings);
        name.clone_into(&mut settings.database);
        Self {
            settings: Arc::new(settings),
            ..self.clone()
        }
    }

    /// Hosts, ports and database, without secrets: `db.example.com:5432/app`.
    pub fn description(&self) -> String {
        let hosts: Vec<String> = self.settings.hosts.iter().map(ToString::to_string).collect();
        format!("{}/{}", hosts.join(","), self.settings.database)
    }

    /// The name of the database.
    pub fn database(&self) -> &str {
        &self.settings.database
    }

    /// The role to connect as.
    pub fn user(&self) -> &str {
        &self.settings.user
    }

    /// Whether the connection string itself had a password. In the arguments of a program everyone on the machine can read it: the
    /// user should be told.
    pub fn has_password_in_text(&self) -> bool {
        self.password_in_text
    }

    /// What the user should know, such as a password file that is not used because others may read it.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The same connection for programs of PostgreSQL's own: `PG*` variables, the password among them. Take them from
    /// [`Connection::server`], so that the program reaches the very server that was reached.
    pub fn child_environment(&self) -> Vec<(OsString, OsString)> {
        child::environment(&self.settings)
    }

    /// Opens a connection: hosts in their order, every address of each, ten seconds for each unless `connect_timeout` says otherwise.
    /// The first connection also proves that no pooler takes the session apart; those of its [`Connection::server`] need not.
    ///
    /// # Errors
    /// `Source` if no server can be reached or it refuses, `Invalid` if files of certificates cannot be used, `Refused` for a pooler in
    /// transaction mode, `Unsupported` for a server older than 12, `Cancelled`.
    pub async fn connect(&self, context: &Context) -> Result<Connection> {
        self.connect_with_spare(context)
            .await
            .map(|(connection, _)| connection)
    }

    /// As [`Self::connect`], and with it the second connection that the proof took, if it took one and that leads to the same place.
    pub(super) async fn connect_with_spare(
        &self,
        context: &Context,
    ) -> Result<(Connection, Option<Connection>)> {
        let reached = reach::open(&self.settings, context).await?;
        let version = reached.facts.version;
        if version < OLDEST {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "this PostgreSQL server is too old: versions from 12 on can be read",
            )
            .with("server", &reached.host)
            .with("version", words(version)));
        }
        // The next connection goes to the same place: exported snapshots are of one server, and a name may have several.
        let mut settings = Settings::clone(&self.settings);
        settings.hosts = vec![reached.host.clone()];
        let other = if self.proved {
            None
        } else {
            pooler::refuse_proved(&settings, context, &reached).await?
        };
        let mut notes = self.notes.clone();
        if version >= UNTESTED && !self.proved {
            notes.push(format!(
                "PostgreSQL {} is newer than what this version was tested with",
                words(version)
            ));
        }
        let server = Self {
            settings: Arc::new(settings),
            notes,
            password_in_text: self.password_in_text,
            proved: true,
        };
        let connection = |reached: Reached| Connection {
            client: reached.client,
            server: server.clone(),
            version,
            backend: reached.facts.backend,
            has_no_encoding: reached.facts.has_no_encoding,
            _driver: reached.driver,
        };
        Ok((connection(reached), other.map(connection)))
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Server").field(&self.description()).finish()
    }
}

impl std::fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Surroundings")
            .field("variables", &self.variables.keys())
            .field("home", &self.home)
            .field("user", &self.user)
            .finish()
    }
}

impl Connection {
    /// The client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The one server that was reached, for further connections to it and for child processes. Its notes have what was learned.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Tells what was learned by connecting beyond the notes of the server that was asked for.
    pub(super) fn tell_learned(&self, asked: &Server, context: &Context) {
        for text in self.server.notes.iter().skip(asked.notes.len()) {
            context.emit(&Event::Note { text: text.clone() });
        }
    }

    /// The server's version as `server_version_num` has it: 150018 is 15.18.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Whether the database has no encoding (`SQL_ASCII`): its text is bytes.
    pub fn has_no_encoding(&self) -> bool {
        self.has_no_encoding
    }

    /// The number of the server's process, as `pg_stat_activity` has it.
    pub(super) fn backend(&self) -> u32 {
        self.backend
    }

    /// What ends the statement that runs.
    pub fn cancel_token(&self) -> CancelToken {
        CancelToken {
            token: self.client.cancel_token(),
            settings: Arc::clone(&self.server.settings),
        }
    }
}

impl CancelToken {
    /// Asks the server to end the statement that the connection runs. It may have ended by then, and the server does not say.
    ///
    /// # Errors
    /// `Source` if the server cannot be reached.
    pub async fn cancel(&self) -> Result<()> {
        let settings = &self.settings;
        let Some(host) = settings.hosts.first() else {
            return Err(Error::new(ErrorKind::Internal, "a connection without a host"));
        };
        reach::cancel(settings, host, &self.token)
            .await
            .map_err(|failure| {
                failure::error(settings, vec![failure::Attempt::new(host, Some(host), failure)])
            })
    }
}

/// `server_version_num` as people say it.
fn words(version: u32) -> String {
    if version >= 100_000 {
        format!("{}.{}", version / 10_000, version % 10_000)
    } else {
        format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
    }
}
