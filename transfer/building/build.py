"""Building a zoo from a folder of tasks: every job once, in worker processes, going on after a kill."""

from __future__ import annotations

import multiprocessing
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from transfer.building import work
from transfer.building.licences import forbids_commercial_use
from transfer.building.records import Built, Record, Records
from transfer.building.reporting import write_report
from transfer.building.settings import BuildSettings
from transfer.building.work import Job
from transfer.deltas import METHODS
from transfer.errors import DataError, TransferError
from transfer.progress import track
from transfer.tasks.facts import Facts
from zoo import Zoo
from zoo.errors import ExplainedError


def build_zoo(
    tasks: Path,
    out: Path,
    settings: BuildSettings,
    only: Sequence[str] | None = None,
    workers: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Built:
    """Train a module for every task under `tasks` and every method, and store those that pass.

    Args:
        tasks: A folder with a task folder each.
        out: The zoo; made if it is not there. What is finished in it is not done again.
        settings: How to train, what to keep.
        only: Names of tasks; None is all.
        workers: Processes; None is one per core. Each works on one module at a time with its share of the threads.
        say: Called with a line per finished module.
    Raises:
        DataError: no task under `tasks`.
        BackboneError: the backbone cannot be loaded.
        ConfigError: `out` holds a build with another backbone or start.
        TransferError: a worker process was killed; the build goes on where it stopped when called again.
    """
    names, built = _tasks(tasks, only, settings)
    records = Records(out)
    jobs = [Job(name, method) for method in settings.methods for name in names]
    stored = {(entry.task, entry.method) for entry in Zoo(out).entries()}
    found = {job: record for job in jobs if (record := _finished(job, records, stored, settings)) is not None}
    todo = [job for job in jobs if job not in found]
    cores = os.cpu_count() or 1
    workers = max(1, workers or cores)
    pool = _pool(settings, out, tasks, workers, max(1, cores // workers))
    try:
        with pool, track("modules", len(jobs)) as progress:
            pool.submit(work.check).result()
            progress(len(found))
            _train(pool, workers, todo, found, built, settings, say, progress)
            built.records = [found[job] for job in jobs if job in found]
            kept = choose(built, settings)
            for future in [pool.submit(work.store, job) for job in kept]:
                built.kept.append(future.result())
                say(f"stored {built.kept[-1]}")
    except BrokenProcessPool as error:
        raise TransferError(
            "a worker process of the build ended suddenly",
            found="often the memory is too small for so many workers",
            hint="the same command again goes on where it stopped; with --workers 1 it needs least memory",
        ) from error
    write_report(built, settings, out)
    return built


def _finished(job: Job, records: Records, stored: set[tuple[str, str]], settings: BuildSettings) -> Record | None:
    """The record of a job that need not be done again: it failed, it is in the zoo, or its tensors wait to go there.

    So records can be passed on without the tensors of what failed, and the build goes on from them elsewhere.
    """
    record = records.get(job.task, job.method)
    if record is None or record.reason(settings.criterion) is not None:
        return record
    kept = (job.task, job.method) in stored or records.has_tensors(job.task, job.method)
    return record if kept else None


def choose(built: Built, settings: BuildSettings) -> list[Job]:
    """The modules to store; why another is not goes into `built.left_out`."""
    kept = []
    for method in settings.methods:
        passing = []
        for record in built.records:
            reason = record.reason(settings.criterion)
            if record.method != method:
                continue
            if reason is None:
                passing.append(record)
            else:
                built.left_out[f"{record.task} {method}"] = reason
        passing.sort(key=lambda record: -record.clearness)
        for place, record in enumerate(passing):
            if settings.most_tasks is not None and place >= settings.most_tasks:
                built.left_out[f"{record.task} {method}"] = f"{settings.most_tasks} others are clearer"
            else:
                kept.append(Job(record.task, method))
    return kept


def _tasks(folder: Path, only: Sequence[str] | None, settings: BuildSettings) -> tuple[list[str], Built]:
    built = Built()
    there = sorted({path.parent.name for pattern in ("*/task.json", "*/train.*") for path in folder.glob(pattern)})
    if not there:
        raise DataError(f"no task folder under {folder}", hint="a folder for each task with train.jsonl and task.json")
    unknown = sorted(set(only or ()) - set(there))
    if unknown:
        raise DataError(f"no task {unknown[0]!r} under {folder}", found=", ".join(there))
    names = []
    for name in there if only is None else dict.fromkeys(only):
        try:
            licence = Facts.read(folder / name).license or "unknown"
        except DataError as error:
            built.left_out[name] = _one_line(error)
            continue
        if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", name):
            built.left_out[name] = "the folder's name has more than small letters, digits and _ . -"
        elif settings.commercial and forbids_commercial_use(licence):
            built.left_out[name] = f"its licence forbids commercial use: {licence}"
        else:
            names.append(name)
    names.sort(key=lambda name: _row_bytes(folder / name / "train.jsonl"))  # the quick ones first
    for method in settings.methods:
        METHODS.resolve(method)
    return names, built


def _row_bytes(path: Path) -> float:
    """Mean length of a training row, which decides how long a module takes."""
    if not path.is_file():
        return 0.0
    with path.open("rb") as file:
        rows = sum(1 for _ in file)
    return path.stat().st_size / max(rows, 1)


def _pool(settings: BuildSettings, out: Path, tasks: Path, workers: int, threads: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")  # a forked child inherits torch's threads and hangs
    return ProcessPoolExecutor(workers, context, initializer=work.begin, initargs=(settings, out, tasks, threads))


def _train(
    pool: ProcessPoolExecutor,
    workers: int,
    todo: list[Job],
    found: dict[Job, Record],
    built: Built,
    settings: BuildSettings,
    say: Callable[[str], None],
    progress: Callable[[int], None],
) -> None:
    """Hand out the jobs, the methods in order; a method's most promising tasks first."""
    waiting = list(todo)
    running: dict[Future[Record], Job] = {}
    while waiting or running:
        while waiting and len(running) < workers:
            job = min(waiting, key=lambda job: _rank(job, settings, found, todo))
            waiting.remove(job)
            running[pool.submit(work.train, job)] = job
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            job = running.pop(future)
            try:
                found[job] = future.result()
            except ExplainedError as error:
                # One task with broken data must not end a night of training; the report names it.
                built.left_out[f"{job.task} {job.method}"] = _one_line(error)
                say(f"{job.task} {job.method}: {error}")
                continue
            progress(len(found))
            say(_line(found[job], settings))


def _rank(job: Job, settings: BuildSettings, found: dict[Job, Record], todo: list[Job]) -> tuple[int, float, int]:
    """Methods in the order given; within one, what was clearest with another method comes first."""
    other = [record.clearness for done, record in found.items() if done.task == job.task]
    return settings.methods.index(job.method), -max(other, default=0.0), todo.index(job)


def _line(record: Record, settings: BuildSettings) -> str:
    reason = record.reason(settings.criterion)
    outcome = "kept" if reason is None else f"left out: {reason}"
    found = ", ".join(f"{name} {value:.3f}" for name, value in record.on("test").items())
    return f"{record.task} {record.method}: {record.judged_by} {found}, {record.seconds:.0f} s; {outcome}"


def _one_line(error: ExplainedError) -> str:
    return str(error).replace("\n", "; ")
