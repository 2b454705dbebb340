//! Default privileges that the target has already. A new object would get rights by them that it does not have in the snapshot, and
//! no statement of a dump takes such rights away: it says what differs from what a new database gives.

use super::PostgresSink;
use super::session::Trouble;
use crate::connector::postgres::name::{display, quote};
use crate::context::Context;
use crate::error::Result;
use crate::event::Event;
use tokio_postgres::SimpleQueryRow;

/// Default privileges one by one: whose, in which schema, for what kind of object, and to whom. An empty list has no grantee.
const FOUND: &str =
    "SELECT r.rolname, r.rolname OPERATOR(pg_catalog.=) current_user, n.nspname, d.defaclobjtype,
        CASE WHEN a.grantee OPERATOR(pg_catalog.=) 0 THEN NULL ELSE g.rolname END, a.grantee IS NOT NULL
    FROM pg_catalog.pg_default_acl d JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) d.defaclrole
    LEFT JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) d.defaclnamespace
    LEFT JOIN LATERAL (SELECT DISTINCT grantee FROM pg_catalog.aclexplode(d.defaclacl)) a ON true
    LEFT JOIN pg_catalog.pg_roles g ON g.oid OPERATOR(pg_catalog.=) a.grantee
    ORDER BY 1, 3, 4, 5 LIMIT 10000";

impl PostgresSink {
    /// Sets the default privileges of the role that makes all objects back to what a new database has; those of the snapshot come
    /// with its statements. Those of other roles change nothing that is restored: they are named.
    pub(super) async fn neutralise_defaults(&mut self, context: &Context) -> Result<()> {
        let rows = self
            .control()?
            .ask(FOUND, "cannot look at the target's default privileges")
            .await?;
        let (mut own, mut others) = (Vec::new(), Vec::new());
        let mut statements: Vec<String> = Vec::new();
        for row in rows {
            let text = |index| row.get(index).unwrap_or_default();
            let (role, schema) = (text(0), row.get(2));
            let Some(kind) = kind(text(3)) else {
                continue;
            };
            let place = schema.map(|schema| format!(" in schema {}", display(schema.as_bytes())));
            let place = place.unwrap_or_default();
            let named = format!(
                "for {}{place} of {}",
                kind.to_lowercase(),
                display(role.as_bytes())
            );
            let mine = text(1) == "t";
            let list = if mine { &mut own } else { &mut others };
            if !list.contains(&named) {
                list.push(named);
            }
            if mine {
                statements.extend(set_back(&row, kind)?);
            }
        }
        // What is taken away comes first: a list is given back whole.
        statements.sort_by_key(|sql| sql.contains(" GRANT ALL ON "));
        statements.dedup();
        let note = |text: String| context.emit(&Event::Note { text });
        if !others.is_empty() {
            note(format!(
                "the target has default privileges of other roles, which were left: {}",
                listed(&others)
            ));
        }
        if own.is_empty() {
            return Ok(());
        }
        note(format!(
            "the target had default privileges, which would have given restored objects rights that the snapshot does not: {}; they \
             are those of a new database now, and the snapshot's own come with it",
            listed(&own)
        ));
        for sql in statements {
            match self.control()?.run(context, &sql).await {
                Ok(()) => {}
                Err(Trouble::Lost(error)) => return Err(error),
                Err(Trouble::Refused(refusal)) => self.refused(context, sql.as_bytes(), &refusal),
            }
        }
        Ok(())
    }
}

/// The statements that set one default privilege back to what a new database has. In a schema that is nothing.
fn set_back(row: &SimpleQueryRow, kind: &str) -> Result<Vec<String>> {
    let role = quote(row.get(0).unwrap_or_default().as_bytes())?;
    let schema = row.get(2).map(|schema| quote(schema.as_bytes())).transpose()?;
    let place = schema.as_ref().map(|schema| format!(" IN SCHEMA {schema}"));
    let alter = format!(
        "ALTER DEFAULT PRIVILEGES FOR ROLE {role}{}",
        place.unwrap_or_default()
    );
    let mut statements = Vec::new();
    if row.get(5) == Some("t") {
        let grantee = row
            .get(4)
            .map_or(Ok("PUBLIC".to_owned()), |name| quote(name.as_bytes()))?;
        statements.push(format!("{alter} REVOKE ALL ON {kind} FROM {grantee}"));
    }
    if schema.is_none() {
        statements.push(format!("{alter} GRANT ALL ON {kind} TO {role}"));
        if matches!(kind, "FUNCTIONS" | "TYPES") {
            statements.push(format!("{alter} GRANT ALL ON {kind} TO PUBLIC"));
        }
    }
    Ok(statements)
}

/// The first of many names, and how many more there are.
fn listed(names: &[String]) -> String {
    const NAMED: usize = 10;
    let named: Vec<&str> = names.iter().take(NAMED).map(String::as_str).collect();
    match names.len().saturating_sub(NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// What a letter of `pg_default_acl.defaclobjtype` stands for.
fn kind(letter: &str) -> Option<&'static str> {
    Some(match letter {
        "r" => "TABLES",
        "S" => "SEQUENCES",
        "f" => "FUNCTIONS",
        "T" => "TYPES",
        "n" => "SCHEMAS",
        "L" => "LARGE OBJECTS",
        _ => return None,
    })
}
