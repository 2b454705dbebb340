//! The same connection for a program of PostgreSQL's own, such as `pg_dump`: by variables, since arguments are visible to everyone.

use super::settings::{CertMode, Place, Root, Settings, SslMode, Version};
use std::ffi::OsString;
use tokio_postgres::config::ChannelBinding;

/// The variables. Of several hosts all are named; a connection that stands knows which one it reached.
pub(super) fn environment(settings: &Settings) -> Vec<(OsString, OsString)> {
    let mut all = Variables::default();
    let list = |of: &dyn Fn(&super::settings::Host) -> String| {
        let items: Vec<String> = settings.hosts.iter().map(of).collect();
        if items.iter().all(String::is_empty) {
            String::new()
        } else {
            items.join(",")
        }
    };
    all.set(
        "PGHOST",
        list(&|host| match &host.place {
            Place::Socket(dir) => dir.to_string_lossy().into_owned(),
            Place::Name(name) | Place::Address(_, Some(name)) => name.clone(),
            // The name that a certificate is checked against.
            Place::Address(address, None) => address.to_string(),
        }),
    );
    all.set(
        "PGHOSTADDR",
        list(&|host| match &host.place {
            Place::Address(address, _) => address.to_string(),
            Place::Socket(_) | Place::Name(_) => String::new(),
        }),
    );
    all.set("PGPORT", list(&|host| host.port.to_string()));
    all.set("PGUSER", &settings.user);
    all.set("PGDATABASE", &settings.database);
    // With several hosts the first that has one: libpq takes one for all from the environment.
    if let Some(password) = settings.hosts.iter().find_map(|host| settings.password(host)) {
        all.set("PGPASSWORD", password.as_str());
    }
    // What there was to read has been read. Nothing can be at this path; of /dev/null libpq warns that it is no plain file.
    all.set("PGPASSFILE", "/dev/null/none");
    all.set("PGOPTIONS", settings.options.as_deref().unwrap_or_default());
    all.set("PGAPPNAME", &settings.application_name);
    all.set("PGCLIENTENCODING", "UTF8");
    all.set(
        "PGCHANNELBINDING",
        match settings.channel_binding {
            ChannelBinding::Disable => "disable",
            ChannelBinding::Require => "require",
            _ => "prefer",
        },
    );
    let seconds = settings.connect_timeout.map_or(0, |time| time.as_secs());
    all.set("PGCONNECT_TIMEOUT", seconds.to_string());
    all.set("PGGSSENCMODE", "disable");
    tls(&mut all, settings);
    all.0
}

fn tls(all: &mut Variables, settings: &Settings) {
    let tls = &settings.tls;
    all.set(
        "PGSSLMODE",
        match tls.mode {
            SslMode::Disable => "disable",
            SslMode::Allow => "allow",
            SslMode::Prefer => "prefer",
            SslMode::Require => "require",
            SslMode::VerifyCa => "verify-ca",
            SslMode::VerifyFull => "verify-full",
        },
    );
    if tls.direct {
        all.set("PGSSLNEGOTIATION", "direct");
    }
    match &tls.root {
        Root::System => all.set("PGSSLROOTCERT", "system"),
        Root::File(path) => all.set("PGSSLROOTCERT", path.as_os_str()),
    }
    all.set("PGSSLCERT", tls.certificate.as_os_str());
    all.set("PGSSLKEY", tls.key.as_os_str());
    match tls.certificate_mode {
        CertMode::Allow => {}
        CertMode::Disable => all.set("PGSSLCERTMODE", "disable"),
        CertMode::Require => all.set("PGSSLCERTMODE", "require"),
    }
    if let Some(path) = &tls.crl {
        all.set("PGSSLCRL", path.as_os_str());
    }
    all.set("PGSSLSNI", if tls.server_name { "1" } else { "0" });
    let version = |version| match version {
        Version::Tls12 => "TLSv1.2",
        Version::Tls13 => "TLSv1.3",
    };
    all.set("PGSSLMINPROTOCOLVERSION", version(tls.oldest));
    all.set("PGSSLMAXPROTOCOLVERSION", version(tls.newest));
}

#[derive(Default)]
struct Variables(Vec<(OsString, OsString)>);

impl Variables {
    /// An empty value would not be none to every program: it is left out.
    fn set(&mut self, name: &str, value: impl Into<OsString>) {
        let value = value.into();
        if !value.is_empty() {
            self.0.push((name.into(), value));
        }
    }
}
