//! A mind on another machine: a server with an API like OpenAI's, whose replies a closure writes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

/// What such a mind replies.
#[derive(Debug, Clone)]
pub struct Saying {
    /// Its words.
    pub text: String,
    /// The calls it asks for: a tool's name and its arguments.
    pub calls: Vec<(String, Value)>,
}

impl Saying {
    /// Words and no call, which end a turn.
    pub fn words(text: &str) -> Saying {
        Saying { text: text.to_string(), calls: Vec::new() }
    }

    /// One call.
    pub fn call(name: &str, arguments: Value) -> Saying {
        Saying { text: String::new(), calls: vec![(name.to_string(), arguments)] }
    }
}

/// The server. It ends when it is dropped.
pub struct Elsewhere {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
}

impl Elsewhere {
    /// A server that answers each conversation, which is a request's body, as `reply` says. Conversations come side by side.
    ///
    /// # Panics
    /// When there is no port.
    pub fn start(reply: impl Fn(&Value) -> Saying + Send + Sync + 'static) -> Elsewhere {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback has free ports");
        let address = listener.local_addr().expect("it is bound");
        let (ended, reply) = (Arc::new(AtomicBool::new(false)), Arc::new(reply));
        let over = ended.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let reply = reply.clone();
                // One who asks may be killed at any moment, and then nobody listens.
                std::thread::spawn(move || drop(answer(&stream, &*reply)));
            }
        });
        Elsewhere { address, ended }
    }

    /// Where its API is.
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // It looks up when somebody comes.
        let _ = TcpStream::connect(self.address);
    }
}

fn answer(stream: &TcpStream, reply: &(dyn Fn(&Value) -> Saying + Send + Sync)) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let (mut line, mut bytes) = (String::new(), 0);
    reader.read_line(&mut line)?;
    let asks = line.starts_with("POST");
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        if let Some(length) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            bytes = length.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; bytes];
    reader.read_exact(&mut body)?;
    let mut stream = stream;
    if !asks {
        let list = json!({"data": [{"id": "scripted"}]}).to_string();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", list.len());
        return stream.write_all(format!("{head}{list}").as_bytes());
    }
    let saying = reply(&serde_json::from_slice(&body).unwrap_or_default());
    let mut chunks = vec![json!({"choices": [{"delta": {"role": "assistant", "content": saying.text}}]})];
    for (index, (name, arguments)) in saying.calls.iter().enumerate() {
        let function = json!({"name": name, "arguments": arguments.to_string()});
        let call =
            json!({"index": index, "id": format!("call-{index}"), "type": "function", "function": function});
        chunks.push(json!({"choices": [{"delta": {"tool_calls": [call]}}]}));
    }
    let stop = if saying.calls.is_empty() { "stop" } else { "tool_calls" };
    chunks.push(json!({"choices": [{"delta": {}, "finish_reason": stop}]}));
    chunks.push(json!({"choices": [], "usage": {"prompt_tokens": body.len() / 4, "completion_tokens": 8}}));
    let lines: String = chunks.iter().map(|chunk| format!("data: {chunk}\n\n")).collect();
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    stream.write_all(format!("{head}{lines}data: [DONE]\n\n").as_bytes())
}
