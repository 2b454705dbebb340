//! Bodies of the fuzz targets (`fuzz/`), replayed by the ordinary tests: no input may panic, take memory out of proportion, or be
//! accepted in more than one form. A body panics when a law is broken.

use super::arbitrary::Gen;
use crate::chunk::{ChunkParams, Chunker};
use crate::connector::postgres::connect::{Server, Surroundings};
use crate::connector::postgres::statement::{Kind, Piece, Scanner, classify, first_line};
use crate::context::SeededRandom;
use crate::crypto::{
    KdfParams, Keyring, Secret, Unlock, open_object, open_slot, peek_origin, seal_object, secret_from_phrase,
    slot_label,
};
use crate::format::cbor::{Decoder, Encoder};
use crate::format::entry::{self, EntryRecord};
use crate::format::frame::decode_frame;
use crate::format::header::{Header, ObjectType, Origin};
use crate::format::id::RepositoryId;
use crate::format::index::Tables;
use crate::format::layout::ObjectName;
use crate::format::node::Node;
use crate::format::pack::PackTrailer;
use crate::format::repo_config::Marker;
use crate::format::{Record, collect, note, repo_config, session, snapshot};

/// A fuzz target.
pub type Target = fn(&[u8]);

/// All targets; `fuzz/fuzz_targets/` has a file for each.
pub const TARGETS: &[(&str, Target)] = &[
    ("cbor", cbor),
    ("chunker", chunker),
    ("condemned", record::<collect::CondemnedRecord>),
    ("config", record::<repo_config::ConfigRecord>),
    ("connection", connection),
    ("decision", record::<snapshot::Decision>),
    ("directory", directory),
    ("entry", entry_record),
    ("forget", record::<session::ForgetRecord>),
    ("frame", frame),
    ("header", header),
    ("index_run", index_run),
    ("kdf", kdf),
    ("keyring", keyring),
    ("ledger", record::<collect::LedgerRecord>),
    ("list", list),
    ("marker", marker),
    ("names", names),
    ("node", node),
    ("note", record::<note::StampedNote>),
    ("object", object),
    ("pack_trailer", pack_trailer),
    ("phrase", phrase),
    ("refs", record::<collect::RefsRecord>),
    ("seal", record::<collect::SealRecord>),
    ("session", record::<session::SessionRecord>),
    ("slot", slot),
    ("state", record::<collect::StateRecord>),
    ("statement", statement),
];

/// Runs the target of this name.
///
/// # Panics
/// If there is none, or a law is broken.
pub fn run(name: &str, input: &[u8]) {
    match TARGETS.iter().find(|(target, _)| *target == name) {
        Some((_, target)) => target(input),
        None => panic!("no fuzz target {name}"),
    }
}

fn record<R: Record>(input: &[u8]) {
    if let Ok(record) = R::decode(input) {
        assert_eq!(record.encode(), input, "two encodings of one record");
        // Names are made from what records say; each must read back.
        let name = record.name(crate::format::id::ObjectId([1; 32]));
        assert_eq!(ObjectName::parse(&name.to_string()), Ok(name));
    }
}

/// The first three bytes are the length that the index promises.
fn frame(input: &[u8]) {
    let Some(([a, b, c], frame)) = input.split_first_chunk::<3>() else {
        return;
    };
    let len = u32::from_le_bytes([*a, *b, *c, 0]);
    for base in [None, Some(b"a base of a delta".as_slice())] {
        if let Ok(content) = decode_frame(frame, len, base) {
            assert_eq!(content.len(), len as usize);
        }
    }
}

/// Connection strings: what was read tells a child program the same as it tells us, and no form of printing has the password.
fn connection(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let surroundings = Surroundings {
        user: Some("someone".to_owned()),
        ..Surroundings::default()
    };
    let Ok(server) = Server::parse(text, &surroundings) else {
        return;
    };
    let environment = server.child_environment();
    let again = Surroundings {
        variables: environment
            .iter()
            .filter_map(|(name, value)| {
                let value = value.to_str()?.to_owned();
                Some((name.to_str()?.to_owned(), value.into()))
            })
            .collect(),
        ..Surroundings::default()
    };
    if let Ok(again) = Server::parse("", &again) {
        assert_eq!(again.child_environment(), environment, "another connection");
    }
}

fn cbor(input: &[u8]) {
    let mut decoder = Decoder::new(input);
    if let Ok(raw) = decoder.raw(usize::MAX) {
        assert!(input.starts_with(raw) && !raw.is_empty());
    }
}

fn entry_record(input: &[u8]) {
    let mut decoder = Decoder::new(input);
    if let Ok(entry) = EntryRecord::decode(&mut decoder)
        && decoder.finish().is_ok()
    {
        let mut out = Encoder::new();
        entry.encode(&mut out);
        assert_eq!(out.finish(), input, "two encodings of one entry");
    }
}

fn node(input: &[u8]) {
    if let Ok(node) = Node::decode(input) {
        assert_eq!(node.encode(), input, "two encodings of one node");
    }
}

fn list(input: &[u8]) {
    for level in 0..4 {
        if let Ok(refs) = entry::decode_list(input, level) {
            assert_eq!(
                entry::encode_list(level, &refs),
                input,
                "two encodings of one list"
            );
        }
    }
}

fn header(input: &[u8]) {
    let types = [
        ObjectType::KeySlot,
        ObjectType::Config,
        ObjectType::Pack,
        ObjectType::IndexRun,
        ObjectType::Session,
        ObjectType::SlotLabel,
    ];
    for object_type in types {
        if let Ok(header) = Header::decode(input, object_type) {
            assert!(input.starts_with(&header.encode()), "two encodings of one header");
        }
    }
    let _ = peek_origin(input);
}

fn index_run(input: &[u8]) {
    if let Ok(tables) = Tables::decode(input, false) {
        assert_eq!(tables.encode(), input, "two encodings of one index run");
    }
}

fn directory(input: &[u8]) {
    if let Ok(tables) = Tables::decode(input, true) {
        assert_eq!(tables.encode(), input, "two encodings of one directory");
    }
}

fn pack_trailer(input: &[u8]) {
    if let Ok(trailer) = PackTrailer::decode(input) {
        assert_eq!(trailer.encode(), input, "two encodings of one trailer");
        for size in [0, input.len(), 1000, 64 << 20] {
            if let Ok(range) = trailer.directory(size) {
                assert!(range.start <= range.end && range.end <= size);
            }
        }
    }
}

fn marker(input: &[u8]) {
    if let Ok(marker) = Marker::decode(input) {
        assert_eq!(marker.encode(), input, "two encodings of one marker");
    }
}

fn names(input: &[u8]) {
    if let Ok(text) = std::str::from_utf8(input)
        && let Ok(name) = ObjectName::parse(text)
    {
        assert_eq!(name.to_string(), text, "two spellings of one name");
        assert!(!text.contains("//") && text.is_ascii());
    }
}

fn phrase(input: &[u8]) {
    if let Ok(text) = std::str::from_utf8(input) {
        let _ = secret_from_phrase(text);
    }
}

fn kdf(input: &[u8]) {
    if let Some(params) = input.first_chunk()
        && let Ok(read) = KdfParams::decode(params)
    {
        assert_eq!(read.encode(), *params, "two encodings of one set of parameters");
    }
}

fn keyring(input: &[u8]) {
    if let Ok(keyring) = Keyring::decode(input) {
        assert_eq!(keyring.encode().as_slice(), input, "two encodings of one keyring");
    }
}

/// A keyring that is always the same; for tests only.
///
/// # Panics
/// Never: seeded randomness does not fail.
pub fn fixed_keyring() -> Keyring {
    let random = SeededRandom::new(0);
    match Keyring::generate(&random, RepositoryId([0x51; 16])) {
        Ok(keyring) => keyring,
        Err(error) => panic!("{error}"),
    }
}

/// Bytes as a whole object, and as the payload of a well-sealed one.
fn object(input: &[u8]) {
    let keyring = fixed_keyring();
    assert!(
        open_object(&keyring, ObjectType::Session, "sessions/x", input).is_err(),
        "opened without a key"
    );
    let random = SeededRandom::new(1);
    if let Ok(sealed) = seal_object(&keyring, &random, ObjectType::Session, Origin::None, "n", input) {
        match open_object(&keyring, ObjectType::Session, "n", &sealed.bytes) {
            Ok((payload, ..)) => assert_eq!(payload, input),
            Err(error) => panic!("sealed, but not opened: {error}"),
        }
    }
}

/// Bytes as a key slot; passwords are left out, because a slot may ask for seconds of work.
fn slot(input: &[u8]) {
    let unlock = Unlock::KeyFile(Secret::new([3; 32]));
    assert!(
        open_slot(RepositoryId([0; 16]), 0, input, &unlock).is_err(),
        "opened without a key"
    );
    let _ = slot_label(&fixed_keyring(), 0, input);
}

/// Cuts cover the content, keep their bounds, and do not depend on how much is seen at once.
fn chunker(input: &[u8]) {
    let Some((head, content)) = input.split_first_chunk::<9>() else {
        return;
    };
    let mut gen_ = Gen::new(u64::from_le_bytes([
        head[0], head[1], head[2], head[3], head[4], head[5], head[6], head[7],
    ]));
    let avg = 256usize << (head[8] % 4);
    let (min, max) = (64 + 2 * gen_.index(avg / 2 - 32), avg + 2 + 2 * gen_.index(avg));
    let Ok(params) = ChunkParams::new(min, avg, max) else {
        panic!("sizes {min} {avg} {max}");
    };
    let chunker = Chunker::new(params, &Secret::new(gen_.array()));
    let mut rest = content;
    while let Some(len) = chunker.next_cut(rest, true) {
        assert!((1..=max).contains(&len) && len <= rest.len());
        assert!(
            len >= min || len == rest.len(),
            "a short chunk that is not the last"
        );
        let window = &rest[..rest.len().min(max)];
        match chunker.next_cut(window, false) {
            Some(same) => assert_eq!(same, len, "a cut depends on bytes beyond the largest chunk"),
            None => assert!(window.len() < max),
        }
        rest = &rest[len..];
    }
    assert!(rest.is_empty(), "content was lost");
}

/// The pieces of SQL text are the text, and do not depend on the chunks that it came in. Gives the pieces, those of one kind that may be
/// cut anywhere joined, and whether all was taken.
///
/// # Panics
/// If a law is broken.
pub fn pieces_of(text: &[u8], mut next_chunk: impl FnMut() -> usize) -> (Vec<Piece>, bool) {
    let mut scanner = Scanner::default();
    let (mut pieces, mut whole): (Vec<Piece>, _) = (Vec::new(), Vec::new());
    let mut rest = text;
    loop {
        let piece = match scanner.next() {
            Err(_) => {
                assert!(text.starts_with(&whole), "pieces are not the text");
                return (pieces, false);
            }
            Ok(Some(piece)) => piece,
            Ok(None) if !rest.is_empty() => {
                let (chunk, behind) = rest.split_at(next_chunk().clamp(1, rest.len()));
                scanner.push(chunk);
                rest = behind;
                if rest.is_empty() {
                    scanner.end();
                }
                continue;
            }
            Ok(None) => break,
        };
        assert!(!piece.text.is_empty(), "an empty piece");
        whole.extend_from_slice(&piece.text);
        match pieces.last_mut() {
            Some(last) if last.kind == piece.kind && matches!(piece.kind, Kind::Blank | Kind::CopyData) => {
                last.text = [last.text.as_ref(), &piece.text].concat().into();
            }
            _ => pieces.push(piece),
        }
    }
    assert!(whole == text, "pieces are not the text");
    (pieces, true)
}

fn statement(input: &[u8]) {
    let mut g = Gen::new(input.len() as u64);
    let whole = pieces_of(input, || usize::MAX);
    assert_eq!(whole, pieces_of(input, || 1), "the chunks decide");
    assert_eq!(whole, pieces_of(input, || g.index(20)), "the chunks decide");
    for piece in whole.0.iter().filter(|piece| piece.kind == Kind::Statement) {
        let _ = classify(&piece.text);
        assert!(!first_line(&piece.text).contains('\n'));
    }
}
