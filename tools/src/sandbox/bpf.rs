//! Filters of system calls as the kernel runs them.
//!
//! The kernel runs a new filter once for every call there is, to remember which are always allowed; as long a list as ours,
//! gone through from its beginning each time, would cost a command more than all the rest of its start. So calls are looked
//! for by halves, and only calls whose arguments matter come to their conditions.

use std::collections::BTreeMap;

use libc::sock_filter;

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xC000_00B7;

/// Where the kernel puts what it asks about: `struct seccomp_data`.
const NUMBER_AT: u32 = 0;
const ARCH_AT: u32 = 4;
const ARGUMENTS_AT: u32 = 16;
const ARGUMENT_BYTES: u32 = 8;

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
const JUMP: u32 = libc::BPF_JMP | libc::BPF_JA;
const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const IF_AT_LEAST: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

/// What a call may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Allowed,
    /// Answered with `EPERM`.
    Refused,
    /// Refused when all conditions of one of the rules hold, and allowed otherwise.
    RefusedIf(Vec<Vec<Condition>>),
    /// The same, answered with `EOPNOTSUPP`: programs then do it in another way.
    UnsupportedIf(Vec<Vec<Condition>>),
}

/// Something that may hold for an argument. The kernel reads only the low half of the arguments it is used for; a filter that
/// looked at all 64 bits could be passed by setting a high one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) argument: u8,
    pub(super) test: Test,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Test {
    Equal(u32),
    Other(u32),
    /// These bits have this value.
    Bits(u32, u32),
}

/// A program for the kernel. Calls without a verdict are answered with `ENOSYS`; a foreign architecture is killed.
#[derive(Debug, Clone)]
pub(super) struct Filter(Vec<sock_filter>);

impl Filter {
    pub(super) fn compile(verdicts: &BTreeMap<u32, Verdict>) -> Filter {
        let mut program = vec![
            step(LOAD, ARCH_AT),
            branch(IF_EQUAL, ARCH, 1, 0),
            step(RETURN, libc::SECCOMP_RET_KILL_PROCESS),
            step(LOAD, NUMBER_AT),
        ];
        let rules: Vec<(&Vec<Vec<Condition>>, i32)> = verdicts.values().filter_map(Verdict::rules).collect();
        let mut to_rules = Vec::new();
        search(&ranges(verdicts), &mut program, &mut to_rules);
        let mut begins = Vec::new();
        for (rules, errno) in rules {
            begins.push(program.len());
            for rule in rules {
                program.extend(refuse_if_all(rule, errno));
            }
            program.push(step(RETURN, libc::SECCOMP_RET_ALLOW));
        }
        for (at, rules) in to_rules {
            program[at].k = u32::try_from(begins[rules] - at - 1).expect("a filter has at most 4,096 steps");
        }
        Filter(program)
    }

    pub(super) fn steps(&self) -> &[sock_filter] {
        &self.0
    }
}

impl Verdict {
    /// Its rules, and what is answered when one holds.
    fn rules(&self) -> Option<(&Vec<Vec<Condition>>, i32)> {
        match self {
            Verdict::RefusedIf(rules) => Some((rules, libc::EPERM)),
            Verdict::UnsupportedIf(rules) => Some((rules, libc::EOPNOTSUPP)),
            Verdict::Allowed | Verdict::Refused => None,
        }
    }
}

/// What is answered from a number on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Return(u32),
    /// As the rules of this number say, in the order of the calls that have some.
    Rules(usize),
}

/// Numbers from which on the answer is another one.
fn ranges(verdicts: &BTreeMap<u32, Verdict>) -> Vec<(u32, Answer)> {
    let errno = |number: i32| Answer::Return(libc::SECCOMP_RET_ERRNO | number.unsigned_abs());
    let unknown = errno(libc::ENOSYS);
    let (mut ranges, mut next, mut rules) = (vec![(0, unknown)], 0, 0);
    let mut from = |number: u32, answer: Answer| match ranges.last_mut() {
        Some(last) if last.0 == number => last.1 = answer,
        Some(last) if last.1 == answer => {}
        Some(_) | None => ranges.push((number, answer)),
    };
    for (number, verdict) in verdicts {
        if *number > next {
            from(next, unknown);
        }
        let answer = match verdict {
            Verdict::Allowed => Answer::Return(libc::SECCOMP_RET_ALLOW),
            Verdict::Refused => errno(libc::EPERM),
            Verdict::RefusedIf(_) | Verdict::UnsupportedIf(_) => {
                rules += 1;
                Answer::Rules(rules - 1)
            }
        };
        from(*number, answer);
        next = number + 1;
    }
    from(next, unknown);
    ranges
}

/// Finds the range by halves.
fn search(ranges: &[(u32, Answer)], program: &mut Vec<sock_filter>, to_rules: &mut Vec<(usize, usize)>) {
    match ranges {
        [] => {}
        [(_, Answer::Return(answer))] => program.push(step(RETURN, *answer)),
        [(_, Answer::Rules(rules))] => {
            to_rules.push((program.len(), *rules));
            program.push(step(JUMP, 0));
        }
        ranges => {
            let (lower, upper) = ranges.split_at(ranges.len() / 2);
            let at = program.len();
            program.push(branch(IF_AT_LEAST, upper[0].0, 0, 0));
            search(lower, program, to_rules);
            match u8::try_from(program.len() - at - 1) {
                Ok(over) => program[at].jt = over,
                // Too far for a branch: it goes by way of a jump, which makes room for itself.
                Err(_) => {
                    let over =
                        u32::try_from(program.len() - at - 1).expect("a filter has at most 4,096 steps");
                    program[at].jf = 1;
                    program.insert(at + 1, step(JUMP, over));
                    to_rules.iter_mut().filter(|(from, _)| *from > at).for_each(|(from, _)| *from += 1);
                }
            }
            search(upper, program, to_rules);
        }
    }
}

/// Refuses when all hold, and goes on behind itself otherwise.
fn refuse_if_all(conditions: &[Condition], errno: i32) -> Vec<sock_filter> {
    let mut steps = Vec::new();
    for Condition { argument, test } in conditions {
        steps.push(step(LOAD, ARGUMENTS_AT + ARGUMENT_BYTES * u32::from(*argument)));
        // The way out is set below, when it is known how far it is: 1 stands for it.
        match test {
            Test::Equal(value) => steps.push(branch(IF_EQUAL, *value, 0, 1)),
            Test::Other(value) => steps.push(branch(IF_EQUAL, *value, 1, 0)),
            Test::Bits(mask, value) => {
                steps.push(step(AND, *mask));
                steps.push(branch(IF_EQUAL, *value, 0, 1));
            }
        }
    }
    steps.push(step(RETURN, libc::SECCOMP_RET_ERRNO | errno.unsigned_abs()));
    let length = steps.len();
    for (at, step) in steps.iter_mut().enumerate().filter(|(_, step)| u32::from(step.code) == IF_EQUAL) {
        let out = u8::try_from(length - at - 1).expect("a rule has few conditions");
        (step.jt, step.jf) = (step.jt * out, step.jf * out);
    }
    steps
}

fn step(code: u32, k: u32) -> sock_filter {
    branch(code, k, 0, 0)
}

fn branch(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: u16::try_from(code).expect("codes are short"), jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel does with a filter.
    fn run(filter: &Filter, arch: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let load = |at: u32| match at {
            NUMBER_AT => number,
            ARCH_AT => arch,
            at => arguments[((at - ARGUMENTS_AT) / 8) as usize] as u32,
        };
        let (mut at, mut held) = (0, 0);
        for _ in 0..filter.0.len() {
            let step = filter.0[at];
            let choose = |yes: bool| usize::from(if yes { step.jt } else { step.jf });
            at += 1;
            match u32::from(step.code) {
                LOAD => held = load(step.k),
                AND => held &= step.k,
                JUMP => at += step.k as usize,
                IF_EQUAL => at += choose(held == step.k),
                IF_AT_LEAST => at += choose(held >= step.k),
                RETURN => return step.k,
                code => panic!("{code}"),
            }
        }
        panic!("it never ends");
    }

    /// The same said plainly.
    fn plainly(verdicts: &BTreeMap<u32, Verdict>, number: u32, arguments: [u64; 6]) -> u32 {
        let holds = |condition: &Condition| {
            let argument = arguments[usize::from(condition.argument)] as u32;
            match condition.test {
                Test::Equal(value) => argument == value,
                Test::Other(value) => argument != value,
                Test::Bits(mask, value) => argument & mask == value,
            }
        };
        match verdicts.get(&number) {
            None => libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32,
            Some(Verdict::RefusedIf(rules) | Verdict::UnsupportedIf(rules))
                if !rules.iter().any(|rule| rule.iter().all(holds)) =>
            {
                libc::SECCOMP_RET_ALLOW
            }
            Some(Verdict::UnsupportedIf(_)) => libc::SECCOMP_RET_ERRNO | libc::EOPNOTSUPP as u32,
            Some(Verdict::Allowed) => libc::SECCOMP_RET_ALLOW,
            Some(Verdict::Refused | Verdict::RefusedIf(_)) => libc::SECCOMP_RET_ERRNO | libc::EPERM as u32,
        }
    }

    #[test]
    fn the_program_says_what_the_verdicts_say() {
        // One offset that is wrong lets a call through that nobody looked at.
        let condition = |argument, test| Condition { argument, test };
        let mut verdicts = BTreeMap::new();
        for number in 0..500_u32 {
            let verdict = match number * 7919 % 11 {
                0..=5 => Verdict::Allowed,
                6 => Verdict::Refused,
                7 => Verdict::RefusedIf(vec![vec![condition(0, Test::Equal(5))]]),
                8 => Verdict::RefusedIf(vec![
                    vec![condition(1, Test::Bits(0xf0, 0x30)), condition(5, Test::Other(2))],
                    vec![
                        condition(0, Test::Other(9)),
                        condition(1, Test::Other(0)),
                        condition(2, Test::Bits(1, 1)),
                    ],
                ]),
                9 => Verdict::UnsupportedIf(vec![vec![condition(1, Test::Bits(2, 0))]]),
                _ => continue,
            };
            if number % 3 > 0 {
                verdicts.insert(number, verdict);
            }
        }
        let filter = Filter::compile(&verdicts);
        for number in (0..520).chain([0x4000_0000, u32::MAX]) {
            for value in [0, 1, 2, 5, 9, 0x30, 0x3f, 1 << 32, (1 << 32) + 5] {
                for other in [0, 1, 2, 0x35, 0x100] {
                    let arguments = [value, other, value ^ 1, 0, 0, other];
                    assert_eq!(
                        run(&filter, ARCH, number, arguments),
                        plainly(&verdicts, number, arguments),
                        "{number} {arguments:x?}"
                    );
                }
            }
            assert_eq!(run(&filter, ARCH ^ 1, number, [0; 6]), libc::SECCOMP_RET_KILL_PROCESS);
        }
    }
}
