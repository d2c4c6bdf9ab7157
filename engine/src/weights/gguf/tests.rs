//! Files written byte by byte, because no writer makes all of these.

use std::path::Path;

use super::*;
use crate::testing::TinyModel;
use crate::{Engine, Options};

/// A file with one metadata entry for the family, more as given (their number and their bytes), and tensors: name,
/// shape with the innermost dimension first, type, bytes.
fn file(entries: (u64, &[u8]), tensors: &[(&str, &[u64], u32, &[u8])]) -> Result<Gguf, Error> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    let text = |bytes: &mut Vec<u8>, text: &str| {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.as_bytes());
    };
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((1 + entries.0).to_le_bytes());
    text(&mut bytes, "general.architecture");
    bytes.extend(8_u32.to_le_bytes());
    text(&mut bytes, "tiny");
    bytes.extend(entries.1);
    let mut data = Vec::new();
    for (name, shape, number, content) in tensors {
        text(&mut bytes, name);
        bytes.extend((shape.len() as u32).to_le_bytes());
        bytes.extend(shape.iter().flat_map(|n| n.to_le_bytes()));
        bytes.extend(number.to_le_bytes());
        bytes.extend((data.len() as u64).to_le_bytes());
        data.extend(*content);
        data.resize(data.len().next_multiple_of(32), 0);
    }
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    bytes.extend(data);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    std::fs::write(&path, bytes).unwrap();
    Gguf::open(&path, |_| Ok(()))
}

/// A metadata entry: a key, a type and a value's bytes.
fn entry(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&(key.len() as u64).to_le_bytes(), key.as_bytes(), &kind.to_le_bytes(), value].concat()
}

fn why<T>(result: Result<T, Error>) -> String {
    match result {
        Ok(_) => panic!("this must be refused"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn whole_numbers_are_read_and_told_from_weights() {
    let numbers: Vec<u8> =
        [1_i32, -2, 70_000, 4, 5, i32::MIN].into_iter().flat_map(i32::to_le_bytes).collect();
    let file = file((0, &[]), &[("ids", &[3, 2], 26, &numbers), ("w", &[2, 3], 0, &[0; 24])]).unwrap();
    assert_eq!(file.integers("ids", &[2, 3]).unwrap(), [1, -2, 70_000, 4, 5, i32::MIN]);
    assert!(why(file.integers("ids", &[3, 2])).contains("[2, 3]"));
    assert!(why(file.integers("w", &[3, 2])).contains("F32"));
    assert!(why(file.matrix("ids", 2, 3)).contains("whole numbers"));
    assert!(why(file.integers("none", &[1])).contains("missing"));
    assert_eq!((file.parameters(), file.quantisation()), (6, "F32"));
}

#[test]
fn stacked_experts_are_matrices_one_after_another() {
    let values: Vec<f32> = (0..24_u8).map(f32::from).collect();
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    let file = file((0, &[]), &[("w", &[4, 2, 3], 0, &bytes)]).unwrap();
    let matrices = file.matrices("w", 3, 2, 4).unwrap();
    assert_eq!(matrices.len(), 3);
    for (matrix, expected) in matrices.iter().zip(values.chunks_exact(8)) {
        let mut found = [0.0; 8];
        matrix.dequantise(0..2, &mut found);
        assert_eq!(found, expected);
    }
    assert!(why(file.matrices("w", 2, 3, 4)).contains("[3, 2, 4]"));
    assert_eq!(file.floats("w", &[3, 2, 4]).unwrap(), values);
}

#[test]
fn every_type_of_value_is_read() {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let list = |kind: u32, count: u64, values: &[u8]| {
        [&kind.to_le_bytes()[..], &count.to_le_bytes(), values].concat()
    };
    let entries = [
        entry("u8", 0, &[200]),
        entry("i8", 1, &[200]),
        entry("u16", 2, &[1, 2]),
        entry("i16", 3, &[254, 255]),
        entry("u32", 4, &[1, 0, 0, 128]),
        entry("i32", 5, &[255; 4]),
        entry("f32", 6, &1.5_f32.to_le_bytes()),
        entry("bool", 7, &[1]),
        entry("text", 8, &text("after a zero\0\0")),
        entry("list", 9, &list(8, 2, &[text("a"), text("")].concat())),
        entry("lists", 9, &list(9, 2, &[list(2, 1, &[7, 0]), list(0, 0, &[])].concat())),
        entry("u64", 10, &[255; 8]),
        entry("i64", 11, &[255; 8]),
        entry("f64", 12, &0.1_f64.to_le_bytes()),
    ];
    let file = file((entries.len() as u64, &entries.concat()), &[]).unwrap();
    let shown = |key: &str| format!("{:?}", file.metadata()[key]);
    let expected = [
        ("u8", "U8(200)"),
        ("i8", "I8(-56)"),
        ("u16", "U16(513)"),
        ("i16", "I16(-2)"),
        ("u32", "U32(2147483649)"),
        ("i32", "I32(-1)"),
        ("f32", "F32(1.5)"),
        ("bool", "Bool(true)"),
        ("text", "String(\"after a zero\")"),
        ("list", "Array([String(\"a\"), String(\"\")])"),
        ("lists", "Array([Array([U16(7)]), Array([])])"),
        ("u64", "U64(18446744073709551615)"),
        ("i64", "I64(-1)"),
        ("f64", "F64(0.1)"),
    ];
    for (key, value) in expected {
        assert_eq!(shown(key), value);
    }
}

#[test]
fn what_no_honest_file_has_is_refused() {
    let refusal = |entry: Vec<u8>| why(file((1, &entry), &[]));
    assert!(refusal(entry("x", 7, &[2])).contains("neither true nor false"));
    assert!(refusal(entry("x", 13, &[0])).contains("unknown value type 13"));
    let endless = [&0_u32.to_le_bytes()[..], &u64::MAX.to_le_bytes()].concat();
    assert!(refusal(entry("x", 9, &endless)).contains("too many values"));
    let nested = [&9_u32.to_le_bytes()[..], &1_u64.to_le_bytes()].concat().repeat(9);
    assert!(refusal(entry("x", 9, &nested)).contains("too many values"));
    for alignment in [0_u32, 24, 1 << 21] {
        let entry = entry("general.alignment", 4, &alignment.to_le_bytes());
        assert!(refusal(entry).contains("power of two"));
    }
    let twice = [("w", &[1_u64][..], 0, &[0; 4][..]), ("w", &[1], 0, &[0; 4])];
    assert!(why(file((0, &[]), &twice)).contains("same name"));
    assert!(why(file((0, &[]), &[("w", &[1], 99, &[0; 4])])).contains("type 99"));
    assert!(why(file((0, &[]), &[("w", &[33], 39, &[0; 17])])).contains("MXFP4"));
    assert!(why(file((0, &[]), &[("w", &[u64::MAX, 2], 0, &[])])).contains("too large"));
    assert!(why(file((0, &[]), &[("w", &[64], 0, &[0; 32])])).contains("224 bytes more"));
}

#[test]
fn tensors_begin_where_the_alignment_says() {
    // 64 bytes: the data of a file that is aligned by 32 would begin earlier.
    let entries = entry("general.alignment", 4, &64_u32.to_le_bytes());
    let aligned = |entries: (u64, &[u8])| {
        let file = file(entries, &[("w", &[16], 0, &[1; 96])]).unwrap();
        (file.tensors["w"].start, file.floats("w", &[16]).unwrap()[0])
    };
    let one = f32::from_le_bytes([1; 4]);
    assert_eq!(aligned((0, &[])), (128, one));
    assert_eq!(aligned((1, &entries)).0 % 64, 0);
}

/// The logits of a few tokens, to the bit.
fn logits(path: &Path, expert_bytes: Option<u64>) -> Vec<u32> {
    let options = Options { threads: 1, expert_bytes, ..Options::default() };
    let engine = Engine::open(path, options, &mut |_| {}).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut line = engine.timeline();
        line.sync(&[1, 2, 3, 200, 5], |_| {}).await.unwrap();
        line.logits().await.unwrap().iter().map(|x| x.to_bits()).collect()
    })
}

#[test]
fn a_model_in_parts_is_the_model() {
    // Most large files are split. Any part may be named; experts may stay on disk in all of them.
    let folder = tempfile::tempdir().unwrap();
    let model = TinyModel::new("deepseek2");
    let whole = folder.path().join("whole.gguf");
    model.write(&whole);
    let expected = logits(&whole, None);
    for count in [2, 3, 7] {
        let parts = model.write_parts(folder.path(), count);
        for named in [&parts[0], &parts[count - 1]] {
            assert_eq!(logits(named, None), expected, "{}", named.display());
        }
        assert_eq!(logits(&parts[0], Some(200_000)), expected);
        let [gguf, one] = [&parts[0], &whole].map(|path| Gguf::open(path, |_| Ok(())).unwrap());
        assert_eq!((gguf.parameters(), gguf.names()), (one.parameters(), one.names()));
        assert_eq!(gguf.maps().len(), count);
        let bytes = parts.iter().map(|part| std::fs::metadata(part).unwrap().len()).sum::<u64>();
        assert_eq!(gguf.file_bytes(), bytes);
    }
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    // Whoever fetches files one by one misses one, or takes it from another model.
    let folder = tempfile::tempdir().unwrap();
    let model = TinyModel::new("qwen2");
    let parts = model.write_parts(folder.path(), 3);
    let read = |i: usize| std::fs::read(&parts[i]).unwrap();
    let open = |path: &Path| why(Gguf::open(path, |_| Ok(())));
    let kept = [0, 1, 2].map(read);
    let put_back = || parts.iter().zip(&kept).for_each(|(path, bytes)| std::fs::write(path, bytes).unwrap());

    std::fs::remove_file(&parts[1]).unwrap();
    assert!(open(&parts[0]).contains("tiny-00002-of-00003.gguf cannot be used: it is part 2 of the 3"));
    std::fs::copy(&parts[2], &parts[1]).unwrap();
    assert!(open(&parts[0]).contains("is not that of part 2 of 3"), "{}", open(&parts[0]));
    put_back();
    model.write(&parts[1]);
    assert!(open(&parts[0]).contains("is not that of part 2 of 3"));
    put_back();
    let other = tempfile::tempdir().unwrap();
    let others = TinyModel { layers: 3, ..model.clone() }.write_parts(other.path(), 3);
    std::fs::copy(&others[1], &parts[1]).unwrap();
    let said = open(&parts[0]);
    assert!(said.contains("tensors together and should have") || said.contains("same name"), "{said}");
    put_back();
    std::fs::write(&parts[2], &kept[2][..kept[2].len() - 1000]).unwrap();
    assert!(open(&parts[0]).contains("00003-of-00003.gguf is cut short"), "{}", open(&parts[0]));
    put_back();

    let renamed = folder.path().join("mine.gguf");
    std::fs::copy(&parts[1], &renamed).unwrap();
    assert!(open(&renamed).contains("call it something-00002-of-00003.gguf"), "{}", open(&renamed));

    // What no honest part says.
    let number = |key: &str, value: u64| entry(key, 10, &value.to_le_bytes());
    let refusal = |entries: &[Vec<u8>]| why(file((entries.len() as u64, &entries.concat()), &[]));
    assert!(refusal(&[number("split.count", 3)]).contains("does not say which"));
    assert!(refusal(&[number("split.count", 3), number("split.no", 3)]).contains("part 4 of 3"));
    assert!(refusal(&[number("split.count", 1 << 40), number("split.no", 0)]).contains("part 1 of"));
    assert!(refusal(&[entry("split.count", 6, &[0; 4])]).contains("no whole number"));
    // A file that was put together again says that it is in no parts.
    assert!(file((1, &number("split.count", 0)), &[]).is_ok());
}
