//! Keys, sealing and opening (`format-spec/10-keys.md`, `15-objects.md`). No storage, no compression; no caller chooses a nonce.

mod kdf;
mod keyring;
mod object;
mod pack;
mod record;
mod secret;
mod slot;

pub use kdf::{KdfParams, stretch};
pub use keyring::{Epoch, Keyring};
pub use object::{Opener, Sealed, Sealer, TRAILER_RECORD, open_object, peek_origin, seal_object};
pub use pack::open_pack;
pub use record::{open_record, open_run, seal_record, seal_run};
pub use secret::{Secret, phrase_from_secret, secret_from_phrase};
pub use slot::{SlotInfo, SlotKind, Unlock, open_slot, read_slot_kind, seal_slot, slot_label};
