//! The variables that this program reads, each with what it says: the help names them from here, and `doctor` knows them from here.

/// A variable, and what it says.
pub(super) struct Variable {
    pub(super) name: &'static str,
    says: &'static str,
}

const fn of(name: &'static str, says: &'static str) -> Variable {
    Variable { name, says }
}

/// All whose names begin with `HOLDALL_`, in the order of the help.
pub(super) const OURS: [Variable; 30] = [
    of("HOLDALL_REPOSITORY", "where the repository is"),
    of("HOLDALL_REPOSITORY_FILE", "a file that holds the location"),
    of("HOLDALL_PASSWORD", "the password"),
    of("HOLDALL_PASSWORD_FILE", "a file that holds the password"),
    of("HOLDALL_PASSWORD_COMMAND", "a command that prints the password"),
    of("HOLDALL_KEY_FILE", "a key file, instead of a password"),
    of("HOLDALL_DB_URL", "the database that `snapshot` keeps"),
    of("HOLDALL_DB_URL_FILE", "a file that holds its address"),
    of("HOLDALL_CACHE_DIR", "where copies of small objects are kept"),
    of(
        "HOLDALL_BASE_CACHE",
        "the most that is kept there of what changed content is compared with (20G)",
    ),
    of("HOLDALL_HOST", "the name of this host"),
    of("HOLDALL_MEMORY", "memory for data on its way (256M)"),
    of(
        "HOLDALL_PROGRESS_FPS",
        "how often progress is drawn in a second (0 to 60)",
    ),
    of(
        "HOLDALL_S3_ENDPOINT",
        "https://host:port; AWS itself if it is not set",
    ),
    of(
        "HOLDALL_S3_STORAGE_CLASS",
        "of packs; everything else stays in the bucket's own",
    ),
    of(
        "HOLDALL_COPY_REPOSITORY",
        "where the second repository of `copy` is",
    ),
    of("HOLDALL_COPY_PASSWORD", "its password, if it has keys of its own"),
    of("HOLDALL_COPY_PASSWORD_FILE", "a file that holds it"),
    of("HOLDALL_COPY_PASSWORD_COMMAND", "a command that prints it"),
    of("HOLDALL_COPY_KEY_FILE", "its key file"),
    of("HOLDALL_COPY_S3_ENDPOINT", "its endpoint"),
    of("HOLDALL_COPY_S3_STORAGE_CLASS", "its storage class"),
    of(
        "HOLDALL_COPY_ACCESS_KEY_ID",
        "its store's key, as AWS_ACCESS_KEY_ID",
    ),
    of("HOLDALL_COPY_ACCESS_KEY_ID_FILE", "a file that holds it"),
    of("HOLDALL_COPY_SECRET_ACCESS_KEY", "as AWS_SECRET_ACCESS_KEY"),
    of("HOLDALL_COPY_SECRET_ACCESS_KEY_FILE", "a file that holds it"),
    of("HOLDALL_COPY_SESSION_TOKEN", "as AWS_SESSION_TOKEN"),
    of("HOLDALL_COPY_SESSION_TOKEN_FILE", "a file that holds it"),
    of("HOLDALL_COPY_REGION", "as AWS_REGION"),
    of("HOLDALL_COPY_DEFAULT_REGION", "as AWS_DEFAULT_REGION"),
];

/// Those of others that are read too.
const OTHERS: [Variable; 8] = [
    of(
        "AWS_ACCESS_KEY_ID",
        "a key of the S3 store (also with _FILE, naming a file that holds it)",
    ),
    of(
        "AWS_SECRET_ACCESS_KEY",
        "the secret of that key (also with _FILE)",
    ),
    of("AWS_SESSION_TOKEN", "its token, if it has one (also with _FILE)"),
    of("AWS_REGION", "the region (else AWS_DEFAULT_REGION)"),
    of("SUPABASE_DB_URL", "the database, if HOLDALL_DB_URL is not set"),
    of(
        "https_proxy",
        "a proxy, as HTTPS_PROXY, all_proxy and ALL_PROXY; http_proxy for an endpoint of http://",
    ),
    of("no_proxy", "what is reached without it, as NO_PROXY"),
    of("NO_COLOR", "no colors; CLICOLOR_FORCE: colors everywhere"),
];

/// The exit codes, in one line.
const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 usage, 3 done but incomplete, 4 overdue or in need of you, 5 data differs, 10 no \
    repository, 11 busy, 12 wrong key, 13 damaged, 14 refused (protected, a plan that asks for --confirm, an unsafe store or clock, nobody to \
    ask), 15 store unreachable or its disk fails, 16 full, 17 store refused the write, 130 and 143 interrupted.";

const NEW_TO_IT: &str = "New to it? `holdall demo` shows everything on a throwaway database.";

/// What stands below the short help.
pub(super) fn after_help() -> String {
    format!("{EXIT_CODES}\n{NEW_TO_IT}")
}

/// What stands below the long help.
pub(super) fn after_long_help() -> String {
    let line = |variable: &Variable| format!("  {:<35}  {}\n", variable.name, variable.says);
    let ours: String = OURS.iter().map(line).collect();
    let others: String = OTHERS.iter().map(line).collect();
    format!(
        "{EXIT_CODES}\n\nVariables (flags win over them):\n{ours}{others}\n\
        The second repository of `copy` is reached with the variables of the first store, unless one of its own is set: then only these \
        count. Commands that are started (--password-command, --stream) are given no variable that holds a secret of Holdall or of the \
        store.\n\n{NEW_TO_IT}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    /// What of a program's text looks like a variable of ours, tests left out.
    fn named(text: &str) -> impl Iterator<Item = &str> {
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        let words = text.split(|c: char| !c.is_ascii_uppercase() && !c.is_ascii_digit() && c != '_');
        // With a dash behind it, it is a family: `HOLDALL_COPY_…`.
        words.filter(|word| word.starts_with("HOLDALL_") && !word.ends_with('_'))
    }

    fn sources(directory: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, found);
            } else {
                found.push(std::fs::read_to_string(path).unwrap());
            }
        }
    }

    /// A variable that the program reads and this list lacks would not be in the help, and `doctor` would call it a slip.
    #[test]
    fn every_variable_that_the_program_names_is_listed_once() {
        let listed: BTreeSet<&str> = OURS.iter().map(|variable| variable.name).collect();
        assert_eq!(listed.len(), OURS.len());
        let mut texts = Vec::new();
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli"), &mut texts);
        let used: BTreeSet<&str> = texts.iter().flat_map(|text| named(text)).collect();
        let unlisted: Vec<_> = used.difference(&listed).collect();
        assert!(unlisted.is_empty(), "{unlisted:?}");
        assert!(used.contains("HOLDALL_BASE_CACHE") && used.contains("HOLDALL_COPY_S3_STORAGE_CLASS"));
    }

    #[test]
    fn the_help_names_every_variable() {
        let help = after_long_help();
        for variable in OURS.iter().chain(&OTHERS) {
            assert!(
                help.contains(&format!("  {} ", variable.name)),
                "{}",
                variable.name
            );
        }
    }
}
