//! Vectors of zstd frames, made by hand: no version of zstd has a say in them.

use super::{File, hex};
use serde_json::json;

const TEXT: &[u8] = b"a block of a repository";
const SINGLE: u8 = 0x20;
const CHECKSUM: u8 = 0x04;

/// The parts of a frame.
#[derive(Clone)]
struct Parts {
    descriptor: u8,
    window: Option<u8>,
    /// Between window and content size.
    dictionary: Vec<u8>,
    size: Vec<u8>,
    blocks: Vec<u8>,
    tail: Vec<u8>,
}

impl Parts {
    fn bytes(&self) -> Vec<u8> {
        let mut out = vec![0x28, 0xb5, 0x2f, 0xfd, self.descriptor];
        out.extend(self.window);
        for part in [&self.dictionary, &self.size, &self.blocks, &self.tail] {
            out.extend_from_slice(part);
        }
        out
    }

    /// One segment of one raw block.
    fn raw(content: &[u8]) -> Self {
        Self {
            descriptor: SINGLE,
            window: None,
            dictionary: Vec::new(),
            size: vec![u8::try_from(content.len()).unwrap()],
            blocks: block(0, content.len(), content, true),
            tail: Vec::new(),
        }
    }

    /// As [`Self::raw`], with a window.
    fn with_window(content: &[u8], window: u8) -> Self {
        let size = u32::try_from(content.len()).unwrap();
        Self {
            descriptor: 0x80,
            window: Some(window),
            size: size.to_le_bytes().to_vec(),
            ..Self::raw(content)
        }
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Vec<u8> {
        change(&mut self);
        self.bytes()
    }
}

fn block(kind: u32, size: usize, bytes: &[u8], last: bool) -> Vec<u8> {
    let header = u32::try_from(size).unwrap() << 3 | kind << 1 | u32::from(last);
    [&header.to_le_bytes()[..3], bytes].concat()
}

fn skippable(content: &[u8]) -> Vec<u8> {
    let len = u32::try_from(content.len()).unwrap().to_le_bytes();
    [&[0x50, 0x2a, 0x4d, 0x18], &len[..], content].concat()
}

/// What zstd puts behind a frame of this content if it is told to.
fn checksum(content: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.include_checksum(true).unwrap();
    std::io::Write::write_all(&mut encoder, content).unwrap();
    let frame = encoder.finish().unwrap();
    frame[frame.len() - 4..].to_vec()
}

/// Frames that a repository may hold.
fn good(file: &mut File) {
    let mut add = |name: &str, bytes: Vec<u8>, base: Option<&[u8]>, content: &[u8]| {
        let blake3 = blake3::hash(content).to_string();
        let mut case = json!({"bytes": hex(&bytes), "len": content.len(), "blake3": blake3});
        if let Some(base) = base {
            case["base"] = json!(hex(base));
        }
        file.add(name, case);
    };
    add("one segment", Parts::raw(TEXT).bytes(), None, TEXT);
    add("with a base", Parts::raw(TEXT).bytes(), Some(b"its base"), TEXT);
    let window = |descriptor| Parts::with_window(TEXT, descriptor).bytes();
    add("the smallest window", window(0), None, TEXT);
    add("a window of 32 MiB", window(15 << 3), None, TEXT);
    let summed = |parts: &mut Parts| {
        parts.descriptor |= CHECKSUM;
        parts.tail = checksum(TEXT);
    };
    add("with a checksum", Parts::raw(TEXT).with(summed), None, TEXT);
    let repeated = |parts: &mut Parts| {
        parts.descriptor |= 0x40;
        parts.size = (1000u16 - 256).to_le_bytes().to_vec();
        parts.blocks = block(1, 1000, b"x", true);
    };
    add(
        "one byte 1,000 times",
        Parts::raw(b"").with(repeated),
        None,
        &[b'x'; 1000],
    );
    let several = |parts: &mut Parts| {
        let (start, end) = TEXT.split_at(5);
        let nothing = block(0, 0, b"", false);
        parts.blocks = [block(0, 5, start, false), nothing, block(0, end.len(), end, true)].concat();
    };
    add("several blocks", Parts::raw(TEXT).with(several), None, TEXT);
    let wide = |parts: &mut Parts| {
        parts.descriptor |= 0xc0;
        parts.size = (TEXT.len() as u64).to_le_bytes().to_vec();
    };
    add(
        "a content size of eight bytes",
        Parts::raw(TEXT).with(wide),
        None,
        TEXT,
    );
}

/// The bytes of frames that break a rule, and the length that they are asked for.
fn bad() -> Vec<(&'static str, Vec<u8>, usize)> {
    let whole = Parts::raw(TEXT).bytes();
    let len = TEXT.len();
    let raw = |change: fn(&mut Parts)| Parts::raw(TEXT).with(change);
    let window = |descriptor| Parts::with_window(TEXT, descriptor).bytes();
    let no_size = |parts: &mut Parts| {
        parts.descriptor = 0;
        parts.size.clear();
    };
    let joined = |parts: &[&[u8]]| parts.concat();
    vec![
        ("nothing", Vec::new(), len),
        ("another content size than the index says", whole.clone(), len + 1),
        ("no content size", Parts::with_window(TEXT, 0).with(no_size), len),
        (
            "a content size that the blocks do not reach",
            raw(|p| p.size[0] += 1),
            len + 1,
        ),
        (
            "a content size that the blocks exceed",
            raw(|p| p.size[0] -= 1),
            len - 1,
        ),
        (
            "a content size of 2⁶⁴ − 1",
            raw(|p| {
                p.descriptor |= 0xc0;
                p.size = vec![0xff; 8];
            }),
            len,
        ),
        (
            "a dictionary id",
            raw(|p| {
                p.descriptor |= 1;
                p.dictionary = vec![7];
            }),
            len,
        ),
        (
            "a dictionary id of 0",
            raw(|p| {
                p.descriptor |= 1;
                p.dictionary = vec![0];
            }),
            len,
        ),
        (
            "a dictionary id of four bytes",
            raw(|p| {
                p.descriptor |= 3;
                p.dictionary = vec![7, 0, 0, 0];
            }),
            len,
        ),
        ("a window of more than 32 MiB", window(15 << 3 | 1), len),
        ("a window of 64 MiB", window(16 << 3), len),
        ("the largest window", window(0xff), len),
        ("a reserved bit", raw(|p| p.descriptor |= 8), len),
        ("a reserved type of block", raw(|p| p.blocks[0] |= 6), len),
        ("no last block", raw(|p| p.blocks[0] &= !1), len),
        (
            "a checksum of another content",
            raw(|p| {
                p.descriptor |= CHECKSUM;
                p.tail = checksum(b"another");
            }),
            len,
        ),
        (
            "a checksum that is missing",
            raw(|p| p.descriptor |= CHECKSUM),
            len,
        ),
        ("a byte behind the frame", joined(&[&whole, &[0]]), len),
        ("another frame behind it", joined(&[&whole, &whole]), len),
        ("two frames for one block", joined(&[&whole, &whole]), 2 * len),
        (
            "a frame to be skipped behind it",
            joined(&[&whole, &skippable(b"x")]),
            len,
        ),
        (
            "a frame to be skipped before it",
            joined(&[&skippable(b"x"), &whole]),
            len,
        ),
        ("a frame to be skipped and no other", skippable(TEXT), len),
        ("without magic", whole[4..].to_vec(), len),
        ("of an older format of zstd", joined(&[&[0x27], &whole[1..]]), len),
        ("cut off in its header", whole[..5].to_vec(), len),
        ("cut off in its block", whole[..whole.len() - 1].to_vec(), len),
    ]
}

pub(super) fn all() -> Vec<File> {
    let mut file = File::new(
        "packs/frames.json",
        "frame",
        "Frames of zstd: those that a repository may hold, and others that zstd reads too.",
    );
    good(&mut file);
    for (name, bytes, len) in bad() {
        let case = json!({"bytes": hex(&bytes), "len": len, "error": "invalid"});
        file.add(name, case.clone());
        let mut with_base = case;
        with_base["base"] = json!(hex(b"its base"));
        file.add(&format!("{name}, with a base"), with_base);
    }
    vec![file]
}
