//! The way out of a sandbox, as commands and `fetch` use it: what is open, what is shut, and what is told of it.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its scene has failed")]

mod kit;

use std::time::Duration;

use kit::{Authority, Server, Session, has, open, said};
use serde_json::json;
use tools::egress::{Secret, Settings, Way};

#[tokio::test]
async fn a_session_reaches_what_is_open_and_nothing_else() {
    // The proxy is the only way: by HTTP, through a tunnel, over SOCKS.
    if !has("curl") {
        return;
    }
    let (server, other) = (Server::start(None, |_, _| said("hello")), Server::start(None, |_, _| said("no")));
    let session = Session::open(open(&[&server.place()])).await;
    let (port, other_port) = (server.port, other.port);
    for way in ["", "-p", "-x socks5h://127.0.0.1:3128", "-x socks5://127.0.0.1:3128"] {
        let outcome = session.exec(&format!("curl -sS {way} http://127.0.0.1:{port}/")).await;
        assert!(outcome.ok && outcome.text.contains("hello"), "{way}: {}", outcome.text);
        let outcome = session.exec(&format!("curl -sS -f {way} http://127.0.0.1:{other_port}/")).await;
        assert!(
            !outcome.ok && outcome.text.contains("the network refused 127.0.0.1"),
            "{way}: {}",
            outcome.text
        );
    }
    let direct = session.exec(&format!("curl -sS --noproxy '*' http://127.0.0.1:{port}/")).await;
    assert!(!direct.ok, "{}", direct.text);
    // The session's own servers are not asked of the proxy.
    let own = session
        .exec("cd /tmp && echo own > index.html && (python3 -m http.server 8123 >/dev/null 2>&1 &) && sleep 2 && curl -sS http://localhost:8123/")
        .await;
    assert!(!has("python3") || own.text.contains("own"), "{}", own.text);
    assert_eq!((server.seen().len(), other.seen().len()), (4, 0));

    let contacts = session.contacts();
    let ways = |allowed| -> Vec<(Way, u32)> {
        let of = contacts.iter().filter(|contact| contact.allowed == allowed);
        of.map(|contact| (contact.way, contact.times)).collect()
    };
    assert_eq!(ways(true), [(Way::Http, 1), (Way::Connect, 1), (Way::Socks, 2)], "{contacts:?}");
    assert_eq!(ways(false), [(Way::Http, 1), (Way::Connect, 1), (Way::Socks, 2)], "{contacts:?}");
    assert_eq!(contacts[0].address, Some("127.0.0.1".parse().unwrap()));
    assert!(session.contacts().is_empty(), "each is told once");
}

#[tokio::test]
async fn an_empty_list_opens_nothing_and_no_list_no_proxy() {
    // A list that was emptied has been read as one that allows everything.
    let session = Session::open(open(&[])).await;
    let ask = "exec 3<>/dev/tcp/127.0.0.1/3128 && printf 'CONNECT example.com:443 HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n' >&3 && head -n 1 <&3";
    let outcome = session.exec(ask).await;
    assert!(outcome.text.contains("403"), "{}", outcome.text);
    assert!(session.toolbox.spec("fetch").is_none());
    let contacts = session.contacts();
    assert_eq!(
        (contacts.len(), contacts[0].allowed, contacts[0].rule.as_str()),
        (1, false, "it is not on the allow-list")
    );
}

#[tokio::test]
async fn a_plain_request_is_written_anew() {
    // What a command says of the host, of connections and of lengths is not what the host hears.
    let server = Server::start(None, |_, seen| said(format!("{}\n{}\n{}", seen.line, seen.head, seen.body)));
    let session = Session::open(open(&[&server.place()])).await;
    if !has("curl") {
        return;
    }
    let line = format!(
        "curl -sS -H 'Host: internal.test' -H 'X-Hop: hopped' -H 'Connection: x-hop' -H 'Proxy-Authorization: Basic aaaa' \
         -H 'Transfer-Encoding: chunked' -d 'a=1' 'http://127.0.0.1:{}/p?q=1'",
        server.port
    );
    let outcome = session.exec(&line).await;
    assert!(outcome.text.contains("POST /p?q=1 HTTP/1.1"), "{}", outcome.text);
    let seen = &server.seen()[0];
    assert!(seen.head.contains(&format!("host: {}", server.place())), "{}", seen.head);
    for gone in ["internal.test", "hopped", "aaaa"] {
        assert!(!seen.head.contains(gone), "{}", seen.head);
    }
}

#[tokio::test]
async fn a_name_on_the_list_does_not_open_a_private_address() {
    // Whoever owns a name decides where it leads; only the operator decides that it may be here.
    if !has("curl") {
        return;
    }
    let server = Server::start(None, |_, _| said("hello"));
    let line = format!("localhost:{}", server.port);
    let ask = format!("curl -sS -f --noproxy '' http://localhost:{}/", server.port);
    let session = Session::open(open(&[&line])).await;
    let outcome = session.exec(&ask).await;
    assert!(outcome.text.contains("is loopback") && server.seen().is_empty(), "{}", outcome.text);
    let session =
        Session::open(Settings { allow_private: vec!["127.0.0.1".to_owned()], ..open(&[&line]) }).await;
    let outcome = session.exec(&ask).await;
    assert!(outcome.text.contains("hello"), "{}", outcome.text);
}

#[tokio::test]
async fn a_secret_goes_along_and_is_nowhere_inside() {
    // In the clear and encrypted: the host hears it, nothing inside can.
    const TOKEN: &str = "tok-4f1b2c3d4e5f6071";
    if !has("curl") {
        return;
    }
    let authority = Authority::new();
    let echo = |_: u16, seen: &kit::Seen| -> kit::Answer {
        let again =
            seen.head.lines().find_map(|line| line.strip_prefix("authorization: ")).unwrap_or("").to_owned();
        let headers =
            vec![("x-again".to_owned(), again), ("content-type".to_owned(), "text/plain".to_owned())];
        (200, headers, format!("you are {}", seen.head).into_bytes())
    };
    let (plain, tls) = (Server::start(None, echo), Server::start(Some(&authority), echo));
    let secret =
        |host: String| Secret { host, header: "authorization".to_owned(), value: format!("Bearer {TOKEN}") };
    let session = Session::open(Settings {
        secrets: vec![secret(format!("http://{}", plain.place())), secret(tls.place())],
        ca_file: Some(authority.pem.clone()),
        ..open(&[&plain.place(), &tls.place()])
    })
    .await;
    for (scheme, server) in [("http", &plain), ("https", &tls)] {
        for way in ["", "-x socks5h://127.0.0.1:3128", "-H 'Authorization: Basic mine'", "-I"] {
            let seen_before = server.seen().len();
            let outcome =
                session.exec(&format!("curl -sS -i {way} {scheme}://127.0.0.1:{}/", server.port)).await;
            if scheme == "http" && way.contains("socks") {
                // A tunnel carries bytes; what is in it is not looked at, so nothing is put in.
                assert!(!server.seen()[seen_before].head.contains(TOKEN));
                continue;
            }
            assert!(outcome.ok && outcome.text.contains("HTTP/1.1 200"), "{scheme} {way}: {}", outcome.text);
            assert!(way == "-I" || outcome.text.contains("you are"), "{}", outcome.text);
            assert!(outcome.text.contains("x-again: bearer ******"), "{}", outcome.text);
            assert!(server.seen()[seen_before].head.contains(&format!("authorization: bearer {TOKEN}")));
            assert!(!server.seen()[seen_before].head.contains("mine"));
        }
        let page =
            session.call("fetch", json!({"url": format!("{scheme}://127.0.0.1:{}/", server.port)})).await;
        assert!(page.ok && page.text.contains("you are"), "{}", page.text);
        assert!(!page.text.contains(TOKEN));
    }
    let look =
        session.exec("env; cat /etc/ssl/saga-sandbox.pem /proc/*/environ | strings | tail -n 500").await;
    assert!(!look.text.contains(TOKEN) && !look.text.contains("PRIVATE"));
    assert!(session.contacts().iter().any(|contact| contact.secret && contact.allowed));
    // Another host's name over the same connection gets nothing.
    let other =
        session.exec(&format!("curl -sS -i -H 'Host: other.test' https://127.0.0.1:{}/", tls.port)).await;
    assert!(other.text.contains("HTTP/1.1 400"), "{}", other.text);
}

#[tokio::test]
async fn a_host_that_nobody_vouches_for_is_told_no_secret() {
    // Between the service and the host, the certificate is what tells the host from somebody else.
    if !has("curl") {
        return;
    }
    let (ours, theirs) = (Authority::new(), Authority::new());
    let server = Server::start(Some(&theirs), |_, _| said("hello"));
    let secret = Secret {
        host: server.place(),
        header: "authorization".to_owned(),
        value: "hunter2hunter2".to_owned(),
    };
    let session = Session::open(Settings {
        secrets: vec![secret],
        ca_file: Some(ours.pem.clone()),
        ..open(&[&server.place()])
    })
    .await;
    let outcome = session.exec(&format!("curl -sS -i https://{}/", server.place())).await;
    assert!(outcome.text.contains("502") && outcome.text.contains("cannot be trusted"), "{}", outcome.text);
    let page = session.call("fetch", json!({"url": format!("https://{}/", server.place())})).await;
    assert!(!page.ok && page.text.contains("cannot be trusted"), "{}", page.text);
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn a_page_is_fetched_as_text_from_outside() {
    // A model reads what a page says, and everything after knows whose words these were.
    let elsewhere = Server::start(None, |_, _| said("never"));
    let to = elsewhere.place();
    let server = Server::start(None, move |port, seen| {
        let path = seen.line.split(' ').nth(1).unwrap();
        let led = |to: String| (302, vec![("location".to_owned(), to)], Vec::new());
        match path {
            "/page" => (
                200,
                vec![("content-type".to_owned(), "text/html; charset=utf-8".to_owned())],
                "<title>T</title><h1>Head</h1><script>x</script><p>Words\u{1b}[31m <a href=/q>link</a></p>"
                    .into(),
            ),
            "/led" => led("/page".to_owned()),
            "/round" => led("/round".to_owned()),
            "/away" => led(format!("http://{to}/")),
            "/private" => led("http://169.254.169.254/".to_owned()),
            "/big" => (200, Vec::new(), "line of the page\n".repeat(20_000).into()),
            "/data" => (200, vec![("content-type".to_owned(), "image/png".to_owned())], vec![0; 100]),
            _ => (404, Vec::new(), format!("no {path} at {port}").into()),
        }
    });
    let session = Session::open(open(&[&server.place()])).await;
    let fetch = async |path: &str| {
        session.call("fetch", json!({"url": format!("http://{}{path}", server.place())})).await
    };
    for path in ["/page", "/led"] {
        let page = fetch(path).await;
        assert!(page.ok && page.external, "{}", page.text);
        let link =
            format!("T\n\n# Head\n\nWords link (http://{}/q)\n[end of what is from outside]", server.place());
        assert!(page.text.contains(&link), "{}", page.text);
    }
    let big = fetch("/big").await;
    assert!(
        big.truncated && big.text.len() < 40_000 && big.text.contains("use read or grep with path o-"),
        "{}",
        big.text.len()
    );
    let id = big.text.split("with path ").nth(1).unwrap().trim_end_matches([')', '\n']);
    let rest = session.call("grep", json!({"path": id, "pattern": "line of the page"})).await;
    assert!(rest.ok, "{}", rest.text);
    let cut = session
        .call("fetch", json!({"url": format!("http://{}/big", server.place()), "max_bytes": 1000}))
        .await;
    assert!(cut.truncated && cut.text.contains("the page goes on"), "{}", cut.text);
    for (path, why) in [
        ("/round", "leads on more than"),
        ("/away", "is refused: it is not on the allow-list. Only these can be reached"),
        ("/private", "refused"),
        ("/data", "It is no text"),
        ("/none", "HTTP 404"),
    ] {
        let page = fetch(path).await;
        assert!(!page.ok && page.text.contains(why), "{path}: {}", page.text);
    }
    assert!(elsewhere.seen().is_empty());
    for wrong in ["file:///etc/passwd", "example.org", "http://a@127.0.0.1/", ""] {
        let page = session.call("fetch", json!({"url": wrong})).await;
        assert!(!page.ok && page.text.starts_with("Not fetched"), "{wrong}: {}", page.text);
    }
}

#[tokio::test]
async fn what_a_session_carries_is_bounded_and_ends_with_it() {
    if !has("curl") {
        return;
    }
    let server = Server::start(None, |_, seen| match seen.line.contains("/slow") {
        true => {
            std::thread::sleep(Duration::from_secs(30));
            said("late")
        }
        false => said("x".repeat(600_000)),
    });
    let session = Session::open(Settings { bytes_max: 1_000_000, ..open(&[&server.place()]) }).await;
    let get = format!("curl -sS -o /dev/null -w '%{{size_download}}' http://{}/", server.place());
    assert!(session.exec(&get).await.text.contains("600000"));
    assert!(!session.exec(&get).await.text.contains("600000"));
    let full = session.exec(&get.replace("-sS", "-sS -f")).await;
    assert!(full.text.contains("has carried all that it may"), "{}", full.text);

    let session = Session::open(open(&[&server.place()])).await;
    let slow = format!("curl -sS http://{}/slow", server.place());
    let call = session.call("exec", json!({"command": slow, "timeout_s": 2}));
    assert!(call.await.summary.starts_with("timed out"));
}
