//! Filters choose what `pg_dump` chooses with the same patterns.

use super::{all, names, pg_dump_copies, session};
use holdall::connector::postgres::catalog::Filter;
use holdall::error::ErrorKind;
use holdall::testkit::PostgresServer;

const TABLES: &str = r#"
CREATE SCHEMA app; CREATE SCHEMA "App"; CREATE SCHEMA app2; CREATE SCHEMA "dot.ted"; CREATE SCHEMA auth; CREATE SCHEMA storage;
CREATE TABLE public.orders (); CREATE TABLE public.orders_old (); CREATE TABLE public."Orders" ();
CREATE TABLE public."or.ders" (); CREATE TABLE public."pri$ce" (); CREATE TABLE public."st*r" (); CREATE TABLE public.star ();
CREATE TABLE app.orders (); CREATE TABLE "App".orders (); CREATE TABLE app2.items (); CREATE TABLE "dot.ted".t1 ();
CREATE TABLE auth.users (); CREATE TABLE storage.objects (); CREATE VIEW public.a_view AS SELECT 1;
CREATE TABLE app.parted (a int) PARTITION BY LIST (a); CREATE TABLE app.parted_1 PARTITION OF app.parted DEFAULT;
ALTER ROLE postgres SET search_path = app, public;
"#;

fn filter(lists: [&[&str]; 4]) -> Filter {
    let [schemas, exclude_schemas, tables, exclude_tables] =
        lists.map(|list| list.iter().map(|&p| p.to_owned()).collect());
    Filter {
        schemas,
        exclude_schemas,
        tables,
        exclude_tables,
        user_schemas_only: false,
    }
}

#[tokio::test]
async fn patterns_choose_what_pg_dump_chooses() {
    let server = PostgresServer::start(15, "").unwrap();
    server.psql("postgres", TABLES).unwrap();
    let connection = session(&server.url("postgres")).await;
    let cases: &[[&[&str]; 4]] = &[
        [&[], &[], &[], &[]],
        [&["app"], &[], &[], &[]],
        [&["APP"], &[], &[], &[]],
        [&["\"App\""], &[], &[], &[]],
        [&["app*"], &["app2"], &[], &[]],
        [&["app?", "\"dot.ted\""], &[], &[], &[]],
        [&["a(pp|uth)"], &[], &[], &[]],
        [&[], &["app", "no_such"], &[], &[]],
        // Without a schema: what the role's search_path finds, `app.orders` before `public.orders`.
        [&[], &[], &["orders"], &[]],
        [&[], &[], &["orders*"], &[]],
        [&[], &[], &["\"Orders\""], &[]],
        [&[], &[], &["*.orders"], &[]],
        [&[], &[], &["\"or.ders\""], &[]],
        [&[], &[], &["pri$ce"], &[]],
        [&[], &[], &["\"st*r\""], &[]],
        [&[], &[], &["st*r"], &[]],
        [&[], &[], &["public.\"Or\"*"], &[]],
        [&[], &[], &["postgres.public.orders"], &[]],
        // Named tables are kept whatever the schemas are.
        [&["auth"], &["public"], &["public.orders"], &[]],
        [&["public"], &[], &[], &["orders*", "public.st?r"]],
        [&[], &[], &["public.*"], &["public.orders"]],
        [&[], &[], &["app.parted*"], &[]],
    ];
    for case in cases {
        let filter = filter(*case);
        let kept = names(&connection, &filter).await.unwrap();
        let arguments = filter.arguments();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let copies = pg_dump_copies(&server, "postgres", &arguments);
        let line = |name: &String| match name.as_str() {
            "app.parted_1" => "COPY app.parted_1 (a) FROM stdin;".to_owned(),
            // A dollar sign needs no quotes, but pg_dump writes them.
            "public.pri$ce" => "COPY public.\"pri$ce\"  FROM stdin;".to_owned(),
            name => format!("COPY {name}  FROM stdin;"),
        };
        let mut expected: Vec<String> = kept.iter().map(line).collect();
        expected.sort();
        assert_eq!(expected, copies, "{case:?}");
        assert!(!kept.is_empty(), "{case:?}");
    }
    // Afterwards the session is as it was.
    let row = connection
        .client()
        .query_one("SHOW search_path", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, &str>(0).replace('"', ""), "");
}

#[tokio::test]
async fn a_pattern_that_matches_nothing_is_an_error_that_names_it() {
    let server = PostgresServer::start(15, "").unwrap();
    server.psql("postgres", TABLES).unwrap();
    let connection = session(&server.url("postgres")).await;
    let nothing: [[&[&str]; 4]; 6] = [
        [&["app", "ap"], &[], &[], &[]],
        [&["pg_catalog"], &[], &[], &[]],
        [&[""], &[], &[], &[]],
        [&[], &[], &["orders", "no_such"], &[]],
        [&[], &[], &["app.orders_old"], &[]],
        [&[], &[], &["t1"], &[]],
    ];
    for case in nothing {
        let error = names(&connection, &filter(case)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{case:?}");
        let pattern = case[0].last().or(case[2].last()).unwrap();
        assert_eq!(error.context("pattern"), Some(*pattern));
    }
    for wrong in ["a(b", "a.b.c.d", "other.public.orders"] {
        super::begin(&connection).await;
        let error = names(&connection, &filter([&[], &[], &[wrong], &[]]))
            .await
            .unwrap_err();
        assert_eq!(
            (error.kind(), error.context("pattern")),
            (ErrorKind::Invalid, Some(wrong))
        );
    }
}

#[tokio::test]
async fn what_a_choice_does_not_do_is_told() {
    let server = PostgresServer::start(15, "").unwrap();
    server.psql("postgres", TABLES).unwrap();
    let connection = session(&server.url("postgres")).await;
    let (kept, rest) = all(&connection, &filter([&[], &["nothing"], &["app.parted"], &[]]))
        .await
        .unwrap();
    assert!(kept.is_empty());
    assert_eq!(rest.notes.len(), 2, "{:?}", rest.notes);
    assert!(rest.notes[0].contains("nothing"));
    assert!(rest.notes[1].contains("app.parted is partitioned"));
}

#[tokio::test]
async fn user_schemas_only_leaves_out_what_the_platform_manages() {
    let server = PostgresServer::start(15, "").unwrap();
    server.psql("postgres", TABLES).unwrap();
    let connection = session(&server.url("postgres")).await;
    let only = Filter {
        user_schemas_only: true,
        ..Filter::default()
    };
    let kept = names(&connection, &only).await.unwrap();
    let rest = |name: &&String| !name.starts_with("auth.") && !name.starts_with("storage.");
    let all = names(&connection, &Filter::default()).await.unwrap();
    assert_eq!(kept, all.iter().filter(rest).cloned().collect::<Vec<_>>());
    assert_eq!(kept.len() + 2, all.len());
}
