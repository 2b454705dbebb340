//! What must hold of the target before the first statement.

use super::session::{Trouble, Worker};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use std::collections::BTreeSet;

/// Objects of a database that was only just made, and objects that extensions own, do not count; a few of the others are named.
const FOUND: &str = "WITH member AS (SELECT classid, objid FROM pg_catalog.pg_depend WHERE deptype OPERATOR(pg_catalog.=) 'e'),
    found(what, name, classid, objid) AS (
        SELECT 'schema', n.nspname::pg_catalog.text, 'pg_catalog.pg_namespace'::pg_catalog.regclass, n.oid
            FROM pg_catalog.pg_namespace n
            WHERE n.nspname NOT IN ('public', 'information_schema') AND n.nspname::pg_catalog.text !~ '^pg_'
        UNION ALL SELECT CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'S' THEN 'sequence'
                WHEN 'c' THEN 'type' WHEN 'f' THEN 'foreign table' ELSE 'table' END,
            n.nspname || '.' || c.relname, 'pg_catalog.pg_class'::pg_catalog.regclass, c.oid
            FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'c', 'f')
              AND n.nspname <> 'information_schema' AND n.nspname::pg_catalog.text !~ '^pg_'
        UNION ALL SELECT 'function', n.nspname || '.' || p.proname, 'pg_catalog.pg_proc'::pg_catalog.regclass, p.oid
            FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
            WHERE n.nspname <> 'information_schema' AND n.nspname::pg_catalog.text !~ '^pg_'
        UNION ALL SELECT 'type', n.nspname || '.' || t.typname, 'pg_catalog.pg_type'::pg_catalog.regclass, t.oid
            FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
            WHERE t.typtype IN ('d', 'e', 'r') AND n.nspname <> 'information_schema' AND n.nspname::pg_catalog.text !~ '^pg_'
        UNION ALL SELECT 'large object', oid::pg_catalog.text, 'pg_catalog.pg_largeobject'::pg_catalog.regclass, oid
            FROM pg_catalog.pg_largeobject_metadata
        UNION ALL SELECT 'publication', pubname::pg_catalog.text, 'pg_catalog.pg_publication'::pg_catalog.regclass, oid
            FROM pg_catalog.pg_publication
        UNION ALL SELECT 'event trigger', evtname::pg_catalog.text, 'pg_catalog.pg_event_trigger'::pg_catalog.regclass, oid
            FROM pg_catalog.pg_event_trigger
        UNION ALL SELECT 'foreign-data wrapper', fdwname::pg_catalog.text,
            'pg_catalog.pg_foreign_data_wrapper'::pg_catalog.regclass, oid FROM pg_catalog.pg_foreign_data_wrapper)
    SELECT what || ' ' || name, pg_catalog.count(*) OVER () FROM found f
        WHERE NOT EXISTS (SELECT FROM member m WHERE m.classid = f.classid AND m.objid = f.objid) ORDER BY 1 LIMIT 5";

/// What was found out about the target.
#[derive(Clone, Debug, Default)]
pub(super) struct Target {
    pub(super) database: String,
    pub(super) version: String,
    pub(super) version_num: u32,
    pub(super) encoding: String,
    /// Whether triggers and rules of the target can be kept from firing.
    pub(super) replica: bool,
    /// Roles that are there.
    pub(super) roles: BTreeSet<String>,
    /// Whether extensions are there besides the usual one: their tables may hold rows, which are not ours to remove.
    pub(super) extensions: bool,
    /// Connections that may be opened besides the first.
    pub(super) free: usize,
}

/// Looks at the target and changes nothing.
///
/// # Errors
/// `Refused` unless it is a database without objects that can be written; `Source` if it cannot be asked.
pub(super) async fn look(context: &Context, worker: &Worker) -> Result<Target> {
    let failed = "cannot look at the target";
    let sql = "SELECT pg_catalog.current_database(), pg_catalog.current_setting('server_version'),
        pg_catalog.current_setting('server_version_num'), pg_catalog.current_setting('server_encoding'),
        pg_catalog.pg_is_in_recovery(), pg_catalog.pg_backend_pid(),
        pg_catalog.current_setting('max_connections')::int - pg_catalog.current_setting('superuser_reserved_connections')::int
            - (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend'),
        (SELECT CASE WHEN datconnlimit < 0 THEN 1000000 ELSE datconnlimit END FROM pg_catalog.pg_database
            WHERE datname = pg_catalog.current_database())";
    let rows = worker.ask(sql, failed).await?;
    let [row] = rows.as_slice() else {
        return Err(Error::new(ErrorKind::Source, failed));
    };
    let text = |index| row.get(index).unwrap_or_default().to_owned();
    let number = |index| text(index).parse::<i64>().unwrap_or(0);
    let mut target = Target {
        database: text(0),
        version: text(1),
        version_num: u32::try_from(number(2)).unwrap_or(0),
        encoding: text(3),
        free: usize::try_from(number(6).min(number(7))).unwrap_or(0),
        ..Target::default()
    };
    let refused = |what: &str| Error::new(ErrorKind::Refused, what).with("target", text(0));
    if text(4) == "t" {
        return Err(
            refused("the target is a standby, which takes no writes").hint("restore into its primary")
        );
    }
    let again = worker.ask("SELECT pg_catalog.pg_backend_pid()", failed).await?;
    if again.first().and_then(|row| row.get(0)) != row.get(5) {
        let error = refused("the target is behind a pooler that hands each statement to another session");
        return Err(error.hint("connect to the server itself, or to the pooler's port for sessions (5432)"));
    }
    let found = worker.ask(FOUND, failed).await?;
    if let Some(first) = found.first() {
        let names: Vec<&str> = found.iter().filter_map(|row| row.get(0)).collect();
        return Err(refused("the target is not empty")
            .with("objects", first.get(1).unwrap_or_default())
            .with("among them", names.join(", "))
            .hint(format!(
                "nothing was changed; make an empty database (CREATE DATABASE restored TEMPLATE template0) and name it in --target, or \
                 drop what is in {}",
                target.database
            )));
    }
    let roles = worker
        .ask("SELECT rolname FROM pg_catalog.pg_roles", failed)
        .await?;
    target.roles = roles
        .iter()
        .filter_map(|row| row.get(0))
        .map(str::to_owned)
        .collect();
    let extensions = "SELECT 1 FROM pg_catalog.pg_extension WHERE extname <> 'plpgsql' LIMIT 1";
    target.extensions = !worker.ask(extensions, failed).await?.is_empty();
    target.replica = replica(context, worker).await?;
    Ok(target)
}

/// Whether the role may write without triggers.
async fn replica(context: &Context, worker: &Worker) -> Result<bool> {
    let sql = "SET session_replication_role = replica; RESET session_replication_role";
    match worker.run(context, sql).await {
        Ok(()) => Ok(true),
        Err(Trouble::Refused(_)) => Ok(false),
        Err(Trouble::Lost(error)) => Err(error),
    }
}

/// How many connections are used, told if they are fewer than asked for.
pub(super) fn jobs(context: &Context, target: &Target, wanted: usize) -> usize {
    let jobs = wanted.min(target.free).max(1);
    if jobs < wanted {
        let text = format!(
            "the target has room for {} connections more; using {jobs} of {wanted} jobs",
            target.free
        );
        context.emit(&Event::Note { text });
    }
    jobs
}
