//! What an answer of S3 that is not the one hoped for means, and how to say it in a line.

use std::error::Error;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::store::s3::S3Settings;
use crate::store::{ErrorKind, StoreError};

/// The errors of the SDK, all of them.
pub(super) trait ServiceFault: ProvideErrorMetadata + Error + Send + Sync + 'static {}
impl<E: ProvideErrorMetadata + Error + Send + Sync + 'static> ServiceFault for E {}

/// What is asked of S3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Put,
    Begin,
    Part,
    Complete,
    Look,
    Get,
    List,
    ListUploads,
    Abort,
    Delete,
}

impl Operation {
    /// The right it takes.
    const fn permission(self) -> &'static str {
        match self {
            Self::Put | Self::Begin | Self::Part | Self::Complete => "s3:PutObject",
            Self::Look => "s3:GetObject and s3:ListBucket",
            Self::Get => "s3:GetObject",
            Self::List => "s3:ListBucket",
            Self::ListUploads => "s3:ListBucketMultipartUploads",
            Self::Abort => "s3:AbortMultipartUpload",
            Self::Delete => "s3:DeleteObject",
        }
    }
}

/// A request came to nothing; what was being done is added at the port.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) kind: ErrorKind,
    /// The status of the answer, if there was one.
    pub(super) status: Option<u16>,
    /// S3's word for it, `NoSuchBucket`.
    pub(super) code: Option<String>,
    /// Whether the server asks for fewer requests at once.
    busy: bool,
    cause: String,
}

impl Refusal {
    /// What the SDK's error means.
    pub(super) fn new<E: ServiceFault>(
        operation: Operation,
        settings: &S3Settings,
        error: &SdkError<E, HttpResponse>,
    ) -> Self {
        match error {
            SdkError::ServiceError(fault) => {
                let (code, message) = (fault.err().code(), fault.err().message());
                Self::answered(operation, settings, fault.raw().status().as_u16(), code, message)
            }
            SdkError::ResponseError(response) => match response.raw().status().as_u16() {
                200..300 => Self::unavailable(format!("the answer broke off: {}", innermost(error))),
                status => Self::answered(operation, settings, status, None, None),
            },
            SdkError::ConstructionFailure(_) => Self::own(ErrorKind::Other, innermost(error)),
            _ => Self::unanswered(error),
        }
    }

    /// The server was not reached, or did not answer to the end.
    pub(super) fn unavailable(cause: impl Into<String>) -> Self {
        Self::own(ErrorKind::Unavailable, cause)
    }

    /// Not the server's finding but ours.
    pub(super) fn own(kind: ErrorKind, cause: impl Into<String>) -> Self {
        Self { kind, status: None, code: None, busy: false, cause: cause.into() }
    }

    /// The error of the port.
    pub(super) fn when(self, action: String) -> StoreError {
        StoreError { busy: self.busy, ..StoreError::new(self.kind, action, self.cause) }
    }

    /// Whether the object or the upload is not there, and not the bucket.
    pub(super) fn is_missing_in_bucket(&self) -> bool {
        self.kind == ErrorKind::NotFound && self.code.as_deref() != Some("NoSuchBucket")
    }

    /// Nothing came back. Most often the network is to blame; what is not has to be told from the SDK's texts.
    pub(super) fn unanswered(error: &(dyn Error + 'static)) -> Self {
        let texts = chain(error);
        let said = |part: &str| texts.iter().any(|text| text.contains(part));
        let cause = innermost(error);
        if said("credential provider was not enabled") || said("IMDS is disabled") {
            let hint = "set `credentials`, or the AWS_ variables, or give the machine a role";
            return Self::own(ErrorKind::Denied, format!("there are no credentials; {hint}"));
        }
        if said("loading credentials") {
            return Self::unavailable(format!("the credentials could not be had: {cause}"));
        }
        if said("certificate") {
            let hint = "the system must trust the server's certificate";
            return Self::own(ErrorKind::Other, format!("{cause}; {hint}"));
        }
        Self::unavailable(cause)
    }

    /// What an answer with this status means, of which S3 says `code` and `message`.
    pub(super) fn answered(
        operation: Operation,
        settings: &S3Settings,
        status: u16,
        code: Option<&str>,
        message: Option<&str>,
    ) -> Self {
        let kind = kind(status, code);
        let said = said(status, code, message);
        let cause = match (code, hint(operation, settings, kind, status, code)) {
            (Some("NoSuchBucket"), _) => format!("bucket `{}` does not exist", settings.bucket),
            (_, Some(hint)) => format!("{said}; {hint}"),
            (_, None) => said,
        };
        let busy = is_busy(kind, status, code);
        Self { kind, status: Some(status), code: code.map(str::to_owned), busy, cause }
    }
}

/// Decided by the status: a HEAD has no code, and servers differ in theirs.
fn kind(status: u16, code: Option<&str>) -> ErrorKind {
    let code = code.unwrap_or_default();
    match status {
        401 | 403 => ErrorKind::Denied,
        404 => ErrorKind::NotFound,
        412 => ErrorKind::AlreadyExists,
        408 | 409 | 429 | 500 | 502..=504 => ErrorKind::Unavailable,
        400 => match code {
            "BadDigest" | "InvalidDigest" | "XAmzContentChecksumMismatch" | "XAmzContentSHA256Mismatch" => {
                ErrorKind::Corrupt
            }
            "RequestTimeout" | "IncompleteBody" => ErrorKind::Unavailable,
            "ExpiredToken" | "InvalidToken" => ErrorKind::Denied,
            _ => ErrorKind::Other,
        },
        // The upload was being completed and the status already sent when it went wrong.
        200 if matches!(code, "InternalError" | "SlowDown" | "ServiceUnavailable" | "RequestTimeout") => {
            ErrorKind::Unavailable
        }
        _ => ErrorKind::Other,
    }
}

/// Whether fewer requests at once would help. Servers differ in the code that goes with 503, and in the status that goes
/// with `SlowDown`: a completion has sent its own before it went wrong.
fn is_busy(kind: ErrorKind, status: u16, code: Option<&str>) -> bool {
    let said = matches!(code, Some("SlowDown" | "SlowDownRead" | "SlowDownWrite" | "ServiceUnavailable"));
    kind == ErrorKind::Unavailable && (matches!(status, 429 | 503) || said)
}

fn said(status: u16, code: Option<&str>, message: Option<&str>) -> String {
    let message = message.map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
    let message = message.as_deref().map(|text| text.trim_end_matches('.')).filter(|text| !text.is_empty());
    match (message, code) {
        (Some(message), Some(code)) => format!("{message} ({code})"),
        (Some(text), None) | (None, Some(text)) => format!("{text} (HTTP {status})"),
        (None, None) => match status {
            403 => "access denied (HTTP 403)".to_owned(),
            404 => "there is no such object".to_owned(),
            412 => "there is such an object already".to_owned(),
            200..300 => "the answer was not understood".to_owned(),
            _ => format!("HTTP status {status}"),
        },
    }
}

/// What the operator can do about it.
fn hint(
    operation: Operation,
    settings: &S3Settings,
    kind: ErrorKind,
    status: u16,
    code: Option<&str>,
) -> Option<String> {
    let hint = match code.unwrap_or_default() {
        "InvalidAccessKeyId" => "the server does not know this access key",
        "SignatureDoesNotMatch" => "the secret key does not belong to the access key, or a proxy changes requests",
        "RequestTimeTooSkewed" => "set the clock of this machine",
        "ExpiredToken" | "InvalidToken" => "the session of these credentials is over; get new ones",
        "InvalidObjectState" => "the object is in an archive class; restore it in S3 first",
        "AuthorizationHeaderMalformed"
        | "PermanentRedirect"
        | "TemporaryRedirect"
        | "IllegalLocationConstraintException" => "set `region` (and `endpoint`) to the ones of the bucket",
        _ if matches!(status, 301 | 307) => "set `region` (and `endpoint`) to the ones of the bucket",
        _ if kind == ErrorKind::Denied => {
            let S3Settings { bucket, prefix, .. } = settings;
            let below = match (operation, prefix.as_str()) {
                (Operation::List | Operation::ListUploads, _) => bucket.clone(),
                (_, "") => format!("{bucket}/*"),
                (_, prefix) => format!("{bucket}/{prefix}/*"),
            };
            return Some(format!("allow {} on `{below}`", operation.permission()));
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

/// The cause of all causes, in a line: the layers above it only say that there is one.
pub(super) fn innermost(error: &(dyn Error + 'static)) -> String {
    let last = chain(error).pop().unwrap_or_default();
    last.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn chain(error: &(dyn Error + 'static)) -> Vec<String> {
    let mut texts = vec![error.to_string()];
    let mut error = error;
    while let Some(source) = error.source() {
        texts.push(source.to_string());
        error = source;
    }
    texts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(operation: Operation, status: u16, code: &str, message: &str) -> Refusal {
        let settings = S3Settings { bucket: "vault".into(), prefix: "fedora".into(), ..S3Settings::default() };
        let text = |text: &'static str| (!text.is_empty()).then_some(text);
        let (code, message) = (code.to_owned().leak(), message.to_owned().leak());
        Refusal::answered(operation, &settings, status, text(code), text(message))
    }

    #[test]
    fn the_status_decides_what_can_be_done() {
        for (status, code, kind) in [
            (404, "", ErrorKind::NotFound),
            (404, "NoSuchBucket", ErrorKind::NotFound),
            (412, "PreconditionFailed", ErrorKind::AlreadyExists),
            (403, "AccessDenied", ErrorKind::Denied),
            (400, "BadDigest", ErrorKind::Corrupt),
            (400, "RequestTimeout", ErrorKind::Unavailable),
            (400, "InvalidArgument", ErrorKind::Other),
            (409, "ConditionalRequestConflict", ErrorKind::Unavailable),
            (503, "SlowDown", ErrorKind::Unavailable),
            (200, "InternalError", ErrorKind::Unavailable),
            (501, "NotImplemented", ErrorKind::Other),
            (301, "PermanentRedirect", ErrorKind::Other),
        ] {
            assert_eq!(refusal(Operation::Put, status, code, "").kind, kind, "{status} {code}");
        }
    }

    #[test]
    fn a_server_that_is_busy_is_told_from_one_that_fails() {
        for (status, code, busy) in [
            (503, "SlowDown", true),
            (503, "ServiceUnavailable", true),
            (503, "", true),
            (429, "", true),
            (200, "SlowDown", true),
            (500, "SlowDownWrite", true),
            (500, "InternalError", false),
            (502, "", false),
            (504, "", false),
            (409, "OperationAborted", false),
            (403, "SlowDown", false),
        ] {
            let error = refusal(Operation::Put, status, code, "").when(String::new());
            assert_eq!(error.busy, busy, "{status} {code}");
        }
        assert!(!Refusal::unavailable("the answer broke off").when(String::new()).busy);
    }

    #[test]
    fn a_missing_bucket_reads_differently_from_a_missing_object() {
        let bucket = refusal(Operation::Put, 404, "NoSuchBucket", "The specified bucket does not exist.");
        assert_eq!(bucket.when("put `a`".into()).to_string(), "put `a`: bucket `vault` does not exist");
        let object = refusal(Operation::Look, 404, "", "");
        assert_eq!(object.when("look at `a`".into()).to_string(), "look at `a`: there is no such object");
    }

    #[test]
    fn a_denial_names_the_right_that_is_missing() {
        let denied = refusal(Operation::Put, 403, "AccessDenied", "Access Denied.");
        assert_eq!(denied.cause, "Access Denied (AccessDenied); allow s3:PutObject on `vault/fedora/*`");
        let denied = refusal(Operation::List, 403, "AccessDenied", "Access Denied");
        assert_eq!(denied.cause, "Access Denied (AccessDenied); allow s3:ListBucket on `vault`");
        let denied = refusal(Operation::Look, 403, "", "");
        assert!(denied.cause.starts_with("access denied (HTTP 403); allow s3:GetObject"), "{}", denied.cause);
    }
}
