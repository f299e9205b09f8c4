"""Tasks in processes of this machine and on a Ray cluster: the same results, whatever is lost."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from data_samples import assert_same_episode

from collect.recorder import POLICY, RANDOM, EpisodePlayer, Job
from worldmodel import parallel
from worldmodel.errors import UserError
from worldmodel.parallel import Workers

ray = pytest.importorskip("ray")


class SlowEnv(gymnasium.Env):
    """Shows a random picture every 20 ms; notes the process that plays in a folder."""

    observation_space = gymnasium.spaces.Box(0, 255, (4, 4, 3), np.uint8)
    action_space = gymnasium.spaces.Discrete(3)

    def __init__(self, notes: str) -> None:
        Path(notes, str(os.getpid())).touch()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample() * 0 + self.np_random.integers(256), {}

    def step(self, action):
        time.sleep(0.02)
        frame = self.np_random.integers(256, size=(4, 4, 3), dtype=np.uint8)
        return frame, float(action), False, False, {}


gymnasium.register("Slow-v0", f"{__name__}:SlowEnv")
ENV_ID = f"{__name__}:Slow-v0"  # workers import this module to find it


def jobs(count: int) -> list[Job]:
    return [Job(i, 100 + i, 200 + i, RANDOM, 10) for i in range(count)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two machines of one core each, both on 127.0.0.1."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


@pytest.fixture
def players(tmp_path: Path) -> Callable[..., Workers]:
    return lambda **where: Workers(
        partial(EpisodePlayer, ENV_ID, {"notes": str(tmp_path)}), 2, **where
    )


def test_a_machine_lost_on_the_way_changes_nothing(cluster, players, tmp_path: Path) -> None:
    with players() as here:
        expected = {episode.episode_id: episode for episode in here.run(jobs(40))}
    played = {}
    with players(ray=cluster.address) as workers:
        for episode in workers.run(jobs(40)):
            played[episode.episode_id] = episode
            if len(played) == 10:
                cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    assert sorted(played) == list(range(40))
    for i, episode in expected.items():
        assert_same_episode(played[i], episode)


def test_a_process_lost_on_the_way_changes_nothing(cluster, players, tmp_path: Path) -> None:
    played = []
    with players(ray=cluster.address) as workers:
        for episode in workers.run(jobs(20)):
            played.append(episode.episode_id)
            if len(played) == 5:
                os.kill(int(next(tmp_path.iterdir()).name), signal.SIGKILL)
    assert sorted(played) == list(range(20))


def test_a_task_that_fails_is_reported(cluster) -> None:
    nobody = partial(EpisodePlayer, "CartPole-v1", {})
    with (
        Workers(nobody, 1, ray=cluster.address) as workers,
        pytest.raises(UserError, match="KeyError: 'policy'"),
    ):
        list(workers.run([Job(0, 0, 0, POLICY, 5)]))


def test_a_cluster_without_a_free_core_is_named(cluster, players, monkeypatch, capsys) -> None:
    monkeypatch.setattr(parallel, "NOTED_AFTER_S", 1.0)
    with players(ray=cluster.address) as workers:
        cores = int(ray.cluster_resources()["CPU"])
        others = [ray.remote(num_cpus=1)(lambda: time.sleep(4)).remote() for _ in range(cores)]
        while ray.available_resources().get("CPU", 0) >= 1:
            time.sleep(0.05)
        assert len(list(workers.run(jobs(2)))) == 2
        ray.get(others)
    said = capsys.readouterr().err
    assert said.count("no result for 1 s: all ") == 1
    assert "cores of the Ray cluster are taken" in said


def test_a_cluster_that_is_not_there_is_reported() -> None:
    with pytest.raises(UserError, match=r"no Ray cluster at '127\.0\.0\.1:1' .*refused"):
        Workers(partial(EpisodePlayer, ENV_ID, {}), 1, ray="127.0.0.1:1")


def test_results_wait_until_they_are_taken(tmp_path: Path, players) -> None:
    with players() as workers:
        results = workers.run(_counted(jobs(40), tmp_path / "submitted"))
        next(results)
        time.sleep(1.0)
        assert int((tmp_path / "submitted").read_text()) <= 6


class Awkward:
    """Runs tasks that go wrong."""

    def __call__(self, task: str) -> bytes:
        if task == "exits":
            sys.exit(0)
        if task == "raises":
            raise Unpicklable(3, "the pole broke")
        if task == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        return bytes(2**27)


class Unpicklable(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{message} ({code})")


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("exits", r"a worker process failed: SystemExit: 0 \(.*test_parallel.py, line \d+\)$"),
        ("raises", r"failed: Unpicklable: the pole broke \(3\) \(.*test_parallel.py, line \d+\)$"),
        ("dies", "a worker process died"),
    ],
)
def test_whatever_a_task_does_is_reported(task: str, message: str) -> None:
    with Workers(Awkward, 2) as workers, pytest.raises(UserError, match=message):
        list(workers.run(["returns", task]))


def test_a_worker_killed_while_it_sends_is_missed() -> None:
    """Its half of a long result must not keep the others waiting."""
    with Workers(Awkward, 1) as workers:
        results = workers.run(["returns"] * 100)
        next(results)
        (process,) = multiprocessing.active_children()
        process.kill()
        with pytest.raises(UserError, match="a worker process died"):
            list(results)


class Describing:
    """Tells which process it is in, and for how many threads, after half a second."""

    def __call__(self, task: int) -> tuple[int, str | None]:
        time.sleep(0.5)
        return os.getpid(), os.environ.get("OMP_NUM_THREADS")


def test_every_worker_has_one_thread_and_none_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with Workers(Describing, 3) as workers:
        found = {next(results) for results in [workers.run(range(12))] for _ in range(9)}
        assert len(multiprocessing.active_children()) == 3
    assert len(found) == 3
    assert {threads for _, threads in found} == {"1"}
    assert multiprocessing.active_children() == []


class Closing:
    """Notes in a file that it was closed."""

    def __init__(self, note: Path) -> None:
        self.note = note

    def __call__(self, task: int) -> int:
        return task

    def close(self) -> None:
        self.note.write_text("closed")


def test_what_a_worker_owns_is_closed(tmp_path: Path) -> None:
    with Workers(partial(Closing, tmp_path / "note"), 1) as workers:
        assert sorted(workers.run(range(5))) == list(range(5))
    assert (tmp_path / "note").read_text() == "closed"


def _counted(tasks: list[Job], file: Path) -> Iterator[Job]:
    for count, task in enumerate(tasks, 1):
        file.write_text(str(count))
        yield task
