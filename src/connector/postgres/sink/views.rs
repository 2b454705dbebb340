//! Materialized views, filled in the order of dependence.

use super::PostgresSink;
use super::refusal::Refusal;
use super::session::Settings;
use super::statements::{Prepared, Statements, prepare, run_all};
use crate::connector::postgres::statement::Class;
use crate::context::Context;
use crate::error::Result;
use crate::snapshot::entry::Content;

impl PostgresSink {
    /// Runs the statements of `6-refresh`. One that was refused may have needed another that comes later, through a function that the
    /// server cannot look into; so the refused ones are tried again as long as one of them succeeds.
    pub(super) async fn refresh(&mut self, context: &Context, content: Content) -> Result<()> {
        let mut statements = Statements::open(content).await?;
        let mut refused: Vec<(Prepared, Refusal)> = Vec::new();
        while let Some(text) = statements.next().await? {
            let statement = match prepare(&text) {
                Ok(statement) => statement,
                Err(refusal) => {
                    self.refused(context, &text, &refusal);
                    continue;
                }
            };
            if matches!(statement.class, Class::Empty | Class::Set(_)) {
                continue;
            }
            self.summary.statements += 1;
            if !self.request.dry_run {
                refused.extend(self.alone(context, statement).await?);
            }
        }
        loop {
            let before = refused.len();
            let mut still = Vec::new();
            for (statement, _) in refused {
                still.extend(self.alone(context, statement).await?);
            }
            refused = still;
            if refused.len() == before || refused.is_empty() {
                break;
            }
        }
        for (statement, refusal) in refused {
            self.refused_statement(context, &statement, &refusal);
        }
        Ok(())
    }

    /// Runs one statement; gives it back if it was refused.
    async fn alone(&mut self, context: &Context, statement: Prepared) -> Result<Vec<(Prepared, Refusal)>> {
        let mut worker = self.control.take().ok_or_else(super::unprepared)?;
        let refused = run_all(context, &mut worker, &Settings::new(), &[statement]).await;
        self.control = Some(worker);
        refused
    }
}
