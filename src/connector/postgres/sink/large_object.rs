//! Large objects, with their owners, access lists and comments.

use super::refusal::Refusal;
use super::session::{Trouble, Worker, trouble, unless_cancelled};
use super::{Left, PostgresSink, damaged, trouble_of_content};
use crate::connector::postgres::key::Place;
use crate::connector::postgres::name::{literal, quote, unquote};
use crate::connector::postgres::record::LargeObjectRecord;
use crate::context::Context;
use crate::error::Result;
use crate::snapshot::entry::{Content, EntryHead, Piece};
use futures::StreamExt;
use std::fmt::Write;
use tokio_postgres::types::ToSql;

/// Bytes of an object that are read back at once.
const READ: i32 = 1 << 20;

/// What became of a large object.
pub(super) struct Written {
    oid: u32,
    bytes: u64,
    /// Whether what was read back is what was written; nothing if that was not asked for.
    equal: Option<bool>,
    trouble: Option<Refusal>,
}

/// What an object holds, as far as a comparison needs it.
#[derive(Default)]
struct Sum {
    bytes: u64,
    hash: blake3::Hasher,
}

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
        self.hash.update(bytes);
    }

    fn add_hole(&mut self, len: u64) {
        const ZEROS: [u8; 4096] = [0; 4096];
        let mut left = len;
        while left > 0 {
            let part = left.min(ZEROS.len() as u64);
            self.add(
                ZEROS
                    .get(..usize::try_from(part).unwrap_or(0))
                    .unwrap_or_default(),
            );
            left -= part;
        }
    }
}

impl PostgresSink {
    /// Writes a large object, when a connection is free, and reads it back.
    pub(super) async fn large_object(
        &mut self,
        context: &Context,
        oid: u32,
        head: &EntryHead,
        content: Content,
    ) -> Result<()> {
        let record = LargeObjectRecord::from_metadata(&head.metadata).map_err(|e| damaged(head, e))?;
        self.summary.large_objects.all += 1;
        if self.request.dry_run {
            return Ok(());
        }
        self.room(context).await?;
        let (own, bytes, verify) = (context.clone(), head.size.unwrap_or(0), self.request.verify);
        let work = move |worker: Worker| async move {
            let made = make(&own, &worker, (oid, verify), &record, content).await;
            let (equal, trouble) = match made {
                Ok(equal) => (equal, None),
                Err(Trouble::Refused(refusal)) => (None, Some(refusal)),
                Err(Trouble::Lost(error)) => return Err(error.with("large object", oid)),
            };
            let written = Written {
                oid,
                bytes,
                equal,
                trouble,
            };
            Ok((worker, Left::Object(written)))
        };
        self.pool_mut()?.start(context, work).await
    }

    /// Enters what became of a large object.
    pub(super) fn object_written(&mut self, context: &Context, written: Written) {
        let name = Place::LargeObject(written.oid).to_string();
        if let Some(refusal) = written.trouble {
            self.failed(context, name, refusal.to_string());
            return;
        }
        match written.equal {
            Some(true) => self.summary.large_objects.equal += 1,
            Some(false) => self.different(context, name.clone(), "it reads otherwise than it was written"),
            None => {}
        }
        self.done(context, name, written.bytes);
    }
}

/// Makes an object; with `verify` says whether it then holds what was sent.
async fn make(
    context: &Context,
    worker: &Worker,
    (oid, verify): (u32, bool),
    record: &LargeObjectRecord,
    content: Content,
) -> Result<Option<bool>, Trouble> {
    let mut pieces = content.open().await.map_err(trouble_of_content)?;
    let mut sent = Sum::default();
    let mut begun = false;
    let mut hole = false;
    loop {
        let piece = unless_cancelled(context, pieces.next()).await?;
        let piece = piece.transpose().map_err(trouble_of_content)?;
        if !begun {
            let first = match &piece {
                Some(Piece::Data(bytes)) => bytes.as_ref(),
                _ => &[],
            };
            let sql = "SELECT pg_catalog.lo_from_bytea($1, $2)";
            let parameters: [&(dyn ToSql + Sync); 2] = [&oid, &first];
            let made = unless_cancelled(context, worker.client().query(sql, &parameters)).await?;
            made.map_err(|error| trouble(error, sql))?;
        }
        match piece {
            Some(Piece::Data(bytes)) => {
                if begun {
                    put(context, worker, (oid, sent.bytes), &bytes).await?;
                }
                sent.add(&bytes);
                hole = false;
            }
            Some(Piece::Hole(len)) => {
                sent.add_hole(len);
                hole = true;
            }
            // A hole at the end is there when its last byte is.
            None if hole => break put(context, worker, (oid, sent.bytes - 1), &[0]).await?,
            None => break,
        }
        begun = true;
    }
    let sql = privileges(oid, record).map_err(|error| Trouble::Refused(Refusal::own(&error.to_string())))?;
    let mut equal = None;
    if verify {
        equal = Some(holds(context, worker, oid, &sent).await?);
    }
    worker.run(context, &sql).await?;
    Ok(equal)
}

/// Whether an object holds what was sent, no more and no less.
async fn holds(context: &Context, worker: &Worker, oid: u32, sent: &Sum) -> Result<bool, Trouble> {
    let mut found = Sum::default();
    loop {
        let at = i64::try_from(found.bytes).unwrap_or(i64::MAX);
        let sql = "SELECT pg_catalog.lo_get($1, $2, $3)";
        let parameters: [&(dyn ToSql + Sync); 3] = [&oid, &at, &READ];
        let read = unless_cancelled(context, worker.client().query_one(sql, &parameters)).await?;
        let read = read.and_then(|row| row.try_get::<_, Vec<u8>>(0));
        let read = read.map_err(|error| trouble(error, sql))?;
        if read.is_empty() {
            return Ok(found.bytes == sent.bytes && found.hash.finalize() == sent.hash.finalize());
        }
        found.add(&read);
    }
}

async fn put(context: &Context, worker: &Worker, (oid, at): (u32, u64), bytes: &[u8]) -> Result<(), Trouble> {
    let at = i64::try_from(at).unwrap_or(i64::MAX);
    let sql = "SELECT pg_catalog.lo_put($1, $2, $3)";
    let parameters: [&(dyn ToSql + Sync); 3] = [&oid, &at, &bytes];
    let put = unless_cancelled(context, worker.client().query(sql, &parameters)).await?;
    put.map(drop).map_err(|error| trouble(error, sql))
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
    if let Some(quoted) = text.strip_prefix('"') {
        return unquote(quoted);
    }
    let end = text.find(['=', '/']).unwrap_or(text.len());
    let (name, rest) = text.split_at_checked(end)?;
    Some((name.to_owned(), rest))
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
