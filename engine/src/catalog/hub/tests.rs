//! Pulls by address, from a hub on this machine.

use std::net::TcpListener;

use tempfile::TempDir;

use super::super::address::Address;
use super::super::small_hub::{Open, SmallHub, wanted};
use super::super::{Error, Pull, manifest, models, pull, pull_from_hub, pulled, remove, resolve};
use super::*;

const REPOSITORY: &str = "me/it";

/// A models' folder, and a hub.
struct World {
    dir: TempDir,
    hub: Open,
}

impl World {
    fn new(hub: SmallHub) -> World {
        World { dir: tempfile::tempdir().unwrap(), hub: hub.open() }
    }

    /// Another hub at the same folder.
    fn meets(self, hub: SmallHub) -> World {
        World { hub: hub.open(), ..self }
    }

    fn pull(&self, asked: &str) -> Result<PathBuf, Error> {
        self.pull_as(asked, None)
    }

    fn pull_as(&self, asked: &str, token: Option<&str>) -> Result<PathBuf, Error> {
        let way = Way { token: token.map(str::to_owned), ..self.hub.way.clone() };
        pull_from_hub(&address(asked), self.dir.path(), Some(&way), &mut |_| {})
    }

    /// Pulls without a way to the hub.
    fn pull_alone(&self, asked: &str) -> Result<PathBuf, Error> {
        pull_from_hub(&address(asked), self.dir.path(), None, &mut |_| {})
    }

    #[track_caller]
    fn refuses(&self, asked: &str, said: &[&str]) {
        let error = self.pull(asked).unwrap_err().to_string();
        for part in said {
            assert!(error.contains(part), "{error:?} does not say {part:?}");
        }
    }

    /// All files below the models' folder, without those that begin with a dot and the markers.
    fn files(&self) -> Vec<String> {
        fn walk(folder: &Path, root: &Path, into: &mut Vec<String>) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_str().unwrap();
                match () {
                    () if name.starts_with('.') || name.ends_with(".checked") => {}
                    () if path.is_dir() => walk(&path, root, into),
                    () => into.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned()),
                }
            }
        }
        let mut files = Vec::new();
        walk(self.dir.path(), self.dir.path(), &mut files);
        files.sort();
        files
    }
}

fn address(text: &str) -> Address {
    Address::parse(text).unwrap().unwrap()
}

const INDEX: &str =
    r#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#;

/// A repository of safetensors, with much that is not needed.
fn folder() -> SmallHub {
    SmallHub::new(
        REPOSITORY,
        &[
            (".gitattributes", b"x"),
            ("README.md", b"# It"),
            ("config.json", br#"{"model_type": "qwen3"}"#),
            ("modeling_it.py", b"import os"),
            ("model.safetensors.index.json", INDEX.as_bytes()),
            ("model-00001-of-00002.safetensors", b"first"),
            ("model-00002-of-00002.safetensors", b"second"),
            ("model-00003-of-00003.safetensors", b"of another set"),
            ("original/model.safetensors", b"the same in another form"),
            ("pytorch_model.bin", b"a pickle"),
            ("tokenizer.json", b"{\"version\": 1}"),
            ("tokenizer_config.json", b"{ }"),
        ],
    )
}

/// Two quantisations, one of them in two parts.
fn ggufs() -> SmallHub {
    SmallHub::new(
        REPOSITORY,
        &[
            ("It-Q8_0.gguf", &[8; 300_000]),
            ("Q4_K_M/It Q-Q4_K_M-00001-of-00002.gguf", &[4; 100_000]),
            ("Q4_K_M/It Q-Q4_K_M-00002-of-00002.gguf", &[5; 50_000]),
            ("mmproj-F16.gguf", b"an eye"),
        ],
    )
}

#[test]
fn safetensors_come_with_what_they_need_and_nothing_else() {
    // Programs and pickles of strangers have no business here.
    let world = World::new(folder());
    let path = world.pull("hf:me/it").unwrap();
    assert_eq!(path, world.dir.path().join("hf/me/it/it.safetensors"));
    let names = [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    assert_eq!(world.files(), names.map(|name| format!("hf/me/it/it.safetensors/{name}")));
    assert_eq!(fs::read(path.join(names[2])).unwrap(), b"second");
    assert!(!path.join(CACHE).exists());
    let asked = world.hub.asked();
    assert_eq!(asked[0], "/api/models/me/it/revision/main?blobs=true");
    assert!(asked[1..].iter().all(|path| path.contains(&folder().commit)), "{asked:?}");
    assert_eq!(asked.len(), 1 + names.len());

    // From now on nobody is asked.
    assert_eq!(world.pull_alone("hf:me/it").unwrap(), path);
    assert_eq!(world.pull("hf:me/it:safetensors").unwrap(), path);
    assert_eq!(resolve("hf:me/it", world.dir.path()).unwrap(), path);
    assert_eq!(world.hub.asked(), [] as [&str; 0]);
}

#[test]
fn a_quantisation_comes_with_all_its_parts() {
    // Most large files are split.
    let world = World::new(ggufs());
    world.refuses("hf:me/it", &["Q4_K_M (150.0 KB), Q8_0 (300.0 KB)", "`hf:me/it:Q4_K_M`"]);
    let path = world.pull("hf:me/it:q4_k_m").unwrap();
    let folder = world.dir.path().join("hf/me/it/Q4_K_M--It Q-Q4_K_M");
    assert_eq!(path, folder.join("Q4_K_M/It Q-Q4_K_M-00001-of-00002.gguf"));
    assert_eq!(world.files().len(), 2);
    assert_eq!(fs::read(folder.join("Q4_K_M/It Q-Q4_K_M-00002-of-00002.gguf")).unwrap(), vec![5; 50_000]);

    // What is here is meant as long as nothing else is.
    for asked in ["hf:me/it", "hf:me/it:Q4_K_M", "hf:me/it:It Q-Q4_K_M"] {
        assert_eq!(resolve(asked, world.dir.path()).unwrap(), path, "{asked}");
    }
    assert!(matches!(resolve("hf:me/it:Q8_0", world.dir.path()), Err(Error::NotPulled { .. })));
    let other = world.pull("hf:me/it:Q8_0").unwrap();
    assert_eq!(resolve("hf:me/it:q8_0", world.dir.path()).unwrap(), other);
    let error = resolve("hf:me/it", world.dir.path()).unwrap_err().to_string();
    assert!(error.contains("`hf:me/it:Q8_0`, `hf:me/it:Q4_K_M`"), "{error}");

    let listed: Vec<_> =
        pulled(world.dir.path()).into_iter().map(|p| (p.id, p.path, p.bytes, p.whole)).collect();
    let expected = [("hf:me/it:Q8_0", other, 300_000, true), ("hf:me/it:Q4_K_M", path, 150_000, true)];
    assert_eq!(listed, expected.map(|(id, path, bytes, whole)| (id.to_owned(), path, bytes, whole)));
}

#[test]
fn revisions_live_beside_each_other() {
    let world = World::new(folder());
    let newest = world.pull("hf:me/it").unwrap();
    let tagged = world.pull("hf:me/it@v1").unwrap();
    assert_eq!(tagged, world.dir.path().join("hf/me/it/it.safetensors@v1"));
    assert_ne!(newest, tagged);
    assert_eq!(resolve("hf:me/it@v1", world.dir.path()).unwrap(), tagged);
    world.refuses("hf:me/it@v2", &["no branch, tag or commit `v2`"]);
}

#[test]
fn a_download_that_breaks_off_goes_on_where_it_broke() {
    // Also in the next pull, and with the files of the commit it began with.
    let cut = SmallHub { cut_bytes: Some(40_000), ..ggufs() };
    let world = World::new(cut);
    world.refuses("hf:me/it:Q8_0", &["broke off after 200000 bytes", "goes on from there"]);
    assert_eq!(world.hub.given(), 200_000);
    let [begun] = &pulled(world.dir.path())[..] else { panic!("what has begun is listed") };
    assert_eq!((&begun.id[..], begun.whole, begun.bytes), ("hf:me/it:Q8_0", false, 300_000));
    assert!(matches!(resolve("hf:me/it:Q8_0", world.dir.path()), Err(Error::NotPulled { .. })));

    let moved = SmallHub { commit: "1".repeat(40), cut_bytes: Some(40_000), ..ggufs() };
    let world = world.meets(moved);
    let path = world.pull("hf:me/it:Q8_0").unwrap();
    assert_eq!(fs::read(path).unwrap(), vec![8; 300_000]);
    assert_eq!(world.hub.given(), 100_000);
    assert!(world.hub.asked().iter().all(|path| path.contains(&ggufs().commit)));
}

#[test]
fn a_hub_that_stumbles_or_knows_no_ranges_is_borne_with() {
    let world = World::new(SmallHub { failures: 3, ..ggufs() });
    assert_eq!(fs::read(world.pull("hf:me/it:Q8_0").unwrap()).unwrap(), vec![8; 300_000]);

    let world = World::new(SmallHub { cut_bytes: Some(200_000), ..ggufs() });
    let part = world.dir.path().join("hf/me/it/It-Q8_0").join(CACHE);
    fs::create_dir_all(&part).unwrap();
    let file = wanted("It-Q8_0.gguf", &[8; 300_000]);
    fs::write(part.join(part_name(&file)), vec![8; 100_000]).unwrap();
    let world = world.meets(SmallHub { without_ranges: true, ..ggufs() });
    assert_eq!(fs::read(world.pull("hf:me/it:Q8_0").unwrap()).unwrap(), vec![8; 300_000]);
    assert_eq!(world.hub.given(), 300_000);

    let world = World::new(SmallHub { failures: 100, ..ggufs() });
    world.refuses("hf:me/it:Q8_0", &["Hugging Face hub: it answers with the status 503"]);
}

#[test]
fn what_is_not_what_the_list_says_is_refused() {
    // A model is code of a kind, and so is a tokenizer.
    let check = |name: &str, content: &[u8], said: &[&str]| {
        let swapped = vec![(name.to_owned(), content.to_vec())];
        let world = World::new(SmallHub { swapped, ..folder() });
        world.refuses("hf:me/it", &[&[name], said].concat());
        assert!(!world.files().iter().any(|file| file.ends_with(name)), "{:?}", world.files());
        assert!(!pulled(world.dir.path()).iter().any(|pulled| pulled.whole));
    };
    let first = "model-00001-of-00002.safetensors";
    check(first, b"FIRST", &["was removed", wanted(first, b"first").hash.digits()]);
    check(first, b"first and more", &["longer than the 5 bytes"]);
    check(first, b"fir", &["has 3 bytes and should have 5"]);
    check("tokenizer.json", b"{\"version\": 2}", &["the git hash", "was removed"]);
    check("model.safetensors.index.json", &INDEX.replace('a', "z").into_bytes(), &["the git hash"]);

    // An index that names what is elsewhere.
    let strange = INDEX.replace("model-00002-of-00002", "../../it");
    let mut hub = folder();
    hub.files.iter_mut().find(|(name, _)| name.ends_with("index.json")).unwrap().1 = strange.into_bytes();
    World::new(hub).refuses("hf:me/it", &["\"../../it.safetensors\", which is no safetensors file"]);
}

#[test]
fn a_gated_repository_says_what_to_do() {
    // The list of such a repository is shown to everybody, its files are not.
    let world = World::new(SmallHub { token: Some("hf_secret"), elsewhere: true, ..folder() });
    world.refuses("hf:me/it", &["accept its terms", "set HF_TOKEN"]);
    let error = world.pull_as("hf:me/it", Some("hf_other")).unwrap_err().to_string();
    assert!(error.contains("the account of your token (HF_TOKEN) has not"), "{error}");
    assert!(!error.contains("hf_other"), "{error}");

    world.hub.asked();
    world.pull_as("hf:me/it", Some("hf_secret")).unwrap();
    for asked in world.hub.asked() {
        // The files themselves lie with others, who need not know who asks.
        assert_eq!(asked.ends_with(" by hf_secret"), !asked.starts_with("/elsewhere/"), "{asked}");
    }
}

#[test]
fn a_repository_that_is_not_there_is_told_from_a_hub_that_is_not() {
    let world = World::new(SmallHub { token: Some("hf_secret"), hidden: true, ..folder() });
    world.refuses("hf:me/other", &["no repository me/other", "check its name, or set HF_TOKEN"]);
    world.refuses("hf:me/it", &["no repository me/it", "set HF_TOKEN"]);
    let error = world.pull_as("hf:me/it", Some("hf_other")).unwrap_err();
    assert!(
        matches!(&error, Error::Address { .. }) && error.to_string().contains("your token may not read it")
    );
    world.pull_as("hf:me/it", Some("hf_secret")).unwrap();

    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let way = Way { endpoint: Some(format!("http://{closed}")), token: None };
    let dir = tempfile::tempdir().unwrap();
    let error = pull_from_hub(&address("hf:me/it"), dir.path(), Some(&way), &mut |_| {}).unwrap_err();
    assert!(matches!(&error, Error::NoSource { .. }), "{error}");
    assert!(error.to_string().contains("the list of files of me/it"), "{error}");
    assert!(error.to_string().contains("it cannot be reached"), "{error}");
    let error = World::new(folder()).pull_alone("hf:me/it").unwrap_err();
    assert!(error.to_string().contains("SAGA_OFFLINE"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_list_that_no_honest_hub_sends_is_refused_whole() {
    // Names become paths, a commit becomes a part of an address.
    let commit = "0".repeat(40);
    let with_name = |name: &str| {
        serde_json::json!({"sha": commit, "siblings": [
            {"rfilename": "it.gguf", "size": 1, "blobId": commit},
            {"rfilename": name, "size": 1, "blobId": commit},
        ]})
        .to_string()
    };
    let check = |list: String, said: &str| {
        let world = World::new(SmallHub { list: Some(list), ..folder() });
        world.refuses("hf:me/it", &[said]);
        assert_eq!(fs::read_dir(world.dir.path()).unwrap().count(), 0);
        assert_eq!(world.hub.asked().len(), 1);
    };
    for name in
        ["../../../x.gguf", "/etc/x.gguf", "a/../b.gguf", "a\\b.gguf", "a\nb.gguf", "", &"x".repeat(3000)]
    {
        check(with_name(name), "nothing is fetched from such a repository");
    }
    check(with_name("x").replace(&commit, "../x"), "names the commit");
    check(r#"{"sha": "main", "siblings": []}"#.to_owned(), "names the commit");
    check(with_name("x").replace("\"size\":1", "\"size\":null"), "does not say how long");
    check(with_name("x").replace("\"blobId\"", "\"blob\""), "does not say how long");
    check("<html>".to_owned(), "cannot be read");
    check(" ".repeat(LIST_BYTES_MAX as usize + 1), "more files than");
}

#[test]
fn two_pulls_of_one_address_do_not_collide() {
    let world = World::new(ggufs());
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| world.pull("hf:me/it:Q8_0").unwrap());
        }
    });
    assert_eq!(world.hub.given(), 300_000);
}

#[test]
fn progress_is_heard_from_the_choice_to_the_end() {
    let world = World::new(ggufs());
    let mut heard = Vec::new();
    let mut on = |news| heard.push(news);
    pull_from_hub(&address("hf:me/it:Q4_K_M"), world.dir.path(), Some(&world.hub.way), &mut on).unwrap();
    assert_eq!(heard[0], Pull::Begins { what: "hf:me/it:Q4_K_M".into(), files: 2, bytes: 150_000 });
    let file = "Q4_K_M/It Q-Q4_K_M-00002-of-00002.gguf".to_owned();
    assert_eq!(heard.last(), Some(&Pull::Ready { file: file.clone() }));
    let (source, total_bytes) = ("Hugging Face hub", 50_000);
    assert!(heard.contains(&Pull::Fetching { source, file, done_bytes: 50_000, total_bytes }), "{heard:?}");
}

#[test]
fn what_was_pulled_can_be_deleted() {
    // Also what has only begun to come; what somebody is just pulling stays.
    let world = World::new(ggufs());
    world.pull("hf:me/it:Q8_0").unwrap();
    world.pull("hf:me/it:Q4_K_M").unwrap();
    let dir = world.dir.path();
    let folder = dir.join("hf/me/it/It-Q8_0");
    let lock = pull::try_lock(&folder).unwrap().unwrap();
    let error = remove("hf:me/it:Q8_0", dir).unwrap_err().to_string();
    assert!(error.contains("is just being pulled"), "{error}");
    drop(lock);
    assert!((300_000..302_000).contains(&remove("hf:me/it:Q8_0", dir).unwrap()));
    assert!(!folder.exists() && world.files().len() == 2);
    assert!(matches!(remove("hf:me/it:Q8_0", dir), Err(Error::NotPulled { .. })));
    assert!(matches!(remove("../it", dir), Err(Error::UnknownModel { .. })));
    remove("hf:me/it", dir).unwrap();
    assert_eq!(fs::read_dir(dir.join("hf")).map(Iterator::count).unwrap_or(0), 0);

    let world = world.meets(SmallHub { cut_bytes: Some(1000), ..ggufs() });
    world.pull("hf:me/it:Q8_0").unwrap_err();
    assert!((5000..7000).contains(&remove("hf:me/it:Q8_0", world.dir.path()).unwrap()));
    assert!(pulled(world.dir.path()).is_empty());
}

#[test]
fn a_model_known_by_name_is_the_one_of_its_address() {
    // Whichever of the two somebody used to pull it.
    let repository = "deepseek-ai/DeepSeek-V4-Flash";
    let world = World::new(SmallHub { repository, ..folder() });
    let path = world.pull("hf:deepseek-ai/DeepSeek-V4-Flash").unwrap();
    let dir = world.dir.path();
    assert_eq!(resolve("deepseek-v4-flash", dir).unwrap(), path);
    let known = models().iter().filter(|model| model.find(dir).is_some());
    assert_eq!(known.map(|model| model.id).collect::<Vec<_>>(), ["deepseek-v4-flash"]);
    assert!(pulled(dir).is_empty());
    assert_eq!(manifest::all(dir).len(), 1);
    remove("deepseek-v4-flash", dir).unwrap();
    assert!(matches!(resolve("deepseek-v4-flash", dir), Err(Error::NotPulled { .. })));
}

#[test]
fn what_cannot_run_is_refused_before_its_weights_come() {
    // Many gigabytes would be for nothing.
    let mut hub = folder();
    hub.files.iter_mut().find(|(name, _)| name == "config.json").unwrap().1 =
        br#"{"model_type": "bert"}"#.to_vec();
    let world = World::new(hub);
    world.refuses("hf:me/it", &["architecture `bert`", "qwen3moe"]);
    assert_eq!(world.hub.given(), br#"{"model_type": "bert"}"#.len());

    let path = world.dir.path().join("tiny.gguf");
    crate::testing::TinyModel::new("qwen2").write(&path);
    let gguf = fs::read(&path).unwrap();
    let at = gguf.windows(5).position(|window| window == b"qwen2").unwrap();
    let strange = [&gguf[..at], b"mamba", &gguf[at + 5..]].concat();
    let world = World::new(SmallHub::new(REPOSITORY, &[("it.gguf", &strange)]));
    world.refuses("hf:me/it", &["architecture `mamba`"]);
    assert_eq!(world.hub.given(), 0);
    assert!(world.files().is_empty());
    let world = World::new(SmallHub::new(REPOSITORY, &[("it.gguf", &gguf)]));
    world.pull("hf:me/it").unwrap();
}
