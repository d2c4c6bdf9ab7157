//! Guesses change nothing but time: lines of engines that guess and that do not, side by side.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use tokio::sync::oneshot;

use super::{Edit, Job, LineId, Order, Settings, start};
use crate::engine::tokenizer;
use crate::guess::{Counts, Guesses};
use crate::kernels::Kernels;
use crate::model::{Model, Spec, know};
use crate::testing::{TinyModel, VOCABULARY};
use crate::weights::Source;
use crate::{Engine, Grammar, GrammarSource, KvKind, Options, Sampling, Speculate, Timeline, Token};

fn open(model: &TinyModel, speculate: Speculate, kv: KvKind) -> Engine {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    model.write(&path);
    let options = Options { threads: 2, speculate, kv, ..Options::default() };
    // The file stays mapped when its folder is gone.
    Engine::open(&path, options, &mut |_| {}).unwrap()
}

/// Chance that is the same in every run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }

    /// Text that repeats itself, with a change now and then.
    fn tokens(&mut self, count: usize) -> Vec<Token> {
        self.text(count, VOCABULARY - 3)
    }

    fn text(&mut self, count: usize, vocabulary: usize) -> Vec<Token> {
        let mut tokens: Vec<Token> = Vec::new();
        while tokens.len() < count {
            if tokens.len() > 8 && self.below(3) > 0 {
                let start = self.below(tokens.len() - 4);
                tokens.extend_from_within(start..start + 4);
            } else {
                tokens.push(self.below(vocabulary) as Token);
            }
        }
        tokens.truncate(count);
        tokens
    }

    fn sampling(&mut self) -> Sampling {
        let temperature = [0.0, 0.0, 0.3, 1.0][self.below(4)];
        let repetition_penalty = if self.below(4) == 0 { 1.2 } else { 1.0 };
        Sampling { temperature, top_p: 0.9, repetition_penalty, seed: 5, ..Sampling::default() }
    }
}

async fn logits_of(line: &mut Timeline) -> Vec<u32> {
    line.logits().await.unwrap().into_iter().map(f32::to_bits).collect()
}

/// Does the same at random to a line of an engine that guesses and to one that does not, and compares all they say.
async fn compare(plain: &Engine, guessing: &Engine, seed: u64) {
    let mut chance = Chance(seed);
    let mut lines = vec![[plain.timeline(), guessing.timeline()]];
    let start = chance.tokens(40);
    for line in &mut lines[0] {
        line.sync(&start, |_| {}).await.unwrap();
    }
    // With few letters to choose from, random models repeat themselves.
    let few = ["start: /[xyz]{20}/", "start: /x{2,9}/ /[yz]{20}/", "start: /(x|yz){20}/"];
    let grammars = few.map(|text| plain.grammar(&GrammarSource::Lark(text.into())).unwrap());
    for step in 0..60 {
        let i = chance.below(lines.len());
        let may_fork = lines.len() < 4;
        let [a, b] = &mut lines[i];
        let what = format!("{} seed {seed} step {step}", plain.model().architecture);
        let act = if a.tokens().len() > 900 { 9 } else { chance.below(10) };
        match act {
            0..=4 => {
                let sampling = chance.sampling();
                let (mut ours, mut others) = (grammars.clone(), grammars.clone());
                for n in 0..chance.below(12) {
                    let (ours, others) = (ours.get_mut(act), others.get_mut(act));
                    let (ours, expected) = (b.next(&sampling, ours).await, a.next(&sampling, others).await);
                    assert_eq!(ours.unwrap(), expected.unwrap(), "{what} token {n}");
                }
            }
            5 => assert_eq!(logits_of(a).await, logits_of(b).await, "{what}"),
            6 => {
                let mut tokens = a.tokens().to_vec();
                tokens.truncate(tokens.len() - chance.below(3));
                let more = chance.below(20);
                tokens.extend(chance.tokens(more));
                for line in [a, b] {
                    line.sync(&tokens, |_| {}).await.unwrap();
                }
            }
            7 => {
                // Only the guessing line is interrupted: what it computed by then must do no harm.
                let sampling = chance.sampling();
                let stop = std::time::Duration::from_micros(chance.below(400) as u64);
                if let Ok(token) = tokio::time::timeout(stop, b.next(&sampling, None)).await {
                    assert_eq!(token.unwrap(), a.next(&sampling, None).await.unwrap(), "{what}");
                }
            }
            8 if may_fork => {
                let forks = [a.fork().await.unwrap(), b.fork().await.unwrap()];
                lines.push(forks);
            }
            _ => {
                let len = a.tokens().len();
                let keep = (len - chance.below(len.min(300))).max(1);
                a.rewind(keep).await.unwrap();
                b.rewind(keep).await.unwrap();
            }
        }
        let [a, b] = &mut lines[i];
        assert_eq!(a.tokens(), b.tokens(), "{what}");
    }
    for [a, b] in &mut lines {
        assert_eq!(logits_of(a).await, logits_of(b).await);
    }
}

#[tokio::test]
async fn what_is_said_does_not_depend_on_guesses() {
    // Lines are sampled from, changed, cut, forked and interrupted, with mixers that have states and with some that
    // have none.
    for architecture in ["qwen2", "deepseek2", "qwen35moe"] {
        for kv in [KvKind::F16, KvKind::Q8] {
            let model = TinyModel::new(architecture);
            let plain = open(&model, Speculate::Off, kv);
            let guessing = open(&model, Speculate::Always, kv);
            for seed in 0..6 {
                compare(&plain, &guessing, seed).await;
            }
            let (counts, none) = (guessing.guesses(), plain.guesses());
            assert_eq!(none.guessed, 0);
            let wrong = counts.guessed - counts.accepted;
            assert!(counts.accepted > 10 && wrong > 10, "{architecture}: {counts:?}");
            compare(&plain, &open(&model, Speculate::On, kv), 100).await;
        }
    }
}

#[tokio::test]
async fn a_grammar_binds_guesses_too() {
    // What may come later depends on what comes before, so the masks of guesses cannot be known when they are made.
    let source = GrammarSource::Lark(r#"start: ("ab" | "ba" | /[cd]{2,9}/ | "the ")+"#.into());
    for architecture in ["llama", "qwen35moe"] {
        let model = TinyModel::new(architecture);
        let engines = [Speculate::Off, Speculate::Always].map(|s| open(&model, s, KvKind::F16));
        for temperature in [0.0, 0.7, 2.0] {
            let sampling = Sampling { temperature, seed: 3, ..Sampling::default() };
            let mut said = Vec::new();
            for engine in &engines {
                let mut grammar: Grammar = engine.grammar(&source).unwrap();
                let mut line = engine.timeline();
                let prompt = engine.tokenizer().encode("abcddcbathe abcddcbathe ab").unwrap();
                line.sync(&prompt, |_| {}).await.unwrap();
                for _ in 0..60 {
                    let token = line.next(&sampling, Some(&mut grammar)).await.unwrap();
                    if engine.tokenizer().ends().contains(&token) {
                        break;
                    }
                }
                said.push(line.tokens().to_vec());
            }
            assert_eq!(said[0], said[1], "{architecture} {temperature}");
        }
        assert!(engines[1].guesses().accepted > 0);
    }
}

/// Has a worker that always guesses say `x` and `y` in turn up to so many tokens, and tells what it guessed.
async fn alternating(tokens: usize, context_tokens: usize) -> Guesses {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/qwen2");
    let mut line = Dictation::start_within(&folder, Speculate::Always, context_tokens);
    let text: Vec<Token> = [7, 8].into_iter().cycle().take(tokens).collect();
    for len in 7..=text.len() {
        line.say(&text[..len]).await;
    }
    line.guesses.read()
}

#[tokio::test]
async fn a_line_that_repeats_itself_is_computed_in_fewer_steps() {
    let counts = alternating(406, 1000).await;
    assert!(counts.accepted > 370 && counts.guessed < 420, "{counts:?}");
}

#[tokio::test]
async fn nothing_is_guessed_beyond_the_longest_line() {
    // The first token was sampled after the prompt, and all others guessed with it; the last was never said.
    let counts = alternating(20, 20).await;
    assert_eq!((counts.guessed, counts.accepted), (14, 13), "{counts:?}");
}

/// A worker with one line, which is made to say a given text token by token.
struct Dictation {
    orders: Sender<Order>,
    guesses: Arc<Counts>,
    vocabulary: usize,
    said: usize,
}

impl Dictation {
    fn start(folder: &Path, speculate: Speculate) -> Dictation {
        Dictation::start_within(folder, speculate, 10_000)
    }

    fn start_within(folder: &Path, speculate: Speculate, context_tokens: usize) -> Dictation {
        let source = Source::open(folder, know).unwrap();
        let spec = Spec::read(&source).unwrap();
        let tokenizer = tokenizer(&source, spec.vocabulary).unwrap();
        let model = Model::load(&source, spec, &tokenizer, 1 << 20, Kernels::pick().unwrap()).unwrap();
        let (vocabulary, guesses) = (model.spec().vocabulary, Arc::new(Counts::default()));
        let settings = Settings {
            kv: KvKind::F16,
            context_tokens,
            speculate,
            guesses: Arc::clone(&guesses),
            counters: Arc::default(),
        };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        Dictation { orders: start(model, settings, pool).unwrap(), guesses, vocabulary, said: 0 }
    }

    /// Has the line say `text`, of which all but the last token were said before, and choose that one because no
    /// other is allowed; returns the logits it was chosen by.
    async fn say(&mut self, text: &[Token]) -> Vec<f32> {
        let (token, before) = text.split_last().unwrap();
        let edit = || Edit { keep: self.said, append: before[self.said..].to_vec() };
        let mut allowed = vec![0; self.vocabulary.div_ceil(32)];
        allowed[*token as usize / 32] = 1 << (token % 32);
        let (masked, mask) = oneshot::channel();
        masked.send(Some(allowed)).unwrap();
        let (done, answer) = oneshot::channel();
        let job = Job::Next { sampling: Sampling::default(), mask, done };
        self.orders.send(Order::Work { line: LineId(0), edit: edit(), job }).unwrap();
        assert_eq!(answer.await.unwrap().unwrap(), *token);
        self.said = before.len();
        let (done, answer) = oneshot::channel();
        let edit = Edit { keep: self.said, append: Vec::new() };
        self.orders.send(Order::Work { line: LineId(0), edit, job: Job::Logits { done } }).unwrap();
        answer.await.unwrap().unwrap()
    }
}

#[tokio::test]
async fn guesses_are_computed_like_any_token_in_every_family() {
    // The checkpoints that are held against their references, so that no mixer is left out.
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models");
    for folder in std::fs::read_dir(models).unwrap() {
        let folder = folder.unwrap().path();
        let [mut plain, mut guessing] =
            [Speculate::Off, Speculate::Always].map(|speculate| Dictation::start(&folder, speculate));
        let text = Chance(9).text(300, plain.vocabulary);
        for len in 40..text.len() {
            let (expected, ours) = (plain.say(&text[..len]).await, guessing.say(&text[..len]).await);
            let same = expected.iter().map(|x| x.to_bits()).eq(ours.iter().map(|x| x.to_bits()));
            assert!(same, "{} token {len}", folder.display());
        }
        let counts = guessing.guesses.read();
        assert!(counts.accepted > 50 && counts.guessed - counts.accepted > 50, "{counts:?}");
    }
}
