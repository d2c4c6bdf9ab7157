//! Every decision, as a table: what has happened, and the one next thing to do.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use agent::{Action, Budget, Checked, Created, End, Event, Goal, Loop, Recorded, State, Stop, Usage};
use expect_test::{Expect, expect};
use memory::Seq;
use tools::{Call, Outcome, Replay};

/// Folds a history told in words and says what comes next.
fn check(history: &str, expect: Expect) {
    let state = State::fold(&events(history));
    expect.assert_eq(&say(&state.next()));
}

fn events(history: &str) -> Vec<Recorded> {
    let mut step = 0;
    let mut turn = 0;
    history
        .split_whitespace()
        .enumerate()
        .map(|(i, word)| {
            let (word, rest) = word.split_once(':').unwrap_or((word, ""));
            let event = match word {
                "created" => Event::from(created()),
                "minded" => Event::from(minded()),
                "kept" => Event::from(Created { checkpoints: true, ..created() }),
                "pursuing" => Event::from(pursuing(Goal::command("make test"))),
                "convinced" => Event::from(pursuing(Goal::judged("it works"))),
                "dropped" => Event::GoalDropped,
                "checking" => Event::GoalChecking {
                    check: rest.parse().unwrap(),
                    call: Some(Call { id: format!("g{rest}"), ..call("make") }),
                },
                "judging" => Event::GoalChecking { check: rest.parse().unwrap(), call: None },
                "unmet" => Event::GoalChecked(checked(rest, false)),
                "met" => Event::GoalChecked(checked(rest, true)),
                "barred" => {
                    Event::GoalChecked(Checked { barred: Some("a rule".into()), ..checked(rest, false) })
                }
                "check" => Event::Checkpoint { tree: Some(tree()), trouble: None },
                "uncovered" => Event::Checkpoint { tree: None, trouble: Some("too large".into()) },
                "back" => Event::Rewound { to: Seq(rest.parse().unwrap()), tree: tree() },
                "recalled" => Event::Recalled {
                    notes: (!rest.is_empty()).then(|| note(rest)).into_iter().collect(),
                    trouble: None,
                },
                "asked" => Event::ApprovalAsked { id: rest.into(), why: "beyond".into(), until_ms: None },
                "yes" => Event::ApprovalGiven { id: rest.into(), allowed: true, always: false, by: None },
                "always" => Event::ApprovalGiven { id: rest.into(), allowed: true, always: true, by: None },
                "denied" => Event::CallDenied { id: rest.into(), why: "a rule".into() },
                "no" => Event::ApprovalGiven { id: rest.into(), allowed: false, always: false, by: None },
                "learned" => Event::Learned { turn, notes: Vec::new() },
                "ask" => Event::Input { id: format!("i{i}"), text: "Do it.".into() },
                "turn" => {
                    turn += 1;
                    Event::TurnStarted { turn }
                }
                "step" => {
                    step += 1;
                    Event::StepStarted { step }
                }
                "reply" => Event::Reply {
                    step,
                    tokens: vec![1],
                    text: "Well.".into(),
                    calls: rest.split(',').filter(|name| !name.is_empty()).map(call).collect(),
                    refused: Vec::new(),
                    stop: Stop::End,
                    usage: Usage { output_tokens: 10, ..Usage::default() },
                },
                "cut" => Event::Reply {
                    step,
                    tokens: vec![1],
                    text: "We".into(),
                    calls: Vec::new(),
                    refused: Vec::new(),
                    stop: Stop::Interrupted,
                    usage: Usage::default(),
                },
                "start" => Event::CallStarted { id: rest.into(), replay: Replay::Unsafe, before: None },
                "peek" => Event::CallStarted { id: rest.into(), replay: Replay::Safe, before: None },
                "done" => Event::CallFinished {
                    id: rest.into(),
                    outcome: Outcome::refused("no"),
                    left: None,
                    recalled: Vec::new(),
                },
                "lost" => Event::CallLost { id: rest.into() },
                "noticed" => {
                    let (id, times) = rest.split_once('*').unwrap();
                    Event::Looping { step, what: again(id, times.parse().unwrap()) }
                }
                "stop" => Event::Interrupted,
                "end" => Event::TurnEnded { turn, end: End::Done },
                other => panic!("no such word: {other}"),
            };
            Recorded { seq: Seq(i as u64 + 1), at_ms: i as u64, event }
        })
        .collect()
}

fn created() -> Created {
    Created {
        workspace: "/w".into(),
        model: "m".into(),
        dialect: "hermes".into(),
        system: "s".into(),
        tools: Vec::new(),
        budget: Budget { steps_max: 3, output_tokens_max: 25, reply_tokens_max: 100, ..Budget::default() },
        sampling: engine::Sampling::default(),
        led: false,
        check: None,
        memory: false,
        checkpoints: false,
        told: Vec::new(),
        context_tokens: None,
        ..Created::default()
    }
}

/// A session with a goal, which is given up when two checks of a turn have said no.
fn pursuing(goal: Goal) -> Created {
    Created { until: Some(Goal { rounds_max: 2, ..goal }), ..created() }
}

fn checked(check: &str, met: bool) -> Checked {
    Checked {
        check: check.parse().unwrap(),
        met,
        said: "2 tests fail".into(),
        evidence: Vec::new(),
        barred: None,
        usage: None,
    }
}

fn tree() -> tools::checkpoint::Tree {
    "0".repeat(64).parse().unwrap()
}

/// A session with a memory, whose commands reach beyond the workspace.
fn minded() -> Created {
    let exec = tools::Spec {
        name: "exec".into(),
        description: "Runs.".into(),
        parameters: serde_json::json!({"type": "object"}),
        replay: Replay::Unsafe,
        bounds: Vec::new(),
        reach: tools::Reach::Outside,
    };
    Created { memory: true, tools: vec![exec], ..created() }
}

fn note(trust: &str) -> agent::Recollection {
    agent::Recollection {
        id: memory::NoteId(1),
        kind: memory::Kind::Fact,
        author: "ada".into(),
        trust: serde_json::from_value(trust.into()).unwrap(),
        at_ms: 0,
        text: "so it is".into(),
        accepted: false,
        but: None,
    }
}

fn call(id: &str) -> Call {
    // What comes before a dash is what the call does.
    let does = id.split('-').next().unwrap();
    Call { id: id.into(), name: "exec".into(), arguments: serde_json::json!({ "command": does }) }
}

fn again(id: &str, times: u32) -> Loop {
    Loop::Call { id: id.into(), name: "exec".into(), times }
}

fn say(action: &Action) -> String {
    match action {
        Action::Rest => "rest".into(),
        Action::Begin { turn } => format!("begin turn {turn}"),
        Action::Recall { said } => format!("recall {said}"),
        Action::Ask { call, why } => format!("ask about {}: {why}", call.id),
        Action::Learn { turn } => format!("learn from turn {turn}"),
        Action::Reflect { turn } => format!("reflect on turn {turn}"),
        Action::Think { step } => format!("think step {step}"),
        Action::Act(call) => format!("act {}", call.id),
        Action::Lose(call) => format!("lose {}", call.id),
        Action::Undo { files, note } => format!("undo {} files: {note}", files.len()),
        Action::Audit { check } => format!("audit {check}"),
        Action::Conclude { check } => format!("conclude {check}"),
        Action::Merge { child } => format!("merge {child}"),
        Action::Return(call) => format!("return {}", call.id),
        Action::Compact => "compact".into(),
        Action::Checkpoint => "checkpoint".into(),
        Action::Notice(what) => format!("notice {}", serde_json::to_string(what).unwrap()),
        Action::End { turn, end } => format!("end turn {turn}: {}", serde_json::to_string(end).unwrap()),
    }
}

#[test]
fn nothing_asked_nothing_done() {
    check("", expect!["rest"]);
    check("created", expect!["rest"]);
}

#[test]
fn a_session_with_a_memory_recalls_before_it_thinks_and_learns_after_the_turn() {
    check("minded ask turn", expect!["learn from turn 1"]);
    check("minded ask turn learned", expect!["recall Do it."]);
    check("minded ask turn learned recalled", expect!["think step 1"]);
    // What is said while a step runs is recalled to as well.
    check("minded ask turn learned recalled step ask reply", expect!["learn from turn 1"]);
    check("minded ask turn learned recalled step ask reply learned", expect!["recall Do it."]);
    check("minded ask turn learned recalled step reply end", expect!["learn from turn 1"]);
    check("minded ask turn learned recalled step reply end learned", expect!["rest"]);
    check("minded ask turn learned recalled step reply end ask", expect!["learn from turn 1"]);
    check("minded ask turn learned recalled step reply end ask learned", expect!["begin turn 2"]);
    check("created ask turn step reply end", expect!["rest"]);
}

#[test]
fn a_turn_with_a_goal_ends_when_it_is_reached_or_given_up() {
    let answered = "pursuing ask turn step reply";
    check("pursuing ask turn", expect!["think step 1"]);
    check(answered, expect!["audit 1"]);
    check(&format!("{answered} checking:1"), expect!["act g1"]);
    // Whoever names a check says that it may run any number of times.
    check(&format!("{answered} checking:1 peek:g1"), expect!["act g1"]);
    check(&format!("{answered} checking:1 peek:g1 done:g1"), expect!["conclude 1"]);
    check(
        &format!("{answered} checking:1 peek:g1 done:g1 met:1"),
        expect![[r#"end turn 1: {"why":"done"}"#]],
    );
    check(&format!("{answered} checking:1 peek:g1 done:g1 unmet:1"), expect!["think step 2"]);
    check(&format!("{answered} checking:1 peek:g1 done:g1 unmet:1 step reply"), expect!["audit 2"]);
    let given_up = format!(
        "{answered} checking:1 peek:g1 done:g1 unmet:1 step reply checking:2 peek:g2 done:g2 unmet:2"
    );
    check(
        &given_up,
        expect![[
            r#"end turn 1: {"why":"goal_unmet","question":"the goal was checked 2 times and is not reached: `make test` exits with 0; say how to go on"}"#
        ]],
    );
    // It rests then, and has all its rounds again when somebody says how to go on.
    check(&format!("{given_up} end"), expect!["rest"]);
    check(&format!("{given_up} end ask turn step reply"), expect!["audit 3"]);
    // What cannot be checked is asked about at once.
    check(&format!("{answered} checking:1 denied:g1"), expect!["conclude 1"]);
    check(
        &format!("{answered} checking:1 denied:g1 barred:1"),
        expect![[r#"end turn 1: {"why":"goal_unmet","question":"the goal cannot be checked: a rule"}"#]],
    );
    // A check that the service did not survive three times is not tried a fourth time.
    check(&format!("{answered} checking:1 peek:g1 peek:g1"), expect!["act g1"]);
    check(&format!("{answered} checking:1 peek:g1 peek:g1 peek:g1"), expect!["conclude 1"]);
    // Somebody who says more is heard first, and nothing is done by a check that looked at less.
    check(&format!("{answered} checking:1 ask"), expect!["think step 2"]);
    check(&format!("{answered} checking:1 peek:g1 ask done:g1"), expect!["think step 2"]);
    check(&format!("{answered} checking:1 peek:g1 ask done:g1 met:1 step reply"), expect!["audit 2"]);
    check(
        &format!("{answered} checking:1 peek:g1 stop done:g1"),
        expect![[r#"end turn 1: {"why":"interrupted"}"#]],
    );
    // A goal is reached once, or taken back.
    let reached = "pursuing ask turn step reply checking:1 peek:g1 done:g1 met:1 end";
    check(&format!("{reached} ask turn step reply"), expect![[r#"end turn 2: {"why":"done"}"#]]);
    check(&format!("{answered} dropped"), expect![[r#"end turn 1: {"why":"done"}"#]]);
    check(&format!("{answered} checking:1 peek:g1 dropped"), expect![[r#"end turn 1: {"why":"done"}"#]]);
}

#[test]
fn what_a_check_says_is_told_and_leaves_no_answer_to_a_call_nobody_made() {
    let told = |history: &str| {
        let state = State::fold(&events(history));
        let messages: Vec<String> = state
            .conversation()
            .iter()
            .skip(1)
            .map(|message| match message {
                agent::Message::User { text } => format!("user: {}", text.lines().next().unwrap_or_default()),
                agent::Message::Assistant { .. } => "reply".to_string(),
                agent::Message::Results { answers } => format!("{} answers", answers.len()),
                agent::Message::System { .. } => "system".to_string(),
            })
            .collect();
        (messages.join(" | "), state.waiting())
    };
    let round = "pursuing ask turn step reply checking:1 peek:g1 done:g1 unmet:1";
    let (messages, waiting) = told(&format!("{round} step"));
    assert!(
        messages.starts_with(
            "user: Do it. | reply | user: [From the service, not from the user: the goal is not reached."
        ),
        "{messages}"
    );
    assert_eq!((messages.matches('|').count(), waiting), (2, 0));
    // It begins no turn by itself, and is told with what somebody says next.
    check(&format!("{round} stop end"), expect!["rest"]);
    let (messages, _) = told(&format!("{round} stop end ask turn step"));
    assert!(
        messages.contains("the goal is not reached. Its check, the command make test")
            && messages.ends_with("user: Do it."),
        "{messages}"
    );
    // A check that somebody came in between with leaves nothing behind.
    let (messages, _) = told("pursuing ask turn step reply checking:1 peek:g1 ask done:g1 step");
    assert_eq!(messages, "user: Do it. | reply | user: Do it.");
}

#[test]
fn a_goal_costs_what_the_budget_has() {
    // 3 steps in a turn, 25 tokens; each reply takes 10.
    let twice = "step reply checking:1 peek:g1 done:g1 unmet:1 step reply checking:2 peek:g2 done:g2";
    check("convinced ask turn step reply", expect!["audit 1"]);
    check("convinced ask turn step reply judging:1", expect!["audit 2"]);
    check("convinced ask turn step reply judging:1 unmet:1", expect!["think step 2"]);
    // A command still says whether the last step has got there; a judgement is not asked for beyond the budget.
    check(
        "pursuing ask turn step reply:a peek:a done:a step reply:b peek:b done:b step reply",
        expect!["audit 1"],
    );
    check(
        "convinced ask turn step reply:a peek:a done:a step reply:b peek:b done:b step reply",
        expect![[r#"end turn 1: {"why":"budget","limit":"3 steps in a turn"}"#]],
    );
    check(
        &format!("pursuing ask turn step reply:a peek:a done:a {twice} unmet:2"),
        expect![[
            r#"end turn 1: {"why":"goal_unmet","question":"the goal was checked 2 times and is not reached: `make test` exits with 0; say how to go on"}"#
        ]],
    );
}

#[test]
fn the_workspace_is_kept_before_a_turn_and_after_what_may_have_changed_it() {
    check("created ask turn", expect!["think step 1"]);
    check("kept ask turn", expect!["checkpoint"]);
    check("kept ask turn check", expect!["think step 1"]);
    // Looking changes nothing.
    check("kept ask turn check step reply:a peek:a done:a", expect!["think step 2"]);
    check("kept ask turn check step reply:a,b start:a done:a", expect!["act b"]);
    check("kept ask turn check step reply:a start:a done:a", expect!["checkpoint"]);
    check("kept ask turn check step reply:a start:a done:a check", expect!["think step 2"]);
    // Also what was done by a call whose outcome nobody knows, and before a turn is given up.
    check("kept ask turn check step reply:a start:a lost:a", expect!["checkpoint"]);
    check("kept ask turn check step reply:a start:a done:a stop", expect!["checkpoint"]);
    check(
        "kept ask turn check step reply:a start:a done:a stop check",
        expect![[r#"end turn 1: {"why":"interrupted"}"#]],
    );
    // What cannot be kept is not tried after every step.
    check("kept ask turn uncovered step reply:a start:a done:a", expect!["think step 2"]);
    check("kept ask turn uncovered step reply end ask turn", expect!["checkpoint"]);
}

#[test]
fn what_was_wound_back_has_not_happened() {
    // Places: created 1, ask 2, turn 3, check 4, step 5, reply 6, start 7, done 8, check 9.
    let history = "kept ask turn check step reply:a start:a done:a check";
    check(&format!("{history} back:4"), expect!["rest"]);
    check(&format!("{history} back:4 ask"), expect!["begin turn 2"]);
    check(&format!("{history} back:9"), expect!["rest"]);
    check(&format!("{history} stop end back:9 ask turn check"), expect!["think step 2"]);
    let conversation = |history: &str| State::fold(&events(history)).conversation().len();
    assert_eq!(conversation(&format!("{history} step")), 4);
    assert_eq!(conversation(&format!("{history} step stop end back:4 ask turn check step")), 2);
    // And forward again, to a place that was wound back.
    assert_eq!(conversation(&format!("{history} back:4 back:9 ask turn check step")), 5);
    assert_eq!(
        conversation(&format!("{history} back:4 ask turn check step reply end back:9 ask turn check step")),
        5
    );
    // What it cost is spent, and what was sent is known.
    let state = State::fold(&events(&format!("{history} back:4")));
    assert_eq!(state.usage().output_tokens, 10);
    assert!(state.input("i1").is_some());
    assert_eq!(state.checkpoints().len(), 1);
}

#[test]
fn what_reaches_beyond_waits_for_a_person_once_something_was_read() {
    check("minded ask turn learned recalled step reply:a", expect!["act a"]);
    check("minded ask turn learned recalled:user_said step reply:a", expect!["act a"]);
    let why = "it reaches beyond the workspace, and the session has read what nobody vouches for";
    for trust in ["external_text", "model_inferred"] {
        let expected = format!("ask about a: {why}");
        let history = format!("minded ask turn learned recalled:{trust} step reply:a");
        assert_eq!(say(&State::fold(&events(&history)).next()), expected);
        // It stays in the prompt.
        let history = format!(
            "minded ask turn learned recalled:{trust} step reply end learned ask turn learned recalled step reply:a"
        );
        assert_eq!(say(&State::fold(&events(&history)).next()), expected);
    }
    check(
        "minded ask turn learned recalled step reply:a start:a done:a step reply:b",
        expect![
            "ask about b: it reaches beyond the workspace, and the session has read what nobody vouches for"
        ],
    );
    let asked = "minded ask turn learned recalled:external_text step reply:a,b asked:a";
    check(asked, expect!["rest"]);
    check(&format!("{asked} ask"), expect!["rest"]);
    check(&format!("{asked} yes:a"), expect!["act a"]);
    check(&format!("{asked} yes:a start:a"), expect!["lose a"]);
    check(
        &format!("{asked} no:a"),
        expect![
            "ask about b: it reaches beyond the workspace, and the session has read what nobody vouches for"
        ],
    );
    check(&format!("{asked} stop"), expect![[r#"end turn 1: {"why":"interrupted"}"#]]);
    check(&format!("{asked} stop end learned"), expect!["rest"]);
    // An answer to a question that nobody asked allows nothing.
    check(
        "minded ask turn learned recalled:external_text step reply:a yes:a",
        expect![
            "ask about a: it reaches beyond the workspace, and the session has read what nobody vouches for"
        ],
    );
}

#[test]
fn a_turn_runs_from_the_question_to_the_reply_without_calls() {
    check("created ask", expect!["begin turn 1"]);
    check("created ask turn", expect!["think step 1"]);
    check("created ask turn step reply:a,b", expect!["act a"]);
    check("created ask turn step reply:a,b start:a done:a", expect!["act b"]);
    check("created ask turn step reply:a start:a done:a", expect!["think step 2"]);
    check(
        "created ask turn step reply:a start:a done:a step reply",
        expect![[r#"end turn 1: {"why":"done"}"#]],
    );
    check("created ask turn step reply end", expect!["rest"]);
    check("created ask turn step reply end ask", expect!["begin turn 2"]);
}

#[test]
fn what_a_crash_left_open_is_settled_first() {
    check("created ask turn step", expect!["think step 2"]);
    check("created ask turn step reply:a,b start:a", expect!["lose a"]);
    check("created ask turn step reply:a,b start:a lost:a", expect!["act b"]);
    check("created ask turn step reply:a,b peek:a", expect!["act a"]);
    check("created ask turn step reply:a start:a stop", expect!["lose a"]);
}

#[test]
fn an_interrupt_ends_the_turn_whatever_is_left() {
    check("created ask turn stop", expect![[r#"end turn 1: {"why":"interrupted"}"#]]);
    check("created ask turn step reply:a,b stop", expect![[r#"end turn 1: {"why":"interrupted"}"#]]);
    check("created ask turn step stop cut", expect![[r#"end turn 1: {"why":"interrupted"}"#]]);
    // An interrupt that came after the end stops nothing.
    check("created ask turn step reply end stop ask", expect!["begin turn 2"]);
}

#[test]
fn an_input_during_the_last_reply_is_answered_in_the_same_turn() {
    check("created ask turn step ask reply", expect!["think step 2"]);
    check("created ask turn step reply ask", expect!["think step 2"]);
}

#[test]
fn a_budget_ends_the_turn_before_the_next_thought() {
    let step = |name: &str| format!("step reply:{name} start:{name} done:{name} ");
    let steps = |count: usize| ["a", "b", "c"][..count].iter().map(|name| step(name)).collect::<String>();
    check(
        &format!("created ask turn {}", "step ".repeat(3)),
        expect![[r#"end turn 1: {"why":"budget","limit":"3 steps in a turn"}"#]],
    );
    check(&format!("created ask turn {}", steps(2)), expect!["think step 3"]);
    check(
        &format!("created ask turn {}", steps(3)),
        expect![[r#"end turn 1: {"why":"budget","limit":"3 steps in a turn"}"#]],
    );
    // The next turn has a budget of its own.
    check(&format!("created ask turn {} end ask turn", steps(3)), expect!["think step 4"]);
}

#[test]
fn a_call_that_is_asked_for_again_and_again_is_noticed_once() {
    // People are told; what is done about it is not decided here, so the call runs like any other.
    let step = |id: &str| format!("step reply:{id} start:{id} done:{id} ");
    let twice = format!("created ask turn {}{}", step("a-1"), step("a-2"));
    check(
        &format!("{twice} step reply:a-3"),
        expect![[r#"notice {"of":"call","id":"a-3","name":"exec","times":3}"#]],
    );
    check(&format!("{twice} step reply:a-3 noticed:a-3*3"), expect!["act a-3"]);
    check(
        &format!("{twice} step reply:b,a-3"),
        expect![[r#"notice {"of":"call","id":"a-3","name":"exec","times":3}"#]],
    );
    // Twice in one step is once; something else in between is no circle; nor is what a person asks for again.
    check(&format!("{twice} step reply:b"), expect!["act b"]);
    check(&format!("created ask turn {} step reply:a-2,a-3", step("a-1")), expect!["act a-2"]);
    check(&format!("created ask turn {} {} step reply:a-3", step("a-1"), step("b")), expect!["act a-3"]);
    check(&format!("{twice} step reply end ask turn step reply:a-3"), expect!["act a-3"]);
    // It is told again when it has gone on twice as long.
    let more = |from: u32, to: u32| (from..=to).map(|n| step(&format!("a-{n}"))).collect::<String>();
    let third = "step reply:a-3 noticed:a-3*3 start:a-3 done:a-3 ";
    check(&format!("{twice}{third}{} step reply:a-5", more(4, 4)), expect!["act a-5"]);
    check(
        &format!("{twice}{third}{} step reply:a-6", more(4, 5)),
        expect![[r#"notice {"of":"call","id":"a-6","name":"exec","times":6}"#]],
    );
}

#[test]
fn any_journal_folds() {
    // Journals outlive versions and habits: every order of events must fold and decide without a panic.
    let words = [
        "created",
        "ask",
        "turn",
        "step",
        "reply:a,b",
        "cut",
        "start:a",
        "peek:b",
        "done:a",
        "lost:b",
        "noticed:a*3",
        "stop",
        "end",
    ];
    let mut seed = 1_u64;
    for _ in 0..20_000 {
        let mut history = String::new();
        for _ in 0..12 {
            // A linear congruential step is random enough to shuffle words.
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            history.push_str(words[(seed >> 33) as usize % words.len()]);
            history.push(' ');
        }
        let events = events(&history);
        let mut state = State::default();
        for event in &events {
            state.apply(event);
            state.next();
        }
        assert_eq!(say(&state.next()), say(&State::fold(&events).next()));
    }
}

#[test]
fn a_limit_is_held_before_each_step_and_each_call_and_waiting_for_somebody_takes_no_time() {
    // The limits of a budget are promises to whoever pays for the machine.
    let next = |history: &str, budget: Budget, last_ms: u64| {
        let mut all = events(history);
        let Event::Created(created) = &mut all[0].event else { panic!("it begins with its making") };
        created.budget = budget;
        all.last_mut().unwrap().at_ms = last_ms;
        say(&State::fold(&all).next())
    };
    let timed = Budget { wall_secs_max: 60, ..Budget::default() };
    assert_eq!(next("created ask turn step reply:a", timed, 59_000), "act a");
    let late = next("created ask turn step reply:a", timed, 61_000);
    assert!(late.contains("60 seconds in a turn, of which 60 have passed"), "{late}");
    let late = next("created ask turn step reply:a start:a done:a", timed, 61_000);
    assert!(late.contains("60 seconds in a turn"), "{late}");
    // The answer came after a day; the call is begun all the same.
    let day = 24 * 3_600_000;
    assert_eq!(next("created ask turn step reply:a asked:a yes:a", timed, day), "act a");
    // Each reply samples ten tokens.
    let few = Budget { session_output_tokens_max: 20, ..Budget::default() };
    let once = "created ask turn step reply:a start:a done:a";
    assert_eq!(next(once, few, 9), "think step 2");
    let spent = next(&format!("{once} step reply end ask turn"), few, 20);
    assert!(spent.contains("20 sampled tokens in the session"), "{spent}");
    // What tools have run counts, and not what the model took.
    let tools = Budget { tool_secs_max: 60, ..Budget::default() };
    assert_eq!(next(once, tools, 59_000), "think step 2");
    let spent = next(once, tools, 61_000);
    assert!(spent.contains("60 seconds of tools in a turn, of which they have run 60"), "{spent}");
    assert_eq!(next("created ask turn step reply:a", tools, 99_000), "act a");
    let two = next("created ask turn step reply:a,b start:a done:a", tools, 61_000);
    assert!(two.contains("60 seconds of tools"), "the second call is not begun: {two}");
    // The same call with the same answer, nine times.
    let circles = format!("created ask turn {}", "step reply:a start:a done:a ".repeat(9));
    assert_eq!(next(&circles, Budget::default(), 99), "think step 10");
    let round = next(&format!("{circles} step"), Budget::default(), 99);
    assert!(round.contains("8 calls in a row"), "{round}");
}
