//! A map of a workspace: of all that it defines, what matters most, as much as there is room for.
//!
//! Files that use a name lend weight to those that define it, and what they have to lend is what others lent them: PageRank (Page and
//! Brin 1998) over files, as repository maps have done since aider's. A definition has what was lent for its name.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::project::{Definition, File, Project, is_aside};
use crate::outline::Kind;

/// What of a file's weight is lent on …
const LENT: f32 = 0.85;
/// … and how often that is done: then it moves by less than anybody sees.
const ROUNDS: usize = 16;
/// A name that more files define than this is one that everybody uses for something of their own; what still more define tells nothing.
const DEFINED_MAX: usize = 5;
const DEFINED_BY_ALL: usize = 20;
/// What it counts beside a name that others define as well, one that is private, and one of a test.
const COMMON: f32 = 0.1;
const PRIVATE: f32 = 0.3;
const TEST: f32 = 0.1;
/// What it counts that a name or a path has a word that was asked about.
const ASKED: f32 = 10.0;
/// The longest signature that is shown. Characters.
const SIGNATURE_CHARS: usize = 140;
/// A line has its number and a name at least. Bytes.
const LINE_BYTES_MIN: usize = 9;
/// The shortest part of a name that is compared with the words that were asked about. Bytes.
const WORD_BYTES_MIN: usize = 3;

/// What matters most below a folder, in at most so many bytes. `about` are words of what one wants to do.
pub(super) fn map(project: &Project, below: &str, about: &str, bytes_max: usize) -> String {
    let files: Vec<(&str, &File)> = project.files.iter().map(|(path, file)| (path.as_str(), file)).collect();
    let asked = words(about);
    let is_asked = |text: &str| !asked.is_empty() && words(text).iter().any(|word| asked.contains(word));
    let weighed = weigh(project, &files, &is_asked);
    let mut order: Vec<&Weighed<'_>> =
        weighed.iter().filter(|found| is_below(files[found.file].0, below)).collect();
    let heaviest_first = |a: &&Weighed<'_>, b: &&Weighed<'_>| {
        b.weight.total_cmp(&a.weight).then((a.file, a.definition.lines).cmp(&(b.file, b.definition.lines)))
    };
    // A line has more than so many bytes, so no more can be shown.
    let most = bytes_max / LINE_BYTES_MIN;
    if order.len() > most && most > 0 {
        order.select_nth_unstable_by(most - 1, heaviest_first);
        order.truncate(most);
    }
    order.sort_by(heaviest_first);
    let mut shown: BTreeMap<usize, (usize, Vec<&Definition>)> = BTreeMap::new();
    let mut bytes = 0;
    for found in order {
        let line = line_of(found.definition);
        let head = if shown.contains_key(&found.file) { 0 } else { files[found.file].0.len() + 2 };
        if bytes + head + line.len() + 1 > bytes_max {
            // A shorter one may still fit, but it would matter less than what is missing.
            break;
        }
        bytes += head + line.len() + 1;
        let place = shown.len();
        shown.entry(found.file).or_insert((place, Vec::new())).1.push(found.definition);
    }
    let mut by_place: Vec<(usize, usize, Vec<&Definition>)> =
        shown.into_iter().map(|(file, (place, definitions))| (place, file, definitions)).collect();
    by_place.sort_by_key(|(place, ..)| *place);
    let mut text = String::new();
    let of_all = files.iter().filter(|(path, _)| is_below(path, below)).count();
    let in_map = by_place.len();
    for (_, file, mut definitions) in by_place {
        definitions.sort_by_key(|definition| definition.lines);
        let _ = writeln!(text, "{}", files[file].0);
        for definition in definitions {
            let _ = writeln!(text, "{}", line_of(definition));
        }
    }
    if of_all > in_map {
        let _ = writeln!(
            text,
            "[... {} more source files; name a folder, or what it is about, to see others]",
            of_all - in_map
        );
    }
    if project.more {
        text.push_str("[... there are more source files than are looked at]\n");
    }
    text
}

/// A definition, and what it matters.
struct Weighed<'a> {
    file: usize,
    definition: &'a Definition,
    weight: f32,
}

fn weigh<'a>(
    project: &Project,
    files: &[(&'a str, &'a File)],
    is_asked: &dyn Fn(&str) -> bool,
) -> Vec<Weighed<'a>> {
    // By the number of a name: the files that define it, each with a place of its own in what is lent.
    let mut definers: Vec<Vec<u32>> = vec![Vec::new(); project.names.len()];
    let mut open: Vec<f32> = vec![0.0; project.names.len()];
    for (n, (_, file)) in files.iter().enumerate() {
        for definition in &file.definitions {
            let of = &mut definers[definition.name as usize];
            if of.last() != Some(&(n as u32)) {
                of.push(n as u32);
            }
            let most = &mut open[definition.name as usize];
            *most = most.max(openness(definition));
        }
    }
    let mut first_place = Vec::with_capacity(definers.len());
    let mut file_of: Vec<u32> = Vec::new();
    for of in &definers {
        first_place.push(file_of.len());
        file_of.extend(of);
    }
    // What it counts that a name stands somewhere.
    let worth: Vec<f32> = (0..definers.len())
        .map(|name| {
            let common = match definers[name].len() {
                0 => 0.0,
                count if count > DEFINED_BY_ALL => 0.0,
                count if count > DEFINED_MAX => COMMON,
                _ => 1.0,
            };
            let asked = if common > 0.0 && is_asked(project.names.name(name as u32)) { ASKED } else { 1.0 };
            common * open[name] * asked
        })
        .collect();
    // Who lends to which place.
    let mut loans: Vec<(u32, u32, f32)> = Vec::new();
    // Who lends to whom, whatever for.
    let mut between: Vec<(u32, u32, f32)> = Vec::new();
    let mut lent_by: Vec<f32> = vec![0.0; files.len()];
    let mut to_each: Vec<f32> = vec![0.0; files.len()];
    for (from, (path, file)) in files.iter().enumerate() {
        let aside = if is_aside(path) { TEST } else { 1.0 };
        let first = loans.len();
        for (name, count) in &*file.uses {
            let (of, worth) = (&definers[*name as usize], worth[*name as usize]);
            // What a file uses of its own it does not need to be told.
            let others = of.iter().filter(|to| **to != from as u32).count();
            if worth <= 0.0 || others == 0 || others < of.len() && of.len() > DEFINED_MAX {
                continue;
            }
            let share = aside * worth * (*count as f32).sqrt() / others as f32;
            for (n, to) in of.iter().enumerate().filter(|(_, to)| **to != from as u32) {
                loans.push((from as u32, (first_place[*name as usize] + n) as u32, share));
                lent_by[from] += share;
                to_each[*to as usize] += share;
            }
        }
        for (_, place, _) in &loans[first..] {
            let to = file_of[*place as usize];
            let share = std::mem::take(&mut to_each[to as usize]);
            if share > 0.0 {
                between.push((from as u32, to, share));
            }
        }
    }
    let own: Vec<f32> = {
        let of =
            |path: &str| if is_asked(path) { ASKED } else { 1.0 } * if is_aside(path) { TEST } else { 1.0 };
        let own: Vec<f32> = files.iter().map(|(path, _)| of(path)).collect();
        let all: f32 = own.iter().sum();
        own.into_iter().map(|own| own / all.max(f32::MIN_POSITIVE)).collect()
    };
    let mut ranks = own.clone();
    for _ in 0..ROUNDS {
        let mut next: Vec<f32> = own.iter().map(|own| (1.0 - LENT) * own).collect();
        // Who lends to nobody gives it back to all.
        let idle: f32 =
            ranks.iter().zip(&lent_by).filter(|(_, lent)| **lent <= 0.0).map(|(rank, _)| rank).sum();
        next.iter_mut().zip(&own).for_each(|(next, own)| *next += LENT * idle * own);
        for (from, to, share) in &between {
            let from = *from as usize;
            next[*to as usize] += LENT * ranks[from] * share / lent_by[from];
        }
        ranks = next;
    }
    let place_of = |file: usize, definition: &Definition| {
        let name = definition.name as usize;
        let at = definers[name].binary_search(&(file as u32));
        first_place[name] + at.expect("a file that defines a name is among its definers")
    };
    let mut sharing: Vec<f32> = vec![0.0; file_of.len()];
    for (n, (_, file)) in files.iter().enumerate() {
        file.definitions.iter().for_each(|definition| sharing[place_of(n, definition)] += 1.0);
    }
    let mut lent: Vec<f32> = vec![0.0; file_of.len()];
    for (from, place, share) in loans {
        lent[place as usize] += ranks[from as usize] * share / lent_by[from as usize];
    }
    let mut weighed = Vec::new();
    for (n, (path, file)) in files.iter().enumerate() {
        for definition in &file.definitions {
            let place = place_of(n, definition);
            let shape = match definition.kind {
                Kind::Module | Kind::Constant => 0.3,
                Kind::Function | Kind::Method | Kind::Macro | Kind::Type => 1.0,
                Kind::Class | Kind::Struct | Kind::Enum | Kind::Trait => 1.5,
            };
            // What nobody uses is not nothing: a program's beginning is used by nobody.
            let base = ranks[n] * 0.02 / file.definitions.len() as f32;
            let asked =
                if is_asked(project.names.name(definition.name)) || is_asked(path) { ASKED } else { 1.0 };
            // Those of one name in one file share what was lent for it.
            let used = lent[place] / sharing[place];
            let weight = shape * openness(definition) * (used + base * asked);
            weighed.push(Weighed { file: n, definition, weight });
        }
    }
    weighed
}

/// How far a definition can be used from elsewhere.
fn openness(definition: &Definition) -> f32 {
    let known = if definition.public { 1.0 } else { PRIVATE };
    if definition.test { known * TEST } else { known }
}

/// A definition on a line: where it begins, as deep as it lies, and what it looks like.
pub(super) fn line_of(definition: &Definition) -> String {
    let mut signature: String = definition.signature.chars().take(SIGNATURE_CHARS).collect();
    if signature.len() < definition.signature.len() {
        signature.push_str(" ...");
    }
    let inside = definition.containers.len().min(6);
    format!("{:>6}: {}{signature}", definition.lines.0, "  ".repeat(inside))
}

/// Whether a file lies in a folder; the empty one holds all.
pub(super) fn is_below(path: &str, folder: &str) -> bool {
    folder.is_empty() || path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

/// The words of a text or a name, in lower case: whole, and its parts where it is camelCase or snake_case.
fn words(text: &str) -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    for name in text.split(|c: char| !c.is_alphanumeric() && c != '_') {
        let mut part = String::new();
        let mut lower_before = false;
        for c in name.chars() {
            if c == '_' || c.is_uppercase() && lower_before {
                words.insert(std::mem::take(&mut part));
            }
            lower_before = c.is_lowercase() || c.is_numeric();
            if c != '_' {
                part.extend(c.to_lowercase());
            }
        }
        words.insert(part);
        words.insert(name.to_lowercase());
    }
    words.retain(|word| word.len() >= WORD_BYTES_MIN);
    words
}
