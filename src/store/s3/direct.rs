//! Two requests without the SDK's machinery: the put of a small object, of which a first copy makes millions, and the
//! get of one, of which a restore does.
//!
//! The SDK assembles each request from some forty runtime plugins, which costs more than reading, digesting and
//! sending a binary of the usual size. Here the request is put together by hand; who signs it and what carries it
//! are the SDK's own parts (`aws-sigv4`, its HTTP connector), and where it goes is asked of the SDK's own rules once.
//! Endpoints whose requests are signed in another way (S3 Express, access points of several regions) keep to the SDK.

use std::borrow::Cow;
use std::fmt;
use std::time::{Duration, SystemTime};

use aws_sdk_s3::config::endpoint::{DefaultResolver, Endpoint, Params, ResolveEndpoint as _};
use aws_sdk_s3::config::http::{HttpRequest, HttpResponse};
use aws_sdk_s3::config::{ProvideCredentials as _, SharedCredentialsProvider};
use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings, UriPathNormalizationMode,
    sign,
};
use aws_sigv4::sign::v4;
use aws_smithy_async::rt::sleep::SharedAsyncSleep;
use aws_smithy_async::time::SharedTimeSource;
use aws_smithy_http_client::default_connector;
use aws_smithy_runtime_api::client::http::{HttpConnector as _, HttpConnectorSettings, SharedHttpConnector};
use aws_smithy_runtime_api::client::identity::Identity;
use aws_smithy_xml::decode::{Document, try_data};
use bytes::Bytes;
use tokio::sync::Mutex;

use crate::store::ErrorKind;
use crate::store::s3::error::{Operation, Refusal, innermost};
use crate::store::s3::{S3Settings, TimeOuts};

/// Credentials that say how long they hold are renewed this long before.
const RENEW_BEFORE: Duration = Duration::from_mins(1);
/// Those that do not say it are asked for again after this long, as the SDK does.
const RENEW_AFTER: Duration = Duration::from_mins(15);
/// How much is read of an answer that is not the one hoped for.
const ANSWER_LIMIT: usize = 64 << 10;

/// What requests are made of that go past the SDK.
pub(super) struct Direct {
    /// The bucket's address, without a slash at the end.
    url: String,
    region: String,
    connector: SharedHttpConnector,
    provider: SharedCredentialsProvider,
    known: Mutex<Option<Known>>,
    clock: SharedTimeSource,
}

struct Known {
    identity: Identity,
    until: SystemTime,
}

impl fmt::Debug for Direct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Direct({})", self.url)
    }
}

/// What the connection is made of, as the SDK was configured.
pub(super) struct Parts {
    pub(super) region: String,
    pub(super) use_fips: Option<bool>,
    pub(super) use_dual_stack: Option<bool>,
    pub(super) provider: Option<SharedCredentialsProvider>,
    pub(super) clock: Option<SharedTimeSource>,
    pub(super) sleep: Option<SharedAsyncSleep>,
}

impl Direct {
    /// The way past the SDK, if there is one to this bucket.
    pub(super) async fn to(settings: &S3Settings, parts: Parts) -> Option<Self> {
        let params = Params::builder()
            .bucket(&settings.bucket)
            .region(&parts.region)
            .force_path_style(settings.path_style)
            .set_use_fips(parts.use_fips)
            .set_use_dual_stack(parts.use_dual_stack)
            .set_endpoint(settings.endpoint.clone())
            .build()
            .ok()?;
        // What cannot be resolved is refused by the SDK, in its words, when something is sent.
        let endpoint = DefaultResolver::new().resolve_endpoint(&params).await.ok()?;
        let region = signed_for(&endpoint)?;
        let TimeOuts { connect, .. } = settings.time_outs;
        let connecting = HttpConnectorSettings::builder().connect_timeout(connect).build();
        Some(Self {
            url: endpoint.url().trim_end_matches('/').to_owned(),
            region: region.unwrap_or(parts.region),
            connector: default_connector(&connecting, parts.sleep)?,
            provider: parts.provider?,
            known: Mutex::new(None),
            clock: parts.clock.unwrap_or_default(),
        })
    }

    /// Puts an object under its name in the bucket.
    pub(super) async fn put(
        &self,
        settings: &S3Settings,
        name: &str,
        headers: &[(&'static str, &str)],
        body: Bytes,
    ) -> Result<(), Refusal> {
        let request = self.signed("PUT", name, headers, body).await?;
        self.call(Operation::Put, settings, request).await.map(drop)
    }

    /// Gets an object by its name in the bucket, or the part of it that a header asks for.
    pub(super) async fn get(
        &self,
        settings: &S3Settings,
        name: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<HttpResponse, Refusal> {
        let request = self.signed("GET", name, headers, Bytes::new()).await?;
        self.call(Operation::Get, settings, request).await
    }

    async fn call(
        &self,
        operation: Operation,
        settings: &S3Settings,
        request: HttpRequest,
    ) -> Result<HttpResponse, Refusal> {
        let answer = self.connector.call(request).await.map_err(|error| Refusal::unanswered(&error))?;
        let status = answer.status().as_u16();
        if matches!(status, 200 | 206) {
            return Ok(answer);
        }
        let text = beginning(answer).await;
        let fault = Fault::read(&text);
        Err(Refusal::answered(operation, settings, status, fault.code.as_deref(), fault.message.as_deref()))
    }

    async fn signed(
        &self,
        method: &str,
        name: &str,
        headers: &[(&'static str, &str)],
        body: Bytes,
    ) -> Result<HttpRequest, Refusal> {
        let wrong = |error: &(dyn std::error::Error + 'static)| Refusal::own(ErrorKind::Other, innermost(error));
        let now = self.clock.now();
        let identity = self.identity(now).await?;
        let mut url = String::with_capacity(self.url.len() + name.len() + 1);
        url.push_str(&self.url);
        url.push('/');
        escape(name, &mut url);
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name("s3")
            .time(now)
            .settings(settings)
            .build()
            .map_err(|error| wrong(&error))?
            .into();
        // The digest covers the body; a second checksum of it for the signature costs as much as all the rest.
        let signable =
            SignableRequest::new(method, url.as_str(), headers.iter().copied(), SignableBody::UnsignedPayload)
                .map_err(|error| wrong(&error))?;
        let (signature, _) = sign(signable, &params).map_err(|error| wrong(&error))?.into_parts();
        let mut request = HttpRequest::new(SdkBody::from(body));
        request.set_method(method).map_err(|error| wrong(&error))?;
        request.set_uri(url).map_err(|error| wrong(&error))?;
        let all = request.headers_mut();
        for (name, value) in headers {
            all.insert(*name, (*value).to_owned());
        }
        for (name, value) in signature.headers() {
            all.insert(name.to_owned(), value.to_owned());
        }
        Ok(request)
    }

    async fn identity(&self, now: SystemTime) -> Result<Identity, Refusal> {
        let mut known = self.known.lock().await;
        if let Some(Known { identity, until }) = &*known
            && now < *until
        {
            return Ok(identity.clone());
        }
        let credentials = self.provider.provide_credentials().await.map_err(|error| Refusal::unanswered(&error))?;
        let until = match credentials.expiry() {
            Some(expiry) => expiry.checked_sub(RENEW_BEFORE).unwrap_or(now),
            None => now + RENEW_AFTER,
        };
        let identity = Identity::from(credentials);
        *known = Some(Known { identity: identity.clone(), until });
        Ok(identity)
    }
}

/// The region that requests to an endpoint are signed for; the outer none if they are not signed in the plain way.
#[expect(clippy::option_option, reason = "a plain signature without a region of its own is the usual case")]
fn signed_for(endpoint: &Endpoint) -> Option<Option<String>> {
    // The SDK takes the first that it knows, and it knows all of them.
    let scheme = endpoint.auth_schemes().first()?;
    let text = |key: &str| scheme.get(key).and_then(|value| value.as_string());
    let plain = scheme.name() == "sigv4" && text("signingName").is_none_or(|name| name == "s3");
    plain.then(|| text("signingRegion").map(str::to_owned))
}

/// Escapes a name for the path of a request, as signatures want it: all but unreserved letters and slashes.
fn escape(name: &str, url: &mut String) {
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'/') {
            url.push(char::from(byte));
        } else {
            url.push('%');
            for half in [byte >> 4, byte & 15] {
                url.push(char::from(b"0123456789ABCDEF"[usize::from(half)]));
            }
        }
    }
}

/// The beginning of an answer: as much as an error takes.
async fn beginning(answer: HttpResponse) -> Vec<u8> {
    let mut body = ByteStream::new(answer.into_body());
    let mut text = Vec::new();
    // What breaks off says less, and the status says enough.
    while let Some(Ok(piece)) = body.next().await {
        text.extend_from_slice(&piece);
        if text.len() > ANSWER_LIMIT {
            break;
        }
    }
    text
}

/// What S3 says of an error.
#[derive(Debug, Default, PartialEq, Eq)]
struct Fault {
    code: Option<String>,
    message: Option<String>,
}

impl Fault {
    /// Reads `<Error><Code>…</Code><Message>…</Message>…</Error>`; anything else says nothing.
    fn read(text: &[u8]) -> Self {
        let mut fault = Self::default();
        let Ok(mut document) = Document::try_from(text) else { return fault };
        let Ok(mut root) = document.root_element() else { return fault };
        while let Some(mut tag) = root.next_tag() {
            let name = tag.start_el().local().to_owned();
            let value = try_data(&mut tag).ok().filter(|value| !value.is_empty()).map(Cow::into_owned);
            match name.as_str() {
                "Code" => fault.code = value,
                "Message" => fault.message = value,
                _ => {}
            }
        }
        fault
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::config::Credentials;

    use super::*;

    #[test]
    fn an_error_is_read_and_anything_else_says_nothing() {
        let text =
            b"<?xml version=\"1.0\"?><Error><Code>SlowDown</Code><Message>Reduce &amp; wait.</Message><X/></Error>";
        let fault = Fault { code: Some("SlowDown".into()), message: Some("Reduce & wait.".into()) };
        assert_eq!(Fault::read(text), fault);
        for text in [&b""[..], b"<html><body>proxy</body></html>", b"\xff\xfe", b"<Error><Code>"] {
            assert_eq!(Fault::read(text), Fault::default(), "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn names_are_escaped_as_they_are_signed() {
        let mut url = String::new();
        escape("a b/ü+~-._/%", &mut url);
        assert_eq!(url, "a%20b/%C3%BC%2B~-._/%25");
    }

    async fn to(bucket: &str, endpoint: Option<&str>, path_style: bool) -> Option<(String, String)> {
        let settings = S3Settings {
            bucket: bucket.to_owned(),
            endpoint: endpoint.map(str::to_owned),
            path_style,
            ..S3Settings::default()
        };
        let keys = Credentials::new("AK", "SK", None, None, "test");
        let parts = Parts {
            region: "eu-central-1".to_owned(),
            use_fips: None,
            use_dual_stack: None,
            provider: Some(SharedCredentialsProvider::new(keys)),
            clock: None,
            sleep: None,
        };
        Direct::to(&settings, parts).await.map(|direct| (direct.url, direct.region))
    }

    #[tokio::test]
    async fn the_bucket_is_where_the_sdk_has_it() {
        let at = async |bucket, endpoint, path_style| to(bucket, endpoint, path_style).await.map(|(url, _)| url);
        assert_eq!(at("vault", None, false).await.as_deref(), Some("https://vault.s3.eu-central-1.amazonaws.com"));
        assert_eq!(at("vault", None, true).await.as_deref(), Some("https://s3.eu-central-1.amazonaws.com/vault"));
        assert_eq!(at("vault", Some("http://h:8333"), true).await.as_deref(), Some("http://h:8333/vault"));
        assert_eq!(at("vault", Some("http://h:8333"), false).await.as_deref(), Some("http://vault.h:8333"));
        // Signed by a session of its own.
        assert_eq!(at("vault--euc1-az1--x-s3", None, false).await, None);
    }
}
