//! The S3 adapter on the server in memory.

use holdfast::store::Capabilities;
use holdfast::store::s3::S3Credentials;
use holdfast::store::s3::S3Settings;
use holdfast::store::s3::S3Store;

use crate::s3_memory::ACCESS_KEY;
use crate::s3_memory::SECRET_KEY;
use crate::s3_memory::Server;

/// What it takes to reach the server's bucket.
pub(crate) fn settings(server: &Server, prefix: &str) -> S3Settings {
    S3Settings {
        bucket: server.bucket().into(),
        prefix: prefix.into(),
        endpoint: Some(server.endpoint().into()),
        path_style: true,
        credentials: S3Credentials::Keys { access_key: ACCESS_KEY.into(), secret_key: SECRET_KEY.into() },
        ..S3Settings::default()
    }
}

pub(crate) async fn connect(server: &Server, prefix: &str, capabilities: Capabilities) -> S3Store {
    S3Store::connect(settings(server, prefix), capabilities).await.unwrap()
}
