//! Statements that run one after the other, and what becomes of those that the server refuses.

use super::refusal::Refusal;
use super::roles::{Fate, decide};
use super::session::{Settings, Trouble, Worker};
use super::{PostgresSink, Stage};
use crate::connector::postgres::key::TableName;
use crate::connector::postgres::statement::{
    Class, Kind, Scanner, Word, classify, first_line, setting, words,
};
use crate::context::Context;
use crate::error::Result;
use crate::event::Event;
use crate::snapshot::entry::{Content, ContentStream, Piece};
use bytes::Bytes;
use futures::StreamExt;

/// Statements that go to the server at once, and bytes of them.
const BATCH: usize = 64;
const BATCH_BYTES: usize = 256 << 10;
/// The largest sum of the statements that are kept for the end, in bytes.
const LATER_MAX: usize = 16 << 20;
/// Settings of a dump that are taken over; the others are for `psql`, and ours are set already.
const TAKEN: [&str; 3] = [
    "default_tablespace",
    "default_table_access_method",
    "standard_conforming_strings",
];

/// The statements of an entry.
pub(super) struct Statements {
    stream: ContentStream,
    scanner: Scanner,
}

impl Statements {
    pub(super) async fn open(content: Content) -> Result<Self> {
        Ok(Self {
            stream: content.open().await?,
            scanner: Scanner::default(),
        })
    }

    /// The next one. What is no statement comes too, for the server to refuse.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(piece) = self.scanner.next()? {
                if piece.kind != Kind::Blank {
                    return Ok(Some(piece.text));
                }
                continue;
            }
            match self.stream.next().await {
                Some(Ok(Piece::Data(bytes))) => self.scanner.push(&bytes),
                Some(Ok(Piece::Hole(_))) => {}
                Some(Err(error)) => return Err(error),
                None => {
                    self.scanner.end();
                    if let Some(piece) = self.scanner.next()? {
                        return Ok(Some(piece.text));
                    }
                    return Ok(None);
                }
            }
        }
    }
}

/// A statement as it is sent.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    pub(super) sql: String,
    pub(super) class: Class,
}

/// The statement as text, or why it cannot be sent.
pub(super) fn prepare(text: &Bytes) -> Result<Prepared, Refusal> {
    let class = classify(text);
    let sql = std::str::from_utf8(text).map_err(|_| Refusal::own("it is not UTF-8"))?;
    // It would wait for rows that nobody sends.
    if words(sql).first().is_some_and(|word| word.is("copy")) {
        return Err(Refusal::own("a snapshot keeps no rows among its statements"));
    }
    Ok(Prepared {
        sql: sql.to_owned(),
        class,
    })
}

/// Takes over what a `SET` of a dump says, if it matters here.
pub(super) fn take_setting(settings: &mut Settings, name: &str, sql: &str) {
    if !TAKEN.contains(&name) {
        return;
    }
    let value = setting(sql).map(|(_, value)| value).unwrap_or_default();
    if value.is_empty() && name != "default_tablespace" {
        settings.remove(name);
    } else {
        settings.insert(name.to_owned(), value);
    }
}

impl PostgresSink {
    /// Runs the statements of an entry in their order.
    pub(super) async fn run_in_order(
        &mut self,
        context: &Context,
        stage: Stage,
        content: Content,
    ) -> Result<()> {
        let mut statements = Statements::open(content).await?;
        let mut batch: Vec<Prepared> = Vec::new();
        let mut bytes = 0;
        self.settings.clear();
        while let Some(text) = statements.next().await? {
            let mut statement = match prepare(&text) {
                Ok(statement) => statement,
                Err(refusal) => {
                    self.refused(context, &text, &refusal);
                    continue;
                }
            };
            match &statement.class {
                Class::Empty => continue,
                Class::Set(name) => {
                    self.flush(context, std::mem::take(&mut batch)).await?;
                    take_setting(&mut self.settings, name, &statement.sql);
                    continue;
                }
                _ => self.summary.statements += 1,
            }
            match stage {
                Stage::Globals if !self.role(context, &mut statement) => continue,
                Stage::Sequences => self.expect(&statement.sql),
                _ => {}
            }
            if self.request.dry_run {
                continue;
            }
            bytes += statement.sql.len();
            batch.push(statement);
            if batch.len() >= BATCH || bytes >= BATCH_BYTES {
                bytes = 0;
                self.flush(context, std::mem::take(&mut batch)).await?;
            }
        }
        self.flush(context, batch).await
    }

    /// Runs what was kept for the end.
    pub(super) async fn run_later(&mut self, context: &Context) -> Result<()> {
        self.settings.clear();
        let mut later = std::mem::take(&mut self.later).into_iter().peekable();
        while later.peek().is_some() {
            self.flush(context, later.by_ref().take(BATCH).collect()).await?;
        }
        Ok(())
    }

    /// Puts a statement about roles in the words that fit the target; says whether it is run now.
    fn role(&mut self, context: &Context, statement: &mut Prepared) -> bool {
        let source = String::from_utf8_lossy(&self.source.name).into_owned();
        let (there, target) = (&self.target.roles, &self.target.database);
        match decide(&statement.sql, there, &source, target) {
            Fate::Keep => return false,
            Fate::Create(role, sql) => {
                self.summary.roles.push(role);
                statement.sql = sql;
            }
            Fate::Run(sql) => statement.sql = sql,
            Fate::Later(sql) => {
                let kept: usize = self.later.iter().map(|later| later.sql.len()).sum();
                if kept + sql.len() > LATER_MAX {
                    let refusal = Refusal::own("there are too many settings of the database");
                    self.refused(context, sql.as_bytes(), &refusal);
                } else {
                    statement.sql = sql;
                    self.later.push(statement.clone());
                }
                return false;
            }
        }
        true
    }

    /// Runs statements together, and each alone if that fails.
    async fn flush(&mut self, context: &Context, batch: Vec<Prepared>) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let Some(mut worker) = self.control.take() else {
            return Err(super::unprepared());
        };
        let settings = self.settings.clone();
        let refused = run_all(context, &mut worker, &settings, &batch).await;
        self.control = Some(worker);
        for (statement, refusal) in refused? {
            self.refused_statement(context, &statement, &refusal);
        }
        Ok(())
    }

    /// Enters a refused statement into the report.
    pub(super) fn refused_statement(&mut self, context: &Context, statement: &Prepared, refusal: &Refusal) {
        let public = Class::CreateSchema(b"public".to_vec());
        if statement.class == public && refusal.code == "42P06" {
            return;
        }
        if let Class::CreateTable(name) = &statement.class
            && let [schema, table] = name.0.as_slice()
        {
            let (schema, table) = (schema.clone(), table.clone());
            self.missing.insert(TableName { schema, table });
        }
        self.expect_not(&statement.sql);
        if let Some(role) = statement.sql.strip_prefix("CREATE ROLE ") {
            let role = words(role).first().and_then(Word::identifier);
            self.summary.roles.retain(|made| Some(made) != role.as_ref());
        }
        self.refused(context, statement.sql.as_bytes(), refusal);
    }

    /// Tells of a statement that was not run.
    pub(super) fn refused(&mut self, context: &Context, text: &[u8], refusal: &Refusal) {
        self.summary.refused += 1;
        self.failed(context, first_line(text), refusal.to_string());
    }

    /// Tells of something that is missing in the target.
    pub(super) fn failed(&mut self, context: &Context, name: String, why: String) {
        self.report.failed += 1;
        context.emit(&Event::Incident { name, why });
    }
}

/// Runs statements in their order: together, and if one is refused each alone. Gives those that were refused.
pub(super) async fn run_all(
    context: &Context,
    worker: &mut Worker,
    settings: &Settings,
    statements: &[Prepared],
) -> Result<Vec<(Prepared, Refusal)>> {
    let mut refused = Vec::new();
    match worker.settle(context, settings).await {
        Ok(()) => {}
        Err(Trouble::Lost(error)) => return Err(error),
        // A tablespace or access method that the target lacks: what needs it goes to the usual place.
        Err(Trouble::Refused(refusal)) => {
            let names: Vec<String> = settings
                .iter()
                .map(|(name, value)| format!("{name} = {value}"))
                .collect();
            let sql = format!("SET {};", names.join(", "));
            let class = Class::Other;
            refused.push((Prepared { sql, class }, refusal));
            if let Err(Trouble::Lost(error)) = worker.settle(context, &Settings::new()).await {
                return Err(error);
            }
        }
    }
    if statements.len() > 1 {
        let all: Vec<&str> = statements
            .iter()
            .map(|statement| statement.sql.as_str())
            .collect();
        match worker.run(context, &all.join("\n")).await {
            Ok(()) => return Ok(refused),
            Err(Trouble::Lost(error)) => return Err(error),
            Err(Trouble::Refused(_)) => {}
        }
    }
    for statement in statements {
        match worker.run(context, &statement.sql).await {
            Ok(()) => {}
            Err(Trouble::Lost(error)) => return Err(error),
            Err(Trouble::Refused(refusal)) => refused.push((statement.clone(), refusal)),
        }
    }
    Ok(refused)
}
