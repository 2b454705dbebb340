//! Roles and settings of the cluster: what of `0-globals` is run, and in which words.
//!
//! Roles that the target has stay as they are. Those it lacks are made, without passwords: no snapshot holds any.

use crate::connector::postgres::name::quote;
use crate::connector::postgres::statement::{Word, words};
use std::collections::BTreeSet;

/// What becomes of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is run, perhaps in other words.
    Run(String),
    /// It is run, and makes this role.
    Create(String, String),
    /// It is run when everything else is done: sessions that begin before it would work under it.
    Later(String),
    /// It is about roles that are there already.
    Keep,
}

/// Decides about a statement of `0-globals`. `there` are the roles of the target before the restore; what names the database `source`
/// is made to name `target`.
pub(super) fn decide(sql: &str, there: &BTreeSet<String>, source: &str, target: &str) -> Fate {
    if limits_sessions(sql) {
        return Fate::Later(renamed(sql, source, target));
    }
    let found = words(sql);
    let is = |index: usize, word: &str| found.get(index).is_some_and(|w| w.is(word));
    let role = |index: usize| found.get(index).and_then(Word::identifier);
    let known = |index: usize| role(index).is_some_and(|name| there.contains(&name));
    let about_role = is(1, "role") || is(1, "user");
    if is(0, "create") && about_role {
        if known(2) {
            return Fate::Keep;
        }
        if let Some(name) = role(2) {
            return Fate::Create(name, plain(sql, &found));
        }
    }
    if is(0, "alter") && about_role {
        // Settings for one database belong to the database, which is new.
        let of_database = is(3, "in") && is(4, "database");
        // `ALTER ROLE ALL SET …` is about every role of the target and every database.
        if (known(2) || is(2, "all")) && !of_database {
            return Fate::Keep;
        }
        let sql = plain(sql, &found);
        return Fate::Run(renamed(&sql, source, target));
    }
    if is(0, "comment") && is(2, "role") && known(3) {
        return Fate::Keep;
    }
    // Labels of old roles, and what old roles or everyone may set in the whole cluster, are the target's own affair.
    let at = |word: &str| found.iter().position(|w| w.is(word));
    if is(0, "security") && at("role").is_some_and(|role| known(role + 1)) {
        return Fate::Keep;
    }
    if at("parameter").is_some_and(|parameter| parameter > 0 && is(parameter - 1, "on")) {
        let grantee = at("to").or_else(|| at("from")).map_or(usize::MAX, |at| at + 1);
        if known(grantee) || is(grantee, "public") {
            return Fate::Keep;
        }
    }
    // GRANT role TO member: of two roles that were there, neither changes.
    if (is(0, "grant") || is(0, "revoke")) && (is(2, "to") || is(2, "from")) && known(1) && known(3) {
        return Fate::Keep;
    }
    Fate::Run(renamed(sql, source, target))
}

/// Whether a statement sets how sessions of the database begin, or how many there may be. Settings with a dot in their name are the
/// users' own, which functions of the schema may ask for: they stand in nobody's way.
fn limits_sessions(sql: &str) -> bool {
    let within = of_any_database(sql);
    let sql = within.as_deref().unwrap_or(sql);
    let found = words(sql);
    let is = |index: usize, word: &str| found.get(index).is_some_and(|w| w.is(word));
    if !is(0, "alter") {
        return false;
    }
    let at = match () {
        () if is(1, "database") => 3,
        () if (is(1, "role") || is(1, "user")) && is(3, "in") && is(4, "database") => 6,
        () => return false,
    };
    let own = found
        .get(at + 1)
        .and_then(Word::identifier)
        .is_some_and(|name| name.contains('.'))
        || found.get(at + 2).is_some_and(|word| word.is_symbol("."));
    is(at, "connection") || is(at, "with") || is(at, "set") && !own
}

/// What a `DO` runs that puts in the name of the database it runs in; the name is `x` here.
fn of_any_database(sql: &str) -> Option<String> {
    let found = words(sql);
    let [start, body, ..] = found.as_slice() else {
        return None;
    };
    if !start.is("do") {
        return None;
    }
    let body = body.value();
    let inner = words(&body);
    let format = inner.iter().position(|word| word.is("format"))?;
    let statement = inner.get(format + 2)?.value();
    Some(statement.replace("%I", "x").replace("%%", "%"))
}

/// Without the words that take from a role what a new one does not have: only a superuser may say them.
fn plain(sql: &str, found: &[Word<'_>]) -> String {
    let without = ["nosuperuser", "noreplication", "nobypassrls"];
    let mut out = String::with_capacity(sql.len());
    let mut at = 0;
    for word in found.iter().filter(|word| without.iter().any(|w| word.is(w))) {
        out.push_str(sql.get(at..word.start).unwrap_or_default());
        at = word.end;
    }
    out.push_str(sql.get(at..).unwrap_or_default());
    out
}

/// With the target's name where a statement names the database of the snapshot.
fn renamed(sql: &str, source: &str, target: &str) -> String {
    let Ok(quoted) = quote(target.as_bytes()) else {
        return sql.to_owned();
    };
    let found = words(sql);
    let pairs = found.iter().zip(found.iter().skip(1));
    let hit = pairs
        .filter(|(before, _)| before.is("database"))
        .find(|(_, name)| name.identifier().is_some_and(|name| name == source));
    match hit {
        Some((_, name)) => format!(
            "{}{quoted}{}",
            sql.get(..name.start).unwrap_or_default(),
            sql.get(name.end..).unwrap_or_default()
        ),
        None => sql.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connector::postgres::name::literal;

    #[test]
    fn roles_that_are_there_stay_and_new_ones_take_no_words_of_superusers() {
        let there: BTreeSet<String> = ["postgres", "A b"].map(str::to_owned).into();
        let decide = |sql: &str| decide(sql, &there, "shop", "copy of shop");
        let run = |sql: &str| Fate::Run(sql.to_owned());
        let same = |sql: &str| assert_eq!(decide(sql), run(sql));
        for kept in [
            "CREATE ROLE postgres;",
            "CREATE ROLE \"A b\";",
            "ALTER ROLE postgres WITH SUPERUSER;",
            "ALTER ROLE postgres SET work_mem TO '1MB';",
            "GRANT postgres TO \"A b\" WITH ADMIN OPTION;",
            "ALTER ROLE ALL SET lock_timeout TO '10s';",
            "SECURITY LABEL FOR 'p' ON ROLE postgres IS 'x';",
            "GRANT SET ON PARAMETER work_mem TO postgres;",
            "REVOKE SET ON PARAMETER work_mem FROM PUBLIC;",
        ] {
            assert_eq!(decide(kept), Fate::Keep, "{kept}");
        }
        assert_eq!(
            decide("CREATE ROLE \"new;\" NOSUPERUSER;"),
            Fate::Create("new;".into(), "CREATE ROLE \"new;\" ;".into())
        );
        assert_eq!(
            decide("ALTER ROLE n WITH NOSUPERUSER INHERIT NOREPLICATION LOGIN NOBYPASSRLS;"),
            run("ALTER ROLE n WITH  INHERIT  LOGIN ;")
        );
        same("ALTER ROLE n SET search_path TO 'NOSUPERUSER';");
        same("GRANT n TO postgres;");
        same("GRANT SET ON PARAMETER work_mem TO n;");
        same("ALTER ROLE \"all\" SET work_mem TO '1MB';");
        let later = |sql: &str| Fate::Later(sql.to_owned());
        assert_eq!(
            decide("ALTER ROLE postgres IN DATABASE shop SET a TO 'DATABASE shop';"),
            later("ALTER ROLE postgres IN DATABASE \"copy of shop\" SET a TO 'DATABASE shop';")
        );
        assert_eq!(
            decide("ALTER DATABASE \"shop\" SET a TO 'b';"),
            later("ALTER DATABASE \"copy of shop\" SET a TO 'b';")
        );
        let other = "ALTER DATABASE other SET a TO 'b';";
        assert_eq!(decide(other), later(other));
    }

    #[test]
    fn what_sessions_begin_with_comes_last_and_what_functions_ask_for_does_not() {
        let wrapped = |statement: &str| {
            let format = literal(statement);
            let body =
                format!("BEGIN EXECUTE pg_catalog.format({format}, pg_catalog.current_database()); END");
            format!("DO {};", literal(&body))
        };
        for sql in [
            "ALTER DATABASE %I SET \"default_transaction_read_only\" TO 'on'",
            "ALTER DATABASE %I SET \"search_path\" TO 'a%%b', E'it''s \\\\'",
            "ALTER DATABASE %I CONNECTION LIMIT 3",
            "ALTER ROLE \"a b\" IN DATABASE %I SET \"statement_timeout\" TO '1'",
        ] {
            assert!(limits_sessions(&wrapped(sql)), "{sql}");
        }
        for sql in [
            "ALTER DATABASE %I SET \"app.secret\" TO 'x'",
            "COMMENT ON DATABASE %I IS 'ALTER DATABASE x SET y'",
            "GRANT CONNECT ON DATABASE %I TO PUBLIC",
        ] {
            assert!(!limits_sessions(&wrapped(sql)), "{sql}");
        }
        assert!(!limits_sessions("ALTER DATABASE shop SET app.secret TO 'x';"));
        assert!(!limits_sessions("ALTER ROLE n SET statement_timeout TO '1';"));
    }
}
