//! Objects that go in one request, and their end.

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ServerSideEncryption, StorageClass};
use bytes::Bytes;

use crate::model::digest::{Digest, Hasher};
use crate::model::key::Key;
use crate::store::s3::base64;
use crate::store::s3::error::{Operation, Refusal};
use crate::store::s3::{Bucket, within};
use crate::store::{Download, ErrorKind};

impl Bucket {
    /// Stores an object where there is none, and sees to it that it arrived.
    pub(super) async fn put(&self, key: &Key, body: Bytes, digest: &Digest) -> Result<(), Refusal> {
        if !self.capabilities.conditional_put {
            self.must_be_free(key).await?;
        }
        self.send(key, body, digest, self.capabilities.conditional_put).await?;
        if !self.capabilities.verifies_sha1 {
            self.read_back(key, digest).await?;
        }
        Ok(())
    }

    /// Sends an object with its digest, and `If-None-Match` where the store heeds it.
    pub(super) async fn send(&self, key: &Key, body: Bytes, digest: &Digest, conditional: bool) -> Result<(), Refusal> {
        let checksum = base64::encode(digest.as_bytes());
        let name = self.name(key.as_str());
        match &self.direct {
            Some(direct) => {
                let headers = self.headers(digest, &checksum, conditional);
                within(self.settings.time_outs.answer, direct.put(&self.settings, &name, &headers, body)).await?
            }
            None => self.send_by_sdk(name, body, digest, checksum, conditional).await,
        }
    }

    fn headers<'a>(&'a self, digest: &Digest, checksum: &'a str, conditional: bool) -> Vec<(&'static str, &'a str)> {
        let settings = &self.settings;
        let of_digest = match digest {
            Digest::Sha1(_) => "x-amz-checksum-sha1",
            Digest::Sha256(_) => "x-amz-checksum-sha256",
        };
        let all = [
            ("content-type", Some("application/octet-stream")),
            (of_digest, Some(checksum)),
            ("if-none-match", conditional.then_some("*")),
            ("x-amz-storage-class", settings.storage_class.as_deref()),
            ("x-amz-server-side-encryption", settings.sse.as_deref()),
            ("x-amz-server-side-encryption-aws-kms-key-id", settings.kms_key.as_deref()),
            ("x-amz-expected-bucket-owner", settings.expected_bucket_owner.as_deref()),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    async fn send_by_sdk(
        &self,
        name: String,
        body: Bytes,
        digest: &Digest,
        checksum: String,
        conditional: bool,
    ) -> Result<(), Refusal> {
        let (sha1, sha256) = match digest {
            Digest::Sha1(_) => (Some(checksum), None),
            Digest::Sha256(_) => (None, Some(checksum)),
        };
        let request = self
            .client
            .put_object()
            .bucket(&self.settings.bucket)
            .key(name)
            .body(ByteStream::from(body))
            .set_checksum_sha1(sha1)
            .set_checksum_sha256(sha256)
            .set_if_none_match(conditional.then(|| "*".to_owned()))
            .set_storage_class(self.storage_class())
            .set_server_side_encryption(self.encryption())
            .set_ssekms_key_id(self.settings.kms_key.clone())
            .set_expected_bucket_owner(self.owner())
            .customize()
            // As with a direct put.
            .disable_payload_signing();
        self.ask(Operation::Put, request.send()).await?;
        Ok(())
    }

    pub(super) fn storage_class(&self) -> Option<StorageClass> {
        self.settings.storage_class.as_deref().map(StorageClass::from)
    }

    pub(super) fn encryption(&self) -> Option<ServerSideEncryption> {
        self.settings.sse.as_deref().map(ServerSideEncryption::from)
    }

    /// Looks before writing, for a store that would overwrite. Two writers at once would both find it free; that
    /// all keys of ours are named by digest or drawn at random has to do.
    pub(super) async fn must_be_free(&self, key: &Key) -> Result<(), Refusal> {
        match self.look(key).await {
            Ok(_) => Err(Refusal::own(ErrorKind::AlreadyExists, "there is such an object already")),
            Err(refusal) if refusal.is_missing_in_bucket() => Ok(()),
            Err(refusal) => Err(refusal),
        }
    }

    async fn read_back(&self, key: &Key, digest: &Digest) -> Result<(), Refusal> {
        let mut download = self.get(key, None).await?;
        let mut hasher = Hasher::new(digest.algorithm());
        while let Some(piece) = download.chunk().await.map_err(|error| Refusal::own(error.kind, error.cause))? {
            hasher.update(&piece);
        }
        let found = hasher.finish();
        if found == *digest {
            return Ok(());
        }
        let cause = format!("read back, the object has the digest {found} and not {digest}; the store has damaged it");
        Err(Refusal::own(ErrorKind::Corrupt, cause))
    }

    /// Takes an object away; one that is not there is no error.
    pub(super) async fn delete(&self, key: &Key) -> Result<(), Refusal> {
        let request = self
            .client
            .delete_object()
            .bucket(&self.settings.bucket)
            .key(self.name(key.as_str()))
            .set_expected_bucket_owner(self.owner());
        match self.ask(Operation::Delete, request.send()).await {
            Err(refusal) if !refusal.is_missing_in_bucket() => Err(refusal),
            _ => Ok(()),
        }
    }
}
