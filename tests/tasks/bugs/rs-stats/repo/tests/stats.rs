use stats::{mean, median, range};

#[test]
fn means() {
    assert_eq!(mean(&[]), None);
    assert_eq!(mean(&[1.0, 2.0, 6.0]), Some(3.0));
}

#[test]
fn medians_of_odd_lists() {
    assert_eq!(median(&[5.0, 1.0, 3.0]), Some(3.0));
    assert_eq!(median(&[7.0]), Some(7.0));
}

#[test]
fn medians_of_even_lists() {
    assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
    assert_eq!(median(&[1.0, 9.0]), Some(5.0));
}

#[test]
fn ranges() {
    assert_eq!(range(&[3.0, -1.0, 2.0]), Some(4.0));
}
