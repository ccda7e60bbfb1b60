"""Packages come into the environment from inside the sandbox, and bring nothing out."""

from __future__ import annotations

import base64
import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from ghcoord.clock import SystemRuntime
from ghcoord.errors import UsageError
from ghcoord.execution import process
from ghcoord.execution.environment import install as installing
from ghcoord.execution.environment import space
from ghcoord.execution.environment.install import install
from ghcoord.execution.environment.make import make_environment
from ghcoord.execution.environment.network import open_network
from ghcoord.execution.environment.settings import PackageSettings, Reach
from ghcoord.execution.environment.space import held_to
from ghcoord.execution.sandbox.base import Sandbox
from ghcoord.execution.sandbox.open import open_sandbox
from ghcoord.execution.tools.kit import Kit
from ghcoord.execution.tools.packages import tools
from ghcoord.execution.tools.registry import builtin_tools
from ghcoord.model.limits import Limits
from ghcoord.model.tool import ToolResult
from tests.execution.environment.context import Context
from tests.execution.environment.index import Index, serve, wheel

RUNTIME = SystemRuntime()
ALPHA = wheel("alpha", "1.0", {"alpha.py": "name = 'alpha'"}, requires="beta>=2")
BETA = wheel("beta", "2.0", {"beta.py": "name = 'beta'"})


@pytest.fixture
def ctx(tmp_path: Path, bwrap: Sandbox) -> Context:
    """What a call in a session is given."""
    return context(tmp_path / "session", bwrap)


def context(root: Path, sandbox: Sandbox) -> Context:
    """A session at ``root``."""
    return Context(root, uid=sandbox.identity.uid if sandbox.identity else None)


def kit(sandbox: Sandbox, index: Index) -> Kit:
    """A worker whose packages come from ``index``."""
    return Kit(sandbox, RUNTIME, packages=PackageSettings(index=index.url))


def pkg_install(sandbox: Sandbox, index: Index, ctx: Context, requirements: str, **args: object) -> ToolResult:
    """Call the tool."""
    (tool,) = tools(kit(sandbox, index))
    return tool.run({"requirements": requirements, **args}, ctx)


def python(sandbox: Sandbox, ctx: Context, code: str) -> str:
    """What ``code`` prints in the session's environment."""
    argv = ["/workspace/.venv/bin/python", "-c", code]
    done = process.run(sandbox, argv, workspace=ctx.workspace, runtime=RUNTIME, timeout=30)
    return done.stdout + done.stderr


def left_beside(ctx: Context) -> set[str]:
    """What lies in the session's folder besides what belongs there."""
    return set(os.listdir(ctx.root)) - {"workspace", "keep"}


def test_a_package_and_what_it_needs(bwrap: Sandbox, ctx: Context) -> None:
    """The result lists what came and everything there is; the package can be imported; nothing is left behind."""
    with serve(ALPHA, BETA) as index:
        result = pkg_install(bwrap, index, ctx, "alpha")
        assert "" == result.error
        assert ["alpha==1.0", "beta==2.0"] == result.data["installed"]
        assert ["alpha==1.0", "beta==2.0"] == result.data["lock"]
        assert " + alpha==1.0\n" in result.data["stdout"]
        assert " + alpha==1.0\n" in "".join(text for _, text in ctx.logged)
        assert "beta\n" == python(bwrap, ctx, "import alpha, beta; print(beta.name)")
        again = pkg_install(bwrap, index, ctx, "beta")
        assert ([], ["alpha==1.0", "beta==2.0"]) == (again.data["installed"], again.data["lock"])
    assert set() == left_beside(ctx)


@pytest.mark.slow
def test_a_newer_version_counts_as_installed(bwrap: Sandbox, ctx: Context) -> None:
    """What has another version than before is listed, the rest is not."""
    with serve(ALPHA, BETA) as index:
        assert pkg_install(bwrap, index, ctx, "alpha").success
        file, content = wheel("beta", "3.0", {"beta.py": ""})
        index.files[file], index.projects["beta"] = content, file
        shutil.rmtree(ctx.root / "keep")
        result = pkg_install(bwrap, index, ctx, "beta==3.0")
        assert (["beta==3.0"], ["alpha==1.0", "beta==3.0"]) == (result.data["installed"], result.data["lock"])


def test_a_lock_is_restored_from_the_cache(bwrap: Sandbox, ctx: Context) -> None:
    """Without a request, in 30 ms on an idle machine and far below a second on any; a cold cache goes to the index."""
    lock = ["alpha==1.0", "beta==2.0"]
    with serve(ALPHA, BETA) as index:
        outcome = install(kit(bwrap, index), ctx, lock, no_deps=True)
        assert ("", tuple(lock)) == (outcome.error, outcome.installed)
        assert index.asked
        index.asked.clear()
        times = []
        for _ in range(3):
            shutil.rmtree(ctx.workspace / ".venv")
            started = time.perf_counter()
            outcome = install(kit(bwrap, index), ctx, lock, no_deps=True)
            times.append(time.perf_counter() - started)
            assert tuple(lock) == outcome.lock
        assert [] == index.asked
    assert min(times) < 0.5
    assert "alpha\n" == python(bwrap, ctx, "import alpha; print(alpha.name)")


def test_a_lock_brings_nothing_else(bwrap: Sandbox, ctx: Context) -> None:
    """What a package asks for besides the lock is not installed."""
    with serve(ALPHA, BETA) as index:
        assert ("alpha==1.0",) == install(kit(bwrap, index), ctx, ["alpha==1.0"], no_deps=True).lock


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for ``localhost`` that signs itself, and its key."""
    files = folder / "certificate.pem", folder / "key.pem"
    options = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost -days 2"
    extensions = "-addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE"
    command = ["openssl", "req", "-x509", *options.split(), *extensions.split()]
    subprocess.run([*command, "-out", files[0], "-keyout", files[1]], check=True, capture_output=True)
    return files


@pytest.mark.usefixtures("impatient")
def test_an_index_over_https(bwrap: Sandbox, ctx: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TLS goes through the tunnel to the index itself, and only a certificate that the worker trusts is believed."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the program openssl to make a certificate")
    files = certificate(tmp_path)
    with serve(ALPHA, BETA, tls=files) as index:
        result = pkg_install(bwrap, index, ctx, "alpha")
        assert not result.success
        assert "certificate" in result.error
        monkeypatch.setattr(installing, "find_certificates", lambda: files[0])
        assert ["alpha==1.0", "beta==2.0"] == pkg_install(bwrap, index, ctx, "alpha").data["installed"]


# -- failures


@pytest.mark.parametrize(
    ("requirements", "error"),
    [
        ("gamma", "the index has no package gamma"),
        ("alpha==9", "there is no version of alpha==9 and you require alpha==9"),
        ("delta", "a package has no wheel for this Python, and only wheels are installed: choose another version, or"),
        ("--index-url=http://evil.example x", "'--index-url=http://evil.example' is an option"),
        ("x @ file:///etc/passwd", "'x @ file:///etc/passwd' is a URL"),
    ],
)
def test_failures_say_what_to_do(bwrap: Sandbox, ctx: Context, requirements: str, error: str) -> None:
    """Not found, no such version, no wheel, not a requirement: one sentence each."""
    with serve(ALPHA, BETA, sdist("")) as index:
        result = pkg_install(bwrap, index, ctx, requirements)
        assert not result.success
        assert not result.infrastructure
        assert error in result.error
        assert result.error.count("\n") == 0


def test_a_cache_that_cannot_be_made(bwrap: Sandbox, ctx: Context) -> None:
    """A fault of the machine, after which the call is tried elsewhere."""
    (ctx.workspace.parent / "keep").write_text("")
    with serve() as index:
        result = pkg_install(bwrap, index, ctx, "alpha")
    assert result.infrastructure
    assert "the folder for downloaded packages could not be made" in result.error


def test_a_session_that_goes_meanwhile(tmp_path: Path) -> None:
    """A cache whose folder was removed during the call is no error."""

    def keep() -> Path:
        (tmp_path / "uv").mkdir()
        (tmp_path / "uv" / "file").write_bytes(bytes(1000))
        return tmp_path / "uv"

    with held_to(keep, 1000, RUNTIME) as held:
        assert held.too_large()
        shutil.rmtree(tmp_path / "uv")
        held.over = True
    assert [] == os.listdir(tmp_path)


def test_arguments_are_checked(bwrap: Sandbox, ctx: Context) -> None:
    """Unknown and missing arguments, and those of another kind."""
    with serve() as index:
        (tool,) = tools(kit(bwrap, index))
        for args in ({}, {"requirements": ["idna"]}, {"requirements": "idna", "index": "x"}):
            with pytest.raises(UsageError):
                tool.check(args)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting between tries."""
    monkeypatch.setitem(installing._ENV, "UV_HTTP_RETRIES", "0")


@pytest.mark.usefixtures("impatient")
def test_an_index_that_does_not_answer(bwrap: Sandbox, ctx: Context) -> None:
    """The message says which host was not reached."""
    with serve() as index:
        pass
    result = pkg_install(bwrap, index, ctx, "alpha")
    assert "the package index does not answer: 127.0.0.1:" in result.error
    assert "Connection refused" in result.error


@pytest.mark.usefixtures("impatient")
def test_a_file_on_another_host_is_not_fetched(bwrap: Sandbox, ctx: Context) -> None:
    """A page of the index that leads elsewhere: refused by name, and the session's own list allows a name."""
    with serve(ALPHA, BETA) as index, serve(BETA) as other:
        elsewhere = other.url.removesuffix("/simple")
        index.elsewhere["beta"] = f"{elsewhere}/files/{BETA[0]}"
        result = pkg_install(bwrap, index, ctx, "beta")
        assert f"not allowed: {elsewhere} is not the package index" in result.error
        assert [] == other.asked
        index.elsewhere["beta"] = f"https://files.evil.example/{BETA[0]}"
        result = pkg_install(bwrap, index, ctx, "beta")
        assert (
            "not allowed: files.evil.example:443 is not among the hosts that this worker and this session allow"
            in result.error
        )
        ctx.allow = ("files.evil.example",)
        outcome = install(kit(bwrap, index), ctx, ["beta"], ask=lambda host, port: loopback_only_for(host))
        assert "not allowed: files.evil.example has the address 10.0.0.1, which is not of the public" in outcome.error


def loopback_only_for(host: str) -> list[str]:
    """The addresses of a host in a world where one name leads into a private network."""
    return ["10.0.0.1"] if host.endswith("example") else [host]


def test_without_uv(bwrap: Sandbox, ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the extra to install."""
    monkeypatch.setattr(installing, "find_uv", lambda: None)
    with serve() as index:
        assert "pip install 'ghcoord[worker]'" in pkg_install(bwrap, index, ctx, "alpha").error


@pytest.fixture
def entered() -> Iterator[Path]:
    """A folder below which anybody who knows the names may pass, as a worker's is."""
    folder = Path(tempfile.mkdtemp(prefix="ghcoord-test-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.slow
def test_without_a_sandbox_it_works_the_same(entered: Path) -> None:
    """The driver ``none`` shows mounts where they are; the installer and the relay do not mind."""
    sandbox = open_sandbox(choice="none", unsafe=True, runtime=RUNTIME)
    assert sandbox is not None
    ctx = context(entered, sandbox)
    with serve(ALPHA, BETA) as index:
        assert ["alpha==1.0", "beta==2.0"] == pkg_install(sandbox, index, ctx, "alpha").data["installed"]
    assert set() == left_beside(ctx)


def test_a_partial_sandbox_installs_from_the_cache_only(landlock: Sandbox, entered: Path) -> None:
    """It has no network for the relay: the message says which worker can, and a warm cache needs none."""
    with serve(ALPHA, BETA) as index:
        ctx = context(entered, landlock)
        result = pkg_install(landlock, index, ctx, "beta")
        assert "this needs a worker whose sandbox is full" in result.error
        plain = open_sandbox(choice="none", unsafe=True, runtime=RUNTIME)
        assert plain is not None
        assert pkg_install(plain, index, ctx, "beta").success
        shutil.rmtree(ctx.workspace / ".venv")
        assert ("beta==2.0",) == install(kit(landlock, index), ctx, ["beta==2.0"], no_deps=True).lock


def test_a_sessions_commands_reach_its_hosts(bwrap: Sandbox, ctx: Context) -> None:
    """With hosts of its own a session's commands have the relay as proxy; without, no proxy and no network."""
    code = "import os; print(os.environ.get('https_proxy', 'none')[:17])"
    with serve() as index:
        (run,) = (tool for tool in builtin_tools(kit(bwrap, index)) if tool.name == "run.python")
        assert "none\n" == run.run({"code": code}, ctx).data["stdout"]
        ctx.allow = ("files.example.org",)
        assert "http://127.0.0.1:\n" == run.run({"code": code}, ctx).data["stdout"]
        ask = "import urllib.request as u\ntry: u.urlopen('https://evil.example')\nexcept OSError as e: print(e)"
        assert "403 Forbidden" in run.run({"code": ask}, ctx).data["stdout"]


# -- packages that attack


def test_code_of_a_package_runs_inside_only(bwrap: Sandbox, ctx: Context, tmp_path: Path) -> None:
    """A ``.pth`` file runs whenever the environment's Python starts, uv's look at it included: it sees no secret.

    Run outside, it does.
    """
    secret = tmp_path / "secret"
    secret.write_text("password")
    code = (
        f"import os; p='{secret}'; f=open('/workspace/seen' if os.path.isdir('/workspace/.venv') else "
        f"'{tmp_path}/seen', 'a'); f.write(open(p).read() if os.path.exists(p) else 'nothing,'); f.close()\n"
    )
    with serve(wheel("evil", "1.0", {"evil.pth": code}), BETA) as index:
        assert pkg_install(bwrap, index, ctx, "evil").success
        shutil.rmtree(ctx.root / "keep")
        assert pkg_install(bwrap, index, ctx, "beta").success
    assert set("nothing,".split(",")) == set((ctx.workspace / "seen").read_text().split(","))
    assert not (tmp_path / "seen").exists()
    subprocess.run([ctx.workspace / ".venv/bin/python", "-c", ""], check=True, env={})
    assert "password" in (tmp_path / "seen").read_text()


def test_members_that_climb_out_are_not_written(bwrap: Sandbox, ctx: Context, tmp_path: Path) -> None:
    """Names with ``..`` and absolute ones in a wheel reach nothing outside of the environment."""
    names = [f"{'../' * depth}climbed" for depth in (1, 3, 5, 6, 9)] + ["/workspace/absolute", f"{tmp_path}/absolute"]
    with serve(wheel("evil", "1.0", {"evil.py": "", **dict.fromkeys(names, "x")})) as index:
        pkg_install(bwrap, index, ctx, "evil")
    found = {each.relative_to(tmp_path) for each in tmp_path.rglob("*") if each.name in ("climbed", "absolute")}
    assert all(each.is_relative_to("session/workspace/.venv") or each.is_relative_to("session/keep") for each in found)


@pytest.mark.slow
def test_a_script_is_not_written_over_another_program(bwrap: Sandbox, ctx: Context, tmp_path: Path) -> None:
    """A wheel's data folder and entry points stay in the environment's folders."""
    files = {
        "evil-1.0.data/scripts/../../../../escaped": "x",
        "evil-1.0.data/data/../../../escaped": "x",
        "evil-1.0.dist-info/entry_points.txt": "[console_scripts]\n../../../escaped = evil:main\n",
    }
    with serve(wheel("evil", "1.0", {"evil.py": "", **files})) as index:
        pkg_install(bwrap, index, ctx, "evil")
    assert not list(tmp_path.glob("*escaped"))
    assert not (ctx.root / "escaped").exists()


def test_a_huge_file_is_stopped(bwrap: Sandbox, ctx: Context) -> None:
    """A small wheel with a large file fails at the limit, and says so."""
    ctx.limits = Limits(file_mb=8)
    with serve(wheel("bomb", "1.0", {"bomb.bin": bytes(32 * 1024 * 1024)})) as index:
        result = pkg_install(bwrap, index, ctx, "bomb")
    assert "a limit of the workspace or of its files is reached" in result.error
    sizes = [each.lstat().st_size for each in ctx.root.rglob("*")]
    assert max(sizes) <= 8 * 1024 * 1024


@pytest.mark.slow
def test_many_large_files_are_stopped(bwrap: Sandbox, ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small wheel that unpacks to more than the workspace may hold ends early; the cache is emptied with it."""
    monkeypatch.setattr(space, "PAUSE", 0.02)
    ctx.limits = Limits(workspace_mb=16, file_mb=1024)
    with serve(wheel("bomb", "1.0", {f"bomb{at}.bin": bytes(8 * 1024 * 1024) for at in range(40)}), BETA) as index:
        result = pkg_install(bwrap, index, ctx, "bomb")
        assert not result.success
        assert "workspace_mb allows" in result.error
        assert [] == os.listdir(ctx.root / "keep")
        assert pkg_install(bwrap, index, ctx, "beta").success
        assert ["uv"] == os.listdir(ctx.root / "keep")


@pytest.mark.slow
def test_a_cache_that_grew_large_is_begun_anew(bwrap: Sandbox, ctx: Context) -> None:
    """After a call that left more than half of what is allowed; not while another call is at work in it."""
    ctx.limits = Limits(workspace_mb=16)
    with serve(BETA) as index:
        assert pkg_install(bwrap, index, ctx, "beta").success
        (ctx.keep("uv") / "left").write_bytes(bytes(9 * 1024 * 1024))
        with held_to(lambda: ctx.keep("uv"), 16 * 1024 * 1024, RUNTIME):
            assert pkg_install(bwrap, index, ctx, "beta").success
            assert (ctx.keep("uv") / "left").exists()
        assert [] == os.listdir(ctx.root / "keep")


BACKEND = """import base64, os, sys
open(os.path.join(os.environ.get('MARK', '/workspace'), 'built'), 'w').write(str(os.path.exists({secret!r})))
def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    open(os.path.join(wheel_directory, 'delta-1.0-py3-none-any.whl'), 'wb').write(base64.b64decode({content!r}))
    return 'delta-1.0-py3-none-any.whl'
"""


def sdist(secret: str) -> tuple[str, bytes]:
    """A source distribution of ``delta`` with a build backend of its own that looks for ``secret``."""
    content = base64.b64encode(wheel("delta", "1.0", {"delta.py": "name = 'delta'"})[1]).decode()
    texts = {
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        "backend.py": BACKEND.format(secret=secret, content=content),
        "PKG-INFO": "Metadata-Version: 2.1\nName: delta\nVersion: 1.0\n",
    }
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz") as archive:
        for path, text in texts.items():
            member = tarfile.TarInfo(f"delta-1.0/{path}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return "delta-1.0.tar.gz", target.getvalue()


def test_a_source_distribution_runs_nothing_unless_asked(bwrap: Sandbox, ctx: Context, tmp_path: Path) -> None:
    """By default nothing is built; when asked, its build runs inside, where the secret is not."""
    secret = tmp_path / "secret"
    secret.write_text("password")
    with serve(sdist(str(secret))) as index:
        assert not pkg_install(bwrap, index, ctx, "delta").success
        assert not (ctx.workspace / "built").exists()
        result = pkg_install(bwrap, index, ctx, "delta", only_binary=False)
        assert ("", ["delta==1.0"]) == (result.error, result.data["installed"])
        assert "False" == (ctx.workspace / "built").read_text()


def test_one_session_does_not_poison_another(bwrap: Sandbox, ctx: Context, tmp_path: Path) -> None:
    """What a session does to its cache and to its installed files is not what another one gets."""
    other = context(tmp_path / "other", bwrap)
    with serve(ALPHA, BETA) as index:
        assert pkg_install(bwrap, index, ctx, "beta").success
        poisoned = list(ctx.root.rglob("beta.py"))
        assert len(poisoned) >= 2
        for each in poisoned:
            each.write_text("name = 'poison'")
        assert pkg_install(bwrap, index, other, "beta").success
    assert "beta\n" == python(bwrap, other, "import beta; print(beta.name)")


def test_the_cache_is_no_way_out(bwrap: Sandbox, ctx: Context, tmp_path: Path) -> None:
    """Links in a session's cache that lead outside are followed inside only."""
    outside = tmp_path / "outside"
    outside.mkdir()
    outside.chmod(0o777)
    cache = ctx.keep("uv")
    for name in ("archive-v0", "wheels-v5", "wheels-v6", "simple-v16", "simple-v18", "interpreter-v4", "CACHEDIR.TAG"):
        (cache / name).symlink_to(outside)
    with serve(BETA) as index:
        pkg_install(bwrap, index, ctx, "beta")
    assert [] == os.listdir(outside)


def test_the_sessions_variables_do_not_lead_the_installer_elsewhere(bwrap: Sandbox, ctx: Context) -> None:
    """UV_* variables of a session and settings files of the workspace change nothing."""
    ctx.env = {"UV_INDEX_URL": "http://evil.example/simple", "UV_OFFLINE": "1", "SSL_CERT_FILE": "/x"}
    for name in ("uv.toml", "pyproject.toml"):
        prefix = "" if name == "uv.toml" else "[tool.uv]\n"
        (ctx.workspace / name).write_text(f'{prefix}offline = true\nindex-url = "http://evil.example/simple"\n')
    with serve(BETA) as index:
        assert "" == pkg_install(bwrap, index, ctx, "beta").error


# -- the network of the sandbox


ATTACKS = """
import os, socket, sys
proxy = os.environ["https_proxy"].rsplit(":", 1)
def ask(line):
    with socket.create_connection(("127.0.0.1", int(proxy[1]))) as s:
        s.sendall(line.encode() + b"\\r\\n\\r\\n")
        return s.recv(100).split(b"\\r\\n")[0].decode()
def direct(host, port):
    try:
        socket.create_connection((host, port), timeout=2).close()
        return "connected"
    except OSError:
        return "refused"
port = int(sys.argv[1])
print(ask("CONNECT 169.254.169.254:80 HTTP/1.1"))
print(ask(f"CONNECT 127.0.0.1:{port} HTTP/1.1"))
print(ask(f"GET http://127.0.0.1:{port}/simple/ HTTP/1.1\\r\\nHost: pypi.org"))
print(ask("CONNECT evil.example:443 HTTP/1.1"))
print(direct("127.0.0.1", port), direct("1.1.1.1", 443), direct("10.0.0.1", 80))
"""


def test_a_command_reaches_only_what_is_allowed(bwrap: Sandbox, ctx: Context) -> None:
    """Inside, with the relay as proxy: cloud metadata, the worker's loopback and other hosts stay out of reach."""
    with serve() as index:
        port = index.url.split(":")[2].split("/")[0]
        with open_network(bwrap, ctx.workspace, Reach(frozenset({("pypi.org", 443)})), RUNTIME) as network:
            assert bwrap.python
            argv = network.argv([bwrap.python, "-c", ATTACKS, port])
            done = process.run(bwrap, argv, workspace=ctx.workspace, runtime=RUNTIME, mounts=network.mounts, timeout=30)
        refusal = "HTTP/1.1 403 Forbidden\n"
        assert refusal * 4 + "refused refused refused\n" == done.stdout + done.stderr
        assert [] == index.asked
        assert 4 == len(network.relay.refused) if network.relay else False
    assert set() == left_beside(ctx)


@pytest.mark.slow
def test_the_commands_exit_code_comes_through(bwrap: Sandbox, ctx: Context) -> None:
    """The relay inside ends as its command does: by exit code, by signal, or as one that is not there."""
    for command, expected in (("exit 3", 3), ("kill -9 $$", 137), ("exec /nowhere", 127)):
        with open_network(bwrap, ctx.workspace, Reach(frozenset()), RUNTIME) as network:
            argv = network.argv(["/bin/sh", "-c", command])
            done = process.run(bwrap, argv, workspace=ctx.workspace, runtime=RUNTIME, mounts=network.mounts)
        assert expected == done.exit_code
    with open_network(bwrap, ctx.workspace, Reach(frozenset()), RUNTIME) as network:
        argv = network.argv(["/nowhere"])
        done = process.run(bwrap, argv, workspace=ctx.workspace, runtime=RUNTIME, mounts=network.mounts)
    assert (127, "/nowhere could not be started: No such file or directory\n") == (done.exit_code, done.stderr)


# -- ends before its time


@contextlib.contextmanager
def stuck(index: Index) -> Iterator[threading.Event]:
    """Files of ``index`` begin and do not end; set once one has begun."""
    begun, done = threading.Event(), threading.Event()

    def hold(handler: BaseHTTPRequestHandler) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        handler.wfile.write(b"PK")
        begun.set()
        done.wait(30)
        return True

    index.on_file = hold
    try:
        yield begun
    finally:
        done.set()


def uv_processes(index: Index) -> list[int]:
    """The installers that use ``index``."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (each / "cmdline").read_bytes().split(b"\0")
            if index.url.encode() in words and words[0].endswith(b"/uv"):
                found.append(int(each.name))
    return found


def test_cancelling_in_the_middle_of_a_download(bwrap: Sandbox, ctx: Context) -> None:
    """It ends at once; no process, socket or folder is left, and the next call works."""
    with serve(ALPHA, BETA) as index:
        with stuck(index) as begun:
            ctx.stop = begun.is_set
            started = time.monotonic()
            result = pkg_install(bwrap, index, ctx, "beta")
            assert "cancelled" == result.error
            assert time.monotonic() - started < 10
        assert [] == uv_processes(index)
        assert set() == left_beside(ctx)
        index.on_file = lambda handler: False
        ctx.stop = lambda: False
        assert ["beta==2.0"] == pkg_install(bwrap, index, ctx, "beta").data["installed"]


def test_time_runs_out_in_the_middle_of_a_download(bwrap: Sandbox, ctx: Context) -> None:
    """The message says how long it took; nothing is left."""
    ctx.timeout = 0.7
    with serve(BETA) as index, stuck(index):
        result = pkg_install(bwrap, index, ctx, "beta")
        assert "timed out after 0.7s" == result.error
        assert [] == uv_processes(index)
    assert set() == left_beside(ctx)


def test_a_killed_installer(bwrap: Sandbox, ctx: Context) -> None:
    """uv killed from outside, as the kernel does when memory is short: an error, nothing left, the next call works."""
    with serve(BETA) as index:
        with stuck(index) as begun:
            killer = threading.Thread(
                target=lambda: (begun.wait(20), [os.kill(pid, signal.SIGKILL) for pid in uv_processes(index)])
            )
            killer.start()
            result = pkg_install(bwrap, index, ctx, "beta")
            killer.join()
        assert 137 == result.exit_code
        assert "the installer ended with exit code 137" == result.error
        assert set() == left_beside(ctx)
        index.on_file = lambda handler: False
        assert pkg_install(bwrap, index, ctx, "beta").success


@pytest.mark.slow
def test_nothing_open_is_left(bwrap: Sandbox, ctx: Context) -> None:
    """After many installations the worker has the descriptors and threads that it had before."""
    with serve(BETA) as index:
        pkg_install(bwrap, index, ctx, "beta")

        def count() -> tuple[int, int]:
            return len(os.listdir("/proc/self/fd")), threading.active_count()

        settle(lambda: threading.active_count() <= 2)
        before = count()
        for _ in range(3):
            pkg_install(bwrap, index, ctx, "alpha")
        settle(lambda: count() == before)
        assert before == count()


def settle(done: Callable[[], bool]) -> None:
    """Wait for what ends by itself, at most five seconds."""
    deadline = time.monotonic() + 5
    while not done() and time.monotonic() < deadline:
        time.sleep(0.01)


def test_the_environment_is_made_for_the_sandboxs_python(bwrap: Sandbox, ctx: Context) -> None:
    """Inside, its interpreter runs and finds its own folder first."""
    make_environment(ctx.workspace, bwrap, RUNTIME)
    said = python(bwrap, ctx, "import sys; print(sys.prefix, *sys.path[-1:])")
    assert "/workspace/.venv" == said.split()[0]
    assert said.split()[1].startswith("/workspace/.venv/lib/python3.")
    assert sys.version_info >= (3, 11)
