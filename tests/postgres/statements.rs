//! SQL text cut into statements.

use bytes::Bytes;
use futures::SinkExt;
use holdall::connector::postgres::statement::{Kind, Scanner};
use holdall::context::Context;
use holdall::error::ErrorKind;
use holdall::testkit::PostgresServer;
use holdall::testkit::arbitrary::Gen;
use holdall::testkit::fuzz::pieces_of;

/// The pieces that are no white space, as their kinds and texts.
fn cut(text: &str) -> Vec<(Kind, String)> {
    let (pieces, whole) = pieces_of(text.as_bytes(), || 7);
    assert!(whole, "{text}");
    let solid = pieces.into_iter().filter(|piece| piece.kind != Kind::Blank);
    solid
        .map(|piece| (piece.kind, String::from_utf8(piece.text.to_vec()).unwrap()))
        .collect()
}

/// Statements that each stay whole, whatever follows.
const WHOLE: &[&str] = &[
    "SELECT 'a;b', 'it''s;', \"c;\"\"d\";",
    "SELECT E'it\\'s;', e'\\\\', E'a'\n  'b\\';' -- c;\n  'd\\';';",
    "SELECT 'a'\n'b\\', 'c';",
    "SELECT 'back\\', 1;",
    "SELECT B'1', X'ff', N'n', U&'d\\0061t\\;', U&\"d\\0061\";",
    "SELECT bE'x' , some_e'\\';",
    "SELECT $$;$$, $a$ $$ ; $b$ $a$, $a$$a$, $ü_1$;$ü_1$;",
    "SELECT $a$ $ $a $b$a$;",
    "SELECT a$b$c;",
    "SELECT $1, $2;",
    "SELECT 1 /* ; /* ; */ ' ; */, 2 -- ; '\n;",
    "SELECT 1 -- ; '\r, 2;",
    "SELECT 1*/* ; */2, 3 - -1, 4 / 2;",
    "CREATE RULE r AS ON INSERT TO t DO (INSERT INTO a VALUES (1); DELETE FROM b;);",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT CASE WHEN true THEN 2 END; END;",
    "CREATE OR REPLACE PROCEDURE p() BEGIN /* x */ ATOMIC DELETE FROM t; SELECT 1 AS end, t.end, (CASE WHEN a THEN b END); END;",
    "CREATE FUNCTION public.begin() RETURNS int LANGUAGE sql AS $$SELECT 1$$;",
    "CREATE FUNCTION atomic(begin int) RETURNS int LANGUAGE sql AS 'SELECT 1; SELECT 2';",
    "CREATE TABLE x (\"from\" int, stdin int);",
    "COPY t TO stdout;",
    "COPY (SELECT a FROM stdin) TO STDOUT;",
    "COPY t FROM '/dev/stdin';",
    "CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $_$\n-- this is DATA\n\\restrict x\nCREATE TABLE \"x\";\nCOPY t FROM stdin;\n\\.\n$_$;",
    "BEGIN;",
    "END;",
    ";",
];

#[test]
fn statements_end_where_the_server_ends_them() {
    let mut g = Gen::new(1);
    for _ in 0..200 {
        let chosen: Vec<&str> = (0..5).map(|_| WHOLE[g.index(WHOLE.len())]).collect();
        let blanks = ["", "\n", "\r\n\t", " -- it's; $a$\n", "/* ; /* */ ' */"];
        let text: String = chosen
            .iter()
            .flat_map(|s| [blanks[g.index(blanks.len())], s])
            .collect();
        let expected: Vec<_> = chosen
            .iter()
            .map(|s| (Kind::Statement, (*s).to_owned()))
            .collect();
        assert_eq!(cut(&text), expected);
    }
}

#[test]
fn a_backslash_escapes_where_strings_are_not_standard() {
    let off = "SET standard_conforming_strings = off;";
    let on = "set session standard_conforming_strings to 'on';";
    let found = cut(&format!("{off}SELECT 'a\\';b';SELECT x'f\\';{on}SELECT 'a\\';"));
    let texts: Vec<&str> = found.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(
        texts,
        [off, "SELECT 'a\\';b';", "SELECT x'f\\';", on, "SELECT 'a\\';"]
    );
}

#[test]
fn data_and_meta_commands_are_pieces_of_their_own() {
    let text = "\\restrict a'b\nCOPY public.\"from\" (a) FROM stdin;\n1;'\n\\N\n\\.x\n\\.\n\n\\connect shop\nSELECT 1;\n\\unrestrict";
    let expected = [
        (Kind::Meta, "\\restrict a'b\n"),
        (Kind::Statement, "COPY public.\"from\" (a) FROM stdin;"),
        (Kind::CopyData, "1;'\n\\N\n\\.x\n"),
        (Kind::CopyEnd, "\\.\n"),
        (Kind::Meta, "\\connect shop\n"),
        (Kind::Statement, "SELECT 1;"),
        (Kind::Meta, "\\unrestrict"),
    ];
    assert_eq!(cut(text), expected.map(|(kind, text)| (kind, text.to_owned())));
    // A table without rows, line ends of Windows, data that were cut off.
    let empty = [
        (Kind::Statement, "COPY t FROM stdin;"),
        (Kind::CopyEnd, "\\.\r\n"),
    ];
    assert_eq!(
        cut("COPY t FROM stdin;\r\n\\.\r\n"),
        empty.map(|(kind, text)| (kind, text.to_owned()))
    );
    assert_eq!(
        cut("COPY t FROM stdin;\na\nb")[1..],
        [(Kind::CopyData, "a\nb".into())]
    );
}

#[test]
fn what_the_end_breaks_off_is_said() {
    for text in [
        "SELECT 'a",
        "SELECT \"a",
        "SELECT $a$ $b$",
        "SELECT 1 /* /* */",
        "SELECT (1;",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1;",
        "SELECT E'a\\",
    ] {
        assert_eq!(cut(text), [(Kind::Unfinished, text.to_owned())]);
    }
    assert_eq!(cut("SELECT 1"), [(Kind::Statement, "SELECT 1".to_owned())]);
}

#[test]
fn a_statement_beyond_the_limit_and_sql_behind_a_copy_are_refused() {
    let mut scanner = Scanner::with_limit(100);
    scanner.push(b"SELECT 1;\nSELECT 'a password");
    scanner.push(&[b'x'; 100]);
    assert_eq!(scanner.next().unwrap().unwrap().text, "SELECT 1;");
    assert_eq!(scanner.next().unwrap().unwrap().text, "\n");
    let error = scanner.next().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let said = error.to_string();
    assert!(
        said.contains("it begins SELECT '") && !said.contains("password"),
        "{said}"
    );
    let (_, whole) = pieces_of(b"COPY t FROM stdin; SELECT 1;\n1\n\\.\n", || 3);
    assert!(!whole);
}

#[test]
fn data_of_any_length_are_handed_on_in_parts() {
    let mut scanner = Scanner::with_limit(4 << 20);
    scanner.push(b"COPY t FROM stdin;\n");
    let mut bytes = 0;
    for _ in 0..200 {
        scanner.push(&vec![b'x'; 100_000]);
        while let Some(piece) = scanner.next().unwrap() {
            bytes += if piece.kind == Kind::CopyData {
                piece.text.len()
            } else {
                0
            };
        }
    }
    scanner.push(b"\n\\.\n");
    scanner.end();
    let mut last = None;
    while let Some(piece) = scanner.next().unwrap() {
        bytes += if piece.kind == Kind::CopyData {
            piece.text.len()
        } else {
            0
        };
        last = Some(piece.kind);
    }
    assert_eq!((bytes, last), (20_000_001, Some(Kind::CopyEnd)));
}

/// Objects whose text looks like what it is not.
const AWKWARD: &str = r#"
    CREATE TABLE "a;b" ("c'd" text, "e""f" text DEFAULT 'x;--', "\." text);
    INSERT INTO "a;b" VALUES (E'1;\n\\.\n$$', E'\\restrict x', '''');
    INSERT INTO "a;b" SELECT repeat(E'\\', n), NULL, '\.' FROM generate_series(1, 50) n;
    CREATE FUNCTION lines() RETURNS text LANGUAGE sql AS $_$ SELECT '
-- this is DATA
CREATE TABLE "x" (
\restrict abc
\.
COPY "a;b" FROM stdin;
/* '::text $_$;
    CREATE FUNCTION strings(a text DEFAULT ';') RETURNS text LANGUAGE plpgsql AS
        'BEGIN RETURN $$;$$ || a || E''\''''; END';
    CREATE FUNCTION atomic(x int) RETURNS int LANGUAGE sql BEGIN ATOMIC
        SELECT CASE WHEN x > 0 THEN CASE x WHEN 1 THEN 2 ELSE 3 END END AS "end";
        SELECT (SELECT count(*)::int FROM "a;b") AS "case";
    END;
    CREATE PROCEDURE p() LANGUAGE sql BEGIN ATOMIC DELETE FROM "a;b" WHERE false; INSERT INTO "a;b" VALUES (';'); END;
    CREATE RULE r AS ON UPDATE TO "a;b" DO ALSO (INSERT INTO "a;b" VALUES (';'); DELETE FROM "a;b" WHERE false);
    COMMENT ON TABLE "a;b" IS E'it''s;\n\\. $a$ /* -- ';
    COMMENT ON FUNCTION lines() IS '$_$ ; */';
    CREATE VIEW v AS SELECT E'\\'';' AS a, $q$';$q$ AS b;
"#;

#[tokio::test]
async fn a_dump_run_piece_by_piece_makes_what_psql_makes_of_it() {
    let server = PostgresServer::start(15, "").unwrap();
    for name in ["source", "whole", "pieces"] {
        server
            .psql("postgres", &format!("CREATE DATABASE {name}"))
            .unwrap();
    }
    server.psql("source", AWKWARD).unwrap();
    let dump = |name: &str| {
        let url = server.url(name);
        let output = server.run("pg_dump", &["-d", &url]).unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let text = dump("source");
    let file = server.socket().join("dump.sql");
    fs_err::write(&file, &text).unwrap();
    let file = file.display().to_string();
    server
        .run(
            "psql",
            &[
                "-X",
                "-q",
                "-d",
                &server.url("whole"),
                "-v",
                "ON_ERROR_STOP=1",
                "-f",
                &file,
            ],
        )
        .unwrap();

    let context = Context::deterministic(1).unwrap();
    let target = server.server("pieces").unwrap();
    let connection = target.connect(&context).await.unwrap();
    let client = connection.client();
    let (pieces, _) = pieces_of(text.as_bytes(), || 1000);
    let mut pieces = pieces.into_iter().peekable();
    while let Some(piece) = pieces.next() {
        if piece.kind != Kind::Statement {
            assert!(matches!(piece.kind, Kind::Blank | Kind::Meta), "{piece:?}");
            continue;
        }
        let sql = std::str::from_utf8(&piece.text).unwrap();
        if !sql.starts_with("COPY") {
            client.batch_execute(sql).await.unwrap();
            continue;
        }
        let sink = client.copy_in::<_, Bytes>(sql).await.unwrap();
        futures::pin_mut!(sink);
        assert_eq!(pieces.next().unwrap().kind, Kind::Blank);
        sink.send(pieces.next().unwrap().text).await.unwrap();
        assert_eq!(pieces.next().unwrap().kind, Kind::CopyEnd);
        assert_eq!(sink.finish().await.unwrap(), 51);
    }
    let plain = |text: String| {
        let lines = text.lines().filter(|line| !line.contains("restrict "));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(plain(dump("pieces")), plain(text.clone()));
    assert_eq!(plain(dump("whole")), plain(text));
}
