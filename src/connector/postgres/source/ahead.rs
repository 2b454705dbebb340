//! Tables that are planned while what comes before them is read.

use super::Reading;
use super::database::reads;
use super::table::{self, Planned};
use crate::connector::postgres::catalog::{Table, Tables};
use crate::error::{Error, ErrorKind, Result};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio_util::task::AbortOnDropHandle;

/// The tables of a database, in the order of their keys.
pub(super) struct Ahead {
    tables: Tables,
    queue: VecDeque<Begun>,
    /// Tables that are planned ahead.
    most: usize,
}

enum Begun {
    Plan(AbortOnDropHandle<Result<Planned>>),
    PassedOver(Box<Table>, String),
}

/// A table whose turn has come.
pub(super) enum Next {
    /// It is read so.
    Planned(Box<Planned>),
    /// It is not read, and why.
    PassedOver(Box<Table>, String),
}

impl Ahead {
    pub(super) fn new(tables: Tables, most: usize) -> Self {
        Self {
            tables,
            queue: VecDeque::new(),
            most,
        }
    }

    /// What is known of all that came so far.
    pub(super) fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Begins to plan the tables that come next.
    ///
    /// # Errors
    /// `Source` if the server cannot be asked for them.
    pub(super) async fn fill(&mut self, reading: &Arc<Reading>) -> Result<()> {
        while self.queue.len() < self.most
            && let Some(table) = self.tables.next(reading.session.coordinator()).await?
        {
            self.queue.push_back(match reads(&reading.session, &table) {
                Ok(()) => {
                    let planning = tokio::spawn(table::plan(reading.clone(), Arc::new(table)));
                    Begun::Plan(AbortOnDropHandle::new(planning))
                }
                Err(why) => Begun::PassedOver(Box::new(table), why),
            });
        }
        Ok(())
    }

    /// The next table; nothing behind the last.
    ///
    /// # Errors
    /// As its planning, and as [`Self::fill`].
    pub(super) async fn next(&mut self, reading: &Arc<Reading>) -> Result<Option<Next>> {
        self.fill(reading).await?;
        Ok(match self.queue.pop_front() {
            None => None,
            Some(Begun::PassedOver(table, why)) => Some(Next::PassedOver(table, why)),
            Some(Begun::Plan(planning)) => {
                let ended = planning.await.map_err(|error| {
                    Error::new(ErrorKind::Internal, "a planning task ended by itself").because(error)
                })?;
                Some(Next::Planned(Box::new(ended?)))
            }
        })
    }
}
