use expect_test::{Expect, expect};

use super::*;

/// The definitions of a text: kind, where it lies, name, lines, and what is said of it.
fn check(language: Language, text: &str, expect: Expect) {
    let outline = outline(language, text);
    let mut shown = String::new();
    if !outline.doc.is_empty() {
        shown += &format!("# {}\n", outline.doc.replace('\n', " | "));
    }
    for symbol in &outline.symbols {
        let name = [symbol.containers.clone(), vec![symbol.name.clone()]].concat().join("/");
        let (first, last) = symbol.lines;
        let mut marks = String::new();
        marks += if symbol.public { " +" } else { "" };
        marks += if symbol.test { " test" } else { "" };
        marks += &symbol.implements.as_ref().map_or(String::new(), |of| format!(" for {of}"));
        shown += &format!("{} {name} {first}-{last}{marks} `{}`", symbol.kind.name(), symbol.signature);
        if !symbol.doc.is_empty() {
            shown += &format!(" “{}”", symbol.doc.replace('\n', " | "));
        }
        shown.push('\n');
    }
    if !outline.whole {
        shown += "not whole\n";
    }
    expect.assert_eq(&shown);
}

#[test]
fn rust_is_outlined() {
    let text = r#"//! Lakes.

use std::fmt;

/// A lake.
///
/// With water.
#[derive(Debug)]
pub struct Lake<T> {
    deep: T, // metres
}

impl<T> Lake<T> {
    // Not documentation.
    #[doc = "How deep."]
    pub fn depth(&self) -> &T {
        &self.deep
    }
}

impl<T> fmt::Display for Lake<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn inner() {}
        Ok(())
    }
}

pub trait Wet {
    /// Whether it is.
    fn is_wet(&self) -> bool;
}

cfg_lake! {
    /// Fills it.
    pub async fn fill(
        lake: &mut Lake<u8>,
    ) {
    }
}

pub const DEEPEST: u32 = 1642;

#[cfg(test)]
mod tests {
    #[test]
    fn it_is_wet() {}
}
"#;
    check(
        Language::Rust,
        text,
        expect![[r#"
        # Lakes.
        struct Lake 5-11 + `pub struct Lake<T>` “A lake. |  | With water.”
        method Lake/depth 14-18 + `pub fn depth(&self) -> &T` “How deep.”
        method Lake/fmt 22-25 + for Display `fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result`
        function Lake/fmt/inner 23-23 `fn inner()`
        trait Wet 28-31 + `pub trait Wet`
        method Wet/is_wet 29-30 + `fn is_wet(&self) -> bool` “Whether it is.”
        function fill 34-38 + `pub async fn fill( lake: &mut Lake<u8>, )` “Fills it.”
        constant DEEPEST 41-41 + `pub const DEEPEST: u32 = 1642`
        module tests 43-47 test `mod tests`
        function tests/it_is_wet 45-46 test `fn it_is_wet()`
    "#]],
    );
}

#[test]
fn python_is_outlined() {
    let text = r#""""Lakes."""
import os

# Not documentation.
class Lake(Water):
    """A lake.

    With water.
    """

    @property
    def depth(self) -> float:
        "How deep."
        return self._depth

    def _fill(self):
        def pour():
            pass

async def main():
    '''Runs it.'''

def test_depth():
    assert Lake().depth
"#;
    check(
        Language::Python,
        text,
        expect![[r#"
        # Lakes.
        class Lake 4-18 + `class Lake(Water)` “A lake. |  | With water.”
        method Lake/depth 11-14 + `def depth(self) -> float` “How deep.”
        method Lake/_fill 16-18 `def _fill(self)`
        function Lake/_fill/pour 17-18 + `def pour()`
        function main 20-21 + `async def main()` “Runs it.”
        function test_depth 23-24 + test `def test_depth()`
    "#]],
    );
}

#[test]
fn javascript_and_typescript_are_outlined() {
    let text = r#"/** Lakes. */

import x from 'y';

/**
 * A lake.
 */
export default class Lake {
  #deep = 3;
  /** How deep. */
  get depth() { return this.#deep; }
  fill = async (water) => { this.#deep += water; };
}

// Runs it.
export const main = () => new Lake();
function* all() { yield 1 }
"#;
    check(
        Language::JavaScript,
        text,
        expect![[r#"
            # Lakes.
            class Lake 5-13 + `class Lake` “A lake.”
            method Lake/depth 10-11 + `get depth()` “How deep.”
            method Lake/fill 12-12 + `fill = async (water) =>`
            function main 15-16 + `main = () =>` “Runs it.”
            function all 17-17 `function* all()`
        "#]],
    );
    let text = r#"/** What is wet. */
export interface Wet<T> {
  /** Whether it is. */
  isWet(of: T): boolean;
}
export type Lakes = Map<string, Wet<number>>;
export enum Size { Small, Large }
namespace inner {
  export abstract class Lake implements Wet<number> {
    private deep(): number { return 1; }
    abstract isWet(of: number): boolean;
  }
}
declare function outer(x: number): void;
"#;
    check(
        Language::TypeScript,
        text,
        expect![[r#"
        trait Wet 1-5 + `interface Wet<T>` “What is wet.”
        method Wet/isWet 3-4 + `isWet(of: T): boolean` “Whether it is.”
        type Lakes 6-6 + `type Lakes = Map<string, Wet<number>>`
        enum Size 7-7 + `enum Size`
        module inner 8-13 `namespace inner`
        class inner/Lake 9-12 + `abstract class Lake implements Wet<number>`
        method inner/Lake/deep 10-10 `private deep(): number`
        method inner/Lake/isWet 11-11 + `abstract isWet(of: number): boolean`
        function outer 14-14 `function outer(x: number): void`
    "#]],
    );
    check(
        Language::Tsx,
        "/** Shows it. */\nexport const Lake = (p: Props) => <div>{p.name}</div>;\n",
        expect![[r#"
        function Lake 1-2 + `Lake = (p: Props) =>` “Shows it.”
    "#]],
    );
}

#[test]
fn go_and_java_are_outlined() {
    let text = r#"// Package lake has lakes.
package lake

// Lake is a lake.
type Lake struct {
	deep float64
}

type (
	// Wet is what is wet.
	Wet interface {
		// IsWet says whether it is.
		IsWet() bool
	}
)

// Depth says how deep.
func (l *Lake) Depth() float64 { return l.deep }

const Deepest = 1642

func fill[T any](l *List[T]) error {
	return nil
}
"#;
    check(
        Language::Go,
        text,
        expect![[r#"
            # Package lake has lakes.
            struct Lake 4-7 + `Lake` “Lake is a lake.”
            trait Wet 9-14 + `Wet` “Wet is what is wet.”
            method Wet/IsWet 12-13 + `IsWet() bool` “IsWet says whether it is.”
            method Lake/Depth 17-18 + `func (l *Lake) Depth() float64` “Depth says how deep.”
            constant Deepest 20-20 + `Deepest = 1642`
            function fill 22-24 `func fill[T any](l *List[T]) error`
        "#]],
    );
    let text = r#"package lake;

/** A lake. */
@Deprecated
public class Lake<T> extends Water {
    private final double deep;

    public Lake(double deep) { this.deep = deep; }

    /**
     * How deep.
     * @return metres
     */
    @Override
    public double depth() { return deep; }

    interface Wet { boolean isWet(); }
    enum Size { SMALL; int area() { return 1; } }
    record Pair(int a, int b) {}
}
"#;
    check(
        Language::Java,
        text,
        expect![[r#"
        class Lake 3-20 + `@Deprecated public class Lake<T> extends Water` “A lake.”
        method Lake/Lake 8-8 + `public Lake(double deep)`
        method Lake/depth 10-15 + `@Override public double depth()` “How deep. | @return metres”
        trait Lake/Wet 17-17 `interface Wet`
        method Lake/Wet/isWet 17-17 `boolean isWet()`
        enum Lake/Size 18-18 `enum Size`
        method Lake/Size/area 18-18 `int area()`
        class Lake/Pair 19-19 `record Pair(int a, int b)`
    "#]],
    );
}

#[test]
fn c_and_cpp_are_outlined() {
    let text = r#"/* Lakes. */

#include <stdio.h>
#define WIDE(x) ((x) > 10)

/* A lake. */
struct lake {
    double deep;
    int (*hook)(void);
};
typedef unsigned long metres;

// How deep.
static double *depth(const struct lake *lake) {
    return &lake->deep;
}
int fill(struct lake *, int);
int counter = 3;
"#;
    check(
        Language::C,
        text,
        expect![[r#"
            # Lakes.
            macro WIDE 4-4 + `#define WIDE(x)`
            struct lake 6-10 + `struct lake` “A lake.”
            type metres 11-11 + `typedef unsigned long metres`
            function depth 13-16 `static double *depth(const struct lake *lake)` “How deep.”
            function fill 17-17 + `int fill(struct lake *, int)`
        "#]],
    );
    let text = r#"namespace water {
/// A lake.
template <typename T>
class Lake : public Wet {
 public:
  Lake() = default;
  /// How deep.
  T depth() const { return deep_; }
  virtual bool is_wet() = 0;
 private:
  T deep_;
};
}

// Fills it.
void water::Lake<int>::fill(int n) { deep_ += n; }
int& at(int i) { return xs[i]; }
"#;
    check(
        Language::Cpp,
        text,
        expect![[r#"
        module water 1-13 + `namespace water`
        class water/Lake 4-12 + `class Lake : public Wet`
        method water/Lake/Lake 6-6 + `Lake() = default`
        method water/Lake/depth 7-8 + `T depth() const` “How deep.”
        method water/Lake/is_wet 9-9 + `virtual bool is_wet() = 0`
        method water/Lake/fill 15-16 + `void water::Lake<int>::fill(int n)` “Fills it.”
        function at 17-17 + `int& at(int i)`
    "#]],
    );
}

#[test]
fn what_is_broken_gives_what_can_be_read_of_it() {
    // A file is broken whenever somebody is in the middle of writing it.
    let text = "fn whole() {}\nfn half(\n\nstruct Lake { deep: \nimpl Lake { fn depth(&self) { 1 } }\n}}}} fn last() {}\n";
    check(
        Language::Rust,
        text,
        expect![[r#"
        function whole 1-1 `fn whole()`
        function half 2-6 `fn half( struct Lake { deep: impl Lake { fn depth(&self) { 1 } } }}}} fn last()`
        not whole
    "#]],
    );
    check(
        Language::Python,
        "def a():\n  return (\nclass B\n  def c(self): pass\ndef d(): pass\n",
        expect![[r#"
        function a 1-5 + `def a(): return ( class B def c(self): pass def d()`
        not whole
    "#]],
    );
}

#[test]
fn no_text_is_too_much() {
    // Strangers' files come here: what is nested, long or no text at all must neither panic nor overflow the stack.
    let deep = 10_000;
    let texts = [
        "(".repeat(deep),
        format!("fn f() {{ {} }}", "{".repeat(deep)),
        format!("{}fn f() {{}}{}", "mod m { ".repeat(2_000), "}".repeat(2_000)),
        "cfg! { fn a() {} ".repeat(500),
        "\u{0}\u{feff}\u{1f600}fn ünï() {}\r\n///\r\n".repeat(100),
        "/".repeat(deep),
        "/**".to_owned(),
        "\"\"\"".to_owned(),
        "#[doc = \"".repeat(1000),
        "a ".repeat(deep),
        String::new(),
    ];
    for language in Language::ALL {
        for text in &texts {
            let outline = outline(language, text);
            for symbol in &outline.symbols {
                assert!(text.get(symbol.range.clone()).is_some(), "{language:?} {symbol:?}");
            }
            let lines = text.matches('\n').count() as u32 + 1;
            for chunk in chunks(&outline, text) {
                assert!(chunk.lines.0 >= 1 && chunk.lines.0 <= chunk.lines.1, "{:?}", chunk.lines);
                assert!(chunk.lines.1 <= lines, "{:?} of {lines}", chunk.lines);
            }
            references(language, text);
        }
    }
    assert!(!outline(Language::C, &" ".repeat(TEXT_BYTES_MAX + 1)).whole);
}

/// The pieces of a text: the definition, the lines and the text.
fn check_chunks(language: Language, text: &str, expect: Expect) {
    let outline = outline(language, text);
    let mut shown = String::new();
    for chunk in chunks(&outline, text) {
        let name = chunk.symbol.map_or("-", |n| outline.symbols[n].name.as_str());
        let (first, last) = chunk.lines;
        shown += &format!("{name} {first}-{last}\n");
        chunk.text.lines().for_each(|line| shown += &format!("    {line}\n"));
    }
    expect.assert_eq(&shown);
}

#[test]
fn a_file_is_cut_into_its_definitions_and_what_is_left() {
    // Documentation is looked for apart from the text, so it is not in the text as well.
    let text = "use a::b;\n\n/// A lake.\npub struct Lake {\n    deep: u32,\n}\n\nimpl Lake {\n    /// How deep.\n    /// In metres.\n    #[inline]\n    fn depth(&self) -> u32 {\n        self.deep\n    }\n}\n";
    check_chunks(
        Language::Rust,
        text,
        expect![[r#"
        - 1-2
            use a::b;
        Lake 3-6
            pub struct Lake {
                deep: u32,
            }
        - 6-9
            impl Lake {
        depth 9-14
                #[inline]
                fn depth(&self) -> u32 {
                    self.deep
                }
    "#]],
    );
    check_chunks(
        Language::Python,
        "class A:\n    '''Doc.'''\n    x = 1\n    def f(self):\n        '''Doc.'''\n        return 1\nprint(A())\n",
        expect![[r#"
        A 1-5
            class A:
                x = 1
        f 4-6
            def f(self):
                    return 1
        - 6-7
            print(A())
    "#]],
    );
}

#[test]
fn faults_are_found_where_they_are() {
    let check = |language, text: &str, expected: Option<(u32, &str)>| {
        let found = fault(language, text);
        assert_eq!(found.as_ref().map(|fault| (fault.line, fault.what.as_str())), expected, "{text}");
    };
    let python = |text: &str, expected| check(Language::Python, text, expected);
    let cost = "def cost(goods):\n    if goods < 5:\n        return 0\n    return 490\n";
    python(cost, None);
    // The head of a block was replaced by a whole block.
    let beside = "this line is indented otherwise than the lines beside it";
    python(&cost.replace("< 5:", "< 5: return 1"), Some((3, beside)));
    python(&cost.replace("5:\n", "5:\n        return 1\n            "), Some((4, beside)));
    python("a = 1\n  b = 2\n", Some((2, "this line is indented, and nothing above asks for it")));
    // A body was left out, or moved out.
    python(&cost.replace("        return 0", "    return 0"), Some((2, "an indented body is missing here")));
    python("def f():\n    # nothing yet\n", Some((1, "an indented body is missing here")));
    python("def f():\n    pass\nreturn 1\n", Some((3, "`return` stands outside of a function")));
    python("class A:\n    return 1\n", Some((2, "`return` stands outside of a function")));
    python("f(1\ng(2)\n", Some((1, "this cannot be read")));
    python("def f():\n    a = 1 return a\n", Some((2, "a new line or a semicolon is missing in it")));
    // What only looks like it.
    python("if a: b = 1; c = 2\nx = [\n1,\n  2]\nif (a and\n  b):\n  f(1,\n2)\ny = \\\n  3\n", None);
    python("def f():\n  '''\ntext\n    text\n  '''\n  # one\n      # two\n  return 1\n", None);
    python(
        "@a\ndef f():\n    return lambda: 1\n\nclass B:\n    x = 1\n\n    async def g(self):\n        return 2\n",
        None,
    );
    python(
        "match x:\n    case 1:\n        pass\n    case _:\n        pass\ntry:\n    pass\nexcept* E:\n    pass\n",
        None,
    );
    check(Language::Rust, "fn f() {\n    g();\n", Some((1, "this cannot be read")));
    check(Language::Rust, "fn f() -> u8 {\n    1\n}\n", None);
    check(Language::Go, "package a\n\nfunc f() {\n\tx := 1 +\n}\n", Some((4, "this cannot be read")));
    // Nobody can say of it anything at all.
    check(Language::C, &" ".repeat(TEXT_BYTES_MAX + 1), None);
    check(Language::Python, "", None);
}

#[test]
fn what_is_long_is_cut_into_equal_parts() {
    let text = format!("fn long() {{\n{}}}\n", "    step();\n".repeat(250));
    let parts: Vec<(u32, u32)> =
        chunks(&outline(Language::Rust, &text), &text).iter().map(|chunk| chunk.lines).collect();
    assert_eq!(parts, [(1, 84), (85, 168), (169, 252)]);
    let parts: Vec<(u32, u32)> = windows(&"a line\n".repeat(100)).iter().map(|chunk| chunk.lines).collect();
    assert_eq!(parts, [(1, 34), (35, 68), (69, 100)]);
}

#[test]
fn names_are_found_where_they_stand() {
    let text = "fn fill(lake: &mut Lake) { lake.pour(\"fill\"); } // fill\n";
    let names: Vec<&str> =
        references(Language::Rust, text).iter().map(|reference| &text[reference.range.clone()]).collect();
    assert_eq!(names, ["fill", "lake", "Lake", "lake", "pour"]);
}
