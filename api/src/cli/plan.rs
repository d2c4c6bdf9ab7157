//! `saga model plan`: what of a model will live where, and how fast it can be.

use std::path::{Path, PathBuf};

use engine::plan::{self, Ask, Home, Kv, Plan, Shape};
use engine::{Error, catalog};
use serde_json::json;

use crate::config::{Config, Folders};
use crate::failure::Failure;
use crate::host::{binary_bytes, count, memory_free_bytes};
use crate::term::{Screen, To, one_line, say, table};

#[derive(clap::Args)]
#[command(after_help = "\
A token costs the bytes that are moved for it. From memory: all weights that every token goes through, its experts, and
what is looked at of the context. From disk: its experts that are not in memory, (1 - in memory / all) of them when
all are used alike, and rows of tables, in pages of 4 KiB.
  slowest  1 / (memory bytes / memory rate + disk bytes / disk rate)       the work waits for every read
  fastest  1 / max(memory bytes / memory rate, disk bytes / disk rate)     every read is done beside the work
Both rates are measured here unless they are given: the memory's with the engine's own products, because with few cores
arithmetic is slower than memory, the disk's around its cache. Where some experts are used more than others, it is faster.

Examples:
  saga model plan qwen3-30b-a3b --weights q4_k --ram 24G
  saga model plan deepseek-v4-flash --ram 24G --ctx 1048576
  saga model plan ~/models/gpt-oss-120b.gguf --ram 32G --ctx 65536 --kv q8
  saga model plan ./config.json --ram 64G --ram-gbps 80 --disk-gbps 6 --json")]
pub(crate) struct Args {
    /// A GGUF file, a Hugging Face folder, a config.json alone, an id or an address of `saga model list`, or the name of a
    /// known shape: see `--shapes`.
    #[arg(value_name = "FILE_OR_SHAPE", required_unless_present = "shapes")]
    model: Option<String>,
    /// List the shapes that are known by name.
    #[arg(long)]
    shapes: bool,
    /// The memory there is, such as 24G; what is free here when left out.
    #[arg(long, value_name = "SIZE", value_parser = crate::host::parse_bytes)]
    ram: Option<u64>,
    /// How many tokens the context gets; 32,768 when left out, or as many as the model was made for.
    #[arg(long, value_name = "N")]
    ctx: Option<u64>,
    /// How the context is kept; fp8 is the makers' layout of latent and compressed attention, which the engine does not
    /// use itself. What the makers use when left out, f16 for most.
    #[arg(long, value_name = "KIND")]
    kv: Option<KvName>,
    /// How the weights of a shape without a file are stored, such as q4_k or mxfp4; as shipped when left out.
    #[arg(long, value_name = "KIND")]
    weights: Option<String>,
    /// How many 10⁹ bytes of weights memory and processor get through in a second, instead of measuring it.
    #[arg(long, value_name = "X")]
    ram_gbps: Option<f64>,
    /// What the disk gives, in 10⁹ bytes per second, instead of measuring it.
    #[arg(long, value_name = "X")]
    disk_gbps: Option<f64>,
    /// Threads that compute; 0 means one per physical core.
    #[arg(long, short, env = "SAGA_THREADS", value_name = "N")]
    threads: Option<usize>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum KvName {
    F32,
    F16,
    Q8,
    Fp8,
}

/// The context when none is given, as for sessions.
const CONTEXT_TOKENS: u64 = 32_768;
/// A file that a disk can be measured with. A smaller one is gone before the disk has warmed up.
const MEASURED_BYTES_MIN: u64 = 64 << 20;

/// A speed, and where it comes from.
struct Rate {
    bytes_per_s: f64,
    from: String,
}

pub(crate) async fn run(args: Args, folders: &Folders, config: &Config) -> Result<(), Failure> {
    if args.shapes {
        plan::shapes().for_each(say);
        return Ok(());
    }
    let asked = args.model.as_deref().unwrap_or_default();
    let mut shape = shape(asked, folders)?;
    if let Some(kind) = &args.weights {
        shape = shape.stored_as(kind)?;
    }
    let kv = args.kv.map_or(shape.kv(), |kv| match kv {
        KvName::F32 => Kv::F32,
        KvName::F16 => Kv::F16,
        KvName::Q8 => Kv::Q8,
        KvName::Fp8 => Kv::Fp8,
    });
    let ram_bytes = match args.ram.or_else(memory_free_bytes) {
        Some(bytes) => bytes,
        None => {
            return Err(Failure::new("this system does not tell its free memory").next("give it with --ram"));
        }
    };
    let context_tokens = args.ctx.unwrap_or(CONTEXT_TOKENS.min(shape.context_tokens()));
    let mut ask = Ask { ram_bytes, context_tokens, kv, ram_bytes_per_s: 1.0, disk_bytes_per_s: 1.0 };
    // Before anything is measured: what is asked may make no sense, or need no disk.
    let needs_disk = plan::plan(&shape, &ask)?.speeds.iter().any(|speed| speed.disk_bytes > 0);

    let given = |gbps: f64| Rate { bytes_per_s: gbps * 1e9, from: "given".to_string() };
    let threads = args.threads.unwrap_or(config.threads);
    let screen = Screen::new(To::Stderr);
    let ram = match args.ram_gbps {
        Some(gbps) => given(gbps),
        None => {
            screen.status("measuring the memory");
            let weights = shape.clone();
            let measured = blocking(move || plan::ram_bytes_per_s(&weights, threads)).await;
            screen.quiet();
            Rate { bytes_per_s: measured?, from: "measured with such weights".to_string() }
        }
    };
    ask.ram_bytes_per_s = ram.bytes_per_s;
    let disk = match args.disk_gbps {
        Some(gbps) => Some(given(gbps)),
        None if needs_disk => {
            screen.status("measuring the disk");
            let file = file_to_measure(&shape, folders)?;
            let from = format!("measured with {}", file.display());
            let measured = blocking(move || plan::disk_bytes_per_s(&file)).await;
            screen.quiet();
            Some(Rate { bytes_per_s: measured?, from })
        }
        None => None,
    };
    if let Some(disk) = &disk {
        ask.disk_bytes_per_s = disk.bytes_per_s;
    }
    let plan = plan::plan(&shape, &ask)?;
    if args.json {
        let mut object = serde_json::to_value(&plan).expect("a plan has only string keys and finite numbers");
        object["ram_bytes_per_s"] = json!(ram.bytes_per_s);
        object["disk_bytes_per_s"] = json!(disk.map(|disk| disk.bytes_per_s));
        say(&object.to_string());
    } else {
        show(&plan, &ram, disk.as_ref());
    }
    Ok(())
}

/// What is asked for: a path, an id whose file is here, or a known shape.
fn shape(asked: &str, folders: &Folders) -> Result<Shape, Failure> {
    let path = Path::new(asked);
    if path.exists() || catalog::is_path(asked) {
        return Ok(Shape::read(path)?);
    }
    match catalog::resolve(asked, &folders.models) {
        Ok(file) => Ok(Shape::read(&file)?),
        // An address is none of the names that are listed then.
        Err(error @ Error::Address { .. }) => Err(error.into()),
        Err(error @ Error::NotPulled { .. }) => Ok(Shape::named(asked).map_err(|_| error)?),
        Err(_) => Ok(Shape::named(asked)?),
    }
}

/// The model's own file, else the largest one among the models, else this program: all but the last are likely to lie on
/// the disk that models are read from.
fn file_to_measure(shape: &Shape, folders: &Folders) -> Result<PathBuf, Failure> {
    let own = shape.file().map(Path::to_owned);
    let program = std::env::current_exe().ok();
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |facts| facts.len());
    let candidates = own.into_iter().chain(largest_below(&folders.models)).chain(program);
    candidates.into_iter().find(|path| size(path) >= MEASURED_BYTES_MIN).ok_or_else(|| {
        Failure::new("there is no file here that is large enough to measure the disk with")
            .next("say how fast it is with --disk-gbps, such as 3")
    })
}

/// The largest file of a pulled model.
fn largest_below(models: &Path) -> Option<PathBuf> {
    let known = catalog::models().iter().filter_map(|model| model.find(models));
    let files = known.chain(catalog::pulled(models).into_iter().map(|model| model.path));
    files
        .filter(|path| path.is_file())
        .max_by_key(|file| std::fs::metadata(file).map_or(0, |facts| facts.len()))
}

/// Measures where blocking does no harm.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, engine::Error> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.map_err(|error| Failure::new(format!("measuring failed: {error}")))??)
}

fn show(plan: &Plan, ram: &Rate, disk: Option<&Rate>) {
    say(&format!(
        "model    {}: {} weights, {} for each token",
        one_line(&plan.model, 60),
        many(plan.parameters),
        many(plan.active_parameters)
    ));
    let choices: Vec<_> = plan
        .kv_choices
        .iter()
        .map(|(kv, bytes)| format!("{} {}", kv_name(*kv), binary_bytes(*bytes)))
        .collect();
    say(&format!(
        "context  {} tokens in {}: {}, {} bytes for each token ({})",
        count(plan.context_tokens),
        kv_name(plan.kv),
        binary_bytes(plan.kv_bytes),
        count(plan.kv_bytes / plan.context_tokens.max(1)),
        choices.join(", ")
    ));
    let rates = [("memory", Some(ram)), ("disk", disk)];
    for (name, rate) in rates {
        if let Some(rate) = rate {
            say(&format!("{name:8} {:.1} GB/s, {}", rate.bytes_per_s / 1e9, rate.from));
        }
    }
    say("");
    let rows: Vec<_> = plan
        .items
        .iter()
        .map(|item| {
            let share = match (item.what, item.home) {
                ("experts in use", _) => format!("{:.1}% of all", 100.0 * plan.experts_in_ram),
                _ => String::new(),
            };
            let home = match item.home {
                Home::Ram => "memory",
                Home::Disk => "disk",
            };
            let read = if item.read_bytes > 0 { binary_bytes(item.read_bytes) } else { "-".to_string() };
            vec![home.to_string(), item.what.to_string(), binary_bytes(item.bytes), read, share]
        })
        .collect();
    say(&table(&["LIVES IN", "WHAT", "SIZE", "READ FOR A TOKEN", ""], &rows));
    let verdict = if plan.short_bytes > 0 {
        format!(
            "{} of memory are missing: what does not fit is read from disk for every token; give it more with --ram, or a shorter --ctx, a smaller --kv or smaller --weights",
            binary_bytes(plan.short_bytes)
        )
    } else if plan.experts_in_ram < 1.0 {
        "it runs with experts on disk".to_string()
    } else {
        "everything fits into memory".to_string()
    };
    say(&format!(
        "\n{} of {} memory: {verdict}",
        binary_bytes(plan.ram_used_bytes),
        binary_bytes(plan.ram_bytes)
    ));
    let rows: Vec<_> = plan
        .speeds
        .iter()
        .map(|speed| {
            let pace = |tokens_per_s: f64| {
                if tokens_per_s < 10.0 { format!("{tokens_per_s:.2}") } else { format!("{tokens_per_s:.0}") }
            };
            vec![
                format!("after {} tokens", count(speed.context_tokens)),
                binary_bytes(speed.ram_bytes),
                binary_bytes(speed.disk_bytes),
                pace(speed.tokens_per_s),
                pace(speed.tokens_per_s_ahead),
            ]
        })
        .collect();
    say("");
    say(&table(&["A TOKEN", "FROM MEMORY", "FROM DISK", "TOKENS/S", "AT MOST"], &rows));
}

/// Numbers of weights as people say them: `284.33 billion`.
fn many(n: u64) -> String {
    match n {
        0..1_000_000 => count(n),
        1_000_000..1_000_000_000 => format!("{:.2} million", n as f64 / 1e6),
        _ => format!("{:.2} billion", n as f64 / 1e9),
    }
}

fn kv_name(kv: Kv) -> &'static str {
    match kv {
        Kv::F32 => "f32",
        Kv::F16 => "f16",
        Kv::Q8 => "q8",
        Kv::Fp8 => "fp8",
    }
}
