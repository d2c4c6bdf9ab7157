//! Guesses and company change nothing but time: lines of engines that guess and that do not, and lines that are computed
//! together and alone, side by side.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use tokio::sync::oneshot;

use super::room::REST;
use super::{Edit, Job, Line, LineId, Order, Priority, Settings, Worker, start};
use crate::cache::{Chain, PAGE_TOKENS};
use crate::crew::Crew;
use crate::engine::tokenizer;
use crate::guess::{Counts, Guesses};
use crate::kernels::Kernels;
use crate::model::{Model, Spec, know};
use crate::shelf::Shelf;
use crate::testing::{SPECIALS, TinyModel, checkpoints};
use crate::weights::Source;
use crate::{Engine, Error, Grammar, GrammarSource, KvKind, Options, Sampling, Speculate, Timeline, Token};

fn open(model: &TinyModel, speculate: Speculate, kv: KvKind) -> Engine {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    model.write(&path);
    let options = Options { threads: 2, speculate, kv, kv_bytes: Some(0), ..Options::default() };
    // The file stays mapped when its folder is gone.
    Engine::open(&path, options, &mut |_| {}).unwrap()
}

/// The folder of a checkpoint that is kept.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name)
}

/// The kept checkpoints whose models have a predictor.
const WITH_PREDICTOR: [&str; 5] = ["deepseek_v3", "deepseek_v4", "glm4_moe", "qwen3_5_moe", "qwen3_next"];

/// Chance that is the same in every run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }

    /// Text that repeats itself, with a change now and then.
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
    // Special tokens are not among them.
    let vocabulary = plain.model().vocabulary - SPECIALS.len();
    let start = chance.text(40, vocabulary);
    for line in &mut lines[0] {
        line.sync(&start, |_| {}).await.unwrap();
    }
    // With few letters to choose from, random models repeat themselves. Without a tokenizer there are no letters.
    let few = ["start: /[xyz]{20}/", "start: /x{2,9}/ /[yz]{20}/", "start: /(x|yz){20}/"];
    let grammars = few.map(|text| plain.grammar(&GrammarSource::Lark(text.into())).ok());
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
                    let ours = ours.get_mut(act).and_then(Option::as_mut);
                    let others = others.get_mut(act).and_then(Option::as_mut);
                    let (ours, expected) = (b.next(&sampling, ours).await, a.next(&sampling, others).await);
                    assert_eq!(ours.unwrap(), expected.unwrap(), "{what} token {n}");
                }
            }
            5 => assert_eq!(logits_of(a).await, logits_of(b).await, "{what}"),
            6 => {
                let mut tokens = a.tokens().to_vec();
                tokens.truncate(tokens.len() - chance.below(3));
                let more = chance.below(20);
                tokens.extend(chance.text(more, vocabulary));
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
            assert_eq!(none.guessed(), 0);
            let wrong = counts.guessed() - counts.accepted();
            assert!(counts.accepted() > 10 && wrong > 10, "{architecture}: {counts:?}");
            assert_eq!(counts.predicted > 10, model.predictor, "{architecture}: {counts:?}");
            compare(&plain, &open(&model, Speculate::On, kv), 100).await;
        }
    }
}

#[tokio::test]
async fn what_is_said_does_not_depend_on_predictions() {
    // The same with every kind of predictor, also with one whose own memory cannot be cut everywhere.
    for name in WITH_PREDICTOR {
        let [plain, guessing, measured] =
            [Speculate::Off, Speculate::Always, Speculate::On].map(|speculate| {
                let options = Options {
                    threads: 2,
                    speculate,
                    kv_bytes: Some(0),
                    tokens_only: true,
                    ..Options::default()
                };
                Engine::open(&fixture(name), options, &mut |_| {}).unwrap()
            });
        for seed in 0..3 {
            compare(&plain, &guessing, seed).await;
        }
        let counts = guessing.guesses();
        assert!(counts.predicted > 10 && counts.looked_up > 10, "{name}: {counts:?}");
        compare(&plain, &measured, 100).await;
    }
}

/// An engine of a tiny model for which another one guesses.
fn open_with_draft(model: &TinyModel, draft: &TinyModel, speculate: Speculate) -> Engine {
    let folder = tempfile::tempdir().unwrap();
    let [path, draft_path] = ["tiny.gguf", "draft.gguf"].map(|name| folder.path().join(name));
    model.write(&path);
    draft.write(&draft_path);
    let options =
        Options { threads: 2, speculate, kv_bytes: Some(0), draft: Some(draft_path), ..Options::default() };
    Engine::open(&path, options, &mut |_| {}).unwrap()
}

#[tokio::test]
async fn what_is_said_does_not_depend_on_a_draft_model() {
    // Models and drafts with states and without; a model's own predictor gives way.
    for [architecture, draft] in [["qwen2", "llama"], ["qwen2", "qwen35moe"], ["qwen35moe", "qwen2"]] {
        let (model, draft) = (TinyModel::new(architecture), TinyModel { seed: 2, ..TinyModel::new(draft) });
        let plain = open(&model, Speculate::Off, KvKind::F16);
        let guessing = open_with_draft(&model, &draft, Speculate::Always);
        for seed in 0..4 {
            compare(&plain, &guessing, seed).await;
        }
        let counts = guessing.guesses();
        assert!(counts.predicted > 10 && counts.looked_up > 10, "{architecture}: {counts:?}");
        compare(&plain, &open_with_draft(&model, &draft, Speculate::On), 100).await;
    }
}

#[tokio::test]
async fn a_model_that_drafts_for_itself_is_always_right() {
    for architecture in ["qwen2", "qwen35moe"] {
        let model = TinyModel { predictor: false, ..TinyModel::new(architecture) };
        let engine = open_with_draft(&model, &model, Speculate::Always);
        let vocabulary = engine.model().vocabulary - SPECIALS.len();
        let mut chance = Chance(3);
        // No two tokens stand there twice, so that nothing can be looked up at first.
        let start: Vec<Token> = (0..30).map(|token| token * 7 % vocabulary as Token).collect();
        for _ in 0..8 {
            let mut line = engine.timeline();
            let mut start = start.clone();
            start.push(chance.below(vocabulary) as Token);
            line.sync(&start, |_| {}).await.unwrap();
            for _ in 0..8 {
                line.next(&Sampling::default(), None).await.unwrap();
            }
        }
        let counts = engine.guesses();
        assert!(counts.predicted >= 16, "{counts:?}");
        // What was guessed of a line's end nobody said any more.
        let unsaid = 8 * crate::guess::PREDICTIONS_MAX as u64;
        assert!(counts.predicted_rightly + unsaid >= counts.predicted, "{counts:?}");
        assert!(counts.predicted_rightly >= 16, "{counts:?}");
    }
}

#[tokio::test]
async fn a_draft_model_counts_in_what_lines_may_take() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    TinyModel::new("qwen2").write(&path);
    for draft in [None, Some(path.clone())] {
        let options = Options { threads: 2, lines_bytes: Some(40_000), draft, ..Options::default() };
        let drafts = options.draft.is_some();
        let engine = Engine::open(&path, options, &mut |_| {}).unwrap();
        let start: Vec<Token> = (0..40).collect();
        let answer = engine.timeline().sync(&start, |_| {}).await;
        assert_eq!(matches!(answer, Err(Error::NoRoom { .. })), drafts, "{answer:?}");
    }
}

#[test]
fn a_draft_model_with_another_vocabulary_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    TinyModel::new("qwen2").write(&path);
    let options = Options { draft: Some(fixture("qwen3_next")), ..Options::default() };
    let error = Engine::open(&path, options.clone(), &mut |_| {}).err().unwrap().to_string();
    assert!(error.contains("another vocabulary") && error.contains("same family"), "{error}");
    // Without guesses nobody asks for it.
    let options = Options { speculate: Speculate::Off, ..options };
    Engine::open(&path, options, &mut |_| {}).unwrap();
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
        assert!(engines[1].guesses().accepted() > 0);
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
    assert!(counts.accepted() > 370 && counts.guessed() < 420, "{counts:?}");
}

#[tokio::test]
async fn nothing_is_guessed_beyond_the_longest_line() {
    // The first token was sampled after the prompt, and all others guessed with it; the last was never said.
    let counts = alternating(20, 20).await;
    assert_eq!((counts.looked_up, counts.looked_up_rightly), (14, 13), "{counts:?}");
}

/// The model in a folder, and how lines of it are kept.
fn model(folder: &Path, speculate: Speculate, context_tokens: usize) -> (Model, Settings) {
    let source = Source::open(folder, know).unwrap();
    let mut spec = Spec::read(&source).unwrap();
    if speculate == Speculate::Off {
        spec.predictor = None;
    }
    let tokenizer = tokenizer(&source, spec.vocabulary).unwrap();
    let model = Model::load(&source, spec, &tokenizer, 1 << 20, Kernels::pick().unwrap()).unwrap();
    (
        model,
        Settings {
            kv: KvKind::F16,
            context_tokens,
            lines_bytes: u64::MAX,
            speculate,
            drafter: None,
            guesses: Arc::default(),
            counters: Arc::default(),
        },
    )
}

/// One that keeps so many bytes for other lines; with none everything is computed.
fn shelf(model: &Model, bytes: u64) -> Shelf {
    let layout = Arc::new(model.cache_layout(KvKind::F16));
    Shelf::new(layout, Chain::root(b"test"), bytes, None, Arc::default())
}

fn crew() -> Crew {
    Crew::new(2).unwrap()
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
        let (model, settings) = model(folder, speculate, context_tokens);
        let (vocabulary, guesses) = (model.spec().vocabulary, Arc::clone(&settings.guesses));
        let shelf = shelf(&model, 0);
        let orders = start(model, settings, shelf, crew()).unwrap();
        Dictation { orders, guesses, vocabulary, said: 0 }
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
        self.orders
            .send(Order::Work { line: LineId(0), edit: edit(), priority: Priority::Foreground, job })
            .unwrap();
        assert_eq!(answer.await.unwrap().unwrap(), *token);
        self.said = before.len();
        let (done, answer) = oneshot::channel();
        let edit = Edit { keep: self.said, append: Vec::new() };
        self.orders
            .send(Order::Work {
                line: LineId(0),
                edit,
                priority: Priority::Foreground,
                job: Job::Logits { done },
            })
            .unwrap();
        answer.await.unwrap().unwrap()
    }
}

#[tokio::test]
async fn guesses_are_computed_like_any_token_in_every_family() {
    for folder in checkpoints() {
        let [mut plain, mut guessing] =
            [Speculate::Off, Speculate::Always].map(|speculate| Dictation::start(&folder, speculate));
        let text = Chance(9).text(300, plain.vocabulary);
        for len in 40..text.len() {
            let (expected, ours) = (plain.say(&text[..len]).await, guessing.say(&text[..len]).await);
            let same = expected.iter().map(|x| x.to_bits()).eq(ours.iter().map(|x| x.to_bits()));
            assert!(same, "{} token {len}", folder.display());
        }
        let counts = guessing.guesses.read();
        let wrong = counts.guessed() - counts.accepted();
        assert!(counts.accepted() > 50 && wrong > 50, "{counts:?}");
    }
}

/// A worker that is not started: its lines are worked on from here.
fn bench(folder: &Path, kept_bytes: u64) -> Worker {
    let (model, settings) = model(folder, Speculate::Always, 10_000);
    let shelf = shelf(&model, kept_bytes);
    Worker::new(model, settings, shelf)
}

type Answer = oneshot::Receiver<Result<Vec<f32>, Error>>;

/// The bits of what was answered, if it was.
fn bits(answer: &mut Answer) -> Option<Vec<u32>> {
    let logits = answer.try_recv().ok()?.unwrap();
    Some(logits.into_iter().map(f32::to_bits).collect())
}

impl Worker {
    /// Has a line keep so many tokens and say more of them, and computes all.
    fn say(&mut self, line: LineId, keep: usize, append: &[Token]) {
        let _answer = self.ask(line, keep, append, Priority::Foreground);
        while self.pass() {}
    }

    /// Has a line keep so many tokens and say more of them, and asks for the logits of what follows.
    fn ask(&mut self, line: LineId, keep: usize, append: &[Token], priority: Priority) -> Answer {
        let (done, answer) = oneshot::channel();
        let edit = Edit { keep, append: append.to_vec() };
        self.accept(Order::Work { line, edit, priority, job: Job::Logits { done } });
        answer
    }

    /// What the predictor guesses to follow a line once it says one token more, which is not computed.
    fn predicted(&mut self, line: LineId, token: Token, count: usize) -> Vec<Token> {
        let keep = self.line(line).tokens.len();
        self.edit(line, Edit { keep, append: vec![token] });
        let Worker { model, lines, scratch, .. } = self;
        let line = lines.get_mut(&line).unwrap();
        let outlook = line.outlook.as_mut().unwrap();
        assert!(outlook.reaches(&line.tokens), "the predictor is shown all that is computed");
        outlook.predict(model.predictor().unwrap(), &line.tokens, count, scratch)
    }
}

#[test]
fn a_line_that_was_cut_or_forked_is_predicted_like_a_new_one() {
    // Predictions that are made of a wrong past would only be seen in how seldom they are right.
    for name in WITH_PREDICTOR {
        let mut worker = bench(&fixture(name), 0);
        let mut chance = Chance(3);
        let mut text = chance.text(300, 120);
        worker.say(LineId(0), 0, &text);
        for step in 0..60 {
            let keep = match chance.below(4) {
                0 => text.len(),
                1 => text.len() - chance.below(3),
                2 => chance.below(text.len()).max(2),
                // Where lines with states have a mark.
                _ => text.len().min(256),
            };
            text.truncate(keep);
            let more = [0, 1, 2, 40, 300][chance.below(5)];
            text.extend(chance.text(more, 120));
            worker.say(LineId(0), keep, &text[keep..]);
            if step % 5 == 0 {
                let (done, edit) = (oneshot::channel().0, Edit { keep: text.len(), append: Vec::new() });
                worker.accept(Order::Fork { from: LineId(0), edit, to: LineId(1), done });
                let mut other = text.clone();
                let keep = other.len() - chance.below(other.len() / 2);
                other.truncate(keep);
                other.extend(chance.text(3, 120));
                worker.say(LineId(1), keep, &other[keep..]);
            }
            worker.say(LineId(2), 0, &text);
            let next = chance.below(120) as Token;
            let [ours, new] = [LineId(0), LineId(2)].map(|line| worker.predicted(line, next, 3));
            assert_eq!(ours, new, "{name} step {step}");
            // Predictions leave nothing behind: the same are made again from a line that goes on.
            text.push(next);
            text.extend(&new[..1]);
            worker.say(LineId(0), text.len() - 1, &new[..1]);
            worker.accept(Order::Close(LineId(1)));
            worker.accept(Order::Close(LineId(2)));
        }
    }
}

#[test]
fn a_line_that_goes_on_from_another_is_predicted_too() {
    // What is kept of a line for others says nothing of its predictor, so that takes up the line where it goes on.
    for name in WITH_PREDICTOR {
        let [mut worker, mut plain] = [1 << 30, 0].map(|kept_bytes| bench(&fixture(name), kept_bytes));
        let mut chance = Chance(5);
        let text = chance.text(900, 120);
        worker.say(LineId(0), 0, &text);
        worker.accept(Order::Close(LineId(0)));
        let (line, mut said) = (LineId(1), Vec::new());
        for (keep, len) in [(0, 880), (860, 890), (700, 750), (100, 120), (40, 900), (0, 30)] {
            said.truncate(keep);
            let known = said.len();
            said.extend(&text[known..len - 3]);
            said.extend(chance.text(3, 120));
            worker.say(line, keep, &said[known..]);
            plain.say(LineId(0), 0, &said);
            let [ours, expected] = [&worker.lines[&line], &plain.lines[&LineId(0)]];
            let bits = |line: &Line| line.logits.iter().flatten().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert!(!bits(expected).is_empty() && bits(ours) == bits(expected), "{name} {keep} {len}");
            said.push(7);
            let [first, second] = [(); 2].map(|()| {
                let predicted = worker.predicted(line, 7, 2);
                // The token that was said for it is taken back.
                worker.say(line, said.len() - 1, &[]);
                predicted
            });
            assert_eq!(first, second, "{name} {keep} {len}");
            said.pop();
        }
    }
}

/// A text that says what the predictor guesses, one, two or three tokens at a time, and something else in between.
fn foreseen(folder: &Path, count: usize) -> Vec<Token> {
    let (mut worker, line) = (bench(folder, 0), LineId(0));
    let mut chance = Chance(4);
    let mut text = chance.text(3, 120);
    worker.say(line, 0, &text);
    while text.len() < count {
        let next = chance.below(120) as Token;
        let right = 1 + chance.below(3);
        text.push(next);
        let keep = text.len();
        text.extend(&worker.predicted(line, next, 3)[..right]);
        worker.say(line, keep, &text[keep..]);
    }
    text
}

#[tokio::test]
async fn a_line_that_says_what_is_predicted_is_computed_in_fewer_steps() {
    // Random models say nothing that their predictors foresee, so they are made to.
    for name in WITH_PREDICTOR {
        let folder = fixture(name);
        let text = foreseen(&folder, 300);
        let [mut plain, mut guessing] =
            [Speculate::Off, Speculate::Always].map(|speculate| Dictation::start(&folder, speculate));
        for len in 3..text.len() {
            let (expected, ours) = (plain.say(&text[..len]).await, guessing.say(&text[..len]).await);
            let same = expected.iter().map(|x| x.to_bits()).eq(ours.iter().map(|x| x.to_bits()));
            assert!(same, "{name} token {len}");
        }
        let counts = guessing.guesses.read();
        // Of three tokens about two are foreseen, unless the line happened to say the same before.
        assert!(counts.predicted_rightly > 100 && counts.predicted > 200, "{name}: {counts:?}");
    }
}

#[test]
fn what_a_line_says_does_not_depend_on_who_else_runs() {
    // With every family's mixers, routers and residuals: lines of all lengths, some of them at their prompt, some at a
    // reply, some that were cut or forked, go through the model together or one after the other.
    for folder in checkpoints() {
        let [mut together, mut alone] = [(); 2].map(|()| bench(&folder, 0));
        let mut chance = Chance(11);
        let mut texts: Vec<Vec<Token>> = (0..7).map(|_| Vec::new()).collect();
        for round in 0..12 {
            let mut answers = Vec::new();
            for (i, text) in texts.iter_mut().enumerate() {
                let line = LineId(i as u64);
                let keep = if text.is_empty() || chance.below(4) > 0 {
                    text.len()
                } else {
                    text.len() - chance.below(text.len().min(300))
                };
                text.truncate(keep);
                let more = [1, 1, 1, 2, 17, 90, 400][chance.below(7)];
                text.extend(chance.text(more, 100));
                answers.push(together.ask(line, keep, &text[keep..], Priority::Foreground));
                alone.say(line, keep, &text[keep..]);
            }
            while together.pass() {}
            for (i, answer) in answers.iter_mut().enumerate() {
                let expected = alone.lines[&LineId(i as u64)].logits.iter().flatten();
                let expected: Vec<u32> = expected.map(|x| x.to_bits()).collect();
                let what = format!("{} round {round} line {i}", folder.display());
                assert_eq!(bits(answer).as_ref(), Some(&expected), "{what}");
            }
            if round % 3 == 2 {
                // One goes on as a fork of another.
                let [from, to] = [chance.below(7), chance.below(7)];
                let text = texts[from].clone();
                for worker in [&mut together, &mut alone] {
                    let (done, edit) = (oneshot::channel().0, Edit { keep: text.len(), append: Vec::new() });
                    worker.accept(Order::Fork {
                        from: LineId(from as u64),
                        edit,
                        to: LineId(to as u64),
                        done,
                    });
                }
                texts[to] = text;
            }
        }
        let done = together.settings.counters.read();
        assert!(done.lines_in_passes > 2 * done.passes, "{}: {done:?}", folder.display());
    }
}

#[test]
fn what_several_lines_begin_with_is_computed_once() {
    // Parts of one task start at the same moment with the same instructions.
    let folder = fixture("qwen2");
    let mut worker = bench(&folder, 1 << 30);
    let mut chance = Chance(3);
    let start = chance.text(1000, 100);
    let mut answers = Vec::new();
    for i in 0..4 {
        let text = [&start[..], &chance.text(20, 100)].concat();
        answers.push((worker.ask(LineId(i), 0, &text, Priority::Foreground), text));
    }
    while worker.pass() {}
    let computed = worker.settings.counters.read().prefilled_tokens;
    assert!(computed < 1000 + 4 * 20 + 4 * PAGE_TOKENS as u64, "{computed} tokens");
    let mut alone = bench(&folder, 0);
    for (i, (answer, text)) in answers.iter_mut().enumerate() {
        let mut expected = alone.ask(LineId(i as u64), 0, text, Priority::Foreground);
        while alone.pass() {}
        assert_eq!(bits(answer), bits(&mut expected), "line {i}");
    }
}

#[test]
fn the_foreground_goes_first() {
    let mut worker = bench(&fixture("qwen2"), 0);
    let mut chance = Chance(3);
    let mut background = worker.ask(LineId(0), 0, &chance.text(2000, 100), Priority::Background);
    let mut foreground = worker.ask(LineId(1), 0, &chance.text(2000, 100), Priority::Foreground);
    while bits(&mut foreground).is_none() {
        assert!(worker.pass());
        assert!(bits(&mut background).is_none(), "the background came first");
    }
    let ahead = worker.lines[&LineId(0)].cache.tokens();
    assert!((1..1500).contains(&ahead), "{ahead} tokens of the background were computed meanwhile");
    while worker.pass() {}
    assert!(bits(&mut background).is_some());
}

#[test]
fn lines_wait_for_room_and_those_that_rest_make_it() {
    let folder = fixture("qwen2");
    let mut worker = bench(&folder, 0);
    let mut chance = Chance(3);
    let text = chance.text(1200, 100);
    // Two such lines have no room at once.
    worker.settings.lines_bytes = worker.layout.bytes(2000);
    let mut first = worker.ask(LineId(0), 0, &text, Priority::Foreground);
    let mut second = worker.ask(LineId(1), 0, &text, Priority::Foreground);
    while worker.pass() {}
    let expected = bits(&mut first);
    assert!(expected.is_some() && bits(&mut second).is_none(), "one waits for the other");
    // Somebody who has just said something goes on, though another one waits.
    let mut again = worker.ask(LineId(0), text.len(), &[5], Priority::Foreground);
    while worker.pass() {}
    assert!(bits(&mut again).is_some() && bits(&mut second).is_none());
    worker.lines.get_mut(&LineId(0)).unwrap().used -= 2 * REST;
    while worker.pass() {}
    assert_eq!(bits(&mut second), expected);
    assert_eq!(worker.lines[&LineId(0)].cache.tokens(), 0, "the line that rested made room");
    // It goes on as if nothing had happened, once the other one is gone.
    let mut again = worker.ask(LineId(0), text.len(), &[], Priority::Foreground);
    worker.accept(Order::Close(LineId(1)));
    while worker.pass() {}
    assert_eq!(bits(&mut again), expected);
    // Two that have begun and want more than there is do not wait for each other for ever.
    worker.say(LineId(4), 0, &text[..700]);
    let mut both = [LineId(0), LineId(4)].map(|line| {
        let keep = worker.lines[&line].tokens.len();
        worker.ask(line, keep, &text[..700], Priority::Foreground)
    });
    for _ in 0..1000 {
        worker.pass();
    }
    let answered = both.iter_mut().filter_map(bits).count();
    assert_eq!(answered, 1, "one is done, and the other waits until that rests");
    for line in worker.lines.values_mut() {
        line.used -= 2 * REST;
    }
    while worker.pass() {}
    assert_eq!(both.iter_mut().filter_map(bits).count(), 1);
    for line in [LineId(0), LineId(4)] {
        worker.accept(Order::Close(line));
    }
    // What can never have room is told so, and delays nobody.
    let mut large = worker.ask(LineId(2), 0, &chance.text(2100, 100), Priority::Foreground);
    let mut small = worker.ask(LineId(3), 0, &text[..30], Priority::Foreground);
    while worker.pass() {}
    match large.try_recv().unwrap() {
        Err(Error::NoRoom { asked, limit }) => assert!(asked > limit),
        other => panic!("{other:?}"),
    }
    assert!(bits(&mut small).is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_that_are_written_at_the_same_time_are_what_they_are_alone() {
    // Through the whole engine: sampled, with a grammar, guessed, and interrupted at random moments.
    for architecture in ["qwen2", "deepseek2", "qwen35moe"] {
        let model = TinyModel::new(architecture);
        let [shared, single] = [Speculate::On, Speculate::Off].map(|s| open(&model, s, KvKind::F16));
        let grammar = shared.grammar(&GrammarSource::Lark("start: /[xyz]{40}/".into())).unwrap();
        let mut replies = Vec::new();
        for i in 0..8 {
            let (engine, grammar) = (shared.clone(), grammar.clone());
            replies.push(tokio::spawn(async move {
                let (mut chance, mut line) = (Chance(i), engine.timeline());
                let mut grammar = (i % 2 == 0).then_some(grammar);
                let start = 20 + chance.below(300);
                let prompt = chance.text(start, 100);
                line.sync(&prompt, |_| {}).await.unwrap();
                let sampling = Sampling { temperature: 0.8, seed: i, ..Sampling::default() };
                while line.tokens().len() < prompt.len() + 30 {
                    let stop = Duration::from_micros(chance.below(3000) as u64);
                    // One that is interrupted in the middle of a grammar has moved on in it, so those are not.
                    if grammar.is_none() && chance.below(5) == 0 {
                        let _ = tokio::time::timeout(stop, line.next(&sampling, None)).await;
                    } else {
                        line.next(&sampling, grammar.as_mut()).await.unwrap();
                    }
                }
                (prompt, sampling, line.tokens().to_vec())
            }));
        }
        for (i, reply) in replies.into_iter().enumerate() {
            let (prompt, sampling, said) = reply.await.unwrap();
            let mut grammar = (i % 2 == 0).then(|| grammar.clone());
            let mut line = single.timeline();
            line.sync(&prompt, |_| {}).await.unwrap();
            while line.tokens().len() < said.len() {
                line.next(&sampling, grammar.as_mut()).await.unwrap();
            }
            assert_eq!(line.tokens(), said, "{architecture} reply {i}");
        }
        let done = shared.activity();
        assert!(done.lines_in_passes > done.passes, "{done:?}");
    }
}
