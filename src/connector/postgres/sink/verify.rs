//! What was written, read back and compared with the snapshot's report; and the statistics that the planner needs.

use super::session::{Settings, Trouble, Worker, unless_cancelled};
use super::{Left, PostgresSink, whole};
use crate::connector::postgres::key::TableName;
use crate::connector::postgres::name::quote;
use crate::connector::postgres::record::{ReportLine, RowSum, decode_report};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::snapshot::entry::Content;
use futures::StreamExt;
use std::collections::HashSet;

/// The largest report that is read, in bytes: room for a million tables.
const REPORT_MAX: usize = 256 << 20;

/// What was found in a table.
pub(super) struct Checked {
    /// The table, and what the report says of it; nothing after an analysis.
    line: Option<ReportLine>,
    found: Result<(u64, RowSum), String>,
}

impl PostgresSink {
    /// Compares every table with the report, and analyzes the database.
    pub(super) async fn check(&mut self, context: &Context, content: Content) -> Result<()> {
        let bytes = whole(content, REPORT_MAX).await?;
        let lines = decode_report(&bytes).map_err(|error| {
            Error::new(
                ErrorKind::Damaged,
                "cannot read the report of a database's tables",
            )
            .because(error)
        })?;
        if self.request.dry_run {
            for line in lines {
                if let Some(table) = self.tables.get_mut(&line.table) {
                    (table.rows, table.bytes) = (line.rows, line.bytes);
                }
            }
            return Ok(());
        }
        if self.request.verify {
            self.verify(context, lines).await?;
            self.compare_sequences(context).await?;
            self.verified = true;
        }
        self.analyze(context).await
    }

    async fn verify(&mut self, context: &Context, lines: Vec<ReportLine>) -> Result<()> {
        let listed: HashSet<&TableName> = lines.iter().map(|line| &line.table).collect();
        let written = self.tables.iter().filter(|(_, table)| !table.unusable);
        let unlisted = written.filter(|(name, _)| !listed.contains(name));
        let unlisted: Vec<String> = unlisted.map(|(name, _)| name.to_string()).collect();
        for name in unlisted {
            let why = "the snapshot's report does not list it: its rows were not compared";
            self.failed(context, name, why.into());
        }
        for line in lines {
            let Some(table) = self.tables.get(&line.table) else {
                if self.request.whole {
                    let why = "the snapshot lists it and does not hold it";
                    self.table_differs(context, &line.table, why);
                }
                continue;
            };
            // That nothing of it could be written was told already.
            if table.unusable {
                continue;
            }
            let sql = match &table.condition {
                None => format!("COPY {} {} TO STDOUT", table.name, table.columns),
                Some(condition) => {
                    let columns = table
                        .columns
                        .strip_prefix('(')
                        .and_then(|text| text.strip_suffix(')'));
                    let columns = columns.unwrap_or_default();
                    format!(
                        "COPY (SELECT {columns} FROM ONLY {} {condition}) TO STDOUT",
                        table.name
                    )
                }
            };
            self.room(context).await?;
            let own = context.clone();
            let work = move |worker: Worker| async move {
                let found = match read(&own, &worker, &sql).await {
                    Ok(found) => Ok(found),
                    Err(Trouble::Refused(refusal)) => Err(refusal.to_string()),
                    Err(Trouble::Lost(error)) => return Err(error.with("table", &line.table)),
                };
                let line = Some(line);
                Ok((worker, Left::Checked(Checked { line, found })))
            };
            self.pool_mut()?.start(context, work).await?;
        }
        self.drain(context).await
    }

    /// Enters what was found in a table.
    pub(super) fn checked(&mut self, context: &Context, checked: Checked) {
        let Checked {
            line: Some(line),
            found,
        } = checked
        else {
            return;
        };
        match found {
            Ok(found) if found == (line.rows, line.sum) => self.summary.compared += 1,
            Ok((rows, _)) if rows == line.rows => {
                self.table_differs(context, &line.table, "its rows differ from the snapshot");
            }
            Ok((rows, _)) => {
                let refused = self.tables.get(&line.table).map_or(0, |table| table.refused);
                let why = match refused {
                    0 => format!("it has {rows} rows, and the snapshot {}", line.rows),
                    _ => format!(
                        "it has {rows} rows, and the snapshot {}; segments that were refused: {refused}",
                        line.rows
                    ),
                };
                self.table_differs(context, &line.table, &why);
            }
            Err(why) => self.failed(
                context,
                line.table.to_string(),
                format!("it cannot be compared: {why}"),
            ),
        }
    }

    fn table_differs(&mut self, context: &Context, table: &TableName, why: &str) {
        self.summary.tables_different += 1;
        self.different(context, table.to_string(), why);
    }

    /// Tells of something in the target that is not as the snapshot has it.
    pub(super) fn different(&mut self, context: &Context, name: String, why: &str) {
        self.report.different += 1;
        let why = why.to_owned();
        context.emit(&Event::Incident { name, why });
    }

    /// Collects statistics of every table, partitioned ones with their partitions.
    async fn analyze(&mut self, context: &Context) -> Result<()> {
        let sql = "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c
            JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            WHERE c.relkind IN ('r', 'm', 'p') AND NOT c.relispartition AND c.relpersistence <> 't'
              AND n.nspname <> 'information_schema' AND n.nspname::pg_catalog.text !~ '^pg_'
            ORDER BY c.relpages DESC";
        let rows = self
            .control()?
            .ask(sql, "cannot list the tables of the target")
            .await?;
        for row in rows {
            let (Some(schema), Some(table)) = (row.get(0), row.get(1)) else {
                continue;
            };
            let sql = format!(
                "ANALYZE {}.{}",
                quote(schema.as_bytes())?,
                quote(table.as_bytes())?
            );
            self.room(context).await?;
            let own = context.clone();
            let work = move |mut worker: Worker| async move {
                // A table that may not be analyzed has no statistics yet and all its rows: the server says so, and goes on.
                for done in [
                    worker.settle(&own, &Settings::new()).await,
                    worker.run(&own, &sql).await,
                ] {
                    if let Err(Trouble::Lost(error)) = done {
                        return Err(error);
                    }
                }
                let (line, found) = (None, Ok(Default::default()));
                Ok((worker, Left::Checked(Checked { line, found })))
            };
            self.pool_mut()?.start(context, work).await?;
        }
        self.drain(context).await
    }
}

/// The number of rows of a `COPY … TO STDOUT`, and the sum of their hashes.
async fn read(context: &Context, worker: &Worker, sql: &str) -> Result<(u64, RowSum), Trouble> {
    let stream = unless_cancelled(context, worker.client().copy_out(sql)).await?;
    let mut stream = Box::pin(stream.map_err(|error| worker.trouble(error))?);
    let (mut rows, mut sum, mut begun) = (0, RowSum::default(), Vec::new());
    loop {
        let Some(chunk) = unless_cancelled(context, stream.next()).await? else {
            return Ok((rows, sum));
        };
        let chunk = chunk.map_err(|error| worker.trouble(error))?;
        let mut rest = chunk.as_ref();
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            let (line, after) = rest.split_at(end);
            if begun.is_empty() {
                sum.add(RowSum::of_line(line));
            } else {
                begun.extend_from_slice(line);
                sum.add(RowSum::of_line(&begun));
                begun.clear();
            }
            rows += 1;
            rest = after.get(1..).unwrap_or_default();
        }
        begun.extend_from_slice(rest);
    }
}
