//! What was written, read back and compared with the snapshot's report; and the statistics that the planner needs.

use super::rows::Table;
use super::session::{Settings, Trouble, Worker, trouble, unless_cancelled};
use super::{Left, PostgresSink, whole};
use crate::connector::postgres::key::TableName;
use crate::connector::postgres::name::{literal, quote};
use crate::connector::postgres::record::{ReportLine, RowSum, decode_report};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::snapshot::entry::Content;
use futures::StreamExt;
use std::collections::HashSet;

/// The largest report that is read, in bytes: room for a million tables.
const REPORT_MAX: usize = 256 << 20;
/// Rows and the sum of their hashes, or why they cannot be read.
type Found = Result<(u64, RowSum), String>;

/// What was found in a stripe of a table, or that a table was analyzed.
pub(super) struct Checked(Option<(TableName, Found)>);

/// What was found so far in a table that is read back.
pub(super) struct ReadBack {
    line: ReportLine,
    /// Stripes that are still to come.
    left: usize,
    found: Found,
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

    /// Begins to read every table back that the report lists.
    async fn verify(&mut self, context: &Context, mut lines: Vec<ReportLine>) -> Result<()> {
        let listed: HashSet<&TableName> = lines.iter().map(|line| &line.table).collect();
        let written = self.tables.iter().filter(|(_, table)| !table.unusable);
        let unlisted = written.filter(|(name, _)| !listed.contains(name));
        let unlisted: Vec<String> = unlisted.map(|(name, _)| name.to_string()).collect();
        for name in unlisted {
            let why = "the snapshot's report does not list it: its rows were not compared";
            self.failed(context, name, why.into());
        }
        // The largest are begun first, so that none is left over at the end.
        lines.sort_by_key(|line| std::cmp::Reverse(line.bytes));
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
            let stripes = self.stripes(table, line.bytes).await?;
            let read_back = ReadBack {
                line: line.clone(),
                left: stripes.len(),
                found: Ok(Default::default()),
            };
            self.read_back.insert(line.table.clone(), read_back);
            for sql in stripes {
                self.room(context).await?;
                let (own, name) = (context.clone(), line.table.clone());
                let work = move |worker: Worker| async move {
                    let found = match read(&own, &worker, &sql).await {
                        Ok(found) => Ok(found),
                        Err(Trouble::Refused(refusal)) => Err(refusal.to_string()),
                        Err(Trouble::Lost(error)) => return Err(error.with("table", &name)),
                    };
                    Ok((worker, Left::Checked(Checked(Some((name, found))))))
                };
                self.pool_mut()?.start(context, work).await?;
            }
        }
        Ok(())
    }

    /// The statements that read a table back; it has about so many bytes of text. A large one is cut where its blocks are, so that it
    /// does not keep one connection busy long after the others have nothing more to do.
    async fn stripes(&self, table: &Table, bytes: u64) -> Result<Vec<String>> {
        let Table { name, columns, .. } = table;
        let listed = columns.strip_prefix('(').and_then(|text| text.strip_suffix(')'));
        let listed = listed.unwrap_or_default();
        if let Some(condition) = &table.condition {
            let sql = format!("COPY (SELECT {listed} FROM ONLY {name} {condition}) TO STDOUT");
            return Ok(vec![sql]);
        }
        let number = bytes / self.request.stripe.max(1);
        // Older servers cannot read ranges of blocks.
        if number > 1 && self.target.version_num >= 140_000 {
            let sql = format!(
                "SELECT pg_catalog.pg_relation_size(c.oid) / pg_catalog.current_setting('block_size')::pg_catalog.int8
                 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_am a ON a.oid = c.relam
                 WHERE c.oid = pg_catalog.to_regclass({}) AND a.amname = 'heap'",
                literal(name)
            );
            let rows = self
                .control()?
                .ask(&sql, "cannot tell the size of a table")
                .await?;
            let blocks = rows.first().and_then(|row| row.get(0)?.parse::<u64>().ok());
            if let Some(each) = blocks
                .and_then(|blocks| blocks.checked_div(number))
                .filter(|each| *each > 0)
            {
                // The last has no end, so that no row is left out.
                let stripe = |at: u64| {
                    let end = format!(" AND ctid < '({},0)'", (at + 1) * each);
                    let end = if at + 1 < number { end.as_str() } else { "" };
                    format!(
                        "COPY (SELECT {listed} FROM ONLY {name} WHERE ctid >= '({},0)'{end}) TO STDOUT",
                        at * each
                    )
                };
                return Ok((0..number).map(stripe).collect());
            }
        }
        Ok(vec![format!("COPY {name} {columns} TO STDOUT")])
    }

    /// Enters what was found in a stripe of a table, and tells of the table when it was the last.
    pub(super) fn checked(&mut self, context: &Context, Checked(checked): Checked) {
        let Some((name, found)) = checked else { return };
        let Some(read_back) = self.read_back.get_mut(&name) else {
            return;
        };
        match (&mut read_back.found, found) {
            (Ok((rows, sum)), Ok((more, part))) => {
                *rows += more;
                sum.add(part);
            }
            (Ok(_), Err(why)) => read_back.found = Err(why),
            (Err(_), _) => {}
        }
        read_back.left = read_back.left.saturating_sub(1);
        if read_back.left == 0
            && let Some(ReadBack { line, found, .. }) = self.read_back.remove(&name)
        {
            self.compared(context, &line, found);
        }
    }

    fn compared(&mut self, context: &Context, line: &ReportLine, found: Found) {
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
                Ok((worker, Left::Checked(Checked(None))))
            };
            self.pool_mut()?.start(context, work).await?;
        }
        self.drain(context).await?;
        // A table of which a part was never reported would count neither as equal nor as different.
        match self.read_back.first_key_value() {
            None => Ok(()),
            Some((table, _)) => Err(Error::new(
                ErrorKind::Internal,
                "a table was not read back to its end: it is not known whether the target is right; this is a bug",
            )
            .with("table", table)),
        }
    }
}

/// The number of rows of a `COPY … TO STDOUT`, and the sum of their hashes.
async fn read(context: &Context, worker: &Worker, sql: &str) -> Result<(u64, RowSum), Trouble> {
    let stream = unless_cancelled(context, worker.client().copy_out(sql)).await?;
    let mut stream = Box::pin(stream.map_err(|error| trouble(error, sql))?);
    let (mut rows, mut sum, mut begun) = (0, RowSum::default(), Vec::new());
    loop {
        let Some(chunk) = unless_cancelled(context, stream.next()).await? else {
            return Ok((rows, sum));
        };
        let chunk = chunk.map_err(|error| trouble(error, sql))?;
        let mut rest = chunk.as_ref();
        // Servers send each row by itself; within a row there is no line feed.
        if let [line @ .., b'\n'] = rest
            && begun.is_empty()
            && !line.contains(&b'\n')
        {
            sum.add(RowSum::of_line(line));
            rows += 1;
            continue;
        }
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
