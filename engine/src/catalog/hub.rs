//! Models from the Hugging Face hub.
//!
//! The `hf-hub` crate knows where the hub is, who asks (the token of its login, or `HF_TOKEN`) and how to speak to it;
//! what is asked, and what becomes of the answer, is decided here. The crate's own download takes a file's place on this
//! disk from what a server says, and tells a missing permission from a broken line by its words alone.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use hf_hub::api::sync::{ApiBuilder, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use serde::Deserialize;

use super::choose::is_plain;
use super::hash::{Hash, Hasher, is_hexadecimal};
use super::pull::{Fetched, Source, Trouble, Wanted};

/// The folder of unfinished downloads, below the model's folder.
pub(super) const CACHE: &str = ".hub";

/// A hub that does not answer the first knock by then is not there; the next source is asked.
const CONNECT_MAX: Duration = Duration::from_secs(6);

/// An answer or a download that brings nothing for so long is given up.
const STALL_MAX: Duration = Duration::from_secs(60);

/// Broken downloads that are taken up again, unless [`HEADWAY_BYTES`] have come meanwhile: a file of many gigabytes may
/// break off more often than a small one.
const RETRIES: u32 = 4;
const HEADWAY_BYTES: u64 = 1 << 20;
/// The wait before a broken download is taken up again; it doubles each time.
const RETRY_WAIT: Duration = Duration::from_millis(250);

/// Bytes of a repository's list of files. The longest lists have thousands of files, of three hundred bytes each.
const LIST_BYTES_MAX: u64 = 32 << 20;

/// How the hub is reached.
#[derive(Clone, Debug)]
pub(super) struct Way {
    /// Another address than the one the crate knows.
    pub(super) endpoint: Option<String>,
    /// Who asks, if it is said.
    pub(super) token: Option<String>,
}

impl Way {
    /// The ordinary one.
    pub(super) fn from_env() -> Way {
        let set = |name: &str| {
            let value = std::env::var(name).ok()?.trim().to_owned();
            (!value.is_empty()).then_some(value)
        };
        // The crate knows the token of a login, and not the variable that the hub's other clients read first.
        let token = set("HF_TOKEN").or_else(|| cache().token());
        // What cannot stand in a header is none.
        let token = token.filter(|token| token.bytes().all(|byte| byte.is_ascii_graphic()));
        Way { endpoint: set("HF_ENDPOINT").map(|endpoint| endpoint.trim_end_matches('/').to_owned()), token }
    }
}

/// Where the crate looks for the token of a login. It insists on a home, which not every service has.
fn cache() -> Cache {
    let home = std::env::home_dir().is_some_and(|home| !home.as_os_str().is_empty());
    if home || std::env::var("HF_HOME").is_ok() { Cache::from_env() } else { Cache::new(PathBuf::new()) }
}

/// Bytes of a look at a file: what a GGUF file is stands in its first hundred.
const HEAD_BYTES: u64 = 16 << 10;

/// A repository of the hub as a source.
pub(super) struct Hub {
    way: Way,
    cache: PathBuf,
    /// `OWNER/NAME`.
    repository: String,
    revision: Revision,
}

/// Which state of the repository is meant.
enum Revision {
    /// The newest one, whose list says whether it still has what is wanted.
    Newest(OnceLock<Listing>),
    /// This commit.
    Commit(String),
}

/// What a repository holds.
#[derive(Clone, Debug)]
pub(super) struct Listing {
    /// The commit it was read at.
    pub(super) commit: String,
    pub(super) files: Vec<Wanted>,
}

/// Why there is no list.
#[derive(Debug)]
pub(super) enum Refusal {
    /// What was asked for is not there, or its owner does not want to be asked.
    Asked(String),
    /// The hub cannot be asked now.
    Hub(String),
}

impl Hub {
    /// The repository as it is now, for a model's folder.
    pub(super) fn newest(way: &Way, folder: &Path, repository: &str) -> Hub {
        Hub::new(way, folder, repository, Revision::Newest(OnceLock::new()))
    }

    /// The repository as it was.
    pub(super) fn at_commit(way: &Way, folder: &Path, repository: &str, commit: &str) -> Hub {
        Hub::new(way, folder, repository, Revision::Commit(commit.to_owned()))
    }

    fn new(way: &Way, folder: &Path, repository: &str, revision: Revision) -> Hub {
        Hub { way: way.clone(), cache: folder.join(CACHE), repository: repository.to_owned(), revision }
    }

    /// What the repository holds at a branch, a tag or a commit.
    pub(super) fn list(&self, revision: Option<&str>) -> Result<Listing, Refusal> {
        let revision = revision.unwrap_or("main");
        let repository = self.repository(revision).map_err(Refusal::Hub)?;
        let mut answer = ask(&repository, None).map_err(Refusal::Hub)?;
        match answer.status {
            200 => {}
            401 | 403 | 404 => return Err(Refusal::Asked(self.refused(&answer, revision))),
            _ => return Err(Refusal::Hub(answer.complaint())),
        }
        let mut text = Vec::new();
        let read = (&mut answer.body).take(LIST_BYTES_MAX + 1).read_to_end(&mut text);
        read.map_err(|error| Refusal::Hub(format!("its list of files broke off: {error}")))?;
        if text.len() as u64 > LIST_BYTES_MAX {
            return Err(Refusal::Asked("the repository has more files than anybody can choose from".into()));
        }
        read_list(&text).map_err(Refusal::Asked)
    }

    /// What it means that the hub does not show a repository's list. Who may not see a repository is told that there is
    /// none.
    fn refused(&self, answer: &Answer, revision: &str) -> String {
        let nothing = format!("there is no repository {} on the hub", self.repository);
        match (answer.status, &answer.code[..], &self.way.token) {
            (_, "RevisionNotFound", _) => format!("the repository has no branch, tag or commit `{revision}`"),
            (_, "GatedRepo", _) => self.gated(),
            (401, _, Some(_)) => "the hub does not know your token: set HF_TOKEN to another one".to_owned(),
            (_, _, Some(_)) => {
                format!("{nothing}, or your token may not read it: check its name, and what the token may do")
            }
            (_, _, None) => format!(
                "{nothing}, or not everybody may read it: check its name, or set HF_TOKEN to a token that may read it"
            ),
        }
    }

    /// What to do about a repository that is shown to some only.
    fn gated(&self) -> String {
        let terms = "its owner shows it only to those who accept its terms";
        match self.way.token {
            None => format!("{terms}: accept them on its page, and set HF_TOKEN to a token of your account"),
            Some(_) => {
                format!("{terms}, and the account of your token (HF_TOKEN) has not: accept them on its page")
            }
        }
    }

    /// The first bytes of a file, for a look at what it is; nothing if they cannot be had.
    pub(super) fn head(&self, file: &Wanted) -> Option<Vec<u8>> {
        let repository = self.repository(self.commit(file).ok()?).ok()?;
        let range = format!("bytes=0-{}", HEAD_BYTES - 1);
        let answer = ask(&repository, Some((&repository.url(&encoded(&file.name)), Some(range)))).ok()?;
        let mut head = Vec::new();
        answer.body.take(HEAD_BYTES).read_to_end(&mut head).ok()?;
        matches!(answer.status, 200 | 206).then_some(head)
    }

    fn repository(&self, revision: &str) -> Result<ApiRepo, String> {
        let mut builder = ApiBuilder::from_cache(cache()).with_token(self.way.token.clone());
        if let Some(endpoint) = &self.way.endpoint {
            builder = builder.with_endpoint(endpoint.clone());
        }
        let api = builder.with_progress(false).build().map_err(|error| error.to_string())?;
        Ok(api.repo(Repo::with_revision(self.repository.clone(), RepoType::Model, revision.to_owned())))
    }

    /// The commit to fetch `file` from. The newest one is asked whether it has this file at all, before a gigabyte of
    /// another one has come.
    fn commit(&self, file: &Wanted) -> Result<&str, String> {
        let listing = match &self.revision {
            Revision::Commit(commit) => return Ok(commit),
            Revision::Newest(cell) => match cell.get() {
                Some(listing) => listing,
                None => {
                    let listing = self.list(None).map_err(|refusal| match refusal {
                        Refusal::Asked(why) | Refusal::Hub(why) => why,
                    })?;
                    cell.get_or_init(|| listing)
                }
            },
        };
        let found = listing.files.iter().find(|found| found.name == file.name);
        let found = found.ok_or_else(|| format!("the repository has no {} any more", file.name))?;
        let is_same_kind = std::mem::discriminant(&found.hash) == std::mem::discriminant(&file.hash);
        if found.bytes != file.bytes {
            return Err(format!("its file has {} bytes and should have {}", found.bytes, file.bytes));
        }
        if is_same_kind && found.hash != file.hash {
            return Err(format!("it has another file: the {} should be {}", found.hash, file.hash.digits()));
        }
        Ok(&listing.commit)
    }

    /// Receives what is missing of a file.
    fn receive(
        &self,
        repository: &ApiRepo,
        url: &str,
        file: &Wanted,
        growing: &mut Growing,
        on: &mut dyn FnMut(u64),
    ) -> Result<(), Broken> {
        let source = |why: String| Broken::ForGood(Trouble::Source(why));
        let range = (growing.bytes > 0).then(|| format!("bytes={}-", growing.bytes));
        let mut answer = ask(repository, Some((url, range))).map_err(Broken::Away)?;
        match answer.status {
            200 => growing.rewind(file)?,
            206 if answer.range == Some((Some(growing.bytes), file.bytes)) => {}
            206 | 416 => {
                let found =
                    answer.range.map_or("another length".to_owned(), |(_, bytes)| format!("{bytes} bytes"));
                return Err(source(format!("its file has {found} and should have {} bytes", file.bytes)));
            }
            401 | 403 => return Err(source(self.gated())),
            404 => return Err(source("it has no such file, or no longer the commit that was chosen".into())),
            500.. => return Err(Broken::ForNow(answer.complaint())),
            _ => return Err(source(answer.complaint())),
        }
        let mut buffer = vec![0; 256 << 10];
        let mut told = Instant::now();
        loop {
            let read = answer.body.read(&mut buffer).map_err(|error| {
                Broken::ForNow(format!("the download broke off after {} bytes: {error}", growing.bytes))
            })?;
            if read == 0 {
                break;
            }
            if growing.bytes + read as u64 > file.bytes {
                growing.rewind(file)?;
                return Err(source(format!(
                    "its file is longer than the {} bytes it should have",
                    file.bytes
                )));
            }
            growing.write(&buffer[..read]).map_err(Broken::ForGood)?;
            // Nobody can look more often.
            if told.elapsed() > Duration::from_millis(50) {
                told = Instant::now();
                on(growing.bytes);
            }
        }
        if growing.bytes < file.bytes {
            return Err(Broken::ForNow(format!("the download ended after {} bytes", growing.bytes)));
        }
        Ok(())
    }
}

impl Source for Hub {
    fn name(&self) -> &'static str {
        "Hugging Face hub"
    }

    fn fetch(&self, file: &Wanted, _part: &Path, on: &mut dyn FnMut(u64)) -> Result<Fetched, Trouble> {
        let commit = self.commit(file).map_err(Trouble::Source)?;
        let repository = self.repository(commit).map_err(Trouble::Source)?;
        let url = repository.url(&encoded(&file.name));
        fs::create_dir_all(&self.cache).map_err(|error| Trouble::Disk(self.cache.clone(), error))?;
        let mut growing = Growing::open(&self.cache.join(part_name(file)), file)?;
        on(growing.bytes);
        let before = growing.bytes;
        let (mut failed, mut headway) = (0, before);
        while growing.bytes < file.bytes {
            let why = match self.receive(&repository, &url, file, &mut growing, on) {
                Ok(()) => break,
                Err(Broken::ForGood(trouble)) => return Err(trouble),
                // Who was not there at all will not be there in a second.
                Err(Broken::Away(why)) if growing.bytes == before => return Err(Trouble::Source(why)),
                Err(Broken::Away(why) | Broken::ForNow(why)) => why,
            };
            if growing.bytes >= headway + HEADWAY_BYTES {
                (failed, headway) = (0, growing.bytes);
            }
            if failed == RETRIES {
                return Err(Trouble::Source(format!("{why}; the next pull goes on from there")));
            }
            std::thread::sleep(RETRY_WAIT * (1 << failed));
            failed += 1;
        }
        on(growing.bytes);
        growing.finish()
    }
}

/// Where what has come of `file` is kept until it is whole.
pub(super) fn part_of(folder: &Path, file: &Wanted) -> PathBuf {
    folder.join(CACHE).join(part_name(file))
}

/// It is called after the file's hash, so that what was begun is never gone on with as another file.
fn part_name(file: &Wanted) -> String {
    format!("{}.part", file.hash.digits())
}

/// An answer of the hub, or of where it sent us.
struct Answer {
    status: u16,
    /// What the hub says is wrong, in one word.
    code: String,
    /// Where a part of a file begins, if it is one, and how long the file is.
    range: Option<(Option<u64>, u64)>,
    body: Box<dyn Read>,
}

impl Answer {
    /// A status that nobody expects.
    fn complaint(&self) -> String {
        match self.status {
            429 => "it has been asked too often; try again later, or set HF_TOKEN to a token of yours".into(),
            status => format!("it answers with the status {status}"),
        }
    }
}

/// Asks for a file at an address, or for a range of it, or for the repository's list. The error is a line that cannot be
/// had.
fn ask(repository: &ApiRepo, file: Option<(&str, Option<String>)>) -> Result<Answer, String> {
    // The request of the crate brings its client, its token and its manners with it; only where it goes is ours.
    let mut request = repository.info_request();
    request = match file {
        Some((url, None)) => request.uri(url),
        Some((url, Some(range))) => request.uri(url).header("Range", range),
        None => request.query("blobs", "true"),
    };
    let response = request
        .config()
        .http_status_as_error(false)
        .accept_encoding("identity")
        .timeout_resolve(Some(CONNECT_MAX))
        .timeout_connect(Some(CONNECT_MAX))
        .timeout_recv_response(Some(STALL_MAX))
        .timeout_per_read(Some(STALL_MAX))
        .build()
        .call()
        .map_err(|error| format!("it cannot be reached: {error}"))?;
    let header = |name: &str| {
        let value = response.headers().get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let (code, range) = (header("X-Error-Code"), content_range(&header("Content-Range")));
    let status = response.status().as_u16();
    Ok(Answer { status, code, range, body: Box::new(response.into_body().into_reader()) })
}

/// Reads `bytes 200-999/1000`, and `bytes */1000`.
fn content_range(text: &str) -> Option<(Option<u64>, u64)> {
    let (part, whole) = text.strip_prefix("bytes ")?.split_once('/')?;
    let from = part.split_once('-').and_then(|(from, _)| from.parse().ok());
    Some((from, whole.parse().ok()?))
}

/// Why a download ended before the file did.
enum Broken {
    /// Nobody answered.
    Away(String),
    /// It can be taken up again.
    ForNow(String),
    ForGood(Trouble),
}

/// A file on its way: what an earlier pull left of it, and what comes after.
struct Growing {
    path: PathBuf,
    file: fs::File,
    hasher: Hasher,
    bytes: u64,
}

impl Growing {
    fn open(path: &Path, wanted: &Wanted) -> Result<Growing, Trouble> {
        let open = || {
            let mut file = fs::OpenOptions::new().read(true).append(true).create(true).open(path)?;
            if file.metadata()?.len() > wanted.bytes {
                file.set_len(0)?;
            }
            let mut hasher = wanted.hash.hasher(wanted.bytes);
            let bytes = hasher.read(&mut file)?;
            Ok(Growing { path: path.to_owned(), file, hasher, bytes })
        };
        open().map_err(|error| Trouble::Disk(path.to_owned(), error))
    }

    /// Begins anew.
    fn rewind(&mut self, wanted: &Wanted) -> Result<(), Broken> {
        self.hasher = wanted.hash.hasher(wanted.bytes);
        self.bytes = 0;
        self.file.set_len(0).map_err(|error| Broken::ForGood(self.trouble(error)))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        self.file.write_all(bytes).map_err(|error| self.trouble(error))?;
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn finish(self) -> Result<Fetched, Trouble> {
        Ok(Fetched { path: self.path, hash: self.hasher.finish() })
    }

    fn trouble(&self, error: io::Error) -> Trouble {
        Trouble::Disk(self.path.clone(), error)
    }
}

/// A path as it stands in an address.
fn encoded(path: &str) -> String {
    let mut text = String::new();
    for byte in path.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                text.push(byte.into())
            }
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

/// What the hub says of a repository.
#[derive(Deserialize)]
struct Info {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob: Option<String>,
    lfs: Option<Large>,
}

/// What is said of files that git itself does not keep.
#[derive(Deserialize)]
struct Large {
    sha256: String,
    size: u64,
}

/// Reads a repository's list, and refuses what no honest one has.
fn read_list(text: &[u8]) -> Result<Listing, String> {
    let info: Info = serde_json::from_slice(text)
        .map_err(|error| format!("the hub's list of files cannot be read: {error}"))?;
    if !is_hexadecimal(&info.sha, 40) {
        return Err(format!("the hub's list names the commit {:?}, which is none", info.sha));
    }
    let file = |sibling: Sibling| {
        let Sibling { rfilename: name, size, blob, lfs } = sibling;
        if !is_plain(&name) {
            let name: String = name.chars().take(100).collect();
            return Err(format!(
                "the hub's list has a file called {name:?}; nothing is fetched from such a repository"
            ));
        }
        let (bytes, hash) = match lfs {
            Some(Large { sha256, size }) => (Some(size), Hash::sha256(&sha256)),
            None => (size, blob.and_then(|blob| Hash::git_blob(&blob))),
        };
        match (bytes, hash) {
            (Some(bytes), Some(hash)) => Ok(Wanted { name, bytes, hash }),
            _ => Err(format!("the hub's list does not say how long {name} is, or what its hash is")),
        }
    };
    let files = info.siblings.into_iter().map(file).collect::<Result<_, _>>()?;
    Ok(Listing { commit: info.sha, files })
}

#[cfg(test)]
mod tests;
