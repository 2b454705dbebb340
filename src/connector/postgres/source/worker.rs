//! Connections that read in the exported snapshot: as many as were asked for, replaced when lost.

use crate::connector::postgres::catalog::Table;
use crate::connector::postgres::connect::Connection;
use crate::connector::postgres::name;
use crate::connector::postgres::session::{Session, explain, failed, is_full};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use futures::FutureExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

/// How often a piece of work is begun anew when its connection is lost.
const TRIES: u32 = 5;

/// How long a server that has no connection left is not asked for another.
const REFUSED: Duration = Duration::from_secs(10);
/// How long a connection may take to show that it lives.
const ALIVE: Duration = Duration::from_secs(10);

/// The connections of one snapshot. Each piece of work has a transaction of its own on one of them: what it locks, indexes too, is
/// free again when it is done.
pub(super) struct Workers {
    session: Arc<Session>,
    number: usize,
    idle: Mutex<Vec<Worker>>,
    seats: Arc<Semaphore>,
    ahead: Arc<Semaphore>,
    /// Seats that are left, if the server gives fewer connections than were asked for; and those to be taken away of these.
    left: Mutex<Left>,
}

/// How many may read at once.
struct Left {
    seats: usize,
    owed: usize,
    /// When the server last had no connection left.
    refused: Option<Instant>,
}

/// One connection.
struct Worker {
    connection: Connection,
}

/// The right to use one connection.
pub(super) struct Seat {
    _permit: Option<OwnedSemaphorePermit>,
    ahead: Option<Ahead>,
}

/// The right to read ahead of what is wanted next: so many that one connection is always left for that.
pub(super) struct Ahead {
    _permit: OwnedSemaphorePermit,
}

/// Whose connection does a piece of work.
pub(super) enum Hands {
    Worker(Box<WorkerHands>),
    /// Someone waits for an exclusive lock: whoever asks for the table now waits behind them, and they wait for the coordinator. It
    /// has its lock already, so it does the work. It also does if the server has no connection left.
    Coordinator(Arc<Session>),
}

pub(super) struct WorkerHands {
    worker: Worker,
}

impl Workers {
    pub(super) fn new(session: Arc<Session>, jobs: usize) -> Self {
        Self {
            session,
            number: jobs.max(1),
            idle: Mutex::default(),
            seats: Arc::new(Semaphore::new(jobs.max(1))),
            ahead: Arc::new(Semaphore::new(jobs.max(1) - 1)),
            left: Mutex::new(Left {
                seats: jobs.max(1),
                owed: 0,
                refused: None,
            }),
        }
    }

    /// Connections that may read at once.
    pub(super) fn number(&self) -> usize {
        self.number
    }

    /// Waits for a connection to be free.
    pub(super) async fn seat(&self) -> Result<Seat> {
        loop {
            let permit = self.seats.clone().acquire_owned().await;
            let permit = permit.map_err(|_| Error::new(ErrorKind::Internal, "the seats are closed"))?;
            if let Some(seat) = self.keep(permit) {
                return Ok(seat);
            }
        }
    }

    /// The right to use one, if it is free now.
    pub(super) fn try_seat(&self) -> Option<Seat> {
        loop {
            let permit = self.seats.clone().try_acquire_owned().ok()?;
            if let Some(seat) = self.keep(permit) {
                return Some(seat);
            }
        }
    }

    /// A seat, unless it is one to be taken away.
    fn keep(&self, permit: OwnedSemaphorePermit) -> Option<Seat> {
        if let Ok(mut left) = self.left.lock()
            && left.owed > 0
        {
            left.owed -= 1;
            permit.forget();
            return None;
        }
        Some(Seat {
            _permit: Some(permit),
            ahead: None,
        })
    }

    /// Takes note that the server has no connection left: from now on one less reads at once, and one at least.
    fn refuse(&self) {
        let Ok(mut left) = self.left.lock() else { return };
        left.refused = Some(Instant::now());
        if left.seats > 1 {
            left.seats -= 1;
            left.owed += 1;
            let text = format!("the server has no connection left: {} read at once", left.seats);
            self.session.context().emit(&Event::Note { text });
        }
    }

    fn is_refused(&self) -> bool {
        let left = self.left.lock();
        left.is_ok_and(|left| left.refused.is_some_and(|when| when.elapsed() < REFUSED))
    }

    /// The right to a connection beyond the number, for what cannot wait.
    pub(super) fn further_seat() -> Seat {
        Seat {
            _permit: None,
            ahead: None,
        }
    }

    /// The right to read ahead, if there is any left.
    pub(super) fn try_ahead(&self) -> Option<Ahead> {
        let permit = self.ahead.clone().try_acquire_owned().ok()?;
        Some(Ahead { _permit: permit })
    }

    /// A connection that sees the snapshot, and has locked `table`. Whoever calls has a seat.
    ///
    /// # Errors
    /// `Source` if the snapshot is gone or the table cannot be locked.
    pub(super) async fn hands(&self, table: Option<&Table>) -> Result<Hands> {
        let idle = self.idle.lock().ok().and_then(|mut idle| idle.pop());
        let worker = match idle {
            Some(worker) => worker,
            None if self.is_refused() => return Ok(Hands::Coordinator(self.session.clone())),
            None => match self.session.worker().await {
                Ok(connection) => Worker { connection },
                Err(error) if is_full(&error) => {
                    self.refuse();
                    return Ok(Hands::Coordinator(self.session.clone()));
                }
                Err(error) => return Err(error),
            },
        };
        let join = self.session.join();
        let statement = match table {
            Some(table) => {
                let name = name::qualified(&table.name)?;
                format!("{join}; LOCK TABLE ONLY {name} IN ACCESS SHARE MODE NOWAIT")
            }
            None => join,
        };
        // Nothing of this waits for anybody but the server's own session.
        let begun = worker.connection.client().batch_execute(&statement);
        let begun = tokio::time::timeout(self.session.options().silence, begun).await;
        let begun =
            begun.map_err(|_| Error::new(ErrorKind::Source, "a session of the server does not answer"))?;
        let hands = Hands::Worker(Box::new(WorkerHands { worker }));
        match (begun, table) {
            (Ok(()), _) => Ok(hands),
            (Err(error), _) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                self.give_back(hands);
                Ok(Hands::Coordinator(self.session.clone()))
            }
            (Err(error), Some(table)) => Err(explain(table, "cannot lock a table", error)),
            (Err(error), None) => Err(failed("a worker cannot join the snapshot", error)),
        }
    }

    /// Gives a connection back after good work, and ends its transaction. Nobody waits for that: a connection that is lost is found to
    /// be by whoever has it next.
    pub(super) fn give_back(&self, hands: Hands) {
        let Hands::Worker(hands) = hands else { return };
        let _sent = hands
            .worker
            .connection
            .client()
            .batch_execute("ROLLBACK")
            .now_or_never();
        if let Ok(mut idle) = self.idle.lock() {
            idle.push(hands.worker);
        }
    }

    /// Ends the transactions of all connections, so that no lock outlives the snapshot.
    pub(super) async fn end(&self) {
        let idle = self
            .idle
            .lock()
            .map(|mut idle| std::mem::take(&mut *idle))
            .unwrap_or_default();
        for worker in idle {
            // They have read what they had to; one that is lost now has let go of its locks too.
            let _ended = worker.connection.client().batch_execute("ROLLBACK").await;
        }
    }

    /// After a failure: whether it came with the loss of a connection, so that the work may be begun anew. Otherwise the failure is
    /// what counts.
    ///
    /// # Errors
    /// The failure, or that the snapshot itself is lost.
    pub(super) async fn recover(
        &self,
        context: &Context,
        hands: Option<Hands>,
        tries: u32,
        failure: Error,
    ) -> Result<()> {
        let lost = match &hands {
            Some(Hands::Worker(hands)) => !alive(hands.worker.connection.client()).await,
            // Its failed transaction takes the snapshot along.
            Some(Hands::Coordinator(_)) => return Err(failure),
            // No connection could be had, or it was lost before it was used: another time perhaps.
            None => failure
                .context("sqlstate")
                .is_none_or(|code| code.starts_with("57P") || code.starts_with("08")),
        };
        self.session.ping().await?;
        if !lost || tries >= TRIES || failure.kind() != ErrorKind::Source {
            return Err(failure);
        }
        context.emit(&Event::Retry {
            what: format!("a connection to {}", self.session.server_name()),
            why: failure
                .causes()
                .first()
                .cloned()
                .unwrap_or_else(|| failure.to_string()),
        });
        tokio::time::sleep(Duration::from_millis(200) * 2u32.saturating_pow(tries)).await;
        Ok(())
    }
}

/// Whether a connection still answers, if only that its transaction has failed.
async fn alive(client: &Client) -> bool {
    match tokio::time::timeout(ALIVE, client.simple_query("SELECT 1")).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => error.code().is_some_and(|code| !code.code().starts_with("57P")),
        Err(_) => false,
    }
}

impl Seat {
    /// The same, held by what reads ahead.
    pub(super) fn ahead(mut self, ahead: Ahead) -> Self {
        self.ahead = Some(ahead);
        self
    }
}

impl Hands {
    pub(super) fn client(&self) -> &Client {
        match self {
            Self::Worker(hands) => hands.worker.connection.client(),
            Self::Coordinator(session) => session.client(),
        }
    }
}
