//! What the configuration says of HTTP, as the service takes it.

use std::sync::Arc;

use anyhow::Context as _;

use crate::config::{Config, Service, Tls};
use crate::service::http::{Certificate, HttpSettings, Limits, TlsFiles};

/// Where the service is reached.
pub(super) fn settings(service: &Service) -> HttpSettings {
    HttpSettings {
        state_dir: service.state_dir.clone(),
        listen: service.listen.clone(),
        tls: service.tls.as_ref().map(files),
        allow_plaintext_beyond_loopback: service.allow_plaintext_beyond_loopback,
        hosts: service.hosts.clone(),
        limits: Limits::default(),
    }
}

/// Takes the certificate of a configuration that was read again; one that cannot be used is refused.
pub(super) async fn renew(certificate: Option<&Certificate>, config: &Arc<Config>) -> anyhow::Result<()> {
    let (Some(certificate), Some(tls)) = (certificate.cloned(), &config.service.tls) else { return Ok(()) };
    let files = files(tls);
    tokio::task::spawn_blocking(move || certificate.renew(&files)).await.context("read the certificate")?
}

/// Where the certificate lies, as the service takes it.
pub(in crate::cli) fn files(tls: &Tls) -> TlsFiles {
    TlsFiles { certificate: tls.certificate.clone(), key: tls.key.clone() }
}
