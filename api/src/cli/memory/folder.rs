//! What is remembered as a folder of Markdown files, one for each note, to be read, searched and kept in git.
//!
//! ```text
//! repository/saga/n12.md:   ---
//!                           kind: procedure
//!                           author: ada
//!                           trust: user_said
//!                           happened: 2026-11-29 11:35
//!                           about: test command
//!                           tags: tests, just
//!                           ---
//!                           Run the tests with `just test`.
//! ```

use std::fs;
use std::path::Path;

use memory::moment;

use crate::failure::Failure;
use crate::memories::{MemoryNote, NewMemory};

/// Writes notes below `dir`, each in a file of its own.
pub(super) fn write(dir: &Path, notes: &[MemoryNote]) -> Result<(), Failure> {
    for note in notes {
        let (sort, name) = note.scope.split_once(':').unwrap_or(("scope", &note.scope));
        let folder = dir.join(sort).join(file_name(name));
        fs::create_dir_all(&folder).map_err(|error| Failure::unwritable(&folder, &error))?;
        let file = folder.join(format!("n{}.md", note.id));
        let mut text = format!(
            "---\nscope: {}\nkind: {}\nauthor: {}\ntrust: {}\nhappened: {}\n",
            line(&note.scope),
            note.kind,
            line(&note.author),
            note.trust,
            moment(note.happened_ms)
        );
        if let Some(session) = &note.session {
            text += &format!("session: {}\n", line(session));
        }
        if let Some(about) = &note.about {
            text += &format!("about: {}\n", line(about));
        }
        if !note.tags.is_empty() {
            text += &format!("tags: {}\n", line(&note.tags.join(", ")));
        }
        text += &format!("---\n{}\n", note.text);
        fs::write(&file, text).map_err(|error| Failure::unwritable(&file, &error))?;
    }
    Ok(())
}

/// Reads the notes below `dir`, in the order of their paths.
pub(super) fn read(dir: &Path) -> Result<Vec<NewMemory>, Failure> {
    let unreadable = |path: &Path, error: &std::io::Error| {
        Failure::new(format!("{} cannot be read: {error}", path.display()))
    };
    let mut notes = Vec::new();
    let mut todo = vec![dir.to_path_buf()];
    let mut files = Vec::new();
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).map_err(|error| unreadable(&dir, &error))? {
            let path = entry.map_err(|error| unreadable(&dir, &error))?.path();
            match path.extension() {
                _ if path.is_dir() => todo.push(path),
                Some(extension) if extension == "md" => files.push(path),
                _ => {}
            }
        }
    }
    files.sort();
    for file in files {
        let text = fs::read_to_string(&file).map_err(|error| unreadable(&file, &error))?;
        let note =
            parse(&text).map_err(|why| Failure::new(format!("{} is no note: {why}", file.display())))?;
        notes.push(note);
    }
    Ok(notes)
}

fn parse(text: &str) -> Result<NewMemory, String> {
    let rest = text.strip_prefix("---\n").ok_or("it does not begin with a line of three dashes")?;
    let (head, body) =
        rest.split_once("\n---\n").ok_or("its head does not end with a line of three dashes")?;
    let mut note = NewMemory { text: body.trim_end().to_string(), ..NewMemory::default() };
    for line in head.lines() {
        let (key, value) = line.split_once(':').ok_or_else(|| format!("{line:?} is no `key: value`"))?;
        let value = value.trim().to_string();
        match key.trim() {
            "scope" => note.scope = value,
            "kind" => note.kind = Some(value),
            "author" => note.author = Some(value),
            "trust" => note.trust = Some(value),
            "happened" => note.happened = Some(value),
            "session" => note.session = Some(value),
            "about" => note.about = Some(value),
            "tags" => note.tags = value.split(',').map(|tag| tag.trim().to_string()).collect(),
            _ => {}
        }
    }
    if note.scope.is_empty() {
        return Err("it does not say its scope".into());
    }
    Ok(note)
}

/// A text on one line.
fn line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A name that a file may have on any system.
fn file_name(name: &str) -> String {
    let safe = |c: char| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    let name: String = name.chars().map(safe).take(80).collect();
    if name.trim_matches('.').is_empty() { "_".into() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_comes_back_from_its_file_as_it_was() {
        // What is edited by hand has to be understood, and what is not has to stay the same.
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let note: MemoryNote = serde_json::from_value(serde_json::json!({
            "id": 12, "kind": "procedure", "text": "Run the tests:\n---\n  just test\n", "scope": "repository:../a b/☃",
            "author": "ada\nlovelace", "trust": "user_said", "recorded_ms": 5, "happened_ms": 1_795_952_100_000_u64,
            "about": "test command", "tags": ["tests", "just"], "recalled": 0,
        }))
        .expect("this is a note");
        write(dir.path(), std::slice::from_ref(&note)).expect("there is room");
        let back = read(dir.path()).expect("it was just written");
        assert_eq!(back.len(), 1);
        let back = &back[0];
        assert_eq!((back.text.as_str(), back.scope.as_str()), (note.text.trim_end(), note.scope.as_str()));
        assert_eq!((back.about.as_deref(), back.tags.clone()), (Some("test command"), note.tags));
        assert_eq!(
            (back.author.as_deref(), back.happened.as_deref()),
            (Some("ada lovelace"), Some("2026-11-29 11:35"))
        );
        assert!(parse("just text").is_err() && parse("---\nkind: fact\n---\nx").is_err());
    }
}
