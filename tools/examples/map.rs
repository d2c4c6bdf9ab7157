//! Shows the map of a folder and times it, cold and after one file has changed: `cargo run --release -p tools --example map DIR`.
//!
//! The folder is copied first, since the change is one of its files.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;
use tools::{Call, Policy, Sandbox, Toolbox};

const WARM_RUNS: usize = 11;

fn main() {
    tools::maybe_become_helper();
    let dir = PathBuf::from(std::env::args_os().nth(1).expect("the folder is the first argument"));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be built");
    runtime.block_on(measure(&dir));
}

async fn measure(dir: &Path) {
    let folder = tempfile::tempdir().expect("there is room for a copy");
    let copied = std::process::Command::new("cp").arg("-rL").arg(dir).arg(folder.path().join("it")).status();
    assert!(copied.is_ok_and(|status| status.success()), "the folder can be copied");
    let workspace = folder.path().join("it").canonicalize().expect("the copy is there");
    let sandbox = Sandbox::open(Policy::new(&workspace)).await.expect("the sandbox opens");
    let toolbox = Toolbox::builtin();
    let call = Call { id: "1".to_owned(), name: "symbols".to_owned(), arguments: json!({}) };
    let map = async || {
        let began = Instant::now();
        let outcome = toolbox.perform(&call, &sandbox, &|_| ()).await.expect("the sandbox holds");
        (outcome, began.elapsed().as_secs_f64() * 1e3)
    };
    let (outcome, cold) = map().await;
    println!("{}\n{}: cold {cold:.0} ms", outcome.text, outcome.summary);
    let changed = workspace.join("changed_meanwhile.py");
    let mut times = Vec::new();
    for n in 0..WARM_RUNS {
        std::fs::write(&changed, format!("def changed_{n}():\n    pass\n")).expect("the copy can be changed");
        times.push(map().await.1);
    }
    times.sort_by(f64::total_cmp);
    println!(
        "warm, one file changed: p50 {:.0} ms, most {:.0} ms",
        times[WARM_RUNS / 2],
        times[WARM_RUNS - 1]
    );
}
