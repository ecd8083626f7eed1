"""Parts of `make.py`: folders in which a run goes on. Here the names of commit 350c810 are right, and no others."""

from __future__ import annotations

import shutil
import signal
import sys
from typing import Any

from . import relocate, tiny
from .common import (
    DEVICE,
    HERE,
    MODELS,
    copy_without_pictures,
    emptied,
    leave_by_interruption,
    tonno,
    workplace,
    write_json,
)
from .digest import read_json, rows_of

# --- cohorts

COHORT = ["--method", "tonno", "--method", "matched-cam", *DEVICE]


def cohort() -> None:
    """A finished folder, the same interrupted in its second case, and what `settings.json` hashes."""
    from tonno_core import workflow

    target = emptied(HERE / "cohort")
    words = ["reconstruct", "data/cohort.csv", "--model", "models/calibrated", *COHORT]
    with workplace() as folder:
        tonno(*words, "--output", "finished")
        draw, drawn = workflow.write_overview, []

        def interrupted(*arguments: Any, **options: Any) -> None:
            if drawn:
                raise KeyboardInterrupt
            drawn.append(1)
            draw(*arguments, **options)

        workflow.write_overview = interrupted
        leave_by_interruption(lambda: tonno(*words, "--output", "interrupted"))
        for name in ("finished", "interrupted"):
            copy_without_pictures(folder / name, target / name)
        volumes = [folder.resolve() / f"data/{n}.nii.gz" for n in (0, 1, 2)]
        hashed = {read_json(report)["run"] for report in target.rglob("report.json")}
        rule = {relocate.cohort(target / name, volumes, version="0.1.0") for name in ("finished", "interrupted")}
        assert hashed == rule, "the rule in relocate.py is not that of this commit"
        write_json("cohort.json", {
            "words": COHORT,
            "volumes": ["data/0.nii.gz", "data/1.nii.gz", "data/2.nii.gz"],
            "summary": rows_of((folder / "finished/summary.csv").read_text(encoding="utf-8")),
            "files": sorted(path.relative_to(folder / "finished").as_posix()
                            for path in (folder / "finished").rglob("*") if path.is_file()),
        })  # fmt: skip


# --- evaluations

EVALUATE = ["--method", "tonno", "--method", "matched-cam", "--method", "center", "--stage", 2, "--seed", 5, *DEVICE]


def evaluation() -> None:
    """A folder that was interrupted in its third case, and the tables of an evaluation that was not."""
    from tonno_core.evaluation.folder import ResultsFolder

    words = ["evaluate", "data/study.csv", "--model", "models/calibrated", *EVALUATE]
    with workplace() as folder:
        tonno(*words, "--output", "finished")
        save, saved = ResultsFolder.save, []

        def interrupted(self: ResultsFolder, *arguments: Any) -> None:
            if len(saved) == 2:
                raise KeyboardInterrupt
            saved.append(1)
            save(self, *arguments)

        ResultsFolder.save = interrupted  # type: ignore[method-assign]
        leave_by_interruption(lambda: tonno(*words, "--output", "interrupted"))
        shutil.rmtree(HERE / "evaluation", ignore_errors=True)
        copy_without_pictures(folder / "interrupted", HERE / "evaluation")
        finished = folder / "finished"
        hashed = {read_json(record)["fingerprint"] for record in (HERE / "evaluation").glob("cases/*.json")}
        rows = [[f"data/{n}.nii.gz", n % 2, f"data/{n}-mask.nii.gz" if n % 2 else "", f"p{n}"] for n in range(4)]
        places = [[folder.resolve() / volume, label, mask and folder.resolve() / mask, patient]
                  for volume, label, mask, patient in rows]  # fmt: skip
        rule = {relocate.evaluation(HERE / "evaluation", places, version="0.1.0")}
        assert hashed == rule, "the rule in relocate.py is not that of this commit"
        write_json("evaluation.json", {
            "words": [str(word) for word in EVALUATE],
            "rows": rows,
            "summary": read_json(finished / "summary.json"),
            "results.csv": rows_of((finished / "results.csv").read_text(encoding="utf-8")),
            "summary.csv": rows_of((finished / "summary.csv").read_text(encoding="utf-8")),
            "files": sorted(path.relative_to(finished).as_posix() for path in finished.rglob("*") if path.is_file()),
        })  # fmt: skip


# --- training

TRAIN = [
    "--encoder", tiny.NAME, "--slice-size", 32, "--steps", 5, "--epochs", 2, "--volumes-per-batch", 4,
    "--slices-per-volume", 4, "--ema", 0.9, "--seed", 7, "--stage", 3, "--slices", 8, "--directions", 4, *DEVICE,
]  # fmt: skip
AFTER = 4  # steps, of which the second and the fifth end an epoch


def training() -> None:
    """A run that was interrupted after its fourth step, and the end of one that was not."""
    from tonno_core.training import loop

    words = ["train", "data/unsplit.csv", *TRAIN]
    with workplace() as folder:
        tonno(*words, "--output", "model", "--run", "whole")
        step = loop.Trainer._step

        def interrupted(self: loop.Trainer, number: int, *arguments: Any) -> Any:
            if number == AFTER - 1:
                signal.raise_signal(signal.SIGINT)
            return step(self, number, *arguments)

        loop.Trainer._step = interrupted  # type: ignore[method-assign]
        tonno(*words, "--output", "other", "--run", "run", status=130)
        shutil.rmtree(HERE / "run", ignore_errors=True)
        copy_without_pictures(folder / "run", HERE / "run")
        # The split names its volumes relative to the list's folder or, as here, absolutely.
        split = (HERE / "run/split.csv").read_text(encoding="utf-8").replace(f"{folder}/", "")
        (HERE / "run/split.csv").write_text(split, encoding="utf-8")
        shutil.rmtree(MODELS / "trained", ignore_errors=True)
        shutil.copytree(folder / "model", MODELS / "trained")
        write_json("training.json", {
            "words": [str(word) for word in TRAIN],
            "metrics.csv": rows_of((folder / "whole/metrics.csv").read_text(encoding="utf-8")),
            "split.csv": rows_of(split),
            "files": sorted(path.name for path in (folder / "whole").iterdir()),
        })  # fmt: skip


if __name__ == "__main__":
    globals()[sys.argv[1]]()
