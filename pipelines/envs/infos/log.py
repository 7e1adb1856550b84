"""`InfoLog`: what infos report, kept from one batch to the next."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlpipe.pipelines.envs.infos.keys import SUCCESS, InfoKey, names_in, number_in, numbers_in
from rlpipe.warn_once import notice

PACKED, NAMES = "rlpipe numbers", "rlpipe names"
"""Keys of the info of a `Checked` environment: an array of a fixed size is the cheapest for Gymnasium to merge."""


class InfoReport(NamedTuple):
    """What infos reported.

    Args:
        successes: of each episode that ended and reports `is_success`: environment, and success, usually 0 or 1.
        sums: sum and count of the numbers under each metric `info/...`.
        names: keys with numbers, if a key was missing.
    """

    successes: list[tuple[int, float]]
    sums: dict[str, tuple[float, int]]
    names: list[str]


class InfoPicker:
    """Reads successes and the numbers of `keys` from the infos of one environment."""

    def __init__(self, keys: Sequence[InfoKey]) -> None:
        self._keys, self._missing = keys, {key.metric for key in keys}

    def pick(self, info: Any, *, ended: bool) -> dict[str, Any]:
        """What is kept of an info, in a form that Gymnasium can merge; `ended`: it is of an episode's last step."""
        picked: dict[str, Any] = {}
        if self._keys:
            picked[PACKED] = np.array([self._read(key, info) for key in self._keys])
        if ended:
            success = self._read(SUCCESS, info)
            if np.isfinite(success):
                picked[SUCCESS.name] = success
            if self._missing:
                picked[NAMES] = ", ".join(names_in(info))
        return picked

    def _read(self, key: InfoKey, info: Any) -> float:
        try:
            value, _ = key.find(info)
        except Exception:  # an info may be of any kind of dict
            return np.nan
        number = np.nan if value is None else number_in(value)
        if not np.isnan(number):
            self._missing.discard(key.metric)
        return number


class InfoLog:
    """The successes, and the numbers of `keys`, in the infos of a vector environment; kept on request."""

    def __init__(self, num_envs: int, keys: Sequence[InfoKey] = ()) -> None:
        self.keys, self._num_envs = tuple(keys), num_envs
        self._at_end = np.array([key.at_end for key in keys], dtype=bool)
        self.start()
        self._is_on = False

    def start(self) -> None:
        """Keep what infos report from now on."""
        self._is_on = True
        self._successes: list[tuple[int, float]] = []
        self._sums, self._counts = np.zeros(len(self.keys)), np.zeros(len(self.keys), np.int64)
        self._names: list[str] = []

    def take(self) -> InfoReport:
        """Return what was kept, and start again."""
        pairs = zip(self._sums.tolist(), self._counts.tolist(), strict=True)
        sums = {key.metric: pair for key, pair in zip(self.keys, pairs, strict=True)}
        taken = InfoReport(self._successes, sums, self._names)
        self.start()
        return taken

    def read(self, info: Any, done: np.ndarray, *, ended: bool | np.bool_) -> None:
        """Keep what the info of a step reports; `ended` says whether an episode did, `done` `[num_envs]` which."""
        if self._is_on:
            # a custom vector environment's info may hold anything
            with contextlib.suppress(Exception), np.errstate(all="ignore"):
                self._read(info, done if ended else None)

    def _read(self, info: dict[Any, Any], done: np.ndarray | None) -> None:
        # the info beside `final_info` is that of the reset
        last = info.get("final_info", info)
        if done is not None and not (isinstance(last, dict) and SUCCESS.name not in last):
            successes = self._column(SUCCESS, last)
            where = np.flatnonzero(done & np.isfinite(successes)).tolist()
            self._successes += [(index, float(successes[index])) for index in where]
        if not self.keys:
            return
        numbers = self._rows(info)
        if done is not None:
            numbers = np.where(done[:, None], self._rows(last), numbers)
        going_on = np.ones(self._num_envs, dtype=bool) if done is None else ~done
        numbers[np.logical_and.outer(going_on, self._at_end)] = np.nan
        known = np.isfinite(numbers)
        self._sums += np.where(known, numbers, 0.0).sum(0)
        self._counts += known.sum(0)
        if done is not None and not self._names:
            self._names = self._names_in(last)

    def _rows(self, info: Any) -> np.ndarray:
        """The numbers of an info, `[num_envs, keys]`; NaN where there is none."""
        if isinstance(info, dict) and PACKED in info:
            return np.where(info[f"_{PACKED}"][:, None], info[PACKED], np.nan)
        return np.stack([self._column(key, info) for key in self.keys], axis=1)

    def _column(self, key: InfoKey, info: Any) -> np.ndarray:
        """One number of each environment, `[num_envs]`, from an info of any form."""
        if isinstance(info, dict):
            return numbers_in(*key.find(info), self._num_envs)
        # a dict for each environment, as Gymnasium had them before 1.0
        return np.array([number_in(key.find(info[index])[0]) for index in range(self._num_envs)])

    def _names_in(self, last: Any) -> list[str]:
        if not isinstance(last, dict):
            return names_in(next((each for each in last if isinstance(each, dict)), {}))
        if PACKED in last:
            told = [each for each in last.get(NAMES, ()) if each]
            return told[0].split(", ") if told else []
        return names_in(last, self._num_envs)


def joined(reports: Iterable[InfoReport]) -> InfoReport:
    """What several collectors report as one."""
    successes: list[tuple[int, float]] = []
    names: list[str] = []
    sums: dict[str, tuple[float, int]] = {}
    for report in reports:
        successes += report.successes
        names += report.names
        for metric, (total, count) in report.sums.items():
            before = sums.get(metric, (0.0, 0))
            sums[metric] = before[0] + total, before[1] + count
    return InfoReport(successes, sums, list(dict.fromkeys(names)))


class MissingKeys:
    """Says once which keys no info has had when the first episode has ended."""

    def __init__(self) -> None:
        self._unseen: set[str] | None = None
        self._is_over = False

    def note(self, report: InfoReport, ended: Sequence[float]) -> None:
        """Read the report on a batch, in which the episodes of `ended` did."""
        if self._is_over:
            return
        unseen = {metric for metric, (_, count) in report.sums.items() if not count}
        self._unseen = unseen if self._unseen is None else self._unseen & unseen
        if ended or not self._unseen:
            self._is_over = True
            if self._unseen:
                _tell(sorted(self._unseen), report.names)


def _tell(metrics: Sequence[str], names: Sequence[str]) -> None:
    has = f"an info has the numbers {', '.join(names)}" if names else "infos have no numbers at all"
    notice(f"rlpipe: log_info: no info has had a number for {', '.join(metrics)} so far; {has}")
