"""Commands that work, and all that can be wrong with a line: settings, options, and what the answer names."""

from __future__ import annotations

from tests.cluster.spoiled import FAULTS

GAME = "valid_seen/pick_and_place_simple-Mug-None-Desk-308/trial_1"

COMMANDS = {
    "train": "train --config {config} --out {new_folder} --set policy.model={model} --set tasks=webshop "
    "--set data.webshop=generated --set evaluation.panels=[questions/test] --set data.questions={questions} "
    "--set router.policy=median_split --set router.routes={routes} "
    "--set schedule.demonstrations_file={demonstrations}",
    "train on games": "train --out {new_folder} --set tasks=alfworld/valid_seen --set data.alfworld={games}",
    "train --resume": "train --out {run} --resume",
    "eval": "eval --config {config} --model {model} --panel questions/test --data {questions} --out {new_file}",
    "eval in a shop": "eval --model concerto-tiny --panel webshop/test --data {products} --out {new_file}",
    "eval of games": "eval --model concerto-tiny --panel alfworld/valid_seen --data {games} --out {new_file}",
    "probe": "probe --model {model} --corpus {corpus} --out {new_file}",
    "route": "route --scores {scores} --out {new_file}",
    "compare": "compare {matrix} --out {new_folder}",
    "report": "report {run} --out {new_file}",
    "top": "top {run}",
    "plan": "plan --preset local --config {config} --set policy.model={model}",
    "check": "check --config {config} --set policy.model={model} --set tasks=questions "
    "--set data.questions={questions}",
    "doctor": "doctor --config {config}",
    "play": "play webshop 0 --data {products}",
    "play a game": f"play alfworld {GAME} --data {{games}}",
    "tasks": "tasks questions/train --data {questions}",
    "tasks of a shop": "tasks webshop/test --data {products}",
    "tasks of games": "tasks alfworld/valid_seen --data {games}",
    "data alfworld": "data alfworld --from {games}",
    "data webshop": "data webshop --from {products}",
    "data import": "data import {recordings} --environment webshop --data generated --config {config} "
    "--set policy.model={model} --out {new_file}",
    "learn": "learn --tasks {questions} --references {texts} --base-url http://localhost:9/v1 --model m "
    "--memory {memory} --out {new_folder}",
    "memory show": "memory show {memory}",
    "memory export": "memory export {memory} --out {new_file}",
    "memory diff": "memory diff {memory} 1 2",
    "memory restore": "memory restore {memory} --snapshot 1",
    "demo": "demo --out {new_folder}",
    "submit": "submit --address http://head:8265 --working-dir {sources} -- train --out run",
    "jobs status": "jobs status raysubmit_1 --address http://head:8265",
    "jobs logs": "jobs logs raysubmit_1 --address http://head:8265",
    "jobs stop": "jobs stop raysubmit_1 --address http://head:8265",
}
"""Commands that work; each name in braces is an input, which may have any of the faults of its kind."""

TOKENIZER = tuple(fault for fault in FAULTS["model"] if "tokenizer" in fault and fault != "no tokenizer")
FINE = {
    "nothing is changed": [(name, "config", "empty") for name in COMMANDS],
    "rows that cannot be read are left out, with a warning": [(name, "questions", "torn") for name in COMMANDS],
    "a memory is made where there is none": [("learn", "memory", fault) for fault in ("missing", "empty")],
    "a probe reads no tokenizer": [("probe", "model", fault) for fault in TOKENIZER],
    "recordings are read by the tokenizer alone": [
        ("data import", "model", fault) for fault in ("config.json of nothing known", "folder tokenizer_config.json")
    ],
    "a look at a run reads no checkpoint": [
        (name, "run", fault) for name in ("report", "top") for fault in FAULTS["run"] if "manifest" in fault
    ],
    "the snapshot that is asked for is whole": [("memory restore", "memory", "torn rows")],
}
"""Cells that are no fault, by the reason."""

SAID = {
    ("config", "unknown key"): "unknown key 'seeed'",
    ("config", "wrong type"): "seed=['x'] does not fit",
    ("config", "unknown preset"): "unknown key 'preset'",
    ("config", "number as a key"): "1=1 does not fit: keys should be strings",
}
"""What the line names where it is not the input."""

DEEP = "[" * 500
SETTINGS = {
    "learner.lr=quick": "learner.lr='quick' does not fit",
    "learner.lr=": "learner.lr=",
    "learner.lr=nan": "learner.lr='nan' does not fit",
    "learner.lr=.inf": "learner.lr=inf does not fit",
    "learner.lr=-1": "learner.lr=-1",
    "learner.rl=1": "unknown key 'learner.rl'",
    "learner": "--set learner is no assignment",
    "=1": "--set =1 is no assignment",
    "learner=1": "learner is a section",
    "learner.lr.x=1": "learner.lr",
    "seed=2024-13-45": "seed='2024-13-45'",
    "seed=1.5": "seed=1.5",
    f"seed={DEEP}": "seed='[[[",
    "data.alfwrld=x": "unknown environment 'alfwrld'",
    "tasks=[]": "tasks",
    "tasks=alfwrld": "unknown environment 'alfwrld'",
    "router.policy=medain": "router.policy='medain'",
    "rollout.prompt.mode=windwed": "rollout.prompt.mode='windwed'",
    "schedule.grpo_steps=-1": "schedule.grpo_steps=-1",
    "schedule.grpo_steps=1e3": "schedule.grpo_steps",
    "schedule.temperature=hot": "schedule.temperature",
    "policy.lora=yes": "policy.lora",
    "environments.webshop.goals=humen": "environments.webshop.goals",
}
"""Wrong values of --set, and what the line names."""

OPTIONS = {
    "train": {
        "--preset locl": "'locl'",
        "--set policy.model=x": "no model at 'x'",
        "--set tasks=alfworld/trian": "trian",
    },
    "eval": {
        "--preset locl": "'locl'",
        "--model x": "no model at 'x'",
        "--limit 0": "'--limit'",
        "--limit x": "'--limit'",
        "--samples -1": "'--samples'",
        "--panel questions/valid": "'valid'",
        "--panel alfwrld/valid_seen": "'alfwrld'",
        "--panel questions": "'questions' is no panel",
    },
    "probe": {
        "--model x": "no model at 'x'",
        "--metric ginni": "metric='ginni'",
        "--workers 0": "'--workers'",
        "--token-budget x": "'--token-budget'",
        "--precision slow": "precision='slow'",
        "--sketch -1": "'--sketch'",
        "--sample-layers 0": "'--sample-layers'",
    },
    "route": {
        "--policy medain": "policy='medain'",
        "--policy pass_rate": "pass rate",
        "--policy chord": "chord",
        "--share 2": "share=2",
        "--share 0": "share=0",
        "--share nan": "share=nan",
        "--share x": "'--share'",
        "--thresholds corpse": "thresholds='corpse'",
        "--seed x": "'--seed'",
    },
    "report": {"--serve": "--serve", "--episodes -1": "'--episodes'", "--port x": "'--port'"},
    "plan": {"--preset locl": "'locl'", "--set placement.learner_workers=0": "placement.learner_workers=0"},
    "doctor": {"--preset locl": "'locl'"},
    "check": {"--preset locl": "'locl'", "--set policy.model=x": "no model at 'x'"},
    "data import": {
        "--preset locl": "'locl'",
        "--environment questions": "'questions'",
        "--environment alfwrld": "'alfwrld'",
    },
    "learn": {
        "--token-budget 0": "'--token-budget'",
        "--replay 3": "--replay 3 tells nothing",
        "--replay -1": "'--replay'",
        "--base-url nowhere": "--base-url",
        "--memory /proc/concerto/memory": "/proc/concerto/memory",
    },
    "memory show": {"--snapshot 99": "no snapshot 99", "--snapshot x": "'--snapshot'", "--snapshot 0": "no snapshot 0"},
    "memory export": {"--snapshot 99": "no snapshot 99", "--snapshot -1": "no snapshot -1"},
    "memory restore": {"--snapshot 99": "no snapshot 99", "--snapshot 0": "no snapshot 0"},
    "demo": {"--seed x": "'--seed'"},
    "submit": {"--preset": "'--preset'", "--resume=maybe": "'--resume'"},
    **{
        f"jobs {name}": {
            "--address head:8265": "--address head:8265 is no URL",
            "--address ray://head:10001": "--address ray://head:10001 is no URL",
            "--address http://head:99999": "--address http://head:99999 is no URL",
            "--address http://127.0.0.1:9": "no Ray dashboard at http://127.0.0.1:9 ([Errno 111]",
        }
        for name in ("status", "logs", "stop")
    },
}
"""Wrong options of a command, and what the line names."""

LINES = {
    "trian": "'trian'",
    "data wikipedia": "'wikipedia'",
    "memory forget": "'forget'",
    "play alfwrld x": "'alfwrld'",
    "play alfworld generated/heldout/none/trial": "unknown ALFWorld task",
    "play webshop x --data generated": "'x'",
    "play webshop -1 --data generated": "-1",
    "play questions x": "'x'",
    "tasks nowhere/train": "'nowhere'",
    "tasks alfworld": "'alfworld' is no panel",
    "tasks webshop/tset --data generated": "'tset'",
    "tasks questions/": "''",
    "memory diff {memory} 99": "no snapshot 99",
    "memory diff {memory} 1 99": "no snapshot 99",
    "memory diff {memory} x": "'before'",
    "submit -- train --out x": "'--address'",
    "submit --address nowhere -- train --out x": "--address nowhere is no URL",
    "submit --address http://127.0.0.1:9 -- train --out x": "no Ray dashboard at http://127.0.0.1:9 ([Errno 111]",
    "submit --address http://head:8265 -- trian --out x": "'trian'",
    "submit --address http://head:8265 -- train": "'--out'",
    "submit --address http://head:8265 -- submit --address http://head:8265 -- train": "'submit'",
    "submit --address http://head:8265 --env x -- train --out x": "--env x",
    "submit --address http://head:8265 --env 1=x -- train --out x": "--env 1=x",
    "jobs halt x": "'halt'",
    "jobs stop x": "'--address'",
}
"""Other wrong lines, and what is named."""
WITH_SETTINGS = ("train", "eval", "plan", "check", "doctor", "play", "tasks", "data import")
NEEDY = [name for name in COMMANDS if name not in ("plan", "check", "doctor", "data alfworld", "data webshop", "demo")]
"""Commands that lack something when they are given alone."""
