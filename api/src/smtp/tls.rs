//! The certificate of the SMTP listener: from files, or made by ourselves; replaceable while connections are open.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use mail::smtp::TlsInfo;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A certificate could not be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds no PEM of its kind.
    #[error("cannot read {path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// The text holds no PEM of its kind.
    #[error("not PEM: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// The certificate and the key do not belong together, or are of an unknown kind.
    #[error("the certificate and the key cannot be used: {0}")]
    Pair(#[from] rustls::Error),
    /// No certificate could be made.
    #[error("a certificate could not be made: {0}")]
    Make(#[from] rcgen::Error),
}

/// A certificate that we signed ourselves, and its key.
#[derive(Clone)]
pub struct SelfSigned {
    /// The certificate, PEM.
    pub certificate_pem: String,
    /// The private key, PEM. To be kept readable for the program alone.
    pub key_pem: String,
}

impl std::fmt::Debug for SelfSigned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SelfSigned(…)")
    }
}

/// Makes a certificate for a host name. Mail servers encrypt with it opportunistically; nobody is convinced by it.
///
/// # Errors
/// `hostname` is no name a certificate can be for.
pub fn self_signed(hostname: &str) -> Result<SelfSigned, TlsError> {
    let made = rcgen::generate_simple_self_signed([hostname.to_owned()])?;
    Ok(SelfSigned { certificate_pem: made.cert.pem(), key_pem: made.signing_key.serialize_pem() })
}

/// The certificate files and when they were written.
#[derive(Debug)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    written: RwLock<[Option<SystemTime>; 2]>,
}

/// The TLS side of a listener. Cheap to clone; all clones change together.
#[derive(Clone)]
pub struct Tls {
    config: Arc<RwLock<Arc<ServerConfig>>>,
    files: Option<Arc<Files>>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Tls {
    /// Returns TLS with a certificate chain and key in PEM files, which [`Tls::reload`] reads again.
    ///
    /// # Errors
    /// The files cannot be read or do not belong together.
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let files = Files {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            written: RwLock::new(written(certificate, key)),
        };
        let config = read(&files)?;
        Ok(Self { config: Arc::new(RwLock::new(config)), files: Some(Arc::new(files)) })
    }

    /// Returns TLS with a certificate chain and key given as PEM.
    ///
    /// # Errors
    /// They are not PEM or do not belong together.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, TlsError> {
        let chain = CertificateDer::pem_slice_iter(certificate_pem.as_bytes()).collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())?;
        Ok(Self { config: Arc::new(RwLock::new(server_config(chain, key)?)), files: None })
    }

    /// Reads the files again; connections that are open keep what they have. On failure the old certificate stays.
    ///
    /// # Errors
    /// The files cannot be read or do not belong together.
    pub fn reload(&self) -> Result<(), TlsError> {
        let Some(files) = &self.files else { return Ok(()) };
        let now = written(&files.certificate, &files.key);
        let config = read(files)?;
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        *files.written.write().unwrap_or_else(PoisonError::into_inner) = now;
        Ok(())
    }

    /// Reads the files again if they were written since; tells whether they were.
    ///
    /// # Errors
    /// As [`Tls::reload`].
    pub fn reload_if_changed(&self) -> Result<bool, TlsError> {
        let Some(files) = &self.files else { return Ok(false) };
        let known = *files.written.read().unwrap_or_else(PoisonError::into_inner);
        if written(&files.certificate, &files.key) == known {
            return Ok(false);
        }
        self.reload().map(|()| true)
    }

    /// Returns the acceptor for the next handshake.
    pub(super) fn acceptor(&self) -> tokio_rustls::TlsAcceptor {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner)).into()
    }
}

fn written(certificate: &Path, key: &Path) -> [Option<SystemTime>; 2] {
    [certificate, key].map(|path| path.metadata().and_then(|of| of.modified()).ok())
}

fn read(files: &Files) -> Result<Arc<ServerConfig>, TlsError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::File { path, source }
    };
    let chain = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(failed(&files.certificate))?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(failed(&files.key))?;
    server_config(chain, key)
}

/// TLS 1.2 and 1.3 only, with the suites of the provider: all of them are forward secret and authenticated.
fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(Arc::new(config))
}

/// Returns what a trace header says of a connection.
pub(super) fn info(connection: &rustls::ServerConnection) -> TlsInfo {
    let version = match connection.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "TLS",
    };
    let suite = connection.negotiated_cipher_suite().and_then(|of| of.suite().as_str());
    let cipher = suite.map_or_else(|| "unknown".to_owned(), |name| name.replacen("TLS13_", "TLS_", 1));
    TlsInfo { version: version.to_owned(), cipher }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_certificate_is_taken_and_a_broken_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        let write = |made: &SelfSigned| {
            std::fs::write(&certificate, &made.certificate_pem).unwrap();
            std::fs::write(&key, &made.key_pem).unwrap();
        };
        write(&self_signed("a.example.org").unwrap());
        let tls = Tls::from_files(&certificate, &key).unwrap();
        let first = Arc::as_ptr(&tls.config.read().unwrap());
        assert!(!tls.reload_if_changed().unwrap());
        std::fs::write(&key, "nonsense").unwrap();
        let later = SystemTime::now() + std::time::Duration::from_secs(5);
        std::fs::File::options().append(true).open(&key).unwrap().set_modified(later).unwrap();
        assert!(tls.reload_if_changed().is_err());
        assert_eq!(first, Arc::as_ptr(&tls.config.read().unwrap()));
        write(&self_signed("b.example.org").unwrap());
        tls.reload().unwrap();
        assert_ne!(first, Arc::as_ptr(&tls.config.read().unwrap()));
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let (a, b) = (self_signed("a.example.org").unwrap(), self_signed("b.example.org").unwrap());
        assert!(matches!(Tls::from_pem(&a.certificate_pem, &b.key_pem), Err(TlsError::Pair(_))));
        assert!(matches!(Tls::from_pem(&a.certificate_pem, "x"), Err(TlsError::Pem(_))));
    }
}
