//! The certificate that the service shows, and the handshake.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::ServerCertVerifier as _;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{CertificateError, Error, RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;

use super::limits::HANDSHAKE_WITHIN;

/// Where the certificate lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate and those that vouch for it, as PEM.
    pub certificate: PathBuf,
    /// Its key, as PEM.
    pub key: PathBuf,
}

/// No certificate is valid at this time, in seconds since 1970: it is the last second that has four digits for its year.
const END_OF_TIME: u64 = 253_402_300_799;

/// The certificate that is shown to whoever connects from now on; clones are the same one.
#[derive(Clone, Debug)]
pub struct Certificate(Arc<RwLock<Arc<ServerConfig>>>);

impl Certificate {
    /// Reads it.
    pub fn read(files: &TlsFiles) -> anyhow::Result<Self> {
        Ok(Self(Arc::new(RwLock::new(load(files)?))))
    }

    /// Reads it again; one that cannot be used changes nothing.
    pub fn renew(&self, files: &TlsFiles) -> anyhow::Result<()> {
        let fresh = load(files)?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// Reads files as the service would, and gives when their certificate ends; none if it never does. That is found by
    /// asking whether it is valid at the end of time: of the certificates that are shown, only the first matters.
    pub fn end_of(files: &TlsFiles) -> anyhow::Result<Option<Timestamp>> {
        load(files)?;
        let shown = chain(&files.certificate)?;
        let first = shown.first().context("there is no certificate")?;
        let mut roots = RootCertStore::empty();
        roots.add(first.clone()).context("read the certificate")?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
        let at = UnixTime::since_unix_epoch(Duration::from_secs(END_OF_TIME));
        let name = ServerName::try_from("localhost").context("name a server")?;
        match verifier.verify_server_cert(first, &[], &name, &[], at) {
            Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
                let seconds = i64::try_from(not_after.as_secs()).context("read when the certificate ends")?;
                Ok(Some(Timestamp::from_second(seconds)?))
            }
            _ => Ok(None),
        }
    }

    /// The handshake; none if it comes to nothing.
    pub(super) async fn greet(&self, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
        let config = Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner));
        let handshake = tokio::time::timeout(HANDSHAKE_WITHIN, TlsAcceptor::from(config).accept(stream));
        handshake.await.ok()?.ok()
    }
}

fn load(files: &TlsFiles) -> anyhow::Result<Arc<ServerConfig>> {
    let TlsFiles { certificate, key } = files;
    let chain = chain(certificate)?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| explain(error, key));
    let secret = secret.with_context(|| format!("read the key `{}`", key.display()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .context("set TLS up")?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .with_context(|| format!("use the certificate `{}` with the key `{}`", certificate.display(), key.display()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn chain(certificate: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let doing = || format!("read the certificate `{}`", certificate.display());
    let chain = CertificateDer::pem_file_iter(certificate).map_err(|error| explain(error, certificate));
    let chain: Vec<_> = chain
        .with_context(doing)?
        .collect::<Result<_, _>>()
        .map_err(|error| explain(error, certificate))
        .with_context(doing)?;
    if chain.is_empty() {
        bail!("read the certificate `{}`: there is no `BEGIN CERTIFICATE` in it", certificate.display());
    }
    Ok(chain)
}

fn explain(error: pem::Error, file: &Path) -> anyhow::Error {
    match error {
        pem::Error::NoItemsFound => anyhow::anyhow!("`{}` holds nothing of that kind as PEM", file.display()),
        pem::Error::Io(error) => anyhow::Error::from(error),
        error => anyhow::anyhow!("{error}"),
    }
}
