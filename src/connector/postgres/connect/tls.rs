//! TLS on rustls, with libpq's meaning of each `sslmode`: encryption for `require`, a trusted chain for `verify-ca`, the host's name too
//! for `verify-full`. Where a file of trusted certificates is there, the chain is verified in every mode, as libpq does it.

use super::settings::{CertMode, Root, SslMode, Tls, Version};
use crate::error::{Error, ErrorKind, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use tokio_postgres_rustls::MakeRustlsConnect;
use zeroize::Zeroizing;

/// The largest file of certificates that is read, in bytes.
const SIZE_MAX: u64 = 16 << 20;

/// What makes TLS of a connection.
///
/// # Errors
/// `Invalid` if a file of certificates or keys is missing, cannot be used, or is open to others.
pub(super) fn connector(tls: &Tls) -> Result<MakeRustlsConnect> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(verifier(tls, &provider)?);
    let versions: Vec<_> = [
        (Version::Tls12, &rustls::version::TLS12),
        (Version::Tls13, &rustls::version::TLS13),
    ]
    .into_iter()
    .filter(|(version, _)| (tls.oldest..=tls.newest).contains(version))
    .map(|(_, version)| version)
    .collect();
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)
        .map_err(|error| {
            Error::new(
                ErrorKind::Invalid,
                "no version of TLS is left between the given ones",
            )
            .with("parameter", "ssl_min_protocol_version")
            .because(error)
        })?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity(tls)? {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|error| {
            Error::new(
                ErrorKind::Invalid,
                "the client's certificate and key cannot be used",
            )
            .with("path", tls.certificate.display())
            .because(error)
        })?,
    };
    config.enable_sni = tls.server_name;
    if tls.direct {
        config.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    Ok(MakeRustlsConnect::new(config))
}

/// What is asked of a server's certificate.
#[derive(Debug)]
struct Verifier {
    /// Checks the chain; none if any certificate will do.
    chain: Option<Arc<WebPkiServerVerifier>>,
    /// The trusted certificates. A server may show one of them itself: the usual way with a self-signed one.
    trusted: Vec<CertificateDer<'static>>,
    /// Whether the certificate must be for the host's name.
    name: bool,
    provider: Arc<CryptoProvider>,
}

fn verifier(tls: &Tls, provider: &Arc<CryptoProvider>) -> Result<Verifier> {
    let trusted = match &tls.root {
        Root::System => rustls_native_certs::load_native_certs().certs,
        Root::File(path) if path.exists() => certificates(path)?,
        Root::File(path) if tls.mode >= SslMode::VerifyCa => {
            return Err(
                Error::new(ErrorKind::Invalid, "the file of trusted certificates is not there")
                    .with("path", path.display())
                    .hint(
                        "name the authority's certificate with sslrootcert=FILE, or take those that the system trusts with \
                         sslrootcert=system",
                    ),
            );
        }
        Root::File(_) => Vec::new(),
    };
    if trusted.is_empty() && (tls.mode >= SslMode::VerifyCa || matches!(tls.root, Root::System)) {
        return Err(Error::new(
            ErrorKind::Invalid,
            "there are no trusted certificates to verify the server with",
        )
        .hint("name the authority's certificate with sslrootcert=FILE"));
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(trusted.iter().cloned());
    let chain = if roots.is_empty() {
        None
    } else {
        let mut builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        if let Some(path) = &tls.crl {
            builder = builder.with_crls(revoked(path)?);
        }
        Some(builder.build().map_err(|error| {
            Error::new(ErrorKind::Invalid, "the trusted certificates cannot be used").because(error)
        })?)
    };
    Ok(Verifier {
        chain,
        trusted,
        name: tls.mode == SslMode::VerifyFull,
        provider: Arc::clone(provider),
    })
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else {
            return Ok(ServerCertVerified::assertion());
        };
        if self.trusted.iter().any(|trusted| trusted == end_entity) {
            super::validity::check(end_entity, now.as_secs())?;
            if self.name {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            }
            return Ok(ServerCertVerified::assertion());
        }
        // The name is looked at last, so whatever fails there has a good chain.
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.name => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// The client's certificate chain and key, if there are any to show.
fn identity(tls: &Tls) -> Result<Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>> {
    if tls.certificate_mode == CertMode::Disable {
        return Ok(None);
    }
    let needed = tls.certificate_named || tls.certificate_mode == CertMode::Require;
    if !tls.certificate.exists() {
        if !needed {
            return Ok(None);
        }
        return Err(
            Error::new(ErrorKind::Invalid, "the client's certificate is not there")
                .with("path", tls.certificate.display())
                .with("parameter", "sslcert"),
        );
    }
    let chain = certificates(&tls.certificate)?;
    private(&tls.key)?;
    let pem = Zeroizing::new(read(&tls.key)?);
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| {
        let encrypted = String::from_utf8_lossy(&pem).contains("ENCRYPTED");
        let error = Error::new(ErrorKind::Invalid, "the client's key cannot be read")
            .with("path", tls.key.display())
            .because(error);
        if encrypted {
            error.hint("a key that is encrypted is not supported: openssl pkey -in KEY -out PLAIN")
        } else {
            error
        }
    })?;
    Ok(Some((chain, key)))
}

/// libpq's rule for keys: nobody but the owner reads one; its group too if root owns it.
fn private(path: &Path) -> Result<()> {
    let data = std::fs::metadata(path).map_err(|error| {
        Error::new(
            ErrorKind::Invalid,
            "the key of the client's certificate is not there",
        )
        .with("path", path.display())
        .with("parameter", "sslkey")
        .because(error)
    })?;
    let forbidden = if data.uid() == 0 { 0o037 } else { 0o077 };
    if data.mode() & forbidden != 0 {
        return Err(Error::new(ErrorKind::Invalid, "others may read the client's key")
            .with("path", path.display())
            .hint("chmod 600 makes it usable"));
    }
    Ok(())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let text = read(path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(unusable(path, "it holds no certificate in PEM form")),
        Err(error) => Err(unusable(path, "it is not PEM").because(error)),
    }
}

fn revoked(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>> {
    let text = read(path)?;
    CertificateRevocationListDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| unusable(path, "it is not PEM").because(error))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let failed = |error: std::io::Error| unusable(path, "it cannot be read").because(error);
    let mut bytes = Vec::with_capacity(16 << 10);
    let read = std::fs::File::open(path)
        .and_then(|file| file.take(SIZE_MAX + 1).read_to_end(&mut bytes))
        .map_err(failed)?;
    if read as u64 > SIZE_MAX {
        return Err(unusable(path, "it is larger than 16 MiB"));
    }
    Ok(bytes)
}

fn unusable(path: &Path, why: &str) -> Error {
    Error::new(
        ErrorKind::Invalid,
        format!("a file of certificates or keys cannot be used: {why}"),
    )
    .with("path", path.display())
}
