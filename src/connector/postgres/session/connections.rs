//! The connections beside the coordinator: opened when there is none that nobody uses, and kept for whoever needs one next. A server
//! takes longer to begin a session, and to read its catalogs into it, than to look at most tables.

use super::{Attached, Session, SessionOptions, in_time, settings};
use crate::connector::postgres::connect::{Connection, Server};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::event::Event;
use futures::future::join_all;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tokio_postgres::error::SqlState;

/// How long a connection may take to show that it lives.
const ALIVE: Duration = Duration::from_secs(10);

/// Connections that nobody uses.
pub(super) struct Idle {
    attached: Mutex<Vec<Attached>>,
    /// One that is not set up yet.
    spare: Mutex<Option<Connection>>,
}

impl Idle {
    pub(super) fn new(spare: Option<Connection>) -> Self {
        Self {
            attached: Mutex::default(),
            spare: Mutex::new(spare),
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Vec<Attached>) -> T) -> T {
        act(&mut self.attached.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn spare(&self) -> Option<Connection> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Session {
    /// A connection that nobody uses, if there is one. It may be lost by now.
    pub(crate) fn idle(&self) -> Option<Attached> {
        let mut idle = self.idle.with(Vec::pop)?;
        idle.set_idle(false);
        Some(idle)
    }

    /// Keeps a connection for whoever needs one next. It stands in no transaction, or is about to leave it.
    pub(crate) fn keep(&self, mut attached: Attached) {
        attached.set_idle(true);
        self.idle.with(|idle| idle.push(attached));
    }

    /// Closes the connections that nobody uses, so that others may connect. They have done what they had to: one that is lost or
    /// stands still now loses nothing.
    pub(crate) async fn close_idle(&self) {
        drop(self.idle.spare());
        let idle = self.idle.with(std::mem::take);
        let patience = self.patience();
        let ended = idle
            .iter()
            .map(|idle| tokio::time::timeout(patience, idle.client().batch_execute("ROLLBACK")));
        let _ended = join_all(ended).await;
    }

    /// How long a connection may take to show that it lives.
    pub(crate) fn patience(&self) -> Duration {
        ALIVE.min(self.options.silence)
    }

    /// A further connection. What it reads stands in no transaction before [`Self::join`].
    ///
    /// # Errors
    /// `Source` if the server cannot be reached.
    pub(crate) async fn worker(&self) -> Result<Attached> {
        self.check()?;
        if let Some(spare) = self.spare().await {
            return Ok(spare);
        }
        let connection = self.server.connect(&self.context).await?;
        self.attach(connection).await
    }

    /// A connection that sees what is there now, and stands in no transaction. Whoever has no more use for it should [`Self::keep`] it.
    ///
    /// # Errors
    /// As [`Self::worker`].
    pub(crate) async fn bystander(&self) -> Result<Attached> {
        while let Some(idle) = self.idle() {
            let answer = idle.client().batch_execute("ROLLBACK");
            if matches!(tokio::time::timeout(self.patience(), answer).await, Ok(Ok(()))) {
                return Ok(idle);
            }
        }
        if let Some(spare) = self.spare().await {
            return Ok(spare);
        }
        let open = || self.server.connect(&self.context);
        let connection = patiently(open, &self.context, &self.server, &self.options).await?;
        self.attach(connection).await
    }

    /// The connection that came with the coordinator, if it is there and lives.
    async fn spare(&self) -> Option<Attached> {
        let spare = self.idle.spare()?;
        tokio::time::timeout(self.patience(), self.attach(spare))
            .await
            .ok()?
            .ok()
    }

    async fn attach(&self, connection: Connection) -> Result<Attached> {
        let attached = Attached::new(connection, &self.running);
        let pinned = settings::pin(attached.client(), self.options.lock_millis());
        in_time(self.options.silence, pinned).await?;
        Ok(attached)
    }
}

/// What `open` opens, waited for as long as for a lock if the server has no connection left.
pub(super) async fn patiently<T, F>(
    open: impl Fn() -> F,
    context: &Context,
    server: &Server,
    options: &SessionOptions,
) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let begun = Instant::now();
    let mut told = false;
    loop {
        match open().await {
            Err(error) if is_full(&error) && begun.elapsed() < options.lock_timeout => {
                if !std::mem::replace(&mut told, true) {
                    context.emit(&Event::Retry {
                        what: format!("a connection to {}", server.description()),
                        why: error.what().to_owned(),
                    });
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            opened => return opened,
        }
    }
}

/// Whether the server has no connection left, for all or for the role.
pub(crate) fn is_full(error: &Error) -> bool {
    error.context("sqlstate") == Some(SqlState::TOO_MANY_CONNECTIONS.code())
}
