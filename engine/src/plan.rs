//! Says beforehand where a model will live and how fast it can be, from sizes alone.
//!
//! Writing a token is bound by the bytes that have to be moved for it, not by arithmetic. For each token
//!
//! - memory gives all weights that every token goes through, the experts that it goes through, one row of the embedding,
//!   and what is looked at of the line's cache;
//! - the disk gives the experts that are not in memory, `(1 − cached / all) · experts of a token`, and the rows of
//!   tables, in pages of 4 KiB.
//!
//! Then a token takes `memory bytes / memory rate + disk bytes / disk rate`, or the larger of the two if every read is
//! done beside the work. The share that is in memory is that of an even use of all experts, which is what routers are
//! trained for; where some are used more than others, more of them are found in memory. The memory's rate is measured
//! with the engine's own products on the shape's kinds of weights ([`ram_bytes_per_s`]): with few cores it is their
//! arithmetic, and not the memory, that says how fast weights can be read.
//!
//! A layer that guesses ahead is counted where the model has one, as it is used unless somebody turns it off; what it
//! saves is not, because that depends on the text.
//!
//! Memory is shared out in this order: weights of every token, the embedding, the line's cache with the states it can
//! go back to, room to work, and what is left for experts. What then does not fit is counted as read from the disk for
//! every token.

mod config;
mod known;
mod measure;
mod shape;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

pub use measure::{disk_bytes_per_s, ram_bytes_per_s};

use crate::Error;
use crate::weights::{Folder, Gguf, Kind, TensorSize};
use config::{Described, Storage};
use shape::{Parts, Weights};

/// The sizes of a model: of a file, of a configuration, or of one that is known by name.
#[derive(Clone, Debug)]
pub struct Shape {
    name: String,
    parts: Parts,
    sizes: Sizes,
    context_tokens: u64,
    file: Option<PathBuf>,
}

/// How keys, values and other rows of a line are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kv {
    /// Four bytes for a number.
    F32,
    /// Two bytes.
    F16,
    /// One byte, with a scale for every row of a head.
    Q8,
    /// What the makers of latent and compressed attentions keep: FP8, and FP4 for what is only chosen by. The engine
    /// does not keep rows in this way yet.
    Fp8,
}

/// What a plan is made for.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// The memory there is.
    pub ram_bytes: u64,
    /// How long the line gets.
    pub context_tokens: u64,
    /// How the line is kept.
    pub kv: Kv,
    /// What memory gives in a second, to the engine's products.
    pub ram_bytes_per_s: f64,
    /// What the disk gives in a second.
    pub disk_bytes_per_s: f64,
}

/// What will live where, and how fast it can be.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// The shape's name.
    pub model: String,
    /// How many weights there are, without layers that only guess ahead.
    pub parameters: u64,
    /// How many weights a token is multiplied with.
    pub active_parameters: u64,
    /// How long the line gets.
    pub context_tokens: u64,
    /// How the line is kept.
    pub kv: Kv,
    /// What the full line takes.
    pub kv_bytes: u64,
    /// What it would take in each way of keeping it that the model allows.
    pub kv_choices: BTreeMap<Kv, u64>,
    /// What lives where.
    pub items: Vec<Item>,
    /// The memory that was asked for.
    pub ram_bytes: u64,
    /// What takes of it, experts included.
    pub ram_used_bytes: u64,
    /// What is missing of it; 0 if all fits that has to.
    pub short_bytes: u64,
    /// The part of all experts that is in memory.
    pub experts_in_ram: f64,
    /// At the line's start and at its end.
    pub speeds: Vec<Speed>,
}

/// One thing that lives somewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    /// What it is.
    pub what: &'static str,
    /// Where it lives.
    pub home: Home,
    /// What it takes there.
    pub bytes: u64,
    /// What is read of it for a token at the line's end.
    pub read_bytes: u64,
}

/// Where something lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Home {
    /// In memory.
    Ram,
    /// On disk, and read from there.
    Disk,
}

/// How fast tokens can be written somewhere in the line.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Speed {
    /// How many tokens the line has.
    pub context_tokens: u64,
    /// What a token takes from memory.
    pub ram_bytes: u64,
    /// What a token takes from the disk.
    pub disk_bytes: u64,
    /// If the work waits for every read.
    pub tokens_per_s: f64,
    /// If every read is done beside the work.
    pub tokens_per_s_ahead: f64,
}

/// Bytes of a shape's weights.
#[derive(Clone, Debug, Default, PartialEq)]
struct Sizes {
    parameters: u128,
    active: u128,
    /// Read whole for every token.
    dense: u128,
    /// The embedding, if the output has a matrix of its own; of it one row is read.
    embedding: u128,
    embedding_row: u128,
    experts: u128,
    experts_used: u128,
    tables: u128,
    /// What is read of tables for a token, in whole pages.
    tables_read: u128,
    /// The layer that guesses ahead, but for its experts.
    ahead: u128,
    ahead_experts: u128,
    /// More layers that guess ahead, eyes and ears: on disk and not read.
    idle: u128,
    /// What a token is multiplied with, by how it is stored.
    kinds: BTreeMap<Kind, u128>,
}

/// The program, the tokenizer and the buffers of a chunk.
const WORK_BYTES: u128 = 512 << 20;
/// Rows of tables that are kept.
const TABLE_BYTES: u128 = 64 << 20;
/// What a disk reads at least.
const PAGE: u128 = 4096;
/// The longest line that is planned for: beyond every model.
const CONTEXT_TOKENS_MAX: u64 = 1 << 26;
/// Bytes of a configuration. Real ones have tens of kilobytes.
const CONFIG_BYTES_MAX: u64 = 16 << 20;

/// The shapes that are known by name.
pub fn shapes() -> impl Iterator<Item = &'static str> {
    known::SHAPES.iter().map(|(name, _)| *name)
}

impl Shape {
    /// The shape of this name.
    ///
    /// # Errors
    /// [`Error::UnknownModel`] names the shapes there are.
    pub fn named(name: &str) -> Result<Shape, Error> {
        let (name, config) = known::SHAPES.iter().find(|(known, _)| *known == name).ok_or_else(|| {
            let known: Vec<_> = shapes().collect();
            Error::UnknownModel { asked: name.to_owned(), known: known.join(", ") }
        })?;
        let described = config::read(config()).expect("the configurations of known shapes are whole");
        Ok(Shape::described(name, described))
    }

    /// The shape of a GGUF file, of a Hugging Face folder, or of a `config.json` with no weights beside it. Nothing of the
    /// weights is read.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NotGguf`], [`Error::BadModel`], [`Error::Truncated`] and [`Error::Tensor`] say what is
    /// wrong with the file.
    pub fn read(path: &Path) -> Result<Shape, Error> {
        let folder = if path.is_dir() { Some(path) } else { path.parent() };
        let is_json = path.extension().is_some_and(|extension| extension == "json");
        match folder.filter(|_| path.is_dir() || is_json) {
            Some(folder) => {
                let config = if is_json { path.to_owned() } else { folder.join("config.json") };
                Shape::of_config(&config, folder)
            }
            None => Shape::of_gguf(path),
        }
    }

    fn of_config(path: &Path, folder: &Path) -> Result<Shape, Error> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let bad = |why: String| Error::BadModel { path: path.to_owned(), why };
        let length = std::fs::metadata(path).map_err(io)?.len();
        if length > CONFIG_BYTES_MAX {
            return Err(bad(format!("it has {length} bytes, which is no configuration")));
        }
        let text = std::fs::read_to_string(path).map_err(io)?;
        let value: Value = serde_json::from_str(&text).map_err(|e| bad(format!("it is not JSON: {e}")))?;
        let described = config::read(value).map_err(bad)?;
        let name = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        let name = name.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let weights = ["model.safetensors", "model.safetensors.index.json"];
        if !weights.iter().any(|name| folder.join(name).is_file()) {
            return Ok(Shape::described(&name, described));
        }
        let shape = Shape::of_tensors(&name, described, &Folder::sizes(folder)?);
        Ok(Shape { file: largest(folder), ..shape })
    }

    fn of_gguf(path: &Path) -> Result<Shape, Error> {
        let file = Gguf::open(path, |_| Ok(()))?;
        let described = config::of_gguf(&file).and_then(config::read).map_err(|why| file.bad(why))?;
        let stem = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy();
        let shape = Shape::of_tensors(file.text("general.name").unwrap_or(&stem), described, &file.sizes());
        Ok(Shape { file: Some(file.largest().to_owned()), ..shape })
    }

    /// What was described, as these tensors have it.
    fn of_tensors(name: &str, mut described: Described, tensors: &[TensorSize]) -> Shape {
        let layers = described.parts.layers.len();
        let mut roles = tensors.iter().map(|tensor| Role::of(&tensor.name, layers));
        described.looks_ahead = roles.any(|role| matches!(role, Role::Ahead | Role::ExpertAhead));
        let shape = Shape::described(name, described);
        Shape { sizes: Sizes::of_tensors(&shape.parts, tensors), ..shape }
    }

    fn described(name: &str, described: Described) -> Shape {
        let Described { mut parts, looks_ahead, storage, context_tokens } = described;
        parts.ahead.take_if(|_| !looks_ahead);
        let sizes = Sizes::of_parts(&parts, storage);
        Shape { name: name.to_owned(), parts, sizes, context_tokens, file: None }
    }

    /// The same shape with all matrices in one kind of blocks, such as `q4_k`.
    ///
    /// # Errors
    /// [`Error::Option`] if there is no such kind, or if the shape is a file's, which is stored as it is.
    pub fn stored_as(mut self, kind: &str) -> Result<Shape, Error> {
        if let Some(file) = &self.file {
            return Err(Error::Option(format!(
                "{} is stored as it is; plan for a shape by name",
                file.display()
            )));
        }
        let found = Kind::ALL.into_iter().find(|known| known.name().eq_ignore_ascii_case(kind));
        let found = found.ok_or_else(|| {
            let known = Kind::ALL.map(|kind| kind.name().to_lowercase());
            Error::Option(format!("weights are never stored as `{kind}`; known are {}", known.join(", ")))
        })?;
        self.sizes = Sizes::of_parts(&self.parts, Storage::of(found));
        Ok(self)
    }

    /// What it is called: in its file, or as the file or folder is.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The longest line the model was made for.
    pub fn context_tokens(&self) -> u64 {
        self.context_tokens
    }

    /// How makers keep a line of it: [`Kv::Fp8`] where there is such a layout, else [`Kv::F16`].
    pub fn kv(&self) -> Kv {
        if self.parts.has_fp8() { Kv::Fp8 } else { Kv::F16 }
    }

    /// The largest file of its weights, if it is a file's.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }
}

impl Sizes {
    fn of_parts(parts: &Parts, storage: Storage) -> Sizes {
        let (weights, ahead) = (parts.weights(), parts.weights_ahead());
        let Storage { matrices, plain, experts, vectors, tables } = storage;
        let common = |weights: &Weights| {
            matrices.bytes(weights.matrices) + plain.bytes(weights.plain) + vectors.bytes(weights.vectors)
        };
        let embedding = plain.bytes(weights.embedding);
        let mut kinds = BTreeMap::new();
        for (rate, weights) in
            [(matrices, weights.matrices), (plain, weights.plain), (experts, weights.experts_used)]
        {
            *kinds.entry(rate.kind).or_insert(0) += rate.bytes(weights);
        }
        Sizes {
            parameters: weights.total(),
            active: weights.active(),
            dense: common(&weights),
            embedding,
            embedding_row: embedding / parts.vocabulary.max(1),
            experts: experts.bytes(weights.experts),
            experts_used: experts.bytes(weights.experts_used),
            tables: tables.bytes(weights.tables),
            tables_read: tables_read(parts),
            ahead: common(&ahead),
            ahead_experts: experts.bytes(ahead.experts),
            idle: 0,
            kinds,
        }
    }

    /// The sizes of tensors that are there.
    fn of_tensors(parts: &Parts, tensors: &[TensorSize]) -> Sizes {
        let mut sizes = Sizes { tables_read: tables_read(parts), ..Sizes::default() };
        // Layers with experts are alike but for how they are stored.
        let moes = || parts.moes().map(|moe| [moe.used, moe.experts]);
        let (used, all) = moes().fold((0, 0), |(used, all), [u, e]| (used + u, all + e));
        let share = |n: u128| (n * used).checked_div(all).unwrap_or(0);
        let mut expert_weights = 0;
        for tensor in tensors {
            let (bytes, weights) = (u128::from(tensor.bytes), u128::from(tensor.weights));
            match Role::of(&tensor.name, parts.layers.len()) {
                Role::Ahead if parts.ahead.is_some() => {
                    sizes.ahead += bytes;
                    continue;
                }
                Role::ExpertAhead if parts.ahead.is_some() => {
                    sizes.ahead_experts += bytes;
                    continue;
                }
                Role::Ahead | Role::ExpertAhead | Role::Idle => {
                    sizes.idle += bytes;
                    continue;
                }
                Role::Expert => {
                    sizes.experts += bytes;
                    expert_weights += weights;
                    sizes.multiplied(tensor, share(bytes));
                }
                Role::Table => sizes.tables += bytes,
                Role::Embedding if !parts.tied => sizes.embedding += bytes,
                Role::Embedding | Role::Dense => {
                    sizes.dense += bytes;
                    sizes.active += weights;
                    sizes.multiplied(tensor, bytes);
                }
            }
            sizes.parameters += weights;
        }
        sizes.experts_used = share(sizes.experts);
        sizes.active += share(expert_weights);
        sizes.embedding_row = sizes.embedding / parts.vocabulary.max(1);
        sizes
    }

    fn multiplied(&mut self, tensor: &TensorSize, bytes: u128) {
        if let Some(kind) = tensor.kind {
            *self.kinds.entry(kind).or_insert(0) += bytes;
        }
    }
}

/// The largest file of weights in a folder.
fn largest(folder: &Path) -> Option<PathBuf> {
    let files = std::fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let weights = files.filter(|file| file.extension().is_some_and(|extension| extension == "safetensors"));
    weights.max_by_key(|file| std::fs::metadata(file).map_or(0, |facts| facts.len()))
}

/// Every row lies on a page of its own, and its scales on another one.
fn tables_read(parts: &Parts) -> u128 {
    parts.tables().map(|table| table.used * (table.row.div_ceil(PAGE) + 1) * PAGE).sum()
}

/// What a tensor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Dense,
    Embedding,
    Expert,
    Table,
    Ahead,
    ExpertAhead,
    Idle,
}

impl Role {
    /// By the names that GGUF and Hugging Face folders have.
    fn of(name: &str, layers: usize) -> Role {
        let number = |prefix: &str| {
            let rest = name.split(prefix).nth(1)?;
            rest.split('.').next()?.parse::<usize>().ok()
        };
        let layer = if name.starts_with("blk.") { number("blk.") } else { number("layers.") };
        let is_expert = name.contains("_exps") || name.contains(".experts.");
        let ahead = match name.strip_prefix("mtp.") {
            // Only the first of several layers is used.
            Some(rest) => !rest.starts_with(|c: char| ('1'..='9').contains(&c)) && layer.unwrap_or(0) == 0,
            None => layer == Some(layers),
        };
        let idle = ["mtp.", "vision", "model.visual", "visual.", "aligner", "markov_head"];
        if ahead {
            if is_expert { Role::ExpertAhead } else { Role::Ahead }
        } else if layer.is_some_and(|layer| layer > layers)
            || idle.iter().any(|start| name.starts_with(start))
            || name.starts_with("model.vision")
        {
            Role::Idle
        } else if name.contains("engram") && (name.contains("embed.") || name.contains("_embd")) {
            Role::Table
        } else if is_expert {
            Role::Expert
        } else if name == "token_embd.weight"
            || name == "embed.weight"
            || name.ends_with("embed_tokens.weight")
        {
            Role::Embedding
        } else {
            Role::Dense
        }
    }
}

/// Plans for a shape.
///
/// # Errors
/// [`Error::Option`] if what is asked makes no sense, or the model cannot do it.
pub fn plan(shape: &Shape, ask: &Ask) -> Result<Plan, Error> {
    check(shape, ask)?;
    let &Ask { ram_bytes, context_tokens, kv, .. } = ask;
    let Shape { parts, sizes, .. } = shape;
    let tokens = u128::from(context_tokens);
    let kept = parts.kept(kv, tokens) + parts.kept_ahead(kv, tokens);
    let marks = parts.state() * crate::cache::marks(context_tokens as usize) as u128;
    let tables = if sizes.tables > 0 { TABLE_BYTES.min(sizes.tables) } else { 0 };

    let fixed = sizes.dense + sizes.embedding + sizes.ahead + kept + marks + tables + WORK_BYTES;
    let moes = parts.moes().count() as u128;
    // All experts of one token in one layer at least.
    let least = sizes.experts_used.checked_div(moes).unwrap_or(0);
    let ram = u128::from(ram_bytes);
    let short = (fixed + least).saturating_sub(ram);
    let experts = sizes.experts + sizes.ahead_experts;
    let cached = experts.min(ram.saturating_sub(fixed)).max(least);
    let share = if experts == 0 { 1.0 } else { (cached as f64 / experts as f64).min(1.0) };
    let missed = ((1.0 - share) * sizes.experts_used as f64) as u128;

    let speed = |tokens: u64| {
        let from_ram = u128::from(token_bytes(shape, kv, tokens)?);
        let from_disk = missed + sizes.tables_read + short;
        let (ram_s, disk_s) =
            (from_ram as f64 / ask.ram_bytes_per_s, from_disk as f64 / ask.disk_bytes_per_s);
        Ok(Speed {
            context_tokens: tokens,
            ram_bytes: whole(from_ram)?,
            disk_bytes: whole(from_disk)?,
            tokens_per_s: 1.0 / (ram_s + disk_s),
            tokens_per_s_ahead: 1.0 / ram_s.max(disk_s),
        })
    };
    let item = |what, home, bytes, read: u128| {
        Ok(Item { what, home, bytes: whole(bytes)?, read_bytes: whole(read)? })
    };
    let items = [
        item("weights of every token", Home::Ram, sizes.dense, sizes.dense)?,
        item("token embedding", Home::Ram, sizes.embedding, sizes.embedding_row)?,
        item("layer that guesses ahead", Home::Ram, sizes.ahead, 0)?,
        item("keys and values", Home::Ram, kept, parts.read(kv, tokens))?,
        item("states to go back to", Home::Ram, marks, 0)?,
        item("rows of tables", Home::Ram, tables, 0)?,
        item("room to work", Home::Ram, WORK_BYTES, 0)?,
        item("experts in use", Home::Ram, cached, sizes.experts_used)?,
        item("experts", Home::Disk, if share < 1.0 { experts } else { 0 }, missed)?,
        item("tables", Home::Disk, sizes.tables, sizes.tables_read)?,
        item("parts that are not used", Home::Disk, sizes.idle, 0)?,
    ];
    let mut kinds = vec![Kv::F32, Kv::F16, Kv::Q8];
    if parts.has_fp8() {
        kinds.push(Kv::Fp8);
    }
    let kept = |kv| parts.kept(kv, tokens) + parts.kept_ahead(kv, tokens);
    let kv_choices = kinds.into_iter().map(|kv| Ok((kv, whole(kept(kv))?)));
    Ok(Plan {
        model: shape.name.clone(),
        parameters: whole(sizes.parameters)?,
        active_parameters: whole(sizes.active)?,
        context_tokens,
        kv,
        kv_bytes: whole(kept(kv))?,
        kv_choices: kv_choices.collect::<Result<_, Error>>()?,
        items: items.into_iter().filter(|item| item.bytes > 0).collect(),
        ram_bytes,
        ram_used_bytes: whole(fixed + cached)?,
        short_bytes: whole(short)?,
        experts_in_ram: share,
        speeds: vec![speed(0)?, speed(context_tokens)?],
    })
}

/// What a model takes in memory when all of it is there, with a line of 32,768 tokens, or as long as it can be, as the
/// engine keeps it.
///
/// # Errors
/// [`Error::Option`] if it would be larger than any memory.
pub fn memory_bytes(shape: &Shape) -> Result<u64, Error> {
    let context_tokens = shape.context_tokens.min(32_768);
    // How fast it would be is not looked at.
    let (ram_bytes_per_s, disk_bytes_per_s) = (1.0, 1.0);
    let ask = Ask { ram_bytes: u64::MAX, context_tokens, kv: Kv::F16, ram_bytes_per_s, disk_bytes_per_s };
    Ok(plan(shape, &ask)?.ram_used_bytes)
}

/// What a token is computed from that follows a line of `tokens` tokens, all of it in memory: weights, of experts those that a
/// token goes through, a row of the embedding, and what is looked at of the line.
///
/// # Errors
/// [`Error::Option`] if it would be larger than any memory.
pub fn token_bytes(shape: &Shape, kv: Kv, tokens: u64) -> Result<u64, Error> {
    let Shape { parts, sizes, .. } = shape;
    whole(sizes.dense + sizes.embedding_row + sizes.experts_used + parts.read(kv, u128::from(tokens)))
}

fn check(shape: &Shape, ask: &Ask) -> Result<(), Error> {
    let refuse = |why: String| Err(Error::Option(why));
    let Ask { context_tokens, kv, ram_bytes_per_s, disk_bytes_per_s, .. } = *ask;
    if context_tokens == 0 {
        return refuse("a context of 0 tokens holds nothing".into());
    }
    let limit = shape.context_tokens.min(CONTEXT_TOKENS_MAX);
    if context_tokens > limit {
        return refuse(format!("a context of {context_tokens} tokens: the model was made for {limit}"));
    }
    if kv == Kv::Fp8 && !shape.parts.has_fp8() {
        return refuse("keys and values of this model are kept in f32, f16 or q8; fp8 is a layout of latent and compressed attention".into());
    }
    for rate in [ram_bytes_per_s, disk_bytes_per_s] {
        if !(rate.is_finite() && rate > 0.0) {
            return refuse(format!("{rate} bytes per second is no speed"));
        }
    }
    Ok(())
}

/// A number of bytes or weights that fits what computers count with.
fn whole(number: u128) -> Result<u64, Error> {
    u64::try_from(number).map_err(|_| Error::Option("this model would be larger than any disk".into()))
}

#[cfg(test)]
mod tests;
