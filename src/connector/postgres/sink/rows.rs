//! Rows: neighbouring segments of a table are one `COPY … FROM STDIN` on whatever connection is free.

use super::batch::{self, Batch, Sent, Waiting};
use super::session::{Settings, Trouble, Worker};
use super::{Left, PostgresSink, damaged};
use crate::connector::postgres::key::{Place, Segment, TableName};
use crate::connector::postgres::name::{qualified, quote};
use crate::connector::postgres::record::{Belongs, SegmentRecord, TableRecord};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::snapshot::entry::{Content, EntryHead};
use std::sync::Arc;

/// Segments of a table that are named when they are refused; the others are counted.
const NAMED: u64 = 20;

/// A table that is being filled.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    /// Its name in quotes.
    pub(super) name: Arc<str>,
    /// Its columns in quotes, in parentheses; empty for none.
    pub(super) columns: Arc<str>,
    /// The names of its columns.
    pub(super) names: Arc<[Vec<u8>]>,
    /// Which of its rows are the snapshot's.
    pub(super) condition: Option<Arc<str>>,
    pub(super) rows: u64,
    pub(super) bytes: u64,
    /// Whether its rows have no place; that was told.
    pub(super) unusable: bool,
    /// Segments that could not be written; that was told. The others of the table are there.
    pub(super) refused: u64,
}

/// What became of segments.
pub(super) struct Loaded {
    table: TableName,
    segments: Vec<Sent>,
}

impl PostgresSink {
    /// Begins a table.
    pub(super) async fn table(&mut self, context: &Context, name: TableName, head: &EntryHead) -> Result<()> {
        let record = TableRecord::from_metadata(&head.metadata).map_err(|e| damaged(head, e))?;
        let (mut table, mut failed) = match describe(&name, &record) {
            Ok(table) => (table, None),
            Err(error) => (Table::default(), Some(error.to_string())),
        };
        if self.missing.contains(&name) {
            failed = Some("the table could not be made, so its rows have no place".into());
        }
        if failed.is_none() && record.belongs != Belongs::Schema && !self.request.dry_run {
            failed = self.make_room(context, &table).await?;
        }
        if let Some(why) = failed {
            table.unusable = true;
            self.failed(context, name.to_string(), why);
        } else {
            self.done(context, name.to_string(), 0);
        }
        self.tables.insert(name, table);
        Ok(())
    }

    /// Removes the rows that the script of an extension has put into one of its tables: the snapshot's take their place. Gives why
    /// that cannot be done.
    async fn make_room(&mut self, context: &Context, table: &Table) -> Result<Option<String>> {
        // Rows of other tables may hang on these.
        self.drain(context).await?;
        let settings = self.without_triggers();
        let mut worker = self.control.take().ok_or_else(super::unprepared)?;
        let known = (self.target.extensions, self.target.replica);
        let made = match worker.settle(context, &settings).await {
            Ok(()) => clear(context, &worker, table, known).await,
            Err(trouble) => Err(trouble),
        };
        self.control = Some(worker);
        match made {
            Ok(why) => Ok(why),
            Err(Trouble::Refused(refusal)) => Ok(Some(refusal.to_string())),
            Err(Trouble::Lost(error)) => Err(error),
        }
    }

    /// Settings under which no trigger fires, as far as the role may set them.
    fn without_triggers(&self) -> Settings {
        let mut settings = Settings::new();
        if self.target.replica {
            settings.insert("session_replication_role".into(), "replica".into());
        }
        settings
    }

    /// Takes a segment, which is sent with its neighbours.
    pub(super) async fn segment(
        &mut self,
        context: &Context,
        (name, segment): (TableName, Segment),
        head: &EntryHead,
        content: Content,
    ) -> Result<()> {
        let record = SegmentRecord::from_metadata(&head.metadata).map_err(|e| damaged(head, e))?;
        if self.request.dry_run {
            return Ok(());
        }
        let Some(table) = self.tables.get(&name) else {
            // Told once: from here on the table is known, and of no use.
            let why = "the snapshot has rows of it and not its columns";
            self.failed(context, name.to_string(), why.into());
            let unusable = true;
            let table = Table {
                unusable,
                ..Table::default()
            };
            self.tables.insert(name, table);
            return Ok(());
        };
        if table.unusable {
            return Ok(());
        }
        let table = table.clone();
        let bytes = head.size.unwrap_or(0);
        let most = batch::most(context, self.pool_mut()?.jobs());
        if !self.batch.as_ref().is_some_and(|batch| batch.takes(bytes, most)) {
            self.send_batch(context).await?;
        }
        let batch = self.batch.get_or_insert_with(|| Batch::new(name, table));
        batch.add(Waiting {
            segment,
            rows: record.rows,
            bytes,
            content,
        });
        Ok(())
    }

    /// Whether the segments that wait are of this table.
    pub(super) fn gathers(&self, name: &TableName) -> bool {
        self.batch.as_ref().is_some_and(|batch| batch.name == *name)
    }

    /// Sends the segments that wait, when a connection is free.
    pub(super) async fn send_batch(&mut self, context: &Context) -> Result<()> {
        let Some(batch) = self.batch.take() else {
            return Ok(());
        };
        self.room(context).await?;
        let (own, settings) = (context.clone(), self.without_triggers());
        let work = move |mut worker: Worker| async move {
            let table = batch.name.clone();
            let sent = match worker.settle(&own, &settings).await {
                Ok(()) => batch.send(&own, &mut worker).await,
                Err(Trouble::Refused(refusal)) => Ok(batch.refused(&refusal)),
                Err(lost) => Err(lost),
            };
            match sent {
                Ok(segments) => Ok((worker, Left::Rows(Loaded { table, segments }))),
                Err(Trouble::Lost(error)) => Err(error.with("table", &table)),
                Err(Trouble::Refused(refusal)) => {
                    let error = Error::new(
                        ErrorKind::Source,
                        "cannot begin or end a transaction in the target",
                    );
                    Err(error.with("table", &table).with("the server said", refusal))
                }
            }
        };
        self.pool_mut()?.start(context, work).await
    }

    /// Enters what became of segments. A refused one leaves the others of its table as they are.
    pub(super) fn loaded(&mut self, context: &Context, loaded: Loaded) {
        for sent in loaded.segments {
            self.sent(context, &loaded.table, sent);
        }
    }

    fn sent(&mut self, context: &Context, name: &TableName, sent: Sent) {
        let Some(table) = self.tables.get_mut(name) else {
            return;
        };
        let refusal = match sent.rows {
            Ok(rows) => {
                table.rows += rows;
                table.bytes += sent.bytes;
                return self.done(context, name.to_string(), sent.bytes);
            }
            Err(refusal) => refusal,
        };
        if table.unusable {
            return;
        }
        if refusal.is_of_the_table() {
            table.unusable = true;
            return self.failed(context, name.to_string(), refusal.to_string());
        }
        table.refused += 1;
        let refused = table.refused;
        self.report.failed += 1;
        let name = Place::Segment(name.clone(), sent.segment).to_string();
        let why = match refused {
            ..NAMED => format!("its rows are not in the target: {refusal}"),
            NAMED => format!(
                "its rows are not in the target: {refusal}; further refused segments of this table are counted, not named"
            ),
            _ => return,
        };
        context.emit(&Event::Incident { name, why });
    }
}

/// Removes the rows of an extension's table that a snapshot brings others for; gives why if they must stay.
async fn clear(
    context: &Context,
    worker: &Worker,
    table: &Table,
    (extensions, replica): (bool, bool),
) -> Result<Option<String>, Trouble> {
    let condition = table.condition.as_deref().unwrap_or("WHERE true");
    let found = format!("SELECT 1 FROM ONLY {} {condition} LIMIT 1", table.name);
    if worker.rows(context, &found).await?.is_empty() {
        return Ok(None);
    }
    if extensions {
        let why = "an extension that the target had before has rows there, and they were left";
        return Ok(Some(why.into()));
    }
    // Bit 3 of a trigger's type is that it fires for DELETE; keys that point here are triggers too.
    let firing = format!(
        "SELECT 1 FROM pg_catalog.pg_trigger WHERE tgrelid = {}::pg_catalog.regclass AND tgtype & 8 <> 0 AND tgenabled <> 'D' LIMIT 1",
        crate::connector::postgres::name::literal(&table.name)
    );
    if !replica && !worker.rows(context, &firing).await?.is_empty() {
        let why = "the rows that its extension put there were left, and the snapshot's not restored: to remove them would fire \
                   triggers, which the role may not switch off (session_replication_role)";
        return Ok(Some(why.into()));
    }
    let sql = format!("DELETE FROM ONLY {} {condition}", table.name);
    worker.run(context, &sql).await?;
    Ok(None)
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
        names: record.columns.iter().map(|column| column.name.clone()).collect(),
        condition,
        ..Table::default()
    })
}
