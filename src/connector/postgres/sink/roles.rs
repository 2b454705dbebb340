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
    /// It is about roles that are there already.
    Keep,
}

/// Decides about a statement of `0-globals`. `there` are the roles of the target before the restore; what names the database `source`
/// is made to name `target`.
pub(super) fn decide(sql: &str, there: &BTreeSet<String>, source: &str, target: &str) -> Fate {
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
        assert_eq!(
            decide("ALTER ROLE postgres IN DATABASE shop SET a TO 'DATABASE shop';"),
            run("ALTER ROLE postgres IN DATABASE \"copy of shop\" SET a TO 'DATABASE shop';")
        );
        assert_eq!(
            decide("ALTER DATABASE \"shop\" SET a TO 'b';"),
            run("ALTER DATABASE \"copy of shop\" SET a TO 'b';")
        );
        same("ALTER DATABASE other SET a TO 'b';");
    }
}
