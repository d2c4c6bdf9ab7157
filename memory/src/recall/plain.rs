//! Words alone: what recall is compared with.

use std::collections::HashMap;

use super::terms::Cutter;

/// BM25 (Robertson and Zaragoza 2009) over the stemmed words of some texts, with k₁ = 1.2 and b = 0.75.
pub(crate) struct Plain {
    cutter: Cutter,
    /// By term: the texts that have it, and how often.
    postings: HashMap<String, Vec<(usize, f64)>>,
    lens: Vec<f64>,
}

impl Plain {
    /// Over these texts.
    pub(crate) fn new<'a>(texts: impl Iterator<Item = &'a str>) -> Plain {
        let mut plain = Plain { cutter: Cutter::new(), postings: HashMap::new(), lens: Vec::new() };
        for (n, text) in texts.enumerate() {
            let terms = plain.cutter.terms(text);
            plain.lens.push(terms.len() as f64);
            for term in terms {
                let postings = plain.postings.entry(term).or_default();
                match postings.last_mut() {
                    Some((last, times)) if *last == n => *times += 1.0,
                    _ => postings.push((n, 1.0)),
                }
            }
        }
        plain
    }

    /// The texts that have some of the query's words, best first.
    pub(crate) fn ranks(&self, query: &str) -> Vec<usize> {
        let count = self.lens.len() as f64;
        let mean = (self.lens.iter().sum::<f64>() / count.max(1.0)).max(1.0);
        let mut scores: HashMap<usize, f64> = HashMap::new();
        for term in self.cutter.terms(query) {
            let Some(postings) = self.postings.get(&term) else { continue };
            let having = postings.len() as f64;
            let idf = (1.0 + (count - having + 0.5) / (having + 0.5)).ln();
            for (n, tf) in postings {
                let norm = 1.2 * (0.25 + 0.75 * self.lens[*n] / mean);
                *scores.entry(*n).or_default() += idf * tf * 2.2 / (tf + norm);
            }
        }
        let mut ranked: Vec<(usize, f64)> = scores.into_iter().collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        ranked.into_iter().map(|(n, _)| n).collect()
    }
}
