//! Values of sequences, read back and compared with what the snapshot says of them.

use super::PostgresSink;
use super::session::Trouble;
use crate::connector::postgres::key::TableName;
use crate::connector::postgres::name::{parse_table, qualified};
use crate::connector::postgres::statement::{Word, words};
use crate::context::Context;
use crate::error::Result;

/// Sequences that one statement reads.
const AT_ONCE: usize = 200;

/// The value of a sequence, and whether it was given out already.
type Value = (i64, bool);

impl PostgresSink {
    /// Takes note of what a statement of `4-sequences` sets. Holds about 100 bytes for each sequence.
    pub(super) fn expect(&mut self, statement: &str) {
        match set_value(statement) {
            Some((name, value)) => {
                if self.sequences.insert(name, value).is_none() {
                    self.summary.sequences.all += 1;
                }
            }
            // What it sets is not known, so it is never found equal; but it is there.
            None => self.summary.sequences.all += u64::from(sets_value(statement)),
        }
    }

    /// A statement of `4-sequences` was refused, which was told: its sequence is not compared.
    pub(super) fn expect_not(&mut self, statement: &str) {
        if let Some((name, _)) = set_value(statement) {
            self.sequences.remove(&name);
        }
    }

    /// Compares all sequences.
    pub(super) async fn compare_sequences(&mut self, context: &Context) -> Result<()> {
        let expected: Vec<(TableName, Value)> = std::mem::take(&mut self.sequences).into_iter().collect();
        for batch in expected.chunks(AT_ONCE) {
            let values = match self.values(context, batch).await {
                Ok(values) => values,
                Err(Trouble::Lost(error)) => return Err(error),
                Err(Trouble::Refused(_)) => self.one_by_one(context, batch).await?,
            };
            for ((name, wanted), found) in batch.iter().zip(values) {
                match found {
                    Some(found) if found == *wanted => self.summary.sequences.equal += 1,
                    found => {
                        let found = found.map_or_else(|| "cannot be read".into(), words_of);
                        let why = format!("its value {found}; in the snapshot it {}", words_of(*wanted));
                        self.different(context, name.to_string(), &why);
                    }
                }
            }
        }
        Ok(())
    }

    async fn one_by_one(
        &self,
        context: &Context,
        batch: &[(TableName, Value)],
    ) -> Result<Vec<Option<Value>>> {
        let mut values = Vec::with_capacity(batch.len());
        for one in batch {
            match self.values(context, std::slice::from_ref(one)).await {
                Ok(value) => values.extend(value),
                Err(Trouble::Refused(_)) => values.push(None),
                Err(Trouble::Lost(error)) => return Err(error),
            }
        }
        Ok(values)
    }

    /// The values of sequences, in their order.
    async fn values(
        &self,
        context: &Context,
        batch: &[(TableName, Value)],
    ) -> Result<Vec<Option<Value>>, Trouble> {
        let selects = batch.iter().enumerate().map(|(number, (name, _))| {
            let name = qualified(name)?;
            Ok(format!("SELECT {number}, last_value, is_called FROM {name}"))
        });
        let selects: Result<Vec<String>> = selects.collect();
        let sql = selects.map_err(Trouble::Lost)?.join(" UNION ALL ");
        let rows = self.control().map_err(Trouble::Lost)?.rows(context, &sql).await?;
        let mut values = vec![None; batch.len()];
        for row in rows {
            let place = row.get(0).and_then(|number| number.parse::<usize>().ok());
            let value = row.get(1).and_then(|value| value.parse::<i64>().ok());
            if let Some(slot) = place.and_then(|place| values.get_mut(place)) {
                *slot = value.map(|value| (value, row.get(2) == Some("t")));
            }
        }
        Ok(values)
    }
}

fn words_of((value, called): Value) -> String {
    format!("is {value}, {}given out", if called { "" } else { "not yet " })
}

/// What `SELECT pg_catalog.setval('name', value, called);` sets.
fn set_value(statement: &str) -> Option<(TableName, Value)> {
    let all = words(statement);
    let start = all.iter().position(|word| word.is("setval"))?;
    let [open, name, comma, rest @ ..] = all.get(start + 1..)? else {
        return None;
    };
    if !open.is_symbol("(") || !comma.is_symbol(",") {
        return None;
    }
    let end = rest.iter().position(|word| word.is_symbol(","))?;
    let number: String = rest.get(..end)?.iter().map(Word::value).collect();
    let called = rest.get(end + 1)?;
    let called = called.is("true") || matches!(called.value().as_str(), "t" | "true");
    Some((parse_table(&name.value()).ok()?, (number.parse().ok()?, called)))
}

/// Whether a statement calls `setval`, in whatever form.
fn sets_value(statement: &str) -> bool {
    words(statement).iter().any(|word| word.is("setval"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_statement_sets_is_read() {
        let read = |sql: &str| set_value(sql).map(|(name, value)| (name.to_string(), value));
        assert_eq!(
            read(r#"SELECT pg_catalog.setval('"public"."a_seq"', 42, true);"#),
            Some(("public.a_seq".into(), (42, true)))
        );
        assert_eq!(
            read(r#"SELECT pg_catalog.setval(E'"s ''\\"."B"', -9223372036854775808, false);"#),
            Some((r#""s '\"."B""#.into(), (i64::MIN, false)))
        );
        assert_eq!(read("SELECT 1;"), None);
        assert!(!sets_value("SELECT 1;"));
        let other = "SELECT pg_catalog.setval('a', 1);";
        assert_eq!(read(other), None);
        assert!(sets_value(other));
    }
}
