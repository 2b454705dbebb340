//! What was seen of the server and must last: after a crash another transaction could have the number of one that was lost, and its
//! rows would look unchanged.

use super::{CONFIGURED, Session, failed, in_time, one, text};
use crate::connector::postgres::catalog;
use crate::error::Result;
use std::time::Duration;
use tokio::time::Instant;
use tokio_postgres::Client;

/// How long the server may take to make its log durable. One whose log stands just at the beginning of a page may not say so before
/// it writes more.
const PATIENCE: Duration = Duration::from_secs(10);

impl Session {
    /// Waits until all that the snapshot saw is durable on the server. Gives the position, nothing if durability cannot be known.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub(crate) async fn flushed(&self) -> Result<Option<u64>> {
        self.flushed_to(self.facts.server.position).await
    }

    /// Waits until all that was committed before this is durable, as [`Self::flushed`].
    ///
    /// # Errors
    /// As [`Self::check`].
    pub(crate) async fn flushed_now(&self) -> Result<Option<u64>> {
        let end = catalog::log_end(self.client(), self.facts.server.in_recovery).await?;
        self.flushed_to(end).await
    }

    async fn flushed_to(&self, target: Option<u64>) -> Result<Option<u64>> {
        let Some(target) = target.filter(|_| self.facts.server.fsync) else {
            return Ok(None);
        };
        let patience = Instant::now() + PATIENCE;
        let mut flushed = catalog::flushed(self.client()).await?;
        if !self.facts.server.in_recovery && flushed < Some(target) {
            // Others may commit without waiting for the log, readers clean up pages as they go, and nobody flushes it for that: a
            // commit behind all of it does.
            let bystander = self.bystander().await?;
            in_time(self.options.silence, flush(bystander.client())).await?;
            self.keep(bystander);
            flushed = catalog::flushed(self.client()).await?;
        }
        while flushed < Some(target) {
            if Instant::now() > patience {
                return Ok(None);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            self.check()?;
            flushed = catalog::flushed(self.client()).await?;
        }
        Ok(flushed)
    }

    /// Whether roles have the names that the snapshot saw. What programs print of them is not always what their snapshot shows, and not
    /// every role may see when a role was renamed.
    ///
    /// # Errors
    /// `Source` if the server cannot be asked.
    pub(crate) async fn roles_stand(&self) -> Result<bool> {
        let what = "cannot look at the names of roles";
        // Its view of the present is as old as its transaction.
        let bystander = self.bystander().await?;
        let asked = async {
            let joined = bystander.client().batch_execute(&self.join()).await;
            joined.map_err(|error| failed(what, error))?;
            let sql = "SELECT pg_catalog.bool_and(pg_catalog.pg_get_userbyid(r.oid) OPERATOR(pg_catalog.=) r.rolname)
                FROM pg_catalog.pg_roles r";
            let stand = one(bystander.client(), sql, what).await?.get(0) == Some("t");
            let left = bystander.client().batch_execute("ROLLBACK").await;
            left.map_err(|error| failed(what, error))?;
            Ok(stand)
        };
        let stand = in_time(self.options.silence, asked).await?;
        self.keep(bystander);
        Ok(stand)
    }

    /// Whether the server's configuration was not loaded anew since the snapshot was taken, not even to be what it had been: a program may
    /// have begun its session with another. Each session notices that before its next statement. Nothing if the server does not tell.
    ///
    /// # Errors
    /// `Source` if the server cannot be asked.
    pub(crate) async fn configuration_stands(&self) -> Result<Option<bool>> {
        let Some(configured) = &self.facts.configured else {
            return Ok(None);
        };
        let asked = one(
            self.client(),
            CONFIGURED,
            "cannot tell when the server was configured",
        );
        let row = in_time(self.options.silence, asked).await?;
        Ok(Some(text(&row, 0) == *configured))
    }
}

/// Has the server flush its log by a commit. One with no more than a number of its own would not wait for that, so it writes a record,
/// which nothing reads; a role that may not write one can only hope.
async fn flush(client: &Client) -> Result<()> {
    let what = "the server gives no transaction";
    let set = client.batch_execute("SET synchronous_commit = local").await;
    set.map_err(|error| failed(what, error))?;
    let write = "SELECT pg_catalog.pg_logical_emit_message(true, 'holdall', '')";
    match client.batch_execute(write).await {
        Ok(()) => Ok(()),
        Err(error) if error.as_db_error().is_some() => {
            let begin = one(client, "SELECT pg_catalog.txid_current()::text", what).await;
            begin.map(drop)
        }
        Err(error) => Err(failed(what, error)),
    }
}
