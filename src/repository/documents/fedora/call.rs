//! One request to Fedora, whose answer may take hours.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::anyhow;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use http_body_util::Full;
use http_body_util::Limited;
use hyper::Request;
use hyper::client::conn::http1;
use hyper::header::AUTHORIZATION;
use hyper::header::CONTENT_TYPE;
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::net::TcpSocket;
use tokio::net::TcpStream;
use tokio::net::lookup_host;
use tokio::runtime::Builder;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::model::database::Encryption;
use crate::model::fedora::FedoraServer;
use crate::repository::documents::database::client_config;
use crate::repository::documents::database::password_in;
use crate::repository::documents::database::within;

/// How long reaching a server may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(15);
/// No answer that says anything is longer.
const ANSWER_LIMIT: usize = 1 << 20;
/// How much of an answer is shown.
const SHOWN: usize = 300;

/// What Fedora said.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// The first line of its text, as much as is worth showing.
    pub(super) text: String,
}

/// Nothing reached Fedora, so that it did nothing.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("it could not be asked")]
pub(super) struct Unasked;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Asks, and waits for the answer; an error is [`Unasked`] if Fedora cannot have heard of it.
pub(super) fn ask(
    server: &FedoraServer,
    method: &str,
    call: &str,
    body: &str,
    stop: &dyn Fn() -> bool,
) -> anyhow::Result<Answer> {
    let request = request(server, method, call, body).context(Unasked)?;
    let runtime = Builder::new_current_thread().enable_all().build().context(Unasked)?;
    let asked = runtime.block_on(async {
        let connected = within(CONNECT_WITHIN, stop, |error| error, connect(server)).await;
        let stream = connected.context(Unasked)?;
        within(server.timeout, stop, |error| error, exchange(stream, request)).await
    });
    // A look-up of a name cannot be ended, and need not be waited for.
    runtime.shutdown_background();
    asked
}

fn request(server: &FedoraServer, method: &str, call: &str, body: &str) -> anyhow::Result<Request<Full<Bytes>>> {
    let url = &server.url;
    let mut request = Request::builder()
        .method(method)
        .uri(format!("{}{call}", url.path))
        .header(HOST, url.authority())
        .header(CONTENT_TYPE, "text/plain; charset=utf-8");
    if let Some(user) = &url.user {
        let password = server.password_file.as_deref().map(password_in).transpose()?.unwrap_or_default();
        let credentials = base64_simd::STANDARD.encode_to_string(format!("{user}:{password}"));
        request = request.header(AUTHORIZATION, format!("Basic {credentials}"));
    }
    request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).context("make a request")
}

async fn connect(server: &FedoraServer) -> anyhow::Result<Box<dyn Stream>> {
    let url = &server.url;
    let mut failed = anyhow!("there is no address for `{}`", url.host);
    let mut reached = None;
    for address in lookup_host((url.host.as_str(), url.port)).await.with_context(|| format!("find `{}`", url.host))? {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // Nothing is said for hours, and who is gone by then should not be waited for.
        socket.set_keepalive(true)?;
        match socket.connect(address).await {
            Ok(stream) => {
                reached = Some(stream);
                break;
            }
            Err(error) => failed = anyhow!(error).context(format!("connect to {address}")),
        }
    }
    let stream: TcpStream = reached.ok_or(failed)?;
    if !url.encrypted {
        return Ok(Box::new(stream));
    }
    let config = client_config(Encryption::ForNamed, server.root_certificate.as_deref())?;
    let name = ServerName::try_from(url.host.clone()).context("prepare encryption")?;
    Ok(Box::new(TlsConnector::from(Arc::new(config)).connect(name, stream).await.context("agree on encryption")?))
}

async fn exchange(stream: Box<dyn Stream>, request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.context("speak HTTP")?;
    let answering = async {
        let answer = sender.send_request(request).await.context("wait for an answer")?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), ANSWER_LIMIT).collect().await;
        let body = body.map_err(|error| anyhow!(error)).context("read the answer")?.to_bytes();
        anyhow::Ok(Answer { status, text: first_line(&body) })
    };
    tokio::pin!(answering);
    // The connection ends by itself when the answer has been read; before that it must be driven.
    tokio::select! {
        answered = &mut answering => answered,
        broken = connection => {
            broken.context("wait for an answer")?;
            answering.await
        }
    }
}

/// What there is to show of an answer, which may be a page or a trace of Java's.
fn first_line(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    line.chars().filter(|character| !character.is_control()).take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_answer_its_first_line_is_shown() {
        assert_eq!(first_line(b" \n  java.lang.NullPointerException\n\tat x\n"), "java.lang.NullPointerException");
        assert_eq!(first_line(b""), "");
        assert_eq!(first_line(&[b'x'; 1000]).len(), SHOWN);
    }
}
