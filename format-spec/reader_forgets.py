"""Which forgets have an effect: chapters 75, 12 and 85 section 5. A part of reader.py."""
import time
APART = 86400

def kept(repo, snapshots, unreadable):
    """Of all committed snapshots, those that no forget touches: protected, or retained by the configuration."""
    last, age, now, sources, out = repo.config[6], repo.config[7], time.time(), {}, set()
    for snapshot in snapshots:
        sid, seen, protected = snapshot[1], snapshot[4], False
        folder = "notes/%s-%s" % (sid[:8].hex(), sid[8:].hex())
        for number in repo.names(folder):  # fixed width: in their order, so that the highest of a field wins
            try:
                note = repo.open("note", "%s/%s" % (folder, number))
                protected, seen = note.get(5, protected), note.get(6, seen)
            except unreadable:
                protected = True  # it may be the note that protects, unless a higher one says
        if protected or now - seen[0] < age:
            out.add(sid)
        if not snapshot[12]:
            of = snapshot[5], snapshot.get(6), tuple(sorted((connector, what) for connector, what, _ in snapshot[8]))
            sources.setdefault(of, []).append((snapshot[2][0] <= now + APART, snapshot[2], sid, (snapshot.get(10) or (0, sid))[1]))
    for those in sources.values():
        places = set()
        for *_, sid, first in sorted(those, reverse=True):
            if first in places or len(places) < last:
                places.add(first)
                out.add(sid)
    return out
