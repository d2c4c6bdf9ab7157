//! Tries a file of attack cases, one JSON object a line: `cargo run -p tools --example attack -- FILE.jsonl [--plain | --runsc] [ID…]`, and
//! with SAGA_ATTACK_AS=NAME before it, as that user.
//!
//! The example is its own service and its own helper. `saga sandbox attack` does the same and more.

use std::path::Path;
use std::process::ExitCode;

use tools::Backend;
use tools::attack::{self, Ground, Verdict};

fn main() -> ExitCode {
    tools::maybe_become_helper();
    let (flags, words): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|word| word == "--plain" || word == "--runsc");
    let Some((file, only)) = words.split_first() else {
        eprintln!("usage: attack FILE.jsonl [--plain | --runsc] [ID…]");
        return ExitCode::from(2);
    };
    if let Some(user) = std::env::var("SAGA_ATTACK_AS").ok().filter(|_| rustix::process::geteuid().is_root())
    {
        let after: Vec<&str> = flags.iter().chain(only).map(String::as_str).collect();
        return match attack::as_user(&user, &[], Path::new(file), &after) {
            Ok(code) => ExitCode::from(code),
            Err(why) => {
                eprintln!("{why}");
                ExitCode::from(2)
            }
        };
    }
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => {
            eprintln!("{file}: {error}");
            return ExitCode::from(2);
        }
    };
    let ground = match flags.first().map(String::as_str) {
        None => Ground::Sandbox(None, Backend::Native),
        Some("--runsc") => Ground::Sandbox(None, Backend::Runsc),
        Some(_) => Ground::Plain(None),
    };
    let [mut held, mut leaked, mut skipped] = [0; 3];
    for case in attack::read(&text).iter().filter(|case| only.is_empty() || only.contains(&case.id)) {
        match case.attack(&ground, None) {
            Verdict::Held => {
                held += 1;
                println!("held    {}", case.id);
            }
            Verdict::Leaked(why) => {
                leaked += 1;
                println!("LEAKED  {}: {why}", case.id);
            }
            Verdict::Skipped(why) => {
                skipped += 1;
                println!("skipped {}: {why}", case.id);
            }
        }
    }
    println!("{}", serde_json::json!({"held": held, "leaked": leaked, "skipped": skipped}));
    ExitCode::SUCCESS
}
