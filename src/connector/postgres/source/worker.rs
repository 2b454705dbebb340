//! Connections that read in the exported snapshot: as many as were asked for, replaced when lost.

use crate::connector::postgres::catalog::Table;
use crate::connector::postgres::connect::Connection;
use crate::connector::postgres::name;
use crate::connector::postgres::session::{Session, explain};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

/// How often a piece of work is begun anew when its connection is lost.
const TRIES: u32 = 5;

/// The connections of one snapshot.
pub(super) struct Workers {
    session: Arc<Session>,
    number: usize,
    idle: Mutex<Vec<Worker>>,
    seats: Arc<Semaphore>,
    ahead: Arc<Semaphore>,
}

/// One connection.
struct Worker {
    connection: Connection,
    /// Tables that it has locked.
    locked: HashSet<u32>,
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
    /// has its lock already, so it does the work.
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
        }
    }

    /// Connections that may read at once.
    pub(super) fn number(&self) -> usize {
        self.number
    }

    /// Waits for a connection to be free.
    pub(super) async fn seat(&self) -> Result<Seat> {
        let permit = self.seats.clone().acquire_owned().await;
        let permit = permit.map_err(|_| Error::new(ErrorKind::Internal, "the seats are closed"))?;
        Ok(Seat {
            _permit: Some(permit),
            ahead: None,
        })
    }

    /// The right to use one, if it is free now.
    pub(super) fn try_seat(&self) -> Option<Seat> {
        let permit = self.seats.clone().try_acquire_owned().ok()?;
        Some(Seat {
            _permit: Some(permit),
            ahead: None,
        })
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

    /// A connection on which `table` is locked. Whoever calls has a seat.
    ///
    /// # Errors
    /// `Source` if the snapshot is gone or the table cannot be locked.
    pub(super) async fn hands(&self, table: &Table) -> Result<Hands> {
        let idle = self.idle.lock().ok().and_then(|mut idle| idle.pop());
        let mut worker = match idle {
            Some(worker) => worker,
            None => Worker {
                connection: self.session.worker().await?,
                locked: HashSet::new(),
            },
        };
        if worker.locked.contains(&table.oid) {
            return Ok(Hands::Worker(Box::new(WorkerHands { worker })));
        }
        let statement = format!(
            "LOCK TABLE ONLY {} IN ACCESS SHARE MODE NOWAIT",
            name::qualified(&table.name)?
        );
        match worker.connection.client().batch_execute(&statement).await {
            Ok(()) => {
                worker.locked.insert(table.oid);
                Ok(Hands::Worker(Box::new(WorkerHands { worker })))
            }
            Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                Ok(Hands::Coordinator(self.session.clone()))
            }
            Err(error) => Err(explain(table, "cannot lock a table", error)),
        }
    }

    /// Gives a connection back after good work.
    pub(super) fn give_back(&self, hands: Hands) {
        if let (Hands::Worker(hands), Ok(mut idle)) = (hands, self.idle.lock()) {
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
            // No connection could be had: another time perhaps.
            None => failure
                .context("sqlstate")
                .is_none_or(|code| code.starts_with("57P")),
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
    match client.simple_query("SELECT 1").await {
        Ok(_) => true,
        Err(error) => error.code().is_some_and(|code| !code.code().starts_with("57P")),
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
