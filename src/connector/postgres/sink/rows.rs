//! Rows: each segment is one `COPY … FROM STDIN` on whatever connection is free.

use super::session::{Refusal, Settings, Trouble, Worker};
use super::{Left, PostgresSink, damaged, is_local};
use crate::connector::postgres::key::TableName;
use crate::connector::postgres::name::{qualified, quote};
use crate::connector::postgres::record::{Belongs, SegmentRecord, TableRecord};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::event::{Event, Outcome};
use crate::snapshot::entry::{Content, EntryHead, Piece};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use std::sync::Arc;

/// A table that is being filled.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    /// Its name in quotes.
    pub(super) name: Arc<str>,
    /// Its columns in quotes, in parentheses; empty for none.
    pub(super) columns: Arc<str>,
    /// Which of its rows are the snapshot's.
    pub(super) condition: Option<Arc<str>>,
    pub(super) rows: u64,
    pub(super) bytes: u64,
    /// Whether something of it is missing; that was told.
    pub(super) failed: bool,
}

/// What became of a segment.
pub(super) struct Loaded {
    table: TableName,
    bytes: u64,
    rows: Result<u64, String>,
}

impl PostgresSink {
    /// Begins a table.
    pub(super) async fn table(&mut self, context: &Context, name: TableName, head: &EntryHead) -> Result<()> {
        let record = TableRecord::from_metadata(&head.metadata).map_err(|e| damaged(head, e))?;
        let table = describe(&name, &record);
        let mut failed = None;
        let mut table = table.unwrap_or_else(|error| {
            failed = Some(error.to_string());
            Table::default()
        });
        if self.missing.contains(&name) {
            failed = Some("the table could not be made, so its rows have no place".into());
        }
        // The script of an extension may have put in rows of its own; the snapshot's take their place.
        if failed.is_none() && record.belongs != Belongs::Schema && !self.request.dry_run {
            let condition = table.condition.as_deref().unwrap_or("WHERE true");
            let found = format!("SELECT 1 FROM ONLY {} {condition} LIMIT 1", table.name);
            let found = self
                .control()?
                .ask(&found, "cannot look at an extension's table")
                .await;
            if self.target.extensions && found.is_ok_and(|rows| !rows.is_empty()) {
                failed =
                    Some("an extension that the target had before has rows there, and they were left".into());
            } else {
                let sql = format!("DELETE FROM ONLY {} {condition}", table.name);
                match self.control()?.run(context, &sql).await {
                    Ok(()) => {}
                    Err(Trouble::Lost(error)) => return Err(error),
                    Err(Trouble::Refused(refusal)) => failed = Some(refusal.to_string()),
                }
            }
        }
        if let Some(why) = failed {
            table.failed = true;
            self.failed(context, name.to_string(), why);
        } else {
            self.done(context, name.to_string(), 0);
        }
        self.tables.insert(name, table);
        Ok(())
    }

    /// Copies a segment, when a connection is free.
    pub(super) async fn segment(
        &mut self,
        context: &Context,
        name: TableName,
        head: &EntryHead,
        content: Content,
    ) -> Result<()> {
        let record = SegmentRecord::from_metadata(&head.metadata).map_err(|e| damaged(head, e))?;
        if self.request.dry_run {
            return Ok(());
        }
        self.room(context).await?;
        let Some(table) = self.tables.get(&name) else {
            // Told once: from here on the table is known, and failed.
            let failed = true;
            self.failed(
                context,
                name.to_string(),
                "the snapshot has rows of it and not its columns".into(),
            );
            self.tables.insert(
                name,
                Table {
                    failed,
                    ..Table::default()
                },
            );
            return Ok(());
        };
        if table.failed {
            return Ok(());
        }
        let sql = format!("COPY {} {} FROM STDIN", table.name, table.columns);
        let mut settings = Settings::new();
        if self.target.replica {
            settings.insert("session_replication_role".into(), "replica".into());
        }
        let (own, bytes) = (context.clone(), head.size.unwrap_or(0));
        let work = move |mut worker: Worker| async move {
            let copied = match worker.settle(&own, &settings).await {
                Ok(()) => copy(&own, &mut worker, &sql, content).await,
                Err(trouble) => Err(trouble),
            };
            let rows = match copied {
                Ok(rows) if rows == record.rows => Ok(rows),
                Ok(rows) => Err(format!("{} rows were sent and {rows} taken", record.rows)),
                Err(Trouble::Refused(refusal)) => Err(refusal.to_string()),
                Err(Trouble::Lost(error)) => return Err(error.with("table", &name)),
            };
            let table = name;
            Ok((worker, Left::Rows(Loaded { table, bytes, rows })))
        };
        self.pool_mut()?.start(context, work).await
    }

    /// Enters what became of a segment.
    pub(super) fn loaded(&mut self, context: &Context, loaded: Loaded) {
        let Loaded {
            table: name,
            bytes,
            rows,
        } = loaded;
        let label = name.to_string();
        let Some(table) = self.tables.get_mut(&name) else {
            return;
        };
        match rows {
            Ok(rows) => {
                table.rows += rows;
                table.bytes += bytes;
                self.report.written += 1;
                self.report.bytes += bytes;
                let outcome = Outcome::Restored;
                context.emit(&Event::EntryDone {
                    name: label,
                    outcome,
                    bytes,
                });
            }
            Err(why) if !table.failed => {
                table.failed = true;
                self.failed(context, label, why);
            }
            Err(_) => {}
        }
    }
}

/// A table as statements name it.
fn describe(name: &TableName, record: &TableRecord) -> Result<Table> {
    let columns: Result<Vec<String>> = record.columns.iter().map(|column| quote(&column.name)).collect();
    let columns = columns?.join(", ");
    let condition = record
        .condition
        .as_ref()
        .map(|text| String::from_utf8_lossy(text).into());
    Ok(Table {
        name: qualified(name)?.into(),
        columns: if columns.is_empty() {
            "".into()
        } else {
            format!("({columns})").into()
        },
        condition,
        ..Table::default()
    })
}

/// Sends content as the rows of a `COPY`; gives the number that the server took.
async fn copy(context: &Context, worker: &mut Worker, sql: &str, content: Content) -> Result<u64, Trouble> {
    let of_content = |error: Error| {
        if is_local(&error) {
            Trouble::Refused(Refusal::own(&format!("{error:?}")))
        } else {
            Trouble::Lost(error)
        }
    };
    let mut pieces = content.open().await.map_err(of_content)?;
    let copy = async {
        let sink = worker.client().copy_in::<_, Bytes>(sql).await;
        worker.usable = sink.is_ok();
        let mut sink = Box::pin(sink.map_err(|error| worker.trouble(error))?);
        while let Some(piece) = pieces.next().await {
            // A content that breaks off drops the sink, and the server what it was sent.
            if let Piece::Data(bytes) = piece.map_err(of_content)?
                && sink.send(bytes).await.is_err()
            {
                // The server's answer says why.
                break;
            }
        }
        sink.as_mut()
            .finish()
            .await
            .map_err(|error| worker.trouble(error))
    };
    tokio::select! {
        biased;
        () = context.cancel.cancelled() => Err(Trouble::Lost(super::session::cancelled())),
        copied = copy => copied,
    }
}
