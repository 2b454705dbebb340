//! 32 secret bytes that are wiped when they are dropped, and the recovery phrase that spells them.

use crate::error::{Error, ErrorKind, Result};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// 32 secret bytes: no `Debug`, no `Clone`, compared in constant time, wiped on drop.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Secret(Box<[u8; 32]>);

impl Secret {
    /// Takes the bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Box::new(bytes))
    }

    /// Reads exactly 32 bytes.
    ///
    /// # Errors
    /// `Invalid` for another length.
    pub fn from_slice(bytes: &[u8]) -> Result<Self> {
        let bytes = bytes.try_into().map_err(|_| {
            Error::new(ErrorKind::Invalid, "a key file holds exactly 32 bytes").with("found", bytes.len())
        })?;
        Ok(Self::new(bytes))
    }

    /// The bytes, for deriving keys.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// A second owner of the same bytes.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self::new(*self.0)
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        // `blake3::Hash` compares in constant time.
        blake3::Hash::from_bytes(*self.0) == blake3::Hash::from_bytes(*other.0)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The 24 words that spell a secret (BIP39, English).
///
/// # Errors
/// Never in practice: 32 bytes always make 24 words.
pub fn phrase_from_secret(secret: &Secret) -> Result<Zeroizing<String>> {
    let words = bip39::Mnemonic::from_entropy(secret.expose())
        .map_err(|e| Error::new(ErrorKind::Internal, "cannot spell the recovery phrase").because(e))?;
    Ok(Zeroizing::new(words.to_string()))
}

/// The secret that 24 words spell; case and spacing do not matter.
///
/// # Errors
/// `Invalid` if a word is unknown, the count is not 24, or the checksum fails.
pub fn secret_from_phrase(phrase: &str) -> Result<Secret> {
    let invalid =
        || Error::new(ErrorKind::Invalid, "this is not a recovery phrase").hint("24 English words, in order");
    let normal = Zeroizing::new(
        phrase
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
            .to_lowercase(),
    );
    let words = bip39::Mnemonic::parse_normalized(&normal).map_err(|e| invalid().because(e))?;
    let entropy = Zeroizing::new(words.to_entropy());
    Secret::from_slice(&entropy).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phrase_spells_its_secret_and_a_wrong_word_is_refused() {
        let secret = Secret::new([7; 32]);
        let phrase = phrase_from_secret(&secret).unwrap();
        assert_eq!(phrase.split(' ').count(), 24);
        assert!(secret_from_phrase(&phrase.to_uppercase().replace(' ', "  \n")).unwrap() == secret);
        let wrong = phrase.replacen("abandon", "zoo", 1).replacen("all", "zoo", 1);
        assert!(wrong.as_str() == phrase.as_str() || secret_from_phrase(&wrong).is_err());
        assert!(secret_from_phrase("abandon abandon about").is_err());
    }
}
