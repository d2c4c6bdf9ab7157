//! Cuts an arithmetic expression into tokens.

/// A piece of an expression.
#[derive(Debug, Clone, PartialEq)]
pub enum Token {
    Number(u64),
    Operator(char),
    Open,
    Close,
}

/// Cuts `text` into tokens, or names the character that belongs to none.
pub fn tokens(text: &str) -> Result<Vec<Token>, char> {
    let mut tokens = Vec::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            ' ' => {}
            '(' => tokens.push(Token::Open),
            ')' => tokens.push(Token::Close),
            '+' | '-' | '*' | '/' => tokens.push(Token::Operator(c)),
            '0'..='9' => {
                let mut number = u64::from(c as u8 - b'0');
                while let Some(digit) = rest.peek().and_then(|next| next.to_digit(10)) {
                    number = 10 * number + u64::from(digit);
                    rest.next();
                }
                tokens.push(Token::Number(number));
            }
            other => return Err(other),
        }
    }
    Ok(tokens)
}
