use tokens::{tokens, Token};

#[test]
fn single_digits() {
    assert_eq!(tokens("1 + 2"), Ok(vec![Token::Number(1), Token::Operator('+'), Token::Number(2)]));
}

#[test]
fn long_numbers() {
    assert_eq!(tokens("12"), Ok(vec![Token::Number(12)]));
    assert_eq!(tokens("4096"), Ok(vec![Token::Number(4096)]));
    assert_eq!(
        tokens("(100*250)"),
        Ok(vec![Token::Open, Token::Number(100), Token::Operator('*'), Token::Number(250), Token::Close])
    );
}

#[test]
fn strangers() {
    assert_eq!(tokens("1 & 2"), Err('&'));
}
