"""Checks the vectors beside it with the reader: `reader.py vectors [DIR]`."""
import json, re, struct

from argon2.low_level import Type, hash_secret_raw
from blake3 import blake3
import zstandard
from reader import Blobs, CHAIN_MAX, HOLE, Keyring, Refused, body_of, hash_of, header, marker, need, object_key, open_block, open_slot, payload_of, record, tables, unzstd

def slot_label(ring, data, number):
    body, _ = body_of(data)
    end = len(body) - 104 - 4096 - 16
    need(end >= 0, "truncated")
    opener = ring.opener(body[end:end + 104], 14, "keys/%d#%s" % (number, hash_of(body[:end]).hex()))
    fields = record(payload_of(opener.record(0, True, body[end + 104:])))
    need(set(fields) <= {0, 1, 2}, "unknown version")
    need(set(fields) == {0, 1, 2}, "invalid")
    return dict(label=fields[0], host=fields[1], created=fields[2])

def open_pack(ring, name, data):
    """The opener and directory of a whole pack."""
    _, digest = body_of(data)
    need(digest.hex() == name, "invalid", "pack under another name")
    opener = ring.opener(data[:104], 3, "")
    need(len(data) >= 164, "truncated")
    trailer = opener.record(0xFFFFFFFF, True, data[-60:-32])
    need(len(trailer) == 12, "invalid")
    offset, size, blocks = struct.unpack("<III", trailer)
    need(offset >= 104 and offset + size <= len(data) - 60, "invalid", "directory outside its pack")
    return opener, tables(opener.record(blocks, False, data[offset:offset + size]), True)

def content_of(value):
    if "hex" in value:
        return bytes.fromhex(value["hex"])
    data = blake3(struct.pack("<Q", value["seed"])).digest(length=value["len"])
    return bytes(b & value["mask"] for b in data) if "mask" in value else data

def cuts(key, low, avg, high, data):
    masks = ("0000000018035100 0000001800035300 0000019000353000 0000590003530000 0000d90003530000 0000d90103530000 0000d90303530000 "
             "0000d90313530000 0000d90f03530000 0000d90303537000 0000d90703537000 0000d90707537000 0000d91707537000 0000d91747537000 "
             "0000d91767537000 0000d93767537000 0000d93777537000").split()
    gear, bits, out = struct.unpack("<256Q", blake3(b"", key=key).digest(length=2048)), avg.bit_length() - 1, []
    strict, loose, full = int(masks[bits + 1 - 7], 16), int(masks[bits - 1 - 7], 16), (1 << 64) - 1
    while data:
        n = size = min(len(data), high)
        h, mid = 0, min(avg, n) // 2
        for i in range(low // 2, n // 2) if n > low else ():
            mask = strict if i < mid else loose
            h = ((h << 2) + (gear[data[2 * i]] << 1)) & full
            if h & (mask << 1) == 0:
                size = 2 * i
                break
            h = (h + gear[data[2 * i + 1]]) & full
            if h & mask == 0:
                size = 2 * i + 1
                break
        out.append(size)
        data = data[size:]
    return out

def padme(n):
    if n < 2:
        return n
    e = n.bit_length() - 1
    m = (1 << max(e - max(e.bit_length(), 1), 0)) - 1
    return n + m & ~m

def as_json(value):
    if isinstance(value, dict):
        return {str(k): as_json(v) for k, v in value.items()}
    if isinstance(value, list):
        return [as_json(v) for v in value]
    return "h:" + value.hex() if isinstance(value, bytes) else "t:" + value if isinstance(value, str) else value

def entry_sum(runs, dead):
    rows = set()
    for packs, blocks, entries in (tables(bytes.fromhex(run), False) for run in runs):
        for blob, kind, delta, _, block, *place, base in entries:
            pack = packs[blocks[block][0]][0]
            if pack.hex() not in dead:
                rows.add(blob + bytes([kind, delta]) + pack + struct.pack("<8I", *blocks[block][1:], *place) + (base or HOLE))
    lanes = [sum(lane) % (1 << 64) for lane in zip(*(struct.unpack("<4Q", hash_of(row)) for row in rows))] or [0] * 4
    return len(rows), struct.pack("<4Q", *lanes).hex()

def canonical(data):
    """The marker must have this text; a reader that compares it with the sealed configuration's hash of it need not look."""
    value = json.loads(data)
    about = ("This is a Holdall backup repository: encrypted, deduplicated backups. Do not change, move or delete anything in it by "
             "hand. Read it with the program `holdall` and one of its keys.")
    features = value["features"]
    parts = value["repository"], features["read"], features["write"], features["delete"], about, value["blake3"]
    same = '{\n  "magic": "holdall",\n  "format": 1,\n  "repository": "%s",\n  "features": {"read": %d, "write": %d, "delete": %d},\n' \
        '  "about": "%s",\n  "blake3": "%s"\n}\n' % parts
    need(same.encode() == data, "not canonical")

def check(kind, case):
    """The fields that a case of this kind gives, to be compared; None if this program cannot tell."""
    raw = {k: bytes.fromhex(v) for k, v in case.items() if type(v) is str and re.fullmatch("([0-9a-f]{2})*", v)}
    ring = Keyring(raw["keyring"]) if "keyring" in raw and kind != "slot" else None
    if kind == "kdf":
        cost = case["passes"], case["memory_kib"], case["lanes"]
        return {"secret": hash_secret_raw(case["password"].encode(), raw["salt"], *cost, 32, Type.ID).hex()}
    if kind == "keyring":
        ring = Keyring(raw["bytes"])
        keys = {"gear_key": "gear table", "border_key": "tree border", "rebase_key": "delta rebase"}
        return {"newest": max(ring.epochs), "repository": ring.repository.hex()} | {k: ring.derive(v).hex() for k, v in keys.items()}
    if kind == "object key":
        found = object_key(raw["secret"], case["type"], raw["repository"], raw["salt"])
        return dict(zip(("key", "commitment", "padding"), map(bytes.hex, found)))
    if kind == "blob id":
        return {"id": ring.blob_id(case["blob_kind"], content_of(case["content"])).hex()}
    if kind == "session id":
        need(re.fullmatch("[0-9a-f]{16}-[0-9a-f]{32}", case["text"]) and case["text"][17:].strip("0"), "invalid")
        return {"bytes": case["text"].replace("-", "")}
    if kind == "gear":
        return {"table_blake3": hash_of(blake3(b"", key=raw["gear_key"]).digest(length=2048)).hex()}
    if kind == "chunking" and "error" not in case and case["content"]["len"] <= 3 << 20:
        sizes = case["min"], case["avg"], case["max"]
        return {"cuts": cuts(raw["gear_key"], *sizes, content_of(case["content"]))}
    if kind == "padme":
        return {"padded": padme(case["len"])}
    if kind == "header":
        head = header(raw["bytes"], case["type"])
        return {k: head[k].hex() if type(head[k]) is bytes else head[k] for k in ("epoch", "variant", "salt", "commitment")}
    if kind == "marker":
        repository, features = marker(raw["bytes"])
        canonical(raw["bytes"])
        return {"repository": repository.hex(), "features": [features[k] for k in ("read", "write", "delete")]}
    if kind == "record" and case["record"] in ("index run", "directory"):
        return {} if tables(raw["bytes"], case["record"] == "directory") else None
    if kind == "record" and case["record"] not in ("list", "pack trailer"):
        return {"value": as_json(record(raw["bytes"]))}
    if kind == "object":
        return {"payload": ring.open(case["record"], case["object"], raw["bytes"]).hex()}
    if kind == "slot" and "label_of" in case:
        return slot_label(Keyring(raw["label_of"]), raw["bytes"], case["number"])
    if kind == "slot" and case["unlock"] != "recovery-phrase":
        which, secret = (1, case["secret"].encode()) if case["unlock"] == "password" else (2, raw["secret"])
        ring = open_slot(raw["bytes"], case["number"], raw["repository"], which, secret)
        return {"label": slot_label(ring, raw["bytes"], case["number"])}
    if kind == "pack":
        opener, (_, rows, entries) = open_pack(ring, case["id"], raw["bytes"])
        blobs = Blobs(ring, lambda _, row: open_block(opener, row, raw["bytes"][row[2]:row[2] + row[3]]))
        blobs.add([], rows, entries)
        found = [(e, blobs.get(e[0], e[1])[0]) for e in entries]
        return {"blobs": [{"id": e[0].hex(), "kind": e[1], "delta": bool(e[2]), "len": len(b), "blake3": hash_of(b).hex()} for e, b in found]}
    if kind == "frame":
        return {"blake3": hash_of(unzstd(raw["bytes"], case["len"], raw.get("base"))).hex()}
    if kind == "entry sum":
        return dict(zip(("count", "hash"), entry_sum(case["runs"], case["dead"])))
    return None

def longest_chain():
    """Deltas that the longest chain has when each of its blobs is asked for and remembered before the next one, which rests on it."""
    zeros = b"\x58\x20" + bytes(32)
    ring = Keyring(b"\xa3\x00\x50" + bytes(16) + b"\x01" + zeros + b"\x02\x81\x82\x01" + zeros)
    plain = [b"row %d of a chain\n" % n * 9 for n in range(CHAIN_MAX + 3)]
    names = [ring.blob_id(0, data) for data in plain]
    prefix = lambda data: zstandard.ZstdCompressionDict(data, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    deltas = [zstandard.ZstdCompressor(dict_data=prefix(base), write_dict_id=False, write_checksum=False).compress(data)
              for base, data in zip(plain, plain[1:])]
    blobs = Blobs(ring, lambda _, row: row)
    blobs.add([], [plain[0], *deltas], [(name, 0, n > 0, 0, n, 0, len((plain[:1] + deltas)[n]), len(plain[n]), names[n - 1] if n else None)
                                        for n, name in enumerate(names)])
    for count, name in enumerate(names):
        try:
            need(blobs.get(name, 0) == (plain[count], count), "invalid", "another content")
        except Refused:
            return count - 1
    return len(names)

def walk(folder):
    longest = longest_chain()
    if longest != CHAIN_MAX:
        print("the longest chain that is read has %d deltas, not %d" % (longest, CHAIN_MAX))
        return 1
    held = skipped = failed = 0
    for path in sorted(folder.rglob("*.json")):
        file = json.loads(path.read_text())
        if isinstance(file, list):  # The tree's, which have a schema of their own.
            skipped += len(file)
            continue
        for case in file["cases"]:
            try:
                found = check(file["kind"], case)
                # The reader does not judge every field of records that it needs not: what only such rules exclude is skipped.
                loose = "error" in case and file["kind"] == "record"
                right = found is not None and "error" not in case and all(case.get(k, v) == v for k, v in found.items())
            except Refused as error:
                # A record may be refused as any class that applies; everything else as the one that the vector fixes.
                found, loose = error.args, False
                right = "error" in case and (file["kind"] == "record" or error.args[0] == case["error"])
            held, skipped = held + right, skipped + (found is None or loose)
            if not right and found is not None and not loose:
                failed += 1
                print("%s: %s: %s, not %s" % (path, case["name"], str(found)[:300], case.get("error", "accepted")))
    print("%d vectors hold, %d skipped, %d fail" % (held, skipped, failed))
    return failed
