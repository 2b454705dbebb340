//! Names of owners, from `/etc/passwd` and `/etc/group`. Users of a directory service have a number only.

use std::collections::HashMap;

/// Names of one kind of owner, both ways.
#[derive(Debug, Default)]
struct Table {
    names: HashMap<u32, String>,
    ids: HashMap<String, u32>,
}

/// The users and groups of this machine.
#[derive(Debug, Default)]
pub(super) struct Owners {
    users: Table,
    groups: Table,
}

impl Owners {
    /// Those of this machine; without the files there are none, which is no error: containers often have none.
    pub(super) fn load() -> Self {
        let table = |path| Table::parse(&fs_err::read(path).unwrap_or_default());
        Self {
            users: table("/etc/passwd"),
            groups: table("/etc/group"),
        }
    }

    pub(super) fn user(&self, uid: u32) -> Option<String> {
        self.users.names.get(&uid).cloned()
    }

    pub(super) fn group(&self, gid: u32) -> Option<String> {
        self.groups.names.get(&gid).cloned()
    }

    /// The uid that `name` has here, else `uid`. Root is root by number everywhere.
    pub(super) fn uid(&self, name: Option<&str>, uid: u32) -> u32 {
        self.users.id(name, uid)
    }

    /// The gid that `name` has here, else `gid`.
    pub(super) fn gid(&self, name: Option<&str>, gid: u32) -> u32 {
        self.groups.id(name, gid)
    }
}

impl Table {
    /// Lines of `name:x:number:…`; the first line with a number or a name wins, as in libc.
    fn parse(text: &[u8]) -> Self {
        let mut out = Self::default();
        for line in text.split(|b| *b == b'\n') {
            let Ok(line) = std::str::from_utf8(line) else {
                continue;
            };
            let mut fields = line.split(':');
            let (Some(name), Some(id)) = (fields.next(), fields.nth(1)) else {
                continue;
            };
            let Ok(id) = id.parse::<u32>() else { continue };
            if !name.is_empty() && !name.starts_with('#') {
                out.names.entry(id).or_insert_with(|| name.to_owned());
                out.ids.entry(name.to_owned()).or_insert(id);
            }
        }
        out
    }

    fn id(&self, name: Option<&str>, id: u32) -> u32 {
        if id == 0 {
            return 0;
        }
        name.and_then(|n| self.ids.get(n).copied()).unwrap_or(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways_and_root_stays_root() {
        let table =
            Table::parse(b"root:x:0:0::/root:/bin/sh\nanna:x:1000:100::\n\xff:x:7:\nodd\nanna2:x:1000:1::\n");
        assert_eq!(table.names.get(&1000).unwrap(), "anna");
        assert_eq!(table.id(Some("anna"), 5), 1000);
        assert_eq!(table.id(Some("ghost"), 5), 5);
        assert_eq!(table.id(Some("anna"), 0), 0);
    }
}
