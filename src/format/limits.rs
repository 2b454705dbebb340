//! Every limit of the format (`format-spec/00-conventions.md`), enforced by writers and by readers.

/// The largest object, in bytes.
pub const OBJECT_MAX: usize = 64 << 20;
/// The largest plaintext of one sealed record, in bytes.
pub const RECORD_MAX: usize = 16 << 20;
/// The largest plaintext of a block, in bytes.
pub const BLOCK_MAX: usize = 16 << 20;
/// The largest plaintext of a blob, in bytes.
pub const BLOB_MAX: usize = 16 << 20;
/// The largest plaintext of a node, in bytes, an entry that alone is larger apart.
pub const NODE_MAX: usize = 256 << 10;
/// The largest plaintext of a node that holds a single element, in bytes.
pub const NODE_SINGLE_MAX: usize = 2 << 20;
/// The longest key of an entry, in bytes.
pub const KEY_MAX: usize = 8 << 10;
/// The largest metadata of an entry, in bytes.
pub const METADATA_MAX: usize = 1 << 20;
/// The most fields of metadata.
pub const METADATA_FIELDS_MAX: usize = 256;
/// The deepest nesting of arrays in a value of metadata.
pub const METADATA_DEPTH_MAX: usize = 6;
/// The largest `Prior` state of an entry, in bytes.
pub const STATE_MAX: usize = 64 << 10;
/// The most bytes of content kept inside an entry.
pub const INLINE_MAX: usize = 512;
/// The most references kept inside an entry; more go into list blobs.
pub const REFS_INLINE_MAX: usize = 64;
/// The most references in one list blob.
pub const LIST_MAX: usize = 4096;
/// The most levels of list blobs.
pub const LIST_DEPTH_MAX: u8 = 4;
/// The most levels of the tree.
pub const TREE_HEIGHT_MAX: u8 = 16;
/// The most deltas in a chain.
pub const CHAIN_MAX: usize = 16;
/// The most incidents kept inside a snapshot record.
pub const INCIDENTS_INLINE_MAX: usize = 1000;
/// The most bytes that the incidents inside a snapshot record take together.
pub const INCIDENTS_INLINE_BYTES_MAX: usize = 1 << 20;
/// The longest short text: a host, a project, a tag, a label, in bytes.
pub const NAME_MAX: usize = 1024;
/// The longest description of a source, in bytes.
pub const DESCRIPTION_MAX: usize = 4096;
/// The most sources of a snapshot.
pub const SOURCES_MAX: usize = 256;
/// The longest free text: a message, a reason, in bytes.
pub const TEXT_MAX: usize = 64 << 10;
/// The most tags of a snapshot.
pub const TAGS_MAX: usize = 256;
/// The most key epochs of a keyring.
pub const EPOCHS_MAX: usize = 1024;
/// The most password slots that are tried.
pub const PASSWORD_SLOTS_MAX: usize = 16;
/// The most chunk profiles of a configuration.
pub const PROFILES_MAX: usize = 64;
/// The most packs that one round condemns or kills; more wait for the next round.
pub const ROUND_PACKS_MAX: usize = 300_000;
/// The most snapshots that a state lists as live.
pub const LIVE_MAX: usize = 131_072;
/// The most collector runs that a state names.
pub const RUNS_MAX: usize = 32_768;
/// The most blobs that one record of references lists.
pub const REFS_MAX: usize = 500_000;
/// The most packs that one ledger record lists as verified.
pub const LEDGER_VERIFIED_MAX: usize = 300_000;
/// The most packs that one ledger record lists as quarantined.
pub const LEDGER_QUARANTINED_MAX: usize = 65_536;
/// Objects under `reserve/`.
pub const RESERVES: u8 = 4;
/// Numbers under `reserve/` from here on are left by probes of a store.
pub const PROBES: u8 = 128;
