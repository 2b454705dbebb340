//! Indexes, keys and what else follows the rows, built side by side as far as they do not wait for one another; those first that take
//! long, so that at the end no connection waits for another one's large index.

use super::PostgresSink;
use super::refusal::Refusal;
use super::session::Settings;
use super::statements::{Prepared, Statements, prepare, run_all, take_setting};
use crate::connector::postgres::key::TableName;
use crate::connector::postgres::statement::{Class, ObjectName};
use crate::context::Context;
use crate::error::Result;
use crate::snapshot::entry::Content;
use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};

/// Jobs that wait at most: a dump may hold any number of statements.
const WINDOW: usize = 512;
/// What the server says when two statements waited for each other and it ended one of them, and when one waited too long for
/// another: foreign keys lock partitions that no statement names. Alone, neither can happen between sessions of ours.
const IN_THE_WAY: [&str; 2] = ["40P01", "55P03"];

/// Kinds of index that take about as long as their table is large.
const USUAL: [&str; 3] = [" USING btree ", " USING hash ", " USING brin "];
/// Others, such as GIN, take so many times as long.
const UNUSUAL: u64 = 8;

/// One statement and those that belong to it.
#[derive(Clone, Debug)]
pub(super) struct Job {
    statements: Vec<Prepared>,
    settings: Settings,
    kind: Group,
    /// Tables that it locks, and whether it shares them with others of its kind.
    locks: Vec<(ObjectName, Lock)>,
    /// How long it takes, beside others.
    cost: u64,
}

/// What may run side by side at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Group {
    /// Indexes, keys, checks.
    Keys,
    /// Foreign keys, which need the keys they point to.
    ForeignKeys,
    /// Whatever else: alone, and in its place.
    Alone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lock {
    Shared,
    Exclusive,
}

/// What a job left behind: what was refused, and the job if it should be tried again alone.
pub(super) struct Built {
    refused: Vec<(Prepared, Refusal)>,
    again: Option<Job>,
    job: usize,
}

impl Job {
    fn new(statement: Prepared, settings: &Settings) -> Self {
        let exclusive = |name: &ObjectName| (name.clone(), Lock::Exclusive);
        let (kind, locks) = match &statement.class {
            Class::CreateIndex(table) => (Group::Keys, vec![(table.clone(), Lock::Shared)]),
            Class::AddConstraint(table) => (Group::Keys, vec![exclusive(table)]),
            Class::AddForeignKey(table, other) => {
                (Group::ForeignKeys, vec![exclusive(table), exclusive(other)])
            }
            _ => (Group::Alone, Vec::new()),
        };
        Self {
            statements: vec![statement],
            settings: settings.clone(),
            kind,
            locks,
            cost: 0,
        }
    }

    /// Its cost on tables of so many bytes.
    fn cost_on(&self, bytes: impl Fn(&ObjectName) -> u64) -> u64 {
        let bytes = self.locks.first().map_or(0, |(table, _)| bytes(table));
        let is_unusual = |statement: &Prepared| {
            matches!(statement.class, Class::CreateIndex(_))
                && !USUAL.iter().any(|usual| statement.sql.contains(usual))
        };
        if self.statements.iter().any(is_unusual) {
            bytes.saturating_mul(UNUSUAL)
        } else {
            bytes
        }
    }

    fn waits_for(&self, other: &Self) -> bool {
        if self.kind == Group::Alone || self.kind != other.kind {
            return true;
        }
        self.locks.iter().any(|(table, lock)| {
            let both =
                |(t, l): &(ObjectName, Lock)| t == table && (*l, *lock) != (Lock::Shared, Lock::Shared);
            other.locks.iter().any(both)
        })
    }

    /// Takes a statement that belongs to it, or more that stand alone.
    fn takes(&self, statement: &Prepared, settings: &Settings) -> bool {
        const TOGETHER: usize = 64;
        match self.kind {
            Group::Alone => {
                let alone = Self::new(statement.clone(), settings).kind == Group::Alone;
                alone && self.statements.len() < TOGETHER && self.settings == *settings
            }
            _ => statement.class == Class::FollowUp && self.statements.len() < TOGETHER,
        }
    }
}

/// One of the first `count` waiting jobs that waits for none that is running, nor for one before it: of the table whose jobs cost most
/// together.
fn ready(waiting: &VecDeque<Job>, count: usize, running: &[(usize, Job)]) -> Option<usize> {
    let mut costs: HashMap<&ObjectName, u64> = HashMap::new();
    for job in waiting.iter().take(count) {
        for (table, _) in &job.locks {
            let cost = costs.entry(table).or_default();
            *cost = cost.saturating_add(job.cost);
        }
    }
    let of_table = |job: &Job| job.locks.iter().filter_map(|(table, _)| costs.get(table)).max();
    let mut order: Vec<(usize, &Job)> = waiting.iter().take(count).enumerate().collect();
    order.sort_by_key(|(_, job)| Reverse(of_table(job)));
    let is_ready = |(at, job): &(usize, &Job)| {
        let before = waiting.iter().take(*at).chain(running.iter().map(|(_, job)| job));
        !before.into_iter().any(|other| job.waits_for(other))
    };
    order.into_iter().find(is_ready).map(|(at, _)| at)
}

impl PostgresSink {
    /// Runs the statements of `5-constraints`.
    pub(super) async fn build(&mut self, context: &Context, content: Content) -> Result<()> {
        let mut statements = Statements::open(content).await?;
        let mut settings = Settings::new();
        let mut waiting: VecDeque<Job> = VecDeque::new();
        let mut running: Vec<(usize, Job)> = Vec::new();
        let (mut ended, mut number) = (false, 0);
        loop {
            while !ended && waiting.len() < WINDOW {
                match statements.next().await? {
                    Some(text) => match prepare(&text) {
                        Ok(statement) => self.line_up(statement, &mut settings, &mut waiting),
                        Err(refusal) => self.refused(context, &text, &refusal),
                    },
                    None => ended = true,
                }
            }
            if self.request.dry_run {
                waiting.clear();
                if ended {
                    return Ok(());
                }
                continue;
            }
            // What comes next may belong to the last one.
            let whole = waiting.len() - usize::from(!ended && !waiting.is_empty());
            if self.pool_mut()?.has_room()
                && let Some(job) = ready(&waiting, whole, &running).and_then(|at| waiting.remove(at))
            {
                number += 1;
                running.push((number, job.clone()));
                self.start_job(context, number, job).await?;
                continue;
            }
            let Some(built) = self.next_built(context).await? else {
                return Ok(());
            };
            running.retain(|(number, _)| *number != built.job);
            for (statement, refusal) in &built.refused {
                self.refused_statement(context, statement, refusal);
            }
            if let Some(job) = built.again {
                waiting.push_front(Job {
                    kind: Group::Alone,
                    ..job
                });
            }
        }
    }

    fn line_up(&mut self, statement: Prepared, settings: &mut Settings, waiting: &mut VecDeque<Job>) {
        match &statement.class {
            Class::Empty => return,
            Class::Set(name) => return take_setting(settings, name, &statement.sql),
            _ => self.summary.statements += 1,
        }
        if let Some(job) = waiting.back_mut().filter(|job| job.takes(&statement, settings)) {
            job.statements.push(statement);
        } else {
            let mut job = Job::new(statement, settings);
            job.cost = job.cost_on(|table| self.bytes_of(table));
            waiting.push_back(job);
        }
    }

    /// Bytes of the rows that a table was given.
    fn bytes_of(&self, table: &ObjectName) -> u64 {
        let [schema, table] = table.0.as_slice() else {
            return 0;
        };
        let name = TableName {
            schema: schema.clone(),
            table: table.clone(),
        };
        self.tables.get(&name).map_or(0, |table| table.bytes)
    }

    async fn start_job(&mut self, context: &Context, number: usize, job: Job) -> Result<()> {
        let context = context.clone();
        self.pool_mut()?
            .start(&context.clone(), move |mut worker| async move {
                let refused = run_all(&context, &mut worker, &job.settings, &job.statements).await?;
                let in_the_way =
                    |(_, refusal): &(Prepared, Refusal)| IN_THE_WAY.contains(&refusal.code.as_str());
                let (again, refused) = if job.kind != Group::Alone && refused.iter().any(in_the_way) {
                    let (again, refused): (Vec<_>, Vec<_>) = refused.into_iter().partition(in_the_way);
                    let statements = again.into_iter().map(|(statement, _)| statement).collect();
                    (Some(Job { statements, ..job }), refused)
                } else {
                    (None, refused)
                };
                let job = number;
                Ok((worker, super::Left::Built(Built { refused, again, job })))
            })
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connector::postgres::statement::classify;

    fn job(sql: &str) -> Job {
        let class = classify(sql.as_bytes());
        let sql = sql.to_owned();
        Job::new(Prepared { sql, class }, &Settings::new())
    }

    #[test]
    fn indexes_of_a_table_are_built_together_and_keys_alone() {
        let index = job("CREATE INDEX i ON s.t USING btree (a);");
        let key = job("ALTER TABLE ONLY s.t ADD CONSTRAINT p PRIMARY KEY (a);");
        let other = job("ALTER TABLE ONLY s.u ADD CONSTRAINT p PRIMARY KEY (a);");
        let foreign = job("ALTER TABLE ONLY s.v ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES s.t(a);");
        let elsewhere = job("ALTER TABLE ONLY s.w ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES s.x(a);");
        let attach = job("ALTER INDEX s.i ATTACH PARTITION s.j;");
        assert!(!index.waits_for(&index) && !key.waits_for(&other) && !index.waits_for(&other));
        assert!(index.waits_for(&key) && key.waits_for(&index) && key.waits_for(&key));
        assert!(foreign.waits_for(&other) && foreign.waits_for(&index) && !foreign.waits_for(&elsewhere));
        assert!(attach.waits_for(&elsewhere) && elsewhere.waits_for(&attach) && attach.waits_for(&attach));
    }

    #[test]
    fn nothing_overtakes_what_it_waits_for() {
        let key = job("ALTER TABLE ONLY s.t ADD CONSTRAINT p PRIMARY KEY (a);");
        let index = job("CREATE INDEX i ON s.t USING btree (a);");
        let other = job("CREATE INDEX i ON s.u USING btree (a);");
        let alone = job("CREATE TRIGGER x;");
        let waiting = VecDeque::from([index.clone(), other.clone(), alone.clone(), other.clone()]);
        assert_eq!(ready(&waiting, 4, &[(1, key)]), Some(1));
        let waiting = VecDeque::from([index, alone.clone(), other.clone()]);
        assert_eq!(ready(&waiting, 3, &[(1, alone.clone())]), None);
        assert_eq!(ready(&VecDeque::from([alone]), 1, &[(1, other)]), None);
    }

    #[test]
    fn what_takes_long_is_begun_first_and_what_it_waits_for_before_it() {
        let with = |sql: &str| {
            let mut job = job(sql);
            let is_large = |table: &ObjectName| u64::from(table.0[1] == b"large") * 1000 + 100;
            job.cost = job.cost_on(is_large);
            job
        };
        let small = with("ALTER TABLE ONLY s.small ADD CONSTRAINT p PRIMARY KEY (a);");
        let large = with("CREATE INDEX i ON s.large USING btree (a);");
        let key = with("ALTER TABLE ONLY s.gin ADD CONSTRAINT p PRIMARY KEY (a);");
        let gin = with("CREATE INDEX g ON s.gin USING gin (a);");
        assert_eq!(
            (small.cost, large.cost, key.cost, gin.cost),
            (100, 1100, 100, 800)
        );
        let waiting = VecDeque::from([small, large, key.clone(), gin]);
        assert_eq!(ready(&waiting, 4, &[]), Some(1));
        let waiting: VecDeque<Job> = waiting.into_iter().filter(|job| job.cost != 1100).collect();
        assert_eq!(
            ready(&waiting, 3, &[]),
            Some(1),
            "the key of the table that takes longest"
        );
        assert_eq!(
            ready(&waiting, 3, &[(9, key)]),
            Some(0),
            "not the index that waits for it"
        );
    }
}
