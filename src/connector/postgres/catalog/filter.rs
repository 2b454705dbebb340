//! Which tables and sequences are kept: the patterns of `pg_dump`, by its rules.

use super::query::{Catalog, get, text};
use crate::error::{Error, ErrorKind, Result};
use std::collections::HashSet;
use tokio_postgres::types::Type;

/// The schemas that a Supabase project's platform manages, as patterns: what `supabase db dump` leaves out of a schema dump.
const MANAGED: &[&str] = &[
    "information_schema",
    "pg_*",
    "_analytics",
    "_realtime",
    "_supavisor",
    "auth",
    "etl",
    "extensions",
    "pgbouncer",
    "realtime",
    "storage",
    "supabase_functions",
    "supabase_migrations",
    "cron",
    "dbdev",
    "graphql",
    "graphql_public",
    "net",
    "pgmq",
    "pgsodium",
    "pgsodium_masks",
    "pgtle",
    "repack",
    "tiger",
    "tiger_data",
    "timescaledb_*",
    "_timescaledb_*",
    "topology",
    "vault",
];

/// Patterns of what is kept, with the meaning that `pg_dump` gives to `--schema`, `--exclude-schema`, `--table` and
/// `--exclude-table`: unquoted letters are lower case, `*` and `?` stand for any letters and any letter, a dot parts schema and
/// name, what is in double quotes means itself. If tables are named, only they are kept, whatever the schemas are; a table without
/// a schema is looked for in the role's `search_path`. The system's own schemas match nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Schemas to keep; none: all.
    pub schemas: Vec<String>,
    /// Schemas to leave out.
    pub exclude_schemas: Vec<String>,
    /// Tables and sequences to keep; none: all of the schemas.
    pub tables: Vec<String>,
    /// Tables and sequences to leave out.
    pub exclude_tables: Vec<String>,
    /// Leaves out the schemas that the platform of a Supabase project manages.
    pub user_schemas_only: bool,
}

impl Filter {
    /// Whether only chosen schemas or tables are kept. `pg_dump` then leaves out what lies in no schema: large objects, extensions.
    pub fn chooses(&self) -> bool {
        !self.schemas.is_empty() || !self.tables.is_empty()
    }

    /// The same choice as arguments of `pg_dump`.
    pub fn arguments(&self) -> Vec<String> {
        let managed = MANAGED.iter().filter(|_| self.user_schemas_only);
        let mut arguments = self.patterns();
        arguments.extend(managed.map(|p| format!("--exclude-schema={p}")));
        arguments
    }

    /// The choice as options, the same for the same choice in whatever order it was given.
    pub fn options(&self) -> Vec<String> {
        let mut options = self.patterns();
        options.sort_unstable();
        options.dedup();
        options.extend(self.user_schemas_only.then(|| "--user-schemas-only".to_owned()));
        options
    }

    fn patterns(&self) -> Vec<String> {
        let options = [
            ("schema", &self.schemas),
            ("exclude-schema", &self.exclude_schemas),
            ("table", &self.tables),
            ("exclude-table", &self.exclude_tables),
        ];
        options
            .into_iter()
            .flat_map(|(option, patterns)| patterns.iter().map(move |p| format!("--{option}={p}")))
            .collect()
    }
}

/// A filter, resolved against one database: the oids that it names.
#[derive(Debug, Default)]
pub(super) struct Selection {
    schemas: Option<HashSet<u32>>,
    not_schemas: HashSet<u32>,
    tables: Option<HashSet<u32>>,
    not_tables: HashSet<u32>,
    /// Patterns of what to leave out that name nothing here.
    pub(super) idle: Vec<String>,
}

impl Selection {
    /// Looks up all patterns of `filter`.
    ///
    /// # Errors
    /// `Invalid` for a pattern that cannot be read, `NotFound` for one to keep that names nothing.
    pub(super) async fn resolve(catalog: &Catalog<'_>, filter: &Filter) -> Result<Self> {
        let mut selection = Self::default();
        let database = catalog
            .row(
                "the name of the database",
                &format!("SELECT {}", catalog.bytes("pg_catalog.current_database()")),
            )
            .await?;
        let database = get::<Vec<u8>>(&database, 0)?;
        let here = Here {
            catalog,
            database: &database,
        };
        if !filter.schemas.is_empty() {
            selection.schemas = Some(here.named(&filter.schemas, Sort::Schema).await?);
        }
        if !filter.tables.is_empty() {
            selection.tables = Some(here.named(&filter.tables, Sort::Table).await?);
        }
        for pattern in &filter.exclude_schemas {
            let found = here.matching(pattern, Sort::Schema).await?;
            if found.is_empty() {
                selection.idle.push(pattern.clone());
            }
            selection.not_schemas.extend(found);
        }
        for pattern in &filter.exclude_tables {
            let found = here.matching(pattern, Sort::Table).await?;
            if found.is_empty() {
                selection.idle.push(pattern.clone());
            }
            selection.not_tables.extend(found);
        }
        if filter.user_schemas_only {
            for pattern in MANAGED {
                let found = here.matching(pattern, Sort::Schema).await?;
                selection.not_schemas.extend(found);
            }
        }
        Ok(selection)
    }

    /// Whether a table or sequence is kept.
    pub(super) fn keeps(&self, oid: u32, schema: u32) -> bool {
        let chosen = match (&self.tables, &self.schemas) {
            (Some(tables), _) => tables.contains(&oid),
            (None, Some(schemas)) => schemas.contains(&schema) && !self.not_schemas.contains(&schema),
            (None, None) => !self.not_schemas.contains(&schema),
        };
        chosen && !self.not_tables.contains(&oid)
    }

    /// Whether a table was named itself, not by its schema.
    pub(super) fn names(&self, oid: u32) -> bool {
        self.tables.as_ref().is_some_and(|tables| tables.contains(&oid))
    }
}

/// What a pattern names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sort {
    Schema,
    Table,
}

/// Where patterns are looked up.
struct Here<'a> {
    catalog: &'a Catalog<'a>,
    database: &'a [u8],
}

impl Here<'_> {
    async fn named(&self, patterns: &[String], sort: Sort) -> Result<HashSet<u32>> {
        let mut all = HashSet::new();
        for pattern in patterns {
            let found = self.matching(pattern, sort).await?;
            if found.is_empty() {
                let what = match sort {
                    Sort::Schema => "no schema of the database matches",
                    Sort::Table => "no table of the database matches",
                };
                return Err(Error::new(ErrorKind::NotFound, what)
                    .with("pattern", pattern)
                    .with("database", text(self.database))
                    .hint(
                        "unquoted names are lower case; write \"Name\" with its quotes, and the schema of a \
                         table that is not in the search_path",
                    ));
            }
            all.extend(found);
        }
        Ok(all)
    }

    async fn matching(&self, pattern: &str, sort: Sort) -> Result<Vec<u32>> {
        let mut parts = split(pattern);
        let most = if sort == Sort::Schema { 1 } else { 3 };
        if parts.len() > most {
            return Err(invalid(
                pattern,
                "it has too many dots; a dot of a name stands in quotes",
            ));
        }
        if parts.len() == 3 && parts.remove(0).literal.as_bytes() != self.database {
            return Err(invalid(pattern, "it names another database"));
        }
        let expressions: Vec<String> = parts.iter().map(Part::anchored).collect();
        let parameters: Vec<super::query::Parameter<'_>> =
            expressions.iter().map(|e| (e as _, Type::TEXT)).collect();
        let user = "n.nspname OPERATOR(pg_catalog.!~) '^pg_' AND n.nspname OPERATOR(pg_catalog.<>) 'information_schema'";
        let like = |name, n| {
            format!("{name} OPERATOR(pg_catalog.~) (${n}) COLLATE pg_catalog.\"default\" AND {user}")
        };
        let tables = "SELECT c.oid FROM pg_catalog.pg_class c
             JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
             WHERE c.relkind OPERATOR(pg_catalog.=) ANY ('{r,S,v,m,f,p}'::pg_catalog.\"char\"[]) AND";
        let rows = match (sort, parts.len()) {
            (Sort::Schema, _) => {
                let sql = format!(
                    "SELECT n.oid FROM pg_catalog.pg_namespace n WHERE {}",
                    like("n.nspname", 1)
                );
                self.catalog.rows("schemas", &sql, &parameters).await
            }
            (Sort::Table, 2) => {
                let sql = format!("{tables} {} AND {}", like("n.nspname", 1), like("c.relname", 2));
                self.catalog.rows("tables", &sql, &parameters).await
            }
            (Sort::Table, _) => {
                let sql = format!(
                    "{tables} pg_catalog.pg_table_is_visible(c.oid) AND {}",
                    like("c.relname", 1)
                );
                self.visible(&sql, &parameters).await
            }
        };
        let rows = rows.map_err(|error| invalid(pattern, "the server cannot look it up").because(error))?;
        rows.iter().map(|row| get(row, 0)).collect()
    }

    /// Runs a query with the `search_path` that the role has of its own, as `pg_dump` does for tables without a schema.
    async fn visible(
        &self,
        sql: &str,
        parameters: &[super::query::Parameter<'_>],
    ) -> Result<Vec<tokio_postgres::Row>> {
        let what = "the search_path";
        self.catalog.rows(what, "RESET search_path", &[]).await?;
        let rows = self.catalog.rows("tables", sql, parameters).await;
        let empty = "SELECT pg_catalog.set_config('search_path', '', false)";
        let back = self.catalog.rows(what, empty, &[]).await;
        // The first failure is the one to tell; after it the transaction is over, and its settings with it.
        rows.and_then(|rows| back.map(|_| rows))
    }
}

fn invalid(pattern: &str, why: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("a pattern cannot be used: {why}")).with("pattern", pattern)
}

/// One part of a pattern, between dots.
#[derive(Debug, Default, PartialEq, Eq)]
struct Part {
    /// As a regular expression of the server, without anchors.
    expression: String,
    /// As it is meant if it has no wildcards.
    literal: String,
}

impl Part {
    fn anchored(&self) -> String {
        format!("^({})$", self.expression)
    }

    fn literal(&mut self, c: char, escaped: bool) {
        if escaped {
            self.expression.push('\\');
        }
        self.expression.push(c);
        self.literal.push(c);
    }
}

/// The parts of a pattern, by the rules of `patternToSQLRegex` in PostgreSQL's `src/fe_utils/string_utils.c`.
fn split(pattern: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut part = Part::default();
    let mut quoted = false;
    let mut rest = pattern.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '"' if quoted && rest.peek() == Some(&'"') => {
                rest.next();
                part.literal('"', false);
            }
            '"' => quoted = !quoted,
            '*' if !quoted => {
                part.expression.push_str(".*");
                part.literal.push('*');
            }
            '?' if !quoted => {
                part.expression.push('.');
                part.literal.push('?');
            }
            '.' if !quoted => parts.push(std::mem::take(&mut part)),
            // A dollar sign is of the name, inside quotes and outside.
            '$' => part.literal('$', true),
            // So are brackets without anything between.
            '[' if !quoted => part.literal('[', rest.peek() == Some(&']')),
            c if quoted => part.literal(c, "|*+?()[]{}.^\\".contains(c)),
            c => part.literal(c.to_ascii_lowercase(), false),
        }
    }
    parts.push(part);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_read_as_pg_dump_reads_them() {
        let expressions = |pattern| {
            let parts = split(pattern);
            parts.into_iter().map(|p| p.expression).collect::<Vec<_>>()
        };
        assert_eq!(expressions("Orders"), ["orders"]);
        assert_eq!(expressions("\"Orders\""), ["Orders"]);
        assert_eq!(expressions("pub*.o?d"), ["pub.*", "o.d"]);
        assert_eq!(expressions("\"a.b\".c"), ["a\\.b", "c"]);
        assert_eq!(expressions("\"say \"\"hi\"\"\""), ["say \"hi\""]);
        assert_eq!(expressions("a$b"), ["a\\$b"]);
        assert_eq!(expressions("\"a$b*\""), ["a\\$b\\*"]);
        assert_eq!(expressions("t[0-9]|x"), ["t[0-9]|x"]);
        assert_eq!(expressions("int[]"), ["int\\[]"]);
        assert_eq!(expressions(""), [""]);
    }

    #[test]
    fn a_choice_is_handed_on_to_pg_dump_whole() {
        let filter = Filter {
            schemas: vec!["a".into(), "b*".into()],
            exclude_tables: vec!["a.\"X\"".into()],
            ..Filter::default()
        };
        assert_eq!(
            filter.arguments(),
            ["--schema=a", "--schema=b*", "--exclude-table=a.\"X\""]
        );
        assert!(filter.chooses());
        let managed = Filter {
            user_schemas_only: true,
            ..Filter::default()
        };
        assert!(managed.arguments().contains(&"--exclude-schema=auth".to_owned()));
        assert!(!managed.chooses());
    }
}
