"""Stands for Google's gcloud in test_launch_tpu.py: a slice of two workers, whose ssh runs commands here in homes of their own.

The folder $SHIM holds calls.jsonl (every call's arguments), slice.json (what exists), workers/<generation>-<worker> (homes)
and faults.json: a list of {"on": "ssh", "skip": 2, "times": 1} with what then happens: "state" (of the slice from then on;
"gone" removes it), "say" and "code" (the call fails), "late" (it fails, or with "hang" goes on for ever, after it was done),
"silent" (a worker that does not answer).
"""

import json
import os
import sys
import time

WORKERS = 2
SHIM = os.environ["SHIM"]
FLAGS = {  # those that the real command has, of the ones that a launcher may want
    "tpu-vm create": "--accelerator-type= --version= --spot",
    "tpu-vm delete": "--quiet",
    "tpu-vm describe": "--format=",
    "tpu-vm ssh": "--worker= --command=",
    "tpu-vm scp": "--worker= --recurse",
    "queued-resources create": "--node-id= --accelerator-type= --runtime-version= --valid-until-duration= --spot",
    "queued-resources delete": "--quiet --force",
    "queued-resources describe": "--format=",
}


def fail(command: str, text: str, code: int = 1):
    print(f"ERROR: (gcloud.compute.tpus.{command.replace(' ', '.')}) {text}", file=sys.stderr)
    sys.exit(code)


def read(name: str):
    path = f"{SHIM}/{name}"
    return json.load(open(path)) if os.path.exists(path) else None


def write(name: str, value) -> None:
    with open(f"{SHIM}/{name}", "w") as file:
        json.dump(value, file)


def homes(generation: int) -> list[str]:
    return [f"{SHIM}/workers/{generation}-{worker}" for worker in range(WORKERS)]


def remove(generation: int) -> None:
    import shutil  # imports are most of this program's time

    for home in homes(generation):
        shutil.rmtree(home, ignore_errors=True)


def main(argv: list[str]) -> None:
    os.closerange(3, 64)  # no more than what ssh passes on
    with open(f"{SHIM}/calls.jsonl", "a") as calls:
        calls.write(json.dumps(argv) + "\n")
    assert argv[:2] == ["compute", "tpus"], argv
    command, rest = " ".join(argv[2:4]), argv[4:]
    allowed = FLAGS[command].split() + ["--zone=", "--project="]
    flags = dict(word.partition("=")[::2] for word in rest if word.startswith("--"))
    words = [word for word in rest if not word.startswith("--")]
    for word in rest:
        if word.startswith("--") and word.partition("=")[0] + "=" * ("=" in word) not in allowed:
            fail(command, f"unrecognized arguments: {word}", 2)
    there, faults, exits, happens = read("slice.json"), read("faults.json") or [], 0, {}
    for fault in faults:
        if fault["on"] not in (command, command.split()[1]) or fault.get("times", 1) == 0:
            continue
        if fault.get("skip", 0):
            fault["skip"] -= 1
            continue
        fault["times"] = fault.get("times", 1) - 1
        if "state" in fault:  # the machines are gone
            remove(there["generation"])
            there = None if fault["state"] == "gone" else there | {"state": fault["state"]}
            write("slice.json", there)
        write("faults.json", faults)
        happens = fault
        if "say" in fault and not fault.get("late"):
            fail(command, fault["say"], fault.get("code", 1))
    write("faults.json", faults)
    kind, verb = command.split()
    if verb == "create":
        if there:
            fail(command, "ALREADY_EXISTS: Resource already exists")
        generation = sum(json.loads(line)[3] == "create" for line in open(f"{SHIM}/calls.jsonl"))
        for home in homes(generation):
            os.makedirs(home)
        there = {"name": words[0], "kind": kind, "state": "READY", "generation": generation}
        there |= {"type": flags["--accelerator-type"], "version": flags.get("--version") or flags["--runtime-version"]}
    elif there is None or not any(f"{word}:".startswith(there["name"] + ":") for word in words):
        fail(command, "NOT_FOUND: Resource was not found")
    elif verb == "delete":
        if there["kind"] != kind:
            fail(command, "INVALID_ARGUMENT: it belongs to a queued resource")
        remove(there["generation"])
        there = None
    elif verb == "describe":
        state = {"READY": "ACTIVE", "PREEMPTED": "SUSPENDED"}[there["state"]] if kind == "queued-resources" else there["state"]
        known = {"state": state, "acceleratorType": there["type"], "runtimeVersion": there["version"], "len()": str(WORKERS)}
        asked = flags["--format"].partition("(")[2].removesuffix(")").split(",")
        print("|".join(known.get(field.rpartition(".")[2], "") for field in asked))
    elif there["state"] != "READY":
        fail(command, f'This TPU has terminal state "{there["state"]}", so it cannot be used anymore.')
    for worker, home in enumerate(homes(there["generation"]) if verb in ("ssh", "scp") else []):
        if flags["--worker"] not in ("all", str(worker)) or happens.get("silent") == worker:
            continue
        if verb == "scp":
            source, target = (f"{home}/{word.partition(':')[2]}" if ":" in word else word for word in words)
            with open(source, "rb") as file, open(target, "wb") as copy:
                copy.write(file.read())
        else:
            environment = os.environ | {"HOME": home, "HOSTNAME": f"t1v-n-0-w-{worker}", "WORKER": str(worker)}
            environment["PATH"] = f"{SHIM}/remote:/usr/bin:/bin"
            os.chdir(home)
            command_line = " ".join(flags["--command"].split(" "))  # as gcloud takes it apart, and ssh joins it
            exits = os.spawnve(os.P_WAIT, "/bin/bash", ["bash", "-c", command_line], environment) or exits
    write("slice.json", there)
    if happens.get("late"):
        while happens.get("hang"):
            time.sleep(0.1)
        fail(command, happens["say"])
    sys.exit(exits)


main(sys.argv[1:])
