//! Encryption on the way to a server: who it has to be is what the configuration says.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use anyhow::ensure;
use tokio_rustls::rustls::CertificateError;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::DigitallySignedStruct;
use tokio_rustls::rustls::Error;
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::SignatureScheme;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::client::danger::ServerCertVerified;
use tokio_rustls::rustls::client::danger::ServerCertVerifier;
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::crypto::verify_tls12_signature;
use tokio_rustls::rustls::crypto::verify_tls13_signature;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::pki_types::UnixTime;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;

use crate::model::database::Encryption;

/// What a connection needs that is encrypted in this way, for a server that the certificate vouches for.
pub(in crate::repository::documents) fn client_config(
    encryption: Encryption,
    root_certificate: Option<&Path>,
) -> anyhow::Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .context("prepare encryption")?;
    let vouched = match encryption {
        Encryption::ForNamed => {
            return Ok(config.with_root_certificates(roots(root_certificate)?.0).with_no_client_auth());
        }
        Encryption::ForVouchedFor => {
            let verifier = WebPkiServerVerifier::builder_with_provider(
                Arc::new(roots(root_certificate)?.0),
                Arc::clone(&provider),
            );
            Some(verifier.build().context("prepare encryption")?)
        }
        Encryption::Never | Encryption::IfOffered | Encryption::Always => None,
    };
    let verifier = Arc::new(AnyName { vouched, provider });
    Ok(config.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// Those who vouch for the server, each as it is encoded.
pub(in crate::repository::documents) fn trusted_certificates(
    root_certificate: Option<&Path>,
) -> anyhow::Result<Vec<Vec<u8>>> {
    Ok(roots(root_certificate)?.1.iter().map(|certificate| certificate.to_vec()).collect())
}

/// Those who vouch for the server.
fn roots(root_certificate: Option<&Path>) -> anyhow::Result<(RootCertStore, Vec<CertificateDer<'static>>)> {
    let mut roots = RootCertStore::empty();
    let Some(path) = root_certificate else {
        let found = rustls_native_certs::load_native_certs().certs;
        let (sound, _) = roots.add_parsable_certificates(found.iter().cloned());
        let found = if sound == found.len() { found } else { found.into_iter().filter(is_sound).collect() };
        ensure!(
            !roots.is_empty(),
            "look for those whom this machine trusts: there is nobody; install ca-certificates, or name a certificate \
             in the configuration"
        );
        return Ok((roots, found));
    };
    let mut found = Vec::new();
    let doing = || format!("read the certificate `{}`", path.display());
    for certificate in CertificateDer::pem_file_iter(path).with_context(doing)? {
        let certificate = certificate.with_context(doing)?;
        roots.add(certificate.clone()).with_context(doing)?;
        found.push(certificate);
    }
    ensure!(!roots.is_empty(), "{}: there is no certificate in it", doing());
    Ok((roots, found))
}

fn is_sound(certificate: &CertificateDer<'static>) -> bool {
    RootCertStore::empty().add(certificate.clone()).is_ok()
}

/// Takes a server that is vouched for under any name, or, without those who vouch, every server: then what goes over
/// the network cannot be read, and who is at the other end is not known.
#[derive(Debug)]
struct AnyName {
    vouched: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(vouched) = &self.vouched else { return Ok(ServerCertVerified::assertion()) };
        match vouched.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is looked at last, when everything else was found to be right.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
