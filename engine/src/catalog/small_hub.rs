//! A hub on this machine, for tests: one repository, in the part of the hub's language that pulls use.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::json;

use super::hash::Hash;
use super::hub::Way;
use super::pull::Wanted;

/// What a hub has and how it behaves.
#[derive(Clone, Debug, Default)]
pub(super) struct SmallHub {
    pub(super) repository: &'static str,
    /// Its newest commit; others are answered with the same files.
    pub(super) commit: String,
    pub(super) files: Vec<(String, Vec<u8>)>,
    /// Whoever wants files must show this token.
    pub(super) token: Option<&'static str>,
    /// Whoever may not read files is told that there is no such repository.
    pub(super) hidden: bool,
    /// The list as it is sent, if it is not the true one.
    pub(super) list: Option<String>,
    /// What is delivered instead of what the list says.
    pub(super) swapped: Vec<(String, Vec<u8>)>,
    /// Every download breaks off after so many bytes.
    pub(super) cut_bytes: Option<usize>,
    /// So many downloads fail before one begins.
    pub(super) failures: usize,
    /// Whether it sends whole files whatever is asked for.
    pub(super) without_ranges: bool,
    /// Whether files lie on another host.
    pub(super) elsewhere: bool,
}

/// A hub that answers.
pub(super) struct Open {
    pub(super) way: Way,
    /// What was asked: the path, and the token if one was shown.
    asked: Arc<Mutex<Vec<String>>>,
    given: Arc<AtomicUsize>,
}

impl Open {
    /// What was asked since the last call.
    pub(super) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    /// Bytes of files that were sent since the last call.
    pub(super) fn given(&self) -> usize {
        self.given.swap(0, Ordering::Relaxed)
    }
}

/// How a file of a repository is listed: large ones are kept apart and known by another hash.
pub(super) fn wanted(name: &str, content: &[u8]) -> Wanted {
    let is_large = name.ends_with("gguf") || name.ends_with("safetensors");
    let kind = if is_large { Hash::Sha256("".into()) } else { Hash::GitBlob(String::new()) };
    let mut hasher = kind.hasher(content.len() as u64);
    hasher.update(content);
    Wanted { name: name.to_owned(), bytes: content.len() as u64, hash: hasher.finish() }
}

impl SmallHub {
    pub(super) fn new(repository: &'static str, files: &[(&str, &[u8])]) -> SmallHub {
        let files = files.iter().map(|(name, content)| ((*name).to_owned(), content.to_vec())).collect();
        SmallHub { repository, commit: "c0ffee".repeat(7)[..40].to_owned(), files, ..SmallHub::default() }
    }

    /// Opens it until the test's process ends.
    pub(super) fn open(self) -> Open {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (asked, given): (Arc<Mutex<Vec<String>>>, Arc<AtomicUsize>) = Default::default();
        let open = Open {
            way: Way { endpoint: Some(endpoint), token: None },
            asked: Arc::clone(&asked),
            given: Arc::clone(&given),
        };
        let mut hub = self;
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let port = stream.local_addr().unwrap().port();
                let Some(request) = Request::read(&stream) else { continue };
                let shown = request.token.as_ref().map_or(String::new(), |token| format!(" by {token}"));
                asked.lock().unwrap().push(format!("{}{shown}", request.path));
                hub.answer(&request, port, &stream, &given);
            }
        });
        open
    }

    fn answer(&mut self, request: &Request, port: u16, mut stream: &TcpStream, given: &AtomicUsize) {
        let mut send = |status: &str, headers: &str, body: &[u8]| {
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
            );
            // Who has heard enough may go.
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        };
        let is_let_in = self.token.is_none() || self.token == request.token.as_deref();
        let error = |code: &str| format!("X-Error-Code: {code}\r\n");
        let api = format!("/api/models/{}/revision/", self.repository);
        if let Some(revision) = request.path.strip_prefix(&api) {
            let revision = revision.strip_suffix("?blobs=true").expect("sizes and hashes are asked for");
            if self.hidden && !is_let_in {
                let status = if request.token.is_none() { "401 Unauthorized" } else { "404 Not Found" };
                send(status, &error("RepoNotFound"), b"{}");
            } else if revision == "main" || revision == self.commit || revision == "v1" {
                send("200 OK", "", self.list().as_bytes());
            } else {
                send("404 Not Found", &error("RevisionNotFound"), b"{}");
            }
            return;
        }
        let (repository, elsewhere) = (format!("/{}/resolve/", self.repository), "/elsewhere/");
        let path = match (request.path.strip_prefix(&repository), request.path.strip_prefix(elsewhere)) {
            (Some(_), _) if !is_let_in => {
                let status = if request.token.is_none() { "401 Unauthorized" } else { "403 Forbidden" };
                return send(status, &error("GatedRepo"), b"{}");
            }
            (Some(path), _) if self.elsewhere => {
                let location = format!("Location: http://localhost:{port}{elsewhere}{path}\r\n");
                return send("302 Found", &location, b"");
            }
            (Some(path), _) | (_, Some(path)) => path,
            // A repository that is not there.
            (None, None) => return send("401 Unauthorized", &error("RepoNotFound"), b"{}"),
        };
        let name = path.split_once('/').map_or(path, |(_, name)| name).replace("%20", " ");
        let of = |files: &[(String, Vec<u8>)]| files.iter().find(|(n, _)| *n == name).map(|(_, c)| c.clone());
        let Some(content) = of(&self.swapped).or_else(|| of(&self.files)) else {
            return send("404 Not Found", &error("EntryNotFound"), b"{}");
        };
        if self.failures > 0 {
            self.failures -= 1;
            return send("503 Service Unavailable", "", b"");
        }
        let (first, last) = match request.range {
            Some(range) if !self.without_ranges => range,
            _ => (0, None),
        };
        let (from, whole) = (first, content.len());
        let head = if request.range.is_some() && !self.without_ranges {
            if from >= whole {
                return send(
                    "416 Range Not Satisfiable",
                    &format!("Content-Range: bytes */{whole}\r\n"),
                    b"",
                );
            }
            let last = last.unwrap_or(whole - 1).min(whole - 1);
            format!("206 Partial Content\r\nContent-Range: bytes {from}-{last}/{whole}")
        } else {
            "200 OK".to_owned()
        };
        let left = last.map_or(whole, |last| whole.min(last + 1)) - from;
        let head = format!("HTTP/1.1 {head}\r\nConnection: close\r\nContent-Length: {left}\r\n\r\n");
        let sent = self.cut_bytes.map_or(left, |bytes| bytes.min(left));
        let _ =
            stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&content[from..from + sent]));
        // A look at a file's beginning is no download.
        let is_look = request.range.is_some_and(|(_, last)| last.is_some());
        given.fetch_add(if is_look { 0 } else { sent }, Ordering::Relaxed);
    }

    fn list(&self) -> String {
        self.list.clone().unwrap_or_else(|| {
            let sibling = |(name, content): &(String, Vec<u8>)| match wanted(name, content) {
                Wanted { bytes, hash: Hash::Sha256(sha256), .. } => json!({
                    "rfilename": name, "size": bytes, "blobId": "0".repeat(40),
                    "lfs": {"sha256": sha256, "size": bytes, "pointerSize": 135},
                }),
                Wanted { bytes, hash: Hash::GitBlob(blob), .. } => {
                    json!({"rfilename": name, "size": bytes, "blobId": blob})
                }
            };
            let siblings: Vec<_> = self.files.iter().map(sibling).collect();
            json!({"id": self.repository, "sha": self.commit, "gated": false, "siblings": siblings})
                .to_string()
        })
    }
}

/// What somebody wants.
struct Request {
    path: String,
    /// The first byte that is asked for, and the last one if it is said.
    range: Option<(usize, Option<usize>)>,
    token: Option<String>,
}

impl Request {
    fn read(mut stream: &TcpStream) -> Option<Request> {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read(&mut byte).ok()? == 0 {
                return None;
            }
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).ok()?;
        let path = head.strip_prefix("GET ")?.split(' ').next()?.to_owned();
        let header = |name: &str| {
            let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with(name))?;
            Some(line[name.len()..].trim().to_owned())
        };
        let range = header("range: bytes=").map(|range| {
            let (first, last) = range.split_once('-').expect("a range has two ends");
            (first.parse().expect("a range begins somewhere"), last.parse().ok())
        });
        Some(Request { path, range, token: header("authorization: bearer ") })
    }
}
