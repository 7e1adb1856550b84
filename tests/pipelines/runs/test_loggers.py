"""Loggers: names, hyperparameters, one run in W&B and MLflow however often it goes on, and no run lost to a logger."""

import json
import logging
import os
from dataclasses import replace

import pytest
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, backend_context, get_experiment, list_session_groups

from rlpipe.errors import ConfigError
from rlpipe.pipelines.algorithms import dqn, ppo
from rlpipe.pipelines.front_door import run_recipe
from rlpipe.pipelines.progress import Evaluation
from rlpipe.pipelines.runs.loggers.base import Logged
from rlpipe.pipelines.runs.loggers.loggers import batch_scalars, check_loggers
from rlpipe.pipelines.runs.loggers.mlflow import MLflowLog
from rlpipe.pipelines.runs.loggers.tensorboard import TensorBoardLog
from rlpipe.pipelines.runs.run import BuiltFrom, Run
from rlpipe.scripts.main import run

SHORT = {"num_envs": 4, "rollout_steps": 64, "minibatch_size": 64, "total_frames": 512, "eval_every": 256}
SHORT |= {"eval_episodes": 2, "final_eval_episodes": 2, "checkpoint_every": 256, "hidden": (8,)}


def learned(folder):
    """What a run has learned, without the seconds it took."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in ("seconds", "frames_per_second")} for row in rows]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain") / "run"
    run_recipe("ppo", folder=folder, loggers=(), **SHORT)
    return folder


def test_names_are_grouped():
    scalars = {"loss_td": 1.0, "epsilon": 0.5, "seconds": 2.0, "frames_per_second": 3.0, "updates": 4}
    assert batch_scalars(scalars, [3.0, 5.0], [1, 2]) == {
        "loss/td": 1.0,
        "train/epsilon": 0.5,
        "time/seconds": 2.0,
        "time/frames_per_second": 3.0,
        "train/updates": 4,
        "train/return": 4.0,
        "train/length": 1.5,
    }


def hparams(folder):
    """What TensorBoard's HParams page shows: its hyperparameters and metrics, and a row a run."""
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    context = backend_context.Context(TBContext(data_provider=MultiplexerDataProvider(multiplexer, str(folder))))
    found, request = RequestContext(), api_pb2.ListSessionGroupsRequest(slice_size=10)
    request.allowed_statuses.extend(api_pb2.Status.values())
    experiment = get_experiment.Handler(found, context, "", api_pb2.GetExperimentRequest()).run()
    for info in experiment.hparam_infos:
        request.col_params.add(hparam=info.name, include_in_result=True)
    for info in experiment.metric_infos:
        request.col_params.add(metric=info.name)
    return experiment, list_session_groups.Handler(found, context, "", request).run().session_groups


def test_hparams_page_has_every_run_with_its_options_and_returns(tmp_path):
    for name, config in (("ppo", ppo.Config(hidden=(8, 8))), ("dqn", dqn.Config(seed=3, double=False))):
        written = Run(tmp_path / name, name, built_from=BuiltFrom(name, config))
        written.log_evaluation(10, Evaluation((5.0, 6.0), (5, 7)), seconds=1.0)
        if name == "ppo":
            written.log_evaluation(20, Evaluation((7.0, 8.0), (7, 8)), seconds=2.0, final=True)
        written.checkpoint(10, {})
        written.close()
    for _ in range(2):
        again = Run(tmp_path / "dqn", "dqn", built_from=BuiltFrom("dqn", dqn.Config(seed=3, double=False)), resume=True)
        again.restore({})
        again.close()
    experiment, groups = hparams(tmp_path)
    assert {"recipe", "clip", "dueling", "hidden"} <= {info.name for info in experiment.hparam_infos}
    metrics = {"eval/return", "eval/length", "eval/final_return", "eval/final_length"}
    assert {info.name.tag for info in experiment.metric_infos} == metrics
    rows = {group.hparams["recipe"].string_value: group for group in groups}
    assert set(rows) == {"ppo", "dqn"}
    assert (rows["ppo"].hparams["hidden"].string_value, rows["dqn"].hparams["seed"].number_value) == ("8 8", 3)
    assert rows["dqn"].hparams["double"].WhichOneof("kind") == "bool_value"
    assert rows["dqn"].hparams["stop_at_mean"].string_value == "none"
    values = {metric.name.tag: metric.value for metric in rows["ppo"].metric_values}
    assert values == {"eval/return": 5.5, "eval/length": 6, "eval/final_return": 7.5, "eval/final_length": 7.5}
    statuses = [[session.status for session in rows[name].sessions] for name in ("ppo", "dqn")]
    assert statuses == [[api_pb2.STATUS_SUCCESS], [api_pb2.STATUS_UNKNOWN]]


def test_a_logger_that_fails_loses_no_run(tmp_path, monkeypatch, caplog, plain):
    calls = []

    def fail(self, scalars, frames):
        calls.append(frames)
        raise RuntimeError("the server has gone\nTraceback")

    monkeypatch.setattr(TensorBoardLog, "log", fail)
    with caplog.at_level(logging.WARNING, "rlpipe"):
        run_recipe("ppo", folder=tmp_path / "run", **SHORT)
    warnings = [each.getMessage() for each in caplog.records if each.name == "rlpipe"]
    assert warnings == [
        "rlpipe: logger tensorboard failed at frame 256: the server has gone; the run continues without it, and "
        "metrics.jsonl has everything"
    ]
    assert calls == [256]
    assert learned(tmp_path / "run") == learned(plain)


def test_a_logger_that_cannot_be_opened_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("no")

    monkeypatch.setattr(TensorBoardLog, "__init__", fail)
    with pytest.raises(ConfigError, match="^logger tensorboard cannot be opened: no; --logger none turns it off$"):
        run_recipe("ppo", folder=tmp_path / "run", **SHORT)
    assert not list(tmp_path.iterdir())


def test_unknown_and_missing_loggers():
    with pytest.raises(ConfigError, match="logger is 'csv'; there are tensorboard, wandb, mlflow, none"):
        check_loggers(["csv"])
    assert check_loggers(["tensorboard", "tensorboard"]) == ("tensorboard",)


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        ([], "--logger is empty; expected some of tensorboard, wandb, mlflow, or none"),
        (["tensorbord"], "logger is 'tensorbord'; did you mean tensorboard?"),
        (["csv"], "logger is 'csv'; there are tensorboard, wandb, mlflow, none"),
        (["wandb", "none"], "logger is wandb none; none means no logger"),
    ],
)
def test_what_is_no_logger_is_refused_in_one_line(tmp_path, plain, capsys, names, complaint):
    for command in (["train", "ppo", "--run-dir", str(tmp_path / "run")], ["resume", str(plain)]):
        assert run([*command, "--logger", *names, "--quiet"]) == 2
        error = capsys.readouterr().err
        assert complaint in error
        assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_none_by_itself_is_no_logger():
    assert check_loggers(["none"]) == check_loggers(["None"]) == ()
    with pytest.raises(ConfigError, match="logger is tensorboard none"):
        check_loggers(["tensorboard", "none"])


def test_none_logs_nowhere_and_a_run_remembers_it(plain, capsys):
    assert not (plain / "tensorboard").exists()
    assert json.loads((plain / "config.json").read_text())["loggers"] == []
    assert run(["resume", str(plain), "--total-frames", "768", "--quiet"]) == 0
    assert not (plain / "tensorboard").exists()
    assert run(["resume", str(plain), "--total-frames", "1024", "--quiet", "--logger", "tensorboard"]) == 0
    assert (plain / "tensorboard").is_dir()
    assert json.loads((plain / "config.json").read_text())["loggers"] == ["tensorboard"]


def test_loggers_of_a_strangers_run_are_checked(tmp_path, capsys):
    run_recipe("ppo", folder=tmp_path / "run", loggers=(), **SHORT)
    described = json.loads((tmp_path / "run" / "config.json").read_text())
    for wrong in (["os"], 3, [[]], "tensorboard"):
        (tmp_path / "run" / "config.json").write_text(json.dumps({**described, "loggers": wrong}))
        assert run(["resume", str(tmp_path / "run"), "--total-frames", "768"]) == 2
        assert "names unknown loggers; add --logger tensorboard" in capsys.readouterr().err


def test_a_finished_run_needs_no_logger(tmp_path, monkeypatch, capsys):
    run_recipe("ppo", folder=tmp_path / "run", loggers=None, **SHORT)
    described = json.loads((tmp_path / "run" / "config.json").read_text())
    (tmp_path / "run" / "config.json").write_text(json.dumps({**described, "loggers": ["wandb"]}))

    def ask():
        raise ConfigError("logger wandb needs a login")

    monkeypatch.setattr("rlpipe.pipelines.runs.loggers.loggers._check_login", ask)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert run(["resume", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["frames"] == 512
    assert run(["resume", str(tmp_path / "run"), "--total-frames", "768"]) == 2
    assert "logger wandb needs a login" in capsys.readouterr().err


def test_wandb_wants_a_login_before_anything_is_made(tmp_path, monkeypatch, capsys):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(wandb, "login", lambda prompt: False)
    assert run(["train", "ppo", "--logger", "wandb", "--run-dir", str(tmp_path / "run")]) == 2
    assert "logger wandb needs a login: run wandb login, or set WANDB_MODE=offline" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_wandb_offline_is_one_run_that_goes_on(tmp_path, monkeypatch, plain):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tmp_path / "run"
    run_recipe("ppo", folder=folder, loggers=("wandb",), **SHORT)
    known = json.loads((folder / "loggers.json").read_text())["wandb"]
    assert learned(folder) == learned(plain)[: len(learned(folder))]
    assert run(["resume", str(folder), "--total-frames", "768", "--quiet"]) == 0
    files = list((folder / "wandb").glob("offline-run-*/*.wandb"))
    assert {file.name for file in files} == {f"run-{known}.wandb"}
    text = b"".join(file.read_bytes() for file in files)
    for name in (b"train/return", b"loss/policy", b"eval/final_return", b"eval/length", b"clip"):
        assert name in text
    assert not (folder / "tensorboard").exists()


def test_mlflow_is_one_run_that_goes_on(tmp_path, monkeypatch, plain):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    folder = tmp_path / "run"
    run_recipe("ppo", folder=folder, loggers=("mlflow",), **SHORT)
    known = json.loads((folder / "loggers.json").read_text())["mlflow"]
    assert learned(folder) == learned(plain)[: len(learned(folder))]
    assert run(["resume", str(folder), "--total-frames", "768", "--quiet"]) == 0
    (found,) = mlflow.search_runs(experiment_names=["rlpipe"], output_format="list")
    assert (found.info.run_id, found.info.status, found.data.params["hidden"]) == (known, "FINISHED", "8")
    history = mlflow.MlflowClient().get_metric_history(known, "eval/return")
    assert [metric.step for metric in history] == [256, 512, 768]


def test_mlflow_leaves_no_run_open_and_the_environment_as_it_was(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")

    def fail(*_):
        raise RuntimeError("no parameters")

    told = Logged(tmp_path, "ppo", {"lr": 0.5})
    with monkeypatch.context() as patched:
        patched.setattr(mlflow, "log_params", fail)
        with pytest.raises(RuntimeError, match="no parameters"):
            MLflowLog(told)
    assert mlflow.active_run() is None
    (failed,) = mlflow.search_runs(experiment_names=["rlpipe"], output_format="list")
    assert failed.info.status == "FAILED"
    monkeypatch.setenv("MLFLOW_RUN_ID", "of-the-user")
    MLflowLog(replace(told, id=failed.info.run_id)).close(finished=True)
    assert os.environ["MLFLOW_RUN_ID"] == "of-the-user"
