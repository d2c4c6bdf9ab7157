//! A page of the web as text: what the tool `fetch` gives a model.

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Request, Response, StatusCode};
use url::Url;

use super::contacts::Way;
use super::forward::{self, Answer};
use super::gate::{Gate, Refusal};
use super::html;
use super::rules::{Host, Target};
use super::secret::Scheme;

/// How much of a page is read when nobody says, and at most. Bytes.
pub(crate) const PAGE_BYTES: u64 = 1 << 20;
pub(crate) const PAGE_BYTES_MAX: u64 = 8 << 20;

/// How often a page may say that it is elsewhere.
const HOPS_MAX: usize = 5;

/// What was found at a URL.
#[derive(Debug)]
pub(crate) struct Page {
    /// Where it was found in the end.
    pub(crate) url: String,
    pub(crate) status: u16,
    /// What it says it is, such as `text/html`.
    pub(crate) kind: String,
    /// What can be read of it; nothing when it is no text.
    pub(crate) text: Option<String>,
    /// How much of it was read. Bytes.
    pub(crate) bytes: u64,
    /// Whether there is more of it.
    pub(crate) more: bool,
}

/// Why there is no page.
#[derive(Debug)]
pub(crate) struct NoPage {
    pub(crate) why: Refusal,
    /// Whether a server has led here: then `why` has words of its own choosing in it.
    pub(crate) led: bool,
}

/// The host that a URL leads to, as it would be asked for.
pub(crate) fn host_of(url: &str) -> Option<String> {
    let url = Url::parse(url.trim()).ok()?;
    let host = Host::read(url.host_str().filter(|host| !host.is_empty())?).ok()?;
    Some(host.to_string().trim_matches(['[', ']']).to_owned())
}

/// Gets what is at a URL, wherever it leads: each place is judged before anything is asked of it.
pub(crate) async fn get(gate: &Gate, url: &str, bytes_max: u64) -> Result<Page, NoPage> {
    let mut hops = 0;
    let page = follow(gate, url, bytes_max, &mut hops).await;
    page.map_err(|why| NoPage { why, led: hops > 0 })
}

async fn follow(gate: &Gate, url: &str, bytes_max: u64, hops: &mut usize) -> Result<Page, Refusal> {
    let mut url = Url::parse(url.trim()).map_err(|error| {
        Refusal::Wrong(format!("{url:?} is no URL such as https://example.org/page: {error}"))
    })?;
    while *hops <= HOPS_MAX {
        let answer = ask(gate, &url).await?;
        *hops += 1;
        let Some(next) = elsewhere(&url, &answer)? else { return read(url, answer, bytes_max).await };
        url = next;
    }
    Err(Refusal::Wrong(format!("it leads on more than {HOPS_MAX} times; the last time to {}", brief(&url))))
}

async fn ask(gate: &Gate, url: &Url) -> Result<Response<Answer>, Refusal> {
    let wrong = |why: &str| Refusal::Wrong(format!("{}: {why}", brief(url)));
    let scheme = match url.scheme() {
        "http" => Scheme::Plain,
        "https" => Scheme::Tls,
        _ => return Err(wrong("only http and https can be fetched")),
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("a URL with a user in it is not fetched"));
    }
    let host = Host::read(url.host_str().unwrap_or_default()).map_err(Refusal::Wrong)?;
    let port =
        url.port_or_known_default().filter(|port| *port != 0).ok_or_else(|| wrong("it has no port"))?;
    let passed = gate.judge(&Target { host, port }, scheme, Way::Fetch).await?;
    let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
    let request = Request::get(path)
        .header(header::USER_AGENT, concat!("saga/", env!("CARGO_PKG_VERSION")))
        .header(header::ACCEPT, "text/html, text/plain, text/markdown, application/json, */*;q=0.5")
        // What is compressed would have to be unpacked, and unpacked it could be of any size.
        .header(header::ACCEPT_ENCODING, "identity")
        .body(Empty::<Bytes>::new())
        .map_err(|error| wrong(&error.to_string()))?;
    forward::send(gate, &passed, scheme, request).await
}

/// Where an answer says that it is to be looked for.
fn elsewhere<T>(url: &Url, answer: &Response<T>) -> Result<Option<Url>, Refusal> {
    let leads = matches!(
        answer.status(),
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    );
    let location = answer.headers().get(header::LOCATION).filter(|_| leads);
    let Some(location) = location else { return Ok(None) };
    let next = location.to_str().ok().and_then(|location| url.join(location).ok());
    let next =
        next.ok_or_else(|| Refusal::Wrong(format!("{} leads to a place that cannot be read", brief(url))))?;
    if url.scheme() == "https" && next.scheme() != "https" {
        return Err(Refusal::Denied(format!(
            "{} leads from https to {}, which anybody could have written",
            brief(url),
            brief(&next)
        )));
    }
    Ok(Some(next))
}

async fn read(url: Url, answer: Response<Answer>, bytes_max: u64) -> Result<Page, Refusal> {
    let status = answer.status().as_u16();
    let (kind, charset) = kind(answer.headers());
    let packed =
        answer.headers().get(header::CONTENT_ENCODING).filter(|packing| *packing != "identity").is_some();
    let (mut body, mut bytes, mut more) = (answer.into_body(), Vec::new(), false);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Refusal::Unreachable(format!("{}: {error}", brief(&url))))?;
        let Ok(piece) = frame.into_data() else { continue };
        let room = usize::try_from(bytes_max).unwrap_or(usize::MAX) - bytes.len();
        bytes.extend_from_slice(&piece[..piece.len().min(room)]);
        if piece.len() > room {
            more = true;
            break;
        }
    }
    let text = (!packed && is_text(&kind)).then(|| {
        let text = decode(&bytes, &charset);
        let is_html = kind == "text/html" || kind == "application/xhtml+xml";
        visible(&if is_html { html::text(&text, &url) } else { text })
    });
    Ok(Page { url: brief(&url), status, kind, text, bytes: bytes.len() as u64, more })
}

/// A URL as it is told: a server that leads on chooses its length.
fn brief(url: &Url) -> String {
    let text = url.as_str();
    if text.len() <= URL_TOLD_MAX { text.to_owned() } else { format!("{}…", &text[..URL_TOLD_MAX]) }
}

/// How much of a URL is told. Bytes, all of which are ASCII.
const URL_TOLD_MAX: usize = 300;

/// What a body is, and how its letters are written.
fn kind(headers: &HeaderMap) -> (String, String) {
    let said = headers.get(header::CONTENT_TYPE).map_or("text/plain", said_by);
    let mut parts = said.split(';').map(str::trim);
    let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
    let charset = parts.find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.eq_ignore_ascii_case("charset").then(|| value.trim_matches('"').to_ascii_lowercase())
    });
    (kind.chars().filter(|c| c.is_ascii_graphic()).take(80).collect(), charset.unwrap_or_default())
}

fn said_by(value: &HeaderValue) -> &str {
    value.to_str().unwrap_or("application/octet-stream")
}

fn is_text(kind: &str) -> bool {
    const TEXTS: [&str; 9] = [
        "application/json",
        "application/xml",
        "application/xhtml+xml",
        "application/javascript",
        "application/ecmascript",
        "application/toml",
        "application/yaml",
        "application/x-yaml",
        "application/sql",
    ];
    kind.starts_with("text/") || kind.ends_with("+json") || kind.ends_with("+xml") || TEXTS.contains(&kind)
}

/// Bytes as letters: UTF-8 unless it is said that each byte is one.
fn decode(bytes: &[u8], charset: &str) -> String {
    match charset {
        "iso-8859-1" | "latin1" | "windows-1252" => bytes.iter().map(|byte| char::from(*byte)).collect(),
        _ => String::from_utf8_lossy(bytes).into_owned(),
    }
}

/// Without letters that nobody sees and a model reads all the same.
fn visible(text: &str) -> String {
    let hidden = |c: &char| matches!(c, '\u{200b}' | '\u{feff}' | '\u{2060}'..='\u{2064}' | '\u{e0000}'..='\u{e007f}' | '\u{e0100}'..='\u{e01ef}');
    text.chars().filter(|c| !hidden(c)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_leads_only_to_where_it_may() {
        let led = |from: &str, status: u16, location: &str| {
            let answer = Response::builder().status(status).header("location", location).body(()).unwrap();
            elsewhere(&Url::parse(from).unwrap(), &answer).map(|next| next.map(String::from))
        };
        assert_eq!(led("https://a.test/x/y", 302, "../z?q"), Ok(Some("https://a.test/z?q".to_owned())));
        assert_eq!(led("http://a.test/", 301, "//b.test/"), Ok(Some("http://b.test/".to_owned())));
        assert_eq!(led("http://a.test/", 200, "http://b.test/"), Ok(None));
        assert_eq!(led("http://a.test/", 304, "http://b.test/"), Ok(None));
        assert!(
            led("https://a.test/", 302, "http://a.test/").is_err(),
            "encryption is not given up on the way"
        );
        assert!(led("http://a.test/", 302, "http://[x/").is_err());
    }

    #[test]
    fn what_nobody_sees_is_not_read() {
        // Instructions in tag characters are invisible to the person who looks at the page.
        let hidden: String =
            "ignore".chars().filter_map(|c| char::from_u32(0xe0000 + u32::from(c))).collect();
        assert_eq!(visible(&format!("a{hidden}b\u{200b}c")), "abc");
        assert_eq!(decode(b"caf\xe9", "iso-8859-1"), "café");
    }
}
