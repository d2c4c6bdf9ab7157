//! HTML as text: what a person would read of it, without what it looks like.
//!
//! No browser: nothing is run, laid out or repaired. One pass, no recursion, at most a few times as long as what came.

use std::borrow::Cow;

use url::Url;

/// The longest address of a link that is told; longer ones are for machines.
const LINK_CHARS_MAX: usize = 200;

/// Elements whose content is not the page's text.
const UNREAD: [&str; 7] = ["script", "style", "noscript", "template", "svg", "iframe", "object"];

/// Elements that stand on lines of their own; those of the second list with an empty line around them.
const LINES: [&str; 23] = [
    "address", "article", "aside", "body", "br", "button", "dd", "details", "div", "dt", "fieldset",
    "figure", "footer", "form", "header", "hr", "li", "main", "nav", "option", "section", "summary", "tr",
];
const BLOCKS: [&str; 13] =
    ["blockquote", "dl", "h1", "h2", "h3", "h4", "h5", "h6", "ol", "p", "pre", "table", "ul"];

/// The text of a page that was found at `base`.
pub(super) fn text(html: &str, base: &Url) -> String {
    let mut page = Page { text: String::with_capacity(html.len() / 4), ..Page::default() };
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        page.say(&entities(&rest[..at]));
        rest = &rest[at..];
        let Some((tag, after)) = Tag::read(rest) else {
            page.say("<");
            rest = &rest[1..];
            continue;
        };
        rest = after;
        let Tag::Named { name, ends, attributes } = tag else { continue };
        if !ends && UNREAD.contains(&name.as_str()) {
            rest = after_end_of(&name, rest);
        } else if !ends && name == "title" {
            let end = end_of("title", rest);
            let title = entities(&rest[..end]);
            if !title.trim().is_empty() {
                page.begin(2);
                page.say(&title);
                page.begin(2);
            }
            rest = after_end_of("title", rest);
        } else {
            page.meet(&name, ends, attributes, base);
        }
    }
    page.say(&entities(rest));
    page.text.trim().to_owned()
}

/// What stands between `<` and `>`.
enum Tag<'a> {
    Named {
        name: String,
        ends: bool,
        attributes: &'a str,
    },
    /// A comment or a declaration.
    Unsaid,
}

impl Tag<'_> {
    /// Reads a tag that `text` begins with, and what comes after it. Nothing when it is no tag.
    fn read(text: &str) -> Option<(Tag<'_>, &str)> {
        let inner = &text[1..];
        if let Some(comment) = inner.strip_prefix("!--") {
            let after = comment.find("-->").map_or("", |at| &comment[at + 3..]);
            return Some((Tag::Unsaid, after));
        }
        if inner.starts_with(['!', '?']) {
            let after = inner.find('>').map_or("", |at| &inner[at + 1..]);
            return Some((Tag::Unsaid, after));
        }
        let (ends, inner) = inner.strip_prefix('/').map_or((false, inner), |inner| (true, inner));
        if !inner.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return None;
        }
        let name_end = inner.find(|c: char| c.is_whitespace() || c == '>' || c == '/').unwrap_or(inner.len());
        let (name, attributes) = inner.split_at(name_end);
        // A `>` in quotes ends nothing.
        let mut quote = None;
        let end = attributes.bytes().position(|byte| match (quote, byte) {
            (None, b'>') => true,
            (None, b'"' | b'\'') => {
                quote = Some(byte);
                false
            }
            (Some(open), byte) if open == byte => {
                quote = None;
                false
            }
            (None | Some(_), _) => false,
        });
        let end = end.unwrap_or(attributes.len());
        let after = attributes.get(end + 1..).unwrap_or("");
        let name = name.to_ascii_lowercase();
        Some((Tag::Named { name, ends, attributes: &attributes[..end] }, after))
    }
}

/// The value of an attribute.
fn attribute<'a>(attributes: &'a str, name: &str) -> Option<Cow<'a, str>> {
    let mut rest = attributes;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == '/');
        if rest.is_empty() {
            return None;
        }
        let end = rest.find(|c: char| c.is_whitespace() || c == '=').unwrap_or(rest.len());
        let (key, after) = rest.split_at(end);
        let (value, after) = match after.trim_start().strip_prefix('=').map(str::trim_start) {
            None => ("", after),
            Some(value) => match value.chars().next() {
                Some(quote @ ('"' | '\'')) => {
                    let value = &value[1..];
                    value.split_once(quote).unwrap_or((value, ""))
                }
                Some(_) | None => {
                    let end = value.find(char::is_whitespace).unwrap_or(value.len());
                    value.split_at(end)
                }
            },
        };
        if key.eq_ignore_ascii_case(name) {
            return Some(entities(value));
        }
        // A lone `=` has no name: it is passed over, so that this ends.
        rest = if key.is_empty() && after.len() == rest.len() { &rest[1..] } else { after };
    }
}

/// Where `</name` stands; the end when it stands nowhere.
fn end_of(name: &str, text: &str) -> usize {
    let bytes = text.as_bytes();
    let is_end = |at: usize| {
        let after = &bytes[at + 2..];
        after.len() >= name.len() && after[..name.len()].eq_ignore_ascii_case(name.as_bytes())
    };
    text.match_indices("</").map(|(at, _)| at).find(|at| is_end(*at)).unwrap_or(text.len())
}

fn after_end_of<'a>(name: &str, text: &'a str) -> &'a str {
    let end = &text[end_of(name, text)..];
    end.find('>').map_or("", |at| &end[at + 1..])
}

/// The text as it grows.
#[derive(Default)]
struct Page {
    text: String,
    /// Whether a blank is due before the next letter.
    blank: bool,
    /// How many line ends are due before the next letter.
    lines: usize,
    /// How many elements deep blanks and lines are as they are written.
    exact: usize,
    /// The link that is open, and where its text begins.
    link: Option<(String, usize)>,
}

impl Page {
    fn say(&mut self, text: &str) {
        for c in text.chars() {
            if self.exact > 0 {
                self.settle();
                if c != '\r' {
                    self.text.push(c);
                }
            } else if c.is_whitespace() {
                self.blank = true;
            } else {
                self.settle();
                self.text.push(c);
            }
        }
    }

    /// Puts down the blank or the line ends that are due.
    fn settle(&mut self) {
        if self.lines > 0 {
            let there = self.text.chars().rev().take_while(|c| *c == '\n').count();
            if !self.text.is_empty() {
                (there..self.lines).for_each(|_| self.text.push('\n'));
            }
        } else if self.blank && !self.text.is_empty() && !self.text.ends_with([' ', '\n']) {
            self.text.push(' ');
        }
        (self.blank, self.lines) = (false, 0);
    }

    /// The next letter stands after so many line ends.
    fn begin(&mut self, lines: usize) {
        self.lines = self.lines.max(lines);
    }

    fn meet(&mut self, name: &str, ends: bool, attributes: &str, base: &Url) {
        if LINES.contains(&name) {
            self.begin(1);
        } else if BLOCKS.contains(&name) {
            self.begin(2);
        }
        match (name, ends) {
            ("h1" | "h2" | "h3" | "h4" | "h5" | "h6", false) => {
                let level = usize::from(name.as_bytes()[1] - b'0');
                self.say(&"#".repeat(level));
                self.blank = true;
            }
            ("li", false) => {
                self.say("-");
                self.blank = true;
            }
            ("td" | "th", false) if self.lines == 0 => {
                self.blank = true;
                self.say("|");
                self.blank = true;
            }
            ("pre", false) => {
                self.settle();
                self.exact += 1;
            }
            ("pre", true) => self.exact = self.exact.saturating_sub(1),
            ("img", false) => {
                if let Some(alt) = attribute(attributes, "alt").filter(|alt| !alt.trim().is_empty()) {
                    self.say(&format!("[image: {}]", alt.trim()));
                }
            }
            ("a", false) => {
                let link = attribute(attributes, "href").and_then(|href| told(&href, base));
                self.link = link.map(|link| (link, self.text.len()));
            }
            ("a", true) => {
                if let Some((link, from)) = self.link.take()
                    && self.text[from..].chars().any(char::is_alphanumeric)
                {
                    self.text.push_str(&format!(" ({link})"));
                }
            }
            _ => {}
        }
    }
}

/// A link's address in full, if it leads to another page.
fn told(href: &str, base: &Url) -> Option<String> {
    if href.trim().is_empty() || href.trim_start().starts_with('#') {
        return None;
    }
    let link = base.join(href.trim()).ok()?;
    let link = matches!(link.scheme(), "http" | "https").then(|| String::from(link))?;
    (link.len() <= LINK_CHARS_MAX).then_some(link)
}

/// The names of letters that pages use.
const NAMES: [(&str, &str); 32] = [
    ("amp", "&"),
    ("lt", "<"),
    ("gt", ">"),
    ("quot", "\""),
    ("apos", "'"),
    ("nbsp", " "),
    ("copy", "©"),
    ("reg", "®"),
    ("trade", "™"),
    ("hellip", "…"),
    ("mdash", "—"),
    ("ndash", "–"),
    ("lsquo", "‘"),
    ("rsquo", "’"),
    ("ldquo", "“"),
    ("rdquo", "”"),
    ("laquo", "«"),
    ("raquo", "»"),
    ("bull", "•"),
    ("middot", "·"),
    ("times", "×"),
    ("deg", "°"),
    ("para", "¶"),
    ("sect", "§"),
    ("larr", "←"),
    ("rarr", "→"),
    ("euro", "€"),
    ("pound", "£"),
    ("auml", "ä"),
    ("ouml", "ö"),
    ("uuml", "ü"),
    ("szlig", "ß"),
];

/// Longer names are none.
const NAME_BYTES_MAX: usize = 10;

/// `&amp;`, `&#228;` and `&#xe4;` as the letters they stand for; what stands for none stays.
fn entities(text: &str) -> Cow<'_, str> {
    if !text.contains('&') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let end = rest.bytes().take(NAME_BYTES_MAX).position(|byte| byte == b';');
        match end.and_then(|end| letter(&rest[..end]).map(|letter| (letter, end))) {
            Some((letter, end)) => {
                out.push_str(&letter);
                rest = &rest[end + 1..];
            }
            None => out.push('&'),
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

fn letter(name: &str) -> Option<String> {
    if let Some(number) = name.strip_prefix('#') {
        let code = match number.strip_prefix(['x', 'X']) {
            Some(hex) => u32::from_str_radix(hex, 16),
            None => number.parse(),
        };
        return char::from_u32(code.ok()?).map(String::from);
    }
    NAMES.iter().find(|(known, _)| *known == name).map(|(_, letter)| (*letter).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(html: &str, expected: &str) {
        assert_eq!(text(html, &Url::parse("https://a.test/x/y").unwrap()), expected, "{html}");
    }

    #[test]
    fn a_page_reads_as_a_person_reads_it() {
        check(
            "<!doctype html><html><head><title>A &amp; B</title><style>p{}</style><script>if (a<b) x()</script></head>\
             <body><h1>Head</h1><p>One\n  <b>two</b>,<br>three &lt;4&gt; &#228;&#xe4;</p><ul><li>x<li>y</ul>\
             <table><tr><th>k<th>v</tr><tr><td>1</td><td>2</td></tr></table><pre>a\n  b</pre>end</body></html>",
            "A & B\n\n# Head\n\nOne two,\nthree <4> ää\n\n- x\n- y\n\nk | v\n1 | 2\n\na\n  b\n\nend",
        );
        check(
            r##"<a href="../z?a=1&amp;b=2">Link</a>, <a href="#top">top</a>, <a href='javascript:x()'>js</a> <a href=/q>q</a>"##,
            "Link (https://a.test/z?a=1&b=2), top, js q (https://a.test/q)",
        );
        check(r#"<img alt="A cat" src=x> a <!-- no --> b <?php no ?> c"#, "[image: A cat] a b c");
    }

    #[test]
    fn what_is_broken_or_hostile_ends_all_the_same() {
        check("1 < 2 and <3> </ x", "1 < 2 and <3> </ x");
        check("a<script>never ends", "a");
        check("a<!-- never ends", "a");
        check("a<p title='never ends", "a");
        check("&unknown; &#xd800; &#99999999; & &amp", "&unknown; &#xd800; &#99999999; & &amp");
        check("<SCRIPT>x</sCript >y<a href>z</a><a = b>w</a>", "yzw");
        check("<p title='a>b'>c</p></p></pre><pre><pre>x", "c\n\nx");
        // As many tags as fit into a large page must not take long.
        let began = std::time::Instant::now();
        for piece in
            ["<", "<a ", "<!--", "<script>", "</", "&", "<div>", "<a href=x>", "<title>", "<pre>", "<b \""]
        {
            text(&piece.repeat(50_000), &Url::parse("https://a.test/").unwrap());
        }
        assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
    }
}
