//! The floor of the benchmark: every file of a directory put with the bare SDK, 32 at a time.
//!
//! Nothing is looked up, read twice or written down; a program that does more can hardly be faster.

#![expect(clippy::print_stdout, reason = "it reports to a person or a script")]

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Instant;

use anyhow::Context;
use aws_sdk_s3::Client;
use aws_sdk_s3::Config;
use aws_sdk_s3::config::Credentials;
use aws_sdk_s3::config::Region;
use aws_sdk_s3::config::RequestChecksumCalculation;
use aws_sdk_s3::primitives::ByteStream;
use base64_simd::STANDARD;
use clap::Parser;
use holdfast::model::digest::Digest;
use tokio::task::JoinSet;

/// How many requests are on their way at a time; the default of the daemon's copy.
const IN_FLIGHT: usize = 32;

#[derive(Parser)]
struct Arguments {
    #[arg(long)]
    endpoint: String,
    #[arg(long)]
    bucket: String,
    /// What comes before a file's path in its key
    #[arg(long, default_value = "")]
    prefix: String,
    #[arg(long)]
    access_key: String,
    #[arg(long)]
    secret_key: String,
    /// A directory of files that are named by their SHA-1
    directory: PathBuf,
}

/// What all tasks work on.
struct Work {
    client: Client,
    arguments: Arguments,
    files: Mutex<Vec<PathBuf>>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let config = Config::builder()
        .behavior_version_latest()
        .endpoint_url(&arguments.endpoint)
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new(&arguments.access_key, &arguments.secret_key, None, None, "arguments"))
        .force_path_style(true)
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .build();
    let started = Instant::now();
    let mut files = Vec::new();
    walk(&arguments.directory, &mut files)?;
    let number = files.len();
    let work = Arc::new(Work { client: Client::from_conf(config), arguments, files: Mutex::new(files) });
    let mut tasks = JoinSet::new();
    for _ in 0..IN_FLIGHT {
        tasks.spawn(put_files(Arc::clone(&work)));
    }
    let mut bytes = 0;
    while let Some(task) = tasks.join_next().await {
        bytes += task.context("wait for a task")??;
    }
    println!("{number} files, {bytes} bytes, {:.3} seconds", started.elapsed().as_secs_f64());
    Ok(())
}

fn walk(directory: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let reading = || format!("read `{}`", directory.display());
    for entry in directory.read_dir().with_context(reading)? {
        let entry = entry.with_context(reading)?;
        if entry.file_type().with_context(reading)?.is_dir() {
            walk(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// Puts files until there are none left; gives their bytes.
async fn put_files(work: Arc<Work>) -> anyhow::Result<u64> {
    let next = || work.files.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let mut bytes = 0;
    while let Some(path) = next() {
        bytes +=
            put(&work.client, &work.arguments, &path).await.with_context(|| format!("put `{}`", path.display()))?;
    }
    Ok(bytes)
}

async fn put(client: &Client, arguments: &Arguments, path: &Path) -> anyhow::Result<u64> {
    let name = path.file_name().context("it has no name")?;
    let Some(Digest::Sha1(sha1)) = Digest::from_name(name.as_encoded_bytes()) else {
        anyhow::bail!("its name is not a SHA-1");
    };
    let below = path.strip_prefix(&arguments.directory)?.to_str().context("its path is not text")?;
    let body = ByteStream::from_path(path).await?;
    let bytes = body.size_hint().1.context("it has no size")?;
    let key = format!("{}{below}", arguments.prefix);
    let put = client.put_object().bucket(&arguments.bucket).key(key).body(body);
    put.checksum_sha1(STANDARD.encode_to_string(sha1)).send().await?;
    Ok(bytes)
}
