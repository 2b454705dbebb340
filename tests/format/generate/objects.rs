//! Vectors of sealed objects of every type, and each with one thing wrong.

use super::{File, hex};
use crate::independent::{Plan, changed, padded, with_hash};
use holdall::context::SeededRandom;
use holdall::crypto::{Keyring, seal_record, seal_run};
use holdall::format::Record;
use holdall::format::header::Origin;
use holdall::format::id::ObjectId;
use holdall::format::layout::ObjectName;
use holdall::testkit::arbitrary::Gen;
use holdall::testkit::fuzz::fixed_keyring;
use serde_json::json;

pub(super) fn all() -> Vec<File> {
    vec![objects(), forged()]
}

struct Made {
    record: &'static str,
    name: ObjectName,
    /// Another name that an object of this type may have.
    other: ObjectName,
    /// Why the object is refused there.
    refused: &'static str,
    bytes: Vec<u8>,
    payload: Vec<u8>,
}

fn made<R: Record>(
    g: &mut Gen,
    random: &SeededRandom,
    record: &'static str,
    make: impl Fn(&mut Gen) -> R,
) -> Made {
    let (one, two) = (make(g), make(g));
    let (name, sealed) = seal_record(&fixed_keyring(), random, &one).unwrap();
    let other = two.name(ObjectId([9; 32]));
    let refused = if record == "state" { "invalid" } else { "bad tag" };
    Made {
        record,
        name,
        other,
        refused,
        bytes: sealed.bytes.to_vec(),
        payload: one.encode(),
    }
}

fn run(g: &mut Gen, random: &SeededRandom, origin: Origin, other: Origin) -> Made {
    let tables = g.tables(false);
    let (name, sealed) = seal_run(&fixed_keyring(), random, origin, &tables).unwrap();
    let other = match other {
        Origin::Session(sid) => ObjectName::SessionRun(sid, sealed.id),
        Origin::Round(round) => ObjectName::CollectorRun(round, sealed.id),
        Origin::None => unreachable!(),
    };
    let payload = tables.encode();
    Made {
        record: "index run",
        name,
        other,
        refused: "invalid",
        bytes: sealed.bytes.to_vec(),
        payload,
    }
}

fn every_type() -> Vec<Made> {
    let (mut g, random) = (Gen::new(50), SeededRandom::new(50));
    let (g, random) = (&mut g, &random);
    let (a, b) = (Origin::Session(g.sid()), Origin::Session(g.sid()));
    vec![
        made(g, random, "config", Gen::config),
        made(g, random, "session", Gen::session),
        made(g, random, "snapshot", Gen::decision),
        made(g, random, "snapshot", Gen::decision),
        made(g, random, "forget", Gen::forget),
        made(g, random, "condemned", Gen::condemned),
        made(g, random, "state", Gen::state),
        made(g, random, "seal", Gen::seal),
        made(g, random, "note", Gen::note),
        made(g, random, "refs", Gen::refs),
        made(g, random, "ledger", Gen::ledger),
        run(g, random, a, b),
        run(g, random, Origin::Round(3), Origin::Round(4)),
        run(g, random, a, Origin::Round(4)),
    ]
}

/// Every type, opened; under another name; under another keyring; with one bit of its record changed and the hash made right.
fn objects() -> File {
    let mut file = File::new("objects/sealed.json", "object", "Sealed objects of every type.");
    let keyring = hex(&fixed_keyring().encode());
    let stranger = hex(
        &Keyring::generate(&SeededRandom::new(99), fixed_keyring().repository())
            .unwrap()
            .encode(),
    );
    for made in every_type() {
        let Made {
            record,
            name,
            other,
            refused,
            bytes,
            payload,
        } = made;
        let mut add = |what: &str, keyring: &str, object: &ObjectName, bytes: &[u8], error: &str| {
            file.add(
                &format!("{name}: {what}"),
                json!({"keyring": keyring, "record": record, "object": object.to_string(), "bytes": hex(bytes), "error": error}),
            );
        };
        add("under another name", &keyring, &other, &bytes, refused);
        add("another keyring", &stranger, &name, &bytes, "wrong key");
        let flipped = changed(&bytes, 104, bytes[104] ^ 1);
        add("a bit of its record", &keyring, &name, &flipped, "bad tag");
        file.add(
            &name.to_string(),
            json!({"keyring": keyring, "record": record, "object": name.to_string(), "bytes": hex(&bytes), "payload": hex(&payload)}),
        );
    }
    file
}

/// One object with everything that can be wrong with it, and payloads that only a faulty writer would seal.
fn forged() -> File {
    let mut file = File::new(
        "objects/forged.json",
        "object",
        "One session object, and what must not pass for it.",
    );
    let keyring = fixed_keyring();
    let mut g = Gen::new(51);
    let session = g.session();
    let name = session.name(ObjectId([0; 32])).to_string();
    let plan = Plan {
        secret: *keyring.newest().unwrap().secret.expose(),
        repository: keyring.repository().0,
        object_type: 5,
        variant: 0,
        epoch: 1,
        origin: [0; 24],
        salt: g.array(),
        extra: Vec::new(),
        name: name.clone(),
    };
    let plain = padded(&session.encode(), 104);
    let good = plan.object(&plain);
    let case = |record: &str, bytes: &[u8]| json!({"keyring": hex(&keyring.encode()), "record": record, "object": name, "bytes": hex(bytes)});
    let mut positive = case("session", &good);
    positive["payload"] = json!(hex(&session.encode()));
    file.add("the object", positive);
    let with = |edit: &dyn Fn(&mut Plan)| {
        let mut other = plan.clone();
        edit(&mut other);
        other.object(&plain)
    };
    let mut salt = good.clone();
    salt[40] ^= 1;
    let mut longer = plain.clone();
    longer[0] = 0xff;
    longer[1] = 0xff;
    let mut dirty = plain.clone();
    *dirty.last_mut().unwrap() = 1;
    let two = with_hash(
        [
            plan.prefix(),
            plan.record(0, false, b"\0\0\0\0"),
            plan.record(1, true, &plain),
        ]
        .concat(),
    );
    let other_record = padded(&g.forget().encode(), 104);
    let other_session = padded(&g.session().encode(), 104);
    for (what, bytes, error) in [
        ("nothing", Vec::new(), "truncated"),
        ("shorter than a hash", good[..31].to_vec(), "truncated"),
        ("cut off", good[..good.len() - 1].to_vec(), "bad hash"),
        (
            "cut off, hash made right",
            with_hash(good[..good.len() - 48].to_vec()),
            "bad tag",
        ),
        ("header only", with_hash(plan.prefix()), "truncated"),
        (
            "a bit of the hash",
            {
                let mut out = good.clone();
                *out.last_mut().unwrap() ^= 1;
                out
            },
            "bad hash",
        ),
        (
            "a bit of the record",
            {
                let mut out = good.clone();
                out[120] ^= 4;
                out
            },
            "bad hash",
        ),
        (
            "a bit of the salt",
            with_hash(salt[..salt.len() - 32].to_vec()),
            "wrong key",
        ),
        (
            "a bit of the commitment",
            changed(&good, 72, good[72] ^ 1),
            "wrong key",
        ),
        ("magic", changed(&good, 0, b'x'), "header"),
        ("version 2", changed(&good, 8, 2), "unknown version"),
        ("suite 2", changed(&good, 10, 2), "unknown version"),
        ("type of a forget", changed(&good, 7, 7), "header"),
        ("sealed as a forget", with(&|p| p.object_type = 7), "header"),
        (
            "an epoch that is not in the keyring",
            with(&|p| p.epoch = 2),
            "wrong key",
        ),
        ("the header of another epoch", changed(&good, 12, 2), "wrong key"),
        ("an origin", with(&|p| p.origin = [1; 24]), "header"),
        (
            "another repository",
            with(&|p| p.repository = [7; 16]),
            "wrong key",
        ),
        (
            "another name",
            with(&|p| p.name = format!("{}0", p.name)),
            "bad tag",
        ),
        (
            "another name of the same length",
            with(&|p| p.name = p.name.replacen("sessions", "snapshot", 1)),
            "bad tag",
        ),
        (
            "record without the last bit",
            with_hash([plan.prefix(), plan.record(0, false, &plain)].concat()),
            "bad tag",
        ),
        (
            "record number 1",
            with_hash([plan.prefix(), plan.record(1, true, &plain)].concat()),
            "bad tag",
        ),
        ("two records", two, "bad tag"),
        (
            "record shorter than a tag",
            with_hash([plan.prefix(), vec![0; 15]].concat()),
            "truncated",
        ),
        (
            "payload longer than the record",
            plan.object(&longer),
            "truncated",
        ),
        ("payload without its length", plan.object(b"abc"), "truncated"),
        ("padding that is not zero", plan.object(&dirty), "not canonical"),
        ("payload of a forget", plan.object(&other_record), "invalid"),
        (
            "payload of another session",
            plan.object(&other_session),
            "invalid",
        ),
        ("payload of nothing", plan.object(&padded(b"", 104)), "truncated"),
    ] {
        let mut negative = case("session", &bytes);
        negative["error"] = json!(error);
        file.add(what, negative);
    }
    let unpadded = [
        u32::try_from(session.encode().len())
            .unwrap()
            .to_le_bytes()
            .to_vec(),
        session.encode(),
    ]
    .concat();
    let mut bare = case("session", &plan.object(&unpadded));
    bare["payload"] = json!(hex(&session.encode()));
    file.add("without padding, which readers accept", bare);
    file
}
