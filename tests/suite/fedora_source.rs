//! Documents of a Fedora that is asked over HTTP. A stand-in says what the real one says when things go wrong, and does
//! on the directory what that does; `tests/interop` has the real one.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast::model::digest::Digest;
use holdfast::model::fedora::{FedoraServer, FedoraUrl};
use holdfast::model::run::{Outcome, Run};
use holdfast::repository::documents::{DocumentSource, Stopped};

use super::document_tables::gzip;
use super::lab::{Lab, ids_below, tree_below};

const SUCCEEDED: Option<Outcome> = Some(Outcome::Succeeded);
const FAILED: Option<Outcome> = Some(Outcome::Failed);
/// What the staging directory is called by the stand-in.
const IN_FEDORA: &str = "/io";

/// A request, as far as it matters.
#[derive(Clone, Debug)]
struct Asked {
    call: String,
    authorization: String,
    body: String,
}

/// What the stand-in does on a request: a status and a text, or nothing, and then it hangs up.
type Answer = Box<dyn FnMut(&Asked) -> Option<(u16, String)> + Send>;

struct StandIn {
    lab: Lab,
    answer: Arc<Mutex<Answer>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    port: u16,
}

/// Reads a request; none if the other side hung up.
fn request(stream: &mut BufReader<TcpStream>) -> Option<Asked> {
    let mut line = String::new();
    stream.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let mut parts = line.split(' ');
    let call = format!("{} {}", parts.next()?, parts.next()?);
    let (mut authorization, mut length) = (String::new(), 0);
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => value.clone_into(&mut authorization),
            "content-length" => length = value.parse().ok()?,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some(Asked { call, authorization, body: String::from_utf8(body).ok()? })
}

impl StandIn {
    /// A repository in such a Fedora, with a few binaries; it answers that all is well and does nothing.
    fn new() -> Self {
        let lab = Lab::new();
        fs::create_dir(lab.path("staging")).unwrap();
        fs::write(lab.path("password"), "secret\n").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let answer: Arc<Mutex<Answer>> = Arc::new(Mutex::new(Box::new(|_| Some((200, String::new())))));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (says, notes) = (Arc::clone(&answer), Arc::clone(&asked));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.unwrap());
                let Some(request) = request(&mut stream) else { continue };
                notes.lock().unwrap().push(request.clone());
                let answer = says.lock().unwrap_or_else(PoisonError::into_inner)(&request);
                if let Some((status, text)) = answer {
                    let head = format!("HTTP/1.1 {status} As said\r\nContent-Length: {}\r\n\r\n", text.len());
                    let body = if request.call.starts_with("HEAD") || status == 204 { "" } else { &text };
                    drop(stream.get_mut().write_all(format!("{head}{body}").as_bytes()));
                }
            }
        });
        let mut stand_in = Self { lab, answer, asked, port };
        stand_in.lab.documents = Some(DocumentSource::Fedora(stand_in.server()));
        stand_in.says(|asked| Some((if asked.call.starts_with("HEAD") { 200 } else { 404 }, String::new())));
        stand_in
    }

    fn server(&self) -> FedoraServer {
        FedoraServer {
            url: FedoraUrl::parse(&format!("http://fedoraAdmin@127.0.0.1:{}/rest", self.port)).unwrap(),
            staging: self.lab.path("staging"),
            staging_in_fedora: IN_FEDORA.into(),
            password_file: Some(self.lab.path("password")),
            root_certificate: None,
            timeout: Duration::from_mins(1),
        }
    }

    fn says(&self, answer: impl FnMut(&Asked) -> Option<(u16, String)> + Send + 'static) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(answer);
    }

    /// Has it make backups of these lines, with what changed meanwhile, and a binary that nobody needs twice.
    fn backs_up(&self, lines: String, changes: String) {
        let staging = self.lab.path("staging");
        self.says(move |asked| match asked.call.as_str() {
            "HEAD /rest/" => Some((200, String::new())),
            "POST /rest/fcr:backup" if sees(asked).is_some() => sees(asked),
            "POST /rest/fcr:backup" => {
                let directory = here(&staging, &asked.body);
                assert!(directory.is_dir(), "{asked:?}");
                fs::write(directory.join("documents_000001.bin.gz"), gzip(lines.as_bytes())).unwrap();
                fs::create_dir_all(directory.join("changes")).unwrap();
                fs::write(directory.join("changes/documents_000001.bin.gz"), gzip(changes.as_bytes())).unwrap();
                fs::create_dir_all(directory.join("binaries/aa/bb/cc")).unwrap();
                Some((200, asked.body.clone()))
            }
            call => panic!("{call}"),
        });
    }

    /// What is in the staging directory; the lock is always there once it was used.
    fn staged(&self) -> Vec<PathBuf> {
        tree_below(&self.lab.path("staging")).into_keys().filter(|path| !path.ends_with(".holdfast.lock")).collect()
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap()).into_iter().map(|asked| asked.call).collect()
    }
}

/// What Fedora says of a file that it should back up to, and sees.
fn sees(asked: &Asked) -> Option<(u16, String)> {
    let file = asked.body.strip_prefix(IN_FEDORA).is_some_and(|path| path.ends_with("/sight"));
    (asked.call == "POST /rest/fcr:backup" && file).then(|| (500, "java.lang.NullPointerException".to_owned()))
}

/// A directory as we call it.
fn here(staging: &Path, in_fedora: &str) -> PathBuf {
    staging.join(Path::new(in_fedora).strip_prefix(IN_FEDORA).unwrap())
}

fn line(id: &str, content: &str) -> String {
    format!("{{ \"metadata\" : {{ \"id\" : \"{id}\" }} , \"content\" : {{ {content} }} }}\n")
}

fn reference(digest: &Digest) -> String {
    format!("\"data\" : {{ \"$sha1\" : \"{digest}\" , \"$len\" : 5 }}")
}

fn says(run: &Run, parts: &[&str]) {
    let error = run.error.as_deref().unwrap_or_default();
    for part in parts {
        assert!(error.contains(part), "no {part} in {error}");
    }
}

/// A repository with a restore point of three documents, which Fedora backed up while it was used.
async fn kept() -> (StandIn, Vec<Digest>, String) {
    let fedora = StandIn::new();
    let digests = fedora.lab.add_many(3, "kept");
    let lines = ["a", "b", "c"].iter().zip(&digests).map(|(id, digest)| line(id, &reference(digest)));
    fedora.backs_up(lines.collect(), line("b", &format!("{} , \"n\" : 1", reference(&digests[1]))));
    let run = fedora.lab.copy().await;
    let counts = (run.counts.documents, run.counts.conflicting_documents, run.counts.references, run.counts.missing);
    assert_eq!((run.outcome, counts), (SUCCEEDED, (3, 1, 3, 0)), "{run:?}");
    (fedora, digests, run.result.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_come_from_a_backup_that_fedora_makes_and_nothing_of_it_stays() {
    let (fedora, _, _) = kept().await;
    let asked = fedora.asked.lock().unwrap().clone();
    assert_eq!(asked.iter().map(|asked| asked.call.as_str()).collect::<Vec<_>>(), ["POST /rest/fcr:backup"]);
    assert_eq!(asked[0].authorization, "Basic ZmVkb3JhQWRtaW46c2VjcmV0");
    assert!(asked[0].body.starts_with("/io/holdfast-"), "{asked:?}");
    assert!(fedora.staged().is_empty(), "{:?}", fedora.staged());
    let run = fedora.lab.backup().await;
    assert_eq!((run.outcome, run.counts.documents), (SUCCEEDED, 3), "{run:?}");
    assert!(fedora.staged().is_empty(), "{:?}", fedora.staged());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_gives_fedora_each_document_once_when_all_binaries_are_in_place() {
    let (fedora, digests, point) = kept().await;
    fs::remove_file(fedora.lab.binaries().path(&digests[0])).unwrap();
    let surplus = fedora.lab.add(b"surplus");
    fedora.calls();
    let restored = Arc::new(Mutex::new(Vec::new()));
    let (staging, first, seen) = (
        fedora.lab.path("staging"),
        [digests[0], surplus].map(|digest| fedora.lab.binaries().path(&digest)),
        Arc::clone(&restored),
    );
    fedora.says(move |asked| match asked.call.as_str() {
        "HEAD /rest/" => Some((200, String::new())),
        "POST /rest/fcr:backup" => sees(asked),
        "POST /rest/fcr:restore" => {
            let directory = here(&staging, &asked.body);
            // It reads the binaries of the backup if there are any, and forgets all others.
            assert!(!directory.join("binaries").exists());
            assert!(first.iter().all(|path| path.exists()), "{first:?}");
            *seen.lock().unwrap() = ids_below(&directory);
            Some((204, String::new()))
        }
        call => panic!("{call}"),
    });
    let run = fedora.lab.restore(&point).await;
    assert_eq!((run.outcome, run.counts.documents, run.counts.quarantined), (SUCCEEDED, 3, 1), "{run:?}");
    assert_eq!(*restored.lock().unwrap(), ["a", "c", "b"]);
    assert!(fedora.staged().is_empty(), "{:?}", fedora.staged());
    assert_eq!(fedora.lab.snapshot().len(), 3);
    assert_eq!(fedora.calls(), ["HEAD /rest/", "HEAD /rest/", "POST /rest/fcr:backup", "POST /rest/fcr:restore"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fedora_that_will_not_is_named_with_the_way_out_and_nothing_changes() {
    let (fedora, digests, point) = kept().await;
    fs::remove_file(fedora.lab.binaries().path(&digests[0])).unwrap();
    fedora.lab.add(b"surplus");
    let before = fedora.lab.everything();
    let missing = "Backup directory does not exist: /io/holdfast-x";
    for (status, text, hint) in [
        (401, "", "password_file"),
        (403, "", "fedoraAdmin"),
        (404, "", "root of the REST interface"),
        (500, missing, "it answered 500: Backup directory does not exist"),
    ] {
        fedora.says(move |asked| match asked.call.as_str() {
            "HEAD /rest/" => Some((200, String::new())),
            _ => sees(asked).or_else(|| Some((status, format!("{text}\n\tat java.lang.Thread\n")))),
        });
        for run in [fedora.lab.copy().await, fedora.lab.backup().await] {
            assert_eq!(run.outcome, FAILED, "{run:?}");
            says(&run, &[hint, "ask Fedora at http://127.0.0.1:"]);
        }
        let run = fedora.lab.restore(&point).await;
        assert_eq!(run.outcome, FAILED, "{run:?}");
        says(&run, &[hint, "it has the old documents", "nothing was changed"]);
        assert!(fedora.lab.everything() == before && fedora.staged().is_empty());
    }
    // It would clear the repository for documents that it cannot read.
    fedora.says(|asked| match asked.call.as_str() {
        "HEAD /rest/" => Some((200, String::new())),
        "POST /rest/fcr:backup" => {
            Some((500, format!("Backup directory does not exist or is not writable: {}", asked.body)))
        }
        call => panic!("{call}"),
    });
    let run = fedora.lab.restore(&point).await;
    assert_eq!(run.outcome, FAILED, "{run:?}");
    says(&run, &["it does not see it", "staging_in_fedora"]);
    assert!(fedora.lab.everything() == before && fedora.staged().is_empty());
    // One that does not even answer is found out before anything is fetched.
    fedora.says(|_| Some((401, String::new())));
    let run = fedora.lab.restore(&point).await;
    assert_eq!((run.outcome, run.counts.copied), (FAILED, 0), "{run:?}");
    says(&run, &["restore documents: ask Fedora", "password_file"]);
    assert!(fedora.lab.everything() == before && fedora.staged().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_whose_end_is_not_known_takes_no_binary_away() {
    let (fedora, digests, point) = kept().await;
    for answer in [None, Some((500, "Documents could not be written".to_owned()))] {
        fs::remove_file(fedora.lab.binaries().path(&digests[0])).unwrap();
        let surplus = fedora.lab.add(b"surplus");
        let said = answer.clone();
        fedora.says(move |asked| match asked.call.as_str() {
            "HEAD /rest/" => Some((200, String::new())),
            _ => sees(asked).or_else(|| said.clone()),
        });
        let run = fedora.lab.restore(&point).await;
        assert_eq!(run.outcome, FAILED, "{run:?}");
        says(&run, &["is not known", "restart it, and restore again", "none was taken away"]);
        for digest in digests.iter().chain([&surplus]) {
            assert!(fedora.lab.binaries().path(digest).exists(), "{digest}");
        }
        assert!(fedora.staged().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_not_where_it_should_be_is_told_from_one_that_is() {
    let fedora = StandIn::new();
    fedora.lab.add(b"binary");
    fedora.says(|asked| Some((200, asked.body.clone())));
    let run = fedora.lab.copy().await;
    assert_eq!(run.outcome, FAILED, "{run:?}");
    says(&run, &["staging_in_fedora"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_cancelled_while_fedora_works_does_not_wait_for_it_and_leaves_nothing() {
    let fedora = StandIn::new();
    fedora.lab.add(b"binary");
    let stop = fedora.lab.stop.clone();
    let (ended, end) = std::sync::mpsc::channel();
    fedora.says(move |_| {
        stop.cancel();
        // It would go on for as long as the run does.
        end.recv().unwrap();
        None
    });
    let run = fedora.lab.copy().await;
    ended.send(()).unwrap();
    assert_eq!(run.outcome, Some(Outcome::Cancelled), "{run:?}");
    assert!(fedora.staged().is_empty(), "{:?}", fedora.staged());
}

#[test]
fn a_staging_directory_has_one_user_at_a_time_and_what_others_left_goes() {
    let fedora = StandIn::new();
    fedora.backs_up(line("a", ""), String::new());
    let left = fedora.lab.path("staging/holdfast-left/binaries/aa");
    fs::create_dir_all(&left).unwrap();
    fs::create_dir(fedora.lab.path("staging/of-somebody")).unwrap();
    let source = DocumentSource::Fedora(fedora.server());
    let open = source.open(&|| false).unwrap();
    assert!(!left.exists() && fedora.lab.path("staging/of-somebody").exists());
    // The second waits, and would for as long as the first is at work.
    let looks = Mutex::new(0);
    let waited = source.open(&|| {
        *looks.lock().unwrap() += 1;
        *looks.lock().unwrap() > 2
    });
    assert!(waited.unwrap_err().is::<Stopped>());
    assert_eq!(fedora.calls(), ["POST /rest/fcr:backup"]);
    drop(open);
    drop(source.open(&|| false).unwrap());
    assert_eq!(fedora.staged(), [PathBuf::from("of-somebody")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_fedora_would_lose_is_not_given_to_it() {
    let fedora = StandIn::new();
    let digest = fedora.lab.add(b"binary");
    fedora.backs_up(line("a", &reference(&digest)) + &line("odd", "\"a\"b\" : 1"), String::new());
    let point = fedora.lab.copy().await.result.unwrap();
    fs::remove_file(fedora.lab.binaries().path(&digest)).unwrap();
    let before = fedora.lab.everything();
    let run = fedora.lab.restore(&point).await;
    assert_eq!(run.outcome, FAILED, "{run:?}");
    says(&run, &["write document 2 for Fedora", "a quote or a backslash", "`postgres` or `mysql`"]);
    assert!(fedora.lab.everything() == before && fedora.staged().is_empty());
}
