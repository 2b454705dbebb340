//! Walks `format-spec/vectors/`: every file, every case, by the schema of its `README.md`.

use crate::independent;
use crate::packs::pack;
use holdall::chunk::{ChunkParams, Chunker};
use holdall::crypto::{
    KdfParams, Keyring, Secret, Unlock, open_object, open_record, open_run, open_slot, phrase_from_secret,
    read_slot_kind, secret_from_phrase, slot_label, stretch,
};
use holdall::error::ErrorKind;
use holdall::format::cbor::{Decoder, Encoder};
use holdall::format::collect::{CondemnedRecord, LedgerRecord, RefsRecord, SealRecord, StateRecord};
use holdall::format::entry::{EntryRecord, decode_list, encode_list};
use holdall::format::error::DecodeError;
use holdall::format::frame::decode_frame;
use holdall::format::header::{Header, ObjectType, Origin, padme};
use holdall::format::id::{RepositoryId, hex};
use holdall::format::index::{BlobKind, EntrySum, Tables};
use holdall::format::layout::ObjectName;
use holdall::format::node::Node;
use holdall::format::note::StampedNote;
use holdall::format::pack::PackTrailer;
use holdall::format::repo_config::{ConfigRecord, Marker};
use holdall::format::session::{ForgetRecord, SessionRecord};
use holdall::format::snapshot::Decision;
use holdall::format::{Record, id::SessionId};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("format-spec/vectors")
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, found);
        } else if path.extension().is_some_and(|e| e == "json") {
            found.push(path);
        }
    }
}

/// Those of the tree have a schema of their own and are walked by `tests/tree/`.
fn is_tree(path: &str) -> bool {
    path.starts_with("tree/")
}

pub(crate) fn files() -> Vec<(String, Vec<u8>)> {
    let mut paths = Vec::new();
    walk(&folder(), &mut paths);
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let name = path
                .strip_prefix(folder())
                .unwrap()
                .to_string_lossy()
                .into_owned();
            (name, std::fs::read(path).unwrap())
        })
        .collect()
}

/// The stored bytes of every case: what the fuzz bodies start from.
pub(crate) fn all_bytes() -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for (_, text) in files() {
        let file: Value = serde_json::from_slice(&text).unwrap();
        let cases = if file.is_array() { &file } else { &file["cases"] };
        for case in cases.as_array().unwrap() {
            for field in ["bytes", "payload"] {
                if let Some(text) = case[field].as_str() {
                    out.push(unhex(text));
                }
            }
        }
    }
    out
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    assert_eq!(text.len() % 2, 0);
    (0..text.len() / 2)
        .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
        .collect()
}

pub(crate) struct Case<'a>(pub(crate) &'a Value);

impl Case<'_> {
    pub(crate) fn text(&self, field: &str) -> &str {
        self.0[field]
            .as_str()
            .unwrap_or_else(|| panic!("no text {field}"))
    }

    pub(crate) fn bytes(&self, field: &str) -> Vec<u8> {
        unhex(self.text(field))
    }

    fn array<const N: usize>(&self, field: &str) -> [u8; N] {
        self.bytes(field)
            .try_into()
            .unwrap_or_else(|_| panic!("{field} has another length"))
    }

    fn number(&self, field: &str) -> u64 {
        self.0[field]
            .as_u64()
            .unwrap_or_else(|| panic!("no number {field}"))
    }

    fn small<T: TryFrom<u64>>(&self, field: &str) -> T {
        T::try_from(self.number(field)).unwrap_or_else(|_| panic!("{field} is too large"))
    }

    pub(crate) fn keyring(&self) -> Keyring {
        Keyring::decode(&self.bytes("keyring")).unwrap()
    }

    /// Compares the outcome with the class that the case expects; gives the value of a positive case.
    pub(crate) fn outcome<T>(&self, found: Result<T, DecodeError>) -> Option<T> {
        match (self.0["error"].as_str(), found) {
            (Some(class), Err(error)) => {
                assert_eq!(error.class(), class, "{error}");
                None
            }
            (Some(class), Ok(_)) => panic!("accepted, but should be: {class}"),
            (None, Ok(value)) => Some(value),
            (None, Err(error)) => panic!("{error}"),
        }
    }
}

/// Content as the vectors describe it: the bytes, or `len` bytes of BLAKE3-XOF over the seed, each ANDed with `mask`.
pub(crate) fn content(value: &Value) -> Vec<u8> {
    if let Some(text) = value["hex"].as_str() {
        return unhex(text);
    }
    let mut out = vec![0; usize::try_from(value["len"].as_u64().unwrap()).unwrap()];
    let seed = value["seed"].as_u64().unwrap();
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut out);
    if let Some(mask) = value["mask"].as_u64() {
        for byte in &mut out {
            *byte &= u8::try_from(mask).unwrap();
        }
    }
    out
}

/// CBOR as JSON: `h:` before bytes in hex, `t:` before text, maps with their keys as decimal text.
pub(crate) fn as_json(d: &mut Decoder<'_>) -> Value {
    if d.null() {
        return Value::Null;
    }
    match d.major().unwrap() {
        0 => json!(d.uint().unwrap()),
        1 => json!(d.int().unwrap()),
        2 => json!(format!("h:{}", hex(d.bytes(usize::MAX).unwrap()))),
        3 => json!(format!("t:{}", d.text(usize::MAX).unwrap())),
        4 => (0..d.array(usize::MAX).unwrap()).map(|_| as_json(d)).collect(),
        5 => {
            let mut fields = d.map(usize::MAX).unwrap();
            let mut out = serde_json::Map::new();
            while let Some(key) = fields.next(d).unwrap() {
                out.insert(key.to_string(), as_json(d));
            }
            Value::Object(out)
        }
        _ => json!(d.bool().unwrap()),
    }
}

fn kdf(case: &Case<'_>) {
    let params = KdfParams {
        memory_kib: case.small("memory_kib"),
        passes: case.small("passes"),
        lanes: case.small("lanes"),
        salt: case.array("salt"),
    };
    let secret = stretch(case.text("password").as_bytes(), &params).unwrap();
    assert_eq!(hex(secret.expose()), case.text("secret"));
}

fn kdf_params(case: &Case<'_>) {
    if let Some(params) = case.outcome(KdfParams::decode(&case.array("bytes"))) {
        let found = [params.memory_kib, params.passes, params.lanes].map(u64::from);
        assert_eq!(
            found,
            ["memory_kib", "passes", "lanes"].map(|field| case.number(field))
        );
    }
}

fn phrase(case: &Case<'_>) {
    let found = secret_from_phrase(case.text("phrase"));
    if case.0["error"].is_string() {
        assert_eq!(found.unwrap_err().kind(), ErrorKind::Invalid);
    } else {
        let secret = found.unwrap();
        assert_eq!(hex(secret.expose()), case.text("secret"));
        if case.0["canonical"].as_bool() != Some(false) {
            assert_eq!(phrase_from_secret(&secret).unwrap().as_str(), case.text("phrase"));
        }
    }
}

fn keyring(case: &Case<'_>) {
    let bytes = case.bytes("bytes");
    if let Some(keyring) = case.outcome(Keyring::decode(&bytes)) {
        assert_eq!(keyring.encode().as_slice(), bytes);
        assert_eq!(keyring.repository().to_string(), case.text("repository"));
        assert_eq!(hex(keyring.gear_key().expose()), case.text("gear_key"));
        assert_eq!(hex(keyring.border_key().expose()), case.text("border_key"));
        assert_eq!(hex(keyring.rebase_key().expose()), case.text("rebase_key"));
        assert_eq!(u64::from(keyring.newest().unwrap().number), case.number("newest"));
    }
}

fn object_key(case: &Case<'_>) {
    let derived = independent::derive(
        &case.array("secret"),
        case.small("type"),
        &case.bytes("repository"),
        &case.bytes("salt"),
    );
    assert_eq!(
        derived.map(|part| hex(&part)),
        ["key", "commitment", "padding"].map(|field| case.text(field))
    );
}

fn blob_id(case: &Case<'_>) {
    let kind = BlobKind::from_number(case.small("blob_kind")).unwrap();
    let id = case.keyring().blob_id(kind, &content(&case.0["content"]));
    assert_eq!(id.to_string(), case.text("id"));
}

/// The gear table, once more from the text of chapter 25.
fn gear_table(key: &[u8; 32]) -> Vec<u8> {
    let mut out = vec![0; 2048];
    blake3::Hasher::new_keyed(key).finalize_xof().fill(&mut out);
    out
}

fn gear(case: &Case<'_>) {
    let table = gear_table(&case.array("gear_key"));
    assert_eq!(blake3::hash(&table).to_string(), case.text("table_blake3"));
    let first: Vec<_> = table[..32].chunks(8).map(hex).collect();
    assert_eq!(json!(first), case.0["first_le"]);
}

fn chunking(case: &Case<'_>) {
    let params = ChunkParams::new(case.small("min"), case.small("avg"), case.small("max"));
    let Some(params) = case.outcome(params) else {
        return;
    };
    let chunker = Chunker::new(params, &Secret::new(case.array("gear_key")));
    let content = content(&case.0["content"]);
    let (mut rest, mut cuts) = (content.as_slice(), Vec::new());
    while let Some(len) = chunker.next_cut(rest, true) {
        cuts.push(len);
        rest = &rest[len..];
    }
    assert_eq!(json!(cuts), case.0["cuts"]);
}

fn sizes(case: &Case<'_>) {
    assert_eq!(padme(case.number("len")), case.number("padded"));
}

fn object_type(number: u64) -> ObjectType {
    use ObjectType::{
        Condemned, Config, Forget, IndexRun, KeySlot, Ledger, Note, Pack, Refs, Seal, Session, SlotLabel,
        Snapshot, State,
    };
    let all = [
        KeySlot, Config, Pack, IndexRun, Session, Snapshot, Forget, Condemned, State, Seal, Note, Refs,
        Ledger, SlotLabel,
    ];
    all.into_iter().find(|t| *t as u64 == number).unwrap()
}

pub(crate) fn origin_text(origin: Origin) -> String {
    match origin {
        Origin::None => "none".into(),
        Origin::Session(sid) => format!("session {sid}"),
        Origin::Round(round) => format!("round {round}"),
    }
}

fn header(case: &Case<'_>) {
    let bytes = case.bytes("bytes");
    if let Some(header) = case.outcome(Header::decode(&bytes, object_type(case.number("type")))) {
        assert_eq!(hex(&header.encode()), hex(&bytes[..104]));
        assert_eq!(u64::from(header.epoch), case.number("epoch"));
        assert_eq!(u64::from(header.variant), case.number("variant"));
        assert_eq!(origin_text(header.origin), case.text("origin"));
        assert_eq!(
            (hex(&header.salt), hex(&header.commitment)),
            (case.text("salt").into(), case.text("commitment").into())
        );
    }
}

fn name(case: &Case<'_>) {
    if let Some(name) = case.outcome(ObjectName::parse(case.text("text"))) {
        assert_eq!(name.to_string(), case.text("text"));
    }
}

fn marker(case: &Case<'_>) {
    let bytes = case.bytes("bytes");
    if let Some(marker) = case.outcome(Marker::decode(&bytes)) {
        assert_eq!(marker.encode(), bytes);
        assert_eq!(marker.repository.to_string(), case.text("repository"));
        let features = [
            marker.features.read,
            marker.features.write,
            marker.features.delete,
        ];
        assert_eq!(json!(features), case.0["features"]);
    }
}

/// Decodes a record of any type and encodes it again.
pub(crate) fn decode_any(record: &str, bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    fn sealed<R: Record>(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
        R::decode(bytes).map(|record| record.encode())
    }
    match record {
        "config" => sealed::<ConfigRecord>(bytes),
        "session" => sealed::<SessionRecord>(bytes),
        "snapshot" => sealed::<Decision>(bytes),
        "forget" => sealed::<ForgetRecord>(bytes),
        "condemned" => sealed::<CondemnedRecord>(bytes),
        "state" => sealed::<StateRecord>(bytes),
        "seal" => sealed::<SealRecord>(bytes),
        "note" => sealed::<StampedNote>(bytes),
        "refs" => sealed::<RefsRecord>(bytes),
        "ledger" => sealed::<LedgerRecord>(bytes),
        "index run" => Tables::decode(bytes, false).map(|t| t.encode()),
        "directory" => Tables::decode(bytes, true).map(|t| t.encode()),
        "pack trailer" => PackTrailer::decode(bytes).map(|t| t.encode()),
        "node" => Node::decode(bytes).map(|node| node.encode()),
        "list" => decode_list(bytes, 0).map(|refs| encode_list(0, &refs)),
        "entry" => {
            let mut decoder = Decoder::new(bytes);
            let entry = EntryRecord::decode(&mut decoder)?;
            decoder.finish()?;
            let mut out = Encoder::new();
            entry.encode(&mut out);
            Ok(out.finish())
        }
        other => panic!("no record {other}"),
    }
}

fn record(case: &Case<'_>) {
    let bytes = case.bytes("bytes");
    if let Some(again) = case.outcome(decode_any(case.text("record"), &bytes)) {
        assert_eq!(hex(&again), hex(&bytes));
        if !case.0["value"].is_null() {
            assert_eq!(as_json(&mut Decoder::new(&bytes)), case.0["value"]);
        }
    }
}

fn open(case: &Case<'_>) -> Result<Vec<u8>, DecodeError> {
    fn sealed<R: Record>(case: &Case<'_>, name: &ObjectName) -> Result<Vec<u8>, DecodeError> {
        open_record::<R>(&case.keyring(), name, &case.bytes("bytes")).map(|r| r.encode())
    }
    let name = ObjectName::parse(case.text("object"))?;
    match case.text("record") {
        "config" => sealed::<ConfigRecord>(case, &name),
        "session" => sealed::<SessionRecord>(case, &name),
        "snapshot" => sealed::<Decision>(case, &name),
        "forget" => sealed::<ForgetRecord>(case, &name),
        "condemned" => sealed::<CondemnedRecord>(case, &name),
        "state" => sealed::<StateRecord>(case, &name),
        "seal" => sealed::<SealRecord>(case, &name),
        "note" => sealed::<StampedNote>(case, &name),
        "refs" => sealed::<RefsRecord>(case, &name),
        "ledger" => sealed::<LedgerRecord>(case, &name),
        "index run" => open_run(&case.keyring(), &name, &case.bytes("bytes")).map(|t| t.encode()),
        "any" => {
            let opened = open_object(
                &case.keyring(),
                ObjectType::Session,
                case.text("object"),
                &case.bytes("bytes"),
            );
            opened.map(|(payload, ..)| payload)
        }
        other => panic!("no record {other}"),
    }
}

fn object(case: &Case<'_>) {
    if let Some(payload) = case.outcome(open(case)) {
        assert_eq!(hex(&payload), case.text("payload"));
    }
}

fn unlock(case: &Case<'_>) -> Unlock {
    let (kind, secret) = (case.text("unlock"), case.text("secret"));
    match kind {
        "password" => Unlock::Password(secret.as_bytes().to_vec().into()),
        "key-file" => Unlock::KeyFile(Secret::from_slice(&unhex(secret)).unwrap()),
        "recovery-phrase" => Unlock::Phrase(secret_from_phrase(secret).unwrap()),
        other => panic!("no kind of slot {other}"),
    }
}

fn slot(case: &Case<'_>) {
    let (number, bytes) = (case.small("number"), case.bytes("bytes"));
    if case.0["label_of"].is_string() {
        let keyring = Keyring::decode(&case.bytes("label_of")).unwrap();
        case.outcome(slot_label(&keyring, number, &bytes));
        return;
    }
    let found = open_slot(
        RepositoryId(case.array("repository")),
        number,
        &bytes,
        &unlock(case),
    );
    if let Some(class) = case.0["error"].as_str() {
        let kind = match class {
            "wrong key" => ErrorKind::WrongKey,
            "unknown version" => ErrorKind::Unsupported,
            _ => ErrorKind::Damaged,
        };
        assert_eq!(found.unwrap_err().kind(), kind);
        return;
    }
    let keyring = found.unwrap();
    assert_eq!(hex(&keyring.encode()), case.text("keyring"));
    assert_eq!(read_slot_kind(&bytes).unwrap().word(), case.text("unlock"));
    let info = slot_label(&keyring, number, &bytes).unwrap();
    let found = json!({"label": info.label, "host": info.host, "created": info.created});
    assert_eq!(found, case.0["label"]);
}

fn entry_sum(case: &Case<'_>) {
    let dead: Vec<_> = case.0["dead"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_str().unwrap())
        .collect();
    let mut sum = EntrySum::default();
    for run in case.0["runs"].as_array().unwrap() {
        let tables = Tables::decode(&unhex(run.as_str().unwrap()), false).unwrap();
        sum.add(&tables, |id| !dead.contains(&id.to_string().as_str()));
    }
    assert_eq!(
        (sum.count, hex(&sum.hash())),
        (case.number("count"), case.text("hash").to_owned())
    );
}

fn frame(case: &Case<'_>) {
    let base = case.0["base"].as_str().map(unhex);
    let (bytes, len) = (case.bytes("bytes"), case.small("len"));
    if let Some(content) = case.outcome(decode_frame(&bytes, len, base.as_deref())) {
        assert_eq!(blake3::hash(&content).to_string(), case.text("blake3"));
    }
}

fn sid(case: &Case<'_>) {
    if let Some(sid) = case.outcome(SessionId::parse(case.text("text"))) {
        assert_eq!(hex(&sid.to_bytes()), case.text("bytes"));
        assert_eq!(sid.to_string(), case.text("text"));
    }
}

type Check = fn(&Case<'_>);

const KINDS: &[(&str, Check)] = &[
    ("blob id", blob_id),
    ("chunking", chunking),
    ("entry sum", entry_sum),
    ("frame", frame),
    ("gear", gear),
    ("header", header),
    ("kdf", kdf),
    ("kdf parameters", kdf_params),
    ("keyring", keyring),
    ("marker", marker),
    ("name", name),
    ("object", object),
    ("object key", object_key),
    ("pack", pack),
    ("padme", sizes),
    ("phrase", phrase),
    ("record", record),
    ("session id", sid),
    ("slot", slot),
];

#[test]
fn every_vector_holds() {
    let mut counts: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    let mut failed = Vec::new();
    for (path, text) in files().into_iter().filter(|(path, _)| !is_tree(path)) {
        let file: Value = serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{path}: {e}"));
        let kind = file["kind"].as_str().unwrap();
        let (kind, check) = KINDS
            .iter()
            .find(|(k, _)| *k == kind)
            .unwrap_or_else(|| panic!("{path}: no kind {kind}"));
        let cases = file["cases"].as_array().unwrap();
        assert!(!cases.is_empty(), "{path} has no case");
        for case in cases {
            let (positive, negative) = counts.entry(kind).or_default();
            *if case["error"].is_string() {
                negative
            } else {
                positive
            } += 1;
            let found = std::panic::catch_unwind(|| check(&Case(case)));
            if let Err(why) = found {
                let fixed = why.downcast_ref::<&str>().copied().unwrap_or("?").to_owned();
                let why = why.downcast_ref::<String>().cloned().unwrap_or(fixed);
                failed.push(format!("{path}: {}: {why}", case["name"]));
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    for (kind, _) in KINDS {
        assert!(
            counts.get(kind).is_some_and(|(positive, _)| *positive > 0),
            "no vector of kind {kind}"
        );
    }
    let classes = [
        "header",
        "unknown version",
        "truncated",
        "bad hash",
        "wrong key",
        "bad tag",
        "wrong id",
        "over limit",
        "not canonical",
        "invalid",
    ];
    let all = files()
        .into_iter()
        .map(|(_, text)| String::from_utf8(text).unwrap())
        .collect::<String>();
    for class in classes {
        assert!(
            all.contains(&format!("\"error\":\"{class}\"")),
            "no vector is refused as: {class}"
        );
    }
}

/// Vectors are a promise: a file that changes, comes or goes shows in `SUMS` too.
#[test]
fn vectors_are_the_pinned_ones() {
    let lines: Vec<_> = files()
        .iter()
        .map(|(path, text)| format!("{}  {path}\n", blake3::hash(text)))
        .collect();
    let found = lines.concat();
    let pinned = std::fs::read_to_string(folder().join("SUMS")).unwrap();
    assert_eq!(found, pinned, "format-spec/vectors differs from its SUMS");
}
