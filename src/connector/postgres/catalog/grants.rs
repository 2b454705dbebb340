//! Access lists as statements: what must be granted and revoked so that an object that was just made has this list.

use super::query::{Catalog, Parameter, get};
use crate::connector::postgres::name::quote;
use crate::error::Result;
use std::collections::{BTreeMap, BTreeSet};

/// Whom privileges are granted to; nobody by name is everybody.
type Grantee = Option<Vec<u8>>;

/// The privileges of each grantee, and whether they may be handed on. Who granted them is left out: another cluster's grantors are
/// not ours.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct AccessList(BTreeMap<Grantee, BTreeSet<(String, bool)>>);

impl AccessList {
    /// Reads the lists that a query gives, each row `[list: aclitem[]]` wrapped in `aclexplode` by [`exploded`]: object, grantee,
    /// privilege, grantable.
    pub(super) async fn read(
        catalog: &Catalog<'_>,
        what: &'static str,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<BTreeMap<Vec<u8>, Self>> {
        let mut lists: BTreeMap<Vec<u8>, Self> = BTreeMap::new();
        for row in catalog.rows(what, sql, parameters).await? {
            let list = lists.entry(get(&row, 0)?).or_default();
            let privileges = list.0.entry(get(&row, 1)?).or_default();
            privileges.insert((get(&row, 2)?, get(&row, 3)?));
        }
        Ok(lists)
    }

    /// The statements that make this list of `default`: first what is taken away, then what is given. `object` is as it stands
    /// behind `ON`.
    pub(super) fn statements(&self, default: &Self, object: &str) -> Result<Vec<String>> {
        let none = BTreeSet::new();
        let mut out = Vec::new();
        for (grantee, privileges) in &default.0 {
            let wanted = self.0.get(grantee).unwrap_or(&none);
            let gone: Vec<&str> = privileges
                .difference(wanted)
                .map(|(name, _)| name.as_str())
                .collect();
            if !gone.is_empty() {
                out.push(format!(
                    "REVOKE {} ON {object} FROM {}",
                    gone.join(", "),
                    who(grantee)?
                ));
            }
        }
        for (grantee, privileges) in &self.0 {
            let have = default.0.get(grantee).unwrap_or(&none);
            for (grantable, suffix) in [(false, ""), (true, " WITH GRANT OPTION")] {
                let new = privileges
                    .difference(have)
                    .filter(|(_, handed_on)| *handed_on == grantable);
                let new: Vec<&str> = new.map(|(name, _)| name.as_str()).collect();
                if !new.is_empty() {
                    out.push(format!(
                        "GRANT {} ON {object} TO {}{suffix}",
                        new.join(", "),
                        who(grantee)?
                    ));
                }
            }
        }
        Ok(out)
    }
}

fn who(grantee: &Grantee) -> Result<String> {
    grantee
        .as_ref()
        .map_or_else(|| Ok("PUBLIC".to_owned()), |name| quote(name))
}

/// SQL for the rows of [`AccessList::read`]: `list` of each row of `from`, named by `object`.
pub(super) fn exploded(catalog: &Catalog<'_>, object: &str, list: &str, from: &str) -> String {
    format!(
        "SELECT {}, {}, a.privilege_type, a.is_grantable FROM {from} CROSS JOIN LATERAL pg_catalog.aclexplode({list}) a
         LEFT JOIN pg_catalog.pg_roles g ON g.oid = a.grantee WHERE (a.grantee = 0 OR g.oid IS NOT NULL)",
        catalog.bytes(object),
        catalog.bytes("g.rolname"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(items: &[(&str, &str, bool)]) -> AccessList {
        let mut list = AccessList::default();
        for (grantee, privilege, grantable) in items {
            let grantee = (!grantee.is_empty()).then(|| grantee.as_bytes().to_vec());
            let privileges = list.0.entry(grantee).or_default();
            privileges.insert(((*privilege).to_owned(), *grantable));
        }
        list
    }

    #[test]
    fn only_the_difference_to_the_default_is_said() {
        let default = list(&[
            ("", "CONNECT", false),
            ("", "TEMPORARY", false),
            ("boss", "CREATE", false),
        ]);
        assert_eq!(default.statements(&default, "DATABASE d").unwrap(), [""; 0]);
        let changed = list(&[
            ("", "CONNECT", false),
            ("boss", "CREATE", true),
            ("a\"b", "CONNECT", true),
            ("a\"b", "TEMPORARY", false),
        ]);
        assert_eq!(
            changed.statements(&default, "DATABASE d").unwrap(),
            [
                "REVOKE TEMPORARY ON DATABASE d FROM PUBLIC",
                "REVOKE CREATE ON DATABASE d FROM \"boss\"",
                "GRANT TEMPORARY ON DATABASE d TO \"a\"\"b\"",
                "GRANT CONNECT ON DATABASE d TO \"a\"\"b\" WITH GRANT OPTION",
                "GRANT CREATE ON DATABASE d TO \"boss\" WITH GRANT OPTION",
            ]
        );
    }
}
