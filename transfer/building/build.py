"""Building a zoo from a folder of tasks: every job once, in worker processes, going on after a kill."""

from __future__ import annotations

import multiprocessing
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch

from transfer.building import work
from transfer.building.candidates import candidates
from transfer.building.choosing import choose
from transfer.building.records import Built, Record, Records
from transfer.building.reporting import write_report
from transfer.building.settings import BuildSettings
from transfer.building.work import Job
from transfer.deltas import METHODS
from transfer.errors import TransferError
from transfer.progress import track
from zoo import Module, Zoo

MOST_WORKERS = 4  # each holds a backbone of its own in memory

# A module by what it was made of: task, method, fingerprint of the backbone, fingerprint of the data.
Made = tuple[str, str, str, str]


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
        workers: Processes; None is one on a machine with a GPU, else one per core and at most 4. Each works on one
            module at a time with its share of the threads.
        say: Called with a line per finished module.
    Raises:
        DataError: no task under `tasks`.
        BackboneError: the backbone cannot be loaded.
        ConfigError: `out` holds a build with another backbone or start, or with other settings of training.
        TransferError: a worker process was killed; the build goes on where it stopped when called again.
    """
    for method in settings.methods:
        METHODS.resolve(method)
    names, built = candidates(tasks, only, settings)
    records = Records(out)
    jobs = [Job(name, method) for method in settings.methods for name in names]
    if not jobs:  # no backbone need be loaded for that
        write_report(built, settings, out)
        return built
    stored = {_made(module): module.id for module in Zoo(out)}
    found = {job: record for job in jobs if (record := _finished(job, records, stored, settings)) is not None}
    cores = os.cpu_count() or 1
    workers = max(1, workers or default_workers())
    pool = _pool(settings, out, tasks, workers, max(1, cores // workers))
    try:
        with pool, track("modules", len(jobs)) as progress:
            pool.submit(work.check).result()
            changed = _forget_changed(pool, found, built, say)
            progress(len(found))
            todo = [job for job in jobs if job not in found and job.task not in built.left_out]
            _train(pool, workers, todo, found, built, settings, say, progress)
            built.records = [found[job] for job in jobs if job in found]
            kept = choose(built, settings, {task for task, *_ in stored})
            _store(pool, kept, found, stored, built, say)
    except BrokenProcessPool as error:
        raise TransferError(
            "a worker process of the build ended suddenly",
            found="often the memory is too small for so many workers",
            hint="the same command again goes on where it stopped; with --workers 1 it needs least memory",
        ) from error
    for entry in Zoo(out).entries() if changed else ():
        if Job(entry.task, entry.method) in changed and entry.id not in built.kept:
            say(f"of data that has changed since: transfer zoo rm {entry.id} --zoo {shlex.quote(str(out))}")
    write_report(built, settings, out)
    return built


def default_workers() -> int:
    """1 on a machine with a GPU, which one process fills; else one per core, at most 4."""
    return 1 if torch.cuda.is_available() else min(os.cpu_count() or 1, MOST_WORKERS)


def _made(module: Module) -> Made:
    card = module.card
    return card.task, card.method, card.fingerprint, str(card.data.get("fingerprint"))


def _key(record: Record) -> Made:
    return record.task, record.method, record.fingerprint, record.data_fingerprint


def _finished(job: Job, records: Records, stored: Mapping[Made, str], settings: BuildSettings) -> Record | None:
    """The record of a job that need not be done again: it failed, it is in the zoo, or its tensors wait to go there.

    So records can be passed on without the tensors of what failed, and the build goes on from them elsewhere.
    """
    record = records.get(job.task, job.method)
    if record is None or record.reason(settings.criterion) is not None:
        return record
    kept = _key(record) in stored or records.has_tensors(job.task, job.method)
    return record if kept else None


def _pool(settings: BuildSettings, out: Path, tasks: Path, workers: int, threads: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")  # a forked child inherits torch's threads and hangs
    return ProcessPoolExecutor(workers, context, initializer=work.begin, initargs=(settings, out, tasks, threads))


def _forget_changed(
    pool: ProcessPoolExecutor, found: dict[Job, Record], built: Built, say: Callable[[str], None]
) -> list[Job]:
    """Take out the records of tasks whose data is another now, so that they are trained again; the jobs so taken out.

    A task whose data cannot be read any more is left out.
    """
    asked = {task: pool.submit(work.data_fingerprint, task) for task in dict.fromkeys(job.task for job in found)}
    changed = []
    for task, future in asked.items():
        try:
            now = future.result()
        except BrokenProcessPool:
            raise
        except Exception as error:
            now = None
            say(built.leave_out(task, error))
        for job in [job for job, record in found.items() if job.task == task and record.data_fingerprint != now]:
            del found[job]
            if now is not None:
                changed.append(job)
                say(f"{task} {job.method}: the data has changed since it was trained; it is trained again")
    return changed


def _store(
    pool: ProcessPoolExecutor,
    kept: Sequence[Job],
    found: Mapping[Job, Record],
    stored: Mapping[Made, str],
    built: Built,
    say: Callable[[str], None],
) -> None:
    """Put into the zoo what is kept and not there yet."""
    there = {job: module_id for job in kept if (module_id := stored.get(_key(found[job]))) is not None}
    waiting = {job: pool.submit(work.store, job) for job in kept if job not in there}
    for job in kept:
        if job in there:
            built.kept.append(there[job])
            continue
        try:
            built.kept.append(waiting[job].result())
        except BrokenProcessPool:
            raise
        except Exception as error:
            # Whatever it is, it must not keep the others out of the zoo nor the report from being written.
            built.leave_out(f"{job.task} {job.method}", error)
            say(f"{job.task} {job.method} could not be stored: {error}")
        else:
            say(f"stored {built.kept[-1]}")


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
            except BrokenProcessPool:
                raise
            except Exception as error:
                # One task, with broken data or too large for the memory, must not end a night of training.
                say(built.leave_out(f"{job.task} {job.method}", error))
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
