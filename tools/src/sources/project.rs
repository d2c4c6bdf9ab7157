//! What the sources of a workspace define and use, kept from one question to the next.

use std::collections::{BTreeMap, HashMap};

use super::{Source, Stamp};
use crate::outline::Kind;
use crate::{Error, Sandbox};

/// More different names are those of files that are gone by now: then all is read again. Some 100 bytes each.
const NAMES_MAX: usize = 4_000_000;

/// The sources of a workspace.
#[derive(Debug, Default)]
pub(crate) struct Project {
    pub(super) files: BTreeMap<String, File>,
    pub(super) names: Names,
    /// Whether there are more files than are looked at.
    pub(super) more: bool,
}

/// What is known of a file.
#[derive(Debug)]
pub(super) struct File {
    stamp: Stamp,
    /// In the order they begin in.
    pub(super) definitions: Vec<Definition>,
    /// The names that stand in it, by number, and how often.
    pub(super) uses: Box<[(u32, u32)]>,
}

/// What is known of a definition.
#[derive(Debug)]
pub(super) struct Definition {
    pub(super) name: u32,
    pub(super) kind: Kind,
    /// What it lies in, the outermost first.
    pub(super) containers: Vec<String>,
    /// Its first and last line, counted from 1.
    pub(super) lines: (u32, u32),
    pub(super) signature: String,
    pub(super) public: bool,
    pub(super) test: bool,
}

/// Names by number.
#[derive(Debug, Default)]
pub(super) struct Names {
    numbers: HashMap<String, u32>,
    names: Vec<String>,
}

impl Names {
    fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.names.len() as u32;
        self.numbers.insert(name.to_owned(), number);
        self.names.push(name.to_owned());
        number
    }

    pub(super) fn name(&self, number: u32) -> &str {
        &self.names[number as usize]
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    pub(super) fn find(&self, name: &str) -> Option<u32> {
        self.numbers.get(name).copied()
    }
}

impl Project {
    /// Brings it level with the files as they are now.
    pub(crate) async fn level(&mut self, sandbox: &Sandbox) -> Result<(), Error> {
        if self.names.len() > NAMES_MAX {
            *self = Project::default();
        }
        let (files, names) = (&self.files, &mut self.names);
        let mut anew: Vec<(String, File)> = Vec::new();
        let known = |path: &str| files.get(path).map(|file| file.stamp);
        let mut take = |source: Source| {
            let path = source.path.clone();
            anew.push((path, File::of(source, names)));
        };
        let surveyed = sandbox.sources(known, false, &mut take).await?;
        self.more = surveyed.more;
        // The walk orders by the parts of a path, and text is ordered otherwise.
        let mut there: Vec<&str> = surveyed.files.iter().map(|(path, _)| path.as_str()).collect();
        there.sort_unstable();
        self.files.retain(|path, _| there.binary_search(&path.as_str()).is_ok());
        self.files.extend(anew);
        Ok(())
    }

    /// All that is defined, each with its file.
    pub(super) fn definitions(&self) -> impl Iterator<Item = (&str, &Definition)> {
        self.files.iter().flat_map(|(path, file)| {
            file.definitions.iter().map(move |definition| (path.as_str(), definition))
        })
    }

    /// The files in which a name stands, those where it stands most often first.
    pub(super) fn users(&self, number: u32) -> Vec<&str> {
        let count = |file: &File| {
            file.uses.binary_search_by_key(&number, |(name, _)| *name).ok().map(|at| file.uses[at].1)
        };
        let mut users: Vec<(u32, &str)> =
            self.files.iter().filter_map(|(path, file)| Some((count(file)?, path.as_str()))).collect();
        users.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
        users.into_iter().map(|(_, path)| path).collect()
    }
}

impl File {
    fn of(source: Source, names: &mut Names) -> File {
        let aside = is_aside(&source.path);
        let definitions = source.outline.symbols.into_iter().map(|symbol| Definition {
            name: names.number(&symbol.name),
            kind: symbol.kind,
            containers: symbol.containers,
            lines: symbol.lines,
            signature: symbol.signature,
            public: symbol.public,
            test: symbol.test || aside,
        });
        let definitions = definitions.collect();
        let mut uses: Vec<(u32, u32)> =
            source.names.iter().map(|(name, count)| (names.number(name), *count)).collect();
        uses.sort_unstable();
        File { stamp: source.stamp, definitions, uses: uses.into() }
    }
}

/// Whether a file is beside the program: a test, an example, a benchmark.
pub fn is_aside(path: &str) -> bool {
    path.split('/').rev().skip(1).any(|folder| {
        ["test", "tests", "testing", "__tests__", "testdata", "bench", "benches", "example", "examples"]
            .contains(&folder)
    })
}
