//! Vectors of key slots of each kind, and each with one thing wrong.

use super::{File, hex};
use crate::independent::{Plan, changed, padded, with_hash};
use holdall::context::SeededRandom;
use holdall::crypto::{KdfParams, Keyring, Secret, SlotInfo, Unlock, phrase_from_secret, seal_slot, stretch};
use holdall::testkit::fuzz::fixed_keyring;
use serde_json::json;

pub(super) fn all() -> Vec<File> {
    vec![slots()]
}

/// A password slot at the floor of its cost, which no function of the program makes.
fn password_slot(keyring: &Keyring, label: &[u8]) -> Vec<u8> {
    let params = KdfParams {
        memory_kib: 64 << 10,
        passes: 3,
        lanes: 4,
        salt: [0x77; 32],
    };
    let plan = Plan {
        secret: *stretch(b"a password", &params).unwrap().expose(),
        repository: keyring.repository().0,
        object_type: 1,
        variant: 1,
        epoch: 0,
        origin: [0; 24],
        salt: [0x78; 32],
        extra: params.encode().to_vec(),
        name: "keys/0".into(),
    };
    let slot = [
        plan.prefix(),
        plan.record(0, true, &padded(&keyring.encode(), 148)),
    ]
    .concat();
    let bound = format!("keys/0#{}", blake3::hash(&slot));
    let label_plan = Plan {
        secret: *keyring.newest().unwrap().secret.expose(),
        object_type: 14,
        variant: 0,
        epoch: 1,
        salt: [0x79; 32],
        extra: Vec::new(),
        name: bound,
        ..plan
    };
    let mut plain = u32::try_from(label.len()).unwrap().to_le_bytes().to_vec();
    plain.extend(label);
    plain.resize(4096, 0);
    with_hash([slot, label_plan.prefix(), label_plan.record(0, true, &plain)].concat())
}

fn slots() -> File {
    let mut file = File::new("keys/slots.json", "slot", "Key slots of each kind, and labels.");
    let (keyring, random) = (fixed_keyring(), SeededRandom::new(52));
    let repository = keyring.repository().to_string();
    let info = |label: &str| SlotInfo {
        label: label.into(),
        host: "host".into(),
        created: 1_767_225_600,
    };
    let label_json = |label: &str| json!({"label": label, "host": "host", "created": 1_767_225_600});
    let secret = [0x42; 32];
    let phrase = phrase_from_secret(&Secret::new(secret)).unwrap();
    let file_slot = seal_slot(
        &keyring,
        &random,
        3,
        &Unlock::KeyFile(Secret::new(secret)),
        &info("laptop"),
    )
    .unwrap()
    .bytes
    .to_vec();
    let other_slot = seal_slot(
        &keyring,
        &random,
        3,
        &Unlock::KeyFile(Secret::new(secret)),
        &info("server"),
    )
    .unwrap()
    .bytes
    .to_vec();
    let phrase_slot = seal_slot(
        &keyring,
        &random,
        1,
        &Unlock::Phrase(Secret::new(secret)),
        &info(""),
    )
    .unwrap()
    .bytes
    .to_vec();
    let label = [
        vec![0xa3, 0, 0x61, b'p', 1, 0x64],
        b"host".to_vec(),
        vec![2, 0x1a],
        1_767_225_600u32.to_be_bytes().to_vec(),
    ]
    .concat();
    let password = password_slot(&keyring, &label);
    let positive = |unlock: &str, secret: &str, number: u32, bytes: &[u8], label: &str| {
        json!({"unlock": unlock, "secret": secret, "repository": repository, "number": number, "bytes": hex(bytes),
            "keyring": hex(&keyring.encode()), "label": label_json(label)})
    };
    file.add("password", positive("password", "a password", 0, &password, "p"));
    file.add(
        "key file",
        positive("key-file", &hex(&secret), 3, &file_slot, "laptop"),
    );
    file.add(
        "recovery phrase",
        positive("recovery-phrase", &phrase, 1, &phrase_slot, ""),
    );
    let mut negative = |name: &str,
                        secret: &str,
                        repository: &str,
                        number: u32,
                        bytes: &[u8],
                        error: &str| {
        file.add(name, json!({"unlock": "key-file", "secret": secret, "repository": repository, "number": number, "bytes": hex(bytes), "error": error}));
    };
    let key = hex(&secret);
    negative(
        "another key file",
        &hex(&[1; 32]),
        &repository,
        3,
        &file_slot,
        "wrong key",
    );
    negative(
        "a slot of another kind",
        &key,
        &repository,
        1,
        &phrase_slot,
        "wrong key",
    );
    negative("a password slot", &key, &repository, 0, &password, "wrong key");
    negative(
        "another repository",
        &key,
        &hex(&[5; 16]),
        3,
        &file_slot,
        "wrong key",
    );
    negative(
        "under another number",
        &key,
        &repository,
        4,
        &file_slot,
        "bad tag",
    );
    negative(
        "a slot of a reserved kind",
        &key,
        &repository,
        3,
        &changed(&file_slot, 11, 4),
        "unknown version",
    );
    negative(
        "the kind of a recovery phrase",
        &key,
        &repository,
        3,
        &changed(&file_slot, 11, 3),
        "wrong key",
    );
    negative(
        "cut off",
        &key,
        &repository,
        3,
        &file_slot[..file_slot.len() - 1],
        "bad hash",
    );
    negative(
        "too short",
        &key,
        &repository,
        3,
        &with_hash(file_slot[..300].to_vec()),
        "truncated",
    );
    let mut cheap = password.clone();
    cheap[104..108].copy_from_slice(&(63u32 << 10).to_le_bytes());
    negative(
        "cost below the floor",
        &key,
        &repository,
        0,
        &with_hash(cheap[..cheap.len() - 32].to_vec()),
        "invalid",
    );
    let mut dear = password.clone();
    dear[108..112].copy_from_slice(&65u32.to_le_bytes());
    negative(
        "cost above the ceiling",
        &key,
        &repository,
        0,
        &with_hash(dear[..dear.len() - 32].to_vec()),
        "over limit",
    );
    let mut labels = |name: &str, number: u32, bytes: &[u8], error: &str| {
        file.add(name, json!({"label_of": hex(&keyring.encode()), "number": number, "bytes": hex(bytes), "error": error}));
    };
    let end = 32 + 104 + 4096 + 16;
    let swapped = [
        &file_slot[..file_slot.len() - end],
        &other_slot[other_slot.len() - end..other_slot.len() - 32],
    ]
    .concat();
    labels(
        "label of an earlier slot of this number",
        3,
        &with_hash(swapped),
        "bad tag",
    );
    labels("label under another number", 4, &file_slot, "bad tag");
    let mut no_host = label[..3].to_vec();
    no_host[0] = 0xa1;
    no_host.push(b'p');
    labels(
        "label without its host",
        0,
        &password_slot(&keyring, &no_host),
        "invalid",
    );
    let mut newer = label.clone();
    newer[0] = 0xa4;
    newer.extend([3, 0]);
    labels(
        "label with an unknown field",
        0,
        &password_slot(&keyring, &newer),
        "unknown version",
    );
    file
}
