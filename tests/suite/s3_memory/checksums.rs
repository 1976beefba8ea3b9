//! The checksums S3 knows, and how they travel.

use base64_simd::STANDARD;
use bytes::Bytes;
use hyper::HeaderMap;
use hyper::header::HeaderName;
use hyper::header::HeaderValue;
use s3s::checksum::ChecksumHasher;
use s3s::dto::Checksum;
use s3s::dto::CompletedPart;

/// A way to make a checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Crc32,
    Crc32c,
    Crc64Nvme,
    Sha1,
    Sha256,
}

impl Algorithm {
    const ALL: [Self; 5] = [Self::Crc32, Self::Crc32c, Self::Crc64Nvme, Self::Sha1, Self::Sha256];

    /// The one with this name in the S3 API.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    /// Its name in the S3 API.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Crc32 => "CRC32",
            Self::Crc32c => "CRC32C",
            Self::Crc64Nvme => "CRC64NVME",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
        }
    }

    /// The header or trailer that carries it.
    pub(crate) fn header(self) -> &'static str {
        match self {
            Self::Crc32 => "x-amz-checksum-crc32",
            Self::Crc32c => "x-amz-checksum-crc32c",
            Self::Crc64Nvme => "x-amz-checksum-crc64nvme",
            Self::Sha1 => "x-amz-checksum-sha1",
            Self::Sha256 => "x-amz-checksum-sha256",
        }
    }

    /// Those that a request will give in its headers or its trailers.
    pub(crate) fn announced(headers: &HeaderMap) -> Vec<Self> {
        let trailers = headers.get("x-amz-trailer").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let in_trailers = |name: &str| trailers.split(',').any(|trailer| trailer.trim().eq_ignore_ascii_case(name));
        let mut announced = Self::ALL.to_vec();
        announced.retain(|one| headers.contains_key(one.header()) || in_trailers(one.header()));
        announced
    }
}

/// What makes these checksums in one pass.
pub(crate) fn hasher(algorithms: &[Algorithm]) -> ChecksumHasher {
    let wanted = |algorithm| algorithms.contains(&algorithm);
    ChecksumHasher {
        crc32: wanted(Algorithm::Crc32).then(Default::default),
        crc32c: wanted(Algorithm::Crc32c).then(Default::default),
        sha1: wanted(Algorithm::Sha1).then(Default::default),
        sha256: wanted(Algorithm::Sha256).then(Default::default),
        crc64nvme: wanted(Algorithm::Crc64Nvme).then(Default::default),
    }
}

/// Checksums of one body, in base64 as they travel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checksums(Vec<(Algorithm, String)>);

impl Checksums {
    /// The one made by this algorithm alone.
    pub(crate) fn one(algorithm: Algorithm, sum: String) -> Self {
        Self(vec![(algorithm, sum)])
    }

    /// Those in the headers or the trailers of a request.
    pub(crate) fn in_headers(headers: &HeaderMap) -> Self {
        let value = |one: &Algorithm| headers.get(one.header())?.to_str().ok();
        Self(Algorithm::ALL.into_iter().filter_map(|one| Some((one, value(&one)?.to_owned()))).collect())
    }

    /// Those that the client repeats of a part when it completes an upload.
    pub(crate) fn of_part(part: &CompletedPart) -> Self {
        Self::chosen(|algorithm| match algorithm {
            Algorithm::Crc32 => part.checksum_crc32.clone(),
            Algorithm::Crc32c => part.checksum_crc32c.clone(),
            Algorithm::Crc64Nvme => part.checksum_crc64nvme.clone(),
            Algorithm::Sha1 => part.checksum_sha1.clone(),
            Algorithm::Sha256 => part.checksum_sha256.clone(),
        })
    }

    /// Those that a hasher made.
    pub(crate) fn computed(hasher: ChecksumHasher) -> Self {
        let sums = hasher.finalize();
        Self::chosen(|algorithm| match algorithm {
            Algorithm::Crc32 => sums.checksum_crc32.clone(),
            Algorithm::Crc32c => sums.checksum_crc32c.clone(),
            Algorithm::Crc64Nvme => sums.checksum_crc64nvme.clone(),
            Algorithm::Sha1 => sums.checksum_sha1.clone(),
            Algorithm::Sha256 => sums.checksum_sha256.clone(),
        })
    }

    fn chosen(sum: impl Fn(Algorithm) -> Option<String>) -> Self {
        Self(Algorithm::ALL.into_iter().filter_map(|algorithm| Some((algorithm, sum(algorithm)?))).collect())
    }

    /// The checksum of the whole content.
    pub(crate) fn of_content(algorithm: Algorithm, content: &Bytes) -> Self {
        let mut hasher = hasher(&[algorithm]);
        hasher.update(content);
        Self::computed(hasher)
    }

    /// The checksum of the checksums of all parts, with their number behind it; none if a part has none.
    pub(crate) fn of_parts<'a>(algorithm: Algorithm, parts: impl ExactSizeIterator<Item = &'a Self>) -> Option<Self> {
        let number = parts.len();
        let mut hasher = hasher(&[algorithm]);
        for part in parts {
            hasher.update(&STANDARD.decode_to_vec(part.get(algorithm)?).ok()?);
        }
        let sum = Self::computed(hasher);
        Some(Self::one(algorithm, format!("{}-{number}", sum.get(algorithm)?)))
    }

    /// The checksum made by this algorithm.
    pub(crate) fn get(&self, algorithm: Algorithm) -> Option<&str> {
        self.0.iter().find(|(made_by, _)| *made_by == algorithm).map(|(_, sum)| sum.as_str())
    }

    /// Adds those of another.
    pub(crate) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Whether all of these are among the others.
    pub(crate) fn are_among(&self, others: &Self) -> bool {
        self.0.iter().all(|(algorithm, sum)| others.get(*algorithm) == Some(sum.as_str()))
    }

    /// The headers that tell them.
    pub(crate) fn headers(&self) -> HeaderMap {
        let value = |sum: &str| HeaderValue::from_str(sum).expect("it came from a header, or is base64");
        self.0.iter().map(|(one, sum)| (HeaderName::from_static(one.header()), value(sum))).collect()
    }

    /// The same as the S3 API's own type.
    pub(crate) fn to_dto(&self) -> Checksum {
        let sum = |algorithm| self.get(algorithm).map(str::to_owned);
        Checksum {
            checksum_crc32: sum(Algorithm::Crc32),
            checksum_crc32c: sum(Algorithm::Crc32c),
            checksum_crc64nvme: sum(Algorithm::Crc64Nvme),
            checksum_sha1: sum(Algorithm::Sha1),
            checksum_sha256: sum(Algorithm::Sha256),
            checksum_type: None,
        }
    }
}
