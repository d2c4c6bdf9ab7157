# What developers run. `just` alone lists the recipes.

default:
    @just --list

# Everything a change must pass, without the real model.
check: fmt clippy test docs

fmt:
    cargo fmt --all --check

clippy:
    cargo clippy --workspace --all-targets -- -D warnings

test:
    cargo test --workspace

# The manual: every public item, no broken link.
docs:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# Strangers' bytes at the engine's doors, for some seconds.
fuzz seconds="600":
    SAGA_FUZZ_SECONDS={{seconds}} cargo test --release -p tests --test fuzz -- --nocapture

# The ignored tests that need DeepSeek's tokenizer, which is fetched for them.
deepseek:
    .ci/deepseek

# The official conformance suite of the Model Context Protocol, fetched from npm, against our client and server.
conformance:
    .ci/conformance

# The kernels of aarch64 against the specification, emulated with qemu-aarch64 on any machine.
arm:
    .ci/arm

# Licences, advisories and duplicate versions.
deny:
    cargo deny check

# The real model on a real bug.
demo case="1":
    cargo run --release -- demo --case {{case}}

# Speed of a model file on this machine.
bench model="qwen2.5-coder-1.5b":
    cargo run --release -- bench -m {{model}} -p 512 -n 64 -r 5

# The same in turns with llama.cpp's llama-bench, whose program or folder `path` is.
bench-llama path model="qwen2.5-coder-1.5b":
    cargo run --release -- bench -m {{model}} -p 512 -n 64 -r 5 --vs-llama {{path}}

# Calls of twenty tools by a real model, judged by another implementation of JSON Schema (Python's jsonschema).
calls model count="1000":
    cargo run --release -p engine --example calls -- {{model}} {{count}} > target/calls.jsonl
    python3 engine/examples/calls/check.py target/calls.jsonl

# How often a real model's edits of this repository's functions miss, with and without what binds them.
edits model count="30":
    cargo run --release -p agent --example edits -- {{model}} . {{count}} > target/edits.jsonl

# How many of this repository's tasks a model does by itself: `bugs` are planted in small projects, `python` are exercises.
tasks folder="bugs" model="qwen2.5-coder-1.5b":
    cargo run --release -- eval tasks tests/tasks/{{folder}} -m {{model}}

# Twelve hours of a session in a minute: what survives, how much memory it takes and how fast it opens. An ignored test.
hours:
    cargo test -p tests --test it -- --ignored --nocapture twelve_hours

# Fifty random histories of sessions in real sandboxes, wound back to any step and compared byte by byte. An ignored test.
undo:
    cargo test -p tests --test it -- --ignored --nocapture undo

# The service killed 300 times under load, its anchors and file helpers 100 times each (`SAGA_KILLS=N`: N times each). An ignored test.
kills:
    cargo test -p tests --test it -- --ignored --nocapture kills

# What a session that takes all it can get does to its neighbour's commands.
neighbours runs="300":
    cargo run --release -p tools --example neighbours -- {{runs}}

# What a grammar costs that binds an edit to a long file: the ignored test of the agent's grammars. `model` is a file.
long-file model:
    SAGA_TEST_MODEL={{absolute_path(model)}} cargo test --workspace -p agent --test grammar -- --ignored --nocapture

# Lines per file, longest first: looked at in review; fails nothing.
size:
    git ls-files '*.rs' | xargs wc -l | sort -rn | head -40

# A model pulled from the real sources into a folder, hub first: the ignored test of the catalog.
real-pull model="qwen2.5-coder-1.5b" dir="/tmp/saga-pull":
    mkdir -p {{dir}}
    SAGA_TEST_PULL={{model}} SAGA_TEST_PULL_DIR={{dir}} cargo test -p engine --lib -- --ignored --nocapture a_real_pull
