//! Which of a repository's files are needed to run a model of it.
//!
//! A repository may hold the same model many times over, as GGUF files of several quantisations and as safetensors.
//! Nothing is taken that is not needed, and nothing that could run: no pickles and no programs.

use std::collections::BTreeMap;

use super::address::{Address, PART_BYTES_MAX};
use super::pull::Wanted;

/// What the safetensors of a repository are called where it has GGUF files too.
pub(super) const SAFETENSORS: &str = "safetensors";

/// What says what a folder's model is.
const CONFIG: &str = "config.json";
/// What says which file holds which tensor, where there are several.
const INDEX: &str = "model.safetensors.index.json";
/// Where there is one file only.
const WHOLE: &str = "model.safetensors";
/// What is taken beside the weights, where it is there.
const BESIDE: [&str; 5] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// Bytes of a part of a path, less what markers beside a file add to its name.
const NAME_BYTES_MAX: usize = 240;
/// Bytes of a path in a repository. Real ones have under two hundred.
const PATH_BYTES_MAX: usize = 1024;
/// Models that an error lists. The largest collections of quantisations have about forty.
const LISTED_MAX: usize = 60;

/// A model of a repository: the files it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    /// How it is told from the repository's other models, if there are any.
    pub(super) label: Option<String>,
    pub(super) form: Form,
}

/// How a model lies in a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// A GGUF file, or the parts of one in their order.
    Gguf(Vec<Wanted>),
    /// Safetensors with what belongs to them.
    Folder {
        /// What says which family it is.
        config: Wanted,
        /// All else whose names are known.
        files: Vec<Wanted>,
        /// What names the files that are still to be taken.
        index: Option<Wanted>,
    },
}

/// Chooses the model that `address` means among a repository's files. The error says what there is and what to do.
pub(super) fn choose(files: &[Wanted], address: &Address) -> Result<Choice, String> {
    let ggufs = ggufs(files);
    let models: Vec<&Gguf> = ggufs.iter().filter(|gguf| !gguf.is_auxiliary()).collect();
    let has_folder = has(files, CONFIG) && (has(files, INDEX) || has(files, WHOLE));
    let is_only = models.len() + usize::from(has_folder) == 1;
    let label = |text: &str| (!is_only).then(|| text.to_owned());
    let which = match &address.which {
        Some(which) if which.eq_ignore_ascii_case(SAFETENSORS) => {
            return Ok(Choice { label: label(SAFETENSORS), form: folder(files)? });
        }
        Some(which) => which,
        None if is_only && has_folder => return Ok(Choice { label: None, form: folder(files)? }),
        None if is_only => return Ok(Choice { label: None, form: models[0].form()? }),
        None if models.is_empty() && !has_folder => return Err(nothing(files)),
        None => return Err(several(&models, &models, has_folder, address)),
    };

    let fitting =
        |fit: Fit| ggufs.iter().filter(move |gguf| gguf.fit(which) == Some(fit)).collect::<Vec<_>>();
    // What is named in full is meant, also if it is part of another one's name.
    let named = [Fit::Name, Fit::Stem].map(fitting).into_iter().find(|found| !found.is_empty());
    let found = named.unwrap_or_else(|| {
        let mut found = fitting(Fit::Part);
        found.retain(|gguf| !gguf.is_auxiliary());
        found
    });
    match found[..] {
        [only] => Ok(Choice { label: label(&only.label(&models)), form: only.form()? }),
        [] if models.is_empty() && !has_folder => Err(nothing(files)),
        [] => Err(format!(
            "the repository has no `{which}`; {}",
            several(&models, &models, has_folder, address)
        )),
        _ => Err(several(&found, &models, false, address)),
    }
}

/// The files that an index says the weights lie in.
pub(super) fn indexed(index: &[u8], files: &[Wanted]) -> Result<Vec<Wanted>, String> {
    let index: serde_json::Value =
        serde_json::from_slice(index).map_err(|error| format!("its {INDEX} is not JSON: {error}"))?;
    let map = index["weight_map"].as_object().ok_or_else(|| format!("its {INDEX} has no `weight_map`"))?;
    let mut named: Vec<&str> = map.values().filter_map(serde_json::Value::as_str).collect();
    named.sort_unstable();
    named.dedup();
    let find = |name: &str| {
        let file = files.iter().find(|file| file.name == name && name.ends_with(".safetensors"));
        // The engine reads them beside the index.
        file.filter(|file| !file.name.contains('/')).cloned().ok_or_else(|| {
            format!("its {INDEX} names {name:?}, which is no safetensors file of the repository")
        })
    };
    let files: Vec<Wanted> = named.into_iter().map(find).collect::<Result<_, _>>()?;
    if files.is_empty() { Err(format!("its {INDEX} names no files")) } else { Ok(files) }
}

/// Whether a GGUF file is what `which` means.
pub(super) fn fits(file: &str, which: &str) -> bool {
    fit(file, which).is_some()
}

/// What the folder of a GGUF file is called: its name, without what tells its parts apart.
pub(super) fn folder_of(file: &str) -> String {
    stem(file).0.replace('/', "--")
}

/// Whether this is a path that stays below the folder it is joined to, and that every disk can hold.
pub(super) fn is_plain(name: &str) -> bool {
    name.len() <= PATH_BYTES_MAX
        && !name.chars().any(|c| c.is_control() || c == '\\')
        && name
            .split('/')
            .all(|part| !part.is_empty() && part.len() <= NAME_BYTES_MAX && part != "." && part != "..")
}

/// Bytes as people read them: `18.6 GB`.
pub(super) fn size(bytes: u64) -> String {
    let (value, unit) = match bytes {
        0..1_000_000 => (bytes as f64 / 1e3, "KB"),
        1_000_000..1_000_000_000 => (bytes as f64 / 1e6, "MB"),
        _ => (bytes as f64 / 1e9, "GB"),
    };
    format!("{value:.1} {unit}")
}

/// How well something fits a name, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    /// It is the file's name.
    Name,
    /// It is the name without its ending.
    Stem,
    /// It is a part of the name, such as its quantisation.
    Part,
}

fn fit(file: &str, which: &str) -> Option<Fit> {
    let is = |name: &str| {
        let last = name.rsplit('/').next().unwrap_or_default();
        name.eq_ignore_ascii_case(which) || last.eq_ignore_ascii_case(which)
    };
    let stem = stem(file).0;
    if is(file) {
        return Some(Fit::Name);
    }
    if is(stem) {
        return Some(Fit::Stem);
    }
    let (stem, which) = (stem.to_ascii_lowercase(), which.to_ascii_lowercase());
    let is_part = |at: usize| {
        let (before, after) = (stem[..at].chars().next_back(), stem[at + which.len()..].chars().next());
        // Q4_K is not Q4_K_M, and Q4_K_M may follow a name after any of these.
        before.is_none_or(|c| "-._/".contains(c)) && after.is_none_or(|c| "-./".contains(c))
    };
    stem.match_indices(&which).any(|(at, _)| is_part(at)).then_some(Fit::Part)
}

/// A GGUF file of a repository, with all its parts.
struct Gguf<'a> {
    /// By their numbers, from 1 on.
    parts: BTreeMap<usize, &'a Wanted>,
    /// How many there should be.
    count: usize,
}

impl Gguf<'_> {
    fn first(&self) -> &str {
        &self.parts.values().next().expect("a file has a part").name
    }

    fn bytes(&self) -> u64 {
        self.parts.values().map(|file| file.bytes).sum()
    }

    fn fit(&self, which: &str) -> Option<Fit> {
        // Any of the parts may be named.
        self.parts.values().filter_map(|file| fit(&file.name, which)).min()
    }

    /// Whether it goes with a model and is none itself: an eye, a head that guesses ahead, statistics.
    fn is_auxiliary(&self) -> bool {
        let name = self.first().rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
        ["mmproj", "mtp-", "dflash-"].iter().any(|start| name.starts_with(start)) || name.contains("imatrix")
    }

    /// The shortest end of its name that tells it from all `models`.
    fn label(&self, models: &[&Gguf]) -> String {
        let stem = stem(self.first()).0;
        let ends = stem.rmatch_indices(['-', '.', '/']).map(|(at, _)| &stem[at + 1..]);
        let is_its_own = |end: &&str| {
            let mut fitting = models.iter().filter(|model| model.fit(end).is_some());
            fitting.next().is_some_and(|model| model.first() == self.first()) && fitting.next().is_none()
        };
        // A quantisation has a digit; a word alone would say little.
        let mut ends = ends.filter(|end| end.bytes().any(|byte| byte.is_ascii_digit()));
        ends.find(is_its_own).unwrap_or_else(|| self.first()).to_owned()
    }

    fn form(&self) -> Result<Form, String> {
        let (first, count) = (self.first(), self.count);
        if !self.parts.keys().copied().eq(1..=count) {
            let there = self.parts.len();
            return Err(format!("the repository has {there} of the {count} parts that {first} names"));
        }
        if folder_of(first).len() > PART_BYTES_MAX {
            return Err(format!("the name of {first} is too long for a folder"));
        }
        Ok(Form::Gguf(self.parts.values().map(|file| (*file).clone()).collect()))
    }
}

/// The GGUF files in the order of their names, the parts of each together.
fn ggufs(files: &[Wanted]) -> Vec<Gguf<'_>> {
    let mut found: BTreeMap<(&str, Option<usize>), BTreeMap<usize, &Wanted>> = BTreeMap::new();
    for file in files.iter().filter(|file| is_gguf(&file.name)) {
        let (stem, part) = stem(&file.name);
        let (number, count) = part.unzip();
        found.entry((stem, count)).or_default().insert(number.unwrap_or(1), file);
    }
    found.into_iter().map(|((_, count), parts)| Gguf { parts, count: count.unwrap_or(1) }).collect()
}

fn is_gguf(name: &str) -> bool {
    name.len() > 5
        && name.is_char_boundary(name.len() - 5)
        && name[name.len() - 5..].eq_ignore_ascii_case(".gguf")
}

/// A GGUF file's name without its ending; and which part it is, of how many: `NAME-00001-of-00003.gguf`.
fn stem(file: &str) -> (&str, Option<(usize, usize)>) {
    let stem = if is_gguf(file) { &file[..file.len() - 5] } else { file };
    let part = stem.rsplit_once("-of-").and_then(|(front, count)| {
        let (stem, number) = front.rsplit_once('-')?;
        let is_number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(number) || !is_number(count) || stem.is_empty() {
            return None;
        }
        Some((stem, (number.parse().ok()?, count.parse().ok()?)))
    });
    match part {
        Some((stem, part)) => (stem, Some(part)),
        None => (stem, None),
    }
}

fn has(files: &[Wanted], name: &str) -> bool {
    files.iter().any(|file| file.name == name)
}

fn folder(files: &[Wanted]) -> Result<Form, String> {
    let find = |name: &str| files.iter().find(|file| file.name == name).cloned();
    let mut wanted: Vec<Wanted> = BESIDE.into_iter().filter_map(find).collect();
    let index = find(INDEX);
    let missing = |what: &str| Err(format!("the repository has no {what}"));
    let Some(config) = find(CONFIG) else {
        return missing("config.json, which says what its safetensors are");
    };
    if !has(files, "tokenizer.json") {
        return missing("tokenizer.json, so that nobody could talk to the model");
    }
    match (&index, find(WHOLE)) {
        (None, None) => return missing(&format!("{WHOLE} and no {INDEX}")),
        (None, Some(whole)) => wanted.push(whole),
        (Some(_), _) => {}
    }
    Ok(Form::Folder { config, files: wanted, index })
}

/// Why nothing of a repository can be run.
fn nothing(files: &[Wanted]) -> String {
    let pickles = [".bin", ".pt", ".pth", ".ckpt"];
    let has_pickles = files.iter().any(|file| pickles.iter().any(|end| file.name.ends_with(end)));
    let hint =
        if has_pickles { "; its weights are pickles, which can run anything and are never read" } else { "" };
    format!("the repository has neither GGUF files nor safetensors with a config.json{hint}")
}

/// What there is to choose from, as names that tell each from all `models`.
fn several(choices: &[&Gguf], models: &[&Gguf], has_folder: bool, address: &Address) -> String {
    let mut named: Vec<(String, Option<u64>)> =
        choices.iter().map(|gguf| (gguf.label(models), Some(gguf.bytes()))).collect();
    named.sort_by_key(|(_, bytes)| *bytes);
    if has_folder {
        named.push((SAFETENSORS.to_owned(), None));
    }
    let example = address.with(named.first().map(|(label, _)| &label[..]));
    let more = named.len().saturating_sub(LISTED_MAX);
    named.truncate(LISTED_MAX);
    let mut said: Vec<String> = named
        .into_iter()
        .map(|(label, bytes)| match bytes {
            Some(bytes) => format!("{label} ({})", size(bytes)),
            None => label,
        })
        .collect();
    if more > 0 {
        said.push(format!("and {more} more"));
    }
    format!("the repository has {}; say which one, as in `{example}`", said.join(", "))
}

#[cfg(test)]
mod tests {
    use super::super::hash::Hash;
    use super::*;

    fn files(names: &[&str]) -> Vec<Wanted> {
        let hash = Hash::GitBlob("0".repeat(40));
        let file = |(i, name): (usize, &&str)| Wanted {
            name: (*name).to_owned(),
            bytes: 1_000_000_000 * (i as u64 + 1),
            hash: hash.clone(),
        };
        names.iter().enumerate().map(file).collect()
    }

    /// What `hf:me/it` with `which` after it takes of these files: its label, and the names; or the error.
    fn taken(names: &[&str], which: &str) -> (String, Vec<String>) {
        let address = Address::parse(&format!("hf:me/it{which}")).unwrap().unwrap();
        match choose(&files(names), &address) {
            Ok(Choice { label, form }) => {
                let files = match form {
                    Form::Gguf(files) => files,
                    Form::Folder { config, files, index } => {
                        [config].into_iter().chain(files).chain(index).collect()
                    }
                };
                (label.unwrap_or_default(), files.into_iter().map(|file| file.name).collect())
            }
            Err(why) => (why, vec![]),
        }
    }

    #[track_caller]
    fn takes(names: &[&str], which: &str, label: &str, expected: &[&str]) {
        assert_eq!(taken(names, which), (label.to_owned(), expected.iter().map(|s| s.to_string()).collect()));
    }

    #[track_caller]
    fn refuses(names: &[&str], which: &str, said: &[&str]) {
        let (why, files) = taken(names, which);
        assert!(files.is_empty(), "{files:?}");
        for part in said {
            assert!(why.contains(part), "{why:?} does not say {part:?}");
        }
    }

    #[test]
    fn the_only_model_is_taken_without_a_word() {
        takes(&["README.md", "it-Q8_0.gguf", "mmproj-F16.gguf"], "", "", &["it-Q8_0.gguf"]);
        takes(&["it.gguf", "imatrix.gguf_file", "it-imatrix.gguf"], "", "", &["it.gguf"]);
        let folder = ["config.json", "model.py", "model.safetensors", "pytorch_model.bin", "tokenizer.json"];
        takes(&folder, "", "", &["config.json", "tokenizer.json", "model.safetensors"]);
        takes(&folder, ":safetensors", "", &["config.json", "tokenizer.json", "model.safetensors"]);
        let parts = [
            "config.json",
            "generation_config.json",
            INDEX,
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
            "chat_template.jinja",
            "original/model.safetensors",
            "inference/model.py",
        ];
        let beside = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"];
        takes(&parts, "", "", &[&beside[..], &["chat_template.jinja", INDEX]].concat());
    }

    #[test]
    fn quantisations_are_chosen_by_their_names() {
        // As people write them: in any case, with or without what the file is called besides.
        let names = [
            "It-30B-Q4_K_M.gguf",
            "It-30B-Q4_K.gguf",
            "It-30B-Q8_0.gguf",
            "It-30B-UD-Q4_K_XL.gguf",
            "It-30B-Q4_K_XL.gguf",
            "mtp-It-30B-Q8_0.gguf",
            "mmproj-It-30B-Q8_0.gguf",
        ];
        takes(&names, ":Q4_K_M", "Q4_K_M", &["It-30B-Q4_K_M.gguf"]);
        takes(&names, ":q4_k", "Q4_K", &["It-30B-Q4_K.gguf"]);
        takes(&names, ":Q8_0", "Q8_0", &["It-30B-Q8_0.gguf"]);
        takes(&names, ":UD-Q4_K_XL", "UD-Q4_K_XL", &["It-30B-UD-Q4_K_XL.gguf"]);
        takes(&names, ":it-30b-q4_k_xl", "30B-Q4_K_XL", &["It-30B-Q4_K_XL.gguf"]);
        takes(&names, ":It-30B-Q4_K_XL.gguf", "30B-Q4_K_XL", &["It-30B-Q4_K_XL.gguf"]);
        // What goes with a model is taken only by its whole name.
        takes(&names, ":mtp-It-30B-Q8_0.gguf", "mtp-It-30B-Q8_0.gguf", &["mtp-It-30B-Q8_0.gguf"]);
        refuses(&names, ":Q4_K_XL", &["UD-Q4_K_XL (4.0 GB)", "30B-Q4_K_XL (5.0 GB)", "say which one"]);
        refuses(&names, ":Q5_K_M", &["has no `Q5_K_M`", "Q4_K_M (1.0 GB), Q4_K (2.0 GB), Q8_0 (3.0 GB)"]);
        refuses(&names, "", &["Q8_0 (3.0 GB)", "as in `hf:me/it:Q4_K_M`"]);
        refuses(&names, "@v1", &["as in `hf:me/it:Q4_K_M@v1`"]);
    }

    #[test]
    fn a_file_in_parts_is_taken_whole_or_not_at_all() {
        let names = [
            "Q4_0/it-Q4_0-00002-of-00002.gguf",
            "Q4_0/it-Q4_0-00001-of-00002.gguf",
            "Q8_0/it-Q8_0-00001-of-00003.gguf",
            "Q8_0/it-Q8_0-00003-of-00003.gguf",
            "it.gguf",
        ];
        let whole = ["Q4_0/it-Q4_0-00001-of-00002.gguf", "Q4_0/it-Q4_0-00002-of-00002.gguf"];
        takes(&names, ":Q4_0", "Q4_0", &whole);
        takes(&names, ":it-Q4_0-00002-of-00002.gguf", "Q4_0", &whole);
        takes(&names, ":it.gguf", "it.gguf", &["it.gguf"]);
        refuses(&names, ":Q8_0", &["2 of the 3 parts"]);
        refuses(&names, "", &["Q4_0 (3.0 GB)", "it.gguf (5.0 GB)"]);
        assert_eq!(folder_of(whole[0]), "Q4_0--it-Q4_0");
        assert!(fits(whole[0], "q4_0") && !fits(whole[0], "q8_0"));
    }

    #[test]
    fn what_cannot_be_run_is_not_taken() {
        refuses(&["README.md", "pytorch_model.bin", "config.json"], "", &["neither GGUF", "pickles"]);
        refuses(&["README.md"], ":Q4_K_M", &["neither GGUF files nor safetensors"]);
        refuses(&["config.json", "model.safetensors"], "", &["no tokenizer.json"]);
        refuses(
            &["tokenizer.json", "config.json", "adapter.safetensors"],
            ":safetensors",
            &["no model.safetensors"],
        );
        refuses(&["model.safetensors", "tokenizer.json"], ":safetensors", &["no config.json"]);
        let both = ["config.json", "model.safetensors", "tokenizer.json", "it-F16.gguf"];
        refuses(&both, "", &["F16 (4.0 GB), safetensors", "`hf:me/it:F16`"]);
        takes(&both, ":Safetensors", SAFETENSORS, &["config.json", "tokenizer.json", "model.safetensors"]);
    }

    #[test]
    fn an_index_names_files_of_the_repository_and_no_others() {
        let files =
            files(&["model.safetensors-00001-of-00002.safetensors", "b.safetensors", "x/c.safetensors"]);
        let check = |map: &str| {
            let found = indexed(format!(r#"{{"weight_map": {map}}}"#).as_bytes(), &files);
            found.map(|files| files.into_iter().map(|file| file.name).collect::<Vec<_>>().join(" "))
        };
        let two = r#"{"w": "b.safetensors", "v": "model.safetensors-00001-of-00002.safetensors", "u": "b.safetensors"}"#;
        assert_eq!(check(two).unwrap(), "b.safetensors model.safetensors-00001-of-00002.safetensors");
        for (map, said) in [
            (r#"{"w": "a.safetensors"}"#, "\"a.safetensors\", which is no"),
            (r#"{"w": "../b.safetensors"}"#, "which is no"),
            (r#"{"w": "x/c.safetensors"}"#, "which is no"),
            ("{}", "names no files"),
            ("3", "no `weight_map`"),
            ("", "is not JSON"),
        ] {
            let why = check(map).unwrap_err();
            assert!(why.contains(said), "{map}: {why}");
        }
    }

    #[test]
    fn paths_that_leave_their_folder_are_not_plain() {
        for name in ["a", "a/b.gguf", ".gitattributes", "ä b", "..a", &"x".repeat(240)] {
            assert!(is_plain(name), "{name}");
        }
        let long = ["x".repeat(241), "x/".repeat(600) + "x"];
        let names =
            ["", "/etc/passwd", "../x", "a/../b", "a/./b", "a//b", "a/", "a\\b", "a\nb", "a\0b", ".."];
        for name in names.into_iter().chain(long.iter().map(String::as_str)) {
            assert!(!is_plain(name), "{name}");
        }
    }
}
