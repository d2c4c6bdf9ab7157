//! The store against a plain map, with everything that can be done in any order, reboots included.

use std::collections::BTreeMap;
use std::fs;

use memory::{Error, Memory, NoteId, Seq};
use proptest::prelude::*;

use crate::notes::{note, query};
use crate::{open, records};

#[derive(Debug, Clone)]
enum Step {
    Append(u8, u8),
    Once(u8, u8),
    All(u8, Vec<u8>),
    Read(u8, u64, usize),
    Delete(u8),
    Remember(u8),
    Forget(usize),
    Recall(u8),
    Reboot,
    RebootWithoutIndex,
}

fn step() -> impl Strategy<Value = Step> {
    let journal = || 0..4u8;
    prop_oneof![
        6 => (journal(), any::<u8>()).prop_map(|(j, b)| Step::Append(j, b)),
        6 => (journal(), 0..12u8).prop_map(|(j, k)| Step::Once(j, k)),
        3 => (journal(), prop::collection::vec(any::<u8>(), 1..5)).prop_map(|(j, b)| Step::All(j, b)),
        4 => (journal(), 0..12u64, 0..8usize).prop_map(|(j, from, max)| Step::Read(j, from, max)),
        1 => journal().prop_map(Step::Delete),
        2 => (0..5u8).prop_map(Step::Remember),
        1 => any::<prop::sample::Index>().prop_map(|index| Step::Forget(index.index(40))),
        1 => (0..5u8).prop_map(Step::Recall),
        2 => Just(Step::Reboot),
        1 => Just(Step::RebootWithoutIndex),
    ]
}

/// Something that was said, which may be said again, by itself and as part of a conversation.
fn said(word: u8) -> memory::Note {
    let mut said = note(&format!("word{word}"));
    said.kind = memory::Kind::Episode;
    said.origin.journal = word.is_multiple_of(2).then(|| "talk".to_string());
    said
}

/// A journal's records, and which of them has which key.
type Kept = (Vec<Vec<u8>>, BTreeMap<u8, u64>);

/// What the store should be.
#[derive(Default)]
struct Model {
    journals: BTreeMap<u8, Kept>,
    notes: BTreeMap<u64, u8>,
    notes_last: u64,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_is_a_map_that_survives_reboots(steps in prop::collection::vec(step(), 1..50)) {
        // One model for all orders of doing things, since it is the orders nobody thought of that lose data.
        let dir = tempfile::tempdir().unwrap();
        let mut memory = open(dir.path());
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Reboot => {
                    drop(memory);
                    memory = open(dir.path());
                    prop_assert_eq!(memory.health().rebuilt, Vec::<String>::new());
                }
                Step::RebootWithoutIndex => {
                    drop(memory);
                    fs::remove_dir_all(dir.path().join("index")).unwrap();
                    memory = open(dir.path());
                }
                step => check(&memory, &mut model, &step)?,
            }
            prop_assert_eq!(memory.health().journals, model.journals.len());
            prop_assert_eq!(memory.health().notes, model.notes.len() as u64);
        }
        for (name, (expected, _)) in &model.journals {
            prop_assert_eq!(&records(&memory.journal(&format!("j{name}")).unwrap()), expected);
        }
    }
}

fn check(memory: &Memory, model: &mut Model, step: &Step) -> Result<(), TestCaseError> {
    let journal = |name: &u8| memory.journal(&format!("j{name}")).unwrap();
    match step {
        Step::Append(name, byte) => {
            let (expected, _) = model.journals.entry(*name).or_default();
            expected.push(vec![*byte; *byte as usize]);
            let seq = journal(name).append(&vec![*byte; *byte as usize]).unwrap();
            prop_assert_eq!(seq, Seq(expected.len() as u64));
        }
        Step::Once(name, key) => {
            let (expected, keys) = model.journals.entry(*name).or_default();
            let fresh = !keys.contains_key(key);
            if fresh {
                expected.push(vec![*key]);
                keys.insert(*key, expected.len() as u64);
            }
            let appended = journal(name).append_once(&key.to_string(), &[*key]).unwrap();
            prop_assert_eq!((appended.seq.0, appended.fresh), (keys[key], fresh));
            prop_assert_eq!(journal(name).find(&key.to_string()).unwrap(), Some(appended.seq));
        }
        Step::All(name, bytes) => {
            let (expected, _) = model.journals.entry(*name).or_default();
            let batch: Vec<&[u8]> = bytes.iter().map(std::slice::from_ref).collect();
            expected.extend(batch.iter().map(|record| record.to_vec()));
            prop_assert_eq!(journal(name).append_all(&batch).unwrap().0, expected.len() as u64);
        }
        Step::Read(name, from, max) => {
            let (expected, _) = model.journals.entry(*name).or_default();
            let page: Vec<Vec<u8>> =
                journal(name).read(Seq(*from), *max).unwrap().into_iter().map(|(_, r)| r).collect();
            let skip = from.saturating_sub(1) as usize;
            prop_assert_eq!(page, expected.iter().skip(skip).take(*max).cloned().collect::<Vec<_>>());
        }
        Step::Delete(name) => {
            let there = model.journals.remove(name).is_some();
            match memory.delete_journal(&format!("j{name}")) {
                Ok(()) => prop_assert!(there),
                Err(Error::NoJournal { .. }) => prop_assert!(!there),
                Err(other) => panic!("{other}"),
            }
        }
        Step::Remember(word) => {
            model.notes_last += 1;
            model.notes.insert(model.notes_last, *word);
            prop_assert_eq!(memory.remember(said(*word)).unwrap().0, model.notes_last);
        }
        Step::Forget(n) => {
            let id = *n as u64 % (model.notes_last + 1);
            prop_assert_eq!(
                memory.forget(NoteId(id), "proptest").unwrap(),
                model.notes.remove(&id).is_some()
            );
            prop_assert_eq!(memory.note(NoteId(id)).unwrap(), None);
        }
        Step::Recall(word) => {
            let query = query(&format!("word{word}"), 100);
            let mut found: Vec<u64> =
                memory.recall(&query).unwrap().into_iter().map(|hit| hit.id.0).collect();
            found.sort_unstable();
            let expected: Vec<u64> =
                model.notes.iter().filter(|(_, w)| *w == word).map(|(id, _)| *id).collect();
            // "word3" is cut into "word" and "3" as well, so others are found too; all of ours must be.
            prop_assert!(expected.iter().all(|id| found.contains(id)), "{:?} in {:?}", expected, found);
        }
        Step::Reboot | Step::RebootWithoutIndex => unreachable!("the caller reboots"),
    }
    Ok(())
}
