//! Reading rows: one `COPY` for each run of ranges, its parts handed on as they come.

use super::Reading;
use super::seats::Seat;
use super::worker::Hands;
use crate::connector::postgres::catalog::Table;
use crate::connector::postgres::fingerprint::{copy_ranges, copy_whole};
use crate::connector::postgres::plan::{Range, Ranges};
use crate::connector::postgres::record::SegmentRecord;
use crate::connector::postgres::segment::{Cut, Cutter, Part};
use crate::connector::postgres::session::{explain, in_time};
use crate::error::{Error, ErrorKind, Result};
use futures::{FutureExt, TryStreamExt};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

/// Parts that wait for whoever wants them, for each run: with a few MiB for each connection, memory stays bounded.
const WAITING: usize = 2;

/// What one statement reads.
pub(super) struct Job {
    table: Arc<Table>,
    statement: String,
    cut: Cut,
    /// Rows that each range must have, where a fingerprint said so; every range of the run is here.
    expected: Option<HashMap<u64, Option<u64>>>,
}

/// A job that runs.
pub(super) struct Running {
    job: Arc<Job>,
    parts: mpsc::Receiver<Part>,
    task: AbortOnDropHandle<Result<Outcome>>,
    /// What was taken.
    taken: Vec<Mark>,
    /// Whether the coordinator does it.
    on_coordinator: bool,
}

/// What became of a job.
enum Outcome {
    /// All parts were handed on.
    Done,
    /// Only the coordinator can read: someone waits for an exclusive lock on the table, or the server has no connection left. It is
    /// left to whoever takes the parts to say when: on one connection a job whose parts nobody takes would stop all others.
    Blocked,
}

/// A part that was handed on.
type Mark = (u64, u32, SegmentRecord);

impl Job {
    /// Reads the ranges of a run.
    pub(super) fn run(table: &Arc<Table>, ranges: &Ranges, run: &[Range]) -> Result<Self> {
        let rows = |range: &Range| (range.block, range.state.map(|state| state.rows));
        Ok(Self {
            table: table.clone(),
            statement: copy_ranges(table, &ranges.intervals(run), ranges.are_marked_by_rows())?,
            cut: if ranges.are_marked_by_rows() {
                Cut::Marked(ranges.range_blocks())
            } else {
                Cut::Blocks(ranges.range_blocks())
            },
            expected: Some(run.iter().map(rows).collect()),
        })
    }

    /// Reads a whole table in one stream.
    pub(super) fn whole(table: &Arc<Table>, cut: Cut) -> Result<Self> {
        Ok(Self {
            table: table.clone(),
            statement: copy_whole(table, cut != Cut::Hashes)?,
            cut,
            expected: None,
        })
    }

    /// Begins to read, on a connection of its own.
    pub(super) fn start(self, reading: &Arc<Reading>, seat: Seat) -> Running {
        let (out, parts) = mpsc::channel(WAITING);
        let (reading, job) = (reading.clone(), Arc::new(self));
        let same = job.clone();
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            let result = same.work(&reading, &out).await;
            drop(seat);
            result
        }));
        Running {
            job,
            parts,
            task,
            taken: Vec::new(),
            on_coordinator: false,
        }
    }

    /// Reads, once more from the beginning when the connection is lost: the snapshot gives the same rows, and what was handed on is
    /// compared and passed over.
    async fn work(&self, reading: &Reading, out: &mpsc::Sender<Part>) -> Result<Outcome> {
        let mut handed = Vec::new();
        let mut tries = 0;
        loop {
            reading.session.check()?;
            let (hands, failure) = match reading.workers.hands(Some(&self.table)).await {
                Ok(Hands::Coordinator(_)) => return Ok(Outcome::Blocked),
                Ok(hands) => match self.attempt(reading, &hands, &mut handed, out).await {
                    Ok(()) => {
                        reading.workers.give_back(hands);
                        return Ok(Outcome::Done);
                    }
                    Err(failure) => (Some(hands), failure),
                },
                Err(failure) => (None, failure),
            };
            tries += 1;
            let recovered = reading.workers.recover(&reading.context, hands, tries, failure);
            recovered.await?;
        }
    }

    async fn attempt(
        &self,
        reading: &Reading,
        hands: &Hands,
        handed: &mut Vec<Mark>,
        out: &mpsc::Sender<Part>,
    ) -> Result<()> {
        let wrong = |error| explain(&self.table, "cannot read a table", error);
        // The coordinator answers nothing else until it has handed on the last of this.
        let _busy = hands.busy();
        // A server says that it begins when it has as much to say as goes out at once.
        let begun = async { hands.client().copy_out(&self.statement).await.map_err(wrong) };
        let stream = self.in_time(reading, hands, begun).await?;
        let mut stream = std::pin::pin!(stream);
        let cutter = || Cutter::new(self.cut, reading.room.clone());
        let mut cutting = cutter();
        let (mut parts, mut seen) = (Vec::new(), Seen::default());
        loop {
            let bytes = if let Some(bytes) = stream.try_next().now_or_never() {
                bytes.map_err(wrong)?
            } else {
                let bytes = async { stream.try_next().await.map_err(wrong) };
                self.in_time(reading, hands, bytes).await?
            };
            let end = bytes.is_none();
            match bytes {
                Some(bytes) => cutting.data(&bytes, &mut parts),
                None => std::mem::replace(&mut cutting, cutter()).end(&mut parts),
            }
            .map_err(|e| e.with("table", &self.table.name))?;
            for part in parts.drain(..) {
                self.hand_on(part, &mut seen, handed, out).await?;
            }
            if end {
                return self.check(&seen);
            }
        }
    }

    /// Waits for rows. Those of a run are few blocks away: a server that shows none for so long does not work on them. Before the first
    /// row of a whole table there may be millions that no condition lets through, or that are to be sorted; and the coordinator may have
    /// to do what others asked of it before.
    async fn in_time<T>(
        &self,
        reading: &Reading,
        hands: &Hands,
        rows: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let session = &reading.session;
        let rows = match (&self.expected, hands) {
            (Some(_), Hands::Worker(_)) => in_time(session.options().silence, rows).await,
            _ => session.while_it_works(hands.backend(), rows).await,
        };
        rows.map_err(|error| error.with("table", &self.table.name))
    }

    async fn hand_on(
        &self,
        part: Part,
        seen: &mut Seen,
        handed: &mut Vec<Mark>,
        out: &mpsc::Sender<Part>,
    ) -> Result<()> {
        let mark = (part.block, part.part, part.record);
        if self.expected.is_some() {
            *seen.rows.entry(part.block).or_default() += part.record.rows;
        }
        seen.parts += 1;
        match handed.get(seen.parts - 1) {
            Some(before) if *before == mark => return Ok(()),
            Some(_) => return Err(self.differs("the same rows read twice are not the same")),
            None => handed.push(mark),
        }
        // Nobody wants it any more: the snapshot failed elsewhere.
        let gone = |_| Error::new(ErrorKind::Cancelled, "nobody takes the rows");
        out.send(part).await.map_err(gone)
    }

    /// Whether every range had the rows that its fingerprint counted in the same snapshot.
    fn check(&self, seen: &Seen) -> Result<()> {
        let Some(expected) = &self.expected else {
            return Ok(());
        };
        for block in seen.rows.keys() {
            if !expected.contains_key(block) {
                return Err(self
                    .differs("rows came from a range that was not asked for")
                    .with("block", block));
            }
        }
        for (block, rows) in expected {
            let came = seen.rows.get(block).copied().unwrap_or(0);
            if rows.is_some_and(|rows| rows != came) {
                return Err(self
                    .differs("a range did not give as many rows as it was counted to have")
                    .with("block", block));
            }
        }
        Ok(())
    }

    fn differs(&self, what: &str) -> Error {
        Error::new(ErrorKind::Differs, what)
            .with("table", &self.table.name)
            .hint("the server contradicts itself: look for broken memory or disks, and check the table with pg_amcheck")
    }
}

/// What one attempt has seen.
#[derive(Default)]
struct Seen {
    parts: usize,
    rows: HashMap<u64, u64>,
}

impl Running {
    /// The next part; nothing at the end, after which it is not asked again.
    ///
    /// # Errors
    /// What ended the job, if it did not end well.
    pub(super) async fn next(&mut self, reading: &Arc<Reading>) -> Result<Option<Part>> {
        loop {
            if let Some(part) = self.parts.recv().await {
                self.taken.push((part.block, part.part, part.record));
                return Ok(Some(part));
            }
            let ended = (&mut self.task).await.map_err(|error| {
                Error::new(ErrorKind::Internal, "a reading task ended by itself").because(error)
            })?;
            match ended? {
                Outcome::Done => return Ok(None),
                Outcome::Blocked => self.go_on(reading),
            }
        }
    }

    /// Has the coordinator do what is left.
    fn go_on(&mut self, reading: &Arc<Reading>) {
        let (out, parts) = mpsc::channel(WAITING);
        let (job, reading, mut handed) = (self.job.clone(), reading.clone(), self.taken.clone());
        self.parts = parts;
        self.on_coordinator = true;
        self.task = AbortOnDropHandle::new(tokio::spawn(async move {
            let coordinator = Hands::Coordinator(reading.session.clone());
            let done = job.attempt(&reading, &coordinator, &mut handed, &out).await;
            done.map(|()| Outcome::Done)
        }));
    }

    /// Has the coordinator let go of this job until the next part is asked for: what it has not handed on would keep it from all else.
    pub(super) fn pause(&mut self) {
        if self.on_coordinator {
            self.parts = mpsc::channel(WAITING).1;
            self.task = AbortOnDropHandle::new(tokio::spawn(std::future::ready(Ok(Outcome::Blocked))));
        }
    }
}
