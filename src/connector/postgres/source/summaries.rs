//! WAL summaries, where a server keeps them: with what they name there is no need to look at the other rows of large tables
//! (`format-spec/64-databases.md` section 10). They end at checkpoints, so that they may come to reach the snapshot only while it is read.

use super::prior::entry;
use super::{Found, Reading};
use crate::connector::postgres::catalog::{
    self, Coverage, Question, Table, Tables, WrittenBlocks, WrittenFile,
};
use crate::connector::postgres::incarnation;
use crate::connector::postgres::key::Place;
use crate::connector::postgres::session::{Session, failed, in_time, is_full};
use crate::connector::postgres::state::{LogState, ReportState};
use crate::error::{ErrorKind, Result};
use crate::event::Event;
use crate::snapshot::entry::Prior;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How often the server is asked how far its summaries reach.
const LOOK: Duration = Duration::from_secs(1);
/// How long they are waited for behind a checkpoint, and how often they are looked at then.
const BEHIND_CHECKPOINT: Duration = Duration::from_secs(10);
const GLANCE: Duration = Duration::from_millis(20);
/// Which part of the memory budget may hold what they name, of so many bytes each.
const MEMORY: u64 = 16;
const UNIT_BYTES: u64 = 32;

/// The summaries of one database's server.
pub(super) struct Summaries {
    /// What the parent knows, if it is of this server's log.
    parent: Option<LogState>,
    incarnation: [u8; 32],
    /// What is to be known; nothing if the parent does not say from where on, or the server keeps none.
    question: Option<Question>,
    /// Tables of fewer blocks are not worth asking.
    least: u64,
    /// The most units that are held.
    most: usize,
    /// Nothing if they are of no use.
    known: OnceLock<Option<WrittenBlocks>>,
    /// When the server was last asked.
    asked: Mutex<Option<Instant>>,
    found: Arc<Found>,
}

impl Summaries {
    /// Of the server of a snapshot, compared with what the parent says.
    pub(super) async fn new(
        session: &Session,
        prior: &dyn Prior,
        database: &[u8],
        found: &Arc<Found>,
    ) -> Self {
        let facts = &session.facts;
        let incarnation = incarnation::of_log(facts);
        let mut parent = None;
        if incarnation::obstacle(facts).is_none() && facts.server.checkpoint.is_some() {
            let report = entry(prior, database, &Place::Report).await;
            parent = report.and_then(|report| ReportState::decode(report.state()).ok()?.log);
        }
        let parent = parent.filter(|parent| parent.incarnation == incarnation);
        Self {
            parent,
            incarnation,
            question: parent.and_then(|parent| {
                Some(Question {
                    timeline: facts.server.timeline?,
                    since: parent.position,
                    until: facts.server.position?,
                    database: facts.server.database,
                })
            }),
            least: session.options().summarized_blocks,
            most: usize::try_from(session.context().budget.total() / MEMORY / UNIT_BYTES)
                .unwrap_or(usize::MAX),
            known: OnceLock::new(),
            asked: Mutex::default(),
            found: found.clone(),
        }
    }

    /// Whether a table is large enough, as far as the server has counted it.
    fn are_for(&self, table: &Table) -> bool {
        table.comparable.is_ok() && u64::from(table.pages) >= self.least
    }

    /// What is known by now to have been written of a table.
    pub(super) fn of(&self, table: &Table) -> Option<&WrittenFile> {
        let known = self.known.get().filter(|_| self.are_trusted())?;
        known.as_ref()?.of(table)
    }

    /// From now on nothing is known, nor of the databases that are read behind this one: what they told was wrong.
    pub(super) fn distrust(&self) {
        self.found.misled.store(true, Ordering::Relaxed);
    }

    /// What the next snapshot needs. The last checkpoint serves, unless a transaction that is open now was open there, or this snapshot saw
    /// what a crash may take back: that would not be written anew. Then what served the parent does.
    pub(super) fn state(&self, reading: &Reading) -> Option<LogState> {
        let server = &reading.session.facts.server;
        let serves = |state: &LogState| state.next_xid <= server.snapshot_xmin;
        let own = server.checkpoint.filter(|_| reading.flushed.is_some());
        let own = own.map(|checkpoint| LogState {
            position: checkpoint.position,
            next_xid: checkpoint.next_xid,
            incarnation: self.incarnation,
        });
        let state = own.filter(serves).or(self.parent.filter(serves));
        state.filter(|_| self.are_trusted())
    }

    /// Whether nothing was found to be wrong with them.
    pub(super) fn are_trusted(&self) -> bool {
        !self.found.misled.load(Ordering::Relaxed)
    }

    /// Asks the server for a table of so many blocks, unless it was asked just now. What it does not tell is told, and done without.
    ///
    /// # Errors
    /// As [`Session::check`].
    pub(super) async fn look(&self, reading: &Reading, blocks: u64) -> Result<()> {
        let Some(question) = &self.question else {
            return Ok(());
        };
        if blocks < self.least || self.known.get().is_some() {
            return Ok(());
        }
        // While another asks, this one goes on.
        let Ok(mut asked) = self.asked.try_lock() else {
            return Ok(());
        };
        if self.known.get().is_some() || asked.is_some_and(|asked| asked.elapsed() < LOOK) {
            return Ok(());
        }
        *asked = Some(Instant::now());
        let session = &reading.session;
        match in_time(session.options().silence, self.ask(session, question)).await {
            Ok(None) => {}
            Ok(Some(known)) => drop(self.known.set(known)),
            Err(error) => {
                drop(self.known.set(None));
                session.running().cancel_left().await;
                session.check()?;
                let text = format!("tables are compared without the server's WAL summaries: {error:?}");
                reading.context.emit(&Event::Note { text });
            }
        }
        Ok(())
    }

    /// What is known, once it is; on a connection that may be lost for it.
    async fn ask(&self, session: &Session, question: &Question) -> Result<Option<Option<WrittenBlocks>>> {
        let spare = match session.idle() {
            Some(idle) => idle,
            None => match session.worker().await {
                Err(error) if is_full(&error) => return Ok(None),
                opened => opened?,
            },
        };
        let known = match catalog::coverage(spare.connection(), question).await? {
            Coverage::Begun => None,
            Coverage::Broken => Some(None),
            Coverage::Whole => Some(catalog::written(spare.connection(), question, self.most).await?),
        };
        session.keep(spare);
        Ok(known)
    }

    /// Asks the server for a checkpoint, and waits for its summaries, where they will be of use. Says why not, if they will not.
    ///
    /// # Errors
    /// `Cancelled`; `Source` if the snapshot is lost.
    pub(super) async fn checkpoint(&self, reading: &Reading, tables: &Tables) -> Result<Option<String>> {
        let why = |why: &str| Ok(Some(format!("a checkpoint is of no use: {why}")));
        let session = &reading.session;
        let server = &session.facts.server;
        if server.version_num < 170_000 {
            return why("servers before version 17 keep no WAL summaries");
        }
        if server.in_recovery {
            return why("the server is a standby");
        }
        if server.checkpoint.is_none() {
            return why("the server keeps no WAL summaries (summarize_wal = on turns them on)");
        }
        // A first snapshot reads everything in any case; and small tables are fingerprinted before one is made.
        let large = tables.iter().any(|table| self.are_for(table));
        let Some(question) = self.question.as_ref().filter(|_| large) else {
            return Ok(None);
        };
        let refused = match end_summaries(session, question).await {
            Ok(Coverage::Broken) => {
                return why(
                    "the server has no WAL summaries of all that was written since the last snapshot (wal_summary_keep_time)",
                );
            }
            Ok(Coverage::Whole) => {
                self.look(reading, self.least).await?;
                return Ok(None);
            }
            Ok(Coverage::Begun) => {
                let text = "the server made a checkpoint, and its WAL summaries do not come to reach it: tables are compared without them until they do";
                return Ok(Some(text.to_owned()));
            }
            Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
            Err(error) => error,
        };
        session.check()?;
        if refused.context("sqlstate") == Some("42501") {
            let text =
                "the role may not ask for a checkpoint: GRANT pg_checkpoint to it, or leave out --checkpoint";
            return Ok(Some(text.to_owned()));
        }
        Ok(Some(format!(
            "the server was asked for a checkpoint, without success: {refused:?}"
        )))
    }
}

/// Has the server's summaries reach what is asked for, if they can.
async fn end_summaries(session: &Session, question: &Question) -> Result<Coverage> {
    let bystander = session.bystander().await?;
    let coverage = || catalog::coverage(bystander.connection(), question);
    let asked = async {
        let mut now = coverage().await?;
        if now != Coverage::Begun {
            return Ok(now);
        }
        let done = bystander.client().batch_execute("CHECKPOINT").await;
        done.map_err(|error| failed("the server makes no checkpoint", error))?;
        let begun = Instant::now();
        while now == Coverage::Begun {
            if begun.elapsed() > BEHIND_CHECKPOINT {
                break;
            }
            tokio::time::sleep(GLANCE).await;
            now = coverage().await?;
        }
        Ok(now)
    };
    let reached = in_time(session.options().silence, asked).await?;
    session.keep(bystander);
    Ok(reached)
}
