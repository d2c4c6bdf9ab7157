use words::{count, most_common, words};

#[test]
fn punctuation_is_no_word() {
    assert_eq!(words("Yes, no - maybe.").collect::<Vec<_>>(), ["Yes", "no", "maybe"]);
}

#[test]
fn case_does_not_matter() {
    let counts = count("The cat and the dog and THE bird");
    assert_eq!(counts["the"], 3);
    assert_eq!(counts["and"], 2);
    assert!(!counts.contains_key("The"));
}

#[test]
fn the_most_common() {
    assert_eq!(most_common("Go went, go came, Went go"), Some("go".to_string()));
    assert_eq!(most_common(""), None);
}
