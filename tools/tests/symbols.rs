//! What a model learns of the sources of a workspace.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its scene has failed")]

use std::path::Path;

use expect_test::{Expect, expect};
use serde_json::{Value, json};
use tools::{Call, Outcome, Policy, Sandbox, Toolbox};

const CACHE: &str = "
/// Keeps pages.
pub struct Cache { pages: Vec<u32> }

impl Cache {
    pub fn evict_oldest(&mut self) -> Option<u32> { helper(self) }
    fn private_matter(&self) {}
}

fn helper(cache: &mut Cache) -> Option<u32> { cache.pages.pop() }

pub const PAGES_MAX: usize = 10;
";
const SERVER: &str = "
use crate::cache::Cache;

pub fn serve(cache: &mut Cache) {
    while cache.evict_oldest().is_some() {}
}
";
const REPORT: &str = "
import sys

class Report:
    def render_table(self, rows):
        return str(rows)

def main():
    print(Report().render_table(sys.argv))
";
const TEST: &str = "
use shop::cache::Cache;
#[test]
fn evicts() { Cache::default().evict_oldest(); }
";

async fn project() -> (tempfile::TempDir, Sandbox) {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "src/cache.rs", CACHE);
    put(folder.path(), "src/server.rs", SERVER);
    put(folder.path(), "tools/report.py", REPORT);
    put(folder.path(), "tests/cache.rs", TEST);
    put(folder.path(), "target/out.rs", "pub fn evict_oldest() {}");
    put(folder.path(), ".gitignore", "target/\n");
    put(folder.path(), "README.md", "evict_oldest");
    let mut policy = Policy::new(folder.path().canonicalize().unwrap());
    policy.helper = Some(env!("CARGO_BIN_EXE_saga-sandbox-helper").into());
    let sandbox = Sandbox::open(policy).await.unwrap();
    (folder, sandbox)
}

fn put(folder: &Path, path: &str, text: &str) {
    let path = folder.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

async fn symbols(sandbox: &Sandbox, arguments: Value) -> Outcome {
    let call = Call { id: "1".to_owned(), name: "symbols".to_owned(), arguments };
    Toolbox::builtin().perform(&call, sandbox, &|_| ()).await.unwrap()
}

async fn check(sandbox: &Sandbox, arguments: Value, expected: Expect) {
    expected.assert_eq(&symbols(sandbox, arguments).await.text);
}

#[tokio::test]
async fn a_name_is_shown_where_it_is_defined_and_used() {
    // What a change of it would touch, without what only looks like it.
    let (_folder, sandbox) = project().await;
    check(
        &sandbox,
        json!({"name": "evict_oldest"}),
        expect![[r#"
        Defined:
        src/cache.rs:6: pub fn evict_oldest(&mut self) -> Option<u32> (in Cache)
        Used in 3 files:
        src/server.rs:5: while cache.evict_oldest().is_some() {}
        tests/cache.rs:4: fn evicts() { Cache::default().evict_oldest(); }"#]],
    )
    .await;
    check(
        &sandbox,
        json!({"name": "Cache::evict_oldest()", "path": "tests"}),
        expect![[r#"
            Not defined at tests.
            Used in 1 file:
            tests/cache.rs:4: fn evicts() { Cache::default().evict_oldest(); }"#]],
    )
    .await;
    check(
        &sandbox,
        json!({"name": "evictOldest"}),
        expect![[r#"There is no name "evictOldest" in the source files. Like it are: evict_oldest."#]],
    )
    .await;
    check(
        &sandbox,
        json!({"name": "evict"}),
        expect![[r#"There is no name "evict" in the source files. Like it are: evicts, evict_oldest."#]],
    )
    .await;
}

#[tokio::test]
async fn a_file_is_shown_by_what_it_defines() {
    let (folder, sandbox) = project().await;
    let absolute = format!("{}/src/cache.rs", sandbox.workspace());
    check(
        &sandbox,
        json!({"path": "./src/cache.rs"}),
        expect![[r#"
            src/cache.rs
                 2: pub struct Cache
                 6:   pub fn evict_oldest(&mut self) -> Option<u32>
                 7:   fn private_matter(&self)
                10: fn helper(cache: &mut Cache) -> Option<u32>
                12: pub const PAGES_MAX: usize = 10"#]],
    )
    .await;
    assert_eq!(
        symbols(&sandbox, json!({"path": absolute})).await.text,
        symbols(&sandbox, json!({"path": "src/cache.rs"})).await.text
    );
    // As it is now, not as it was.
    put(folder.path(), "src/cache.rs", "pub fn only_this() {}\n");
    std::fs::remove_file(folder.path().join("src/server.rs")).unwrap();
    check(
        &sandbox,
        json!({"path": "src/cache.rs"}),
        expect![[r#"
        src/cache.rs
             1: pub fn only_this()"#]],
    )
    .await;
    check(
        &sandbox,
        json!({"path": "src"}),
        expect![[r#"
        src/cache.rs
             1: pub fn only_this()"#]],
    )
    .await;
    check(&sandbox, json!({"path": "docs"}), expect!["There are no source files at docs in a language that is known here. Use list or glob to see what there is."]).await;
}

#[tokio::test]
async fn a_map_begins_with_what_matters_most() {
    // What others use comes before what nobody does, and what was asked about before both.
    let (_folder, sandbox) = project().await;
    check(
        &sandbox,
        json!({}),
        expect![[r#"
        src/cache.rs
             2: pub struct Cache
             6:   pub fn evict_oldest(&mut self) -> Option<u32>
             7:   fn private_matter(&self)
            10: fn helper(cache: &mut Cache) -> Option<u32>
            12: pub const PAGES_MAX: usize = 10
        src/server.rs
             4: pub fn serve(cache: &mut Cache)
        tools/report.py
             4: class Report
             5:   def render_table(self, rows)
             8: def main()
        tests/cache.rs
             3: fn evicts()"#]],
    )
    .await;
    check(
        &sandbox,
        json!({"about": "render the table of a report"}),
        expect![[r#"
        tools/report.py
             4: class Report
             5:   def render_table(self, rows)
             8: def main()
        src/cache.rs
             2: pub struct Cache
             6:   pub fn evict_oldest(&mut self) -> Option<u32>
             7:   fn private_matter(&self)
            10: fn helper(cache: &mut Cache) -> Option<u32>
            12: pub const PAGES_MAX: usize = 10
        src/server.rs
             4: pub fn serve(cache: &mut Cache)
        tests/cache.rs
             3: fn evicts()"#]],
    )
    .await;
}
