"""A container engine for tests: what docker answers to the few calls that the driver makes, with bubblewrap inside.

Started as ``python -I -S fake_engine.py STATE ARGUMENTS…``.  STATE is a folder: ``calls`` gets each call,
``down`` makes every call fail, ``refuse`` is what ``run`` fails with before it starts anything, ``oom`` says that
memory was exceeded, ``late`` is for how many seconds ``run`` waits before it makes the container, and ``leaks`` leaves
them the host's network.  Containers are
files in ``containers``.  As with docker, the container is no child of the client: it lives on without it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

STATE = Path(sys.argv[1])
NEVER = "0001-01-01T00:00:00Z"
VALUED = {
    *("--name", "--label", "--pull", "--network", "--cap-drop", "--security-opt", "--user", "--hostname", "--tmpfs"),
    *("--shm-size", "--ulimit", "--log-driver", "--memory", "--memory-swap", "--pids-limit", "--mount", "--workdir"),
    *("--env", "--env-file", "--entrypoint", "--userns"),
}
FLAGS = {"--interactive", "--init", "--read-only"}


def fail(code: int, text: str) -> None:
    print(text, file=sys.stderr)
    sys.exit(code)


def record(name: str) -> Path:
    return STATE / "containers" / f"{name}.json"


def load(name: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(record(name).read_text())
    except OSError:
        fail(1, f"Error response from daemon: No such container: {name}")
    return found


def save(name: str, **changes: Any) -> None:
    text = json.dumps({**load(name), **changes})
    record(name).with_suffix(".new").write_text(text)
    record(name).with_suffix(".new").rename(record(name))


def command_of(pid: int) -> int:
    """The process that the engine's init passes signals on to."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def remove(name: str) -> None:
    if pid := load(name)["pid"]:
        first = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        select.select([first], [], [])
    record(name).unlink()


def run(arguments: list[str]) -> int:
    options: list[tuple[str, str]] = []
    while arguments[0].startswith("-"):
        option = arguments.pop(0)
        if option in VALUED:
            options.append((option, arguments.pop(0)))
        elif option not in FLAGS:
            fail(125, f"unknown flag: {option}")
    image, *command = arguments
    given = dict(options)
    if image != "image:1":
        fail(125, f"docker: Error response from daemon: No such image: {image}.")
    if (STATE / "refuse").exists():
        fail(int((STATE / "refuse").read_text()), "docker: Error response from daemon: OCI runtime create failed")
    if (STATE / "late").exists():
        time.sleep(float((STATE / "late").read_text()))
    name = given["--name"]
    record(name).write_text(json.dumps({"started": NEVER, "exit": 0, "pid": 0, "status": "created"}))
    daemon = os.fork()
    if daemon == 0:
        os.setsid()
        os._exit(contain(name, options, [given["--entrypoint"], *command]))
    return os.waitstatus_to_exitcode(os.waitpid(daemon, 0)[1])


def contain(name: str, options: list[tuple[str, str]], command: list[str]) -> int:
    uid, gid = (int(each) for each in dict(options)["--user"].split(":"))
    inner = ["/usr/bin/prlimit", "--core=0"]
    arguments = [
        "--unshare-user",
        "--unshare-pid",
        "--unshare-net",
        "--unshare-ipc",
        "--unshare-uts",
        "--disable-userns",
        "--new-session",
    ]
    if (STATE / "leaks").exists():
        arguments.remove("--unshare-net")
    arguments += ["--cap-drop", "ALL", "--uid", str(uid), "--gid", str(gid), "--clearenv", "--ro-bind", "/usr", "/usr"]
    for link in ("bin", "sbin", "lib", "lib64"):
        arguments += ["--symlink", f"usr/{link}", f"/{link}"]
    arguments += ["--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys", "--dev", "/dev", "--remount-ro", "/dev"]
    arguments += ["--perms", "1777", "--tmpfs", "/tmp", "--setenv", "HOSTNAME", "sandbox", "--hostname", "sandbox"]
    for option, value in options:
        fields = dict(each.partition("=")[::2] for each in value.split(","))
        if option == "--mount":
            arguments += ["--ro-bind" if "readonly" in fields else "--bind", fields["source"], fields["target"]]
        elif option == "--workdir":
            arguments += ["--chdir", value]
        elif option == "--env":
            arguments += ["--setenv", *value.split("=", 1)]
        elif option == "--env-file":
            for line in Path(value).read_text().splitlines():
                arguments += ["--setenv", *line.split("=", 1)]
        elif option == "--memory":
            inner.append(f"--as={int(value[:-1]) * 1024 * 1024}")
        elif option == "--pids-limit":
            inner.append(f"--nproc={value}")
        elif option == "--ulimit":
            inner.append(f"--{value}")
    read, write = os.pipe()
    told, tell = os.pipe()
    filter_fd = os.open(STATE / "filter", os.O_RDONLY)
    arguments += ["--remount-ro", "/", "--seccomp", str(filter_fd), "--info-fd", str(tell)]
    who: dict[str, Any] = {"user": uid, "group": gid, "extra_groups": []} if os.geteuid() == 0 else {}
    process = subprocess.Popen(
        ["bwrap", "--args", str(read), "--", *inner, "--", *command],
        env={"PATH": "/usr/bin:/bin"},
        pass_fds=[read, filter_fd, tell],
        **who,
    )
    for fd in (read, tell):
        os.close(fd)
    with open(write, "wb") as file:
        file.write(b"".join(each.encode() + b"\0" for each in arguments))
    with open(told) as answer:
        pid = json.load(answer)["child-pid"]
    first = os.pidfd_open(pid)
    save(name, pid=pid, started="2026-11-21T12:00:00Z", status="running")
    code = process.wait()
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(first, signal.SIGKILL)  # with it goes all that the command has left behind
    select.select([first], [], [])
    code = code if code >= 0 else 128 - code
    if record(name).exists():
        save(name, exit=code, status="exited", pid=0)
    return code


def main(arguments: list[str]) -> int:
    with open(STATE / "calls", "a") as file:
        file.write(json.dumps(arguments) + "\n")
    if (STATE / "down").exists():
        fail(1, "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?")
    match arguments:
        case ["run", *rest]:
            return run(rest)
        case ["version"]:
            print("Version: 29.0")
        case ["image", "inspect", *_, image]:
            if image != "image:1":
                fail(1, f"Error response from daemon: No such image: {image}")
            print(json.dumps(["IMAGE=1"]))
        case ["ps", *_]:
            print("\n".join(each.stem for each in (STATE / "containers").glob("*.json")))
        case ["container", "inspect", "--format", wanted, name]:
            found = load(name)
            oom = "true" if (STATE / "oom").exists() else "false"
            for key, value in (("ExitCode", found["exit"]), ("StartedAt", found["started"]), ("OOMKilled", oom)):
                wanted = wanted.replace("{{.State." + key + "}}", str(value))
            print(wanted.replace("{{.State.Status}}", found["status"]))
        case ["kill", "--signal", "TERM", name]:
            os.kill(command_of(load(name)["pid"]), signal.SIGTERM)
        case ["rm", "--force", *names]:
            for name in names:
                remove(name)
        case _:
            fail(1, f"unknown command: {arguments}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[2:]))
