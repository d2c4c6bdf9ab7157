//! Models from the Hugging Face hub, through the `hf-hub` crate.

use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use hf_hub::api::Progress;
use hf_hub::api::sync::{ApiBuilder, ApiRepo};

use super::pull::{Fetched, Source, Trouble};
use super::{File, Model};

/// The folder of unfinished downloads, below the model's folder.
pub(super) const CACHE: &str = ".hub";

/// A hub that does not answer the first knock by then is not there; the next source is asked.
const KNOCK_MAX: Duration = Duration::from_secs(4);

/// A download that brings nothing for so long is given up.
const STALL_MAX: Duration = Duration::from_secs(60);

/// Broken connections that are taken up again within one download.
const RETRIES: usize = 3;

/// The hub as a source.
pub(super) struct Hub {
    cache: PathBuf,
    /// Another address than the one the crate and its environment variables know.
    endpoint: Option<String>,
}

enum News {
    Bytes(u64),
    End(Result<PathBuf, String>),
}

impl Hub {
    pub(super) fn new(folder: &Path) -> Hub {
        Hub { cache: folder.join(CACHE), endpoint: None }
    }

    #[cfg(test)]
    pub(super) fn at(folder: &Path, endpoint: String) -> Hub {
        Hub { cache: folder.join(CACHE), endpoint: Some(endpoint) }
    }
}

impl Source for Hub {
    fn name(&self) -> &'static str {
        "Hugging Face hub"
    }

    fn fetch(
        &self,
        model: &Model,
        file: &'static File,
        _part: &Path,
        on: &mut dyn FnMut(u64),
    ) -> Result<Fetched, Trouble> {
        if model.repository.is_empty() {
            return Err(Trouble::Source("the model has no repository there".into()));
        }
        let mut builder = ApiBuilder::from_env();
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint.clone());
        }
        let api = builder
            .with_cache_dir(self.cache.clone())
            .with_progress(false)
            .with_retries(RETRIES)
            .build()
            .map_err(|error| Trouble::Source(error.to_string()))?;
        let repository = api.model(model.repository.to_owned());
        let url = repository.url(file.name);
        knock(&url).map_err(Trouble::Source)?;
        std::fs::create_dir_all(&self.cache).map_err(|error| Trouble::Disk(self.cache.clone(), error))?;

        // The crate's own calls can wait without end, so they run beside, and are left to themselves when they do.
        let (send, news) = mpsc::channel();
        std::thread::spawn(move || {
            let path = api
                .metadata(&url)
                .map_err(|error| error.to_string())
                .and_then(|found| expected(file, found.etag(), found.size()))
                .and_then(|()| download(&repository, file, send.clone()));
            // Nobody listens any more when the download was given up.
            let _ = send.send(News::End(path));
        });
        loop {
            match news.recv_timeout(STALL_MAX) {
                Ok(News::Bytes(bytes)) => on(bytes.min(file.bytes)),
                Ok(News::End(Ok(path))) => return Ok(Fetched { path, sha256: None }),
                Ok(News::End(Err(why))) => return Err(Trouble::Source(why)),
                Err(RecvTimeoutError::Timeout) => {
                    let seconds = STALL_MAX.as_secs();
                    return Err(Trouble::Source(format!("nothing came for {seconds} s; it was given up")));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Trouble::Source("the download broke off".into()));
                }
            }
        }
    }
}

/// Refuses another file before a gigabyte of it has come. The hub gives the SHA-256 of large files as their tag.
fn expected(file: &File, tag: &str, size: usize) -> Result<(), String> {
    if size as u64 != file.bytes {
        return Err(format!("its file has {size} bytes and should have {}", file.bytes));
    }
    let is_hash = tag.len() == 64 && tag.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hash && !tag.eq_ignore_ascii_case(file.sha256) {
        return Err(format!("it has another file: the SHA-256 is {tag} and should be {}", file.sha256));
    }
    Ok(())
}

fn download(repository: &ApiRepo, file: &File, send: Sender<News>) -> Result<PathBuf, String> {
    let link = repository
        .download_with_progress(file.name, Report { send, done_bytes: 0, told: Instant::now() })
        .map_err(|error| error.to_string())?;
    // The crate gives a link to the file it stored.
    std::fs::canonicalize(&link).map_err(|error| error.to_string())
}

struct Report {
    send: Sender<News>,
    done_bytes: u64,
    told: Instant,
}

impl Progress for Report {
    fn init(&mut self, _size: usize, _filename: &str) {
        self.done_bytes = 0;
    }

    fn update(&mut self, size: usize) {
        self.done_bytes += size as u64;
        // Chunks are a few kilobytes; nobody can look that often.
        if self.told.elapsed() > Duration::from_millis(50) {
            self.told = Instant::now();
            let _ = self.send.send(News::Bytes(self.done_bytes));
        }
    }

    fn finish(&mut self) {
        let _ = self.send.send(News::Bytes(self.done_bytes));
    }
}

/// Whether somebody answers at the host of `url`, so that a machine without a way out learns it within seconds. Through
/// a proxy nobody can tell beforehand.
fn knock(url: &str) -> Result<(), String> {
    let proxies = ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "http_proxy", "HTTP_PROXY"];
    if proxies.iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty())) {
        return Ok(());
    }
    let (scheme, rest) = url.split_once("://").ok_or("its address has no scheme")?;
    let host = rest.split('/').next().unwrap_or_default().to_owned();
    let address = if host.contains(':') {
        host.clone()
    } else {
        format!("{host}:{}", if scheme == "http" { 80 } else { 443 })
    };

    // Asking for a name has no timeout of its own, and neither has connecting to each of many addresses.
    let (send, answer) = mpsc::channel();
    std::thread::spawn(move || {
        let connected = address.to_socket_addrs().map_err(|error| error.to_string()).and_then(|addresses| {
            let mut last = "it has no address".to_owned();
            for address in addresses {
                match TcpStream::connect_timeout(&address, KNOCK_MAX) {
                    Ok(_) => return Ok(()),
                    Err(error) => last = error.to_string(),
                }
            }
            Err(last)
        });
        let _ = send.send(connected);
    });
    match answer.recv_timeout(KNOCK_MAX) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(why)) => Err(format!("it cannot be reached: {why}")),
        Err(_) => Err(format!("it cannot be reached: no answer within {} s", KNOCK_MAX.as_secs())),
    }
}
