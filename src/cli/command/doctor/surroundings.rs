//! Variables that mask each other or that nothing reads, and files of secrets that others may read.

use crate::cli::args::Globals;
use crate::cli::environment;
use crate::cli::variables::OURS;
use crate::ops::{Diagnosis, Level};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What tests of this program read begins like this.
const OF_TESTS: &str = "HOLDALL_TEST_";

/// Of these at most one may be set: commands refuse several.
const EXCLUSIVE: [&[&str]; 6] = [
    &["HOLDALL_REPOSITORY", "HOLDALL_REPOSITORY_FILE"],
    &[
        "HOLDALL_PASSWORD",
        "HOLDALL_PASSWORD_FILE",
        "HOLDALL_PASSWORD_COMMAND",
        "HOLDALL_KEY_FILE",
    ],
    &["HOLDALL_DB_URL", "HOLDALL_DB_URL_FILE"],
    &["AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY_ID_FILE"],
    &["AWS_SECRET_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY_FILE"],
    &["AWS_SESSION_TOKEN", "AWS_SESSION_TOKEN_FILE"],
];

/// Files that these name hold secrets.
const SECRET_FILES: [&str; 7] = [
    "HOLDALL_PASSWORD_FILE",
    "HOLDALL_KEY_FILE",
    "HOLDALL_REPOSITORY_FILE",
    "HOLDALL_DB_URL_FILE",
    "AWS_ACCESS_KEY_ID_FILE",
    "AWS_SECRET_ACCESS_KEY_FILE",
    "AWS_SESSION_TOKEN_FILE",
];

/// What other programs read of S3, and this one does not.
const UNREAD: [(&str, &str); 5] = [
    (
        "AWS_PROFILE",
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or their _FILE twins)",
    ),
    (
        "AWS_SHARED_CREDENTIALS_FILE",
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or their _FILE twins)",
    ),
    (
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN",
    ),
    ("AWS_ENDPOINT_URL", "set HOLDALL_S3_ENDPOINT"),
    ("AWS_ENDPOINT_URL_S3", "set HOLDALL_S3_ENDPOINT"),
];

/// Looks at the variables of this process, and at files.
pub(super) fn look(globals: &Globals) -> Vec<Diagnosis> {
    let value = |name: &str| environment::variable(name).and_then(|value| value.into_string().ok());
    let mut found = variables(&value, &environment::names("HOLDALL_"));
    found.extend(flags(globals, &value));
    let named = SECRET_FILES.iter().filter_map(|name| value(name));
    let given = [
        &globals.password_file,
        &globals.key_file,
        &globals.recovery_phrase_file,
    ];
    let given = given.into_iter().flatten().map(|path| path.display().to_string());
    for path in named.chain(given) {
        found.extend(file(Path::new(&path)));
    }
    if found.is_empty() {
        found.push(Diagnosis::good(
            "variables",
            "none contradicts another, and files of secrets are private",
        ));
    }
    found
}

fn variables(value: &dyn Fn(&str) -> Option<String>, names: &[String]) -> Vec<Diagnosis> {
    let mut found = Vec::new();
    for group in EXCLUSIVE {
        let set: Vec<&str> = group
            .iter()
            .copied()
            .filter(|name| value(name).is_some())
            .collect();
        if set.len() > 1 {
            let what = format!("{} are set, and only one may be", set.join(" and "));
            found.push(Diagnosis::new(
                "variables",
                Level::Failure,
                what,
                "unset all but one",
            ));
        }
    }
    for name in names {
        if !OURS.iter().any(|known| known.name == name) && !name.starts_with(OF_TESTS) {
            let what = format!("{name} means nothing to this program");
            found.push(Diagnosis::new(
                "variables",
                Level::Warning,
                what,
                "look for a slip in its name; `holdall --help` names all",
            ));
        }
    }
    if (value("HOLDALL_DB_URL").is_some() || value("HOLDALL_DB_URL_FILE").is_some())
        && value("SUPABASE_DB_URL").is_some()
    {
        let what = "SUPABASE_DB_URL is set, and HOLDALL_DB_URL wins over it";
        found.push(Diagnosis::new(
            "variables",
            Level::Warning,
            what,
            "unset the one that is not meant",
        ));
    }
    if value("HOLDALL_PASSWORD").is_some() {
        let what = "the password stands in a variable, which other processes of this user can read";
        found.push(Diagnosis::new(
            "variables",
            Level::Note,
            what,
            "HOLDALL_PASSWORD_FILE names a file that holds it",
        ));
    }
    found.extend(of_s3(value));
    found
}

fn of_s3(value: &dyn Fn(&str) -> Option<String>) -> Vec<Diagnosis> {
    let mut found = Vec::new();
    let is_s3 = value("HOLDALL_REPOSITORY").is_some_and(|location| location.starts_with("s3:"));
    if let (Some(region), Some(other)) = (value("AWS_REGION"), value("AWS_DEFAULT_REGION"))
        && region != other
    {
        let what = format!("AWS_DEFAULT_REGION is {other}, and AWS_REGION ({region}) wins over it");
        found.push(Diagnosis::new(
            "variables",
            Level::Note,
            what,
            "unset the one that is not meant",
        ));
    }
    let has_keys = value("AWS_ACCESS_KEY_ID").is_some() || value("AWS_ACCESS_KEY_ID_FILE").is_some();
    for (name, instead) in UNREAD {
        let is_endpoint = name.starts_with("AWS_ENDPOINT");
        let is_settled = if is_endpoint {
            value("HOLDALL_S3_ENDPOINT").is_some()
        } else {
            has_keys
        };
        if is_s3 && value(name).is_some() && !is_settled {
            let what = format!("{name} is set, and nothing here reads it");
            found.push(Diagnosis::new("variables", Level::Warning, what, instead));
        }
    }
    found
}

/// What flags say wins over variables: worth knowing, since a cron job has the variables only.
fn flags(globals: &Globals, value: &dyn Fn(&str) -> Option<String>) -> Vec<Diagnosis> {
    let by_flag = [
        (globals.repo.is_some(), "--repo", "HOLDALL_REPOSITORY"),
        (globals.key_file.is_some(), "--key-file", "HOLDALL_KEY_FILE"),
        (
            globals.password_file.is_some(),
            "--password-file",
            "HOLDALL_PASSWORD_FILE",
        ),
        (globals.cache_dir.is_some(), "--cache-dir", "HOLDALL_CACHE_DIR"),
    ];
    let masked = by_flag
        .iter()
        .filter(|(given, _, name)| *given && value(name).is_some());
    masked
        .map(|(_, flag, name)| {
            let what = format!("{name} is set, and {flag} wins over it here");
            Diagnosis::new("variables", Level::Note, what, "nothing, if that is meant")
        })
        .collect()
}

/// A file of a secret that others than its owner may use.
fn file(path: &Path) -> Option<Diagnosis> {
    // One that is missing is told where it is read.
    let metadata = path.metadata().ok()?;
    let guarded = environment::variable("CREDENTIALS_DIRECTORY").is_some_and(|dir| path.starts_with(dir));
    let is_open = metadata.is_file() && metadata.mode() & 0o077 != 0;
    if !is_open || guarded {
        return None;
    }
    let (name, mode) = (path.display(), metadata.mode() & 0o777);
    Some(Diagnosis::new(
        "secrets",
        Level::Warning,
        format!("others than its owner may use {name} (mode {mode:o})"),
        format!("chmod 600 {name}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(set: &[(&str, &str)]) -> Vec<(Level, String)> {
        let value = |name: &str| {
            let found = set.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let names: Vec<String> = set.iter().map(|(name, _)| (*name).to_owned()).collect();
        let ours: Vec<String> = names
            .into_iter()
            .filter(|name| name.starts_with("HOLDALL_"))
            .collect();
        let found = variables(&value, &ours).into_iter();
        found.map(|one| (one.level, one.what)).collect()
    }

    #[test]
    fn variables_that_mask_each_other_are_told() {
        assert_eq!(
            found(&[("HOLDALL_REPOSITORY", "/r"), ("HOLDALL_KEY_FILE", "/k")]),
            []
        );
        let several = [("HOLDALL_PASSWORD_FILE", "/p"), ("HOLDALL_KEY_FILE", "/k")];
        assert!(
            matches!(found(&several).as_slice(), [(Level::Failure, what)] if what.contains("HOLDALL_KEY_FILE"))
        );
        let slip = found(&[("HOLDALL_REPOSITRY", "/r")]);
        assert!(matches!(slip.as_slice(), [(Level::Warning, what)] if what.contains("HOLDALL_REPOSITRY")));
        let slip = found(&[("HOLDALL_COPY_REPOSITRY", "/r")]);
        assert!(
            matches!(slip.as_slice(), [(Level::Warning, what)] if what.contains("HOLDALL_COPY_REPOSITRY"))
        );
        let right = [
            ("HOLDALL_BASE_CACHE", "1G"),
            ("HOLDALL_COPY_REPOSITORY", "/r"),
            ("HOLDALL_TEST_X", "1"),
        ];
        assert_eq!(found(&right), []);
        let urls = [("HOLDALL_DB_URL", "a"), ("SUPABASE_DB_URL", "b")];
        assert!(matches!(found(&urls).as_slice(), [(Level::Warning, _)]));
        let endpoint = [
            ("HOLDALL_REPOSITORY", "s3://b/p"),
            ("AWS_ENDPOINT_URL", "https://x"),
            ("AWS_PROFILE", "p"),
        ];
        assert_eq!(found(&endpoint).len(), 2);
        assert_eq!(found(&endpoint[1..]).len(), 0, "not about S3");
        let regions = [("AWS_REGION", "a"), ("AWS_DEFAULT_REGION", "b")];
        assert!(matches!(found(&regions).as_slice(), [(Level::Note, _)]));
    }
}
