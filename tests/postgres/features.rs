//! A database that has everything, and what `pg_dump` says of one.

use holdall::testkit::PostgresServer;

/// Makes the roles that [`fill`] gives things to.
pub(crate) const ROLES: &str = "CREATE ROLE keeper; CREATE ROLE reader LOGIN; GRANT reader TO keeper;";

/// Makes the database `name` and everything in it; the roles are there.
pub(crate) fn fill(server: &PostgresServer, name: &str) {
    server
        .psql("postgres", &format!("CREATE DATABASE {name}"))
        .unwrap();
    server.psql(name, include_str!("features.sql")).unwrap();
}

/// What `pg_dump` writes of a database, without the lines that are different each time.
pub(crate) fn dump(server: &PostgresServer, name: &str, arguments: &[&str]) -> String {
    let url = server.url(name);
    let output = server
        .run("pg_dump", &[arguments, &["-d", &url]].concat())
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let same = |line: &&str| !line.starts_with("\\restrict ") && !line.starts_with("\\unrestrict ");
    text.lines().filter(same).flat_map(|line| [line, "\n"]).collect()
}

/// Fails with the first lines that differ.
pub(crate) fn assert_same(left: &str, right: &str) {
    let pairs = left.lines().zip(right.lines()).enumerate();
    for (number, (a, b)) in pairs {
        assert_eq!(a, b, "line {number}");
    }
    assert_eq!(left.lines().count(), right.lines().count());
}

/// A dump with the rows of each table sorted: which of several connections was first decides their order.
pub(crate) fn sorted(dump: &str) -> String {
    let (mut out, mut rows): (Vec<&str>, Option<Vec<&str>>) = (Vec::new(), None);
    for line in dump.lines() {
        match &mut rows {
            Some(found) if line != "\\." => found.push(line),
            Some(found) => {
                found.sort_unstable();
                out.append(found);
                out.push(line);
                rows = None;
            }
            None => {
                out.push(line);
                if line.starts_with("COPY ") && line.ends_with(" FROM stdin;") {
                    rows = Some(Vec::new());
                }
            }
        }
    }
    out.join("\n")
}
