//! What a server says when it turns a request away for want of a login: the header `WWW-Authenticate` (RFC 9110, 6750, 9728).

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;

/// The most of a header that is looked at. Bytes.
const HEADER_BYTES_MAX: usize = 8 << 10;

/// What is said for bearers of tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Challenge {
    /// Where it is told what the server is and where it lets clients log in.
    pub(crate) metadata: Option<String>,
    /// What a token should be good for.
    pub(crate) scopes: Vec<String>,
    /// What is wrong with the token that was sent.
    pub(crate) error: Option<String>,
}

impl Challenge {
    /// Reads it. A server that says nothing for bearers has said nothing.
    pub(crate) fn of(headers: &HeaderMap) -> Challenge {
        let values = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        values.filter(|value| value.len() <= HEADER_BYTES_MAX).find_map(read).unwrap_or_default()
    }

    /// Whether the token is good but not for this.
    pub(crate) fn wants_more(&self) -> bool {
        self.error.as_deref() == Some("insufficient_scope")
    }
}

/// Scopes as they are written in one string.
pub(crate) fn scopes(text: &str) -> Vec<String> {
    text.split_ascii_whitespace().map(str::to_owned).collect()
}

/// The challenge for bearers among those in one value: `Basic realm="a", Bearer scope="b c", error=d`.
fn read(value: &str) -> Option<Challenge> {
    let mut found = None;
    let mut rest = value;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let word = &rest[..rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len())];
        if word.is_empty() {
            return found;
        }
        let after = rest[word.len()..].trim_start_matches([' ', '\t']);
        // A parameter is followed by `=`. What is not begins another challenge; a padded token of one is passed over.
        let Some(given) = after.strip_prefix('=').filter(|given| !given.starts_with('=')) else {
            if found.is_some() {
                return found;
            }
            found = word.eq_ignore_ascii_case("bearer").then(Challenge::default);
            rest = after.trim_start_matches('=');
            continue;
        };
        let (text, more) = parameter(given.trim_start_matches([' ', '\t']));
        rest = more;
        if let Some(challenge) = &mut found {
            match word.to_ascii_lowercase().as_str() {
                "resource_metadata" => challenge.metadata = Some(text),
                "scope" => challenge.scopes = scopes(&text),
                "error" => challenge.error = Some(text),
                _ => {}
            }
        }
    }
}

/// The value of a parameter, quoted or not, and what comes after it.
fn parameter(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let (mut value, mut escaped) = (String::new(), false);
    for (at, c) in quoted.char_indices() {
        match c {
            _ if escaped => {
                value.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return (value, &quoted[at + 1..]),
            _ => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(values: &[&'static str], metadata: Option<&str>, scopes: &[&str], error: Option<&str>) {
        let mut headers = HeaderMap::new();
        values.iter().for_each(|value| {
            headers.append(WWW_AUTHENTICATE, http::HeaderValue::from_static(value));
        });
        let expected = Challenge {
            metadata: metadata.map(str::to_owned),
            scopes: scopes.iter().map(|&scope| scope.to_owned()).collect(),
            error: error.map(str::to_owned),
        };
        assert_eq!(Challenge::of(&headers), expected, "{values:?}");
    }

    #[test]
    fn what_is_said_for_bearers_is_found_among_what_else_is_said() {
        // Servers write this header in every way that its grammar has, and some more.
        check(&[], None, &[], None);
        check(&["Bearer"], None, &[], None);
        check(&[r#"Basic realm="scope=x, Bearer""#], None, &[], None);
        check(
            &[
                r#"Bearer error="invalid_token", error_description="a, \"b\"", resource_metadata="https://a.test/x?y=z,w""#,
            ],
            Some("https://a.test/x?y=z,w"),
            &[],
            Some("invalid_token"),
        );
        check(
            &[r#"Basic realm="a", bearer scope = "x  y" , error=insufficient_scope, Digest scope="z""#],
            None,
            &["x", "y"],
            Some("insufficient_scope"),
        );
        check(&["Negotiate YWJj==", r#"BEARER Scope="x""#], None, &["x"], None);
        check(&[r#"Negotiate YWJj==, Bearer scope="x""#], None, &["x"], None);
        check(&[r#"Bearer scope="x"#], None, &["x"], None);
        check(&["Bearer ,,, =,\t=="], None, &[], None);
    }
}
