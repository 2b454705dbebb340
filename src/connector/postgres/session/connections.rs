//! The connections beside the coordinator: opened when there is none that nobody uses, and kept for whoever needs one next. A server
//! takes longer to begin a session, and to read its catalogs into it, than to look at most tables.

use super::{Attached, RunningStatements, Session, SessionOptions, in_time, settings};
use crate::connector::postgres::connect::{Connection, Server};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::event::Event;
use futures::future::join_all;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_postgres::error::SqlState;
use tokio_util::task::AbortOnDropHandle;

/// How long a connection may take to show that it lives.
const ALIVE: Duration = Duration::from_secs(10);
/// How long a connection that was made ahead of its use stands by.
const CONNECTED_MOST: Duration = Duration::from_secs(5);

/// Connections that nobody uses.
pub(super) struct Idle {
    attached: Mutex<Vec<Attached>>,
    /// One that is being opened and set up.
    opening: Mutex<Option<Opening>>,
    /// Told of each that is kept.
    kept: Notify,
}

type Opening = AbortOnDropHandle<Result<Connection>>;

/// Connections that nothing was read on yet, set up to read.
pub(crate) struct Connected {
    coordinator: Connection,
    /// The one that proved that no pooler is between.
    spare: Option<Connection>,
    opening: Option<Opening>,
    made: Instant,
}

impl Connected {
    /// Connects, and proves that no pooler is between. `another` says to begin with one more, which a worker will want soon.
    ///
    /// # Errors
    /// As [`Server::connect`], and `Source` if the server does not answer.
    pub(crate) async fn connect(
        context: &Context,
        server: &Server,
        options: &SessionOptions,
        another: bool,
    ) -> Result<Self> {
        let (coordinator, spare) = server.connect_with_spare(context).await?;
        let made = Instant::now();
        let opening = another.then(|| {
            let (server, context, options) = (coordinator.server().clone(), context.clone(), options.clone());
            AbortOnDropHandle::new(tokio::spawn(async move {
                set_up(server.connect(&context).await?, &options).await
            }))
        });
        let patience = ALIVE.min(options.silence);
        let other = async { set_up(spare?, options).await.ok() };
        let (coordinator, other) = tokio::join!(
            set_up(coordinator, options),
            tokio::time::timeout(patience, other)
        );
        Ok(Self {
            coordinator: coordinator?,
            spare: other.ok().flatten(),
            opening,
            made,
        })
    }

    /// Whether it can be used still: what lies between may have ended it.
    pub(super) fn serves(&self) -> bool {
        self.made.elapsed() < CONNECTED_MOST && !self.coordinator.client().is_closed()
    }

    pub(super) fn into_parts(self, running: &Arc<RunningStatements>) -> (Connection, Idle) {
        let spare = self.spare.map(|spare| {
            let mut spare = Attached::new(spare, running);
            spare.set_idle(true);
            spare
        });
        let idle = Idle {
            attached: Mutex::new(spare.into_iter().collect()),
            opening: Mutex::new(self.opening),
            kept: Notify::new(),
        };
        (self.coordinator, idle)
    }
}

/// A connection whose session is set to what a session that reads is set to.
async fn set_up(connection: Connection, options: &SessionOptions) -> Result<Connection> {
    let pinned = settings::pin(connection.client(), options.lock_millis());
    in_time(options.silence, pinned).await?;
    Ok(connection)
}

impl Idle {
    fn with<T>(&self, act: impl FnOnce(&mut Vec<Attached>) -> T) -> T {
        act(&mut self.attached.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn opening(&self) -> MutexGuard<'_, Option<Opening>> {
        self.opening.lock().unwrap_or_else(PoisonError::into_inner)
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
        self.idle.kept.notify_one();
    }

    /// Waits until there is a connection that nobody uses. Others may be faster to take it.
    pub(crate) async fn kept(&self) {
        loop {
            let mut kept = std::pin::pin!(self.idle.kept.notified());
            // From here on none is kept unnoticed.
            kept.as_mut().enable();
            if self.idle.with(|idle| !idle.is_empty()) {
                return;
            }
            kept.await;
        }
    }

    /// Closes the connections that nobody uses, so that others may connect. They have done what they had to: one that is lost or
    /// stands still now loses nothing.
    pub(crate) async fn close_idle(&self) {
        drop(self.idle.opening().take());
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
        let opening = self.idle.opening().take();
        if let Some(opening) = opening
            && let Ok(opened) = opening.await
        {
            return Ok(Attached::new(opened?, &self.running));
        }
        self.attach(self.server.connect(&self.context).await?).await
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
        let open = || self.server.connect(&self.context);
        let connection = patiently(open, &self.context, &self.server, &self.options).await?;
        self.attach(connection).await
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
