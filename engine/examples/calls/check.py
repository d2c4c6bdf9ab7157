"""Judges what `calls` wrote: python check.py calls.jsonl, with the package jsonschema installed."""

import collections
import json
import pathlib
import sys

import jsonschema

tools = {tool["name"]: tool for tool in json.loads((pathlib.Path(__file__).parent / "tools.json").read_text())}
formats = jsonschema.Draft202012Validator.FORMAT_CHECKER
seen, distinct, bad = collections.Counter(), set(), 0
for line in open(sys.argv[1], encoding="utf-8"):
    made = json.loads(line)
    seen[made["tool"]] += 1
    distinct.add(made["text"])
    try:
        call = json.loads(made["text"])
        assert made["whole"] and call["name"] == made["tool"] and set(call) == {"name", "arguments"}
        schema = tools[made["tool"]]["parameters"]
        jsonschema.Draft202012Validator(schema, format_checker=formats).validate(call["arguments"])
    except (ValueError, AssertionError, jsonschema.ValidationError) as error:
        bad += 1
        print(made["tool"], made["text"], str(error).splitlines()[:1])
total = sum(seen.values())
print(f"{total} calls of {len(seen)} tools, {len(distinct)} of them different, {total - bad} fit")
sys.exit(bad > 0)
