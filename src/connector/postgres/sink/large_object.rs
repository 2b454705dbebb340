//! Large objects, with their owners, access lists and comments.

use super::session::{Refusal, Trouble, Worker};
use super::{Left, PostgresSink, damaged, is_local};
use crate::connector::postgres::name::{literal, quote};
use crate::connector::postgres::record::LargeObjectRecord;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::event::{Event, Outcome};
use crate::snapshot::entry::{Content, EntryHead, Piece};
use futures::StreamExt;
use std::fmt::Write;

/// What became of a large object.
pub(super) struct Written {
    oid: u32,
    bytes: u64,
    trouble: Option<Refusal>,
}

impl PostgresSink {
    /// Writes a large object, when a connection is free.
    pub(super) async fn large_object(
        &mut self,
        context: &Context,
        oid: u32,
        head: &EntryHead,
        content: Content,
    ) -> Result<()> {
        let record = LargeObjectRecord::from_metadata(&head.metadata).map_err(|e| damaged(head, e))?;
        self.summary.large_objects += 1;
        if self.request.dry_run {
            return Ok(());
        }
        self.room(context).await?;
        let (own, bytes) = (context.clone(), head.size.unwrap_or(0));
        let work = move |worker: Worker| async move {
            let trouble = match make(&own, &worker, oid, &record, content).await {
                Ok(()) => None,
                Err(Trouble::Refused(refusal)) => Some(refusal),
                Err(Trouble::Lost(error)) => return Err(error.with("large object", oid)),
            };
            Ok((worker, Left::Object(Written { oid, bytes, trouble })))
        };
        self.pool_mut()?.start(context, work).await
    }

    /// Enters what became of a large object.
    pub(super) fn object_written(&mut self, context: &Context, written: Written) {
        let Written { oid, bytes, trouble } = written;
        let name = format!("large object {oid}");
        if let Some(refusal) = trouble {
            self.failed(context, name, refusal.to_string());
            return;
        }
        self.report.written += 1;
        self.report.bytes += bytes;
        let outcome = Outcome::Restored;
        context.emit(&Event::EntryDone { name, outcome, bytes });
    }
}

async fn make(
    context: &Context,
    worker: &Worker,
    oid: u32,
    record: &LargeObjectRecord,
    content: Content,
) -> Result<(), Trouble> {
    let of_content = |error: Error| {
        if is_local(&error) {
            Trouble::Refused(Refusal::own(&format!("{error:?}")))
        } else {
            Trouble::Lost(error)
        }
    };
    let mut pieces = content.open().await.map_err(of_content)?;
    let mut at = 0i64;
    let mut begun = false;
    let mut hole = false;
    loop {
        let piece = tokio::select! {
            biased;
            () = context.cancel.cancelled() => return Err(Trouble::Lost(super::session::cancelled())),
            piece = pieces.next() => piece,
        };
        let piece = piece.transpose().map_err(of_content)?;
        if !begun {
            let first = match &piece {
                Some(Piece::Data(bytes)) => bytes.as_ref(),
                _ => &[],
            };
            let sql = "SELECT pg_catalog.lo_from_bytea($1, $2)";
            let made = worker.client().query(sql, &[&oid, &first]).await;
            made.map_err(|error| worker.trouble(error))?;
        }
        match piece {
            Some(Piece::Data(bytes)) => {
                if begun {
                    put(worker, oid, at, &bytes).await?;
                }
                at = at.saturating_add_unsigned(bytes.len() as u64);
                hole = false;
            }
            Some(Piece::Hole(len)) => {
                at = at.saturating_add_unsigned(len);
                hole = true;
            }
            // A hole at the end is there when its last byte is.
            None if hole => break put(worker, oid, at - 1, &[0]).await?,
            None => break,
        }
        begun = true;
    }
    let sql = privileges(oid, record).map_err(|error| Trouble::Refused(Refusal::own(&error.to_string())))?;
    worker.run(context, &sql).await
}

async fn put(worker: &Worker, oid: u32, at: i64, bytes: &[u8]) -> Result<(), Trouble> {
    let sql = "SELECT pg_catalog.lo_put($1, $2, $3)";
    let put = worker.client().query(sql, &[&oid, &at, &bytes]).await;
    put.map(drop).map_err(|error| worker.trouble(error))
}

/// The statements that give a large object to its owner and to whom its access list names.
fn privileges(oid: u32, record: &LargeObjectRecord) -> Result<String> {
    let owner = quote(&record.owner)?;
    let mut sql = String::new();
    if let Some(comment) = &record.comment {
        let _ = writeln!(sql, "COMMENT ON LARGE OBJECT {oid} IS {};", literal(comment));
    }
    let _ = writeln!(sql, "ALTER LARGE OBJECT {oid} OWNER TO {owner};");
    let Some(acl) = &record.acl else {
        return Ok(sql);
    };
    let _ = writeln!(sql, "REVOKE ALL ON LARGE OBJECT {oid} FROM {owner};");
    for item in acl {
        let Some(Grant {
            grantee,
            grantor,
            plain,
            options,
        }) = grant(item)
        else {
            continue;
        };
        let to = match grantee.as_deref() {
            Some(role) => quote(role.as_bytes())?,
            None => "PUBLIC".into(),
        };
        let foreign = grantor.as_bytes() != record.owner;
        if foreign {
            let _ = writeln!(sql, "SET SESSION AUTHORIZATION {};", quote(grantor.as_bytes())?);
        }
        for (privileges, option) in [(plain, ""), (options, " WITH GRANT OPTION")] {
            if !privileges.is_empty() {
                let privileges = privileges.join(", ");
                let _ = writeln!(sql, "GRANT {privileges} ON LARGE OBJECT {oid} TO {to}{option};");
            }
        }
        if foreign {
            sql.push_str("RESET SESSION AUTHORIZATION;\n");
        }
    }
    Ok(sql)
}

/// An item of an access list: `reader=r*w/owner`.
#[derive(Debug, PartialEq, Eq)]
struct Grant {
    /// Nothing for everyone.
    grantee: Option<String>,
    grantor: String,
    plain: Vec<&'static str>,
    options: Vec<&'static str>,
}

fn grant(item: &str) -> Option<Grant> {
    let (grantee, rest) = role(item)?;
    let rest = rest.strip_prefix('=')?;
    let (privileges, rest) = rest.split_once('/')?;
    let (grantor, _) = role(rest)?;
    let (mut plain, mut options) = (Vec::new(), Vec::new());
    let mut letters = privileges.chars().peekable();
    while let Some(letter) = letters.next() {
        let privilege = match letter {
            'r' => "SELECT",
            'w' => "UPDATE",
            _ => continue,
        };
        if letters.next_if_eq(&'*').is_some() {
            options.push(privilege);
        } else {
            plain.push(privilege);
        }
    }
    Some(Grant {
        grantee: (!grantee.is_empty()).then_some(grantee),
        grantor,
        plain,
        options,
    })
}

/// A role's name, in quotes if it needs them, and what follows it.
fn role(text: &str) -> Option<(String, &str)> {
    let Some(mut rest) = text.strip_prefix('"') else {
        let end = text.find(['=', '/']).unwrap_or(text.len());
        let (name, rest) = text.split_at_checked(end)?;
        return Some((name.to_owned(), rest));
    };
    let mut name = String::new();
    loop {
        let (before, after) = rest.split_once('"')?;
        name.push_str(before);
        match after.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None => return Some((name, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_lists_are_read_as_the_server_writes_them() {
        let found = grant("\"a \"\"b=\"=r*w/owner").unwrap();
        assert_eq!(found.grantee.as_deref(), Some("a \"b="));
        assert_eq!((found.plain, found.options), (vec!["UPDATE"], vec!["SELECT"]));
        let found = grant("=r/\"x/y\"").unwrap();
        assert_eq!((found.grantee, found.grantor.as_str()), (None, "x/y"));
        assert_eq!(grant("nonsense"), None);
    }
}
