//! A destination in an S3 bucket, or a server that speaks like one.
//!
//! What is put carries the digest it is named by, so that the store itself refuses what arrives damaged. No request is
//! repeated here: that is [`Retrying`](crate::store::retry::Retrying).

mod base64;
mod direct;
mod error;
mod probe;
mod read;
mod upload;
mod write;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Builder, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::SdkError;
use bytes::Bytes;

use crate::model::digest::Digest;
use crate::model::key::Key;
use crate::store::s3::direct::{Direct, Parts};
use crate::store::s3::error::{Operation, Refusal, ServiceFault};
use crate::store::s3::upload::S3Upload;
use crate::store::{
    ByteRange, Capabilities, Download, ErrorKind, ObjectInfo, ObjectStore, Page, PageToken, StoreError, Unfinished,
    Upload,
};

/// Where a destination in S3 is and how to speak with it.
#[derive(Clone, Debug, Default)]
pub struct S3Settings {
    /// The bucket; it is there already.
    pub bucket: String,
    /// What all keys begin with, without a slash at either end; may be empty.
    pub prefix: String,
    /// The server, where it is not AWS.
    pub endpoint: Option<String>,
    /// The bucket's region.
    pub region: Option<String>,
    /// Whether the bucket goes into the path and not into the host name; most servers that are not AWS want it.
    pub path_style: bool,
    /// Who we are.
    pub credentials: S3Credentials,
    /// The storage class of new objects, `STANDARD_IA`.
    pub storage_class: Option<String>,
    /// How the server is to encrypt new objects, `AES256` or `aws:kms`.
    pub sse: Option<String>,
    /// The key for `aws:kms`.
    pub kms_key: Option<String>,
    /// The account that must own the bucket; requests to a bucket of another are refused.
    pub expected_bucket_owner: Option<String>,
    /// How long to wait.
    pub time_outs: TimeOuts,
}

/// Who speaks to S3.
#[derive(Clone, Default)]
pub enum S3Credentials {
    /// Whoever the AWS chain finds: environment, profile, container, instance.
    #[default]
    Chain,
    /// The owner of a pair of keys.
    Keys {
        /// The public one.
        access_key: String,
        /// The secret one.
        secret_key: String,
    },
}

impl fmt::Debug for S3Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chain => f.write_str("Chain"),
            Self::Keys { access_key, .. } => write!(f, "Keys({access_key})"),
        }
    }
}

/// How long to wait for a server before a request counts as lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeOuts {
    /// For a connection.
    pub connect: Duration,
    /// For the answer to a request, its body sent included.
    pub answer: Duration,
    /// For the answer when an upload is completed: S3 may put together thousands of parts first.
    pub complete: Duration,
    /// For each piece of a download.
    pub piece: Duration,
}

impl Default for TimeOuts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            answer: Duration::from_mins(2),
            complete: Duration::from_mins(10),
            piece: Duration::from_mins(1),
        }
    }
}

/// A destination in an S3 bucket.
pub struct S3Store {
    bucket: Arc<Bucket>,
}

/// What the store and its uploads share: the connections, and where they lead.
struct Bucket {
    client: Client,
    /// The way of puts and gets; none where only the SDK knows it.
    direct: Option<Direct>,
    settings: S3Settings,
    capabilities: Capabilities,
    place: String,
}

impl S3Store {
    /// Prepares the connection; nothing is asked of the bucket. Credentials and a region that are not set are looked
    /// for where AWS keeps them.
    pub async fn connect(settings: S3Settings, capabilities: Capabilities) -> Result<Self, StoreError> {
        let place = place(&settings);
        let (client, parts) = client(&settings).await.map_err(|cause| {
            StoreError::new(ErrorKind::Other, format!("prepare the connection to `{place}`"), cause)
        })?;
        let direct = Direct::to(&settings, parts).await;
        Ok(Self { bucket: Arc::new(Bucket { client, direct, settings, capabilities, place }) })
    }
}

impl fmt::Debug for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3Store({})", self.bucket.place)
    }
}

fn place(settings: &S3Settings) -> String {
    let S3Settings { bucket, prefix, endpoint, .. } = settings;
    let slash = if prefix.is_empty() { "" } else { "/" };
    match endpoint {
        Some(endpoint) => format!("s3://{bucket}{slash}{prefix} at {endpoint}"),
        None => format!("s3://{bucket}{slash}{prefix}"),
    }
}

async fn client(settings: &S3Settings) -> Result<(Client, Parts), String> {
    if let Some(endpoint) = settings.endpoint.as_deref()
        && !["http://", "https://"].iter().any(|scheme| endpoint.starts_with(scheme))
    {
        return Err(format!("the endpoint `{endpoint}` does not begin with http:// or https://"));
    }
    let mut loader = aws_config::defaults(BehaviorVersion::latest());
    if let S3Credentials::Keys { access_key, secret_key } = &settings.credentials {
        loader = loader.credentials_provider(Credentials::new(access_key, secret_key, None, None, "configuration"));
    }
    // A server that is not AWS rarely cares, but a region has to be signed.
    let region = settings.region.as_deref().or(settings.endpoint.as_ref().map(|_| "us-east-1"));
    if let Some(region) = region {
        loader = loader.region(Region::new(region.to_owned()));
    }
    let shared = loader.load().await;
    let Some(region) = shared.region() else {
        return Err("no region is set; set `region` to the one the bucket is in".to_owned());
    };
    let parts = Parts {
        region: region.to_string(),
        use_fips: shared.use_fips(),
        use_dual_stack: shared.use_dual_stack(),
        provider: shared.credentials_provider(),
        clock: shared.time_source(),
        sleep: shared.sleep_impl(),
    };
    let mut builder = Builder::from(&shared);
    if let Some(endpoint) = &settings.endpoint {
        builder = builder.endpoint_url(endpoint);
    }
    let config = builder
        .force_path_style(settings.path_style)
        // Repeating is `Retrying`'s; the SDK would do it without looking, and its time-outs know no long uploads.
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::builder().connect_timeout(settings.time_outs.connect).build())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        // We send the checksums that matter ourselves; those the SDK adds unasked are refused by some servers.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .build();
    Ok((Client::from_conf(config), parts))
}

impl Bucket {
    /// The name of an object in the bucket, or what all below a prefix begin with.
    fn name(&self, key: &str) -> String {
        let prefix = &self.settings.prefix;
        if prefix.is_empty() { key.to_owned() } else { format!("{prefix}/{key}") }
    }

    /// The key of an object of the bucket, if it is one of this destination.
    fn key(&self, name: &str) -> Option<Key> {
        let prefix = &self.settings.prefix;
        let rest = if prefix.is_empty() { name } else { name.strip_prefix(prefix)?.strip_prefix('/')? };
        Key::parse(rest)
    }

    fn owner(&self) -> Option<String> {
        self.settings.expected_bucket_owner.clone()
    }

    /// Waits for an answer and reads from it what went wrong.
    async fn ask<T, E: ServiceFault>(
        &self,
        operation: Operation,
        request: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T, Refusal> {
        let limit = match operation {
            Operation::Complete => self.settings.time_outs.complete,
            _ => self.settings.time_outs.answer,
        };
        // The futures of the SDK are large, and would be a part of every one that asks.
        match within(limit, Box::pin(request)).await? {
            Ok(answer) => Ok(answer),
            Err(error) => Err(Refusal::new(operation, &self.settings, &error)),
        }
    }

    fn action(&self, verb: &str, thing: &str) -> String {
        format!("{verb} `{thing}` in `{}`", self.place)
    }
}

/// Waits for an answer, and no longer than `limit`.
async fn within<T>(limit: Duration, request: impl Future<Output = T>) -> Result<T, Refusal> {
    let answered = tokio::time::timeout(limit, request).await;
    answered.map_err(|_| Refusal::unavailable(format!("no answer within {limit:?}")))
}

#[async_trait]
impl ObjectStore for S3Store {
    fn place(&self) -> &str {
        &self.bucket.place
    }

    async fn put(&self, key: &Key, body: Bytes, digest: &Digest) -> Result<(), StoreError> {
        let put = self.bucket.put(key, body, digest).await;
        put.map_err(|refusal| refusal.when(self.bucket.action("put", key.as_str())))
    }

    async fn begin(&self, key: &Key) -> Result<Box<dyn Upload>, StoreError> {
        match S3Upload::begin(Arc::clone(&self.bucket), key).await {
            Ok(upload) => Ok(Box::new(upload)),
            Err(refusal) => Err(refusal.when(self.bucket.action("begin", key.as_str()))),
        }
    }

    async fn head(&self, key: &Key) -> Result<ObjectInfo, StoreError> {
        match self.bucket.look(key).await {
            Ok(found) => Ok(found.info),
            Err(refusal) => Err(refusal.when(self.bucket.action("look at", key.as_str()))),
        }
    }

    async fn get(&self, key: &Key, range: Option<ByteRange>) -> Result<Box<dyn Download>, StoreError> {
        match self.bucket.get(key, range).await {
            Ok(download) => Ok(Box::new(download)),
            Err(refusal) => Err(refusal.when(self.bucket.action("get", key.as_str()))),
        }
    }

    async fn list(&self, prefix: &str, page: Option<&PageToken>) -> Result<Page, StoreError> {
        let listed = self.bucket.list(prefix, page).await;
        listed.map_err(|refusal| refusal.when(self.bucket.action("list", prefix)))
    }

    async fn unfinished(&self, prefix: &str) -> Result<Vec<Unfinished>, StoreError> {
        let listed = self.bucket.unfinished(prefix).await;
        listed.map_err(|refusal| refusal.when(self.bucket.action("list unfinished uploads below", prefix)))
    }

    async fn abort(&self, upload: &Unfinished) -> Result<(), StoreError> {
        let aborted = self.bucket.abort(&upload.key, &upload.id).await;
        aborted.map_err(|refusal| refusal.when(self.bucket.action("abort the upload of", upload.key.as_str())))
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let deleted = self.bucket.delete(key).await;
        deleted.map_err(|refusal| refusal.when(self.bucket.action("delete", key.as_str())))
    }

    fn refuses_damage(&self) -> bool {
        self.bucket.capabilities.verifies_sha1 && self.bucket.capabilities.verifies_parts
    }

    async fn probe(&self) -> Result<Capabilities, StoreError> {
        let found = probe::probe(&self.bucket).await;
        found.map_err(|refusal| refusal.when(format!("try out `{}`", self.bucket.place)))
    }
}
