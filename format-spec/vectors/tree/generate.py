#!/usr/bin/env python3
"""Writes the vectors of chapter 60, from its text alone: CBOR, cuts and roots are made here, not by the Rust code.

    python3 generate.py        (needs `blake3`)
"""

import json
import os
import struct

from blake3 import blake3

HERE = os.path.dirname(os.path.abspath(__file__))
BORDER = bytes(range(32))


def head(major, value):
    if value < 24:
        return bytes([major << 5 | value])
    for info, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if value < 1 << 8 * size:
            return bytes([major << 5 | info]) + value.to_bytes(size, "big")
    raise ValueError(value)


def cbor(value):
    if value is True or value is False:
        return b"\xf5" if value else b"\xf4"
    if value is None:
        return b"\xf6"
    if isinstance(value, Raw):
        return value.data
    if isinstance(value, int):
        return head(0, value) if value >= 0 else head(1, -1 - value)
    if isinstance(value, bytes):
        return head(2, len(value)) + value
    if isinstance(value, str):
        return head(3, len(value.encode())) + value.encode()
    if isinstance(value, list):
        return head(4, len(value)) + b"".join(map(cbor, value))
    return head(5, len(value)) + b"".join(cbor(k) + cbor(v) for k, v in value.items())


class Raw:
    def __init__(self, data):
        self.data = data


def blob(n):
    return blake3(struct.pack("<Q", n)).digest()


def refs(*pairs):
    return b"".join(i + struct.pack("<Q", n) for i, n in pairs)


HOLE = bytes(32)


def squeeze(data):
    """Hex; long runs of one byte as {"repeat", "times"}."""
    parts, start, i = [], 0, 0
    while i < len(data):
        j = i
        while j < len(data) and data[j] == data[i]:
            j += 1
        if j - i > 400:
            parts += [data[start:i].hex(), {"repeat": data[i : i + 1].hex(), "times": j - i}]
            start = j
        i = j
    return parts + [data[start:].hex()] if parts else data.hex()


def write(name, vectors):
    with open(os.path.join(HERE, name), "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(v, ensure_ascii=True) for v in vectors) + "\n]\n")


def vector(type_, name, expect, comment, **more):
    return {"name": name, "type": type_, "expect": expect, "comment": comment, **more}


def entries():
    out = []

    def good(name, comment, fields, **more):
        key, kind = fields[0], fields[1]
        content = fields.get(5)
        more = {"key": key.hex(), "kind": kind, "size": fields.get(4, 0), "state_bytes": len(fields.get(3, b"")), **more}
        more["content_bytes"] = 0 if content is None else fields.get(4, 0)
        out.append(vector("entry", name, "success", comment, bytes=squeeze(cbor(fields)), **more))

    def bad(name, expect, comment, fields):
        data = fields if isinstance(fields, bytes) else cbor(fields)
        out.append(vector("entry", name, expect, comment, bytes=squeeze(data)))

    one, two = refs((blob(1), 1000)), refs((blob(1), 1000), (HOLE, 1 << 40))
    whole = bytes([9]) * 32
    meta = {1: -1, 2: "\u00fc", 3: b"\x00", 4: True, 300: [1, [False, "x"]], 2**64 - 1: 0}
    good("smallest", "a key and a kind", {0: b"a", 1: 2})
    good("all fields", "every field of section 2", {0: b"a\x00\xff", 1: 1, 2: meta, 3: b"state", 4: 1000 + 2**40, 5: [0, two], 6: whole})
    good("inline", "content in the entry", {0: b"a", 1: 1, 4: 512, 5: b"i" * 512})
    good("one chunk", "one reference has no whole hash", {0: b"a", 1: 1, 4: 1000, 5: [0, one]})
    good("hole", "a hole of more than 16 MiB", {0: b"a", 1: 1, 4: 2**63, 5: [0, refs((HOLE, 2**63))]})
    good("lists", "one reference at level 4", {0: b"a", 1: 1, 4: 2**50, 5: [4, refs((blob(2), 2**50))], 6: whole})
    good("group size", "without content the size is the connector's", {0: b"t", 1: 16, 4: 77})
    good("longest key", "8,192 bytes", {0: b"k" * 8192, 1: 1})
    good("longest state", "65,536 bytes", {0: b"k", 1: 1, 3: bytes(65536)})
    good("64 references", "as many as an entry holds", {0: b"k", 1: 1, 4: 64, 5: [0, refs(*[(blob(n), 1) for n in range(64)])], 6: whole})
    nested = 1
    for _ in range(6):
        nested = [nested]
    good("nested metadata", "six arrays deep", {0: b"k", 1: 1, 2: {0: nested}})

    bad("empty", "truncated", "no bytes", b"")
    bad("cut short", "truncated", "the last byte is missing", cbor({0: b"abc", 1: 1, 3: b"xyz"})[:-1])
    bad("no key", "invalid", "field 0 is missing", {1: 1})
    bad("empty key", "invalid", "a key has at least one byte", {0: b"", 1: 1})
    bad("no kind", "invalid", "field 1 is missing", {0: b"a"})
    bad("unknown kind", "unknown version", "kind 10 does not exist", {0: b"a", 1: 10})
    bad("unknown field", "unknown version", "field 7 does not exist", {0: b"a", 1: 1, 7: 0})
    bad("fields not ascending", "not canonical", "1 before 0", {1: 1, 0: b"a"})
    bad("field twice", "not canonical", "kind twice", b"\xa3" + cbor(0) + cbor(b"a") + 2 * (cbor(1) + cbor(1)))
    bad("long integer", "not canonical", "kind 1 in two bytes", b"\xa2\x00\x41a\x01\x18\x01")
    bad("indefinite key", "not canonical", "a byte string of indefinite length", b"\xa2\x00\x5f\x41a\xff\x01\x01")
    bad("tagged metadata", "not canonical", "tag 1 in a value", b"\xa3\x00\x41a\x01\x01\x02\xa1\x00\xc1\x00")
    bad("metadata of nothing", "not canonical", "an empty map is left out", {0: b"a", 1: 1, 2: {}})
    bad("state of nothing", "not canonical", "an empty state is left out", {0: b"a", 1: 1, 3: b""})
    bad("size of nothing", "not canonical", "size 0 is left out", {0: b"a", 1: 1, 4: 0})
    bad("content of nothing", "not canonical", "empty content is left out", {0: b"a", 1: 1, 5: b""})
    bad("null metadata value", "invalid", "null is no value", {0: b"a", 1: 1, 2: {0: None}})
    bad("map in metadata", "invalid", "a map is no value", {0: b"a", 1: 1, 2: {0: {0: 1}}})
    bad("metadata key twice", "not canonical", "the largest number twice", {0: b"a", 1: 1, 2: Raw(b"\xa2" + 2 * (cbor(2**64 - 1) + cbor(0)))})
    bad("metadata too deep", "over limit", "seven arrays", {0: b"a", 1: 1, 2: {0: [nested]}})
    bad("too many metadata fields", "over limit", "257 pairs", {0: b"a", 1: 1, 2: {n: 0 for n in range(257)}})
    bad("metadata integer too large", "over limit", "2^63 is no signed integer of 64 bits", {0: b"a", 1: 1, 2: {0: 2**63}})
    bad("metadata over the limit", "over limit", "1 MiB and more", {0: b"a", 1: 1, 2: {0: bytes(1 << 20)}})
    bad("text that is no UTF-8", "not canonical", "in metadata", {0: b"a", 1: 1, 2: {0: Raw(b"\x61\xff")}})
    bad("key over the limit", "over limit", "8,193 bytes", {0: b"k" * 8193, 1: 1})
    bad("state over the limit", "over limit", "65,537 bytes", {0: b"k", 1: 1, 3: bytes(65537)})
    bad("inline over the limit", "over limit", "513 bytes", {0: b"k", 1: 1, 4: 513, 5: b"i" * 513})
    bad("65 references", "over limit", "more go into lists", {0: b"k", 1: 1, 4: 65, 5: [0, refs(*[(blob(n), 1) for n in range(65)])], 6: whole})
    bad("no references", "invalid", "an empty string of references", {0: b"k", 1: 1, 5: [0, b""]})
    bad("level 5", "over limit", "lists have 4 levels", {0: b"k", 1: 1, 4: 1000, 5: [5, one], 6: whole})
    bad("content array of three", "over limit", "an array of two", {0: b"k", 1: 1, 4: 1000, 5: [0, one, 0]})
    bad("content of another type", "invalid", "an integer", {0: b"k", 1: 1, 4: 1, 5: 1})
    bad("half a reference", "truncated", "39 bytes", {0: b"k", 1: 1, 4: 1000, 5: [0, one[:39]]})
    bad("reference of length 0", "invalid", "no chunk is empty", {0: b"k", 1: 1, 5: [0, refs((blob(1), 0))]})
    bad("chunk over the limit", "invalid", "16 MiB and a byte", {0: b"k", 1: 1, 4: 2**24 + 1, 5: [0, refs((blob(1), 2**24 + 1))]})
    bad("hole above level 0", "invalid", "the zero id names no list", {0: b"k", 1: 1, 4: 9, 5: [1, refs((HOLE, 9))], 6: whole})
    bad("sum over 64 bits", "over limit", "two holes of 2^63", {0: b"k", 1: 1, 4: 1, 5: [0, refs((HOLE, 2**63), (HOLE, 2**63))], 6: whole})
    bad("another size", "invalid", "999 for 1,000 bytes", {0: b"k", 1: 1, 4: 999, 5: [0, one]})
    bad("whole missing", "invalid", "two references need it", {0: b"k", 1: 1, 4: 1000 + 2**40, 5: [0, two]})
    bad("whole without need", "invalid", "one reference", {0: b"k", 1: 1, 4: 1000, 5: [0, one], 6: whole})
    bad("whole without content", "invalid", "there is nothing to hash", {0: b"k", 1: 1, 6: whole})
    bad("whole of 31 bytes", "invalid", "a hash has 32", {0: b"k", 1: 1, 4: 1000 + 2**40, 5: [0, two], 6: whole[:31]})
    write("entries.json", out)


def nodes():
    out = []

    def good(name, comment, node, first, last, elements, count, size):
        more = {"level": node[0], "first": first.hex(), "last": last.hex(), "elements": elements, "entries": count, "content_bytes": size}
        out.append(vector("node", name, "success", comment, bytes=squeeze(cbor(node)), **more))

    def bad(name, expect, comment, node):
        data = node if isinstance(node, bytes) else cbor(node)
        out.append(vector("node", name, expect, comment, bytes=squeeze(data)))

    a, b = {0: b"a", 1: 1, 4: 3, 5: b"abc"}, {0: b"a/b", 1: 16, 4: 70}
    good("empty leaf", "the tree of no entries", [0, []], b"", b"", 0, 0, 0)
    good("leaf", "a prefix sorts first; a size without content is not summed", [0, [a, b]], b"a", b"a/b", 2, 2, 3)
    big = {0: b"a", 1: 1, 2: {0: bytes(300000)}}
    good("large leaf", "a single entry may pass 256 KiB", [0, [big]], b"a", b"a", 1, 1, 0)
    children = [[b"a", blob(1), 1, 0], [b"z", blob(2), 200, 2**64 - 1]]
    good("inner", "level 1 with two children", [1, children], b"a", b"z", 2, 201, 2**64 - 1)
    good("single child", "below a root that is allowed", [15, children[:1]], b"a", b"a", 1, 1, 0)

    bad("empty", "truncated", "no bytes", b"")
    bad("cut short", "truncated", "the last byte is missing", cbor([0, [a, b]])[:-1])
    bad("bytes behind", "not canonical", "one byte more", cbor([0, [a]]) + b"\x00")
    bad("array of one", "invalid", "a node has two parts", [0])
    bad("array of three", "over limit", "a node has two parts", [0, [], 0])
    bad("level 16", "over limit", "a tree has 16 levels", [16, children])
    bad("count without elements", "truncated", "ten announced, none there", b"\x82\x00\x8a")
    bad("indefinite array", "not canonical", "of entries", b"\x82\x00\x9f\xff")
    bad("entries out of order", "not canonical", "descending", [0, [b, a]])
    bad("entries equal", "not canonical", "one key twice", [0, [a, a]])
    bad("bad entry", "invalid", "an entry without a kind", [0, [{0: b"a"}]])
    half = {1: 1, 2: {0: bytes(140000)}}
    bad("two entries over 256 KiB", "over limit", "only a single one may", [0, [{0: b"a", **half}, {0: b"b", **half}]])
    bad("over 2 MiB", "over limit", "no entry is that large", cbor([0, [a]]) + bytes(2 << 20))
    bad("inner without children", "invalid", "an inner node has one at least", [1, []])
    bad("children out of order", "not canonical", "descending", [1, children[::-1]])
    bad("children equal", "not canonical", "one last key twice", [1, [children[0], children[0]]])
    bad("child without entries", "invalid", "a child is never empty", [1, [[b"a", blob(1), 0, 0]]])
    bad("child without a key", "invalid", "the empty last key", [1, [[b"", blob(1), 1, 0]]])
    bad("child of zeros", "invalid", "the id of a hole", [1, [[b"a", HOLE, 1, 0]]])
    bad("child id of 31 bytes", "invalid", "an id has 32", [1, [[b"a", blob(1)[:31], 1, 0]]])
    bad("child array of three", "invalid", "a child has four parts", [1, [[b"a", blob(1), 1]]])
    bad("entry in an inner node", "invalid", "a map for an array", [1, [a]])
    bad("child in a leaf", "invalid", "an array for a map", [0, children])
    write("nodes.json", out)


def lists():
    low = next(n for n in range(100000) if struct.unpack("<H", blob(n)[:2])[0] < 64)
    pairs = [(blob(1), 5), (HOLE, 2**40), (blob(low), 7)]
    ends = [False, False, True]
    more = {"level": 0, "refs": [[i.hex(), n] for i, n in pairs], "ends": ends}
    out = [vector("list", "chunks and a hole", "success", "a hole ends no list; the last id does", bytes=(b"\x00" + refs(*pairs)).hex(), **more)]
    more = {"level": 3, "refs": [[blob(1).hex(), 2**63]], "ends": [False]}
    out.append(vector("list", "list of lists", "success", "the highest level", bytes=(b"\x03" + refs((blob(1), 2**63))).hex(), **more))

    def bad(name, expect, comment, level, data):
        out.append(vector("list", name, expect, comment, level=level, bytes=data.hex()))

    bad("empty", "invalid", "no bytes", 0, b"")
    bad("no references", "invalid", "a list has one at least", 0, b"\x00")
    bad("another level", "invalid", "level 1 where 0 is due", 0, b"\x01" + refs((blob(1), 5)))
    bad("half a reference", "truncated", "39 bytes", 0, b"\x00" + refs((blob(1), 5))[:39])
    bad("hole above level 0", "invalid", "the zero id names no list", 1, b"\x01" + refs((HOLE, 5)))
    bad("length 0", "invalid", "no reference is empty", 0, b"\x00" + refs((blob(1), 0)))
    bad("chunk over the limit", "invalid", "16 MiB and a byte", 0, b"\x00" + refs((blob(1), 2**24 + 1)))
    out.append(vector("list", "4,097 references", "over limit", "one too many", level=0, bytes=["00", {"repeat": "01", "times": 40 * 4097}]))
    write("lists.json", out)


def is_border(level, key):
    return int.from_bytes(blake3(bytes([level]) + key, key=BORDER).digest()[:8], "little") < 2**57


def borders():
    out = []
    for level in (0, 1, 15):
        yes = [k for k in (b"files/%d" % n for n in range(2000)) if is_border(level, k)][:3]
        no = [b"files/%d" % n for n in range(6) if not is_border(level, b"files/%d" % n)][:3]
        for key in yes + no + [b"\x00", b"k" * 8192]:
            name = f"level {level}, {key.decode() if len(key) < 20 and key != bytes(1) else str(len(key)) + ' bytes'}"
            out.append(vector("border", name, "success", "whether a node ends here", border_key=BORDER.hex(), level=level, key=squeeze(key), border=is_border(level, key)))
    write("borders.json", out)


def cut(level, elements):
    """Elements are (key, encoding, totals)."""
    cuts, open_, size = [], [], 0
    for element in elements:
        if open_ and (is_border(level, open_[-1][0]) or size + len(element[1]) > 262136):
            cuts.append(open_)
            open_, size = [], 0
        open_.append(element)
        size += len(element[1])
    return cuts + [open_]


def trees():
    out = []
    cases = [
        ("nothing", "an empty leaf", 0, 0, 0),
        ("one entry", "a leaf", 1, 0, 0),
        ("a few", "no border: still one leaf", 20, 0, 0),
        ("two levels", "borders of keys alone", 3000, 0, 0),
        ("three levels", "about 16,000 entries", 20000, 0, 0),
        ("heavy", "most nodes end by the size limit", 1000, 5000, 0),
        ("very heavy", "each thousandth entry has a leaf of its own", 3000, 20, 300000),
    ]
    for name, comment, count, state, rare in cases:
        elements = []
        for n in range(count):
            fields = {0: b"k/%06d" % n, 1: 1}
            if rare and n % 1000 == 500:
                fields[2] = {0: bytes(rare)}
            if state:
                fields[3] = b"s" * state
            fields.update({4: 3, 5: b"abc"})
            elements.append((fields[0], cbor(fields), (1, 3)))
        level, per_level = 0, []
        while True:
            parts = cut(level, elements)
            per_level.append(len(parts))
            named = []
            for part in parts:
                node = cbor([level, [Raw(e[1]) for e in part]])
                totals = tuple(sum(e[2][i] for e in part) for i in (0, 1))
                last = part[-1][0] if part else b""
                id_ = blake3(node).digest()
                named.append((last, cbor([last, id_, *totals]), totals, id_))
            if len(parts) == 1:
                break
            elements, level = named, level + 1
        root = {"id": named[0][3].hex(), "height": level, "entries": count, "bytes": 3 * count}
        more = {"border_key": BORDER.hex(), "count": count, "state_bytes": state, "rare_metadata_bytes": rare, "nodes_per_level": per_level, "root": root}
        out.append(vector("tree", name, "success", comment, **more))
    for over in (0, 1):
        first = cbor({0: b"k/000000", 1: 1, 3: bytes(1000)})
        empty = len(cbor({0: b"k/000001", 1: 1, 2: {0: bytes(200000)}}))
        second = cbor({0: b"k/000001", 1: 1, 2: {0: bytes(200000 + 262136 + over - len(first) - empty)}})
        assert len(first) + len(second) == 262136 + over
        leaves = [cbor([0, [Raw(first), Raw(second)]])] if not over else [cbor([0, [Raw(e)]]) for e in (first, second)]
        ids = [blake3(leaf).digest() for leaf in leaves]
        top = blake3(cbor([1, [[b"k/00000%d" % n, i, 1, 0] for n, i in enumerate(ids)]])).digest() if over else ids[0]
        root = {"id": top.hex(), "height": over, "entries": 2, "bytes": 0}
        per_level = [2, 1] if over else [1]
        name = f"{262136 + over} bytes of entries"
        comment = "two leaves" if over else "as many as one leaf holds"
        more = {"border_key": BORDER.hex(), "given": [squeeze(first), squeeze(second)], "nodes_per_level": per_level, "root": root}
        out.append(vector("tree", name, "success", comment, **more))
    write("trees.json", out)


if __name__ == "__main__":
    for make in (entries, nodes, lists, borders, trees):
        make()
