"""The molecules of the corpus that the registry's generators ask about: read from the recipe's sources, once for all of them."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from athanor.artifacts.run import StageError, StageRun
from athanor.data.documents import Document, is_utf8
from athanor.data.sources.reading import reading
from athanor.data.split import is_held_out
from athanor.data.template import Template

MOLECULES_FILE = "molecules.jsonl"


def write_corpus(stage: StageRun, path: Path) -> dict[str, int]:
    """Write the molecules of `online.problems.corpus` down, and say what became of the records.

    A molecule is held out where pretraining or fine-tuning hold its document out. Raises StageError where RDKit reads none.
    """
    from athanor.rl.tasks.corpus import Found, gather, write_molecules  # RDKit, which other recipes need not have

    counts: Counter[str] = Counter(molecules_records=0, molecules_missing_field=0)

    def records() -> Iterator[Found]:
        for name, fields in sorted(stage.recipe.online.problems.corpus.items()):
            source, data = stage.recipe.data.sources[name], stage.recipe.data
            text, entity = Template(source.template), Template(source.entity)
            smiles, iupac = Template(fields.smiles), Template(fields.name)
            with reading(stage, source) as read:
                for record in read.opened.records:
                    counts["molecules_records"] += 1
                    read.progress(counts["molecules_records"])
                    written = smiles.fill(record.fields)
                    if written is None:
                        counts["molecules_missing_field"] += 1
                        continue
                    document = Document(record.id, text.fill(record.fields) or record.id, entity.fill(record.fields) or "")
                    told = is_utf8(document.text + document.entity)
                    held_out = told and is_held_out(document, data.held_out_fraction, data.split_seed)
                    yield Found(written, iupac.fill(record.fields) or "", held_out)

    found = gather(records())
    if not found.molecules:
        told = ", ".join(f"{count} {name.removeprefix('molecules_')}" for name, count in (counts | found.counters()).items())
        raise StageError(f"online.problems.corpus: no molecule ({told}); mend smiles, a template of the source's fields")
    write_molecules(path, found.molecules)
    return {**counts, **found.counters()}
