//! Pictures of terminals.

use expect_test::{Expect, expect};
use ratatui::crossterm::event::KeyEvent;

use super::*;
use crate::wire::{Budget, Session, Status, Usage};

fn session(id: &str, status: Status) -> Session {
    Session {
        id: id.to_string(),
        title: Some("Mend the tests of the shop, please".to_string()),
        workspace: "/srv/shop".to_string(),
        model: "tiny".to_string(),
        status,
        error: None,
        ended: None,
        asks: None,
        memory: true,
        goal: None,
        parent: None,
        turns: 3,
        steps: 41,
        plan: Vec::new(),
        prompt_tokens: 12_345,
        context_tokens: Some(32_768),
        compactions: 0,
        waiting: 0,
        tool_calls: 38,
        tool_errors: 2,
        budget: Budget { session_output_tokens_max: Some(10_000), ..Budget::default() },
        usage: Usage { output_tokens: 4_200, decode_ms: 100_000, ..Usage::default() },
        created_ms: 0,
        updated_ms: 0,
        last: 9,
    }
}

const METRICS: &str = "# HELP saga_kv_bytes x\nsaga_kv_bytes{model=\"a b\"} 1073741824\nsaga_kv_bytes{model=\"c\"} 1024\n\
    saga_kv_budget_bytes{model=\"c\"} 4294967296\nsaga_decode_tokens_per_second{model=\"c\"} 17.25\n\
    saga_memory_bytes{of=\"service\"} 2147483648\nsaga_processes{of=\"service\"} 7\n";

/// Two looks at four sessions, of which one has sampled 50 tokens in 2 seconds in between.
fn view() -> View {
    let mut view = View::default();
    let mut sessions = vec![
        session("s-new", Status::Idle),
        session("s-runs", Status::Running),
        session("s-asks", Status::Asking),
        session("s-broke", Status::Failed),
    ];
    view.update(sessions.clone(), Figures::default());
    sessions[1].usage.output_tokens += 50;
    sessions[1].usage.decode_ms += 2_000;
    view.update(sessions, Figures::of(METRICS));
    view
}

fn check(view: &mut View, width: u16, height: u16, expected: Expect) {
    expected.assert_eq(&plain(view, width, height).unwrap());
}

#[test]
fn a_wide_terminal_shows_all_of_it() {
    check(
        &mut view(),
        120,
        9,
        expect![[r#"
        saga · 4 sessions, 1 at work, 1 ask
        17.2 tokens/s · KV 1.00 GiB of 4.00 GiB · memory 2.00 GiB · 7 processes

        SESSION          STATE        TURN  STEP  TOK/S  CONTEXT       OUT       CALLS  BUDGET         TITLE
        s-runs           running      3     41    25.0   12,345 (37 %) 4,250     38     42 % tokens    Mend the tests of the sho
        s-asks           asks you     3     41           12,345 (37 %) 4,200     38     42 % tokens    Mend the tests of the sho
        s-new            new          3     41           12,345 (37 %) 4,200     38     42 % tokens    Mend the tests of the sho
        s-broke          failed       3     41           12,345 (37 %) 4,200     38     42 % tokens    Mend the tests of the sho
        ↑↓ choose  enter follow  i interrupt  q end"#]],
    );
}

#[test]
fn a_narrow_terminal_shows_what_matters_most() {
    check(
        &mut view(),
        60,
        9,
        expect![[r#"
        saga · 4 sessions, 1 at work, 1 ask
        17.2 tokens/s · KV 1.00 GiB of 4.00 GiB · memory 2.00 GiB ·

        SESSION          STATE        TURN  STEP  TOK/S
        s-runs           running      3     41    25.0
        s-asks           asks you     3     41
        s-new            new          3     41
        s-broke          failed       3     41
        ↑↓ choose  enter follow  i interrupt  q end"#]],
    );
    check(
        &mut view(),
        30,
        9,
        expect![[r#"
        saga · 4 sessions, 1 at work,
        17.2 tokens/s · KV 1.00 GiB of

        SESSION          STATE
        s-runs           running
        s-asks           asks you
        s-new            new
        s-broke          failed
        ↑↓ choose  enter follow  i int"#]],
    );
    // So small that nothing fits is no reason to fail.
    for (width, height) in [(1, 1), (5, 2), (200, 1)] {
        plain(&mut view(), width, height).unwrap();
    }
}

#[test]
fn no_sessions_are_said_to_be_none() {
    let mut view = View::default();
    view.update(Vec::new(), Figures::default());
    check(
        &mut view,
        60,
        6,
        expect![[r#"
        saga · 0 sessions, 0 at work
        0.0 tokens/s · KV 0 B of 0 B · memory 0 B · 0 processes

        no sessions yet; `saga run "…"` makes one

        ↑↓ choose  enter follow  i interrupt  q end"#]],
    );
    view.up();
    view.down();
    assert_eq!(view.chosen(), None);
}

#[test]
fn a_service_that_has_gone_leaves_what_was_known() {
    let mut view = view();
    view.away =
        Some("the service at http://127.0.0.1:7777 cannot be reached: connection refused".to_string());
    check(
        &mut view,
        100,
        9,
        expect![[r#"
        saga · 4 sessions, 1 at work, 1 ask
        17.2 tokens/s · KV 1.00 GiB of 4.00 GiB · memory 2.00 GiB · 7 processes

        SESSION          STATE        TURN  STEP  TOK/S  CONTEXT       OUT       CALLS  TITLE
        s-runs           running      3     41    25.0   12,345 (37 %) 4,250     38     Mend the tests of th
        s-asks           asks you     3     41           12,345 (37 %) 4,200     38     Mend the tests of th
        s-new            new          3     41           12,345 (37 %) 4,200     38     Mend the tests of th
        s-broke          failed       3     41           12,345 (37 %) 4,200     38     Mend the tests of th
        the service at http://127.0.0.1:7777 cannot be reached: connection refused; asking again"#]],
    );
    view.update(Vec::new(), Figures::default());
    assert_eq!(view.away, None);
}

#[test]
fn the_chosen_session_stays_chosen_when_others_come_and_go() {
    let mut view = view();
    assert_eq!(view.chosen().unwrap().id, "s-runs");
    view.down();
    view.down();
    assert_eq!(view.chosen().unwrap().id, "s-new");
    let next = vec![session("s-newest", Status::Running), session("s-new", Status::Idle)];
    view.update(next, Figures::default());
    assert_eq!(view.chosen().unwrap().id, "s-new");
    view.down();
    assert_eq!(view.chosen().unwrap().id, "s-new", "it is the last one");
    view.update(vec![session("s-other", Status::Idle)], Figures::default());
    assert_eq!(view.chosen().unwrap().id, "s-other");
}

#[test]
fn keys_mean_what_the_last_line_says() {
    let key = |code| Key::of(&Event::Key(KeyEvent::new(code, KeyModifiers::NONE)));
    assert_eq!(key(KeyCode::Up), Some(Key::Up));
    assert_eq!(key(KeyCode::Down), Some(Key::Down));
    assert_eq!(key(KeyCode::Enter), Some(Key::Follow));
    assert_eq!(key(KeyCode::Char('i')), Some(Key::Interrupt));
    assert_eq!(key(KeyCode::Char('q')), Some(Key::Quit));
    assert_eq!(key(KeyCode::Char('x')), None);
    let ctrl_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(Key::of(&Event::Key(ctrl_c)), Some(Key::Quit));
    assert_eq!(Key::of(&Event::Resize(3, 4)), Some(Key::Redraw));
}
