//! What changes the text of rows that nobody touched changes the signature of their table, and what prints names of other things is
//! never compared.

use super::{all, begin, session};
use holdall::connector::postgres::catalog::Filter;
use holdall::connector::postgres::connect::Connection;
use holdall::testkit::PostgresServer;

const TABLES: &str = r#"
CREATE EXTENSION citext; CREATE EXTENSION hstore; CREATE EXTENSION isn;
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE TYPE pair AS (a int, b mood);
CREATE TYPE span AS RANGE (subtype = timestamptz);
CREATE DOMAIN small AS pair CHECK (true);
CREATE TABLE of_enum (m mood); CREATE TABLE of_array (m mood[]); CREATE TABLE nested (p small[]);
CREATE TABLE of_span (s span, m tstzmultirange); CREATE TABLE of_citext (c citext, h hstore);
CREATE TABLE plain (a int, b text COLLATE "C", gone int); CREATE TABLE of_row (p plain);
CREATE TABLE quiet (a int, b numeric(5,2), c int4range, d money, e uuid);
CREATE TABLE of_class (c regclass); CREATE DOMAIN who AS regrole; CREATE TYPE owned AS (w who);
CREATE TABLE of_nested_role (o owned[]); CREATE TABLE of_isn (i isbn); CREATE TABLE of_acl (a aclitem[]);
CREATE TABLE defaulted (a int); CREATE TABLE generated_only (a int, c text GENERATED ALWAYS AS ('x') STORED);
"#;

/// Each table's signature.
async fn signatures(connection: &Connection) -> Vec<(String, [u8; 32])> {
    begin(connection).await;
    let (tables, _) = all(connection, &Filter::default()).await.unwrap();
    tables
        .into_iter()
        .map(|t| (t.name.to_string().replace("public.", ""), t.signature))
        .collect()
}

#[tokio::test]
async fn whatever_changes_the_text_of_rows_changes_the_signature_and_nothing_else_does() {
    let server = PostgresServer::start(15, "").unwrap();
    server.psql("postgres", TABLES).unwrap();
    let connection = session(&server.url("postgres")).await;
    let cases: &[(&str, &[&str])] = &[
        (
            "INSERT INTO plain VALUES (1); ANALYZE; GRANT SELECT ON plain TO PUBLIC",
            &[],
        ),
        (
            "ALTER TABLE plain ALTER a SET DEFAULT 7, ALTER a SET STATISTICS 10",
            &[],
        ),
        (
            "ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'",
            &["nested", "of_array", "of_enum"],
        ),
        (
            "ALTER TYPE mood RENAME VALUE 'blue' TO 'x'; ALTER TYPE mood RENAME VALUE 'x' TO 'blue'",
            &["nested", "of_array", "of_enum"],
        ),
        (
            "ALTER TYPE mood ADD VALUE 'mad'",
            &["nested", "of_array", "of_enum"],
        ),
        ("ALTER TYPE pair ADD ATTRIBUTE c int", &["nested"]),
        ("ALTER TABLE plain ADD COLUMN d int", &["of_row", "plain"]),
        ("ALTER TABLE defaulted ADD COLUMN d int DEFAULT 7", &["defaulted"]),
        ("ALTER TABLE plain DROP COLUMN gone", &["of_row", "plain"]),
        (
            "ALTER TABLE plain RENAME COLUMN a TO renamed",
            &["of_row", "plain"],
        ),
        ("ALTER TABLE quiet ALTER b TYPE numeric(7,2)", &["quiet"]),
        (
            "ALTER TABLE quiet ALTER a SET NOT NULL, ALTER a ADD GENERATED ALWAYS AS IDENTITY",
            &["quiet"],
        ),
        (
            "UPDATE pg_extension SET extversion = '99' WHERE extname = 'citext'",
            &["of_citext"],
        ),
        (
            "ALTER TABLE generated_only ALTER c DROP EXPRESSION",
            &["generated_only"],
        ),
    ];
    let mut before = signatures(&connection).await;
    for (change, expected) in cases {
        // Some of it cannot run in one transaction.
        for statement in change.split("; ") {
            server.psql("postgres", statement).unwrap();
        }
        let after = signatures(&connection).await;
        let changed = before
            .iter()
            .zip(&after)
            .filter(|(b, a)| b.1 != a.1)
            .map(|(b, _)| b.0.as_str());
        assert_eq!(changed.collect::<Vec<_>>(), *expected, "{change}");
        before = after;
    }
    // Of the same columns, two tables have the same signature; another server's oids are not looked at.
    assert_eq!(signatures(&connection).await, before);
}

#[tokio::test]
async fn values_that_name_other_things_are_never_compared() {
    let server = PostgresServer::start(15, "").unwrap();
    server.psql("postgres", TABLES).unwrap();
    server
        .psql(
            "postgres",
            "CREATE ACCESS METHOD other TYPE TABLE HANDLER heap_tableam_handler; CREATE TABLE elsewhere (a int) USING other",
        )
        .unwrap();
    let connection = session(&server.url("postgres")).await;
    let (tables, _) = all(&connection, &Filter::default()).await.unwrap();
    let refused: Vec<(String, &str)> = tables
        .iter()
        .filter_map(|t| {
            t.comparable
                .as_ref()
                .err()
                .map(|why| (t.name.to_string(), why.as_str()))
        })
        .collect();
    let part = "the text of type";
    let expected = [
        ("public.elsewhere", "access method is other"),
        ("public.of_acl", part),
        ("public.of_class", part),
        ("public.of_isn", "not known to print"),
        ("public.of_nested_role", part),
    ];
    assert_eq!(refused.len(), expected.len(), "{refused:?}");
    for ((name, why), (expected_name, expected_why)) in refused.iter().zip(expected) {
        assert!(
            name == expected_name && why.contains(expected_why),
            "{name}: {why}"
        );
    }
}
