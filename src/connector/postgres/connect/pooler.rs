//! Poolers that hand a session's transactions to whichever backend is free: settings, locks and exported snapshots do not survive there,
//! and no consistent copy can be made. They are refused before anything is read.

use super::reach::{self, Reached};
use super::settings::{Host, Place, Settings};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use std::time::Duration;
use tokio_postgres::{Client, SimpleQueryMessage};

/// Supabase's port for transaction mode.
const TRANSACTION_PORT: u16 = 6543;
/// How long a second session may take to get a backend: a pooler in session mode may have none left.
const PATIENCE: Duration = Duration::from_secs(5);
const SAMPLES: usize = 3;

/// Refuses addresses that are known for it.
///
/// # Errors
/// `Refused`, with the address to use instead.
pub(super) fn refuse_known(settings: &Settings) -> Result<()> {
    for host in &settings.hosts {
        let (Place::Name(name) | Place::Address(_, Some(name))) = &host.place else {
            continue;
        };
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let supabase = name.ends_with(".pooler.supabase.com")
            || (name.starts_with("db.") && name.ends_with(".supabase.co"));
        if supabase && host.port == TRANSACTION_PORT {
            return Err(refused(host).hint(format!(
                "port 5432 of the same host keeps sessions: postgres://{}@{name}:5432/{}",
                settings.user, settings.database
            )));
        }
    }
    Ok(())
}

/// Proves that the session keeps its backend, by a second session that occupies one: a pooler in transaction mode gives it the first's.
/// Gives the second session, if there is one that ended its transaction well.
///
/// # Errors
/// `Refused` if it does not; `Source` if the connection is lost.
pub(super) async fn refuse_proved(
    settings: &Settings,
    context: &Context,
    reached: &Reached,
) -> Result<Option<Reached>> {
    let mine = reached.facts.backend;
    // A server that has no second connection to give is asked by itself alone.
    let other = reach::open(settings, context).await.ok();
    let occupied = match &other {
        Some(other) => tokio::time::timeout(PATIENCE, occupy(&other.client))
            .await
            .ok()
            .transpose()
            .map_err(lost)?,
        None => None,
    };
    let mut pooled = occupied == Some(mine);
    for _ in 0..SAMPLES {
        if pooled {
            break;
        }
        pooled = match tokio::time::timeout(PATIENCE, backend(&reached.client)).await {
            Ok(sample) => sample.map_err(lost)? != mine,
            // The other session holds the only backend.
            Err(_) => true,
        };
    }
    if pooled {
        let host = settings.hosts.first().unwrap_or(&reached.host);
        return Err(refused(host).hint(
            "connect to the server itself, or to a pooler in session mode (PgBouncer: pool_mode = session)",
        ));
    }
    let (Some(other), Some(_)) = (other, occupied) else {
        return Ok(None);
    };
    let ended = tokio::time::timeout(PATIENCE, other.client.batch_execute("ROLLBACK")).await;
    Ok(matches!(ended, Ok(Ok(()))).then_some(other))
}

/// Begins a transaction and tells its backend.
async fn occupy(client: &Client) -> Result<u32, tokio_postgres::Error> {
    asked(client, "BEGIN READ ONLY; SELECT pg_catalog.pg_backend_pid()").await
}

/// Each time in a message of its own, sent when the last was answered: what comes at once a pooler hands on at once.
async fn backend(client: &Client) -> Result<u32, tokio_postgres::Error> {
    asked(client, "SELECT pg_catalog.pg_backend_pid()").await
}

async fn asked(client: &Client, sql: &str) -> Result<u32, tokio_postgres::Error> {
    let messages = client.simple_query(sql).await?;
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    Ok(row.and_then(|text| text.parse().ok()).unwrap_or(0))
}

fn refused(host: &Host) -> Error {
    Error::new(
        ErrorKind::Refused,
        "this is a connection pooler in transaction mode, through which no consistent snapshot can be read",
    )
    .with("server", host)
}

fn lost(error: tokio_postgres::Error) -> Error {
    Error::new(
        ErrorKind::Source,
        "the connection to the database server was lost",
    )
    .because(error)
}
