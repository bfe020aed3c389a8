"""What SECURITY.md says of code and defaults is so."""

import ast
import re
from pathlib import Path

from advdmd_ray.cli import parse_arguments
from advdmd_ray.config.metrics import MetricsSection

ROOT = Path(__file__).parents[1]
SAID = " ".join((ROOT / "SECURITY.md").read_text(encoding="utf-8").split())
PACKAGE = ROOT / "advdmd_ray"
SOURCES = {path.relative_to(PACKAGE).as_posix(): path.read_text("utf-8") for path in sorted(PACKAGE.rglob("*.py"))}
RUNS_WHAT_IT_READS = re.compile(
    r"^\s*(?:import|from) (?:pickle|cloudpickle|dill|marshal|shelve|joblib)\b|torch\.load\(|allow_pickle|shell=True"
    r"|trust_remote_code|(?<![.\w])(?:eval|exec)\(|\.extract(?:all)?\(|os\.system\(|yaml\.(?:unsafe_|full_)load",
    re.MULTILINE,
)


def test_nothing_is_unpickled_unpacked_or_run_that_comes_in_a_file() -> None:
    assert {name: found[0] for name, text in SOURCES.items() if (found := RUNS_WHAT_IT_READS.search(text))} == {}
    for line in (
        "import pickle",
        "x = torch.load(file)",
        "tar.extractall()",
        "eval(text)",
        "    from joblib import load",
    ):
        assert RUNS_WHAT_IT_READS.search(line), "the search finds what it looks for"
    assert [name for name, text in SOURCES.items() if "yaml.load(" in text] == ["config/parsing.py"]
    assert "class _Loader(yaml.SafeLoader)" in SOURCES["config/parsing.py"]


def test_every_pipeline_is_loaded_from_local_safetensors() -> None:
    calls = [
        (
            ast.unparse(node.func).removesuffix(".from_pretrained"),
            {word.arg: ast.unparse(word.value) for word in node.keywords},
        )
        for text in SOURCES.values()
        if "from_pretrained" in text
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".from_pretrained")
    ]
    assert calls
    for kind, given in calls:
        assert given["local_files_only"] == "True"
        has_weights = not kind.endswith(("Config", "Tokenizer", "ImageProcessorPil"))
        assert given.get("use_safetensors") == ("True" if has_weights else None)


def test_whatever_listens_is_in_the_table() -> None:
    listens = re.compile(r"HTTPServer\)|start_http_server\(|is_master=True|create_server\(|\.listen\(")
    assert {name for name, text in SOURCES.items() if listens.search(text)} == {
        "metrics/hub.py",
        "runs/page/server.py",
        "learner/gang.py",
    }


def test_listeners_and_rights_are_those_of_the_tables() -> None:
    metrics = MetricsSection()
    assert f"| `{metrics.host}`, port {metrics.port} | nothing | `metrics.host`, `metrics.port`." in SAID
    page = parse_arguments(["dashboard", "runs/a"])
    assert f"| `{page.host}`, port {page.port} | elsewhere than on loopback a token" in SAID
    assert "include_dashboard=False" in SOURCES["runtime/cluster.py"]
    assert 'setdefault("RAY_AUTH_MODE", "token")' in SOURCES["runtime/authentication.py"]
    (user,) = set(re.findall(r"^USER (\d+)$", (ROOT / "deploy/Dockerfile").read_text("utf-8"), re.MULTILINE))
    assert f"Pods run as user {user} " in SAID
