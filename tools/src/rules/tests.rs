use serde_json::json;

use super::*;
use crate::Toolbox;

fn call(tool: &str, arguments: Value) -> Call {
    Call { id: "c1.1".into(), name: tool.into(), arguments }
}

fn rules(level: Level, rules: &[&str]) -> Rules {
    let rules: Vec<Rule> = rules.iter().map(|rule| serde_json::from_str(rule).unwrap()).collect();
    Rules::new(level, &rules).unwrap()
}

fn verdict(levels: &[(Level, &Rules)], call: &Call) -> Option<Effect> {
    let toolbox = Toolbox::builtin();
    judge(levels, call, toolbox.spec(&call.name), Path::new("/w")).map(|verdict| verdict.then)
}

#[test]
fn the_strictest_level_holds_and_denial_wins_within_a_level() {
    // Whoever makes a session must not be able to loosen what the operator has tied.
    let operator = rules(
        Level::Operator,
        &[
            r#"{"then":"allow","tool":"exec","command":"cargo *"}"#,
            r#"{"then":"ask","tool":"exec"}"#,
            r#"{"then":"deny","tool":"exec","command":"cargo publish *","why":"releases are made by people"}"#,
        ],
    );
    let session = rules(Level::Session, &[r#"{"then":"allow","tool":"*"}"#]);
    let strict = rules(Level::Session, &[r#"{"then":"deny","tool":"write"}"#]);
    let exec = |line: &str| call("exec", json!({ "command": line }));
    let both = |other| [(Level::Operator, &operator), (Level::Session, other)];
    assert_eq!(verdict(&both(&session), &exec("cargo test")), Some(Effect::Allow));
    assert_eq!(verdict(&both(&session), &exec("cargo test; make")), Some(Effect::Ask));
    assert_eq!(verdict(&both(&session), &exec("cargo publish")), Some(Effect::Deny));
    assert_eq!(verdict(&both(&session), &call("read", json!({"path": "x"}))), Some(Effect::Allow));
    assert_eq!(
        verdict(&both(&strict), &call("write", json!({"path": "x", "content": ""}))),
        Some(Effect::Deny)
    );
    assert_eq!(verdict(&both(&strict), &call("read", json!({"path": "x"}))), None);
    let told =
        judge(&both(&session), &exec("cargo publish"), Toolbox::builtin().spec("exec"), Path::new("/w"));
    assert_eq!(
        told.unwrap().why,
        r#"a rule of this service (deny tool "exec" command "cargo publish *"): releases are made by people"#
    );
}

#[test]
fn a_rule_about_files_is_not_passed_by_with_another_spelling() {
    let ours = rules(Level::Operator, &[r#"{"then":"deny","path":"deploy/**"}"#]);
    let levels = [(Level::Operator, &ours)];
    for arguments in [
        json!({"path": "deploy/prod.yml"}),
        json!({"path": "./deploy/prod.yml"}),
        json!({"path": "src/../deploy/prod.yml"}),
        json!({"path": "/w/deploy/prod.yml"}),
        json!({"file_path": "deploy/prod.yml"}),
        json!({"arguments": {"path": "deploy/prod.yml"}}),
        json!("{\"path\": \"deploy/prod.yml\"}"),
    ] {
        assert_eq!(verdict(&levels, &call("read", arguments.clone())), Some(Effect::Deny), "{arguments}");
    }
    assert_eq!(verdict(&levels, &call("read", json!({"path": "src/deploy.rs"}))), None);
    // What searches a folder reads what is in it.
    assert_eq!(verdict(&levels, &call("grep", json!({"pattern": "x"}))), Some(Effect::Deny));
    assert_eq!(verdict(&levels, &call("grep", json!({"pattern": "x", "path": "src"}))), None);
    let patch = "*** Begin Patch\n*** Add File: a\n+x\n*** Update File: deploy/b\n@@\n-x\n+y\n*** End Patch";
    assert_eq!(verdict(&levels, &call("apply_patch", json!({ "patch": patch }))), Some(Effect::Deny));
    let ours = rules(Level::Operator, &[r#"{"then":"allow","path":"a*"}"#]);
    assert_eq!(
        verdict(&[(Level::Operator, &ours)], &call("apply_patch", json!({ "patch": patch }))),
        None,
        "one of two files is not both"
    );
}

#[test]
fn a_command_under_another_name_or_as_a_list_is_a_command() {
    let ours = rules(Level::Operator, &[r#"{"then":"deny","command":"git push *"}"#]);
    let levels = [(Level::Operator, &ours)];
    for arguments in [
        json!({"command": "git push"}),
        json!({"cmd": "git push"}),
        json!({"command": ["git", "push"]}),
        json!({"command": ["bash", "-lc", "git push"]}),
        json!("git push"),
    ] {
        assert_eq!(verdict(&levels, &call("exec", arguments.clone())), Some(Effect::Deny), "{arguments}");
    }
}

#[test]
fn a_host_is_found_in_an_address() {
    for (url, host) in [
        ("https://Docs.Example.org/x", "docs.example.org"),
        ("http://a@evil.example:80/?b@good.example", "evil.example"),
        ("example.org.", "example.org"),
        ("http://[::1]:8080/", "::1"),
        ("http:evil.example", "evil.example"),
        ("https://ev%69l.EXAMPLE./", "evil.example"),
        ("http://0x7f.1/", "127.0.0.1"),
    ] {
        assert_eq!(host_of(url).as_deref(), Some(host), "{url}");
    }
}

#[test]
fn rules_that_mean_nothing_or_too_much_are_refused_with_the_reason() {
    let wrong = |level, rule: &str| {
        let rule: Rule = serde_json::from_str(rule).unwrap();
        Rules::new(level, &[rule]).unwrap_err()
    };
    assert!(wrong(Level::Operator, r#"{"then":"deny"}"#).contains("names nothing"));
    assert!(wrong(Level::Repository, r#"{"then":"allow","tool":"exec"}"#).contains("only ask and deny"));
    assert!(
        wrong(Level::Session, r#"{"then":"deny","tool":"x","workspace":"/x"}"#).contains("only the settings")
    );
    assert!(wrong(Level::Operator, r#"{"then":"deny","path":"[x"}"#).contains("no pattern"));
    assert!(serde_json::from_str::<Rule>(r#"{"then":"deny","tol":"exec"}"#).is_err());
}

#[test]
fn short_rules_mean_what_their_tool_is_about() {
    let rule = |text| short(Effect::Deny, text).unwrap().to_string();
    assert_eq!(rule("exec:git push *"), r#"deny tool "exec" command "git push *""#);
    assert_eq!(rule("edit:migrations/**"), r#"deny tool "edit" path "migrations/**""#);
    assert_eq!(rule("fetch:*.example.org"), r#"deny tool "fetch" host "*.example.org""#);
    assert_eq!(rule("process"), r#"deny tool "process""#);
    assert!(short(Effect::Deny, ":x").is_err());
}
