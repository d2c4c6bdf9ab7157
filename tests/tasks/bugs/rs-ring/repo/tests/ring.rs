use ring::Ring;

#[test]
fn first_in_first_out() {
    let mut ring = Ring::new(3);
    assert!(ring.is_empty());
    ring.push(1).unwrap();
    ring.push(2).unwrap();
    assert_eq!(ring.pop(), Some(1));
    assert_eq!(ring.len(), 1);
}

#[test]
fn full() {
    let mut ring = Ring::new(1);
    ring.push('a').unwrap();
    assert_eq!(ring.push('b'), Err('b'));
}

#[test]
fn goes_round() {
    let mut ring = Ring::new(3);
    let mut expected = 0;
    for value in 0..20 {
        ring.push(value).unwrap();
        if ring.len() == 2 {
            assert_eq!(ring.pop(), Some(expected));
            expected += 1;
        }
    }
    assert_eq!(ring.pop(), Some(19));
    assert_eq!(ring.pop(), None);
}
