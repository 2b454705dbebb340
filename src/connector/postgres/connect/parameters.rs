//! The parameters of a connection by libpq's names, and the places they come from: the connection string, then the service file, then
//! the environment. ("Database Connection Control Functions" in PostgreSQL's manual, chapter libpq.)

use super::{connection_string, service};
use crate::error::{Error, ErrorKind, Result};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use zeroize::Zeroizing;

/// What libpq takes from its surroundings. The library reads no environment, so its caller says what there is.
#[derive(Clone, Default)]
pub struct Surroundings {
    /// Those of [`VARIABLES`] that are set.
    pub variables: BTreeMap<String, Zeroizing<String>>,
    /// The home directory, where `.pgpass` and `.postgresql/` are.
    pub home: Option<PathBuf>,
    /// The name of the user in the system, which is the default role.
    pub user: Option<String>,
}

impl Surroundings {
    /// What there is, by a look-up of variables that the caller reads from the environment.
    ///
    /// # Errors
    /// `Invalid` if one of [`VARIABLES`] is not text; the message does not hold it.
    pub fn gather(variable: impl Fn(&str) -> Option<OsString>, home: Option<PathBuf>) -> Result<Self> {
        let mut found = BTreeMap::new();
        for name in VARIABLES {
            let Some(value) = variable(name) else { continue };
            let value = value.into_string().map_err(|_| {
                Error::new(ErrorKind::Invalid, "an environment variable is not text").with("variable", name)
            })?;
            found.insert(name.to_owned(), Zeroizing::new(value));
        }
        // As libpq: the user that the process is, whatever the environment calls it.
        let user = user_name().or_else(|| variable("USER")?.into_string().ok());
        Ok(Self {
            variables: found,
            home,
            user,
        })
    }
}

/// The name of the process's user, from `/etc/passwd`.
fn user_name() -> Option<String> {
    let id = rustix::process::geteuid().as_raw().to_string();
    let text = std::fs::read_to_string("/etc/passwd").ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == id).then(|| name.to_owned())
    })
}

/// What becomes of a parameter.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// It is used.
    Taken,
    /// It has no meaning here, in no value.
    Ignored,
    /// It asks for what this program does not do: better refused than not done.
    Refused,
}

/// Every parameter of libpq 18, the variable it may come from, and what becomes of it.
const KEYWORDS: [(&str, &str, Use); 51] = [
    ("application_name", "PGAPPNAME", Use::Taken),
    ("channel_binding", "PGCHANNELBINDING", Use::Taken),
    // Text is UTF-8 between us and the server, whatever the terminal speaks.
    ("client_encoding", "PGCLIENTENCODING", Use::Ignored),
    ("connect_timeout", "PGCONNECT_TIMEOUT", Use::Taken),
    ("dbname", "PGDATABASE", Use::Taken),
    ("fallback_application_name", "", Use::Taken),
    ("gssdelegation", "PGGSSDELEGATION", Use::Ignored),
    ("gssencmode", "PGGSSENCMODE", Use::Taken),
    ("gsslib", "PGGSSLIB", Use::Ignored),
    ("host", "PGHOST", Use::Taken),
    ("hostaddr", "PGHOSTADDR", Use::Taken),
    ("keepalives", "", Use::Taken),
    ("keepalives_count", "", Use::Taken),
    ("keepalives_idle", "", Use::Taken),
    ("keepalives_interval", "", Use::Taken),
    ("krbsrvname", "PGKRBSRVNAME", Use::Ignored),
    ("load_balance_hosts", "PGLOADBALANCEHOSTS", Use::Taken),
    ("max_protocol_version", "PGMAXPROTOCOLVERSION", Use::Ignored),
    ("min_protocol_version", "PGMINPROTOCOLVERSION", Use::Refused),
    ("oauth_client_id", "", Use::Refused),
    ("oauth_client_secret", "", Use::Refused),
    ("oauth_issuer", "", Use::Refused),
    ("oauth_scope", "", Use::Refused),
    ("options", "PGOPTIONS", Use::Taken),
    ("passfile", "PGPASSFILE", Use::Taken),
    ("password", "PGPASSWORD", Use::Taken),
    ("port", "PGPORT", Use::Taken),
    ("replication", "", Use::Refused),
    ("require_auth", "PGREQUIREAUTH", Use::Refused),
    ("requirepeer", "PGREQUIREPEER", Use::Refused),
    ("scram_client_key", "", Use::Refused),
    ("scram_server_key", "", Use::Refused),
    ("service", "PGSERVICE", Use::Taken),
    ("servicefile", "PGSERVICEFILE", Use::Taken),
    ("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION", Use::Taken),
    ("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION", Use::Taken),
    ("sslcert", "PGSSLCERT", Use::Taken),
    ("sslcertmode", "PGSSLCERTMODE", Use::Taken),
    ("sslcompression", "PGSSLCOMPRESSION", Use::Ignored),
    ("sslcrl", "PGSSLCRL", Use::Taken),
    ("sslcrldir", "PGSSLCRLDIR", Use::Refused),
    ("sslkey", "PGSSLKEY", Use::Taken),
    ("sslkeylogfile", "", Use::Refused),
    ("sslmode", "PGSSLMODE", Use::Taken),
    ("sslnegotiation", "PGSSLNEGOTIATION", Use::Taken),
    ("sslpassword", "", Use::Refused),
    ("sslrootcert", "PGSSLROOTCERT", Use::Taken),
    ("sslsni", "PGSSLSNI", Use::Taken),
    ("target_session_attrs", "PGTARGETSESSIONATTRS", Use::Taken),
    ("tcp_user_timeout", "", Use::Taken),
    ("user", "PGUSER", Use::Taken),
];
/// The variables of the environment that a connection depends on: those of the parameters, the directory of the system's service file,
/// and an old form of `sslmode=require`.
pub const VARIABLES: [&str; 38] = [
    "PGAPPNAME",
    "PGCHANNELBINDING",
    "PGCLIENTENCODING",
    "PGCONNECT_TIMEOUT",
    "PGDATABASE",
    "PGGSSDELEGATION",
    "PGGSSENCMODE",
    "PGGSSLIB",
    "PGHOST",
    "PGHOSTADDR",
    "PGKRBSRVNAME",
    "PGLOADBALANCEHOSTS",
    "PGMAXPROTOCOLVERSION",
    "PGMINPROTOCOLVERSION",
    "PGOPTIONS",
    "PGPASSFILE",
    "PGPASSWORD",
    "PGPORT",
    "PGREQUIREAUTH",
    "PGREQUIREPEER",
    "PGSERVICE",
    "PGSERVICEFILE",
    "PGSSLMAXPROTOCOLVERSION",
    "PGSSLMINPROTOCOLVERSION",
    "PGSSLCERT",
    "PGSSLCERTMODE",
    "PGSSLCOMPRESSION",
    "PGSSLCRL",
    "PGSSLCRLDIR",
    "PGSSLKEY",
    "PGSSLMODE",
    "PGSSLNEGOTIATION",
    "PGSSLROOTCERT",
    "PGSSLSNI",
    "PGTARGETSESSIONATTRS",
    "PGUSER",
    "PGSYSCONFDIR",
    "PGREQUIRESSL",
];

/// Values by the names of their parameters.
#[derive(Clone, Default)]
pub(super) struct Parameters {
    values: BTreeMap<&'static str, Zeroizing<String>>,
}

impl Parameters {
    /// A value that is there and not empty: to libpq an empty one is none.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.values
            .get(name)
            .map(|value| value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// Takes a value; a later one replaces it.
    ///
    /// # Errors
    /// `Invalid` if libpq knows no such parameter, `Unsupported` if it asks for what is not done here. No message holds the value.
    pub(super) fn set(&mut self, name: &str, value: Zeroizing<String>) -> Result<()> {
        let known = KEYWORDS.iter().find(|(keyword, ..)| *keyword == name);
        let Some((keyword, _, usage)) = known else {
            return Err(Error::new(
                ErrorKind::Invalid,
                "PostgreSQL knows no such connection parameter",
            )
            .with("parameter", shown(name))
            .hint("remove it; connection strings for other programs may have parameters of those programs"));
        };
        let off = matches!(value.as_str(), "" | "0" | "off" | "false" | "no");
        match usage {
            Use::Refused if !off => Err(Error::new(
                ErrorKind::Unsupported,
                "this connection parameter is not supported",
            )
            .with("parameter", *keyword)
            .hint("remove it")),
            Use::Refused | Use::Ignored => Ok(()),
            Use::Taken => {
                self.values.insert(keyword, value);
                Ok(())
            }
        }
    }

    /// Takes what it has no value for.
    fn fill(&mut self, other: Self) {
        for (name, value) in other.values {
            self.values.entry(name).or_insert(value);
        }
    }

    /// All parameters: those of the connection string, then those of the service, then those of the environment.
    ///
    /// # Errors
    /// `Invalid` for what cannot be read, `Unsupported` for what is not done here.
    pub(super) fn gather(text: &str, surroundings: &Surroundings) -> Result<Self> {
        let mut all = connection_string::parse(text)?;
        let variable = |name: &str| surroundings.variables.get(name).map(|value| value.as_str());
        let named = all.get("service").or(variable("PGSERVICE")).map(str::to_owned);
        if let Some(name) = named.filter(|name| !name.is_empty()) {
            let file = all.get("servicefile").map(str::to_owned);
            all.fill(service::read(&name, file.as_deref(), surroundings)?);
        }
        let mut environment = Self::default();
        for (keyword, name, usage) in KEYWORDS {
            let value = variable(name).filter(|value| !value.is_empty());
            // What is refused by its name in a string is refused by its variable too.
            if let Some(value) = value.filter(|_| usage != Use::Ignored) {
                environment
                    .set(keyword, Zeroizing::new(value.to_owned()))
                    .map_err(|error| error.with("variable", name))?;
            }
        }
        // It takes the place of the default of `sslmode` only.
        if variable("PGREQUIRESSL").is_some_and(|value| value.starts_with('1')) {
            let mode = Zeroizing::new("require".to_owned());
            environment.values.entry("sslmode").or_insert(mode);
        }
        all.fill(environment);
        Ok(all)
    }
}

/// A name from a connection string as a message may show it: a misread string may have a piece of a password there.
fn shown(name: &str) -> String {
    let harmless = name.len() <= 40
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-' | '.'));
    if harmless && name.starts_with(|c: char| c.is_ascii_lowercase()) {
        name.to_owned()
    } else {
        "(not shown)".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variable_of_a_parameter_is_read() {
        for (keyword, variable, _) in KEYWORDS {
            assert!(
                variable.is_empty() || VARIABLES.contains(&variable),
                "{keyword}: {variable}"
            );
        }
    }

    #[test]
    fn the_string_goes_before_the_environment() {
        let surroundings = Surroundings::gather(
            |name| match name {
                "PGHOST" => Some("from-environment".into()),
                "PGDATABASE" => Some("app".into()),
                "PGPASSWORD" => Some("hunter2".into()),
                "PGREQUIRESSL" => Some("1".into()),
                _ => None,
            },
            None,
        )
        .unwrap();
        let all = Parameters::gather("postgres://from-string", &surroundings).unwrap();
        assert_eq!(all.get("host"), Some("from-string"));
        assert_eq!(all.get("dbname"), Some("app"));
        assert_eq!(all.get("sslmode"), Some("require"));
        assert!(!format!("{surroundings:?}").contains("hunter2"));
        assert!(surroundings.user.is_some());
    }
}
