#!/usr/bin/env python3
"""A second, independent reader of Holdall repositories (format 1), written from the chapters beside it.
    reader.py vectors [DIR] | ls REPO [SNAPSHOT] | restore REPO SNAPSHOT TARGET
`restore` puts files and streams into a new directory, and the content of other entries (`database/…`) under the names of their keys.
REPO is a local directory; SNAPSHOT is `latest` or the beginning of an id's random part. The key comes from HOLDALL_PASSWORD,
HOLDALL_PASSWORD_FILE or HOLDALL_KEY_FILE. Needs blake3, zstandard, cryptography and argon2-cffi from PyPI.
"""
import hmac, json, os, re, struct, sys
from pathlib import Path
import reader_forgets
import zstandard
from argon2.low_level import Type, hash_secret_raw
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
OBJECT_MAX, RECORD_MAX, BLOB_MAX, WINDOW_MAX, CHAIN_MAX = 64 << 20, 16 << 20, 16 << 20, 1 << 25, 16
HOLE, HERE = bytes(32), Path(__file__).parent
TYPES = dict(config=2, session=5, snapshot=6, forget=7, condemned=8, state=9, seal=10, note=11, refs=12, ledger=13)
TYPES |= {"slot": 1, "pack": 3, "index run": 4, "label": 14}

class Refused(Exception):
    """Bytes that the format does not allow; `args[0]` is the class of chapter 00."""
def need(condition, error, why=""):
    if not condition:
        raise Refused(error, why)
def guarded(error, kinds, work):
    try:
        return work()
    except kinds as why:
        raise Refused(error, str(why)) from None
def hash_of(data):
    return blake3(data).digest()
# --- 05 CBOR -----------------------------------------------------------------------------------------------------------------
def cbor(data, at=0, depth=8):
    """One value at `at`: the value and where it ends."""
    need(depth > 0, "over limit")
    need(at < len(data), "truncated")
    major, info = data[at] >> 5, data[at] & 31
    at += 1
    if major == 7:
        need(info in (20, 21, 22), "not canonical" if info > 23 else "invalid")
        return {20: False, 21: True, 22: None}[info], at
    need(info <= 27 and major != 6, "not canonical")
    value = info
    if info >= 24:
        size = 1 << (info - 24)
        need(at + size <= len(data), "truncated")
        value, at = int.from_bytes(data[at:at + size], "big"), at + size
        need(value >= (24 if size == 1 else 1 << (4 * size)), "not canonical")
    if major < 2:
        need(major == 0 or value < 1 << 63, "over limit")
        return (value if major == 0 else -1 - value), at
    if major < 4:
        need(at + value <= len(data), "truncated")
        raw = data[at:at + value]
        return (raw if major == 2 else guarded("not canonical", UnicodeDecodeError, raw.decode)), at + value
    need(value <= len(data) - at, "truncated")
    out, last = {}, -1
    for key in range(value):
        if major == 5:
            key, at = cbor(data, at, depth - 1)
            need(type(key) is int and key >= 0, "invalid", "key of a map")
        need(key > last, "not canonical", "keys do not ascend")
        last = key
        out[key], at = cbor(data, at, depth - 1)
    return (list(out.values()) if major == 4 else out), at
def record(data):
    value, end = cbor(data)
    need(end == len(data), "not canonical", "bytes after the record")
    return value
# --- 15 objects --------------------------------------------------------------------------------------------------------------
def object_key(secret, kind, repository, salt):
    okm = blake3(bytes([kind]) + repository + salt, key=secret).digest(length=96)
    return okm[:32], okm[32:64], okm[64:]
def body_of(data):
    """The object without its hash, and the hash."""
    need(32 <= len(data) <= OBJECT_MAX, "truncated" if len(data) < 32 else "over limit")
    need(hash_of(data[:-32]) == data[-32:], "bad hash")
    return data[:-32], data[-32:]
def header(data, kind):
    need(len(data) >= 104, "truncated")
    need(data[:7] == b"holdall", "header", "magic")
    found, version, suite, variant, epoch, origin, salt, commitment = struct.unpack("<BHBBI24s32s32s", data[7:104])
    need(version == 1 and suite == 1, "unknown version")
    need(found == kind and (kind == 1) == (variant != 0) == (epoch == 0), "header")
    need((kind in (3, 4, 9)) == any(origin), "header", "origin")
    return dict(variant=variant, epoch=epoch, origin=origin, salt=salt, commitment=commitment)

class Opener:
    """Opens records of one object: `prefix` is all before its first record."""
    def __init__(self, secret_of, repository, prefix, kind, name):
        head = header(prefix, kind)
        secret = secret_of(head["epoch"])
        need(secret is not None, "wrong key", "key epoch")
        key, commitment, _ = object_key(secret, kind, repository, head["salt"])
        need(hmac.compare_digest(commitment, head["commitment"]), "wrong key")
        self.cipher, self.head = ChaCha20Poly1305(key), head
        self.bound = prefix + repository + hash_of(name.encode())
    def record(self, number, last, sealed):
        need(16 <= len(sealed) <= RECORD_MAX + 16, "truncated" if len(sealed) < 16 else "over limit")
        place = struct.pack("<IBI", number, last, len(sealed) - 16)
        nonce = struct.pack("<I7xB", number, last)
        return guarded("bad tag", InvalidTag, lambda: self.cipher.decrypt(nonce, bytes(sealed), self.bound + place))
def payload_of(plain):
    size = int.from_bytes(plain[:4], "little")
    need(4 + size <= len(plain), "truncated")
    need(not any(plain[4 + size:]), "not canonical", "padding")
    return plain[4:4 + size]

class Keyring:
    def __init__(self, data):
        fields = record(data)
        need(set(fields) == {0, 1, 2}, "unknown version" if max(fields, default=0) > 2 else "invalid")
        self.repository, self.root, epochs = fields[0], fields[1], fields[2]
        numbers = [number for number, _ in epochs]
        need(numbers and numbers[0] > 0 and sorted(set(numbers)) == numbers, "invalid")
        self.epochs, self.id_key = dict(map(tuple, epochs)), self.derive("blob id")
    def derive(self, purpose):
        return blake3(self.root, derive_key_context="holdall 2026-11 format 1 " + purpose).digest()
    def blob_id(self, kind, plain):
        return blake3(bytes([kind]) + plain, key=self.id_key).digest()
    def opener(self, prefix, kind, name):
        return Opener(self.epochs.get, self.repository, prefix, kind, name)
    def open(self, kind, name, data):
        """The payload of an object of one record that stands at `name`."""
        body, digest = body_of(data)
        own_hash = kind in ("state", "index run")
        opener = self.opener(body[:104], TYPES[kind], "" if own_hash else name)
        payload, parts = payload_of(opener.record(0, True, body[104:])), name.split("/")
        if kind == "index run":
            origin = opener.head["origin"]
            stands = ["s", sid_text(origin)] if any(origin[8:]) else ["g", origin[:8].hex()]
        else:
            fields = record(payload)
            first = fields[1] if kind in ("snapshot", "config") else fields.get(0)
            wide = {"config": "%d", "ledger": "%08x", "state": "%016x", "seal": "%016x", "condemned": "%016x"}.get(kind)
            need(type(first) is (int if wide else bytes), "invalid")
            stands = [wide % first if wide else first.hex() if kind == "refs" else sid_text(first)]
            stands += ["%08x" % fields[1]] if kind == "note" else []
            need(kind != "state" or opener.head["origin"].hex() == stands[0] + "0" * 32, "invalid", "origin")
        need(parts[1:1 + len(stands)] == stands, "invalid", "under another name")
        need(not own_hash or parts[-1] == digest.hex(), "invalid", "another hash")
        return payload
def sid_text(sid):
    need(len(sid) == 24, "invalid", "session id")
    return sid[:8].hex() + "-" + sid[8:].hex()
# --- 10 keys -----------------------------------------------------------------------------------------------------------------
def open_slot(data, number, repository, kind, secret):
    body, _ = body_of(data)
    head = header(body, 1)
    need(head["variant"] in (1, 2, 3), "unknown version", "kind of key slot")
    start = 148 if head["variant"] == 1 else 104
    if head["variant"] == 1:
        need(len(body) >= 148, "truncated")
        memory, passes, lanes, salt = struct.unpack("<III32s", body[104:148])
        need(memory >= 65536 and passes >= 3 and lanes >= 1, "invalid", "cost")
        need(memory <= 4 << 20 and passes <= 64 and lanes <= 16 and memory * passes <= 16 << 20, "over limit", "cost")
    need(head["variant"] == kind, "wrong key")
    secret = hash_secret_raw(secret, salt, passes, memory, lanes, 32, Type.ID) if kind == 1 else secret
    need(len(secret) == 32, "invalid", "a key file holds exactly 32 bytes")
    opener, end = Opener(lambda _: secret, repository, body[:start], 1, "keys/%d" % number), len(body) - 4216
    need(end >= start, "truncated")
    ring = Keyring(payload_of(opener.record(0, True, body[start:end])))
    need(ring.repository == repository, "invalid")
    return ring
def marker(data):
    need(len(data) <= 4096, "over limit")
    value = guarded("header", ValueError, lambda: json.loads(data))
    need(type(value) is dict and value.get("magic") == "holdall" and b'  "blake3"' in data, "header")
    features, cut = value.get("features"), data.index(b'  "blake3"')
    need(value["blake3"] == hash_of(data[:cut]).hex(), "bad hash")
    need(value["format"] == 1 and features["read"] == 0, "unknown version")
    need(re.fullmatch("[0-9a-f]{32}", value["repository"]), "invalid")
    return bytes.fromhex(value["repository"]), features
# --- 30, 40, 50: packs and index ---------------------------------------------------------------------------------------------
def tables(data, directory):
    """Packs (id, header, size), blocks (pack, record, offset, sealed, plain, codec), entries with their base."""
    need(len(data) >= 16, "truncated")
    counts, widths = struct.unpack("<4I", data[:16]), (144, 24, 52, 36)
    total = 16 + sum(n * w for n, w in zip(counts, widths))
    need(total == len(data), "truncated" if total > len(data) else "not canonical")
    rows, at = [], 16
    for count, width, form in zip(counts, widths, ("<32s104sI4x", "<6I", "<32sBBH4I", "<I32s")):
        rows.append(list(struct.iter_unpack(form, data[at:at + count * width])))
        at += count * width
    packs, blocks, entries, bases = *rows[:3], dict(rows[3])
    need(not (directory and packs), "invalid")
    need(all(e[1] < 3 and e[2] < 2 and e[3] == 0 for e in entries) and all(b[5] < 2 for b in blocks), "unknown version")
    need(set(bases) == {n for n, e in enumerate(entries) if e[2]}, "invalid", "bases")
    need(all(e[4] < len(blocks) and e[5] + e[6] <= blocks[e[4]][4] for e in entries), "invalid", "entry outside its block")
    return packs, blocks, [(*e, bases.get(n)) for n, e in enumerate(entries)]
def unzstd(frame, size, prefix=None):
    head = guarded("invalid", zstandard.ZstdError, lambda: zstandard.get_frame_parameters(frame))
    need(frame[:4] == b"\x28\xb5\x2f\xfd" and not frame[4] & 11 and head.window_size <= WINDOW_MAX, "invalid", "zstd frame")
    need(0 < size == head.content_size <= BLOB_MAX, "invalid", "content size")
    args = {"dict_data": zstandard.ZstdCompressionDict(prefix, dict_type=zstandard.DICT_TYPE_RAWCONTENT)} if prefix else {}
    zstd = zstandard.ZstdDecompressor(max_window_size=WINDOW_MAX, **args)
    plain = guarded("invalid", zstandard.ZstdError, lambda: zstd.decompress(frame, allow_extra_data=False))
    return need(len(plain) == size, "invalid") or plain
def open_block(opener, row, sealed):
    stored = opener.record(row[1], False, sealed)
    return unzstd(stored, row[4]) if row[5] else stored
def keep(recent, key, value, most):  # the last few of something
    recent.pop(next(iter(recent))) if len(recent) >= most else None
    recent[key] = value
    return value
class Blobs:
    """Finds and rebuilds blobs from every usable copy; `block(pack, row)` gives a block's plaintext."""
    def __init__(self, ring, block):
        self.ring, self.block, self.copies, self.recent = ring, block, {}, {}
    def add(self, packs, blocks, entries, dead=()):
        for blob, kind, _, _, block, offset, encoded, plain, base in entries:
            pack = packs[blocks[block][0]] if packs else None
            if not pack or pack[0] not in dead:
                self.copies.setdefault(blob, []).append((kind, pack, blocks[block], offset, encoded, plain, base))
    def get(self, blob, kind, chain=()):  # and how many deltas gave it: those of `chain` come on top
        if len(chain) + self.recent.get((blob, kind), (b"", CHAIN_MAX + 1))[1] <= CHAIN_MAX:
            return self.recent[blob, kind]
        last = Refused("invalid", "no usable copy of blob " + blob.hex())
        for found, pack, row, offset, encoded, plain, base in self.copies.get(blob, ()):
            try:
                need(base not in chain and len(chain) <= CHAIN_MAX, "invalid", "chain of deltas")
                need(found == kind, "wrong id")
                data = self.block(pack, row)[offset:offset + encoded]
                under, depth = self.get(base, kind, (*chain, blob)) if base else (b"", -1)
                data = unzstd(data, plain, under) if base else data
                need(self.ring.blob_id(kind, data) == blob, "wrong id")
                return keep(self.recent, (blob, kind), (data, depth + 1), 64)
            except (Refused, FileNotFoundError) as error:
                last = error
        raise last
# --- 12, 70, 85: a repository ------------------------------------------------------------------------------------------------
def secret_from_environment():
    key, file, password = (os.environ.get("HOLDALL_" + name) for name in ("KEY_FILE", "PASSWORD_FILE", "PASSWORD"))
    if key:
        return 2, Path(key).read_bytes()
    need(file or password, "wrong key", "set HOLDALL_PASSWORD, HOLDALL_PASSWORD_FILE or HOLDALL_KEY_FILE")
    return 1, Path(file).read_bytes().removesuffix(b"\n").removesuffix(b"\r") if file else os.fsencode(password)

class Repository:
    def __init__(self, root):
        self.root = Path(root)
        repository, _ = marker(self.read("holdall.json"))
        self.ring = self.unlock(repository)
        need(self.names("config"), "invalid", "an unfinished repository: no configuration")
        self.config = config = self.open("config", "config/%d" % max(map(int, self.names("config"))))
        need(config[0] == repository and config[2] == hash_of(self.read("holdall.json")), "invalid", "marker")
        need(config[8][0] == 0, "unknown version", "feature")
        self.log()
        self.blobs, self.blocks = Blobs(self.ring, self.block), {}
    def read(self, name):
        return (self.root / name).read_bytes()
    def open(self, kind, name):
        return record(self.ring.open(kind, name, self.read(name)))
    def names(self, folder):
        path = self.root / folder
        return sorted(p.name for p in path.iterdir() if "#" not in p.name) if path.is_dir() else []
    def unlock(self, repository):
        (kind, secret), tried = secret_from_environment(), 0
        for number in sorted(int(n) for n in self.names("keys") if n.isdigit()):
            data = self.read("keys/%d" % number)
            try:
                if tried < 16 and header(body_of(data)[0], 1)["variant"] == kind:
                    tried += kind == 1
                    return open_slot(data, number, repository, kind, secret)
            except Refused as error:
                print("keys/%d: %s" % (number, error), file=sys.stderr) if error.args[0] != "wrong key" else None
        raise Refused("wrong key", "no key slot opens")
    def log(self):
        rounds = [n for n in self.names("gc") if (self.root / "gc" / n / "seal").exists()]
        of = self.open("seal", "gc/%s/seal" % rounds[-1])[3] if rounds else None
        state = self.open("state", "gc/%016x/state/%s" % (of[0], of[1].hex())) if of else {1: 0, 2: b"", 3: b"", 4: b""}
        cut = lambda data, n: [data[i:i + n] for i in range(0, len(data), n)]
        self.floor, self.live = state[1], set(map(sid_text, cut(state[2], 24)))
        self.runs = {(row[:8].hex(), row[8:40].hex()) for row in cut(state[3], 80)}
        self.dead = set(cut(state[4], 32))
    def snapshots(self):
        """Committed snapshots that are not void, oldest first, and whether each was let go with an effect."""
        sids = [sid for sid in self.names("snapshots") if int(sid[:16], 16) >= self.floor or sid in self.live]
        commits = [s for s in (self.open("snapshot", "snapshots/" + sid) for sid in sids) if s[0] == 0]
        keys, kept = set(self.names("forgets")), reader_forgets.kept(self, commits, Refused)
        gone = [(s, sid_text(s[1]) in keys and s[1] not in kept) for s in commits]
        return sorted(gone, key=lambda s: (s[0][4], s[0][1]))
    def find(self, name):
        found = [s for s, gone in self.snapshots() if s[1][8:].hex().startswith(name) or (name == "latest" and not gone)]
        need(found and (name == "latest" or len(found) == 1), "invalid", "%d snapshots match %s" % (len(found), name))
        return found[-1]
    def load_index(self):
        young = [sid for sid in self.names("index/s") if int(sid[:16], 16) >= self.floor]
        names = ["index/s/%s/%s" % (sid, run) for sid in young for run in self.names("index/s/" + sid)]
        for name in names + ["index/g/%s/%s" % run for run in sorted(self.runs)]:
            self.blobs.add(*tables(self.ring.open("index run", name, self.read(name)), False), dead=self.dead)
    def block(self, pack, row):
        key, name = (pack[0], row[1]), pack[0].hex()
        if key not in self.blocks:
            with open(self.root / "packs" / name[:2] / name, "rb") as file:
                sealed = os.pread(file.fileno(), row[3], row[2])
            keep(self.blocks, key, open_block(self.ring.opener(pack[1], 3, ""), row, sealed), 16)
        return self.blocks[key]
    def entries(self, blob, level):
        node = record(self.blobs.get(blob, 1)[0])
        need(node[0] == level, "invalid", "level of a node")
        for element in node[1]:
            yield from self.entries(element[1], level - 1) if level else [element]
    def references(self, level, packed):
        need(packed and len(packed) % 40 == 0, "invalid", "references")
        for blob, size in struct.iter_unpack("<32sQ", packed):
            if level == 0:
                yield blob, size
            else:
                plain, _ = self.blobs.get(blob, 2)
                need(plain[0] == level - 1, "invalid", "level of a list")
                yield from self.references(level - 1, plain[1:])
    def content(self, entry, write, skip):
        """Gives the pieces of content to `write`, the lengths of holes to `skip`."""
        content, total, hasher = entry.get(5), 0, blake3()
        for blob, size in self.references(*content) if type(content) is list else ():
            total += size
            if blob == HOLE:
                skip(size)
                for at in range(0, size, 1 << 20) if 6 in entry else ():
                    hasher.update(bytes(min(size - at, 1 << 20)))
                continue
            data, _ = self.blobs.get(blob, 0)
            need(len(data) == size, "invalid", "length of a chunk")
            hasher.update(data)
            write(data)
        total = write(content) if type(content) is bytes else total
        need(content is None or total == entry.get(4, 0), "invalid", "size of content")
        need(6 not in entry or hasher.digest() == entry[6], "invalid", "whole hash of content")
# --- 62, 63: restore ---------------------------------------------------------------------------------------------------------
def safe(key, prefix):
    parts = key[len(prefix):].rstrip(b"/").split(b"/")
    need(parts == [b""] or all(p not in (b"", b".", b"..") and b"\0" not in p for p in parts), "invalid", "path %r" % key)
    return os.fsencode(TARGET) + b"".join(b"/" + p for p in parts if p)
def attributes(path, meta, link=False):
    for name, value in meta.get(12, []):
        try:
            os.setxattr(path, name, value, follow_symlinks=False)
        except OSError as error:
            print("%r: attribute %r: %s" % (path, name, error), file=sys.stderr)
    if os.geteuid() == 0:
        os.chown(path, meta[2], meta[3], follow_symlinks=False)
    link or os.chmod(path, meta[1])
    os.utime(path, ns=(meta[6] * 10**9 + meta.get(7, 0),) * 2, follow_symlinks=False)
def escaped(key):
    """A path for the key of an entry that is no file: what no careful name holds becomes %XX, and two keys never share a path."""
    odd = rb"[^A-Za-z0-9_./-]|(?<![^/])[.]|(?<=/)/|/$"
    return os.fsencode(TARGET) + b"/" + re.sub(odd, lambda m: b"%%%02X" % m[0][0], key)
def restore(repo, snapshot):
    """Files below the target under their paths, streams under their names. Links come last: nothing is written through one."""
    directories, links = [], []
    os.mkdir(TARGET)
    for entry in repo.entries(*snapshot[11][:2]):
        key, kind, meta = entry[0], entry[1], entry.get(2, {})
        prefix = next((p for p in (b"files/", b"streams/") if key.startswith(p)), None)
        path = safe(key, prefix) if prefix else escaped(key)
        if prefix and kind == 2:
            os.makedirs(path, exist_ok=True)
            directories.append((path, meta))
        elif prefix and kind in (3, 8):
            links.append((path, kind, meta))
        elif prefix and kind == 4:
            attributes(os.mkfifo(path) or path, meta)
        elif kind in (1, 9) or (not prefix and 5 in entry):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "xb") as file:
                repo.content(entry, file.write, lambda size: file.seek(size, 1))
                file.truncate(file.tell())
            attributes(path, meta) if prefix == b"files/" else None
        else:
            print("not restored: %r" % key, file=sys.stderr)
    for path, kind, meta in links:
        if kind == 8 and meta.get(15) != 3:
            os.link(safe(meta[9], b"files/"), path, follow_symlinks=False)
        else:
            attributes(os.symlink(meta[8], path) or path, meta, link=True)
    for path, meta in reversed(directories):
        attributes(path, meta)

if __name__ == "__main__":
    verb, args = (sys.argv + ["", ""])[1], sys.argv[2:]
    try:
        if verb == "vectors":
            sys.modules["reader"] = sys.modules["__main__"]
            sys.exit(__import__("reader_vectors").walk(Path(args[0] if args else HERE / "vectors")) > 0)
        sys.exit(__doc__) if (verb, len(args)) not in (("ls", 1), ("ls", 2), ("restore", 3)) else None
        repo, TARGET = Repository(args[0]), args[-1]
        chosen = repo.find(args[1]) if args[1:] else None
        repo.load_index() if chosen else None
        if verb == "restore":
            restore(repo, chosen)
        elif chosen:
            for entry in repo.entries(*chosen[11][:2]):
                print(entry[1], entry.get(4, 0), ascii(os.fsdecode(entry[0]))[1:-1])
        for fields, gone in repo.snapshots() if not chosen else ():
            state = "forgotten" if gone else "partial" if fields[12] else "complete"
            print(fields[1][8:].hex(), fields[2][0], fields[5], fields.get(6, "-"), state)
    except Refused as error:
        sys.exit("refused: " + ": ".join(map(str, error.args)))
