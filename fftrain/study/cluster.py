"""The cells of a study as Ray tasks, on this machine or on a cluster whose nodes share the study's folder.

The driver plans, says how far things are, starts a cell again whose node died, and compares pairs; `task.py` is what a
worker does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from ffcore.cluster import joined
from ffcore.errors import FFStudyError, InUse, SettingError, TrainingError
from ffcore.files import lock
from fftrain.launcher import told_threads
from fftrain.progress import Reporter
from fftrain.study.folder import Study
from fftrain.study.spec import Cell
from fftrain.study.task import Job, do, unfit
from fftrain.study.work import Engine, Outcome, tell

# How often a cell is started again whose process or node died.
RETRIES = 5
# Seconds in which nodes answer, and cells that are told to stop do.
ANSWERING, STOPPING = 120.0, 15.0
# Seconds that a cell waits for a lock of a process that is ending, and of a node that died: an NFS server keeps those
# for 90 s.
ENDING, DYING = 5.0, 120.0
# What is the same on every node, and what of the environment goes along.
VERSIONS = ("ffstudy", "torch")
ALONG = ("ACCELERATE_", "FFSTUDY_", "GOMP_", "OMP_")


class Tried(NamedTuple):
    """A cell that is at work: what it is called, how often it was started again, and its task."""

    cell: Cell
    called: str
    times: int
    task: Any


class Cluster(Engine):
    """Does cells as Ray tasks, as many at a time as there are CPUs and GPUs for.

    Args:
        address: of a cluster, as `ray.init` takes it; None starts Ray on this machine.
        cell_cpus: CPUs of a cell; None means its threads, of a cell that names none OMP_NUM_THREADS, else 1.
        cell_gpus: its share of a GPU; None means a whole one where there are some.
    """

    def __init__(
        self, address: str | None = None, cell_cpus: int | None = None, cell_gpus: float | None = None
    ) -> None:
        super().__init__()
        self.address, self.cell_cpus, self.cell_gpus = address, cell_cpus, cell_gpus
        self.held = ExitStack()

    def __enter__(self) -> Cluster:
        """Starts Ray, or joins a cluster. Raises as `ffcore.cluster.joined` does."""
        self.ray, self.dashboard = self.held.enter_context(joined(self.address))
        return self

    def __exit__(self, *_: object) -> None:
        """Leaves the cluster, or ends Ray on this machine; what still runs is ended."""
        self.held.close()

    def prepare(self, cells: Sequence[Cell], part: Sequence[Cell]) -> None:
        """Raises SettingError where no node has the CPUs and GPUs of a cell; the rest is for the nodes to say."""
        self.nodes = [node for node in self.ray.nodes() if node["Alive"]]
        if self.cell_gpus is None:
            self.cell_gpus = float(any(node["Resources"].get("GPU") for node in self.nodes))
        for cpus in {self._cpus(cell) for cell in part}:
            if any(self._fits(node, cpus) for node in self.nodes):
                continue
            most = {key: max(node["Resources"].get(key, 0) for node in self.nodes) for key in ("CPU", "GPU")}
            raise SettingError(
                f"--cell-cpus is {cpus} and --cell-gpus {self.cell_gpus:g}, which no node has: "
                f"the most are {most['CPU']:g} CPUs and {most['GPU']:g} GPUs"
            )

    def run(self, study: Study, cells: Sequence[Cell], redo_damaged: bool, reporter: Reporter) -> dict[str, str]:
        """Does what is left of cells; returns why some failed or are damaged, by name.

        Raises SettingError where a node does not see the study's folder, or has other versions.
        """
        if self.dashboard:
            reporter.note(f"dashboard: http://{self.dashboard}")
        path, spec = study.path.resolve(), study.spec
        with _token(path / "locks") as token:
            job = Job(
                path=str(path),
                planned=json.dumps([spec.content, spec.name, spec.overrides]),
                working=os.getcwd(),
                token=str(token),
                versions=tuple((name, version(name)) for name in VERSIONS),
                redo_damaged=redo_damaged,
            )
            self._check_nodes(job, {self._cpus(cell) for cell in cells})
            return self._run(study, cells, job, reporter)

    def _run(self, study: Study, cells: Sequence[Cell], job: Job, reporter: Reporter) -> dict[str, str]:
        task = self.ray.remote(max_retries=0)(do)  # started again here, where it can be said
        running: dict[Future[Any], Tried] = {}
        failed = {}

        def start(cell: Cell, called: str, times: int) -> None:
            asked = {**self._asked(self._cpus(cell)), "name": cell.name}
            found = task.options(**asked).remote(job, cell.name, called, DYING if times else ENDING)
            running[found.future()] = Tried(cell, called, times, found)

        for number, cell in enumerate(cells, start=1):
            start(cell, f"cell {number}/{len(cells)} {cell.name}", 0)
        try:
            while running:  # not by ray.wait, which forgets the number of a signal
                for ended in wait(running, return_when=FIRST_COMPLETED).done:
                    cell, called, times, _ = running.pop(ended)
                    outcome = self._outcome(ended)
                    if outcome is None and times < RETRIES:
                        reporter.note(f"{called}: its process or node died; it goes on elsewhere")
                        start(cell, called, times + 1)
                        continue
                    if not isinstance(outcome, Outcome):
                        error = outcome or TrainingError(f"its process or node died {RETRIES + 1} times")
                        reason = study.record_failure(cell.name, "ray", error)
                        outcome = Outcome(f"failed: {reason}", reason, worked=True)
                    tell(study, called, outcome, [each.cell for each in running.values()], reporter)
                    if outcome.failed:
                        failed[cell.name] = outcome.failed
        except BaseException:
            for each in running.values():  # in the middle of an epoch; the last one's checkpoint stays
                self.ray.cancel(each.task)
            wait(running, timeout=STOPPING)
            raise
        return failed

    def _outcome(self, ended: Future[Any]) -> Outcome | Exception | None:
        """Returns what became of a cell, or the error of its task; None where the process that did it died."""
        try:
            return Outcome(*ended.result())
        except self.ray.exceptions.RayTaskError as error:
            return _as_known(error)
        except self.ray.exceptions.RayError:
            return None

    def _cpus(self, cell: Cell) -> int:
        """Returns the CPUs of a cell."""
        return self.cell_cpus or cell.config.threads or told_threads() or 1

    def _fits(self, node: Mapping[str, Any], cpus: int) -> bool:
        """Whether a node can have a cell of so many CPUs."""
        has = node["Resources"]
        return bool(has.get("CPU", 0) >= cpus and has.get("GPU", 0) >= (self.cell_gpus or 0))

    def _asked(self, cpus: int) -> dict[str, Any]:
        """Returns what a task asks for: its share of a node, and the environment that this process has."""
        own = {key: value for key, value in os.environ.items() if key.startswith(ALONG)}
        environment = {"OMP_NUM_THREADS": str(cpus), **own}  # a cell's threads are those of the plain engine
        return {"num_cpus": cpus, "num_gpus": self.cell_gpus, "runtime_env": {"env_vars": environment}}

    def _check_nodes(self, job: Job, cpus: Collection[int]) -> None:
        """Raises SettingError where a node that may have cells does not see the folder, or has other versions."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        task, asked = self.ray.remote(max_retries=0)(unfit), {}
        for node in self.nodes:
            if any(self._fits(node, each) for each in cpus):
                place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                options = {**self._asked(min(cpus)), "num_cpus": 0, "num_gpus": 0, "scheduling_strategy": place}
                asked[task.options(name="check", **options).remote(job).future()] = node["NodeManagerHostname"]
        answered, silent = wait(asked, timeout=ANSWERING)
        for each in answered:
            try:
                reason = each.result()
            except self.ray.exceptions.RayError as error:
                own = dict(job.versions)["ffstudy"]
                reason = f"cannot run ffstudy ({_as_known(error)}): install ffstudy {own} there"
            if reason:
                raise SettingError(f"node {asked[each]} {reason}")
        for each in silent:
            raise TrainingError(f"node {asked[each]} does not answer in {ANSWERING:.0f} s: look at it, or take it away")


@contextmanager
def _token(locks: Path) -> Iterator[Path]:
    """Makes a file for the block, held, by which nodes know the folder; those of drivers that were killed go."""
    for old in locks.glob("ray-*"):
        with suppress(InUse), lock(old, "another driver's"):
            old.unlink(missing_ok=True)
    token = locks / f"ray-{uuid4().hex}"
    with lock(token, "this driver's"):
        try:
            yield token
        finally:
            token.unlink(missing_ok=True)


def _as_known(error: Any) -> Exception:
    """Returns what is wrong, in few words, of an error that Ray passes on."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, FFStudyError):
        return cause
    return TrainingError(" ".join(f"{type(cause or error).__name__}: {cause or error}".split())[:300])
