//! Objects sealed a second time from the text of `format-spec/15-objects.md`, with the crate `chacha20poly1305` instead of the
//! cipher that the program uses, and with every field open to be wrong.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};

/// All that an object is made from.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) secret: [u8; 32],
    pub(crate) repository: [u8; 16],
    pub(crate) object_type: u8,
    pub(crate) variant: u8,
    pub(crate) epoch: u32,
    pub(crate) origin: [u8; 24],
    pub(crate) salt: [u8; 32],
    pub(crate) extra: Vec<u8>,
    pub(crate) name: String,
}

/// Key, commitment, and the first 32 bytes of padding.
pub(crate) fn derive(secret: &[u8; 32], object_type: u8, repository: &[u8], salt: &[u8]) -> [[u8; 32]; 3] {
    let mut okm = [0; 96];
    blake3::Hasher::new_keyed(secret)
        .update(&[object_type])
        .update(repository)
        .update(salt)
        .finalize_xof()
        .fill(&mut okm);
    [0, 32, 64].map(|at| okm[at..at + 32].try_into().unwrap())
}

impl Plan {
    pub(crate) fn prefix(&self) -> Vec<u8> {
        let [_, commitment, _] = derive(&self.secret, self.object_type, &self.repository, &self.salt);
        let mut out = b"holdall".to_vec();
        out.push(self.object_type);
        out.extend(1u16.to_le_bytes());
        out.extend([1, self.variant]);
        out.extend(self.epoch.to_le_bytes());
        out.extend(self.origin);
        out.extend(self.salt);
        out.extend(commitment);
        assert_eq!(out.len(), 104);
        out.extend(&self.extra);
        out
    }

    pub(crate) fn record(&self, index: u32, last: bool, plain: &[u8]) -> Vec<u8> {
        let [key, ..] = derive(&self.secret, self.object_type, &self.repository, &self.salt);
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&index.to_le_bytes());
        nonce[11] = u8::from(last);
        let mut aad = self.prefix();
        aad.extend(self.repository);
        aad.extend(blake3::hash(self.name.as_bytes()).as_bytes());
        aad.extend(index.to_le_bytes());
        aad.push(u8::from(last));
        aad.extend(u32::try_from(plain.len()).unwrap().to_le_bytes());
        ChaCha20Poly1305::new(&Key::from(key))
            .encrypt(
                &Nonce::from(nonce),
                Payload {
                    msg: plain,
                    aad: &aad,
                },
            )
            .unwrap()
    }

    /// Header, one record, hash.
    pub(crate) fn object(&self, plain: &[u8]) -> Vec<u8> {
        let mut out = self.prefix();
        out.extend(self.record(0, true, plain));
        with_hash(out)
    }
}

/// A payload after its length, with zero bytes up to the Padmé size of the object.
pub(crate) fn padded(payload: &[u8], before: usize) -> Vec<u8> {
    let around = before + 4 + 16 + 32;
    let len = around + payload.len();
    let exponent = usize::BITS - 1 - len.leading_zeros();
    let kept = 32 - exponent.leading_zeros();
    let mask = (1usize << (exponent - kept)) - 1;
    let total = (len + mask) & !mask;
    let mut out = u32::try_from(payload.len()).unwrap().to_le_bytes().to_vec();
    out.extend(payload);
    out.resize(total - around + 4, 0);
    out
}

/// Appends the hash.
pub(crate) fn with_hash(mut out: Vec<u8>) -> Vec<u8> {
    let hash = blake3::hash(&out);
    out.extend(hash.as_bytes());
    out
}

/// The same object with another byte at `at`, and the hash made right again.
pub(crate) fn changed(object: &[u8], at: usize, byte: u8) -> Vec<u8> {
    let mut out = object[..object.len() - 32].to_vec();
    assert_ne!(out[at], byte, "nothing changed");
    out[at] = byte;
    with_hash(out)
}
