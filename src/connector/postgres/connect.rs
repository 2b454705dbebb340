//! Connections to a server.

use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use tokio_postgres::{Client, Config, NoTls};
use tokio_util::task::AbortOnDropHandle;

/// Where a database is, and who asks for it.
#[derive(Clone)]
pub struct Server {
    config: Config,
}

/// A connection; closed when dropped.
pub struct Connection {
    client: Client,
    /// Moves the bytes; ends with the connection.
    _driver: AbortOnDropHandle<()>,
}

impl Server {
    /// What a connection string names.
    ///
    /// # Errors
    /// `Invalid` if it cannot be read; the message holds nothing of it.
    pub fn parse(text: &str) -> Result<Self> {
        let config = text.parse().map_err(|_| {
            Error::new(ErrorKind::Invalid, "this is no connection string of PostgreSQL")
                .hint("postgres://USER@HOST:PORT/DATABASE")
        })?;
        Ok(Self { config })
    }

    /// The same server and role, another database.
    #[must_use]
    pub fn with_database(&self, name: &str) -> Self {
        let mut config = self.config.clone();
        config.dbname(name);
        Self { config }
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// `Source` if the server cannot be reached or refuses.
    pub async fn connect(&self, _context: &Context) -> Result<Connection> {
        let refused = |error: tokio_postgres::Error| {
            Error::new(ErrorKind::Source, "cannot connect to PostgreSQL").because(error)
        };
        let (client, connection) = self.config.connect(NoTls).await.map_err(refused)?;
        let driver = AbortOnDropHandle::new(tokio::spawn(async move {
            // What ends it is told to whoever waits for an answer.
            let _ended = connection.await;
        }));
        Ok(Connection {
            client,
            _driver: driver,
        })
    }
}

impl Connection {
    /// The client.
    pub fn client(&self) -> &Client {
        &self.client
    }
}
