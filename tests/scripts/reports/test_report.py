"""`rlpipe report`: what is in the data of the page, what is refused, and hostile run folders."""

import base64
import json
import os
import re
import shutil
from pathlib import Path

import forked
import pytest
from folders import write_run

from rlpipe.pipelines.algorithms.recipes import RECIPES
from rlpipe.scripts.main import run
from rlpipe.scripts.reports.data import json_number, make_data, text
from rlpipe.scripts.reports.gifs import Gifs, read_gif
from rlpipe.scripts.reports.groups import survey
from rlpipe.scripts.reports.page import as_json

GIF = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
HOSTILE = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def data_of(path="report.html"):
    page = Path(path).read_text()
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def read(**options):
    return make_data(survey([Path("runs")]), Gifs(**options))


def refused(capsys, *arguments, code=2):
    before = sorted(Path().rglob("*"))
    assert run(["report", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    assert sorted(Path().rglob("*")) == before, "something was written"
    return captured.err


def test_one_line_is_printed(capsys):
    for seed in range(2):
        write_run(f"runs/{seed}", seed=seed, score=float(seed))
    write_run("runs/cut", seed=5, final=False)
    write_run("runs/other", "dqn", score=3.0)
    assert run(["report", "runs", "--title", "A <b> & B", "--out", "mine.html"]) == 0
    captured = capsys.readouterr()
    size = f"{Path('mine.html').stat().st_size / 1e6:.1f} MB"
    assert captured.out == f"mine.html: 3 runs in 2 groups, 1 unfinished, {size}\n"
    assert captured.err == ""
    page = Path("mine.html").read_text()
    assert page.count("<title>A &lt;b&gt; &amp; B</title>") == 1
    assert page.count("<h1>A &lt;b&gt; &amp; B</h1>") == 1
    data = data_of("mine.html")
    assert data["command"] == "rlpipe report runs --title 'A <b> & B' --out mine.html"
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d$", data["date"])


def test_none_is_a_name_like_any_other():
    write_run("none")
    assert run(["report", "none", "--title", "none", "--out", "x.html"]) == 0
    assert data_of("x.html")["title"] == "none"


def test_groups_curves_and_pairs():
    # evaluations at half and at the end: returns 4 and 8 at frames 200 and 400; 1 and 2 at 100 and 200
    write_run("runs/a", seed=0, score=8.0, frames=400, seconds=4.0)
    write_run("runs/b", seed=1, score=2.0, frames=200, seconds=1.0)
    write_run("runs/c", "dqn", seed=0, score=5.0)
    write_run("runs/d", "dqn", seed=1, score=2.0)
    write_run("runs/e", "dqn", seed=0, score=-80.0, env_id="Acrobot-v1")
    data = read()
    first, *_ = data["groups"]
    assert (first["label"], first["environment"]) == ("ppo", "CartPole-v1")
    assert (first["iqm"], first["low"], first["high"]) == (5, 2, 8)
    assert [(each["seed"], each["score"], each["folder"]) for each in first["runs"]] == [
        ("0", 8, "runs/a"),
        ("1", 2, "runs/b"),
    ]
    frames, seconds = first["curves"]["frames"], first["curves"]["seconds"]
    assert (frames["at"], frames["seeds"]) == ([200, 400], [[4, 8], [2, 2]])
    assert (frames["iqm"], frames["low"], frames["high"]) == ([3, 5], [2, 2], [4, 8])
    assert (seconds["at"], seconds["iqm"]) == ([2, 4], [3, 5])
    assert data["groups"][2]["curves"]["frames"]["low"] is None
    # 8 > 5, 8 > 2, 2 < 5, 2 = 2: two and a half of four; the environments are never compared
    (pair,) = data["pairs"]
    assert (pair["first"], pair["second"], pair["p"]) == (0, 1, 0.625)
    assert 0 <= pair["low"] < 0.625 < pair["high"] <= 1
    assert data["across"] is None


def test_success_rates_are_those_of_the_final_evaluations():
    for seed, successes in enumerate(([1.0, 0.0, None], None)):
        write_run(f"runs/{seed}", seed=seed, successes=successes)
    assert [run["success"] for run in read()["groups"][0]["runs"]] == [0.5, None]


def test_long_curves_are_thinned():
    folder = write_run("runs/a")
    rows = [{"frames": at, "final": at == 1000, "returns": [2.0 * at]} for at in range(1, 1001)]
    (folder / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    curve = read()["groups"][0]["curves"]["frames"]
    assert (len(curve["at"]), curve["at"][0], curve["at"][-1]) == (200, 1, 1000)
    assert curve["seeds"][0] == pytest.approx([2 * at for at in curve["at"]])


def test_across_environments():
    # on each environment from 0 to 1: ppo has 1, 0.5 and 0.2, 0.6; dqn has 0, 0 and 0, 1
    for env_id, low, high in (("CartPole-v1", 0.0, 100.0), ("Acrobot-v1", -500.0, 0.0)):
        ppo, dqn = ((1.0, 0.5), (0.0, 0.0)) if env_id == "CartPole-v1" else ((0.2, 0.6), (0.0, 1.0))
        for recipe, shares in (("ppo", ppo), ("dqn", dqn)):
            for seed, share in enumerate(shares):
                score = low + share * (high - low)
                write_run(f"runs/{recipe}/{env_id}/{seed}", recipe, seed=seed, score=score, env_id=env_id)
    across = read()["across"]
    assert sorted(across["environments"]) == ["Acrobot-v1", "CartPole-v1"]
    ppo, dqn = across["lines"]
    # one of four is cut at each end: 0.5, 0.6 and 0, 0
    assert (ppo["label"], ppo["runs"], ppo["iqm"]) == ("ppo", 4, pytest.approx(0.55))
    assert (dqn["label"], dqn["iqm"], dqn["low"]) == ("dqn", 0, 0)
    assert ppo["low"] < 0.55 < ppo["high"]
    # an episode that is recorded is no other setting
    write_run("runs/recorded", "dqn", seed=2, score=0.0, env_id="Acrobot-v1", gif=True)
    shutil.rmtree("runs/dqn/Acrobot-v1")
    assert sorted(read()["across"]["environments"]) == ["Acrobot-v1", "CartPole-v1"]
    shutil.rmtree("runs/recorded")
    # with other settings on one of them there is nothing to put together
    write_run("runs/new", "dqn", lr=0.5, env_id="Acrobot-v1")
    assert read()["across"] is None


def test_runs_that_differ_in_their_gif_are_one_group():
    write_run("runs/a", seed=0, gif=True)
    write_run("runs/b", seed=1)
    (group,) = read()["groups"]
    assert (group["label"], len(group["runs"])) == ("ppo", 2)


def test_settings_and_versions():
    first = write_run("runs/a", seed=0)
    write_run("runs/b", seed=1, described=None, lr=0.5)
    versions = {"python": "3.11", "packages": {"torch": "2.8"}, "commit": "abc", "machine": {"cpus": 2}}
    (first / "versions.json").write_text(json.dumps(versions))
    fields = {field["name"]: field for field in read()["fields"]}
    assert fields["lr"]["values"] == [str(RECIPES["ppo"].config().lr), "0.5"]
    assert "seed" not in fields
    assert fields["packages: torch"] == {
        "section": "versions",
        "name": "packages: torch",
        "always": False,
        "values": ["2.8", None],
    }
    assert fields["commit"]["always"]
    assert fields["machine: cpus"]["always"]
    assert fields["versions.json"]["values"] == [None, "missing or damaged"]


def test_settings_that_are_too_many_are_told_of():
    folder = write_run("runs/a")
    (folder / "versions.json").write_text("{}")
    described = json.loads((folder / "config.json").read_text())
    own = len(described["config"])  # with the recipe, and without the seed
    described["config"] |= {f"more{index}": index for index in range(300 - own)}
    (folder / "config.json").write_text(json.dumps(described))
    assert read()["notes"][1:] == []
    described["config"] |= {"last": 1, "very last": 2}
    (folder / "config.json").write_text(json.dumps(described))
    data = read()
    assert len(data["fields"]) == 300
    assert data["notes"][-1] == "2 settings and versions were left out: the page has the first 300"


@pytest.mark.parametrize("content", ["[]", "{", "null", "[" * 100_000, "\xff", "3"])
def test_damaged_versions_cost_no_page(content):
    (write_run("runs/a") / "versions.json").write_text(content)
    (field,) = [field for field in read()["fields"] if field["section"] == "versions"]
    assert field["values"] == ["missing or damaged"]


def test_unfinished_runs():
    fcntl = pytest.importorskip("fcntl")
    write_run("runs/done", score=1.0)
    going, stopped, early = (
        write_run(f"runs/{name}", seed=seed, final=False) for seed, name in enumerate(["going", "stopped", "a-early"])
    )
    (stopped / "checkpoints" / "frames-000000001024").mkdir(parents=True)
    # a line of which the beginning was written
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        with (stopped / name).open("a") as stream:
            stream.write('{"frames": 99')
        (early / name).write_text("")
    with (going / "lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        data = read()
    assert [(each["folder"], each["state"], each["frames"], each["total"]) for each in data["unfinished"]] == [
        ("runs/a-early", "stopped before any checkpoint", 0, 50_000),
        ("runs/going", "running", 50_176, 50_000),
        ("runs/stopped", "stopped; resumes at frame 1,024", 50_176, 50_000),
    ]
    assert len(data["groups"]) == 1
    assert data["notes"] == []
    assert read()["unfinished"][1]["state"] == "stopped before any checkpoint"


def test_a_page_of_unfinished_runs_only(capsys):
    write_run("runs/a", final=False)
    assert run(["report"]) == 0
    assert capsys.readouterr().out.startswith("report.html: 0 runs in 0 groups, 1 unfinished, ")
    assert data_of()["groups"] == []


def test_refusals(capsys, monkeypatch):
    assert "no run found in runs, which is not a folder; name a run folder" in refused(capsys)
    Path("runs").mkdir()
    assert "no run found in runs; name a run folder" in refused(capsys)
    (write_run("runs/a") / "config.json").write_text("[]")
    assert "no run can be read; 1 run left out, damaged: runs/a" in refused(capsys)
    assert "no option is called --otu; did you mean --out?" in refused(capsys, "--otu", "x.html")
    assert "out is x.pdf; expected a name that ends in .html" in refused(capsys, "--out", "x.pdf")
    assert "out no/x.html cannot be written: no is not a folder" in refused(capsys, "--out", "no/x.html")
    Path("mine.html").write_text("mine")
    Path("link.html").symlink_to("nowhere")
    # before any work: the runs are not even looked for
    for name in ("mine.html", "link.html"):
        assert f"out {name} exists already; nothing was overwritten" in refused(capsys, "nowhere", "--out", name)
    assert Path("mine.html").read_text() == "mine"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert 'pip install "rlpipe[report]"' in refused(capsys, "nowhere")


def test_a_folder_that_may_not_be_written(capsys, monkeypatch):
    # for root there is none
    monkeypatch.setattr(os, "access", lambda *_: False)
    # before any work: the runs are not even looked for
    error = refused(capsys, "nowhere", "--out", "x.html", code=1)
    assert "out x.html cannot be written: the folder . is not writable" in error


def test_a_page_appears_whole_or_not_at_all(capsys, monkeypatch):
    write_run("runs/a")
    code = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000));"
    code += "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
    code += "from rlpipe.scripts.main import run; sys.exit(run(['report', '--out', 'x.html']))"
    before = sorted(Path().rglob("*"))
    full = forked.run("-c", code)
    assert (full.returncode, full.stderr) == (1, "rlpipe: error: out x.html cannot be written: File too large\n")
    assert sorted(Path().rglob("*")) == before
    real = os.fsync

    def interrupt(_):
        raise KeyboardInterrupt

    def come_between(handle):
        real(handle)
        Path("x.html").write_text("mine")

    monkeypatch.setattr(os, "fsync", interrupt)
    assert run(["report", "--out", "x.html"]) == 130
    assert sorted(Path().rglob("*")) == before
    monkeypatch.setattr(os, "fsync", come_between)
    capsys.readouterr()
    assert run(["report", "--out", "x.html"]) == 2
    assert "out x.html exists already; nothing was overwritten" in capsys.readouterr().err
    assert Path("x.html").read_text() == "mine"
    assert sorted(Path().rglob("*")) == sorted([*before, Path("x.html")])


def test_no_name_leaves_its_script_element():
    described = {"recipe": HOSTILE, "algorithm": "ppo", "config": {"seed": 0, "env_id": f"{HOSTILE}<!--<script>"}}
    folder = write_run("runs/a", described=described)
    (folder / "versions.json").write_text(json.dumps({HOSTILE: HOSTILE, "commit": "\u202e\x1b[31m\u2028"}))
    assert run(["report", "--title", HOSTILE]) == 0
    page = Path("report.html").read_text()
    assert HOSTILE not in page
    assert page.count("<!--<script>") == 0
    assert page.count("</script>") == 3
    data = data_of()
    # it is still there, as a text
    assert data["groups"][0]["label"] == HOSTILE
    (commit,) = [field["values"] for field in data["fields"] if field["name"] == "commit"]
    assert commit == ["??[31m"]


def test_json_of_a_page_has_no_markup():
    hostile = {"a": "</script><!--&\u2028"}
    assert not set("<>&\u2028") & set(as_json(hostile))
    assert json.loads(as_json(hostile)) == hostile


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 10**400, None])
def test_no_number_that_javascript_lacks(value):
    assert json_number(value) is None


def test_texts_and_numbers():
    assert list(map(json_number, (2.0, 1.23456789012, 1e300, 7))) == [2, 1.2345679, 1e300, 7]
    assert text("a\nb\x1b") == "a b?"
    assert text("x" * 1000) == "x" * 299 + "…"


@pytest.mark.parametrize("row", ['{"frames": 25088, "seconds": NaN}', '{"frames": 25088, "seconds": 1e300}'])
def test_runs_with_impossible_numbers_are_damaged(row):
    write_run("runs/good")
    bad = write_run("runs/bad", seed=10**400)
    (bad / "metrics.jsonl").write_text(f'{row}\n{{"frames": 50176, "seconds": 1}}\n')
    data = read()
    assert data["notes"] == ["1 run left out, damaged: runs/bad"]
    assert len(data["groups"]) == 1


GIFS = {
    b"": "it is not a complete GIF",
    GIF[:-1]: "it is not a complete GIF",
    b"<svg onload=alert(1)>;": "it is not a complete GIF",
    GIF[:6] + b"\xff\xff\x01\x00" + GIF[10:]: "it is 65535 x 1, allowed are up to 4096 x 4096",
    GIF[:-1] + b"x" * 100 + b";": "it has 142 bytes, allowed are 100",
}


def test_gifs():
    for seed in range(2):
        (write_run(f"runs/{seed}", seed=seed) / "agent.gif").write_bytes(GIF)
    sources = [f"data:image/gif;base64,{base64.b64encode(GIF).decode()}"] * 2
    assert read()["gifs"] == [{"run": run, "source": source} for run, source in enumerate(sources)]
    data = read(together=50)
    assert len(data["gifs"]) == 1
    assert data["notes"] == ["GIF runs/1/agent.gif was left out: the page is full of other GIFs"]


@pytest.mark.parametrize("content", GIFS)
def test_what_is_no_gif_is_left_out(content):
    (write_run("runs/a") / "agent.gif").write_bytes(content)
    data = read(largest=100)
    assert data["gifs"] == []
    assert data["notes"] == [f"GIF runs/a/agent.gif was left out: {GIFS[content]}"]


def test_a_gif_is_no_link_and_no_pipe():
    Path("secret.gif").write_bytes(GIF)
    (write_run("runs/a") / "agent.gif").symlink_to(Path("secret.gif").absolute())
    os.mkfifo(write_run("runs/b", seed=1) / "agent.gif")
    data = read()
    assert data["gifs"] == []
    assert [note.partition(": ")[0] for note in data["notes"]] == [
        "GIF runs/a/agent.gif was left out",
        "GIF runs/b/agent.gif was left out",
    ]
    assert read_gif(Path("secret.gif"), 100) == GIF
