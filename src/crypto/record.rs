//! Records and index runs as whole objects: sealed under the name that follows from them, opened under the name they were found at.

use super::keyring::Keyring;
use super::object::{Sealed, open_object, seal_object};
use crate::context::Random;
use crate::error::{Error, ErrorKind, Result};
use crate::format::Record;
use crate::format::error::DecodeError;
use crate::format::header::{ObjectType, Origin};
use crate::format::id::ObjectId;
use crate::format::index::Tables;
use crate::format::layout::ObjectName;

/// What the associated data has for a name: nothing for objects that are named by their own hash.
fn bound_name(name: &ObjectName) -> String {
    match name {
        ObjectName::Pack(_)
        | ObjectName::SessionRun(..)
        | ObjectName::CollectorRun(..)
        | ObjectName::State(..) => String::new(),
        _ => name.to_string(),
    }
}

/// The origin of the object at `name`: states say their round, which the empty name in the associated data cannot.
fn origin_at(name: &ObjectName) -> Origin {
    match name {
        ObjectName::State(round, _) => Origin::Round(*round),
        _ => Origin::None,
    }
}

/// Seals a record and gives the name that it must be put at.
///
/// # Errors
/// `Invalid` for a record that could not be read again: a value over its limit, or against a rule of its chapter.
pub fn seal_record<R: Record>(
    keyring: &Keyring,
    random: &dyn Random,
    record: &R,
) -> Result<(ObjectName, Sealed)> {
    let payload = record.encode();
    match R::decode(&payload) {
        Ok(read) if read == *record => {}
        Ok(_) => return Err(unreadable("it would read back as another")),
        Err(error) => return Err(unreadable(&error.to_string())),
    }
    let name = record.name(ObjectId([0; 32]));
    let (bound, origin) = (bound_name(&name), origin_at(&name));
    let sealed = seal_object(keyring, random, R::TYPE, origin, &bound, &payload)?;
    Ok((record.name(sealed.id), sealed))
}

fn unreadable(why: &str) -> Error {
    Error::new(ErrorKind::Invalid, "this record cannot be stored").because(why.to_owned())
}

/// Opens a record that was found at `name`.
///
/// # Errors
/// Any class of [`DecodeError`]; `Invalid` if it belongs under another name.
pub fn open_record<R: Record>(keyring: &Keyring, name: &ObjectName, object: &[u8]) -> Result<R, DecodeError> {
    let (payload, origin, id) = open_object(keyring, R::TYPE, &bound_name(name), object)?;
    let record = R::decode(&payload)?;
    if record.name(id) == *name && origin == origin_at(name) {
        Ok(record)
    } else {
        Err(DecodeError::Invalid("record under another name"))
    }
}

/// Seals an index run and gives the name that it must be put at.
///
/// # Errors
/// `Invalid` for tables that could not be read again, `Internal` without an origin.
pub fn seal_run(
    keyring: &Keyring,
    random: &dyn Random,
    origin: Origin,
    tables: &Tables,
) -> Result<(ObjectName, Sealed)> {
    let payload = tables.encode();
    Tables::decode(&payload, false).map_err(|e| unreadable(&e.to_string()))?;
    let sealed = seal_object(keyring, random, ObjectType::IndexRun, origin, "", &payload)?;
    let name = run_name(origin, sealed.id)
        .ok_or_else(|| Error::new(ErrorKind::Internal, "index run without origin"))?;
    Ok((name, sealed))
}

/// Opens an index run that was found at `name`.
///
/// # Errors
/// Any class of [`DecodeError`]; `Invalid` if it belongs under another name.
pub fn open_run(keyring: &Keyring, name: &ObjectName, object: &[u8]) -> Result<Tables, DecodeError> {
    let (payload, origin, id) = open_object(keyring, ObjectType::IndexRun, "", object)?;
    if run_name(origin, id) != Some(*name) {
        return Err(DecodeError::Invalid("index run under another name"));
    }
    Tables::decode(&payload, false)
}

fn run_name(origin: Origin, id: ObjectId) -> Option<ObjectName> {
    match origin {
        Origin::Session(sid) => Some(ObjectName::SessionRun(sid, id)),
        Origin::Round(round) => Some(ObjectName::CollectorRun(round, id)),
        Origin::None => None,
    }
}
