//! What belongs to the cluster and not to a schema, as statements: roles, their memberships and settings, and settings, comment and
//! privileges of the database. Never a password. All of it can be read by any role.
//!
//! It follows `pg_dumpall --roles-only --no-role-passwords`, without `GRANTED BY`: grantors of another cluster may not exist, and a
//! managed one forbids to name them.

use super::grants::{AccessList, exploded};
use super::query::{Catalog, get, text};
use crate::connector::postgres::connect::Connection;
use crate::connector::postgres::name::{literal, quote};
use crate::error::Result;
use tokio_postgres::Row;

/// Lists whose elements are names. A setting of such a kind is stored with quotes and must be taken apart to be set again
/// (`variable_is_guc_list_quote` in PostgreSQL's `src/bin/pg_dump/dumputils.c`).
const LISTS: [&str; 6] = [
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
];

/// Oid of the role that `initdb` makes.
const BOOTSTRAP: u32 = 10;

/// The statements, each ended by `;` and a line feed, in an order that the roles' names decide. Those about the database name the one
/// that they are run in, whatever it is called: run in another, they cannot change a third.
///
/// # Errors
/// `Source` if the server cannot be asked, `Unsupported` for a name that no statement can hold.
pub async fn globals(connection: &Connection) -> Result<String> {
    let catalog = Catalog::of(connection);
    let mut out = Statements::default();
    roles(&catalog, &mut out).await?;
    memberships(&catalog, &mut out).await?;
    parameters(&catalog, &mut out).await?;
    labels(&catalog, &mut out).await?;
    database(&catalog, &mut out).await?;
    settings(&catalog, &mut out).await?;
    Ok(out.0)
}

#[derive(Default)]
struct Statements(String);

impl Statements {
    fn push(&mut self, statement: &str) {
        self.0.push_str(statement);
        self.0.push_str(";\n");
    }

    /// A statement about the database it is run in, which is `%I` in it.
    fn push_database(&mut self, statement: &str) {
        let format = format!(
            "BEGIN EXECUTE pg_catalog.format({}, pg_catalog.current_database()); END",
            literal(statement)
        );
        self.push(&format!("DO {}", literal(&format)));
    }
}

/// For a part of a statement that [`Statements::push_database`] takes.
fn percent(text: &str) -> String {
    text.replace('%', "%%")
}

async fn roles(catalog: &Catalog<'_>, out: &mut Statements) -> Result<()> {
    let sql = format!(
        "SELECT r.oid, {}, r.rolsuper, r.rolinherit, r.rolcreaterole, r.rolcreatedb, r.rolcanlogin, r.rolreplication,
                r.rolbypassrls, r.rolconnlimit, r.rolvaliduntil::text, {}
         FROM pg_catalog.pg_roles r WHERE r.rolname !~ '^pg_' ORDER BY r.rolname COLLATE \"C\"",
        catalog.bytes("r.rolname"),
        catalog.bytes("pg_catalog.shobj_description(r.oid, 'pg_authid')"),
    );
    for row in catalog.rows("roles", &sql, &[]).await? {
        let oid: u32 = get(&row, 0)?;
        let name: &[u8] = get(&row, 1)?;
        let role = quote(name)?;
        // Every cluster has the one that initdb makes, by this name if nobody chose another.
        if oid != BOOTSTRAP || name != b"postgres" {
            out.push(&format!("CREATE ROLE {role}"));
        }
        let mut words = Vec::new();
        let attributes = [
            (2, "SUPERUSER"),
            (3, "INHERIT"),
            (4, "CREATEROLE"),
            (5, "CREATEDB"),
            (6, "LOGIN"),
            (7, "REPLICATION"),
            (8, "BYPASSRLS"),
        ];
        for (index, word) in attributes {
            words.push(if get(&row, index)? {
                word.to_owned()
            } else {
                format!("NO{word}")
            });
        }
        let connections: i32 = get(&row, 9)?;
        if connections != -1 {
            words.push(format!("CONNECTION LIMIT {connections}"));
        }
        if let Some(until) = get::<Option<&str>>(&row, 10)? {
            words.push(format!("VALID UNTIL {}", literal(until)));
        }
        out.push(&format!("ALTER ROLE {role} WITH {}", words.join(" ")));
        if let Some(comment) = get::<Option<&[u8]>>(&row, 11)? {
            out.push(&format!("COMMENT ON ROLE {role} IS {}", literal(&text(comment))));
        }
    }
    Ok(())
}

async fn memberships(catalog: &Catalog<'_>, out: &mut Statements) -> Result<()> {
    // Since 16 a membership may be granted several times, by several grantors: what any of them allows is allowed.
    let options = if catalog.version >= 160_000 {
        "pg_catalog.bool_or(m.admin_option), pg_catalog.bool_or(m.inherit_option), pg_catalog.bool_or(m.set_option)"
    } else {
        "pg_catalog.bool_or(m.admin_option), NULL::bool, NULL::bool"
    };
    let sql = format!(
        "SELECT {}, {}, {options} FROM pg_catalog.pg_auth_members m
         JOIN pg_catalog.pg_roles r ON r.oid = m.roleid JOIN pg_catalog.pg_roles u ON u.oid = m.member
         WHERE NOT (r.rolname ~ '^pg_' AND u.rolname ~ '^pg_')
         GROUP BY r.rolname, u.rolname ORDER BY r.rolname COLLATE \"C\", u.rolname COLLATE \"C\"",
        catalog.bytes("r.rolname"),
        catalog.bytes("u.rolname"),
    );
    for row in catalog.rows("memberships of roles", &sql, &[]).await? {
        let mut words = Vec::new();
        if get(&row, 2)? {
            words.push("ADMIN OPTION");
        }
        match get::<Option<bool>>(&row, 3)? {
            Some(true) => words.push("INHERIT TRUE"),
            Some(false) => words.push("INHERIT FALSE"),
            None => {}
        }
        if get::<Option<bool>>(&row, 4)? == Some(false) {
            words.push("SET FALSE");
        }
        let options = if words.is_empty() {
            String::new()
        } else {
            format!(" WITH {}", words.join(", "))
        };
        let (role, member) = (quote(get(&row, 0)?)?, quote(get(&row, 1)?)?);
        out.push(&format!("GRANT {role} TO {member}{options}"));
    }
    Ok(())
}

/// Rights to change settings of the server; since 15.
async fn parameters(catalog: &Catalog<'_>, out: &mut Statements) -> Result<()> {
    if catalog.version < 150_000 {
        return Ok(());
    }
    let from = "pg_catalog.pg_parameter_acl p";
    let sql = exploded(catalog, "p.parname", "p.paracl", from);
    let lists = AccessList::read(catalog, "rights on parameters", &sql, &[]).await?;
    let sql = exploded(
        catalog,
        "p.parname",
        &format!("pg_catalog.acldefault('p', {BOOTSTRAP}::pg_catalog.oid)"),
        from,
    );
    let defaults = AccessList::read(catalog, "rights on parameters", &sql, &[]).await?;
    let none = AccessList::default();
    for (name, list) in &lists {
        let object = format!("PARAMETER {}", quote(name)?);
        for statement in list.statements(defaults.get(name).unwrap_or(&none), &object)? {
            out.push(&statement);
        }
    }
    Ok(())
}

/// Security labels of roles and of the database.
async fn labels(catalog: &Catalog<'_>, out: &mut Statements) -> Result<()> {
    let sql = format!(
        "SELECT {}, {}, {} FROM pg_catalog.pg_shseclabel l
         LEFT JOIN pg_catalog.pg_roles r ON r.oid = l.objoid AND l.classoid = 'pg_catalog.pg_authid'::pg_catalog.regclass
         LEFT JOIN pg_catalog.pg_database d ON d.oid = l.objoid AND l.classoid = 'pg_catalog.pg_database'::pg_catalog.regclass
         WHERE r.rolname !~ '^pg_' OR d.datname = pg_catalog.current_database()
         ORDER BY r.rolname COLLATE \"C\", l.provider COLLATE \"C\"",
        catalog.bytes("r.rolname"),
        catalog.bytes("l.provider"),
        catalog.bytes("l.label"),
    );
    for row in catalog.rows("security labels", &sql, &[]).await? {
        let (provider, label) = (quote(get(&row, 1)?)?, literal(&text(get(&row, 2)?)));
        match get::<Option<&[u8]>>(&row, 0)? {
            Some(role) => out.push(&format!(
                "SECURITY LABEL FOR {provider} ON ROLE {} IS {label}",
                quote(role)?
            )),
            None => out.push_database(&format!(
                "SECURITY LABEL FOR {} ON DATABASE %I IS {}",
                percent(&provider),
                percent(&label)
            )),
        }
    }
    Ok(())
}

/// Privileges, comment and limit of the database. Its owner is the restore's to choose.
async fn database(catalog: &Catalog<'_>, out: &mut Statements) -> Result<()> {
    let here = "pg_catalog.pg_database d";
    let exploded = |list: &str| {
        let sql = exploded(catalog, "d.datname", list, here);
        sql + " AND d.datname = pg_catalog.current_database()"
    };
    let default = "pg_catalog.acldefault('d', d.datdba)";
    let what = "rights on the database";
    let lists = AccessList::read(
        catalog,
        what,
        &exploded(&format!("COALESCE(d.datacl, {default})")),
        &[],
    )
    .await?;
    let defaults = AccessList::read(catalog, what, &exploded(default), &[]).await?;
    let none = AccessList::default();
    for (name, list) in &defaults {
        for statement in lists.get(name).unwrap_or(&none).statements(list, "DATABASE \0")? {
            out.push_database(&percent(&statement).replace('\0', "%I"));
        }
    }
    let sql = format!(
        "SELECT {}, d.datconnlimit FROM {here} WHERE d.datname = pg_catalog.current_database()",
        catalog.bytes("pg_catalog.shobj_description(d.oid, 'pg_database')"),
    );
    let row = catalog.row("the database", &sql).await?;
    if let Some(comment) = get::<Option<&[u8]>>(&row, 0)? {
        let comment = percent(&literal(&text(comment)));
        out.push_database(&format!("COMMENT ON DATABASE %I IS {comment}"));
    }
    let connections: i32 = get(&row, 1)?;
    if connections != -1 {
        out.push_database(&format!("ALTER DATABASE %I CONNECTION LIMIT {connections}"));
    }
    Ok(())
}

/// Settings of roles, of the database, and of roles in the database.
async fn settings(catalog: &Catalog<'_>, out: &mut Statements) -> Result<()> {
    let sql = format!(
        "SELECT {}, s.setrole <> 0, s.setdatabase <> 0, {}
         FROM pg_catalog.pg_db_role_setting s LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
         LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase, pg_catalog.unnest(s.setconfig) WITH ORDINALITY c (setting, n)
         WHERE (s.setrole = 0 OR r.oid IS NOT NULL) AND (s.setdatabase = 0 OR d.datname = pg_catalog.current_database())
         ORDER BY s.setdatabase <> 0, r.rolname COLLATE \"C\" NULLS FIRST, c.n",
        catalog.bytes("r.rolname"),
        catalog.bytes("c.setting"),
    );
    for row in catalog.rows("settings", &sql, &[]).await? {
        push_setting(&row, out)?;
    }
    Ok(())
}

fn push_setting(row: &Row, out: &mut Statements) -> Result<()> {
    let setting = text(get(row, 3)?);
    let Some((name, value)) = setting.split_once('=') else {
        return Ok(());
    };
    // A name with dots, as extensions and users have them, may stand in quotes as a whole.
    let set = format!("SET {} TO {}", quote(name.as_bytes())?, value_of(name, value));
    let (of_role, in_database): (bool, bool) = (get(row, 1)?, get(row, 2)?);
    let role = match get::<Option<&[u8]>>(row, 0)? {
        Some(role) if of_role => quote(role)?,
        _ => "ALL".to_owned(),
    };
    match (of_role, in_database) {
        (_, false) => out.push(&format!("ALTER ROLE {role} {set}")),
        (false, true) => out.push_database(&format!("ALTER DATABASE %I {}", percent(&set))),
        (true, true) => out.push_database(&format!(
            "ALTER ROLE {} IN DATABASE %I {}",
            percent(&role),
            percent(&set)
        )),
    }
    Ok(())
}

fn value_of(name: &str, value: &str) -> String {
    let is_list = LISTS.iter().any(|list| list.eq_ignore_ascii_case(name));
    match elements(value) {
        Some(names) if is_list => names
            .iter()
            .map(|name| literal(name))
            .collect::<Vec<_>>()
            .join(", "),
        _ => literal(value),
    }
}

/// The elements of a stored list: names with commas between, in quotes where needed. An empty list is one empty name.
fn elements(list: &str) -> Option<Vec<String>> {
    let mut out = Vec::new();
    let mut rest = list.trim();
    if rest.is_empty() {
        return Some(vec![String::new()]);
    }
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut name = String::new();
            let mut behind = quoted;
            loop {
                let (before, after) = behind.split_once('"')?;
                name.push_str(before);
                behind = after;
                match behind.strip_prefix('"') {
                    Some(more) => {
                        name.push('"');
                        behind = more;
                    }
                    None => break,
                }
            }
            out.push(name);
            rest = behind.trim_start();
        } else {
            let end = rest
                .find(|c: char| c == ',' || c.is_ascii_whitespace())
                .unwrap_or(rest.len());
            let (name, behind) = rest.split_at_checked(end)?;
            if name.is_empty() {
                return None;
            }
            out.push(name.to_owned());
            rest = behind.trim_start();
        }
        match rest.strip_prefix(',') {
            Some(more) => rest = more.trim_start(),
            None => return rest.is_empty().then_some(out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_are_lists_are_set_name_by_name() {
        assert_eq!(value_of("search_path", "\"$user\", public"), "'$user', 'public'");
        assert_eq!(
            value_of("search_path", "\"a, \"\"b\"\"\", Weird"),
            "'a, \"b\"', 'Weird'"
        );
        assert_eq!(value_of("search_path", ""), "''");
        assert_eq!(value_of("search_path", "\"\""), "''");
        // What cannot be taken apart is set as it is.
        assert_eq!(value_of("search_path", "a b"), "'a b'");
        assert_eq!(value_of("app.list", "a, b"), "'a, b'");
        assert_eq!(value_of("log_line_prefix", "it's \\ %m"), "E'it''s \\\\ %m'");
    }

    #[test]
    fn a_statement_about_the_database_survives_two_layers_of_quotes() {
        let mut out = Statements::default();
        out.push_database(&format!(
            "COMMENT ON DATABASE %I IS {}",
            percent(&literal("50 % of 'it'"))
        ));
        assert_eq!(
            out.0,
            "DO 'BEGIN EXECUTE pg_catalog.format(''COMMENT ON DATABASE %I IS ''''50 %% of ''''''''it'''''''''''''', \
             pg_catalog.current_database()); END';\n"
        );
    }
}
