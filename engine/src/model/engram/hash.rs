//! Where Engram looks: from a token and those before it to rows of a table.
//!
//! Every layer hashes the n-grams that end at a token, of every order from two up, several times with different
//! primes. With `c[k]` the class of the token `k` places back and `m[k]` the layer's multiplier for that place,
//!
//! ```text
//! mixed(n) = c[0]·m[0] ⊕ c[1]·m[1] ⊕ … ⊕ c[n−1]·m[n−1]
//! row(n, head) = mixed(n) mod prime(n, head) + start(n, head)
//! ```
//!
//! A place before the text's first token holds the padding token. So it does from an image on back: the model has
//! never seen an n-gram that reaches across one. Multipliers and primes are no weights: they follow from the layer's
//! number and the sizes, as the published demo draws them (arXiv 2601.07372).

use std::collections::HashSet;

use super::compress::Classes;
use super::draw::Draw;
use crate::Token;
use crate::model::check::ORDER_MAX;

/// Columns of all layers together. The largest model has 48; the bound keeps a stranger's file from making a search for
/// primes last.
const COLUMNS_MAX: usize = 1024;
/// Rows one column may have. Primes around it are still found in microseconds.
const COLUMN_ROWS_MAX: u64 = 1 << 40;

/// What a model says about its hashes.
#[derive(Clone, Debug)]
pub(crate) struct Sizes {
    /// The numbers of the layers that have a table, ascending; multipliers are drawn from them.
    pub(crate) layers: Vec<u64>,
    /// For each order from two up: a column has at least this many rows.
    pub(crate) rows_min: Vec<u64>,
    /// How often each order is hashed.
    pub(crate) heads: usize,
    /// The token that stands before the text's first.
    pub(crate) padding: Token,
    /// The token that stands for a piece of an image, if the model sees images.
    pub(crate) image: Option<Token>,
    /// Added to the seed of every layer's multipliers.
    pub(crate) seed: u64,
}

/// The hashes of a model whose file has them.
#[derive(Clone, Debug)]
pub(crate) struct Given<'a> {
    /// [layers, places]
    pub(crate) multipliers: &'a [u64],
    /// [layers, columns]
    pub(crate) primes: &'a [u64],
    /// [layers, columns]: where the rows of each start.
    pub(crate) starts: &'a [u64],
    pub(crate) places: usize,
    pub(crate) heads: usize,
    /// The class of what stands before the text's first token.
    pub(crate) padding: u32,
    /// The token that stands for a piece of an image, if the model sees images.
    pub(crate) image: Option<Token>,
}

/// The hashes of all layers of one model.
#[derive(Debug)]
pub(crate) struct Hashes {
    classes: Classes,
    padding: u64,
    image: Option<Token>,
    heads: usize,
    layers: Vec<Layer>,
}

#[derive(Debug)]
struct Layer {
    /// One for each place, the token's own first.
    multipliers: Vec<u64>,
    /// Order by order, and head by head within.
    columns: Vec<Column>,
}

#[derive(Clone, Copy, Debug)]
struct Column {
    prime: u64,
    start: u64,
}

impl Hashes {
    /// The hashes that `sizes` and the vocabulary's classes ask for, or why there are none.
    pub(crate) fn new(classes: Classes, sizes: &Sizes) -> Result<Hashes, String> {
        let order = sizes.rows_min.len() + 1;
        if !(2..=ORDER_MAX).contains(&order) {
            return Err(format!("n-grams of up to {order} tokens; 2 to {ORDER_MAX} are supported"));
        }
        let columns = sizes.layers.len().saturating_mul(sizes.rows_min.len()).saturating_mul(sizes.heads);
        if columns == 0 || columns > COLUMNS_MAX {
            return Err(format!("{columns} hashes of n-grams; 1 to {COLUMNS_MAX} are supported"));
        }
        if let Some(rows) = sizes.rows_min.iter().find(|&&rows| !(2..=COLUMN_ROWS_MAX).contains(&rows)) {
            return Err(format!("{rows} rows for a hash; 2 to {COLUMN_ROWS_MAX} are supported"));
        }
        let padding = classes
            .class(sizes.padding)
            .ok_or_else(|| format!("the padding token {} is not in the vocabulary", sizes.padding))?;
        let mut used = HashSet::new();
        let layers = sizes.layers.iter().map(|&layer| {
            Ok(Layer {
                multipliers: multipliers(sizes.seed, layer, order, classes.count())?,
                columns: columns_of(&sizes.rows_min, sizes.heads, &mut used),
            })
        });
        let layers = layers.collect::<Result<_, String>>()?;
        Ok(Hashes { classes, padding: u64::from(padding), image: sizes.image, heads: sizes.heads, layers })
    }

    /// The hashes that a file has for the classes it has, or why there are none.
    pub(crate) fn given(classes: Classes, given: &Given<'_>) -> Result<Hashes, String> {
        let columns = given.places.saturating_sub(1).saturating_mul(given.heads);
        if columns == 0 || given.primes.len() > COLUMNS_MAX {
            return Err(format!(
                "{} hashes of n-grams; 1 to {COLUMNS_MAX} are supported",
                given.primes.len()
            ));
        }
        // No product with a class may overflow 63 bits.
        let most = i64::MAX as u64 / u64::from(classes.count().max(given.padding.saturating_add(1)).max(1));
        if let Some(multiplier) = given.multipliers.iter().find(|&&multiplier| multiplier > most) {
            return Err(format!(
                "a multiplier of n-grams is {multiplier}, which is too large for its classes"
            ));
        }
        let column = |(&prime, &start): (&u64, &u64)| {
            if prime == 0 || prime > COLUMN_ROWS_MAX || start > COLUMN_ROWS_MAX * COLUMNS_MAX as u64 {
                return Err(format!("a hash of n-grams has {prime} rows from row {start} on"));
            }
            Ok(Column { prime, start })
        };
        let primes = given.primes.chunks_exact(columns).zip(given.starts.chunks_exact(columns));
        let layers = given.multipliers.chunks_exact(given.places).zip(primes);
        let layers = layers.map(|(multipliers, (primes, starts))| {
            let columns = primes.iter().zip(starts).map(column).collect::<Result<_, _>>()?;
            Ok(Layer { multipliers: multipliers.to_vec(), columns })
        });
        let layers = layers.collect::<Result<_, String>>()?;
        let padding = u64::from(given.padding);
        Ok(Hashes { classes, padding, image: given.image, heads: given.heads, layers })
    }

    /// Whether `token` stands for a piece of an image.
    pub(crate) fn is_image(&self, token: Token) -> bool {
        self.image == Some(token)
    }

    /// How many rows a token reads in each layer.
    pub(crate) fn columns(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.columns.len())
    }

    /// How many rows the table of the `which`-th layer has.
    pub(crate) fn rows(&self, which: usize) -> u64 {
        let ends = self.layers[which].columns.iter().map(|column| column.start + column.prime);
        ends.max().expect("there is at least one column")
    }

    /// Multipliers, primes and starts as files have them, of all layers.
    #[cfg(test)]
    pub(crate) fn as_given(&self) -> [Vec<u64>; 3] {
        let columns = || self.layers.iter().flat_map(|layer| &layer.columns);
        let multipliers = self.layers.iter().flat_map(|layer| layer.multipliers.clone()).collect();
        [
            multipliers,
            columns().map(|column| column.prime).collect(),
            columns().map(|column| column.start).collect(),
        ]
    }

    /// The rows that `tokens` read in the `which`-th layer, appended to `to` token by token. `before` ends with what
    /// stands before them in the text, as far back as the longest n-gram or the text's first token reaches.
    pub(crate) fn find(&self, which: usize, before: &[Token], tokens: &[Token], to: &mut Vec<u64>) {
        let Layer { multipliers, columns } = &self.layers[which];
        to.reserve(tokens.len() * columns.len());
        for i in 0..tokens.len() {
            let mut back = tokens[..=i].iter().rev().chain(before.iter().rev());
            let mut broken = false;
            let mut mixed = 0;
            for (place, &multiplier) in multipliers.iter().enumerate() {
                let token = back.next().copied().filter(|&token| !self.is_image(token));
                broken |= token.is_none();
                // A row of the vocabulary that no class knows is padding, too.
                let class = token.filter(|_| !broken).and_then(|token| self.classes.class(token));
                let class = class.map_or(self.padding, u64::from);
                mixed ^= class * multiplier;
                if place > 0 {
                    let order = &columns[(place - 1) * self.heads..place * self.heads];
                    to.extend(order.iter().map(|column| mixed % column.prime + column.start));
                }
            }
        }
    }
}

/// One odd number for each place, so small that no product with a class overflows 63 bits.
fn multipliers(seed: u64, layer: u64, places: usize, classes: u32) -> Result<Vec<u64>, String> {
    // Above this bound numpy draws 64 bits for each number; below it there would be over a billion classes.
    let bound = (i64::MAX as u64 / u64::from(classes.max(1)) / 2).max(1);
    if bound <= 1 << 32 {
        return Err(format!("{classes} classes of tokens are more than any vocabulary has"));
    }
    let seed = layer.checked_mul(10_007).and_then(|product| product.checked_add(seed));
    let mut draw = Draw::new(seed.ok_or("the number of a layer with a table is too large")?);
    Ok((0..places).map(|_| draw.below(bound) * 2 + 1).collect())
}

/// The columns of one layer: for each order the smallest primes that no column has yet, one after the other in the table.
fn columns_of(rows_min: &[u64], heads: usize, used: &mut HashSet<u64>) -> Vec<Column> {
    let mut columns = Vec::with_capacity(rows_min.len() * heads);
    let mut start = 0;
    for &rows in rows_min {
        let free = (rows..).filter(|&n| !used.contains(&n) && is_prime(n)).take(heads);
        for prime in free.collect::<Vec<_>>() {
            used.insert(prime);
            columns.push(Column { prime, start });
            start += prime;
        }
    }
    columns
}

/// Miller and Rabin's test with the first twelve primes as witnesses, which is exact below 3·10²³ (Sorenson and Webster
/// 2015).
fn is_prime(n: u64) -> bool {
    const WITNESSES: [u64; 12] = [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37];
    if n < 2 {
        return false;
    }
    if let Some(divisor) = WITNESSES.into_iter().find(|divisor| n.is_multiple_of(*divisor)) {
        return n == divisor;
    }
    let times = |a: u64, b: u64| (u128::from(a) * u128::from(b) % u128::from(n)) as u64;
    let halvings = (n - 1).trailing_zeros();
    WITNESSES.into_iter().all(|witness| {
        // witness^((n − 1) / 2^halvings) mod n
        let (mut power, mut square, mut rest) = (1, witness, (n - 1) >> halvings);
        while rest > 0 {
            if rest & 1 == 1 {
                power = times(power, square);
            }
            square = times(square, square);
            rest >>= 1;
        }
        // One of the squarings has to come by −1, unless there is nothing to square.
        let mut squares = std::iter::successors(Some(power), |&power| Some(times(power, power)));
        power == 1 || squares.by_ref().take(halvings as usize).any(|power| power == n - 1)
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use serde::Deserialize;

    use super::*;

    /// V4.1's hashes, computed with numpy from its config.json and vocabulary.
    #[derive(Deserialize)]
    pub(crate) struct Published {
        multipliers: Vec<Vec<u64>>,
        primes: Vec<Vec<Vec<u64>>>,
        offsets: Vec<Vec<u64>>,
        pub(crate) cases: Vec<Case>,
    }

    #[derive(Deserialize)]
    pub(crate) struct Case {
        pub(crate) text: String,
        pub(crate) ids: Vec<Token>,
        pub(crate) compressed: Vec<u32>,
        /// By token, layer and column.
        rows: Vec<Vec<Vec<u64>>>,
    }

    pub(crate) fn published() -> Published {
        serde_json::from_str(include_str!("fixtures/v41_rows.json")).unwrap()
    }

    /// V4.1-Flash's sizes. The vocabulary itself is too large to keep here, so tokens are their own classes.
    fn flash(image: Option<Token>) -> Hashes {
        let classes = Classes::given((0..99_092).collect());
        let sizes = Sizes {
            layers: vec![1, 14],
            rows_min: vec![16_000_000; 3],
            heads: 8,
            padding: PADDING,
            image,
            seed: 0,
        };
        Hashes::new(classes, &sizes).unwrap()
    }

    /// The class of V4.1's padding token, as the fixture's first tokens show it.
    const PADDING: Token = 2;

    #[test]
    fn tables_are_laid_out_as_published() {
        let (hashes, published) = (flash(None), published());
        // `engram_num_embeddings` of V4.1-Flash.
        assert_eq!([hashes.rows(0), hashes.rows(1)], [384_006_168, 384_016_682]);
        assert_eq!(hashes.columns(), 24);
        for (which, layer) in hashes.layers.iter().enumerate() {
            assert_eq!(layer.multipliers, published.multipliers[which]);
            let primes: Vec<u64> = layer.columns.iter().map(|column| column.prime).collect();
            assert_eq!(primes, published.primes[which].concat());
            let starts: Vec<u64> = layer.columns.iter().map(|column| column.start).collect();
            assert_eq!(starts, published.offsets[which]);
        }
    }

    #[test]
    fn hashes_that_a_file_has_are_those_that_are_drawn() {
        let (drawn, published) = (flash(None), published());
        let (multipliers, starts) = (published.multipliers.concat(), published.offsets.concat());
        let primes = published.primes.concat().concat();
        let given = Given {
            multipliers: &multipliers,
            primes: &primes,
            starts: &starts,
            places: 4,
            heads: 8,
            padding: PADDING,
            image: None,
        };
        let new = |given: &Given<'_>| Hashes::given(Classes::given((0..99_092).collect()), given);
        let found = new(&given).unwrap();
        assert_eq!(format!("{:?}", found.layers), format!("{:?}", drawn.layers));
        assert_eq!((found.padding, found.rows(1)), (drawn.padding, 384_016_682));
        let why = |given: Given<'_>| new(&given).unwrap_err();
        assert!(why(Given { multipliers: &[u64::MAX; 8], ..given.clone() }).contains("too large"));
        assert!(why(Given { primes: &[0; 48], ..given.clone() }).contains("has 0 rows"));
        assert!(why(Given { starts: &[u64::MAX; 48], ..given.clone() }).contains("from row"));
        assert!(why(Given { heads: 0, ..given.clone() }).contains("hashes"));
    }

    #[test]
    fn rows_are_those_of_the_reference_however_the_text_is_cut() {
        let hashes = flash(None);
        for case in published().cases {
            for cut in 0..case.compressed.len() {
                let (before, tokens) = case.compressed.split_at(cut);
                for which in 0..2 {
                    let mut rows = Vec::new();
                    hashes.find(which, before, tokens, &mut rows);
                    let expected: Vec<u64> =
                        case.rows[cut..].iter().flat_map(|layers| layers[which].clone()).collect();
                    assert_eq!(rows, expected, "{} from {cut} on", case.text);
                }
            }
        }
    }

    #[test]
    fn no_n_gram_reaches_across_an_image() {
        const IMAGE: Token = 77;
        let hashes = flash(Some(IMAGE));
        let find = |before: &[Token], tokens: &[Token]| {
            let mut rows = Vec::new();
            hashes.find(1, before, tokens, &mut rows);
            rows
        };
        assert_eq!(find(&[5, 6, IMAGE], &[8, 9, 10]), find(&[], &[8, 9, 10]), "a text begins after an image");
        assert_eq!(find(&[5, IMAGE], &[IMAGE]), find(&[], &[PADDING]), "an image reads what padding reads");
        assert_ne!(find(&[5, 6, 7], &[8]), find(&[], &[8]));
    }

    #[test]
    fn primes_are_told_from_other_numbers() {
        let by_hand = |n: u64| n > 1 && (2..n).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d));
        for n in 0..20_000 {
            assert_eq!(is_prime(n), by_hand(n), "{n}");
        }
        // Strong pseudoprimes to the first bases, Carmichael numbers, and the ends of the range.
        for n in [3_215_031_751, 3_825_123_056_546_413_051, 561, 41_041, u64::MAX] {
            assert!(!is_prime(n), "{n}");
        }
        assert!(is_prime(16_000_057) && is_prime(18_446_744_073_709_551_557));
    }

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        let good =
            Sizes { layers: vec![1], rows_min: vec![10; 2], heads: 2, padding: 0, image: None, seed: 0 };
        let check = |sizes: Sizes, expect: &str| {
            let why = Hashes::new(Classes::given(vec![0, 1]), &sizes).unwrap_err();
            assert!(why.contains(expect), "{why}");
        };
        assert_eq!(Hashes::new(Classes::given(vec![0, 1]), &good).unwrap().rows(0), 11 + 13 + 17 + 19);
        check(Sizes { rows_min: vec![], ..good.clone() }, "n-grams of up to 1 tokens");
        check(Sizes { rows_min: vec![10, 1], ..good.clone() }, "1 rows for a hash");
        check(Sizes { rows_min: vec![u64::MAX; 2], ..good.clone() }, "rows for a hash");
        check(Sizes { heads: 0, ..good.clone() }, "0 hashes");
        check(Sizes { heads: usize::MAX, ..good.clone() }, "hashes of n-grams");
        check(Sizes { padding: 2, ..good.clone() }, "padding token 2");
        check(Sizes { layers: vec![u64::MAX / 2], ..good.clone() }, "number of a layer");
        let many = Classes::given(vec![u32::MAX]);
        assert!(Hashes::new(many, &good).unwrap_err().contains("classes of tokens"));
    }
}
